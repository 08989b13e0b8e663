//! The CPU kernels of connectionist temporal classification: a sequence is one task's.

use super::ctc::{Ctc, CtcBackward, Sizes};
use super::rows::{Real, for_tasks, largest, sum_of};
use crate::backend::cpu::CpuCtx;
use crate::backend::cpu::threads::Shared;

/// The states of one sequence.
struct States {
    steps: usize,
    /// The class of each; `None`: an index out of range.
    classes: Vec<Option<usize>>,
    /// Whether a state can follow the one before the last.
    skips: Vec<bool>,
    /// A length or a class was out of range.
    fault: bool,
}

impl States {
    fn new(s: Sizes, targets: &[i32], input: i32, labels: i32, blank: usize) -> States {
        let (steps, count) = (input.clamp(0, s.steps as i32), labels.clamp(0, s.labels as i32));
        let mut fault = steps != input || count != labels;
        let mut classes = vec![Some(blank)];
        for &label in &targets[..count as usize] {
            let class = usize::try_from(label).ok().filter(|&c| c < s.classes);
            fault |= class.is_none();
            classes.extend([class, Some(blank)]);
        }
        let skips = (0..classes.len()).map(|i| i % 2 == 1 && i > 1 && classes[i] != classes[i - 2]).collect();
        States { steps: steps as usize, classes, skips, fault }
    }

    fn len(&self) -> usize {
        self.classes.len()
    }

    /// The log-probabilities of the states in a row `[C]`.
    fn emissions<T: Real>(&self, row: &[T], out: &mut [T]) {
        out.iter_mut().zip(&self.classes).for_each(|(e, class)| *e = class.map_or(T::NEG_INF, |c| row[c]));
    }
}

/// `ln(eᵃ + eᵇ + eᶜ)`; NaN stays.
#[inline(always)]
fn sum<T: Real>(a: T, b: T, c: T) -> T {
    let m = a.or_larger(b).or_larger(c);
    if m == T::NEG_INF {
        return a + b + c;
    }
    m + ((a - m).exp() + (b - m).exp() + (c - m).exp()).ln()
}

/// What a row is told to be relative to.
fn shift<T: Real>(row: &[T]) -> T {
    let m = largest(row);
    if m == T::NEG_INF { T::ZERO } else { m }
}

impl Ctc {
    pub fn run<T: Real>(&self, ctx: &CpuCtx) {
        let s = Sizes::of(ctx.shape(0), ctx.shape(1));
        let (x, targets, inputs, labels) = (ctx.input::<T>(0), ctx.input::<i32>(1), ctx.input::<i32>(2), ctx.input::<i32>(3));
        let (losses, alphas) = (Shared::new(ctx.output::<T>(0)), Shared::new(ctx.output::<T>(1)));
        let (size, blank) = (s.steps * s.states(), ctx.scalars[0].as_i64() as usize);
        for_tasks(s.batch, s.batch * size, |n| {
            let states = States::new(s, &targets[n * s.labels..][..s.labels], inputs[n], labels[n], blank);
            if states.fault {
                ctx.fault();
            }
            // SAFETY: each sequence is one task's.
            let (loss, alpha) = unsafe { (losses.slice(n, 1), alphas.slice(n * size, size)) };
            let likelihood = forward(s, &states, |t| &x[(t * s.batch + n) * s.classes..][..s.classes], alpha);
            loss[0] = match likelihood == T::NEG_INF {
                true if self.zero_infinity => T::ZERO,
                _ => -likelihood,
            };
        });
    }
}

/// Fills α and returns the log-likelihood.
fn forward<'a, T: Real>(s: Sizes, states: &States, row: impl Fn(usize) -> &'a [T], alpha: &mut [T]) -> T {
    let (len, width) = (states.len(), s.states());
    alpha.fill(T::NEG_INF);
    if states.steps == 0 {
        return if len == 1 { T::ZERO } else { T::NEG_INF };
    }
    let mut emissions = vec![T::ZERO; len];
    states.emissions(row(0), &mut emissions);
    let first = len.min(2);
    alpha[..first].copy_from_slice(&emissions[..first]);
    let mut total = 0.0;
    for t in 1..states.steps {
        let (before, here) = alpha[(t - 1) * width..].split_at_mut(width);
        states.emissions(row(t), &mut emissions);
        let m = shift(&before[..len]);
        total += m.wide();
        for i in 0..len {
            let b = if i > 0 { before[i - 1] } else { T::NEG_INF };
            let c = if states.skips[i] { before[i - 2] } else { T::NEG_INF };
            here[i] = sum(before[i], b, c) + emissions[i] - m;
        }
    }
    let end = &alpha[(states.steps - 1) * width..][..len];
    let likelihood = sum(end[len - 1], if len > 1 { end[len - 2] } else { T::NEG_INF }, T::NEG_INF);
    T::of(likelihood.wide() + total)
}

impl CtcBackward {
    pub fn run<T: Real>(&self, ctx: &CpuCtx) {
        let s = Sizes::of(ctx.shape(1), ctx.shape(2));
        let (dl, x, alphas) = (ctx.input::<T>(0), ctx.input::<T>(1), ctx.input::<T>(5));
        let (targets, inputs, labels) = (ctx.input::<i32>(2), ctx.input::<i32>(3), ctx.input::<i32>(4));
        let dx = Shared::new(ctx.output::<T>(0));
        let (size, blank) = (s.steps * s.states(), ctx.scalars[0].as_i64() as usize);
        for_tasks(s.batch, s.batch * s.steps * (s.states() + s.classes), |n| {
            let states = States::new(s, &targets[n * s.labels..][..s.labels], inputs[n], labels[n], blank);
            let row = |t: usize| &x[(t * s.batch + n) * s.classes..][..s.classes];
            // SAFETY: the rows of a sequence are one task's.
            let out = |t: usize| unsafe { dx.slice((t * s.batch + n) * s.classes, s.classes) };
            self.sequence(s, &states, dl[n], row, out, &alphas[n * size..][..size]);
        });
    }

    fn sequence<'a, T: Real>(
        &self,
        s: Sizes,
        states: &States,
        dl: T,
        row: impl Fn(usize) -> &'a [T],
        out: impl Fn(usize) -> &'a mut [T],
        alpha: &[T],
    ) {
        let (len, width) = (states.len(), s.states());
        (states.steps..s.steps).for_each(|t| out(t).fill(T::ZERO));
        let mut beta = vec![T::NEG_INF; len];
        beta[len.saturating_sub(2)..].fill(T::ZERO);
        let (mut next, mut emissions, mut both) = (beta.clone(), beta.clone(), beta.clone());
        for t in (0..states.steps).rev() {
            let (x, dx) = (row(t), out(t));
            both.iter_mut().zip(&alpha[t * width..]).zip(&beta).for_each(|((y, &a), &b)| *y = a + b);
            let m = largest(&both);
            let norm = sum_of(&both, |v| (v - m).exp());
            if m == T::NEG_INF || !(norm > T::ZERO) {
                // Impossible, or a NaN on the way.
                let nothing = self.0.zero_infinity && both.iter().all(|&v| v == T::NEG_INF);
                dx.fill(if nothing { T::ZERO } else { T::of(f64::NAN) });
            } else {
                dx.iter_mut().zip(x).for_each(|(d, &v)| *d = dl * v.exp());
                for (class, &v) in states.classes.iter().zip(&both) {
                    if let Some(c) = *class {
                        dx[c] = dx[c] - dl * ((v - m).exp() / norm);
                    }
                }
            }
            states.emissions(x, &mut emissions);
            beta.iter_mut().zip(&emissions).for_each(|(b, &e)| *b += e);
            let m = shift(&beta);
            for i in 0..len {
                let b = if i + 1 < len { beta[i + 1] } else { T::NEG_INF };
                let c = if i + 2 < len && states.skips[i + 2] { beta[i + 2] } else { T::NEG_INF };
                next[i] = sum(beta[i], b, c) - m;
            }
            std::mem::swap(&mut beta, &mut next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::ops::rows::testing::{close, cpu, gpu, numbers};

    const SIZES: Sizes = Sizes { steps: 5, batch: 3, classes: 4, labels: 2 };
    const TARGETS: [f64; 6] = [1.0, 1.0, 3.0, 2.0, 2.0, 0.0];
    const INPUTS: [f64; 3] = [5.0, 4.0, 3.0];
    const LABELS: [f64; 3] = [2.0, 2.0, 1.0];

    fn log_probabilities() -> Vec<f64> {
        let x = numbers(60, 3);
        let rows = x.chunks(4).flat_map(|r| {
            let total = r.iter().map(|v| v.exp()).sum::<f64>().ln();
            r.iter().map(move |v| v - total)
        });
        rows.collect()
    }

    /// What a path of classes says: repeats fall into one, blanks fall out.
    fn said(path: &[usize]) -> Vec<usize> {
        let mut out = Vec::new();
        for (t, &c) in path.iter().enumerate() {
            if c != 0 && (t == 0 || path[t - 1] != c) {
                out.push(c);
            }
        }
        out
    }

    /// Losses and gradients by the definition: all paths.
    fn naive(x: &[f64], dl: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (mut losses, mut dx) = (Vec::new(), vec![0.0; x.len()]);
        for n in 0..3 {
            let steps = INPUTS[n] as usize;
            let wanted: Vec<usize> = TARGETS[n * 2..][..LABELS[n] as usize].iter().map(|&v| v as usize).collect();
            let (mut total, mut posterior) = (0.0, vec![0.0; 20]);
            for code in 0..4usize.pow(steps as u32) {
                let path: Vec<usize> = (0..steps).map(|t| code / 4usize.pow(t as u32) % 4).collect();
                if said(&path) == wanted {
                    let p = (0..steps).map(|t| x[(t * 3 + n) * 4 + path[t]]).sum::<f64>().exp();
                    total += p;
                    (0..steps).for_each(|t| posterior[t * 4 + path[t]] += p);
                }
            }
            losses.push(-total.ln());
            for t in 0..steps {
                for c in 0..4 {
                    let at = (t * 3 + n) * 4 + c;
                    dx[at] = dl[n] * (x[at].exp() - posterior[t * 4 + c] / total);
                }
            }
        }
        (losses, dx)
    }

    #[test]
    fn agrees_with_the_sum_over_all_paths() {
        let (x, dl, op) = (log_probabilities(), numbers(3, 7), Ctc { zero_infinity: false, blank: [0.into()] });
        let (losses, dx) = naive(&x, &dl);
        for (dtype, tol) in [(DType::F32, 1e-5), (DType::F64, 1e-12)] {
            let ids = [(DType::I32, &[3, 2][..], &TARGETS[..]), (DType::I32, &[3], &INPUTS), (DType::I32, &[3], &LABELS)];
            let inputs = [&[(dtype, &[5, 3, 4][..], &x[..])], &ids[..]].concat();
            let (got, fault) = cpu(&op, &inputs).unwrap();
            assert!(!fault);
            close(&got[0], &losses, tol);
            let inputs = [&[(dtype, &[3][..], &dl[..])], &inputs[..], &[(dtype, &[3, 5, 5], &got[1][..])]].concat();
            close(&cpu(&CtcBackward(op.clone()), &inputs).unwrap().0[0], &dx, tol);
        }
    }

    #[test]
    fn lengths_and_labels_out_of_range_are_faults() {
        let (x, op) = (log_probabilities(), Ctc { zero_infinity: true, blank: [0.into()] });
        for (target, input, labels) in [(4.0, 5.0, 2.0), (-1.0, 5.0, 2.0), (1.0, 6.0, 2.0), (1.0, -1.0, 2.0), (1.0, 5.0, 3.0)] {
            let (mut t, mut i, mut l) = (TARGETS, INPUTS, LABELS);
            (t[0], i[0], l[0]) = (target, input, labels);
            let ids = [(DType::I32, &[3, 2][..], &t[..]), (DType::I32, &[3], &i), (DType::I32, &[3], &l)];
            let (_, fault) = cpu(&op, &[&[(DType::F32, &[5, 3, 4][..], &x[..])], &ids[..]].concat()).unwrap();
            assert!(fault, "{target} {input} {labels}");
        }
    }

    #[test]
    fn shaders_are_valid() {
        for zero_infinity in [false, true] {
            let op = Ctc { zero_infinity, blank: [0.into()] };
            let (f, i, s) = (DType::F32, DType::I32, SIZES);
            let inputs = [(f, &[s.steps, s.batch, s.classes][..]), (i, &[s.batch, s.labels]), (i, &[s.batch]), (i, &[s.batch])];
            gpu(&op, &inputs);
            let alpha = [s.batch, s.steps, s.states()];
            gpu(&CtcBackward(op), &[&[(f, &[s.batch][..])], &inputs[..], &[(f, &alpha[..])]].concat());
        }
    }
}

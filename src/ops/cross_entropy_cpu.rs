//! The CPU kernels of cross-entropy.

use super::cross_entropy::{Loss, LossBackward, class_axis};
use super::rows::{Around, COLUMNS, Real, largest, sum_of, sum_of2, walk};
use crate::backend::cpu::CpuCtx;
use crate::backend::cpu::simd::multiversion;
use crate::backend::cpu::threads::Shared;

impl Loss {
    fn constants<'a, T: Real>(&self, ctx: &CpuCtx<'a>, weight: usize, classes: usize) -> Constants<'a, T> {
        let weight = self.weight.then(|| ctx.input::<T>(weight));
        let eps = ctx.scalars[1].as_f64();
        Constants {
            ignore: ctx.scalars[0].as_i64() as i32,
            keep: T::of(1.0 - eps),
            spread: T::of(eps / classes as f64),
            smooth: self.smooth,
            weight,
            total: weight.map_or(T::of(classes as f64), |w| sum_of(w, |v| v)),
        }
    }

    pub fn run<T: Real>(&self, ctx: &CpuCtx) {
        let a = Around::of(ctx.shape(0), class_axis(ctx.shape(0).len()));
        let (x, t) = (ctx.input::<T>(0), ctx.input::<i32>(1));
        let c = &self.constants::<T>(ctx, 2, a.n);
        let [loss, counted, lse] = &[0, 1, 2].map(|i| Shared::new(ctx.output::<T>(i)));
        let finish = |found: bool| {
            if found {
                ctx.fault()
            }
        };
        // SAFETY: each position is one task's.
        let out = |at: usize, n: usize| unsafe { [loss.slice(at, n), counted.slice(at, n), lse.slice(at, n)] };
        walk(
            a,
            |at, rows| {
                let first = at / a.n;
                finish(forward_rows(&x[at..at + rows * a.n], &t[first..first + rows], out(first, rows), a.n, c))
            },
            |at, columns| {
                let first = at / (a.n * a.inner) * a.inner + at % a.inner;
                finish(forward_block(&x[at..], &t[first..first + columns], out(first, columns), a, c))
            },
        );
    }
}

impl LossBackward {
    pub fn run<T: Real>(&self, ctx: &CpuCtx) {
        let a = Around::of(ctx.shape(1), class_axis(ctx.shape(1).len()));
        let (dl, x, t, lse) = (ctx.input::<T>(0), ctx.input::<T>(1), ctx.input::<i32>(2), ctx.input::<T>(3));
        let c = &self.0.constants::<T>(ctx, 4, a.n);
        let dx = &Shared::new(ctx.output::<T>(0));
        walk(
            a,
            |at, rows| {
                let (range, first) = (at..at + rows * a.n, at / a.n);
                let p = first..first + rows;
                // SAFETY: each row is one task's.
                let dx = unsafe { dx.slice(at, rows * a.n) };
                backward_rows(&dl[p.clone()], &x[range], &t[p.clone()], &lse[p], dx, a.n, c)
            },
            |at, columns| {
                let first = at / (a.n * a.inner) * a.inner + at % a.inner;
                let p = first..first + columns;
                backward_block(&dl[p.clone()], &x[at..], &t[p.clone()], &lse[p], dx, at, a, c)
            },
        );
    }
}

/// What the kernels know of all positions.
struct Constants<'a, T> {
    ignore: i32,
    /// 1 - ε.
    keep: T,
    /// ε / C.
    spread: T,
    smooth: bool,
    weight: Option<&'a [T]>,
    /// Σ w.
    total: T,
}

impl<T: Real> Constants<'_, T> {
    /// The class of a position: `None` where it is ignored, an error where it is out of range.
    #[inline(always)]
    fn class(&self, t: i32, n: usize) -> Result<Option<usize>, ()> {
        match t {
            t if t == self.ignore => Ok(None),
            t if t < 0 || t as usize >= n => Err(()),
            t => Ok(Some(t as usize)),
        }
    }

    #[inline(always)]
    fn weight(&self, class: usize) -> T {
        self.weight.map_or(T::ONE, |w| w[class])
    }

    /// The loss of a position from its maximum m, log Σ exp(x - m), its class's logit, and Σ w·x.
    #[inline(always)]
    fn loss(&self, w: T, m: T, shift: T, x: T, weighted: T) -> T {
        let l = w * (shift + (m - x));
        if self.smooth { self.keep * l + self.spread * (self.total * (m + shift) - weighted) } else { l }
    }

    /// The gradient is `a · softmax - c at the class - d · w`: (a, c, d) for a cotangent and the class's weight.
    #[inline(always)]
    fn factors(&self, dl: T, w: T) -> (T, T, T) {
        if self.smooth {
            (dl * (self.keep * w + self.spread * self.total), dl * self.keep * w, dl * self.spread)
        } else {
            (dl * w, dl * w, T::ZERO)
        }
    }
}

multiversion! {
    /// Whether a class was out of range.
    fn forward_rows[T: Real](x: &[T], t: &[i32], out: [&mut [T]; 3], n: usize, c: &Constants<'_, T>) -> bool {
        let mut fault = false;
        let [loss, counted, lse] = out;
        for (r, x) in x.chunks_exact(n).enumerate() {
            let m = largest(x);
            let shift = sum_of(x, |v| (v - m).exp()).ln();
            lse[r] = m + shift;
            let class = c.class(t[r], n);
            fault |= class.is_err();
            (loss[r], counted[r]) = match class {
                Ok(Some(class)) => {
                    let weighted = match c.weight {
                        _ if !c.smooth => T::ZERO,
                        Some(w) => sum_of2(x, w, |x, w| x * w),
                        None => sum_of(x, |v| v),
                    };
                    let w = c.weight(class);
                    (c.loss(w, m, shift, x[class], weighted), w)
                }
                _ => (T::ZERO, T::ZERO),
            };
        }
        fault
    }
}

multiversion! {
    /// The same for a block of columns; `x` starts at the first one.
    fn forward_block[T: Real](x: &[T], t: &[i32], out: [&mut [T]; 3], a: Around, c: &Constants<'_, T>) -> bool {
        let columns = t.len();
        let row = |k: usize| &x[k * a.inner..][..columns];
        let [mut m, mut s, mut weighted] = [[T::NEG_INF; COLUMNS], [T::ZERO; COLUMNS], [T::ZERO; COLUMNS]];
        for k in 0..a.n {
            m.iter_mut().zip(row(k)).for_each(|(m, &v)| *m = m.or_larger(v));
        }
        for k in 0..a.n {
            s.iter_mut().zip(&m).zip(row(k)).for_each(|((s, &m), &v)| *s += (v - m).exp());
            if c.smooth {
                let w = c.weight(k);
                weighted.iter_mut().zip(row(k)).for_each(|(s, &v)| *s += v * w);
            }
        }
        let mut fault = false;
        let [loss, counted, lse] = out;
        for i in 0..columns {
            let shift = s[i].ln();
            lse[i] = m[i] + shift;
            let class = c.class(t[i], a.n);
            fault |= class.is_err();
            (loss[i], counted[i]) = match class {
                Ok(Some(class)) => {
                    let w = c.weight(class);
                    (c.loss(w, m[i], shift, row(class)[i], weighted[i]), w)
                }
                _ => (T::ZERO, T::ZERO),
            };
        }
        fault
    }
}

multiversion! {
    fn backward_rows[T: Real](dl: &[T], x: &[T], t: &[i32], lse: &[T], dx: &mut [T], n: usize, c: &Constants<'_, T>) {
        for (r, (x, dx)) in x.chunks_exact(n).zip(dx.chunks_exact_mut(n)).enumerate() {
            let Ok(Some(class)) = c.class(t[r], n) else {
                dx.fill(T::ZERO);
                continue;
            };
            let (a, at_class, d) = c.factors(dl[r], c.weight(class));
            let lse = lse[r];
            match c.weight {
                Some(w) if c.smooth => {
                    dx.iter_mut().zip(x).zip(w).for_each(|((dx, &v), &w)| *dx = a * (v - lse).exp() - d * w);
                }
                _ => dx.iter_mut().zip(x).for_each(|(dx, &v)| *dx = a * (v - lse).exp() - d),
            }
            dx[class] = dx[class] - at_class;
        }
    }
}

multiversion! {
    /// The same for a block of columns; `x` starts at the first one, whose place in dx is `at`.
    fn backward_block[T: Real](
        dl: &[T], x: &[T], t: &[i32], lse: &[T], dx: &Shared<T>, at: usize, a: Around, c: &Constants<'_, T>,
    ) {
        let columns = t.len();
        // Factors of the columns; classes past the last one stand for positions without a gradient.
        let mut f = [(T::ZERO, T::ZERO, T::ZERO, usize::MAX); COLUMNS];
        for i in 0..columns {
            if let Ok(Some(class)) = c.class(t[i], a.n) {
                let (a, b, d) = c.factors(dl[i], c.weight(class));
                f[i] = (a, b, d, class);
            }
        }
        for k in 0..a.n {
            let w = c.weight(k);
            // SAFETY: the block is this call's.
            let dx = unsafe { dx.slice(at + k * a.inner, columns) };
            for (((dx, &v), &lse), f) in dx.iter_mut().zip(&x[k * a.inner..][..columns]).zip(lse).zip(&f) {
                let g = f.0 * (v - lse).exp() - f.2 * w;
                let g = if f.3 == k { g - f.1 } else { g };
                *dx = if f.3 == usize::MAX { T::ZERO } else { g };
            }
        }
    }
}

//! The CPU kernels of batch norm.

use super::batch_norm::{BatchNorm, BatchNormBackward, Channels};
use super::rows::{LANES, Real, Shared, for_tasks, sum_of, tree};
use crate::backend::cpu::CpuCtx;
use crate::backend::cpu::simd::multiversion;

// The CPU walks the memory once, in parts. Where a channel's run of neighbours is long, a part is one run. Otherwise it is a block of
// outer elements, all of whose channels × inner columns are summed side by side. The parts are merged in order.

/// Runs from this length on are parts of their own.
const RUN: usize = 16;

/// What is summed of a channel: a pair, and how many elements it is of.
type Pair<T> = (T, T);

/// Elements a part, in rows of the outer axis, for short runs.
fn block_rows(c: &Channels) -> usize {
    ((16 << 10) / (c.channels * c.inner)).max(1)
}

/// Pairs for each channel: `runs` gives the pair of a run (first element, channel), `columns` fills the pairs of a block (first row, rows);
/// `merge` adds a part of so many elements to a total of so many.
fn by_channel<T: Real>(
    c: Channels,
    runs: impl Fn(usize, usize) -> Pair<T> + Sync + Send,
    columns: impl Fn(usize, usize, &mut [Pair<T>]) + Sync + Send,
    merge: impl Fn(&mut Pair<T>, usize, Pair<T>, usize),
) -> Vec<Pair<T>> {
    let zero = (T::ZERO, T::ZERO);
    let mut total = vec![zero; c.channels];
    let mut counts = vec![0; c.channels];
    let mut add = |channel: usize, part: Pair<T>, n: usize| {
        merge(&mut total[channel], counts[channel], part, n);
        counts[channel] += n;
    };
    if c.inner >= RUN {
        let all = c.outer * c.channels;
        let mut parts = vec![zero; all];
        let shared = Shared::new(&mut parts);
        let group = ((16 << 10) / c.inner).max(1);
        for_tasks(all.div_ceil(group), c.numel(), |t| {
            let first = t * group;
            // SAFETY: each part is one task's.
            let parts = unsafe { shared.range(first, group.min(all - first)) };
            parts.iter_mut().enumerate().for_each(|(i, p)| *p = runs((first + i) * c.inner, (first + i) % c.channels));
        });
        parts.iter().enumerate().for_each(|(i, &p)| add(i % c.channels, p, c.inner));
    } else {
        let (width, group) = (c.channels * c.inner, block_rows(&c));
        let blocks = c.outer.div_ceil(group);
        let mut parts = vec![zero; blocks * width];
        let shared = Shared::new(&mut parts);
        for_tasks(blocks, c.numel(), |t| {
            // SAFETY: each block is one task's.
            let parts = unsafe { shared.range(t * width, width) };
            columns(t * group, group.min(c.outer - t * group), parts);
        });
        for (t, block) in parts.chunks_exact(width).enumerate() {
            let n = group.min(c.outer - t * group);
            block.iter().enumerate().for_each(|(i, &p)| add(i / c.inner, p, n));
        }
    }
    total
}

multiversion! {
    /// Mean and sum of squared deviations of a run.
    fn run_stats[T: Real](x: &[T]) -> Pair<T> {
        let mean = sum_of(x, |v| v) / T::of(x.len() as f64);
        (mean, sum_of(x, |v| (v - mean) * (v - mean)))
    }
}

multiversion! {
    /// The same of each column of a block.
    fn column_stats[T: Real](x: &[T], width: usize, out: &mut [Pair<T>]) {
        let scale = T::ONE / T::of((x.len() / width) as f64);
        out.fill((T::ZERO, T::ZERO));
        for row in x.chunks_exact(width) {
            out.iter_mut().zip(row).for_each(|(p, &v)| p.0 += v);
        }
        out.iter_mut().for_each(|p| p.0 *= scale);
        for row in x.chunks_exact(width) {
            out.iter_mut().zip(row).for_each(|(p, &v)| p.1 += (v - p.0) * (v - p.0));
        }
    }
}

/// Merges mean and squared deviations of two parts (Chan, Golub, LeVeque, 1983).
fn merge_stats<T: Real>(a: &mut Pair<T>, n: usize, b: Pair<T>, m: usize) {
    let (n, m) = (T::of(n as f64), T::of(m as f64));
    let d = b.0 - a.0;
    a.0 += d * (m / (n + m));
    a.1 += b.1 + d * d * (n * m / (n + m));
}

multiversion! {
    /// Σ dy and Σ dy·(x - mean) of a run.
    fn run_sums[T: Real](dy: &[T], x: &[T], mean: T) -> Pair<T> {
        let (mut a, mut b) = ([T::ZERO; LANES], [T::ZERO; LANES]);
        let ((dyc, dyr), (xc, xr)) = (dy.as_chunks::<LANES>(), x.as_chunks::<LANES>());
        for (d, v) in dyc.iter().zip(xc) {
            for i in 0..LANES {
                a[i] += d[i];
                b[i] += d[i] * (v[i] - mean);
            }
        }
        for (i, (&d, &v)) in dyr.iter().zip(xr).enumerate() {
            a[i] += d;
            b[i] += d * (v - mean);
        }
        (tree(a), tree(b))
    }
}

multiversion! {
    /// The same of each column of a block; `mean` is spread over the columns.
    fn column_sums[T: Real](dy: &[T], x: &[T], mean: &[T], out: &mut [Pair<T>]) {
        let width = mean.len();
        out.fill((T::ZERO, T::ZERO));
        for (dy, x) in dy.chunks_exact(width).zip(x.chunks_exact(width)) {
            for (((p, &d), &v), &m) in out.iter_mut().zip(dy).zip(x).zip(mean) {
                p.0 += d;
                p.1 += d * (v - m);
            }
        }
    }
}

/// Calls `run(first element, channel)` for each long run, or `row(first element)` for each outer element, on all threads.
fn each(c: Channels, run: impl Fn(usize, usize) + Sync + Send, row: impl Fn(usize) + Sync + Send) {
    let (len, all) = if c.inner >= RUN { (c.inner, c.outer * c.channels) } else { (c.channels * c.inner, c.outer) };
    let group = ((16 << 10) / len).max(1);
    for_tasks(all.div_ceil(group), c.numel(), |t| {
        for i in t * group..all.min((t + 1) * group) {
            if c.inner >= RUN { run(i * len, i % c.channels) } else { row(i * len) }
        }
    });
}

/// A value a channel, repeated for each of its inner elements.
fn spread<T: Copy>(values: &[T], inner: usize) -> Vec<T> {
    values.iter().flat_map(|&v| std::iter::repeat_n(v, inner)).collect()
}

multiversion! {
    /// y = (x - mean)·a + b with one of each for all.
    fn apply_run[T: Real](x: &[T], y: &mut [T], mean: T, a: T, b: T) {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = (x - mean) * a + b);
    }
}

multiversion! {
    /// The same with one of each for each element.
    fn apply_row[T: Real](x: &[T], y: &mut [T], mean: &[T], a: &[T], b: &[T]) {
        for ((((y, &x), &m), &a), &b) in y.iter_mut().zip(x).zip(mean).zip(a).zip(b) {
            *y = (x - m) * a + b;
        }
    }
}

multiversion! {
    /// dx = a·(dy - g - (x - mean)·h) with one of each for all.
    fn back_run[T: Real](dy: &[T], x: &[T], dx: &mut [T], mean: T, a: T, g: T, h: T) {
        dx.iter_mut().zip(dy).zip(x).for_each(|((dx, &d), &x)| *dx = a * (d - g - (x - mean) * h));
    }
}

multiversion! {
    /// The same with one of each (mean, a, g, h) for each element.
    fn back_row[T: Real](dy: &[T], x: &[T], dx: &mut [T], f: &[[T; 4]]) {
        for (((dx, &d), &x), f) in dx.iter_mut().zip(dy).zip(x).zip(f) {
            *dx = f[1] * (d - f[2] - (x - f[0]) * f[3]);
        }
    }
}

impl BatchNorm {
    pub fn run<T: Real>(&self, ctx: &CpuCtx) {
        let c = Channels::from(ctx.shape(0));
        if c.channels == 0 {
            return;
        }
        let x = ctx.input::<T>(0);
        let width = c.channels * c.inner;
        let stats = by_channel(
            c,
            |at, _| run_stats(&x[at..at + c.inner]),
            |row, rows, out: &mut [Pair<T>]| column_stats(&x[row * width..(row + rows) * width], width, out),
            merge_stats,
        );
        let (mean, var) = (ctx.output::<T>(1), ctx.output::<T>(2));
        let eps = T::of(ctx.scalars[0].as_f64());
        let (mut a, mut b) = (vec![T::ONE; c.channels], vec![T::ZERO; c.channels]);
        if self.weight {
            a.copy_from_slice(ctx.input(1));
        }
        if self.bias {
            b.copy_from_slice(ctx.input(1 + self.weight as usize));
        }
        for i in 0..c.channels {
            mean[i] = stats[i].0;
            var[i] = stats[i].1 / T::of(c.count() as f64);
            a[i] *= T::ONE / (var[i] + eps).sqrt();
        }
        let y = &Shared::new(ctx.output::<T>(0));
        let (means, scales, shifts) =
            if c.inner < RUN { (spread(mean, c.inner), spread(&a, c.inner), spread(&b, c.inner)) } else { Default::default() };
        each(
            c,
            // SAFETY: each run or row is written once.
            |at, i| apply_run(&x[at..at + c.inner], unsafe { y.range(at, c.inner) }, mean[i], a[i], b[i]),
            |at| apply_row(&x[at..at + width], unsafe { y.range(at, width) }, &means, &scales, &shifts),
        );
    }
}

impl BatchNormBackward {
    pub fn run<T: Real>(&self, ctx: &CpuCtx) {
        let c = Channels::from(ctx.shape(1));
        if c.channels == 0 {
            return;
        }
        let (dy, x, mean, var) = (ctx.input::<T>(0), ctx.input::<T>(1), ctx.input::<T>(2), ctx.input::<T>(3));
        let width = c.channels * c.inner;
        let means = if c.inner < RUN { spread(mean, c.inner) } else { Vec::new() };
        let sums = by_channel(
            c,
            |at, i| run_sums(&dy[at..at + c.inner], &x[at..at + c.inner], mean[i]),
            |row, rows, out: &mut [Pair<T>]| {
                let range = row * width..(row + rows) * width;
                column_sums(&dy[range.clone()], &x[range], &means, out)
            },
            |a, _, b, _| {
                a.0 += b.0;
                a.1 += b.1;
            },
        );
        let eps = T::of(ctx.scalars[0].as_f64());
        let rstd: Vec<T> = var.iter().map(|&v| T::ONE / (v + eps).sqrt()).collect();
        let mut out = 0;
        if self.dx {
            out = 1;
            let dx = &Shared::new(ctx.output::<T>(0));
            let n = T::ONE / T::of(c.count() as f64);
            let f: Vec<[T; 4]> = (0..c.channels)
                .map(|i| {
                    let w = if self.weight { ctx.input::<T>(4)[i] } else { T::ONE };
                    [mean[i], w * rstd[i], sums[i].0 * n, sums[i].1 * rstd[i] * rstd[i] * n]
                })
                .collect();
            let spread_f = if c.inner < RUN { spread(&f, c.inner) } else { Vec::new() };
            each(
                c,
                |at, i| {
                    let [m, a, g, h] = f[i];
                    // SAFETY: each run or row is written once.
                    back_run(&dy[at..at + c.inner], &x[at..at + c.inner], unsafe { dx.range(at, c.inner) }, m, a, g, h)
                },
                |at| back_row(&dy[at..at + width], &x[at..at + width], unsafe { dx.range(at, width) }, &spread_f),
            );
        }
        if self.dw {
            let dw = ctx.output::<T>(out);
            out += 1;
            (0..c.channels).for_each(|i| dw[i] = sums[i].1 * rstd[i]);
        }
        if self.db {
            let db = ctx.output::<T>(out);
            (0..c.channels).for_each(|i| db[i] = sums[i].0);
        }
    }
}

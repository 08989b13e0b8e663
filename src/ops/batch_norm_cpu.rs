//! The CPU kernels of batch norm.

use super::batch_norm::{BatchNorm, BatchNormBackward, Channels};
use super::rows::{LANES, Real, for_tasks, sum_of, tree};
use crate::backend::cpu::CpuCtx;
use crate::backend::cpu::simd::multiversion;
use crate::backend::cpu::threads::Shared;

// The CPU walks the memory once, in parts. Where a channel's run of neighbours is long, a part is one run. Otherwise it is a block of
// outer elements, all of whose channels × inner columns are summed side by side. The parts are merged in order.

/// Runs from this length on are parts of their own.
const RUN: usize = 16;

/// Two sums of a run or a column.
type Pair<T> = (T, T);

/// Elements a part, in rows of the outer axis, for short runs: enough to do, and not many parts.
fn block_rows(c: &Channels) -> usize {
    ((16 << 10) / (c.channels * c.inner)).max(c.outer.div_ceil(64)).max(1)
}

/// Adds a part of `m` elements a column to totals of `n`: first sums, second sums.
type Merge<T> = fn(&mut [T], &mut [T], usize, &[T], &[T], usize);

/// The two sums for each channel: `run` gives those of a run (first element, channel), `columns` fills those of a block (first row, rows).
fn by_channel<T: Real>(
    c: Channels,
    run: impl Fn(usize, usize) -> Pair<T> + Sync + Send,
    columns: impl Fn(usize, usize, &mut [T], &mut [T]) + Sync + Send,
    merge: Merge<T>,
) -> (Vec<T>, Vec<T>) {
    let long = c.inner >= RUN;
    // Parts have as many columns as there are channels (long runs) or channels × inner elements.
    let (width, rows) = if long { (c.channels, 1) } else { (c.channels * c.inner, block_rows(&c)) };
    let count = c.outer.div_ceil(rows);
    let mut parts = vec![T::ZERO; count * width * 2];
    let shared = Shared::new(&mut parts);
    // SAFETY: each part, and each column of it, is one task's.
    let part = |p: usize, column: usize, n: usize| unsafe {
        (shared.slice(2 * p * width + column, n), shared.slice((2 * p + 1) * width + column, n))
    };
    if long {
        let group = ((16 << 10) / c.inner).max(1);
        let all = c.outer * c.channels;
        for_tasks(all.div_ceil(group), c.numel(), |t| {
            for i in t * group..all.min((t + 1) * group) {
                let (a, b) = part(i / c.channels, i % c.channels, 1);
                (a[0], b[0]) = run(i * c.inner, i % c.channels);
            }
        });
    } else {
        for_tasks(count, c.numel(), |t| {
            let (a, b) = part(t, 0, width);
            columns(t * rows, rows.min(c.outer - t * rows), a, b);
        });
    }
    let (mut first, mut second) = (vec![T::ZERO; width], vec![T::ZERO; width]);
    let mut n = 0;
    for (p, part) in parts.chunks_exact(2 * width).enumerate() {
        let m = if long { c.inner } else { rows.min(c.outer - p * rows) };
        let (a, b) = part.split_at(width);
        merge(&mut first, &mut second, n, a, b, m);
        n += m;
    }
    if !long && c.inner > 1 {
        // The columns of a channel.
        let (mut a, mut b) = (vec![T::ZERO; c.channels], vec![T::ZERO; c.channels]);
        for i in 0..c.channels {
            for s in 0..c.inner {
                let (from, to) = (i * c.inner + s..i * c.inner + s + 1, i..i + 1);
                merge(&mut a[to.clone()], &mut b[to], s * n, &first[from.clone()], &second[from], n);
            }
        }
        return (a, b);
    }
    (first, second)
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
    fn column_stats[T: Real](x: &[T], means: &mut [T], squares: &mut [T]) {
        let width = means.len();
        let scale = T::ONE / T::of((x.len() / width) as f64);
        means.fill(T::ZERO);
        squares.fill(T::ZERO);
        for row in x.chunks_exact(width) {
            means.iter_mut().zip(row).for_each(|(m, &v)| *m += v);
        }
        means.iter_mut().for_each(|m| *m *= scale);
        for row in x.chunks_exact(width) {
            squares.iter_mut().zip(means.iter()).zip(row).for_each(|((s, &m), &v)| *s += (v - m) * (v - m));
        }
    }
}

multiversion! {
    /// Merges means and squared deviations (Chan, Golub, LeVeque, 1983).
    fn merge_stats[T: Real](means: &mut [T], squares: &mut [T], n: usize, part_means: &[T], part_squares: &[T], m: usize) {
        let (part, cross) = (m as f64 / (n + m) as f64, n as f64 * m as f64 / (n + m) as f64);
        let (part, cross) = (T::of(part), T::of(cross));
        for (((a, s), &b), &t) in means.iter_mut().zip(squares).zip(part_means).zip(part_squares) {
            let d = b - *a;
            *a += d * part;
            *s += t + d * d * cross;
        }
    }
}

fn merge_sums<T: Real>(a: &mut [T], b: &mut [T], _n: usize, part_a: &[T], part_b: &[T], _m: usize) {
    a.iter_mut().zip(part_a).for_each(|(a, &p)| *a += p);
    b.iter_mut().zip(part_b).for_each(|(b, &p)| *b += p);
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
    fn column_sums[T: Real](dy: &[T], x: &[T], mean: &[T], a: &mut [T], b: &mut [T]) {
        let width = mean.len();
        a.fill(T::ZERO);
        b.fill(T::ZERO);
        for (dy, x) in dy.chunks_exact(width).zip(x.chunks_exact(width)) {
            for ((((a, b), &d), &v), &m) in a.iter_mut().zip(b.iter_mut()).zip(dy).zip(x).zip(mean) {
                *a += d;
                *b += d * (v - m);
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
        let (means, squares) = by_channel(
            c,
            |at, _| run_stats(&x[at..at + c.inner]),
            |row, rows, a: &mut [T], b: &mut [T]| column_stats(&x[row * width..(row + rows) * width], a, b),
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
            mean[i] = means[i];
            var[i] = squares[i] / T::of(c.count() as f64);
            a[i] *= T::ONE / (var[i] + eps).sqrt();
        }
        let y = &Shared::new(ctx.output::<T>(0));
        let (means, scales, shifts) =
            if c.inner < RUN { (spread(mean, c.inner), spread(&a, c.inner), spread(&b, c.inner)) } else { Default::default() };
        each(
            c,
            // SAFETY: each run or row is written once.
            |at, i| apply_run(&x[at..at + c.inner], unsafe { y.slice(at, c.inner) }, mean[i], a[i], b[i]),
            |at| apply_row(&x[at..at + width], unsafe { y.slice(at, width) }, &means, &scales, &shifts),
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
        let (total, dots) = by_channel(
            c,
            |at, i| run_sums(&dy[at..at + c.inner], &x[at..at + c.inner], mean[i]),
            |row, rows, a: &mut [T], b: &mut [T]| {
                let range = row * width..(row + rows) * width;
                column_sums(&dy[range.clone()], &x[range], &means, a, b)
            },
            merge_sums,
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
                    [mean[i], w * rstd[i], total[i] * n, dots[i] * rstd[i] * rstd[i] * n]
                })
                .collect();
            let spread_f = if c.inner < RUN { spread(&f, c.inner) } else { Vec::new() };
            each(
                c,
                |at, i| {
                    let [m, a, g, h] = f[i];
                    // SAFETY: each run or row is written once.
                    back_run(&dy[at..at + c.inner], &x[at..at + c.inner], unsafe { dx.slice(at, c.inner) }, m, a, g, h)
                },
                |at| back_row(&dy[at..at + width], &x[at..at + width], unsafe { dx.slice(at, width) }, &spread_f),
            );
        }
        if self.dw {
            let dw = ctx.output::<T>(out);
            out += 1;
            (0..c.channels).for_each(|i| dw[i] = dots[i] * rstd[i]);
        }
        if self.db {
            let db = ctx.output::<T>(out);
            (0..c.channels).for_each(|i| db[i] = total[i]);
        }
    }
}

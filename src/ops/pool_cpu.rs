//! Pooling on the CPU: a task computes rows of the output.

use super::conv_cpu::inside;
use super::matmul_cpu::Real;
use super::pool::{Geometry, Kind, Pool};
use crate::backend::cpu::CpuCtx;
use crate::backend::cpu::simd::multiversion;
use crate::backend::cpu::threads::{Shared, each_chunk};

/// Elements read below which everything stays on the calling thread, and that a task should read at least.
const TASK: usize = 1 << 14;

/// Calls `f(row, values of the row)` for all rows, on all threads where it is worth it; `cost` is what one row reads.
fn rows<T: Send>(out: &mut [T], width: usize, cost: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if width == 0 {
        return;
    }
    let per_task = (TASK / cost.max(1)).max(1);
    if out.len() / width <= 2 * per_task {
        out.chunks_mut(width).enumerate().for_each(|(r, row)| f(r, row));
    } else {
        each_chunk(out, width, per_task, f);
    }
}

pub(super) fn run<T: Real>(op: &Pool, ctx: &CpuCtx) {
    let w = &op.windows;
    match op.kind {
        Kind::Max => max::<T>(w, ctx.input(0), ctx.output(0), ctx.output(1)),
        Kind::MaxGrad => max_grad::<T>(w, ctx.input(0), ctx.input(1), ctx.output(0)),
        Kind::Take => take::<T>(w, ctx.input(0), ctx.input(1), ctx.output(0)),
        Kind::Avg => avg::<T>(w, ctx.input(0), ctx.output(0)),
        Kind::AvgGrad => avg_grad::<T>(w, ctx.input(0), ctx.output(0)),
    }
}

fn max<T: Real>(w: &Geometry, x: &[T], y: &mut [T], at: &mut [i32]) {
    let ([h, width], [oh, ow]) = (w.size, w.out);
    let (tall, wide) = (w.windows(0), w.windows(1));
    if y.is_empty() {
        return;
    }
    let block = |r0: usize, y: &mut [T], at: &mut [i32]| {
        if !w.adaptive {
            return max_rows(w, x, r0, y, at);
        }
        for ((r, y), at) in (r0..).zip(y.chunks_mut(ow)).zip(at.chunks_mut(ow)) {
            let plane = &x[r / oh * h * width..][..h * width];
            let (top, bottom, _) = tall[r % oh];
            for ((&(left, right, _), y), at) in wide.iter().zip(y).zip(at) {
                (*y, *at) = (T::NEG_INFINITY, -1);
                for i in top..bottom {
                    for j in left..right {
                        (*y, *at) = larger(*y, *at, plane[i * width + j], (i * width + j) as i32);
                    }
                }
            }
        }
    };
    let cost = h * width / oh.max(1) + ow;
    let rows = (TASK / cost).max(1);
    if y.len() / ow <= 2 * rows {
        block(0, y, at);
    } else {
        let at = Shared::new(at);
        // SAFETY: blocks of rows do not overlap.
        each_chunk(y, ow * rows, 1, |t, y| block(t * rows, y, unsafe { at.slice(t * ow * rows, y.len()) }));
    }
}

/// What a further value of a window makes of the maximum so far and its place: the first value wins even where it is -∞, NaN wins always.
#[inline(always)]
#[allow(clippy::eq_op)]
fn larger<T: Real>(y: T, at: i32, v: T, place: i32) -> (T, i32) {
    let take = (v > y) | (v != v) | (at < 0);
    (if take { v } else { y }, if take { place } else { at })
}

/// Takes one tap of a row of windows in: values `step` apart, the first of which has this place.
#[inline(always)]
fn update<T: Real>(y: &mut [T], at: &mut [i32], line: &[T], step: usize, place: i32) {
    const LANES: usize = 16;
    let n = y.len();
    let at = &mut at[..n];
    if n < LANES {
        for k in 0..n {
            (y[k], at[k]) = larger(y[k], at[k], line[k * step], place + (k * step) as i32);
        }
        return;
    }
    let mut k = 0;
    while k < n {
        // Whole vectors, the last one where it ends with the row: to take a value in again changes nothing.
        let first = k.min(n - LANES);
        let (y, at) = (&mut y[first..first + LANES], &mut at[first..first + LANES]);
        let (line, place) = (&line[first * step..(first + LANES - 1) * step + 1], place + (first * step) as i32);
        for l in 0..LANES {
            (y[l], at[l]) = larger(y[l], at[l], line[l * step], place + (l * step) as i32);
        }
        k += LANES;
    }
}

multiversion! {
    /// Rows `r0..` of the maxima of regular windows: tap after tap, a row of outputs at a time.
    fn max_rows[T: Real](w: &Geometry, x: &[T], r0: usize, y: &mut [T], at: &mut [i32]) {
        let ([h, width], [oh, ow]) = (w.size, w.out);
        for ((r, y), at) in (r0..).zip(y.chunks_exact_mut(ow)).zip(at.chunks_exact_mut(ow)) {
            let plane = &x[r / oh * h * width..][..h * width];
            y.fill(T::NEG_INFINITY);
            at.fill(-1);
            for u in 0..w.kernel[0] {
                let i = (r % oh * w.stride[0] + u * w.dilation[0]).wrapping_sub(w.padding[0]);
                if i >= h {
                    continue;
                }
                let line = &plane[i * width..(i + 1) * width];
                for v in 0..w.kernel[1] {
                    // The outputs whose tap lies in the line.
                    let (tap, step) = (v * w.dilation[1], w.stride[1]);
                    let (first, last) = inside(width, ow, step, tap, w.padding[1]);
                    if first >= last {
                        continue;
                    }
                    let from = first * step + tap - w.padding[1];
                    let (y, at, line) = (&mut y[first..last], &mut at[first..last], &line[from..]);
                    let place = (i * width + from) as i32;
                    match step {
                        1 => update(y, at, line, 1, place),
                        2 => update(y, at, line, 2, place),
                        _ => update(y, at, line, step, place),
                    }
                }
            }
        }
    }
}

/// Windows may overlap, so a task owns whole planes and adds in order.
fn max_grad<T: Real>(w: &Geometry, g: &[T], at: &[i32], dx: &mut [T]) {
    let (plane, out) = (w.size[0] * w.size[1], w.out[0] * w.out[1]);
    rows(dx, plane, plane + out, |p, dx| {
        dx.fill(T::ZERO);
        for (&g, &i) in g[p * out..][..out].iter().zip(&at[p * out..][..out]) {
            if let Some(d) = dx.get_mut(i as usize) {
                *d += g;
            }
        }
    });
}

fn take<T: Real>(w: &Geometry, x: &[T], at: &[i32], y: &mut [T]) {
    let (plane, out) = (w.size[0] * w.size[1], w.out[0] * w.out[1]);
    rows(y, out, out, |p, y| {
        let x = &x[p * plane..][..plane];
        for (y, &i) in y.iter_mut().zip(&at[p * out..][..out]) {
            *y = x.get(i as usize).copied().unwrap_or(T::ZERO);
        }
    });
}

fn avg<T: Real>(w: &Geometry, x: &[T], y: &mut [T]) {
    let ([h, width], [oh, ow]) = (w.size, w.out);
    let (tall, wide) = (w.windows(0), w.windows(1));
    rows(y, ow, h * width / oh.max(1) + ow, |r, y| {
        let plane = &x[r / oh * h * width..][..h * width];
        let (top, bottom, rows) = tall[r % oh];
        for (&(left, right, cols), y) in wide.iter().zip(y) {
            let mut sum = T::ZERO;
            for i in top..bottom {
                plane[i * width..(i + 1) * width].get(left..right).unwrap_or(&[]).iter().for_each(|&v| sum += v);
            }
            *y = sum.mul_acc(T::of(1.0 / (rows * cols) as f64), T::ZERO);
        }
    });
}

fn avg_grad<T: Real>(w: &Geometry, g: &[T], dx: &mut [T]) {
    let ([h, width], [oh, ow]) = (w.size, w.out);
    let (tall, wide) = (w.windows(0), w.windows(1));
    // The windows over each row; windows start in ascending order.
    let over: Vec<(usize, usize)> = (0..h)
        .map(|i| {
            let first = tall.iter().position(|&(top, bottom, _)| top <= i && i < bottom).unwrap_or(0);
            let count = tall[first.min(oh)..].iter().take_while(|&&(top, bottom, _)| top <= i && i < bottom).count();
            (first, first + count)
        })
        .collect();
    rows(dx, width, width + oh * ow / h.max(1), |r, dx| {
        let (plane, i) = (r / h, r % h);
        dx.fill(T::ZERO);
        for o in over[i].0..over[i].1 {
            let row = &g[(plane * oh + o) * ow..][..ow];
            for (&(left, right, cols), &g) in wide.iter().zip(row) {
                let share = g.mul_acc(T::of(1.0 / (tall[o].2 * cols) as f64), T::ZERO);
                dx.get_mut(left..right).unwrap_or(&mut []).iter_mut().for_each(|d| *d += share);
            }
        }
    });
}

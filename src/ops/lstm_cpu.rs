//! The steps of an LSTM on the CPU. Sequences of a batch do not see each other, so a task takes some of them through all steps: threads never wait for each
//! other. The weight is packed once for all steps.

use super::conv_cpu::run;
use super::lstm::Sizes;
use super::matmul_cpu::{Mat, Real, product};
use crate::backend::cpu::CpuCtx;
use crate::backend::cpu::micro::{self, Operands, Stride, TileShape};
use crate::backend::cpu::scratch::scratch;
use crate::backend::cpu::simd::multiversion;
use crate::backend::cpu::threads::Shared;
use crate::codegen::math;
use std::ops::{Add, Mul, Sub};

/// f32 or f64, with the functions of the gates.
pub(super) trait Cell: Real + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> {
    /// The tiles that multiply this dtype.
    fn tile() -> Option<TileShape>;
    fn sigmoid(self) -> Self;
    fn tanh(self) -> Self;
}

impl Cell for f32 {
    fn tile() -> Option<TileShape> {
        micro::shape()
    }

    #[inline(always)]
    fn sigmoid(self) -> f32 {
        math::sigmoid(self)
    }

    #[inline(always)]
    fn tanh(self) -> f32 {
        math::tanh(self)
    }
}

impl Cell for f64 {
    fn tile() -> Option<TileShape> {
        None
    }

    #[inline(always)]
    fn sigmoid(self) -> f64 {
        1.0 / (1.0 + (-self).exp())
    }

    #[inline(always)]
    fn tanh(self) -> f64 {
        f64::tanh(self)
    }
}

/// Distance of the steps of packed rows.
const PITCH: usize = 16;

/// A k×n matrix that is multiplied again and again: panels of columns, the last one filled up with zeros.
struct Packed<'a, T> {
    k: usize,
    /// Columns with those that fill up.
    n: usize,
    /// Columns of a panel: a tile's, or all of them.
    columns: usize,
    tile: Option<TileShape>,
    data: &'a [T],
}

/// Columns of panels, and of all.
fn columns<T: Cell>(n: usize) -> (usize, usize) {
    let columns = T::tile().map_or(n, |t| t.columns).max(1);
    (columns, n.next_multiple_of(columns))
}

impl<'a, T: Cell> Packed<'a, T> {
    /// Packs the matrix with element (p, j) at `p · rows + j · cols` of `w`.
    fn new(w: &[T], k: usize, n: usize, rows: usize, cols: usize, data: &'a mut [T]) -> Packed<'a, T> {
        let (columns, padded) = columns::<T>(n);
        data.fill(T::ZERO);
        for j in 0..n {
            let panel = &mut data[j / columns * columns * k..];
            for (p, to) in panel[j % columns..].iter_mut().step_by(columns).take(k).enumerate() {
                *to = w[p * rows + j * cols];
            }
        }
        Packed { k, n: padded, columns, tile: T::tile(), data }
    }

    /// `c (+)= a · self` for `rows` rows of `a`, `stride` apart; those of `c` are `n` apart. `own` is scratch memory for `PITCH · k` elements.
    fn multiply(&self, rows: usize, a: &[T], stride: usize, own: &mut [T], c: &mut [T], add: bool) {
        assert!(a.len() >= (rows - 1) * stride + self.k && c.len() >= rows * self.n && own.len() >= PITCH * self.k);
        let Some(tile) = self.tile else {
            let (m, a) = (Mat::new(c.as_mut_ptr(), self.n as isize, 1), Mat::read(a, stride as isize, 1));
            // SAFETY: all three are as large as the assertion says.
            return unsafe { product(rows, self.n, self.k, m, add, a, Mat::read(self.data, self.n as isize, 1), false) };
        };
        // A tile is there for f32 alone.
        let (own, c) = (own.as_mut_ptr().cast::<f32>(), c.as_mut_ptr().cast::<f32>());
        // SAFETY: as above; rows are at most a tile's.
        unsafe {
            micro::turn(tile, a.as_ptr().cast(), stride as isize, rows, self.k, own, PITCH);
            for j in (0..self.n).step_by(self.columns) {
                let b = self.data[j * self.k..].as_ptr().cast();
                let steps = Stride(self.columns as isize);
                micro::tile(tile, rows, false, Operands { k: self.k, a: own, pitch: PITCH, b, steps, c: c.add(j), stride: self.n, add });
            }
        }
    }
}

/// Sequences of a task.
fn block<T: Cell>(n: usize) -> usize {
    let most = T::tile().map_or(16, |t| t.rows);
    let blocks = n.div_ceil(most);
    // An even number of blocks, where they stay large enough.
    let blocks = if n >= 16 { blocks.next_multiple_of(2) } else { blocks };
    n.div_ceil(blocks.max(1)).max(1)
}

multiversion! {
    /// One sequence's step: gates before their functions become gates, and the states follow.
    fn step[T: Cell](z: &[T], c0: &[T], gates: &mut [T], c: &mut [T], h: &mut [T]) {
        let n = h.len();
        let (z, gates) = (&z[..4 * n], &mut gates[..4 * n]);
        let (zi, rest) = z.split_at(n);
        let (zf, rest) = rest.split_at(n);
        let (zg, zo) = rest.split_at(n);
        let (gi, rest) = gates.split_at_mut(n);
        let (gf, rest) = rest.split_at_mut(n);
        let (gg, go) = rest.split_at_mut(n);
        let (zo, go, c0, c) = (&zo[..n], &mut go[..n], &c0[..n], &mut c[..n]);
        for k in 0..n {
            gi[k] = zi[k].sigmoid();
        }
        for k in 0..n {
            gf[k] = zf[k].sigmoid();
        }
        for k in 0..n {
            gg[k] = zg[k].tanh();
        }
        for k in 0..n {
            go[k] = zo[k].sigmoid();
        }
        for k in 0..n {
            let v = gf[k] * c0[k] + gi[k] * gg[k];
            c[k] = v;
            h[k] = go[k] * v.tanh();
        }
    }
}

multiversion! {
    /// One sequence's step backward: from the gradients of h and c (which becomes that of the c before) to those of the gates before their functions.
    fn step_back[T: Cell](gates: &[T], c: &[T], c0: &[T], dh: &[T], dc: &mut [T], dz: &mut [T]) {
        let n = dc.len();
        let (i, rest) = gates[..4 * n].split_at(n);
        let (f, rest) = rest.split_at(n);
        let (g, o) = rest.split_at(n);
        let (di, rest) = dz[..4 * n].split_at_mut(n);
        let (df, rest) = rest.split_at_mut(n);
        let (dg, d_o) = rest.split_at_mut(n);
        let (o, d_o, c, c0, dh) = (&o[..n], &mut d_o[..n], &c[..n], &c0[..n], &dh[..n]);
        for k in 0..n {
            let t = c[k].tanh();
            let d = dc[k] + dh[k] * o[k] * (T::ONE - t * t);
            di[k] = d * g[k] * (i[k] - i[k] * i[k]);
            df[k] = d * c0[k] * (f[k] - f[k] * f[k]);
            dg[k] = d * i[k] * (T::ONE - g[k] * g[k]);
            d_o[k] = dh[k] * t * (o[k] - o[k] * o[k]);
            dc[k] = d * f[k];
        }
    }
}

pub(super) fn forward<T: Cell>(s: &Sizes, ctx: &CpuCtx) {
    let (x, w, h0, c0) = (ctx.input::<T>(0), ctx.input::<T>(1), ctx.input::<T>(2), ctx.input::<T>(3));
    let (n, hidden, width) = (s.n, s.hidden, 4 * s.hidden);
    if n * hidden == 0 {
        return;
    }
    let h = Shared::new(ctx.output::<T>(0));
    let c = Shared::new(ctx.output::<T>(1));
    let gates = Shared::new(ctx.output::<T>(2));
    let (per, padded) = (block::<T>(n), columns::<T>(width).1);
    scratch(hidden * padded, |data: &mut [T]| {
        let packed = &Packed::new(w, hidden, width, 1, hidden, data);
        run(n.div_ceil(per), (8 * s.steps * n * hidden * hidden) as u64, |t| {
            let (r0, r1) = (t * per, (t * per + per).min(n));
            let rows = r1 - r0;
            scratch(PITCH * hidden + rows * padded, |all: &mut [T]| {
                let (own, z) = all.split_at_mut(PITCH * hidden);
                let mut last = None;
                for at in (0..s.steps).map(|i| s.step(i)) {
                    let first = |t: usize| (t * n + r0) * hidden;
                    // SAFETY: a task's sequences are its own, and the step before is done.
                    let (hs, cs, gates, h1, c1) = unsafe {
                        let before = |all: &Shared<T>, given: &[T]| -> *const T {
                            last.map_or(given[r0 * hidden..].as_ptr(), |t| all.pointer(first(t), rows * hidden).cast_const())
                        };
                        let rows_of = |p: *const T| std::slice::from_raw_parts(p, rows * hidden);
                        (
                            h.slice(first(at), rows * hidden),
                            c.slice(first(at), rows * hidden),
                            gates.slice(4 * first(at), rows * width),
                            rows_of(before(&h, h0)),
                            rows_of(before(&c, c0)),
                        )
                    };
                    for (z, x) in z.chunks_exact_mut(padded).zip(x[4 * first(at)..][..rows * width].chunks_exact(width)) {
                        z[..width].copy_from_slice(x);
                        z[width..].fill(T::ZERO);
                    }
                    packed.multiply(rows, h1, hidden, own, z, true);
                    for r in 0..rows {
                        let part = r * hidden..(r + 1) * hidden;
                        let gates = &mut gates[r * width..(r + 1) * width];
                        step(&z[r * padded..][..width], &c1[part.clone()], gates, &mut cs[part.clone()], &mut hs[part]);
                    }
                    last = Some(at);
                }
            });
        });
    });
}

pub(super) fn backward<T: Cell>(s: &Sizes, ctx: &CpuCtx) {
    let (w, c0, c, gates, dh) = (ctx.input::<T>(1), ctx.input::<T>(3), ctx.input::<T>(4), ctx.input::<T>(5), ctx.input::<T>(6));
    let dc = if ctx.inputs.len() > 7 { Some(ctx.input::<T>(7)) } else { None };
    let (n, hidden, width) = (s.n, s.hidden, 4 * s.hidden);
    if n * hidden == 0 {
        return;
    }
    let dz = Shared::new(ctx.output::<T>(0));
    let (dh0, dc0) = (Shared::new(ctx.output::<T>(1)), Shared::new(ctx.output::<T>(2)));
    let (per, padded) = (block::<T>(n), columns::<T>(hidden).1);
    scratch(width * padded, |data: &mut [T]| {
        let packed = &Packed::new(w, width, hidden, hidden, 1, data);
        run(n.div_ceil(per), (8 * s.steps * n * hidden * hidden) as u64, |t| {
            let (r0, r1) = (t * per, (t * per + per).min(n));
            let rows = r1 - r0;
            // SAFETY: a task's sequences are its own.
            let (dh_first, carried) = unsafe { (dh0.slice(r0 * hidden, rows * hidden), dc0.slice(r0 * hidden, rows * hidden)) };
            carried.fill(T::ZERO);
            scratch(PITCH * width + rows * (padded + hidden), |all: &mut [T]| {
                let (own, rest) = all.split_at_mut(PITCH * width);
                let (back, sums) = rest.split_at_mut(rows * padded);
                back.fill(T::ZERO);
                for i in (0..s.steps).rev() {
                    let at = s.step(i);
                    let first = |t: usize| (t * n + r0) * hidden;
                    let before = if i > 0 { &c[first(s.step(i - 1))..] } else { &c0[r0 * hidden..] };
                    // SAFETY: as above.
                    let dz = unsafe { dz.slice(4 * first(at), rows * width) };
                    for r in 0..rows {
                        let part = r * hidden..(r + 1) * hidden;
                        let here = first(at) + r * hidden..first(at) + (r + 1) * hidden;
                        let sum = &mut sums[part.clone()];
                        sum.iter_mut().zip(&dh[here.clone()]).zip(&back[r * padded..]).for_each(|((s, &d), &b)| *s = d + b);
                        let carried = &mut carried[part.clone()];
                        if let Some(dc) = dc {
                            carried.iter_mut().zip(&dc[here.clone()]).for_each(|(c, &d)| *c += d);
                        }
                        let gates = &gates[4 * here.start..4 * here.end];
                        step_back(gates, &c[here], &before[part], sum, carried, &mut dz[r * width..(r + 1) * width]);
                    }
                    packed.multiply(rows, dz, width, own, back, false);
                }
                for (to, back) in dh_first.chunks_exact_mut(hidden).zip(back.chunks_exact(padded)) {
                    to.copy_from_slice(&back[..hidden]);
                }
            });
        });
    });
}

//! Attention on the CPU: blocks of queries against blocks of keys, whose scores live in cache only.

use super::attention::{Dims, Extra, Sdpa, SdpaBackward};
use super::attention_tiles;
use super::matmul_cpu;
use super::rows::{Real, for_tasks, largest, sum_of, sum_of2};
use crate::backend::cpu::simd::multiversion;
use crate::backend::cpu::threads::Shared;
use crate::backend::cpu::{CpuCtx, micro};
use crate::layout::Layout;
use crate::{DType, Result};

/// Queries and keys of a block.
const BQ: usize = 64;
const BK: usize = 128;

/// A matrix somewhere in memory.
#[derive(Clone, Copy)]
struct Mat<T> {
    ptr: *mut T,
    rows: usize,
    cols: usize,
    rs: isize,
    cs: isize,
}

impl<T> Mat<T> {
    /// A row-major block of memory.
    fn block(data: &mut [T], rows: usize, cols: usize) -> Mat<T> {
        assert!(data.len() >= rows * cols);
        Mat { ptr: data.as_mut_ptr(), rows, cols, rs: cols as isize, cs: 1 }
    }

    /// Rows of `cols` elements, `stride` apart, of a result.
    fn rows(data: &Shared<T>, at: usize, rows: usize, cols: usize, stride: usize) -> Mat<T> {
        let end = if rows * cols > 0 { (rows - 1) * stride + cols } else { 0 };
        Mat { ptr: data.pointer(at, end), rows, cols, rs: stride as isize, cs: 1 }
    }

    /// # Safety
    /// The matrix is valid, its rows are dense, and nothing else touches it.
    unsafe fn fill(self, value: T)
    where
        T: Copy,
    {
        for r in 0..self.rows {
            // SAFETY: as promised.
            unsafe { std::slice::from_raw_parts_mut(self.ptr.offset(r as isize * self.rs), self.cols) }.fill(value);
        }
    }

    /// Rows `at..at + n` of the matrix of a batch and head. The tensor is of rank 4.
    fn of(data: &[T], l: &Layout, b: usize, h: usize, at: usize, n: usize) -> Mat<T> {
        let s = &l.strides;
        let offset = l.offset as isize + b as isize * s[0] + h as isize * s[1] + at as isize * s[2];
        debug_assert!(n == 0 || l.shape[3] == 0 || (0..data.len() as isize).contains(&offset));
        // SAFETY: the layout lies within the buffer.
        Mat { ptr: unsafe { data.as_ptr().offset(offset) } as *mut T, rows: n, cols: l.shape[3], rs: s[2], cs: s[3] }
    }

    fn t(self) -> Mat<T> {
        Mat { rows: self.cols, cols: self.rows, rs: self.cs, cs: self.rs, ..self }
    }
}

/// c = a · b, or c += that.
///
/// # Safety
/// The matrices are valid; nothing else touches c.
unsafe fn product<T: Real>(c: Mat<T>, add: bool, a: Mat<T>, b: Mat<T>) {
    debug_assert!(a.cols == b.rows && c.rows == a.rows && c.cols == b.cols);
    /// # Safety
    /// As `product`; T and R are one type.
    unsafe fn run<R: matmul_cpu::Real, T>(c: Mat<T>, add: bool, a: Mat<T>, b: Mat<T>) {
        let of = |m: Mat<T>| matmul_cpu::Mat::new(m.ptr.cast::<R>(), m.rs, m.cs);
        // SAFETY: as promised.
        unsafe { matmul_cpu::product(c.rows, c.cols, a.cols, of(c), add, of(a), of(b), false) }
    }
    // SAFETY: as promised; T is f32 or f64.
    unsafe { if size_of::<T>() == 4 { run::<f32, T>(c, add, a, b) } else { run::<f64, T>(c, add, a, b) } }
}

/// What is added to a block of scores.
struct Added<'a, T> {
    /// Position (b, h, i, j) is `offset + …`.
    layout: Option<&'a Layout>,
    bias: &'a [T],
    mask: &'a [u8],
    causal: bool,
    position: usize,
}

impl<'a, T: Real> Added<'a, T> {
    fn new(op: &Sdpa, ctx: &CpuCtx<'a>, input: usize) -> Added<'a, T> {
        let (mut bias, mut mask) = (&[][..], &[][..]);
        match op.extra {
            Extra::Nothing => {}
            Extra::Mask => mask = ctx.strided::<u8>(input),
            Extra::Bias => bias = ctx.strided::<T>(input),
        }
        let layout = (op.extra != Extra::Nothing).then(|| ctx.layout(input));
        Added { layout, bias, mask, causal: op.causal, position: ctx.scalars[1].as_i64().max(0) as usize }
    }

    /// The keys that any of the queries before `end` may see.
    fn keys(&self, end: usize, keys: usize) -> usize {
        if self.causal { keys.min(end.saturating_add(self.position)) } else { keys }
    }

    /// The first query that may see key `k`.
    fn first_query(&self, k: usize) -> usize {
        if self.causal { k.saturating_sub(self.position) } else { 0 }
    }

    /// Adds to the row of scores of query `i` with the keys from `j` on.
    #[inline(always)]
    fn apply(&self, row: &mut [T], b: usize, h: usize, i: usize, j: usize) {
        if let Some(l) = self.layout {
            let s = &l.strides;
            let start = l.offset as isize + b as isize * s[0] + h as isize * s[1] + i as isize * s[2] + j as isize * s[3];
            let step = s[3];
            if !self.mask.is_empty() {
                for (k, v) in row.iter_mut().enumerate() {
                    if self.mask[(start + k as isize * step) as usize] == 0 {
                        *v = T::NEG_INF;
                    }
                }
            } else if step == 1 {
                row.iter_mut().zip(&self.bias[start as usize..]).for_each(|(v, &b)| *v += b);
            } else {
                row.iter_mut().enumerate().for_each(|(k, v)| *v += self.bias[(start + k as isize * step) as usize]);
            }
        }
        if self.causal {
            let seen = (i + self.position + 1).saturating_sub(j).min(row.len());
            row[seen..].fill(T::NEG_INF);
        }
    }
}

multiversion! {
    /// One step of the online softmax: products become scores, and these weights relative to the new maximum m, and what was summed so far is rescaled.
    fn soften[T: Real](s: &mut [T], cols: usize, scale: T, out: &mut [T], m: &mut [T], sum: &mut [T], add: &Added<'_, T>, b: usize, h: usize, i: usize, j: usize) {
        let width = out.len() / m.len();
        for (r, s) in s.chunks_exact_mut(cols).enumerate() {
            s.iter_mut().for_each(|v| *v *= scale);
            add.apply(s, b, h, i + r, j);
            let new = m[r].or_larger(largest(s));
            if new == T::NEG_INF {
                // No key yet; or scores of which none is a number.
                if let Some(&nan) = s.iter().find(|v| v.wide().is_nan()) {
                    sum[r] = nan;
                }
                s.fill(T::ZERO);
                continue;
            }
            s.iter_mut().for_each(|v| *v = (*v - new).exp());
            let factor = (m[r] - new).exp();
            sum[r] = sum[r] * factor + sum_of(s, |v| v);
            if m[r] != new {
                out[r * width..(r + 1) * width].iter_mut().for_each(|v| *v *= factor);
                m[r] = new;
            }
        }
    }
}

multiversion! {
    /// Divides by the sums, and leaves the log-sum-exp.
    fn finish[T: Real](out: &mut [T], lse: &mut [T], m: &[T], sum: &[T]) {
        let width = out.len() / m.len();
        for r in 0..m.len() {
            let empty = m[r] == T::NEG_INF && !sum[r].wide().is_nan();
            lse[r] = if empty { -T::NEG_INF } else { m[r] + sum[r].ln() };
            let scale = if empty { T::ZERO } else { T::ONE / sum[r] };
            out[r * width..(r + 1) * width].iter_mut().for_each(|v| *v *= scale);
        }
    }
}

multiversion! {
    /// Products become scores, and these weights by the saved log-sum-exp.
    fn weigh[T: Real](s: &mut [T], cols: usize, scale: T, lse: &[T], add: &Added<'_, T>, b: usize, h: usize, i: usize, j: usize) {
        for (r, s) in s.chunks_exact_mut(cols).enumerate() {
            s.iter_mut().for_each(|v| *v *= scale);
            add.apply(s, b, h, i + r, j);
            s.iter_mut().for_each(|v| *v = (*v - lse[r]).exp());
        }
    }
}

multiversion! {
    /// dw becomes ds = w · (dw - delta) · scale.
    fn score_gradient[T: Real](w: &[T], dw: &mut [T], cols: usize, delta: &[T], scale: T) {
        for ((w, dw), &d) in w.chunks_exact(cols).zip(dw.chunks_exact_mut(cols)).zip(delta) {
            dw.iter_mut().zip(w).for_each(|(dw, &w)| *dw = w * (*dw - d) * scale);
        }
    }
}

multiversion! {
    /// Σ dout · out of each row.
    fn row_dots[T: Real](a: &[T], b: &[T], width: usize, out: &mut [T]) {
        for ((a, b), o) in a.chunks_exact(width).zip(b.chunks_exact(width)).zip(out) {
            *o = sum_of2(a, b, |a, b| a * b);
        }
    }
}

fn dims(ctx: &CpuCtx) -> Dims {
    Dims::of(ctx.shape(0), ctx.shape(1), ctx.shape(2))
}

pub(super) fn forward(op: &Sdpa, ctx: &CpuCtx) -> Result<()> {
    match ctx.dtype(0) {
        DType::F32 if tiled(op, ctx) => {}
        DType::F32 => forward_as::<f32>(op, ctx),
        DType::F64 => forward_as::<f64>(op, ctx),
        _ => return ctx.unsupported(),
    }
    Ok(())
}

/// The fast way, where it suits the operands.
fn tiled(op: &Sdpa, ctx: &CpuCtx) -> bool {
    let (d, layouts) = (dims(ctx), [0, 1, 2].map(|i| ctx.layout(i)));
    let Some(tile) = micro::shape().filter(|_| op.extra == Extra::Nothing && attention_tiles::suits(&d, layouts)) else { return false };
    let position = ctx.scalars[1].as_i64().max(0) as usize;
    let options = attention_tiles::Options { scale: ctx.scalars[0].as_f64() as f32, causal: op.causal, position };
    let operands = [0, 1, 2].map(|i| (ctx.strided::<f32>(i), layouts[i]));
    let (result, lse) = (Shared::new(ctx.output::<f32>(0)), Shared::new(ctx.output::<f32>(1)));
    attention_tiles::forward(tile, &d, operands, options, &result, &lse);
    true
}

fn forward_as<T: Real>(op: &Sdpa, ctx: &CpuCtx) {
    let d = dims(ctx);
    let [q, k, v] = [0, 1, 2].map(|i| (ctx.strided::<T>(i), ctx.layout(i)));
    let add = &Added::<T>::new(op, ctx, 3);
    let scale = T::of(ctx.scalars[0].as_f64());
    let (result, lse) = (&Shared::new(ctx.output::<T>(0)), &Shared::new(ctx.output::<T>(1)));
    let blocks = d.queries.div_ceil(BQ);
    for_tasks(d.batch * d.heads * blocks, d.batch * d.heads * d.queries * d.keys * 8, |t| {
        let (b, h, i) = (t / blocks / d.heads, t / blocks % d.heads, t % blocks * BQ);
        let rows = BQ.min(d.queries - i);
        // SAFETY: each block of queries is one task's.
        let lse = unsafe { lse.slice((b * d.heads + h) * d.queries + i, rows) };
        let out = &mut vec![T::ZERO; rows * d.value_width][..];
        let (mut m, mut sum) = ([T::NEG_INF; BQ], [T::ZERO; BQ]);
        let (m, sum) = (&mut m[..rows], &mut sum[..rows]);
        let queries = Mat::of(q.0, q.1, b, h, i, rows);
        let mut scores = vec![T::ZERO; rows * BK.min(d.keys)];
        let seen = add.keys(i + rows, d.keys);
        for j in (0..seen).step_by(BK) {
            let cols = BK.min(seen - j);
            let s = Mat::block(&mut scores, rows, cols);
            let keys = Mat::of(k.0, k.1, b, h / d.group(), j, cols);
            let values = Mat::of(v.0, v.1, b, h / d.group(), j, cols);
            // SAFETY: the scores and the output are this task's.
            unsafe { product(s, false, queries, keys.t()) };
            soften(&mut scores[..rows * cols], cols, scale, out, m, sum, add, b, h, i, j);
            unsafe { product(Mat::block(out, rows, d.value_width), true, s, values) };
        }
        finish(out, lse, m, sum);
        if d.value_width > 0 {
            for (r, row) in out.chunks_exact(d.value_width).enumerate() {
                let at = ((b * d.queries + i + r) * d.heads + h) * d.value_width;
                // SAFETY: as above.
                unsafe { result.slice(at, d.value_width) }.copy_from_slice(row);
            }
        }
    });
}

pub(super) fn backward(op: &SdpaBackward, ctx: &CpuCtx) -> Result<()> {
    match ctx.dtype(0) {
        DType::F32 => backward_as::<f32>(op, ctx),
        DType::F64 => backward_as::<f64>(op, ctx),
        _ => return ctx.unsupported(),
    }
    Ok(())
}

/// A task owns a range of keys of one key head. It writes their gradients, and adds to a partial dq of its own, of which there are as many
/// as ranges; with few heads there are several ranges, so that there is work for all threads.
fn backward_as<T: Real>(op: &SdpaBackward, ctx: &CpuCtx) {
    let d = dims(ctx);
    let [q, k, v] = [0, 1, 2].map(|i| (ctx.strided::<T>(i), ctx.layout(i)));
    let [out, lse, dout] = [3, 4, 5].map(|i| ctx.input::<T>(i));
    let add = &Added::<T>::new(&op.forward, ctx, 6);
    let scale = T::of(ctx.scalars[0].as_f64());
    let mut next = 0;
    let [mut dq, dk, dv] = op.needs.map(|on| {
        next += on as usize;
        on.then(|| ctx.output::<T>(next - 1))
    });
    let rows = d.batch * d.heads * d.queries;
    // By batch, query, head: as out and dout lie.
    let mut delta = vec![T::ZERO; rows];
    if d.value_width > 0 {
        row_dots(dout, out, d.value_width, &mut delta);
    }
    let delta = &delta;

    let blocks = d.keys.div_ceil(BK);
    let heads = d.batch * d.kv_heads;
    let ranges = 16usize.div_ceil(heads.max(1)).clamp(1, blocks.max(1));
    let per_range = blocks.div_ceil(ranges).max(1) * BK;
    let size = rows * d.width;
    let mut parts = if dq.is_some() && ranges > 1 { vec![T::ZERO; size * ranges] } else { Vec::new() };
    if let Some(dq) = &mut dq {
        dq.fill(T::ZERO);
    }
    let partial = match (&mut dq, ranges) {
        (None, _) => None,
        (Some(dq), 1) => Some(Shared::new(dq)),
        (Some(_), _) => Some(Shared::new(&mut parts)),
    };
    let (dk, dv, partial) = (dk.map(Shared::new), dv.map(Shared::new), partial.as_ref());
    for_tasks(heads * ranges, rows * d.keys * 8, |t| {
        let (b, g, range) = (t / ranges / d.kv_heads, t / ranges % d.kv_heads, t % ranges);
        let (mut w, mut dw) = (vec![T::ZERO; BQ * BK], vec![T::ZERO; BQ * BK]);
        let mut deltas = [T::ZERO; BQ];
        for j in (range * per_range..d.keys.min((range + 1) * per_range)).step_by(BK) {
            let cols = BK.min(d.keys - j);
            let (keys, values) = (Mat::of(k.0, k.1, b, g, j, cols), Mat::of(v.0, v.1, b, g, j, cols));
            // SAFETY: each block of keys is one task's.
            let own = |t: &Option<Shared<T>>, width: usize| {
                t.as_ref().map(|t| {
                    let at = ((b * d.keys + j) * d.kv_heads + g) * width;
                    let block = Mat::rows(t, at, cols, width, d.kv_heads * width);
                    unsafe { block.fill(T::ZERO) };
                    block
                })
            };
            let (dk, dv) = (own(&dk, d.width), own(&dv, d.value_width));
            for h in g * d.group()..(g + 1) * d.group() {
                for i in (add.first_query(j) / BQ * BQ..d.queries).step_by(BQ) {
                    let n = BQ.min(d.queries - i);
                    let first = (b * d.heads + h) * d.queries + i;
                    let queries = Mat::of(q.0, q.1, b, h, i, n);
                    let at = (b * d.queries + i) * d.heads + h;
                    let back = dout[(at * d.value_width).min(dout.len())..].as_ptr() as *mut T;
                    let back = Mat { ptr: back, rows: n, cols: d.value_width, rs: (d.heads * d.value_width) as isize, cs: 1 };
                    (0..n).for_each(|r| deltas[r] = delta[at + r * d.heads]);
                    let (wm, dwm) = (Mat::block(&mut w, n, cols), Mat::block(&mut dw, n, cols));
                    // SAFETY: w and dw are this task's, as are its blocks of dk and dv and its part of dq.
                    unsafe { product(wm, false, queries, keys.t()) };
                    weigh(&mut w[..n * cols], cols, scale, &lse[first..first + n], add, b, h, i, j);
                    if let Some(dv) = dv {
                        unsafe { product(dv, true, wm.t(), back) };
                    }
                    if dk.is_none() && partial.is_none() {
                        continue;
                    }
                    unsafe { product(dwm, false, back, values.t()) };
                    score_gradient(&w[..n * cols], &mut dw[..n * cols], cols, &deltas[..n], scale);
                    if let Some(dk) = dk {
                        unsafe { product(dk, true, dwm.t(), queries) };
                    }
                    if let Some(p) = partial {
                        let at = if ranges > 1 { range * size } else { 0 } + at * d.width;
                        unsafe { product(Mat::rows(p, at, n, d.width, d.heads * d.width), true, dwm, keys) };
                    }
                }
            }
        }
    });
    if let (Some(dq), true) = (dq, ranges > 1) {
        let out = &Shared::new(dq);
        let chunk = 16 << 10;
        for_tasks(size.div_ceil(chunk), size, |t| {
            let (at, n) = (t * chunk, chunk.min(size - t * chunk));
            // SAFETY: each chunk is one task's.
            let dq = unsafe { out.slice(at, n) };
            parts.chunks_exact(size).for_each(|p| dq.iter_mut().zip(&p[at..at + n]).for_each(|(d, &p)| *d += p));
        });
    }
}

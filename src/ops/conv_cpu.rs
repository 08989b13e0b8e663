//! Convolutions on the CPU: im2col over blocks that fit a cache, then a product. The full im2col of a batch is never built.
//!
//! Work is cut into blocks by shape alone; a block's scratch memory belongs to its thread and is kept for the next call.

use super::conv::Sizes;
use super::matmul_cpu::{Mat, Real, axpy, product};
use crate::backend::cpu::scratch::scratch;
use crate::backend::cpu::threads::{Shared, each};

/// Elements of an im2col block: with the operands about what a second-level cache holds.
const BLOCK: usize = 1 << 17;
/// Multiply-adds below which everything stays on the calling thread.
const SERIAL: u64 = 1 << 17;
/// Tasks that a large call is cut into at least, where its shape allows.
const TASKS: usize = 16;
/// With fewer tasks than this, the products inside them use all threads too (which changes no bit of them).
const FEW: usize = 8;

/// Runs tasks on all threads where the work is worth it.
pub(super) fn run(tasks: usize, flops: u64, f: impl Fn(usize) + Sync) {
    if tasks <= 1 || flops / 2 < SERIAL {
        (0..tasks).for_each(f);
    } else {
        each(tasks, 1, &f);
    }
}

/// The range of output columns `j` whose tap `j·stride + v·dilation − padding` lies inside a row of `width`.
#[inline]
pub(super) fn inside(width: usize, out: usize, stride: usize, tap: usize, padding: usize) -> (usize, usize) {
    let first = padding.saturating_sub(tap).div_ceil(stride).min(out);
    let last = if width + padding > tap { ((width + padding - tap - 1) / stride + 1).min(out) } else { 0 };
    (first, last.max(first))
}

/// One row of im2col: for channel plane `x` and tap (u, v), the values under output pixels `p0..p0+len` of the image.
fn gather_row<T: Real>(s: &Sizes, x: &[T], u: usize, v: usize, p0: usize, out: &mut [T]) {
    let ow = s.oh[1];
    let tap = v * s.dilation[1];
    let (first, last) = inside(s.h[1], ow, s.stride[1], tap, s.padding[1]);
    let mut done = 0;
    while done < out.len() {
        let (i, j0) = ((p0 + done) / ow, (p0 + done) % ow);
        let n = (ow - j0).min(out.len() - done);
        let row = &mut out[done..done + n];
        done += n;
        let y = (i * s.stride[0] + u * s.dilation[0]).wrapping_sub(s.padding[0]);
        if y >= s.h[0] {
            row.fill(T::ZERO);
            continue;
        }
        let line = &x[y * s.h[1]..(y + 1) * s.h[1]];
        let (a, b) = (first.clamp(j0, j0 + n), last.clamp(j0, j0 + n));
        row[..a - j0].fill(T::ZERO);
        row[b - j0..].fill(T::ZERO);
        if a < b {
            let from = a * s.stride[1] + tap - s.padding[1];
            let row = &mut row[a - j0..b - j0];
            if s.stride[1] == 1 {
                row.copy_from_slice(&line[from..from + (b - a)]);
            } else {
                row.iter_mut().zip(line[from..].iter().step_by(s.stride[1])).for_each(|(r, &v)| *r = v);
            }
        }
    }
}

/// The reverse of [`gather_row`]: adds the values back to where they came from.
fn scatter_row<T: Real>(s: &Sizes, x: &mut [T], u: usize, v: usize, p0: usize, row: &[T]) {
    let ow = s.oh[1];
    let tap = v * s.dilation[1];
    let (first, last) = inside(s.h[1], ow, s.stride[1], tap, s.padding[1]);
    let mut done = 0;
    while done < row.len() {
        let (i, j0) = ((p0 + done) / ow, (p0 + done) % ow);
        let n = (ow - j0).min(row.len() - done);
        let part = &row[done..done + n];
        done += n;
        let y = (i * s.stride[0] + u * s.dilation[0]).wrapping_sub(s.padding[0]);
        let (a, b) = (first.clamp(j0, j0 + n), last.clamp(j0, j0 + n));
        if y >= s.h[0] || a >= b {
            continue;
        }
        let from = a * s.stride[1] + tap - s.padding[1];
        let line = &mut x[y * s.h[1] + from..(y + 1) * s.h[1]];
        let part = &part[a - j0..b - j0];
        if s.stride[1] == 1 {
            line.iter_mut().zip(part).for_each(|(l, &v)| *l += v);
        } else {
            line.iter_mut().step_by(s.stride[1]).zip(part).for_each(|(l, &v)| *l += v);
        }
    }
}

/// A block of output pixels: whole images `n0..n1`, or pixels `p0..p1` of the image `n0`.
#[derive(Clone, Copy)]
struct Block {
    n0: usize,
    n1: usize,
    p0: usize,
    p1: usize,
}

impl Block {
    /// Columns of the block's im2col.
    fn width(&self) -> usize {
        (self.n1 - self.n0) * (self.p1 - self.p0)
    }
}

/// Cuts N·P output pixels into blocks of about `width`.
fn blocks(n: usize, pixels: usize, width: usize) -> Vec<Block> {
    if pixels == 0 || n == 0 {
        return Vec::new();
    }
    let mut list = Vec::new();
    if pixels <= width {
        let images = width / pixels;
        for n0 in (0..n).step_by(images) {
            list.push(Block { n0, n1: (n0 + images).min(n), p0: 0, p1: pixels });
        }
    } else {
        // Even blocks, so that none is a sliver.
        let count = pixels.div_ceil(width);
        let width = pixels.div_ceil(count).next_multiple_of(16);
        for n0 in 0..n {
            for p0 in (0..pixels).step_by(width) {
                list.push(Block { n0, n1: n0 + 1, p0, p1: (p0 + width).min(pixels) });
            }
        }
    }
    list
}

/// The width of a block: deep sums get few columns, shallow ones many; never fewer than a product needs to be efficient.
fn block_width(s: &Sizes, depth: usize, images: usize) -> usize {
    let fits = (BLOCK / depth.max(1)).clamp(128, 2048);
    // Enough blocks for all threads, where they stay wide enough.
    let all = images * s.pixels().1;
    fits.min((all / TASKS).max(128)).next_multiple_of(16)
}

/// im2col of channels `c0..c1` of a group over a block: row (c, u, v), column (image, pixel).
fn im2col<T: Real>(s: &Sizes, x: &[T], group: usize, (c0, c1): (usize, usize), b: &Block, col: &mut [T]) {
    let (width, len) = (b.width(), b.p1 - b.p0);
    let plane = s.pixels().0;
    let mut rows = col.chunks_exact_mut(width);
    for c in c0..c1 {
        for u in 0..s.k[0] {
            for v in 0..s.k[1] {
                let Some(row) = rows.next() else { return };
                for (n, part) in (b.n0..b.n1).zip(row.chunks_exact_mut(len)) {
                    let start = ((n * s.groups + group) * s.c + c) * plane;
                    gather_row(s, &x[start..start + plane], u, v, b.p0, part);
                }
            }
        }
    }
}

/// Output channels of a group over a block as an o×width matrix: in place for one image, gathered into `copy` for several.
fn outputs<T: Real>(s: &Sizes, g: &[T], group: usize, b: &Block, copy: &mut [T]) -> Mat<T> {
    let p = s.pixels().1;
    let start = |n: usize| (n * s.groups + group) * s.o * p;
    if b.n1 - b.n0 == 1 {
        return Mat::read(&g[start(b.n0) + b.p0..], p as isize, 1);
    }
    let width = b.width();
    for o in 0..s.o {
        for n in b.n0..b.n1 {
            let from = start(n) + o * p;
            copy[o * width + (n - b.n0) * p..][..p].copy_from_slice(&g[from..from + p]);
        }
    }
    Mat::new(copy.as_mut_ptr(), width as isize, 1)
}

/// Whether the channels of a group are so few that a product makes no sense.
fn is_depthwise(s: &Sizes) -> bool {
    s.c == 1 && s.groups > 1 && s.o <= 4
}

/// `y = conv(x, w)`.
pub(super) fn forward<T: Real>(s: &Sizes, x: &[T], w: &[T], y: &mut [T]) {
    let (plane, p) = s.pixels();
    let depth = s.depth();
    if y.is_empty() {
        return;
    }
    if depth == 0 {
        return y.fill(T::ZERO);
    }
    let out = Shared::new(y);
    if is_depthwise(s) {
        return run(s.n * s.groups, s.flops(), |t| {
            let group = t % s.groups;
            let x = &x[t * plane..(t + 1) * plane];
            for o in 0..s.o {
                // SAFETY: one task an image and group.
                let y = unsafe { out.slice((t * s.o + o) * p, p) };
                let w = &w[(group * s.o + o) * depth..][..depth];
                depthwise(s, x, w, y);
            }
        });
    }
    let weight = |group: usize| Mat::read(&w[group * s.o * depth..], depth as isize, 1);
    let list = blocks(s.n, p, block_width(s, depth, s.n * s.groups));
    let few = list.len() * s.groups < FEW;
    run(list.len() * s.groups, s.flops(), |t| {
        let (group, b) = (t % s.groups, &list[t / s.groups]);
        let (width, one) = (b.width(), b.n1 - b.n0 == 1);
        let place = |n: usize| (n * s.groups + group) * s.o * p;
        if s.is_pointwise() && one {
            let start = (b.n0 * s.groups + group) * s.c * plane + b.p0;
            let image = Mat::read(&x[start..], plane as isize, 1);
            // SAFETY: each task writes its own pixels of its own group.
            unsafe {
                let c = Mat::new(out.pointer(place(b.n0) + b.p0, 1), p as isize, 1);
                return product(s.o, width, depth, c, false, weight(group), image, few);
            }
        }
        scratch(depth * width + if one { 0 } else { s.o * width }, |all: &mut [T]| {
            let (col, copy) = all.split_at_mut(depth * width);
            im2col(s, x, group, (0, s.c), b, col);
            let image = Mat::read(col, width as isize, 1);
            // SAFETY: as above.
            unsafe {
                if one {
                    let c = Mat::new(out.pointer(place(b.n0) + b.p0, 1), p as isize, 1);
                    return product(s.o, width, depth, c, false, weight(group), image, few);
                }
                product(s.o, width, depth, Mat::new(copy.as_mut_ptr(), width as isize, 1), false, weight(group), image, few);
                for n in b.n0..b.n1 {
                    for o in 0..s.o {
                        let from = o * width + (n - b.n0) * p;
                        out.slice(place(n) + o * p, p).copy_from_slice(&copy[from..from + p]);
                    }
                }
            }
        })
    });
}

/// One plane under one kernel.
fn depthwise<T: Real>(s: &Sizes, x: &[T], w: &[T], y: &mut [T]) {
    y.fill(T::ZERO);
    let ow = s.oh[1];
    for u in 0..s.k[0] {
        for (i, row) in y.chunks_exact_mut(ow).enumerate() {
            let at = (i * s.stride[0] + u * s.dilation[0]).wrapping_sub(s.padding[0]);
            if at >= s.h[0] {
                continue;
            }
            let line = &x[at * s.h[1]..(at + 1) * s.h[1]];
            for v in 0..s.k[1] {
                let tap = v * s.dilation[1];
                let (a, b) = inside(s.h[1], ow, s.stride[1], tap, s.padding[1]);
                if a >= b {
                    continue;
                }
                let from = a * s.stride[1] + tap - s.padding[1];
                let weight = w[u * s.k[1] + v];
                if s.stride[1] == 1 {
                    axpy(&mut row[a..b], weight, &line[from..from + (b - a)]);
                } else {
                    row[a..b].iter_mut().zip(line[from..].iter().step_by(s.stride[1])).for_each(|(y, &x)| *y = x.mul_acc(weight, *y));
                }
            }
        }
    }
}

/// The gradient in the input.
pub(super) fn input_grad<T: Real>(s: &Sizes, g: &[T], w: &[T], dx: &mut [T]) {
    let (plane, p) = s.pixels();
    let depth = s.depth();
    if dx.is_empty() {
        return;
    }
    if s.o == 0 || p == 0 {
        return dx.fill(T::ZERO);
    }
    let out = Shared::new(dx);
    if is_depthwise(s) {
        return run(s.n * s.groups, s.flops(), |t| {
            let group = t % s.groups;
            // SAFETY: one task an image and group.
            let dx = unsafe { out.slice(t * plane, plane) };
            dx.fill(T::ZERO);
            for o in 0..s.o {
                depthwise_input_grad(s, &g[(t * s.o + o) * p..][..p], &w[(group * s.o + o) * depth..][..depth], dx);
            }
        });
    }
    // A task owns some channels of some images: whole images where there are many, else parts of the channels.
    let taps = s.taps();
    let images = if p >= 128 { 1 } else { (128 / p).min(s.n.div_ceil(TASKS)).max(1) };
    let sets = s.n.div_ceil(images);
    let splits = (TASKS.div_ceil(sets * s.groups)).min(s.c.div_ceil(8)).max(1);
    let per = s.c.div_ceil(splits);
    let splits = s.c.div_ceil(per);
    let few = sets * s.groups * splits < FEW;
    run(sets * s.groups * splits, s.flops(), |t| {
        let (split, group, set) = (t % splits, t / splits % s.groups, t / splits / s.groups);
        let (c0, c1) = (split * per, (split * per + per).min(s.c));
        let (n0, n1) = (set * images, (set * images + images).min(s.n));
        let rows = (c1 - c0) * taps;
        // The transposed weight of these channels.
        let weight = Mat::read(&w[group * s.o * depth + c0 * taps..], depth as isize, 1).t();
        let place = |n: usize, c: usize| ((n * s.groups + group) * s.c + c) * plane;
        if s.is_pointwise() && n1 - n0 == 1 {
            let image = Mat::read(&g[(n0 * s.groups + group) * s.o * p..], p as isize, 1);
            // SAFETY: a task's channels of its images are its own.
            unsafe {
                let c = Mat::new(out.pointer(place(n0, c0), 1), plane as isize, 1);
                return product(rows, p, s.o, c, false, weight, image, few);
            }
        }
        let whole = Block { n0, n1, p0: 0, p1: p };
        let list = if n1 - n0 > 1 { vec![whole] } else { blocks(1, p, (BLOCK / rows).clamp(128, 2048)) };
        let width = list.iter().map(Block::width).max().unwrap_or(0);
        for n in n0..n1 {
            // SAFETY: as above.
            unsafe { out.slice(place(n, c0), (c1 - c0) * plane) }.fill(T::ZERO);
        }
        scratch((rows + if n1 - n0 == 1 { 0 } else { s.o }) * width, |all: &mut [T]| {
            let (col, copy) = all.split_at_mut(rows * width);
            for b in &list {
                let b = Block { n0, n1, ..*b };
                let image = outputs(s, g, group, &b, copy);
                let wide = b.width();
                // SAFETY: the scratch memory is this task's.
                unsafe { product(rows, wide, s.o, Mat::new(col.as_mut_ptr(), wide as isize, 1), false, weight, image, few) };
                let len = b.p1 - b.p0;
                for (r, row) in col[..rows * wide].chunks_exact(wide).enumerate() {
                    let (c, u, v) = (c0 + r / taps, r % taps / s.k[1], r % s.k[1]);
                    for (n, part) in (b.n0..b.n1).zip(row.chunks_exact(len)) {
                        // SAFETY: as above.
                        let dx = unsafe { out.slice(place(n, c), plane) };
                        scatter_row(s, dx, u, v, b.p0, part);
                    }
                }
            }
        });
    });
}

fn depthwise_input_grad<T: Real>(s: &Sizes, g: &[T], w: &[T], dx: &mut [T]) {
    let ow = s.oh[1];
    for u in 0..s.k[0] {
        for (i, row) in g.chunks_exact(ow).enumerate() {
            let at = (i * s.stride[0] + u * s.dilation[0]).wrapping_sub(s.padding[0]);
            if at >= s.h[0] {
                continue;
            }
            let line = &mut dx[at * s.h[1]..(at + 1) * s.h[1]];
            for v in 0..s.k[1] {
                let tap = v * s.dilation[1];
                let (a, b) = inside(s.h[1], ow, s.stride[1], tap, s.padding[1]);
                if a >= b {
                    continue;
                }
                let from = a * s.stride[1] + tap - s.padding[1];
                let weight = w[u * s.k[1] + v];
                if s.stride[1] == 1 {
                    axpy(&mut line[from..from + (b - a)], weight, &row[a..b]);
                } else {
                    line[from..].iter_mut().step_by(s.stride[1]).zip(&row[a..b]).for_each(|(x, &g)| *x = g.mul_acc(weight, *x));
                }
            }
        }
    }
}

/// The gradient in the weight.
pub(super) fn weight_grad<T: Real>(s: &Sizes, x: &[T], g: &[T], dw: &mut [T]) {
    let (plane, p) = s.pixels();
    let (depth, taps) = (s.depth(), s.taps());
    if dw.is_empty() {
        return;
    }
    if s.n * p == 0 {
        return dw.fill(T::ZERO);
    }
    let out = Shared::new(dw);
    if is_depthwise(s) {
        return run(s.groups, s.flops(), |group| {
            // SAFETY: one task a group.
            let dw = unsafe { out.slice(group * s.o * depth, s.o * depth) };
            dw.fill(T::ZERO);
            for t in (0..s.n).map(|n| n * s.groups + group) {
                for o in 0..s.o {
                    let g = &g[(t * s.o + o) * p..][..p];
                    depthwise_weight_grad(s, &x[t * plane..(t + 1) * plane], g, &mut dw[o * depth..][..depth]);
                }
            }
        });
    }
    // A task owns the weights of some channels; where these are few, images are split too, and the parts summed in order.
    let per = (64usize.div_ceil(taps)).max(s.c.div_ceil(TASKS)).min(s.c);
    let splits = s.c.div_ceil(per);
    let list = blocks(s.n, p, (BLOCK / (per * taps)).clamp(128, 2048));
    let parts = TASKS.div_ceil(s.groups * splits).min(list.len()).min(((1usize << 22) / dw.len()).max(1));
    let per_part = list.len().div_ceil(parts);
    let parts = list.len().div_ceil(per_part);
    let task = |t: usize, out: Shared<T>| {
        let (split, group, part) = (t % splits, t / splits % s.groups, t / splits / s.groups);
        let (c0, c1) = (split * per, (split * per + per).min(s.c));
        let rows = (c1 - c0) * taps;
        let mine = &list[part * per_part..(part * per_part + per_part).min(list.len())];
        let widest = mine.iter().map(Block::width).max().unwrap_or(0);
        scratch((rows + s.o) * widest, |all: &mut [T]| {
            let (col, copy) = all.split_at_mut(rows * widest);
            for (i, b) in mine.iter().enumerate() {
                let width = b.width();
                im2col(s, x, group, (c0, c1), b, &mut col[..rows * width]);
                let grad = outputs(s, g, group, b, copy);
                let image = Mat::read(col, width as isize, 1).t();
                // SAFETY: a task's channels of its part are its own.
                unsafe {
                    let start = ((part * s.groups + group) * s.o * s.c + c0) * taps;
                    let c = Mat::new(out.pointer(start, 1), depth as isize, 1);
                    product(s.o, rows, width, c, i > 0, grad, image, false);
                }
            }
        });
    };
    let tasks = s.groups * splits;
    if parts == 1 {
        return run(tasks, s.flops(), |t| task(t, out));
    }
    let len = dw.len();
    scratch(parts * len, |sums: &mut [T]| {
        let partial = Shared::new(sums);
        run(tasks * parts, s.flops(), |t| task(t, partial));
        dw.copy_from_slice(&sums[..len]);
        for part in sums[len..].chunks_exact(len) {
            dw.iter_mut().zip(part).for_each(|(d, &v)| *d += v);
        }
    });
}

fn depthwise_weight_grad<T: Real>(s: &Sizes, x: &[T], g: &[T], dw: &mut [T]) {
    let ow = s.oh[1];
    for u in 0..s.k[0] {
        for v in 0..s.k[1] {
            let tap = v * s.dilation[1];
            let (a, b) = inside(s.h[1], ow, s.stride[1], tap, s.padding[1]);
            if a >= b {
                continue;
            }
            let from = a * s.stride[1] + tap - s.padding[1];
            let mut sum = T::ZERO;
            for (i, row) in g.chunks_exact(ow).enumerate() {
                let at = (i * s.stride[0] + u * s.dilation[0]).wrapping_sub(s.padding[0]);
                if at >= s.h[0] {
                    continue;
                }
                let line = &x[at * s.h[1] + from..(at + 1) * s.h[1]];
                let mut lanes = [T::ZERO; 16];
                if s.stride[1] == 1 {
                    for (x, g) in line[..b - a].chunks(16).zip(row[a..b].chunks(16)) {
                        for ((l, &x), &g) in lanes.iter_mut().zip(x).zip(g) {
                            *l = x.mul_acc(g, *l);
                        }
                    }
                } else {
                    for (j, (&x, &g)) in line.iter().step_by(s.stride[1]).zip(&row[a..b]).enumerate() {
                        lanes[j % 16] = x.mul_acc(g, lanes[j % 16]);
                    }
                }
                lanes.into_iter().for_each(|l| sum += l);
            }
            dw[u * s.k[1] + v] += sum;
        }
    }
}

/// The whole im2col, which is here the result: `y` [N, C·taps, L].
pub(super) fn unfold<T: Real>(s: &Sizes, x: &[T], y: &mut [T]) {
    let (plane, p) = s.pixels();
    let taps = s.taps();
    if y.is_empty() {
        return;
    }
    let out = Shared::new(y);
    run(s.n * s.c, (s.n * s.c * taps * p) as u64 * 4, |t| {
        for tap in 0..taps {
            // SAFETY: one task a channel.
            let row = unsafe { out.slice((t * taps + tap) * p, p) };
            gather_row(s, &x[t * plane..(t + 1) * plane], tap / s.k[1], tap % s.k[1], 0, row);
        }
    });
}

/// The transpose of [`unfold`].
pub(super) fn fold<T: Real>(s: &Sizes, y: &[T], x: &mut [T]) {
    let (plane, p) = s.pixels();
    let taps = s.taps();
    if x.is_empty() {
        return;
    }
    let out = Shared::new(x);
    run(s.n * s.c, (s.n * s.c * taps * p) as u64 * 4, |t| {
        // SAFETY: one task a channel.
        let image = unsafe { out.slice(t * plane, plane) };
        image.fill(T::ZERO);
        for tap in 0..taps {
            scatter_row(s, image, tap / s.k[1], tap % s.k[1], 0, &y[(t * taps + tap) * p..][..p]);
        }
    });
}

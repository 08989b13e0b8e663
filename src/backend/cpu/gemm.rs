//! Products of matrices in f32 on the tiles of [`micro`]: both factors are packed into panels, and tiles of sums run over them.
//!
//! A sum over k is cut into chunks by k alone, so that a result has the same bits however its rows and columns are cut, and on any number of threads.

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

use super::micro::{self, MAX_COLUMNS, MAX_ROWS, Operands, Packed, Stride, TileShape};
use super::scratch::scratch;
use super::threads::{Shared, count, each};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Steps of k of a chunk at most: a panel of columns stays in the first-level cache.
const DEPTH: usize = 512;
/// Rows of a block that a task multiplies: with [`DEPTH`] they stay in the second-level cache.
const BLOCK: usize = 72;
/// Rows, and columns, that are packed at a time, about.
const PACKED: usize = 2048;
/// Rows up to which a second factor whose rows lie together is read where it lies.
const FEW: usize = 12;

/// A factor: its first element, and the strides of its rows and columns.
#[derive(Clone, Copy)]
pub(crate) struct Factor {
    pub ptr: *const f32,
    pub rs: isize,
    pub cs: isize,
}

impl Factor {
    fn at(self, row: usize, column: usize) -> *const f32 {
        self.ptr.wrapping_offset(row as isize * self.rs + column as isize * self.cs)
    }
}

// SAFETY: matrices that are only read.
unsafe impl Send for Factor {}
unsafe impl Sync for Factor {}

/// Packs `lines` lines of `k` steps into panels of `width` lines: `out[p·width·k + s·width + l] = from[(p·width + l)·line + s·step]`.
///
/// # Safety
/// The lines can be read, and the panels written.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn pack(
    shape: TileShape,
    from: *const f32,
    line: isize,
    step: isize,
    lines: usize,
    k: usize,
    width: usize,
    out: *mut f32,
) {
    // SAFETY: as promised.
    unsafe {
        match (line, step, width) {
            (_, 1, _) => {
                for l in (0..lines).step_by(width) {
                    micro::turn(shape, from.offset(l as isize * line), line, width.min(lines - l), k, out.add(l * k), width);
                }
            }
            // The widths of the tiles: copies of a known size are a few instructions.
            (1, _, 6) => beside::<6>(from, step, lines, k, out),
            (1, _, 14) => beside::<14>(from, step, lines, k, out),
            (1, _, 16) => beside::<16>(from, step, lines, k, out),
            (1, _, 32) => beside::<32>(from, step, lines, k, out),
            _ => {
                for s in 0..k {
                    for l in 0..lines {
                        let to = l / width * width * k + s * width + l % width;
                        *out.add(to) = *from.offset(s as isize * step + l as isize * line);
                    }
                }
            }
        }
    }
}

/// [`pack`] of lines that lie side by side: step after step, so that memory is read in order.
///
/// # Safety
/// As [`pack`].
unsafe fn beside<const WIDTH: usize>(from: *const f32, step: isize, lines: usize, k: usize, out: *mut f32) {
    let whole = lines / WIDTH;
    // SAFETY: as promised.
    unsafe {
        for s in 0..k {
            let from = from.offset(s as isize * step);
            for p in 0..whole {
                std::ptr::copy_nonoverlapping(from.add(p * WIDTH), out.add(p * WIDTH * k + s * WIDTH), WIDTH);
            }
            for l in whole * WIDTH..lines {
                *out.add(whole * WIDTH * k + s * WIDTH + l - whole * WIDTH) = *from.add(l);
            }
        }
    }
}

/// Writes a tile of which only `columns` columns are in the result: `run` computes it, with the place, the stride, and whether it adds.
///
/// # Safety
/// `rows` rows of `columns` elements lie at `c`, `stride` apart.
unsafe fn narrow(rows: usize, columns: usize, c: *mut f32, stride: usize, add: bool, run: impl FnOnce(*mut f32)) {
    let mut sums = [0.0f32; MAX_ROWS * MAX_COLUMNS];
    run(sums.as_mut_ptr());
    for (r, row) in sums.chunks_exact(MAX_COLUMNS).take(rows).enumerate() {
        // SAFETY: as promised.
        let out = unsafe { std::slice::from_raw_parts_mut(c.add(r * stride), columns) };
        if add {
            out.iter_mut().zip(row).for_each(|(o, s)| *o += s);
        } else {
            out.copy_from_slice(&row[..columns]);
        }
    }
}

/// What is handed out in one step of the work: groups of panels to pack, then blocks to multiply, and how many of each are done.
#[derive(Default)]
struct Claims {
    pack: AtomicUsize,
    packed: AtomicUsize,
    multiply: AtomicUsize,
    multiplied: AtomicUsize,
}

/// Waits until `count` reaches `all`. Whoever has claimed a part is at work on it, so that this ends.
fn wait(count: &AtomicUsize, all: usize) {
    let mut turns = 0u32;
    while count.load(Ordering::Acquire) < all {
        turns += 1;
        if turns < 20_000 { std::hint::spin_loop() } else { std::thread::yield_now() }
    }
}

/// The parts of `n` things, as even as steps of `unit` allow, of at most `most` things.
fn parts(n: usize, most: usize, unit: usize) -> usize {
    n.div_ceil(n.div_ceil(most)).div_ceil(unit) * unit
}

/// A product, and how it is cut.
struct Job {
    shape: TileShape,
    m: usize,
    n: usize,
    k: usize,
    c: Shared<f32>,
    stride: usize,
    add: bool,
    a: Factor,
    b: Factor,
    /// Steps of k of a chunk, rows and columns that are packed at a time.
    depth: usize,
    rows: usize,
    columns: usize,
    threads: usize,
}

impl Job {
    /// Columns from j0 on, steps of k from k0 on, rows from i0 on: the order of the work.
    fn steps(&self) -> impl Iterator<Item = [usize; 3]> {
        let all = |n: usize, by: usize| (0..n).step_by(by);
        all(self.n, self.columns)
            .flat_map(move |j0| all(self.k, self.depth).flat_map(move |k0| all(self.m, self.rows).map(move |i0| [j0, k0, i0])))
    }

    /// One thread's share: what it can claim of each step. All that is claimed was claimed by a thread at work, so waiting for it ends, however
    /// many threads there are.
    fn share(&self, claims: &[Claims], packed_a: &Shared<f32>, packed_b: &Shared<f32>) {
        let (mr, nr) = (self.shape.rows, self.shape.columns);
        // Panels that are packed for one claim.
        const GROUP: usize = 8;
        for ([j0, k0, i0], claims) in self.steps().zip(claims) {
            let (m, n, k) = (self.rows.min(self.m - i0), self.columns.min(self.n - j0), self.depth.min(self.k - k0));
            let (panels_a, panels_b) = (m.div_ceil(mr), n.div_ceil(nr));
            let groups_a = panels_a.div_ceil(GROUP);
            let groups = groups_a + if i0 == 0 { panels_b.div_ceil(GROUP) } else { 0 };
            loop {
                let g = claims.pack.fetch_add(1, Ordering::Relaxed);
                if g >= groups {
                    break;
                }
                let (first, panels) = if g < groups_a { (g * GROUP, panels_a) } else { ((g - groups_a) * GROUP, panels_b) };
                let here = GROUP.min(panels - first);
                // SAFETY: the panels' lines are in the matrix, and their places in the scratch memory are their own.
                unsafe {
                    if g < groups_a {
                        let (from, lines) = (self.a.at(i0 + first * mr, k0), (here * mr).min(m - first * mr));
                        pack(self.shape, from, self.a.rs, self.a.cs, lines, k, mr, packed_a.pointer(first * mr * k, here * mr * k));
                    } else {
                        let (from, lines) = (self.b.at(k0, j0 + first * nr), (here * nr).min(n - first * nr));
                        pack(self.shape, from, self.b.cs, self.b.rs, lines, k, nr, packed_b.pointer(first * nr * k, here * nr * k));
                    }
                }
                claims.packed.fetch_add(1, Ordering::Release);
            }
            wait(&claims.packed, groups);
            // Blocks of rows, cut along the columns too where they are few.
            let block = parts(m, BLOCK.div_ceil(mr) * mr, mr);
            let blocks = m.div_ceil(block);
            let wanted = if self.threads == 1 { 1 } else { (4 * self.threads).div_ceil(blocks) };
            let wide = parts(panels_b, panels_b.div_ceil(wanted).max(2), 1);
            let cuts = panels_b.div_ceil(wide);
            loop {
                let t = claims.multiply.fetch_add(1, Ordering::Relaxed);
                if t >= blocks * cuts {
                    break;
                }
                let (i, p) = (t / cuts * block, t % cuts * wide);
                for p in p..(p + wide).min(panels_b) {
                    for r in (i..(i + block).min(m)).step_by(mr) {
                        let rows = mr.min(m - r);
                        self.tile(
                            [i0 + r, j0 + p * nr],
                            rows,
                            k0 > 0,
                            k,
                            packed_a.pointer(r * k, mr * k),
                            packed_b.pointer(p * nr * k, nr * k),
                        );
                    }
                }
                claims.multiplied.fetch_add(1, Ordering::Release);
            }
            // The panels are written anew in the next step.
            wait(&claims.multiplied, blocks * cuts);
        }
    }

    /// A tile of the result at a row and a column.
    fn tile(&self, [i, j]: [usize; 2], rows: usize, more: bool, k: usize, a: *const f32, b: *const f32) {
        let columns = self.shape.columns.min(self.n - j);
        let half = columns <= self.shape.columns / 2;
        let add = self.add || more;
        let c = self.c.pointer(i * self.stride + j, (rows - 1) * self.stride + columns);
        let o = Packed { k, a, b, c, stride: self.stride, add };
        // SAFETY: the panels are packed, and the tile lies in the result, which nothing else touches there.
        unsafe {
            if columns == self.shape.columns {
                return micro::packed(self.shape, rows, false, o);
            }
            narrow(rows, columns, c, self.stride, add, |c| {
                micro::packed(self.shape, rows, half, Packed { c, stride: MAX_COLUMNS, add: false, ..o })
            });
        }
    }
}

/// `c = a · b`, or `c += a · b` where `add`, for an m×k matrix `a` and a k×n matrix `b`; the elements of a row of `c` lie together, and its rows are `stride`
/// apart. On this thread, or (`parallel`) on all.
///
/// # Safety
/// The pointers are valid for these sizes and strides; `c` overlaps neither factor, and nothing else touches it meanwhile. `shape` is of [`micro::shapes`].
/// No size is 0.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn gemm(
    shape: TileShape,
    [m, n, k]: [usize; 3],
    c: *mut f32,
    stride: usize,
    add: bool,
    a: Factor,
    b: Factor,
    parallel: bool,
) {
    let (mr, nr) = (shape.rows, shape.columns);
    // SAFETY: the caller's promise.
    let c = unsafe { Shared::from_raw(c, (m - 1) * stride + n) };
    let depth = parts(k, DEPTH, 1);
    let threads = if parallel { count() } else { 1 };
    let job = Job { shape, m, n, k, c, stride, add, a, b, depth, rows: parts(m, PACKED, mr), columns: parts(n, PACKED, nr), threads };
    if threads == 1 && m <= FEW && b.cs == 1 {
        return few(&job);
    }
    scratch((job.rows + job.columns) * depth, |panels: &mut [f32]| {
        let (a, b) = panels.split_at_mut(job.rows * depth);
        let (a, b) = (Shared::new(a), Shared::new(b));
        let claims: smallvec::SmallVec<[Claims; 4]> = job.steps().map(|_| Claims::default()).collect();
        each(threads, 1, &|_| job.share(&claims, &a, &b));
    });
}

/// The product where packing the second factor would cost more than it saves: its rows lie together, and the first one has few.
fn few(job: &Job) {
    let (mr, nr) = (job.shape.rows, job.shape.columns);
    scratch(job.m.div_ceil(mr) * mr * job.depth, |a: &mut [f32]| {
        for k0 in (0..job.k).step_by(job.depth) {
            let k = job.depth.min(job.k - k0);
            for (p, panel) in a.chunks_exact_mut(mr * k).enumerate().take(job.m.div_ceil(mr)) {
                let (rows, from) = (mr.min(job.m - p * mr), job.a.at(p * mr, k0));
                // SAFETY: these rows are in the matrix.
                unsafe { pack(job.shape, from, job.a.rs, job.a.cs, rows, k, mr, panel.as_mut_ptr()) };
            }
            let add = job.add || k0 > 0;
            for j in (0..job.n).step_by(nr) {
                let columns = nr.min(job.n - j);
                for i in (0..job.m).step_by(mr) {
                    let rows = mr.min(job.m - i);
                    let c = job.c.pointer(i * job.stride + j, (rows - 1) * job.stride + columns);
                    let at = a[i * k..].as_ptr();
                    let o = Operands { k, a: at, pitch: mr, b: job.b.at(k0, j), steps: Stride(job.b.rs), c, stride: job.stride, add };
                    // SAFETY: as in `Job::tile`; whole tiles read only what is in the second factor, and half of one is copied first.
                    unsafe {
                        if columns == nr || columns == nr / 2 {
                            micro::tile(job.shape, rows, columns < nr, o);
                            continue;
                        }
                        scratch(nr * k, |b: &mut [f32]| {
                            pack(job.shape, o.b, 1, job.b.rs, columns, k, nr, b.as_mut_ptr());
                            let o = Packed { k, a: o.a, b: b.as_ptr(), c, stride: MAX_COLUMNS, add: false };
                            narrow(rows, columns, c, job.stride, add, |c| {
                                micro::packed(job.shape, rows, columns <= nr / 2, Packed { c, ..o })
                            });
                        });
                    }
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that repeat late.
    fn noise(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
    }

    #[test]
    fn products_agree_with_loops_for_any_strides() {
        let sizes =
            [[1, 1, 1], [5, 17, 3], [6, 16, 4], [13, 40, 700], [73, 33, 513], [150, 100, 64], [3, 70, 20], [12, 8, 9], [200, 5, 1030]];
        for &shape in micro::shapes() {
            for [m, n, k] in sizes {
                // Rows together, columns together, neither.
                for (way_a, way_b) in [(0, 0), (1, 0), (0, 1), (1, 1), (2, 2), (0, 2)] {
                    let strides = |rows: usize, cols: usize, way: usize| match way {
                        0 => (cols as isize + 3, 1),
                        1 => (1, rows as isize + 2),
                        _ => (2 * cols as isize + 1, 2),
                    };
                    let factor = |rows: usize, cols: usize, way: usize, seed: usize| {
                        let (rs, cs) = strides(rows, cols, way);
                        (noise((rows as isize * rs.abs() + cols as isize * cs.abs()) as usize, seed), rs, cs)
                    };
                    let ((a, ars, acs), (b, brs, bcs)) = (factor(m, k, way_a, 1), factor(k, n, way_b, 2));
                    for (add, parallel) in [(false, false), (true, true), (false, true), (true, false)] {
                        let stride = n + 5;
                        let mut c = vec![0.5f32; m * stride];
                        let (fa, fb) = (Factor { ptr: a.as_ptr(), rs: ars, cs: acs }, Factor { ptr: b.as_ptr(), rs: brs, cs: bcs });
                        unsafe { gemm(shape, [m, n, k], c.as_mut_ptr(), stride, add, fa, fb, parallel) };
                        for i in 0..m {
                            for j in 0..n {
                                let at = |p: usize| {
                                    let x = a[(i as isize * ars + p as isize * acs) as usize] as f64;
                                    x * b[(p as isize * brs + j as isize * bcs) as usize] as f64
                                };
                                let sum = (0..k).map(at).sum::<f64>() + if add { 0.5 } else { 0.0 };
                                let got = c[i * stride + j] as f64;
                                // k roundings of sums of at most k, in f32.
                                let bound = 6e-8 * (k as f64) * (k as f64).sqrt().max(4.0) + 1e-6;
                                assert!((got - sum).abs() < bound, "{shape:?} {m} {n} {k} {way_a}{way_b} {add} at {i} {j}: {got} {sum}");
                            }
                            assert!(c[i * stride + n..(i + 1) * stride].iter().all(|&v| v == 0.5), "wrote beside the result");
                        }
                    }
                }
            }
        }
    }

    /// However it is cut.
    #[test]
    fn threads_do_not_change_a_bit() {
        for &shape in micro::shapes() {
            let [m, n, k] = [190, 2100, 600];
            let (a, b) = (noise(m * k, 3), noise(k * n, 4));
            let (fa, fb) = (Factor { ptr: a.as_ptr(), rs: k as isize, cs: 1 }, Factor { ptr: b.as_ptr(), rs: n as isize, cs: 1 });
            let mut results = Vec::new();
            for parallel in [false, true] {
                let mut c = vec![0.0f32; m * n];
                unsafe { gemm(shape, [m, n, k], c.as_mut_ptr(), n, false, fa, fb, parallel) };
                results.push(c);
            }
            // A row alone takes another way.
            let mut row = vec![0.0f32; n];
            unsafe { gemm(shape, [1, n, k], row.as_mut_ptr(), n, false, fa, fb, false) };
            assert!(results[0] == results[1]);
            assert!(row == results[0][..n]);
        }
    }
}

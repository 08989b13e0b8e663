//! Convolutions in f32 without an im2col, on processors that [`micro`] knows: a tile of outputs multiplies shifted windows of padded planes.
//!
//! Rows of an image are copied into a *plane* with its padding (one plane for each phase of a stride), so that the input of tap (u, v) under
//! consecutive outputs lies at consecutive places: the vectors of the second factor are read where they lie. Outputs are enumerated with the plane's
//! width; the few that fall on padding are computed and dropped. Where they would not be few (small images), the windows of valid outputs are gathered first.
//! Work is cut by shape alone.

use super::conv::Sizes;
use super::conv_cpu::run;
use super::conv_depthwise;
use crate::backend::cpu::micro::{self, MAX_COLUMNS, MAX_ROWS, Operands, Stride, Table, TileShape, Windows};
use crate::backend::cpu::scratch::scratch;
use crate::backend::cpu::simd::multiversion;
use crate::backend::cpu::threads::Shared;

/// Tasks that a large call is cut into at least, where its shape allows.
const TASKS: usize = 16;
/// Elements of the planes of a task, and of the weights that it multiplies in one go: both stay in a second-level cache.
const PLANES: usize = 32 << 10;
const WEIGHTS: usize = 40 << 10;
/// Elements of the windows of a block whose sums are so short that writing them is what counts.
const SHALLOW: usize = 8 << 10;
/// Steps of k between two visits of an output.
const DEPTH: usize = 640;

/// A tap: its plane among the phases, its shift there, and its place in the kernel.
pub(super) struct Tap {
    pub phase: usize,
    pub shift: [usize; 2],
    pub weight: usize,
}

/// Sums over channels and taps at unit steps: `y[to, i, j] = Σ plane(from, tap.phase)[i + tap.shift₀, j + tap.shift₁] · w[to, from, tap]`.
pub(super) struct Job {
    pub n: usize,
    pub groups: usize,
    /// Channels of a group of the source and of the result.
    pub from: usize,
    pub to: usize,
    pub size: [usize; 2],
    /// Position (i, j) of a plane of origin (a, b) is the source's pixel (a + i·step, b + j·step), or 0 outside.
    pub step: [usize; 2],
    pub origins: Vec<[isize; 2]>,
    pub taps: Vec<Tap>,
    /// Positions of the result, and where they go in a channel of the output.
    pub out: [usize; 2],
    pub first: usize,
    pub row: usize,
    pub column: usize,
    /// Elements of a channel of the output.
    pub channel: usize,
    /// The weight's strides along `to`, `from` and the groups.
    pub weight: [usize; 3],
}

impl Job {
    /// The convolution of these sizes.
    pub fn of(s: &Sizes) -> Job {
        let mut origins: Vec<[isize; 2]> = Vec::new();
        let mut taps = Vec::new();
        for u in 0..s.k[0] {
            for v in 0..s.k[1] {
                let at = [u * s.dilation[0], v * s.dilation[1]];
                let origin = [0, 1].map(|a| (at[a] % s.stride[a]) as isize - s.padding[a] as isize);
                let phase = origins.iter().position(|o| *o == origin).unwrap_or_else(|| {
                    origins.push(origin);
                    origins.len() - 1
                });
                taps.push(Tap { phase, shift: [0, 1].map(|a| at[a] / s.stride[a]), weight: u * s.k[1] + v });
            }
        }
        Job {
            n: s.n,
            groups: s.groups,
            from: s.c,
            to: s.o,
            size: s.h,
            step: s.stride,
            origins,
            taps,
            out: s.oh,
            first: 0,
            row: s.oh[1],
            column: 1,
            channel: s.pixels().1,
            weight: [s.depth(), s.taps(), s.o * s.depth()],
        }
    }

    /// The largest shifts.
    pub fn halo(&self) -> [usize; 2] {
        [0, 1].map(|a| self.taps.iter().map(|t| t.shift[a]).max().unwrap_or(0))
    }

    /// Copies plane positions `i0..` of one channel and phase: `plane` holds whole rows of `width`.
    pub fn fill(&self, x: &[f32], origin: [isize; 2], i0: usize, width: usize, plane: &mut [f32]) {
        let step = self.step[1];
        // Positions j with 0 <= origin + j·step < size.
        let before = (-origin[1]).max(0) as usize;
        let first = before.div_ceil(step).min(width);
        let room = self.size[1] as isize - origin[1];
        let last = if room > 0 { (room as usize).div_ceil(step).min(width) } else { 0 }.max(first);
        // All at once: rows are so short that a call for each end of each would take longer.
        plane.fill(0.0);
        for (i, row) in plane.chunks_exact_mut(width).enumerate() {
            let y = origin[0] + ((i0 + i) * self.step[0]) as isize;
            if y < 0 || y >= self.size[0] as isize || first == last {
                continue;
            }
            let from = (y as usize * self.size[1]).wrapping_add_signed(origin[1] + (first * step) as isize);
            let row = &mut row[first..last];
            if step == 1 {
                row.copy_from_slice(&x[from..from + row.len()]);
            } else {
                row.iter_mut().zip(x[from..].iter().step_by(step)).for_each(|(r, &v)| *r = v);
            }
        }
    }

    /// The place of each step of k (channel, tap) for planes of `rows` rows.
    fn table(&self, channels: usize, rows: usize, width: usize) -> Vec<u32> {
        let phases = self.origins.len();
        let place = |c: usize, t: &Tap| ((c * phases + t.phase) * rows + t.shift[0]) * width + t.shift[1];
        (0..channels).flat_map(|c| self.taps.iter().map(move |t| place(c, t) as u32)).collect()
    }
}

/// The weights as panels: by group, chunk of channels, panel; then by step of k, and row.
fn pack(job: &Job, tile: TileShape, w: &[f32], per: usize, rows: usize, packed: &mut [f32]) {
    let taps = job.taps.len();
    let (chunks, panels) = (job.from.div_ceil(per), job.to.div_ceil(rows));
    // Whether the taps of a channel lie together, and the channels too.
    let together = job.taps.iter().enumerate().all(|(k, t)| t.weight == k);
    let joined = together && job.weight[1] == taps;
    let out = Shared::new(packed);
    run(job.groups * chunks * panels, (job.groups * job.from * taps * job.to * 8) as u64, |t| {
        let (panel, chunk, group) = (t % panels, t / panels % chunks, t / panels / chunks);
        let (c0, c1) = (chunk * per, (chunk * per + per).min(job.from));
        let (r0, r1) = (panel * rows, (panel * rows + rows).min(job.to));
        let (lines, start) = (r1 - r0, (group * job.from * job.to + c0 * job.to + (c1 - c0) * r0) * taps);
        // SAFETY: one task a panel.
        let part = unsafe { out.slice(start, (c1 - c0) * taps * lines) };
        let w = &w[group * job.weight[2] + r0 * job.weight[0]..];
        let turn = |c: usize, len: usize, to: &mut [f32]| {
            let from = &w[c * job.weight[1]..][..(lines - 1) * job.weight[0] + len];
            assert!(to.len() == len * lines);
            // SAFETY: the rows lie in the weight, and `to` has a column of them for each step.
            unsafe { micro::turn(tile, from.as_ptr(), job.weight[0] as isize, lines, len, to.as_mut_ptr(), lines) };
        };
        if joined {
            return turn(c0, (c1 - c0) * taps, part);
        }
        for (c, part) in (c0..c1).zip(part.chunks_exact_mut(taps * lines)) {
            if together && taps > 1 {
                turn(c, taps, part);
                continue;
            }
            let w = &w[c * job.weight[1]..];
            for (tap, row) in job.taps.iter().zip(part.chunks_exact_mut(lines)) {
                row.iter_mut().zip(w[tap.weight..].iter().step_by(job.weight[0])).for_each(|(to, &v)| *to = v);
            }
        }
    });
}

/// Outputs that lie together: where their windows begin in the planes, how many they are, and their column in the tile.
struct Segment {
    from: usize,
    len: usize,
    at: usize,
}

/// The same in the output: their place in a channel of an image, counted from the first of the block.
struct Run {
    len: usize,
    at: usize,
    to: usize,
    image: usize,
}

/// Columns of a tile.
struct Column {
    half: bool,
    segments: Vec<Segment>,
    runs: Vec<Run>,
}

/// How a job is cut: decided by shape alone.
struct Cuts {
    tile: TileShape,
    /// Channels of a chunk.
    per: usize,
    /// Rows of a panel of weights.
    rows: usize,
    /// Windows are gathered.
    gathered: bool,
    /// Lines of a block, or whole images.
    lines: usize,
    images: usize,
    /// Elements of a line of a plane, of a plane, of the planes of an image.
    width: usize,
    plane: usize,
    image: usize,
}

impl Cuts {
    fn new(job: &Job, tile: TileShape) -> Cuts {
        let (taps, [hi, hj], [oh, ow]) = (job.taps.len(), job.halo(), job.out);
        let (width, phases, half) = (ow + hj, job.origins.len(), tile.columns / 2);
        let per = (DEPTH / taps).clamp(1, job.from);
        let rows = job.to.div_ceil(job.to.div_ceil(tile.rows));
        let panels = job.to.div_ceil(rows);
        // Lines that leave the fewest columns of tiles empty, the more the better.
        let halves = |lines: usize, pitch: usize| -> usize {
            let columns = |lines: usize| if lines == 0 { 0 } else { ((lines - 1) * pitch + ow).div_ceil(half) };
            oh / lines * columns(lines) + columns(oh % lines)
        };
        let wanted = (job.n * job.groups * oh).div_ceil(TASKS).max(64usize.div_ceil(ow));
        let lines = |most: usize, pitch: usize| (1..=most.min(wanted).clamp(1, oh)).rev().min_by_key(|&l| halves(l, pitch)).unwrap_or(1);
        let most = (PLANES / (per * phases * width)).saturating_sub(hi).max(64usize.div_ceil(ow));
        let direct = lines(most, width);
        let pixels = (SHALLOW / (per * taps)).clamp(4 * tile.columns, 16 * tile.columns);
        let some = lines(pixels.div_ceil(ow), ow);
        // Cycles of either way, roughly: multiply-adds, copies of sums to the output, copies of windows.
        let depth = per * taps;
        let multiply = depth * panels * rows / 2;
        let cost_direct = halves(direct, width) * (multiply + if width == ow { 0 } else { panels * (rows * 12 + 40) });
        let cost_gathered = halves(some, ow) * (multiply + depth * (3 + half.div_ceil(ow)));
        let gathered = cost_gathered < cost_direct;
        let lines = if gathered { some } else { direct };
        let images = if gathered && lines == oh { (pixels / (oh * ow)).clamp(1, job.n) } else { 1 };
        let plane = (lines + hi) * width;
        Cuts { tile, per, rows, gathered, lines, images, width, plane, image: per * phases * plane }
    }

    /// The tiles of a block of `images` times `lines` lines from line `i0` of the output on. Gathered columns count valid outputs of all images, others
    /// the positions of one image's planes.
    fn columns(&self, job: &Job, i0: usize, lines: usize, images: usize) -> Vec<Column> {
        let ow = job.out[1];
        let pitch = if self.gathered { ow } else { self.width };
        let end = (images * lines - 1) * pitch + ow;
        let step = self.tile.columns;
        (0..end)
            .step_by(step)
            .map(|q0| {
                let (mut segments, mut runs): (Vec<Segment>, Vec<Run>) = (Vec::new(), Vec::new());
                let last = (q0 + step).min(end);
                let mut q = q0;
                while q < last {
                    let (line, j) = (q / pitch, q % pitch);
                    let next = ((line + 1) * pitch).min(last);
                    if j < ow {
                        let (image, i) = (line / lines, line % lines);
                        let (len, at) = ((ow - j).min(next - q), q - q0);
                        let (from, to) = (image * self.image + i * self.width + j, job.first + (i0 + i) * job.row + j * job.column);
                        match segments.last_mut() {
                            // Lines without padding between them are one.
                            Some(s) if s.from + s.len == from && s.at + s.len == at => s.len += len,
                            _ => segments.push(Segment { from, len, at }),
                        }
                        match runs.last_mut() {
                            Some(r) if r.image == image && r.at + r.len == at && r.to + r.len * job.column == to => r.len += len,
                            _ => runs.push(Run { len, at, to, image }),
                        }
                    }
                    q = next;
                }
                Column { half: last - q0 <= step / 2, segments, runs }
            })
            .collect()
    }
}

/// Elements that [`gather`] reads and writes past a segment.
const OVERRUN: usize = 16;

multiversion! {
    /// Copies the windows of a tile's columns, step by step of k. Whole vectors are copied: what they write too far the next copy overwrites.
    fn gather(planes: &[f32], table: &[u32], segments: &[Segment], columns: usize, out: &mut [f32]) {
        for (k, &at) in table.iter().enumerate() {
            for s in segments {
                let (mut from, mut to, mut left) = (at as usize + s.from, k * columns + s.at, s.len);
                loop {
                    out[to..to + OVERRUN].copy_from_slice(&planes[from..from + OVERRUN]);
                    if left <= OVERRUN {
                        break;
                    }
                    (from, to, left) = (from + OVERRUN, to + OVERRUN, left - OVERRUN);
                }
            }
        }
    }
}

fn perform(job: &Job, tile: TileShape, x: &[f32], w: &[f32], y: &mut [f32]) {
    let cuts = Cuts::new(job, tile);
    let Cuts { per, rows, gathered, lines, images, width, .. } = cuts;
    let (taps, hi, oh) = (job.taps.len(), job.halo()[0], job.out[0]);
    let (phases, chunks, panels) = (job.origins.len(), job.from.div_ceil(per), job.to.div_ceil(rows));
    let bands = oh.div_ceil(lines);
    let blocks = job.n.div_ceil(images) * bands * job.groups;
    // With few blocks, a task computes some of the channels.
    let per_part = panels.div_ceil((TASKS / 2).div_ceil(blocks).min(panels.div_ceil(3)).max(1));
    let parts = panels.div_ceil(per_part);
    let table = job.table(per, lines + hi, width);
    let out = Shared::new(y);
    let flops = 2 * (job.n * job.groups * job.to * job.from * taps * oh * job.out[1]) as u64;
    let size = job.size[0] * job.size[1];
    // The windows of a tile, where they are gathered.
    let windows_of = if gathered { tile.columns * per * taps } else { 0 };
    let most = (images * lines * job.out[1]).div_ceil(tile.columns);
    scratch(job.groups * job.from * taps * job.to, |packed: &mut [f32]| {
        pack(job, tile, w, per, rows, packed);
        let packed = &*packed;
        run(blocks * parts, flops, |t| {
            let (part, block) = (t % parts, t / parts);
            let (group, band, set) = (block % job.groups, block / job.groups % bands, block / job.groups / bands);
            let (n0, n1) = (set * images, (set * images + images).min(job.n));
            let (i0, i1) = (band * lines, (band * lines + lines).min(oh));
            let (first, last) = (part * per_part, (part * per_part + per_part).min(panels));
            let columns = cuts.columns(job, i0, i1 - i0, n1 - n0);
            let planes_len = (n1 - n0) * cuts.image + MAX_COLUMNS;
            scratch(planes_len + windows_of * most + OVERRUN, |all: &mut [f32]| {
                let (planes, windows) = all.split_at_mut(planes_len);
                for c0 in (0..chunks).map(|c| c * per) {
                    let c1 = (c0 + per).min(job.from);
                    let k = (c1 - c0) * taps;
                    for (n, planes) in (n0..n1).zip(planes.chunks_exact_mut(cuts.image)) {
                        for (c, planes) in (c0..c1).zip(planes.chunks_exact_mut(phases * cuts.plane)) {
                            let x = &x[((n * job.groups + group) * job.from + c) * size..][..size];
                            for (origin, plane) in job.origins.iter().zip(planes.chunks_exact_mut(cuts.plane)) {
                                job.fill(x, *origin, i0, width, &mut plane[..(i1 - i0 + hi) * width]);
                            }
                        }
                    }
                    if gathered {
                        for (q, column) in columns.iter().enumerate() {
                            gather(planes, &table[..k], &column.segments, tile.columns, &mut windows[q * windows_of..]);
                        }
                    }
                    let base = (group * job.from + c0) * job.to * taps;
                    // Panels that are multiplied with a tile's windows before the next ones; one, where the windows of all tiles stay in a first-level cache.
                    let together = if k * columns.len() * tile.columns <= SHALLOW { 1 } else { (WEIGHTS / (k * rows)).max(1) };
                    for p0 in (first..last).step_by(together) {
                        for (q, column) in columns.iter().enumerate() {
                            for r0 in (p0..(p0 + together).min(last)).map(|p| p * rows) {
                                let r1 = (r0 + rows).min(job.to);
                                let a = packed[base + r0 * k..base + r1 * k].as_ptr();
                                // SAFETY: the windows of the table lie in the planes, whose slack covers the last tile; `c` has the tile's elements.
                                let multiply = |c: *mut f32, stride: usize, add: bool| unsafe {
                                    if gathered {
                                        let (b, steps) = (windows[q * windows_of..].as_ptr(), Stride(tile.columns as isize));
                                        micro::tile(
                                            tile,
                                            r1 - r0,
                                            column.half,
                                            Operands { k, a, pitch: r1 - r0, b, steps, c, stride, add },
                                        );
                                    } else {
                                        let (b, steps) = (planes[q * tile.columns..].as_ptr(), Table(table.as_ptr()));
                                        micro::tile(
                                            tile,
                                            r1 - r0,
                                            column.half,
                                            Operands { k, a, pitch: r1 - r0, b, steps, c, stride, add },
                                        );
                                    }
                                };
                                let place =
                                    |r: &Run, row: usize| (((n0 + r.image) * job.groups + group) * job.to + row) * job.channel + r.to;
                                let whole = if column.half { tile.columns / 2 } else { tile.columns };
                                if let ([r], 1) = (&column.runs[..], job.column)
                                    && r.len == whole
                                {
                                    // SAFETY: a task's pixels of its channels are its own; the tile's rows lie in the output.
                                    let c = unsafe { out.slice(place(r, r0), (r1 - r0 - 1) * job.channel + r.len) };
                                    multiply(c.as_mut_ptr(), job.channel, c0 > 0);
                                    continue;
                                }
                                let mut sums = [0.0; MAX_ROWS * MAX_COLUMNS];
                                multiply(sums.as_mut_ptr(), tile.columns, false);
                                for (row, sums) in (r0..r1).zip(sums.chunks_exact(tile.columns)) {
                                    for r in &column.runs {
                                        // SAFETY: as above.
                                        let to = unsafe { out.slice(place(r, row), (r.len - 1) * job.column + 1) };
                                        let sums = &sums[r.at..r.at + r.len];
                                        match (job.column, c0 > 0) {
                                            (1, false) => to.copy_from_slice(sums),
                                            (1, true) => to.iter_mut().zip(sums).for_each(|(t, s)| *t += s),
                                            (step, false) => to.iter_mut().step_by(step).zip(sums).for_each(|(t, s)| *t = *s),
                                            (step, true) => to.iter_mut().step_by(step).zip(sums).for_each(|(t, s)| *t += s),
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            });
        });
    });
}

/// Whether channels are many enough for tiles.
fn suits(s: &Sizes) -> bool {
    s.o >= 8 && !s.is_pointwise() && s.pixels().1 > 0 && s.depth() > 0 && s.n > 0
}

/// `y = conv(x, w)`, where this way suits the shape.
pub(super) fn forward(tile: TileShape, s: &Sizes, x: &[f32], w: &[f32], y: &mut [f32]) -> bool {
    if conv_depthwise::is_depthwise(s) {
        conv_depthwise::perform(tile, &Job::of(s), x, w, y);
        return true;
    }
    if !suits(s) {
        return false;
    }
    perform(&Job::of(s), tile, x, w, y);
    true
}

/// The gradient in the input, where this way suits the shape: one job for each phase of the stride.
pub(super) fn input_grad(tile: TileShape, s: &Sizes, g: &[f32], w: &[f32], dx: &mut [f32]) -> bool {
    let depthwise = conv_depthwise::is_depthwise(s);
    if !depthwise && (!suits(s) || s.c < 8) {
        return false;
    }
    // Taps along an axis that reach the pixels e, e + stride, …: their shifts and the smallest one.
    let along = |a: usize, e: usize| -> (Vec<(usize, usize)>, isize) {
        let reach = |u: usize| (e + s.padding[a]) as isize - (u * s.dilation[a]) as isize;
        let step = s.stride[a] as isize;
        let list: Vec<(usize, isize)> = (0..s.k[a]).filter(|&u| reach(u) % step == 0).map(|u| (u, reach(u) / step)).collect();
        let least = list.iter().map(|t| t.1).min().unwrap_or(0);
        (list.into_iter().map(|(u, shift)| (u, (shift - least) as usize)).collect(), least)
    };
    let mut jobs = Vec::new();
    for e0 in 0..s.stride[0].min(s.h[0]) {
        for e1 in 0..s.stride[1].min(s.h[1]) {
            let ((us, i), (vs, j)) = (along(0, e0), along(1, e1));
            let taps: Vec<Tap> = us
                .iter()
                .flat_map(|&(u, i)| vs.iter().map(move |&(v, j)| Tap { phase: 0, shift: [i, j], weight: u * s.k[1] + v }))
                .collect();
            jobs.push(Job {
                n: s.n,
                groups: s.groups,
                from: s.o,
                to: s.c,
                size: s.oh,
                step: [1, 1],
                origins: vec![[i, j]],
                taps,
                out: [(s.h[0] - e0).div_ceil(s.stride[0]), (s.h[1] - e1).div_ceil(s.stride[1])],
                first: e0 * s.h[1] + e1,
                row: s.stride[0] * s.h[1],
                column: s.stride[1],
                channel: s.pixels().0,
                weight: [s.taps(), s.depth(), s.o * s.depth()],
            });
        }
    }
    if jobs.iter().any(|j| j.taps.is_empty()) {
        dx.fill(0.0);
    }
    for job in jobs.iter().filter(|j| !j.taps.is_empty()) {
        if depthwise {
            conv_depthwise::perform(tile, job, g, w, dx);
        } else {
            perform(job, tile, g, w, dx);
        }
    }
    true
}

/// Elements of the packed gradient of some images.
const GRADIENT: usize = 512 << 10;

/// The gradient in the weight, where this way suits the shape. A tile's rows are taps of channels, its columns output channels; pixels are its sum.
pub(super) fn weight_grad(tile: TileShape, s: &Sizes, x: &[f32], g: &[f32], dw: &mut [f32]) -> bool {
    if conv_depthwise::is_depthwise(s) {
        conv_depthwise::weight_grad(s, x, g, dw);
        return true;
    }
    if !suits(s) {
        return false;
    }
    let (taps, depth, p) = (s.taps(), s.depth(), s.pixels().1);
    let [oh, ow] = s.oh;
    let cols = tile.columns;
    let panels = s.o.div_ceil(cols);
    // Channels of a task, and panels of output channels.
    let per = s.c.div_ceil(TASKS).max(tile.window_rows.div_ceil(taps)).min(s.c);
    let splits = s.c.div_ceil(per);
    let sides = TASKS.div_ceil(splits * s.groups).min(panels);
    let per_side = panels.div_ceil(sides);
    let sides = panels.div_ceil(per_side);
    if s.groups * splits * sides < 8 || panels * cols > 2 * s.o {
        return false;
    }
    let job = Job::of(s);
    let ([hi, hj], phases) = (job.halo(), job.origins.len());
    let width = ow + hj;
    let lines = (768 / ow).clamp(1, oh);
    let lines = oh.div_ceil(oh.div_ceil(lines));
    let height = lines + hi;
    let table: Vec<usize> = job.table(per, height, width).into_iter().map(|t| t as usize).collect();
    let per_image = s.groups * panels * p * cols;
    let images = (GRADIENT / per_image).clamp(1, s.n);
    let sums_len = s.groups * panels * depth * cols;
    scratch(sums_len + images * per_image, |all: &mut [f32]| {
        let (sums, packed) = all.split_at_mut(sums_len);
        let sums = Shared::new(sums);
        for n0 in (0..s.n).step_by(images) {
            let n1 = (n0 + images).min(s.n);
            let turned = Shared::new(packed);
            run((n1 - n0) * s.groups * panels, ((n1 - n0) * per_image * 8) as u64, |t| {
                // SAFETY: one task a panel.
                let part = unsafe { turned.slice(t * p * cols, p * cols) };
                let (panel, image) = (t % panels, n0 * s.groups + t / panels);
                let o1 = (panel * cols + cols).min(s.o);
                let rows = o1 - panel * cols;
                if rows < cols {
                    part.fill(0.0);
                }
                let from = g[(image * s.o + panel * cols) * p..(image * s.o + o1) * p].as_ptr();
                // SAFETY: whole rows of the gradient, and the panel's columns.
                unsafe { micro::turn(tile, from, p as isize, rows, p, part.as_mut_ptr(), cols) };
            });
            let packed = &*packed;
            run(s.groups * splits * sides, s.flops() / s.n as u64 * (n1 - n0) as u64, |t| {
                let (side, split, group) = (t % sides, t / sides % splits, t / sides / splits);
                let (c0, c1) = (split * per, (split * per + per).min(s.c));
                let (p0, p1) = (side * per_side, (side * per_side + per_side).min(panels));
                let size = s.h[0] * s.h[1];
                scratch(per * phases * height * width, |planes: &mut [f32]| {
                    for n in n0..n1 {
                        for i0 in (0..oh).step_by(lines) {
                            let i1 = (i0 + lines).min(oh);
                            for (c, planes) in (c0..c1).zip(planes.chunks_exact_mut(phases * height * width)) {
                                let x = &x[((n * s.groups + group) * s.c + c) * size..][..size];
                                for (origin, plane) in job.origins.iter().zip(planes.chunks_exact_mut(height * width)) {
                                    job.fill(x, *origin, i0, width, &mut plane[..(i1 - i0 + hi) * width]);
                                }
                            }
                            for panel in p0..p1 {
                                let g = &packed[(((n - n0) * s.groups + group) * panels + panel) * p * cols + i0 * ow * cols..];
                                let rows = &table[..(c1 - c0) * taps];
                                for (r, rows) in rows.chunks(tile.window_rows).enumerate() {
                                    let at = ((group * panels + panel) * depth + c0 * taps + r * tile.window_rows) * cols;
                                    // SAFETY: each channel of each panel is one task's; the windows lie in the planes, and the gradient's rows in their panel.
                                    unsafe {
                                        let c = sums.slice(at, rows.len() * cols).as_mut_ptr();
                                        let (lines, x, g) = (i1 - i0, planes.as_ptr(), g.as_ptr());
                                        let add = n > 0 || i0 > 0;
                                        micro::windows(tile, rows, Windows { lines, len: ow, x, pitch: width, g, c, stride: cols, add });
                                    }
                                }
                            }
                        }
                    }
                });
            });
        }
        // SAFETY: all tasks are done.
        let sums = unsafe { sums.slice(0, sums_len) };
        let out = Shared::new(dw);
        run(s.groups * panels, (s.groups * panels * depth * cols * 8) as u64, |t| {
            let (panel, group) = (t % panels, t / panels);
            let from = &sums[t * depth * cols..][..depth * cols];
            for o in 0..cols.min(s.o - panel * cols) {
                // SAFETY: one task a panel.
                let to = unsafe { out.slice((group * s.o + panel * cols + o) * depth, depth) };
                to.iter_mut().zip(from[o..].iter().step_by(cols)).for_each(|(t, &v)| *t = v);
            }
        });
    });
    true
}

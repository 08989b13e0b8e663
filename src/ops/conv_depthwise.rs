//! Depthwise convolutions in f32: each channel sees one channel, whose padded planes stay in a first-level cache.

use super::conv::Sizes;
use super::conv_cpu::run;
use super::conv_direct::Job;
use super::rows;
use crate::backend::cpu::micro::{self, MAX_COLUMNS, TAP_ROWS, TileShape};
use crate::backend::cpu::scratch::scratch;
use crate::backend::cpu::simd::multiversion;
use crate::backend::cpu::threads::Shared;
use smallvec::SmallVec;

/// Where the sums of one channel go: rows of `columns` of them, `pitch` apart, and the columns `step` apart.
struct Out<'a> {
    y: &'a mut [f32],
    columns: usize,
    pitch: usize,
    step: usize,
    add: bool,
}

/// One channel that sees one channel: sums over the taps, which begin at places in the planes, whose rows are `width` apart and which have slack for a tile.
fn sum_rows(tile: TileShape, planes: &[f32], taps: &[(usize, f32)], width: usize, rows: usize, out: Out) {
    let Out { y, columns, pitch, step, add } = out;
    let last = taps.iter().map(|t| t.0).max().unwrap_or(0);
    assert!(last + (rows - 1) * width + columns + MAX_COLUMNS <= planes.len() && y.len() > (rows - 1) * pitch + (columns - 1) * step);
    let half = tile.columns / 2;
    for i in (0..rows).step_by(TAP_ROWS) {
        let n = TAP_ROWS.min(rows - i);
        let mut j = 0;
        while j < columns {
            let rest = columns - j;
            let wide = if rest <= half { half } else { tile.columns };
            let plain = step == 1 && !add;
            // Whole tiles where the row has one: the last one ends with the row, and what it computes again is the same.
            let at = if plain && columns >= wide { j.min(columns - wide) } else { j };
            let whole = plain && at + wide <= columns;
            let x = planes[i * width + at..].as_ptr();
            let mut sums = [0.0f32; TAP_ROWS * MAX_COLUMNS];
            // SAFETY: the planes have room for a tile behind the last place, and so has `sums`; the rows of y end at `columns`.
            unsafe {
                let to = if whole { (y[i * pitch + at..].as_mut_ptr(), pitch) } else { (sums.as_mut_ptr(), MAX_COLUMNS) };
                micro::taps(tile, n, wide == half, x, width, taps, to.0, to.1);
            }
            if !whole {
                for (r, sums) in sums.chunks_exact(MAX_COLUMNS).take(n).enumerate() {
                    for (l, &sum) in sums.iter().enumerate().take(rest.min(wide)) {
                        let to = &mut y[(i + r) * pitch + (j + l) * step];
                        *to = if add { *to + sum } else { sum };
                    }
                }
            }
            j = at + wide;
        }
    }
}

/// Whether each channel sees one channel.
pub(super) fn is_depthwise(s: &Sizes) -> bool {
    s.c == 1 && s.groups > 1 && s.o <= 4 && s.pixels().1 > 0 && s.taps() > 0
}

/// A job of one channel from each of the source's channels, for all images and groups.
pub(super) fn perform(tile: TileShape, job: &Job, x: &[f32], w: &[f32], y: &mut [f32]) {
    let ([hi, hj], [oh, ow]) = (job.halo(), job.out);
    let (width, size) = (ow + hj, job.size[0] * job.size[1]);
    let plane = (oh + hi) * width;
    let out = Shared::new(y);
    let flops = 2 * (job.n * job.groups * job.to * job.from * job.taps.len() * oh * ow) as u64;
    run(job.n * job.groups, flops, |t| {
        let group = t % job.groups;
        scratch(job.origins.len() * plane + 2 * MAX_COLUMNS, |planes: &mut [f32]| {
            for from in 0..job.from {
                let x = &x[(t * job.from + from) * size..][..size];
                for (origin, plane) in job.origins.iter().zip(planes.chunks_exact_mut(plane)) {
                    job.fill(x, *origin, 0, width, plane);
                }
                for to in 0..job.to {
                    let w = &w[group * job.weight[2] + to * job.weight[0] + from * job.weight[1]..];
                    let places = job.taps.iter().map(|t| (t.phase * plane + t.shift[0] * width + t.shift[1], w[t.weight]));
                    let places: SmallVec<[(usize, f32); 32]> = places.collect();
                    // SAFETY: one task an image and group.
                    let y = unsafe { out.slice((t * job.to + to) * job.channel, job.channel) };
                    let out = Out { y: &mut y[job.first..], columns: ow, pitch: job.row, step: job.column, add: from > 0 };
                    sum_rows(tile, planes, &places, width, oh, out);
                }
            }
        })
    });
}

/// Partial sums of a tap, side by side.
type Lanes = [f32; 16];

multiversion! {
    /// Adds Σ x · g over all pixels to the sums of each tap. The planes have slack for whole vectors.
    fn sum_pixels(planes: &[f32], places: &[usize], width: usize, g: &[f32], columns: usize, sums: &mut [Lanes]) {
        const LANES: usize = 16;
        let mut keep = [0; LANES];
        keep[..columns % LANES].fill(u32::MAX);
        for (i, g) in g.chunks_exact(columns).enumerate() {
            let (whole, rest) = g.as_chunks::<LANES>();
            let mut last = [0.0f32; LANES];
            last[..rest.len()].copy_from_slice(rest);
            for (&place, sums) in places.iter().zip(&mut *sums) {
                let x = planes[place + i * width..].as_chunks::<LANES>().0;
                let mut acc = *sums;
                for (x, g) in x.iter().zip(whole) {
                    for l in 0..LANES {
                        acc[l] += x[l] * g[l];
                    }
                }
                let x = &x[whole.len()];
                for l in 0..LANES {
                    // What lies behind the row may be infinite.
                    acc[l] += f32::from_bits((x[l] * last[l]).to_bits() & keep[l]);
                }
                *sums = acc;
            }
        }
    }
}

pub(super) fn weight_grad(s: &Sizes, x: &[f32], g: &[f32], dw: &mut [f32]) {
    let job = Job::of(s);
    let ([hi, hj], [oh, ow]) = (job.halo(), job.out);
    let (width, (size, p), taps) = (ow + hj, s.pixels(), s.taps());
    let plane = (oh + hi) * width;
    let places: Vec<usize> = job.taps.iter().map(|t| t.phase * plane + t.shift[0] * width + t.shift[1]).collect();
    let out = Shared::new(dw);
    run(s.groups, s.flops(), |group| {
        // SAFETY: one task a group.
        let dw = unsafe { out.slice(group * s.o * taps, s.o * taps) };
        let mut sums: SmallVec<[Lanes; 16]> = SmallVec::from_elem([0.0; 16], s.o * taps);
        scratch(job.origins.len() * plane + MAX_COLUMNS, |planes: &mut [f32]| {
            for t in (0..s.n).map(|n| n * s.groups + group) {
                for (origin, plane) in job.origins.iter().zip(planes.chunks_exact_mut(plane)) {
                    job.fill(&x[t * size..(t + 1) * size], *origin, 0, width, plane);
                }
                for (o, sums) in sums.chunks_exact_mut(taps).enumerate() {
                    sum_pixels(planes, &places, width, &g[(t * s.o + o) * p..][..p], ow, sums);
                }
            }
        });
        for (dw, sums) in dw.iter_mut().zip(&sums) {
            *dw = rows::tree(*sums);
        }
    });
}

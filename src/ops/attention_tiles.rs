//! Attention forward in f32 on the tiles of [`micro`], without mask or bias: the scores stand transposed, keys in rows and queries in the lanes of a tile, so that
//! the softmax over keys needs no sums across lanes, and the weights are at once the second factor of the product with the values.

use super::attention::Dims;
use super::rows::for_tasks;
use crate::backend::cpu::gemm::pack;
use crate::backend::cpu::micro::{self, MAX_COLUMNS, Packed, TileShape};
use crate::backend::cpu::scratch::scratch;
use crate::backend::cpu::simd::multiversion;
use crate::backend::cpu::threads::Shared;
use crate::codegen::math::exp_falling;
use crate::layout::Layout;

/// Keys of a block, about.
const KEYS: usize = 128;
/// Lanes that the softmax takes at once: half a tile of AVX-512.
const LANES: usize = 16;
/// Tasks that a large call is cut into at least, where its shape allows.
const TASKS: usize = 16;

/// What is hidden from a query, and the factor of the scores.
#[derive(Clone, Copy)]
pub(super) struct Options {
    pub scale: f32,
    pub causal: bool,
    pub position: usize,
}

/// Whether these operands can be read, and are large enough.
pub(super) fn suits(d: &Dims, layouts: [&Layout; 3]) -> bool {
    let dense = |l: &Layout| l.strides[3] == 1 && l.strides.iter().all(|&s| s >= 0);
    d.queries >= 12 && d.keys > 0 && d.width > 0 && d.value_width > 0 && layouts.iter().all(|l| dense(l))
}

/// Where row `i` of a batch and head begins. The tensor is of rank 4.
fn row(data: &[f32], l: &Layout, b: usize, h: usize, i: usize) -> *const f32 {
    let at = l.offset + b * l.strides[0] as usize + h * l.strides[1] as usize + i * l.strides[2] as usize;
    data[at..].as_ptr()
}

multiversion! {
    /// One step of the online softmax over the rows of a block of scores: they become weights relative to the new maxima, and `scale` what the sums so far
    /// are multiplied by. Gives back whether any of them changes.
    fn soften(scores: &mut [f32], columns: usize, max: &mut [f32], sum: &mut [f32], scale: &mut [f32]) -> bool {
        let mut changed = false;
        for at in (0..columns).step_by(LANES) {
            let lanes = |v: &[f32]| -> [f32; LANES] { std::array::from_fn(|l| v[at + l]) };
            let old = lanes(max);
            let mut new = old;
            for row in scores.chunks_exact(columns) {
                let s = &row[at..at + LANES];
                for l in 0..LANES {
                    new[l] = if s[l] > new[l] { s[l] } else { new[l] };
                }
            }
            // Where no key is seen yet: the weights are exp(-∞).
            let from: [f32; LANES] = std::array::from_fn(|l| if new[l] == f32::NEG_INFINITY { 0.0 } else { new[l] });
            let mut total = [0.0f32; LANES];
            for row in scores.chunks_exact_mut(columns) {
                let s = &mut row[at..at + LANES];
                for l in 0..LANES {
                    s[l] = exp_falling(s[l] - from[l]);
                    total[l] += s[l];
                }
            }
            let factor: [f32; LANES] = std::array::from_fn(|l| exp_falling(old[l] - from[l]));
            changed |= factor != [1.0; LANES];
            let sum = &mut sum[at..at + LANES];
            for l in 0..LANES {
                sum[l] = sum[l] * factor[l] + total[l];
            }
            scale[at..at + LANES].copy_from_slice(&factor);
            max[at..at + LANES].copy_from_slice(&new);
        }
        changed
    }
}

multiversion! {
    /// Multiplies each row by a row.
    fn scale_rows(rows: &mut [f32], scale: &[f32]) {
        for row in rows.chunks_exact_mut(scale.len()) {
            row.iter_mut().zip(scale).for_each(|(v, &s)| *v *= s);
        }
    }
}

pub(super) fn forward(tile: TileShape, d: &Dims, [q, k, v]: [(&[f32], &Layout); 3], o: Options, result: &Shared<f32>, lse: &Shared<f32>) {
    let columns = tile.columns;
    let heads = d.batch * d.heads;
    let tiles = d.queries.div_ceil(columns);
    let parts = TASKS.div_ceil(heads.max(1)).min(tiles).max(1);
    let per_part = tiles.div_ceil(parts);
    let parts = tiles.div_ceil(per_part);
    let rows = tile.rows;
    let panels = d.keys.div_ceil(rows);
    // Even blocks, so that none is a sliver.
    let per_block = panels.div_ceil(panels.div_ceil(KEYS / rows));
    let panel = d.width * rows;
    let value_panels = d.value_width.div_ceil(rows);
    for_tasks(heads * parts, heads * d.queries * d.keys * 8, |t| {
        let (part, b, h) = (t % parts, t / parts / d.heads, t / parts % d.heads);
        let g = h / d.group();
        let (first, end) = (part * per_part * columns, ((part + 1) * per_part * columns).min(d.queries));
        // The keys that any of the queries before `end` may see.
        let seen = |end: usize| if o.causal { d.keys.min(end.saturating_add(o.position)) } else { d.keys };
        // The keys and values of this task are packed once, for all of its queries.
        let known = seen(end);
        let values_len = value_panels * rows * known;
        scratch(panels * panel + values_len + (d.width + per_block * rows + d.value_width + 1) * columns, |all: &mut [f32]| {
            let (keys, rest) = all.split_at_mut(panels * panel);
            let (values, rest) = rest.split_at_mut(values_len);
            let (queries, rest) = rest.split_at_mut(d.width * columns);
            let (scores, rest) = rest.split_at_mut(per_block * rows * columns);
            let (sums, scale) = rest.split_at_mut(d.value_width * columns);
            let scale = &mut scale[..columns];
            for (p, panel) in keys.chunks_exact_mut(panel).enumerate().take(known.div_ceil(rows)) {
                let n = rows.min(d.keys - p * rows);
                // SAFETY: these keys are in the tensor.
                unsafe { micro::turn(tile, row(k.0, k.1, b, g, p * rows), k.1.strides[2], n, d.width, panel.as_mut_ptr(), rows) };
            }
            if known > 0 {
                // SAFETY: these values are in the tensor; a panel holds each known key.
                unsafe { pack(tile, row(v.0, v.1, b, g, 0), 1, v.1.strides[2], d.value_width, known, rows, values.as_mut_ptr()) };
            }
            for i in (first..end).step_by(columns) {
                let n = columns.min(end - i);
                let half = n <= columns / 2;
                if n < columns {
                    queries.fill(0.0);
                }
                // SAFETY: these queries are in the tensor.
                unsafe { micro::turn(tile, row(q.0, q.1, b, h, i), q.1.strides[2], n, d.width, queries.as_mut_ptr(), columns) };
                queries.iter_mut().for_each(|v| *v *= o.scale);
                let (mut max, mut sum) = ([f32::NEG_INFINITY; MAX_COLUMNS], [0.0; MAX_COLUMNS]);
                let keys_seen = seen(i + n);
                for j in (0..keys_seen).step_by(per_block * rows) {
                    let here = (per_block * rows).min(keys_seen - j);
                    for p in 0..here.div_ceil(rows) {
                        let lines = rows.min(here - p * rows);
                        let operands = Packed {
                            k: d.width,
                            a: keys[(j / rows + p) * panel..].as_ptr(),
                            b: queries.as_ptr(),
                            c: scores[p * rows * columns..].as_mut_ptr(),
                            stride: columns,
                            add: false,
                        };
                        // SAFETY: the packed keys and queries are there, and the scores are this task's.
                        unsafe { micro::packed(tile, lines, half, operands) };
                    }
                    let scores = &mut scores[..here * columns];
                    if o.causal && j + here > i.saturating_add(o.position) {
                        for (key, row) in (j..).zip(scores.chunks_exact_mut(columns)) {
                            let hidden = key.saturating_sub(o.position).saturating_sub(i).min(columns);
                            row[..hidden].fill(f32::NEG_INFINITY);
                        }
                    }
                    if half {
                        // What no query stands for was not computed.
                        scores.chunks_exact_mut(columns).for_each(|row| row[n..].fill(0.0));
                    }
                    if soften(scores, columns, &mut max, &mut sum, scale) && j > 0 {
                        scale_rows(sums, scale);
                    }
                    for (p, r) in (0..d.value_width).step_by(rows).enumerate() {
                        let lines = rows.min(d.value_width - r);
                        let operands = Packed {
                            k: here,
                            a: values[(p * known + j) * rows..].as_ptr(),
                            b: scores.as_ptr(),
                            c: sums[r * columns..].as_mut_ptr(),
                            stride: columns,
                            add: j > 0,
                        };
                        // SAFETY: the packed values are there, and the sums are this task's.
                        unsafe { micro::packed(tile, lines, half, operands) };
                    }
                }
                for l in 0..n {
                    let empty = max[l] == f32::NEG_INFINITY;
                    scale[l] = if empty { 0.0 } else { 1.0 / sum[l] };
                    sum[l] = if empty { f32::INFINITY } else { max[l] + sum[l].ln() };
                }
                scale[n..].fill(0.0);
                scale_rows(sums, scale);
                let pitch = d.heads * d.value_width;
                let at = ((b * d.queries + i) * d.heads + h) * d.value_width;
                // SAFETY: each query of a head is one task's; its results lie in the output.
                unsafe {
                    lse.slice((b * d.heads + h) * d.queries + i, n).copy_from_slice(&sum[..n]);
                    let to = result.pointer(at, (n - 1) * pitch + d.value_width);
                    micro::turn(tile, sums.as_ptr(), columns as isize, d.value_width, n, to, pitch);
                }
            }
        });
    });
}

//! Reductions of fused programs.
//!
//! The order in which elements meet follows from the shape and the reduced axes alone: not from strides, fusion, or the number of threads.
//! The iteration space is seen as alternating groups of kept and reduced axes. The last two groups are a matrix whose rows are reduced
//! (each in chunks of 512) or whose columns are (in blocks of 32 rows); the groups before are walked in order. Large spaces are cut at fixed
//! places along their longest kept and their longest reduced group, and partial results meet in order.

use super::fold::{CHUNK, Kernel, kernel};
use super::fused::{bases, pointwise, transposed};
use super::memory::CpuBuffer;
use super::threads::each;
use super::tile::{Code, Compiled, LARGE, State, Tile, with_compiled, with_state};
use crate::codegen::kernel::{FusedReduce, Operand, ReduceKind, collapse};
use crate::codegen::program::{Instr, Program};
use crate::layout::row_major;
use crate::{Scalar, Shape};
use smallvec::{SmallVec, smallvec};
use std::ops::Range;

/// Elements of a part of a large space.
const GRAIN: usize = 1 << 16;
/// The most parts.
const PARTS: usize = 256;
/// The most parts along a reduced group: each has results of its own.
const REDUCED_PARTS: usize = 32;
/// Elements × instructions from which on other threads are woken.
const PARALLEL: usize = 1 << 17;
/// Rows that add up in a lane before it is emptied.
const BLOCK: usize = 32;
/// Rows shorter than this are reduced several at a time.
const SHORT: usize = 128;
/// Columns that a part keeps together: their lanes fit into level-1 cache.
const COLUMNS: usize = 4096;
/// A first group of this length is cut though another may be longer.
const LONG: usize = 8;

type Memory = SmallVec<[u128; 32]>;

fn memory(bytes: usize) -> Memory {
    smallvec![0; bytes.div_ceil(16)]
}

/// A group of neighbouring axes, all kept or all reduced.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Group {
    len: usize,
    reduced: bool,
}

/// The groups of a shape: alternating, without size 1, the last two always there.
fn groups(shape: &[usize], reduced: &[bool]) -> SmallVec<[Group; 6]> {
    let mut groups: SmallVec<[Group; 6]> = SmallVec::new();
    for (&len, &reduced) in shape.iter().zip(reduced).filter(|(d, _)| **d != 1) {
        match groups.last_mut() {
            Some(g) if g.reduced == reduced => g.len *= len,
            _ => groups.push(Group { len, reduced }),
        }
    }
    if groups.is_empty() {
        groups.push(Group { len: 1, reduced: true });
    }
    if groups.len() == 1 {
        groups.insert(0, Group { len: 1, reduced: !groups[0].reduced });
    }
    groups
}

/// How many rows of `cols` columns are reduced side by side.
fn abreast(cols: usize) -> usize {
    if cols < SHORT { 2 * SHORT / cols } else { 1 }
}

/// Where a large space is cut along one group: `parts` parts of `len` (the last may be shorter).
#[derive(Clone, Copy, Debug)]
struct Cut {
    group: usize,
    len: usize,
    parts: usize,
}

impl Cut {
    /// Cuts along the first group, which keeps the parts together in memory, or along the longest.
    fn new(groups: &[Group], reduced: bool, wanted: usize) -> Cut {
        let last = groups.len() - 1;
        let candidates = (0..=last).rev().filter(|&g| groups[g].reduced == reduced);
        let group = match groups[0] {
            first if first.reduced == reduced && first.len >= LONG => 0,
            _ => candidates.max_by_key(|&g| groups[g].len).unwrap_or(last),
        };
        let grain = match (reduced, last - group) {
            (true, 0) => 8 * CHUNK,
            (true, 1) => BLOCK * abreast(groups[last].len),
            (false, 0) => COLUMNS,
            _ => 1,
        };
        let units = groups[group].len.div_ceil(grain);
        let per = units.div_ceil(wanted.clamp(1, units.max(1)));
        Cut { group, len: per * grain, parts: units.div_ceil(per.max(1)) }
    }

    fn range(&self, part: usize, len: usize) -> Range<usize> {
        (part * self.len).min(len)..((part + 1) * self.len).min(len)
    }
}

/// A reduction with everything that its parts need.
struct Job<'a> {
    c: &'a Compiled,
    code: &'a Code<'a>,
    kernel: Kernel,
    result: usize,
    groups: &'a [Group],
    kept: Cut,
    reduced: Cut,
    /// Number of outputs.
    outputs: usize,
    count: Option<usize>,
    out: *mut u8,
    out_dtype: crate::DType,
    /// Accumulators of all outputs for each part along the reduced group, where there are several.
    partial: *mut u8,
}

// SAFETY: parts write disjoint outputs and accumulators.
unsafe impl Sync for Job<'_> {}

/// Runs a reduction. `scalars` are the program's, in its order.
pub(crate) fn reduce(k: &FusedReduce, buffers: &[&CpuBuffer], scalars: &[Scalar]) {
    let n = k.shape.numel();
    let out = buffers[k.output].as_ptr();
    let sizes = |reduced: bool| k.shape.iter().zip(&k.reduced).filter(|(_, r)| **r == reduced).map(|(&d, _)| d).product::<usize>();
    let outputs = sizes(false);
    let count = (k.kind == ReduceKind::Mean).then(|| sizes(true));
    let kernel = kernel(k.kind, k.program.stores[0].1);
    if n == 0 {
        // Over nothing: what the accumulators start with.
        let mut acc = memory(outputs * kernel.acc_bytes);
        // SAFETY: the memory and the output hold that many.
        unsafe {
            (kernel.start)(outputs, acc.as_mut_ptr().cast());
            (kernel.finish)(outputs, acc.as_ptr().cast(), count, out, k.out_dtype);
        }
        return;
    }
    if let Some(values) = turned(k, buffers, scalars) {
        let dtype = k.program.stores[0].1;
        let program = Program { instrs: vec![Instr::Load(0)], scalars: vec![], stores: vec![(0, dtype)] };
        let operands = vec![Operand { buffer: Some(0), dtype, strides: row_major(&k.shape), offset: 0 }];
        let (shape, reduced) = (k.shape.clone(), k.reduced.clone());
        return reduce(
            &FusedReduce { shape, reduced, program, operands, scalars: vec![], output: 1, ..*k },
            &[&values, buffers[k.output]],
            &[],
        );
    }
    let groups = groups(&k.shape, &k.reduced);
    let bases = bases(&k.operands, buffers);
    let code = Code { shape: &k.shape, program: &k.program, operands: &k.operands, scalars, bases: &bases, outs: &[] };
    let wanted = (n / GRAIN).clamp(1, PARTS);
    // Parts along a reduced group cost memory traffic for their accumulators: they must be few beside the elements.
    let few = (n / outputs.max(1) / 128).clamp(1, REDUCED_PARTS);
    let (kept, reduced) = if groups[0].reduced {
        let reduced = Cut::new(&groups, true, wanted.min(few));
        // Enough parts already are left whole, which is better for memory.
        let more = if reduced.parts * 2 > REDUCED_PARTS { 1 } else { wanted.div_ceil(reduced.parts) };
        (Cut::new(&groups, false, more), reduced)
    } else {
        let kept = Cut::new(&groups, false, wanted);
        (kept, Cut::new(&groups, true, wanted.div_ceil(kept.parts).min(few)))
    };
    with_compiled(|c| {
        c.build(&code, false, LARGE);
        let (mut shape, mut operands);
        let mut code = &code;
        let flat;
        if c.walks && n > c.tile {
            // Only the loads see this shape.
            (shape, operands) = (Shape::clone(&k.shape), k.operands.clone());
            collapse(&mut shape, None, &mut operands);
            flat = Code { shape: &shape, operands: &operands, ..*code };
            code = &flat;
            c.build(code, false, LARGE);
        }
        let mut partial = memory(if reduced.parts > 1 { reduced.parts * outputs * kernel.acc_bytes } else { 0 });
        let job = Job {
            c,
            code,
            kernel,
            result: c.result(code, 0),
            groups: &groups,
            kept,
            reduced,
            outputs,
            count,
            out,
            out_dtype: k.out_dtype,
            partial: partial.as_mut_ptr().cast(),
        };
        let parts = kept.parts * reduced.parts;
        // SAFETY: the planner made the layouts fit the buffers, and nobody else has the output.
        let run = |part: usize| unsafe { job.part(part % kept.parts, part / kept.parts) };
        if parts == 1 || n * (c.instructions() + 1) < PARALLEL {
            (0..parts).for_each(run);
        } else {
            each(parts, 1, &run);
        }
        if reduced.parts > 1 {
            let gather = |from: usize| unsafe { job.gather(from, COLUMNS.min(outputs - from)) };
            if outputs * reduced.parts < PARALLEL {
                (0..outputs).step_by(COLUMNS).for_each(gather);
            } else {
                each(outputs.div_ceil(COLUMNS), 1, &|b| gather(b * COLUMNS));
            }
        }
    });
}

/// The values of a large program some of whose operands are transposed. A reduction meets its elements row by row, and would fetch a cache
/// line for each of theirs; a pointwise kernel reads them by boxes. (Without memory for the values there is still the slow way.)
fn turned(k: &FusedReduce, buffers: &[&CpuBuffer], scalars: &[Scalar]) -> Option<CpuBuffer> {
    let n = k.shape.numel();
    if n < GRAIN / 4 {
        return None;
    }
    let (mut shape, mut operands) = (k.shape.clone(), k.operands.clone());
    collapse(&mut shape, None, &mut operands);
    transposed(&shape, &operands)?;
    let values = CpuBuffer::new(n * k.program.stores[0].1.size()).ok()?;
    let bases = bases(&operands, buffers);
    pointwise(&Code { shape: &shape, program: &k.program, operands: &operands, scalars, bases: &bases, outs: &[values.as_ptr()] });
    Some(values)
}

impl Job<'_> {
    /// Reduces part `i` of the kept cut within part `j` of the reduced cut.
    unsafe fn part(&self, i: usize, j: usize) {
        let ranges: SmallVec<[Range<usize>; 6]> = (self.groups.iter().enumerate())
            .map(|(g, group)| match g {
                _ if g == self.kept.group && self.kept.parts > 1 => self.kept.range(i, group.len),
                _ if g == self.reduced.group && self.reduced.parts > 1 => self.reduced.range(j, group.len),
                _ => 0..group.len,
            })
            .collect();
        // The outputs of this part are `before` runs of `run` neighbours.
        let lens = |kept: Range<usize>| self.groups[kept].iter().filter(|g| !g.reduced).map(|g| g.len).product::<usize>();
        let (before, inner) = (lens(0..self.kept.group), lens(self.kept.group + 1..self.groups.len()));
        let (own, whole) = (&ranges[self.kept.group], self.groups[self.kept.group].len);
        let run = own.len() * inner;
        let bytes = self.kernel.acc_bytes;
        let mut acc = memory(before * run * bytes);
        let acc: *mut u8 = acc.as_mut_ptr().cast();
        // SAFETY: the accumulators are as many as the part's outputs.
        unsafe {
            (self.kernel.start)(before * run, acc);
            with_state(|s| {
                s.prepare(self.c, self.code, self.c.tile);
                self.walk(s, &ranges, acc);
            });
            for b in 0..before {
                let (from, to) = (acc.add(b * run * bytes), (b * whole + own.start) * inner);
                if self.reduced.parts > 1 {
                    let to = self.partial.add((j * self.outputs + to) * bytes);
                    std::ptr::copy_nonoverlapping(from, to, run * bytes);
                } else {
                    (self.kernel.finish)(run, from, self.count, self.out.add(to * self.out_dtype.size()), self.out_dtype);
                }
            }
        }
    }

    /// Joins the partial results of `n` outputs.
    unsafe fn gather(&self, from: usize, n: usize) {
        let bytes = self.kernel.acc_bytes;
        unsafe {
            let first = self.partial.add(from * bytes);
            for j in 1..self.reduced.parts {
                (self.kernel.join)(n, first, self.partial.add((j * self.outputs + from) * bytes));
            }
            (self.kernel.finish)(n, first, self.count, self.out.add(from * self.out_dtype.size()), self.out_dtype);
        }
    }

    /// Visits the matrices of a part in order.
    unsafe fn walk(&self, s: &mut State, ranges: &[Range<usize>], acc: *mut u8) {
        let matrix = self.groups.len() - 2;
        // Strides in the iteration space, among the part's outputs, and among the reduced positions.
        let (mut flat, mut local, mut position) = ([0usize; 2], 1, 1);
        let mut strides: SmallVec<[(usize, usize, usize); 6]> = smallvec![(0, 0, 0); self.groups.len()];
        flat[0] = 1;
        for (g, group) in self.groups.iter().enumerate().rev() {
            strides[g] = if group.reduced { (flat[0], 0, position) } else { (flat[0], local, 0) };
            flat[0] *= group.len;
            if group.reduced {
                position *= group.len;
            } else {
                local *= ranges[g].len();
            }
        }
        let mut index: SmallVec<[usize; 6]> = ranges[..matrix].iter().map(|r| r.start).collect();
        let (rows, cols) = (&ranges[matrix], &ranges[matrix + 1]);
        let pitch = self.groups[matrix + 1].len;
        loop {
            let (mut start, mut to, mut at) = (rows.start * pitch + cols.start, 0, 0);
            for (g, &i) in index.iter().enumerate() {
                start += i * strides[g].0;
                to += (i - ranges[g].start) * strides[g].1;
                at += i * strides[g].2;
            }
            let acc = unsafe { acc.add(to * self.kernel.acc_bytes) };
            unsafe {
                if self.groups[matrix].reduced {
                    self.columns(s, start, at + rows.start, rows.len(), cols.len(), pitch, acc);
                } else {
                    self.rows(s, start, at + cols.start, rows.len(), cols.len(), pitch, acc);
                }
            }
            let Some(g) = (0..matrix).rev().find(|&g| index[g] + 1 < ranges[g].end) else { return };
            index[g] += 1;
            (g + 1..matrix).for_each(|g| index[g] = ranges[g].start);
        }
    }

    /// The program's values at `n` places from `start` on.
    #[inline(always)]
    unsafe fn values(&self, s: &mut State, start: usize, n: usize) -> *const u8 {
        unsafe { s.run(self.c, self.code, Tile::Run { start, n }) };
        s.pointer(self.result)
    }

    /// Reduces each row of a matrix; the first begins at `start`, and at position `at` of the reduced axes.
    #[allow(clippy::too_many_arguments)]
    unsafe fn rows(&self, s: &mut State, start: usize, at: usize, rows: usize, cols: usize, pitch: usize, acc: *mut u8) {
        let (tile, bytes) = (self.c.tile, self.kernel.acc_bytes);
        unsafe {
            if cols == pitch && cols < CHUNK {
                let many = tile / cols;
                for r in (0..rows).step_by(many) {
                    let n = many.min(rows - r);
                    let x = self.values(s, start + r * pitch, n * cols);
                    (self.kernel.rows)(x, n, cols, at, acc.add(r * bytes));
                }
                return;
            }
            for r in 0..rows {
                for c in (0..cols).step_by(tile) {
                    let n = tile.min(cols - c);
                    let x = self.values(s, start + r * pitch + c, n);
                    (self.kernel.rows)(x, 1, n, at + c, acc.add(r * bytes));
                }
            }
        }
    }

    /// Reduces each column of a matrix.
    #[allow(clippy::too_many_arguments)]
    unsafe fn columns(&self, s: &mut State, start: usize, at: usize, rows: usize, cols: usize, pitch: usize, acc: *mut u8) {
        let m = abreast(pitch);
        unsafe {
            if m > 1 {
                let (whole, rest) = (rows / m, rows % m);
                self.strip(s, start, whole, m * cols, m * cols, cols, at, m, acc);
                if rest > 0 {
                    self.strip(s, start + whole * m * cols, 1, rest * cols, rest * cols, cols, at + whole * m, m, acc);
                }
                return;
            }
            for c in (0..cols).step_by(COLUMNS) {
                let width = COLUMNS.min(cols - c);
                self.strip(s, start + c, rows, pitch, width, width, at, 1, acc.add(c * self.kernel.acc_bytes));
            }
        }
    }

    /// `rows` rows of `width` elements, `pitch` apart, that hold rows of `cols` columns side by side; `step` positions from row to row.
    #[allow(clippy::too_many_arguments)]
    unsafe fn strip(
        &self,
        s: &mut State,
        start: usize,
        rows: usize,
        pitch: usize,
        width: usize,
        cols: usize,
        at: usize,
        step: usize,
        acc: *mut u8,
    ) {
        let mut lanes = memory(width * self.kernel.lane_bytes);
        let lanes: *mut u8 = lanes.as_mut_ptr().cast();
        let tile = self.c.tile;
        // Several rows a tile, or several tiles a row.
        let many = if pitch == width { (tile / width).max(1) } else { 1 };
        for block in (0..rows).step_by(BLOCK) {
            let end = rows.min(block + BLOCK);
            unsafe {
                (self.kernel.start_lanes)(width, lanes);
                for r in (block..end).step_by(many) {
                    let (rows, number, row) = (many.min(end - r), (r - block) as u32, start + r * pitch);
                    if width <= tile {
                        let x = self.values(s, row, rows * width);
                        (self.kernel.columns)(x, rows, width, number, lanes);
                        continue;
                    }
                    for c in (0..width).step_by(tile) {
                        let n = tile.min(width - c);
                        let x = self.values(s, row + c, n);
                        (self.kernel.columns)(x, 1, n, number, lanes.add(c * self.kernel.lane_bytes));
                    }
                }
                (self.kernel.flush)(lanes, width, cols, at + block * step, step, acc);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fused::tests::{ADD, EXP, MUL, call, data, layouts, operand, oracle, read, shapes};
    use super::*;
    use crate::DType;
    use crate::layout::Layout;

    const KINDS: [ReduceKind; 9] = [
        ReduceKind::Sum,
        ReduceKind::Mean,
        ReduceKind::Prod,
        ReduceKind::Max,
        ReduceKind::Min,
        ReduceKind::ArgMax,
        ReduceKind::ArgMin,
        ReduceKind::Any,
        ReduceKind::All,
    ];

    fn out_dtype(kind: ReduceKind, dtype: DType) -> DType {
        match kind {
            ReduceKind::ArgMax | ReduceKind::ArgMin => DType::I32,
            ReduceKind::Any | ReduceKind::All => DType::Bool,
            ReduceKind::Sum | ReduceKind::Prod if !dtype.is_float() => DType::I64,
            ReduceKind::Mean if !dtype.is_float() => DType::F32,
            _ => dtype,
        }
    }

    /// Straightforward: the values of the space in f64, the flags, the kind.
    fn reference(values: &[f64], shape: &[usize], reduced: &[bool], kind: ReduceKind) -> Vec<f64> {
        let kept: Shape = shape.iter().zip(reduced).filter(|(_, r)| !**r).map(|(&d, _)| d).collect();
        let mut lists = vec![Vec::new(); kept.numel()];
        for (i, &v) in values.iter().enumerate() {
            let (mut rest, mut to, mut stride) = (i, 0, 1);
            for d in (0..shape.len()).rev() {
                if !reduced[d] {
                    to += rest % shape[d] * stride;
                    stride *= shape[d];
                }
                rest /= shape[d];
            }
            lists[to].push(v);
        }
        let arg = |l: &[f64], better: fn(f64, f64) -> bool| {
            (1..l.len()).fold(0, |b, i| if !l[b].is_nan() && (l[i].is_nan() || better(l[i], l[b])) { i } else { b })
        };
        let (more, less): (fn(f64, f64) -> bool, fn(f64, f64) -> bool) = (|a, b| a > b, |a, b| a < b);
        let one = |l: &Vec<f64>| match kind {
            ReduceKind::Sum => l.iter().sum(),
            ReduceKind::Mean => l.iter().sum::<f64>() / l.len() as f64,
            ReduceKind::Prod => l.iter().product(),
            ReduceKind::Max => l[arg(l, more)],
            ReduceKind::Min => l[arg(l, less)],
            ReduceKind::ArgMax => arg(l, more) as f64,
            ReduceKind::ArgMin => arg(l, less) as f64,
            ReduceKind::Any => l.iter().any(|&v| v != 0.0) as u8 as f64,
            ReduceKind::All => l.iter().all(|&v| v != 0.0) as u8 as f64,
        };
        lists.iter().map(one).collect()
    }

    fn kernel_of(shape: &Shape, reduced: &[bool], kind: ReduceKind, dtype: DType, layout: &Layout) -> FusedReduce {
        FusedReduce {
            kind,
            shape: shape.clone(),
            reduced: reduced.to_vec(),
            program: Program { instrs: vec![Instr::Load(0)], scalars: vec![], stores: vec![(0, dtype.compute())] },
            operands: vec![operand(0, dtype, layout)],
            scalars: vec![],
            output: 1,
            out_dtype: out_dtype(kind, dtype),
        }
    }

    fn outputs(k: &FusedReduce) -> usize {
        k.shape.iter().zip(&k.reduced).filter(|(_, r)| !**r).map(|(&d, _)| d).product()
    }

    fn check(k: &FusedReduce, x: &CpuBuffer, context: &str) {
        let layout = Layout { shape: k.shape.clone(), strides: k.operands[0].strides.clone(), offset: k.operands[0].offset };
        let dtype = k.operands[0].dtype;
        let values: Vec<f64> = layout.positions().map(|p| read(x, dtype, p)).collect();
        let y = CpuBuffer::new(outputs(k) * k.out_dtype.size()).unwrap();
        reduce(k, &[x, &y], &[]);
        let want = reference(&values, &k.shape, &k.reduced, k.kind);
        let (exact, sums) = (matches!(k.kind, ReduceKind::Sum | ReduceKind::Mean | ReduceKind::Prod), k.kind == ReduceKind::Sum);
        for (i, &w) in want.iter().enumerate() {
            let got = read(&y, k.out_dtype, i);
            let w = match k.out_dtype {
                DType::F32 => w as f32 as f64,
                DType::F16 => half::f16::from_f64(w).to_f64(),
                _ => w,
            };
            let scale = match k.out_dtype {
                DType::F16 => 1e-3,
                DType::BF16 => 8e-3,
                DType::F64 => 1e-13,
                DType::F32 => 3e-7,
                _ => 0.0,
            };
            let size = if sums && exact { (k.shape.numel() / want.len()) as f64 * 0.05 + w.abs() } else { w.abs() };
            let near = got == w || (exact && (got - w).abs() <= scale * size.max(1e-3)) || (got.is_nan() && w.is_nan());
            assert!(near, "{context} {:?} of {dtype} over {:?} of {}: {got}, not {w}, at {i}; {layout:?}", k.kind, k.reduced, k.shape);
        }
    }

    fn flags(rank: usize) -> impl Iterator<Item = Vec<bool>> {
        (0..1usize << rank.min(4)).map(move |bits| (0..rank).map(|d| bits >> (d % 4) & 1 == 1).collect())
    }

    #[test]
    fn all_kinds_over_all_axes() {
        for shape in shapes().into_iter().filter(|s| s.numel() > 0 && s.numel() < 100_000) {
            let all = layouts(&shape);
            for (i, reduced) in flags(shape.rank()).enumerate() {
                for (j, kind) in KINDS.into_iter().enumerate() {
                    for (d, dtype) in DType::ALL.into_iter().enumerate() {
                        let layout = if shape.numel() > 2000 && d > 0 { &all[0] } else { &all[(i + j + d) % all.len()] };
                        if kind == ReduceKind::Prod && (dtype.is_int() || shape.numel() > 400) {
                            continue;
                        }
                        let x = data(dtype, 2 * shape.numel() + 64, i);
                        check(&kernel_of(&shape, &reduced, kind, dtype, layout), &x, "");
                    }
                }
            }
        }
    }

    #[test]
    fn nan_wins_and_ties_go_to_the_first() {
        for (shape, reduced) in
            [([4000, 3], [true, false]), ([3, 4000], [false, true]), ([1500, 300], [true, false]), ([20, 20], [true, true])]
        {
            let n = shape.iter().product();
            let x = data(DType::F32, n, 1);
            for at in [n - 1, n / 2, n / 3, 5] {
                unsafe { x.slice_mut::<f32>()[at] = f32::NAN };
                for kind in [ReduceKind::Max, ReduceKind::Min, ReduceKind::ArgMax, ReduceKind::ArgMin, ReduceKind::Any] {
                    let shape = Shape::from(shape);
                    check(&kernel_of(&shape, &reduced, kind, DType::F32, &Layout::contiguous(shape.clone())), &x, "nan");
                }
            }
        }
    }

    #[test]
    fn nothing_gives_the_identity() {
        let y = CpuBuffer::new(3 * 4).unwrap();
        for (kind, want) in [(ReduceKind::Sum, 0.0), (ReduceKind::Prod, 1.0), (ReduceKind::Mean, f64::NAN)] {
            let shape = Shape::from([3, 0]);
            let x = CpuBuffer::new(0).unwrap();
            reduce(&kernel_of(&shape, &[false, true], kind, DType::F32, &Layout::contiguous(shape.clone())), &[&x, &y], &[]);
            assert!(
                (0..3).all(|i| read(&y, DType::F32, i).to_bits() == want.to_bits() || want.is_nan() && read(&y, DType::F32, i).is_nan())
            );
        }
    }

    #[test]
    fn neither_threads_nor_strides_nor_fusion_change_a_bit() {
        let pools: Vec<rayon::ThreadPool> = [1, 2, 3].map(|n| crate::backend::cpu::threads::workers(n).unwrap()).into();
        let cases: [(&[usize], &[bool]); 10] = [
            (&[700_001], &[true]),
            (&[3, 200_001], &[false, true]),
            (&[200_001, 3], &[true, false]),
            (&[1031, 617], &[true, false]),
            (&[1031, 617], &[false, true]),
            (&[64, 32, 333], &[true, false, true]),
            (&[40, 333, 50], &[false, true, false]),
            (&[5, 6, 7, 8, 9, 10], &[true, false, true, true, false, true]),
            (&[70_000, 2, 5], &[true, false, true]),
            (&[2, 300, 900], &[true, true, false]),
        ];
        for (shape, reduced) in cases {
            let shape: Shape = shape.iter().copied().collect();
            let n = shape.numel();
            let x = data(DType::F32, 2 * n, 3);
            unsafe { x.slice_mut::<f32>().iter_mut().enumerate().for_each(|(i, v)| *v *= 1.0 + (i % 97) as f32 / 89.0) };
            // The same values with their axes in reverse order in memory.
            let order: Vec<usize> = (0..shape.rank()).rev().collect();
            let back: Shape = order.iter().map(|&d| shape[d]).collect();
            let turned = Layout::contiguous(back).permute(&order);
            let y = CpuBuffer::new(n * 4).unwrap();
            unsafe { turned.positions().enumerate().for_each(|(i, p)| y.slice_mut::<f32>()[p] = x.slice::<f32>()[i]) };
            for kind in [ReduceKind::Sum, ReduceKind::ArgMax] {
                let plain = kernel_of(&shape, reduced, kind, DType::F32, &Layout::contiguous(shape.clone()));
                let strided = kernel_of(&shape, reduced, kind, DType::F32, &turned);
                let outs: Vec<CpuBuffer> = (0..4).map(|_| CpuBuffer::new(outputs(&plain) * 4).unwrap()).collect();
                for (pool, out) in pools.iter().zip(&outs) {
                    pool.install(|| reduce(&plain, &[&x, out], &[]));
                }
                reduce(&strided, &[&y, &outs[3]], &[]);
                let bits = |b: &CpuBuffer| unsafe { b.slice::<u32>().to_vec() };
                assert!(outs.windows(2).all(|w| bits(&w[0]) == bits(&w[1])), "{kind:?} {shape} {reduced:?}");
            }
        }
    }

    #[test]
    fn a_program_is_reduced_without_its_values_in_memory() {
        let shape = Shape::from([130, 257]);
        let n = shape.numel();
        let (x, b) = (data(DType::F16, n, 1), data(DType::F32, 257, 2));
        let program = Program {
            instrs: vec![Instr::Load(0), Instr::Load(1), call(&MUL, &[0, 1]), call(&EXP, &[2]), Instr::Scalar(0), call(&ADD, &[3, 4])],
            scalars: vec![DType::F32],
            stores: vec![(5, DType::F32)],
        };
        let row = Layout::contiguous([257].into()).expand(&shape);
        let operands = vec![operand(0, DType::F16, &Layout::contiguous(shape.clone())), operand(1, DType::F32, &row)];
        let scalars = [Scalar::Float(0.25)];
        let values: Vec<f64> = oracle(&program, &shape, &operands, &[&x, &b], &scalars)[0].iter().map(|&v| v as f64).collect();
        for reduced in [[true, false], [false, true], [true, true]] {
            let mut k = kernel_of(&shape, &reduced, ReduceKind::Sum, DType::F32, &row);
            (k.program, k.operands, k.output) = (program.clone(), operands.clone(), 2);
            let y = CpuBuffer::new(outputs(&k) * 4).unwrap();
            reduce(&k, &[&x, &b, &y], &scalars);
            for (i, want) in reference(&values, &shape, &reduced, ReduceKind::Sum).into_iter().enumerate() {
                assert!((read(&y, DType::F32, i) - want).abs() < 1e-6 * want, "{reduced:?} at {i}");
            }
        }
    }

    #[test]
    fn long_sums_stay_accurate() {
        let n = 3_000_000;
        let x = CpuBuffer::new(4 * n).unwrap();
        unsafe { x.slice_mut::<f32>().fill(0.1) };
        for (shape, reduced) in [([n, 1], [true, true]), ([n / 2, 2], [true, false])] {
            let k = kernel_of(&Shape::from(shape), &reduced, ReduceKind::Sum, DType::F32, &Layout::contiguous(Shape::from(shape)));
            let y = CpuBuffer::new(outputs(&k) * 4).unwrap();
            reduce(&k, &[&x, &y], &[]);
            let want = (n / outputs(&k)) as f64 * 0.1f32 as f64;
            assert!((read(&y, DType::F32, 0) - want).abs() < 5e-7 * want);
        }
    }
}

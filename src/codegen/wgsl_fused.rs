//! Fused pointwise programs as WGSL.
//!
//! An invocation computes four neighbouring elements, so that packed dtypes own whole words. The text depends on rank, dtypes, classes of
//! strides and alignment; sizes, strides and offsets are parameters.

use super::dispatch::{Caps, Dispatch, GpuStep, Placed, Slot, Window, grid, work};
use super::kernel::{Fused, Operand, collapse};
use super::wgsl_program::{Access, Builder, Walk, failed, label};
use crate::{Result, Shape};
use std::fmt::Write;
use std::ops::Range;

const GROUP: usize = 256;
/// Elements of a workgroup; pieces of a split kernel are multiples of it, which keeps every output's offset aligned.
const TILE: usize = GROUP * 4;

/// The dispatch of a fused kernel, for buffers that fit into one binding each.
///
/// # Errors
/// `Error::Kernel` for dtypes or functions that the GPU does not have.
#[cfg(test)]
pub(crate) fn fused(k: &Fused, caps: &Caps) -> Result<Dispatch> {
    match fused_pieces(k, caps)?.map(|mut pieces| (pieces.len(), pieces.remove(0).step)) {
        Some((1, GpuStep::Dispatch(d))) => Ok(d),
        _ => Err(failed(format!("a buffer exceeds the largest binding, {} bytes", caps.max_binding))),
    }
}

/// The dispatches of a fused kernel: several, for ranges of the output, where a buffer exceeds the largest binding or the work is long. `None`
/// where even a small range needs more of an input than fits into a binding.
///
/// # Errors
/// `Error::Kernel` for dtypes or functions that the GPU does not have.
pub(crate) fn fused_pieces(k: &Fused, caps: &Caps) -> Result<Option<Vec<Placed>>> {
    let (mut shape, mut operands) = (k.shape.clone(), k.operands.clone());
    collapse(&mut shape, None, &mut operands);
    let n = shape.numel();
    if n > u32::MAX as usize - 2 * TILE {
        return Err(failed(format!("{n} elements: a kernel handles at most 2^32")));
    }
    let fits = |r: &Range<usize>| windows(k, &shape, &operands, r, caps).is_some();
    // The work of an element, and how many are enough for a dispatch.
    let bytes: usize = operands.iter().filter(|o| o.buffer.is_some()).map(|o| o.dtype.gpu_size()).sum();
    let stored: usize = k.program.stores.iter().map(|s| s.1.gpu_size()).sum();
    let enough = caps.max_work / work(k.program.instrs.len() as u64, (bytes + stored) as u64).max(1);
    let mut step = n.max(1);
    while (step as u64 > enough || !fits(&(0..step.min(n)))) && step > TILE {
        step = (step / 2).next_multiple_of(TILE);
    }
    let mut pieces = Vec::new();
    let mut start = 0;
    loop {
        let mut end = (start + step).min(n);
        let bases = loop {
            if let Some(bases) = windows(k, &shape, &operands, &(start..end), caps) {
                break bases;
            }
            if end - start <= TILE {
                return Ok(None);
            }
            end = start + ((end - start) / 2).next_multiple_of(TILE);
        };
        pieces.push(piece(k, &shape, &operands, start..end, &bases)?);
        start = end;
        if start >= n {
            return Ok(Some(pieces));
        }
    }
}

/// What each buffer's binding must show for a range of the output, by buffer; `None` where one would be too long.
fn windows(k: &Fused, shape: &Shape, operands: &[Operand], range: &Range<usize>, caps: &Caps) -> Option<Vec<(usize, Window)>> {
    let mut spans: Vec<(usize, u64, u64)> = Vec::new();
    let mut add = |buffer: usize, from: usize, to: usize, size: usize| {
        let (from, to) = (from as u64 * size as u64, (to as u64 * size as u64).next_multiple_of(16));
        match spans.iter_mut().find(|s| s.0 == buffer) {
            Some(s) => (s.1, s.2) = (s.1.min(from), s.2.max(to)),
            None => spans.push((buffer, from, to)),
        }
    };
    for (&b, (_, dtype)) in k.outputs.iter().zip(&k.program.stores) {
        add(b, range.start, range.end, dtype.gpu_size());
    }
    for o in operands {
        if let Some(b) = o.buffer {
            let (from, to) = reach(shape, o, range);
            add(b, from, to, o.dtype.gpu_size());
        }
    }
    let align = (caps.offset_alignment as u64).max(16);
    let written = |b: usize| k.outputs.contains(&b);
    spans
        .into_iter()
        .map(|(b, from, to)| {
            // An output's first element is at the start of its window, because the kernel indexes it from there.
            let base = if to <= caps.max_binding && !(written(b) && from > 0) { 0 } else { from / align * align };
            (to - base <= caps.max_binding).then_some((b, Window { from: base, bytes: (to - base).max(16) }))
        })
        .collect()
}

/// The first position, and one past the last, that an operand reaches while the linear index is in `range`.
fn reach(shape: &Shape, o: &Operand, range: &Range<usize>) -> (usize, usize) {
    if range.is_empty() {
        return (o.offset, o.offset);
    }
    let (mut low, mut high) = (o.offset as isize, o.offset as isize);
    let (mut a, mut b) = (range.start, range.end - 1);
    let mut whole = false;
    for d in 0..shape.rank() {
        let inner: usize = shape[d + 1..].iter().product();
        let (first, last) = if whole { (0, shape[d] - 1) } else { (a / inner, b / inner) };
        let (x, y) = (first as isize * o.strides[d], last as isize * o.strides[d]);
        low += x.min(y);
        high += x.max(y);
        whole |= first != last;
        (a, b) = (a % inner, b % inner);
    }
    (low.max(0) as usize, high.max(0) as usize + 1)
}

/// One dispatch, for a range of the output.
fn piece(k: &Fused, shape: &Shape, operands: &[Operand], range: Range<usize>, bases: &[(usize, Window)]) -> Result<Placed> {
    let window_of = |buffer: usize| bases.iter().find(|(b, _)| *b == buffer).map_or(Window::default(), |(_, w)| *w);
    let rank = shape.rank();
    let count = range.len();
    for o in operands.iter().filter(|o| o.buffer.is_some_and(|b| k.outputs.contains(&b))) {
        let dense = crate::layout::row_major(shape);
        let same = o.offset == 0 && (0..rank).all(|d| shape[d] == 1 || o.strides[d] == dense[d]);
        if !same {
            return Err(failed("an operand that is overwritten in place must have the output's layout".into()));
        }
    }
    let mut b = Builder::default();
    let end = b.field("end", "u32", count);
    let start = b.field("start", "u32", range.start);
    let quads = shape[rank - 1].is_multiple_of(4);
    let base = |o: &Operand| o.buffer.map_or(0, |x| (window_of(x).from / o.dtype.gpu_size() as u64) as usize);
    let accesses = b.accesses(&k.program, shape, operands, &base, range.start, true, quads)?;
    let mut outputs = Vec::new();
    for (&buffer, &(_, dtype)) in k.outputs.iter().zip(&k.program.stores) {
        let binding = b.bind(Slot::Buffer(buffer), true);
        b.widen(binding, dtype);
        outputs.push((binding, dtype));
    }
    let strided = accesses.iter().any(|a| a.walk == Walk::Strided);
    let sizes: Vec<String> = if strided { (1..rank).map(|d| b.field(format!("d{d}"), "u32", shape[d])).collect() } else { Vec::new() };
    b.add_scalars(&k.program, &k.scalars)?;
    let mut main = String::new();
    if strided {
        let coords = coordinates(&mut main, &format!("at + {start}"), &sizes, !quads);
        if quads {
            for a in &accesses {
                load_quad(&b, &mut main, a, &coords, &end);
            }
        } else {
            for a in accesses.iter().filter(|a| a.walk != Walk::Strided) {
                load_quad(&b, &mut main, a, &coords, &end);
            }
            for j in 0..4 {
                for a in accesses.iter().filter(|a| a.walk == Walk::Strided) {
                    let k = a.k;
                    let _ = writeln!(main, "    let e{k}_{j} = {};", a.position(&coords));
                    let _ = writeln!(main, "    let x{k}_{j} = {};", b.element(a, &format!("e{k}_{j}")));
                }
                if j < 3 {
                    advance(&mut main, &coords, &sizes, &format!("at + {}u < {end}", j + 1));
                }
            }
        }
    } else {
        for a in &accesses {
            load_quad(&b, &mut main, a, &[], &end);
        }
    }
    for j in 0..4 {
        let _ = writeln!(main, "    let y_{j} = {};", b.call(&accesses, j));
    }
    for (i, &(binding, dtype)) in outputs.iter().enumerate() {
        b.store(&mut main, binding, dtype, "at", &|j| format!("y_{j}.y{i}"))?;
    }
    let program = b.program(&k.program, operands)?;
    let source = format!(
        "struct Params {{ {} }}\n@group(1) @binding(0) var<uniform> p: Params;\n{}{program}\
@compute @workgroup_size({GROUP})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {{
    let at = (wid.x + wid.y * num.x) * {TILE}u + lid * 4u;
    if (at >= {end}) {{ return; }}
{main}}}
",
        b.fields,
        b.declarations()
    );
    let windows = b.bindings.iter().map(|x| if let Slot::Buffer(i) = x.slot { window_of(i) } else { Window::default() }).collect();
    let dispatch = Dispatch {
        label: label("fused", &k.program),
        source: source.into(),
        bindings: b.bindings,
        params: b.params,
        groups: grid(count.div_ceil(TILE)),
        flops: count as u64 * k.program.flops(),
    };
    Ok(Placed { step: GpuStep::Dispatch(dispatch), windows })
}

/// Declares the coordinates `c0`, `c1`, … of a linear index; `sizes` are those of dimensions 1 and up.
pub(super) fn coordinates(out: &mut String, linear: &str, sizes: &[String], mutable: bool) -> Vec<String> {
    let word = if mutable { "var" } else { "let" };
    let _ = writeln!(out, "    let q{} = {linear};", sizes.len());
    for d in (1..=sizes.len()).rev() {
        let size = &sizes[d - 1];
        let _ = writeln!(out, "    let q{} = q{d} / {size};\n    {word} c{d} = q{d} - q{} * {size};", d - 1, d - 1);
    }
    let _ = writeln!(out, "    {word} c0 = q0;");
    (0..=sizes.len()).map(|d| format!("c{d}")).collect()
}

/// Moves mutable coordinates to the next element, while `inside` holds.
fn advance(out: &mut String, coords: &[String], sizes: &[String], inside: &str) {
    let _ = writeln!(out, "    if ({inside}) {{");
    for d in (0..coords.len()).rev() {
        let _ = writeln!(out, "    {} += 1u;", coords[d]);
        if d > 0 {
            let _ = writeln!(out, "    if ({0} == {1}) {{ {0} = 0u;", coords[d], sizes[d - 1]);
        }
    }
    let _ = writeln!(out, "    {}", "}".repeat(coords.len()));
}

/// Loads the four elements from linear index `at` (or from the coordinates, which hold for all four) on into `x{k}_0` to `x{k}_3`.
fn load_quad(b: &Builder, out: &mut String, a: &Access, coords: &[String], end: &str) {
    let k = a.k;
    match a.walk {
        Walk::Linear if a.vector => {
            let _ = writeln!(out, "    let e{k} = at + {};", a.offset());
            b.vector(out, a, &format!("e{k}"));
        }
        Walk::Linear => {
            // Four reads from here could pass the end of the buffer.
            for j in 0..4 {
                let _ = writeln!(out, "    let e{k}_{j} = min(at + {j}u, {end} - 1u) + {};", a.offset());
                let _ = writeln!(out, "    let x{k}_{j} = {};", b.element(a, &format!("e{k}_{j}")));
            }
        }
        Walk::Scalar => {
            let _ = writeln!(out, "    let e{k} = {};\n    let x{k}_0 = {};", a.offset(), b.element(a, &format!("e{k}")));
            for j in 1..4 {
                let _ = writeln!(out, "    let x{k}_{j} = x{k}_0;");
            }
        }
        Walk::Strided => load_inner(b, out, a, &a.position(coords)),
    }
}

/// Loads four neighbours along the innermost dimension, the first at a position.
pub(super) fn load_inner(b: &Builder, out: &mut String, a: &Access, position: &str) {
    let k = a.k;
    let _ = writeln!(out, "    let e{k} = {position};");
    match a.inner() {
        _ if a.vector => b.vector(out, a, &format!("e{k}")),
        None => {
            let _ = writeln!(out, "    let x{k}_0 = {};", b.element(a, &format!("e{k}")));
            for j in 1..4 {
                let _ = writeln!(out, "    let x{k}_{j} = x{k}_0;");
            }
        }
        Some(stride) => {
            for j in 0..4 {
                let _ = writeln!(out, "    let e{k}_{j} = e{k} + {j}u * {stride};");
                let _ = writeln!(out, "    let x{k}_{j} = {};", b.element(a, &format!("e{k}_{j}")));
            }
        }
    }
}

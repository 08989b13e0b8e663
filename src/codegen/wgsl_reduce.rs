//! Reductions as WGSL.
//!
//! A workgroup of 256 invocations serves `256 / lanes` outputs with `lanes` invocations each: they stride over the reduced elements, then a
//! tree in workgroup memory joins what they found. Where the innermost dimension is reduced, the lanes of an output are neighbours (a row);
//! where it is kept, the outputs are (columns): either way neighbours read neighbours. Few outputs of many elements take two stages, with
//! the partial results in a temporary. All of it depends on the shape alone, so results do too.

use super::dispatch::{Caps, Dispatch, GpuStep, Param, Placed, Slot, Window, grid};
use super::kernel::{Fused, FusedReduce, Operand, ReduceKind, ScalarRef, collapse};
use super::program::{Instr, Program};
use super::wgsl_fused::{fused_pieces, load_inner};
use super::wgsl_program::{Access, Builder, cast, failed, label, to_word, type_of};
use super::wgsl_reduce_parts::{Region, regions};
use crate::layout::{Layout, row_major};
use crate::{DType, Result, Shape};
use smallvec::smallvec;
use std::fmt::Write;

const GROUP: usize = 256;
/// Below so many invocations a GPU is not full, and the reduction is split further.
const ENOUGH: usize = 1 << 16;
/// A lane gets at least so many elements before the reduction is split.
const LEAST: usize = 16;
const MAX_PARTS: usize = 256;

/// The steps of a reduction, and the sizes in bytes of its temporaries. Where an operand exceeds the largest binding (or the work is long),
/// several dispatches reduce parts of it: kept dimensions are cut where that helps, else partial results of ranges of the outermost reduced
/// dimension are joined.
///
/// # Errors
/// `Error::Kernel` for dtypes or functions that the GPU does not have, and for operands whose parts cannot be bound.
pub(crate) fn reduce(k: &FusedReduce, caps: &Caps) -> Result<(Vec<Placed>, Vec<usize>)> {
    let (mut shape, mut reduced, mut operands) = (k.shape.clone(), k.reduced.clone(), k.operands.clone());
    collapse(&mut shape, Some(&mut reduced), &mut operands);
    let &[(_, stored)] = &k.program.stores[..] else { return Err(failed("a reduction has one store".into())) };
    // What is accumulated: the elements' own type, but f32 for a mean, and words for truth values.
    let acc = match k.kind {
        ReduceKind::Mean => DType::F32,
        ReduceKind::Any | ReduceKind::All => DType::U32,
        _ if stored.compute() == DType::Bool || stored == DType::U8 => DType::U32,
        _ => stored.compute(),
    };
    let kept = |shape: &Shape| -> usize { shape.iter().zip(&reduced).filter(|(_, r)| !**r).map(|(d, _)| d).product() };
    let total: usize = shape.iter().zip(&reduced).filter(|(_, r)| **r).map(|(d, _)| d).product();
    let all = kept(&shape);
    let arg = matches!(k.kind, ReduceKind::ArgMax | ReduceKind::ArgMin);
    let result = if arg { DType::I32 } else { acc };
    let packed = k.out_dtype.gpu_size() < 4;
    let (mut steps, mut temps) = (Vec::new(), Vec::new());
    let regions = regions(&shape, &reduced, &operands, caps)?;
    // The temporaries of partial results are shared by the regions; words for a packed output come after them.
    let unpacked = 1 + arg as usize;
    let mut partial_bytes = 0;
    for Region { shape, operands, first, ranges } in &regions {
        let outputs = kept(shape);
        let to = match packed {
            true => Target::Temp(unpacked, result),
            false => Target::Buffer(k.output, k.out_dtype),
        };
        let stage = |shape, partial, split, base| Stage {
            kind: k.kind,
            acc,
            stored: if partial { acc } else { stored },
            total,
            shape,
            reduced: &reduced,
            partial,
            split,
            base,
            caps,
        };
        if shape.numel() > u32::MAX as usize / 2 {
            return Err(failed(format!("a reduction over {} elements: at most 2^31", shape.numel())));
        }
        let count = |shape: &Shape| -> usize { shape.iter().zip(&reduced).filter(|(_, r)| **r).map(|(d, _)| d).product() };
        let split = Split::new(shape, &reduced, outputs, count(shape));
        if ranges.len() == 1 && split.parts == 1 {
            steps.push(stage(shape, false, split, *first).step(&k.program, operands, &k.scalars, to)?);
            continue;
        }
        // Each range of the reduced dimensions leaves some partial results an output; a single one keeps the order of its kind.
        let parts: Vec<(&Shape, Split, &Vec<Operand>, usize)> = match ranges.len() {
            1 => vec![(shape, split, operands, 0)],
            _ => ranges
                .iter()
                .map(|r| (&r.shape, Split::new(&r.shape, &reduced, outputs, count(&r.shape)), &r.operands, r.position))
                .collect(),
        };
        let columns = ranges.len() > 1 || split.columns;
        let all_parts: usize = parts.iter().map(|p| p.1.parts).sum();
        partial_bytes = partial_bytes.max(outputs * all_parts * 4);
        let mut at = 0;
        for (shape, split, operands, position) in parts {
            let to = Target::Partials { columns, first: at * outputs, position };
            steps.push(stage(shape, false, split, 0).step(&k.program, operands, &k.scalars, to)?);
            at += split.parts;
        }
        let (shape, reduced) = match columns {
            true => (Shape::from([all_parts, outputs]), [true, false]),
            false => (Shape::from([outputs, all_parts]), [false, true]),
        };
        let program = Program { instrs: vec![Instr::Load(0)], scalars: Vec::new(), stores: vec![(0, acc)] };
        let operand = Operand { buffer: Some(0), dtype: acc, strides: row_major(&shape), offset: 0 };
        let split = Split { parts: 1, span: all_parts, ..Split::new(&shape, &reduced, outputs, all_parts) };
        let second = Stage { reduced: &reduced, ..stage(&shape, true, split, *first) };
        steps.push(second.step(&program, &[operand], &[], to)?);
    }
    if partial_bytes > 0 || packed {
        temps = vec![partial_bytes; unpacked];
    }
    if packed {
        temps.push(all * 4);
        steps.extend(pack(all, unpacked, result, k.output, k.out_dtype, caps)?);
    }
    if temps.iter().any(|&t| t as u64 > caps.max_binding) {
        let most = temps.iter().max().copied().unwrap_or(0);
        return Err(failed(format!(
            "the partial results of {all} outputs take {most} bytes: this device binds at most {}",
            caps.max_binding
        )));
    }
    Ok((steps, temps))
}

/// The steps from a temporary of words to a packed output.
fn pack(n: usize, temp: usize, from: DType, output: usize, to: DType, caps: &Caps) -> Result<Vec<Placed>> {
    let mut program = Program::default();
    let value = program.push(Instr::Load(0));
    let value = program.push(Instr::Cast { arg: value, from, to });
    program.stores = vec![(value, to)];
    let operands = vec![Operand { buffer: Some(0), dtype: from, strides: smallvec![1], offset: 0 }];
    let k = Fused { shape: n.into(), program, operands, scalars: Vec::new(), outputs: vec![1] };
    let mut steps = fused_pieces(&k, caps)?.unwrap_or_default();
    for placed in &mut steps {
        if let GpuStep::Dispatch(d) = &mut placed.step {
            for b in &mut d.bindings {
                b.slot = if b.slot == Slot::Buffer(0) { Slot::Temp(temp) } else { Slot::Buffer(output) };
            }
        }
    }
    Ok(steps)
}

/// How the work is divided.
#[derive(Clone, Copy, Debug)]
struct Split {
    /// The innermost dimension is kept: neighbouring invocations serve neighbouring outputs.
    columns: bool,
    /// Four elements a load, along the innermost dimension.
    quads: bool,
    /// Invocations an output, a power of two.
    lanes: usize,
    /// Workgroups an output, and the elements of each.
    parts: usize,
    span: usize,
}

impl Split {
    fn new(shape: &[usize], reduced: &[bool], outputs: usize, total: usize) -> Split {
        let last = shape.len() - 1;
        let columns = !reduced[last];
        let quads = !columns && shape[last].is_multiple_of(4);
        let width = if quads { 4 } else { 1 };
        let work = total.div_ceil(width);
        let lanes = if columns {
            let side = outputs.next_power_of_two().min(32);
            let most = work.max(1).next_power_of_two().min(GROUP / side);
            if outputs >= ENOUGH { 1 } else { most }
        } else {
            match work {
                0..=8 => 1,
                9..=64 => 16,
                65..=1024 if outputs * 64 >= ENOUGH => 64,
                _ => GROUP,
            }
        };
        let invocations = outputs.max(1).next_multiple_of(GROUP / lanes) * lanes;
        let parts = (work / (lanes * LEAST)).min(ENOUGH / invocations).clamp(1, MAX_PARTS);
        let span = work.div_ceil(parts) * width;
        // Rounding up may leave the last parts empty.
        let parts = if parts == 1 { 1 } else { total.div_ceil(span) };
        Split { columns, quads, lanes, parts, span }
    }
}

/// Where a stage writes.
#[derive(Clone, Copy)]
enum Target {
    /// Temporary 0, and 1 for the positions of an arg form; part by part (`columns`) or output by output, from element `first` on. The
    /// positions count from `position`.
    Partials {
        columns: bool,
        first: usize,
        position: usize,
    },
    /// A temporary with words of a dtype.
    Temp(usize, DType),
    Buffer(usize, DType),
}

struct Stage<'a> {
    kind: ReduceKind,
    acc: DType,
    /// The dtype of the program's store.
    stored: DType,
    /// Elements an output, over all stages.
    total: usize,
    shape: &'a Shape,
    reduced: &'a [bool],
    /// It reads the partial results of an earlier stage.
    partial: bool,
    split: Split,
    /// The first output that it writes.
    base: usize,
    caps: &'a Caps,
}

impl Stage<'_> {
    fn is_arg(&self) -> bool {
        matches!(self.kind, ReduceKind::ArgMax | ReduceKind::ArgMin)
    }

    /// The word that changes nothing; for a mean of nothing, NaN.
    fn identity(&self) -> u32 {
        use ReduceKind::*;
        match (self.kind, self.acc) {
            (Mean, _) if self.total == 0 => f32::NAN.to_bits(),
            (Prod, DType::F32) => 1f32.to_bits(),
            (Prod | All, _) => 1,
            (Max | ArgMax, DType::F32) => f32::NEG_INFINITY.to_bits(),
            (Min | ArgMin, DType::F32) => f32::INFINITY.to_bits(),
            (Max | ArgMax, DType::I32) => i32::MIN as u32,
            (Min | ArgMin, DType::I32) => i32::MAX as u32,
            (Min | ArgMin, _) => u32::MAX,
            _ => 0,
        }
    }

    /// `fx_join(a, b)`, and for the arg forms `fx_better(b, ib, a, ia)`: whether b at ib is to be taken over a at ia.
    fn functions(&self, t: &str) -> String {
        use ReduceKind::*;
        let float = t == "f32";
        let nan = "fn fx_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }\n";
        let join = |e: &str| format!("fn fx_join(a: {t}, b: {t}) -> {t} {{ return {e}; }}\n");
        let sign = if matches!(self.kind, Max | ArgMax) { ">" } else { "<" };
        match self.kind {
            Sum | Mean => join("a + b"),
            Prod => join("a * b"),
            Any => join("a | b"),
            All => join("a & b"),
            Max | Min if float => format!("{nan}{}", join(&format!("select(a, b, b {sign} a || fx_nan(b))"))),
            Max => join("max(a, b)"),
            Min => join("min(a, b)"),
            ArgMax | ArgMin => {
                let head = format!("fn fx_better(b: {t}, ib: u32, a: {t}, ia: u32) -> bool {{\n");
                let nans = "    let na = fx_nan(a);\n    let nb = fx_nan(b);\n    if (na || nb) { return nb && (!na || ib < ia); }\n";
                let tail = format!("    return b {sign} a || (b == a && ib < ia);\n}}\n");
                if float { format!("{nan}{head}{nans}{tail}") } else { format!("{head}{tail}") }
            }
        }
    }

    fn step(&self, program: &Program, operands: &[Operand], scalars: &[ScalarRef], to: Target) -> Result<Placed> {
        let Split { columns, quads, lanes, parts, span } = self.split;
        let (t, arg) = (type_of(self.acc)?, self.is_arg());
        let rank = self.shape.rank();
        let extent = |kept: bool| -> usize { self.shape.iter().zip(self.reduced).filter(|(_, r)| **r != kept).map(|(d, _)| d).product() };
        let (outputs, count) = (extent(true), extent(false));
        let side = GROUP / lanes;
        let groups = outputs.div_ceil(side) * parts;
        let mut b = Builder { temps: self.partial, ..Builder::default() };
        let p_outputs = b.field("outputs", "u32", outputs);
        let p_count = b.field("count", "u32", count);
        let p_groups = b.field("groups", "u32", groups);
        let identity = b.field("identity", "u32", Param::Word(self.identity()));
        let split = matches!(to, Target::Partials { .. });
        let (p_parts, p_span) = (b.field("parts", "u32", parts), b.field("span", "u32", span));
        let p_total = b.field("total", "f32", Param::from(self.total as f32));
        let windows = operand_windows(self.shape, operands, self.caps)?;
        let window_of = |buffer: usize| windows.iter().find(|w| w.0 == buffer).map_or(Window::default(), |w| w.1);
        let start_of = |o: &Operand| o.buffer.map_or(0, |x| (window_of(x).from / o.dtype.gpu_size() as u64) as usize);
        let accesses = b.accesses(program, self.shape, operands, &start_of, 0, false, quads)?;
        // The first output, from the start of a window, and that of the positions.
        let (first, position, size) = match to {
            Target::Partials { first, position, .. } => (first, position, 4),
            Target::Temp(_, d) | Target::Buffer(_, d) => (self.base, 0, d.gpu_size()),
        };
        let align = self.caps.alignment();
        let out_from = first * size / align * align;
        let p_first = b.field("first", "u32", first - out_from / size);
        let p_position = if arg && !self.partial { b.field("position", "u32", position) } else { String::new() };
        // The sizes by which indices are divided: all but the first of the kept and the first of the reduced dimensions.
        let sizes: Vec<String> = (0..rank)
            .map(|d| {
                let first = (0..d).all(|e| self.reduced[e] != self.reduced[d]);
                if first { String::new() } else { b.field(format!("d{d}"), "u32", self.shape[d]) }
            })
            .collect();
        b.add_scalars(program, scalars)?;
        let partial_positions = (self.partial && arg).then(|| b.bind(Slot::Temp(1), false));
        let read_only = b.bindings.len();
        let outs: Vec<usize> = match to {
            Target::Partials { .. } => (0..1 + arg as usize).map(|i| b.bind(Slot::Temp(i), true)).collect(),
            Target::Temp(i, _) => vec![b.bind(Slot::Temp(i), true)],
            Target::Buffer(i, _) => vec![b.bind(Slot::Buffer(i), true)],
        };
        if outs.iter().any(|&o| o < read_only) {
            return Err(failed("a reduction cannot write a buffer that it reads".into()));
        }

        // The loop's body.
        let mut body = String::new();
        let coords: Vec<String> = (0..rank).map(|d| format!("c{d}")).collect();
        let reduced_dims: Vec<usize> = (0..rank).filter(|&d| self.reduced[d]).collect();
        let kept_dims: Vec<usize> = (0..rank).filter(|&d| !self.reduced[d]).collect();
        decompose(&mut body, "q", &reduced_dims, &sizes);
        for a in &accesses {
            self.load(&b, &mut body, a, &a.position(&coords));
        }
        let width = if quads { 4 } else { 1 };
        let mut helpers = String::new();
        for j in 0..width {
            let raw = format!("{}.y0", b.call(&accesses, j));
            let value = match self.kind {
                ReduceKind::Any | ReduceKind::All if self.stored.compute() != DType::Bool => {
                    format!("select(0u, 1u, {})", cast(&mut helpers, &raw, self.stored, DType::Bool, true)?)
                }
                _ if type_of(self.stored)? == t => raw,
                _ => cast(&mut helpers, &raw, self.stored, self.acc, true)?,
            };
            let _ = writeln!(body, "    let y{j}: {t} = {value};");
        }
        if arg {
            for j in 0..width {
                let at = match partial_positions {
                    Some(pos) => b.word(pos, &accesses[0].position(&shift(&coords, j))),
                    None => format!("{p_position} + q + {j}u"),
                };
                let _ = writeln!(body, "    let i{j} = {at};");
                let _ = writeln!(body, "    if (fx_better(y{j}, i{j}, acc, best)) {{ acc = y{j}; best = i{j}; }}");
            }
        } else {
            let value = if quads { "fx_join(fx_join(y0, y1), fx_join(y2, y3))" } else { "y0" };
            let _ = writeln!(body, "    acc = fx_join(acc, {value});");
        }
        let mut kept = String::new();
        decompose(&mut kept, "o", &kept_dims, &sizes);

        // The tree.
        let mut tree = String::new();
        if lanes > 1 {
            let keep = if arg { "shared_value[lid] = acc; shared_index[lid] = best;" } else { "shared_value[lid] = acc;" };
            let _ = writeln!(tree, "    {keep}\n    workgroupBarrier();");
            let mut half = lanes / 2;
            while half > 0 {
                let far = if columns { half * side } else { half };
                let _ = writeln!(tree, "    if (lane < {half}u) {{");
                let _ = writeln!(tree, "        let other = shared_value[lid + {far}u];");
                if arg {
                    let _ = writeln!(tree, "        let at = shared_index[lid + {far}u];");
                    let _ = writeln!(tree, "        if (fx_better(other, at, acc, best)) {{ acc = other; best = at; }}");
                } else {
                    let _ = writeln!(tree, "        acc = fx_join(acc, other);");
                }
                let _ = writeln!(tree, "        {keep}\n    }}\n    workgroupBarrier();");
                half /= 2;
            }
        }

        // The store.
        let mut store = String::new();
        match to {
            Target::Partials { columns, .. } => {
                let at = if columns { format!("part * {p_outputs} + o") } else { format!("o * {p_parts} + part") };
                let _ = writeln!(store, "    let at = {p_first} + {at};\n    b{}[at] = {};", outs[0], to_word(self.acc, "acc"));
                if arg {
                    let _ = writeln!(store, "    b{}[at] = best;", outs[1]);
                }
            }
            Target::Temp(_, dtype) | Target::Buffer(_, dtype) => {
                let (value, from) = match self.kind {
                    ReduceKind::Mean => (format!("acc / {p_total}"), DType::F32),
                    _ if arg => ("i32(best)".to_string(), DType::I32),
                    _ => ("acc".to_string(), self.acc),
                };
                let value =
                    if type_of(from)? == type_of(dtype)? { value } else { cast(&mut helpers, &format!("({value})"), from, dtype, true)? };
                let _ = writeln!(store, "    b{}[{p_first} + o] = {};", outs[0], to_word(dtype, &value));
            }
        }
        let program_text = b.program(program, operands)?;
        // The program may have brought the same helpers.
        let helpers = without(&helpers, &program_text);
        let mut s = format!("struct Params {{ {} }}\n@group(1) @binding(0) var<uniform> p: Params;\n{}", b.fields, b.declarations());
        if lanes > 1 {
            let _ = writeln!(s, "var<workgroup> shared_value: array<{t}, {GROUP}>;");
            if arg {
                let _ = writeln!(s, "var<workgroup> shared_index: array<u32, {GROUP}>;");
            }
        }
        let (place, lane) = if columns { ("%", "/") } else { ("/", "%") };
        let by = if columns { side } else { lanes };
        let (part, tile, range) = match split {
            true => (
                format!("    let part = group % {p_parts};\n"),
                format!("group / {p_parts}"),
                format!("    let first = part * {p_span};\n    let end = min(first + {p_span}, {p_count});\n"),
            ),
            false => (String::new(), "group".into(), format!("    let first = 0u;\n    let end = {p_count};\n")),
        };
        let start = match t {
            "u32" => identity,
            t => format!("bitcast<{t}>({identity})"),
        };
        let best = if arg { "    var best = 0xffffffffu;\n" } else { "" };
        let _ = write!(
            s,
            "{helpers}{program_text}{}@compute @workgroup_size({GROUP})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {{
    let group = wid.x + wid.y * num.x;
    if (group >= {p_groups}) {{ return; }}
{part}    let o = ({tile}) * {side}u + lid {place} {by}u;
    let lane = lid {lane} {by}u;
    var acc: {t} = {start};
{best}    if (o < {p_outputs}) {{
{kept}{range}    for (var q = first + lane * {width}u; q < end; q += {}u) {{
{body}    }}
    }}
{tree}    if (lane == 0u && o < {p_outputs}) {{
{store}    }}
}}
",
            self.functions(t),
            lanes * width
        );
        let out_bytes = match to {
            Target::Partials { .. } => parts * outputs,
            _ => outputs,
        } * size;
        let window = |k: usize, slot: Slot| match slot {
            _ if outs.contains(&k) => {
                let bytes = (first * size - out_from + out_bytes.max(1)).next_multiple_of(16);
                Window { from: out_from as u64, bytes: bytes as u64 }
            }
            Slot::Buffer(i) => window_of(i),
            // What an earlier stage left: values and positions alike.
            _ => window_of(0),
        };
        let windows = b.bindings.iter().enumerate().map(|(k, x)| window(k, x.slot)).collect();
        let step = GpuStep::Dispatch(Dispatch {
            label: label(&format!("reduce {:?}", self.kind), program),
            source: s.into(),
            bindings: b.bindings,
            params: b.params,
            groups: grid(groups),
            flops: self.shape.numel() as u64 * (program.flops() + 1),
        });
        Ok(Placed { step, windows })
    }

    fn load(&self, b: &Builder, out: &mut String, a: &Access, position: &str) {
        if self.split.quads {
            load_inner(b, out, a, position);
        } else {
            let k = a.k;
            let _ = writeln!(out, "    let e{k} = {position};\n    let x{k}_0 = {};", b.element(a, &format!("e{k}")));
        }
    }
}

/// What the operands' bindings must show, by buffer.
fn operand_windows(shape: &Shape, operands: &[Operand], caps: &Caps) -> Result<Vec<(usize, Window)>> {
    let mut out: Vec<(usize, Window)> = Vec::new();
    for o in operands {
        let Some(buffer) = o.buffer else { continue };
        let layout = Layout { shape: shape.clone(), strides: o.strides.clone(), offset: o.offset };
        let w = layout.window(o.dtype.gpu_size(), caps);
        match out.iter_mut().find(|x| x.0 == buffer) {
            Some((_, x)) => *x = x.with(&w),
            None => out.push((buffer, w)),
        }
    }
    match out.iter().find(|w| w.1.bytes > caps.max_binding) {
        None => Ok(out),
        Some(w) => {
            let message = format!("a part of a reduction reads {} bytes: this device binds at most {}", w.1.bytes, caps.max_binding);
            Err(failed(message))
        }
    }
}

/// Declares the coordinates of some dimensions from their linear index.
fn decompose(out: &mut String, linear: &str, dims: &[usize], sizes: &[String]) {
    let mut rest = linear.to_string();
    for (i, &d) in dims.iter().enumerate().rev() {
        if i == 0 {
            let _ = writeln!(out, "    let c{d} = {rest};");
        } else {
            let size = &sizes[d];
            let _ = writeln!(out, "    let {linear}{d} = {rest} / {size};\n    let c{d} = {rest} - {linear}{d} * {size};");
            rest = format!("{linear}{d}");
        }
    }
}

/// The coordinates `j` further along the innermost dimension.
fn shift(coords: &[String], j: usize) -> Vec<String> {
    let mut out = coords.to_vec();
    if let (Some(last), true) = (out.last_mut(), j > 0) {
        *last = format!("({last} + {j}u)");
    }
    out
}

/// The functions of `helpers` that `text` does not have.
fn without(helpers: &str, text: &str) -> String {
    let mut out = String::new();
    for function in helpers.split_inclusive("\n}\n") {
        if !text.contains(function) {
            out.push_str(function);
        }
    }
    out
}

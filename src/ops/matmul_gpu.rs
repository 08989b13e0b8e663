//! Matrix products on the GPU: the choice of kernel and its parameters.

use crate::codegen::dispatch::{Binding, Dispatch, GpuKernel, GpuStep, Param, Slot, grid};
use crate::codegen::wgsl::preprocess;
use crate::codegen::wgsl_epilogue::epilogue;
use crate::graph::GpuCtx;
use crate::layout::Layout;
use crate::{DType, Result};

/// The most rows (or columns) for which the skinny kernel is used.
const SKINNY: usize = 4;

/// The side of a tile of results; large products take tiles of twice that, with which each number that is read from workgroup memory is used
/// eight times and not four: from there on the multipliers, not that memory, are the limit.
const SIDE: usize = 64;

/// Products with at most this many tiles of `SIDE` take tiles of [`SMALL`]. Eight tiles of 64 busy eight multiprocessors for 32 clocks a step of k (4096
/// multiply-adds at 128 a clock); as 128 tiles of 16 they busy 128, for 16 clocks each (512 words of workgroup memory at 32 a clock).
const FEW: usize = 8;

/// The side of a tile of a product with few results.
const SMALL: usize = 16;

/// Large tiles are used where there are so many that every multiprocessor of a large card (about 130) has work.
const ENOUGH: usize = 128;

/// The parts of the shader that depend on how many blocks of 4 × 4 results, `r` × `r`, an invocation holds.
struct Blocks {
    side: String,
    depth: String,
    stages: String,
    accumulators: String,
    multiply: String,
    results: String,
}

impl Blocks {
    fn new(r: usize, t: &str) -> Blocks {
        // Both stages of both matrices fill the 16 KiB of workgroup memory that every device has.
        let (side, depth) = (SIDE * r, 16 / r);
        let all = || (0..4 * r).flat_map(move |row| (0..r).map(move |col| (row, col)));
        let accumulators = all().map(|(i, j)| format!("    var acc_{i}_{j} = vec4<{t}>();\n")).collect();
        let mut multiply = String::new();
        for b in 0..r {
            multiply += &format!("                let a_{b} = tile_a[at_a + {}u];\n", 16 * b);
            multiply += &format!("                let b_{b} = tile_b[at_b + {}u];\n", 16 * b);
        }
        for (i, j) in all() {
            let lane = ["x", "y", "z", "w"][i % 4];
            multiply += &format!("                acc_{i}_{j} += a_{}.{lane} * b_{j};\n", i / 4);
        }
        let list: Vec<String> = all().map(|(i, j)| format!("acc_{i}_{j}")).collect();
        let results = format!("array<vec4<{t}>, {}>({})", list.len(), list.join(", "));
        let stages = (2 * depth * side / 4).to_string();
        Blocks { side: side.to_string(), depth: depth.to_string(), stages, accumulators, multiply, results }
    }

    fn defines(&self) -> Vec<(&str, &str)> {
        vec![
            ("SIDE", &self.side),
            ("BK", &self.depth),
            ("STAGES", &self.stages),
            ("ACCUMULATORS", &self.accumulators),
            ("MULTIPLY", &self.multiply),
            ("RESULTS", &self.results),
        ]
    }
}

/// A matrix operand as the shaders see it: sizes of axes of size 1 make no stride.
#[derive(Clone)]
struct Operand {
    offset: usize,
    row: usize,
    col: usize,
    batch: [usize; 4],
}

impl Operand {
    fn new(l: &Layout) -> Operand {
        let r = l.shape.rank();
        let stride = |a: usize| if l.shape[a] == 1 { 0 } else { l.strides[a] as usize };
        let mut batch = [0; 4];
        for a in 0..r - 2 {
            batch[a + 6 - r] = stride(a);
        }
        Operand { offset: l.offset, row: stride(r - 2), col: stride(r - 1), batch }
    }

    fn t(mut self) -> Operand {
        std::mem::swap(&mut self.row, &mut self.col);
        self
    }

    /// Whether vec4s can be loaded along an axis of `len` elements that has stride 1, the other axis having stride `other`.
    fn vec4(&self, len: usize, other: usize) -> bool {
        [len, other, self.offset].iter().chain(&self.batch).all(|n| n.is_multiple_of(4))
    }

    fn words(&self) -> [Param; 3] {
        [self.offset.into(), self.row.into(), self.col.into()]
    }

    fn batch_words(&self) -> [Param; 4] {
        self.batch.map(Param::from)
    }
}

/// WGSL's name of a 4-byte dtype.
pub(super) fn wgsl_type(dtype: DType) -> &'static str {
    match dtype {
        DType::I32 => "i32",
        DType::U32 => "u32",
        _ => "f32",
    }
}

/// The shape-only rule of how many parts k is cut into, so that a product with few results still fills a GPU; and the length of each.
pub(super) fn parts(groups: usize, k: usize) -> (usize, usize) {
    if groups >= 64 || k < 1024 {
        return (1, k.next_multiple_of(16).max(16));
    }
    let wanted = (128 / groups.max(1)).min(k / 256).clamp(1, 64);
    let part = k.div_ceil(wanted).next_multiple_of(16);
    (k.div_ceil(part), part)
}

/// The step that adds `parts` partial results of `n` elements in `Temp(0)` into output 0, with the op's epilogue.
pub(super) fn sum_parts(ctx: &GpuCtx, n: usize, parts: usize) -> Result<GpuStep> {
    let e = Text::new(ctx, 2)?;
    let source = preprocess(include_str!("../../shaders/sum_parts.wgsl"), &e.defines(&[("T", wgsl_type(ctx.outputs[0].dtype))]));
    let mut bindings = vec![Binding { slot: Slot::Temp(0), write: false }, Binding { slot: Slot::Output(0), write: true }];
    bindings.extend(e.bindings.iter().copied());
    let mut params: Vec<Param> = vec![n.into(), parts.into()];
    params.extend(e.params.iter().copied());
    let groups = grid(n.div_ceil(256));
    Ok(GpuStep::Dispatch(Dispatch { label: "sum_parts", source: source.into(), bindings, params, groups, flops: 0 }))
}

/// The text of an epilogue, ready for the preprocessor.
pub(super) struct Text {
    pub bindings: Vec<Binding>,
    pub params: Vec<Param>,
    code: String,
    fields: String,
}

impl Text {
    /// The op's epilogue, its bindings from `first` on; the identity where there is none.
    pub fn new(ctx: &GpuCtx, first: usize) -> Result<Text> {
        if ctx.epilogue.is_none() {
            return Ok(Text::none(wgsl_type(ctx.outputs[0].dtype)));
        }
        let e = epilogue(ctx.epilogue, first)?;
        Ok(Text { bindings: e.bindings, params: e.params, code: e.declarations, fields: e.fields })
    }

    /// The identity on elements of a type.
    pub fn none(t: &str) -> Text {
        let code = format!("fn epilogue(v: {t}, at: u32) -> {t} {{ return v; }}");
        Text { bindings: Vec::new(), params: Vec::new(), code, fields: String::new() }
    }

    pub fn defines<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut all = vec![("EPILOGUE", self.code.as_str()), ("EPILOGUE_FIELDS", self.fields.as_str())];
        all.extend_from_slice(more);
        all
    }
}

pub(super) fn kernel(ctx: &GpuCtx) -> Result<GpuKernel> {
    let (la, lb) = (&ctx.inputs[0].layout, &ctx.inputs[1].layout);
    let r = la.shape.rank();
    let (m, k, n) = (la.shape[r - 2], la.shape[r - 1], lb.shape[r - 1]);
    let batches: usize = la.shape[..r - 2].iter().product();
    if m * n * batches == 0 {
        return Ok(GpuKernel::default());
    }
    let (a, b) = (Operand::new(la), Operand::new(lb));
    let mut sizes = [1usize; 4];
    sizes[6 - r..].copy_from_slice(&la.shape[..r - 2]);
    let sizes = [sizes[1].into(), sizes[2].into(), sizes[3].into()];
    let flops = 2 * (batches * m * n * k) as u64;
    let t = wgsl_type(ctx.outputs[0].dtype);

    if m.min(n) <= SKINNY && k >= 32 {
        let e = Text::new(ctx, 3)?;
        // With few columns the transposed product is computed: Cᵀ = Bᵀ · Aᵀ.
        let swap = m > SKINNY;
        let (a, b, m, n, slots) = if swap { (b.t(), a.t(), n, m, [1, 0]) } else { (a, b, m, n, [0, 1]) };
        let (c_row, c_col) = if swap { (1, m) } else { (n, 1) };
        let along_k = b.row == 1 || (b.col != 1 && n == 1);
        let mut defines = vec![("T", t)];
        if along_k {
            defines.push(("B_K", ""));
        }
        let tiles = n.div_ceil(if along_k { 4 } else { 32 });
        let mut params: Vec<Param> = vec![m.into(), n.into(), k.into(), tiles.into(), (tiles * batches).into(), batches.into()];
        params.extend(a.words().into_iter().chain(b.words()));
        params.extend([Param::from(c_row), Param::from(c_col)]);
        params.extend(sizes.into_iter().chain(a.batch_words()).chain(b.batch_words()));
        params.extend(e.params.iter().copied());
        let source = preprocess(include_str!("../../shaders/matmul_skinny.wgsl"), &e.defines(&defines));
        let mut bindings = slots.map(|i| Binding { slot: Slot::Input(i), write: false }).to_vec();
        bindings.push(Binding { slot: Slot::Output(0), write: true });
        bindings.extend(e.bindings.iter().copied());
        let groups = grid(tiles * batches);
        let step = Dispatch { label: "matmul_skinny", source: source.into(), bindings, params, groups, flops };
        return Ok(GpuKernel { temps: Vec::new(), steps: vec![GpuStep::Dispatch(step)] });
    }

    let tiles = |side: usize| (m.div_ceil(side), n.div_ceil(side));
    let medium = tiles(SIDE);
    // From 1024 steps of k on, a product with few tiles is cut along k instead.
    if medium.0 * medium.1 * batches <= FEW && k < 1024 {
        let e = Text::new(ctx, 3)?;
        let (tiles_m, tiles_n) = tiles(SMALL);
        let groups = tiles_m * tiles_n * batches;
        let mut params: Vec<Param> = [m, n, k, tiles_m, tiles_n, groups].map(Param::from).to_vec();
        params.extend(a.words().into_iter().chain(b.words()).chain(sizes).chain(a.batch_words()).chain(b.batch_words()));
        params.extend(e.params.iter().copied());
        let source = preprocess(include_str!("../../shaders/matmul_small.wgsl"), &e.defines(&[("T", t)]));
        let mut bindings = [Slot::Input(0), Slot::Input(1)].map(|slot| Binding { slot, write: false }).to_vec();
        bindings.push(Binding { slot: Slot::Output(0), write: true });
        bindings.extend(e.bindings.iter().copied());
        let step = Dispatch { label: "matmul_small", source: source.into(), bindings, params, groups: grid(groups), flops };
        return Ok(GpuKernel { temps: Vec::new(), steps: vec![GpuStep::Dispatch(step)] });
    }
    let large = tiles(2 * SIDE);
    let r = if large.0 * large.1 * batches >= ENOUGH && m.min(n) > SIDE { 2 } else { 1 };
    let (tiles_m, tiles_n) = tiles(r * SIDE);
    let (parts, part) = if r == 1 { parts(tiles_m * tiles_n * batches, k) } else { (1, k.next_multiple_of(16).max(16)) };
    let groups = tiles_m * tiles_n * batches * parts;
    let e = if parts == 1 { Text::new(ctx, 3)? } else { Text::none(t) };
    let blocks = Blocks::new(r, t);
    let mut defines = blocks.defines();
    defines.push(("T", t));
    if n.is_multiple_of(4) {
        defines.push(("C_VEC", ""));
    }
    let a_k = a.col == 1 || (k == 1 && a.row != 1);
    if a_k {
        defines.push(("A_K", ""));
    }
    if if a_k { a.col == 1 && a.vec4(k, a.row) } else { a.row == 1 && a.vec4(m, a.col) } {
        defines.push(("A_VEC", ""));
    }
    let b_k = b.col != 1 && b.row == 1;
    if b_k {
        defines.push(("B_K", ""));
    }
    if if b_k { b.vec4(k, b.col) } else { b.col == 1 && b.vec4(n, b.row) } {
        defines.push(("B_VEC", ""));
    }
    let mut params: Vec<Param> = [m, n, k, tiles_m, tiles_n, groups, batches, part].map(Param::from).to_vec();
    params.extend(a.words().into_iter().chain(b.words()).chain(sizes).chain(a.batch_words()).chain(b.batch_words()));
    params.extend(e.params.iter().copied());
    let source = preprocess(include_str!("../../shaders/matmul.wgsl"), &e.defines(&defines));
    let out = if parts == 1 { Slot::Output(0) } else { Slot::Temp(0) };
    let mut bindings = [Slot::Input(0), Slot::Input(1)].map(|slot| Binding { slot, write: false }).to_vec();
    bindings.push(Binding { slot: out, write: true });
    bindings.extend(e.bindings.iter().copied());
    let step = Dispatch { label: "matmul", source: source.into(), bindings, params, groups: grid(groups), flops };
    let mut kernel = GpuKernel { temps: Vec::new(), steps: vec![GpuStep::Dispatch(step)] };
    if parts > 1 {
        kernel.temps.push(parts * batches * m * n * 4);
        kernel.steps.push(sum_parts(ctx, batches * m * n, parts)?);
    }
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::super::testing::validate;
    use crate::DType;
    use crate::graph::Meta;
    use crate::layout::Layout;
    use crate::ops::matmul::MatMul;

    #[test]
    fn shaders_are_valid() {
        for (m, k, n) in [
            (64, 64, 64),
            (65, 33, 7),
            (1, 100, 100),
            (100, 100, 2),
            (16, 5000, 16),
            (3, 1, 5),
            (300, 8, 4),
            (200, 100, 300),
            (1500, 8, 1500),
        ] {
            for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
                for dtype in [DType::F32, DType::I32, DType::U32] {
                    let meta = |rows: usize, cols: usize, t: bool| {
                        let l = if t {
                            Layout::contiguous([2, cols, rows].into()).permute(&[0, 2, 1])
                        } else {
                            Layout::contiguous([2, rows, cols].into())
                        };
                        Meta { dtype, layout: l }
                    };
                    validate(&MatMul { float: dtype.is_float() }, &[meta(m, k, ta), meta(k, n, tb)]);
                }
            }
        }
    }
}

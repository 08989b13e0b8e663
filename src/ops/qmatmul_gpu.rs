//! Products with quantised weights on the GPU: the choice of kernel and its parameters.

use super::matmul_gpu::{Text, parts, sum_parts};
use super::qmatmul::{Form, INT8, NF4, QMatMul};
use crate::codegen::dispatch::{Binding, Dispatch, GpuKernel, GpuStep, Param, Slot, grid};
use crate::codegen::wgsl::preprocess;
use crate::graph::GpuCtx;
use crate::{DType, Result};

/// The most rows of x for which a weight's row is not shared through workgroup memory.
const FEW: usize = 4;
/// The side of a tile of results.
const SIDE: usize = 64;
/// Storage bindings that every adapter has.
const BINDINGS: usize = 8;

pub(super) fn kernel(op: &QMatMul, ctx: &GpuCtx) -> Result<GpuKernel> {
    let (m, n, k) = (ctx.shape(0)[0], op.n, op.k);
    let (cols, terms) = if op.turned { (k, n) } else { (n, k) };
    if m * cols == 0 {
        return Ok(GpuKernel::default());
    }
    let inputs = ctx.inputs.len();
    let few = m <= FEW && !op.turned;
    let (tiles_m, tiles_n) = (m.div_ceil(SIDE), cols.div_ceil(SIDE));
    let (pieces, part) = if few { (1, terms) } else { parts(tiles_m * tiles_n, terms) };
    let groups = if few { n.div_ceil(4) } else { tiles_m * tiles_n * pieces };
    let own = Text::new(ctx, inputs + 1)?;
    // Where sums come in parts, or there is no room for the epilogue's operands, a second step finishes the results.
    let finished = pieces == 1 && inputs + 1 + own.bindings.len() <= BINDINGS;
    let e = if finished { own } else { Text::none("f32") };

    let book: Vec<String> = NF4.iter().map(|v| format!("{v:?}")).collect();
    let (book, int8) = (book.join(", "), format!("{INT8:?}"));
    let (block, outer) = match op.form {
        Form::Int8 => (String::new(), String::new()),
        Form::Nf4 { block } => (block.to_string(), String::new()),
        Form::Double { block, outer } => (block.to_string(), outer.to_string()),
    };
    let mut defines = vec![("BOOK", book.as_str()), ("INT8", &int8), ("BLOCK", &block), ("OUTER", &outer)];
    if op.form != Form::Int8 {
        defines.push(("NF4", ""));
    }
    if matches!(op.form, Form::Double { .. }) {
        defines.push(("NESTED", ""));
    }
    let weight = preprocess(include_str!("../../shaders/common/quant.wgsl"), &defines);
    defines.push(("WEIGHT", &weight));
    if few {
        defines.push(("FEW", ""));
    }
    if op.turned {
        defines.push(("TURNED", ""));
    }
    if k.is_multiple_of(4) {
        defines.push(("VEC", ""));
    }
    let source = preprocess(include_str!("../../shaders/qmatmul.wgsl"), &e.defines(&defines));
    let mut params: Vec<Param> = [m, n, k, cols, terms, tiles_m, tiles_n, groups, part, op.first_block()].map(Param::from).to_vec();
    params.push(Param::Scalar { index: 0, dtype: DType::F32 });
    params.extend(e.params.iter().copied());
    let mut bindings: Vec<Binding> = (0..inputs).map(|i| Binding { slot: Slot::Input(i), write: false }).collect();
    bindings.push(Binding { slot: if finished { Slot::Output(0) } else { Slot::Temp(0) }, write: true });
    bindings.extend(e.bindings.iter().copied());
    let flops = 2 * (m * n * k) as u64;
    let label = if few { "qmatmul_few" } else { "qmatmul" };
    let step = Dispatch { label, source: source.into(), bindings, params, groups: grid(groups), flops };
    let mut kernel = GpuKernel { temps: Vec::new(), steps: vec![GpuStep::Dispatch(step)] };
    if !finished {
        kernel.temps.push(pieces * m * cols * 4);
        kernel.steps.push(sum_parts(ctx, m * cols, pieces)?);
    }
    Ok(kernel)
}

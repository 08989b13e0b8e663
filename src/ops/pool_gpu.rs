//! Pooling on the GPU.

use super::pool::{Kind, Pool};
use crate::codegen::dispatch::{Binding, Dispatch, GpuKernel, GpuStep, Param, Slot, grid};
use crate::codegen::wgsl::preprocess;
use crate::graph::GpuCtx;

pub(super) fn kernel(op: &Pool, ctx: &GpuCtx) -> GpuKernel {
    let w = &op.windows;
    let results = ctx.outputs[0].layout.numel();
    if results == 0 {
        return GpuKernel::default();
    }
    let (define, inputs) = match op.kind {
        Kind::Max => ("MAX", 1),
        Kind::MaxGrad => ("MAX_GRAD", 2),
        Kind::Take => ("TAKE", 2),
        Kind::Avg => ("AVG", 1),
        Kind::AvgGrad => ("AVG_GRAD", 1),
    };
    let mut defines = vec![(define, "")];
    if w.adaptive {
        defines.push(("ADAPTIVE", ""));
    }
    let mut bindings: Vec<Binding> = (0..inputs).map(|i| Binding { slot: Slot::Input(i), write: false }).collect();
    bindings.extend((0..ctx.outputs.len()).map(|i| Binding { slot: Slot::Output(i), write: true }));
    let mut params: Vec<Param> = vec![results.into(), (w.include_pad as u32).into()];
    params.extend([w.size, w.out, w.kernel, w.stride, w.padding, w.dilation].into_iter().flatten().map(Param::from));
    let source = preprocess(include_str!("../../shaders/pool2d.wgsl"), &defines);
    let groups = grid(results.div_ceil(256));
    let step = Dispatch { label: crate::graph::Op::name(op), source: source.into(), bindings, params, groups, flops: 0 };
    GpuKernel { temps: Vec::new(), steps: vec![GpuStep::Dispatch(step)] }
}

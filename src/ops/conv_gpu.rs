//! Convolutions on the GPU: implicit products in tiles, and a direct kernel where a group has few channels.

use super::conv::Sizes;
use super::matmul_gpu::{Text, parts, sum_parts};
use crate::Result;
use crate::codegen::dispatch::{Binding, Dispatch, GpuKernel, GpuStep, Param, Slot, grid};
use crate::codegen::wgsl::preprocess;
use crate::graph::GpuCtx;

/// Which of the three kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Forward,
    InputGrad,
    WeightGrad,
}

/// Inputs: (image, weight), (output's gradient, weight) or (image, output's gradient).
pub(super) fn kernel(ctx: &GpuCtx, s: &Sizes, kind: Kind) -> Result<GpuKernel> {
    let results = ctx.outputs[0].layout.numel();
    if results == 0 {
        return Ok(GpuKernel::default());
    }
    let (plane, pixels) = s.pixels();
    let (rows, cols, depth, define) = match kind {
        Kind::Forward => (s.o, s.n * pixels, s.depth(), "FORWARD"),
        Kind::InputGrad => (s.c, s.n * plane, s.o * s.taps(), "INPUT_GRAD"),
        Kind::WeightGrad => (s.o, s.depth(), s.n * pixels, "WEIGHT_GRAD"),
    };
    let geometry = [
        s.c,
        s.o,
        s.groups,
        s.h[0],
        s.h[1],
        s.k[0],
        s.k[1],
        s.oh[0],
        s.oh[1],
        s.stride[0],
        s.stride[1],
        s.padding[0],
        s.padding[1],
        s.dilation[0],
        s.dilation[1],
    ]
    .map(Param::from);
    let direct = match kind {
        Kind::WeightGrad => rows * cols <= 512,
        _ => rows <= 4,
    };
    let (tiles_m, tiles_n) = (rows.div_ceil(64), cols.div_ceil(64));
    let (parts, part) = if direct { (1, 0) } else { parts(tiles_m * tiles_n * s.groups, depth) };
    let e = if parts == 1 { Text::new(ctx, 3)? } else { Text::none("f32") };
    let (label, source, mut params, groups) = if direct {
        let groups = if kind == Kind::WeightGrad { results } else { results.div_ceil(256) };
        ("conv2d_direct", include_str!("../../shaders/conv2d_direct.wgsl"), vec![results.into(), s.n.into()], groups)
    } else {
        let groups = tiles_m * tiles_n * s.groups * parts;
        let params = [rows, cols, depth, tiles_m, tiles_n, groups, part, results].map(Param::from).to_vec();
        ("conv2d", include_str!("../../shaders/conv2d.wgsl"), params, groups)
    };
    params.extend(geometry);
    params.extend(e.params.iter().copied());
    let out = if parts == 1 { Slot::Output(0) } else { Slot::Temp(0) };
    let mut bindings = [Slot::Input(0), Slot::Input(1)].map(|slot| Binding { slot, write: false }).to_vec();
    bindings.push(Binding { slot: out, write: true });
    bindings.extend(e.bindings.iter().copied());
    let source = preprocess(source, &e.defines(&[(define, "")]));
    let step = Dispatch { label, source: source.into(), bindings, params, groups: grid(groups), flops: s.flops() };
    let mut kernel = GpuKernel { temps: Vec::new(), steps: vec![GpuStep::Dispatch(step)] };
    if parts > 1 {
        kernel.temps.push(parts * results * 4);
        kernel.steps.push(sum_parts(ctx, results, parts)?);
    }
    Ok(kernel)
}

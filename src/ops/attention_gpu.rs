//! Attention on the GPU: a workgroup a tile of queries (for dk and dv: of keys), everything in workgroup memory and registers.

use super::attention::{Dims, Extra, Sdpa, SdpaBackward};
use super::rows::{bind, variant};
use crate::codegen::dispatch::{Dispatch, GpuKernel, GpuStep, Param, Slot, grid};
use crate::graph::{GpuCtx, Op};
use crate::layout::Layout;
use crate::{DType, Result};

/// Columns of a tile, elements of a head staged at a time, rows of a second factor staged at a time: as in the shaders.
const COLS: usize = 32;
const CHUNK: usize = 16;
const ROWS_STAGED: usize = 8;

fn dims(ctx: &GpuCtx) -> Dims {
    Dims::of(ctx.shape(0), ctx.shape(1), ctx.shape(2))
}

/// Sixteenths of a head that an invocation holds: a power of two, so that few variants exist.
fn sixteenths(width: usize) -> usize {
    width.div_ceil(16).next_power_of_two()
}

/// Floats of staging memory for tiles of so many rows.
fn stage(rows: usize, held: usize) -> usize {
    (CHUNK * (rows + 1 + COLS + 1)).max(ROWS_STAGED * held * 16)
}

/// Offset and strides.
fn place(params: &mut Vec<Param>, layout: Option<&Layout>) {
    match layout {
        Some(l) => {
            params.push(l.offset.into());
            params.extend(l.strides.iter().map(|&s| Param::from(s as i32)));
        }
        None => params.extend([Param::Word(0); 5]),
    }
}

fn params(ctx: &GpuCtx, d: &Dims, extra: usize, tiles: usize, total: usize) -> Vec<Param> {
    let mut params: Vec<Param> = [d.heads, d.group(), d.queries, d.keys, d.width, d.value_width, tiles, total].map(Param::from).to_vec();
    params.extend([Param::Scalar { index: 0, dtype: DType::F32 }, Param::Scalar { index: 1, dtype: DType::U32 }]);
    for i in [0, 1, 2, extra] {
        place(&mut params, ctx.inputs.get(i).map(|m| &m.layout));
    }
    params
}

pub(super) fn forward(op: &Sdpa, ctx: &GpuCtx) -> Result<GpuKernel> {
    let d = dims(ctx);
    let mut kernel = GpuKernel::default();
    if d.batch * d.heads * d.queries == 0 {
        return Ok(kernel);
    }
    if d.keys == 0 || d.width == 0 || d.value_width == 0 {
        // Nothing to see, or nothing to show.
        kernel.steps.extend(ctx.outputs.iter().enumerate().filter(|o| o.1.layout.numel() > 0).map(|(i, _)| GpuStep::Zero(Slot::Output(i))));
        return Ok(kernel);
    }
    let held = sixteenths(d.value_width);
    let rows = match d.queries {
        ..=16 => 16,
        17..=32 => 32,
        _ if held > 8 => 32,
        _ => 64,
    };
    let source = variant(
        include_str!("../../shaders/attention.wgsl"),
        &[("BQ", rows), ("RV", held), ("STAGE", stage(rows, held))],
        &[("MASK", op.extra == Extra::Mask), ("BIAS", op.extra == Extra::Bias), ("CAUSAL", op.causal)],
    );
    let tiles = d.queries.div_ceil(rows);
    let total = tiles * d.batch * d.heads;
    let mut slots = vec![(Slot::Input(0), false), (Slot::Input(1), false), (Slot::Input(2), false)];
    slots.extend([(Slot::Output(0), true), (Slot::Output(1), true)]);
    slots.extend((op.extra != Extra::Nothing).then_some((Slot::Input(3), false)));
    kernel.steps.push(GpuStep::Dispatch(Dispatch {
        label: op.name(),
        source: source.into(),
        bindings: bind(&slots),
        params: params(ctx, &d, 3, tiles, total),
        groups: grid(total),
        flops: d.flops(2),
    }));
    Ok(kernel)
}

pub(super) fn backward(op: &SdpaBackward, ctx: &GpuCtx) -> Result<GpuKernel> {
    let d = dims(ctx);
    let mut kernel = GpuKernel::default();
    if d.batch * d.heads * d.queries * d.keys * d.width * d.value_width == 0 {
        kernel.steps.extend(ctx.outputs.iter().enumerate().filter(|o| o.1.layout.numel() > 0).map(|(i, _)| GpuStep::Zero(Slot::Output(i))));
        return Ok(kernel);
    }
    let query_rows = d.batch * d.heads * d.queries;
    kernel.temps.push(query_rows * 8);
    let slots = [(Slot::Input(3), false), (Slot::Input(5), false), (Slot::Input(4), false), (Slot::Temp(0), true)];
    kernel.steps.push(GpuStep::Dispatch(Dispatch {
        label: "attention_rows",
        source: include_str!("../../shaders/attention_rows.wgsl").into(),
        bindings: bind(&slots),
        params: [query_rows, d.value_width, d.heads, d.queries].map(Param::from).to_vec(),
        groups: grid(query_rows.div_ceil(16)),
        flops: 0,
    }));
    let [dq, dk, dv] = op.needs;
    let mut outputs = (0..ctx.outputs.len()).map(Slot::Output);
    let mut take = |on: bool| if on { outputs.next() } else { None };
    let (dq, dk, dv) = (take(dq), take(dk), take(dv));
    for (keys, a, b) in [(false, dq, None), (true, dk, dv)] {
        if a.is_none() && b.is_none() {
            continue;
        }
        let (wide, value_wide) = (sixteenths(d.width), sixteenths(d.value_width));
        let (count, held) = if keys { (d.keys, wide + value_wide) } else { (d.queries, wide) };
        // At most 32 elements of the gradients in an invocation's registers.
        let rows = (16 * (32 / held).clamp(1, 4).next_power_of_two()).min(count.div_ceil(16).next_power_of_two() * 16);
        let extra = op.forward.extra;
        let mut slots: Vec<_> = [0, 1, 2, 5].map(|i| (Slot::Input(i), false)).to_vec();
        slots.push((Slot::Temp(0), false));
        slots.extend((extra != Extra::Nothing).then_some((Slot::Input(6), false)));
        let at_a = slots.len();
        slots.extend([a, b].into_iter().flatten().map(|s| (s, true)));
        let source = variant(
            include_str!("../../shaders/attention_backward.wgsl"),
            &[
                ("BR", rows),
                ("RD", wide),
                ("RV", value_wide),
                ("STAGE", stage(rows, wide.max(value_wide))),
                ("B_A", at_a),
                ("B_B", at_a + a.is_some() as usize),
            ],
            &[
                ("KEYS", keys),
                ("MASK", extra == Extra::Mask),
                ("BIAS", extra == Extra::Bias),
                ("CAUSAL", op.forward.causal),
                ("GRAD_A", a.is_some()),
                ("GRAD_B", b.is_some()),
            ],
        );
        let tiles = count.div_ceil(rows);
        let total = tiles * d.batch * if keys { d.kv_heads } else { d.heads };
        kernel.steps.push(GpuStep::Dispatch(Dispatch {
            label: if keys { "attention_dkv" } else { "attention_dq" },
            source: source.into(),
            bindings: bind(&slots),
            params: params(ctx, &d, 6, tiles, total),
            groups: grid(total),
            flops: d.flops(3),
        }));
    }
    Ok(kernel)
}

//! A plan on the GPU: pointwise kernels too large to bind, in blocks; and every slot resolved to a buffer of the plan.

use super::super::split::{Steps, copy};
#[cfg(feature = "wgpu")]
use super::{Plan, Work};
#[cfg(feature = "wgpu")]
use crate::backend::Fault;
#[cfg(feature = "wgpu")]
use crate::codegen::dispatch::Placed;
use crate::codegen::dispatch::{Caps, GpuStep, Slot as Bound};
use crate::codegen::kernel::{Fused, Operand, collapse};
use crate::layout::Layout;
use crate::{Error, Result};

/// A pointwise kernel in blocks of its iteration space, each computed in row-major order at another place and then put where it belongs: for
/// operands of which even a small range of the output needs more than can be bound.
pub(super) fn fused_blocks(k: &Fused, caps: &Caps) -> Result<Steps> {
    let mut steps = Steps::default();
    let (mut shape, mut operands) = (k.shape.clone(), k.operands.clone());
    collapse(&mut shape, None, &mut operands);
    let whole = Layout::contiguous(shape.clone());
    let mut stack = vec![(whole, operands)];
    while let Some((to, operands)) = stack.pop() {
        steps.parts += 1;
        let reach = |o: &Operand| {
            let l = Layout { shape: to.shape.clone(), strides: o.strides.clone(), offset: o.offset };
            l.window(o.dtype.gpu_size(), caps).bytes
        };
        let widest = operands.iter().filter(|o| o.buffer.is_some()).max_by_key(|o| reach(o));
        let stored = to.numel() * k.program.stores.iter().map(|s| s.1.gpu_size()).max().unwrap_or(4);
        let fits = widest.is_none_or(|o| reach(o) <= caps.max_binding) && stored as u64 <= caps.max_binding;
        // Temporaries take the places of the outputs, after all buffers that the operands name.
        let first = k.operands.iter().filter_map(|o| o.buffer).max().unwrap_or(0) + 1;
        let outputs = (0..k.outputs.len()).map(|j| first + j).collect();
        let block =
            Fused { shape: to.shape.clone(), program: k.program.clone(), operands: operands.clone(), scalars: k.scalars.clone(), outputs };
        let pieces = if fits { crate::codegen::wgsl_fused::fused_pieces(&block, caps)? } else { None };
        let Some(pieces) = pieces else {
            let size = |d: usize| match widest {
                Some(o) if to.shape[d] > 1 => (to.shape[d] - 1) * o.strides[d].unsigned_abs().max(1),
                _ => to.shape[d] - 1,
            };
            let d = (0..to.shape.rank()).max_by_key(|&d| size(d)).filter(|&d| to.shape[d] > 1 && steps.parts < 16_384);
            let Some(d) = d else {
                let message = format!("shape {}: this device binds at most {} bytes at a time", k.shape, caps.max_binding);
                return Err(Error::Kernel { op: "fused".into(), message });
            };
            // Small elements fill words in fours.
            let half = if to.shape[d] >= 8 { to.shape[d] / 8 * 4 } else { to.shape[d] / 2 };
            let part = |start: usize, len: usize| {
                let shift = |o: &Operand| Operand { offset: (o.offset as isize + start as isize * o.strides[d]) as usize, ..o.clone() };
                (to.slice(d, start, 1, len), operands.iter().map(shift).collect::<Vec<_>>())
            };
            stack.extend([part(half, to.shape[d] - half), part(0, half)]);
            continue;
        };
        steps.temps.resize(k.outputs.len(), 0);
        for (temp, store) in steps.temps.iter_mut().zip(&k.program.stores) {
            *temp = (*temp).max(to.numel() * store.1.gpu_size());
        }
        for mut placed in pieces {
            if let GpuStep::Dispatch(d) = &mut placed.step {
                for b in &mut d.bindings {
                    if let Bound::Buffer(i) = b.slot
                        && i >= first
                    {
                        b.slot = Bound::Temp(i - first);
                    }
                }
            }
            steps.list.push(placed);
        }
        for (j, (&output, store)) in k.outputs.iter().zip(&k.program.stores).enumerate() {
            let from = Layout::contiguous(to.shape.clone());
            copy((Bound::Temp(j), &from), (Bound::Buffer(output), &to), store.1, None, caps, &mut steps.list).ok_or_else(|| {
                let message = format!("shape {}: rows of {} that do not fill words cannot be put together from parts", k.shape, store.1);
                Error::Kernel { op: "fused".into(), message }
            })?;
        }
    }
    Ok(steps)
}

/// The GPU steps of a plan with every slot resolved to a buffer of the plan. `number` gives the word that stands for a fault.
#[cfg(feature = "wgpu")]
pub(in crate::graph) fn place(plan: &Plan, caps: &Caps, number: &dyn Fn(&Fault) -> u32) -> Result<Vec<Placed>> {
    use crate::codegen::dispatch::Param;
    use crate::codegen::kernel::ScalarRef;
    let mut out = Vec::new();
    for step in &plan.steps {
        let (entry, in_place) = match &step.work {
            Work::Fused(k) if !step.split => {
                // Several where a buffer exceeds the largest binding.
                let pieces = crate::codegen::wgsl_fused::fused_pieces(k, caps)?;
                out.extend(pieces.ok_or_else(|| {
                    let message = "a kernel that fitted no longer does: please report this as a bug".into();
                    Error::Kernel { op: "fused".into(), message }
                })?);
                continue;
            }
            Work::Op { entry, in_place, .. } => (*entry, *in_place),
            _ => (usize::MAX, false),
        };
        let fault = step.fault.as_ref().map_or(0, number);
        for placed in &step.gpu {
            let step = match placed.step.clone() {
                GpuStep::UnlessInPlace(_) if in_place => continue,
                GpuStep::Dispatch(mut d) | GpuStep::UnlessInPlace(mut d) => {
                    for p in &mut d.params {
                        match *p {
                            Param::Scalar { index, dtype } => *p = Param::Remote { scalar: ScalarRef { entry, index }, dtype },
                            Param::Fault => *p = Param::Word(fault),
                            _ => {}
                        }
                    }
                    GpuStep::Dispatch(d)
                }
                zero => zero,
            };
            out.push(Placed { step, windows: placed.windows.clone() });
        }
    }
    Ok(out)
}

//! A replay of a plan: first everything that can fail, then the kernels, then the values are handed out.

use super::claim::Claim;
use super::plan::{Plan, Source, Work};
use crate::backend::Storage;
use crate::backend::cpu::memory::CpuBuffer;
use crate::backend::cpu::{self, Arg, CpuCtx};
use crate::codegen::kernel::ScalarRef;
use crate::device::Kind;
use crate::stats::{COUNTERS, count};
use crate::{Device, Error, Result, Scalar};
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// The CPU's fault word: an index was out of range since the last read.
pub(crate) static CPU_FAULT: AtomicU32 = AtomicU32::new(0);

pub(super) fn run(plan: &Plan, claim: &mut Claim, device: Device) -> Result<()> {
    count(&COUNTERS.donations, plan.donations);
    count(&COUNTERS.donations_refused, plan.refused);
    let values = match device.0 {
        Kind::Cpu => run_cpu(plan, claim)?,
        #[cfg(feature = "wgpu")]
        Kind::Gpu(n) => run_gpu(plan, claim, n as usize)?,
        #[cfg(not(feature = "wgpu"))]
        Kind::Gpu(_) => unreachable!("no GPU device can be made without the feature `wgpu`"),
    };
    claim.commit(plan.results.iter().map(|&b| values[b].clone()));
    Ok(())
}

fn missing(what: &str) -> Error {
    Error::Kernel { op: "flush".into(), message: format!("{what} has no value: please report this as a bug") }
}

fn leaf_storage(claim: &Claim, leaf: usize, out: usize) -> Result<&Arc<Storage>> {
    claim.leaves[leaf].values[out].as_ref().ok_or_else(|| missing(claim.leaves[leaf].node.outs[out].dtype.name()))
}

fn scalars(claim: &Claim, list: &[ScalarRef]) -> SmallVec<[Scalar; 16]> {
    list.iter().map(|s| claim.entries[s.entry].op.scalars()[s.index]).collect()
}

fn run_cpu(plan: &Plan, claim: &Claim) -> Result<Vec<Option<Arc<Storage>>>> {
    let mut values: Vec<Option<Arc<Storage>>> = Vec::with_capacity(plan.buffers.len());
    let arena = if plan.arena > 0 { Some(CpuBuffer::new(plan.arena)?) } else { None };
    let mut allocated = plan.arena as u64;
    for source in &plan.buffers {
        values.push(match *source {
            Source::Leaf(leaf, out) => Some(leaf_storage(claim, leaf, out)?.clone()),
            Source::Fresh(bytes) => {
                allocated += bytes as u64;
                Some(Arc::new(Storage::Cpu(CpuBuffer::new(bytes)?)))
            }
            Source::Arena(_) => None,
        });
    }
    count(&COUNTERS.bytes_allocated, allocated);
    let mut windows: Vec<CpuBuffer> = Vec::with_capacity(values.len());
    for (v, source) in values.iter().zip(&plan.buffers) {
        let (buffer, offset) = match (v.as_deref(), *source) {
            (None, Source::Arena(start)) => (arena.as_ref().ok_or_else(|| missing("the arena"))?, start),
            (Some(Storage::Cpu(b)), Source::Leaf(leaf, out)) => {
                (b, claim.leaves[leaf].offsets[out] * claim.leaves[leaf].node.outs[out].dtype.size())
            }
            (Some(Storage::Cpu(b)), _) => (b, 0),
            _ => return Err(missing("a CPU tensor")),
        };
        // SAFETY: `values` and `arena` outlive the windows.
        windows.push(unsafe { buffer.window(offset) });
    }
    let buffers: Vec<&CpuBuffer> = windows.iter().collect();
    cpu::threads::kernels(plan.wide, || steps_on_cpu(plan, claim, &buffers))?;
    count(&COUNTERS.dispatches, plan.steps.len() as u64);
    drop(windows);
    Ok(values)
}

fn steps_on_cpu(plan: &Plan, claim: &Claim, buffers: &[&CpuBuffer]) -> Result<()> {
    for step in &plan.steps {
        match &step.work {
            Work::Fused(k) => cpu::fused(k, buffers, &scalars(claim, &k.scalars)),
            Work::Reduce(k) => cpu::reduce(k, buffers, &scalars(claim, &k.scalars)),
            Work::Op { entry, inputs, outputs, epilogue, .. } => {
                let op = &claim.entries[*entry].op;
                let ins: SmallVec<[Arg; 8]> =
                    inputs.iter().map(|p| Arg { buffer: buffers[p.buffer], layout: &p.layout, dtype: p.dtype }).collect();
                let outs: SmallVec<[Arg; 4]> =
                    outputs.iter().map(|p| Arg { buffer: buffers[p.buffer], layout: &p.layout, dtype: p.dtype }).collect();
                op.cpu(&CpuCtx { op: op.name(), inputs: &ins, outputs: &outs, scalars: op.scalars(), fault: &CPU_FAULT })?;
                if let Some(e) = epilogue {
                    cpu::epilogue(e, outs[0].buffer, buffers, &scalars(claim, &e.scalars));
                }
            }
        }
    }
    Ok(())
}

#[cfg(feature = "wgpu")]
fn run_gpu(plan: &Plan, claim: &Claim, n: usize) -> Result<Vec<Option<Arc<Storage>>>> {
    use crate::backend::gpu::{self, GpuBuffer};
    use crate::codegen::dispatch::Param;
    let gpu = gpu::open(n, true)?;
    if plan.compiled.get().is_none() {
        let steps = super::plan::place(plan, gpu.caps())?;
        let compiled = gpu.compile(steps)?;
        // Only one flush runs at a time: nobody else can have set it.
        plan.compiled.set(compiled).unwrap_or_else(drop);
    }
    let Some(compiled) = plan.compiled.get() else { return Err(missing("the compiled plan")) };
    let mut values: Vec<Option<Arc<Storage>>> = Vec::with_capacity(plan.buffers.len());
    let mut offsets: Vec<u64> = Vec::with_capacity(plan.buffers.len());
    let mut allocated = 0;
    for source in &plan.buffers {
        let (value, offset) = match *source {
            Source::Leaf(leaf, out) => {
                let l = &claim.leaves[leaf];
                (leaf_storage(claim, leaf, out)?.clone(), l.offsets[out] * l.node.outs[out].dtype.gpu_size())
            }
            Source::Fresh(bytes) => {
                allocated += bytes as u64;
                (Arc::new(Storage::Gpu(gpu.alloc(bytes)?)), 0)
            }
            Source::Arena(_) => return Err(missing("a GPU tensor")),
        };
        values.push(Some(value));
        offsets.push(offset as u64);
    }
    count(&COUNTERS.bytes_allocated, allocated);
    let mut buffers: Vec<(&GpuBuffer, u64)> = Vec::with_capacity(values.len());
    for (v, &offset) in values.iter().zip(&offsets) {
        let Some(Storage::Gpu(b)) = v.as_deref() else { return Err(missing("a GPU tensor")) };
        buffers.push((b, offset));
    }
    let word = |p: &Param| match *p {
        Param::Word(w) => w,
        Param::Remote { scalar, dtype } => claim.entries[scalar.entry].op.scalars()[scalar.index].word(dtype),
        Param::Scalar { .. } => 0,
    };
    gpu.run_at(compiled, &buffers, &word)?;
    Ok(values)
}

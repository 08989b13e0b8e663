//! A replay of a plan: first everything that can fail, then the kernels, then the values are handed out.

use super::claim::Claim;
use super::op::Op;
use super::plan::{Plan, Port, Source, Work};
use crate::backend::cpu::memory::CpuBuffer;
use crate::backend::cpu::{self, Arg, CpuCtx};
use crate::backend::profile::Table;
use crate::backend::{Fault, Storage};
use crate::codegen::kernel::{Operand, ScalarRef};
use crate::codegen::wgsl_program::label;
use crate::device::Kind;
use crate::layout::Layout;
use crate::stats::{COUNTERS, count};
use crate::{Device, Error, Result, Scalar};
use smallvec::SmallVec;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The first index out of range on the CPU since one was last told.
static CPU_FAULT: Mutex<Option<Fault>> = Mutex::new(None);
/// Whether there is one.
static CPU_FAULTED: AtomicBool = AtomicBool::new(false);

/// `Error::Index` where an op on the CPU met an index out of range that nobody has been told of.
pub(crate) fn check_cpu_fault() -> Result<()> {
    if CPU_FAULTED.load(Ordering::Relaxed) {
        let mut fault = CPU_FAULT.lock().unwrap_or_else(|e| e.into_inner());
        CPU_FAULTED.store(false, Ordering::Relaxed);
        return fault.take().map_or(Ok(()), |f| Err(f.error()));
    }
    Ok(())
}

/// Notes a fault of an op on the CPU.
#[cold]
fn faulted(op: &dyn Op, inputs: &[Arg]) {
    let layouts: Vec<_> = inputs.iter().map(|a| a.layout).collect();
    let fault = super::op::fault(op, &layouts);
    CPU_FAULT.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(fault);
    CPU_FAULTED.store(true, Ordering::Relaxed);
}

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

/// The memory of a plan's buffers.
type Values = SmallVec<[Option<Arc<Storage>>; 8]>;

fn run_cpu(plan: &Plan, claim: &Claim) -> Result<Values> {
    let mut values: Values = Values::with_capacity(plan.buffers.len());
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
    let mut windows: SmallVec<[CpuBuffer; 8]> = SmallVec::with_capacity(values.len());
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
    let buffers: SmallVec<[&CpuBuffer; 8]> = windows.iter().collect();
    let profile = cpu::profile::table();
    cpu::threads::kernels(plan.wide, || steps_on_cpu(plan, claim, &buffers, profile))?;
    count(&COUNTERS.dispatches, plan.steps.len() as u64);
    drop(buffers);
    drop(windows);
    Ok(values)
}

fn steps_on_cpu(plan: &Plan, claim: &Claim, buffers: &[&CpuBuffer], profile: Option<&Table>) -> Result<()> {
    let fault = AtomicU32::new(0);
    for step in &plan.steps {
        let start = profile.map(|_| Instant::now());
        match &step.work {
            Work::Fused(k) => cpu::fused(k, buffers, &scalars(claim, &k.scalars)),
            Work::Reduce(k) => cpu::reduce(k, buffers, &scalars(claim, &k.scalars)),
            Work::Op { entry, inputs, outputs, epilogue, .. } => {
                let op = &claim.entries[*entry].op;
                let ins: SmallVec<[Arg; 8]> =
                    inputs.iter().map(|p| Arg { buffer: buffers[p.buffer], layout: &p.layout, dtype: p.dtype }).collect();
                let outs: SmallVec<[Arg; 4]> =
                    outputs.iter().map(|p| Arg { buffer: buffers[p.buffer], layout: &p.layout, dtype: p.dtype }).collect();
                op.cpu(&CpuCtx { op: op.name(), inputs: &ins, outputs: &outs, scalars: op.scalars(), fault: &fault })?;
                if fault.load(Ordering::Relaxed) != 0 {
                    faulted(&**op, &ins);
                    fault.store(0, Ordering::Relaxed);
                }
                if let Some(e) = epilogue {
                    cpu::epilogue(e, outs[0].buffer, buffers, &scalars(claim, &e.scalars));
                }
            }
        }
        if let (Some(table), Some(start)) = (profile, start) {
            let nanoseconds = start.elapsed().as_nanos() as f64;
            let (label, bytes, flops) = measure(&step.work, claim);
            table.add(label, nanoseconds, bytes, flops);
        }
    }
    Ok(())
}

/// What the profile says of a step on the CPU: its name, the bytes of what it reads and writes, its operations.
fn measure(work: &Work, claim: &Claim) -> (&'static str, u64, u64) {
    // What repeats (stride 0) is read once.
    let read = |shape: &[usize], o: &Operand| -> u64 {
        let distinct: usize = shape.iter().zip(&o.strides).filter(|(_, s)| **s != 0).map(|(d, _)| d).product();
        if o.buffer.is_some() { (distinct * o.dtype.size()) as u64 } else { 0 }
    };
    let reads = |shape: &[usize], list: &[Operand]| -> u64 { list.iter().map(|o| read(shape, o)).sum() };
    match work {
        Work::Fused(k) => {
            let n = k.shape.numel() as u64;
            let stored: usize = k.program.stores.iter().map(|s| s.1.size()).sum();
            (label("fused", &k.program), reads(&k.shape, &k.operands) + n * stored as u64, n * k.program.flops())
        }
        Work::Reduce(k) => {
            let outputs: usize = k.shape.iter().zip(&k.reduced).filter(|(_, r)| !**r).map(|(d, _)| d).product();
            let bytes = reads(&k.shape, &k.operands) + (outputs * k.out_dtype.size()) as u64;
            (label(&format!("reduce {:?}", k.kind), &k.program), bytes, k.shape.numel() as u64 * (k.program.flops() + 1))
        }
        Work::Op { entry, inputs, outputs, epilogue, .. } => {
            let op = &claim.entries[*entry].op;
            let ports: u64 = inputs.iter().chain(outputs).map(|p| (p.layout.numel() * p.dtype.size()) as u64).sum();
            let beside: u64 = epilogue.iter().map(|e| reads(&e.shape, &e.operands)).sum();
            let layouts = |list: &[Port]| -> Vec<Layout> { list.iter().map(|p| p.layout.clone()).collect() };
            let (ins, outs) = (layouts(inputs), layouts(outputs));
            let flops = op.flops(&ins.iter().collect::<Vec<_>>(), &outs.iter().collect::<Vec<_>>());
            (op.name(), ports + beside, flops)
        }
    }
}

#[cfg(feature = "wgpu")]
fn run_gpu(plan: &Plan, claim: &Claim, n: usize) -> Result<Values> {
    use crate::backend::gpu::{self, GpuBuffer};
    use crate::codegen::dispatch::Param;
    let gpu = gpu::open(n, true)?;
    if plan.compiled.get().is_none() {
        let caps = plan.caps.as_ref().unwrap_or(gpu.caps());
        let compiled = gpu.compile(super::plan::place::place(plan, caps, &|f| gpu.fault_word(f))?, caps)?;
        // A device runs one flush at a time: nobody else can have set it.
        plan.compiled.set(compiled).unwrap_or_else(drop);
    }
    let Some(compiled) = plan.compiled.get() else { return Err(missing("the compiled plan")) };
    let mut values: Values = Values::with_capacity(plan.buffers.len());
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
        Param::Scalar { .. } | Param::Fault => 0,
    };
    gpu.run_at(compiled, &buffers, &word)?;
    Ok(values)
}

//! A plan: the steps of a flush, and which buffer each one reads and writes. It holds indices and data, never nodes or ops.

mod lifetimes;
pub(super) mod place;

use super::claim::{Claim, Kind, Ref};
use super::fuse::Fuser;
use super::op::{Class, Reads};
use super::split::{Splitter, Steps, Value};
use crate::backend::Fault;
use crate::codegen::dispatch::{Caps, GpuStep, Placed, Slot as Bound};
use crate::codegen::kernel::{Epilogue, Fused, FusedReduce, Operand, collapse};
use crate::layout::Layout;
use crate::{DType, Device, Result};
use std::collections::HashMap;

/// An input or output of an op's own kernel.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub buffer: usize,
    pub dtype: DType,
    pub layout: Layout,
}

#[derive(Debug)]
pub(super) enum Work {
    Fused(Fused),
    Reduce(FusedReduce),
    /// The kernel of entry `entry`'s op.
    Op {
        entry: usize,
        inputs: Vec<Port>,
        outputs: Vec<Port>,
        epilogue: Option<Epilogue>,
        /// Output 0 is input 0's memory.
        in_place: bool,
    },
}

#[derive(Debug)]
pub(super) struct Step {
    pub work: Work,
    /// On the GPU: what it does, on the plan's buffers. Empty for a pointwise kernel whose text depends on what runs in place.
    gpu: Vec<Placed>,
    /// It runs in parts, and so never in place.
    split: bool,
    /// On the GPU: what to say where it meets an index out of range.
    #[cfg_attr(not(feature = "wgpu"), allow(dead_code))]
    fault: Option<Fault>,
    reads: Vec<usize>,
    writes: Vec<usize>,
    temps: Vec<usize>,
}

/// Where a buffer of a plan comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Source {
    /// Output `out` of leaf `leaf`.
    Leaf(usize, usize),
    /// Allocated at each replay, with this many bytes.
    Fresh(usize),
    /// On the CPU: from this byte on in the replay's arena.
    Arena(usize),
}

#[derive(Default)]
pub(super) struct Plan {
    pub buffers: Vec<Source>,
    /// Bytes of the memory that holds all intermediate values of a replay on the CPU.
    pub arena: usize,
    pub steps: Vec<Step>,
    /// The buffers of the outputs that outlive the flush: all of an entry's, by entry.
    pub results: Vec<usize>,
    pub donations: u64,
    /// Some step is large enough for several threads.
    pub wide: bool,
    pub refused: u64,
    /// What its GPU steps were made for.
    pub caps: Option<Caps>,
    #[cfg(feature = "wgpu")]
    pub compiled: std::sync::OnceLock<crate::backend::gpu::Compiled>,
}

/// A value that has a buffer, before buffers are shared.
struct Slot {
    bytes: usize,
    leaf: Option<(usize, usize)>,
    donated: bool,
    pinned: bool,
    root: bool,
    last_use: usize,
    buffer: usize,
}

pub(super) struct Planner<'a> {
    pub claim: &'a Claim,
    pub device: Device,
    pub caps: &'a Caps,
    pub owned: bool,
    slots: Vec<Slot>,
    slot_of: HashMap<Ref, usize>,
    /// Row-major copies for kernels that cannot read a layout.
    copies: HashMap<Ref, usize>,
    /// How many slots in use share a buffer.
    holders: Vec<usize>,
    steps: Vec<Step>,
}

fn bytes(device: Device, dtype: DType, numel: usize) -> usize {
    numel * if device.is_gpu() { dtype.gpu_size() } else { dtype.size() }
}

/// Whether a kernel that reads in this way can take the layout as it is.
pub(super) fn acceptable(device: Device, reads: Reads, dtype: DType, l: &Layout) -> bool {
    let aligned = || !device.is_gpu() || (l.offset * dtype.gpu_size()).is_multiple_of(256);
    match reads {
        Reads::Strided => true,
        Reads::Contiguous => l.is_contiguous() && aligned(),
        Reads::Matrix => {
            let r = l.shape.rank();
            if r < 2 || l.strides.iter().any(|&s| s < 0) {
                return l.is_contiguous();
            }
            let (m, n) = (l.shape[r - 2], l.shape[r - 1]);
            let (sm, sn) = (l.strides[r - 2], l.strides[r - 1]);
            let rows = (n <= 1 || sn == 1) && (m <= 1 || sm >= n as isize);
            let columns = (m <= 1 || sm == 1) && (n <= 1 || sn >= m as isize);
            rows || columns
        }
    }
}

impl<'a> Planner<'a> {
    pub fn build(claim: &'a Claim, device: Device, caps: &'a Caps, fuse: bool, owned: bool) -> Result<Plan> {
        let mut p = Planner {
            claim,
            device,
            caps,
            owned,
            slots: Vec::new(),
            slot_of: HashMap::new(),
            copies: HashMap::new(),
            holders: Vec::new(),
            steps: Vec::new(),
        };
        let fuser = Fuser::new(claim, device, fuse);
        p.schedule(&fuser)?;
        p.finish()
    }

    /// The slot of a value that is a leaf's or a stored entry's.
    fn slot(&mut self, r: Ref) -> usize {
        if let Some(&s) = self.slot_of.get(&r) {
            return s;
        }
        let (dtype, layout) = self.claim.meta(r);
        let (leaf, donated) = match r {
            Ref::Leaf(i, out) => (Some((i as usize, out as usize)), self.claim.leaves[i as usize].donated),
            Ref::Entry(..) => (None, false),
        };
        let s = self.slots.len();
        let bytes = bytes(self.device, dtype, layout.numel());
        self.slots.push(Slot { bytes, leaf, donated, pinned: false, root: false, last_use: 0, buffer: usize::MAX });
        self.slot_of.insert(r, s);
        s
    }

    fn temp(&mut self, bytes: usize) -> usize {
        self.slots.push(Slot { bytes, leaf: None, donated: false, pinned: false, root: false, last_use: 0, buffer: usize::MAX });
        self.slots.len() - 1
    }

    fn operands(&mut self, list: Vec<(Option<Ref>, DType, Layout)>) -> Vec<Operand> {
        list.into_iter()
            .map(|(r, dtype, l)| Operand { buffer: r.map(|r| self.slot(r)), dtype, strides: l.strides, offset: l.offset })
            .collect()
    }

    /// A pointwise kernel that stores the given values, all of one shape.
    fn fused(&mut self, fuser: &Fuser, values: &[Ref], outputs: Vec<usize>) {
        let (_, layout) = self.claim.meta(values[0]);
        let shape = layout.shape.clone();
        if shape.numel() == 0 {
            return;
        }
        let e = fuser.emit(values, true, None);
        let operands = self.operands(e.operands);
        let reads = operands.iter().filter_map(|o| o.buffer).collect();
        let kernel = Fused { shape, program: e.program, operands, scalars: e.scalars, outputs: outputs.clone() };
        self.steps.push(Step {
            work: Work::Fused(kernel),
            gpu: Vec::new(),
            split: false,
            fault: None,
            reads,
            writes: outputs,
            temps: Vec::new(),
        });
    }

    fn schedule(&mut self, fuser: &Fuser) -> Result<()> {
        let claim = self.claim;
        for i in 0..claim.entries.len() {
            let e = &claim.entries[i];
            match e.kind {
                Kind::View | Kind::Host => {}
                Kind::Pointwise => {
                    if let Some(kernel) = fuser.epilogue_of(i) {
                        self.kernel(fuser, kernel, Some(i))?;
                    } else if let Some(group) = fuser.group_at(i) {
                        let values: Vec<Ref> = group.iter().map(|&m| Ref::Entry(m as u32, 0)).collect();
                        let outputs = values.iter().map(|&v| self.slot(v)).collect();
                        self.fused(fuser, &values, outputs);
                    }
                }
                Kind::Reduce => self.reduce(fuser, i),
                Kind::Kernel => {
                    if !fuser.has_epilogue(i) {
                        self.kernel(fuser, i, None)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn reduce(&mut self, fuser: &Fuser, i: usize) {
        let e = &self.claim.entries[i];
        let Class::Reduce(kind, flags) = e.op.class() else { return };
        let out = &e.node.outs[0];
        let output = self.slot(Ref::Entry(i as u32, 0));
        if out.layout.numel() == 0 {
            return;
        }
        let (_, input) = self.claim.meta(e.inputs[0]);
        let mut shape = input.shape.clone();
        let mut reduced = flags.to_vec();
        let emitted = fuser.emit(&[e.inputs[0]], false, None);
        let mut operands = self.operands(emitted.operands);
        let reads = operands.iter().filter_map(|o| o.buffer).collect();
        collapse(&mut shape, Some(&mut reduced), &mut operands);
        let (program, scalars) = (emitted.program, emitted.scalars);
        let work = FusedReduce { kind, shape, reduced, program, operands, scalars, output, out_dtype: out.dtype };
        self.steps.push(Step {
            work: Work::Reduce(work),
            gpu: Vec::new(),
            split: false,
            fault: None,
            reads,
            writes: vec![output],
            temps: Vec::new(),
        });
    }

    /// The kernel of entry `i`, finished by the pointwise root `root` if there is one.
    fn kernel(&mut self, fuser: &Fuser, i: usize, root: Option<usize>) -> Result<()> {
        let e = &self.claim.entries[i];
        let mut outputs = Vec::new();
        for (out, m) in e.node.outs.iter().enumerate() {
            let r = if out == 0 { Ref::Entry(root.unwrap_or(i) as u32, 0) } else { Ref::Entry(i as u32, out as u32) };
            outputs.push(Port { buffer: self.slot(r), dtype: m.dtype, layout: m.layout.clone() });
        }
        if e.node.outs.iter().all(|m| m.layout.numel() == 0) {
            return Ok(());
        }
        let mut inputs = Vec::new();
        for (k, &r) in e.inputs.iter().enumerate() {
            let (dtype, layout) = self.claim.meta(r);
            if fuser.needs_copy(i, k) {
                let slot = match self.copies.get(&r) {
                    Some(&s) => s,
                    None => {
                        let s = self.temp(bytes(self.device, dtype, layout.numel()));
                        self.copies.insert(r, s);
                        self.fused(fuser, &[r], vec![s]);
                        s
                    }
                };
                inputs.push(Port { buffer: slot, dtype, layout: Layout::contiguous(layout.shape.clone()) });
            } else {
                let base = fuser.base(r);
                inputs.push(Port { buffer: self.slot(base), dtype, layout: layout.clone() });
            }
        }
        let mut epilogue = root.map(|root| {
            let shape = self.claim.entries[root].node.outs[0].layout.shape.clone();
            let emitted = fuser.emit(&[Ref::Entry(root as u32, 0)], true, Some(i));
            let operands = self.operands(emitted.operands);
            Epilogue { shape, program: emitted.program, operands, scalars: emitted.scalars }
        });
        let mut reads: Vec<usize> = inputs.iter().map(|p| p.buffer).collect();
        let beside = |e: &Epilogue| e.operands.iter().filter_map(|o| o.buffer).collect::<Vec<_>>();
        let writes: Vec<usize> = outputs.iter().map(|p| p.buffer).collect();
        let (mut gpu, mut temps, mut split, mut after) = (Vec::new(), Vec::new(), false, None);
        if self.device.is_gpu() {
            let value = |p: &Port, reads| Value { slot: p.buffer, reads, dtype: p.dtype, layout: p.layout.clone() };
            let ins: Vec<Value> = inputs.iter().enumerate().map(|(k, p)| value(p, e.op.reads(k))).collect();
            let outs: Vec<Value> = outputs.iter().map(|p| value(p, Reads::Contiguous)).collect();
            let splitter = || Splitter::new(&*e.op, &ins, &outs, self.caps, self.device);
            let steps = match splitter().whole(epilogue.as_ref())? {
                Some(steps) => steps,
                None => {
                    // The epilogue of a kernel in parts is a kernel of its own.
                    split = true;
                    crate::testing::parted();
                    after = epilogue.take();
                    splitter().parts()?
                }
            };
            (gpu, temps) = self.adopt(steps);
        }
        reads.extend(epilogue.iter().flat_map(beside));
        let work = Work::Op { entry: i, inputs, outputs, epilogue, in_place: false };
        let output = writes[0];
        let faults = |p: &Placed| matches!(&p.step, GpuStep::Dispatch(d) if d.bindings.iter().any(|b| b.slot == Bound::Fault));
        let fault = gpu.iter().any(faults).then(|| {
            let layouts: Vec<&Layout> = e.inputs.iter().map(|&r| self.claim.meta(r).1).collect();
            super::op::fault(&*e.op, &layouts)
        });
        self.steps.push(Step { work, gpu, split, fault, reads, writes, temps });
        if let Some(mut e) = after {
            let own = Layout::contiguous(e.shape.clone());
            e.operands[0] = Operand { buffer: Some(output), dtype: DType::F32, strides: own.strides, offset: 0 };
            let reads = beside(&e);
            let kernel = Fused { shape: e.shape, program: e.program, operands: e.operands, scalars: e.scalars, outputs: vec![output] };
            self.steps.push(Step {
                work: Work::Fused(kernel),
                gpu: Vec::new(),
                split: false,
                fault: None,
                reads,
                writes: vec![output],
                temps: Vec::new(),
            });
        }
        Ok(())
    }

    /// Gives the temporaries of some steps places among the plan's values.
    fn adopt(&mut self, mut steps: Steps) -> (Vec<Placed>, Vec<usize>) {
        let temps: Vec<usize> = steps.temps.iter().map(|&b| self.temp(b)).collect();
        for placed in &mut steps.list {
            let place = |slot: &mut Bound| {
                if let Bound::Temp(i) = *slot {
                    *slot = Bound::Buffer(temps[i]);
                }
            };
            match &mut placed.step {
                GpuStep::Dispatch(d) | GpuStep::UnlessInPlace(d) => d.bindings.iter_mut().for_each(|b| place(&mut b.slot)),
                GpuStep::Zero(slot) => place(slot),
            }
        }
        (steps.list, temps)
    }

    /// The GPU steps of reductions, and of the pointwise kernels that need a part of their output at another place first.
    fn generate(&mut self) -> Result<()> {
        for at in 0..self.steps.len() {
            let (steps, split) = match &self.steps[at].work {
                Work::Reduce(r) => {
                    let (list, temps) = crate::codegen::wgsl_reduce::reduce(r, self.caps)?;
                    (Steps { list, temps, parts: 1 }, false)
                }
                Work::Fused(k) if crate::codegen::wgsl_fused::fused_pieces(k, self.caps)?.is_none() => {
                    (place::fused_blocks(k, self.caps)?, true)
                }
                _ => continue,
            };
            let (gpu, temps) = self.adopt(steps);
            let step = &mut self.steps[at];
            (step.gpu, step.split, step.temps) = (gpu, split, temps);
        }
        Ok(())
    }
}

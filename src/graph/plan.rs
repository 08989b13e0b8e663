//! A plan: the steps of a flush, and which buffer each one reads and writes. It holds indices and data, never nodes or ops.

use super::claim::{Claim, Kind, Ref};
use super::fuse::Fuser;
use super::op::{Class, Reads};
use super::split::{Splitter, Steps, Value, copy};
use crate::backend::Fault;
use crate::codegen::dispatch::{Caps, GpuStep, Placed, Slot as Bound};
use crate::codegen::kernel::{Epilogue, Fused, FusedReduce, Operand, collapse};
use crate::layout::Layout;
use crate::{DType, Device, Error, Result};
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

/// Values start at cache lines.
const ARENA_ALIGN: usize = 64;

/// Bytes of a buffer from which on kernels may split their work.
const WIDE: usize = 64 << 10;

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

    /// Lifetimes, in-place outputs, and the sharing of buffers.
    fn finish(mut self) -> Result<Plan> {
        let mut plan = Plan::default();
        for (i, e) in self.claim.entries.iter().enumerate().filter(|(_, e)| e.keep) {
            for out in 0..e.node.outs.len() {
                let base = Fuser::base_of(self.claim, Ref::Entry(i as u32, out as u32));
                let s = self.slot(base);
                self.slots[s].pinned = true;
                self.slots[s].root |= e.root;
                plan.results.push(s);
            }
        }
        if self.device.is_gpu() {
            self.generate()?;
            plan.caps = Some(*self.caps);
        }
        for (at, step) in self.steps.iter().enumerate() {
            for &s in step.reads.iter().chain(&step.writes).chain(&step.temps) {
                self.slots[s].last_use = at;
            }
        }
        self.check_written()?;
        let mut free: Vec<(usize, usize)> = Vec::new(); // (bytes, buffer)
        for at in 0..self.steps.len() {
            self.in_place(at, &mut plan);
            let step = &self.steps[at];
            let writes: Vec<usize> = step.writes.iter().chain(&step.temps).copied().collect();
            let reads = step.reads.clone();
            for s in writes {
                if self.slots[s].buffer == usize::MAX {
                    let buffer = take(&mut plan, &mut free, self.slots[s].bytes);
                    self.hold(s, buffer);
                }
            }
            for s in reads {
                self.place_leaf(s, &mut plan);
                // An empty tensor: no step computes it.
                if self.slots[s].buffer == usize::MAX {
                    let buffer = take(&mut plan, &mut free, self.slots[s].bytes);
                    self.hold(s, buffer);
                }
            }
            let step = &self.steps[at];
            let mut done: Vec<usize> = step.reads.iter().chain(&step.writes).chain(&step.temps).copied().collect();
            done.sort_unstable();
            done.dedup();
            for s in done {
                let slot = &self.slots[s];
                if slot.last_use == at && !slot.pinned && slot.leaf.is_none() {
                    let buffer = slot.buffer;
                    self.holders[buffer] -= 1;
                    if let Source::Fresh(b) = plan.buffers[buffer]
                        && self.holders[buffer] == 0
                        && self.device.is_gpu()
                    {
                        free.push((b, buffer));
                    }
                }
            }
        }
        // Results that no step computes: empty tensors, and leaves seen through a view.
        let pinned = plan.results.clone();
        for s in pinned {
            self.place_leaf(s, &mut plan);
            if self.slots[s].buffer == usize::MAX {
                plan.buffers.push(Source::Fresh(self.slots[s].bytes));
                self.hold(s, plan.buffers.len() - 1);
            }
        }
        if !self.device.is_gpu() {
            self.pack(&mut plan);
        }
        plan.wide = self.slots.iter().any(|s| s.bytes >= WIDE);
        plan.results.iter_mut().for_each(|s| *s = self.slots[*s].buffer);
        let map: Vec<usize> = self.slots.iter().map(|s| s.buffer).collect();
        plan.steps = std::mem::take(&mut self.steps);
        for step in &mut plan.steps {
            rename(step, &map);
        }
        Ok(plan)
    }

    /// Puts the buffers that no result lives in into one arena, the largest first, each at the lowest place that is free while it lives. (On the
    /// GPU a buffer of its own each, for a buffer bound for reading and for writing in one dispatch is an error there.)
    fn pack(&self, plan: &mut Plan) {
        let mut life: Vec<Option<(usize, usize)>> = vec![None; plan.buffers.len()];
        for (at, step) in self.steps.iter().enumerate() {
            for &s in step.reads.iter().chain(&step.writes).chain(&step.temps) {
                let l = life[self.slots[s].buffer].get_or_insert((at, at));
                l.1 = at;
            }
        }
        for s in self.slots.iter().filter(|s| s.pinned && s.buffer != usize::MAX) {
            life[s.buffer] = None;
        }
        let mut order: Vec<(usize, usize, (usize, usize))> = Vec::new(); // bytes, buffer, life
        for (b, (source, life)) in plan.buffers.iter().zip(&life).enumerate() {
            if let (Source::Fresh(bytes), Some(life)) = (source, life) {
                order.push((bytes.next_multiple_of(ARENA_ALIGN).max(ARENA_ALIGN), b, *life));
            }
        }
        order.sort_by_key(|o| std::cmp::Reverse(o.0));
        let mut placed: Vec<(usize, usize, (usize, usize))> = Vec::new(); // start, end, life, by start
        for (bytes, b, life) in order {
            let mut start = 0;
            for &(from, to, other) in &placed {
                let meets = other.0 <= life.1 && life.0 <= other.1;
                if meets && from >= start + bytes {
                    break;
                }
                if meets {
                    start = start.max(to);
                }
            }
            let i = placed.partition_point(|p| p.0 <= start);
            placed.insert(i, (start, start + bytes, life));
            plan.arena = plan.arena.max(start + bytes);
            plan.buffers[b] = Source::Arena(start);
        }
    }

    /// Every value that a step reads is a leaf's or was written by an earlier step.
    fn check_written(&self) -> Result<()> {
        let mut written: Vec<bool> = self.slots.iter().map(|s| s.leaf.is_some()).collect();
        for step in &self.steps {
            if let Some(&s) = step.reads.iter().find(|&&s| !written[s] && self.slots[s].bytes > 0) {
                let value = self.slot_of.iter().find(|(_, v)| **v == s).map(|(r, _)| *r);
                let name = match value {
                    Some(Ref::Entry(i, _)) => self.claim.entries[i as usize].op.name(),
                    _ => "a copy",
                };
                if std::env::var_os("FORNAX_DUMP").is_some() {
                    eprint!("{}", super::trace::claim(self.claim));
                    self.steps.iter().for_each(|t| eprint!("{}", super::trace::step(self.claim, t)));
                }
                let message = format!("the plan reads {name} ({value:?}) before it is computed: please report this as a bug");
                return Err(Error::Kernel { op: "flush".into(), message });
            }
            step.writes.iter().chain(&step.temps).for_each(|&s| written[s] = true);
        }
        Ok(())
    }

    fn place_leaf(&mut self, s: usize, plan: &mut Plan) {
        if let Some((leaf, out)) = self.slots[s].leaf
            && self.slots[s].buffer == usize::MAX
        {
            plan.buffers.push(Source::Leaf(leaf, out));
            self.hold(s, plan.buffers.len() - 1);
        }
    }

    fn hold(&mut self, s: usize, buffer: usize) {
        self.slots[s].buffer = buffer;
        self.holders.resize(self.holders.len().max(buffer + 1), 0);
        self.holders[buffer] += 1;
    }

    /// Lets outputs of step `at` take over the buffers of inputs that nobody reads later.
    fn in_place(&mut self, at: usize, plan: &mut Plan) {
        let pairs: Vec<(usize, usize)> = match &self.steps[at].work {
            _ if self.steps[at].split => Vec::new(),
            Work::Fused(k) => {
                let here = |o: &Operand| Layout { shape: k.shape.clone(), strides: o.strides.clone(), offset: o.offset }.is_identity();
                let fits = |s: usize, d: DType, out: DType| {
                    (0..k.operands.len()).all(|i| k.operands[i].buffer != Some(s) || here(&k.operands[i]))
                        && bytes(self.device, d, 1) == bytes(self.device, out, 1)
                };
                let mut pairs = Vec::new();
                for (j, &out) in k.outputs.iter().enumerate() {
                    let dtype = k.program.stores[j].1;
                    pairs.extend(
                        k.operands.iter().filter_map(|o| o.buffer.filter(|&s| fits(s, o.dtype, dtype) && s != out)).map(|s| (s, out)),
                    );
                }
                pairs
            }
            Work::Op { entry, inputs, outputs, .. } => {
                let donates = self.claim.entries[*entry].op.donates();
                let ok = |p: &Port, q: &Port| p.layout.is_identity() && p.dtype == q.dtype && p.layout.numel() == q.layout.numel();
                let once = |s: usize| inputs.iter().filter(|p| p.buffer == s).count() == 1;
                donates
                    .iter()
                    .filter(|&&(i, o)| ok(&inputs[i], &outputs[o]) && once(inputs[i].buffer))
                    .map(|&(i, o)| (inputs[i].buffer, outputs[o].buffer))
                    .collect()
            }
            Work::Reduce(_) => Vec::new(),
        };
        // An owner's new value has the first claim on its old one, and takes that rather than a value of this flush (its gradient).
        let mut pairs = pairs;
        pairs.sort_by_key(|&(from, to)| (!self.slots[to].root, self.slots[from].leaf.is_none()));
        let mut refused: Vec<(usize, usize)> = Vec::new();
        for (from, to) in pairs {
            if self.slots[to].buffer != usize::MAX {
                continue;
            }
            let f = &self.slots[from];
            let last = f.last_use == at && !f.pinned;
            let alone = f.buffer == usize::MAX || self.holders[f.buffer] == 1;
            let same = f.bytes == self.slots[to].bytes;
            let free = match f.leaf {
                None => true,
                Some(_) => f.donated && !self.shared_later(from, at),
            };
            if last && alone && same && free {
                self.place_leaf(from, plan);
                self.hold(to, self.slots[from].buffer);
                plan.donations += self.slots[from].leaf.is_some() as u64;
                refused.retain(|r| r.1 != to);
                if let Work::Op { in_place, .. } = &mut self.steps[at].work {
                    *in_place = true;
                }
            } else if self.owned && f.leaf.is_some() && same && self.slots[to].root {
                refused.push((from, to));
            }
        }
        // Memory that another output of this very step has taken over was not refused.
        let writes = &self.steps[at].writes;
        let taken = |from: usize| {
            self.slots.iter().enumerate().any(|(s, o)| {
                let same = o.leaf.is_some() && self.memory(s) == self.memory(from);
                same && o.buffer != usize::MAX && writes.iter().any(|&w| self.slots[w].buffer == o.buffer)
            })
        };
        let mut outputs: Vec<usize> = refused.into_iter().filter(|r| !taken(r.0)).map(|r| r.1).collect();
        outputs.sort_unstable();
        outputs.dedup();
        plan.refused += outputs.len() as u64;
    }

    /// The memory of a leaf's slot.
    fn memory(&self, s: usize) -> Option<*const crate::backend::Storage> {
        let (leaf, out) = self.slots[s].leaf?;
        self.claim.leaves[leaf].values[out].as_ref().map(std::sync::Arc::as_ptr)
    }

    /// Whether another leaf on the same memory (a view that has its value) is read at step `at` or later.
    fn shared_later(&self, s: usize, at: usize) -> bool {
        let mine = self.memory(s);
        self.slots.iter().enumerate().any(|(k, o)| k != s && self.memory(k) == mine && (o.last_use >= at || o.pinned))
    }

    /// The GPU steps of reductions, and of the pointwise kernels that need a part of their output at another place first.
    fn generate(&mut self) -> Result<()> {
        for at in 0..self.steps.len() {
            let (steps, split) = match &self.steps[at].work {
                Work::Reduce(r) => {
                    let (list, temps) = crate::codegen::wgsl_reduce::reduce(r, self.caps)?;
                    (Steps { list, temps, parts: 1 }, false)
                }
                Work::Fused(k) if crate::codegen::wgsl_fused::fused_pieces(k, self.caps)?.is_none() => (fused_blocks(k, self.caps)?, true),
                _ => continue,
            };
            let (gpu, temps) = self.adopt(steps);
            let step = &mut self.steps[at];
            (step.gpu, step.split, step.temps) = (gpu, split, temps);
        }
        Ok(())
    }
}

/// A pointwise kernel in blocks of its iteration space, each computed in row-major order at another place and then put where it belongs: for
/// operands of which even a small range of the output needs more than can be bound.
fn fused_blocks(k: &Fused, caps: &Caps) -> Result<Steps> {
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

/// A buffer from the free list that fits within a quarter, or a new one.
fn take(plan: &mut Plan, free: &mut Vec<(usize, usize)>, bytes: usize) -> usize {
    let best = free.iter().enumerate().filter(|(_, f)| f.0 >= bytes && f.0 <= bytes + bytes / 4 + 256).min_by_key(|(_, f)| f.0);
    if let Some((i, _)) = best {
        return free.swap_remove(i).1;
    }
    plan.buffers.push(Source::Fresh(bytes));
    plan.buffers.len() - 1
}

/// Turns slots into buffers.
fn rename(step: &mut Step, map: &[usize]) {
    let operands = |list: &mut Vec<Operand>| list.iter_mut().for_each(|o| o.buffer = o.buffer.map(|b| map[b]));
    match &mut step.work {
        Work::Fused(k) => {
            operands(&mut k.operands);
            k.outputs.iter_mut().for_each(|b| *b = map[*b]);
            collapse(&mut k.shape, None, &mut k.operands);
        }
        Work::Reduce(k) => {
            operands(&mut k.operands);
            k.output = map[k.output];
        }
        Work::Op { inputs, outputs, epilogue, .. } => {
            inputs.iter_mut().chain(outputs).for_each(|p| p.buffer = map[p.buffer]);
            if let Some(e) = epilogue {
                operands(&mut e.operands);
            }
        }
    }
    for placed in &mut step.gpu {
        let place = |slot: &mut Bound| {
            if let Bound::Buffer(i) = slot {
                *i = map[*i];
            }
        };
        match &mut placed.step {
            GpuStep::Dispatch(d) | GpuStep::UnlessInPlace(d) => d.bindings.iter_mut().for_each(|b| place(&mut b.slot)),
            GpuStep::Zero(slot) => place(slot),
        }
    }
    for list in [&mut step.reads, &mut step.writes, &mut step.temps] {
        list.iter_mut().for_each(|b| *b = map[*b]);
    }
}

/// The GPU steps of a plan with every slot resolved to a buffer of the plan. `number` gives the word that stands for a fault.
#[cfg(feature = "wgpu")]
pub(super) fn place(plan: &Plan, caps: &Caps, number: &dyn Fn(&Fault) -> u32) -> Result<Vec<Placed>> {
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

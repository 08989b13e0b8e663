//! Which buffer each value of a plan gets: lifetimes, in-place outputs, the donation of old values, and the arena.

use super::super::claim::Ref;
use super::{Plan, Planner, Port, Source, Step, Work, bytes};
use crate::codegen::dispatch::{GpuStep, Slot as Bound};
use crate::codegen::kernel::{Operand, collapse};
use crate::layout::Layout;
use crate::{DType, Error, Result};
use std::collections::BTreeMap;

/// Values start at cache lines.
const ARENA_ALIGN: usize = 64;

/// Bytes of a buffer from which on kernels may split their work.
const WIDE: usize = 64 << 10;

/// A place in the arena: from byte to byte, and when it is taken: the first and the last step of each value that lies there.
struct Shelf {
    start: usize,
    end: usize,
    lives: BTreeMap<usize, usize>,
}

impl Planner<'_> {
    /// Lifetimes, in-place outputs, and the sharing of buffers.
    pub(super) fn finish(mut self) -> Result<Plan> {
        let mut plan = Plan::default();
        for (i, e) in self.claim.entries.iter().enumerate().filter(|(_, e)| e.keep) {
            for out in 0..e.node.outs.len() {
                let base = self.claim.base(Ref::Entry(i as u32, out as u32));
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
        // What a reduction generates itself (`full(…).mean()`) lies in no buffer.
        let domain = |s: &Step| match &s.work {
            Work::Fused(k) => 4 * k.shape.numel(),
            Work::Reduce(k) => 4 * k.shape.numel(),
            Work::Op { .. } => 0,
        };
        plan.wide = self.slots.iter().any(|s| s.bytes >= WIDE) || self.steps.iter().any(|s| domain(s) >= WIDE);
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
        // By start. Where two share memory their lives are apart, so that one lookup finds whether one of a shelf's meets another life.
        let mut shelves: Vec<Shelf> = Vec::new();
        for (bytes, b, life) in order {
            let mut start = 0;
            for shelf in &shelves {
                let meets = shelf.lives.range(..=life.1).next_back().is_some_and(|(_, &death)| death >= life.0);
                if meets && shelf.start >= start + bytes {
                    break;
                }
                if meets {
                    start = start.max(shelf.end);
                }
            }
            let end = start + bytes;
            let at = shelves.partition_point(|s| (s.start, s.end) < (start, end));
            if shelves.get(at).is_none_or(|s| (s.start, s.end) != (start, end)) {
                shelves.insert(at, Shelf { start, end, lives: BTreeMap::new() });
            }
            shelves[at].lives.insert(life.0, life.1);
            plan.arena = plan.arena.max(end);
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
                    eprint!("{}", super::super::trace::claim(self.claim));
                    self.steps.iter().for_each(|t| eprint!("{}", super::super::trace::step(self.claim, t)));
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

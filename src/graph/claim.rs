//! What a flush claims: the pending ancestors of its roots, who still needs them afterwards, and the key under which their plan is cached.

use super::node::{Body, FAILED, Node, READY, release};
use super::op::{Class, Key, Meta, Op};
use super::{Tensor, flush, pending};
use crate::backend::Storage;
use crate::layout::Layout;
use crate::{Device, Result};
use smallvec::SmallVec;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// An input of an entry: output `out` of another entry or of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ref {
    Entry(u32, u32),
    Leaf(u32, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    View,
    Pointwise,
    Reduce,
    Kernel,
    Host,
}

/// A pending node.
pub(super) struct Entry {
    pub node: Arc<Node>,
    pub op: Arc<dyn Op>,
    pub kind: Kind,
    pub inputs: SmallVec<[Ref; 4]>,
    /// Of a view: what the chain of views that ends in it looks at.
    base: Option<Ref>,
    /// Handles on this node among the claimed nodes' inputs.
    edges: usize,
    /// A gradient graph that is not spent runs through it.
    taped: bool,
    /// Its outputs get memory that outlives the flush.
    pub keep: bool,
    /// The flush was asked for it.
    pub root: bool,
}

/// A node with a value.
pub(super) struct Leaf {
    pub node: Arc<Node>,
    pub values: SmallVec<[Option<Arc<Storage>>; 1]>,
    edges: usize,
    /// Nobody reads it after this flush, so its buffer may be overwritten.
    pub donated: bool,
    /// The layouts as the plan sees them, and what a replay adds: the first element of each output, in elements.
    pub layouts: SmallVec<[Layout; 1]>,
    pub offsets: SmallVec<[usize; 1]>,
    /// The leaf and output by which the plan knows each output: an earlier one that shows the same memory in the same way, or its own.
    same: SmallVec<[(u32, u32); 1]>,
}

#[derive(Default)]
pub(super) struct Claim {
    pub device: Option<Device>,
    pub entries: Vec<Entry>,
    pub leaves: Vec<Leaf>,
    /// The leaves' outputs whose memory has other names, too.
    shared: Places,
    /// Dropped after the executor's lock is gone.
    pub garbage: Vec<Tensor>,
}

/// Where memory is seen from: few places in a list, more of them by hash.
#[derive(Default)]
struct Places {
    list: SmallVec<[(usize, (u32, u32)); 16]>,
    by_memory: HashMap<usize, SmallVec<[u32; 2]>>,
}

impl Places {
    const FEW: usize = 16;

    fn add(&mut self, p: usize, place: (u32, u32)) {
        if self.list.len() == Places::FEW {
            for (i, (p, _)) in self.list.iter().enumerate() {
                self.by_memory.entry(*p).or_default().push(i as u32);
            }
        }
        if self.list.len() >= Places::FEW {
            self.by_memory.entry(p).or_default().push(self.list.len() as u32);
        }
        self.list.push((p, place));
    }

    /// The places of this memory, in the order in which they came.
    fn of(&self, p: usize) -> impl Iterator<Item = (u32, u32)> {
        let few = if self.list.len() <= Places::FEW { &self.list[..] } else { &[] };
        let many = self.by_memory.get(&p).map_or(&[][..], |l| &l[..]);
        few.iter().filter(move |m| m.0 == p).map(|m| m.1).chain(many.iter().map(|&i| self.list[i as usize].1))
    }

    /// Adds a place, and gives the number from 1 on of the first one of this memory before it, or 0.
    fn number(&mut self, p: usize) -> usize {
        let first = self.of(p).next().map_or(0, |place| place.0 as usize);
        self.add(p, (self.list.len() as u32 + 1, 0));
        first
    }
}

/// The longest chain of pointwise ops that a cut leaves as a recipe.
const RECIPE: u32 = 16;
const VISITED: u64 = u32::MAX as u64;
const LEAF: u64 = 1 << 31;
static EPOCH: AtomicU32 = AtomicU32::new(0);

fn kind(op: &dyn Op) -> Kind {
    match op.class() {
        Class::View => Kind::View,
        Class::Pointwise(_) => Kind::Pointwise,
        Class::Reduce(..) => Kind::Reduce,
        Class::Kernel => Kind::Kernel,
        Class::Host => Kind::Host,
    }
}

impl Claim {
    /// Collects the pending ancestors of the roots, in the order of recording. Host steps are taken in without their ancestors: the caller
    /// runs them first.
    pub fn collect(roots: &[Tensor], owned: bool) -> Result<Claim> {
        let start = || roots.iter().filter(|t| !t.node.is_ready()).map(|t| t.node.clone()).collect::<SmallVec<[_; 8]>>();
        let (claim, epoch) = Claim::from_nodes(start())?;
        if owned {
            let readers = claim.readers(epoch);
            if !readers.is_empty() {
                drop(claim);
                return Ok(Claim::from_nodes(start().into_iter().chain(readers).collect())?.0);
            }
        }
        Ok(claim)
    }

    fn from_nodes(mut stack: SmallVec<[Arc<Node>; 8]>) -> Result<(Claim, u64)> {
        // Not 0, which is the mark of a node that no flush has seen.
        let epoch = loop {
            let next = EPOCH.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            if next != 0 {
                break (next as u64) << 32;
            }
        };
        let mut nodes: SmallVec<[(u64, Arc<Node>); 8]> = SmallVec::new();
        while let Some(node) = stack.pop() {
            if node.mark.swap(epoch | VISITED, Ordering::Relaxed) == epoch | VISITED {
                continue;
            }
            if node.state.load(Ordering::Acquire) == FAILED {
                let mut body = node.body();
                node.state.store(super::node::PENDING, Ordering::Release);
                if let Some(e) = body.error.take() {
                    return Err(e);
                }
            }
            {
                let body = node.body();
                if !body.op.as_ref().is_some_and(|op| matches!(op.class(), Class::Host)) {
                    for t in &body.inputs {
                        if t.node.state.load(Ordering::Acquire) != READY && t.node.mark.load(Ordering::Relaxed) != epoch | VISITED {
                            stack.push(t.node.clone());
                        }
                    }
                }
            }
            nodes.push((node.seq, node));
        }
        nodes.sort_unstable_by_key(|n| n.0);
        let mut claim = Claim::default();
        claim.device = nodes.first().map(|n| n.1.device);
        claim.entries.reserve(nodes.len());
        for (_, node) in nodes {
            claim.add(node, epoch);
        }
        Ok((claim, epoch))
    }

    /// Takes a node in: as an entry, or, for a view of something that has a value, by giving it that value.
    fn add(&mut self, node: Arc<Node>, epoch: u64) {
        let mut body = node.body();
        let Some(op) = body.op.clone() else { return };
        let kind = kind(&*op);
        let taped = node.requires_grad && !body.spent && node.leaf.is_none();
        if kind == Kind::View && body.inputs[0].node.is_ready() {
            let value = body.inputs[0].storage();
            // Let go of the base at once: a handle in the garbage would count as a reader of its memory.
            let mut garbage = Vec::new();
            finish(&node, &mut body, SmallVec::from_iter([value]), taped, &mut garbage);
            drop(body);
            release(garbage);
            node.mark.store(0, Ordering::Relaxed);
            return;
        }
        let inputs = if kind == Kind::Host { SmallVec::new() } else { body.inputs.iter().map(|t| self.reference(t, epoch)).collect() };
        drop(body);
        node.mark.store(epoch | self.entries.len() as u64, Ordering::Relaxed);
        let base = match (kind, inputs.first()) {
            (Kind::View, Some(&r)) => Some(self.base(r)),
            _ => None,
        };
        self.entries.push(Entry { node, op, kind, inputs, base, edges: 0, taped, keep: false, root: false });
    }

    /// The leaf, kernel output or pointwise node whose memory (or value) a reference shows.
    pub fn base(&self, r: Ref) -> Ref {
        match r {
            Ref::Entry(i, _) => self.entries[i as usize].base.unwrap_or(r),
            leaf => leaf,
        }
    }

    fn reference(&mut self, t: &Tensor, epoch: u64) -> Ref {
        let mark = t.node.mark.load(Ordering::Relaxed);
        let known = mark & !VISITED == epoch && mark != epoch | VISITED;
        if known && mark & LEAF == 0 {
            let i = (mark & VISITED) as usize;
            self.entries[i].edges += 1;
            return Ref::Entry(i as u32, t.out);
        }
        let i = if known { (mark & VISITED & !LEAF) as usize } else { self.leaf(&t.node, epoch) };
        let l = &mut self.leaves[i];
        l.edges += 1;
        let (leaf, out) = l.same[t.out as usize];
        Ref::Leaf(leaf, out)
    }

    fn leaf(&mut self, node: &Arc<Node>, epoch: u64) -> usize {
        let values = node.body().values.clone();
        let mut layouts = SmallVec::new();
        let mut offsets = SmallVec::new();
        for m in &node.outs {
            let (layout, offset) = movable(node.device, m);
            layouts.push(layout);
            offsets.push(offset);
        }
        node.mark.store(epoch | LEAF | self.leaves.len() as u64, Ordering::Relaxed);
        let mut leaf = Leaf { node: node.clone(), values, edges: 0, donated: false, layouts, offsets, same: SmallVec::new() };
        leaf.same = (0..node.outs.len()).map(|out| self.first_like(&leaf, out)).collect();
        self.leaves.push(leaf);
        self.leaves.len() - 1
    }

    /// One value under two names (a parameter and the alias that a gradient was recorded on) is one operand of the kernels that read both,
    /// and no obstacle to overwriting it there.
    fn first_like(&mut self, leaf: &Leaf, out: usize) -> (u32, u32) {
        let own = (self.leaves.len() as u32, out as u32);
        // Two references: its node's and ours.
        let Some(value) = leaf.values[out].as_ref().filter(|v| Arc::strong_count(v) > 2) else { return own };
        let p = Arc::as_ptr(value) as usize;
        for (i, k) in self.shared.of(p) {
            // (An output of this very leaf is not among the leaves yet, and has a layout of its own.)
            let Some(l) = self.leaves.get(i as usize) else { continue };
            let k = k as usize;
            let same =
                l.node.outs[k].dtype == leaf.node.outs[out].dtype && l.offsets[k] == leaf.offsets[out] && l.layouts[k] == leaf.layouts[out];
            if same {
                return l.same[k];
            }
        }
        self.shared.add(p, own);
        own
    }

    /// Before an owner's update: the pending nodes that hang on this claim (metrics, running statistics, recipes of what is updated). They
    /// run in the same flush, in the order of recording, so that they need not keep its values alive and the old value can be overwritten.
    fn readers(&self, epoch: u64) -> Vec<Arc<Node>> {
        let mut found: Vec<Arc<Node>> = Vec::new();
        let mut seen: HashSet<*const Node> = HashSet::new();
        for node in pending::live(self.device.map_or(0, flush::lane)) {
            if node.mark.load(Ordering::Relaxed) & !VISITED == epoch || Some(node.device) != self.device {
                continue;
            }
            let hangs = |t: &Tensor| t.node.mark.load(Ordering::Relaxed) & !VISITED == epoch || seen.contains(&Arc::as_ptr(&t.node));
            let found_one = node.body().inputs.iter().any(hangs);
            if found_one {
                seen.insert(Arc::as_ptr(&node));
                found.push(node);
            }
        }
        found
    }

    /// The host steps among the claimed nodes.
    pub fn hosts(&self) -> Vec<Arc<Node>> {
        self.entries.iter().filter(|e| e.kind == Kind::Host).map(|e| e.node.clone()).collect()
    }

    /// The meta of a reference as the plan sees it.
    pub fn meta(&self, r: Ref) -> (crate::DType, &Layout) {
        match r {
            Ref::Entry(i, out) => {
                let m = &self.entries[i as usize].node.outs[out as usize];
                (m.dtype, &m.layout)
            }
            Ref::Leaf(i, out) => {
                let l = &self.leaves[i as usize];
                (l.node.outs[out as usize].dtype, &l.layouts[out as usize])
            }
        }
    }

    /// Decides which nodes get memory of their own beyond the flush, and which leaves may be overwritten.
    /// `cut` keeps of long pointwise chains each sixteenth value, too.
    pub fn liveness(&mut self, roots: &[Tensor], cut: bool) {
        for t in roots {
            let mark = t.node.mark.load(Ordering::Relaxed);
            if !t.node.is_ready() && mark & LEAF == 0 {
                let e = &mut self.entries[(mark & VISITED) as usize];
                (e.keep, e.root) = (true, true);
            }
        }
        // A live handle stays a recipe where that is cheap (pointwise) and its inputs survive; otherwise it is kept. What an unspent
        // gradient graph would have to compute again at a cost is kept too.
        let external: SmallVec<[bool; 32]> = self.entries.iter().map(|e| Arc::strong_count(&e.node) > 1 + e.edges).collect();
        // How many pointwise ops lie between a value and what is kept.
        let mut depths: Vec<u32> = vec![0; if cut { self.entries.len() } else { 0 }];
        for i in 0..self.entries.len() {
            let e = &self.entries[i];
            let mut keep = e.keep;
            if e.taped && matches!(e.kind, Kind::Kernel | Kind::Reduce) {
                keep = true;
                let saved = e.op.saves().inputs;
                let inputs = e.inputs.clone();
                for (k, r) in inputs.iter().enumerate() {
                    if saved >> k.min(31) & 1 == 1
                        && let Ref::Entry(j, _) = *r
                    {
                        self.entries[j as usize].keep = true;
                    }
                }
            } else if external[i] && !keep {
                let survives = |r: &Ref| match *r {
                    Ref::Entry(j, _) => self.entries[j as usize].keep,
                    Ref::Leaf(j, _) => {
                        let l = &self.leaves[j as usize];
                        Arc::strong_count(&l.node) > 1 + l.edges
                    }
                };
                keep = e.kind != Kind::Pointwise || e.inputs.is_empty() || !e.inputs.iter().all(survives);
            }
            if cut && !keep && matches!(self.entries[i].kind, Kind::Pointwise | Kind::View) {
                let e = &self.entries[i];
                let depth = |r: &Ref| match *r {
                    Ref::Entry(j, _) if !self.entries[j as usize].keep => depths[j as usize],
                    _ => 0,
                };
                let deepest = e.inputs.iter().map(depth).max().unwrap_or(0);
                depths[i] = deepest + u32::from(e.kind == Kind::Pointwise);
                keep = depths[i] >= RECIPE && e.kind == Kind::Pointwise && (e.taped || external[i]);
            }
            self.entries[i].keep = keep;
        }
        self.donations(&external);
    }

    /// A leaf is donated when every handle on it belongs to a claimed node that lets go of its inputs, and every view of its memory is too.
    fn donations(&mut self, external: &[bool]) {
        if self.device.is_some_and(|d| !d.is_gpu()) && self.entries.iter().any(|e| e.op.is_fallible()) {
            return;
        }
        let mut alive: SmallVec<[bool; 32]> = SmallVec::from_slice(external);
        let mut held: SmallVec<[bool; 32]> = SmallVec::from_elem(false, self.leaves.len());
        for i in (0..self.entries.len()).rev() {
            let e = &self.entries[i];
            if e.taped || (alive[i] && !e.keep) {
                for r in &e.inputs {
                    match *r {
                        Ref::Entry(j, _) => alive[j as usize] = true,
                        Ref::Leaf(j, _) => held[j as usize] = true,
                    }
                }
            }
        }
        // The memory behind the leaves: for each time that it occurs, whether that leaf lets go of it.
        let mut memory: SmallVec<[(*const Storage, bool); 16]> = SmallVec::new();
        for (l, held) in self.leaves.iter().zip(&held) {
            let free = !held && Arc::strong_count(&l.node) == 1 + l.edges;
            memory.extend(l.values.iter().flatten().map(|v| (Arc::as_ptr(v), free)));
        }
        memory.sort_unstable();
        // Once for each memory: the number of leaves, and whether all of them let go.
        let mut found: SmallVec<[(*const Storage, usize, bool); 16]> = SmallVec::new();
        for (p, free) in memory {
            match found.last_mut() {
                Some((q, n, all)) if *q == p => (*n, *all) = (*n + 1, *all && free),
                _ => found.push((p, 1, free)),
            }
        }
        let all_let_go = |v: &Arc<Storage>| {
            let p = Arc::as_ptr(v);
            let at = found.partition_point(|m| m.0 < p);
            // Two references a leaf: the node's and ours.
            found.get(at).is_some_and(|&(q, n, all)| q == p && all && Arc::strong_count(v) <= 2 * n)
        };
        for l in &mut self.leaves {
            // Not a part of larger memory: what takes the buffer over lies at its start.
            let whole = l.offsets.iter().all(|&o| o == 0);
            l.donated = whole && l.values.iter().flatten().all(|v| v.is_writable() && all_let_go(v));
        }
    }

    /// The key of the plan, written into a reused buffer.
    pub fn key(&self, key: &mut Key, fuse: bool, owned: bool) {
        key.0.clear();
        key.add(self.device.map_or(0, |d| d.word()) << 2 | (fuse as u64) << 1 | owned as u64);
        key.add((self.entries.len() as u64) << 32 | self.leaves.len() as u64);
        let mut memory = Places::default();
        for l in &self.leaves {
            key.add((l.donated as u64) << 32 | l.layouts.len() as u64);
            for (k, layout) in l.layouts.iter().enumerate() {
                let at = l.values[k].as_ref().map(|v| Arc::as_ptr(v) as usize);
                // The number of the first leaf's output that lies there, if it is not this one.
                let alias = at.map_or(0, |p| memory.number(p));
                key.add(l.node.outs[k].dtype as u64 | (alias as u64) << 8 | (at.is_some() as u64) << 48);
                add_layout(key, layout);
            }
        }
        for e in &self.entries {
            key.add((e.root as u64) << 9 | (e.keep as u64) << 8 | e.kind as u64 | (e.inputs.len() as u64) << 16);
            for r in &e.inputs {
                key.add(match *r {
                    Ref::Entry(i, out) => (i as u64) << 32 | out as u64,
                    Ref::Leaf(i, out) => 1 << 63 | (i as u64) << 32 | out as u64,
                });
            }
            if e.kind != Kind::Pointwise {
                key.add(e.op.name().as_ptr() as u64);
                for o in &e.node.outs {
                    key.add(o.dtype as u64);
                    add_layout(key, &o.layout);
                }
            }
            let at = key.0.len();
            e.op.key(key);
            let len = key.0.len() - at;
            key.add(len as u64);
        }
    }
}

fn add_layout(key: &mut Key, l: &Layout) {
    // Strides may be any number: whether there are some is told before.
    let strided = !l.is_contiguous();
    key.add((l.offset as u64) << 9 | (strided as u64) << 8 | l.shape.rank() as u64);
    key.0.extend(l.shape.iter().map(|&d| d as u64));
    if strided {
        key.0.extend(l.strides.iter().map(|&s| s as u64));
    }
}

/// The layout that the plan is made for, and the offset that a replay adds: a slice at another place needs no new plan. Not where the
/// layout reaches backward, and on the GPU only at a multiple of the binding alignment.
fn movable(device: Device, m: &Meta) -> (Layout, usize) {
    let mut layout = m.layout.clone();
    let aligned = !device.is_gpu() || (layout.offset * m.dtype.gpu_size()).is_multiple_of(256);
    if layout.offset == 0 || !aligned || layout.strides.iter().any(|&s| s < 0) {
        return (layout, 0);
    }
    let offset = std::mem::take(&mut layout.offset);
    (layout, offset)
}

/// Gives a node its values; drops its op and inputs unless a gradient graph still needs them.
pub(super) fn finish(node: &Node, body: &mut Body, values: SmallVec<[Option<Arc<Storage>>; 1]>, taped: bool, garbage: &mut Vec<Tensor>) {
    body.values = values;
    body.error = None;
    if !taped {
        body.op = None;
        garbage.extend(std::mem::take(&mut body.inputs));
    }
    node.state.store(READY, Ordering::Release);
}

impl Claim {
    /// Hands out the values: the memory of every output of every kept entry, in their order.
    pub fn commit(&mut self, mut values: impl Iterator<Item = Option<Arc<Storage>>>) {
        for i in 0..self.entries.len() {
            let e = &self.entries[i];
            if !e.keep {
                continue;
            }
            let values = values.by_ref().take(e.node.outs.len()).collect();
            let node = e.node.clone();
            let mut body = node.body();
            finish(&node, &mut body, values, e.taped, &mut self.garbage);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let garbage = std::mem::take(&mut self.garbage);
        self.entries.clear();
        release(garbage);
    }
}

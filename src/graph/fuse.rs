//! Which pointwise nodes get memory, which are computed inside the kernels that need them, and the programs that come of it.
//!
//! A pointwise node is *stored* when it outlives the flush, when a kernel that is not generated reads it, or when several kernels would
//! have to compute it again at a cost. Every other one is inlined where it is used, through views too: a view of an inlined node is pushed
//! down to the operands of its program. Stored nodes of one shape that share operands become one kernel with several outputs.

use super::claim::{Claim, Kind, Ref};
use super::op::{Class, Meta};
use super::plan::acceptable;
use crate::codegen::kernel::ScalarRef;
use crate::codegen::program::{Instr, Program, Reg};
use crate::layout::Layout;
use crate::ops::pointwise::{Arg, CAST};
use crate::{DType, Device, Shape};
use smallvec::SmallVec;
use std::collections::{HashMap, HashSet};

/// Buffers that a generated kernel may read; with its outputs at most eight, WebGPU's default limit.
const MAX_READS: usize = 6;
const MAX_BUFFERS: usize = 8;
/// Instructions of a program.
const MAX_COST: usize = 64;
/// A node that several kernels need is computed in each of them up to this cost, from at most this many operands.
const CHEAP: usize = 4;
/// Operands that an epilogue may read beside the kernel's own result.
const MAX_EPILOGUE: usize = 3;

/// What a value is computed from: stored values under a layout over the value's shape (`None`: a position only).
type Operands = Vec<(Option<Ref>, DType, Layout)>;

#[derive(Clone, Default)]
struct Need {
    operands: Operands,
    cost: usize,
}

/// The kernels that would contain a value if it were inlined.
#[derive(Clone, Copy, PartialEq)]
enum Sink {
    None,
    One(usize),
    Many,
}

impl Sink {
    fn add(&mut self, other: Sink) {
        *self = match (*self, other) {
            (Sink::None, s) | (s, Sink::None) => s,
            (Sink::One(a), Sink::One(b)) if a == b => Sink::One(a),
            _ => Sink::Many,
        }
    }
}

struct Group {
    members: Vec<usize>,
    reads: HashSet<Ref>,
    cost: usize,
}

/// A generated program with what it reads.
pub(super) struct Emitted {
    pub program: Program,
    pub operands: Operands,
    pub scalars: Vec<ScalarRef>,
}

pub(super) struct Fuser<'a> {
    claim: &'a Claim,
    device: Device,
    /// An entry has a buffer (for a view: its base has).
    stored: Vec<bool>,
    copies: HashSet<(usize, usize)>,
    copied: HashSet<Ref>,
    groups: HashMap<usize, Vec<usize>>,
    epilogues: HashMap<usize, usize>,
    finished: HashSet<usize>,
}

impl<'a> Fuser<'a> {
    pub fn new(claim: &'a Claim, device: Device, fuse: bool) -> Fuser<'a> {
        let n = claim.entries.len();
        let mut f = Fuser {
            claim,
            device,
            stored: vec![false; n],
            copies: HashSet::new(),
            copied: HashSet::new(),
            groups: HashMap::new(),
            epilogues: HashMap::new(),
            finished: HashSet::new(),
        };
        f.forced(fuse);
        let needs = f.needs();
        f.sinks(Some(&needs));
        let needs = f.needs();
        let sinks = f.sinks(None);
        if fuse {
            f.find_epilogues(&sinks, &needs);
        }
        f.find_groups(&needs, fuse);
        f
    }

    /// As [`Claim::base`].
    pub fn base(&self, r: Ref) -> Ref {
        self.claim.base(r)
    }

    /// Whether input `k` of kernel `i` must be copied into row-major memory first.
    pub fn needs_copy(&self, i: usize, k: usize) -> bool {
        self.copies.contains(&(i, k))
    }

    /// The members of the kernel that runs at entry `i`.
    pub fn group_at(&self, i: usize) -> Option<&[usize]> {
        self.groups.get(&i).map(Vec::as_slice)
    }

    /// The kernel that pointwise root `i` finishes.
    pub fn epilogue_of(&self, i: usize) -> Option<usize> {
        self.epilogues.get(&i).copied()
    }

    pub fn has_epilogue(&self, kernel: usize) -> bool {
        self.finished.contains(&kernel)
    }

    fn is_stored(&self, r: Ref) -> bool {
        match r {
            Ref::Leaf(..) => true,
            Ref::Entry(i, _) => self.stored[i as usize],
        }
    }

    fn store(&mut self, r: Ref) {
        if let Ref::Entry(i, _) = self.base(r) {
            self.stored[i as usize] = true;
        }
    }

    /// What has to have memory whatever fusion does.
    fn forced(&mut self, fuse: bool) {
        let claim = self.claim;
        for (i, e) in claim.entries.iter().enumerate() {
            match e.kind {
                Kind::Kernel | Kind::Reduce => self.stored[i] = true,
                Kind::Pointwise if !fuse => self.stored[i] = true,
                _ => {}
            }
            if e.keep {
                self.store(Ref::Entry(i as u32, 0));
            }
            if e.kind == Kind::Kernel {
                for (k, &r) in e.inputs.iter().enumerate() {
                    let (dtype, layout) = claim.meta(r);
                    if acceptable(self.device, e.op.reads(k), dtype, layout) {
                        self.store(r);
                    } else {
                        self.copies.insert((i, k));
                        self.copied.insert(r);
                    }
                }
            }
        }
    }

    /// The kernels that would contain each value. With `needs`, on the way stores what several kernels want and what is too dear to compute
    /// in each.
    fn sinks(&mut self, needs: Option<&[Need]>) -> Vec<Sink> {
        let n = self.claim.entries.len();
        let mut sinks = vec![Sink::None; n];
        for i in (0..n).rev() {
            let e = &self.claim.entries[i];
            if let Some(needs) = needs
                && e.kind == Kind::Pointwise
                && sinks[i] == Sink::Many
                && (needs[i].cost > CHEAP || reads(&needs[i].operands).len() > 2)
            {
                self.stored[i] = true;
            }
            let here = match e.kind {
                // A view that outlives the flush shows its base's memory, so the base must have some.
                Kind::View if e.keep => Sink::Many,
                Kind::View => sinks[i],
                Kind::Pointwise if !self.stored[i] => sinks[i],
                _ => Sink::One(i),
            };
            for (k, &r) in e.inputs.iter().enumerate() {
                if let Ref::Entry(j, _) = r {
                    // A copied input is another kernel, one for all who want it.
                    let to = if self.copies.contains(&(i, k)) { Sink::One(j as usize) } else { here };
                    sinks[j as usize].add(to);
                }
            }
        }
        sinks
    }

    /// What each value is computed from. Stores what cannot be inlined or would pass the limits.
    fn needs(&mut self) -> Vec<Need> {
        let claim = self.claim;
        let mut needs: Vec<Need> = vec![Need::default(); claim.entries.len()];
        for (i, e) in claim.entries.iter().enumerate() {
            match e.kind {
                Kind::Pointwise => loop {
                    let need = self.inlined(i, &needs);
                    if need.cost <= MAX_COST && reads(&need.operands).len() <= MAX_READS {
                        needs[i] = need;
                        break;
                    }
                    let worst = e
                        .inputs
                        .iter()
                        .filter(|r| !self.is_stored(self.base(**r)))
                        .max_by_key(|r| match **r {
                            Ref::Entry(j, _) => (reads(&needs[j as usize].operands).len(), needs[j as usize].cost),
                            Ref::Leaf(..) => (0, 0),
                        })
                        .copied();
                    match worst {
                        Some(r) => self.store(r),
                        None => {
                            needs[i] = need;
                            break;
                        }
                    }
                },
                Kind::View => {
                    let base = self.base(e.inputs[0]);
                    if !self.is_stored(base) {
                        let mut need = self.need(e.inputs[0], &needs);
                        let pushed = need.operands.iter_mut().try_for_each(|o| self.push(i, &mut o.2, o.1));
                        if pushed.is_some() {
                            needs[i] = need;
                        } else {
                            self.store(base);
                        }
                    }
                }
                _ => {}
            }
        }
        needs
    }

    /// The operands of a pointwise node's own expression.
    fn inlined(&self, i: usize, needs: &[Need]) -> Need {
        let e = &self.claim.entries[i];
        let mut need = Need { operands: Vec::new(), cost: 1 };
        let mut seen: SmallVec<[Ref; 4]> = SmallVec::new();
        for &r in &e.inputs {
            if seen.contains(&r) {
                continue;
            }
            seen.push(r);
            let n = self.need(r, needs);
            need.cost += n.cost;
            for o in n.operands {
                if !need.operands.contains(&o) {
                    need.operands.push(o);
                }
            }
        }
        if let Class::Pointwise(p) = e.op.class() {
            if p.args.contains(&Arg::Index) {
                need.operands.push((None, DType::U32, Layout::contiguous(e.node.outs[0].layout.shape.clone())));
            }
            need.cost += p.scalars.len();
        }
        need
    }

    fn need(&self, r: Ref, needs: &[Need]) -> Need {
        let base = self.base(r);
        if self.is_stored(base) {
            let (dtype, layout) = self.claim.meta(r);
            return Need { operands: vec![(Some(base), dtype, layout.clone())], cost: 1 };
        }
        match r {
            Ref::Entry(j, _) => needs[j as usize].clone(),
            Ref::Leaf(..) => Need::default(),
        }
    }

    /// Puts a layout through view `i`.
    fn push(&self, i: usize, layout: &mut Layout, dtype: DType) -> Option<()> {
        let op = &self.claim.entries[i].op;
        *layout = op.infer(&[&Meta { dtype, layout: layout.clone() }]).ok()?.into_iter().next()?.layout;
        Some(())
    }

    /// Pairs a kernel with the pointwise root that alone eats its output, element by element.
    fn find_epilogues(&mut self, sinks: &[Sink], needs: &[Need]) {
        let claim = self.claim;
        for (k, e) in claim.entries.iter().enumerate() {
            let Sink::One(root) = sinks[k] else { continue };
            let r = &claim.entries[root];
            let f32s = e.node.outs[0].dtype == DType::F32 && r.node.outs[0].dtype == DType::F32;
            if e.kind != Kind::Kernel || !e.op.takes_epilogue() || e.keep || r.kind != Kind::Pointwise || root == k || !f32s {
                continue;
            }
            let own = Ref::Entry(k as u32, 0);
            let list = &needs[root].operands;
            let uses: Vec<_> = list.iter().filter(|o| o.0 == Some(own)).collect();
            let identity = uses.len() == 1 && uses[0].2.is_identity() && uses[0].2.numel() == e.node.outs[0].layout.numel();
            let others = reads(list).len() - 1;
            if identity && others <= MAX_EPILOGUE && self.stored[root] && !self.copied.contains(&own) {
                // The last kernel of several (a·b + c·d) takes the rest along.
                if let Some(&earlier) = self.epilogues.get(&root) {
                    self.finished.remove(&earlier);
                }
                self.epilogues.insert(root, k);
                self.finished.insert(k);
            }
        }
    }

    /// Puts stored roots of one shape that share operands into one kernel, run where its first member stands.
    fn find_groups(&mut self, needs: &[Need], fuse: bool) {
        let claim = self.claim;
        let mut groups: Vec<Group> = Vec::new();
        let mut open: HashMap<Shape, Vec<usize>> = HashMap::new();
        for (i, e) in claim.entries.iter().enumerate() {
            if e.kind != Kind::Pointwise || !self.stored[i] || self.epilogues.contains_key(&i) {
                continue;
            }
            let list = &needs[i].operands;
            let shape = &e.node.outs[0].layout.shape;
            let candidates = open.entry(shape.clone()).or_default();
            let joins = |g: &Group| {
                let first = g.members[0];
                let fits = list.iter().all(|(r, _, l)| match r {
                    Some(Ref::Entry(j, _)) if g.members.contains(&(*j as usize)) => l.is_identity() && l.numel() == shape.numel(),
                    Some(Ref::Entry(j, _)) => (*j as usize) < first,
                    _ => true,
                });
                let member = |r: &Ref| matches!(r, Ref::Entry(j, _) if g.members.contains(&(*j as usize)));
                let own = reads(list);
                let shares = own.iter().any(|r| g.reads.contains(r) || member(r));
                let all: HashSet<Ref> = g.reads.iter().copied().chain(own.into_iter().filter(|r| !member(r))).collect();
                fits && shares && all.len() + g.members.len() < MAX_BUFFERS && g.cost + needs[i].cost <= 2 * MAX_COST
            };
            let found = if fuse { candidates.iter().rev().take(4).copied().find(|&g| joins(&groups[g])) } else { None };
            // Two owners' updates that read one old value, of which the first is the last member of a group that has no room for the second: they
            // leave together, for the first, running alone before, could not take the old value's memory.
            let parted = |g: usize| {
                let (&last, rest) = groups[g].members.split_last().filter(|(_, rest)| !rest.is_empty())?;
                let (theirs, own) = (reads(&needs[last].operands), reads(list));
                let old = |r: &Ref| matches!(*r, Ref::Leaf(l, _) if claim.leaves[l as usize].donated) && own.contains(r);
                let updates = e.root && claim.entries[last].root && theirs.iter().any(old);
                let fits = list.iter().all(|(r, _, l)| match r {
                    Some(Ref::Entry(j, _)) if *j as usize == last => l.is_identity() && l.numel() == shape.numel(),
                    Some(Ref::Entry(j, _)) => (*j as usize) < last,
                    _ => true,
                });
                let all: HashSet<Ref> =
                    theirs.into_iter().chain(own).filter(|r| !matches!(r, Ref::Entry(j, _) if *j as usize == last)).collect();
                let room = all.len() + 1 < MAX_BUFFERS && needs[last].cost + needs[i].cost <= 2 * MAX_COST;
                (updates && fits && room).then(|| (g, last, rest.to_vec()))
            };
            let pair = if fuse && found.is_none() { candidates.iter().rev().take(4).find_map(|&g| parted(g)) } else { None };
            let found = found.or_else(|| {
                let (g, last, rest) = pair?;
                let member = |r: &Ref| matches!(r, Ref::Entry(j, _) if rest.contains(&(*j as usize)));
                let left = rest.iter().flat_map(|&m| reads(&needs[m].operands)).filter(|r| !member(r)).collect();
                groups[g] = Group { cost: rest.iter().map(|&m| needs[m].cost).sum(), members: rest, reads: left };
                let theirs = reads(&needs[last].operands).into_iter().collect();
                groups.push(Group { members: vec![last], reads: theirs, cost: needs[last].cost });
                candidates.push(groups.len() - 1);
                Some(groups.len() - 1)
            });
            let g = found.unwrap_or_else(|| {
                groups.push(Group { members: Vec::new(), reads: HashSet::new(), cost: 0 });
                candidates.push(groups.len() - 1);
                groups.len() - 1
            });
            let g = &mut groups[g];
            let members = std::mem::take(&mut g.members);
            g.reads.extend(reads(list).into_iter().filter(|r| !matches!(r, Ref::Entry(j, _) if members.contains(&(*j as usize)))));
            g.members = members;
            g.members.push(i);
            g.cost += needs[i].cost;
        }
        self.groups = groups.into_iter().map(|g| (g.members[0], g.members)).collect();
    }

    /// The program that computes the values, all of one shape, from stored ones. `stores`: the kernel stores them, so that they are computed
    /// here even where they count as stored. With `kernel`, operand 0 is that kernel's own result.
    pub fn emit(&self, values: &[Ref], stores: bool, kernel: Option<usize>) -> Emitted {
        let mut e = Emitter {
            fuser: self,
            roots: if stores { values } else { &[] },
            kernel,
            out: Emitted { program: Program::default(), operands: Vec::new(), scalars: Vec::new() },
            memo: HashMap::new(),
            loads: HashMap::new(),
        };
        if let Some(k) = kernel {
            let shape = self.claim.meta(values[0]).1.shape.clone();
            e.out.operands.push((None, self.claim.entries[k].node.outs[0].dtype, Layout::contiguous(shape)));
            let reg = e.out.program.push(Instr::Load(0));
            e.loads.insert(0, reg);
        }
        for &v in values {
            let reg = e.value(v, &Vec::new());
            e.out.program.stores.push((reg, self.claim.meta(v).0));
        }
        e.out
    }
}

/// The distinct buffers among operands.
fn reads(operands: &Operands) -> Vec<Ref> {
    let mut list: Vec<Ref> = Vec::with_capacity(operands.len());
    for r in operands.iter().filter_map(|o| o.0) {
        if !list.contains(&r) {
            list.push(r);
        }
    }
    list
}

struct Emitter<'f, 'a> {
    fuser: &'f Fuser<'a>,
    roots: &'f [Ref],
    kernel: Option<usize>,
    out: Emitted,
    /// A value under a chain of views (innermost first) has one register.
    memo: HashMap<(Ref, Vec<u32>), Reg>,
    loads: HashMap<usize, Reg>,
}

impl Emitter<'_, '_> {
    fn value(&mut self, r: Ref, chain: &Vec<u32>) -> Reg {
        if let Some(&reg) = self.memo.get(&(r, chain.clone())) {
            return reg;
        }
        let reg = self.compute(r, chain);
        self.memo.insert((r, chain.clone()), reg);
        reg
    }

    fn compute(&mut self, r: Ref, chain: &Vec<u32>) -> Reg {
        let claim = self.fuser.claim;
        let base = self.fuser.base(r);
        let inline = match base {
            // A root of this very kernel is computed here; read through a view it would be another element.
            Ref::Entry(j, _) => {
                claim.entries[j as usize].kind == Kind::Pointwise
                    && (!self.fuser.stored[j as usize] || (self.roots.contains(&base) && chain.is_empty() && (r == base)))
            }
            Ref::Leaf(..) => false,
        };
        if !inline {
            if let (Some(k), Ref::Entry(j, 0)) = (self.kernel, base)
                && k == j as usize
            {
                return 0;
            }
            let generated = matches!(base, Ref::Entry(j, _) if claim.entries[j as usize].kind == Kind::Pointwise);
            if generated && self.roots.contains(&base) {
                // A root seen through views that together move nothing (a group admits no others): its register, for its memory is
                // only being written.
                return self.value(base, &Vec::new());
            }
            let (dtype, layout) = claim.meta(r);
            if self.roots.contains(&base) && (r != base || !chain.is_empty()) {
                // Another root of this kernel, through views that together change nothing: its register, for its memory is being written.
                let mut seen = layout.clone();
                let pushed = chain.iter().try_for_each(|&v| self.fuser.push(v as usize, &mut seen, dtype));
                if pushed.is_some() && seen.is_identity() && seen.numel() == claim.meta(base).1.numel() {
                    return self.value(base, &Vec::new());
                }
            }
            return self.load(Some(base), dtype, layout.clone(), chain);
        }
        let Ref::Entry(i, _) = r else { return 0 };
        let e = &claim.entries[i as usize];
        let Class::Pointwise(p) = e.op.class() else {
            let mut longer = vec![i];
            longer.extend(chain);
            return self.value(e.inputs[0], &longer);
        };
        let mut args: SmallVec<[Reg; 4]> = SmallVec::new();
        for a in &p.args {
            let reg = match *a {
                Arg::Input(k) => self.value(e.inputs[k as usize], chain),
                Arg::Scalar(k, dtype) => {
                    self.out.scalars.push(ScalarRef { entry: i as usize, index: k as usize });
                    self.out.program.scalars.push(dtype);
                    self.out.program.push(Instr::Scalar(self.out.scalars.len() as u16 - 1))
                }
                Arg::Index => {
                    let layout = Layout::contiguous(e.node.outs[0].layout.shape.clone());
                    self.load(None, DType::U32, layout, chain)
                }
            };
            args.push(reg);
        }
        if std::ptr::eq(p.row, &CAST) {
            let from = claim.meta(e.inputs[0]).0.compute();
            return self.out.program.push(Instr::Cast { arg: args[0], from, to: p.out });
        }
        let reg = self.out.program.push(Instr::Apply { def: &p.row.def, args, dtype: p.dtype, out: p.out.compute() });
        match p.out {
            // What would be rounded in memory is rounded in a register too: fusion changes no bit.
            DType::F16 | DType::BF16 => self.out.program.push(Instr::Cast { arg: reg, from: DType::F32, to: p.out }),
            _ => reg,
        }
    }

    fn load(&mut self, base: Option<Ref>, dtype: DType, mut layout: Layout, chain: &[u32]) -> Reg {
        for &v in chain {
            // `needs` has tried this very chain.
            if self.fuser.push(v as usize, &mut layout, dtype).is_none() {
                unreachable!("a view that cannot be pushed down has a stored base");
            }
        }
        let operand = (base, dtype, layout);
        let first = self.kernel.is_some() as usize;
        let at = self.out.operands.iter().skip(first).position(|o| *o == operand).map_or(self.out.operands.len(), |p| p + first);
        if let Some(&reg) = self.loads.get(&at) {
            return reg;
        }
        self.out.operands.push(operand);
        let k = at as u16;
        let reg = self.out.program.push(if base.is_some() { Instr::Load(k) } else { Instr::Index(k) });
        self.loads.insert(at, reg);
        reg
    }
}

//! The interpreter of fused programs: one tile of the iteration space at a time, registers in level-1 cache.
//!
//! A program is compiled at each call (a few nanoseconds an instruction, no allocation): every register gets a home, either a slot of
//! scratch memory that is reused after its last reader, or the operand's or the output's own memory where that needs no copy.

use super::convert::{cast, narrow, widen};
use super::moves::{fill, fill_scalar, fill_sized, gather, iota, position, prefetch_read, prefetch_write, segments, stream};
use crate::Scalar;
use crate::codegen::kernel::Operand;
use crate::codegen::program::{Instr, Program, Reg, TileFn};
use smallvec::SmallVec;
use std::cell::Cell;

/// Bytes of a register's tile where every value goes to memory: several registers, the operands and what is fetched ahead of them fit
/// into 32 KiB.
pub(super) const SMALL: usize = 2048;
/// The same for reductions, which have less in flight.
pub(super) const LARGE: usize = 4096;
/// Bytes of an output from which on it is written past the caches, where nothing of it would be left when it is read: a line that is written whole need
/// not be fetched first.
const STREAM: usize = 32 << 20;
/// What slots are apart beyond that, so that equal positions of different slots do not compete for one cache set.
const PAD: usize = 192;
/// The most arguments of a pointwise function.
const MAX_ARGS: usize = 16;

/// A kernel's program with the memory that it works on.
pub(crate) struct Code<'a> {
    pub shape: &'a [usize],
    pub program: &'a Program,
    pub operands: &'a [Operand],
    pub scalars: &'a [Scalar],
    /// The start of each operand's buffer (null for positions).
    pub bases: &'a [*mut u8],
    /// The start of each output; empty where the results stay in registers.
    pub outs: &'a [*mut u8],
}

// SAFETY: tiles write disjoint parts of the outputs, and an operand in an output's memory is read by the tile that overwrites it.
unsafe impl Sync for Code<'_> {}

/// Where the elements of a tile lie in the iteration space.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tile {
    /// `n` elements in row-major order from `start` on.
    Run { start: usize, n: usize },
    /// `rows` positions along `dim` by `cols` along the last dimension, from the element `start` on. In registers row-major.
    Box { start: usize, dim: usize, rows: usize, cols: usize },
}

impl Tile {
    fn len(&self) -> usize {
        match *self {
            Tile::Run { n, .. } => n,
            Tile::Box { rows, cols, .. } => rows * cols,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Home {
    /// Scratch slot.
    Slot(u16),
    /// The operand's memory.
    Operand(u16),
    /// The memory of an output.
    Out(u16),
    /// The home of another register (a conversion that does nothing).
    Same(Reg),
}

#[derive(Clone, Copy)]
enum Step {
    Apply { f: TileFn, first: u32, count: u32, out: Reg },
    Load { operand: u16, out: Reg },
    Fill { scalar: u16, out: Reg },
    Index { operand: u16, out: Reg },
}

#[derive(Clone, Copy)]
struct RegInfo {
    home: Home,
    /// The register whose memory this one shares; itself usually.
    root: Reg,
    /// The last instruction that reads it; `u16::MAX` for a store.
    last: Reg,
    /// Bytes of an element.
    size: u8,
    /// The same for every element of the space.
    constant: bool,
    /// Holds elements as they lie in memory (f16 and bf16 that are only moved).
    raw: bool,
    /// Stored, and in which output (the first).
    store: u16,
}

/// A program ready to run.
#[derive(Default)]
pub(crate) struct Compiled {
    /// The most elements of a tile.
    pub tile: usize,
    slots: usize,
    /// Bytes from slot to slot.
    pitch: usize,
    once: Vec<Step>,
    steps: Vec<Step>,
    args: Vec<Reg>,
    regs: Vec<RegInfo>,
    free: Vec<u16>,
    /// Registers in an operand's memory: register, operand.
    direct: Vec<(Reg, u16)>,
    /// Registers in an output's memory: register, store.
    outs: Vec<(Reg, u16)>,
    /// Stores that copy or convert.
    copies: Vec<u16>,
    /// Some operand is neither dense nor constant.
    pub walks: bool,
    /// Outputs are written past the caches.
    stream: bool,
}

const NONE: u16 = u16::MAX;

/// Whether an operand lies row-major over the whole space.
fn dense(shape: &[usize], strides: &[isize]) -> bool {
    let mut expected = 1;
    for (&d, &s) in shape.iter().zip(strides).rev() {
        if d != 1 && s != expected {
            return false;
        }
        expected *= d as isize;
    }
    true
}

fn fixed(shape: &[usize], strides: &[isize]) -> bool {
    shape.iter().zip(strides).all(|(&d, &s)| d == 1 || s == 0)
}

impl Compiled {
    /// Prepares a program for tiles of so many bytes a register. With `boxes` the tiles are boxes, whose rows do not follow each other in memory.
    pub fn build(&mut self, code: &Code, boxes: bool, bytes: usize) {
        let program = code.program;
        for list in [&mut self.once, &mut self.steps] {
            list.clear();
        }
        self.args.clear();
        self.regs.clear();
        self.free.clear();
        self.direct.clear();
        self.outs.clear();
        self.copies.clear();
        self.slots = 0;
        self.walks = boxes;
        let widest = program.stores.iter().map(|(_, d)| d.size()).max().unwrap_or(0);
        self.stream = cfg!(target_arch = "x86_64") && !boxes && code.shape.iter().product::<usize>().saturating_mul(widest) >= STREAM;
        self.facts(code);
        let widest = self.regs.iter().map(|r| r.size).max().unwrap_or(4);
        self.tile = bytes / widest as usize;
        self.pitch = bytes + PAD;
        // Constants first: their slots are written once and never reused.
        for i in 0..program.instrs.len() {
            if self.regs[i].constant && self.regs[i].root == i as Reg {
                self.regs[i].home = Home::Slot(self.slots as u16);
                self.slots += 1;
            }
        }
        for (i, instr) in program.instrs.iter().enumerate() {
            let reg = self.regs[i];
            if reg.root != i as Reg {
                self.regs[i].home = Home::Same(reg.root);
                continue;
            }
            if !reg.constant {
                self.regs[i].home = self.home(code, i, instr, boxes);
            }
            let out = i as Reg;
            let step = match instr {
                Instr::Load(k) if matches!(self.regs[i].home, Home::Operand(_)) => {
                    self.direct.push((out, *k));
                    continue;
                }
                Instr::Load(k) => {
                    let o = &code.operands[*k as usize];
                    self.walks |= !reg.constant && !dense(code.shape, &o.strides);
                    Step::Load { operand: *k, out }
                }
                Instr::Scalar(k) => Step::Fill { scalar: *k, out },
                Instr::Index(k) => {
                    self.walks |= !dense(code.shape, &code.operands[*k as usize].strides);
                    Step::Index { operand: *k, out }
                }
                Instr::Apply { def, args, dtype, .. } => {
                    let f = (def.cpu)(*dtype).unwrap_or_else(|| panic!("{} has no CPU code for {dtype}", def.name));
                    self.apply(f, args, out)
                }
                Instr::Cast { arg, from, to } => self.apply(cast(*from, *to), &[*arg], out),
            };
            if reg.constant {
                self.once.push(step);
            } else {
                self.steps.push(step);
            }
        }
        if !code.outs.is_empty() {
            for (s, &(reg, _)) in program.stores.iter().enumerate() {
                let root = self.regs[reg as usize].root as usize;
                if self.regs[root].home != Home::Out(s as u16) {
                    self.copies.push(s as u16);
                }
            }
        }
    }

    /// Sizes, last readers, constants.
    fn facts(&mut self, code: &Code) {
        let program = code.program;
        for (i, instr) in program.instrs.iter().enumerate() {
            let i = i as Reg;
            let mut reg = RegInfo { home: Home::Same(i), root: i, last: i, size: 4, constant: false, raw: false, store: NONE };
            match instr {
                Instr::Load(k) => {
                    let o = &code.operands[*k as usize];
                    reg.size = o.dtype.compute().size() as u8;
                    reg.constant = fixed(code.shape, &o.strides);
                    reg.raw = o.dtype.compute() != o.dtype;
                }
                Instr::Scalar(k) => {
                    reg.size = program.scalars[*k as usize].compute().size() as u8;
                    reg.constant = true;
                }
                Instr::Index(_) => {}
                Instr::Apply { args, out, .. } => {
                    reg.size = out.compute().size() as u8;
                    reg.constant = !args.is_empty();
                    for &a in args {
                        reg.constant &= self.read(a, i);
                    }
                }
                Instr::Cast { arg, from, to } => {
                    reg.constant = self.read(*arg, i);
                    reg.size = to.compute().size() as u8;
                    if from == to || from.compute() == *to {
                        reg.root = self.regs[*arg as usize].root;
                    }
                }
            }
            self.regs.push(reg);
        }
        for (s, &(reg, dtype)) in program.stores.iter().enumerate() {
            let root = self.regs[reg as usize].root;
            let r = &mut self.regs[root as usize];
            r.last = NONE;
            if r.store == NONE && !code.outs.is_empty() {
                r.store = s as u16;
            }
            // Only where every reader is a store in the operand's own dtype the bits can be moved as they are.
            r.raw &= matches!(program.instrs[root as usize], Instr::Load(k) if code.operands[k as usize].dtype == dtype);
        }
        for (r, instr) in self.regs.iter_mut().zip(&program.instrs) {
            if r.raw && r.store == NONE {
                r.raw = false;
            }
            if let (true, Instr::Load(k)) = (r.raw, instr) {
                r.size = code.operands[*k as usize].dtype.size() as u8;
            }
        }
    }

    /// Notes that instruction `by` reads register `arg`; tells whether that is constant.
    fn read(&mut self, arg: Reg, by: Reg) -> bool {
        let root = self.regs[arg as usize].root;
        let r = &mut self.regs[root as usize];
        r.last = by;
        r.raw = false;
        r.constant
    }

    fn home(&mut self, code: &Code, i: usize, instr: &Instr, boxes: bool) -> Home {
        let reg = self.regs[i];
        if boxes {
            return self.slot(i, instr);
        }
        // Whether some output may overwrite the memory at `p`.
        let aliased = |p: *mut u8| code.outs.contains(&p);
        if let Instr::Load(k) = instr {
            let o = &code.operands[*k as usize];
            let base = code.bases[*k as usize];
            let plain = reg.raw || o.dtype.compute() == o.dtype;
            // A store of an operand that is overwritten in place must not wait for the end of the tile.
            if plain && dense(code.shape, &o.strides) && !(reg.store != NONE && aliased(base)) {
                return Home::Operand(*k);
            }
        }
        if reg.store != NONE && !code.outs.is_empty() {
            let out = code.outs[reg.store as usize];
            let dtype = code.program.stores[reg.store as usize].1;
            let same = reg.raw || dtype.compute() == dtype;
            if same && !self.stream && dtype.size() == reg.size as usize && !code.bases.contains(&out) {
                self.outs.push((i as Reg, reg.store));
                self.release(i, instr);
                return Home::Out(reg.store);
            }
        }
        self.slot(i, instr)
    }

    /// A free slot, and afterwards the slots that this instruction was the last to read.
    fn slot(&mut self, i: usize, instr: &Instr) -> Home {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots += 1;
            (self.slots - 1) as u16
        });
        self.release(i, instr);
        if self.regs[i].last == i as Reg {
            self.free.push(slot);
        }
        Home::Slot(slot)
    }

    fn release(&mut self, i: usize, instr: &Instr) {
        let args: &[Reg] = match instr {
            Instr::Apply { args, .. } => args,
            Instr::Cast { arg, .. } => std::slice::from_ref(arg),
            _ => &[],
        };
        for &a in args {
            let root = self.regs[a as usize].root as usize;
            let r = &mut self.regs[root];
            if let (Home::Slot(s), true, false) = (r.home, r.last == i as Reg, r.constant) {
                // Once only, even where it is two arguments. (`i` cannot be the last reader of a register again.)
                r.last = root as Reg;
                self.free.push(s);
            }
        }
    }

    fn apply(&mut self, f: TileFn, args: &[Reg], out: Reg) -> Step {
        assert!(args.len() <= MAX_ARGS, "a pointwise function of {} arguments", args.len());
        let first = self.args.len() as u32;
        for &a in args {
            self.args.push(self.regs[a as usize].root);
        }
        Step::Apply { f, first, count: args.len() as u32, out }
    }

    /// Instructions a tile: a measure of its cost.
    pub fn instructions(&self) -> usize {
        self.steps.len()
    }

    /// The register of store `s`, as the index for [`State::pointer`].
    pub fn result(&self, code: &Code, s: usize) -> usize {
        self.regs[code.program.stores[s].0 as usize].root as usize
    }
}

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// A thread's registers.
#[derive(Default)]
pub(crate) struct State {
    lines: Vec<Line>,
    pointers: Vec<*mut u8>,
    index: SmallVec<[usize; 8]>,
    /// Raw f16 and bf16 on their way from strided memory.
    halves: Vec<u16>,
}

thread_local! {
    static STATE: Cell<Option<Box<State>>> = const { Cell::new(None) };
    static COMPILED: Cell<Option<Box<Compiled>>> = const { Cell::new(None) };
}

/// Lends this thread's registers. (Taken out meanwhile: a thread that waits in rayon may run another kernel.)
pub(crate) fn with_state<R>(f: impl FnOnce(&mut State) -> R) -> R {
    let mut state = STATE.take().unwrap_or_default();
    let r = f(&mut state);
    STATE.set(Some(state));
    r
}

/// Lends this thread's memory for a compiled program.
pub(crate) fn with_compiled<R>(f: impl FnOnce(&mut Compiled) -> R) -> R {
    let mut compiled = COMPILED.take().unwrap_or_default();
    let r = f(&mut compiled);
    COMPILED.set(Some(compiled));
    r
}

impl State {
    /// Makes the registers ready for tiles of at most `n` elements and computes the constants.
    ///
    /// # Safety
    /// As [`State::run`].
    pub unsafe fn prepare(&mut self, c: &Compiled, code: &Code, n: usize) {
        let lines = c.slots * (c.pitch / 64);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; 64]));
        }
        let base = self.lines.as_mut_ptr().cast::<u8>();
        self.pointers.clear();
        self.pointers.extend(c.regs.iter().map(|r| match r.home {
            // SAFETY: within the lines.
            Home::Slot(s) => unsafe { base.add(s as usize * c.pitch) },
            _ => std::ptr::null_mut(),
        }));
        for step in &c.once {
            // SAFETY: the caller's promise.
            unsafe { self.step(c, code, step, Tile::Run { start: 0, n }) };
        }
    }

    /// Runs the program over a tile and stores its results.
    ///
    /// # Safety
    /// The buffers of `code` must hold what its layouts reach, `c` must be built from it, the tile have at most `c.tile` elements (and at
    /// most the `n` of `prepare`), and no other thread may touch the tile's outputs.
    #[inline]
    pub unsafe fn run(&mut self, c: &Compiled, code: &Code, tile: Tile) {
        unsafe {
            let start = match tile {
                Tile::Run { start, .. } | Tile::Box { start, .. } => start,
            };
            for &(reg, k) in &c.direct {
                let o = &code.operands[k as usize];
                let at = code.bases[k as usize].add((o.offset + start) * o.dtype.size());
                self.pointers[reg as usize] = at;
            }
            for &(reg, s) in &c.outs {
                let size = code.program.stores[s as usize].1.size();
                let out = code.outs[s as usize].add(start * size);
                self.pointers[reg as usize] = out;
                prefetch_write(out, tile.len() * size);
            }
            if c.walks {
                self.decode(code.shape, start);
            }
            if let Tile::Box { dim, rows, cols, .. } = tile {
                let step: usize = code.shape[dim + 1..].iter().product();
                for &s in &c.copies {
                    let size = code.program.stores[s as usize].1.size();
                    (0..rows).for_each(|r| prefetch_write(code.outs[s as usize].add((start + r * step) * size), cols * size));
                }
            }
            // The next tile comes while this one is computed, a part with each step: the hardware looks ahead within a page only.
            let steps = c.steps.len();
            let ahead = if steps > 2 && tile.len() == c.tile { &c.direct[..] } else { &[] };
            for (i, step) in c.steps.iter().enumerate() {
                self.step(c, code, step, tile);
                for &(_, k) in ahead {
                    let o = &code.operands[k as usize];
                    let bytes = c.tile * o.dtype.size();
                    let (from, to) = ((bytes * i / steps) & !63, bytes * (i + 1) / steps);
                    prefetch_read(code.bases[k as usize].wrapping_add((o.offset + start) * o.dtype.size() + bytes + from), to - from);
                }
            }
            for &s in &c.copies {
                self.store(c, code, s as usize, tile);
            }
        }
    }

    /// To be called by each thread after its last tile: what was written past the caches comes before whatever follows.
    pub fn fence(&self, c: &Compiled) {
        #[cfg(target_arch = "x86_64")]
        if c.stream {
            // SAFETY: every x86-64 processor has it.
            unsafe { std::arch::x86_64::_mm_sfence() };
        }
        let _ = c;
    }

    /// Where register `reg` lies after `run`.
    pub fn pointer(&self, reg: usize) -> *const u8 {
        self.pointers[reg]
    }

    fn decode(&mut self, shape: &[usize], start: usize) {
        self.index.clear();
        self.index.resize(shape.len(), 0);
        let mut rest = start;
        for d in (1..shape.len()).rev() {
            (rest, self.index[d]) = (rest / shape[d], rest % shape[d]);
        }
        self.index[0] = rest;
    }

    #[inline(always)]
    unsafe fn step(&mut self, c: &Compiled, code: &Code, step: &Step, tile: Tile) {
        let n = tile.len();
        unsafe {
            match *step {
                Step::Apply { f, first, count, out } => {
                    let mut args = [std::ptr::null::<u8>(); MAX_ARGS];
                    let list = &c.args[first as usize..(first + count) as usize];
                    for (a, &r) in args.iter_mut().zip(list) {
                        *a = self.pointers[r as usize];
                    }
                    f(n, &args[..count as usize], self.pointers[out as usize]);
                }
                Step::Fill { scalar, out } => {
                    let k = scalar as usize;
                    fill_scalar(code.scalars[k], code.program.scalars[k].compute(), n, self.pointers[out as usize]);
                }
                Step::Load { operand, out } => self.load(c, code, operand as usize, out as usize, tile),
                Step::Index { operand, out } => {
                    let o = &code.operands[operand as usize];
                    let dst = self.pointers[out as usize].cast::<u32>();
                    if !c.walks {
                        let start = if let Tile::Run { start, .. } = tile { start } else { 0 };
                        iota(n, (o.offset + start) as u32, 1, dst);
                    } else {
                        segments(code.shape, &o.strides, o.offset, &self.index, tile, |at, pos, len, stride| {
                            iota(len, pos as u32, stride as u32, dst.add(at))
                        });
                    }
                }
            }
        }
    }

    /// Brings the elements of an operand into a register.
    unsafe fn load(&mut self, c: &Compiled, code: &Code, k: usize, out: usize, tile: Tile) {
        let o = &code.operands[k];
        let reg = &c.regs[out];
        let size = o.dtype.size();
        let base = code.bases[k];
        let n = tile.len();
        let widens = !reg.raw && o.dtype.compute() != o.dtype;
        unsafe {
            if reg.constant {
                let src = base.add(o.offset * size);
                let dst = self.pointers[out];
                if widens {
                    widen(o.dtype, 1, src, dst.cast());
                    let v = *dst.cast::<u32>();
                    fill(n, v, dst.cast());
                } else {
                    fill_sized(size, n, src, dst);
                }
                return;
            }
            // A run of neighbours can be read where it is.
            if let Tile::Run { start, .. } = tile {
                let src = if !c.walks || dense(code.shape, &o.strides) {
                    Some(o.offset + start)
                } else {
                    let last = code.shape.len() - 1;
                    let within = o.strides[last] == 1 && self.index[last] + n <= code.shape[last];
                    within.then(|| position(o.offset, &o.strides, &self.index) as usize)
                };
                if let Some(at) = src {
                    let src = base.add(at * size);
                    match reg.home {
                        _ if widens => widen(o.dtype, n, src, self.pointers[out].cast()),
                        // (An operand in an output's memory is dense, and stays where it is until the stores.)
                        Home::Slot(_) if reg.store == NONE => self.pointers[out] = src,
                        _ => std::ptr::copy_nonoverlapping(src, self.pointers[out], n * size),
                    }
                    return;
                }
            }
            if let (Home::Slot(s), false) = (reg.home, widens) {
                self.pointers[out] = self.lines.as_mut_ptr().cast::<u8>().add(s as usize * c.pitch);
            }
            let dst = if widens {
                self.halves.resize(c.tile, 0);
                self.halves.as_mut_ptr().cast()
            } else {
                self.pointers[out]
            };
            match size {
                1 => gather::<u8>(code, o, base, &self.index, tile, dst),
                2 => gather::<u16>(code, o, base, &self.index, tile, dst),
                4 => gather::<u32>(code, o, base, &self.index, tile, dst),
                _ => gather::<u64>(code, o, base, &self.index, tile, dst),
            }
            if widens {
                widen(o.dtype, n, self.halves.as_ptr().cast(), self.pointers[out].cast());
            }
        }
    }

    /// Writes store `s` of a tile from its register.
    unsafe fn store(&mut self, c: &Compiled, code: &Code, s: usize, tile: Tile) {
        let (reg, dtype) = code.program.stores[s];
        let reg = c.regs[reg as usize].root as usize;
        let src = self.pointers[reg];
        let size = dtype.size();
        let narrows = !c.regs[reg].raw && dtype.compute() != dtype;
        // What was read in place is in the cache.
        if let (true, false, Tile::Run { start, n }) = (c.stream && !code.bases.contains(&code.outs[s]), narrows, tile) {
            return unsafe { stream(src, code.outs[s].add(start * size), n * size) };
        }
        let put = |at: usize, from: usize, n: usize| unsafe {
            let dst = code.outs[s].add(at * size);
            if narrows {
                narrow(dtype, n, src.cast::<f32>().add(from), dst);
            } else {
                std::ptr::copy_nonoverlapping(src.add(from * size), dst, n * size);
            }
        };
        match tile {
            Tile::Run { start, n } => put(start, 0, n),
            Tile::Box { start, dim, rows, cols } => {
                let step: usize = code.shape[dim + 1..].iter().product();
                for r in 0..rows {
                    put(start + r * step, r * cols, cols);
                }
            }
        }
    }
}

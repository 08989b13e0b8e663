//! The steps of a kernel op on the GPU: each binding shows only the window of a buffer that its operand spans. Where a window would exceed the
//! largest binding, or the work would take too long, the op is cut into parts that write into one output (see [`Cut`]).

use super::op::{Along, Cut, GpuCtx, Meta, Op, Reads, Span};
use super::plan::acceptable;
use crate::codegen::dispatch::{Binding, Caps, Dispatch, GpuStep, Param, Placed, Slot, Window, grid, work};
use crate::codegen::kernel::{Epilogue, Operand, collapse};
use crate::layout::Layout;
use crate::{DType, Device, Error, Result, Shape};
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::Arc;

/// More parts than this are a mistake of the caller's.
const MAX_PARTS: usize = 16_384;

/// An operand of an op: where it lies.
#[derive(Clone, Debug)]
pub(super) struct Value {
    /// A buffer of the planner's.
    pub slot: usize,
    pub reads: Reads,
    pub dtype: DType,
    pub layout: Layout,
}

/// Steps whose slots are `Buffer` (the planner's), `Temp` (see `temps`) or `Fault`.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub list: Vec<Placed>,
    /// Sizes in bytes.
    pub temps: Vec<usize>,
    pub parts: usize,
}

/// What is put where: one part of the op.
#[derive(Clone)]
struct Part {
    /// `None`: the op itself.
    op: Option<Arc<dyn Op>>,
    inputs: SmallVec<[Layout; 8]>,
    outputs: SmallVec<[Layout; 4]>,
    /// How an output joins what is there already; `None`: nothing is.
    joins: SmallVec<[Option<Along>; 4]>,
}

/// Why a part cannot run as it is.
enum Misfit {
    /// Bytes past the largest binding.
    Bytes(u64),
    /// Too much work at a time.
    Work,
}

pub(super) struct Splitter<'a> {
    op: &'a dyn Op,
    inputs: &'a [Value],
    outputs: &'a [Value],
    caps: &'a Caps,
    device: Device,
    steps: Steps,
}

impl<'a> Splitter<'a> {
    pub fn new(op: &'a dyn Op, inputs: &'a [Value], outputs: &'a [Value], caps: &'a Caps, device: Device) -> Splitter<'a> {
        Splitter { op, inputs, outputs, caps, device, steps: Steps::default() }
    }

    fn all(&self) -> Part {
        Part {
            op: None,
            inputs: self.inputs.iter().map(|v| v.layout.clone()).collect(),
            outputs: self.outputs.iter().map(|v| v.layout.clone()).collect(),
            joins: self.outputs.iter().map(|_| None).collect(),
        }
    }

    /// The steps of the op in one piece, with its epilogue; `None` where that does not fit.
    pub fn whole(mut self, epilogue: Option<&Epilogue>) -> Result<Option<Steps>> {
        let all = self.all();
        Ok(self.run(&all, epilogue, false)?.is_none().then_some(self.steps))
    }

    /// The steps of the op in parts.
    pub fn parts(mut self) -> Result<Steps> {
        let all = self.all();
        self.cut(&all)?;
        Ok(self.steps)
    }

    fn cut(&mut self, part: &Part) -> Result<()> {
        if self.steps.parts > MAX_PARTS {
            return Err(self.failed(format!("more than {MAX_PARTS} parts")));
        }
        let Some(misfit) = self.run(part, None, false)? else { return Ok(()) };
        let Some((a, b)) = self.halves(part) else {
            return match misfit {
                // What cannot be cut runs for as long as it takes.
                Misfit::Work => self.run(part, None, true).map(drop),
                Misfit::Bytes(n) => Err(self.failed(format!("{n} bytes more than that, in a part that cannot be cut"))),
            };
        };
        self.cut(&a)?;
        self.cut(&b)
    }

    fn failed(&self, what: String) -> Error {
        let shapes: Vec<String> = self.inputs.iter().chain(self.outputs).map(|v| v.layout.shape.to_string()).collect();
        let limit = self.caps.max_binding;
        let message = format!("shapes {}: this device binds at most {limit} bytes, and there are {what}", shapes.join(", "));
        Error::Kernel { op: self.op.name().into(), message }
    }

    fn metas(part: &[Layout], values: &[Value]) -> Vec<Meta> {
        part.iter().zip(values).map(|(l, v)| Meta { dtype: v.dtype, layout: l.clone() }).collect()
    }

    /// Whether an input is bound where it lies; else it is copied first.
    fn bound(&self, l: &Layout, v: &Value) -> bool {
        let aligned = (l.offset * v.dtype.gpu_size()).is_multiple_of(self.caps.alignment());
        let reads = match v.reads {
            Reads::Contiguous => l.is_contiguous() && aligned,
            reads => acceptable(self.device, reads, v.dtype, l),
        };
        l.numel() == 0 || (reads && self.window(l, v.dtype).bytes <= self.caps.max_binding)
    }

    /// Whether an output is written where it lies; else it is copied there afterwards.
    fn direct(&self, l: &Layout, v: &Value) -> bool {
        l.numel() == 0
            || (l.is_contiguous()
                && (l.offset * v.dtype.gpu_size()).is_multiple_of(self.caps.alignment())
                && self.window(l, v.dtype).bytes <= self.caps.max_binding)
    }

    fn window(&self, l: &Layout, dtype: DType) -> Window {
        l.window(dtype.gpu_size(), self.caps)
    }

    /// Bytes that cannot be bound at once, even in a copy; and those that would have to be copied.
    fn excess(&self, part: &Part) -> (u64, u64) {
        let (mut past, mut copied) = (0, 0);
        let ports = part.inputs.iter().zip(self.inputs).map(|(l, v)| (l, v, self.bound(l, v)));
        let outs = part.outputs.iter().zip(self.outputs).zip(&part.joins);
        for (l, v, here) in ports.chain(outs.map(|((l, v), join)| (l, v, join.is_none() && self.direct(l, v)))) {
            if !here {
                let bytes = (l.numel() * v.dtype.gpu_size()) as u64;
                past += bytes.saturating_sub(self.caps.max_binding);
                copied += bytes;
            }
        }
        (past, copied)
    }

    /// The two halves of a part, cut where most is won.
    fn halves(&self, part: &Part) -> Option<(Part, Part)> {
        let op: &dyn Op = part.op.as_deref().unwrap_or(self.op);
        let (ins, outs) = (Self::metas(&part.inputs, self.inputs), Self::metas(&part.outputs, self.outputs));
        let mut best: Option<((u64, u64, bool, usize), Part, Part)> = None;
        for (id, cut) in op.cuts(&ins, &outs).into_iter().enumerate().filter(|(_, c)| c.len > 1) {
            let at = self.middle(part, &cut);
            let half = |range: Range<usize>| {
                let mut half = part.clone();
                half.inputs.iter_mut().zip(&cut.inputs).for_each(|(l, c)| narrow(l, c.as_ref(), &range));
                for ((l, c), join) in half.outputs.iter_mut().zip(&cut.outputs).zip(&mut half.joins) {
                    match *c {
                        Along::Axis(span) => narrow(l, Some(&span), &range),
                        along if range.start > 0 => *join = join.or(Some(along)),
                        _ => {}
                    }
                }
                half.op = op.part(id, &range, &ins).or(half.op);
                half
            };
            let (a, b) = (half(0..at), half(at..cut.len));
            let (x, y) = (self.excess(&a), self.excess(&b));
            let sums = cut.outputs.iter().any(|o| !matches!(o, Along::Axis(_)));
            let score = (x.0.max(y.0), x.1 + y.1, sums, usize::MAX - cut.len);
            if best.as_ref().is_none_or(|b| score < b.0) {
                best = Some((score, a, b));
            }
        }
        best.map(|(_, a, b)| (a, b))
    }

    /// Where to cut: near the middle, and where windows may begin.
    fn middle(&self, part: &Part, cut: &Cut) -> usize {
        let align = self.caps.alignment();
        let mut step = 1;
        let mut want = |l: &Layout, span: &Span, dtype: DType| {
            let stride = l.strides[span.axis].unsigned_abs() * span.scale * dtype.gpu_size();
            // Powers of two: the largest of them serves all.
            step = step.max(align >> stride.trailing_zeros().min(align.trailing_zeros()));
        };
        for ((l, c), v) in part.inputs.iter().zip(&cut.inputs).zip(self.inputs) {
            if let (Some(span), Reads::Contiguous) = (c, v.reads) {
                want(l, span, v.dtype);
            }
        }
        for ((l, c), v) in part.outputs.iter().zip(&cut.outputs).zip(self.outputs) {
            if let Along::Axis(span) = c {
                want(l, span, v.dtype);
            }
        }
        let half = cut.len / 2;
        match half / step * step {
            0 if step < cut.len => step,
            // Small elements fill words in fours.
            0 if half >= 4 => half / 4 * 4,
            0 => half,
            at => at,
        }
    }

    /// Adds the steps of a part, where it fits (`force`: however long it takes).
    fn run(&mut self, part: &Part, epilogue: Option<&Epilogue>, force: bool) -> Result<Option<Misfit>> {
        let (past, _) = self.excess(part);
        if past > 0 {
            return Ok(Some(Misfit::Bytes(past)));
        }
        let op: &dyn Op = part.op.as_deref().unwrap_or(self.op);
        let mut temps: Vec<usize> = Vec::new();
        let temp = |temps: &mut Vec<usize>, bytes: usize| {
            temps.push(bytes);
            Slot::Temp(temps.len() - 1)
        };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let (mut ins, mut outs): (Vec<Meta>, Vec<Meta>) = (Vec::new(), Vec::new());
        let (mut in_at, mut out_at): (Vec<(Slot, Window)>, Vec<(Slot, Window)>) = (Vec::new(), Vec::new());
        for (l, v) in part.inputs.iter().zip(self.inputs) {
            let mut layout = l.clone();
            if self.bound(l, v) {
                let w = self.window(l, v.dtype);
                layout.offset -= (w.from as usize / v.dtype.gpu_size()).min(layout.offset);
                in_at.push((Slot::Buffer(v.slot), w));
            } else {
                let bytes = l.numel() * v.dtype.gpu_size();
                layout = Layout::contiguous(l.shape.clone());
                let slot = temp(&mut temps, bytes);
                self.copy((Slot::Buffer(v.slot), l), (slot, &layout), v.dtype, None, &mut before)?;
                in_at.push((slot, self.window(&layout, v.dtype)));
            }
            ins.push(Meta { dtype: v.dtype, layout });
        }
        for ((l, v), join) in part.outputs.iter().zip(self.outputs).zip(&part.joins) {
            let layout = Layout::contiguous(l.shape.clone());
            if join.is_none() && self.direct(l, v) {
                out_at.push((Slot::Buffer(v.slot), self.window(l, v.dtype)));
            } else {
                let slot = temp(&mut temps, l.numel() * v.dtype.gpu_size());
                self.copy((slot, &layout), (Slot::Buffer(v.slot), l), v.dtype, *join, &mut after)?;
                out_at.push((slot, self.window(&layout, v.dtype)));
            }
            outs.push(Meta { dtype: v.dtype, layout });
        }
        let kernel = op.gpu(&GpuCtx { inputs: &ins, outputs: &outs, caps: self.caps, epilogue })?;
        if let Some(&t) = kernel.temps.iter().find(|&&t| t as u64 > self.caps.max_binding) {
            return Ok(Some(Misfit::Bytes(t as u64 - self.caps.max_binding)));
        }
        let own = temps.len();
        temps.extend(&kernel.temps);
        let place = |slot: Slot| -> Result<(Slot, Window), u64> {
            Ok(match slot {
                Slot::Input(i) => in_at[i],
                Slot::Output(i) => out_at[i],
                Slot::Temp(i) => (Slot::Temp(own + i), Window { from: 0, bytes: (temps[own + i].max(1) as u64).next_multiple_of(16) }),
                Slot::Fault => (slot, Window::default()),
                // An operand of the epilogue.
                Slot::Buffer(b) => {
                    let mut bytes = 16;
                    for o in epilogue.iter().flat_map(|e| &e.operands).filter(|o| o.buffer == Some(b)) {
                        let shape = epilogue.map_or_else(Shape::default, |e| e.shape.clone());
                        let end = Layout { shape, strides: o.strides.clone(), offset: o.offset }.end() * o.dtype.gpu_size();
                        bytes = bytes.max((end as u64).next_multiple_of(16));
                    }
                    if bytes > self.caps.max_binding {
                        return Err(bytes - self.caps.max_binding);
                    }
                    (slot, Window { from: 0, bytes })
                }
            })
        };
        let whole = part.op.is_none() && before.is_empty() && after.is_empty() && self.is_all(part);
        let mut list = before;
        for step in kernel.steps {
            let (mut d, copies) = match step {
                GpuStep::Zero(slot) => {
                    let (slot, window) = match place(slot) {
                        Ok(x) => x,
                        Err(n) => return Ok(Some(Misfit::Bytes(n))),
                    };
                    list.push(Placed { step: GpuStep::Zero(slot), windows: vec![window] });
                    continue;
                }
                GpuStep::Dispatch(d) => (d, false),
                GpuStep::UnlessInPlace(d) => (d, whole),
            };
            let mut windows = Vec::with_capacity(d.bindings.len());
            for b in &mut d.bindings {
                let (slot, window) = match place(b.slot) {
                    Ok(x) => x,
                    Err(n) => return Ok(Some(Misfit::Bytes(n))),
                };
                b.slot = slot;
                windows.push(window);
            }
            if !force && work(d.flops, windows.iter().map(|w| w.bytes).sum()) > self.caps.max_work {
                return Ok(Some(Misfit::Work));
            }
            list.push(Placed { step: if copies { GpuStep::UnlessInPlace(d) } else { GpuStep::Dispatch(d) }, windows });
        }
        list.extend(after);
        self.steps.list.extend(list);
        self.steps.parts += 1;
        // The parts run one after the other, and share their temporaries.
        self.steps.temps.resize(self.steps.temps.len().max(temps.len()), 0);
        self.steps.temps.iter_mut().zip(temps).for_each(|(t, bytes)| *t = bytes.max(*t));
        Ok(None)
    }

    fn is_all(&self, part: &Part) -> bool {
        part.outputs.iter().zip(self.outputs).all(|(l, v)| *l == v.layout)
            && part.inputs.iter().zip(self.inputs).all(|(l, v)| *l == v.layout)
            && part.joins.iter().all(Option::is_none)
    }

    fn copy(&self, from: (Slot, &Layout), to: (Slot, &Layout), dtype: DType, join: Option<Along>, out: &mut Vec<Placed>) -> Result<()> {
        copy(from, to, dtype, join, self.caps, out).ok_or_else(|| {
            let what = format!("rows of {dtype} that do not fill words, so that no part of them can be copied: cast to f32 before");
            self.failed(what)
        })
    }
}

/// Narrows a layout to what a range of a cut makes of it.
fn narrow(l: &mut Layout, span: Option<&Span>, range: &Range<usize>) {
    if let Some(&Span { axis, scale, shift }) = span {
        let place = |i: usize| ((i * scale) as isize + shift).clamp(0, l.shape[axis] as isize) as usize;
        let (from, to) = (place(range.start), place(range.end));
        *l = l.slice(axis, from, 1, to - from);
    }
}

/// Adds the steps that put a tensor into (or add it to) a part of another of its shape. `None` where small elements do not fill words.
pub(super) fn copy(
    from: (Slot, &Layout),
    to: (Slot, &Layout),
    dtype: DType,
    join: Option<Along>,
    caps: &Caps,
    out: &mut Vec<Placed>,
) -> Option<()> {
    let mut shape = from.1.shape.clone();
    if shape.numel() == 0 {
        return Some(());
    }
    let operand = |l: &Layout| Operand { buffer: None, dtype, strides: l.strides.clone(), offset: l.offset };
    let mut operands = [operand(from.1), operand(to.1)];
    collapse(&mut shape, None, &mut operands);
    let per = 4 / dtype.gpu_size().min(4);
    if per > 1 {
        in_words(&mut shape, &mut operands, per)?;
    }
    let ty = match (join, dtype) {
        (Some(Along::Sum), DType::F32) => "f32",
        (Some(Along::Sum), DType::I32) => "i32",
        _ => "u32",
    };
    let before = if join.is_some() { "whole[to] + " } else { "" };
    let source = include_str!("../../shaders/assemble.wgsl").replace("{{T}}", ty).replace("{{BEFORE}}", before);
    let layout = |shape: &Shape, o: &Operand| Layout { shape: shape.clone(), strides: o.strides.clone(), offset: o.offset };
    let mut stack = vec![(shape, operands)];
    while let Some((shape, operands)) = stack.pop() {
        let windows = [0, 1].map(|i| layout(&shape, &operands[i]).window(4, caps));
        let past = [0, 1].map(|i| windows[i].bytes > caps.max_binding);
        if past != [false; 2] {
            // Halves along the dimension that reaches furthest in the operand that does not fit.
            let o = &operands[if past[0] { 0 } else { 1 }];
            let d = (0..shape.rank()).max_by_key(|&d| (shape[d] - 1) * o.strides[d].unsigned_abs())?;
            let half = shape[d] / 2;
            let mut low = (shape.clone(), operands.clone());
            low.0[d] = half;
            let mut high = (shape.clone(), operands.clone());
            high.0[d] = shape[d] - half;
            high.1.iter_mut().for_each(|o| o.offset = (o.offset as isize + half as isize * o.strides[d]) as usize);
            stack.extend([high, low]);
            continue;
        }
        let n = shape.numel();
        let at = |i: usize| operands[i].offset - windows[i].from as usize / 4;
        let mut params: Vec<Param> = vec![n.into(), shape.rank().into(), at(0).into(), at(1).into()];
        for k in 0..16 {
            let dim = if k < shape.rank() {
                [shape[k] as i32, operands[0].strides[k] as i32, operands[1].strides[k] as i32, 0]
            } else {
                [1, 0, 0, 0]
            };
            params.extend(dim.map(Param::from));
        }
        let bindings = vec![Binding { slot: from.0, write: false }, Binding { slot: to.0, write: true }];
        let label = if join.is_some() { "join a part" } else { "copy a part" };
        let step = Dispatch { label, source: source.clone().into(), bindings, params, groups: grid(n.div_ceil(256)), flops: 0 };
        out.push(Placed { step: GpuStep::Dispatch(step), windows: windows.to_vec() });
    }
    Some(())
}

/// Turns elements into words of `per` elements each.
fn in_words(shape: &mut Shape, operands: &mut [Operand; 2], per: usize) -> Option<()> {
    let last = shape.rank() - 1;
    let whole = shape[last].is_multiple_of(per)
        && operands.iter().all(|o| {
            let outer = o.strides[..last].iter().all(|s| s % per as isize == 0);
            o.strides[last] == 1 && outer && o.offset.is_multiple_of(per)
        });
    // One row may end in a word that is not full: the padding is copied with it.
    let alone = last == 0 && operands.iter().all(|o| o.strides[0] == 1 && o.offset == 0);
    if !whole && !alone {
        return None;
    }
    shape[last] = shape[last].div_ceil(per);
    for o in operands {
        o.offset /= per;
        o.strides[..last].iter_mut().for_each(|s| *s /= per as isize);
    }
    Some(())
}

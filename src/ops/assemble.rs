//! `assemble`: a tensor put together from parts. The gradient of a slice; T slices of one tensor cost one buffer, not T.

use super::view::{Slice, SliceSpec};
use crate::backend::cpu::CpuCtx;
use crate::backend::cpu::threads::{Shared, each, each_chunk};
use crate::codegen::dispatch::{Binding, Dispatch, GpuKernel, GpuStep, Param, Slot, grid};
use crate::codegen::kernel::{Operand, collapse};
use crate::graph::{Along, Cut, GpuCtx, Key, Meta, Op, Outputs, Reads, Saves, Span, Vjp, record};
use crate::layout::Layout;
use crate::{DType, Error, Result, Shape, Tensor};
use smallvec::smallvec;
use std::ops::Add;
use std::ops::Range;
use std::sync::Arc;

/// A zero tensor of `shape` to which each part is added at its place. The parts are added in their order, so that the sum is the same
/// each time.
///
/// # Errors
/// `Error::Argument` where there are no parts.
pub(crate) fn assemble(shape: &Shape, parts: &[(&SliceSpec, &Tensor)]) -> Result<Tensor> {
    let Some(dtype) = parts.first().map(|(_, t)| t.dtype()) else {
        return Err(Error::argument("assemble", "no parts"));
    };
    let work = match dtype {
        DType::Bool | DType::U8 => DType::I32,
        d => d.compute(),
    };
    let inputs = parts.iter().map(|(_, t)| t.try_cast(work)).collect::<Result<Vec<_>>>()?;
    let op = Assemble::new(shape.clone(), parts.iter().map(|(s, _)| (*s).clone()).collect());
    record(Arc::new(op), &inputs.iter().collect::<Vec<_>>())?.try_cast(dtype)
}

/// Input `i` is added at `parts[i]`.
#[derive(Debug)]
pub(crate) struct Assemble {
    shape: Shape,
    parts: Vec<SliceSpec>,
    /// The parts cover each element once: nothing to clear, nothing to add.
    tiled: bool,
}

impl Assemble {
    pub fn new(shape: Shape, parts: Vec<SliceSpec>) -> Assemble {
        let tiled = tiles(&shape, &parts);
        Assemble { shape, parts, tiled }
    }

    /// How part `i` is walked: sizes, then the part and the whole as operands.
    fn walk(&self, i: usize, layout: &Layout) -> (Shape, [Operand; 2]) {
        let to = self.parts[i].layout(&Layout::contiguous(self.shape.clone()));
        let operand = |l: &Layout| Operand { buffer: None, dtype: DType::F32, strides: l.strides.clone(), offset: l.offset };
        let mut shape = layout.shape.clone();
        let mut operands = [operand(layout), operand(&to)];
        collapse(&mut shape, None, &mut operands);
        (shape, operands)
    }

    fn run<T: bytemuck::Pod + Add<Output = T> + Send + Sync>(&self, ctx: &CpuCtx) -> Result<()> {
        let out = ctx.output::<T>(0);
        if !self.tiled {
            each_chunk(out, 1 << 16, 1, |_, c| c.fill(T::zeroed()));
        }
        let to = Shared::new(out);
        for i in 0..self.parts.len() {
            if ctx.inputs[i].layout.numel() == 0 {
                continue;
            }
            let from = ctx.strided::<T>(i);
            let (shape, [a, b]) = self.walk(i, ctx.inputs[i].layout);
            let last = shape.rank() - 1;
            let (inner, sa, sb) = (shape[last], a.strides[last], b.strides[last]);
            let row = |r: usize| {
                let (mut rest, mut p, mut q) = (r, a.offset as isize, b.offset as isize);
                for k in (0..last).rev() {
                    let i = (rest % shape[k]) as isize;
                    rest /= shape[k];
                    p += i * a.strides[k];
                    q += i * b.strides[k];
                }
                // SAFETY: `infer` checked that the part lies inside the whole, so every position is inside; rows do not meet.
                unsafe {
                    if sa == 1 && sb == 1 {
                        let src = &from[p as usize..p as usize + inner];
                        let dst = std::slice::from_raw_parts_mut(to.pointer(0, 0).offset(q), inner);
                        if self.tiled {
                            dst.copy_from_slice(src);
                        } else {
                            dst.iter_mut().zip(src).for_each(|(d, &s)| *d = *d + s);
                        }
                        return;
                    }
                    for k in 0..inner as isize {
                        let d = to.pointer(0, 0).offset(q + k * sb);
                        let s = from[(p + k * sa) as usize];
                        *d = if self.tiled { s } else { *d + s };
                    }
                }
            };
            let rows = shape.numel() / inner;
            if shape.numel() < 1 << 15 || rows == 1 {
                (0..rows).for_each(row);
            } else {
                each(rows, (1usize << 14).div_ceil(inner), &row);
            }
        }
        Ok(())
    }
}

/// Whether the parts cover each element of `shape` once. Found only where they are cut along one axis: split, unbind, flip, even and odd.
fn tiles(shape: &Shape, parts: &[SliceSpec]) -> bool {
    let whole = |p: &SliceSpec, a: usize| p.lens[a] == shape[a] && (shape[a] <= 1 || p.steps[a].abs() == 1);
    if parts.iter().any(|p| p.lens.rank() != shape.rank()) || parts.iter().map(|p| p.lens.numel()).sum::<usize>() != shape.numel() {
        return false;
    }
    let cut: Vec<usize> = (0..shape.rank()).filter(|&a| !parts.iter().all(|p| whole(p, a))).collect();
    match cut[..] {
        [] => parts.len() == 1,
        [a] => {
            let mut seen = vec![false; shape[a]];
            parts.iter().all(|p| {
                (0..p.lens[a]).all(|i| {
                    let at = (p.starts[a] as isize).wrapping_add((i as isize).wrapping_mul(p.steps[a])) as usize;
                    at < seen.len() && !std::mem::replace(&mut seen[at], true)
                })
            })
        }
        _ => false,
    }
}

impl Op for Assemble {
    fn name(&self) -> &'static str {
        "assemble"
    }

    fn key(&self, key: &mut Key) {
        key.list(self.shape.iter()).add(self.parts.len() as u64);
        self.parts.iter().for_each(|p| p.key(key));
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        self.shape.checked_numel()?;
        for (part, input) in self.parts.iter().zip(inputs) {
            if *input.shape() != part.lens || !part.fits(&self.shape) {
                let expected = format!("a part of {:?} that lies inside {}", part, self.shape);
                return Err(Error::shape("assemble", &[input.shape()], expected));
            }
            if input.dtype != inputs[0].dtype {
                return Err(Error::dtype("assemble", &[inputs[0].dtype, input.dtype], "all parts must have one dtype"));
            }
        }
        Ok(smallvec![Meta::new(inputs[0].dtype, &self.shape)])
    }

    fn saves(&self) -> Saves {
        Saves::default()
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let g = ctx.cotangent()?;
        self.parts.iter().zip(ctx.needs).map(|(p, &needed)| needed.then(|| Slice::record(g, p.clone())).transpose()).collect()
    }

    fn reads(&self, _input: usize) -> Reads {
        Reads::Strided
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        match ctx.dtype(0) {
            DType::F32 => self.run::<f32>(ctx),
            DType::F64 => self.run::<f64>(ctx),
            DType::I32 => self.run::<i32>(ctx),
            DType::U32 => self.run::<u32>(ctx),
            DType::I64 => self.run::<i64>(ctx),
            _ => ctx.unsupported(),
        }
    }

    fn cuts(&self, _inputs: &[Meta], _outputs: &[Meta]) -> Vec<Cut> {
        // Every axis is there, so that a cut's number is its axis; what some part steps over is not cut.
        let cut = |d: usize| {
            let plain = self.parts.iter().all(|p| p.steps[d] == 1);
            let span = |p: &SliceSpec| Some(Span { axis: d, scale: 1, shift: -(p.starts[d] as isize) });
            Cut {
                len: if plain { self.shape[d] } else { 1 },
                inputs: self.parts.iter().map(span).collect(),
                outputs: smallvec![Along::axis(d)],
            }
        };
        (0..self.shape.rank()).map(cut).collect()
    }

    fn part(&self, axis: usize, range: &Range<usize>, _inputs: &[Meta]) -> Option<Arc<dyn Op>> {
        let mut shape = self.shape.clone();
        shape[axis] = range.len();
        let mut parts = self.parts.clone();
        for p in &mut parts {
            let (from, to) = (p.starts[axis].max(range.start), (p.starts[axis] + p.lens[axis]).min(range.end));
            p.lens[axis] = to.saturating_sub(from);
            p.starts[axis] = if p.lens[axis] == 0 { 0 } else { from - range.start };
        }
        Some(Arc::new(Assemble { shape, parts, tiled: self.tiled }))
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let mut steps = Vec::new();
        if self.shape.numel() == 0 {
            return Ok(GpuKernel::default());
        }
        if !self.tiled {
            steps.push(GpuStep::Zero(Slot::Output(0)));
        }
        let source = shader(ctx.inputs[0].dtype, self.tiled);
        for (i, input) in ctx.inputs.iter().enumerate().filter(|(_, m)| m.layout.numel() > 0) {
            let (shape, [a, b]) = self.walk(i, &input.layout);
            if shape.rank() > 16 {
                let message = format!("{} has more than 16 axes that cannot be merged", input.shape());
                return Err(Error::Kernel { op: "assemble".into(), message });
            }
            let n = shape.numel();
            let mut params: Vec<Param> = vec![n.into(), shape.rank().into(), a.offset.into(), b.offset.into()];
            for k in 0..16 {
                let dim = if k < shape.rank() { [shape[k] as i32, a.strides[k] as i32, b.strides[k] as i32, 0] } else { [1, 0, 0, 0] };
                params.extend(dim.map(Param::from));
            }
            steps.push(GpuStep::Dispatch(Dispatch {
                label: "assemble",
                source: source.clone().into(),
                bindings: vec![Binding { slot: Slot::Input(i), write: false }, Binding { slot: Slot::Output(0), write: true }],
                params,
                groups: grid(n.div_ceil(256)),
                flops: 0,
            }));
        }
        Ok(GpuKernel { temps: Vec::new(), steps })
    }
}

fn shader(dtype: DType, tiled: bool) -> String {
    let before = if tiled { "" } else { "whole[to] + " };
    let ty = match dtype {
        DType::I32 => "i32",
        DType::U32 => "u32",
        _ => "f32",
    };
    include_str!("../../shaders/assemble.wgsl").replace("{{T}}", ty).replace("{{BEFORE}}", before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::memory::CpuBuffer;
    use crate::backend::cpu::{CpuCtx, memory};

    #[test]
    fn shaders_are_valid() {
        for (dtype, tiled) in [(DType::F32, false), (DType::F32, true), (DType::I32, false)] {
            let module = naga::front::wgsl::parse_str(&shader(dtype, tiled)).unwrap();
            let mut v = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
            v.validate(&module).unwrap();
        }
    }

    #[test]
    fn tilings_are_found() {
        let shape = Shape::from([4, 6]);
        let full = SliceSpec::full(&shape);
        let cut = |a, s, step, n| full.clone().with(a, s, step, n);
        assert!(tiles(&shape, &[cut(1, 0, 1, 2), cut(1, 2, 1, 4)]));
        assert!(tiles(&shape, &[cut(1, 0, 2, 3), cut(1, 1, 2, 3)]));
        assert!(tiles(&shape, &[cut(0, 3, -1, 4)]));
        assert!(!tiles(&shape, &[cut(1, 0, 1, 3), cut(1, 2, 1, 3)]));
        assert!(!tiles(&shape, &[cut(1, 0, 1, 3)]));
        assert!(!tiles(&shape, &[full.clone(), full.clone()]));
        assert!(!tiles(&shape, &[cut(1, 0, 1, 3), cut(0, 0, 1, 2)]));
    }

    fn run(op: &Assemble, inputs: &[(Vec<f32>, Layout)]) -> Vec<f32> {
        let buffers: Vec<CpuBuffer> = inputs.iter().map(|(v, _)| memory::CpuBuffer::from_bytes(bytemuck::cast_slice(v)).unwrap()).collect();
        let arg = |buffer, layout| crate::backend::cpu::Arg { buffer, layout, dtype: DType::F32 };
        let args: Vec<_> = buffers.iter().zip(inputs).map(|(b, (_, l))| arg(b, l)).collect();
        let n = op.shape.numel();
        let out = CpuBuffer::from_bytes(bytemuck::cast_slice(&vec![f32::NAN; n])).unwrap();
        let layout = Layout::contiguous(op.shape.clone());
        let outputs = [arg(&out, &layout)];
        let fault = Default::default();
        op.cpu(&CpuCtx { op: "assemble", inputs: &args, outputs: &outputs, scalars: &[], fault: &fault }).unwrap();
        // SAFETY: nothing else has the buffer.
        unsafe { out.slice::<f32>() }.to_vec()
    }

    #[test]
    fn parts_are_added_at_their_places() {
        let shape = Shape::from([300, 257]);
        let full = SliceSpec::full(&shape);
        let specs = vec![
            full.clone().with(0, 299, -2, 150).with(1, 1, 3, 80),
            full.clone().with(1, 0, 1, 200),
            full.clone(),
            full.clone().with(0, 5, 1, 0),
        ];
        let inputs: Vec<(Vec<f32>, Layout)> = specs
            .iter()
            .map(|s| {
                let n = s.lens.numel();
                let t = Layout::contiguous(s.lens.iter().rev().copied().collect()).permute(&[1, 0]);
                ((0..n).map(|i| (i * 7 % 1001) as f32).collect(), t)
            })
            .collect();
        let mut expected = vec![0f32; shape.numel()];
        for (s, (v, l)) in specs.iter().zip(&inputs) {
            let to = s.layout(&Layout::contiguous(shape.clone()));
            to.positions().zip(l.positions()).for_each(|(t, f)| expected[t] += v[f]);
        }
        assert_eq!(run(&Assemble::new(shape, specs), &inputs), expected);
    }

    #[test]
    fn a_tiling_is_copied() {
        let shape = Shape::from([2, 3, 4]);
        let full = SliceSpec::full(&shape);
        let specs = vec![full.clone().with(2, 0, 2, 2), full.clone().with(2, 3, -2, 2)];
        let inputs: Vec<_> =
            (0..2).map(|k| ((0..12).map(|i| (100 * k + i) as f32).collect(), Layout::contiguous([2, 3, 2].into()))).collect();
        let op = Assemble::new(shape, specs);
        assert!(op.tiled);
        let out = run(&op, &inputs);
        assert_eq!(out[..4], [0.0, 101.0, 1.0, 100.0]);
        assert!(out.iter().all(|v| v.is_finite()));
    }
}

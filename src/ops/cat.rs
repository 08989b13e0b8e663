//! Concatenation along an axis.

use super::movement::{Lines, each, moved_in_runs, par_copy, par_rows, reads, words, writes};
use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::{GpuKernel, Param, Slot};
use crate::graph::{Along, Cut, GpuCtx, Key, Meta, Op, Outputs, Saves, Span, Vjp, record};
use crate::{Error, Result, Tensor, shape};
use smallvec::smallvec;
use std::fmt::Write;
use std::sync::Arc;

/// Inputs one after the other along `axis`.
#[derive(Debug)]
pub(crate) struct Cat {
    axis: usize,
}

/// Parts that one dispatch can read beside its output.
const PARTS: usize = 7;

impl Op for Cat {
    fn name(&self) -> &'static str {
        "cat"
    }

    fn key(&self, key: &mut Key) {
        key.add(self.axis as u64);
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let first = inputs[0];
        let mut shape = first.shape().clone();
        for m in &inputs[1..] {
            let fits = m.shape().rank() == shape.rank() && (0..shape.rank()).all(|k| k == self.axis || m.shape()[k] == shape[k]);
            if !fits {
                let shapes: Vec<_> = inputs.iter().map(|m| m.shape()).collect();
                return Err(Error::shape("cat", &shapes, format!("all sizes but the one of axis {} must agree", self.axis)));
            }
            if m.dtype != first.dtype {
                return Err(Error::dtype("cat", &[first.dtype, m.dtype], "the parts have one dtype"));
            }
            shape[self.axis] += m.shape()[self.axis];
        }
        shape.checked_numel()?;
        Ok(smallvec![Meta::new(first.dtype, shape)])
    }

    fn saves(&self) -> Saves {
        Saves::default()
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let dy = ctx.cotangent()?;
        let mut start = 0;
        let mut grads = Vec::with_capacity(ctx.inputs.len());
        for (x, &needed) in ctx.inputs.iter().zip(ctx.needs) {
            let len = x.dims()[self.axis];
            grads.push(if needed { Some(dy.try_narrow(self.axis as isize, start, len)?) } else { None });
            start += len;
        }
        Ok(grads)
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        let size = ctx.dtype(0).size();
        let out = ctx.output_bytes(0);
        let parts: Vec<(&[u8], usize)> = (0..ctx.inputs.len())
            .map(|i| {
                let l = Lines::new(ctx.shape(i), self.axis);
                (ctx.input_bytes(i), l.n * l.inner * size)
            })
            .collect();
        let row = parts.iter().map(|p| p.1).sum();
        par_rows(out, row, |r, mut out| {
            for &(bytes, len) in &parts {
                let (here, rest) = out.split_at_mut(len);
                par_copy(here, &bytes[r * len..][..len]);
                out = rest;
            }
        });
        Ok(())
    }

    fn cuts(&self, inputs: &[Meta], outputs: &[Meta]) -> Vec<Cut> {
        let y = outputs[0].shape();
        let mut start = 0;
        let along = inputs.iter().map(|m| {
            let shift = -(start as isize);
            start += m.shape()[self.axis];
            Some(Span { axis: self.axis, scale: 1, shift })
        });
        let mut cuts = vec![Cut { len: y[self.axis], inputs: along.collect(), outputs: smallvec![Along::axis(self.axis)] }];
        cuts.extend(Cut::axes(y, inputs.len(), 1, |d| d != self.axis));
        cuts
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let (out, dtype) = (Lines::new(&ctx.outputs[0].layout.shape, self.axis), ctx.outputs[0].dtype);
        let mut kernel = GpuKernel::default();
        let filled: Vec<usize> = (0..ctx.inputs.len()).filter(|&i| ctx.numel(i) > 0).collect();
        let mut start = 0;
        for parts in filled.chunks(PARTS) {
            let lens: Vec<usize> = parts.iter().map(|&i| words(ctx.shape(i)[self.axis] * out.inner, dtype)).collect();
            let span = lens.iter().sum::<usize>();
            let mut params: Vec<Param> = vec![(out.outer * span).into(), span.into(), words(out.n * out.inner, dtype).into(), start.into()];
            params.extend(lens.iter().map(|&l| Param::from(l)));
            let mut bindings = vec![writes(Slot::Output(0))];
            bindings.extend(parts.iter().map(|&i| reads(Slot::Input(i))));
            kernel.steps.push(each("cat", source(parts.len()), out.outer * span, bindings, params));
            start += span;
        }
        Ok(kernel)
    }
}

/// The shader for so many parts: an invocation writes one word, and looks for the part that has it.
fn source(parts: usize) -> String {
    let (mut members, mut bindings, mut body) = (String::new(), String::new(), String::new());
    for k in 0..parts {
        let _ = write!(members, " len{k}: u32,");
        let _ = writeln!(bindings, "@group(0) @binding({}) var<storage, read> part{k}: array<u32>;", k + 1);
        let _ = writeln!(body, "    if (c < p.len{k}) {{ dst[to] = part{k}[r * p.len{k} + c]; return; }}\n    c -= p.len{k};");
    }
    crate::codegen::wgsl::preprocess(
        include_str!("../../shaders/cat.wgsl"),
        &[("MEMBERS", &members), ("PARTS", &bindings), ("BODY", &body)],
    )
}

#[fornax_derive::fallible]
impl Tensor {
    /// The parts one after the other along `axis`; every other size must agree. Different dtypes are promoted.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let a = Tensor::from_vec(vec![1.0f32, 2.0], [1, 2], Device::cpu())?;
    /// let b = Tensor::from_vec(vec![3.0f32, 4.0, 5.0, 6.0], [2, 2], Device::cpu())?;
    /// let c = Tensor::cat(&[&a, &b], 0);
    /// assert_eq!(c.dims(), [3, 2]);
    /// assert_eq!(c.to_vec::<f32>()?, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_cat(tensors: &[&Tensor], axis: isize) -> Result<Tensor> {
        let Some(first) = tensors.first() else {
            return Err(Error::argument("cat", "needs at least one tensor"));
        };
        if first.rank() == 0 {
            return Err(Error::shape("cat", &[first.shape()], "scalars have no axis to join: use stack"));
        }
        let axis = shape::axis("cat", axis, first.rank())?;
        if tensors.len() == 1 {
            return Ok((*first).clone());
        }
        let dtype = tensors.iter().fold(first.dtype(), |d, t| d.promote(t.dtype()));
        let first = first.try_cast(dtype)?;
        let runs: Vec<usize> = tensors.iter().map(|t| t.dims().get(axis..).map_or(0, |d| d.iter().product())).collect();
        let via = moved_in_runs(&first, &runs);
        let parts = tensors.iter().map(|t| t.try_cast(dtype)?.try_cast(via)).collect::<Result<Vec<_>>>()?;
        record(Arc::new(Cat { axis }), &parts.iter().collect::<Vec<_>>())?.try_cast(dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::super::movement::testing::*;
    use super::*;

    #[test]
    fn joins_along_every_axis() {
        for (shape, axis) in SHAPES {
            for parts in [2, 3, 9] {
                let op = Cat { axis };
                let mut values = Vec::new();
                for k in 0..parts {
                    let mut s = shape;
                    s[axis] = if k == 1 { 0 } else { shape[axis] + k };
                    values.push(value(&numbers(s.iter().product::<usize>()), s));
                }
                let got = run1::<f32>(&op, &values.iter().collect::<Vec<_>>());
                let l = Lines::new(&shape, axis);
                let mut expected = Vec::new();
                for o in 0..l.outer {
                    for v in &values {
                        let n = v.meta.shape()[axis] * l.inner;
                        expected.extend_from_slice(&v.get::<f32>()[o * n..][..n]);
                    }
                }
                assert!(got == expected, "{shape:?} {axis} {parts}");
            }
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let (a, b) = (Meta::new(crate::DType::F32, [2, 3]), Meta::new(crate::DType::F32, [2, 4]));
        assert!(matches!(Cat { axis: 0 }.infer(&[&a, &b]), Err(Error::Shape { .. })));
        assert_eq!(Cat { axis: 1 }.infer(&[&a, &b]).unwrap()[0].shape()[..], [2, 7]);
    }
}

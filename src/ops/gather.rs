//! Elements chosen along an axis by an index tensor of the result's shape: `gather` and `take_along`.

use super::movement::{Lines, by_size, each, index_i32, moved, par_rows, reads, writes};
use super::scatter::{Mode, Scatter, scatter};
use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::{GpuKernel, Param, Slot};
use crate::graph::asked::{Asked, asked};
use crate::graph::{Along, Cut, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record};
use crate::layout::Layout;
use crate::{DType, Error, Result, Tensor, shape};
use smallvec::smallvec;
use std::sync::Arc;

/// Output `[o, k, c]` is input 0's `[o, index[o, k, c], c]`, the middle coordinate being the one of `axis`.
#[derive(Debug)]
pub(crate) struct Gather {
    pub axis: usize,
    /// No position is named twice (a permutation, or a part of one): the gradient needs no sum.
    pub unique: bool,
    pub asked: Asked,
}

impl Op for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn key(&self, key: &mut Key) {
        key.add(self.axis as u64).add(self.unique as u64).add(self.asked.word());
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let (x, index) = (inputs[0], inputs[1]);
        let (a, b) = (x.shape(), index.shape());
        if a.rank() != b.rank() || (0..a.rank()).any(|k| k != self.axis && a[k] != b[k]) || (a[self.axis] == 0 && b.numel() > 0) {
            return Err(Error::shape("gather", &[a, b], format!("the shapes agree but for axis {}", self.axis)));
        }
        if index.dtype != DType::I32 {
            return Err(Error::dtype("gather", &[x.dtype, index.dtype], "the index is i32"));
        }
        Ok(smallvec![Meta::new(x.dtype, b)])
    }

    fn saves(&self) -> Saves {
        Saves { inputs: 0b10, outputs: 0 }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let dy = ctx.cotangent()?;
        let x = &ctx.inputs[0];
        let zeros = Tensor::try_zeros(x.shape(), (dy.dtype(), dy.device()))?;
        let mode = if self.unique { Mode::Set } else { Mode::Add };
        let op =
            Scatter { axis: self.axis, mode, shared: false, unique: self.unique, start: 0, total: x.dims()[self.axis], asked: self.asked };
        Ok(vec![Some(scatter(op, &zeros, &ctx.inputs[1], dy)?), None])
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        let (l, count) = (Lines::new(ctx.shape(0), self.axis), ctx.shape(1)[self.axis]);
        let index = ctx.input::<i32>(1);
        by_size!(ctx.dtype(0), T => {
            let x = ctx.input::<T>(0);
            par_rows(ctx.output::<T>(0), l.inner, |r, out| {
                let block = &x[r / count * l.n * l.inner..];
                for (c, (y, &j)) in out.iter_mut().zip(&index[r * l.inner..]).enumerate() {
                    *y = if (j as u32 as usize) < l.n {
                        block[j as usize * l.inner + c]
                    } else {
                        ctx.fault();
                        0
                    };
                }
            });
            Ok(())
        })
    }

    fn cuts(&self, inputs: &[Meta], _outputs: &[Meta]) -> Vec<Cut> {
        let index = inputs[1].shape();
        let mut cuts = Cut::axes(index, 2, 1, |d| d != self.axis);
        cuts.push(Cut::new(index[self.axis], &[None, Some(self.axis)], &[Along::axis(self.axis)]));
        cuts
    }

    fn asked(&self) -> Option<Asked> {
        Some(self.asked)
    }

    fn index_range(&self, inputs: &[&Layout]) -> Option<usize> {
        Some(inputs[0].shape[self.axis])
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let l = Lines::new(ctx.shape(0), self.axis);
        let n = ctx.numel(1);
        let mut kernel = GpuKernel::default();
        if n > 0 {
            let params = vec![n.into(), ctx.shape(1)[self.axis].into(), l.n.into(), l.inner.into(), Param::Fault];
            let bindings = vec![reads(Slot::Input(0)), reads(Slot::Input(1)), writes(Slot::Output(0)), writes(Slot::Fault)];
            kernel.steps.push(each("gather", include_str!("../../shaders/gather.wgsl"), n, bindings, params));
        }
        Ok(kernel)
    }
}

/// Narrows `x` to the index's sizes on all axes but one, as PyTorch's `gather` reads it.
fn narrowed(op: &'static str, x: &Tensor, index: &Tensor, axis: usize) -> Result<Tensor> {
    if x.rank() != index.rank() || (0..x.rank()).any(|k| k != axis && index.dims()[k] > x.dims()[k]) {
        let expected = format!("an index of the same rank, no larger than the tensor on any axis but {axis}");
        return Err(Error::shape(op, &[x.shape(), index.shape()], expected));
    }
    let mut x = x.clone();
    for k in (0..x.rank()).filter(|&k| k != axis) {
        if index.dims()[k] < x.dims()[k] {
            x = x.try_narrow(k as isize, 0, index.dims()[k])?;
        }
    }
    Ok(x)
}

#[fornax_derive::fallible]
impl Tensor {
    /// `y[i, j, k] = x[i, index[i, j, k], k]` (for axis 1 of three): one element of `axis` for each element of `index`, which has the
    /// rank of this tensor, any integer dtype, and is no larger than it on the other axes. PyTorch's `gather`.
    ///
    /// An index outside `0..dims()[axis]` reads 0 and makes the next read an [`Error::Index`].
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let logits = Tensor::from_vec(vec![0.1f32, 0.2, 0.7, 0.8, 0.1, 0.1], [2, 3], Device::cpu())?;
    /// let class = Tensor::from_vec(vec![2, 0], [2, 1], Device::cpu())?;
    /// assert_eq!(logits.gather(1, &class).to_vec::<f32>()?, [0.7, 0.8]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_gather(&self, axis: isize, index: &Tensor) -> Result<Tensor> {
        let axis = shape::axis("gather", axis, self.rank())?;
        let x = narrowed("gather", &self.try_cast(moved(self))?, index, axis)?;
        let index = index_i32("gather", index)?;
        record(Arc::new(Gather { axis, unique: false, asked: Asked::here("gather") }), &[&x, &index])?.try_cast(self.dtype())
    }

    /// As [`gather`](Tensor::gather), with tensor and index broadcast to each other on the other axes. NumPy's `take_along_axis`: what
    /// [`argsort`](Tensor::argsort) gives sorts with it.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![3.0f32, 1.0, 2.0], [1, 3], Device::cpu())?;
    /// let i = x.argsort(1, false);
    /// assert_eq!(x.take_along(1, &i).to_vec::<f32>()?, [1.0, 2.0, 3.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_take_along(&self, axis: isize, index: &Tensor) -> Result<Tensor> {
        let axis = shape::axis("take_along", axis, self.rank())?;
        let (mut a, mut b) = (self.shape().clone(), index.shape().clone());
        if a.rank() == b.rank() {
            (a[axis], b[axis]) = (1, 1);
        }
        let common = a.broadcast(&b).filter(|c| c.rank() == a.rank() && a.rank() == b.rank());
        let Some(mut common) = common else {
            return Err(Error::shape("take_along", &[self.shape(), index.shape()], "one rank, and sizes that broadcast off the axis"));
        };
        common[axis] = self.dims()[axis];
        let x = self.try_expand(&common)?;
        common[axis] = index.dims()[axis];
        asked("take_along", "", || x.try_gather(axis as isize, &index.try_expand(&common)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::movement::testing::*;
    use super::*;

    #[test]
    fn gathers_along_every_axis() {
        for (shape, axis) in SHAPES {
            for count in [0, 1, 4] {
                let l = Lines::new(&shape, axis);
                let mut s = shape;
                s[axis] = count;
                let n = s.iter().product();
                let (x, index) = (numbers(shape.iter().product()), indices(n, l.n));
                let got =
                    run1::<f32>(&Gather { axis, unique: false, asked: Asked::here("gather") }, &[&value(&x, shape), &value(&index, s)]);
                for (i, v) in got.iter().enumerate() {
                    let (o, c) = (i / (count * l.inner), i % l.inner);
                    assert_eq!(*v, x[(o * l.n + index[i] as usize) * l.inner + c], "{shape:?} {axis} {count} {i}");
                }
                assert_eq!(got.len(), n);
            }
        }
    }

    #[test]
    fn bad_indices_read_zero_and_fault() {
        let (outs, fault) =
            run(&Gather { axis: 0, unique: false, asked: Asked::here("gather") }, &[&value(&[1.0f64, 2.0], 2), &value(&[1, -1, 2], 3)])
                .unwrap();
        assert!(fault);
        assert_eq!(outs[0].get::<f64>(), [2.0, 0.0, 0.0]);
    }
}

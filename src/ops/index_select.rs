//! Rows chosen by an index tensor: `index_select` and `embedding`.

use super::movement::{Lines, by_size, computed, each, index_i32, moved_in_runs, par_rows, reads, words, writes};
use super::scatter::{Mode, scatter};
use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::{GpuKernel, Param, Slot};
use crate::graph::asked::{Asked, asked};
use crate::graph::{Along, Cut, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record};
use crate::layout::Layout;
use crate::{DType, Error, Result, Tensor, shape};
use smallvec::smallvec;
use std::ops::Range;
use std::sync::Arc;

/// Output step `k` of `axis` is step `index[k]` of input 0.
#[derive(Debug)]
pub(crate) struct IndexSelect {
    pub axis: usize,
    /// The input holds the steps from `start` on of an axis of `total`; where it is a part, the other steps read 0.
    pub start: usize,
    pub total: usize,
    pub asked: Asked,
}

impl Op for IndexSelect {
    fn name(&self) -> &'static str {
        "index_select"
    }

    fn key(&self, key: &mut Key) {
        key.add(self.axis as u64).add(self.start as u64).add(self.total as u64).add(self.asked.word());
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let (x, index) = (inputs[0], inputs[1]);
        if index.shape().rank() != 1 {
            return Err(Error::shape("index_select", &[x.shape(), index.shape()], "the index has rank 1"));
        }
        if index.dtype != DType::I32 {
            return Err(Error::dtype("index_select", &[x.dtype, index.dtype], "the index is i32"));
        }
        let mut shape = x.shape().clone();
        shape[self.axis] = index.shape()[0];
        if self.total == 0 && shape.numel() > 0 {
            return Err(Error::shape("index_select", &[x.shape(), index.shape()], "an empty axis has nothing to select"));
        }
        shape.checked_numel()?;
        Ok(smallvec![Meta::new(x.dtype, shape)])
    }

    fn saves(&self) -> Saves {
        Saves { inputs: 0b10, outputs: 0 }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let dy = ctx.cotangent()?;
        let (dtype, dy) = (dy.dtype(), &dy.try_cast(computed(dy))?);
        let zeros = Tensor::try_zeros(ctx.inputs[0].shape(), (dy.dtype(), dy.device()))?;
        let op = super::scatter::Scatter {
            axis: self.axis,
            mode: Mode::Add,
            shared: true,
            unique: false,
            start: self.start,
            total: self.total,
            asked: self.asked,
        };
        Ok(vec![Some(scatter(op, &zeros, &ctx.inputs[1], dy)?.try_cast(dtype)?), None])
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        let l = Lines::new(ctx.shape(0), self.axis);
        let index = ctx.input::<i32>(1);
        by_size!(ctx.dtype(0), T => {
            let (x, out) = (ctx.input::<T>(0), ctx.output::<T>(0));
            let place = |k: usize| {
                let i = index[k] as isize;
                if i < 0 || i >= self.total as isize {
                    ctx.fault();
                    return None;
                }
                (i as usize).checked_sub(self.start).filter(|&j| j < l.n)
            };
            if l.inner == 1 {
                par_rows(out, index.len(), |o, out| {
                    let row = &x[o * l.n..][..l.n];
                    out.iter_mut().enumerate().for_each(|(k, y)| *y = place(k).map_or(0, |j| row[j]));
                });
            } else {
                par_rows(out, l.inner, |r, out| {
                    let (o, k) = (r / index.len(), r % index.len());
                    match place(k) {
                        Some(j) => out.copy_from_slice(&x[(o * l.n + j) * l.inner..][..l.inner]),
                        None => out.fill(0),
                    }
                });
            }
            Ok(())
        })
    }

    fn cuts(&self, inputs: &[Meta], outputs: &[Meta]) -> Vec<Cut> {
        let (x, y) = (inputs[0].shape(), outputs[0].shape());
        // Rows of the table; indices; and the other axes.
        let mut cuts = vec![
            Cut::new(x[self.axis], &[Some(self.axis), None], &[Along::One]),
            Cut::new(y[self.axis], &[None, Some(0)], &[Along::axis(self.axis)]),
        ];
        cuts.extend((0..x.rank()).filter(|&d| d != self.axis).map(|d| Cut::new(x[d], &[Some(d), None], &[Along::axis(d)])));
        cuts
    }

    fn part(&self, cut: usize, range: &Range<usize>, _inputs: &[Meta]) -> Option<Arc<dyn Op>> {
        (cut == 0).then(|| Arc::new(IndexSelect { start: self.start + range.start, ..*self }) as _)
    }

    fn asked(&self) -> Option<Asked> {
        Some(self.asked)
    }

    fn index_range(&self, _inputs: &[&Layout]) -> Option<usize> {
        Some(self.total)
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let l = Lines::new(ctx.shape(0), self.axis);
        let dtype = ctx.inputs[0].dtype;
        let (count, n, inner) = (ctx.numel(1), words(ctx.outputs[0].layout.numel(), dtype), words(l.inner, dtype));
        let mut kernel = GpuKernel::default();
        if n > 0 {
            let params = vec![n.into(), count.into(), l.n.into(), inner.into(), self.start.into(), self.total.into(), Param::Fault];
            let bindings = vec![reads(Slot::Input(0)), reads(Slot::Input(1)), writes(Slot::Output(0)), writes(Slot::Fault)];
            kernel.steps.push(each("index_select", include_str!("../../shaders/index_select.wgsl"), n, bindings, params));
        }
        Ok(kernel)
    }
}

#[fornax_derive::fallible]
impl Tensor {
    /// The steps of `axis` that `index` (rank 1 or 0, any integer dtype) names, in its order: `y[.., k, ..] = x[.., index[k], ..]`.
    ///
    /// An index outside `0..dims()[axis]` reads 0 and makes the next read an [`Error::Index`].
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [3, 2], Device::cpu())?;
    /// let i = Tensor::from_vec(vec![2, 0], 2, Device::cpu())?;
    /// assert_eq!(x.index_select(0, &i).to_vec::<f32>()?, [5.0, 6.0, 1.0, 2.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_index_select(&self, axis: isize, index: &Tensor) -> Result<Tensor> {
        let axis = shape::axis("index_select", axis, self.rank())?;
        let index = index_i32("index_select", index)?;
        let index = if index.rank() == 0 { index.try_reshape(1)? } else { index };
        let x = self.try_cast(moved_in_runs(self, &[Lines::new(self.dims(), axis).inner]))?;
        let y =
            record(Arc::new(IndexSelect { axis, start: 0, total: self.dims()[axis], asked: Asked::here("index_select") }), &[&x, &index])?;
        y.try_cast(self.dtype())
    }

    /// The rows of this table `[n, d..]` that `ids` (any shape, any integer dtype) name: the result is `[ids.., d..]`.
    ///
    /// Its gradient adds up the rows of each id in the order of the ids: the same bits each time, on every device.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let table = Tensor::from_vec(vec![0.0f32, 0.1, 1.0, 1.1, 2.0, 2.1], [3, 2], Device::cpu())?;
    /// let ids = Tensor::from_vec(vec![2, 0, 0, 1], [2, 2], Device::cpu())?;
    /// let y = table.embedding(&ids);
    /// assert_eq!(y.dims(), [2, 2, 2]);
    /// assert_eq!(y.to_vec::<f32>()?, [2.0, 2.1, 0.0, 0.1, 0.0, 0.1, 1.0, 1.1]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_embedding(&self, ids: &Tensor) -> Result<Tensor> {
        if self.rank() == 0 {
            return Err(Error::shape("embedding", &[self.shape(), ids.shape()], "the table has at least one axis"));
        }
        let y = asked("embedding", "", || self.try_index_select(0, &ids.try_reshape(ids.numel())?))?;
        let shape: crate::Shape = ids.dims().iter().chain(&self.dims()[1..]).copied().collect();
        y.try_reshape(shape)
    }
}

#[cfg(test)]
mod tests {
    use super::super::movement::testing::*;
    use super::*;

    #[test]
    fn selects_along_every_axis() {
        for (shape, axis) in SHAPES {
            for count in [0, 1, 5, 300] {
                let l = Lines::new(&shape, axis);
                let (x, index) = (numbers(shape.iter().product()), indices(count, l.n));
                let op = IndexSelect { axis, start: 0, total: l.n, asked: Asked::here("index_select") };
                let got = run1::<f32>(&op, &[&value(&x, shape), &value(&index, count)]);
                let mut expected = Vec::new();
                for o in 0..l.outer {
                    for &j in &index {
                        expected.extend_from_slice(&x[(o * l.n + j as usize) * l.inner..][..l.inner]);
                    }
                }
                assert!(got == expected, "{shape:?} {axis} {count}");
            }
        }
    }

    #[test]
    fn bad_indices_read_zero_and_fault() {
        let op = IndexSelect { axis: 0, start: 0, total: 2, asked: Asked::here("index_select") };
        let (outs, fault) = run(&op, &[&value(&[1u8, 2, 3, 4], [2, 2]), &value(&[1, -1, 2], 3)]).unwrap();
        assert!(fault);
        assert_eq!(outs[0].get::<u8>(), [3, 4, 0, 0, 0, 0]);
        // The rows of another part are no fault.
        let op = IndexSelect { axis: 0, start: 2, total: 4, asked: Asked::here("index_select") };
        assert_eq!(run1::<f64>(&op, &[&value(&[1.0f64, 2.0], 2), &value(&[1, 3, 2, 0], 4)]), [0.0, 2.0, 1.0, 0.0]);
    }
}

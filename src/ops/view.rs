//! Views: the same memory under another layout. They cost nothing; the plan copies where a kernel cannot read the strides.

use super::assemble::assemble;
use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::GpuKernel;
use crate::graph::{Class, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record};
use crate::layout::Layout;
use crate::{Error, Result, Shape, Tensor};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

/// What every view has in common.
macro_rules! view {
    () => {
        fn class(&self) -> Class<'_> {
            Class::View
        }

        fn saves(&self) -> Saves {
            Saves::default()
        }

        fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
            ctx.unsupported()
        }

        fn gpu(&self, _ctx: &GpuCtx) -> Result<GpuKernel> {
            Err(Error::Kernel { op: self.name().into(), message: "a view does no work".into() })
        }
    };
}

fn output(input: &Meta, layout: Layout) -> Result<Outputs> {
    Ok(smallvec![Meta { dtype: input.dtype, layout }])
}

fn one(gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
    Ok(vec![Some(gradient)])
}

/// The input itself, as a node of its own.
#[derive(Debug)]
pub(crate) struct Alias {}

impl Op for Alias {
    view!();

    fn name(&self) -> &'static str {
        "alias"
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        Ok(smallvec![inputs[0].clone()])
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        one(ctx.cotangent()?.clone())
    }
}

/// Axis `k` of the output is axis `order[k]` of the input.
#[derive(Debug)]
pub(crate) struct Permute {
    pub order: SmallVec<[usize; 6]>,
}

impl Op for Permute {
    view!();

    fn name(&self) -> &'static str {
        "permute"
    }

    fn key(&self, key: &mut Key) {
        key.list(self.order.iter());
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        output(inputs[0], inputs[0].layout.permute(&self.order))
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let mut inverse: SmallVec<[usize; 6]> = smallvec![0; self.order.len()];
        for (to, &from) in self.order.iter().enumerate() {
            inverse[from] = to;
        }
        one(record(Arc::new(Permute { order: inverse }), &[ctx.cotangent()?])?)
    }
}

/// Broadcasts to `shape`: axes of size 1 stretch, axes in front are added.
#[derive(Debug)]
pub(crate) struct Expand {
    pub shape: Shape,
}

impl Op for Expand {
    view!();

    fn name(&self) -> &'static str {
        "expand"
    }

    fn key(&self, key: &mut Key) {
        key.list(self.shape.iter());
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let from = inputs[0].shape();
        if from.broadcast(&self.shape).as_ref() != Some(&self.shape) {
            let expected = "each axis, counted from the last, must have the new size or 1";
            return Err(Error::shape("expand", &[from, &self.shape], expected));
        }
        self.shape.checked_numel()?;
        output(inputs[0], inputs[0].layout.expand(&self.shape))
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        one(ctx.cotangent()?.try_sum_to(ctx.inputs[0].shape())?)
    }
}

/// Another shape over the same elements in row-major order. The input's strides must be able to express it.
#[derive(Debug)]
pub(crate) struct Reshape {
    pub shape: Shape,
}

impl Op for Reshape {
    view!();

    fn name(&self) -> &'static str {
        "reshape"
    }

    fn key(&self, key: &mut Key) {
        key.list(self.shape.iter());
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let from = inputs[0].shape();
        if self.shape.checked_numel()? != from.numel() {
            let expected = format!("both must have {} elements", from.numel());
            return Err(Error::shape("reshape", &[from, &self.shape], expected));
        }
        match inputs[0].layout.reshape(&self.shape) {
            Some(layout) => output(inputs[0], layout),
            None => Err(Error::shape("reshape", &[from, &self.shape], "strides that can express it: copy with contiguous() first")),
        }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        one(ctx.cotangent()?.try_reshape(ctx.inputs[0].shape())?)
    }
}

/// A part of a tensor: along axis `k`, `lens[k]` elements from `starts[k]` on, `steps[k]` apart. A negative step walks backward.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SliceSpec {
    pub starts: SmallVec<[usize; 6]>,
    pub steps: SmallVec<[isize; 6]>,
    pub lens: Shape,
}

impl SliceSpec {
    /// All of a tensor of this shape.
    pub fn full(shape: &Shape) -> SliceSpec {
        SliceSpec { starts: smallvec![0; shape.rank()], steps: smallvec![1; shape.rank()], lens: shape.clone() }
    }

    /// Narrows one axis.
    pub fn with(mut self, axis: usize, start: usize, step: isize, len: usize) -> SliceSpec {
        self.starts[axis] = if len == 0 { 0 } else { start };
        self.steps[axis] = if len <= 1 { 1 } else { step };
        self.lens[axis] = len;
        self
    }

    /// Whether it takes all of a tensor of this shape, in order.
    pub fn is_full(&self, shape: &Shape) -> bool {
        self.lens == *shape && self.starts.iter().all(|&s| s == 0) && self.steps.iter().all(|&s| s == 1)
    }

    pub fn key(&self, key: &mut Key) {
        key.list(self.starts.iter()).list(self.lens.iter());
        for &s in &self.steps {
            key.add(s as u64);
        }
    }

    /// The layout of the part within a layout.
    pub fn layout(&self, whole: &Layout) -> Layout {
        (0..self.lens.rank()).fold(whole.clone(), |l, a| l.slice(a, self.starts[a], self.steps[a], self.lens[a]))
    }

    /// Whether every element of the part lies inside `shape`.
    pub fn fits(&self, shape: &Shape) -> bool {
        shape.rank() == self.lens.rank()
            && (0..shape.rank()).all(|a| {
                let (n, start) = (self.lens[a], self.starts[a] as i128);
                let last = start + (n as i128 - 1) * self.steps[a] as i128;
                n == 0 || (start < shape[a] as i128 && (0..shape[a] as i128).contains(&last) && (n == 1 || self.steps[a] != 0))
            })
    }
}

/// A part of the input.
#[derive(Debug)]
pub(crate) struct Slice {
    pub spec: SliceSpec,
}

impl Slice {
    /// Records the part of a tensor; a part that is the whole is the tensor itself.
    pub fn record(x: &Tensor, spec: SliceSpec) -> Result<Tensor> {
        if spec.is_full(x.shape()) {
            return Ok(x.clone());
        }
        record(Arc::new(Slice { spec }), &[x])
    }
}

impl Op for Slice {
    view!();

    fn name(&self) -> &'static str {
        "slice"
    }

    fn key(&self, key: &mut Key) {
        self.spec.key(key);
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        if !self.spec.fits(inputs[0].shape()) {
            return Err(Error::shape("slice", &[inputs[0].shape()], format!("{:?} must lie inside it", self.spec)));
        }
        output(inputs[0], self.spec.layout(&inputs[0].layout))
    }

    fn slice_spec(&self) -> Option<&SliceSpec> {
        Some(&self.spec)
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        one(assemble(ctx.inputs[0].shape(), &[(&self.spec, ctx.cotangent()?)])?)
    }
}

/// Overlapping windows: `axis` becomes two axes, the window's position and the place in it.
#[derive(Debug)]
pub(crate) struct Windows {
    pub axis: usize,
    pub size: usize,
    pub step: usize,
    pub dilation: usize,
}

impl Op for Windows {
    view!();

    fn name(&self) -> &'static str {
        "windows"
    }

    fn key(&self, key: &mut Key) {
        key.list([self.axis, self.size, self.step, self.dilation].iter());
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        output(inputs[0], inputs[0].layout.windows(self.axis, self.size, self.step, self.dilation))
    }

    /// The gradient is laid out slice by slice: place `k` of all windows is one strided part of the input, and so is all of window `p`.
    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (g, shape) = (ctx.cotangent()?, ctx.inputs[0].shape());
        let (count, size) = (g.dims()[self.axis], self.size);
        let full = SliceSpec::full(shape);
        let by_place = size <= count;
        let (n, stride, step, len) =
            if by_place { (size, self.dilation, self.step, count) } else { (count, self.step, self.dilation, size) };
        let specs: Vec<SliceSpec> = (0..n).map(|i| full.clone().with(self.axis, i * stride, step as isize, len)).collect();
        let along = self.axis + by_place as usize;
        let parts = (0..n).map(|i| g.try_select(along as isize, i as isize)).collect::<Result<Vec<_>>>()?;
        if n == 0 {
            return one(g.try_sum_to(&Shape::default())?.try_expand(shape)?);
        }
        one(assemble(shape, &specs.iter().zip(&parts).collect::<Vec<_>>())?)
    }
}

/// Start and length of a Python slice `start:end:step` of an axis of `size`.
pub(crate) fn python_slice(size: usize, start: isize, end: isize, step: isize) -> (usize, usize) {
    let n = size as isize;
    let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let clamp = |i: isize| if i < 0 { i.saturating_add(n).max(low) } else { i.min(high) };
    let (start, end) = (clamp(start), clamp(end));
    let span = if step > 0 { end - start } else { start - end };
    let len = if span <= 0 { 0 } else { (span as usize).div_ceil(step.unsigned_abs()) };
    (if len == 0 { 0 } else { start as usize }, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_slices() {
        let list = |n, s, e, step| -> Vec<isize> {
            let (start, len) = python_slice(n, s, e, step);
            (0..len as isize).map(|i| start as isize + i * step).collect()
        };
        assert_eq!(list(5, 0, isize::MAX, 1), [0, 1, 2, 3, 4]);
        assert_eq!(list(5, -2, isize::MAX, 1), [3, 4]);
        assert_eq!(list(5, 1, -1, 2), [1, 3]);
        assert_eq!(list(5, isize::MAX, isize::MIN, -2), [4, 2, 0]);
        assert_eq!(list(5, -1, -3, -1), [4, 3]);
        assert_eq!(list(5, 3, 3, 1), [0isize; 0]);
        assert_eq!(list(5, 4, 1, 1), [0isize; 0]);
        assert_eq!(list(0, isize::MAX, isize::MIN, -1), [0isize; 0]);
        assert_eq!(list(5, 9, 20, 1), [0isize; 0]);
        assert_eq!(list(5, 0, isize::MAX, isize::MAX), [0]);
        assert_eq!(list(5, isize::MIN, isize::MAX, 3), [0, 3]);
    }

    #[test]
    fn slices_fit_or_not() {
        let shape = Shape::from([4, 5]);
        let full = SliceSpec::full(&shape);
        assert!(full.fits(&shape) && full.is_full(&shape));
        assert!(full.clone().with(1, 4, -1, 5).fits(&shape));
        assert!(!full.clone().with(1, 3, -1, 5).fits(&shape));
        assert!(!full.clone().with(0, 4, 1, 1).fits(&shape));
        assert!(full.with(0, 7, 1, 0).fits(&shape));
    }
}

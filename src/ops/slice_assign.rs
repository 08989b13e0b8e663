//! A tensor with a block of it replaced.

use super::movement::by_size;
use super::movement::{copy_input, each, moved, moved_in_runs, output_from_input, par_each, reads, words, writes};
use crate::backend::cpu::CpuCtx;
use crate::backend::cpu::threads::Shared;
use crate::codegen::dispatch::{GpuKernel, Param, Slot};
use crate::graph::{Along, Cut, GpuCtx, Meta, Op, Outputs, Saves, Vjp, record};
use crate::layout::row_major;
use crate::{DType, Error, Result, Scalar, Shape, Tensor, shape};
use smallvec::{SmallVec, smallvec};
use std::ops::Range;
use std::sync::Arc;

/// Input 0 with the block of input 1's shape at `starts` replaced by input 1. The starts are scalars: a cache that grows by a token a step
/// keeps its plan.
#[derive(Debug)]
pub(crate) struct SliceAssign {
    pub starts: SmallVec<[Scalar; 6]>,
    /// On the GPU, for a part of the tensor: see `first`.
    part: SmallVec<[Option<usize>; 6]>,
}

impl SliceAssign {
    fn new(starts: SmallVec<[Scalar; 6]>) -> SliceAssign {
        SliceAssign { starts, part: SmallVec::new() }
    }

    /// The first place of a part along an axis, where the tensor was cut there and the block was not.
    fn first(&self, axis: usize) -> Option<usize> {
        self.part.get(axis).copied().flatten()
    }

    fn start(&self, axis: usize) -> usize {
        self.starts[axis].as_i64() as usize
    }
}

impl Op for SliceAssign {
    fn name(&self) -> &'static str {
        "slice_assign"
    }

    fn scalars(&self) -> &[Scalar] {
        &self.starts
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let (x, v) = (inputs[0], inputs[1]);
        if x.dtype != v.dtype {
            return Err(Error::dtype("slice_assign", &[x.dtype, v.dtype], "tensor and value have one dtype"));
        }
        let fits = x.shape().rank() == v.shape().rank()
            && (0..v.shape().rank()).all(|k| self.start(k).checked_add(v.shape()[k]).is_some_and(|end| end <= x.shape()[k]));
        if !fits {
            let starts: Vec<i64> = self.starts.iter().map(|s| s.as_i64()).collect();
            let expected = format!("the value, placed at {starts:?}, must lie inside the tensor");
            return Err(Error::shape("slice_assign", &[x.shape(), v.shape()], expected));
        }
        Ok(smallvec![Meta::new(x.dtype, x.shape())])
    }

    fn saves(&self) -> Saves {
        Saves::default()
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let dy = ctx.cotangent()?;
        let value = &ctx.inputs[1];
        let dx = match ctx.needs[0] {
            true => {
                let zeros = Tensor::try_zeros(value.shape(), (dy.dtype(), dy.device()))?;
                Some(record(Arc::new(SliceAssign::new(self.starts.clone())), &[dy, &zeros])?)
            }
            false => None,
        };
        let dv = match ctx.needs[1] {
            true => {
                let mut part = dy.clone();
                for k in 0..value.rank() {
                    part = part.try_narrow(k as isize, self.start(k), value.dims()[k])?;
                }
                Some(part)
            }
            false => None,
        };
        Ok(vec![dx, dv])
    }

    fn donates(&self) -> &[(usize, usize)] {
        &[(0, 0)]
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        by_size!(ctx.dtype(0), T => {
            let out = output_from_input::<T>(ctx);
            let value = ctx.input::<T>(1);
            let (size, block) = (ctx.shape(0), ctx.shape(1));
            if value.is_empty() {
                return Ok(());
            }
            let strides = row_major(size);
            let start = |k: usize| ctx.scalars[k].as_i64() as usize;
            // Trailing axes that the block fills join into one run, with the axis before them.
            let mut first = size.len();
            while first > 0 && (first == size.len() || block[first] == size[first]) {
                first -= 1;
            }
            let run: usize = block[first..].iter().product();
            let base: usize = (0..size.len()).map(|k| start(k) * strides[k] as usize).sum();
            let shared = Shared::new(out);
            par_each(value.len() / run, value.len(), |r| {
                let (mut rest, mut at) = (r, base);
                for k in (0..first).rev() {
                    at += rest % block[k] * strides[k] as usize;
                    rest /= block[k];
                }
                // SAFETY: different runs of the block lie at different places.
                unsafe { shared.slice(at, run) }.copy_from_slice(&value[r * run..][..run]);
            });
            Ok(())
        })
    }

    fn cuts(&self, inputs: &[Meta], _outputs: &[Meta]) -> Vec<Cut> {
        let (x, v) = (inputs[0].shape(), inputs[1].shape());
        // Along an axis that the block does not fill every part looks at the whole block: where it lies is known at run time only.
        let fills = |d: usize| self.first(d).is_none() && x[d] == v[d];
        let cut = |d: usize| Cut::new(x[d], &[Some(d), if fills(d) { Some(d) } else { None }], &[Along::axis(d)]);
        (0..x.rank()).map(cut).collect()
    }

    fn part(&self, axis: usize, range: &Range<usize>, inputs: &[Meta]) -> Option<Arc<dyn Op>> {
        let (x, v) = (inputs[0].shape(), inputs[1].shape());
        let mut part: SmallVec<[Option<usize>; 6]> = (0..x.rank()).map(|d| self.first(d)).collect();
        if part[axis].is_some() || x[axis] != v[axis] {
            part[axis] = Some(part[axis].unwrap_or(0) + range.start);
        }
        Some(Arc::new(SliceAssign { starts: self.starts.clone(), part }))
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        // Small elements come in rows that are whole words: see `assign`.
        let dtype = ctx.inputs[0].dtype;
        let in_words = |shape: &[usize]| -> Shape {
            let last = shape.len().wrapping_sub(1);
            shape.iter().enumerate().map(|(k, &n)| if k == last { words(n, dtype) } else { n }).collect()
        };
        let (size, block) = (in_words(ctx.shape(0)), in_words(ctx.shape(1)));
        let mut kernel = GpuKernel::default();
        if ctx.numel(0) == 0 {
            return Ok(kernel);
        }
        kernel.steps.push(copy_input(size.numel()));
        let n = block.numel();
        if n == 0 {
            return Ok(kernel);
        }
        let strides = row_major(&size);
        let mut params: Vec<Param> = vec![n.into(), size.first().copied().unwrap_or(1).into(), 0u32.into(), 0u32.into()];
        for k in 0..size.len() {
            let first = self.first(k).unwrap_or(0);
            params.extend([block[k].into(), (strides[k] as u32).into(), Param::Scalar { index: k, dtype: DType::U32 }, first.into()]);
        }
        if size.is_empty() {
            params.extend([1u32, 1, 0, 0].map(Param::from));
        }
        let rank = size.len().max(1).to_string();
        let mut defines = vec![("RANK", rank.as_str())];
        defines.extend(self.part.iter().any(Option::is_some).then_some(("PART", "")));
        let source = crate::codegen::wgsl::preprocess(include_str!("../../shaders/slice_assign.wgsl"), &defines);
        kernel.steps.push(each("slice_assign", source, n, vec![reads(Slot::Input(1)), writes(Slot::Output(0))], params));
        Ok(kernel)
    }
}

/// Records the assignment at any starts, through the dtype that the device can move.
fn assign(x: &Tensor, starts: SmallVec<[Scalar; 6]>, value: &Tensor) -> Result<Tensor> {
    let dtype = x.dtype();
    // Whole rows of whole words move as they are: a cache of f16 is written in place.
    let via = match (x.dims().last(), value.dims().last()) {
        (Some(&a), Some(&b)) if a == b => moved_in_runs(x, &[a]),
        _ => moved(x),
    };
    let value = value.try_cast(dtype)?.try_cast(via)?;
    record(Arc::new(SliceAssign::new(starts)), &[&x.try_cast(via)?, &value])?.try_cast(dtype)
}

#[fornax_derive::fallible]
impl Tensor {
    /// This tensor with the block at `ranges` (one an axis, from the first; missing ones mean the whole axis) replaced by `value`, which
    /// is broadcast to the block and cast to this dtype. Where nothing else holds this tensor, the change is made in place.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::zeros([2, 3], Device::cpu());
    /// let y = x.slice_assign(&[0..2, 1..2], &Tensor::ones([1, 1], Device::cpu()));
    /// assert_eq!(y.to_vec::<f32>()?, [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_slice_assign(&self, ranges: &[Range<usize>], value: &Tensor) -> Result<Tensor> {
        if ranges.len() > self.rank() {
            let message = format!("{} ranges for rank {}: at most one an axis", ranges.len(), self.rank());
            return Err(Error::argument("slice_assign", message));
        }
        let mut block = self.shape().clone();
        let mut starts: SmallVec<[Scalar; 6]> = SmallVec::from_elem(Scalar::Int(0), self.rank());
        for (k, r) in ranges.iter().enumerate() {
            if r.start > r.end || r.end > self.dims()[k] {
                let message = format!("range {r:?} does not lie in axis {k} of size {}", self.dims()[k]);
                return Err(Error::Index { op: "slice_assign", message });
            }
            block[k] = r.len();
            starts[k] = r.start.into();
        }
        assign(self, starts, &value.try_expand(block)?)
    }

    /// This tensor with `value.dims()[axis]` steps of `axis`, from `start` on, replaced by `value`, whose other sizes equal this tensor's.
    /// The start is no part of a plan's key: writing a cache token by token replays one plan, and in place where nothing else holds it.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let mut cache = Tensor::zeros([4, 2], Device::cpu());
    /// for step in 0..3 {
    ///     cache = cache.slice_assign_at(0, step, &Tensor::ones([1, 2], Device::cpu()));
    /// }
    /// assert_eq!(cache.to_vec::<f32>()?, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_slice_assign_at(&self, axis: isize, start: usize, value: &Tensor) -> Result<Tensor> {
        let axis = shape::axis("slice_assign_at", axis, self.rank())?;
        let mut starts: SmallVec<[Scalar; 6]> = SmallVec::from_elem(Scalar::Int(0), self.rank());
        starts[axis] = start.into();
        assign(self, starts, value)
    }
}

#[cfg(test)]
mod tests {
    use super::super::movement::testing::*;
    use super::*;

    fn op(starts: &[usize]) -> SliceAssign {
        SliceAssign::new(starts.iter().map(|&s| s.into()).collect())
    }

    #[test]
    fn writes_the_block_and_nothing_else() {
        for (size, block, starts) in [
            (vec![4, 5, 6], vec![2, 3, 6], vec![1, 2, 0]),
            (vec![4, 5, 6], vec![4, 5, 6], vec![0, 0, 0]),
            (vec![4, 5, 6], vec![1, 5, 2], vec![3, 0, 4]),
            (vec![4, 5, 6], vec![0, 5, 2], vec![3, 0, 4]),
            (vec![90, 70, 30], vec![60, 69, 29], vec![30, 1, 1]),
            (vec![], vec![], vec![]),
        ] {
            let (n, m) = (size.iter().product(), block.iter().product());
            let (x, v) = (numbers(n), numbers(m).iter().map(|v| v + 5.0).collect::<Vec<_>>());
            let got = run1::<f32>(&op(&starts), &[&value(&x, size.clone()), &value(&v, block.clone())]);
            let mut expected = x;
            let strides = row_major(&size);
            for (i, v) in v.iter().enumerate() {
                let (mut rest, mut at) = (i, 0);
                for k in (0..size.len()).rev() {
                    at += (rest % block[k] + starts[k]) * strides[k] as usize;
                    rest /= block[k];
                }
                expected[at] = *v;
            }
            assert!(got == expected, "{size:?} {block:?} {starts:?}");
        }
    }

    #[test]
    fn refuses_a_block_outside() {
        let (x, v) = (Meta::new(DType::F32, [4, 5]), Meta::new(DType::F32, [2, 5]));
        assert!(op(&[2, 0]).infer(&[&x, &v]).is_ok());
        assert!(op(&[3, 0]).infer(&[&x, &v]).is_err());
        assert!(op(&[usize::MAX, 0]).infer(&[&x, &v]).is_err());
    }
}

//! Padding: with a constant, by reflection, by the edge, or around.

use super::movement::{by_size, each, moved, par_rows, reads, writes};
use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::{GpuKernel, Param, Slot};
use crate::graph::{Along, Cut, GpuCtx, Key, Meta, Op, Outputs, Saves, Span, Vjp, record};
use crate::layout::row_major;
use crate::{DType, Error, Result, Scalar, Tensor};
use smallvec::{SmallVec, smallvec};
use std::ops::Range;
use std::sync::Arc;

/// What stands in the padding.
///
/// ```
/// use fornax::{Device, PadMode, Tensor};
/// let x = Tensor::ones([1, 2], Device::cpu());
/// assert_eq!(x.pad(&[(0, 1)], PadMode::Constant(7.0)).to_vec::<f32>()?, [1.0, 1.0, 7.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PadMode {
    /// This number.
    Constant(f64),
    /// The elements mirrored at the edge, the edge itself not repeated: `3 2 | 1 2 3 | 2 1`. Each pad is smaller than the axis.
    Reflect,
    /// The edge element.
    Replicate,
    /// The elements from the other end. Each pad is at most the axis.
    Circular,
}

/// Constant padding: (before, after) for each axis.
#[derive(Debug)]
pub(crate) struct Pad {
    pads: SmallVec<[(usize, usize); 6]>,
    value: [Scalar; 1],
}

impl Op for Pad {
    fn name(&self) -> &'static str {
        "pad"
    }

    fn key(&self, key: &mut Key) {
        for &(before, after) in &self.pads {
            key.add(before as u64).add(after as u64);
        }
    }

    fn scalars(&self) -> &[Scalar] {
        &self.value
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let x = inputs[0];
        let size = |(&n, &(a, b)): (&usize, &(usize, usize))| a.checked_add(b).and_then(|p| p.checked_add(n));
        let shape: Option<crate::Shape> = x.shape().iter().zip(&self.pads).map(size).collect();
        let shape = shape.ok_or_else(|| Error::argument("pad", "the padded size overflows"))?;
        shape.checked_numel()?;
        Ok(smallvec![Meta::new(x.dtype, shape)])
    }

    fn saves(&self) -> Saves {
        Saves::default()
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let mut dx = ctx.cotangent()?.clone();
        for (k, &(before, _)) in self.pads.iter().enumerate() {
            dx = dx.try_narrow(k as isize, before, ctx.inputs[0].dims()[k])?;
        }
        Ok(vec![Some(dx)])
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        let value = ctx.scalars[0];
        let bits: u64 = match ctx.dtype(0) {
            DType::F64 => value.as_f64().to_bits(),
            DType::F16 => half::f16::from_f64(value.as_f64()).to_bits() as u64,
            DType::BF16 => half::bf16::from_f64(value.as_f64()).to_bits() as u64,
            DType::I64 => value.as_i64() as u64,
            d => value.word(d) as u64,
        };
        by_size!(ctx.dtype(0), T => {
            let (x, out) = (ctx.input::<T>(0), ctx.output::<T>(0));
            let (size, padded) = (ctx.shape(0), ctx.out_shape(0));
            let fill = bits as T;
            let rank = size.len();
            if rank == 0 {
                out.copy_from_slice(x);
                return Ok(());
            }
            let (row, len, before) = (padded[rank - 1], size[rank - 1], self.pads[rank - 1].0);
            par_rows(out, row, |r, out| {
                let (mut rest, mut from, mut stride) = (r, 0, len);
                for k in (0..rank - 1).rev() {
                    let i = (rest % padded[k]).wrapping_sub(self.pads[k].0);
                    if i >= size[k] {
                        return out.fill(fill);
                    }
                    from += i * stride;
                    stride *= size[k];
                    rest /= padded[k];
                }
                out[..before].fill(fill);
                out[before..before + len].copy_from_slice(&x[from..from + len]);
                out[before + len..].fill(fill);
            });
            Ok(())
        })
    }

    fn cuts(&self, _inputs: &[Meta], outputs: &[Meta]) -> Vec<Cut> {
        let y = outputs[0].shape();
        let span = |d: usize| Some(Span { axis: d, scale: 1, shift: -(self.pads[d].0 as isize) });
        let cut = |d| Cut { len: y[d], inputs: smallvec![span(d)], outputs: smallvec![Along::axis(d)] };
        (0..y.rank()).map(cut).collect()
    }

    fn part(&self, axis: usize, range: &Range<usize>, _inputs: &[Meta]) -> Option<Arc<dyn Op>> {
        let mut pads = self.pads.clone();
        pads[axis].0 = pads[axis].0.saturating_sub(range.start);
        Some(Arc::new(Pad { pads, value: self.value }))
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let (size, out) = (ctx.shape(0), &ctx.outputs[0].layout.shape);
        let n = out.numel();
        let mut kernel = GpuKernel::default();
        if n == 0 {
            return Ok(kernel);
        }
        let strides = row_major(size);
        let dtype = ctx.inputs[0].dtype;
        let mut params: Vec<Param> = vec![n.into(), Param::Scalar { index: 0, dtype }, 0u32.into(), 0u32.into()];
        for k in 0..size.len() {
            params.extend([out[k].into(), self.pads[k].0.into(), size[k].into(), Param::Word(strides[k] as u32)]);
        }
        if size.is_empty() {
            params.extend([1u32, 0, 1, 1].map(Param::from));
        }
        let rank = size.len().max(1).to_string();
        let source = crate::codegen::wgsl::preprocess(include_str!("../../shaders/pad.wgsl"), &[("RANK", &rank)]);
        kernel.steps.push(each("pad", source, n, vec![reads(Slot::Input(0)), writes(Slot::Output(0))], params));
        Ok(kernel)
    }
}

/// One axis of reflection, replication or wrapping: views of the edges, joined.
fn pad_axis(x: &Tensor, axis: usize, (before, after): (usize, usize), mode: PadMode) -> Result<Tensor> {
    let (n, a) = (x.dims()[axis], axis as isize);
    if before == 0 && after == 0 {
        return Ok(x.clone());
    }
    let limit = match mode {
        PadMode::Reflect => n.saturating_sub(1),
        PadMode::Circular => n,
        _ => usize::MAX,
    };
    if before > limit || after > limit || n == 0 {
        let message = format!("pads ({before}, {after}) of axis {axis} with size {n}: {mode:?} takes at most {limit} of a non-empty axis");
        return Err(Error::argument("pad", message));
    }
    let edge = |at: usize, count: usize| {
        let mut shape = x.shape().clone();
        shape[axis] = count;
        x.try_narrow(a, at, 1)?.try_expand(shape)
    };
    let (left, right) = match mode {
        PadMode::Reflect => (x.try_narrow(a, 1, before)?.try_flip(a)?, x.try_narrow(a, n - 1 - after, after)?.try_flip(a)?),
        PadMode::Circular => (x.try_narrow(a, n - before, before)?, x.try_narrow(a, 0, after)?),
        _ => (edge(0, before)?, edge(n - 1, after)?),
    };
    let parts: SmallVec<[&Tensor; 3]> = [(&left, before), (x, 1), (&right, after)].into_iter().filter(|p| p.1 > 0).map(|p| p.0).collect();
    Tensor::try_cat(&parts, a)
}

#[fornax_derive::fallible]
impl Tensor {
    /// This tensor with room around it: `pads` gives (before, after) for the *last* axes, in the order of the axes; the axes before those
    /// are not padded. So `&[(1, 1), (2, 2)]` on `[n, c, h, w]` makes `[n, c, h + 2, w + 4]`.
    ///
    /// ```
    /// use fornax::{Device, PadMode, Tensor};
    /// let x = Tensor::from_vec(vec![1.0f32, 2.0, 3.0], 3, Device::cpu())?;
    /// assert_eq!(x.pad(&[(1, 2)], PadMode::Constant(0.0)).to_vec::<f32>()?, [0.0, 1.0, 2.0, 3.0, 0.0, 0.0]);
    /// assert_eq!(x.pad(&[(2, 1)], PadMode::Reflect).to_vec::<f32>()?, [3.0, 2.0, 1.0, 2.0, 3.0, 2.0]);
    /// assert_eq!(x.pad(&[(2, 1)], PadMode::Replicate).to_vec::<f32>()?, [1.0, 1.0, 1.0, 2.0, 3.0, 3.0]);
    /// assert_eq!(x.pad(&[(2, 1)], PadMode::Circular).to_vec::<f32>()?, [2.0, 3.0, 1.0, 2.0, 3.0, 1.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_pad(&self, pads: &[(usize, usize)], mode: PadMode) -> Result<Tensor> {
        if pads.len() > self.rank() {
            let message = format!("{} pairs for rank {}: at most one (before, after) an axis", pads.len(), self.rank());
            return Err(Error::argument("pad", message));
        }
        let first = self.rank() - pads.len();
        let PadMode::Constant(value) = mode else {
            let mut x = self.clone();
            for (k, &p) in pads.iter().enumerate() {
                x = pad_axis(&x, first + k, p, mode)?;
            }
            return Ok(x);
        };
        if pads.iter().all(|&p| p == (0, 0)) {
            return Ok(self.clone());
        }
        let mut all: SmallVec<[(usize, usize); 6]> = SmallVec::from_elem((0, 0), first);
        all.extend_from_slice(pads);
        let value = Scalar::from(value).fit("pad", self.dtype())?;
        let x = self.try_cast(moved(self))?;
        record(Arc::new(Pad { pads: all, value: [value] }), &[&x])?.try_cast(self.dtype())
    }
}

#[cfg(test)]
mod tests {
    use super::super::movement::testing::*;
    use super::*;

    #[test]
    fn fills_around() {
        for (size, pads) in [
            (vec![3, 4], vec![(1, 2), (0, 3)]),
            (vec![2, 3, 4], vec![(0, 0), (2, 0), (1, 1)]),
            (vec![0, 2], vec![(1, 1), (0, 1)]),
            (vec![50, 60, 30], vec![(3, 1), (0, 0), (2, 5)]),
            (vec![], vec![]),
        ] {
            let x = numbers(size.iter().product());
            let op = Pad { pads: pads.iter().copied().collect(), value: [7.5.into()] };
            let got = run1::<f32>(&op, &[&value(&x, size.clone())]);
            let padded: Vec<usize> = size.iter().zip(&pads).map(|(n, (a, b))| n + a + b).collect();
            let strides = row_major(&size);
            let expected: Vec<f32> = (0..padded.iter().product())
                .map(|i| {
                    let (mut rest, mut at, mut inside) = (i, 0, true);
                    for k in (0..size.len()).rev() {
                        let c = (rest % padded[k]) as isize - pads[k].0 as isize;
                        inside &= c >= 0 && (c as usize) < size[k];
                        at += c * strides[k];
                        rest /= padded[k];
                    }
                    if inside { x[at as usize] } else { 7.5 }
                })
                .collect();
            assert!(got == expected, "{size:?} {pads:?}");
        }
    }

    #[test]
    fn fills_bytes_and_doubles() {
        let op = Pad { pads: smallvec![(1, 0)], value: [3.0.into()] };
        assert_eq!(run1::<u8>(&op, &[&value(&[1u8, 2], 2)]), [3, 1, 2]);
        assert_eq!(run1::<f64>(&op, &[&value(&[1f64, 2.0], 2)]), [3.0, 1.0, 2.0]);
        assert_eq!(run1::<i64>(&op, &[&value(&[1i64, 2], 2)]), [3, 1, 2]);
    }
}

//! Batch norm: the fused kernel of training and its fused backward; with running statistics it is pointwise. Also the GPU's sums over
//! channels, which the other norms use for the gradients of weight and bias.

use super::norm::{check_affine, check_pair};
use super::rows::{bind, like, to_compute, variant};
use crate::autograd::vjp_by_decomposition;
use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::{Binding, Dispatch, GpuKernel, GpuStep, Param, Slot, grid};
use crate::graph::{Along, Cut, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record_all};
use crate::{DType, Error, Result, Scalar, Shape, Tensor};
use smallvec::smallvec;
use std::sync::Arc;

/// From (x, weight?, bias?) to (y, mean, var): the latter are auxiliary, of shape [C]; the variance is the biased one.
#[derive(Clone, Debug)]
pub(super) struct BatchNorm {
    pub weight: bool,
    pub bias: bool,
    pub eps: [Scalar; 1],
}

/// From (dy, x, mean, var, weight?) to those of (dx, dweight, dbias) that are wanted.
#[derive(Clone, Debug)]
pub(super) struct BatchNormBackward {
    pub weight: bool,
    pub dx: bool,
    pub dw: bool,
    pub db: bool,
    pub eps: [Scalar; 1],
}

const OP: &str = "batch_norm";

#[fornax_derive::fallible]
impl Tensor {
    /// Batch norm of `[N, C, …]` with given statistics, as in evaluation: y = (x - mean) / √(var + eps) · weight + bias, where all four are
    /// of shape `[C]` (Ioffe, Szegedy, 2015). It is made of pointwise ops, so that it fuses with its neighbours.
    ///
    /// # Errors
    /// `Error::Shape` for rank below 2 or a statistic, weight or bias that is not `[C]`; `Error::DType` for an integer dtype.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let cpu = Device::cpu();
    /// let x = Tensor::from_vec(vec![1.0f32, 5.0], [1, 2], cpu)?;
    /// let mean = Tensor::from_vec(vec![0.0f32, 3.0], 2, cpu)?;
    /// let var = Tensor::from_vec(vec![1.0f32, 4.0], 2, cpu)?;
    /// assert_eq!(x.batch_norm(&mean, &var, None, None, 0.0).to_vec::<f32>()?, [1.0, 1.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_batch_norm(&self, mean: &Tensor, var: &Tensor, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
        let c = Channels::of(self)?.channels;
        check_pair(OP, &c.into(), [(Some(mean), "running mean"), (Some(var), "running variance")])?;
        check_affine(OP, &c.into(), weight, bias)?;
        let x = to_compute(OP, self)?;
        let spread = |t: &Tensor| like(t, x.dtype());
        let mut scale = spread(var)?.try_add(eps)?.try_rsqrt()?;
        if let Some(w) = weight {
            scale = scale.try_mul(spread(w)?)?;
        }
        let shift = spread(mean)?.try_mul(&scale)?;
        let shift = match bias {
            Some(b) => spread(b)?.try_sub(shift)?,
            None => shift.try_neg()?,
        };
        let shape = channel_shape(c, self.rank());
        x.try_mul(scale.try_reshape(&shape)?)?.try_add(shift.try_reshape(&shape)?)?.try_cast(self.dtype())
    }

    /// Batch norm of `[N, C, …]` with the batch's own statistics, as in training. Returns y, and the mean and the biased variance of each
    /// channel, with which the caller updates its running statistics; no gradient flows through these two. (PyTorch's running variance is the
    /// unbiased one: multiply by n / (n - 1), where n is the number of elements of a channel.)
    ///
    /// # Errors
    /// `Error::Shape` for rank below 2, for a weight or bias that is not `[C]`, and where a channel has fewer than two elements.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![1.0f32, 10.0, 3.0, 20.0], [2, 2], Device::cpu())?;
    /// let (y, mean, var) = x.batch_norm_training(None, None, 0.0);
    /// assert_eq!(y.to_vec::<f32>()?, [-1.0, -1.0, 1.0, 1.0]);
    /// assert_eq!(mean.to_vec::<f32>()?, [2.0, 15.0]);
    /// assert_eq!(var.to_vec::<f32>()?, [1.0, 25.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_batch_norm_training(&self, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Result<(Tensor, Tensor, Tensor)> {
        let c = Channels::of(self)?;
        check_affine(OP, &c.channels.into(), weight, bias)?;
        if c.count() < 2 {
            return Err(Error::shape(OP, &[self.shape()], "training needs at least two elements a channel"));
        }
        let x = to_compute(OP, self)?;
        let affine = [weight, bias].into_iter().flatten().map(|t| like(t, x.dtype())).collect::<Result<Vec<_>>>()?;
        let inputs: Vec<&Tensor> = std::iter::once(&x).chain(&affine).collect();
        let op = BatchNorm { weight: weight.is_some(), bias: bias.is_some(), eps: [eps.into()] };
        let outs = record_all(Arc::new(op), &inputs)?;
        Ok((outs[0].try_cast(self.dtype())?, outs[1].clone(), outs[2].clone()))
    }
}

/// [1, C, 1, …].
fn channel_shape(c: usize, rank: usize) -> Shape {
    (0..rank).map(|a| if a == 1 { c } else { 1 }).collect()
}

/// A tensor as outer × channels × inner.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channels {
    pub outer: usize,
    pub channels: usize,
    pub inner: usize,
}

impl Channels {
    fn of(x: &Tensor) -> Result<Channels> {
        if x.rank() < 2 {
            return Err(Error::shape(OP, &[x.shape()], "the input is [N, C, …]"));
        }
        Ok(Channels::from(x.dims()))
    }

    pub fn from(shape: &[usize]) -> Channels {
        Channels { outer: shape[0], channels: shape[1], inner: shape[2..].iter().product() }
    }

    /// Elements of a channel.
    pub fn count(&self) -> usize {
        self.outer * self.inner
    }

    pub fn numel(&self) -> usize {
        self.outer * self.channels * self.inner
    }
}

impl Op for BatchNorm {
    fn name(&self) -> &'static str {
        OP
    }

    fn key(&self, key: &mut Key) {
        key.add(self.weight as u64 | (self.bias as u64) << 1);
    }

    fn scalars(&self) -> &[Scalar] {
        &self.eps
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let x = inputs[0];
        if !matches!(x.dtype, DType::F32 | DType::F64) || inputs.iter().any(|m| m.dtype != x.dtype) {
            return Err(Error::dtype(OP, &inputs.iter().map(|m| m.dtype).collect::<Vec<_>>(), "all f32 or all f64"));
        }
        let stat = Meta::new(x.dtype, x.shape()[1]);
        Ok(smallvec![Meta::new(x.dtype, x.shape()), stat.clone(), stat])
    }

    fn saves(&self) -> Saves {
        Saves { inputs: 1 | (self.weight as u32) << 1, outputs: 0b110 }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (dw, db) = (self.weight && ctx.needs[1], self.bias && ctx.needs[1 + self.weight as usize]);
        let op = BatchNormBackward { weight: self.weight, dx: ctx.needs[0], dw, db, eps: self.eps };
        let mut inputs = vec![ctx.cotangent()?, &ctx.inputs[0], &ctx.outputs[1], &ctx.outputs[2]];
        inputs.extend(self.weight.then(|| &ctx.inputs[1]));
        let mut found = record_all(Arc::new(op), &inputs)?.into_iter();
        let mut take = |on: bool| if on { found.next() } else { None };
        let mut grads = vec![take(ctx.needs[0])];
        if self.weight {
            grads.push(take(dw));
        }
        if self.bias {
            grads.push(take(db));
        }
        Ok(grads)
    }

    fn decompose(&self, inputs: &[Tensor]) -> Option<Result<Vec<Tensor>>> {
        let build = || {
            let x = &inputs[0];
            let (xhat, mean, var, _) = normalized(x, self.eps[0])?;
            let c = mean.numel();
            let mut y = xhat;
            if self.weight {
                y = y.try_mul(inputs[1].try_reshape([c, 1])?)?;
            }
            if self.bias {
                y = y.try_add(inputs[1 + self.weight as usize].try_reshape([c, 1])?)?;
            }
            Ok(vec![y.try_reshape(x.shape())?, mean, var])
        };
        Some(build())
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        match ctx.dtype(0) {
            DType::F32 => self.run::<f32>(ctx),
            DType::F64 => self.run::<f64>(ctx),
            _ => return ctx.unsupported(),
        }
        Ok(())
    }

    fn cuts(&self, inputs: &[Meta], _outputs: &[Meta]) -> Vec<Cut> {
        let ins = [Some(1), Some(0), Some(0)];
        let outs = [Along::axis(1), Along::axis(0), Along::axis(0)];
        vec![Cut::new(inputs[0].shape()[1], &ins[..inputs.len()], &outs)]
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let c = Channels::from(ctx.shape(0));
        let mut kernel = GpuKernel::default();
        if c.channels == 0 {
            return Ok(kernel);
        }
        let (mean, var) = (Slot::Output(1), Slot::Output(2));
        let (s, partial) = splits(&c, &mut kernel);
        let source = variant(include_str!("../../shaders/norm_channels.wgsl"), &[("C", s.side)], &[("STATS", true)]);
        let bindings = bind(&[(Slot::Input(0), false), (partial, true)]);
        kernel.steps.push(GpuStep::Dispatch(s.dispatch("norm_channels", source, bindings, &c, 0, 1)));
        let source = variant(include_str!("../../shaders/norm_channels_end.wgsl"), &[], &[("STATS", true)]);
        let bindings = bind(&[(partial, false), (mean, true), (var, true)]);
        kernel.steps.push(s.end(source, bindings, &c));
        let mut slots = vec![(Slot::Input(0), false), (mean, false), (var, false), (Slot::Output(0), true)];
        slots.extend((1..ctx.inputs.len()).map(|i| (Slot::Input(i), false)));
        let source = variant(
            include_str!("../../shaders/batch_norm.wgsl"),
            &[("B_BIAS", 4 + self.weight as usize)],
            &[("WEIGHT", self.weight), ("BIAS", self.bias)],
        );
        kernel.steps.push(elementwise(OP, source, &slots, &c));
        Ok(kernel)
    }
}

/// x̂ as [N, C, inner], mean and biased variance as [C], rstd as [1, C, 1], by smaller ops.
fn normalized(x: &Tensor, eps: Scalar) -> Result<(Tensor, Tensor, Tensor, Tensor)> {
    let c = Channels::from(x.dims());
    let x = x.try_reshape([c.outer, c.channels, c.inner])?;
    let mean = x.try_mean_keepdim([0, 2])?;
    let d = x.try_sub(&mean)?;
    let var = d.try_square()?.try_mean_keepdim([0, 2])?;
    let rstd = var.try_add(eps)?.try_rsqrt()?;
    Ok((d.try_mul(&rstd)?, mean.try_reshape(c.channels)?, var.try_reshape(c.channels)?, rstd))
}

impl Op for BatchNormBackward {
    fn name(&self) -> &'static str {
        "batch_norm_backward"
    }

    fn key(&self, key: &mut Key) {
        key.add(self.weight as u64 | (self.dx as u64) << 1 | (self.dw as u64) << 2 | (self.db as u64) << 3);
    }

    fn scalars(&self) -> &[Scalar] {
        &self.eps
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let x = inputs[1];
        let mut outs = Outputs::new();
        if self.dx {
            outs.push(Meta::new(x.dtype, x.shape()));
        }
        outs.extend([self.dw, self.db].into_iter().filter(|&on| on).map(|_| Meta::new(x.dtype, x.shape()[1])));
        Ok(outs)
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        vjp_by_decomposition(self, ctx)
    }

    fn decompose(&self, inputs: &[Tensor]) -> Option<Result<Vec<Tensor>>> {
        let build = || {
            let x = &inputs[1];
            // The statistics of the forward op are computed anew: only so do gradients flow through them.
            let (xhat, _, _, rstd) = normalized(x, self.eps[0])?;
            let dy = inputs[0].try_reshape(xhat.shape())?;
            let mut outs = Vec::new();
            if self.dx {
                let g = if self.weight { dy.try_mul(inputs[4].try_reshape([rstd.numel(), 1])?)? } else { dy.clone() };
                let back = xhat.try_mul(g.try_mul(&xhat)?.try_mean_keepdim([0, 2])?)?;
                let dx = g.try_sub(g.try_mean_keepdim([0, 2])?)?.try_sub(back)?.try_mul(&rstd)?;
                outs.push(dx.try_reshape(x.shape())?);
            }
            if self.dw {
                outs.push(dy.try_mul(&xhat)?.try_sum([0, 2])?);
            }
            if self.db {
                outs.push(dy.try_sum([0, 2])?);
            }
            Ok(outs)
        };
        Some(build())
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        match ctx.dtype(0) {
            DType::F32 => self.run::<f32>(ctx),
            DType::F64 => self.run::<f64>(ctx),
            _ => return ctx.unsupported(),
        }
        Ok(())
    }

    fn cuts(&self, inputs: &[Meta], _outputs: &[Meta]) -> Vec<Cut> {
        let ins = [Some(1), Some(1), Some(0), Some(0), Some(0)];
        let mut outs = vec![Along::axis(1); self.dx as usize];
        outs.extend([self.dw, self.db].iter().filter(|&&on| on).map(|_| Along::axis(0)));
        vec![Cut::new(inputs[1].shape()[1], &ins[..inputs.len()], &outs)]
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let c = Channels::from(ctx.shape(1));
        let mut kernel = GpuKernel::default();
        if c.channels == 0 {
            return Ok(kernel);
        }
        let (dy, x, mean, var) = (Slot::Input(0), Slot::Input(1), Slot::Input(2), Slot::Input(3));
        let dw = self.dw.then_some(Slot::Output(self.dx as usize));
        let db = self.db.then_some(Slot::Output(self.dx as usize + self.dw as usize));
        let sums = self.dx.then(|| {
            kernel.temps.push(c.channels * 8);
            Slot::Temp(kernel.temps.len() - 1)
        });
        channel_kernels(c, &mut kernel, dy, x, Some(mean), None, Some((var, sums)), dw, db);
        if let Some(sums) = sums {
            let mut slots = vec![(x, false), (mean, false), (var, false), (Slot::Output(0), true)];
            slots.extend(self.weight.then_some((Slot::Input(4), false)));
            let next = slots.len();
            slots.extend([(dy, false), (sums, false)]);
            let source = variant(
                include_str!("../../shaders/batch_norm.wgsl"),
                &[("B_DY", next), ("B_SUMS", next + 1)],
                &[("BACKWARD", true), ("WEIGHT", self.weight)],
            );
            kernel.steps.push(elementwise(self.name(), source, &slots, &c));
        }
        Ok(kernel)
    }
}

/// A dispatch of batch_norm.wgsl.
fn elementwise(label: &'static str, source: String, slots: &[(Slot, bool)], c: &Channels) -> GpuStep {
    let eps = Param::Scalar { index: 0, dtype: DType::F32 };
    let params = vec![c.numel().into(), c.channels.into(), c.inner.into(), c.count().into(), eps];
    let groups = grid(c.numel().div_ceil(1024));
    GpuStep::Dispatch(Dispatch { label, source: source.into(), bindings: bind(slots), params, groups, flops: 0 })
}

/// How norm_channels.wgsl is cut: channels side by side in a workgroup, and parts of each channel.
struct Splits {
    side: usize,
    blocks: usize,
    splits: usize,
}

/// Cuts, and makes room for the parts.
fn splits(c: &Channels, kernel: &mut GpuKernel) -> (Splits, Slot) {
    let side = if c.inner >= 32 { 1 } else { 32 };
    let blocks = c.channels.div_ceil(side);
    // Enough workgroups to fill a GPU, each with enough to do.
    let splits = (c.count() * side).div_ceil(8192).clamp(1, (1024 / blocks).max(1));
    kernel.temps.push(splits * c.channels * 8);
    (Splits { side, blocks, splits }, Slot::Temp(kernel.temps.len() - 1))
}

impl Splits {
    fn dispatch(
        &self,
        label: &'static str,
        source: String,
        bindings: Vec<Binding>,
        c: &Channels,
        groups: usize,
        per_group: usize,
    ) -> Dispatch {
        let params = [c.channels, c.inner, c.count(), self.splits, groups, per_group, self.blocks].map(Param::from).to_vec();
        Dispatch { label, source: source.into(), bindings, params, groups: grid(self.blocks * self.splits), flops: 0 }
    }

    fn end(&self, source: String, bindings: Vec<Binding>, c: &Channels) -> GpuStep {
        let eps = Param::Scalar { index: 0, dtype: DType::F32 };
        let params = vec![c.channels.into(), c.count().into(), self.splits.into(), eps];
        let groups = grid(c.channels.div_ceil(64));
        GpuStep::Dispatch(Dispatch { label: "norm_channels_end", source: source.into(), bindings, params, groups, flops: 0 })
    }
}

/// Adds the steps for Σ dy and Σ dy·x̂ of each channel to a kernel whose scalar 0 is eps. The mean and rstd are either one a group of channels
/// in each outer element (`per_row`: groups, channels of a group, rstd), or one a channel (`batch`: the variance, and where to leave
/// the pairs).
#[allow(clippy::too_many_arguments)]
pub(super) fn channel_kernels(
    c: Channels,
    kernel: &mut GpuKernel,
    dy: Slot,
    x: Slot,
    mean: Option<Slot>,
    per_row: Option<(usize, usize, Slot)>,
    batch: Option<(Slot, Option<Slot>)>,
    dw: Option<Slot>,
    db: Option<Slot>,
) {
    let (s, partial) = splits(&c, kernel);
    let mut slots = vec![(dy, false), (x, false)];
    slots.extend(mean.map(|m| (m, false)));
    let rstd_at = slots.len();
    slots.extend(per_row.map(|r| (r.2, false)));
    let partial_at = slots.len();
    slots.push((partial, true));
    let source = variant(
        include_str!("../../shaders/norm_channels.wgsl"),
        &[("C", s.side), ("B_RSTD", rstd_at), ("B_PARTIAL", partial_at)],
        &[("MEAN", mean.is_some()), ("RSTD", per_row.is_some())],
    );
    let (groups, per_group) = per_row.map_or((0, 1), |r| (r.0, r.1));
    kernel.steps.push(GpuStep::Dispatch(s.dispatch("norm_channels", source, bind(&slots), &c, groups, per_group)));

    let mut slots = vec![(partial, false)];
    slots.extend(batch.map(|b| (b.0, false)));
    let first = slots.len();
    let sums = batch.and_then(|b| b.1);
    slots.extend([sums, dw, db].into_iter().flatten().map(|s| (s, true)));
    let at_dw = first + sums.is_some() as usize;
    let source = variant(
        include_str!("../../shaders/norm_channels_end.wgsl"),
        &[("B_SUMS", first), ("B_DW", at_dw), ("B_DB", at_dw + dw.is_some() as usize)],
        &[("VARIANCE", batch.is_some()), ("SUMS", sums.is_some()), ("DW", dw.is_some()), ("DB", db.is_some())],
    );
    kernel.steps.push(s.end(source, bind(&slots), &c));
}

#[cfg(test)]
#[path = "batch_norm_tests.rs"]
mod tests;

//! Layer, RMS and group norm: one fused kernel over rows, and its fused backward. (Batch norm is in `batch_norm`.)

use super::batch_norm::{Channels, channel_kernels};
use super::rows::{LANES, Real, bind, for_tasks, gpu_lanes, like, sum_of, to_compute, tree, variant};
use crate::autograd::vjp_by_decomposition;
use crate::backend::cpu::CpuCtx;
use crate::backend::cpu::simd::multiversion;
use crate::backend::cpu::threads::Shared;
use crate::codegen::dispatch::{Dispatch, GpuKernel, GpuStep, Param, Slot, grid};
use crate::graph::{Along, Cut, GpuCtx, Key, Meta, Op, Outputs, Saves, Span, Vjp, record, record_all};
use crate::{DType, Error, Result, Scalar, Shape, Tensor, autocast};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

/// y = (x - mean) · rstd · weight + bias over rows of the row-major input. Row `r` is in group `r % groups`; its element `k` takes weight
/// `(r % groups) · channels + k / inner`. So layer norm has one group and `inner` 1, group norm `channels` a group and `inner` pixels.
#[derive(Clone, Debug)]
struct Norm {
    /// No mean is subtracted.
    rms: bool,
    groups: usize,
    /// Weights of a row.
    channels: usize,
    /// Neighbours that share a weight.
    inner: usize,
    weight: bool,
    bias: bool,
    eps: [Scalar; 1],
}

/// From (dy, x, weight?, mean?, rstd) to those of (dx, dweight, dbias) that are wanted.
#[derive(Clone, Debug)]
struct NormBackward {
    norm: Norm,
    dx: bool,
    dw: bool,
    db: bool,
}

#[fornax_derive::fallible]
impl Tensor {
    /// Layer norm over the last axes, whose sizes are `normalized_shape`: y = (x - mean) / √(var + eps) · weight + bias, with the
    /// biased variance (Ba, Kiros, Hinton, 2016). `weight` and `bias` are of shape `normalized_shape`.
    ///
    /// # Errors
    /// `Error::Shape` where the last axes, the weight or the bias are not of that shape; `Error::DType` for an integer dtype.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![1.0f32, 3.0, 2.0, 6.0], [2, 2], Device::cpu())?;
    /// let y = x.layer_norm([2], None, None, 0.0).to_vec::<f32>()?;
    /// assert_eq!(y, [-1.0, 1.0, -1.0, 1.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_layer_norm(
        &self,
        normalized_shape: impl Into<Shape>,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        eps: f64,
    ) -> Result<Tensor> {
        row_norm("layer_norm", self, normalized_shape.into(), weight, bias, eps)
    }

    /// RMS norm over the last axes: y = x / √(mean(x²) + eps) · weight (Zhang, Sennrich, 2019).
    ///
    /// # Errors
    /// As [`layer_norm`](Tensor::layer_norm).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![3.0f32, 3.0, -3.0], [1, 3], Device::cpu())?;
    /// let y = x.rms_norm([3], None, 0.0).to_vec::<f32>()?;
    /// assert_eq!(y, [1.0, 1.0, -1.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_rms_norm(&self, normalized_shape: impl Into<Shape>, weight: Option<&Tensor>, eps: f64) -> Result<Tensor> {
        row_norm("rms_norm", self, normalized_shape.into(), weight, None, eps)
    }

    /// Group norm of `[N, C, …]`: mean and variance are taken over each of `groups` groups of channels and all places of one sample;
    /// `weight` and `bias` are of shape `[C]` (Wu, He, 2018). With `groups` = C it is instance norm, with 1 layer norm over all channels.
    ///
    /// # Errors
    /// `Error::Shape` for rank below 2 or a weight or bias that is not `[C]`; `Error::Argument` where the groups do not divide C.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![1.0f32, 3.0, 5.0, 5.0], [1, 2, 2], Device::cpu())?;
    /// let y = x.group_norm(2, None, None, 1e-5).to_vec::<f32>()?;
    /// assert!((y[1] - 1.0).abs() < 1e-4 && y[2] == 0.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_group_norm(&self, groups: usize, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
        let op = "group_norm";
        if self.rank() < 2 {
            return Err(Error::shape(op, &[self.shape()], "the input is [N, C, …]"));
        }
        let c = self.dims()[1];
        if groups == 0 || !c.is_multiple_of(groups) {
            return Err(Error::argument(op, format!("{groups} groups do not divide {c} channels")));
        }
        let inner: usize = self.dims()[2..].iter().product();
        if self.numel() > 0 && self.numel() == groups {
            return Err(Error::shape(op, &[self.shape()], format!("more than one value in each of {groups} groups: one has no variance")));
        }
        check_affine(op, &Shape::from(c), weight, bias)?;
        apply(op, self, Norm { rms: false, groups, channels: c / groups, inner, ..Norm::new(weight, bias, eps) }, weight, bias)
    }

    /// Instance norm of `[N, C, …]`: [`group_norm`](Tensor::group_norm) with a group for each channel.
    ///
    /// # Errors
    /// As [`group_norm`](Tensor::group_norm).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 3.0, 10.0, 30.0], [1, 2, 2], Device::cpu())?;
    /// let y = x.instance_norm(None, None, 1e-9).to_vec::<f32>()?;
    /// assert!(y.iter().zip([-1.0, 1.0, -1.0, 1.0]).all(|(y, want)| (y - want).abs() < 1e-5));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_instance_norm(&self, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
        if self.rank() < 2 {
            return Err(Error::shape("instance_norm", &[self.shape()], "the input is [N, C, …]"));
        }
        self.try_group_norm(self.dims()[1].max(1), weight, bias, eps)
    }
}

/// A weight and a bias must be of the given shape.
pub(super) fn check_affine(op: &'static str, want: &Shape, weight: Option<&Tensor>, bias: Option<&Tensor>) -> Result<()> {
    check_pair(op, want, [(weight, "weight"), (bias, "bias")])
}

/// Tensors, where they are given, must be of the given shape.
pub(super) fn check_pair(op: &'static str, want: &Shape, pair: [(Option<&Tensor>, &str); 2]) -> Result<()> {
    for (t, what) in pair {
        if let Some(t) = t
            && t.shape() != want
        {
            return Err(Error::shape(op, &[t.shape()], format!("the {what} is {want}")));
        }
    }
    Ok(())
}

fn row_norm(op: &'static str, x: &Tensor, shape: Shape, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    if shape.rank() == 0 || !x.dims().ends_with(&shape) {
        return Err(Error::shape(op, &[x.shape(), &shape], "the input's last axes are those of normalized_shape (the second)"));
    }
    check_affine(op, &shape, weight, bias)?;
    apply(op, x, Norm { rms: op == "rms_norm", channels: shape.numel(), ..Norm::new(weight, bias, eps) }, weight, bias)
}

fn apply(op: &'static str, x: &Tensor, norm: Norm, weight: Option<&Tensor>, bias: Option<&Tensor>) -> Result<Tensor> {
    let full = autocast::raised(x)?;
    let x = full.as_ref().unwrap_or(x);
    let c = to_compute(op, x)?;
    let affine = [weight, bias].into_iter().flatten().map(|t| like(t, c.dtype())).collect::<Result<Vec<_>>>()?;
    let inputs: Vec<&Tensor> = std::iter::once(&c).chain(&affine).collect();
    record(Arc::new(norm), &inputs)?.try_cast(x.dtype())
}

impl Norm {
    fn new(weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Norm {
        let (weight, bias) = (weight.is_some(), bias.is_some());
        Norm { rms: false, groups: 1, channels: 1, inner: 1, weight, bias, eps: [eps.into()] }
    }

    /// The length of a row.
    fn n(&self) -> usize {
        self.channels * self.inner
    }

    fn rows(&self, numel: usize) -> usize {
        numel.checked_div(self.n()).unwrap_or(0)
    }

    /// The first axis that can be cut, along which the rows are not, and the same ranges of the rows' statistics.
    fn rows_axis(&self, x: &Shape) -> Option<(Span, Span)> {
        let axis = (0..x.rank()).find(|&d| x[d] > 1)?;
        let step = x.numel() / x[axis];
        let whole = self.n() > 0 && step.is_multiple_of(self.n() * self.groups);
        whole.then(|| (Span::from(axis), Span { axis: 0, scale: step / self.n(), shift: 0 }))
    }

    /// The input as channels for the sums over each weight's elements.
    fn as_channels(&self, numel: usize) -> Channels {
        let channels = self.groups * self.channels;
        Channels { outer: self.rows(numel) / self.groups, channels, inner: self.inner }
    }

    /// Normalised rows by smaller ops: (x̂ as [outer, groups, n], mean, rstd as [rows]).
    fn normalized(&self, x: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        let rows = self.rows(x.numel());
        let x = x.try_reshape([rows / self.groups, self.groups, self.n()])?;
        let mean = x.try_mean_keepdim(-1)?;
        let d = if self.rms { x } else { x.try_sub(&mean)? };
        let rstd = d.try_square()?.try_mean_keepdim(-1)?.try_add(self.eps[0])?.try_rsqrt()?;
        Ok((d.try_mul(&rstd)?, mean.try_reshape(rows)?, rstd.try_reshape(rows)?))
    }

    /// A weight as a factor of [outer, groups · channels, inner].
    fn spread(&self, weight: &Tensor) -> Result<Tensor> {
        weight.try_reshape([self.groups * self.channels, 1])
    }

    /// [outer, groups · channels, inner].
    fn split(&self, x: &Tensor) -> Result<Tensor> {
        let c = self.as_channels(x.numel());
        x.try_reshape([c.outer, c.channels, c.inner])
    }

    fn params(&self, numel: usize) -> Vec<Param> {
        vec![self.rows(numel).into(), self.n().into(), self.groups.into(), self.channels.into(), self.inner.into()]
    }

    fn forward<T: Real>(&self, ctx: &CpuCtx) {
        let x = ctx.input::<T>(0);
        let (n, rows) = (self.n(), self.rows(x.len()));
        let count = self.groups * self.channels;
        let (ones, zeros) = (vec![T::ONE; count], vec![T::ZERO; count]);
        let weight = if self.weight { ctx.input::<T>(1) } else { &ones };
        let bias = if self.bias { ctx.input::<T>(1 + self.weight as usize) } else { &zeros };
        let y = &Shared::new(ctx.output::<T>(0));
        let mean = (!self.rms).then(|| Shared::new(ctx.output::<T>(1)));
        let rstd = &Shared::new(ctx.output::<T>(2 - self.rms as usize));
        let eps = T::of(ctx.scalars[0].as_f64());
        let group = ((16 << 10) / n.max(1)).max(1);
        for_tasks(rows.div_ceil(group), x.len(), |t| {
            let (first, len) = (t * group, group.min(rows - t * group));
            // SAFETY: each row is one task's.
            let (y, mean, rstd) = unsafe {
                (y.slice(first * n, len * n), mean.as_ref().map_or(&mut [][..], |m| m.slice(first, len)), rstd.slice(first, len))
            };
            norm_rows(&x[first * n..][..len * n], y, mean, rstd, self, first, weight, bias, eps);
        });
    }
}

multiversion! {
    fn norm_rows[T: Real](x: &[T], y: &mut [T], means: &mut [T], rstds: &mut [T], norm: &Norm, first: usize, weight: &[T], bias: &[T], eps: T) {
        let n = norm.n();
        let scale = T::ONE / T::of(n as f64);
        for (i, (x, y)) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)).enumerate() {
            let mean = if norm.rms { T::ZERO } else { sum_of(x, |v| v) * scale };
            let rstd = T::ONE / (sum_of(x, |v| (v - mean) * (v - mean)) * scale + eps).sqrt();
            if !norm.rms {
                means[i] = mean;
            }
            rstds[i] = rstd;
            let at = (first + i) % norm.groups * norm.channels;
            let (w, b) = (&weight[at..at + norm.channels], &bias[at..at + norm.channels]);
            if norm.inner == 1 {
                for (((y, &v), &w), &b) in y.iter_mut().zip(x).zip(w).zip(b) {
                    *y = (v - mean) * rstd * w + b;
                }
            } else {
                for (((y, x), &w), &b) in y.chunks_exact_mut(norm.inner).zip(x.chunks_exact(norm.inner)).zip(w).zip(b) {
                    y.iter_mut().zip(x).for_each(|(y, &v)| *y = (v - mean) * rstd * w + b);
                }
            }
        }
    }
}

impl Op for Norm {
    fn name(&self) -> &'static str {
        match (self.rms, self.groups, self.inner) {
            (true, ..) => "rms_norm",
            (false, 1, 1) => "layer_norm",
            _ => "group_norm",
        }
    }

    fn key(&self, key: &mut Key) {
        key.add(self.rms as u64 | (self.weight as u64) << 1 | (self.bias as u64) << 2);
        key.list([self.groups, self.channels, self.inner].iter());
    }

    fn scalars(&self) -> &[Scalar] {
        &self.eps
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let x = inputs[0];
        if !matches!(x.dtype, DType::F32 | DType::F64) || inputs.iter().any(|m| m.dtype != x.dtype) {
            return Err(Error::dtype(self.name(), &inputs.iter().map(|m| m.dtype).collect::<Vec<_>>(), "all f32 or all f64"));
        }
        let rows = self.rows(x.layout.numel());
        let stat = Meta::new(x.dtype, rows);
        Ok(if self.rms {
            smallvec![Meta::new(x.dtype, x.shape()), stat]
        } else {
            smallvec![Meta::new(x.dtype, x.shape()), stat.clone(), stat]
        })
    }

    fn saves(&self) -> Saves {
        Saves { inputs: 1 | (self.weight as u32) << 1, outputs: u32::MAX << 1 }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let dy = ctx.cotangent()?;
        let (dw, db) = (self.weight && ctx.needs[1], self.bias && ctx.needs[1 + self.weight as usize]);
        let op = NormBackward { norm: self.clone(), dx: ctx.needs[0], dw, db };
        let inputs: Vec<&Tensor> = std::iter::once(dy).chain(&ctx.inputs[..1 + self.weight as usize]).chain(&ctx.outputs[1..]).collect();
        let mut found = record_all(Arc::new(op), &inputs)?.into_iter();
        let mut grads = vec![if ctx.needs[0] { found.next() } else { None }];
        // The sums over channels are flat; a weight of layer norm may have several axes.
        for (i, on) in [(1, dw), (1 + self.weight as usize, db)].into_iter().filter(|g| g.0 < ctx.inputs.len()) {
            if grads.len() == i {
                grads.push(None);
            }
            if on && let Some(g) = found.next() {
                grads[i] = Some(g.try_reshape(ctx.inputs[i].shape())?);
            }
        }
        Ok(grads)
    }

    fn decompose(&self, inputs: &[Tensor]) -> Option<Result<Vec<Tensor>>> {
        let build = || {
            let x = &inputs[0];
            let (xhat, mean, rstd) = self.normalized(x)?;
            let mut y = self.split(&xhat)?;
            if self.weight {
                y = y.try_mul(self.spread(&inputs[1])?)?;
            }
            if self.bias {
                y = y.try_add(self.spread(&inputs[1 + self.weight as usize])?)?;
            }
            let y = y.try_reshape(x.shape())?;
            Ok(if self.rms { vec![y, rstd] } else { vec![y, mean, rstd] })
        };
        Some(build())
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        match ctx.dtype(0) {
            DType::F32 => self.forward::<f32>(ctx),
            DType::F64 => self.forward::<f64>(ctx),
            _ => return ctx.unsupported(),
        }
        Ok(())
    }

    fn cuts(&self, inputs: &[Meta], outputs: &[Meta]) -> Vec<Cut> {
        let Some((x, rows)) = self.rows_axis(inputs[0].shape()) else { return Vec::new() };
        let mut ins: SmallVec<[Option<Span>; 8]> = smallvec![None; inputs.len()];
        ins[0] = Some(x);
        let outs = (0..outputs.len()).map(|i| Along::Axis(if i == 0 { x } else { rows })).collect();
        vec![Cut { len: inputs[0].shape()[x.axis], inputs: ins, outputs: outs }]
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let numel = ctx.numel(0);
        if numel == 0 {
            return Ok(GpuKernel::default());
        }
        let lanes = gpu_lanes(self.n());
        let (w, b) = (self.weight as usize, self.bias as usize);
        let mut slots = vec![(Slot::Input(0), false)];
        slots.extend(self.weight.then_some((Slot::Input(1), false)));
        slots.extend(self.bias.then_some((Slot::Input(1 + w), false)));
        slots.extend((0..ctx.outputs.len()).map(|i| (Slot::Output(i), true)));
        let y = 1 + w + b;
        let source = variant(
            include_str!("../../shaders/norm.wgsl"),
            &[("L", lanes), ("B_WEIGHT", 1), ("B_BIAS", 1 + w), ("B_Y", y), ("B_MEAN", y + 1), ("B_RSTD", y + 2 - self.rms as usize)],
            &[("WEIGHT", w > 0), ("BIAS", b > 0), ("AFFINE", w + b > 0), ("RMS", self.rms), ("SHARE", lanes > 1)],
        );
        let mut params = self.params(numel);
        params.push(Param::Scalar { index: 0, dtype: DType::F32 });
        let groups = grid(self.rows(numel).div_ceil(256 / lanes));
        let dispatch = Dispatch { label: self.name(), source: source.into(), bindings: bind(&slots), params, groups, flops: 0 };
        Ok(GpuKernel { temps: Vec::new(), steps: vec![GpuStep::Dispatch(dispatch)] })
    }
}

impl NormBackward {
    /// The positions of (mean, rstd) among the inputs; for RMS norm there is only the latter.
    fn stats(&self) -> (usize, usize) {
        let mean = 2 + self.norm.weight as usize;
        (mean, mean + !self.norm.rms as usize)
    }

    fn run<T: Real>(&self, ctx: &CpuCtx) {
        let norm = &self.norm;
        let (dy, x) = (ctx.input::<T>(0), ctx.input::<T>(1));
        let (n, rows, count) = (norm.n(), norm.rows(x.len()), norm.groups * norm.channels);
        let ones = vec![T::ONE; count];
        let weight = if norm.weight { ctx.input::<T>(2) } else { &ones };
        let (mean, rstd) = self.stats();
        let mean = (!norm.rms).then(|| ctx.input::<T>(mean));
        let rstd = ctx.input::<T>(rstd);
        let dx = self.dx.then(|| Shared::new(ctx.output::<T>(0)));
        // Each task adds the rows of its part to sums of its own, which are then added in order.
        let group = rows.div_ceil(64).max((16 << 10) / n.max(1)).max(1);
        let tasks = rows.div_ceil(group);
        let sums = if self.dw || self.db { 2 * count } else { 0 };
        let mut parts = vec![T::ZERO; sums * tasks];
        let shared = Shared::new(&mut parts);
        for_tasks(tasks, x.len(), |t| {
            let (first, len) = (t * group, group.min(rows - t * group));
            let range = first * n..(first + len) * n;
            // SAFETY: each row and each part is one task's.
            let (dx, part) = unsafe { (dx.as_ref().map_or(&mut [][..], |d| d.slice(first * n, len * n)), shared.slice(t * sums, sums)) };
            let (dw, db) = part.split_at_mut(sums / 2);
            let means = mean.map_or(&[][..], |m| &m[first..first + len]);
            backward_rows(&dy[range.clone()], &x[range], dx, dw, db, norm, first, means, &rstd[first..first + len], weight);
        });
        let wanted = [(0, self.dw), (count, self.db)].into_iter().filter(|g| g.1);
        for (out, (at, _)) in (self.dx as usize..).zip(wanted) {
            let grad = ctx.output::<T>(out);
            grad.fill(T::ZERO);
            for part in parts.chunks_exact(sums.max(1)) {
                grad.iter_mut().zip(&part[at..at + count]).for_each(|(g, &p)| *g += p);
            }
        }
    }
}

multiversion! {
    fn backward_rows[T: Real](
        dy: &[T], x: &[T], dx: &mut [T], dw: &mut [T], db: &mut [T], norm: &Norm, first: usize, means: &[T], rstds: &[T], weight: &[T],
    ) {
        let (n, inner) = (norm.n(), norm.inner);
        let scale = T::ONE / T::of(n as f64);
        for (i, (dy, x)) in dy.chunks_exact(n).zip(x.chunks_exact(n)).enumerate() {
            let (mean, rstd) = (if norm.rms { T::ZERO } else { means[i] }, rstds[i]);
            let at = (first + i) % norm.groups * norm.channels;
            let w = &weight[at..at + norm.channels];
            let (mut g, mut gx) = (T::ZERO, T::ZERO);
            if inner == 1 {
                (g, gx) = sums(dy, x, Some(w), mean, rstd);
                if !dw.is_empty() {
                    let (dw, db) = (&mut dw[at..at + n], &mut db[at..at + n]);
                    for (((dw, db), &d), &v) in dw.iter_mut().zip(db).zip(dy).zip(x) {
                        *dw += d * ((v - mean) * rstd);
                        *db += d;
                    }
                }
            } else {
                for (c, (dy, x)) in dy.chunks_exact(inner).zip(x.chunks_exact(inner)).enumerate() {
                    let (a, b) = sums(dy, x, None, mean, rstd);
                    g += a * w[c];
                    gx += b * w[c];
                    if !dw.is_empty() {
                        db[at + c] += a;
                        dw[at + c] += b;
                    }
                }
            }
            if dx.is_empty() {
                continue;
            }
            let dx = &mut dx[i * n..(i + 1) * n];
            let (g, gx) = (if norm.rms { T::ZERO } else { g * scale }, gx * scale);
            if inner == 1 {
                for (((dx, &d), &v), &w) in dx.iter_mut().zip(dy).zip(x).zip(w) {
                    *dx = rstd * (d * w - g - (v - mean) * rstd * gx);
                }
            } else {
                let parts = dx.chunks_exact_mut(inner).zip(dy.chunks_exact(inner)).zip(x.chunks_exact(inner)).zip(w);
                for (((dx, dy), x), &w) in parts {
                    dx.iter_mut().zip(dy).zip(x).for_each(|((dx, &d), &v)| *dx = rstd * (d * w - g - (v - mean) * rstd * gx));
                }
            }
        }
    }
}

/// Σ g and Σ g·x̂ with g = dy·w; without weights g = dy.
#[inline(always)]
fn sums<T: Real>(dy: &[T], x: &[T], w: Option<&[T]>, mean: T, rstd: T) -> (T, T) {
    let (mut a, mut b) = ([T::ZERO; LANES], [T::ZERO; LANES]);
    let ((dyc, dyr), (xc, xr)) = (dy.as_chunks::<LANES>(), x.as_chunks::<LANES>());
    let mut add = |i: usize, g: T, v: T| {
        a[i] += g;
        b[i] += g * ((v - mean) * rstd);
    };
    match w {
        Some(w) => {
            let (wc, wr) = w.as_chunks::<LANES>();
            for ((dy, x), w) in dyc.iter().zip(xc).zip(wc) {
                (0..LANES).for_each(|i| add(i, dy[i] * w[i], x[i]));
            }
            dyr.iter().zip(xr).zip(wr).enumerate().for_each(|(i, ((&d, &v), &w))| add(i, d * w, v));
        }
        None => {
            for (dy, x) in dyc.iter().zip(xc) {
                (0..LANES).for_each(|i| add(i, dy[i], x[i]));
            }
            dyr.iter().zip(xr).enumerate().for_each(|(i, (&d, &v))| add(i, d, v));
        }
    }
    (tree(a), tree(b))
}

impl Op for NormBackward {
    fn name(&self) -> &'static str {
        match self.norm.name() {
            "rms_norm" => "rms_norm_backward",
            "layer_norm" => "layer_norm_backward",
            _ => "group_norm_backward",
        }
    }

    fn key(&self, key: &mut Key) {
        self.norm.key(key);
        key.add(self.dx as u64 | (self.dw as u64) << 1 | (self.db as u64) << 2);
    }

    fn scalars(&self) -> &[Scalar] {
        &self.norm.eps
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let (dtype, count) = (inputs[1].dtype, self.norm.groups * self.norm.channels);
        let mut outs = Outputs::new();
        if self.dx {
            outs.push(Meta::new(dtype, inputs[1].shape()));
        }
        outs.extend([self.dw, self.db].into_iter().filter(|&on| on).map(|_| Meta::new(dtype, count)));
        Ok(outs)
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        vjp_by_decomposition(self, ctx)
    }

    fn decompose(&self, inputs: &[Tensor]) -> Option<Result<Vec<Tensor>>> {
        let build = || {
            let norm = &self.norm;
            let (dy, x) = (norm.split(&inputs[0])?, &inputs[1]);
            // The mean and rstd of the forward op are computed anew: only so do gradients flow through them.
            let (xhat, _, rstd) = norm.normalized(x)?;
            let mut outs = Vec::new();
            if self.dx {
                let g = if norm.weight { dy.try_mul(norm.spread(&inputs[2])?)? } else { dy.clone() };
                let g = g.try_reshape(xhat.shape())?;
                let rstd = rstd.try_reshape([xhat.dims()[0], norm.groups, 1])?;
                let back = xhat.try_mul(g.try_mul(&xhat)?.try_mean_keepdim(-1)?)?;
                let centred = if norm.rms { g } else { g.try_sub(g.try_mean_keepdim(-1)?)? };
                outs.push(centred.try_sub(back)?.try_mul(rstd)?.try_reshape(x.shape())?);
            }
            if self.dw {
                outs.push(dy.try_mul(norm.split(&xhat)?)?.try_sum([0, 2])?);
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

    fn cuts(&self, inputs: &[Meta], outputs: &[Meta]) -> Vec<Cut> {
        let Some((x, rows)) = self.norm.rows_axis(inputs[1].shape()) else { return Vec::new() };
        let mut ins: SmallVec<[Option<Span>; 8]> = smallvec![Some(x), Some(x)];
        ins.extend(self.norm.weight.then_some(None));
        ins.resize(inputs.len(), Some(rows));
        let outs = (0..outputs.len()).map(|i| if i == 0 && self.dx { Along::Axis(x) } else { Along::Sum }).collect();
        vec![Cut { len: inputs[1].shape()[x.axis], inputs: ins, outputs: outs }]
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let norm = &self.norm;
        let numel = ctx.numel(1);
        let mut kernel = GpuKernel::default();
        let (mean, rstd) = self.stats();
        if numel == 0 {
            // The sums of nothing.
            kernel.steps.extend((self.dx as usize..ctx.outputs.len()).map(|i| GpuStep::Zero(Slot::Output(i))));
            return Ok(kernel);
        }
        if self.dx {
            let (w, lanes) = (norm.weight as usize, gpu_lanes(norm.n()));
            let mut slots: Vec<_> = (0..=rstd).map(|i| (Slot::Input(i), false)).collect();
            slots.push((Slot::Output(0), true));
            let source = variant(
                include_str!("../../shaders/norm_backward.wgsl"),
                &[("L", lanes), ("B_WEIGHT", 2), ("B_MEAN", mean), ("B_RSTD", rstd), ("B_DX", rstd + 1)],
                &[("WEIGHT", w > 0), ("RMS", norm.rms), ("SHARE", lanes > 1)],
            );
            kernel.steps.push(GpuStep::Dispatch(Dispatch {
                label: self.name(),
                source: source.into(),
                bindings: bind(&slots),
                params: norm.params(numel),
                groups: grid(norm.rows(numel).div_ceil(256 / lanes)),
                flops: 0,
            }));
        }
        let dw = self.dw.then_some(Slot::Output(self.dx as usize));
        let db = self.db.then_some(Slot::Output((self.dx as usize) + self.dw as usize));
        if self.dw || self.db {
            let mean = (!norm.rms).then_some(Slot::Input(mean));
            let per_row = Some((norm.groups, norm.channels, Slot::Input(rstd)));
            channel_kernels(norm.as_channels(numel), &mut kernel, Slot::Input(0), Slot::Input(1), mean, per_row, None, dw, db);
        }
        Ok(kernel)
    }
}

#[cfg(test)]
#[path = "norm_tests.rs"]
mod tests;

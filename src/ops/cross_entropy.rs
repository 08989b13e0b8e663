//! Cross-entropy from logits, forward and backward each one kernel, and the negative log-likelihood of log-probabilities.

use super::batch_norm::bind;
use super::rows::{Around, COLUMNS, Real, Shared, gpu_lanes, largest, like, sum_of, sum_of2, to_compute, variant, walk};
use crate::autograd::vjp_by_decomposition;
use crate::backend::cpu::CpuCtx;
use crate::backend::cpu::simd::multiversion;
use crate::codegen::dispatch::{Dispatch, GpuKernel, GpuStep, Param, Slot, grid};
use crate::graph::{GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record, record_all};
use crate::{DType, Error, Result, Scalar, Shape, Tensor};
use smallvec::smallvec;
use std::sync::Arc;

/// How the losses of a batch become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// The mean; of weighted losses over class ids, the weighted mean over the positions that are not ignored.
    #[default]
    Mean,
    /// The sum.
    Sum,
    /// One loss a position.
    None,
}

/// The options of [`Tensor::cross_entropy`] and [`Tensor::nll_loss`], with PyTorch's defaults.
///
/// ```
/// use fornax::CrossEntropy;
/// let options = CrossEntropy { label_smoothing: 0.1, ..Default::default() };
/// assert_eq!(options.ignore_index, -100);
/// ```
#[derive(Clone)]
pub struct CrossEntropy {
    /// A factor for each class, of shape `[C]`. It is a constant: a gradient for it is an error.
    pub weight: Option<Tensor>,
    /// Positions with this class id add nothing to the loss or to the mean's denominator.
    pub ignore_index: i32,
    /// ε in 0..=1: the target becomes (1 - ε) · target + ε / C.
    pub label_smoothing: f64,
    /// How the losses become one.
    pub reduction: Reduction,
}

impl Default for CrossEntropy {
    fn default() -> CrossEntropy {
        CrossEntropy { weight: None, ignore_index: -100, label_smoothing: 0.0, reduction: Reduction::Mean }
    }
}

/// From (logits, class ids, weight?) to (losses, weights that count, log-sum-exp): the latter two are auxiliary.
#[derive(Clone, Debug)]
struct Loss {
    weight: bool,
    smooth: bool,
    /// ignore_index, label_smoothing.
    scalars: [Scalar; 2],
}

/// From (dlosses, logits, class ids, log-sum-exp, weight?) to dlogits.
#[derive(Clone, Debug)]
struct LossBackward(Loss);

const OP: &str = "cross_entropy";

#[fornax_derive::fallible]
impl Tensor {
    /// Cross-entropy of these logits, computed without overflow. The classes are axis 1 of `[N, C, …]`, or axis 0 of `[C]`.
    ///
    /// With integer `targets` of shape `[N, …]` (class ids): lossᵢ = -w[tᵢ] · log softmax(xᵢ)[tᵢ], and the mean divides by Σ w[tᵢ] over the
    /// positions that are not ignored (NaN if there are none). With float `targets` of the logits' shape (probabilities):
    /// lossᵢ = -Σ_c w_c · q_c · log softmax(xᵢ)_c, and the mean divides by the number of positions. A class id that is neither in `0..C`
    /// nor `ignore_index` makes the next read return `Error::Index`.
    ///
    /// # Errors
    /// `Error::Shape` where the shapes do not belong together; `Error::DType` for integer logits; `Error::Argument` for a label smoothing
    /// outside 0..=1.
    ///
    /// ```
    /// use fornax::{CrossEntropy, Device, Tensor};
    /// let cpu = Device::cpu();
    /// let logits = Tensor::from_vec(vec![0.0f32, 0.0, 0.0, 3f32.ln()], [2, 2], cpu)?;
    /// let targets = Tensor::from_vec(vec![0i32, 1], 2, cpu)?;
    /// let loss = logits.cross_entropy(&targets, &CrossEntropy::default()).item::<f32>()?;
    /// assert!((loss - (2f32.ln() + (4f32 / 3.0).ln()) / 2.0).abs() < 1e-6);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_cross_entropy(&self, targets: &Tensor, options: &CrossEntropy) -> Result<Tensor> {
        let eps = options.label_smoothing;
        if !(0.0..=1.0).contains(&eps) {
            return Err(Error::argument(OP, format!("label_smoothing {eps} is not in 0..=1")));
        }
        let x = to_compute(OP, self)?;
        let weight = class_weight(OP, &x, options)?;
        let losses = if targets.dtype().is_float() {
            if targets.shape() != self.shape() {
                return Err(Error::shape(OP, &[self.shape(), targets.shape()], "target probabilities have the logits' shape"));
            }
            probabilities(&x, targets, weight, eps, options.reduction)?
        } else {
            check_targets(OP, &x, targets)?;
            let op = Loss { weight: weight.is_some(), smooth: eps > 0.0, scalars: [options.ignore_index.into(), eps.into()] };
            let targets = targets.try_cast(DType::I32)?;
            let inputs: Vec<&Tensor> = [&x, &targets].into_iter().chain(&weight).collect();
            let outs = record_all(Arc::new(op), &inputs)?;
            reduce(&outs[0], options.reduction, || outs[1].detach().try_sum(()))?
        };
        losses.try_cast(self.dtype())
    }

    /// The negative log-likelihood of these log-probabilities `[N, C, …]` (or `[C]`) at class ids `[N, …]`: lossᵢ = -w[tᵢ] · xᵢ[tᵢ]. The mean,
    /// weights and ignored positions are as in [`cross_entropy`](Tensor::cross_entropy); there is no label smoothing.
    ///
    /// # Errors
    /// As [`cross_entropy`](Tensor::cross_entropy).
    ///
    /// ```
    /// use fornax::{CrossEntropy, Device, Tensor};
    /// let x = Tensor::from_vec(vec![-1.0f32, -2.0, -3.0, -4.0], [2, 2], Device::cpu())?;
    /// let targets = Tensor::from_vec(vec![1i32, 0], 2, Device::cpu())?;
    /// assert_eq!(x.nll_loss(&targets, &CrossEntropy::default()).item::<f32>()?, 2.5);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_nll_loss(&self, targets: &Tensor, options: &CrossEntropy) -> Result<Tensor> {
        let op = "nll_loss";
        if options.label_smoothing != 0.0 {
            return Err(Error::argument(op, "label_smoothing needs logits: use cross_entropy"));
        }
        let x = to_compute(op, self)?;
        let weight = class_weight(op, &x, options)?;
        check_targets(op, &x, targets)?;
        let (picked, counted) = pick(&x, &targets.try_cast(DType::I32)?, weight.as_ref(), options.ignore_index.into())?;
        let losses = picked.try_mul(&counted)?.try_neg()?;
        reduce(&losses, options.reduction, || counted.try_sum(()))?.try_cast(self.dtype())
    }
}

/// The axis of the classes.
fn class_axis(rank: usize) -> usize {
    (rank > 1) as usize
}

/// The logits' shape without the classes.
fn positions(logits: &Shape) -> Shape {
    let mut s = logits.clone();
    s.remove(class_axis(logits.rank()));
    s
}

fn check_targets(op: &'static str, x: &Tensor, targets: &Tensor) -> Result<()> {
    if !targets.dtype().is_int() {
        return Err(Error::dtype(op, &[targets.dtype()], "targets are class ids (an integer dtype) or probabilities (a float dtype)"));
    }
    if x.rank() == 0 || *targets.shape() != positions(x.shape()) {
        let expected = "logits are [N, C, …] and class ids [N, …], or [C] and []";
        return Err(Error::shape(op, &[x.shape(), targets.shape()], expected));
    }
    Ok(())
}

/// The class weights in the logits' dtype, checked.
fn class_weight(op: &'static str, x: &Tensor, options: &CrossEntropy) -> Result<Option<Tensor>> {
    let Some(w) = &options.weight else { return Ok(None) };
    if x.rank() == 0 || w.dims() != [x.dims()[class_axis(x.rank())]] {
        return Err(Error::shape(op, &[x.shape(), w.shape()], "the weight has one element a class"));
    }
    Ok(Some(like(w, x.dtype())?))
}

fn reduce(losses: &Tensor, reduction: Reduction, counted: impl Fn() -> Result<Tensor>) -> Result<Tensor> {
    match reduction {
        Reduction::None => Ok(losses.clone()),
        Reduction::Sum => losses.try_sum(()),
        Reduction::Mean => losses.try_sum(())?.try_div(counted()?),
    }
}

/// The loss for target probabilities: pointwise work around one log-softmax.
fn probabilities(x: &Tensor, targets: &Tensor, weight: Option<Tensor>, eps: f64, reduction: Reduction) -> Result<Tensor> {
    if x.rank() == 0 {
        return Err(Error::shape(OP, &[x.shape()], "logits are [N, C, …] or [C]"));
    }
    let axis = class_axis(x.rank());
    let classes = x.dims()[axis];
    let mut q = like(targets, x.dtype())?;
    if eps > 0.0 {
        q = q.try_mul(1.0 - eps)?.try_add(eps / classes as f64)?;
    }
    if let Some(w) = weight {
        q = q.try_mul(along(&w, x.rank())?)?;
    }
    let losses = x.try_log_softmax(axis as isize)?.try_mul(q)?.try_sum(axis)?.try_neg()?;
    match reduction {
        Reduction::Mean => losses.try_mean(()),
        Reduction::Sum => losses.try_sum(()),
        Reduction::None => Ok(losses),
    }
}

/// A value a class as a factor of tensors of this rank.
fn along(w: &Tensor, rank: usize) -> Result<Tensor> {
    let axis = class_axis(rank);
    w.try_reshape((0..rank).map(|a| if a == axis { w.numel() } else { 1 }).collect::<Shape>())
}

/// x at the class ids (0 where ignored), and the weights that count, by smaller ops.
fn pick(x: &Tensor, targets: &Tensor, weight: Option<&Tensor>, ignore: Scalar) -> Result<(Tensor, Tensor)> {
    let axis = class_axis(x.rank());
    let kept = targets.try_ne(ignore)?;
    let safe = targets.try_mul(kept.try_cast(DType::I32)?)?;
    let picked = x.try_gather(axis as isize, &safe.try_unsqueeze(axis as isize)?)?.try_reshape(targets.shape())?;
    // Whatever stands at class 0 of an ignored position, infinity included, must not reach the loss.
    let picked = kept.try_where(picked, 0.0)?;
    let mut counted = kept.try_cast(x.dtype())?;
    if let Some(w) = weight {
        let each = w.try_index_select(0, &safe.try_reshape(safe.numel())?)?.try_reshape(targets.shape())?;
        counted = counted.try_mul(each)?;
    }
    Ok((picked, counted))
}

impl Loss {
    fn params(&self, first: usize, a: Around) -> Vec<Param> {
        let scalar = |index, dtype| Param::Scalar { index, dtype };
        vec![first.into(), a.n.into(), a.inner.into(), scalar(0, DType::I32), scalar(1, DType::F32)]
    }

    fn constants<'a, T: Real>(&self, ctx: &CpuCtx<'a>, weight: usize, classes: usize) -> Constants<'a, T> {
        let weight = self.weight.then(|| ctx.input::<T>(weight));
        let eps = ctx.scalars[1].as_f64();
        Constants {
            ignore: ctx.scalars[0].as_i64() as i32,
            keep: T::of(1.0 - eps),
            spread: T::of(eps / classes as f64),
            smooth: self.smooth,
            weight,
            total: weight.map_or(T::of(classes as f64), |w| sum_of(w, |v| v)),
        }
    }

    fn run<T: Real>(&self, ctx: &CpuCtx) {
        let a = Around::of(ctx.shape(0), class_axis(ctx.shape(0).len()));
        let (x, t) = (ctx.input::<T>(0), ctx.input::<i32>(1));
        let c = &self.constants::<T>(ctx, 2, a.n);
        let [loss, counted, lse] = &[0, 1, 2].map(|i| Shared::new(ctx.output::<T>(i)));
        let finish = |found: bool| {
            if found {
                ctx.fault()
            }
        };
        // SAFETY: each position is one task's.
        let out = |at: usize, n: usize| unsafe { [loss.range(at, n), counted.range(at, n), lse.range(at, n)] };
        walk(
            a,
            |at, rows| {
                let first = at / a.n;
                finish(forward_rows(&x[at..at + rows * a.n], &t[first..first + rows], out(first, rows), a.n, c))
            },
            |at, columns| {
                let first = at / (a.n * a.inner) * a.inner + at % a.inner;
                finish(forward_block(&x[at..], &t[first..first + columns], out(first, columns), a, c))
            },
        );
    }
}

/// What the kernels know of all positions.
struct Constants<'a, T> {
    ignore: i32,
    /// 1 - ε.
    keep: T,
    /// ε / C.
    spread: T,
    smooth: bool,
    weight: Option<&'a [T]>,
    /// Σ w.
    total: T,
}

impl<T: Real> Constants<'_, T> {
    /// The class of a position: `None` where it is ignored, an error where it is out of range.
    #[inline(always)]
    fn class(&self, t: i32, n: usize) -> Result<Option<usize>, ()> {
        match t {
            t if t == self.ignore => Ok(None),
            t if t < 0 || t as usize >= n => Err(()),
            t => Ok(Some(t as usize)),
        }
    }

    #[inline(always)]
    fn weight(&self, class: usize) -> T {
        self.weight.map_or(T::ONE, |w| w[class])
    }

    /// The loss of a position from its maximum m, log Σ exp(x - m), its class's logit, and Σ w·x.
    #[inline(always)]
    fn loss(&self, w: T, m: T, shift: T, x: T, weighted: T) -> T {
        let l = w * (shift + (m - x));
        if self.smooth { self.keep * l + self.spread * (self.total * (m + shift) - weighted) } else { l }
    }

    /// The gradient is `a · softmax - c at the class - d · w`: (a, c, d) for a cotangent and the class's weight.
    #[inline(always)]
    fn factors(&self, dl: T, w: T) -> (T, T, T) {
        if self.smooth {
            (dl * (self.keep * w + self.spread * self.total), dl * self.keep * w, dl * self.spread)
        } else {
            (dl * w, dl * w, T::ZERO)
        }
    }
}

multiversion! {
    /// Whether a class was out of range.
    fn forward_rows[T: Real](x: &[T], t: &[i32], out: [&mut [T]; 3], n: usize, c: &Constants<'_, T>) -> bool {
        let mut fault = false;
        let [loss, counted, lse] = out;
        for (r, x) in x.chunks_exact(n).enumerate() {
            let m = largest(x);
            let shift = sum_of(x, |v| (v - m).exp()).ln();
            lse[r] = m + shift;
            let class = c.class(t[r], n);
            fault |= class.is_err();
            (loss[r], counted[r]) = match class {
                Ok(Some(class)) => {
                    let weighted = match c.weight {
                        _ if !c.smooth => T::ZERO,
                        Some(w) => sum_of2(x, w, |x, w| x * w),
                        None => sum_of(x, |v| v),
                    };
                    let w = c.weight(class);
                    (c.loss(w, m, shift, x[class], weighted), w)
                }
                _ => (T::ZERO, T::ZERO),
            };
        }
        fault
    }
}

multiversion! {
    /// The same for a block of columns; `x` starts at the first one.
    fn forward_block[T: Real](x: &[T], t: &[i32], out: [&mut [T]; 3], a: Around, c: &Constants<'_, T>) -> bool {
        let columns = t.len();
        let row = |k: usize| &x[k * a.inner..][..columns];
        let [mut m, mut s, mut weighted] = [[T::NEG_INF; COLUMNS], [T::ZERO; COLUMNS], [T::ZERO; COLUMNS]];
        for k in 0..a.n {
            m.iter_mut().zip(row(k)).for_each(|(m, &v)| *m = m.or_larger(v));
        }
        for k in 0..a.n {
            s.iter_mut().zip(&m).zip(row(k)).for_each(|((s, &m), &v)| *s += (v - m).exp());
            if c.smooth {
                let w = c.weight(k);
                weighted.iter_mut().zip(row(k)).for_each(|(s, &v)| *s += v * w);
            }
        }
        let mut fault = false;
        let [loss, counted, lse] = out;
        for i in 0..columns {
            let shift = s[i].ln();
            lse[i] = m[i] + shift;
            let class = c.class(t[i], a.n);
            fault |= class.is_err();
            (loss[i], counted[i]) = match class {
                Ok(Some(class)) => {
                    let w = c.weight(class);
                    (c.loss(w, m[i], shift, row(class)[i], weighted[i]), w)
                }
                _ => (T::ZERO, T::ZERO),
            };
        }
        fault
    }
}

multiversion! {
    fn backward_rows[T: Real](dl: &[T], x: &[T], t: &[i32], lse: &[T], dx: &mut [T], n: usize, c: &Constants<'_, T>) {
        for (r, (x, dx)) in x.chunks_exact(n).zip(dx.chunks_exact_mut(n)).enumerate() {
            let Ok(Some(class)) = c.class(t[r], n) else {
                dx.fill(T::ZERO);
                continue;
            };
            let (a, at_class, d) = c.factors(dl[r], c.weight(class));
            let lse = lse[r];
            match c.weight {
                Some(w) if c.smooth => {
                    dx.iter_mut().zip(x).zip(w).for_each(|((dx, &v), &w)| *dx = a * (v - lse).exp() - d * w);
                }
                _ => dx.iter_mut().zip(x).for_each(|(dx, &v)| *dx = a * (v - lse).exp() - d),
            }
            dx[class] = dx[class] - at_class;
        }
    }
}

multiversion! {
    /// The same for a block of columns; `x` starts at the first one, whose place in dx is `at`.
    fn backward_block[T: Real](
        dl: &[T], x: &[T], t: &[i32], lse: &[T], dx: &Shared<T>, at: usize, a: Around, c: &Constants<'_, T>,
    ) {
        let columns = t.len();
        // Factors of the columns; classes past the last one stand for positions without a gradient.
        let mut f = [(T::ZERO, T::ZERO, T::ZERO, usize::MAX); COLUMNS];
        for i in 0..columns {
            if let Ok(Some(class)) = c.class(t[i], a.n) {
                let (a, b, d) = c.factors(dl[i], c.weight(class));
                f[i] = (a, b, d, class);
            }
        }
        for k in 0..a.n {
            let w = c.weight(k);
            // SAFETY: the block is this call's.
            let dx = unsafe { dx.range(at + k * a.inner, columns) };
            for (((dx, &v), &lse), f) in dx.iter_mut().zip(&x[k * a.inner..][..columns]).zip(lse).zip(&f) {
                let g = f.0 * (v - lse).exp() - f.2 * w;
                let g = if f.3 == k { g - f.1 } else { g };
                *dx = if f.3 == usize::MAX { T::ZERO } else { g };
            }
        }
    }
}

impl Op for Loss {
    fn name(&self) -> &'static str {
        OP
    }

    fn key(&self, key: &mut Key) {
        key.add(self.weight as u64 | (self.smooth as u64) << 1);
    }

    fn scalars(&self) -> &[Scalar] {
        &self.scalars
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let x = inputs[0];
        if !matches!(x.dtype, DType::F32 | DType::F64) {
            return Err(Error::dtype(OP, &[x.dtype], "f32 or f64"));
        }
        if x.shape()[class_axis(x.shape().rank())] == 0 {
            return Err(Error::shape(OP, &[x.shape()], "at least one class"));
        }
        let out = Meta::new(x.dtype, positions(x.shape()));
        Ok(smallvec![out.clone(), out.clone(), out])
    }

    fn saves(&self) -> Saves {
        Saves { inputs: u32::MAX, outputs: 0b100 }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        if ctx.needs.get(2) == Some(&true) {
            return ctx.not_differentiable();
        }
        let mut inputs = vec![ctx.cotangent()?, &ctx.inputs[0], &ctx.inputs[1], &ctx.outputs[2]];
        inputs.extend(ctx.inputs.get(2));
        let dx = record(Arc::new(LossBackward(self.clone())), &inputs)?;
        Ok([Some(dx), None, None].into_iter().take(ctx.inputs.len()).collect())
    }

    fn decompose(&self, inputs: &[Tensor]) -> Option<Result<Vec<Tensor>>> {
        let build = || {
            let (x, targets, weight) = (&inputs[0], &inputs[1], inputs.get(2));
            let axis = class_axis(x.rank());
            let lp = x.try_log_softmax(axis as isize)?;
            let kept = targets.try_ne(self.scalars[0])?;
            let (picked, counted) = pick(&lp, targets, weight, self.scalars[0])?;
            let mut loss = picked.try_mul(&counted)?.try_neg()?;
            if self.smooth {
                let eps = self.scalars[1].as_f64();
                let each = match weight {
                    Some(w) => lp.try_mul(along(w, x.rank())?)?,
                    None => lp,
                };
                let spread = each.try_sum(axis)?.try_mul(-eps / x.dims()[axis] as f64)?;
                loss = loss.try_mul(1.0 - eps)?.try_add(kept.try_where(spread, 0.0)?)?;
            }
            Ok(vec![loss, counted, x.try_logsumexp(axis)?])
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

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let a = Around::of(ctx.shape(0), class_axis(ctx.shape(0).len()));
        if a.numel() == 0 {
            return Ok(GpuKernel::default());
        }
        let strided = a.inner > 1;
        let lanes = if strided { gpu_lanes(a.n).min(8) } else { gpu_lanes(a.n) };
        let source = variant(
            include_str!("../../shaders/cross_entropy.wgsl"),
            &[("L", lanes)],
            &[("STRIDED", strided), ("SHARE", lanes > 1), ("WEIGHT", self.weight), ("SMOOTH", self.smooth)],
        );
        let mut slots = vec![(Slot::Input(0), false), (Slot::Input(1), false)];
        slots.extend([Slot::Output(0), Slot::Output(1), Slot::Output(2), Slot::Fault].map(|s| (s, true)));
        slots.extend(self.weight.then_some((Slot::Input(2), false)));
        let groups = grid(a.rows().div_ceil(256 / lanes));
        let params = self.params(a.rows(), a);
        let dispatch = Dispatch { label: OP, source: source.into(), bindings: bind(&slots), params, groups, flops: 0 };
        Ok(GpuKernel { temps: Vec::new(), steps: vec![GpuStep::Dispatch(dispatch)] })
    }
}

impl LossBackward {
    fn run<T: Real>(&self, ctx: &CpuCtx) {
        let a = Around::of(ctx.shape(1), class_axis(ctx.shape(1).len()));
        let (dl, x, t, lse) = (ctx.input::<T>(0), ctx.input::<T>(1), ctx.input::<i32>(2), ctx.input::<T>(3));
        let c = &self.0.constants::<T>(ctx, 4, a.n);
        let dx = &Shared::new(ctx.output::<T>(0));
        walk(
            a,
            |at, rows| {
                let (range, first) = (at..at + rows * a.n, at / a.n);
                let p = first..first + rows;
                // SAFETY: each row is one task's.
                let dx = unsafe { dx.range(at, rows * a.n) };
                backward_rows(&dl[p.clone()], &x[range], &t[p.clone()], &lse[p], dx, a.n, c)
            },
            |at, columns| {
                let first = at / (a.n * a.inner) * a.inner + at % a.inner;
                let p = first..first + columns;
                backward_block(&dl[p.clone()], &x[at..], &t[p.clone()], &lse[p], dx, at, a, c)
            },
        );
    }
}

impl Op for LossBackward {
    fn name(&self) -> &'static str {
        "cross_entropy_backward"
    }

    fn key(&self, key: &mut Key) {
        self.0.key(key)
    }

    fn scalars(&self) -> &[Scalar] {
        &self.0.scalars
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        Ok(smallvec![Meta::new(inputs[1].dtype, inputs[1].shape())])
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        vjp_by_decomposition(self, ctx)
    }

    fn decompose(&self, inputs: &[Tensor]) -> Option<Result<Vec<Tensor>>> {
        let build = || {
            let (dl, x, targets, weight) = (&inputs[0], &inputs[1], &inputs[2], inputs.get(4));
            let axis = class_axis(x.rank());
            let (ignore, eps) = (self.0.scalars[0], self.0.scalars[1].as_f64());
            let rows = |t: &Tensor| t.try_unsqueeze(axis as isize);
            // The log-sum-exp of the forward op is computed anew: only so do gradients flow through it.
            let prob = x.try_softmax(axis as isize)?;
            let classes = along(&Tensor::try_arange(0, x.dims()[axis], 1, (DType::I32, x.device()))?, x.rank())?;
            let hit = classes.try_eq(rows(targets)?)?.try_cast(x.dtype())?;
            let (_, counted) = pick(x, targets, weight, ignore)?;
            let mut g = prob.try_sub(hit)?.try_mul(rows(&counted)?)?;
            if self.0.smooth {
                let even = match weight {
                    Some(w) => prob.try_mul(w.try_sum(())?)?.try_sub(along(w, x.rank())?)?,
                    None => prob.try_mul(x.dims()[axis])?.try_sub(1)?,
                };
                g = g.try_mul(1.0 - eps)?.try_add(even.try_mul(eps / x.dims()[axis] as f64)?)?;
            }
            let g = g.try_mul(rows(dl)?)?;
            Ok(vec![rows(&targets.try_ne(ignore)?)?.try_where(g, 0.0)?])
        };
        Some(build())
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        match ctx.dtype(1) {
            DType::F32 => self.run::<f32>(ctx),
            DType::F64 => self.run::<f64>(ctx),
            _ => return ctx.unsupported(),
        }
        Ok(())
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let a = Around::of(ctx.shape(1), class_axis(ctx.shape(1).len()));
        let mut kernel = GpuKernel::default();
        if a.numel() == 0 {
            return Ok(kernel);
        }
        let total = self.0.weight && self.0.smooth;
        let source = variant(
            include_str!("../../shaders/cross_entropy_backward.wgsl"),
            &[],
            &[("WEIGHT", self.0.weight), ("SMOOTH", self.0.smooth), ("TOTAL", total)],
        );
        let mut slots: Vec<_> = (0..4).map(|i| (Slot::Input(i), false)).collect();
        slots.push((Slot::Output(0), true));
        slots.extend(self.0.weight.then_some((Slot::Input(4), false)));
        if total {
            kernel.temps.push(4);
            slots.push((Slot::Temp(0), false));
            kernel.steps.push(GpuStep::Dispatch(Dispatch {
                label: "total",
                source: include_str!("../../shaders/total.wgsl").into(),
                bindings: bind(&[(Slot::Input(4), false), (Slot::Temp(0), true)]),
                params: vec![a.n.into()],
                groups: [1, 1, 1],
                flops: 0,
            }));
        }
        let groups = grid(a.numel().div_ceil(1024));
        let params = self.0.params(a.numel(), a);
        let dispatch = Dispatch { label: self.name(), source: source.into(), bindings: bind(&slots), params, groups, flops: 0 };
        kernel.steps.push(GpuStep::Dispatch(dispatch));
        Ok(kernel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::rows::testing::{close, cpu, gpu, numbers};

    const SHAPES: [&[usize]; 6] = [&[5], &[7, 10], &[33, 1000], &[2, 3, 5], &[3, 21, 9, 13], &[4, 1]];

    struct Case {
        weight: bool,
        eps: f64,
        x: Vec<f64>,
        w: Vec<f64>,
        t: Vec<f64>,
        dl: Vec<f64>,
    }

    impl Case {
        fn new(shape: &[usize], weight: bool, eps: f64) -> (Case, Around) {
            let a = Around::of(shape, class_axis(shape.len()));
            let t = (0..a.rows()).map(|i| if i % 5 == 3 { -100.0 } else { (i * 7 % a.n) as f64 }).collect();
            let w = numbers(a.n, 9).iter().map(|v| v.abs() + 0.1).collect();
            (Case { weight, eps, x: numbers(a.numel(), 8), w, t, dl: numbers(a.rows(), 10) }, a)
        }

        fn op(&self) -> Loss {
            Loss { weight: self.weight, smooth: self.eps > 0.0, scalars: [(-100).into(), self.eps.into()] }
        }

        /// Losses, counted weights, dx by the definition.
        fn naive(&self, a: Around) -> [Vec<f64>; 3] {
            let (mut loss, mut counted, mut dx) = (vec![], vec![], vec![0.0; self.x.len()]);
            for r in 0..a.rows() {
                let at = |k: usize| (r / a.inner * a.n + k) * a.inner + r % a.inner;
                let lse = (0..a.n).map(|k| self.x[at(k)].exp()).sum::<f64>().ln();
                let w = |k: usize| if self.weight { self.w[k] } else { 1.0 };
                if self.t[r] < 0.0 {
                    loss.push(0.0);
                    counted.push(0.0);
                    continue;
                }
                let q = |k: usize| (1.0 - self.eps) * (k == self.t[r] as usize) as u8 as f64 + self.eps / a.n as f64;
                loss.push((0..a.n).map(|k| w(k) * q(k) * (lse - self.x[at(k)])).sum());
                counted.push(w(self.t[r] as usize));
                let total: f64 = (0..a.n).map(|k| w(k) * q(k)).sum();
                for k in 0..a.n {
                    dx[at(k)] = self.dl[r] * (total * (self.x[at(k)] - lse).exp() - w(k) * q(k));
                }
            }
            [loss, counted, dx]
        }
    }

    fn each(f: impl Fn(&[usize], Case, Around)) {
        for shape in SHAPES {
            for (weight, eps) in [(false, 0.0), (true, 0.0), (false, 0.1), (true, 0.3)] {
                let (case, a) = Case::new(shape, weight, eps);
                f(shape, case, a);
            }
        }
    }

    #[test]
    fn cpu_agrees_with_the_definition() {
        each(|shape, case, a| {
            let want = case.naive(a);
            let rows = positions(&shape.into());
            for (dtype, tol) in [(DType::F32, 1e-5), (DType::F64, 1e-12)] {
                let classes = [a.n];
                let w = (dtype, &classes[..], &case.w[..]);
                let mut inputs = vec![(dtype, shape, &case.x[..]), (DType::I32, &rows[..], &case.t[..])];
                inputs.extend(case.weight.then_some(w));
                let (got, fault) = cpu(&case.op(), &inputs).unwrap();
                assert!(!fault);
                close(&got[0], &want[0], tol);
                close(&got[1], &want[1], tol);
                let mut inputs = vec![
                    (dtype, &rows[..], &case.dl[..]),
                    (dtype, shape, &case.x[..]),
                    (DType::I32, &rows[..], &case.t[..]),
                    (dtype, &rows[..], &got[2][..]),
                ];
                inputs.extend(case.weight.then_some(w));
                close(&cpu(&LossBackward(case.op()), &inputs).unwrap().0[0], &want[2], tol);
            }
        });
    }

    #[test]
    fn a_class_out_of_range_is_a_fault() {
        for (shape, t) in [(&[2, 3][..], [0.0, 3.0]), (&[1, 3, 2], [-1.0, 1.0])] {
            let x = vec![0.0; shape.iter().product()];
            let op = Loss { weight: false, smooth: false, scalars: [(-100).into(), 0.0.into()] };
            let (got, fault) = cpu(&op, &[(DType::F32, shape, &x), (DType::I32, &positions(&shape.into()), &t)]).unwrap();
            assert!(fault && got[0].contains(&0.0) && got[1].iter().sum::<f64>() == 1.0);
        }
    }

    #[test]
    fn shaders_are_valid() {
        each(|shape, case, a| {
            let rows = positions(&shape.into());
            let (f, i, classes) = (DType::F32, DType::I32, [a.n]);
            let mut inputs = vec![(f, shape), (i, &rows[..])];
            inputs.extend(case.weight.then_some((f, &classes[..])));
            gpu(&case.op(), &inputs);
            let mut inputs = vec![(f, &rows[..]), (f, shape), (i, &rows[..]), (f, &rows[..])];
            inputs.extend(case.weight.then_some((f, &classes[..])));
            gpu(&LossBackward(case.op()), &inputs);
        });
    }
}

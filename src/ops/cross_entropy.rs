//! Cross-entropy from logits, forward and backward each one kernel, and the negative log-likelihood of log-probabilities.

use super::movement::narrowed;
use super::rows::{Around, bind, gpu_lanes, like, to_compute, variant};
use crate::autograd::vjp_by_decomposition;
use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::{Dispatch, GpuKernel, GpuStep, Param, Slot, grid};
use crate::graph::asked::asked;
use crate::graph::{Along, Cut, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record, record_all};
use crate::layout::Layout;
use crate::{DType, Error, Result, Scalar, Shape, Tensor, autocast};
use smallvec::smallvec;
use std::sync::Arc;

/// How the losses of a batch become one.
///
/// ```
/// use fornax::{CrossEntropy, Device, Reduction, Tensor};
/// let logits = Tensor::zeros([3, 4], Device::cpu());
/// let targets = Tensor::from_slice(&[0, 1, 2], 3, Device::cpu())?;
/// let each = logits.cross_entropy(&targets, &CrossEntropy { reduction: Reduction::None, ..Default::default() });
/// assert_eq!(each.dims(), [3]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// The mean; of weighted losses over class ids, the weighted mean over the positions that are not ignored.
    #[default]
    Mean,
    /// The sum.
    Sum,
    /// The sum, divided by the size of the first axis: of losses with several terms a sample, such as the KL divergence, the mean over samples.
    BatchMean,
    /// One loss a position.
    None,
}

impl Reduction {
    /// One loss of many.
    pub(crate) fn apply(self, losses: &Tensor) -> Result<Tensor> {
        match self {
            Reduction::Mean => losses.try_mean(()),
            Reduction::Sum => losses.try_sum(()),
            Reduction::BatchMean => losses.try_sum(())?.try_div(losses.dims().first().map_or(1.0, |&n| n as f64)),
            Reduction::None => Ok(losses.clone()),
        }
    }
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
pub(super) struct Loss {
    pub weight: bool,
    pub smooth: bool,
    /// ignore_index, label_smoothing.
    pub scalars: [Scalar; 2],
}

/// From (dlosses, logits, class ids, log-sum-exp, weight?) to dlogits.
#[derive(Clone, Debug)]
pub(super) struct LossBackward(pub Loss);

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
        if let Some(x) = autocast::raised(self)? {
            return x.try_cross_entropy(targets, options);
        }
        let x = to_compute(OP, self)?;
        let weight = class_weight(OP, &x, options)?;
        let losses = if targets.dtype().is_float() {
            if targets.shape() != self.shape() {
                return Err(Error::shape(
                    OP,
                    &[self.shape(), targets.shape()],
                    "target probabilities have the logits' shape (class ids are integers: cast them)",
                ));
            }
            probabilities(&x, targets, weight, eps, options.reduction)?
        } else {
            check_targets(OP, &x, targets)?;
            let op = Loss { weight: weight.is_some(), smooth: eps > 0.0, scalars: [options.ignore_index.into(), eps.into()] };
            let targets = narrowed(targets)?;
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
        let (picked, counted) = pick(&x, &narrowed(targets)?, weight.as_ref(), options.ignore_index.into())?;
        let losses = picked.try_mul(&counted)?.try_neg()?;
        reduce(&losses, options.reduction, || counted.try_sum(()))?.try_cast(self.dtype())
    }
}

/// The axis of the classes.
pub(super) fn class_axis(rank: usize) -> usize {
    (rank > 1) as usize
}

/// The logits' shape without the classes.
fn positions(logits: &Shape) -> Shape {
    let mut s = logits.clone();
    s.remove(class_axis(logits.rank()));
    s
}

/// The axes of logits that are not the classes': length, place among the logits' axes, place among the positions'.
fn rows_of(logits: &Shape) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
    let class = class_axis(logits.rank());
    (0..logits.rank()).filter(move |&d| d != class).map(move |d| (logits[d], d, d - (d > class) as usize))
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
        Reduction::Mean => losses.try_sum(())?.try_div(counted()?),
        _ => reduction.apply(losses),
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
    reduction.apply(&x.try_log_softmax(axis as isize)?.try_mul(q)?.try_sum(axis)?.try_neg()?)
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
    let gathered = asked("nll_loss", "", || x.try_gather(axis as isize, &safe.try_unsqueeze(axis as isize)?))?;
    let picked = gathered.try_reshape(targets.shape())?;
    // Whatever stands at class 0 of an ignored position, infinity included, must not reach the loss.
    let picked = kept.try_where(picked, 0.0)?;
    let mut counted = kept.try_cast(x.dtype())?;
    if let Some(w) = weight {
        let each = asked("nll_loss", "", || w.try_index_select(0, &safe.try_reshape(safe.numel())?))?.try_reshape(targets.shape())?;
        counted = counted.try_mul(each)?;
    }
    Ok((picked, counted))
}

impl Loss {
    fn params(&self, first: usize, a: Around) -> Vec<Param> {
        let scalar = |index, dtype| Param::Scalar { index, dtype };
        vec![first.into(), a.n.into(), a.inner.into(), scalar(0, DType::I32), scalar(1, DType::F32)]
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

    fn cuts(&self, inputs: &[Meta], _outputs: &[Meta]) -> Vec<Cut> {
        rows_of(inputs[0].shape())
            .map(|(len, axis, row)| {
                let ins = [Some(axis), Some(row), None];
                Cut::new(len, &ins[..inputs.len()], &[Along::axis(row); 3])
            })
            .collect()
    }

    fn index_range(&self, inputs: &[&Layout]) -> Option<usize> {
        Some(inputs[0].shape[class_axis(inputs[0].shape.rank())])
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
        let mut params = self.params(a.rows(), a);
        params.push(Param::Fault);
        let dispatch = Dispatch { label: OP, source: source.into(), bindings: bind(&slots), params, groups, flops: 0 };
        Ok(GpuKernel { temps: Vec::new(), steps: vec![GpuStep::Dispatch(dispatch)] })
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

    fn cuts(&self, inputs: &[Meta], _outputs: &[Meta]) -> Vec<Cut> {
        rows_of(inputs[1].shape())
            .map(|(len, axis, row)| {
                let ins = [Some(row), Some(axis), Some(row), Some(row), None];
                Cut::new(len, &ins[..inputs.len()], &[Along::axis(axis)])
            })
            .collect()
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
#[path = "cross_entropy_tests.rs"]
mod tests;

//! Connectionist temporal classification (Graves et al. 2006): the likelihood of a label sequence by all its alignments to a longer input, forward and backward
//! each one op. With blanks between, before and behind, S labels are 2S + 1 states; α is the logarithm of what leads to a state, β of what leads from it
//! to the end. Each row of them is kept relative to the row before, so that long inputs lose no precision.

use super::rows::{bind, variant};
use crate::autograd::vjp_by_decomposition;
use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::{Dispatch, GpuKernel, GpuStep, Param, Slot, grid};
use crate::graph::asked::asked;
use crate::graph::{Along, Cut, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record, record_all};
use crate::layout::Layout;
use crate::{DType, Error, Options, Result, Scalar, Tensor};
use smallvec::smallvec;
use std::sync::Arc;

const OP: &str = "ctc_loss";

/// From (log-probabilities `[T, N, C]`, labels `[N, S]`, lengths of inputs and of labels `[N]`) to (losses `[N]`, α `[N, T, 2S + 1]`): the latter is auxiliary.
#[derive(Clone, Debug)]
pub(super) struct Ctc {
    /// Whether infinite losses count for nothing.
    pub zero_infinity: bool,
    pub blank: [Scalar; 1],
}

/// From (dlosses, the forward op's inputs, α) to the gradient of the log-probabilities. As PyTorch's it is the one after a log-softmax: `exp(x) − γ` with the
/// posterior γ, which sums to 0 over the classes.
#[derive(Clone, Debug)]
pub(super) struct CtcBackward(pub Ctc);

/// The losses of a batch, each; see [`Ctc`].
pub(crate) fn ctc(inputs: [&Tensor; 4], blank: usize, zero_infinity: bool) -> Result<Tensor> {
    let op = Ctc { zero_infinity, blank: [blank.into()] };
    Ok(record_all(Arc::new(op), &inputs)?.swap_remove(0))
}

/// The sizes T, N, C, S.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub steps: usize,
    pub batch: usize,
    pub classes: usize,
    pub labels: usize,
}

impl Sizes {
    pub fn of(x: &[usize], targets: &[usize]) -> Sizes {
        Sizes { steps: x[0], batch: x[1], classes: x[2], labels: targets[1] }
    }

    pub fn states(&self) -> usize {
        2 * self.labels + 1
    }

    /// Invocations that share a sequence: a power of two.
    fn lanes(&self) -> usize {
        self.states().next_power_of_two().clamp(32, 256)
    }

    fn params(&self) -> Vec<Param> {
        let blank = Param::Scalar { index: 0, dtype: DType::I32 };
        vec![self.batch.into(), self.steps.into(), self.classes.into(), self.labels.into(), blank]
    }
}

/// What stands for the logarithm of 0 where infinities would meet.
const NEVER: f64 = -1e30;

/// The recursions by smaller ops.
struct Parts {
    /// The classes of the states, `[N, L]`.
    classes: Tensor,
    /// The states' log-probabilities, `[T, N, L]`.
    emissions: Tensor,
    /// Whether a state can follow the one before the last, `[N, L]`.
    skips: Tensor,
    /// Whether a state is one of the last two, `[N, L]`.
    last: Tensor,
    /// Lengths of inputs, `[N, 1]`.
    lengths: Tensor,
}

impl Parts {
    fn new(x: &Tensor, targets: &Tensor, inputs: &Tensor, labels: &Tensor, blank: Scalar) -> Result<Parts> {
        let s = Sizes::of(x.dims(), targets.dims());
        let ids: Options = (DType::I32, x.device()).into();
        let count = labels.try_unsqueeze(1)?;
        let named = Tensor::try_arange(0, s.labels, 1, ids)?.try_lt(&count)?.try_where(targets, blank)?;
        let blanks = named.try_full_like(blank)?;
        let pairs = Tensor::try_stack(&[&blanks, &named], 2)?.try_reshape([s.batch, 2 * s.labels])?;
        let classes = Tensor::try_cat(&[&pairs, &Tensor::try_full([s.batch, 1], blank, ids)?], 1)?;
        let at = classes.try_unsqueeze(0)?.try_expand([s.steps, s.batch, s.states()])?;
        let emissions = asked("ctc_loss", "", || x.try_gather(2, &at))?.try_maximum(NEVER)?;
        let skips = match s.labels {
            0 => Tensor::try_zeros([s.batch, 1], (DType::Bool, x.device()))?,
            n => {
                let differs = classes.try_narrow(1, 2, 2 * n - 1)?.try_ne(classes.try_narrow(1, 0, 2 * n - 1)?)?;
                Tensor::try_cat(&[&Tensor::try_zeros([s.batch, 2], (DType::Bool, x.device()))?, &differs], 1)?
            }
        };
        let place = Tensor::try_arange(0, s.states(), 1, ids)?;
        let end = count.try_mul(2)?;
        let last = place.try_eq(&end)?.try_logical_or(place.try_eq(end.try_sub(1)?)?)?;
        Ok(Parts { classes, emissions, skips, last, lengths: inputs.try_unsqueeze(1)? })
    }

    /// The states moved up by `by` places (down, where that is negative); nothing comes in.
    fn moved(row: &Tensor, by: isize) -> Result<Tensor> {
        let (n, k) = (row.dims()[1], (by.unsigned_abs()).min(row.dims()[1]));
        let edge = Tensor::try_full([row.dims()[0], k], NEVER, (row.dtype(), row.device()))?;
        match by > 0 {
            true => Tensor::try_cat(&[&edge, &row.try_narrow(1, 0, n - k)?], 1),
            false => Tensor::try_cat(&[&row.try_narrow(1, k, n - k)?, &edge], 1),
        }
    }

    fn sum(a: &Tensor, b: &Tensor, c: &Tensor) -> Result<Tensor> {
        Tensor::try_stack(&[a, b, c], 0)?.try_logsumexp(0)
    }

    fn steps(&self) -> usize {
        self.emissions.dims()[0]
    }

    /// α of each step.
    fn alphas(&self) -> Result<Vec<Tensor>> {
        let place = Tensor::try_arange(0, self.emissions.dims()[2], 1, (DType::I32, self.emissions.device()))?;
        let mut rows = vec![place.try_lt(2)?.try_where(self.emissions.try_select(0, 0)?, NEVER)?];
        for t in 1..self.steps() {
            let before = &rows[t - 1];
            let skipped = self.skips.try_where(Self::moved(before, 2)?, NEVER)?;
            rows.push(Self::sum(before, &Self::moved(before, 1)?, &skipped)?.try_add(self.emissions.try_select(0, t as isize)?)?);
        }
        Ok(rows)
    }

    /// The log-likelihoods, `[N]`.
    fn likelihood(&self, alphas: &[Tensor]) -> Result<Tensor> {
        let first = |x: &Tensor| x.try_select(1, 0);
        // Of no input: certain for no labels.
        let mut y = first(&self.last)?.try_where(alphas[0].try_select(1, 0)?.try_zeros_like()?, NEVER)?;
        for (t, row) in alphas.iter().enumerate() {
            let end = self.last.try_where(row, NEVER)?.try_logsumexp(1)?;
            y = first(&self.lengths)?.try_eq(t + 1)?.try_where(end, y)?;
        }
        Ok(y)
    }

    /// β of each step, without the step's own emission.
    fn betas(&self, dtype: DType) -> Result<Vec<Tensor>> {
        let steps = self.steps();
        let end = self.last.try_where(0.0, self.last.try_cast(dtype)?.try_full_like(NEVER)?)?;
        let never = end.try_full_like(NEVER)?;
        let mut rows = vec![self.lengths.try_eq(steps)?.try_where(&end, &never)?];
        for t in (0..steps - 1).rev() {
            let after = rows[rows.len() - 1].try_add(self.emissions.try_select(0, t as isize + 1)?)?;
            let skipped = Self::moved(&self.skips.try_where(&after, NEVER)?, -2)?;
            let row = Self::sum(&after, &Self::moved(&after, -1)?, &skipped)?;
            let row = self.lengths.try_gt(t + 1)?.try_where(row, &never)?;
            rows.push(self.lengths.try_eq(t + 1)?.try_where(&end, row)?);
        }
        rows.reverse();
        Ok(rows)
    }
}

/// An impossible labelling.
fn impossible(likelihood: &Tensor) -> Result<Tensor> {
    likelihood.try_le(0.5 * NEVER)
}

impl Op for Ctc {
    fn name(&self) -> &'static str {
        "ctc_loss"
    }

    fn key(&self, key: &mut Key) {
        key.add(self.zero_infinity as u64);
    }

    fn scalars(&self) -> &[Scalar] {
        &self.blank
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let (x, targets) = (inputs[0], inputs[1]);
        if !matches!(x.dtype, DType::F32 | DType::F64) || inputs[1..].iter().any(|m| m.dtype != DType::I32) {
            return Err(Error::dtype(OP, &inputs.iter().map(|m| m.dtype).collect::<Vec<_>>(), "f32 or f64, and three of i32"));
        }
        let fits = match (x.shape().as_ref(), targets.shape().as_ref()) {
            ([t, n, c], [m, _]) => *t > 0 && *c > 0 && n == m && inputs[2..].iter().all(|m| m.shape().as_ref() == [*n]),
            _ => false,
        };
        if !fits {
            let expected = "log-probabilities [T, N, C] of at least one step and class, labels [N, S], lengths [N] of both";
            return Err(Error::shape(OP, &inputs.iter().map(|m| m.shape()).collect::<Vec<_>>(), expected));
        }
        let s = Sizes::of(x.shape(), targets.shape());
        Ok(smallvec![Meta::new(x.dtype, [s.batch]), Meta::new(x.dtype, [s.batch, s.steps, s.states()])])
    }

    fn saves(&self) -> Saves {
        Saves { inputs: u32::MAX, outputs: 0b10 }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let [x, targets, inputs, labels] = ctx.inputs else { return ctx.not_differentiable() };
        let dx = record(Arc::new(CtcBackward(self.clone())), &[ctx.cotangent()?, x, targets, inputs, labels, &ctx.outputs[1]])?;
        Ok(vec![Some(dx), None, None, None])
    }

    fn decompose(&self, inputs: &[Tensor]) -> Option<Result<Vec<Tensor>>> {
        let build = || {
            let parts = Parts::new(&inputs[0], &inputs[1], &inputs[2], &inputs[3], self.blank[0])?;
            let alphas = parts.alphas()?;
            let y = parts.likelihood(&alphas)?;
            let none = if self.zero_infinity { 0.0 } else { f64::INFINITY };
            let losses = impossible(&y)?.try_where(none, y.try_neg()?)?;
            Ok(vec![losses, Tensor::try_stack(&alphas.iter().collect::<Vec<_>>(), 1)?])
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
        vec![Cut::new(inputs[0].shape()[1], &[Some(1), Some(0), Some(0), Some(0)], &[Along::axis(0); 2])]
    }

    fn index_range(&self, inputs: &[&Layout]) -> Option<usize> {
        Some(inputs[0].shape[2])
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let s = Sizes::of(ctx.shape(0), ctx.shape(1));
        if s.batch == 0 {
            return Ok(GpuKernel::default());
        }
        let mut slots: Vec<_> = (0..4).map(|i| (Slot::Input(i), false)).collect();
        slots.extend([Slot::Output(1), Slot::Output(0), Slot::Fault].map(|s| (s, true)));
        let mut params = s.params();
        params.push(Param::Fault);
        let dispatch = recursion(OP, true, self.zero_infinity, &slots, params, s);
        Ok(GpuKernel { temps: Vec::new(), steps: vec![GpuStep::Dispatch(dispatch)] })
    }
}

/// The dispatch that runs along the steps, one workgroup a sequence.
fn recursion(label: &'static str, forward: bool, zero: bool, slots: &[(Slot, bool)], params: Vec<Param>, s: Sizes) -> Dispatch {
    let flags = [("FORWARD", forward), ("ZERO", forward && zero)];
    let source = variant(include_str!("../../shaders/ctc.wgsl"), &[("W", s.lanes())], &flags);
    Dispatch { label, source: source.into(), bindings: bind(slots), params, groups: grid(s.batch), flops: 0 }
}

impl Op for CtcBackward {
    fn name(&self) -> &'static str {
        "ctc_loss_backward"
    }

    fn key(&self, key: &mut Key) {
        self.0.key(key)
    }

    fn scalars(&self) -> &[Scalar] {
        &self.0.blank
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        Ok(smallvec![Meta::new(inputs[1].dtype, inputs[1].shape())])
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        vjp_by_decomposition(self, ctx)
    }

    fn decompose(&self, inputs: &[Tensor]) -> Option<Result<Vec<Tensor>>> {
        let build = || {
            let (dl, x) = (&inputs[0], &inputs[1]);
            // α is computed anew: only so do gradients flow through it.
            let parts = Parts::new(x, &inputs[2], &inputs[3], &inputs[4], self.0.blank[0])?;
            let alphas = parts.alphas()?;
            let likelihood = parts.likelihood(&alphas)?;
            let (alphas, betas) = (alphas.iter().collect::<Vec<_>>(), parts.betas(x.dtype())?);
            let both = Tensor::try_stack(&alphas, 0)?.try_add(Tensor::try_stack(&betas.iter().collect::<Vec<_>>(), 0)?)?;
            let at = parts.classes.try_unsqueeze(0)?.try_expand(both.shape())?;
            let posterior = x.try_zeros_like()?.try_scatter_add(2, &at, &both.try_softmax(2)?)?;
            let none = if self.0.zero_infinity { 0.0 } else { f64::NAN };
            let dx = impossible(&likelihood)?.try_reshape([1, x.dims()[1], 1])?.try_where(none, x.try_exp()?.try_sub(posterior)?)?;
            let dx = dx.try_mul(dl.try_reshape([1, x.dims()[1], 1])?)?;
            let step = Tensor::try_arange(0, x.dims()[0], 1, (DType::I32, x.device()))?.try_reshape([x.dims()[0], 1, 1])?;
            Ok(vec![step.try_lt(parts.lengths.try_unsqueeze(0)?)?.try_where(dx, 0.0)?])
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
        let along = [Some(0), Some(1), Some(0), Some(0), Some(0), Some(0)];
        vec![Cut::new(inputs[1].shape()[1], &along, &[Along::axis(1)])]
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let s = Sizes::of(ctx.shape(1), ctx.shape(2));
        if s.batch == 0 {
            return Ok(GpuKernel::default());
        }
        // β first, then each step of each sequence by itself.
        let mut slots: Vec<_> = (1..5).map(|i| (Slot::Input(i), false)).collect();
        slots.push((Slot::Temp(0), true));
        let beta = recursion("ctc_loss_beta", false, false, &slots, s.params(), s);
        let mut slots: Vec<_> = (0..6).map(|i| (Slot::Input(i), false)).collect();
        slots.extend([(Slot::Temp(0), false), (Slot::Output(0), true)]);
        let source = variant(include_str!("../../shaders/ctc_backward.wgsl"), &[("W", s.lanes())], &[("ZERO", self.0.zero_infinity)]);
        let (bindings, groups) = (bind(&slots), grid(s.batch * s.steps));
        let dispatch = Dispatch { label: self.name(), source: source.into(), bindings, params: s.params(), groups, flops: 0 };
        let temps = vec![4 * s.batch * s.steps * s.states()];
        Ok(GpuKernel { temps, steps: vec![GpuStep::Dispatch(beta), GpuStep::Dispatch(dispatch)] })
    }
}

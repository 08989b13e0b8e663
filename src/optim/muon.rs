//! Muon.

use super::check_settings;
use super::engine::{Core, Rule, Setting, State, Update, optimizer};
use super::num::Num;
use crate::nn::Param;
use crate::{Error, Result, Tensor};
use smallvec::{SmallVec, smallvec};

/// Muon (Jordan 2024): momentum, orthogonalised by a Newton-Schulz iteration, as PyTorch's `torch.optim.Muon`. For matrices alone: embeddings, heads, biases and
/// norms want another optimizer beside it, AdamW say.
///
/// ```text
/// b ← momentum · b + (1 − momentum) ∇
/// u = b, or momentum · b + (1 − momentum) ∇ if nesterov
/// X = u / max(‖u‖, ε); ns_steps times: A = X Xᵀ, X ← a X + (b A + c A²) X       (on the side of the smaller axis)
/// w ← w − lr · weight_decay · w − lr · √max(1, rows / columns) · X
/// ```
///
/// PyTorch iterates in bf16; here it is done in the dtype of the gradient.
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::{AdamW, Muon};
/// let layer = Linear::new(3, 2, fornax::Device::cpu());
/// let (matrices, others): (Vec<_>, Vec<_>) = layer.parameters().into_iter().partition(|p| p.shape().rank() == 2);
/// let (muon, adam) = (Muon::new(matrices, 1e-3), AdamW::new(others, 1e-3));
/// ```
pub struct Muon(Core<MuonRule>);

/// What the learning rate of [`Muon`] is multiplied by, for a matrix of `a` rows and `b` columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdjustLr {
    /// √max(1, a / b), as Jordan's.
    Original,
    /// 0.2 · √max(a, b): steps as large as AdamW's (Liu et al. 2025).
    MatchRmsAdamw,
    /// √(a / b).
    SpectralUnclamped,
}

impl Setting for AdjustLr {
    fn get(&self) -> f64 {
        *self as u8 as f64
    }
    fn put(&mut self, value: f64) {
        *self = match value {
            1.0 => AdjustLr::MatchRmsAdamw,
            2.0 => AdjustLr::SpectralUnclamped,
            _ => AdjustLr::Original,
        }
    }
}

/// The settings of [`Muon`].
#[derive(Clone)]
pub struct MuonRule {
    weight_decay: f64,
    momentum: f64,
    nesterov: bool,
    ns_a: f64,
    ns_b: f64,
    ns_c: f64,
    ns_steps: u32,
    eps: f64,
    adjust_lr: AdjustLr,
}

impl MuonRule {
    fn new() -> MuonRule {
        MuonRule {
            weight_decay: 0.1,
            momentum: 0.95,
            nesterov: true,
            ns_a: 3.4445,
            ns_b: -4.775,
            ns_c: 2.0315,
            ns_steps: 5,
            eps: 1e-7,
            adjust_lr: AdjustLr::Original,
        }
    }

    /// A matrix of about the same singular vectors, and singular values about 1.
    fn orthogonalised(&self, u: &Tensor) -> Result<Tensor> {
        let tall = u.dims()[0] > u.dims()[1];
        let mut x = if tall { u.try_t()? } else { u.clone() };
        let norm = x.try_norm(2.0, ())?.try_maximum(self.eps)?;
        x = x.try_div(norm)?;
        for _ in 0..self.ns_steps {
            let a = x.try_matmul(&x.try_t()?)?;
            let b = a.try_mul(self.ns_b)?.try_add(a.try_matmul(&a)?.try_mul(self.ns_c)?)?;
            x = x.try_mul(self.ns_a)?.try_add(b.try_matmul(&x)?)?;
        }
        if tall { x.try_t() } else { Ok(x) }
    }
}

impl Rule for MuonRule {
    fn name(&self) -> &'static str {
        "Muon"
    }
    fn settings(&mut self) -> Vec<(&'static str, &mut dyn Setting)> {
        self.fields()
    }
    fn state(&self) -> &'static [&'static str] {
        &["momentum_buffer"]
    }
    fn check(&self) -> Result<()> {
        let inf = f64::INFINITY;
        check_settings("Muon", &[("momentum", self.momentum, 0.0, inf), ("weight_decay", self.weight_decay, 0.0, inf)])?;
        check_settings("Muon", &[("ns_steps", self.ns_steps as f64, 0.0, 100.0)])
    }
    fn takes(&self, param: &Param) -> Result<()> {
        if param.shape().rank() == 2 {
            return Ok(());
        }
        Err(Error::shape("Muon", &[param.shape()], "it takes matrices alone: give the others to another optimizer, AdamW say"))
    }
    fn coefficients(&self, _: f64, _: &Num, _: &Num) -> Result<SmallVec<[Num; 4]>> {
        Ok(SmallVec::new())
    }
    fn apply(&self, u: Update) -> Result<(Tensor, State)> {
        let lerp = |a: &Tensor, b: &Tensor, part: f64| a.try_add(b.try_sub(a)?.try_mul(part)?);
        let buffer = lerp(&u.state[0], &u.g, 1.0 - self.momentum)?;
        let direction = if self.nesterov { lerp(&u.g, &buffer, self.momentum)? } else { buffer.clone() };
        let direction = self.orthogonalised(&direction)?;
        let (a, b) = (u.w.dims()[0] as f64, u.w.dims()[1].max(1) as f64);
        let ratio = match self.adjust_lr {
            AdjustLr::Original => (a / b).max(1.0).sqrt(),
            AdjustLr::MatchRmsAdamw => 0.2 * a.max(b).sqrt(),
            AdjustLr::SpectralUnclamped => (a / b).sqrt(),
        };
        let w = u.w.try_mul(1.0 - u.lr * self.weight_decay)?;
        Ok((w.try_sub(direction.try_mul(u.lr * ratio)?)?, smallvec![buffer]))
    }
}

optimizer!([Muon = MuonRule::new()], MuonRule {
    /// Sets the decoupled weight decay (0.1).
    weight_decay(weight_decay: f64) = "0.05";
    /// Sets the momentum (0.95).
    momentum(momentum: f64) = "0.9";
    /// Turns Nesterov's momentum on or off (on).
    nesterov(nesterov: bool) = "false";
    /// Sets the coefficients of the iteration (3.4445, −4.775, 2.0315).
    ns_coefficients(ns_a: f64, ns_b: f64, ns_c: f64) = "2.0, -1.5, 0.5";
    /// Sets the number of iterations (5).
    ns_steps(ns_steps: u32) = "6";
    /// Sets the least norm to divide by (1e-7).
    eps(eps: f64) = "1e-8";
    /// Sets what the learning rate is multiplied by (√max(1, rows / columns)).
    adjust_lr(adjust_lr: AdjustLr) = "fornax::optim::AdjustLr::MatchRmsAdamw";
});

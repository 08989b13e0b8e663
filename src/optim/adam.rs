//! Adam and AdamW.

use super::check_settings;
use super::engine::{Core, Rule, Setting, State, Update, optimizer};
use super::num::Num;
use crate::{Result, Tensor};
use smallvec::{SmallVec, smallvec};

/// Adam (Kingma and Ba 2015), as PyTorch's `torch.optim.Adam`:
///
/// ```text
/// g ← ∇ + weight_decay · w
/// m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
/// w ← w − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
/// ```
///
/// With `amsgrad` the largest v so far takes the place of v (Reddi et al. 2018).
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::Adam;
/// let layer = Linear::new(3, 2, fornax::Device::cpu());
/// let optimizer = Adam::new(layer.parameters(), 1e-3).betas(0.9, 0.99);
/// ```
pub struct Adam(Core<AdamRule>);

/// Adam with decoupled weight decay (Loshchilov and Hutter 2019), as PyTorch's `torch.optim.AdamW`: [`Adam`] without the L2 penalty,
/// after `w ← w − lr · weight_decay · w` (the decay is 0.01 by default).
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::AdamW;
/// let layer = Linear::new(3, 2, fornax::Device::cpu());
/// // Biases and norms are not decayed.
/// let (decay, no_decay): (Vec<_>, Vec<_>) = layer.parameters().into_iter().partition(|p| p.shape().rank() > 1);
/// let optimizer = AdamW::new(decay, 1e-3).weight_decay(0.05).group(no_decay, |g| g.weight_decay(0.0));
/// ```
pub struct AdamW(Core<AdamRule>);

/// The settings of [`Adam`] and [`AdamW`].
#[derive(Clone)]
pub struct AdamRule {
    name: &'static str,
    decoupled: bool,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    amsgrad: bool,
}

impl AdamRule {
    fn new(name: &'static str, decoupled: bool, weight_decay: f64) -> AdamRule {
        AdamRule { name, decoupled, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, amsgrad: false }
    }
}

/// The new first and second moment.
pub(super) fn moments(g: &Tensor, m: &Tensor, v: &Tensor, beta1: f64, beta2: f64) -> Result<(Tensor, Tensor)> {
    let m = m.try_add(g.try_sub(m)?.try_mul(1.0 - beta1)?)?;
    let v = v.try_mul(beta2)?.try_add(g.try_square()?.try_mul(1.0 - beta2)?)?;
    Ok((m, v))
}

/// Weight decay, either way: the weight and the gradient that are left.
pub(super) fn decay(w: Tensor, g: Tensor, weight_decay: f64, lr: f64, decoupled: bool) -> Result<(Tensor, Tensor)> {
    match (weight_decay != 0.0, decoupled) {
        (false, _) => Ok((w, g)),
        (true, true) => Ok((w.try_mul(1.0 - lr * weight_decay)?, g)),
        (true, false) => {
            let g = g.try_add(w.try_mul(weight_decay)?)?;
            Ok((w, g))
        }
    }
}

/// Refuses what no member of the family takes.
pub(super) fn check_adam(name: &'static str, betas: (f64, f64), eps: f64, weight_decay: f64) -> Result<()> {
    let inf = f64::INFINITY;
    check_settings(name, &[("beta1", betas.0, 0.0, 1.0), ("beta2", betas.1, 0.0, 1.0)])?;
    check_settings(name, &[("eps", eps, 0.0, inf), ("weight_decay", weight_decay, 0.0, inf)])
}

impl Rule for AdamRule {
    fn name(&self) -> &'static str {
        self.name
    }
    fn settings(&mut self) -> Vec<(&'static str, &mut dyn Setting)> {
        self.fields()
    }
    fn state(&self) -> &'static [&'static str] {
        if self.amsgrad { &["exp_avg", "exp_avg_sq", "max_exp_avg_sq"] } else { &["exp_avg", "exp_avg_sq"] }
    }
    fn check(&self) -> Result<()> {
        check_adam(self.name, (self.beta1, self.beta2), self.eps, self.weight_decay)
    }
    fn coefficients(&self, lr: f64, t: &Num, _: &Num) -> Result<SmallVec<[Num; 4]>> {
        Ok(smallvec![t.spent(self.beta1)?.recip()?.times(lr)?, t.spent(self.beta2)?.sqrt()?.recip()?])
    }
    fn apply(&self, u: Update) -> Result<(Tensor, State)> {
        let (w, g) = decay(u.w, u.g, self.weight_decay, u.lr, self.decoupled)?;
        let (m, v) = moments(&g, &u.state[0], &u.state[1], self.beta1, self.beta2)?;
        let mut state: State = smallvec![m.clone(), v.clone()];
        let mut largest = v;
        if self.amsgrad {
            largest = u.state[2].try_maximum(&largest)?;
            state.push(largest.clone());
        }
        let denominator = largest.try_sqrt()?.try_mul(&u.c[1])?.try_add(self.eps)?;
        Ok((w.try_sub(m.try_div(denominator)?.try_mul(&u.c[0])?)?, state))
    }
}

optimizer!([Adam = AdamRule::new("Adam", false, 0.0), AdamW = AdamRule::new("AdamW", true, 0.01)], AdamRule {
    /// Sets the decay of the two moments (0.9, 0.999).
    betas(beta1: f64, beta2: f64) = "0.9, 0.95";
    /// Sets ε, which keeps the quotient finite (1e-8).
    eps(eps: f64) = "1e-6";
    /// Sets the weight decay: an L2 penalty in Adam (0), decoupled in AdamW (0.01).
    weight_decay(weight_decay: f64) = "0.05";
    /// Divides by the largest second moment so far, not by the present one (off).
    amsgrad(amsgrad: bool) = "true";
});

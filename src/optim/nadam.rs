//! NAdam and RAdam.

use super::adam::{check_adam, decay, moments};
use super::check_settings;
use super::engine::{Core, Rule, Setting, State, Update, optimizer};
use super::num::Num;
use crate::{Result, Tensor};
use smallvec::{SmallVec, smallvec};

/// Adam with Nesterov's momentum (Dozat 2016), as PyTorch's `torch.optim.NAdam` (whose learning rate is 2·10⁻³):
///
/// ```text
/// g ← ∇ + weight_decay · w
/// μₜ = β₁ (1 − ½ · 0.96^(t · momentum_decay))
/// m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
/// w ← w − lr · (μₜ₊₁ m / (1 − Π μ₁ … μₜ₊₁) + (1 − μₜ) g / (1 − Π μ₁ … μₜ)) / (√(v / (1 − β₂ᵗ)) + ε)
/// ```
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::NAdam;
/// let layer = Linear::new(3, 2, fornax::Device::cpu());
/// let optimizer = NAdam::new(layer.parameters(), 2e-3);
/// ```
pub struct NAdam(Core<NAdamRule>);

/// The settings of [`NAdam`].
#[derive(Clone)]
pub struct NAdamRule {
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    momentum_decay: f64,
    decoupled_weight_decay: bool,
}

impl NAdamRule {
    fn new() -> NAdamRule {
        NAdamRule { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, momentum_decay: 4e-3, decoupled_weight_decay: false }
    }

    /// μ of this step.
    fn mu(&self, t: &Num) -> Result<Num> {
        t.power_of(0.96f64.powf(self.momentum_decay))?.times(-0.5 * self.beta1)?.plus(self.beta1)
    }
}

impl Rule for NAdamRule {
    fn name(&self) -> &'static str {
        "NAdam"
    }
    fn settings(&mut self) -> Vec<(&'static str, &mut dyn Setting)> {
        self.fields()
    }
    fn state(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_avg_sq"]
    }
    fn check(&self) -> Result<()> {
        check_adam("NAdam", (self.beta1, self.beta2), self.eps, self.weight_decay)?;
        check_settings("NAdam", &[("momentum_decay", self.momentum_decay, 0.0, f64::INFINITY)])
    }
    fn product(&self) -> Option<&'static str> {
        Some("mu_product")
    }
    fn factor(&self, t: &Num) -> Result<Option<Num>> {
        self.mu(t).map(Some)
    }
    fn coefficients(&self, lr: f64, t: &Num, product: &Num) -> Result<SmallVec<[Num; 4]>> {
        let next = self.mu(&t.plus(1.0)?)?;
        let of_gradient = self.mu(t)?.left()?.times(lr)?.mul(&product.left()?.recip()?)?;
        let of_moment = next.times(lr)?.mul(&product.mul(&next)?.left()?.recip()?)?;
        Ok(smallvec![of_gradient, of_moment, t.spent(self.beta2)?.recip()?])
    }
    fn apply(&self, u: Update) -> Result<(Tensor, State)> {
        let (w, g) = decay(u.w, u.g, self.weight_decay, u.lr, self.decoupled_weight_decay)?;
        let (m, v) = moments(&g, &u.state[0], &u.state[1], self.beta1, self.beta2)?;
        let denominator = v.try_mul(&u.c[2])?.try_sqrt()?.try_add(self.eps)?;
        let numerator = g.try_mul(&u.c[0])?.try_add(m.try_mul(&u.c[1])?)?;
        Ok((w.try_sub(numerator.try_div(denominator)?)?, smallvec![m, v]))
    }
}

optimizer!([NAdam = NAdamRule::new()], NAdamRule {
    /// Sets the decay of the two moments (0.9, 0.999).
    betas(beta1: f64, beta2: f64) = "0.9, 0.95";
    /// Sets ε, which keeps the quotient finite (1e-8).
    eps(eps: f64) = "1e-6";
    /// Sets the L2 penalty (0).
    weight_decay(weight_decay: f64) = "0.05";
    /// Sets the decay of the momentum's warm-up (4·10⁻³).
    momentum_decay(momentum_decay: f64) = "1e-3";
    /// Decays the weights themselves, as AdamW does (off).
    decoupled_weight_decay(decoupled_weight_decay: bool) = "true";
});

/// Rectified Adam (Liu et al. 2020), as PyTorch's `torch.optim.RAdam`: plain momentum as long as the variance of the step is not tractable, then Adam with the
/// rectification r:
///
/// ```text
/// g ← ∇ + weight_decay · w
/// m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
/// ρ∞ = 2 / (1 − β₂) − 1          ρ = ρ∞ − 2 t β₂ᵗ / (1 − β₂ᵗ)
/// r = √((ρ − 4)(ρ − 2) ρ∞ / ((ρ∞ − 4)(ρ∞ − 2) ρ))
/// w ← w − lr · m / (1 − β₁ᵗ) · (r √(1 − β₂ᵗ) / (√v + ε) if ρ > 5, else 1)
/// ```
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::RAdam;
/// let layer = Linear::new(3, 2, fornax::Device::cpu());
/// let optimizer = RAdam::new(layer.parameters(), 1e-3);
/// ```
pub struct RAdam(Core<RAdamRule>);

/// The settings of [`RAdam`].
#[derive(Clone)]
pub struct RAdamRule {
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    decoupled_weight_decay: bool,
}

impl RAdamRule {
    /// ρ, the length of the average so far.
    fn length(&self, t: &Num, limit: f64) -> Result<Num> {
        let ln = self.beta2.ln();
        match t {
            Num::Host(n) => {
                let power = self.beta2.powf(*n);
                Ok(Num::Host(limit - 2.0 * n * power / (1.0 - power)))
            }
            // In f32 the difference of the two would lose what is small: with x = −t ln β₂ it is a series,
            // 2t / (eˣ − 1) = −2 / ln β₂ − t + t x / 6 − t x³ / 360 + …
            Num::Device(t) => {
                let x = t.try_mul(-ln)?;
                let direct = t.try_div(x.try_expm1()?)?.try_mul(-2.0)?.try_add(limit)?;
                let inner = x.try_square()?.try_mul(-1.0 / 360.0)?.try_add(1.0 / 6.0)?;
                let series = t.try_sub(t.try_mul(&x)?.try_mul(inner)?)?.try_add(limit + 2.0 / ln)?;
                Ok(Num::Device(x.try_lt(0.5)?.try_where(series, direct)?))
            }
        }
    }
}

impl Rule for RAdamRule {
    fn name(&self) -> &'static str {
        "RAdam"
    }
    fn settings(&mut self) -> Vec<(&'static str, &mut dyn Setting)> {
        self.fields()
    }
    fn state(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_avg_sq"]
    }
    fn check(&self) -> Result<()> {
        check_adam("RAdam", (self.beta1, self.beta2), self.eps, self.weight_decay)
    }
    fn coefficients(&self, lr: f64, t: &Num, _: &Num) -> Result<SmallVec<[Num; 4]>> {
        let limit = 2.0 / (1.0 - self.beta2) - 1.0;
        let length = self.length(t, limit)?;
        let rate = t.spent(self.beta1)?.recip()?.times(lr)?;
        let rectified = length.plus(-4.0)?.mul(&length.plus(-2.0)?)?.mul(&length.recip()?)?;
        let rectified = rectified.times(limit / ((limit - 4.0) * (limit - 2.0)))?.mul(&t.spent(self.beta2)?)?.sqrt()?.mul(&rate)?;
        // One of the two is 0: which one is no part of the plan.
        let adaptive = length.above(5.0, &rectified, &Num::Host(0.0))?;
        let plain = length.above(5.0, &Num::Host(0.0), &rate)?;
        Ok(smallvec![plain, adaptive])
    }
    fn apply(&self, u: Update) -> Result<(Tensor, State)> {
        let (w, g) = decay(u.w, u.g, self.weight_decay, u.lr, self.decoupled_weight_decay)?;
        let (m, v) = moments(&g, &u.state[0], &u.state[1], self.beta1, self.beta2)?;
        let adaptive = v.try_sqrt()?.try_add(self.eps)?.try_recip()?.try_mul(&u.c[1])?;
        Ok((w.try_sub(m.try_mul(adaptive.try_add(&u.c[0])?)?)?, smallvec![m, v]))
    }
}

optimizer!([RAdam = RAdamRule { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, decoupled_weight_decay: false }], RAdamRule {
    /// Sets the decay of the two moments (0.9, 0.999).
    betas(beta1: f64, beta2: f64) = "0.9, 0.95";
    /// Sets ε, which keeps the quotient finite (1e-8).
    eps(eps: f64) = "1e-6";
    /// Sets the L2 penalty (0).
    weight_decay(weight_decay: f64) = "0.05";
    /// Decays the weights themselves, as AdamW does (off).
    decoupled_weight_decay(decoupled_weight_decay: bool) = "true";
});

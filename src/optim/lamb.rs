//! LAMB and Lion.

use super::adam::{check_adam, moments};
use super::check_settings;
use super::engine::{Core, Rule, Setting, State, Update, optimizer};
use super::num::Num;
use crate::{Result, Tensor};
use smallvec::{SmallVec, smallvec};

/// LAMB (You et al. 2020, "Large batch optimization for deep learning: training BERT in 76 minutes", algorithm 2, with φ the identity): Adam with a step for each
/// parameter that is in proportion to the parameter's own norm.
///
/// ```text
/// m ← β₁ m + (1 − β₁) ∇          v ← β₂ v + (1 − β₂) ∇²
/// u = m / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + ε) + weight_decay · w
/// w ← w − lr · ‖w‖ / ‖u‖ · u      (the quotient of the norms is 1 where one of them is 0)
/// ```
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::Lamb;
/// let layer = Linear::new(3, 2, fornax::Device::cpu());
/// let optimizer = Lamb::new(layer.parameters(), 2e-3);
/// ```
pub struct Lamb(Core<LambRule>);

/// The settings of [`Lamb`].
#[derive(Clone)]
pub struct LambRule {
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
}

impl Rule for LambRule {
    fn name(&self) -> &'static str {
        "Lamb"
    }
    fn settings(&mut self) -> Vec<(&'static str, &mut dyn Setting)> {
        self.fields()
    }
    fn state(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_avg_sq"]
    }
    fn check(&self) -> Result<()> {
        check_adam("Lamb", (self.beta1, self.beta2), self.eps, self.weight_decay)
    }
    fn coefficients(&self, _: f64, t: &Num, _: &Num) -> Result<SmallVec<[Num; 4]>> {
        Ok(smallvec![t.spent(self.beta1)?.recip()?, t.spent(self.beta2)?.recip()?])
    }
    fn apply(&self, u: Update) -> Result<(Tensor, State)> {
        let (m, v) = moments(&u.g, &u.state[0], &u.state[1], self.beta1, self.beta2)?;
        let denominator = v.try_mul(&u.c[1])?.try_sqrt()?.try_add(self.eps)?;
        let mut direction = m.try_mul(&u.c[0])?.try_div(denominator)?;
        if self.weight_decay != 0.0 {
            direction = direction.try_add(u.w.try_mul(self.weight_decay)?)?;
        }
        let (of_weight, of_step) = (u.w.try_norm(2.0, ())?, direction.try_norm(2.0, ())?);
        let usable = of_weight.try_gt(0.0)?.try_logical_and(of_step.try_gt(0.0)?)?;
        let trust = usable.try_where(of_weight.try_div(of_step)?, 1.0)?;
        Ok((u.w.try_sub(direction.try_mul(trust)?.try_mul(u.lr)?)?, smallvec![m, v]))
    }
}

optimizer!([Lamb = LambRule { beta1: 0.9, beta2: 0.999, eps: 1e-6, weight_decay: 0.01 }], LambRule {
    /// Sets the decay of the two moments (0.9, 0.999).
    betas(beta1: f64, beta2: f64) = "0.9, 0.95";
    /// Sets ε, which keeps the quotient finite (1e-6).
    eps(eps: f64) = "1e-8";
    /// Sets the weight decay, a part of the step (0.01).
    weight_decay(weight_decay: f64) = "0.05";
});

/// Lion (Chen et al. 2023, "Symbolic discovery of optimization algorithms"): steps of one size, in the direction of a sign. It wants a learning rate three to ten
/// times smaller than Adam's, and a weight decay that is larger by as much.
///
/// ```text
/// w ← w − lr · (sign(β₁ m + (1 − β₁) ∇) + weight_decay · w)
/// m ← β₂ m + (1 − β₂) ∇
/// ```
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::Lion;
/// let layer = Linear::new(3, 2, fornax::Device::cpu());
/// let optimizer = Lion::new(layer.parameters(), 1e-4).weight_decay(0.1);
/// ```
pub struct Lion(Core<LionRule>);

/// The settings of [`Lion`].
#[derive(Clone)]
pub struct LionRule {
    beta1: f64,
    beta2: f64,
    weight_decay: f64,
}

impl Rule for LionRule {
    fn name(&self) -> &'static str {
        "Lion"
    }
    fn settings(&mut self) -> Vec<(&'static str, &mut dyn Setting)> {
        self.fields()
    }
    fn state(&self) -> &'static [&'static str] {
        &["exp_avg"]
    }
    fn check(&self) -> Result<()> {
        check_settings("Lion", &[("beta1", self.beta1, 0.0, 1.0), ("beta2", self.beta2, 0.0, 1.0)])?;
        check_settings("Lion", &[("weight_decay", self.weight_decay, 0.0, f64::INFINITY)])
    }
    fn coefficients(&self, _: f64, _: &Num, _: &Num) -> Result<SmallVec<[Num; 4]>> {
        Ok(SmallVec::new())
    }
    fn apply(&self, u: Update) -> Result<(Tensor, State)> {
        let m = &u.state[0];
        let mut direction = m.try_mul(self.beta1)?.try_add(u.g.try_mul(1.0 - self.beta1)?)?.try_sign()?;
        if self.weight_decay != 0.0 {
            direction = direction.try_add(u.w.try_mul(self.weight_decay)?)?;
        }
        let w = u.w.try_sub(direction.try_mul(u.lr)?)?;
        Ok((w, smallvec![m.try_mul(self.beta2)?.try_add(u.g.try_mul(1.0 - self.beta2)?)?]))
    }
}

optimizer!([Lion = LionRule { beta1: 0.9, beta2: 0.99, weight_decay: 0.0 }], LionRule {
    /// Sets the decay inside the sign and the decay of the moment (0.9, 0.99).
    betas(beta1: f64, beta2: f64) = "0.95, 0.98";
    /// Sets the decoupled weight decay (0).
    weight_decay(weight_decay: f64) = "0.1";
});

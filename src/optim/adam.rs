//! Adam and AdamW.

use super::{Optimizer, Slots, check_settings, delegate};
use crate::autograd::Gradients;
use crate::nn::Param;
use crate::{Result, Tensor};

/// Adam (Kingma and Ba 2015), as PyTorch's `torch.optim.Adam`:
///
/// ```text
/// g ← ∇ + weight_decay · w
/// m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
/// w ← w − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
/// ```
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::Adam;
/// let layer = Linear::new(3, 2, fornax::Device::cpu());
/// let optimizer = Adam::new(layer.parameters(), 1e-3).betas(0.9, 0.99);
/// ```
pub struct Adam {
    slots: Slots<2>,
    lr: f64,
    rule: Rule,
}

/// Adam with decoupled weight decay (Loshchilov and Hutter 2019), as PyTorch's `torch.optim.AdamW`: [`Adam`] without the L2 penalty,
/// after `w ← w − lr · weight_decay · w`.
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::AdamW;
/// let layer = Linear::new(3, 2, fornax::Device::cpu());
/// let optimizer = AdamW::new(layer.parameters(), 1e-3).weight_decay(0.05);
/// ```
pub struct AdamW {
    slots: Slots<2>,
    lr: f64,
    rule: Rule,
}

#[derive(Clone, Copy)]
struct Rule {
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
}

const STATE: [&str; 2] = ["exp_avg", "exp_avg_sq"];

impl Rule {
    fn new(weight_decay: f64) -> Rule {
        Rule { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay }
    }

    /// Refuses settings out of their ranges.
    fn check(&self, optimizer: &'static str, lr: f64) -> Result<()> {
        let inf = f64::INFINITY;
        let betas = [("beta1", self.beta1, 0.0, 1.0), ("beta2", self.beta2, 0.0, 1.0)];
        let others = [("lr", lr, 0.0, inf), ("eps", self.eps, 0.0, inf), ("weight_decay", self.weight_decay, 0.0, inf)];
        check_settings(optimizer, &betas)?;
        check_settings(optimizer, &others)
    }

    /// The step that both share. `w` is what the decay has left of the weight.
    fn apply(&self, w: Tensor, g: Tensor, lr: f64, step: u64, state: Option<[Tensor; 2]>) -> Result<(Tensor, Option<[Tensor; 2]>)> {
        let (first, second) = (1.0 - self.beta1, 1.0 - self.beta2);
        let (m, v) = match state {
            Some([m, v]) => {
                let m = m.try_add(g.try_sub(&m)?.try_mul(first)?)?;
                let v = v.try_mul(self.beta2)?.try_add(g.try_square()?.try_mul(second)?)?;
                (m, v)
            }
            None => (g.try_mul(first)?, g.try_square()?.try_mul(second)?),
        };
        let t = step.min(i32::MAX as u64) as i32;
        let (correction1, correction2) = (1.0 - self.beta1.powi(t), 1.0 - self.beta2.powi(t));
        let denominator = v.try_sqrt()?.try_div(correction2.sqrt())?.try_add(self.eps)?;
        let w = w.try_sub(m.try_div(denominator)?.try_mul(lr / correction1)?)?;
        Ok((w, Some([m, v])))
    }
}

macro_rules! settings {
    ($t:ident, $decay:literal, $what:literal) => {
        impl $t {
            /// The optimizer with PyTorch's defaults on these parameters.
            ///
            /// ```
            /// use fornax::nn::{Linear, Module};
            /// use fornax::optim::{Adam, AdamW, Optimizer};
            /// let layer = Linear::new(3, 2, fornax::Device::cpu());
            /// assert_eq!(Adam::new(layer.parameters(), 1e-3).lr(), AdamW::new(layer.parameters(), 1e-3).lr());
            /// ```
            pub fn new(params: impl IntoIterator<Item = Param>, lr: f64) -> $t {
                $t { slots: Slots::new(STATE, params), lr, rule: Rule::new($decay) }
            }

            /// Sets the decay of the two moments (0.9, 0.999).
            ///
            /// ```
            /// use fornax::nn::{Linear, Module};
            /// use fornax::optim::AdamW;
            /// let layer = Linear::new(3, 2, fornax::Device::cpu());
            /// let optimizer = AdamW::new(layer.parameters(), 1e-3).betas(0.9, 0.95);
            /// ```
            pub fn betas(mut self, beta1: f64, beta2: f64) -> $t {
                (self.rule.beta1, self.rule.beta2) = (beta1, beta2);
                self
            }

            /// Sets ε, which keeps the quotient finite (1e-8).
            ///
            /// ```
            /// use fornax::nn::{Linear, Module};
            /// use fornax::optim::AdamW;
            /// let layer = Linear::new(3, 2, fornax::Device::cpu());
            /// let optimizer = AdamW::new(layer.parameters(), 1e-3).eps(1e-6);
            /// ```
            pub fn eps(mut self, eps: f64) -> $t {
                self.rule.eps = eps;
                self
            }

            #[doc = $what]
            pub fn weight_decay(mut self, weight_decay: f64) -> $t {
                self.rule.weight_decay = weight_decay;
                self
            }
        }
    };
}
settings!(Adam, 0.0, "Sets the L2 penalty (0).");
settings!(AdamW, 0.01, "Sets the decoupled weight decay (0.01).");

impl Optimizer for Adam {
    fn step(&mut self, grads: Gradients) -> Result<()> {
        let (lr, rule) = (self.lr, self.rule);
        rule.check("Adam", lr)?;
        self.slots.step(grads, |w, mut g, step, state| {
            if rule.weight_decay != 0.0 {
                g = g.try_add(w.try_mul(rule.weight_decay)?)?;
            }
            rule.apply(w, g, lr, step, state)
        })
    }

    delegate!();
}

impl Optimizer for AdamW {
    fn step(&mut self, grads: Gradients) -> Result<()> {
        let (lr, rule) = (self.lr, self.rule);
        rule.check("AdamW", lr)?;
        self.slots.step(grads, |mut w, g, step, state| {
            if rule.weight_decay != 0.0 {
                w = w.try_mul(1.0 - lr * rule.weight_decay)?;
            }
            rule.apply(w, g, lr, step, state)
        })
    }

    delegate!();
}

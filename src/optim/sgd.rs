//! Stochastic gradient descent.

use super::check_settings;
use super::engine::{Core, Rule, Setting, State, Update, optimizer};
use super::num::Num;
use crate::{Error, Result, Tensor};
use smallvec::{SmallVec, smallvec};

/// Stochastic gradient descent, with momentum if asked for, as PyTorch's `torch.optim.SGD`:
///
/// ```text
/// g ← ∇ + weight_decay · w
/// b ← momentum · b + (1 − dampening) · g      (the first time: b ← g)
/// g ← g + momentum · b if nesterov, else b
/// w ← w − lr · g
/// ```
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::SGD;
/// let layer = Linear::new(3, 2, fornax::Device::cpu());
/// let optimizer = SGD::new(layer.parameters(), 0.1).momentum(0.9).weight_decay(1e-4).nesterov(true);
/// ```
pub struct SGD(Core<SgdRule>);

/// The settings of [`SGD`].
#[derive(Clone)]
pub struct SgdRule {
    momentum: f64,
    dampening: f64,
    weight_decay: f64,
    nesterov: bool,
}

impl Rule for SgdRule {
    fn name(&self) -> &'static str {
        "SGD"
    }
    fn settings(&mut self) -> Vec<(&'static str, &mut dyn Setting)> {
        self.fields()
    }
    fn state(&self) -> &'static [&'static str] {
        if self.momentum == 0.0 { &[] } else { &["momentum_buffer"] }
    }
    fn check(&self) -> Result<()> {
        let inf = f64::INFINITY;
        check_settings("SGD", &[("momentum", self.momentum, 0.0, inf), ("weight_decay", self.weight_decay, 0.0, inf)])?;
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            return Err(Error::argument("SGD", "Nesterov's momentum wants a momentum and no dampening"));
        }
        Ok(())
    }
    fn coefficients(&self, _: f64, t: &Num, _: &Num) -> Result<SmallVec<[Num; 4]>> {
        // The first gradient is not damped.
        let damped = if self.dampening == 0.0 { Num::Host(1.0) } else { t.above(1.5, &Num::Host(1.0 - self.dampening), &Num::Host(1.0))? };
        Ok(smallvec![damped])
    }
    fn apply(&self, u: Update) -> Result<(Tensor, State)> {
        let mut g = u.g;
        if self.weight_decay != 0.0 {
            g = g.try_add(u.w.try_mul(self.weight_decay)?)?;
        }
        if self.momentum == 0.0 {
            return Ok((u.w.try_sub(g.try_mul(u.lr)?)?, State::new()));
        }
        let kept = u.state[0].try_mul(self.momentum)?;
        let b = match self.dampening == 0.0 || u.fresh {
            true => kept.try_add(&g)?,
            false => kept.try_add(g.try_mul(&u.c[0])?)?,
        };
        let direction = if self.nesterov { g.try_add(b.try_mul(self.momentum)?)? } else { b.clone() };
        Ok((u.w.try_sub(direction.try_mul(u.lr)?)?, smallvec![b]))
    }
}

optimizer!([SGD = SgdRule { momentum: 0.0, dampening: 0.0, weight_decay: 0.0, nesterov: false }], SgdRule {
    /// Sets the momentum (0).
    momentum(momentum: f64) = "0.9";
    /// Sets the dampening of the momentum (0).
    dampening(dampening: f64) = "0.1";
    /// Sets the L2 penalty (0).
    weight_decay(weight_decay: f64) = "1e-4";
    /// Turns Nesterov's momentum on or off (off).
    nesterov(nesterov: bool) = "true";
});

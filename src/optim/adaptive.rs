//! Adagrad, RMSprop and Adadelta.

use super::check_settings;
use super::engine::{Core, Rule, Setting, State, Update, optimizer};
use super::num::Num;
use crate::{Result, Tensor};
use smallvec::{SmallVec, smallvec};

const INF: f64 = f64::INFINITY;

/// The gradient with an L2 penalty.
fn penalised(w: &Tensor, g: Tensor, weight_decay: f64) -> Result<Tensor> {
    if weight_decay == 0.0 { Ok(g) } else { g.try_add(w.try_mul(weight_decay)?) }
}

/// ρ a + (1 − ρ) x².
fn average_of_squares(a: &Tensor, x: &Tensor, rho: f64) -> Result<Tensor> {
    a.try_mul(rho)?.try_add(x.try_square()?.try_mul(1.0 - rho)?)
}

/// Adagrad (Duchi et al. 2011), as PyTorch's `torch.optim.Adagrad` (whose learning rate is 10⁻²):
///
/// ```text
/// g ← ∇ + weight_decay · w
/// s ← s + g²
/// w ← w − lr / (1 + (t − 1) · lr_decay) · g / (√s + ε)
/// ```
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::Adagrad;
/// let layer = Linear::new(3, 2, fornax::Device::cpu());
/// let optimizer = Adagrad::new(layer.parameters(), 1e-2);
/// ```
pub struct Adagrad(Core<AdagradRule>);

/// The settings of [`Adagrad`].
#[derive(Clone)]
pub struct AdagradRule {
    lr_decay: f64,
    weight_decay: f64,
    initial_accumulator_value: f64,
    eps: f64,
}

impl Rule for AdagradRule {
    fn name(&self) -> &'static str {
        "Adagrad"
    }
    fn settings(&mut self) -> Vec<(&'static str, &mut dyn Setting)> {
        self.fields()
    }
    fn state(&self) -> &'static [&'static str] {
        &["sum"]
    }
    fn initial(&self) -> f64 {
        self.initial_accumulator_value
    }
    fn check(&self) -> Result<()> {
        let initial = ("initial_accumulator_value", self.initial_accumulator_value, 0.0, INF);
        let others = [("lr_decay", self.lr_decay, 0.0, INF), ("weight_decay", self.weight_decay, 0.0, INF), ("eps", self.eps, 0.0, INF)];
        check_settings("Adagrad", &others)?;
        check_settings("Adagrad", &[initial])
    }
    fn coefficients(&self, lr: f64, t: &Num, _: &Num) -> Result<SmallVec<[Num; 4]>> {
        Ok(smallvec![t.plus(-1.0)?.times(self.lr_decay)?.plus(1.0)?.recip()?.times(lr)?])
    }
    fn apply(&self, u: Update) -> Result<(Tensor, State)> {
        let g = penalised(&u.w, u.g, self.weight_decay)?;
        let sum = u.state[0].try_add(g.try_square()?)?;
        let step = g.try_div(sum.try_sqrt()?.try_add(self.eps)?)?.try_mul(&u.c[0])?;
        Ok((u.w.try_sub(step)?, smallvec![sum]))
    }
}

optimizer!([Adagrad = AdagradRule { lr_decay: 0.0, weight_decay: 0.0, initial_accumulator_value: 0.0, eps: 1e-10 }], AdagradRule {
    /// Sets the decay of the learning rate (0).
    lr_decay(lr_decay: f64) = "1e-3";
    /// Sets the L2 penalty (0).
    weight_decay(weight_decay: f64) = "1e-4";
    /// Sets what the sum of squares starts from (0).
    initial_accumulator_value(initial_accumulator_value: f64) = "0.1";
    /// Sets ε, which keeps the quotient finite (1e-10).
    eps(eps: f64) = "1e-8";
});

/// RMSprop (Hinton 2012; centred: Graves 2013), as PyTorch's `torch.optim.RMSprop` (whose learning rate is 10⁻²):
///
/// ```text
/// g ← ∇ + weight_decay · w
/// s ← α s + (1 − α) g²          a ← α a + (1 − α) g   (if centred)
/// d ← g / (√(s − a²) + ε)       (without a if not centred)
/// b ← momentum · b + d          (if there is a momentum)
/// w ← w − lr · b                (d without a momentum)
/// ```
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::RMSprop;
/// let layer = Linear::new(3, 2, fornax::Device::cpu());
/// let optimizer = RMSprop::new(layer.parameters(), 1e-2).momentum(0.9);
/// ```
pub struct RMSprop(Core<RmspropRule>);

/// The settings of [`RMSprop`].
#[derive(Clone)]
pub struct RmspropRule {
    alpha: f64,
    eps: f64,
    weight_decay: f64,
    momentum: f64,
    centered: bool,
}

impl Rule for RmspropRule {
    fn name(&self) -> &'static str {
        "RMSprop"
    }
    fn settings(&mut self) -> Vec<(&'static str, &mut dyn Setting)> {
        self.fields()
    }
    fn state(&self) -> &'static [&'static str] {
        match (self.centered, self.momentum > 0.0) {
            (false, false) => &["square_avg"],
            (false, true) => &["square_avg", "momentum_buffer"],
            (true, false) => &["square_avg", "grad_avg"],
            (true, true) => &["square_avg", "grad_avg", "momentum_buffer"],
        }
    }
    fn check(&self) -> Result<()> {
        let settings = [("alpha", self.alpha, 0.0, INF), ("eps", self.eps, 0.0, INF), ("momentum", self.momentum, 0.0, INF)];
        check_settings("RMSprop", &settings)?;
        check_settings("RMSprop", &[("weight_decay", self.weight_decay, 0.0, INF)])
    }
    fn coefficients(&self, _: f64, _: &Num, _: &Num) -> Result<SmallVec<[Num; 4]>> {
        Ok(SmallVec::new())
    }
    fn apply(&self, u: Update) -> Result<(Tensor, State)> {
        let g = penalised(&u.w, u.g, self.weight_decay)?;
        let square = average_of_squares(&u.state[0], &g, self.alpha)?;
        let mut state: State = smallvec![square.clone()];
        let mut variance = square;
        if self.centered {
            let mean = u.state[1].try_add(g.try_sub(&u.state[1])?.try_mul(1.0 - self.alpha)?)?;
            variance = variance.try_sub(mean.try_square()?)?;
            state.push(mean);
        }
        let mut direction = g.try_div(variance.try_sqrt()?.try_add(self.eps)?)?;
        if self.momentum > 0.0 {
            direction = u.state[state.len()].try_mul(self.momentum)?.try_add(direction)?;
            state.push(direction.clone());
        }
        Ok((u.w.try_sub(direction.try_mul(u.lr)?)?, state))
    }
}

optimizer!([RMSprop = RmspropRule { alpha: 0.99, eps: 1e-8, weight_decay: 0.0, momentum: 0.0, centered: false }], RmspropRule {
    /// Sets the decay of the average of squares (0.99).
    alpha(alpha: f64) = "0.9";
    /// Sets ε, which keeps the quotient finite (1e-8).
    eps(eps: f64) = "1e-6";
    /// Sets the L2 penalty (0).
    weight_decay(weight_decay: f64) = "1e-4";
    /// Sets the momentum (0).
    momentum(momentum: f64) = "0.9";
    /// Divides by the deviation from the mean gradient, not by the root of the mean square (off).
    centered(centered: bool) = "true";
});

/// Adadelta (Zeiler 2012), as PyTorch's `torch.optim.Adadelta` (whose learning rate is 1):
///
/// ```text
/// g ← ∇ + weight_decay · w
/// s ← ρ s + (1 − ρ) g²
/// d ← √(a + ε) / √(s + ε) · g
/// a ← ρ a + (1 − ρ) d²
/// w ← w − lr · d
/// ```
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::Adadelta;
/// let layer = Linear::new(3, 2, fornax::Device::cpu());
/// let optimizer = Adadelta::new(layer.parameters(), 1.0);
/// ```
pub struct Adadelta(Core<AdadeltaRule>);

/// The settings of [`Adadelta`].
#[derive(Clone)]
pub struct AdadeltaRule {
    rho: f64,
    eps: f64,
    weight_decay: f64,
}

impl Rule for AdadeltaRule {
    fn name(&self) -> &'static str {
        "Adadelta"
    }
    fn settings(&mut self) -> Vec<(&'static str, &mut dyn Setting)> {
        self.fields()
    }
    fn state(&self) -> &'static [&'static str] {
        &["square_avg", "acc_delta"]
    }
    fn check(&self) -> Result<()> {
        let settings = [("eps", self.eps, 0.0, INF), ("weight_decay", self.weight_decay, 0.0, INF)];
        check_settings("Adadelta", &[("rho", self.rho, 0.0, 1.0 + f64::EPSILON)])?;
        check_settings("Adadelta", &settings)
    }
    fn coefficients(&self, _: f64, _: &Num, _: &Num) -> Result<SmallVec<[Num; 4]>> {
        Ok(SmallVec::new())
    }
    fn apply(&self, u: Update) -> Result<(Tensor, State)> {
        let g = penalised(&u.w, u.g, self.weight_decay)?;
        let square = average_of_squares(&u.state[0], &g, self.rho)?;
        let ratio = u.state[1].try_add(self.eps)?.try_sqrt()?.try_div(square.try_add(self.eps)?.try_sqrt()?)?;
        let delta = ratio.try_mul(g)?;
        let deltas = average_of_squares(&u.state[1], &delta, self.rho)?;
        Ok((u.w.try_sub(delta.try_mul(u.lr)?)?, smallvec![square, deltas]))
    }
}

optimizer!([Adadelta = AdadeltaRule { rho: 0.9, eps: 1e-6, weight_decay: 0.0 }], AdadeltaRule {
    /// Sets the decay of both averages (0.9).
    rho(rho: f64) = "0.95";
    /// Sets ε, under both roots (1e-6).
    eps(eps: f64) = "1e-7";
    /// Sets the L2 penalty (0).
    weight_decay(weight_decay: f64) = "1e-4";
});

//! Stochastic gradient descent.

use super::{Optimizer, Slots, check_settings, delegate};
use crate::autograd::Gradients;
use crate::nn::Param;
use crate::{Error, Result};

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
pub struct SGD {
    slots: Slots<1>,
    lr: f64,
    momentum: f64,
    dampening: f64,
    weight_decay: f64,
    nesterov: bool,
}

impl SGD {
    /// Plain gradient descent on these parameters.
    ///
    /// ```
    /// use fornax::nn::{Linear, Module};
    /// use fornax::optim::{Optimizer, SGD};
    /// let layer = Linear::new(3, 2, fornax::Device::cpu());
    /// assert_eq!(SGD::new(layer.parameters(), 0.1).lr(), 0.1);
    /// ```
    pub fn new(params: impl IntoIterator<Item = Param>, lr: f64) -> SGD {
        SGD { slots: Slots::new(["momentum_buffer"], params), lr, momentum: 0.0, dampening: 0.0, weight_decay: 0.0, nesterov: false }
    }

    /// Sets the momentum (0).
    ///
    /// ```
    /// use fornax::nn::{Linear, Module};
    /// use fornax::optim::SGD;
    /// let layer = Linear::new(3, 2, fornax::Device::cpu());
    /// let optimizer = SGD::new(layer.parameters(), 0.1).momentum(0.9);
    /// ```
    pub fn momentum(mut self, momentum: f64) -> SGD {
        self.momentum = momentum;
        self
    }

    /// Sets the dampening of the momentum (0).
    ///
    /// ```
    /// use fornax::nn::{Linear, Module};
    /// use fornax::optim::SGD;
    /// let layer = Linear::new(3, 2, fornax::Device::cpu());
    /// let optimizer = SGD::new(layer.parameters(), 0.1).momentum(0.9).dampening(0.1);
    /// ```
    pub fn dampening(mut self, dampening: f64) -> SGD {
        self.dampening = dampening;
        self
    }

    /// Sets the L2 penalty (0).
    ///
    /// ```
    /// use fornax::nn::{Linear, Module};
    /// use fornax::optim::SGD;
    /// let layer = Linear::new(3, 2, fornax::Device::cpu());
    /// let optimizer = SGD::new(layer.parameters(), 0.1).weight_decay(1e-4);
    /// ```
    pub fn weight_decay(mut self, weight_decay: f64) -> SGD {
        self.weight_decay = weight_decay;
        self
    }

    /// Turns Nesterov's momentum on or off (off).
    ///
    /// ```
    /// use fornax::nn::{Linear, Module};
    /// use fornax::optim::SGD;
    /// let layer = Linear::new(3, 2, fornax::Device::cpu());
    /// let optimizer = SGD::new(layer.parameters(), 0.1).momentum(0.9).nesterov(true);
    /// ```
    pub fn nesterov(mut self, nesterov: bool) -> SGD {
        self.nesterov = nesterov;
        self
    }
}

impl Optimizer for SGD {
    fn step(&mut self, grads: Gradients) -> Result<()> {
        let SGD { lr, momentum, dampening, weight_decay, nesterov, .. } = *self;
        let inf = f64::INFINITY;
        check_settings("SGD", &[("lr", lr, 0.0, inf), ("momentum", momentum, 0.0, inf), ("weight_decay", weight_decay, 0.0, inf)])?;
        if nesterov && (momentum == 0.0 || dampening != 0.0) {
            return Err(Error::argument("SGD", "Nesterov's momentum wants a momentum and no dampening"));
        }
        self.slots.step(grads, |w, mut g, _, state| {
            if weight_decay != 0.0 {
                g = g.try_add(w.try_mul(weight_decay)?)?;
            }
            if momentum == 0.0 {
                return Ok((w.try_sub(g.try_mul(lr)?)?, None));
            }
            let b = match state {
                // A copy: memory shared with the gradient could not be overwritten by the next step.
                None => g.try_mul(1.0)?,
                Some([b]) if dampening == 0.0 => b.try_mul(momentum)?.try_add(&g)?,
                Some([b]) => b.try_mul(momentum)?.try_add(g.try_mul(1.0 - dampening)?)?,
            };
            let direction = if nesterov { g.try_add(b.try_mul(momentum)?)? } else { b.clone() };
            Ok((w.try_sub(direction.try_mul(lr)?)?, Some([b])))
        })
    }

    delegate!();
}

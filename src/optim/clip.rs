//! Clipping of gradients, and their norm.

use crate::autograd::Gradients;
use crate::graph::node::with_grad;
use crate::{DType, Error, Result, Tensor};

/// How gradients are clipped by their norm: PyTorch's `clip_grad_norm_`.
///
/// ```
/// use fornax::optim::ClipNorm;
/// let clip = ClipNorm { max_norm: 5.0, norm_type: f64::INFINITY, ..Default::default() };
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipNorm {
    /// The norm that they have at most afterwards (1).
    pub max_norm: f64,
    /// p of the norm (2); ∞ for the largest of all.
    pub norm_type: f64,
    /// A norm that is infinite or NaN is an error (off). It has to be waited for: a step with it is two plans.
    pub error_if_nonfinite: bool,
}

impl Default for ClipNorm {
    fn default() -> Self {
        ClipNorm { max_norm: 1.0, norm_type: 2.0, error_if_nonfinite: false }
    }
}

/// The sum, or the largest, of tensors of no axes, on the first one's device.
pub(super) fn fold(parts: Vec<Tensor>, with: impl Fn(&Tensor, &Tensor) -> Result<Tensor>) -> Result<Option<Tensor>> {
    let mut parts = parts.into_iter();
    let Some(mut all) = parts.next() else { return Ok(None) };
    for part in parts {
        all = with(&all, &part.try_to(all.device())?)?;
    }
    Ok(Some(all))
}

impl Gradients {
    /// The p-norm of all gradients together, `(Σ |g|ᵖ)^(1/p)`: a tensor of no axes, f32, not yet computed. Of no gradients it is 0.
    ///
    /// # Errors
    /// A p that is not greater than 0.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[3.0f32, 4.0], 2, Device::cpu())?.requires_grad();
    /// let grads = (x.square() * 0.5).sum(()).backward()?;
    /// assert_eq!(grads.norm(2.0)?.item::<f32>()?, 5.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn norm(&self, p: f64) -> Result<Tensor> {
        if !(p > 0.0) {
            return Err(Error::argument("Gradients::norm", format!("p = {p}: a number greater than 0 is wanted")));
        }
        with_grad(false, || {
            let wide = self.iter().map(|(_, g)| if g.dtype() == DType::F64 { Ok(g.clone()) } else { g.try_cast(DType::F32) });
            let parts: Vec<Tensor> = wide
                .map(|g| {
                    let g: Tensor = g?;
                    match p {
                        _ if p.is_infinite() && g.numel() == 0 => Tensor::try_zeros((), (g.dtype(), g.device())),
                        f64::INFINITY => g.try_abs()?.try_max(()),
                        2.0 => g.try_square()?.try_sum(()),
                        1.0 => g.try_abs()?.try_sum(()),
                        _ => g.try_abs()?.try_pow(p)?.try_sum(()),
                    }
                })
                .collect::<Result<_>>()?;
            let all = if p.is_infinite() { fold(parts, |a, b| a.try_maximum(b))? } else { fold(parts, |a, b| a.try_add(b))? };
            let Some(all) = all else { return Tensor::try_zeros((), crate::Device::cpu()) };
            match p {
                2.0 => all.try_sqrt(),
                _ if p == 1.0 || p.is_infinite() => Ok(all),
                _ => all.try_pow(1.0 / p),
            }
        })
    }

    /// Scales all gradients so that their norm (p = 2) is at most `max_norm`, by `min(1, max_norm / (norm + 10⁻⁶))`, and returns the norm that they had. All of it
    /// is part of the step's plan: nothing waits. See [`clip`](Gradients::clip) for other norms.
    ///
    /// # Errors
    /// None in a valid program.
    ///
    /// ```
    /// use fornax::nn::{Linear, Module};
    /// use fornax::optim::{Optimizer, SGD};
    /// use fornax::{Device, Tensor};
    /// let layer = Linear::new(3, 1, Device::cpu());
    /// let mut optimizer = SGD::new(layer.parameters(), 0.1);
    /// let loss = Tensor::ones([4, 3], Device::cpu()).linear(&layer.weight.get(), None).sum(());
    /// let mut grads = loss.backward()?;
    /// let norm = grads.clip_norm(1.0)?;
    /// assert!((grads.norm(2.0)?.item::<f32>()? - 1.0).abs() < 1e-5);
    /// optimizer.step(grads)?;
    /// assert!((norm.item::<f32>()? - 48f32.sqrt()).abs() < 1e-5);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn clip_norm(&mut self, max_norm: f64) -> Result<Tensor> {
        self.clip(&ClipNorm { max_norm, ..ClipNorm::default() })
    }

    /// As [`clip_norm`](Gradients::clip_norm), with every option of PyTorch's `clip_grad_norm_`.
    ///
    /// # Errors
    /// With `error_if_nonfinite`, a norm that is infinite or NaN: the gradients stay as they are.
    ///
    /// ```
    /// use fornax::optim::ClipNorm;
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[0.0f32, 4.0], 2, Device::cpu())?.requires_grad();
    /// let mut grads = x.log().sum(()).backward()?;
    /// assert!(grads.clip(&ClipNorm { error_if_nonfinite: true, ..Default::default() }).is_err());
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn clip(&mut self, options: &ClipNorm) -> Result<Tensor> {
        if !(options.max_norm >= 0.0) {
            return Err(Error::argument("Gradients::clip", format!("max_norm = {}: a number from 0 on is wanted", options.max_norm)));
        }
        let norm = self.norm(options.norm_type)?;
        if options.error_if_nonfinite {
            let value = norm.item::<f64>()?;
            if !value.is_finite() {
                let message =
                    format!("the norm of order {} is {value}: turn error_if_nonfinite off to scale by it even so", options.norm_type);
                return Err(Error::argument("Gradients::clip", message));
            }
        }
        let factor = with_grad(false, || norm.try_add(1e-6)?.try_recip()?.try_mul(options.max_norm)?.try_minimum(1.0))?;
        self.scale(factor)?;
        Ok(norm)
    }

    /// Clips each element to `-clip_value..=clip_value`: PyTorch's `clip_grad_value_`.
    ///
    /// # Errors
    /// A `clip_value` below 0.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[-3.0f32, 0.25], 2, Device::cpu())?.requires_grad();
    /// let mut grads = x.square().sum(()).backward()?;
    /// grads.clip_value(1.0)?;
    /// assert_eq!(grads.get(&x).unwrap().to_vec::<f32>()?, [-1.0, 0.5]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn clip_value(&mut self, clip_value: f64) -> Result<()> {
        if !(clip_value >= 0.0) {
            return Err(Error::argument("Gradients::clip_value", format!("clip_value = {clip_value}: a number from 0 on is wanted")));
        }
        self.map(|g| g.try_clamp(-clip_value, clip_value))
    }
}

//! Dynamic loss scaling.

use super::Optimizer;
use super::clip::fold;
use crate::autograd::Gradients;
use crate::graph::node::with_grad;
use crate::io::StateDict;
use crate::nn::Buffer;
use crate::{DType, Device, Error, Result, Tensor};

/// Scales the loss so that small gradients do not vanish in f16, as PyTorch's `torch.amp.GradScaler`. A step whose gradients are infinite or NaN is skipped and the
/// scale halved; after `growth_interval` good steps it is doubled.
///
/// Nothing waits for the device: scale, growth and what was found are tensors, and a skipped step keeps the old values by a `where`.
///
/// ```
/// use fornax::nn::{self, Forward, Linear, Module};
/// use fornax::optim::{AdamW, GradScaler, Optimizer};
/// use fornax::{DType, Device, Tensor, autocast};
/// let device = Device::cpu();
/// let (model, x, y) = (Linear::new(3, 1, device), Tensor::ones([4, 3], device), Tensor::ones([4, 1], device));
/// let mut optimizer = AdamW::new(model.parameters(), 1e-2);
/// let mut scaler = GradScaler::new(device);
/// for _ in 0..3 {
///     let loss = autocast(DType::F16, || nn::mse_loss(&model.forward(&x)?, &y))?;
///     let mut grads = scaler.scale(&loss)?.backward()?;
///     scaler.unscale(&mut grads)?; // only where they are looked at or clipped before the step
///     grads.clip_norm(1.0)?;
///     scaler.step(&mut optimizer, grads)?;
///     scaler.update()?;
/// }
/// assert_eq!(scaler.get_scale()?, 65536.0);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct GradScaler {
    scale: Buffer,
    /// Good steps since the scale was last changed, an i32.
    growth_tracker: Buffer,
    /// What the steps since the last update have found.
    found: Vec<Tensor>,
    growth_factor: f64,
    backoff_factor: f64,
    growth_interval: u32,
    enabled: bool,
}

#[fornax_derive::fallible]
impl GradScaler {
    /// A scaler with PyTorch's defaults whose state lives on this device.
    ///
    /// # Errors
    /// Those of a tensor of one element.
    ///
    /// ```
    /// let scaler = fornax::optim::GradScaler::new(fornax::Device::cpu());
    /// assert_eq!(scaler.get_scale()?, 65536.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_new(device: Device) -> Result<GradScaler> {
        Ok(GradScaler {
            scale: Buffer::new(Tensor::try_full((), 65536.0, device)?),
            growth_tracker: Buffer::new(Tensor::try_full((), 0, (DType::I32, device))?),
            found: Vec::new(),
            growth_factor: 2.0,
            backoff_factor: 0.5,
            growth_interval: 2000,
            enabled: true,
        })
    }
}

impl GradScaler {
    /// Sets the scale to begin with (65536).
    ///
    /// # Errors
    /// A scale that f32 does not hold.
    ///
    /// ```
    /// let scaler = fornax::optim::GradScaler::new(fornax::Device::cpu()).init_scale(1024.0)?;
    /// assert_eq!(scaler.get_scale()?, 1024.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn init_scale(self, scale: f64) -> Result<GradScaler> {
        self.scale.update(|s| s.try_full_like(scale))?;
        Ok(self)
    }

    /// Sets the factor of the scale after `growth_interval` good steps (2).
    ///
    /// ```
    /// let scaler = fornax::optim::GradScaler::new(fornax::Device::cpu()).growth_factor(1.5);
    /// ```
    pub fn growth_factor(mut self, factor: f64) -> GradScaler {
        self.growth_factor = factor;
        self
    }

    /// Sets the factor of the scale after a step that was skipped (0.5).
    ///
    /// ```
    /// let scaler = fornax::optim::GradScaler::new(fornax::Device::cpu()).backoff_factor(0.25);
    /// ```
    pub fn backoff_factor(mut self, factor: f64) -> GradScaler {
        self.backoff_factor = factor;
        self
    }

    /// Sets the number of good steps in a row after which the scale grows (2000).
    ///
    /// ```
    /// let scaler = fornax::optim::GradScaler::new(fornax::Device::cpu()).growth_interval(100);
    /// ```
    pub fn growth_interval(mut self, steps: u32) -> GradScaler {
        self.growth_interval = steps;
        self
    }

    /// Turns all of it on or off: off, losses and gradients pass unchanged, and one program does for bf16 and f32 too (on).
    ///
    /// ```
    /// let scaler = fornax::optim::GradScaler::new(fornax::Device::cpu()).enabled(false);
    /// ```
    pub fn enabled(mut self, enabled: bool) -> GradScaler {
        self.enabled = enabled;
        self
    }

    /// The loss times the scale.
    ///
    /// # Errors
    /// None in a valid program.
    pub fn scale(&self, loss: &Tensor) -> Result<Tensor> {
        if !self.enabled {
            return Ok(loss.clone());
        }
        loss.try_mul(self.scale.get().try_to(loss.device())?)
    }

    /// Divides the gradients by the scale, and notes whether one of them is infinite or NaN. [`step`](GradScaler::step) does it where it has not been done; call it
    /// where the gradients are clipped or looked at before the step.
    ///
    /// # Errors
    /// Gradients that have been divided already.
    pub fn unscale(&self, grads: &mut Gradients) -> Result<()> {
        if !self.enabled {
            return Ok(());
        }
        if grads.skip().is_some() {
            return Err(Error::argument("GradScaler::unscale", "these gradients have been unscaled already"));
        }
        with_grad(false, || {
            let scale = self.scale.get();
            grads.scale(scale.try_recip()?)?;
            let largest = |g: &Tensor| if g.numel() == 0 { g.try_sum(()) } else { g.try_abs()?.try_max(()) };
            let parts = grads.iter().map(|(_, g)| largest(g)?.try_cast(DType::F32)).collect::<Result<Vec<_>>>()?;
            // NaN stays NaN in a maximum.
            let found = match fold(parts, |a, b| a.try_maximum(b))? {
                Some(all) => all.try_isnan()?.try_logical_or(all.try_isinf()?)?,
                None => Tensor::try_full((), false, (DType::Bool, scale.device()))?,
            };
            grads.set_skip(found.try_cast(DType::F32)?);
            Ok(())
        })
    }

    /// The optimizer's step with gradients of a scaled loss: not taken where one of them is infinite or NaN.
    ///
    /// # Errors
    /// Those of the optimizer.
    pub fn step(&mut self, optimizer: &mut dyn Optimizer, mut grads: Gradients) -> Result<()> {
        if self.enabled {
            if grads.skip().is_none() {
                self.unscale(&mut grads)?;
            }
            self.found.extend(grads.skip().cloned());
        }
        optimizer.step(grads)
    }

    /// Changes the scale by what the steps since the last update have found: to be called after them. The next step computes it.
    ///
    /// # Errors
    /// Where there was no step.
    pub fn update(&mut self) -> Result<()> {
        if !self.enabled {
            return Ok(());
        }
        let found = std::mem::take(&mut self.found);
        with_grad(false, || {
            let Some(found) = fold(found, |a, b| a.try_maximum(b))? else {
                return Err(Error::argument("GradScaler::update", "no step was taken since the last update"));
            };
            let (scale, tracker) = (self.scale.get(), self.growth_tracker.get());
            let found = found.try_to(scale.device())?;
            let good = tracker.try_add(1)?;
            let due = good.try_ge(self.growth_interval as i64)?;
            let grown = scale.try_mul(self.growth_factor)?;
            let grown = due.try_logical_and(grown.try_isinf()?.try_logical_not()?)?.try_where(grown, &scale)?;
            let scale = found.try_where(scale.try_mul(self.backoff_factor)?, grown)?;
            let tracker = found.try_where(0, due.try_where(0, good)?)?.try_cast(DType::I32)?;
            self.scale.update(|_| Ok(scale))?;
            self.growth_tracker.update(|_| Ok(tracker))
        })
    }

    /// The scale: 1 where the scaler is off. Waits for the device.
    ///
    /// # Errors
    /// Those of reading.
    pub fn get_scale(&self) -> Result<f64> {
        if self.enabled { self.scale.get().item::<f64>() } else { Ok(1.0) }
    }

    /// The state, for a checkpoint.
    pub fn state_dict(&self) -> StateDict {
        let entries = [("scale", self.scale.get()), ("growth_tracker", self.growth_tracker.get())];
        entries.into_iter().map(|(k, t)| (k.to_string(), t)).collect()
    }

    /// Sets the state from what [`state_dict`](GradScaler::state_dict) gave.
    ///
    /// # Errors
    /// `Error::StateDict` where something is missing, unexpected or no single number. Nothing is changed then.
    pub fn load_state_dict(&mut self, dict: &StateDict) -> Result<()> {
        let take = |name: &str, like: &Tensor| match dict.get(name) {
            Some(t) if t.numel() == 1 => t.try_reshape(())?.try_cast(like.dtype())?.try_to(like.device()),
            Some(t) => Err(Error::StateDict { message: format!("{name} is {}, must be []", t.shape()) }),
            None => Err(Error::StateDict { message: format!("missing: {name}") }),
        };
        if let Some(name) = dict.keys().find(|k| !["scale", "growth_tracker"].contains(&k.as_str())) {
            return Err(Error::StateDict { message: format!("unexpected: {name}") });
        }
        let (scale, tracker) = (take("scale", &self.scale.get())?, take("growth_tracker", &self.growth_tracker.get())?);
        self.scale.update(|_| Ok(scale))?;
        self.growth_tracker.update(|_| Ok(tracker))
    }
}

//! Instance normalisation layers.

use super::norm::Running;
use super::{Forward, Mode, Module, Param};
use crate::{Error, Options, Result, Tensor};

macro_rules! layers {
    ($($name:ident, $rank:literal, $layout:literal, $dims:literal;)*) => { $(
        #[doc = concat!("Instance normalisation of ", $layout, " (or of one sample without its N): each channel of each sample is normalised over its positions")]
        /// (Ulyanov et al. 2016), `y = (x − mean) / √(var + eps) · weight + bias`, with the biased variance. By default without weight, bias and
        /// running statistics.
        ///
        /// With running statistics they move in training mode, `running ← (1 − momentum) · running + momentum · (the batch's mean of the samples'
        /// statistics, there with the unbiased variance)`, and normalise in evaluation mode.
        ///
        /// ```
        #[doc = concat!("use fornax::nn::{", stringify!($name), ", Forward};")]
        /// use fornax::{Device, Tensor};
        #[doc = concat!("let norm = ", stringify!($name), "::new(3, Device::cpu());")]
        #[doc = concat!("let y = norm.forward(&Tensor::normal(", $dims, ", 5.0, 2.0, Device::cpu()))?;")]
        /// assert!(y.mean(-1).mean(()).item::<f32>()?.abs() < 1e-4);
        /// # Ok::<(), fornax::Error>(())
        /// ```
        #[derive(Debug, Module)]
        pub struct $name {
            /// `[channels]`.
            pub weight: Option<Param>,
            /// `[channels]`.
            pub bias: Option<Param>,
            #[module(flatten)]
            running: Option<Running>,
            channels: usize,
            /// What is added to the variance.
            pub eps: f64,
            /// How far a batch moves the running statistics.
            pub momentum: f64,
            options: Options,
            mode: Mode,
        }

        impl $name {
            /// A layer for this many channels, with eps 1e-5 and momentum 0.1.
            pub fn new(channels: usize, options: impl Into<Options>) -> $name {
                let (weight, bias, running, mode) = (None, None, None, Mode::default());
                $name { weight, bias, running, channels, eps: 1e-5, momentum: 0.1, options: options.into(), mode }
            }

            /// Sets what is added to the variance.
            pub fn eps(mut self, eps: f64) -> $name {
                self.eps = eps;
                self
            }

            /// Sets how far a batch moves the running statistics.
            pub fn momentum(mut self, momentum: f64) -> $name {
                self.momentum = momentum;
                self
            }
        }

        #[fornax_derive::fallible]
        impl $name {
            /// The layer with weight 1 and bias 0.
            ///
            /// # Errors
            /// Sizes that memory cannot hold, or a dtype that the device lacks.
            pub fn try_affine(self) -> Result<$name> {
                let weight = Some(Param::new(Tensor::try_ones(self.channels, self.options)?));
                Ok($name { weight, bias: Some(Param::new(Tensor::try_zeros(self.channels, self.options)?)), ..self })
            }

            /// The layer with running statistics.
            ///
            /// # Errors
            /// Sizes that memory cannot hold, or a dtype that the device lacks.
            pub fn try_track_running_stats(self) -> Result<$name> {
                Ok($name { running: Some(Running::new(self.channels, self.options)?), ..self })
            }
        }

        impl Forward for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                let op = stringify!($name);
                let c = self.channels;
                if x.rank() + 1 == $rank && x.dims()[0] == c {
                    // One sample without an axis of its own.
                    return self.forward(&x.try_unsqueeze(0)?)?.try_squeeze(0);
                }
                if x.rank() != $rank || x.dims()[1] != c {
                    return Err(Error::shape(op, &[x.shape()], format!("an input {} with C = {c}", $layout)));
                }
                let (weight, bias) = (self.weight.as_ref().map(Param::get), self.bias.as_ref().map(Param::get));
                if let Some(running) = &self.running && !self.mode.is_training() {
                    let (mean, var) = (running.running_mean.get(), running.running_var.get());
                    return x.try_batch_norm(&mean, &var, weight.as_ref(), bias.as_ref(), self.eps);
                }
                let places: usize = x.dims()[2..].iter().product();
                if places < 2 && self.mode.is_training() {
                    return Err(Error::shape(op, &[x.shape()], "more than one position per channel in training mode"));
                }
                if let Some(running) = &self.running {
                    let (x, m) = (x.detach().try_flatten(2, -1)?, self.momentum);
                    let (mean, var) = (x.try_mean([0, 2])?, x.try_var(2, 1.0)?.try_mean(0)?);
                    running.running_mean.update(|r| r.try_mul(1.0 - m)?.try_add(mean.try_mul(m)?.try_cast(r.dtype())?))?;
                    running.running_var.update(|r| r.try_mul(1.0 - m)?.try_add(var.try_mul(m)?.try_cast(r.dtype())?))?;
                }
                x.try_instance_norm(weight.as_ref(), bias.as_ref(), self.eps)
            }
        }
    )* };
}
layers! {
    InstanceNorm1d, 3, "`[N, C, L]`", "[2, 3, 16]";
    InstanceNorm2d, 4, "`[N, C, H, W]`", "[2, 3, 4, 4]";
}

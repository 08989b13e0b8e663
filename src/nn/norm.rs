//! Normalisation layers.

use super::{Buffer, Counter, Forward, Mode, Module, Param, Walk};
use crate::{Error, Options, Result, Shape, Tensor};

/// What both batch normalisations are made of.
#[derive(Debug)]
struct BatchNorm {
    weight: Option<Param>,
    bias: Option<Param>,
    running: Option<Running>,
    channels: usize,
    eps: f64,
    momentum: Option<f64>,
    mode: Mode,
}

/// Running statistics.
#[derive(Debug, Module)]
pub(super) struct Running {
    pub running_mean: Buffer,
    pub running_var: Buffer,
    pub num_batches_tracked: Counter,
}

impl Running {
    /// Mean 0 and variance 1, of no batch.
    pub fn new(channels: usize, options: Options) -> Result<Running> {
        let running_mean = Buffer::new(Tensor::try_zeros(channels, options)?);
        let running_var = Buffer::new(Tensor::try_ones(channels, options)?);
        Ok(Running { running_mean, running_var, num_batches_tracked: Counter::new(0) })
    }
}

impl BatchNorm {
    fn new(channels: usize, options: Options) -> Result<BatchNorm> {
        Ok(BatchNorm {
            weight: Some(Param::new(Tensor::try_ones(channels, options)?)),
            bias: Some(Param::new(Tensor::try_zeros(channels, options)?)),
            running: Some(Running::new(channels, options)?),
            channels,
            eps: 1e-5,
            momentum: Some(0.1),
            mode: Mode::default(),
        })
    }

    fn forward(&self, op: &'static str, ranks: &[usize], x: &Tensor) -> Result<Tensor> {
        let channels = self.channels;
        if !ranks.contains(&x.rank()) || x.dims()[1] != channels {
            let layout = if ranks.contains(&4) { "[N, C, H, W]" } else { "[N, C] or [N, C, L]" };
            return Err(Error::shape(op, &[x.shape()], format!("an input {layout} with C = {channels}")));
        }
        let weight = self.weight.as_ref().map(Param::get);
        let bias = self.bias.as_ref().map(Param::get);
        if let Some(running) = &self.running
            && !self.mode.is_training()
        {
            let (mean, var) = (running.running_mean.get(), running.running_var.get());
            return x.try_batch_norm(&mean, &var, weight.as_ref(), bias.as_ref(), self.eps);
        }
        let n = x.numel() / channels.max(1);
        if n < 2 {
            return Err(Error::shape(op, &[x.shape()], "more than one value per channel where the batch's statistics are taken"));
        }
        let (y, mean, var) = x.try_batch_norm_training(weight.as_ref(), bias.as_ref(), self.eps)?;
        let Some(running) = &self.running else { return Ok(y) };
        let seen = running.num_batches_tracked.increment();
        let m = self.momentum.filter(|_| !self.mode.is_averaging()).unwrap_or(1.0 / seen as f64);
        let unbiased = m * n as f64 / (n - 1) as f64;
        running.running_mean.update(|r| r.try_mul(1.0 - m)?.try_add(mean.try_mul(m)?.try_cast(r.dtype())?))?;
        running.running_var.update(|r| r.try_mul(1.0 - m)?.try_add(var.try_mul(unbiased)?.try_cast(r.dtype())?))?;
        Ok(y)
    }
}

impl Module for BatchNorm {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.field("weight", |walk| self.weight.walk(walk));
        walk.field("bias", |walk| self.bias.walk(walk));
        if let Some(running) = &self.running {
            walk.field("running_mean", |walk| running.running_mean.walk(walk));
            walk.field("running_var", |walk| running.running_var.walk(walk));
            walk.field("num_batches_tracked", |walk| running.num_batches_tracked.walk(walk));
        }
        self.mode.walk(walk);
    }
}

macro_rules! batch_norms {
    ($($name:ident, $ranks:expr, $layout:literal, $dims:literal);* $(;)?) => { $(
        #[doc = concat!("Batch normalisation of ", $layout, ": each channel is normalised over the batch and its positions")]
        /// (Ioffe and Szegedy 2015), `y = (x − mean) / √(var + eps) · weight + bias`.
        ///
        /// In training mode with the mean and the biased variance of the batch, which also move the running statistics (there the variance is unbiased):
        /// `running ← (1 − momentum) · running + momentum · batch`. In evaluation mode with the running statistics.
        ///
        /// ```
        #[doc = concat!("use fornax::nn::{", stringify!($name), ", Forward, Module};")]
        /// use fornax::{Device, Tensor};
        #[doc = concat!("let norm = ", stringify!($name), "::new(3, Device::cpu());")]
        #[doc = concat!("let x = Tensor::normal(", $dims, ", 5.0, 2.0, Device::cpu());")]
        /// assert!(norm.forward(&x)?.mean(()).item::<f32>()?.abs() < 1e-4);
        /// assert_eq!(norm.state_dict()["num_batches_tracked"].item::<i64>()?, 1);
        /// # Ok::<(), fornax::Error>(())
        /// ```
        #[derive(Debug)]
        pub struct $name(BatchNorm);

        #[fornax_derive::fallible]
        impl $name {
            /// A layer for this many channels, with eps 1e-5, momentum 0.1, weight 1 and bias 0.
            ///
            /// # Errors
            /// Sizes that memory cannot hold, or a dtype that the device lacks.
            pub fn try_new(channels: usize, options: impl Into<Options>) -> Result<$name> {
                Ok($name(BatchNorm::new(channels, options.into())?))
            }
        }

        impl $name {
            /// Sets what is added to the variance.
            pub fn eps(mut self, eps: f64) -> $name {
                self.0.eps = eps;
                self
            }

            /// Sets how far a batch moves the running statistics; `None` for the plain average of all batches.
            pub fn momentum(mut self, momentum: impl Into<Option<f64>>) -> $name {
                self.0.momentum = momentum.into();
                self
            }

            /// The layer without weight and bias.
            pub fn no_affine(mut self) -> $name {
                (self.0.weight, self.0.bias) = (None, None);
                self
            }

            /// The weight, `[channels]`.
            pub fn weight(&self) -> Option<&Param> {
                self.0.weight.as_ref()
            }

            /// The bias, `[channels]`.
            pub fn bias(&self) -> Option<&Param> {
                self.0.bias.as_ref()
            }

            /// The layer without running statistics: it takes those of the batch in evaluation mode too.
            pub fn no_running_stats(mut self) -> $name {
                self.0.running = None;
                self
            }

            /// The running mean, `[channels]`.
            pub fn running_mean(&self) -> Option<&Buffer> {
                self.0.running.as_ref().map(|r| &r.running_mean)
            }

            /// The running variance, `[channels]`.
            pub fn running_var(&self) -> Option<&Buffer> {
                self.0.running.as_ref().map(|r| &r.running_var)
            }
        }

        impl Module for $name {
            fn walk(&self, walk: &mut Walk<'_>) {
                walk.module(stringify!($name));
                self.0.walk(walk)
            }
        }

        impl Forward for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                self.0.forward(stringify!($name), &$ranks, x)
            }
        }
    )* };
}
batch_norms! {
    BatchNorm1d, [2, 3], "features `[N, C]` or sequences `[N, C, L]`", "[64, 3]";
    BatchNorm2d, [4], "images `[N, C, H, W]`", "[8, 3, 4, 4]";
}

/// Layer normalisation over the last axes; see [`Tensor::layer_norm`]. Weight 1 and bias 0 of the normalised shape, eps 1e-5.
///
/// ```
/// use fornax::nn::{Forward, LayerNorm};
/// use fornax::{Device, Tensor};
/// let y = LayerNorm::new(4, Device::cpu()).forward(&Tensor::arange(0, 8, 1, Device::cpu()).reshape([2, 4]))?;
/// assert!(y.sum(-1).abs().max(()).item::<f32>()? < 1e-5);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Debug, Module)]
pub struct LayerNorm {
    /// Of the normalised shape.
    pub weight: Option<Param>,
    /// Of the normalised shape.
    pub bias: Option<Param>,
    /// The sizes of the axes that are normalised.
    pub shape: Shape,
    /// What is added to the variance.
    pub eps: f64,
}

#[fornax_derive::fallible]
impl LayerNorm {
    /// A layer for last axes of these sizes.
    ///
    /// # Errors
    /// Sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(shape: impl Into<Shape>, options: impl Into<Options>) -> Result<LayerNorm> {
        let (shape, options) = (shape.into(), options.into());
        let weight = Some(Param::new(Tensor::try_ones(&shape, options)?));
        let bias = Some(Param::new(Tensor::try_zeros(&shape, options)?));
        Ok(LayerNorm { weight, bias, shape, eps: 1e-5 })
    }
}

impl LayerNorm {
    /// Sets what is added to the variance.
    pub fn eps(mut self, eps: f64) -> LayerNorm {
        self.eps = eps;
        self
    }

    /// The layer without its bias.
    pub fn no_bias(mut self) -> LayerNorm {
        self.bias = None;
        self
    }

    /// The layer without weight and bias.
    pub fn no_affine(mut self) -> LayerNorm {
        (self.weight, self.bias) = (None, None);
        self
    }
}

impl Forward for LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.weight.as_ref().map(Param::get), self.bias.as_ref().map(Param::get));
        x.try_layer_norm(&self.shape, weight.as_ref(), bias.as_ref(), self.eps)
    }
}

/// Root-mean-square normalisation over the last axes; see [`Tensor::rms_norm`]. Weight 1 of the normalised shape.
///
/// ```
/// use fornax::nn::{Forward, RMSNorm};
/// use fornax::{Device, Tensor};
/// let y = RMSNorm::new(4, Device::cpu()).forward(&Tensor::full([2, 4], 3.0, Device::cpu()))?;
/// assert!((y.mean(()).item::<f32>()? - 1.0).abs() < 1e-5);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Debug, Module)]
pub struct RMSNorm {
    /// Of the normalised shape.
    pub weight: Option<Param>,
    /// The sizes of the axes that are normalised.
    pub shape: Shape,
    /// What is added to the mean square. `None`: the epsilon of the dtype that is computed in, 2⁻⁵² for f64 and 2⁻²³ for all others (f16 and bf16 are
    /// computed in f32), as PyTorch does.
    pub eps: Option<f64>,
}

#[fornax_derive::fallible]
impl RMSNorm {
    /// A layer for last axes of these sizes.
    ///
    /// # Errors
    /// Sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(shape: impl Into<Shape>, options: impl Into<Options>) -> Result<RMSNorm> {
        let shape = shape.into();
        Ok(RMSNorm { weight: Some(Param::new(Tensor::try_ones(&shape, options)?)), shape, eps: None })
    }
}

impl RMSNorm {
    /// Sets what is added to the mean square.
    pub fn eps(mut self, eps: f64) -> RMSNorm {
        self.eps = Some(eps);
        self
    }

    /// The layer without its weight.
    pub fn no_affine(mut self) -> RMSNorm {
        self.weight = None;
        self
    }
}

impl Forward for RMSNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let eps = self.eps.unwrap_or(if x.dtype() == crate::DType::F64 { f64::EPSILON } else { f32::EPSILON as f64 });
        x.try_rms_norm(&self.shape, self.weight.as_ref().map(Param::get).as_ref(), eps)
    }
}

/// Normalisation over groups of channels of `[N, C, ..]`; see [`Tensor::group_norm`]. Weight 1 and bias 0 a channel, eps 1e-5.
///
/// ```
/// use fornax::nn::{Forward, GroupNorm};
/// use fornax::{Device, Tensor};
/// let y = GroupNorm::new(2, 6, Device::cpu()).forward(&Tensor::ones([1, 6, 4], Device::cpu()))?;
/// assert_eq!(y.abs().max(()).item::<f32>()?, 0.0);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Debug, Module)]
pub struct GroupNorm {
    /// `[channels]`.
    pub weight: Option<Param>,
    /// `[channels]`.
    pub bias: Option<Param>,
    /// The number of groups.
    pub groups: usize,
    /// What is added to the variance.
    pub eps: f64,
}

#[fornax_derive::fallible]
impl GroupNorm {
    /// A layer for this many channels, in this many groups.
    ///
    /// # Errors
    /// Channels that are no multiple of the groups; sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(groups: usize, channels: usize, options: impl Into<Options>) -> Result<GroupNorm> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(Error::argument("GroupNorm", format!("{channels} channels cannot be split into {groups} groups")));
        }
        let options = options.into();
        let weight = Some(Param::new(Tensor::try_ones(channels, options)?));
        let bias = Some(Param::new(Tensor::try_zeros(channels, options)?));
        Ok(GroupNorm { weight, bias, groups, eps: 1e-5 })
    }
}

impl GroupNorm {
    /// Sets what is added to the variance.
    pub fn eps(mut self, eps: f64) -> GroupNorm {
        self.eps = eps;
        self
    }

    /// The layer without weight and bias.
    pub fn no_affine(mut self) -> GroupNorm {
        (self.weight, self.bias) = (None, None);
        self
    }
}

impl Forward for GroupNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.weight.as_ref().map(Param::get), self.bias.as_ref().map(Param::get));
        x.try_group_norm(self.groups, weight.as_ref(), bias.as_ref(), self.eps)
    }
}

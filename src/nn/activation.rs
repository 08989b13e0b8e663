//! Activations as layers; the formulas stand with the tensor methods.

use super::{Forward, Mode, Module, Param};
use crate::{Error, Options, Result, Tensor};

macro_rules! plain {
    ($($name:ident $method:ident $try_method:ident),* $(,)?) => { $(
        #[doc = concat!("The layer of [`Tensor::", stringify!($method), "`].")]
        #[derive(Clone, Copy, Debug, Default, Module)]
        pub struct $name;

        impl Forward for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                x.$try_method()
            }
        }
    )* };
}
plain! {
    ReLU relu try_relu,
    SELU selu try_selu,
    SiLU silu try_silu,
    Mish mish try_mish,
    Sigmoid sigmoid try_sigmoid,
    Tanh tanh try_tanh,
    Hardswish hardswish try_hardswish,
    Hardsigmoid hardsigmoid try_hardsigmoid,
    Softsign softsign try_softsign,
}

macro_rules! with_number {
    ($($name:ident $method:ident $try_method:ident $field:ident $default:literal $what:literal),* $(,)?) => { $(
        #[doc = concat!("The layer of [`Tensor::", stringify!($method), "`].")]
        #[derive(Clone, Copy, Debug, Module)]
        pub struct $name {
            #[doc = $what]
            pub $field: f64,
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $field: $default }
            }
        }

        impl Forward for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                x.$try_method(self.$field)
            }
        }
    )* };
}
with_number! {
    LeakyReLU leaky_relu try_leaky_relu negative_slope 0.01 "The slope below zero.",
    ELU elu try_elu alpha 1.0 "The value that it falls to is `-alpha`.",
}

/// Activations that are compositions of tensor ops.
macro_rules! composed {
    ($($(#[$doc:meta])* $name:ident { $($(#[$what:meta])* $field:ident: $ty:ty = $default:expr),* } |$s:ident, $x:ident| $y:expr;)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Module)]
        pub struct $name {
            $($(#[$what])* pub $field: $ty,)*
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default),* }
            }
        }

        impl Forward for $name {
            fn forward(&self, $x: &Tensor) -> Result<Tensor> {
                let $s = self;
                $y
            }
        }
    )* };
}
composed! {
    /// `min(max(x, 0), 6)`.
    ///
    /// ```
    /// use fornax::nn::{Forward, ReLU6};
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[-1.0f32, 2.0, 9.0], 3, Device::cpu())?;
    /// assert_eq!(ReLU6 {}.forward(&x)?.to_vec::<f32>()?, [0.0, 2.0, 6.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ReLU6 {} |_s, x| x.try_relu()?.try_clamp(0.0, 6.0);
    /// `x` held between two numbers.
    Hardtanh {
        /// The lower number.
        min: f64 = -1.0,
        /// The upper number.
        max: f64 = 1.0
    } |s, x| x.try_clamp(s.min, s.max);
    /// `max(0, x) + min(0, α (exp(x/α) − 1))` (Barron 2017).
    CELU {
        /// α: the value that it falls to is `-alpha`.
        alpha: f64 = 1.0
    } |s, x| x.try_div(s.alpha)?.try_elu(1.0)?.try_mul(s.alpha);
    /// `log(1 + exp(beta·x)) / beta` ([`Tensor::softplus`]), and `x` itself where `beta·x` is above the threshold, as PyTorch's.
    ///
    /// ```
    /// use fornax::nn::{Forward, Softplus};
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[0.0f32, 3.0], 2, Device::cpu())?;
    /// let y = Softplus { threshold: 2.0, ..Softplus::default() }.forward(&x)?.to_vec::<f32>()?;
    /// assert!((y[0] - 2f32.ln()).abs() < 1e-6 && y[1] == 3.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    Softplus {
        /// The sharpness.
        beta: f64 = 1.0,
        /// Above which `beta·x` the function is `x`.
        threshold: f64 = 20.0
    } |s, x| x.try_mul(s.beta)?.try_gt(s.threshold)?.try_where(x, x.try_softplus(s.beta)?);
    /// `log(1 / (1 + exp(−x)))`.
    LogSigmoid {} |_s, x| x.try_neg()?.try_softplus(1.0)?.try_neg();
    /// `x − λ` above λ, `x + λ` below −λ, 0 between.
    Softshrink {
        /// λ.
        lambda: f64 = 0.5
    } |s, x| x.try_sub(x.try_clamp(-s.lambda, s.lambda)?);
    /// `x` outside ±λ, 0 inside.
    Hardshrink {
        /// λ.
        lambda: f64 = 0.5
    } |s, x| x.try_abs()?.try_gt(s.lambda)?.try_where(x, 0.0);
    /// `x − tanh x`.
    Tanhshrink {} |_s, x| x.try_sub(x.try_tanh()?);
    /// `x` above a threshold, another number at and below it.
    Threshold {
        /// The threshold.
        threshold: f64 = 0.0,
        /// The number at and below it.
        value: f64 = 0.0
    } |s, x| x.try_gt(s.threshold)?.try_where(x, s.value);
    /// `a · sigmoid(b)`, where a and b are the halves of x along an axis (Dauphin et al. 2017).
    ///
    /// ```
    /// use fornax::nn::{Forward, GLU};
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[3.0f32, 0.0], [1, 2], Device::cpu())?;
    /// assert_eq!(GLU::default().forward(&x)?.to_vec::<f32>()?, [1.5]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    GLU {
        /// The axis that is halved.
        axis: isize = -1
    } |s, x| {
        let r = x.rank() as isize;
        let axis = if s.axis < 0 { s.axis + r } else { s.axis };
        if !(0..r).contains(&axis) {
            return Err(Error::Axis { op: "GLU", axis: s.axis, rank: x.rank() });
        }
        let n = x.dims()[axis as usize];
        if !n.is_multiple_of(2) {
            return Err(Error::shape("GLU", &[x.shape()], format!("an even size of axis {}", s.axis)));
        }
        x.try_narrow(axis, 0, n / 2)?.try_mul(x.try_narrow(axis, n / 2, n / 2)?.try_sigmoid()?)
    };
    /// `softmax(−x)`.
    Softmin {
        /// The axis that sums to one.
        axis: isize = -1
    } |s, x| x.try_neg()?.try_softmax(s.axis);
}

/// `max(0, x) + a · min(0, x)` with a trained slope, one or one a channel (axis 1), that starts at 0.25 (He et al. 2015).
///
/// ```
/// use fornax::nn::{Forward, PReLU};
/// use fornax::{Device, Tensor};
/// let x = Tensor::from_slice(&[-2.0f32, 2.0], [1, 2], Device::cpu())?;
/// assert_eq!(PReLU::new(1, Device::cpu()).forward(&x)?.to_vec::<f32>()?, [-0.5, 2.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Debug, Module)]
pub struct PReLU {
    /// `[1]` or `[channels]`.
    pub weight: Param,
}

#[fornax_derive::fallible]
impl PReLU {
    /// So many slopes: 1, or the number of channels.
    ///
    /// # Errors
    /// Sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(slopes: usize, options: impl Into<Options>) -> Result<PReLU> {
        Ok(PReLU { weight: Param::new(Tensor::try_full(slopes, 0.25, options)?) })
    }
}

impl Forward for PReLU {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut w = self.weight.get();
        let n = w.numel();
        if n != 1 {
            if x.rank() < 2 || x.dims()[1] != n {
                return Err(Error::shape("PReLU", &[x.shape()], format!("an input [N, C, ..] with C = {n}")));
            }
            let shape: Vec<usize> = (0..x.rank()).map(|i| if i == 1 { n } else { 1 }).collect();
            w = w.try_reshape(shape)?;
        }
        x.try_gt(0.0)?.try_where(x, x.try_mul(w)?)
    }
}

/// A leaky ReLU whose slope below zero is drawn for each element in training mode, uniform between `lower` and `upper`, and is their mean in
/// evaluation mode.
///
/// ```
/// use fornax::nn::{Forward, Module, RReLU};
/// use fornax::{Device, Tensor};
/// let act = RReLU::new(0.25, 0.75);
/// act.eval();
/// assert_eq!(act.forward(&Tensor::full(1, -2.0, Device::cpu()))?.to_vec::<f32>()?, [-1.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Debug, Module)]
pub struct RReLU {
    /// The smallest slope.
    pub lower: f64,
    /// The largest slope.
    pub upper: f64,
    mode: Mode,
}

impl RReLU {
    /// Slopes between these.
    pub fn new(lower: f64, upper: f64) -> RReLU {
        RReLU { lower, upper, mode: Mode::default() }
    }
}

impl Default for RReLU {
    fn default() -> Self {
        RReLU::new(1.0 / 8.0, 1.0 / 3.0)
    }
}

impl Forward for RReLU {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if !(self.lower <= self.upper) {
            return Err(Error::argument("RReLU", format!("slopes {}..{}: lower ≤ upper is wanted", self.lower, self.upper)));
        }
        if !self.mode.is_training() {
            return x.try_leaky_relu((self.lower + self.upper) / 2.0);
        }
        let slopes = Tensor::try_uniform(x.shape(), self.lower, self.upper, (x.dtype(), x.device()))?;
        x.try_gt(0.0)?.try_where(x, x.try_mul(slopes)?)
    }
}

/// The layer of [`Tensor::gelu`], or of [`Tensor::gelu_tanh`].
#[derive(Clone, Copy, Debug, Default, Module)]
pub struct GELU {
    /// Whether to approximate by tanh.
    pub tanh: bool,
}

impl Forward for GELU {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.tanh { x.try_gelu_tanh() } else { x.try_gelu() }
    }
}

/// The layer of [`Tensor::softmax`].
#[derive(Clone, Copy, Debug, Module)]
pub struct Softmax {
    /// The axis that sums to one.
    pub axis: isize,
}

impl Forward for Softmax {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.try_softmax(self.axis)
    }
}

/// The layer of [`Tensor::log_softmax`].
#[derive(Clone, Copy, Debug, Module)]
pub struct LogSoftmax {
    /// The axis whose exponentials sum to one.
    pub axis: isize,
}

impl Forward for LogSoftmax {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.try_log_softmax(self.axis)
    }
}

//! Activations as layers; the formulas stand with the tensor methods.

use super::{Forward, Module};
use crate::{Result, Tensor};

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
    Softplus softplus try_softplus beta 1.0 "The sharpness.",
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

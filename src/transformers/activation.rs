//! Activations by their names in config.json.

use super::Config;
use crate::{Result, Tensor};

/// The activation of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x Φ(x).
    Gelu,
    /// Its approximation by tanh.
    GeluTanh,
    /// x sigmoid(x).
    Silu,
    /// tanh x.
    Tanh,
}

impl Activation {
    /// By the name that Hugging Face uses.
    ///
    /// # Errors
    /// An unknown name; the message has the known ones.
    pub fn named(config: &Config, key: &str, default: &str) -> Result<Activation> {
        match config.text(key, default)? {
            "relu" => Ok(Activation::Relu),
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "silu" | "swish" => Ok(Activation::Silu),
            "tanh" => Ok(Activation::Tanh),
            other => Err(config
                .error(format!("{key} is {other:?}: known are relu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, silu, swish and tanh"))),
        }
    }

    /// The value.
    ///
    /// # Errors
    /// An input of a dtype that is no float.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Activation::Relu => x.try_relu(),
            Activation::Gelu => x.try_gelu(),
            Activation::GeluTanh => x.try_gelu_tanh(),
            Activation::Silu => x.try_silu(),
            Activation::Tanh => x.try_tanh(),
        }
    }
}

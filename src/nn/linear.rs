//! The linear layer.

use super::{Forward, Module, Param, init};
use crate::{Options, Result, Tensor};

/// `y = x Wᵀ + b`, on the last axis of `x`.
///
/// Weight `[out, in]` and bias `[out]` start uniform between `±1/√in`.
///
/// ```
/// use fornax::nn::{Forward, Linear};
/// use fornax::{Device, Tensor};
/// let layer = Linear::new(3, 5, Device::cpu());
/// assert_eq!(layer.forward(&Tensor::ones([2, 4, 3], Device::cpu()))?.dims(), [2, 4, 5]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Debug, Module)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Option<Param>,
}

#[fornax_derive::fallible]
impl Linear {
    /// A layer from `inputs` to `outputs` features, with a bias.
    ///
    /// # Errors
    /// Sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(inputs: usize, outputs: usize, options: impl Into<Options>) -> Result<Linear> {
        let options = options.into();
        let weight = Param::new(init::weight([outputs, inputs], options)?);
        Ok(Linear { weight, bias: Some(Param::new(init::bias(outputs, inputs, options)?)) })
    }
}

impl Linear {
    /// The layer without its bias.
    pub fn no_bias(mut self) -> Linear {
        self.bias = None;
        self
    }
}

impl Forward for Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.try_linear(&self.weight.get(), self.bias.as_ref().map(Param::get).as_ref())
    }
}

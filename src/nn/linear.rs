//! The linear layer.

use super::{Adaptable, Forward, Hook, Item, LayerKind, Module, Param, Walk, Weight, init};
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
#[derive(Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Option<Param>,
    /// What stands around the layer.
    pub hook: Hook,
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
        Ok(Linear::from_parts(weight, Some(Param::new(init::bias(outputs, inputs, options)?))))
    }
}

impl Linear {
    /// A layer of a weight `[out, in]` and a bias `[out]`.
    ///
    /// ```
    /// use fornax::nn::{Forward, Linear, Param};
    /// use fornax::{Device, Tensor};
    /// let layer = Linear::from_parts(Param::new(Tensor::ones([2, 3], Device::cpu())), None);
    /// assert_eq!(layer.forward(&Tensor::ones([1, 3], Device::cpu()))?.to_vec::<f32>()?, [3.0; 2]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn from_parts(weight: Param, bias: Option<Param>) -> Linear {
        Linear { weight, bias, hook: Hook::default() }
    }

    /// The layer without its bias.
    pub fn no_bias(mut self) -> Linear {
        self.bias = None;
        self
    }
}

impl Module for Linear {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.module("Linear");
        walk.item(Item::Layer(self));
        walk.field("weight", |walk| self.weight.walk(walk));
        walk.field("bias", |walk| self.bias.walk(walk));
        self.hook.walk(walk);
    }
}

impl Adaptable for Linear {
    fn hook(&self) -> &Hook {
        &self.hook
    }

    fn kind(&self) -> LayerKind {
        let shape = self.weight.shape();
        LayerKind::Linear { inputs: shape[1], outputs: shape[0], transposed: false }
    }

    fn weight(&self) -> Weight {
        Weight::Param(self.weight.clone())
    }

    fn bias(&self) -> Option<Param> {
        self.bias.clone()
    }
}

impl Forward for Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.hook.call(x, &|x| x.try_linear(&self.weight.get(), self.bias.as_ref().map(Param::get).as_ref()))
    }
}

//! Layers that wait for their weights: matrices of zeros, norms of ones. They are recipes, so that what a checkpoint replaces takes neither memory nor time.

use super::Config;
use crate::nn::{
    Adaptable, Dropout, Embedding, Forward, Hook, Item, LayerKind, LayerNorm, Linear, Module, Param, RMSNorm, Slot, Walk, Weight,
};
use crate::{Options, Result, Tensor};

pub(super) fn linear(inputs: usize, outputs: usize, bias: bool, options: Options) -> Result<Slot> {
    let weight = Param::new(Tensor::try_zeros([outputs, inputs], options)?);
    let bias = if bias { Some(Param::new(Tensor::try_zeros(outputs, options)?)) } else { None };
    Ok(Slot::new(Linear::from_parts(weight, bias)))
}

/// A linear layer whose weight lies as `[in, out]`: GPT-2's.
#[derive(Debug)]
pub(super) struct Conv1D {
    weight: Param,
    bias: Param,
    hook: Hook,
}

impl Module for Conv1D {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.module("Conv1D");
        walk.item(Item::Layer(self));
        walk.field("weight", |walk| self.weight.walk(walk));
        walk.field("bias", |walk| self.bias.walk(walk));
        self.hook.walk(walk);
    }
}

impl Adaptable for Conv1D {
    fn hook(&self) -> &Hook {
        &self.hook
    }

    fn kind(&self) -> LayerKind {
        let shape = self.weight.shape();
        LayerKind::Linear { inputs: shape[0], outputs: shape[1], transposed: true }
    }

    fn weight(&self) -> Weight {
        Weight::Param(self.weight.clone())
    }

    fn bias(&self) -> Option<Param> {
        Some(self.bias.clone())
    }
}

impl Forward for Conv1D {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.hook.call(x, &|x| x.try_linear(&self.weight.get().try_t()?, Some(&self.bias.get())))
    }
}

pub(super) fn conv1d(inputs: usize, outputs: usize, options: Options) -> Result<Slot> {
    let (weight, bias) = (Tensor::try_zeros([inputs, outputs], options)?, Tensor::try_zeros(outputs, options)?);
    Ok(Slot::new(Conv1D { weight: Param::new(weight), bias: Param::new(bias), hook: Hook::default() }))
}

pub(super) fn embedding(count: usize, width: usize, options: Options) -> Result<Embedding> {
    Embedding::try_from_weight(Tensor::try_zeros([count, width], options)?)
}

pub(super) fn layer_norm(width: usize, eps: f64, options: Options) -> Result<LayerNorm> {
    Ok(LayerNorm::try_new(width, options)?.eps(eps))
}

pub(super) fn rms_norm(width: usize, eps: f64, options: Options) -> Result<RMSNorm> {
    Ok(RMSNorm::try_new(width, options)?.eps(eps))
}

pub(super) fn dropout(config: &Config, key: &str, default: f64) -> Result<Dropout> {
    Dropout::try_new(config.probability(key, default)?)
}

/// What a parameter holds at the start of a training: matrices normal with this deviation, everything else as it is.
pub(super) fn drawn(p: &Param, std: f64) -> Result<Tensor> {
    let value = p.value();
    match value.rank() {
        0 | 1 => Ok(value),
        _ => Tensor::try_normal(value.shape(), 0.0, std, (value.dtype(), value.device())),
    }
}

/// Draws all parameters of a new model.
pub(super) fn draw(module: &dyn Module, std: f64) -> Result<()> {
    module.parameters().iter().try_for_each(|p| p.set(drawn(p, std)?))
}

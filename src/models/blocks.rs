//! What several models are made of.

use crate::nn::{BatchNorm2d, Buffer, Conv2d, Forward, Item, Linear, Module, Param, Walk};
use crate::{ConvOptions, Error, Options, Pair, Result, Shape, Tensor};

/// The functions that models put between their layers.
///
/// ```
/// use fornax::models::Activation;
/// use fornax::nn::Forward;
/// use fornax::{Device, Tensor};
/// assert_eq!(Activation::ReLU6.forward(&Tensor::full(1, 9.0, Device::cpu()))?.item::<f32>()?, 6.0);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Module)]
pub enum Activation {
    /// `max(x, 0)`.
    #[default]
    ReLU,
    /// `min(max(x, 0), 6)`.
    ReLU6,
    /// The exact GELU.
    GELU,
    /// `x · sigmoid(x)`.
    SiLU,
    /// The hyperbolic tangent.
    Tanh,
}

impl Forward for Activation {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Activation::ReLU => x.try_relu(),
            Activation::ReLU6 => x.try_relu()?.try_clamp(0.0, 6.0),
            Activation::GELU => x.try_gelu(),
            Activation::SiLU => x.try_silu(),
            Activation::Tanh => x.try_tanh(),
        }
    }
}

/// A convolution without bias, batch normalisation, and an activation: torchvision's `BasicConv2d` and `Conv2dNormActivation`, which differ in the
/// names of their parameters.
#[derive(Debug)]
pub struct ConvBnAct {
    /// The convolution.
    pub conv: Conv2d,
    /// Its normalisation.
    pub bn: BatchNorm2d,
    /// What comes last.
    pub activation: Activation,
    names: [&'static str; 2],
}

impl ConvBnAct {
    /// Inception's block: `conv` and `bn` with eps 1e-3, then ReLU.
    pub(super) fn basic(inputs: usize, outputs: usize, kernel: impl Into<Pair>, conv: ConvOptions, options: Options) -> Result<ConvBnAct> {
        let conv = conv2d(inputs, outputs, kernel, conv, options)?.no_bias();
        let bn = BatchNorm2d::try_new(outputs, options)?.eps(1e-3);
        Ok(ConvBnAct { conv, bn, activation: Activation::ReLU, names: ["conv", "bn"] })
    }

    /// A block in a row: `0` and `1`.
    pub(super) fn numbered(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        conv: ConvOptions,
        activation: Activation,
        options: Options,
    ) -> Result<ConvBnAct> {
        let conv = conv2d(inputs, outputs, kernel, conv, options)?.no_bias();
        Ok(ConvBnAct { conv, bn: BatchNorm2d::try_new(outputs, options)?, activation, names: ["0", "1"] })
    }
}

impl Module for ConvBnAct {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.module("ConvBnAct");
        walk.field(self.names[0], |walk| self.conv.walk(walk));
        walk.field(self.names[1], |walk| self.bn.walk(walk));
    }
}

impl Forward for ConvBnAct {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.activation.forward(&self.bn.forward(&self.conv.forward(x)?)?)
    }
}

/// A convolution with these options, and a bias.
pub(super) fn conv2d(inputs: usize, outputs: usize, kernel: impl Into<Pair>, conv: ConvOptions, options: Options) -> Result<Conv2d> {
    let layer = Conv2d::try_new(inputs, outputs, kernel, options)?;
    let layer = if conv.groups == 1 { layer } else { layer.try_groups(conv.groups)? };
    Ok(Conv2d { options: conv, ..layer })
}

/// A stride and a padding.
pub(super) fn steps(stride: usize, padding: impl Into<Pair>) -> ConvOptions {
    ConvOptions { stride: stride.into(), padding: padding.into(), ..ConvOptions::default() }
}

/// The mean over the positions of images `[N, C, H, W]`: `[N, C]`.
pub(super) fn global_mean(x: &Tensor) -> Result<Tensor> {
    x.try_mean([2, 3])
}

/// The channels of the branches one after the other.
pub(super) fn join<const N: usize>(branches: [Tensor; N]) -> Result<Tensor> {
    Tensor::try_cat(&branches.each_ref(), 1)
}

/// Gives parameters new values: `rule(kind of the layer, name of the parameter, its shape, its dtype and device)`; those for which there is none stay.
pub(super) fn initialise(model: &dyn Module, rule: impl Fn(&str, &str, &Shape, Options) -> Result<Option<Tensor>>) -> Result<()> {
    let (mut layer, mut found): (&'static str, Vec<(&'static str, String, Param)>) = ("", Vec::new());
    model.walk(&mut Walk::new(&mut |path, item| match item {
        Item::Module(kind) => layer = kind,
        Item::Param(p) => found.push((layer, path.rsplit('.').next().unwrap_or(path).to_string(), p.clone())),
        _ => {}
    }));
    for (layer, name, p) in found {
        if let Some(value) = rule(layer, &name, &p.shape(), Options { dtype: p.dtype(), device: p.device() })? {
            p.set(value)?;
        }
    }
    Ok(())
}

/// Normal numbers around 0 that keep the variance on the way back (He et al. 2015), for convolutions; what VGG, ResNet and MobileNet start from.
pub(super) fn kaiming_fan_out(shape: &Shape, options: Options) -> Result<Option<Tensor>> {
    crate::nn::init::kaiming_normal(shape, crate::nn::init::Fan::Out, crate::nn::init::Gain::ReLU, options).map(Some)
}

/// A layer like the one at `path`, for so many outputs: on its device, in its dtype, newly drawn.
pub(super) fn new_head(op: &'static str, model: &dyn Module, path: &str, outputs: usize) -> Result<Linear> {
    let weight = format!("{path}.weight");
    match model.named_parameters().into_iter().find(|(name, _)| *name == weight) {
        Some((_, w)) if w.shape().rank() == 2 => Linear::try_new(w.shape()[1], outputs, (w.dtype(), w.device())),
        _ => Err(Error::argument(op, format!("there is no linear layer {path} that could be replaced"))),
    }
}

/// Turns images that were normalised with ImageNet's means and deviations into what the weights that were ported from TensorFlow want: from -1 to 1.
#[derive(Debug, Module)]
pub(super) struct InputTransform {
    scale: Buffer,
    shift: Buffer,
}

impl InputTransform {
    pub(super) fn new(options: Options) -> Result<InputTransform> {
        let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        let channels = |values: [f64; 3]| -> Result<Buffer> {
            let t = Tensor::from_vec(values.to_vec(), [1, 3, 1, 1], crate::Device::cpu())?;
            Ok(Buffer::transient(t.try_cast(options.dtype)?.try_to(options.device)?))
        };
        Ok(InputTransform { scale: channels(std.map(|s| s / 0.5))?, shift: channels(mean.map(|m| (m - 0.5) / 0.5))? })
    }
}

impl Forward for InputTransform {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.rank() != 4 || x.dims()[1] != 3 {
            return Err(Error::shape("transform_input", &[x.shape()], "images [N, 3, H, W]"));
        }
        x.try_mul(self.scale.get())?.try_add(self.shift.get())
    }
}

/// A method for each field of a configuration.
macro_rules! setters {
    ($config:ident { $($field:ident: $ty:ty),* $(,)? }) => {
        impl $config { $(
            #[doc = concat!("Sets `", stringify!($field), "`.")]
            pub fn $field(mut self, $field: $ty) -> $config {
                self.$field = $field;
                self
            }
        )* }
    };
}
pub(super) use setters;

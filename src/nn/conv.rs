//! Convolution layers.

use super::{Adaptable, Forward, Hook, Item, LayerKind, Module, Param, Walk, Weight, init};
use crate::{ConvOptions, ConvOptions1d, Error, Options, PadMode, Pair, Result, Shape, Tensor};

/// A 2-D convolution of images `[N, C, H, W]`; see [`Tensor::conv2d`].
///
/// Weight `[out, in/groups, kh, kw]` and bias `[out]` start uniform between `±1/√(in/groups · kh · kw)`. With as many groups as input channels it
/// is a depthwise convolution.
///
/// ```
/// use fornax::nn::{Conv2d, Forward};
/// use fornax::{Device, PadMode, Tensor};
/// let x = Tensor::ones([2, 3, 16, 16], Device::cpu());
/// let layer = Conv2d::new(3, 8, 3, Device::cpu()).stride(2).padding(1);
/// assert_eq!(layer.forward(&x)?.dims(), [2, 8, 8, 8]);
/// let layer = Conv2d::new(3, 8, [3, 4], Device::cpu()).dilation(2).same().padding_mode(PadMode::Reflect);
/// assert_eq!(layer.forward(&x)?.dims(), [2, 8, 16, 16]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Debug)]
pub struct Conv2d {
    /// `[out, in/groups, kh, kw]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Option<Param>,
    /// Stride, padding, dilation, groups.
    pub options: ConvOptions,
    /// What stands in the padding; zeros by default.
    pub padding_mode: PadMode,
    /// Whether the padding is what makes the output as large as the input, in place of the options' padding.
    pub same: bool,
    /// What stands around the layer.
    pub hook: Hook,
}

/// A 1-D convolution of sequences `[N, C, L]`; see [`Tensor::conv1d`].
///
/// Weight `[out, in/groups, k]` and bias `[out]` start uniform between `±1/√(in/groups · k)`.
///
/// ```
/// use fornax::nn::{Conv1d, Forward};
/// use fornax::{Device, Tensor};
/// let layer = Conv1d::new(3, 8, 5, Device::cpu()).padding(2);
/// assert_eq!(layer.forward(&Tensor::ones([2, 3, 16], Device::cpu()))?.dims(), [2, 8, 16]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Debug)]
pub struct Conv1d {
    /// `[out, in/groups, k]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Option<Param>,
    /// Stride, padding, dilation, groups.
    pub options: ConvOptions1d,
    /// What stands in the padding; zeros by default.
    pub padding_mode: PadMode,
    /// Whether the padding is what makes the output as large as the input, in place of the options' padding.
    pub same: bool,
    /// What stands around the layer.
    pub hook: Hook,
}

/// A weight of this shape and a bias of so many numbers, drawn anew.
pub(super) fn parameters(op: &'static str, shape: &[usize], outputs: usize, options: Options) -> Result<(Param, Param)> {
    if shape[2..].contains(&0) {
        return Err(Error::argument(op, format!("kernel {:?}: each size must be at least 1", &shape[2..])));
    }
    let fan = init::fan_in(shape);
    Ok((Param::new(init::weight(shape, options)?), Param::new(init::bias(outputs, fan, options)?)))
}

/// Checks that channels can be split into groups.
pub(super) fn check_groups(op: &'static str, inputs: usize, outputs: usize, groups: usize) -> Result<()> {
    if groups == 0 || !inputs.is_multiple_of(groups) || !outputs.is_multiple_of(groups) {
        let message = format!("groups = {groups}: a divisor of the {inputs} input and the {outputs} output channels is wanted");
        return Err(Error::argument(op, message));
    }
    Ok(())
}

/// The weight's shape after the channels were split into groups.
fn grouped(op: &'static str, weight: &Param, old: usize, groups: usize) -> Result<(Shape, Options)> {
    let mut shape = weight.shape();
    let inputs = shape[1] * old;
    check_groups(op, inputs, shape[0], groups)?;
    shape[1] = inputs / groups;
    Ok((shape, Options { dtype: weight.dtype(), device: weight.device() }))
}

/// The padding that keeps the size of one axis, before and behind it; the odd one goes behind, as PyTorch has it.
fn same_padding(op: &'static str, kernel: usize, stride: usize, dilation: usize) -> Result<(usize, usize)> {
    if stride != 1 {
        return Err(Error::argument(op, format!("stride {stride}: padding that keeps the size needs stride 1")));
    }
    let all = dilation.saturating_mul(kernel.saturating_sub(1));
    Ok((all / 2, all - all / 2))
}

/// Whether the convolution itself can pad so: with zeros, as many on both sides.
fn plain(pads: &[(usize, usize)], mode: PadMode) -> bool {
    mode == PadMode::Constant(0.0) && pads.iter().all(|p| p.0 == p.1)
}

#[fornax_derive::fallible]
impl Conv2d {
    /// A layer from `inputs` to `outputs` channels, with stride 1, no padding, and a bias.
    ///
    /// # Errors
    /// A kernel of size 0; sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(inputs: usize, outputs: usize, kernel: impl Into<Pair>, options: impl Into<Options>) -> Result<Conv2d> {
        let [h, w] = kernel.into().0;
        let (weight, bias) = parameters("Conv2d", &[outputs, inputs, h, w], outputs, options.into())?;
        let (options, padding_mode) = (ConvOptions::default(), PadMode::Constant(0.0));
        Ok(Conv2d { weight, bias: Some(bias), options, padding_mode, same: false, hook: Hook::default() })
    }

    /// Splits the channels into groups that do not see each other; the parameters are drawn anew.
    ///
    /// # Errors
    /// Channels that are no multiple of `groups`.
    pub fn try_groups(self, groups: usize) -> Result<Conv2d> {
        let (shape, options) = grouped("Conv2d", &self.weight, self.options.groups, groups)?;
        let (weight, bias) = parameters("Conv2d", &shape, shape[0], options)?;
        let options = ConvOptions { groups, ..self.options };
        Ok(Conv2d { weight, bias: self.bias.as_ref().map(|_| bias), options, ..self })
    }
}

impl Conv2d {
    /// Sets the step of the window.
    pub fn stride(mut self, stride: impl Into<Pair>) -> Conv2d {
        self.options.stride = stride.into();
        self
    }

    /// Sets the rows and columns of padding on each side.
    pub fn padding(mut self, padding: impl Into<Pair>) -> Conv2d {
        (self.options.padding, self.same) = (padding.into(), false);
        self
    }

    /// Pads so that the output is as large as the input, which needs stride 1.
    pub fn same(mut self) -> Conv2d {
        self.same = true;
        self
    }

    /// Sets what stands in the padding.
    pub fn padding_mode(mut self, mode: PadMode) -> Conv2d {
        self.padding_mode = mode;
        self
    }

    /// Sets the distance between the window's taps.
    pub fn dilation(mut self, dilation: impl Into<Pair>) -> Conv2d {
        self.options.dilation = dilation.into();
        self
    }

    /// The layer without its bias.
    pub fn no_bias(mut self) -> Conv2d {
        self.bias = None;
        self
    }
}

impl Module for Conv2d {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.module("Conv2d");
        walk.item(Item::Layer(self));
        walk.field("weight", |walk| self.weight.walk(walk));
        walk.field("bias", |walk| self.bias.walk(walk));
        self.hook.walk(walk);
    }
}

impl Adaptable for Conv2d {
    fn hook(&self) -> &Hook {
        &self.hook
    }

    fn kind(&self) -> LayerKind {
        LayerKind::Conv2d { options: self.options, padding_mode: self.padding_mode, same: self.same }
    }

    fn weight(&self) -> Weight {
        Weight::Param(self.weight.clone())
    }

    fn bias(&self) -> Option<Param> {
        self.bias.clone()
    }
}

impl Forward for Conv2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.hook.call(x, &|x| self.plain(x))
    }
}

impl Conv2d {
    /// Without what stands around it.
    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        let (w, o) = (self.weight.get(), self.options);
        let mut pads = o.padding.0.map(|p| (p, p));
        if self.same {
            for i in 0..2 {
                pads[i] = same_padding("Conv2d", w.dims()[2 + i], o.stride.0[i], o.dilation.0[i])?;
            }
        }
        let bias = self.bias.as_ref().map(Param::get);
        if plain(&pads, self.padding_mode) {
            return x.try_conv2d(&w, bias.as_ref(), ConvOptions { padding: pads.map(|p| p.0).into(), ..o });
        }
        x.try_pad(&pads, self.padding_mode)?.try_conv2d(&w, bias.as_ref(), ConvOptions { padding: 0.into(), ..o })
    }
}

#[fornax_derive::fallible]
impl Conv1d {
    /// A layer from `inputs` to `outputs` channels, with stride 1, no padding, and a bias.
    ///
    /// # Errors
    /// A kernel of size 0; sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(inputs: usize, outputs: usize, kernel: usize, options: impl Into<Options>) -> Result<Conv1d> {
        let (weight, bias) = parameters("Conv1d", &[outputs, inputs, kernel], outputs, options.into())?;
        let (options, padding_mode) = (ConvOptions1d::default(), PadMode::Constant(0.0));
        Ok(Conv1d { weight, bias: Some(bias), options, padding_mode, same: false, hook: Hook::default() })
    }

    /// Splits the channels into groups that do not see each other; the parameters are drawn anew.
    ///
    /// # Errors
    /// Channels that are no multiple of `groups`.
    pub fn try_groups(self, groups: usize) -> Result<Conv1d> {
        let (shape, options) = grouped("Conv1d", &self.weight, self.options.groups, groups)?;
        let (weight, bias) = parameters("Conv1d", &shape, shape[0], options)?;
        let options = ConvOptions1d { groups, ..self.options };
        Ok(Conv1d { weight, bias: self.bias.as_ref().map(|_| bias), options, ..self })
    }
}

impl Conv1d {
    /// Sets the step of the window.
    pub fn stride(mut self, stride: usize) -> Conv1d {
        self.options.stride = stride;
        self
    }

    /// Sets the padding on each side.
    pub fn padding(mut self, padding: usize) -> Conv1d {
        (self.options.padding, self.same) = (padding, false);
        self
    }

    /// Pads so that the output is as long as the input, which needs stride 1.
    pub fn same(mut self) -> Conv1d {
        self.same = true;
        self
    }

    /// Sets what stands in the padding.
    pub fn padding_mode(mut self, mode: PadMode) -> Conv1d {
        self.padding_mode = mode;
        self
    }

    /// Sets the distance between the window's taps.
    pub fn dilation(mut self, dilation: usize) -> Conv1d {
        self.options.dilation = dilation;
        self
    }

    /// The layer without its bias.
    pub fn no_bias(mut self) -> Conv1d {
        self.bias = None;
        self
    }
}

impl Module for Conv1d {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.module("Conv1d");
        walk.item(Item::Layer(self));
        walk.field("weight", |walk| self.weight.walk(walk));
        walk.field("bias", |walk| self.bias.walk(walk));
        self.hook.walk(walk);
    }
}

impl Adaptable for Conv1d {
    fn hook(&self) -> &Hook {
        &self.hook
    }

    fn kind(&self) -> LayerKind {
        LayerKind::Conv1d { options: self.options, padding_mode: self.padding_mode, same: self.same }
    }

    fn weight(&self) -> Weight {
        Weight::Param(self.weight.clone())
    }

    fn bias(&self) -> Option<Param> {
        self.bias.clone()
    }
}

impl Forward for Conv1d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.hook.call(x, &|x| self.plain(x))
    }
}

impl Conv1d {
    /// Without what stands around it.
    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        let (w, o) = (self.weight.get(), self.options);
        let pads = if self.same { same_padding("Conv1d", w.dims()[2], o.stride, o.dilation)? } else { (o.padding, o.padding) };
        let bias = self.bias.as_ref().map(Param::get);
        if plain(&[pads], self.padding_mode) {
            return x.try_conv1d(&w, bias.as_ref(), ConvOptions1d { padding: pads.0, ..o });
        }
        x.try_pad(&[pads], self.padding_mode)?.try_conv1d(&w, bias.as_ref(), ConvOptions1d { padding: 0, ..o })
    }
}

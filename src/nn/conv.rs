//! Convolution layers.

use super::{Forward, Module, Param, init};
use crate::{ConvOptions, ConvOptions1d, Error, Options, Pair, Result, Tensor};

/// A 2-D convolution of images `[N, C, H, W]`; see [`Tensor::conv2d`].
///
/// Weight `[out, in/groups, kh, kw]` and bias `[out]` start uniform between `±1/√(in/groups · kh · kw)`.
///
/// ```
/// use fornax::nn::{Conv2d, Forward};
/// use fornax::{Device, Tensor};
/// let layer = Conv2d::new(3, 8, 3, Device::cpu()).stride(2).padding(1);
/// assert_eq!(layer.forward(&Tensor::ones([2, 3, 16, 16], Device::cpu()))?.dims(), [2, 8, 8, 8]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Debug, Module)]
pub struct Conv2d {
    /// `[out, in/groups, kh, kw]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Option<Param>,
    /// Stride, padding, dilation, groups.
    pub options: ConvOptions,
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
#[derive(Debug, Module)]
pub struct Conv1d {
    /// `[out, in/groups, k]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Option<Param>,
    /// Stride, padding, dilation, groups.
    pub options: ConvOptions1d,
}

/// A weight `[out, in, k …]` and a bias, drawn anew.
fn parameters(shape: &[usize], options: Options) -> Result<(Param, Param)> {
    let fan = init::fan_in(shape);
    Ok((Param::new(init::weight(shape, options)?), Param::new(init::bias(shape[0], fan, options)?)))
}

/// The weight's shape after the channels were split into groups.
fn grouped(op: &'static str, weight: &Param, old: usize, groups: usize) -> Result<(crate::Shape, Options)> {
    let mut shape = weight.shape();
    let inputs = shape[1] * old;
    if groups == 0 || !inputs.is_multiple_of(groups) || !shape[0].is_multiple_of(groups) {
        let message = format!("{inputs} input and {} output channels cannot be split into {groups} groups", shape[0]);
        return Err(Error::argument(op, message));
    }
    shape[1] = inputs / groups;
    Ok((shape, Options { dtype: weight.dtype(), device: weight.device() }))
}

#[fornax_derive::fallible]
impl Conv2d {
    /// A layer from `inputs` to `outputs` channels, with stride 1, no padding, and a bias.
    ///
    /// # Errors
    /// Sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(inputs: usize, outputs: usize, kernel: impl Into<Pair>, options: impl Into<Options>) -> Result<Conv2d> {
        let [h, w] = kernel.into().0;
        let (weight, bias) = parameters(&[outputs, inputs, h, w], options.into())?;
        Ok(Conv2d { weight, bias: Some(bias), options: ConvOptions::default() })
    }

    /// Splits the channels into groups that do not see each other; the parameters are drawn anew.
    ///
    /// # Errors
    /// Channels that are no multiple of `groups`.
    pub fn try_groups(self, groups: usize) -> Result<Conv2d> {
        let (shape, options) = grouped("Conv2d", &self.weight, self.options.groups, groups)?;
        let (weight, bias) = parameters(&shape, options)?;
        let options = ConvOptions { groups, ..self.options };
        Ok(Conv2d { weight, bias: self.bias.map(|_| bias), options })
    }
}

impl Conv2d {
    /// Sets the step of the window.
    pub fn stride(mut self, stride: impl Into<Pair>) -> Conv2d {
        self.options.stride = stride.into();
        self
    }

    /// Sets the rows and columns of zeros on each side.
    pub fn padding(mut self, padding: impl Into<Pair>) -> Conv2d {
        self.options.padding = padding.into();
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

impl Forward for Conv2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.try_conv2d(&self.weight.get(), self.bias.as_ref().map(Param::get).as_ref(), self.options)
    }
}

#[fornax_derive::fallible]
impl Conv1d {
    /// A layer from `inputs` to `outputs` channels, with stride 1, no padding, and a bias.
    ///
    /// # Errors
    /// Sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(inputs: usize, outputs: usize, kernel: usize, options: impl Into<Options>) -> Result<Conv1d> {
        let (weight, bias) = parameters(&[outputs, inputs, kernel], options.into())?;
        Ok(Conv1d { weight, bias: Some(bias), options: ConvOptions1d::default() })
    }

    /// Splits the channels into groups that do not see each other; the parameters are drawn anew.
    ///
    /// # Errors
    /// Channels that are no multiple of `groups`.
    pub fn try_groups(self, groups: usize) -> Result<Conv1d> {
        let (shape, options) = grouped("Conv1d", &self.weight, self.options.groups, groups)?;
        let (weight, bias) = parameters(&shape, options)?;
        let options = ConvOptions1d { groups, ..self.options };
        Ok(Conv1d { weight, bias: self.bias.map(|_| bias), options })
    }
}

impl Conv1d {
    /// Sets the step of the window.
    pub fn stride(mut self, stride: usize) -> Conv1d {
        self.options.stride = stride;
        self
    }

    /// Sets the zeros on each side.
    pub fn padding(mut self, padding: usize) -> Conv1d {
        self.options.padding = padding;
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

impl Forward for Conv1d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.try_conv1d(&self.weight.get(), self.bias.as_ref().map(Param::get).as_ref(), self.options)
    }
}

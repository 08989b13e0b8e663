//! Transposed convolution layers.

use super::conv::{check_groups, parameters};
use super::{Forward, Module, Param};
use crate::{ConvOptions, ConvOptions1d, Options, Pair, Result, Tensor};

/// A transposed 2-D convolution of images `[N, C, H, W]`, which enlarges them; see [`Tensor::conv_transpose2d`].
///
/// Weight `[in, out/groups, kh, kw]` and bias `[out]` start uniform between `±1/√(out/groups · kh · kw)`.
///
/// ```
/// use fornax::nn::{ConvTranspose2d, Forward};
/// use fornax::{Device, Tensor};
/// let layer = ConvTranspose2d::new(8, 3, 3, Device::cpu()).stride(2).padding(1).output_padding(1);
/// assert_eq!(layer.forward(&Tensor::ones([2, 8, 5, 5], Device::cpu()))?.dims(), [2, 3, 10, 10]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Debug, Module)]
pub struct ConvTranspose2d {
    /// `[in, out/groups, kh, kw]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Option<Param>,
    /// Stride, padding, dilation, groups.
    pub options: ConvOptions,
    /// Rows and columns more at the end, less than the stride or the dilation.
    pub output_padding: Pair,
}

/// A transposed 1-D convolution of sequences `[N, C, L]`, which lengthens them; see [`Tensor::conv_transpose1d`].
///
/// Weight `[in, out/groups, k]` and bias `[out]` start uniform between `±1/√(out/groups · k)`.
///
/// ```
/// use fornax::nn::{ConvTranspose1d, Forward};
/// use fornax::{Device, Tensor};
/// let layer = ConvTranspose1d::new(8, 3, 4, Device::cpu()).stride(2).padding(1);
/// assert_eq!(layer.forward(&Tensor::ones([2, 8, 5], Device::cpu()))?.dims(), [2, 3, 10]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Debug, Module)]
pub struct ConvTranspose1d {
    /// `[in, out/groups, k]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Option<Param>,
    /// Stride, padding, dilation, groups.
    pub options: ConvOptions1d,
    /// Places more at the end, less than the stride or the dilation.
    pub output_padding: usize,
}

macro_rules! layer {
    ($name:ident, $options:ident, $size:ty, $arg:ty, [$($kernel:ident)*], $method:ident) => {
        #[fornax_derive::fallible]
        impl $name {
            /// A layer from `inputs` to `outputs` channels, with stride 1, no padding, and a bias.
            ///
            /// # Errors
            /// A kernel of size 0; sizes that memory cannot hold, or a dtype that the device lacks.
            pub fn try_new(inputs: usize, outputs: usize, kernel: $arg, options: impl Into<Options>) -> Result<$name> {
                let size: $size = kernel.into();
                let [$($kernel),*] = size.list();
                let (weight, bias) = parameters(stringify!($name), &[inputs, outputs, $($kernel),*], outputs, options.into())?;
                Ok($name { weight, bias: Some(bias), options: $options::default(), output_padding: 0usize.into() })
            }

            /// Splits the channels into groups that do not see each other; the parameters are drawn anew.
            ///
            /// # Errors
            /// Channels that are no multiple of `groups`.
            pub fn try_groups(self, groups: usize) -> Result<$name> {
                let mut shape = self.weight.shape();
                let outputs = shape[1] * self.options.groups;
                check_groups(stringify!($name), shape[0], outputs, groups)?;
                shape[1] = outputs / groups;
                let options = Options { dtype: self.weight.dtype(), device: self.weight.device() };
                let (weight, bias) = parameters(stringify!($name), &shape, outputs, options)?;
                let options = $options { groups, ..self.options };
                Ok($name { weight, bias: self.bias.as_ref().map(|_| bias), options, ..self })
            }
        }

        impl $name {
            /// Sets the step of the window.
            pub fn stride(mut self, stride: $arg) -> $name {
                self.options.stride = stride.into();
                self
            }

            /// Sets how much is taken away on each side.
            pub fn padding(mut self, padding: $arg) -> $name {
                self.options.padding = padding.into();
                self
            }

            /// Sets how much more there is at the end.
            pub fn output_padding(mut self, more: $arg) -> $name {
                self.output_padding = more.into();
                self
            }

            /// Sets the distance between the window's taps.
            pub fn dilation(mut self, dilation: $arg) -> $name {
                self.options.dilation = dilation.into();
                self
            }

            /// The layer without its bias.
            pub fn no_bias(mut self) -> $name {
                self.bias = None;
                self
            }
        }

        impl Forward for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                x.$method(&self.weight.get(), self.bias.as_ref().map(Param::get).as_ref(), self.options, self.output_padding)
            }
        }
    };
}

/// The sizes of a kernel, an axis each.
trait Sizes<const N: usize> {
    fn list(self) -> [usize; N];
}
impl Sizes<1> for usize {
    fn list(self) -> [usize; 1] {
        [self]
    }
}
impl Sizes<2> for Pair {
    fn list(self) -> [usize; 2] {
        self.0
    }
}

layer!(ConvTranspose2d, ConvOptions, Pair, impl Into<Pair>, [h w], try_conv_transpose2d);
layer!(ConvTranspose1d, ConvOptions1d, usize, usize, [k], try_conv_transpose1d);

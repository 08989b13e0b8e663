//! Pooling layers.

use super::{Forward, Module};
use crate::{Pair, PoolOptions, Result, Tensor};

/// The largest element of each window of images `[N, C, H, W]`; see [`Tensor::max_pool2d`].
///
/// ```
/// use fornax::nn::{Forward, MaxPool2d};
/// use fornax::{Device, Tensor};
/// let x = Tensor::arange(0, 16, 1, Device::cpu()).reshape([1, 1, 4, 4]);
/// assert_eq!(MaxPool2d::new(2).forward(&x)?.to_vec::<f32>()?, [5.0, 7.0, 13.0, 15.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Module)]
pub struct MaxPool2d {
    /// The window's height and width.
    pub kernel: Pair,
    /// Stride, padding and the like.
    pub options: PoolOptions,
}

impl MaxPool2d {
    /// Windows that tile the image.
    pub fn new(kernel: impl Into<Pair>) -> MaxPool2d {
        MaxPool2d { kernel: kernel.into(), options: PoolOptions::default() }
    }

    /// Sets the step of the window.
    pub fn stride(mut self, stride: impl Into<Pair>) -> MaxPool2d {
        self.options.stride = Some(stride.into());
        self
    }

    /// Sets the rows and columns around the image.
    pub fn padding(mut self, padding: impl Into<Pair>) -> MaxPool2d {
        self.options.padding = padding.into();
        self
    }
}

impl Forward for MaxPool2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.try_max_pool2d(self.kernel, self.options)
    }
}

/// The mean of each window of images `[N, C, H, W]`; see [`Tensor::avg_pool2d`].
///
/// ```
/// use fornax::nn::{AvgPool2d, Forward};
/// use fornax::{Device, Tensor};
/// let x = Tensor::arange(0, 4, 1, Device::cpu()).reshape([1, 1, 2, 2]);
/// assert_eq!(AvgPool2d::new(2).forward(&x)?.to_vec::<f32>()?, [1.5]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Module)]
pub struct AvgPool2d {
    /// The window's height and width.
    pub kernel: Pair,
    /// Stride, padding and the like.
    pub options: PoolOptions,
}

impl AvgPool2d {
    /// Windows that tile the image.
    pub fn new(kernel: impl Into<Pair>) -> AvgPool2d {
        AvgPool2d { kernel: kernel.into(), options: PoolOptions::default() }
    }

    /// Sets the step of the window.
    pub fn stride(mut self, stride: impl Into<Pair>) -> AvgPool2d {
        self.options.stride = Some(stride.into());
        self
    }

    /// Sets the rows and columns around the image.
    pub fn padding(mut self, padding: impl Into<Pair>) -> AvgPool2d {
        self.options.padding = padding.into();
        self
    }
}

impl Forward for AvgPool2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.try_avg_pool2d(self.kernel, self.options)
    }
}

/// Averages images `[N, C, H, W]` down to a given size; see [`Tensor::adaptive_avg_pool2d`].
///
/// ```
/// use fornax::nn::{AdaptiveAvgPool2d, Forward};
/// use fornax::{Device, Tensor};
/// let x = Tensor::ones([2, 3, 7, 5], Device::cpu());
/// assert_eq!(AdaptiveAvgPool2d::new(1).forward(&x)?.dims(), [2, 3, 1, 1]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Module)]
pub struct AdaptiveAvgPool2d {
    /// The height and width of the result.
    pub size: Pair,
}

impl AdaptiveAvgPool2d {
    /// A result of this size.
    pub fn new(size: impl Into<Pair>) -> AdaptiveAvgPool2d {
        AdaptiveAvgPool2d { size: size.into() }
    }
}

impl Forward for AdaptiveAvgPool2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.try_adaptive_avg_pool2d(self.size)
    }
}

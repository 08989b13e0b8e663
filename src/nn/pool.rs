//! Pooling layers.

use super::{Forward, Module};
use crate::{Pair, PoolOptions, Result, Tensor};

/// What all pooling layers over windows share.
macro_rules! windows {
    ($($(#[$doc:meta])* $name:ident $size:ty, $arg:ty, $method:ident;)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Module)]
        pub struct $name {
            /// The window's size.
            pub kernel: $size,
            /// Stride, padding and the like.
            pub options: PoolOptions,
        }

        impl $name {
            /// Windows that tile the input.
            pub fn new(kernel: $arg) -> $name {
                $name { kernel: kernel.into(), options: PoolOptions::default() }
            }

            /// Sets the step of the window.
            pub fn stride(mut self, stride: $arg) -> $name {
                self.options.stride = Some(stride.into());
                self
            }

            /// Sets the padding on each side, at most half the window.
            pub fn padding(mut self, padding: $arg) -> $name {
                self.options.padding = padding.into();
                self
            }

            /// Gives an output for a last window that does not fit whole, too.
            pub fn ceil_mode(mut self) -> $name {
                self.options.ceil_mode = true;
                self
            }
        }

        impl Forward for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                x.$method(self.kernel, self.options)
            }
        }
    )* };
}
windows! {
    /// The largest element of each window of images `[N, C, H, W]`; see [`Tensor::max_pool2d`].
    ///
    /// ```
    /// use fornax::nn::{Forward, MaxPool2d};
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::arange(0, 16, 1, Device::cpu()).reshape([1, 1, 4, 4]);
    /// assert_eq!(MaxPool2d::new(2).forward(&x)?.to_vec::<f32>()?, [5.0, 7.0, 13.0, 15.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    MaxPool2d Pair, impl Into<Pair>, try_max_pool2d;
    /// The largest element of each window of sequences `[N, C, L]`; see [`Tensor::max_pool1d`].
    ///
    /// ```
    /// use fornax::nn::{Forward, MaxPool1d};
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::arange(0, 5, 1, Device::cpu()).reshape([1, 1, 5]);
    /// assert_eq!(MaxPool1d::new(2).ceil_mode().forward(&x)?.to_vec::<f32>()?, [1.0, 3.0, 4.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    MaxPool1d usize, usize, try_max_pool1d;
    /// The mean of each window of images `[N, C, H, W]`; see [`Tensor::avg_pool2d`].
    ///
    /// ```
    /// use fornax::nn::{AvgPool2d, Forward};
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::arange(0, 4, 1, Device::cpu()).reshape([1, 1, 2, 2]);
    /// assert_eq!(AvgPool2d::new(2).forward(&x)?.to_vec::<f32>()?, [1.5]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    AvgPool2d Pair, impl Into<Pair>, try_avg_pool2d;
    /// The mean of each window of sequences `[N, C, L]`; see [`Tensor::avg_pool1d`].
    ///
    /// ```
    /// use fornax::nn::{AvgPool1d, Forward};
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::arange(0, 4, 1, Device::cpu()).reshape([1, 1, 4]);
    /// assert_eq!(AvgPool1d::new(2).forward(&x)?.to_vec::<f32>()?, [0.5, 2.5]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    AvgPool1d usize, usize, try_avg_pool1d;
}

macro_rules! dilated {
    ($($name:ident $arg:ty),*) => { $(
        impl $name {
            /// Sets the distance between a window's elements.
            pub fn dilation(mut self, dilation: $arg) -> $name {
                self.options.dilation = dilation.into();
                self
            }
        }
    )* };
}
dilated!(MaxPool2d impl Into<Pair>, MaxPool1d usize);

macro_rules! padded {
    ($($name:ident),*) => { $(
        impl $name {
            /// Leaves the padding's zeros out of what is divided by.
            pub fn exclude_pad(mut self) -> $name {
                self.options.count_include_pad = false;
                self
            }
        }
    )* };
}
padded!(AvgPool2d, AvgPool1d);

impl AvgPool2d {
    /// Sets what every window's sum is divided by.
    pub fn divisor_override(mut self, divisor: usize) -> AvgPool2d {
        self.options.divisor_override = Some(divisor);
        self
    }
}

macro_rules! adaptive {
    ($($name:ident $size:ty, $arg:ty, $method:ident, $try_method:ident, $what:literal, $input:literal, $made:literal;)*) => { $(
        #[doc = concat!($what, "; see [`Tensor::", stringify!($method), "`].")]
        ///
        /// ```
        #[doc = concat!("use fornax::nn::{", stringify!($name), ", Forward};")]
        /// use fornax::{Device, Tensor};
        #[doc = concat!("let x = Tensor::ones(", $input, ", Device::cpu());")]
        #[doc = concat!("assert_eq!(", stringify!($name), "::new(2).forward(&x)?.dims(), ", $made, ");")]
        /// # Ok::<(), fornax::Error>(())
        /// ```
        #[derive(Clone, Copy, Debug, Module)]
        pub struct $name {
            /// The size of the result.
            pub size: $size,
        }

        impl $name {
            /// A result of this size.
            pub fn new(size: $arg) -> $name {
                $name { size: size.into() }
            }
        }

        impl Forward for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                x.$try_method(self.size)
            }
        }
    )* };
}
adaptive! {
    AdaptiveAvgPool2d Pair, impl Into<Pair>, adaptive_avg_pool2d, try_adaptive_avg_pool2d,
        "Averages images `[N, C, H, W]` down to a given size", "[2, 3, 7, 5]", "[2, 3, 2, 2]";
    AdaptiveMaxPool2d Pair, impl Into<Pair>, adaptive_max_pool2d, try_adaptive_max_pool2d,
        "The maxima of images `[N, C, H, W]` in as many parts as asked for", "[2, 3, 7, 5]", "[2, 3, 2, 2]";
    AdaptiveAvgPool1d usize, usize, adaptive_avg_pool1d, try_adaptive_avg_pool1d,
        "Averages sequences `[N, C, L]` down to a given length", "[2, 3, 7]", "[2, 3, 2]";
    AdaptiveMaxPool1d usize, usize, adaptive_max_pool1d, try_adaptive_max_pool1d,
        "The maxima of sequences `[N, C, L]` in as many parts as asked for", "[2, 3, 7]", "[2, 3, 2]";
}

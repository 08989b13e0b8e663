//! Layers, parameters and losses; PyTorch's defaults, maths and names.
//!
//! A model is a struct of layers with `#[derive(Module)]`, and a [`Forward`]:
//!
//! ```
//! use fornax::nn::{self, Forward, Module};
//! use fornax::{Device, Tensor};
//! let model = nn::Sequential::new()
//!     .add(nn::Conv2d::new(1, 8, 3, Device::cpu()).padding(1))
//!     .add(nn::ReLU)
//!     .add(nn::MaxPool2d::new(2))
//!     .add(nn::Flatten::default())
//!     .add(nn::Linear::new(8 * 4 * 4, 10, Device::cpu()));
//! let logits = model.forward(&Tensor::zeros([5, 1, 8, 8], Device::cpu()))?;
//! assert_eq!(logits.dims(), [5, 10]);
//! assert_eq!(model.num_params(), 8 * 9 + 8 + 8 * 16 * 10 + 10);
//! # Ok::<(), fornax::Error>(())
//! ```
//!
//! A loss is a struct of its options, such as [`HuberLoss`], with a `forward`, and a function, such as [`huber_loss`], that is the loss with PyTorch's defaults.

mod activation;
mod attention;
mod bilinear;
mod container;
mod conv;
mod conv_transpose;
mod dropout;
mod embedding;
mod extra;
#[doc(hidden)]
pub mod field;
mod hook;
pub mod init;
mod instance_norm;
mod linear;
mod loss;
mod module;
mod norm;
pub(crate) mod param;
mod pool;
mod resample;
mod rnn;
mod slot;
pub(crate) mod state;
mod summary;
mod tied;

pub use crate::io::StateDict;
pub use activation::{
    CELU, ELU, GELU, GLU, Hardshrink, Hardsigmoid, Hardswish, Hardtanh, LeakyReLU, LogSigmoid, LogSoftmax, Mish, PReLU, RReLU, ReLU, ReLU6,
    SELU, SiLU, Sigmoid, Softmax, Softmin, Softplus, Softshrink, Softsign, Tanh, Tanhshrink, Threshold,
};
pub use attention::MultiheadAttention;
pub use bilinear::Bilinear;
pub use container::{Flatten, Identity, ModuleList, Sequential, Unflatten};
pub use conv::{Conv1d, Conv2d};
pub use conv_transpose::{ConvTranspose1d, ConvTranspose2d};
pub use dropout::{Dropout, Dropout2d};
pub use embedding::Embedding;
pub use extra::Extra;
pub use fornax_derive::Module;
pub use hook::{Adaptable, Around, Hook, LayerKind, Weight};
pub use instance_norm::{InstanceNorm1d, InstanceNorm2d};
pub use linear::Linear;
pub use loss::*;
pub use module::{Item, Module, Walk};
pub use norm::{BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, RMSNorm};
pub use param::{Buffer, Counter, Mode, Param};
pub use pool::{AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveMaxPool1d, AdaptiveMaxPool2d, AvgPool1d, AvgPool2d, MaxPool1d, MaxPool2d};
pub use resample::{PixelShuffle, PixelUnshuffle, Upsample};
pub use rnn::{GRU, LSTM, RNN};
pub use slot::Slot;
pub use state::Loaded;
pub use summary::{LayerSummary, Summary};
pub use tied::Tied;

use crate::{Result, Tensor};

/// What a layer or model with one input and one output computes.
pub trait Forward: Module {
    /// The output for an input.
    ///
    /// # Errors
    /// Where the input's shape, dtype or device does not fit.
    fn forward(&self, x: &Tensor) -> Result<Tensor>;

    /// What the model does with an input of this shape (the batch's axis included): a table of layers, output shapes, parameters, multiply-adds
    /// and memory. Nothing is computed.
    ///
    /// ```
    /// use fornax::nn::{Conv2d, Flatten, Forward, Linear, ReLU, Sequential};
    /// let d = fornax::Device::cpu();
    /// let net = Sequential::new().add(Conv2d::new(1, 4, 3, d)).add(ReLU).add(Flatten::default()).add(Linear::new(4 * 36, 10, d));
    /// let summary = net.summary([1, 1, 8, 8])?;
    /// println!("{summary}");
    /// assert_eq!(summary.layers[0].output, [1, 4, 6, 6]);
    /// assert_eq!(summary.multiply_adds, 4 * 36 * 9 + 4 * 36 * 10);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where the shape does not fit. For inputs of another kind see [`Summary::of`].
    fn summary(&self, input_shape: impl Into<crate::Shape>) -> Result<Summary>
    where
        Self: Sized,
    {
        let x = summary::zeros(self, input_shape.into())?;
        Summary::of(self, || self.forward(&x))
    }
}

impl<M: Forward + ?Sized> Forward for &M {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        (**self).forward(x)
    }
}
impl<M: Forward + ?Sized> Forward for Box<M> {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        (**self).forward(x)
    }
}
impl<M: Forward + ?Sized> Forward for std::sync::Arc<M> {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        (**self).forward(x)
    }
}
/// Nothing passes its input on.
impl<M: Forward> Forward for Option<M> {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Some(m) => m.forward(x),
            None => Ok(x.clone()),
        }
    }
}
/// One after the other.
impl<M: Forward> Forward for Vec<M> {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.iter().try_fold(x.clone(), |x, m| m.forward(&x))
    }
}

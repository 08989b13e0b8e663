//! Losses: PyTorch's, by its names and with its defaults, and some that it has elsewhere.
//!
//! Each is a struct that holds its options, such as [`HuberLoss`], with a `forward`; a function of PyTorch's name, such as [`huber_loss`], is the loss with
//! its defaults. What they compute in is f32 (f64 for f64), also of f16 and bf16, to which the result is rounded; targets may be of any dtype that holds their
//! values.
//!
//! ```
//! use fornax::{Device, Reduction, Tensor, nn};
//! let x = Tensor::from_slice(&[0.0f32, 3.0], 2, Device::cpu())?;
//! let target = Tensor::ones(2, Device::cpu());
//! assert_eq!(nn::huber_loss(&x, &target)?.item::<f32>()?, 1.0);
//! let each = nn::HuberLoss::new().delta(0.5).reduction(Reduction::None).forward(&x, &target)?;
//! assert_eq!(each.to_vec::<f32>()?, [0.375, 0.875]);
//! # Ok::<(), fornax::Error>(())
//! ```

mod classification;
mod ctc;
mod embedding;
mod margin;
mod regression;

pub use classification::{
    BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, DistillationLoss, KLDivLoss, NLLLoss, SigmoidFocalLoss, binary_cross_entropy,
    binary_cross_entropy_with_logits, cross_entropy, distillation_loss, kl_div, nll_loss, sigmoid_focal_loss,
};
pub use ctc::{CTCLoss, ctc_loss};
pub use embedding::{CosineEmbeddingLoss, InfoNCELoss, TripletMarginLoss, cosine_embedding_loss, info_nce_loss, triplet_margin_loss};
pub use margin::{
    HingeEmbeddingLoss, HingeLoss, MarginRankingLoss, MultiLabelMarginLoss, MultiLabelSoftMarginLoss, MultiMarginLoss, SoftMarginLoss,
    hinge_embedding_loss, hinge_loss, margin_ranking_loss, multi_margin_loss, multilabel_margin_loss, multilabel_soft_margin_loss,
    soft_margin_loss,
};
pub use regression::{
    GaussianNLLLoss, HuberLoss, L1Loss, MSELoss, PoissonNLLLoss, SmoothL1Loss, gaussian_nll_loss, huber_loss, l1_loss, mse_loss,
    poisson_nll_loss, smooth_l1_loss,
};

use super::Buffer;
use crate::{DType, Error, Reduction, Result, Shape, Tensor};

/// A loss: a struct of options with PyTorch's defaults, a builder of each, `forward`, and the function that is `forward` with the defaults. What stands in
/// brackets are factors, which a module moves and saves as buffers. The last closure computes; it gets the loss, its name for errors, and the arguments.
macro_rules! losses {
    ($(
        $(#[$doc:meta])*
        $name:ident $function:ident($($arg:ident: $ty:ty),+) reduced by $reduction:ident {
            $($(#[$what:meta])* $field:ident: $kind:ty = $default:expr,)*
        }
        [$($(#[$factor_doc:meta])* $factor:ident),*]
        |$s:ident, $op:ident| $body:expr;
    )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, crate::nn::Module)]
        pub struct $name {
            $($(#[$what])* pub $field: $kind,)*
            $($(#[$factor_doc])* pub $factor: Option<crate::nn::Buffer>,)*
            /// How the losses become one.
            pub reduction: crate::Reduction,
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $($field: $default,)* $($factor: None,)* reduction: crate::Reduction::$reduction }
            }
        }

        impl $name {
            /// The loss with its defaults.
            pub fn new() -> $name {
                $name::default()
            }

            $($(#[$what])*
            pub fn $field(mut self, $field: $kind) -> $name {
                self.$field = $field;
                self
            })*

            $($(#[$factor_doc])*
            pub fn $factor(mut self, $factor: crate::Tensor) -> $name {
                self.$factor = Some(crate::nn::Buffer::new($factor));
                self
            })*

            /// How the losses become one.
            pub fn reduction(mut self, reduction: crate::Reduction) -> $name {
                self.reduction = reduction;
                self
            }

            /// The loss.
            ///
            /// # Errors
            /// Shapes that do not fit, dtypes that the loss does not take, options out of range.
            pub fn forward(&self, $($arg: $ty),+) -> crate::Result<crate::Tensor> {
                let run = |$s: &$name, $op: &'static str| -> crate::Result<crate::Tensor> { $body };
                run(self, stringify!($function)).map_err(|error| error.named(stringify!($function)))
            }
        }

        #[doc = concat!("[`", stringify!($name), "`] with its defaults.")]
        ///
        /// # Errors
        /// Shapes or dtypes that do not fit.
        pub fn $function($($arg: $ty),+) -> crate::Result<crate::Tensor> {
            $name::default().forward($($arg),+)
        }
    )* };
}
use losses;

/// Tensors, the first of which is of floats, in the dtype in which a loss is computed; and the dtype of the loss.
fn floats<const N: usize>(op: &'static str, tensors: [&Tensor; N]) -> Result<([Tensor; N], DType)> {
    if !tensors[0].dtype().is_float() {
        return Err(Error::dtype(op, &tensors.map(|t| t.dtype()), "an input of a float dtype (f16, bf16, f32, f64): cast first"));
    }
    let floats = tensors.iter().map(|t| t.dtype()).filter(|d| d.is_float());
    let dtype = floats.reduce(DType::promote).unwrap_or(DType::F32);
    let mut out = tensors.map(Tensor::clone);
    for t in &mut out {
        *t = t.try_cast(dtype.compute())?;
    }
    Ok((out, dtype))
}

fn same_shape(op: &'static str, tensors: &[&Tensor]) -> Result<()> {
    if tensors.windows(2).all(|w| w[0].shape() == w[1].shape()) {
        return Ok(());
    }
    let shapes: Vec<&Shape> = tensors.iter().map(|t| t.shape()).collect();
    Err(Error::shape(op, &shapes, "input and target must have one shape"))
}

/// A factor in the dtype of the computation; it must broadcast to the losses' shape.
fn factor(op: &'static str, factor: &Option<Buffer>, losses: &Tensor) -> Result<Option<Tensor>> {
    let Some(w) = factor else { return Ok(None) };
    let w = w.get();
    if w.shape().broadcast(losses.shape()).as_ref() != Some(losses.shape()) {
        return Err(Error::shape(op, &[losses.shape(), w.shape()], "a weight that broadcasts to the input's shape"));
    }
    w.try_cast(losses.dtype()).map(Some)
}

/// A class's factor each, `[C]`, in the dtype of the computation.
fn class_factor(op: &'static str, factor: &Option<Buffer>, x: &Tensor, classes: usize) -> Result<Option<Tensor>> {
    let Some(w) = factor else { return Ok(None) };
    let w = w.get();
    if w.dims() != [classes] {
        return Err(Error::shape(op, &[x.shape(), w.shape()], format!("a weight of one element a class, [{classes}]")));
    }
    w.try_cast(x.dtype()).map(Some)
}

/// The losses, times a factor if there is one.
fn times(losses: Tensor, factor: Option<Tensor>) -> Result<Tensor> {
    match factor {
        Some(w) => losses.try_mul(w),
        None => Ok(losses),
    }
}

/// One loss of many, in the dtype of the result.
fn finish(losses: &Tensor, reduction: Reduction, dtype: DType) -> Result<Tensor> {
    reduction.apply(losses)?.try_cast(dtype)
}

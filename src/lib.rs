//! Fornax is a deep learning framework for every GPU that speaks Vulkan, Metal or DX12, and for the CPU.
#![deny(missing_docs)]
// Whether a tensor is `Sync` is a question about every type down to the shaders of `wgpu`.
#![recursion_limit = "256"]
extern crate self as fornax;

pub mod align;
mod autocast;
mod autograd;
mod backend;
mod codegen;
pub mod data;
mod device;
mod dtype;
mod error;
pub mod generate;
mod graph;
pub mod io;
mod layout;
pub mod lora;
pub mod metrics;
pub mod models;
pub mod nn;
mod ops;
pub mod optim;
#[cfg(feature = "plot")]
pub mod plot;
pub mod quant;
mod rng;
mod shape;
mod stats;
mod tensor;
#[doc(hidden)]
pub mod testing;
#[cfg(feature = "text")]
pub mod text;
pub mod train;
pub mod transformers;

pub use autocast::autocast;
pub use autograd::{GradCheck, Gradients, check_gradients, check_second_gradients, checkpoint, grad, grad_with, no_grad};
pub use device::Device;
pub use dtype::{DType, Element, Scalar};
pub use error::{Error, Result};
pub use graph::{LeafId, Tensor};
pub use ops::attention::Attention;
pub use ops::conv::{ConvOptions, ConvOptions1d, Pair};
pub use ops::cross_entropy::{CrossEntropy, Reduction};
pub use ops::custom::{CustomInputs, CustomOp, CustomOutputs, Shader, custom};
pub use ops::interpolate::{Interpolation, Resize};
pub use ops::nonzero::Unique;
pub use ops::pad::PadMode;
pub use ops::pool::PoolOptions;
pub use rng::{RngState, manual_seed, rng_state, set_rng_state};
pub use shape::Shape;
pub use stats::{Stats, reset_peak, stats, trim};
pub use tensor::{Axes, Index, Operand, Options, Span, eval};

/// The README's programs are compiled with the doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

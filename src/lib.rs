//! Fornax is a deep learning framework for every GPU that speaks Vulkan, Metal or DX12, and for the CPU.
#![deny(missing_docs)]
#![allow(dead_code)]
extern crate self as fornax;

mod autograd;
mod backend;
mod codegen;
mod device;
mod dtype;
mod error;
mod graph;
mod layout;
mod ops;
mod rng;
mod shape;
mod tensor;

pub use device::Device;
pub use dtype::{DType, Element, Scalar};
pub use error::{Error, Result};
pub use graph::Tensor;
pub use ops::conv::{ConvOptions, ConvOptions1d, Pair};
pub use ops::pad::PadMode;
pub use ops::pool::PoolOptions;
pub use rng::manual_seed;
pub use shape::Shape;
pub use tensor::{Axes, Operand, Options};

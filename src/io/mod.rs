//! Files.

pub mod npy;
pub mod safetensors;

use crate::Tensor;
use std::collections::BTreeMap;

/// Tensors by path, as in `layers.0.weight`: what a checkpoint holds.
pub type StateDict = BTreeMap<String, Tensor>;

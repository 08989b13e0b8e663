//! The embedding table.

use super::{Forward, Module, Param};
use crate::{Options, Result, Tensor};

/// A table of vectors, looked up by index: `[..]` of integers gives `[.., dim]`.
///
/// The weight `[count, dim]` starts normal with mean 0 and deviation 1.
///
/// ```
/// use fornax::nn::{Embedding, Forward};
/// use fornax::{Device, Tensor};
/// let table = Embedding::new(10, 4, Device::cpu());
/// let ids = Tensor::from_slice(&[1i32, 2, 9], 3, Device::cpu())?;
/// assert_eq!(table.forward(&ids)?.dims(), [3, 4]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Debug, Module)]
pub struct Embedding {
    /// `[count, dim]`.
    pub weight: Param,
}

#[fornax_derive::fallible]
impl Embedding {
    /// A table of `count` vectors of `dim` numbers.
    ///
    /// # Errors
    /// Sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(count: usize, dim: usize, options: impl Into<Options>) -> Result<Embedding> {
        Ok(Embedding { weight: Param::new(Tensor::try_normal([count, dim], 0.0, 1.0, options)?) })
    }
}

impl Forward for Embedding {
    fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        self.weight.get().try_embedding(ids)
    }
}

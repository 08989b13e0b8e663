//! The embedding table.

use super::{Adaptable, Forward, Hook, Item, LayerKind, Module, Param, Walk, Weight};
use crate::{Error, Options, Result, Tensor};

/// A table of vectors, looked up by index: `[..]` of integers gives `[.., dim]`.
///
/// The weight `[count, dim]` starts normal with mean 0 and deviation 1. The vector of the padding index starts at zero and gets no gradient.
///
/// ```
/// use fornax::nn::{Embedding, Forward};
/// use fornax::{Device, Tensor};
/// let table = Embedding::new(10, 4, Device::cpu()).padding_idx(0);
/// let ids = Tensor::from_slice(&[1i32, 2, 0], 3, Device::cpu())?;
/// let y = table.forward(&ids)?;
/// assert_eq!(y.dims(), [3, 4]);
/// assert_eq!(y.to_vec::<f32>()?[8..], [0.0; 4]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Debug)]
pub struct Embedding {
    /// `[count, dim]`.
    pub weight: Param,
    /// The index that stands for no entry.
    pub padding_idx: Option<usize>,
    /// What stands around the layer.
    pub hook: Hook,
}

#[fornax_derive::fallible]
impl Embedding {
    /// A table of `count` vectors of `dim` numbers.
    ///
    /// # Errors
    /// Sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(count: usize, dim: usize, options: impl Into<Options>) -> Result<Embedding> {
        Embedding::try_from_weight(Tensor::try_normal([count, dim], 0.0, 1.0, options)?)
    }

    /// A table with this weight `[count, dim]`.
    ///
    /// # Errors
    /// A weight of another rank.
    pub fn try_from_weight(weight: Tensor) -> Result<Embedding> {
        if weight.rank() != 2 {
            return Err(Error::shape("Embedding", &[weight.shape()], "a weight [count, dim]"));
        }
        Ok(Embedding { weight: Param::new(weight), padding_idx: None, hook: Hook::default() })
    }

    /// The table with an index that stands for no entry: its vector becomes zero.
    ///
    /// # Errors
    /// An index outside the table.
    pub fn try_padding_idx(self, index: usize) -> Result<Embedding> {
        let shape = self.weight.shape();
        if index >= shape[0] {
            return Err(Error::argument("Embedding", format!("padding_idx {index}: an index below {} is wanted", shape[0])));
        }
        let zero = Tensor::try_zeros([1, shape[1]], (self.weight.dtype(), self.weight.device()))?;
        self.weight.update(|w| w.try_slice_assign(&[index..index + 1, 0..shape[1]], &zero))?;
        Ok(Embedding { padding_idx: Some(index), ..self })
    }
}

impl Module for Embedding {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.module("Embedding");
        walk.item(Item::Layer(self));
        walk.field("weight", |walk| self.weight.walk(walk));
        self.hook.walk(walk);
    }
}

impl Adaptable for Embedding {
    fn hook(&self) -> &Hook {
        &self.hook
    }

    fn kind(&self) -> LayerKind {
        let shape = self.weight.shape();
        LayerKind::Embedding { count: shape[0], dim: shape[1] }
    }

    fn weight(&self) -> Weight {
        Weight::Param(self.weight.clone())
    }

    fn bias(&self) -> Option<Param> {
        None
    }
}

impl Forward for Embedding {
    fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        self.hook.call(ids, &|ids| {
            let y = self.weight.get().try_embedding(ids)?;
            match self.padding_idx {
                Some(i) => ids.try_eq(i)?.try_unsqueeze(-1)?.try_where(y.detach(), &y),
                None => Ok(y),
            }
        })
    }
}

//! Layers around layers.

use super::{Forward, Module, Walk};
use crate::{Result, Tensor};

/// Layers, one after the other. Their names are their positions, unless they were given one.
///
/// ```
/// use fornax::nn::{Forward, Linear, Module, ReLU, Sequential};
/// use fornax::{Device, Tensor};
/// let net = Sequential::new().add(Linear::new(2, 3, Device::cpu())).add(ReLU).add_named("head", Linear::new(3, 1, Device::cpu()));
/// assert_eq!(net.named_parameters()[2].0, "head.weight");
/// assert_eq!(net.forward(&Tensor::ones([4, 2], Device::cpu()))?.dims(), [4, 1]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Default)]
pub struct Sequential {
    layers: Vec<(String, Box<dyn Forward + Send + Sync>)>,
}

impl Sequential {
    /// No layers: the identity.
    pub fn new() -> Sequential {
        Sequential::default()
    }

    /// Adds a layer.
    #[allow(clippy::should_implement_trait)]
    pub fn add(self, layer: impl Forward + Send + Sync + 'static) -> Sequential {
        let name = self.layers.len().to_string();
        self.add_named(&name, layer)
    }

    /// Adds a layer with a name for its parameters' paths.
    pub fn add_named(mut self, name: &str, layer: impl Forward + Send + Sync + 'static) -> Sequential {
        self.layers.push((name.to_string(), Box::new(layer)));
        self
    }

    /// The number of layers.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }
}

impl Module for Sequential {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.module("Sequential");
        for (name, layer) in &self.layers {
            walk.field(name, |walk| layer.walk(walk));
        }
    }
}

impl Forward for Sequential {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.layers.iter().try_fold(x.clone(), |x, (_, layer)| layer.forward(&x))
    }
}

/// Joins axes `start` to `end` into one; by default all but the first.
///
/// ```
/// use fornax::nn::{Flatten, Forward};
/// use fornax::{Device, Tensor};
/// assert_eq!(Flatten::default().forward(&Tensor::ones([2, 3, 4], Device::cpu()))?.dims(), [2, 12]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Module)]
pub struct Flatten {
    /// The first axis to join.
    pub start: isize,
    /// The last.
    pub end: isize,
}

impl Default for Flatten {
    fn default() -> Self {
        Flatten { start: 1, end: -1 }
    }
}

impl Forward for Flatten {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.try_flatten(self.start, self.end)
    }
}

/// Passes its input on.
#[derive(Clone, Copy, Debug, Default, Module)]
pub struct Identity;

impl Forward for Identity {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.clone())
    }
}

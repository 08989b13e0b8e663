//! Layers around layers.

use super::{Forward, Module, Walk};
use crate::{Error, Result, Shape, Tensor};

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

    /// Puts another layer in the place of one: a head for another task, say.
    ///
    /// ```
    /// use fornax::nn::{Linear, Module, Sequential};
    /// use fornax::Device;
    /// let mut net = Sequential::new().add(Linear::new(2, 3, Device::cpu())).add(Linear::new(3, 1000, Device::cpu()));
    /// net.replace("1", Linear::new(3, 2, Device::cpu()))?;
    /// assert_eq!(net.named_parameters()[2].1.shape(), [2, 3]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// A name that no layer has.
    pub fn replace(&mut self, name: &str, layer: impl Forward + Send + Sync + 'static) -> Result<()> {
        let names = || self.layers.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ");
        let Some(at) = self.layers.iter().position(|(n, _)| n == name) else {
            return Err(Error::argument("Sequential", format!("no layer {name}; there are {}", names())));
        };
        self.layers[at].1 = Box::new(layer);
        Ok(())
    }

    /// The layers in a row, to walk through them by hand.
    pub fn iter(&self) -> impl Iterator<Item = &(dyn Forward + Send + Sync)> {
        self.layers.iter().map(|(_, layer)| layer.as_ref())
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

/// A list of layers of any types, under the names `0`, `1`, …. As every `Vec` of layers it is a module, and its `forward` runs one after the other.
///
/// ```
/// use fornax::nn::{Linear, Module, ModuleList, ReLU};
/// use fornax::Device;
/// let mut list: ModuleList = vec![Box::new(ReLU)];
/// list.push(Box::new(Linear::new(2, 3, Device::cpu())));
/// assert_eq!(list.named_parameters()[0].0, "1.weight");
/// ```
pub type ModuleList = Vec<Box<dyn Forward + Send + Sync>>;

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

/// Splits an axis into several: what undoes a [`Flatten`].
///
/// ```
/// use fornax::nn::{Forward, Unflatten};
/// use fornax::{Device, Tensor};
/// let x = Tensor::ones([2, 12], Device::cpu());
/// assert_eq!(Unflatten::new(1, [3, 2, 2]).forward(&x)?.dims(), [2, 3, 2, 2]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug, Module)]
pub struct Unflatten {
    /// The axis to split.
    pub axis: isize,
    /// The sizes of its parts.
    pub sizes: Shape,
}

impl Unflatten {
    /// Splits `axis` into axes of these sizes.
    pub fn new(axis: isize, sizes: impl Into<Shape>) -> Unflatten {
        Unflatten { axis, sizes: sizes.into() }
    }
}

impl Forward for Unflatten {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let rank = x.rank() as isize;
        let at = if self.axis < 0 { self.axis + rank } else { self.axis };
        if !(0..rank).contains(&at) {
            return Err(Error::Axis { op: "Unflatten", axis: self.axis, rank: x.rank() });
        }
        let (before, after) = x.dims().split_at(at as usize);
        x.try_reshape([before, &self.sizes, &after[1..]].concat())
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

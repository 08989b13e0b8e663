//! A place in a model where a layer can be exchanged.

use super::{Forward, Item, Module, Walk};
use crate::{Result, Tensor};
use std::fmt;
use std::sync::{Arc, Mutex};

/// A layer that can be replaced by another one after the model was built: by one with an adapter around it, or by a quantised one. A handle on a
/// shared cell, as [`Param`](super::Param) is; [`Module::named_slots`] finds the slots of a model with their paths. The parameters of the
/// layer inside have the slot's path: a slot is invisible in a state dict.
///
/// ```
/// use fornax::nn::{Forward, Linear, Module, Slot};
/// use fornax::{Device, Tensor};
/// #[derive(Module)]
/// struct Net {
///     up: Slot,
///     down: Slot,
/// }
/// let net = Net { up: Slot::new(Linear::new(4, 8, Device::cpu())), down: Slot::new(Linear::new(8, 4, Device::cpu())) };
/// for (path, slot) in net.named_slots() {
///     if path.ends_with("down") {
///         slot.replace(Linear::new(8, 2, Device::cpu()));
///     }
/// }
/// let y = net.down.forward(&net.up.forward(&Tensor::ones([3, 4], Device::cpu()))?)?;
/// assert_eq!(y.dims(), [3, 2]);
/// assert_eq!(net.named_parameters()[2].0, "down.weight");
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone)]
pub struct Slot(Arc<Mutex<Layer>>);

/// What a slot holds.
type Layer = Arc<dyn Forward + Send + Sync>;

impl Slot {
    /// A slot that holds this layer.
    pub fn new(layer: impl Forward + Send + Sync + 'static) -> Slot {
        Slot(Arc::new(Mutex::new(Arc::new(layer))))
    }

    /// The layer.
    pub fn get(&self) -> Arc<dyn Forward + Send + Sync> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Puts another layer here and returns the one that was. An `Arc` of a layer is a layer, so that a wrapper can hold the old one.
    pub fn replace(&self, layer: impl Forward + Send + Sync + 'static) -> Arc<dyn Forward + Send + Sync> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(|e| e.into_inner()), Arc::new(layer))
    }
}

impl Module for Slot {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.item(Item::Slot(self));
        self.get().walk(walk)
    }
}

impl Forward for Slot {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.get().forward(x)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes: Vec<String> = self.named_parameters().iter().map(|(name, p)| format!("{name} {}", p.shape())).collect();
        write!(f, "Slot({})", shapes.join(", "))
    }
}

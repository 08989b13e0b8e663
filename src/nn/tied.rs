//! A weight that two modules share.

use super::{Item, Module, Param, Walk};
use crate::Tensor;
use std::fmt;
use std::sync::{Arc, Mutex};

/// A weight that is another module's, as the head of a language model has the table of tokens for its weight; it can be given a weight of its own, and then follows
/// the other one no more. A handle on a shared cell, as [`Param`] is: an adapter that has a table of its own leaves the head the old one through it.
///
/// ```
/// use fornax::nn::{Param, Tied};
/// use fornax::{Device, Tensor};
/// let table = Param::new(Tensor::ones(2, Device::cpu()));
/// let head = Tied::new(&table);
/// let before = head.set_own(Some(Param::new(table.value())));
/// table.set(Tensor::zeros(2, Device::cpu()))?;
/// assert!(before.is_none());
/// assert_eq!(head.get().to_vec::<f32>()?, [1.0, 1.0]);
/// head.set_own(None);
/// assert_eq!(head.get().to_vec::<f32>()?, [0.0, 0.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone)]
pub struct Tied {
    other: Param,
    own: Arc<Mutex<Option<Param>>>,
}

impl Tied {
    /// The weight that is this parameter.
    pub fn new(other: &Param) -> Tied {
        Tied { other: other.clone(), own: Arc::default() }
    }

    /// The other module's weight, whether it counts now or not.
    pub fn other(&self) -> &Param {
        &self.other
    }

    /// The weight of its own, if it has one.
    pub fn own(&self) -> Option<Param> {
        self.own.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Gives it a weight of its own, or ties it again; returns the one that it had.
    pub fn set_own(&self, own: Option<Param>) -> Option<Param> {
        std::mem::replace(&mut *self.own.lock().unwrap_or_else(|e| e.into_inner()), own)
    }

    /// The weight that counts, as [`Param::get`] gives it.
    pub fn get(&self) -> Tensor {
        self.own().as_ref().unwrap_or(&self.other).get()
    }
}

impl Module for Tied {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.item(Item::Tied(self));
        self.own().as_ref().unwrap_or(&self.other).walk(walk);
    }
}

impl fmt::Debug for Tied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tied({}{})", self.other.shape(), if self.own().is_some() { ", with a weight of its own" } else { "" })
    }
}

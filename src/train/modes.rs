//! The training and evaluation modes of a model's layers, kept and given back.

use crate::nn::{Item, Module, Walk};

/// Whether a model has layers with a mode, and all are in evaluation mode.
pub(crate) fn evaluates(model: &dyn Module) -> bool {
    let (mut some, mut trains) = (false, false);
    model.walk(&mut Walk::new(&mut |_, item| {
        if let Item::Mode(m) = item {
            (some, trains) = (true, trains || m.is_training());
        }
    }));
    some && !trains
}

/// A model in evaluation mode; when this is dropped, each layer is in the mode that it was in before.
pub(crate) struct Modes<'m, M: Module + ?Sized> {
    model: &'m M,
    modes: Vec<bool>,
}

impl<'m, M: Module + ?Sized> Modes<'m, M> {
    pub fn evaluation(model: &'m M) -> Modes<'m, M> {
        let mut modes = Vec::new();
        model.walk(&mut Walk::new(&mut |_, item| {
            if let Item::Mode(m) = item {
                modes.push(m.is_training());
                m.set(false);
            }
        }));
        Modes { model, modes }
    }
}

impl<M: Module + ?Sized> Drop for Modes<'_, M> {
    fn drop(&mut self) {
        let mut modes = self.modes.iter();
        self.model.walk(&mut Walk::new(&mut |_, item| {
            if let Item::Mode(m) = item {
                m.set(modes.next().copied().unwrap_or(true));
            }
        }));
    }
}

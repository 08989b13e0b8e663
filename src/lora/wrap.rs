//! What stands around a layer: the parts of all adapters.

use super::part::Part;
use crate::nn::{Around, Forward, Linear, Module, Walk};
use crate::{Result, Tensor};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

pub(super) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

/// Which adapters count now: all layers of a model look here.
#[derive(Default)]
pub(super) struct Gate(Mutex<Arc<Vec<String>>>);

impl Gate {
    pub fn get(&self) -> Arc<Vec<String>> {
        lock(&self.0).clone()
    }

    pub fn set(&self, names: Vec<String>) {
        *lock(&self.0) = Arc::new(names);
    }
}

/// The parts of all adapters at a layer.
pub(super) struct Wrapped {
    gate: Arc<Gate>,
    parts: Mutex<BTreeMap<String, Arc<Part>>>,
    /// What computes in place of a packed layer into which adapters were merged.
    merged: Mutex<Option<Arc<Linear>>>,
}

impl Wrapped {
    pub fn new(gate: Arc<Gate>) -> Wrapped {
        Wrapped { gate, parts: Mutex::default(), merged: Mutex::default() }
    }

    pub fn put(&self, name: &str, part: Part) {
        lock(&self.parts).insert(name.into(), Arc::new(part));
    }

    /// Takes an adapter away; says whether none is left.
    pub fn remove(&self, name: &str) -> bool {
        let mut parts = lock(&self.parts);
        parts.remove(name);
        parts.is_empty()
    }

    pub fn part(&self, name: &str) -> Option<Arc<Part>> {
        lock(&self.parts).get(name).cloned()
    }

    pub fn set_merged(&self, layer: Option<Arc<Linear>>) {
        *lock(&self.merged) = layer;
    }

    pub fn merged(&self) -> Option<Arc<Linear>> {
        lock(&self.merged).clone()
    }

    fn active(&self) -> Vec<Arc<Part>> {
        let names = self.gate.get();
        let parts = lock(&self.parts);
        names.iter().filter_map(|n| parts.get(n).cloned()).collect()
    }
}

impl Module for Wrapped {
    fn walk(&self, walk: &mut Walk<'_>) {
        let parts = lock(&self.parts).clone();
        for (name, part) in &parts {
            part.walk(name, walk);
        }
    }
}

impl Around for Wrapped {
    fn forward(&self, x: &Tensor, base: &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        if let Some(layer) = self.merged() {
            return layer.forward(x);
        }
        let active = self.active();
        let mut input = x.clone();
        for part in &active {
            if let Part::Ia3(s) = &**part
                && s.feedforward
            {
                input = s.apply(&input)?;
            }
        }
        let plain = base(&input)?;
        let mut y = plain.clone();
        for part in &active {
            y = match &**part {
                Part::Lora(m) => y.try_add(m.delta(x, &plain)?)?,
                Part::Bottleneck(b) => y.try_add(b.delta(x, &y)?)?,
                Part::Ia3(s) if !s.feedforward => s.apply(&y)?,
                Part::Ia3(_) => y,
            };
        }
        Ok(y)
    }
}

//! Adapters inside the weights.

use super::adapters::{Adapters, Merged, error};
use super::part::Part;
use super::targets::Place;
use super::wrap::lock;
use crate::nn::{LayerKind, Linear, Param, Weight};
use crate::{Result, Tensor, no_grad};
use std::collections::HashMap;
use std::sync::Arc;

impl Adapters {
    /// Puts the active adapters into the weights, so that they cost nothing. The weights from before are kept: [`unmerge`](Adapters::unmerge) puts them back bit for
    /// bit. Into a packed layer (4-bit, 8-bit) nothing is merged: its unpacked weight with the adapters in it stands in for it.
    ///
    /// An adapter around a table of tokens that the head shares is in the head, too, after a merge (as with PEFT), and was not before: give such a model a head of its own.
    ///
    /// # Errors
    /// Adapters that cannot be merged: bottlenecks, a LoRA at a grouped convolution, a `lora_bias` at a layer without one; results that are not finite (the adapter is
    /// broken). Nothing is changed then.
    pub fn merge(&self) -> Result<()> {
        if lock(&self.held).merged.is_some() {
            return Err(error("adapters are merged already"));
        }
        let names = self.active();
        // The new value of each parameter, in the order of the layers: tied layers are merged one after the other.
        let mut order: Vec<Param> = Vec::new();
        let mut now: HashMap<_, Tensor> = HashMap::new();
        let mut packed: Vec<(String, Linear)> = Vec::new();
        no_grad(|| -> Result<()> {
            let wraps = lock(&self.wraps);
            for place in &self.layout.places {
                let Some(wrap) = wraps.get(&place.path) else { continue };
                let base = place.weight.value()?;
                let current = |p: &Param, now: &HashMap<_, Tensor>| now.get(&p.id()).cloned().unwrap_or_else(|| p.value());
                let mut weight = match &place.weight {
                    Weight::Param(p) => current(p, &now),
                    Weight::Packed(_) => base.clone(),
                };
                let mut bias = place.bias.as_ref().map(|b| current(b, &now));
                let (mut changed, mut bias_changed) = (false, false);
                for part in names.iter().filter_map(|n| wrap.part(n)) {
                    let (w, b) = match &*part {
                        Part::Lora(m) => m.merged(&base, &weight, bias.as_ref())?,
                        Part::Ia3(s) => s.merged(place, &weight, bias.as_ref())?,
                        Part::Bottleneck(_) => {
                            return Err(error(format!("{}: a bottleneck is no linear map and cannot be merged into a weight", place.path)));
                        }
                    };
                    bias_changed |= b.is_some();
                    (weight, bias, changed) = (w, b.or(bias), true);
                }
                if !changed {
                    continue;
                }
                finite(&place.path, &weight)?;
                bias.iter().try_for_each(|b| finite(&place.path, b))?;
                match &place.weight {
                    Weight::Param(p) => {
                        put(p, weight, &mut order, &mut now);
                        if let (Some(p), Some(b)) = (place.bias.as_ref().filter(|_| bias_changed), bias) {
                            put(p, b, &mut order, &mut now);
                        }
                    }
                    Weight::Packed(_) => packed.push((place.path.clone(), dense(place, weight, bias.as_ref())?)),
                }
            }
            Ok(())
        })?;
        let old = order.iter().map(|p| (p.clone(), p.value())).collect();
        for p in &order {
            if let Some(value) = now.remove(&p.id()) {
                p.replace(value);
            }
        }
        let wraps = lock(&self.wraps);
        let mut paths = Vec::new();
        for (path, layer) in packed {
            if let Some(wrap) = wraps.get(&path) {
                wrap.set_merged(Some(Arc::new(layer)));
                paths.push(path);
            }
        }
        lock(&self.held).merged = Some(Merged { old, packed: paths });
        self.gate.set(Vec::new());
        Ok(())
    }

    /// Whether adapters are merged.
    pub fn is_merged(&self) -> bool {
        lock(&self.held).merged.is_some()
    }

    /// Puts the weights from before [`merge`](Adapters::merge) back, bit for bit. Does nothing where nothing is merged.
    ///
    /// # Errors
    /// A model that was moved to a device that has no room for the old weights.
    pub fn unmerge(&self) -> Result<()> {
        let mut held = lock(&self.held);
        let Some(merged) = &held.merged else { return Ok(()) };
        // The model may have been moved meanwhile.
        let there = |(p, t): &(Param, Tensor)| -> Result<(Param, Tensor)> {
            let t = if t.device() == p.device() { t.clone() } else { t.try_to(p.device())? };
            t.eval()?;
            Ok((p.clone(), t))
        };
        let old: Vec<(Param, Tensor)> = merged.old.iter().map(there).collect::<Result<_>>()?;
        old.into_iter().for_each(|(p, t)| p.replace(t));
        let wraps = lock(&self.wraps);
        merged.packed.iter().filter_map(|path| wraps.get(path)).for_each(|w| w.set_merged(None));
        held.merged = None;
        let active = held.active.clone();
        drop((held, wraps));
        self.gate.set(active);
        Ok(())
    }

    /// Merges the active adapters and takes everything else away: the model is a plain one, with other weights. A packed layer becomes a plain linear one, if it lies
    /// in a [`Slot`](crate::nn::Slot).
    ///
    /// # Errors
    /// As [`merge`](Adapters::merge); a packed layer that lies in no slot. Nothing is changed then.
    pub fn merge_and_unload(&self) -> Result<()> {
        let wrapped: Vec<&Place> = self.layout.places.iter().filter(|p| lock(&self.wraps).contains_key(&p.path)).collect();
        if let Some(p) = wrapped.iter().find(|p| matches!(p.weight, Weight::Packed(_)) && p.slot.is_none()) {
            return Err(error(format!("{} is packed and lies in no slot: it cannot become a plain layer", p.path)));
        }
        if !self.is_merged() {
            self.merge()?;
        }
        for place in wrapped {
            let layer = lock(&self.wraps).get(&place.path).and_then(|w| w.merged());
            if let (Some(layer), Some(slot)) = (layer, &place.slot) {
                slot.replace(layer);
            }
        }
        self.release();
        Ok(())
    }
}

fn put(p: &Param, value: Tensor, order: &mut Vec<Param>, now: &mut HashMap<crate::LeafId, Tensor>) {
    if now.insert(p.id(), value).is_none() {
        order.push(p.clone());
    }
}

/// Computes a merged value, and refuses one that is not finite.
fn finite(path: &str, t: &Tensor) -> Result<()> {
    t.eval()?;
    let bad = !crate::io::safetensors::is_finite(t)?;
    match bad {
        true => Err(error(format!("{path}: the merged weight holds NaN or infinite numbers: the adapter is broken"))),
        false => Ok(()),
    }
}

/// The plain layer of a packed one's new weight.
fn dense(place: &Place, weight: Tensor, bias: Option<&Tensor>) -> Result<Linear> {
    let weight = match place.kind {
        LayerKind::Linear { transposed: true, .. } => weight.try_t()?,
        LayerKind::Linear { .. } => weight,
        _ => return Err(error(format!("{}: only packed linear layers can be merged", place.path))),
    };
    let frozen = |t: Tensor| {
        let p = Param::new(t);
        p.set_frozen(true);
        p
    };
    Ok(Linear::from_parts(frozen(weight), bias.cloned().map(frozen)))
}

//! State dicts: a module's tensors by path.

use super::module::Walks;
use super::{Buffer, Extra, Item, Param, Walk};
use crate::io::StateDict;
use crate::{DType, Device, Error, Result, Tensor};

/// How a state dict fitted a module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Entries of the module that the dict lacks.
    pub missing: Vec<String>,
    /// Entries of the dict that the module lacks.
    pub unexpected: Vec<String>,
}

pub(crate) fn collect(walk: Walks) -> StateDict {
    let mut dict = StateDict::new();
    walk(&mut Walk::new(&mut |path, item| {
        let value = match item {
            Item::Param(p) => p.value(),
            Item::Buffer(b) if b.is_persistent() => b.get(),
            // An i64 scalar is a node with a value from the start; making one on the CPU cannot fail but for memory.
            Item::Counter(c) => match Tensor::from_slice(&[c.get()], (), Device::cpu()) {
                Ok(t) => t,
                Err(_) => return,
            },
            Item::Extra(e) => {
                let bytes = e.get();
                match Tensor::from_slice(&bytes[..], bytes.len(), Device::cpu()) {
                    Ok(t) => t,
                    Err(_) => return,
                }
            }
            _ => return,
        };
        dict.insert(path.to_string(), value);
    }));
    dict
}

enum Change {
    Param(Param, Tensor),
    Buffer(Buffer, Tensor),
}

pub(crate) fn load(walk: Walks, dict: &StateDict, strict: bool) -> Result<Loaded> {
    let mut loaded = Loaded::default();
    let mut misshapen = Vec::new();
    let mut failed = None;
    let mut known = std::collections::HashSet::new();
    let mut changes = Vec::new();
    let mut counters: Vec<(String, i64)> = Vec::new();
    let mut extras: Vec<(String, Vec<u8>)> = Vec::new();
    walk(&mut Walk::new(&mut |path, item| {
        let place = match &item {
            Item::Param(p) => p.value(),
            Item::Buffer(b) if b.is_persistent() => b.get(),
            Item::Counter(_) => {
                known.insert(path.to_string());
                match dict.get(path) {
                    // PyTorch's older checkpoints have no `num_batches_tracked`.
                    None => loaded.missing.push(path.to_string()),
                    Some(t) if t.numel() != 1 => misshapen.push(format!("{path} is {}, must be []", t.shape())),
                    Some(t) => match t.item::<i64>() {
                        Ok(n) => counters.push((path.to_string(), n)),
                        Err(e) => failed = Some(e),
                    },
                }
                return;
            }
            Item::Extra(_) => {
                known.insert(path.to_string());
                match dict.get(path) {
                    None => loaded.missing.push(path.to_string()),
                    Some(t) if t.rank() != 1 || t.dtype() != DType::U8 => {
                        misshapen.push(format!("{path} is {} of {}, must be a list of u8", t.shape(), t.dtype()))
                    }
                    Some(t) => match t.to_vec::<u8>() {
                        Ok(bytes) => extras.push((path.to_string(), bytes)),
                        Err(e) => failed = Some(e),
                    },
                }
                return;
            }
            _ => return,
        };
        known.insert(path.to_string());
        let Some(value) = dict.get(path) else {
            loaded.missing.push(path.to_string());
            return;
        };
        if value.shape() != place.shape() {
            misshapen.push(format!("{path} is {}, must be {}", value.shape(), place.shape()));
            return;
        }
        match fit(value, place.dtype(), place.device()) {
            Ok(value) => changes.push(match item {
                Item::Param(p) => Change::Param(p.clone(), value),
                Item::Buffer(b) => Change::Buffer(b.clone(), value),
                _ => return,
            }),
            Err(e) => failed = Some(e),
        }
    }));
    loaded.unexpected.extend(dict.keys().filter(|k| !known.contains(*k)).cloned());
    if let Some(e) = failed {
        return Err(e);
    }
    let mut wrong = Vec::new();
    if strict && !loaded.missing.is_empty() {
        wrong.push(format!("missing: {}", loaded.missing.join(", ")));
    }
    if strict && !loaded.unexpected.is_empty() {
        wrong.push(format!("unexpected: {}", loaded.unexpected.join(", ")));
    }
    if !misshapen.is_empty() {
        wrong.push(format!("of another shape: {}", misshapen.join("; ")));
    }
    if !wrong.is_empty() {
        return Err(Error::StateDict { message: wrong.join("; ") });
    }
    for change in changes {
        match change {
            Change::Param(p, t) => p.replace(t),
            Change::Buffer(b, t) => b.replace(t),
        }
    }
    let counters: std::collections::HashMap<String, i64> = counters.into_iter().collect();
    let extras: std::collections::HashMap<String, Vec<u8>> = extras.into_iter().collect();
    let extra = |e: &Extra, path: &str| extras.get(path).into_iter().for_each(|bytes| e.set(&bytes[..]));
    walk(&mut Walk::new(&mut |path, item| match item {
        Item::Counter(c) => counters.get(path).into_iter().for_each(|&n| c.set(n)),
        Item::Extra(e) => extra(e, path),
        _ => {}
    }));
    Ok(loaded)
}

/// A value as a cell holds it. The cast comes first: a device may lack the file's dtype.
fn fit(value: &Tensor, dtype: DType, device: Device) -> Result<Tensor> {
    let value = if value.dtype() == dtype { value.clone() } else { value.try_cast(dtype)? };
    if value.device() == device { Ok(value) } else { value.try_to(device) }
}

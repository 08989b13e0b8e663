//! Optimizers: what turns gradients into new parameters.
//!
//! ```
//! use fornax::nn::Param;
//! use fornax::optim::{Optimizer, SGD};
//! use fornax::{Device, Tensor};
//! let w = Param::new(Tensor::ones(2, Device::cpu()));
//! let mut optimizer = SGD::new([w.clone()], 0.1);
//! let loss = w.get().square().sum(());
//! optimizer.step(loss.backward()?)?;
//! assert_eq!(w.value().to_vec::<f32>()?, [0.8, 0.8]);
//! # Ok::<(), fornax::Error>(())
//! ```

mod adam;
mod sgd;

pub use adam::{Adam, AdamW};
pub use sgd::SGD;

use crate::autograd::Gradients;
use crate::graph::node::with_grad;
use crate::io::StateDict;
use crate::nn::Param;
use crate::nn::param::take_updated;
use crate::{Error, Result, Tensor};
use std::collections::HashSet;

/// An optimizer: `let grads = loss.backward()?; optimizer.step(grads)?;`.
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::{AdamW, Optimizer};
/// use fornax::{Device, Tensor};
/// let layer = Linear::new(3, 1, Device::cpu());
/// let mut optimizer = AdamW::new(layer.parameters(), 1e-3);
/// let x = Tensor::ones([4, 3], Device::cpu());
/// for step in 0..3 {
///     optimizer.set_lr(1e-3 / (step + 1) as f64);
///     let loss = x.linear(&layer.weight.get(), None).square().mean(());
///     optimizer.step(loss.backward()?)?;
/// }
/// assert_eq!(optimizer.lr(), 1e-3 / 3.0);
/// assert!(optimizer.state_dict().contains_key("0.exp_avg"));
/// # Ok::<(), fornax::Error>(())
/// ```
pub trait Optimizer {
    /// One step: updates every parameter that has a gradient, and computes all new values at once. Frozen parameters, and those that the
    /// backward pass did not reach, stay.
    ///
    /// # Errors
    /// A setting out of its range (a negative learning rate), and nothing is changed then; those of evaluating the new values: memory, device loss.
    /// `Error::Index` where an op that ran since the device's last read met an index out of range: on the CPU at once; on a GPU, which a step
    /// does not wait for, the next read (of the loss, say) returns it. The parameters have their new values even so.
    fn step(&mut self, grads: Gradients) -> Result<()>;

    /// The learning rate.
    fn lr(&self) -> f64;

    /// Sets the learning rate of the steps from now on. It is data, not part of any compiled plan.
    fn set_lr(&mut self, lr: f64);

    /// The state (momentum, moments, step counts): `3.exp_avg` belongs to the fourth parameter.
    fn state_dict(&self) -> StateDict;

    /// Sets the state from what [`state_dict`](Optimizer::state_dict) gave.
    ///
    /// # Errors
    /// `Error::StateDict` for entries that fit no parameter. Nothing is changed then.
    fn load_state_dict(&mut self, dict: &StateDict) -> Result<()>;
}

/// Refuses the settings that PyTorch's constructors refuse: (name, value, from, up to but without).
fn check_settings(optimizer: &'static str, settings: &[(&str, f64, f64, f64)]) -> Result<()> {
    for &(name, value, from, end) in settings {
        if !(from..end).contains(&value) {
            let range = if end.is_finite() { format!("in {from}..{end}") } else { format!("from {from} on") };
            return Err(Error::argument(optimizer, format!("{name} = {value}: a number {range} is wanted")));
        }
    }
    Ok(())
}

/// A parameter with its state: `N` tensors of its shape, once it had a first step.
struct Slot<const N: usize> {
    param: Param,
    /// The number of steps taken.
    step: u64,
    state: Option<[Tensor; N]>,
}

/// The parameters of an optimizer, each once.
struct Slots<const N: usize> {
    names: [&'static str; N],
    list: Vec<Slot<N>>,
}

impl<const N: usize> Slots<N> {
    fn new(names: [&'static str; N], params: impl IntoIterator<Item = Param>) -> Self {
        let mut seen = HashSet::new();
        let list = params.into_iter().filter(|p| seen.insert(p.id())).map(|param| Slot { param, step: 0, state: None }).collect();
        Slots { names, list }
    }

    /// Runs `rule(weight, gradient, step count from 1, old state)`, which gives the new weight and state, for each parameter with a gradient; then evaluates
    /// all of them in one flush.
    fn step(
        &mut self,
        mut grads: Gradients,
        rule: impl Fn(Tensor, Tensor, u64, Option<[Tensor; N]>) -> Result<(Tensor, Option<[Tensor; N]>)>,
    ) -> Result<()> {
        let mut roots = Vec::with_capacity(self.list.len() * (N + 1));
        with_grad(false, || -> Result<()> {
            for slot in &mut self.list {
                if slot.param.is_frozen() {
                    continue;
                }
                let Some(grad) = grads.take_id(slot.param.id()) else { continue };
                let old = slot.state.clone();
                let mut new = None;
                slot.param.update(|weight| {
                    let (weight, state) = rule(weight, grad, slot.step + 1, old)?;
                    new = state;
                    Ok(weight)
                })?;
                // From here on the graph alone holds the old tensors, so that they can be overwritten.
                slot.state = new;
                slot.step += 1;
                roots.push(slot.param.value());
                roots.extend(slot.state.iter().flatten().cloned());
            }
            Ok(())
        })?;
        drop(grads);
        roots.extend(take_updated());
        crate::graph::flush::flush_owned(&roots)?;
        if roots.iter().any(|t| !t.device().is_gpu()) { crate::graph::run::check_cpu_fault() } else { Ok(()) }
    }

    fn state_dict(&self) -> StateDict {
        let mut dict = StateDict::new();
        for (i, slot) in self.list.iter().enumerate() {
            for (name, t) in self.names.iter().zip(slot.state.iter().flatten()) {
                dict.insert(format!("{i}.{name}"), t.clone());
            }
            if slot.step > 0
                && let Ok(t) = Tensor::from_slice(&[slot.step as i64], (), crate::Device::cpu())
            {
                dict.insert(format!("{i}.step"), t);
            }
        }
        dict
    }

    fn load_state_dict(&mut self, dict: &StateDict) -> Result<()> {
        let bad = |message: String| Error::StateDict { message };
        let mut taken = 0;
        let mut news = Vec::new();
        for (i, slot) in self.list.iter().enumerate() {
            let step = match dict.get(&format!("{i}.step")) {
                Some(t) if t.numel() == 1 => u64::try_from(t.item::<i64>()?).map_err(|_| bad(format!("{i}.step is negative")))?,
                Some(t) => return Err(bad(format!("{i}.step is {}, must be []", t.shape()))),
                None => 0,
            };
            taken += dict.contains_key(&format!("{i}.step")) as usize;
            let (shape, dtype, device) = (slot.param.shape(), slot.param.dtype(), slot.param.device());
            let mut found = Vec::new();
            for name in self.names {
                let Some(t) = dict.get(&format!("{i}.{name}")) else { continue };
                if *t.shape() != shape {
                    return Err(bad(format!("{i}.{name} is {}, must be {shape}", t.shape())));
                }
                found.push(t.try_cast(dtype)?.try_to(device)?);
                taken += 1;
            }
            let count = found.len();
            let state = <[Tensor; N]>::try_from(found).ok();
            if count > 0 && state.is_none() {
                return Err(bad(format!("parameter {i} must have all of {} or none", self.names.join(", "))));
            }
            news.push((step, state.filter(|_| N > 0)));
        }
        if taken != dict.len() {
            let known = |k: &str| {
                k.split_once('.')
                    .is_some_and(|(i, n)| i.parse().is_ok_and(|i: usize| i < self.list.len()) && (n == "step" || self.names.contains(&n)))
            };
            let unexpected: Vec<&str> = dict.keys().map(String::as_str).filter(|k| !known(k)).collect();
            return Err(bad(format!("unexpected: {}", unexpected.join(", "))));
        }
        for (slot, (step, state)) in self.list.iter_mut().zip(news) {
            (slot.step, slot.state) = (step, state);
        }
        Ok(())
    }
}

/// What every optimizer passes on to its slots.
macro_rules! delegate {
    () => {
        fn lr(&self) -> f64 {
            self.lr
        }
        fn set_lr(&mut self, lr: f64) {
            self.lr = lr;
        }
        fn state_dict(&self) -> $crate::io::StateDict {
            self.slots.state_dict()
        }
        fn load_state_dict(&mut self, dict: &$crate::io::StateDict) -> $crate::Result<()> {
            self.slots.load_state_dict(dict)
        }
    };
}
use delegate;

//! An optimizer's parameters with their state, and what a step, a state dict and a setting are whatever the rule.

use super::engine::{Base, Rule, Setting, State, Update};
use super::num::Num;
use crate::autograd::Gradients;
use crate::graph::node::with_grad;
use crate::io::StateDict;
use crate::nn::Param;
use crate::nn::param::take_updated;
use crate::{DType, Device, Error, Result, Tensor};
use smallvec::SmallVec;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// The settings of all groups.
pub(super) type Groups<'a> = SmallVec<[(&'a Base, &'a dyn Rule); 4]>;
pub(super) type GroupsMut<'a> = SmallVec<[(&'a mut Base, &'a mut dyn Rule); 4]>;

/// The steps that a parameter has taken, and the product of its rule's factors.
#[derive(Clone)]
enum Clock {
    Host(u64, f64),
    /// An i32 and an f32.
    Device(Tensor, Tensor),
}

impl Clock {
    /// Equal clocks tick as one.
    fn id(&self) -> (u64, u64) {
        match self {
            Clock::Host(n, product) => (*n, product.to_bits()),
            Clock::Device(steps, _) => (u64::MAX, Arc::as_ptr(&steps.node) as u64),
        }
    }
}

/// What one step is for all parameters of one group, device and clock.
struct Tick {
    clock: Clock,
    c: SmallVec<[Num; 4]>,
    /// Not zero where the step is taken; `None`: it is.
    taken: Option<Tensor>,
}

/// A parameter with its state, once it had a first step.
struct Slot {
    param: Param,
    group: usize,
    clock: Clock,
    state: Vec<(&'static str, Tensor)>,
}

/// The parameters of an optimizer, each once.
#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    seen: HashSet<crate::LeafId>,
}

impl Slots {
    pub fn push(&mut self, param: Param, group: usize) {
        if self.seen.insert(param.id()) {
            self.slots.push(Slot { param, group, clock: Clock::Host(0, 1.0), state: Vec::new() });
        }
    }

    pub fn check(&self, groups: &[(&Base, &dyn Rule)]) -> Result<()> {
        if self.slots.is_empty() {
            return Err(Error::argument(groups[0].1.name(), "no parameters: give it those of the model, as model.parameters()"));
        }
        for (base, rule) in groups {
            super::check_settings(rule.name(), &[("lr", base.lr, 0.0, f64::INFINITY)])?;
            rule.check()?;
        }
        self.slots.iter().try_for_each(|s| groups[s.group].1.takes(&s.param))
    }

    /// Records a step; what is to be computed.
    pub fn record(&mut self, groups: &[(&Base, &dyn Rule)], grads: &mut Gradients, skip: Option<Tensor>) -> Result<Vec<Tensor>> {
        self.check(groups)?;
        let mut roots = Vec::with_capacity(self.slots.len() * 3);
        with_grad(false, || -> Result<()> {
            // In the order in which they are met: the order of the roots is part of the plan's key.
            let mut ticks: Vec<((usize, Device, (u64, u64)), Tick)> = Vec::new();
            for slot in &mut self.slots {
                if slot.param.is_frozen() {
                    continue;
                }
                let Some(g) = grads.take_id(slot.param.id()) else { continue };
                let (base, rule) = groups[slot.group];
                let g = if base.maximize { g.try_neg()? } else { g };
                let device = slot.param.device();
                let key = (slot.group, device, slot.clock.id());
                let at = match ticks.iter().position(|t| t.0 == key) {
                    Some(at) => at,
                    None => {
                        ticks.push((key, tick(groups[slot.group], &slot.clock, skip.as_ref(), device)?));
                        ticks.len() - 1
                    }
                };
                let tick = &ticks[at].1;
                let names = rule.state();
                let mut new = State::new();
                slot.param.update(|w| {
                    if let Some((_, t)) = slot.state.iter().find(|s| s.1.device() != w.device()) {
                        let message = format!(
                            "the optimizer's state of a parameter on {} is on {}: make the optimizer after moving the model, or give it its own \
                             state_dict() again, which moves it",
                            w.device(),
                            t.device()
                        );
                        return Err(Error::Device { op: rule.name(), message });
                    }
                    let find = |name: &&'static str| slot.state.iter().find(|s| s.0 == *name).map(|s| s.1.clone());
                    let found: SmallVec<[Option<Tensor>; 4]> = names.iter().map(find).collect();
                    let fresh = found.iter().any(Option::is_none);
                    let old = found
                        .into_iter()
                        .map(|t| t.map_or_else(|| w.try_full_like(rule.initial()), Ok))
                        .collect::<Result<State>>()?;
                    let update = Update { w: w.clone(), g, lr: base.lr, c: &tick.c, state: old.clone(), fresh };
                    let (weight, state) = rule.apply(update)?;
                    let choose = |new: Tensor, old: &Tensor| match &tick.taken {
                        Some(taken) => taken.try_where(new.try_cast(old.dtype())?, old),
                        None => Ok(new),
                    };
                    new = state.into_iter().zip(&old).map(|(new, old)| choose(new, old)).collect::<Result<State>>()?;
                    choose(weight, &w)
                })?;
                // From here on the graph alone holds the old tensors, so that they can be overwritten.
                slot.clock = tick.clock.clone();
                roots.push(slot.param.value());
                for (name, t) in names.iter().zip(new) {
                    roots.push(t.clone());
                    match slot.state.iter_mut().find(|s| s.0 == *name) {
                        Some(s) => s.1 = t,
                        None => slot.state.push((name, t)),
                    }
                }
            }
            for (_, tick) in ticks {
                if let Clock::Device(steps, product) = tick.clock {
                    roots.extend([steps, product]);
                }
            }
            Ok(())
        })?;
        Ok(roots)
    }

    pub fn state_dict(&self, groups: &mut [(&mut Base, &mut dyn Rule)]) -> Result<StateDict> {
        let mut dict = StateDict::new();
        let mut number = |key: String, value: f64| -> Result<()> {
            dict.insert(key, Tensor::from_slice(&[value], (), Device::cpu())?);
            Ok(())
        };
        for (i, (base, rule)) in groups.iter_mut().enumerate() {
            number(format!("groups.{i}.lr"), base.lr)?;
            if let Some(lr) = base.initial_lr {
                number(format!("groups.{i}.initial_lr"), lr)?;
            }
            number(format!("groups.{i}.maximize"), base.maximize.get())?;
            for (name, value) in rule.settings() {
                number(format!("groups.{i}.{name}"), value.get())?;
            }
        }
        for (i, slot) in self.slots.iter().enumerate() {
            for (name, t) in &slot.state {
                dict.insert(format!("{i}.{name}"), t.clone());
            }
            let (steps, product) = match &slot.clock {
                Clock::Host(0, _) => continue,
                Clock::Host(n, product) => {
                    (Tensor::from_slice(&[*n as i64], (), Device::cpu())?, Tensor::from_slice(&[*product], (), Device::cpu())?)
                }
                Clock::Device(steps, product) => (steps.clone(), product.clone()),
            };
            dict.insert(format!("{i}.step"), steps);
            if let Some(name) = groups[slot.group].1.product() {
                dict.insert(format!("{i}.{name}"), product);
            }
        }
        Ok(dict)
    }

    /// Takes the state from a dict, and the groups' settings: after an error they may be changed, the state is not.
    pub fn load_state_dict(&mut self, groups: &mut [(&mut Base, &mut dyn Rule)], dict: &StateDict) -> Result<()> {
        let bad = |message: String| Error::StateDict { message };
        let mut left: BTreeMap<&str, &Tensor> = dict.iter().map(|(k, t)| (k.as_str(), t)).collect();
        let mut number = |key: String| match left.remove(key.as_str()) {
            Some(t) if t.numel() == 1 => t.try_to(Device::cpu())?.item::<f64>().map(Some),
            Some(t) => Err(bad(format!("{key} is {}, must be []", t.shape()))),
            None => Ok(None),
        };
        for (i, (base, rule)) in groups.iter_mut().enumerate() {
            if let Some(lr) = number(format!("groups.{i}.lr"))? {
                base.lr = lr;
                base.initial_lr = None;
            }
            base.initial_lr = number(format!("groups.{i}.initial_lr"))?.or(base.initial_lr);
            if let Some(value) = number(format!("groups.{i}.maximize"))? {
                base.maximize.put(value);
            }
            for (name, setting) in rule.settings() {
                if let Some(value) = number(format!("groups.{i}.{name}"))? {
                    setting.put(value);
                }
            }
        }
        let mut clocks = Vec::new();
        for (i, slot) in self.slots.iter().enumerate() {
            let steps = number(format!("{i}.step"))?.unwrap_or(0.0);
            if !(steps >= 0.0 && steps.fract() == 0.0) {
                return Err(bad(format!("{i}.step is {steps}, must be a number of steps")));
            }
            let product = match groups[slot.group].1.product() {
                Some(name) => number(format!("{i}.{name}"))?.unwrap_or(1.0),
                None => 1.0,
            };
            clocks.push(Clock::Host(steps as u64, product));
        }
        let mut states = Vec::new();
        for (i, slot) in self.slots.iter().enumerate() {
            let names = groups[slot.group].1.state();
            let (shape, dtype, device) = (slot.param.shape(), slot.param.dtype(), slot.param.device());
            let mut state = Vec::new();
            for name in names {
                let Some(t) = left.remove(format!("{i}.{name}").as_str()) else { continue };
                if *t.shape() != shape {
                    return Err(bad(format!("{i}.{name} is {}, must be {shape}", t.shape())));
                }
                state.push((*name, t.try_cast(dtype)?.try_to(device)?));
            }
            if !state.is_empty() && state.len() < names.len() {
                return Err(bad(format!("parameter {i} must have all of {} or none", names.join(", "))));
            }
            states.push(state);
        }
        if !left.is_empty() {
            return Err(bad(format!("unexpected: {}", left.keys().copied().collect::<Vec<_>>().join(", "))));
        }
        for ((slot, clock), state) in self.slots.iter_mut().zip(clocks).zip(states) {
            (slot.clock, slot.state) = (clock, state);
        }
        Ok(())
    }
}

/// A setting of a group.
pub(super) fn setting(base: &Base, rule: &mut dyn Rule, name: &str) -> Option<f64> {
    match name {
        "lr" => Some(base.lr),
        "initial_lr" => base.initial_lr,
        "maximize" => Some(base.maximize.get()),
        _ => rule.settings().iter().find(|s| s.0 == name).map(|s| s.1.get()),
    }
}

pub(super) fn set_setting(groups: &mut [(&mut Base, &mut dyn Rule)], group: usize, name: &str, value: f64) -> Result<()> {
    let count = groups.len();
    let optimizer = groups[0].1.name();
    let Some((base, rule)) = groups.get_mut(group) else {
        return Err(Error::argument(optimizer, format!("group {group} of {count}")));
    };
    match name {
        "lr" => base.lr = value,
        "initial_lr" => base.initial_lr = Some(value),
        "maximize" => base.maximize.put(value),
        _ => {
            let mut settings = rule.settings();
            match settings.iter_mut().find(|s| s.0 == name) {
                Some(s) => s.1.put(value),
                None => {
                    let names: Vec<&str> = settings.iter().map(|s| s.0).collect();
                    return Err(Error::argument(optimizer, format!("no setting {name}: it has lr, maximize, {}", names.join(", "))));
                }
            }
        }
    }
    Ok(())
}

/// Lets a clock tick.
fn tick((base, rule): (&Base, &dyn Rule), clock: &Clock, skip: Option<&Tensor>, device: Device) -> Result<Tick> {
    if let (Clock::Host(n, product), None) = (clock, skip) {
        let t = Num::Host((n + 1) as f64);
        let product = match rule.factor(&t)? {
            Some(Num::Host(f)) => product * f,
            _ => *product,
        };
        let c = rule.coefficients(base.lr, &t, &Num::Host(product))?;
        return Ok(Tick { clock: Clock::Host(n + 1, product), c, taken: None });
    }
    let (steps, product) = match clock {
        Clock::Host(n, product) => (Tensor::try_full((), *n as i64, (DType::I32, device))?, Tensor::try_full((), *product, device)?),
        Clock::Device(steps, product) => (steps.clone(), product.clone()),
    };
    let taken = match skip {
        Some(skip) => skip.try_to(device)?.try_eq(0.0)?,
        None => Tensor::try_full((), true, (DType::Bool, device))?,
    };
    let steps = steps.try_add(taken.try_cast(DType::I32)?)?;
    let t = Num::Device(steps.try_cast(DType::F32)?);
    let product = match rule.factor(&t)? {
        Some(f) => product.try_mul(taken.try_where(&f, 1.0)?)?,
        None => product,
    };
    let c = rule.coefficients(base.lr, &t, &Num::Device(product.clone()))?;
    // One buffer for the kernels to read.
    let mut parts = vec![taken.try_cast(DType::F32)?];
    parts.extend(c.iter().filter_map(|n| if let Num::Device(t) = n { Some(t.clone()) } else { None }));
    let packed = Tensor::try_stack(&parts.iter().collect::<Vec<_>>(), 0)?;
    let mut at = 0;
    let c = c
        .into_iter()
        .map(|n| match n {
            Num::Host(_) => Ok(n),
            Num::Device(_) => {
                at += 1;
                Ok(Num::Device(packed.try_select(0, at)?))
            }
        })
        .collect::<Result<_>>()?;
    Ok(Tick { clock: Clock::Device(steps, product), c, taken: Some(packed.try_select(0, 0)?) })
}

/// Computes the new values that steps have recorded, and the buffers that were updated meanwhile, in one flush.
pub(super) fn run(mut roots: Vec<Tensor>) -> Result<()> {
    roots.extend(take_updated());
    crate::graph::flush::flush_owned(&roots)?;
    if roots.iter().any(|t| !t.device().is_gpu()) { crate::graph::run::check_cpu_fault() } else { Ok(()) }
}

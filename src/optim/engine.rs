//! What all optimizers share: parameters in groups, their state, one plan for a step.
//!
//! An optimizer is a [`Rule`]: settings, and what becomes of one weight and its state. Whatever depends on the number of steps is a coefficient: a
//! number of the host, an argument of the kernels and no part of the plan. Where the device decides whether a step is taken (`Gradients` that a
//! `GradScaler` has looked at), the number of steps lives there too, and the coefficients with it, packed into one small tensor.

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

pub(super) type State = SmallVec<[Tensor; 4]>;

/// A setting as a number, as state dicts and schedules see it.
pub trait Setting {
    /// The number.
    fn get(&self) -> f64;
    /// Sets it.
    fn put(&mut self, value: f64);
}
impl Setting for f64 {
    fn get(&self) -> f64 {
        *self
    }
    fn put(&mut self, value: f64) {
        *self = value
    }
}
impl Setting for bool {
    fn get(&self) -> f64 {
        *self as u8 as f64
    }
    fn put(&mut self, value: f64) {
        *self = value != 0.0
    }
}
impl Setting for u32 {
    fn get(&self) -> f64 {
        *self as f64
    }
    fn put(&mut self, value: f64) {
        *self = value as u32
    }
}

/// One parameter on its way through a step.
pub struct Update<'a> {
    pub(super) w: Tensor,
    pub(super) g: Tensor,
    pub(super) lr: f64,
    /// What [`Rule::coefficients`] gave.
    pub(super) c: &'a [Num],
    /// One tensor for each name of [`Rule::state`]; the first time, of [`Rule::initial`].
    pub(super) state: State,
    pub(super) fresh: bool,
}

/// An optimizer's settings and formula.
pub trait Rule: Clone {
    /// The optimizer, for errors.
    fn name(&self) -> &'static str;
    /// The settings by name.
    fn settings(&mut self) -> Vec<(&'static str, &mut dyn Setting)>;
    /// The names of the state that the settings ask for.
    fn state(&self) -> &'static [&'static str];
    /// What the state starts from.
    fn initial(&self) -> f64 {
        0.0
    }
    /// Refuses settings out of their ranges.
    fn check(&self) -> Result<()>;
    /// Refuses parameters that it has no rule for.
    fn takes(&self, _param: &Param) -> Result<()> {
        Ok(())
    }
    /// The name of the product of the [`factor`](Rule::factor)s, where the rule has some.
    fn product(&self) -> Option<&'static str> {
        None
    }
    /// What is multiplied up over the steps, for step `t`.
    fn factor(&self, _t: &Num) -> Result<Option<Num>> {
        Ok(None)
    }
    /// What depends on the step `t` (from 1) and the product of the factors so far.
    fn coefficients(&self, lr: f64, t: &Num, product: &Num) -> Result<SmallVec<[Num; 4]>>;
    /// The new weight and state.
    fn apply(&self, update: Update) -> Result<(Tensor, SmallVec<[Tensor; 4]>)>;
}

/// The settings of a group of parameters, in the making: what the closure of an optimizer's `group` gets and returns.
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::AdamW;
/// let (backbone, head) = (Linear::new(3, 8, fornax::Device::cpu()), Linear::new(8, 2, fornax::Device::cpu()));
/// let optimizer = AdamW::new(head.parameters(), 1e-3).weight_decay(0.05).group(backbone.parameters(), |g| g.lr(1e-4));
/// ```
#[derive(Clone)]
pub struct Group<R> {
    lr: f64,
    initial_lr: Option<f64>,
    maximize: bool,
    pub(super) rule: R,
}

impl<R> Group<R> {
    /// Sets the learning rate of the group.
    ///
    /// ```
    /// use fornax::nn::{Linear, Module};
    /// use fornax::optim::{Optimizer, SGD};
    /// let (a, b) = (Linear::new(3, 8, fornax::Device::cpu()), Linear::new(8, 2, fornax::Device::cpu()));
    /// let optimizer = SGD::new(a.parameters(), 0.1).group(b.parameters(), |g| g.lr(0.01));
    /// assert_eq!(optimizer.lrs(), [0.1, 0.01]);
    /// ```
    pub fn lr(mut self, lr: f64) -> Group<R> {
        self.lr = lr;
        self
    }

    /// Whether the group goes up the gradient, not down (off).
    ///
    /// ```
    /// use fornax::nn::{Linear, Module};
    /// use fornax::optim::{Optimizer, SGD};
    /// let (player, opponent) = (Linear::new(3, 8, fornax::Device::cpu()), Linear::new(8, 2, fornax::Device::cpu()));
    /// let optimizer = SGD::new(player.parameters(), 0.1).group(opponent.parameters(), |g| g.maximize(true));
    /// assert_eq!((optimizer.setting(0, "maximize"), optimizer.setting(1, "maximize")), (Some(0.0), Some(1.0)));
    /// ```
    pub fn maximize(mut self, maximize: bool) -> Group<R> {
        self.maximize = maximize;
        self
    }
}

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

/// The parameters of an optimizer, each once, and their groups.
pub(super) struct Core<R> {
    groups: Vec<Group<R>>,
    slots: Vec<Slot>,
    seen: HashSet<crate::LeafId>,
}

impl<R: Rule> Core<R> {
    pub fn new(params: impl IntoIterator<Item = Param>, lr: f64, rule: R) -> Core<R> {
        let mut core = Core { groups: Vec::new(), slots: Vec::new(), seen: HashSet::new() };
        core.push(params, Group { lr, initial_lr: None, maximize: false, rule });
        core
    }

    fn push(&mut self, params: impl IntoIterator<Item = Param>, group: Group<R>) {
        let index = self.groups.len();
        self.groups.push(group);
        for param in params {
            if self.seen.insert(param.id()) {
                self.slots.push(Slot { param, group: index, clock: Clock::Host(0, 1.0), state: Vec::new() });
            }
        }
    }

    /// Adds a group that starts from the first one's settings.
    pub fn group(&mut self, params: impl IntoIterator<Item = Param>, f: impl FnOnce(Group<R>) -> Group<R>) {
        let start = Group { initial_lr: None, ..self.groups[0].clone() };
        self.push(params, f(start));
    }

    /// The first group's settings.
    pub fn first(&mut self) -> &mut R {
        &mut self.groups[0].rule
    }

    pub fn maximize(&mut self, maximize: bool) {
        self.groups[0].maximize = maximize;
    }

    pub fn num_groups(&self) -> usize {
        self.groups.len()
    }

    pub fn setting(&self, group: usize, name: &str) -> Option<f64> {
        let group = self.groups.get(group)?;
        match name {
            "lr" => Some(group.lr),
            "initial_lr" => group.initial_lr,
            "maximize" => Some(group.maximize.get()),
            _ => group.rule.clone().settings().iter().find(|s| s.0 == name).map(|s| s.1.get()),
        }
    }

    pub fn set_setting(&mut self, group: usize, name: &str, value: f64) -> Result<()> {
        let count = self.groups.len();
        let optimizer = self.groups[0].rule.name();
        let Some(group) = self.groups.get_mut(group) else {
            return Err(Error::argument(optimizer, format!("group {group} of {count}")));
        };
        match name {
            "lr" => group.lr = value,
            "initial_lr" => group.initial_lr = Some(value),
            "maximize" => group.maximize.put(value),
            _ => {
                let mut settings = group.rule.settings();
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

    pub fn check(&self) -> Result<()> {
        for group in &self.groups {
            super::check_settings(group.rule.name(), &[("lr", group.lr, 0.0, f64::INFINITY)])?;
            group.rule.check()?;
        }
        self.slots.iter().try_for_each(|s| self.groups[s.group].rule.takes(&s.param))
    }

    pub fn step(&mut self, mut grads: Gradients) -> Result<()> {
        let skip = grads.take_skip();
        let roots = self.record(&mut grads, skip)?;
        drop(grads);
        run(roots)
    }

    /// Records a step; what is to be computed.
    pub fn record(&mut self, grads: &mut Gradients, skip: Option<Tensor>) -> Result<Vec<Tensor>> {
        self.check()?;
        let mut roots = Vec::with_capacity(self.slots.len() * 3);
        with_grad(false, || -> Result<()> {
            // In the order in which they are met: the order of the roots is part of the plan's key.
            let mut ticks: Vec<((usize, Device, (u64, u64)), Tick)> = Vec::new();
            for slot in &mut self.slots {
                if slot.param.is_frozen() {
                    continue;
                }
                let Some(g) = grads.take_id(slot.param.id()) else { continue };
                let group = &self.groups[slot.group];
                let g = if group.maximize { g.try_neg()? } else { g };
                let device = slot.param.device();
                let key = (slot.group, device, slot.clock.id());
                let at = match ticks.iter().position(|t| t.0 == key) {
                    Some(at) => at,
                    None => {
                        ticks.push((key, tick(group, &slot.clock, skip.as_ref(), device)?));
                        ticks.len() - 1
                    }
                };
                let tick = &ticks[at].1;
                let names = group.rule.state();
                let mut new = State::new();
                slot.param.update(|w| {
                    if let Some((_, t)) = slot.state.iter().find(|s| s.1.device() != w.device()) {
                        let message = format!(
                            "the optimizer's state of a parameter on {} is on {}: make the optimizer after moving the model, or give it its own \
                             state_dict() again, which moves it",
                            w.device(),
                            t.device()
                        );
                        return Err(Error::Device { op: group.rule.name(), message });
                    }
                    let find = |name: &&'static str| slot.state.iter().find(|s| s.0 == *name).map(|s| s.1.clone());
                    let found: SmallVec<[Option<Tensor>; 4]> = names.iter().map(find).collect();
                    let fresh = found.iter().any(Option::is_none);
                    let old = found
                        .into_iter()
                        .map(|t| t.map_or_else(|| w.try_full_like(group.rule.initial()), Ok))
                        .collect::<Result<State>>()?;
                    let update = Update { w: w.clone(), g, lr: group.lr, c: &tick.c, state: old.clone(), fresh };
                    let (weight, state) = group.rule.apply(update)?;
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

    pub fn state_dict(&self) -> Result<StateDict> {
        let mut dict = StateDict::new();
        let mut number = |key: String, value: f64| -> Result<()> {
            dict.insert(key, Tensor::from_slice(&[value], (), Device::cpu())?);
            Ok(())
        };
        for (i, group) in self.groups.iter().enumerate() {
            number(format!("groups.{i}.lr"), group.lr)?;
            if let Some(lr) = group.initial_lr {
                number(format!("groups.{i}.initial_lr"), lr)?;
            }
            number(format!("groups.{i}.maximize"), group.maximize.get())?;
            for (name, value) in group.rule.clone().settings() {
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
            if let Some(name) = self.groups[slot.group].rule.product() {
                dict.insert(format!("{i}.{name}"), product);
            }
        }
        Ok(dict)
    }

    pub fn load_state_dict(&mut self, dict: &StateDict) -> Result<()> {
        let bad = |message: String| Error::StateDict { message };
        let mut left: BTreeMap<&str, &Tensor> = dict.iter().map(|(k, t)| (k.as_str(), t)).collect();
        let mut number = |key: String| match left.remove(key.as_str()) {
            Some(t) if t.numel() == 1 => t.try_to(Device::cpu())?.item::<f64>().map(Some),
            Some(t) => Err(bad(format!("{key} is {}, must be []", t.shape()))),
            None => Ok(None),
        };
        let mut groups = self.groups.clone();
        for (i, group) in groups.iter_mut().enumerate() {
            if let Some(lr) = number(format!("groups.{i}.lr"))? {
                group.lr = lr;
                group.initial_lr = None;
            }
            group.initial_lr = number(format!("groups.{i}.initial_lr"))?.or(group.initial_lr);
            if let Some(value) = number(format!("groups.{i}.maximize"))? {
                group.maximize.put(value);
            }
            for (name, setting) in group.rule.settings() {
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
            let product = match groups[slot.group].rule.product() {
                Some(name) => number(format!("{i}.{name}"))?.unwrap_or(1.0),
                None => 1.0,
            };
            clocks.push(Clock::Host(steps as u64, product));
        }
        let mut states = Vec::new();
        for (i, slot) in self.slots.iter().enumerate() {
            let names = groups[slot.group].rule.state();
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
        self.groups = groups;
        for ((slot, clock), state) in self.slots.iter_mut().zip(clocks).zip(states) {
            (slot.clock, slot.state) = (clock, state);
        }
        Ok(())
    }
}

/// Lets a clock tick.
fn tick<R: Rule>(group: &Group<R>, clock: &Clock, skip: Option<&Tensor>, device: Device) -> Result<Tick> {
    if let (Clock::Host(n, product), None) = (clock, skip) {
        let t = Num::Host((n + 1) as f64);
        let product = match group.rule.factor(&t)? {
            Some(Num::Host(f)) => product * f,
            _ => *product,
        };
        let c = group.rule.coefficients(group.lr, &t, &Num::Host(product))?;
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
    let product = match group.rule.factor(&t)? {
        Some(f) => product.try_mul(taken.try_where(&f, 1.0)?)?,
        None => product,
    };
    let c = group.rule.coefficients(group.lr, &t, &Num::Device(product.clone()))?;
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

/// What an optimizer of this rule offers: `new`, `group`, its settings, the trait.
macro_rules! optimizer {
    ([$($name:ident = $make:expr),+], $rule:ident $settings:tt) => {
        $(optimizer!(@name $name, $make, $rule, $settings);)+
        optimizer!(@rule $rule, $settings);
    };
    (@name $name:ident, $make:expr, $rule:ident, {
        $( $(#[$doc:meta])* $method:ident($($field:ident : $t:ty),+) = $example:literal; )*
    }) => {
            impl $name {
                /// The optimizer with PyTorch's defaults on these parameters.
                ///
                /// ```
                /// use fornax::nn::{Linear, Module};
                /// use fornax::optim::Optimizer;
                /// let layer = Linear::new(3, 2, fornax::Device::cpu());
                #[doc = concat!("assert_eq!(fornax::optim::", stringify!($name), "::new([layer.weight.clone()], 0.1).lr(), 0.1);")]
                /// ```
                pub fn new(params: impl IntoIterator<Item = $crate::nn::Param>, lr: f64) -> $name {
                    $name($crate::optim::engine::Core::new(params, lr, $make))
                }

                /// Adds a group of parameters with settings of its own: a group starts from the first one's settings as they stand, and the closure
                /// changes them. A setting that is made later is the first group's. A parameter that is in a group already stays there.
                ///
                /// ```
                /// use fornax::nn::{Linear, Module};
                /// use fornax::optim::Optimizer;
                /// let (a, b) = (Linear::new(3, 8, fornax::Device::cpu()), Linear::new(8, 2, fornax::Device::cpu()));
                #[doc = concat!("let optimizer = fornax::optim::", stringify!($name), "::new([a.weight.clone()], 0.1).group([b.weight.clone()], |g| g.lr(0.01));")]
                /// assert_eq!(optimizer.lrs(), [0.1, 0.01]);
                /// ```
                pub fn group(
                    mut self,
                    params: impl IntoIterator<Item = $crate::nn::Param>,
                    settings: impl FnOnce($crate::optim::Group<$rule>) -> $crate::optim::Group<$rule>,
                ) -> $name {
                    self.0.group(params, settings);
                    self
                }

                /// Whether to go up the gradient, not down (off): as a step down the gradient of the loss with its sign turned.
                ///
                /// ```
                /// use fornax::nn::{Linear, Module};
                /// let layer = Linear::new(3, 2, fornax::Device::cpu());
                #[doc = concat!("let optimizer = fornax::optim::", stringify!($name), "::new([layer.weight.clone()], 0.1).maximize(true);")]
                /// ```
                pub fn maximize(mut self, maximize: bool) -> $name {
                    self.0.maximize(maximize);
                    self
                }

                $(
                    $(#[$doc])*
                    ///
                    /// ```
                    /// use fornax::nn::{Linear, Module};
                    /// let layer = Linear::new(3, 2, fornax::Device::cpu());
                    #[doc = concat!("let optimizer = fornax::optim::", stringify!($name), "::new([layer.weight.clone()], 0.1).", stringify!($method), "(", $example, ");")]
                    /// ```
                    pub fn $method(mut self, $($field: $t),+) -> $name {
                        let rule = self.0.first();
                        $(rule.$field = $field;)+
                        self
                    }
                )*
            }

            impl $crate::optim::Optimizer for $name {
                fn step(&mut self, grads: $crate::Gradients) -> $crate::Result<()> {
                    self.0.step(grads)
                }
                fn record(&mut self, grads: &mut $crate::Gradients) -> $crate::Result<Vec<$crate::Tensor>> {
                    let skip = grads.skip().cloned();
                    self.0.record(grads, skip)
                }
                fn check(&self) -> $crate::Result<()> {
                    self.0.check()
                }
                fn num_groups(&self) -> usize {
                    self.0.num_groups()
                }
                fn setting(&self, group: usize, name: &str) -> Option<f64> {
                    self.0.setting(group, name)
                }
                fn set_setting(&mut self, group: usize, name: &str, value: f64) -> $crate::Result<()> {
                    self.0.set_setting(group, name, value)
                }
                fn state_dict(&self) -> $crate::Result<$crate::io::StateDict> {
                    self.0.state_dict()
                }
                fn load_state_dict(&mut self, dict: &$crate::io::StateDict) -> $crate::Result<()> {
                    self.0.load_state_dict(dict)
                }
            }
    };
    (@rule $rule:ident, {
        $( $(#[$doc:meta])* $method:ident($($field:ident : $t:ty),+) = $example:literal; )*
    }) => {
        impl $crate::optim::Group<$rule> {
            $(
                $(#[$doc])*
                pub fn $method(mut self, $($field: $t),+) -> Self {
                    let rule = &mut self.rule;
                    $(rule.$field = $field;)+
                    self
                }
            )*
        }

        impl $rule {
            /// The settings by name.
            fn fields(&mut self) -> Vec<(&'static str, &mut dyn $crate::optim::engine::Setting)> {
                vec![$($((stringify!($field), &mut self.$field as &mut dyn $crate::optim::engine::Setting),)+)*]
            }
        }
    };
}
pub(super) use optimizer;

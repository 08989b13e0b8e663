//! Schedules of the learning rate, under PyTorch's names (`torch.optim.lr_scheduler`) and with its values.
//!
//! A schedule such as [`StepLR`] is a description. Its `start` sets the optimizer's first learning rate and gives the [`Scheduler`], which is stepped after
//! the epoch, or after the optimizer's step:
//!
//! ```
//! use fornax::nn::{Linear, Module};
//! use fornax::optim::lr_scheduler::{CosineAnnealingLR, LinearLR, Scheduler, SequentialLR};
//! use fornax::optim::{AdamW, Optimizer};
//! let layer = Linear::new(3, 1, fornax::Device::cpu());
//! let mut optimizer = AdamW::new(layer.parameters(), 1e-3);
//! // Five epochs of warm-up, then half a cosine.
//! let mut scheduler = SequentialLR::new(LinearLR::new(0.1, 1.0, 5)).then(5, CosineAnnealingLR::new(95)).start(&mut optimizer)?;
//! assert_eq!(optimizer.lr(), 1e-4);
//! for epoch in 0..5 {
//!     // … optimizer.step(grads)? for each batch …
//!     scheduler.step(&mut optimizer)?;
//! }
//! assert_eq!(optimizer.lr(), 1e-3);
//! # Ok::<(), fornax::Error>(())
//! ```

mod compose;
mod cosine;
mod cycle;
mod factor;
mod plateau;

pub use compose::{Chained, ChainedScheduler, Sequential, SequentialLR};
pub use cosine::{CosineAnnealingLR, CosineAnnealingWarmRestarts};
pub use cycle::{Anneal, CyclicLR, CyclicMode, OneCycleLR, SWALR};
pub use factor::{ConstantLR, ExponentialLR, LambdaLR, LinearLR, MultiStepLR, MultiplicativeLR, NoamLR, PolynomialLR, StepLR};
pub use plateau::{Plateau, ReduceLROnPlateau};

use super::Optimizer;
use crate::io::StateDict;
use crate::{Device, Error, Result, Tensor};

/// A schedule that has started.
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::lr_scheduler::{ExponentialLR, Scheduler};
/// use fornax::optim::{Optimizer, SGD};
/// let layer = Linear::new(3, 1, fornax::Device::cpu());
/// let mut optimizer = SGD::new(layer.parameters(), 1.0);
/// let mut scheduler = ExponentialLR::new(0.5).start(&mut optimizer)?;
/// scheduler.step(&mut optimizer)?;
/// let saved = (optimizer.state_dict()?, scheduler.state_dict()?);
/// scheduler.step(&mut optimizer)?;
/// assert_eq!(scheduler.last_lr(), [0.25]);
/// // Back to where it was saved.
/// optimizer.load_state_dict(&saved.0)?;
/// scheduler.load_state_dict(&saved.1)?;
/// scheduler.step(&mut optimizer)?;
/// assert_eq!(optimizer.lr(), 0.25);
/// # Ok::<(), fornax::Error>(())
/// ```
pub trait Scheduler {
    /// Goes on by one and sets the optimizer's learning rates (and momenta, where the schedule has some).
    ///
    /// # Errors
    /// A schedule that is at its end ([`OneCycleLR`]) or wants a metric ([`ReduceLROnPlateau`]); an optimizer with other groups than the one that it was started
    /// for.
    fn step(&mut self, optimizer: &mut dyn Optimizer) -> Result<()>;

    /// As [`step`](Scheduler::step), with what was measured since the last one: a validation loss, say. Only [`ReduceLROnPlateau`] looks at it.
    ///
    /// # Errors
    /// As [`step`](Scheduler::step).
    fn step_with(&mut self, metric: f64, optimizer: &mut dyn Optimizer) -> Result<()> {
        let _ = metric;
        self.step(optimizer)
    }

    /// Whether it must be stepped by [`step_with`](Scheduler::step_with).
    fn wants_metric(&self) -> bool {
        false
    }

    /// The learning rate of each group after the last step.
    fn last_lr(&self) -> Vec<f64>;

    /// The state, for a checkpoint. The learning rates themselves are part of the optimizer's.
    ///
    /// # Errors
    /// No memory for a number.
    fn state_dict(&self) -> Result<StateDict>;

    /// Sets the state from what [`state_dict`](Scheduler::state_dict) gave.
    ///
    /// # Errors
    /// `Error::StateDict` where it is another schedule's. Nothing is changed then.
    fn load_state_dict(&mut self, dict: &StateDict) -> Result<()>;

    /// Begins anew, from the learning rates that the optimizer had at first: what [`SequentialLR`] does at a milestone.
    ///
    /// # Errors
    /// As [`step`](Scheduler::step).
    fn restart(&mut self, optimizer: &mut dyn Optimizer) -> Result<()>;
}

/// A description of a schedule, for whoever holds an optimizer to start: each also has a `start` of its own, which gives its own type.
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::lr_scheduler::{ExponentialLR, Schedule, StepLR};
/// let layer = Linear::new(3, 1, fornax::Device::cpu());
/// let mut optimizer = fornax::optim::SGD::new(layer.parameters(), 1.0);
/// let schedules: [Box<dyn Schedule>; 2] = [Box::new(StepLR::new(30)), Box::new(ExponentialLR::new(0.9))];
/// for schedule in schedules {
///     assert_eq!(schedule.start_boxed(&mut optimizer)?.last_lr(), [1.0]);
/// }
/// # Ok::<(), fornax::Error>(())
/// ```
pub trait Schedule {
    /// Starts it: sets the first learning rates.
    ///
    /// # Errors
    /// Numbers out of their ranges.
    fn start_boxed(self: Box<Self>, optimizer: &mut dyn Optimizer) -> Result<Box<dyn Scheduler>>;
}

/// Where a schedule stands, for one group.
pub struct At {
    pub(super) group: usize,
    /// Steps so far; 0 at the start.
    pub(super) epoch: u64,
    /// The learning rate at first, and now.
    pub(super) base: f64,
    pub(super) now: f64,
    /// Whether this is the start.
    pub(super) first: bool,
}

/// What a schedule computes.
pub trait Rate {
    /// The schedule, for errors.
    fn name(&self) -> &'static str;
    /// Refuses numbers out of their ranges.
    fn check(&self, groups: usize) -> Result<()>;
    /// The learning rate to start from, where it is not the optimizer's, and whether it becomes the optimizer's initial one.
    fn base(&self, _group: usize) -> Option<(f64, bool)> {
        None
    }
    /// The learning rate from the present one, so that schedules can be chained.
    fn next(&self, at: &At) -> Result<f64>;
    /// The learning rate of a new beginning.
    fn anew(&self, at: &At) -> Result<f64> {
        self.next(at)
    }
    /// The momentum (or β₁).
    fn momentum(&self, _at: &At) -> Option<f64> {
        None
    }
}

/// A schedule of which the learning rate depends on the number of steps alone, started.
pub struct Running<R> {
    rate: R,
    steps: Steps,
}

/// What such a schedule has come to, whatever its rate.
struct Steps {
    epoch: u64,
    base: Vec<f64>,
    last: Vec<f64>,
}

impl<R: Rate> Running<R> {
    pub(super) fn start(rate: R, optimizer: &mut dyn Optimizer) -> Result<Running<R>> {
        let steps = Steps::start(&rate, optimizer)?;
        Ok(Running { rate, steps })
    }
}

impl Steps {
    fn start(rate: &dyn Rate, optimizer: &mut dyn Optimizer) -> Result<Steps> {
        let groups = optimizer.num_groups();
        rate.check(groups)?;
        let mut base = Vec::with_capacity(groups);
        for group in 0..groups {
            let own = rate.base(group);
            if let Some((lr, initial)) = own {
                optimizer.set_setting(group, "lr", lr)?;
                if initial {
                    optimizer.set_setting(group, "initial_lr", lr)?;
                }
            }
            let initial = initial_lr(optimizer, group)?;
            base.push(own.map_or(initial, |(lr, _)| lr));
        }
        let mut steps = Steps { epoch: 0, base, last: Vec::new() };
        steps.set(rate, optimizer, true, false)?;
        Ok(steps)
    }

    fn set(&mut self, rate: &dyn Rate, optimizer: &mut dyn Optimizer, first: bool, anew: bool) -> Result<()> {
        let now = lrs(rate.name(), optimizer, self.base.len())?;
        let at = |group: usize| At { group, epoch: self.epoch, base: self.base[group], now: now[group], first };
        let next = |g| if anew { rate.anew(&at(g)) } else { rate.next(&at(g)) };
        let new = (0..now.len()).map(next).collect::<Result<Vec<f64>>>()?;
        for (group, &lr) in new.iter().enumerate() {
            optimizer.set_setting(group, "lr", lr)?;
            if let Some(momentum) = rate.momentum(&at(group)) {
                let name = momentum_name(rate.name(), optimizer, group)?;
                optimizer.set_setting(group, name, momentum)?;
            }
        }
        self.last = new;
        Ok(())
    }

    fn step(&mut self, rate: &dyn Rate, optimizer: &mut dyn Optimizer) -> Result<()> {
        self.epoch += 1;
        let done = self.set(rate, optimizer, false, false);
        if done.is_err() {
            self.epoch -= 1;
        }
        done
    }

    fn load_state_dict(&mut self, name: &'static str, dict: &StateDict) -> Result<()> {
        let groups = self.base.len();
        let mut numbers = Numbers::new(name, dict);
        let epoch = numbers.take("last_epoch", 1)?[0];
        let (base, last) = (numbers.take("base_lrs", groups)?, numbers.take("last_lr", groups)?);
        numbers.end()?;
        (self.epoch, self.base, self.last) = (epoch as u64, base, last);
        Ok(())
    }
}

impl<R: Rate> Scheduler for Running<R> {
    fn step(&mut self, optimizer: &mut dyn Optimizer) -> Result<()> {
        self.steps.step(&self.rate, optimizer)
    }

    fn last_lr(&self) -> Vec<f64> {
        self.steps.last.clone()
    }

    fn state_dict(&self) -> Result<StateDict> {
        let Steps { epoch, base, last } = &self.steps;
        state(&[("last_epoch", &[*epoch as f64]), ("base_lrs", base), ("last_lr", last)])
    }

    fn load_state_dict(&mut self, dict: &StateDict) -> Result<()> {
        self.steps.load_state_dict(self.rate.name(), dict)
    }

    fn restart(&mut self, optimizer: &mut dyn Optimizer) -> Result<()> {
        self.steps.epoch = 0;
        self.steps.set(&self.rate, optimizer, false, true)
    }
}

/// The learning rate that the first schedule found, which is this one where there was none.
pub(super) fn initial_lr(optimizer: &mut dyn Optimizer, group: usize) -> Result<f64> {
    if let Some(lr) = optimizer.setting(group, "initial_lr") {
        return Ok(lr);
    }
    let lr = optimizer.setting(group, "lr").unwrap_or(f64::NAN);
    optimizer.set_setting(group, "initial_lr", lr)?;
    Ok(lr)
}

/// The optimizer's learning rates, of as many groups as there were at the start.
fn lrs(op: &'static str, optimizer: &dyn Optimizer, groups: usize) -> Result<Vec<f64>> {
    let lrs = optimizer.lrs();
    if lrs.len() != groups {
        let message = format!("an optimizer with {} groups, started for one with {groups}", lrs.len());
        return Err(Error::argument(op, message));
    }
    Ok(lrs)
}

/// What a schedule of momenta sets.
fn momentum_name(op: &'static str, optimizer: &dyn Optimizer, group: usize) -> Result<&'static str> {
    ["momentum", "beta1"]
        .into_iter()
        .find(|name| optimizer.setting(group, name).is_some())
        .ok_or_else(|| Error::argument(op, "the optimizer has no momentum and no beta1: turn cycle_momentum off"))
}

/// Lists of numbers as a state dict, exact to the bit.
fn state(lists: &[(&str, &[f64])]) -> Result<StateDict> {
    let entry = |&(name, numbers): &(&str, &[f64])| Ok((name.to_string(), Tensor::from_slice(numbers, numbers.len(), Device::cpu())?));
    lists.iter().map(entry).collect()
}

/// A state dict's lists of numbers, each taken once.
struct Numbers<'a> {
    op: &'static str,
    dict: &'a StateDict,
    taken: usize,
}

impl<'a> Numbers<'a> {
    fn new(op: &'static str, dict: &'a StateDict) -> Self {
        Numbers { op, dict, taken: 0 }
    }

    fn take(&mut self, name: &str, count: usize) -> Result<Vec<f64>> {
        let bad = |message: String| Error::StateDict { message: format!("{}: {message}", self.op) };
        let t = self.dict.get(name).ok_or_else(|| bad(format!("missing: {name}")))?;
        if t.numel() != count {
            return Err(bad(format!("{name} is {}, must be [{count}]", t.shape())));
        }
        self.taken += 1;
        t.try_to(Device::cpu())?.to_vec::<f64>()
    }

    fn end(self) -> Result<()> {
        if self.taken == self.dict.len() {
            return Ok(());
        }
        let message = format!("{}: {} entries, of which {} are its own", self.op, self.dict.len(), self.taken);
        Err(Error::StateDict { message })
    }
}

/// What every schedule of one rate offers: `start`, its optional settings, [`Schedule`].
macro_rules! schedule {
    ($name:ident, $new:literal { $( $(#[$doc:meta])* $field:ident : $t:ty = $example:literal; )* }) => {
        impl $name {
            $(
                $(#[$doc])*
                ///
                /// ```
                #[doc = concat!("use fornax::optim::lr_scheduler::*;\nlet schedule = ", $new, ".", stringify!($field), "(", $example, ");")]
                /// ```
                pub fn $field(mut self, $field: $t) -> $name {
                    self.$field = $field;
                    self
                }
            )*

            /// Starts it: sets the optimizer's first learning rates.
            ///
            /// # Errors
            /// Numbers out of their ranges.
            ///
            /// ```
            /// use fornax::optim::lr_scheduler::*;
            /// let layer = fornax::nn::Linear::new(3, 1, fornax::Device::cpu());
            /// let mut optimizer = fornax::optim::SGD::new([layer.weight.clone()], 0.1).momentum(0.9);
            #[doc = concat!("let mut scheduler = ", $new, ".start(&mut optimizer)?;")]
            /// scheduler.step(&mut optimizer)?;
            /// # Ok::<(), fornax::Error>(())
            /// ```
            pub fn start(self, optimizer: &mut dyn $crate::optim::Optimizer) -> $crate::Result<$crate::optim::lr_scheduler::Running<$name>> {
                $crate::optim::lr_scheduler::Running::start(self, optimizer)
            }
        }

        impl $crate::optim::lr_scheduler::Schedule for $name {
            fn start_boxed(
                self: Box<Self>,
                optimizer: &mut dyn $crate::optim::Optimizer,
            ) -> $crate::Result<Box<dyn $crate::optim::lr_scheduler::Scheduler>> {
                Ok(Box::new((*self).start(optimizer)?))
            }
        }
    };
}
use schedule;

/// A number for all groups, or one each.
fn of(numbers: &[f64], group: usize) -> f64 {
    numbers.get(group).or(numbers.first()).copied().unwrap_or(f64::NAN)
}

fn check_groups(op: &'static str, what: &str, numbers: usize, groups: usize) -> Result<()> {
    if numbers == 1 || numbers == groups {
        return Ok(());
    }
    Err(Error::argument(op, format!("{numbers} {what} for {groups} groups: one each, or one for all, is wanted")))
}

/// Refuses what is not true of a schedule's numbers.
fn demand(op: &'static str, demands: &[(bool, &str)]) -> Result<()> {
    match demands.iter().find(|d| !d.0) {
        Some((_, message)) => Err(Error::argument(op, *message)),
        None => Ok(()),
    }
}

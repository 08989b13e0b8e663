//! Schedules made of schedules.

use super::{Numbers, Schedule, Scheduler, demand, initial_lr, state};
use crate::io::StateDict;
use crate::optim::Optimizer;
use crate::{Error, Result};

/// Several schedules at once: each multiplies what the one before it has left.
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::lr_scheduler::{ChainedScheduler, ConstantLR, ExponentialLR, Scheduler};
/// use fornax::optim::{Optimizer, SGD};
/// let layer = Linear::new(3, 1, fornax::Device::cpu());
/// let mut optimizer = SGD::new(layer.parameters(), 1.0);
/// let mut scheduler = ChainedScheduler::new(ConstantLR::new(0.1, 2)).and(ExponentialLR::new(0.5)).start(&mut optimizer)?;
/// scheduler.step(&mut optimizer)?;
/// assert_eq!(optimizer.lr(), 0.05);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct ChainedScheduler {
    schedules: Vec<Box<dyn Schedule>>,
}

impl ChainedScheduler {
    /// The first schedule.
    pub fn new(schedule: impl Schedule + 'static) -> ChainedScheduler {
        ChainedScheduler { schedules: vec![Box::new(schedule)] }
    }

    /// One more.
    pub fn and(mut self, schedule: impl Schedule + 'static) -> ChainedScheduler {
        self.schedules.push(Box::new(schedule));
        self
    }

    /// Starts all of them.
    ///
    /// # Errors
    /// As each of them.
    pub fn start(self, optimizer: &mut dyn Optimizer) -> Result<Chained> {
        let parts = self.schedules.into_iter().map(|s| s.start_boxed(optimizer)).collect::<Result<Vec<_>>>()?;
        Ok(Chained { parts, last: optimizer.lrs() })
    }
}

impl Schedule for ChainedScheduler {
    fn start_boxed(self: Box<Self>, optimizer: &mut dyn Optimizer) -> Result<Box<dyn Scheduler>> {
        Ok(Box::new((*self).start(optimizer)?))
    }
}

/// A [`ChainedScheduler`] that has started.
pub struct Chained {
    parts: Vec<Box<dyn Scheduler>>,
    last: Vec<f64>,
}

/// The states of parts, under their numbers, beside lists of numbers.
fn join(parts: &[Box<dyn Scheduler>], own: &[(&str, &[f64])]) -> Result<StateDict> {
    let mut dict = state(own)?;
    for (i, part) in parts.iter().enumerate() {
        dict.extend(part.state_dict()?.into_iter().map(|(k, t)| (format!("{i}.{k}"), t)));
    }
    Ok(dict)
}

/// The entries of `dict` that are not those of a part, and those of each part.
fn split(dict: &StateDict, parts: usize) -> (StateDict, Vec<StateDict>) {
    let mut own = StateDict::new();
    let mut each = vec![StateDict::new(); parts];
    for (key, t) in dict {
        let part = key.split_once('.').and_then(|(i, rest)| Some((each.get_mut(i.parse::<usize>().ok()?)?, rest)));
        match part {
            Some((part, rest)) => part.insert(rest.to_string(), t.clone()),
            None => own.insert(key.clone(), t.clone()),
        };
    }
    (own, each)
}

/// Loads the parts; what was loaded is undone where one fails.
fn load(parts: &mut [Box<dyn Scheduler>], dicts: &[StateDict]) -> Result<()> {
    let old: Vec<StateDict> = parts.iter().map(|p| p.state_dict()).collect::<Result<_>>()?;
    for i in 0..parts.len() {
        if let Err(e) = parts[i].load_state_dict(&dicts[i]) {
            for j in 0..i {
                parts[j].load_state_dict(&old[j])?;
            }
            return Err(e);
        }
    }
    Ok(())
}

impl Scheduler for Chained {
    fn step(&mut self, optimizer: &mut dyn Optimizer) -> Result<()> {
        self.parts.iter_mut().try_for_each(|p| p.step(optimizer))?;
        self.last = optimizer.lrs();
        Ok(())
    }

    fn step_with(&mut self, metric: f64, optimizer: &mut dyn Optimizer) -> Result<()> {
        self.parts.iter_mut().try_for_each(|p| p.step_with(metric, optimizer))?;
        self.last = optimizer.lrs();
        Ok(())
    }

    fn wants_metric(&self) -> bool {
        self.parts.iter().any(|p| p.wants_metric())
    }

    fn last_lr(&self) -> Vec<f64> {
        self.last.clone()
    }

    fn state_dict(&self) -> Result<StateDict> {
        join(&self.parts, &[("last_lr", &self.last)])
    }

    fn load_state_dict(&mut self, dict: &StateDict) -> Result<()> {
        let (own, each) = split(dict, self.parts.len());
        let mut numbers = Numbers::new("ChainedScheduler", &own);
        let last = numbers.take("last_lr", self.last.len())?;
        numbers.end()?;
        load(&mut self.parts, &each)?;
        self.last = last;
        Ok(())
    }

    fn restart(&mut self, optimizer: &mut dyn Optimizer) -> Result<()> {
        self.parts.iter_mut().try_for_each(|p| p.restart(optimizer))?;
        self.last = optimizer.lrs();
        Ok(())
    }
}

/// One schedule after the other, each from the optimizer's initial learning rates on.
///
/// ```
/// use fornax::optim::lr_scheduler::{CosineAnnealingLR, LinearLR, SequentialLR};
/// let schedule = SequentialLR::new(LinearLR::new(0.01, 1.0, 500)).then(500, CosineAnnealingLR::new(9500));
/// ```
pub struct SequentialLR {
    schedules: Vec<Box<dyn Schedule>>,
    milestones: Vec<u64>,
}

impl SequentialLR {
    /// The first schedule.
    pub fn new(schedule: impl Schedule + 'static) -> SequentialLR {
        SequentialLR { schedules: vec![Box::new(schedule)], milestones: Vec::new() }
    }

    /// From step `milestone` on, another one.
    pub fn then(mut self, milestone: u64, schedule: impl Schedule + 'static) -> SequentialLR {
        self.schedules.push(Box::new(schedule));
        self.milestones.push(milestone);
        self
    }

    /// Starts the first of them.
    ///
    /// # Errors
    /// As each of them, and milestones that do not rise from 1 on.
    pub fn start(self, optimizer: &mut dyn Optimizer) -> Result<Sequential> {
        let rising = self.milestones.first() != Some(&0) && self.milestones.windows(2).all(|m| m[0] < m[1]);
        demand("SequentialLR", &[(rising, "the milestones must rise, from 1 on")])?;
        for group in 0..optimizer.num_groups() {
            initial_lr(optimizer, group)?;
        }
        let mut parts = self.schedules.into_iter().map(|s| s.start_boxed(optimizer)).collect::<Result<Vec<_>>>()?;
        if parts.iter().any(|p| p.wants_metric()) {
            return Err(Error::argument("SequentialLR", "a schedule that wants a metric (ReduceLROnPlateau) cannot be one of its parts"));
        }
        for group in 0..optimizer.num_groups() {
            let lr = initial_lr(optimizer, group)?;
            optimizer.set_setting(group, "lr", lr)?;
        }
        parts[0].restart(optimizer)?;
        Ok(Sequential { parts, milestones: self.milestones, epoch: 0, last: optimizer.lrs() })
    }
}

impl Schedule for SequentialLR {
    fn start_boxed(self: Box<Self>, optimizer: &mut dyn Optimizer) -> Result<Box<dyn Scheduler>> {
        Ok(Box::new((*self).start(optimizer)?))
    }
}

/// A [`SequentialLR`] that has started.
pub struct Sequential {
    parts: Vec<Box<dyn Scheduler>>,
    milestones: Vec<u64>,
    epoch: u64,
    last: Vec<f64>,
}

impl Scheduler for Sequential {
    fn step(&mut self, optimizer: &mut dyn Optimizer) -> Result<()> {
        let epoch = self.epoch + 1;
        let part = self.milestones.iter().filter(|&&m| m <= epoch).count();
        if part > 0 && self.milestones[part - 1] == epoch {
            self.parts[part].restart(optimizer)?;
        } else {
            self.parts[part].step(optimizer)?;
        }
        self.epoch = epoch;
        self.last = optimizer.lrs();
        Ok(())
    }

    fn last_lr(&self) -> Vec<f64> {
        self.last.clone()
    }

    fn state_dict(&self) -> Result<StateDict> {
        join(&self.parts, &[("last_epoch", &[self.epoch as f64]), ("last_lr", &self.last)])
    }

    fn load_state_dict(&mut self, dict: &StateDict) -> Result<()> {
        let (own, each) = split(dict, self.parts.len());
        let mut numbers = Numbers::new("SequentialLR", &own);
        let (epoch, last) = (numbers.take("last_epoch", 1)?[0], numbers.take("last_lr", self.last.len())?);
        numbers.end()?;
        load(&mut self.parts, &each)?;
        (self.epoch, self.last) = (epoch as u64, last);
        Ok(())
    }

    fn restart(&mut self, optimizer: &mut dyn Optimizer) -> Result<()> {
        self.epoch = 0;
        self.parts[0].restart(optimizer)?;
        self.last = optimizer.lrs();
        Ok(())
    }
}

//! A schedule that looks at what was measured.

use super::{Numbers, Schedule, Scheduler, check_groups, demand, lrs, of, state};
use crate::io::StateDict;
use crate::optim::Optimizer;
use crate::{Error, Result};

/// Multiplies the learning rate by `factor` when a metric has not improved for more than `patience` steps. Its scheduler is stepped by
/// [`step_with`](Scheduler::step_with).
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::lr_scheduler::{ReduceLROnPlateau, Scheduler};
/// use fornax::optim::{Optimizer, SGD};
/// let layer = Linear::new(3, 1, fornax::Device::cpu());
/// let mut optimizer = SGD::new(layer.parameters(), 1.0);
/// let mut scheduler = ReduceLROnPlateau::new().patience(1).start(&mut optimizer)?;
/// for loss in [0.9, 0.5, 0.6, 0.7] {
///     scheduler.step_with(loss, &mut optimizer)?;
/// }
/// assert_eq!(optimizer.lr(), 0.1);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ReduceLROnPlateau {
    maximize: bool,
    factor: f64,
    patience: u64,
    threshold: f64,
    absolute: bool,
    cooldown: u64,
    min_lr: Vec<f64>,
    eps: f64,
}

impl Default for ReduceLROnPlateau {
    fn default() -> Self {
        ReduceLROnPlateau {
            maximize: false,
            factor: 0.1,
            patience: 10,
            threshold: 1e-4,
            absolute: false,
            cooldown: 0,
            min_lr: vec![0.0],
            eps: 1e-8,
        }
    }
}

macro_rules! settings {
    ($( $(#[$doc:meta])* $field:ident : $t:ty = $example:literal; )*) => { $(
        $(#[$doc])*
        ///
        /// ```
        /// use fornax::optim::lr_scheduler::ReduceLROnPlateau;
        #[doc = concat!("let schedule = ReduceLROnPlateau::new().", stringify!($field), "(", $example, ");")]
        /// ```
        pub fn $field(mut self, $field: $t) -> ReduceLROnPlateau {
            self.$field = $field;
            self
        }
    )* };
}

impl ReduceLROnPlateau {
    /// With PyTorch's defaults, for a metric that shall fall.
    pub fn new() -> ReduceLROnPlateau {
        ReduceLROnPlateau::default()
    }

    settings! {
        /// Whether the metric shall rise (an accuracy) and not fall (off).
        maximize: bool = "true";
        /// Sets the factor of the learning rate (0.1).
        factor: f64 = "0.5";
        /// Sets the number of steps without an improvement that are borne (10).
        patience: u64 = "3";
        /// Sets by how much a metric must be better to count as an improvement (10⁻⁴).
        threshold: f64 = "1e-3";
        /// Takes the threshold for a difference, not for a part of the best (off).
        absolute: bool = "true";
        /// Sets the number of steps after a reduction in which nothing is counted (0).
        cooldown: u64 = "2";
        /// Sets the smallest change of the learning rate that is made (10⁻⁸).
        eps: f64 = "1e-9";
    }

    /// Sets the lowest learning rate (0).
    ///
    /// ```
    /// use fornax::optim::lr_scheduler::ReduceLROnPlateau;
    /// let schedule = ReduceLROnPlateau::new().min_lr(1e-6);
    /// ```
    pub fn min_lr(self, min_lr: f64) -> ReduceLROnPlateau {
        self.min_lrs([min_lr])
    }

    /// Sets the lowest learning rate of each group.
    ///
    /// ```
    /// use fornax::optim::lr_scheduler::ReduceLROnPlateau;
    /// let schedule = ReduceLROnPlateau::new().min_lrs([1e-6, 1e-7]);
    /// ```
    pub fn min_lrs(mut self, min_lrs: impl IntoIterator<Item = f64>) -> ReduceLROnPlateau {
        self.min_lr = min_lrs.into_iter().collect();
        self
    }

    /// Starts it. The learning rates stay.
    ///
    /// # Errors
    /// A factor that does not reduce; lowest learning rates for another number of groups.
    pub fn start(self, optimizer: &mut dyn Optimizer) -> Result<Plateau> {
        demand("ReduceLROnPlateau", &[(self.factor < 1.0, "the factor must be less than 1")])?;
        check_groups("ReduceLROnPlateau", "lowest learning rates", self.min_lr.len(), optimizer.num_groups())?;
        let best = self.worst();
        Ok(Plateau { best, bad: 0, cooling: 0, last: optimizer.lrs(), rule: self })
    }

    fn worst(&self) -> f64 {
        if self.maximize { f64::NEG_INFINITY } else { f64::INFINITY }
    }

    fn is_better(&self, a: f64, best: f64) -> bool {
        match (self.maximize, self.absolute) {
            (false, false) => a < best * (1.0 - self.threshold),
            (false, true) => a < best - self.threshold,
            (true, false) => a > best * (self.threshold + 1.0),
            (true, true) => a > best + self.threshold,
        }
    }
}

impl Schedule for ReduceLROnPlateau {
    fn start_boxed(self: Box<Self>, optimizer: &mut dyn Optimizer) -> Result<Box<dyn Scheduler>> {
        Ok(Box::new((*self).start(optimizer)?))
    }
}

/// A [`ReduceLROnPlateau`] that has started.
pub struct Plateau {
    rule: ReduceLROnPlateau,
    best: f64,
    bad: u64,
    cooling: u64,
    last: Vec<f64>,
}

impl Scheduler for Plateau {
    fn step(&mut self, _: &mut dyn Optimizer) -> Result<()> {
        Err(Error::argument("ReduceLROnPlateau", "it wants a metric: use step_with"))
    }

    fn step_with(&mut self, metric: f64, optimizer: &mut dyn Optimizer) -> Result<()> {
        let now = lrs("ReduceLROnPlateau", optimizer, self.last.len())?;
        if self.rule.is_better(metric, self.best) {
            self.best = metric;
            self.bad = 0;
        } else {
            self.bad += 1;
        }
        if self.cooling > 0 {
            self.cooling -= 1;
            self.bad = 0;
        }
        if self.bad > self.rule.patience {
            for (group, &old) in now.iter().enumerate() {
                let new = (old * self.rule.factor).max(of(&self.rule.min_lr, group));
                if old - new > self.rule.eps {
                    optimizer.set_setting(group, "lr", new)?;
                }
            }
            self.cooling = self.rule.cooldown;
            self.bad = 0;
        }
        self.last = optimizer.lrs();
        Ok(())
    }

    fn wants_metric(&self) -> bool {
        true
    }

    fn last_lr(&self) -> Vec<f64> {
        self.last.clone()
    }

    fn state_dict(&self) -> Result<StateDict> {
        let numbers = [self.best, self.bad as f64, self.cooling as f64];
        state(&[("best", &numbers[..1]), ("num_bad_epochs", &numbers[1..2]), ("cooldown_counter", &numbers[2..]), ("last_lr", &self.last)])
    }

    fn load_state_dict(&mut self, dict: &StateDict) -> Result<()> {
        let mut numbers = Numbers::new("ReduceLROnPlateau", dict);
        let (best, bad) = (numbers.take("best", 1)?[0], numbers.take("num_bad_epochs", 1)?[0]);
        let (cooling, last) = (numbers.take("cooldown_counter", 1)?[0], numbers.take("last_lr", self.last.len())?);
        numbers.end()?;
        (self.best, self.bad, self.cooling, self.last) = (best, bad as u64, cooling as u64, last);
        Ok(())
    }

    fn restart(&mut self, _: &mut dyn Optimizer) -> Result<()> {
        (self.best, self.bad, self.cooling) = (self.rule.worst(), 0, 0);
        Ok(())
    }
}

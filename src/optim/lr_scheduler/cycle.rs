//! Schedules that go up and down, and the momentum against them.

use super::{At, Rate, check_groups, demand, of, schedule};
use crate::{Error, Result};
use std::f64::consts::PI;

/// The way from one learning rate to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anneal {
    /// Half a cosine.
    Cos,
    /// A line.
    Linear,
}

impl Anneal {
    fn between(self, start: f64, end: f64, part: f64) -> f64 {
        match self {
            Anneal::Cos => end + (start - end) / 2.0 * ((PI * part).cos() + 1.0),
            Anneal::Linear => (end - start) * part + start,
        }
    }

    /// From 0 to 1.
    fn part(self, t: f64) -> f64 {
        match self {
            Anneal::Cos => (1.0 - (PI * t).cos()) / 2.0,
            Anneal::Linear => t,
        }
    }
}

/// The one-cycle policy (Smith and Topin 2018): the learning rate rises from `max_lr / div_factor` to `max_lr` in `pct_start` of the steps and falls to
/// `max_lr / div_factor / final_div_factor` in the rest, while the momentum (β₁ in the Adams) goes the other way. It is stepped after each batch, at most
/// `total_steps` times.
///
/// ```
/// use fornax::optim::lr_scheduler::OneCycleLR;
/// let schedule = OneCycleLR::new(0.1, 1000).pct_start(0.25);
/// ```
#[derive(Clone, Debug)]
pub struct OneCycleLR {
    max_lr: Vec<f64>,
    total_steps: u64,
    pct_start: f64,
    anneal: Anneal,
    cycle_momentum: bool,
    base_momentum: f64,
    max_momentum: f64,
    div_factor: f64,
    final_div_factor: f64,
    three_phase: bool,
}

impl OneCycleLR {
    /// With this peak, over so many steps.
    pub fn new(max_lr: f64, total_steps: u64) -> OneCycleLR {
        OneCycleLR {
            max_lr: vec![max_lr],
            total_steps,
            pct_start: 0.3,
            anneal: Anneal::Cos,
            cycle_momentum: true,
            base_momentum: 0.85,
            max_momentum: 0.95,
            div_factor: 25.0,
            final_div_factor: 1e4,
            three_phase: false,
        }
    }

    /// A peak for each group.
    ///
    /// ```
    /// use fornax::optim::lr_scheduler::OneCycleLR;
    /// let schedule = OneCycleLR::new(0.1, 1000).max_lrs([0.1, 0.01]);
    /// ```
    pub fn max_lrs(mut self, max_lrs: impl IntoIterator<Item = f64>) -> OneCycleLR {
        self.max_lr = max_lrs.into_iter().collect();
        self
    }

    /// A value at this step, from those at the ends of the phases: the start, the peak, the end of the third phase if there are three, the end.
    fn at(&self, epoch: u64, start: f64, peak: f64, end: f64) -> f64 {
        let total = self.total_steps as f64;
        let first = self.pct_start * total - 1.0;
        let last = (total - 1.0, end);
        let phases: &[(f64, f64)] =
            if self.three_phase { &[(first, peak), (2.0 * self.pct_start * total - 2.0, start), last] } else { &[(first, peak), last] };
        let (mut from, mut value) = (0.0, start);
        let t = epoch as f64;
        for (i, &(to, target)) in phases.iter().enumerate() {
            if t <= to || i == phases.len() - 1 {
                return self.anneal.between(value, target, (t - from) / (to - from));
            }
            (from, value) = (to, target);
        }
        value
    }
}

impl Rate for OneCycleLR {
    fn name(&self) -> &'static str {
        "OneCycleLR"
    }
    fn check(&self, groups: usize) -> Result<()> {
        let demands = [
            (self.total_steps > 0, "total_steps = 0: a number from 1 on is wanted"),
            ((0.0..=1.0).contains(&self.pct_start), "pct_start must lie between 0 and 1"),
            (self.div_factor > 0.0 && self.final_div_factor > 0.0, "the divisors must be greater than 0"),
        ];
        demand("OneCycleLR", &demands)?;
        check_groups("OneCycleLR", "peaks", self.max_lr.len(), groups)
    }
    fn base(&self, group: usize) -> Option<(f64, bool)> {
        Some((of(&self.max_lr, group) / self.div_factor, true))
    }
    fn next(&self, at: &At) -> Result<f64> {
        if at.epoch > self.total_steps {
            return Err(Error::argument("OneCycleLR", format!("step {} of {}: its cycle is over", at.epoch, self.total_steps)));
        }
        let max = of(&self.max_lr, at.group);
        let start = max / self.div_factor;
        Ok(self.at(at.epoch, start, max, start / self.final_div_factor))
    }
    fn momentum(&self, at: &At) -> Option<f64> {
        self.cycle_momentum.then(|| self.at(at.epoch, self.max_momentum, self.base_momentum, self.max_momentum))
    }
}

schedule!(OneCycleLR, "OneCycleLR::new(0.1, 1000)" {
    /// Sets the part of the steps in which the learning rate rises (0.3).
    pct_start: f64 = "0.25";
    /// Sets the way between the turning points (half a cosine).
    anneal: Anneal = "Anneal::Linear";
    /// Turns the cycle of the momentum on or off (on).
    cycle_momentum: bool = "false";
    /// Sets the momentum at the peak (0.85).
    base_momentum: f64 = "0.8";
    /// Sets the momentum at both ends (0.95).
    max_momentum: f64 = "0.9";
    /// Sets the divisor from the peak to the start (25).
    div_factor: f64 = "10.0";
    /// Sets the divisor from the start to the end (10⁴).
    final_div_factor: f64 = "100.0";
    /// Falls to the start as fast as it rose, and to the end in a third phase (off).
    three_phase: bool = "true";
});

/// How the height of the cycles of [`CyclicLR`] changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CyclicMode {
    /// It does not.
    Triangular,
    /// It halves every cycle.
    Triangular2,
    /// It is multiplied by this factor every step.
    ExpRange(f64),
}

/// Cyclical learning rates (Smith 2017): from `base_lr` to `max_lr` in `step_size_up` steps, back in `step_size_down`, and so on, while the momentum (β₁ in the
/// Adams) goes the other way. It is stepped after each batch.
///
/// ```
/// use fornax::optim::lr_scheduler::{CyclicLR, CyclicMode};
/// let schedule = CyclicLR::new(1e-3, 0.1).step_size_up(500).mode(CyclicMode::Triangular2);
/// ```
#[derive(Clone, Debug)]
pub struct CyclicLR {
    base_lr: Vec<f64>,
    max_lr: Vec<f64>,
    step_size_up: u64,
    step_size_down: u64,
    mode: CyclicMode,
    cycle_momentum: bool,
    base_momentum: f64,
    max_momentum: f64,
}

impl CyclicLR {
    /// Between these two.
    pub fn new(base_lr: f64, max_lr: f64) -> CyclicLR {
        CyclicLR {
            base_lr: vec![base_lr],
            max_lr: vec![max_lr],
            step_size_up: 2000,
            step_size_down: 0,
            mode: CyclicMode::Triangular,
            cycle_momentum: true,
            base_momentum: 0.8,
            max_momentum: 0.9,
        }
    }

    /// The lower and the upper end for each group.
    ///
    /// ```
    /// use fornax::optim::lr_scheduler::CyclicLR;
    /// let schedule = CyclicLR::new(1e-3, 0.1).lrs([(1e-3, 0.1), (1e-4, 0.01)]);
    /// ```
    pub fn lrs(mut self, ends: impl IntoIterator<Item = (f64, f64)>) -> CyclicLR {
        (self.base_lr, self.max_lr) = ends.into_iter().unzip();
        self
    }

    /// How high in its cycle, from 0 to 1.
    fn height(&self, epoch: u64) -> f64 {
        let up = self.step_size_up as f64;
        let total = up + if self.step_size_down == 0 { up } else { self.step_size_down as f64 };
        let t = epoch as f64 / total;
        let cycle = (1.0 + t).floor();
        let (x, ratio) = (1.0 + t - cycle, up / total);
        let height = if x <= ratio { x / ratio } else { (x - 1.0) / (ratio - 1.0) };
        height
            * match self.mode {
                CyclicMode::Triangular => 1.0,
                CyclicMode::Triangular2 => 1.0 / 2f64.powf(cycle - 1.0),
                CyclicMode::ExpRange(gamma) => gamma.powf(epoch as f64),
            }
    }
}

impl Rate for CyclicLR {
    fn name(&self) -> &'static str {
        "CyclicLR"
    }
    fn check(&self, groups: usize) -> Result<()> {
        demand("CyclicLR", &[(self.step_size_up > 0, "step_size_up = 0: a number from 1 on is wanted")])?;
        check_groups("CyclicLR", "pairs of learning rates", self.base_lr.len(), groups)
    }
    fn base(&self, group: usize) -> Option<(f64, bool)> {
        Some((of(&self.base_lr, group), false))
    }
    fn next(&self, at: &At) -> Result<f64> {
        Ok(at.base + (of(&self.max_lr, at.group) - at.base) * self.height(at.epoch))
    }
    fn momentum(&self, at: &At) -> Option<f64> {
        let range = self.max_momentum - self.base_momentum;
        self.cycle_momentum.then(|| self.max_momentum - range * self.height(at.epoch))
    }
}

schedule!(CyclicLR, "CyclicLR::new(1e-3, 0.1)" {
    /// Sets the steps on the way up (2000).
    step_size_up: u64 = "500";
    /// Sets the steps on the way down (as many as on the way up).
    step_size_down: u64 = "1000";
    /// Sets how the height changes (not at all).
    mode: CyclicMode = "CyclicMode::Triangular2";
    /// Turns the cycle of the momentum on or off (on).
    cycle_momentum: bool = "false";
    /// Sets the momentum at the top (0.8).
    base_momentum: f64 = "0.85";
    /// Sets the momentum at the bottom (0.9).
    max_momentum: f64 = "0.95";
});

/// Goes from the present learning rate to `swa_lr` in `anneal_epochs` (10) steps and stays there: the schedule of stochastic weight averaging
/// (Izmailov et al. 2018).
///
/// ```
/// use fornax::optim::lr_scheduler::{Anneal, SWALR};
/// let schedule = SWALR::new(0.05).anneal_epochs(5).anneal(Anneal::Linear);
/// ```
#[derive(Clone, Debug)]
pub struct SWALR {
    swa_lr: Vec<f64>,
    anneal_epochs: u64,
    anneal: Anneal,
}

impl SWALR {
    /// To this learning rate.
    pub fn new(swa_lr: f64) -> SWALR {
        SWALR { swa_lr: vec![swa_lr], anneal_epochs: 10, anneal: Anneal::Cos }
    }

    /// A learning rate for each group.
    ///
    /// ```
    /// use fornax::optim::lr_scheduler::SWALR;
    /// let schedule = SWALR::new(0.05).swa_lrs([0.05, 0.005]);
    /// ```
    pub fn swa_lrs(mut self, swa_lrs: impl IntoIterator<Item = f64>) -> SWALR {
        self.swa_lr = swa_lrs.into_iter().collect();
        self
    }
}

impl Rate for SWALR {
    fn name(&self) -> &'static str {
        "SWALR"
    }
    fn check(&self, groups: usize) -> Result<()> {
        check_groups("SWALR", "learning rates", self.swa_lr.len(), groups)
    }
    fn next(&self, at: &At) -> Result<f64> {
        let swa_lr = of(&self.swa_lr, at.group);
        let step = if self.anneal_epochs == 0 { at.epoch.max(1) } else { at.epoch } as f64;
        let part = |step: f64| self.anneal.part((step / self.anneal_epochs.max(1) as f64).clamp(0.0, 1.0));
        let (before, now) = (part(step - 1.0), part(step));
        let start = if before == 1.0 { swa_lr } else { (at.now - before * swa_lr) / (1.0 - before) };
        Ok(swa_lr * now + start * (1.0 - now))
    }
}

schedule!(SWALR, "SWALR::new(0.05)" {
    /// Sets the number of steps on the way (10).
    anneal_epochs: u64 = "5";
    /// Sets the way (half a cosine).
    anneal: Anneal = "Anneal::Linear";
});

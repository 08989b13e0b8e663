//! Cosine annealing (Loshchilov and Hutter 2017, "SGDR").

use super::{At, Rate, demand, schedule};
use crate::Result;
use std::f64::consts::PI;

/// Lets the learning rate fall by half a cosine to `eta_min` (0) in `t_max` steps, and rise again in the next `t_max`:
///
/// ```text
/// lr = eta_min + (base − eta_min) · (1 + cos(π · t / t_max)) / 2
/// ```
///
/// ```
/// use fornax::optim::lr_scheduler::CosineAnnealingLR;
/// let schedule = CosineAnnealingLR::new(100).eta_min(1e-6);
/// ```
#[derive(Clone, Debug)]
pub struct CosineAnnealingLR {
    t_max: u64,
    eta_min: f64,
}

impl CosineAnnealingLR {
    /// In so many steps.
    pub fn new(t_max: u64) -> CosineAnnealingLR {
        CosineAnnealingLR { t_max, eta_min: 0.0 }
    }
}

impl Rate for CosineAnnealingLR {
    fn name(&self) -> &'static str {
        "CosineAnnealingLR"
    }
    fn check(&self, _: usize) -> Result<()> {
        demand("CosineAnnealingLR", &[(self.t_max > 0, "t_max = 0: a number from 1 on is wanted")])
    }
    fn next(&self, at: &At) -> Result<f64> {
        if at.first {
            return Ok(at.now);
        }
        let (t, n) = (at.epoch as f64, self.t_max as f64);
        // After the lowest point a quotient would be 0 / 0.
        if at.epoch > self.t_max && (at.epoch - 1 - self.t_max).is_multiple_of(2 * self.t_max) {
            return Ok(at.now + (at.base - self.eta_min) * (1.0 - (PI / n).cos()) / 2.0);
        }
        let quotient = (1.0 + (PI * t / n).cos()) / (1.0 + (PI * (t - 1.0) / n).cos());
        Ok(quotient * (at.now - self.eta_min) + self.eta_min)
    }
    fn anew(&self, at: &At) -> Result<f64> {
        Ok(self.eta_min + (at.base - self.eta_min))
    }
}

schedule!(CosineAnnealingLR, "CosineAnnealingLR::new(100)" {
    /// Sets the lowest learning rate (0).
    eta_min: f64 = "1e-6";
});

/// Cosine annealing with warm restarts: down in `t_0` steps, back to the top at once, down in `t_0 · t_mult` steps (`t_mult` is 1 by default), and so on.
///
/// ```
/// use fornax::optim::lr_scheduler::CosineAnnealingWarmRestarts;
/// let schedule = CosineAnnealingWarmRestarts::new(10).t_mult(2).eta_min(1e-6);
/// ```
#[derive(Clone, Debug)]
pub struct CosineAnnealingWarmRestarts {
    t_0: u64,
    t_mult: u64,
    eta_min: f64,
}

impl CosineAnnealingWarmRestarts {
    /// With so many steps to the first restart.
    pub fn new(t_0: u64) -> CosineAnnealingWarmRestarts {
        CosineAnnealingWarmRestarts { t_0, t_mult: 1, eta_min: 0.0 }
    }
}

impl Rate for CosineAnnealingWarmRestarts {
    fn name(&self) -> &'static str {
        "CosineAnnealingWarmRestarts"
    }
    fn check(&self, _: usize) -> Result<()> {
        let demands =
            [(self.t_0 > 0, "t_0 = 0: a number from 1 on is wanted"), (self.t_mult > 0, "t_mult = 0: a number from 1 on is wanted")];
        demand("CosineAnnealingWarmRestarts", &demands)
    }
    fn next(&self, at: &At) -> Result<f64> {
        // The steps since the last restart, and from it to the next.
        let (mut since, mut length) = (at.epoch, self.t_0);
        if self.t_mult == 1 {
            since %= length;
        }
        while since >= length {
            since -= length;
            length = length.saturating_mul(self.t_mult);
        }
        Ok(self.eta_min + (at.base - self.eta_min) * (1.0 + (PI * since as f64 / length as f64).cos()) / 2.0)
    }
}

schedule!(CosineAnnealingWarmRestarts, "CosineAnnealingWarmRestarts::new(10)" {
    /// Sets the factor from one cycle's length to the next (1).
    t_mult: u64 = "2";
    /// Sets the lowest learning rate (0).
    eta_min: f64 = "1e-6";
});

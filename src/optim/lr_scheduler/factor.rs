//! Schedules that multiply the learning rate.

use super::{At, Rate, demand, schedule};
use crate::{Error, Result};

/// A function of the number of steps.
type Function = Box<dyn Fn(u64) -> f64 + Send + Sync>;

/// Multiplies the learning rate by `gamma` (0.1) every `step_size` steps.
///
/// ```
/// use fornax::optim::lr_scheduler::StepLR;
/// let schedule = StepLR::new(30).gamma(0.2);
/// ```
#[derive(Clone, Debug)]
pub struct StepLR {
    step_size: u64,
    gamma: f64,
}

impl StepLR {
    /// Every `step_size` steps.
    pub fn new(step_size: u64) -> StepLR {
        StepLR { step_size, gamma: 0.1 }
    }
}

impl Rate for StepLR {
    fn name(&self) -> &'static str {
        "StepLR"
    }
    fn check(&self, _: usize) -> Result<()> {
        demand("StepLR", &[(self.step_size > 0, "step_size = 0: a number from 1 on is wanted")])
    }
    fn next(&self, at: &At) -> Result<f64> {
        Ok(if at.epoch == 0 || !at.epoch.is_multiple_of(self.step_size) { at.now } else { at.now * self.gamma })
    }
    fn anew(&self, at: &At) -> Result<f64> {
        Ok(at.base)
    }
}

schedule!(StepLR, "StepLR::new(30)" {
    /// Sets the factor (0.1).
    gamma: f64 = "0.5";
});

/// Multiplies the learning rate by `gamma` (0.1) at each of the milestones; a milestone that is named twice counts twice.
///
/// ```
/// use fornax::optim::lr_scheduler::MultiStepLR;
/// let schedule = MultiStepLR::new([30, 80]).gamma(0.2);
/// ```
#[derive(Clone, Debug)]
pub struct MultiStepLR {
    milestones: Vec<u64>,
    gamma: f64,
}

impl MultiStepLR {
    /// At these numbers of steps.
    pub fn new(milestones: impl IntoIterator<Item = u64>) -> MultiStepLR {
        MultiStepLR { milestones: milestones.into_iter().collect(), gamma: 0.1 }
    }

    fn times(&self, epoch: u64) -> i32 {
        self.milestones.iter().filter(|&&m| m == epoch).count() as i32
    }
}

impl Rate for MultiStepLR {
    fn name(&self) -> &'static str {
        "MultiStepLR"
    }
    fn check(&self, _: usize) -> Result<()> {
        Ok(())
    }
    fn next(&self, at: &At) -> Result<f64> {
        Ok(at.now * self.gamma.powi(self.times(at.epoch)))
    }
    fn anew(&self, at: &At) -> Result<f64> {
        Ok(at.base * self.gamma.powi(self.times(0)))
    }
}

schedule!(MultiStepLR, "MultiStepLR::new([30, 80])" {
    /// Sets the factor (0.1).
    gamma: f64 = "0.5";
});

/// Multiplies the learning rate by `factor` until step `total_iters`.
///
/// ```
/// use fornax::optim::lr_scheduler::ConstantLR;
/// let schedule = ConstantLR::new(0.1, 5);
/// ```
#[derive(Clone, Debug)]
pub struct ConstantLR {
    factor: f64,
    total_iters: u64,
}

impl ConstantLR {
    /// PyTorch's defaults are a factor of 1/3 and 5 steps.
    pub fn new(factor: f64, total_iters: u64) -> ConstantLR {
        ConstantLR { factor, total_iters }
    }
}

impl Rate for ConstantLR {
    fn name(&self) -> &'static str {
        "ConstantLR"
    }
    fn check(&self, _: usize) -> Result<()> {
        demand("ConstantLR", &[((0.0..=1.0).contains(&self.factor), "the factor must lie between 0 and 1")])
    }
    fn next(&self, at: &At) -> Result<f64> {
        Ok(match at.epoch {
            0 => at.now * self.factor,
            n if n == self.total_iters => at.now * (1.0 / self.factor),
            _ => at.now,
        })
    }
    fn anew(&self, at: &At) -> Result<f64> {
        Ok(if self.total_iters == 0 { at.base } else { at.base * self.factor })
    }
}

schedule!(ConstantLR, "ConstantLR::new(0.1, 5)" {});

/// Lets the factor of the learning rate go linearly from `start_factor` to `end_factor` in `total_iters` steps: a linear warm-up, or a linear decay.
///
/// ```
/// use fornax::optim::lr_scheduler::LinearLR;
/// let warm_up = LinearLR::new(0.01, 1.0, 500);
/// ```
#[derive(Clone, Debug)]
pub struct LinearLR {
    start_factor: f64,
    end_factor: f64,
    total_iters: u64,
}

impl LinearLR {
    /// PyTorch's defaults are 1/3, 1 and 5 steps.
    pub fn new(start_factor: f64, end_factor: f64, total_iters: u64) -> LinearLR {
        LinearLR { start_factor, end_factor, total_iters }
    }
}

impl Rate for LinearLR {
    fn name(&self) -> &'static str {
        "LinearLR"
    }
    fn check(&self, _: usize) -> Result<()> {
        let start = self.start_factor > 0.0 && self.start_factor <= 1.0;
        let demands = [
            (start, "start_factor must be greater than 0 and at most 1"),
            ((0.0..=1.0).contains(&self.end_factor), "end_factor must lie between 0 and 1"),
            (self.total_iters > 0, "total_iters = 0: a number from 1 on is wanted"),
        ];
        demand("LinearLR", &demands)
    }
    fn next(&self, at: &At) -> Result<f64> {
        if at.epoch == 0 {
            return Ok(at.now * self.start_factor);
        }
        if at.epoch > self.total_iters {
            return Ok(at.now);
        }
        let change = self.end_factor - self.start_factor;
        Ok(at.now * (1.0 + change / (self.total_iters as f64 * self.start_factor + (at.epoch - 1) as f64 * change)))
    }
    fn anew(&self, at: &At) -> Result<f64> {
        Ok(at.base * self.start_factor)
    }
}

schedule!(LinearLR, "LinearLR::new(0.1, 1.0, 5)" {});

/// Multiplies the learning rate by `gamma` every step.
///
/// ```
/// use fornax::optim::lr_scheduler::ExponentialLR;
/// let schedule = ExponentialLR::new(0.95);
/// ```
#[derive(Clone, Debug)]
pub struct ExponentialLR {
    gamma: f64,
}

impl ExponentialLR {
    /// With this factor.
    pub fn new(gamma: f64) -> ExponentialLR {
        ExponentialLR { gamma }
    }
}

impl Rate for ExponentialLR {
    fn name(&self) -> &'static str {
        "ExponentialLR"
    }
    fn check(&self, _: usize) -> Result<()> {
        Ok(())
    }
    fn next(&self, at: &At) -> Result<f64> {
        Ok(if at.first { at.now } else { at.now * self.gamma })
    }
    fn anew(&self, at: &At) -> Result<f64> {
        Ok(at.base)
    }
}

schedule!(ExponentialLR, "ExponentialLR::new(0.9)" {});

/// Lets the learning rate fall to 0 in `total_iters` steps: `lr · (1 − t / total_iters)^power` (power 1).
///
/// ```
/// use fornax::optim::lr_scheduler::PolynomialLR;
/// let schedule = PolynomialLR::new(100).power(0.9);
/// ```
#[derive(Clone, Debug)]
pub struct PolynomialLR {
    total_iters: u64,
    power: f64,
}

impl PolynomialLR {
    /// In so many steps.
    pub fn new(total_iters: u64) -> PolynomialLR {
        PolynomialLR { total_iters, power: 1.0 }
    }
}

impl Rate for PolynomialLR {
    fn name(&self) -> &'static str {
        "PolynomialLR"
    }
    fn check(&self, _: usize) -> Result<()> {
        demand("PolynomialLR", &[(self.total_iters > 0, "total_iters = 0: a number from 1 on is wanted")])
    }
    fn next(&self, at: &At) -> Result<f64> {
        if at.first || at.epoch == 0 || at.epoch > self.total_iters {
            return Ok(at.now);
        }
        let (t, n) = (at.epoch as f64, self.total_iters as f64);
        Ok(at.now * ((1.0 - t / n) / (1.0 - (t - 1.0) / n)).powf(self.power))
    }
    fn anew(&self, at: &At) -> Result<f64> {
        Ok(at.base)
    }
}

schedule!(PolynomialLR, "PolynomialLR::new(100)" {
    /// Sets the exponent (1).
    power: f64 = "0.9";
});

/// The warm-up of "Attention is all you need" (Vaswani et al. 2017): with `s = t + 1`,
///
/// ```text
/// lr = base · d_model^(−1/2) · min(s^(−1/2), s · warmup^(−3/2))
/// ```
///
/// It rises linearly for `warmup` steps and then falls with the root of the number of steps; the optimizer's own learning rate is a factor (1 in the paper).
///
/// ```
/// use fornax::optim::lr_scheduler::NoamLR;
/// let schedule = NoamLR::new(512, 4000);
/// ```
#[derive(Clone, Debug)]
pub struct NoamLR {
    d_model: u64,
    warmup: u64,
}

impl NoamLR {
    /// For a model of this width, with so many steps of warm-up.
    pub fn new(d_model: u64, warmup: u64) -> NoamLR {
        NoamLR { d_model, warmup }
    }
}

impl Rate for NoamLR {
    fn name(&self) -> &'static str {
        "NoamLR"
    }
    fn check(&self, _: usize) -> Result<()> {
        demand("NoamLR", &[(self.d_model > 0, "d_model = 0"), (self.warmup > 0, "warmup = 0: a number from 1 on is wanted")])
    }
    fn next(&self, at: &At) -> Result<f64> {
        let s = (at.epoch + 1) as f64;
        Ok(at.base * (self.d_model as f64).powf(-0.5) * s.powf(-0.5).min(s * (self.warmup as f64).powf(-1.5)))
    }
}

schedule!(NoamLR, "NoamLR::new(512, 4000)" {});

/// The initial learning rate times a function of the number of steps.
///
/// ```
/// use fornax::optim::lr_scheduler::LambdaLR;
/// let schedule = LambdaLR::new(|epoch| 0.95f64.powi(epoch as i32));
/// ```
pub struct LambdaLR {
    functions: Vec<Function>,
}

impl LambdaLR {
    /// One function for all groups.
    pub fn new(function: impl Fn(u64) -> f64 + Send + Sync + 'static) -> LambdaLR {
        LambdaLR { functions: vec![Box::new(function)] }
    }

    /// One more function: as soon as there are two, there must be one for each group.
    ///
    /// ```
    /// use fornax::optim::lr_scheduler::LambdaLR;
    /// let schedule = LambdaLR::new(|epoch| 0.95f64.powi(epoch as i32)).and(|_| 1.0);
    /// ```
    pub fn and(mut self, function: impl Fn(u64) -> f64 + Send + Sync + 'static) -> LambdaLR {
        self.functions.push(Box::new(function));
        self
    }
}

/// Multiplies the learning rate every step by a function of the number of steps.
///
/// ```
/// use fornax::optim::lr_scheduler::MultiplicativeLR;
/// let schedule = MultiplicativeLR::new(|epoch| if epoch < 10 { 1.0 } else { 0.95 });
/// ```
pub struct MultiplicativeLR {
    functions: Vec<Function>,
}

impl MultiplicativeLR {
    /// One function for all groups.
    pub fn new(function: impl Fn(u64) -> f64 + Send + Sync + 'static) -> MultiplicativeLR {
        MultiplicativeLR { functions: vec![Box::new(function)] }
    }

    /// One more function: as soon as there are two, there must be one for each group.
    ///
    /// ```
    /// use fornax::optim::lr_scheduler::MultiplicativeLR;
    /// let schedule = MultiplicativeLR::new(|_| 0.95).and(|_| 0.9);
    /// ```
    pub fn and(mut self, function: impl Fn(u64) -> f64 + Send + Sync + 'static) -> MultiplicativeLR {
        self.functions.push(Box::new(function));
        self
    }
}

fn check_functions(op: &'static str, functions: usize, groups: usize) -> Result<()> {
    if functions == 1 || functions == groups {
        return Ok(());
    }
    Err(Error::argument(op, format!("{functions} functions for {groups} groups: one each, or one for all, is wanted")))
}

/// A group's function.
fn of<'a>(functions: &'a [Function], at: &At) -> &'a Function {
    functions.get(at.group).unwrap_or(&functions[0])
}

impl Rate for LambdaLR {
    fn name(&self) -> &'static str {
        "LambdaLR"
    }
    fn check(&self, groups: usize) -> Result<()> {
        check_functions("LambdaLR", self.functions.len(), groups)
    }
    fn next(&self, at: &At) -> Result<f64> {
        Ok(at.base * of(&self.functions, at)(at.epoch))
    }
}

impl Rate for MultiplicativeLR {
    fn name(&self) -> &'static str {
        "MultiplicativeLR"
    }
    fn check(&self, groups: usize) -> Result<()> {
        check_functions("MultiplicativeLR", self.functions.len(), groups)
    }
    fn next(&self, at: &At) -> Result<f64> {
        Ok(if at.first { at.now } else { at.now * of(&self.functions, at)(at.epoch) })
    }
}

schedule!(LambdaLR, "LambdaLR::new(|t| 0.9f64.powi(t as i32))" {});
schedule!(MultiplicativeLR, "MultiplicativeLR::new(|_| 0.9)" {});

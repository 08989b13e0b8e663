//! The learning-rate range test.

use super::step::{Late, Step};
use crate::data::Loader;
use crate::nn::Module;
use crate::optim::Optimizer;
use crate::{Error, Result};

/// Looks for a learning rate: trains for some steps while the rate grows exponentially, and watches the loss (Smith 2017, "Cyclical learning
/// rates for training neural networks"). Model, optimizer and random numbers are as before afterwards.
///
/// The loss is smoothed as an exponential mean with its bias corrected. The test ends early where it exceeds `diverge` times its least.
///
/// ```
/// use fornax::data::{DataLoader, TensorDataset};
/// use fornax::nn::{self, Forward, Module};
/// use fornax::optim::{Optimizer, SGD};
/// use fornax::train::LrFinder;
/// use fornax::{Device, Tensor};
/// fornax::manual_seed(1);
/// let x = Tensor::normal([256, 4], 0.0, 1.0, Device::cpu());
/// let loader = DataLoader::new(TensorDataset::new([x.clone(), x.sum(1)])?, 32).shuffle(0);
/// let model = nn::Linear::new(4, 1, Device::cpu());
/// let mut optimizer = SGD::new(model.parameters(), 0.1);
/// let found = LrFinder::new().run(&model, &mut optimizer, &loader, |model, [x, y]| {
///     nn::mse_loss(&model.forward(&x)?.try_squeeze(-1)?, &y)
/// })?;
/// let lr = found.suggestion().unwrap();
/// assert!((1e-3..1.0).contains(&lr), "{lr}");
/// assert_eq!(optimizer.lr(), 0.1); // the choice is yours
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LrFinder {
    start: f64,
    end: f64,
    steps: usize,
    beta: f64,
    diverge: f64,
}

impl Default for LrFinder {
    fn default() -> Self {
        LrFinder { start: 1e-7, end: 10.0, steps: 100, beta: 0.98, diverge: 4.0 }
    }
}

impl LrFinder {
    /// From 1e-7 to 10 in 100 steps.
    pub fn new() -> LrFinder {
        LrFinder::default()
    }

    /// The first and the last rate.
    pub fn range(mut self, start: f64, end: f64) -> LrFinder {
        (self.start, self.end) = (start, end);
        self
    }

    /// The number of steps.
    pub fn steps(mut self, steps: usize) -> LrFinder {
        self.steps = steps;
        self
    }

    /// How much of the smoothed loss stays at each step (0.98).
    pub fn smoothing(mut self, beta: f64) -> LrFinder {
        self.beta = beta;
        self
    }

    /// How many times its least the smoothed loss may be (4).
    pub fn diverge(mut self, factor: f64) -> LrFinder {
        self.diverge = factor;
        self
    }

    /// Runs the test. The loader is gone through as often as it takes.
    ///
    /// # Errors
    /// Those of the step, the loader and the optimizer; `Error::Argument` for options out of range. Model, optimizer and random numbers are as
    /// before then, too.
    pub fn run<M: Module, L: Loader, S: Into<Step>>(
        &self,
        model: &M,
        optimizer: &mut dyn Optimizer,
        loader: &L,
        step: impl FnMut(&M, L::Batch) -> Result<S>,
    ) -> Result<LrCurve> {
        let fine = self.start > 0.0 && self.end > self.start && self.end.is_finite() && self.steps >= 2 && (0.0..1.0).contains(&self.beta);
        if !fine || !(self.diverge > 1.0) {
            let message = format!("{self:?}: 0 < start < end, at least 2 steps, a smoothing in 0..1 and diverge above 1 are wanted");
            return Err(Error::argument("LrFinder", message));
        }
        let (weights, state, rng) = (model.state_dict(), optimizer.state_dict()?, crate::rng_state());
        let curve = self.test(model, optimizer, loader, step);
        model.load_state_dict(&weights, true)?;
        optimizer.load_state_dict(&state)?;
        crate::set_rng_state(rng);
        curve
    }

    fn test<M: Module, L: Loader, S: Into<Step>>(
        &self,
        model: &M,
        optimizer: &mut dyn Optimizer,
        loader: &L,
        mut step: impl FnMut(&M, L::Batch) -> Result<S>,
    ) -> Result<LrCurve> {
        let mut curve = LrCurve::default();
        let (mut mean, mut best) = (0.0, f64::INFINITY);
        // Takes in the loss of a step; says whether to go on.
        let mut take = |late: Late, lr: f64| -> Result<bool> {
            let loss = late.wait()?.first().map_or(f64::NAN, |l| l.1);
            mean = self.beta * mean + (1.0 - self.beta) * loss;
            let smooth = mean / (1.0 - self.beta.powi(curve.points.len() as i32 + 1));
            if !smooth.is_finite() || (!curve.points.is_empty() && smooth > self.diverge * best) {
                return Ok(false);
            }
            best = best.min(smooth);
            curve.points.push((lr, smooth));
            Ok(true)
        };
        let mut before: Option<(Late, f64)> = None;
        let (mut done, mut epoch) = (0, 0);
        'test: while done < self.steps {
            let at = done;
            for batch in loader.start(epoch, None)? {
                let lr = self.start * (self.end / self.start).powf(done as f64 / (self.steps - 1) as f64);
                optimizer.set_lr(lr);
                let step: Step = step(model, batch?)?.into();
                step.check()?;
                let grads = step.loss.backward()?;
                optimizer.step(grads)?;
                done += 1;
                if let Some((late, lr)) = before.replace((Late::start(step, done), lr))
                    && !take(late, lr)?
                {
                    before = None;
                    break 'test;
                }
                if done == self.steps {
                    break 'test;
                }
            }
            if done == at {
                return Err(Error::argument("LrFinder", "the loader has no batch"));
            }
            epoch += 1;
        }
        if let Some((late, lr)) = before {
            take(late, lr)?;
        }
        Ok(curve)
    }
}

/// The smoothed loss by learning rate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LrCurve {
    /// Rates, ascending, with the smoothed loss at each.
    pub points: Vec<(f64, f64)>,
}

impl LrCurve {
    /// The rate at which the smoothed loss falls most steeply over the logarithm of the rate: the steepest line through a tenth of the points, by least
    /// squares, the first tenth aside, where the mean still settles. `None` where the loss falls nowhere or there are too few points.
    ///
    /// ```
    /// use fornax::train::LrCurve;
    /// let loss = |lr: f64| 1.0 / (1.0 + (lr / 0.01).powi(2));
    /// let points = (0..60).map(|i| 10f64.powf(-5.0 + i as f64 / 12.0)).map(|lr| (lr, loss(lr))).collect();
    /// let lr = LrCurve { points }.suggestion().unwrap();
    /// assert!((0.008..0.0125).contains(&lr), "{lr}");
    /// ```
    pub fn suggestion(&self) -> Option<f64> {
        let p = &self.points;
        let half = (p.len() / 20).max(1);
        let slope = |i: usize| {
            let near = &p[i - half..=i + half];
            let n = near.len() as f64;
            let (mx, my) = (near.iter().map(|q| q.0.ln()).sum::<f64>() / n, near.iter().map(|q| q.1).sum::<f64>() / n);
            let (xy, xx) = near.iter().map(|q| (q.0.ln() - mx, q.1 - my)).fold((0.0, 0.0), |s, (x, y)| (s.0 + x * y, s.1 + x * x));
            xy / xx
        };
        let first = half + p.len() / 10;
        let steepest = (first..p.len().saturating_sub(half)).min_by(|&a, &b| slope(a).total_cmp(&slope(b)))?;
        (slope(steepest) < 0.0).then(|| p[steepest].0)
    }
}

//! Curves over the threshold of a score: they keep every score, so that they are exact.

use super::{Metric, foreign, no_rows, quotient};
use crate::{Error, Result, Tensor};

/// Scores and whether each is of the positive class.
#[derive(Clone, Debug, Default)]
struct Scores(Vec<(f64, bool)>);

impl Scores {
    fn update(&mut self, op: &'static str, scores: &Tensor, target: &Tensor) -> Result<()> {
        if scores.numel() != target.numel() || scores.dims().first() != target.dims().first() {
            return Err(Error::shape(op, &[scores.shape(), target.shape()], "a score and a target for each row: [N] or [N, 1], and [N]"));
        }
        let (scores, targets) = (scores.to_vec::<f64>()?, target.to_vec::<f64>()?);
        if let Some(row) = scores.iter().position(|s| s.is_nan()) {
            return Err(Error::argument(op, format!("the score of row {row} is NaN")));
        }
        if let Some(row) = targets.iter().position(|&t| t != 0.0 && t != 1.0) {
            return Err(Error::argument(op, format!("the target of row {row} is {}: it must be 0 or 1", targets[row])));
        }
        self.0.extend(scores.into_iter().zip(targets.into_iter().map(|t| t == 1.0)));
        Ok(())
    }

    /// Score and target (0 or 1) of each row.
    fn state(&self) -> Vec<f64> {
        self.0.iter().flat_map(|&(score, target)| [score, f64::from(target)]).collect()
    }

    fn set_state(&mut self, op: &'static str, state: &[f64]) -> Result<()> {
        if !state.len().is_multiple_of(2) {
            return Err(foreign(op, state));
        }
        self.0 = state.chunks_exact(2).map(|pair| (pair[0], pair[1] == 1.0)).collect();
        Ok(())
    }

    /// Whether there are positive and negative rows.
    fn has_both(&self) -> bool {
        self.0.iter().any(|row| row.1) && self.0.iter().any(|row| !row.1)
    }

    /// From the largest score down: each different score, and how many positive and negative rows have it or a larger one.
    fn steps(&self) -> Vec<(f64, f64, f64)> {
        let mut sorted = self.0.clone();
        sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut steps: Vec<(f64, f64, f64)> = Vec::new();
        let (mut positive, mut negative) = (0.0, 0.0);
        for (score, is_positive) in sorted {
            *(if is_positive { &mut positive } else { &mut negative }) += 1.0;
            match steps.last_mut() {
                Some(last) if last.0 == score => *last = (score, positive, negative),
                _ => steps.push((score, positive, negative)),
            }
        }
        steps
    }
}

/// The points of a curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// What goes to the right.
    pub x: Vec<f64>,
    /// What goes up.
    pub y: Vec<f64>,
    /// The score from which on a row is taken for positive.
    pub thresholds: Vec<f64>,
}

/// The area under the curve of true over false positives: the probability that a positive row has a larger score than a negative one.
/// Scores are logits or probabilities `[N]`, targets 0 or 1. Of rows of one class alone it is NaN, as scikit-learn's with its warning.
///
/// ```
/// use fornax::metrics::{Metric, RocAuc};
/// use fornax::{Device, Tensor};
/// let mut auc = RocAuc::new();
/// let scores = Tensor::from_vec(vec![0.1f32, 0.4, 0.35, 0.8], 4, Device::cpu())?;
/// auc.update(&scores, &Tensor::from_vec(vec![0i32, 0, 1, 1], 4, Device::cpu())?)?;
/// assert_eq!(auc.compute()?, 0.75);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct RocAuc(Scores);

impl RocAuc {
    /// Of no rows yet.
    pub fn new() -> RocAuc {
        RocAuc::default()
    }

    /// The false positive rate and the true positive rate at each threshold, from an infinite one down, with a point for each score.
    ///
    /// # Errors
    /// Where there is no positive or no negative row.
    ///
    /// ```
    /// use fornax::metrics::{Metric, RocAuc};
    /// use fornax::{Device, Tensor};
    /// let scores = Tensor::from_vec(vec![0.1f32, 0.4, 0.35, 0.8], 4, Device::cpu())?;
    /// let target = Tensor::from_vec(vec![0i32, 0, 1, 1], 4, Device::cpu())?;
    /// let mut auc = RocAuc::new();
    /// auc.update(&scores, &target)?;
    /// assert_eq!(auc.curve()?.y, [0.0, 0.5, 0.5, 1.0, 1.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn curve(&self) -> Result<Curve> {
        let steps = self.0.steps();
        let &(_, positive, negative) = steps.last().ok_or_else(|| no_rows("roc"))?;
        if positive == 0.0 || negative == 0.0 {
            return Err(Error::argument("roc", "all rows are of one class: the curve needs positive and negative ones"));
        }
        let mut curve = Curve { x: vec![0.0], y: vec![0.0], thresholds: vec![f64::INFINITY] };
        for (score, p, n) in steps {
            curve.x.push(n / negative);
            curve.y.push(p / positive);
            curve.thresholds.push(score);
        }
        Ok(curve)
    }
}

impl Metric for RocAuc {
    fn name(&self) -> &'static str {
        "roc_auc"
    }
    fn update(&mut self, prediction: &Tensor, target: &Tensor) -> Result<()> {
        self.0.update("roc", prediction, target)
    }
    fn compute(&self) -> Result<f64> {
        if !self.0.0.is_empty() && !self.0.has_both() {
            return Ok(f64::NAN);
        }
        let curve = self.curve()?;
        let strip = |(x, y): (&[f64], &[f64])| (x[1] - x[0]) * (y[0] + y[1]) / 2.0;
        Ok(curve.x.windows(2).zip(curve.y.windows(2)).map(strip).sum())
    }
    fn reset(&mut self) {
        self.0.0.clear();
    }
    fn state(&self) -> Vec<f64> {
        self.0.state()
    }
    fn set_state(&mut self, state: &[f64]) -> Result<()> {
        self.0.set_state("roc", state)
    }
}

/// The area under the curve of precision over recall, as a sum of steps: Σ (Rᵢ - Rᵢ₋₁) Pᵢ. Scores and targets are those of [`RocAuc`]. Without a
/// positive row it is 0, as scikit-learn's with its warning.
///
/// ```
/// use fornax::metrics::{AveragePrecision, Metric};
/// use fornax::{Device, Tensor};
/// let scores = Tensor::from_vec(vec![0.1f32, 0.4, 0.35, 0.8], 4, Device::cpu())?;
/// let target = Tensor::from_vec(vec![0i32, 0, 1, 1], 4, Device::cpu())?;
/// let mut precision = AveragePrecision::new();
/// precision.update(&scores, &target)?;
/// assert!((precision.compute()? - 5.0 / 6.0).abs() < 1e-12);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct AveragePrecision(Scores);

impl AveragePrecision {
    /// Of no rows yet.
    pub fn new() -> AveragePrecision {
        AveragePrecision::default()
    }

    /// Recall (right) and precision (up) at each threshold, from the smallest score up, and a last point with recall 0 and precision 1 that has no
    /// threshold.
    ///
    /// # Errors
    /// Where there is no positive row.
    ///
    /// ```
    /// use fornax::metrics::{AveragePrecision, Metric};
    /// use fornax::{Device, Tensor};
    /// let scores = Tensor::from_vec(vec![0.1f32, 0.4, 0.35, 0.8], 4, Device::cpu())?;
    /// let target = Tensor::from_vec(vec![0i32, 0, 1, 1], 4, Device::cpu())?;
    /// let mut precision = AveragePrecision::new();
    /// precision.update(&scores, &target)?;
    /// assert_eq!(precision.curve()?.x, [1.0, 1.0, 0.5, 0.5, 0.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn curve(&self) -> Result<Curve> {
        let steps = self.0.steps();
        let positive = steps.last().ok_or_else(|| no_rows("average_precision"))?.1;
        if positive == 0.0 {
            return Err(Error::argument("average_precision", "no row is positive: recall has no meaning"));
        }
        let mut curve = Curve { x: Vec::new(), y: Vec::new(), thresholds: Vec::new() };
        for (score, p, n) in steps.into_iter().rev() {
            curve.x.push(p / positive);
            curve.y.push(quotient(p, p + n));
            curve.thresholds.push(score);
        }
        curve.x.push(0.0);
        curve.y.push(1.0);
        Ok(curve)
    }
}

impl Metric for AveragePrecision {
    fn name(&self) -> &'static str {
        "average_precision"
    }
    fn update(&mut self, prediction: &Tensor, target: &Tensor) -> Result<()> {
        self.0.update("average_precision", prediction, target)
    }
    fn compute(&self) -> Result<f64> {
        if !self.0.0.is_empty() && !self.0.0.iter().any(|row| row.1) {
            return Ok(0.0);
        }
        let curve = self.curve()?;
        Ok(curve.x.windows(2).zip(&curve.y).map(|(r, p)| (r[0] - r[1]) * p).sum())
    }
    fn reset(&mut self) {
        self.0.0.clear();
    }
    fn state(&self) -> Vec<f64> {
        self.0.state()
    }
    fn set_state(&mut self, state: &[f64]) -> Result<()> {
        self.0.set_state("average_precision", state)
    }
}

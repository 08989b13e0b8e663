//! Metrics of predicted probabilities.

use super::{Metric, foreign, no_rows};
use crate::{Error, Result, Tensor};

/// A sum of negative logarithms of the probabilities of what was right.
#[derive(Clone, Debug, Default)]
struct Sum {
    total: f64,
    rows: usize,
}

/// The rows of scores `[.., classes]`, each with its class of `[..]`.
fn rows(op: &'static str, scores: &Tensor, target: &Tensor, each: &mut dyn FnMut(&[f64], i32) -> Result<()>) -> Result<()> {
    let (Some((&classes, leading)), float) = (scores.dims().split_last(), scores.dtype().is_float()) else {
        return Err(Error::shape(op, &[scores.shape(), target.shape()], "scores [.., classes] and targets [..]"));
    };
    if leading != target.dims() || classes == 0 || !float {
        return Err(Error::shape(op, &[scores.shape(), target.shape()], "scores [.., classes] of a float dtype and targets [..]"));
    }
    let (scores, targets) = (scores.to_vec::<f64>()?, target.to_vec::<i32>()?);
    scores.chunks_exact(classes).zip(targets).try_for_each(|(row, t)| each(row, t))
}

fn class(op: &'static str, row: &[f64], target: i32) -> Result<f64> {
    let found = usize::try_from(target).ok().and_then(|t| row.get(t)).copied();
    found.ok_or_else(|| Error::Index { op, message: format!("class {target} is out of range: there are {}", row.len()) })
}

/// The logarithm of the probability that a softmax of the row gives the class.
fn log_softmax(op: &'static str, row: &[f64], target: i32) -> Result<f64> {
    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Ok(class(op, row, target)? - most - row.iter().map(|v| (v - most).exp()).sum::<f64>().ln())
}

/// The mean of -ln p, where p is the probability predicted for the right class.
///
/// ```
/// use fornax::metrics::{LogLoss, Metric};
/// use fornax::{Device, Tensor};
/// let mut loss = LogLoss::from_probabilities();
/// let p = Tensor::from_vec(vec![0.5f32, 0.5, 0.75, 0.25], [2, 2], Device::cpu())?;
/// loss.update(&p, &Tensor::from_vec(vec![0i32, 1], 2, Device::cpu())?)?;
/// assert!((loss.compute()? - 8f64.ln() / 2.0).abs() < 1e-12);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LogLoss {
    sum: Sum,
    logits: bool,
}

impl LogLoss {
    /// Of probabilities `[N, classes]`. They are kept 2.2·10⁻¹⁶ away from 0 and 1, as scikit-learn keeps those of float64.
    pub fn from_probabilities() -> LogLoss {
        LogLoss { sum: Sum::default(), logits: false }
    }

    /// Of logits `[N, classes]`, of which a softmax makes probabilities.
    pub fn from_logits() -> LogLoss {
        LogLoss { sum: Sum::default(), logits: true }
    }
}

impl Metric for LogLoss {
    fn name(&self) -> &'static str {
        "log_loss"
    }

    fn update(&mut self, prediction: &Tensor, target: &Tensor) -> Result<()> {
        let mut sum = self.sum.clone();
        rows("log_loss", prediction, target, &mut |row, t| {
            let log = if self.logits {
                log_softmax("log_loss", row, t)?
            } else {
                let p = class("log_loss", row, t)?;
                if !(0.0..=1.0).contains(&p) {
                    return Err(Error::argument("log_loss", format!("{p} is no probability: give probabilities, or use from_logits")));
                }
                p.clamp(f64::EPSILON, 1.0 - f64::EPSILON).ln()
            };
            sum = Sum { total: sum.total - log, rows: sum.rows + 1 };
            Ok(())
        })?;
        self.sum = sum;
        Ok(())
    }

    fn compute(&self) -> Result<f64> {
        if self.sum.rows == 0 { Err(no_rows("log_loss")) } else { Ok(self.sum.total / self.sum.rows as f64) }
    }

    fn reset(&mut self) {
        self.sum = Sum::default();
    }

    fn state(&self) -> Vec<f64> {
        vec![self.sum.total, self.sum.rows as f64]
    }

    fn set_state(&mut self, state: &[f64]) -> Result<()> {
        let &[total, rows] = state else { return Err(foreign("log_loss", state)) };
        self.sum = Sum { total, rows: rows as usize };
        Ok(())
    }
}

/// The exponential of the mean log loss of tokens: logits `[.., vocabulary]`, targets `[..]`.
///
/// ```
/// use fornax::metrics::{Metric, Perplexity};
/// use fornax::{Device, Tensor};
/// let mut perplexity = Perplexity::new().ignore(-100);
/// let logits = Tensor::zeros([1, 3, 50], Device::cpu());
/// perplexity.update(&logits, &Tensor::from_vec(vec![7i32, 3, -100], [1, 3], Device::cpu())?)?;
/// assert!((perplexity.compute()? - 50.0).abs() < 1e-9);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Perplexity {
    sum: Sum,
    ignored: Option<i32>,
}

impl Perplexity {
    /// Of no tokens yet.
    pub fn new() -> Perplexity {
        Perplexity::default()
    }

    /// Leaves out the places with this target.
    pub fn ignore(mut self, target: i32) -> Perplexity {
        self.ignored = Some(target);
        self
    }
}

impl Metric for Perplexity {
    fn name(&self) -> &'static str {
        "perplexity"
    }

    fn update(&mut self, prediction: &Tensor, target: &Tensor) -> Result<()> {
        let mut sum = self.sum.clone();
        rows("perplexity", prediction, target, &mut |row, t| {
            if Some(t) != self.ignored {
                sum = Sum { total: sum.total - log_softmax("perplexity", row, t)?, rows: sum.rows + 1 };
            }
            Ok(())
        })?;
        self.sum = sum;
        Ok(())
    }

    fn compute(&self) -> Result<f64> {
        if self.sum.rows == 0 { Err(no_rows("perplexity")) } else { Ok((self.sum.total / self.sum.rows as f64).exp()) }
    }

    fn reset(&mut self) {
        self.sum = Sum::default();
    }

    fn state(&self) -> Vec<f64> {
        vec![self.sum.total, self.sum.rows as f64]
    }

    fn set_state(&mut self, state: &[f64]) -> Result<()> {
        let &[total, rows] = state else { return Err(foreign("perplexity", state)) };
        self.sum = Sum { total, rows: rows as usize };
        Ok(())
    }
}

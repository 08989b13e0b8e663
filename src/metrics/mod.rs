//! Metrics: how good predictions are. Names and definitions are scikit-learn's.
//!
//! A metric is updated with one batch after the other and computed at any time; the result is that of all rows at once, computed in f64 on the host. So an
//! update reads its tensors: update when the batch's work is done, or keep predictions and update at the end of the epoch.
//!
//! Where a quotient has nothing below the line (the precision of a class that was never predicted), it is 0, as scikit-learn's `zero_division=0`. A
//! metric of no rows is an error.
//!
//! ```
//! use fornax::metrics::{Accuracy, Metric};
//! use fornax::{Device, Tensor};
//! let cpu = Device::cpu();
//! let mut accuracy = Accuracy::new();
//! let logits = Tensor::from_vec(vec![0.1f32, 0.9, 2.0, -1.0], [2, 2], cpu)?;
//! accuracy.update(&logits, &Tensor::from_vec(vec![1i32, 1], 2, cpu)?)?;
//! assert_eq!(accuracy.compute()?, 0.5);
//! # Ok::<(), fornax::Error>(())
//! ```

mod classification;
mod curves;
mod likelihood;
mod regression;

pub use classification::{Accuracy, Average, ConfusionMatrix, F1, Precision, Recall, TopK};
pub use curves::{AveragePrecision, Curve, RocAuc};
pub use likelihood::{LogLoss, Perplexity};
pub use regression::{MeanAbsoluteError, MeanSquaredError, R2, RootMeanSquaredError};

use crate::{Error, Result, Tensor};

/// A number that grows with batches.
pub trait Metric {
    /// What it is called in logs.
    fn name(&self) -> &'static str;

    /// Takes in a batch of predictions and what would have been right.
    ///
    /// # Errors
    /// Shapes that do not fit, a class out of range, or what reading the tensors can give. The metric is as before then.
    fn update(&mut self, prediction: &Tensor, target: &Tensor) -> Result<()>;

    /// The metric of all rows since the start, or since the last [`reset`](Metric::reset).
    ///
    /// # Errors
    /// Where there are no rows, or not those that the metric needs.
    fn compute(&self) -> Result<f64>;

    /// Forgets all rows.
    fn reset(&mut self);

    /// What it knows of the rows so far, as numbers: a checkpoint in the middle of an epoch keeps them.
    ///
    /// ```
    /// use fornax::metrics::{Accuracy, Metric};
    /// use fornax::{Device, Tensor};
    /// let classes = |c: &[i32]| Tensor::from_slice(c, c.len(), Device::cpu());
    /// let (mut first, mut second) = (Accuracy::new(), Accuracy::new());
    /// first.update(&classes(&[1, 2, 3])?, &classes(&[1, 0, 0])?)?;
    /// second.set_state(&first.state())?;
    /// assert_eq!(second.compute()?, first.compute()?);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    fn state(&self) -> Vec<f64>;

    /// Goes on from what [`state`](Metric::state) gave.
    ///
    /// # Errors
    /// `Error::Argument` where the numbers are not those of such a metric. It is as before then.
    fn set_state(&mut self, state: &[f64]) -> Result<()>;
}

/// The error of a state that is of another metric.
fn foreign(op: &'static str, state: &[f64]) -> Error {
    Error::argument(op, format!("a state of {} numbers is of another metric, or of one with other options", state.len()))
}

/// The error of a metric without rows.
fn no_rows(op: &'static str) -> Error {
    Error::argument(op, "no rows yet: update it first")
}

/// A quotient, 0 where it is none.
fn quotient(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}

//! Metrics: how good predictions are. Names and definitions are scikit-learn's.
//!
//! A metric is updated with one batch after the other and computed at any time; the result is that of all rows at once, computed in f64 on the host. So an
//! update reads its tensors: update when the batch's work is done, or keep predictions and update at the end of the epoch.
//!
//! Where a quotient has nothing below the line (the precision of a class that was never predicted), it is 0, as scikit-learn's `zero_division=0`;
//! [`RocAuc`] of rows of one class is NaN. A metric of no rows is an error.
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

    /// This metric under another name, so that several of a kind can stand side by side.
    ///
    /// ```
    /// use fornax::metrics::{Metric, TopK};
    /// let metrics: Vec<Box<dyn Metric>> = vec![Box::new(TopK::new(1).named("top_1")), Box::new(TopK::new(5).named("top_5"))];
    /// assert_eq!(metrics[1].name(), "top_5");
    /// ```
    fn named(self, name: &'static str) -> Named<Self>
    where
        Self: Sized,
    {
        Named { name, metric: self }
    }

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

/// A metric under a name of its own: what [`Metric::named`] gives.
///
/// ```
/// use fornax::metrics::{Metric, MeanSquaredError};
/// use fornax::{Device, Tensor};
/// let mut error = MeanSquaredError::new().named("squared_error");
/// error.update(&Tensor::ones(2, Device::cpu()), &Tensor::zeros(2, Device::cpu()))?;
/// assert_eq!((error.name(), error.compute()?), ("squared_error", 1.0));
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Named<M> {
    name: &'static str,
    /// The metric itself.
    pub metric: M,
}

impl<M: Metric> Metric for Named<M> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn update(&mut self, prediction: &Tensor, target: &Tensor) -> Result<()> {
        self.metric.update(prediction, target)
    }
    fn compute(&self) -> Result<f64> {
        self.metric.compute()
    }
    fn reset(&mut self) {
        self.metric.reset()
    }
    fn state(&self) -> Vec<f64> {
        self.metric.state()
    }
    fn set_state(&mut self, state: &[f64]) -> Result<()> {
        self.metric.set_state(state)
    }
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

//! Metrics of numbers. Predictions and targets are `[N]`, or `[N, columns]`, whose columns are measured each for itself and averaged.

use super::{Metric, foreign, no_rows};
use crate::{Error, Result, Tensor};

/// What is kept of a column.
#[derive(Clone, Copy, Debug, Default)]
struct Column {
    rows: f64,
    squares: f64,
    absolutes: f64,
    /// The targets' mean, and the sum of their squared distances from it (Welford 1962).
    mean: f64,
    spread: f64,
}

fn update(op: &'static str, columns: &mut Vec<Column>, prediction: &Tensor, target: &Tensor) -> Result<()> {
    let width = match target.dims() {
        [_] => 1,
        &[_, width] => width,
        _ => 0,
    };
    if prediction.dims() != target.dims() || width == 0 || !(columns.is_empty() || columns.len() == width) {
        let expected = "both [N], or both [N, columns], with as many columns as before";
        return Err(Error::shape(op, &[prediction.shape(), target.shape()], expected));
    }
    let (prediction, target) = (prediction.to_vec::<f64>()?, target.to_vec::<f64>()?);
    columns.resize(width, Column::default());
    for (i, (p, t)) in prediction.iter().zip(&target).enumerate() {
        let c = &mut columns[i % width];
        c.rows += 1.0;
        c.squares += (p - t).powi(2);
        c.absolutes += (p - t).abs();
        let before = t - c.mean;
        c.mean += before / c.rows;
        c.spread += before * (t - c.mean);
    }
    Ok(())
}

/// The mean over the columns of what `of` makes of each.
fn average(op: &'static str, columns: &[Column], of: fn(&Column) -> f64) -> Result<f64> {
    if columns.iter().all(|c| c.rows == 0.0) {
        return Err(no_rows(op));
    }
    Ok(columns.iter().map(of).sum::<f64>() / columns.len() as f64)
}

macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident $text:literal $of:expr;)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, Default)]
        pub struct $name {
            columns: Vec<Column>,
        }

        impl $name {
            /// Of no rows yet.
            pub fn new() -> $name {
                $name::default()
            }
        }

        impl Metric for $name {
            fn name(&self) -> &'static str {
                $text
            }
            fn update(&mut self, prediction: &Tensor, target: &Tensor) -> Result<()> {
                update($text, &mut self.columns, prediction, target)
            }
            fn compute(&self) -> Result<f64> {
                average($text, &self.columns, $of)
            }
            fn reset(&mut self) {
                self.columns.clear();
            }
            fn state(&self) -> Vec<f64> {
                self.columns.iter().flat_map(|c| [c.rows, c.squares, c.absolutes, c.mean, c.spread]).collect()
            }
            fn set_state(&mut self, state: &[f64]) -> Result<()> {
                let column = |c: &[f64]| Column { rows: c[0], squares: c[1], absolutes: c[2], mean: c[3], spread: c[4] };
                if !state.len().is_multiple_of(5) {
                    return Err(foreign($text, state));
                }
                self.columns = state.chunks_exact(5).map(column).collect();
                Ok(())
            }
        }
    )* };
}
metrics! {
    /// The mean of the squared errors.
    ///
    /// ```
    /// use fornax::metrics::{MeanSquaredError, Metric};
    /// use fornax::{Device, Tensor};
    /// let mut error = MeanSquaredError::new();
    /// error.update(&Tensor::zeros(2, Device::cpu()), &Tensor::from_vec(vec![1.0f32, 3.0], 2, Device::cpu())?)?;
    /// assert_eq!(error.compute()?, 5.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    MeanSquaredError "mse" |c| c.squares / c.rows;
    /// The root of the mean of the squared errors.
    ///
    /// ```
    /// use fornax::metrics::{Metric, RootMeanSquaredError};
    /// use fornax::{Device, Tensor};
    /// let mut metric = RootMeanSquaredError::new();
    /// metric.update(&Tensor::zeros(2, Device::cpu()), &Tensor::from_vec(vec![3.0f32, 4.0], 2, Device::cpu())?)?;
    /// assert_eq!(metric.compute()?, 12.5f64.sqrt());
    /// # Ok::<(), fornax::Error>(())
    /// ```
    RootMeanSquaredError "rmse" |c| (c.squares / c.rows).sqrt();
    /// The mean of the errors without their signs.
    ///
    /// ```
    /// use fornax::metrics::{Metric, MeanAbsoluteError};
    /// use fornax::{Device, Tensor};
    /// let mut metric = MeanAbsoluteError::new();
    /// metric.update(&Tensor::zeros(2, Device::cpu()), &Tensor::from_vec(vec![3.0f32, 4.0], 2, Device::cpu())?)?;
    /// assert_eq!(metric.compute()?, 3.5);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    MeanAbsoluteError "mae" |c| c.absolutes / c.rows;
    /// The coefficient of determination: 1 - Σ(t - p)² / Σ(t - mean t)². Where all targets are equal, it is 1 for exact predictions and 0 for others;
    /// of a single row it is NaN.
    ///
    /// ```
    /// use fornax::metrics::{Metric, R2};
    /// use fornax::{Device, Tensor};
    /// let mut metric = R2::new();
    /// metric.update(&Tensor::zeros(2, Device::cpu()), &Tensor::from_vec(vec![3.0f32, 4.0], 2, Device::cpu())?)?;
    /// assert_eq!(metric.compute()?, -49.0); // far worse than the mean
    /// # Ok::<(), fornax::Error>(())
    /// ```
    R2 "r2" |c| match (c.squares, c.spread) {
        _ if c.rows < 2.0 => f64::NAN,
        (0.0, 0.0) => 1.0,
        (_, 0.0) => 0.0,
        (squares, spread) => 1.0 - squares / spread,
    };
}

//! Data: data sets, the loader that cuts them into batches, and readers.
//!
//! ```
//! use fornax::data::{DataLoader, TensorDataset};
//! use fornax::{Device, Tensor};
//! let x = Tensor::arange(0, 10, 1, Device::cpu()).reshape([5, 2]);
//! let y = Tensor::from_slice(&[0i32, 1, 0, 1, 0], 5, Device::cpu())?;
//! let loader = DataLoader::new(TensorDataset::new([x, y])?, 2).shuffle(42);
//! for batch in loader.epoch(0) {
//!     let [x, y] = batch?;
//!     assert_eq!(x.dims()[0], y.dims()[0]);
//! }
//! assert_eq!(loader.len(), 3);
//! # Ok::<(), fornax::Error>(())
//! ```

mod csv;
mod digits;
mod loader;

pub use csv::Table;
pub use digits::{Digits, digits};
pub use loader::{Batches, DataLoader};

use crate::{Error, Result, Tensor};

/// Rows that can be taken in any order, several at a time.
///
/// ```
/// use fornax::data::{DataLoader, Dataset};
/// use fornax::{Device, Result, Tensor};
///
/// /// The squares, made when they are asked for.
/// struct Squares;
///
/// impl Dataset for Squares {
///     type Batch = Tensor;
///     fn len(&self) -> usize {
///         5
///     }
///     fn batch(&self, rows: &[usize]) -> Result<Tensor> {
///         let squares: Vec<f32> = rows.iter().map(|&r| (r * r) as f32).collect();
///         Tensor::from_slice(&squares, rows.len(), Device::cpu())
///     }
/// }
///
/// let last = DataLoader::new(Squares, 3).iter().last().unwrap()?;
/// assert_eq!(last.to_vec::<f32>()?, [9.0, 16.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
pub trait Dataset {
    /// What a batch of rows is.
    type Batch;

    /// The number of rows.
    fn len(&self) -> usize;

    /// Whether there are no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// These rows, in this order.
    ///
    /// # Errors
    /// An index out of range, or whatever reading the data can give.
    fn batch(&self, rows: &[usize]) -> Result<Self::Batch>;
}

impl<D: Dataset + ?Sized> Dataset for &D {
    type Batch = D::Batch;
    fn len(&self) -> usize {
        (**self).len()
    }
    fn batch(&self, rows: &[usize]) -> Result<D::Batch> {
        (**self).batch(rows)
    }
}

/// Tensors whose first axis counts the rows: inputs and targets, say. They stay on their device; a batch is picked there.
///
/// ```
/// use fornax::data::{Dataset, TensorDataset};
/// use fornax::{Device, Tensor};
/// let set = TensorDataset::new([Tensor::from_slice(&[10.0f32, 20.0, 30.0], 3, Device::cpu())?])?;
/// let [x] = set.batch(&[2, 0])?;
/// assert_eq!(x.to_vec::<f32>()?, [30.0, 10.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone)]
pub struct TensorDataset<const N: usize> {
    tensors: [Tensor; N],
    rows: usize,
}

impl<const N: usize> TensorDataset<N> {
    /// A data set of these tensors.
    ///
    /// # Errors
    /// Where one of them has no axis, or their first axes differ.
    pub fn new(tensors: [Tensor; N]) -> Result<TensorDataset<N>> {
        let rows = tensors.first().and_then(|t| t.dims().first().copied()).unwrap_or(0);
        if tensors.iter().any(|t| t.dims().first() != Some(&rows)) {
            let shapes: Vec<_> = tensors.iter().map(|t| t.shape().clone()).collect();
            return Err(Error::shape("TensorDataset", &shapes, "all must have the same number of rows, their first axis"));
        }
        Ok(TensorDataset { tensors, rows })
    }

    /// The tensors.
    ///
    /// ```
    /// use fornax::data::TensorDataset;
    /// use fornax::{Device, Tensor};
    /// let set = TensorDataset::new([Tensor::ones([5, 2], Device::cpu())])?;
    /// assert_eq!(set.tensors()[0].dims(), [5, 2]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn tensors(&self) -> &[Tensor; N] {
        &self.tensors
    }
}

impl<const N: usize> Dataset for TensorDataset<N> {
    type Batch = [Tensor; N];

    fn len(&self) -> usize {
        self.rows
    }

    fn batch(&self, rows: &[usize]) -> Result<[Tensor; N]> {
        if let Some(&row) = rows.iter().find(|&&r| r >= self.rows) {
            let message = format!("row {row} is out of range: there are {}", self.rows);
            return Err(Error::Index { op: "TensorDataset", message });
        }
        let rows: Vec<i32> = rows.iter().map(|&r| r as i32).collect();
        let mut out = Vec::with_capacity(N);
        let mut last: Option<Tensor> = None;
        for t in &self.tensors {
            let index = match last.take().filter(|i| i.device() == t.device()) {
                Some(index) => index,
                None => Tensor::from_slice(&rows, rows.len(), t.device())?,
            };
            out.push(t.try_index_select(0, &index)?);
            last = Some(index);
        }
        <[Tensor; N]>::try_from(out).map_err(|_| Error::argument("TensorDataset", "wrong number of tensors"))
    }
}

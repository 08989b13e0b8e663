//! The loader: batches of a data set, in order or in a seeded random order.

use super::Dataset;
use crate::Result;

/// Cuts a data set into batches. The order of an epoch is a function of the seed and the epoch's number alone.
///
/// ```
/// use fornax::data::{DataLoader, TensorDataset};
/// use fornax::{Device, Tensor};
/// let set = TensorDataset::new([Tensor::arange(0, 5, 1, Device::cpu())])?;
/// let sizes: Vec<usize> = DataLoader::new(&set, 2).epoch(0).map(|b| b.unwrap()[0].numel()).collect();
/// assert_eq!(sizes, [2, 2, 1]);
/// assert_eq!(DataLoader::new(&set, 2).drop_last(true).len(), 2);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct DataLoader<D> {
    dataset: D,
    batch_size: usize,
    seed: Option<u64>,
    drop_last: bool,
}

impl<D: Dataset> DataLoader<D> {
    /// Batches of `batch_size` rows (at least one), in the order of the data set.
    ///
    /// ```
    /// use fornax::data::{DataLoader, TensorDataset};
    /// use fornax::{Device, Tensor};
    /// let set = TensorDataset::new([Tensor::arange(0, 5, 1, Device::cpu())])?;
    /// let loader = DataLoader::new(set, 2);
    /// assert_eq!(loader.len(), 3);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn new(dataset: D, batch_size: usize) -> DataLoader<D> {
        DataLoader { dataset, batch_size: batch_size.max(1), seed: None, drop_last: false }
    }

    /// Takes the rows of each epoch in another random order, given by the seed.
    ///
    /// ```
    /// use fornax::data::{DataLoader, TensorDataset};
    /// use fornax::{Device, Tensor};
    /// let set = TensorDataset::new([Tensor::arange(0, 5, 1, Device::cpu())])?;
    /// let loader = DataLoader::new(set, 5).shuffle(42);
    /// let order = |epoch| loader.epoch(epoch).next().unwrap().unwrap()[0].to_vec::<f32>();
    /// assert_eq!(order(0)?, order(0)?);
    /// assert_ne!((order(0)?, order(1)?), (order(1)?, order(2)?));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn shuffle(mut self, seed: u64) -> DataLoader<D> {
        self.seed = Some(seed);
        self
    }

    /// Whether a last batch that is smaller than the others is left out (it is not).
    ///
    /// ```
    /// use fornax::data::{DataLoader, TensorDataset};
    /// use fornax::{Device, Tensor};
    /// let set = TensorDataset::new([Tensor::arange(0, 5, 1, Device::cpu())])?;
    /// assert_eq!(DataLoader::new(set, 2).drop_last(true).len(), 2);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn drop_last(mut self, drop_last: bool) -> DataLoader<D> {
        self.drop_last = drop_last;
        self
    }

    /// The number of batches in an epoch.
    ///
    /// ```
    /// use fornax::data::{DataLoader, TensorDataset};
    /// use fornax::{Device, Tensor};
    /// let set = TensorDataset::new([Tensor::arange(0, 5, 1, Device::cpu())])?;
    /// assert_eq!(DataLoader::new(set, 4).len(), 2);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        if self.drop_last { self.dataset.len() / self.batch_size } else { self.dataset.len().div_ceil(self.batch_size) }
    }

    /// Whether there is no batch.
    ///
    /// ```
    /// use fornax::data::{DataLoader, TensorDataset};
    /// use fornax::{Device, Tensor};
    /// let set = TensorDataset::new([Tensor::arange(0, 5, 1, Device::cpu())])?;
    /// assert!(!DataLoader::new(set, 4).is_empty());
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The data set.
    ///
    /// ```
    /// use fornax::data::Dataset;
    /// use fornax::data::{DataLoader, TensorDataset};
    /// use fornax::{Device, Tensor};
    /// let set = TensorDataset::new([Tensor::arange(0, 5, 1, Device::cpu())])?;
    /// assert_eq!(DataLoader::new(set, 4).dataset().len(), 5);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn dataset(&self) -> &D {
        &self.dataset
    }

    /// The batches of an epoch.
    ///
    /// ```
    /// use fornax::data::{DataLoader, TensorDataset};
    /// use fornax::{Device, Tensor};
    /// let set = TensorDataset::new([Tensor::arange(0, 5, 1, Device::cpu())])?;
    /// let loader = DataLoader::new(set, 2).shuffle(1);
    /// for epoch in 0..3 {
    ///     for batch in loader.epoch(epoch) {
    ///         let [x] = batch?;
    ///         assert!(x.numel() <= 2);
    ///     }
    /// }
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn epoch(&self, epoch: u64) -> Batches<'_, D> {
        let rows = match self.seed {
            Some(seed) => permutation(self.dataset.len(), seed, epoch),
            None => (0..self.dataset.len()).collect(),
        };
        Batches { loader: self, rows, next: 0 }
    }

    /// The batches in the order of the data set, or of epoch 0 with a shuffled loader.
    ///
    /// ```
    /// use fornax::data::{DataLoader, TensorDataset};
    /// use fornax::{Device, Tensor};
    /// let set = TensorDataset::new([Tensor::arange(0, 5, 1, Device::cpu())])?;
    /// let sums: Vec<f32> = DataLoader::new(set, 2).iter().map(|b| b?[0].sum(()).item()).collect::<fornax::Result<_>>()?;
    /// assert_eq!(sums, [1.0, 5.0, 4.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn iter(&self) -> Batches<'_, D> {
        self.epoch(0)
    }
}

impl<'a, D: Dataset> IntoIterator for &'a DataLoader<D> {
    type Item = Result<D::Batch>;
    type IntoIter = Batches<'a, D>;
    fn into_iter(self) -> Batches<'a, D> {
        self.iter()
    }
}

/// The batches of an epoch.
///
/// ```
/// use fornax::data::{DataLoader, TensorDataset};
/// use fornax::{Device, Tensor};
/// let set = TensorDataset::new([Tensor::arange(0, 5, 1, Device::cpu())])?;
/// let loader = DataLoader::new(set, 2);
/// let mut batches = loader.epoch(0);
/// assert_eq!(batches.len(), 3);
/// assert_eq!(batches.next().unwrap()?[0].to_vec::<f32>()?, [0.0, 1.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct Batches<'a, D> {
    loader: &'a DataLoader<D>,
    rows: Vec<usize>,
    next: usize,
}

impl<D: Dataset> Iterator for Batches<'_, D> {
    type Item = Result<D::Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.loader.len() {
            return None;
        }
        let start = self.next * self.loader.batch_size;
        let end = (start + self.loader.batch_size).min(self.rows.len());
        self.next += 1;
        Some(self.loader.dataset.batch(&self.rows[start..end]))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let n = self.loader.len() - self.next.min(self.loader.len());
        (n, Some(n))
    }
}

impl<D: Dataset> ExactSizeIterator for Batches<'_, D> {}

/// A permutation that is a function of its arguments: row `i` is sorted by a random key drawn at the counter (i, epoch).
pub(crate) fn permutation(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut keyed: Vec<(u64, usize)> = (0..n).map(|i| (key(i as u64, epoch, seed), i)).collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, i)| i).collect()
}

/// 64 random bits: Philox at counter (index, epoch) under the seed.
fn key(index: u64, epoch: u64, seed: u64) -> u64 {
    let counter = [index as u32, (index >> 32) as u32, epoch as u32, (epoch >> 32) as u32];
    let words = crate::rng::philox([seed as u32, (seed >> 32) as u32], counter);
    u64::from(words[0]) | u64::from(words[1]) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epochs_order_is_a_permutation_keyed_by_seed_and_epoch() {
        let p = permutation(1000, 7, 3);
        let mut sorted = p.clone();
        sorted.sort();
        assert!(sorted.into_iter().eq(0..1000));
        assert_eq!(p, permutation(1000, 7, 3));
        assert_ne!(p, permutation(1000, 7, 4));
        assert_ne!(p, permutation(1000, 8, 3));
        assert!(permutation(0, 1, 1).is_empty());
    }

    #[test]
    fn philox_matches_the_published_vector() {
        // The paper's known answer for a counter and a key of all ones: 408f276d 41c83b0e a20bc7c6 6d5451fd.
        assert_eq!(key(u64::MAX, u64::MAX, u64::MAX), 0x41c8_3b0e_408f_276d);
    }
}

//! What a training loop wants of a loader, whichever it is.

use super::stream::StreamBatches;
use super::{Batches, DataLoader, Dataset, LoaderState, StreamLoader};
use crate::Result;

/// A loader of batches, epoch by epoch: [`DataLoader`], [`StreamLoader`], or one of your own.
///
/// ```
/// use fornax::data::{DataLoader, Loader, Rows};
/// let loader = DataLoader::new(Rows::new((0..10).collect::<Vec<i32>>()), 4).shuffle(1);
/// let mut epoch = loader.start(0, None)?;
/// epoch.next().unwrap()?;
/// let rest = loader.start(0, Some(&epoch.state()))?.count();
/// assert_eq!((loader.batches(), rest), (Some(3), 2));
/// # Ok::<(), fornax::Error>(())
/// ```
pub trait Loader {
    /// What it gives.
    type Batch;

    /// The batches of an epoch, all of them or those that follow a place.
    ///
    /// # Errors
    /// Where the data cannot be opened, or the place is one of other data.
    fn start<'l>(&'l self, epoch: u64, from: Option<&LoaderState>) -> Result<Box<dyn EpochBatches<Self::Batch> + 'l>>;

    /// How many batches an epoch has, where that is known.
    fn batches(&self) -> Option<usize>;
}

/// The batches of an epoch, with a place to go on from.
pub trait EpochBatches<B>: Iterator<Item = Result<B>> {
    /// The place after the batches that were taken.
    fn state(&self) -> LoaderState;

    /// How many rows the last batch had, where that is known: what a trainer weighs it by.
    fn rows(&self) -> Option<usize> {
        None
    }
}

impl<D: Dataset, B> EpochBatches<B> for Batches<'_, D, B> {
    fn state(&self) -> LoaderState {
        Batches::state(self)
    }

    fn rows(&self) -> Option<usize> {
        let LoaderState { rows, batch_size, batch, .. } = Batches::state(self);
        Some(rows.saturating_sub(batch.checked_sub(1)? * batch_size).min(batch_size))
    }
}

impl<B> EpochBatches<B> for StreamBatches<B> {
    fn state(&self) -> LoaderState {
        StreamBatches::state(self)
    }

    fn rows(&self) -> Option<usize> {
        StreamBatches::rows(self)
    }
}

impl<D: Dataset, B> Loader for DataLoader<D, B> {
    type Batch = B;

    fn start<'l>(&'l self, epoch: u64, from: Option<&LoaderState>) -> Result<Box<dyn EpochBatches<B> + 'l>> {
        Ok(Box::new(match from {
            Some(state) => self.resume(state)?,
            None => self.epoch(epoch),
        }))
    }

    fn batches(&self) -> Option<usize> {
        Some(self.len())
    }
}

impl<T: Send + 'static, B: Send + 'static> Loader for StreamLoader<T, B> {
    type Batch = B;

    fn start<'l>(&'l self, epoch: u64, from: Option<&LoaderState>) -> Result<Box<dyn EpochBatches<B> + 'l>> {
        Ok(Box::new(match from {
            Some(state) => self.resume(state)?,
            None => self.epoch(epoch)?,
        }))
    }

    fn batches(&self) -> Option<usize> {
        None
    }
}

impl<L: Loader + ?Sized> Loader for &L {
    type Batch = L::Batch;

    fn start<'l>(&'l self, epoch: u64, from: Option<&LoaderState>) -> Result<Box<dyn EpochBatches<L::Batch> + 'l>> {
        (**self).start(epoch, from)
    }

    fn batches(&self) -> Option<usize> {
        (**self).batches()
    }
}

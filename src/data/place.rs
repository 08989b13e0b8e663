//! A place in a loader's batches, and what it must know of the loader.

use crate::{Error, Result};

/// How a loader takes the rows of an epoch, as far as a saved place tells.
///
/// ```
/// use fornax::data::{DataLoader, LoaderOrder, Rows};
/// let loader = DataLoader::new(Rows::new(vec![1, 2, 3]), 2).shuffle(1);
/// assert_eq!(loader.epoch(0).state().order, Some(LoaderOrder::Shuffled));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoaderOrder {
    /// One after the other.
    Sequential,
    /// In a random order ([`DataLoader::shuffle`](super::DataLoader::shuffle)).
    Shuffled,
    /// Drawn by weights ([`DataLoader::weighted`](super::DataLoader::weighted)).
    Weighted,
}

impl LoaderOrder {
    /// Its name in a checkpoint.
    pub(crate) fn name(self) -> &'static str {
        match self {
            LoaderOrder::Sequential => "sequential",
            LoaderOrder::Shuffled => "shuffled",
            LoaderOrder::Weighted => "weighted",
        }
    }

    /// The order of this name.
    pub(crate) fn of_name(name: &str) -> Option<LoaderOrder> {
        [LoaderOrder::Sequential, LoaderOrder::Shuffled, LoaderOrder::Weighted].into_iter().find(|o| o.name() == name)
    }
}

/// A place in a loader's batches, to be saved and resumed from: the batches that follow it are those that would have followed.
///
/// ```
/// use fornax::data::{DataLoader, Rows};
/// let loader = DataLoader::new(Rows::new((0..10).collect::<Vec<i32>>()), 3).shuffle(1);
/// let mut epoch = loader.epoch(4);
/// epoch.next();
/// let state = epoch.state();
/// assert_eq!((state.epoch, state.batch), (4, 1));
/// let rest: Vec<Vec<i32>> = epoch.map(|b| b?.to_vec()).collect::<fornax::Result<_>>()?;
/// let resumed: Vec<Vec<i32>> = loader.resume(&state)?.map(|b| b?.to_vec()).collect::<fornax::Result<_>>()?;
/// assert_eq!(rest, resumed);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderState {
    /// The epoch.
    pub epoch: u64,
    /// How many of its batches were taken.
    pub batch: usize,
    /// The rows of an epoch, by which another data set is found out; 0 for a stream, which does not know them.
    pub rows: usize,
    /// The size of a batch.
    pub batch_size: usize,
    /// The loader's seed.
    pub seed: u64,
    /// The order of the rows; `None` where the state does not tell: one of a stream, or of a checkpoint that is older than this field.
    pub order: Option<LoaderOrder>,
    /// Whether a smaller last batch is left out; `None` as for the order.
    pub drop_last: Option<bool>,
}

impl LoaderState {
    /// Whether a loader with the state `own` can go on from here.
    pub(super) fn check(&self, own: &LoaderState) -> Result<()> {
        // What a state does not tell is taken to be the same.
        fn same<T: PartialEq>(old: Option<T>, own: Option<T>) -> bool {
            old.is_none() || own.is_none() || old == own
        }
        let sizes = |s: &LoaderState| (s.rows, s.batch_size, s.seed);
        if sizes(self) == sizes(own) && same(self.order, own.order) && same(self.drop_last, own.drop_last) {
            return Ok(());
        }
        let of = |s: &LoaderState| {
            let order = s.order.map_or(String::new(), |o| format!(" {}", o.name()));
            let last = if s.drop_last == Some(true) { ", the last left out where it is smaller," } else { "" };
            format!("{}{order} rows in batches of {}{last} with seed {}", s.rows, s.batch_size, s.seed)
        };
        let message = format!("the state is of a loader of {}, this one has {}: use the same data and options", of(self), of(own));
        Err(Error::argument("resume", message))
    }
}

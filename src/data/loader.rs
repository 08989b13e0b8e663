//! The loader: batches of a data set, in order or in a seeded random order, made by worker threads if asked for.

use super::place::{LoaderOrder, LoaderState};
use super::prefetch::Prefetch;
use super::{Collate, Dataset, Request};
use crate::{Device, Error, Result};
use std::sync::Arc;

/// Cuts a data set into batches. The order of an epoch, and the random numbers of each item, are functions of the seed, the epoch's number
/// and the place in it alone: any number of workers gives the same batches in the same order.
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
pub struct DataLoader<D: Dataset, B> {
    dataset: Arc<D>,
    make: Make<D, B>,
    batch_size: usize,
    order: Order,
    seed: u64,
    drop_last: bool,
    device: Option<Device>,
    workers: usize,
    ahead: usize,
    launch: Option<Launch<D, B>>,
}

/// How rows become a batch.
enum Make<D: Dataset, B> {
    Collate(fn(&D, &[usize], &Request) -> Result<B>),
    Custom(Arc<dyn Fn(Vec<D::Item>, &Request) -> Result<B> + Send + Sync>),
}

impl<D: Dataset, B> Clone for Make<D, B> {
    fn clone(&self) -> Make<D, B> {
        match self {
            Make::Collate(f) => Make::Collate(*f),
            Make::Custom(f) => Make::Custom(f.clone()),
        }
    }
}

impl<D: Dataset, B> Make<D, B> {
    fn batch(&self, dataset: &D, rows: &[usize], request: &Request) -> Result<B> {
        match self {
            Make::Collate(f) => f(dataset, rows, request),
            Make::Custom(f) => f(request.items(dataset, rows)?, request),
        }
    }
}

/// Starts the workers: a function pointer, so that only [`DataLoader::workers`] asks for what threads need.
type Launch<D, B> = fn(&DataLoader<D, B>, Plan) -> Prefetch<B>;

/// The order of an epoch.
enum Order {
    Sequential,
    Shuffled,
    Weighted { weights: Vec<f64>, draws: usize, replacement: bool },
}

/// The batches of an epoch that are left.
struct Plan {
    rows: Vec<usize>,
    next: usize,
    end: usize,
    batch_size: usize,
    request: Request,
}

impl Iterator for Plan {
    type Item = (Vec<usize>, Request);
    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let first = self.next * self.batch_size;
        self.next += 1;
        let rows = self.rows[first..(first + self.batch_size).min(self.rows.len())].to_vec();
        Some((rows, Request { first, ..self.request }))
    }
}

impl<D: Dataset> DataLoader<D, <D::Item as Collate>::Batch>
where
    D::Item: Collate,
{
    /// Batches of `batch_size` rows (0 is an error of the first batch), in the order of the data set, put together as [`Collate`] says.
    ///
    /// ```
    /// use fornax::data::{DataLoader, TensorDataset};
    /// use fornax::{Device, Tensor};
    /// let set = TensorDataset::new([Tensor::arange(0, 5, 1, Device::cpu())])?;
    /// let loader = DataLoader::new(set, 2);
    /// assert_eq!(loader.len(), 3);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn new(dataset: D, batch_size: usize) -> Self {
        DataLoader::build(dataset, batch_size, Make::Collate(|d, rows, request| d.batch(rows, request)))
    }
}

impl<D: Dataset, B> DataLoader<D, B> {
    fn build(dataset: D, batch_size: usize, make: Make<D, B>) -> Self {
        DataLoader {
            dataset: Arc::new(dataset),
            make,
            batch_size,
            order: Order::Sequential,
            seed: 0,
            drop_last: false,
            device: None,
            workers: 0,
            ahead: 0,
            launch: None,
        }
    }

    /// The same with a function of your own that puts the items of a batch together; it gets the items in order.
    ///
    /// ```
    /// use fornax::data::{DataLoader, Rows};
    /// let words = Rows::new(vec!["a", "bcd", "ef"]);
    /// let loader = DataLoader::with_collate(words, 2, |items, _| Ok(items.join(" ")));
    /// assert_eq!(loader.epoch(0).collect::<fornax::Result<Vec<_>>>()?, ["a bcd", "ef"]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn with_collate(
        dataset: D,
        batch_size: usize,
        collate: impl Fn(Vec<D::Item>, &Request) -> Result<B> + Send + Sync + 'static,
    ) -> Self {
        DataLoader::build(dataset, batch_size, Make::Custom(Arc::new(collate)))
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
    pub fn shuffle(mut self, seed: u64) -> Self {
        (self.order, self.seed) = (Order::Shuffled, seed);
        self
    }

    /// Draws the rows of an epoch with probabilities in proportion to `weights`, one for each row: `draws` of them, each row any number of
    /// times (`replacement`) or at most once.
    ///
    /// # Errors
    /// `Error::Argument` where there is another number of weights than rows, one is negative or not finite, all are zero, or there are
    /// fewer rows of positive weight than draws without replacement.
    ///
    /// ```
    /// use fornax::data::{DataLoader, Rows};
    /// let loader = DataLoader::new(Rows::new(vec![0, 1, 2]), 100).weighted(vec![1.0, 0.0, 3.0], 100, true, 7)?;
    /// let batch: fornax::Tensor = loader.epoch(0).next().unwrap()?;
    /// let drawn = batch.to_vec::<i32>()?;
    /// assert!(drawn.iter().all(|&i| i != 1) && drawn.iter().filter(|&&i| i == 2).count() > 50);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn weighted(mut self, weights: Vec<f64>, draws: usize, replacement: bool, seed: u64) -> Result<Self> {
        let wrong = |message: String| Err(Error::argument("weighted", message));
        if weights.len() != self.dataset.len() {
            return wrong(format!("{} weights for {} rows: each row needs one", weights.len(), self.dataset.len()));
        }
        if let Some((row, w)) = weights.iter().enumerate().find(|(_, w)| !(**w >= 0.0 && w.is_finite())) {
            return wrong(format!("the weight of row {row} is {w}: it must be finite and at least 0"));
        }
        let positive = weights.iter().filter(|&&w| w > 0.0).count();
        if draws > 0 && (positive == 0 || !replacement && positive < draws) {
            return wrong(format!("{draws} draws from {positive} rows of positive weight: draw fewer, or with replacement"));
        }
        (self.order, self.seed) = (Order::Weighted { weights, draws, replacement }, seed);
        Ok(self)
    }

    /// The key of the items' random numbers where the order is not random (which has its own seed).
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
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
    pub fn drop_last(mut self, drop_last: bool) -> Self {
        self.drop_last = drop_last;
        self
    }

    /// Where the batches' tensors go. Without it, numbers become tensors on the CPU, and tensors stay where they are.
    ///
    /// ```
    /// use fornax::data::{DataLoader, Rows};
    /// let loader = DataLoader::new(Rows::new((0..10).collect::<Vec<i32>>()), 4).device(fornax::Device::best());
    /// assert_eq!(loader.epoch(0).next().unwrap()?.device(), fornax::Device::best());
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn device(mut self, device: Device) -> Self {
        self.device = Some(device);
        self
    }

    /// Makes the batches on this many threads, ahead of their use; 0, the default, makes each when it is asked for, on the caller's.
    ///
    /// An error or a panic in a worker is the error of its batch; the others follow. Dropping the iterator ends the threads.
    ///
    /// ```
    /// use fornax::data::{DataLoader, Rows};
    /// let batch = |workers| -> fornax::Result<Vec<i32>> {
    ///     let rows = Rows::new((0..10).collect::<Vec<i32>>());
    ///     DataLoader::new(rows, 4).shuffle(3).workers(workers).prefetch(3).epoch(1).next().unwrap()?.to_vec()
    /// };
    /// assert_eq!(batch(2)?, batch(0)?);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn workers(mut self, workers: usize) -> Self
    where
        D: Send + Sync + 'static,
        B: Send + 'static,
    {
        self.workers = workers;
        self.launch = Some(|loader, plan| {
            let (dataset, make) = (loader.dataset.clone(), loader.make.clone());
            let work = move |(rows, request): (Vec<usize>, Request)| make.batch(&dataset, &rows, &request);
            let ahead = if loader.ahead > 0 { loader.ahead } else { 2 * loader.workers };
            Prefetch::start(plan, work, loader.workers, ahead)
        });
        self
    }

    /// The most batches that the workers may be ahead (twice their number).
    pub fn prefetch(mut self, batches: usize) -> Self {
        self.ahead = batches;
        self
    }

    /// The number of rows of an epoch.
    ///
    /// ```
    /// use fornax::data::{DataLoader, Rows};
    /// let loader = DataLoader::new(Rows::new((0..10).collect::<Vec<i32>>()), 4);
    /// assert_eq!((loader.rows(), loader.len(), loader.batch_size()), (10, 3, 4));
    /// ```
    pub fn rows(&self) -> usize {
        match &self.order {
            Order::Weighted { draws, .. } => *draws,
            _ => self.dataset.len(),
        }
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
        let size = self.batch_size.max(1);
        if self.drop_last { self.rows() / size } else { self.rows().div_ceil(size) }
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

    /// The number of rows in a batch (the last may have fewer).
    pub fn batch_size(&self) -> usize {
        self.batch_size
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

    /// The state of an epoch before its first batch.
    fn start(&self, epoch: u64) -> LoaderState {
        let order = match self.order {
            Order::Sequential => LoaderOrder::Sequential,
            Order::Shuffled => LoaderOrder::Shuffled,
            Order::Weighted { .. } => LoaderOrder::Weighted,
        };
        let (rows, drop_last) = (self.rows(), Some(self.drop_last));
        LoaderState { epoch, batch: 0, rows, batch_size: self.batch_size, seed: self.seed, order: Some(order), drop_last }
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
    pub fn epoch(&self, epoch: u64) -> Batches<'_, D, B> {
        self.from(self.start(epoch))
    }

    /// The batches of an epoch that follow a saved place. No row before it is read.
    ///
    /// # Errors
    /// `Error::Argument` where the state is of a loader of another size, seed or order, or of one that does otherwise with the last batch.
    pub fn resume(&self, state: &LoaderState) -> Result<Batches<'_, D, B>> {
        state.check(&self.start(state.epoch))?;
        Ok(self.from(*state))
    }

    fn from(&self, state: LoaderState) -> Batches<'_, D, B> {
        let n = self.dataset.len();
        let rows = match &self.order {
            Order::Sequential => (0..n).collect(),
            Order::Shuffled => permutation(n, self.seed, state.epoch),
            Order::Weighted { weights, draws, replacement } => weighted(weights, *draws, *replacement, self.seed, state.epoch),
        };
        let workers = self.launch.filter(|_| self.workers > 0);
        let request = Request { seed: self.seed, epoch: state.epoch, first: 0, device: self.device, evaluate: workers.is_some() };
        let plan = Plan { rows, next: state.batch, end: self.len(), batch_size: self.batch_size, request };
        let source = match workers {
            _ if self.batch_size == 0 => Source::Wrong(Some(no_batch())),
            Some(launch) => Source::Workers(launch(self, plan)),
            None => Source::Caller(plan),
        };
        Batches { loader: self, source, state }
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
    pub fn iter(&self) -> Batches<'_, D, B> {
        self.epoch(0)
    }
}

impl<'a, D: Dataset, B> IntoIterator for &'a DataLoader<D, B> {
    type Item = Result<B>;
    type IntoIter = Batches<'a, D, B>;
    fn into_iter(self) -> Batches<'a, D, B> {
        self.iter()
    }
}

/// What a loader of batches of no rows says.
pub(super) fn no_batch() -> Error {
    Error::argument("DataLoader", "batch_size = 0: at least 1 is wanted")
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
pub struct Batches<'a, D: Dataset, B> {
    loader: &'a DataLoader<D, B>,
    source: Source<B>,
    state: LoaderState,
}

enum Source<B> {
    Caller(Plan),
    Workers(Prefetch<B>),
    /// Nothing but an error.
    Wrong(Option<Error>),
}

impl<D: Dataset, B> Batches<'_, D, B> {
    /// The place after the batches that were taken: [`DataLoader::resume`] goes on from it.
    pub fn state(&self) -> LoaderState {
        self.state
    }
}

impl<D: Dataset, B> Iterator for Batches<'_, D, B> {
    type Item = Result<B>;

    fn next(&mut self) -> Option<Result<B>> {
        let batch = match &mut self.source {
            Source::Caller(plan) => plan.next().map(|(rows, request)| self.loader.make.batch(&self.loader.dataset, &rows, &request)),
            Source::Workers(prefetch) => prefetch.next(),
            Source::Wrong(e) => e.take().map(Err),
        };
        self.state.batch += usize::from(batch.is_some());
        batch
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let n = self.loader.len().saturating_sub(self.state.batch);
        (n, Some(n))
    }
}

impl<D: Dataset, B> ExactSizeIterator for Batches<'_, D, B> {}

/// A permutation that is a function of its arguments: row `i` is sorted by a random key drawn at the counter (i, epoch).
pub(crate) fn permutation(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut keyed: Vec<(u64, usize)> = (0..n).map(|i| (key(i as u64, epoch, seed), i)).collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, i)| i).collect()
}

/// Rows drawn in proportion to their weights.
fn weighted(weights: &[f64], draws: usize, replacement: bool, seed: u64, epoch: u64) -> Vec<usize> {
    // Never 0, so that its logarithm is finite.
    let unit = |i: usize| ((key(i as u64, epoch, seed) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    if replacement {
        // Scaled, so that the sum of large ones is a number.
        let scale = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let mut sum = 0.0;
        let sums: Vec<f64> = weights.iter().map(|w| (sum += w / scale, sum).1).collect();
        // A row of no weight has the sum of the one before it, and the first of equal sums is found.
        let last = weights.iter().rposition(|&w| w > 0.0).unwrap_or(0);
        return (0..draws).map(|i| sums.partition_point(|&s| s <= unit(i) * sum).min(last)).collect();
    }
    // Efraimidis and Spirakis (2006): the largest of u^(1/w), which are the smallest of -ln(u)/w.
    let mut keyed: Vec<(f64, usize)> = (0..weights.len()).filter(|&i| weights[i] > 0.0).map(|i| (-unit(i).ln() / weights[i], i)).collect();
    keyed.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    keyed.into_iter().take(draws).map(|(_, i)| i).collect()
}

/// 64 random bits: Philox at counter (index, epoch) under the seed.
pub(super) fn key(index: u64, epoch: u64, seed: u64) -> u64 {
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
    fn weighted_draws_have_their_frequencies() {
        let weights = [0.0, 1.0, 0.0, 2.0, 5.0, 0.0];
        let n = 80_000;
        let drawn = weighted(&weights, n, true, 3, 0);
        for (row, w) in weights.iter().enumerate() {
            let share = drawn.iter().filter(|&&d| d == row).count() as f64 / n as f64;
            assert!((share - w / 8.0).abs() < 0.01, "row {row}: {share}");
        }
        // Without replacement the first draw has the same probabilities, and no row comes twice.
        let firsts: Vec<usize> = (0..8000).map(|e| weighted(&weights, 3, false, 3, e)[0]).collect();
        let share = firsts.iter().filter(|&&d| d == 4).count() as f64 / 8000.0;
        assert!((share - 0.625).abs() < 0.03, "{share}");
        let mut all = weighted(&weights, 3, false, 3, 9);
        all.sort_unstable();
        assert_eq!(all, [1, 3, 4]);
    }

    #[test]
    fn philox_matches_the_published_vector() {
        // The paper's known answer for a counter and a key of all ones: 408f276d 41c83b0e a20bc7c6 6d5451fd.
        assert_eq!(key(u64::MAX, u64::MAX, u64::MAX), 0x41c8_3b0e_408f_276d);
    }
}

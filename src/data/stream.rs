//! Data sets in iterator style: rows that come one after the other, from files larger than memory, say.

use super::place::LoaderState;
use super::prefetch::{Prefetch, caught};
use super::{Collate, Request, Rng};
use crate::{Device, Result};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

/// The items of an epoch.
pub type Items<T> = Box<dyn Iterator<Item = Result<T>> + Send>;

/// Rows that come one after the other: a function that opens an epoch, and what is done to its items. Nothing is read before they are asked
/// for, and nothing is kept but what [`shuffle`](Stream::shuffle) holds.
///
/// ```
/// use fornax::data::{Stream, StreamLoader};
/// let odd = Stream::new(|_| Ok((0..).map(Ok))).filter(|i: &i32| i % 2 == 1).map(|i| Ok(i as f32)).take(5);
/// let loader = StreamLoader::new(odd, 2).workers(1);
/// let batches: Vec<Vec<f32>> = loader.epoch(0)?.map(|b| b?.to_vec()).collect::<fornax::Result<_>>()?;
/// assert_eq!(batches, [vec![1.0, 3.0], vec![5.0, 7.0], vec![9.0]]);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct Stream<T> {
    open: Arc<dyn Fn(u64) -> Result<Items<T>> + Send + Sync>,
    seed: u64,
}

impl<T> Clone for Stream<T> {
    fn clone(&self) -> Stream<T> {
        Stream { open: self.open.clone(), seed: self.seed }
    }
}

impl<T: 'static> Stream<T> {
    /// A stream whose epochs `open` opens, given their number.
    pub fn new<I>(open: impl Fn(u64) -> Result<I> + Send + Sync + 'static) -> Stream<T>
    where
        I: Iterator<Item = Result<T>> + Send + 'static,
    {
        Stream { open: Arc::new(move |epoch| Ok(Box::new(open(epoch)?))), seed: 0 }
    }

    /// The items of an epoch.
    ///
    /// # Errors
    /// As the function that opens it; each item may be an error of its own.
    pub fn epoch(&self, epoch: u64) -> Result<Items<T>> {
        (self.open)(epoch)
    }

    fn then<U: 'static>(self, change: impl Fn(Items<T>, u64) -> Result<Items<U>> + Send + Sync + 'static) -> Stream<U> {
        let (open, seed) = (self.open, self.seed);
        Stream { open: Arc::new(move |epoch| change(open(epoch)?, epoch)), seed }
    }

    /// The stream with `f` applied to each item.
    pub fn map<U: 'static>(self, f: impl Fn(T) -> Result<U> + Send + Sync + 'static) -> Stream<U> {
        let f = Arc::new(f);
        self.then(move |items, _| {
            let f = f.clone();
            Ok(Box::new(items.map(move |item| f(item?))))
        })
    }

    /// The items that `keep` accepts; errors stay.
    pub fn filter(self, keep: impl Fn(&T) -> bool + Send + Sync + 'static) -> Stream<T> {
        let keep = Arc::new(keep);
        self.then(move |items, _| {
            let keep = keep.clone();
            Ok(Box::new(items.filter(move |item| item.as_ref().map_or(true, |item| keep(item)))))
        })
    }

    /// These items, and then those of another stream.
    ///
    /// ```
    /// use fornax::data::Stream;
    /// let count = |n| Stream::new(move |_| Ok((0..n).map(Ok::<i32, _>)));
    /// assert_eq!(count(2).concat(count(3)).epoch(0)?.count(), 5);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn concat(self, other: Stream<T>) -> Stream<T> {
        self.then(move |items, epoch| Ok(Box::new(items.chain(other.epoch(epoch)?))))
    }

    /// The first `n` items of each epoch.
    pub fn take(self, n: usize) -> Stream<T> {
        self.then(move |items, _| Ok(Box::new(items.take(n))))
    }

    /// Mixes each epoch through a buffer of so many items: each that comes out is a random one of those in the buffer. The order is a function
    /// of the seed and the epoch's number.
    ///
    /// ```
    /// use fornax::data::Stream;
    /// let mixed = Stream::new(|_| Ok((0..100).map(Ok::<i32, _>))).shuffle(20, 7);
    /// let mut items: Vec<i32> = mixed.epoch(0)?.collect::<fornax::Result<_>>()?;
    /// assert!(!items.is_sorted());
    /// items.sort();
    /// assert!(items.into_iter().eq(0..100));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn shuffle(mut self, buffer: usize, seed: u64) -> Stream<T>
    where
        T: Send,
    {
        self.seed = seed;
        self.then(move |items, epoch| {
            Ok(Box::new(Shuffled { items, buffer: Vec::new(), size: buffer.max(1), rng: Rng::keyed(seed, epoch, u64::from(u32::MAX)) }))
        })
    }
}

struct Shuffled<T> {
    items: Items<T>,
    buffer: Vec<T>,
    size: usize,
    rng: Rng,
}

impl<T> Iterator for Shuffled<T> {
    type Item = Result<T>;
    fn next(&mut self) -> Option<Result<T>> {
        while self.buffer.len() < self.size {
            match self.items.next() {
                Some(Ok(item)) => self.buffer.push(item),
                Some(Err(e)) => return Some(Err(e)),
                None => break,
            }
        }
        if self.buffer.is_empty() {
            return None;
        }
        let at = self.rng.below(self.buffer.len());
        Some(Ok(self.buffer.swap_remove(at)))
    }
}

/// Cuts a stream into batches. With workers, one thread reads, and they put the batches together; the batches and their order are
/// the same.
///
/// ```
/// use fornax::data::{Stream, StreamLoader};
/// let loader = StreamLoader::new(Stream::new(|_| Ok((0..5).map(Ok::<i32, _>))), 2).workers(2).drop_last(true);
/// let batches: Vec<Vec<i32>> = loader.epoch(0)?.map(|b| b?.to_vec()).collect::<fornax::Result<_>>()?;
/// assert_eq!(batches, [[0, 1], [2, 3]]);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct StreamLoader<T, B> {
    stream: Stream<T>,
    collate: Arc<dyn Fn(Vec<T>, &Request) -> Result<B> + Send + Sync>,
    batch_size: usize,
    drop_last: bool,
    device: Option<Device>,
    workers: usize,
    ahead: usize,
}

impl<T: Collate + Send + 'static> StreamLoader<T, T::Batch>
where
    T::Batch: Send + 'static,
{
    /// Batches of `batch_size` items (0 is an error of an epoch), put together as [`Collate`] says.
    pub fn new(stream: Stream<T>, batch_size: usize) -> Self {
        StreamLoader::with_collate(stream, batch_size, T::collate)
    }
}

impl<T: Send + 'static, B: Send + 'static> StreamLoader<T, B> {
    /// The same with a function of your own, which the workers run: the place for decoding and random transforms
    /// ([`Request::rng`] has the numbers of each item).
    ///
    /// ```
    /// use fornax::data::{Stream, StreamLoader};
    /// let words = Stream::new(|_| Ok(["a", "bc", "d"].into_iter().map(Ok::<&str, _>)));
    /// let loader = StreamLoader::with_collate(words, 2, |items, _| Ok(items.concat()));
    /// assert_eq!(loader.epoch(0)?.collect::<fornax::Result<Vec<_>>>()?, ["abc", "d"]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn with_collate(
        stream: Stream<T>,
        batch_size: usize,
        collate: impl Fn(Vec<T>, &Request) -> Result<B> + Send + Sync + 'static,
    ) -> Self {
        StreamLoader { stream, collate: Arc::new(collate), batch_size, drop_last: false, device: None, workers: 0, ahead: 0 }
    }

    /// Whether a last batch that is smaller than the others is left out (it is not).
    pub fn drop_last(mut self, drop_last: bool) -> Self {
        self.drop_last = drop_last;
        self
    }

    /// Where the batches' tensors go: see [`DataLoader::device`](super::DataLoader::device).
    pub fn device(mut self, device: Device) -> Self {
        self.device = Some(device);
        self
    }

    /// Reads on a thread, and puts batches together on this many others, ahead of their use; 0 does both when a batch is asked for.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// The most batches that the workers may be ahead (twice their number).
    pub fn prefetch(mut self, batches: usize) -> Self {
        self.ahead = batches;
        self
    }

    fn start(&self, epoch: u64) -> LoaderState {
        let (batch_size, seed) = (self.batch_size, self.stream.seed);
        LoaderState { epoch, batch: 0, rows: 0, batch_size, seed, order: None, drop_last: Some(self.drop_last) }
    }

    /// The batches of an epoch. An error of the stream is the last of them.
    ///
    /// # Errors
    /// As the function that opens the stream.
    pub fn epoch(&self, epoch: u64) -> Result<StreamBatches<B>> {
        self.from(self.start(epoch))
    }

    /// The batches of an epoch that follow a saved place. The items before it are read again, and thrown away.
    ///
    /// # Errors
    /// As [`epoch`](StreamLoader::epoch); `Error::Argument` where the state is of a loader of another kind.
    pub fn resume(&self, state: &LoaderState) -> Result<StreamBatches<B>> {
        state.check(&self.start(state.epoch))?;
        self.from(*state)
    }

    fn from(&self, state: LoaderState) -> Result<StreamBatches<B>> {
        if self.batch_size == 0 {
            return Err(super::loader::no_batch());
        }
        let evaluate = self.workers > 0;
        let request = Request { seed: self.stream.seed, epoch: state.epoch, first: 0, device: self.device, evaluate };
        let (batch_size, drop_last) = (self.batch_size, self.drop_last);
        let chunks = Chunks { items: self.stream.epoch(state.epoch)?, batch_size, drop_last, request, ended: false };
        let chunks = chunks.skip(state.batch);
        let collate = self.collate.clone();
        let work = move |chunk: Result<(Vec<T>, Request)>| {
            let (items, request) = chunk?;
            let rows = items.len();
            crate::rng::with_stream(request.rng(0).stream(), || Ok((rows, collate(items, &request)?)))
        };
        if self.workers == 0 {
            return Ok(StreamBatches { batches: Source::Caller(Box::new(chunks.map(work))), reader: None, state, rows: None });
        }
        // The stream is the user's code and runs on a thread of its own, under no lock.
        let ahead = if self.ahead > 0 { self.ahead.min(1 << 16) } else { 2 * self.workers };
        let (send, receive) = sync_channel(ahead);
        let reader = std::thread::Builder::new().name("fornax-data-reader".into()).spawn(move || {
            let mut chunks = chunks;
            loop {
                match caught(|| chunks.next().transpose()) {
                    Ok(Some(chunk)) => {
                        if send.send(Ok(chunk)).is_err() {
                            return;
                        }
                    }
                    Ok(None) => return,
                    Err(e) => {
                        // Nobody listens any more, or this is the last.
                        let _ = send.send(Err(e));
                        return;
                    }
                }
            }
        });
        let reader = reader.map_err(|e| crate::Error::Worker { message: format!("no thread could be started: {e}") })?;
        let prefetch = Prefetch::start(receive.into_iter(), work, self.workers, ahead);
        Ok(StreamBatches { batches: Source::Workers(prefetch), reader: Some(reader), state, rows: None })
    }
}

/// The items of a stream, as many as a batch has at a time.
struct Chunks<T> {
    items: Items<T>,
    batch_size: usize,
    drop_last: bool,
    request: Request,
    ended: bool,
}

impl<T> Iterator for Chunks<T> {
    type Item = Result<(Vec<T>, Request)>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let mut chunk = Vec::new();
        while chunk.len() < self.batch_size {
            match self.items.next() {
                Some(Ok(item)) => chunk.push(item),
                Some(Err(e)) => {
                    self.ended = true;
                    return Some(Err(e));
                }
                None => {
                    self.ended = true;
                    break;
                }
            }
        }
        if chunk.is_empty() || self.drop_last && chunk.len() < self.batch_size {
            return None;
        }
        let request = self.request;
        self.request.first += chunk.len();
        Some(Ok((chunk, request)))
    }
}

/// The batches of a stream's epoch.
pub struct StreamBatches<B> {
    batches: Source<B>,
    reader: Option<JoinHandle<()>>,
    state: LoaderState,
    rows: Option<usize>,
}

/// Batches with their numbers of rows.
enum Source<B> {
    Caller(Items<(usize, B)>),
    Workers(Prefetch<(usize, B)>),
    Ended,
}

impl<B> StreamBatches<B> {
    /// The place after the batches that were taken: [`StreamLoader::resume`] goes on from it.
    pub fn state(&self) -> LoaderState {
        self.state
    }

    /// How many items the last batch was made of.
    pub(super) fn rows(&self) -> Option<usize> {
        self.rows
    }
}

impl<B> Iterator for StreamBatches<B> {
    type Item = Result<B>;
    fn next(&mut self) -> Option<Result<B>> {
        let batch = match &mut self.batches {
            Source::Caller(batches) => batches.next(),
            Source::Workers(batches) => batches.next(),
            Source::Ended => None,
        };
        self.state.batch += usize::from(batch.is_some());
        batch.map(|batch| {
            batch.map(|(rows, batch)| {
                self.rows = Some(rows);
                batch
            })
        })
    }
}

impl<B> Drop for StreamBatches<B> {
    fn drop(&mut self) {
        // The workers hold the end of the channel on which the reader may be waiting.
        self.batches = Source::Ended;
        if let Some(reader) = self.reader.take() {
            // The reader catches the panics of what it runs.
            let _ = reader.join();
        }
    }
}

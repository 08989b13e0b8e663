//! Data sets in map style: rows that can be taken in any order.

use super::combine::{Concat, Map, Subset, split_rows, stratified_rows};
use super::{Collate, Request, Rng};
use crate::{Error, Result, Tensor};
use std::sync::Arc;

/// Rows that can be taken in any order. A data set of your own needs `len` and `get`.
///
/// ```
/// use fornax::data::{DataLoader, Dataset, Rng};
/// use fornax::Result;
/// struct Squares;
/// impl Dataset for Squares {
///     type Item = (f32, f32);
///     fn len(&self) -> usize {
///         10
///     }
///     fn get(&self, row: usize, _: &mut Rng) -> Result<(f32, f32)> {
///         Ok((row as f32, (row * row) as f32))
///     }
/// }
/// let loader = DataLoader::new(Squares, 4).workers(2);
/// let (x, y) = loader.epoch(0).next().unwrap()?;
/// assert_eq!(y.to_vec::<f32>()?, [0.0, 1.0, 4.0, 9.0]);
/// # assert_eq!(x.dims(), [4]);
/// # Ok::<(), fornax::Error>(())
/// ```
pub trait Dataset {
    /// What a row is.
    type Item;

    /// The number of rows.
    fn len(&self) -> usize;

    /// Whether there are no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A row. What is random in it is drawn from `rng`, so that an epoch can be repeated.
    ///
    /// # Errors
    /// A row past the end, or whatever reading the data can give.
    fn get(&self, row: usize, rng: &mut Rng) -> Result<Self::Item>;

    /// These rows, in this order, put together. A data set with a faster way than row by row has its own form of this.
    ///
    /// # Errors
    /// As [`get`](Dataset::get), or where the rows' shapes differ.
    fn batch(&self, rows: &[usize], request: &Request) -> Result<<Self::Item as Collate>::Batch>
    where
        Self::Item: Collate,
    {
        Collate::collate(request.items(self, rows)?, request)
    }

    /// The data set with `f` applied to each item, with the item's random numbers.
    ///
    /// ```
    /// use fornax::data::{Dataset, Rng, Rows};
    /// let halves = Rows::new(vec![1.0f32, 2.0]).map(|x, _| Ok(x / 2.0));
    /// assert_eq!(halves.get(1, &mut Rng::new(0))?, 1.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    fn map<U, F>(self, f: F) -> Map<Self, F>
    where
        Self: Sized,
        F: Fn(Self::Item, &mut Rng) -> Result<U>,
    {
        Map { dataset: self, f }
    }

    /// The rows whose item `keep` accepts. Reads every row once, here.
    ///
    /// # Errors
    /// As [`get`](Dataset::get).
    ///
    /// ```
    /// use fornax::data::{Dataset, Rows};
    /// assert_eq!(Rows::new(vec![1, 2, 3]).filter(|x| *x > 1)?.len(), 2);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    fn filter(self, mut keep: impl FnMut(&Self::Item) -> bool) -> Result<Subset<Self>>
    where
        Self: Sized,
    {
        let request = Request::default();
        let mut rows = Vec::new();
        for row in 0..self.len() {
            if keep(&self.get(row, &mut request.rng(row))?) {
                rows.push(row);
            }
        }
        self.subset(rows)
    }

    /// This data set's rows, and then those of another.
    ///
    /// ```
    /// use fornax::data::{Dataset, Rng, Rows};
    /// let all = Rows::new(vec![1, 2]).concat(Rows::new(vec![3]));
    /// assert_eq!((all.len(), all.get(2, &mut Rng::new(0))?), (3, 3));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    fn concat<B: Dataset<Item = Self::Item>>(self, other: B) -> Concat<Self, B>
    where
        Self: Sized,
    {
        Concat { first: self, second: other }
    }

    /// Some rows, in this order; a row may come more than once.
    ///
    /// # Errors
    /// `Error::Index` for a row that is not there.
    ///
    /// ```
    /// use fornax::data::{Dataset, Rng, Rows};
    /// let some = Rows::new(vec![10, 20, 30]).subset(vec![2, 0])?;
    /// assert_eq!(some.get(0, &mut Rng::new(0))?, 30);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    fn subset(self, rows: Vec<usize>) -> Result<Subset<Self>>
    where
        Self: Sized,
    {
        if let Some(&row) = rows.iter().find(|&&r| r >= self.len()) {
            return Err(out_of_range("subset", row, self.len()));
        }
        Ok(Subset { dataset: self, rows })
    }

    /// Parts of the data set that have these shares of its rows, drawn at random. The shares add up to 1.
    ///
    /// # Errors
    /// `Error::Argument` for shares that do not.
    ///
    /// ```
    /// use fornax::data::{Dataset, Rows};
    /// let parts = Rows::new((0..10).collect::<Vec<i32>>()).split(&[0.7, 0.3], 42)?;
    /// assert_eq!((parts[0].len(), parts[1].len()), (7, 3));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    fn split(self, shares: &[f64], seed: u64) -> Result<Vec<Subset<Arc<Self>>>>
    where
        Self: Sized,
    {
        let rows = split_rows(self.len(), shares, seed)?;
        let shared = Arc::new(self);
        rows.into_iter().map(|r| shared.clone().subset(r)).collect()
    }

    /// As [`split`](Dataset::split), each part with the same mixture of labels, one of which belongs to each row.
    ///
    /// # Errors
    /// `Error::Argument` for shares that do not add up to 1, or another number of labels than rows.
    ///
    /// ```
    /// use fornax::data::{Dataset, Rows};
    /// let labels = [0, 1, 0, 1];
    /// let parts = Rows::new(labels.to_vec()).stratified_split(&labels, &[0.5, 0.5], 7)?;
    /// assert_eq!((parts[0].len(), parts[1].len()), (2, 2));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    fn stratified_split(self, labels: &[i32], shares: &[f64], seed: u64) -> Result<Vec<Subset<Arc<Self>>>>
    where
        Self: Sized,
    {
        if labels.len() != self.len() {
            let message = format!("{} labels for {} rows: each row needs one", labels.len(), self.len());
            return Err(Error::argument("stratified_split", message));
        }
        let rows = stratified_rows(labels, shares, seed)?;
        let shared = Arc::new(self);
        rows.into_iter().map(|r| shared.clone().subset(r)).collect()
    }
}

/// The error of a row past the end.
pub(super) fn out_of_range(op: &'static str, row: usize, rows: usize) -> Error {
    Error::Index { op, message: format!("row {row} is out of range: there are {rows}") }
}

macro_rules! through {
    ($($t:ty),*) => { $(impl<D: Dataset + ?Sized> Dataset for $t {
        type Item = D::Item;
        fn len(&self) -> usize {
            (**self).len()
        }
        fn get(&self, row: usize, rng: &mut Rng) -> Result<D::Item> {
            (**self).get(row, rng)
        }
        fn batch(&self, rows: &[usize], request: &Request) -> Result<<D::Item as Collate>::Batch>
        where
            D::Item: Collate,
        {
            (**self).batch(rows, request)
        }
    })* };
}
through!(&D, Arc<D>, Box<D>);

/// A vector as a data set: paths and labels, say, that [`map`](Dataset::map) then reads.
///
/// ```
/// use fornax::data::{Dataset, Rng, Rows};
/// let words = Rows::new(vec!["fornax", "is", "latin"]);
/// assert_eq!(words.get(2, &mut Rng::new(0))?, "latin");
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Rows<T>(Vec<T>);

impl<T: Clone> Rows<T> {
    /// A data set whose rows are these items.
    pub fn new(items: Vec<T>) -> Rows<T> {
        Rows(items)
    }

    /// The items.
    pub fn items(&self) -> &[T] {
        &self.0
    }
}

impl<T: Clone> Dataset for Rows<T> {
    type Item = T;
    fn len(&self) -> usize {
        self.0.len()
    }
    fn get(&self, row: usize, _: &mut Rng) -> Result<T> {
        self.0.get(row).cloned().ok_or_else(|| out_of_range("Rows", row, self.0.len()))
    }
}

/// Tensors whose first axis counts the rows: inputs and targets, say. They stay on their device; a batch is picked there.
///
/// ```
/// use fornax::data::TensorDataset;
/// use fornax::{Device, Tensor};
/// let set = TensorDataset::new([Tensor::from_slice(&[10.0f32, 20.0, 30.0], 3, Device::cpu())?])?;
/// let [x] = set.pick(&[2, 0])?;
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

    /// These rows of each tensor, in this order.
    ///
    /// # Errors
    /// `Error::Index` for a row that is not there.
    pub fn pick(&self, rows: &[usize]) -> Result<[Tensor; N]> {
        if let Some(&row) = rows.iter().find(|&&r| r >= self.rows) {
            return Err(out_of_range("TensorDataset", row, self.rows));
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

impl<const N: usize> Dataset for TensorDataset<N> {
    type Item = [Tensor; N];

    fn len(&self) -> usize {
        self.rows
    }

    fn get(&self, row: usize, _: &mut Rng) -> Result<[Tensor; N]> {
        if row >= self.rows {
            return Err(out_of_range("TensorDataset", row, self.rows));
        }
        let mut out = Vec::with_capacity(N);
        for t in &self.tensors {
            out.push(t.try_narrow(0, row, 1)?.try_reshape(&t.dims()[1..])?);
        }
        <[Tensor; N]>::try_from(out).map_err(|_| Error::argument("TensorDataset", "wrong number of tensors"))
    }

    fn batch(&self, rows: &[usize], request: &Request) -> Result<<[Tensor; N] as Collate>::Batch> {
        let placed: Vec<Tensor> = self.pick(rows)?.into_iter().map(|t| request.place(t)).collect::<Result<_>>()?;
        <[Tensor; N]>::try_from(placed).map_err(|_| Error::argument("TensorDataset", "wrong number of tensors"))
    }
}

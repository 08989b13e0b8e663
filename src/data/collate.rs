//! How items become a batch.

use crate::{Device, Element, Error, Result, Tensor};

use super::{Dataset, Rng};

/// What a loader tells a data set about a batch: the key of its random numbers, and where it is to lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The loader's seed.
    pub seed: u64,
    /// The epoch's number.
    pub epoch: u64,
    /// The place in the epoch of the first row.
    pub first: usize,
    /// Where the batch's tensors go. `None`: numbers become tensors on the CPU, and tensors stay where they are.
    pub device: Option<Device>,
    /// Whether to evaluate the batch's tensors (a loader's workers do), or to leave them to the flush that needs them.
    pub evaluate: bool,
}

impl Request {
    /// The random numbers of the batch's item `i`.
    pub fn rng(&self, i: usize) -> Rng {
        Rng::keyed(self.seed, self.epoch, (self.first + i) as u64)
    }

    /// The items of these rows, each got with its own random numbers; tensors drawn meanwhile are keyed in the same way.
    ///
    /// # Errors
    /// The first one of the data set.
    pub fn items<D: Dataset + ?Sized>(&self, dataset: &D, rows: &[usize]) -> Result<Vec<D::Item>> {
        let get = |(i, &row): (usize, &usize)| {
            let mut rng = self.rng(i);
            crate::rng::with_stream(rng.stream(), || dataset.get(row, &mut rng))
        };
        rows.iter().enumerate().map(get).collect()
    }

    /// A tensor of host values, where the batch is to lie.
    pub(crate) fn tensor<T: Element>(&self, values: &[T], shape: impl Into<crate::Shape>) -> Result<Tensor> {
        Tensor::from_slice(values, shape, self.device.unwrap_or(Device::cpu()))
    }

    /// The tensor where, and in the state in which, it is to be.
    pub(crate) fn place(&self, tensor: Tensor) -> Result<Tensor> {
        let tensor = match self.device {
            Some(device) => tensor.try_to(device)?,
            None => tensor,
        };
        if self.evaluate {
            tensor.eval()?;
        }
        Ok(tensor)
    }
}

/// Items that can be put together to a batch.
///
/// Numbers become a tensor `[N]`, vectors of one length a tensor `[N, length]`, tensors of one shape a tensor with a new first axis;
/// tuples and arrays are put together part by part; strings become a vector.
///
/// ```
/// use fornax::data::{Collate, Request};
/// let (x, y) = Collate::collate(vec![(vec![1.0f32, 2.0], 0i32), (vec![3.0, 4.0], 1)], &Request::default())?;
/// assert_eq!((x.dims(), y.to_vec::<i32>()?), (&[2, 2][..], vec![0, 1]));
/// # Ok::<(), fornax::Error>(())
/// ```
pub trait Collate: Sized {
    /// What a batch of them is.
    type Batch;

    /// The batch of these items.
    ///
    /// # Errors
    /// Where their shapes differ, or memory runs out.
    fn collate(items: Vec<Self>, request: &Request) -> Result<Self::Batch>;
}

impl Collate for Tensor {
    type Batch = Tensor;
    fn collate(items: Vec<Tensor>, request: &Request) -> Result<Tensor> {
        request.place(Tensor::try_stack(&items.iter().collect::<Vec<_>>(), 0)?)
    }
}

macro_rules! numbers {
    ($($t:ty)*) => { $(impl Collate for $t {
        type Batch = Tensor;
        fn collate(items: Vec<$t>, request: &Request) -> Result<Tensor> {
            request.tensor(&items, items.len())
        }
    })* };
}
numbers!(bool u8 i32 u32 i64 f32 f64);

impl<T: Element> Collate for Vec<T> {
    type Batch = Tensor;
    fn collate(items: Vec<Vec<T>>, request: &Request) -> Result<Tensor> {
        let length = items.first().map_or(0, Vec::len);
        if let Some(other) = items.iter().find(|i| i.len() != length) {
            return Err(Error::shape(
                "collate",
                &[[length], [other.len()]],
                "items of one length; pad them, or give the loader a collate function",
            ));
        }
        let n = items.len();
        request.tensor(&items.concat(), [n, length])
    }
}

impl Collate for String {
    type Batch = Vec<String>;
    fn collate(items: Vec<String>, _: &Request) -> Result<Vec<String>> {
        Ok(items)
    }
}

impl<T: Collate, const N: usize> Collate for [T; N] {
    type Batch = [T::Batch; N];
    fn collate(items: Vec<[T; N]>, request: &Request) -> Result<[T::Batch; N]> {
        let mut parts: [Vec<T>; N] = std::array::from_fn(|_| Vec::with_capacity(items.len()));
        for item in items {
            parts.iter_mut().zip(item).for_each(|(part, x)| part.push(x));
        }
        let batches: Vec<T::Batch> = parts.into_iter().map(|p| T::collate(p, request)).collect::<Result<_>>()?;
        batches.try_into().map_err(|_| Error::argument("collate", "another number of parts than the items have"))
    }
}

impl<A: Collate, B: Collate> Collate for (A, B) {
    type Batch = (A::Batch, B::Batch);
    fn collate(items: Vec<(A, B)>, request: &Request) -> Result<Self::Batch> {
        let (a, b) = items.into_iter().unzip();
        Ok((A::collate(a, request)?, B::collate(b, request)?))
    }
}

impl<A: Collate, B: Collate, C: Collate> Collate for (A, B, C) {
    type Batch = (A::Batch, B::Batch, C::Batch);
    fn collate(items: Vec<(A, B, C)>, request: &Request) -> Result<Self::Batch> {
        let (a, bc): (Vec<A>, Vec<(B, C)>) = items.into_iter().map(|(a, b, c)| (a, (b, c))).unzip();
        let (b, c) = bc.into_iter().unzip();
        Ok((A::collate(a, request)?, B::collate(b, request)?, C::collate(c, request)?))
    }
}

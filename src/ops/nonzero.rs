//! Results whose shape depends on values: `nonzero`, `masked_select`, `unique`, `bincount`. They compute their input first, so they return
//! `Result` and have no panicking form.

use crate::{DType, Error, Result, Tensor};

/// The row-major positions of the true elements.
fn positions(mask: &Tensor) -> Result<Vec<i32>> {
    let mask = if mask.dtype() == DType::Bool { mask.clone() } else { mask.try_ne(0)? };
    if mask.numel() > i32::MAX as usize {
        return Err(Error::argument("nonzero", format!("{} elements: at most {} have an i32 position", mask.numel(), i32::MAX)));
    }
    Ok(mask.to_vec::<bool>()?.into_iter().enumerate().filter(|p| p.1).map(|p| p.0 as i32).collect())
}

/// What [`Tensor::unique`] found.
///
/// ```
/// use fornax::{Device, Tensor};
/// let u = Tensor::from_slice(&[5, 2, 5], 3, Device::cpu())?.unique()?;
/// assert_eq!((u.values.to_vec::<i32>()?, u.counts.to_vec::<i32>()?), (vec![2, 5], vec![1, 2]));
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Unique {
    /// The distinct values in ascending order, `[k]`.
    pub values: Tensor,
    /// For each element of the input, in its shape, its place in `values` (i32).
    pub inverse: Tensor,
    /// How often each value occurs (i32), `[k]`.
    pub counts: Tensor,
}

impl Tensor {
    /// The coordinates (i32) of the elements that are not zero, `[count, rank]`, in row-major order. Computes this tensor now.
    ///
    /// # Errors
    /// What computing and reading can raise.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![0.0f32, 2.0, 3.0, 0.0], [2, 2], Device::cpu())?;
    /// assert_eq!(x.nonzero()?.to_vec::<i32>()?, [0, 1, 1, 0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn nonzero(&self) -> Result<Tensor> {
        let found = positions(self)?;
        let rank = self.rank();
        let mut coordinates = vec![0; found.len() * rank];
        for (row, &at) in coordinates.chunks_mut(rank.max(1)).zip(&found) {
            let mut rest = at as usize;
            for k in (0..rank).rev() {
                row[k] = (rest % self.dims()[k]) as i32;
                rest /= self.dims()[k];
            }
        }
        Tensor::from_vec(coordinates, [found.len(), rank], self.device())
    }

    /// The elements at which `mask` is true (both broadcast to each other), in row-major order, with gradient. Computes the mask now.
    ///
    /// # Errors
    /// Shapes that do not broadcast, and what computing and reading can raise.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![1.0f32, -2.0, 3.0], 3, Device::cpu())?;
    /// assert_eq!(x.masked_select(&x.gt(0.0))?.to_vec::<f32>()?, [1.0, 3.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn masked_select(&self, mask: &Tensor) -> Result<Tensor> {
        let Some(shape) = self.shape().broadcast(mask.shape()) else {
            return Err(Error::shape("masked_select", &[self.shape(), mask.shape()], "tensor and mask broadcast to each other"));
        };
        let found = positions(&mask.try_expand(&shape)?)?;
        let count = found.len();
        let index = Tensor::from_vec(found, count, self.device())?;
        self.try_expand(&shape)?.try_reshape(shape.numel())?.try_index_select(0, &index)
    }

    /// The distinct values in ascending order, with the place of each element among them and their counts. Each NaN counts as distinct.
    /// Computes this tensor now.
    ///
    /// # Errors
    /// What computing and reading can raise.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![3, 1, 3, 2], 4, Device::cpu())?;
    /// let u = x.unique()?;
    /// assert_eq!(u.values.to_vec::<i32>()?, [1, 2, 3]);
    /// assert_eq!(u.inverse.to_vec::<i32>()?, [2, 0, 2, 1]);
    /// assert_eq!(u.counts.to_vec::<i32>()?, [1, 1, 2]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn unique(&self) -> Result<Unique> {
        let n = self.numel();
        let (sorted, order) = self.try_reshape(n)?.try_sort(0, false)?;
        let differs = match n {
            0 => Vec::new(),
            _ => sorted.try_narrow(0, 1, n - 1)?.try_ne(&sorted.try_narrow(0, 0, n - 1)?)?.to_vec::<bool>()?,
        };
        let order = order.to_vec::<i32>()?;
        let (mut starts, mut inverse) = (Vec::new(), vec![0i32; n]);
        for (k, &from) in order.iter().enumerate() {
            if k == 0 || differs[k - 1] {
                starts.push(k as i32);
            }
            inverse[from as usize] = starts.len() as i32 - 1;
        }
        let ends = starts.iter().skip(1).copied().chain([n as i32]);
        let counts: Vec<i32> = starts.iter().zip(ends).map(|(s, e)| e - s).collect();
        let (count, device) = (starts.len(), self.device());
        let values = sorted.try_index_select(0, &Tensor::from_vec(starts, count, device)?)?;
        let inverse = Tensor::from_vec(inverse, self.shape(), device)?;
        Ok(Unique { values, inverse, counts: Tensor::from_vec(counts, count, device)? })
    }

    /// How often each of 0, 1, 2, … occurs (i32); at least `min_length` long. Computes this tensor now.
    ///
    /// # Errors
    /// A negative value, a dtype that is no integer, and what computing and reading can raise.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![3, 1, 3], 3, Device::cpu())?;
    /// assert_eq!(x.bincount(0)?.to_vec::<i32>()?, [0, 1, 0, 2]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn bincount(&self, min_length: usize) -> Result<Tensor> {
        if !self.dtype().is_int() {
            return Err(Error::dtype("bincount", &[self.dtype()], "an integer dtype"));
        }
        let values = self.to_vec::<i64>()?;
        if let Some(v) = values.iter().find(|&&v| !(0..i32::MAX as i64).contains(&v)) {
            return Err(Error::Index { op: "bincount", message: format!("value {v}: only 0..{} can be counted", i32::MAX) });
        }
        let length = values.iter().max().map_or(0, |&m| m as usize + 1).max(min_length);
        let mut counts = Vec::new();
        if counts.try_reserve_exact(length).is_err() {
            return Err(Error::OutOfMemory { device: "cpu".into(), bytes: length * 4, message: "bincount".into() });
        }
        counts.resize(length, 0i32);
        values.iter().for_each(|&v| counts[v as usize] += 1);
        Tensor::from_vec(counts, length, self.device())
    }
}

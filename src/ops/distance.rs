//! Distances and similarities of vectors.

use crate::{Error, Result, Tensor, shape};

/// What is below `low` raised to it, with the gradient of what was raised.
pub(crate) fn at_least(x: &Tensor, low: f64) -> Result<Tensor> {
    x.try_lt(low)?.try_where(x.try_sub(x.detach())?.try_add(low)?, x)
}

/// `‖x − y + ε‖ₚ` along the last axis.
pub(crate) fn distance(x: &Tensor, y: &Tensor, p: f64, eps: f64) -> Result<Tensor> {
    let d = x.try_sub(y)?;
    if eps == 0.0 { d.try_norm(p, -1) } else { d.try_add(eps)?.try_norm(p, -1) }
}

#[fornax_derive::fallible]
impl Tensor {
    /// The cosine of the angle between vectors along an axis, `x·y / (max(‖x‖, ε) max(‖y‖, ε))` with ε = 10⁻⁸. The tensors broadcast.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 0.0, 3.0, 4.0], [2, 2], Device::cpu())?;
    /// let y = Tensor::from_slice(&[1.0f32, 0.0], 2, Device::cpu())?;
    /// assert_eq!(x.cosine_similarity(&y, -1).to_vec::<f32>()?, [1.0, 0.6]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Shapes that do not broadcast, an axis out of range, a dtype that is no float.
    pub fn try_cosine_similarity(&self, other: &Tensor, axis: isize) -> Result<Tensor> {
        let Some(whole) = self.shape().broadcast(other.shape()) else {
            return Err(Error::shape("cosine_similarity", &[self.shape(), other.shape()], "shapes that broadcast"));
        };
        let axis = shape::axis("cosine_similarity", axis, whole.rank())?;
        let unit = |x: &Tensor| -> Result<Tensor> {
            let x = x.try_expand(&whole)?;
            x.try_div(at_least(&x.try_norm_keepdim(2.0, axis)?, 1e-8)?)
        };
        unit(self)?.try_mul(unit(other)?)?.try_sum(axis)
    }

    /// The p-norm of the differences of vectors along the last axis, `‖x − y + 10⁻⁶‖ₚ`. (The small number is PyTorch's: with it the root has a gradient where both
    /// are equal. For a matrix of distances, without it, see [`cdist`](Tensor::cdist).)
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::zeros([3, 2], Device::cpu());
    /// let y = Tensor::from_slice(&[3.0f32, 4.0], 2, Device::cpu())?;
    /// let d = x.pairwise_distance(&y, 2.0).to_vec::<f32>()?;
    /// assert!(d.iter().all(|d| (d - 5.0).abs() < 1e-5));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Shapes that do not broadcast, scalars, a dtype that is no float, a negative p.
    pub fn try_pairwise_distance(&self, other: &Tensor, p: f64) -> Result<Tensor> {
        distance(self, other, p, 1e-6)
    }

    /// The p-norms of the differences of all pairs of rows: `[.., P, M]` and `[.., R, M]` give `[.., P, R]`. The differences are summed as they are made, so that
    /// no tensor of `P·R·M` is stored. The gradient of a distance that is 0 is 0.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[0.0f32, 0.0, 3.0, 4.0], [2, 2], Device::cpu())?;
    /// assert_eq!(x.cdist(&x, 2.0).to_vec::<f32>()?, [0.0, 5.0, 5.0, 0.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Fewer than two axes, rows of different lengths, batches that do not broadcast, a dtype that is no float, a negative p.
    pub fn try_cdist(&self, other: &Tensor, p: f64) -> Result<Tensor> {
        if self.rank() < 2 || other.rank() < 2 || self.dims()[self.rank() - 1] != other.dims()[other.rank() - 1] {
            return Err(Error::shape("cdist", &[self.shape(), other.shape()], "rows of one length: [.., P, M] and [.., R, M]"));
        }
        distance(&self.try_unsqueeze(-2)?, &other.try_unsqueeze(-3)?, p, 0.0)
    }

    /// Vectors along an axis, divided by their p-norm (by 10⁻¹² where it is below that).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[3.0f32, 4.0, 0.0, 0.0], [2, 2], Device::cpu())?;
    /// assert_eq!(x.normalize(2.0, -1).to_vec::<f32>()?, [0.6, 0.8, 0.0, 0.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// An axis out of range, a dtype that is no float, a negative p.
    pub fn try_normalize(&self, p: f64, axis: isize) -> Result<Tensor> {
        self.try_div(self.try_norm_keepdim(p, axis)?.try_maximum(1e-12)?)
    }
}

//! Drawing places: `permutation` and `multinomial`.

use crate::graph::asked::asked;
use crate::{DType, Error, Options, Result, Tensor};

#[fornax_derive::fallible]
impl Tensor {
    /// The numbers 0 … n-1 (i32) in random order: the same on every device for one seed.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let mut p = Tensor::permutation(5, Device::cpu()).to_vec::<i32>()?;
    /// p.sort();
    /// assert_eq!(p, [0, 1, 2, 3, 4]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_permutation(n: usize, device: crate::Device) -> Result<Tensor> {
        Tensor::try_uniform(n, 0.0, 1.0, device)?.try_argsort(0, false)
    }

    /// `n` places (i32) of the last axis, drawn with probability proportional to this tensor's values: `[.., n]`. Weights are floats, not
    /// negative, and need not sum to one. Without replacement no place is drawn twice (so at least `n` weights should be positive).
    ///
    /// Weights are looked at when they are computed: where one of a row is negative, infinite or NaN, or all are 0, the row's places are 0, and the next
    /// read of the device's returns `Error::Index`.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let w = Tensor::from_vec(vec![0.0f32, 1.0, 3.0], 3, Device::cpu())?;
    /// let mut drawn = w.multinomial(2, false).to_vec::<i32>()?;
    /// drawn.sort();
    /// assert_eq!(drawn, [1, 2]);
    /// assert!(w.multinomial(100, true).to_vec::<i32>()?.iter().all(|&i| i > 0));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_multinomial(&self, n: usize, replacement: bool) -> Result<Tensor> {
        if !self.dtype().is_float() {
            return Err(Error::dtype("multinomial", &[self.dtype()], "float weights"));
        }
        let Some(&c) = self.dims().last() else {
            return Err(Error::shape("multinomial", &[self.shape()], "weights with at least one axis"));
        };
        if c == 0 || (!replacement && n > c) {
            let message = format!("{n} places of {c}: at least one to draw from, and without replacement at least as many as drawn");
            return Err(Error::argument("multinomial", message));
        }
        let weights = self.detach().try_cast(DType::F32)?;
        let options = Options { dtype: DType::F32, device: self.device() };
        if !replacement {
            // The largest of w / E with E exponential: the first goes to each place with its probability, the next among the rest, …
            let e = Tensor::try_uniform(self.shape(), 0.0, 1.0, options)?.try_log()?.try_neg()?;
            let drawn = weights.try_div(&e)?.try_topk(n, -1, true)?.1;
            return checked(&weights, &drawn, c);
        }
        // Against the largest, so that sums neither overflow nor are lost among the denormals.
        let sums = weights.try_div(weights.try_max_keepdim(-1)?)?.try_cumsum(-1)?;
        let total = sums.try_narrow(-1, c - 1, 1)?;
        let mut shape = self.shape().clone();
        shape[self.rank() - 1] = n;
        // Below the total also after rounding, so that a last place of weight 0 is never drawn.
        let u = Tensor::try_uniform(&shape, 0.0, 1.0, options)?.try_mul(0.999_999_94f32)?;
        checked(&weights, &sums.try_searchsorted(&u.try_mul(&total)?, true)?, c)
    }
}

/// The places drawn, where a row's weights are a distribution, else an index out of range into a table of all places: 0 and a fault.
fn checked(weights: &Tensor, drawn: &Tensor, c: usize) -> Result<Tensor> {
    let wrong = weights.try_ge(0.0)?.try_logical_and(weights.try_lt(f64::INFINITY)?)?.try_logical_not()?.try_any_keepdim(-1)?;
    let nothing = weights.try_gt(0.0)?.try_any_keepdim(-1)?.try_logical_not()?;
    // Of a row that is no distribution, whatever was found.
    let inside = drawn.try_clamp(0, c - 1)?;
    let index = wrong.try_logical_or(nothing)?.try_where(-1, inside)?;
    let places = Tensor::try_arange(0, c, 1, (DType::I32, weights.device()))?;
    let means = "weights that are no distribution (one is negative, infinite or NaN, or all are 0)";
    asked("multinomial", means, || places.try_index_select(0, &index.try_reshape(index.numel())?))?.try_reshape(drawn.shape())
}

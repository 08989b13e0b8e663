//! Drawing places: `permutation` and `multinomial`.

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
        let weights = self.detach();
        let options = Options { dtype: DType::F32, device: self.device() };
        if !replacement {
            // The largest of w / E with E exponential: the first goes to each place with its probability, the next among the rest, …
            let e = Tensor::try_uniform(self.shape(), 0.0, 1.0, options)?.try_log()?.try_neg()?;
            return Ok(weights.try_cast(DType::F32)?.try_div(&e)?.try_topk(n, -1, true)?.1);
        }
        let sums = weights.try_cast(DType::F32)?.try_cumsum(-1)?;
        let total = sums.try_narrow(-1, c - 1, 1)?;
        let mut shape = self.shape().clone();
        shape[self.rank() - 1] = n;
        // Below the total also after rounding, so that a last place of weight 0 is never drawn.
        let u = Tensor::try_uniform(&shape, 0.0, 1.0, options)?.try_mul(0.999_999_94f32)?;
        sums.try_searchsorted(&u.try_mul(&total)?, true)
    }
}

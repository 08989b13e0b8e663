//! Dropout.

use super::{Forward, Mode, Module};
use crate::{Result, Tensor};

/// In training mode zeroes each element with probability `p` and scales the others by `1/(1−p)`; in evaluation mode does nothing.
///
/// ```
/// use fornax::nn::{Dropout, Forward, Module};
/// use fornax::{Device, Tensor};
/// let dropout = Dropout::new(0.5);
/// let x = Tensor::ones(1000, Device::cpu());
/// let kept = dropout.forward(&x)?.sum(()).item::<f32>()? / 2.0;
/// assert!((400.0..600.0).contains(&kept));
/// dropout.eval();
/// assert_eq!(dropout.forward(&x)?.sum(()).item::<f32>()?, 1000.0);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Debug, Module)]
pub struct Dropout {
    /// The probability of a zero.
    pub p: f64,
    mode: Mode,
}

impl Dropout {
    /// Dropout with probability `p`, from 0 to 1.
    pub fn new(p: f64) -> Dropout {
        Dropout { p: p.clamp(0.0, 1.0), mode: Mode::default() }
    }
}

impl Forward for Dropout {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if !self.mode.is_training() || self.p == 0.0 {
            return Ok(x.clone());
        }
        if self.p == 1.0 {
            return x.try_mul(0.0);
        }
        let keep = Tensor::try_bernoulli(x.shape(), 1.0 - self.p, (x.dtype(), x.device()))?;
        x.try_mul(keep)?.try_mul(1.0 / (1.0 - self.p))
    }
}

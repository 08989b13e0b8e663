//! Dropout.

use super::{Forward, Mode, Module};
use crate::{Error, Result, Shape, Tensor};

/// Zeroes with probability `p` what one number of `mask` decides, and scales the rest.
pub(super) fn drop_out(x: &Tensor, p: f64, mask: impl Into<Shape>) -> Result<Tensor> {
    if p == 1.0 {
        return x.try_mul(0.0);
    }
    let keep = Tensor::try_bernoulli(mask, 1.0 - p, (x.dtype(), x.device()))?;
    x.try_mul(keep)?.try_mul(1.0 / (1.0 - p))
}

macro_rules! layers {
    ($($(#[$doc:meta])* $name:ident;)*) => { $(
        $(#[$doc])*
        #[derive(Debug, Module)]
        pub struct $name {
            p: f64,
            mode: Mode,
        }

        #[fornax_derive::fallible]
        impl $name {
            /// Dropout with probability `p`, from 0 to 1.
            ///
            /// # Errors
            /// Another `p`.
            pub fn try_new(p: f64) -> Result<$name> {
                if !(0.0..=1.0).contains(&p) {
                    return Err(Error::argument(stringify!($name), format!("p = {p}: a probability in 0..=1 is wanted")));
                }
                Ok($name { p, mode: Mode::default() })
            }
        }

        impl $name {
            /// The probability of a zero.
            pub fn p(&self) -> f64 {
                self.p
            }

            /// The probability of a zero in the present mode: 0 in evaluation mode.
            pub fn rate(&self) -> f64 {
                if self.mode.is_training() { self.p } else { 0.0 }
            }

            fn is_idle(&self) -> bool {
                self.rate() == 0.0
            }
        }
    )* };
}
layers! {
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
    /// assert!(Dropout::try_new(1.5).is_err());
    /// # Ok::<(), fornax::Error>(())
    /// ```
    Dropout;
    /// In training mode zeroes each channel of `[N, C, ..]` with probability `p` and scales the others by `1/(1−p)`; in evaluation mode does
    /// nothing (Tompson et al. 2015).
    ///
    /// ```
    /// use fornax::nn::{Dropout2d, Forward};
    /// use fornax::{Device, Tensor};
    /// let sums = Dropout2d::new(0.5).forward(&Tensor::ones([4, 8, 3, 3], Device::cpu()))?.sum([2, 3]);
    /// assert!(sums.to_vec::<f32>()?.iter().all(|&s| s == 0.0 || s == 18.0));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    Dropout2d;
}

impl Forward for Dropout {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.is_idle() { Ok(x.clone()) } else { drop_out(x, self.p, x.shape()) }
    }
}

impl Forward for Dropout2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.rank() < 3 {
            return Err(Error::shape("Dropout2d", &[x.shape()], "an input [N, C, ..]"));
        }
        if self.is_idle() {
            return Ok(x.clone());
        }
        let mask: Shape = x.dims().iter().enumerate().map(|(i, &n)| if i < 2 { n } else { 1 }).collect();
        drop_out(x, self.p, mask)
    }
}

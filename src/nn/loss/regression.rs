//! Losses of real targets.

use super::{finish, floats, losses, same_shape};
use crate::ops::distance::at_least;
use crate::{Error, Tensor};

/// Huber's function of a difference: `d²/2` up to δ, `δ (|d| − δ/2)` beyond. With c = d held between ±δ it is `c (d − c/2)`, whose derivative is c, also at ±∞.
fn huber(d: &Tensor, delta: f64) -> crate::Result<Tensor> {
    let c = d.try_clamp(-delta, delta)?;
    c.try_mul(d.try_sub(c.try_mul(0.5)?)?)
}

losses! {
    /// The squared difference `(x − t)²`, by default the mean.
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let x = Tensor::ones(4, Device::cpu());
    /// assert_eq!(nn::MSELoss::new().forward(&x, &(&x * 3.0))?.item::<f32>()?, 4.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    MSELoss mse_loss(input: &Tensor, target: &Tensor) reduced by Mean {} [] |s, op| {
        same_shape(op, &[input, target])?;
        let ([x, t], dtype) = floats(op, [input, target])?;
        finish(&x.try_sub(t)?.try_square()?, s.reduction, dtype)
    };
    /// The absolute difference `|x − t|`, by default the mean. Its derivative is 0 where both are equal.
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let x = Tensor::ones(4, Device::cpu());
    /// assert_eq!(nn::L1Loss::new().forward(&x, &(&x * 3.0))?.item::<f32>()?, 2.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    L1Loss l1_loss(input: &Tensor, target: &Tensor) reduced by Mean {} [] |s, op| {
        same_shape(op, &[input, target])?;
        let ([x, t], dtype) = floats(op, [input, target])?;
        finish(&x.try_sub(t)?.try_abs()?, s.reduction, dtype)
    };
    /// `d²/(2β)` where `|d| = |x − t| < β`, else `|d| − β/2` (Girshick, "Fast R-CNN", 2015).
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let x = Tensor::from_slice(&[1.5f32, 4.0], 2, Device::cpu())?;
    /// assert_eq!(nn::SmoothL1Loss::new().forward(&x, &Tensor::ones(2, Device::cpu()))?.item::<f32>()?, (0.125 + 2.5) / 2.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    SmoothL1Loss smooth_l1_loss(input: &Tensor, target: &Tensor) reduced by Mean {
        /// β, the difference from which on the loss is linear; with 0 it is the L1 loss.
        beta: f64 = 1.0,
    } [] |s, op| {
        if !(s.beta >= 0.0) {
            return Err(Error::argument(op, format!("beta {}: at least 0 is wanted", s.beta)));
        }
        same_shape(op, &[input, target])?;
        let ([x, t], dtype) = floats(op, [input, target])?;
        let d = x.try_sub(t)?;
        let losses = if s.beta == 0.0 { d.try_abs()? } else { huber(&d, s.beta)?.try_mul(1.0 / s.beta)? };
        finish(&losses, s.reduction, dtype)
    };
    /// `d²/2` where `|d| = |x − t| ≤ δ`, else `δ (|d| − δ/2)` (Huber 1964).
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let x = Tensor::from_slice(&[1.5f32, 4.0], 2, Device::cpu())?;
    /// assert_eq!(nn::HuberLoss::new().delta(2.0).forward(&x, &Tensor::ones(2, Device::cpu()))?.item::<f32>()?, (0.125 + 4.0) / 2.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    HuberLoss huber_loss(input: &Tensor, target: &Tensor) reduced by Mean {
        /// δ, the difference from which on the loss is linear.
        delta: f64 = 1.0,
    } [] |s, op| {
        if !(s.delta > 0.0) {
            return Err(Error::argument(op, format!("delta {}: a positive number is wanted", s.delta)));
        }
        same_shape(op, &[input, target])?;
        let ([x, t], dtype) = floats(op, [input, target])?;
        finish(&huber(&x.try_sub(t)?, s.delta)?, s.reduction, dtype)
    };
    /// The negative log-likelihood of counts t by Poisson's distribution of rate eˣ: `eˣ − t x`; without `log_input` of rate x: `x − t ln(x + eps)`.
    ///
    /// With `full` it includes Stirling's approximation of ln t!, `t ln t − t + ln(2πt)/2`, for targets above 1.
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let log_rate = Tensor::zeros(3, Device::cpu());
    /// assert_eq!(nn::poisson_nll_loss(&log_rate, &Tensor::full(3, 2.0, Device::cpu()))?.item::<f32>()?, 1.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    PoissonNLLLoss poisson_nll_loss(input: &Tensor, target: &Tensor) reduced by Mean {
        /// Whether the input is the rate's logarithm.
        log_input: bool = true,
        /// Whether to include the approximation of ln t!.
        full: bool = false,
        /// What is added to a rate before its logarithm is taken.
        eps: f64 = 1e-8,
    } [] |s, op| {
        same_shape(op, &[input, target])?;
        let ([x, t], dtype) = floats(op, [input, target])?;
        let mut losses = match s.log_input {
            true => x.try_exp()?.try_sub(t.try_mul(&x)?)?,
            false => x.try_sub(t.try_mul(x.try_add(s.eps)?.try_log()?)?)?,
        };
        if s.full {
            let above = t.try_gt(1.0)?;
            // Where the term counts for nothing its derivative must be finite.
            let t = above.try_where(&t, 1.0)?;
            let log = t.try_log()?;
            let stirling = t.try_mul(&log)?.try_sub(&t)?.try_add(log.try_add((2.0 * std::f64::consts::PI).ln())?.try_mul(0.5)?)?;
            losses = losses.try_add(above.try_where(stirling, 0.0)?)?;
        }
        finish(&losses, s.reduction, dtype)
    };
    /// The negative log-likelihood of targets by normal distributions of these means and variances, up to a constant: `(ln v + (x − t)²/v) / 2`
    /// (Nix and Weigend 1994).
    ///
    /// The variance is of the input's shape, or lacks its last axis, or has size 1 in place of one of its axes. Variances below `eps`, negative ones too, count as
    /// `eps`; their gradient is the one there. (PyTorch reads the variance to refuse negative ones.)
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let (mean, variance) = (Tensor::zeros([4, 2], Device::cpu()), Tensor::ones(4, Device::cpu()));
    /// assert_eq!(nn::gaussian_nll_loss(&mean, &Tensor::full([4, 2], 3.0, Device::cpu()), &variance)?.item::<f32>()?, 4.5);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    GaussianNLLLoss gaussian_nll_loss(input: &Tensor, target: &Tensor, variance: &Tensor) reduced by Mean {
        /// Whether to include the constant `ln(2π)/2`.
        full: bool = false,
        /// The smallest variance.
        eps: f64 = 1e-6,
    } [] |s, op| {
        if !(s.eps > 0.0) {
            return Err(Error::argument(op, format!("eps {}: a positive number is wanted", s.eps)));
        }
        same_shape(op, &[input, target])?;
        let ([x, t, mut v], dtype) = floats(op, [input, target, variance])?;
        if v.shape() != x.shape() {
            let one_less = x.rank() == v.rank() + 1 && x.dims()[..v.rank()] == *v.dims();
            let differing: Vec<usize> = (0..x.rank().min(v.rank())).filter(|&i| x.dims()[i] != v.dims()[i]).collect();
            match differing.as_slice() {
                _ if one_less => v = v.try_unsqueeze(-1)?,
                [i] if x.rank() == v.rank() && v.dims()[*i] == 1 => {}
                _ => {
                    let expected = "a variance of the input's shape, without its last axis, or with size 1 in place of one axis";
                    return Err(Error::shape(op, &[input.shape(), variance.shape()], expected));
                }
            }
        }
        let v = at_least(&v, s.eps)?;
        let mut losses = x.try_sub(t)?.try_square()?.try_div(&v)?.try_add(v.try_log()?)?.try_mul(0.5)?;
        if s.full {
            losses = losses.try_add(0.5 * (2.0 * std::f64::consts::PI).ln())?;
        }
        finish(&losses, s.reduction, dtype)
    };
}

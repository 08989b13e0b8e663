//! Losses, averaged over all elements (or, for the cross-entropy, over the targets).

use crate::{Error, Result, Tensor};

fn same_shape(op: &'static str, x: &Tensor, target: &Tensor) -> Result<()> {
    if x.shape() == target.shape() {
        return Ok(());
    }
    Err(Error::shape(op, &[x.shape(), target.shape()], "input and target must have one shape"))
}

/// The cross-entropy of logits `[N, C, ..]` and class indices `[N, ..]`: the mean of `log Σ exp x − x[target]`. For an index to
/// ignore, label smoothing and class weights see [`Tensor::cross_entropy`].
///
/// # Errors
/// Shapes that do not fit; an index out of range, when the value is read.
///
/// ```
/// use fornax::{Device, Tensor, nn};
/// let logits = Tensor::zeros([2, 4], Device::cpu());
/// let target = Tensor::from_slice(&[1i32, 3], 2, Device::cpu())?;
/// let loss = nn::cross_entropy(&logits, &target)?.item::<f32>()?;
/// assert!((loss - 4f32.ln()).abs() < 1e-6);
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn cross_entropy(logits: &Tensor, target: &Tensor) -> Result<Tensor> {
    logits.try_cross_entropy(target, &crate::CrossEntropy::default())
}

/// The mean of `(x − target)²`.
///
/// # Errors
/// Shapes that differ.
///
/// ```
/// use fornax::{Device, Tensor, nn};
/// let x = Tensor::ones(4, Device::cpu());
/// assert_eq!(nn::mse_loss(&x, &(&x * 3.0))?.item::<f32>()?, 4.0);
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn mse_loss(x: &Tensor, target: &Tensor) -> Result<Tensor> {
    same_shape("mse_loss", x, target)?;
    x.try_sub(target)?.try_square()?.try_mean(())
}

/// The mean of `|x − target|`.
///
/// # Errors
/// Shapes that differ.
///
/// ```
/// use fornax::{Device, Tensor, nn};
/// let x = Tensor::ones(4, Device::cpu());
/// assert_eq!(nn::l1_loss(&x, &(&x * 3.0))?.item::<f32>()?, 2.0);
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn l1_loss(x: &Tensor, target: &Tensor) -> Result<Tensor> {
    same_shape("l1_loss", x, target)?;
    x.try_sub(target)?.try_abs()?.try_mean(())
}

/// The binary cross-entropy of logits and probabilities: the mean of `log(1 + eˣ) − x · target`.
///
/// # Errors
/// Shapes that differ.
///
/// ```
/// use fornax::{Device, Tensor, nn};
/// let x = Tensor::zeros(4, Device::cpu());
/// let loss = nn::bce_with_logits(&x, &Tensor::ones(4, Device::cpu()))?.item::<f32>()?;
/// assert!((loss - 2f32.ln()).abs() < 1e-6);
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn bce_with_logits(x: &Tensor, target: &Tensor) -> Result<Tensor> {
    same_shape("bce_with_logits", x, target)?;
    x.try_softplus(1.0)?.try_sub(x.try_mul(target)?)?.try_mean(())
}

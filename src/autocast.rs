//! Mixed precision: which ops compute in half precision.

use crate::{DType, Result, Tensor};
use std::cell::Cell;

thread_local! {
    static LOW: Cell<Option<DType>> = const { Cell::new(None) };
}

/// Runs `f` with automatic mixed precision, as PyTorch's `torch.autocast`: what this thread records in it takes part in products (matmul, linear, convolutions,
/// attention) as `dtype`, f16 or bf16, while softmax, losses, sums, norms and layer norms take f32. Parameters stay what they are, f32, and so do their gradients.
/// Other ops keep the dtype of what they are given. [`DType::F32`] turns a surrounding one off.
///
/// The backward pass belongs outside. In f16 the small gradients want an [`optim::GradScaler`](crate::optim::GradScaler); in bf16 they do not.
///
/// # Panics
/// Where the dtype is no float of at most 32 bits.
///
/// ```
/// use fornax::nn::{self, Forward, Linear};
/// use fornax::{DType, Device, Tensor, autocast};
/// let layer = Linear::new(3, 2, Device::cpu());
/// let x = Tensor::ones([4, 3], Device::cpu());
/// let loss = autocast(DType::BF16, || {
///     let y = layer.forward(&x)?;
///     assert_eq!(y.dtype(), DType::BF16);
///     y.try_square()?.try_mean(())
/// })?;
/// let grads = loss.backward()?;
/// assert_eq!((loss.dtype(), layer.weight.grad(&grads).unwrap().dtype()), (DType::F32, DType::F32));
/// # Ok::<(), fornax::Error>(())
/// ```
#[track_caller]
pub fn autocast<T>(dtype: DType, f: impl FnOnce() -> T) -> T {
    let low = match dtype {
        DType::F16 | DType::BF16 => Some(dtype),
        DType::F32 => None,
        _ => panic!("autocast: {dtype} is none of f16, bf16 and f32"),
    };
    with(low, f)
}

pub(crate) fn with<T>(low: Option<DType>, f: impl FnOnce() -> T) -> T {
    struct Restore(Option<DType>);
    impl Drop for Restore {
        fn drop(&mut self) {
            LOW.set(self.0)
        }
    }
    let _restore = Restore(LOW.replace(low));
    f()
}

pub(crate) fn current() -> Option<DType> {
    LOW.get()
}

fn to(t: &Tensor, low: DType) -> Option<DType> {
    (t.dtype() != low && matches!(t.dtype(), DType::F16 | DType::BF16 | DType::F32)).then_some(low)
}

/// A tensor as a product takes it.
pub(crate) fn low(t: &Tensor) -> Result<Tensor> {
    match LOW.get().and_then(|low| to(t, low)) {
        Some(dtype) => t.try_cast(dtype),
        None => Ok(t.clone()),
    }
}

/// The tensors as a product takes them, where they are not so already.
pub(crate) fn lowered<const N: usize>(tensors: [&Tensor; N]) -> Result<Option<[Tensor; N]>> {
    let Some(dtype) = LOW.get() else { return Ok(None) };
    if !tensors.iter().any(|t| to(t, dtype).is_some()) {
        return Ok(None);
    }
    let mut out = tensors.map(Tensor::clone);
    for t in &mut out {
        *t = low(t)?;
    }
    Ok(Some(out))
}

/// A tensor of half precision as an op takes it that wants f32.
pub(crate) fn raised(t: &Tensor) -> Result<Option<Tensor>> {
    let half = LOW.get().is_some() && matches!(t.dtype(), DType::F16 | DType::BF16);
    if half { t.try_cast(DType::F32).map(Some) } else { Ok(None) }
}

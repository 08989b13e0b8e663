//! What the methods take: a list of axes, a tensor or a number, a dtype and a device.

use crate::{DType, Device, Scalar, Tensor};
use smallvec::SmallVec;

/// Axes to work on: `()` for all, a number (negative counts from the end), or a list.
///
/// ```
/// use fornax::{Device, Tensor};
/// let x = Tensor::ones([2, 3, 4], Device::cpu());
/// assert_eq!(x.sum(()).rank(), 0);
/// assert_eq!(x.sum(-1).dims(), [2, 3]);
/// assert_eq!(x.sum([0, 2]).dims(), [3]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Axes(pub(crate) SmallVec<[isize; 6]>);

impl From<()> for Axes {
    fn from(_: ()) -> Self {
        Axes::default()
    }
}
macro_rules! axes {
    ($($t:ty),*) => { $(
        impl From<$t> for Axes {
            fn from(a: $t) -> Self {
                Axes(SmallVec::from_slice(&[a as isize]))
            }
        }
        impl<const N: usize> From<[$t; N]> for Axes {
            fn from(a: [$t; N]) -> Self {
                Axes(a.iter().map(|&a| a as isize).collect())
            }
        }
        impl From<&[$t]> for Axes {
            fn from(a: &[$t]) -> Self {
                Axes(a.iter().map(|&a| a as isize).collect())
            }
        }
        impl From<Vec<$t>> for Axes {
            fn from(a: Vec<$t>) -> Self {
                Axes(a.iter().map(|&a| a as isize).collect())
            }
        }
    )* };
}
axes!(i32, isize, usize);

/// The right side of a binary op: a tensor, or a number.
///
/// ```
/// use fornax::{Device, Tensor};
/// let x = Tensor::ones(2, Device::cpu());
/// assert_eq!(x.add(2).to_vec::<f32>()?, x.add(&x + 1.0).to_vec::<f32>()?);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone)]
pub enum Operand {
    /// Broadcast by NumPy's rule.
    Tensor(Tensor),
    /// Takes the tensor's dtype, unless it is of a higher kind.
    Scalar(Scalar),
}

impl From<Tensor> for Operand {
    fn from(t: Tensor) -> Self {
        Operand::Tensor(t)
    }
}
impl From<&Tensor> for Operand {
    fn from(t: &Tensor) -> Self {
        Operand::Tensor(t.clone())
    }
}
impl From<&Operand> for Operand {
    fn from(o: &Operand) -> Self {
        o.clone()
    }
}
macro_rules! numbers {
    ($($t:ty),*) => { $(impl From<$t> for Operand { fn from(v: $t) -> Self { Operand::Scalar(v.into()) } })* };
}
numbers!(Scalar, f32, f64, i32, i64, u32, u8, usize, bool);

/// The dtype and device of a new tensor: a [`Device`] alone means f32, else `(DType, Device)`.
///
/// ```
/// use fornax::{DType, Device, Tensor};
/// assert_eq!(Tensor::zeros(3, Device::cpu()).dtype(), DType::F32);
/// assert_eq!(Tensor::zeros(3, (DType::I32, Device::cpu())).dtype(), DType::I32);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The dtype.
    pub dtype: DType,
    /// The device.
    pub device: Device,
}

impl From<Device> for Options {
    fn from(device: Device) -> Self {
        Options { dtype: DType::F32, device }
    }
}
impl From<(DType, Device)> for Options {
    fn from((dtype, device): (DType, Device)) -> Self {
        Options { dtype, device }
    }
}

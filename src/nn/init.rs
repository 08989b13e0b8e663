//! Initial values of parameters. They are lazy: a parameter that a checkpoint overwrites first is never computed.

use crate::{Options, Result, Shape, Tensor};

/// The fan-in of a weight `[out, in, kernel …]`: inputs per output.
///
/// ```
/// assert_eq!(fornax::nn::init::fan_in(&[8, 3, 5, 5]), 75);
/// ```
pub fn fan_in(shape: &[usize]) -> usize {
    shape.iter().skip(1).product()
}

/// Uniform between `±gain · √(3 / fan_in)` (He et al. 2015), where the gain of a leaky ReLU with slope `a` is `√(2 / (1 + a²))`. PyTorch's layers use
/// `a = √5`, which is `±1 / √fan_in`.
///
/// # Errors
/// A shape that memory cannot hold.
///
/// ```
/// use fornax::{Device, nn::init};
/// let w = init::kaiming_uniform([8, 100], 5f64.sqrt(), Device::cpu())?;
/// assert!(w.abs().max(()).item::<f32>()? <= 0.1);
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn kaiming_uniform(shape: impl Into<Shape>, a: f64, options: impl Into<Options>) -> Result<Tensor> {
    let shape = shape.into();
    let fan = fan_in(&shape).max(1) as f64;
    let bound = (6.0 / ((1.0 + a * a) * fan)).sqrt();
    Tensor::try_uniform(shape, -bound, bound, options)
}

/// Uniform between `±1 / √fan`: the bias of PyTorch's layers.
pub(crate) fn bias(n: usize, fan: usize, options: Options) -> Result<Tensor> {
    let bound = 1.0 / (fan.max(1) as f64).sqrt();
    Tensor::try_uniform(n, -bound, bound, options)
}

/// The weight of PyTorch's linear and convolution layers.
pub(crate) fn weight(shape: impl Into<Shape>, options: Options) -> Result<Tensor> {
    kaiming_uniform(shape, 5f64.sqrt(), options)
}

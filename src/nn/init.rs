//! Initial values of parameters. They are lazy: a parameter that a checkpoint overwrites first is never computed.
//!
//! Each function makes a tensor; `param.set(…)` puts it into a layer. For plain uniform, normal and constant values there are
//! [`Tensor::uniform`], [`Tensor::normal`], [`Tensor::zeros`], [`Tensor::ones`], [`Tensor::full`] and [`Tensor::eye`].
//!
//! ```
//! use fornax::nn::{Linear, init::{self, Fan, Gain}};
//! use fornax::Device;
//! let layer = Linear::new(100, 10, Device::cpu());
//! layer.weight.set(init::kaiming_normal(layer.weight.shape(), Fan::Out, Gain::ReLU, Device::cpu())?)?;
//! # Ok::<(), fornax::Error>(())
//! ```

use crate::{Error, Options, Result, Shape, Tensor};

/// The fan-in of a weight `[out, in, kernel …]`: inputs per output.
///
/// ```
/// assert_eq!(fornax::nn::init::fan_in(&[8, 3, 5, 5]), 75);
/// ```
pub fn fan_in(shape: &[usize]) -> usize {
    shape.iter().skip(1).product()
}

/// The fan-out of a weight `[out, in, kernel …]`: outputs per input.
///
/// ```
/// assert_eq!(fornax::nn::init::fan_out(&[8, 3, 5, 5]), 200);
/// ```
pub fn fan_out(shape: &[usize]) -> usize {
    shape.iter().enumerate().filter(|(i, _)| *i != 1).map(|(_, n)| n).product()
}

/// Which fan a deviation is kept over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fan {
    /// The forward pass keeps its variance.
    #[default]
    In,
    /// The backward pass keeps its variance.
    Out,
}

/// The shape of a weight, which has a fan.
fn with_fans(op: &'static str, shape: impl Into<Shape>) -> Result<Shape> {
    let shape = shape.into();
    if shape.rank() < 2 {
        return Err(Error::shape(op, &[&shape], "at least two axes, [out, in, kernel …]: fans have no meaning for fewer"));
    }
    Ok(shape)
}

impl Fan {
    fn of(self, shape: &[usize]) -> f64 {
        match self {
            Fan::In => fan_in(shape).max(1) as f64,
            Fan::Out => fan_out(shape).max(1) as f64,
        }
    }
}

/// The function that follows the weight, and the factor by which the weight makes up for it.
///
/// ```
/// use fornax::nn::init::Gain;
/// assert_eq!(Gain::Tanh.value(), 5.0 / 3.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gain {
    /// None, or a convolution: 1.
    Linear,
    /// 1.
    Sigmoid,
    /// 5/3.
    Tanh,
    /// √2.
    ReLU,
    /// With this slope a below zero: `√(2 / (1 + a²))`.
    LeakyReLU(f64),
    /// 3/4.
    SELU,
    /// This factor.
    Value(f64),
}

impl Gain {
    /// The factor.
    pub fn value(self) -> f64 {
        match self {
            Gain::Linear | Gain::Sigmoid => 1.0,
            Gain::Tanh => 5.0 / 3.0,
            Gain::ReLU => 2f64.sqrt(),
            Gain::LeakyReLU(a) => (2.0 / (1.0 + a * a)).sqrt(),
            Gain::SELU => 0.75,
            Gain::Value(gain) => gain,
        }
    }
}

/// Uniform between `±gain · √(3 / fan)` (He et al. 2015). PyTorch's layers use `Fan::In` and `Gain::LeakyReLU(√5)`, which is `±1 / √fan_in`.
///
/// # Errors
/// A shape of rank below 2, or one that memory cannot hold.
///
/// ```
/// use fornax::{Device, nn::init::{self, Fan, Gain}};
/// let w = init::kaiming_uniform([8, 100], Fan::In, Gain::LeakyReLU(5f64.sqrt()), Device::cpu())?;
/// assert!(w.abs().max(()).item::<f32>()? <= 0.1);
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn kaiming_uniform(shape: impl Into<Shape>, fan: Fan, gain: Gain, options: impl Into<Options>) -> Result<Tensor> {
    let shape = with_fans("kaiming_uniform", shape)?;
    let bound = gain.value() * (3.0 / fan.of(&shape)).sqrt();
    Tensor::try_uniform(shape, -bound, bound, options)
}

/// Normal with mean 0 and deviation `gain / √fan` (He et al. 2015).
///
/// # Errors
/// A shape of rank below 2, or one that memory cannot hold.
///
/// ```
/// use fornax::{Device, nn::init::{self, Fan, Gain}};
/// let w = init::kaiming_normal([64, 50], Fan::In, Gain::ReLU, Device::cpu())?;
/// assert!((w.std((), 1.0).item::<f32>()? - 0.2).abs() < 0.02);
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn kaiming_normal(shape: impl Into<Shape>, fan: Fan, gain: Gain, options: impl Into<Options>) -> Result<Tensor> {
    let shape = with_fans("kaiming_normal", shape)?;
    let std = gain.value() / fan.of(&shape).sqrt();
    Tensor::try_normal(shape, 0.0, std, options)
}

/// Uniform between `±gain · √(6 / (fan_in + fan_out))` (Glorot and Bengio 2010).
///
/// # Errors
/// A shape of rank below 2, or one that memory cannot hold.
///
/// ```
/// use fornax::{Device, nn::init::{self, Gain}};
/// let w = init::xavier_uniform([100, 50], Gain::Linear, Device::cpu())?;
/// assert!(w.abs().max(()).item::<f32>()? <= 0.2);
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn xavier_uniform(shape: impl Into<Shape>, gain: Gain, options: impl Into<Options>) -> Result<Tensor> {
    let shape = with_fans("xavier_uniform", shape)?;
    let bound = gain.value() * (6.0 / (Fan::In.of(&shape) + Fan::Out.of(&shape))).sqrt();
    Tensor::try_uniform(shape, -bound, bound, options)
}

/// Normal with mean 0 and deviation `gain · √(2 / (fan_in + fan_out))` (Glorot and Bengio 2010).
///
/// # Errors
/// A shape of rank below 2, or one that memory cannot hold.
///
/// ```
/// use fornax::{Device, nn::init::{self, Gain}};
/// let w = init::xavier_normal([60, 40], Gain::Linear, Device::cpu())?;
/// assert!((w.std((), 1.0).item::<f32>()? - 0.1414).abs() < 0.01);
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn xavier_normal(shape: impl Into<Shape>, gain: Gain, options: impl Into<Options>) -> Result<Tensor> {
    let shape = with_fans("xavier_normal", shape)?;
    let std = gain.value() * (2.0 / (Fan::In.of(&shape) + Fan::Out.of(&shape))).sqrt();
    Tensor::try_normal(shape, 0.0, std, options)
}

/// A (half-)orthogonal matrix of `[out, everything else]`, times the gain (Saxe et al. 2013): rows or columns, whichever are fewer, are
/// orthonormal. Computed on the CPU; with the feature `linalg`.
///
/// # Errors
/// A shape of rank below 2.
///
/// ```
/// use fornax::{Device, nn::init::{self, Gain}};
/// let w = init::orthogonal([3, 5], Gain::Linear, Device::cpu())?;
/// let product = w.matmul(&w.t());
/// assert!((product - fornax::Tensor::eye(3, Device::cpu())).abs().max(()).item::<f32>()? < 1e-5);
/// # Ok::<(), fornax::Error>(())
/// ```
#[cfg(feature = "linalg")]
pub fn orthogonal(shape: impl Into<Shape>, gain: Gain, options: impl Into<Options>) -> Result<Tensor> {
    let (shape, options) = (shape.into(), options.into());
    if shape.rank() < 2 {
        return Err(Error::shape("orthogonal", &[&shape], "at least two axes"));
    }
    let (rows, columns) = (shape[0], fan_in(&shape));
    let (long, short) = (rows.max(columns), rows.min(columns));
    let (q, r) = Tensor::try_normal([long, short], 0.0, 1.0, options)?.try_qr()?;
    // The signs make the distribution uniform (Mezzadri 2007).
    let signs = r.try_diagonal(0, 0, 1)?.try_lt(0.0)?.try_cast(options.dtype)?.try_mul(-2.0)?.try_add(1.0)?;
    let q = q.try_mul(signs)?;
    let q = if rows < columns { q.try_t()? } else { q };
    q.try_mul(gain.value())?.try_reshape(shape)
}

/// Normal with this mean and deviation, cut off outside `low..=high` (absolute numbers, as PyTorch has them: its defaults are -2 and 2).
///
/// # Errors
/// A deviation that is not positive, or bounds that are no range.
///
/// ```
/// use fornax::{Device, nn::init};
/// let w = init::trunc_normal([1000], 0.0, 0.02, -0.04, 0.04, Device::cpu())?;
/// assert!(w.abs().max(()).item::<f32>()? <= 0.04);
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn trunc_normal(shape: impl Into<Shape>, mean: f64, std: f64, low: f64, high: f64, options: impl Into<Options>) -> Result<Tensor> {
    let options = options.into();
    if !(std > 0.0) || !(low < high) {
        let message = format!("std {std}, bounds {low}..{high}: a positive deviation and low < high are wanted");
        return Err(Error::argument("trunc_normal", message));
    }
    // A uniform number between the two values of the distribution function, sent back through it.
    let erf = |x: f64| crate::codegen::math::erf64((x - mean) / (std * 2f64.sqrt()));
    let u = Tensor::try_uniform(shape, erf(low), erf(high), (options.dtype.compute(), options.device))?;
    let x = erfinv(&u)?.try_mul(std * 2f64.sqrt())?.try_add(mean)?;
    x.try_clamp(low, high)?.try_cast(options.dtype)
}

/// The inverse of the error function to about f32's precision (Giles, "Approximating the erfinv function", 2012).
fn erfinv(x: &Tensor) -> Result<Tensor> {
    const MIDDLE: [f64; 9] = [
        2.81022636e-08,
        3.43273939e-07,
        -3.5233877e-06,
        -4.39150654e-06,
        0.00021858087,
        -0.00125372503,
        -0.00417768164,
        0.246640727,
        1.50140941,
    ];
    const TAIL: [f64; 9] = [
        -0.000200214257,
        0.000100950558,
        0.00134934322,
        -0.00367342844,
        0.00573950773,
        -0.0076224613,
        0.00943887047,
        1.00167406,
        2.83297682,
    ];
    let horner = |w: &Tensor, c: &[f64; 9]| c[1..].iter().try_fold(w.try_full_like(c[0])?, |p, &c| p.try_mul(w)?.try_add(c));
    // At ±1, where the result is infinite, it is that of the number before: one draw of 2²⁴ must not be hundreds of deviations away.
    let w = x.try_square()?.try_neg()?.try_add(1.0)?.try_maximum(2f64.powi(-24))?.try_log()?.try_neg()?;
    let middle = horner(&w.try_sub(2.5)?, &MIDDLE)?;
    let tail = horner(&w.try_sqrt()?.try_sub(3.0)?, &TAIL)?;
    w.try_lt(5.0)?.try_where(middle, tail)?.try_mul(x)
}

/// Uniform between `±1 / √fan`: the bias of PyTorch's layers.
pub(crate) fn bias(n: usize, fan: usize, options: Options) -> Result<Tensor> {
    let bound = 1.0 / (fan.max(1) as f64).sqrt();
    Tensor::try_uniform(n, -bound, bound, options)
}

/// The weight of PyTorch's linear and convolution layers.
pub(crate) fn weight(shape: impl Into<Shape>, options: Options) -> Result<Tensor> {
    kaiming_uniform(shape, Fan::In, Gain::LeakyReLU(5f64.sqrt()), options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn erfinv_undoes_erf() -> Result<()> {
        let x = Tensor::linspace(-0.9999, 0.9999, 401, Device::cpu());
        let back = erfinv(&x)?.try_erf()?;
        assert!(back.try_sub(&x)?.try_abs()?.try_max(())?.item::<f32>()? < 1e-6);
        Ok(())
    }

    #[test]
    fn distributions() -> Result<()> {
        let cpu = Device::cpu();
        let std = |t: &Tensor| t.std((), 1.0).item::<f64>();
        // fan_in 12·9, fan_out 20·9.
        let shape = [20, 12, 3, 3];
        let close = |got: f64, want: f64| assert!((got / want - 1.0).abs() < 0.05, "{got} for {want}");
        close(std(&kaiming_normal(shape, Fan::In, Gain::ReLU, cpu)?)?, (2.0f64 / 108.0).sqrt());
        close(std(&kaiming_normal(shape, Fan::Out, Gain::SELU, cpu)?)?, 0.75 / 180f64.sqrt());
        close(std(&kaiming_uniform(shape, Fan::Out, Gain::Tanh, cpu)?)?, 5.0 / 3.0 / 180f64.sqrt());
        close(std(&xavier_normal(shape, Gain::Linear, cpu)?)?, (2.0f64 / 288.0).sqrt());
        close(std(&xavier_uniform(shape, Gain::LeakyReLU(1.0), cpu)?)?, (2.0f64 / 288.0).sqrt());
        // A standard normal cut at ±1 has the deviation 0.5396; cut to 0..∞ the mean √(2/π).
        close(std(&trunc_normal([100, 100], 0.0, 1.0, -1.0, 1.0, cpu)?)?, 0.5396);
        close(trunc_normal([100, 100], 0.0, 1.0, 0.0, 10.0, cpu)?.mean(()).item()?, (2.0 / std::f64::consts::PI).sqrt());
        close(trunc_normal([100, 100], 3.0, 0.1, -2.0, 9.0, cpu)?.mean(()).item()?, 3.0);
        // Uniform numbers reach the ends of their range.
        let ends = erfinv(&Tensor::from_slice(&[-1f32, 1.0, 0.5], 3, cpu)?)?.to_vec::<f32>()?;
        assert!(ends[0] == -ends[1] && (3.7..4.0).contains(&ends[1]) && (ends[2] - 0.476_936_3).abs() < 1e-6, "{ends:?}");
        assert!(trunc_normal(3, 0.0, 0.0, -2.0, 2.0, cpu).is_err());
        assert!(trunc_normal(3, 0.0, 1.0, 2.0, -2.0, cpu).is_err());
        Ok(())
    }

    #[cfg(feature = "linalg")]
    #[test]
    fn orthogonal_matrices() -> Result<()> {
        assert!(orthogonal(3, Gain::Linear, Device::cpu()).is_err());
        for shape in [[5, 2, 3], [7, 2, 3]] {
            let w = orthogonal(shape, Gain::ReLU, Device::cpu())?.try_flatten(1, 2)?;
            let product = if shape[0] < 6 { w.matmul(&w.t()) } else { w.t().matmul(&w) };
            let want = Tensor::eye(5 + (shape[0] > 6) as usize, Device::cpu()) * 2.0;
            assert!((product - want).abs().max(()).item::<f32>()? < 1e-5);
        }
        Ok(())
    }
}

//! Fixed positions.

use crate::{Error, Options, Result, Tensor};

/// The sinusoidal positions of the first transformer (Vaswani et al., 2017), `[length, width]`: number 2i of position p is `sin(p / 10000^(2i/width))`, number
/// 2i + 1 the cosine.
///
/// ```
/// use fornax::transformers::sinusoidal;
/// use fornax::Device;
/// let table = sinusoidal(3, 4, Device::cpu())?.to_vec::<f32>()?;
/// assert_eq!(table[..4], [0.0, 1.0, 0.0, 1.0]);
/// assert!((table[4] - 1f32.sin()).abs() < 1e-6 && (table[11] - 0.02f32.cos()).abs() < 1e-6);
/// # Ok::<(), fornax::Error>(())
/// ```
///
/// # Errors
/// An odd width; sizes that memory cannot hold.
pub fn sinusoidal(length: usize, width: usize, options: impl Into<Options>) -> Result<Tensor> {
    if !width.is_multiple_of(2) {
        return Err(Error::argument("sinusoidal", format!("a width of {width}: sines and cosines come in pairs, an even one is wanted")));
    }
    let o = options.into();
    if length.checked_mul(width).is_none_or(|n| n > u32::MAX as usize) {
        return Err(Error::argument("sinusoidal", format!("{length} positions of {width} numbers: more than 2³² - 1 numbers")));
    }
    let angle = |p: usize, i: usize| p as f64 / 10_000f64.powf(2.0 * i as f64 / width as f64);
    let values = (0..length).flat_map(|p| (0..width / 2).flat_map(move |i| [angle(p, i).sin() as f32, angle(p, i).cos() as f32]));
    Tensor::from_vec(values.collect(), [length, width], o.device)?.try_cast(o.dtype)
}

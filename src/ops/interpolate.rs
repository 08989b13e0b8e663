//! Resampling of images: nearest, bilinear and bicubic, one axis after the other, as weighted sums of selected rows.

use super::conv::Pair;
use crate::{DType, Error, Result, Shape, Tensor};

const OP: &str = "interpolate";

/// How [`interpolate`](Tensor::interpolate) makes values between pixels.
///
/// ```
/// use fornax::{Device, Interpolation, Resize, Tensor};
/// let x = Tensor::ones([1, 3, 8, 8], Device::cpu());
/// assert_eq!(x.interpolate(Resize::To([4, 4].into()), Interpolation::Bicubic, false).dims(), [1, 3, 4, 4]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// The pixel at the rounded-down source position.
    Nearest,
    /// The pixel that holds the output pixel's centre: `nearest-exact`, what image libraries call nearest.
    NearestExact,
    /// Linear between the two (four) neighbours.
    Bilinear,
    /// Cubic convolution (a = −0.75) over four (sixteen) neighbours.
    Bicubic,
}

/// The size that [`interpolate`](Tensor::interpolate) makes: given, or by a factor for height and width.
///
/// ```
/// use fornax::Resize;
/// assert_eq!(Resize::from(2.0), Resize::By([2.0, 2.0]));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Resize {
    /// This height and width.
    To(Pair),
    /// Height and width times these factors, rounded down.
    By([f64; 2]),
}

impl From<f64> for Resize {
    fn from(factor: f64) -> Resize {
        Resize::By([factor, factor])
    }
}
impl From<Pair> for Resize {
    fn from(size: Pair) -> Resize {
        Resize::To(size)
    }
}
impl From<[usize; 2]> for Resize {
    fn from(size: [usize; 2]) -> Resize {
        Resize::To(size.into())
    }
}

/// One axis: the positions that each output reads, and their weights (none: all 1, one position an output).
struct Axis {
    positions: Vec<Vec<i32>>,
    weights: Vec<Vec<f64>>,
}

/// The distance in the input of two neighbours in the output.
fn spacing(size: usize, out: usize, factor: Option<f64>, align_corners: bool) -> f64 {
    match factor {
        _ if align_corners => {
            if out > 1 {
                (size - 1) as f64 / (out - 1) as f64
            } else {
                0.0
            }
        }
        Some(f) => 1.0 / f,
        None => size as f64 / out as f64,
    }
}

fn taps(size: usize, out: usize, factor: Option<f64>, mode: Interpolation, align_corners: bool) -> Axis {
    let last = size as isize - 1;
    let step = spacing(size, out, factor, align_corners);
    let clamp = |i: isize| i.clamp(0, last) as i32;
    match mode {
        Interpolation::Nearest | Interpolation::NearestExact => {
            // In f32, so that the choice at ties is the one everybody makes.
            let step = factor.map_or(size as f32 / out as f32, |f| (1.0 / f) as f32);
            let centre = if mode == Interpolation::NearestExact { 0.5 } else { 0.0 };
            let at = (0..out).map(|o| clamp(((o as f32 + centre) * step).floor() as isize)).collect();
            Axis { positions: vec![at], weights: Vec::new() }
        }
        Interpolation::Bilinear => {
            let source = |o: usize| if align_corners { o as f64 * step } else { ((o as f64 + 0.5) * step - 0.5).max(0.0) };
            let first = |o: usize| (source(o).floor() as isize).min(last);
            let right = |o: usize| (source(o) - first(o) as f64).clamp(0.0, 1.0);
            Axis {
                positions: vec![(0..out).map(|o| clamp(first(o))).collect(), (0..out).map(|o| clamp(first(o) + 1)).collect()],
                weights: vec![(0..out).map(|o| 1.0 - right(o)).collect(), (0..out).map(right).collect()],
            }
        }
        Interpolation::Bicubic => {
            const A: f64 = -0.75;
            let source = |o: usize| if align_corners { o as f64 * step } else { (o as f64 + 0.5) * step - 0.5 };
            // Distances up to 1, and from 1 to 2.
            let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
            let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
            let weight = |tap: usize, t: f64| match tap {
                0 => far(t + 1.0),
                1 => near(t),
                2 => near(1.0 - t),
                _ => far(2.0 - t),
            };
            let positions = (0..4).map(|tap| (0..out).map(|o| clamp(source(o).floor() as isize + tap - 1)).collect()).collect();
            let weights = (0..4).map(|tap| (0..out).map(|o| weight(tap, source(o) - source(o).floor())).collect()).collect();
            Axis { positions, weights }
        }
    }
}

/// Resamples one axis.
fn resample(x: &Tensor, axis: usize, a: &Axis) -> Result<Tensor> {
    let (size, out) = (x.dims()[axis], a.positions[0].len());
    if a.weights.is_empty() {
        let at = &a.positions[0];
        // Whole factors need no index: pixels repeated are a broadcast, pixels left out a slice.
        if out % size == 0 && at.iter().enumerate().all(|(o, &i)| i as usize == o / (out / size)) {
            let mut shape = x.shape().clone();
            shape.insert(axis + 1, out / size);
            let wide = x.try_unsqueeze(axis as isize + 1)?.try_expand(shape)?;
            let mut shape = x.shape().clone();
            shape[axis] = out;
            return wide.try_reshape(shape);
        }
        let step = if out > 1 { (at[1] - at[0]).max(1) } else { 1 };
        if at.iter().enumerate().all(|(o, &i)| i == at[0] + o as i32 * step) {
            let first = at[0] as isize;
            return x.try_slice(axis as isize, first, first + (out as isize - 1) * step as isize + 1, step as isize);
        }
    }
    let mut shape = Shape::from(vec![1; x.rank()]);
    shape[axis] = out;
    let mut sum: Option<Tensor> = None;
    for (t, at) in a.positions.iter().enumerate() {
        let mut part = x.try_index_select(axis as isize, &Tensor::from_slice(at, out, x.device())?)?;
        if let Some(w) = a.weights.get(t) {
            let weight = if x.dtype() == DType::F64 {
                Tensor::from_slice(w, &shape, x.device())?
            } else {
                Tensor::from_slice(&w.iter().map(|&w| w as f32).collect::<Vec<_>>(), &shape, x.device())?
            };
            part = part.try_mul(&weight)?;
        }
        sum = Some(match sum {
            Some(s) => s.try_add(&part)?,
            None => part,
        });
    }
    sum.ok_or_else(|| Error::argument(OP, "no positions"))
}

#[fornax_derive::fallible]
impl Tensor {
    /// Resamples images [N, C, H, W] (or sequences [N, C, L], of which only the second size or factor counts) to another size.
    ///
    /// Output pixel i lies at `(i + 0.5)·step − 0.5` of the input, with `step = in / out` (or 1/factor); with `align_corners` at
    /// `i·(in − 1)/(out − 1)`, so that the corner pixels fall together. Nearest takes pixel `i·step` rounded down and knows no
    /// `align_corners`. Outside the image the border's pixels repeat.
    ///
    /// # Errors
    /// `Error::Shape` for another rank or an empty image, `Error::Argument` for an empty result or a factor that is not positive,
    /// `Error::DType` for integers with another mode than nearest.
    ///
    /// ```
    /// use fornax::{Device, Interpolation, Tensor};
    /// let x = Tensor::from_vec(vec![0.0f32, 1.0], [1, 1, 1, 2], Device::cpu())?;
    /// let y = x.interpolate([1, 4], Interpolation::Bilinear, false);
    /// assert_eq!(y.to_vec::<f32>()?, [0.0, 0.25, 0.75, 1.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_interpolate(&self, size: impl Into<Resize>, mode: Interpolation, align_corners: bool) -> Result<Tensor> {
        let (size, r) = (size.into(), self.rank());
        if !(3..=4).contains(&r) || self.dims()[2..].contains(&0) {
            return Err(Error::shape(OP, &[self.shape()], "images [N, C, H, W] or sequences [N, C, L], not empty"));
        }
        if mode != Interpolation::Nearest && !self.dtype().is_float() {
            return Err(Error::dtype(OP, &[self.dtype()], "a float dtype: cast first, or use Interpolation::Nearest"));
        }
        if align_corners && mode == Interpolation::Nearest {
            return Err(Error::argument(OP, "align_corners has no meaning with Interpolation::Nearest"));
        }
        if mode == Interpolation::Bicubic && r != 4 {
            return Err(Error::shape(OP, &[self.shape()], "images [N, C, H, W] for Interpolation::Bicubic"));
        }
        let compute = self.dtype().compute();
        let mut x = if mode == Interpolation::Nearest || compute == self.dtype() { self.clone() } else { self.try_cast(compute)? };
        // The width first: what is read is contiguous and the height then works on fewer or more rows alike.
        for axis in (2..r).rev() {
            let which = axis + 4 - r - 2;
            let n = x.dims()[axis];
            let (out, factor) = match size {
                Resize::To(p) => (p.0[which], None),
                Resize::By(f) if f[which] > 0.0 && f[which] * (n as f64) < 1e9 => ((n as f64 * f[which]).floor() as usize, Some(f[which])),
                Resize::By(f) => {
                    return Err(Error::argument(OP, format!("factors {f:?} must be positive, and the result of sensible size")));
                }
            };
            if out == 0 || out > 1 << 24 {
                return Err(Error::argument(OP, format!("a result of {out} pixels along axis {axis}: 1 to 2^24 can be made")));
            }
            if out == n && (mode == Interpolation::Nearest || align_corners || factor.is_none_or(|f| f == 1.0)) {
                continue;
            }
            x = resample(&x, axis, &taps(n, out, factor, mode, align_corners))?;
        }
        x.try_cast(self.dtype())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_and_constants_stay() {
        for mode in [Interpolation::Bilinear, Interpolation::Bicubic] {
            for (size, out, corners) in [(5, 8, false), (5, 8, true), (9, 4, false), (1, 3, false), (3, 1, true)] {
                let a = taps(size, out, None, mode, corners);
                for o in 0..out {
                    let sum: f64 = a.weights.iter().map(|w| w[o]).sum();
                    assert!((sum - 1.0).abs() < 1e-12, "{mode:?} {size} {out}");
                    assert!(a.positions.iter().all(|p| (0..size as i32).contains(&p[o])));
                }
            }
        }
    }
}

//! Layers that change the size of images.

use super::{Forward, Module};
use crate::{Error, Interpolation, Resize, Result, Tensor};

/// Resamples images `[N, C, H, W]` or sequences `[N, C, L]`; see [`Tensor::interpolate`].
///
/// ```
/// use fornax::nn::{Forward, Upsample};
/// use fornax::{Device, Interpolation, Tensor};
/// let x = Tensor::ones([1, 3, 4, 5], Device::cpu());
/// assert_eq!(Upsample::new(2.0).forward(&x)?.dims(), [1, 3, 8, 10]);
/// assert_eq!(Upsample::new([6, 6]).mode(Interpolation::Bilinear).forward(&x)?.dims(), [1, 3, 6, 6]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Module)]
pub struct Upsample {
    /// The size of the result, or a factor.
    pub size: Resize,
    /// How values between the pixels are found.
    pub mode: Interpolation,
    /// Whether the corner pixels of input and output fall together.
    pub align_corners: bool,
}

impl Upsample {
    /// To this size, or by this factor; each pixel repeats its nearest neighbour.
    pub fn new(size: impl Into<Resize>) -> Upsample {
        Upsample { size: size.into(), mode: Interpolation::Nearest, align_corners: false }
    }

    /// Sets how values between the pixels are found.
    pub fn mode(mut self, mode: Interpolation) -> Upsample {
        self.mode = mode;
        self
    }

    /// Lets the corner pixels of input and output fall together.
    pub fn align_corners(mut self) -> Upsample {
        self.align_corners = true;
        self
    }
}

impl Forward for Upsample {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.try_interpolate(self.size, self.mode, self.align_corners)
    }
}

/// The sizes of `[.., C, H, W]`: what comes before, and the last three.
fn planes<'a>(op: &'static str, x: &'a Tensor, factor: usize) -> Result<(&'a [usize], [usize; 3])> {
    if factor == 0 {
        return Err(Error::argument(op, "a factor of at least 1 is wanted"));
    }
    match x.dims() {
        [before @ .., c, h, w] => Ok((before, [*c, *h, *w])),
        _ => Err(Error::shape(op, &[x.shape()], "an input [.., C, H, W]")),
    }
}

/// Turns channels into pixels, `[.., C·r², H, W]` into `[.., C, H·r, W·r]` (Shi et al. 2016).
///
/// ```
/// use fornax::nn::{Forward, PixelShuffle};
/// use fornax::{Device, Tensor};
/// let x = Tensor::arange(0, 4, 1, Device::cpu()).reshape([1, 4, 1, 1]);
/// let y = PixelShuffle { factor: 2 }.forward(&x)?;
/// assert_eq!(y.dims(), [1, 1, 2, 2]);
/// assert_eq!(y.to_vec::<f32>()?, [0.0, 1.0, 2.0, 3.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Module)]
pub struct PixelShuffle {
    /// The factor r of height and width.
    pub factor: usize,
}

impl Forward for PixelShuffle {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let r = self.factor;
        let (before, [c, h, w]) = planes("PixelShuffle", x, r)?;
        let square = r.saturating_mul(r);
        if !c.is_multiple_of(square) {
            return Err(Error::shape("PixelShuffle", &[x.shape()], format!("an input [.., C, H, W] with C a multiple of {square}")));
        }
        let c = c / square;
        let n: usize = before.iter().product();
        let y = x.try_reshape([n, c, r, r, h, w])?.try_permute(&[0, 1, 4, 2, 5, 3])?;
        y.try_reshape([before, &[c, h * r, w * r]].concat())
    }
}

/// The inverse of [`PixelShuffle`]: `[.., C, H·r, W·r]` into `[.., C·r², H, W]`.
///
/// ```
/// use fornax::nn::{Forward, PixelUnshuffle};
/// use fornax::{Device, Tensor};
/// let x = Tensor::ones([1, 3, 4, 6], Device::cpu());
/// assert_eq!(PixelUnshuffle { factor: 2 }.forward(&x)?.dims(), [1, 12, 2, 3]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Module)]
pub struct PixelUnshuffle {
    /// The factor r of height and width.
    pub factor: usize,
}

impl Forward for PixelUnshuffle {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let r = self.factor;
        let (before, [c, h, w]) = planes("PixelUnshuffle", x, r)?;
        if !h.is_multiple_of(r) || !w.is_multiple_of(r) {
            let expected = format!("an input [.., C, H, W] with H and W multiples of {r}");
            return Err(Error::shape("PixelUnshuffle", &[x.shape()], expected));
        }
        let n: usize = before.iter().product();
        let y = x.try_reshape([n, c, h / r, r, w / r, r])?.try_permute(&[0, 1, 3, 5, 2, 4])?;
        y.try_reshape([before, &[c * r * r, h / r, w / r]].concat())
    }
}

//! Size, place and orientation of images; the definitions are torchvision's for images of f32 numbers.

use super::Image;
use crate::{Error, Result};

/// How numbers between pixels are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Filter {
    /// The nearest pixel's.
    Nearest,
    /// Between the neighbours, in proportion to their distance. When an image is made smaller, over all pixels that one covers.
    #[default]
    Bilinear,
}

/// An image of at least one pixel.
fn check(op: &'static str, height: usize, width: usize) -> Result<()> {
    let fits = height.checked_mul(width).is_some_and(|n| n > 0 && n < isize::MAX as usize / 64);
    if fits {
        Ok(())
    } else {
        Err(Error::argument(op, format!("{height}×{width} pixels: there must be at least one, and memory for them")))
    }
}

impl Image {
    /// The image in another size. `Bilinear` smooths what it makes smaller, as Pillow and torchvision's `antialias` do.
    ///
    /// # Errors
    /// `Error::Argument` for a size of 0.
    ///
    /// ```
    /// use fornax::data::{Filter, Image};
    /// let image = Image::new(1, 1, 4, vec![0.0, 1.0, 2.0, 3.0])?;
    /// assert_eq!(image.resize(2, 2, Filter::Nearest)?.data(), [0.0, 2.0, 0.0, 2.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn resize(&self, height: usize, width: usize, filter: Filter) -> Result<Image> {
        check("resize", height, width)?;
        let (h, w) = (self.height, self.width);
        if filter == Filter::Nearest {
            let from = |i: usize, n: usize, m: usize| ((i as f32 * (n as f32 / m as f32)) as usize).min(n - 1);
            return Ok(self.remap(height, width, |plane, y, x| plane[from(y, h, height) * w + from(x, w, width)]));
        }
        let (across, down) = (triangles(w, width), triangles(h, height));
        let wide = self.remap(h, width, |plane, y, x| {
            let (first, weights) = &across[x];
            weights.iter().zip(&plane[y * w + first..]).map(|(a, b)| a * b).sum()
        });
        Ok(wide.remap(height, width, |plane, y, x| {
            let (first, weights) = &down[y];
            weights.iter().enumerate().map(|(i, a)| a * plane[(first + i) * width + x]).sum()
        }))
    }

    /// A part of the image. What lies outside the image is 0.
    ///
    /// # Errors
    /// `Error::Argument` for a size of 0.
    ///
    /// ```
    /// use fornax::data::Image;
    /// let image = Image::new(1, 2, 2, vec![0.0, 0.25, 0.5, 1.0])?;
    /// assert_eq!(image.crop(1, 1, 1, 2)?.data(), [1.0, 0.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn crop(&self, top: isize, left: isize, height: usize, width: usize) -> Result<Image> {
        check("crop", height, width)?;
        Ok(self.remap(height, width, |plane, y, x| {
            let (y, x) = (top.saturating_add_unsigned(y), left.saturating_add_unsigned(x));
            let inside = y >= 0 && x >= 0 && (y as usize) < self.height && (x as usize) < self.width;
            if inside { plane[y as usize * self.width + x as usize] } else { 0.0 }
        }))
    }

    /// The middle of the image. Where it is smaller than that, it is surrounded by zeros.
    ///
    /// # Errors
    /// `Error::Argument` for a size of 0.
    ///
    /// ```
    /// use fornax::data::Image;
    /// let image = Image::new(1, 2, 2, vec![0.0, 0.25, 0.5, 1.0])?;
    /// assert_eq!(image.center_crop(2, 4)?.data(), [0.0, 0.0, 0.25, 0.0, 0.0, 0.5, 1.0, 0.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn center_crop(&self, height: usize, width: usize) -> Result<Image> {
        // Zeros are put around a small image first, the odd one below and on the right.
        let start = |from: usize, to: usize| match to.checked_sub(from) {
            Some(missing) => -((missing / 2) as isize),
            None => ((from - to) as f64 / 2.0).round_ties_even() as isize,
        };
        self.crop(start(self.height, height), start(self.width, width), height, width)
    }

    /// Left and right exchanged.
    ///
    /// ```
    /// use fornax::data::Image;
    /// let image = Image::new(1, 2, 2, vec![0.0, 0.25, 0.5, 1.0])?;
    /// assert_eq!(image.flip_horizontal().data(), [0.25, 0.0, 1.0, 0.5]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn flip_horizontal(&self) -> Image {
        self.remap(self.height, self.width, |plane, y, x| plane[(y + 1) * self.width - 1 - x])
    }

    /// Top and bottom exchanged.
    ///
    /// ```
    /// use fornax::data::Image;
    /// let image = Image::new(1, 2, 2, vec![0.0, 0.25, 0.5, 1.0])?;
    /// assert_eq!(image.flip_vertical().data(), [0.5, 1.0, 0.0, 0.25]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn flip_vertical(&self) -> Image {
        self.remap(self.height, self.width, |plane, y, x| plane[(self.height - 1 - y) * self.width + x])
    }

    /// The image turned counterclockwise about its middle by an angle in degrees, in its old frame; `fill` where there is nothing.
    ///
    /// ```
    /// use fornax::data::{Filter, Image};
    /// let image = Image::new(1, 2, 2, vec![0.0, 0.25, 0.5, 1.0])?;
    /// assert_eq!(image.rotate(90.0, Filter::Nearest, 0.0).data(), [0.25, 1.0, 0.0, 0.5]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn rotate(&self, degrees: f64, filter: Filter, fill: f32) -> Image {
        // Every computation is exact for no turn and half a turn.
        match degrees.rem_euclid(360.0) {
            0.0 => self.clone(),
            180.0 => self.flip_horizontal().flip_vertical(),
            d if d == 90.0 && self.height == self.width => {
                self.remap(self.height, self.width, |plane, y, x| plane[x * self.width + self.width - 1 - y])
            }
            d if d == 270.0 && self.height == self.width => {
                self.remap(self.height, self.width, |plane, y, x| plane[(self.height - 1 - x) * self.width + y])
            }
            d => self.warp(inverse(-d, (0.0, 0.0), 1.0, (0.0, 0.0)), filter, fill),
        }
    }

    /// The image sheared by two angles in degrees, scaled, turned clockwise about its middle by an angle in degrees, and moved right and down by
    /// so many pixels, in its old frame; `fill` where there is nothing.
    ///
    /// # Errors
    /// `Error::Argument` for a scale that is not positive.
    ///
    /// ```
    /// use fornax::data::{Filter, Image};
    /// let image = Image::new(1, 2, 2, vec![0.0, 0.25, 0.5, 1.0])?;
    /// let right = image.affine(0.0, (1.0, 0.0), 1.0, (0.0, 0.0), Filter::Nearest, 0.75)?;
    /// assert_eq!(right.data(), [0.75, 0.0, 0.75, 0.5]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn affine(&self, degrees: f64, shift: (f64, f64), scale: f64, shear: (f64, f64), filter: Filter, fill: f32) -> Result<Image> {
        if !(scale > 0.0 && scale.is_finite()) {
            return Err(Error::argument("affine", format!("scale {scale} must be positive")));
        }
        Ok(self.warp(inverse(degrees, shift, scale, shear), filter, fill))
    }

    /// The image whose pixel at p, measured from the middle, is found at `matrix` · (p, 1).
    fn warp(&self, matrix: [f64; 6], filter: Filter, fill: f32) -> Image {
        let m = matrix.map(|v| v as f32);
        let (h, w) = (self.height as isize, self.width as isize);
        let source = |y: usize, x: usize| {
            let (px, py) = (x as f32 + 0.5 - 0.5 * w as f32, y as f32 + 0.5 - 0.5 * h as f32);
            let sx = m[0] * px + m[1] * py + m[2] + 0.5 * w as f32 - 0.5;
            let sy = m[3] * px + m[4] * py + m[5] + 0.5 * h as f32 - 0.5;
            (sy, sx)
        };
        let inside = |y: isize, x: isize| (y >= 0 && x >= 0 && y < h && x < w).then(|| (y * w + x) as usize);
        self.remap(self.height, self.width, |plane, y, x| {
            let (sy, sx) = source(y, x);
            if filter == Filter::Nearest {
                return inside(sy.round_ties_even() as isize, sx.round_ties_even() as isize).map_or(fill, |i| plane[i]);
            }
            let (y0, x0) = (sy.floor(), sx.floor());
            let (fy, fx) = (sy - y0, sx - x0);
            let (mut sum, mut covered) = (0.0, 0.0);
            for (dy, dx, weight) in [(0, 0, (1.0 - fy) * (1.0 - fx)), (0, 1, (1.0 - fy) * fx), (1, 0, fy * (1.0 - fx)), (1, 1, fy * fx)] {
                if let Some(i) = inside((y0 as isize).saturating_add(dy), (x0 as isize).saturating_add(dx)) {
                    sum += weight * plane[i];
                    covered += weight;
                }
            }
            // torchvision multiplies by the cover once more at the edges; with nothing to fill in both are the plain sum.
            if fill == 0.0 { sum } else { (sum - fill) * covered + fill }
        })
    }
}

/// The weights of the pixels that each new one covers, and the first of them.
fn triangles(from: usize, to: usize) -> Vec<(usize, Vec<f32>)> {
    let scale = from as f64 / to as f64;
    let support = scale.max(1.0);
    let weights = |i: usize| {
        let center = scale * (i as f64 + 0.5);
        let first = ((center - support + 0.5) as isize).max(0) as usize;
        let end = ((center + support + 0.5) as usize).min(from).max(first + 1);
        let weights: Vec<f64> = (first..end).map(|j| (1.0 - ((j as f64 - center + 0.5) / support).abs()).max(0.0)).collect();
        let sum: f64 = weights.iter().sum();
        (first, weights.iter().map(|w| (w / sum) as f32).collect())
    };
    (0..to).map(weights).collect()
}

/// The inverse of: shear, scale, turn clockwise, shift; all about the middle.
fn inverse(degrees: f64, shift: (f64, f64), scale: f64, shear: (f64, f64)) -> [f64; 6] {
    let (turn, sx, sy) = (degrees.to_radians(), shear.0.to_radians(), shear.1.to_radians());
    let a = (turn - sy).cos() / sy.cos();
    let b = -(a * sx.tan() + turn.sin());
    let c = (turn - sy).sin() / sy.cos();
    let d = turn.cos() - c * sx.tan();
    // The determinant of [a b; c d] is 1.
    let (a, b, c, d) = (d / scale, -b / scale, -c / scale, a / scale);
    [a, b, -a * shift.0 - b * shift.1, c, d, -c * shift.0 - d * shift.1]
}

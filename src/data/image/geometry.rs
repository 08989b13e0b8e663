//! Size, place and orientation of images; the definitions are torchvision's for images of f32 numbers.

use super::Image;
use crate::{Error, PadMode, Result};

/// How numbers between pixels are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Filter {
    /// The nearest pixel's.
    Nearest,
    /// Between the neighbours, in proportion to their distance. When an image is made smaller, over all pixels that one covers.
    #[default]
    Bilinear,
    /// By a cubic through the neighbours, as Pillow's `BICUBIC`: overshoots at edges. When an image is made smaller, over all pixels that one covers.
    Bicubic,
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
    /// The image in another size. `Bilinear` and `Bicubic` smooth what they make smaller, as Pillow and torchvision's `antialias` do.
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
        let (across, down) = (coverage(w, width, filter), coverage(h, height, filter));
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

    /// The image with so many more pixels above, on the left, below and on the right.
    ///
    /// # Errors
    /// `Error::Argument` for more pixels than memory can hold, and for more than the image has to mirror or to repeat.
    ///
    /// ```
    /// use fornax::PadMode;
    /// use fornax::data::Image;
    /// let image = Image::new(1, 1, 3, vec![0.25, 0.5, 1.0])?;
    /// assert_eq!(image.pad([0, 2, 0, 1], PadMode::Reflect)?.data(), [1.0, 0.5, 0.25, 0.5, 1.0, 0.5]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn pad(&self, [top, left, bottom, right]: [usize; 4], mode: PadMode) -> Result<Image> {
        let (h, w) = (self.height, self.width);
        let (height, width) = (h.saturating_add(top).saturating_add(bottom), w.saturating_add(left).saturating_add(right));
        check("pad", height, width)?;
        let most = |n: usize| match mode {
            PadMode::Reflect => n - 1,
            PadMode::Circular => n,
            PadMode::Constant(_) | PadMode::Replicate => usize::MAX,
        };
        if top.max(bottom) > most(h) || left.max(right) > most(w) {
            let message =
                format!("{top}, {left}, {bottom} and {right} pixels around {h}×{w}: {mode:?} takes at most {} and {}", most(h), most(w));
            return Err(Error::argument("pad", message));
        }
        // The place of number `i − before` of `n`.
        let place = |i: usize, before: usize, n: usize| match mode {
            PadMode::Constant(_) => i.checked_sub(before).filter(|&i| i < n),
            PadMode::Replicate => Some(i.saturating_sub(before).min(n - 1)),
            PadMode::Circular => Some((i + n - before) % n),
            PadMode::Reflect => {
                let i = i.abs_diff(before);
                Some(if i < n { i } else { 2 * (n - 1) - i })
            }
        };
        let fill = if let PadMode::Constant(value) = mode { value as f32 } else { 0.0 };
        Ok(self.remap(height, width, |plane, y, x| match (place(y, top, h), place(x, left, w)) {
            (Some(y), Some(x)) => plane[y * w + x],
            _ => fill,
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
            d => self.warp(inverse(-d, (0.0, 0.0), 1.0, (0.0, 0.0)), self.height, self.width, filter, fill),
        }
    }

    /// The same in a frame that holds the turned image whole (torchvision's `expand`).
    ///
    /// ```
    /// use fornax::data::{Filter, Image};
    /// let image = Image::new(1, 1, 2, vec![0.25, 0.5])?;
    /// let upright = image.rotate_whole(90.0, Filter::Nearest, 0.0);
    /// assert_eq!((upright.height(), upright.width(), upright.data()), (2, 1, &[0.5, 0.25][..]));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn rotate_whole(&self, degrees: f64, filter: Filter, fill: f32) -> Image {
        let d = degrees.rem_euclid(360.0);
        if self.height != self.width && (d == 90.0 || d == 270.0) {
            let (h, w) = (self.height, self.width);
            return self.remap(w, h, |plane, y, x| if d == 90.0 { plane[x * w + w - 1 - y] } else { plane[(h - 1 - x) * w + y] });
        }
        if !degrees.is_finite() || d % 90.0 == 0.0 {
            return self.rotate(degrees, filter, fill);
        }
        let matrix = inverse(-d, (0.0, 0.0), 1.0, (0.0, 0.0));
        let (h, w) = (self.height as f64, self.width as f64);
        // The corners, turned; a hair's breadth beyond a pixel's edge makes no pixel.
        let size = |a: f64, b: f64, old: f64| {
            let corners = [(-w, -h), (-w, h), (w, h), (w, -h)].map(|(x, y)| (a * x + b * y) / 2.0);
            let (low, high) = corners.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, u), &c| (l.min(c), u.max(c)));
            let cut = |v: f64| (v / 1e-4).trunc() * 1e-4;
            (cut(high + old / 2.0).ceil() - cut(low + old / 2.0).floor()) as usize
        };
        let (width, height) = (size(matrix[0], matrix[1], w), size(matrix[3], matrix[4], h));
        self.warp(matrix, height, width, filter, fill)
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
        Ok(self.warp(inverse(degrees, shift, scale, shear), self.height, self.width, filter, fill))
    }

    /// The image of another frame whose pixel at p, measured from the middle, is found at `matrix` · (p, 1).
    fn warp(&self, matrix: [f64; 6], height: usize, width: usize, filter: Filter, fill: f32) -> Image {
        let m = matrix.map(|v| v as f32);
        let (h, w) = (self.height as isize, self.width as isize);
        let source = |y: usize, x: usize| {
            let (px, py) = (x as f32 + 0.5 - 0.5 * width as f32, y as f32 + 0.5 - 0.5 * height as f32);
            let sx = m[0] * px + m[1] * py + m[2] + 0.5 * w as f32 - 0.5;
            let sy = m[3] * px + m[4] * py + m[5] + 0.5 * h as f32 - 0.5;
            (sy, sx)
        };
        let inside = |y: isize, x: isize| (y >= 0 && x >= 0 && y < h && x < w).then(|| (y * w + x) as usize);
        self.remap(height, width, |plane, y, x| {
            let (sy, sx) = source(y, x);
            if filter == Filter::Nearest {
                return inside(sy.round_ties_even() as isize, sx.round_ties_even() as isize).map_or(fill, |i| plane[i]);
            }
            if filter == Filter::Bicubic {
                return cubic(plane, h, w, sy, sx).unwrap_or(fill);
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
            // torchvision multiplies by the cover once more at the edges.
            (sum - fill) * covered + fill
        })
    }
}

/// The number at a place between pixels, by Pillow's cubic (a = −1); `None` outside of the image.
fn cubic(plane: &[f32], h: isize, w: isize, sy: f32, sx: f32) -> Option<f32> {
    let within = |at: f32, n: isize| at >= -0.5 && at < n as f32 - 0.5;
    if !(within(sy, h) && within(sx, w)) {
        return None;
    }
    let (y0, x0) = (sy.floor(), sx.floor());
    let curve = |v: [f32; 4], d: f32| v[1] + d * (v[2] - v[0] + d * (2.0 * (v[0] - v[1]) + v[2] - v[3] + d * (v[1] - v[0] - v[2] + v[3])));
    let number = |i: isize, n: isize| i.clamp(0, n - 1);
    let row = |y: isize| {
        let at = |x: isize| plane[(number(y0 as isize + y, h) * w + number(x0 as isize + x, w)) as usize];
        curve([at(-1), at(0), at(1), at(2)], sx - x0)
    };
    Some(curve([row(-1), row(0), row(1), row(2)], sy - y0))
}

/// The weights of the pixels that each new one covers, and the first of them.
fn coverage(from: usize, to: usize, filter: Filter) -> Vec<(usize, Vec<f32>)> {
    let scale = from as f64 / to as f64;
    // Half of the filter's width, in its own units.
    let (reach, weight): (f64, fn(f64) -> f64) = match filter {
        Filter::Bicubic => (2.0, |x| {
            // Keys' cubic with a = −1/2.
            if x < 1.0 { (1.5 * x - 2.5) * x * x + 1.0 } else { (((-0.5 * x) + 2.5) * x - 4.0) * x + 2.0 }
        }),
        _ => (1.0, |x| 1.0 - x),
    };
    let wide = scale.max(1.0);
    let support = reach * wide;
    let weights = |i: usize| {
        let center = scale * (i as f64 + 0.5);
        let first = ((center - support + 0.5) as isize).max(0) as usize;
        let end = ((center + support + 0.5) as usize).min(from).max(first + 1);
        let at = |j: usize| ((j as f64 - center + 0.5) / wide).abs();
        let weights: Vec<f64> = (first..end).map(|j| if at(j) < reach { weight(at(j)) } else { 0.0 }).collect();
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

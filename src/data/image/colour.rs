//! Colours of images, and what is done to their numbers; the definitions are torchvision's for images of f32 numbers from 0 to 1.

use super::Image;
use crate::{Error, Result};

impl Image {
    /// The image with this many channels, 1 or 3, all of them its lightness: 0.2989 red + 0.587 green + 0.114 blue.
    ///
    /// # Errors
    /// `Error::Argument` for another number of channels, asked for or there.
    ///
    /// ```
    /// use fornax::data::Image;
    /// let image = Image::new(3, 1, 2, vec![1.0, 0.5, 0.0, 0.5, 0.0, 0.5])?; // red, and gray
    /// assert_eq!(image.grayscale(1)?.data()[0], 0.2989);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn grayscale(&self, channels: usize) -> Result<Image> {
        self.colour("grayscale")?;
        if channels != 1 && channels != 3 {
            return Err(Error::argument("grayscale", format!("{channels} channels: there can be 1 or 3")));
        }
        let gray = self.lightness();
        let data = if channels == 3 { [&gray[..]; 3].concat() } else { gray };
        Image::new(channels, self.height, self.width, data)
    }

    /// One or three channels.
    fn colour(&self, op: &'static str) -> Result<()> {
        if self.channels == 1 || self.channels == 3 {
            return Ok(());
        }
        Err(Error::argument(op, format!("an image of {} channels: it must have 1 or 3", self.channels)))
    }

    /// The image's only channel, or the lightness of its three.
    fn lightness(&self) -> Vec<f32> {
        let n = self.height * self.width;
        let (red, rest) = self.data.split_at(n);
        if rest.is_empty() {
            return red.to_vec();
        }
        red.iter().zip(rest).zip(&rest[n..]).map(|((r, g), b)| 0.2989 * r + 0.587 * g + 0.114 * b).collect()
    }

    /// `factor` of the image and the rest of `other`'s numbers, kept between 0 and 1.
    fn blend(&self, factor: f32, other: impl Fn(usize) -> f32) -> Image {
        let data = self.data.iter().enumerate().map(|(i, v)| (v * factor + (1.0 - factor) * other(i)).clamp(0.0, 1.0)).collect();
        Image { data, ..*self }
    }

    /// The image this many times as bright: 0 is black, 1 as it is.
    ///
    /// # Errors
    /// `Error::Argument` for a negative factor.
    ///
    /// ```
    /// use fornax::data::Image;
    /// let image = Image::new(3, 1, 2, vec![1.0, 0.5, 0.0, 0.5, 0.0, 0.5])?; // red, and gray
    /// assert_eq!(image.adjust_brightness(0.5)?.at(0, 0, 0), 0.5);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn adjust_brightness(&self, factor: f32) -> Result<Image> {
        positive("adjust_brightness", factor)?;
        Ok(self.blend(factor, |_| 0.0))
    }

    /// The image with this many times its contrast: 0 is its mean lightness everywhere, 1 as it is.
    ///
    /// # Errors
    /// `Error::Argument` for a negative factor, or an image of other than 1 or 3 channels.
    ///
    /// ```
    /// use fornax::data::Image;
    /// let image = Image::new(3, 1, 2, vec![1.0, 0.5, 0.0, 0.5, 0.0, 0.5])?; // red, and gray
    /// let flat = image.adjust_contrast(0.0)?;
    /// assert_eq!(flat.at(0, 0, 0), flat.at(2, 0, 1));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn adjust_contrast(&self, factor: f32) -> Result<Image> {
        positive("adjust_contrast", factor)?;
        self.colour("adjust_contrast")?;
        let light = self.lightness();
        let mean = light.iter().map(|&v| f64::from(v)).sum::<f64>() / light.len() as f64;
        Ok(self.blend(factor, |_| mean as f32))
    }

    /// The image with this many times its saturation: 0 is gray, 1 as it is.
    ///
    /// # Errors
    /// As [`adjust_contrast`](Image::adjust_contrast).
    ///
    /// ```
    /// use fornax::data::Image;
    /// let image = Image::new(3, 1, 2, vec![1.0, 0.5, 0.0, 0.5, 0.0, 0.5])?; // red, and gray
    /// assert_eq!(image.adjust_saturation(0.0)?, image.grayscale(3)?);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn adjust_saturation(&self, factor: f32) -> Result<Image> {
        positive("adjust_saturation", factor)?;
        self.colour("adjust_saturation")?;
        if self.channels == 1 {
            return Ok(self.clone());
        }
        let light = self.lightness();
        Ok(self.blend(factor, |i| light[i % light.len()]))
    }

    /// The image with its hues turned by this part of the circle of colours, from -0.5 to 0.5. Gray stays gray.
    ///
    /// # Errors
    /// `Error::Argument` for more, or an image of other than 1 or 3 channels.
    ///
    /// ```
    /// use fornax::data::Image;
    /// let image = Image::new(3, 1, 2, vec![1.0, 0.5, 0.0, 0.5, 0.0, 0.5])?; // red, and gray
    /// let blue = image.adjust_hue(-1.0 / 3.0)?;
    /// assert!(blue.at(2, 0, 0) > 0.99 && blue.at(0, 0, 0) < 0.01);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn adjust_hue(&self, turn: f32) -> Result<Image> {
        if !(-0.5..=0.5).contains(&turn) {
            return Err(Error::argument("adjust_hue", format!("{turn} must be from -0.5 to 0.5")));
        }
        self.colour("adjust_hue")?;
        let mut image = self.clone();
        if self.channels == 1 {
            return Ok(image);
        }
        let n = self.height * self.width;
        for i in 0..n {
            let (hue, saturation, value) = hsv([self.data[i], self.data[n + i], self.data[2 * n + i]]);
            let rgb = rgb((hue + turn).rem_euclid(1.0), saturation, value);
            (0..3).for_each(|c| image.data[c * n + i] = rgb[c]);
        }
        Ok(image)
    }

    /// Each channel less its mean, divided by its standard deviation. One number stands for all channels.
    ///
    /// # Errors
    /// `Error::Argument` where there are neither one nor as many numbers as channels, or a deviation is 0.
    ///
    /// ```
    /// use fornax::data::Image;
    /// let image = Image::new(3, 1, 2, vec![1.0, 0.5, 0.0, 0.5, 0.0, 0.5])?; // red, and gray
    /// assert_eq!(image.normalize(&[0.5], &[0.25])?.at(0, 0, 0), 2.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn normalize(&self, mean: &[f32], std: &[f32]) -> Result<Image> {
        if [mean, std].iter().any(|v| v.len() != 1 && v.len() != self.channels) || std.contains(&0.0) {
            let message =
                format!("means {mean:?} and deviations {std:?}: one, or one for each of {} channels, no deviation 0", self.channels);
            return Err(Error::argument("normalize", message));
        }
        let n = self.height * self.width;
        let at = |v: &[f32], c: usize| if v.len() == 1 { v[0] } else { v[c] };
        let data = self.data.iter().enumerate().map(|(i, v)| (v - at(mean, i / n)) / at(std, i / n)).collect();
        Ok(Image { data, ..*self })
    }

    /// The image with a rectangle filled; what of it lies outside is left out.
    ///
    /// ```
    /// use fornax::data::Image;
    /// let image = Image::new(3, 1, 2, vec![1.0, 0.5, 0.0, 0.5, 0.0, 0.5])?; // red, and gray
    /// assert_eq!(image.erase(0, 0, 1, 1, 0.25).data(), [0.25, 0.5, 0.25, 0.5, 0.25, 0.5]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn erase(&self, top: usize, left: usize, height: usize, width: usize, value: f32) -> Image {
        let (rows, columns) = (top..top.saturating_add(height), left..left.saturating_add(width));
        self.remap(
            self.height,
            self.width,
            |plane, y, x| {
                if rows.contains(&y) && columns.contains(&x) { value } else { plane[y * self.width + x] }
            },
        )
    }

    /// The image seen through a Gaussian of `kernel` × `kernel` pixels (odd) and this standard deviation; edges are mirrored.
    ///
    /// # Errors
    /// `Error::Argument` for an even kernel, one that does not fit the image twice, or a deviation that is not positive.
    ///
    /// ```
    /// use fornax::data::Image;
    /// let dot = Image::new(1, 3, 3, vec![0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])?;
    /// let soft = dot.gaussian_blur(3, 1.0)?;
    /// assert!(soft.at(0, 1, 1) < 0.5 && soft.at(0, 0, 0) > 0.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn gaussian_blur(&self, kernel: usize, sigma: f64) -> Result<Image> {
        let half = kernel / 2;
        if kernel.is_multiple_of(2) || half >= self.height.min(self.width) || !(sigma > 0.0) {
            let message = format!("kernel {kernel} must be odd and less than twice the image's size, deviation {sigma} positive");
            return Err(Error::argument("gaussian_blur", message));
        }
        let weights: Vec<f64> = (0..kernel).map(|i| (-0.5 * ((i as f64 - half as f64) / sigma).powi(2)).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let weights: Vec<f32> = weights.iter().map(|w| (w / sum) as f32).collect();
        let mirror = |i: usize, n: usize| {
            let at = (i as isize - half as isize).unsigned_abs();
            if at < n { at } else { 2 * (n - 1) - at }
        };
        let (h, w) = (self.height, self.width);
        let across = self.remap(h, w, |plane, y, x| weights.iter().enumerate().map(|(i, k)| k * plane[y * w + mirror(x + i, w)]).sum());
        Ok(across.remap(h, w, |plane, y, x| weights.iter().enumerate().map(|(i, k)| k * plane[mirror(y + i, h) * w + x]).sum()))
    }
}

fn positive(op: &'static str, factor: f32) -> Result<()> {
    if factor >= 0.0 { Ok(()) } else { Err(Error::argument(op, format!("factor {factor} must be at least 0"))) }
}

/// Hue from 0 to 1, saturation and value (Smith 1978).
fn hsv([r, g, b]: [f32; 3]) -> (f32, f32, f32) {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    let range = most - least;
    if range == 0.0 {
        return (0.0, 0.0, most);
    }
    let [rc, gc, bc] = [r, g, b].map(|v| (most - v) / range);
    let sixths = if most == r {
        bc - gc
    } else if most == g {
        2.0 + rc - bc
    } else {
        4.0 + gc - rc
    };
    ((sixths / 6.0).rem_euclid(1.0), range / most, most)
}

/// The other way.
fn rgb(hue: f32, saturation: f32, value: f32) -> [f32; 3] {
    let sixths = hue * 6.0;
    let f = sixths - sixths.floor();
    let p = ((1.0 - saturation) * value).clamp(0.0, 1.0);
    let q = ((1.0 - saturation * f) * value).clamp(0.0, 1.0);
    let t = ((1.0 - saturation * (1.0 - f)) * value).clamp(0.0, 1.0);
    match sixths.floor() as i32 % 6 {
        0 => [value, t, p],
        1 => [q, value, p],
        2 => [p, value, t],
        3 => [p, q, value],
        4 => [t, p, value],
        _ => [value, p, q],
    }
}

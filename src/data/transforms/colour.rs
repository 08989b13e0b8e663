//! Transforms of colour and of single pixels.

use super::super::{Image, Rng};
use super::{Transform, rectangle};
use crate::{Error, Result};

/// Changes brightness, contrast, saturation and hue at random, in a random order.
///
/// ```
/// use fornax::data::transforms::{ColorJitter, Transform};
/// use fornax::data::{Image, Rng};
/// let image = Image::new(3, 1, 1, vec![0.5, 0.25, 0.25])?;
/// let jitter = ColorJitter::new(0.4, 0.4, 0.4, 0.1);
/// let changed = jitter.apply(image.clone(), &mut Rng::new(1))?;
/// assert_ne!(changed, image);
/// assert_eq!(changed, jitter.apply(image, &mut Rng::new(1))?);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ColorJitter {
    brightness: f64,
    contrast: f64,
    saturation: f64,
    hue: f64,
}

impl ColorJitter {
    /// The first three factors are drawn from 1 - x (at least 0) to 1 + x, the turn of the hues from -x to x (at most 0.5).
    pub fn new(brightness: f64, contrast: f64, saturation: f64, hue: f64) -> ColorJitter {
        ColorJitter { brightness, contrast, saturation, hue }
    }
}

impl Transform for ColorJitter {
    fn apply(&self, image: Image, rng: &mut Rng) -> Result<Image> {
        let all = [self.brightness, self.contrast, self.saturation, self.hue];
        if !all.iter().all(|&v| v >= 0.0) || self.hue > 0.5 {
            return Err(Error::argument("ColorJitter", format!("{all:?} must be at least 0, and the last, the hue, at most 0.5")));
        }
        let mut order = [0, 1, 2, 3];
        rng.shuffle(&mut order);
        // Drawn in one order, whatever order they are used in.
        let draws = [0, 1, 2, 3].map(|i| {
            let (low, high) = if i == 3 { (-all[3], all[3]) } else { ((1.0 - all[i]).max(0.0), 1.0 + all[i]) };
            rng.uniform(low, high) as f32
        });
        order.into_iter().filter(|&i| all[i] > 0.0).try_fold(image, |image, i| match i {
            0 => image.adjust_brightness(draws[0]),
            1 => image.adjust_contrast(draws[1]),
            2 => image.adjust_saturation(draws[2]),
            _ => image.adjust_hue(draws[3].clamp(-0.5, 0.5)),
        })
    }
}

/// Takes the colour away: see [`Image::grayscale`].
///
/// ```
/// use fornax::data::transforms::{Grayscale, Transform};
/// use fornax::data::{Image, Rng};
/// let image = Image::new(1, 8, 8, vec![0.5; 64])?;
/// let image = Grayscale::new(3).apply(image, &mut Rng::new(0))?;
/// assert_eq!(image.channels(), 3);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Grayscale {
    channels: usize,
}

impl Grayscale {
    /// Leaves this many channels, 1 or 3, all the same.
    pub fn new(channels: usize) -> Grayscale {
        Grayscale { channels }
    }
}

impl Transform for Grayscale {
    fn apply(&self, image: Image, _: &mut Rng) -> Result<Image> {
        image.grayscale(self.channels)
    }
}

/// Blurs with a Gaussian of random width: see [`Image::gaussian_blur`].
///
/// ```
/// use fornax::data::transforms::{GaussianBlur, Transform};
/// use fornax::data::{Image, Rng};
/// let image = Image::new(1, 8, 8, vec![0.5; 64])?;
/// let image = GaussianBlur::new(3).sigma(0.5, 1.0).apply(image, &mut Rng::new(0))?;
/// assert!((image.at(0, 4, 4) - 0.5).abs() < 1e-6);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct GaussianBlur {
    kernel: usize,
    sigma: (f64, f64),
}

impl GaussianBlur {
    /// With a kernel of this many pixels (odd), and a standard deviation from 0.1 to 2.
    pub fn new(kernel: usize) -> GaussianBlur {
        GaussianBlur { kernel, sigma: (0.1, 2.0) }
    }

    /// The bounds of the standard deviation.
    pub fn sigma(mut self, low: f64, high: f64) -> GaussianBlur {
        self.sigma = (low, high);
        self
    }
}

impl Transform for GaussianBlur {
    fn apply(&self, image: Image, rng: &mut Rng) -> Result<Image> {
        image.gaussian_blur(self.kernel, rng.uniform(self.sigma.0, self.sigma.1))
    }
}

/// Takes each channel's mean away, and divides by its standard deviation: see [`Image::normalize`].
///
/// ```
/// use fornax::data::transforms::{Normalize, Transform};
/// use fornax::data::{Image, Rng};
/// let image = Image::new(1, 8, 8, vec![0.5; 64])?;
/// let image = Normalize::new(&[0.5], &[0.25]).apply(image, &mut Rng::new(0))?;
/// assert_eq!(image.at(0, 0, 0), 0.0);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Normalize {
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Normalize {
    /// With a number for each channel, or one for all.
    pub fn new(mean: &[f32], std: &[f32]) -> Normalize {
        Normalize { mean: mean.to_vec(), std: std.to_vec() }
    }
}

impl Transform for Normalize {
    fn apply(&self, image: Image, _: &mut Rng) -> Result<Image> {
        image.normalize(&self.mean, &self.std)
    }
}

/// Fills a random rectangle (Zhong et al. 2017): see [`Image::erase`].
///
/// ```
/// use fornax::data::transforms::{RandomErasing, Transform};
/// use fornax::data::{Image, Rng};
/// let image = Image::new(1, 8, 8, vec![0.5; 64])?;
/// let image = RandomErasing::new(1.0).value(0.25).apply(image, &mut Rng::new(0))?;
/// assert!(image.data().contains(&0.25));
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RandomErasing {
    p: f64,
    scale: (f64, f64),
    ratio: (f64, f64),
    value: f32,
}

impl RandomErasing {
    /// With this probability, of 0.02 to 0.33 of the image's area, a ratio of height to width of 0.3 to 3.3, with zeros.
    pub fn new(p: f64) -> RandomErasing {
        RandomErasing { p, scale: (0.02, 0.33), ratio: (0.3, 3.3), value: 0.0 }
    }

    /// The bounds of the rectangle's area, as parts of the image's.
    pub fn scale(mut self, low: f64, high: f64) -> RandomErasing {
        self.scale = (low, high);
        self
    }

    /// The bounds of its height by its width.
    pub fn ratio(mut self, low: f64, high: f64) -> RandomErasing {
        self.ratio = (low, high);
        self
    }

    /// What it is filled with.
    pub fn value(mut self, value: f32) -> RandomErasing {
        self.value = value;
        self
    }
}

impl Transform for RandomErasing {
    fn apply(&self, image: Image, rng: &mut Rng) -> Result<Image> {
        if !rng.chance(self.p) {
            return Ok(image);
        }
        let ratio = (1.0 / self.ratio.1, 1.0 / self.ratio.0);
        Ok(match rectangle(&image, self.scale, ratio, false, rng) {
            Some((top, left, height, width)) => image.erase(top, left, height, width, self.value),
            None => image,
        })
    }
}

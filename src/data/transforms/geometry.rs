//! Transforms of size, place and orientation.

use super::super::{Filter, Image, Rng};
use super::{Transform, rectangle};
use crate::{Error, PadMode, Result};

/// Changes the size.
///
/// ```
/// use fornax::data::transforms::{Resize, Transform};
/// use fornax::data::{Image, Rng};
/// let image = Image::new(1, 10, 20, vec![0.5; 200])?;
/// let image = Resize::shorter(5).apply(image, &mut Rng::new(0))?;
/// assert_eq!((image.height(), image.width()), (5, 10));
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Resize {
    size: (usize, Option<usize>),
    filter: Filter,
}

impl Resize {
    /// To this height and width, bilinear.
    pub fn new(height: usize, width: usize) -> Resize {
        Resize { size: (height, Some(width)), filter: Filter::Bilinear }
    }

    /// So that the shorter side is this long, and the sides keep their ratio.
    pub fn shorter(side: usize) -> Resize {
        Resize { size: (side, None), filter: Filter::Bilinear }
    }

    /// How numbers between pixels are found.
    pub fn filter(mut self, filter: Filter) -> Resize {
        self.filter = filter;
        self
    }
}

impl Transform for Resize {
    fn apply(&self, image: Image, _: &mut Rng) -> Result<Image> {
        let (h, w) = (image.height(), image.width());
        let long = |long: usize, short: usize| (self.size.0 as f64 * long as f64 / short as f64) as usize;
        let (height, width) = match self.size {
            (height, Some(width)) => (height, width),
            (side, None) if h <= w => (side, long(w, h)),
            (side, None) => (long(h, w), side),
        };
        if (height, width) == (h, w) { Ok(image) } else { image.resize(height, width, self.filter) }
    }
}

/// Takes the middle: see [`Image::center_crop`].
///
/// ```
/// use fornax::data::transforms::{CenterCrop, Transform};
/// use fornax::data::{Image, Rng};
/// let image = Image::new(1, 8, 8, vec![0.5; 64])?;
/// let image = CenterCrop::new(4, 6).apply(image, &mut Rng::new(0))?;
/// assert_eq!((image.height(), image.width()), (4, 6));
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CenterCrop {
    height: usize,
    width: usize,
}

impl CenterCrop {
    /// Of this height and width.
    pub fn new(height: usize, width: usize) -> CenterCrop {
        CenterCrop { height, width }
    }
}

impl Transform for CenterCrop {
    fn apply(&self, image: Image, _: &mut Rng) -> Result<Image> {
        image.center_crop(self.height, self.width)
    }
}

/// Takes a part at a random place.
///
/// ```
/// use fornax::data::transforms::{RandomCrop, Transform};
/// use fornax::data::{Image, Rng};
/// let image = Image::new(1, 8, 8, vec![0.5; 64])?;
/// let image = RandomCrop::new(8, 8).padding(1).apply(image, &mut Rng::new(0))?;
/// assert_eq!((image.height(), image.width()), (8, 8));
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RandomCrop {
    height: usize,
    width: usize,
    padding: usize,
    mode: PadMode,
    pad_if_needed: bool,
}

impl RandomCrop {
    /// Of this height and width.
    pub fn new(height: usize, width: usize) -> RandomCrop {
        RandomCrop { height, width, padding: 0, mode: PadMode::Constant(0.0), pad_if_needed: false }
    }

    /// Puts so many pixels around the image first.
    pub fn padding(mut self, pixels: usize) -> RandomCrop {
        self.padding = pixels;
        self
    }

    /// What the pixels around the image are: zeros if not given.
    pub fn padding_mode(mut self, mode: PadMode) -> RandomCrop {
        self.mode = mode;
        self
    }

    /// Whether an image that is too small gets as many pixels on both sides as it lacks (off: it is an error).
    pub fn pad_if_needed(mut self, on: bool) -> RandomCrop {
        self.pad_if_needed = on;
        self
    }
}

impl Transform for RandomCrop {
    fn apply(&self, image: Image, rng: &mut Rng) -> Result<Image> {
        let padded = |size: usize| size.saturating_add(self.padding.saturating_mul(2));
        let lacks = |size: usize, crop: usize| if self.pad_if_needed { crop.saturating_sub(padded(size)) } else { 0 };
        let (tall, wide) = (lacks(image.height(), self.height), lacks(image.width(), self.width));
        let room = |size: usize, lack: usize, crop: usize| padded(size).saturating_add(lack.saturating_mul(2)).checked_sub(crop);
        let rooms = (room(image.height(), tall, self.height), room(image.width(), wide, self.width));
        let (Some(down), Some(across)) = rooms else {
            let message = format!(
                "{}×{} of an image of {}×{} with {} pixels around it: it must be as large; pad_if_needed(true) makes it so",
                self.height,
                self.width,
                image.height(),
                image.width(),
                self.padding
            );
            return Err(Error::argument("RandomCrop", message));
        };
        let (top, left) = (rng.below(down.saturating_add(1)) as isize, rng.below(across.saturating_add(1)) as isize);
        let (rows, columns) = (self.padding.saturating_add(tall), self.padding.saturating_add(wide));
        if self.mode == PadMode::Constant(0.0) {
            return image.crop(top.saturating_sub_unsigned(rows), left.saturating_sub_unsigned(columns), self.height, self.width);
        }
        // One after the other, so that a small image may be mirrored twice.
        let padded = image.pad([self.padding; 4], self.mode)?.pad([tall, wide, tall, wide], self.mode)?;
        padded.crop(top, left, self.height, self.width)
    }
}

/// Puts pixels around the image: see [`Image::pad`].
///
/// ```
/// use fornax::PadMode;
/// use fornax::data::transforms::{Pad, Transform};
/// use fornax::data::{Image, Rng};
/// let image = Image::new(1, 1, 2, vec![0.25, 0.5])?;
/// assert_eq!(Pad::new([0, 1, 0, 1], PadMode::Replicate).apply(image, &mut Rng::new(0))?.data(), [0.25, 0.25, 0.5, 0.5]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pad {
    sides: [usize; 4],
    mode: PadMode,
}

impl Pad {
    /// So many pixels above, on the left, below and on the right.
    pub fn new(sides: [usize; 4], mode: PadMode) -> Pad {
        Pad { sides, mode }
    }
}

impl Transform for Pad {
    fn apply(&self, image: Image, _: &mut Rng) -> Result<Image> {
        image.pad(self.sides, self.mode)
    }
}

/// Takes a part of random size, shape and place, and changes it to one size: the standard augmentation of ImageNet.
///
/// ```
/// use fornax::data::transforms::{RandomResizedCrop, Transform};
/// use fornax::data::{Image, Rng};
/// let image = Image::new(1, 8, 8, vec![0.5; 64])?;
/// let image = RandomResizedCrop::new(5, 5).scale(0.5, 1.0).apply(image, &mut Rng::new(0))?;
/// assert_eq!((image.height(), image.width()), (5, 5));
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RandomResizedCrop {
    height: usize,
    width: usize,
    scale: (f64, f64),
    ratio: (f64, f64),
    filter: Filter,
}

impl RandomResizedCrop {
    /// To this height and width, of 0.08 to 1 of the image's area, with a ratio of width to height of 3/4 to 4/3.
    pub fn new(height: usize, width: usize) -> RandomResizedCrop {
        RandomResizedCrop { height, width, scale: (0.08, 1.0), ratio: (3.0 / 4.0, 4.0 / 3.0), filter: Filter::Bilinear }
    }

    /// The bounds of the part's area, as parts of the image's.
    pub fn scale(mut self, low: f64, high: f64) -> RandomResizedCrop {
        self.scale = (low, high);
        self
    }

    /// The bounds of the part's width by its height.
    pub fn ratio(mut self, low: f64, high: f64) -> RandomResizedCrop {
        self.ratio = (low, high);
        self
    }

    /// How numbers between pixels are found.
    pub fn filter(mut self, filter: Filter) -> RandomResizedCrop {
        self.filter = filter;
        self
    }
}

impl Transform for RandomResizedCrop {
    fn apply(&self, image: Image, rng: &mut Rng) -> Result<Image> {
        let (h, w) = (image.height(), image.width());
        let (top, left, height, width) = rectangle(&image, self.scale, self.ratio, true, rng).unwrap_or_else(|| {
            // The largest part in the middle whose ratio is allowed.
            let shape = w as f64 / h as f64;
            let height = if shape < self.ratio.0 { ((w as f64 / self.ratio.0).round() as usize).clamp(1, h) } else { h };
            let width = if shape > self.ratio.1 { ((h as f64 * self.ratio.1).round() as usize).clamp(1, w) } else { w };
            ((h - height) / 2, (w - width) / 2, height, width)
        });
        image.crop(top as isize, left as isize, height, width)?.resize(self.height, self.width, self.filter)
    }
}

macro_rules! flips {
    ($($(#[$doc:meta])* $name:ident $flip:ident;)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name {
            p: f64,
        }

        impl $name {
            /// With this probability.
            pub fn new(p: f64) -> $name {
                $name { p }
            }
        }

        impl Transform for $name {
            fn apply(&self, image: Image, rng: &mut Rng) -> Result<Image> {
                Ok(if rng.chance(self.p) { image.$flip() } else { image })
            }
        }
    )* };
}
flips! {
    /// Exchanges left and right.
    RandomHorizontalFlip flip_horizontal;
    /// Exchanges top and bottom.
    RandomVerticalFlip flip_vertical;
}

/// Turns the image by a random angle: see [`Image::rotate`].
///
/// ```
/// use fornax::data::transforms::{RandomRotation, Transform};
/// use fornax::data::{Image, Rng};
/// let image = Image::new(1, 8, 8, vec![0.5; 64])?;
/// let image = RandomRotation::new(30.0).fill(0.5).apply(image, &mut Rng::new(0))?;
/// assert!(image.data().iter().all(|&v| v == 0.5));
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RandomRotation {
    degrees: f64,
    filter: Filter,
    fill: f32,
    expand: bool,
}

impl RandomRotation {
    /// By up to so many degrees, both ways; the nearest pixel, and 0 where there is nothing.
    pub fn new(degrees: f64) -> RandomRotation {
        RandomRotation { degrees, filter: Filter::Nearest, fill: 0.0, expand: false }
    }

    /// How numbers between pixels are found.
    pub fn filter(mut self, filter: Filter) -> RandomRotation {
        self.filter = filter;
        self
    }

    /// What stands where there is nothing.
    pub fn fill(mut self, value: f32) -> RandomRotation {
        self.fill = value;
        self
    }

    /// Whether the frame grows so that the turned image is in it whole (off: it keeps its size).
    pub fn expand(mut self, on: bool) -> RandomRotation {
        self.expand = on;
        self
    }
}

impl Transform for RandomRotation {
    fn apply(&self, image: Image, rng: &mut Rng) -> Result<Image> {
        let angle = rng.uniform(-self.degrees, self.degrees);
        let turned =
            if self.expand { image.rotate_whole(angle, self.filter, self.fill) } else { image.rotate(angle, self.filter, self.fill) };
        Ok(turned)
    }
}

/// Turns, moves, scales and shears the image at random: see [`Image::affine`].
///
/// ```
/// use fornax::data::transforms::{RandomAffine, Transform};
/// use fornax::data::{Image, Rng};
/// let image = Image::new(1, 8, 8, vec![0.5; 64])?;
/// let image = RandomAffine::new(10.0).translate(0.1, 0.1).scale(0.9, 1.1).shear(5.0).apply(image, &mut Rng::new(0))?;
/// assert_eq!((image.height(), image.width()), (8, 8));
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RandomAffine {
    degrees: f64,
    translate: (f64, f64),
    scale: (f64, f64),
    shear: f64,
    filter: Filter,
    fill: f32,
}

impl RandomAffine {
    /// Turns by up to so many degrees, both ways, and does nothing else; the nearest pixel, and 0 where there is nothing.
    pub fn new(degrees: f64) -> RandomAffine {
        RandomAffine { degrees, translate: (0.0, 0.0), scale: (1.0, 1.0), shear: 0.0, filter: Filter::Nearest, fill: 0.0 }
    }

    /// Moves by up to these parts of the width and the height, both ways.
    pub fn translate(mut self, width: f64, height: f64) -> RandomAffine {
        self.translate = (width, height);
        self
    }

    /// Scales by a factor between these.
    pub fn scale(mut self, low: f64, high: f64) -> RandomAffine {
        self.scale = (low, high);
        self
    }

    /// Shears along the rows by up to so many degrees, both ways.
    pub fn shear(mut self, degrees: f64) -> RandomAffine {
        self.shear = degrees;
        self
    }

    /// How numbers between pixels are found.
    pub fn filter(mut self, filter: Filter) -> RandomAffine {
        self.filter = filter;
        self
    }

    /// What stands where there is nothing.
    pub fn fill(mut self, value: f32) -> RandomAffine {
        self.fill = value;
        self
    }
}

impl Transform for RandomAffine {
    fn apply(&self, image: Image, rng: &mut Rng) -> Result<Image> {
        let mut both = |most: f64| rng.uniform(-most, most);
        let angle = both(self.degrees);
        // Whole pixels, as torchvision's.
        let dx = both(self.translate.0 * image.width() as f64).round();
        let dy = both(self.translate.1 * image.height() as f64).round();
        let shear = both(self.shear);
        let scale = rng.uniform(self.scale.0, self.scale.1);
        image.affine(angle, (dx, dy), scale, (shear, 0.0), self.filter, self.fill)
    }
}

//! Image transforms: what a data set does to its images before they become a batch. Names, defaults and distributions are torchvision's.
//!
//! A transform draws from the random numbers that it is given. In [`Dataset::map`](super::Dataset::map) those belong to the item, so that an epoch
//! can be repeated with any number of workers.
//!
//! ```
//! use fornax::data::transforms::{Normalize, RandomCrop, RandomHorizontalFlip, Transform};
//! use fornax::data::{DataLoader, Dataset, Image, Rows};
//! let augment = RandomCrop::new(6, 6).padding(1).then(RandomHorizontalFlip::new(0.5)).then(Normalize::new(&[0.5], &[0.25]));
//! let images = Rows::new(vec![Image::new(1, 6, 6, vec![0.5; 36])?; 8]);
//! let loader = DataLoader::new(images.map(move |image, rng| augment.apply(image, rng)), 4).shuffle(7).workers(2);
//! assert_eq!(loader.epoch(0).next().unwrap()?.dims(), [4, 1, 6, 6]);
//! # Ok::<(), fornax::Error>(())
//! ```

mod colour;
mod geometry;
mod mix;

pub use colour::{ColorJitter, GaussianBlur, Grayscale, Normalize, RandomErasing};
pub use geometry::{
    CenterCrop, Pad, RandomAffine, RandomCrop, RandomHorizontalFlip, RandomResizedCrop, RandomRotation, RandomVerticalFlip, Resize,
};
pub use mix::{CutMix, MixUp};

use super::{Image, Rng};
use crate::Result;

/// What can be done to an image.
pub trait Transform: Send + Sync {
    /// The image after it; what is random is drawn from `rng`.
    ///
    /// # Errors
    /// Where the image is of a kind that it cannot take, or its own options are wrong.
    fn apply(&self, image: Image, rng: &mut Rng) -> Result<Image>;

    /// This, and then another.
    fn then<T: Transform>(self, next: T) -> Then<Self, T>
    where
        Self: Sized,
    {
        Then { first: self, next }
    }
}

impl<T: Transform + ?Sized> Transform for Box<T> {
    fn apply(&self, image: Image, rng: &mut Rng) -> Result<Image> {
        (**self).apply(image, rng)
    }
}

/// All of them, one after the other: for lists that are made at run time.
impl Transform for Vec<Box<dyn Transform>> {
    fn apply(&self, image: Image, rng: &mut Rng) -> Result<Image> {
        self.iter().try_fold(image, |image, t| t.apply(image, rng))
    }
}

/// Two transforms, one after the other: see [`Transform::then`].
#[derive(Clone, Debug)]
pub struct Then<A, B> {
    first: A,
    next: B,
}

impl<A: Transform, B: Transform> Transform for Then<A, B> {
    fn apply(&self, image: Image, rng: &mut Rng) -> Result<Image> {
        self.next.apply(self.first.apply(image, rng)?, rng)
    }
}

/// A transform that is applied with some probability.
///
/// ```
/// use fornax::data::transforms::{Grayscale, RandomApply, Transform};
/// use fornax::data::{Image, Rng};
/// let image = Image::new(3, 1, 1, vec![1.0, 0.0, 0.0])?;
/// let never = RandomApply::new(Grayscale::new(3), 0.0);
/// assert_eq!(never.apply(image.clone(), &mut Rng::new(0))?, image);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RandomApply<T> {
    transform: T,
    p: f64,
}

impl<T: Transform> RandomApply<T> {
    /// Applies `transform` with probability `p`.
    pub fn new(transform: T, p: f64) -> RandomApply<T> {
        RandomApply { transform, p }
    }
}

impl<T: Transform> Transform for RandomApply<T> {
    fn apply(&self, image: Image, rng: &mut Rng) -> Result<Image> {
        if rng.chance(self.p) { self.transform.apply(image, rng) } else { Ok(image) }
    }
}

/// The size and place of a random rectangle in an image: an area drawn from `scale` (parts of the image's), a ratio of `sides` drawn from `ratio` on a
/// logarithmic scale; ten tries to fit it. Rows first.
fn rectangle(image: &Image, scale: (f64, f64), ratio: (f64, f64), whole: bool, rng: &mut Rng) -> Option<(usize, usize, usize, usize)> {
    let (h, w) = (image.height(), image.width());
    for _ in 0..10 {
        let area = (h * w) as f64 * rng.uniform(scale.0, scale.1);
        // Width by height.
        let ratio = rng.uniform(ratio.0.ln(), ratio.1.ln()).exp();
        let width = (area * ratio).sqrt().round_ties_even() as usize;
        let height = (area / ratio).sqrt().round_ties_even() as usize;
        let less = usize::from(!whole);
        if (1..=w - less).contains(&width) && (1..=h - less).contains(&height) {
            return Some((rng.below(h - height + 1), rng.below(w - width + 1), height, width));
        }
    }
    None
}

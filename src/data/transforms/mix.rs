//! Transforms of a batch: each image is mixed with the one before it.

use super::super::Rng;
use crate::{Error, Result, Tensor};

/// Mixes each image of a batch with its neighbour, and their labels in the same proportion (Zhang et al. 2018).
///
/// Images are `[N, C, H, W]` floats, labels `[N]` integers; the new labels are `[N, classes]`, the probabilities of a soft cross-entropy. The
/// proportion is drawn from Beta(α, α), once for a batch.
///
/// ```
/// use fornax::data::{Rng, transforms::MixUp};
/// use fornax::{Device, Tensor};
/// let (x, y) = (Tensor::ones([4, 1, 2, 2], Device::cpu()), Tensor::from_slice(&[0i32, 1, 2, 1], 4, Device::cpu())?);
/// let (x, y) = MixUp::new(0.2, 3).apply(&x, &y, &mut Rng::new(0))?;
/// assert_eq!((x.dims(), y.dims()), (&[4, 1, 2, 2][..], &[4, 3][..]));
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MixUp {
    alpha: f64,
    classes: usize,
}

impl MixUp {
    /// With this α (1 is uniform), and so many classes.
    pub fn new(alpha: f64, classes: usize) -> MixUp {
        MixUp { alpha, classes }
    }

    /// The mixed batch.
    ///
    /// # Errors
    /// `Error::Shape` for other shapes; `Error::Argument` for an α that is not positive.
    pub fn apply(&self, images: &Tensor, labels: &Tensor, rng: &mut Rng) -> Result<(Tensor, Tensor)> {
        check("MixUp", self.alpha, images, labels)?;
        let share = rng.beta(self.alpha, self.alpha);
        let images = mixed(images, share)?;
        Ok((images, mixed(&labels.try_one_hot(self.classes)?.try_cast(crate::DType::F32)?, share)?))
    }
}

/// Puts a random rectangle of its neighbour into each image of a batch, and mixes their labels by the areas (Yun et al. 2019). Shapes are those of
/// [`MixUp`].
///
/// ```
/// use fornax::data::{Rng, transforms::CutMix};
/// use fornax::{Device, Tensor};
/// let (x, y) = (Tensor::ones([4, 1, 8, 8], Device::cpu()), Tensor::from_slice(&[0i32, 1, 2, 1], 4, Device::cpu())?);
/// let (x, y) = CutMix::new(1.0, 3).apply(&x, &y, &mut Rng::new(0))?;
/// assert_eq!((x.dims(), y.dims()), (&[4, 1, 8, 8][..], &[4, 3][..]));
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CutMix {
    alpha: f64,
    classes: usize,
}

impl CutMix {
    /// With this α (1 is uniform), and so many classes.
    pub fn new(alpha: f64, classes: usize) -> CutMix {
        CutMix { alpha, classes }
    }

    /// The mixed batch.
    ///
    /// # Errors
    /// As [`MixUp::apply`].
    pub fn apply(&self, images: &Tensor, labels: &Tensor, rng: &mut Rng) -> Result<(Tensor, Tensor)> {
        check("CutMix", self.alpha, images, labels)?;
        let (h, w) = (images.dims()[2], images.dims()[3]);
        let side = 0.5 * (1.0 - rng.beta(self.alpha, self.alpha)).sqrt();
        let mut range = |n: usize| {
            let (middle, half) = (rng.below(n), (side * n as f64) as usize);
            middle.saturating_sub(half)..(middle + half).min(n)
        };
        let (columns, rows) = (range(w), range(h));
        let inside: Vec<bool> = (0..h * w).map(|i| rows.contains(&(i / w)) && columns.contains(&(i % w))).collect();
        let inside = Tensor::from_vec(inside, [1, 1, h, w], images.device())?.try_expand(images.dims())?;
        let share = 1.0 - (rows.len() * columns.len()) as f64 / (h * w) as f64;
        let labels = mixed(&labels.try_one_hot(self.classes)?.try_cast(crate::DType::F32)?, share)?;
        Ok((inside.try_where(&images.try_roll(1, 0)?, images)?, labels))
    }
}

/// `share` of each row and the rest of the one before it.
fn mixed(x: &Tensor, share: f64) -> Result<Tensor> {
    x.try_mul(share)?.try_add(&x.try_roll(1, 0)?.try_mul(1.0 - share)?)
}

fn check(op: &'static str, alpha: f64, images: &Tensor, labels: &Tensor) -> Result<()> {
    if images.dims().len() != 4 || labels.dims() != &images.dims()[..1] || images.numel() == 0 {
        return Err(Error::shape(op, &[images.shape(), labels.shape()], "images [N, C, H, W] and labels [N]"));
    }
    if !(alpha > 0.0) {
        return Err(Error::argument(op, format!("alpha {alpha} must be positive")));
    }
    Ok(())
}

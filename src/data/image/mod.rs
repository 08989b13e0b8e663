//! Images on the host: what decoders give and transforms change.

mod colour;
#[cfg(feature = "image")]
mod file;
#[cfg(feature = "image")]
mod folder;
mod geometry;

#[cfg(feature = "image")]
pub use folder::ImageFolder;
pub use geometry::Filter;

use super::{Collate, Request};
use crate::{Device, Error, Result, Tensor};

/// An image: channels of rows of f32 numbers, from 0 to 1 where they are light. It lives in host memory, so that a loader's workers can change it
/// without a device; a batch of images of one shape is a tensor `[N, channels, height, width]`.
///
/// ```
/// use fornax::data::Image;
/// use fornax::Device;
/// let image = Image::new(1, 2, 2, vec![0.0, 0.25, 0.5, 1.0])?;
/// assert_eq!((image.at(0, 1, 0), image.tensor(Device::cpu())?.dims()), (0.5, &[1, 2, 2][..]));
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    channels: usize,
    height: usize,
    width: usize,
    data: Vec<f32>,
}

impl Image {
    /// An image of these numbers, channel by channel, row by row.
    ///
    /// # Errors
    /// `Error::Shape` where there are more or fewer of them than the sizes say, or a size is 0.
    pub fn new(channels: usize, height: usize, width: usize, data: Vec<f32>) -> Result<Image> {
        let sizes = [channels, height, width];
        let wanted = sizes.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if wanted != Some(data.len()) || data.is_empty() {
            return Err(Error::shape("Image", &[sizes], format!("channels, height and width, at least 1, of {} numbers", data.len())));
        }
        Ok(Image { channels, height, width, data })
    }

    /// The image in a tensor `[channels, height, width]`. u8 is divided by 255.
    ///
    /// # Errors
    /// `Error::Shape` for another rank; what reading the tensor can give.
    ///
    /// ```
    /// use fornax::{Device, Tensor, data::Image};
    /// let bytes = Tensor::from_vec(vec![0u8, 51], [1, 1, 2], Device::cpu())?;
    /// assert_eq!(Image::from_tensor(&bytes)?.data(), [0.0, 0.2]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn from_tensor(tensor: &Tensor) -> Result<Image> {
        let &[channels, height, width] = tensor.dims() else {
            return Err(Error::shape("Image", &[tensor.shape()], "[channels, height, width]"));
        };
        let scale = if tensor.dtype() == crate::DType::U8 { 255.0 } else { 1.0 };
        let data = tensor.to_vec::<f32>()?.into_iter().map(|v| v / scale).collect();
        Image::new(channels, height, width, data)
    }

    /// The image as a tensor `[channels, height, width]`.
    ///
    /// # Errors
    /// Memory on the device.
    pub fn tensor(&self, device: Device) -> Result<Tensor> {
        Tensor::from_slice(&self.data, [self.channels, self.height, self.width], device)
    }

    /// The number of channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The numbers, channel by channel, row by row.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The same, to be changed.
    ///
    /// ```
    /// use fornax::data::Image;
    /// let mut image = Image::new(1, 1, 2, vec![0.25, 1.0])?;
    /// image.data_mut().iter_mut().for_each(|v| *v = 1.0 - *v);
    /// assert_eq!(image.data(), [0.75, 0.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// A number; 0 outside the image.
    pub fn at(&self, channel: usize, y: usize, x: usize) -> f32 {
        let inside = channel < self.channels && y < self.height && x < self.width;
        if inside { self.data[(channel * self.height + y) * self.width + x] } else { 0.0 }
    }

    /// An image of another height and width, whose pixels `f(plane, y, x)` computes from a channel's.
    pub(super) fn remap(&self, height: usize, width: usize, f: impl Fn(&[f32], usize, usize) -> f32) -> Image {
        let mut data = Vec::with_capacity(self.channels * height * width);
        for plane in self.data.chunks_exact(self.height * self.width) {
            for y in 0..height {
                data.extend((0..width).map(|x| f(plane, y, x)));
            }
        }
        Image { channels: self.channels, height, width, data }
    }
}

impl Collate for Image {
    type Batch = Tensor;
    fn collate(items: Vec<Image>, request: &Request) -> Result<Tensor> {
        let Some(first) = items.first() else { return request.tensor::<f32>(&[], [0, 0, 0, 0]) };
        let sizes = |i: &Image| [i.channels, i.height, i.width];
        if let Some(other) = items.iter().find(|i| sizes(i) != sizes(first)) {
            return Err(Error::shape("collate", &[sizes(first), sizes(other)], "images of one shape: resize or crop them first"));
        }
        let [c, h, w] = sizes(first);
        let data: Vec<f32> = items.iter().flat_map(|i| i.data.iter().copied()).collect();
        request.tensor(&data, [items.len(), c, h, w])
    }
}

//! PNG and JPEG files.

use super::Image;
use crate::{Error, Result};
use ::image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use std::io::Cursor;
use std::path::Path;

/// The most bytes of pixels, as the file has them, that a byte of it can stand for: deflate's bound is 1032, JPEG's a few bits for each 8×8 block.
const RATIO: u64 = 2048;

/// The bits of a pixel in a PNG file, by its header: decoding makes up to 32 of one.
fn bits_in_file(bytes: &[u8]) -> Option<u64> {
    let channels = match bytes.get(25).filter(|_| bytes.starts_with(b"\x89PNG"))? {
        2 => 3,
        4 => 2,
        6 => 4,
        _ => 1,
    };
    Some(channels * u64::from(*bytes.get(24)?))
}

impl Image {
    /// Reads a PNG or JPEG file as three channels, red, green and blue (feature `image`).
    ///
    /// # Errors
    /// `Error::Io` for the file; `Error::Format` where it is no such image, is cut off, or claims to be larger than its bytes can say.
    ///
    /// ```
    /// assert!(fornax::data::Image::read("/nowhere/cat.jpg").is_err());
    /// ```
    pub fn read(path: impl AsRef<Path>) -> Result<Image> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        Image::decode(&path.display().to_string(), &bytes)
    }

    /// The same from the bytes of a file; `name` is for messages.
    ///
    /// # Errors
    /// As [`read`](Image::read).
    ///
    /// ```
    /// assert!(fornax::data::Image::decode("a picture", b"not a picture").is_err());
    /// ```
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Image> {
        let wrong = |e: ::image::ImageError| Error::format(name, e.to_string());
        let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| Error::io(name, e))?;
        let mut decoder = reader.into_decoder().map_err(wrong)?;
        let (width, height) = decoder.dimensions();
        let most = RATIO * bytes.len() as u64 + (1 << 16);
        let packed = bits_in_file(bytes).map(|bits| (u64::from(width) * bits).div_ceil(8).saturating_mul(height.into()));
        if packed.unwrap_or(decoder.total_bytes()) > most {
            let message = format!("{width}×{height} pixels of {} bytes cannot be in a file of {}", decoder.total_bytes(), bytes.len());
            return Err(Error::format(name, message));
        }
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(2 * most.max(decoder.total_bytes()));
        decoder.set_limits(limits).map_err(wrong)?;
        let decoded = DynamicImage::from_decoder(decoder).map_err(wrong)?;
        let (width, height) = (width as usize, height as usize);
        let data = match decoded {
            // 16 bits a channel.
            DynamicImage::ImageLuma16(_) | DynamicImage::ImageLumaA16(_) | DynamicImage::ImageRgb16(_) | DynamicImage::ImageRgba16(_) => {
                planes(&decoded.to_rgb16(), 65535.0)
            }
            other => planes(&other.into_rgb8(), 255.0),
        };
        Image::new(3, height, width, data)
    }
}

/// Pixel by pixel to channel by channel.
fn planes<T: Copy + Into<f32>>(pixels: &[T], scale: f32) -> Vec<f32> {
    (0..3).flat_map(|c| pixels.iter().skip(c).step_by(3).map(move |&v| v.into() / scale)).collect()
}

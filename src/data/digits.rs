//! The handwritten digits that the examples learn.

use super::{Table, TensorDataset};
use crate::{Device, Error, Result, Tensor};

/// 1797 handwritten digits of 8×8 pixels, split into rows to train on and rows to test on.
///
/// ```
/// let digits = fornax::data::digits(fornax::Device::cpu())?;
/// let [images, labels] = digits.train.tensors();
/// assert_eq!((images.dims(), labels.dims()), (&[1259, 1, 8, 8][..], &[1259][..]));
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone)]
pub struct Digits {
    /// 1259 images `[n, 1, 8, 8]` with values from 0 to 1, and their labels `[n]`, i32 from 0 to 9.
    pub train: TensorDataset<2>,
    /// The other 538.
    pub test: TensorDataset<2>,
}

/// The digits, which are part of this crate: the test part of the Optical Recognition of Handwritten Digits by Alpaydin and Kaynak (UCI,
/// CC BY 4.0). Row `i` of the file is a test row where `(i · 7919) mod 10 < 3`.
///
/// # Errors
/// Memory on the device.
///
/// ```
/// use fornax::data::{Dataset, digits};
/// let digits = digits(fornax::Device::cpu())?;
/// assert_eq!(digits.train.len() + digits.test.len(), 1797);
/// assert_eq!(digits.test.tensors()[0].dims()[1..], [1, 8, 8]);
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn digits(device: Device) -> Result<Digits> {
    let table = Table::parse("digits.csv", include_str!("../../data/digits.csv"))?;
    let part = |test: bool| -> Result<TensorDataset<2>> {
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for i in (0..table.rows()).filter(|i| ((i * 7919) % 10 < 3) == test) {
            let (label, pixels) = table.row(i).split_last().ok_or_else(|| Error::format("digits.csv", "an empty row"))?;
            images.extend(pixels.iter().map(|&p| p as f32 / 16.0));
            labels.push(*label as i32);
        }
        let n = labels.len();
        TensorDataset::new([Tensor::from_vec(images, [n, 1, 8, 8], device)?, Tensor::from_vec(labels, n, device)?])
    };
    Ok(Digits { train: part(false)?, test: part(true)? })
}

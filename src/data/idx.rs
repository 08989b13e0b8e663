//! IDX files, the format of MNIST and its kin.

use super::TensorDataset;
use super::source::{open, read_up_to};
use crate::{Device, Error, Result, Shape, Tensor};
use std::path::{Path, PathBuf};

/// Reads an IDX file, gzip or not, to a tensor on the CPU: u8, i32 (also from 8 and 16 bits), f32 or f64.
///
/// # Errors
/// `Error::Io` for the file; `Error::Format` where it is no IDX file, or is longer or shorter than its header says.
///
/// ```
/// let path = std::env::temp_dir().join(format!("fornax-doc-{}.idx", std::process::id()));
/// std::fs::write(&path, [0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3, 7, 8, 9])?;
/// let x = fornax::data::read_idx(&path)?;
/// assert_eq!((x.dims(), x.to_vec::<u8>()?), (&[1, 3][..], vec![7, 8, 9]));
/// # std::fs::remove_file(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read_idx(path: impl AsRef<Path>) -> Result<Tensor> {
    let path = path.as_ref();
    let mut source = open(path)?;
    let wrong = |message: String| Error::format(path, message);
    let magic = read_up_to(path, &mut *source, 4)?;
    let &[0, 0, kind, rank] = &magic[..] else {
        return Err(wrong("not an IDX file: it must start with two zero bytes, a type and a rank".into()));
    };
    let size = match kind {
        8 | 9 => 1,
        11 => 2,
        12 | 13 => 4,
        14 => 8,
        other => return Err(wrong(format!("type {other:#04x} at byte 2 is none of IDX's (08, 09, 0b, 0c, 0d, 0e)"))),
    };
    let header = read_up_to(path, &mut *source, 4 * rank as usize)?;
    if header.len() < 4 * rank as usize {
        return Err(wrong(format!("the header ends after {} bytes, and has {rank} sizes of 4", header.len() + 4)));
    }
    let dims: Vec<usize> = header.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize).collect();
    let bytes = dims.iter().try_fold(size, |n: usize, &d| n.checked_mul(d)).filter(|&n| n < isize::MAX as usize);
    let bytes = bytes.ok_or_else(|| wrong(format!("sizes {dims:?} are more than a file can hold")))?;
    let shape = Shape::from(&dims[..]);
    let data = read_up_to(path, &mut *source, bytes + 1)?;
    if data.len() < bytes {
        let row = bytes / dims.first().copied().unwrap_or(1).max(1);
        let rows = dims.first().copied().unwrap_or(1);
        return Err(wrong(format!("the file ends in row {} of {rows}, at byte {} of {bytes}", data.len() / row.max(1), data.len())));
    }
    if data.len() > bytes {
        return Err(wrong(format!("there is more after the {bytes} bytes of sizes {dims:?}")));
    }
    let cpu = Device::cpu();
    match kind {
        8 => Tensor::from_vec(data, shape, cpu),
        9 => Tensor::from_vec(data.iter().map(|&b| i32::from(b as i8)).collect(), shape, cpu),
        11 => Tensor::from_vec(data.chunks_exact(2).map(|b| i32::from(i16::from_be_bytes([b[0], b[1]]))).collect(), shape, cpu),
        12 => Tensor::from_vec(words(&data).map(i32::from_be_bytes).collect(), shape, cpu),
        13 => Tensor::from_vec(words(&data).map(f32::from_be_bytes).collect(), shape, cpu),
        _ => {
            let double = |b: &[u8]| f64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
            Tensor::from_vec(data.chunks_exact(8).map(double).collect(), shape, cpu)
        }
    }
}

fn words(data: &[u8]) -> impl Iterator<Item = [u8; 4]> + '_ {
    data.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]])
}

/// MNIST, or another set under the same file names (Fashion-MNIST, KMNIST): the rows to train on and those to test on. The folder has
/// `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, each with or without `.gz`.
///
/// Images are u8 `[n, 1, height, width]`, a quarter of the memory of f32: cast a batch, and divide by 255. Labels are i32 `[n]`, 0 to 9.
///
/// # Errors
/// As [`read_idx`]; `Error::Format` where the files do not belong together, or a label is none of the ten.
///
/// ```no_run
/// use fornax::data::{DataLoader, mnist};
/// let (train, test) = mnist("data/mnist")?;
/// for batch in DataLoader::new(train, 64).shuffle(0).epoch(0) {
///     let [images, labels] = batch?;
///     let images = images.try_cast(fornax::DType::F32)? / 255.0;
/// }
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn mnist(folder: impl AsRef<Path>) -> Result<(TensorDataset<2>, TensorDataset<2>)> {
    let part = |part: &str| -> Result<TensorDataset<2>> {
        let path = |kind: &str| -> PathBuf {
            let plain = folder.as_ref().join(format!("{part}-{kind}-ubyte"));
            let packed = folder.as_ref().join(format!("{part}-{kind}-ubyte.gz"));
            if !plain.exists() && packed.exists() { packed } else { plain }
        };
        let (images, labels) = (path("images-idx3"), path("labels-idx1"));
        let (x, y) = (read_idx(&images)?, read_idx(&labels)?);
        let &[n, height, width] = x.dims() else {
            return Err(Error::format(images, format!("shape {}, not [n, height, width]", x.shape())));
        };
        if y.dims() != [n] {
            return Err(Error::format(labels, format!("shape {}: there are {n} images", y.shape())));
        }
        let y = y.try_cast(crate::DType::I32)?;
        if let Some((row, label)) = y.to_vec::<i32>()?.into_iter().enumerate().find(|(_, label)| !(0..10).contains(label)) {
            return Err(Error::format(labels, format!("row {row}: label {label} is out of range (there are 10)")));
        }
        TensorDataset::new([x.try_reshape([n, 1, height, width])?, y])
    };
    Ok((part("train")?, part("t10k")?))
}

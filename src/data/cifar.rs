//! CIFAR-10 and CIFAR-100 in their binary form.

use super::TensorDataset;
use crate::{Device, Error, Result, Tensor};
use std::path::{Path, PathBuf};

const PIXELS: usize = 3 * 32 * 32;

/// CIFAR-10's binary version (Krizhevsky 2009): the rows to train on and those to test on. The folder has `data_batch_1.bin` to
/// `data_batch_5.bin` and `test_batch.bin`. Images are u8 `[n, 3, 32, 32]`, labels i32 `[n]` from 0 to 9.
///
/// # Errors
/// `Error::Io` for the files; `Error::Format` with the row for one that is cut off, or a label that is too large.
///
/// ```no_run
/// let (train, test) = fornax::data::cifar10("data/cifar-10-batches-bin")?;
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn cifar10(folder: impl AsRef<Path>) -> Result<(TensorDataset<2>, TensorDataset<2>)> {
    let folder = folder.as_ref();
    let train: Vec<PathBuf> = (1..=5).map(|i| folder.join(format!("data_batch_{i}.bin"))).collect();
    Ok((read_cifar(&train, &[10])?, read_cifar(&[folder.join("test_batch.bin")], &[10])?))
}

/// CIFAR-100's binary version: `train.bin` and `test.bin`. Images are u8 `[n, 3, 32, 32]`, labels the fine ones, i32 `[n]` from 0 to 99.
///
/// # Errors
/// As [`cifar10`].
///
/// ```no_run
/// let (train, test) = fornax::data::cifar100("data/cifar-100-binary")?;
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn cifar100(folder: impl AsRef<Path>) -> Result<(TensorDataset<2>, TensorDataset<2>)> {
    let folder = folder.as_ref();
    Ok((read_cifar(&[folder.join("train.bin")], &[20, 100])?, read_cifar(&[folder.join("test.bin")], &[20, 100])?))
}

/// The rows of these files, one after the other: each has a byte for each of its labels, whose numbers of classes `classes` lists, and
/// 3072 for the pixels. The last label is the one that counts.
fn read_cifar(paths: &[PathBuf], classes: &[u8]) -> Result<TensorDataset<2>> {
    let row = classes.len() + PIXELS;
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for path in paths {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        if bytes.is_empty() || bytes.len() % row != 0 {
            let message = format!("{} bytes: row {} is cut off (a row has {row})", bytes.len(), bytes.len() / row);
            return Err(Error::format(path, message));
        }
        for (i, record) in bytes.chunks_exact(row).enumerate() {
            let (named, pixels) = record.split_at(classes.len());
            if let Some(column) = (0..classes.len()).find(|&c| named[c] >= classes[c]) {
                let message = format!("row {i}, column {column}: label {} is out of range (there are {})", named[column], classes[column]);
                return Err(Error::format(path, message));
            }
            labels.push(i32::from(named[classes.len() - 1]));
            images.extend_from_slice(pixels);
        }
    }
    let n = labels.len();
    TensorDataset::new([Tensor::from_vec(images, [n, 3, 32, 32], Device::cpu())?, Tensor::from_vec(labels, n, Device::cpu())?])
}

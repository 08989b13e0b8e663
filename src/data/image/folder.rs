//! Folders of images, a folder for each class.

use super::super::dataset::out_of_range;
use super::super::{Dataset, Rng};
use super::Image;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// A data set (feature `image`) of the PNG and JPEG files in a folder's folders, whose names are the classes: `root/cat/1.jpg`, `root/dog/a/2.png`. An item is an
/// image of three channels, read when it is asked for, and the number of its class. Classes and files come in alphabetical order.
///
/// ```no_run
/// use fornax::data::{DataLoader, Dataset, ImageFolder};
/// use fornax::data::transforms::{RandomHorizontalFlip, RandomResizedCrop, Transform};
/// let augment = RandomResizedCrop::new(224, 224).then(RandomHorizontalFlip::new(0.5));
/// let photos = ImageFolder::open("photos")?.map(move |(image, label), rng| Ok((augment.apply(image, rng)?, label)));
/// for batch in DataLoader::new(photos, 32).shuffle(0).workers(4).epoch(0) {
///     let (images, labels) = batch?; // [32, 3, 224, 224] and [32]
/// }
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ImageFolder {
    classes: Vec<String>,
    files: Vec<(PathBuf, i32)>,
}

/// Folders in folders, so that a link to a folder above ends.
const DEPTH: usize = 16;

impl ImageFolder {
    /// Lists the files; reads none.
    ///
    /// # Errors
    /// `Error::Io` for the folders; `Error::Format` where there are none in `root`, or one has no image.
    pub fn open(root: impl AsRef<Path>) -> Result<ImageFolder> {
        let root = root.as_ref();
        let (mut classes, mut files) = (Vec::new(), Vec::new());
        for folder in list(root)?.into_iter().filter(|p| p.is_dir()) {
            let before = files.len();
            collect(&folder, classes.len() as i32, DEPTH, &mut files)?;
            if files.len() == before {
                return Err(Error::format(&folder, "no PNG or JPEG file in this class's folder"));
            }
            classes.push(folder.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
        if classes.is_empty() {
            return Err(Error::format(root, "no folders in it: each class needs one"));
        }
        Ok(ImageFolder { classes, files })
    }

    /// The names of the classes.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The files, and the number of the class of each.
    pub fn files(&self) -> &[(PathBuf, i32)] {
        &self.files
    }

    /// The number of the class of each row, to split by.
    pub fn labels(&self) -> Vec<i32> {
        self.files.iter().map(|f| f.1).collect()
    }
}

/// What is in a folder, in alphabetical order.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |e| Error::io(folder, e);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).map_err(io)?.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>().map_err(io)?;
    paths.sort();
    Ok(paths)
}

fn collect(folder: &Path, class: i32, depth: usize, files: &mut Vec<(PathBuf, i32)>) -> Result<()> {
    for path in list(folder)? {
        let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        if path.is_dir() {
            if depth > 0 {
                collect(&path, class, depth - 1, files)?;
            }
        } else if ending.is_some_and(|e| ["png", "jpg", "jpeg"].contains(&&*e)) {
            files.push((path, class));
        }
    }
    Ok(())
}

impl Dataset for ImageFolder {
    type Item = (Image, i32);
    fn len(&self) -> usize {
        self.files.len()
    }
    fn get(&self, row: usize, _: &mut Rng) -> Result<(Image, i32)> {
        let (path, class) = self.files.get(row).ok_or_else(|| out_of_range("ImageFolder", row, self.files.len()))?;
        Ok((Image::read(path)?, *class))
    }
}

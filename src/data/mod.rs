//! Data: data sets, streams, the loaders that cut them into batches, and readers.
//!
//! ```
//! use fornax::data::{DataLoader, TensorDataset};
//! use fornax::{Device, Tensor};
//! let x = Tensor::arange(0, 10, 1, Device::cpu()).reshape([5, 2]);
//! let y = Tensor::from_slice(&[0i32, 1, 0, 1, 0], 5, Device::cpu())?;
//! let loader = DataLoader::new(TensorDataset::new([x, y])?, 2).shuffle(42);
//! for batch in loader.epoch(0) {
//!     let [x, y] = batch?;
//!     assert_eq!(x.dims()[0], y.dims()[0]);
//! }
//! assert_eq!(loader.len(), 3);
//! # Ok::<(), fornax::Error>(())
//! ```

mod cifar;
mod collate;
mod combine;
mod csv;
mod dataset;
mod digits;
mod epochs;
mod idx;
mod image;
mod lines;
mod loader;
mod place;
mod prefetch;
mod quotes;
mod rng;
mod source;
mod stream;
pub mod transforms;

pub use cifar::{cifar10, cifar100};
pub use collate::{Collate, Request};
pub use combine::{Concat, Map, Subset, split_rows, stratified_rows};
pub use csv::{Csv, Table};
pub use dataset::{Dataset, Rows, TensorDataset};
pub use digits::{Digits, digits};
pub use epochs::{EpochBatches, Loader};
pub use idx::{mnist, read_idx};
#[cfg(feature = "image")]
pub use image::ImageFolder;
pub use image::{Filter, Image};
pub use lines::{Json, Lines};
pub use loader::{Batches, DataLoader};
pub use place::{LoaderOrder, LoaderState};
pub use rng::Rng;
pub use stream::{Items, Stream, StreamBatches, StreamLoader};

//! The one error type of the crate.

use crate::{DType, Shape};
use std::sync::Arc;

/// What can go wrong. Each message names the op, what it was given, and what would have been right.
///
/// ```
/// use fornax::{Device, Tensor};
/// let a = Tensor::zeros([2, 3], Device::cpu());
/// let b = Tensor::zeros([4, 5], Device::cpu());
/// let e = a.try_matmul(&b).unwrap_err();
/// assert!(e.to_string().contains("[2, 3]"));
/// ```
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Shapes that an op cannot take.
    #[error("{op}: shapes {} do not fit: {expected}", list(shapes))]
    Shape {
        /// The op.
        op: &'static str,
        /// The shapes that it was given.
        shapes: Vec<Shape>,
        /// What would have been right.
        expected: String,
    },
    /// Dtypes that an op cannot take.
    #[error("{op}: dtypes {} do not fit: {expected}", list(dtypes))]
    DType {
        /// The op.
        op: &'static str,
        /// The dtypes that it was given.
        dtypes: Vec<DType>,
        /// What would have been right.
        expected: String,
    },
    /// Tensors on different devices, or a device that is not there.
    #[error("{op}: {message}")]
    Device {
        /// The op.
        op: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
    /// An axis outside a tensor's rank.
    #[error("{op}: axis {axis} is out of range for rank {rank} (allowed: {}..{rank})", -(*rank as isize))]
    Axis {
        /// The op.
        op: &'static str,
        /// The axis asked for.
        axis: isize,
        /// The tensor's rank.
        rank: usize,
    },
    /// An index outside an axis, found when the op was recorded or (for index tensors) when its result was read.
    #[error("{op}: {message}")]
    Index {
        /// The op.
        op: &'static str,
        /// Which index, which range.
        message: String,
    },
    /// Any other argument that an op cannot take.
    #[error("{op}: {message}")]
    Argument {
        /// The op.
        op: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
    /// A gradient was asked for through an op that has none.
    #[error(
        "{op} is not differentiable, and a gradient was asked for through it: use detach() on its input if the gradient should stop there"
    )]
    NotDifferentiable {
        /// The op.
        op: &'static str,
    },
    /// `backward` was called on a graph that an earlier `backward` has spent.
    #[error(
        "backward: the graph of this tensor was already spent by an earlier backward(); call backward_retain() the first time to keep it"
    )]
    Spent,
    /// Memory ran out. The nodes stay pending: free something and try again.
    #[error("out of memory on {device}: {bytes} bytes asked for ({message})")]
    OutOfMemory {
        /// The device.
        device: String,
        /// The size of the allocation that failed.
        bytes: usize,
        /// What the allocator said.
        message: String,
    },
    /// The device is gone; this is final for the device.
    #[error("the device {device} was lost: {message}")]
    DeviceLost {
        /// The device.
        device: String,
        /// The driver's message.
        message: String,
    },
    /// A shader or a kernel could not be built or run.
    #[error("{op}: {message}")]
    Kernel {
        /// The op or kernel.
        op: String,
        /// The compiler's message.
        message: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The system's error.
        source: Arc<std::io::Error>,
    },
    /// A file's content is not what its format demands.
    #[error("{path}: {message}")]
    Format {
        /// The file.
        path: String,
        /// Where and what.
        message: String,
    },
    /// A worker of a data loader could not make its batch: its code panicked, or the thread could not be started.
    #[error("a worker of the data loader failed: {message}")]
    Worker {
        /// The panic's message, or the system's.
        message: String,
    },
    /// A number of a training is NaN or infinite.
    #[error(
        "the {what} is {value} in epoch {epoch}, batch {batch}, optimizer step {step}: lower the learning rate, clip the gradients, look at that \
         batch's data, or go on in spite of it with stop_on_nan(false)"
    )]
    NotFinite {
        /// Which number.
        what: String,
        /// What it is.
        value: f64,
        /// The epoch, counted from 1.
        epoch: u64,
        /// The optimizer's step since the start, counted from 1.
        step: u64,
        /// The batch of the epoch, counted from 1.
        batch: usize,
    },
    /// A state dict does not fit a module: every missing, unexpected and misshapen name.
    #[error("state dict does not fit: {message}")]
    StateDict {
        /// The names, by kind.
        message: String,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn list<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(|s| s.to_string()).collect::<Vec<_>>().join(", ")
}

/// What `main` prints of an error that it returns, and `unwrap` of one that it meets: the message.
impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl Error {
    /// An error of wrong use in the name of the op that the user called. (An index that was found out of range when a result was read has another cause.)
    pub(crate) fn named(mut self, name: &'static str) -> Error {
        match &mut self {
            Error::Index { op: "read", .. } => {}
            Error::Argument { op, .. }
            | Error::Shape { op, .. }
            | Error::DType { op, .. }
            | Error::Axis { op, .. }
            | Error::Index { op, .. } => *op = name,
            _ => {}
        }
        self
    }

    /// An [`Error::Argument`].
    pub fn argument(op: &'static str, message: impl Into<String>) -> Error {
        Error::Argument { op, message: message.into() }
    }

    /// An [`Error::Shape`].
    pub fn shape<S: Into<Shape> + Clone>(op: &'static str, shapes: &[S], expected: impl Into<String>) -> Error {
        Error::Shape { op, shapes: shapes.iter().cloned().map(Into::into).collect(), expected: expected.into() }
    }

    /// An [`Error::DType`].
    pub fn dtype(op: &'static str, dtypes: &[DType], expected: impl Into<String>) -> Error {
        Error::DType { op, dtypes: dtypes.to_vec(), expected: expected.into() }
    }

    /// An [`Error::Io`].
    pub fn io(path: impl AsRef<std::path::Path>, source: std::io::Error) -> Error {
        Error::Io { path: path.as_ref().display().to_string(), source: Arc::new(source) }
    }

    /// An [`Error::Format`].
    pub fn format(path: impl AsRef<std::path::Path>, message: impl Into<String>) -> Error {
        Error::Format { path: path.as_ref().display().to_string(), message: message.into() }
    }
}

//! The public methods of [`Tensor`](crate::Tensor), beside the ops: creation, reading, operators, indexing, display.

mod args;

pub use args::{Axes, Operand, Options};

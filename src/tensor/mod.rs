//! The public methods of [`Tensor`](crate::Tensor), beside the ops: creation, reading, operators, indexing, display.

mod args;
mod operators;

pub use args::{Axes, Operand, Options};

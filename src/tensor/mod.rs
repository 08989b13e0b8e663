//! The public methods of [`Tensor`](crate::Tensor), beside the ops: creation, reading, operators, indexing, display.

mod args;
mod display;
mod index;
mod io;
mod operators;

pub use args::{Axes, Operand, Options};
pub use index::{Index, Span};
pub use io::eval;

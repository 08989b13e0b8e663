//! The lazily evaluated graph: nodes, the handle on them, what an op must provide, and how pending nodes are run.

pub(crate) mod asked;
mod claim;
pub(crate) mod flush;
mod fuse;
pub(crate) mod node;
pub(crate) mod op;
pub(crate) mod pending;
mod plan;
pub(crate) mod run;
mod split;
#[cfg(test)]
mod tests;
mod trace;
pub(crate) mod watch;

pub use node::{LeafId, Tensor};
#[allow(unused_imports)]
pub(crate) use node::{Node, record, record_all, record_on};
#[allow(unused_imports)]
pub(crate) use op::{Along, Class, Cut, GpuCtx, Key, Meta, Op, Outputs, Reads, Saves, Span, Vjp};

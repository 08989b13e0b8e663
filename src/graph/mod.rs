//! The lazily evaluated graph: nodes, the handle on them, what an op must provide, and how pending nodes are run.

pub(crate) mod flush;
pub(crate) mod node;
pub(crate) mod op;
pub(crate) mod pending;

pub use node::Tensor;
#[allow(unused_imports)]
pub(crate) use node::{Node, record, record_all, record_on};
#[allow(unused_imports)]
pub(crate) use op::{Class, GpuCtx, Key, Meta, Op, Outputs, Reads, Saves, Vjp};

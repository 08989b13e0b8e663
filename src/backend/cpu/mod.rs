//! The CPU backend: memory, tiles, reductions, products, threads.

mod ctx;
pub(crate) mod memory;
pub(crate) mod simd;

#[allow(unused_imports)]
pub(crate) use ctx::{Arg, CpuCtx};

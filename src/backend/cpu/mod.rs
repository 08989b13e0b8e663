//! The CPU backend: memory, tiles, reductions, products, threads.

mod ctx;
pub(crate) mod memory;

pub(crate) use ctx::CpuCtx;

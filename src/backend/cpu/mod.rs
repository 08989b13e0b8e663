//! The CPU backend: memory, tiles, reductions, products, threads.

mod convert;
mod ctx;
mod fused;
pub(crate) mod memory;
pub(crate) mod simd;
mod tile;

#[allow(unused_imports)]
pub(crate) use ctx::{Arg, CpuCtx};

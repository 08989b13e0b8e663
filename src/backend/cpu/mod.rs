//! The CPU backend: memory, tiles, reductions, products, threads.

mod convert;
mod ctx;
mod fold;
mod fused;
pub(crate) mod gemm;
pub(crate) mod memory;
pub(crate) mod micro;
mod moves;
pub(crate) mod profile;
mod reduce;
pub(crate) mod scratch;
pub(crate) mod simd;
pub(crate) mod threads;
mod tile;

#[allow(unused_imports)]
pub(crate) use ctx::{Arg, CpuCtx};
pub(crate) use fused::{epilogue, fused};
pub(crate) use reduce::reduce;

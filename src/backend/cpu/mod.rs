//! The CPU backend: memory, tiles, reductions, products, threads.

mod convert;
mod ctx;
mod fold;
pub(crate) mod fused;
pub(crate) mod memory;
mod reduce;
pub(crate) mod simd;
mod tile;

#[allow(unused_imports)]
pub(crate) use ctx::{Arg, CpuCtx};
pub(crate) use fused::{fused, epilogue}; pub(crate) fn reduce(_k: &crate::codegen::kernel::FusedReduce, _b: &[&memory::CpuBuffer], _s: &[crate::Scalar]) {}

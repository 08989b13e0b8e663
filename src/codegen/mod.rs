//! What runs, as data: fused programs, reductions, GPU dispatches. The planner writes them, the backends read them.

pub(crate) mod dispatch;
pub(crate) mod kernel;
pub(crate) mod math;
pub(crate) mod program;
pub(crate) mod wgsl;
pub(crate) mod wgsl_epilogue;
pub(crate) mod wgsl_fused;
pub(crate) mod wgsl_program;
pub(crate) mod wgsl_reduce;
mod wgsl_reduce_parts;
#[cfg(all(test, feature = "wgpu"))]
mod wgsl_table_tests;
#[cfg(test)]
mod wgsl_tests;

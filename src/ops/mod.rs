//! The ops: one file per family, with shape rule, derivative, decomposition, CPU kernel and GPU steps.

pub(crate) mod assemble;
pub(crate) mod attention;
mod attention_cpu;
mod attention_gpu;
mod attention_tiles;
pub(crate) mod batch_norm;
mod batch_norm_cpu;
pub(crate) mod cat;
pub(crate) mod conv;
mod conv_cpu;
mod conv_depthwise;
mod conv_direct;
mod conv_gpu;
#[cfg(test)]
mod conv_tests;
pub(crate) mod create;
pub(crate) mod cross_entropy;
mod cross_entropy_cpu;
pub(crate) mod ctc;
mod ctc_cpu;
pub mod custom;
pub(crate) mod distance;
pub(crate) mod einsum;
pub(crate) mod fold;
pub(crate) mod gather;
pub(crate) mod index_select;
pub(crate) mod interpolate;
#[cfg(feature = "linalg")]
mod linalg;
#[cfg(feature = "linalg")]
mod linalg_vjp;
mod lstm;
mod lstm_cpu;
pub(crate) mod matmul;
pub(crate) mod matmul_cpu;
mod matmul_gpu;
pub(crate) mod movement;
mod multinomial;
pub(crate) mod nonzero;
pub(crate) mod norm;
pub(crate) mod pad;
pub(crate) mod pointwise;
pub(crate) mod pool;
mod pool_cpu;
mod pool_gpu;
pub(crate) mod qmatmul;
mod qmatmul_cpu;
mod qmatmul_gpu;
#[cfg(test)]
mod qmatmul_tests;
pub(crate) mod random;
pub(crate) mod reduce;
pub(crate) mod rows;
pub(crate) mod scan;
pub(crate) mod scatter;
pub(crate) mod searchsorted;
pub(crate) mod slice_assign;
pub(crate) mod softmax;
pub(crate) mod sort;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod transfer;
pub(crate) mod view;
mod view_methods;

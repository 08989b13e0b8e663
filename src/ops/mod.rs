//! The ops: one file per family, with shape rule, derivative, decomposition, CPU kernel and GPU steps.

pub(crate) mod assemble;
pub(crate) mod create;
pub(crate) mod pointwise;
pub(crate) mod reduce;
pub(crate) mod view;

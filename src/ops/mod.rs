//! The ops: one file per family, with shape rule, derivative, decomposition, CPU kernel and GPU steps.

pub(crate) mod assemble;
pub(crate) mod cat;
pub(crate) mod create;
pub(crate) mod gather;
pub(crate) mod index_select;
pub(crate) mod movement;
pub(crate) mod pad;
pub(crate) mod pointwise;
pub(crate) mod reduce;
pub(crate) mod scan;
pub(crate) mod scatter;
pub(crate) mod searchsorted;
pub(crate) mod slice_assign;
pub(crate) mod sort;
pub(crate) mod view;

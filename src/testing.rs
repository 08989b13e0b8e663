//! Hooks of the op harness (`tests/all`): run with switches off, with ops replaced by their decompositions, or watch what is recorded.
//! No part of the public API.

use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::GpuKernel;
use crate::graph::{GpuCtx, Meta, Op, Outputs, Vjp, record};
use crate::{DType, Error, Result, Tensor};
use smallvec::smallvec;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;

thread_local! {
    static SPLITTING: Cell<bool> = const { Cell::new(false) };
    static SPLITS: Cell<usize> = const { Cell::new(0) };
    static WATCHING: Cell<bool> = const { Cell::new(false) };
    static WATCHED: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) };
}

/// Runs `f` with fusion on or off for this thread.
pub fn with_fuse<T>(on: bool, f: impl FnOnce() -> T) -> T {
    crate::graph::flush::set_fuse(on);
    let out = f();
    crate::graph::flush::set_fuse(true);
    out
}

/// Runs `f` with laziness on or off for this thread: off runs each op when it is called.
pub fn with_lazy<T>(on: bool, f: impl FnOnce() -> T) -> T {
    crate::graph::pending::set_lazy(on);
    let out = f();
    crate::graph::pending::set_lazy(true);
    out
}

/// Runs `f` with each op that has a decomposition replaced by it (one level deep), and says how many were.
pub fn decomposed<T>(f: impl FnOnce() -> T) -> (T, usize) {
    SPLITS.set(0);
    SPLITTING.set(true);
    let out = f();
    SPLITTING.set(false);
    (out, SPLITS.get())
}

/// The names of the ops that `f` records on this thread.
pub fn recorded<T>(f: impl FnOnce() -> T) -> (T, BTreeSet<&'static str>) {
    WATCHING.set(true);
    let out = f();
    WATCHING.set(false);
    (out, WATCHED.take())
}

/// Notes that an op is recorded.
pub(crate) fn watch(name: &'static str) {
    if WATCHING.get() {
        WATCHED.with_borrow_mut(|w| w.insert(name));
    }
}

/// The decomposition of an op that is about to be recorded, where that is asked for and there is one.
pub(crate) fn instead(op: &Arc<dyn Op>, inputs: &[&Tensor]) -> Option<Result<Vec<Tensor>>> {
    if !SPLITTING.get() {
        return None;
    }
    let metas: Vec<&Meta> = inputs.iter().map(|t| t.meta()).collect();
    let wanted = match op.infer(&metas) {
        Ok(outs) => outs.len(),
        Err(e) => return Some(Err(e)),
    };
    SPLITTING.set(false);
    let inputs: Vec<Tensor> = inputs.iter().map(|&t| t.clone()).collect();
    let outs = op.decompose(&inputs);
    SPLITTING.set(true);
    let outs = outs?;
    SPLITS.set(SPLITS.get() + 1);
    Some(match outs {
        Ok(outs) if outs.len() != wanted => {
            let message = format!("its decomposition has {} outputs, it has {wanted}", outs.len());
            Err(Error::Kernel { op: op.name().into(), message })
        }
        outs => outs,
    })
}

/// `x²` with the derivative `3x`: the harness must find it.
pub fn wrong_square(x: &Tensor) -> Result<Tensor> {
    record(Arc::new(WrongSquare), &[x])
}

#[derive(Debug)]
struct WrongSquare;

impl Op for WrongSquare {
    fn name(&self) -> &'static str {
        "wrong_square"
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        Ok(smallvec![Meta::new(inputs[0].dtype, inputs[0].shape())])
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(ctx.cotangent()?.try_mul(&ctx.inputs[0])?.try_mul(3.0)?)])
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        match ctx.dtype(0) {
            DType::F32 => ctx.output::<f32>(0).iter_mut().zip(ctx.input::<f32>(0)).for_each(|(y, x)| *y = x * x),
            DType::F64 => ctx.output::<f64>(0).iter_mut().zip(ctx.input::<f64>(0)).for_each(|(y, x)| *y = x * x),
            _ => return ctx.unsupported(),
        }
        Ok(())
    }

    fn gpu(&self, _ctx: &GpuCtx) -> Result<GpuKernel> {
        Err(Error::Kernel { op: "wrong_square".into(), message: "for the CPU tests only".into() })
    }
}

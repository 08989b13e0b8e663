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
    static PARTED: Cell<usize> = const { Cell::new(0) };
    static WATCHING: Cell<bool> = const { Cell::new(false) };
    static WATCHED: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) };
}

/// As `manual_seed`, for this thread and as long as the result lives: tests that run beside each other would draw from one process's numbers.
pub fn seed(seed: u64) -> crate::rng::Stream {
    crate::rng::Stream::enter(seed)
}

/// Runs `f` with fusion on or off for this thread.
pub fn with_fuse<T>(on: bool, f: impl FnOnce() -> T) -> T {
    crate::graph::flush::set_fuse(on);
    let out = f();
    crate::graph::flush::set_fuse(true);
    out
}

/// Runs `f` as if the GPU bound at most `binding` bytes at once, and ran at most `work` operations in a dispatch or a submit, for this thread;
/// and says how many kernels were planned in parts.
pub fn with_gpu_limits<T>(binding: u64, work: u64, f: impl FnOnce() -> T) -> (T, usize) {
    PARTED.set(0);
    crate::graph::flush::set_limits(Some((binding, work)));
    let out = f();
    crate::graph::flush::set_limits(None);
    (out, PARTED.get())
}

/// Notes that a kernel is planned in parts.
pub(crate) fn parted() {
    PARTED.set(PARTED.get() + 1);
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

/// A combination of what a GPU may offer beyond the portable minimum.
#[cfg(feature = "wgpu")]
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    caps: crate::codegen::dispatch::Caps,
    /// f16 in shaders.
    pub f16: bool,
    /// Subgroup operations.
    pub subgroups: bool,
    /// 32-bit float atomics in storage buffers.
    pub float_atomics: bool,
}

/// Every combination, the portable minimum first.
#[cfg(feature = "wgpu")]
pub fn profiles() -> Vec<Profile> {
    use crate::codegen::dispatch::Caps;
    let mut found = Vec::new();
    // Portable limits, and those of a large GPU.
    for large in [false, true] {
        for subgroup in [0, 8, 32, 64] {
            for (f16, float_atomics) in [(false, false), (true, false), (false, true), (true, true)] {
                // Every field is written out, so that a new capability has to take part here.
                let caps = Caps {
                    subgroups: subgroup > 0,
                    subgroup_min: subgroup,
                    subgroup_max: subgroup,
                    f16,
                    float_atomics,
                    timestamps: large,
                    max_bindings: if large { 32 } else { Caps::PORTABLE.max_bindings },
                    max_workgroup_bytes: if large { 48 << 10 } else { Caps::PORTABLE.max_workgroup_bytes },
                    max_workgroup_invocations: if large { 1024 } else { Caps::PORTABLE.max_workgroup_invocations },
                    max_binding: if large { (1 << 31) - 256 } else { Caps::PORTABLE.max_binding },
                    max_buffer: if large { (1 << 31) - 256 } else { Caps::PORTABLE.max_buffer },
                    offset_alignment: if large { 32 } else { Caps::PORTABLE.offset_alignment },
                    max_work: if large { 8 * Caps::PORTABLE.max_work } else { Caps::PORTABLE.max_work },
                };
                found.push(Profile { caps, f16, subgroups: caps.subgroups, float_atomics });
            }
        }
    }
    found
}

/// A shader that a flush would run.
#[cfg(feature = "wgpu")]
#[derive(Clone, Debug)]
pub struct ShaderText {
    /// The kernel's name.
    pub label: &'static str,
    /// WGSL.
    pub source: String,
    /// Storage bindings.
    pub bindings: usize,
    /// Words of parameters.
    pub params: usize,
    /// Workgroups.
    pub groups: [u32; 3],
}

/// The shaders that a flush of these tensors, which may live on the CPU, would run on a GPU of this profile.
#[cfg(feature = "wgpu")]
pub fn shaders(roots: &[Tensor], profile: &Profile) -> Result<Vec<ShaderText>> {
    use crate::codegen::dispatch::GpuStep;
    let steps = crate::graph::flush::gpu_steps(roots, &profile.caps)?;
    let text = |step| match step {
        GpuStep::Dispatch(d) | GpuStep::UnlessInPlace(d) => Some(ShaderText {
            label: d.label,
            bindings: d.bindings.len(),
            params: d.params.len(),
            groups: d.groups,
            source: d.source.into_owned(),
        }),
        GpuStep::Zero(_) => None,
    };
    Ok(steps.into_iter().filter_map(text).collect())
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

//! What the data-movement ops share: which dtypes travel as what, how a tensor falls into lines along an axis, rows in parallel, and the
//! plainest dispatches.

use crate::backend::cpu::CpuCtx;
use crate::backend::cpu::threads::{self, each_chunk};
use crate::codegen::dispatch::{Binding, Dispatch, GpuStep, Param, Slot, grid};
use crate::{DType, Error, Result, Tensor};
use std::borrow::Cow;

/// Work below this many elements stays on the calling thread.
pub(crate) const PARALLEL: usize = 32 << 10;

/// Invocations of a workgroup in the kernels with one element (or one line) an invocation.
pub(crate) const GROUP: usize = 256;

/// Runs a body for the unsigned integer type of a dtype's size: enough for what only moves bits.
macro_rules! by_size {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype.size() {
            1 => {
                type $t = u8;
                $body
            }
            2 => {
                type $t = u16;
                $body
            }
            4 => {
                type $t = u32;
                $body
            }
            _ => {
                type $t = u64;
                $body
            }
        }
    };
}

/// Runs a body for the Rust type of a dtype that arithmetic kernels know; the rest is an error of the context.
macro_rules! by_number {
    ($ctx:expr, $dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::DType::F64 => {
                type $t = f64;
                $body
            }
            $crate::DType::I32 => {
                type $t = i32;
                $body
            }
            $crate::DType::U32 => {
                type $t = u32;
                $body
            }
            $crate::DType::I64 => {
                type $t = i64;
                $body
            }
            $crate::DType::U8 => {
                type $t = u8;
                $body
            }
            _ => return $ctx.unsupported(),
        }
    };
}
pub(crate) use {by_number, by_size};

/// Addition as tensors do it: integers wrap.
pub(crate) trait Add: bytemuck::Pod + Send + Sync {
    fn plus(self, other: Self) -> Self;
}
macro_rules! add {
    ($($t:ty: |$a:ident, $b:ident| $e:expr),*) => { $(impl Add for $t {
        #[inline(always)]
        fn plus(self, other: Self) -> Self {
            let ($a, $b) = (self, other);
            $e
        }
    })* };
}
add!(f32: |a, b| a + b, f64: |a, b| a + b, i32: |a, b| a.wrapping_add(b), u32: |a, b| a.wrapping_add(b), i64: |a, b| a.wrapping_add(b), u8: |a, b| a.wrapping_add(b));

/// A tensor seen along an axis: `outer` blocks of `n` steps of `inner` neighbouring lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lines {
    pub outer: usize,
    pub n: usize,
    pub inner: usize,
}

impl Lines {
    pub fn new(shape: &[usize], axis: usize) -> Lines {
        Lines { outer: shape[..axis].iter().product(), n: shape[axis], inner: shape[axis + 1..].iter().product() }
    }

    /// How many lines there are.
    pub fn count(self) -> usize {
        self.outer * self.inner
    }
}

/// The dtype in which a tensor of `dtype` is only moved: itself on the CPU; on the GPU, where kernels see words, f16 and bf16 travel as
/// f32 and u8 as u32, which loses nothing.
pub(crate) fn moved(t: &Tensor) -> DType {
    match t.dtype() {
        DType::F16 | DType::BF16 if t.device().is_gpu() => DType::F32,
        DType::U8 if t.device().is_gpu() => DType::U32,
        d => d,
    }
}

/// The same for an op that moves whole runs of elements: where all runs are whole words (`runs` gives their lengths), every dtype travels
/// as itself.
pub(crate) fn moved_in_runs(t: &Tensor, runs: &[usize]) -> DType {
    if runs.iter().all(|n| (n * t.dtype().gpu_size()).is_multiple_of(4)) { t.dtype() } else { moved(t) }
}

/// Elements of a GPU tensor as words.
pub(crate) fn words(n: usize, dtype: DType) -> usize {
    n * dtype.gpu_size() / 4
}

/// The dtype in which arithmetic kernels take it: f32 for f16 and bf16, and on the GPU u32 for u8.
pub(crate) fn computed(t: &Tensor) -> DType {
    match t.dtype() {
        DType::U8 if t.device().is_gpu() => DType::U32,
        d => d.compute(),
    }
}

/// Index tensors are i32 in the kernels. What no i32 holds is out of any range: it becomes the i32 that is nearest.
pub(crate) fn index_i32(op: &'static str, index: &Tensor) -> Result<Tensor> {
    if !index.dtype().is_int() {
        return Err(Error::dtype(op, &[index.dtype()], "an index tensor has an integer dtype"));
    }
    narrowed(index)
}

/// Integers as i32, each the nearest that there is.
pub(crate) fn narrowed(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::I64 => x.try_clamp(i32::MIN, i32::MAX)?.try_cast(DType::I32),
        DType::U32 => x.try_clamp(0, i32::MAX)?.try_cast(DType::I32),
        _ => x.try_cast(DType::I32),
    }
}

/// Calls `f(row, elements)` for each row of `out`, on all cores where there is enough to do. A row must depend on nothing but its number.
pub(crate) fn par_rows<T: Send>(out: &mut [T], row: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if row == 0 || out.is_empty() {
        return;
    }
    if out.len() < PARALLEL {
        out.chunks_mut(row).enumerate().for_each(|(i, r)| f(i, r));
        return;
    }
    let rows = (PARALLEL / 2).div_ceil(row);
    each_chunk(out, rows * row, 1, |c, chunk| chunk.chunks_mut(row).enumerate().for_each(|(i, r)| f(c * rows + i, r)));
}

/// Calls `f` for each number below `n`, in parallel where the work (in elements) is worth it.
pub(crate) fn par_each(n: usize, work: usize, f: impl Fn(usize) + Sync) {
    if work < PARALLEL || n < 2 {
        (0..n).for_each(f);
    } else {
        threads::each(n, 1, &f);
    }
}

/// A large copy on all cores.
pub(crate) fn par_copy<T: Copy + Send + Sync>(out: &mut [T], from: &[T]) {
    const CHUNK: usize = 256 << 10;
    if out.len() < 2 * CHUNK {
        out.copy_from_slice(from);
    } else {
        each_chunk(out, CHUNK, 1, |i, o| o.copy_from_slice(&from[i * CHUNK..][..o.len()]));
    }
}

/// Output 0 of an op that changes a part of input 0: in place where the plan donates the input, else a copy of it.
pub(crate) fn output_from_input<'a, T: bytemuck::Pod + Send + Sync>(ctx: &CpuCtx<'a>) -> &'a mut [T] {
    let out = ctx.output::<T>(0);
    if !std::ptr::eq(ctx.inputs[0].buffer.as_ptr(), ctx.outputs[0].buffer.as_ptr()) {
        par_copy(out, ctx.input::<T>(0));
    }
    out
}

pub(crate) fn reads(slot: Slot) -> Binding {
    Binding { slot, write: false }
}

pub(crate) fn writes(slot: Slot) -> Binding {
    Binding { slot, write: true }
}

/// A dispatch with one invocation for each of `n` things, in workgroups of [`GROUP`].
pub(crate) fn each(
    label: &'static str,
    source: impl Into<Cow<'static, str>>,
    n: usize,
    bindings: Vec<Binding>,
    params: Vec<Param>,
) -> GpuStep {
    GpuStep::Dispatch(Dispatch { label, source: source.into(), bindings, params, groups: grid(n.div_ceil(GROUP)), flops: 0 })
}

/// Copies input 0 to output 0, unless the op runs in place.
pub(crate) fn copy_input(n: usize) -> GpuStep {
    let bindings = vec![reads(Slot::Input(0)), writes(Slot::Output(0))];
    match each("copy", include_str!("../../shaders/copy.wgsl"), n, bindings, vec![n.into()]) {
        GpuStep::Dispatch(d) => GpuStep::UnlessInPlace(d),
        other => other,
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Runs kernels by hand, and puts their shaders through naga.

    use crate::backend::cpu::memory::CpuBuffer;
    use crate::backend::cpu::{Arg, CpuCtx};
    use crate::codegen::dispatch::{Caps, GpuStep};
    use crate::graph::{GpuCtx, Meta, Op};
    use crate::{DType, Element, Result, Shape};
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A tensor in memory.
    pub struct Value {
        pub meta: Meta,
        pub buffer: CpuBuffer,
    }

    pub fn value<T: Element>(data: &[T], shape: impl Into<Shape>) -> Value {
        Value { meta: Meta::new(T::DTYPE, shape), buffer: CpuBuffer::from_bytes(bytemuck::cast_slice(data)).unwrap() }
    }

    impl Value {
        pub fn get<T: Element + bytemuck::Pod>(&self) -> Vec<T> {
            assert_eq!(self.meta.dtype, T::DTYPE);
            unsafe { self.buffer.slice::<T>()[..self.meta.layout.numel()].to_vec() }
        }
    }

    /// Runs an op's CPU kernel; the flag says whether it met an index out of range. Checks that the GPU steps validate as well.
    pub fn run(op: &dyn Op, inputs: &[&Value]) -> Result<(Vec<Value>, bool)> {
        let metas: Vec<&Meta> = inputs.iter().map(|v| &v.meta).collect();
        let outs = op.infer(&metas)?;
        let owned: Vec<Meta> = metas.iter().map(|&m| m.clone()).collect();
        let words = owned.iter().chain(&outs).all(|m| m.dtype.on_gpu() && m.dtype.gpu_size() == 4);
        if words {
            validate(op, &owned, &outs);
        }
        let outputs: Vec<Value> =
            outs.iter().map(|m| Value { meta: m.clone(), buffer: CpuBuffer::new(m.layout.numel() * m.dtype.size()).unwrap() }).collect();
        fn arg(v: &Value) -> Arg<'_> {
            Arg { buffer: &v.buffer, layout: &v.meta.layout, dtype: v.meta.dtype }
        }
        let args: Vec<Arg> = inputs.iter().map(|v| arg(v)).collect();
        let out_args: Vec<Arg> = outputs.iter().map(arg).collect();
        let fault = AtomicU32::new(0);
        op.cpu(&CpuCtx { op: op.name(), inputs: &args, outputs: &out_args, scalars: op.scalars(), fault: &fault })?;
        let fault = fault.load(Ordering::Relaxed) != 0;
        #[cfg(feature = "wgpu")]
        if words && !fault {
            same_on_gpu(op, inputs, &outputs);
        }
        Ok((outputs, fault))
    }

    /// Runs an op's steps on a GPU, where there is one, and compares with what the CPU gave. (Not for a case with a fault, which other
    /// tests of this process would meet.)
    #[cfg(feature = "wgpu")]
    fn same_on_gpu(op: &dyn Op, inputs: &[&Value], outputs: &[Value]) {
        use crate::backend::gpu::{GpuBuffer, from_gpu_bytes, test_gpu, to_gpu_bytes};
        use crate::codegen::dispatch::{Param, Slot};
        use crate::codegen::dispatch::{Placed, Window};
        let Some(gpu) = test_gpu() else { return };
        let bytes = |v: &Value| {
            let host = unsafe { &v.buffer.slice::<u8>()[..v.meta.layout.numel() * v.meta.dtype.size()] };
            to_gpu_bytes(v.meta.dtype, host).into_owned()
        };
        let metas = |values: &[&Value]| values.iter().map(|v| v.meta.clone()).collect::<Vec<_>>();
        let outs: Vec<&Value> = outputs.iter().collect();
        let kernel = op.gpu(&GpuCtx { inputs: &metas(inputs), outputs: &metas(&outs), caps: gpu.caps(), epilogue: None }).unwrap();
        let mut buffers: Vec<GpuBuffer> = inputs.iter().map(|v| gpu.upload(&bytes(v)).unwrap()).collect();
        let size = |v: &Value| v.meta.layout.numel() * v.meta.dtype.gpu_size();
        buffers.extend(outs.iter().map(|v| gpu.upload(&vec![0xa5; size(v)]).unwrap()));
        buffers.extend(kernel.temps.iter().map(|&n| gpu.upload(&vec![0xa5; n]).unwrap()));
        let slot = |s: Slot| match s {
            Slot::Input(i) => Slot::Buffer(i),
            Slot::Output(i) => Slot::Buffer(inputs.len() + i),
            Slot::Temp(i) => Slot::Buffer(inputs.len() + outs.len() + i),
            other => other,
        };
        let steps = kernel.steps.into_iter().map(|step| match step {
            GpuStep::Dispatch(mut d) | GpuStep::UnlessInPlace(mut d) => {
                d.bindings.iter_mut().for_each(|b| b.slot = slot(b.slot));
                for p in &mut d.params {
                    if let Param::Scalar { index, dtype } = *p {
                        *p = Param::Word(op.scalars()[index].word(dtype));
                    }
                }
                Placed { windows: vec![Window::default(); d.bindings.len()], step: GpuStep::Dispatch(d) }
            }
            GpuStep::Zero(s) => Placed { step: GpuStep::Zero(slot(s)), windows: vec![] },
        });
        let plan = gpu.compile(steps.collect(), gpu.caps()).unwrap();
        gpu.run(&plan, &buffers.iter().collect::<Vec<_>>(), &|_| 0).unwrap();
        for (k, v) in outs.iter().enumerate().filter(|(_, v)| size(v) > 0) {
            let read = || gpu.read(&buffers[inputs.len() + k], size(v));
            // The first read may meet the fault of another test.
            let got = read().or_else(|_| read());
            let got = from_gpu_bytes(v.meta.dtype, got.unwrap());
            let expected = unsafe { &v.buffer.slice::<u8>()[..got.len()] };
            if v.meta.dtype == DType::F32 {
                let (got, expected): (&[f32], &[f32]) = (bytemuck::cast_slice(&got), bytemuck::cast_slice(expected));
                for (i, (a, b)) in got.iter().zip(expected).enumerate() {
                    let close = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-4 * (1.0 + b.abs());
                    assert!(close, "{} on the GPU: output {k}, element {i}: {a} for {b}", op.name());
                }
            } else {
                assert!(got == expected, "{} on the GPU: output {k} {}", op.name(), v.meta.layout.shape);
            }
        }
    }

    /// The one output of an op that meets no bad index.
    pub fn run1<T: Element + bytemuck::Pod>(op: &dyn Op, inputs: &[&Value]) -> Vec<T> {
        let (outs, fault) = run(op, inputs).unwrap();
        assert!(!fault);
        outs[0].get()
    }

    /// Parses and validates every dispatch of an op, and checks the rules on bindings and groups.
    pub fn validate(op: &dyn Op, inputs: &[Meta], outputs: &[Meta]) {
        let kernel = op.gpu(&GpuCtx { inputs, outputs, caps: &Caps::PORTABLE, epilogue: None }).unwrap();
        for step in &kernel.steps {
            let (GpuStep::Dispatch(d) | GpuStep::UnlessInPlace(d)) = step else { continue };
            let module = naga::front::wgsl::parse_str(&d.source).unwrap_or_else(|e| panic!("{}: {}", d.label, e.emit_to_string(&d.source)));
            let flags = naga::valid::ValidationFlags::all();
            if let Err(e) = naga::valid::Validator::new(flags, naga::valid::Capabilities::empty()).validate(&module) {
                panic!("{}: {}", d.label, e.emit_to_string(&d.source));
            }
            assert!(d.bindings.len() <= 8 && d.groups.iter().all(|&g| g > 0 && g <= 65_535), "{}", d.label);
            let bound = module.global_variables.iter().filter(|(_, v)| matches!(v.space, naga::AddressSpace::Storage { .. })).count();
            assert_eq!(bound, d.bindings.len(), "{}", d.label);
        }
    }

    /// Numbers without a pattern that a mistake in indexing would survive.
    pub fn numbers(n: usize) -> Vec<f32> {
        let mut s = 12_345u32;
        (0..n)
            .map(|_| {
                s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (s >> 8) as f32 / 8_388_608.0 - 1.0
            })
            .collect()
    }

    /// Whole numbers below `bound`.
    pub fn indices(n: usize, bound: usize) -> Vec<i32> {
        numbers(n).iter().map(|v| (((v + 1.0) * 0.5 * bound as f32) as usize).min(bound - 1) as i32).collect()
    }

    /// The shapes along an axis that kernels are tried on.
    pub const SHAPES: [([usize; 3], usize); 7] =
        [([3, 5, 7], 0), ([3, 5, 7], 1), ([3, 5, 7], 2), ([1, 1, 1], 1), ([40, 33, 65], 1), ([2, 40_009, 1], 1), ([1, 3, 40_009], 1)];
}

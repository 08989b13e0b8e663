//! What the row kernels (softmax, norms, cross-entropy, attention) share on the CPU: the float trait, lane-wise sums, threads.

use crate::backend::cpu::threads::each;
use crate::codegen::dispatch::{Binding, Slot};
use crate::{DType, Error, Result, Tensor};
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub};

/// Below this many elements a kernel stays on one thread.
pub(crate) const SERIAL: usize = 32 << 10;

/// Partial sums that a reduction keeps side by side, so that it vectorises. Part of the result: the order of addition hangs on it.
pub(crate) const LANES: usize = 16;

/// The float types of the CPU kernels.
pub(crate) trait Real:
    bytemuck::Pod
    + Send
    + Sync
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + MulAssign
{
    const ZERO: Self;
    const ONE: Self;
    const NEG_INF: Self;
    fn of(v: f64) -> Self;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn sqrt(self) -> Self;

    /// The larger one; a NaN in `other` is ignored.
    #[inline(always)]
    fn or_larger(self, other: Self) -> Self {
        if other > self { other } else { self }
    }
}

impl Real for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    const NEG_INF: f32 = f32::NEG_INFINITY;

    #[inline(always)]
    fn of(v: f64) -> f32 {
        v as f32
    }

    #[inline(always)]
    fn exp(self) -> f32 {
        crate::codegen::math::exp(self)
    }

    #[inline(always)]
    fn ln(self) -> f32 {
        f32::ln(self)
    }

    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }
}

impl Real for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    const NEG_INF: f64 = f64::NEG_INFINITY;

    #[inline(always)]
    fn of(v: f64) -> f64 {
        v
    }

    #[inline(always)]
    fn exp(self) -> f64 {
        f64::exp(self)
    }

    #[inline(always)]
    fn ln(self) -> f64 {
        f64::ln(self)
    }

    #[inline(always)]
    fn sqrt(self) -> f64 {
        f64::sqrt(self)
    }
}

/// Adds partial sums pairwise.
#[inline(always)]
pub(crate) fn tree<T: Real>(mut acc: [T; LANES]) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            acc[i] += acc[i + half];
        }
        half /= 2;
    }
    acc[0]
}

/// Σ f(x).
#[inline(always)]
pub(crate) fn sum_of<T: Real>(x: &[T], f: impl Fn(T) -> T) -> T {
    let mut acc = [T::ZERO; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for c in chunks {
        for i in 0..LANES {
            acc[i] += f(c[i]);
        }
    }
    for (a, &v) in acc.iter_mut().zip(rest) {
        *a += f(v);
    }
    tree(acc)
}

/// Σ f(x, y), over the shorter of the two.
#[inline(always)]
pub(crate) fn sum_of2<T: Real>(x: &[T], y: &[T], f: impl Fn(T, T) -> T) -> T {
    let mut acc = [T::ZERO; LANES];
    let (xc, xr) = x.as_chunks::<LANES>();
    let (yc, yr) = y.as_chunks::<LANES>();
    for (a, b) in xc.iter().zip(yc) {
        for i in 0..LANES {
            acc[i] += f(a[i], b[i]);
        }
    }
    for ((a, &v), &w) in acc.iter_mut().zip(xr).zip(yr) {
        *a += f(v, w);
    }
    tree(acc)
}

/// The largest element; NaN is ignored, -∞ for an empty slice.
#[inline(always)]
pub(crate) fn largest<T: Real>(x: &[T]) -> T {
    let mut acc = [T::NEG_INF; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for c in chunks {
        for i in 0..LANES {
            acc[i] = acc[i].or_larger(c[i]);
        }
    }
    for (a, &v) in acc.iter_mut().zip(rest) {
        *a = a.or_larger(v);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            acc[i] = acc[i].or_larger(acc[i + half]);
        }
        half /= 2;
    }
    acc[0]
}

/// Runs `f` for 0..tasks, on all threads if the whole has at least [`SERIAL`] elements.
pub(crate) fn for_tasks(tasks: usize, work: usize, f: impl Fn(usize) + Sync) {
    if work < SERIAL || tasks < 2 {
        (0..tasks).for_each(f);
    } else {
        each(tasks, 1, &f);
    }
}

/// A tensor seen as `outer × n × inner` around one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Around {
    pub outer: usize,
    pub n: usize,
    pub inner: usize,
}

impl Around {
    pub fn of(shape: &[usize], axis: usize) -> Around {
        Around { outer: shape[..axis].iter().product(), n: shape[axis], inner: shape[axis + 1..].iter().product() }
    }

    pub fn rows(&self) -> usize {
        self.outer * self.inner
    }

    pub fn numel(&self) -> usize {
        self.outer * self.n * self.inner
    }
}

/// Columns that a strided kernel works on side by side.
pub(crate) const COLUMNS: usize = 64;

/// Calls `rows(first element, rows)` for groups of whole rows where the axis is the last, otherwise `block(first element, columns)` for
/// blocks of up to [`COLUMNS`] columns; on all threads if it is worth it.
pub(crate) fn walk(a: Around, rows: impl Fn(usize, usize) + Sync + Send, block: impl Fn(usize, usize) + Sync + Send) {
    if a.numel() == 0 {
        return;
    }
    if a.inner == 1 {
        let group = ((16 << 10) / a.n).max(1);
        for_tasks(a.outer.div_ceil(group), a.numel(), |t| rows(t * group * a.n, group.min(a.outer - t * group)));
    } else {
        let blocks = a.inner.div_ceil(COLUMNS);
        for_tasks(a.outer * blocks, a.numel(), |t| {
            let first = t % blocks * COLUMNS;
            block(t / blocks * a.n * a.inner + first, COLUMNS.min(a.inner - first));
        });
    }
}

/// Lanes of a workgroup of 256 that share a row of `n` elements: a power of two.
pub(crate) fn gpu_lanes(n: usize) -> usize {
    n.div_ceil(4).next_power_of_two().clamp(1, 256)
}

/// A shader with these numbers and switches.
pub(crate) fn variant(source: &str, numbers: &[(&str, usize)], flags: &[(&str, bool)]) -> String {
    let values: Vec<String> = numbers.iter().map(|n| n.1.to_string()).collect();
    let numbers = numbers.iter().zip(&values).map(|(n, v)| (n.0, v.as_str()));
    let defines: Vec<_> = numbers.chain(flags.iter().filter(|f| f.1).map(|f| (f.0, "1"))).collect();
    crate::codegen::wgsl::preprocess(source, &defines)
}

/// The bindings of these slots: (slot, whether it is written).
pub(crate) fn bind(slots: &[(Slot, bool)]) -> Vec<Binding> {
    slots.iter().map(|&(slot, write)| Binding { slot, write }).collect()
}

/// The tensor in the dtype in which a float kernel computes: f16 and bf16 become f32.
pub(crate) fn to_compute(op: &'static str, x: &Tensor) -> Result<Tensor> {
    if !x.dtype().is_float() {
        return Err(Error::dtype(op, &[x.dtype()], "a float dtype (f16, bf16, f32, f64): cast first"));
    }
    if x.dtype() == x.dtype().compute() { Ok(x.clone()) } else { x.try_cast(x.dtype().compute()) }
}

/// A second operand in the first one's compute dtype.
pub(crate) fn like(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype { Ok(x.clone()) } else { x.try_cast(dtype) }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Running an op's CPU kernel by hand, and naga over its GPU kernels.

    use crate::backend::cpu::CpuCtx;
    use crate::backend::cpu::memory::CpuBuffer;
    use crate::codegen::dispatch::{Caps, GpuKernel, GpuStep};
    use crate::graph::{GpuCtx, Meta, Op};
    use crate::{DType, Result};
    use std::sync::atomic::{AtomicU32, Ordering};

    /// An input: dtype, shape, values.
    pub type In<'a> = (DType, &'a [usize], &'a [f64]);

    /// The outputs as f64, and whether an index was out of range.
    pub fn cpu(op: &dyn Op, inputs: &[In]) -> Result<(Vec<Vec<f64>>, bool)> {
        let metas: Vec<Meta> = inputs.iter().map(|i| Meta::new(i.0, i.1)).collect();
        let outs = op.infer(&metas.iter().collect::<Vec<_>>())?;
        let ins: Vec<CpuBuffer> = inputs
            .iter()
            .map(|(d, s, v)| {
                assert_eq!(s.iter().product::<usize>(), v.len());
                let bytes: Vec<u8> = v
                    .iter()
                    .flat_map(|&v| match d {
                        DType::F32 => (v as f32).to_ne_bytes().to_vec(),
                        DType::I32 => (v as i32).to_ne_bytes().to_vec(),
                        DType::Bool => vec![(v != 0.0) as u8],
                        _ => v.to_ne_bytes().to_vec(),
                    })
                    .collect();
                CpuBuffer::from_bytes(&bytes)
            })
            .collect::<Result<_>>()?;
        let out_bufs: Vec<CpuBuffer> = outs.iter().map(|m| CpuBuffer::new(m.layout.numel() * m.dtype.size())).collect::<Result<_>>()?;
        let fault = AtomicU32::new(0);
        let arg = |b, m: &'static Meta| crate::backend::cpu::Arg { buffer: b, layout: &m.layout, dtype: m.dtype };
        let leak = |m: &Meta| -> &'static Meta { Box::leak(Box::new(m.clone())) };
        let in_args: Vec<_> = ins.iter().zip(&metas).map(|(b, m)| arg(b, leak(m))).collect();
        let out_args: Vec<_> = out_bufs.iter().zip(&outs).map(|(b, m)| arg(b, leak(m))).collect();
        op.cpu(&CpuCtx { op: op.name(), inputs: &in_args, outputs: &out_args, scalars: op.scalars(), fault: &fault })?;
        let values = out_bufs
            .iter()
            .zip(&outs)
            // SAFETY: nothing writes any more.
            .map(|(b, m)| unsafe {
                match m.dtype {
                    DType::F32 => b.slice::<f32>()[..m.layout.numel()].iter().map(|&v| v as f64).collect(),
                    _ => b.slice::<f64>()[..m.layout.numel()].to_vec(),
                }
            })
            .collect();
        Ok((values, fault.load(Ordering::Relaxed) != 0))
    }

    /// The GPU kernel for inputs of these dtypes and shapes, each shader parsed and validated, bindings and grids checked.
    pub fn gpu(op: &dyn Op, inputs: &[(DType, &[usize])]) -> GpuKernel {
        let metas: Vec<Meta> = inputs.iter().map(|i| Meta::new(i.0, i.1)).collect();
        let outs = op.infer(&metas.iter().collect::<Vec<_>>()).unwrap();
        let kernel = op.gpu(&GpuCtx { inputs: &metas, outputs: &outs, caps: &Caps::PORTABLE, epilogue: None }).unwrap();
        for step in &kernel.steps {
            let GpuStep::Dispatch(d) = step else { continue };
            let module = naga::front::wgsl::parse_str(&d.source).unwrap_or_else(|e| panic!("{}: {}", d.label, e.emit_to_string(&d.source)));
            naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all())
                .validate(&module)
                .unwrap_or_else(|e| panic!("{}: {e:?}", d.label));
            let mut layouter = naga::proc::Layouter::default();
            layouter.update(module.to_ctx()).unwrap();
            let shared = module.global_variables.iter().filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
            let bytes: u32 = shared.map(|(_, v)| layouter[v.ty].size).sum();
            assert!(bytes <= Caps::PORTABLE.max_workgroup_bytes, "{}: {bytes} bytes of workgroup memory", d.label);
            let bound = module.global_variables.iter().filter(|(_, v)| v.binding.as_ref().is_some_and(|b| b.group == 0)).count();
            assert_eq!(bound, d.bindings.len(), "{}", d.label);
            assert!(bound <= 8 && d.groups.iter().all(|&g| (1..=65_535).contains(&g)), "{}: {:?}", d.label, d.groups);
        }
        kernel
    }

    /// Deterministic numbers in (-2, 2).
    pub fn numbers(n: usize, seed: u32) -> Vec<f64> {
        let mut s = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        (0..n)
            .map(|_| {
                s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((s >> 8) as f64 / (1 << 22) as f64) - 2.0
            })
            .collect()
    }

    pub fn close(a: &[f64], b: &[f64], tol: f64) {
        assert_eq!(a.len(), b.len());
        for (i, (&x, &y)) in a.iter().zip(b).enumerate() {
            let same = x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= tol * (1.0 + y.abs());
            assert!(same, "element {i}: {x} instead of {y}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_maxima() {
        let x: Vec<f64> = (0..37).map(|i| i as f64).collect();
        assert_eq!(sum_of(&x, |v| v), 666.0);
        assert_eq!(sum_of2(&x, &x, |a, b| a - b), 0.0);
        assert_eq!(largest(&x), 36.0);
        assert_eq!(largest::<f64>(&[]), f64::NEG_INFINITY);
    }
}

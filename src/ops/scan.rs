//! Running sums, products and maxima along an axis, and the linear recurrence that their gradients need.
//!
//! On the GPU a line along the axis belongs to one invocation where there are many lines; else to workgroups, in chunks: totals of the
//! chunks, their running combination, then each chunk again with what came before it.

use super::movement::{Lines, by_number, computed, par_each, reads, writes};
use super::scatter::{Mode, Scatter, scatter};
use crate::backend::cpu::CpuCtx;
use crate::backend::cpu::threads::Shared;
use crate::codegen::dispatch::{Dispatch, GpuKernel, GpuStep, Slot, grid};
use crate::codegen::wgsl::preprocess;
use crate::graph::asked::Asked;
use crate::graph::{Cut, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record, record_all};
use crate::{DType, Error, Options, Result, Scalar, Tensor, shape};
use smallvec::smallvec;
use std::sync::Arc;

/// What runs along the axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sum,
    Prod,
    /// Outputs the maximum so far and its position (i32), of equal ones the last; NaN is greatest.
    Max,
    /// Inputs b and a: y_k = a_k · y_{k-1} + b_k.
    Linear,
}

/// A scan along an axis, from its start or from its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scan {
    kind: Kind,
    axis: usize,
    reverse: bool,
}

/// Elements of a chunk: 256 invocations with eight each.
const CHUNK: usize = 2048;

/// Columns that the CPU carries side by side.
const WIDTH: usize = 32;

/// An element and the wider type in which it accumulates.
trait Scanned: bytemuck::Pod + Send + Sync + PartialOrd {
    type Acc: Copy + Send + Sync;
    fn wide(self) -> Self::Acc;
    fn narrow(a: Self::Acc) -> Self;
    fn zero() -> Self::Acc;
    fn one() -> Self::Acc;
    fn add(a: Self::Acc, b: Self::Acc) -> Self::Acc;
    fn mul(a: Self::Acc, b: Self::Acc) -> Self::Acc;
    #[allow(clippy::eq_op)]
    fn is_nan(self) -> bool {
        self.partial_cmp(&self).is_none()
    }
}
macro_rules! scanned {
    ($($t:ty as $acc:ty: $add:expr, $mul:expr;)*) => { $(impl Scanned for $t {
        type Acc = $acc;
        #[inline(always)]
        fn wide(self) -> $acc {
            self as $acc
        }
        #[inline(always)]
        fn narrow(a: $acc) -> $t {
            a as $t
        }
        fn zero() -> $acc {
            0 as $acc
        }
        fn one() -> $acc {
            1 as $acc
        }
        #[inline(always)]
        fn add(a: $acc, b: $acc) -> $acc {
            ($add)(a, b)
        }
        #[inline(always)]
        fn mul(a: $acc, b: $acc) -> $acc {
            ($mul)(a, b)
        }
    })* };
}
scanned! {
    f32 as f64: |a: f64, b| a + b, |a: f64, b| a * b;
    f64 as f64: |a: f64, b| a + b, |a: f64, b| a * b;
    i32 as i32: i32::wrapping_add, i32::wrapping_mul;
    u32 as u32: u32::wrapping_add, u32::wrapping_mul;
    i64 as i64: i64::wrapping_add, i64::wrapping_mul;
    u8 as u8: u8::wrapping_add, u8::wrapping_mul;
}

/// Runs along each line: `load(element, position)` gives an element's state, `store` takes the state so far. Chunks of long lines run in
/// parallel where there are few lines; that depends on the shape alone.
fn along<S: Copy + Send + Sync>(
    l: Lines,
    reverse: bool,
    identity: S,
    load: impl Fn(usize, usize) -> S + Sync + Send,
    combine: impl Fn(S, S) -> S + Sync + Send,
    store: impl Fn(usize, S) + Sync + Send,
) {
    const LONG: usize = 16 << 10;
    let work = l.count() * l.n;
    let position = |k: usize| if reverse { l.n - 1 - k } else { k };
    if l.count() < 8 && l.n >= 4 * LONG {
        for line in 0..l.count() {
            let (o, c) = (line / l.inner, line % l.inner);
            let at = |k: usize| (o * l.n + position(k)) * l.inner + c;
            let chunks = l.n.div_ceil(LONG);
            let mut before = vec![identity; chunks];
            let totals = Shared::new(&mut before);
            par_each(chunks, work, |chunk| {
                let range = chunk * LONG..((chunk + 1) * LONG).min(l.n);
                // SAFETY: each chunk has its own place.
                unsafe { *totals.at(chunk) = range.fold(identity, |s, k| combine(s, load(at(k), position(k)))) };
            });
            let mut sum = identity;
            for b in &mut before {
                let total = std::mem::replace(b, sum);
                sum = combine(sum, total);
            }
            par_each(chunks, work, |chunk| {
                let mut s = before[chunk];
                for k in chunk * LONG..((chunk + 1) * LONG).min(l.n) {
                    s = combine(s, load(at(k), position(k)));
                    store(at(k), s);
                }
            });
        }
        return;
    }
    let pieces = l.inner.div_ceil(WIDTH);
    par_each(l.outer * pieces, work, |piece| {
        let (o, from) = (piece / pieces, piece % pieces * WIDTH);
        let width = WIDTH.min(l.inner - from);
        if width == 1 {
            let mut s = identity;
            for k in 0..l.n {
                let e = (o * l.n + position(k)) * l.inner + from;
                s = combine(s, load(e, position(k)));
                store(e, s);
            }
            return;
        }
        let mut states = [identity; WIDTH];
        for k in 0..l.n {
            let e = (o * l.n + position(k)) * l.inner + from;
            for (c, s) in states[..width].iter_mut().enumerate() {
                *s = combine(*s, load(e + c, position(k)));
                store(e + c, *s);
            }
        }
    });
}

impl Scan {
    fn typed<T: Scanned>(&self, ctx: &CpuCtx) {
        let l = Lines::new(ctx.shape(0), self.axis);
        if ctx.inputs[0].layout.numel() == 0 {
            return;
        }
        let (x, y) = (ctx.input::<T>(0), Shared::new(ctx.output::<T>(0)));
        // SAFETY: each element of the output is stored once.
        let put = |e: usize, v: T| unsafe { *y.at(e) = v };
        match self.kind {
            Kind::Sum => along(l, self.reverse, T::zero(), |e, _| x[e].wide(), T::add, |e, s| put(e, T::narrow(s))),
            Kind::Prod => along(l, self.reverse, T::one(), |e, _| x[e].wide(), T::mul, |e, s| put(e, T::narrow(s))),
            Kind::Max => {
                let places = Shared::new(ctx.output::<i32>(1));
                // A position below zero: nothing yet.
                let later = |a: (T, i32), b: (T, i32)| {
                    let take = a.1 < 0 || (b.1 >= 0 && (b.0.is_nan() || (!a.0.is_nan() && b.0 >= a.0)));
                    if take { b } else { a }
                };
                along(
                    l,
                    self.reverse,
                    (T::zeroed(), -1),
                    |e, k| (x[e], k as i32),
                    later,
                    |e, s| {
                        put(e, s.0);
                        // SAFETY: as `put`.
                        unsafe { *places.at(e) = s.1 };
                    },
                );
            }
            Kind::Linear => {
                let a = ctx.input::<T>(1);
                // (value, factor): what came before enters as factor · before + value. A start of 0 must not meet an infinite factor.
                let then = |s: (T::Acc, T::Acc, bool), t: (T::Acc, T::Acc, bool)| {
                    (if s.2 { t.0 } else { T::add(T::mul(t.1, s.0), t.0) }, T::mul(s.1, t.1), s.2 && t.2)
                };
                along(
                    l,
                    self.reverse,
                    (T::zero(), T::one(), true),
                    |e, _| (x[e].wide(), a[e].wide(), false),
                    then,
                    |e, s| put(e, T::narrow(s.0)),
                );
            }
        }
    }

    fn record(self, x: &Tensor, a: Option<&Tensor>) -> Result<Tensor> {
        match a {
            Some(a) => record(Arc::new(self), &[x, a]),
            None => record(Arc::new(self), &[x]),
        }
    }
}

/// `x` moved by one along the axis, so that each place holds what was after (or before) it; `fill` comes in at the end.
fn shifted(x: &Tensor, axis: usize, after: bool, fill: Scalar) -> Result<Tensor> {
    let (n, a) = (x.dims()[axis], axis as isize);
    if n == 0 {
        return Ok(x.clone());
    }
    let mut edge = x.shape().clone();
    edge[axis] = 1;
    let edge = Tensor::try_full(edge, fill, Options { dtype: x.dtype(), device: x.device() })?;
    if after {
        Tensor::try_cat(&[&x.try_narrow(a, 1, n - 1)?, &edge], a)
    } else {
        Tensor::try_cat(&[&edge, &x.try_narrow(a, 0, n - 1)?], a)
    }
}

impl Op for Scan {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Sum => "cumsum",
            Kind::Prod => "cumprod",
            Kind::Max => "cummax",
            Kind::Linear => "linear_scan",
        }
    }

    fn key(&self, key: &mut Key) {
        key.add(self.kind as u64).add(self.axis as u64).add(self.reverse as u64);
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let x = inputs[0];
        if x.dtype == DType::Bool || (self.kind == Kind::Linear && !x.dtype.is_float()) {
            return Err(Error::dtype(self.name(), &[x.dtype], if self.kind == Kind::Linear { "floats" } else { "numbers" }));
        }
        if let Some(a) = inputs.get(1) {
            if a.shape() != x.shape() {
                return Err(Error::shape(self.name(), &[x.shape(), a.shape()], "values and factors of one shape"));
            }
            if a.dtype != x.dtype {
                return Err(Error::dtype(self.name(), &[x.dtype, a.dtype], "values and factors of one dtype"));
            }
        }
        let y = Meta::new(x.dtype, x.shape());
        match self.kind {
            Kind::Max => Ok(smallvec![y, Meta::new(DType::I32, x.shape())]),
            _ => Ok(smallvec![y]),
        }
    }

    fn saves(&self) -> Saves {
        match self.kind {
            Kind::Sum => Saves::default(),
            Kind::Prod => Saves { inputs: 1, outputs: 1 },
            Kind::Max => Saves { inputs: 0, outputs: 2 },
            Kind::Linear => Saves { inputs: 2, outputs: 1 },
        }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let dy = ctx.cotangent()?;
        let (axis, back) = (self.axis, Scan { reverse: !self.reverse, ..*self });
        match self.kind {
            Kind::Sum => Ok(vec![Some(back.record(dy, None)?)]),
            Kind::Prod => {
                // dx_k = (Π_{j<k} x_j) · S_k with S_k = dy_k + x_{k+1} · S_{k+1}: no division, so right at zeros.
                let next = shifted(&ctx.inputs[0], axis, !self.reverse, 1.into())?;
                let sum = Scan { kind: Kind::Linear, ..back }.record(dy, Some(&next))?;
                let before = shifted(&ctx.outputs[0], axis, self.reverse, 1.into())?;
                Ok(vec![Some(before.try_mul(sum)?)])
            }
            Kind::Max => {
                let zeros = Tensor::try_zeros(dy.shape(), (dy.dtype(), dy.device()))?;
                let op = Scatter {
                    axis,
                    mode: Mode::Add,
                    shared: false,
                    unique: false,
                    start: 0,
                    total: dy.dims()[axis],
                    asked: Asked::here("cummax"),
                };
                Ok(vec![Some(scatter(op, &zeros, &ctx.outputs[1], dy)?)])
            }
            Kind::Linear => {
                let next = shifted(&ctx.inputs[1], axis, !self.reverse, 0.into())?;
                let db = back.record(dy, Some(&next))?;
                let da = match ctx.needs[1] {
                    true => Some(shifted(&ctx.outputs[0], axis, self.reverse, 0.into())?.try_mul(&db)?),
                    false => None,
                };
                Ok(vec![Some(db), da])
            }
        }
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        by_number!(ctx, ctx.dtype(0), T => self.typed::<T>(ctx));
        Ok(())
    }

    fn cuts(&self, inputs: &[Meta], outputs: &[Meta]) -> Vec<Cut> {
        Cut::axes(inputs[0].shape(), inputs.len(), outputs.len(), |d| d != self.axis)
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let l = Lines::new(ctx.shape(0), self.axis);
        let mut kernel = GpuKernel::default();
        if ctx.numel(0) == 0 {
            return Ok(kernel);
        }
        let ty = match ctx.inputs[0].dtype {
            DType::F32 => "f32",
            DType::I32 => "i32",
            _ => "u32",
        };
        let mut defines = vec![("T", ty)];
        if ty == "f32" {
            defines.push(("FLOAT", ""));
        }
        if self.reverse {
            defines.push(("REVERSE", ""));
        }
        defines.push(match self.kind {
            Kind::Sum => ("SUM", ""),
            Kind::Prod => ("PROD", ""),
            Kind::Max => ("MAX", ""),
            Kind::Linear => ("LINEAR", ""),
        });
        let chunks = l.n.div_ceil(CHUNK);
        let step = |phase: &[&'static str], groups: usize| {
            let phase_is = |name: &str| phase.contains(&name);
            let mut d = defines.clone();
            d.extend(phase.iter().map(|&name| (name, "")));
            let mut bindings = Vec::new();
            if !phase_is("PREFIX") {
                bindings.extend((0..ctx.inputs.len()).map(|i| reads(Slot::Input(i))));
            }
            if phase_is("LINE") || phase_is("FINAL") {
                bindings.extend((0..ctx.outputs.len()).map(|i| writes(Slot::Output(i))));
            }
            if !phase_is("LINE") && !phase_is("ALONE") {
                bindings.push(writes(Slot::Temp(0)));
            }
            let count = if phase_is("LINE") { l.count() } else { groups };
            // The numbers of the bindings follow from what is bound.
            let numbers: Vec<String> = (0..8).map(|k| k.to_string()).collect();
            let inputs = if phase_is("PREFIX") { 0 } else { ctx.inputs.len() };
            let outputs = if phase_is("LINE") || phase_is("FINAL") { ctx.outputs.len() } else { 0 };
            d.extend([
                ("OUT", numbers[inputs].as_str()),
                ("OUT2", numbers[inputs + 1].as_str()),
                ("TEMP", numbers[inputs + outputs].as_str()),
            ]);
            GpuStep::Dispatch(Dispatch {
                label: "scan",
                source: preprocess(include_str!("../../shaders/scan.wgsl"), &d).into(),
                bindings,
                params: vec![count.into(), l.n.into(), l.inner.into(), chunks.into()],
                groups: grid(groups),
                flops: 0,
            })
        };
        kernel.steps = if l.count() >= 2048 || l.n <= 64 {
            vec![step(&["LINE"], l.count().div_ceil(256))]
        } else if chunks == 1 {
            vec![step(&["FINAL", "ALONE"], l.count())]
        } else {
            kernel.temps = vec![l.count() * chunks * 8];
            vec![step(&["TOTALS"], l.count() * chunks), step(&["PREFIX"], l.count()), step(&["FINAL"], l.count() * chunks)]
        };
        Ok(kernel)
    }
}

/// The dtype of running sums and products: small integers count in i32.
fn counted(x: &Tensor) -> DType {
    match x.dtype() {
        DType::Bool | DType::U8 => DType::I32,
        d => d.compute(),
    }
}

fn plain(op: &'static str, kind: Kind, x: &Tensor, axis: isize) -> Result<Tensor> {
    let [y] = shape::at_least_1d(x, |x| {
        let axis = shape::axis(op, axis, x.rank())?;
        Ok([Scan { kind, axis, reverse: false }.record(&x.try_cast(counted(x))?, None)?])
    })?;
    if x.dtype().is_float() { y.try_cast(x.dtype()) } else { Ok(y) }
}

#[fornax_derive::fallible]
impl Tensor {
    /// The running sum along `axis`: `y_k = x_0 + … + x_k`. Bools and u8 are summed as i32.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![1.0f32, 2.0, 3.0], 3, Device::cpu())?;
    /// assert_eq!(x.cumsum(0).to_vec::<f32>()?, [1.0, 3.0, 6.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_cumsum(&self, axis: isize) -> Result<Tensor> {
        plain("cumsum", Kind::Sum, self, axis)
    }

    /// The running product along `axis`: `y_k = x_0 · … · x_k`. Its gradients hold at zeros too. Bools and u8 are multiplied as i32.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![1.0f32, 2.0, 3.0], 3, Device::cpu())?;
    /// assert_eq!(x.cumprod(0).to_vec::<f32>()?, [1.0, 2.0, 6.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_cumprod(&self, axis: isize) -> Result<Tensor> {
        plain("cumprod", Kind::Prod, self, axis)
    }

    /// The running maximum along `axis` and its position (i32; of equal ones the last). NaN is greater than every number.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![1.0f32, 3.0, 2.0], 3, Device::cpu())?;
    /// let (values, indices) = x.cummax(0);
    /// assert_eq!(values.to_vec::<f32>()?, [1.0, 3.0, 3.0]);
    /// assert_eq!(indices.to_vec::<i32>()?, [0, 1, 1]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_cummax(&self, axis: isize) -> Result<(Tensor, Tensor)> {
        let via = if self.dtype() == DType::Bool { DType::I32 } else { computed(self) };
        let [values, places] = shape::at_least_1d(self, |x| {
            let axis = shape::axis("cummax", axis, x.rank())?;
            let outs = record_all(Arc::new(Scan { kind: Kind::Max, axis, reverse: false }), &[&x.try_cast(via)?])?;
            Ok([outs[0].clone(), outs[1].clone()])
        })?;
        Ok((values.try_cast(self.dtype())?, places))
    }

    /// The linear recurrence along `axis`: `y_k = factors_k · y_{k-1} + x_k` with `y_{-1} = 0`, or from the end backward where `reverse`.
    /// Discounted returns are `rewards.linear_scan(&(not_done * gamma), axis, true)`. Factors broadcast to this tensor's shape.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let rewards = Tensor::from_vec(vec![1.0f32, 1.0, 1.0], 3, Device::cpu())?;
    /// let gamma = Tensor::full(3, 0.5, Device::cpu());
    /// assert_eq!(rewards.linear_scan(&gamma, 0, true).to_vec::<f32>()?, [1.75, 1.5, 1.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_linear_scan(&self, factors: &Tensor, axis: isize, reverse: bool) -> Result<Tensor> {
        let axis = shape::axis("linear_scan", axis, self.rank())?;
        let via = self.dtype().compute();
        let factors = factors.try_expand(self.shape())?.try_cast(via)?;
        Scan { kind: Kind::Linear, axis, reverse }.record(&self.try_cast(via)?, Some(&factors))?.try_cast(self.dtype())
    }
}

/// The product of the other elements of an axis, for each: right with zeros, and as a function of all of them.
pub(super) fn others(x: &Tensor, axis: usize) -> Result<Tensor> {
    let (n, a) = (x.dims()[axis], axis as isize);
    if n == 0 {
        return x.try_ones_like();
    }
    // The product of what stands before each.
    let before = |x: &Tensor| -> Result<Tensor> {
        let one = x.try_narrow(a, 0, 1)?.try_ones_like()?;
        Tensor::try_cat(&[&one, &x.try_narrow(a, 0, n - 1)?], a)?.try_cumprod(a)
    };
    before(x)?.try_mul(before(&x.try_flip([a])?)?.try_flip([a])?)
}

#[cfg(test)]
mod tests {
    use super::super::movement::testing::*;
    use super::*;

    fn close(a: &[f32], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (*a as f64 - b).abs() <= 1e-5 * (1.0 + b.abs()))
    }

    #[test]
    fn scans_along_every_axis() {
        for (shape, axis) in SHAPES.into_iter().chain([([1, 300_001, 1], 1), ([2, 3000, 1], 1), ([0, 3, 2], 1)]) {
            for reverse in [false, true] {
                let l = Lines::new(&shape, axis);
                let n = shape.iter().product();
                let x = numbers(n);
                let a: Vec<f32> = x.iter().map(|v| 0.9 - v * v).collect();
                // Near one, so that products stay in range.
                let p: Vec<f32> = x.iter().map(|v| 1.0 + v * 1e-3).collect();
                let (mut sum, mut prod, mut lin) = (vec![0f64; n], vec![0f64; n], vec![0f64; n]);
                let (mut max, mut place) = (vec![0f32; n], vec![0i32; n]);
                for line in 0..l.count() {
                    let (mut s, mut q, mut y, mut m) = (0.0, 1.0, 0.0, (f32::NEG_INFINITY, 0));
                    for k in 0..l.n {
                        let k = if reverse { l.n - 1 - k } else { k };
                        let e = (line / l.inner * l.n + k) * l.inner + line % l.inner;
                        s += x[e] as f64;
                        q *= p[e] as f64;
                        y = a[e] as f64 * y + x[e] as f64;
                        if x[e] >= m.0 {
                            m = (x[e], k as i32);
                        }
                        (sum[e], prod[e], lin[e], max[e], place[e]) = (s, q, y, m.0, m.1);
                    }
                }
                let op = |kind| Scan { kind, axis, reverse };
                let (xv, av, pv) = (value(&x, shape), value(&a, shape), value(&p, shape));
                assert!(close(&run1::<f32>(&op(Kind::Sum), &[&xv]), &sum), "sum {shape:?} {reverse}");
                assert!(close(&run1::<f32>(&op(Kind::Prod), &[&pv]), &prod), "prod {shape:?} {reverse}");
                assert!(close(&run1::<f32>(&op(Kind::Linear), &[&xv, &av]), &lin), "linear {shape:?} {reverse}");
                let (outs, _) = run(&op(Kind::Max), &[&xv]).unwrap();
                assert!(outs[0].get::<f32>() == max && outs[1].get::<i32>() == place, "max {shape:?} {reverse}");
            }
        }
    }

    #[test]
    fn nan_stays_the_maximum() {
        let (outs, _) = run(&Scan { kind: Kind::Max, axis: 0, reverse: false }, &[&value(&[1.0, f32::NAN, 3.0], 3)]).unwrap();
        assert_eq!(outs[1].get::<i32>(), [0, 1, 1]);
        assert!(outs[0].get::<f32>()[2].is_nan());
    }

    #[test]
    fn every_shader_is_valid() {
        for dtype in [DType::F32, DType::I32, DType::U32] {
            for kind in [Kind::Sum, Kind::Prod, Kind::Max, Kind::Linear] {
                for shape in [[5000, 3], [2, 70], [2, 5000]] {
                    let op = Scan { kind, axis: 1, reverse: shape[0] == 2 };
                    let x = Meta::new(dtype, shape);
                    let inputs = if kind == Kind::Linear { vec![x.clone(), x.clone()] } else { vec![x.clone()] };
                    let Ok(outs) = op.infer(&inputs.iter().collect::<Vec<_>>()) else { continue };
                    validate(&op, &inputs, &outs);
                }
            }
        }
    }
}

//! Softmax and log-softmax along one axis, forward and backward, each one kernel that reads any position of the axis.

use super::rows::{Around, COLUMNS, Real, gpu_lanes, largest, sum_of, sum_of2, to_compute, variant, walk};
use crate::autograd::vjp_by_decomposition;
use crate::backend::cpu::CpuCtx;
use crate::backend::cpu::simd::multiversion;
use crate::backend::cpu::threads::Shared;
use crate::codegen::dispatch::{Binding, Dispatch, GpuKernel, GpuStep, Slot, grid};
use crate::graph::{Cut, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record};
use crate::{DType, Error, Result, Tensor, shape};
use smallvec::smallvec;
use std::sync::Arc;

/// y = softmax(x) or its logarithm, along `axis`.
#[derive(Clone, Debug)]
struct Softmax {
    log: bool,
    axis: usize,
}

/// From (y, dy) to dx.
#[derive(Clone, Debug)]
struct SoftmaxBackward(Softmax);

#[fornax_derive::fallible]
impl Tensor {
    /// Exponentials that sum to 1 along `axis`: yᵢ = exp(xᵢ) / Σⱼ exp(xⱼ), computed without overflow.
    ///
    /// A row that is -∞ throughout, or holds a NaN, gives NaN, as in PyTorch. f16 and bf16 are computed in f32. CPU and GPU agree within 1e-6.
    ///
    /// # Errors
    /// `Error::Axis`; `Error::DType` for an integer dtype.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![0.0f32, 0.0, 3.0f32.ln(), 0.0], [2, 2], Device::cpu())?;
    /// let y = x.softmax(-1).to_vec::<f32>()?;
    /// assert!((y[0] - 0.5).abs() < 1e-6 && (y[2] - 0.75).abs() < 1e-6);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_softmax(&self, axis: isize) -> Result<Tensor> {
        softmax("softmax", self, axis, false)
    }

    /// The logarithm of [`softmax`](Tensor::softmax) along `axis`, computed without overflow and without cancellation:
    /// yᵢ = xᵢ - log Σⱼ exp(xⱼ).
    ///
    /// # Errors
    /// `Error::Axis`; `Error::DType` for an integer dtype.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let y = Tensor::zeros([1, 4], Device::cpu()).log_softmax(1).to_vec::<f32>()?;
    /// assert!((y[0] + 4.0f32.ln()).abs() < 1e-6);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_log_softmax(&self, axis: isize) -> Result<Tensor> {
        softmax("log_softmax", self, axis, true)
    }
}

fn softmax(name: &'static str, x: &Tensor, axis: isize, log: bool) -> Result<Tensor> {
    let [y] = shape::at_least_1d(x, |x| {
        let axis = shape::axis(name, axis, x.rank())?;
        Ok([record(Arc::new(Softmax { log, axis }), &[&to_compute(name, x)?])?.try_cast(x.dtype())?])
    })?;
    Ok(y)
}

impl Softmax {
    /// The GPU variant of either direction: lanes a row, whether rows lie side by side.
    fn dispatch(&self, label: &'static str, source: &str, ctx: &GpuCtx, slots: &[Slot]) -> Result<GpuKernel> {
        let a = Around::of(ctx.shape(0), self.axis);
        if a.numel() == 0 {
            return Ok(GpuKernel::default());
        }
        let strided = a.inner > 1;
        // Rows side by side are read together by neighbouring invocations: few lanes a row keep that.
        let lanes = if strided { gpu_lanes(a.n).min(8) } else { gpu_lanes(a.n) };
        let source = variant(source, &[("L", lanes)], &[("STRIDED", strided), ("SHARE", lanes > 1), ("LOG", self.log)]);
        let last = slots.len() - 1;
        let dispatch = Dispatch {
            label,
            source: source.into(),
            bindings: slots.iter().enumerate().map(|(i, &slot)| Binding { slot, write: i == last }).collect(),
            params: vec![a.rows().into(), a.n.into(), a.inner.into()],
            groups: grid(a.rows().div_ceil(256 / lanes)),
            flops: 0,
        };
        Ok(GpuKernel { temps: Vec::new(), steps: vec![GpuStep::Dispatch(dispatch)] })
    }

    fn forward<T: Real>(&self, ctx: &CpuCtx) {
        let a = Around::of(ctx.shape(0), self.axis);
        let (x, y) = (ctx.input::<T>(0), &Shared::new(ctx.output::<T>(0)));
        // SAFETY: each row, or block of columns, is one task's.
        let rows = |at: usize, rows: usize| forward_rows(&x[at..at + rows * a.n], unsafe { y.slice(at, rows * a.n) }, a.n, self.log);
        walk(a, rows, |at, columns| forward_block(x, y, a, at, columns, self.log));
    }

    fn backward<T: Real>(&self, ctx: &CpuCtx) {
        let a = Around::of(ctx.shape(0), self.axis);
        let (y, dy, dx) = (ctx.input::<T>(0), ctx.input::<T>(1), &Shared::new(ctx.output::<T>(0)));
        let rows = |at: usize, rows: usize| {
            let range = at..at + rows * a.n;
            // SAFETY: each row, or block of columns, is one task's.
            backward_rows(&y[range.clone()], &dy[range], unsafe { dx.slice(at, rows * a.n) }, a.n, self.log)
        };
        walk(a, rows, |at, columns| backward_block(y, dy, dx, a, at, columns, self.log));
    }
}

multiversion! {
    fn forward_rows[T: Real](x: &[T], y: &mut [T], n: usize, log: bool) {
        for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
            let m = largest(x);
            if log {
                let shift = sum_of(x, |v| (v - m).exp()).ln();
                y.iter_mut().zip(x).for_each(|(y, &v)| *y = (v - m) - shift);
            } else {
                y.iter_mut().zip(x).for_each(|(y, &v)| *y = (v - m).exp());
                let scale = T::ONE / sum_of(y, |v| v);
                y.iter_mut().for_each(|y| *y *= scale);
            }
        }
    }
}

multiversion! {
    fn forward_block[T: Real](x: &[T], y: &Shared<T>, a: Around, at: usize, columns: usize, log: bool) {
        let (mut m, mut s) = ([T::NEG_INF; COLUMNS], [T::ZERO; COLUMNS]);
        let (m, s) = (&mut m[..columns], &mut s[..columns]);
        let x = |k: usize| &x[at + k * a.inner..][..columns];
        // SAFETY: the block is this call's, which holds one slice of it at a time.
        let y = |k: usize| unsafe { y.slice(at + k * a.inner, columns) };
        for k in 0..a.n {
            m.iter_mut().zip(x(k)).for_each(|(m, &v)| *m = m.or_larger(v));
        }
        for k in 0..a.n {
            for (((s, &m), &v), y) in s.iter_mut().zip(m.iter()).zip(x(k)).zip(y(k)) {
                let e = (v - m).exp();
                *s += e;
                *y = if log { v - m } else { e };
            }
        }
        s.iter_mut().for_each(|s| *s = if log { s.ln() } else { T::ONE / *s });
        for k in 0..a.n {
            y(k).iter_mut().zip(s.iter()).for_each(|(y, &s)| *y = if log { *y - s } else { *y * s });
        }
    }
}

/// What a softmax sums for its gradient.
#[inline(always)]
fn term<T: Real>(y: T, dy: T, log: bool) -> T {
    if log { dy } else { dy * y }
}

#[inline(always)]
fn gradient<T: Real>(y: T, dy: T, sum: T, log: bool) -> T {
    if log { dy - y.exp() * sum } else { y * (dy - sum) }
}

multiversion! {
    fn backward_rows[T: Real](y: &[T], dy: &[T], dx: &mut [T], n: usize, log: bool) {
        for ((y, dy), dx) in y.chunks_exact(n).zip(dy.chunks_exact(n)).zip(dx.chunks_exact_mut(n)) {
            let s = sum_of2(y, dy, |y, dy| term(y, dy, log));
            dx.iter_mut().zip(y).zip(dy).for_each(|((dx, &y), &dy)| *dx = gradient(y, dy, s, log));
        }
    }
}

multiversion! {
    fn backward_block[T: Real](y: &[T], dy: &[T], dx: &Shared<T>, a: Around, at: usize, columns: usize, log: bool) {
        let mut s = [T::ZERO; COLUMNS];
        let s = &mut s[..columns];
        let y = |k: usize| &y[at + k * a.inner..][..columns];
        let dy = |k: usize| &dy[at + k * a.inner..][..columns];
        for k in 0..a.n {
            s.iter_mut().zip(y(k)).zip(dy(k)).for_each(|((s, &y), &dy)| *s += term(y, dy, log));
        }
        for k in 0..a.n {
            // SAFETY: the block is this call's.
            let dx = unsafe { dx.slice(at + k * a.inner, columns) };
            let rows = dx.iter_mut().zip(y(k)).zip(dy(k)).zip(s.iter());
            rows.for_each(|(((dx, &y), &dy), &s)| *dx = gradient(y, dy, s, log));
        }
    }
}

fn infer(name: &'static str, inputs: &[&Meta]) -> Result<Outputs> {
    let x = inputs[0];
    if !matches!(x.dtype, DType::F32 | DType::F64) {
        return Err(Error::dtype(name, &[x.dtype], "f32 or f64"));
    }
    Ok(smallvec![Meta::new(x.dtype, x.shape())])
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        if self.log { "log_softmax" } else { "softmax" }
    }

    fn key(&self, key: &mut Key) {
        key.add(self.axis as u64);
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        infer(self.name(), inputs)
    }

    fn saves(&self) -> Saves {
        Saves { inputs: 0, outputs: 1 }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(record(Arc::new(SoftmaxBackward(self.clone())), &[&ctx.outputs[0], ctx.cotangent()?])?)])
    }

    fn decompose(&self, inputs: &[Tensor]) -> Option<Result<Vec<Tensor>>> {
        let axis = self.axis as isize;
        let build = || {
            let x = &inputs[0];
            // Softmax does not change with a shift, so the maximum is a constant.
            let x = x.try_sub(x.detach().try_max_keepdim(axis)?)?;
            let e = x.try_exp()?;
            let s = e.try_sum_keepdim(axis)?;
            Ok(vec![if self.log { x.try_sub(s.try_log()?)? } else { e.try_div(s)? }])
        };
        Some(build())
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        match ctx.dtype(0) {
            DType::F32 => self.forward::<f32>(ctx),
            DType::F64 => self.forward::<f64>(ctx),
            _ => return ctx.unsupported(),
        }
        Ok(())
    }

    fn cuts(&self, inputs: &[Meta], _outputs: &[Meta]) -> Vec<Cut> {
        Cut::axes(inputs[0].shape(), 1, 1, |d| d != self.axis)
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        self.dispatch(self.name(), include_str!("../../shaders/softmax.wgsl"), ctx, &[Slot::Input(0), Slot::Output(0)])
    }
}

impl Op for SoftmaxBackward {
    fn name(&self) -> &'static str {
        if self.0.log { "log_softmax_backward" } else { "softmax_backward" }
    }

    fn key(&self, key: &mut Key) {
        self.0.key(key)
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        infer(self.name(), inputs)
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        vjp_by_decomposition(self, ctx)
    }

    fn decompose(&self, inputs: &[Tensor]) -> Option<Result<Vec<Tensor>>> {
        let axis = self.0.axis as isize;
        let (y, dy) = (&inputs[0], &inputs[1]);
        let build = || {
            Ok(vec![if self.0.log {
                dy.try_sub(y.try_exp()?.try_mul(dy.try_sum_keepdim(axis)?)?)?
            } else {
                y.try_mul(dy.try_sub(dy.try_mul(y)?.try_sum_keepdim(axis)?)?)?
            }])
        };
        Some(build())
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        match ctx.dtype(0) {
            DType::F32 => self.0.backward::<f32>(ctx),
            DType::F64 => self.0.backward::<f64>(ctx),
            _ => return ctx.unsupported(),
        }
        Ok(())
    }

    fn cuts(&self, inputs: &[Meta], _outputs: &[Meta]) -> Vec<Cut> {
        Cut::axes(inputs[0].shape(), 2, 1, |d| d != self.0.axis)
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let slots = [Slot::Input(0), Slot::Input(1), Slot::Output(0)];
        self.0.dispatch(self.name(), include_str!("../../shaders/softmax_backward.wgsl"), ctx, &slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::rows::testing::{close, cpu, gpu, numbers};

    /// (softmax, log-softmax) by the definition.
    fn naive(x: &[f64], a: Around, log: bool) -> Vec<f64> {
        let mut y = vec![0.0; x.len()];
        for o in 0..a.outer {
            for i in 0..a.inner {
                let at = |k: usize| (o * a.n + k) * a.inner + i;
                let m = (0..a.n).map(|k| x[at(k)]).fold(f64::NEG_INFINITY, f64::max);
                let s: f64 = (0..a.n).map(|k| (x[at(k)] - m).exp()).sum();
                for k in 0..a.n {
                    y[at(k)] = if log { x[at(k)] - m - s.ln() } else { (x[at(k)] - m).exp() / s };
                }
            }
        }
        y
    }

    const SHAPES: [(&[usize], usize); 6] =
        [(&[1], 0), (&[7, 13], 1), (&[3, 5, 130], 1), (&[0, 4], 1), (&[67, 1021], 1), (&[300, 31, 5], 0)];

    #[test]
    fn cpu_agrees_with_the_definition() {
        for (shape, axis) in SHAPES {
            let a = Around::of(shape, axis);
            let (x, dy) = (numbers(a.numel(), 1), numbers(a.numel(), 2));
            for log in [false, true] {
                let op = Softmax { log, axis };
                let want = naive(&x, a, log);
                for (dtype, tol) in [(DType::F32, 2e-6), (DType::F64, 1e-13)] {
                    let (y, _) = cpu(&op, &[(dtype, shape, &x)]).unwrap();
                    close(&y[0], &want, tol);
                    let (dx, _) = cpu(&SoftmaxBackward(op.clone()), &[(dtype, shape, &want), (dtype, shape, &dy)]).unwrap();
                    for o in 0..a.rows() {
                        let at = |k: usize| (o / a.inner * a.n + k) * a.inner + o % a.inner;
                        let s: f64 = (0..a.n).map(|k| if log { dy[at(k)] } else { dy[at(k)] * want[at(k)] }).sum();
                        for k in (0..a.n).map(at) {
                            let w = if log { dy[k] - want[k].exp() * s } else { want[k] * (dy[k] - s) };
                            assert!((dx[0][k] - w).abs() <= 10.0 * tol * (1.0 + s.abs()), "{} {w}", dx[0][k]);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn infinite_rows_are_nan() {
        let inf = f64::INFINITY;
        let x = [-inf, -inf, -inf, 0.0, inf, 1.0, -inf, 2.0, 2.0];
        let (y, _) = cpu(&Softmax { log: false, axis: 1 }, &[(DType::F32, &[3, 3], &x)]).unwrap();
        assert!(y[0][..6].iter().all(|v| v.is_nan()));
        close(&y[0][6..], &[0.0, 0.5, 0.5], 1e-6);
    }

    #[test]
    fn shaders_are_valid() {
        for (shape, axis) in SHAPES {
            for log in [false, true] {
                let op = Softmax { log, axis };
                gpu(&op, &[(DType::F32, shape)]);
                gpu(&SoftmaxBackward(op), &[(DType::F32, shape), (DType::F32, shape)]);
            }
        }
    }
}

//! Pooling: maximum and average over windows, fixed or adaptive, in two dimensions; one dimension is an image of one row.

use super::conv::Pair;
use super::{pool_cpu, pool_gpu};
use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::GpuKernel;
use crate::graph::{Cut, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record, record_all};
use crate::{DType, Error, PadMode, Result, Shape, Tensor};
use smallvec::smallvec;
use std::sync::Arc;

/// How a pooling window walks over its input.
///
/// ```
/// use fornax::PoolOptions;
/// let o = PoolOptions { stride: Some(2.into()), padding: 1.into(), ..PoolOptions::default() };
/// assert!(!o.ceil_mode);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// The step of the window; `None`: the window's size, so that windows tile the input.
    pub stride: Option<Pair>,
    /// Rows and columns outside the input on each side: at most half the window. They never win a maximum.
    pub padding: Pair,
    /// The distance between a window's elements; averages take 1 only.
    pub dilation: Pair,
    /// Whether a last window that does not fit whole gives an output too.
    pub ceil_mode: bool,
    /// Whether an average counts the padding's zeros.
    pub count_include_pad: bool,
    /// What the sum of a window is divided by to give its average; `None`: the number of elements that count.
    pub divisor_override: Option<usize>,
}

impl Default for PoolOptions {
    fn default() -> Self {
        PoolOptions {
            stride: None,
            padding: Pair([0, 0]),
            dilation: Pair([1, 1]),
            ceil_mode: false,
            count_include_pad: true,
            divisor_override: None,
        }
    }
}

/// The windows of a pooling: planes [P, H, W] to [P, OH, OW].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub size: [usize; 2],
    pub out: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
    pub include_pad: bool,
    /// Window i covers `i·size/out` rounded down to `(i + 1)·size/out` rounded up; kernel, stride, padding, dilation say nothing.
    pub adaptive: bool,
}

impl Geometry {
    fn key(&self, key: &mut Key) {
        for pair in [self.size, self.out, self.kernel, self.stride, self.padding, self.dilation] {
            key.add(pair[0] as u64).add(pair[1] as u64);
        }
        key.add(self.include_pad as u64).add(self.adaptive as u64);
    }

    /// The windows along an axis: first position, end (exclusive), and the number of elements that an average counts.
    pub fn windows(&self, axis: usize) -> Vec<(usize, usize, usize)> {
        let (size, out) = (self.size[axis], self.out[axis]);
        let (k, s, p, d) = (self.kernel[axis], self.stride[axis], self.padding[axis], self.dilation[axis]);
        let window = |o: usize| {
            if self.adaptive {
                let (start, end) = (o * size / out, ((o + 1) * size).div_ceil(out));
                return (start, end, end - start);
            }
            // Positions from the padding's start.
            let (first, end) = (o * s, o * s + (k - 1) * d + 1);
            let start = if first >= p { first - p } else { (d - (p - first) % d) % d };
            let stop = end.saturating_sub(p).min(size);
            let count = if self.include_pad { end.min(size + 2 * p) - first } else { stop.saturating_sub(start) };
            (start, stop, count)
        };
        (0..out).map(window).collect()
    }

    fn input(&self, planes: usize) -> Shape {
        Shape::from([planes, self.size[0], self.size[1]])
    }

    fn output(&self, planes: usize) -> Shape {
        Shape::from([planes, self.out[0], self.out[1]])
    }
}

/// The four kernels of pooling and one that reads at saved positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// x [P, H, W] → maxima [P, OH, OW], positions in the plane (i32; -1 where a window is empty).
    Max,
    /// (gradient [P, OH, OW], positions) → gradient [P, H, W].
    MaxGrad,
    /// (x [P, H, W], positions [P, OH, OW]) → the values at the positions: what `MaxGrad` is the transpose of.
    Take,
    /// x [P, H, W] → averages [P, OH, OW].
    Avg,
    /// Gradient [P, OH, OW] → gradient [P, H, W].
    AvgGrad,
}

/// One of the kernels over some windows.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub kind: Kind,
    pub windows: Geometry,
}

impl Pool {
    fn record(kind: Kind, windows: Geometry, inputs: &[&Tensor]) -> Result<Tensor> {
        record(Arc::new(Pool { kind, windows }), inputs)
    }
}

impl Op for Pool {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Max => "max_pool2d",
            Kind::MaxGrad => "max_pool2d_grad",
            Kind::Take => "max_pool2d_take",
            Kind::Avg => "avg_pool2d",
            Kind::AvgGrad => "avg_pool2d_grad",
        }
    }

    fn key(&self, key: &mut Key) {
        self.windows.key(key);
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let planes = inputs[0].shape()[0];
        let shape = match self.kind {
            Kind::MaxGrad | Kind::AvgGrad => self.windows.input(planes),
            _ => self.windows.output(planes),
        };
        shape.checked_numel()?;
        let out = Meta::new(inputs[0].dtype, shape.clone());
        Ok(if self.kind == Kind::Max { smallvec![out, Meta::new(DType::I32, shape)] } else { smallvec![out] })
    }

    fn saves(&self) -> Saves {
        match self.kind {
            Kind::Max => Saves { inputs: 0, outputs: 0b10 },
            Kind::MaxGrad | Kind::Take => Saves { inputs: 0b10, outputs: 0 },
            Kind::Avg | Kind::AvgGrad => Saves::default(),
        }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let g = ctx.cotangent()?;
        Ok(match self.kind {
            Kind::Max => vec![Some(Pool::record(Kind::MaxGrad, self.windows, &[g, &ctx.outputs[1]])?)],
            Kind::MaxGrad => vec![Some(Pool::record(Kind::Take, self.windows, &[g, &ctx.inputs[1]])?), None],
            Kind::Take => vec![Some(Pool::record(Kind::MaxGrad, self.windows, &[g, &ctx.inputs[1]])?), None],
            Kind::Avg => vec![Some(Pool::record(Kind::AvgGrad, self.windows, &[g])?)],
            Kind::AvgGrad => vec![Some(Pool::record(Kind::Avg, self.windows, &[g])?)],
        })
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        match ctx.dtype(0) {
            DType::F32 => pool_cpu::run::<f32>(self, ctx),
            DType::F64 => pool_cpu::run::<f64>(self, ctx),
            _ => return ctx.unsupported(),
        }
        Ok(())
    }

    fn cuts(&self, inputs: &[Meta], outputs: &[Meta]) -> Vec<Cut> {
        Cut::axes(inputs[0].shape(), inputs.len(), outputs.len(), |d| d == 0)
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        Ok(pool_gpu::kernel(self, ctx))
    }
}

/// Checks a pooling's arguments and works out its windows.
fn geometry(op: &'static str, x: &Tensor, kernel: Pair, o: &PoolOptions, average: bool) -> Result<Geometry> {
    check(op, x)?;
    let (k, s, p, d) = (kernel.0, o.stride.unwrap_or(kernel).0, o.padding.0, o.dilation.0);
    if k.contains(&0) || s.contains(&0) || d.contains(&0) {
        return Err(Error::argument(op, format!("kernel {k:?}, stride {s:?} and dilation {d:?} must be at least 1")));
    }
    if average && d != [1, 1] {
        return Err(Error::argument(op, "an average has no dilation"));
    }
    if k.iter().chain(&s).chain(&d).any(|&v| v > 1 << 24) {
        return Err(Error::argument(op, "kernel, stride and dilation must be at most 2^24"));
    }
    let size = [x.dims()[x.rank() - 2], x.dims()[x.rank() - 1]];
    let mut out = [0; 2];
    for i in 0..2 {
        let reach = (k[i] - 1) * d[i] + 1;
        if p[i] > k[i] / 2 {
            return Err(Error::argument(op, format!("padding {p:?} must be at most half the kernel {k:?}")));
        }
        let Some(span) = (size[i] + 2 * p[i]).checked_sub(reach).filter(|_| size[i] > 0) else {
            let expected =
                format!("an input of at least the window's reach ({reach} along axis {}, with padding {})", i as isize - 2, p[i]);
            return Err(Error::shape(op, &[x.shape()], expected));
        };
        out[i] = if o.ceil_mode { span.div_ceil(s[i]) } else { span / s[i] } + 1;
        // The last window must start inside the input or the padding before it.
        if o.ceil_mode && (out[i] - 1) * s[i] >= size[i] + p[i] {
            out[i] -= 1;
        }
    }
    let include_pad = o.count_include_pad;
    Ok(Geometry { size, out, kernel: k, stride: s, padding: p, dilation: d, include_pad, adaptive: false })
}

fn adaptive(op: &'static str, x: &Tensor, out: Pair) -> Result<Geometry> {
    check(op, x)?;
    let size = [x.dims()[x.rank() - 2], x.dims()[x.rank() - 1]];
    if size.contains(&0) && out.0.iter().any(|&o| o > 0) {
        return Err(Error::shape(op, &[x.shape()], "an input of at least one pixel"));
    }
    let one = [1, 1];
    Ok(Geometry { size, out: out.0, kernel: one, stride: one, padding: [0, 0], dilation: one, include_pad: false, adaptive: true })
}

fn check(op: &'static str, x: &Tensor) -> Result<()> {
    if !(3..=4).contains(&x.rank()) {
        return Err(Error::shape(op, &[x.shape()], "an input [C, H, W] or [N, C, H, W]"));
    }
    if !x.dtype().is_float() {
        return Err(Error::dtype(op, &[x.dtype()], "a float dtype: cast first"));
    }
    Ok(())
}

/// Records a pooling over the planes of `x`; all outputs, in the shape of `x` with pooled planes.
fn pool(kind: Kind, x: &Tensor, windows: Geometry) -> Result<Vec<Tensor>> {
    let (dtype, compute, r) = (x.dtype(), x.dtype().compute(), x.rank());
    let flat = windows.input(x.dims()[..r - 2].iter().product());
    let planes = if dtype == compute { x.clone() } else { x.try_cast(compute)? }.try_reshape(flat)?;
    let mut shape = x.shape().clone();
    (shape[r - 2], shape[r - 1]) = (windows.out[0], windows.out[1]);
    let outs = record_all(Arc::new(Pool { kind, windows }), &[&planes])?;
    outs.iter()
        .enumerate()
        .map(|(i, t)| {
            let t = t.try_reshape(&shape)?;
            if i == 0 && dtype != compute { t.try_cast(dtype) } else { Ok(t) }
        })
        .collect()
}

/// The sums of windows over one number: averages over an input with so many zeros around it that every window is whole.
fn divided(x: &Tensor, w: &Geometry, divisor: usize) -> Result<Tensor> {
    if divisor == 0 {
        return Err(Error::argument("avg_pool2d", "divisor_override must be at least 1"));
    }
    let mut pads = [(0, 0); 2];
    let mut size = w.size;
    for i in 0..2 {
        let wanted = (w.out[i] - 1) * w.stride[i] + w.kernel[i];
        let after = wanted.saturating_sub(w.size[i] + w.padding[i]);
        pads[i] = (w.padding[i], after);
        size[i] += w.padding[i] + after;
    }
    let (dtype, compute) = (x.dtype(), x.dtype().compute());
    let padded = x.try_cast(compute)?.try_pad(&pads, PadMode::Constant(0.0))?;
    let whole = Geometry { size, padding: [0, 0], include_pad: true, ..*w };
    let average = pool(Kind::Avg, &padded, whole)?.swap_remove(0);
    average.try_mul(w.kernel.iter().map(|&k| k as f64).product::<f64>() / divisor as f64)?.try_cast(dtype)
}

/// The options of a 1-D pooling over images of one row.
fn one_row(o: &PoolOptions) -> PoolOptions {
    let row = |p: Pair, other: usize| Pair([other, p.0[1]]);
    PoolOptions { stride: o.stride.map(|s| row(s, 1)), padding: row(o.padding, 0), dilation: row(o.dilation, 1), ..*o }
}

fn rows(op: &'static str, x: &Tensor) -> Result<Tensor> {
    if !(2..=3).contains(&x.rank()) {
        return Err(Error::shape(op, &[x.shape()], "an input [C, L] or [N, C, L]"));
    }
    x.try_unsqueeze(-2)
}

fn both(mut outs: Vec<Tensor>) -> Result<(Tensor, Tensor)> {
    let indices = outs.pop();
    match (outs.pop(), indices) {
        (Some(values), Some(indices)) => Ok((values, indices)),
        _ => Err(Error::Kernel { op: "max_pool2d".into(), message: "two outputs expected".into() }),
    }
}

#[fornax_derive::fallible]
impl Tensor {
    /// The maximum over windows of images [N, C, H, W] (or [C, H, W]): [N, C, OH, OW] with
    /// `OH = (H + 2·padding − dilation·(KH − 1) − 1) / stride + 1`, rounded down (up with `ceil_mode`). NaN wins.
    ///
    /// # Errors
    /// `Error::Shape` for another rank or an input smaller than the window, `Error::Argument` for padding over half the window,
    /// `Error::DType` for integers.
    ///
    /// ```
    /// use fornax::{Device, PoolOptions, Tensor};
    /// let x = Tensor::arange(0, 16, 1, Device::cpu()).cast(fornax::DType::F32).reshape([1, 1, 4, 4]);
    /// assert_eq!(x.max_pool2d(2, PoolOptions::default()).to_vec::<f32>()?, [5.0, 7.0, 13.0, 15.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_max_pool2d(&self, kernel: impl Into<Pair>, options: PoolOptions) -> Result<Tensor> {
        Ok(self.try_max_pool2d_with_indices(kernel, options)?.0)
    }

    /// As `max_pool2d`, with the position of each maximum in its plane (row · W + column, i32; the first one of equals).
    ///
    /// # Errors
    /// As `max_pool2d`.
    ///
    /// ```
    /// use fornax::{Device, PoolOptions, Tensor};
    /// let x = Tensor::from_vec(vec![1.0f32, 5.0, 3.0, 2.0], [1, 1, 2, 2], Device::cpu())?;
    /// let (_, at) = x.max_pool2d_with_indices(2, PoolOptions::default());
    /// assert_eq!(at.to_vec::<i32>()?, [1]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_max_pool2d_with_indices(&self, kernel: impl Into<Pair>, options: PoolOptions) -> Result<(Tensor, Tensor)> {
        let windows = geometry("max_pool2d", self, kernel.into(), &options, false)?;
        both(pool(Kind::Max, self, windows)?)
    }

    /// The maximum over windows of sequences [N, C, L] or [C, L]; of each pair of options the second counts.
    ///
    /// # Errors
    /// As `max_pool2d`.
    ///
    /// ```
    /// use fornax::{Device, PoolOptions, Tensor};
    /// let x = Tensor::from_vec(vec![1.0f32, 5.0, 3.0, 2.0], [1, 4], Device::cpu())?;
    /// assert_eq!(x.max_pool1d(2, PoolOptions::default()).to_vec::<f32>()?, [5.0, 3.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_max_pool1d(&self, kernel: usize, options: PoolOptions) -> Result<Tensor> {
        rows("max_pool1d", self)?.try_max_pool2d([1, kernel], one_row(&options))?.try_squeeze(-2)
    }

    /// The average over windows of images [N, C, H, W] or [C, H, W]; sizes as `max_pool2d`'s. Padding counts as zeros, or not at all where
    /// `count_include_pad` is off; `divisor_override` divides every sum by one number.
    ///
    /// # Errors
    /// As `max_pool2d`; a divisor of 0.
    ///
    /// ```
    /// use fornax::{Device, PoolOptions, Tensor};
    /// let x = Tensor::from_vec(vec![1.0f32, 5.0, 3.0, 2.0], [1, 1, 2, 2], Device::cpu())?;
    /// assert_eq!(x.avg_pool2d(2, PoolOptions::default()).item::<f32>()?, 2.75);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_avg_pool2d(&self, kernel: impl Into<Pair>, options: PoolOptions) -> Result<Tensor> {
        let windows = geometry("avg_pool2d", self, kernel.into(), &options, true)?;
        match options.divisor_override {
            Some(divisor) => divided(self, &windows, divisor),
            None => Ok(pool(Kind::Avg, self, windows)?.swap_remove(0)),
        }
    }

    /// The average over windows of sequences [N, C, L] or [C, L]; of each pair of options the second counts.
    ///
    /// # Errors
    /// As `max_pool2d`.
    ///
    /// ```
    /// use fornax::{Device, PoolOptions, Tensor};
    /// let x = Tensor::from_vec(vec![1.0f32, 5.0, 3.0, 2.0], [1, 4], Device::cpu())?;
    /// assert_eq!(x.avg_pool1d(2, PoolOptions::default()).to_vec::<f32>()?, [3.0, 2.5]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_avg_pool1d(&self, kernel: usize, options: PoolOptions) -> Result<Tensor> {
        rows("avg_pool1d", self)?.try_avg_pool2d([1, kernel], one_row(&options))?.try_squeeze(-2)
    }

    /// The average over windows that divide images [N, C, H, W] or [C, H, W] into `size` parts, as even as can be: part i covers rows
    /// `i·H/OH` rounded down to `(i + 1)·H/OH` rounded up.
    ///
    /// # Errors
    /// `Error::Shape` for another rank or an empty image, `Error::DType` for integers.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([2, 3, 7, 5], Device::cpu());
    /// assert_eq!(x.adaptive_avg_pool2d(1).dims(), [2, 3, 1, 1]);
    /// ```
    pub fn try_adaptive_avg_pool2d(&self, size: impl Into<Pair>) -> Result<Tensor> {
        Ok(pool(Kind::Avg, self, adaptive("adaptive_avg_pool2d", self, size.into())?)?.swap_remove(0))
    }

    /// The maximum over the windows of [`adaptive_avg_pool2d`](Tensor::adaptive_avg_pool2d).
    ///
    /// # Errors
    /// As `adaptive_avg_pool2d`.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([2, 3, 7, 5], Device::cpu());
    /// assert_eq!(x.adaptive_max_pool2d([2, 2]).dims(), [2, 3, 2, 2]);
    /// ```
    pub fn try_adaptive_max_pool2d(&self, size: impl Into<Pair>) -> Result<Tensor> {
        Ok(pool(Kind::Max, self, adaptive("adaptive_max_pool2d", self, size.into())?)?.swap_remove(0))
    }

    /// [`adaptive_avg_pool2d`](Tensor::adaptive_avg_pool2d) of sequences [N, C, L] or [C, L].
    ///
    /// # Errors
    /// As `adaptive_avg_pool2d`.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// assert_eq!(Tensor::ones([3, 7], Device::cpu()).adaptive_avg_pool1d(2).dims(), [3, 2]);
    /// ```
    pub fn try_adaptive_avg_pool1d(&self, size: usize) -> Result<Tensor> {
        rows("adaptive_avg_pool1d", self)?.try_adaptive_avg_pool2d([1, size])?.try_squeeze(-2)
    }

    /// [`adaptive_max_pool2d`](Tensor::adaptive_max_pool2d) of sequences [N, C, L] or [C, L].
    ///
    /// # Errors
    /// As `adaptive_avg_pool2d`.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// assert_eq!(Tensor::ones([3, 7], Device::cpu()).adaptive_max_pool1d(2).dims(), [3, 2]);
    /// ```
    pub fn try_adaptive_max_pool1d(&self, size: usize) -> Result<Tensor> {
        rows("adaptive_max_pool1d", self)?.try_adaptive_max_pool2d([1, size])?.try_squeeze(-2)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{close, cpu, noise, validate};
    use super::*;
    use crate::layout::Layout;

    fn geometries() -> Vec<Geometry> {
        let x = |size: [usize; 2]| Tensor::test_leaf(Meta::new(DType::F64, [1, size[0], size[1]]));
        let fixed = |size, k: [usize; 2], s: [usize; 2], p: [usize; 2], d: [usize; 2], ceil_mode, count_include_pad| {
            let o = PoolOptions {
                stride: Some(s.into()),
                padding: p.into(),
                dilation: d.into(),
                ceil_mode,
                count_include_pad,
                ..Default::default()
            };
            geometry("pool", &x(size), k.into(), &o, false).unwrap()
        };
        vec![
            fixed([4, 4], [2, 2], [2, 2], [0, 0], [1, 1], false, true),
            fixed([7, 5], [3, 2], [2, 1], [1, 1], [1, 1], false, true),
            fixed([7, 6], [3, 3], [2, 3], [1, 1], [1, 1], true, false),
            fixed([8, 9], [3, 2], [1, 2], [1, 1], [2, 3], true, true),
            fixed([5, 5], [5, 5], [1, 1], [2, 2], [1, 1], false, false),
            adaptive("pool", &x([7, 5]), [3, 2].into()).unwrap(),
            adaptive("pool", &x([3, 4]), [5, 4].into()).unwrap(),
            adaptive("pool", &x([60, 50]), [1, 1].into()).unwrap(),
        ]
    }

    /// The window of an output pixel, by the definition: positions (row, column).
    fn members(w: &Geometry, i: usize, j: usize) -> Vec<(usize, usize)> {
        let along = |axis: usize, o: usize| -> Vec<usize> {
            if w.adaptive {
                return (o * w.size[axis] / w.out[axis]..((o + 1) * w.size[axis]).div_ceil(w.out[axis])).collect();
            }
            let at = (0..w.kernel[axis]).map(|t| (o * w.stride[axis] + t * w.dilation[axis]).wrapping_sub(w.padding[axis]));
            at.filter(|&i| i < w.size[axis]).collect()
        };
        let cols = along(1, j);
        along(0, i).into_iter().flat_map(|i| cols.iter().map(move |&j| (i, j))).collect()
    }

    #[test]
    fn kernels_agree_with_loops() {
        for (number, w) in geometries().into_iter().enumerate() {
            for planes in [2, 300] {
                let (lx, ly) = (Layout::contiguous(w.input(planes)), Layout::contiguous(w.output(planes)));
                let (x, g) = (noise(lx.numel(), 1), noise(ly.numel(), 2));
                let (mut max, mut at, mut max_grad) = (Vec::new(), Vec::new(), vec![0.0; x.len()]);
                let (mut avg, mut avg_grad) = (Vec::new(), vec![0.0; x.len()]);
                for p in 0..planes {
                    for i in 0..w.out[0] {
                        for j in 0..w.out[1] {
                            let plane = p * w.size[0] * w.size[1];
                            let all: Vec<usize> = members(&w, i, j).iter().map(|(r, c)| r * w.size[1] + c).collect();
                            let best = all.iter().copied().fold(all[0], |a, b| if x[plane + b] > x[plane + a] { b } else { a });
                            let grad = g[max.len()];
                            max.push(x[plane + best]);
                            at.push(best as i32);
                            max_grad[plane + best] += grad;
                            let padded = |axis: usize, o: usize| {
                                (o * w.stride[axis] + w.kernel[axis]).min(w.size[axis] + 2 * w.padding[axis]) - o * w.stride[axis]
                            };
                            let count = if w.include_pad { padded(0, i) * padded(1, j) } else { all.len() } as f64;
                            avg.push(all.iter().map(|&k| x[plane + k]).sum::<f64>() / count);
                            all.iter().for_each(|&k| avg_grad[plane + k] += grad / count);
                        }
                    }
                }
                let op = |kind| Pool { kind, windows: w };
                let what = format!("case {number}, {planes} planes");
                close(&cpu::<f64>(&op(Kind::Max), &[(&x, &lx)], DType::F64), &max, 0.0, &what);
                let pair = |a: &[f64], la: &Layout, kind| super::super::testing::cpu_indexed(&op(kind), (a, la), (&at, &ly));
                close(&pair(&g, &ly, Kind::MaxGrad), &max_grad, 1e-12, &what);
                close(&pair(&x, &lx, Kind::Take), &max, 0.0, &what);
                if w.dilation == [1, 1] {
                    close(&cpu::<f64>(&op(Kind::Avg), &[(&x, &lx)], DType::F64), &avg, 1e-12, &what);
                    close(&cpu::<f64>(&op(Kind::AvgGrad), &[(&g, &ly)], DType::F64), &avg_grad, 1e-12, &what);
                }
                let meta = |l: &Layout| Meta { dtype: DType::F32, layout: l.clone() };
                let index = Meta { dtype: DType::I32, layout: ly.clone() };
                for (kind, inputs) in [
                    (Kind::Max, vec![meta(&lx)]),
                    (Kind::MaxGrad, vec![meta(&ly), index.clone()]),
                    (Kind::Take, vec![meta(&lx), index]),
                    (Kind::Avg, vec![meta(&lx)]),
                    (Kind::AvgGrad, vec![meta(&ly)]),
                ] {
                    validate(&op(kind), &inputs);
                }
            }
        }
    }

    #[test]
    fn nan_wins_and_minus_infinity_has_a_place() {
        let x = [f64::NEG_INFINITY, f64::NEG_INFINITY, 1.0, f64::NAN];
        let l = Layout::contiguous([1, 2, 2].into());
        let w =
            geometry("pool", &Tensor::test_leaf(Meta::new(DType::F64, [1, 2, 2])), [1, 2].into(), &PoolOptions::default(), false).unwrap();
        let y = cpu::<f64>(&Pool { kind: Kind::Max, windows: w }, &[(&x, &l)], DType::F64);
        assert!(y[0] == f64::NEG_INFINITY && y[1].is_nan());
    }
}

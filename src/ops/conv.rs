//! Convolutions: `conv2d` and its two gradients as kernels whose derivatives are each other, `conv_transpose2d`, and the 1-D forms.

use super::{conv_cpu, conv_direct, conv_gpu};
use crate::backend::cpu::{CpuCtx, micro};
use crate::codegen::dispatch::GpuKernel;
use crate::graph::{Along, Cut, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record};
use crate::layout::Layout;
use crate::{DType, Error, Result, Shape, Tensor, autocast};
use smallvec::smallvec;
use std::sync::Arc;

/// A size for the two spatial axes: one number for both, or `[height, width]`.
///
/// ```
/// use fornax::Pair;
/// assert_eq!(Pair::from(3), Pair::from([3, 3]));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair(pub [usize; 2]);

impl From<usize> for Pair {
    fn from(n: usize) -> Pair {
        Pair([n, n])
    }
}
impl From<[usize; 2]> for Pair {
    fn from(v: [usize; 2]) -> Pair {
        Pair(v)
    }
}
impl From<(usize, usize)> for Pair {
    fn from((h, w): (usize, usize)) -> Pair {
        Pair([h, w])
    }
}

/// How a convolution walks over its input.
///
/// ```
/// use fornax::ConvOptions;
/// let o = ConvOptions { stride: 2.into(), padding: [1, 2].into(), ..ConvOptions::default() };
/// assert_eq!(o.groups, 1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvOptions {
    /// The step of the window, from 1 on.
    pub stride: Pair,
    /// Rows and columns of zeros on each side.
    pub padding: Pair,
    /// The distance between the window's taps, from 1 on.
    pub dilation: Pair,
    /// Channels are split into this many groups that do not see each other.
    pub groups: usize,
}

impl Default for ConvOptions {
    fn default() -> Self {
        ConvOptions { stride: Pair([1, 1]), padding: Pair([0, 0]), dilation: Pair([1, 1]), groups: 1 }
    }
}

/// The geometry of a convolution: what the three kernels share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub stride: [usize; 2],
    /// Zeros before the first row and column. (What lies behind follows from the sizes.)
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
    pub groups: usize,
}

impl Window {
    fn key(&self, key: &mut Key) {
        for pair in [self.stride, self.padding, self.dilation] {
            key.add(pair[0] as u64).add(pair[1] as u64);
        }
        key.add(self.groups as u64);
    }
}

/// All sizes of a convolution, whichever of its three kernels runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub n: usize,
    /// Input channels and output channels of one group.
    pub c: usize,
    pub o: usize,
    pub groups: usize,
    /// Input image, kernel, output image.
    pub h: [usize; 2],
    pub k: [usize; 2],
    pub oh: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
}

impl Sizes {
    /// From the shapes of input [N, C, H, W], weight [O, C/groups, KH, KW] and output [N, O, OH, OW].
    pub fn new(w: &Window, x: &[usize], weight: &[usize], y: &[usize]) -> Sizes {
        Sizes {
            n: x[0],
            c: weight[1],
            o: weight[0] / w.groups,
            groups: w.groups,
            h: [x[2], x[3]],
            k: [weight[2], weight[3]],
            oh: [y[2], y[3]],
            stride: w.stride,
            padding: w.padding,
            dilation: w.dilation,
        }
    }

    /// Taps of the kernel.
    pub fn taps(&self) -> usize {
        self.k[0] * self.k[1]
    }

    /// Terms of one output's sum.
    pub fn depth(&self) -> usize {
        self.c * self.taps()
    }

    /// Pixels of an input image and of an output image.
    pub fn pixels(&self) -> (usize, usize) {
        (self.h[0] * self.h[1], self.oh[0] * self.oh[1])
    }

    /// Whether the kernel is one tap that sees each pixel once.
    pub fn is_pointwise(&self) -> bool {
        self.k == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0] && self.h == self.oh
    }

    pub fn flops(&self) -> u64 {
        2 * (self.n * self.groups * self.o * self.depth() * self.pixels().1) as u64
    }
}

/// `y[n, o, i, j] = Σ x[n, c, i·s + u·d − p, j·s + v·d − p] · w[o, c, u, v]` over the channels of o's group and the taps.
#[derive(Debug)]
pub(crate) struct Conv2d {
    pub window: Window,
    /// Zeros behind the last row and column; negative where the last ones are not seen at all.
    pub padding_end: [isize; 2],
}

/// The gradient of [`Conv2d`] in its input, from the output's gradient and the weight: also the transposed convolution.
#[derive(Debug)]
pub(crate) struct Conv2dInputGrad {
    pub window: Window,
    pub padding_end: [isize; 2],
    /// The input image.
    pub size: [usize; 2],
}

/// The gradient of [`Conv2d`] in its weight, from the input and the output's gradient.
#[derive(Debug)]
pub(crate) struct Conv2dWeightGrad {
    pub window: Window,
    pub padding_end: [isize; 2],
    pub kernel: [usize; 2],
}

/// The output's size along one axis, or `None` where the kernel does not fit.
pub(crate) fn out_size(size: usize, k: usize, stride: usize, padding: isize, dilation: usize) -> Option<usize> {
    let padded = size.checked_add_signed(padding)?;
    let reach = k.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)?;
    Some(padded.checked_sub(reach)? / stride + 1)
}

fn end_key(key: &mut Key, end: [isize; 2]) -> &mut Key {
    key.add(end[0] as u64).add(end[1] as u64)
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn key(&self, key: &mut Key) {
        self.window.key(key);
        end_key(key, self.padding_end);
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let (x, w) = (inputs[0].shape(), inputs[1].shape());
        let size = |i: usize| {
            let (v, pad) = (&self.window, self.window.padding[i] as isize + self.padding_end[i]);
            out_size(x[2 + i], w[2 + i], v.stride[i], pad, v.dilation[i]).ok_or_else(|| {
                let expected = format!(
                    "the kernel ({}×{}, dilation {:?}) must fit into the padded image ({}×{})",
                    w[2],
                    w[3],
                    v.dilation,
                    (x[2] + v.padding[0]) as isize + self.padding_end[0],
                    (x[3] + v.padding[1]) as isize + self.padding_end[1]
                );
                Error::shape("conv2d", &[x, w], expected)
            })
        };
        let shape = Shape::from([x[0], w[0], size(0)?, size(1)?]);
        shape.checked_numel()?;
        Ok(smallvec![Meta::new(inputs[0].dtype, shape)])
    }

    fn saves(&self) -> Saves {
        Saves { inputs: 0b11, outputs: 0 }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let g = ctx.cotangent()?;
        let (x, w) = (&ctx.inputs[0], &ctx.inputs[1]);
        let dx = ctx.needs[0].then(|| input_grad(&self.window, self.padding_end, g, w, x)).transpose()?;
        let dw = ctx.needs[1].then(|| weight_grad(&self.window, self.padding_end, x, g, w)).transpose()?;
        Ok(vec![dx, dw])
    }

    fn takes_epilogue(&self) -> bool {
        true
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        let s = Sizes::new(&self.window, ctx.shape(0), ctx.shape(1), ctx.out_shape(0));
        match ctx.dtype(0) {
            DType::F32 => {
                let (a, b, out) = (ctx.input(0), ctx.input(1), ctx.output(0));
                if !micro::shape().is_some_and(|tile| conv_direct::forward(tile, &s, a, b, out)) {
                    conv_cpu::forward(&s, a, b, out);
                }
            }
            DType::F64 => conv_cpu::forward(&s, ctx.input::<f64>(0), ctx.input(1), ctx.output(0)),
            _ => return ctx.unsupported(),
        }
        Ok(())
    }

    fn flops(&self, inputs: &[&Layout], outputs: &[&Layout]) -> u64 {
        Sizes::new(&self.window, &inputs[0].shape, &inputs[1].shape, &outputs[0].shape).flops()
    }

    fn cuts(&self, inputs: &[Meta], outputs: &[Meta]) -> Vec<Cut> {
        let (x, y) = (inputs[0].shape(), outputs[0].shape());
        let mut cuts = vec![Cut::new(x[0], &[Some(0), None], &[Along::axis(0)])];
        if self.window.groups == 1 {
            cuts.push(Cut::new(y[1], &[None, Some(0)], &[Along::axis(1)]));
            cuts.push(Cut::new(x[1], &[Some(1), Some(1)], &[Along::Sum]));
        }
        cuts
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let s = Sizes::new(&self.window, ctx.shape(0), ctx.shape(1), ctx.outputs[0].shape());
        conv_gpu::kernel(ctx, &s, conv_gpu::Kind::Forward)
    }
}

impl Op for Conv2dInputGrad {
    fn name(&self) -> &'static str {
        "conv2d_input_grad"
    }

    fn key(&self, key: &mut Key) {
        self.window.key(key);
        end_key(key, self.padding_end).list(self.size.iter());
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let (g, w) = (inputs[0].shape(), inputs[1].shape());
        let shape = Shape::from([g[0], w[1] * self.window.groups, self.size[0], self.size[1]]);
        shape.checked_numel()?;
        Ok(smallvec![Meta::new(inputs[0].dtype, shape)])
    }

    fn saves(&self) -> Saves {
        Saves { inputs: 0b11, outputs: 0 }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let c = ctx.cotangent()?;
        let (g, w) = (&ctx.inputs[0], &ctx.inputs[1]);
        let dg = ctx.needs[0].then(|| conv(&self.window, self.padding_end, c, w)).transpose()?;
        let dw = ctx.needs[1].then(|| weight_grad(&self.window, self.padding_end, c, g, w)).transpose()?;
        Ok(vec![dg, dw])
    }

    fn takes_epilogue(&self) -> bool {
        true
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        let s = Sizes::new(&self.window, ctx.out_shape(0), ctx.shape(1), ctx.shape(0));
        match ctx.dtype(0) {
            DType::F32 => {
                let (a, b, out) = (ctx.input(0), ctx.input(1), ctx.output(0));
                if !micro::shape().is_some_and(|tile| conv_direct::input_grad(tile, &s, a, b, out)) {
                    conv_cpu::input_grad(&s, a, b, out);
                }
            }
            DType::F64 => conv_cpu::input_grad(&s, ctx.input::<f64>(0), ctx.input(1), ctx.output(0)),
            _ => return ctx.unsupported(),
        }
        Ok(())
    }

    fn flops(&self, inputs: &[&Layout], outputs: &[&Layout]) -> u64 {
        Sizes::new(&self.window, &outputs[0].shape, &inputs[1].shape, &inputs[0].shape).flops()
    }

    fn cuts(&self, inputs: &[Meta], outputs: &[Meta]) -> Vec<Cut> {
        let (g, x) = (inputs[0].shape(), outputs[0].shape());
        let mut cuts = vec![Cut::new(g[0], &[Some(0), None], &[Along::axis(0)])];
        if self.window.groups == 1 {
            cuts.push(Cut::new(x[1], &[None, Some(1)], &[Along::axis(1)]));
            cuts.push(Cut::new(g[1], &[Some(1), Some(0)], &[Along::Sum]));
        }
        cuts
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let s = Sizes::new(&self.window, ctx.outputs[0].shape(), ctx.shape(1), ctx.shape(0));
        conv_gpu::kernel(ctx, &s, conv_gpu::Kind::InputGrad)
    }
}

impl Op for Conv2dWeightGrad {
    fn name(&self) -> &'static str {
        "conv2d_weight_grad"
    }

    fn key(&self, key: &mut Key) {
        self.window.key(key);
        end_key(key, self.padding_end).list(self.kernel.iter());
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let (x, g) = (inputs[0].shape(), inputs[1].shape());
        let shape = Shape::from([g[1], x[1] / self.window.groups, self.kernel[0], self.kernel[1]]);
        shape.checked_numel()?;
        Ok(smallvec![Meta::new(inputs[0].dtype, shape)])
    }

    fn saves(&self) -> Saves {
        Saves { inputs: 0b11, outputs: 0 }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let c = ctx.cotangent()?;
        let (x, g) = (&ctx.inputs[0], &ctx.inputs[1]);
        let dx = ctx.needs[0].then(|| input_grad(&self.window, self.padding_end, g, c, x)).transpose()?;
        let dg = ctx.needs[1].then(|| conv(&self.window, self.padding_end, x, c)).transpose()?;
        Ok(vec![dx, dg])
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        let s = Sizes::new(&self.window, ctx.shape(0), ctx.out_shape(0), ctx.shape(1));
        match ctx.dtype(0) {
            DType::F32 => {
                let (a, b, out) = (ctx.input(0), ctx.input(1), ctx.output(0));
                if !micro::shape().is_some_and(|tile| conv_direct::weight_grad(tile, &s, a, b, out)) {
                    conv_cpu::weight_grad(&s, a, b, out);
                }
            }
            DType::F64 => conv_cpu::weight_grad(&s, ctx.input::<f64>(0), ctx.input(1), ctx.output(0)),
            _ => return ctx.unsupported(),
        }
        Ok(())
    }

    fn flops(&self, inputs: &[&Layout], outputs: &[&Layout]) -> u64 {
        Sizes::new(&self.window, &inputs[0].shape, &outputs[0].shape, &inputs[1].shape).flops()
    }

    fn cuts(&self, inputs: &[Meta], outputs: &[Meta]) -> Vec<Cut> {
        let (g, w) = (inputs[1].shape(), outputs[0].shape());
        let mut cuts = vec![Cut::new(g[0], &[Some(0), Some(0)], &[Along::Sum])];
        if self.window.groups == 1 {
            cuts.push(Cut::new(w[0], &[None, Some(1)], &[Along::axis(0)]));
            cuts.push(Cut::new(w[1], &[Some(1), None], &[Along::axis(1)]));
        }
        cuts
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let s = Sizes::new(&self.window, ctx.shape(0), ctx.outputs[0].shape(), ctx.shape(1));
        conv_gpu::kernel(ctx, &s, conv_gpu::Kind::WeightGrad)
    }
}

fn conv(window: &Window, padding_end: [isize; 2], x: &Tensor, w: &Tensor) -> Result<Tensor> {
    record(Arc::new(Conv2d { window: *window, padding_end }), &[x, w])
}

fn input_grad(window: &Window, padding_end: [isize; 2], g: &Tensor, w: &Tensor, x: &Tensor) -> Result<Tensor> {
    let size = [x.dims()[2], x.dims()[3]];
    record(Arc::new(Conv2dInputGrad { window: *window, padding_end, size }), &[g, w])
}

fn weight_grad(window: &Window, padding_end: [isize; 2], x: &Tensor, g: &Tensor, w: &Tensor) -> Result<Tensor> {
    let kernel = [w.dims()[2], w.dims()[3]];
    record(Arc::new(Conv2dWeightGrad { window: *window, padding_end, kernel }), &[x, g])
}

/// What every convolution checks: ranks, dtypes, options.
fn check(op: &'static str, x: &Tensor, w: &Tensor, o: &ConvOptions, layout: &str) -> Result<()> {
    if x.rank() != 4 || w.rank() != 4 {
        return Err(Error::shape(op, &[x.shape(), w.shape()], format!("an input [N, C, H, W] or [C, H, W] and a weight {layout}")));
    }
    if x.dtype() != w.dtype() || !x.dtype().is_float() {
        return Err(Error::dtype(op, &[x.dtype(), w.dtype()], "an input and a weight of one float dtype: cast one of them"));
    }
    if o.stride.0.contains(&0) || o.dilation.0.contains(&0) || o.groups == 0 {
        let message = format!("stride {:?}, dilation {:?} and groups {} must be at least 1", o.stride.0, o.dilation.0, o.groups);
        return Err(Error::argument(op, message));
    }
    if o.padding.0.iter().chain(&o.stride.0).chain(&o.dilation.0).any(|&v| v > 1 << 24) {
        return Err(Error::argument(op, "stride, padding and dilation must be at most 2^24"));
    }
    if w.dims()[2] * w.dims()[3] == 0 {
        return Err(Error::shape(op, &[x.shape(), w.shape()], "a kernel of at least 1×1"));
    }
    Ok(())
}

fn check_bias(op: &'static str, w: &Tensor, bias: Option<&Tensor>, channels: usize) -> Result<()> {
    match bias {
        Some(b) if b.dims() != [channels] => Err(Error::shape(op, &[w.shape(), b.shape()], format!("a bias [{channels}]"))),
        _ => Ok(()),
    }
}

/// Runs `f` in the dtype of the kernels: f32 for f16 and bf16.
fn in_kernel_dtype(x: &Tensor, w: &Tensor, f: impl FnOnce(&Tensor, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let dtype = x.dtype();
    if dtype == dtype.compute() {
        return f(x, w);
    }
    f(&x.try_cast(dtype.compute())?, &w.try_cast(dtype.compute())?)?.try_cast(dtype)
}

/// The bias as one more pointwise op, which fuses into the kernel.
fn add_bias(y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        Some(b) => y.try_add(b.try_reshape([1, b.numel(), 1, 1])?),
        None => Ok(y),
    }
}

/// Options of a 1-D convolution as those of a 2-D one over images of one row.
fn one_row(o: &ConvOptions1d) -> ConvOptions {
    ConvOptions { stride: Pair([1, o.stride]), padding: Pair([0, o.padding]), dilation: Pair([1, o.dilation]), groups: o.groups }
}

/// As [`ConvOptions`], for one spatial axis.
///
/// ```
/// use fornax::ConvOptions1d;
/// assert_eq!(ConvOptions1d::default().stride, 1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvOptions1d {
    /// The step of the window.
    pub stride: usize,
    /// Zeros on each side.
    pub padding: usize,
    /// The distance between the window's taps.
    pub dilation: usize,
    /// Groups of channels.
    pub groups: usize,
}

impl Default for ConvOptions1d {
    fn default() -> Self {
        ConvOptions1d { stride: 1, padding: 0, dilation: 1, groups: 1 }
    }
}

/// One image without a batch axis, as a batch of one.
fn one_image(x: &Tensor, w: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    shown(f(&x.try_unsqueeze(0)?), x, w)?.try_squeeze(0)
}

/// The result, of whose error the shapes are those that the caller gave.
fn shown(result: Result<Tensor>, x: &Tensor, w: &Tensor) -> Result<Tensor> {
    result.map_err(|e| match e {
        Error::Shape { op, expected, .. } => Error::shape(op, &[x.shape(), w.shape()], expected),
        e => e,
    })
}

fn check_rank_3(op: &'static str, x: &Tensor, w: &Tensor, layout: &str) -> Result<()> {
    if !matches!(x.rank(), 2 | 3) || w.rank() != 3 {
        return Err(Error::shape(op, &[x.shape(), w.shape()], format!("an input [N, C, L] or [C, L] and a weight {layout}")));
    }
    Ok(())
}

#[fornax_derive::fallible]
impl Tensor {
    /// The 2-D convolution (cross-correlation, as everywhere in deep learning) of images [N, C, H, W] (or one, [C, H, W]) with a weight
    /// [O, C/groups, KH, KW] and a bias [O]:
    ///
    /// `y[n, o, i, j] = bias[o] + Σ_{c, u, v} x[n, c, i·stride + u·dilation − padding, j·stride + v·dilation − padding] · w[o, c, u, v]`
    ///
    /// with zeros outside the image. The result is [N, O, OH, OW] with `OH = (H + 2·padding − dilation·(KH − 1) − 1) / stride + 1`,
    /// rounded down. For other kinds of padding, [`pad`](Tensor::pad) the input first.
    ///
    /// # Errors
    /// `Error::Shape` where ranks, channels, groups, bias or kernel do not fit; `Error::DType` where the dtypes are not one float dtype.
    ///
    /// ```
    /// use fornax::{ConvOptions, Device, Tensor};
    /// let x = Tensor::ones([1, 1, 4, 4], Device::cpu());
    /// let w = Tensor::ones([2, 1, 3, 3], Device::cpu());
    /// let y = x.conv2d(&w, None, ConvOptions { padding: 1.into(), ..Default::default() });
    /// assert_eq!(y.dims(), [1, 2, 4, 4]);
    /// assert_eq!(y.to_vec::<f32>()?[..4], [4.0, 6.0, 6.0, 4.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_conv2d(&self, weight: &Tensor, bias: Option<&Tensor>, options: ConvOptions) -> Result<Tensor> {
        const OP: &str = "conv2d";
        if self.rank() == 3 {
            return one_image(self, weight, |x| x.try_conv2d(weight, bias, options));
        }
        if let Some([x, weight]) = autocast::lowered([self, weight])? {
            return x.try_conv2d(&weight, bias.map(autocast::low).transpose()?.as_ref(), options);
        }
        check(OP, self, weight, &options, "[O, C/groups, KH, KW]")?;
        let (c, o, cg, groups) = (self.dims()[1], weight.dims()[0], weight.dims()[1], options.groups);
        if c != cg * groups {
            let expected = format!("with {groups} groups, a weight of {cg} channels wants an input of {} channels, not {c}", cg * groups);
            return Err(Error::shape(OP, &[self.shape(), weight.shape()], expected));
        }
        if o % groups != 0 {
            let expected = format!("the {o} output channels must be a multiple of the {groups} groups");
            return Err(Error::shape(OP, &[self.shape(), weight.shape()], expected));
        }
        check_bias(OP, weight, bias, o)?;
        let y = in_kernel_dtype(self, weight, |x, w| conv(&options.window(), options.padding.0.map(|p| p as isize), x, w))?;
        add_bias(y, bias)
    }

    /// The transposed 2-D convolution: the gradient of `conv2d` in its input, taken as an op of its own. Images [N, C, H, W], a weight
    /// [C, O/groups, KH, KW], a bias [O]; the result is [N, O, OH, OW] with
    /// `OH = (H − 1)·stride − 2·padding + dilation·(KH − 1) + output_padding + 1`.
    ///
    /// # Errors
    /// As `conv2d`; `Error::Argument` where `output_padding` is not less than the stride or the dilation.
    ///
    /// ```
    /// use fornax::{ConvOptions, Device, Tensor};
    /// let x = Tensor::ones([1, 1, 2, 2], Device::cpu());
    /// let w = Tensor::ones([1, 1, 2, 2], Device::cpu());
    /// let y = x.conv_transpose2d(&w, None, ConvOptions { stride: 2.into(), ..Default::default() }, 0);
    /// assert_eq!(y.dims(), [1, 1, 4, 4]);
    /// ```
    pub fn try_conv_transpose2d(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        options: ConvOptions,
        output_padding: impl Into<Pair>,
    ) -> Result<Tensor> {
        const OP: &str = "conv_transpose2d";
        let output_padding = output_padding.into();
        if self.rank() == 3 {
            return one_image(self, weight, |x| x.try_conv_transpose2d(weight, bias, options, output_padding));
        }
        if let Some([x, weight]) = autocast::lowered([self, weight])? {
            return x.try_conv_transpose2d(&weight, bias.map(autocast::low).transpose()?.as_ref(), options, output_padding);
        }
        check(OP, self, weight, &options, "[C, O/groups, KH, KW]")?;
        let (x, w, groups, extra) = (self.dims(), weight.dims(), options.groups, output_padding.0);
        if x[1] != w[0] {
            let expected = format!("a weight whose first size is the input's {} channels", x[1]);
            return Err(Error::shape(OP, &[self.shape(), weight.shape()], expected));
        }
        if x[1] % groups != 0 {
            let expected = format!("the {} input channels must be a multiple of the {groups} groups", x[1]);
            return Err(Error::shape(OP, &[self.shape(), weight.shape()], expected));
        }
        if (0..2).any(|i| extra[i] > 0 && extra[i] >= options.stride.0[i].max(options.dilation.0[i])) {
            let message = format!("output_padding {extra:?} must be less than the stride or the dilation");
            return Err(Error::argument(OP, message));
        }
        check_bias(OP, weight, bias, w[1] * groups)?;
        let mut size = [0; 2];
        for i in 0..2 {
            let (s, p, d) = (options.stride.0[i], options.padding.0[i], options.dilation.0[i]);
            let span = x[2 + i].saturating_sub(1) * s + d * (w[2 + i] - 1) + extra[i] + 1;
            let fits = x[2 + i] > 0 && span > 2 * p;
            if !fits {
                let expected = format!("an image and a kernel whose result ({span}) is larger than twice the padding ({p})");
                return Err(Error::shape(OP, &[self.shape(), weight.shape()], expected));
            }
            size[i] = span - 2 * p;
        }
        // The padding behind is what makes a convolution of the result come back to this image.
        let padding_end = [0, 1].map(|i| options.padding.0[i] as isize - extra[i] as isize);
        let op = Conv2dInputGrad { window: options.window(), padding_end, size };
        let y = in_kernel_dtype(self, weight, |x, w| record(Arc::new(op), &[x, w]))?;
        add_bias(y, bias)
    }

    /// The 1-D convolution of sequences [N, C, L] with a weight [O, C/groups, K] and a bias [O]; see [`conv2d`](Tensor::conv2d).
    ///
    /// # Errors
    /// As `conv2d`.
    ///
    /// ```
    /// use fornax::{ConvOptions1d, Device, Tensor};
    /// let x = Tensor::ones([1, 3, 8], Device::cpu());
    /// let w = Tensor::ones([4, 3, 3], Device::cpu());
    /// let y = x.conv1d(&w, None, ConvOptions1d { stride: 2, padding: 1, ..Default::default() });
    /// assert_eq!(y.dims(), [1, 4, 4]);
    /// ```
    pub fn try_conv1d(&self, weight: &Tensor, bias: Option<&Tensor>, options: ConvOptions1d) -> Result<Tensor> {
        check_rank_3("conv1d", self, weight, "[O, C/groups, K]")?;
        let y = self.try_unsqueeze(-2)?.try_conv2d(&weight.try_unsqueeze(2)?, bias, one_row(&options));
        shown(y, self, weight)?.try_squeeze(-2)
    }

    /// The transposed 1-D convolution; see [`conv_transpose2d`](Tensor::conv_transpose2d).
    ///
    /// # Errors
    /// As `conv_transpose2d`.
    ///
    /// ```
    /// use fornax::{ConvOptions1d, Device, Tensor};
    /// let x = Tensor::ones([1, 3, 4], Device::cpu());
    /// let w = Tensor::ones([3, 2, 2], Device::cpu());
    /// let y = x.conv_transpose1d(&w, None, ConvOptions1d { stride: 2, ..Default::default() }, 1);
    /// assert_eq!(y.dims(), [1, 2, 9]);
    /// ```
    pub fn try_conv_transpose1d(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        options: ConvOptions1d,
        output_padding: usize,
    ) -> Result<Tensor> {
        check_rank_3("conv_transpose1d", self, weight, "[C, O/groups, K]")?;
        let w = weight.try_unsqueeze(2)?;
        let y = self.try_unsqueeze(-2)?.try_conv_transpose2d(&w, bias, one_row(&options), [0, output_padding]);
        shown(y, self, weight)?.try_squeeze(-2)
    }
}

impl ConvOptions {
    fn window(&self) -> Window {
        Window { stride: self.stride.0, padding: self.padding.0, dilation: self.dilation.0, groups: self.groups }
    }
}

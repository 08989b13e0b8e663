//! `unfold` (im2col) and `fold` (col2im): patches of images as columns, and back. Each is the other's derivative.

use super::conv::{ConvOptions, Pair, Sizes, out_size};
use super::conv_cpu;
use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::{Binding, Dispatch, GpuKernel, GpuStep, Param, Slot, grid};
use crate::codegen::wgsl::preprocess;
use crate::graph::{Along, Cut, GpuCtx, Key, Meta, Op, Outputs, Saves, Span, Vjp, record};
use crate::{DType, Error, Result, Shape, Tensor};
use smallvec::smallvec;
use std::sync::Arc;

/// Images [N, C, H, W] and their patches [N, C·KH·KW, L].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patches {
    pub size: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
    /// Patches along each axis.
    pub count: [usize; 2],
}

/// Images to patches, or (`fold`) patches to images, summed where they overlap.
#[derive(Debug)]
pub(crate) struct Fold {
    pub patches: Patches,
    pub fold: bool,
}

impl Op for Fold {
    fn name(&self) -> &'static str {
        if self.fold { "fold" } else { "unfold" }
    }

    fn key(&self, key: &mut Key) {
        let p = &self.patches;
        for pair in [p.size, p.kernel, p.stride, p.padding, p.dilation] {
            key.add(pair[0] as u64).add(pair[1] as u64);
        }
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let (p, x) = (&self.patches, inputs[0].shape());
        // Everything that is multiplied below.
        Shape::from([x[0], x[1], p.kernel[0], p.kernel[1], p.count[0], p.count[1]]).checked_numel()?;
        let taps = p.kernel[0] * p.kernel[1];
        let shape = if self.fold {
            Shape::from([x[0], x[1] / taps, p.size[0], p.size[1]])
        } else {
            Shape::from([x[0], x[1] * taps, p.count[0] * p.count[1]])
        };
        shape.checked_numel()?;
        Ok(smallvec![Meta::new(inputs[0].dtype, shape)])
    }

    fn saves(&self) -> Saves {
        Saves::default()
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let op = Fold { patches: self.patches, fold: !self.fold };
        Ok(vec![Some(record(Arc::new(op), &[ctx.cotangent()?])?)])
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        let s = self.sizes(ctx.shape(0));
        match (ctx.dtype(0), self.fold) {
            (DType::F32, false) => conv_cpu::unfold(&s, ctx.input::<f32>(0), ctx.output(0)),
            (DType::F64, false) => conv_cpu::unfold(&s, ctx.input::<f64>(0), ctx.output(0)),
            (DType::F32, true) => conv_cpu::fold(&s, ctx.input::<f32>(0), ctx.output(0)),
            (DType::F64, true) => conv_cpu::fold(&s, ctx.input::<f64>(0), ctx.output(0)),
            _ => return ctx.unsupported(),
        }
        Ok(())
    }

    fn cuts(&self, inputs: &[Meta], outputs: &[Meta]) -> Vec<Cut> {
        let taps = Span { axis: 1, scale: self.patches.kernel[0] * self.patches.kernel[1], shift: 0 };
        let (from, to, images) = if self.fold { (taps, Span::from(1), outputs) } else { (Span::from(1), taps, inputs) };
        vec![
            Cut::new(inputs[0].shape()[0], &[Some(0)], &[Along::axis(0)]),
            Cut { len: images[0].shape()[1], inputs: smallvec![Some(from)], outputs: smallvec![Along::Axis(to)] },
        ]
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let results = ctx.outputs[0].layout.numel();
        if results == 0 {
            return Ok(GpuKernel::default());
        }
        let p = &self.patches;
        let define = if self.fold { "FOLD" } else { "UNFOLD" };
        let source = preprocess(include_str!("../../shaders/fold.wgsl"), &[(define, "")]);
        let mut params: Vec<Param> = vec![results.into()];
        params.extend([p.size, p.kernel, p.count, p.stride, p.padding, p.dilation].into_iter().flatten().map(Param::from));
        let bindings = vec![Binding { slot: Slot::Input(0), write: false }, Binding { slot: Slot::Output(0), write: true }];
        let groups = grid(results.div_ceil(256));
        let step = Dispatch { label: self.name(), source: source.into(), bindings, params, groups, flops: 0 };
        Ok(GpuKernel { temps: Vec::new(), steps: vec![GpuStep::Dispatch(step)] })
    }
}

impl Fold {
    fn sizes(&self, input: &[usize]) -> Sizes {
        let p = &self.patches;
        let c = if self.fold { input[1] / (p.kernel[0] * p.kernel[1]) } else { input[1] };
        Sizes {
            n: input[0],
            c,
            o: 0,
            groups: 1,
            h: p.size,
            k: p.kernel,
            oh: p.count,
            stride: p.stride,
            padding: p.padding,
            dilation: p.dilation,
        }
    }
}

fn patches(op: &'static str, x: &Tensor, size: [usize; 2], kernel: Pair, o: &ConvOptions) -> Result<Patches> {
    let (k, s, p, d) = (kernel.0, o.stride.0, o.padding.0, o.dilation.0);
    if k.contains(&0) || s.contains(&0) || d.contains(&0) || o.groups != 1 {
        let message = format!("kernel {k:?}, stride {s:?} and dilation {d:?} must be at least 1, and groups 1");
        return Err(Error::argument(op, message));
    }
    if k.iter().chain(&s).chain(&p).chain(&d).any(|&v| v > 1 << 24) {
        return Err(Error::argument(op, "kernel, stride, padding and dilation must be at most 2^24"));
    }
    if !x.dtype().is_float() {
        return Err(Error::dtype(op, &[x.dtype()], "a float dtype: cast first"));
    }
    let mut count = [0; 2];
    for i in 0..2 {
        count[i] = out_size(size[i], k[i], s[i], 2 * p[i] as isize, d[i]).ok_or_else(|| {
            let expected = format!("a kernel {k:?} (dilation {d:?}) that fits into the image {size:?} with padding {p:?}");
            Error::shape(op, &[x.shape()], expected)
        })?;
    }
    Ok(Patches { size, kernel: k, stride: s, padding: p, dilation: d, count })
}

fn run(x: &Tensor, patches: Patches, fold: bool) -> Result<Tensor> {
    let (dtype, compute) = (x.dtype(), x.dtype().compute());
    let op = Arc::new(Fold { patches, fold });
    if dtype == compute { record(op, &[x]) } else { record(op, &[&x.try_cast(compute)?])?.try_cast(dtype) }
}

#[fornax_derive::fallible]
impl Tensor {
    /// The patches that a convolution's window sees, as columns: images [N, C, H, W] to [N, C·KH·KW, L], with L the number of windows (rows
    /// first) and the channel's index outermost in each column. `groups` must be 1.
    ///
    /// # Errors
    /// `Error::Shape` for another rank or a kernel that does not fit, `Error::DType` for integers.
    ///
    /// ```
    /// use fornax::{ConvOptions, Device, Tensor};
    /// let x = Tensor::ones([1, 3, 4, 5], Device::cpu());
    /// assert_eq!(x.unfold([2, 3], ConvOptions::default()).dims(), [1, 18, 9]);
    /// ```
    pub fn try_unfold(&self, kernel: impl Into<Pair>, options: ConvOptions) -> Result<Tensor> {
        if self.rank() != 4 {
            return Err(Error::shape("unfold", &[self.shape()], "images [N, C, H, W]"));
        }
        let size = [self.dims()[2], self.dims()[3]];
        run(self, patches("unfold", self, size, kernel.into(), &options)?, false)
    }

    /// Puts patches back into images of a size: [N, C·KH·KW, L] to [N, C, H, W]; where patches overlap their values add up. What
    /// [`unfold`](Tensor::unfold) took from a pixel comes back to it.
    ///
    /// # Errors
    /// `Error::Shape` where the number of rows is no multiple of the kernel's elements or L is not the number of windows.
    ///
    /// ```
    /// use fornax::{ConvOptions, Device, Tensor};
    /// let x = Tensor::ones([1, 1, 3, 3], Device::cpu());
    /// let y = x.unfold(2, ConvOptions::default()).fold([3, 3], 2, ConvOptions::default());
    /// assert_eq!(y.to_vec::<f32>()?, [1.0, 2.0, 1.0, 2.0, 4.0, 2.0, 1.0, 2.0, 1.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_fold(&self, size: impl Into<Pair>, kernel: impl Into<Pair>, options: ConvOptions) -> Result<Tensor> {
        let kernel = kernel.into();
        if self.rank() != 3 {
            return Err(Error::shape("fold", &[self.shape()], "patches [N, C·KH·KW, L]"));
        }
        let p = patches("fold", self, size.into().0, kernel, &options)?;
        let (taps, count) = (kernel.0[0] * kernel.0[1], p.count[0] * p.count[1]);
        if !self.dims()[1].is_multiple_of(taps) || self.dims()[2] != count {
            let expected =
                format!("rows in multiples of the kernel's {taps} elements, and {}×{} = {count} columns", p.count[0], p.count[1]);
            return Err(Error::shape("fold", &[self.shape()], expected));
        }
        run(self, p, true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{close, cpu, noise, validate};
    use super::*;
    use crate::layout::Layout;

    #[test]
    fn patches_agree_with_loops() {
        for (size, k, s, p, d) in
            [([5, 6], [2, 3], [1, 1], [0, 0], [1, 1]), ([7, 4], [3, 2], [2, 1], [1, 1], [1, 2]), ([9, 9], [1, 1], [3, 2], [0, 1], [1, 1])]
        {
            let x = Tensor::test_leaf(Meta::new(DType::F64, [2, 3, size[0], size[1]]));
            let o = ConvOptions { stride: s.into(), padding: p.into(), dilation: d.into(), groups: 1 };
            let patches = patches("unfold", &x, size, k.into(), &o).unwrap();
            let taps = k[0] * k[1];
            let count = patches.count[0] * patches.count[1];
            let lx = Layout::contiguous([2, 3, size[0], size[1]].into());
            let ly = Layout::contiguous([2, 3 * taps, count].into());
            let (x, g) = (noise(lx.numel(), 1), noise(ly.numel(), 2));
            let (mut y, mut dx) = (vec![0.0; g.len()], vec![0.0; x.len()]);
            for plane in 0..6 {
                for t in 0..taps {
                    for l in 0..count {
                        let i = (l / patches.count[1] * s[0] + t / k[1] * d[0]).wrapping_sub(p[0]);
                        let j = (l % patches.count[1] * s[1] + t % k[1] * d[1]).wrapping_sub(p[1]);
                        if i < size[0] && j < size[1] {
                            let (at, from) = ((plane * taps + t) * count + l, (plane * size[0] + i) * size[1] + j);
                            y[at] = x[from];
                            dx[from] += g[at];
                        }
                    }
                }
            }
            let (unfold, fold) = (Fold { patches, fold: false }, Fold { patches, fold: true });
            close(&cpu::<f64>(&unfold, &[(&x, &lx)], DType::F64), &y, 0.0, "unfold");
            close(&cpu::<f64>(&fold, &[(&g, &ly)], DType::F64), &dx, 1e-12, "fold");
            validate(&unfold, &[Meta { dtype: DType::F32, layout: lx }]);
            validate(&fold, &[Meta { dtype: DType::F32, layout: ly }]);
        }
    }
}

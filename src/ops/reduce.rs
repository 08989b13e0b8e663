//! Reductions over axes: sums, products, extremes, positions, truth; and what is composed of them: variance, norms, log-sum-exp.

use super::scan::others;
use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::GpuKernel;
use crate::codegen::kernel::ReduceKind;
use crate::graph::node::{grad_enabled, with_grad};
use crate::graph::{Class, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record};
use crate::shape::axes as resolve_axes;
use crate::{Axes, DType, Error, Result, Shape, Tensor, autocast};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

/// A reduction over the flagged axes, which stay as size 1.
#[derive(Debug)]
pub(crate) struct Reduce {
    pub kind: ReduceKind,
    pub flags: SmallVec<[bool; 6]>,
}

/// The dtype of a reduction's result: the input's, but sums and products of bool and u8 are i32, truth is bool, positions are i32.
fn result_dtype(kind: ReduceKind, dtype: DType) -> DType {
    match kind {
        ReduceKind::Sum | ReduceKind::Prod => match dtype {
            DType::Bool | DType::U8 => DType::I32,
            d => d,
        },
        ReduceKind::ArgMax | ReduceKind::ArgMin => DType::I32,
        ReduceKind::Any | ReduceKind::All => DType::Bool,
        ReduceKind::Mean | ReduceKind::Max | ReduceKind::Min => dtype,
    }
}

impl Op for Reduce {
    fn name(&self) -> &'static str {
        match self.kind {
            ReduceKind::Sum => "sum",
            ReduceKind::Mean => "mean",
            ReduceKind::Prod => "prod",
            ReduceKind::Max => "max",
            ReduceKind::Min => "min",
            ReduceKind::ArgMax => "argmax",
            ReduceKind::ArgMin => "argmin",
            ReduceKind::Any => "any",
            ReduceKind::All => "all",
        }
    }

    fn class(&self) -> Class<'_> {
        Class::Reduce(self.kind, &self.flags)
    }

    fn key(&self, key: &mut Key) {
        key.add(self.kind as u64).add(self.flags.iter().fold(1, |bits, &f| bits << 1 | f as u64));
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let input = inputs[0];
        if self.kind == ReduceKind::Mean && !input.dtype.is_float() {
            return Err(Error::dtype("mean", &[input.dtype], "a float dtype: cast() first"));
        }
        let shape = input.shape();
        let extreme = matches!(self.kind, ReduceKind::Max | ReduceKind::Min | ReduceKind::ArgMax | ReduceKind::ArgMin);
        let none = shape.iter().zip(&self.flags).any(|(&d, &f)| f && d == 0);
        if extreme && none && shape.iter().zip(&self.flags).all(|(&d, &f)| f || d != 0) {
            return Err(Error::shape(self.name(), std::slice::from_ref(shape), "at least one element along the reduced axes"));
        }
        let out: Shape = shape.iter().zip(&self.flags).map(|(&d, &f)| if f { 1 } else { d }).collect();
        Ok(smallvec![Meta::new(result_dtype(self.kind, input.dtype), out)])
    }

    fn saves(&self) -> Saves {
        match self.kind {
            ReduceKind::Max | ReduceKind::Min => Saves { inputs: 1, outputs: 1 },
            ReduceKind::Prod => Saves { inputs: 1, outputs: 0 },
            _ => Saves::default(),
        }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (x, y, g) = (&ctx.inputs[0], &ctx.outputs[0], ctx.cotangent()?);
        let grad = match self.kind {
            ReduceKind::Sum => g.try_expand(x.shape())?,
            ReduceKind::Mean => {
                let n = self.count(x);
                g.try_mul(1.0 / n as f64)?.try_expand(x.shape())?
            }
            ReduceKind::Max | ReduceKind::Min => {
                // NaN won where the result is NaN: then the NaNs are the ties.
                let ties = x.try_eq(y)?.try_logical_or(x.try_isnan()?.try_logical_and(y.try_isnan()?)?)?;
                let count = reduce(ReduceKind::Sum, &ties.try_cast(x.dtype().compute())?, &self.flags)?.try_cast(g.dtype())?;
                ties.try_where(g.try_div(count)?, 0.0)?
            }
            ReduceKind::Prod => prod_grad(x, g, &self.flags)?,
            _ => return ctx.not_differentiable(),
        };
        Ok(vec![Some(grad.try_cast(x.dtype())?)])
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        ctx.unsupported()
    }

    fn gpu(&self, _ctx: &GpuCtx) -> Result<GpuKernel> {
        Err(Error::Kernel { op: self.name().into(), message: "reductions run as fused programs".into() })
    }
}

impl Reduce {
    /// How many elements go into one result.
    fn count(&self, x: &Tensor) -> usize {
        x.dims().iter().zip(&self.flags).filter(|(_, f)| **f).map(|(d, _)| d).product()
    }
}

/// The gradient of a product: the cotangent times the product of the *other* elements, right with any number of zeros. Where there is none it is
/// y/x; with one, only that element has one; with more, none has.
fn prod_grad(x: &Tensor, g: &Tensor, flags: &[bool]) -> Result<Tensor> {
    if grad_enabled() {
        // What is differentiated again must know how it depends on the zeros.
        let (kept, reduced): (Vec<usize>, Vec<usize>) = (0..x.rank()).partition(|&d| !flags[d]);
        let order: Vec<usize> = kept.iter().chain(&reduced).copied().collect();
        let moved = x.try_permute(&order.iter().map(|&d| d as isize).collect::<Vec<_>>())?;
        let flat: Vec<usize> = kept.iter().map(|&d| x.dims()[d]).chain([reduced.iter().map(|&d| x.dims()[d]).product()]).collect();
        let slope = others(&moved.try_reshape(flat)?, kept.len())?.try_reshape(moved.dims())?;
        let mut back = vec![0isize; order.len()];
        order.iter().enumerate().for_each(|(to, &from)| back[from] = to as isize);
        return slope.try_permute(&back)?.try_mul(g);
    }
    let zero = x.try_eq(0.0)?;
    let zeros = reduce(ReduceKind::Sum, &zero, flags)?;
    let safe = zero.try_where(1.0, x)?.try_cast(x.dtype())?;
    let others = reduce(ReduceKind::Prod, &safe, flags)?;
    let none = others.try_div(&safe)?;
    let alone = zero.try_where(&others, 0.0)?;
    let slope = zeros.try_eq(0)?.try_where(none, zeros.try_eq(1)?.try_where(alone, 0.0)?)?;
    slope.try_mul(g)
}

/// Records a reduction that keeps the axes, over a dtype that the kernels take: truth over bools, arithmetic over numbers of 4 bytes or more.
pub(crate) fn reduce(kind: ReduceKind, x: &Tensor, flags: &[bool]) -> Result<Tensor> {
    let adds = matches!(kind, ReduceKind::Sum | ReduceKind::Mean | ReduceKind::Prod);
    let full = if adds { autocast::raised(x)? } else { None };
    let x = full.as_ref().unwrap_or(x);
    let dtype = match (kind, x.dtype()) {
        (ReduceKind::Any | ReduceKind::All, _) => DType::Bool,
        (ReduceKind::Sum | ReduceKind::Prod, DType::Bool | DType::U8) => DType::I32,
        (ReduceKind::Max | ReduceKind::Min | ReduceKind::ArgMax | ReduceKind::ArgMin, DType::Bool | DType::U8) => DType::I32,
        (_, d) => d,
    };
    let y = record(Arc::new(Reduce { kind, flags: SmallVec::from_slice(flags) }), &[&x.try_cast(dtype)?])?;
    if matches!(kind, ReduceKind::Max | ReduceKind::Min) { y.try_cast(x.dtype()) } else { Ok(y) }
}

/// A root whose slope at 0 counts as 0: neither its argument nor its result is 0 where it is taken.
fn root(x: &Tensor, root: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let zero = x.try_eq(0.0)?;
    zero.try_where(0.0, root(&zero.try_where(1.0, x)?)?)
}

/// The flags of a list of axes.
fn flags(op: &'static str, x: &Tensor, axes: &Axes) -> Result<SmallVec<[bool; 6]>> {
    let mut flags: SmallVec<[bool; 6]> = smallvec![false; x.rank()];
    for a in resolve_axes(op, &axes.0, x.rank())? {
        flags[a] = true;
    }
    Ok(flags)
}

/// Drops the flagged axes (of size 1).
fn squeeze(x: Tensor, flags: &[bool]) -> Result<Tensor> {
    let shape: Shape = x.dims().iter().zip(flags).filter(|(_, f)| !**f).map(|(&d, _)| d).collect();
    x.try_reshape(shape)
}

/// A table of reductions over axes: rows of `name try_name name_keepdim try_name_keepdim, kind;`.
macro_rules! reductions {
    ($($(#[$doc:meta])* $name:ident $try_name:ident $keep:ident $try_keep:ident, $kind:ident;)*) => {
        #[fornax_derive::fallible]
        impl Tensor {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// An axis out of range or named twice; a dtype that the reduction does not take.
                pub fn $try_name(&self, axes: impl Into<Axes>) -> Result<Tensor> {
                    let flags = flags(stringify!($name), self, &axes.into())?;
                    squeeze(reduce(ReduceKind::$kind, self, &flags)?, &flags)
                }

                #[doc = concat!("As [`", stringify!($name), "`](Tensor::", stringify!($name), "), with the reduced axes kept as size 1.")]
                pub fn $try_keep(&self, axes: impl Into<Axes>) -> Result<Tensor> {
                    let flags = flags(stringify!($name), self, &axes.into())?;
                    reduce(ReduceKind::$kind, self, &flags)
                }
            )*
        }
    };
}

reductions! {
    /// The sum over the axes (`()`: all). f16 and bf16 accumulate in f32; bool and u8 give i32, other integers their own dtype (and wrap).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], [2, 2], Device::cpu())?;
    /// assert_eq!(x.sum(0).to_vec::<f32>()?, [4.0, 6.0]);
    /// assert_eq!(x.sum(()).item::<f32>()?, 10.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    sum try_sum sum_keepdim try_sum_keepdim, Sum;
    /// The mean over the axes (`()`: all), of float dtypes; NaN of nothing.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], [2, 2], Device::cpu())?;
    /// assert_eq!(x.mean(-1).to_vec::<f32>()?, [1.5, 3.5]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    mean try_mean mean_keepdim try_mean_keepdim, Mean;
    /// The product over the axes (`()`: all). bool and u8 give i32, other integers their own dtype (and wrap). The gradient is right where
    /// elements are zero.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], [2, 2], Device::cpu())?;
    /// assert_eq!(x.prod(1).to_vec::<f32>()?, [2.0, 12.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    prod try_prod prod_keepdim try_prod_keepdim, Prod;
    /// The largest element over the axes (`()`: all); NaN where there is one. Ties share the gradient equally. An empty axis is an error.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], [2, 2], Device::cpu())?;
    /// assert_eq!(x.max(0).to_vec::<f32>()?, [3.0, 4.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    max try_max max_keepdim try_max_keepdim, Max;
    /// The smallest element over the axes (`()`: all); NaN where there is one. Ties share the gradient equally. An empty axis is an error.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], [2, 2], Device::cpu())?;
    /// assert_eq!(x.min(0).to_vec::<f32>()?, [1.0, 2.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    min try_min min_keepdim try_min_keepdim, Min;
    /// Whether any element over the axes (`()`: all) is nonzero: a bool.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[0, 0, 0, 4], [2, 2], Device::cpu())?;
    /// assert_eq!(x.any(1).to_vec::<bool>()?, [false, true]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    any try_any any_keepdim try_any_keepdim, Any;
    /// Whether all elements over the axes (`()`: all) are nonzero: a bool.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[0, 1, 1, 4], [2, 2], Device::cpu())?;
    /// assert_eq!(x.all(1).to_vec::<bool>()?, [false, true]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    all try_all all_keepdim try_all_keepdim, All;
}

fn arg(kind: ReduceKind, op: &'static str, x: &Tensor, axis: isize) -> Result<(Tensor, SmallVec<[bool; 6]>)> {
    let flags = flags(op, x, &axis.into())?;
    if x.dims().iter().zip(&flags).any(|(&n, &f)| f && n > i32::MAX as usize) {
        return Err(Error::argument(op, "an axis of more than 2^31 - 1 elements"));
    }
    Ok((reduce(kind, x, &flags)?, flags))
}

fn variance(op: &'static str, x: &Tensor, axes: &Axes, correction: f64) -> Result<(Tensor, SmallVec<[bool; 6]>)> {
    if !x.dtype().is_float() {
        return Err(Error::dtype(op, &[x.dtype()], "a float dtype: cast() first"));
    }
    let flags = flags(op, x, axes)?;
    let n: usize = x.dims().iter().zip(&flags).filter(|(_, f)| **f).map(|(d, _)| d).product();
    // In f32 for half precision: two passes, so that a large mean does not cancel.
    let full = autocast::raised(x)?;
    let x = full.as_ref().unwrap_or(x);
    let wide = x.try_cast(x.dtype().compute())?;
    let deviation = wide.try_sub(reduce(ReduceKind::Mean, &wide, &flags)?)?;
    let sum = reduce(ReduceKind::Sum, &deviation.try_square()?, &flags)?;
    let n = (n as f64 - correction).max(0.0);
    Ok((sum.try_mul(1.0 / n)?.try_cast(x.dtype())?, flags))
}

fn log_sum_exp(x: &Tensor, axes: &Axes) -> Result<(Tensor, SmallVec<[bool; 6]>)> {
    let full = autocast::raised(x)?;
    let x = full.as_ref().unwrap_or(x);
    let dtype = if x.dtype().is_float() { x.dtype() } else { DType::F32 };
    let flags = flags("logsumexp", x, axes)?;
    let wide = x.try_cast(dtype.compute())?;
    if x.numel() == 0 {
        let sum = reduce(ReduceKind::Sum, &wide, &flags)?;
        return Ok((sum.try_log()?.try_cast(dtype)?, flags));
    }
    // The shift cancels in value and in derivative; an infinite maximum is not shifted by.
    let max = with_grad(false, || reduce(ReduceKind::Max, &wide, &flags))?;
    let shift = max.try_isinf()?.try_where(0.0, max)?.try_cast(wide.dtype())?;
    let sum = reduce(ReduceKind::Sum, &wide.try_sub(&shift)?.try_exp()?, &flags)?;
    Ok((sum.try_log()?.try_add(shift)?.try_cast(dtype)?, flags))
}

fn norm_of(x: &Tensor, p: f64, axes: &Axes) -> Result<(Tensor, SmallVec<[bool; 6]>)> {
    if !x.dtype().is_float() {
        return Err(Error::dtype("norm", &[x.dtype()], "a float dtype: cast() first"));
    }
    if p.is_nan() {
        return Err(Error::argument("norm", "p = NaN: a number or ±infinity is wanted"));
    }
    let flags = flags("norm", x, axes)?;
    let full = autocast::raised(x)?;
    let x = full.as_ref().unwrap_or(x);
    let wide = x.try_cast(x.dtype().compute())?;
    let y = if p == f64::INFINITY {
        reduce(ReduceKind::Max, &wide.try_abs()?, &flags)?
    } else if p == f64::NEG_INFINITY {
        reduce(ReduceKind::Min, &wide.try_abs()?, &flags)?
    } else if p < 0.0 {
        // A zero makes the sum infinite and the norm 0.
        reduce(ReduceKind::Sum, &wide.try_abs()?.try_pow(p)?, &flags)?.try_pow(1.0 / p)?
    } else if p == 0.0 {
        reduce(ReduceKind::Sum, &wide.try_ne(0.0)?.try_cast(wide.dtype())?, &flags)?
    } else if p == 1.0 {
        reduce(ReduceKind::Sum, &wide.try_abs()?, &flags)?
    } else if p == 2.0 {
        root(&reduce(ReduceKind::Sum, &wide.try_square()?, &flags)?, Tensor::try_sqrt)?
    } else {
        let powers = root(&wide.try_abs()?, |a| a.try_pow(p))?;
        root(&reduce(ReduceKind::Sum, &powers, &flags)?, |s| s.try_pow(1.0 / p))?
    };
    Ok((y.try_cast(x.dtype())?, flags))
}

#[fornax_derive::fallible]
impl Tensor {
    /// The position (i32) of the largest element along an axis, the first of equals; the first NaN, where there is one.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 9.0, 3.0, 4.0], [2, 2], Device::cpu())?;
    /// assert_eq!(x.argmax(-1).to_vec::<i32>()?, [1, 1]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// An axis out of range or empty.
    pub fn try_argmax(&self, axis: isize) -> Result<Tensor> {
        let (y, flags) = arg(ReduceKind::ArgMax, "argmax", self, axis)?;
        squeeze(y, &flags)
    }

    /// As [`argmax`](Tensor::argmax), with the axis kept as size 1.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// assert_eq!(Tensor::ones([2, 3], Device::cpu()).argmax_keepdim(1).dims(), [2, 1]);
    /// ```
    pub fn try_argmax_keepdim(&self, axis: isize) -> Result<Tensor> {
        Ok(arg(ReduceKind::ArgMax, "argmax", self, axis)?.0)
    }

    /// The position (i32) of the smallest element along an axis, the first of equals; the first NaN, where there is one.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 9.0, 3.0, 4.0], [2, 2], Device::cpu())?;
    /// assert_eq!(x.argmin(0).to_vec::<i32>()?, [0, 1]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// An axis out of range or empty.
    pub fn try_argmin(&self, axis: isize) -> Result<Tensor> {
        let (y, flags) = arg(ReduceKind::ArgMin, "argmin", self, axis)?;
        squeeze(y, &flags)
    }

    /// As [`argmin`](Tensor::argmin), with the axis kept as size 1.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// assert_eq!(Tensor::ones([2, 3], Device::cpu()).argmin_keepdim(1).dims(), [2, 1]);
    /// ```
    pub fn try_argmin_keepdim(&self, axis: isize) -> Result<Tensor> {
        Ok(arg(ReduceKind::ArgMin, "argmin", self, axis)?.0)
    }

    /// The variance `Σ (x − mean)² / (n − correction)` over the axes (`()`: all): correction 1 is the unbiased estimate, 0 the population's.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 3.0], 2, Device::cpu())?;
    /// assert_eq!(x.var((), 1.0).item::<f32>()?, 2.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// An axis out of range or named twice; a dtype that is no float.
    pub fn try_var(&self, axes: impl Into<Axes>, correction: f64) -> Result<Tensor> {
        let (y, flags) = variance("var", self, &axes.into(), correction)?;
        squeeze(y, &flags)
    }

    /// As [`var`](Tensor::var), with the reduced axes kept as size 1.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// assert_eq!(Tensor::ones([2, 3], Device::cpu()).var_keepdim(1, 1.0).dims(), [2, 1]);
    /// ```
    pub fn try_var_keepdim(&self, axes: impl Into<Axes>, correction: f64) -> Result<Tensor> {
        Ok(variance("var", self, &axes.into(), correction)?.0)
    }

    /// The standard deviation: the root of [`var`](Tensor::var). Its gradient where it is 0 is 0.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 5.0], 2, Device::cpu())?;
    /// assert_eq!(x.std((), 0.0).item::<f32>()?, 2.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`var`](Tensor::var).
    pub fn try_std(&self, axes: impl Into<Axes>, correction: f64) -> Result<Tensor> {
        let (y, flags) = variance("std", self, &axes.into(), correction)?;
        squeeze(root(&y, Tensor::try_sqrt)?, &flags)
    }

    /// As [`std`](Tensor::std), with the reduced axes kept as size 1.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// assert_eq!(Tensor::ones([2, 3], Device::cpu()).std_keepdim(1, 1.0).dims(), [2, 1]);
    /// ```
    pub fn try_std_keepdim(&self, axes: impl Into<Axes>, correction: f64) -> Result<Tensor> {
        root(&variance("std", self, &axes.into(), correction)?.0, Tensor::try_sqrt)
    }

    /// The p-norm `(Σ |x|ᵖ)^(1/p)` over the axes (`()`: all); p = ∞ is the largest |x|, p = −∞ the smallest, p = 0 the count of
    /// nonzeros. Its gradient at 0 is 0 where p > 0.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[3.0f32, -4.0], 2, Device::cpu())?;
    /// assert_eq!(x.norm(2.0, ()).item::<f32>()?, 5.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// An axis out of range or named twice; a dtype that is no float; p = NaN.
    pub fn try_norm(&self, p: f64, axes: impl Into<Axes>) -> Result<Tensor> {
        let (y, flags) = norm_of(self, p, &axes.into())?;
        squeeze(y, &flags)
    }

    /// As [`norm`](Tensor::norm), with the reduced axes kept as size 1.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// assert_eq!(Tensor::ones([2, 3], Device::cpu()).norm_keepdim(2.0, 1).dims(), [2, 1]);
    /// ```
    pub fn try_norm_keepdim(&self, p: f64, axes: impl Into<Axes>) -> Result<Tensor> {
        Ok(norm_of(self, p, &axes.into())?.0)
    }

    /// `ln Σ eˣ` over the axes (`()`: all), without overflow.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1000.0f32, 1000.0], 2, Device::cpu())?;
    /// assert_eq!(x.logsumexp(()).item::<f32>()?, 1000.0 + 2.0f32.ln());
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// An axis out of range or named twice.
    pub fn try_logsumexp(&self, axes: impl Into<Axes>) -> Result<Tensor> {
        let (y, flags) = log_sum_exp(self, &axes.into())?;
        squeeze(y, &flags)
    }

    /// As [`logsumexp`](Tensor::logsumexp), with the reduced axes kept as size 1.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// assert_eq!(Tensor::ones([2, 3], Device::cpu()).logsumexp_keepdim(1).dims(), [2, 1]);
    /// ```
    pub fn try_logsumexp_keepdim(&self, axes: impl Into<Axes>) -> Result<Tensor> {
        Ok(log_sum_exp(self, &axes.into())?.0)
    }

    /// The reverse of a broadcast: sums over the axes along which `shape` was stretched to this tensor's shape. Keeps the dtype.
    ///
    /// ```
    /// use fornax::{Device, Shape, Tensor};
    /// let x = Tensor::ones([4, 2, 3], Device::cpu());
    /// assert_eq!(x.sum_to(&Shape::from([2, 1])).to_vec::<f32>()?, [12.0, 12.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// A shape that does not broadcast to this tensor's.
    pub fn try_sum_to(&self, shape: &Shape) -> Result<Tensor> {
        if self.shape() == shape {
            return Ok(self.clone());
        }
        if shape.broadcast(self.shape()).as_ref() != Some(self.shape()) {
            return Err(Error::shape("sum_to", &[self.shape().clone(), shape.clone()], "a second shape that broadcasts to the first"));
        }
        let new = self.rank() - shape.rank();
        let flags: SmallVec<[bool; 6]> = (0..self.rank()).map(|i| i < new || (shape[i - new] == 1 && self.dims()[i] != 1)).collect();
        let sum = if flags.contains(&true) { reduce(ReduceKind::Sum, self, &flags)? } else { self.clone() };
        sum.try_cast(self.dtype())?.try_reshape(shape)
    }
}

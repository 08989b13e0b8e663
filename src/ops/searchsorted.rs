//! Places in sorted rows, by binary search.

use super::movement::{computed, each, par_each, reads, writes};
use super::sort::{Ordered, order_define};
use crate::backend::cpu::CpuCtx;
use crate::backend::cpu::threads::Shared;
use crate::codegen::dispatch::{GpuKernel, Slot};
use crate::codegen::wgsl::preprocess;
use crate::graph::{Along, Cut, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record};
use crate::{DType, Error, Result, Tensor};
use smallvec::smallvec;
use std::sync::Arc;

/// Inputs sorted rows and values: how many of the row come before each value. One row serves all values where the rows have rank 1.
#[derive(Debug)]
pub(crate) struct SearchSorted {
    right: bool,
}

impl SearchSorted {
    fn search<T: Ordered>(&self, ctx: &CpuCtx) {
        let n = ctx.shape(0).last().copied().unwrap_or(0);
        let (rows, values) = (ctx.input::<T>(0), ctx.input::<T>(1));
        let out = Shared::new(ctx.output::<i32>(0));
        let per_row = values_per_row(ctx.shape(0), ctx.shape(1));
        const GROUP: usize = 4096;
        par_each(values.len().div_ceil(GROUP), values.len().saturating_mul(8), |g| {
            for i in g * GROUP..values.len().min((g + 1) * GROUP) {
                let (row, v) = (&rows[i / per_row * n..][..n], values[i].order());
                let at = row.partition_point(|x| if self.right { x.order() <= v } else { x.order() < v });
                // SAFETY: each value has its own place.
                unsafe { *out.at(i) = at as i32 };
            }
        });
    }
}

/// How many values share a row.
fn values_per_row(rows: &[usize], values: &[usize]) -> usize {
    if rows.len() == 1 { values.iter().product::<usize>().max(1) } else { values.last().copied().unwrap_or(1).max(1) }
}

impl Op for SearchSorted {
    fn name(&self) -> &'static str {
        "searchsorted"
    }

    fn key(&self, key: &mut Key) {
        key.add(self.right as u64);
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let (rows, values) = (inputs[0], inputs[1]);
        let (a, b) = (rows.shape(), values.shape());
        let fits = a.rank() == 1 || (a.rank() > 1 && a.rank() == b.rank() && a[..a.rank() - 1] == b[..b.rank() - 1]);
        if !fits {
            return Err(Error::shape(
                "searchsorted",
                &[a, b],
                "a sorted row of rank 1, or sorted rows and values that agree but for the last axis",
            ));
        }
        if rows.dtype != values.dtype {
            return Err(Error::dtype("searchsorted", &[rows.dtype, values.dtype], "rows and values of one dtype"));
        }
        Ok(smallvec![Meta::new(DType::I32, b)])
    }

    fn saves(&self) -> Saves {
        Saves::default()
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        ctx.not_differentiable()
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        match ctx.dtype(0) {
            DType::Bool | DType::U8 => self.search::<u8>(ctx),
            DType::I32 => self.search::<i32>(ctx),
            DType::U32 => self.search::<u32>(ctx),
            DType::I64 => self.search::<i64>(ctx),
            DType::F32 => self.search::<f32>(ctx),
            DType::F64 => self.search::<f64>(ctx),
            _ => return ctx.unsupported(),
        }
        Ok(())
    }

    fn cuts(&self, inputs: &[Meta], _outputs: &[Meta]) -> Vec<Cut> {
        let (rows, values) = (inputs[0].shape(), inputs[1].shape());
        let shared = |d: usize| rows.rank() == 1 || d + 1 == values.rank();
        let cut = |d: usize| Cut::new(values[d], &[if shared(d) { None } else { Some(d) }, Some(d)], &[Along::axis(d)]);
        (0..values.rank()).map(cut).collect()
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let n = ctx.numel(1);
        let mut kernel = GpuKernel::default();
        if n == 0 {
            return Ok(kernel);
        }
        let mut defines: Vec<_> = order_define(ctx.inputs[0].dtype).into_iter().collect();
        if self.right {
            defines.push(("RIGHT", ""));
        }
        let text = concat!(include_str!("../../shaders/common/order.wgsl"), include_str!("../../shaders/searchsorted.wgsl"));
        let size = ctx.shape(0).last().copied().unwrap_or(0);
        let params = vec![n.into(), size.into(), values_per_row(ctx.shape(0), ctx.shape(1)).into()];
        let bindings = vec![reads(Slot::Input(0)), reads(Slot::Input(1)), writes(Slot::Output(0))];
        kernel.steps.push(each("searchsorted", preprocess(text, &defines), n, bindings, params));
        Ok(kernel)
    }
}

#[fornax_derive::fallible]
impl Tensor {
    /// For each of `values` the place (i32) where it would go in the sorted last axis of this tensor: the number of elements less than it,
    /// or with `right` not greater than it. Rank 1 serves values of any shape; else the shapes agree but for the last axis. NaN is
    /// greater than every number.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let edges = Tensor::from_vec(vec![1.0f32, 3.0, 5.0], 3, Device::cpu())?;
    /// let v = Tensor::from_vec(vec![0.0f32, 3.0, 9.0], 3, Device::cpu())?;
    /// assert_eq!(edges.searchsorted(&v, false).to_vec::<i32>()?, [0, 1, 3]);
    /// assert_eq!(edges.searchsorted(&v, true).to_vec::<i32>()?, [0, 2, 3]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_searchsorted(&self, values: &Tensor, right: bool) -> Result<Tensor> {
        let dtype = computed(self).promote(computed(values));
        record(Arc::new(SearchSorted { right }), &[&self.try_cast(dtype)?, &values.try_cast(dtype)?])
    }
}

#[cfg(test)]
mod tests {
    use super::super::movement::testing::*;
    use super::*;

    #[test]
    fn finds_the_place() {
        for (rows, n, m) in [(1, 0, 4), (1, 1, 9), (5, 37, 11), (1, 1000, 40_000)] {
            for right in [false, true] {
                let mut x: Vec<i32> = indices(rows * n, 50);
                (0..rows).for_each(|r| x[r * n..(r + 1) * n].sort());
                let v: Vec<i32> = indices(rows * m, 60).iter().map(|v| v - 5).collect();
                let got = run1::<i32>(&SearchSorted { right }, &[&value(&x, [rows, n]), &value(&v, [rows, m])]);
                for (i, &g) in got.iter().enumerate() {
                    let row = &x[i / m * n..][..n];
                    let expected = row.iter().filter(|&&e| e < v[i] || (right && e == v[i])).count();
                    assert_eq!(g, expected as i32);
                }
                if rows == 1 && n > 0 {
                    assert_eq!(run1::<i32>(&SearchSorted { right }, &[&value(&x, n), &value(&v, [1, m, 1])]), got);
                }
            }
        }
    }

    #[test]
    fn floats_know_nan_and_both_zeros() {
        let x = value(&[-0.0f32, 1.0, f32::INFINITY, f32::NAN], 4);
        let v = value(&[0.0f32, -0.0, f32::NAN, -1.0], [2, 2]);
        assert_eq!(run1::<i32>(&SearchSorted { right: false }, &[&x, &v]), [0, 0, 3, 0]);
        assert_eq!(run1::<i32>(&SearchSorted { right: true }, &[&x, &v]), [1, 1, 4, 0]);
    }
}

//! Sorting along an axis: `sort`, `argsort`, `topk`. Always stable; NaN is greater than every number; -0 equals 0.
//!
//! Keys become unsigned integers in the same order, paired with their position. On the GPU blocks of 1024 are sorted in workgroup memory
//! and merged in rounds, each element finding its place by a binary search in the other run.

use super::movement::{by_size, computed, each, par_each, reads, writes};
use super::scatter::{Mode, Scatter, scatter};
use crate::backend::cpu::CpuCtx;
use crate::backend::cpu::threads::{self, Shared};
use crate::codegen::dispatch::{Dispatch, GpuKernel, GpuStep, Slot, grid};
use crate::codegen::wgsl::preprocess;
use crate::graph::asked::Asked;
use crate::graph::{Cut, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record_all};
use crate::{DType, Error, Result, Tensor, shape};
use rayon::prelude::*;
use smallvec::smallvec;
use std::sync::Arc;

/// The first `keep` of the last axis in order: values, and where they were (i32).
#[derive(Debug)]
pub(crate) struct Sort {
    descending: bool,
    keep: usize,
}

/// The largest block that a workgroup sorts.
const BLOCK: usize = 1024;

/// What `common/order.wgsl` must know of a dtype.
pub(super) fn order_define(dtype: DType) -> Option<(&'static str, &'static str)> {
    match dtype {
        DType::F32 => Some(("FLOAT", "")),
        DType::I32 => Some(("SIGNED", "")),
        _ => None,
    }
}

/// Elements as unsigned integers that sort alike.
pub(super) trait Ordered: bytemuck::Pod + Send + Sync {
    fn order(self) -> u64;
}
macro_rules! ordered {
    ($($t:ty: |$v:ident| $e:expr),*) => { $(impl Ordered for $t {
        #[inline(always)]
        fn order(self) -> u64 {
            let $v = self;
            $e
        }
    })* };
}
ordered!(
    u8: |v| v as u64,
    u32: |v| v as u64,
    i32: |v| (v as u32 ^ 1 << 31) as u64,
    i64: |v| v as u64 ^ 1 << 63,
    f32: |v| {
        // -0 + 0 is 0.
        let b = (v + 0.0).to_bits();
        if v.is_nan() { u32::MAX as u64 } else if b >> 31 == 1 { !b as u64 } else { (b | 1 << 31) as u64 }
    },
    f64: |v| {
        let b = (v + 0.0).to_bits();
        if v.is_nan() { u64::MAX } else if b >> 63 == 1 { !b } else { b | 1 << 63 }
    }
);

/// Puts the first `keep` in order in front.
fn order_front<K: Ord + Send>(keys: &mut [K], keep: usize) {
    let n = keys.len();
    if keep < n / 2 && keep > 0 {
        keys.select_nth_unstable(keep - 1);
    }
    let front = if keep < n / 2 { &mut keys[..keep] } else { keys };
    if front.len() > 64 << 10 {
        threads::split(|| front.par_sort_unstable());
    } else {
        front.sort_unstable();
    }
}

impl Sort {
    /// Sorts each row: `put(row, rank, place)`.
    fn rows<T: Ordered>(&self, x: &[T], n: usize, put: impl Fn(usize, usize, usize) + Sync + Send) {
        let rows = x.len() / n;
        let group = (4096 / n).max(1);
        par_each(rows.div_ceil(group), x.len(), |g| {
            let mut narrow: Vec<u64> = Vec::new();
            let mut wide: Vec<(u64, u32)> = Vec::new();
            for r in g * group..rows.min((g + 1) * group) {
                let row = &x[r * n..][..n];
                if size_of::<T>() <= 4 {
                    // Key and position in one word, which sorts fastest.
                    let flip = if self.descending { u32::MAX as u64 } else { 0 };
                    narrow.clear();
                    narrow.extend(row.iter().enumerate().map(|(i, v)| (v.order() ^ flip) << 32 | i as u64));
                    order_front(&mut narrow, self.keep);
                    narrow[..self.keep].iter().enumerate().for_each(|(rank, k)| put(r, rank, *k as u32 as usize));
                } else {
                    let flip = if self.descending { u64::MAX } else { 0 };
                    wide.clear();
                    wide.extend(row.iter().enumerate().map(|(i, v)| (v.order() ^ flip, i as u32)));
                    order_front(&mut wide, self.keep);
                    wide[..self.keep].iter().enumerate().for_each(|(rank, k)| put(r, rank, k.1 as usize));
                }
            }
        });
    }
}

impl Op for Sort {
    fn name(&self) -> &'static str {
        "sort"
    }

    fn key(&self, key: &mut Key) {
        key.add(self.descending as u64).add(self.keep as u64);
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let x = inputs[0];
        let mut shape = x.shape().clone();
        let Some(n) = shape.last_mut() else {
            return Err(Error::shape("sort", &[x.shape()], "at least one axis"));
        };
        if *n > i32::MAX as usize || self.keep > *n {
            let message = format!("cannot take the first {} of an axis of {n} (at most {} fit an i32 index)", self.keep, i32::MAX);
            return Err(Error::argument("sort", message));
        }
        *n = self.keep;
        Ok(smallvec![Meta::new(x.dtype, &shape), Meta::new(DType::I32, shape)])
    }

    fn saves(&self) -> Saves {
        Saves { inputs: 0, outputs: 0b10 }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let dy = ctx.cotangent()?;
        let x = &ctx.inputs[0];
        let axis = x.rank() - 1;
        let zeros = Tensor::try_zeros(x.shape(), (dy.dtype(), dy.device()))?;
        let op =
            Scatter { axis, mode: Mode::Set, shared: false, unique: true, start: 0, total: x.dims()[axis], asked: Asked::here("sort") };
        Ok(vec![Some(scatter(op, &zeros, &ctx.outputs[1], dy)?)])
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        let n = ctx.shape(0).last().copied().unwrap_or(1);
        let places = Shared::new(ctx.output::<i32>(1));
        if ctx.inputs[0].layout.numel() == 0 || self.keep == 0 {
            return Ok(());
        }
        by_size!(ctx.dtype(0), B => {
            let (bits, values) = (ctx.input::<B>(0), Shared::new(ctx.output::<B>(0)));
            // SAFETY: each row and rank is put once.
            let put = |r: usize, rank: usize, from: usize| unsafe {
                *values.at(r * self.keep + rank) = bits[r * n + from];
                *places.at(r * self.keep + rank) = from as i32;
            };
            match ctx.dtype(0) {
                DType::Bool | DType::U8 => self.rows(ctx.input::<u8>(0), n, put),
                DType::I32 => self.rows(ctx.input::<i32>(0), n, put),
                DType::U32 => self.rows(ctx.input::<u32>(0), n, put),
                DType::I64 => self.rows(ctx.input::<i64>(0), n, put),
                DType::F32 => self.rows(ctx.input::<f32>(0), n, put),
                DType::F64 => self.rows(ctx.input::<f64>(0), n, put),
                _ => return ctx.unsupported(),
            }
            Ok(())
        })
    }

    fn cuts(&self, inputs: &[Meta], _outputs: &[Meta]) -> Vec<Cut> {
        let x = inputs[0].shape();
        Cut::axes(x, 1, 2, |d| d + 1 < x.rank())
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let (total, n) = (ctx.numel(0), ctx.shape(0).last().copied().unwrap_or(1));
        let mut kernel = GpuKernel::default();
        if total == 0 || self.keep == 0 {
            return Ok(kernel);
        }
        let rows = total / n;
        let block = n.next_power_of_two().clamp(64, BLOCK);
        let blocks = n.div_ceil(block);
        let (size, threads) = (block.to_string(), (block / 2).clamp(32, 256).to_string());
        let mut defines = vec![("BLOCK", size.as_str()), ("THREADS", threads.as_str())];
        defines.extend(order_define(ctx.inputs[0].dtype));
        if self.descending {
            defines.push(("DESCENDING", ""));
        }
        if blocks == 1 {
            defines.push(("LAST", ""));
        }
        let outputs = [writes(Slot::Output(0)), writes(Slot::Output(1))];
        // Keys and positions, twice: a round reads the one pair and writes the other.
        let pair = |k: usize| [Slot::Temp(2 * k), Slot::Temp(2 * k + 1)];
        let mut bindings = vec![reads(Slot::Input(0))];
        bindings.extend(if blocks == 1 { outputs } else { pair(0).map(writes) });
        kernel.steps.push(GpuStep::Dispatch(Dispatch {
            label: "sort",
            source: preprocess(concat!(include_str!("../../shaders/common/order.wgsl"), include_str!("../../shaders/sort.wgsl")), &defines)
                .into(),
            bindings,
            params: vec![(rows * blocks).into(), blocks.into(), n.into(), self.keep.into()],
            groups: grid(rows * blocks),
            flops: 0,
        }));
        if blocks > 1 {
            kernel.temps = vec![4 * total; if blocks > 2 { 4 } else { 2 }];
        }
        let (mut run, mut from) = (block, 0);
        while run < n {
            let last = 2 * run >= n;
            let mut bindings: Vec<_> = pair(from).map(reads).into();
            if last {
                bindings.push(reads(Slot::Input(0)));
            }
            bindings.extend(if last { outputs } else { pair(1 - from).map(writes) });
            let defines: &[(&str, &str)] = if last { &[("LAST", "")] } else { &[] };
            let source = preprocess(include_str!("../../shaders/sort_merge.wgsl"), defines);
            kernel.steps.push(each("sort_merge", source, total, bindings, vec![total.into(), n.into(), run.into(), self.keep.into()]));
            (run, from) = (2 * run, 1 - from);
        }
        Ok(kernel)
    }
}

/// The first `keep` (or all) along an axis, in order.
fn sorted(op: &'static str, x: &Tensor, axis: isize, descending: bool, keep: Option<usize>) -> Result<(Tensor, Tensor)> {
    let [v, i] = shape::at_least_1d(x, |x| sorted_axis(op, x, axis, descending, keep))?;
    Ok((v, i))
}

fn sorted_axis(op: &'static str, x: &Tensor, axis: isize, descending: bool, keep: Option<usize>) -> Result<[Tensor; 2]> {
    let axis = shape::axis(op, axis, x.rank())?;
    let n = x.dims()[axis];
    let keep = keep.unwrap_or(n);
    if keep > n {
        return Err(Error::argument(op, format!("k = {keep} of an axis of {n}: at most {n}")));
    }
    let last = x.rank() - 1;
    let turned = x.try_cast(computed(x))?.try_transpose(axis as isize, last as isize)?;
    let outs = record_all(Arc::new(Sort { descending, keep }), &[&turned])?;
    let back = |t: &Tensor| t.try_transpose(axis as isize, last as isize);
    Ok([back(&outs[0])?.try_cast(x.dtype())?, back(&outs[1])?])
}

#[fornax_derive::fallible]
impl Tensor {
    /// The elements in order along `axis`, and the position (i32) that each came from. The sort is stable, NaN is greater than every
    /// number, and the gradient of the values goes back to where they came from.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![3.0f32, 1.0, 2.0], 3, Device::cpu())?;
    /// let (values, indices) = x.sort(0, false);
    /// assert_eq!(values.to_vec::<f32>()?, [1.0, 2.0, 3.0]);
    /// assert_eq!(indices.to_vec::<i32>()?, [1, 2, 0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_sort(&self, axis: isize, descending: bool) -> Result<(Tensor, Tensor)> {
        sorted("sort", self, axis, descending, None)
    }

    /// The positions (i32) that put `axis` in order; stable, NaN last (or first, descending).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![3.0f32, 1.0, 2.0], 3, Device::cpu())?;
    /// assert_eq!(x.argsort(0, true).to_vec::<i32>()?, [0, 2, 1]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_argsort(&self, axis: isize, descending: bool) -> Result<Tensor> {
        Ok(sorted("argsort", self, axis, descending, None)?.1)
    }

    /// The `k` largest (or smallest) elements along `axis` in order, and their positions (i32). Of equal ones the first come first; NaN
    /// counts as greatest.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![1.0f32, 4.0, 3.0, 2.0], 4, Device::cpu())?;
    /// let (values, indices) = x.topk(2, 0, true);
    /// assert_eq!(values.to_vec::<f32>()?, [4.0, 3.0]);
    /// assert_eq!(indices.to_vec::<i32>()?, [1, 2]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_topk(&self, k: usize, axis: isize, largest: bool) -> Result<(Tensor, Tensor)> {
        sorted("topk", self, axis, largest, Some(k))
    }
}

#[cfg(test)]
mod tests {
    use super::super::movement::testing::*;
    use super::*;
    use std::cmp::Ordering;

    fn greater(a: f32, b: f32) -> Ordering {
        match (a.is_nan(), b.is_nan()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => a.partial_cmp(&b).unwrap(),
        }
    }

    #[test]
    fn sorts_stably_with_nan_greatest() {
        for (rows, n) in [(1, 1), (3, 7), (100, 64), (2, 1500), (1, 200_000), (3, 0)] {
            let mut x: Vec<f32> = numbers(rows * n).iter().map(|v| (v * 50.0).round() / 7.0).collect();
            for (i, v) in x.iter_mut().enumerate() {
                match i % 23 {
                    5 => *v = f32::NAN,
                    7 => *v = -0.0,
                    8 => *v = 0.0,
                    9 => *v = f32::NEG_INFINITY,
                    10 => *v = f32::INFINITY,
                    _ => {}
                }
            }
            for descending in [false, true] {
                for keep in [n, n / 3, n.min(1)] {
                    let (outs, _) = run(&Sort { descending, keep }, &[&value(&x, [rows, n])]).unwrap();
                    let (values, places) = (outs[0].get::<f32>(), outs[1].get::<i32>());
                    for r in 0..rows {
                        let row = &x[r * n..][..n];
                        let mut order: Vec<usize> = (0..n).collect();
                        order.sort_by(|&a, &b| if descending { greater(row[b], row[a]) } else { greater(row[a], row[b]) });
                        for (k, &from) in order[..keep].iter().enumerate() {
                            assert_eq!(places[r * keep + k], from as i32, "{rows} {n} {descending} {keep}");
                            assert_eq!(values[r * keep + k].to_bits(), row[from].to_bits());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn sorts_every_dtype() {
        let sort = Sort { descending: false, keep: 4 };
        assert_eq!(run1::<i32>(&sort, &[&value(&[3, -1, i32::MIN, 2], 4)]), [i32::MIN, -1, 2, 3]);
        assert_eq!(run1::<u32>(&sort, &[&value(&[3u32, u32::MAX, 0, 2], 4)]), [0, 2, 3, u32::MAX]);
        assert_eq!(run1::<i64>(&sort, &[&value(&[3i64, -1, i64::MIN, 2], 4)]), [i64::MIN, -1, 2, 3]);
        assert_eq!(run1::<u8>(&sort, &[&value(&[3u8, 255, 0, 2], 4)]), [0, 2, 3, 255]);
        assert_eq!(run1::<f64>(&sort, &[&value(&[3f64, -1.0, -1e300, 2.0], 4)]), [-1e300, -1.0, 2.0, 3.0]);
        let (outs, _) = run(&sort, &[&value(&[true, false, true, false], 4)]).unwrap();
        assert_eq!(outs[1].get::<i32>(), [1, 3, 0, 2]);
    }
}

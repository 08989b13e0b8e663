//! Writing and adding at places that an index tensor names: `scatter`, `scatter_add`, `index_add`.
//!
//! The order of additions is that of the index, always: no float atomics. On the GPU a line along the axis belongs to one invocation
//! where there are many lines or few indices; else the indices are sorted first, and each run of equal ones belongs to one invocation.

use super::gather::Gather;
use super::index_select::IndexSelect;
use super::movement::{
    Add, Lines, by_number, by_size, computed, copy_input, each, index_i32, moved, output_from_input, par_each, reads, writes,
};
use crate::backend::cpu::CpuCtx;
use crate::backend::cpu::threads::Shared;
use crate::codegen::dispatch::{GpuKernel, GpuStep, Param, Slot};
use crate::codegen::wgsl::preprocess;
use crate::graph::asked::Asked;
use crate::graph::{Along, Cut, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record};
use crate::layout::Layout;
use crate::{DType, Error, Options, Result, Tensor, shape};
use smallvec::smallvec;
use std::ops::Range;
use std::sync::Arc;

/// What happens at a place that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It takes the source's value; of several the last.
    Set,
    /// The source's values are added to it.
    Add,
}

/// Inputs x, index, source: x with the source put at `[o, index, c]`, the middle coordinate being the one of `axis`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scatter {
    pub axis: usize,
    pub mode: Mode,
    /// The index has rank 1 and serves all lines; else it has the source's shape.
    pub shared: bool,
    /// No place is named twice in a line.
    pub unique: bool,
    /// x holds the steps from `start` on of an axis of `total`; where it is a part, the other steps are passed over.
    pub start: usize,
    pub total: usize,
    pub asked: Asked,
}

/// The same of an index that was sorted along the axis: inputs x, sorted index, permutation, source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScatterSorted(Scatter);

/// Records a scatter in the form that suits the device.
pub(crate) fn scatter(op: Scatter, x: &Tensor, index: &Tensor, source: &Tensor) -> Result<Tensor> {
    let lines = Lines::new(source.dims(), op.axis);
    if x.device().is_gpu() && !op.unique && lines.count() < 4096 && lines.n > 32 {
        let (sorted, order) = index.try_sort(if op.shared { 0 } else { op.axis as isize }, false)?;
        return record(Arc::new(ScatterSorted(op)), &[x, &sorted, &order, source]);
    }
    record(Arc::new(op), &[x, index, source])
}

impl Scatter {
    fn words(&self, key: &mut Key) {
        key.add(self.axis as u64).add(self.mode as u64 | (self.shared as u64) << 1 | (self.unique as u64) << 2);
        key.add(self.start as u64).add(self.total as u64).add(self.asked.word());
    }

    fn check(&self, name: &'static str, x: &Meta, index: &Meta, source: &Meta) -> Result<Outputs> {
        let (a, b, s) = (x.shape(), index.shape(), source.shape());
        let lines_fit = a.rank() == s.rank() && (0..a.rank()).all(|k| k == self.axis || a[k] == s[k]);
        let index_fits = if self.shared { b.rank() == 1 && b[0] == s[self.axis] } else { b == s };
        if !lines_fit || !index_fits {
            let expected = match self.shared {
                true => format!("the source agrees with the tensor but for axis {}, where it has one step for each index", self.axis),
                false => format!("index and source of one shape, which agrees with the tensor's but for axis {}", self.axis),
            };
            return Err(Error::shape(name, &[a, b, s], expected));
        }
        if index.dtype != DType::I32 || x.dtype != source.dtype || (self.mode == Mode::Add && x.dtype == DType::Bool) {
            let expected = "an i32 index, and a source of the tensor's dtype (no bool where values are added)";
            return Err(Error::dtype(name, &[x.dtype, index.dtype, source.dtype], expected));
        }
        Ok(smallvec![Meta::new(x.dtype, a)])
    }

    fn grads(&self, ctx: &Vjp, index: &Tensor, source: usize) -> Result<Vec<Option<Tensor>>> {
        let dy = ctx.cotangent()?;
        let shape = ctx.inputs[source].shape();
        let like = |dtype: DType| Options { dtype, device: dy.device() };
        let mut grads: Vec<Option<Tensor>> = vec![None; ctx.inputs.len()];
        if ctx.needs[0] {
            grads[0] = Some(match self.mode {
                Mode::Add => dy.clone(),
                Mode::Set => scatter(*self, dy, index, &Tensor::try_zeros(shape, like(dy.dtype()))?)?,
            });
        }
        if ctx.needs[source] {
            let read = |t: &Tensor| match self.shared {
                true => {
                    record(Arc::new(IndexSelect { axis: self.axis, start: self.start, total: self.total, asked: self.asked }), &[t, index])
                }
                false => record(Arc::new(Gather { axis: self.axis, unique: self.unique, asked: self.asked }), &[t, index]),
            };
            let mut ds = read(dy)?;
            if self.mode == Mode::Set && !self.unique {
                // A value that a later one overwrote has no gradient: write each one's number, and see whose stayed.
                let mut line = crate::Shape::from(vec![1; shape.rank()]);
                line[self.axis] = shape[self.axis];
                let numbers = Tensor::try_arange(0, shape[self.axis], 1, like(DType::I32))?.try_reshape(line)?.try_expand(shape)?;
                let board = Tensor::try_zeros(dy.shape(), like(DType::I32))?;
                let stayed = read(&scatter(*self, &board, index, &numbers)?)?.try_eq(&numbers)?;
                ds = stayed.try_where(&ds, &Tensor::try_zeros(shape, like(dy.dtype()))?)?;
            }
            grads[source] = Some(ds);
        }
        Ok(grads)
    }

    /// Every element of a line in the order of its index; lines in parallel.
    fn walk<T: bytemuck::Pod + Send + Sync>(&self, ctx: &CpuCtx, source: usize, put: impl Fn(&mut T, T) + Sync + Send) {
        let (l, src) = (Lines::new(ctx.shape(0), self.axis), ctx.input::<T>(source));
        let n = ctx.shape(source)[self.axis];
        let out = Shared::new(output_from_input::<T>(ctx));
        if src.is_empty() {
            return;
        }
        let (index, order) = (ctx.input::<i32>(1), (source == 3).then(|| ctx.input::<i32>(2)));
        // Columns in pieces of a size that depends on the shape alone.
        let width = l.inner.div_ceil(16).next_multiple_of(16).min(l.inner);
        let pieces = l.inner.div_ceil(width);
        let place = |at: usize| {
            let i = index[at] as isize;
            if i < 0 || i >= self.total as isize {
                ctx.fault();
                return None;
            }
            (i as usize).checked_sub(self.start).filter(|&j| j < l.n)
        };
        par_each(l.outer * pieces, src.len(), |piece| {
            let (o, from) = (piece / pieces, piece % pieces * width);
            let to = (from + width).min(l.inner);
            for p in 0..n {
                let row = (o * n + p) * l.inner;
                if self.shared {
                    let k = order.map_or(p, |r| r[p] as usize);
                    let Some(j) = place(p) else { continue };
                    // SAFETY: a piece writes its own columns of its own block only.
                    let y = unsafe { out.slice((o * l.n + j) * l.inner + from, to - from) };
                    y.iter_mut().zip(&src[(o * n + k) * l.inner..][from..to]).for_each(|(y, &s)| put(y, s));
                } else {
                    for c in from..to {
                        let k = order.map_or(p, |r| r[row + c] as usize);
                        let Some(j) = place(row + c) else { continue };
                        // SAFETY: as above.
                        put(unsafe { out.at((o * l.n + j) * l.inner + c) }, src[(o * n + k) * l.inner + c]);
                    }
                }
            }
        });
    }

    fn run(&self, ctx: &CpuCtx, source: usize) -> Result<()> {
        match self.mode {
            Mode::Set => by_size!(ctx.dtype(0), T => self.walk::<T>(ctx, source, |y, s| *y = s)),
            Mode::Add => by_number!(ctx, ctx.dtype(0), T => self.walk::<T>(ctx, source, |y, s| *y = y.plus(s))),
        }
        Ok(())
    }

    /// The ways to cut: rows of the tensor first, then the axes along which the places are alike.
    fn ways(&self, inputs: &[Meta]) -> Vec<Cut> {
        let x = inputs[0].shape();
        let mut ins = vec![None; inputs.len()];
        ins[0] = Some(self.axis);
        let mut cuts = vec![Cut::new(x[self.axis], &ins, &[Along::axis(self.axis)])];
        for d in (0..x.rank()).filter(|&d| d != self.axis) {
            let mut ins = vec![if self.shared { None } else { Some(d) }; inputs.len()];
            (ins[0], ins[inputs.len() - 1]) = (Some(d), Some(d));
            cuts.push(Cut::new(x[d], &ins, &[Along::axis(d)]));
        }
        cuts
    }

    fn steps(&self, ctx: &GpuCtx, source: usize) -> GpuKernel {
        let mut kernel = GpuKernel::default();
        if ctx.numel(0) == 0 {
            return kernel;
        }
        kernel.steps.push(copy_input(ctx.numel(0)));
        let (l, n) = (Lines::new(ctx.shape(0), self.axis), ctx.shape(source)[self.axis]);
        if ctx.numel(source) == 0 {
            return kernel;
        }
        let sorted = source == 3;
        let ty = match (self.mode, ctx.inputs[0].dtype) {
            (Mode::Add, DType::F32) => "f32",
            (Mode::Add, DType::I32) => "i32",
            _ => "u32",
        };
        let mut defines = vec![("T", ty)];
        defines.extend([(self.mode == Mode::Add, "ADD"), (self.shared, "SHARED")].iter().filter(|d| d.0).map(|d| (d.1, "")));
        let text = if sorted { include_str!("../../shaders/scatter_sorted.wgsl") } else { include_str!("../../shaders/scatter.wgsl") };
        // With unique places each element has its own invocation, as if it were a line of one.
        let element = self.unique || sorted;
        if element {
            defines.push(("ELEMENT", ""));
        }
        let invocations = if element { ctx.numel(source) } else { l.count() };
        let params = vec![invocations.into(), n.into(), l.n.into(), l.inner.into(), self.start.into(), self.total.into(), Param::Fault];
        let mut bindings: Vec<_> = (1..=source).map(|i| reads(Slot::Input(i))).collect();
        bindings.extend([writes(Slot::Output(0)), writes(Slot::Fault)]);
        let step: GpuStep = each("scatter", preprocess(text, &defines), invocations, bindings, params);
        kernel.steps.push(step);
        kernel
    }
}

impl Op for Scatter {
    fn name(&self) -> &'static str {
        "scatter"
    }

    fn key(&self, key: &mut Key) {
        self.words(key);
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        self.check("scatter", inputs[0], inputs[1], inputs[2])
    }

    fn saves(&self) -> Saves {
        Saves { inputs: 0b010, outputs: 0 }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        self.grads(ctx, &ctx.inputs[1], 2)
    }

    fn donates(&self) -> &[(usize, usize)] {
        &[(0, 0)]
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        self.run(ctx, 2)
    }

    fn cuts(&self, inputs: &[Meta], _outputs: &[Meta]) -> Vec<Cut> {
        self.ways(inputs)
    }

    fn asked(&self) -> Option<Asked> {
        Some(self.asked)
    }

    fn index_range(&self, _inputs: &[&Layout]) -> Option<usize> {
        Some(self.total)
    }

    fn part(&self, cut: usize, range: &Range<usize>, _inputs: &[Meta]) -> Option<Arc<dyn Op>> {
        (cut == 0).then(|| Arc::new(Scatter { start: self.start + range.start, ..*self }) as _)
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        Ok(self.steps(ctx, 2))
    }
}

impl Op for ScatterSorted {
    fn name(&self) -> &'static str {
        "scatter_sorted"
    }

    fn key(&self, key: &mut Key) {
        self.0.words(key);
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        if inputs[1] != inputs[2] && (inputs[1].shape() != inputs[2].shape() || inputs[2].dtype != DType::I32) {
            return Err(Error::shape("scatter_sorted", &[inputs[1].shape(), inputs[2].shape()], "index and order of one shape, both i32"));
        }
        self.0.check("scatter_sorted", inputs[0], inputs[1], inputs[3])
    }

    fn saves(&self) -> Saves {
        Saves { inputs: 0b0110, outputs: 0 }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        // The index in its old order, from the sorted one: position order[p] held sorted[p].
        let (sorted, order) = (&ctx.inputs[1], &ctx.inputs[2]);
        let axis = if self.0.shared { 0 } else { self.0.axis };
        let back =
            Scatter { axis, mode: Mode::Set, shared: false, unique: true, start: 0, total: sorted.dims()[axis], asked: self.0.asked };
        let index = scatter(back, sorted, order, sorted)?;
        self.0.grads(ctx, &index, 3)
    }

    fn donates(&self) -> &[(usize, usize)] {
        &[(0, 0)]
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        self.0.run(ctx, 3)
    }

    fn cuts(&self, inputs: &[Meta], _outputs: &[Meta]) -> Vec<Cut> {
        self.0.ways(inputs)
    }

    fn asked(&self) -> Option<Asked> {
        Some(self.0.asked)
    }

    fn index_range(&self, _inputs: &[&Layout]) -> Option<usize> {
        Some(self.0.total)
    }

    fn part(&self, cut: usize, range: &Range<usize>, _inputs: &[Meta]) -> Option<Arc<dyn Op>> {
        (cut == 0).then(|| Arc::new(ScatterSorted(Scatter { start: self.0.start + range.start, ..self.0 })) as _)
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        Ok(self.0.steps(ctx, 3))
    }
}

/// `scatter` and `scatter_add`: the index may be smaller than tensor and source on any axis.
fn scattered(name: &'static str, x: &Tensor, axis: isize, index: &Tensor, source: &Tensor, mode: Mode) -> Result<Tensor> {
    let axis = shape::axis(name, axis, x.rank())?;
    let index = index_i32(name, index)?;
    let rank = x.rank();
    let fits = index.rank() == rank
        && source.rank() == rank
        && (0..rank).all(|k| index.dims()[k] <= source.dims()[k] && (k == axis || index.dims()[k] <= x.dims()[k]));
    if !fits {
        let expected = format!("one rank; the index no larger than the source, nor than the tensor on any axis but {axis}");
        return Err(Error::shape(name, &[x.shape(), index.shape(), source.shape()], expected));
    }
    if mode == Mode::Add && x.dtype() == DType::Bool {
        return Err(Error::dtype(name, &[x.dtype()], "numbers: bools cannot be added"));
    }
    let via = if mode == Mode::Add { computed(x) } else { moved(x) };
    let mut part = x.try_cast(via)?;
    let whole = part.clone();
    let mut source = source.try_cast(x.dtype())?.try_cast(via)?;
    for k in 0..rank {
        let n = index.dims()[k];
        if source.dims()[k] > n {
            source = source.try_narrow(k as isize, 0, n)?;
        }
        if k != axis && part.dims()[k] > n {
            part = part.try_narrow(k as isize, 0, n)?;
        }
    }
    let op = Scatter { axis, mode, shared: false, unique: false, start: 0, total: x.dims()[axis], asked: Asked::here(name) };
    let mut y = scatter(op, &part, &index, &source)?;
    if part.shape() != whole.shape() {
        let ranges: Vec<_> = part.dims().iter().map(|&n| 0..n).collect();
        y = whole.try_slice_assign(&ranges, &y)?;
    }
    y.try_cast(x.dtype())
}

#[fornax_derive::fallible]
impl Tensor {
    /// This tensor with `y[i, index[i, j, k], k] = source[i, j, k]` (for axis 1 of three). Where an index names a place twice, the last
    /// value stays. Index (any integer dtype) and source have the rank of this tensor; the index may be smaller than both.
    ///
    /// An index outside the axis writes nothing and makes the next read an [`Error::Index`].
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::zeros(4, Device::cpu());
    /// let i = Tensor::from_vec(vec![3, 1], 2, Device::cpu())?;
    /// let s = Tensor::from_vec(vec![7.0f32, 8.0], 2, Device::cpu())?;
    /// assert_eq!(x.scatter(0, &i, &s).to_vec::<f32>()?, [0.0, 8.0, 0.0, 7.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_scatter(&self, axis: isize, index: &Tensor, source: &Tensor) -> Result<Tensor> {
        scattered("scatter", self, axis, index, source, Mode::Set)
    }

    /// This tensor with `y[i, index[i, j, k], k] += source[i, j, k]` (for axis 1 of three), in the order of the index: the same bits each
    /// time. Otherwise as [`scatter`](Tensor::scatter).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones(3, Device::cpu());
    /// let i = Tensor::from_vec(vec![1, 1, 0], 3, Device::cpu())?;
    /// let s = Tensor::from_vec(vec![1.0f32, 2.0, 3.0], 3, Device::cpu())?;
    /// assert_eq!(x.scatter_add(0, &i, &s).to_vec::<f32>()?, [4.0, 4.0, 1.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_scatter_add(&self, axis: isize, index: &Tensor, source: &Tensor) -> Result<Tensor> {
        scattered("scatter_add", self, axis, index, source, Mode::Add)
    }

    /// This tensor with step `k` of `axis` of `source` added at step `index[k]`: the reverse of [`index_select`](Tensor::index_select). The
    /// additions keep the order of the index: the same bits each time.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::zeros([3, 2], Device::cpu());
    /// let i = Tensor::from_vec(vec![2, 0, 2], 3, Device::cpu())?;
    /// let y = x.index_add(0, &i, &Tensor::ones([3, 2], Device::cpu()));
    /// assert_eq!(y.to_vec::<f32>()?, [1.0, 1.0, 0.0, 0.0, 2.0, 2.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_index_add(&self, axis: isize, index: &Tensor, source: &Tensor) -> Result<Tensor> {
        let axis = shape::axis("index_add", axis, self.rank())?;
        let index = index_i32("index_add", index)?;
        if self.dtype() == DType::Bool {
            return Err(Error::dtype("index_add", &[self.dtype()], "numbers: bools cannot be added"));
        }
        let via = computed(self);
        let source = source.try_cast(self.dtype())?.try_cast(via)?;
        let op = Scatter {
            axis,
            mode: Mode::Add,
            shared: true,
            unique: false,
            start: 0,
            total: self.dims()[axis],
            asked: Asked::here("index_add"),
        };
        if source.rank() != self.rank() {
            let expected = "the source has the tensor's rank";
            return Err(Error::shape("index_add", &[self.shape(), index.shape(), source.shape()], expected));
        }
        scatter(op, &self.try_cast(via)?, &index, &source)?.try_cast(self.dtype())
    }
}

#[cfg(test)]
mod tests {
    use super::super::movement::testing::*;
    use super::*;

    /// What the kernels should give, by the definition.
    fn naive(op: &Scatter, x: &[f32], shape: &[usize], index: &[i32], src: &[f32], n: usize) -> Vec<f32> {
        let l = Lines::new(shape, op.axis);
        let mut y = x.to_vec();
        for o in 0..l.outer {
            for k in 0..n {
                for c in 0..l.inner {
                    let e = (o * n + k) * l.inner + c;
                    let j = index[if op.shared { k } else { e }] as usize;
                    let at = (o * l.n + j) * l.inner + c;
                    y[at] = if op.mode == Mode::Add { y[at] + src[e] } else { src[e] };
                }
            }
        }
        y
    }

    #[test]
    fn scatters_along_every_axis() {
        for (shape, axis) in SHAPES {
            for (mode, shared) in [(Mode::Add, false), (Mode::Set, false), (Mode::Add, true), (Mode::Set, true)] {
                for n in [0, 1, 6] {
                    let l = Lines::new(&shape, axis);
                    let mut s = shape;
                    s[axis] = n;
                    let op = Scatter { axis, mode, shared, unique: false, start: 0, total: l.n, asked: Asked::here("scatter") };
                    let (x, src) = (numbers(shape.iter().product()), numbers(s.iter().product()));
                    let index = indices(if shared { n } else { src.len() }, l.n);
                    let iv = if shared { value(&index, n) } else { value(&index, s) };
                    let got = run1::<f32>(&op, &[&value(&x, shape), &iv, &value(&src, s)]);
                    let expected = naive(&op, &x, &shape, &index, &src, n);
                    assert!(got == expected, "{shape:?} {axis} {mode:?} {shared} {n}");
                    // The same of a sorted index.
                    let count = if shared { 1 } else { l.count() };
                    let stride = if shared { 1 } else { l.inner };
                    let (mut sorted, mut order) = (index.clone(), vec![0; index.len()]);
                    for line in 0..if n == 0 { 0 } else { count } {
                        let base = line / stride * n * stride + line % stride;
                        let mut pairs: Vec<(i32, i32)> = (0..n).map(|k| (index[base + k * stride], k as i32)).collect();
                        pairs.sort();
                        for (k, p) in pairs.iter().enumerate() {
                            (sorted[base + k * stride], order[base + k * stride]) = *p;
                        }
                    }
                    let is = iv.meta.shape().clone();
                    let inputs = [&value(&x, shape), &value(&sorted, &is), &value(&order, &is), &value(&src, s)];
                    assert!(run1::<f32>(&ScatterSorted(op), &inputs) == expected, "sorted {shape:?} {axis} {mode:?} {shared} {n}");
                }
            }
        }
    }

    #[test]
    fn bad_indices_write_nothing_and_fault() {
        let op = Scatter { axis: 0, mode: Mode::Add, shared: false, unique: false, start: 0, total: 2, asked: Asked::here("scatter") };
        let inputs = [&value(&[1.0f64, 2.0], 2), &value(&[-1, 2, 1], 3), &value(&[1.0f64, 1.0, 5.0], 3)];
        let (outs, fault) = run(&op, &inputs).unwrap();
        assert!(fault);
        assert_eq!(outs[0].get::<f64>(), [1.0, 7.0]);
    }

    #[test]
    fn every_shader_is_valid() {
        for dtype in [DType::F32, DType::I32, DType::U32] {
            for (mode, shared, unique) in
                [(Mode::Add, false, false), (Mode::Set, true, false), (Mode::Set, false, true), (Mode::Add, true, false)]
            {
                let op = Scatter { axis: 1, mode, shared, unique, start: 0, total: 9, asked: Asked::here("scatter") };
                let (x, s) = (Meta::new(dtype, [4, 9, 3]), Meta::new(dtype, [4, 5, 3]));
                let i = if shared { Meta::new(DType::I32, 5) } else { Meta::new(DType::I32, [4, 5, 3]) };
                validate(&op, &[x.clone(), i.clone(), s.clone()], std::slice::from_ref(&x));
                validate(&ScatterSorted(op), &[x.clone(), i.clone(), i, s], &[x]);
            }
        }
    }
}

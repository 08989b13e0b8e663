//! The methods that give views: reshape, permute, expand, slice and what is made of them.

use super::pointwise::{Arg, CAST, Pointwise};
use super::view::{Expand, Permute, Reshape, Slice, SliceSpec, Windows, python_slice};
use crate::graph::record;
use crate::shape::axis as resolve;
use crate::{Error, Result, Shape, Tensor};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

#[fornax_derive::fallible]
impl Tensor {
    /// The same elements, in row-major order, in another shape. Free where the strides allow it, else a copy.
    ///
    /// # Errors
    /// `Error::Shape` where the number of elements differs.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::arange(0, 6, 1, Device::cpu());
    /// assert_eq!(x.reshape([2, 3]).dims(), [2, 3]);
    /// ```
    pub fn try_reshape(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        if shape == *self.shape() {
            return Ok(self.clone());
        }
        let fits = shape.checked_numel()? == self.numel();
        if fits && self.layout().reshape(&shape).is_none() {
            return record(Arc::new(Reshape { shape }), &[&self.try_contiguous()?]);
        }
        record(Arc::new(Reshape { shape }), &[self])
    }

    /// The same values, row-major and without gaps: a copy where they do not lie so already. No op needs that of its user.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1, 2, 3, 4], [2, 2], Device::cpu())?;
    /// assert_eq!(x.t().contiguous().to_vec::<i32>()?, [1, 3, 2, 4]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_contiguous(&self) -> Result<Tensor> {
        if self.layout().is_contiguous() {
            return Ok(self.clone());
        }
        // A conversion to the same dtype: a pointwise op, so that the copy fuses with its neighbours.
        let (dtype, out) = (self.dtype().compute(), self.dtype());
        let args = smallvec![Arg::Input(0)];
        let op = Pointwise { row: &CAST, args, scalars: SmallVec::new(), dtype, out, shape: None };
        record(Arc::new(op), &[self])
    }

    /// As `reshape`, with one size of -1 that is computed from the others.
    ///
    /// # Errors
    /// `Error::Argument` for two -1 or another negative size, `Error::Shape` where no size fits.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([4, 6], Device::cpu());
    /// assert_eq!(x.reshape_infer(&[-1, 8]).dims(), [3, 8]);
    /// ```
    pub fn try_reshape_infer(&self, shape: &[isize]) -> Result<Tensor> {
        if shape.iter().any(|&d| d < -1) || shape.iter().filter(|&&d| d == -1).count() > 1 {
            return Err(Error::argument("reshape", format!("sizes {shape:?}: at most one may be -1, the others not negative")));
        }
        let known: Shape = shape.iter().filter(|&&d| d >= 0).map(|&d| d as usize).collect();
        let product = known.checked_numel()?;
        let free = self.numel().checked_div(product).unwrap_or(0);
        if shape.contains(&-1) && (product == 0 || !self.numel().is_multiple_of(product)) {
            let expected = format!("the sizes {shape:?} must divide {} elements", self.numel());
            return Err(Error::shape("reshape", &[self.shape()], expected));
        }
        self.try_reshape(shape.iter().map(|&d| if d < 0 { free } else { d as usize }).collect::<Shape>())
    }

    /// Merges the axes from `start` to `end`, both included, into one. A scalar becomes a vector of one element.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([2, 3, 4, 5], Device::cpu());
    /// assert_eq!(x.flatten(1, -1).dims(), [2, 60]);
    /// ```
    pub fn try_flatten(&self, start: isize, end: isize) -> Result<Tensor> {
        let rank = self.rank().max(1);
        let (a, b) = (resolve("flatten", start, rank)?, resolve("flatten", end, rank)?);
        if self.rank() == 0 {
            return self.try_reshape(1);
        }
        if a > b {
            return Err(Error::argument("flatten", format!("the axes run from {start} to {end}: the first must not come after the last")));
        }
        let d = self.dims();
        let merged = d[a..=b].iter().product();
        self.try_reshape(d[..a].iter().copied().chain([merged]).chain(d[b + 1..].iter().copied()).collect::<Shape>())
    }

    /// Reorders the axes: axis `k` of the result is axis `order[k]`.
    ///
    /// # Errors
    /// `Error::Argument` where `order` does not name each axis once.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([2, 3, 4], Device::cpu());
    /// assert_eq!(x.permute(&[2, 0, 1]).dims(), [4, 2, 3]);
    /// ```
    pub fn try_permute(&self, order: &[isize]) -> Result<Tensor> {
        let rank = self.rank();
        let list: SmallVec<[usize; 6]> = order.iter().map(|&a| resolve("permute", a, rank)).collect::<Result<_>>()?;
        if list.len() != rank || (0..rank).any(|a| !list.contains(&a)) {
            return Err(Error::argument("permute", format!("{order:?} must name each of the {rank} axes of {} once", self.shape())));
        }
        if list.iter().enumerate().all(|(i, &a)| i == a) {
            return Ok(self.clone());
        }
        record(Arc::new(Permute { order: list }), &[self])
    }

    /// Swaps two axes.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([2, 3, 4], Device::cpu());
    /// assert_eq!(x.transpose(-1, -2).dims(), [2, 4, 3]);
    /// ```
    pub fn try_transpose(&self, a: isize, b: isize) -> Result<Tensor> {
        let rank = self.rank();
        let (a, b) = (resolve("transpose", a, rank)?, resolve("transpose", b, rank)?);
        let mut order: SmallVec<[isize; 6]> = (0..rank as isize).collect();
        order.swap(a, b);
        self.try_permute(&order)
    }

    /// As `transpose` (NumPy's name).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// assert_eq!(Tensor::ones([2, 3, 4], Device::cpu()).swapaxes(0, -1).dims(), [4, 3, 2]);
    /// ```
    pub fn try_swapaxes(&self, a: isize, b: isize) -> Result<Tensor> {
        self.try_transpose(a, b)
    }

    /// The transpose of a matrix; a vector or a scalar stays as it is.
    ///
    /// # Errors
    /// `Error::Shape` for more than two axes.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// assert_eq!(Tensor::ones([2, 3], Device::cpu()).t().dims(), [3, 2]);
    /// ```
    pub fn try_t(&self) -> Result<Tensor> {
        match self.rank() {
            0 | 1 => Ok(self.clone()),
            2 => self.try_transpose(0, 1),
            _ => Err(Error::shape("t", &[self.shape()], "at most two axes: use transpose(a, b) for more")),
        }
    }

    /// Moves one axis to another place; the others keep their order.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([2, 3, 4], Device::cpu());
    /// assert_eq!(x.movedim(0, -1).dims(), [3, 4, 2]);
    /// ```
    pub fn try_movedim(&self, from: isize, to: isize) -> Result<Tensor> {
        let rank = self.rank();
        let (from, to) = (resolve("movedim", from, rank)?, resolve("movedim", to, rank)?);
        let mut order: SmallVec<[isize; 6]> = (0..rank as isize).filter(|&a| a as usize != from).collect();
        order.insert(to, from as isize);
        self.try_permute(&order)
    }

    /// Broadcasts to a shape by NumPy's rule: axes of size 1 stretch, missing axes are added in front. Nothing is copied.
    ///
    /// # Errors
    /// `Error::Shape` where an axis has neither the new size nor 1.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([3, 1], Device::cpu());
    /// assert_eq!(x.expand([2, 3, 4]).dims(), [2, 3, 4]);
    /// ```
    pub fn try_expand(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        if shape == *self.shape() {
            return Ok(self.clone());
        }
        record(Arc::new(Expand { shape }), &[self])
    }

    /// As `expand` (NumPy's name).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// assert_eq!(Tensor::ones([3, 1], Device::cpu()).broadcast_to([2, 3, 4]).dims(), [2, 3, 4]);
    /// ```
    pub fn try_broadcast_to(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        self.try_expand(shape)
    }

    /// Inserts an axis of size 1; -1 puts it last.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([2, 3], Device::cpu());
    /// assert_eq!(x.unsqueeze(1).dims(), [2, 1, 3]);
    /// assert_eq!(x.unsqueeze(-1).dims(), [2, 3, 1]);
    /// ```
    pub fn try_unsqueeze(&self, axis: isize) -> Result<Tensor> {
        let mut shape = self.shape().clone();
        shape.insert(resolve("unsqueeze", axis, self.rank() + 1)?, 1);
        self.try_reshape(shape)
    }

    /// Removes the named axes where their size is 1 (the others stay, as in PyTorch); `()` removes all axes of size 1.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([1, 3, 1], Device::cpu());
    /// assert_eq!(x.squeeze(()).dims(), [3]);
    /// assert_eq!(x.squeeze(0).dims(), [3, 1]);
    /// ```
    pub fn try_squeeze(&self, axes: impl Into<crate::Axes>) -> Result<Tensor> {
        let axes = crate::shape::axes("squeeze", &axes.into().0, self.rank())?;
        let keep = |a: &usize| self.dims()[*a] != 1 || !axes.contains(a);
        self.try_reshape((0..self.rank()).filter(keep).map(|a| self.dims()[a]).collect::<Shape>())
    }

    /// Python's `start:end:step` along one axis: negative positions count from the end, positions outside are clamped, a negative step
    /// walks backward. `isize::MAX` and `isize::MIN` stand for an open end.
    ///
    /// # Errors
    /// `Error::Argument` where `step` is 0.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::arange(0, 6, 1, Device::cpu());
    /// assert_eq!(x.slice(0, 1, -1, 2).to_vec::<f32>()?, [1.0, 3.0]);
    /// assert_eq!(x.slice(0, -1, isize::MIN, -2).to_vec::<f32>()?, [5.0, 3.0, 1.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_slice(&self, axis: isize, start: isize, end: isize, step: isize) -> Result<Tensor> {
        let a = resolve("slice", axis, self.rank())?;
        if step == 0 {
            return Err(Error::argument("slice", "the step is 0: give a positive or negative one"));
        }
        let (start, len) = python_slice(self.dims()[a], start, end, step);
        Slice::record(self, SliceSpec::full(self.shape()).with(a, start, step, len))
    }

    /// `len` positions of an axis from `start` on.
    ///
    /// # Errors
    /// `Error::Index` where they reach past the axis.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([5, 2], Device::cpu());
    /// assert_eq!(x.narrow(0, 1, 3).dims(), [3, 2]);
    /// ```
    pub fn try_narrow(&self, axis: isize, start: usize, len: usize) -> Result<Tensor> {
        let a = resolve("narrow", axis, self.rank())?;
        let size = self.dims()[a];
        if start.checked_add(len).is_none_or(|end| end > size) {
            let message = format!("positions {start}..{} of axis {axis} of {}: it has {size}", start.saturating_add(len), self.shape());
            return Err(Error::Index { op: "narrow", message });
        }
        Slice::record(self, SliceSpec::full(self.shape()).with(a, start, 1, len))
    }

    /// One position of an axis, which disappears. A negative index counts from the end.
    ///
    /// # Errors
    /// `Error::Index` where there is no such position.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::arange(0, 6, 1, Device::cpu()).reshape([2, 3]);
    /// assert_eq!(x.select(1, -1).to_vec::<f32>()?, [2.0, 5.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_select(&self, axis: isize, index: isize) -> Result<Tensor> {
        let a = resolve("select", axis, self.rank())?;
        let size = self.dims()[a];
        let i = if index < 0 { index + size as isize } else { index };
        if i < 0 || i >= size as isize {
            let message = format!("index {index} is out of range for axis {axis} of {} (size {size})", self.shape());
            return Err(Error::Index { op: "select", message });
        }
        let mut shape = self.shape().clone();
        shape.remove(a);
        self.try_narrow(a as isize, i as usize, 1)?.try_reshape(shape)
    }

    /// Cuts an axis into parts of the given sizes.
    ///
    /// # Errors
    /// `Error::Argument` where the sizes do not add up to the axis.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let parts = Tensor::ones([5, 2], Device::cpu()).split([2, 3], 0);
    /// assert_eq!(parts[1].dims(), [3, 2]);
    /// ```
    pub fn try_split(&self, sizes: impl AsRef<[usize]>, axis: isize) -> Result<Vec<Tensor>> {
        let sizes = sizes.as_ref();
        let size = self.dims()[resolve("split", axis, self.rank())?];
        if sizes.iter().try_fold(0usize, |sum, &s| sum.checked_add(s)) != Some(size) {
            return Err(Error::argument(
                "split",
                format!("sizes {sizes:?} must add up to {size}, the size of axis {axis} of {}", self.shape()),
            ));
        }
        let ends = sizes.iter().scan(0, |end, &s| {
            *end += s;
            Some(*end)
        });
        ends.zip(sizes).map(|(end, &s)| self.try_narrow(axis, end - s, s)).collect()
    }

    /// Cuts an axis into at most `n` parts of one size, the last one possibly smaller.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let parts = Tensor::ones([7], Device::cpu()).chunk(3, 0);
    /// assert_eq!(parts.iter().map(|p| p.dims()[0]).collect::<Vec<_>>(), [3, 3, 1]);
    /// ```
    pub fn try_chunk(&self, n: usize, axis: isize) -> Result<Vec<Tensor>> {
        let size = self.dims()[resolve("chunk", axis, self.rank())?];
        if n == 0 {
            return Err(Error::argument("chunk", "0 parts: ask for at least one"));
        }
        let part = size.div_ceil(n).max(1);
        let sizes: Vec<usize> = (0..size.div_ceil(part).max(1)).map(|i| part.min(size - i * part)).collect();
        self.try_split(sizes, axis)
    }

    /// The positions of an axis, as tensors without that axis.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let rows = Tensor::ones([3, 4], Device::cpu()).unbind(0);
    /// assert_eq!((rows.len(), rows[0].rank()), (3, 1));
    /// ```
    pub fn try_unbind(&self, axis: isize) -> Result<Vec<Tensor>> {
        let size = self.dims()[resolve("unbind", axis, self.rank())?];
        (0..size as isize).map(|i| self.try_select(axis, i)).collect()
    }

    /// Overlapping windows without a copy: `axis` becomes two, the window's position `p` and the place `k` in it; the element is the old
    /// one at `p·step + k·dilation`. There are `(n − (size − 1)·dilation − 1) / step + 1` windows, none where the axis is too short.
    ///
    /// # Errors
    /// `Error::Argument` where `size`, `step` or `dilation` is 0.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::arange(0, 5, 1, Device::cpu());
    /// let w = x.windows(0, 3, 2, 1);
    /// assert_eq!(w.dims(), [2, 3]);
    /// assert_eq!(w.to_vec::<f32>()?, [0.0, 1.0, 2.0, 2.0, 3.0, 4.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_windows(&self, axis: isize, size: usize, step: usize, dilation: usize) -> Result<Tensor> {
        let a = resolve("windows", axis, self.rank())?;
        let reach = size.checked_sub(1).and_then(|s| s.checked_mul(dilation)).filter(|&r| r < isize::MAX as usize / 2);
        let (Some(_), 1.., 1..) = (reach, step, dilation) else {
            let message = format!("size {size}, step {step}, dilation {dilation}: each must be at least 1, the reach addressable");
            return Err(Error::argument("windows", message));
        };
        // Where there is but one window, or one place, the stride does not matter: small values cannot overflow.
        let n = self.dims()[a].max(1);
        let op = Windows { axis: a, size, step: step.min(n), dilation: if size == 1 { 1 } else { dilation } };
        if reach.is_some_and(|r| r >= n) {
            // Too short for one window: nothing is read, so no stride may be computed from the sizes.
            let mut shape = self.shape().clone();
            shape[a] = 0;
            shape.insert(a + 1, size);
            shape.checked_numel()?;
            return self.try_narrow(axis, 0, 0)?.try_reshape(shape);
        }
        record(Arc::new(op), &[self])
    }

    /// Reverses the given axes; `()` reverses all.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::arange(0, 3, 1, Device::cpu());
    /// assert_eq!(x.flip(0).to_vec::<f32>()?, [2.0, 1.0, 0.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_flip(&self, axes: impl Into<crate::Axes>) -> Result<Tensor> {
        let mut spec = SliceSpec::full(self.shape());
        for a in crate::shape::axes("flip", &axes.into().0, self.rank())? {
            let n = self.dims()[a];
            spec = spec.with(a, n.saturating_sub(1), -1, n);
        }
        Slice::record(self, spec)
    }

    /// Repeats the whole tensor `repeats[k]` times along axis `k`; more repeats than axes add axes in front.
    ///
    /// # Errors
    /// `Error::Argument` where there are fewer repeats than axes (`tile` allows that).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::arange(0, 2, 1, Device::cpu());
    /// assert_eq!(x.repeat(&[2, 2]).to_vec::<f32>()?, [0., 1., 0., 1., 0., 1., 0., 1.]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_repeat(&self, repeats: &[usize]) -> Result<Tensor> {
        let Some(lead) = repeats.len().checked_sub(self.rank()) else {
            let message = format!("{repeats:?} must have a number for each axis of {}; tile allows fewer", self.shape());
            return Err(Error::argument("repeat", message));
        };
        let dims: Shape = std::iter::repeat_n(1, lead).chain(self.dims().iter().copied()).collect();
        let ones: Shape = dims.iter().flat_map(|&d| [1, d]).collect();
        let wide: Shape = dims.iter().zip(repeats).flat_map(|(&d, &r)| [r, d]).collect();
        wide.checked_numel()?;
        let shape: Shape = dims.iter().zip(repeats).map(|(&d, &r)| d * r).collect();
        self.try_reshape(ones)?.try_expand(wide)?.try_reshape(shape)
    }

    /// NumPy's `tile`: as `repeat`, with 1 for missing repeats in front.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([2, 3], Device::cpu());
    /// assert_eq!(x.tile(&[2]).dims(), [2, 6]);
    /// ```
    pub fn try_tile(&self, repeats: &[usize]) -> Result<Tensor> {
        let missing = self.rank().saturating_sub(repeats.len());
        self.try_repeat(&std::iter::repeat_n(1, missing).chain(repeats.iter().copied()).collect::<Vec<_>>())
    }

    /// Joins tensors of one shape along a new axis.
    ///
    /// # Errors
    /// `Error::Shape` where the shapes differ, `Error::Argument` for an empty list.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([2, 3], Device::cpu());
    /// assert_eq!(Tensor::stack(&[&x, &x], 1).dims(), [2, 2, 3]);
    /// ```
    pub fn try_stack(tensors: &[&Tensor], axis: isize) -> Result<Tensor> {
        let Some(first) = tensors.first() else {
            return Err(Error::argument("stack", "needs at least one tensor"));
        };
        let at = resolve("stack", axis, first.rank() + 1)? as isize;
        if let Some(other) = tensors.iter().find(|t| t.shape() != first.shape()) {
            return Err(Error::shape("stack", &[first.shape(), other.shape()], "all tensors must have one shape"));
        }
        let parts = tensors.iter().map(|t| t.try_unsqueeze(at)).collect::<Result<Vec<_>>>()?;
        Tensor::try_cat(&parts.iter().collect::<Vec<_>>(), at)
    }

    /// Shifts the elements of an axis by `shift` places toward its end; what leaves there comes in at its start.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::arange(0, 4, 1, Device::cpu());
    /// assert_eq!(x.roll(1, 0).to_vec::<f32>()?, [3.0, 0.0, 1.0, 2.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_roll(&self, shift: isize, axis: isize) -> Result<Tensor> {
        let n = self.dims()[resolve("roll", axis, self.rank())?];
        if n == 0 || shift % n as isize == 0 {
            return Ok(self.clone());
        }
        let cut = n - shift.rem_euclid(n as isize) as usize;
        Tensor::try_cat(&[&self.try_narrow(axis, cut, n - cut)?, &self.try_narrow(axis, 0, cut)?], axis)
    }

    /// The diagonal of two axes, as the last axis of the result: elements (i, i + `offset`). A view where the strides allow it.
    ///
    /// # Errors
    /// `Error::Argument` where the axes are the same.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::arange(0, 9, 1, Device::cpu()).reshape([3, 3]);
    /// assert_eq!(x.diagonal(0, 0, 1).to_vec::<f32>()?, [0.0, 4.0, 8.0]);
    /// assert_eq!(x.diagonal(1, 0, 1).to_vec::<f32>()?, [1.0, 5.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_diagonal(&self, offset: isize, axis1: isize, axis2: isize) -> Result<Tensor> {
        let rank = self.rank();
        let (a, b) = (resolve("diagonal", axis1, rank)?, resolve("diagonal", axis2, rank)?);
        if a == b {
            return Err(Error::argument("diagonal", format!("axes {axis1} and {axis2} are the same: a diagonal runs through two")));
        }
        let (rows, columns) = (self.dims()[a], self.dims()[b]);
        let (row, column) = if offset < 0 { (offset.unsigned_abs(), 0) } else { (0, offset as usize) };
        let len = rows.saturating_sub(row).min(columns.saturating_sub(column));
        let mut order: SmallVec<[isize; 6]> = (0..rank).filter(|&k| k != a && k != b).map(|k| k as isize).collect();
        let mut shape: Shape = order.iter().map(|&k| self.dims()[k as usize]).collect();
        order.extend([a as isize, b as isize]);
        shape.push(rows * columns);
        let flat = self.try_permute(&order)?.try_reshape(shape)?;
        let start = if len == 0 { 0 } else { row * columns + column };
        let spec = SliceSpec::full(flat.shape()).with(rank - 2, start, columns as isize + 1, len);
        Slice::record(&flat, spec)
    }
}

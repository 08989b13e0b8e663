//! Indexing by NumPy's rules: ranges with steps, negative numbers, new axes, an ellipsis, masks and index tensors.

use crate::graph::asked::asked;
use crate::ops::movement::narrowed;
use crate::ops::view::{Slice, SliceSpec, python_slice};
use crate::{DType, Error, Result, Shape, Tensor};
use smallvec::SmallVec;
use std::ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

/// One item of an index list; made by [`s!`](crate::s) from numbers, ranges and tensors.
///
/// ```
/// use fornax::{Device, Index, Tensor, s};
/// let x = Tensor::arange(0, 6, 1, Device::cpu()).reshape([2, 3]);
/// assert_eq!(x.index(s![1, ..;2]).to_vec::<f32>()?, [3.0, 5.0]);
/// assert_eq!(x.index([Index::At(-1), Index::from(1..)]).to_vec::<f32>()?, [4.0, 5.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Index {
    /// One position, negative from the end; the axis disappears.
    At(isize),
    /// Python's `start:end:step`.
    Range(Span),
    /// Inserts an axis of size 1.
    NewAxis,
    /// All axes that the other items leave.
    Ellipsis,
    /// Integers: positions, negative from the end, broadcast with the other index tensors. Booleans: a mask over as many axes as it has.
    Tensor(Tensor),
}

/// A range of positions with a step.
///
/// ```
/// use fornax::{Device, Index, Span, Tensor};
/// let span = Span::from(1..3);
/// let x = Tensor::arange(0, 5, 1, Device::cpu());
/// assert_eq!(x.index([Index::Range(span)]).to_vec::<f32>()?, [1.0, 2.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: Option<isize>,
    end: Option<isize>,
    inclusive: bool,
    step: isize,
}

impl Span {
    /// First position and number of positions on an axis of `size`.
    fn on(self, size: usize) -> Result<(usize, usize)> {
        if self.step == 0 {
            return Err(Error::argument("index", "the step is 0: give a positive or negative one"));
        }
        let forward = self.step > 0;
        let (first, last) = if forward { (0, isize::MAX) } else { (isize::MAX, isize::MIN) };
        let end = match self.end {
            None => last,
            Some(-1) if self.inclusive && forward => last,
            Some(0) if self.inclusive && !forward => last,
            Some(e) if self.inclusive => e.saturating_add(self.step.signum()),
            Some(e) => e,
        };
        Ok(python_slice(size, self.start.unwrap_or(first), end, self.step))
    }
}

impl Index {
    /// What `range;step` means in [`s!`](crate::s).
    #[doc(hidden)]
    pub fn stepped(range: impl Into<Span>, step: isize) -> Index {
        Index::Range(Span { step, ..range.into() })
    }

    /// Fixes the type of a list that may be empty.
    #[doc(hidden)]
    pub fn list<const N: usize>(items: [Index; N]) -> [Index; N] {
        items
    }
}

impl From<Span> for Index {
    fn from(s: Span) -> Index {
        Index::Range(s)
    }
}

macro_rules! spans {
    ($($range:ty => |$r:ident| $start:expr, $end:expr, $inclusive:expr;)*) => { $(
        impl From<$range> for Span {
            fn from($r: $range) -> Span {
                Span { start: $start, end: $end, inclusive: $inclusive, step: 1 }
            }
        }
        impl From<$range> for Index {
            fn from(r: $range) -> Index {
                Index::Range(r.into())
            }
        }
    )* };
}
spans! { RangeFull => |_r| None, None, false; }
macro_rules! numbers {
    ($($t:ty),*) => { $(
        impl From<$t> for Index {
            fn from(i: $t) -> Index {
                Index::At(clamp(i))
            }
        }
        spans! {
            Range<$t> => |r| Some(clamp(r.start)), Some(clamp(r.end)), false;
            RangeInclusive<$t> => |r| Some(clamp(*r.start())), Some(clamp(*r.end())), true;
            RangeFrom<$t> => |r| Some(clamp(r.start)), None, false;
            RangeTo<$t> => |r| None, Some(clamp(r.end)), false;
            RangeToInclusive<$t> => |r| None, Some(clamp(r.end)), true;
        }
    )* };
}
numbers!(i32, i64, isize, usize, u32);

/// A number as a position: what no axis can hold saturates.
fn clamp<T: TryInto<isize>>(i: T) -> isize {
    i.try_into().unwrap_or(isize::MAX)
}

impl From<&Tensor> for Index {
    fn from(t: &Tensor) -> Index {
        Index::Tensor(t.clone())
    }
}
impl From<Tensor> for Index {
    fn from(t: Tensor) -> Index {
        Index::Tensor(t)
    }
}

/// A list of indices for [`Tensor::index`](crate::Tensor::index), written almost as in NumPy.
///
/// | here | NumPy | meaning |
/// |---|---|---|
/// | `3`, `-1`, `i` | `3`, `-1`, `i` | one position; the axis disappears |
/// | `1..4`, `..`, `1..=3` | `1:4`, `:`, | a range |
/// | `..;2`, `5..1;-1` | `::2`, `5:1:-1` | a range with a step |
/// | `...` | `...` | the axes that the others leave |
/// | `NewAxis` | `None` | a new axis of size 1 |
/// | `&mask` | `mask` | where a bool tensor is true |
/// | `&ids` | `ids` | the positions that an integer tensor names |
///
/// ```
/// use fornax::{s, Device, Tensor};
/// let x = Tensor::arange(0, 24, 1, Device::cpu()).reshape([2, 3, 4]);
/// assert_eq!(x.index(s![1, .., -1]).to_vec::<f32>()?, [15.0, 19.0, 23.0]);
/// assert_eq!(x.index(s![..., ..;2]).dims(), [2, 3, 2]);
/// assert_eq!(x.index(s![NewAxis, 0]).dims(), [1, 3, 4]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[macro_export]
macro_rules! s {
    (@ [$($d:tt)*]) => { $crate::Index::list([$($d)*]) };
    (@ [$($d:tt)*] ...) => { $crate::s!(@ [$($d)* $crate::Index::Ellipsis,]) };
    (@ [$($d:tt)*] ..., $($r:tt)*) => { $crate::s!(@ [$($d)* $crate::Index::Ellipsis,] $($r)*) };
    (@ [$($d:tt)*] NewAxis) => { $crate::s!(@ [$($d)* $crate::Index::NewAxis,]) };
    (@ [$($d:tt)*] NewAxis, $($r:tt)*) => { $crate::s!(@ [$($d)* $crate::Index::NewAxis,] $($r)*) };
    (@ [$($d:tt)*] $e:expr ; $s:expr) => { $crate::s!(@ [$($d)* $crate::Index::stepped($e, $s),]) };
    (@ [$($d:tt)*] $e:expr ; $s:expr, $($r:tt)*) => { $crate::s!(@ [$($d)* $crate::Index::stepped($e, $s),] $($r)*) };
    (@ [$($d:tt)*] $e:expr) => { $crate::s!(@ [$($d)* $crate::Index::from($e),]) };
    (@ [$($d:tt)*] $e:expr, $($r:tt)*) => { $crate::s!(@ [$($d)* $crate::Index::from($e),] $($r)*) };
    ($($t:tt)*) => { $crate::s!(@ [] $($t)*) };
}

/// An index list applied to a tensor: the basic part is a view, the index tensors are left to gather with.
struct Resolved {
    /// What the basic items take of the tensor.
    spec: SliceSpec,
    /// The view's shape: without the axes of single positions, with the new ones.
    shape: Shape,
    /// Axes of the view and the index tensors on them, in order.
    gather: Vec<(usize, Tensor)>,
    /// The index tensors are not next to each other: their axes come first in the result.
    front: bool,
}

fn resolve(x: &Tensor, items: &[Index]) -> Result<Resolved> {
    let used: usize = items
        .iter()
        .map(|i| match i {
            Index::At(_) | Index::Range(_) => 1,
            Index::NewAxis | Index::Ellipsis => 0,
            Index::Tensor(t) if t.dtype() == DType::Bool => t.rank(),
            Index::Tensor(_) => 1,
        })
        .sum();
    let Some(rest) = x.rank().checked_sub(used) else {
        let message = format!("{used} axes are indexed, and {} has {}", x.shape(), x.rank());
        return Err(Error::Index { op: "index", message });
    };
    if items.iter().filter(|i| matches!(i, Index::Ellipsis)).count() > 1 {
        return Err(Error::argument("index", "two ellipses: at most one can stand for all axes that are left"));
    }
    let mut r = Resolved { spec: SliceSpec::full(x.shape()), shape: Shape::default(), gather: Vec::new(), front: false };
    let mut axis = 0;
    let mut advanced: Vec<usize> = Vec::new();
    for (place, item) in items.iter().enumerate() {
        match item {
            Index::At(i) => {
                let size = x.dims()[axis];
                let at = if *i < 0 { i.saturating_add(size as isize) } else { *i };
                if at < 0 || at >= size as isize {
                    let message = format!("index {i} is out of range for axis {axis} of {} (size {size})", x.shape());
                    return Err(Error::Index { op: "index", message });
                }
                r.spec = r.spec.with(axis, at as usize, 1, 1);
                axis += 1;
                advanced.push(place);
            }
            Index::Range(span) => {
                let (start, len) = span.on(x.dims()[axis])?;
                r.spec = r.spec.with(axis, start, span.step, len);
                r.shape.push(len);
                axis += 1;
            }
            Index::NewAxis => r.shape.push(1),
            Index::Ellipsis => {
                x.dims()[axis..axis + rest].iter().for_each(|&d| r.shape.push(d));
                axis += rest;
            }
            Index::Tensor(t) if t.dtype() == DType::Bool => {
                let n = t.rank();
                if n == 0 || t.dims() != &x.dims()[axis..axis + n] {
                    let expected =
                        format!("the mask must have the sizes of the axes from {axis} on that it selects from, and at least one");
                    return Err(Error::shape("index", &[t.shape(), x.shape()], expected));
                }
                for (k, found) in true_positions(t)?.into_iter().enumerate() {
                    r.gather.push((r.shape.rank(), found));
                    r.shape.push(x.dims()[axis + k]);
                }
                axis += n;
                advanced.push(place);
            }
            Index::Tensor(t) => {
                if !t.dtype().is_int() {
                    return Err(Error::dtype("index", &[t.dtype()], "an index tensor has an integer dtype, a mask bool"));
                }
                r.gather.push((r.shape.rank(), t.clone()));
                r.shape.push(x.dims()[axis]);
                axis += 1;
                advanced.push(place);
            }
        }
    }
    x.dims()[axis..].iter().for_each(|&d| r.shape.push(d));
    r.front = !r.gather.is_empty() && advanced.windows(2).any(|w| w[1] != w[0] + 1);
    Ok(r)
}

/// Where a mask is true: for each axis the positions, in row-major order. Evaluates the mask.
fn true_positions(mask: &Tensor) -> Result<Vec<Tensor>> {
    let values = mask.to_vec::<bool>()?;
    let mut lists: Vec<Vec<i32>> = vec![Vec::new(); mask.rank()];
    for (mut at, _) in values.iter().enumerate().filter(|(_, v)| **v) {
        for (list, &size) in lists.iter_mut().zip(mask.dims()).rev() {
            list.push((at % size) as i32);
            at /= size;
        }
    }
    lists.into_iter().map(|l| Tensor::from_slice(&l, l.len(), mask.device())).collect()
}

/// Positions on an axis of `size` as i32 in `0..size`; what is out of range becomes -1, which a gather reports.
fn positions(index: &Tensor, size: usize) -> Result<Tensor> {
    let index = narrowed(index)?;
    let size = size as i32;
    let index = index.try_lt(0)?.try_where(index.try_add(size)?, &index)?;
    let inside = index.try_ge(0)?.try_logical_and(index.try_lt(size)?)?;
    inside.try_where(index, -1)
}

/// Takes the elements of `x` that the index tensors name.
fn gather(x: &Tensor, list: &[(usize, Tensor)], front: bool) -> Result<Tensor> {
    let mut around = Shape::default();
    for (_, t) in list {
        around = around.broadcast(t.shape()).ok_or_else(|| {
            let shapes: Vec<&Shape> = list.iter().map(|(_, t)| t.shape()).collect();
            Error::shape("index", &shapes, "index tensors must broadcast to one shape")
        })?;
    }
    // The indexed axes become one: side by side where they are, else in front.
    let axes: SmallVec<[usize; 6]> = list.iter().map(|(a, _)| *a).collect();
    let together = axes.windows(2).all(|w| w[1] == w[0] + 1);
    let first = if together { axes[0] } else { 0 };
    let x = match together {
        true => x.clone(),
        false => {
            let others = (0..x.rank()).filter(|a| !axes.contains(a));
            x.try_permute(&axes.iter().copied().chain(others).map(|a| a as isize).collect::<Vec<_>>())?
        }
    };
    let d = x.dims();
    let (sizes, after) = (&d[first..first + axes.len()], &d[first + axes.len()..]);
    let size: usize = sizes.iter().product();
    if size > i32::MAX as usize {
        return Err(Error::argument("index", format!("the indexed axes of {} have more than 2^31 positions", x.shape())));
    }
    let mut at: Option<Tensor> = None;
    for ((_, t), &n) in list.iter().zip(sizes) {
        let p = positions(t, n)?;
        at = Some(match at {
            None => p,
            Some(at) => {
                let bad = at.try_lt(0)?.try_logical_or(p.try_lt(0)?)?;
                bad.try_where(-1, at.try_maximum(0)?.try_mul(n)?.try_add(p.try_maximum(0)?)?)?
            }
        });
    }
    let Some(at) = at else { return Ok(x) };
    let merged: Shape = d[..first].iter().copied().chain([size]).chain(after.iter().copied()).collect();
    let at = at.try_expand(&around)?.try_reshape(around.numel())?;
    let shape: Shape = d[..first].iter().chain(&around).chain(after).copied().collect();
    let y = asked("index", "", || x.try_reshape(merged)?.try_index_select(first as isize, &at))?.try_reshape(shape)?;
    if !front || first == 0 {
        return Ok(y);
    }
    let (a, b) = (first as isize, (first + around.rank()) as isize);
    y.try_permute(&(a..b).chain(0..a).chain(b..y.rank() as isize).collect::<Vec<_>>())
}

impl Tensor {
    fn at(&self, r: Resolved) -> Result<Tensor> {
        let view = Slice::record(self, r.spec)?.try_reshape(r.shape)?;
        if r.gather.is_empty() { Ok(view) } else { gather(&view, &r.gather, r.front) }
    }
}

#[fornax_derive::fallible]
impl Tensor {
    /// The elements that a list of indices names, by NumPy's rules; write the list with [`s!`](crate::s).
    ///
    /// Positions, ranges, new axes and the ellipsis give a view. Index tensors broadcast together and put their axes where the first of
    /// them stands, or in front where a range separates them (as in NumPy, a single position counts as an index tensor for that); negative
    /// positions count from the end. A mask is evaluated at once, because the shape depends on it.
    ///
    /// # Errors
    /// `Error::Index` for a position out of range or too many indices (for index tensors when the result is read), `Error::Shape` for a
    /// mask that does not fit or index tensors that do not broadcast, and those of an evaluation where there is a mask.
    ///
    /// ```
    /// use fornax::{s, Device, Tensor};
    /// let x = Tensor::arange(0, 12, 1, Device::cpu()).reshape([3, 4]);
    /// let ids = Tensor::from_vec(vec![2, 0, -1], [3], Device::cpu())?;
    /// assert_eq!(x.index(s![&ids, 1]).to_vec::<f32>()?, [9.0, 1.0, 9.0]);
    /// assert_eq!(x.index(s![x.gt(9)]).to_vec::<f32>()?, [10.0, 11.0]);
    /// assert_eq!(x.index(s![..;-2, 2..]).to_vec::<f32>()?, [10.0, 11.0, 2.0, 3.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_index(&self, indices: impl AsRef<[Index]>) -> Result<Tensor> {
        self.at(resolve(self, indices.as_ref())?)
    }

    /// A copy in which the elements that `indices` names are those of `value`, broadcast to their shape. (A tensor's value never changes:
    /// this is NumPy's `x[…] = value` as a function.) Where an element is named twice, either value may win.
    ///
    /// # Errors
    /// As [`try_index`](Self::try_index); `Error::Shape` where `value` does not broadcast.
    ///
    /// ```
    /// use fornax::{s, Device, Tensor};
    /// let x = Tensor::zeros([2, 3], Device::cpu());
    /// let y = x.index_set(s![.., 1], 5.0);
    /// assert_eq!(y.to_vec::<f32>()?, [0.0, 5.0, 0.0, 0.0, 5.0, 0.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_index_set(&self, indices: impl AsRef<[Index]>, value: impl Into<crate::Operand>) -> Result<Tensor> {
        let device = self.device();
        let value = match value.into() {
            crate::Operand::Tensor(t) => t.try_cast(self.dtype())?,
            crate::Operand::Scalar(s) => Tensor::try_full((), s, (self.dtype(), device))?,
        };
        let r = resolve(self, indices.as_ref())?;
        if r.gather.is_empty() && r.spec.steps.iter().all(|&s| s == 1) {
            let ranges: Vec<Range<usize>> = r.spec.starts.iter().zip(&r.spec.lens).map(|(&s, &n)| s..s + n).collect();
            return self.try_slice_assign(&ranges, &value.try_expand(r.shape)?.try_reshape(r.spec.lens)?);
        }
        let n = self.numel();
        if n > i32::MAX as usize {
            return Err(Error::argument("index_set", format!("{} has more than 2^31 elements", self.shape())));
        }
        // Where each named element lies in row-major order.
        let at = asked("index_set", "", || Tensor::try_arange(0, n, 1, (DType::I32, device))?.try_reshape(self.shape())?.at(r))?;
        let value = value.try_expand(at.shape())?;
        let at = at.try_reshape(at.numel())?;
        let flat = self.try_reshape(n)?;
        asked("index_set", "", || flat.try_scatter(0, &at, &value.try_reshape(at.numel())?))?.try_reshape(self.shape())
    }
}

#[cfg(test)]
#[allow(clippy::reversed_empty_ranges)] // a range with a negative end counts from the back
mod tests {
    use super::*;

    fn on(span: impl Into<Span>, step: isize, n: usize) -> Vec<isize> {
        let (start, len) = Span { step, ..span.into() }.on(n).unwrap();
        (0..len as isize).map(|i| start as isize + i * step).collect()
    }

    #[test]
    fn spans_follow_numpy() {
        assert_eq!(on(.., 2, 5), [0, 2, 4]);
        assert_eq!(on(.., -2, 5), [4, 2, 0]);
        assert_eq!(on(1..=3, 1, 5), [1, 2, 3]);
        assert_eq!(on(1..=-1, 1, 5), [1, 2, 3, 4]);
        assert_eq!(on(3..=0, -1, 5), [3, 2, 1, 0]);
        assert_eq!(on(3..0, -1, 5), [3, 2, 1]);
        assert_eq!(on(..=2usize, 1, 5), [0, 1, 2]);
        assert_eq!(on(-2.., 1, 5), [3, 4]);
        assert_eq!(on(usize::MAX.., 1, 5), [0isize; 0]);
    }

    #[test]
    fn lists_are_read() {
        let l = s![1.., -1, ..;2, NewAxis, ..., 5..1;-1, 3usize];
        assert!(matches!(
            l,
            [Index::Range(_), Index::At(-1), Index::Range(_), Index::NewAxis, Index::Ellipsis, Index::Range(_), Index::At(3)]
        ));
        assert!(s![].is_empty());
    }
}

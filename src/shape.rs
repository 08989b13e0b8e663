//! Shapes and the rules on them: broadcasting and axes.

use crate::{Error, Result, Tensor};
use smallvec::SmallVec;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// The size of a tensor along each axis; empty for a scalar.
///
/// Made from anything that looks like a list of sizes:
///
/// ```
/// use fornax::Shape;
/// let s: Shape = [2, 3].into();
/// assert_eq!(s.numel(), 6);
/// assert_eq!(Shape::from(()).rank(), 0);
/// assert_eq!(Shape::from(5), Shape::from(vec![5]));
/// assert_eq!(s.to_string(), "[2, 3]");
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(SmallVec<[usize; 6]>);

impl Shape {
    /// The number of axes.
    ///
    /// ```
    /// assert_eq!(fornax::Shape::from([2, 3]).rank(), 2);
    /// ```
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The number of elements: 1 for a scalar.
    ///
    /// ```
    /// assert_eq!(fornax::Shape::from([2, 3]).numel(), 6);
    /// assert_eq!(fornax::Shape::from(()).numel(), 1);
    /// ```
    pub fn numel(&self) -> usize {
        self.0.iter().product()
    }

    /// The number of elements, or an error where it overflows or passes what a buffer could hold.
    pub(crate) fn checked_numel(&self) -> Result<usize> {
        self.0
            .iter()
            .filter(|&&d| d > 0)
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .filter(|&n| n <= isize::MAX as usize / 16)
            .map(|_| self.numel())
            .ok_or_else(|| Error::argument("shape", format!("{self} has more elements than memory can address")))
    }

    /// Adds an axis at the end.
    pub fn push(&mut self, size: usize) {
        self.0.push(size)
    }

    /// Inserts an axis at a position.
    pub fn insert(&mut self, at: usize, size: usize) {
        self.0.insert(at, size)
    }

    /// Removes an axis and returns its size.
    pub fn remove(&mut self, at: usize) -> usize {
        self.0.remove(at)
    }

    /// The shape that both broadcast to by NumPy's rule: aligned at the last axis, a size of 1 stretches.
    ///
    /// ```
    /// use fornax::Shape;
    /// assert_eq!(Shape::from([4, 1]).broadcast(&Shape::from([3])), Some(Shape::from([4, 3])));
    /// assert_eq!(Shape::from([2]).broadcast(&Shape::from([3])), None);
    /// ```
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        if self == other {
            return Some(self.clone());
        }
        let rank = self.rank().max(other.rank());
        let get = |s: &Shape, i: usize| if i + s.rank() >= rank { s[i + s.rank() - rank] } else { 1 };
        (0..rank)
            .map(|i| match (get(self, i), get(other, i)) {
                (a, b) if a == b => Some(a),
                (1, b) => Some(b),
                (a, 1) => Some(a),
                _ => None,
            })
            .collect()
    }
}

/// Resolves an axis that may count from the end (-1 is the last).
pub(crate) fn axis(op: &'static str, axis: isize, rank: usize) -> Result<usize> {
    let a = if axis < 0 { axis + rank as isize } else { axis };
    if a < 0 || a >= rank as isize {
        return Err(Error::Axis { op, axis, rank });
    }
    Ok(a as usize)
}

/// Resolves a list of axes to a sorted list; empty means all axes. A repeated axis is an error. As in PyTorch, a scalar may be taken for a vector of
/// one element: axis 0 or -1 of rank 0 is allowed, and is no axis in the result.
pub(crate) fn axes(op: &'static str, list: &[isize], rank: usize) -> Result<SmallVec<[usize; 6]>> {
    if list.is_empty() {
        return Ok((0..rank).collect());
    }
    let resolve = |&a: &isize| axis(op, a, rank.max(1)).map_err(|_| Error::Axis { op, axis: a, rank });
    let mut out: SmallVec<[usize; 6]> = list.iter().map(resolve).collect::<Result<_>>()?;
    out.sort_unstable();
    if out.windows(2).any(|w| w[0] == w[1]) {
        return Err(Error::argument(op, format!("axes {list:?} name an axis twice")));
    }
    if rank == 0 {
        out.clear();
    }
    Ok(out)
}

/// Does what an op does along an axis, on a scalar as on a vector of one element (axis 0 or -1).
pub(crate) fn at_least_1d<const N: usize>(x: &Tensor, f: impl FnOnce(&Tensor) -> Result<[Tensor; N]>) -> Result<[Tensor; N]> {
    if x.rank() > 0 {
        return f(x);
    }
    let mut out = f(&x.try_reshape(1)?)?;
    for y in &mut out {
        *y = y.try_reshape(())?;
    }
    Ok(out)
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl DerefMut for Shape {
    fn deref_mut(&mut self) -> &mut [usize] {
        &mut self.0
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0[..])
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0[..])
    }
}

impl FromIterator<usize> for Shape {
    fn from_iter<I: IntoIterator<Item = usize>>(iter: I) -> Self {
        Shape(iter.into_iter().collect())
    }
}

impl<'a> IntoIterator for &'a Shape {
    type Item = &'a usize;
    type IntoIter = std::slice::Iter<'a, usize>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl From<()> for Shape {
    fn from(_: ()) -> Self {
        Shape::default()
    }
}
impl From<usize> for Shape {
    fn from(n: usize) -> Self {
        Shape(SmallVec::from_slice(&[n]))
    }
}
impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Shape(SmallVec::from_slice(&dims))
    }
}
impl<const N: usize> From<&[usize; N]> for Shape {
    fn from(dims: &[usize; N]) -> Self {
        Shape(SmallVec::from_slice(dims))
    }
}
impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Shape(SmallVec::from_slice(dims))
    }
}
impl From<Vec<usize>> for Shape {
    fn from(dims: Vec<usize>) -> Self {
        Shape(SmallVec::from_vec(dims))
    }
}
impl From<&Shape> for Shape {
    fn from(s: &Shape) -> Self {
        s.clone()
    }
}

impl<const N: usize> PartialEq<[usize; N]> for Shape {
    fn eq(&self, other: &[usize; N]) -> bool {
        self.0[..] == other[..]
    }
}
impl PartialEq<Vec<usize>> for Shape {
    fn eq(&self, other: &Vec<usize>) -> bool {
        self.0[..] == other[..]
    }
}

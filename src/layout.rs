//! How a tensor's elements lie in its buffer: shape, strides, offset. Views are layouts.

use crate::Shape;
use smallvec::SmallVec;

/// Element strides, one an axis; negative for flipped axes, 0 for broadcast ones.
pub(crate) type Strides = SmallVec<[isize; 6]>;

/// Where each element of a tensor lies: element `i` is at `offset + Σ i_k · stride_k`, in elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Layout {
    pub shape: Shape,
    pub strides: Strides,
    pub offset: usize,
}

/// Row-major strides of a shape.
pub(crate) fn row_major(shape: &[usize]) -> Strides {
    let mut strides: Strides = SmallVec::from_elem(1, shape.len());
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i].max(1) as isize;
    }
    strides
}

impl Layout {
    pub fn contiguous(shape: Shape) -> Layout {
        Layout { strides: row_major(&shape), shape, offset: 0 }
    }

    pub fn numel(&self) -> usize {
        self.shape.numel()
    }

    /// Row-major without gaps; axes of size 1 do not matter, nor does the offset.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for (&d, &s) in self.shape.iter().zip(&self.strides).rev() {
            if d == 0 {
                return true;
            }
            if d != 1 && s != expected {
                return false;
            }
            expected *= d as isize;
        }
        true
    }

    /// Row-major from the first element of the buffer.
    pub fn is_identity(&self) -> bool {
        self.offset == 0 && self.is_contiguous()
    }

    /// One past the highest element that is reached: 0 for an empty tensor.
    pub fn end(&self) -> usize {
        if self.numel() == 0 {
            return 0;
        }
        let reach: isize = self.shape.iter().zip(&self.strides).map(|(&d, &s)| if s > 0 { (d as isize - 1) * s } else { 0 }).sum();
        self.offset + reach as usize + 1
    }

    pub fn permute(&self, order: &[usize]) -> Layout {
        Layout {
            shape: order.iter().map(|&a| self.shape[a]).collect(),
            strides: order.iter().map(|&a| self.strides[a]).collect(),
            offset: self.offset,
        }
    }

    /// `len` elements of `axis` from `start` on, `step` apart; a negative step walks backward from `start`.
    pub fn slice(&self, axis: usize, start: usize, step: isize, len: usize) -> Layout {
        let mut l = self.clone();
        l.offset = if len == 0 { self.offset } else { (self.offset as isize + start as isize * self.strides[axis]) as usize };
        l.strides[axis] *= step;
        l.shape[axis] = len;
        l
    }

    /// Broadcasts to a shape that `self.shape` broadcasts to.
    pub fn expand(&self, shape: &Shape) -> Layout {
        let lead = shape.rank() - self.shape.rank();
        let strides = (0..shape.rank())
            .map(|i| if i < lead || (self.shape[i - lead] == 1 && shape[i] != 1) { 0 } else { self.strides[i - lead] })
            .collect();
        Layout { shape: shape.clone(), strides, offset: self.offset }
    }

    /// Another shape of the same elements in the same order, where strides can express it.
    pub fn reshape(&self, shape: &Shape) -> Option<Layout> {
        if self.is_contiguous() || self.numel() == 0 {
            return Some(Layout { strides: row_major(shape), shape: shape.clone(), offset: self.offset });
        }
        let old: SmallVec<[(usize, isize); 6]> =
            self.shape.iter().zip(&self.strides).filter(|(d, _)| **d != 1).map(|(&d, &s)| (d, s)).collect();
        let mut strides: Strides = SmallVec::from_elem(0, shape.rank());
        let (mut i, mut j) = (0, 0);
        while i < old.len() {
            // A group of old axes and a group of new ones with the same number of elements.
            let (first, mut n) = (i, old[i].0);
            i += 1;
            let start = j;
            let mut m = 1;
            while m < n || (j < shape.rank() && shape[j] == 1 && m != n) {
                m *= shape[j];
                j += 1;
                while m > n {
                    n *= old[i].0;
                    i += 1;
                }
            }
            if old[first..i].windows(2).any(|w| w[0].1 != w[1].1 * w[1].0 as isize) {
                return None;
            }
            let mut s = old[i - 1].1;
            for k in (start..j).rev() {
                strides[k] = s;
                s *= shape[k] as isize;
            }
        }
        Some(Layout { shape: shape.clone(), strides, offset: self.offset })
    }

    /// Replaces `axis` by two, a window's position and the place in it: element (p, k) is old element `p·step + k·dilation`.
    pub fn windows(&self, axis: usize, size: usize, step: usize, dilation: usize) -> Layout {
        let mut l = self.clone();
        let reach = (size - 1) * dilation + 1;
        let count = if self.shape[axis] < reach { 0 } else { (self.shape[axis] - reach) / step + 1 };
        l.shape[axis] = count;
        l.strides[axis] *= step as isize;
        l.shape.insert(axis + 1, size);
        l.strides.insert(axis + 1, self.strides[axis] * dilation as isize);
        l
    }

    /// The buffer positions of all elements in row-major order.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        let n = self.numel();
        let mut index: SmallVec<[usize; 6]> = SmallVec::from_elem(0, self.shape.rank());
        let mut at = self.offset as isize;
        (0..n).map(move |_| {
            let here = at as usize;
            for k in (0..index.len()).rev() {
                index[k] += 1;
                at += self.strides[k];
                if index[k] < self.shape[k] {
                    break;
                }
                at -= self.strides[k] * self.shape[k] as isize;
                index[k] = 0;
            }
            here
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshape_merges_and_splits_where_strides_allow() {
        let l = Layout::contiguous([2, 3, 4].into());
        assert_eq!(l.reshape(&[6, 4].into()).unwrap().strides[..], [4, 1]);
        let t = l.permute(&[1, 0, 2]);
        assert!(t.reshape(&[6, 4].into()).is_none());
        assert_eq!(t.reshape(&[3, 2, 2, 2].into()).unwrap().strides[..], [4, 12, 2, 1]);
        assert_eq!(t.reshape(&[3, 1, 2, 4, 1].into()).unwrap().numel(), 24);
        let b = Layout::contiguous([1, 4].into()).expand(&[3, 4].into());
        assert!(b.reshape(&[12].into()).is_none());
        assert_eq!(b.reshape(&[3, 2, 2].into()).unwrap().strides[..], [0, 2, 1]);
    }

    #[test]
    fn reshape_agrees_with_positions() {
        let base = Layout::contiguous([4, 6, 5].into());
        for l in [base.slice(1, 1, 2, 3), base.slice(0, 3, -1, 4), base.permute(&[2, 0, 1]), base.slice(2, 0, 1, 1)] {
            for s in [vec![l.numel()], vec![2, l.numel() / 2], vec![1, 2, 2, l.numel() / 4], vec![l.numel() / 2, 1, 2, 1]] {
                let shape = Shape::from(s);
                if let Some(r) = l.reshape(&shape) {
                    assert!(r.positions().eq(l.positions()), "{l:?} -> {shape}");
                }
            }
        }
    }
}

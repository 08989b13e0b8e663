//! Einstein summation: an equation over labelled axes, worked off from left to right as sums, pointwise products and matrix products.

use crate::{Error, Result, Shape, Tensor};

const OP: &str = "einsum";

/// The label of an axis: a letter, or an axis of the ellipsis counted from its right end.
type Label = u32;
const ELLIPSIS: Label = 1 << 16;

/// An operand and the labels of its axes, each once.
struct Term {
    x: Tensor,
    labels: Vec<Label>,
}

fn bad(equation: &str, why: impl std::fmt::Display) -> Error {
    Error::argument(OP, format!("equation {equation:?}: {why}"))
}

/// A part of the equation as labels; `None` stands for the ellipsis.
fn parse(equation: &str, part: &str) -> Result<Vec<Option<Label>>> {
    let mut labels = Vec::new();
    let mut rest = part;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("...") {
            if labels.contains(&None) {
                return Err(bad(equation, "an ellipsis stands at most once in an operand"));
            }
            labels.push(None);
            rest = after;
        } else if c.is_ascii_alphabetic() {
            labels.push(Some(c as Label));
            rest = &rest[1..];
        } else {
            return Err(bad(equation, format_args!("{c:?} is neither a letter nor an ellipsis (...)")));
        }
    }
    Ok(labels)
}

/// The labels in `list` with the ellipsis spelled out as `axes` axes.
fn spell(list: &[Option<Label>], axes: usize) -> Vec<Label> {
    let mut out = Vec::new();
    for l in list {
        match l {
            Some(l) => out.push(*l),
            None => out.extend((0..axes as Label).rev().map(|i| ELLIPSIS + i)),
        }
    }
    out
}

impl Term {
    fn size(&self, label: Label) -> Option<usize> {
        self.labels.iter().position(|&l| l == label).map(|i| self.x.dims()[i])
    }

    /// Keeps one axis of each label: repeated ones become their diagonal.
    fn diagonals(mut self, equation: &str) -> Result<Term> {
        let mut i = 0;
        while i < self.labels.len() {
            let Some(j) = (i + 1..self.labels.len()).find(|&j| self.labels[j] == self.labels[i]) else {
                i += 1;
                continue;
            };
            if self.x.dims()[i] != self.x.dims()[j] {
                let why = format!("equation {equation:?}: axes of one label in an operand must have one size");
                return Err(Error::shape(OP, &[self.x.shape()], why));
            }
            self.x = self.x.try_diagonal(0, i as isize, j as isize)?;
            let label = self.labels.remove(j);
            self.labels.remove(i);
            self.labels.push(label);
        }
        Ok(self)
    }

    /// Sums over the axes whose label does not pass.
    fn keep(self, passes: impl Fn(Label) -> bool) -> Result<Term> {
        let gone: Vec<usize> = (0..self.labels.len()).filter(|&i| !passes(self.labels[i])).collect();
        if gone.is_empty() {
            return Ok(self);
        }
        let labels = self.labels.iter().copied().filter(|&l| passes(l)).collect();
        // In the operands' own dtype, as products are: a sum of u8 is an i32.
        Ok(Term { x: self.x.try_sum(gone)?.try_cast(self.x.dtype())?, labels })
    }

    /// Drops axes of size 1 whose label has another size in `other`: there they broadcast.
    fn squeeze(self, other: &Term) -> Result<Term> {
        let gone: Vec<usize> =
            (0..self.labels.len()).filter(|&i| self.x.dims()[i] == 1 && other.size(self.labels[i]).is_some_and(|n| n != 1)).collect();
        if gone.is_empty() {
            return Ok(self);
        }
        let labels = (0..self.labels.len()).filter(|i| !gone.contains(i)).map(|i| self.labels[i]).collect();
        Ok(Term { x: self.x.try_squeeze(gone)?, labels })
    }

    /// The axes in the order of these labels.
    fn order(&self, labels: &[Label]) -> Result<Tensor> {
        let order: Vec<isize> = labels.iter().filter_map(|l| self.labels.iter().position(|m| m == l)).map(|i| i as isize).collect();
        if order.iter().enumerate().all(|(i, &o)| i as isize == o) { Ok(self.x.clone()) } else { self.x.try_permute(&order) }
    }

    fn sizes(&self, labels: &[Label]) -> Shape {
        labels.iter().filter_map(|&l| self.size(l)).collect()
    }
}

/// Multiplies two operands and sums over the labels that they share and nobody needs later.
fn contract(a: Term, b: Term, later: impl Fn(Label) -> bool) -> Result<Term> {
    let (a, b) = (a.squeeze(&b)?, b);
    let b = b.squeeze(&a)?;
    let a = a.keep(|l| later(l) || b.labels.contains(&l))?;
    let b = b.keep(|l| later(l) || a.labels.contains(&l))?;
    let shared = |l: &Label| b.labels.contains(l);
    let batch: Vec<Label> = a.labels.iter().copied().filter(|l| shared(l) && later(*l)).collect();
    let inner: Vec<Label> = a.labels.iter().copied().filter(|l| shared(l) && !later(*l)).collect();
    let rows: Vec<Label> = a.labels.iter().copied().filter(|l| !shared(l)).collect();
    let cols: Vec<Label> = b.labels.iter().copied().filter(|l| !a.labels.contains(l)).collect();
    let (nb, nm, nn, nk) = (a.sizes(&batch), a.sizes(&rows), b.sizes(&cols), a.sizes(&inner));
    let labels: Vec<Label> = batch.iter().chain(&rows).chain(&cols).copied().collect();
    let shape: Shape = nb.iter().chain(&nm).chain(&nn).copied().collect();
    let left = a.order(&[batch.clone(), rows.clone(), inner.clone()].concat())?;
    if inner.is_empty() {
        // No sum: a pointwise product, which fuses with its neighbours.
        let ones = std::iter::repeat_n(1, cols.len());
        let left = left.try_reshape(nb.iter().chain(&nm).copied().chain(ones).collect::<Shape>())?;
        let right = b.order(&[batch, cols].concat())?;
        let ones = std::iter::repeat_n(1, rows.len());
        let right = right.try_reshape(nb.iter().copied().chain(ones).chain(nn.iter().copied()).collect::<Shape>())?;
        return Ok(Term { x: left.try_mul(&right)?, labels });
    }
    let right = b.order(&[batch, inner, cols].concat())?;
    let (m, n, k) = (nm.numel(), nn.numel(), nk.numel());
    let flat = |x: &Tensor, rows: usize, cols: usize| match nb.rank() {
        0 => x.try_reshape([rows, cols]),
        _ => x.try_reshape([nb.numel(), rows, cols]),
    };
    let x = flat(&left, m, k)?.try_matmul(&flat(&right, k, n)?)?.try_reshape(shape)?;
    Ok(Term { x, labels })
}

#[fornax_derive::fallible]
impl Tensor {
    /// A sum of products in Einstein's notation: `"ij,jk->ik"` is a matrix product, `"ii"` a trace, `"...ij->...ji"` a transposition.
    ///
    /// Each operand's axes are named by letters; a letter that repeats in an operand takes the diagonal; letters that are not in the output
    /// are summed over. Without `->` the output has the ellipsis and then, in alphabetical order (capitals first), the letters that stand
    /// only once. An ellipsis stands for any number of axes and broadcasts; so do axes of size 1. More than two operands are multiplied
    /// from left to right.
    ///
    /// # Errors
    /// `Error::Argument` for an equation that is malformed or has another number of operands or axes, `Error::Shape` where sizes of a label
    /// differ, `Error::DType` where dtypes differ.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let a = Tensor::ones([2, 3], Device::cpu());
    /// let b = Tensor::ones([3, 4], Device::cpu());
    /// assert_eq!(Tensor::einsum("ij,jk->ik", &[&a, &b]).to_vec::<f32>()?, [3.0; 8]);
    /// assert_eq!(Tensor::einsum("ij->j", &[&a]).dims(), [3]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_einsum(equation: &str, operands: &[&Tensor]) -> Result<Tensor> {
        let text: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match text.split_once("->") {
            Some((l, r)) => (l, Some(r)),
            None => (text.as_str(), None),
        };
        let parts: Vec<Vec<Option<Label>>> = left.split(',').map(|p| parse(equation, p)).collect::<Result<_>>()?;
        if parts.len() != operands.len() {
            return Err(bad(equation, format_args!("{} operands are named and {} were given", parts.len(), operands.len())));
        }
        if let Some(other) = operands.iter().find(|t| t.dtype() != operands[0].dtype()) {
            let expected = "operands of one dtype: cast them";
            return Err(Error::dtype(OP, &[operands[0].dtype(), other.dtype()], expected));
        }

        // Labels of all axes, and the size of each label.
        let mut terms = Vec::new();
        let mut widest = 0;
        for (part, x) in parts.iter().zip(operands) {
            let letters = part.iter().flatten().count();
            let open = part.contains(&None);
            if x.rank() < letters || (!open && x.rank() != letters) {
                let expected = format!("equation {equation:?}: {letters} axes are named{}", if open { " beside the ellipsis" } else { "" });
                return Err(Error::shape(OP, &[x.shape()], expected));
            }
            widest = widest.max(if open { x.rank() - letters } else { 0 });
            let term = Term { x: (*x).clone(), labels: spell(part, x.rank() - letters) };
            terms.push(term.diagonals(equation)?);
        }
        let mut sizes: Vec<(Label, usize)> = Vec::new();
        for t in &terms {
            for (&l, &n) in t.labels.iter().zip(t.x.dims()) {
                match sizes.iter_mut().find(|(m, _)| *m == l) {
                    Some((_, size)) if *size == n || n == 1 => {}
                    Some((_, size)) if *size == 1 => *size = n,
                    Some((_, size)) => {
                        let name =
                            char::from_u32(l).filter(|_| l < ELLIPSIS).map_or("an axis of the ellipsis".into(), |c| format!("label {c:?}"));
                        let expected = format!("equation {equation:?}: {name} has size {size} in one operand and {n} in another");
                        let shapes: Vec<Shape> = operands.iter().map(|t| t.shape().clone()).collect();
                        return Err(Error::shape(OP, &shapes, expected));
                    }
                    None => sizes.push((l, n)),
                }
            }
        }

        let output = match right {
            Some(r) => {
                let out = spell(&parse(equation, r)?, widest);
                for (i, l) in out.iter().enumerate() {
                    let name = char::from_u32(*l).unwrap_or('.');
                    if out[..i].contains(l) {
                        return Err(bad(equation, format_args!("the output names {name:?} twice")));
                    }
                    if !sizes.iter().any(|(m, _)| m == l) {
                        return Err(bad(equation, format_args!("the output's label {name:?} is in no operand")));
                    }
                }
                out
            }
            None => {
                let all: Vec<Label> = parts.iter().flatten().flatten().copied().collect();
                let mut once: Vec<Label> = all.iter().copied().filter(|l| all.iter().filter(|m| *m == l).count() == 1).collect();
                once.sort_unstable();
                spell(&[None], widest).into_iter().chain(once).collect()
            }
        };

        let mut rest = terms.into_iter();
        let Some(mut acc) = rest.next() else {
            return Err(bad(equation, "no operand"));
        };
        while let Some(next) = rest.next() {
            let needed: Vec<Label> = rest.as_slice().iter().flat_map(|t| t.labels.iter().copied()).chain(output.iter().copied()).collect();
            acc = contract(acc, next, |l| needed.contains(&l))?;
        }
        acc.keep(|l| output.contains(&l))?.order(&output)
    }
}

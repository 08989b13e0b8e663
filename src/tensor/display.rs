//! Printing: `Display` as NumPy prints arrays, `Debug` without evaluating anything.

use crate::graph::node::with_grad;
use crate::{DType, Result, Tensor};
use std::fmt;

/// Above this many elements only the edges are shown.
const THRESHOLD: usize = 1000;
/// Elements shown at each end of an axis that is cut.
const EDGE: usize = 3;
const WIDTH: usize = 100;

impl fmt::Debug for Tensor {
    /// Shape, dtype, device and op. Nothing is evaluated.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = self.node.body().op.as_ref().map(|op| op.name());
        write!(f, "Tensor({} {}, {}", self.dtype(), self.shape(), self.device())?;
        match op {
            Some(op) => write!(f, ", {op})"),
            None => f.write_str(")"),
        }
    }
}

impl fmt::Display for Tensor {
    /// The values, then dtype, shape and device. Columns are aligned; floats have four digits (`{:.2}` for two), in scientific notation
    /// where the range demands it; of more than 1000 elements only three at each end of an axis are shown. If the evaluation fails, the
    /// error is printed in place of the values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match with_grad(false, || cells(self, f.precision().unwrap_or(4))) {
            Ok(view) => {
                let mut text = String::new();
                let last = view.axes.len() > 1 && view.cells.iter().map(String::len).sum::<usize>() > 0;
                view.print(0, 0, &mut text);
                f.write_str(&text)?;
                f.write_str(if last || text.contains('\n') { "\n" } else { " " })?;
            }
            Err(error) => write!(f, "<{error}> ")?,
        }
        write!(f, "{} {} {}", self.dtype(), self.shape(), self.device())
    }
}

/// What is printed of a tensor.
struct Cells {
    /// For each axis how many elements are shown, and after how many of them stands an ellipsis.
    axes: Vec<(usize, Option<usize>)>,
    cells: Vec<String>,
}

fn cells(t: &Tensor, precision: usize) -> Result<Cells> {
    let cut = t.numel() > THRESHOLD;
    let mut shown = t.clone();
    let mut axes = Vec::new();
    for (a, &n) in t.dims().iter().enumerate() {
        if cut && n > 2 * EDGE {
            let a = a as isize;
            let ends = [shown.try_narrow(a, 0, EDGE)?, shown.try_narrow(a, n - EDGE, EDGE)?];
            shown = Tensor::try_cat(&[&ends[0], &ends[1]], a)?;
            axes.push((2 * EDGE, Some(EDGE)));
        } else {
            axes.push((n, None));
        }
    }
    let mut cells: Vec<String> = match t.dtype() {
        DType::Bool => shown.to_vec::<bool>()?.iter().map(bool::to_string).collect(),
        d if d.is_float() => floats(&shown.to_vec::<f64>()?, precision),
        _ => shown.to_vec::<i64>()?.iter().map(i64::to_string).collect(),
    };
    let width = cells.iter().map(String::len).max().unwrap_or(0);
    if !axes.is_empty() {
        cells.iter_mut().for_each(|c| *c = format!("{c:>width$}"));
    }
    Ok(Cells { axes, cells })
}

/// Numbers in one format for all: whole numbers as `3.`, else fixed or scientific notation by the range (NumPy's bounds).
fn floats(values: &[f64], precision: usize) -> Vec<String> {
    let sizes = values.iter().map(|v| v.abs()).filter(|v| v.is_finite() && *v > 0.0);
    let (low, high) = sizes.clone().fold((f64::INFINITY, 0f64), |(l, h), v| (l.min(v), h.max(v)));
    let whole = values.iter().all(|v| !v.is_finite() || *v == v.trunc());
    let scientific = high >= 1e8 || (!whole && high > 0.0 && (low < 1e-4 || high / low > 1000.0));
    let one = |v: f64| match v {
        v if v.is_nan() => "nan".to_string(),
        v if v.is_infinite() => if v > 0.0 { "inf" } else { "-inf" }.to_string(),
        v if scientific => exponent(format!("{v:.precision$e}")),
        v if whole => format!("{v:.0}."),
        v => format!("{v:.precision$}"),
    };
    values.iter().map(|&v| one(v)).collect()
}

/// `1.5e-7` as `1.5e-07`.
fn exponent(text: String) -> String {
    match text.split_once('e') {
        Some((digits, e)) => {
            let (sign, e) = e.strip_prefix('-').map_or(('+', e), |e| ('-', e));
            format!("{digits}e{sign}{e:0>2}")
        }
        None => text,
    }
}

impl Cells {
    /// Prints the part from cell `at` on that belongs to axes `axis` and later.
    fn print(&self, axis: usize, at: usize, text: &mut String) {
        let Some(&(n, gap)) = self.axes.get(axis) else {
            text.push_str(&self.cells[at]);
            return;
        };
        let inner: usize = self.axes[axis + 1..].iter().map(|a| a.0).product();
        let depth = self.axes.len() - axis - 1;
        text.push('[');
        let margin = axis + 1;
        let mut column = margin;
        for i in 0..n {
            if inner == 0 && depth > 0 && n > 2 * EDGE && i == EDGE {
                text.push_str("...");
                break;
            }
            if depth > 0 {
                if i > 0 {
                    text.push(',');
                    text.extend(std::iter::repeat_n('\n', depth));
                    text.extend(std::iter::repeat_n(' ', margin));
                }
                if gap == Some(i) {
                    text.push_str("...,");
                    text.extend(std::iter::repeat_n('\n', depth));
                    text.extend(std::iter::repeat_n(' ', margin));
                }
            } else {
                let cell = self.cells[at + i].len();
                let dots = if gap == Some(i) { 5 } else { 0 };
                if i > 0 {
                    text.push(',');
                    column += 2 + cell + dots;
                    if column > WIDTH {
                        text.push('\n');
                        text.extend(std::iter::repeat_n(' ', margin));
                        column = margin + cell + dots;
                    } else {
                        text.push(' ');
                    }
                } else {
                    column += cell;
                }
                if dots > 0 {
                    text.push_str("..., ");
                }
            }
            self.print(axis + 1, at + i * inner, text);
        }
        text.push(']');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_share_a_format() {
        assert_eq!(floats(&[1.0, -2.0, f64::NAN], 4), ["1.", "-2.", "nan"]);
        assert_eq!(floats(&[1.5, 0.25], 4), ["1.5000", "0.2500"]);
        assert_eq!(floats(&[1.5, 1e-7], 4), ["1.5000e+00", "1.0000e-07"]);
        assert_eq!(floats(&[1e12], 2), ["1.00e+12"]);
        assert_eq!(floats(&[0.0, f64::INFINITY], 4), ["0.", "inf"]);
        assert_eq!(floats(&[], 4), [""; 0]);
    }

    fn print(axes: &[(usize, Option<usize>)], cells: &[&str]) -> String {
        let mut text = String::new();
        Cells { axes: axes.to_vec(), cells: cells.iter().map(|c| c.to_string()).collect() }.print(0, 0, &mut text);
        text
    }

    #[test]
    fn brackets_are_numpys() {
        assert_eq!(print(&[], &["7"]), "7");
        assert_eq!(print(&[(2, None), (2, None)], &["1", "2", "3", "4"]), "[[1, 2],\n [3, 4]]");
        assert_eq!(print(&[(2, None), (1, None), (2, None)], &["1", "2", "3", "4"]), "[[[1, 2]],\n\n [[3, 4]]]");
        assert_eq!(print(&[(2, Some(1))], &["1", "9"]), "[1, ..., 9]");
        assert_eq!(print(&[(2, Some(1)), (1, None)], &["1", "9"]), "[[1],\n ...,\n [9]]");
        assert_eq!(print(&[(0, None)], &[]), "[]");
        assert_eq!(print(&[(2, None), (0, None)], &[]), "[[],\n []]");
    }
}

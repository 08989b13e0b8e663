//! Printing: `Display` as NumPy prints arrays, `Debug` without evaluating anything.

use crate::graph::node::with_grad;
use crate::{DType, Result, Tensor};
use half::{bf16, f16};
use std::fmt;

/// Above this many elements only the edges are shown.
const THRESHOLD: usize = 1000;
/// Elements shown at each end of an axis that is cut.
const EDGE: usize = 3;
/// Characters in a line.
const WIDTH: usize = 75;
/// Digits after the point.
const PRECISION: usize = 8;

impl fmt::Debug for Tensor {
    /// Dtype, shape, device and op. Nothing is evaluated.
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
    /// The values, to the letter as NumPy's `str` prints an array: columns aligned, floats with the fewest digits that tell them apart in their
    /// dtype, at most 8 after the point (`{:.2}` for two), in scientific notation where the range demands it, of more than 1000 elements only
    /// three at each end of an axis. Dtype, shape and device are in `{:?}`, which evaluates nothing. If the evaluation fails, the error is
    /// printed in place of the values.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, -0.25, f32::NAN, 3.0], [2, 2], Device::cpu())?;
    /// assert_eq!(x.to_string(), "[[ 1.   -0.25]\n [  nan  3.  ]]");
    /// assert_eq!(format!("{x:?}"), "Tensor(f32 [2, 2], cpu)");
    /// # Ok::<(), fornax::Error>(())
    /// ```
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match with_grad(false, || text(self, f.precision())) {
            Ok(text) => f.write_str(&text),
            Err(error) => write!(f, "<{error}>"),
        }
    }
}

fn text(t: &Tensor, precision: Option<usize>) -> Result<String> {
    if t.numel() == 0 {
        return Ok("[]".into());
    }
    let cut = t.numel() > THRESHOLD;
    let mut shown = t.clone();
    let mut axes = Vec::new();
    for (a, &n) in t.dims().iter().enumerate() {
        let shorten = cut && n > 2 * EDGE;
        if shorten {
            let a = a as isize;
            let ends = [shown.try_narrow(a, 0, EDGE)?, shown.try_narrow(a, n - EDGE, EDGE)?];
            shown = Tensor::try_cat(&[&ends[0], &ends[1]], a)?;
        }
        axes.push(Axis { shown: if shorten { 2 * EDGE } else { n }, cut: shorten });
    }
    let yes = if axes.is_empty() { "True" } else { " True" };
    let cells = match t.dtype() {
        DType::Bool => shown.to_vec::<bool>()?.iter().map(|&b| if b { yes } else { "False" }.to_string()).collect(),
        d if d.is_float() => {
            let values = shown.to_vec::<f64>()?;
            if axes.is_empty() {
                return Ok(scalar(values[0], d, precision));
            }
            floats(&values, d, precision.unwrap_or(PRECISION))
        }
        _ => shown.to_vec::<i64>()?.iter().map(i64::to_string).collect::<Vec<_>>(),
    };
    Ok(layout(&axes, cells))
}

/// The nearest value of a float dtype.
fn rounded(v: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F16 => f16::from_f64(v).to_f64(),
        DType::BF16 => bf16::from_f64(v).to_f64(),
        DType::F32 => v as f32 as f64,
        _ => v,
    }
}

/// From this power of ten on numbers are printed in scientific notation: the digits that the dtype surely has.
fn digits(dtype: DType) -> i32 {
    match dtype {
        DType::F16 => 3,
        DType::BF16 => 2,
        DType::F32 => 6,
        _ => 15,
    }
}

/// The shortest decimal number (`1.5e-7`) that is nearer to `v` than to any other value of its dtype.
fn shortest(v: f64, dtype: DType) -> String {
    match dtype {
        DType::F32 => format!("{:e}", v as f32),
        DType::F16 | DType::BF16 => {
            let same = |text: &String| text.parse().is_ok_and(|w| rounded(w, dtype) == v);
            (0..6).map(|p| format!("{v:.p$e}")).find(same).unwrap_or_else(|| format!("{v:e}"))
        }
        _ => format!("{v:e}"),
    }
}

/// `v` as (digits before the point, digits after it, without trailing zeros); at most `precision` of the latter.
fn positional(v: f64, dtype: DType, precision: usize) -> (String, String) {
    // Zeros follow the shortest digits, as for 1.2e7.
    let short: Option<String> = shortest(v, dtype).parse::<f64>().ok().map(|w| w.to_string());
    let text = match short {
        Some(s) if s.split_once('.').is_none_or(|(_, f)| f.len() <= precision) => s,
        _ => format!("{v:.precision$}"),
    };
    let (int, frac) = text.split_once('.').unwrap_or((&text, ""));
    (int.to_string(), frac.trim_end_matches('0').to_string())
}

/// `v` as (digit before the point, digits after it, exponent with its sign and at least two digits).
fn scientific(v: f64, dtype: DType, precision: usize) -> (String, String, String) {
    let short = shortest(v, dtype);
    let fits = short.split_once('e').is_some_and(|(m, _)| m.split_once('.').is_none_or(|(_, f)| f.len() <= precision));
    let (int, frac, e) = parts(&if fits { short } else { format!("{v:.precision$e}") });
    (int, frac.trim_end_matches('0').to_string(), e)
}

/// `1.50e-7` as `1`, `50` and `-07`.
fn parts(text: &str) -> (String, String, String) {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (int, frac) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
    (int.to_string(), frac.to_string(), format!("{sign}{exponent:0>2}"))
}

fn not_finite(v: f64) -> Option<&'static str> {
    match v {
        v if v.is_nan() => Some("nan"),
        v if v.is_infinite() => Some(if v > 0.0 { "inf" } else { "-inf" }),
        _ => None,
    }
}

/// A tensor without axes: all its digits.
fn scalar(v: f64, dtype: DType, precision: Option<usize>) -> String {
    if let Some(name) = not_finite(v) {
        return name.into();
    }
    let precision = precision.unwrap_or(400);
    let size = v.abs();
    // NumPy's bounds: 10^16 for doubles, one more than the digits they surely have.
    let high = if dtype == DType::F64 { 1e16 } else { 10f64.powi(digits(dtype)) };
    if size != 0.0 && !(1e-4..high).contains(&size) {
        let (int, frac, e) = scientific(v, dtype, precision);
        let point = if frac.is_empty() { "" } else { "." };
        return format!("{int}{point}{frac}e{e}");
    }
    let (int, frac) = positional(v, dtype, precision);
    format!("{int}.{}", if frac.is_empty() { "0" } else { &frac })
}

/// Numbers in one format for all.
fn floats(values: &[f64], dtype: DType, precision: usize) -> Vec<String> {
    let finite = || values.iter().copied().filter(|v| v.is_finite());
    let sizes = finite().map(f64::abs).filter(|v| *v > 0.0);
    let (low, high) = sizes.fold((f64::INFINITY, 0f64), |(l, h), v| (l.min(v), h.max(v)));
    let wide = high >= 10f64.powi(digits(dtype).min(8)) || low < rounded(1e-4, dtype) || rounded(high / low, dtype) > 1000.0;
    let is_scientific = high > 0.0 && wide;
    let longest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
    // The widths of what stands before and after the point.
    let (mut left, right, cells): (usize, usize, Vec<(String, String)>);
    if is_scientific {
        let short: Vec<_> = finite().map(|v| scientific(v, dtype, precision)).collect();
        let (frac, exp) = (longest(&mut short.iter().map(|p| p.1.len())), longest(&mut short.iter().map(|p| p.2.len() - 1)));
        left = longest(&mut short.iter().map(|p| p.0.len()));
        right = frac + exp + 2;
        // All have as many digits as the longest, true ones.
        let whole = |&v: &f64| {
            let (int, f, e) = parts(&format!("{v:.frac$e}"));
            (int, format!("{f}e{}{:0>exp$}", &e[..1], &e[1..]))
        };
        cells = values.iter().map(whole).collect();
    } else {
        cells = values.iter().map(|&v| positional(if v.is_finite() { v } else { 0.0 }, dtype, precision)).collect();
        let used = || cells.iter().zip(values).filter(|(_, v)| v.is_finite()).map(|(p, _)| p);
        left = longest(&mut used().map(|p| p.0.len()));
        right = longest(&mut used().map(|p| p.1.len()));
    }
    for name in values.iter().filter_map(|&v| not_finite(v)) {
        left = left.max(name.len().saturating_sub(right + 1));
    }
    let cell = |(v, (int, rest)): (&f64, (String, String))| match not_finite(*v) {
        Some(name) => format!("{name:>width$}", width = left + right + 1),
        None => format!("{int:>left$}.{rest:<right$}"),
    };
    values.iter().zip(cells).map(cell).collect()
}

/// An axis, as printed.
struct Axis {
    shown: usize,
    /// Whether an ellipsis stands in the middle.
    cut: bool,
}

/// Cells in brackets, padded to one width.
fn layout(axes: &[Axis], mut cells: Vec<String>) -> String {
    let width = cells.iter().map(String::len).max().unwrap_or(0);
    if !axes.is_empty() {
        cells.iter_mut().for_each(|c| *c = format!("{c:>width$}"));
    }
    let mut out = String::new();
    brackets(axes, &cells, 1, &mut out);
    out
}

/// The cells of `axes`, `indent` columns from the left.
fn brackets(axes: &[Axis], cells: &[String], indent: usize, out: &mut String) {
    let Some((axis, rest)) = axes.split_first() else {
        out.push_str(&cells[0]);
        return;
    };
    out.push('[');
    let margin = " ".repeat(indent);
    if rest.is_empty() {
        // A line ends where a closing bracket for each axis would no longer fit.
        let end = WIDTH.saturating_sub(indent);
        let mut column = indent;
        let mut word = |text: &str, last: bool| {
            if column + text.len() > end && column > indent {
                out.truncate(out.trim_end_matches(' ').len());
                out.push('\n');
                out.push_str(&margin);
                column = indent;
            }
            out.push_str(text);
            column += text.len() + 1;
            if !last {
                out.push(' ');
            }
        };
        for (i, cell) in cells.iter().enumerate() {
            if axis.cut && i == EDGE {
                word("...", false);
            }
            word(cell, i + 1 == cells.len());
        }
    } else {
        let each = cells.len() / axis.shown;
        for (i, part) in cells.chunks(each).enumerate() {
            if i > 0 {
                out.push_str(&"\n".repeat(rest.len()));
                out.push_str(&margin);
            }
            if axis.cut && i == EDGE {
                out.push_str("...");
                out.push_str(&"\n".repeat(rest.len()));
                out.push_str(&margin);
            }
            brackets(rest, part, indent + 1, out);
        }
    }
    out.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NumPy has no bfloat16; the rule is the one of its other dtypes.
    #[test]
    fn bf16_has_its_own_digits() {
        let b = |v: f64| rounded(v, DType::BF16);
        assert_eq!(floats(&[b(0.1), b(1.0 / 3.0)], DType::BF16, 8), ["0.1  ", "0.334"]);
        assert_eq!(floats(&[b(300.0), 2.0], DType::BF16, 8), ["3.e+02", "2.e+00"]);
        assert_eq!(scalar(b(0.1), DType::BF16, None), "0.1");
    }

    #[test]
    fn precision_can_be_asked_for() {
        assert_eq!(floats(&[1.5, 0.333], DType::F64, 1), ["1.5", "0.3"]);
        assert_eq!(floats(&[1e12], DType::F64, 2), ["1.e+12"]);
        assert_eq!(scalar(2.0 / 3.0, DType::F64, Some(2)), "0.67");
    }
}

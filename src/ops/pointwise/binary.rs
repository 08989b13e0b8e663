//! Functions of two tensors, or of a tensor and a number: arithmetic, comparisons, logic, bits.

use super::prelude as wg;
use super::tile::{Bits, Num, Truth};
use super::{Back, Row, Rule, Side, apply, each, floats, integers, numbers, wgsl};
use crate::codegen::math;
use crate::codegen::program::Def;
use crate::{DType, Error, Operand, Result, Scalar, Tensor};

const NONE: &str = "";

/// How max and min share a cotangent: nothing for the loser, half of it each in a tie, all of it for both where one is NaN.
fn shared(g: &Tensor, equal: Tensor, loser: Tensor) -> Result<Tensor> {
    loser.try_where(0.0, equal.try_where(g.try_mul(0.5)?, g)?)
}

/// Argument `i` as a tensor or a number.
fn side(c: &Back, i: usize) -> Side<'_> {
    (&c.args[i]).into()
}

/// A binary op between tensors and numbers; between two numbers it is done here.
fn both(row: &'static Row, number: fn(f64, f64) -> f64, a: Side, b: Side) -> Result<Operand> {
    match (a, b) {
        (Side::Scalar(a), Side::Scalar(b)) => Ok(Scalar::Float(number(a.as_f64(), b.as_f64())).into()),
        _ => Ok(apply(row, &[a, b])?.into()),
    }
}

/// d(x^p)/dx = p·x^(p−1), and 0 for p = 0 whatever x is.
fn pow_base(c: &Back) -> Result<Tensor> {
    let x = c.tensor(0)?;
    match &c.args[1] {
        Operand::Scalar(p) if p.as_f64() == 0.0 => c.g.try_zeros_like(),
        Operand::Scalar(p) => c.g.try_mul(x.try_pow(p.as_f64() - 1.0)?.try_mul(*p)?),
        Operand::Tensor(p) => {
            let slope = x.try_pow(p.try_sub(1.0)?)?.try_mul(p)?;
            p.try_eq(0.0)?.try_where(0.0, c.g.try_mul(slope)?)
        }
    }
}

/// d(x^p)/dp = x^p·ln x, and 0 where x = 0 and p ≥ 0.
fn pow_exponent(c: &Back) -> Result<Tensor> {
    let p = c.tensor(1)?;
    match &c.args[0] {
        Operand::Scalar(x) if x.as_f64() == 0.0 => p.try_ge(0.0)?.try_where(0.0, c.g.try_mul(&c.y)?.try_mul(f64::NEG_INFINITY)?),
        Operand::Scalar(x) => c.g.try_mul(&c.y)?.try_mul(x.as_f64().ln()),
        Operand::Tensor(x) => {
            let zero = x.try_eq(0.0)?.try_logical_and(p.try_ge(0.0)?)?;
            zero.try_where(0.0, c.g.try_mul(&c.y)?.try_mul(x.try_log()?)?)
        }
    }
}

/// The derivatives of atan2: g·a / (x² + y²), 0 where that sum is 0.
fn atan2_slope(c: &Back, a: usize) -> Result<Tensor> {
    let square = |i: usize| both(&rows::mul, |a, b| a * b, side(c, i), side(c, i));
    let (x, y) = (square(0)?, square(1)?);
    let sum = match both(&rows::add, |a, b| a + b, (&x).into(), (&y).into())? {
        Operand::Tensor(t) => t,
        Operand::Scalar(s) => c.g.try_full_like(s)?,
    };
    sum.try_eq(0.0)?.try_where(0.0, c.g.try_mul(&c.args[a])?.try_div(&sum)?)
}

/// d(x ln y)/dx = ln y, and 0 where the function is 0 by its rule alone.
fn xlogy_factor(c: &Back) -> Result<Tensor> {
    let slope = apply(&rows::xlogy, &[(&c.g).into(), side(c, 1)])?;
    let zero = c.tensor(0)?.try_eq(0.0)?;
    match &c.args[1] {
        Operand::Tensor(y) => zero.try_logical_and(y.try_le(0.0)?)?.try_where(0.0, slope),
        Operand::Scalar(y) if y.as_f64() <= 0.0 => zero.try_where(0.0, slope),
        Operand::Scalar(_) => Ok(slope),
    }
}

/// A table of functions of two arguments: rows of
/// `name try_name, Rule, domains, cpu, wgsl, prelude, [derivatives];` each with its doc.
macro_rules! binary_table {
    ($($(#[$doc:meta])* $name:ident $try_name:ident, $rule:ident, [$($domain:expr),*],
        $cpu:expr, $wgsl:expr, $prelude:expr, [$($grad:expr),*];)*) => {
        /// The rows, by name.
        #[allow(non_upper_case_globals)]
        pub(crate) mod rows {
            use super::*;
            $(pub(crate) static $name: Row = Row {
                def: Def { name: stringify!($name), cpu: $cpu, wgsl: $wgsl, prelude: $prelude },
                rule: Rule::$rule,
                grads: &[$($grad),*],
                domain: &[$($domain),*],
            };)*
        }

        #[cfg(test)]
        pub(crate) static ROWS: &[&Row] = &[$(&rows::$name),*];

        #[fornax_derive::fallible]
        impl Tensor {
            $(
                $(#[$doc])*
                ///
                /// The right side is a tensor, broadcast by NumPy's rule and promoted with this one, or a number, which takes this tensor's
                /// dtype unless it is of a higher kind.
                ///
                /// # Errors
                /// Shapes that do not broadcast, different devices, a dtype that the op does not take.
                pub fn $try_name(&self, rhs: impl Into<Operand>) -> Result<Tensor> {
                    binary(&rows::$name, self, &rhs.into())
                }
            )*
        }
    };
}

fn binary(row: &'static Row, lhs: &Tensor, rhs: &Operand) -> Result<Tensor> {
    if std::ptr::eq(row, &rows::pow)
        && let Operand::Scalar(p) = rhs
        && let Some(y) = literal_power(lhs, *p)?
    {
        return Ok(y);
    }
    apply(row, &[lhs.into(), rhs.into()])
}

/// Powers that are other ops: the common ones, exactly rounded.
fn literal_power(x: &Tensor, p: Scalar) -> Result<Option<Tensor>> {
    let float = x.dtype().is_float();
    if x.dtype().is_int() && matches!(p, Scalar::Int(n) if n < 0) {
        return Err(Error::argument("pow", "integers to a negative power: cast the base to a float dtype first"));
    }
    if x.dtype().is_int() && matches!(p, Scalar::Int(_)) {
        p.fit("pow", x.dtype())?;
    }
    if !float && matches!(p, Scalar::Float(_)) {
        return literal_power(&x.try_cast(DType::F32)?, p);
    }
    Ok(match p.as_f64() {
        _ if x.dtype() == DType::Bool => None,
        2.0 => Some(x.try_square()?),
        3.0 => Some(x.try_square()?.try_mul(x)?),
        0.5 if float => Some(x.try_sqrt()?),
        -0.5 if float => Some(x.try_rsqrt()?),
        -1.0 if float => Some(x.try_recip()?),
        _ => None,
    })
}

/// A comparison: bools count as 0 and 1.
macro_rules! compare {
    ($f:expr) => {
        numbers!(map2, Bool Truth => bool, $f)
    };
}

binary_table! {
    /// `self + rhs`; on bools, or.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], 2, Device::cpu())?;
    /// assert_eq!((&x + 2.0).to_vec::<f32>()?, [3.0, 4.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    add try_add, Same, [(-4.0, 4.0), (-4.0, 4.0)],
        |d| if d == DType::Bool { super::super::tile::tile!(map2, Truth, Truth => Truth, Bits::or) } else { (numbers!(map2 => T, Num::add))(d) },
        wgsl!(F32 | I32 | U32 => "($0 + $1)", U8 => "(($0 + $1) & 0xffu)", Bool => "($0 || $1)"), NONE,
        [|c| Ok(c.g.clone()), |c| Ok(c.g.clone())];
    /// `self - rhs`.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], 2, Device::cpu())?;
    /// assert_eq!((3.0 - &x).to_vec::<f32>()?, [2.0, 1.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    sub try_sub, Same, [(-4.0, 4.0), (-4.0, 4.0)], numbers!(map2 => T, Num::sub),
        wgsl!(F32 | I32 | U32 => "($0 - $1)", U8 => "(($0 - $1) & 0xffu)"), NONE,
        [|c| Ok(c.g.clone()), |c| c.g.try_neg()];
    /// `self · rhs`; on bools, and.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1, 2, 3, 4], [2, 2], Device::cpu())?;
    /// let y = Tensor::from_slice(&[10, 100], 2, Device::cpu())?;
    /// assert_eq!((&x * &y).to_vec::<i32>()?, [10, 200, 30, 400]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    mul try_mul, Same, [(-4.0, 4.0), (-4.0, 4.0)],
        |d| if d == DType::Bool { super::super::tile::tile!(map2, Truth, Truth => Truth, Bits::and) } else { (numbers!(map2 => T, Num::mul))(d) },
        wgsl!(F32 | I32 | U32 => "($0 * $1)", U8 => "(($0 * $1) & 0xffu)", Bool => "($0 && $1)"), NONE,
        [|c| c.g.try_mul(&c.args[1]), |c| c.g.try_mul(&c.args[0])];
    /// `self / rhs`: true division, in f32 for integers.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1, 2], 2, Device::cpu())?;
    /// assert_eq!((&x / 2).to_vec::<f32>()?, [0.5, 1.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    div try_div, Float, [(-4.0, 4.0), (0.3, 4.0)], floats!(map2: |a, b| a / b, |a, b| a / b), wgsl!(F32 => "($0 / $1)"), NONE,
        [|c| c.g.try_div(&c.args[1]), |c| c.g.try_mul(&c.y)?.try_div(c.tensor(1)?)?.try_neg()];
    /// The remainder of `self / rhs` with the sign of the divisor, as Python's and PyTorch's `%`. An integer divided by 0 gives 0.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[-7, 7], 2, Device::cpu())?;
    /// assert_eq!(x.rem(4).to_vec::<i32>()?, [1, 3]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    rem try_rem, Same, [(-4.0, 4.0), (0.7, 1.3)], numbers!(map2 => T, Num::rem),
        wgsl!(F32 => "fx_rem_f($0, $1)", I32 => "fx_rem_i($0, $1)", U32 | U8 => "fx_rem_u($0, $1)"), wg::REM,
        [|c| Ok(c.g.clone()), |c| {
            let q = apply(&rows::floor_div, &[side(c, 0), side(c, 1)])?;
            c.g.try_mul(q)?.try_neg()
        }];
    /// The remainder of `self / rhs` with the sign of the dividend, as C's `fmod`. An integer divided by 0 gives 0.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[-7, 7], 2, Device::cpu())?;
    /// assert_eq!(x.fmod(4).to_vec::<i32>()?, [-3, 3]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    fmod try_fmod, Same, [(-4.0, 4.0), (0.7, 1.3)], numbers!(map2 => T, Num::fmod),
        wgsl!(F32 => "fx_fmod_f($0, $1)", I32 => "fx_fmod_i($0, $1)", U32 | U8 => "fx_fmod_u($0, $1)"), wg::FMOD,
        [|c| Ok(c.g.clone()), |c| {
            let q = apply(&rows::div, &[side(c, 0), side(c, 1)])?.try_trunc()?;
            c.g.try_mul(q)?.try_neg()
        }];
    /// The quotient, rounded down. An integer divided by 0 gives 0. The derivative is 0.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[-7, 7], 2, Device::cpu())?;
    /// assert_eq!(x.floor_div(4).to_vec::<i32>()?, [-2, 1]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    floor_div try_floor_div, Same, [(-4.0, 4.0), (0.7, 1.3)], numbers!(map2 => T, Num::floor_div),
        wgsl!(F32 => "fx_floor_div_f($0, $1)", I32 => "fx_floor_div_i($0, $1)", U32 | U8 => "fx_floor_div_u($0, $1)"), wg::FLOOR_DIV,
        [|c| c.g.try_zeros_like(), |c| c.g.try_zeros_like()];
    /// `self` to the power `rhs`, by C's rules for signs, zeros and NaN. Integers wrap, and a negative integer power gives the truncated
    /// reciprocal (a negative *number* as power of an integer tensor is an error).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[2.0f32, 3.0], 2, Device::cpu())?;
    /// assert_eq!(x.pow(2).to_vec::<f32>()?, [4.0, 9.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pow try_pow, Same, [(0.3, 3.0), (-2.0, 2.0)], numbers!(map2 => T, Num::pow),
        wgsl!(F32 => "fx_pow_f($0, $1)", I32 => "fx_pow_i($0, $1)", U32 => "fx_pow_u($0, $1)", U8 => "(fx_pow_u($0, $1) & 0xffu)"), wg::POW,
        [pow_base, pow_exponent];
    /// `self · ln rhs`, and 0 where `self` is 0 whatever `rhs` is (but NaN).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[0.0f32, 2.0], 2, Device::cpu())?;
    /// assert_eq!(x.xlogy(&x).to_vec::<f32>()?, [0.0, 2.0 * 2f32.ln()]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    xlogy try_xlogy, Float, [(-4.0, 4.0), (0.3, 4.0)],
        floats!(map2: |x, y| { let v = x * math::log(y); if x == 0.0 && !y.is_nan() { 0.0 } else { v } },
            |x, y| { let v = x * y.ln(); if x == 0.0 && !y.is_nan() { 0.0 } else { v } }),
        wgsl!(F32 => "select($0 * fx_log($1), 0.0, $0 == 0.0 && (bitcast<u32>($1) & 0x7fffffffu) <= 0x7f800000u)"), wg::LOG,
        [xlogy_factor, |c| c.g.try_mul(&c.args[0])?.try_div(c.tensor(1)?)];
    /// The larger of both; NaN where either is. Ties share the cotangent; both get it where one is NaN.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 3.0], 2, Device::cpu())?;
    /// assert_eq!(x.maximum(2.0).to_vec::<f32>()?, [2.0, 3.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    maximum try_maximum, Bounded, [(-4.0, 4.0), (-4.0, 4.0)],
        |d| if d == DType::Bool { super::super::tile::tile!(map2, Truth, Truth => Truth, Bits::or) } else { (numbers!(map2 => T, Num::maximum))(d) },
        wgsl!(F32 => "fx_maximum($0, $1)", I32 | U32 | U8 => "max($0, $1)", Bool => "($0 || $1)"), wg::MAXIMUM,
        [|c| shared(&c.g, c.tensor(0)?.try_eq(&c.args[1])?, c.tensor(0)?.try_lt(&c.args[1])?),
         |c| shared(&c.g, c.tensor(1)?.try_eq(&c.args[0])?, c.tensor(1)?.try_lt(&c.args[0])?)];
    /// The smaller of both; NaN where either is. Ties share the cotangent; both get it where one is NaN.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 3.0], 2, Device::cpu())?;
    /// assert_eq!(x.minimum(2.0).to_vec::<f32>()?, [1.0, 2.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    minimum try_minimum, Bounded, [(-4.0, 4.0), (-4.0, 4.0)],
        |d| if d == DType::Bool { super::super::tile::tile!(map2, Truth, Truth => Truth, Bits::and) } else { (numbers!(map2 => T, Num::minimum))(d) },
        wgsl!(F32 => "fx_minimum($0, $1)", I32 | U32 | U8 => "min($0, $1)", Bool => "($0 && $1)"), wg::MINIMUM,
        [|c| shared(&c.g, c.tensor(0)?.try_eq(&c.args[1])?, c.tensor(0)?.try_gt(&c.args[1])?),
         |c| shared(&c.g, c.tensor(1)?.try_eq(&c.args[0])?, c.tensor(1)?.try_gt(&c.args[0])?)];
    /// The angle in (-π, π] of the point (x = rhs, y = self).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let y = Tensor::from_slice(&[1.0f32, -1.0], 2, Device::cpu())?;
    /// let angle = y.atan2(-1.0).to_vec::<f32>()?;
    /// assert!((angle[0] - 2.3561945).abs() < 1e-6 && angle[1] == -angle[0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    atan2 try_atan2, Float, [(0.3, 3.0), (-3.0, 3.0)], floats!(map2: f32::atan2, f64::atan2), wgsl!(F32 => "fx_atan2($0, $1)"), wg::ATAN2,
        [|c| atan2_slope(c, 1), |c| atan2_slope(c, 0)?.try_neg()];
    /// Whether `self == rhs`: a bool. NaN equals nothing.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1, 2, 3], 3, Device::cpu())?;
    /// assert_eq!(x.eq(2).to_vec::<bool>()?, [false, true, false]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    eq try_eq, Compare, [(-4.0, 4.0), (-4.0, 4.0)], compare!(|a, b| a == b),
        wgsl!(F32 | I32 | U32 | U8 | Bool => "($0 == $1)"), NONE, [];
    /// Whether `self != rhs`: a bool. NaN differs from everything.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1, 2, 3], 3, Device::cpu())?;
    /// assert_eq!(x.ne(2).to_vec::<bool>()?, [true, false, true]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ne try_ne, Compare, [(-4.0, 4.0), (-4.0, 4.0)], compare!(|a, b| a != b),
        wgsl!(F32 => "!($0 == $1)", I32 | U32 | U8 | Bool => "($0 != $1)"), NONE, [];
    /// Whether `self < rhs`: a bool.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1, 2, 3], 3, Device::cpu())?;
    /// assert_eq!(x.lt(2).to_vec::<bool>()?, [true, false, false]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    lt try_lt, Compare, [(-4.0, 4.0), (-4.0, 4.0)], compare!(|a, b| a < b),
        wgsl!(F32 | I32 | U32 | U8 => "($0 < $1)", Bool => "(!$0 && $1)"), NONE, [];
    /// Whether `self <= rhs`: a bool.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1, 2, 3], 3, Device::cpu())?;
    /// assert_eq!(x.le(2).to_vec::<bool>()?, [true, true, false]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    le try_le, Compare, [(-4.0, 4.0), (-4.0, 4.0)], compare!(|a, b| a <= b),
        wgsl!(F32 | I32 | U32 | U8 => "($0 <= $1)", Bool => "(!$0 || $1)"), NONE, [];
    /// Whether `self > rhs`: a bool.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1, 2, 3], 3, Device::cpu())?;
    /// assert_eq!(x.gt(2).to_vec::<bool>()?, [false, false, true]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    gt try_gt, Compare, [(-4.0, 4.0), (-4.0, 4.0)], compare!(|a, b| a > b),
        wgsl!(F32 | I32 | U32 | U8 => "($0 > $1)", Bool => "($0 && !$1)"), NONE, [];
    /// Whether `self >= rhs`: a bool.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1, 2, 3], 3, Device::cpu())?;
    /// assert_eq!(x.ge(2).to_vec::<bool>()?, [false, true, true]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ge try_ge, Compare, [(-4.0, 4.0), (-4.0, 4.0)], compare!(|a, b| a >= b),
        wgsl!(F32 | I32 | U32 | U8 => "($0 >= $1)", Bool => "($0 || !$1)"), NONE, [];
    /// Whether both are nonzero: a bool.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[0, 2], 2, Device::cpu())?;
    /// assert_eq!(x.logical_and(true).to_vec::<bool>()?, [false, true]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    logical_and try_logical_and, Logical, [(-4.0, 4.0), (-4.0, 4.0)], each!(map2, [Bool Truth] => T, Bits::and),
        wgsl!(Bool => "($0 && $1)"), NONE, [];
    /// Whether one or both are nonzero: a bool.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[0, 2], 2, Device::cpu())?;
    /// assert_eq!(x.logical_or(false).to_vec::<bool>()?, [false, true]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    logical_or try_logical_or, Logical, [(-4.0, 4.0), (-4.0, 4.0)], each!(map2, [Bool Truth] => T, Bits::or),
        wgsl!(Bool => "($0 || $1)"), NONE, [];
    /// Whether exactly one is nonzero: a bool.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[0, 2], 2, Device::cpu())?;
    /// assert_eq!(x.logical_xor(true).to_vec::<bool>()?, [true, false]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    logical_xor try_logical_xor, Logical, [(-4.0, 4.0), (-4.0, 4.0)], each!(map2, [Bool Truth] => T, Bits::xor),
        wgsl!(Bool => "($0 != $1)"), NONE, [];
    /// The bits set in both. Integers and bools only.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[5, 6], 2, Device::cpu())?;
    /// assert_eq!((&x & 3).to_vec::<i32>()?, [1, 2]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    bitand try_bitand, Same, [(-4.0, 4.0), (-4.0, 4.0)], integers!(map2, Bool Truth => T, Bits::and),
        wgsl!(I32 | U32 | U8 => "($0 & $1)", Bool => "($0 && $1)"), NONE, [];
    /// The bits set in either. Integers and bools only.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[5, 6], 2, Device::cpu())?;
    /// assert_eq!((&x | 3).to_vec::<i32>()?, [7, 7]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    bitor try_bitor, Same, [(-4.0, 4.0), (-4.0, 4.0)], integers!(map2, Bool Truth => T, Bits::or),
        wgsl!(I32 | U32 | U8 => "($0 | $1)", Bool => "($0 || $1)"), NONE, [];
    /// The bits set in one of both. Integers and bools only.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[5, 6], 2, Device::cpu())?;
    /// assert_eq!((&x ^ 3).to_vec::<i32>()?, [6, 5]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    bitxor try_bitxor, Same, [(-4.0, 4.0), (-4.0, 4.0)], integers!(map2, Bool Truth => T, Bits::xor),
        wgsl!(I32 | U32 | U8 => "($0 ^ $1)", Bool => "($0 != $1)"), NONE, [];
    /// `self` shifted left by `rhs` bits. A count that is negative, or the width or more, gives 0. Integers only.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[5, 6], 2, Device::cpu())?;
    /// assert_eq!(x.shl(2).to_vec::<i32>()?, [20, 24]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    shl try_shl, Same, [(-4.0, 4.0), (0.0, 4.0)], integers!(map2 => T, Bits::shl),
        wgsl!(I32 => "fx_shl_i($0, $1)", U32 => "fx_shl_u($0, $1, 32u)", U8 => "(fx_shl_u($0, $1, 8u) & 0xffu)"), wg::SHL, [];
    /// `self` shifted right by `rhs` bits, with copies of the sign. A count that is negative, or the width or more, gives 0 or -1. Integers only.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[5, -6], 2, Device::cpu())?;
    /// assert_eq!(x.shr(1).to_vec::<i32>()?, [2, -3]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    shr try_shr, Same, [(-4.0, 4.0), (0.0, 4.0)], integers!(map2 => T, Bits::shr),
        wgsl!(I32 => "fx_shr_i($0, $1)", U32 => "fx_shr_u($0, $1, 32u)", U8 => "fx_shr_u($0, $1, 8u)"), wg::SHR, [];
}

/// A number and a tensor, in this order.
pub(crate) fn reversed(row: &'static Row, lhs: Scalar, rhs: &Tensor) -> Result<Tensor> {
    apply(row, &[Side::Scalar(lhs), rhs.into()])
}

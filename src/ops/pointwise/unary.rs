//! Functions of one tensor: signs, roundings, powers, exponentials, logarithms, trigonometry, tests.

use super::prelude as wg;
use super::tile::{Bits, Num, Truth};
use super::{Row, Rule, apply, each, floats, integers, numbers, unary_table, wgsl};
use crate::codegen::math;
use crate::codegen::program::Def;
use crate::{DType, Result, Tensor};
use std::f64::consts as c;

/// A float function of f32 that reduces its argument up to a limit, with the standard library's beyond.
macro_rules! trig {
    ($name:ident) => {
        |d| match d {
            DType::F32 => {
                struct F;
                impl super::super::tile::Tile for F {
                    #[inline(always)]
                    unsafe fn run(n: usize, args: &[*const u8], out: *mut u8) {
                        unsafe { super::super::tile::map_within(n, args, out, math::TRIG_LIMIT, math::$name, f32::$name) }
                    }
                }
                Some(super::super::tile::versions::<F>())
            }
            DType::F64 => super::super::tile::tile!(map1, f64 => f64, f64::$name),
            _ => None,
        }
    };
}

/// A rounding: the identity on integers.
macro_rules! rounding {
    ($name:ident) => {
        |d| match d {
            DType::F32 => super::super::tile::tile!(map1, f32 => f32, f32::$name),
            DType::F64 => super::super::tile::tile!(map1, f64 => f64, f64::$name),
            _ => (integers!(map1 => T, |x| x))(d),
        }
    };
}

const NONE: &str = "";

fn zero(g: &Tensor) -> Result<Tensor> {
    g.try_zeros_like()
}

unary_table! {
    /// `-x`. Integers wrap.
    neg try_neg (1.5 => -1.5), Same, (-4.0, 4.0), numbers!(map1 => T, Num::neg),
        wgsl!(F32 | I32 => "-$0", U32 => "(0u - $0)", U8 => "((0u - $0) & 0xffu)"), NONE,
        |_, _, g| g.try_neg();
    /// `|x|`. Its derivative at 0 is 0.
    abs try_abs (-1.5 => 1.5), Same, (-4.0, 4.0), numbers!(map1 => T, Num::abs),
        wgsl!(F32 | I32 => "abs($0)", U32 | U8 => "$0"), NONE,
        |x, _, g| g.try_mul(x.try_sign()?);
    /// -1, 0 or 1 by the sign of x; NaN for NaN. Its derivative is 0.
    sign try_sign (-1.5 => -1.0), Same, (-4.0, 4.0), numbers!(map1 => T, Num::sign),
        wgsl!(F32 => "select(sign($0), $0, (bitcast<u32>($0) & 0x7fffffffu) > 0x7f800000u)", I32 => "sign($0)",
            U32 | U8 => "min($0, 1u)"), NONE,
        |_, _, g| zero(g);
    /// `x²`.
    square try_square (3.0 => 9.0), Same, (-4.0, 4.0), numbers!(map1 => T, |x| x.mul(x)),
        wgsl!(F32 | I32 | U32 => "($0 * $0)", U8 => "(($0 * $0) & 0xffu)"), NONE,
        |x, _, g| g.try_mul(x)?.try_mul(2.0);
    /// `1 / x`.
    recip try_recip (4.0 => 0.25), Float, (0.3, 4.0), floats!(map1: |x| 1.0 / x, |x| 1.0 / x), wgsl!(F32 => "(1.0 / $0)"), NONE,
        |_, y, g| g.try_mul(y.try_square()?)?.try_neg();
    /// `√x`; NaN below 0.
    sqrt try_sqrt (9.0 => 3.0), Float, (0.3, 4.0), floats!(map1: f32::sqrt, f64::sqrt), wgsl!(F32 => "sqrt($0)"), NONE,
        |_, y, g| g.try_div(y.try_mul(2.0)?);
    /// `1 / √x`.
    rsqrt try_rsqrt (4.0 => 0.5), Float, (0.3, 4.0), floats!(map1: |x| 1.0 / x.sqrt(), |x| 1.0 / x.sqrt()),
        wgsl!(F32 => "inverseSqrt($0)"), NONE,
        |_, y, g| g.try_mul(y.try_square()?.try_mul(y)?)?.try_mul(-0.5);
    /// `eˣ`.
    exp try_exp (1.0 => 2.718_281_8), Float, (-4.0, 4.0), floats!(map1: math::exp, f64::exp), wgsl!(F32 => "fx_exp($0)"), wg::EXP,
        |_, y, g| g.try_mul(y);
    /// `2ˣ`.
    exp2 try_exp2 (3.0 => 8.0), Float, (-4.0, 4.0), floats!(map1: math::exp2, f64::exp2), wgsl!(F32 => "fx_exp2($0)"), wg::EXP2,
        |_, y, g| g.try_mul(y)?.try_mul(c::LN_2);
    /// `eˣ − 1`, accurate near 0.
    expm1 try_expm1 (1.0 => 1.718_281_8), Float, (-4.0, 4.0), floats!(map1: math::expm1, f64::exp_m1),
        wgsl!(F32 => "fx_expm1($0)"), wg::EXPM1,
        |_, y, g| g.try_mul(y.try_add(1.0)?);
    /// `ln x`; -∞ at 0, NaN below.
    log try_log (2.718_281_8 => 1.0), Float, (0.3, 4.0), floats!(map1: math::log, f64::ln), wgsl!(F32 => "fx_log($0)"), wg::LOG,
        |x, _, g| g.try_div(x);
    /// `log₂ x`.
    log2 try_log2 (8.0 => 3.0), Float, (0.3, 4.0), floats!(map1: math::log2, f64::log2), wgsl!(F32 => "fx_log2($0)"), wg::LOG2,
        |x, _, g| g.try_div(x.try_mul(c::LN_2)?);
    /// `log₁₀ x`.
    log10 try_log10 (1000.0 => 3.0), Float, (0.3, 4.0), floats!(map1: math::log10, f64::log10),
        wgsl!(F32 => "fx_log10($0)"), wg::LOG10,
        |x, _, g| g.try_div(x.try_mul(c::LN_10)?);
    /// `ln(1 + x)`, accurate near 0.
    log1p try_log1p (1.0 => 0.693_147_2), Float, (-0.6, 4.0), floats!(map1: math::log1p, f64::ln_1p),
        wgsl!(F32 => "fx_log1p($0)"), wg::LOG1P,
        |x, _, g| g.try_div(x.try_add(1.0)?);
    /// `sin x`, x in radians.
    sin try_sin (0.5 => 0.479_425_5), Float, (-4.0, 4.0), trig!(sin), wgsl!(F32 => "fx_sin($0)"), wg::SIN,
        |x, _, g| g.try_mul(x.try_cos()?);
    /// `cos x`, x in radians.
    cos try_cos (0.5 => 0.877_582_6), Float, (-4.0, 4.0), trig!(cos), wgsl!(F32 => "fx_cos($0)"), wg::COS,
        |x, _, g| g.try_mul(x.try_sin()?)?.try_neg();
    /// `tan x`, x in radians.
    tan try_tan (0.5 => 0.546_302_5), Float, (-1.2, 1.2), trig!(tan), wgsl!(F32 => "fx_tan($0)"), wg::TAN,
        |_, y, g| g.try_mul(y.try_square()?.try_add(1.0)?);
    /// The angle in [-π/2, π/2] whose sine is x.
    asin try_asin (0.5 => 0.523_598_8), Float, (-0.8, 0.8), floats!(map1: f32::asin, f64::asin),
        wgsl!(F32 => "fx_asin($0)"), wg::ASIN,
        |x, _, g| g.try_mul(x.try_square()?.try_neg()?.try_add(1.0)?.try_rsqrt()?);
    /// The angle in [0, π] whose cosine is x.
    acos try_acos (0.5 => 1.047_197_6), Float, (-0.8, 0.8), floats!(map1: f32::acos, f64::acos),
        wgsl!(F32 => "fx_acos($0)"), wg::ACOS,
        |x, _, g| g.try_mul(x.try_square()?.try_neg()?.try_add(1.0)?.try_rsqrt()?)?.try_neg();
    /// The angle in (-π/2, π/2) whose tangent is x.
    atan try_atan (1.0 => 0.785_398_2), Float, (-4.0, 4.0), floats!(map1: f32::atan, f64::atan),
        wgsl!(F32 => "fx_atan($0)"), wg::ATAN,
        |x, _, g| g.try_div(x.try_square()?.try_add(1.0)?);
    /// `(eˣ − e⁻ˣ) / 2`.
    sinh try_sinh (1.0 => 1.175_201_2), Float, (-4.0, 4.0), floats!(map1: math::sinh, f64::sinh),
        wgsl!(F32 => "fx_sinh($0)"), wg::SINH,
        |x, _, g| g.try_mul(x.try_cosh()?);
    /// `(eˣ + e⁻ˣ) / 2`.
    cosh try_cosh (1.0 => 1.543_080_6), Float, (-4.0, 4.0), floats!(map1: math::cosh, f64::cosh),
        wgsl!(F32 => "fx_cosh($0)"), wg::COSH,
        |x, _, g| g.try_mul(x.try_sinh()?);
    /// `(eˣ − e⁻ˣ) / (eˣ + e⁻ˣ)`.
    tanh try_tanh (0.5 => 0.462_117_2), Float, (-4.0, 4.0), floats!(map1: math::tanh, f64::tanh),
        wgsl!(F32 => "fx_tanh($0)"), wg::TANH,
        |_, y, g| g.try_mul(y.try_square()?.try_neg()?.try_add(1.0)?);
    /// The number whose hyperbolic sine is x.
    asinh try_asinh (1.0 => 0.881_373_6), Float, (-4.0, 4.0), floats!(map1: math::asinh, f64::asinh),
        wgsl!(F32 => "fx_asinh($0)"), wg::ASINH,
        |x, _, g| g.try_mul(x.try_square()?.try_add(1.0)?.try_rsqrt()?);
    /// The number from 0 on whose hyperbolic cosine is x; NaN below 1.
    acosh try_acosh (2.0 => 1.316_957_9), Float, (1.3, 4.0), floats!(map1: math::acosh, f64::acosh),
        wgsl!(F32 => "fx_acosh($0)"), wg::ACOSH,
        |x, _, g| g.try_mul(x.try_sub(1.0)?.try_mul(x.try_add(1.0)?)?.try_rsqrt()?);
    /// The number whose hyperbolic tangent is x.
    atanh try_atanh (0.5 => 0.549_306_1), Float, (-0.8, 0.8), floats!(map1: math::atanh, math::atanh64),
        wgsl!(F32 => "fx_atanh($0)"), wg::ATANH,
        |x, _, g| g.try_div(x.try_square()?.try_neg()?.try_add(1.0)?);
    /// The error function `2/√π ∫₀ˣ e^(−t²) dt`.
    erf try_erf (0.5 => 0.520_499_9), Float, (-3.0, 3.0), floats!(map1: math::erf, math::erf64), wgsl!(F32 => "fx_erf($0)"), wg::ERF,
        |x, _, g| g.try_mul(x.try_square()?.try_neg()?.try_exp()?)?.try_mul(c::FRAC_2_SQRT_PI);
    /// The largest integer up to x. Its derivative is 0, as of all roundings.
    floor try_floor (-1.5 => -2.0), Same, (-4.0, 4.0), rounding!(floor),
        wgsl!(F32 => "floor($0)", I32 | U32 | U8 => "$0"), NONE, |_, _, g| zero(g);
    /// The smallest integer from x on.
    ceil try_ceil (-1.5 => -1.0), Same, (-4.0, 4.0), rounding!(ceil),
        wgsl!(F32 => "ceil($0)", I32 | U32 | U8 => "$0"), NONE, |_, _, g| zero(g);
    /// The nearest integer; halves go to the even one.
    round try_round (2.5 => 2.0), Same, (-4.0, 4.0), rounding!(round_ties_even),
        wgsl!(F32 => "round($0)", I32 | U32 | U8 => "$0"), NONE, |_, _, g| zero(g);
    /// The integer part.
    trunc try_trunc (-1.5 => -1.0), Same, (-4.0, 4.0), rounding!(trunc),
        wgsl!(F32 => "trunc($0)", I32 | U32 | U8 => "$0"), NONE, |_, _, g| zero(g);
    /// `x − trunc(x)`, with the sign of x.
    fract try_fract (-1.5 => -0.5), Float, (-4.0, 4.0), floats!(map1: |x| x - x.trunc(), |x| x - x.trunc()),
        wgsl!(F32 => "($0 - trunc($0))"), NONE, |_, _, g| Ok(g.clone());
}

/// A table of tests on one tensor: rows of `name try_name, Rule, cpu, wgsl;`.
macro_rules! test_table {
    ($($(#[$doc:meta])* $name:ident $try_name:ident, $rule:ident, $cpu:expr, $wgsl:expr;)*) => {
        #[allow(non_upper_case_globals)]
        pub(crate) mod tests_rows {
            use super::*;
            $(pub(crate) static $name: Row = Row {
                def: Def { name: stringify!($name), cpu: $cpu, wgsl: $wgsl, prelude: "" },
                rule: Rule::$rule,
                grads: &[],
                domain: &[(-4.0, 4.0)],
            };)*
        }

        #[cfg(test)]
        pub(crate) static TESTS: &[&Row] = &[$(&tests_rows::$name),*];

        #[fornax_derive::fallible]
        impl Tensor {
            $(
                $(#[$doc])*
                pub fn $try_name(&self) -> Result<Tensor> {
                    apply(&tests_rows::$name, &[self.into()])
                }
            )*
        }
    };
}

test_table! {
    /// Whether an element is NaN (never, for integers).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, f32::NAN], 2, Device::cpu())?;
    /// assert_eq!(x.isnan().to_vec::<bool>()?, [false, true]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    isnan try_isnan, Compare, |d| match d {
        DType::F32 => super::super::tile::tile!(map1, f32 => bool, f32::is_nan),
        DType::F64 => super::super::tile::tile!(map1, f64 => bool, f64::is_nan),
        _ => (integers!(map1, Bool Truth => bool, |_| false))(d),
    }, wgsl!(F32 => "((bitcast<u32>($0) & 0x7fffffffu) > 0x7f800000u)", I32 | U32 | U8 | Bool => "false");
    /// Whether an element is +∞ or −∞ (never, for integers).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, f32::NEG_INFINITY], 2, Device::cpu())?;
    /// assert_eq!(x.isinf().to_vec::<bool>()?, [false, true]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    isinf try_isinf, Compare, |d| match d {
        DType::F32 => super::super::tile::tile!(map1, f32 => bool, f32::is_infinite),
        DType::F64 => super::super::tile::tile!(map1, f64 => bool, f64::is_infinite),
        _ => (integers!(map1, Bool Truth => bool, |_| false))(d),
    }, wgsl!(F32 => "((bitcast<u32>($0) & 0x7fffffffu) == 0x7f800000u)", I32 | U32 | U8 | Bool => "false");
    /// Whether an element is zero (false): a bool.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[0, 3], 2, Device::cpu())?;
    /// assert_eq!(x.logical_not().to_vec::<bool>()?, [true, false]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    logical_not try_logical_not, Logical, each!(map1, [Bool Truth] => T, Bits::not), wgsl!(Bool => "!$0");
    /// Every bit flipped; on bools, `not`. Integers and bools only.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[0, 5], 2, Device::cpu())?;
    /// assert_eq!(x.bitnot().to_vec::<i32>()?, [-1, -6]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    bitnot try_bitnot, Same, integers!(map1, Bool Truth => T, Bits::not),
        wgsl!(I32 | U32 => "~$0", U8 => "(~$0 & 0xffu)", Bool => "!$0");
}

//! Activation functions. Derivatives at kinks are PyTorch's.

use super::prelude as wg;
use super::tile::Num;
use super::{Row, Rule, Side, apply, each, floats, numbers, unary_table, wgsl};
use crate::codegen::math;
use crate::codegen::program::Def;
use crate::{Operand, Result, Scalar, Tensor};
use std::f64::consts as c;

const NONE: &str = "";
/// The two constants of SELU (Klambauer et al., 2017).
const SELU_SCALE: f64 = 1.050_700_987_355_480_5;
const SELU_ALPHA: f64 = 1.673_263_242_354_377_3;

fn sigmoid64(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// √(2/π), of the tanh approximation of GELU.
const GELU_A: f64 = 0.797_884_560_802_865_4;
const GELU_B: f64 = 0.044_715;

#[inline(always)]
fn gelu_tanh32(x: f32) -> f32 {
    0.5 * x * (1.0 + math::tanh(GELU_A as f32 * (x + GELU_B as f32 * x * x * x)))
}

#[inline(always)]
fn hardsigmoid32(x: f32) -> f32 {
    let y = x / 6.0 + 0.5;
    let y = if y > 1.0 { 1.0 } else { y };
    if y < 0.0 { 0.0 } else { y }
}

#[inline(always)]
fn hardsigmoid64(x: f64) -> f64 {
    let y = x / 6.0 + 0.5;
    let y = if y > 1.0 { 1.0 } else { y };
    if y < 0.0 { 0.0 } else { y }
}

/// Whether `lo < x < hi`.
fn between(x: &Tensor, lo: f64, hi: f64) -> Result<Tensor> {
    x.try_gt(lo)?.try_logical_and(x.try_lt(hi)?)
}

unary_table! {
    /// `max(x, 0)`, NaN for NaN. Its derivative is 0 at 0 and 1 at NaN.
    relu try_relu (-1.5 => 0.0), Same, (-4.0, 4.0),
        numbers!(map1 => T, Num::relu),
        wgsl!(F32 => "select($0, 0.0, $0 < 0.0)", I32 => "max($0, 0)", U32 | U8 => "$0"), NONE,
        |_, y, g| y.try_le(0.0)?.try_where(0.0, g);
    /// The logistic function `1 / (1 + e⁻ˣ)`.
    sigmoid try_sigmoid (0.5 => 0.622_459_3), Float, (-4.0, 4.0), floats!(map1: math::sigmoid, sigmoid64),
        wgsl!(F32 => "fx_sigmoid($0)"), wg::SIGMOID,
        |_, y, g| g.try_mul(y)?.try_mul(y.try_neg()?.try_add(1.0)?);
    /// `x · sigmoid(x)`, also called swish.
    silu try_silu (0.5 => 0.311_229_7), Float, (-4.0, 4.0), floats!(map1: |x| x * math::sigmoid(x), |x| x * sigmoid64(x)),
        wgsl!(F32 => "fx_silu($0)"), wg::SILU,
        |x, _, g| {
            let s = x.try_sigmoid()?;
            let slope = s.try_neg()?.try_add(1.0)?.try_mul(x)?.try_add(1.0)?.try_mul(s)?;
            g.try_mul(slope)
        };
    /// `x · Φ(x) = x/2 · (1 + erf(x/√2))`, exactly.
    gelu try_gelu (1.0 => 0.841_344_7), Float, (-4.0, 4.0),
        floats!(map1: |x| 0.5 * x * (1.0 + math::erf(x * std::f32::consts::FRAC_1_SQRT_2)),
            |x| 0.5 * x * (1.0 + math::erf64(x * c::FRAC_1_SQRT_2))),
        wgsl!(F32 => "fx_gelu($0)"), wg::GELU,
        |x, _, g| {
            let cdf = x.try_mul(c::FRAC_1_SQRT_2)?.try_erf()?.try_add(1.0)?.try_mul(0.5)?;
            let pdf = x.try_square()?.try_mul(-0.5)?.try_exp()?.try_mul(0.5 * c::FRAC_2_SQRT_PI * c::FRAC_1_SQRT_2)?;
            g.try_mul(cdf.try_add(x.try_mul(pdf)?)?)
        };
    /// GELU with tanh for erf: `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`, as GPT-2 has it.
    gelu_tanh try_gelu_tanh (1.0 => 0.841_192), Float, (-4.0, 4.0),
        floats!(map1: gelu_tanh32, |x| 0.5 * x * (1.0 + (GELU_A * (x + GELU_B * x * x * x)).tanh())),
        wgsl!(F32 => "fx_gelu_tanh($0)"), wg::GELU_TANH,
        |x, _, g| {
            let x2 = x.try_square()?;
            let t = x2.try_mul(GELU_A * GELU_B)?.try_add(GELU_A)?.try_mul(x)?.try_tanh()?;
            let inner = x2.try_mul(3.0 * GELU_A * GELU_B)?.try_add(GELU_A)?;
            let right = t.try_square()?.try_neg()?.try_add(1.0)?.try_mul(inner)?.try_mul(x)?;
            g.try_mul(t.try_add(1.0)?.try_add(right)?)?.try_mul(0.5)
        };
    /// `x · tanh(ln(1 + eˣ))`.
    mish try_mish (1.0 => 0.865_098_4), Float, (-4.0, 4.0),
        floats!(map1: |x| x * math::tanh(math::softplus(x)), |x| x * math::softplus64(x).tanh()),
        wgsl!(F32 => "fx_mish($0)"), wg::MISH,
        |x, _, g| {
            let t = x.try_softplus(1.0)?.try_tanh()?;
            let right = t.try_square()?.try_neg()?.try_add(1.0)?.try_mul(x.try_sigmoid()?)?.try_mul(x)?;
            g.try_mul(t.try_add(right)?)
        };
    /// `s·x` above 0, `s·α·(eˣ − 1)` below, with s = 1.0507… and α = 1.6733….
    selu try_selu (1.0 => 1.050_701), Float, (-4.0, 4.0),
        floats!(map1: |x| if x > 0.0 { SELU_SCALE as f32 * x } else { (SELU_SCALE * SELU_ALPHA) as f32 * math::expm1(x) },
            |x| if x > 0.0 { SELU_SCALE * x } else { SELU_SCALE * SELU_ALPHA * x.exp_m1() }),
        wgsl!(F32 => "fx_selu($0)"), wg::SELU,
        |x, y, g| {
            let slope = x.try_gt(0.0)?.try_where(SELU_SCALE, y.try_add(SELU_SCALE * SELU_ALPHA)?)?;
            g.try_mul(slope)
        };
    /// `min(max(x + 3, 0), 6) / 6`.
    hardsigmoid try_hardsigmoid (1.5 => 0.75), Float, (-4.0, 4.0), floats!(map1: hardsigmoid32, hardsigmoid64),
        wgsl!(F32 => "fx_hardsigmoid($0)"), wg::HARDSIGMOID,
        |x, _, g| between(x, -3.0, 3.0)?.try_where(g.try_mul(1.0 / 6.0)?, 0.0);
    /// `x · hardsigmoid(x)`.
    hardswish try_hardswish (1.5 => 1.125), Float, (-4.0, 4.0),
        floats!(map1: |x| x * hardsigmoid32(x), |x| x * hardsigmoid64(x)),
        wgsl!(F32 => "fx_hardswish($0)"), wg::HARDSWISH,
        |x, _, g| {
            let inner = x.try_mul(1.0 / 3.0)?.try_add(0.5)?;
            let slope = x.try_ge(3.0)?.try_where(1.0, inner)?;
            g.try_mul(x.try_le(-3.0)?.try_where(0.0, slope)?)
        };
    /// `x / (1 + |x|)`.
    softsign try_softsign (1.5 => 0.6), Float, (-4.0, 4.0), floats!(map1: |x| x / (1.0 + x.abs()), |x| x / (1.0 + x.abs())),
        wgsl!(F32 => "($0 / (1.0 + abs($0)))"), NONE,
        |x, _, g| g.try_div(x.try_abs()?.try_add(1.0)?.try_square()?);
}

/// The derivative by the tensor of a function of a tensor and numbers.
macro_rules! with_scalar {
    ($name:ident, $domain:expr, $floats:expr, $wgsl:expr, $prelude:expr, $grad:expr) => {
        pub(crate) static $name: Row = Row {
    def: Def { name: stringify!($name), cpu: $floats, wgsl: wgsl!(F32 => $wgsl), prelude: $prelude },
            rule: Rule::Float,
            grads: &[|c| {
                let f: fn(&Tensor, &Operand, &Tensor, &Tensor) -> Result<Tensor> = $grad;
                f(c.tensor(0)?, &c.args[1], &c.y, &c.g)
            }],
            domain: $domain,
        };
    };
}

/// The functions with a parameter; their parameter is a number, so they have no derivative by it.
#[allow(non_upper_case_globals)]
pub(crate) mod parametric {
    use super::*;

    with_scalar!(
        leaky_relu,
        &[(-4.0, 4.0), (0.1, 0.3)],
        floats!(map2: |x, a| if x < 0.0 { a * x } else { x }, |x, a| if x < 0.0 { a * x } else { x }),
        "select($0, $1 * $0, $0 < 0.0)",
        NONE,
        |x, a, _, g| x.try_gt(0.0)?.try_where(g, g.try_mul(a)?)
    );
    with_scalar!(
        elu,
        &[(-4.0, 4.0), (0.5, 1.5)],
        floats!(map2: |x, a| if x > 0.0 { x } else { a * math::expm1(x) }, |x, a| if x > 0.0 { x } else { a * x.exp_m1() }),
        "select($1 * fx_elu($0), $0, $0 > 0.0)",
        wg::ELU,
        |x, a, y, g| x.try_gt(0.0)?.try_where(g, g.try_mul(y.try_add(a)?)?)
    );
    with_scalar!(
        softplus,
        &[(-4.0, 4.0), (0.5, 2.0)],
        // Beyond 40, ln(1 + eᵗ) is t also in f64, and b·x may leave the range of f32.
        floats!(map2: |x, b| if b * x > 40.0 { x } else { math::softplus(b * x) / b },
            |x, b| if b * x > 40.0 { x } else { math::softplus64(b * x) / b }),
        "fx_softplus($0, $1)",
        wg::SOFTPLUS,
        |x, b, _, g| g.try_mul(x.try_mul(b)?.try_sigmoid()?)
    );
}

#[cfg(test)]
pub(crate) static PARAMETRIC: &[&Row] = &[&parametric::leaky_relu, &parametric::elu, &parametric::softplus];

#[fornax_derive::fallible]
impl Tensor {
    /// `x` above 0, `slope · x` below.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[-1.0f32, 2.0], 2, Device::cpu())?;
    /// assert_eq!(x.leaky_relu(0.5).to_vec::<f32>()?, [-0.5, 2.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_leaky_relu(&self, slope: f64) -> Result<Tensor> {
        apply(&parametric::leaky_relu, &[self.into(), Side::Scalar(Scalar::Float(slope))])
    }

    /// `x` above 0, `alpha · (eˣ − 1)` below.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[f32::NEG_INFINITY, 2.0], 2, Device::cpu())?;
    /// assert_eq!(x.elu(0.5).to_vec::<f32>()?, [-0.5, 2.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_elu(&self, alpha: f64) -> Result<Tensor> {
        apply(&parametric::elu, &[self.into(), Side::Scalar(Scalar::Float(alpha))])
    }

    /// `ln(1 + e^(beta·x)) / beta`, without overflow.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[-200.0f32, 200.0], 2, Device::cpu())?;
    /// assert_eq!(x.softplus(1.0).to_vec::<f32>()?, [0.0, 200.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_softplus(&self, beta: f64) -> Result<Tensor> {
        apply(&parametric::softplus, &[self.into(), Side::Scalar(Scalar::Float(beta))])
    }
}

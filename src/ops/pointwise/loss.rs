//! The binary cross-entropies: rows of their own, for no composition of other rows has both their accuracy and PyTorch's gradients at the ends.

use super::prelude as wg;
use super::{Back, Row, Rule, Side, apply, floats, wgsl};
use crate::codegen::math;
use crate::codegen::program::Def;
use crate::{Result, Tensor};

/// The rows, by name.
#[allow(non_upper_case_globals)]
pub(crate) mod rows {
    use super::*;

    /// `−(t · max(ln x, −100) + (1 − t) · max(ln(1 − x), −100))` of a probability and a target.
    pub(crate) static binary_cross_entropy: Row = Row {
        def: Def {
            name: "binary_cross_entropy",
            cpu: floats!(map2: |x, t| (t - 1.0) * bounded(math::log1p(-x)) - t * bounded(math::log(x)),
                |x, t| (t - 1.0) * bounded64((-x).ln_1p()) - t * bounded64(x.ln())),
            wgsl: wgsl!(F32 => "fx_bce($0, $1)"),
            prelude: wg::BCE,
        },
        rule: Rule::Float,
        grads: &[probability, target],
        domain: &[(0.1, 0.9), (0.0, 1.0)],
    };

    /// The same of a logit, a target and the weight p of positive targets: `(1 − t) x − (1 + (p − 1) t) · ln σ(x)`.
    pub(crate) static binary_cross_entropy_with_logits: Row = Row {
        def: Def {
            name: "binary_cross_entropy_with_logits",
            // With L = ln(1 + e^−|x|) and w = 1 + (p − 1) t: (1 − t) x + w L from 0 on, −p t x + w L below. No large numbers cancel.
            cpu: floats!(map3: |x, t, p| (if x < 0.0 { -p * t } else { 1.0 - t }) * x + ((p - 1.0) * t + 1.0) * math::softplus(-x.abs()),
                |x, t, p| (if x < 0.0 { -p * t } else { 1.0 - t }) * x + ((p - 1.0) * t + 1.0) * math::softplus64(-x.abs())),
            // (Written so that a driver which multiplies out makes no NaN of 0 · ∞ where p is 0.)
            wgsl: wgsl!(F32 => "((select(1.0, 0.0, $0 < 0.0) - select(1.0, $2, $0 < 0.0) * $1) * $0 + select(($2 - 1.0) * $1 + 1.0, 1.0 - $1, $2 == 0.0) * fx_softplus(-abs($0), 1.0))"),
            prelude: wg::SOFTPLUS,
        },
        rule: Rule::Float,
        grads: &[logit, target_of_logit, positive_weight],
        domain: &[(-4.0, 4.0), (0.0, 1.0), (0.5, 3.0)],
    };
}

#[cfg(test)]
pub(crate) static ROWS: &[&Row] = &[&rows::binary_cross_entropy, &rows::binary_cross_entropy_with_logits];

/// Not below -100; NaN stays.
#[inline(always)]
fn bounded(v: f32) -> f32 {
    if v < -100.0 { -100.0 } else { v }
}

#[inline(always)]
fn bounded64(v: f64) -> f64 {
    if v < -100.0 { -100.0 } else { v }
}

/// `(x − t) / max(x (1 − x), 10⁻¹²)`: finite also at 0 and 1, where the value's logarithm is held at -100.
fn probability(c: &Back) -> Result<Tensor> {
    let x = c.tensor(0)?;
    let slope = x.try_sub(&c.args[1])?.try_div(x.try_neg()?.try_add(1.0)?.try_mul(x)?.try_maximum(1e-12)?)?;
    c.g.try_mul(slope)
}

fn target(c: &Back) -> Result<Tensor> {
    let x = c.tensor(0)?;
    let slope = x.try_neg()?.try_log1p()?.try_maximum(-100.0)?.try_sub(x.try_log()?.try_maximum(-100.0)?)?;
    c.g.try_mul(slope)
}

/// `w σ(x) − p t` with w = 1 + (p − 1) t; from 0 on as `(1 − t) − w σ(−x)`, so that what is small is not the difference of what is large.
fn logit(c: &Back) -> Result<Tensor> {
    let (x, t) = (c.tensor(0)?, c.tensor(1)?);
    let pt = t.try_mul(&c.args[2])?;
    let w = pt.try_sub(t)?.try_add(1.0)?;
    let below = w.try_mul(x.try_sigmoid()?)?.try_sub(pt)?;
    let above = t.try_neg()?.try_add(1.0)?.try_sub(w.try_mul(x.try_neg()?.try_sigmoid()?)?)?;
    c.g.try_mul(x.try_lt(0.0)?.try_where(below, above)?)
}

/// `−x − (p − 1) ln σ(x)`.
fn target_of_logit(c: &Back) -> Result<Tensor> {
    let x = c.tensor(0)?;
    let slope = match &c.args[2] {
        crate::Operand::Scalar(p) if p.as_f64() == 1.0 => x.try_neg()?,
        p => x.try_neg()?.try_softplus(1.0)?.try_mul(p)?.try_sub(x.try_neg()?.try_softplus(1.0)?)?.try_sub(x)?,
    };
    c.g.try_mul(slope)
}

/// `−t ln σ(x)`.
fn positive_weight(c: &Back) -> Result<Tensor> {
    c.g.try_mul(&c.args[1])?.try_mul(c.tensor(0)?.try_neg()?.try_softplus(1.0)?)
}

impl Tensor {
    /// The cross-entropy of these probabilities and a target, each.
    pub(crate) fn bce(&self, target: &Tensor) -> Result<Tensor> {
        apply(&rows::binary_cross_entropy, &[self.into(), target.into()])
    }

    /// The cross-entropy of these logits and a target, each, with a weight of positive targets.
    pub(crate) fn bce_with_logits(&self, target: &Tensor, positive: Option<&Tensor>) -> Result<Tensor> {
        let positive = positive.map_or(Side::Scalar(1.0.into()), Side::from);
        apply(&rows::binary_cross_entropy_with_logits, &[self.into(), target.into(), positive])
    }
}

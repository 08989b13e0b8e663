//! Numbers that a step counts with.

use crate::{Operand, Result, Tensor};

/// A number of an optimizer's rule: known here, or, where the device decides whether a step is taken, a tensor of no axes there.
#[derive(Clone)]
pub enum Num {
    /// Known here.
    Host(f64),
    /// A tensor of no axes.
    Device(Tensor),
}

macro_rules! with_numbers {
    ($($name:ident, $op:tt, $method:ident;)*) => { $(
        pub(super) fn $name(&self, b: f64) -> Result<Num> {
            Ok(match self {
                Num::Host(a) => Num::Host(a $op b),
                Num::Device(a) => Num::Device(a.$method(b)?),
            })
        }
    )* };
}
macro_rules! of_one {
    ($($name:ident, $a:ident => $host:expr, $device:expr;)*) => { $(
        pub(super) fn $name(&self) -> Result<Num> {
            Ok(match self {
                Num::Host($a) => Num::Host($host),
                Num::Device($a) => Num::Device($device),
            })
        }
    )* };
}

impl Num {
    with_numbers! {
        plus, +, try_add;
        times, *, try_mul;
    }
    of_one! {
        sqrt, a => a.sqrt(), a.try_sqrt()?;
        recip, a => 1.0 / a, a.try_recip()?;
        // 1 − a
        left, a => 1.0 - a, a.try_neg()?.try_add(1.0)?;
    }

    /// 1 − βᵗ, exact to the last places also where it is small.
    pub(super) fn spent(&self, beta: f64) -> Result<Num> {
        Ok(match self {
            Num::Host(t) => Num::Host(1.0 - power(beta, *t)),
            Num::Device(t) => Num::Device(t.try_mul(beta.ln())?.try_expm1()?.try_neg()?),
        })
    }

    /// βᵗ.
    pub(super) fn power_of(&self, beta: f64) -> Result<Num> {
        Ok(match self {
            Num::Host(t) => Num::Host(power(beta, *t)),
            Num::Device(t) => Num::Device(t.try_mul(beta.ln())?.try_exp()?),
        })
    }

    pub(super) fn mul(&self, other: &Num) -> Result<Num> {
        Ok(match (self, other) {
            (Num::Host(a), Num::Host(b)) => Num::Host(a * b),
            (Num::Device(t), Num::Host(b)) | (Num::Host(b), Num::Device(t)) => Num::Device(t.try_mul(*b)?),
            (Num::Device(a), Num::Device(b)) => Num::Device(a.try_mul(b)?),
        })
    }

    /// `yes` where this is greater than `bound`, else `no`.
    pub(super) fn above(&self, bound: f64, yes: &Num, no: &Num) -> Result<Num> {
        Ok(match self {
            Num::Host(a) => {
                if *a > bound {
                    yes.clone()
                } else {
                    no.clone()
                }
            }
            Num::Device(a) => Num::Device(a.try_gt(bound)?.try_where(Operand::from(yes), Operand::from(no))?),
        })
    }
}

/// βᵗ for a whole number t: by products, as long as that is exact.
fn power(beta: f64, t: f64) -> f64 {
    if t.fract() == 0.0 && t.abs() < i32::MAX as f64 { beta.powi(t as i32) } else { beta.powf(t) }
}

impl From<&Num> for Operand {
    fn from(n: &Num) -> Self {
        match n {
            Num::Host(a) => (*a).into(),
            Num::Device(t) => t.into(),
        }
    }
}

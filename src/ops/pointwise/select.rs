//! Choosing: casts, `where`, `masked_fill`, `clamp`.

use super::prelude as wg;
use super::tile::{Truth, tile};
use super::{Arg, CAST, Pointwise, Row, Rule, Side, apply, apply_as, each, numbers, wgsl};
use crate::codegen::program::Def;
use crate::graph::record;
use crate::{DType, Operand, Result, Scalar, Tensor};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

/// The rows, by name.
#[allow(non_upper_case_globals)]
pub(crate) mod rows {
    use super::*;

    pub(crate) static select: Row = Row {
        def: Def {
            name: "where",
            cpu: |d| match d {
                DType::Bool | DType::U8 => tile!(map3, Truth, u8, u8 => u8, |c: Truth, a, b| if c.0 != 0 { a } else { b }),
                DType::F32 | DType::I32 | DType::U32 => tile!(map3, Truth, u32, u32 => u32, |c: Truth, a, b| if c.0 != 0 { a } else { b }),
                DType::F64 | DType::I64 => tile!(map3, Truth, u64, u64 => u64, |c: Truth, a, b| if c.0 != 0 { a } else { b }),
                DType::F16 | DType::BF16 => None,
            },
            wgsl: wgsl!(F32 | I32 | U32 | U8 | Bool => "select($2, $1, $0)"),
            prelude: "",
        },
        rule: Rule::Select,
        grads: &[|c| c.g.try_zeros_like(), |c| c.tensor(0)?.try_where(&c.g, 0.0), |c| c.tensor(0)?.try_where(0.0, &c.g)],
        domain: &[(0.0, 1.0), (-4.0, 4.0), (-4.0, 4.0)],
    };

    pub(crate) static clamp: Row = Row {
        def: Def {
            name: "clamp",
            cpu: numbers!(map3 => T, |x, lo, hi| {
                let x = if x < lo { lo } else { x };
                if x > hi { hi } else { x }
            }),
            wgsl: wgsl!(F32 => "fx_clamp($0, $1, $2)", I32 | U32 | U8 => "min(max($0, $1), $2)"),
            prelude: wg::CLAMP,
        },
        rule: Rule::Bounded,
        grads: &[|c| {
            let x = c.tensor(0)?;
            x.try_gt(&c.args[1])?.try_logical_and(x.try_lt(&c.args[2])?)?.try_where(&c.g, 0.0)
        }],
        domain: &[(-4.0, 4.0), (-3.0, -1.0), (1.0, 3.0)],
    };
}

#[cfg(test)]
pub(crate) static ROWS: &[&Row] = &[&rows::select, &rows::clamp];

#[fornax_derive::fallible]
impl Tensor {
    /// The same values as another dtype (this tensor, where it has it already). A float becomes an integer toward zero, and what is out of
    /// range saturates (NaN is 0); an integer that a narrower dtype cannot hold wraps; to bool it means `!= 0`; f16 and bf16 round to nearest, ties to even. The gradient is cast back; to an integer or bool
    /// it stops.
    ///
    /// ```
    /// use fornax::{DType, Device, Tensor};
    /// let x = Tensor::from_slice(&[-1.7f32, 300.0], 2, Device::cpu())?;
    /// assert_eq!(x.cast(DType::I32).to_vec::<i32>()?, [-1, 300]);
    /// assert_eq!(x.cast(DType::U8).to_vec::<u8>()?, [0, 255]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// i64 and f64 on a GPU.
    pub fn try_cast(&self, dtype: DType) -> Result<Tensor> {
        let from = self.dtype();
        if from == dtype {
            return Ok(self.clone());
        }
        let (args, scalars): (SmallVec<[Arg; 4]>, _) = (smallvec![Arg::Input(0)], SmallVec::new());
        record(Arc::new(Pointwise { row: &CAST, args, scalars, dtype: self.dtype().compute(), out: dtype, shape: None }), &[self])
    }

    /// `x` held between `lo` and `hi` (`hi` where they cross); NaN stays. The derivative is 1 between the bounds, and 0 on them. Bounds that an integer dtype cannot
    /// hold bound nothing.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[-2.0f32, 0.5, 7.0], 3, Device::cpu())?;
    /// assert_eq!(x.clamp(0.0, 1.0).to_vec::<f32>()?, [0.0, 0.5, 1.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_clamp(&self, lo: impl Into<Scalar>, hi: impl Into<Scalar>) -> Result<Tensor> {
        apply(&rows::clamp, &[self.into(), Side::Scalar(lo.into()), Side::Scalar(hi.into())])
    }

    /// `a` where the condition is true (nonzero), else `b`. All three broadcast; `a` and `b` are tensors or numbers, and promote.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[-2.0f32, 3.0], 2, Device::cpu())?;
    /// assert_eq!(Tensor::where_cond(&x.gt(0.0), &x, 0.5).to_vec::<f32>()?, [0.5, 3.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Shapes that do not broadcast, different devices, a number that the dtype cannot hold.
    pub fn try_where_cond(&self, a: impl Into<Operand>, b: impl Into<Operand>) -> Result<Tensor> {
        self.try_where(a, b)
    }

    /// `value` where the mask is true, this tensor elsewhere. The dtype stays: a value for integers is truncated.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[-2.0f32, 3.0], 2, Device::cpu())?;
    /// assert_eq!(x.masked_fill(&x.lt(0.0), 9.0).to_vec::<f32>()?, [9.0, 3.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Shapes that do not broadcast, different devices, a value that the dtype cannot hold.
    pub fn try_masked_fill(&self, mask: &Tensor, value: impl Into<Scalar>) -> Result<Tensor> {
        let value = value.into().fit("masked_fill", self.dtype())?;
        apply_as("masked_fill", &rows::select, &[mask.into(), Side::Scalar(value), self.into()])
    }
}

impl Tensor {
    /// `a` where this condition is true, else `b`: [`where_cond`](Tensor::where_cond), with wrong use as an error.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[-2.0f32, 3.0], 2, Device::cpu())?;
    /// assert_eq!(x.gt(0.0).try_where(&x, 0.0)?.to_vec::<f32>()?, [0.0, 3.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_where(&self, a: impl Into<Operand>, b: impl Into<Operand>) -> Result<Tensor> {
        let (a, b) = (a.into(), b.into());
        apply(&rows::select, &[self.into(), (&a).into(), (&b).into()])
    }
}

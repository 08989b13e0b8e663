//! The pointwise ops: a table, one row each.

use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::GpuKernel;
use crate::codegen::program::Def;
use crate::graph::{Class, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp};
use crate::{DType, Error, Result, Scalar, Shape, Tensor};
use smallvec::{SmallVec, smallvec};

/// The derivative of a row: the gradients of the op's *tensor inputs*, in order.
pub(crate) type VjpFn = fn(&Pointwise, &Vjp) -> Result<Vec<Option<Tensor>>>;

/// A row of the table.
pub(crate) struct Row {
    pub def: Def,
    pub vjp: VjpFn,
}

/// An argument of a pointwise function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arg {
    /// Tensor input `i` of the node: of the same shape as the output, of the dtype that the function wants.
    Input(u8),
    /// Scalar `i` of the node, wanted in this compute dtype.
    Scalar(u8, DType),
    /// The row-major position in the output (u32).
    Index,
}

/// A pointwise function applied to inputs of one shape (broadcasting is done by views before it) and to scalars.
#[derive(Clone)]
pub(crate) struct Pointwise {
    pub row: &'static Row,
    pub args: SmallVec<[Arg; 4]>,
    pub scalars: SmallVec<[Scalar; 2]>,
    /// The compute dtype that selects the function's body.
    pub dtype: DType,
    /// The dtype of the result.
    pub out: DType,
    /// The shape, for a generator that has no tensor inputs.
    pub shape: Option<Shape>,
}

/// The row of conversions: becomes `Instr::Cast`.
pub(crate) static CAST: Row = Row { def: Def { name: "cast", cpu: |_| None, wgsl: |_| None, prelude: "" }, vjp: cast_vjp };

fn cast_vjp(_op: &Pointwise, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
    ctx.not_differentiable()
}

impl std::fmt::Debug for Pointwise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({:?}, {:?}) -> {}", self.row.def.name, self.args, self.scalars, self.out)
    }
}

impl Op for Pointwise {
    fn name(&self) -> &'static str {
        self.row.def.name
    }

    fn class(&self) -> Class<'_> {
        Class::Pointwise(self)
    }

    fn key(&self, key: &mut Key) {
        key.add(self.row.def.word()).add((self.dtype as u64) << 8 | self.out as u64);
        for a in &self.args {
            key.add(match a {
                Arg::Input(i) => *i as u64,
                Arg::Scalar(i, d) => 1 << 16 | (*d as u64) << 8 | *i as u64,
                Arg::Index => 2 << 16,
            });
        }
        if let Some(s) = &self.shape {
            key.list(s.iter());
        }
    }

    fn scalars(&self) -> &[Scalar] {
        &self.scalars
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let shape = match (&self.shape, inputs.first()) {
            (Some(s), _) => s.clone(),
            (None, Some(m)) => m.shape().clone(),
            (None, None) => return Err(Error::argument(self.name(), "a generator needs a shape")),
        };
        debug_assert!(inputs.iter().all(|m| *m.shape() == shape));
        Ok(smallvec![Meta::new(self.out, shape)])
    }

    fn saves(&self) -> Saves {
        Saves::default()
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        (self.row.vjp)(self, ctx)
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        ctx.unsupported()
    }

    fn gpu(&self, _ctx: &GpuCtx) -> Result<GpuKernel> {
        Err(Error::Kernel { op: self.name().into(), message: "pointwise ops run as fused programs".into() })
    }
}

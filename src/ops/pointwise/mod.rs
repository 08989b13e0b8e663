//! The pointwise ops: a table, one row each, and how a row is applied to tensors and numbers.
//!
//! Adding an op is one row in `unary.rs`, `activation.rs` or `binary.rs`: its name, doc and example, the dtypes that it takes, its CPU code, its
//! WGSL, its derivative and the domain in which tests sample it. Inputs are promoted and broadcast here; f16 and bf16 are computed in f32.

pub(crate) mod activation;
pub(crate) mod binary;
mod loss;
mod prelude;
pub(crate) mod select;
pub(crate) mod tile;
pub(crate) mod unary;

pub(crate) use binary::reversed;

use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::GpuKernel;
use crate::codegen::program::Def;
use crate::graph::{Class, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record, record_on};
use crate::{DType, Device, Error, Operand, Result, Scalar, Shape, Tensor};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;
#[cfg(test)]
use std::sync::OnceLock;

/// How a row's compute and result dtypes follow from its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// The promoted dtype; f32 where that is no float.
    Float,
    /// The promoted dtype. Integers as numbers wrap like the op itself.
    Same,
    /// The promoted dtype. A number that an integer dtype cannot hold counts as the nearest that it can.
    Bounded,
    /// Computed in the promoted dtype, the result is a bool. A number that an integer dtype cannot hold lies above or below all that it can.
    Compare,
    /// Arguments and result are bools.
    Logical,
    /// The first argument is a bool, the others are promoted. A number that the dtype cannot hold is an error.
    Select,
    /// A function of the position; see the op.
    Generator,
}

/// The derivative of a row by one of its arguments: that argument's cotangent.
pub(crate) type Grad = fn(&Back) -> Result<Tensor>;

/// What a derivative is computed from. Half-precision values come widened to f32.
pub(crate) struct Back {
    pub args: SmallVec<[Operand; 4]>,
    /// The result.
    pub y: Tensor,
    /// Its cotangent.
    pub g: Tensor,
}

impl Back {
    /// Argument `i`, which is a tensor.
    pub fn tensor(&self, i: usize) -> Result<&Tensor> {
        match &self.args[i] {
            Operand::Tensor(t) => Ok(t),
            Operand::Scalar(_) => Err(Error::argument("vjp", "this argument must be a tensor")),
        }
    }
}

/// A row of the table.
pub(crate) struct Row {
    pub def: Def,
    pub rule: Rule,
    /// One derivative an argument; none where the op has no derivative.
    pub grads: &'static [Grad],
    #[allow(dead_code)] // read by tests
    /// The range in which tests sample each argument; functions are differentiable inside, except at single points.
    pub domain: &'static [(f64, f64)],
}

impl Row {
    /// The compute dtypes that the row takes.
    pub fn dtypes(&self) -> impl Iterator<Item = DType> {
        DType::ALL.into_iter().filter(|&d| d.compute() == d && (self.def.cpu)(d).is_some())
    }
}

/// The rows with tensor arguments, for tests that walk the registry.
#[cfg(test)]
pub(crate) fn rows() -> &'static [&'static Row] {
    static ROWS: OnceLock<Vec<&'static Row>> = OnceLock::new();
    ROWS.get_or_init(|| {
        [unary::ROWS, unary::TESTS, activation::ROWS, activation::PARAMETRIC, binary::ROWS, loss::ROWS, select::ROWS].concat()
    })
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
pub(crate) static CAST: Row =
    Row { def: Def { name: "cast", cpu: |_| None, wgsl: |_| None, prelude: "" }, rule: Rule::Same, grads: &[], domain: &[(-4.0, 4.0)] };

impl std::fmt::Debug for Pointwise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({:?}, {:?}) -> {}", self.row.def.name, self.args, self.scalars, self.out)
    }
}

/// An argument of [`apply`].
#[derive(Clone, Copy)]
pub(crate) enum Side<'a> {
    Tensor(&'a Tensor),
    Scalar(Scalar),
}

impl<'a> From<&'a Tensor> for Side<'a> {
    fn from(t: &'a Tensor) -> Self {
        Side::Tensor(t)
    }
}
impl<'a> From<&'a Operand> for Side<'a> {
    fn from(o: &'a Operand) -> Self {
        match o {
            Operand::Tensor(t) => Side::Tensor(t),
            Operand::Scalar(s) => Side::Scalar(*s),
        }
    }
}

/// The dtype that tensors and numbers promote to. Numbers only raise the kind (bool, integer, float), never the width.
fn promote(sides: &[Side]) -> DType {
    let tensors = sides.iter().filter_map(|s| if let Side::Tensor(t) = s { Some(t.dtype()) } else { None });
    let scalars = sides.iter().filter_map(|s| if let Side::Scalar(v) = s { Some(*v) } else { None });
    let dtype = tensors.reduce(DType::promote).unwrap_or(DType::Bool);
    scalars.fold(dtype, |d, s| s.promote(d))
}

/// Applies a row to tensors and numbers (at least one tensor): promotes, broadcasts, records one node.
pub(crate) fn apply(row: &'static Row, sides: &[Side]) -> Result<Tensor> {
    apply_as(row.def.name, row, sides)
}

/// [`apply`] for a method of another name, which errors bear.
pub(crate) fn apply_as(name: &'static str, row: &'static Row, sides: &[Side]) -> Result<Tensor> {
    let first = (row.rule == Rule::Select) as usize;
    let common = promote(&sides[first..]);
    let (want, out) = match row.rule {
        Rule::Float if !common.is_float() => (DType::F32, DType::F32),
        Rule::Compare => (common, DType::Bool),
        Rule::Logical => (DType::Bool, DType::Bool),
        _ => (common, common),
    };
    let compute = want.compute();
    let dtypes = || sides.iter().filter_map(|s| if let Side::Tensor(t) = s { Some(t.dtype()) } else { None }).collect::<Vec<DType>>();
    let on_gpu = sides.iter().any(|s| matches!(s, Side::Tensor(t) if t.device().is_gpu()));
    if on_gpu && !want.on_gpu() {
        let message = format!("dtypes that promote to what a GPU holds, which {want} is not: cast() one of them first");
        return Err(Error::dtype(name, &dtypes(), message));
    }
    if (row.def.cpu)(compute).is_none() {
        let dtypes = dtypes();
        let takes: Vec<&str> = row.dtypes().map(DType::name).collect();
        return Err(Error::dtype(name, &dtypes, format!("it takes {}: cast() first", takes.join(", "))));
    }
    if let (Rule::Compare, [a, b]) = (row.rule, sides)
        && want.is_int()
        && let Some(all) = beyond(row, *a, *b, want)?
    {
        return Ok(all);
    }
    let mut tensors: SmallVec<[Tensor; 3]> = SmallVec::new();
    let mut op = Pointwise { row, args: SmallVec::new(), scalars: SmallVec::new(), dtype: compute, out, shape: None };
    for (i, side) in sides.iter().enumerate() {
        let want = if i < first { DType::Bool } else { want };
        match side {
            Side::Tensor(t) => {
                op.args.push(Arg::Input(tensors.len() as u8));
                tensors.push(t.try_cast(want)?);
            }
            Side::Scalar(s) => {
                let s = match row.rule {
                    Rule::Select if i >= first => s.fit(name, want)?,
                    Rule::Bounded if let (Scalar::Int(v), true) = (*s, want.is_int()) => {
                        let (lo, hi) = Scalar::bounds(want);
                        Scalar::Int(v.clamp(lo, hi))
                    }
                    _ => *s,
                };
                op.args.push(Arg::Scalar(op.scalars.len() as u8, want.compute()));
                op.scalars.push(s);
            }
        }
    }
    broadcast(name, &mut tensors)?;
    let inputs: SmallVec<[&Tensor; 3]> = tensors.iter().collect();
    record(Arc::new(op), &inputs)
}

/// A comparison of integers with a number that their dtype cannot hold: the same for all of them.
fn beyond(row: &'static Row, a: Side, b: Side, dtype: DType) -> Result<Option<Tensor>> {
    let (lo, hi) = Scalar::bounds(dtype);
    let outside = |s: Side| match s {
        Side::Scalar(Scalar::Int(v)) if v < lo || v > hi => Some(Scalar::Int(v.signum())),
        _ => None,
    };
    let (x, result) = match (a, b) {
        (Side::Tensor(x), Side::Scalar(_)) => (x, outside(b).map(|s| (true, s))),
        (Side::Scalar(_), Side::Tensor(x)) => (x, outside(a).map(|s| (false, s))),
        _ => return Ok(None),
    };
    let Some((first, number)) = result else { return Ok(None) };
    // What holds for 0 and a number on that side of it holds for all.
    let zero = Tensor::try_full((), 0, (DType::I32, x.device()))?;
    let (zero, number) = (Side::Tensor(&zero), Side::Scalar(number));
    let y = apply(row, &if first { [zero, number] } else { [number, zero] })?;
    y.try_expand(x.shape()).map(Some)
}

/// Gives all tensors one shape by views.
pub(crate) fn broadcast(op: &'static str, tensors: &mut [Tensor]) -> Result<()> {
    if tensors.windows(2).all(|w| w[0].shape() == w[1].shape()) {
        return Ok(());
    }
    let shape = tensors[1..].iter().try_fold(tensors[0].shape().clone(), |s, t| s.broadcast(t.shape()));
    let Some(shape) = shape else {
        let shapes: Vec<Shape> = tensors.iter().map(|t| t.shape().clone()).collect();
        return Err(Error::shape(op, &shapes, "aligned at the last axis, sizes must be equal or 1"));
    };
    for t in tensors {
        if *t.shape() != shape {
            *t = t.try_expand(&shape)?;
        }
    }
    Ok(())
}

/// Records a function of the position and of scalars.
pub(crate) fn generate(
    row: &'static Row,
    scalars: &[(Scalar, DType)],
    shape: Shape,
    out: DType,
    compute: DType,
    device: Device,
) -> Result<Tensor> {
    let mut args: SmallVec<[Arg; 4]> = smallvec![Arg::Index];
    args.extend(scalars.iter().enumerate().map(|(i, s)| Arg::Scalar(i as u8, s.1)));
    if shape.checked_numel()? > u32::MAX as usize {
        return Err(Error::argument(row.def.name, format!("{shape} has more than 2^32 - 1 elements")));
    }
    let scalars = scalars.iter().map(|s| s.0).collect();
    record_on(device, Arc::new(Pointwise { row, args, scalars, dtype: compute, out, shape: Some(shape) }), &[])
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
        let g = ctx.cotangent()?;
        let mut grads = vec![None; ctx.inputs.len()];
        if std::ptr::eq(self.row, &CAST) {
            grads[0] = Some(g.try_cast(ctx.inputs[0].dtype())?);
            return Ok(grads);
        }
        let half = self.out != self.out.compute();
        let wide = |t: &Tensor| if half && t.dtype() == self.out { t.try_cast(DType::F32) } else { Ok(t.clone()) };
        let mut back = Back { args: SmallVec::new(), y: wide(&ctx.outputs[0])?, g: wide(g)? };
        for arg in &self.args {
            back.args.push(match arg {
                Arg::Input(i) => Operand::Tensor(wide(&ctx.inputs[*i as usize])?),
                Arg::Scalar(i, _) => Operand::Scalar(self.scalars[*i as usize]),
                Arg::Index => return ctx.not_differentiable(),
            });
        }
        for (k, arg) in self.args.iter().enumerate() {
            let Arg::Input(i) = *arg else { continue };
            let i = i as usize;
            if !ctx.needs[i] {
                continue;
            }
            let Some(grad) = self.row.grads.get(k) else { return ctx.not_differentiable() };
            let d = grad(&back)?;
            // A cotangent that is passed on is not rounded twice.
            let same = Arc::ptr_eq(&d.node, &back.g.node);
            grads[i] = Some(if same { g.clone() } else { d.try_cast(ctx.inputs[i].dtype())? });
        }
        Ok(grads)
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        ctx.unsupported()
    }

    fn gpu(&self, _ctx: &GpuCtx) -> Result<GpuKernel> {
        Err(Error::Kernel { op: self.name().into(), message: "pointwise ops run as fused programs".into() })
    }
}

/// `|d| match d { dtypes => Some(text), _ => None }`.
macro_rules! wgsl {
    ($($($d:ident)|+ => $text:expr),* $(,)?) => {
        |d: crate::DType| match d {
            $($(crate::DType::$d)|+ => Some($text),)*
            #[allow(unreachable_patterns)]
            _ => None,
        }
    };
}
use wgsl;

/// CPU bodies: one function for f32, one for f64. What is written as a closure for f32 becomes a function that is always inlined: LLVM leaves a
/// long closure out of line, one call an element and compiled for the baseline.
macro_rules! floats {
    ($map:ident: |$($x:ident),+| $f32:expr, $f64:expr) => {{
        #[inline(always)]
        fn body($($x: f32),+) -> f32 {
            $f32
        }
        floats!($map: body, $f64)
    }};
    ($map:ident: $f32:expr, $f64:expr) => {
        |d| match d {
            crate::DType::F32 => floats!(@ $map f32 $f32),
            crate::DType::F64 => floats!(@ $map f64 $f64),
            _ => None,
        }
    };
    (@ map1 $t:ident $f:expr) => { crate::ops::pointwise::tile::tile!(map1, $t => $t, $f) };
    (@ map2 $t:ident $f:expr) => { crate::ops::pointwise::tile::tile!(map2, $t, $t => $t, $f) };
    (@ map3 $t:ident $f:expr) => { crate::ops::pointwise::tile::tile!(map3, $t, $t, $t => $t, $f) };
}
use floats;

/// CPU bodies: one generic function for each of some dtypes. `$r` is the result type, `T` for the dtype's own.
macro_rules! each {
    ($map:ident, [$($d:ident $t:ty),*] => $r:tt, $f:expr) => {
        |d| match d {
            $(crate::DType::$d => each!(@ $map $t, $r, $f),)*
            #[allow(unreachable_patterns)]
            _ => None,
        }
    };
    (@ $map:ident $t:ty, T, $f:expr) => { each!(@@ $map $t, $t, $f) };
    (@ $map:ident $t:ty, bool, $f:expr) => { each!(@@ $map $t, bool, $f) };
    (@@ map1 $t:ty, $r:ty, $f:expr) => { crate::ops::pointwise::tile::tile!(map1, $t => $r, $f) };
    (@@ map2 $t:ty, $r:ty, $f:expr) => { crate::ops::pointwise::tile::tile!(map2, $t, $t => $r, $f) };
    (@@ map3 $t:ty, $r:ty, $f:expr) => { crate::ops::pointwise::tile::tile!(map3, $t, $t, $t => $r, $f) };
}
use each;

/// [`each`] over the number dtypes, with further ones in front.
macro_rules! numbers {
    ($map:ident $(, $d:ident $t:ty)* => $r:tt, $f:expr) => {
        each!($map, [$($d $t,)* F32 f32, F64 f64, U8 u8, I32 i32, U32 u32, I64 i64] => $r, $f)
    };
}
use numbers;

/// [`each`] over the integer dtypes, with further ones in front.
macro_rules! integers {
    ($map:ident $(, $d:ident $t:ty)* => $r:tt, $f:expr) => {
        each!($map, [$($d $t,)* U8 u8, I32 i32, U32 u32, I64 i64] => $r, $f)
    };
}
use integers;

/// A table of functions of one tensor: rows of
/// `name try_name (example argument => result), Rule, domain, cpu, wgsl, prelude, |x, y, g| derivative;` each with its doc.
macro_rules! unary_table {
    ($($(#[$doc:meta])* $name:ident $try_name:ident ($x:expr => $y:expr), $rule:ident, $domain:expr,
        $cpu:expr, $wgsl:expr, $prelude:expr, $grad:expr;)*) => {
        /// The rows, by name.
        #[allow(non_upper_case_globals)]
        pub(crate) mod rows {
            use super::*;
            $(pub(crate) static $name: Row = Row {
                def: Def { name: stringify!($name), cpu: $cpu, wgsl: $wgsl, prelude: $prelude },
                rule: Rule::$rule,
                grads: &[|c| {
                    let f: fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor> = $grad;
                    f(c.tensor(0)?, &c.y, &c.g)
                }],
                domain: &[$domain],
            };)*
        }

        #[cfg(test)]
        pub(crate) static ROWS: &[&Row] = &[$(&rows::$name),*];

        #[fornax_derive::fallible]
        impl Tensor {
            $(
                $(#[$doc])*
                ///
                #[doc = concat!(
                    "```\nuse fornax::{Device, Tensor};\nlet x = Tensor::from_slice(&[", stringify!($x), "f32], 1, Device::cpu())?;\n",
                    "let y = x.", stringify!($name), "().item::<f32>()?;\nassert!((y - ", stringify!($y), ").abs() < 1e-5);\n",
                    "# Ok::<(), fornax::Error>(())\n```"
                )]
                ///
                /// # Errors
                /// A dtype that the op does not take.
                pub fn $try_name(&self) -> Result<Tensor> {
                    apply(&rows::$name, &[self.into()])
                }
            )*
        }
    };
}
use unary_table;

#[cfg(test)]
mod run_tests;
#[cfg(test)]
mod tests;

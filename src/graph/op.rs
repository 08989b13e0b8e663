//! What an op provides: shape rule, key, derivative, decomposition, CPU kernel, GPU steps.

use super::Tensor;
use super::asked::Asked;
use crate::backend::Fault;
use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::{Caps, GpuKernel};
use crate::codegen::kernel::{Epilogue, ReduceKind};
use crate::layout::Layout;
use crate::{DType, Error, Result, Scalar, Shape};
use smallvec::SmallVec;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// What is known of a tensor when it is recorded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Meta {
    pub dtype: DType,
    pub layout: Layout,
}

impl Meta {
    /// A fresh row-major tensor.
    pub fn new(dtype: DType, shape: impl Into<Shape>) -> Meta {
        Meta { dtype, layout: Layout::contiguous(shape.into()) }
    }

    pub fn shape(&self) -> &Shape {
        &self.layout.shape
    }
}

/// The outputs of an op: one, or several of which some may be auxiliary.
pub(crate) type Outputs = SmallVec<[Meta; 1]>;

/// The part of a plan's key that an op contributes: every attribute that changes code or shapes, and no scalar.
#[derive(Default)]
pub(crate) struct Key(pub Vec<u64>);

impl Key {
    pub fn add(&mut self, word: u64) -> &mut Self {
        self.0.push(word);
        self
    }

    /// A list, with its length in front.
    pub fn list<'a>(&mut self, items: impl ExactSizeIterator<Item = &'a usize>) -> &mut Self {
        self.0.push(items.len() as u64);
        self.0.extend(items.map(|&i| i as u64));
        self
    }
}

/// How the planner treats an op.
pub(crate) enum Class<'a> {
    /// The output is the input's memory under the layout that `infer` returned. No work.
    View,
    /// A row of the pointwise table.
    Pointwise(&'a crate::ops::pointwise::Pointwise),
    /// A reduction over the flagged axes; the output keeps them as size 1.
    Reduce(ReduceKind, &'a [bool]),
    /// A kernel of its own.
    Kernel,
    /// Runs on the host and splits the plan: its inputs are evaluated first, possibly on another device.
    Host,
}

/// What layouts a kernel can read. What it can't, the planner copies first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// Row-major (on the CPU at any offset, on the GPU from the binding's start).
    Contiguous,
    /// The last two axes may be transposed, rows may be padded: one of the two has stride 1, the other any positive stride, batch axes any
    /// strides from 0 on. On the GPU the op adds the layout's offset itself.
    Matrix,
    /// Anything. On the GPU the op adds the layout's offset itself.
    Strided,
}

/// What backward wants kept of a node: bit `i` for input `i`, bit `i` for output `i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Saves {
    pub inputs: u32,
    pub outputs: u32,
}

/// What a vector–Jacobian product is computed from.
pub(crate) struct Vjp<'a> {
    pub op: &'static str,
    pub inputs: &'a [Tensor],
    pub outputs: &'a [Tensor],
    /// The cotangent of each output; `None` where nothing flowed back.
    pub cotangents: &'a [Option<Tensor>],
    /// Whether the gradient of each input is wanted.
    pub needs: &'a [bool],
}

impl Vjp<'_> {
    /// The cotangent of the first output. (A node is visited only when some cotangent is there.)
    pub fn cotangent(&self) -> Result<&Tensor> {
        self.cotangents[0].as_ref().ok_or(Error::NotDifferentiable { op: self.op })
    }

    /// The usual answer of an op that has no derivative.
    pub fn not_differentiable(&self) -> Result<Vec<Option<Tensor>>> {
        Err(Error::NotDifferentiable { op: self.op })
    }
}

/// What an op's GPU code is generated from. Everything here is in the plan's key.
pub(crate) struct GpuCtx<'a> {
    pub inputs: &'a [Meta],
    pub outputs: &'a [Meta],
    #[allow(dead_code)] // for variants that the speed work will choose by it
    pub caps: &'a Caps,
    /// Pointwise code over output 0, for ops whose `takes_epilogue` is true; see `codegen::wgsl::epilogue`.
    pub epilogue: Option<&'a Epilogue>,
}

impl GpuCtx<'_> {
    /// The sizes of input `i`.
    pub fn shape(&self, i: usize) -> &[usize] {
        &self.inputs[i].layout.shape
    }

    /// The number of elements of input `i`.
    pub fn numel(&self, i: usize) -> usize {
        self.inputs[i].layout.numel()
    }
}

/// One way to cut a kernel into parts by ranges of some extent, each of which is the same op on a part of the inputs.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    pub len: usize,
    /// What of each input a part reads; `None`: all of it.
    pub inputs: SmallVec<[Option<Span>; 8]>,
    pub outputs: SmallVec<[Along; 4]>,
}

/// How ranges of a cut lie along an axis: `range · scale + shift`, clamped to the axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub axis: usize,
    pub scale: usize,
    pub shift: isize,
}

impl From<usize> for Span {
    fn from(axis: usize) -> Span {
        Span { axis, scale: 1, shift: 0 }
    }
}

/// What the parts of a cut make of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Along {
    /// Ranges of an axis.
    Axis(Span),
    /// Terms of a sum.
    Sum,
    /// Each element is made by one part; the others leave 0 there.
    One,
}

impl Along {
    pub fn axis(axis: usize) -> Along {
        Along::Axis(axis.into())
    }
}

impl Cut {
    /// Ranges of one axis each.
    pub fn new(len: usize, inputs: &[Option<usize>], outputs: &[Along]) -> Cut {
        Cut { len, inputs: inputs.iter().map(|a| a.map(Span::from)).collect(), outputs: outputs.into() }
    }

    /// Along each axis that `with` accepts, all inputs and outputs alike.
    pub fn axes(shape: &[usize], inputs: usize, outputs: usize, with: impl Fn(usize) -> bool) -> Vec<Cut> {
        let cut = |d: usize| Cut::new(shape[d], &vec![Some(d); inputs], &vec![Along::axis(d); outputs]);
        (0..shape.len()).filter(|&d| with(d)).map(cut).collect()
    }
}

/// What to say of an index that an op found out of range.
pub(crate) fn fault(op: &dyn Op, inputs: &[&Layout]) -> Fault {
    let Asked { name, means } = op.asked().unwrap_or(Asked { name: op.name(), means: "" });
    let what = match (means, op.index_range(inputs)) {
        ("", Some(n)) => format!("an index is out of range 0..{n}"),
        ("", None) => "an index is out of range".into(),
        _ => means.into(),
    };
    let shapes: Vec<String> = inputs.iter().map(|l| l.shape.to_string()).collect();
    let message = format!(
        "{what} (inputs {}): it read 0 or wrote nothing. It was found since this device was last read, not \
         necessarily on the way to the tensor that is read now",
        shapes.join(", ")
    );
    Fault { op: name, message }
}

/// An operation. Adding one touches its own file and, for a kernel, one WGSL file.
///
/// On the GPU a kernel op sees only 4-byte elements (f32, i32, u32, and bool as u32): the public method casts f16, bf16 and u8 before
/// it and back after it. On the CPU it must take the float dtypes f32 and f64; f16 and bf16 are cast likewise.
pub(crate) trait Op: Debug + Send + Sync {
    /// The op's one name.
    fn name(&self) -> &'static str;

    /// How the planner treats it.
    fn class(&self) -> Class<'_> {
        Class::Kernel
    }

    /// Attributes that change code or shapes.
    fn key(&self, _key: &mut Key) {}

    /// Attributes that do not: read afresh at each replay of a plan.
    fn scalars(&self) -> &[Scalar] {
        &[]
    }

    /// The outputs' dtypes and shapes, or a typed error that says what would have been right.
    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs>;

    /// What backward wants kept. Views and pointwise ops keep nothing: the planner recomputes them.
    fn saves(&self) -> Saves {
        Saves { inputs: u32::MAX, outputs: u32::MAX }
    }

    /// The gradients of the inputs, written with ordinary tensor ops; `ctx.not_differentiable()` where there are none.
    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>>;

    /// The same outputs by smaller ops: the test oracle, the route for higher gradients, the fallback. `None` for a primitive.
    fn decompose(&self, _inputs: &[Tensor]) -> Option<Result<Vec<Tensor>>> {
        None
    }

    /// Pairs (input, output) for which the kernel may run in place.
    fn donates(&self) -> &[(usize, usize)] {
        &[]
    }

    /// What layouts it can read.
    fn reads(&self, _input: usize) -> Reads {
        Reads::Contiguous
    }

    /// Whether its kernel on the CPU may fail: then no value that the flush started from is overwritten, so that it can be tried again.
    fn is_fallible(&self) -> bool {
        false
    }

    /// Whether its vjp must be called even where no input wants a gradient (it finds gradients of its own).
    fn is_effectful(&self) -> bool {
        false
    }

    /// The part that a slice takes: autograd puts the gradients of the slices of one tensor together in one buffer.
    fn slice_spec(&self) -> Option<&crate::ops::view::SliceSpec> {
        None
    }

    /// Whether the kernel can finish with pointwise code over output 0. On the CPU that runs over the output after `cpu`.
    fn takes_epilogue(&self) -> bool {
        false
    }

    /// Runs on the CPU.
    fn cpu(&self, ctx: &CpuCtx) -> Result<()>;

    /// What runs on the GPU, as data.
    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel>;

    /// Floating-point operations, for the profile; 0 where memory is what it waits for.
    fn flops(&self, _inputs: &[&Layout], _outputs: &[&Layout]) -> u64 {
        0
    }

    /// The ways to cut it into parts on the GPU, where a buffer exceeds what can be bound or the work takes too long for a watchdog.
    fn cuts(&self, _inputs: &[Meta], _outputs: &[Meta]) -> Vec<Cut> {
        Vec::new()
    }

    /// The op of the part `range` of cut number `cut`, where it is another one. It has the same scalars.
    fn part(&self, _cut: usize, _range: &Range<usize>, _inputs: &[Meta]) -> Option<Arc<dyn Op>> {
        None
    }

    /// Who asked for it, of an op that others are made of.
    fn asked(&self) -> Option<Asked> {
        None
    }

    /// The size of the axis that the values of an index tensor must lie in: for the message about one that does not.
    fn index_range(&self, _inputs: &[&Layout]) -> Option<usize> {
        None
    }

    /// `Class::Host` only: evaluated inputs in, values out.
    fn host(&self, _inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        Err(Error::Kernel { op: self.name().into(), message: "not a host step".into() })
    }
}

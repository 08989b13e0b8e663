//! Ops that users write: a CPU closure, WGSL, a vjp.

use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::{Binding, Dispatch, GpuKernel, GpuStep, Param, Slot, grid};
use crate::graph::{GpuCtx, Key, Meta, Op, Outputs, Vjp, record_all};
use crate::{DType, Element, Error, Result, Shape, Tensor};
use std::any::TypeId;
use std::borrow::Cow;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// An op of your own. It is recorded, planned, replayed and differentiated as the built-in ones are.
///
/// ```
/// use fornax::{custom, CustomOp, CustomOutputs, CustomInputs, DType, Device, Result, Shader, Shape, Tensor};
///
/// /// y = x³
/// #[derive(Debug)]
/// struct Cube;
///
/// impl CustomOp for Cube {
///     fn name(&self) -> &'static str {
///         "cube"
///     }
///     fn infer(&self, inputs: &[(Shape, DType)]) -> Result<Vec<(Shape, DType)>> {
///         Ok(vec![inputs[0].clone()])
///     }
///     fn cpu(&self, inputs: &CustomInputs, outputs: &mut CustomOutputs) -> Result<()> {
///         let x = inputs.get::<f32>(0)?;
///         outputs.get::<f32>(0)?.iter_mut().zip(x).for_each(|(y, x)| *y = x * x * x);
///         Ok(())
///     }
///     fn gpu(&self, inputs: &[(Shape, DType)]) -> Option<Shader> {
///         let n = inputs[0].0.numel();
///         Some(Shader::new(
///             "struct Params { n: u32 }
///              @group(0) @binding(0) var<storage, read> x: array<f32>;
///              @group(0) @binding(1) var<storage, read_write> y: array<f32>;
///              @group(1) @binding(0) var<uniform> p: Params;
///              @compute @workgroup_size(64)
///              fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) g: vec3<u32>, @builtin(local_invocation_index) l: u32) {
///                  let i = (w.x + w.y * g.x) * 64u + l;
///                  if i < p.n { y[i] = x[i] * x[i] * x[i]; }
///              }",
///             &[n as u32],
///             n.div_ceil(64),
///         ))
///     }
///     fn vjp(&self, inputs: &[Tensor], _outputs: &[Tensor], cotangents: &[Tensor]) -> Result<Vec<Option<Tensor>>> {
///         let x = &inputs[0];
///         Ok(vec![Some(cotangents[0].try_mul(&x.try_mul(x)?)?.try_mul(3.0)?)])
///     }
/// }
///
/// let x = Tensor::from_vec(vec![1.0f32, 2.0, 3.0], 3, Device::cpu())?.requires_grad();
/// let y = custom(Cube, &[&x])?.remove(0);
/// assert_eq!(y.to_vec::<f32>()?, [1.0, 8.0, 27.0]);
/// let grads = y.sum(()).backward()?;
/// assert_eq!(grads.get(&x).unwrap().to_vec::<f32>()?, [3.0, 12.0, 27.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
pub trait CustomOp: Debug + Send + Sync + 'static {
    /// The op's name in messages and profiles.
    fn name(&self) -> &'static str;

    /// Every attribute that changes the shader or the shapes: two ops of one type with the same key and the same input shapes share a plan.
    fn key(&self) -> Vec<u64> {
        Vec::new()
    }

    /// Shapes and dtypes of the outputs (at least one), or an error that says what would have been right.
    ///
    /// # Errors
    /// For inputs that the op cannot take.
    fn infer(&self, inputs: &[(Shape, DType)]) -> Result<Vec<(Shape, DType)>>;

    /// Computes every element of every output on the CPU. Inputs and outputs are row-major. It runs in the middle of a flush, and no other flush runs
    /// meanwhile: it may evaluate no tensor, and wait for no thread that does.
    ///
    /// # Errors
    /// Only for what `infer` could not know.
    fn cpu(&self, inputs: &CustomInputs, outputs: &mut CustomOutputs) -> Result<()>;

    /// The GPU kernel; `None` where there is none, and the op is then refused on a GPU. Bindings: the inputs, then the outputs, at
    /// `@group(0)`; the parameters at `@group(1) @binding(0) var<uniform>`. Elements are 4 bytes: f32, i32, u32, and bool as u32.
    fn gpu(&self, _inputs: &[(Shape, DType)]) -> Option<Shader> {
        None
    }

    /// The gradients of the inputs, one each (`None` where there is none), written with tensor ops. A cotangent that did not flow is zeros.
    ///
    /// # Errors
    /// `Error::NotDifferentiable` where the op has no derivative.
    fn vjp(&self, inputs: &[Tensor], outputs: &[Tensor], cotangents: &[Tensor]) -> Result<Vec<Option<Tensor>>>;
}

/// A compute shader in WGSL with the entry point `main`.
///
/// ```
/// use fornax::Shader;
/// let source = "@group(0) @binding(0) var<storage, read_write> y: array<f32>;
///               @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
///                   if id.x < arrayLength(&y) { y[id.x] = 1.0; }
///               }";
/// let shader = Shader::new(source, &[], 4);
/// ```
#[derive(Clone, Debug)]
pub struct Shader {
    source: String,
    params: Vec<u32>,
    groups: [u32; 3],
}

impl Shader {
    /// A shader run with `workgroups` workgroups, folded into two dimensions above 65,535: it finds its place as
    /// `workgroup_id.x + workgroup_id.y * num_workgroups.x` and must check its bounds. `params` are the words of its uniform struct.
    pub fn new(source: impl Into<String>, params: &[u32], workgroups: usize) -> Shader {
        Shader { source: source.into(), params: params.to_vec(), groups: grid(workgroups) }
    }
}

/// The inputs of a custom op on the CPU.
pub struct CustomInputs<'a, 'b>(&'a CpuCtx<'b>);

impl CustomInputs<'_, '_> {
    /// The elements of input `i` in row-major order.
    ///
    /// # Errors
    /// `Error::DType` where they are of another type; `Error::Argument` where there is no such input.
    pub fn get<T: Element + bytemuck::Pod>(&self, i: usize) -> Result<&[T]> {
        there(self.0.op, "input", i, self.0.inputs.len())?;
        typed::<T>(self.0.op, self.0.dtype(i))?;
        Ok(self.0.input(i))
    }

    /// The sizes of input `i`.
    pub fn shape(&self, i: usize) -> &[usize] {
        self.0.shape(i)
    }
}

/// The outputs of a custom op on the CPU.
pub struct CustomOutputs<'a, 'b>(&'a CpuCtx<'b>);

impl CustomOutputs<'_, '_> {
    /// The elements of output `i` in row-major order, to be written.
    ///
    /// # Errors
    /// `Error::DType` where they are of another type; `Error::Argument` where there is no such output.
    pub fn get<T: Element + bytemuck::Pod>(&mut self, i: usize) -> Result<&mut [T]> {
        there(self.0.op, "output", i, self.0.outputs.len())?;
        typed::<T>(self.0.op, self.0.outputs[i].dtype)?;
        Ok(self.0.output(i))
    }

    /// The sizes of output `i`.
    pub fn shape(&self, i: usize) -> &[usize] {
        self.0.out_shape(i)
    }
}

fn there(op: &'static str, what: &str, i: usize, count: usize) -> Result<()> {
    if i < count { Ok(()) } else { Err(Error::argument(op, format!("the kernel asked for {what} {i} of {count}"))) }
}

fn typed<T: Element>(op: &'static str, dtype: DType) -> Result<()> {
    if T::DTYPE == dtype { Ok(()) } else { Err(Error::dtype(op, &[dtype], format!("the kernel asked for {}", T::DTYPE))) }
}

/// Applies an op of your own and returns its outputs.
///
/// # Errors
/// What its `infer` returns; `Error::Device` on a GPU where it has no shader.
pub fn custom(op: impl CustomOp, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let name = op.name();
    let Some(first) = inputs.first() else {
        return Err(Error::argument(name, "a custom op takes at least one tensor"));
    };
    if first.device().is_gpu() {
        if let Some(bad) = inputs.iter().find(|t| t.dtype() != DType::Bool && t.dtype().size() != 4) {
            return Err(Error::dtype(name, &[bad.dtype()], "a custom GPU kernel takes f32, i32, u32 and bool: cast first"));
        }
        if op.gpu(&inputs.iter().map(|t| (t.shape().clone(), t.dtype())).collect::<Vec<_>>()).is_none() {
            let message = format!("there is no GPU kernel for these inputs: move them with .to(Device::cpu()), not {}", first.device());
            return Err(Error::Device { op: name, message });
        }
    }
    record_all(Arc::new(Custom(op)), inputs)
}

#[derive(Debug)]
struct Custom<T>(T);

fn describe(m: &Meta) -> (Shape, DType) {
    (m.shape().clone(), m.dtype)
}

impl<T: CustomOp> Op for Custom<T> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn key(&self, key: &mut Key) {
        let mut hasher = DefaultHasher::new();
        TypeId::of::<T>().hash(&mut hasher);
        key.add(hasher.finish());
        let own = self.0.key();
        key.add(own.len() as u64);
        key.0.extend(own);
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let outs = self.0.infer(&inputs.iter().map(|m| describe(m)).collect::<Vec<_>>())?;
        if outs.is_empty() {
            return Err(Error::argument(self.name(), "infer gave no output: a custom op has at least one"));
        }
        outs.iter().try_for_each(|(s, _)| s.checked_numel().map(drop))?;
        Ok(outs.into_iter().map(|(s, d)| Meta::new(d, s)).collect())
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let cotangents: Vec<Tensor> = ctx
            .cotangents
            .iter()
            .zip(ctx.outputs)
            .map(|(c, y)| c.as_ref().map_or_else(|| y.try_zeros_like(), |c| Ok(c.clone())))
            .collect::<Result<_>>()?;
        let grads = self.0.vjp(ctx.inputs, ctx.outputs, &cotangents)?;
        if grads.len() != ctx.inputs.len() {
            let message = format!("its vjp gave {} gradients for {} inputs", grads.len(), ctx.inputs.len());
            return Err(Error::Kernel { op: self.name().into(), message });
        }
        Ok(grads)
    }

    fn is_fallible(&self) -> bool {
        true
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        self.0.cpu(&CustomInputs(ctx), &mut CustomOutputs(ctx))
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        let inputs: Vec<_> = ctx.inputs.iter().map(describe).collect();
        let Some(shader) = self.0.gpu(&inputs) else {
            return Err(Error::Kernel { op: self.name().into(), message: "no GPU kernel".into() });
        };
        let mut bindings: Vec<Binding> = (0..ctx.inputs.len()).map(|i| Binding { slot: Slot::Input(i), write: false }).collect();
        bindings.extend((0..ctx.outputs.len()).map(|i| Binding { slot: Slot::Output(i), write: true }));
        let params = shader.params.iter().map(|&w| Param::Word(w)).collect();
        let dispatch =
            Dispatch { label: self.name(), source: Cow::Owned(shader.source), bindings, params, groups: shader.groups, flops: 0 };
        Ok(GpuKernel { temps: Vec::new(), steps: vec![GpuStep::Dispatch(dispatch)] })
    }
}

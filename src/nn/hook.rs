//! What stands around a layer of a finished model, and what the layer tells about itself.

use super::{Module, Param, Walk};
use crate::{ConvOptions, ConvOptions1d, PadMode, Result, Tensor};
use std::fmt;
use std::sync::{Arc, Mutex};

/// Something that stands around a layer: it sees the layer's input, may let the layer compute, and gives what is the output then. An adapter is
/// one. Its parameters appear in the layer's path, beside the layer's own, which keep their names.
pub trait Around: Module + Send + Sync {
    /// The output for an input; `base` is what the layer computes.
    ///
    /// # Errors
    /// Those of the layer, and its own.
    fn forward(&self, x: &Tensor, base: &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor>;
}

/// The place around a layer: empty at first. A handle on a shared cell, as [`Param`] is.
///
/// ```
/// use fornax::nn::{Around, Forward, Linear, Module, Param, Walk};
/// use fornax::{Device, Result, Tensor};
/// use std::sync::Arc;
/// /// Scales what a layer gives.
/// #[derive(Module)]
/// struct Scaled {
///     scale: Param,
/// }
/// impl Around for Scaled {
///     fn forward(&self, x: &Tensor, base: &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
///         base(x)?.try_mul(self.scale.get())
///     }
/// }
/// let layer = Linear::new(2, 3, Device::cpu());
/// layer.hook.set(Some(Arc::new(Scaled { scale: Param::new(Tensor::zeros((), Device::cpu())) })));
/// assert_eq!(layer.forward(&Tensor::ones([1, 2], Device::cpu()))?.to_vec::<f32>()?, [0.0; 3]);
/// let names: Vec<String> = layer.named_parameters().into_iter().map(|(name, _)| name).collect();
/// assert_eq!(names, ["weight", "bias", "scale"]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Hook(Arc<Mutex<Option<Arc<dyn Around>>>>);

impl Hook {
    /// What stands here.
    pub fn get(&self) -> Option<Arc<dyn Around>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Puts something here, or takes it away; returns what was.
    pub fn set(&self, around: Option<Arc<dyn Around>>) -> Option<Arc<dyn Around>> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(|e| e.into_inner()), around)
    }

    /// The layer's output: `base`, or what stands here makes of it. Layers call this in their `forward`.
    ///
    /// # Errors
    /// Those of `base`, and of what stands here.
    pub fn call(&self, x: &Tensor, base: &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        match self.get() {
            Some(around) => around.forward(x, base),
            None => base(x),
        }
    }
}

impl Module for Hook {
    fn walk(&self, walk: &mut Walk<'_>) {
        if let Some(around) = self.get() {
            around.walk(walk)
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.get().is_some() { "Hook(occupied)" } else { "Hook" })
    }
}

/// What a layer computes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum LayerKind {
    /// `[.., inputs]` to `[.., outputs]`.
    Linear {
        /// Features in.
        inputs: usize,
        /// Features out.
        outputs: usize,
        /// Whether the weight lies as `[in, out]`, as GPT-2's do, and not as `[out, in]`.
        transposed: bool,
    },
    /// Indices `[..]` to `[.., dim]`; the weight is `[count, dim]`.
    Embedding {
        /// Vectors.
        count: usize,
        /// Their width.
        dim: usize,
    },
    /// A 1-D convolution; the weight is `[out, in/groups, k]`.
    Conv1d {
        /// Stride, padding, dilation, groups.
        options: ConvOptions1d,
        /// What stands in the padding.
        padding_mode: PadMode,
        /// Whether the output is as long as the input.
        same: bool,
    },
    /// A 2-D convolution; the weight is `[out, in/groups, kh, kw]`.
    Conv2d {
        /// Stride, padding, dilation, groups.
        options: ConvOptions,
        /// What stands in the padding.
        padding_mode: PadMode,
        /// Whether the output is as large as the input.
        same: bool,
    },
}

/// A layer's weight.
#[derive(Clone)]
#[non_exhaustive]
pub enum Weight {
    /// A parameter.
    Param(Param),
    /// Kept in another form, such as 4 bits; the function makes the weight as the layer's kind has it.
    Packed(Arc<dyn Fn() -> Result<Tensor> + Send + Sync>),
}

impl Weight {
    /// The weight as a constant.
    ///
    /// # Errors
    /// What unpacking can give.
    pub fn value(&self) -> Result<Tensor> {
        match self {
            Weight::Param(p) => Ok(p.value()),
            Weight::Packed(make) => make(),
        }
    }
}

/// A layer that adapters can be put around. In its [`walk`](Module::walk) it shows itself as an [`Item::Layer`](super::Item::Layer), and its hook; in its
/// `forward` it goes through [`Hook::call`].
pub trait Adaptable {
    /// The place around it.
    fn hook(&self) -> &Hook;

    /// What it computes.
    fn kind(&self) -> LayerKind;

    /// Its weight.
    fn weight(&self) -> Weight;

    /// Its bias.
    fn bias(&self) -> Option<Param>;
}

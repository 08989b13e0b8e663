//! Multi-head attention as a layer.

use super::{Adaptable, Forward, Hook, Item, LayerKind, Linear, Mode, Module, Param, Walk, Weight, init};
use crate::{Attention, Error, Options, Result, Tensor};

/// Multi-head attention (Vaswani et al. 2017): queries, keys and values are projected, split into heads, attend, and are projected back,
/// `out_proj(concat_h softmax(q_h k_hᵀ / √d) v_h)`, on `[N, L, width]` (or `[L, width]`; PyTorch's `batch_first`). The names of the parameters are PyTorch's.
///
/// The weight `in_proj_weight` starts Xavier uniform, `out_proj.weight` as a linear layer's, both biases at 0. See
/// [`Tensor::scaled_dot_product_attention`].
///
/// ```
/// use fornax::nn::{Forward, Module, MultiheadAttention};
/// use fornax::{Attention, Device, Tensor};
/// let layer = MultiheadAttention::new(8, 2, Device::cpu());
/// let x = Tensor::ones([3, 5, 8], Device::cpu());
/// assert_eq!(layer.forward(&x)?.dims(), [3, 5, 8]);
/// let causal = Attention { causal: true, ..Attention::default() };
/// let y = layer.attend(&x.narrow(1, 0, 2), &x, &x, &causal)?;
/// assert_eq!(y.dims(), [3, 2, 8]);
/// assert_eq!(layer.named_parameters()[0].0, "in_proj_weight");
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Debug)]
pub struct MultiheadAttention {
    /// `[3 · width, width]`: of the queries, the keys and the values.
    pub in_proj_weight: Param,
    /// `[3 · width]`.
    pub in_proj_bias: Option<Param>,
    /// From the heads side by side to the result.
    pub out_proj: Linear,
    /// What stands around the product with `in_proj_weight`.
    pub hook: Hook,
    heads: usize,
    dropout: f64,
    mode: Mode,
}

const OP: &str = "MultiheadAttention";

#[fornax_derive::fallible]
impl MultiheadAttention {
    /// A layer of this width with this many heads, with biases and without dropout.
    ///
    /// # Errors
    /// A width that is no multiple of the heads; sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(width: usize, heads: usize, options: impl Into<Options>) -> Result<MultiheadAttention> {
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(Error::argument(OP, format!("a width of {width} cannot be split into {heads} heads: a multiple is wanted")));
        }
        let options = options.into();
        let all = width.saturating_mul(3);
        let out_proj = Linear::try_new(width, width, options)?;
        if let Some(bias) = &out_proj.bias {
            bias.set(Tensor::try_zeros(width, options)?)?;
        }
        Ok(MultiheadAttention {
            in_proj_weight: Param::new(init::xavier_uniform([all, width], init::Gain::Linear, options)?),
            in_proj_bias: Some(Param::new(Tensor::try_zeros(all, options)?)),
            out_proj,
            hook: Hook::default(),
            heads,
            dropout: 0.0,
            mode: Mode::default(),
        })
    }

    /// Sets the probability with which a weight of the attention is dropped in training mode.
    ///
    /// # Errors
    /// A probability outside 0..1.
    pub fn try_dropout(self, p: f64) -> Result<MultiheadAttention> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::argument(OP, format!("dropout = {p}: a probability in 0..1 is wanted")));
        }
        Ok(MultiheadAttention { dropout: p, ..self })
    }
}

impl MultiheadAttention {
    /// The layer without its biases.
    pub fn no_bias(mut self) -> MultiheadAttention {
        self.in_proj_bias = None;
        self.out_proj = self.out_proj.no_bias();
        self
    }

    /// Attention of the queries `[…, L, width]` over keys and values `[…, S, width]`, with a mask, a bias or causal as `options` say (whose dropout counts
    /// in place of the layer's where it is not 0).
    ///
    /// # Errors
    /// Shapes, dtypes or devices that do not fit.
    pub fn attend(&self, queries: &Tensor, keys: &Tensor, values: &Tensor, options: &Attention) -> Result<Tensor> {
        if self.hook.get().is_some() {
            let part = |i: usize, x: &Tensor| Ok::<_, Error>(self.in_proj(x)?.try_chunk(3, -1)?.swap_remove(i));
            return self.mix([&part(0, queries)?, &part(1, keys)?, &part(2, values)?], options);
        }
        let weights = self.in_proj_weight.get().try_chunk(3, 0)?;
        let biases = self.in_proj_bias.as_ref().map(|b| b.get().try_chunk(3, 0)).transpose()?;
        let project = |i: usize, x: &Tensor| x.try_linear(&weights[i], biases.as_ref().map(|b| &b[i]));
        self.mix([&project(0, queries)?, &project(1, keys)?, &project(2, values)?], options)
    }

    /// Attention of a sequence over itself: one product makes queries, keys and values.
    ///
    /// # Errors
    /// Shapes, dtypes or devices that do not fit.
    pub fn self_attend(&self, x: &Tensor, options: &Attention) -> Result<Tensor> {
        let parts = self.in_proj(x)?.try_chunk(3, -1)?;
        self.mix([&parts[0], &parts[1], &parts[2]], options)
    }

    /// Queries, keys and values side by side.
    fn in_proj(&self, x: &Tensor) -> Result<Tensor> {
        self.hook.call(x, &|x| x.try_linear(&self.in_proj_weight.get(), self.in_proj_bias.as_ref().map(Param::get).as_ref()))
    }

    /// From projected queries, keys and values to the result.
    fn mix(&self, [q, k, v]: [&Tensor; 3], options: &Attention) -> Result<Tensor> {
        let split = |t: &Tensor| {
            if t.rank() < 2 {
                return Err(Error::shape(OP, &[t.shape()], "sequences [.., L, width]"));
            }
            let mut shape = t.dims().to_vec();
            let width = shape.pop().unwrap_or_default();
            shape.extend([self.heads, width / self.heads]);
            t.try_reshape(shape)?.try_transpose(-3, -2)
        };
        let mut options = options.clone();
        if self.mode.is_training() && options.dropout == 0.0 {
            options.dropout = self.dropout;
        }
        let y = split(q)?.try_scaled_dot_product_attention(&split(k)?, &split(v)?, &options)?;
        self.out_proj.forward(&y.try_transpose(-3, -2)?.try_reshape(q.shape())?)
    }
}

impl Module for MultiheadAttention {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.module(OP);
        // As for PEFT, an adapter of the module itself is one of its first product.
        walk.item(Item::Layer(self));
        walk.field("in_proj_weight", |walk| self.in_proj_weight.walk(walk));
        walk.field("in_proj_bias", |walk| self.in_proj_bias.walk(walk));
        self.hook.walk(walk);
        walk.field("out_proj", |walk| self.out_proj.walk(walk));
        self.mode.walk(walk);
    }
}

impl Adaptable for MultiheadAttention {
    fn hook(&self) -> &Hook {
        &self.hook
    }

    fn kind(&self) -> LayerKind {
        let shape = self.in_proj_weight.shape();
        LayerKind::Linear { inputs: shape[1], outputs: shape[0], transposed: false }
    }

    fn weight(&self) -> Weight {
        Weight::Param(self.in_proj_weight.clone())
    }

    fn bias(&self) -> Option<Param> {
        self.in_proj_bias.clone()
    }
}

impl Forward for MultiheadAttention {
    /// Self-attention without a mask.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.self_attend(x, &Attention::default())
    }
}

//! Falcon (Almazrouei et al., 2023).

use super::cache::{Attend, Step};
use super::config::{CONTEXT, LAYERS, VOCABULARY, WIDTH};
use super::rope::Rope;
use super::{Activation, Config, Decoder, DecoderShape, blank};
use crate::nn::{Dropout, Embedding, Forward, LayerNorm, Module, Slot};
use crate::{DType, Error, Options, Result, Tensor};

/// How queries, keys and values lie in the one product that gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fused {
    /// `[H, 3, D]`.
    Triples,
    /// `[H + 2, D]`: all heads share a key and a value.
    Shared,
    /// `[G, H/G + 2, D]`: the heads of a group share.
    Groups,
}

#[derive(Module)]
struct SelfAttention {
    query_key_value: Slot,
    dense: Slot,
    dropout: Dropout,
}

#[derive(Module)]
struct Mlp {
    dense_h_to_4h: Slot,
    dense_4h_to_h: Slot,
}

#[derive(Module)]
struct Block {
    self_attention: SelfAttention,
    mlp: Mlp,
    /// Before attention.
    input_layernorm: Option<LayerNorm>,
    ln_attn: Option<LayerNorm>,
    /// Before the feed-forward part, where that has one of its own.
    ln_mlp: Option<LayerNorm>,
    post_attention_layernorm: Option<LayerNorm>,
    dropout: Dropout,
}

/// The decoder of Falcon.
#[derive(Module)]
pub(super) struct Falcon {
    word_embeddings: Embedding,
    h: Vec<Block>,
    ln_f: LayerNorm,
    #[module(skip)]
    shape: DecoderShape,
    #[module(skip)]
    rope: Option<Rope>,
    #[module(skip)]
    fused: Fused,
    #[module(skip)]
    activation: Activation,
    heads: usize,
    kv_heads: usize,
    parallel: bool,
}

impl Falcon {
    pub fn blank(config: &Config, o: Options) -> Result<Falcon> {
        let width = config.size_of(&["hidden_size", "n_embed"], 4544, WIDTH)?;
        let heads = config.size_of(&["num_attention_heads", "n_head"], 71, WIDTH)?;
        let head = config.head_width(width, heads)?;
        let layers = config.size_of(&["num_hidden_layers", "n_layer"], 32, LAYERS)?;
        let vocabulary = config.size("vocab_size", 65_024, VOCABULARY)?;
        let new = config.flag("new_decoder_architecture", false)?;
        let fused = match (new, config.flag("multi_query", true)?) {
            (true, _) => Fused::Groups,
            (false, true) => Fused::Shared,
            (false, false) => Fused::Triples,
        };
        let kv_heads = match fused {
            Fused::Groups => config.size_of(&["num_kv_heads", "n_head_kv"], heads, WIDTH)?,
            Fused::Shared => 1,
            Fused::Triples => heads,
        };
        if !heads.is_multiple_of(kv_heads) {
            return Err(
                config.error(format!("{heads} heads cannot share {kv_heads} heads of keys: num_kv_heads must divide num_attention_heads"))
            );
        }
        let parallel = new || config.flag("parallel_attn", true)?;
        let two = new && config.number("num_ln_in_parallel_attn", 2.0)? == 2.0;
        let bias = config.flag("bias", false)?;
        let middle = config.size("ffn_hidden_size", 4 * width, 8 * WIDTH)?;
        let eps = config.eps("layer_norm_epsilon", 1e-5)?;
        let norm = |wanted: bool| if wanted { blank::layer_norm(width, eps, o).map(Some) } else { Ok(None) };
        let block = |_| -> Result<Block> {
            Ok(Block {
                self_attention: SelfAttention {
                    query_key_value: blank::linear(width, (heads + 2 * kv_heads) * head, bias, o)?,
                    dense: blank::linear(width, width, bias, o)?,
                    dropout: blank::dropout(config, "attention_dropout", 0.0)?,
                },
                mlp: Mlp { dense_h_to_4h: blank::linear(width, middle, bias, o)?, dense_4h_to_h: blank::linear(middle, width, bias, o)? },
                input_layernorm: norm(!two)?,
                ln_attn: norm(two)?,
                ln_mlp: norm(two)?,
                post_attention_layernorm: norm(!parallel)?,
                dropout: blank::dropout(config, "hidden_dropout", 0.0)?,
            })
        };
        Ok(Falcon {
            word_embeddings: blank::embedding(vocabulary, width, o)?,
            h: (0..layers).map(block).collect::<Result<_>>()?,
            ln_f: blank::layer_norm(width, eps, o)?,
            shape: DecoderShape { vocabulary, width, layers, context: config.size("max_position_embeddings", 2048, CONTEXT)? },
            rope: if config.flag("alibi", false)? { None } else { Some(Rope::new(config, head, 10_000.0)?) },
            fused,
            activation: Activation::named(config, "activation", "gelu")?,
            heads,
            kv_heads,
            parallel,
        })
    }

    /// q `[B, H, T, D]`, k and v `[B, G, T, D]`: views of the product.
    fn parts(&self, y: &Tensor) -> Result<[Tensor; 3]> {
        let &[b, t, w] = y.dims() else {
            return Err(Error::shape("Falcon", &[y.shape()], "states [B, T, W]"));
        };
        let (h, g) = (self.heads, self.kv_heads);
        let d = w / (h + 2 * g);
        let parts = match self.fused {
            Fused::Triples => {
                let y = y.try_reshape([b, t, h, 3, d])?;
                [0, 1, 2].map(|i| y.try_select(3, i))
            }
            Fused::Shared => {
                let y = y.try_reshape([b, t, h + 2, d])?;
                [y.try_narrow(2, 0, h), y.try_narrow(2, h, 1), y.try_narrow(2, h + 1, 1)]
            }
            Fused::Groups => {
                let y = y.try_reshape([b, t, g, h / g + 2, d])?;
                let q = y.try_narrow(3, 0, h / g).and_then(|q| q.try_reshape([b, t, h, d]));
                [q, y.try_select(3, -2), y.try_select(3, -1)]
            }
        };
        let [q, k, v] = parts;
        Ok([q?.try_transpose(1, 2)?, k?.try_transpose(1, 2)?, v?.try_transpose(1, 2)?])
    }

    /// Attention with linear biases (Press et al., 2021): a head's slope times the position of the key, scaled as the scores are. Slopes and products are
    /// rounded to bf16, as the published models were trained.
    fn alibi(&self, step: &Step<'_>, like: &Tensor) -> Result<Tensor> {
        let o = (DType::BF16, step.device);
        let slopes: Vec<f32> = slopes(self.heads).into_iter().map(|s| s as f32).collect();
        let slopes = Tensor::from_vec(slopes, [1, self.heads, 1, 1], step.device)?.try_cast(o.0)?;
        let positions = step.key_positions()?;
        let product = slopes.try_mul(positions.try_cast(o.0)?.try_reshape([positions.dims()[0], 1, 1, step.keys])?)?;
        let head = self.shape.width / self.heads;
        product.try_cast(like.dtype())?.try_mul(1.0 / (head as f64).sqrt())
    }
}

/// The slopes of so many heads: powers of one base for the largest power of two below, and every second power of another for the rest.
fn slopes(heads: usize) -> Vec<f64> {
    let power = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
    let base = |n: usize| 2f64.powf(-8.0 / n as f64);
    let first = (1..=power).map(|i| base(power).powi(i as i32));
    first.chain((0..heads - power).map(|i| base(2 * power).powi(2 * i as i32 + 1))).collect()
}

impl Decoder for Falcon {
    fn shape(&self) -> DecoderShape {
        self.shape
    }

    fn prefix(&self) -> &'static str {
        "transformer"
    }

    fn embedding(&self) -> &Embedding {
        &self.word_embeddings
    }

    fn forward(&self, ids: &Tensor, step: &mut Step<'_>, seen: &mut dyn FnMut(&Tensor)) -> Result<Tensor> {
        let mut x = self.word_embeddings.forward(ids)?;
        let angles = self.rope.as_ref().map(|r| r.angles(step, &x)).transpose()?;
        let bias = if self.rope.is_none() { Some(self.alibi(step, &x)?) } else { None };
        for (i, block) in self.h.iter().enumerate() {
            seen(&x);
            let a = &block.self_attention;
            let before = match (&block.ln_attn, &block.input_layernorm) {
                (Some(norm), _) | (None, Some(norm)) => norm.forward(&x)?,
                (None, None) => x.clone(),
            };
            let [mut q, mut k, v] = self.parts(&a.query_key_value.forward(&before)?)?;
            if let Some(angles) = &angles {
                (q, k) = (angles.turn(&q)?, angles.turn(&k)?);
            }
            let how = Attend { bias: bias.as_ref(), dropout: Some(&a.dropout), ..Attend::default() };
            let attention = a.dense.forward(&step.attend(i, &q, &k, &v, &how)?)?;
            let mlp = |y: &Tensor| block.mlp.dense_4h_to_h.forward(&self.activation.apply(&block.mlp.dense_h_to_4h.forward(y)?)?);
            x = if self.parallel {
                let y = match &block.ln_mlp {
                    Some(norm) => norm.forward(&x)?,
                    None => before,
                };
                x.try_add(block.dropout.forward(&mlp(&y)?.try_add(attention)?)?)?
            } else {
                let x = x.try_add(block.dropout.forward(&attention)?)?;
                let y = block.post_attention_layernorm.as_ref().map_or_else(|| Ok(x.clone()), |n| n.forward(&x))?;
                x.try_add(block.dropout.forward(&mlp(&y)?)?)?
            };
        }
        let x = self.ln_f.forward(&x)?;
        seen(&x);
        Ok(x)
    }
}

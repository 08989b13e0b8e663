//! GPT-2 (Radford et al., 2019).

use super::cache::{Attend, Step, split};
use super::config::{CONTEXT, LAYERS, VOCABULARY, WIDTH};
use super::{Activation, Config, Decoder, DecoderShape, blank};
use crate::nn::{Dropout, Embedding, Forward, LayerNorm, Module, Slot};
use crate::{Options, Result, Tensor};

#[derive(Module)]
struct SelfAttention {
    c_attn: Slot,
    c_proj: Slot,
    dropout: Dropout,
    heads: usize,
    scale: Option<f64>,
}

#[derive(Module)]
struct Mlp {
    c_fc: Slot,
    c_proj: Slot,
    #[module(skip)]
    activation: Activation,
}

#[derive(Module)]
struct Block {
    ln_1: LayerNorm,
    attn: SelfAttention,
    ln_2: LayerNorm,
    mlp: Mlp,
    dropout: Dropout,
}

/// The decoder of GPT-2.
#[derive(Module)]
pub(super) struct Gpt2 {
    wte: Embedding,
    wpe: Embedding,
    h: Vec<Block>,
    ln_f: LayerNorm,
    dropout: Dropout,
    #[module(skip)]
    shape: DecoderShape,
}

impl Gpt2 {
    pub fn blank(config: &Config, o: Options) -> Result<Gpt2> {
        let width = config.size_of(&["n_embd", "hidden_size"], 768, WIDTH)?;
        let heads = config.size_of(&["n_head", "num_attention_heads"], 12, WIDTH)?;
        let head = config.head_width(width, heads)?;
        let layers = config.size_of(&["n_layer", "num_hidden_layers"], 12, LAYERS)?;
        let context = config.size_of(&["n_positions", "max_position_embeddings"], 1024, CONTEXT)?;
        let vocabulary = config.size("vocab_size", 50_257, VOCABULARY)?;
        let middle = config.size("n_inner", 4 * width, 8 * WIDTH)?;
        let eps = config.eps("layer_norm_epsilon", 1e-5)?;
        let activation = Activation::named(config, "activation_function", "gelu_new")?;
        let plain = if config.flag("scale_attn_weights", true)? { 1.0 / (head as f64).sqrt() } else { 1.0 };
        let by_layer = config.flag("scale_attn_by_inverse_layer_idx", false)?;
        let block = |i: usize| -> Result<Block> {
            Ok(Block {
                ln_1: blank::layer_norm(width, eps, o)?,
                attn: SelfAttention {
                    c_attn: blank::conv1d(width, 3 * width, o)?,
                    c_proj: blank::conv1d(width, width, o)?,
                    dropout: blank::dropout(config, "attn_pdrop", 0.1)?,
                    heads,
                    scale: Some(if by_layer { plain / (i + 1) as f64 } else { plain }),
                },
                ln_2: blank::layer_norm(width, eps, o)?,
                mlp: Mlp { c_fc: blank::conv1d(width, middle, o)?, c_proj: blank::conv1d(middle, width, o)?, activation },
                dropout: blank::dropout(config, "resid_pdrop", 0.1)?,
            })
        };
        Ok(Gpt2 {
            wte: blank::embedding(vocabulary, width, o)?,
            wpe: blank::embedding(context, width, o)?,
            h: (0..layers).map(block).collect::<Result<_>>()?,
            ln_f: blank::layer_norm(width, eps, o)?,
            dropout: blank::dropout(config, "embd_pdrop", 0.1)?,
            shape: DecoderShape { vocabulary, width, layers, context },
        })
    }
}

impl Decoder for Gpt2 {
    fn shape(&self) -> DecoderShape {
        self.shape
    }

    fn prefix(&self) -> &'static str {
        "transformer"
    }

    fn embedding(&self) -> &Embedding {
        &self.wte
    }

    fn forward(&self, ids: &Tensor, step: &mut Step<'_>, seen: &mut dyn FnMut(&Tensor)) -> Result<Tensor> {
        let positions = step.positions(&self.wpe)?;
        let mut x = self.dropout.forward(&self.wte.forward(ids)?.try_add(&positions)?)?;
        for (i, block) in self.h.iter().enumerate() {
            seen(&x);
            let a = &block.attn;
            let qkv = a.c_attn.forward(&block.ln_1.forward(&x)?)?.try_chunk(3, -1)?;
            let heads: Vec<Tensor> = qkv.iter().map(|t| split(t, a.heads)).collect::<Result<_>>()?;
            let how = Attend { scale: a.scale, dropout: Some(&a.dropout), ..Attend::default() };
            let y = step.attend(i, &heads[0], &heads[1], &heads[2], &how)?;
            x = x.try_add(block.dropout.forward(&a.c_proj.forward(&y)?)?)?;
            let m = &block.mlp;
            let y = m.c_proj.forward(&m.activation.apply(&m.c_fc.forward(&block.ln_2.forward(&x)?)?)?)?;
            x = x.try_add(block.dropout.forward(&y)?)?;
        }
        let x = self.ln_f.forward(&x)?;
        seen(&x);
        Ok(x)
    }
}

//! Llama (Touvron et al., 2023), and the families that differ from it in little: Mistral (a sliding window) and Qwen 2 (biases).

use super::cache::{Attend, Step, split};
use super::config::{CONTEXT, LAYERS, VOCABULARY, WIDTH};
use super::rope::{Angles, Rope};
use super::{Activation, Config, Decoder, DecoderShape, blank};
use crate::nn::{Dropout, Embedding, Forward, Module, RMSNorm, Slot};
use crate::{Options, Result, Tensor};
use serde_json::Value;

#[derive(Module)]
struct SelfAttention {
    q_proj: Slot,
    k_proj: Slot,
    v_proj: Slot,
    o_proj: Slot,
    dropout: Dropout,
    heads: usize,
    kv_heads: usize,
    window: Option<usize>,
}

impl SelfAttention {
    fn forward(&self, x: &Tensor, layer: usize, angles: &Angles, step: &mut Step<'_>) -> Result<Tensor> {
        let q = angles.turn(&split(&self.q_proj.forward(x)?, self.heads)?)?;
        let k = angles.turn(&split(&self.k_proj.forward(x)?, self.kv_heads)?)?;
        let v = split(&self.v_proj.forward(x)?, self.kv_heads)?;
        let how = Attend { window: self.window, dropout: Some(&self.dropout), ..Attend::default() };
        self.o_proj.forward(&step.attend(layer, &q, &k, &v, &how)?)
    }
}

#[derive(Module)]
struct GatedMlp {
    gate_proj: Slot,
    up_proj: Slot,
    down_proj: Slot,
    #[module(skip)]
    activation: Activation,
}

impl GatedMlp {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gate = self.activation.apply(&self.gate_proj.forward(x)?)?;
        self.down_proj.forward(&gate.try_mul(self.up_proj.forward(x)?)?)
    }
}

#[derive(Module)]
struct Layer {
    self_attn: SelfAttention,
    mlp: GatedMlp,
    input_layernorm: RMSNorm,
    post_attention_layernorm: RMSNorm,
}

/// The decoder of Llama's family.
#[derive(Module)]
pub(super) struct Llama {
    embed_tokens: Embedding,
    layers: Vec<Layer>,
    norm: RMSNorm,
    #[module(skip)]
    rope: Rope,
    #[module(skip)]
    shape: DecoderShape,
}

impl Llama {
    pub fn blank(config: &Config, o: Options) -> Result<Llama> {
        let family = config.model_type()?;
        let width = config.size("hidden_size", 4096, WIDTH)?;
        let heads = config.size("num_attention_heads", 32, WIDTH)?;
        let kv_heads = config.size("num_key_value_heads", if family == "mistral" { 8 } else { heads }, WIDTH)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(config.error(format!(
                "{heads} heads cannot share {kv_heads} heads of keys: num_key_value_heads must divide num_attention_heads"
            )));
        }
        let head = match config.get("head_dim") {
            Some(_) => config.size("head_dim", None, WIDTH)?,
            None => config.head_width(width, heads)?,
        };
        let layers = config.size("num_hidden_layers", 32, LAYERS)?;
        let middle = config.size("intermediate_size", 11_008, 8 * WIDTH)?;
        let eps = config.eps("rms_norm_eps", 1e-6)?;
        let activation = Activation::named(config, "hidden_act", "silu")?;
        let (qkv_bias, out_bias) = match family {
            "qwen2" => (true, false),
            "llama" => (config.flag("attention_bias", false)?, config.flag("attention_bias", false)?),
            _ => (false, false),
        };
        let mlp_bias = family == "llama" && config.flag("mlp_bias", false)?;
        let windows = windows(config, family, layers)?;
        let layer = |i: usize| -> Result<Layer> {
            Ok(Layer {
                self_attn: SelfAttention {
                    q_proj: blank::linear(width, heads * head, qkv_bias, o)?,
                    k_proj: blank::linear(width, kv_heads * head, qkv_bias, o)?,
                    v_proj: blank::linear(width, kv_heads * head, qkv_bias, o)?,
                    o_proj: blank::linear(heads * head, width, out_bias, o)?,
                    dropout: blank::dropout(config, "attention_dropout", 0.0)?,
                    heads,
                    kv_heads,
                    window: windows[i],
                },
                mlp: GatedMlp {
                    gate_proj: blank::linear(width, middle, mlp_bias, o)?,
                    up_proj: blank::linear(width, middle, mlp_bias, o)?,
                    down_proj: blank::linear(middle, width, mlp_bias, o)?,
                    activation,
                },
                input_layernorm: blank::rms_norm(width, eps, o)?,
                post_attention_layernorm: blank::rms_norm(width, eps, o)?,
            })
        };
        let (default, theta) = match family {
            "llama" => (2048, 10_000.0),
            "mistral" => (131_072, 10_000.0),
            _ => (32_768, 10_000.0),
        };
        let vocabulary = config.size("vocab_size", None, VOCABULARY)?;
        Ok(Llama {
            embed_tokens: blank::embedding(vocabulary, width, o)?,
            layers: (0..layers).map(layer).collect::<Result<_>>()?,
            norm: blank::rms_norm(width, eps, o)?,
            rope: Rope::new(config, head, theta)?,
            shape: DecoderShape { vocabulary, width, layers, context: config.size("max_position_embeddings", default, CONTEXT)? },
        })
    }
}

/// How far each layer looks back: null is no limit, a missing key is transformers' default.
fn windows(config: &Config, family: &str, layers: usize) -> Result<Vec<Option<usize>>> {
    let window = match (config.get("sliding_window"), config.has("sliding_window")) {
        (None, true) => None,
        _ => Some(config.size("sliding_window", 4096, CONTEXT)?),
    };
    let uses = config.flag("use_sliding_window", false)?;
    match family {
        "mistral" => Ok(vec![window; layers]),
        "qwen2" => {
            let sliding = layer_types(config, layers)?;
            let window = window.filter(|_| uses);
            let first = config.number("max_window_layers", 28.0)?;
            let slides = |i: usize| sliding.as_ref().map_or(i as f64 >= first, |s| s[i]);
            Ok((0..layers).map(|i| window.filter(|_| slides(i))).collect())
        }
        _ => Ok(vec![None; layers]),
    }
}

/// Which layers have the window, by `layer_types`.
fn layer_types(config: &Config, layers: usize) -> Result<Option<Vec<bool>>> {
    let kinds = match config.get("layer_types") {
        None => return Ok(None),
        Some(Value::Array(kinds)) if kinds.len() == layers => kinds,
        Some(Value::Array(kinds)) => {
            return Err(config.error(format!("layer_types has {} entries for {layers} layers: one for each is wanted", kinds.len())));
        }
        Some(v) => return Err(config.error(format!("layer_types is {v}: a list with an entry for each layer is wanted"))),
    };
    let slides = |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(config.error(format!("layer_types has {kind}: known are \"full_attention\" and \"sliding_attention\""))),
    };
    kinds.iter().map(slides).collect::<Result<_>>().map(Some)
}

impl Decoder for Llama {
    fn shape(&self) -> DecoderShape {
        self.shape
    }

    fn prefix(&self) -> &'static str {
        "model"
    }

    fn embedding(&self) -> &Embedding {
        &self.embed_tokens
    }

    fn forward(&self, ids: &Tensor, step: &mut Step<'_>, seen: &mut dyn FnMut(&Tensor)) -> Result<Tensor> {
        let mut x = self.embed_tokens.forward(ids)?;
        let angles = self.rope.angles(step, &x)?;
        for (i, layer) in self.layers.iter().enumerate() {
            seen(&x);
            x = x.try_add(layer.self_attn.forward(&layer.input_layernorm.forward(&x)?, i, &angles, step)?)?;
            x = x.try_add(layer.mlp.forward(&layer.post_attention_layernorm.forward(&x)?)?)?;
        }
        let x = self.norm.forward(&x)?;
        seen(&x);
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(family: &str, json: &str) -> Result<Vec<Option<usize>>> {
        windows(&Config::parse(json)?, family, 3)
    }

    /// As transformers has it: a missing key is 4096, null is no window.
    #[test]
    fn sliding_windows() -> Result<()> {
        assert_eq!(of("mistral", "{}")?, [Some(4096); 3]);
        assert_eq!(of("mistral", r#"{"sliding_window": null}"#)?, [None; 3]);
        assert_eq!(of("mistral", r#"{"sliding_window": 7}"#)?, [Some(7); 3]);
        assert_eq!(of("llama", r#"{"sliding_window": 7}"#)?, [None; 3]);
        assert_eq!(of("qwen2", r#"{"sliding_window": 7}"#)?, [None; 3]);
        assert_eq!(of("qwen2", r#"{"use_sliding_window": true, "max_window_layers": 1}"#)?, [None, Some(4096), Some(4096)]);
        assert_eq!(of("qwen2", r#"{"use_sliding_window": true, "max_window_layers": 0, "sliding_window": null}"#)?, [None; 3]);
        let kinds = r#"["sliding_attention", "full_attention", "sliding_attention"]"#;
        assert_eq!(of("qwen2", &format!(r#"{{"use_sliding_window": true, "layer_types": {kinds}}}"#))?, [Some(4096), None, Some(4096)]);
        assert_eq!(of("qwen2", &format!(r#"{{"layer_types": {kinds}}}"#))?, [None; 3]);
        for (kinds, part) in [
            (r#"["full_attention"]"#, "1 entries for 3 layers"),
            (r#"["full_attention", "full_attention", "linear_attention"]"#, "\"linear_attention\""),
            ("7", "a list"),
        ] {
            let message = of("qwen2", &format!(r#"{{"layer_types": {kinds}}}"#)).unwrap_err().to_string();
            assert!(message.contains("layer_types") && message.contains(part), "{message}");
        }
        Ok(())
    }
}

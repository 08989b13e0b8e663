//! The encoders of BERT's family (Devlin et al., 2018): BERT, RoBERTa (Liu et al., 2019), DistilBERT (Sanh et al., 2019) and sentence encoders such as MiniLM. They compute the
//! same; their weights have different names.

use super::config::{CONTEXT, LAYERS, VOCABULARY, WIDTH};
use super::tokens::fits;
use super::{Activation, Checkpoint, Config, LoadOptions, Tokens, blank};
use crate::nn::{Dropout, Embedding, Forward, LayerNorm, Mode, Module, Slot, Walk};
use crate::{Attention, DType, Options, Result, Tensor};
use std::path::Path;

/// The names of a family's weights.
#[derive(Debug)]
pub(super) struct Names {
    pub prefix: &'static str,
    pub layers: &'static str,
    q: &'static str,
    k: &'static str,
    v: &'static str,
    o: &'static str,
    norm1: &'static str,
    up: &'static str,
    down: &'static str,
    norm2: &'static str,
}

const BERT: Names = Names {
    prefix: "bert",
    layers: "encoder.layer",
    q: "attention.self.query",
    k: "attention.self.key",
    v: "attention.self.value",
    o: "attention.output.dense",
    norm1: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    norm2: "output.LayerNorm",
};
const ROBERTA: Names = Names { prefix: "roberta", ..BERT };
const DISTILBERT: Names = Names {
    prefix: "distilbert",
    layers: "transformer.layer",
    q: "attention.q_lin",
    k: "attention.k_lin",
    v: "attention.v_lin",
    o: "attention.out_lin",
    norm1: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    norm2: "output_layer_norm",
};

/// A family of encoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderFamily {
    /// BERT and MiniLM.
    Bert,
    /// RoBERTa: positions count from the padding's index, there is one segment.
    Roberta,
    /// DistilBERT: no segments and no pooler.
    DistilBert,
}

impl EncoderFamily {
    fn of(config: &Config) -> Result<EncoderFamily> {
        Ok(match config.model_type()? {
            "bert" => EncoderFamily::Bert,
            "roberta" | "xlm-roberta" => EncoderFamily::Roberta,
            "distilbert" => EncoderFamily::DistilBert,
            other => return Err(super::unknown(config, other, "an encoder", &["bert", "roberta", "xlm-roberta", "distilbert"])),
        })
    }

    pub(super) fn names(self) -> &'static Names {
        match self {
            EncoderFamily::Bert => &BERT,
            EncoderFamily::Roberta => &ROBERTA,
            EncoderFamily::DistilBert => &DISTILBERT,
        }
    }
}

/// The sizes of an encoder.
#[derive(Clone, Copy, Debug)]
pub struct EncoderShape {
    /// Tokens that it knows.
    pub vocabulary: usize,
    /// The width of a hidden state.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Heads of attention.
    pub heads: usize,
    /// The longest text, in tokens.
    pub context: usize,
}

#[derive(Module)]
struct Embeddings {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    token_type_embeddings: Option<Embedding>,
    #[module(name = "LayerNorm")]
    norm: LayerNorm,
    dropout: Dropout,
}

/// The first vectors of a table.
fn first(table: &Embedding, n: usize) -> Result<Tensor> {
    if table.hook.get().is_none() {
        return table.weight.get().try_narrow(0, 0, n);
    }
    table.forward(&Tensor::try_arange(0, n as i64, 1, (DType::I32, table.weight.device()))?)
}

/// A layer that normalises after each of its two parts.
struct Layer {
    names: &'static Names,
    q: Slot,
    k: Slot,
    v: Slot,
    o: Slot,
    norm1: LayerNorm,
    up: Slot,
    down: Slot,
    norm2: LayerNorm,
    dropout: Dropout,
    attention_dropout: f64,
    mode: Mode,
    heads: usize,
    activation: Activation,
}

impl Module for Layer {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.module("EncoderLayer");
        let n = self.names;
        for (name, slot) in [(n.q, &self.q), (n.k, &self.k), (n.v, &self.v), (n.o, &self.o)] {
            walk.field(name, |walk| slot.walk(walk));
        }
        walk.field(n.norm1, |walk| self.norm1.walk(walk));
        walk.field(n.up, |walk| self.up.walk(walk));
        walk.field(n.down, |walk| self.down.walk(walk));
        walk.field(n.norm2, |walk| self.norm2.walk(walk));
        self.dropout.walk(walk);
        self.mode.walk(walk);
    }
}

impl Layer {
    fn forward(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let &[b, t, w] = x.dims() else { return Ok(x.clone()) };
        let heads = |y: Tensor| y.try_reshape([b, t, self.heads, w / self.heads])?.try_transpose(1, 2);
        let dropout = if self.mode.is_training() { self.attention_dropout } else { 0.0 };
        let options = Attention { mask: mask.cloned(), dropout, ..Attention::default() };
        let (q, k, v) = (heads(self.q.forward(x)?)?, heads(self.k.forward(x)?)?, heads(self.v.forward(x)?)?);
        let y = q.try_scaled_dot_product_attention(&k, &v, &options)?.try_transpose(1, 2)?.try_reshape([b, t, w])?;
        let x = self.norm1.forward(&x.try_add(self.dropout.forward(&self.o.forward(&y)?)?)?)?;
        let y = self.down.forward(&self.activation.apply(&self.up.forward(&x)?)?)?;
        self.norm2.forward(&x.try_add(self.dropout.forward(&y)?)?)
    }
}

/// What the first token's state becomes for the next-sentence task, and for classification: tanh of a linear layer.
#[derive(Module)]
pub(super) struct Pooler {
    dense: Slot,
}

/// What an encoder gives.
#[derive(Clone)]
pub struct Encoded {
    /// The last hidden state of each token, `[B, T, W]`.
    pub last: Tensor,
    /// The pooler's output `[B, W]`, where the encoder has one.
    pub pooled: Option<Tensor>,
}

/// An encoder of BERT's family without a head.
///
/// ```no_run
/// use fornax::transformers::{Encoder, Tokens};
/// use fornax::Device;
/// let encoder = Encoder::load("all-MiniLM-L6-v2", Device::cpu())?;
/// let states = encoder.forward(&Tokens::pad(&[vec![101, 7592, 102]], 0, Device::cpu())?)?.last;
/// assert_eq!(states.dims(), [1, 3, 384]);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct Encoder {
    family: EncoderFamily,
    shape: EncoderShape,
    padding: usize,
    embeddings: Embeddings,
    layers: Vec<Layer>,
    pub(super) pooler: Option<Pooler>,
}

impl Module for Encoder {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.module("Encoder");
        walk.field("embeddings", |walk| self.embeddings.walk(walk));
        walk.field(self.family.names().layers, |walk| self.layers.walk(walk));
        if let Some(p) = &self.pooler {
            walk.field("pooler", |walk| p.walk(walk));
        }
    }
}

impl Encoder {
    /// A new encoder of the family and sizes that the config gives, to be trained.
    ///
    /// # Errors
    /// A config of another family, or with sizes that cannot be.
    ///
    /// ```
    /// use fornax::transformers::{Config, Encoder};
    /// use fornax::nn::Module;
    /// use fornax::Device;
    /// let config = r#"{"model_type": "bert", "vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}"#;
    /// let encoder = Encoder::new(&Config::parse(config)?, true, Device::cpu())?;
    /// assert_eq!(encoder.named_slots()[0].0, "encoder.layer.0.attention.self.query");
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn new(config: &Config, pooler: bool, options: impl Into<Options>) -> Result<Encoder> {
        let encoder = Encoder::blank(config, pooler, options.into())?;
        blank::draw(&encoder, config.number("initializer_range", 0.02)?)?;
        Ok(encoder)
    }

    /// Loads a folder's encoder and passes over the heads that it may have. In evaluation mode.
    ///
    /// # Errors
    /// As [`Checkpoint::open`] and [`Checkpoint::fill`]; another family's folder.
    pub fn load(folder: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<Encoder> {
        Encoder::from_checkpoint(&Checkpoint::open(folder)?, &options.into())
    }

    /// As [`load`](Encoder::load), from an open checkpoint.
    ///
    /// # Errors
    /// As [`Checkpoint::fill`]; another family's folder.
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Encoder> {
        let config = checkpoint.config();
        let prefix = EncoderFamily::of(config)?.names().prefix;
        let encoder = Encoder::blank(config, checkpoint.has(prefix, "pooler.dense.weight"), options.device.into())?;
        checkpoint.fill(&encoder, prefix, options)?;
        encoder.eval();
        Ok(encoder)
    }

    pub(super) fn blank(config: &Config, pooler: bool, o: Options) -> Result<Encoder> {
        let family = EncoderFamily::of(config)?;
        let (distil, names) = (family == EncoderFamily::DistilBert, family.names());
        if config.flag("is_decoder", false)? {
            let message = "is_decoder is true: this is BERT as a decoder, which sees only what stands before; the families here are encoders, for which it must be false";
            return Err(config.error(message));
        }
        let kind = config.text("position_embedding_type", "absolute")?;
        if kind != "absolute" {
            return Err(config.error(format!("position_embedding_type is {kind:?}: only \"absolute\" is known")));
        }
        let width = config.size_of(&["hidden_size", "dim"], 768, WIDTH)?;
        let heads = config.size_of(&["num_attention_heads", "n_heads"], 12, WIDTH)?;
        config.head_width(width, heads)?;
        let padding = config.tokens("pad_token_id")?.first().map_or(usize::from(family == EncoderFamily::Roberta), |&p| p as usize);
        let positions = config.size("max_position_embeddings", 512, CONTEXT)?;
        if family == EncoderFamily::Roberta && padding + 1 >= positions {
            return Err(config
                .error(format!("pad_token_id is {padding}, and positions begin after it: max_position_embeddings is only {positions}")));
        }
        // RoBERTa's first position is that after the padding's index.
        let context = if family == EncoderFamily::Roberta { positions.saturating_sub(padding + 1) } else { positions };
        let shape = EncoderShape {
            vocabulary: config.size("vocab_size", 30_522, VOCABULARY)?,
            width,
            layers: config.size_of(&["num_hidden_layers", "n_layers"], if distil { 6 } else { 12 }, LAYERS)?,
            heads,
            context,
        };
        let middle = config.size_of(&["intermediate_size", "hidden_dim"], 4 * width, 8 * WIDTH)?;
        let eps = config.eps("layer_norm_eps", 1e-12)?;
        let (key, attention) =
            if distil { ("dropout", "attention_dropout") } else { ("hidden_dropout_prob", "attention_probs_dropout_prob") };
        let segments = config.size("type_vocab_size", 2, 1 << 16)?;
        let embeddings = Embeddings {
            word_embeddings: blank::embedding(shape.vocabulary, width, o)?,
            position_embeddings: blank::embedding(positions, width, o)?,
            token_type_embeddings: if distil { None } else { Some(blank::embedding(segments, width, o)?) },
            norm: blank::layer_norm(width, eps, o)?,
            dropout: blank::dropout(config, key, 0.1)?,
        };
        let activation = Activation::named(config, if distil { "activation" } else { "hidden_act" }, "gelu")?;
        let layer = |_| -> Result<Layer> {
            Ok(Layer {
                names,
                q: blank::linear(width, width, true, o)?,
                k: blank::linear(width, width, true, o)?,
                v: blank::linear(width, width, true, o)?,
                o: blank::linear(width, width, true, o)?,
                norm1: blank::layer_norm(width, eps, o)?,
                up: blank::linear(width, middle, true, o)?,
                down: blank::linear(middle, width, true, o)?,
                norm2: blank::layer_norm(width, eps, o)?,
                dropout: blank::dropout(config, key, 0.1)?,
                attention_dropout: config.probability(attention, 0.1)?,
                mode: Mode::default(),
                heads,
                activation,
            })
        };
        let layers = (0..shape.layers).map(layer).collect::<Result<_>>()?;
        let pooler = if pooler && !distil { Some(Pooler { dense: blank::linear(width, width, true, o)? }) } else { None };
        Ok(Encoder { family, shape, padding, embeddings, layers, pooler })
    }

    /// The family.
    pub fn family(&self) -> EncoderFamily {
        self.family
    }

    /// The sizes.
    pub fn shape(&self) -> EncoderShape {
        self.shape
    }

    /// The table of tokens `[vocabulary, width]`, which a masked-language-model head shares.
    pub fn embedding(&self) -> &Embedding {
        &self.embeddings.word_embeddings
    }

    /// The hidden states of a batch.
    ///
    /// # Errors
    /// Texts longer than the context; shapes that do not belong together. A token outside the vocabulary is an `Error::Index` when the result is read.
    pub fn forward(&self, tokens: &Tokens) -> Result<Encoded> {
        self.trace(tokens, &mut |_| {})
    }

    /// As [`forward`](Encoder::forward); also the states after the embeddings and after each layer, each `[B, T, W]`.
    ///
    /// # Errors
    /// As [`forward`](Encoder::forward).
    pub fn hidden_states(&self, tokens: &Tokens) -> Result<Vec<Tensor>> {
        let mut states = Vec::new();
        self.trace(tokens, &mut |x| states.push(x.clone()))?;
        Ok(states)
    }

    fn trace(&self, tokens: &Tokens, seen: &mut dyn FnMut(&Tensor)) -> Result<Encoded> {
        let (_, t, mask) = tokens.checked("Encoder")?;
        fits("Encoder", t, self.shape.context)?;
        let e = &self.embeddings;
        let mut x = e.word_embeddings.forward(&tokens.ids)?;
        if let Some(table) = &e.token_type_embeddings {
            x = x.try_add(match &tokens.types {
                Some(types) => table.forward(types)?,
                None => first(table, 1)?,
            })?;
        }
        let positions = match self.family {
            // As in fairseq: the n-th token that is no padding stands at the padding's index + n.
            EncoderFamily::Roberta => {
                let real = tokens.ids.try_ne(self.padding)?.try_cast(DType::I32)?;
                e.position_embeddings.forward(&real.try_cumsum(1)?.try_mul(&real)?.try_add(self.padding)?)?
            }
            _ => first(&e.position_embeddings, t)?,
        };
        x = e.dropout.forward(&e.norm.forward(&x.try_add(&positions)?)?)?;
        seen(&x);
        for layer in &self.layers {
            x = layer.forward(&x, mask.as_ref())?;
            seen(&x);
        }
        let pooled = match &self.pooler {
            Some(p) => Some(p.dense.forward(&x.try_select(1, 0)?)?.try_tanh()?),
            None => None,
        };
        Ok(Encoded { last: x, pooled })
    }
}

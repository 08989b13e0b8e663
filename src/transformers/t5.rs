//! T5 (Raffel et al., 2019): an encoder and a decoder with relative positions.

use super::cache::{Attend, Step, merged, split};
use super::config::{LAYERS, VOCABULARY, WIDTH};
use super::{Activation, Checkpoint, Config, KvCache, LoadOptions, Tokens, blank};
use crate::nn::{Dropout, Embedding, Forward, Module, RMSNorm, Slot, Walk};
use crate::{Attention, DType, Device, Error, Options, Result, Tensor};
use std::path::Path;

#[derive(Module)]
struct Heads {
    q: Slot,
    k: Slot,
    v: Slot,
    o: Slot,
    relative_attention_bias: Option<Embedding>,
    dropout: Dropout,
    heads: usize,
}

/// The feed-forward part: `wi`, or `wi_0` (which goes through the activation) times `wi_1`.
#[derive(Module)]
struct FeedForward {
    wi: Option<Slot>,
    wi_0: Option<Slot>,
    wi_1: Option<Slot>,
    wo: Slot,
    dropout: Dropout,
    #[module(skip)]
    activation: Activation,
}

impl FeedForward {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let act = |s: &Option<Slot>| s.as_ref().map(|s| self.activation.apply(&s.forward(x)?)).transpose();
        let y = match (act(&self.wi)?, act(&self.wi_0)?, &self.wi_1) {
            (Some(y), _, _) => y,
            (None, Some(gate), Some(up)) => gate.try_mul(up.forward(x)?)?,
            _ => x.clone(),
        };
        self.wo.forward(&self.dropout.forward(&y)?)
    }
}

/// A part of a block, with the norm before it.
#[derive(Module)]
enum Part {
    Own {
        #[module(name = "SelfAttention")]
        attention: Heads,
        layer_norm: RMSNorm,
    },
    Other {
        #[module(name = "EncDecAttention")]
        attention: Heads,
        layer_norm: RMSNorm,
    },
    Feed {
        #[module(name = "DenseReluDense")]
        feed: FeedForward,
        layer_norm: RMSNorm,
    },
}

#[derive(Module)]
struct Block {
    layer: Vec<Part>,
}

#[derive(Module)]
struct Stack {
    block: Vec<Block>,
    final_layer_norm: RMSNorm,
    dropout: Dropout,
    #[module(skip)]
    buckets: Buckets,
}

/// Which bucket of the relative bias a distance falls into: one each for the near ones, ever wider ones up to the largest, one for all beyond.
#[derive(Clone, Debug)]
struct Buckets {
    /// The bucket of the distances `-largest ..= largest`, key minus query.
    of: Vec<i32>,
    largest: i64,
}

impl Buckets {
    fn new(count: usize, largest: usize, both_ways: bool) -> Buckets {
        let half = if both_ways { count / 2 } else { count };
        let exact = half / 2;
        let bucket = |n: usize| -> usize {
            if n < exact {
                return n;
            }
            // In f32, as the models were trained: at an edge the rounding decides.
            let far = (n as f32 / exact as f32).ln() / ((largest as f64 / exact as f64).ln() as f32) * (half - exact) as f32;
            (exact + far as usize).min(half - 1)
        };
        let of = |d: i64| match (both_ways, d > 0) {
            (true, true) => half + bucket(d.unsigned_abs() as usize),
            (true, false) => bucket(d.unsigned_abs() as usize),
            (false, true) => 0,
            (false, false) => bucket(d.unsigned_abs() as usize),
        };
        let largest = largest as i64;
        Buckets { of: (-largest..=largest).map(|d| of(d) as i32).collect(), largest }
    }

    /// The bias `[1, H, T, keys]` of queries and keys at these places.
    fn bias(&self, table: &Embedding, queries: &Tensor, keys: &Tensor, device: Device) -> Result<Tensor> {
        let rows = table.forward(&Tensor::from_slice(&self.of, self.of.len(), device)?)?;
        let distance = keys.try_unsqueeze(0)?.try_sub(queries.try_unsqueeze(1)?)?;
        let index = distance.try_clamp(-self.largest, self.largest)?.try_add(self.largest)?;
        rows.try_embedding(&index)?.try_permute(&[2, 0, 1])?.try_unsqueeze(0)
    }
}

/// The sizes of a T5.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    width: usize,
    heads: usize,
    head: usize,
    middle: usize,
    gated: bool,
    activation: Activation,
    eps: f64,
    buckets: usize,
    largest: usize,
}

impl Heads {
    fn blank(config: &Config, s: &Sizes, bias: bool, o: Options) -> Result<Heads> {
        let inner = s.heads * s.head;
        Ok(Heads {
            q: blank::linear(s.width, inner, false, o)?,
            k: blank::linear(s.width, inner, false, o)?,
            v: blank::linear(s.width, inner, false, o)?,
            o: blank::linear(inner, s.width, false, o)?,
            relative_attention_bias: if bias { Some(blank::embedding(s.buckets, s.heads, o)?) } else { None },
            dropout: blank::dropout(config, "dropout_rate", 0.1)?,
            heads: s.heads,
        })
    }

    /// Keys and values of states `[B, S, W]`.
    fn keys(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok((split(&self.k.forward(x)?, self.heads)?, split(&self.v.forward(x)?, self.heads)?))
    }

    /// Attention that is not causal; the scores are not scaled.
    fn all(&self, x: &Tensor, (k, v): &(Tensor, Tensor), mask: Option<&Tensor>, bias: Option<&Tensor>) -> Result<Tensor> {
        let q = split(&self.q.forward(x)?, self.heads)?;
        let dropout = self.dropout.rate();
        let options = Attention { mask: mask.cloned(), bias: bias.cloned(), scale: Some(1.0), dropout, ..Attention::default() };
        self.o.forward(&merged(&q.try_scaled_dot_product_attention(k, v, &options)?)?)
    }
}

impl Stack {
    fn blank(config: &Config, s: &Sizes, layers: usize, decoder: bool, o: Options) -> Result<Stack> {
        let norm = || blank::rms_norm(s.width, s.eps, o);
        let block = |i: usize| -> Result<Block> {
            let mut layer = vec![Part::Own { attention: Heads::blank(config, s, i == 0, o)?, layer_norm: norm()? }];
            if decoder {
                layer.push(Part::Other { attention: Heads::blank(config, s, false, o)?, layer_norm: norm()? });
            }
            let wide = |wanted: bool| if wanted { blank::linear(s.width, s.middle, false, o).map(Some) } else { Ok(None) };
            let feed = FeedForward {
                wi: wide(!s.gated)?,
                wi_0: wide(s.gated)?,
                wi_1: wide(s.gated)?,
                wo: blank::linear(s.middle, s.width, false, o)?,
                dropout: blank::dropout(config, "dropout_rate", 0.1)?,
                activation: s.activation,
            };
            layer.push(Part::Feed { feed, layer_norm: norm()? });
            Ok(Block { layer })
        };
        Ok(Stack {
            block: (0..layers).map(block).collect::<Result<_>>()?,
            final_layer_norm: norm()?,
            dropout: blank::dropout(config, "dropout_rate", 0.1)?,
            buckets: Buckets::new(s.buckets, s.largest, !decoder),
        })
    }

    /// The table of the relative bias: the first layer has it for all.
    fn table(&self) -> Option<&Embedding> {
        match self.block.first().and_then(|b| b.layer.first()) {
            Some(Part::Own { attention, .. }) => attention.relative_attention_bias.as_ref(),
            _ => None,
        }
    }

    /// Runs the blocks: `own` is the attention of the states to themselves, `other` that to the encoder's.
    fn forward(
        &self,
        x: Tensor,
        own: &mut dyn FnMut(usize, &Heads, &Tensor) -> Result<Tensor>,
        other: &mut dyn FnMut(usize, &Heads, &Tensor) -> Result<Tensor>,
        seen: &mut dyn FnMut(&Tensor),
    ) -> Result<Tensor> {
        let mut x = self.dropout.forward(&x)?;
        for (i, block) in self.block.iter().enumerate() {
            seen(&x);
            for part in &block.layer {
                let y = match part {
                    Part::Own { attention, layer_norm } => own(i, attention, &layer_norm.forward(&x)?)?,
                    Part::Other { attention, layer_norm } => other(i, attention, &layer_norm.forward(&x)?)?,
                    Part::Feed { feed, layer_norm } => feed.forward(&layer_norm.forward(&x)?)?,
                };
                x = x.try_add(self.dropout.forward(&y)?)?;
            }
        }
        let x = self.dropout.forward(&self.final_layer_norm.forward(&x)?)?;
        seen(&x);
        Ok(x)
    }
}

/// What the encoder of a [`Seq2Seq`] made of a batch.
#[derive(Clone)]
pub struct Source {
    /// The last states, `[B, S, W]`.
    pub states: Tensor,
    /// `[B, 1, 1, S]`, false on padding.
    mask: Option<Tensor>,
}

impl Source {
    /// The rows that `rows` names.
    ///
    /// # Errors
    /// No such row: an `Error::Index` when the result is read.
    pub fn select(&self, rows: &Tensor) -> Result<Source> {
        let mask = self.mask.as_ref().map(|m| m.try_index_select(0, rows)).transpose()?;
        Ok(Source { states: self.states.try_index_select(0, rows)?, mask })
    }
}

/// T5 and its kin, text to text.
///
/// ```no_run
/// use fornax::transformers::{Seq2Seq, Tokens};
/// use fornax::Device;
/// let model = Seq2Seq::load("t5-small", Device::cpu())?;
/// let source = Tokens::pad(&[vec![13959, 1566, 12, 2968, 10, 8774, 1]], 0, Device::cpu())?;
/// let logits = model.forward(&source, &Tokens::pad(&[vec![0]], 0, Device::cpu())?)?;
/// assert_eq!(logits.dims(), [1, 1, 32128]);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct Seq2Seq {
    shared: Embedding,
    encoder: Stack,
    decoder: Stack,
    lm_head: Option<Slot>,
    scale: Option<f64>,
    vocabulary: usize,
    start: u32,
    ends: Vec<u32>,
}

impl Module for Seq2Seq {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.module("Seq2Seq");
        walk.field("shared", |walk| self.shared.walk(walk));
        walk.field("encoder", |walk| self.encoder.walk(walk));
        walk.field("decoder", |walk| self.decoder.walk(walk));
        if let Some(head) = &self.lm_head {
            walk.field("lm_head", |walk| head.walk(walk));
        }
    }
}

impl Seq2Seq {
    /// A new model of the sizes that the config gives, to be trained.
    ///
    /// # Errors
    /// A config of another family, or with sizes that cannot be.
    pub fn new(config: &Config, options: impl Into<Options>) -> Result<Seq2Seq> {
        let model = Seq2Seq::blank(config, !config.flag("tie_word_embeddings", true)?, options.into())?;
        // T5's own initialisation, for its unscaled scores: matrices by their inputs, so that the variance stays.
        for (name, p) in model.named_parameters() {
            let shape = p.shape();
            if shape.rank() == 2 {
                let inputs = shape[1] as f64;
                let std = match name.as_str() {
                    "shared.weight" => 1.0,
                    n if n.ends_with("Attention.q.weight") => 1.0 / (inputs * (shape[0] as f64 / model.decoder.heads() as f64)).sqrt(),
                    n if n.ends_with("relative_attention_bias.weight") => 1.0 / (model.shared.weight.shape()[1] as f64).sqrt(),
                    _ => 1.0 / inputs.sqrt(),
                };
                p.set(blank::drawn(&p, std)?)?;
            }
        }
        Ok(model)
    }

    /// Loads a folder. In evaluation mode.
    ///
    /// # Errors
    /// As [`Checkpoint::open`] and [`Checkpoint::fill`]; another family's folder.
    pub fn load(folder: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<Seq2Seq> {
        Seq2Seq::from_checkpoint(&Checkpoint::open(folder)?, &options.into())
    }

    /// As [`load`](Seq2Seq::load), from an open checkpoint.
    ///
    /// # Errors
    /// As [`Checkpoint::fill`]; another family's folder.
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Seq2Seq> {
        let config = checkpoint.config();
        let mut model = Seq2Seq::blank(config, !config.flag("tie_word_embeddings", true)?, options.device.into())?;
        // T5 1.1 has a head of its own, under a config that newer versions of transformers write as tied: what is in the file counts.
        if model.lm_head.is_none() && checkpoint.unties(&model, "", &model.shared.weight, "lm_head.weight")? {
            model.lm_head = Some(blank::linear(model.shared.weight.shape()[1], model.vocabulary, false, options.device.into())?);
        }
        model.ends = checkpoint.ends()?;
        checkpoint.fill(&model, "", options)?;
        model.eval();
        Ok(model)
    }

    fn blank(config: &Config, untied: bool, o: Options) -> Result<Seq2Seq> {
        match config.model_type()? {
            "t5" => {}
            other => return Err(super::unknown(config, other, "a text-to-text model", &["t5"])),
        }
        let (gated, key) = match config.text("feed_forward_proj", "relu")? {
            "gated-gelu" => (true, Activation::GeluTanh),
            "gated-silu" => (true, Activation::Silu),
            "relu" => (false, Activation::Relu),
            "gelu" => (false, Activation::Gelu),
            other => return Err(config.error(format!("feed_forward_proj is {other:?}: known are relu, gelu, gated-gelu and gated-silu"))),
        };
        let buckets = config.size("relative_attention_num_buckets", 32, 1 << 16)?;
        let largest = config.size("relative_attention_max_distance", 128, 1 << 20)?;
        if buckets < 4 || largest <= buckets / 2 {
            let message =
                format!("{buckets} buckets for distances up to {largest}: at least 4, and a distance above half of them are wanted");
            return Err(config.error(message));
        }
        let s = Sizes {
            width: config.size("d_model", 512, WIDTH)?,
            heads: config.size("num_heads", 8, WIDTH)?,
            head: config.size("d_kv", 64, WIDTH)?,
            middle: config.size("d_ff", 2048, 8 * WIDTH)?,
            gated,
            activation: key,
            eps: config.eps("layer_norm_epsilon", 1e-6)?,
            buckets,
            largest,
        };
        let layers = config.size("num_layers", 6, LAYERS)?;
        let vocabulary = config.size("vocab_size", 32_128, VOCABULARY)?;
        let tied = config.flag("tie_word_embeddings", true)?;
        // By the config, whatever head the file has.
        let scaled = config.flag("scale_decoder_outputs", tied)?;
        let start = config.tokens("decoder_start_token_id")?.first().copied();
        Ok(Seq2Seq {
            shared: blank::embedding(vocabulary, s.width, o)?,
            encoder: Stack::blank(config, &s, layers, false, o)?,
            decoder: Stack::blank(config, &s, config.size("num_decoder_layers", layers, LAYERS)?, true, o)?,
            lm_head: if untied { Some(blank::linear(s.width, vocabulary, false, o)?) } else { None },
            scale: scaled.then(|| 1.0 / (s.width as f64).sqrt()),
            vocabulary,
            start: start.or(config.tokens("pad_token_id")?.first().copied()).unwrap_or(0),
            ends: config.tokens("eos_token_id")?,
        })
    }

    /// The number of tokens that it knows.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The token that the decoder starts with.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// The tokens that end a text.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The device of its weights.
    pub fn device(&self) -> Device {
        self.shared.weight.device()
    }

    /// The table of tokens `[vocabulary, width]`, which the head may share.
    pub fn embedding(&self) -> &Embedding {
        &self.shared
    }

    /// Reads a batch of texts.
    ///
    /// # Errors
    /// Shapes that do not belong together. A token outside the vocabulary is an `Error::Index` when the result is read.
    pub fn encode(&self, tokens: &Tokens) -> Result<Source> {
        self.encode_seen(tokens, &mut |_| {})
    }

    fn encode_seen(&self, tokens: &Tokens, seen: &mut dyn FnMut(&Tensor)) -> Result<Source> {
        let (_, t, mask) = tokens.checked("Seq2Seq")?;
        let device = tokens.ids.device();
        let places = Tensor::try_arange(0, t as i64, 1, (DType::I32, device))?;
        let bias = self.encoder.table().map(|b| self.encoder.buckets.bias(b, &places, &places, device)).transpose()?;
        let x = self.shared.forward(&tokens.ids)?;
        let mut own = |_: usize, h: &Heads, x: &Tensor| h.all(x, &h.keys(x)?, mask.as_ref(), bias.as_ref());
        let states = self.encoder.forward(x, &mut own, &mut |_, _, x| Ok(x.clone()), seen)?;
        Ok(Source { states, mask })
    }

    fn decode(&self, tokens: &Tokens, source: &Source, cache: Option<&mut KvCache>, seen: &mut dyn FnMut(&Tensor)) -> Result<Tensor> {
        let (b, t, mask) = tokens.checked("Seq2Seq")?;
        if b != source.states.dims()[0] {
            let expected = "as many rows as the encoder read";
            return Err(Error::shape("Seq2Seq", &[tokens.ids.shape(), source.states.shape()], expected));
        }
        let device = tokens.ids.device();
        let step = std::cell::RefCell::new(Step::new(t, mask, cache, device)?);
        let (queries, keys) = (step.borrow().queries()?, step.borrow().places()?);
        let bias = self.decoder.table().map(|b| self.decoder.buckets.bias(b, &queries, &keys, device)).transpose()?;
        let mut own = |i: usize, h: &Heads, x: &Tensor| {
            let q = split(&h.q.forward(x)?, h.heads)?;
            let (k, v) = h.keys(x)?;
            let how = Attend { bias: bias.as_ref(), scale: Some(1.0), dropout: Some(&h.dropout), ..Attend::default() };
            h.o.forward(&step.borrow_mut().attend(i, &q, &k, &v, &how)?)
        };
        let mut other = |i: usize, h: &Heads, x: &Tensor| {
            let kv = match &mut step.borrow_mut().cache {
                Some(c) => c.cross(i, || h.keys(&source.states))?,
                None => h.keys(&source.states)?,
            };
            h.all(x, &kv, source.mask.as_ref(), None)
        };
        let x = self.decoder.forward(self.shared.forward(&tokens.ids)?, &mut own, &mut other, seen)?;
        step.into_inner().finish();
        Ok(x)
    }

    /// The logits of states `[.., W]`.
    fn logits(&self, x: &Tensor) -> Result<Tensor> {
        let x = match self.scale {
            Some(s) => x.try_mul(s)?,
            None => x.clone(),
        };
        match &self.lm_head {
            Some(head) => head.forward(&x),
            None => x.try_linear(&self.shared.weight.get(), None),
        }
    }

    /// The logits `[B, T, vocabulary]` of what follows each token of `target`, for a training: `target` starts with [`start`](Seq2Seq::start).
    ///
    /// # Errors
    /// As [`encode`](Seq2Seq::encode).
    pub fn forward(&self, source: &Tokens, target: &Tokens) -> Result<Tensor> {
        self.logits(&self.decode(target, &self.encode(source)?, None, &mut |_| {})?)
    }

    /// The hidden states of the encoder and of the decoder: after the embeddings and after each layer.
    ///
    /// # Errors
    /// As [`encode`](Seq2Seq::encode).
    pub fn hidden_states(&self, source: &Tokens, target: &Tokens) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        let (mut encoder, mut decoder) = (Vec::new(), Vec::new());
        let source = self.encode_seen(source, &mut |x| encoder.push(x.clone()))?;
        self.decode(target, &source, None, &mut |x| decoder.push(x.clone()))?;
        Ok((encoder, decoder))
    }

    /// The logits `[B, vocabulary]` of what follows `ids` `[B, T]` and what the cache holds.
    ///
    /// # Errors
    /// As [`encode`](Seq2Seq::encode).
    pub fn next(&self, ids: &Tensor, source: &Source, cache: &mut KvCache) -> Result<Tensor> {
        let x = self.decode(&ids.clone().into(), source, Some(cache), &mut |_| {})?;
        self.logits(&x.try_select(1, -1)?)
    }
}

impl Stack {
    fn heads(&self) -> usize {
        match self.block.first().and_then(|b| b.layer.first()) {
            Some(Part::Own { attention, .. }) => attention.heads,
            _ => 1,
        }
    }
}

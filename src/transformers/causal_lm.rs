//! Decoders that continue a text.

use super::cache::{Prefix, Step};
use super::falcon::Falcon;
use super::gpt2::Gpt2;
use super::llama::Llama;
use super::tokens::fits;
use super::{Checkpoint, Config, KvCache, LoadOptions, Tokens, blank};
use crate::nn::{Embedding, Forward, Item, Module, Slot, Tied, Walk};
use crate::{Device, Error, Options, Result, Tensor};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The sizes of a decoder.
#[derive(Clone, Copy, Debug)]
pub struct DecoderShape {
    /// Tokens that it knows.
    pub vocabulary: usize,
    /// The width of a hidden state.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// The longest text, in tokens.
    pub context: usize,
}

/// The layers of a language model between the ids and the head.
pub trait Decoder: Module + Send + Sync {
    /// The sizes.
    fn shape(&self) -> DecoderShape;

    /// What stands before the names of its weights in a checkpoint with a head.
    fn prefix(&self) -> &'static str;

    /// The table of tokens `[vocabulary, width]`, which the head may share.
    fn embedding(&self) -> &Embedding;

    /// The last hidden states `[B, T, W]` of ids `[B, T]`; `seen` is shown the states before each layer, and the last.
    ///
    /// # Errors
    /// Shapes that do not belong together.
    fn forward(&self, ids: &Tensor, step: &mut Step<'_>, seen: &mut dyn FnMut(&Tensor)) -> Result<Tensor>;
}

/// A causal language model: GPT-2, Llama, Mistral, Qwen 2 or Falcon, by the `model_type` of its config. [`generate`](crate::generate) continues texts with it.
///
/// ```
/// use fornax::transformers::{CausalLm, Config, Tokens};
/// use fornax::Device;
/// let config = Config::parse(r#"{"model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}"#)?;
/// let model = CausalLm::new(&config, Device::cpu())?;
/// let logits = model.forward(&Tokens::pad(&[vec![1, 2, 3]], 0, Device::cpu())?)?;
/// assert_eq!(logits.dims(), [1, 3, 50]);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct CausalLm {
    decoder: Box<dyn Decoder>,
    head: Head,
    ends: Vec<u32>,
    prefix: Mutex<Option<Arc<dyn Prefix>>>,
}

/// What makes logits of states.
enum Head {
    /// A layer.
    Own(Slot),
    /// The product with the table of tokens.
    Tied(Tied),
}

impl Head {
    fn new(decoder: &dyn Decoder, own: Option<Slot>) -> Head {
        own.map_or_else(|| Head::Tied(Tied::new(&decoder.embedding().weight)), Head::Own)
    }
}

/// The families, by `model_type`.
pub(super) const FAMILIES: [&str; 5] = ["falcon", "gpt2", "llama", "mistral", "qwen2"];

impl Module for CausalLm {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.module("CausalLm");
        walk.field(self.decoder.prefix(), |walk| self.decoder.walk(walk));
        match &self.head {
            Head::Own(head) => walk.field("lm_head", |walk| head.walk(walk)),
            // While it is the table of tokens it has no name of its own.
            Head::Tied(tied) => walk.field("lm_head.weight", |walk| {
                walk.item(Item::Tied(tied));
                tied.own().iter().for_each(|own| own.walk(walk));
            }),
        }
        if let Some(prefix) = self.prefix() {
            walk.field("prompt_encoder", |walk| prefix.walk(walk));
        }
    }
}

impl CausalLm {
    /// A new model of the family and sizes that the config gives, to be trained.
    ///
    /// # Errors
    /// An unknown family, or sizes that cannot be.
    pub fn new(config: &Config, options: impl Into<Options>) -> Result<CausalLm> {
        let model = CausalLm::blank(config, options.into())?;
        blank::draw(&model, config.number("initializer_range", 0.02)?)?;
        Ok(model)
    }

    /// Loads a folder. In evaluation mode. The head is the table of tokens where `tie_word_embeddings` says so, unless the file has another weight for it.
    ///
    /// # Errors
    /// As [`Checkpoint::open`] and [`Checkpoint::fill`]; an unknown family.
    pub fn load(folder: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<CausalLm> {
        CausalLm::from_checkpoint(&Checkpoint::open(folder)?, &options.into())
    }

    /// As [`load`](CausalLm::load), from an open checkpoint.
    ///
    /// # Errors
    /// As [`Checkpoint::fill`]; an unknown family.
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<CausalLm> {
        let mut model = CausalLm::blank(checkpoint.config(), options.device.into())?;
        model.ends = checkpoint.ends()?;
        let (prefix, shape) = (model.decoder.prefix(), model.decoder.shape());
        if let Head::Tied(tied) = &model.head
            && checkpoint.unties(&model, prefix, tied.other(), "lm_head.weight")?
        {
            model.head = Head::Own(blank::linear(shape.width, shape.vocabulary, false, options.device.into())?);
        }
        checkpoint.fill(&model, prefix, options)?;
        model.eval();
        Ok(model)
    }

    pub(super) fn blank(config: &Config, o: Options) -> Result<CausalLm> {
        let family = config.model_type()?;
        let decoder: Box<dyn Decoder> = match family {
            "llama" | "mistral" | "qwen2" => Box::new(Llama::blank(config, o)?),
            "gpt2" => Box::new(Gpt2::blank(config, o)?),
            "falcon" => Box::new(Falcon::blank(config, o)?),
            other => return Err(super::unknown(config, other, "a causal language model", &FAMILIES)),
        };
        let tied = config.flag("tie_word_embeddings", matches!(family, "gpt2" | "falcon"))?;
        let shape = decoder.shape();
        let head = if tied { None } else { Some(blank::linear(shape.width, shape.vocabulary, false, o)?) };
        Ok(CausalLm { head: Head::new(&*decoder, head), decoder, ends: config.tokens("eos_token_id")?, prefix: Mutex::default() })
    }

    /// A model of a decoder of one's own; the head is the table of tokens, or a layer from states to logits.
    pub fn from_decoder(decoder: Box<dyn Decoder>, head: Option<Slot>, ends: &[u32]) -> CausalLm {
        CausalLm { head: Head::new(&*decoder, head), decoder, ends: ends.to_vec(), prefix: Mutex::default() }
    }

    /// The decoder.
    pub fn decoder(&self) -> &dyn Decoder {
        &*self.decoder
    }

    /// The sizes.
    pub fn shape(&self) -> DecoderShape {
        self.decoder.shape()
    }

    /// The tokens that end a text, as config.json has them.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// What stands before every text.
    pub fn prefix(&self) -> Option<Arc<dyn Prefix>> {
        self.prefix.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Lets every text stand behind keys and values, or behind nothing; returns what it stood behind. Caches that hold tokens must not be used further.
    pub fn set_prefix(&self, prefix: Option<Arc<dyn Prefix>>) -> Option<Arc<dyn Prefix>> {
        std::mem::replace(&mut *self.prefix.lock().unwrap_or_else(|e| e.into_inner()), prefix)
    }

    /// The device of its weights.
    pub fn device(&self) -> Device {
        self.decoder.embedding().weight.device()
    }

    fn run(&self, tokens: &Tokens, cache: Option<&mut KvCache>, seen: &mut dyn FnMut(&Tensor)) -> Result<Tensor> {
        let (rows, t, mask) = tokens.checked("CausalLm")?;
        let prefix = self.prefix().map(|p| p.layers()).transpose()?;
        let device = tokens.ids.device();
        let mut step = match (cache, prefix) {
            (Some(cache), Some(prefix)) => {
                if cache.is_empty() {
                    cache.begin(&prefix, rows)?;
                }
                Step::new(t, mask, Some(cache), device)?
            }
            (None, Some(prefix)) => Step::new(t, mask, None, device)?.after(prefix)?,
            (cache, None) => Step::new(t, mask, cache, device)?,
        };
        fits("CausalLm", step.start + t, self.decoder.shape().context)?;
        let x = self.decoder.forward(&tokens.ids, &mut step, seen)?;
        step.finish();
        Ok(x)
    }

    fn logits(&self, x: &Tensor) -> Result<Tensor> {
        match &self.head {
            Head::Own(head) => head.forward(x),
            Head::Tied(table) => x.try_linear(&table.get(), None),
        }
    }

    /// The logits `[B, T, vocabulary]` of what follows each token.
    ///
    /// # Errors
    /// Texts longer than the context; shapes that do not belong together. A token outside the vocabulary is an `Error::Index` when the result is read.
    pub fn forward(&self, tokens: &Tokens) -> Result<Tensor> {
        self.logits(&self.run(tokens, None, &mut |_| {})?)
    }

    /// The logits `[B, T, vocabulary]` of rows that hold several texts one after the other, as [`Packed`](crate::align::Packed) makes them: each text has the
    /// logits that it has alone, for its tokens do not see the others', and its positions begin at 0.
    ///
    /// `segments` `[B, T]` numbers the texts of a row; neighbours have different numbers, 0 is padding. A row may be longer than the context, a text may not. (Falcon's
    /// ALiBi counts from the row's beginning, which makes no difference but for the rounding of its bf16.)
    ///
    /// ```
    /// # use fornax::transformers::{CausalLm, Config};
    /// use fornax::{Device, Tensor};
    /// # let config = Config::parse(r#"{"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 4}"#)?;
    /// # let model = CausalLm::new(&config, Device::cpu())?;
    /// # model.eval();
    /// # use fornax::nn::Module;
    /// let ids = Tensor::from_slice(&[5, 6, 7, 8], [1, 4], Device::cpu())?;
    /// let segments = Tensor::from_slice(&[1, 1, 2, 2], [1, 4], Device::cpu())?;
    /// let packed = model.forward_packed(&ids, &segments)?.narrow(1, 2, 2);
    /// let alone = model.forward(&ids.narrow(1, 2, 2).into())?;
    /// assert!((packed - alone).abs().max(()).item::<f32>()? < 1e-6);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Shapes that do not belong together; a model with a prefix. A token outside the vocabulary, and a text that is longer than learned positions, are an `Error::Index` when the
    /// result is read.
    pub fn forward_packed(&self, ids: &Tensor, segments: &Tensor) -> Result<Tensor> {
        let tokens = Tokens { mask: Some(segments.clone()), ..ids.clone().into() };
        tokens.checked("CausalLm::forward_packed")?;
        if self.prefix().is_some() {
            return Err(Error::argument("CausalLm::forward_packed", "packed texts cannot stand behind a prefix"));
        }
        let mut step = Step::packed(segments)?;
        let x = self.decoder.forward(ids, &mut step, &mut |_| {})?;
        self.logits(&x)
    }

    /// The hidden states `[B, T, W]` after the embeddings and after each layer; the last is normalised.
    ///
    /// # Errors
    /// As [`forward`](CausalLm::forward).
    pub fn hidden_states(&self, tokens: &Tokens) -> Result<Vec<Tensor>> {
        let mut states = Vec::new();
        self.run(tokens, None, &mut |x| states.push(x.clone()))?;
        Ok(states)
    }

    /// The last of the hidden states.
    pub(super) fn states(&self, tokens: &Tokens) -> Result<Tensor> {
        self.run(tokens, None, &mut |_| {})
    }

    /// The logits `[B, vocabulary]` of what follows `ids` `[B, T]` and what the cache holds; afterwards it holds the ids, too.
    ///
    /// ```
    /// # use fornax::transformers::{CausalLm, Config};
    /// use fornax::transformers::KvCache;
    /// use fornax::{Device, Tensor};
    /// # let config = Config::parse(r#"{"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 4}"#)?;
    /// # let model = CausalLm::new(&config, Device::cpu())?;
    /// let mut cache = KvCache::new();
    /// let prompt = Tensor::from_slice(&[1i32, 2, 3], [1, 3], Device::cpu())?;
    /// let logits = fornax::no_grad(|| model.next(&prompt, &mut cache))?;
    /// assert_eq!((logits.dims(), cache.len()), (&[1, 50][..], 3));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`forward`](CausalLm::forward).
    pub fn next(&self, ids: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        let x = self.run(&ids.clone().into(), Some(cache), &mut |_| {})?;
        self.logits(&x.try_select(1, -1)?)
    }
}

//! What is learned before the text: prompt tuning and prefix tuning.

use super::adapters::{Trainable, error};
use super::config::{PrefixTuningConfig, PromptTuningConfig, VIRTUAL};
use super::{files, json};
use crate::generate::{Begun, Generative};
use crate::io::StateDict;
use crate::nn::{Around, Embedding, Hook, Module, Param, Walk};
use crate::transformers::{CausalLm, Config, KvCache, Prefix, Tokens};
use crate::{DType, Device, Error, Options, Result, Tensor, no_grad};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

/// The name of the tensor in the file.
const KEY: &str = "prompt_embeddings";

/// The parameters of a model, frozen, and as they were.
struct Frozen(Vec<(Param, bool)>);

impl Frozen {
    fn new(model: &dyn Module) -> Frozen {
        let params = model.parameters();
        let were = params.iter().map(|p| (p.clone(), p.is_frozen())).collect();
        params.iter().for_each(|p| p.set_frozen(true));
        Frozen(were)
    }

    fn thaw(&self) {
        self.0.iter().for_each(|(p, frozen)| p.set_frozen(*frozen));
    }

    fn report(&self, own: &Param) -> Trainable {
        let count = |p: &Param| p.shape().numel();
        Trainable {
            trainable: if own.is_frozen() { 0 } else { count(own) },
            all: self.0.iter().map(|(p, _)| count(p)).sum::<usize>() + count(own),
        }
    }
}

fn check(n: usize) -> Result<()> {
    match (1..=VIRTUAL).contains(&n) {
        true => Ok(()),
        false => Err(error(format!("num_virtual_tokens = {n}: a number from 1 to {VIRTUAL} is wanted"))),
    }
}

/// The tensor of a folder, held against its shape.
fn read(folder: &Path, shape: [usize; 2]) -> Result<Tensor> {
    let tensors = files::tensors(folder)?;
    let Some(t) = tensors.get(KEY) else {
        return Err(Error::format(folder.join(files::TENSORS), format!("{KEY} is missing")));
    };
    if t.dims() != shape || !t.dtype().is_float() {
        let message = format!("the adapter is not for this base: {KEY} is {} {}, must be floats {shape:?}", t.dtype(), t.shape());
        return Err(Error::StateDict { message });
    }
    Ok(t.clone())
}

/// The options of learned vectors beside a table.
fn like(p: &Param) -> Options {
    Options { dtype: if p.dtype() == DType::F64 { DType::F64 } else { DType::F32 }, device: p.device() }
}

fn folder_of(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|e| Error::io(path, e))
}

/// Prompt tuning (Lester et al., 2021): n learned vectors, which stand before a text's as if they were tokens. They are: tokens beyond the vocabulary, numbered from its size on,
/// that the table of tokens knows from now on. [`prepend`](PromptTuning::prepend) puts them before a batch, and [`prompted`](PromptTuning::prompted) before texts to be
/// [continued](crate::generate).
///
/// ```
/// use fornax::lora::{PromptTuning, PromptTuningConfig};
/// use fornax::transformers::{CausalLm, Config, Tokens};
/// use fornax::Device;
/// let config = Config::parse(r#"{"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2}"#)?;
/// let model = CausalLm::new(&config, Device::cpu())?;
/// let prompt = PromptTuning::new(&model, model.decoder().embedding(), PromptTuningConfig { num_virtual_tokens: 4, ..Default::default() })?;
/// let tokens = prompt.prepend(&Tokens::pad(&[vec![1, 2, 3]], 0, Device::cpu())?)?;
/// assert_eq!(model.forward(&tokens)?.dims(), [1, 7, 50]);
/// assert_eq!(prompt.trainable().trainable, 4 * 16);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct PromptTuning {
    config: PromptTuningConfig,
    table: Arc<Virtual>,
    hook: Hook,
    frozen: Frozen,
    width: usize,
    /// 2 where a decoder has a prompt of its own, behind the encoder's.
    parts: usize,
}

/// A table of tokens with more behind its end.
struct Virtual {
    prompt: Param,
    vocabulary: usize,
}

impl Module for Virtual {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.field(KEY, |walk| self.prompt.walk(walk));
    }
}

impl Around for Virtual {
    fn forward(&self, ids: &Tensor, base: &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let first = self.vocabulary as i64;
        let own = base(&ids.try_clamp(i64::from(i32::MIN), first - 1)?)?;
        let more = self.prompt.get().try_embedding(&ids.try_sub(first)?.try_clamp(0, i64::from(i32::MAX))?)?;
        ids.try_ge(first)?.try_unsqueeze(-1)?.try_where(more.try_cast(own.dtype())?, &own)
    }
}

impl PromptTuning {
    /// Freezes a model and puts learned vectors behind the end of its table of tokens. They start normal with deviation 1.
    ///
    /// # Errors
    /// No virtual tokens, or too many; a table that something stands around already.
    pub fn new(model: &dyn Module, table: &Embedding, config: PromptTuningConfig) -> Result<PromptTuning> {
        check(config.num_virtual_tokens)?;
        let shape = [config.num_virtual_tokens, table.weight.shape()[1]];
        let value = Tensor::try_normal(shape, 0.0, 1.0, like(&table.weight))?;
        PromptTuning::attach(model, table, config, value, 1)
    }

    /// As [`new`](PromptTuning::new), with the vectors of these tokens as a start, again and again.
    ///
    /// # Errors
    /// As [`new`](PromptTuning::new); no tokens, or tokens outside the vocabulary.
    pub fn from_tokens(model: &dyn Module, table: &Embedding, config: PromptTuningConfig, tokens: &[u32]) -> Result<PromptTuning> {
        check(config.num_virtual_tokens)?;
        let count = table.weight.shape()[0];
        if tokens.is_empty() || tokens.iter().any(|&t| t as usize >= count) {
            return Err(error(format!("the prompt starts with {} tokens: at least one, all below {count}, are wanted", tokens.len())));
        }
        let ids: Vec<i32> = tokens.iter().cycle().take(config.num_virtual_tokens).map(|&t| t as i32).collect();
        let ids = Tensor::from_slice(&ids, ids.len(), table.weight.device())?;
        let value = table.weight.value().try_embedding(&ids)?.try_cast(like(&table.weight).dtype)?;
        PromptTuning::attach(model, table, config, value, 1)
    }

    /// Loads a folder that PEFT or [`save`](PromptTuning::save) wrote, frozen.
    ///
    /// # Errors
    /// `Error::Io`, `Error::Format` for a file that is not what it should be or of another type; `Error::StateDict` for another width.
    pub fn load(model: &dyn Module, table: &Embedding, folder: impl AsRef<Path>) -> Result<PromptTuning> {
        let folder = folder.as_ref();
        let c = Config::read(folder.join(json::CONFIG))?;
        if json::peft_type(&c)? != "PROMPT_TUNING" {
            return Err(c.error(format!("peft_type is {:?}: PROMPT_TUNING is wanted", json::peft_type(&c)?)));
        }
        let (n, parts) = (c.size("num_virtual_tokens", None, VIRTUAL)?, c.size("num_transformer_submodules", 1, 2)?);
        let value = read(folder, [n * parts, table.weight.shape()[1]])?;
        let value = files::fit(&value, like(&table.weight))?;
        let config = PromptTuningConfig { num_virtual_tokens: n, about: json::about(&c)? };
        let tuning = PromptTuning::attach(model, table, config, value, parts)?;
        tuning.table.prompt.set_frozen(true);
        Ok(tuning)
    }

    fn attach(model: &dyn Module, table: &Embedding, config: PromptTuningConfig, value: Tensor, parts: usize) -> Result<PromptTuning> {
        if table.hook.get().is_some() {
            return Err(error("something stands around the table of tokens already: unload it first"));
        }
        let frozen = Frozen::new(model);
        let shape = table.weight.shape();
        let own = Arc::new(Virtual { prompt: Param::new(value), vocabulary: shape[0] });
        table.hook.set(Some(own.clone()));
        Ok(PromptTuning { config, table: own, hook: table.hook.clone(), frozen, width: shape[1], parts })
    }

    /// The learned vectors `[n, width]`.
    pub fn parameters(&self) -> Vec<Param> {
        vec![self.table.prompt.clone()]
    }

    /// How many parameters are trained.
    pub fn trainable(&self) -> Trainable {
        self.frozen.report(&self.table.prompt)
    }

    /// The model with the virtual tokens before every prompt, to [`generate`](crate::generate) with.
    ///
    /// ```
    /// use fornax::generate::{Generation, generate};
    /// use fornax::lora::{PromptTuning, PromptTuningConfig};
    /// use fornax::transformers::{CausalLm, Config};
    /// use fornax::Device;
    /// let config = Config::parse(r#"{"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2}"#)?;
    /// let model = CausalLm::new(&config, Device::cpu())?;
    /// let tuning = PromptTuning::new(&model, model.decoder().embedding(), PromptTuningConfig { num_virtual_tokens: 4, ..Default::default() })?;
    /// let options = Generation { max_new_tokens: 3, ..Generation::default() };
    /// assert_eq!(generate(&tuning.prompted(&model), &[vec![1, 2]], &options)?[0].len(), 3);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn prompted<'a, G: Generative>(&'a self, model: &'a G) -> Prompted<'a, G> {
        Prompted { tuning: self, model }
    }

    /// The virtual tokens before each row of a batch. The logits of a model have as many more places then.
    ///
    /// # Errors
    /// Ids that are not `[B, T]`.
    pub fn prepend(&self, tokens: &Tokens) -> Result<Tokens> {
        self.before(tokens, 0)
    }

    /// As [`prepend`](PromptTuning::prepend), for what the decoder of a text-to-text model reads, where a file has a prompt for that, too.
    ///
    /// # Errors
    /// As [`prepend`](PromptTuning::prepend); a prompt that has no part for the decoder.
    pub fn prepend_decoder(&self, tokens: &Tokens) -> Result<Tokens> {
        match self.parts {
            2 => self.before(tokens, 1),
            _ => Err(error("the prompt has no part for a decoder (num_transformer_submodules = 1)")),
        }
    }

    fn before(&self, tokens: &Tokens, part: usize) -> Result<Tokens> {
        let &[rows, _] = tokens.ids.dims() else {
            return Err(Error::shape("PromptTuning", &[tokens.ids.shape()], "ids [B, T]"));
        };
        let (n, device) = (self.config.num_virtual_tokens, tokens.ids.device());
        let first = (self.table.vocabulary + part * n) as i64;
        let row = Tensor::try_arange(first, first + n as i64, 1, (tokens.ids.dtype(), device))?;
        let join = |front: &Tensor, t: &Tensor| Tensor::try_cat(&[&front.try_broadcast_to([rows, n])?, t], 1);
        let filled = |t: &Option<Tensor>, v: i32| -> Result<Option<Tensor>> {
            let Some(t) = t else { return Ok(None) };
            join(&Tensor::try_full([1, n], v, (DType::I32, device))?.try_cast(t.dtype())?, t).map(Some)
        };
        Ok(Tokens { ids: join(&row.try_unsqueeze(0)?, &tokens.ids)?, mask: filled(&tokens.mask, 1)?, types: filled(&tokens.types, 0)? })
    }

    /// Saves as PEFT does.
    ///
    /// # Errors
    /// `Error::Io`.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        folder_of(folder)?;
        files::write(folder, &StateDict::from([(KEY.to_string(), self.table.prompt.value())]))?;
        let mut all = json::common(&self.config.about, "PROMPT_TUNING");
        all.extend([
            ("num_virtual_tokens", json!(self.config.num_virtual_tokens)),
            ("token_dim", json!(self.width)),
            ("num_transformer_submodules", json!(self.parts)),
            ("prompt_tuning_init", json!("RANDOM")),
        ]);
        json::write(folder, &all)
    }

    /// Takes the vectors away; the model is what it was before.
    pub fn unload(&self) {
        self.hook.set(None);
        self.frozen.thaw();
    }
}

/// A model with a learned prompt before every prompt; see [`PromptTuning::prompted`].
pub struct Prompted<'a, G> {
    tuning: &'a PromptTuning,
    model: &'a G,
}

impl<G: Generative> Generative for Prompted<'_, G> {
    fn vocabulary(&self) -> usize {
        self.model.vocabulary()
    }

    fn ends(&self) -> &[u32] {
        self.model.ends()
    }

    fn device(&self) -> Device {
        self.model.device()
    }

    fn begin(&self, prompts: &[Vec<u32>]) -> Result<Begun<'_>> {
        let first = self.tuning.table.vocabulary as u32;
        let more = first..first + self.tuning.config.num_virtual_tokens as u32;
        let longer: Vec<Vec<u32>> = prompts.iter().map(|p| more.clone().chain(p.iter().copied()).collect()).collect();
        let begun = self.model.begin(&longer)?;
        // A decoder of its own starts its history itself.
        let history = if begun.history == longer { prompts.to_vec() } else { begun.history };
        Ok(Begun { history, ..begun })
    }
}

/// Prefix tuning (Li & Liang, 2021): n learned keys and values stand before those of the text in every layer of a [`CausalLm`], in training and in
/// [generation](crate::generate). Positions of the text count from n on.
///
/// ```
/// use fornax::lora::{PrefixTuning, PrefixTuningConfig};
/// use fornax::transformers::{CausalLm, Config, Tokens};
/// use fornax::Device;
/// let config = Config::parse(r#"{"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2}"#)?;
/// let model = CausalLm::new(&config, Device::cpu())?;
/// let prefix = PrefixTuning::new(&model, PrefixTuningConfig { num_virtual_tokens: 5, ..Default::default() })?;
/// assert_eq!(prefix.parameters()[0].shape(), [5, 2 * 2 * 16]);
/// assert_eq!(model.forward(&Tokens::pad(&[vec![1, 2, 3]], 0, Device::cpu())?)?.dims(), [1, 3, 50]);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct PrefixTuning<'m> {
    config: PrefixTuningConfig,
    prefix: Arc<Learned>,
    model: &'m CausalLm,
    frozen: Frozen,
}

/// Learned keys and values.
struct Learned {
    /// `[n, layers · 2 · heads · width]`.
    values: Param,
    layers: usize,
    heads: usize,
    width: usize,
    dtype: DType,
}

impl Module for Learned {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.field(KEY, |walk| self.values.walk(walk));
    }
}

impl Prefix for Learned {
    fn layers(&self) -> Result<Vec<(Tensor, Tensor)>> {
        let n = self.values.shape()[0];
        let all = self.values.get().try_cast(self.dtype)?.try_reshape([n, self.layers, 2, self.heads, self.width])?;
        let all = all.try_permute(&[1, 2, 3, 0, 4])?;
        let part = |l: usize, i: usize| all.try_select(0, l as isize)?.try_select(0, i as isize)?.try_unsqueeze(0);
        (0..self.layers).map(|l| Ok((part(l, 0)?, part(l, 1)?))).collect()
    }
}

impl<'m> PrefixTuning<'m> {
    /// Freezes a model and puts learned keys and values before its texts. They start normal with deviation 1.
    ///
    /// # Errors
    /// No virtual tokens, or too many; a model with a prefix.
    pub fn new(model: &'m CausalLm, config: PrefixTuningConfig) -> Result<PrefixTuning<'m>> {
        check(config.num_virtual_tokens)?;
        let (layers, heads, width, dtype) = sizes(model)?;
        let o = like(&model.decoder().embedding().weight);
        let value = Tensor::try_normal([config.num_virtual_tokens, layers * 2 * heads * width], 0.0, 1.0, o)?;
        PrefixTuning::attach(model, config, Learned { values: Param::new(value), layers, heads, width, dtype })
    }

    /// Loads a folder that PEFT or [`save`](PrefixTuning::save) wrote, frozen.
    ///
    /// # Errors
    /// `Error::Io`, `Error::Format` for a file that is not what it should be or of another type; `Error::StateDict` for another model.
    pub fn load(model: &'m CausalLm, folder: impl AsRef<Path>) -> Result<PrefixTuning<'m>> {
        let folder = folder.as_ref();
        let c = Config::read(folder.join(json::CONFIG))?;
        if json::peft_type(&c)? != "PREFIX_TUNING" {
            return Err(c.error(format!("peft_type is {:?}: PREFIX_TUNING is wanted", json::peft_type(&c)?)));
        }
        let n = c.size("num_virtual_tokens", None, VIRTUAL)?;
        let (layers, heads, width, dtype) = sizes(model)?;
        let value = read(folder, [n, layers * 2 * heads * width])?;
        let values = Param::new(files::fit(&value, like(&model.decoder().embedding().weight))?);
        let config = PrefixTuningConfig { num_virtual_tokens: n, about: json::about(&c)? };
        let tuning = PrefixTuning::attach(model, config, Learned { values, layers, heads, width, dtype })?;
        tuning.prefix.values.set_frozen(true);
        Ok(tuning)
    }

    fn attach(model: &'m CausalLm, config: PrefixTuningConfig, prefix: Learned) -> Result<PrefixTuning<'m>> {
        if model.prefix().is_some() {
            return Err(error("the model has a prefix already: unload it first"));
        }
        let (frozen, prefix) = (Frozen::new(model), Arc::new(prefix));
        model.set_prefix(Some(prefix.clone()));
        Ok(PrefixTuning { config, prefix, model, frozen })
    }

    /// The learned keys and values `[n, layers · 2 · heads · width]`: a layer's keys, then its values.
    pub fn parameters(&self) -> Vec<Param> {
        vec![self.prefix.values.clone()]
    }

    /// How many parameters are trained.
    pub fn trainable(&self) -> Trainable {
        self.frozen.report(&self.prefix.values)
    }

    /// Saves as PEFT does.
    ///
    /// # Errors
    /// `Error::Io`.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        folder_of(folder)?;
        let p = &self.prefix;
        files::write(folder, &StateDict::from([(KEY.to_string(), p.values.value())]))?;
        let mut all = json::common(&self.config.about, "PREFIX_TUNING");
        all.extend([
            ("num_virtual_tokens", json!(self.config.num_virtual_tokens)),
            ("token_dim", json!(p.heads * p.width)),
            ("num_transformer_submodules", json!(1)),
            ("num_attention_heads", json!(p.heads)),
            ("num_layers", json!(p.layers)),
            ("encoder_hidden_size", json!(p.heads * p.width)),
            ("prefix_projection", json!(false)),
        ]);
        json::write(folder, &all)
    }

    /// Takes the prefix away; the model is what it was before.
    pub fn unload(&self) {
        self.model.set_prefix(None);
        self.frozen.thaw();
    }
}

/// Layers, heads of keys, their width and dtype: those of a cache after one token. (The pass is recorded and never run.)
fn sizes(model: &CausalLm) -> Result<(usize, usize, usize, DType)> {
    let mut cache = KvCache::with_capacity(1);
    let ids = Tensor::try_zeros([1, 1], (DType::I32, model.device()))?;
    no_grad(|| model.next(&ids, &mut cache))?;
    let keys: Vec<&Tensor> = cache.tensors().collect();
    match keys.first().map(|k| (k.dims(), k.dtype())) {
        Some((&[_, heads, _, width], dtype)) => Ok((keys.len() / 2, heads, width, dtype)),
        _ => Err(error("the model has no layers with keys")),
    }
}

//! Decoders that classify texts.

use super::causal_lm::FAMILIES;
use super::heads::ProblemType;
use super::{CausalLm, Checkpoint, Config, LoadOptions, Tokens, blank};
use crate::nn::{Forward, Module, Slot, Walk};
use crate::{DType, Error, Options, Result, Tensor};
use std::path::Path;

/// A causal model that classifies texts: a linear layer without bias, `score`, on the last state of the last token that is no padding. transformers'
/// `GPT2ForSequenceClassification`, `LlamaForSequenceClassification` and their kin; the names of the weights are theirs.
///
/// ```
/// use fornax::transformers::{CausalClassifier, Config, Tokens};
/// use fornax::Device;
/// let config = Config::parse(r#"{"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2, "num_labels": 3}"#)?;
/// let model = CausalClassifier::new(&config, Device::cpu())?;
/// let logits = model.forward(&Tokens::pad(&[vec![1, 2, 3], vec![4]], 0, Device::cpu())?)?;
/// assert_eq!(logits.dims(), [2, model.labels().len()]);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct CausalClassifier {
    model: CausalLm,
    score: Slot,
    labels: Vec<String>,
    problem: Option<ProblemType>,
}

impl Module for CausalClassifier {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.module("CausalClassifier");
        self.walk_parts(walk);
    }
}

impl CausalClassifier {
    /// The decoder and the layer of classes, without the language model's head: it has no part in the classes.
    pub(crate) fn walk_parts(&self, walk: &mut Walk<'_>) {
        walk.field(self.model.decoder().prefix(), |walk| self.model.decoder().walk(walk));
        walk.field("score", |walk| self.score.walk(walk));
    }

    /// A new model of the family, sizes and labels that the config gives, to be trained.
    ///
    /// # Errors
    /// An unknown family, or sizes that cannot be.
    pub fn new(config: &Config, options: impl Into<Options>) -> Result<CausalClassifier> {
        let model = CausalClassifier::blank(config, options.into())?;
        blank::draw(&model, config.number("initializer_range", 0.02)?)?;
        Ok(model)
    }

    /// Loads a folder. In evaluation mode.
    ///
    /// # Errors
    /// As [`Checkpoint::open`] and [`Checkpoint::fill`]; an unknown family.
    pub fn load(folder: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<CausalClassifier> {
        CausalClassifier::from_checkpoint(&Checkpoint::open(folder)?, &options.into())
    }

    /// As [`load`](CausalClassifier::load), from an open checkpoint.
    ///
    /// # Errors
    /// As [`Checkpoint::fill`]; an unknown family.
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<CausalClassifier> {
        let model = CausalClassifier::blank(checkpoint.config(), options.device.into())?;
        checkpoint.fill(&model, model.model.decoder().prefix(), options)?;
        model.eval();
        Ok(model)
    }

    /// Whether a config is of one of its families: if not, [`SequenceClassifier`](super::SequenceClassifier) may take it.
    pub fn takes(config: &Config) -> bool {
        config.model_type().is_ok_and(|family| FAMILIES.contains(&family))
    }

    fn blank(config: &Config, o: Options) -> Result<CausalClassifier> {
        let (model, labels) = (CausalLm::blank(config, o)?, config.labels()?);
        let score = blank::linear(model.shape().width, labels.len(), false, o)?;
        Ok(CausalClassifier { model, score, labels, problem: ProblemType::of(config)? })
    }

    /// A language model with a layer of one's own from states to logits, one for each label.
    pub fn from_parts(model: CausalLm, score: Slot, labels: Vec<String>) -> CausalClassifier {
        CausalClassifier { model, score, labels, problem: None }
    }

    /// The language model.
    pub fn model(&self) -> &CausalLm {
        &self.model
    }

    /// The names of the classes, as config.json has them.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// What the classes are to each other, where config.json says so.
    pub fn problem_type(&self) -> Option<ProblemType> {
        self.problem
    }

    /// The logits `[B, classes]`. Padding may stand on either side.
    ///
    /// # Errors
    /// As [`CausalLm::forward`].
    pub fn forward(&self, tokens: &Tokens) -> Result<Tensor> {
        let states = self.model.states(tokens)?;
        let &[b, t, w] = states.dims() else {
            return Err(Error::shape("CausalClassifier", &[states.shape()], "states [B, T, W]"));
        };
        let last = match &tokens.mask {
            None => states.try_select(1, -1)?,
            Some(mask) => {
                // The place of the last token that counts, in all rows' places.
                let real = if mask.dtype() == DType::Bool { mask.clone() } else { mask.try_ne(0)? };
                let places = Tensor::try_arange(0, t as i64, 1, (DType::I32, states.device()))?.try_unsqueeze(0)?;
                let at = real.try_where(&places, 0)?.try_max(1)?;
                let first = Tensor::try_arange(0, b as i64, 1, (DType::I32, states.device()))?.try_mul(t)?;
                states.try_reshape([b * t, w])?.try_index_select(0, &at.try_add(first)?)?
            }
        };
        self.score.forward(&last)
    }
}

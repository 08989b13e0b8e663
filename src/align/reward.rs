//! Models that say how good an answer is.

use super::log_sigmoid;
use crate::nn::{Forward, Linear, Module, Param, Slot, Walk};
use crate::transformers::{CausalLm, Checkpoint, Config, LoadOptions, Tokens};
use crate::{DType, Error, Options, Result, Shape, Tensor};
use std::path::Path;

/// A language model whose head gives a text one number: a linear layer without bias, `score`, on the last state of the last token that is no padding. That is
/// transformers' `…ForSequenceClassification` of a causal model with one label; its weights have the same names.
///
/// ```
/// use fornax::align::{Preference, PreferenceBatch, RewardLoss, RewardModel};
/// use fornax::nn::Module;
/// use fornax::optim::{AdamW, Optimizer};
/// use fornax::transformers::{CausalLm, Config};
/// use fornax::Device;
/// # fornax::manual_seed(1);
/// let config = Config::parse(r#"{"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2}"#)?;
/// let model = RewardModel::new(CausalLm::new(&config, Device::cpu())?)?;
/// let pairs = [Preference { prompt: vec![1, 2], chosen: vec![3, 4], rejected: vec![5] }];
/// let batch = PreferenceBatch::new(&pairs, 0, Device::cpu())?;
/// let mut optimizer = AdamW::new(model.parameters(), 1e-2);
/// for _ in 0..20 {
///     let (chosen, rejected) = batch.split(&model.forward(&batch.rows.tokens)?)?;
///     optimizer.step(RewardLoss::new().forward(&chosen, &rejected, None)?.backward()?)?;
/// }
/// let (chosen, rejected) = batch.split(&model.forward(&batch.rows.tokens)?)?;
/// assert!(chosen.item::<f32>()? > rejected.item::<f32>()?);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct RewardModel {
    model: CausalLm,
    score: Slot,
}

impl Module for RewardModel {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.module("RewardModel");
        // Without the language model's head: it has no part in the reward.
        walk.field(self.model.decoder().prefix(), |walk| self.model.decoder().walk(walk));
        walk.field("score", |walk| self.score.walk(walk));
    }
}

impl RewardModel {
    /// A language model with a new head, whose weights are drawn with a deviation of `1 / √(width + 1)` (Stiennon et al., 2020).
    ///
    /// # Errors
    /// No memory.
    pub fn new(model: CausalLm) -> Result<RewardModel> {
        let (width, weight) = (model.shape().width, &model.decoder().embedding().weight);
        let options: Options = (weight.dtype(), weight.device()).into();
        let drawn = Tensor::try_normal([1, width], 0.0, 1.0 / ((width + 1) as f64).sqrt(), options)?;
        Ok(RewardModel { model, score: Slot::new(Linear::from_parts(Param::new(drawn), None)) })
    }

    /// Loads a folder of a reward model: the config's family, and `score.weight`. In evaluation mode.
    ///
    /// # Errors
    /// As [`Checkpoint::open`] and [`Checkpoint::fill`]; an unknown family; a head of another number of labels than one.
    pub fn load(folder: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<RewardModel> {
        let (checkpoint, options) = (Checkpoint::open(folder)?, options.into());
        let model = RewardModel::new(CausalLm::new(checkpoint.config(), options.device)?)?;
        checkpoint.fill(&model, model.model.decoder().prefix(), &options)?;
        model.eval();
        Ok(model)
    }

    /// A new model of the family and sizes that the config gives.
    ///
    /// # Errors
    /// An unknown family, or sizes that cannot be.
    pub fn from_config(config: &Config, options: impl Into<Options>) -> Result<RewardModel> {
        RewardModel::new(CausalLm::new(config, options)?)
    }

    /// The language model.
    pub fn model(&self) -> &CausalLm {
        &self.model
    }

    /// The rewards `[B]` of texts that are padded on the right.
    ///
    /// # Errors
    /// As [`CausalLm::forward`].
    pub fn forward(&self, tokens: &Tokens) -> Result<Tensor> {
        let states = self.model.hidden_states(tokens)?;
        let states = states.last().ok_or_else(|| Error::argument("RewardModel", "the model has no states"))?;
        let &[b, t, w] = states.dims() else {
            return Err(Error::shape("RewardModel", &[states.shape()], "states [B, T, W]"));
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
        self.score.forward(&last)?.try_reshape(b)
    }
}

/// The loss of a reward model (Bradley and Terry, 1952; Ouyang et al., 2022): with the rewards r_c and r_r of a chosen and a rejected answer
///
/// `−log σ(r_c − r_r − margin) + c (r_c + r_r)²`,
///
/// the mean over the pairs. c keeps the rewards around 0 (Eisenstein et al., 2023: 0.01); by default it is 0.
///
/// ```
/// use fornax::align::RewardLoss;
/// use fornax::{Device, Tensor};
/// let (chosen, rejected) = (Tensor::ones(4, Device::cpu()), Tensor::ones(4, Device::cpu()));
/// let loss = RewardLoss::new().center(0.01).forward(&chosen, &rejected, None)?;
/// assert!((loss.item::<f32>()? - (2f32.ln() + 0.04)).abs() < 1e-6);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct RewardLoss {
    /// c, the weight of what keeps the rewards around 0; TRL's `center_rewards_coefficient`.
    pub center: f64,
}

impl RewardLoss {
    /// The loss with its defaults.
    pub fn new() -> RewardLoss {
        RewardLoss::default()
    }

    /// c, the weight of what keeps the rewards around 0.
    pub fn center(mut self, coefficient: f64) -> RewardLoss {
        self.center = coefficient;
        self
    }

    /// The loss of N pairs: rewards `[N]`, and by how much each chosen one should be better, `[N]`, if that is known.
    ///
    /// # Errors
    /// Shapes that differ; a coefficient that is negative.
    pub fn forward(&self, chosen: &Tensor, rejected: &Tensor, margin: Option<&Tensor>) -> Result<Tensor> {
        const OP: &str = "RewardLoss";
        if !(self.center >= 0.0 && self.center.is_finite()) {
            return Err(Error::argument(OP, format!("center {}: at least 0 is wanted", self.center)));
        }
        let all: Vec<&Tensor> = [Some(chosen), Some(rejected), margin].into_iter().flatten().collect();
        if all.iter().any(|t| t.rank() != 1 || t.shape() != chosen.shape()) {
            let shapes: Vec<&Shape> = all.iter().map(|t| t.shape()).collect();
            return Err(Error::shape(OP, &shapes, "rewards [N], and a margin of the same shape"));
        }
        let mut difference = chosen.try_sub(rejected)?;
        if let Some(m) = margin {
            difference = difference.try_sub(m.detach())?;
        }
        let loss = log_sigmoid(&difference)?.try_neg()?.try_mean(())?;
        if self.center == 0.0 {
            return Ok(loss);
        }
        loss.try_add(chosen.try_add(rejected)?.try_square()?.try_mean(())?.try_mul(self.center)?)
    }
}

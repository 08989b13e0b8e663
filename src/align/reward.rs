//! Models that say how good an answer is.

use super::log_sigmoid;
use crate::nn::{Linear, Module, Param, Slot, Walk};
use crate::transformers::{CausalClassifier, CausalLm, Checkpoint, Config, LoadOptions, Tokens};
use crate::{Error, Options, Result, Shape, Tensor};
use std::path::Path;

/// A language model whose head gives a text one number: a [`CausalClassifier`] of one class, so that its weights have the names of transformers'
/// `…ForSequenceClassification`.
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
    classifier: CausalClassifier,
}

impl Module for RewardModel {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.module("RewardModel");
        self.classifier.walk_parts(walk);
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
        let score = Slot::new(Linear::from_parts(Param::new(drawn), None));
        Ok(RewardModel { classifier: CausalClassifier::from_parts(model, score, vec!["reward".into()]) })
    }

    /// Loads a folder of a reward model: the config's family, and `score.weight`. In evaluation mode.
    ///
    /// # Errors
    /// As [`CausalClassifier::load`]; a head of another number of labels than one.
    pub fn load(folder: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<RewardModel> {
        let (checkpoint, options) = (Checkpoint::open(folder)?, options.into());
        let model = RewardModel::from_config(checkpoint.config(), options.device)?;
        checkpoint.fill(&model, model.model().decoder().prefix(), &options)?;
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
        self.classifier.model()
    }

    /// The rewards `[B]` of texts; padding may stand on either side.
    ///
    /// # Errors
    /// As [`CausalLm::forward`].
    pub fn forward(&self, tokens: &Tokens) -> Result<Tensor> {
        self.classifier.forward(tokens)?.try_squeeze(-1)
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

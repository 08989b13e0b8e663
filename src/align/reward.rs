//! Reward models (Ouyang et al., 2022): a number for a text, learned from pairs.

use super::dpo::minus_log_sigmoid;
use crate::nn::{Forward, Linear, Module, Slot, Walk};
use crate::transformers::{CausalLm, Tokens};
use crate::{DType, Error, Options, Result, Tensor};

/// A language model whose last state at a text's last token is weighed into one number. The weights have the names of Hugging Face's sequence classifiers of
/// decoders: the head is `score.weight`.
///
/// ```
/// use fornax::align::{PreferenceBatch, RewardLoss, RewardModel};
/// use fornax::transformers::{CausalLm, Config};
/// use fornax::Device;
/// # let config = Config::parse(r#"{"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2}"#)?;
/// let model = RewardModel::new(CausalLm::new(&config, Device::cpu())?)?;
/// let pairs = PreferenceBatch::new(&[(vec![1, 2], vec![3], vec![4, 5])], 0, Device::cpu())?;
/// let rewards = model.forward(&pairs.tokens)?;
/// assert_eq!(rewards.dims(), [2]);
/// let loss = RewardLoss::default().forward(&rewards, None)?;
/// # loss.backward()?;
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct RewardModel {
    model: CausalLm,
    score: Slot,
}

impl Module for RewardModel {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.module("RewardModel");
        self.model.walk(walk);
        walk.field("score", |walk| self.score.walk(walk));
    }
}

impl RewardModel {
    /// A language model with a new head.
    ///
    /// # Errors
    /// No memory.
    pub fn new(model: CausalLm) -> Result<RewardModel> {
        let table = &model.decoder().embedding().weight;
        let options = Options { dtype: if table.dtype() == DType::F64 { DType::F64 } else { DType::F32 }, device: table.device() };
        let head = Linear::try_new(model.shape().width, 1, options)?.no_bias();
        Ok(RewardModel { model, score: Slot::new(head) })
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
        let Some(last) = states.last() else { return Err(Error::argument("RewardModel", "the model has no states")) };
        let width = last.dims()[2];
        let last = match &tokens.mask {
            None => last.try_select(1, -1)?,
            Some(mask) => {
                let ends = mask.try_cast(DType::I32)?.try_ne(0)?.try_cast(DType::I32)?.try_sum(1)?.try_sub(1)?.try_clamp(0, i32::MAX)?;
                let index = ends.try_cast(DType::I32)?.try_reshape([mask.dims()[0], 1, 1])?.try_broadcast_to([mask.dims()[0], 1, width])?;
                last.try_gather(1, &index)?.try_squeeze(1)?
            }
        };
        self.score.forward(&last.try_cast(self.score_dtype(&last))?)?.try_squeeze(-1)
    }

    fn score_dtype(&self, like: &Tensor) -> DType {
        self.score.parameters().first().map_or(like.dtype(), |p| p.dtype())
    }
}

/// −log σ(r_c − r_r − margin) + c (r_c + r_r)², the mean over pairs; the second part keeps the rewards near 0 (Eisenstein et al., 2023).
///
/// ```
/// use fornax::align::RewardLoss;
/// use fornax::{Device, Tensor};
/// let rewards = Tensor::from_slice(&[1.0f32, 0.0], 2, Device::cpu())?;
/// let loss = RewardLoss { center: 0.5 }.forward(&rewards, None)?;
/// assert!((loss.item::<f32>()? - ((1.0 + (-1f32).exp()).ln() + 0.5)).abs() < 1e-6);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RewardLoss {
    /// The coefficient c.
    pub center: f64,
}

impl RewardLoss {
    /// Of rewards `[2B]`, those of the chosen answers first; the margin is `[B]`.
    ///
    /// # Errors
    /// Shapes that do not belong together.
    pub fn forward(&self, rewards: &Tensor, margin: Option<&Tensor>) -> Result<Tensor> {
        let n = rewards.numel();
        let fits = margin.is_none_or(|m| m.dims() == [n / 2]);
        if rewards.rank() != 1 || n == 0 || n % 2 == 1 || !fits {
            let shapes: Vec<_> = [Some(rewards), margin].into_iter().flatten().map(Tensor::shape).collect();
            return Err(Error::shape("RewardLoss", &shapes, "rewards [2B], chosen answers first, and a margin [B]"));
        }
        let (chosen, rejected) = (rewards.try_narrow(0, 0, n / 2)?, rewards.try_narrow(0, n / 2, n / 2)?);
        let mut gap = chosen.try_sub(&rejected)?;
        if let Some(m) = margin {
            gap = gap.try_sub(m)?;
        }
        let loss = minus_log_sigmoid(&gap)?.try_mean(())?;
        match self.center == 0.0 {
            true => Ok(loss),
            false => loss.try_add(chosen.try_add(&rejected)?.try_square()?.try_mean(())?.try_mul(self.center)?),
        }
    }
}

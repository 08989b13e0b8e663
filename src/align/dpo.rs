//! Direct preference optimisation.

use super::log_sigmoid;
use crate::{Error, Result, Shape, Tensor};

/// Direct preference optimisation (Rafailov et al., 2023): with the log-probabilities π of a model that is trained and ref of the one that it started from,
/// of the chosen and the rejected completions,
///
/// `δ = (π_c − π_r) − (ref_c − ref_r)`, `loss = −(1 − ε) log σ(βδ) − ε log σ(−βδ)`,
///
/// by default with β = 0.1 and ε = 0. With a label smoothing ε above 0 the preferences count as wrong with that probability (conservative DPO; Mitchell, 2023); with
/// `robust` the loss is `(−(1 − ε) log σ(βδ) + ε log σ(−βδ)) / (1 − 2ε)`, whose mean over flipped labels is that of the right ones (Chowdhury et al., 2024), TRL's
/// `robust`.
///
/// Where only adapters are trained, the reference needs no model of its own: it is the model with its adapters switched off
/// ([`Adapters::disabled`](crate::lora::Adapters::disabled)).
///
/// ```
/// use fornax::align::{DpoLoss, Preference, PreferenceBatch, sequence_log_probs};
/// use fornax::nn::Module;
/// use fornax::optim::{AdamW, Optimizer};
/// use fornax::transformers::{CausalLm, Config};
/// use fornax::{Device, no_grad};
/// # fornax::manual_seed(1);
/// let config = Config::parse(r#"{"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2}"#)?;
/// let (model, reference) = (CausalLm::new(&config, Device::cpu())?, CausalLm::new(&config, Device::cpu())?);
/// reference.load_state_dict(&model.state_dict(), true)?;
/// model.eval();
/// reference.eval();
/// let pairs = [Preference { prompt: vec![1, 2], chosen: vec![3, 4], rejected: vec![5] }];
/// let batch = PreferenceBatch::new(&pairs, 0, Device::cpu())?;
/// // The reference's numbers are computed once.
/// let fixed = no_grad(|| sequence_log_probs(&reference.forward(&batch.rows.tokens)?, &batch.rows.labels))?;
/// let (ref_chosen, ref_rejected) = batch.split(&fixed)?;
/// let mut optimizer = AdamW::new(model.parameters(), 1e-2);
/// let mut margins = Vec::new();
/// for _ in 0..10 {
///     let (chosen, rejected) = batch.split(&sequence_log_probs(&model.forward(&batch.rows.tokens)?, &batch.rows.labels)?)?;
///     let dpo = DpoLoss::new().beta(0.5).forward(&chosen, &rejected, &ref_chosen, &ref_rejected)?;
///     optimizer.step(dpo.loss.backward()?)?;
///     margins.push(dpo.margins()?.item::<f32>()?);
/// }
/// assert!(margins[0].abs() < 1e-5 && margins[9] > 0.1);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct DpoLoss {
    /// β, how dearly the model pays for going away from the reference.
    pub beta: f64,
    /// ε in 0..0.5, the probability with which a preference is wrong.
    pub label_smoothing: f64,
    /// The unbiased form of the smoothed loss.
    pub robust: bool,
}

impl Default for DpoLoss {
    fn default() -> DpoLoss {
        DpoLoss { beta: 0.1, label_smoothing: 0.0, robust: false }
    }
}

/// What [`DpoLoss`] gives.
#[derive(Clone)]
pub struct Dpo {
    /// The mean of the pairs' losses.
    pub loss: Tensor,
    /// β (π_c − ref_c) of each pair, `[N]`, without a gradient.
    pub chosen_rewards: Tensor,
    /// β (π_r − ref_r) of each pair, `[N]`, without a gradient.
    pub rejected_rewards: Tensor,
}

impl Dpo {
    /// By how much the chosen completions' rewards exceed the rejected ones', `[N]`.
    ///
    /// # Errors
    /// No memory.
    pub fn margins(&self) -> Result<Tensor> {
        self.chosen_rewards.try_sub(&self.rejected_rewards)
    }

    /// The share of pairs whose chosen completion has the higher reward: a tensor, so that nothing waits for it.
    ///
    /// # Errors
    /// No memory.
    pub fn accuracy(&self) -> Result<Tensor> {
        self.margins()?.try_gt(0.0)?.try_cast(self.chosen_rewards.dtype())?.try_mean(())
    }
}

impl DpoLoss {
    /// The loss with its defaults.
    pub fn new() -> DpoLoss {
        DpoLoss::default()
    }

    /// β.
    pub fn beta(mut self, beta: f64) -> DpoLoss {
        self.beta = beta;
        self
    }

    /// ε, the probability with which a preference is wrong.
    pub fn label_smoothing(mut self, epsilon: f64) -> DpoLoss {
        self.label_smoothing = epsilon;
        self
    }

    /// Whether the smoothed loss is the unbiased one.
    pub fn robust(mut self, robust: bool) -> DpoLoss {
        self.robust = robust;
        self
    }

    /// The loss of N pairs from the log-probabilities of their completions ([`sequence_log_probs`](super::sequence_log_probs)), each `[N]`: the model's and the
    /// reference's.
    ///
    /// # Errors
    /// Shapes that differ; a β that is not above 0, a label smoothing outside 0..0.5.
    pub fn forward(&self, chosen: &Tensor, rejected: &Tensor, ref_chosen: &Tensor, ref_rejected: &Tensor) -> Result<Dpo> {
        const OP: &str = "DpoLoss";
        let (beta, eps) = (self.beta, self.label_smoothing);
        if !(beta > 0.0 && beta.is_finite()) {
            return Err(Error::argument(OP, format!("beta {beta}: a positive number is wanted")));
        }
        if !(0.0..0.5).contains(&eps) {
            return Err(Error::argument(OP, format!("label_smoothing {eps}: a probability from 0 to below 0.5 is wanted")));
        }
        let all = [chosen, rejected, ref_chosen, ref_rejected];
        if all.iter().any(|t| t.rank() != 1 || t.shape() != chosen.shape()) {
            let shapes: Vec<&Shape> = all.iter().map(|t| t.shape()).collect();
            return Err(Error::shape(OP, &shapes, "four tensors [N] of log-probabilities, one a pair"));
        }
        let reward = |policy: &Tensor, reference: &Tensor| policy.try_sub(reference.detach())?.try_mul(beta);
        let (c, r) = (reward(chosen, ref_chosen)?, reward(rejected, ref_rejected)?);
        let scaled = c.try_sub(&r)?;
        let right = log_sigmoid(&scaled)?.try_mul(eps - 1.0)?;
        let losses = match (eps > 0.0, self.robust) {
            (false, _) => right,
            (true, false) => right.try_sub(log_sigmoid(&scaled.try_neg()?)?.try_mul(eps)?)?,
            (true, true) => right.try_add(log_sigmoid(&scaled.try_neg()?)?.try_mul(eps)?)?.try_mul(1.0 / (1.0 - 2.0 * eps))?,
        };
        Ok(Dpo { loss: losses.try_mean(())?, chosen_rewards: c.detach(), rejected_rewards: r.detach() })
    }
}

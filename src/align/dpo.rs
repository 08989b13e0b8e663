//! Direct preference optimisation (Rafailov et al., 2023).

use super::sft::{Example, batch, shifted};
use crate::transformers::Tokens;
use crate::{DType, Device, Error, Result, Tensor};

/// The log-probabilities of the labels `[B, T]` by the logits `[B, T, vocabulary]` of the places before them, added up row by row: `[B]`. Ignored labels
/// ([`IGNORED`](super::IGNORED), as every negative one) do not count.
///
/// ```
/// use fornax::align::answer_log_probs;
/// use fornax::{Device, Tensor};
/// let labels = Tensor::from_slice(&[-100i32, 2, 3], [1, 3], Device::cpu())?;
/// let sum = answer_log_probs(&Tensor::zeros([1, 3, 8], Device::cpu()), &labels)?;
/// assert!((sum.to_vec::<f32>()?[0] + 2.0 * 8f32.ln()).abs() < 1e-5);
/// # Ok::<(), fornax::Error>(())
/// ```
///
/// # Errors
/// Shapes that do not belong together.
pub fn answer_log_probs(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let (logits, labels) = shifted("answer_log_probs", logits, labels)?;
    let counted = labels.try_ge(0)?;
    let index = labels.try_clamp(0, i32::MAX)?.try_unsqueeze(-1)?;
    let chosen = logits.try_cast(if logits.dtype() == DType::F64 { DType::F64 } else { DType::F32 })?;
    let log = chosen.try_gather(-1, &index)?.try_squeeze(-1)?.try_sub(chosen.try_logsumexp(-1)?)?;
    counted.try_where(&log, 0.0)?.try_sum(1)
}

/// Pairs of answers to prompts as one batch: the chosen ones are the first half of the rows, the rejected ones the second.
///
/// ```
/// use fornax::align::PreferenceBatch;
/// use fornax::Device;
/// let pairs = PreferenceBatch::new(&[(vec![1, 2], vec![3], vec![4, 5])], 0, Device::cpu())?;
/// assert_eq!(pairs.tokens.ids.to_vec::<i32>()?, [1, 2, 3, 0, 1, 2, 4, 5]);
/// assert_eq!(pairs.labels.to_vec::<i32>()?, [-100, -100, 3, -100, -100, -100, 4, 5]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone)]
pub struct PreferenceBatch {
    /// `[2B, T]`.
    pub tokens: Tokens,
    /// `[2B, T]`, ignored on prompts and padding.
    pub labels: Tensor,
}

impl PreferenceBatch {
    /// Of (prompt, chosen answer, rejected answer).
    ///
    /// # Errors
    /// No tokens, or numbers past the range of an i32.
    pub fn new(pairs: &[(Vec<u32>, Vec<u32>, Vec<u32>)], pad: u32, device: Device) -> Result<PreferenceBatch> {
        let chosen = pairs.iter().map(|(p, c, _)| Example::new(p, c));
        let rejected = pairs.iter().map(|(p, _, r)| Example::new(p, r));
        let (tokens, labels) = batch(&chosen.chain(rejected).collect::<Vec<_>>(), pad, device)?;
        Ok(PreferenceBatch { tokens, labels })
    }
}

/// The function of a [`Dpo`] loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DpoKind {
    /// −log σ(βh), with label smoothing ε −(1−ε) log σ(βh) − ε log σ(−βh).
    #[default]
    Sigmoid,
    /// max(0, 1 − βh) (Zhao et al., 2023).
    Hinge,
    /// (h − 1/2β)² (Azar et al., 2023). Its log-probabilities are means over the tokens of an answer, not sums.
    Ipo,
}

/// The loss of pairs: with h = (log π_c − log π_r) − (log ref_c − log ref_r), the mean of −log σ(βh), or another function of h.
///
/// ```
/// use fornax::align::Dpo;
/// use fornax::{Device, Tensor};
/// let (policy, reference) = (Tensor::from_slice(&[-1.0f32, -3.0], 2, Device::cpu())?, Tensor::from_slice(&[-2.0f32, -2.0], 2, Device::cpu())?);
/// let out = Dpo::default().forward(&policy, &reference)?;
/// assert!((out.loss.item::<f32>()? - (1.0 + (-0.2f32).exp()).ln()).abs() < 1e-6);
/// assert_eq!(out.accuracy.item::<f32>()?, 1.0);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dpo {
    /// How much the policy is held to the reference.
    pub beta: f64,
    /// The probability that a pair is labelled the wrong way round, for [`DpoKind::Sigmoid`].
    pub label_smoothing: f64,
    /// The function.
    pub kind: DpoKind,
}

impl Default for Dpo {
    fn default() -> Self {
        Dpo { beta: 0.1, label_smoothing: 0.0, kind: DpoKind::Sigmoid }
    }
}

/// What a [`Dpo`] gives.
#[derive(Clone)]
pub struct DpoOutput {
    /// The mean loss.
    pub loss: Tensor,
    /// β (log π_c − log ref_c), `[B]`, a constant.
    pub chosen_rewards: Tensor,
    /// β (log π_r − log ref_r), `[B]`, a constant.
    pub rejected_rewards: Tensor,
    /// The part of the pairs whose chosen answer has the larger reward.
    pub accuracy: Tensor,
}

/// −log σ(x) = log(1 + e⁻ˣ), without overflow. (Written with |x| it would have no gradient at 0, which is where every training starts.)
pub(super) fn minus_log_sigmoid(x: &Tensor) -> Result<Tensor> {
    x.try_neg()?.try_softplus(1.0)
}

impl Dpo {
    /// Of log-probabilities `[2B]` by the policy and the reference: chosen answers first, as in a [`PreferenceBatch`].
    ///
    /// # Errors
    /// Shapes that are not `[2B]`; a β that is not above 0, a smoothing outside 0..0.5.
    pub fn forward(&self, policy: &Tensor, reference: &Tensor) -> Result<DpoOutput> {
        let op = "Dpo";
        if !(self.beta > 0.0 && self.beta.is_finite()) || !(0.0..0.5).contains(&self.label_smoothing) {
            let message =
                format!("beta = {}, label_smoothing = {}: a number above 0, and one in 0..0.5 are wanted", self.beta, self.label_smoothing);
            return Err(Error::argument(op, message));
        }
        let n = policy.numel();
        if policy.rank() != 1 || policy.shape() != reference.shape() || n == 0 || n % 2 == 1 {
            let expected = "log-probabilities [2B] by the policy and by the reference, chosen answers first";
            return Err(Error::shape(op, &[policy.shape(), reference.shape()], expected));
        }
        let gain = policy.try_sub(reference.detach())?;
        let (chosen, rejected) = (gain.try_narrow(0, 0, n / 2)?, gain.try_narrow(0, n / 2, n / 2)?);
        let h = chosen.try_sub(&rejected)?;
        let each = match self.kind {
            DpoKind::Sigmoid => {
                let (h, e) = (h.try_mul(self.beta)?, self.label_smoothing);
                let right = minus_log_sigmoid(&h)?;
                match e > 0.0 {
                    true => right.try_mul(1.0 - e)?.try_add(minus_log_sigmoid(&h.try_neg()?)?.try_mul(e)?)?,
                    false => right,
                }
            }
            DpoKind::Hinge => h.try_mul(-self.beta)?.try_add(1.0)?.try_relu()?,
            DpoKind::Ipo => h.try_sub(1.0 / (2.0 * self.beta))?.try_square()?,
        };
        let reward = |t: &Tensor| t.detach().try_mul(self.beta);
        let (chosen_rewards, rejected_rewards) = (reward(&chosen)?, reward(&rejected)?);
        let accuracy = chosen_rewards.try_gt(&rejected_rewards)?.try_cast(DType::F32)?.try_mean(())?;
        Ok(DpoOutput { loss: each.try_mean(())?, chosen_rewards, rejected_rewards, accuracy })
    }
}

//! Texts of which some tokens count, and their losses.

use crate::transformers::{Tokens, integer};
use crate::{CrossEntropy, Device, Error, Reduction, Result, Tensor};

/// The label of a token that does not count; [`CrossEntropy`] passes it over as its `ignore_index`.
pub const IGNORED: i32 = -100;

/// A text to learn from: its tokens, and which of them count.
///
/// ```
/// use fornax::align::Sample;
/// let sample = Sample::new(&[5, 6, 7], &[8, 2]);
/// assert_eq!(sample.ids(), [5, 6, 7, 8, 2]);
/// assert_eq!(sample.labels(), [-100, -100, -100, 8, 2]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    ids: Vec<u32>,
    counts: Vec<bool>,
}

impl Sample {
    /// A prompt, which does not count, and a completion, which does: the token that ends a text belongs to it.
    pub fn new(prompt: &[u32], completion: &[u32]) -> Sample {
        Sample { ids: [prompt, completion].concat(), counts: [vec![false; prompt.len()], vec![true; completion.len()]].concat() }
    }

    /// A text all of which counts.
    pub fn text(ids: &[u32]) -> Sample {
        Sample::new(&[], ids)
    }

    /// A text of which those tokens count for which `counts` is true: what the assistant says in a conversation of several turns.
    ///
    /// ```
    /// use fornax::align::Sample;
    /// let sample = Sample::masked(&[1, 9, 1, 8], &[false, true, false, true])?;
    /// assert_eq!(sample.labels(), [-100, 9, -100, 8]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Lists of different lengths.
    pub fn masked(ids: &[u32], counts: &[bool]) -> Result<Sample> {
        if ids.len() != counts.len() {
            let message = format!("{} tokens and {} truth values: one a token is wanted", ids.len(), counts.len());
            return Err(Error::argument("Sample::masked", message));
        }
        Ok(Sample { ids: ids.to_vec(), counts: counts.to_vec() })
    }

    /// The sample without what stands after so many tokens.
    pub fn truncated(mut self, length: usize) -> Sample {
        self.ids.truncate(length);
        self.counts.truncate(length);
        self
    }

    /// The tokens.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The tokens that count, and [`IGNORED`] in place of the others. (A token past the range of an i32 is [`IGNORED`], too; a batch refuses it.)
    pub fn labels(&self) -> Vec<i32> {
        let label = |(&t, &counts): (&u32, &bool)| if counts { i32::try_from(t).unwrap_or(IGNORED) } else { IGNORED };
        self.ids.iter().zip(&self.counts).map(label).collect()
    }

    /// The number of tokens that are learned: the first of a text follows nothing.
    pub(super) fn learned(&self) -> usize {
        self.counts.iter().skip(1).filter(|c| **c).count()
    }
}

/// Samples as a batch, filled up on the right.
///
/// ```
/// use fornax::align::{Batch, Sample};
/// use fornax::Device;
/// let batch = Batch::new(&[Sample::new(&[5, 6], &[7, 2]), Sample::new(&[5], &[2])], 0, Device::cpu())?;
/// assert_eq!(batch.tokens.ids.to_vec::<i32>()?, [5, 6, 7, 2, 5, 2, 0, 0]);
/// assert_eq!(batch.labels.to_vec::<i32>()?, [-100, -100, 7, 2, -100, 2, -100, -100]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone)]
pub struct Batch {
    /// What the model reads.
    pub tokens: Tokens,
    /// `[B, T]`: the tokens that count, [`IGNORED`] elsewhere.
    pub labels: Tensor,
}

impl Batch {
    /// Fills up with the token `pad`.
    ///
    /// # Errors
    /// No samples, empty ones, or none of which a token is learned: their loss would be NaN.
    pub fn new(samples: &[Sample], pad: u32, device: Device) -> Result<Batch> {
        if samples.iter().all(|s| s.learned() == 0) {
            let message = format!("of {} samples no token counts: was each completion cut off, or is it empty?", samples.len());
            return Err(Error::argument("Batch", message));
        }
        let rows: Vec<Vec<u32>> = samples.iter().map(|s| s.ids.clone()).collect();
        if let Some(i) = rows.iter().position(Vec::is_empty) {
            return Err(Error::argument("Batch", format!("sample {i} has no tokens")));
        }
        let tokens = Tokens::pad(&rows, pad, device)?;
        let width = rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut labels = Vec::with_capacity(rows.len() * width);
        for sample in samples {
            labels.extend(sample.labels());
            labels.resize(labels.len() + width - sample.len(), IGNORED);
        }
        Ok(Batch { tokens, labels: Tensor::from_vec(labels, [rows.len(), width], device)? })
    }
}

/// A token's number, checked.
pub(super) fn checked(token: u32) -> Result<i32> {
    integer(token)
}

/// Logits `[B·T, V]`, and for each the label of the token that follows it: the model's logits of place t are compared with the token of place t + 1.
fn pairs(op: &'static str, logits: &Tensor, labels: &Tensor) -> Result<(Tensor, Tensor)> {
    let (&[b, t, v], &[rows, places]) = (logits.dims(), labels.dims()) else {
        return Err(Error::shape(op, &[logits.shape(), labels.shape()], "logits [B, T, V] and labels [B, T]"));
    };
    if (b, t) != (rows, places) || t == 0 {
        return Err(Error::shape(op, &[logits.shape(), labels.shape()], "logits [B, T, V] and labels [B, T], of at least one place"));
    }
    if !labels.dtype().is_int() {
        return Err(Error::dtype(op, &[logits.dtype(), labels.dtype()], "labels are integers"));
    }
    // The last place has nothing to tell; so the logits need not be cut (and copied).
    let last = Tensor::try_full([b, 1], IGNORED, (labels.dtype(), labels.device()))?;
    let next = Tensor::try_cat(&[&labels.try_narrow(1, 1, t - 1)?, &last], 1)?;
    Ok((logits.try_reshape([b * t, v])?, next.try_reshape(b * t)?))
}

/// The loss of supervised fine-tuning: the mean of `−log p(token of place t + 1 | tokens up to t)` over the tokens whose label is not [`IGNORED`].
///
/// Logits `[B, T, V]`, labels `[B, T]` as a [`Batch`] or a [`Packed`](super::Packed) has them; the label of place t + 1 is compared with the logits of place t. In
/// the labels' dtype -100 must be possible: i32 or i64. Where no token counts the mean is NaN.
///
/// ```
/// use fornax::align::sft_loss;
/// use fornax::{Device, Tensor};
/// let logits = Tensor::zeros([1, 3, 8], Device::cpu());
/// let labels = Tensor::from_slice(&[-100, 5, 2], [1, 3], Device::cpu())?;
/// assert!((sft_loss(&logits, &labels)?.item::<f32>()? - 8f32.ln()).abs() < 1e-6);
/// # Ok::<(), fornax::Error>(())
/// ```
///
/// # Errors
/// Shapes that do not belong together; labels that are no integers. A label outside the vocabulary is an `Error::Index` when the result is read.
pub fn sft_loss(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let (logits, next) = pairs("sft_loss", logits, labels)?;
    logits.try_cross_entropy(&next, &CrossEntropy { ignore_index: IGNORED, ..CrossEntropy::default() })
}

/// The log-probability `[B]` of what counts in each row: `Σ log p(token of place t + 1 | tokens up to t)` over the tokens whose label is not [`IGNORED`], for
/// logits `[B, T, V]` and labels `[B, T]`. In f32 at least.
///
/// ```
/// use fornax::align::sequence_log_probs;
/// use fornax::{Device, Tensor};
/// let logits = Tensor::zeros([2, 3, 8], Device::cpu());
/// let labels = Tensor::from_slice(&[-100, 5, 2, -100, -100, 1], [2, 3], Device::cpu())?;
/// let sums = sequence_log_probs(&logits, &labels)?.to_vec::<f32>()?;
/// assert!((sums[0] + 2.0 * 8f32.ln()).abs() < 1e-5 && (sums[1] + 8f32.ln()).abs() < 1e-5);
/// # Ok::<(), fornax::Error>(())
/// ```
///
/// # Errors
/// As [`sft_loss`].
pub fn sequence_log_probs(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let (flat, next) = pairs("sequence_log_probs", logits, labels)?;
    let options = CrossEntropy { ignore_index: IGNORED, reduction: Reduction::None, ..CrossEntropy::default() };
    let each = flat.try_cast(flat.dtype().compute())?.try_cross_entropy(&next, &options)?;
    each.try_reshape(labels.shape())?.try_sum(1)?.try_neg()
}

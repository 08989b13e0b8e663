//! Supervised fine-tuning: labels, batches, packing.

use crate::transformers::{CausalLm, Tokens};
use crate::{CrossEntropy, DType, Device, Error, Result, Tensor};

/// The label of a place that does not count; [`CrossEntropy`] passes it over as its `ignore_index`.
pub const IGNORED: i32 = -100;

/// A text, and which of its tokens are learned.
///
/// ```
/// use fornax::align::Example;
/// let e = Example::new(&[1, 2, 3], &[4, 5]);
/// assert_eq!(e.labels(), [-100, -100, -100, 4, 5]);
/// assert_eq!(Example::whole(&[1, 2]).labels(), [1, 2]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Which of them are learned.
    pub learned: Vec<bool>,
}

impl Example {
    /// A prompt that is read and an answer that is learned. (The answer should end with the token that ends a text.)
    pub fn new(prompt: &[u32], answer: &[u32]) -> Example {
        let learned = (0..prompt.len() + answer.len()).map(|i| i >= prompt.len()).collect();
        Example { ids: [prompt, answer].concat(), learned }
    }

    /// A text that is learned as a whole.
    pub fn whole(ids: &[u32]) -> Example {
        Example { ids: ids.to_vec(), learned: vec![true; ids.len()] }
    }

    /// A conversation: turns, of which those that are true are learned.
    pub fn turns(turns: &[(&[u32], bool)]) -> Example {
        let ids = turns.iter().flat_map(|(ids, _)| ids.iter().copied()).collect();
        Example { ids, learned: turns.iter().flat_map(|(ids, learned)| ids.iter().map(|_| *learned)).collect() }
    }

    /// The labels: the token itself where it is learned, else [`IGNORED`].
    pub fn labels(&self) -> Vec<i32> {
        let label = |(i, &t): (usize, &u32)| if self.learned.get(i) == Some(&true) { i32::try_from(t).unwrap_or(IGNORED) } else { IGNORED };
        self.ids.iter().enumerate().map(label).collect()
    }

    /// The first tokens, at most so many.
    fn cut(&self, length: usize) -> Example {
        let n = self.ids.len().min(length);
        Example { ids: self.ids[..n].to_vec(), learned: self.learned[..n.min(self.learned.len())].to_vec() }
    }
}

/// A batch, filled up on the right with `pad`, and its labels `[B, T]`.
///
/// # Errors
/// No tokens, or numbers past the range of an i32.
pub fn batch(examples: &[Example], pad: u32, device: Device) -> Result<(Tokens, Tensor)> {
    let tokens = Tokens::pad(&examples.iter().map(|e| e.ids.clone()).collect::<Vec<_>>(), pad, device)?;
    let &[rows, width] = tokens.ids.dims() else {
        return Err(Error::shape("batch", &[tokens.ids.shape()], "ids [B, T]"));
    };
    let mut labels = Vec::with_capacity(rows * width);
    for e in examples {
        labels.extend(e.labels());
        labels.resize(labels.len() + width - e.ids.len(), IGNORED);
    }
    Ok((tokens, Tensor::from_vec(labels, [rows, width], device)?))
}

/// The mean loss of the labels `[B, T]`, each by the logits `[B, T, vocabulary]` of the place before it; [`IGNORED`] ones do not count.
///
/// ```
/// use fornax::align::next_token_loss;
/// use fornax::{Device, Tensor};
/// let logits = Tensor::zeros([1, 3, 8], Device::cpu());
/// let labels = Tensor::from_slice(&[-100i32, -100, 5], [1, 3], Device::cpu())?;
/// assert!((next_token_loss(&logits, &labels)?.item::<f32>()? - 8f32.ln()).abs() < 1e-6);
/// # Ok::<(), fornax::Error>(())
/// ```
///
/// # Errors
/// Shapes that do not belong together; texts of fewer than two tokens.
pub fn next_token_loss(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let (logits, labels) = shifted("next_token_loss", logits, labels)?;
    let (places, vocabulary) = (labels.numel(), logits.dims()[2]);
    logits.try_reshape([places, vocabulary])?.try_cross_entropy(&labels.try_reshape(places)?, &CrossEntropy::default())
}

/// The logits of all places but the last, and the labels of all but the first.
pub(super) fn shifted(op: &'static str, logits: &Tensor, labels: &Tensor) -> Result<(Tensor, Tensor)> {
    match (logits.dims(), labels.dims()) {
        (&[b, t, _], &[rows, width]) if (b, t) == (rows, width) && t > 1 => {
            Ok((logits.try_narrow(1, 0, t - 1)?, labels.try_narrow(1, 1, t - 1)?))
        }
        _ => {
            let expected = "logits [B, T, vocabulary] and labels [B, T], of at least two places";
            Err(Error::shape(op, &[logits.shape(), labels.shape()], expected))
        }
    }
}

/// Texts that share rows: none sees another, and each has its own positions. [`forward`](Packed::forward) runs a model on it.
///
/// ```
/// use fornax::align::{Example, next_token_loss, pack};
/// use fornax::transformers::{CausalLm, Config};
/// use fornax::Device;
/// # let config = Config::parse(r#"{"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2}"#)?;
/// # let model = CausalLm::new(&config, Device::cpu())?;
/// let texts = [Example::new(&[1, 2], &[3]), Example::whole(&[4, 5]), Example::new(&[6], &[7, 8, 9])];
/// let packed = pack(&texts, 5, 0, Device::cpu())?;
/// assert_eq!(packed.ids.dims(), [2, 5]);
/// let loss = next_token_loss(&packed.forward(&model)?, &packed.labels)?;
/// # loss.item::<f32>()?;
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone)]
pub struct Packed {
    /// `[rows, length]`.
    pub ids: Tensor,
    /// The number of the text that a token belongs to, from 1 in each row; 0 on padding.
    pub segments: Tensor,
    /// The place of a token in its text.
    pub positions: Tensor,
    /// Of which a text's first is [`IGNORED`]: what stands before it is another text.
    pub labels: Tensor,
}

impl Packed {
    /// The logits `[rows, length, vocabulary]`.
    ///
    /// # Errors
    /// As [`CausalLm::forward_packed`].
    pub fn forward(&self, model: &CausalLm) -> Result<Tensor> {
        model.forward_packed(&self.ids, &self.segments, &self.positions)
    }
}

/// Packs texts into rows of `length` tokens: the longest first, each into the fullest row that has room (best fit). Longer ones are cut, and the ends of the rows
/// filled up with `pad`.
///
/// # Errors
/// No tokens, a length below 2, or numbers past the range of an i32.
pub fn pack(examples: &[Example], length: usize, pad: u32, device: Device) -> Result<Packed> {
    let mut order: Vec<Example> = examples.iter().map(|e| e.cut(length)).filter(|e| !e.ids.is_empty()).collect();
    if order.is_empty() || length < 2 {
        let message = format!("{} texts into rows of {length} tokens: at least one text, and rows of at least two are wanted", order.len());
        return Err(Error::argument("pack", message));
    }
    // Stable: equal lengths stay in the order given.
    order.sort_by_key(|e| std::cmp::Reverse(e.ids.len()));
    let mut rows: Vec<(usize, Vec<&Example>)> = Vec::new();
    for e in &order {
        let n = e.ids.len();
        let fullest = rows.iter_mut().filter(|r| r.0 + n <= length).max_by_key(|r| r.0);
        match fullest {
            Some(row) => {
                row.0 += n;
                row.1.push(e);
            }
            None => rows.push((n, vec![e])),
        }
    }
    let size = rows.len() * length;
    let [mut ids, mut segments, mut positions, mut labels] = [(); 4].map(|_| Vec::with_capacity(size));
    for (_, texts) in &rows {
        let start = ids.len();
        for (n, e) in texts.iter().enumerate() {
            for (i, (&t, label)) in e.ids.iter().zip(e.labels()).enumerate() {
                let t = i32::try_from(t).map_err(|_| Error::argument("pack", format!("{t} is no token of any vocabulary")))?;
                ids.push(t);
                segments.push(n as i32 + 1);
                positions.push(i as i32);
                labels.push(if i == 0 { IGNORED } else { label });
            }
        }
        let end = start + length;
        ids.resize(end, i32::try_from(pad).unwrap_or(0));
        segments.resize(end, 0);
        positions.resize(end, 0);
        labels.resize(end, IGNORED);
    }
    let tensor = |v: Vec<i32>| Tensor::from_vec(v, [rows.len(), length], device)?.try_cast(DType::I32);
    Ok(Packed { ids: tensor(ids)?, segments: tensor(segments)?, positions: tensor(positions)?, labels: tensor(labels)? })
}

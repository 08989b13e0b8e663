//! Batches for training language models.

use super::{Encoding, Tokenizer};
use crate::data::Rng;
use crate::transformers::{Tokens, integer};
use crate::{Device, Error, Result, Tensor};

pub use crate::align::IGNORED;

/// Batches for causal language models: the labels are the tokens themselves, and [`IGNORED`] on padding. The model's logits of place t are compared
/// with the label of place t + 1.
///
/// ```
/// use fornax::text::{CausalCollator, TokenizerKind, TokenizerTrainer};
/// use fornax::Device;
/// let tokenizer = TokenizerTrainer::new(TokenizerKind::WordPiece, 60).train(&["to be or not to be"])?;
/// let encodings = [tokenizer.encode("to be or not")?, tokenizer.encode("be")?];
/// let (tokens, labels) = CausalCollator::new(&tokenizer).collate(&encodings, Device::cpu())?;
/// assert_eq!(tokens.ids.dims(), [2, 6]);
/// assert_eq!(labels.to_vec::<i32>()?[9..], [-100; 3]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone)]
pub struct CausalCollator {
    tokenizer: Tokenizer,
}

impl CausalCollator {
    /// With the padding of this tokenizer.
    pub fn new(tokenizer: &Tokenizer) -> CausalCollator {
        CausalCollator { tokenizer: tokenizer.clone() }
    }

    /// A batch, and its labels `[B, T]`.
    ///
    /// # Errors
    /// As [`Tokenizer::batch`].
    pub fn collate(&self, encodings: &[Encoding], device: Device) -> Result<(Tokens, Tensor)> {
        let tokens = self.tokenizer.batch(encodings, device)?;
        let width = tokens.ids.dims()[1];
        let mut labels = Vec::with_capacity(encodings.len() * width);
        for e in encodings {
            for i in 0..width {
                labels.push(e.ids.get(i).map_or(Ok(IGNORED), |&t| integer(t))?);
            }
        }
        Ok((tokens, Tensor::from_vec(labels, [encodings.len(), width], device)?))
    }
}

/// Batches for masked language models (Devlin et al., 2018): of the tokens that are not special, some are chosen, and the labels are [`IGNORED`] elsewhere; of the
/// chosen ones 80 % become the mask, 10 % a random token, and 10 % stay.
///
/// ```
/// use fornax::data::Rng;
/// use fornax::text::{MaskedCollator, TokenizerKind, TokenizerTrainer};
/// use fornax::Device;
/// let tokenizer = TokenizerTrainer::new(TokenizerKind::WordPiece, 60).train(&["to be or not to be"])?;
/// let encodings = [tokenizer.encode("to be or not to be")?];
/// let (tokens, labels) = MaskedCollator::new(&tokenizer, 0.5)?.collate(&encodings, &mut Rng::new(1), Device::cpu())?;
/// assert_eq!(labels.dims(), tokens.ids.dims());
/// assert_eq!(labels.to_vec::<i32>()?[0], -100); // [CLS]
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone)]
pub struct MaskedCollator {
    tokenizer: Tokenizer,
    mask: u32,
    probability: f64,
}

impl MaskedCollator {
    /// Chooses tokens with this probability; 0.15 is usual.
    ///
    /// # Errors
    /// A probability outside 0..=1; a tokenizer without a token for masks.
    pub fn new(tokenizer: &Tokenizer, probability: f64) -> Result<MaskedCollator> {
        if !(0.0..=1.0).contains(&probability) {
            return Err(Error::argument("MaskedCollator", format!("a probability of {probability}: one in 0..=1 is wanted")));
        }
        Ok(MaskedCollator { mask: mask_of(tokenizer)?, tokenizer: tokenizer.clone(), probability })
    }

    /// A batch, and its labels `[B, T]`.
    ///
    /// # Errors
    /// As [`Tokenizer::batch`].
    pub fn collate(&self, encodings: &[Encoding], rng: &mut Rng, device: Device) -> Result<(Tokens, Tensor)> {
        let width = encodings.iter().map(|e| e.ids.len()).max().unwrap_or(0);
        let mut labels = Vec::with_capacity(encodings.len() * width);
        let mut changed = encodings.to_vec();
        for e in &mut changed {
            for i in 0..width {
                // What was added has no source.
                let chosen = e.sources.get(i).is_some_and(Option::is_some) && rng.chance(self.probability);
                if !chosen {
                    labels.push(IGNORED);
                    continue;
                }
                labels.push(integer(e.ids[i])?);
                match rng.uniform(0.0, 1.0) {
                    u if u < 0.8 => e.ids[i] = self.mask,
                    u if u < 0.9 => e.ids[i] = rng.below(self.tokenizer.vocabulary()) as u32,
                    _ => {}
                }
            }
        }
        let tokens = self.tokenizer.batch(&changed, device)?;
        Ok((tokens, Tensor::from_vec(labels, [encodings.len(), width], device)?))
    }
}

/// The token that stands for a hidden one.
pub(super) fn mask_of(tokenizer: &Tokenizer) -> Result<u32> {
    let found = ["[MASK]", "<mask>"].iter().find_map(|t| tokenizer.id(t));
    found.ok_or_else(|| Error::argument("mask", "the tokenizer has neither [MASK] nor <mask>: it is no masked language model's"))
}

//! The choice of the next tokens where the model computes: of the logits nothing but the tokens leaves the device.

use crate::{DType, Device, Result, Tensor};

/// What is read in the place of a token where the logits hold NaN.
pub(super) const NAN: i32 = -1;
/// And where no token is left.
pub(super) const NONE: i32 = -2;

/// Of each row a token `[B, 1]` for the next pass, and what the host reads of it: the token, [`NAN`] or [`NONE`].
pub(super) type Chosen = (Tensor, Tensor);

/// The likeliest tokens.
pub(super) fn likeliest(logits: &Tensor) -> Result<Chosen> {
    // Of logits with NaN argmax takes the first one.
    let best = logits.try_argmax(-1)?.try_unsqueeze(-1)?;
    let read = logits.try_gather(-1, &best)?.try_isnan()?.try_where(NAN, &best)?;
    Ok((best, read))
}

/// The first tokens whose probabilities, with those before them, sum to more than `u`, `[B, 1]` of uniform numbers.
pub(super) fn drawn(logits: &Tensor, u: &Tensor) -> Result<Chosen> {
    let places = places(logits)?;
    let p = logits.try_softmax(-1)?;
    let possible = p.try_gt(0.0)?;
    let reached = p.try_cumsum(-1)?.try_gt(u)?.try_logical_and(&possible)?;
    let first = reached.try_where(&places, i32::MAX)?.try_min_keepdim(-1)?;
    // Where rounding leaves the sum below u.
    let last = possible.try_where(&places, NONE)?.try_max_keepdim(-1)?;
    let token = first.try_minimum(&last)?;
    let nan = logits.try_isnan()?.try_any_keepdim(-1)?;
    Ok((token.try_maximum(0)?, nan.try_where(NAN, token)?))
}

/// The numbers of the tokens, `[vocabulary]`.
fn places(logits: &Tensor) -> Result<Tensor> {
    let n = logits.dims().last().copied().unwrap_or(0);
    Tensor::try_arange(0, n as i64, 1, (DType::I32, logits.device()))
}

/// Which tokens of the vocabulary each text holds, `[B, vocabulary]`.
pub(super) struct Seen(pub Tensor);

impl Seen {
    pub fn new<'a>(texts: impl ExactSizeIterator<Item = &'a Vec<u32>>, vocabulary: usize, device: Device) -> Result<Seen> {
        let rows = texts.len();
        let mut seen = vec![false; rows * vocabulary];
        for (i, text) in texts.enumerate() {
            for &t in text.iter().filter(|t| (**t as usize) < vocabulary) {
                seen[i * vocabulary + t as usize] = true;
            }
        }
        Ok(Seen(Tensor::from_vec(seen, [rows, vocabulary], device)?))
    }

    /// With one more token a row, `[B, 1]`.
    pub fn add(&mut self, ids: &Tensor) -> Result<()> {
        self.0 = self.0.try_logical_or(places(&self.0)?.try_eq(ids)?)?;
        Ok(())
    }
}

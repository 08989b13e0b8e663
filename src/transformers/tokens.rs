//! What an encoder reads.

use crate::{DType, Device, Error, Result, Tensor};

/// A batch of texts as numbers: ids `[B, T]`, and where the texts differ in length a mask that is 0 on the padding.
///
/// ```
/// use fornax::transformers::Tokens;
/// use fornax::Device;
/// let batch = Tokens::pad(&[vec![5, 6, 7], vec![8]], 0, Device::cpu())?;
/// assert_eq!(batch.ids.to_vec::<i32>()?, [5, 6, 7, 8, 0, 0]);
/// assert_eq!(batch.mask.unwrap().to_vec::<i32>()?, [1, 1, 1, 1, 0, 0]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone)]
pub struct Tokens {
    /// `[B, T]`, integers.
    pub ids: Tensor,
    /// `[B, T]`, integers or bool: not 0 on tokens, 0 on padding. None where there is no padding.
    pub mask: Option<Tensor>,
    /// `[B, T]`: the number of the segment, for families that have them; 0 if not given.
    pub types: Option<Tensor>,
}

impl From<Tensor> for Tokens {
    fn from(ids: Tensor) -> Self {
        Tokens { ids, mask: None, types: None }
    }
}

impl Tokens {
    /// Rows of different lengths, filled up on the right.
    ///
    /// # Errors
    /// No rows, or numbers past the range of an i32.
    pub fn pad(rows: &[Vec<u32>], pad: u32, device: Device) -> Result<Tokens> {
        let width = rows.iter().map(Vec::len).max().unwrap_or(0);
        if width == 0 {
            return Err(Error::argument("Tokens::pad", "there are no tokens: at least one row of at least one token is wanted"));
        }
        let (mut ids, mut mask) = (Vec::with_capacity(rows.len() * width), Vec::with_capacity(rows.len() * width));
        for row in rows {
            for i in 0..width {
                ids.push(integer(*row.get(i).unwrap_or(&pad))?);
                mask.push(i32::from(i < row.len()));
            }
        }
        let shape = [rows.len(), width];
        let padded = mask.contains(&0);
        let mask = if padded { Some(Tensor::from_vec(mask, shape, device)?) } else { None };
        Ok(Tokens { ids: Tensor::from_vec(ids, shape, device)?, mask, types: None })
    }

    /// Rows, columns, and the mask as truth values `[B, 1, 1, T]`.
    pub(super) fn checked(&self, op: &'static str) -> Result<(usize, usize, Option<Tensor>)> {
        let &[b, t] = self.ids.dims() else {
            return Err(Error::shape(op, &[self.ids.shape()], "ids [B, T]"));
        };
        if !self.ids.dtype().is_int() {
            return Err(Error::dtype(op, &[self.ids.dtype()], "ids are integers"));
        }
        for (what, part) in [("a mask", &self.mask), ("types", &self.types)] {
            if let Some(p) = part.as_ref().filter(|p| p.dims() != [b, t]) {
                return Err(Error::shape(op, &[self.ids.shape(), p.shape()], format!("{what} of the shape of the ids")));
            }
        }
        let mask = self.mask.as_ref().map(|m| if m.dtype() == DType::Bool { Ok(m.clone()) } else { m.try_ne(0) }).transpose()?;
        Ok((b, t, mask.map(|m| m.try_reshape([b, 1, 1, t])).transpose()?))
    }
}

/// A token's number as tensors hold it.
pub(crate) fn integer(token: u32) -> Result<i32> {
    i32::try_from(token).map_err(|_| Error::argument("tokens", format!("{token} is no token of any vocabulary")))
}

/// The longest text of a model against the one at hand.
pub(crate) fn fits(op: &'static str, length: usize, context: usize) -> Result<()> {
    if length > context {
        return Err(Error::argument(
            op,
            format!("{length} tokens, and the model's context holds {context}: shorten the text, or split it"),
        ));
    }
    Ok(())
}

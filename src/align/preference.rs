//! Pairs of answers of which one is preferred.

use super::{Batch, Sample};
use crate::{Device, Error, Result, Tensor};

/// A prompt and two completions, the first of which is preferred.
///
/// ```
/// use fornax::align::Preference;
/// let pair = Preference { prompt: vec![5, 6], chosen: vec![7, 2], rejected: vec![8, 9, 2] };
/// assert_eq!(pair.chosen.len(), 2);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preference {
    /// What both follow.
    pub prompt: Vec<u32>,
    /// The better completion.
    pub chosen: Vec<u32>,
    /// The worse one.
    pub rejected: Vec<u32>,
}

/// N pairs as one batch of 2N rows: the chosen ones first, so that the model reads all of them at once.
///
/// ```
/// use fornax::align::{Preference, PreferenceBatch};
/// use fornax::Device;
/// let pairs = [Preference { prompt: vec![5], chosen: vec![6, 2], rejected: vec![2] }];
/// let batch = PreferenceBatch::new(&pairs, 0, Device::cpu())?;
/// assert_eq!(batch.rows.tokens.ids.to_vec::<i32>()?, [5, 6, 2, 5, 2, 0]);
/// assert_eq!(batch.rows.labels.to_vec::<i32>()?, [-100, 6, 2, -100, 2, -100]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone)]
pub struct PreferenceBatch {
    /// The rows: the labels are those of the completions.
    pub rows: Batch,
    pairs: usize,
}

impl PreferenceBatch {
    /// Fills up with the token `pad`.
    ///
    /// # Errors
    /// No pairs; a completion that is empty, or a prompt: nothing would come before a completion's first token.
    pub fn new(pairs: &[Preference], pad: u32, device: Device) -> Result<PreferenceBatch> {
        for (i, p) in pairs.iter().enumerate() {
            for (what, part) in [("prompt", &p.prompt), ("chosen completion", &p.chosen), ("rejected completion", &p.rejected)] {
                if part.is_empty() {
                    let message = format!("the {what} of pair {i} has no tokens: at least one is wanted (one that begins or ends texts)");
                    return Err(Error::argument("PreferenceBatch", message));
                }
            }
        }
        let chosen = pairs.iter().map(|p| Sample::new(&p.prompt, &p.chosen));
        let samples: Vec<Sample> = chosen.chain(pairs.iter().map(|p| Sample::new(&p.prompt, &p.rejected))).collect();
        Ok(PreferenceBatch { rows: Batch::new(&samples, pad, device)?, pairs: pairs.len() })
    }

    /// The number of pairs.
    pub fn pairs(&self) -> usize {
        self.pairs
    }

    /// What was computed for each row, `[2N, …]`, as that of the chosen and that of the rejected completions.
    ///
    /// # Errors
    /// Another number of rows.
    pub fn split(&self, of_rows: &Tensor) -> Result<(Tensor, Tensor)> {
        let n = self.pairs;
        if of_rows.dims().first() != Some(&(2 * n)) {
            return Err(Error::shape("PreferenceBatch::split", &[of_rows.shape()], format!("{} rows first, two a pair", 2 * n)));
        }
        Ok((of_rows.try_narrow(0, 0, n)?, of_rows.try_narrow(0, n, n)?))
    }
}

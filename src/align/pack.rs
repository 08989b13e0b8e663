//! Several texts in one row.

use super::sample::checked;
use super::{IGNORED, Sample};
use crate::{Device, Error, Result, Tensor};
use std::collections::BTreeMap;

/// Which texts share a row of `length` tokens: the long ones first, each into the fullest row that still has room for it (best-fit decreasing, as TRL packs).
/// Each row is a list of places in `lengths`.
///
/// ```
/// use fornax::align::best_fit;
/// assert_eq!(best_fit(&[2, 5, 3, 6], 8)?, [vec![3, 0], vec![1, 2]]);
/// # Ok::<(), fornax::Error>(())
/// ```
///
/// # Errors
/// A text that is longer than a row.
pub fn best_fit(lengths: &[usize], length: usize) -> Result<Vec<Vec<usize>>> {
    if let Some(i) = lengths.iter().position(|&n| n > length) {
        let message =
            format!("text {i} has {} tokens, and a row has {length}: cut it first (Sample::truncated), or take longer rows", lengths[i]);
        return Err(Error::argument("best_fit", message));
    }
    let mut order: Vec<usize> = (0..lengths.len()).filter(|&i| lengths[i] > 0).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // Rows by the room that they have.
    let mut open: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for i in order {
        let need = lengths[i];
        let found = open.range(need..).next().map(|(&room, _)| room);
        let (row, room) = match found.and_then(|room| Some((open.get_mut(&room)?.pop()?, room))) {
            Some(found) => found,
            None => {
                rows.push(Vec::new());
                (rows.len() - 1, length)
            }
        };
        if open.get(&room).is_some_and(Vec::is_empty) {
            open.remove(&room);
        }
        rows[row].push(i);
        if room > need {
            open.entry(room - need).or_default().push(row);
        }
    }
    Ok(rows)
}

/// Rows that hold several samples each: less is computed on padding, and every batch has one shape. The samples of a row are numbered, so that
/// [`CausalLm::forward_packed`](crate::transformers::CausalLm::forward_packed) keeps their attention and their positions apart: a packed sample has the
/// logits that it has alone.
///
/// ```
/// use fornax::align::{Packed, Sample, sft_loss};
/// use fornax::transformers::{CausalLm, Config};
/// use fornax::Device;
/// let samples = [Sample::new(&[1, 2], &[3]), Sample::new(&[4], &[5, 6]), Sample::text(&[7, 8])];
/// let rows = Packed::new(&samples, 6, 0, Device::cpu())?;
/// assert_eq!(rows.ids.to_vec::<i32>()?, [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0]);
/// assert_eq!(rows.segments.to_vec::<i32>()?, [1, 1, 1, 2, 2, 2, 1, 1, 0, 0, 0, 0]);
/// // The first token of a sample follows nothing.
/// assert_eq!(rows.labels.to_vec::<i32>()?, [-100, -100, 3, -100, 5, 6, -100, 8, -100, -100, -100, -100]);
/// let config = Config::parse(r#"{"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2}"#)?;
/// let model = CausalLm::new(&config, Device::cpu())?;
/// let loss = sft_loss(&model.forward_packed(&rows.ids, &rows.segments)?, &rows.labels)?;
/// assert!(loss.item::<f32>()? > 0.0);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone)]
pub struct Packed {
    /// `[B, T]`.
    pub ids: Tensor,
    /// `[B, T]`: the number of the sample in its row, from 1 on, and 0 on padding.
    pub segments: Tensor,
    /// `[B, T]`: the tokens that count, [`IGNORED`] elsewhere.
    pub labels: Tensor,
}

impl Packed {
    /// Packs samples into rows of `length` tokens by [`best_fit`]; what is left of a row is filled with the token `pad`.
    ///
    /// # Errors
    /// A sample that is longer than a row; samples of which no token is learned.
    pub fn new(samples: &[Sample], length: usize, pad: u32, device: Device) -> Result<Packed> {
        let lengths: Vec<usize> = samples.iter().map(Sample::len).collect();
        let rows = best_fit(&lengths, length)?;
        let rows: Vec<Vec<&Sample>> = rows.iter().map(|row| row.iter().map(|&i| &samples[i]).collect()).collect();
        Packed::of_rows(&rows, length, pad, device)
    }

    /// Rows whose samples were chosen already: a batch of those that [`best_fit`] made of a whole data set.
    ///
    /// # Errors
    /// A row of more than `length` tokens; samples of which no token is learned.
    pub fn of_rows(rows: &[Vec<&Sample>], length: usize, pad: u32, device: Device) -> Result<Packed> {
        if rows.iter().flatten().all(|s| s.learned() == 0) {
            return Err(Error::argument("Packed", "no token counts: was each completion cut off, or is it empty?"));
        }
        let (pad, size) = (checked(pad)?, rows.len() * length);
        let (mut ids, mut segments, mut labels) = (Vec::with_capacity(size), Vec::with_capacity(size), Vec::with_capacity(size));
        for (r, row) in rows.iter().enumerate() {
            let total: usize = row.iter().map(|s| s.len()).sum();
            if total > length {
                return Err(Error::argument("Packed", format!("row {r} has {total} tokens: at most {length} are wanted")));
            }
            for (n, sample) in row.iter().filter(|s| !s.is_empty()).enumerate() {
                for &t in sample.ids() {
                    ids.push(checked(t)?);
                }
                segments.resize(ids.len(), n as i32 + 1);
                labels.push(IGNORED);
                labels.extend(sample.labels().into_iter().skip(1));
            }
            let end = (r + 1) * length;
            ids.resize(end, pad);
            segments.resize(end, 0);
            labels.resize(end, IGNORED);
        }
        let make = |values: Vec<i32>| Tensor::from_vec(values, [rows.len(), length], device);
        Ok(Packed { ids: make(ids)?, segments: make(segments)?, labels: make(labels)? })
    }
}

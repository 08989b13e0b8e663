//! Data sets made of others, and how rows are shared out.

use super::dataset::out_of_range;
use super::loader::key;
use super::{Collate, Dataset, Request, Rng};
use crate::{Error, Result};

/// A data set with a function applied to each item: see [`Dataset::map`].
#[derive(Clone)]
pub struct Map<D, F> {
    pub(super) dataset: D,
    pub(super) f: F,
}

impl<D: Dataset, U, F: Fn(D::Item, &mut Rng) -> Result<U>> Dataset for Map<D, F> {
    type Item = U;
    fn len(&self) -> usize {
        self.dataset.len()
    }
    fn get(&self, row: usize, rng: &mut Rng) -> Result<U> {
        let item = self.dataset.get(row, rng)?;
        (self.f)(item, rng)
    }
}

/// Some rows of a data set: see [`Dataset::subset`].
#[derive(Clone)]
pub struct Subset<D> {
    pub(super) dataset: D,
    pub(super) rows: Vec<usize>,
}

impl<D> Subset<D> {
    /// Which rows of the whole these are.
    ///
    /// ```
    /// use fornax::data::{Dataset, Rows};
    /// let even = Rows::new(vec![1, 2, 3, 4]).filter(|x| x % 2 == 0)?;
    /// assert_eq!(even.rows(), [1, 3]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }

    fn row(&self, row: usize) -> Result<usize> {
        self.rows.get(row).copied().ok_or_else(|| out_of_range("Subset", row, self.rows.len()))
    }
}

impl<D: Dataset> Dataset for Subset<D> {
    type Item = D::Item;
    fn len(&self) -> usize {
        self.rows.len()
    }
    fn get(&self, row: usize, rng: &mut Rng) -> Result<D::Item> {
        self.dataset.get(self.row(row)?, rng)
    }
    fn batch(&self, rows: &[usize], request: &Request) -> Result<<D::Item as Collate>::Batch>
    where
        D::Item: Collate,
    {
        let inner: Vec<usize> = rows.iter().map(|&r| self.row(r)).collect::<Result<_>>()?;
        self.dataset.batch(&inner, request)
    }
}

/// One data set after another: see [`Dataset::concat`].
#[derive(Clone)]
pub struct Concat<A, B> {
    pub(super) first: A,
    pub(super) second: B,
}

impl<A: Dataset, B: Dataset<Item = A::Item>> Dataset for Concat<A, B> {
    type Item = A::Item;
    fn len(&self) -> usize {
        self.first.len() + self.second.len()
    }
    fn get(&self, row: usize, rng: &mut Rng) -> Result<A::Item> {
        match row.checked_sub(self.first.len()) {
            None => self.first.get(row, rng),
            Some(row) => self.second.get(row, rng),
        }
    }
}

/// The rows `0..n` shared out at random: the sizes are the shares of `n`, rounded so that they add up; each part is in ascending order.
///
/// # Errors
/// `Error::Argument` for shares below 0, or that do not add up to 1.
///
/// ```
/// let parts = fornax::data::split_rows(5, &[0.8, 0.2], 1)?;
/// assert_eq!((parts[0].len(), parts[1].len()), (4, 1));
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn split_rows(n: usize, shares: &[f64], seed: u64) -> Result<Vec<Vec<usize>>> {
    stratified_rows(&vec![0; n], shares, seed)
}

/// As [`split_rows`], so that each part has the same mixture of labels, as far as whole rows allow.
///
/// # Errors
/// As [`split_rows`].
///
/// ```
/// let labels = [0, 0, 0, 0, 1, 1];
/// let parts = fornax::data::stratified_rows(&labels, &[0.5, 0.5], 1)?;
/// assert!(parts.iter().all(|p| p.iter().filter(|&&row| labels[row] == 1).count() == 1));
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn stratified_rows(labels: &[i32], shares: &[f64], seed: u64) -> Result<Vec<Vec<usize>>> {
    let sum: f64 = shares.iter().sum();
    if !shares.iter().all(|&s| s >= 0.0) || !((sum - 1.0).abs() < 1e-6) {
        return Err(Error::argument("split", format!("shares {shares:?} add up to {sum}: they must be at least 0 and add up to 1")));
    }
    // Row after row, label after label, to the part that lags most behind its share.
    let mut order: Vec<(i32, u64, usize)> = labels.iter().enumerate().map(|(i, &l)| (l, key(i as u64, u64::MAX, seed), i)).collect();
    order.sort_unstable();
    let mut parts = vec![Vec::new(); shares.len()];
    for (given, (_, _, row)) in order.into_iter().enumerate() {
        let lag = |p: usize| shares[p] * (given + 1) as f64 - parts[p].len() as f64;
        let most = (0..shares.len()).filter(|&p| shares[p] > 0.0).reduce(|a, b| if lag(b) > lag(a) { b } else { a });
        if let Some(part) = most {
            parts[part].push(row);
        }
    }
    parts.iter_mut().for_each(|p| p.sort_unstable());
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_their_shares_of_each_label() -> Result<()> {
        let labels: Vec<i32> = (0..997).map(|i| i32::from(i % 10 == 3) + 2 * i32::from(i % 7 == 0)).collect();
        let shares = [0.7, 0.2, 0.1];
        let parts = stratified_rows(&labels, &shares, 5)?;
        let mut all: Vec<usize> = parts.concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..997));
        for (part, share) in parts.iter().zip(shares) {
            assert!((part.len() as f64 - 997.0 * share).abs() <= 1.0);
            for label in 0..4 {
                let whole = labels.iter().filter(|&&l| l == label).count() as f64;
                let here = part.iter().filter(|&&r| labels[r] == label).count() as f64;
                assert!((here - whole * share).abs() <= 2.0, "label {label}: {here} of {whole}");
            }
        }
        assert_eq!(parts, stratified_rows(&labels, &shares, 5)?);
        assert_ne!(parts, stratified_rows(&labels, &shares, 6)?);
        for wrong in [&[0.5, 0.4][..], &[1.5, -0.5], &[f64::NAN], &[]] {
            assert!(split_rows(4, wrong, 0).is_err());
        }
        Ok(())
    }
}

//! What happens to the logits between the model and the choice of a token.

use crate::{DType, Error, Result, Tensor};

/// A change of the logits of the next token. One that offers [`process_tensor`](LogitsProcessor::process_tensor) is done where the model computes; for any other
/// the logits travel to the host at each token.
///
/// ```
/// use fornax::generate::LogitsProcessor;
/// /// Forbids one token.
/// struct Never(u32);
/// impl LogitsProcessor for Never {
///     fn process(&self, _tokens: &[u32], logits: &mut [f32]) {
///         logits[self.0 as usize] = f32::NEG_INFINITY;
///     }
/// }
/// let mut logits = [1.0, 2.0];
/// Never(1).process(&[0], &mut logits);
/// assert_eq!(logits, [1.0, f32::NEG_INFINITY]);
/// ```
pub trait LogitsProcessor: Send + Sync {
    /// Changes the logits of what follows `tokens` (prompt and continuation, without padding).
    fn process(&self, tokens: &[u32], logits: &mut [f32]);

    /// The same for the logits of all rows, `[B, vocabulary]`; None where that needs the host.
    ///
    /// ```
    /// use fornax::generate::{LogitsProcessor, TopK};
    /// use fornax::{Device, Tensor};
    /// let logits = Tensor::from_slice(&[1.0f32, 3.0, 2.0], [1, 3], Device::cpu())?;
    /// let left = TopK::new(2)?.process_tensor(&logits)?.unwrap();
    /// assert_eq!(left.to_vec::<f32>()?, [f32::NEG_INFINITY, 3.0, 2.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// What its ops can give.
    fn process_tensor(&self, _logits: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

/// Makes tokens that are there already less likely (Keskar et al., 2019): a positive logit is divided by the penalty, a negative one multiplied.
///
/// ```
/// use fornax::generate::{LogitsProcessor, RepetitionPenalty};
/// let mut logits = [2.0, -2.0, 2.0];
/// RepetitionPenalty::new(2.0)?.process(&[0, 1], &mut logits);
/// assert_eq!(logits, [1.0, -4.0, 2.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RepetitionPenalty(f32);

impl RepetitionPenalty {
    /// With this penalty; 1 changes nothing.
    ///
    /// # Errors
    /// A penalty that is not above 0.
    pub fn new(penalty: f64) -> Result<RepetitionPenalty> {
        check("repetition_penalty", penalty, penalty > 0.0, "a number above 0")?;
        Ok(RepetitionPenalty(penalty as f32))
    }

    /// The same for all rows; `seen` says of each token whether it is there already.
    pub(super) fn apply(&self, logits: &Tensor, seen: &Tensor) -> Result<Tensor> {
        let less = logits.try_lt(0.0)?.try_where(logits.try_mul(self.0)?, logits.try_div(self.0)?)?;
        seen.try_where(less, logits)
    }
}

impl LogitsProcessor for RepetitionPenalty {
    fn process(&self, tokens: &[u32], logits: &mut [f32]) {
        let mut seen = std::collections::HashSet::new();
        for &t in tokens {
            if let Some(l) = logits.get_mut(t as usize)
                && seen.insert(t)
            {
                *l = if *l < 0.0 { *l * self.0 } else { *l / self.0 };
            }
        }
    }
}

/// Divides the logits: below 1 likely tokens become likelier, above 1 all become more alike.
///
/// ```
/// use fornax::generate::{LogitsProcessor, Temperature};
/// let mut logits = [1.0, 3.0];
/// Temperature::new(0.5)?.process(&[], &mut logits);
/// assert_eq!(logits, [2.0, 6.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Temperature(f32);

impl Temperature {
    /// With this temperature.
    ///
    /// # Errors
    /// One that is not above 0.
    pub fn new(temperature: f64) -> Result<Temperature> {
        check("temperature", temperature, temperature > 0.0, "a number above 0 (greedy decoding is the limit)")?;
        Ok(Temperature(temperature as f32))
    }
}

impl LogitsProcessor for Temperature {
    fn process(&self, _tokens: &[u32], logits: &mut [f32]) {
        logits.iter_mut().for_each(|l| *l /= self.0);
    }

    fn process_tensor(&self, logits: &Tensor) -> Result<Option<Tensor>> {
        logits.try_div(self.0).map(Some)
    }
}

/// Leaves the k likeliest tokens, and those as likely as the last of them.
///
/// ```
/// use fornax::generate::{LogitsProcessor, TopK};
/// let mut logits = [1.0, 3.0, 2.0];
/// TopK::new(2)?.process(&[], &mut logits);
/// assert_eq!(logits, [f32::NEG_INFINITY, 3.0, 2.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TopK(usize);

impl TopK {
    /// With this k.
    ///
    /// # Errors
    /// 0.
    pub fn new(k: usize) -> Result<TopK> {
        check("top_k", k as f64, k > 0, "at least 1")?;
        Ok(TopK(k))
    }
}

impl LogitsProcessor for TopK {
    fn process(&self, _tokens: &[u32], logits: &mut [f32]) {
        if self.0 >= logits.len() {
            return;
        }
        let mut sorted = logits.to_vec();
        let (_, least, _) = sorted.select_nth_unstable_by(self.0 - 1, |a, b| b.total_cmp(a));
        let least = *least;
        logits.iter_mut().filter(|l| **l < least).for_each(|l| *l = f32::NEG_INFINITY);
    }

    fn process_tensor(&self, logits: &Tensor) -> Result<Option<Tensor>> {
        if self.0 >= logits.dims().last().copied().unwrap_or(0) {
            return Ok(Some(logits.clone()));
        }
        let least = logits.try_topk(self.0, -1, true)?.0.try_narrow(-1, self.0 - 1, 1)?;
        without(logits, &logits.try_lt(&least)?)
    }
}

/// Leaves the likeliest tokens whose probabilities together reach p: the nucleus (Holtzman et al., 2019).
///
/// ```
/// use fornax::generate::{LogitsProcessor, TopP};
/// let mut logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
/// TopP::new(0.7)?.process(&[], &mut logits);
/// assert!(logits[1].is_finite() && logits[2] == f32::NEG_INFINITY);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TopP(f64);

impl TopP {
    /// With this p.
    ///
    /// # Errors
    /// One outside 0..=1.
    pub fn new(p: f64) -> Result<TopP> {
        check("top_p", p, (0.0..=1.0).contains(&p), "a probability in 0..=1")?;
        Ok(TopP(p))
    }
}

impl LogitsProcessor for TopP {
    fn process(&self, _tokens: &[u32], logits: &mut [f32]) {
        let probabilities = softmax(logits);
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let mut before = 0.0;
        for (rank, &i) in order.iter().enumerate() {
            if rank > 0 && before >= self.0 {
                logits[i] = f32::NEG_INFINITY;
            }
            before += probabilities[i];
        }
    }

    fn process_tensor(&self, logits: &Tensor) -> Result<Option<Tensor>> {
        let n = logits.dims().last().copied().unwrap_or(0);
        let (sorted, places) = logits.try_sort(-1, true)?;
        let p = sorted.try_softmax(-1)?;
        let before = p.try_cumsum(-1)?.try_sub(&p)?;
        let rank = Tensor::try_arange(0, n as i64, 1, (DType::I32, logits.device()))?;
        let left = before.try_lt(self.0)?.try_logical_or(rank.try_eq(0)?)?.try_where(&sorted, f32::NEG_INFINITY)?;
        logits.try_scatter(-1, &places, &left).map(Some)
    }
}

/// Leaves the tokens whose probability is at least p times that of the likeliest (Nguyen et al., 2024).
///
/// ```
/// use fornax::generate::{LogitsProcessor, MinP};
/// let mut logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
/// MinP::new(0.5)?.process(&[], &mut logits);
/// assert!(logits[1].is_finite() && logits[2] == f32::NEG_INFINITY);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MinP(f64);

impl MinP {
    /// With this p.
    ///
    /// # Errors
    /// One outside 0..=1.
    pub fn new(p: f64) -> Result<MinP> {
        check("min_p", p, (0.0..=1.0).contains(&p), "a probability in 0..=1")?;
        Ok(MinP(p))
    }
}

impl LogitsProcessor for MinP {
    fn process(&self, _tokens: &[u32], logits: &mut [f32]) {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // p / p_max = exp(l - l_max).
        let least = largest as f64 + self.0.ln();
        logits.iter_mut().filter(|l| (**l as f64) < least).for_each(|l| *l = f32::NEG_INFINITY);
    }

    fn process_tensor(&self, logits: &Tensor) -> Result<Option<Tensor>> {
        let least = logits.try_max_keepdim(-1)?.try_add(self.0.ln())?;
        without(logits, &logits.try_lt(&least)?)
    }
}

/// The logits, with those that go at -∞.
fn without(logits: &Tensor, gone: &Tensor) -> Result<Option<Tensor>> {
    logits.try_masked_fill(gone, f32::NEG_INFINITY).map(Some)
}

fn check(what: &str, value: f64, right: bool, expected: &str) -> Result<()> {
    match right {
        true => Ok(()),
        false => Err(Error::argument("generate", format!("{what} is {value}: {expected} is wanted"))),
    }
}

/// Probabilities, which sum to 1 unless every logit is -∞.
pub(super) fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let mut p: Vec<f64> = logits.iter().map(|&l| (l as f64 - largest).exp()).collect();
    let sum: f64 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= sum);
    p
}

/// The logarithms of the probabilities.
pub(super) fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| ((l - largest) as f64).exp()).sum();
    let log = sum.ln() as f32;
    logits.iter().map(|&l| l - largest - log).collect()
}

/// The first of the largest logits.
pub(super) fn largest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, &l) in logits.iter().enumerate() {
        if l > logits[best] {
            best = i;
        }
    }
    best as u32
}

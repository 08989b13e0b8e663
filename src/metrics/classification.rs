//! Metrics of classes.

use super::{Metric, foreign, no_rows, quotient};
use crate::{Error, Result, Tensor};

/// The predicted class of each row, and the right one: of scores `[N, classes]` the largest is taken, integers `[N]` are classes themselves.
fn classes(op: &'static str, prediction: &Tensor, target: &Tensor) -> Result<Vec<(i32, i32)>> {
    let rows = target.dims();
    let predicted = match prediction.dims() {
        [_, 1] if prediction.dtype().is_float() => {
            let message = "one score a row has no largest one: make classes of it first, of logits by `logits.squeeze(-1).gt(0.0).cast(DType::I32)`, of \
                           probabilities by `.gt(0.5)`";
            return Err(Error::shape(op, &[prediction.shape(), target.shape()], message));
        }
        [_, classes] if prediction.dtype().is_float() && rows == &prediction.dims()[..1] && *classes > 0 => {
            let scores = prediction.to_vec::<f64>()?;
            if let Some(row) = scores.iter().position(|s| s.is_nan()).map(|i| i / classes) {
                return Err(Error::argument(op, format!("a score of row {row} is NaN: there is no largest one")));
            }
            let largest = |row: &[f64]| (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as i32;
            scores.chunks_exact(*classes).map(largest).collect()
        }
        dims if !prediction.dtype().is_float() && dims == rows && dims.len() == 1 => prediction.to_vec::<i32>()?,
        _ => {
            let expected =
                format!("scores [N, classes] of a float dtype, or classes [N] of an integer dtype (it is {})", prediction.dtype());
            return Err(Error::shape(op, &[prediction.shape(), target.shape()], format!("{expected}, and targets [N]")));
        }
    };
    Ok(predicted.into_iter().zip(whole(op, target)?).collect())
}

/// The right classes; floats must be whole.
fn whole(op: &'static str, target: &Tensor) -> Result<Vec<i32>> {
    if target.dtype().is_float()
        && let Some(v) = target.to_vec::<f64>()?.into_iter().find(|v| v.fract() != 0.0)
    {
        return Err(Error::argument(op, format!("a target is {}: a class is a whole number", v as f32)));
    }
    target.to_vec::<i32>()
}

/// The share of rows whose class is right.
///
/// ```
/// use fornax::metrics::{Accuracy, Metric};
/// use fornax::{Device, Tensor};
/// let mut accuracy = Accuracy::new();
/// let classes = Tensor::from_vec(vec![1i32, 2, 3], 3, Device::cpu())?;
/// accuracy.update(&classes, &Tensor::from_vec(vec![1i32, 2, 0], 3, Device::cpu())?)?;
/// assert_eq!(accuracy.compute()?, 2.0 / 3.0);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Accuracy {
    right: usize,
    rows: usize,
}

impl Accuracy {
    /// Of no rows yet.
    pub fn new() -> Accuracy {
        Accuracy::default()
    }
}

impl Metric for Accuracy {
    fn name(&self) -> &'static str {
        "accuracy"
    }

    fn update(&mut self, prediction: &Tensor, target: &Tensor) -> Result<()> {
        let pairs = classes("accuracy", prediction, target)?;
        self.rows += pairs.len();
        self.right += pairs.iter().filter(|(p, t)| p == t).count();
        Ok(())
    }

    fn compute(&self) -> Result<f64> {
        if self.rows == 0 { Err(no_rows("accuracy")) } else { Ok(self.right as f64 / self.rows as f64) }
    }

    fn reset(&mut self) {
        *self = Accuracy::new();
    }

    fn state(&self) -> Vec<f64> {
        vec![self.right as f64, self.rows as f64]
    }

    fn set_state(&mut self, state: &[f64]) -> Result<()> {
        let &[right, rows] = state else { return Err(foreign("accuracy", state)) };
        (self.right, self.rows) = (right as usize, rows as usize);
        Ok(())
    }
}

/// The share of rows whose class is among the `k` with the largest scores; of equal scores, that of the larger class counts as larger. A score that
/// is NaN is an error.
///
/// ```
/// use fornax::metrics::{Metric, TopK};
/// use fornax::{Device, Tensor};
/// let mut top = TopK::new(2);
/// let scores = Tensor::from_vec(vec![0.1f32, 0.5, 0.4, 0.7, 0.2, 0.1], [2, 3], Device::cpu())?;
/// top.update(&scores, &Tensor::from_vec(vec![2i32, 2], 2, Device::cpu())?)?;
/// assert_eq!(top.compute()?, 0.5);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TopK {
    k: usize,
    right: usize,
    rows: usize,
}

impl TopK {
    /// Of the `k` largest.
    pub fn new(k: usize) -> TopK {
        TopK { k, right: 0, rows: 0 }
    }
}

impl Metric for TopK {
    fn name(&self) -> &'static str {
        "top_k"
    }

    fn update(&mut self, prediction: &Tensor, target: &Tensor) -> Result<()> {
        let &[rows, classes] = prediction.dims() else {
            return Err(Error::shape("top_k", &[prediction.shape(), target.shape()], "scores [N, classes] and targets [N]"));
        };
        if target.dims() != [rows] {
            return Err(Error::shape("top_k", &[prediction.shape(), target.shape()], "scores [N, classes] and targets [N]"));
        }
        let (scores, targets) = (prediction.to_vec::<f64>()?, whole("top_k", target)?);
        if let Some(at) = scores.iter().position(|s| s.is_nan()) {
            let (row, class) = (at / classes, at % classes);
            return Err(Error::argument("top_k", format!("the score of row {row}, class {class} is NaN: it has no rank")));
        }
        let mut right = 0;
        for (i, &t) in targets.iter().enumerate() {
            let row = &scores[i * classes..(i + 1) * classes];
            let t = usize::try_from(t).ok().filter(|&t| t < classes).ok_or_else(|| out_of_range("top_k", t, classes))?;
            let before = (0..classes).filter(|&c| row[c] > row[t] || row[c] == row[t] && c > t).count();
            right += usize::from(before < self.k);
        }
        self.right += right;
        self.rows += rows;
        Ok(())
    }

    fn compute(&self) -> Result<f64> {
        if self.rows == 0 { Err(no_rows("top_k")) } else { Ok(self.right as f64 / self.rows as f64) }
    }

    fn reset(&mut self) {
        *self = TopK::new(self.k);
    }

    fn state(&self) -> Vec<f64> {
        vec![self.right as f64, self.rows as f64]
    }

    fn set_state(&mut self, state: &[f64]) -> Result<()> {
        let &[right, rows] = state else { return Err(foreign("top_k", state)) };
        (self.right, self.rows) = (right as usize, rows as usize);
        Ok(())
    }
}

fn out_of_range(op: &'static str, class: i32, classes: usize) -> Error {
    Error::Index { op, message: format!("class {class} is out of range: there are {classes}") }
}

/// How the numbers of the classes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Average {
    /// Their mean. Classes that were neither predicted nor right are left out.
    #[default]
    Macro,
    /// That of all decisions together.
    Micro,
    /// Their mean, weighted by how often each was right.
    Weighted,
    /// That of one class: 1 in a task of two.
    Class(usize),
}

/// How often each class was predicted as which: the counts from which precision, recall and F1 come.
///
/// ```
/// use fornax::metrics::{Average, ConfusionMatrix};
/// use fornax::{Device, Tensor};
/// let mut matrix = ConfusionMatrix::new(2);
/// let classes = |c: &[i32]| Tensor::from_slice(c, c.len(), Device::cpu());
/// matrix.update(&classes(&[0, 1, 1, 1])?, &classes(&[0, 0, 1, 1])?)?;
/// assert_eq!(matrix.counts(), [1, 1, 0, 2]); // a row for each right class, a column for each predicted one
/// assert_eq!(matrix.recall(Average::Macro)?, 0.75);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ConfusionMatrix {
    classes: usize,
    counts: Vec<u64>,
}

/// What a class got: predicted and right, predicted, right.
type Hits = (f64, f64, f64);

/// The most cells of a table.
const MOST: usize = 1 << 30;

impl ConfusionMatrix {
    /// Of so many classes, at most 32,768, and no rows yet.
    pub fn new(classes: usize) -> ConfusionMatrix {
        let cells = classes.checked_mul(classes).filter(|&n| n <= MOST);
        ConfusionMatrix { classes, counts: vec![0; cells.unwrap_or(0)] }
    }

    /// Takes in a batch: scores `[N, classes]` or classes `[N]`, and the right classes `[N]`.
    ///
    /// # Errors
    /// Other shapes; `Error::Index` for a class out of range; what reading the tensors can give.
    pub fn update(&mut self, prediction: &Tensor, target: &Tensor) -> Result<()> {
        if self.counts.len() / self.classes.max(1) != self.classes {
            return Err(Error::argument("confusion_matrix", format!("{} classes: a table of at most 32768 is made", self.classes)));
        }
        let pairs = classes("confusion_matrix", prediction, target)?;
        let wrong = pairs.iter().flat_map(|p| [p.0, p.1]).find(|&c| usize::try_from(c).map_or(true, |c| c >= self.classes));
        if let Some(class) = wrong {
            return Err(out_of_range("confusion_matrix", class, self.classes));
        }
        pairs.iter().for_each(|&(p, t)| self.counts[t as usize * self.classes + p as usize] += 1);
        Ok(())
    }

    /// The counts, row by row: row `t`, column `p` has the rows of class `t` that were taken for `p`.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Forgets all rows.
    pub fn reset(&mut self) {
        self.counts.fill(0);
    }

    fn hits(&self) -> Vec<Hits> {
        // A table that was too large to be made has no rows.
        let n = if self.counts.is_empty() { 0 } else { self.classes };
        let sum = |indices: &mut dyn Iterator<Item = usize>| indices.map(|i| self.counts[i] as f64).sum();
        let class = |c: usize| (self.counts[c * n + c] as f64, sum(&mut (0..n).map(|t| t * n + c)), sum(&mut (0..n).map(|p| c * n + p)));
        (0..n).map(class).collect()
    }

    fn average(&self, average: Average, of: fn(Hits) -> f64) -> Result<f64> {
        let hits = self.hits();
        let total = hits.iter().map(|h| h.2).sum::<f64>();
        if total == 0.0 {
            return Err(no_rows("confusion_matrix"));
        }
        Ok(match average {
            Average::Macro => {
                let there: Vec<f64> = hits.into_iter().filter(|h| h.1 + h.2 > 0.0).map(of).collect();
                there.iter().sum::<f64>() / there.len() as f64
            }
            Average::Micro => of((hits.iter().map(|h| h.0).sum(), total, total)),
            Average::Weighted => hits.into_iter().map(|h| of(h) * h.2).sum::<f64>() / total,
            Average::Class(class) => {
                let message = format!("class {class} is out of range: there are {}", self.classes);
                of(*hits.get(class).ok_or(Error::Index { op: "confusion_matrix", message })?)
            }
        })
    }

    /// The share of rows whose class is right.
    ///
    /// # Errors
    /// Where there are no rows.
    ///
    /// ```
    /// use fornax::metrics::ConfusionMatrix;
    /// use fornax::{Device, Tensor};
    /// let mut matrix = ConfusionMatrix::new(2);
    /// let classes = |c: &[i32]| Tensor::from_slice(c, c.len(), Device::cpu());
    /// matrix.update(&classes(&[0, 1, 1, 1])?, &classes(&[0, 0, 1, 1])?)?;
    /// assert_eq!(matrix.accuracy()?, 0.75);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn accuracy(&self) -> Result<f64> {
        self.recall(Average::Micro)
    }

    /// Of the rows taken for a class, the share that is of it.
    ///
    /// # Errors
    /// Where there are no rows; `Error::Index` for an [`Average::Class`] that is not there.
    ///
    /// ```
    /// use fornax::metrics::{Average, ConfusionMatrix};
    /// use fornax::{Device, Tensor};
    /// let mut matrix = ConfusionMatrix::new(2);
    /// let classes = |c: &[i32]| Tensor::from_slice(c, c.len(), Device::cpu());
    /// matrix.update(&classes(&[0, 1, 1, 1])?, &classes(&[0, 0, 1, 1])?)?;
    /// assert_eq!(matrix.precision(Average::Class(1))?, 2.0 / 3.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn precision(&self, average: Average) -> Result<f64> {
        self.average(average, precision)
    }

    /// Of the rows of a class, the share that was taken for it.
    ///
    /// # Errors
    /// As [`precision`](ConfusionMatrix::precision).
    ///
    /// ```
    /// use fornax::metrics::{Average, ConfusionMatrix};
    /// use fornax::{Device, Tensor};
    /// let mut matrix = ConfusionMatrix::new(2);
    /// let classes = |c: &[i32]| Tensor::from_slice(c, c.len(), Device::cpu());
    /// matrix.update(&classes(&[0, 1, 1, 1])?, &classes(&[0, 0, 1, 1])?)?;
    /// assert_eq!(matrix.recall(Average::Macro)?, 0.75);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn recall(&self, average: Average) -> Result<f64> {
        self.average(average, recall)
    }

    /// The harmonic mean of precision and recall.
    ///
    /// # Errors
    /// As [`precision`](ConfusionMatrix::precision).
    ///
    /// ```
    /// use fornax::metrics::{Average, ConfusionMatrix};
    /// use fornax::{Device, Tensor};
    /// let mut matrix = ConfusionMatrix::new(2);
    /// let classes = |c: &[i32]| Tensor::from_slice(c, c.len(), Device::cpu());
    /// matrix.update(&classes(&[0, 1, 1, 1])?, &classes(&[0, 0, 1, 1])?)?;
    /// assert_eq!(matrix.f1(Average::Class(1))?, 0.8);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn f1(&self, average: Average) -> Result<f64> {
        self.average(average, f1)
    }

    /// Precision, recall, F1 and number of rows of each class.
    ///
    /// ```
    /// use fornax::metrics::ConfusionMatrix;
    /// use fornax::{Device, Tensor};
    /// let mut matrix = ConfusionMatrix::new(2);
    /// let classes = |c: &[i32]| Tensor::from_slice(c, c.len(), Device::cpu());
    /// matrix.update(&classes(&[0, 1, 1, 1])?, &classes(&[0, 0, 1, 1])?)?;
    /// assert_eq!(matrix.per_class()[0], (1.0, 0.5, 2.0 / 3.0, 2));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn per_class(&self) -> Vec<(f64, f64, f64, u64)> {
        self.hits().into_iter().map(|h| (precision(h), recall(h), f1(h), h.2 as u64)).collect()
    }
}

fn precision(h: Hits) -> f64 {
    quotient(h.0, h.1)
}

fn recall(h: Hits) -> f64 {
    quotient(h.0, h.2)
}

fn f1(h: Hits) -> f64 {
    quotient(2.0 * h.0, h.1 + h.2)
}

macro_rules! averaged {
    ($($(#[$doc:meta])* $name:ident $text:literal $method:ident;)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name {
            matrix: ConfusionMatrix,
            average: Average,
        }

        impl $name {
            /// Of so many classes, made one number by `average`.
            pub fn new(classes: usize, average: Average) -> $name {
                $name { matrix: ConfusionMatrix::new(classes), average }
            }
        }

        impl Metric for $name {
            fn name(&self) -> &'static str {
                $text
            }
            fn update(&mut self, prediction: &Tensor, target: &Tensor) -> Result<()> {
                self.matrix.update(prediction, target)
            }
            fn compute(&self) -> Result<f64> {
                self.matrix.$method(self.average)
            }
            fn reset(&mut self) {
                self.matrix.reset();
            }
            fn state(&self) -> Vec<f64> {
                self.matrix.counts.iter().map(|&n| n as f64).collect()
            }
            fn set_state(&mut self, state: &[f64]) -> Result<()> {
                if state.len() != self.matrix.counts.len() {
                    return Err(foreign($text, state));
                }
                self.matrix.counts = state.iter().map(|&n| n as u64).collect();
                Ok(())
            }
        }
    )* };
}
averaged! {
    /// [`ConfusionMatrix::precision`] as a metric.
    Precision "precision" precision;
    /// [`ConfusionMatrix::recall`] as a metric.
    Recall "recall" recall;
    /// [`ConfusionMatrix::f1`] as a metric.
    F1 "f1" f1;
}

//! Named numbers: what a step or an epoch gave, running means, and the whole run's history.

use super::checkpoint::{json_number, number_from};
use crate::data::Json;

/// Named numbers in the order in which they were set.
///
/// ```
/// let mut logs = fornax::train::Logs::new();
/// logs.set("loss", 0.25);
/// logs.set("accuracy", 0.5);
/// logs.set("loss", 0.125);
/// assert_eq!(logs.get("loss"), Some(0.125));
/// assert_eq!(logs.to_string(), "loss 0.1250  accuracy 0.5000");
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logs(Vec<(String, f64)>);

impl Logs {
    /// No numbers.
    pub fn new() -> Logs {
        Logs::default()
    }

    /// Sets a number.
    pub fn set(&mut self, name: &str, value: f64) {
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some(entry) => entry.1 = value,
            None => self.0.push((name.to_string(), value)),
        }
    }

    /// A number.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(n, _)| n == name).map(|&(_, v)| v)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(n, v)| (n.as_str(), *v))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names, for messages.
    pub(super) fn names(&self) -> String {
        if self.0.is_empty() { "none".into() } else { self.0.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ") }
    }

    pub(super) fn to_json(&self) -> Json {
        // A list, for a JSON object has no order.
        self.0.iter().map(|(n, v)| Json::from(vec![Json::from(n.as_str()), json_number(*v)])).collect::<Vec<_>>().into()
    }

    pub(super) fn from_json(json: &Json) -> Option<Logs> {
        let entry = |pair: &Json| Some((pair.get(0)?.as_str()?.to_string(), number_from(pair.get(1)?)?));
        json.as_array()?.iter().map(entry).collect::<Option<Vec<_>>>().map(Logs)
    }
}

impl<'a> FromIterator<(&'a str, f64)> for Logs {
    fn from_iter<I: IntoIterator<Item = (&'a str, f64)>>(items: I) -> Logs {
        let mut logs = Logs::new();
        items.into_iter().for_each(|(name, value)| logs.set(name, value));
        logs
    }
}

/// Small and large numbers with their exponent, the others with four digits.
impl std::fmt::Display for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, (name, v)) in self.0.iter().enumerate() {
            let space = if i > 0 { "  " } else { "" };
            if *v != 0.0 && (v.abs() < 1e-3 || v.abs() >= 1e5) && v.is_finite() {
                write!(f, "{space}{name} {v:.2e}")?;
            } else {
                write!(f, "{space}{name} {v:.4}")?;
            }
        }
        Ok(())
    }
}

/// A running mean, summed in f64.
///
/// ```
/// let mut loss = fornax::train::Mean::new();
/// loss.update(1.0, 32.0); // a batch of 32 rows
/// loss.update(4.0, 16.0);
/// assert_eq!(loss.value(), Some(2.0));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    sum: f64,
    weight: f64,
}

impl Mean {
    /// The mean of nothing.
    pub fn new() -> Mean {
        Mean::default()
    }

    /// Takes in a value that stands for so many.
    pub fn update(&mut self, value: f64, weight: f64) {
        self.sum += value * weight;
        self.weight += weight;
    }

    /// The mean, once there is something to take it of.
    pub fn value(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }

    pub(super) fn to_json(self) -> Json {
        Json::from(vec![json_number(self.sum), json_number(self.weight)])
    }

    pub(super) fn from_json(json: &Json) -> Option<Mean> {
        Some(Mean { sum: number_from(json.get(0)?)?, weight: number_from(json.get(1)?)? })
    }
}

/// The numbers of each epoch.
///
/// ```
/// use fornax::train::{History, Logs};
/// let mut history = History::new();
/// history.push(1, Logs::from_iter([("loss", 0.5), ("val_loss", 0.75)]));
/// history.push(2, Logs::from_iter([("loss", 0.25)]));
/// assert_eq!(history.series("loss"), [(1.0, 0.5), (2.0, 0.25)]);
/// assert_eq!(history.names(), ["loss", "val_loss"]);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History(Vec<(u64, Logs)>);

impl History {
    /// An empty one.
    pub fn new() -> History {
        History::default()
    }

    /// Adds the numbers of an epoch; epochs are counted from 1 here.
    pub fn push(&mut self, epoch: u64, logs: Logs) {
        self.0.push((epoch, logs));
    }

    /// The epochs with their numbers.
    pub fn epochs(&self) -> &[(u64, Logs)] {
        &self.0
    }

    /// One number by epoch.
    pub fn series(&self, name: &str) -> Vec<(f64, f64)> {
        self.0.iter().filter_map(|(epoch, logs)| logs.get(name).map(|v| (*epoch as f64, v))).collect()
    }

    /// The names of all numbers, in the order in which they came.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for name in self.0.iter().flat_map(|(_, logs)| logs.iter().map(|(n, _)| n)) {
            if !names.iter().any(|n| n == name) {
                names.push(name.to_string());
            }
        }
        names
    }

    pub(super) fn to_json(&self) -> Json {
        self.0.iter().map(|(epoch, logs)| Json::from(vec![Json::from(*epoch), logs.to_json()])).collect::<Vec<_>>().into()
    }

    pub(super) fn from_json(json: &Json) -> Option<History> {
        let entry = |pair: &Json| Some((pair.get(0)?.as_u64()?, Logs::from_json(pair.get(1)?)?));
        json.as_array()?.iter().map(entry).collect::<Option<Vec<_>>>().map(History)
    }
}

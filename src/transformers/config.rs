//! `config.json`, read with suspicion.

use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// The description of a model as Hugging Face's `config.json` has it: a JSON object whose numbers are checked when they are asked for, so that a
/// hostile or broken file is an error before anything is allocated.
///
/// ```
/// use fornax::transformers::Config;
/// let config = Config::parse(r#"{"model_type": "llama", "hidden_size": 16, "rms_norm_eps": 1e-6}"#)?;
/// assert_eq!(config.model_type()?, "llama");
/// assert_eq!(config.size("hidden_size", None, 1 << 17)?, 16);
/// assert!(config.size("vocab_size", None, 1 << 24).unwrap_err().to_string().contains("vocab_size is missing"));
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    path: String,
    json: Map<String, Value>,
}

/// The most layers of a model.
pub(super) const LAYERS: usize = 1024;
/// The widest vectors.
pub(super) const WIDTH: usize = 1 << 17;
/// The largest vocabulary.
pub(super) const VOCABULARY: usize = 1 << 24;
/// The longest context.
pub(super) const CONTEXT: usize = 1 << 26;

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// `Error::Io` where it cannot be read; `Error::Format` where it is no JSON object.
    pub fn read(path: impl AsRef<Path>) -> Result<Config> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        Config::parse_as(&path.display().to_string(), &text)
    }

    /// Reads a text.
    ///
    /// # Errors
    /// `Error::Format` where it is no JSON object.
    pub fn parse(text: &str) -> Result<Config> {
        Config::parse_as("config.json", text)
    }

    fn parse_as(path: &str, text: &str) -> Result<Config> {
        match serde_json::from_str(text) {
            Ok(Value::Object(json)) => Ok(Config { path: path.to_string(), json }),
            Ok(_) => Err(Error::format(path, "a JSON object is wanted")),
            Err(e) => Err(Error::format(path, format!("line {}, column {}: {e}", e.line(), e.column()))),
        }
    }

    /// An error about this file.
    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::format(&self.path, message)
    }

    /// The family: `bert`, `llama`, ….
    ///
    /// # Errors
    /// Where the file does not say.
    pub fn model_type(&self) -> Result<&str> {
        let has = "`model_type` is missing: it names the model's family, \"bert\" or \"llama\" for instance";
        self.json.get("model_type").and_then(Value::as_str).ok_or_else(|| self.error(has))
    }

    /// Whether a key is there, be it null: some keys have a default that null is not.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.json.contains_key(key)
    }

    /// What a key holds, unless that is null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    /// The object under a key, as a config of its own.
    ///
    /// # Errors
    /// Something else under the key.
    pub fn object(&self, key: &str) -> Result<Option<Config>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(json)) => Ok(Some(Config { path: format!("{}: {key}", self.path), json: json.clone() })),
            Some(v) => Err(self.error(format!("{key} is {v}: an object is wanted"))),
        }
    }

    /// A size from 1 to `max`; `default` where the key is missing.
    ///
    /// # Errors
    /// Something else; a missing key without a default.
    pub fn size(&self, key: &str, default: impl Into<Option<usize>>, max: usize) -> Result<usize> {
        let Some(v) = self.get(key) else {
            return default.into().ok_or_else(|| self.error(format!("{key} is missing: a whole number from 1 to {max} is wanted")));
        };
        match v.as_u64() {
            Some(n) if n >= 1 && n <= max as u64 => Ok(n as usize),
            _ => Err(self.error(format!("{key} is {v}: a whole number from 1 to {max} is wanted"))),
        }
    }

    /// The size under the first of several names that is there: families have names of their own.
    ///
    /// # Errors
    /// As [`size`](Config::size).
    pub fn size_of(&self, keys: &[&str], default: impl Into<Option<usize>>, max: usize) -> Result<usize> {
        let found = keys.iter().find(|k| self.get(k).is_some()).or(keys.first());
        self.size(found.copied().unwrap_or_default(), default, max)
    }

    /// A finite number; `default` where the key is missing.
    ///
    /// # Errors
    /// Something else.
    pub fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_f64().filter(|v| v.is_finite()).ok_or_else(|| self.error(format!("{key} is {v}: a number is wanted"))),
        }
    }

    /// A probability; `default` where the key is missing.
    ///
    /// # Errors
    /// Something else.
    pub fn probability(&self, key: &str, default: f64) -> Result<f64> {
        match self.number(key, default)? {
            p if (0.0..1.0).contains(&p) => Ok(p),
            p => Err(self.error(format!("{key} is {p}: a probability from 0 to below 1 is wanted"))),
        }
    }

    /// The number that is added to a variance: above 0.
    pub(super) fn eps(&self, key: &str, default: f64) -> Result<f64> {
        match self.number(key, default)? {
            e if e > 0.0 && e < 1.0 => Ok(e),
            e => Err(self.error(format!("{key} is {e}: a number between 0 and 1 is wanted"))),
        }
    }

    /// A truth value; `default` where the key is missing.
    ///
    /// # Errors
    /// Something else.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.error(format!("{key} is {v}: true or false is wanted"))),
        }
    }

    /// A text; `default` where the key is missing.
    ///
    /// # Errors
    /// Something else.
    pub fn text<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_str().ok_or_else(|| self.error(format!("{key} is {v}: a text is wanted"))),
        }
    }

    /// A token, or several: `eos_token_id` may be a number or a list.
    ///
    /// # Errors
    /// Something else.
    pub fn tokens(&self, key: &str) -> Result<Vec<u32>> {
        let token = |v: &Value| match v.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(n) => Ok(n),
            None => Err(self.error(format!("{key} is {v}: a token's number is wanted"))),
        };
        match self.get(key) {
            None => Ok(Vec::new()),
            // Some old files have -1 for none.
            Some(v) if v.as_i64().is_some_and(|n| n < 0) => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(token).collect(),
            Some(v) => Ok(vec![token(v)?]),
        }
    }

    /// The names of the classes, from `id2label` or as many as `num_labels` (by default 2) says.
    ///
    /// # Errors
    /// Labels that are not numbered from 0.
    pub fn labels(&self) -> Result<Vec<String>> {
        let Some(map) = self.object("id2label")? else {
            let n = self.size("num_labels", 2, 1 << 20)?;
            return Ok((0..n).map(|i| format!("LABEL_{i}")).collect());
        };
        (0..map.json.len())
            .map(|i| match map.json.get(&i.to_string()).and_then(Value::as_str) {
                Some(label) => Ok(label.to_string()),
                None => {
                    Err(self.error(format!("id2label has {} entries and no text for \"{i}\": classes are numbered from 0", map.json.len())))
                }
            })
            .collect()
    }

    /// The width of a head: of `width` split among `heads`.
    pub(super) fn head_width(&self, width: usize, heads: usize) -> Result<usize> {
        match width.is_multiple_of(heads) {
            true => Ok(width / heads),
            false => Err(self.error(format!("a width of {width} cannot be split among {heads} heads"))),
        }
    }
}

//! Text files, line by line, and JSON lines.

use super::Stream;
use super::source::{failed, open};
use crate::{Error, Result};
use std::io::BufRead;
use std::path::{Path, PathBuf};

/// A JSON value.
pub type Json = serde_json::Value;

/// The lines of a file, without their ends; a gzip file is unpacked. After a fault of the file itself there are no more.
///
/// ```
/// use fornax::data::Lines;
/// let path = std::env::temp_dir().join(format!("fornax-doc-{}.txt", std::process::id()));
/// std::fs::write(&path, "one\r\ntwo")?;
/// assert_eq!(Lines::open(&path)?.collect::<fornax::Result<Vec<_>>>()?, ["one", "two"]);
/// # std::fs::remove_file(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Lines {
    path: PathBuf,
    source: Option<Box<dyn BufRead + Send>>,
    line: usize,
}

impl Lines {
    /// Opens a file.
    ///
    /// # Errors
    /// `Error::Io`.
    pub fn open(path: impl AsRef<Path>) -> Result<Lines> {
        let path = path.as_ref();
        Ok(Lines { path: path.into(), source: Some(open(path)?), line: 0 })
    }
}

impl Iterator for Lines {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Result<String>> {
        let source = self.source.as_mut()?;
        let mut bytes = Vec::new();
        match source.read_until(b'\n', &mut bytes) {
            Ok(0) => {
                self.source = None;
                return None;
            }
            Ok(_) => self.line += 1,
            Err(e) => {
                self.source = None;
                return Some(Err(failed(&self.path, e)));
            }
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        Some(String::from_utf8(bytes).map_err(|e| {
            let column = e.utf8_error().valid_up_to() + 1;
            Error::format(&self.path, format!("line {}, column {column}: not valid UTF-8", self.line))
        }))
    }
}

impl Stream<String> {
    /// The lines of a file.
    pub fn lines(path: impl AsRef<Path>) -> Stream<String> {
        let path = path.as_ref().to_path_buf();
        Stream::new(move |_| Lines::open(&path))
    }
}

impl Stream<Json> {
    /// The values of a file that has one on each line; empty lines are left out.
    ///
    /// ```
    /// use fornax::data::Stream;
    /// let path = std::env::temp_dir().join(format!("fornax-doc-{}.jsonl", std::process::id()));
    /// std::fs::write(&path, "{\"x\": 1.5}\n\n{\"x\": }\n")?;
    /// let values: Vec<_> = Stream::json_lines(&path).epoch(0)?.collect();
    /// assert_eq!(values[0].as_ref().unwrap()["x"], 1.5);
    /// assert!(values[1].as_ref().unwrap_err().to_string().ends_with("line 3, column 7: expected value"));
    /// # std::fs::remove_file(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn json_lines(path: impl AsRef<Path>) -> Stream<Json> {
        let path = path.as_ref().to_path_buf();
        Stream::new(move |_| {
            let name = path.clone();
            let numbered = Lines::open(&path)?.enumerate();
            let full = numbered.filter(|(_, line)| !line.as_ref().is_ok_and(|l| l.trim().is_empty()));
            Ok(full.map(move |(i, line)| {
                serde_json::from_str(&line?).map_err(|e| {
                    let text = e.to_string();
                    let what = text.split(" at line ").next().unwrap_or_default();
                    Error::format(&name, format!("line {}, column {}: {what}", i + 1, e.column()))
                })
            }))
        })
    }
}

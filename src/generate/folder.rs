//! `generation_config.json`: how a model's makers would have texts continued.

use super::Generation;
use crate::transformers::Config;
use crate::{Error, Result};
use std::path::Path;

/// The largest number of tokens that a file can ask for.
const TOKENS: usize = 1 << 26;
/// The most beams.
const BEAMS: usize = 1 << 16;

impl Generation {
    /// The options that a folder's `generation_config.json` gives: `do_sample`, `temperature`, `top_k`, `top_p`, `min_p`, `repetition_penalty`, `max_new_tokens`,
    /// `max_length`, `eos_token_id`, `num_beams`, `length_penalty` and `early_stopping`; other keys are passed over. The defaults without such a file.
    ///
    /// What the file leaves out is as transformers has it, where a sampling model takes the 50 likeliest tokens (`top_k`; 0 or null is no limit), but for the length: a
    /// file that gives none leaves [`max_new_tokens`](Generation::max_new_tokens) at its default. `max_new_tokens` counts before `max_length`.
    ///
    /// ```
    /// use fornax::generate::Generation;
    /// # let dir = std::env::temp_dir().join(format!("fornax-doc-generation-{}", std::process::id()));
    /// # std::fs::create_dir_all(&dir)?;
    /// std::fs::write(dir.join("generation_config.json"), r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 7]}"#)?;
    /// let options = Generation { max_new_tokens: 40, ..Generation::from_folder(&dir)? };
    /// assert!(options.sample && options.temperature == 0.6 && options.top_k == Some(50));
    /// assert_eq!(options.ends, Some(vec![2, 7]));
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Error::Io` for a folder that is none or a file that cannot be read, `Error::Format` where the file is no JSON object or a key holds something else than it should.
    /// Whether the numbers make sense is seen when they are used.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Generation> {
        let path = folder.as_ref().join("generation_config.json");
        if !path.is_file() {
            // A folder that is not there would else pass for one without the file.
            return std::fs::metadata(folder.as_ref()).map(|_| Generation::default()).map_err(|e| Error::io(folder.as_ref(), e));
        }
        Generation::from_config(&Config::read(path)?)
    }

    fn from_config(c: &Config) -> Result<Generation> {
        let usual = Generation::default();
        let size = |key: &str, max: usize| c.get(key).map(|_| c.size(key, None, max)).transpose();
        let number = |key: &str| c.get(key).map(|_| c.number(key, 0.0)).transpose();
        let (new, whole) = (size("max_new_tokens", TOKENS)?, size("max_length", TOKENS)?);
        let top_k = match c.get("top_k").map(|v| v.as_u64()) {
            None if c.has("top_k") => None,
            None => Some(50),
            Some(Some(0)) => None,
            Some(_) => size("top_k", TOKENS)?,
        };
        let ends = c.tokens("eos_token_id")?;
        Ok(Generation {
            max_new_tokens: match (new, whole) {
                (Some(n), _) => n,
                (None, Some(_)) => usize::MAX,
                (None, None) => usual.max_new_tokens,
            },
            max_length: whole.filter(|_| new.is_none()),
            ends: Some(ends).filter(|e| !e.is_empty()),
            sample: c.flag("do_sample", false)?,
            temperature: c.number("temperature", 1.0)?,
            top_k,
            // 1 is no limit.
            top_p: number("top_p")?.filter(|p| *p != 1.0),
            min_p: number("min_p")?,
            repetition_penalty: c.number("repetition_penalty", 1.0)?,
            beams: c.size("num_beams", 1, BEAMS)?,
            length_penalty: c.number("length_penalty", 1.0)?,
            early_stopping: c.flag("early_stopping", false)?,
            ..usual
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Generation> {
        Generation::from_config(&Config::parse(json).unwrap())
    }

    #[test]
    fn keys_and_what_is_left_out() {
        let g = read("{}").unwrap();
        let usual = Generation::default();
        assert_eq!((g.max_new_tokens, g.max_length, g.ends, g.sample, g.top_k), (usual.max_new_tokens, None, None, false, Some(50)));
        let g = read(
            r#"{"do_sample": true, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05, "max_length": 90, "eos_token_id": 2}"#,
        );
        let g = g.unwrap();
        assert!(g.sample && g.temperature == 0.7 && g.top_k == Some(20) && g.top_p == Some(0.8) && g.repetition_penalty == 1.05);
        assert_eq!((g.max_new_tokens, g.max_length, g.ends), (usize::MAX, Some(90), Some(vec![2])));
        let g =
            read(r#"{"max_new_tokens": 7, "max_length": 90, "top_k": 0, "top_p": 1.0, "eos_token_id": [1, 5], "num_beams": 3}"#).unwrap();
        assert_eq!((g.max_new_tokens, g.max_length, g.top_k, g.top_p, g.beams), (7, None, None, None, 3));
        assert_eq!(read(r#"{"top_k": null}"#).unwrap().top_k, None);
    }

    #[test]
    fn what_should_not_be_there() {
        for (json, key) in [
            (r#"{"do_sample": 1}"#, "do_sample"),
            (r#"{"temperature": "hot"}"#, "temperature"),
            (r#"{"top_k": -1}"#, "top_k"),
            (r#"{"max_length": 0}"#, "max_length"),
            (r#"{"eos_token_id": "</s>"}"#, "eos_token_id"),
            (r#"{"early_stopping": "never"}"#, "early_stopping"),
        ] {
            let message = read(json).err().unwrap().to_string();
            assert!(message.contains(key), "{message}");
        }
        let message = Generation::from_folder("/no/such/folder").err().unwrap().to_string();
        assert!(message.contains("/no/such/folder"), "{message}");
    }
}

//! Chat templates: a conversation as the text that a model was trained on.

use super::tokenizer::special;
use crate::transformers::Config;
use crate::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What one side says in a conversation.
///
/// ```
/// use fornax::text::Message;
/// let m = Message::new("user", "Hello");
/// assert_eq!(m.role, "user");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: &str, content: &str) -> Message {
        Message { role: role.to_string(), content: content.to_string() }
    }
}

/// A template in Jinja's language, as `tokenizer_config.json` has it, rendered by the crate `minijinja` with the methods of Python's strings.
///
/// ```
/// use fornax::text::{ChatTemplate, Message};
/// let source = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'].strip() }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
/// let template = ChatTemplate::new(source)?.token("eos_token", "</s>");
/// assert_eq!(template.render(&[Message::new("user", " Hello ")], true)?, "<|user|>Hello</s><|assistant|>");
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    tokens: Vec<(String, String)>,
}

const NAME: &str = "chat_template";

fn wrong(e: &minijinja::Error) -> Error {
    let place = e.line().map_or(String::new(), |l| format!("line {l}: "));
    Error::argument("ChatTemplate", format!("{place}{e}"))
}

impl ChatTemplate {
    /// A template from its source.
    ///
    /// # Errors
    /// A source that is none.
    pub fn new(source: &str) -> Result<ChatTemplate> {
        let mut e = Environment::new();
        // As transformers sets Jinja up.
        e.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|e| wrong(&e))?);
        e.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        e.add_function("raise_exception", |message: String| -> std::result::Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        e.add_function("strftime_now", |format: String| date(&format, now()));
        e.add_template_owned(NAME, source.to_string()).map_err(|e| wrong(&e))?;
        Ok(ChatTemplate { environment: Arc::new(e), tokens: Vec::new() })
    }

    /// The template of a folder: in the config, or in a file of its own.
    pub(super) fn of(config: &Config, folder: &Path) -> Result<Option<ChatTemplate>> {
        let file = folder.join("chat_template.jinja");
        let source = match config.get("chat_template") {
            Some(v) => v.as_str().map(String::from),
            None if file.is_file() => Some(std::fs::read_to_string(&file).map_err(|e| Error::io(&file, e))?),
            None => None,
        };
        let Some(source) = source else { return Ok(None) };
        let mut template = ChatTemplate::new(&source)?;
        for key in ["bos_token", "eos_token", "pad_token", "unk_token"] {
            if let Some(token) = special(config, key) {
                template = template.token(key, &token);
            }
        }
        Ok(Some(template))
    }

    /// Sets a token that the template names.
    pub fn token(mut self, name: &str, token: &str) -> ChatTemplate {
        self.tokens.push((name.to_string(), token.to_string()));
        self
    }

    /// A conversation as text; with `answer`, up to where the model's answer begins.
    ///
    /// # Errors
    /// What the template raises, or cannot do.
    pub fn render(&self, messages: &[Message], answer: bool) -> Result<String> {
        let messages: Vec<Value> = messages.iter().map(|m| context! { role => m.role.as_str(), content => m.content.as_str() }).collect();
        let tokens = Value::from_pairs(self.tokens.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let template = self.environment.get_template(NAME).map_err(|e| wrong(&e))?;
        let values = context! { messages => messages, add_generation_prompt => answer, ..tokens };
        template.render(values).map_err(|e| wrong(&e))
    }
}

/// Seconds since 1970, in UTC.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

/// A time by a format of C's strftime; what is not known stays as it is.
fn date(format: &str, seconds: i64) -> String {
    const MONTHS: [&str; 12] =
        ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
    let (day, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // The civil calendar from the day's number: years begin in March, so that the day of the leap year is the last.
    let z = day + 719_468;
    let (era, of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let d = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let name = MONTHS[(month - 1).clamp(0, 11) as usize];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => out += &year.to_string(),
            Some('m') => out += &format!("{month:02}"),
            Some('d') => out += &format!("{d:02}"),
            Some('B') => out += name,
            Some('b') => out += &name[..3],
            Some('H') => out += &format!("{:02}", rest / 3600),
            Some('M') => out += &format!("{:02}", rest / 60 % 60),
            Some('S') => out += &format!("{:02}", rest % 60),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(date("%d %b %Y, %H:%M:%S %%", 951_782_400 + 3661), "29 Feb 2000, 01:01:01 %");
        assert_eq!(date("%d %B %Y %m", 1_735_603_200), "31 December 2024 12");
        assert_eq!(date("%Y-%m-%d", -1), "1969-12-31");
    }
}

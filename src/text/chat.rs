//! Chat templates: a conversation as the text that a model was trained on.

use super::tokenizer::special;
use crate::transformers::Config;
use crate::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value, context};
use regex_lite::Regex;
use std::collections::BTreeMap;
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

/// A template in Jinja's language, as `chat_template.jinja` or `tokenizer_config.json` has it, rendered by the crate `minijinja` with the methods of Python's strings, and
/// with what transformers adds: `raise_exception`, `strftime_now`, a `tojson` that escapes nothing for HTML, and the tags `generation` and `endgeneration`, which leave
/// no trace. `tools` and `documents` are none.
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
    /// Or why it cannot be rendered.
    environment: std::result::Result<Arc<Environment<'static>>, String>,
    tokens: Vec<(String, String)>,
}

/// The templates of a folder.
#[derive(Clone, Debug, Default)]
pub(super) struct Templates {
    pub usual: Option<ChatTemplate>,
    /// Where there are several, all of them by name.
    pub named: BTreeMap<String, ChatTemplate>,
}

const NAME: &str = "chat_template";
/// The name of the template that counts where none is named.
const DEFAULT: &str = "default";

fn said(e: &minijinja::Error) -> String {
    let place = e.line().map_or(String::new(), |l| format!("line {l}: "));
    format!("{place}{e}")
}

fn wrong(e: &minijinja::Error) -> Error {
    Error::argument("ChatTemplate", said(e))
}

fn compile(source: &str) -> std::result::Result<Arc<Environment<'static>>, String> {
    // What the model itself says stands between these tags: they count for training masks alone. As blocks of another kind they keep their own scope and their
    // marks for white space.
    let tags = Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").map_err(|e| e.to_string())?;
    let source = tags.replace_all(source, "{%$1 ${2}with $3%}").into_owned();
    let mut e = Environment::new();
    // As transformers sets Jinja up.
    e.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|e| said(&e))?);
    e.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    e.add_function("raise_exception", |message: String| -> std::result::Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    e.add_function("strftime_now", |format: String| date(&format, now()));
    e.add_filter("tojson", tojson);
    e.add_template_owned(NAME, source).map_err(|e| said(&e))?;
    Ok(Arc::new(e))
}

/// Python's `json.dumps`, with the arguments that transformers offers: the crate's filter without its escapes for HTML.
fn tojson(value: &Value, ascii: Option<Value>, indent: Option<Value>, args: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let ascii: Option<Value> = ascii.map_or_else(|| args.get("ensure_ascii"), |v| Ok(Some(v)))?;
    let indent: Option<Value> = indent.map_or_else(|| args.get("indent"), |v| Ok(Some(v)))?;
    let indent = indent.filter(|v| !v.is_none());
    let separators: Option<Vec<String>> = args.get("separators")?;
    // Keys are sorted as it is.
    let _: Option<Value> = args.get("sort_keys")?;
    args.assert_all_used()?;
    let spaced = indent.is_none();
    let text = minijinja::filters::tojson(value, indent, std::iter::empty::<(&str, Value)>().collect())?;
    let separators = separators.filter(|_| spaced).and_then(|s| <[String; 2]>::try_from(s).ok());
    Ok(python(text.as_str().unwrap_or_default(), ascii.is_some_and(|v| v.is_true()), separators.as_ref()))
}

/// JSON as Python writes it, of JSON whose `<`, `>`, `&` and `'` are escaped.
fn python(json: &str, ascii: bool, separators: Option<&[String; 2]>) -> String {
    let mut out = String::with_capacity(json.len());
    let mut inside = false;
    let mut rest = json;
    while let Some(c) = rest.chars().next() {
        let mut len = c.len_utf8();
        match c {
            '\\' => {
                let escaped = [("\\u003c", '<'), ("\\u003e", '>'), ("\\u0026", '&'), ("\\u0027", '\'')];
                match escaped.iter().find(|(e, _)| rest.starts_with(e)) {
                    Some((e, plain)) => {
                        out.push(*plain);
                        len = e.len();
                    }
                    None => {
                        len += rest[1..].chars().next().map_or(0, char::len_utf8);
                        out.push_str(&rest[..len]);
                    }
                }
            }
            ',' | ':' if !inside && separators.is_some() => {
                out.push_str(separators.map_or("", |[item, key]| if c == ',' { item } else { key }));
                len += usize::from(rest[1..].starts_with(' '));
            }
            c if ascii && !c.is_ascii() => c.encode_utf16(&mut [0; 2]).iter().for_each(|u| out += &format!("\\u{u:04x}")),
            c => {
                inside ^= c == '"';
                out.push(c);
            }
        }
        rest = &rest[len..];
    }
    out
}

impl ChatTemplate {
    /// A template from its source.
    ///
    /// # Errors
    /// A source that is none.
    pub fn new(source: &str) -> Result<ChatTemplate> {
        let environment = compile(source).map_err(|e| Error::argument("ChatTemplate", e))?;
        Ok(ChatTemplate { environment: Ok(environment), tokens: Vec::new() })
    }

    /// Sets a token that the template names.
    pub fn token(mut self, name: &str, token: &str) -> ChatTemplate {
        self.tokens.push((name.to_string(), token.to_string()));
        self
    }

    /// A conversation as text; with `answer`, up to where the model's answer begins.
    ///
    /// # Errors
    /// What the template raises, or cannot do; for the template of a folder also a source that is none.
    pub fn render(&self, messages: &[Message], answer: bool) -> Result<String> {
        let messages: Vec<Value> = messages.iter().map(|m| context! { role => m.role.as_str(), content => m.content.as_str() }).collect();
        let tokens = Value::from_pairs(self.tokens.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let environment = self.environment.as_ref().map_err(|e| Error::argument("ChatTemplate", e.clone()))?;
        let template = environment.get_template(NAME).map_err(|e| wrong(&e))?;
        // Templates ask whether these are none, which what is missing is not.
        let values = context! { messages => messages, add_generation_prompt => answer, tools => (), documents => (), ..tokens };
        template.render(values).map_err(|e| wrong(&e))
    }
}

impl Templates {
    /// Those of a folder: `chat_template.jinja` and the files of `additional_chat_templates`, or else what the first of the configs has under `chat_template`. What is no
    /// template is an error when it is rendered, for the rest of a tokenizer is good without it.
    pub fn of(configs: &[Config], folder: &Path) -> Result<Templates> {
        let read = |path: &Path| std::fs::read_to_string(path).map_err(|e| Error::io(path, e));
        let mut sources = BTreeMap::new();
        let file = folder.join("chat_template.jinja");
        if file.is_file() {
            sources.insert(DEFAULT.to_string(), read(&file)?);
        }
        let more = folder.join("additional_chat_templates");
        if more.is_dir() {
            for entry in std::fs::read_dir(&more).map_err(|e| Error::io(&more, e))? {
                let path = entry.map_err(|e| Error::io(&more, e))?.path();
                if let (Some("jinja"), Some(name)) = (path.extension().and_then(|e| e.to_str()), path.file_stem().and_then(|s| s.to_str()))
                {
                    sources.insert(name.to_string(), read(&path)?);
                }
            }
        }
        if let (true, Some(v)) = (sources.is_empty(), configs.iter().find_map(|c| c.get("chat_template"))) {
            let text = |v: &serde_json::Value| v.as_str().map(String::from);
            let of_list = |v: &serde_json::Value| Some((text(v.get("name")?)?, text(v.get("template")?)?));
            match v {
                serde_json::Value::Array(list) => sources.extend(list.iter().filter_map(of_list)),
                serde_json::Value::Object(map) => sources.extend(map.iter().filter_map(|(k, v)| Some((k.clone(), text(v)?)))),
                v => sources.extend(text(v).map(|source| (DEFAULT.to_string(), source))),
            }
        }
        const TOKENS: [&str; 7] = ["bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"];
        let known = |key: &str| configs.iter().find_map(|c| special(c, key)).map(|token| (key.to_string(), token));
        let tokens: Vec<(String, String)> = TOKENS.into_iter().filter_map(known).collect();
        let made = |source: &String| ChatTemplate { environment: compile(source), tokens: tokens.clone() };
        let mut named: BTreeMap<String, ChatTemplate> = sources.iter().map(|(name, source)| (name.clone(), made(source))).collect();
        let usual = match named.get(DEFAULT) {
            Some(t) if named.len() == 1 => {
                let t = t.clone();
                named.clear();
                Some(t)
            }
            Some(t) => Some(t.clone()),
            None if named.is_empty() => None,
            None => {
                let names = named.keys().cloned().collect::<Vec<_>>().join(", ");
                let message = format!(
                    "there are several chat templates and none is the default: take one with Tokenizer::template_named; there are {names}"
                );
                Some(ChatTemplate { environment: Err(message), tokens })
            }
        };
        Ok(Templates { usual, named })
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
    fn json_as_python_writes_it() {
        let json = |text: &str| ChatTemplate::new(&format!("{{{{ {text} }}}}")).unwrap().render(&[], true).unwrap();
        assert_eq!(json(r#"{'b': [1, 2.5, none], 'a': "<'&'>: \\ é, 🦀"} | tojson"#), r#"{"a": "<'&'>: \\ é, 🦀", "b": [1, 2.5, null]}"#);
        assert_eq!(
            json(r#"['é', '🦀', 'a, b: c'] | tojson(ensure_ascii=true, separators=(',', ':'))"#),
            r#"["\u00e9","\ud83e\udd80","a, b: c"]"#
        );
        assert_eq!(json(r#"'\\u003c' | tojson"#), r#""\\u003c""#);
        assert_eq!(json("{'a': [1]} | tojson(indent=2)"), "{\n  \"a\": [\n    1\n  ]\n}");
    }

    #[test]
    fn dates() {
        assert_eq!(date("%d %b %Y, %H:%M:%S %%", 951_782_400 + 3661), "29 Feb 2000, 01:01:01 %");
        assert_eq!(date("%d %B %Y %m", 1_735_603_200), "31 December 2024 12");
        assert_eq!(date("%Y-%m-%d", -1), "1969-12-31");
    }
}

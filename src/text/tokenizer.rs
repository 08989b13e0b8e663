//! Text to tokens and back.

use super::ChatTemplate;
use super::chat::Templates;
use crate::generate::Stop;
use crate::transformers::{Config, Tokens, integer};
use crate::{Device, Error, Result, Tensor};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokenizers as hf;

/// A tokenizer as `tokenizer.json` describes it, by the crate `tokenizers`. A clone is the same one.
///
/// Truncation and padding that the file may have baked in are switched off: texts are padded to the longest of a batch, and cut where
/// [`max_length`](Tokenizer::max_length) says so.
///
/// ```
/// use fornax::text::{Tokenizer, TokenizerKind, TokenizerTrainer};
/// let texts = ["to be or not to be", "that is the question"];
/// let tokenizer = TokenizerTrainer::new(TokenizerKind::WordPiece, 60).train(&texts)?;
/// let encoding = tokenizer.encode("to be")?;
/// assert_eq!(encoding.tokens, ["[CLS]", "to", "be", "[SEP]"]);
/// assert_eq!(tokenizer.decode(&encoding.ids)?, "to be");
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    pub(super) inner: Arc<hf::Tokenizer>,
    pad: Option<u32>,
    context: Option<usize>,
    templates: Templates,
}

/// A text, or a pair, as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// The tokens' numbers.
    pub ids: Vec<u32>,
    /// The segment of each: 1 for the second text of a pair, where the family has segments.
    pub types: Vec<u32>,
    /// The tokens as the vocabulary has them.
    pub tokens: Vec<String>,
    /// The bytes of the text that each stands for; empty for those that were added.
    pub offsets: Vec<(usize, usize)>,
    /// The word of the text that each belongs to.
    pub words: Vec<Option<u32>>,
    /// The text that each comes from, 0 or 1; None for those that were added.
    pub sources: Vec<Option<usize>>,
}

impl Encoding {
    fn new(e: &hf::Encoding) -> Encoding {
        Encoding {
            ids: e.get_ids().to_vec(),
            types: e.get_type_ids().to_vec(),
            tokens: e.get_tokens().to_vec(),
            offsets: e.get_offsets().to_vec(),
            words: e.get_word_ids().to_vec(),
            sources: e.get_sequence_ids(),
        }
    }
}

fn wrong(e: hf::Error) -> Error {
    Error::argument("Tokenizer", e.to_string())
}

/// What the crate returns; where it panics over a file that contradicts itself, an error.
fn guarded<T>(f: impl FnOnce() -> hf::Result<T>) -> Result<T> {
    let panicked = |_| Err("the tokenizer's file contradicts itself: a token that it names is not in its vocabulary, for instance".into());
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(panicked).map_err(wrong)
}

impl Tokenizer {
    /// Opens a `tokenizer.json`, or the folder that has one; `tokenizer_config.json` and `special_tokens_map.json` beside it give the padding, the longest
    /// text and the chat template, unless `chat_template.jinja` has it.
    ///
    /// # Errors
    /// `Error::Io` where there is no such file, `Error::Format` where it is no tokenizer.
    pub fn open(path: impl AsRef<Path>) -> Result<Tokenizer> {
        let path = path.as_ref();
        let file: PathBuf = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
        let bytes = std::fs::read(&file).map_err(|e| Error::io(&file, e))?;
        let inner = guarded(|| hf::Tokenizer::from_bytes(&bytes)).map_err(|e| Error::format(&file, e.to_string()))?;
        let mut tokenizer = Tokenizer::wrap(inner)?;
        let folder = file.parent().unwrap_or(Path::new("."));
        let config = folder.join("tokenizer_config.json");
        let config = if config.is_file() { Some(Config::read(config)?) } else { None };
        if let Some(c) = &config {
            // Files without a limit have 1e30.
            tokenizer.context = c.get("model_max_length").and_then(|v| v.as_u64()).map(|n| n as usize).filter(|n| *n < 1 << 30);
        }
        let map = folder.join("special_tokens_map.json");
        let map = if map.is_file() { Some(Config::read(map)?) } else { None };
        let configs: Vec<Config> = [config, map].into_iter().flatten().collect();
        tokenizer.templates = Templates::of(&configs, folder)?;
        let pad = configs.iter().find_map(|c| special(c, "pad_token"));
        if let Some(id) = pad.and_then(|t| tokenizer.id(&t)) {
            tokenizer.pad = Some(id);
        }
        Ok(tokenizer)
    }

    pub(super) fn wrap(mut inner: hf::Tokenizer) -> Result<Tokenizer> {
        let baked = inner.get_padding().map(|p| p.pad_id);
        let pad = baked.or_else(|| ["[PAD]", "<pad>"].iter().find_map(|t| inner.token_to_id(t)));
        inner.with_padding(None);
        inner.with_truncation(None).map_err(wrong)?;
        Ok(Tokenizer { inner: Arc::new(inner), pad, context: None, templates: Templates::default() })
    }

    /// The tokenizer that cuts texts (and the longer one of a pair) to so many tokens.
    ///
    /// # Errors
    /// Fewer than the tokens that are added to every text.
    pub fn max_length(&self, length: usize) -> Result<Tokenizer> {
        let mut inner = (*self.inner).clone();
        let params = hf::TruncationParams { max_length: length, ..hf::TruncationParams::default() };
        inner.with_truncation(Some(params)).map_err(wrong)?;
        Ok(Tokenizer { inner: Arc::new(inner), ..self.clone() })
    }

    /// The number of tokens.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token that fills up short texts, if there is one.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// The longest text that the model was made for, as tokenizer_config.json has it.
    pub fn context(&self) -> Option<usize> {
        self.context
    }

    /// The chat template, if the folder has one; of several the one named `default`.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.templates.usual.as_ref()
    }

    /// Of several chat templates the one of this name: `tool_use`, `rag`, ….
    pub fn template_named(&self, name: &str) -> Option<&ChatTemplate> {
        self.templates.named.get(name)
    }

    /// Whether each token goes on with the word of the token before, as transformers' token classification has it: where the vocabulary marks such pieces (`##ing`),
    /// by the mark; elsewhere by whether there is a space at the token's beginning.
    pub(super) fn inner_pieces(&self, text: &str, encoding: &Encoding) -> Vec<bool> {
        let (marked, unknown) = match self.inner.get_model() {
            hf::ModelWrapper::WordPiece(m) => (!m.continuing_subword_prefix.is_empty(), Some(m.unk_token.clone())),
            hf::ModelWrapper::BPE(m) => (m.continuing_subword_prefix.as_ref().is_some_and(|p| !p.is_empty()), m.unk_token.clone()),
            hf::ModelWrapper::WordLevel(m) => (false, Some(m.unk_token.clone())),
            hf::ModelWrapper::Unigram(_) => (false, Some("<unk>".to_string())),
        };
        let inner = |(token, &(start, end)): (&String, &(usize, usize))| {
            let (before, here) = (text.get(..start).unwrap_or_default(), text.get(start..).unwrap_or_default());
            let is_unknown = unknown.as_ref() == Some(token);
            let changed = token.chars().count() != text.get(start..end).unwrap_or_default().chars().count();
            let joined = !before.is_empty() && !before.ends_with(' ') && !here.starts_with(' ');
            !is_unknown && if marked { changed } else { joined }
        };
        encoding.tokens.iter().zip(&encoding.offsets).map(inner).collect()
    }

    /// The number of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of a number.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The tokens of a text, with those that the family adds.
    ///
    /// # Errors
    /// A text that the tokenizer cannot take apart.
    pub fn encode(&self, text: &str) -> Result<Encoding> {
        Ok(Encoding::new(&guarded(|| self.inner.encode(text, true))?))
    }

    /// The tokens of a text alone: for what a chat template made, which has the others already.
    ///
    /// # Errors
    /// As [`encode`](Tokenizer::encode).
    pub fn encode_plain(&self, text: &str) -> Result<Encoding> {
        Ok(Encoding::new(&guarded(|| self.inner.encode(text, false))?))
    }

    /// The tokens of a pair of texts: question and context, premise and hypothesis.
    ///
    /// # Errors
    /// As [`encode`](Tokenizer::encode).
    pub fn encode_pair(&self, first: &str, second: &str) -> Result<Encoding> {
        Ok(Encoding::new(&guarded(|| self.inner.encode((first, second), true))?))
    }

    /// A pair whose second text is read in overlapping pieces, each with the first before it.
    pub(super) fn windows(&self, first: &str, second: &str, length: usize) -> Result<Vec<Encoding>> {
        let head = self.encode_pair(first, "")?.ids.len();
        if head >= length {
            let message = format!("the first text takes {head} of {length} tokens: there is no room for the second");
            return Err(Error::argument("Tokenizer", message));
        }
        let mut inner = (*self.inner).clone();
        let strategy = hf::TruncationStrategy::OnlySecond;
        let params = hf::TruncationParams { max_length: length, strategy, stride: (length - head) / 3, ..hf::TruncationParams::default() };
        inner.with_truncation(Some(params)).map_err(wrong)?;
        let found = guarded(|| inner.encode((first, second), true))?;
        Ok([&found].into_iter().chain(found.get_overflowing()).map(Encoding::new).collect())
    }

    /// The tokens of many texts, on all cores.
    ///
    /// # Errors
    /// As [`encode`](Tokenizer::encode).
    pub fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Encoding>> {
        let found = guarded(|| self.inner.encode_batch(texts.to_vec(), true))?;
        Ok(found.iter().map(Encoding::new).collect())
    }

    /// Encodings as a batch, filled up on the right to the longest.
    ///
    /// # Errors
    /// No encodings; texts of different lengths and a tokenizer without a token for padding.
    pub fn batch(&self, encodings: &[Encoding], device: Device) -> Result<Tokens> {
        let width = encodings.iter().map(|e| e.ids.len()).max().unwrap_or(0);
        if self.pad.is_none() && encodings.iter().any(|e| e.ids.len() < width) {
            let message = "texts of different lengths need a token for padding, and the tokenizer has none: batch texts of one length";
            return Err(Error::argument("Tokenizer::batch", message));
        }
        let rows: Vec<Vec<u32>> = encodings.iter().map(|e| e.ids.clone()).collect();
        let mut tokens = Tokens::pad(&rows, self.pad.unwrap_or(0), device)?;
        if encodings.iter().any(|e| e.types.iter().any(|&t| t > 0)) {
            let mut types = Vec::with_capacity(rows.len() * width);
            for e in encodings {
                for i in 0..width {
                    types.push(integer(e.types.get(i).copied().unwrap_or(0))?);
                }
            }
            tokens.types = Some(Tensor::from_vec(types, [rows.len(), width], device)?);
        }
        Ok(tokens)
    }

    /// The text of tokens, without special ones.
    ///
    /// # Errors
    /// Tokens that the decoder cannot join.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(wrong)
    }

    /// The text of tokens, special ones included.
    ///
    /// # Errors
    /// As [`decode`](Tokenizer::decode).
    pub fn decode_with_special(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, false).map_err(wrong)
    }

    /// A decoder for tokens that come one by one: it gives text as soon as whole characters are there.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { decoder: self.inner.decode_stream(true), tokenizer: self, ids: Vec::new(), given: 0 }
    }

    /// Saves it as `tokenizer.json`.
    ///
    /// # Errors
    /// `Error::Format` where the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.inner.save(path, false).map_err(|e| Error::format(path, e.to_string()))
    }
}

/// A special token of a config: a text, or an object with one.
pub(super) fn special(config: &Config, key: &str) -> Option<String> {
    let v = config.get(key)?;
    v.as_str().or_else(|| v.get("content")?.as_str()).map(String::from)
}

type Decoder<'a> =
    hf::DecodeStream<'a, hf::ModelWrapper, hf::NormalizerWrapper, hf::PreTokenizerWrapper, hf::PostProcessorWrapper, hf::DecoderWrapper>;

/// Tokens to text, one by one; made by [`Tokenizer::stream`].
pub struct TextStream<'a> {
    decoder: Decoder<'a>,
    tokenizer: &'a Tokenizer,
    /// All tokens, and the bytes of text that were given for them.
    ids: Vec<u32>,
    given: usize,
}

impl TextStream<'_> {
    /// The text that became whole with this token; empty where characters are still incomplete.
    ///
    /// # Errors
    /// A token that the decoder cannot join.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let text = self.decoder.step(id).map_err(wrong)?.unwrap_or_default();
        self.ids.push(id);
        self.given += text.len();
        Ok(text)
    }

    /// What is left at the end: characters that were cut off in their middle, as [`Tokenizer::decode`] shows them.
    ///
    /// # Errors
    /// As [`push`](TextStream::push).
    pub fn finish(self) -> Result<String> {
        let whole = self.tokenizer.decode(&self.ids)?;
        Ok(whole.get(self.given..).unwrap_or_default().to_string())
    }
}

/// Ends a text where one of several strings appears in it, whatever tokens it is made of; a special token counts as its text.
///
/// ```
/// use fornax::generate::Stop;
/// use fornax::text::{StopStrings, TokenizerKind, TokenizerTrainer};
/// let tokenizer = TokenizerTrainer::new(TokenizerKind::Bpe, 300).train(&["one two. three"])?;
/// let stop = StopStrings::new(&tokenizer, &[". "]);
/// let ids = tokenizer.encode("one two. three")?.ids;
/// assert!(stop.stops(&ids) && !stop.stops(&ids[..2]));
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct StopStrings {
    tokenizer: Tokenizer,
    strings: Vec<String>,
    longest: usize,
}

impl StopStrings {
    /// With these strings; empty ones end nothing.
    pub fn new(tokenizer: &Tokenizer, strings: &[&str]) -> StopStrings {
        let strings: Vec<String> = strings.iter().filter(|s| !s.is_empty()).map(|s| s.to_string()).collect();
        StopStrings { tokenizer: tokenizer.clone(), longest: strings.iter().map(String::len).max().unwrap_or(0), strings }
    }

    /// The text up to the first of the strings.
    pub fn cut<'a>(&self, text: &'a str) -> &'a str {
        let at = self.strings.iter().filter_map(|s| text.find(s.as_str())).min();
        &text[..at.unwrap_or(text.len())]
    }
}

impl Stop for StopStrings {
    fn stops(&self, generated: &[u32]) -> bool {
        if self.strings.is_empty() {
            return false;
        }
        // A token is a byte at least; a few more, so that the first ones' edges do not count.
        let tail = &generated[generated.len().saturating_sub(self.longest + 8)..];
        let found = |text: String| self.strings.iter().any(|s| text.contains(s.as_str()));
        // A special token has a text, too, which may be one of the strings; and a string goes on behind one.
        self.tokenizer.decode_with_special(tail).is_ok_and(found) || self.tokenizer.decode(tail).is_ok_and(found)
    }
}

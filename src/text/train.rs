//! Tokenizers from texts.

use super::Tokenizer;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::path::Path;
use tokenizers as hf;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::models::unigram::UnigramTrainer;
use tokenizers::models::wordpiece::WordPieceTrainer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// A kind of tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerKind {
    /// Byte-level byte-pair encoding, as GPT-2's (Sennrich et al., 2016): any text, without loss.
    Bpe,
    /// Pieces of lower-case words, as BERT's (Schuster, Nakajima, 2012), with `[CLS]` and `[SEP]` around a text.
    WordPiece,
    /// A unigram language model, as T5's (Kudo, 2018), with `</s>` after a text.
    Unigram,
}

/// Makes a tokenizer from texts.
///
/// ```
/// use fornax::text::{TokenizerKind, TokenizerTrainer};
/// let tokenizer = TokenizerTrainer::new(TokenizerKind::Bpe, 300).special(&["<|user|>"]).train(&["low lower lowest", "new newer newest"])?;
/// let ids = tokenizer.encode("the newest")?.ids;
/// assert_eq!(tokenizer.decode(&ids)?, "the newest");
/// assert_eq!(tokenizer.encode("<|user|>")?.ids.len(), 1);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TokenizerTrainer {
    kind: TokenizerKind,
    size: usize,
    special: Vec<String>,
    min_frequency: u64,
}

impl TokenizerTrainer {
    /// For a vocabulary of this size at most.
    pub fn new(kind: TokenizerKind, size: usize) -> TokenizerTrainer {
        TokenizerTrainer { kind, size, special: Vec::new(), min_frequency: 0 }
    }

    /// Tokens that are never taken apart, besides those of the kind.
    pub fn special(mut self, tokens: &[&str]) -> TokenizerTrainer {
        self.special.extend(tokens.iter().map(|t| t.to_string()));
        self
    }

    /// Pairs that are rarer are not joined.
    pub fn min_frequency(mut self, n: u64) -> TokenizerTrainer {
        self.min_frequency = n;
        self
    }

    /// The tokens of the kind, in the order of their numbers.
    fn own(&self) -> &'static [&'static str] {
        match self.kind {
            TokenizerKind::Bpe => &["<|endoftext|>"],
            TokenizerKind::WordPiece => &["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
            TokenizerKind::Unigram => &["<pad>", "</s>", "<unk>"],
        }
    }

    /// A tokenizer without a vocabulary, as its file would be.
    fn blank(&self) -> Value {
        let [normalizer, before, decoder, model] = match self.kind {
            TokenizerKind::Bpe => {
                let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
                let model = json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                    "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": {}, "merges": []});
                [Value::Null, bytes.clone(), bytes, model]
            }
            TokenizerKind::WordPiece => [
                json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}),
                json!({"type": "BertPreTokenizer"}),
                json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
                json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {}}),
            ],
            TokenizerKind::Unigram => {
                let space = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
                let model = json!({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]], "byte_fallback": false});
                [json!({"type": "NFKC"}), space.clone(), space, model]
            }
        };
        json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": normalizer, "pre_tokenizer": before,
            "post_processor": null, "decoder": decoder, "model": model})
    }

    fn trainer(&self) -> Result<TrainerWrapper> {
        let tokens = self.own().iter().map(|t| t.to_string()).chain(self.special.iter().cloned());
        let special: Vec<hf::AddedToken> = tokens.map(|t| hf::AddedToken::from(t, true)).collect();
        let (size, least) = (self.size, self.min_frequency);
        Ok(match self.kind {
            TokenizerKind::Bpe => {
                let alphabet = ByteLevel::alphabet().into_iter().collect();
                let b = BpeTrainer::builder().vocab_size(size).min_frequency(least).special_tokens(special).show_progress(false);
                b.initial_alphabet(alphabet).build().into()
            }
            TokenizerKind::WordPiece => {
                let b = WordPieceTrainer::builder().vocab_size(size).min_frequency(least).special_tokens(special).show_progress(false);
                b.build().into()
            }
            TokenizerKind::Unigram => {
                let mut b = UnigramTrainer::builder();
                let size = u32::try_from(size).map_err(|_| wrong("a vocabulary of more than 2³² tokens"))?;
                b.vocab_size(size).special_tokens(special).show_progress(false).unk_token(Some("<unk>".to_string()));
                b.build().map_err(|e| wrong(e.to_string()))?.into()
            }
        })
    }

    fn start(&self) -> Result<(hf::Tokenizer, TrainerWrapper)> {
        if self.size < self.own().len() + self.special.len() + 1 {
            return Err(wrong(format!("a vocabulary of {} tokens has no room beside the special ones", self.size)));
        }
        let blank = hf::Tokenizer::from_bytes(self.blank().to_string()).map_err(|e| wrong(e.to_string()))?;
        Ok((blank, self.trainer()?))
    }

    /// From texts in memory.
    ///
    /// # Errors
    /// A size without room for the special tokens; texts from which nothing can be learned.
    pub fn train(&self, texts: &[impl AsRef<str> + Sync]) -> Result<Tokenizer> {
        let (mut tokenizer, mut trainer) = self.start()?;
        if texts.iter().all(|t| t.as_ref().trim().is_empty()) {
            return Err(wrong("there is no text to learn from"));
        }
        tokenizer.train(&mut trainer, texts.iter().map(|t| t.as_ref().to_string())).map_err(|e| wrong(e.to_string()))?;
        self.finish(&tokenizer)
    }

    /// From files of UTF-8 text, line by line.
    ///
    /// # Errors
    /// `Error::Io` for a file that cannot be opened; as [`train`](TokenizerTrainer::train).
    pub fn train_files(&self, files: &[impl AsRef<Path>]) -> Result<Tokenizer> {
        let (mut tokenizer, mut trainer) = self.start()?;
        let mut names = Vec::new();
        let mut bytes = 0;
        for file in files {
            let file = file.as_ref();
            bytes += std::fs::metadata(file).map_err(|e| Error::io(file, e))?.len();
            names.push(file.to_str().ok_or_else(|| Error::format(file, "the name of the file must be UTF-8"))?.to_string());
        }
        if bytes == 0 {
            return Err(wrong("there is no text to learn from"));
        }
        tokenizer.train_from_files(&mut trainer, names).map_err(|e| wrong(e.to_string()))?;
        self.finish(&tokenizer)
    }

    /// The vocabulary is there: what is added to every text can be named by its numbers.
    fn finish(&self, trained: &hf::Tokenizer) -> Result<Tokenizer> {
        let text = trained.to_string(false).map_err(|e| wrong(e.to_string()))?;
        let mut json: Value = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        let id = |t: &str| trained.token_to_id(t).ok_or_else(|| wrong(format!("the vocabulary lacks {t}")));
        json["post_processor"] = match self.kind {
            TokenizerKind::Bpe => Value::Null,
            TokenizerKind::WordPiece => json!({"type": "BertProcessing", "sep": ["[SEP]", id("[SEP]")?], "cls": ["[CLS]", id("[CLS]")?]}),
            TokenizerKind::Unigram => {
                let part = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
                let end = json!({"SpecialToken": {"id": "</s>", "type_id": 0}});
                json!({"type": "TemplateProcessing", "single": [part("A"), end], "pair": [part("A"), end, part("B"), end],
                    "special_tokens": {"</s>": {"id": "</s>", "ids": [id("</s>")?], "tokens": ["</s>"]}}})
            }
        };
        Tokenizer::wrap(hf::Tokenizer::from_bytes(json.to_string()).map_err(|e| wrong(e.to_string()))?)
    }
}

fn wrong(message: impl Into<String>) -> Error {
    Error::argument("TokenizerTrainer", message)
}

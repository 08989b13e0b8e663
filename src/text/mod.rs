//! From text to text: tokenizers, chat templates, batches for training, sentence embeddings, and pipelines that put a tokenizer before a model and words
//! behind it. (Feature `text`.)

mod chat;
mod collate;
mod pipelines;
mod sentence;
mod spans;
mod tokenizer;
mod train;

pub use chat::{ChatTemplate, Message};
pub use collate::{CausalCollator, IGNORED, MaskedCollator};
pub use pipelines::{Classification, FillMask, Filled, TextClassifier, TextGenerator, TextToText};
pub use sentence::{Pooling, SentenceEncoder};
pub use spans::{Aggregation, Answer, Answers, Entities, Entity};
pub use tokenizer::{Encoding, StopStrings, TextStream, Tokenizer};
pub use train::{TokenizerKind, TokenizerTrainer};

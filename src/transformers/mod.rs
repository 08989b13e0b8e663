//! Transformers as Hugging Face's `transformers` has them: built from a folder's `config.json`, loaded by the published names of the weights from
//! `model.safetensors` or a sharded index.
//!
//! | `model_type` | loaded by |
//! |---|---|
//! | `bert`, `roberta`, `xlm-roberta`, `distilbert`: BERT's family, and sentence encoders such as MiniLM | [`Encoder`], [`MaskedLm`], [`SequenceClassifier`], [`TokenClassifier`], [`QuestionAnswerer`], [`NextSentence`] |
//! | `gpt2`, `llama` (2, 3, with Llama 3's rope scaling), `mistral`, `qwen2`, `falcon` | [`CausalLm`], [`CausalClassifier`] |
//! | `t5` (and 1.1, Flan) | [`Seq2Seq`] |
//!
//! Weights keep the dtype that they are stored in, unless [`LoadOptions`] says otherwise. The linear layers are [`Slot`](crate::nn::Slot)s, which
//! [`Module::named_slots`](crate::nn::Module::named_slots) finds by path: an adapter or a quantised layer can take their place.

mod activation;
mod blank;
mod cache;
mod causal_classifier;
mod causal_lm;
mod checkpoint;
mod config;
mod encoder;
mod falcon;
mod gpt2;
mod heads;
mod llama;
mod positions;
mod rope;
mod t5;
mod tokens;

pub use activation::Activation;
pub use cache::{Attend, KvCache, Prefix, Step};
pub use causal_classifier::CausalClassifier;
pub use causal_lm::{CausalLm, Decoder, DecoderShape};
pub use checkpoint::{Checkpoint, LoadOptions};
pub use config::Config;
pub use encoder::{Encoded, Encoder, EncoderFamily, EncoderShape};
pub use heads::{MaskedLm, NextSentence, ProblemType, QuestionAnswerer, SequenceClassifier, TokenClassifier};
pub use positions::sinusoidal;
pub use t5::{Seq2Seq, Source};
pub use tokens::Tokens;
pub(crate) use tokens::{fits, integer};

use crate::Error;

/// A family that is not known, or not for this.
fn unknown(config: &Config, found: &str, wanted: &str, known: &[&str]) -> Error {
    config.error(format!("model_type {found:?} is not known as {wanted}; known are {}", known.join(", ")))
}

//! Sentences as vectors (Reimers, Gurevych, 2019).

use super::{Encoding, Tokenizer};
use crate::transformers::{Config, Encoder, LoadOptions};
use crate::{DType, Error, Result, Tensor, no_grad};
use std::path::Path;

/// How the states of a text's tokens become one vector.
///
/// ```
/// use fornax::text::Pooling;
/// use fornax::{Device, Tensor};
/// let states = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 6.0, 9.0, 9.0], [1, 3, 2], Device::cpu())?;
/// let mask = Tensor::from_slice(&[1i32, 1, 0], [1, 3], Device::cpu())?;
/// assert_eq!(Pooling::Mean.apply(&states, Some(&mask))?.to_vec::<f32>()?, [2.0, 4.0]);
/// assert_eq!(Pooling::Max.apply(&states, Some(&mask))?.to_vec::<f32>()?, [3.0, 6.0]);
/// assert_eq!(Pooling::First.apply(&states, None)?.to_vec::<f32>()?, [1.0, 2.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The first token's: `[CLS]`.
    First,
    /// The mean of all tokens'.
    Mean,
    /// The largest number of all tokens', each for itself.
    Max,
    /// The sum, divided by the square root of the number of tokens.
    MeanSqrt,
    /// The last token's.
    Last,
}

impl Pooling {
    /// From states `[B, T, W]` and a mask `[B, T]` to `[B, W]`.
    ///
    /// # Errors
    /// Shapes that do not belong together.
    pub fn apply(self, states: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let &[b, t, w] = states.dims() else {
            return Err(Error::shape("Pooling", &[states.shape()], "states [B, T, W]"));
        };
        let real = match mask {
            None => None,
            Some(m) => Some(m.try_ne(0)?.try_reshape([b, t, 1])?),
        };
        let sum = || match &real {
            None => states.try_sum(1),
            Some(m) => m.try_where(states, 0.0)?.try_sum(1),
        };
        // Tokens of each row, [B, 1]; at least one, so that an empty text is no NaN.
        let count = || match &real {
            None => Tensor::try_full([b, 1], t.max(1), (states.dtype(), states.device())),
            Some(m) => m.try_cast(DType::F32)?.try_sum(1)?.try_clamp(1.0, f64::INFINITY)?.try_cast(states.dtype()),
        };
        match self {
            Pooling::First => states.try_select(1, 0),
            Pooling::Mean => sum()?.try_div(count()?),
            Pooling::MeanSqrt => sum()?.try_div(count()?.try_sqrt()?),
            Pooling::Max => match &real {
                None => states.try_max(1),
                Some(m) => m.try_where(states, f64::NEG_INFINITY)?.try_max(1),
            },
            Pooling::Last => match &real {
                None => states.try_select(1, -1),
                Some(m) => {
                    // The largest place that is none of padding, whichever side that is on.
                    let places = Tensor::try_arange(0, t as i64, 1, (DType::I32, m.device()))?.try_reshape([1, t, 1])?;
                    let last = m.try_where(places, 0)?.try_max(1)?;
                    states.try_gather(1, &last.try_reshape([b, 1, 1])?.try_expand([b, 1, w])?)?.try_squeeze(1)
                }
            },
        }
    }

    /// By the flags of a sentence encoder's `1_Pooling/config.json`.
    fn of(config: &Config) -> Result<Pooling> {
        let modes = [
            ("pooling_mode_mean_tokens", Pooling::Mean),
            ("pooling_mode_cls_token", Pooling::First),
            ("pooling_mode_max_tokens", Pooling::Max),
            ("pooling_mode_mean_sqrt_len_tokens", Pooling::MeanSqrt),
            ("pooling_mode_lasttoken", Pooling::Last),
        ];
        let mut found = Vec::new();
        for (key, mode) in modes {
            if config.flag(key, false)? {
                found.push(mode);
            }
        }
        match found.as_slice() {
            [mode] => Ok(*mode),
            _ => Err(config.error(format!("{} pooling modes are on: exactly one of them is known here", found.len()))),
        }
    }
}

/// A sentence encoder: MiniLM and its kin, from the folder that the hub, or a package, has.
///
/// ```no_run
/// use fornax::Device;
/// use fornax::text::SentenceEncoder;
/// let encoder = SentenceEncoder::load("all-MiniLM-L6-v2", Device::cpu())?;
/// let vectors = encoder.encode(&["A cat sits on the mat.", "The stock market fell."])?;
/// let query = encoder.encode(&["Where is the cat?"])?;
/// let scores = query.try_matmul(&vectors.try_t()?)?; // the cosines, for the vectors have length 1
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct SentenceEncoder {
    encoder: Encoder,
    tokenizer: Tokenizer,
    pooling: Pooling,
    normalize: bool,
    batch: usize,
}

impl SentenceEncoder {
    /// From parts.
    pub fn new(encoder: Encoder, tokenizer: Tokenizer, pooling: Pooling, normalize: bool) -> SentenceEncoder {
        SentenceEncoder { encoder, tokenizer, pooling, normalize, batch: 32 }
    }

    /// Loads a folder: an encoder, `tokenizer.json`, and where they are there `modules.json`, `sentence_bert_config.json` and `1_Pooling/config.json`. Without
    /// those, the mean of the tokens' states.
    ///
    /// # Errors
    /// As [`Encoder::load`] and [`Tokenizer::open`]; modules that are not known.
    pub fn load(folder: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<SentenceEncoder> {
        let folder = folder.as_ref();
        let encoder = Encoder::load(folder, options)?;
        let tokenizer = Tokenizer::open(folder)?;
        let limits = folder.join("sentence_bert_config.json");
        let context = encoder.shape().context;
        let length = if limits.is_file() { Config::read(limits)?.size("max_seq_length", context, 1 << 26)? } else { context };
        let (mut pooling, mut normalize) = (Pooling::Mean, false);
        let modules = folder.join("modules.json");
        if modules.is_file() {
            let text = std::fs::read_to_string(&modules).map_err(|e| Error::io(&modules, e))?;
            // A list; a config is an object.
            let list = Config::parse(&format!("{{\"modules\": {text}}}")).map_err(|_| Error::format(&modules, "a JSON list is wanted"))?;
            for module in list.get("modules").and_then(|v| v.as_array()).into_iter().flatten() {
                let kind = module["type"].as_str().unwrap_or_default();
                let path = module["path"].as_str().unwrap_or_default();
                match kind.rsplit('.').next().unwrap_or_default() {
                    "Transformer" => {}
                    "Pooling" if !path.contains(['/', '\\']) && !path.starts_with('.') => {
                        pooling = Pooling::of(&Config::read(folder.join(path).join("config.json"))?)?;
                    }
                    "Normalize" => normalize = true,
                    _ => {
                        let message = format!(
                            "{kind:?} at {path:?} is no module of a sentence encoder; known are Transformer, Pooling and Normalize"
                        );
                        return Err(Error::format(&modules, message));
                    }
                }
            }
        }
        let tokenizer = tokenizer.max_length(length.min(context))?;
        Ok(SentenceEncoder::new(encoder, tokenizer, pooling, normalize))
    }

    /// The encoder that computes so many sentences at once; 32 otherwise.
    pub fn batch_size(mut self, batch: usize) -> SentenceEncoder {
        self.batch = batch.max(1);
        self
    }

    /// The encoder inside.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// The tokenizer, which cuts texts to the encoder's length.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The vectors of sentences, `[N, W]`, of length 1 where the model says so. Sentences of like lengths are computed together, so that little is
    /// spent on padding.
    ///
    /// # Errors
    /// No sentences; as [`Encoder::forward`].
    pub fn encode(&self, sentences: &[&str]) -> Result<Tensor> {
        if sentences.is_empty() {
            return Err(Error::argument("SentenceEncoder::encode", "there are no sentences: at least one is wanted"));
        }
        let all = self.tokenizer.encode_batch(sentences)?;
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by_key(|&i| (all[i].ids.len(), i));
        no_grad(|| {
            let mut parts = Vec::new();
            for rows in order.chunks(self.batch) {
                let batch: Vec<Encoding> = rows.iter().map(|&i| all[i].clone()).collect();
                let part = self.forward(&batch)?;
                // One batch at a time: its states are freed before the next.
                part.eval()?;
                parts.push(part);
            }
            let sorted = Tensor::try_cat(&parts.iter().collect::<Vec<_>>(), 0)?;
            let mut place = vec![0i32; order.len()];
            for (at, &i) in order.iter().enumerate() {
                place[i] = crate::transformers::integer(at as u32)?;
            }
            sorted.try_index_select(0, &Tensor::from_vec(place, order.len(), sorted.device())?)
        })
    }

    /// The vectors `[B, W]` of one batch, with gradients: for training.
    ///
    /// # Errors
    /// As [`Encoder::forward`].
    pub fn forward(&self, batch: &[Encoding]) -> Result<Tensor> {
        let tokens = self.tokenizer.batch(batch, self.encoder.embedding().weight.device())?;
        let x = self.pooling.apply(&self.encoder.forward(&tokens)?.last, tokens.mask.as_ref())?;
        if !self.normalize {
            return Ok(x);
        }
        let norm = x.try_square()?.try_sum_keepdim(-1)?.try_sqrt()?;
        x.try_div(norm.try_clamp(1e-12, f64::INFINITY)?)
    }
}

//! Models with a tokenizer before and words behind them.

use super::collate::mask_of;
use super::{Message, StopStrings, Tokenizer};
use crate::generate::{Generation, generate, stream};
use crate::nn::Module;
use crate::transformers::{CausalClassifier, CausalLm, Checkpoint, LoadOptions, MaskedLm, ProblemType, Seq2Seq, SequenceClassifier};
use crate::{Device, Error, Result, no_grad};
use std::path::Path;

/// A class with its probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Classification {
    /// Its name.
    pub label: String,
    /// The probability; for a regression the number itself.
    pub score: f32,
}

/// A token in the place of a mask.
#[derive(Clone, Debug, PartialEq)]
pub struct Filled {
    /// Its text.
    pub token: String,
    /// Its number.
    pub id: u32,
    /// The probability.
    pub score: f32,
    /// The whole text with it. Where the text has other masks, they stay, and so do the tokens that were added to the text.
    pub sequence: String,
}

/// Where the weights of a module are.
pub(super) fn device_of(module: &dyn Module) -> Device {
    module.parameters().first().map_or(Device::cpu(), |p| p.device())
}

/// Texts to classes.
///
/// ```no_run
/// use fornax::Device;
/// use fornax::text::TextClassifier;
/// let classifier = TextClassifier::load("distilbert-base-uncased-finetuned-sst-2-english", Device::cpu())?;
/// let classes = classifier.classify(&["What a joy!"])?;
/// println!("{} {:.3}", classes[0][0].label, classes[0][0].score);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct TextClassifier {
    model: Classifier,
    tokenizer: Tokenizer,
}

enum Classifier {
    Encoder(Box<SequenceClassifier>),
    Causal(CausalClassifier),
}

impl TextClassifier {
    /// From parts. Texts are cut to the model's context.
    ///
    /// # Errors
    /// A context without room for a text.
    pub fn new(model: SequenceClassifier, tokenizer: &Tokenizer) -> Result<TextClassifier> {
        let tokenizer = tokenizer.max_length(model.encoder().shape().context)?;
        Ok(TextClassifier { model: Classifier::Encoder(Box::new(model)), tokenizer })
    }

    /// From a decoder with a head for classes. Texts are cut to the model's context.
    ///
    /// # Errors
    /// A context without room for a text.
    pub fn from_causal(model: CausalClassifier, tokenizer: &Tokenizer) -> Result<TextClassifier> {
        let tokenizer = tokenizer.max_length(model.model().shape().context)?;
        Ok(TextClassifier { model: Classifier::Causal(model), tokenizer })
    }

    /// Loads a folder, of an encoder or of a causal model.
    ///
    /// # Errors
    /// As [`SequenceClassifier::load`], [`CausalClassifier::load`] and [`Tokenizer::open`].
    pub fn load(folder: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<TextClassifier> {
        let (checkpoint, options, tokenizer) = (Checkpoint::open(&folder)?, options.into(), Tokenizer::open(&folder)?);
        if CausalClassifier::takes(checkpoint.config()) {
            return TextClassifier::from_causal(CausalClassifier::from_checkpoint(&checkpoint, &options)?, &tokenizer);
        }
        TextClassifier::new(SequenceClassifier::from_checkpoint(&checkpoint, &options)?, &tokenizer)
    }

    /// The classes of each text, the likeliest first. Their probabilities are a softmax, and sum to 1; those of a model of one class, or of a
    /// [`MultiLabel`](ProblemType::MultiLabel) one, are a sigmoid each; what a [`Regression`](ProblemType::Regression) gives is left as it is.
    ///
    /// # Errors
    /// No texts; as [`SequenceClassifier::forward`].
    pub fn classify(&self, texts: &[&str]) -> Result<Vec<Vec<Classification>>> {
        let (module, labels, problem): (&dyn Module, _, _) = match &self.model {
            Classifier::Encoder(m) => (&**m, m.labels(), m.problem_type()),
            Classifier::Causal(m) => (m, m.labels(), m.problem_type()),
        };
        let tokens = self.tokenizer.batch(&self.tokenizer.encode_batch(texts)?, device_of(module))?;
        let probabilities = no_grad(|| {
            let logits = match &self.model {
                Classifier::Encoder(m) => m.forward(&tokens)?,
                Classifier::Causal(m) => m.forward(&tokens)?,
            };
            match problem {
                Some(ProblemType::Regression) => Ok(logits),
                Some(ProblemType::MultiLabel) => logits.try_sigmoid(),
                _ if labels.len() == 1 => logits.try_sigmoid(),
                _ => logits.try_softmax(-1),
            }
        })?;
        let rows = probabilities.to_vec::<f32>()?;
        let of = |row: &[f32]| {
            let mut all: Vec<Classification> =
                labels.iter().zip(row).map(|(l, &score)| Classification { label: l.clone(), score }).collect();
            all.sort_by(|a, b| b.score.total_cmp(&a.score));
            all
        };
        Ok(rows.chunks(labels.len().max(1)).map(of).collect())
    }
}

/// What stands behind a mask.
///
/// ```no_run
/// use fornax::Device;
/// use fornax::text::FillMask;
/// let model = FillMask::load("bert-base-uncased", Device::cpu())?;
/// println!("{:?}", model.fill("The capital of France is [MASK].", 5)?);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct FillMask {
    model: MaskedLm,
    tokenizer: Tokenizer,
    mask: u32,
}

impl FillMask {
    /// From parts.
    ///
    /// # Errors
    /// A tokenizer without a token for masks.
    pub fn new(model: MaskedLm, tokenizer: &Tokenizer) -> Result<FillMask> {
        Ok(FillMask { model, mask: mask_of(tokenizer)?, tokenizer: tokenizer.clone() })
    }

    /// Loads a folder.
    ///
    /// # Errors
    /// As [`MaskedLm::load`] and [`Tokenizer::open`].
    pub fn load(folder: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<FillMask> {
        FillMask::new(MaskedLm::load(&folder, options)?, &Tokenizer::open(&folder)?)
    }

    /// For each mask of the text, its likeliest tokens.
    ///
    /// # Errors
    /// A text without a mask, or longer than the context.
    pub fn fill(&self, text: &str, most: usize) -> Result<Vec<Vec<Filled>>> {
        let encoding = self.tokenizer.encode(text)?;
        let masks: Vec<usize> = encoding.ids.iter().enumerate().filter(|(_, id)| **id == self.mask).map(|(i, _)| i).collect();
        if masks.is_empty() {
            let mask = self.tokenizer.token(self.mask).unwrap_or_default();
            return Err(Error::argument("FillMask", format!("the text has no {mask}: put it where a word is wanted")));
        }
        let ids = encoding.ids.clone();
        let tokens = self.tokenizer.batch(&[encoding], device_of(&self.model))?;
        let p = no_grad(|| self.model.forward(&tokens)?.try_softmax(-1))?;
        let width = p.dims()[2];
        let p = p.to_vec::<f32>()?;
        let alone = masks.len() == 1;
        let best = |at: usize| {
            let row = &p[at * width..(at + 1) * width];
            let mut order: Vec<usize> = (0..width).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            let of = |&i: &usize| -> Result<Filled> {
                let (id, mut whole) = (i as u32, ids.clone());
                whole[at] = id;
                let sequence = if alone { self.tokenizer.decode(&whole)? } else { self.tokenizer.decode_with_special(&whole)? };
                Ok(Filled { token: self.tokenizer.decode_with_special(&[id])?, id, score: row[i], sequence })
            };
            order[..most.min(width)].iter().map(of).collect::<Result<Vec<_>>>()
        };
        masks.into_iter().map(best).collect()
    }
}

/// Continues texts, and answers in a conversation.
///
/// ```no_run
/// use fornax::Device;
/// use fornax::generate::Generation;
/// use fornax::text::{Message, TextGenerator};
/// let model = TextGenerator::load("SmolLM-135M-Instruct", Device::cpu())?;
/// let options = Generation { max_new_tokens: 100, ..Generation::default() };
/// let prompt = model.chat(&[Message::new("user", "Why is the sky blue?")])?;
/// model.stream(&prompt, &options, |text| print!("{text}"))?;
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct TextGenerator {
    model: CausalLm,
    tokenizer: Tokenizer,
}

impl TextGenerator {
    /// From parts.
    pub fn new(model: CausalLm, tokenizer: &Tokenizer) -> TextGenerator {
        TextGenerator { model, tokenizer: tokenizer.clone() }
    }

    /// Loads a folder.
    ///
    /// # Errors
    /// As [`CausalLm::load`] and [`Tokenizer::open`].
    pub fn load(folder: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<TextGenerator> {
        Ok(TextGenerator::new(CausalLm::load(&folder, options)?, &Tokenizer::open(&folder)?))
    }

    /// The model.
    pub fn model(&self) -> &CausalLm {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode(text)?.ids)
    }

    /// The tokens of a conversation, up to where the answer begins.
    ///
    /// # Errors
    /// A folder without a chat template; as [`ChatTemplate::render`](super::ChatTemplate::render).
    pub fn chat(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let Some(template) = self.tokenizer.template() else {
            return Err(Error::argument(
                "TextGenerator",
                "the tokenizer has no chat template: this model was not trained for conversations",
            ));
        };
        Ok(self.tokenizer.encode_plain(&template.render(messages, true)?)?.ids)
    }

    /// What follows each text.
    ///
    /// # Errors
    /// As [`generate`].
    pub fn generate(&self, prompts: &[Vec<u32>], options: &Generation) -> Result<Vec<String>> {
        generate(&self.model, prompts, options)?.iter().map(|ids| self.tokenizer.decode(ids)).collect()
    }

    /// As [`generate`](TextGenerator::generate) for one text, handed over piece by piece as it comes.
    ///
    /// # Errors
    /// As [`stream`].
    pub fn stream(&self, prompt: &[u32], options: &Generation, mut piece: impl FnMut(&str)) -> Result<String> {
        let mut text = String::new();
        let mut decoder = self.tokenizer.stream();
        for step in stream(&self.model, &[prompt.to_vec()], options)? {
            for token in step?.into_iter().flatten() {
                let new = decoder.push(token)?;
                if !new.is_empty() {
                    piece(&new);
                    text += &new;
                }
            }
        }
        let rest = decoder.finish()?;
        if !rest.is_empty() {
            piece(&rest);
            text += &rest;
        }
        Ok(text)
    }

    /// An end at one of these strings, for [`Generation::stops`].
    pub fn stop_at(&self, strings: &[&str]) -> StopStrings {
        StopStrings::new(&self.tokenizer, strings)
    }
}

/// Texts to texts, as T5 does: summaries, translations; the task stands in front of the text.
///
/// ```no_run
/// use fornax::Device;
/// use fornax::generate::Generation;
/// use fornax::text::TextToText;
/// let model = TextToText::load("t5-small", Device::cpu())?;
/// let options = Generation { max_new_tokens: 60, beams: 4, ..Generation::default() };
/// println!("{}", model.run(&["summarize: The tower is 324 metres tall, about the same height as an 81-storey building."], &options)?[0]);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct TextToText {
    model: Seq2Seq,
    tokenizer: Tokenizer,
}

impl TextToText {
    /// From parts.
    pub fn new(model: Seq2Seq, tokenizer: &Tokenizer) -> TextToText {
        TextToText { model, tokenizer: tokenizer.clone() }
    }

    /// Loads a folder.
    ///
    /// # Errors
    /// As [`Seq2Seq::load`] and [`Tokenizer::open`].
    pub fn load(folder: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<TextToText> {
        Ok(TextToText::new(Seq2Seq::load(&folder, options)?, &Tokenizer::open(&folder)?))
    }

    /// What each text becomes.
    ///
    /// # Errors
    /// As [`generate`].
    pub fn run(&self, texts: &[&str], options: &Generation) -> Result<Vec<String>> {
        let prompts: Vec<Vec<u32>> = self.tokenizer.encode_batch(texts)?.into_iter().map(|e| e.ids).collect();
        generate(&self.model, &prompts, options)?.iter().map(|ids| self.tokenizer.decode(ids)).collect()
    }

    /// Summaries: T5's task `summarize`.
    ///
    /// # Errors
    /// As [`generate`].
    pub fn summarize(&self, texts: &[&str], options: &Generation) -> Result<Vec<String>> {
        let tasks: Vec<String> = texts.iter().map(|t| format!("summarize: {t}")).collect();
        self.run(&tasks.iter().map(String::as_str).collect::<Vec<_>>(), options)
    }
}

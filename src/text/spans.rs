//! Pipelines that find pieces of a text: named entities and answers.

use super::pipelines::device_of;
use super::{Encoding, Tokenizer};
use crate::transformers::{LoadOptions, QuestionAnswerer, TokenClassifier};
use crate::{Error, Result, no_grad};
use std::path::Path;

/// A named entity.
#[derive(Clone, Debug, PartialEq)]
pub struct Entity {
    /// Its kind: `PER`, `LOC`, ….
    pub label: String,
    /// The mean probability of its tokens.
    pub score: f32,
    /// The first byte in the text.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
    /// The text in between.
    pub text: String,
}

/// Named-entity recognition.
///
/// ```no_run
/// use fornax::Device;
/// use fornax::text::Entities;
/// let model = Entities::load("bert-base-NER", Device::cpu())?;
/// for e in model.find("Ada Lovelace lived in London.")? {
///     println!("{} {} {:.2}", e.label, e.text, e.score);
/// }
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct Entities {
    model: TokenClassifier,
    tokenizer: Tokenizer,
}

impl Entities {
    /// From parts.
    pub fn new(model: TokenClassifier, tokenizer: &Tokenizer) -> Entities {
        Entities { model, tokenizer: tokenizer.clone() }
    }

    /// Loads a folder.
    ///
    /// # Errors
    /// As [`TokenClassifier::load`] and [`Tokenizer::open`].
    pub fn load(folder: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<Entities> {
        Ok(Entities::new(TokenClassifier::load(&folder, options)?, &Tokenizer::open(&folder)?))
    }

    /// The entities of a text, in their order.
    ///
    /// # Errors
    /// A text longer than the context.
    pub fn find(&self, text: &str) -> Result<Vec<Entity>> {
        let encoding = self.tokenizer.encode(text)?;
        let tokens = self.tokenizer.batch(std::slice::from_ref(&encoding), device_of(&self.model))?;
        let p = no_grad(|| self.model.forward(&tokens)?.try_softmax(-1))?.to_vec::<f32>()?;
        let labels = self.model.labels();
        let best = |row: &[f32]| {
            let i = largest(row);
            (labels.get(i).map_or("O", String::as_str), row.get(i).copied().unwrap_or(0.0))
        };
        let classes: Vec<(&str, f32)> = p.chunks(labels.len().max(1)).map(best).collect();
        Ok(group(text, &encoding, &classes))
    }
}

fn largest(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// Joins tokens to entities: `B-X` begins one, `I-X` goes on where the one before is of the same kind, a piece of a word follows its word's first.
fn group(text: &str, encoding: &Encoding, classes: &[(&str, f32)]) -> Vec<Entity> {
    let mut out: Vec<(Entity, usize)> = Vec::new();
    // The token after the last entity's, if the entity may go on, and its word.
    let (mut next, mut word) = (None, None);
    for (i, &(class, score)) in classes.iter().enumerate() {
        let (Some(&(start, end)), Some(Some(_))) = (encoding.offsets.get(i), encoding.sources.get(i)) else { continue };
        let inner = encoding.words[i].is_some() && encoding.words[i] == word;
        let (begins, kind) = match class.split_once('-') {
            Some(("B", kind)) => (true, kind),
            Some((_, kind)) => (false, kind),
            None => (false, class),
        };
        let open = next == Some(i);
        match out.last_mut() {
            Some((e, n)) if open && (inner || (!begins && e.label == kind)) => {
                e.end = end;
                e.text = text.get(e.start..end).unwrap_or_default().to_string();
                e.score += score;
                *n += 1;
                next = Some(i + 1);
            }
            // The rest of a word whose first piece is none.
            _ if inner || class == "O" => {}
            _ => {
                let found = text.get(start..end).unwrap_or_default().to_string();
                out.push((Entity { label: kind.to_string(), score, start, end, text: found }, 1));
                next = Some(i + 1);
            }
        }
        word = encoding.words[i];
    }
    out.into_iter().map(|(e, n)| Entity { score: e.score / n as f32, ..e }).collect()
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// Its probability.
    pub score: f32,
    /// The first byte in the context.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

/// Extractive question answering. A context longer than the model's is read in overlapping pieces.
///
/// ```no_run
/// use fornax::Device;
/// use fornax::text::Answers;
/// let model = Answers::load("distilbert-base-cased-distilled-squad", Device::cpu())?;
/// let answer = model.answer("Where is the tower?", "The tower stands in Paris, on the Champ de Mars.")?;
/// println!("{} ({:.2})", answer.text, answer.score);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct Answers {
    model: QuestionAnswerer,
    tokenizer: Tokenizer,
}

/// The longest answer, in tokens.
const LONGEST: usize = 30;

impl Answers {
    /// From parts.
    pub fn new(model: QuestionAnswerer, tokenizer: &Tokenizer) -> Answers {
        Answers { model, tokenizer: tokenizer.clone() }
    }

    /// Loads a folder.
    ///
    /// # Errors
    /// As [`QuestionAnswerer::load`] and [`Tokenizer::open`].
    pub fn load(folder: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<Answers> {
        Ok(Answers::new(QuestionAnswerer::load(&folder, options)?, &Tokenizer::open(&folder)?))
    }

    /// The likeliest answer to a question in a context.
    ///
    /// # Errors
    /// A question that fills the context, an empty context.
    pub fn answer(&self, question: &str, context: &str) -> Result<Answer> {
        let length = self.model.encoder().shape().context.min(384);
        let mut best: Option<Answer> = None;
        for encoding in self.tokenizer.windows(question, context, length)? {
            let tokens = self.tokenizer.batch(std::slice::from_ref(&encoding), device_of(&self.model))?;
            let (start, end) = no_grad(|| self.model.forward(&tokens))?;
            let (start, end) = (start.to_vec::<f32>()?, end.to_vec::<f32>()?);
            let inside: Vec<usize> = (0..encoding.ids.len()).filter(|&i| encoding.sources[i] == Some(1)).collect();
            let (p, q) = (probabilities(&start, &inside), probabilities(&end, &inside));
            for (a, &i) in inside.iter().enumerate() {
                for (b, &j) in inside.iter().enumerate().skip(a).take(LONGEST) {
                    let score = p[a] * q[b];
                    if best.as_ref().is_none_or(|x| score > x.score) {
                        let (from, to) = (encoding.offsets[i].0, encoding.offsets[j].1);
                        best = Some(Answer { text: context.get(from..to).unwrap_or_default().to_string(), score, start: from, end: to });
                    }
                }
            }
        }
        best.ok_or_else(|| Error::argument("Answers", "the context has no tokens: there is nothing to find an answer in"))
    }
}

/// The softmax over some places.
fn probabilities(logits: &[f32], places: &[usize]) -> Vec<f32> {
    let largest = places.iter().map(|&i| logits[i]).fold(f32::NEG_INFINITY, f32::max);
    let e: Vec<f32> = places.iter().map(|&i| (logits[i] - largest).exp()).collect();
    let sum: f32 = e.iter().sum();
    e.into_iter().map(|v| v / sum).collect()
}

//! Pipelines that find pieces of a text: named entities and answers.

use super::Tokenizer;
use super::pipelines::device_of;
use crate::transformers::{LoadOptions, QuestionAnswerer, TokenClassifier};
use crate::{Error, Result, no_grad};
use std::path::Path;

/// A named entity.
#[derive(Clone, Debug, PartialEq)]
pub struct Entity {
    /// Its kind: `PER`, `LOC`, ….
    pub label: String,
    /// The mean probability of its tokens, or of its words: see [`Aggregation`].
    pub score: f32,
    /// The first byte in the text.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
    /// The text in between.
    pub text: String,
}

/// How the classes of tokens become those of entities, as transformers' `aggregation_strategy` does it. Neighbours of one kind are one entity, unless the second has a
/// label that begins with `B-`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aggregation {
    /// Each token counts for itself, so that a word can fall into parts.
    #[default]
    Simple,
    /// A word has the class of its first token.
    First,
    /// A word has the likeliest class of its tokens' mean probabilities.
    Average,
    /// A word has the class of the token that is surest.
    Max,
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
    aggregation: Aggregation,
}

impl Entities {
    /// From parts.
    pub fn new(model: TokenClassifier, tokenizer: &Tokenizer) -> Entities {
        Entities { model, tokenizer: tokenizer.clone(), aggregation: Aggregation::default() }
    }

    /// Loads a folder.
    ///
    /// # Errors
    /// As [`TokenClassifier::load`] and [`Tokenizer::open`].
    pub fn load(folder: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<Entities> {
        Ok(Entities::new(TokenClassifier::load(&folder, options)?, &Tokenizer::open(&folder)?))
    }

    /// How tokens become entities.
    pub fn aggregation(mut self, aggregation: Aggregation) -> Entities {
        self.aggregation = aggregation;
        self
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
        let rows = p.chunks(labels.len().max(1)).enumerate();
        // What was added has no source.
        let own = rows.filter(|(i, _)| encoding.sources.get(*i).is_some_and(Option::is_some));
        let inner = self.tokenizer.inner_pieces(text, &encoding);
        let tokens: Vec<Piece> = own
            .map(|(i, row)| Piece { row: row.to_vec(), start: encoding.offsets[i].0, end: encoding.offsets[i].1, inner: inner[i] })
            .collect();
        let pieces = match self.aggregation {
            Aggregation::Simple => tokens,
            how => words(tokens, how),
        };
        Ok(group(text, &pieces, labels))
    }
}

/// A token or a word with the probabilities of its classes.
struct Piece {
    row: Vec<f32>,
    start: usize,
    end: usize,
    /// Whether it goes on with the word of the token before.
    inner: bool,
}

fn largest(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// The words of tokens.
fn words(tokens: Vec<Piece>, how: Aggregation) -> Vec<Piece> {
    let mut words: Vec<Vec<Piece>> = Vec::new();
    for token in tokens {
        match words.last_mut() {
            Some(word) if token.inner => word.push(token),
            _ => words.push(vec![token]),
        }
    }
    let join = |word: Vec<Piece>| -> Option<Piece> {
        let (start, end) = (word.first()?.start, word.last()?.end);
        let sure = |p: &Piece| p.row.get(largest(&p.row)).copied().unwrap_or(0.0);
        let row = match how {
            Aggregation::Max => word.iter().reduce(|best, p| if sure(p) > sure(best) { p } else { best })?.row.clone(),
            Aggregation::Average => {
                let mut mean = vec![0.0; word[0].row.len()];
                word.iter().for_each(|p| mean.iter_mut().zip(&p.row).for_each(|(m, v)| *m += v));
                mean.iter_mut().for_each(|m| *m /= word.len() as f32);
                mean
            }
            Aggregation::First | Aggregation::Simple => word[0].row.clone(),
        };
        Some(Piece { row, start, end, inner: false })
    };
    words.into_iter().filter_map(join).collect()
}

/// Whether a label begins an entity, and its kind.
fn tag(label: &str) -> (bool, &str) {
    match label.split_at_checked(2) {
        Some(("B-", kind)) => (true, kind),
        Some(("I-", kind)) => (false, kind),
        _ => (false, label),
    }
}

/// Joins neighbours of one kind to entities, and leaves out those of class `O`.
fn group(text: &str, pieces: &[Piece], labels: &[String]) -> Vec<Entity> {
    let mut groups: Vec<(Entity, &str, usize)> = Vec::new();
    for piece in pieces {
        let i = largest(&piece.row);
        let label = labels.get(i).map_or("O", String::as_str);
        let (begins, kind) = tag(label);
        let score = piece.row.get(i).copied().unwrap_or(0.0);
        match groups.last_mut() {
            Some((e, last, n)) if *last == kind && !begins => {
                e.end = piece.end;
                e.score += score;
                *n += 1;
            }
            _ => {
                let name = label.split_once('-').map_or(label, |(_, rest)| rest);
                let entity = Entity { label: name.to_string(), score, start: piece.start, end: piece.end, text: String::new() };
                groups.push((entity, kind, 1));
            }
        }
    }
    let whole = |(e, _, n): (Entity, &str, usize)| {
        let found = text.get(e.start..e.end).unwrap_or_default().to_string();
        Entity { score: e.score / n as f32, text: found, ..e }
    };
    groups.into_iter().filter(|(e, ..)| e.label != "O").map(whole).collect()
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// Its probability, beside all other answers and none.
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
    longest: usize,
}

impl Answers {
    /// From parts.
    pub fn new(model: QuestionAnswerer, tokenizer: &Tokenizer) -> Answers {
        Answers { model, tokenizer: tokenizer.clone(), longest: 15 }
    }

    /// Loads a folder.
    ///
    /// # Errors
    /// As [`QuestionAnswerer::load`] and [`Tokenizer::open`].
    pub fn load(folder: impl AsRef<Path>, options: impl Into<LoadOptions>) -> Result<Answers> {
        Ok(Answers::new(QuestionAnswerer::load(&folder, options)?, &Tokenizer::open(&folder)?))
    }

    /// The most tokens of an answer: 15 if not given, as with transformers (`max_answer_len`).
    pub fn max_answer_len(mut self, tokens: usize) -> Answers {
        self.longest = tokens;
        self
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
            // The first token, which stands for no answer where it was added, takes its share, as in transformers' pipeline.
            let none = encoding.sources.first().is_some_and(Option::is_none).then_some(0);
            let (p, q) = (probabilities(&start, &inside, none), probabilities(&end, &inside, none));
            for (a, &i) in inside.iter().enumerate() {
                for (b, &j) in inside.iter().enumerate().skip(a).take(self.longest) {
                    let score = p[a] * q[b];
                    if best.as_ref().is_none_or(|x| score > x.score) {
                        let (from, to) = (encoding.offsets[i].0, encoding.offsets[j].1);
                        best = Some(Answer { text: context.get(from..to).unwrap_or_default().to_string(), score, start: from, end: to });
                    }
                }
            }
        }
        let nothing = if self.longest == 0 {
            "answers of 0 tokens: at least 1 is wanted"
        } else {
            "the context has no tokens: there is nothing to find an answer in"
        };
        best.ok_or_else(|| Error::argument("Answers", nothing))
    }
}

/// The softmax over some places and another one, for the places.
fn probabilities(logits: &[f32], places: &[usize], other: Option<usize>) -> Vec<f32> {
    let all = || places.iter().copied().chain(other).map(|i| logits[i]);
    let largest = all().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = all().map(|v| (v - largest).exp()).sum();
    places.iter().map(|&i| (logits[i] - largest).exp() / sum).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_answer_takes_its_share() {
        let p = super::probabilities(&[2.0, 9.0, 1.0, 0.0], &[2, 3], Some(0));
        // PyTorch: torch.tensor([2., 1., 0.]).softmax(0)[1:]
        assert!((p[0] - 0.24472848).abs() < 1e-6 && (p[1] - 0.09003057).abs() < 1e-6, "{p:?}");
        let p = super::probabilities(&[2.0, 9.0, 1.0, 0.0], &[2, 3], None);
        assert!((p[0] - 0.7310586).abs() < 1e-6 && (p[0] + p[1] - 1.0).abs() < 1e-6, "{p:?}");
    }
}

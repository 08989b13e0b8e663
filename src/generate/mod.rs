//! Continuing texts: greedy, sampled or by beam search; token by token through an iterator, or all at once.
//!
//! ```
//! use fornax::generate::{Generation, generate, stream};
//! use fornax::transformers::{CausalLm, Config};
//! use fornax::Device;
//! # fornax::manual_seed(1);
//! let config = Config::parse(r#"{"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2}"#)?;
//! let model = CausalLm::new(&config, Device::cpu())?;
//! // Two prompts of different lengths, ten new tokens each, the likeliest ones.
//! let greedy = Generation { max_new_tokens: 10, ..Generation::default() };
//! let out = generate(&model, &[vec![1, 2, 3], vec![4]], &greedy)?;
//! assert_eq!((out.len(), out[0].len()), (2, 10));
//!
//! let sampled = Generation { max_new_tokens: 5, sample: true, temperature: 0.8, top_p: Some(0.9), seed: 7, ..Generation::default() };
//! for step in stream(&model, &[vec![1, 2, 3]], &sampled)? {
//!     let token = step?[0];
//!     assert!(token.is_some_and(|t| t < 50));
//! }
//! # Ok::<(), fornax::Error>(())
//! ```

mod beam;
mod draw;
mod folder;
mod process;
mod session;

pub use process::{LogitsProcessor, MinP, RepetitionPenalty, Temperature, TopK, TopP};
pub use session::{Begun, Generative, Session};

use crate::data::Rng;
use crate::transformers::integer;
use crate::{DType, Device, Error, Result, Tensor, no_grad};
use draw::Seen;
use process::{largest, softmax};

/// When a text ends before its longest length, besides at the tokens that end it.
///
/// ```
/// use fornax::generate::Stop;
/// /// After two tokens of a kind.
/// struct Twice;
/// impl Stop for Twice {
///     fn stops(&self, generated: &[u32]) -> bool {
///         generated.len() > 1 && generated[generated.len() - 1] == generated[generated.len() - 2]
///     }
/// }
/// assert!(Twice.stops(&[1, 2, 2]));
/// ```
pub trait Stop: Send + Sync {
    /// Whether the text ends with these new tokens.
    fn stops(&self, generated: &[u32]) -> bool;
}

/// How to continue texts; the defaults are greedy decoding. [`from_folder`](Generation::from_folder) reads what a model's makers recommend.
///
/// ```
/// use fornax::generate::Generation;
/// let beams = Generation { beams: 4, length_penalty: 2.0, ..Generation::default() };
/// assert!(!beams.sample && beams.ends.is_none());
/// ```
pub struct Generation {
    /// The most tokens to add; fewer where the model's context ends.
    pub max_new_tokens: usize,
    /// The most tokens of a text with its prompt (the longest, if there are several; for a text-to-text model those of the decoder), if given.
    pub max_length: Option<usize>,
    /// Tokens that end a text (and are its last); the model's if not given.
    pub ends: Option<Vec<u32>>,
    /// Draw tokens by their probabilities; the likeliest each time if false.
    pub sample: bool,
    /// See [`Temperature`]. Counts where tokens are drawn, as `top_k`, `top_p` and `min_p` do.
    pub temperature: f64,
    /// See [`TopK`].
    pub top_k: Option<usize>,
    /// See [`TopP`].
    pub top_p: Option<f64>,
    /// See [`MinP`].
    pub min_p: Option<f64>,
    /// See [`RepetitionPenalty`]; 1 for none.
    pub repetition_penalty: f64,
    /// What draws depend on: the same seed gives the same tokens.
    pub seed: u64,
    /// Texts that beam search follows at once; 1 for none.
    pub beams: usize,
    /// Finished beams are compared by their log-probability divided by length to this power: above 0 favours long texts, below 0 short ones.
    pub length_penalty: f64,
    /// Beam search ends as soon as there are as many finished texts as beams.
    pub early_stopping: bool,
    /// Changes of the logits of one's own: after the repetition penalty, before the temperature.
    pub processors: Vec<Box<dyn LogitsProcessor>>,
    /// Ends of one's own.
    pub stops: Vec<Box<dyn Stop>>,
}

impl Default for Generation {
    fn default() -> Self {
        Generation {
            max_new_tokens: 256,
            max_length: None,
            ends: None,
            sample: false,
            temperature: 1.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
            seed: 0,
            beams: 1,
            length_penalty: 1.0,
            early_stopping: false,
            processors: Vec::new(),
            stops: Vec::new(),
        }
    }
}

/// The steps from logits to a choice.
struct Chain<'a> {
    options: &'a Generation,
    penalty: Option<RepetitionPenalty>,
    draw: Vec<Box<dyn LogitsProcessor>>,
    ends: Vec<u32>,
}

impl<'a> Chain<'a> {
    fn new(options: &'a Generation, ends: &[u32]) -> Result<Chain<'a>> {
        let penalty = (options.repetition_penalty != 1.0).then(|| RepetitionPenalty::new(options.repetition_penalty)).transpose()?;
        let mut draw: Vec<Box<dyn LogitsProcessor>> = Vec::new();
        if options.sample {
            draw.push(Box::new(Temperature::new(options.temperature)?));
            if let Some(k) = options.top_k {
                draw.push(Box::new(TopK::new(k)?));
            }
            if let Some(p) = options.top_p {
                draw.push(Box::new(TopP::new(p)?));
            }
            if let Some(p) = options.min_p {
                draw.push(Box::new(MinP::new(p)?));
            }
        }
        Ok(Chain { options, penalty, draw, ends: options.ends.clone().unwrap_or_else(|| ends.to_vec()) })
    }

    /// The logits of all rows after every step, where all of them can do without the host.
    fn process_tensor(&self, logits: &Tensor, seen: Option<&Seen>) -> Result<Option<Tensor>> {
        let logits = logits.try_cast(DType::F32)?;
        let mut logits = match (&self.penalty, seen) {
            (None, _) => logits,
            (Some(p), Some(seen)) => p.apply(&logits, &seen.0)?,
            (Some(_), None) => return Ok(None),
        };
        for p in self.options.processors.iter().chain(&self.draw) {
            match p.process_tensor(&logits)? {
                Some(l) if l.shape() == logits.shape() => logits = l,
                Some(l) => return Err(Error::shape("LogitsProcessor::process_tensor", &[l.shape()], format!("logits {}", logits.shape()))),
                None => return Ok(None),
            }
        }
        Ok(Some(logits))
    }

    fn process(&self, tokens: &[u32], logits: &mut [f32]) {
        if let Some(p) = &self.penalty {
            p.process(tokens, logits);
        }
        self.options.processors.iter().chain(&self.draw).for_each(|p| p.process(tokens, logits));
    }

    fn choose(&self, tokens: &[u32], logits: &mut [f32], rng: &mut Rng) -> Result<u32> {
        self.process(tokens, logits);
        if logits.iter().any(|l| l.is_nan()) {
            return Err(not_a_number());
        }
        if !self.options.sample {
            return Ok(largest(logits));
        }
        let p = softmax(logits);
        let mut left = rng.uniform(0.0, 1.0);
        let mut last = None;
        for (i, &p) in p.iter().enumerate().filter(|(_, p)| **p > 0.0) {
            last = Some(i as u32);
            left -= p;
            if left < 0.0 {
                break;
            }
        }
        last.ok_or_else(no_token)
    }

    /// How many tokens are to be added to these texts.
    fn longest(&self, history: &[Vec<u32>], room: usize) -> Result<usize> {
        let most = self.options.max_new_tokens.min(room);
        let prompt = history.iter().map(Vec::len).max().unwrap_or(0);
        match self.options.max_length {
            None => Ok(most),
            Some(n) if n > prompt => Ok(most.min(n - prompt)),
            Some(n) => {
                let message = format!("the prompt has {prompt} tokens and max_length is {n}: a larger one, or max_new_tokens, is wanted");
                Err(Error::argument("generate", message))
            }
        }
    }

    fn ends(&self, generated: &[u32]) -> bool {
        generated.last().is_some_and(|t| self.ends.contains(t)) || self.options.stops.iter().any(|s| s.stops(generated))
    }
}

fn not_a_number() -> Error {
    Error::argument("generate", "the logits hold NaN: the weights or a logits processor are at fault")
}

fn no_token() -> Error {
    Error::argument("generate", "the logits processors left no token")
}

/// Continues each prompt: the new tokens, with the one that ended the text. Rows are independent of each other.
///
/// # Errors
/// No prompts, an empty one, tokens outside the vocabulary, prompts that fill the context; options outside their range; what the model's pass can give.
pub fn generate(model: &dyn Generative, prompts: &[Vec<u32>], options: &Generation) -> Result<Vec<Vec<u32>>> {
    if options.beams == 0 {
        return Err(Error::argument("generate", "beams is 0: 1 is greedy, or samples; more are a beam search"));
    }
    if !options.length_penalty.is_finite() {
        return Err(Error::argument("generate", format!("length_penalty is {}: a finite number is wanted", options.length_penalty)));
    }
    if options.beams > 1 {
        let chain = Chain::new(options, model.ends())?;
        return no_grad(|| beam::search(check(model, prompts)?, &chain, prompts.len(), model.vocabulary(), model.device()));
    }
    let mut out = vec![Vec::new(); prompts.len()];
    for step in stream(model, prompts, options)? {
        for (row, token) in out.iter_mut().zip(step?) {
            row.extend(token);
        }
    }
    Ok(out)
}

/// Continues prompts step by step: each item has the next token of every row, None where a row has ended. The model works when the next item is asked for.
///
/// # Errors
/// As [`generate`]; beams, which know their tokens at the end only.
pub fn stream<'a>(model: &'a dyn Generative, prompts: &[Vec<u32>], options: &'a Generation) -> Result<Stream<'a>> {
    if options.beams != 1 {
        let message = format!("{} beams: a stream has 1, for beam search knows its tokens at the end; use generate", options.beams);
        return Err(Error::argument("stream", message));
    }
    let chain = Chain::new(options, model.ends())?;
    let begun = no_grad(|| check(model, prompts))?;
    let rows = begun.history.len();
    Ok(Stream {
        left: chain.longest(&begun.history, begun.room)?,
        prompt: begun.history.iter().map(Vec::len).collect(),
        rngs: (0..rows).map(|i| Rng::keyed(options.seed, 0, i as u64)).collect(),
        device: model.device(),
        done: vec![false; rows],
        seen: chain.penalty.map(|_| Seen::new(begun.history.iter(), model.vocabulary(), model.device())).transpose()?,
        tokens: begun.history,
        next: Next::Logits(begun.logits),
        session: begun.session,
        chain,
    })
}

fn check<'a>(model: &'a dyn Generative, prompts: &[Vec<u32>]) -> Result<Begun<'a>> {
    if prompts.is_empty() {
        return Err(Error::argument("generate", "there are no prompts"));
    }
    if prompts.iter().any(Vec::is_empty) {
        return Err(Error::argument("generate", "a prompt has no tokens: give it at least one, a token that begins texts for instance"));
    }
    let bound = model.vocabulary();
    for (row, prompt) in prompts.iter().enumerate() {
        if let Some((i, t)) = prompt.iter().enumerate().find(|(_, t)| **t as usize >= bound) {
            let message =
                format!("token {i} of prompt {row} is {t}, and the vocabulary has {bound}: does the tokenizer belong to the model?");
            return Err(Error::argument("generate", message));
        }
    }
    model.begin(prompts)
}

/// The logits of the next token, or what must be read first.
enum Next {
    Logits(Tensor),
    Ids(Tensor),
    Nothing,
}

/// The iterator of [`stream`].
pub struct Stream<'a> {
    session: Box<dyn Session + 'a>,
    chain: Chain<'a>,
    next: Next,
    tokens: Vec<Vec<u32>>,
    /// What the repetition penalty looks at.
    seen: Option<Seen>,
    prompt: Vec<usize>,
    rngs: Vec<Rng>,
    done: Vec<bool>,
    left: usize,
    device: Device,
}

impl Stream<'_> {
    /// The tokens of each row so far, prompts included (for a text-to-text model the decoder's).
    pub fn tokens(&self) -> &[Vec<u32>] {
        &self.tokens
    }

    /// The choice stays on the device: the next pass does not wait for the host to send it.
    fn choose(&mut self, logits: &Tensor) -> Result<(Vec<u32>, Tensor)> {
        let (ids, read) = if self.chain.options.sample {
            // A row that has ended draws nothing.
            let rows = self.rngs.iter_mut().zip(&self.done);
            let u: Vec<f32> = rows.map(|(rng, &done)| if done { 0.0 } else { rng.uniform(0.0, 1.0) as f32 }).collect();
            draw::drawn(logits, &Tensor::from_vec(u, [self.done.len(), 1], self.device)?)?
        } else {
            draw::likeliest(logits)?
        };
        if let Some(seen) = &mut self.seen {
            seen.add(&ids)?;
        }
        let mut state = self.session.state();
        state.push(&ids);
        state.extend(self.seen.iter().map(|s| &s.0));
        let host = read.to_vec_with::<i32>(&state)?;
        for (&t, _) in host.iter().zip(&self.done).filter(|(_, done)| !**done) {
            match t {
                draw::NAN => return Err(not_a_number()),
                draw::NONE => return Err(no_token()),
                _ => {}
            }
        }
        Ok((host.into_iter().map(|t| t.max(0) as u32).collect(), ids))
    }

    fn choose_on_host(&mut self, logits: &Tensor) -> Result<(Vec<u32>, Tensor)> {
        self.seen = None;
        let rows = self.tokens.len();
        let mut host = logits.to_vec_with::<f32>(&self.session.state())?;
        let width = host.len() / rows.max(1);
        let mut chosen = Vec::with_capacity(rows);
        for (i, row) in host.chunks_exact_mut(width.max(1)).enumerate() {
            chosen.push(if self.done[i] { 0 } else { self.chain.choose(&self.tokens[i], row, &mut self.rngs[i])? });
        }
        let ids: Vec<i32> = chosen.iter().map(|&t| integer(t)).collect::<Result<_>>()?;
        Ok((chosen, Tensor::from_vec(ids, [rows, 1], self.device)?))
    }

    fn step(&mut self) -> Result<Vec<Option<u32>>> {
        let logits = match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Logits(l) => l,
            Next::Ids(ids) => self.session.step(&ids)?,
            Next::Nothing => return Err(Error::argument("stream", "an earlier step failed")),
        };
        let (chosen, ids) = match self.chain.process_tensor(&logits, self.seen.as_ref())? {
            Some(logits) => self.choose(&logits)?,
            None => self.choose_on_host(&logits)?,
        };
        self.next = Next::Ids(ids);
        let mut out = Vec::with_capacity(chosen.len());
        for (i, token) in chosen.into_iter().enumerate() {
            out.push((!self.done[i]).then_some(token));
            if !self.done[i] {
                self.tokens[i].push(token);
                self.done[i] = self.chain.ends(&self.tokens[i][self.prompt[i]..]);
            }
        }
        Ok(out)
    }
}

impl Iterator for Stream<'_> {
    type Item = Result<Vec<Option<u32>>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 || self.done.iter().all(|&d| d) {
            return None;
        }
        self.left -= 1;
        let step = no_grad(|| self.step());
        if step.is_err() {
            self.left = 0;
        }
        Some(step)
    }
}

//! What a model must offer to continue texts.

use crate::transformers::{CausalLm, KvCache, Seq2Seq, Source, Tokens, fits, integer};
use crate::{Device, Result, Tensor};

/// A model that continues texts.
pub trait Generative {
    /// The number of tokens that it knows.
    fn vocabulary(&self) -> usize;

    /// The tokens that end a text.
    fn ends(&self) -> &[u32];

    /// Where it computes.
    fn device(&self) -> Device;

    /// Reads the prompts.
    ///
    /// # Errors
    /// Prompts that it cannot read.
    fn begin(&self, prompts: &[Vec<u32>]) -> Result<Begun<'_>>;
}

/// A text that was begun.
pub struct Begun<'a> {
    /// What goes on.
    pub session: Box<dyn Session + 'a>,
    /// The logits of the first new token, `[B, vocabulary]`.
    pub logits: Tensor,
    /// The tokens that new ones follow, row by row.
    pub history: Vec<Vec<u32>>,
    /// So many new tokens fit into the context.
    pub room: usize,
}

/// A model in the middle of texts.
pub trait Session {
    /// The logits `[B, vocabulary]` after one more token a row, `[B, 1]`.
    ///
    /// # Errors
    /// What a pass can give.
    fn step(&mut self, ids: &Tensor) -> Result<Tensor>;

    /// Lets row `i` go on from what was row `rows[i]`; their number may change.
    ///
    /// # Errors
    /// No such row: an `Error::Index` when the result is read.
    fn reorder(&mut self, rows: &Tensor) -> Result<()>;

    /// The tensors that the next step needs.
    fn state(&self) -> Vec<&Tensor>;
}

struct CausalSession<'a> {
    model: &'a CausalLm,
    cache: KvCache,
}

impl Session for CausalSession<'_> {
    fn step(&mut self, ids: &Tensor) -> Result<Tensor> {
        self.model.next(ids, &mut self.cache)
    }

    fn reorder(&mut self, rows: &Tensor) -> Result<()> {
        self.cache.reorder(rows)
    }

    fn state(&self) -> Vec<&Tensor> {
        self.cache.tensors().collect()
    }
}

impl Generative for CausalLm {
    fn vocabulary(&self) -> usize {
        self.shape().vocabulary
    }

    fn ends(&self) -> &[u32] {
        self.ends()
    }

    fn device(&self) -> Device {
        self.device()
    }

    fn begin(&self, prompts: &[Vec<u32>]) -> Result<Begun<'_>> {
        let width = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let context = self.shape().context;
        // One new token at least.
        fits("generate", width + 1, context)?;
        let mut ids = Vec::with_capacity(prompts.len() * width);
        for prompt in prompts {
            ids.resize(ids.len() + width - prompt.len(), 0);
            for &t in prompt {
                ids.push(integer(t)?);
            }
        }
        let pads: Vec<usize> = prompts.iter().map(|p| width - p.len()).collect();
        let mut cache = KvCache::padded(&pads, self.device())?;
        let ids = Tensor::from_vec(ids, [prompts.len(), width], self.device())?;
        let logits = self.next(&ids, &mut cache)?;
        // The last token needs no pass of its own. A prefix takes room, too.
        let room = context.saturating_sub(cache.len());
        Ok(Begun { session: Box::new(CausalSession { model: self, cache }), logits, history: prompts.to_vec(), room })
    }
}

struct Seq2SeqSession<'a> {
    model: &'a Seq2Seq,
    source: Source,
    cache: KvCache,
}

impl Session for Seq2SeqSession<'_> {
    fn step(&mut self, ids: &Tensor) -> Result<Tensor> {
        self.model.next(ids, &self.source, &mut self.cache)
    }

    fn reorder(&mut self, rows: &Tensor) -> Result<()> {
        self.source = self.source.select(rows)?;
        self.cache.reorder(rows)
    }

    fn state(&self) -> Vec<&Tensor> {
        self.cache.tensors().chain([&self.source.states]).collect()
    }
}

impl Generative for Seq2Seq {
    fn vocabulary(&self) -> usize {
        self.vocabulary()
    }

    fn ends(&self) -> &[u32] {
        self.ends()
    }

    fn device(&self) -> Device {
        self.device()
    }

    fn begin(&self, prompts: &[Vec<u32>]) -> Result<Begun<'_>> {
        let source = self.encode(&Tokens::pad(prompts, 0, self.device())?)?;
        let mut cache = KvCache::new();
        let start = vec![integer(self.start())?; prompts.len()];
        let logits = self.next(&Tensor::from_vec(start, [prompts.len(), 1], self.device())?, &source, &mut cache)?;
        let history = vec![vec![self.start()]; prompts.len()];
        Ok(Begun { session: Box::new(Seq2SeqSession { model: self, source, cache }), logits, history, room: usize::MAX })
    }
}

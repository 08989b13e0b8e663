//! Beam search, as `transformers` does it.

use super::draw::Seen;
use super::process::log_softmax;
use super::{Begun, Chain};
use crate::transformers::integer;
use crate::{DType, Device, Error, Result, Tensor};

/// A text with its score.
#[derive(Clone)]
struct Beam {
    tokens: Vec<u32>,
    score: f32,
}

/// What is known of one prompt.
struct Row {
    /// Texts that go on, best first.
    running: Vec<Beam>,
    /// Texts that have ended, best first; at most as many as beams.
    finished: Vec<Beam>,
    /// No running text can become better than the finished ones.
    settled: bool,
}

/// A score that no text has.
const NONE: f32 = -1e9;

pub(super) fn search(begun: Begun<'_>, chain: &Chain<'_>, rows: usize, vocabulary: usize, device: Device) -> Result<Vec<Vec<u32>>> {
    let options = chain.options;
    let beams = options.beams;
    if options.sample {
        return Err(Error::argument("generate", "beam search takes the likeliest texts: sample must be false with more than one beam"));
    }
    let keep = (1 + chain.ends.len()).max(2).saturating_mul(beams);
    if keep > vocabulary {
        let message = format!("{beams} beams for a vocabulary of {vocabulary} are too many: {keep} candidates must be in it");
        return Err(Error::argument("generate", message));
    }
    let Begun { mut session, logits, history, room } = begun;
    let longest = chain.longest(&history, room)?;
    let start: Vec<usize> = history.iter().map(Vec::len).collect();
    let mut all: Vec<Row> = history
        .into_iter()
        .map(|tokens| Row { running: vec![Beam { tokens, score: 0.0 }], finished: Vec::new(), settled: false })
        .collect();
    if longest == 0 {
        return Ok(vec![Vec::new(); rows]);
    }
    // The first logits have one row a prompt, the others one a beam.
    let (mut logits, mut first) = (logits, true);
    for len in 1.. {
        let found = candidates(&logits, &all, keep, chain, &session.state())?;
        let (mut parents, mut next) = (Vec::new(), Vec::new());
        let mut goes_on = false;
        for (r, (row, candidates)) in all.iter_mut().zip(found).enumerate() {
            let base = if first { r } else { r * beams };
            if candidates.iter().any(|c| c.0.is_nan()) {
                return Err(super::not_a_number());
            }
            let mut running = Vec::with_capacity(beams);
            let mut ended = Vec::new();
            for (rank, &(score, b, token)) in candidates.iter().enumerate() {
                let mut tokens = row.running[b].tokens.clone();
                tokens.push(token);
                let ends = len == longest || chain.ends(&tokens[start[r]..]);
                if ends && rank < beams {
                    ended.push(Beam { tokens: tokens.clone(), score: score / (len as f32).powf(options.length_penalty as f32) });
                }
                running.push((if ends { score + NONE } else { score }, Beam { tokens, score }, base + b, ends));
            }
            let full = row.finished.len() == beams && options.early_stopping;
            if !row.settled && !full {
                row.finished.extend(ended);
                row.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
                row.finished.truncate(beams);
            }
            running.sort_by(|a, b| b.0.total_cmp(&a.0));
            // Not all that goes on may have ended: else there is nothing to go on with.
            let open = running.iter().any(|c| !c.3);
            running.truncate(beams);
            row.running.clear();
            for (score, beam, parent, _) in running {
                parents.push(parent);
                next.push(integer(*beam.tokens.last().unwrap_or(&0))?);
                row.running.push(Beam { score, ..beam });
            }
            // What the best running text is worth now, against the worst that it could replace.
            let hope = row.running.first().map_or(NONE, |b| b.score) / (len as f32).powf(options.length_penalty as f32);
            let worst = if row.finished.len() == beams { row.finished.last().map_or(NONE, |b| b.score) } else { NONE };
            row.settled |= row.finished.len() == beams && !(hope > worst) || !(hope > NONE);
            let done = row.settled || !open || (options.early_stopping && row.finished.len() == beams);
            goes_on |= !done;
        }
        if !goes_on || len == longest {
            break;
        }
        let parents: Vec<i32> = parents.iter().map(|&p| integer(p as u32)).collect::<Result<_>>()?;
        session.reorder(&Tensor::from_slice(&parents, parents.len(), device)?)?;
        first = false;
        logits = session.step(&Tensor::from_slice(&next, [next.len(), 1], device)?)?;
    }
    let answer = |(r, row): (usize, &Row)| {
        let best = row.finished.first().or(row.running.first());
        best.map_or_else(Vec::new, |b| b.tokens[start[r]..].to_vec())
    };
    Ok(all.iter().enumerate().map(answer).collect())
}

/// What can follow: its score, the beam that it continues, the token.
type Candidate = (f32, usize, u32);

/// The best candidates of each prompt, best first.
fn candidates(logits: &Tensor, rows: &[Row], keep: usize, chain: &Chain<'_>, state: &[&Tensor]) -> Result<Vec<Vec<Candidate>>> {
    let &[all, vocabulary] = logits.dims() else { return Err(Error::shape("generate", &[logits.shape()], "logits [B, vocabulary]")) };
    let (beams, device) = (all / rows.len().max(1), logits.device());
    let texts: Vec<&Beam> = rows.iter().flat_map(|r| &r.running).collect();
    let seen = chain.penalty.map(|_| Seen::new(texts.iter().map(|b| &b.tokens), vocabulary, device)).transpose()?;
    // Places come with the scores, in one reading, as numbers that f32 holds exactly.
    let exact = beams * vocabulary <= 1 << f32::MANTISSA_DIGITS;
    if let Some(scores) = chain.process_tensor(&logits.try_cast(DType::F32)?.try_log_softmax(-1)?, seen.as_ref())?.filter(|_| exact) {
        let so_far = Tensor::from_vec(texts.iter().map(|b| b.score).collect::<Vec<f32>>(), [all, 1], device)?;
        let (best, places) = scores.try_add(so_far)?.try_reshape([rows.len(), beams * vocabulary])?.try_topk(keep, -1, true)?;
        let host = Tensor::try_stack(&[&best, &places.try_cast(DType::F32)?], -1)?.to_vec_with::<f32>(state)?;
        let one = |c: &[f32]| (c[0], c[1] as usize / vocabulary, (c[1] as usize % vocabulary) as u32);
        return Ok(host.chunks_exact(2 * keep).map(|row| row.chunks_exact(2).map(one).collect()).collect());
    }
    let host = logits.to_vec_with::<f32>(state)?;
    let mut of_texts = texts.iter().zip(host.chunks_exact(vocabulary));
    let of_row = |row: &Row| {
        let mut candidates = Vec::new();
        for (b, (beam, logits)) in of_texts.by_ref().take(row.running.len()).enumerate() {
            let mut scores = log_softmax(logits);
            chain.process(&beam.tokens, &mut scores);
            candidates.extend(scores.iter().enumerate().map(|(t, s)| (s + beam.score, b, t as u32)));
        }
        best(&mut candidates, keep);
        candidates
    };
    Ok(rows.iter().map(of_row).collect())
}

/// Leaves the best candidates, best first; of equals the one that came first.
fn best(candidates: &mut Vec<Candidate>, keep: usize) {
    let order = |a: &Candidate, b: &Candidate| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2));
    if keep < candidates.len() {
        candidates.select_nth_unstable_by(keep, order);
        candidates.truncate(keep);
    }
    candidates.sort_by(order);
}

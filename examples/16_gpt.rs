//! A GPT in nanoGPT's style, trained from nothing on the first chapters of Jane Austen's six novels (`data/austen.txt`): a byte-pair tokenizer is learned from the
//! text, then a small GPT-2, which afterwards writes on in her manner, if not to her purpose.
//!
//! ```text
//! cargo run --release --features text --example 16_gpt
//! FORNAX_DEVICE=gpu cargo run --release --features text --example 16_gpt
//! ```
//!
//! It prints samples before and after the training, and leaves `out/gpt.png`: the loss of the text that it learns from and of paragraphs that it never saw.

use fornax::data::Rng;
use fornax::generate::{Generation, generate};
use fornax::nn::{Module, cross_entropy};
use fornax::optim::{AdamW, Optimizer};
use fornax::plot::Chart;
use fornax::text::{Tokenizer, TokenizerKind, TokenizerTrainer};
use fornax::transformers::{CausalLm, Config};
use fornax::{Device, Result, Tensor, no_grad};
use std::f64::consts::PI;
use std::time::Instant;

const SEED: u64 = 1;
const VOCABULARY: usize = 512;
const CONTEXT: usize = 64;
const BATCH: usize = 16;
const STEPS: usize = 1250;
const PEAK_LR: f64 = 2e-3;

/// The tokens of a text as one long row.
struct Corpus {
    ids: Vec<i32>,
    characters: usize,
}

impl Corpus {
    fn new(tokenizer: &Tokenizer, text: &str) -> Result<Corpus> {
        let ids = tokenizer.encode(text)?.ids.into_iter().map(|t| t as i32).collect();
        Ok(Corpus { ids, characters: text.chars().count() })
    }

    /// Pieces that start at these places, and what follows each of their tokens: both `[B, T]`.
    fn batch(&self, starts: &[usize], device: Device) -> Result<(Tensor, Tensor)> {
        let part = |shift: usize| -> Result<Tensor> {
            let ids: Vec<i32> = starts.iter().flat_map(|&s| &self.ids[s + shift..s + shift + CONTEXT]).copied().collect();
            Tensor::from_vec(ids, [starts.len(), CONTEXT], device)
        };
        Ok((part(0)?, part(1)?))
    }
}

fn loss(model: &CausalLm, (inputs, targets): (Tensor, Tensor)) -> Result<Tensor> {
    let logits = model.forward(&inputs.into())?;
    cross_entropy(&logits.try_reshape([targets.numel(), VOCABULARY])?, &targets.try_reshape(targets.numel())?)
}

/// The mean loss of a text, piece by piece, in evaluation mode.
fn evaluate(model: &CausalLm, corpus: &Corpus, device: Device) -> Result<f64> {
    let starts: Vec<usize> = (0..corpus.ids.len() - CONTEXT).step_by(CONTEXT).collect();
    model.eval();
    let mut sum = 0.0;
    for chunk in starts.chunks(32) {
        sum += f64::from(no_grad(|| loss(model, corpus.batch(chunk, device)?))?.item::<f32>()?) * chunk.len() as f64;
    }
    model.train();
    Ok(sum / starts.len() as f64)
}

/// What the model makes of the beginning of a text.
fn sample(model: &CausalLm, tokenizer: &Tokenizer, prompt: &str) -> Result<String> {
    let prompts = [tokenizer.encode(prompt)?.ids];
    // Texts no longer than the context: a GPT-2 has no positions beyond it.
    let options = Generation { max_new_tokens: CONTEXT, sample: true, temperature: 0.8, top_k: Some(40), seed: 5, ..Generation::default() };
    model.eval();
    let ids = generate(model, &prompts, &options)?.remove(0);
    model.train();
    Ok(format!("{prompt}{}", tokenizer.decode(&ids)?))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::from_env()?;
    fornax::manual_seed(SEED);
    println!("device: {device}");

    // Every tenth paragraph is for validation.
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/data/austen.txt"))?;
    let paragraphs = || text.lines().filter(|line| !line.starts_with('#')).enumerate();
    let joined =
        |held_out: bool| paragraphs().filter(|(i, _)| (i % 10 == 9) == held_out).map(|(_, p)| format!("{p}\n")).collect::<String>();
    let (train, valid) = (joined(false), joined(true));
    let tokenizer = TokenizerTrainer::new(TokenizerKind::Bpe, VOCABULARY).train(&[&train])?;
    let (train, valid) = (Corpus::new(&tokenizer, &train)?, Corpus::new(&tokenizer, &valid)?);
    println!(
        "{} and {} tokens of {} kinds, {:.2} characters each",
        train.ids.len(),
        valid.ids.len(),
        tokenizer.vocabulary(),
        per_token(&train)
    );

    let config = format!(
        r#"{{"model_type": "gpt2", "vocab_size": {VOCABULARY}, "n_positions": {CONTEXT}, "n_embd": 128, "n_layer": 4, "n_head": 4,
            "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}}"#
    );
    let model = CausalLm::new(&Config::parse(&config)?, device)?;
    println!("{} parameters\n", model.num_params());
    let prompts = ["She had never", "Mr. Knightley", "\"My dear"];
    let before: Vec<String> = prompts.iter().map(|p| sample(&model, &tokenizer, p)).collect::<Result<_>>()?;

    // As in nanoGPT: matrices decay, the rest does not; a warm-up, then a cosine.
    let (matrices, rest): (Vec<_>, Vec<_>) = model.parameters().into_iter().partition(|p| p.shape().rank() > 1);
    let mut optimizer = AdamW::new(matrices, PEAK_LR).betas(0.9, 0.99).weight_decay(0.1).group(rest, |g| g.weight_decay(0.0));
    let mut rng = Rng::new(SEED);
    let (mut losses, mut curve, mut validation) = (Vec::new(), Vec::new(), Vec::new());
    let start = Instant::now();
    for step in 0..STEPS {
        let t = step as f64 / STEPS as f64;
        optimizer.set_lr(PEAK_LR * (20.0 * t + 0.01).min(1.0) * (0.05 + 0.95 * 0.5 * (1.0 + (PI * t).cos())));
        let starts: Vec<usize> = (0..BATCH).map(|_| rng.below(train.ids.len() - CONTEXT)).collect();
        let loss = loss(&model, train.batch(&starts, device)?)?;
        let mut grads = loss.backward()?;
        grads.clip_norm(1.0)?;
        optimizer.step(grads)?;
        losses.push(loss);
        if losses.len() == 50 {
            // The losses are read when they are wanted: a step waits for nothing.
            let mean = losses.drain(..).map(|l| l.item::<f32>()).sum::<Result<f32>>()? / 50.0;
            curve.push((step as f64 - 24.0, f64::from(mean)));
        }
        if step % 250 == 249 {
            let held_out = evaluate(&model, &valid, device)?;
            validation.push((step as f64 + 1.0, held_out));
            let (loss, seconds) = (curve.last().map_or(f64::NAN, |c| c.1), start.elapsed().as_secs_f64());
            println!("step {:>5}  loss {loss:.3}  validation loss {held_out:.3}  {seconds:.0} s", step + 1);
        }
    }

    // Against models that know only how often each token occurs, alone or after another one.
    let (unigram, bigram) = (n_gram(&train.ids, &valid.ids, false), n_gram(&train.ids, &valid.ids, true));
    let gpt = validation.last().map_or(f64::NAN, |v| v.1);
    println!("\nvalidation         nats a token   bits a character");
    for (name, nats) in [("every token alike", (VOCABULARY as f64).ln()), ("unigram", unigram), ("bigram", bigram), ("GPT", gpt)] {
        println!("{name:<18}{nats:>13.3}{:>19.3}", nats / per_token(&valid) / 2f64.ln());
    }
    for (prompt, before) in prompts.iter().zip(before) {
        println!("\nbefore: {before}\nafter:  {}", sample(&model, &tokenizer, prompt)?);
    }

    std::fs::create_dir_all("out")?;
    let chart = Chart::new("GPT: nats a token by step").series("training", curve).series("validation", validation);
    chart.series("bigram", [(0.0, bigram), (STEPS as f64, bigram)]).save("out/gpt.png")?;
    println!("\ndrew out/gpt.png");
    Ok(())
}

/// Characters a token.
fn per_token(corpus: &Corpus) -> f64 {
    corpus.characters as f64 / corpus.ids.len() as f64
}

/// The validation loss of counted tokens, or pairs (which fall back on the tokens where they are rare).
fn n_gram(train: &[i32], valid: &[i32], pairs: bool) -> f64 {
    let mut one = vec![1.0; VOCABULARY];
    let mut two = vec![0.0; VOCABULARY * VOCABULARY];
    for w in train.windows(2) {
        one[w[1] as usize] += 1.0;
        two[w[0] as usize * VOCABULARY + w[1] as usize] += 1.0;
    }
    let total: f64 = one.iter().sum();
    let mut nats = 0.0;
    for w in valid.windows(2) {
        let (a, b) = (w[0] as usize, w[1] as usize);
        let p = one[b] / total;
        // Five tokens' weight for what is known without the one before.
        let after: f64 = one[a] - 1.0;
        nats -= if pairs { ((two[a * VOCABULARY + b] + 5.0 * p) / (after + 5.0)).ln() } else { p.ln() };
    }
    nats / (valid.len() - 1) as f64
}

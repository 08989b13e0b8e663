//! What the runtime itself costs: recording and replaying tiny ops, one pass over memory for a fused chain, products against the `gemm` crate.
//! `cargo bench --bench runtime`; medians of alternating rounds. The same chains on candle: `benches/candle`.

mod common;

use common::median;
use fornax::{Device, Result, Tensor, stats};
use std::time::Instant;

/// Median seconds of a call, over rounds of at least a millisecond.
fn time(mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut n = 1;
    loop {
        let t = Instant::now();
        for _ in 0..n {
            f()?;
        }
        if t.elapsed().as_secs_f64() > 1e-3 {
            break;
        }
        n *= 2;
    }
    let mut rounds = Vec::new();
    for _ in 0..21 {
        let t = Instant::now();
        for _ in 0..n {
            f()?;
        }
        rounds.push(t.elapsed().as_secs_f64() / n as f64);
    }
    Ok(median(rounds))
}

fn overhead(device: Device) -> Result<()> {
    let x = Tensor::from_vec(vec![1.0f32; 16], 16, device)?;
    let w = Tensor::from_vec(vec![0.5f32; 16], 16, device)?;
    println!("\nrecord, find the plan, replay: chains over 16 elements");
    for n in [1, 10, 100, 1000] {
        let t = time(|| {
            let mut y = x.clone();
            for i in 0..n {
                y = if i % 2 == 0 { y.try_add(&w)? } else { y.try_mul(1.0001)? };
            }
            y.eval()
        })?;
        println!("  {n:>5} ops  {:>8.3} µs  {:>6.3} µs an op", t * 1e6, t * 1e6 / n as f64);
    }
    Ok(())
}

fn chain(device: Device) -> Result<()> {
    const N: usize = 16 << 20;
    let x = Tensor::uniform(N, -1.0, 1.0, device);
    x.eval()?;
    let run = || -> Result<()> {
        let mut y = x.clone();
        for i in 0..5 {
            y = y.try_mul(0.9)?.try_add(i as f64 * 0.1)?;
        }
        y.eval()
    };
    run()?;
    let before = stats();
    run()?;
    let s = stats().since(&before);
    let t = time(run)?;
    println!("\nten pointwise ops over 16 Mi f32: {} dispatch, {} bytes taken (the output is {})", s.dispatches, s.bytes_allocated, 4 * N);
    println!("  {:.2} ms, {:.1} GB/s read and written", t * 1e3, 8.0 * N as f64 / t / 1e9);
    Ok(())
}

fn products() -> Result<()> {
    println!("\nproducts on the CPU, against the gemm crate alone (a ratio of 1 is equal, above is faster)");
    for n in [64usize, 256, 512, 1024] {
        let (a, b) = (Tensor::uniform([n, n], -1.0, 1.0, Device::cpu()), Tensor::uniform([n, n], -1.0, 1.0, Device::cpu()));
        fornax::eval(&[&a, &b])?;
        let (va, vb) = (a.to_vec::<f32>()?, b.to_vec::<f32>()?);
        let mut vc = vec![0f32; n * n];
        let threads = if n >= 256 { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
        let mut alone = || {
            // SAFETY: the three matrices are n × n.
            unsafe {
                gemm::gemm(
                    n,
                    n,
                    n,
                    vc.as_mut_ptr(),
                    1,
                    n as isize,
                    false,
                    va.as_ptr(),
                    1,
                    n as isize,
                    vb.as_ptr(),
                    1,
                    n as isize,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    threads,
                )
            };
            Ok(())
        };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            ours.push(time(|| a.try_matmul(&b)?.eval())?);
            theirs.push(time(&mut alone)?);
        }
        let (ours, theirs) = (median(ours), median(theirs));
        let rate = |t: f64| 2.0 * (n as f64).powi(3) / t / 1e9;
        println!("  {n:>5}³  {:>7.1} GFLOP/s, gemm alone {:>7.1}, ratio {:.2}", rate(ours), rate(theirs), theirs / ours);
        if n == 64 {
            // What a flush costs is as long as such a product takes: as a program has them, many are pending together.
            let many = || -> Result<()> {
                let products: Vec<Tensor> = (0..64).map(|_| a.try_matmul(&b)).collect::<Result<_>>()?;
                fornax::eval(&products.iter().collect::<Vec<_>>())
            };
            let mut rounds = [Vec::new(), Vec::new()];
            for _ in 0..3 {
                rounds[0].push(time(many)? / 64.0);
                rounds[1].push(time(&mut alone)?);
            }
            let [ours, theirs] = rounds.map(median);
            println!("  64 × 64³  {:>7.1} GFLOP/s, gemm alone {:>7.1}, ratio {:.2}", rate(ours), rate(theirs), theirs / ours);
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let device = Device::from_env()?;
    println!("device {device}");
    overhead(device)?;
    chain(device)?;
    if !device.is_gpu() {
        products()?;
    }
    Ok(())
}

//! The harness that the speed benches share: options, timing, ceilings of the machine, the table and its JSON lines.
//!
//! The rules are those of the peers' programs: warm-up of at least 0.15 s, then samples for at least 0.7 s and at least seven of them (three
//! past 6 s), work under a millisecond in loops; the output's allocation counts; one synchronisation a call; the median is what counts. A row
//! during which other processes used more than 0.15 cores is tried again (up to three times), and the quietest try is kept.
#![allow(dead_code)]

pub mod models;

use fornax::{Device, Result, Tensor, stats};
use rayon::prelude::*;
use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::time::Instant;

/// What one call of a row does, for its rates; zero where it makes no sense to count.
#[derive(Clone, Copy, Default)]
pub struct Work {
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes that must be read and written at least.
    pub bytes: f64,
    /// Samples, tokens.
    pub items: f64,
    /// Bytes printed as a rate: only where memory is the bound.
    pub memory_bound: bool,
}

/// A row bound by arithmetic.
pub fn flops(flops: f64, bytes: f64) -> Work {
    Work { flops, bytes, ..Work::default() }
}

/// A row bound by memory.
pub fn bytes(bytes: f64) -> Work {
    Work { bytes, memory_bound: true, ..Work::default() }
}

/// The command line, and where the results go.
pub struct Bench {
    pub device: Device,
    only: Vec<String>,
    quick: bool,
    json: Option<File>,
    /// FLOP/s and bytes/s that this machine reaches, measured at the first row that needs them.
    ceilings: Option<(f64, f64)>,
}

struct Times {
    median: f64,
    min: f64,
    p90: f64,
    reps: usize,
    foreign: f64,
}

impl Bench {
    /// Reads the command line: `--device cpu|gpu|…`, `--only SUBSTRING` (again and again), `--json FILE` (appended), `--quick`.
    pub fn from_args() -> Result<Bench> {
        let (mut only, mut quick, mut json, mut device) = (Vec::new(), false, None, None);
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_else(|| usage(&format!("{arg} needs a value")));
            match arg.as_str() {
                "--only" => only.push(value()),
                "--quick" => quick = true,
                "--json" => {
                    let path = value();
                    let file = File::options().create(true).append(true).open(&path);
                    json = Some(file.unwrap_or_else(|e| usage(&format!("{path}: {e}"))));
                }
                "--device" => device = Some(value().parse()?),
                // What cargo passes to every bench.
                "--bench" => {}
                other => usage(&format!("unknown option {other}")),
            }
        }
        let device = device.map_or_else(Device::from_env, Ok)?;
        fornax::manual_seed(0);
        println!("device {device}, {} threads", rayon::current_num_threads());
        println!("{:<18} {:<38} {:>11} {:>10} {:>8} {:>6} {:>10}", "op", "shape", "ms", "GFLOP/s", "GB/s", "roof", "dispatches");
        Ok(Bench { device, only, quick, json, ceilings: None })
    }

    /// Standard normal numbers on the bench's device.
    pub fn normal<const N: usize>(&self, shape: [usize; N]) -> Result<Tensor> {
        let t = Tensor::try_normal(shape, 0.0, 1.0, self.device)?;
        t.eval()?;
        Ok(t)
    }

    /// Random i32 below `end` on the bench's device.
    pub fn ids<const N: usize>(&self, shape: [usize; N], end: i64) -> Result<Tensor> {
        let t = Tensor::try_randint(shape, 0, end, (fornax::DType::I32, self.device))?;
        t.eval()?;
        Ok(t)
    }

    /// A row whose calls make one tensor.
    pub fn op<F: FnMut() -> Result<Tensor>>(
        &mut self,
        op: &str,
        shape: &str,
        work: Work,
        setup: impl FnOnce(&Bench) -> Result<F>,
    ) -> Result<()> {
        let device = self.device;
        self.row(op, shape, work, |b| {
            let mut f = setup(b)?;
            Ok(move || finish(device, &f()?))
        })
    }

    /// A row: `setup` makes the inputs and returns what is timed, which ends synchronised ([`finish`], or a read). It runs only where the row
    /// is wanted.
    pub fn row<F: FnMut() -> Result<()>>(
        &mut self,
        op: &str,
        shape: &str,
        work: Work,
        setup: impl FnOnce(&Bench) -> Result<F>,
    ) -> Result<()> {
        let name = format!("{op} {shape}");
        if !self.only.is_empty() && !self.only.iter().any(|o| name.contains(o.as_str())) {
            return Ok(());
        }
        let ceilings = self.ceilings();
        let mut f = setup(self)?;
        // Plans are made and memory is taken in the first calls.
        f()?;
        f()?;
        let before = stats();
        f()?;
        let counted = stats().since(&before);
        let t = self.measure(&mut f)?;
        // The smallest time that the machine's ceilings allow, over the time taken.
        let share = ceilings.map(|(flops, bytes)| (work.flops / flops).max(work.bytes / bytes) / t.median);
        let (gflops, gbps) = (work.flops / t.median / 1e9, work.bytes / t.median / 1e9);
        let rate = |on: bool, v: f64| if on { format!("{v:.1}") } else { "-".into() };
        println!(
            "{op:<18} {shape:<38} {:>11.4} {:>10} {:>8} {:>6} {:>10}{}",
            t.median * 1e3,
            rate(work.flops > 0.0, gflops),
            rate(work.memory_bound, gbps),
            share.filter(|&s| s > 0.0).map_or("-".into(), |s| format!("{s:.2}")),
            counted.dispatches,
            if t.foreign > 0.15 { "  ~disturbed" } else { "" }
        );
        let Some(file) = &mut self.json else { return Ok(()) };
        let or_null = |on: bool, v: f64| if on { format!("{v:.3}") } else { "null".into() };
        let mut line = format!(
            "{{\"peer\": \"fornax\", \"op\": \"{op}\", \"shape\": \"{shape}\", \"device\": \"{}\", \"dtype\": \"f32\", \"ms_median\": {:.6}, \
             \"gflops\": {}, \"gbps\": {}, \"ms_min\": {:.6}, \"ms_p90\": {:.6}, \"reps\": {}, \"foreign\": {:.3}, \"dispatches\": {}, \
             \"bytes\": {}, \"share_of_roofline\": {}",
            self.device,
            t.median * 1e3,
            or_null(work.flops > 0.0, gflops),
            or_null(work.memory_bound, gbps),
            t.min * 1e3,
            t.p90 * 1e3,
            t.reps,
            t.foreign,
            counted.dispatches,
            counted.bytes_allocated,
            share.filter(|&s| s > 0.0).map_or("null".into(), |s| format!("{s:.3}")),
        );
        if work.items > 0.0 {
            line += &format!(", \"per_s\": {:.3}", work.items / t.median);
        }
        if let Err(e) = writeln!(file, "{line}}}") {
            eprintln!("the results were not written: {e}");
        }
        Ok(())
    }

    fn measure(&self, f: &mut dyn FnMut() -> Result<()>) -> Result<Times> {
        let (min_time, max_time, min_samples) = if self.quick { (0.15, 1.5, 3) } else { (0.7, 6.0, 7) };
        let mut one = 0.0;
        let (start, mut n) = (Instant::now(), 0);
        while n < 1 || (start.elapsed().as_secs_f64() < 0.15 && n < 200) {
            let t = Instant::now();
            f()?;
            one = t.elapsed().as_secs_f64();
            n += 1;
        }
        let inner = (1e-3 / f64::max(one, 1e-7)).ceil().max(1.0) as usize;
        let mut best: Option<(f64, Vec<f64>)> = None;
        for attempt in 0..if self.quick { 1 } else { 4 } {
            if attempt > 0 {
                wait_quiet();
            }
            let mut samples = Vec::new();
            let (foreign, start) = (Foreign::now(), Instant::now());
            loop {
                let t = Instant::now();
                for _ in 0..inner {
                    f()?;
                }
                samples.push(t.elapsed().as_secs_f64() / inner as f64);
                let gone = start.elapsed().as_secs_f64();
                if (gone >= min_time && samples.len() >= min_samples) || (gone >= max_time && samples.len() >= 3) {
                    break;
                }
            }
            let foreign = foreign.cores();
            if best.as_ref().is_none_or(|b| foreign < b.0) {
                best = Some((foreign, samples));
            }
            if best.as_ref().is_some_and(|b| b.0 <= 0.15) {
                break;
            }
        }
        let (foreign, mut s) = best.unwrap_or_default();
        s.sort_by(f64::total_cmp);
        let n = s.len();
        let p90 = s[(n * 9 / 10).min(n - 1)];
        Ok(Times { median: (s[n / 2] + s[(n - 1) / 2]) / 2.0, min: s[0], p90, reps: n * inner, foreign })
    }

    /// The ceilings of the CPU. (Those of a GPU are not measured.)
    fn ceilings(&mut self) -> Option<(f64, f64)> {
        if !self.device.is_gpu() && self.ceilings.is_none() {
            self.ceilings = Some((peak_flops(), peak_bytes()));
        }
        self.ceilings
    }

    /// Prints the ceilings that the shares refer to.
    pub fn done(&self) {
        if let Some((flops, bytes)) = self.ceilings {
            println!(
                "ceilings measured here: {:.0} GFLOP/s (multiply-add in registers), {:.0} GB/s (streaming copy)",
                flops / 1e9,
                bytes / 1e9
            );
        }
    }
}

fn usage(problem: &str) -> ! {
    eprintln!("{problem}\noptions: --device cpu|gpu|gpu:N|best   --only SUBSTRING   --json FILE   --quick");
    std::process::exit(2)
}

/// Waits until the tensor is computed.
pub fn finish(device: Device, t: &Tensor) -> Result<()> {
    t.eval()?;
    if device.is_gpu() {
        // A read waits for everything before it.
        t.try_flatten(0, -1)?.try_narrow(0, 0, 1)?.eval()?;
        t.try_flatten(0, -1)?.try_narrow(0, 0, 1)?.to_vec::<f32>().map(drop)?;
    }
    Ok(())
}

/// What other processes use, from Linux's counters; nothing elsewhere.
struct Foreign {
    start: Instant,
    busy: f64,
}

impl Foreign {
    fn now() -> Foreign {
        Foreign { start: Instant::now(), busy: Foreign::busy() }
    }

    /// Seconds of other processes on all cores so far.
    fn busy() -> f64 {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let numbers = |text: &str| text.split_whitespace().filter_map(|x| x.parse::<f64>().ok()).collect::<Vec<_>>();
        let all = numbers(read("/proc/stat").lines().next().unwrap_or("").trim_start_matches("cpu"));
        let own = numbers(read("/proc/self/stat").rsplit(") ").next().unwrap_or("").trim_start_matches(char::is_alphabetic));
        match (all.get(..8), own.get(10..14)) {
            (Some(all), Some(own)) => (all.iter().sum::<f64>() - all[3] - all[4] - own.iter().sum::<f64>()) / 100.0,
            _ => 0.0,
        }
    }

    fn cores(&self) -> f64 {
        ((Foreign::busy() - self.busy) / self.start.elapsed().as_secs_f64()).max(0.0)
    }
}

fn wait_quiet() {
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < 20.0 {
        let foreign = Foreign::now();
        std::thread::sleep(std::time::Duration::from_millis(400));
        if foreign.cores() < 0.1 {
            return;
        }
    }
}

/// Median of some figures.
pub fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

/// Multiply-adds in registers on all threads: what no product can pass.
fn peak_flops() -> f64 {
    const ROUNDS: usize = 400_000;
    /// Twelve sums of one register each cover the latency of the unit. Gives back the floating-point operations.
    #[cfg(target_arch = "x86_64")]
    macro_rules! chains {
        ($name:ident, $features:literal, $set:ident, $fma:ident, $lanes:literal) => {
            #[target_feature(enable = $features)]
            fn $name() -> usize {
                let (a, b) = (black_box($set(0.999)), black_box($set(0.001)));
                let mut sums = [$set(1.0); 12];
                for _ in 0..ROUNDS {
                    for s in &mut sums {
                        *s = $fma(*s, a, b);
                    }
                }
                black_box(sums);
                ROUNDS * 12 * $lanes * 2
            }
        };
    }
    #[cfg(target_arch = "x86_64")]
    use std::arch::x86_64::*;
    #[cfg(target_arch = "x86_64")]
    chains!(v4, "avx512f", _mm512_set1_ps, _mm512_fmadd_ps, 16);
    #[cfg(target_arch = "x86_64")]
    chains!(v3, "avx2,fma", _mm256_set1_ps, _mm256_fmadd_ps, 8);
    fn run() -> usize {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            // SAFETY: the processor has these instructions.
            if has!("avx512f") {
                return unsafe { v4() };
            }
            if has!("avx2") && has!("fma") {
                return unsafe { v3() };
            }
        }
        let (a, b) = (black_box([0.999f32; 4]), black_box([0.001f32; 4]));
        let mut sums = [[1.0f32; 4]; 12];
        for _ in 0..ROUNDS {
            for s in &mut sums {
                *s = std::array::from_fn(|l| s[l] * a[l] + b[l]);
            }
        }
        black_box(sums);
        ROUNDS * 12 * 4 * 2
    }
    let rate = |_| {
        let t = Instant::now();
        let flops: usize = (0..rayon::current_num_threads()).into_par_iter().with_max_len(1).map(|_| run()).sum();
        flops as f64 / t.elapsed().as_secs_f64()
    };
    (0..9).map(rate).fold(0.0, f64::max)
}

/// Bytes read and written a second by a copy of 64 MiB on all threads, past the caches where the processor can write so.
fn peak_bytes() -> f64 {
    const N: usize = 16 << 20;
    const PART: usize = 1 << 16;
    #[inline]
    fn copy(from: &[f32], to: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if to.as_ptr().align_offset(16) == 0 {
            use std::arch::x86_64::{_mm_loadu_ps, _mm_sfence, _mm_stream_ps};
            for (f, t) in from.chunks_exact(4).zip(to.chunks_exact_mut(4)) {
                // SAFETY: four elements each, the target aligned.
                unsafe { _mm_stream_ps(t.as_mut_ptr(), _mm_loadu_ps(f.as_ptr())) };
            }
            // SAFETY: part of every x86-64 processor.
            unsafe { _mm_sfence() };
            return;
        }
        to.copy_from_slice(from);
    }
    let (from, mut to) = (vec![1f32; N], vec![2f32; N]);
    let times = (0..9).map(|_| {
        let t = Instant::now();
        to.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(|(to, from)| copy(from, to));
        t.elapsed().as_secs_f64()
    });
    (8 * N) as f64 / times.fold(f64::INFINITY, f64::min)
}

//! A checkpoint of 1 GB: how fast it is written and loaded, beside a plain file of the same size, and what memory it takes.
//! `cargo bench --bench checkpoint -- [folder]`

use fornax::io::StateDict;
use fornax::train::Checkpoint;
use fornax::{Device, Result, Tensor};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

const TENSORS: usize = 16;
/// Elements of each: 64 MB.
const ELEMENTS: usize = 16_000_000;

/// The most memory that the process has held since the last call, in bytes; 0 where the system does not tell.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib: u64 = line.and_then(|l| l.trim().split(' ').next()?.parse().ok()).unwrap_or(0);
    // Starts it anew.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    kib * 1024
}

/// As `dd bs=1M conv=fsync`.
fn plain(path: &Path) -> std::io::Result<f64> {
    let start = Instant::now();
    let chunk = vec![7u8; 1 << 20];
    let mut file = std::fs::File::create(path)?;
    let (mut left, total) = (TENSORS * ELEMENTS * 4, (TENSORS * ELEMENTS * 4) as f64);
    while left > 0 {
        let n = left.min(chunk.len());
        file.write_all(&chunk[..n])?;
        left -= n;
    }
    file.sync_all()?;
    Ok(total / 1e6 / start.elapsed().as_secs_f64())
}

fn main() -> Result<()> {
    let folder = std::env::args().skip(1).find(|a| !a.starts_with('-')).map_or_else(std::env::temp_dir, PathBuf::from);
    let io = |e| fornax::Error::io(&folder, e);
    let mut dict = StateDict::new();
    for i in 0..TENSORS {
        dict.insert(format!("layers.{i}.weight"), Tensor::try_full(ELEMENTS, i as f32, Device::cpu())?);
    }
    dict.values().try_for_each(|t| t.eval())?;
    let mut checkpoint = Checkpoint::new();
    checkpoint.insert("model", dict);
    let place = folder.join("fornax-bench-checkpoint");
    let megabytes = (TENSORS * ELEMENTS * 4) as f64 / 1e6;
    println!("{megabytes:.0} MB in {TENSORS} tensors, to {}", folder.display());
    for round in 0..3 {
        let plain_rate = plain(&folder.join("fornax-bench-plain")).map_err(io)?;
        std::fs::remove_file(folder.join("fornax-bench-plain")).map_err(io)?;
        peak();
        let held = peak();
        let start = Instant::now();
        checkpoint.save(&place)?;
        let rate = megabytes / start.elapsed().as_secs_f64();
        let more = peak().saturating_sub(held) as f64 / 1e6;
        let start = Instant::now();
        let loaded = Checkpoint::load(&place)?;
        let load = 1e3 * start.elapsed().as_secs_f64();
        println!(
            "round {round}: plain file {plain_rate:.0} MB/s, checkpoint {rate:.0} MB/s, {more:.1} MB more memory; loaded in {load:.1} ms"
        );
        drop(loaded);
        std::fs::remove_dir_all(&place).map_err(io)?;
    }
    Ok(())
}

//! A training is killed in its middle, three times, and goes on each time from its last checkpoint. In the end its weights are those of a training that
//! was never killed: bit for bit, with dropout, shuffling, augmentation by worker threads, momentum and a schedule. (On the CPU.)
//!
//! `cargo run --release --example 10_resume`
//!
//! The program starts itself as the training (`10_resume train <folder>`), and kills that.

use fornax::data::transforms::{RandomAffine, Transform};
use fornax::data::{DataLoader, Dataset, Image, Rows, digits};
use fornax::nn::{Dropout, Flatten, Forward, Linear, Module, ReLU, Sequential, cross_entropy};
use fornax::optim::{AdamW, lr_scheduler::CosineAnnealingLR};
use fornax::train::{Checkpointer, CsvLogger, Per, Step, Trainer};
use fornax::{Device, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const EPOCHS: u64 = 12;

/// The training. It knows nothing of kills: it resumes if there is something to resume from.
fn train(folder: &Path) -> Result<()> {
    let device = Device::cpu();
    fornax::manual_seed(3);
    let data = digits(device)?.train;
    let [images, labels] = data.tensors();
    let (pixels, labels) = (images.to_vec::<f32>()?, labels.to_vec::<i32>()?);
    let images: Vec<Image> = pixels.chunks(64).map(|p| Image::new(1, 8, 8, p.to_vec())).collect::<Result<_>>()?;
    let augment = RandomAffine::new(10.0).translate(0.1, 0.1);
    let rows = Rows::new(images.into_iter().zip(labels).collect()).map(move |(image, label), rng| Ok((augment.apply(image, rng)?, label)));
    let loader = DataLoader::new(rows, 32).shuffle(5).workers(2);

    let model = Sequential::new()
        .add(Flatten::default())
        .add(Linear::try_new(64, 256, device)?)
        .add(ReLU)
        .add(Dropout::new(0.3))
        .add(Linear::try_new(256, 256, device)?)
        .add(ReLU)
        .add(Dropout::new(0.3))
        .add(Linear::try_new(256, 10, device)?);
    Trainer::new(&model, AdamW::new(model.parameters(), 2e-3))
        .epochs(EPOCHS)
        .schedule(CosineAnnealingLR::new(EPOCHS * loader.len() as u64), Per::Step)
        .callback(CsvLogger::new(folder.join("log.csv")))
        .callback(Checkpointer::new(folder.join("checkpoints")).every_steps(25))
        .resume(folder.join("checkpoints"))
        .progress(false)
        .fit(&loader, |model, (images, labels)| Ok(Step::new(cross_entropy(&model.forward(&images)?, &labels)?).rows(labels.numel())))?;
    model.save_safetensors(folder.join("weights.safetensors"))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, folder] = &arguments[..]
        && word == "train"
    {
        return Ok(train(Path::new(folder))?);
    }
    let out = PathBuf::from("out/resume");
    if out.exists() {
        std::fs::remove_dir_all(&out)?;
    }
    let start = |folder: &Path| Command::new(std::env::current_exe()?).arg("train").arg(folder).spawn();
    let read = |folder: &Path, file: &str| std::fs::read(folder.join(file));

    let straight = out.join("straight");
    let began = Instant::now();
    assert!(start(&straight)?.wait()?.success());
    let whole = began.elapsed();
    println!("straight through: {EPOCHS} epochs in {:.1} s", whole.as_secs_f64());

    let killed = out.join("killed");
    for kill in 1..=3 {
        let mut child = start(&killed)?;
        std::thread::sleep(whole.mul_f64(0.3).max(Duration::from_millis(100)));
        let over = child.try_wait()?.is_some();
        child.kill()?; // SIGKILL: no handler, no destructor runs
        child.wait()?;
        let last = Checkpointer::last(killed.join("checkpoints"))?;
        let last = last.map_or("nothing yet".to_string(), |p| p.file_name().unwrap_or_default().to_string_lossy().into_owned());
        println!("kill {kill}: {}; the last checkpoint is {last}", if over { "it was over already" } else { "in its middle" });
    }
    assert!(start(&killed)?.wait()?.success());
    println!("resumed to its end");

    for file in ["weights.safetensors", "log.csv"] {
        let (a, b) = (read(&straight, file)?, read(&killed, file)?);
        assert!(a == b, "{file} differs");
        println!("{file}: {} bytes, the same in both", a.len());
    }
    Ok(())
}

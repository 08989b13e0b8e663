//! Whether the loader keeps a training fed: a CNN on augmented images of 64×64, with 0 to 4 worker threads, and the share of the time that the step
//! waits for its batch. `cargo bench --bench loader`

use fornax::data::transforms::{ColorJitter, Normalize, RandomHorizontalFlip, RandomResizedCrop, Transform};
use fornax::data::{DataLoader, Dataset, Image, Rng, Rows};
use fornax::nn::{AdaptiveAvgPool2d, Conv2d, Flatten, Forward, Linear, MaxPool2d, Module, ReLU, Sequential, cross_entropy};
use fornax::optim::SGD;
use fornax::train::{Step, Trainer};
use fornax::{Device, Result};

const ROWS: usize = 512;
const BATCH: usize = 32;

fn model(d: Device) -> Result<Sequential> {
    Ok(Sequential::new()
        .add(Conv2d::try_new(3, 16, 3, d)?.padding(1))
        .add(ReLU)
        .add(MaxPool2d::new(2))
        .add(Conv2d::try_new(16, 32, 3, d)?.padding(1))
        .add(ReLU)
        .add(AdaptiveAvgPool2d::new(1))
        .add(Flatten::default())
        .add(Linear::try_new(32, 10, d)?))
}

fn main() -> Result<()> {
    let device = Device::from_env()?;
    println!(
        "{ROWS} images of 64×64 in batches of {BATCH} on {device}, {} cores",
        std::thread::available_parallelism().map_or(1, |n| n.get())
    );
    println!("{:>8} {:>10} {:>10} {:>8}", "workers", "rows/s", "waited ms", "share");
    for workers in [0, 1, 2, 4] {
        let mut rng = Rng::new(1);
        let image = |rng: &mut Rng| Image::new(3, 64, 64, (0..3 * 64 * 64).map(|_| rng.uniform(0.0, 1.0) as f32).collect());
        let rows: Vec<(Image, i32)> = (0..ROWS).map(|i| Ok((image(&mut rng)?, i as i32 % 10))).collect::<Result<_>>()?;
        let augment = RandomResizedCrop::new(64, 64)
            .then(RandomHorizontalFlip::new(0.5))
            .then(ColorJitter::new(0.2, 0.2, 0.2, 0.0))
            .then(Normalize::new(&[0.5], &[0.25]));
        let rows = Rows::new(rows).map(move |(image, label), rng| Ok((augment.apply(image, rng)?, label)));
        let loader = DataLoader::new(rows, BATCH).shuffle(1).device(device);
        let loader = if workers > 0 { loader.workers(workers) } else { loader };
        let model = model(device)?;
        let step =
            |m: &Sequential, (x, y): (fornax::Tensor, fornax::Tensor)| Ok(Step::new(cross_entropy(&m.forward(&x)?, &y)?).rows(BATCH));
        // The first epoch makes plans and pools.
        let mut trainer = Trainer::new(&model, SGD::new(model.parameters(), 0.01)).epochs(1).progress(false);
        trainer.fit(&loader, step)?;
        let mut trainer = trainer.epochs(4);
        let report = trainer.fit(&loader, step)?;
        let (elapsed, waited) = (report.elapsed.as_secs_f64(), report.waited.as_secs_f64());
        println!("{workers:>8} {:>10.0} {:>10.1} {:>7.1}%", report.rows as f64 / elapsed, 1e3 * waited, 100.0 * waited / elapsed);
    }
    Ok(())
}

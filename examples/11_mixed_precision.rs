//! Mixed precision: the same network for handwritten digits trained in f32, in bf16, and in f16 with a scaled loss. Products and convolutions take part in half
//! precision; the weights stay f32, and so do their gradients.
//!
//! ```text
//! cargo run --release --example 11_mixed_precision
//! ```
//!
//! It prints what each has reached, and how many steps the scaler has skipped until it had found its scale.

use fornax::data::{DataLoader, digits};
use fornax::metrics::{Accuracy, Metric};
use fornax::nn::{self, BatchNorm2d, Conv2d, Flatten, Forward, Linear, MaxPool2d, Module, ReLU, Sequential};
use fornax::optim::lr_scheduler::{OneCycleLR, Scheduler};
use fornax::optim::{AdamW, AveragedModel, GradScaler, Optimizer, update_bn};
use fornax::{DType, Device, Result, autocast};

const EPOCHS: u64 = 12;
const BATCH: usize = 64;

struct Outcome {
    loss: f32,
    accuracy: f64,
    averaged: f64,
    skipped: i64,
    scale: f64,
}

fn train(dtype: DType, device: Device) -> Result<Outcome> {
    fornax::manual_seed(7);
    let digits = digits(device)?;
    let loader = DataLoader::new(digits.train, BATCH).shuffle(7).drop_last(true);
    let model = Sequential::new()
        .add(Conv2d::try_new(1, 16, 3, device)?.padding(1))
        .add(BatchNorm2d::try_new(16, device)?)
        .add(ReLU)
        .add(MaxPool2d::new(2))
        .add(Conv2d::try_new(16, 32, 3, device)?.padding(1))
        .add(ReLU)
        .add(Flatten::default())
        .add(Linear::try_new(32 * 4 * 4, 10, device)?);

    // Biases and the weights of the norm are not decayed.
    let (matrices, others): (Vec<_>, Vec<_>) = model.parameters().into_iter().partition(|p| p.shape().rank() > 1);
    let mut optimizer = AdamW::new(matrices, 3e-3).weight_decay(0.05).group(others, |g| g.weight_decay(0.0));
    let steps = EPOCHS * loader.len() as u64;
    let mut schedule = OneCycleLR::new(1e-2, steps).start(&mut optimizer)?;
    // f16 holds numbers up to 65504: the first scale is too large on purpose, and the scaler finds one that fits.
    let mut scaler = GradScaler::try_new(device)?.init_scale(2f64.powi(24))?.growth_interval(50).enabled(dtype == DType::F16);
    let mut average = AveragedModel::ema(&model, 0.95)?;

    let mut loss = None;
    for epoch in 0..EPOCHS {
        for batch in loader.epoch(epoch) {
            let [images, labels] = batch?;
            let value = autocast(dtype, || nn::cross_entropy(&model.forward(&images)?, &labels))?;
            let mut grads = scaler.scale(&value)?.backward()?;
            scaler.unscale(&mut grads)?;
            grads.clip_norm(5.0)?;
            scaler.step(&mut optimizer, grads)?;
            scaler.update()?;
            schedule.step(&mut optimizer)?;
            average.update(&model)?;
            loss = Some(value);
        }
    }

    let [images, labels] = digits.test.tensors();
    let accuracy = || -> Result<f64> {
        model.eval();
        let logits = fornax::no_grad(|| autocast(dtype, || model.forward(images)))?;
        model.train();
        let mut accuracy = Accuracy::new();
        accuracy.update(&logits.try_cast(DType::F32)?, labels)?;
        Ok(100.0 * accuracy.compute()?)
    };
    let own = accuracy()?;
    // The averaged weights want running statistics of their own.
    let averaged = average.with(&model, || {
        update_bn(&model, loader.epoch(0), |batch| model.forward(&batch?[0]))?;
        accuracy()
    })??;
    let taken = optimizer.state_dict()?["0.step"].to_vec::<f64>()?[0] as i64;
    let loss = loss.map_or(Ok(f32::NAN), |l| l.item::<f32>())?;
    Ok(Outcome { loss, accuracy: own, averaged, skipped: steps as i64 - taken, scale: scaler.get_scale()? })
}

fn main() -> Result<()> {
    let device = Device::from_env()?;
    println!("device: {device}\n");
    println!("      last loss  test accuracy  of the averaged weights  skipped steps      scale");
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let o = train(dtype, device)?;
        println!("{dtype:>4}  {:9.4}  {:11.2} %  {:21.2} %  {:13}  {:9}", o.loss, o.accuracy, o.averaged, o.skipped, o.scale);
    }
    Ok(())
}

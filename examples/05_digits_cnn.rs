//! Trains a convolutional network on real handwritten digits: 1797 images of 8×8 pixels, three tenths of them kept for the test. Worker threads turn,
//! move and scale each image a little, differently in each epoch.
//!
//! ```text
//! cargo run --release --example 05_digits_cnn
//! FORNAX_DEVICE=gpu cargo run --release --example 05_digits_cnn
//! ```
//!
//! It leaves `out/digits_cnn.safetensors`, the trained weights under PyTorch's names, and `out/digits_cnn.png`, the loss and the test
//! digits that it got wrong.

use fornax::data::transforms::{RandomAffine, Transform};
use fornax::data::{DataLoader, Dataset, Filter, Image, Rows, digits};
use fornax::metrics::{Accuracy, Metric};
use fornax::nn::{BatchNorm2d, Conv2d, Dropout, Forward, Linear, MaxPool2d, Module};
use fornax::optim::{AdamW, Optimizer};
use fornax::plot::{Canvas, Chart, INK};
use fornax::{CrossEntropy, Device, Result, Tensor};
use indicatif::{ProgressBar, ProgressStyle};
use std::f64::consts::PI;

const SEED: u64 = 7;
const EPOCHS: u64 = 25;
const BATCH: usize = 64;
const PEAK_LR: f64 = 3e-3;

#[derive(Module)]
struct Cnn {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Conv2d,
    bn2: BatchNorm2d,
    conv3: Conv2d,
    bn3: BatchNorm2d,
    pool: MaxPool2d,
    dropout: Dropout,
    fc: Linear,
}

impl Cnn {
    fn new(device: Device) -> Result<Cnn> {
        Ok(Cnn {
            conv1: Conv2d::try_new(1, 16, 3, device)?.padding(1),
            bn1: BatchNorm2d::try_new(16, device)?,
            conv2: Conv2d::try_new(16, 32, 3, device)?.padding(1),
            bn2: BatchNorm2d::try_new(32, device)?,
            conv3: Conv2d::try_new(32, 32, 3, device)?.padding(1),
            bn3: BatchNorm2d::try_new(32, device)?,
            pool: MaxPool2d::new(2),
            dropout: Dropout::new(0.2),
            fc: Linear::try_new(32 * 2 * 2, 10, device)?,
        })
    }
}

impl Forward for Cnn {
    /// Images `[N, 1, 8, 8]` to logits `[N, 10]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.bn1.forward(&self.conv1.forward(x)?)?.try_relu()?;
        let x = self.bn2.forward(&self.conv2.forward(&x)?)?.try_relu()?;
        let x = self.pool.forward(&x)?;
        let x = self.bn3.forward(&self.conv3.forward(&x)?)?.try_relu()?;
        let x = self.pool.forward(&x)?.try_flatten(1, -1)?;
        self.fc.forward(&self.dropout.forward(&x)?)
    }
}

/// The model's logits in evaluation mode.
fn evaluate(model: &Cnn, images: &Tensor) -> Result<Tensor> {
    model.eval();
    let logits = fornax::no_grad(|| model.forward(images));
    model.train();
    logits
}

/// The share of rows whose class is right, in per cent.
fn accuracy(logits: &Tensor, labels: &Tensor) -> Result<f64> {
    let mut accuracy = Accuracy::new();
    accuracy.update(logits, labels)?;
    Ok(100.0 * accuracy.compute()?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::from_env()?;
    fornax::manual_seed(SEED);
    println!("device: {device}");

    // Every tenth training image is for validation; the test images are looked at once, at the end.
    let digits = digits(device)?;
    let (held_out, trained): (Vec<usize>, Vec<usize>) = (0..digits.train.len()).partition(|i| i % 10 == 9);
    let [validation_images, validation_labels] = digits.train.pick(&held_out)?;
    let [images, labels] = digits.train.pick(&trained)?;
    let labels = labels.to_vec::<i32>()?;
    let images = images.to_vec::<f32>()?;
    let images: Vec<Image> = images.chunks(64).map(|pixels| Image::new(1, 8, 8, pixels.to_vec())).collect::<Result<_>>()?;
    let augment = RandomAffine::new(8.0).translate(0.07, 0.07).scale(0.9, 1.1).filter(Filter::Bilinear);
    let train = Rows::new(images.into_iter().zip(labels).collect()).map(move |(image, label), rng| Ok((augment.apply(image, rng)?, label)));
    let loader = DataLoader::new(train, BATCH).shuffle(SEED).drop_last(true).workers(2).device(device);

    let model = Cnn::new(device)?;
    print!("{}", model.summary([BATCH, 1, 8, 8])?);
    let mut optimizer = AdamW::new(model.parameters(), PEAK_LR);
    let criterion = CrossEntropy { label_smoothing: 0.1, ..CrossEntropy::default() };

    let steps = EPOCHS * loader.len() as u64;
    let bar = ProgressBar::new(steps);
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {eta} left")?);
    let mut curve: Vec<f32> = Vec::new();
    for epoch in 0..EPOCHS {
        let mut losses = Vec::new();
        for batch in loader.epoch(epoch) {
            // Warm up over the first tenth, then fall along a cosine.
            let t = bar.position() as f64 / steps as f64;
            optimizer.set_lr(PEAK_LR * (10.0 * t + 0.01).min(1.0) * 0.5 * (1.0 + (PI * t).cos()));
            let (images, labels) = batch?;
            let loss = model.forward(&images)?.try_cross_entropy(&labels, &criterion)?;
            let grads = loss.backward()?;
            optimizer.step(grads)?;
            losses.push(loss);
            bar.inc(1);
        }
        for loss in &losses {
            curve.push(loss.item::<f32>()?);
        }
        let mean = curve[curve.len() - losses.len()..].iter().sum::<f32>() / losses.len() as f32;
        let right = accuracy(&evaluate(&model, &validation_images)?, &validation_labels)?;
        bar.suspend(|| println!("epoch {:>2}  loss {mean:.4}  validation accuracy {right:.2} %", epoch + 1));
    }
    bar.finish_and_clear();

    let [test_images, test_labels] = digits.test.tensors();
    let logits = evaluate(&model, test_images)?;

    std::fs::create_dir_all("out")?;
    model.save_safetensors("out/digits_cnn.safetensors")?;
    let loaded = Cnn::new(device)?;
    loaded.load_safetensors("out/digits_cnn.safetensors")?;
    let again = evaluate(&loaded, test_images)?;
    assert_eq!(again.to_vec::<f32>()?, logits.to_vec::<f32>()?, "the loaded model must compute what the trained one does");
    println!("saved out/digits_cnn.safetensors, loaded it, and got the same numbers");

    draw(&curve, loader.len(), &test_images.to_vec::<f32>()?, &logits.try_argmax(-1)?.to_vec()?, &test_labels.to_vec()?)?;
    println!("drew out/digits_cnn.png");
    println!("test accuracy: {:.2} %", accuracy(&logits, test_labels)?);
    Ok(())
}

/// The loss by step and by epoch, and each wrong digit with its label and what the model said.
fn draw(losses: &[f32], per_epoch: usize, images: &[f32], predicted: &[i32], labels: &[i32]) -> Result<(), Box<dyn std::error::Error>> {
    const COLUMNS: usize = 12;
    let wrong: Vec<usize> = (0..labels.len()).filter(|&i| predicted[i] != labels[i]).collect();
    let rows = wrong.len().div_ceil(COLUMNS) as i32;
    let mut canvas = Canvas::new(760, (380 + rows * 74) as u32)?;
    let by_step = losses.iter().enumerate().map(|(i, &l)| ((i + 1) as f64 / per_epoch as f64, f64::from(l)));
    let mean = |losses: &[f32]| f64::from(losses.iter().sum::<f32>() / losses.len() as f32);
    let by_epoch = losses.chunks(per_epoch).enumerate().map(|(epoch, losses)| (epoch as f64 + 0.5, mean(losses)));
    Chart::new("training loss by epoch").series("step", by_step).series("epoch", by_epoch).size(760, 340).draw(&mut canvas, 0, 0);
    let title = format!("{} OF {} TEST DIGITS WRONG: LABEL / MODEL", wrong.len(), labels.len());
    canvas.text(24, 350, 2, &title, INK);
    for (k, &i) in wrong.iter().enumerate() {
        let (x, y) = (24 + (k % COLUMNS) as i32 * 60, 372 + (k / COLUMNS) as i32 * 74);
        for p in 0..64 {
            let shade = 255 - (images[i * 64 + p] * 255.0) as u8;
            canvas.fill(x + (p % 8) as i32 * 6, y + (p / 8) as i32 * 6, 6, 6, [shade; 3]);
        }
        canvas.text(x + 12, y + 54, 2, &format!("{}/{}", labels[i], predicted[i]), [200, 40, 40]);
    }
    Ok(canvas.save("out/digits_cnn.png")?)
}

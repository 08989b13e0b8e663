//! Transfer learning: a small ResNet learns the digits 0 to 4 from many images, and then 5 to 9 from a few of each. Its weights go through a safetensors
//! file, under torchvision's names, as those of a published model would come.
//!
//! ```text
//! cargo run --release --example 14_transfer_learning
//! ```
//!
//! It prints a table: training the new head alone, training everything from the old weights, and training everything from scratch.

use fornax::data::{DataLoader, TensorDataset, digits};
use fornax::metrics::{Accuracy, Metric};
use fornax::models::{Classifier, ResNet, ResNetConfig};
use fornax::nn::{Forward, Module, cross_entropy};
use fornax::optim::{AdamW, Optimizer};
use fornax::{Device, Result};
use std::time::Instant;

const FILE: &str = "out/transfer_learning.safetensors";
const ROUNDS: usize = 3;

/// A ResNet of ten layers for images of 8×8 pixels.
fn resnet(device: Device) -> Result<ResNet> {
    ResNet::try_new(ResNetConfig::resnet18().layers([1, 1, 1, 1]).width(8).in_channels(1).num_classes(5).small_stem(true), device)
}

/// The images of five digits from `first` on, labelled 0 to 4: at most so many of each, from a place on.
fn five(data: &TensorDataset<2>, first: i32, each: usize, from: usize) -> Result<TensorDataset<2>> {
    let labels = data.tensors()[1].to_vec::<i32>()?;
    let of = |digit: i32| (0..labels.len()).filter(move |&i| labels[i] == digit);
    let rows: Vec<usize> = (first..first + 5).flat_map(|digit| of.clone()(digit).skip(from).take(each).collect::<Vec<_>>()).collect();
    let [images, labels] = data.pick(&rows)?;
    TensorDataset::new([images, labels.try_sub(first)?])
}

/// Trains what is not frozen. A frozen backbone is in evaluation mode, so that its running statistics stay as they are.
fn train(model: &ResNet, data: &TensorDataset<2>, lr: f64, epochs: u64) -> Result<()> {
    let backbone_is_frozen = model.conv1.weight.is_frozen();
    model.set_training(!backbone_is_frozen);
    let loader = DataLoader::new(data.clone(), 32).shuffle(1).drop_last(data.tensors()[1].numel() > 32);
    let mut optimizer = AdamW::new(model.parameters(), lr);
    for epoch in 0..epochs {
        optimizer.set_lr(lr * (1.0 - epoch as f64 / epochs as f64));
        for batch in loader.epoch(epoch) {
            let [images, labels] = batch?;
            let loss = cross_entropy(&model.forward(&images)?, &labels)?;
            optimizer.step(loss.backward()?)?;
        }
    }
    Ok(())
}

fn test(model: &ResNet, data: &TensorDataset<2>) -> Result<f64> {
    model.eval();
    let [images, labels] = data.tensors();
    let mut accuracy = Accuracy::new();
    accuracy.update(&fornax::no_grad(|| model.forward(images))?, labels)?;
    Ok(100.0 * accuracy.compute()?)
}

/// How many numbers are trained.
fn trained(model: &ResNet) -> usize {
    model.parameters().iter().filter(|p| !p.is_frozen()).map(|p| p.shape().numel()).sum()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::from_env()?;
    fornax::manual_seed(1);
    std::fs::create_dir_all("out")?;
    let digits = digits(device)?;
    let pretraining = five(&digits.train, 0, usize::MAX, 0)?;
    let model = resnet(device)?;
    train(&model, &pretraining, 3e-3, 12)?;
    println!(
        "{} images of 0 to 4: {:.2} % right in the test",
        pretraining.tensors()[1].numel(),
        test(&model, &five(&digits.test, 0, usize::MAX, 0)?)?
    );
    model.save_safetensors(FILE)?;
    println!("saved {FILE}, {} tensors, and now 5 to 9\n", model.state_dict().len());

    let unseen = five(&digits.test, 5, usize::MAX, 0)?;
    println!("images of each    new head alone      fine-tuned     from scratch");
    let mut numbers = [0; 3];
    let mut seconds = [0.0; 3];
    for each in [1, 3, 10] {
        let mut right = [0.0; 3];
        for round in 0..ROUNDS {
            let few = five(&digits.train, 5, each, round * each)?;
            for (way, right) in right.iter_mut().enumerate() {
                let mut model = resnet(device)?;
                if way < 2 {
                    model.load_safetensors(FILE)?;
                    model.replace_head(5)?;
                }
                if way == 0 {
                    model.freeze_backbone();
                }
                numbers[way] = trained(&model);
                let start = Instant::now();
                train(&model, &few, [3e-2, 1e-3, 3e-3][way], 30)?;
                seconds[way] += start.elapsed().as_secs_f64();
                *right += test(&model, &unseen)? / ROUNDS as f64;
            }
        }
        println!("{each:>14} {:>15.1} % {:>13.1} % {:>14.1} %", right[0], right[1], right[2]);
    }
    println!("trained numbers{:>16} {:>15} {:>16}", numbers[0], numbers[1], numbers[2]);
    println!("seconds       {:>17.1} {:>15.1} {:>16.1}", seconds[0], seconds[1], seconds[2]);
    Ok(())
}

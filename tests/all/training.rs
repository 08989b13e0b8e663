//! A thousand steps of training: memory stays flat, every step replays a plan, no step waits for the host.

use crate::harness::{gpu, isolated};
use fornax::data::{DataLoader, TensorDataset, digits};
use fornax::nn::{BatchNorm2d, Conv2d, Dropout, Flatten, Forward, Linear, MaxPool2d, Module, ReLU, Sequential};
use fornax::optim::{AdamW, Optimizer};
use fornax::{Device, Result, stats};
use std::collections::HashMap;

#[test]
fn a_thousand_steps_on_the_cpu() {
    isolated("training::on_the_cpu");
}

#[test]
fn a_thousand_steps_on_the_gpu() {
    if gpu().is_some() {
        isolated("training::on_the_gpu");
    }
}

#[test]
#[ignore = "runs in a process of its own"]
fn on_the_cpu() {
    thousand_steps(Device::cpu()).unwrap();
}

#[test]
#[ignore = "runs in a process of its own"]
fn on_the_gpu() {
    thousand_steps(gpu().unwrap()).unwrap();
}

/// What a step left behind: bytes in use, and with what the pool keeps.
fn memory(device: Device) -> (u64, u64) {
    let s = stats();
    if device.is_gpu() { (s.gpu_bytes, s.gpu_bytes + s.gpu_pooled_bytes) } else { (s.cpu_bytes, s.cpu_bytes + s.cpu_pooled_bytes) }
}

/// Steps between two reads of the metrics.
const READ_EVERY: usize = 25;

fn thousand_steps(device: Device) -> Result<()> {
    fornax::manual_seed(11);
    let digits = digits(device)?;
    let [images, labels] = digits.train.tensors();
    // Six batches of 16, and a last one of 4: two shapes.
    let rows = TensorDataset::new([images.narrow(0, 0, 100), labels.narrow(0, 0, 100)])?;
    let loader = DataLoader::new(rows, 16).shuffle(3);
    let model = Sequential::new()
        .add(Conv2d::new(1, 4, 3, device).padding(1))
        .add(BatchNorm2d::new(4, device))
        .add(ReLU)
        .add(MaxPool2d::new(2))
        .add(Dropout::new(0.1))
        .add(Flatten::default())
        .add(Linear::new(64, 10, device));
    let mut optimizer = AdamW::new(model.parameters(), 3e-3);
    let (mut step, mut losses, mut hits) = (0, Vec::new(), Vec::new());
    // What kind of step (size of the batch, metrics read or not), and how many there were.
    let mut kinds: HashMap<(usize, bool), usize> = HashMap::new();
    // Bytes after each kind of step, from the third of that kind on.
    let mut bytes: HashMap<(usize, bool), (u64, u64)> = HashMap::new();
    let (mut settled, mut pool) = (0, 0);
    'training: for epoch in 0.. {
        for batch in loader.epoch(epoch) {
            let [images, labels] = batch?;
            let read = step % READ_EVERY == READ_EVERY - 1;
            let before = stats();
            let logits = model.forward(&images)?;
            let loss = logits.cross_entropy(&labels, &Default::default());
            let right = logits.argmax(1).eq(&labels).cast(fornax::DType::F32).mean(());
            let grads = loss.backward()?;
            optimizer.step(grads)?;
            let done = stats().since(&before);
            if read {
                losses.push(loss.item::<f32>()?);
                hits.push(right.item::<f32>()?);
            }
            let kind = (labels.numel(), read);
            drop((images, labels, logits, loss, right));
            let count = kinds.entry(kind).or_default();
            *count += 1;
            let all = stats().since(&before);
            if *count >= 3 {
                assert_eq!(all.plan_misses, 0, "step {step} of {kind:?} made a new plan: {all:?}");
                let now = memory(device);
                let first = *bytes.entry(kind).or_insert(now);
                assert_eq!(now.0, first.0, "step {step} of {kind:?}: bytes in use");
                settled += 1;
            }
            // Both shapes have been seen thrice: the pool has all that it will ever hold.
            if step == 20 {
                pool = memory(device).1;
            } else if step > 20 {
                assert_eq!(memory(device).1, pool, "step {step} of {kind:?}: the pool's size changes");
            }
            assert_eq!(all.donations_refused, 0, "step {step}");
            if step >= 3 {
                let submits = if device.is_gpu() { 1..=3 } else { 0..=0 };
                assert!(submits.contains(&done.submits), "step {step}: {} submits", done.submits);
            }
            step += 1;
            if step == 1000 {
                break 'training;
            }
        }
    }
    println!("{device}: {kinds:?}, bytes {bytes:?}, losses {:?} to {:?}", losses[0], losses.last());
    assert!(settled > 980, "{settled} steps were held to the bounds: {kinds:?}");
    let mean = |v: &[f32]| v.iter().sum::<f32>() / v.len() as f32;
    assert!(mean(&losses[losses.len() - 5..]) < 0.3 * losses[0], "it does not learn: {losses:?}");
    assert!(mean(&hits[hits.len() - 5..]) > 0.9, "{hits:?}");
    Ok(())
}

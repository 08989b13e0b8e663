//! A data set of your own: pictures of shapes, drawn when they are asked for, by worker threads, differently in each epoch. A small network learns
//! to tell them apart. `cargo run --release --example 06_custom_dataset`

use fornax::data::{DataLoader, Dataset, Image, Rng, Rows};
use fornax::metrics::{Average, ConfusionMatrix};
use fornax::nn::{Conv2d, Forward, Linear, MaxPool2d, Module};
use fornax::optim::{Adam, Optimizer};
use fornax::{Device, Result, Tensor, nn};

const SIZE: usize = 20;
const NAMES: [&str; 3] = ["disc", "square", "cross"];

/// So many pictures; which shape row `i` has is fixed, all else is drawn from the row's random numbers.
struct Shapes {
    rows: usize,
}

impl Dataset for Shapes {
    type Item = (Image, i32);

    fn len(&self) -> usize {
        self.rows
    }

    fn get(&self, row: usize, rng: &mut Rng) -> Result<(Image, i32)> {
        // Discs are rare: one in ten.
        let shape = if row.is_multiple_of(10) { 0 } else { 1 + row % 2 };
        let radius = rng.uniform(3.0, 7.0);
        let mut place = || rng.uniform(radius, SIZE as f64 - radius);
        let (cx, cy) = (place(), place());
        let mut pixels = Vec::with_capacity(SIZE * SIZE);
        for i in 0..SIZE * SIZE {
            let (dx, dy) = ((i % SIZE) as f64 + 0.5 - cx, (i / SIZE) as f64 + 0.5 - cy);
            let inside = match shape {
                0 => dx.hypot(dy) < radius,
                1 => dx.abs().max(dy.abs()) < radius * 0.85,
                _ => dx.abs().min(dy.abs()) < radius * 0.35 && dx.abs().max(dy.abs()) < radius,
            };
            pixels.push((0.7 * f64::from(inside) + 0.4 * rng.uniform(0.0, 1.0)) as f32);
        }
        Ok((Image::new(1, SIZE, SIZE, pixels)?, shape as i32))
    }
}

#[derive(Module)]
struct Net {
    conv1: Conv2d,
    conv2: Conv2d,
    pool: MaxPool2d,
    fc: Linear,
}

impl Forward for Net {
    /// Pictures `[N, 1, 20, 20]` to logits `[N, 3]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.pool.forward(&self.conv1.forward(x)?.try_relu()?)?;
        let x = self.pool.forward(&self.conv2.forward(&x)?.try_relu()?)?;
        self.fc.forward(&x.try_flatten(1, -1)?)
    }
}

fn main() -> Result<()> {
    let device = Device::from_env()?;
    fornax::manual_seed(1);
    let model = Net {
        conv1: Conv2d::try_new(1, 8, 3, device)?.padding(1),
        conv2: Conv2d::try_new(8, 16, 3, device)?.padding(1),
        pool: MaxPool2d::new(2),
        fc: Linear::try_new(16 * 5 * 5, 3, device)?,
    };
    let mut optimizer = Adam::new(model.parameters(), 3e-3);

    // Each shape is drawn as often as the others: the weight of a row is 1 by how many have its shape.
    let shapes = Shapes { rows: 1000 };
    let weights = (0..shapes.len()).map(|i| if i % 10 == 0 { 1.0 / 100.0 } else { 1.0 / 450.0 }).collect();
    let loader = DataLoader::new(shapes, 50).weighted(weights, 1000, true, 7)?.workers(2).device(device);
    for epoch in 0..30 {
        let mut total = 0.0;
        for batch in loader.epoch(epoch) {
            let (images, labels) = batch?;
            let loss = nn::cross_entropy(&model.forward(&images)?, &labels)?;
            let grads = loss.backward()?;
            optimizer.step(grads)?;
            total += loss.item::<f32>()?;
        }
        if epoch % 5 == 4 {
            println!("epoch {:>2}  loss {:.4}", epoch + 1, total / loader.len() as f32);
        }
    }

    // New pictures: another seed draws other ones.
    model.eval();
    let mut matrix = ConfusionMatrix::new(3);
    for batch in DataLoader::new(Shapes { rows: 600 }, 100).seed(12345).workers(2).device(device).epoch(0) {
        let (images, labels) = batch?;
        matrix.update(&fornax::no_grad(|| model.forward(&images))?, &labels)?;
    }
    println!("\n{:>8}  {:>8} {:>8} {:>8}   recall", "", NAMES[0], NAMES[1], NAMES[2]);
    for (t, (_, recall, _, _)) in matrix.per_class().into_iter().enumerate() {
        let row = &matrix.counts()[3 * t..3 * t + 3];
        println!("{:>8}  {:>8} {:>8} {:>8}   {recall:.3}", NAMES[t], row[0], row[1], row[2]);
    }
    println!("accuracy {:.3}, F1 (macro) {:.3}", matrix.accuracy()?, matrix.f1(Average::Macro)?);

    // A vector of anything is a data set too, and `map` makes items of it.
    let words = Rows::new(vec!["fornax", "is", "latin", "for", "furnace"]).map(|w, _| Ok(w.len() as f32));
    let lengths = DataLoader::new(words, 5).epoch(0).next().transpose()?;
    println!("lengths of words: {:?}", lengths.map(|t| t.to_vec::<f32>()).transpose()?.unwrap_or_default());
    Ok(())
}

//! Peak memory of a training step, beyond parameters and optimizer state, and what a loop of steps costs in plans, dispatches and time.
//! `cargo bench --bench memory`; `benches/memory_torch.py` counts the same for the same models in PyTorch.

use fornax::nn::{Conv2d, Embedding, Forward, LayerNorm, Linear, Module, Param, cross_entropy};
use fornax::optim::{AdamW, Optimizer};
use fornax::{Attention, Device, Result, Tensor, reset_peak, stats};
use std::time::Instant;

#[derive(Module)]
struct Cnn {
    conv1: Conv2d,
    conv2: Conv2d,
    fc1: Linear,
    fc2: Linear,
}

impl Cnn {
    fn new(d: Device) -> Result<Cnn> {
        Ok(Cnn {
            conv1: Conv2d::try_new(1, 32, 3, d)?.padding(1),
            conv2: Conv2d::try_new(32, 64, 3, d)?.padding(1),
            fc1: Linear::try_new(64 * 49, 128, d)?,
            fc2: Linear::try_new(128, 10, d)?,
        })
    }
}

impl Forward for Cnn {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let pool = fornax::nn::MaxPool2d::new(2);
        let x = pool.forward(&self.conv1.forward(x)?.try_relu()?)?;
        let x = pool.forward(&self.conv2.forward(&x)?.try_relu()?)?;
        self.fc2.forward(&self.fc1.forward(&x.try_flatten(1, -1)?)?.try_relu()?)
    }
}

#[derive(Module)]
struct Block {
    ln1: LayerNorm,
    qkv: Linear,
    out: Linear,
    ln2: LayerNorm,
    up: Linear,
    down: Linear,
}

#[derive(Module)]
struct Gpt {
    tokens: Embedding,
    positions: Param,
    blocks: Vec<Block>,
    ln: LayerNorm,
    head: Linear,
}

const WIDTH: usize = 256;
const HEADS: usize = 8;
const VOCABULARY: usize = 512;
const LENGTH: usize = 128;

impl Gpt {
    fn new(d: Device) -> Result<Gpt> {
        let block = |_| -> Result<Block> {
            Ok(Block {
                ln1: LayerNorm::new(WIDTH, d),
                qkv: Linear::try_new(WIDTH, 3 * WIDTH, d)?,
                out: Linear::try_new(WIDTH, WIDTH, d)?,
                ln2: LayerNorm::new(WIDTH, d),
                up: Linear::try_new(WIDTH, 4 * WIDTH, d)?,
                down: Linear::try_new(4 * WIDTH, WIDTH, d)?,
            })
        };
        Ok(Gpt {
            tokens: Embedding::try_new(VOCABULARY, WIDTH, d)?,
            positions: Param::new(Tensor::try_zeros([LENGTH, WIDTH], d)?),
            blocks: (0..4).map(block).collect::<Result<_>>()?,
            ln: LayerNorm::new(WIDTH, d),
            head: Linear::try_new(WIDTH, VOCABULARY, d)?,
        })
    }
}

impl Forward for Block {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, t) = (x.dims()[0], x.dims()[1]);
        let heads = |y: &Tensor| y.try_reshape([b, t, HEADS, WIDTH / HEADS])?.try_transpose(1, 2);
        let qkv = self.qkv.forward(&self.ln1.forward(x)?)?.try_chunk(3, -1)?;
        let options = Attention { causal: true, ..Attention::default() };
        let y = heads(&qkv[0])?.try_scaled_dot_product_attention(&heads(&qkv[1])?, &heads(&qkv[2])?, &options)?;
        let x = x.try_add(&self.out.forward(&y.try_transpose(1, 2)?.try_reshape([b, t, WIDTH])?)?)?;
        x.try_add(&self.down.forward(&self.up.forward(&self.ln2.forward(&x)?)?.try_gelu()?)?)
    }
}

impl Forward for Gpt {
    fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let mut x = self.tokens.forward(ids)?.try_add(self.positions.get())?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        self.head.forward(&self.ln.forward(&x)?)
    }
}

fn bytes(device: Device) -> (u64, u64) {
    let s = stats();
    if device.is_gpu() { (s.gpu_bytes, s.gpu_peak_bytes) } else { (s.cpu_bytes, s.cpu_peak_bytes) }
}

fn measure(name: &str, device: Device, model: &impl Forward, x: &Tensor, y: &Tensor, classes: usize) -> Result<()> {
    let mut optimizer = AdamW::new(model.parameters(), 1e-3);
    let mut step = || -> Result<f64> {
        let t = Instant::now();
        let logits = model.forward(x)?.try_reshape([y.numel(), classes])?;
        let loss = cross_entropy(&logits, y)?;
        optimizer.step(loss.backward()?)?;
        drop(logits);
        loss.item::<f32>()?;
        Ok(t.elapsed().as_secs_f64())
    };
    for _ in 0..3 {
        step()?;
    }
    reset_peak();
    let (rest, before) = (bytes(device).0, stats());
    let mut times = vec![step()?];
    let (s, peak) = (stats().since(&before), bytes(device).1);
    println!(
        "{name}: peak {} bytes beyond parameters and state; {} dispatches, {} submits, {} plan hits, {} misses, {} donations, {} refused",
        peak - rest,
        s.dispatches,
        s.submits,
        s.plan_hits,
        s.plan_misses,
        s.donations,
        s.donations_refused
    );
    for _ in 0..9 {
        times.push(step()?);
    }
    times.sort_by(f64::total_cmp);
    println!("  {:.2} ms a step (median of 10); memory held after them: {:+} bytes", times[5] * 1e3, bytes(device).0 as i64 - rest as i64);
    Ok(())
}

fn main() -> Result<()> {
    let device = Device::from_env()?;
    fornax::manual_seed(0);
    println!("device {device}");
    let x = Tensor::normal([64, 1, 28, 28], 0.0, 1.0, device);
    let y = Tensor::randint(64, 0, 10, (fornax::DType::I32, device));
    fornax::eval(&[&x, &y])?;
    measure("CNN 28×28, batch 64", device, &Cnn::new(device)?, &x, &y, 10)?;
    let ids = Tensor::randint([8, LENGTH], 0, VOCABULARY as i64, (fornax::DType::I32, device));
    let next = Tensor::randint(8 * LENGTH, 0, VOCABULARY as i64, (fornax::DType::I32, device));
    fornax::eval(&[&ids, &next])?;
    measure("GPT, 4 layers of 256, 8 × 128 tokens", device, &Gpt::new(device)?, &ids, &next, VOCABULARY)
}

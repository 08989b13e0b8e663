//! Training steps (gradients, AdamW) and decoding in the shapes of the peers' programs. `cargo bench --bench models -- [--device cpu] [--only gpt]`

mod common;

use common::models::{Gpt, GptSize, Llama, Recurrent, cnn, mlp, resnet18};
use common::{Bench, Work, finish};
use fornax::nn::{Forward, cross_entropy};
use fornax::optim::{AdamW, Optimizer};
use fornax::quant::Format;
use fornax::{Device, Result, Tensor};

/// One step: forward, backward, update. The updated parameters are what is waited for.
fn train(model: impl Forward, x: Tensor, y: Tensor) -> impl FnMut() -> Result<()> {
    let mut optimizer = AdamW::new(model.parameters(), 1e-3).weight_decay(0.01);
    move || {
        let logits = model.forward(&x)?;
        let classes = logits.dims()[logits.rank() - 1];
        let loss = cross_entropy(&logits.try_reshape([y.numel(), classes])?, &y)?;
        optimizer.step(loss.backward()?)?;
        drop(logits);
        finish(x.device(), &loss)
    }
}

fn work(flops: f64, items: f64) -> Work {
    Work { flops, items, ..Work::default() }
}

fn training(b: &mut Bench) -> Result<()> {
    let flops = 6.0 * 128.0 * (784.0 * 512.0 + 512.0 * 512.0 + 5120.0);
    b.row("train_mlp", "784-512-512-10 b128", work(flops, 128.0), |b| Ok(train(mlp(b.device)?, b.normal([128, 784])?, b.ids([128], 10)?)))?;
    let flops = 6.0 * 64.0 * (784.0 * 9.0 * 32.0 + 784.0 * 9.0 * 32.0 * 64.0 + 12544.0 * 128.0 + 1280.0);
    b.row("train_cnn", "c32-c64-pool-fc128-10 28x28 b64", work(flops, 64.0), |b| {
        Ok(train(cnn(b.device)?, b.normal([64, 1, 28, 28])?, b.ids([64], 10)?))
    })?;
    b.row("train_resnet18", "3x32x32 b16", work(6.0 * 16.0 * 555.4e6, 16.0), |b| {
        Ok(train(resnet18(b.device)?, b.normal([16, 3, 32, 32])?, b.ids([16], 10)?))
    })?;
    let products = 6.0 * 8.0 * 128.0 * (4.0 * 12.0 * 65_536.0 + 256.0 * 512.0);
    let attention = 3.0 * 4.0 * (4.0 * 8.0 * 4.0 * 128.0 * 128.0 * 64.0) / 2.0;
    b.row("train_gpt_nano", "L4 d256 h4 T128 V512 b8", work(products + attention, 1024.0), |b| {
        let size = GptSize { layers: 4, width: 256, heads: 4, length: 128, vocabulary: 512 };
        Ok(train(Gpt::new(size, b.device)?, b.ids([8, 128], 512)?, b.ids([1024], 512)?))
    })?;
    b.row("train_lstm", "in128 h128 T64 b32", work(6.0 * 32.0 * 64.0 * 256.0 * 512.0, 2048.0), |b| {
        Ok(train(Recurrent::new(128, 128, b.device)?, b.normal([32, 64, 128])?, b.ids([32], 10)?))
    })
}

/// Tokens one at a time: positions 16 to 79, then again from the prompt.
fn decode(b: &mut Bench, name: &str, shape: &str, work: Work, model: impl FnOnce(Device) -> Result<Llama>) -> Result<()> {
    b.row(name, shape, work, |b| {
        let (model, device) = (model(b.device)?, b.device);
        println!("{name}: {} bytes of matrices", model.bytes());
        let prompt = Tensor::from_vec((0..16).collect::<Vec<i32>>(), [1, 16], device)?;
        let (mut p, mut token) = (80, 0);
        let next = move |model: &Llama, ids: &Tensor, p: usize| model.forward(ids, p)?.try_argmax(-1)?.item::<i32>();
        Ok(move || {
            if p >= 80 {
                token = next(&model, &prompt, 0)?;
                p = 16;
            }
            token = next(&model, &Tensor::from_vec(vec![token], [1, 1], device)?, p)?;
            p += 1;
            Ok(())
        })
    })
}

fn decoding(b: &mut Bench) -> Result<()> {
    let (w, m) = (Llama::WIDTH as f64, Llama::MIDDLE as f64);
    let layers = Llama::LAYERS as f64 * (4.0 * w * w + 3.0 * w * m);
    let head = w * Llama::VOCABULARY as f64;
    let all = layers + head;
    let one = Work { flops: 2.0 * all, bytes: 4.0 * all, items: 1.0, memory_bound: true };
    const SHAPE: &str = "d768 L12 h12 ff2048 V32000 ctx16-80";
    decode(b, "llama_decode1", SHAPE, one, Llama::new)?;
    // Every matrix is quantised but the table of tokens. The bytes of a token are those of the codes and scales.
    for (name, format, bits) in [("llama_int8", Format::Int8, 8.03), ("llama_nf4", Format::NF4, 4.13)] {
        let work = Work { bytes: bits / 8.0 * all, ..one };
        decode(b, name, SHAPE, work, |d| Llama::quantised(d, format))?;
    }
    let whole = Work { flops: 2.0 * 128.0 * layers + 2.0 * head, bytes: 4.0 * all, items: 128.0, memory_bound: false };
    b.op("llama_prefill128", "d768 L12 h12 ff2048 V32000", whole, |b| {
        let model = Llama::new(b.device)?;
        let ids = Tensor::from_vec((0..128).collect::<Vec<i32>>(), [1, 128], b.device)?;
        Ok(move || model.forward(&ids, 0))
    })
}

fn main() -> Result<()> {
    let mut b = Bench::from_args()?;
    training(&mut b)?;
    decoding(&mut b)?;
    b.done();
    Ok(())
}

//! A training loop, all of it visible: a small network learns the sine. `cargo run --release --example 03_training_loop`

use fornax::data::{DataLoader, TensorDataset};
use fornax::nn::{self, Forward, Module};
use fornax::optim::{Adam, Optimizer};
use fornax::{Device, Result, Tensor};

#[derive(Module)]
struct Mlp {
    fc1: nn::Linear,
    fc2: nn::Linear,
    fc3: nn::Linear,
}

impl Forward for Mlp {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.fc1.forward(x)?.try_tanh()?;
        let x = self.fc2.forward(&x)?.try_tanh()?;
        self.fc3.forward(&x)
    }
}

fn main() -> Result<()> {
    let device = Device::from_env()?;
    fornax::manual_seed(0);

    // 1024 points of a sine with noise.
    let x = Tensor::uniform([1024, 1], -3.0, 3.0, device);
    let y = (&x * 2.0).sin() + Tensor::normal([1024, 1], 0.0, 0.05, device);
    let loader = DataLoader::new(TensorDataset::new([x, y])?, 128).shuffle(0);

    let model = Mlp { fc1: nn::Linear::new(1, 32, device), fc2: nn::Linear::new(32, 32, device), fc3: nn::Linear::new(32, 1, device) };
    print!("{}", model.summary([128, 1])?);
    let mut optimizer = Adam::new(model.parameters(), 1e-2);

    for epoch in 0..60 {
        let mut total = 0.0;
        for batch in loader.epoch(epoch) {
            let [x, y] = batch?;
            let loss = nn::mse_loss(&model.forward(&x)?, &y)?;
            let grads = loss.backward()?;
            optimizer.step(grads)?;
            total += loss.item::<f32>()?;
        }
        if epoch % 10 == 9 {
            println!("epoch {:>2}  loss {:.5}", epoch + 1, total / loader.len() as f32);
        }
    }

    // How well it does on points that it has not seen.
    let x = Tensor::linspace(-3.0, 3.0, 7, device).reshape([7, 1]);
    let guess = model.forward(&x)?;
    for ((x, guess), truth) in x.to_vec::<f32>()?.iter().zip(guess.to_vec::<f32>()?).zip((&x * 2.0).sin().to_vec::<f32>()?) {
        println!("sin(2 · {x:+.1}) = {truth:+.3}, learned {guess:+.3}");
    }
    Ok(())
}

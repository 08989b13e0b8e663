//! An autoencoder and a variational autoencoder (Kingma and Welling 2014) of handwritten digits: both squeeze 64 pixels into 8 numbers; the second one's numbers
//! are so distributed that digits can be drawn from them.
//! `cargo run --release --example 13_autoencoder_vae`
//!
//! It leaves `out/autoencoder_vae.png`: test digits, what both make of them, ways from one digit to another, and digits that nobody wrote.

use fornax::data::{DataLoader, digits};
use fornax::nn::{BCEWithLogitsLoss, Flatten, Forward, Linear, Module, ReLU, Sequential, Unflatten};
use fornax::optim::{Adam, Optimizer};
use fornax::plot::{Canvas, INK};
use fornax::{Device, Reduction, Result, Tensor, nn};

const SEED: u64 = 5;
const LATENT: usize = 8;
const HIDDEN: usize = 160;
const EPOCHS: u64 = 80;
const COLUMNS: usize = 16;

/// From images `[N, 1, 8, 8]` to so many numbers.
fn encoder(outputs: usize, device: Device) -> Sequential {
    let layers = Sequential::new().add(Flatten::default()).add(Linear::new(64, HIDDEN, device)).add(ReLU);
    layers.add(Linear::new(HIDDEN, HIDDEN, device)).add(ReLU).add(Linear::new(HIDDEN, outputs, device))
}

/// From numbers to the logits of pixels.
fn decoder(device: Device) -> Sequential {
    let layers = Sequential::new().add(Linear::new(LATENT, HIDDEN, device)).add(ReLU).add(Linear::new(HIDDEN, HIDDEN, device)).add(ReLU);
    layers.add(Linear::new(HIDDEN, 64, device)).add(Unflatten::new(1, [1, 8, 8]))
}

#[derive(Module)]
struct Autoencoder {
    encoder: Sequential,
    decoder: Sequential,
}

impl Forward for Autoencoder {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.decoder.forward(&self.encoder.forward(x)?)
    }
}

#[derive(Module)]
struct Vae {
    encoder: Sequential,
    decoder: Sequential,
}

impl Vae {
    /// Mean and log-variance of an image's numbers.
    fn encode(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let both = self.encoder.forward(x)?;
        Ok((both.try_narrow(1, 0, LATENT)?, both.try_narrow(1, LATENT, LATENT)?))
    }

    /// The two parts of the negative evidence lower bound, in nats an image: what the pixels cost, and the divergence of the numbers from the standard normal.
    fn losses(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (mean, log_var) = self.encode(x)?;
        // The noise is drawn apart from what has a gradient.
        let z = mean.try_add(log_var.try_mul(0.5)?.try_exp()?.try_mul(mean.try_randn_like()?)?)?;
        let pixels = pixels().forward(&self.decoder.forward(&z)?, x)?;
        let divergence = mean.try_square()?.try_add(log_var.try_exp()?)?.try_sub(log_var)?.try_sub(1.0)?;
        Ok((pixels, divergence.try_sum(1)?.try_mean(())?.try_mul(0.5)?))
    }
}

/// The cross-entropy of the pixels, summed over an image.
fn pixels() -> BCEWithLogitsLoss {
    BCEWithLogitsLoss::new().reduction(Reduction::BatchMean)
}

/// Trains a model by a loss of a batch of images.
fn train(name: &str, model: &impl Module, loss_of: impl Fn(&Tensor) -> Result<Tensor>, device: Device) -> Result<()> {
    let loader = DataLoader::new(digits(device)?.train, 64).shuffle(SEED);
    let mut optimizer = Adam::new(model.parameters(), 2e-3);
    for epoch in 0..EPOCHS {
        if epoch == EPOCHS * 3 / 4 {
            optimizer.set_lr(4e-4);
        }
        let mut losses = Vec::new();
        for batch in loader.epoch(epoch) {
            let [images, _labels] = batch?;
            let loss = loss_of(&images)?;
            let grads = loss.backward()?;
            optimizer.step(grads)?;
            losses.push(loss);
        }
        if epoch % 20 == 19 {
            let mean = losses.iter().map(|l| l.item::<f32>()).sum::<Result<f32>>()? / losses.len() as f32;
            println!("{name}: epoch {:>2}  loss {mean:.3}", epoch + 1);
        }
    }
    model.eval();
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::from_env()?;
    fornax::manual_seed(SEED);
    println!("device: {device}");

    let plain = Autoencoder { encoder: encoder(LATENT, device), decoder: decoder(device) };
    train("autoencoder", &plain, |x| pixels().forward(&plain.forward(x)?, x), device)?;
    let vae = Vae { encoder: encoder(2 * LATENT, device), decoder: decoder(device) };
    let bound = |x: &Tensor| -> Result<Tensor> {
        let (pixels, divergence) = vae.losses(x)?;
        pixels.try_add(divergence)
    };
    train("VAE", &vae, bound, device)?;

    let digits = digits(device)?;
    let ([train_images, _], [images, _]) = (digits.train.tensors(), digits.test.tensors());
    let (by_plain, by_vae, samples, ways, cost) = fornax::no_grad(|| -> Result<_> {
        let draw = |z: &Tensor| vae.decoder.forward(z)?.try_sigmoid();
        let (z, _) = vae.encode(images)?;
        let samples = draw(&Tensor::try_normal([4 * COLUMNS, LATENT], 0.0, 1.0, device)?)?;
        // Four pairs of test digits, and a straight way from the one's numbers to the other's.
        let t = Tensor::try_linspace(0.0, 1.0, COLUMNS, device)?.try_reshape([1, COLUMNS, 1])?;
        let (from, to) = (z.try_narrow(0, 16, 4)?.try_unsqueeze(1)?, z.try_narrow(0, 36, 4)?.try_unsqueeze(1)?);
        let ways = draw(&from.try_add(to.try_sub(&from)?.try_mul(&t)?)?.try_flatten(0, 1)?)?;
        Ok((plain.forward(images)?.try_sigmoid()?, draw(&z)?, samples, ways, vae.losses(images)?))
    })?;

    let mean_image = train_images.try_mean_keepdim(0)?.try_expand(images.shape())?;
    println!("\nroot mean squared error of a test pixel (0 to 1)");
    for (name, made) in [("mean image", &mean_image), ("autoencoder", &by_plain), ("VAE", &by_vae)] {
        println!("{name:<14}{:.4}", nn::mse_loss(made, images)?.item::<f32>()?.sqrt());
    }
    println!("VAE, in nats an image: pixels {:.2}, divergence {:.2}", cost.0.item::<f32>()?, cost.1.item::<f32>()?);

    let mut canvas = Canvas::new(40 + COLUMNS as u32 * 44, 730)?;
    let mut y = 30;
    for (title, rows, images) in [
        ("TEST DIGITS", 1, images),
        ("AUTOENCODER", 1, &by_plain),
        ("VAE", 1, &by_vae),
        ("VAE: FROM ONE DIGIT TO ANOTHER", 4, &ways),
        ("VAE: DIGITS THAT NOBODY WROTE", 4, &samples),
    ] {
        canvas.text(20, y, 2, title, INK);
        let values = images.to_vec::<f32>()?;
        for (k, image) in values.chunks(64).take(rows * COLUMNS).enumerate() {
            let (left, top) = (20 + (k % COLUMNS) as i32 * 44, y + 18 + (k / COLUMNS) as i32 * 44);
            for (p, &v) in image.iter().enumerate() {
                let shade = 255 - (v.clamp(0.0, 1.0) * 255.0) as u8;
                canvas.fill(left + (p % 8) as i32 * 5, top + (p / 8) as i32 * 5, 5, 5, [shade; 3]);
            }
        }
        y += 30 + rows as i32 * 44 + 14;
    }
    std::fs::create_dir_all("out")?;
    canvas.save("out/autoencoder_vae.png")?;
    println!("drew out/autoencoder_vae.png");
    Ok(())
}

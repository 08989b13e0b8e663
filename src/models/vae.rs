//! The variational autoencoder.

use super::autoencoder::AutoencoderConfig;
use crate::nn::{Forward, Linear, Mode, Module, Param, Sequential};
use crate::{Error, Options, Result, Tensor};

/// What the decoder's output says of a pixel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Likelihood {
    /// The logit of its probability to be 1, for pixels from 0 to 1: the error is the binary cross-entropy.
    #[default]
    Bernoulli,
    /// Its mean, with variance 1: the error is half the squared distance (without the constant `½ log 2π` a pixel).
    Gaussian,
}

/// The negative evidence lower bound of a batch, and its parts: each summed over an image and averaged over the batch, in nats.
#[derive(Clone)]
pub struct Elbo {
    /// `reconstruction + beta · kl`: what is minimised.
    pub loss: Tensor,
    /// `−log p(x | z)`.
    pub reconstruction: Tensor,
    /// `KL(q(z | x) ‖ N(0, 1)) = −½ Σ (1 + log σ² − μ² − σ²)`.
    pub kl: Tensor,
}

/// A variational autoencoder (Kingma and Welling, "Auto-encoding variational Bayes", 2013): the encoder gives mean and log-variance of a normal
/// distribution for each image, a draw `z = μ + σ ε` from it goes through the decoder.
///
/// The draws come from the framework's own stream ([`manual_seed`](crate::manual_seed)) and are the same on every device. In evaluation mode `z` is the mean.
///
/// ```
/// use fornax::models::{AutoencoderConfig, Vae};
/// use fornax::nn::Module;
/// use fornax::optim::{Adam, Optimizer};
/// use fornax::{Device, Tensor};
/// let model = Vae::new(AutoencoderConfig::mlp([1, 8, 8], &[32], 2), Device::cpu());
/// let mut optimizer = Adam::new(model.parameters(), 1e-3);
/// let x = Tensor::uniform([16, 1, 8, 8], 0.0, 1.0, Device::cpu());
/// let elbo = model.elbo(&x, 1.0)?;
/// optimizer.step(elbo.loss.backward()?)?;
/// assert!(elbo.kl.item::<f32>()? >= 0.0);
/// assert_eq!(model.sample(3)?.dims(), [3, 1, 8, 8]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Module)]
pub struct Vae {
    /// From images to features.
    pub encoder: Sequential,
    /// From features to μ.
    pub fc_mu: Linear,
    /// From features to log σ².
    pub fc_log_var: Linear,
    /// From the latent space to images.
    pub decoder: Sequential,
    /// What the decoder's output means.
    pub likelihood: Likelihood,
    mode: Mode,
}

#[fornax_derive::fallible]
impl Vae {
    /// A model with random weights, for pixels from 0 to 1.
    ///
    /// # Errors
    /// Sizes of 0, or images that cannot be halved; sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(config: AutoencoderConfig, options: impl Into<Options>) -> Result<Vae> {
        let o = options.into();
        let (encoder, features, decoder) = config.halves("Vae", o)?;
        Ok(Vae {
            encoder,
            fc_mu: Linear::try_new(features, config.latent, o)?,
            fc_log_var: Linear::try_new(features, config.latent, o)?,
            decoder,
            likelihood: Likelihood::default(),
            mode: Mode::default(),
        })
    }
}

impl Vae {
    /// Sets what the decoder's output means.
    pub fn likelihood(mut self, likelihood: Likelihood) -> Vae {
        self.likelihood = likelihood;
        self
    }

    /// Images `[N, C, H, W]` to μ and log σ², both `[N, latent]`.
    ///
    /// # Errors
    /// Where the input's shape, dtype or device does not fit.
    pub fn encode(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let features = self.encoder.forward(x)?;
        Ok((self.fc_mu.forward(&features)?, self.fc_log_var.forward(&features)?))
    }

    /// `μ + exp(½ log σ²) · ε` with ε drawn from N(0, 1), so that gradients flow to both; in evaluation mode μ.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn reparameterise(&self, mu: &Tensor, log_var: &Tensor) -> Result<Tensor> {
        if !self.mode.is_training() {
            return Ok(mu.clone());
        }
        log_var.try_mul(0.5)?.try_exp()?.try_mul(mu.try_randn_like()?)?.try_add(mu)
    }

    /// `[N, latent]` to what the decoder makes of it: logits or means `[N, C, H, W]`, as the [`likelihood`](field@Vae::likelihood) says.
    ///
    /// # Errors
    /// Where the input's shape, dtype or device does not fit.
    pub fn decode(&self, z: &Tensor) -> Result<Tensor> {
        self.decoder.forward(z)
    }

    /// The mean image of what the decoder gave: its sigmoid, or itself.
    fn mean_image(&self, y: Tensor) -> Result<Tensor> {
        match self.likelihood {
            Likelihood::Bernoulli => y.try_sigmoid(),
            Likelihood::Gaussian => Ok(y),
        }
    }

    /// The loss of images `[N, C, H, W]`, with the divergence weighted by `beta`: 1 for the bound itself, more for a tidier latent space (Higgins et al. 2017).
    ///
    /// # Errors
    /// Where the input's shape, dtype or device does not fit; an empty batch.
    pub fn elbo(&self, x: &Tensor, beta: f64) -> Result<Elbo> {
        if x.numel() == 0 {
            return Err(Error::shape("elbo", &[x.shape()], "at least one image [N, C, H, W]"));
        }
        let (mu, log_var) = self.encode(x)?;
        let y = self.decode(&self.reparameterise(&mu, &log_var)?)?;
        let images = 1.0 / x.dims()[0] as f64;
        let error = match self.likelihood {
            Likelihood::Bernoulli => y.try_softplus(1.0)?.try_sub(y.try_mul(x)?)?,
            Likelihood::Gaussian => y.try_sub(x)?.try_square()?.try_mul(0.5)?,
        };
        let reconstruction = error.try_sum(())?.try_mul(images)?;
        let inner = log_var.try_add(1.0)?.try_sub(mu.try_square()?)?.try_sub(log_var.try_exp()?)?;
        let kl = inner.try_sum(())?.try_mul(-0.5 * images)?;
        Ok(Elbo { loss: reconstruction.try_add(kl.try_mul(beta)?)?, reconstruction, kl })
    }

    /// `n` new images: the decoder's mean for draws from N(0, 1).
    ///
    /// # Errors
    /// Sizes that memory cannot hold.
    pub fn sample(&self, n: usize) -> Result<Tensor> {
        let weight: &Param = &self.fc_mu.weight;
        let z = Tensor::try_normal([n, weight.shape()[0]], 0.0, 1.0, (weight.dtype(), weight.device()))?;
        self.mean_image(self.decode(&z)?)
    }
}

impl Forward for Vae {
    /// Images `[N, C, H, W]` to their reconstructions, from a draw in training mode and from the mean in evaluation mode.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (mu, log_var) = self.encode(x)?;
        self.mean_image(self.decode(&self.reparameterise(&mu, &log_var)?)?)
    }
}

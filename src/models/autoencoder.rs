//! The autoencoder, and the halves that it shares with the variational one.

use super::blocks::{Activation, conv2d, setters, steps};
use crate::nn::{ConvTranspose2d, Flatten, Forward, Linear, Module, Sequential, Unflatten};
use crate::{Error, Options, Result, Tensor};

/// How an [`Autoencoder`] or a [`Vae`](super::Vae) is built.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoencoderConfig {
    /// Channels, height and width of the images.
    pub image: [usize; 3],
    /// The features of the encoder's linear layers, or with `conv` the channels of its convolutions; the decoder has them backwards.
    pub hidden: Vec<usize>,
    /// The numbers that an image becomes.
    pub latent: usize,
    /// Whether the layers are 3×3 convolutions that halve the image each, or linear.
    pub conv: bool,
    /// What follows each hidden layer; ReLU.
    pub activation: Activation,
}

impl AutoencoderConfig {
    /// Linear layers, for images of these channels, height and width.
    ///
    /// ```
    /// use fornax::models::AutoencoderConfig;
    /// assert!(!AutoencoderConfig::mlp([1, 8, 8], &[64, 32], 4).conv);
    /// ```
    pub fn mlp(image: [usize; 3], hidden: &[usize], latent: usize) -> AutoencoderConfig {
        AutoencoderConfig { image, hidden: hidden.to_vec(), latent, conv: false, activation: Activation::ReLU }
    }

    /// Convolutions with stride 2 and, backwards, transposed ones. Height and width must be multiples of 2 to the number of layers.
    ///
    /// ```
    /// use fornax::models::AutoencoderConfig;
    /// assert!(AutoencoderConfig::conv([1, 8, 8], &[16, 32], 4).conv);
    /// ```
    pub fn conv(image: [usize; 3], channels: &[usize], latent: usize) -> AutoencoderConfig {
        AutoencoderConfig { conv: true, ..AutoencoderConfig::mlp(image, channels, latent) }
    }

    /// The encoder without its last layer, what it gives, and the decoder.
    pub(super) fn halves(&self, op: &'static str, o: Options) -> Result<(Sequential, usize, Sequential)> {
        let product = |sizes: &[usize]| sizes.iter().fold(1usize, |p, &n| p.saturating_mul(n));
        let [channels, height, width] = self.image;
        if product(&self.image) == 0 || self.latent == 0 || self.hidden.contains(&0) {
            return Err(Error::argument(op, "an image, hidden layers and a latent space of at least 1 number each are wanted"));
        }
        if !self.conv {
            let pixels = product(&self.image);
            let (mut encoder, mut features) = (Sequential::new().add(Flatten::default()), pixels);
            for &n in &self.hidden {
                encoder = encoder.add(Linear::try_new(features, n, o)?).add(self.activation);
                features = n;
            }
            let (mut decoder, mut inputs) = (Sequential::new(), self.latent);
            for &n in self.hidden.iter().rev() {
                decoder = decoder.add(Linear::try_new(inputs, n, o)?).add(self.activation);
                inputs = n;
            }
            let decoder = decoder.add(Linear::try_new(inputs, pixels, o)?).add(Unflatten::new(1, self.image));
            return Ok((encoder, features, decoder));
        }
        let factor = u32::try_from(self.hidden.len()).ok().and_then(|n| 1usize.checked_shl(n)).unwrap_or(usize::MAX);
        let Some(&last) = self.hidden.last().filter(|_| height.is_multiple_of(factor) && width.is_multiple_of(factor)) else {
            let layers = self.hidden.len();
            let message = format!(
                "{layers} convolutions that halve images of {height}×{width}: at least one, and sizes that are multiples of {factor}, are wanted"
            );
            return Err(Error::argument(op, message));
        };
        let (mut encoder, mut inputs) = (Sequential::new(), channels);
        for &n in &self.hidden {
            encoder = encoder.add(conv2d(inputs, n, 3, steps(2, 1), o)?).add(self.activation);
            inputs = n;
        }
        let small = [last, height / factor, width / factor];
        let mut decoder =
            Sequential::new().add(Linear::try_new(self.latent, product(&small), o)?).add(self.activation).add(Unflatten::new(1, small));
        for (i, &n) in self.hidden.iter().enumerate().rev() {
            let outputs = if i == 0 { channels } else { self.hidden[i - 1] };
            decoder = decoder.add(ConvTranspose2d::try_new(n, outputs, 3, o)?.stride(2).padding(1).output_padding(1));
            if i > 0 {
                decoder = decoder.add(self.activation);
            }
        }
        Ok((encoder.add(Flatten::default()), product(&small), decoder))
    }
}
setters!(AutoencoderConfig { image: [usize; 3], hidden: Vec<usize>, latent: usize, activation: Activation });

/// An autoencoder (Rumelhart, Hinton, Williams 1986; Hinton and Salakhutdinov 2006): an encoder takes an image to a few numbers, and a decoder makes the image
/// of them.
///
/// The decoder's output has no activation. For images from 0 to 1 train it with [`binary_cross_entropy_with_logits`](crate::nn::binary_cross_entropy_with_logits) and take the sigmoid of
/// what it gives; for others with [`mse_loss`](crate::nn::mse_loss). Initial values are those of the layers.
///
/// ```
/// use fornax::models::{Autoencoder, AutoencoderConfig};
/// use fornax::nn::{Forward, mse_loss};
/// use fornax::{Device, Tensor};
/// let model = Autoencoder::new(AutoencoderConfig::conv([1, 8, 8], &[16, 32], 4), Device::cpu());
/// let x = Tensor::uniform([2, 1, 8, 8], 0.0, 1.0, Device::cpu());
/// assert_eq!(model.encode(&x)?.dims(), [2, 4]);
/// let loss = mse_loss(&model.forward(&x)?, &x)?;
/// loss.backward()?;
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Module)]
pub struct Autoencoder {
    /// From images to the latent space.
    pub encoder: Sequential,
    /// From the latent space to images.
    pub decoder: Sequential,
}

#[fornax_derive::fallible]
impl Autoencoder {
    /// A model with random weights.
    ///
    /// # Errors
    /// Sizes of 0, or images that cannot be halved; sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(config: AutoencoderConfig, options: impl Into<Options>) -> Result<Autoencoder> {
        let o = options.into();
        let (encoder, features, decoder) = config.halves("Autoencoder", o)?;
        Ok(Autoencoder { encoder: encoder.add(Linear::try_new(features, config.latent, o)?), decoder })
    }
}

impl Autoencoder {
    /// Images `[N, C, H, W]` to `[N, latent]`.
    ///
    /// # Errors
    /// Where the input's shape, dtype or device does not fit.
    pub fn encode(&self, x: &Tensor) -> Result<Tensor> {
        self.encoder.forward(x)
    }

    /// `[N, latent]` to images `[N, C, H, W]`.
    ///
    /// # Errors
    /// Where the input's shape, dtype or device does not fit.
    pub fn decode(&self, z: &Tensor) -> Result<Tensor> {
        self.decoder.forward(z)
    }
}

impl Forward for Autoencoder {
    /// Images `[N, C, H, W]` to what the decoder makes of their code.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.decode(&self.encode(x)?)
    }
}

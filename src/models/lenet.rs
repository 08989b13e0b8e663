//! LeNet-5.

use super::blocks::{Activation, conv2d, new_head, setters, steps};
use super::registry::Classifier;
use crate::nn::{Conv2d, Forward, Linear, Module};
use crate::{Error, Options, PoolOptions, Result, Tensor};

/// How a [`LeNet5`] is built.
#[derive(Clone, Debug, PartialEq)]
pub struct LeNet5Config {
    /// The number of classes; 10.
    pub num_classes: usize,
    /// The channels of an image; 1.
    pub in_channels: usize,
    /// Height and width of the images; 28, as MNIST's.
    pub image_size: usize,
    /// The padding of the first convolution; 2, which makes 28×28 pixels the 32×32 of the paper. 0 for images that are 32×32 already.
    pub padding: usize,
    /// Tanh and average pools, as in 1998, in place of ReLU and maximum pools; no.
    pub classic: bool,
}

impl Default for LeNet5Config {
    fn default() -> Self {
        LeNet5Config { num_classes: 10, in_channels: 1, image_size: 28, padding: 2, classic: false }
    }
}
setters!(LeNet5Config { num_classes: usize, in_channels: usize, image_size: usize, padding: usize, classic: bool });

/// LeNet-5 (LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998): two convolutions with pools, three linear
/// layers; 61,706 parameters for ten digits. (The connections between the two convolutions are full, and the output is a linear layer.) Initial values
/// are those of the layers.
///
/// ```
/// use fornax::models::{LeNet5, LeNet5Config};
/// use fornax::nn::{Forward, Module};
/// use fornax::{Device, Tensor};
/// let model = LeNet5::new(LeNet5Config::default(), Device::cpu());
/// assert_eq!(model.num_params(), 61_706);
/// assert_eq!(model.forward(&Tensor::zeros([2, 1, 28, 28], Device::cpu()))?.dims(), [2, 10]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Module)]
pub struct LeNet5 {
    /// 5×5, to 6 channels.
    pub conv1: Conv2d,
    /// 5×5, to 16 channels.
    pub conv2: Conv2d,
    /// To 120 features.
    pub fc1: Linear,
    /// To 84 features.
    pub fc2: Linear,
    /// To the classes.
    pub fc3: Linear,
    classic: bool,
}

#[fornax_derive::fallible]
impl LeNet5 {
    /// A model with random weights.
    ///
    /// # Errors
    /// Images that are too small; sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(config: LeNet5Config, options: impl Into<Options>) -> Result<LeNet5> {
        let o = options.into();
        // Each convolution takes 4 away, each pool halves.
        let padded = config.image_size.saturating_add(config.padding.saturating_mul(2));
        let left = (padded.saturating_sub(4) / 2).saturating_sub(4) / 2;
        if left == 0 {
            let message = format!("images of {padded}×{padded} with their padding: at least 16×16 are wanted");
            return Err(Error::argument("LeNet5", message));
        }
        Ok(LeNet5 {
            conv1: conv2d(config.in_channels, 6, 5, steps(1, config.padding), o)?,
            conv2: conv2d(6, 16, 5, steps(1, 0), o)?,
            fc1: Linear::try_new(left.saturating_mul(left).saturating_mul(16), 120, o)?,
            fc2: Linear::try_new(120, 84, o)?,
            fc3: Linear::try_new(84, config.num_classes, o)?,
            classic: config.classic,
        })
    }
}

impl Forward for LeNet5 {
    /// Images `[N, C, H, W]` to logits `[N, classes]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let act = if self.classic { Activation::Tanh } else { Activation::ReLU };
        let pool = |x: Tensor| {
            let windows = PoolOptions::default();
            if self.classic { x.try_avg_pool2d(2, windows) } else { x.try_max_pool2d(2, windows) }
        };
        let x = pool(act.forward(&self.conv1.forward(x)?)?)?;
        let x = pool(act.forward(&self.conv2.forward(&x)?)?)?;
        let x = act.forward(&self.fc1.forward(&x.try_flatten(1, -1)?)?)?;
        self.fc3.forward(&act.forward(&self.fc2.forward(&x)?)?)
    }
}

impl Classifier for LeNet5 {
    fn head(&self) -> &'static str {
        "fc3"
    }

    fn replace_head(&mut self, num_classes: usize) -> Result<()> {
        self.fc3 = new_head("LeNet5", self, self.head(), num_classes)?;
        Ok(())
    }
}

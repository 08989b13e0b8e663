//! AlexNet.

use super::blocks::{conv2d, new_head, setters, steps};
use super::registry::Classifier;
use crate::nn::{AdaptiveAvgPool2d, Dropout, Forward, Linear, MaxPool2d, Module, ReLU, Sequential};
use crate::{Options, Result, Tensor};

/// How an [`AlexNet`] is built.
#[derive(Clone, Debug, PartialEq)]
pub struct AlexNetConfig {
    /// The number of classes; 1000.
    pub num_classes: usize,
    /// The channels of an image; 3.
    pub in_channels: usize,
    /// The probability of both dropouts; 0.5.
    pub dropout: f64,
}

impl Default for AlexNetConfig {
    fn default() -> Self {
        AlexNetConfig { num_classes: 1000, in_channels: 3, dropout: 0.5 }
    }
}
setters!(AlexNetConfig { num_classes: usize, in_channels: usize, dropout: f64 });

/// AlexNet (Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014) for images `[N, 3, H, W]`, 224×224 as published and
/// at least 63×63. Initial values are those of the layers.
///
/// ```
/// use fornax::models::{AlexNet, AlexNetConfig};
/// use fornax::nn::Module;
/// let model = AlexNet::new(AlexNetConfig::default(), fornax::Device::cpu());
/// assert_eq!(model.num_params(), 61_100_840);
/// ```
#[derive(Module)]
pub struct AlexNet {
    /// The convolutions and pools.
    pub features: Sequential,
    avgpool: AdaptiveAvgPool2d,
    /// The linear layers, with dropout.
    pub classifier: Sequential,
}

#[fornax_derive::fallible]
impl AlexNet {
    /// A model with random weights.
    ///
    /// # Errors
    /// A probability outside 0..=1; sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(config: AlexNetConfig, options: impl Into<Options>) -> Result<AlexNet> {
        let o = options.into();
        let pool = || MaxPool2d::new(3).stride(2);
        let mut features = Sequential::new()
            .add(conv2d(config.in_channels, 64, 11, steps(4, 2), o)?)
            .add(ReLU)
            .add(pool())
            .add(conv2d(64, 192, 5, steps(1, 2), o)?)
            .add(ReLU)
            .add(pool());
        for (inputs, outputs) in [(192, 384), (384, 256), (256, 256)] {
            features = features.add(conv2d(inputs, outputs, 3, steps(1, 1), o)?).add(ReLU);
        }
        let classifier = Sequential::new()
            .add(Dropout::try_new(config.dropout)?)
            .add(Linear::try_new(256 * 6 * 6, 4096, o)?)
            .add(ReLU)
            .add(Dropout::try_new(config.dropout)?)
            .add(Linear::try_new(4096, 4096, o)?)
            .add(ReLU)
            .add(Linear::try_new(4096, config.num_classes, o)?);
        Ok(AlexNet { features: features.add(pool()), avgpool: AdaptiveAvgPool2d::new(6), classifier })
    }
}

impl Forward for AlexNet {
    /// Images `[N, C, H, W]` to logits `[N, classes]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.avgpool.forward(&self.features.forward(x)?)?;
        self.classifier.forward(&x.try_flatten(1, -1)?)
    }
}

impl Classifier for AlexNet {
    fn head(&self) -> &'static str {
        "classifier.6"
    }

    fn replace_head(&mut self, num_classes: usize) -> Result<()> {
        let head = new_head("AlexNet", self, self.head(), num_classes)?;
        self.classifier.replace("6", head)
    }
}

//! VGG.

use super::blocks::{conv2d, initialise, kaiming_fan_out, new_head, setters, steps};
use super::registry::Classifier;
use crate::nn::{AdaptiveAvgPool2d, BatchNorm2d, Dropout, Forward, Linear, MaxPool2d, Module, ReLU, Sequential};
use crate::{Options, Result, Tensor};

/// How a [`Vgg`] is built.
#[derive(Clone, Debug, PartialEq)]
pub struct VggConfig {
    /// The channels of the convolutions, stage by stage; a pool halves the image after each stage.
    pub stages: Vec<Vec<usize>>,
    /// Whether each convolution is followed by batch normalisation.
    pub batch_norm: bool,
    /// The number of classes; 1000.
    pub num_classes: usize,
    /// The channels of an image; 3.
    pub in_channels: usize,
    /// The probability of both dropouts; 0.5.
    pub dropout: f64,
}

macro_rules! members {
    ($($(#[$doc:meta])* $name:ident [$($repeats:literal),*] $batch_norm:literal;)*) => { $(
        $(#[$doc])*
        pub fn $name() -> VggConfig {
            let stages = [64, 128, 256, 512, 512].into_iter().zip([$($repeats),*]).map(|(c, n)| vec![c; n]).collect();
            VggConfig { stages, batch_norm: $batch_norm, num_classes: 1000, in_channels: 3, dropout: 0.5 }
        }
    )* };
}
impl VggConfig {
    members! {
        /// 8 convolutions and 3 linear layers.
        vgg11 [1, 1, 2, 2, 2] false;
        /// 10 convolutions and 3 linear layers.
        vgg13 [2, 2, 2, 2, 2] false;
        /// 13 convolutions and 3 linear layers.
        vgg16 [2, 2, 3, 3, 3] false;
        /// 16 convolutions and 3 linear layers.
        vgg19 [2, 2, 4, 4, 4] false;
        /// [`vgg11`](VggConfig::vgg11) with batch normalisation.
        vgg11_bn [1, 1, 2, 2, 2] true;
        /// [`vgg13`](VggConfig::vgg13) with batch normalisation.
        vgg13_bn [2, 2, 2, 2, 2] true;
        /// [`vgg16`](VggConfig::vgg16) with batch normalisation.
        vgg16_bn [2, 2, 3, 3, 3] true;
        /// [`vgg19`](VggConfig::vgg19) with batch normalisation.
        vgg19_bn [2, 2, 4, 4, 4] true;
    }
}
setters!(VggConfig { stages: Vec<Vec<usize>>, batch_norm: bool, num_classes: usize, in_channels: usize, dropout: f64 });

/// VGG (Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", 2014) for images `[N, 3, H, W]`, 224×224 as
/// published and at least 32×32.
///
/// Convolutions start normal, `√(2 / fan_out)`, linear layers normal, 0.01, biases at 0.
///
/// ```
/// use fornax::models::{Vgg, VggConfig};
/// use fornax::nn::Module;
/// // No weight of these 143 million is computed before it is needed.
/// assert_eq!(Vgg::new(VggConfig::vgg19(), fornax::Device::cpu()).num_params(), 143_667_240);
/// ```
#[derive(Module)]
pub struct Vgg {
    /// The convolutions and pools.
    pub features: Sequential,
    avgpool: AdaptiveAvgPool2d,
    /// The linear layers, with dropout.
    pub classifier: Sequential,
}

#[fornax_derive::fallible]
impl Vgg {
    /// A model with random weights.
    ///
    /// # Errors
    /// A probability outside 0..=1; sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(config: VggConfig, options: impl Into<Options>) -> Result<Vgg> {
        let o = options.into();
        let (mut features, mut channels) = (Sequential::new(), config.in_channels);
        for stage in &config.stages {
            for &outputs in stage {
                features = features.add(conv2d(channels, outputs, 3, steps(1, 1), o)?);
                if config.batch_norm {
                    features = features.add(BatchNorm2d::try_new(outputs, o)?);
                }
                features = features.add(ReLU);
                channels = outputs;
            }
            features = features.add(MaxPool2d::new(2));
        }
        let classifier = Sequential::new()
            .add(Linear::try_new(channels.saturating_mul(49), 4096, o)?)
            .add(ReLU)
            .add(Dropout::try_new(config.dropout)?)
            .add(Linear::try_new(4096, 4096, o)?)
            .add(ReLU)
            .add(Dropout::try_new(config.dropout)?)
            .add(Linear::try_new(4096, config.num_classes, o)?);
        let model = Vgg { features, avgpool: AdaptiveAvgPool2d::new(7), classifier };
        initialise(&model, |layer, name, shape, o| match (layer, name) {
            ("Conv2d", "weight") => kaiming_fan_out(shape, o),
            ("Linear", "weight") => Tensor::try_normal(shape, 0.0, 0.01, o).map(Some),
            ("Conv2d" | "Linear", _) => Tensor::try_zeros(shape, o).map(Some),
            _ => Ok(None),
        })?;
        Ok(model)
    }
}

impl Forward for Vgg {
    /// Images `[N, C, H, W]` to logits `[N, classes]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.avgpool.forward(&self.features.forward(x)?)?;
        self.classifier.forward(&x.try_flatten(1, -1)?)
    }
}

impl Classifier for Vgg {
    fn head(&self) -> &'static str {
        "classifier.6"
    }

    fn replace_head(&mut self, num_classes: usize) -> Result<()> {
        let head = new_head("Vgg", self, self.head(), num_classes)?;
        self.classifier.replace("6", head)
    }
}

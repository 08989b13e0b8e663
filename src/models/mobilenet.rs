//! MobileNet v2.

use super::blocks::{Activation, ConvBnAct, conv2d, global_mean, initialise, kaiming_fan_out, new_head, setters, steps};
use super::registry::Classifier;
use crate::nn::{BatchNorm2d, Dropout, Forward, Linear, Module, Sequential};
use crate::{ConvOptions, Error, Options, Result, Tensor};

/// How a [`MobileNetV2`] is built.
#[derive(Clone, Debug, PartialEq)]
pub struct MobileNetV2Config {
    /// The number of classes; 1000.
    pub num_classes: usize,
    /// The channels of an image; 3.
    pub in_channels: usize,
    /// A factor of all numbers of channels, but that before the head, which it only raises; 1.
    pub width_mult: f64,
    /// What numbers of channels are rounded to a multiple of; 8.
    pub round_nearest: usize,
    /// The probability of the dropout before the head; 0.2.
    pub dropout: f64,
    /// The blocks: expansion, channels, how many, stride of the first.
    pub blocks: Vec<[usize; 4]>,
}

impl Default for MobileNetV2Config {
    fn default() -> Self {
        let blocks = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]];
        MobileNetV2Config { num_classes: 1000, in_channels: 3, width_mult: 1.0, round_nearest: 8, dropout: 0.2, blocks: blocks.into() }
    }
}
setters!(MobileNetV2Config {
    num_classes: usize,
    in_channels: usize,
    width_mult: f64,
    round_nearest: usize,
    dropout: f64,
    blocks: Vec<[usize; 4]>,
});

/// A block that widens, convolves each channel by itself, and narrows, around which the input is added where the size stays.
#[derive(Module)]
struct InvertedResidual {
    conv: Sequential,
    residual: bool,
}

impl InvertedResidual {
    fn new(inputs: usize, outputs: usize, stride: usize, expansion: usize, o: Options) -> Result<InvertedResidual> {
        let hidden = inputs.saturating_mul(expansion);
        let mut conv = Sequential::new();
        if expansion != 1 {
            conv = conv.add(ConvBnAct::numbered(inputs, hidden, 1, steps(1, 0), Activation::ReLU6, o)?);
        }
        let depthwise = ConvOptions { groups: hidden, ..steps(stride, 1) };
        let conv = conv
            .add(ConvBnAct::numbered(hidden, hidden, 3, depthwise, Activation::ReLU6, o)?)
            .add(conv2d(hidden, outputs, 1, steps(1, 0), o)?.no_bias())
            .add(BatchNorm2d::try_new(outputs, o)?);
        Ok(InvertedResidual { conv, residual: stride == 1 && inputs == outputs })
    }
}

impl Forward for InvertedResidual {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.conv.forward(x)?;
        if self.residual { y.try_add(x) } else { Ok(y) }
    }
}

/// MobileNet v2 (Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", 2018) for images `[N, 3, H, W]`, 224×224 as published.
///
/// Convolutions start normal, `√(2 / fan_out)`, the head normal, 0.01, with bias 0.
///
/// ```
/// use fornax::models::{MobileNetV2, MobileNetV2Config};
/// use fornax::nn::{Forward, Module};
/// use fornax::{Device, Tensor};
/// let model = MobileNetV2::new(MobileNetV2Config::default(), Device::cpu());
/// assert_eq!(model.num_params(), 3_504_872);
/// assert_eq!(model.forward(&Tensor::zeros([2, 3, 64, 64], Device::cpu()))?.dims(), [2, 1000]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Module)]
pub struct MobileNetV2 {
    /// The convolutions.
    pub features: Sequential,
    /// Dropout and the head.
    pub classifier: Sequential,
}

/// The multiple of `divisor` that is nearest to a number of channels, but not more than a tenth below it.
fn round_channels(channels: f64, divisor: usize) -> usize {
    let d = divisor as f64;
    let rounded = ((channels + d / 2.0) / d).floor().max(1.0) * d;
    (if rounded < 0.9 * channels { rounded + d } else { rounded }) as usize
}

#[fornax_derive::fallible]
impl MobileNetV2 {
    /// A model with random weights.
    ///
    /// # Errors
    /// A `width_mult` that is no positive number, a `round_nearest` of 0, a stride other than 1 and 2; a probability outside 0..=1; sizes that memory
    /// cannot hold, or a dtype that the device lacks.
    pub fn try_new(config: MobileNetV2Config, options: impl Into<Options>) -> Result<MobileNetV2> {
        let o = options.into();
        let wrong = |message| Err(Error::argument("MobileNetV2", message));
        let m = config.width_mult;
        if !(m > 0.0 && m.is_finite()) {
            return wrong(format!("width_mult = {m}: a positive number is wanted"));
        }
        if config.round_nearest == 0 {
            return wrong("round_nearest = 0: at least 1 is wanted".to_string());
        }
        if let Some(block) = config.blocks.iter().find(|b| !(1..=2).contains(&b[3])) {
            return wrong(format!("a block of stride {}: 1 or 2 is wanted", block[3]));
        }
        let width = |channels: usize| round_channels(channels as f64 * m, config.round_nearest);
        let mut channels = width(32);
        let mut features = Sequential::new().add(ConvBnAct::numbered(config.in_channels, channels, 3, steps(2, 1), Activation::ReLU6, o)?);
        for &[expansion, outputs, repeats, stride] in &config.blocks {
            let outputs = width(outputs);
            for i in 0..repeats {
                features = features.add(InvertedResidual::new(channels, outputs, if i == 0 { stride } else { 1 }, expansion, o)?);
                channels = outputs;
            }
        }
        let last = round_channels(1280.0 * m.max(1.0), config.round_nearest);
        let features = features.add(ConvBnAct::numbered(channels, last, 1, steps(1, 0), Activation::ReLU6, o)?);
        let classifier = Sequential::new().add(Dropout::try_new(config.dropout)?).add(Linear::try_new(last, config.num_classes, o)?);
        let model = MobileNetV2 { features, classifier };
        initialise(&model, |layer, name, shape, o| match (layer, name) {
            ("Conv2d", "weight") => kaiming_fan_out(shape, o),
            ("Linear", "weight") => Tensor::try_normal(shape, 0.0, 0.01, o).map(Some),
            ("Linear", _) => Tensor::try_zeros(shape, o).map(Some),
            _ => Ok(None),
        })?;
        Ok(model)
    }
}

impl Forward for MobileNetV2 {
    /// Images `[N, C, H, W]` to logits `[N, classes]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.classifier.forward(&global_mean(&self.features.forward(x)?)?)
    }
}

impl Classifier for MobileNetV2 {
    fn head(&self) -> &'static str {
        "classifier.1"
    }

    fn replace_head(&mut self, num_classes: usize) -> Result<()> {
        let head = new_head("MobileNetV2", self, self.head(), num_classes)?;
        self.classifier.replace("1", head)
    }
}

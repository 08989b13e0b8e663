//! ResNet, and what became of it: ResNeXt, wide ResNet.

use super::blocks::{conv2d, global_mean, initialise, kaiming_fan_out, new_head, setters};
use super::registry::Classifier;
use crate::nn::{BatchNorm2d, Conv2d, Forward, Linear, MaxPool2d, Module};
use crate::{ConvOptions, Error, Options, Result, Tensor};

/// How a [`ResNet`] is built.
#[derive(Clone, Debug, PartialEq)]
pub struct ResNetConfig {
    /// The number of blocks of each stage.
    pub layers: [usize; 4],
    /// Whether a block is a 1×1, a 3×3 and a 1×1 convolution with four times the channels at its end, or two 3×3 convolutions.
    pub bottleneck: bool,
    /// The number of classes; 1000.
    pub num_classes: usize,
    /// The channels of an image; 3.
    pub in_channels: usize,
    /// The channels of the first stage, which each further stage doubles; 64.
    pub width: usize,
    /// The groups of the 3×3 convolutions of bottlenecks; 1.
    pub groups: usize,
    /// The channels of a group where [`width`](field@Self::width) is 64; 64.
    pub width_per_group: usize,
    /// Whether the last normalisation of each block starts with weight 0, so that a block starts as the identity (Goyal et al. 2017); no.
    pub zero_init_residual: bool,
    /// Whether the second, third and fourth stage spread the taps of their convolutions instead of halving the image; no.
    pub replace_stride_with_dilation: [bool; 3],
    /// For images of about 32×32: a 3×3 convolution and no pool at the start, in place of 7×7 with stride 2 and a pool (section 4.2 of the paper); no.
    pub small_stem: bool,
}

const fn member(layers: [usize; 4], bottleneck: bool, groups: usize, width_per_group: usize) -> ResNetConfig {
    ResNetConfig {
        layers,
        bottleneck,
        num_classes: 1000,
        in_channels: 3,
        width: 64,
        groups,
        width_per_group,
        zero_init_residual: false,
        replace_stride_with_dilation: [false; 3],
        small_stem: false,
    }
}

macro_rules! members {
    ($($(#[$doc:meta])* $name:ident $layers:expr, $bottleneck:literal, $groups:literal, $width:literal;)*) => {
        impl ResNetConfig { $(
            $(#[$doc])*
            pub fn $name() -> ResNetConfig {
                member($layers, $bottleneck, $groups, $width)
            }
        )* }
    };
}
members! {
    /// 18 layers.
    resnet18 [2, 2, 2, 2], false, 1, 64;
    /// 34 layers.
    resnet34 [3, 4, 6, 3], false, 1, 64;
    /// 50 layers, of bottlenecks.
    resnet50 [3, 4, 6, 3], true, 1, 64;
    /// 101 layers, of bottlenecks.
    resnet101 [3, 4, 23, 3], true, 1, 64;
    /// 152 layers, of bottlenecks.
    resnet152 [3, 8, 36, 3], true, 1, 64;
    /// ResNeXt (Xie et al. 2016) with 32 groups of 4 channels.
    resnext50_32x4d [3, 4, 6, 3], true, 32, 4;
    /// ResNeXt with 32 groups of 8 channels.
    resnext101_32x8d [3, 4, 23, 3], true, 32, 8;
    /// ResNeXt with 64 groups of 4 channels.
    resnext101_64x4d [3, 4, 23, 3], true, 64, 4;
    /// Wide ResNet (Zagoruyko and Komodakis 2016): twice the channels inside the bottlenecks.
    wide_resnet50_2 [3, 4, 6, 3], true, 1, 128;
    /// Wide ResNet with 101 layers.
    wide_resnet101_2 [3, 4, 23, 3], true, 1, 128;
}
setters!(ResNetConfig {
    layers: [usize; 4],
    bottleneck: bool,
    num_classes: usize,
    in_channels: usize,
    width: usize,
    groups: usize,
    width_per_group: usize,
    zero_init_residual: bool,
    replace_stride_with_dilation: [bool; 3],
    small_stem: bool,
});

/// Convolutions around which the input is added to the output: two 3×3, or three as a bottleneck.
#[derive(Debug, Module)]
pub struct ResidualBlock {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Conv2d,
    bn2: BatchNorm2d,
    conv3: Option<Conv2d>,
    bn3: Option<BatchNorm2d>,
    downsample: Option<(Conv2d, BatchNorm2d)>,
}

impl Forward for ResidualBlock {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let skip = match &self.downsample {
            Some((conv, bn)) => bn.forward(&conv.forward(x)?)?,
            None => x.clone(),
        };
        let mut y = self.bn1.forward(&self.conv1.forward(x)?)?.try_relu()?;
        y = self.bn2.forward(&self.conv2.forward(&y)?)?;
        if let (Some(conv), Some(bn)) = (&self.conv3, &self.bn3) {
            y = bn.forward(&conv.forward(&y.try_relu()?)?)?;
        }
        y.try_add(skip)?.try_relu()
    }
}

/// What the stages of a network hand on while they are built.
struct Builder<'a> {
    config: &'a ResNetConfig,
    options: Options,
    channels: usize,
    dilation: usize,
}

impl Builder<'_> {
    /// A k×k convolution without bias that keeps the size but for its stride.
    fn conv(&self, inputs: usize, outputs: usize, kernel: usize, stride: usize, groups: usize, dilation: usize) -> Result<Conv2d> {
        let padding = (kernel / 2 * dilation).into();
        let conv = ConvOptions { stride: stride.into(), padding, dilation: dilation.into(), groups };
        Ok(conv2d(inputs, outputs, kernel, conv, self.options)?.no_bias())
    }

    fn norm(&self, channels: usize) -> Result<BatchNorm2d> {
        BatchNorm2d::try_new(channels, self.options)
    }

    fn block(&mut self, planes: usize, stride: usize, dilation: usize, first: bool) -> Result<ResidualBlock> {
        let c = self.config;
        let inputs = self.channels;
        let outputs = if c.bottleneck { planes.saturating_mul(4) } else { planes };
        let downsample = if first && (stride != 1 || inputs != outputs) {
            Some((self.conv(inputs, outputs, 1, stride, 1, 1)?, self.norm(outputs)?))
        } else {
            None
        };
        self.channels = outputs;
        if !c.bottleneck {
            return Ok(ResidualBlock {
                conv1: self.conv(inputs, planes, 3, stride, 1, 1)?,
                bn1: self.norm(planes)?,
                conv2: self.conv(planes, planes, 3, 1, 1, 1)?,
                bn2: self.norm(planes)?,
                conv3: None,
                bn3: None,
                downsample,
            });
        }
        let inner = (planes.saturating_mul(c.width_per_group) / 64).saturating_mul(c.groups);
        Ok(ResidualBlock {
            conv1: self.conv(inputs, inner, 1, 1, 1, 1)?,
            bn1: self.norm(inner)?,
            // The stride is here and not in the first convolution, as in torchvision ("ResNet V1.5").
            conv2: self.conv(inner, inner, 3, stride, c.groups, dilation)?,
            bn2: self.norm(inner)?,
            conv3: Some(self.conv(inner, outputs, 1, 1, 1, 1)?),
            bn3: Some(self.norm(outputs)?),
            downsample,
        })
    }

    fn stage(&mut self, index: usize) -> Result<Vec<ResidualBlock>> {
        let planes = self.config.width.saturating_mul(1 << index);
        let mut stride = if index == 0 { 1 } else { 2 };
        // The first block of a stage that does not halve the image still has the taps of the stage before.
        let first_dilation = self.dilation;
        if index > 0 && self.config.replace_stride_with_dilation[index - 1] {
            self.dilation *= stride;
            stride = 1;
        }
        let later = self.dilation;
        (0..self.config.layers[index])
            .map(|i| if i == 0 { self.block(planes, stride, first_dilation, true) } else { self.block(planes, 1, later, false) })
            .collect()
    }
}

/// A residual network (He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015) for images `[N, 3, H, W]`, 224×224 as published.
///
/// Convolutions start normal, `√(2 / fan_out)`, the head as a linear layer.
///
/// ```
/// use fornax::models::{ResNet, ResNetConfig};
/// use fornax::nn::{Forward, Module};
/// use fornax::{Device, Tensor};
/// let config = ResNetConfig::resnet18().width(8).num_classes(10).small_stem(true);
/// let model = ResNet::new(config, Device::cpu());
/// assert_eq!(model.named_parameters()[6].0, "layer1.0.conv2.weight");
/// assert_eq!(model.forward(&Tensor::zeros([2, 3, 32, 32], Device::cpu()))?.dims(), [2, 10]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Module)]
pub struct ResNet {
    /// The first convolution.
    pub conv1: Conv2d,
    /// Its normalisation.
    pub bn1: BatchNorm2d,
    /// The pool that follows, if any.
    pub maxpool: Option<MaxPool2d>,
    /// The first stage.
    pub layer1: Vec<ResidualBlock>,
    /// The second stage.
    pub layer2: Vec<ResidualBlock>,
    /// The third stage.
    pub layer3: Vec<ResidualBlock>,
    /// The fourth stage.
    pub layer4: Vec<ResidualBlock>,
    /// The head.
    pub fc: Linear,
}

#[fornax_derive::fallible]
impl ResNet {
    /// A model with random weights.
    ///
    /// # Errors
    /// Groups, a width of groups or dilation without bottlenecks (as in torchvision); sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(config: ResNetConfig, options: impl Into<Options>) -> Result<ResNet> {
        if !config.bottleneck && (config.groups != 1 || config.width_per_group != 64 || config.replace_stride_with_dilation.contains(&true))
        {
            let message = "groups, width_per_group and replace_stride_with_dilation are for bottlenecks: set `bottleneck`, or leave them at 1, 64 and [false; 3]";
            return Err(Error::argument("ResNet", message));
        }
        let options = options.into();
        let mut b = Builder { config: &config, options, channels: config.width, dilation: 1 };
        let (kernel, stride) = if config.small_stem { (3, 1) } else { (7, 2) };
        let model = ResNet {
            conv1: b.conv(config.in_channels, config.width, kernel, stride, 1, 1)?,
            bn1: b.norm(config.width)?,
            maxpool: (!config.small_stem).then(|| MaxPool2d::new(3).stride(2).padding(1)),
            layer1: b.stage(0)?,
            layer2: b.stage(1)?,
            layer3: b.stage(2)?,
            layer4: b.stage(3)?,
            fc: Linear::try_new(b.channels, config.num_classes, options)?,
        };
        initialise(&model, |layer, _, shape, o| if layer == "Conv2d" { kaiming_fan_out(shape, o) } else { Ok(None) })?;
        if config.zero_init_residual {
            for block in [&model.layer1, &model.layer2, &model.layer3, &model.layer4].into_iter().flatten() {
                if let Some(weight) = block.bn3.as_ref().unwrap_or(&block.bn2).weight() {
                    weight.update(|w| w.try_zeros_like())?;
                }
            }
        }
        Ok(model)
    }
}

impl Forward for ResNet {
    /// Images `[N, C, H, W]` to logits `[N, classes]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.bn1.forward(&self.conv1.forward(x)?)?.try_relu()?;
        let x = self.layer2.forward(&self.layer1.forward(&self.maxpool.forward(&x)?)?)?;
        let x = self.layer4.forward(&self.layer3.forward(&x)?)?;
        self.fc.forward(&global_mean(&x)?)
    }
}

impl Classifier for ResNet {
    fn head(&self) -> &'static str {
        "fc"
    }

    fn replace_head(&mut self, num_classes: usize) -> Result<()> {
        self.fc = new_head("ResNet", self, self.head(), num_classes)?;
        Ok(())
    }
}

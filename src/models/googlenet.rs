//! GoogLeNet: Inception v1.

use super::blocks::{ConvBnAct, InputTransform, global_mean, initialise, join, new_head, setters, steps};
use super::registry::Classifier;
use crate::nn::{Dropout, Forward, Linear, MaxPool2d, Mode, Module, cross_entropy, init};
use crate::{Error, Options, Result, Tensor};

/// How a [`GoogLeNet`] is built.
#[derive(Clone, Debug, PartialEq)]
pub struct GoogLeNetConfig {
    /// The number of classes; 1000.
    pub num_classes: usize,
    /// The channels of an image; 3.
    pub in_channels: usize,
    /// Whether there are the two auxiliary heads; yes.
    pub aux_logits: bool,
    /// Whether images come normalised with ImageNet's means and deviations and the weights want them from -1 to 1, as those that were ported from
    /// TensorFlow do; no.
    pub transform_input: bool,
    /// The probability of the dropout before the head; 0.2.
    pub dropout: f64,
    /// The probability of the dropout in the auxiliary heads; 0.7.
    pub dropout_aux: f64,
}

impl Default for GoogLeNetConfig {
    fn default() -> Self {
        let (dropout, dropout_aux) = (0.2, 0.7);
        GoogLeNetConfig { num_classes: 1000, in_channels: 3, aux_logits: true, transform_input: false, dropout, dropout_aux }
    }
}
setters!(GoogLeNetConfig {
    num_classes: usize,
    in_channels: usize,
    aux_logits: bool,
    transform_input: bool,
    dropout: f64,
    dropout_aux: f64,
});

/// Four branches over the same input, their channels one after the other.
#[derive(Module)]
struct Inception {
    branch1: ConvBnAct,
    branch2: (ConvBnAct, ConvBnAct),
    branch3: (ConvBnAct, ConvBnAct),
    branch4: (MaxPool2d, ConvBnAct),
}

impl Inception {
    /// Of so many channels: 1×1; before and after the second branch's 3×3, and the third's; after the pool.
    fn new(inputs: usize, [one, red3, three, red5, five, pool]: [usize; 6], o: Options) -> Result<Inception> {
        let point = |inputs, outputs| ConvBnAct::basic(inputs, outputs, 1, steps(1, 0), o);
        let square = |inputs, outputs| ConvBnAct::basic(inputs, outputs, 3, steps(1, 1), o);
        Ok(Inception {
            branch1: point(inputs, one)?,
            branch2: (point(inputs, red3)?, square(red3, three)?),
            // The paper has 5×5 here. torchvision's weights, and those that they come from, have 3×3.
            branch3: (point(inputs, red5)?, square(red5, five)?),
            branch4: (MaxPool2d::new(3).stride(1).padding(1).ceil_mode(), point(inputs, pool)?),
        })
    }
}

impl Forward for Inception {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        join([
            self.branch1.forward(x)?,
            self.branch2.1.forward(&self.branch2.0.forward(x)?)?,
            self.branch3.1.forward(&self.branch3.0.forward(x)?)?,
            self.branch4.1.forward(&self.branch4.0.forward(x)?)?,
        ])
    }
}

/// An auxiliary head of [`GoogLeNet`]: a pool to 4×4, a 1×1 convolution, two linear layers.
#[derive(Module)]
pub struct GoogLeNetAux {
    conv: ConvBnAct,
    /// To 1024 features.
    pub fc1: Linear,
    /// To the classes.
    pub fc2: Linear,
    dropout: Dropout,
}

impl GoogLeNetAux {
    fn new(inputs: usize, num_classes: usize, dropout: f64, o: Options) -> Result<GoogLeNetAux> {
        Ok(GoogLeNetAux {
            conv: ConvBnAct::basic(inputs, 128, 1, steps(1, 0), o)?,
            fc1: Linear::try_new(2048, 1024, o)?,
            fc2: Linear::try_new(1024, num_classes, o)?,
            dropout: Dropout::try_new(dropout)?,
        })
    }
}

impl Forward for GoogLeNetAux {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.conv.forward(&x.try_adaptive_avg_pool2d(4)?)?.try_flatten(1, -1)?;
        self.fc2.forward(&self.dropout.forward(&self.fc1.forward(&x)?.try_relu()?)?)
    }
}

/// What [`GoogLeNet`] computes in training.
#[derive(Clone)]
pub struct GoogLeNetOutputs {
    /// `[N, classes]`.
    pub logits: Tensor,
    /// Those of the later auxiliary head; in training mode only.
    pub aux_logits2: Option<Tensor>,
    /// Those of the earlier one.
    pub aux_logits1: Option<Tensor>,
}

impl GoogLeNetOutputs {
    /// The loss of the paper: the cross-entropy of the logits plus 0.3 times that of each auxiliary head.
    ///
    /// # Errors
    /// As [`cross_entropy`].
    pub fn cross_entropy(&self, target: &Tensor) -> Result<Tensor> {
        let mut aux = [&self.aux_logits2, &self.aux_logits1].into_iter().flatten();
        aux.try_fold(cross_entropy(&self.logits, target)?, |loss, aux| loss.try_add(cross_entropy(aux, target)?.try_mul(0.3)?))
    }
}

/// GoogLeNet (Szegedy et al., "Going deeper with convolutions", 2014), with batch normalisation as torchvision's, for images `[N, 3, H, W]`, 224×224
/// as published.
///
/// Its [`Forward`] gives the logits; [`forward_with_aux`](GoogLeNet::forward_with_aux) is what a training step wants. Weights start normal, 0.01, cut at ±2.
///
/// ```
/// use fornax::models::{GoogLeNet, GoogLeNetConfig};
/// use fornax::nn::Module;
/// use fornax::{Device, Tensor};
/// let model = GoogLeNet::new(GoogLeNetConfig::default().num_classes(10), Device::cpu());
/// let outputs = model.forward_with_aux(&Tensor::zeros([2, 3, 64, 64], Device::cpu()))?;
/// let loss = outputs.cross_entropy(&Tensor::zeros(2, (fornax::DType::I32, Device::cpu())))?;
/// assert_eq!((outputs.logits.dims(), loss.rank()), (&[2, 10][..], 0));
/// model.eval();
/// assert!(model.forward_with_aux(&Tensor::zeros([2, 3, 64, 64], Device::cpu()))?.aux_logits1.is_none());
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Module)]
pub struct GoogLeNet {
    conv1: ConvBnAct,
    conv2: ConvBnAct,
    conv3: ConvBnAct,
    inception3a: Inception,
    inception3b: Inception,
    inception4a: Inception,
    inception4b: Inception,
    inception4c: Inception,
    inception4d: Inception,
    inception4e: Inception,
    inception5a: Inception,
    inception5b: Inception,
    /// The auxiliary head after the first block of the fourth stage.
    pub aux1: Option<GoogLeNetAux>,
    /// The auxiliary head after the fourth block of the fourth stage.
    pub aux2: Option<GoogLeNetAux>,
    dropout: Dropout,
    /// The head.
    pub fc: Linear,
    transform: Option<InputTransform>,
    mode: Mode,
}

#[fornax_derive::fallible]
impl GoogLeNet {
    /// A model with random weights.
    ///
    /// # Errors
    /// A probability outside 0..=1; `transform_input` for images of other than 3 channels; sizes that memory cannot hold, or a dtype that the device
    /// lacks.
    pub fn try_new(config: GoogLeNetConfig, options: impl Into<Options>) -> Result<GoogLeNet> {
        let o = options.into();
        let classes = config.num_classes;
        let aux = |inputs| config.aux_logits.then(|| GoogLeNetAux::new(inputs, classes, config.dropout_aux, o)).transpose();
        if config.transform_input && config.in_channels != 3 {
            return Err(Error::argument("GoogLeNet", format!("transform_input is for 3 channels, not {}", config.in_channels)));
        }
        let model = GoogLeNet {
            conv1: ConvBnAct::basic(config.in_channels, 64, 7, steps(2, 3), o)?,
            conv2: ConvBnAct::basic(64, 64, 1, steps(1, 0), o)?,
            conv3: ConvBnAct::basic(64, 192, 3, steps(1, 1), o)?,
            inception3a: Inception::new(192, [64, 96, 128, 16, 32, 32], o)?,
            inception3b: Inception::new(256, [128, 128, 192, 32, 96, 64], o)?,
            inception4a: Inception::new(480, [192, 96, 208, 16, 48, 64], o)?,
            inception4b: Inception::new(512, [160, 112, 224, 24, 64, 64], o)?,
            inception4c: Inception::new(512, [128, 128, 256, 24, 64, 64], o)?,
            inception4d: Inception::new(512, [112, 144, 288, 32, 64, 64], o)?,
            inception4e: Inception::new(528, [256, 160, 320, 32, 128, 128], o)?,
            inception5a: Inception::new(832, [256, 160, 320, 32, 128, 128], o)?,
            inception5b: Inception::new(832, [384, 192, 384, 48, 128, 128], o)?,
            aux1: aux(512)?,
            aux2: aux(528)?,
            dropout: Dropout::try_new(config.dropout)?,
            fc: Linear::try_new(1024, classes, o)?,
            transform: config.transform_input.then(|| InputTransform::new(o)).transpose()?,
            mode: Mode::default(),
        };
        initialise(&model, |layer, name, shape, o| match (layer, name) {
            ("Conv2d" | "Linear", "weight") => init::trunc_normal(shape, 0.0, 0.01, -2.0, 2.0, o).map(Some),
            _ => Ok(None),
        })?;
        Ok(model)
    }
}

impl GoogLeNet {
    /// Images `[N, C, H, W]` to the logits, and in training mode to those of the auxiliary heads.
    ///
    /// # Errors
    /// Where the input's shape, dtype or device does not fit.
    pub fn forward_with_aux(&self, x: &Tensor) -> Result<GoogLeNetOutputs> {
        self.run(x, self.mode.is_training())
    }

    fn run(&self, x: &Tensor, with_aux: bool) -> Result<GoogLeNetOutputs> {
        let pool = |size: usize, x: Tensor| MaxPool2d::new(size).stride(2).ceil_mode().forward(&x);
        let aux = |head: &Option<GoogLeNetAux>, x: &Tensor| head.as_ref().filter(|_| with_aux).map(|h| h.forward(x)).transpose();
        let x = self.transform.forward(x)?;
        let x = pool(3, self.conv1.forward(&x)?)?;
        let x = pool(3, self.conv3.forward(&self.conv2.forward(&x)?)?)?;
        let x = pool(3, self.inception3b.forward(&self.inception3a.forward(&x)?)?)?;
        let x = self.inception4a.forward(&x)?;
        let aux_logits1 = aux(&self.aux1, &x)?;
        let x = self.inception4c.forward(&self.inception4b.forward(&x)?)?;
        let x = self.inception4d.forward(&x)?;
        let aux_logits2 = aux(&self.aux2, &x)?;
        let x = pool(2, self.inception4e.forward(&x)?)?;
        let x = self.inception5b.forward(&self.inception5a.forward(&x)?)?;
        let logits = self.fc.forward(&self.dropout.forward(&global_mean(&x)?)?)?;
        Ok(GoogLeNetOutputs { logits, aux_logits2, aux_logits1 })
    }
}

impl Forward for GoogLeNet {
    /// Images `[N, C, H, W]` to logits `[N, classes]`. The auxiliary heads take no part.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.run(x, false)?.logits)
    }
}

impl Classifier for GoogLeNet {
    fn head(&self) -> &'static str {
        "fc"
    }

    fn replace_head(&mut self, num_classes: usize) -> Result<()> {
        let head = |path| new_head("GoogLeNet", &*self, path, num_classes);
        let aux1 = self.aux1.is_some().then(|| head("aux1.fc2")).transpose()?;
        let aux2 = self.aux2.is_some().then(|| head("aux2.fc2")).transpose()?;
        self.fc = head("fc")?;
        for (aux, new) in [(&mut self.aux1, aux1), (&mut self.aux2, aux2)] {
            if let (Some(aux), Some(new)) = (aux, new) {
                aux.fc2 = new;
            }
        }
        Ok(())
    }
}

//! Inception v3.

use super::blocks::{ConvBnAct, InputTransform, global_mean, initialise, new_head, setters, steps};
use super::inception_blocks::{InceptionA, InceptionAux, InceptionB, InceptionC, InceptionD, InceptionE};
use super::registry::Classifier;
use crate::nn::{Dropout, Forward, Linear, MaxPool2d, Mode, Module, cross_entropy, init};
use crate::{Error, Options, Result, Tensor};

/// How an [`Inception3`] is built.
#[derive(Clone, Debug, PartialEq)]
pub struct Inception3Config {
    /// The number of classes; 1000.
    pub num_classes: usize,
    /// The channels of an image; 3.
    pub in_channels: usize,
    /// Whether there is the auxiliary head; yes.
    pub aux_logits: bool,
    /// Whether images come normalised with ImageNet's means and deviations and the weights want them from -1 to 1, as those that were ported from
    /// TensorFlow do; no.
    pub transform_input: bool,
    /// The probability of the dropout before the head; 0.5.
    pub dropout: f64,
}

impl Default for Inception3Config {
    fn default() -> Self {
        Inception3Config { num_classes: 1000, in_channels: 3, aux_logits: true, transform_input: false, dropout: 0.5 }
    }
}
setters!(Inception3Config { num_classes: usize, in_channels: usize, aux_logits: bool, transform_input: bool, dropout: f64 });

/// What [`Inception3`] computes in training.
#[derive(Clone)]
pub struct Inception3Outputs {
    /// `[N, classes]`.
    pub logits: Tensor,
    /// Those of the auxiliary head; in training mode only.
    pub aux_logits: Option<Tensor>,
}

impl Inception3Outputs {
    /// The cross-entropy of the logits plus 0.4 times that of the auxiliary head, as PyTorch's tutorials have it.
    ///
    /// # Errors
    /// As [`cross_entropy`].
    pub fn cross_entropy(&self, target: &Tensor) -> Result<Tensor> {
        let loss = cross_entropy(&self.logits, target)?;
        match &self.aux_logits {
            Some(aux) => loss.try_add(cross_entropy(aux, target)?.try_mul(0.4)?),
            None => Ok(loss),
        }
    }
}

/// Inception v3 (Szegedy et al., "Rethinking the Inception architecture for computer vision", 2015) for images `[N, 3, H, W]`, 299×299 as published and at
/// least 75×75.
///
/// Its [`Forward`] gives the logits; [`forward_with_aux`](Inception3::forward_with_aux) is what a training step wants, with images of about 299×299, since the
/// auxiliary head needs 17×17 positions. Weights start normal, 0.1, cut at ±2; that of the auxiliary linear layer with 0.001.
///
/// ```
/// use fornax::models::{Inception3, Inception3Config};
/// use fornax::nn::Module;
/// use fornax::{Device, Tensor};
/// let model = Inception3::new(Inception3Config::default(), Device::cpu());
/// assert_eq!(model.num_params(), 27_161_264);
/// let outputs = model.forward_with_aux(&Tensor::zeros([2, 3, 299, 299], Device::cpu()))?;
/// assert_eq!(outputs.aux_logits.unwrap().dims(), [2, 1000]); // nothing has run yet
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Module)]
pub struct Inception3 {
    #[module(name = "Conv2d_1a_3x3")]
    conv_1a: ConvBnAct,
    #[module(name = "Conv2d_2a_3x3")]
    conv_2a: ConvBnAct,
    #[module(name = "Conv2d_2b_3x3")]
    conv_2b: ConvBnAct,
    #[module(name = "Conv2d_3b_1x1")]
    conv_3b: ConvBnAct,
    #[module(name = "Conv2d_4a_3x3")]
    conv_4a: ConvBnAct,
    #[module(name = "Mixed_5b")]
    mixed_5b: InceptionA,
    #[module(name = "Mixed_5c")]
    mixed_5c: InceptionA,
    #[module(name = "Mixed_5d")]
    mixed_5d: InceptionA,
    #[module(name = "Mixed_6a")]
    mixed_6a: InceptionB,
    #[module(name = "Mixed_6b")]
    mixed_6b: InceptionC,
    #[module(name = "Mixed_6c")]
    mixed_6c: InceptionC,
    #[module(name = "Mixed_6d")]
    mixed_6d: InceptionC,
    #[module(name = "Mixed_6e")]
    mixed_6e: InceptionC,
    /// The auxiliary head.
    #[module(name = "AuxLogits")]
    pub aux_logits: Option<InceptionAux>,
    #[module(name = "Mixed_7a")]
    mixed_7a: InceptionD,
    #[module(name = "Mixed_7b")]
    mixed_7b: InceptionE,
    #[module(name = "Mixed_7c")]
    mixed_7c: InceptionE,
    dropout: Dropout,
    /// The head.
    pub fc: Linear,
    transform: Option<InputTransform>,
    mode: Mode,
}

#[fornax_derive::fallible]
impl Inception3 {
    /// A model with random weights.
    ///
    /// # Errors
    /// A probability outside 0..=1; `transform_input` for images of other than 3 channels; sizes that memory cannot hold, or a dtype that the device
    /// lacks.
    pub fn try_new(config: Inception3Config, options: impl Into<Options>) -> Result<Inception3> {
        let o = options.into();
        if config.transform_input && config.in_channels != 3 {
            return Err(Error::argument("Inception3", format!("transform_input is for 3 channels, not {}", config.in_channels)));
        }
        let model = Inception3 {
            conv_1a: ConvBnAct::basic(config.in_channels, 32, 3, steps(2, 0), o)?,
            conv_2a: ConvBnAct::basic(32, 32, 3, steps(1, 0), o)?,
            conv_2b: ConvBnAct::basic(32, 64, 3, steps(1, 1), o)?,
            conv_3b: ConvBnAct::basic(64, 80, 1, steps(1, 0), o)?,
            conv_4a: ConvBnAct::basic(80, 192, 3, steps(1, 0), o)?,
            mixed_5b: InceptionA::new(192, 32, o)?,
            mixed_5c: InceptionA::new(256, 64, o)?,
            mixed_5d: InceptionA::new(288, 64, o)?,
            mixed_6a: InceptionB::new(288, o)?,
            mixed_6b: InceptionC::new(768, 128, o)?,
            mixed_6c: InceptionC::new(768, 160, o)?,
            mixed_6d: InceptionC::new(768, 160, o)?,
            mixed_6e: InceptionC::new(768, 192, o)?,
            aux_logits: config.aux_logits.then(|| InceptionAux::try_new(768, config.num_classes, o)).transpose()?,
            mixed_7a: InceptionD::new(768, o)?,
            mixed_7b: InceptionE::new(1280, o)?,
            mixed_7c: InceptionE::new(2048, o)?,
            dropout: Dropout::try_new(config.dropout)?,
            fc: Linear::try_new(2048, config.num_classes, o)?,
            transform: config.transform_input.then(|| InputTransform::new(o)).transpose()?,
            mode: Mode::default(),
        };
        let normal = |shape: &crate::Shape, std, o: Options| init::trunc_normal(shape, 0.0, std, -2.0, 2.0, o);
        initialise(&model, |layer, name, shape, o| match (layer, name) {
            ("Conv2d" | "Linear", "weight") => normal(shape, 0.1, o).map(Some),
            _ => Ok(None),
        })?;
        if let Some(aux) = &model.aux_logits {
            aux.fc.weight.set(normal(&aux.fc.weight.shape(), 0.001, o)?)?;
        }
        Ok(model)
    }
}

impl Inception3 {
    /// Images `[N, C, H, W]` to the logits, and in training mode to those of the auxiliary head.
    ///
    /// # Errors
    /// Where the input's shape, dtype or device does not fit.
    pub fn forward_with_aux(&self, x: &Tensor) -> Result<Inception3Outputs> {
        self.run(x, self.mode.is_training())
    }

    fn run(&self, x: &Tensor, with_aux: bool) -> Result<Inception3Outputs> {
        let pool = MaxPool2d::new(3).stride(2);
        let x = self.conv_1a.forward(&self.transform.forward(x)?)?;
        let x = self.conv_2b.forward(&self.conv_2a.forward(&x)?)?;
        let x = self.conv_4a.forward(&self.conv_3b.forward(&pool.forward(&x)?)?)?;
        let x = self.mixed_5b.forward(&pool.forward(&x)?)?;
        let x = self.mixed_5d.forward(&self.mixed_5c.forward(&x)?)?;
        let x = self.mixed_6b.forward(&self.mixed_6a.forward(&x)?)?;
        let x = self.mixed_6d.forward(&self.mixed_6c.forward(&x)?)?;
        let x = self.mixed_6e.forward(&x)?;
        let aux_logits = self.aux_logits.as_ref().filter(|_| with_aux).map(|head| head.forward(&x)).transpose()?;
        let x = self.mixed_7b.forward(&self.mixed_7a.forward(&x)?)?;
        let x = global_mean(&self.mixed_7c.forward(&x)?)?;
        Ok(Inception3Outputs { logits: self.fc.forward(&self.dropout.forward(&x)?)?, aux_logits })
    }
}

impl Forward for Inception3 {
    /// Images `[N, C, H, W]` to logits `[N, classes]`. The auxiliary head takes no part.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.run(x, false)?.logits)
    }
}

impl Classifier for Inception3 {
    fn head(&self) -> &'static str {
        "fc"
    }

    fn replace_head(&mut self, num_classes: usize) -> Result<()> {
        let head = |path| new_head("Inception3", &*self, path, num_classes);
        let aux = self.aux_logits.is_some().then(|| head("AuxLogits.fc")).transpose()?;
        self.fc = head("fc")?;
        if let (Some(aux), Some(new)) = (&mut self.aux_logits, aux) {
            aux.fc = new;
        }
        Ok(())
    }
}

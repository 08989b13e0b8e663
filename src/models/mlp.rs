//! The multi-layer perceptron.

use super::blocks::{Activation, setters};
use crate::nn::{BatchNorm1d, Dropout, Forward, LayerNorm, Linear, Module, Sequential, Walk};
use crate::{Error, Options, Result, Tensor};

/// What normalises the hidden layers of an [`Mlp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlpNorm {
    /// [`BatchNorm1d`].
    BatchNorm,
    /// [`LayerNorm`].
    LayerNorm,
}

/// How an [`Mlp`] is built.
#[derive(Clone, Debug, PartialEq)]
pub struct MlpConfig {
    /// The features of the input.
    pub in_channels: usize,
    /// The features of each layer; the last are the output.
    pub hidden_channels: Vec<usize>,
    /// What follows each hidden linear layer; nothing.
    pub norm: Option<MlpNorm>,
    /// What comes then; ReLU.
    pub activation: Activation,
    /// Whether the linear layers have a bias; yes.
    pub bias: bool,
    /// The probability of the dropout at the end of each layer, the last one too, as torchvision has it; 0.
    pub dropout: f64,
}

impl MlpConfig {
    /// From `in_channels` features through layers of these sizes; the last is the output.
    pub fn new(in_channels: usize, hidden_channels: &[usize]) -> MlpConfig {
        let hidden_channels = hidden_channels.to_vec();
        MlpConfig { in_channels, hidden_channels, norm: None, activation: Activation::ReLU, bias: true, dropout: 0.0 }
    }
}
setters!(MlpConfig {
    in_channels: usize,
    hidden_channels: Vec<usize>,
    norm: Option<MlpNorm>,
    activation: Activation,
    bias: bool,
    dropout: f64,
});

/// A multi-layer perceptron, `torchvision.ops.MLP`: linear layers, each but the last followed by a normalisation (if any), an activation and dropout, the
/// last by dropout. The layers are numbered: `0.weight`, `3.weight`, … without a normalisation.
///
/// ```
/// use fornax::models::{Mlp, MlpConfig};
/// use fornax::nn::{Forward, Module};
/// use fornax::{Device, Tensor};
/// let model = Mlp::new(MlpConfig::new(4, &[16, 3]).dropout(0.1), Device::cpu());
/// assert_eq!(model.named_parameters()[2].0, "3.weight");
/// assert_eq!(model.forward(&Tensor::zeros([2, 4], Device::cpu()))?.dims(), [2, 3]);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct Mlp {
    /// The layers in a row.
    pub layers: Sequential,
}

#[fornax_derive::fallible]
impl Mlp {
    /// A model with random weights.
    ///
    /// # Errors
    /// No layers; a probability outside 0..=1; sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(config: MlpConfig, options: impl Into<Options>) -> Result<Mlp> {
        let o = options.into();
        let Some((&outputs, hidden)) = config.hidden_channels.split_last() else {
            return Err(Error::argument("Mlp", "hidden_channels is empty: at least the size of the output is wanted"));
        };
        let linear = |inputs, outputs| -> Result<Linear> {
            let layer = Linear::try_new(inputs, outputs, o)?;
            Ok(if config.bias { layer } else { layer.no_bias() })
        };
        let (mut layers, mut inputs) = (Sequential::new(), config.in_channels);
        for &width in hidden {
            layers = layers.add(linear(inputs, width)?);
            layers = match config.norm {
                Some(MlpNorm::BatchNorm) => layers.add(BatchNorm1d::try_new(width, o)?),
                Some(MlpNorm::LayerNorm) => layers.add(LayerNorm::try_new(width, o)?),
                None => layers,
            };
            layers = layers.add(config.activation).add(Dropout::try_new(config.dropout)?);
            inputs = width;
        }
        Ok(Mlp { layers: layers.add(linear(inputs, outputs)?).add(Dropout::try_new(config.dropout)?) })
    }
}

impl Module for Mlp {
    fn walk(&self, walk: &mut Walk<'_>) {
        self.layers.walk(walk)
    }
}

impl Forward for Mlp {
    /// Features `[.., in]` to `[.., out]` (`[N, in]` with batch normalisation).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.layers.forward(x)
    }
}

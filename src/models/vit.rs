//! The vision transformer.

use super::blocks::{Activation, conv2d, initialise, new_head, setters};
use super::mlp::{Mlp, MlpConfig};
use super::registry::Classifier;
use crate::nn::{Conv2d, Dropout, Forward, LayerNorm, Linear, Module, MultiheadAttention, Param, Sequential, Tanh, init};
use crate::{ConvOptions, Error, Options, Result, Tensor};

/// How a [`VisionTransformer`] is built.
#[derive(Clone, Debug, PartialEq)]
pub struct ViTConfig {
    /// Height and width of the images, a multiple of the patches'; 224.
    pub image_size: usize,
    /// Height and width of a patch.
    pub patch_size: usize,
    /// The number of encoder blocks.
    pub num_layers: usize,
    /// The heads of an attention.
    pub num_heads: usize,
    /// The features of a patch, a multiple of the heads.
    pub hidden_dim: usize,
    /// The features inside the blocks' perceptrons.
    pub mlp_dim: usize,
    /// The number of classes; 1000.
    pub num_classes: usize,
    /// The channels of an image; 3.
    pub in_channels: usize,
    /// The probability of the dropouts of the embedding and the blocks; 0.
    pub dropout: f64,
    /// The probability of the dropout of the attention's weights; 0.
    pub attention_dropout: f64,
    /// The features of a layer with tanh before the head, as in pretraining; none.
    pub representation_size: Option<usize>,
}

macro_rules! members {
    ($($(#[$doc:meta])* $name:ident $patch_size:literal $num_layers:literal $num_heads:literal $hidden_dim:literal $mlp_dim:literal;)*) => {
        impl ViTConfig { $(
            $(#[$doc])*
            pub fn $name() -> ViTConfig {
                ViTConfig {
                    image_size: 224,
                    patch_size: $patch_size,
                    num_layers: $num_layers,
                    num_heads: $num_heads,
                    hidden_dim: $hidden_dim,
                    mlp_dim: $mlp_dim,
                    num_classes: 1000,
                    in_channels: 3,
                    dropout: 0.0,
                    attention_dropout: 0.0,
                    representation_size: None,
                }
            }
        )* }
    };
}
members! {
    /// Base, patches of 16×16.
    vit_b_16 16 12 12 768 3072;
    /// Base, patches of 32×32.
    vit_b_32 32 12 12 768 3072;
    /// Large, patches of 16×16.
    vit_l_16 16 24 16 1024 4096;
    /// Large, patches of 32×32.
    vit_l_32 32 24 16 1024 4096;
    /// Huge, patches of 14×14.
    vit_h_14 14 32 16 1280 5120;
}
setters!(ViTConfig {
    image_size: usize,
    patch_size: usize,
    num_layers: usize,
    num_heads: usize,
    hidden_dim: usize,
    mlp_dim: usize,
    num_classes: usize,
    in_channels: usize,
    dropout: f64,
    attention_dropout: f64,
    representation_size: Option<usize>,
});

const EPS: f64 = 1e-6;

/// A block of the encoder: attention and a perceptron, each normalised before and added to its input.
#[derive(Module)]
pub struct EncoderBlock {
    ln_1: LayerNorm,
    self_attention: MultiheadAttention,
    dropout: Dropout,
    ln_2: LayerNorm,
    mlp: Mlp,
}

impl EncoderBlock {
    fn new(config: &ViTConfig, o: Options) -> Result<EncoderBlock> {
        let (width, heads) = (config.hidden_dim, config.num_heads);
        let mlp = MlpConfig::new(width, &[config.mlp_dim, width]).activation(Activation::GELU).dropout(config.dropout);
        let mlp = Mlp::try_new(mlp, o)?;
        initialise(&mlp, |_, name, shape, o| match name {
            "weight" => init::xavier_uniform(shape, init::Gain::Linear, o).map(Some),
            _ => Tensor::try_normal(shape, 0.0, 1e-6, o).map(Some),
        })?;
        Ok(EncoderBlock {
            ln_1: LayerNorm::try_new(width, o)?.eps(EPS),
            self_attention: MultiheadAttention::try_new(width, heads, o)?.try_dropout(config.attention_dropout)?,
            dropout: Dropout::try_new(config.dropout)?,
            ln_2: LayerNorm::try_new(width, o)?.eps(EPS),
            mlp,
        })
    }
}

impl Forward for EncoderBlock {
    /// `[N, L, width]` to the same.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.self_attention.forward(&self.ln_1.forward(x)?)?;
        let x = self.dropout.forward(&y)?.try_add(x)?;
        self.mlp.forward(&self.ln_2.forward(&x)?)?.try_add(x)
    }
}

#[derive(Module)]
struct Encoder {
    pos_embedding: Param,
    dropout: Dropout,
    layers: Sequential,
    ln: LayerNorm,
}

/// The vision transformer (Dosovitskiy et al., "An image is worth 16×16 words", 2020) for images `[N, 3, image_size, image_size]`.
///
/// The patches' projection starts normal, `1 / √fan_in`, cut at ±2, the positions normal, 0.02, the perceptrons Xavier uniform with biases normal, 1e-6, the class
/// token and the head at 0.
///
/// ```
/// use fornax::models::{ViTConfig, VisionTransformer};
/// use fornax::nn::{Forward, Module};
/// use fornax::{Device, Tensor};
/// let config = ViTConfig::vit_b_16().image_size(32).patch_size(8).num_layers(2).num_heads(4).hidden_dim(32).mlp_dim(64).num_classes(10);
/// let model = VisionTransformer::new(config, Device::cpu());
/// assert!(model.state_dict().contains_key("encoder.layers.encoder_layer_1.self_attention.in_proj_weight"));
/// assert_eq!(model.forward(&Tensor::zeros([2, 3, 32, 32], Device::cpu()))?.dims(), [2, 10]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Module)]
pub struct VisionTransformer {
    /// What stands before the patches, `[1, 1, width]`; the classes are read off its place.
    pub class_token: Param,
    /// From patches to features.
    pub conv_proj: Conv2d,
    encoder: Encoder,
    /// The head, under the name `head`, and what may stand before it.
    pub heads: Sequential,
    image_size: usize,
}

#[fornax_derive::fallible]
impl VisionTransformer {
    /// A model with random weights.
    ///
    /// # Errors
    /// An `image_size` that is no multiple of `patch_size`, or a `hidden_dim` that is none of `num_heads`; probabilities out of range; sizes that
    /// memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(config: ViTConfig, options: impl Into<Options>) -> Result<VisionTransformer> {
        let o = options.into();
        let (size, patch, width) = (config.image_size, config.patch_size, config.hidden_dim);
        if patch == 0 || size == 0 || !size.is_multiple_of(patch) {
            let message = format!("images of {size}×{size} cannot be cut into patches of {patch}×{patch}: a multiple is wanted");
            return Err(Error::argument("VisionTransformer", message));
        }
        let side = size / patch;
        let positions = side.saturating_mul(side).saturating_add(1);
        let conv = ConvOptions { stride: patch.into(), ..ConvOptions::default() };
        let conv_proj = conv2d(config.in_channels, width, patch, conv, o)?;
        initialise(&conv_proj, |_, name, shape, o| match name {
            "weight" => init::trunc_normal(shape, 0.0, (1.0 / init::fan_in(shape) as f64).sqrt(), -2.0, 2.0, o).map(Some),
            _ => Tensor::try_zeros(shape, o).map(Some),
        })?;
        let mut layers = Sequential::new();
        for i in 0..config.num_layers {
            layers = layers.add_named(&format!("encoder_layer_{i}"), EncoderBlock::new(&config, o)?);
        }
        let encoder = Encoder {
            pos_embedding: Param::new(Tensor::try_normal([1, positions, width], 0.0, 0.02, o)?),
            dropout: Dropout::try_new(config.dropout)?,
            layers,
            ln: LayerNorm::try_new(width, o)?.eps(EPS),
        };
        let (mut heads, mut features) = (Sequential::new(), width);
        if let Some(n) = config.representation_size {
            let layer = Linear::try_new(width, n, o)?;
            initialise(&layer, |_, name, shape, o| match name {
                "weight" => init::trunc_normal(shape, 0.0, (1.0 / width as f64).sqrt(), -2.0, 2.0, o).map(Some),
                _ => Tensor::try_zeros(shape, o).map(Some),
            })?;
            heads = heads.add_named("pre_logits", layer).add_named("act", Tanh);
            features = n;
        }
        let head = Linear::try_new(features, config.num_classes, o)?;
        initialise(&head, |_, _, shape, o| Tensor::try_zeros(shape, o).map(Some))?;
        Ok(VisionTransformer {
            class_token: Param::new(Tensor::try_zeros([1, 1, width], o)?),
            conv_proj,
            encoder,
            heads: heads.add_named("head", head),
            image_size: size,
        })
    }
}

impl VisionTransformer {
    /// Images `[N, C, S, S]` to the features `[N, 1 + patches, width]` of the class token (at place 0) and of the patches, row by row.
    ///
    /// # Errors
    /// Images of another size, or where dtype or device do not fit.
    pub fn features(&self, x: &Tensor) -> Result<Tensor> {
        let s = self.image_size;
        if x.rank() != 4 || x.dims()[2..] != [s, s] {
            return Err(Error::shape("VisionTransformer", &[x.shape()], format!("images [N, C, {s}, {s}]")));
        }
        // [N, width, rows, columns] to [N, patches, width].
        let patches = self.conv_proj.forward(x)?.try_flatten(2, 3)?.try_transpose(1, 2)?;
        let (n, width) = (patches.dims()[0], patches.dims()[2]);
        let token = self.class_token.get().try_expand([n, 1, width])?;
        let x = Tensor::try_cat(&[&token, &patches], 1)?.try_add(self.encoder.pos_embedding.get())?;
        self.encoder.ln.forward(&self.encoder.layers.forward(&self.encoder.dropout.forward(&x)?)?)
    }
}

impl Forward for VisionTransformer {
    /// Images `[N, C, S, S]` to logits `[N, classes]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.heads.forward(&self.features(x)?.try_select(1, 0)?)
    }
}

impl Classifier for VisionTransformer {
    fn head(&self) -> &'static str {
        "heads.head"
    }

    fn replace_head(&mut self, num_classes: usize) -> Result<()> {
        let head = new_head("VisionTransformer", self, self.head(), num_classes)?;
        self.heads.replace("head", head)
    }
}

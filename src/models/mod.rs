//! The classic architectures, under torchvision's names: their safetensors load as they are, and the outputs are the same.
//!
//! Each family is a struct that is made from a configuration; the configuration has a function for each published member and a method for each
//! field. Parameters are lazy: a model whose weights a file brings never computes those that it starts with.
//!
//! ```
//! use fornax::models::{Classifier, ResNet, ResNetConfig};
//! use fornax::nn::{Forward, Module};
//! use fornax::{Device, Tensor};
//! let mut model = ResNet::new(ResNetConfig::resnet18().small_stem(true), Device::cpu());
//! assert_eq!(model.num_params(), 11_681_832);
//! // Transfer learning: load, replace the head, freeze, train.
//! // model.load_safetensors("resnet18.safetensors")?;
//! model.replace_head(5)?;
//! model.freeze_backbone();
//! assert_eq!(model.parameters().iter().filter(|p| !p.is_frozen()).count(), 2);
//! assert_eq!(model.forward(&Tensor::zeros([2, 3, 32, 32], Device::cpu()))?.dims(), [2, 5]);
//! # Ok::<(), fornax::Error>(())
//! ```
//!
//! | struct | [`by_name`] | parameters |
//! |---|---|---|
//! | [`AlexNet`] | `alexnet` | 61,100,840 |
//! | [`GoogLeNet`] | `googlenet` | 13,004,888 (6,624,904 without the auxiliary heads) |
//! | [`Inception3`] | `inception_v3` | 27,161,264 |
//! | [`LeNet5`] | `lenet5` | 61,706 |
//! | [`MobileNetV2`] | `mobilenet_v2` | 3,504,872 |
//! | [`ResNet`] | `resnet18`, `resnet34`, `resnet50`, `resnet101`, `resnet152` | 11,689,512 to 60,192,808 |
//! | | `resnext50_32x4d`, `resnext101_32x8d`, `resnext101_64x4d` | 25,028,904 to 88,791,336 |
//! | | `wide_resnet50_2`, `wide_resnet101_2` | 68,883,240, 126,886,696 |
//! | [`Vgg`] | `vgg11`, `vgg13`, `vgg16`, `vgg19`, and `vgg11_bn` … | 132,863,336 to 143,678,248 |
//! | [`VisionTransformer`] | `vit_b_16`, `vit_b_32`, `vit_l_16`, `vit_l_32`, `vit_h_14` | 86,567,656 to 632,045,800 |
//! | [`Mlp`], [`Autoencoder`], [`Vae`] | | as large as you like |

mod alexnet;
mod autoencoder;
mod blocks;
mod googlenet;
mod inception;
mod inception_blocks;
mod lenet;
mod mlp;
mod mobilenet;
mod registry;
mod resnet;
mod vae;
mod vgg;
mod vit;

pub use alexnet::{AlexNet, AlexNetConfig};
pub use autoencoder::{Autoencoder, AutoencoderConfig};
pub use blocks::{Activation, ConvBnAct};
pub use googlenet::{GoogLeNet, GoogLeNetAux, GoogLeNetConfig, GoogLeNetOutputs};
pub use inception::{Inception3, Inception3Config, Inception3Outputs};
pub use inception_blocks::InceptionAux;
pub use lenet::{LeNet5, LeNet5Config};
pub use mlp::{Mlp, MlpConfig, MlpNorm};
pub use mobilenet::{MobileNetV2, MobileNetV2Config};
pub use registry::{Classifier, by_name, names};
pub use resnet::{ResNet, ResNetConfig, ResidualBlock};
pub use vae::{Elbo, Likelihood, Vae};
pub use vgg::{Vgg, VggConfig};
pub use vit::{EncoderBlock, ViTConfig, VisionTransformer};

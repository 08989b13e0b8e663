//! Models by name, and what all classifiers can do.

use super::{
    AlexNet, AlexNetConfig, GoogLeNet, GoogLeNetConfig, Inception3, Inception3Config, LeNet5, LeNet5Config, MobileNetV2, MobileNetV2Config,
    ResNet, ResNetConfig, Vgg, VggConfig, ViTConfig, VisionTransformer,
};
use crate::nn::Forward;
use crate::{Error, Options, Result};

/// A model whose last layer is a linear one to the classes, before which stands a backbone that knows nothing of them.
///
/// ```
/// use fornax::models::{Classifier, LeNet5, LeNet5Config};
/// use fornax::nn::Module;
/// let mut model = LeNet5::new(LeNet5Config::default(), fornax::Device::cpu());
/// model.replace_head(3)?;
/// assert_eq!((model.head(), model.fc3.weight.shape()), ("fc3", [3, 84].into()));
/// model.freeze_backbone();
/// assert!(model.conv1.weight.is_frozen() && !model.fc3.weight.is_frozen());
/// # Ok::<(), fornax::Error>(())
/// ```
pub trait Classifier: Forward {
    /// The path of the last layer.
    fn head(&self) -> &'static str;

    /// Puts a last layer for so many classes in the place of the old one (and of those of auxiliary heads): newly drawn, on its device and in its dtype.
    ///
    /// # Errors
    /// Sizes that memory cannot hold; a model whose last layer is no linear one any more.
    fn replace_head(&mut self, num_classes: usize) -> Result<()>;

    /// Excludes all parameters but those of the last layer from gradients. (Batch normalisation in training mode still moves its running statistics;
    /// in evaluation mode, which suits a frozen backbone, it does not.)
    fn freeze_backbone(&self) {
        for (path, p) in self.named_parameters() {
            let is_head = path.strip_prefix(self.head()).is_some_and(|rest| rest.starts_with('.'));
            p.set_frozen(!is_head);
        }
    }
}

impl<M: Classifier + ?Sized> Classifier for Box<M> {
    fn head(&self) -> &'static str {
        (**self).head()
    }
    fn replace_head(&mut self, num_classes: usize) -> Result<()> {
        (**self).replace_head(num_classes)
    }
}

type Build = fn(usize, Options) -> Result<Box<dyn Classifier + Send + Sync>>;

macro_rules! registry {
    ($($name:literal $model:ident $config:expr;)*) => {
        const MODELS: &[(&str, Build)] =
            &[$(($name, |classes, o| Ok(Box::new($model::try_new($config.num_classes(classes), o)?)))),*];
    };
}
registry! {
    "alexnet" AlexNet AlexNetConfig::default();
    "googlenet" GoogLeNet GoogLeNetConfig::default();
    "inception_v3" Inception3 Inception3Config::default();
    "lenet5" LeNet5 LeNet5Config::default();
    "mobilenet_v2" MobileNetV2 MobileNetV2Config::default();
    "resnet18" ResNet ResNetConfig::resnet18();
    "resnet34" ResNet ResNetConfig::resnet34();
    "resnet50" ResNet ResNetConfig::resnet50();
    "resnet101" ResNet ResNetConfig::resnet101();
    "resnet152" ResNet ResNetConfig::resnet152();
    "resnext50_32x4d" ResNet ResNetConfig::resnext50_32x4d();
    "resnext101_32x8d" ResNet ResNetConfig::resnext101_32x8d();
    "resnext101_64x4d" ResNet ResNetConfig::resnext101_64x4d();
    "vgg11" Vgg VggConfig::vgg11();
    "vgg11_bn" Vgg VggConfig::vgg11_bn();
    "vgg13" Vgg VggConfig::vgg13();
    "vgg13_bn" Vgg VggConfig::vgg13_bn();
    "vgg16" Vgg VggConfig::vgg16();
    "vgg16_bn" Vgg VggConfig::vgg16_bn();
    "vgg19" Vgg VggConfig::vgg19();
    "vgg19_bn" Vgg VggConfig::vgg19_bn();
    "vit_b_16" VisionTransformer ViTConfig::vit_b_16();
    "vit_b_32" VisionTransformer ViTConfig::vit_b_32();
    "vit_l_16" VisionTransformer ViTConfig::vit_l_16();
    "vit_l_32" VisionTransformer ViTConfig::vit_l_32();
    "vit_h_14" VisionTransformer ViTConfig::vit_h_14();
    "wide_resnet50_2" ResNet ResNetConfig::wide_resnet50_2();
    "wide_resnet101_2" ResNet ResNetConfig::wide_resnet101_2();
}

/// The names that [`by_name`] knows: torchvision's, and `lenet5`.
///
/// ```
/// assert!(fornax::models::names().any(|name| name == "resnet50"));
/// ```
pub fn names() -> impl Iterator<Item = &'static str> {
    MODELS.iter().map(|(name, _)| *name)
}

/// A published model by its name in torchvision, for so many classes, with random weights.
///
/// # Errors
/// A name that is not known; sizes that memory cannot hold, or a dtype that the device lacks.
///
/// ```
/// use fornax::nn::Module;
/// use fornax::{Device, models};
/// let model = models::by_name("mobilenet_v2", 10, Device::cpu())?;
/// assert_eq!(model.num_params(), 2_236_682);
/// assert!(models::by_name("resnet19", 10, Device::cpu()).is_err());
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn by_name(name: &str, num_classes: usize, options: impl Into<Options>) -> Result<Box<dyn Classifier + Send + Sync>> {
    match MODELS.iter().find(|(known, _)| *known == name) {
        Some((_, build)) => build(num_classes, options.into()),
        None => {
            let known = names().collect::<Vec<_>>().join(", ");
            Err(Error::argument("by_name", format!("no model is called {name}; there are {known}")))
        }
    }
}

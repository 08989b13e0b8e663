//! Training the architectures: plans are replayed and memory is flat; transfer learning; wrong configurations and inputs.

use crate::harness::isolated;
use fornax::data::digits;
use fornax::models::{
    self, AlexNet, AlexNetConfig, Autoencoder, AutoencoderConfig, Classifier, GoogLeNet, GoogLeNetConfig, Inception3, Inception3Config,
    LeNet5, LeNet5Config, Mlp, MlpConfig, MobileNetV2, MobileNetV2Config, ResNet, ResNetConfig, Vae, Vgg, VggConfig, ViTConfig,
    VisionTransformer,
};
use fornax::nn::{Flatten, Forward, Module, Param, Sequential, cross_entropy};
use fornax::optim::{AdamW, Optimizer};
use fornax::{Device, Result, Tensor, stats};

/// A ResNet-18 of 8 channels.
fn narrow(classes: usize) -> ResNetConfig {
    ResNetConfig::resnet18().width(8).num_classes(classes).small_stem(true)
}

fn small_vit() -> ViTConfig {
    ViTConfig::vit_b_16().image_size(16).patch_size(4).num_layers(2).num_heads(2).hidden_dim(16).mlp_dim(32).num_classes(10)
}

/// A name, what is trained, and the loss of a step.
type Task = (&'static str, Vec<Param>, Box<dyn Fn() -> Result<Tensor>>);

fn task(name: &'static str, params: Vec<Param>, loss: impl Fn() -> Result<Tensor> + 'static) -> Task {
    (name, params, Box::new(loss))
}

#[test]
fn steps_replay_their_plans_in_flat_memory() {
    isolated("models_training::steps");
}

#[test]
#[ignore = "runs in a process of its own"]
fn steps() {
    let cpu = Device::cpu();
    let x = Tensor::uniform([4, 3, 16, 16], 0.0, 1.0, cpu);
    let y = Tensor::from_vec(vec![0i32, 3, 9, 1], 4, cpu).unwrap();
    fornax::eval(&[&x, &y]).unwrap();
    let classify = |name, model: Box<dyn Forward>| {
        let (x, y) = (x.clone(), y.clone());
        task(name, model.parameters(), move || cross_entropy(&model.forward(&x)?, &y))
    };
    let blocks = vec![[1, 16, 1, 1], [6, 24, 2, 2]];
    let mobile = MobileNetV2Config::default().num_classes(10).width_mult(0.25).blocks(blocks);
    let vit = small_vit().dropout(0.1).attention_dropout(0.1);
    let mlp = MlpConfig::new(768, &[32, 10]).dropout(0.1);
    let vae = Vae::new(AutoencoderConfig::conv([3, 16, 16], &[8, 8], 4), cpu);
    let images = x.clone();
    let all = [
        classify("resnet", Box::new(ResNet::new(narrow(10), cpu))),
        classify("mobilenet", Box::new(MobileNetV2::new(mobile, cpu))),
        classify("vit", Box::new(VisionTransformer::new(vit, cpu))),
        classify("mlp", Box::new(Sequential::new().add(Flatten::default()).add(Mlp::new(mlp, cpu)))),
        task("vae", vae.parameters(), move || Ok(vae.elbo(&images, 1.0)?.loss)),
    ];
    for (name, params, loss) in all {
        let mut optimizer = AdamW::new(params, 3e-3);
        let (mut bytes, mut losses) = ((0, 0), Vec::new());
        for step in 1..=12 {
            let before = stats();
            let l = loss().unwrap();
            let grads = l.backward().unwrap();
            optimizer.step(grads).unwrap();
            losses.push(l.item::<f32>().unwrap());
            drop(l);
            let s = stats().since(&before);
            let held = (stats().cpu_bytes, stats().cpu_bytes + stats().cpu_pooled_bytes);
            assert_eq!(s.donations_refused, 0, "{name}, step {step}");
            if step >= 3 {
                assert_eq!(s.plan_misses, 0, "{name}, step {step} makes a plan: {s:?}");
                assert!(s.plan_hits > 0, "{name}, step {step}: {s:?}");
            }
            if step == 3 {
                bytes = held;
            } else if step > 3 {
                assert_eq!(held, bytes, "{name}, step {step}: bytes in use, and with the pool");
            }
        }
        assert!(losses[11] < losses[0], "{name} does not learn: {losses:?}");
    }
}

/// The images of some digits, upside down or not, with labels from 0.
fn part(classes: std::ops::Range<i32>, count: usize, skip: usize) -> Result<(Tensor, Tensor)> {
    let digits = digits(Device::cpu())?;
    let labels = digits.train.tensors()[1].to_vec::<i32>()?;
    let rows: Vec<usize> = (0..labels.len()).filter(|&i| classes.contains(&labels[i])).skip(skip).take(count).collect();
    let [x, y] = digits.train.pick(&rows)?;
    Ok((x, y.try_sub(classes.start)?))
}

fn accuracy(model: &dyn Forward, (x, y): &(Tensor, Tensor)) -> Result<f32> {
    model.eval();
    let right = fornax::no_grad(|| model.forward(x))?.try_argmax(1)?.try_eq(y)?.try_cast(fornax::DType::F32)?.try_mean(())?.item();
    model.train();
    right
}

#[test]
fn transfer_learning_loads_replaces_the_head_freezes_and_trains() -> Result<()> {
    let cpu = Device::cpu();
    let _seed = fornax::testing::seed(3);
    let config = || ResNetConfig::resnet18().layers([1, 1, 1, 1]).width(8).in_channels(1).small_stem(true);
    // Zeros to fours first.
    let pretrained = ResNet::new(config().num_classes(5), cpu);
    let (x, y) = part(0..5, 200, 0)?;
    let mut optimizer = AdamW::new(pretrained.parameters(), 3e-3);
    for _ in 0..30 {
        let loss = cross_entropy(&pretrained.forward(&x)?, &y)?;
        optimizer.step(loss.backward()?)?;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backbone.safetensors");
    pretrained.save_safetensors(&path)?;

    // Loaded, it is the same model, the number of batches too.
    let mut model = ResNet::new(config().num_classes(5), cpu);
    model.load_safetensors(&path)?;
    let state = model.state_dict();
    for (name, t) in pretrained.state_dict() {
        assert_eq!(t.to_vec::<f64>()?, state[&name].to_vec::<f64>()?, "{name}");
    }
    assert_eq!(state["bn1.num_batches_tracked"].item::<i64>()?, 30);

    // Another head, for fives to nines; the rest is frozen, and its statistics stay as they are.
    model.replace_head(5)?;
    model.freeze_backbone();
    model.eval();
    let before = model.state_dict();
    let few = part(5..10, 80, 0)?;
    let held_out = part(5..10, 200, 80)?;
    let start = accuracy(&model, &held_out)?;
    model.eval();
    let mut optimizer = AdamW::new(model.parameters(), 3e-2);
    for _ in 0..50 {
        let loss = cross_entropy(&model.forward(&few.0)?, &few.1)?;
        let grads = loss.backward()?;
        assert_eq!(model.parameters().iter().filter(|p| p.grad(&grads).is_some()).count(), 2);
        optimizer.step(grads)?;
    }
    for (name, t) in model.state_dict() {
        let same = t.to_vec::<f64>()? == before[&name].to_vec::<f64>()?;
        assert_eq!(same, !name.starts_with("fc."), "{name}");
    }
    let end = accuracy(&model, &held_out)?;
    assert!(end > 0.5 && end > start + 0.2, "{start} to {end}");

    // Stage by stage.
    model.unfreeze();
    let frozen = model.freeze_prefix("layer1")? + model.freeze_prefix("conv1")? + model.freeze_prefix("bn1.weight")?;
    assert_eq!(frozen, 6 + 1 + 1);
    assert_eq!(model.parameters().iter().filter(|p| p.is_frozen()).count(), 8);
    assert_eq!(model.unfreeze_prefix("layer1.0.bn2")?, 2);
    let message = model.freeze_prefix("layer").unwrap_err().to_string();
    assert!(message.contains("conv1, bn1, layer1, layer2"), "{message}");
    Ok(())
}

#[test]
fn every_classifier_gets_another_head() -> Result<()> {
    for name in models::names() {
        let mut model = models::by_name(name, 4, Device::cpu())?;
        model.replace_head(6)?;
        let params = model.named_parameters();
        let head = |what: &str| params.iter().find(|(n, _)| *n == format!("{}.{what}", model.head())).map(|(_, p)| p.shape());
        assert_eq!(head("bias").unwrap(), [6], "{name}");
        assert_eq!(head("weight").unwrap()[0], 6, "{name}");
        // No other layer has the old number of classes, auxiliary heads neither.
        assert!(params.iter().all(|(_, p)| p.shape()[0] != 4), "{name}");
        model.freeze_backbone();
        assert_eq!(params.iter().filter(|(_, p)| !p.is_frozen()).count(), 2, "{name}");
    }
    // A head that is no linear layer any more.
    let mut model = MobileNetV2::new(MobileNetV2Config::default(), Device::cpu());
    model.classifier.replace("1", fornax::nn::Identity)?;
    assert!(model.replace_head(3).unwrap_err().to_string().contains("classifier.1"));
    Ok(())
}

#[test]
fn wrong_configurations_are_errors() {
    let cpu = Device::cpu();
    fn message<T>(r: Result<T>) -> String {
        r.err().expect("an error").to_string()
    }
    let huge = usize::MAX / 2;
    let cases = [
        (message(models::by_name("resnet-18", 10, cpu)), "resnet18"),
        (message(ResNet::try_new(ResNetConfig::resnet18().groups(2), cpu)), "bottleneck"),
        (message(ResNet::try_new(ResNetConfig::resnet34().replace_stride_with_dilation([false, false, true]), cpu)), "bottleneck"),
        (message(ResNet::try_new(ResNetConfig::resnext50_32x4d().groups(0), cpu)), "groups = 0"),
        (message(ResNet::try_new(ResNetConfig::resnet50().width(huge), cpu)), ""),
        (message(AlexNet::try_new(AlexNetConfig::default().dropout(1.5), cpu)), "probability"),
        (message(Vgg::try_new(VggConfig::vgg11().stages(vec![vec![huge]]), cpu)), ""),
        (message(GoogLeNet::try_new(GoogLeNetConfig::default().transform_input(true).in_channels(1), cpu)), "3 channels"),
        (message(Inception3::try_new(Inception3Config::default().transform_input(true).in_channels(4), cpu)), "3 channels"),
        (message(MobileNetV2::try_new(MobileNetV2Config::default().width_mult(-1.0), cpu)), "positive"),
        (message(MobileNetV2::try_new(MobileNetV2Config::default().width_mult(f64::NAN), cpu)), "positive"),
        (message(MobileNetV2::try_new(MobileNetV2Config::default().width_mult(1e300), cpu)), ""),
        (message(MobileNetV2::try_new(MobileNetV2Config::default().round_nearest(0), cpu)), "at least 1"),
        (message(MobileNetV2::try_new(MobileNetV2Config::default().blocks(vec![[1, 8, 1, 3]]), cpu)), "1 or 2"),
        (message(VisionTransformer::try_new(small_vit().patch_size(5), cpu)), "multiple"),
        (message(VisionTransformer::try_new(small_vit().patch_size(0), cpu)), "multiple"),
        (message(VisionTransformer::try_new(small_vit().num_heads(3), cpu)), "multiple"),
        (message(VisionTransformer::try_new(small_vit().attention_dropout(1.0), cpu)), "0..1"),
        (message(VisionTransformer::try_new(small_vit().hidden_dim(huge & !1), cpu)), ""),
        (message(LeNet5::try_new(LeNet5Config::default().image_size(10), cpu)), "at least 16×16"),
        (message(LeNet5::try_new(LeNet5Config::default().padding(huge), cpu)), ""),
        (message(Mlp::try_new(MlpConfig::new(3, &[]), cpu)), "hidden_channels"),
        (message(Autoencoder::try_new(AutoencoderConfig::conv([1, 6, 8], &[4, 4], 2), cpu)), "multiples of 4"),
        (message(Autoencoder::try_new(AutoencoderConfig::conv([1, 8, 8], &[], 2), cpu)), "at least one"),
        (message(Vae::try_new(AutoencoderConfig::mlp([1, 8, 8], &[0], 2), cpu)), "at least 1"),
        (message(Autoencoder::try_new(AutoencoderConfig::conv([1, 8, 8], &[1; 80], 2), cpu)), "multiples"),
    ];
    for (i, (got, want)) in cases.iter().enumerate() {
        assert!(got.contains(want), "case {i}: {got}");
    }
}

#[test]
fn wrong_inputs_are_errors() -> Result<()> {
    let cpu = Device::cpu();
    let ones = |shape: &[usize]| Tensor::ones(shape.to_vec(), cpu);
    for name in models::names() {
        let model = models::by_name(name, 3, cpu)?;
        for shape in [&[3, 64, 64][..], &[2, 5, 64, 64], &[2, 3, 1, 1], &[2, 3]] {
            // ResNet and MobileNet reduce any image, even of one pixel.
            let any_size = ["resn", "wide", "mobi"].iter().any(|p| name.starts_with(p)) && shape == [2, 3, 1, 1];
            assert_eq!(model.forward(&ones(shape)).is_err(), !any_size, "{name} with {shape:?}");
        }
        assert!(model.forward(&Tensor::ones([2, 3, 64, 64], (fornax::DType::I32, cpu))).is_err(), "{name}");
    }
    let vae = Vae::new(AutoencoderConfig::mlp([1, 4, 4], &[], 3), cpu);
    assert!(vae.elbo(&ones(&[0, 1, 4, 4]), 1.0).is_err());
    assert!(vae.elbo(&ones(&[2, 1, 5, 4]), 1.0).is_err());
    // NaN comes out where it went in, and nowhere else.
    let model = LeNet5::new(LeNet5Config::default(), cpu);
    let x = Tensor::try_cat(&[&Tensor::full([1, 1, 28, 28], f64::NAN, cpu), &ones(&[1, 1, 28, 28])], 0)?;
    let y = model.forward(&x)?.to_vec::<f32>()?;
    assert!(y[..10].iter().all(|v| v.is_nan()) && y[10..].iter().all(|v| v.is_finite()), "{y:?}");
    // No images, no logits; in training mode a batch has no statistics.
    let resnet = ResNet::new(narrow(3), cpu);
    assert!(resnet.forward(&ones(&[0, 3, 16, 16])).is_err());
    resnet.eval();
    assert_eq!(resnet.forward(&ones(&[0, 3, 16, 16]))?.to_vec::<f32>()?.len(), 0);
    Ok(())
}

//! The architectures against torchvision (`tests/golden/gen_models.py`): names and shapes, outputs, gradients, initial values, a file.

use crate::harness::{gpu, isolated};
use fornax::models::{
    self, AlexNet, AlexNetConfig, Classifier, GoogLeNet, GoogLeNetConfig, Inception3, Inception3Config, InceptionAux, LeNet5, LeNet5Config,
    MobileNetV2, MobileNetV2Config, ResNet, ResNetConfig, Vgg, VggConfig, ViTConfig, VisionTransformer,
};
use fornax::nn::{Forward, Linear, Module, StateDict};
use fornax::{DType, Device, Options, Result, Tensor, stats};
use serde_json::Value;
use std::sync::LazyLock;

static GOLDEN: LazyLock<Value> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
});

fn fnv64(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3))
}

/// `n` numbers from -1 to 1, as the generator makes them.
fn numbers(name: &str, n: usize) -> Vec<f32> {
    let start = name.bytes().fold(0x811c_9dc5u32, |h, b| (h ^ b as u32).wrapping_mul(0x0100_0193));
    let number = |i: usize| {
        let mut h = (i as u32).wrapping_mul(0x9e37_79b9).wrapping_add(start);
        h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
        h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
        ((h ^ (h >> 16)) >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..n).map(number).collect()
}

/// A parameter or buffer by the generator's formula.
fn value(name: &str, shape: &[usize]) -> Result<Tensor> {
    let mut u = numbers(name, shape.iter().product());
    let last = name.rsplit('.').next().unwrap();
    let fan: usize = shape.iter().skip(1).product();
    let (shift, factor) = match last {
        "class_token" | "pos_embedding" => (0.0, 0.5),
        _ if shape.len() >= 2 => (0.0, (6.0 / fan as f64).sqrt() as f32),
        "running_var" => (1.0, 0.5),
        "weight" => (1.0, 0.25),
        _ => (0.0, 0.1),
    };
    u.iter_mut().for_each(|v| *v = shift + factor * *v);
    Tensor::from_vec(u, shape.to_vec(), Device::cpu())
}

fn fill(model: &dyn Module) -> Result<()> {
    let mut dict = StateDict::new();
    for (name, t) in model.state_dict() {
        let tracked = name.ends_with("num_batches_tracked");
        let new = if tracked { Tensor::from_slice(&[3i64], (), Device::cpu())? } else { value(&name, t.dims())? };
        dict.insert(name, new);
    }
    model.load_state_dict(&dict, true).map(|_| ())
}

fn floats(v: &Value) -> Vec<f64> {
    v.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

/// How far off, against the largest of the wanted numbers.
fn off(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1e-30f64, |m, v| m.max(v.abs()));
    got.iter().zip(want).fold(0.0, |worst, (g, w)| if (g - w).abs() <= worst { worst } else { (g - w).abs() }) / scale
}

/// Norm, and product with the numbers of the name.
fn short(name: &str, t: &Tensor) -> Result<Vec<f64>> {
    let v = t.to_vec::<f64>()?;
    let dot = v.iter().zip(numbers(name, v.len())).map(|(a, b)| a * b as f64).sum();
    Ok(vec![v.iter().map(|x| x * x).sum::<f64>().sqrt(), dot])
}

/// Norms and products against the norm: the product of a gradient with numbers from -1 to 1 is of its size. A gradient may be 0 but for rounding, so that the
/// measure is at least a hundredth of the largest norm.
fn off_short(name: &str, t: &Tensor, want: &Value, largest: f64) -> Result<f64> {
    let (got, want) = (short(name, t)?, floats(want));
    Ok(off(&got, &want) * want.iter().fold(1e-30f64, |m, v| m.max(v.abs())) / want[0].max(0.01 * largest))
}

/// Runs a case and compares with PyTorch's results in f64 (from the same float32 numbers): outputs and buffers may be off by `tolerance`, gradients by ten times
/// that.
fn case_on<M: Module>(
    name: &str,
    build: &dyn Fn(Options) -> Result<M>,
    call: &dyn Fn(&M, &Tensor) -> Result<Vec<Tensor>>,
    o: Options,
    tolerance: f64,
) {
    let golden = &GOLDEN["cases"][name];
    assert!(golden.is_object(), "{name} is not in the file");
    let run = || -> Result<Vec<String>> {
        let model = build(o)?;
        fill(&model)?;
        let trains = golden.get("grads").is_some();
        model.set_training(trains);
        let shape: Vec<usize> = floats(&golden["input"]).iter().map(|&n| n as usize).collect();
        let n = shape.iter().product();
        let tensor =
            |name: &str, n: usize, shape: &[usize]| Tensor::from_vec(numbers(name, n), shape.to_vec(), o.device)?.try_cast(o.dtype);
        let x = tensor("input", n, &shape)?;
        let x = if trains { x.requires_grad() } else { x };
        let outputs = call(&model, &x)?;
        let wanted = golden["outputs"].as_array().unwrap();
        assert_eq!(outputs.len(), wanted.len());
        let params = model.named_parameters();
        let buffers: Vec<_> = model.named_buffers().into_iter().filter(|(_, b)| b.is_persistent()).collect();
        let mut gradients = Vec::new();
        if trains {
            let mut loss = Tensor::try_zeros((), o)?;
            for (i, y) in outputs.iter().enumerate() {
                loss = loss.try_add(y.try_mul(tensor(&format!("cotangent{i}"), y.numel(), y.dims())?)?.try_sum(())?)?;
            }
            let grads = loss.backward()?;
            let grad = |path: &str, g: Option<&Tensor>| (path.to_string(), g.unwrap_or_else(|| panic!("no gradient of {path}")).clone());
            gradients.extend(params.iter().map(|(path, p)| grad(path, p.grad(&grads))));
            gradients.push(grad("input", grads.get(&x)));
        }
        // One flush for all: outputs, gradients, running statistics.
        let state: Vec<Tensor> = buffers.iter().map(|(_, b)| b.get()).collect();
        fornax::eval(&outputs.iter().chain(gradients.iter().map(|(_, g)| g)).chain(&state).collect::<Vec<_>>())?;
        let mut wrong = Vec::new();
        let mut check = |what: &str, off: f64, tolerance: f64| {
            if !(off <= tolerance) {
                wrong.push(format!("{what}: off by {off:e}, allowed {tolerance:e}"));
            }
        };
        for (y, want) in outputs.iter().zip(wanted) {
            check("output", off(&y.to_vec::<f64>()?, &floats(want)), tolerance);
        }
        if trains {
            let (wanted, stats) = (golden["grads"].as_object().unwrap(), golden["buffers"].as_object().unwrap());
            assert_eq!((gradients.len(), buffers.len()), (wanted.len() + 1, stats.len()));
            let largest = wanted.values().map(|v| floats(v)[0]).fold(0.0, f64::max);
            for (path, g) in &gradients {
                let want = wanted.get(path).unwrap_or(&golden["grad_input"]);
                check(path, off_short(path, g, want, largest)?, 10.0 * tolerance);
            }
            for ((path, _), b) in buffers.iter().zip(&state) {
                check(path, off_short(path, b, &stats[path], 0.0)?, tolerance);
            }
            for (name, t) in model.state_dict().into_iter().filter(|(name, _)| name.ends_with("num_batches_tracked")) {
                assert_eq!(t.item::<i64>()?, 4, "{name}");
            }
        }
        Ok(wrong)
    };
    let wrong = run().unwrap_or_else(|e| vec![e.to_string()]);
    assert!(wrong.is_empty(), "{name} on {} in {}:\n{}", o.device, o.dtype, wrong.join("\n"));
}

/// A case on the CPU, in f64 to 1e-9, and in f32 to a tolerance. Without one it is for f64 alone: through the batch normalisations of a deep network, over the
/// few numbers that these small images leave of a channel, float32's rounding moves gradients by thousandths.
fn case<M: Module>(
    name: &str,
    tolerance: Option<f64>,
    build: impl Fn(Options) -> Result<M>,
    call: impl Fn(&M, &Tensor) -> Result<Vec<Tensor>>,
) {
    case_on(name, &build, &call, (DType::F64, Device::cpu()).into(), 1e-9);
    if let Some(tolerance) = tolerance {
        case_on(name, &build, &call, Device::cpu().into(), tolerance);
    }
}

fn plain<M: Forward>(name: &str, tolerance: f64, build: impl Fn(Options) -> Result<M>) {
    case(name, Some(tolerance), build, |m, x| Ok(vec![m.forward(x)?]));
}

fn in_f64<M: Forward>(name: &str, build: impl Fn(Options) -> Result<M>) {
    case(name, None, build, |m, x| Ok(vec![m.forward(x)?]));
}

#[test]
fn every_name_every_shape_and_every_count_as_torchvision() {
    isolated("models::counts");
}

#[test]
#[ignore = "runs in a process of its own"]
fn counts() {
    let before = stats();
    let cpu = Device::cpu();
    let mut seen = Vec::new();
    let mut check = |name: &str, model: &dyn Module| {
        let want = &GOLDEN["counts"][name];
        assert!(want.is_object(), "{name} is not in the file");
        assert_eq!(model.num_params() as u64, want["params"].as_u64().unwrap(), "{name}");
        let dict = model.state_dict();
        assert_eq!(dict.len() as u64, want["entries"].as_u64().unwrap(), "{name}");
        let line = |name: &str, shape: &[usize]| format!("{name} {shape:?}\n");
        let order: String = model.named_parameters().iter().map(|(n, p)| line(n, &p.shape())).collect();
        let mut state: Vec<String> = dict.iter().map(|(n, t)| line(n, t.dims())).collect();
        state.sort();
        let state = state.concat();
        assert_eq!(format!("{:016x}", fnv64(&order)), want["order"].as_str().unwrap(), "{name}: parameters are\n{order}");
        assert_eq!(format!("{:016x}", fnv64(&state)), want["state"].as_str().unwrap(), "{name}: the state is\n{state}");
        seen.push(name.to_string());
    };
    for name in models::names() {
        check(name, &models::by_name(name, if name == "lenet5" { 10 } else { 1000 }, cpu).unwrap());
    }
    for m in [0.25, 0.5, 0.75, 1.4] {
        check(&format!("mobilenet_v2 width_mult={m}"), &MobileNetV2::new(MobileNetV2Config::default().width_mult(m), cpu));
    }
    check("googlenet aux_logits=False", &GoogLeNet::new(GoogLeNetConfig::default().aux_logits(false), cpu));
    check("inception_v3 num_classes=7", &models::by_name("inception_v3", 7, cpu).unwrap());
    let config = ViTConfig::vit_b_16().image_size(384).representation_size(Some(64));
    check("vit_b_16 image_size=384 representation_size=64", &VisionTransformer::new(config, cpu));
    assert_eq!(seen.len(), GOLDEN["counts"].as_object().unwrap().len(), "models in the golden file");
    // The largest has 632 million parameters. None was computed.
    let done = stats().since(&before);
    assert_eq!(done.dispatches, 0, "{done:?}");
    assert!(stats().cpu_peak_bytes < 1 << 20, "{:?}", stats());
}

/// Linear layers of 32 features in place of 4096.
fn small_heads(classifier: &mut fornax::nn::Sequential, inputs: usize, at: [&str; 3], o: Options) -> Result<()> {
    classifier.replace(at[0], Linear::try_new(inputs, 32, o)?)?;
    classifier.replace(at[1], Linear::try_new(32, 32, o)?)?;
    classifier.replace(at[2], Linear::try_new(32, 10, o)?)
}

#[test]
fn plain_convolutional_networks() {
    plain("lenet5", 1e-5, |o| LeNet5::try_new(LeNet5Config::default(), o));
    plain("lenet5 classic", 1e-5, |o| LeNet5::try_new(LeNet5Config::default().classic(true), o));
    plain("alexnet", 1e-5, |o| {
        let mut m = AlexNet::try_new(AlexNetConfig::default().dropout(0.0), o)?;
        small_heads(&mut m.classifier, 9216, ["1", "4", "6"], o)?;
        Ok(m)
    });
    for (name, config) in [("vgg11", VggConfig::vgg11()), ("vgg11_bn", VggConfig::vgg11_bn())] {
        plain(name, 1e-5, |o| {
            let mut m = Vgg::try_new(config.clone().dropout(0.0), o)?;
            small_heads(&mut m.classifier, 25088, ["0", "3", "6"], o)?;
            Ok(m)
        });
    }
}

#[test]
fn residual_networks() {
    let ten = |c: ResNetConfig| move |o: Options| ResNet::try_new(c.clone().num_classes(10), o);
    plain("resnet18", 1e-5, ten(ResNetConfig::resnet18()));
    plain("resnet18 train", 2e-5, ten(ResNetConfig::resnet18()));
    plain("resnet50", 1e-5, ten(ResNetConfig::resnet50()));
    let dilated = ResNetConfig::resnet50().layers([1, 1, 2, 1]).replace_stride_with_dilation([false, true, true]);
    in_f64("bottleneck dilated train", ten(dilated));
    plain("resnext", 1e-5, ten(ResNetConfig::resnext50_32x4d().layers([1, 1, 1, 1])));
    plain("wide", 1e-5, ten(ResNetConfig::wide_resnet50_2().layers([1, 2, 1, 1])));
}

#[test]
fn inception_networks() {
    let config = GoogLeNetConfig::default().num_classes(10);
    plain("googlenet", 1e-5, |o| GoogLeNet::try_new(config.clone().transform_input(true), o));
    case(
        "googlenet train",
        None,
        |o| GoogLeNet::try_new(config.clone().dropout(0.0).dropout_aux(0.0), o),
        |m, x| {
            let y = m.forward_with_aux(x)?;
            Ok(vec![y.logits, y.aux_logits2.expect("in training"), y.aux_logits1.expect("in training")])
        },
    );
    let config = Inception3Config::default().num_classes(10).transform_input(true);
    plain("inception_v3", 1e-5, |o| Inception3::try_new(config.clone(), o));
    plain("inception aux", 2e-5, |o| InceptionAux::try_new(16, 10, o));
}

#[test]
fn mobile_networks() {
    let config = MobileNetV2Config::default().num_classes(10);
    plain("mobilenet_v2", 1e-5, |o| MobileNetV2::try_new(config.clone(), o));
    in_f64("mobilenet_v2 train", |o| MobileNetV2::try_new(config.clone().dropout(0.0), o));
    plain("mobilenet_v2 width_mult=0.35", 1e-5, |o| MobileNetV2::try_new(config.clone().width_mult(0.35), o));
}

fn vit() -> ViTConfig {
    ViTConfig::vit_b_16().patch_size(8).num_layers(3).num_heads(4).hidden_dim(32).mlp_dim(48).num_classes(10)
}

#[test]
fn vision_transformers() {
    plain("vit", 1e-5, |o| VisionTransformer::try_new(vit().image_size(32), o));
    plain("vit representation", 1e-5, |o| VisionTransformer::try_new(vit().image_size(16).representation_size(Some(24)), o));
}

#[test]
fn some_models_on_the_gpu() {
    let Some(gpu) = gpu() else { return };
    let o: Options = gpu.into();
    case_on("lenet5", &|o| LeNet5::try_new(LeNet5Config::default(), o), &|m, x| Ok(vec![m.forward(x)?]), o, 1e-5);
    let build = |o: Options| VisionTransformer::try_new(vit().image_size(16).representation_size(Some(24)), o);
    case_on("vit representation", &build, &|m, x| Ok(vec![m.forward(x)?]), o, 1e-5);
}

#[test]
fn initial_values_are_distributed_as_torchvisions() -> Result<()> {
    let cpu = Device::cpu();
    let residual = |c: ResNetConfig| ResNet::try_new(c.zero_init_residual(true), cpu);
    let all: [(&str, Box<dyn Module>); 8] = [
        ("alexnet", Box::new(AlexNet::try_new(AlexNetConfig::default(), cpu)?)),
        ("vgg11_bn", Box::new(Vgg::try_new(VggConfig::vgg11_bn(), cpu)?)),
        ("resnet18", Box::new(residual(ResNetConfig::resnet18())?)),
        ("resnet50", Box::new(residual(ResNetConfig::resnet50())?)),
        ("googlenet", Box::new(GoogLeNet::try_new(GoogLeNetConfig::default(), cpu)?)),
        ("inception_v3", Box::new(Inception3::try_new(Inception3Config::default(), cpu)?)),
        ("mobilenet_v2", Box::new(MobileNetV2::try_new(MobileNetV2Config::default(), cpu)?)),
        ("vit", Box::new(VisionTransformer::try_new(vit().num_classes(10).image_size(32).representation_size(Some(24)), cpu)?)),
    ];
    for (name, model) in &all {
        let want = GOLDEN["initial"][name].as_object().unwrap();
        let params: Vec<_> = model.named_parameters().into_iter().filter(|(_, p)| p.shape().numel() < 300_000).collect();
        assert_eq!(params.len(), want.len(), "{name}");
        let values: Vec<Tensor> = params.iter().map(|(_, p)| p.value()).collect();
        fornax::eval(&values.iter().collect::<Vec<_>>())?;
        for ((path, p), value) in params.iter().zip(values) {
            let golden = floats(&want[path]);
            let (n, v) = (p.shape().numel() as f64, value.to_vec::<f64>()?);
            let mean = v.iter().sum::<f64>() / n;
            let std = (v.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n).sqrt();
            // Both are samples of n: six deviations of their difference (of a normal, or narrower, distribution).
            let (off_mean, off_std) = ((mean - golden[0]).abs(), (std - golden[1]).abs());
            let fits = off_mean <= golden[1] * 6.0 * (2.0 / n).sqrt() && off_std <= golden[1] * 6.0 / n.sqrt();
            assert!(fits, "{name} {path} of {n}: mean {mean}, deviation {std}, wanted {golden:?}");
        }
    }
    Ok(())
}

/// The model of the file that the generator saved with PyTorch.
fn tiny(o: impl Into<Options>) -> Result<MobileNetV2> {
    let config = MobileNetV2Config::default().num_classes(3).width_mult(0.25).blocks(vec![[1, 16, 1, 1], [2, 32, 2, 2]]);
    MobileNetV2::try_new(config, o)
}

#[test]
fn a_file_from_pytorch_loads_strictly_and_gives_its_outputs() -> Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/mobilenet_tiny.safetensors");
    let want = floats(&GOLDEN["tiny"]);
    for device in [Some(Device::cpu()), gpu()].into_iter().flatten() {
        let mut model = tiny(device)?;
        model.load_safetensors(path)?;
        assert_eq!(model.state_dict()["features.0.1.num_batches_tracked"].item::<i64>()?, 1);
        model.eval();
        let x = Tensor::from_vec(numbers("input", 2 * 3 * 32 * 32), [2, 3, 32, 32], device)?;
        let off = off(&model.forward(&x)?.to_vec::<f64>()?, &want);
        assert!(off < 1e-5, "{device}: off by {off:e}");
        // With another head it does not fit strictly; the backbone alone does.
        model.replace_head(7)?;
        assert_eq!(model.forward(&x)?.dims(), [2, 7]);
        let message = model.load_safetensors(path).unwrap_err().to_string();
        assert!(message.contains("classifier.1.weight is [3, 1280], must be [7, 1280]"), "{message}");
        let mut dict = fornax::io::safetensors::load(path)?;
        dict.retain(|name, _| !name.starts_with(model.head()));
        let loaded = model.load_state_dict(&dict, false)?;
        assert_eq!(loaded.missing, ["classifier.1.weight", "classifier.1.bias"]);
        assert!(loaded.unexpected.is_empty());
    }
    Ok(())
}

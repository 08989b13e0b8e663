//! Modules: paths, state dicts, modes, freezing, moving.

use fornax::nn::{self, Buffer, Forward, Module, Param, StateDict};
use fornax::{DType, Device, Error, Result, Tensor};
use std::collections::BTreeMap;

#[derive(Clone, Copy)]
enum Kind {
    A,
}

#[derive(Module)]
enum Head {
    None,
    Linear(nn::Linear),
    Both { a: nn::Linear, b: nn::Linear },
}

#[derive(Module)]
struct Attention {
    q_proj: nn::Linear,
    #[module(name = "weight_ih_l0")]
    odd: Param,
}

#[derive(Module)]
struct Pair<A, B>(A, B);

/// Every sort of field.
#[derive(Module)]
#[allow(dead_code)]
struct Model<'a, M> {
    layers: Vec<Attention>,
    norm: Option<nn::BatchNorm2d>,
    absent: Option<nn::Linear>,
    r#in: nn::Linear,
    pair: (nn::Linear, nn::ReLU),
    array: [Param; 2],
    boxed: Box<dyn Forward + Send + Sync>,
    map: BTreeMap<String, nn::Linear>,
    generic: M,
    #[module(flatten)]
    flat: Pair<Param, Buffer>,
    head: Head,
    // Plain data needs no mark.
    size: usize,
    kind: Kind,
    name: String,
    label: Option<String>,
    sizes: Vec<usize>,
    borrowed: &'a str,
    shape: fornax::Shape,
    f: fn(f32) -> f32,
    // This does.
    #[module(skip)]
    cache: std::sync::Mutex<Vec<Tensor>>,
}

fn param(n: usize) -> Param {
    Param::new(Tensor::ones(n, Device::cpu()))
}

fn linear() -> nn::Linear {
    nn::Linear::new(2, 3, Device::cpu()).no_bias()
}

fn model() -> Model<'static, Pair<nn::Linear, nn::Linear>> {
    let attention = || Attention { q_proj: nn::Linear::new(2, 2, Device::cpu()), odd: param(1) };
    Model {
        layers: vec![attention(), attention()],
        norm: Some(nn::BatchNorm2d::new(3, Device::cpu())),
        absent: None,
        r#in: linear(),
        pair: (linear(), nn::ReLU),
        array: [param(1), param(2)],
        boxed: Box::new(nn::Sequential::new().add(linear()).add_named("act", nn::GELU::default())),
        map: BTreeMap::from([("x".to_string(), linear())]),
        generic: Pair(linear(), linear()),
        flat: Pair(param(1), Buffer::new(Tensor::zeros(1, Device::cpu()))),
        head: Head::Linear(linear()),
        size: 1,
        kind: Kind::A,
        name: "m".into(),
        label: None,
        sizes: vec![1],
        borrowed: "b",
        shape: 3.into(),
        f: f32::sqrt,
        cache: Default::default(),
    }
}

#[test]
fn paths_follow_the_fields() {
    let m = model();
    let names: Vec<String> = m.named_parameters().into_iter().map(|(n, _)| n).collect();
    let want = [
        "layers.0.q_proj.weight",
        "layers.0.q_proj.bias",
        "layers.0.weight_ih_l0",
        "layers.1.q_proj.weight",
        "layers.1.q_proj.bias",
        "layers.1.weight_ih_l0",
        "norm.weight",
        "norm.bias",
        "in.weight",
        "pair.0.weight",
        "array.0",
        "array.1",
        "boxed.0.weight",
        "map.x.weight",
        "generic.0.weight",
        "generic.1.weight",
        "0",
        "head.weight",
    ];
    assert_eq!(names, want);
    let buffers: Vec<String> = m.named_buffers().into_iter().map(|(n, _)| n).collect();
    assert_eq!(buffers, ["norm.running_mean", "norm.running_var", "1"]);
    assert!(m.state_dict().contains_key("norm.num_batches_tracked"));
    let both = Head::Both { a: linear(), b: linear() };
    assert_eq!(both.named_parameters()[1].0, "b.weight");
    assert_eq!(Head::None.num_params(), 0);
    let table = m.describe();
    assert!(table.contains("layers.1.q_proj") && table.contains("Linear") && table.contains("weight [2, 2]"), "{table}");
}

#[test]
fn a_shared_parameter_is_one() -> Result<()> {
    let (a, mut b) = (linear(), linear());
    b.weight = a.weight.clone();
    let tied = (a, b);
    assert_eq!(tied.num_params(), 6);
    assert_eq!(tied.state_dict().len(), 2);
    tied.0.weight.set(Tensor::zeros([3, 2], Device::cpu()))?;
    assert_eq!(tied.1.weight.value().to_vec::<f32>()?, [0.0; 6]);
    Ok(())
}

#[test]
fn loading_is_strict_and_all_or_nothing() -> Result<()> {
    let m = nn::Sequential::new().add(linear()).add(nn::BatchNorm1d::new(3, Device::cpu()));
    let mut dict: StateDict = m.state_dict();
    assert_eq!(dict.len(), 1 + 5);
    dict.remove("1.bias");
    dict.insert("extra".into(), Tensor::zeros(1, Device::cpu()));
    dict.insert("0.weight".into(), Tensor::zeros([2, 2], Device::cpu()));
    let before = m.state_dict()["0.weight"].to_vec::<f32>()?;
    let e = m.load_state_dict(&dict, true).unwrap_err();
    let text = e.to_string();
    assert!(matches!(e, Error::StateDict { .. }));
    assert!(
        text.contains("missing: 1.bias") && text.contains("unexpected: extra") && text.contains("0.weight is [2, 2], must be [3, 2]"),
        "{text}"
    );
    assert!(m.load_state_dict(&dict, false).is_err());
    assert_eq!(m.state_dict()["0.weight"].to_vec::<f32>()?, before);
    dict.insert("0.weight".into(), Tensor::full([3, 2], 2.0, (DType::F64, Device::cpu())));
    dict.insert("1.num_batches_tracked".into(), Tensor::full((), 5, (DType::I64, Device::cpu())));
    let loaded = m.load_state_dict(&dict, false)?;
    assert_eq!((loaded.missing, loaded.unexpected), (vec!["1.bias".to_string()], vec!["extra".to_string()]));
    let after = m.state_dict();
    assert_eq!(after["0.weight"].dtype(), DType::F32);
    assert_eq!(after["0.weight"].to_vec::<f32>()?, [2.0; 6]);
    assert_eq!(after["1.num_batches_tracked"].item::<i64>()?, 5);
    Ok(())
}

#[test]
fn modes_reach_every_layer() -> Result<()> {
    let m = nn::Sequential::new().add(nn::Dropout::new(0.5)).add(nn::Sequential::new().add(nn::BatchNorm1d::new(4, Device::cpu())));
    let x = Tensor::uniform([8, 4], 0.0, 1.0, Device::cpu());
    m.eval();
    let (a, b) = (m.forward(&x)?.to_vec::<f32>()?, m.forward(&x)?.to_vec::<f32>()?);
    assert_eq!(a, b);
    assert_eq!(m.state_dict()["1.0.num_batches_tracked"].item::<i64>()?, 0);
    m.train();
    assert_ne!(m.forward(&x)?.to_vec::<f32>()?, m.forward(&x)?.to_vec::<f32>()?);
    assert_eq!(m.state_dict()["1.0.num_batches_tracked"].item::<i64>()?, 2);
    Ok(())
}

#[test]
fn batch_norm_moves_its_statistics_as_pytorch_does() -> Result<()> {
    let norm = nn::BatchNorm1d::new(1, Device::cpu());
    let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 6.0], [4, 1], Device::cpu())?;
    norm.forward(&x)?;
    // Mean 3, unbiased variance 14/3, momentum 0.1.
    assert!((norm.running_mean().unwrap().get().item::<f32>()? - 0.3).abs() < 1e-6);
    assert!((norm.running_var().unwrap().get().item::<f32>()? - (0.9 + 0.1 * 14.0 / 3.0)).abs() < 1e-6);
    let e = norm.forward(&Tensor::ones([1, 1], Device::cpu())).unwrap_err();
    assert!(e.to_string().contains("more than one value"), "{e}");
    assert!(norm.forward(&Tensor::ones([4, 2], Device::cpu())).is_err());
    Ok(())
}

#[test]
fn freezing_casting_and_groups() -> Result<()> {
    let m = nn::Sequential::new().add(nn::Conv2d::new(4, 8, 3, Device::cpu()).groups(2).padding(1)).add(nn::Flatten::default());
    assert_eq!(m.named_parameters()[0].1.shape(), [8, 2, 3, 3]);
    m.freeze();
    let y = m.forward(&Tensor::ones([1, 4, 5, 5], Device::cpu()))?.sum(());
    assert!(y.backward().is_err());
    m.unfreeze();
    let grads = m.forward(&Tensor::ones([1, 4, 5, 5], Device::cpu()))?.sum(()).backward()?;
    assert!(m.parameters()[0].grad(&grads).is_some());
    m.to_dtype(DType::F64)?;
    assert_eq!(m.parameters()[1].dtype(), DType::F64);
    assert!(nn::Conv2d::try_new(4, 8, 3, Device::cpu())?.try_groups(3).is_err());
    assert!(nn::GroupNorm::try_new(3, 4, Device::cpu()).is_err());
    Ok(())
}

#[test]
fn cells_keep_their_value_when_an_update_fails() -> Result<()> {
    let p = param(2);
    assert!(p.update(|t| t.try_reshape([1, 2])).is_err());
    assert!(p.update(|t| t.try_cast(DType::F64)).is_err());
    assert!(p.update(|_| Err(Error::argument("test", "no"))).is_err());
    assert_eq!(p.value().to_vec::<f32>()?, [1.0, 1.0]);
    p.update(|t| t.try_mul(3.0))?;
    assert_eq!(p.value().to_vec::<f32>()?, [3.0, 3.0]);
    Ok(())
}

#[test]
fn running_statistics_do_not_pile_up() -> Result<()> {
    // Without a step of an optimizer that would compute them.
    let norm = nn::BatchNorm1d::new(4, Device::cpu());
    for _ in 0..100 {
        norm.forward(&Tensor::uniform([8, 4], 0.0, 1.0, Device::cpu()))?;
    }
    // 0.9^100 of the first values is left.
    let (mean, var) = (norm.running_mean().unwrap().get(), norm.running_var().unwrap().get());
    assert!(mean.to_vec::<f32>()?.iter().all(|m| (0.3..0.7).contains(m)), "{mean}");
    assert!(var.to_vec::<f32>()?.iter().all(|v| (0.03..0.15).contains(v)), "{var}");
    Ok(())
}

//! Products, convolutions, pooling, patches and resampling against values and gradients from PyTorch (`tests/golden/gen_conv_pool.py`).

use fornax::{ConvOptions, ConvOptions1d, DType, Device, Interpolation, PoolOptions, Resize, Result, Tensor};
use safetensors::SafeTensors;

type Build = fn(&[Tensor]) -> Result<Tensor>;

fn conv(stride: [usize; 2], padding: [usize; 2], dilation: [usize; 2], groups: usize) -> ConvOptions {
    ConvOptions { stride: stride.into(), padding: padding.into(), dilation: dilation.into(), groups }
}

fn conv1(stride: usize, padding: usize, dilation: usize, groups: usize) -> ConvOptions1d {
    ConvOptions1d { stride, padding, dilation, groups }
}

fn pool(stride: impl Into<fornax::Pair>, padding: [usize; 2], ceil_mode: bool) -> PoolOptions {
    PoolOptions { stride: Some(stride.into()), padding: padding.into(), ceil_mode, ..PoolOptions::default() }
}

const EQUATIONS: [&str; 21] = [
    "ij,jk->ik",
    "ij,jk",
    "ba,cb",
    "ii",
    "ii->i",
    "iji->j",
    "bij,bjk->bik",
    "bhid,bhjd->bhij",
    "bihd,bjhd->bhij",
    "...ij,...jk->...ik",
    "...ij->...ji",
    "i,j->ij",
    "i,i->",
    "ijk,jil->kl",
    "ij,kl,jl->ik",
    "bn,anm,bm->ba",
    "i...,i...->...",
    "ij,ij->ij",
    "ij,i->j",
    "ijij->ij",
    "i,ij",
];

/// The same calls as in the generator.
const CASES: &[(&str, Build)] = &[
    ("matmul_vector_batch", |t| t[0].try_matmul(&t[1])),
    ("matmul_batch_vector", |t| t[0].try_matmul(&t[1])),
    ("matmul_broadcast", |t| t[0].try_matmul(&t[1])),
    ("matmul_fold", |t| t[0].try_matmul(&t[1])),
    ("matmul_odd", |t| t[0].try_matmul(&t[1])),
    ("linear", |t| t[0].try_linear(&t[1], Some(&t[2]))),
    ("conv2d_plain", |t| t[0].try_conv2d(&t[1], Some(&t[2]), ConvOptions::default())),
    ("conv2d_odd", |t| t[0].try_conv2d(&t[1], Some(&t[2]), conv([2, 3], [2, 1], [1, 2], 2))),
    ("conv2d_depthwise", |t| t[0].try_conv2d(&t[1], None, conv([1, 2], [1, 1], [2, 1], 4))),
    ("conv2d_one", |t| t[0].try_conv2d(&t[1], None, ConvOptions::default())),
    ("conv2d_one_step", |t| t[0].try_conv2d(&t[1], None, conv([2, 2], [0, 0], [1, 1], 1))),
    ("conv2d_large_kernel", |t| t[0].try_conv2d(&t[1], None, conv([1, 1], [3, 3], [1, 1], 1))),
    ("conv2d_deep", |t| t[0].try_conv2d(&t[1], None, conv([1, 1], [1, 1], [1, 1], 1))),
    ("conv1d", |t| t[0].try_conv1d(&t[1], Some(&t[2]), conv1(2, 2, 2, 2))),
    ("conv_transpose2d", |t| t[0].try_conv_transpose2d(&t[1], Some(&t[2]), conv([2, 3], [1, 0], [1, 1], 2), [1, 2])),
    ("conv_transpose2d_dilated", |t| t[0].try_conv_transpose2d(&t[1], None, conv([1, 1], [1, 1], [2, 2], 1), 1)),
    ("conv_transpose1d", |t| t[0].try_conv_transpose1d(&t[1], Some(&t[2]), conv1(3, 1, 1, 1), 2)),
    ("max_pool2d", |t| t[0].try_max_pool2d(2, PoolOptions::default())),
    ("max_pool2d_overlap", |t| t[0].try_max_pool2d(3, pool([2, 1], [1, 1], false))),
    ("max_pool2d_ceil", |t| t[0].try_max_pool2d([3, 2], PoolOptions { dilation: [2, 1].into(), ..pool([2, 3], [1, 0], true) })),
    ("max_pool1d", |t| t[0].try_max_pool1d(3, pool(2, [1, 1], true))),
    ("avg_pool2d", |t| t[0].try_avg_pool2d([2, 3], PoolOptions::default())),
    ("avg_pool2d_pad", |t| t[0].try_avg_pool2d(3, pool(2, [1, 1], true))),
    ("avg_pool2d_nopad", |t| t[0].try_avg_pool2d(3, PoolOptions { count_include_pad: false, ..pool(2, [1, 1], true) })),
    ("avg_pool1d", |t| t[0].try_avg_pool1d(4, pool(3, [2, 2], true))),
    ("adaptive_avg_pool2d", |t| t[0].try_adaptive_avg_pool2d([3, 2])),
    ("adaptive_avg_pool2d_up", |t| t[0].try_adaptive_avg_pool2d([5, 6])),
    ("adaptive_max_pool2d", |t| t[0].try_adaptive_max_pool2d([3, 4])),
    ("adaptive_avg_pool1d", |t| t[0].try_adaptive_avg_pool1d(4)),
    ("adaptive_max_pool1d", |t| t[0].try_adaptive_max_pool1d(3)),
    ("unfold", |t| t[0].try_unfold([3, 2], conv([2, 1], [1, 0], [1, 2], 1))),
    ("fold", |t| t[0].try_fold([7, 6], [3, 2], conv([2, 1], [1, 0], [1, 2], 1))),
    ("nearest_up", |t| t[0].try_interpolate([8, 11], Interpolation::Nearest, false)),
    ("nearest_down", |t| t[0].try_interpolate([3, 3], Interpolation::Nearest, false)),
    ("nearest_double", |t| t[0].try_interpolate(2.0, Interpolation::Nearest, false)),
    ("nearest_factor", |t| t[0].try_interpolate(Resize::By([1.7, 0.6]), Interpolation::Nearest, false)),
    ("bilinear_up", |t| t[0].try_interpolate([8, 11], Interpolation::Bilinear, false)),
    ("bilinear_down", |t| t[0].try_interpolate([3, 4], Interpolation::Bilinear, false)),
    ("bilinear_corners", |t| t[0].try_interpolate([8, 3], Interpolation::Bilinear, true)),
    ("bilinear_factor", |t| t[0].try_interpolate(Resize::By([1.7, 2.0]), Interpolation::Bilinear, false)),
    ("bicubic_up", |t| t[0].try_interpolate([9, 7], Interpolation::Bicubic, false)),
    ("bicubic_corners", |t| t[0].try_interpolate([4, 11], Interpolation::Bicubic, true)),
    ("bicubic_factor", |t| t[0].try_interpolate(Resize::By([0.7, 1.3]), Interpolation::Bicubic, false)),
    ("linear_1d", |t| t[0].try_interpolate([1, 12], Interpolation::Bilinear, false)),
    ("nearest_1d", |t| t[0].try_interpolate([1, 10], Interpolation::Nearest, false)),
];

/// Shape and values of a tensor of the file.
fn get(file: &SafeTensors, name: &str) -> Option<(Vec<usize>, Vec<f32>)> {
    let t = file.tensor(name).ok()?;
    Some((t.shape().to_vec(), t.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()))
}

/// The largest difference, relative to the largest value.
fn difference(got: &Tensor, expected: &(Vec<usize>, Vec<f32>)) -> Result<f64> {
    assert_eq!(got.dims(), expected.0);
    let got = got.to_vec::<f64>()?;
    let scale = expected.1.iter().fold(1.0f64, |m, v| m.max(v.abs() as f64));
    Ok(got.iter().zip(&expected.1).fold(0.0f64, |m, (g, &e)| m.max((g - e as f64).abs() / scale)))
}

fn run(file: &SafeTensors, name: &str, build: &dyn Fn(&[Tensor]) -> Result<Tensor>, dtype: DType, device: Device) -> Result<f64> {
    let mut inputs = Vec::new();
    while let Some((shape, values)) = get(file, &format!("{name}/in{}", inputs.len())) {
        inputs.push(Tensor::from_vec(values, shape, device)?.try_cast(dtype)?.requires_grad());
    }
    let y = build(&inputs)?;
    let Some(out) = get(file, &format!("{name}/out")) else { panic!("{name} is not in the golden file") };
    let mut worst = difference(&y, &out)?;
    let (shape, cot) = get(file, &format!("{name}/cot")).unwrap();
    let cot = Tensor::from_vec(cot, shape, device)?.try_cast(dtype)?;
    let leaves: Vec<&Tensor> = inputs.iter().collect();
    for (i, g) in fornax::grad_with(&[&y], &[Some(&cot)], &leaves)?.iter().enumerate() {
        let g = g.as_ref().unwrap_or_else(|| panic!("{name}: no gradient of input {i}"));
        worst = worst.max(difference(g, &get(file, &format!("{name}/grad{i}")).unwrap())?);
    }
    Ok(worst)
}

fn check(dtype: DType, device: Device, tolerance: f64) {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/conv_pool.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut wrong = Vec::new();
    let mut one = |name: &str, build: &dyn Fn(&[Tensor]) -> Result<Tensor>| match run(&file, name, build, dtype, device) {
        Ok(d) if d <= tolerance => {}
        Ok(d) => wrong.push(format!("{name}: off by {d:e}")),
        Err(e) => wrong.push(format!("{name}: {e}")),
    };
    for (name, build) in CASES {
        one(name, build);
    }
    for (i, equation) in EQUATIONS.iter().enumerate() {
        one(&format!("einsum{i}"), &|t| Tensor::try_einsum(equation, &t.iter().collect::<Vec<_>>()));
    }
    let cases = file.names().iter().filter(|n| n.ends_with("/out")).count();
    assert_eq!(cases, CASES.len() + EQUATIONS.len(), "cases in the golden file");
    assert!(wrong.is_empty(), "on {device} in {dtype}:\n{}", wrong.join("\n"));
}

#[test]
fn products_and_images_as_pytorch_f32() {
    check(DType::F32, Device::cpu(), 2e-6);
}

#[test]
fn products_and_images_as_pytorch_f64() {
    check(DType::F64, Device::cpu(), 2e-7);
}

#[test]
fn products_and_images_as_pytorch_gpu() {
    match Device::gpu(0) {
        Ok(gpu) => check(DType::F32, gpu, 5e-6),
        Err(e) if std::env::var_os("FORNAX_REQUIRE_GPU").is_some() => panic!("{e}"),
        Err(e) => eprintln!("skipped: {e}"),
    }
}

//! Products with quantised weights, in the op harness.

use crate::harness::*;
use fornax::quant::{self, DoubleQuant, Quantized};
use fornax::{Device, Result, Tensor};

/// The forms of a weight.
#[derive(Clone, Copy, Debug)]
enum Form {
    Int8,
    Nf4(usize),
    Double(usize),
}

/// Reproducible numbers.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng(seed);
    (0..n).map(|_| (rng.unit() * 2.0 - 1.0) as f32).collect()
}

fn weight(form: Form, n: usize, k: usize, device: Device) -> Result<Quantized> {
    let rows = noise(n, 5);
    let w: Vec<f32> = noise(n * k, 9).iter().enumerate().map(|(e, v)| v * (0.5 + rows[e / k].abs())).collect();
    let w = Tensor::from_vec(w, [n, k], Device::cpu())?;
    let q = match form {
        Form::Int8 => quant::int8(&w)?,
        Form::Nf4(block) => quant::nf4(&w, block, false)?,
        Form::Double(block) => quant::nf4(&w, block, true)?,
    };
    let to = |t: &Tensor| t.try_to(device);
    let (codes, scales) = (to(q.codes())?, to(q.scales())?);
    match q.double() {
        _ if q.block_size().is_none() => Quantized::int8(codes, scales),
        None => Quantized::nf4(codes, scales, q.shape(), q.block_size().unwrap_or(64)),
        Some(d) => {
            let double = DoubleQuant { map: to(&d.map)?, absmax: to(&d.absmax)?, ..d.clone() };
            Quantized::nf4_double(codes, scales, q.shape(), q.block_size().unwrap_or(64), double)
        }
    }
}

fn product(form: Form, m: usize, n: usize, k: usize) -> Case {
    case(format!("qmatmul {form:?} {m} by [{n}, {k}]"), &[real(&[m, k])], move |t| t[0].try_qmatmul(&weight(form, n, k, t[0].device())?))
        .oracle(move |a| {
            let w = weight(form, n, k, Device::cpu()).and_then(|w| w.dequantize()?.to_vec::<f64>()).expect("a weight");
            (0..m * n).map(|i| (0..k).map(|p| a[0].v[i / n * k + p] * w[i % n * k + p]).sum()).collect()
        })
        .tol(1e-4)
}

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for form in [Form::Int8, Form::Nf4(64), Form::Nf4(32), Form::Double(64)] {
        all.push(product(form, 2, 3, 64));
    }
    // Blocks that cross rows, an odd number of elements, groups of four that do not.
    for (form, m, n, k) in [(Form::Int8, 1, 3, 7), (Form::Nf4(64), 2, 3, 37), (Form::Double(64), 5, 4, 96), (Form::Nf4(32), 1, 1, 1)] {
        all.push(product(form, m, n, k));
    }
    // Across tiles: rows, columns, terms in parts; a row alone.
    for form in [Form::Int8, Form::Nf4(64), Form::Double(64)] {
        all.push(product(form, 70, 67, 128).once().no_half());
        all.push(product(form, 1, 70, 192).once().no_half());
        all.push(product(form, 6, 5, 2048).once().no_half());
    }
    all.push(product(Form::Nf4(128), 3, 9, 256).once());
    all.push(product(Form::Double(64), 300, 130, 576).large());
    all.push(product(Form::Nf4(64), 9, 1030, 576).large());
    all.push(product(Form::Nf4(64), 0, 3, 64).flat());
    all.push(
        case("qmatmul with a tail", &[real(&[2, 3, 64]), real(&[5]), real(&[2, 3, 5]), real(&[5]), real(&[5])], |t| {
            let y = t[0].try_qmatmul(&weight(Form::Double(64), 5, 64, t[0].device())?)?;
            // As many operands as an epilogue takes.
            y.try_add(&t[1])?.try_silu()?.try_mul(&t[2])?.try_add(&t[3])
        })
        .tol(1e-4),
    );
    all
}

#[test]
fn quantised_products() {
    check_all(&cases(), &[("kernel = decomposition", 20), ("gradient", 40), ("gpu = cpu", 17), ("gpu gradient", 17)]);
}

#[test]
fn wrong_use_is_an_error() {
    let d = Device::cpu();
    let q = weight(Form::Nf4(64), 3, 64, d).unwrap();
    let message = |e: fornax::Error| e.to_string();
    assert!(message(Tensor::ones([2, 63], d).try_qmatmul(&q).unwrap_err()).contains("[.., 64]"));
    assert!(message(Tensor::ones((), d).try_qmatmul(&q).unwrap_err()).contains("qmatmul"));
    assert!(message(Tensor::ones([1, 64], (fornax::DType::I32, d)).try_qmatmul(&q).unwrap_err()).contains("float"));
    let bytes = |n: usize| Tensor::zeros([n, 1], (fornax::DType::U8, d));
    let floats = |n: usize| Tensor::zeros(n, d);
    assert!(message(Quantized::nf4(bytes(31), floats(1), [1, 64], 64).unwrap_err()).contains("32 bytes"));
    assert!(message(Quantized::nf4(bytes(32), floats(2), [1, 64], 64).unwrap_err()).contains("1 scales"));
    assert!(message(Quantized::nf4(bytes(32), floats(1), [1, 64], 48).unwrap_err()).contains("block size"));
    assert!(message(Quantized::nf4(bytes(32), floats(1), [usize::MAX, 64], 64).unwrap_err()).contains(""));
    assert!(Quantized::nf4(floats(32), floats(1), [1, 64], 64).is_err());
    assert!(Quantized::int8(bytes(4), floats(3)).is_err());
    let double = DoubleQuant { map: floats(255), absmax: floats(1), block_size: 256, offset: 0.0 };
    assert!(message(Quantized::nf4_double(bytes(32), bytes(1), [1, 64], 64, double.clone()).unwrap_err()).contains("[256]"));
    let double = DoubleQuant { map: floats(256), absmax: floats(2), ..double };
    assert!(message(Quantized::nf4_double(bytes(32), bytes(1), [1, 64], 64, double).unwrap_err()).contains("1 nested"));
    assert!(message(quant::nf4(&Tensor::full([2, 64], f32::NAN, d), 64, true).unwrap_err()).contains("NaN"));
    assert!(message(quant::int8(&Tensor::ones([64], d)).unwrap_err()).contains("[outputs, inputs]"));
    // A weight wants no gradient, and gives none.
    let x = Tensor::ones([1, 64], d).requires_grad();
    let y = x.qmatmul(&q);
    assert!(y.is_differentiable() && !q.scales().is_differentiable());
}

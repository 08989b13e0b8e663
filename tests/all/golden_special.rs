//! Every pointwise function where it is hard: signed zeros, infinities, NaN, denormals, large arguments; values and gradients against PyTorch, on both
//! backends. The file comes from `tests/golden/gen_special.py`. What may differ is said here, and in the README under "What differs between devices".

use crate::harness::gpu;
use fornax::{CrossEntropy, DType, Device, PoolOptions, Reduction, Result, Tensor, grad};
use safetensors::{Dtype, SafeTensors};

struct Golden {
    bytes: Vec<u8>,
}

impl Golden {
    fn open() -> Golden {
        Golden { bytes: std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/special.safetensors")).unwrap() }
    }

    fn get(&self, name: &str) -> Option<Vec<f32>> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).ok()?;
        Some(match view.dtype() {
            Dtype::F32 => view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            _ => view.data().iter().map(|&b| b as f32).collect(),
        })
    }
}

type Function = fn(&Tensor) -> Result<Tensor>;
type Function2 = fn(&Tensor, &Tensor) -> Result<Tensor>;

/// Name in the file, function, error allowed in ulp on the CPU and on the GPU (0: exactly rounded).
const ONE: &[(&str, Function, f64, f64)] = &[
    ("neg", Tensor::try_neg, 0.0, 0.0),
    ("abs", Tensor::try_abs, 0.0, 0.0),
    ("sign", Tensor::try_sign, 0.0, 0.0),
    ("square", Tensor::try_square, 0.0, 0.0),
    ("recip", Tensor::try_recip, 0.0, 2.5),
    ("sqrt", Tensor::try_sqrt, 0.0, 2.5),
    ("rsqrt", Tensor::try_rsqrt, 1.0, 3.0),
    ("exp", Tensor::try_exp, 2.0, 2.0),
    ("exp2", Tensor::try_exp2, 2.0, 2.0),
    ("expm1", Tensor::try_expm1, 2.0, 2.0),
    ("log", Tensor::try_log, 2.0, 2.0),
    ("log2", Tensor::try_log2, 2.0, 2.0),
    ("log10", Tensor::try_log10, 2.0, 2.0),
    ("log1p", Tensor::try_log1p, 2.0, 2.0),
    ("sin", Tensor::try_sin, 2.0, 2.0),
    ("cos", Tensor::try_cos, 2.0, 2.0),
    ("tan", Tensor::try_tan, 2.0, 4.0),
    ("asin", Tensor::try_asin, 2.0, 4.0),
    ("acos", Tensor::try_acos, 2.0, 4.0),
    ("atan", Tensor::try_atan, 2.0, 4.0),
    ("sinh", Tensor::try_sinh, 2.0, 4.0),
    ("cosh", Tensor::try_cosh, 2.0, 4.0),
    ("tanh", Tensor::try_tanh, 2.0, 4.0),
    ("asinh", Tensor::try_asinh, 2.0, 4.0),
    ("acosh", Tensor::try_acosh, 2.0, 4.0),
    ("atanh", Tensor::try_atanh, 2.0, 4.0),
    ("erf", Tensor::try_erf, 2.0, 4.0),
    ("floor", Tensor::try_floor, 0.0, 0.0),
    ("ceil", Tensor::try_ceil, 0.0, 0.0),
    ("round", Tensor::try_round, 0.0, 0.0),
    ("trunc", Tensor::try_trunc, 0.0, 0.0),
    ("fract", Tensor::try_fract, 0.0, 0.0),
    ("isnan", Tensor::try_isnan, 0.0, 0.0),
    ("isinf", Tensor::try_isinf, 0.0, 0.0),
    ("logical_not", Tensor::try_logical_not, 0.0, 0.0),
    ("difference", |x| x.try_sub(x), 0.0, 0.0),
    ("quotient", |x| x.try_div(x), 0.0, 0.0),
    ("nought", |x| x.try_mul(0.0), 0.0, 0.0),
    ("cast_f16", |x| x.try_cast(DType::F16)?.try_cast(DType::F32), 0.0, 0.0),
    ("cast_bf16", |x| x.try_cast(DType::BF16)?.try_cast(DType::F32), 0.0, 0.0),
    ("cast_bool", |x| x.try_cast(DType::Bool)?.try_cast(DType::F32), 0.0, 0.0),
    ("relu", Tensor::try_relu, 0.0, 0.0),
    ("sigmoid", Tensor::try_sigmoid, 6.0, 6.0),
    ("silu", Tensor::try_silu, 6.0, 6.0),
    ("gelu", Tensor::try_gelu, 2.0, 2.0),
    ("gelu_tanh", Tensor::try_gelu_tanh, 2.0, 2.0),
    ("mish", Tensor::try_mish, 6.0, 6.0),
    ("selu", Tensor::try_selu, 6.0, 6.0),
    ("hardsigmoid", Tensor::try_hardsigmoid, 6.0, 6.0),
    ("hardswish", Tensor::try_hardswish, 6.0, 6.0),
    ("softsign", Tensor::try_softsign, 6.0, 6.0),
    ("leaky_relu", |x| x.try_leaky_relu(0.1), 1.0, 1.0),
    ("elu", |x| x.try_elu(1.5), 6.0, 6.0),
    ("softplus", |x| x.try_softplus(2.0), 6.0, 6.0),
    ("clamp", |x| x.try_clamp(-1, 1), 0.0, 0.0),
    ("maximum_0", |x| x.try_maximum(0.0), 0.0, 0.0),
    ("minimum_0", |x| x.try_minimum(0.0), 0.0, 0.0),
    ("square_pow", |x| x.try_pow(2), 0.0, 0.0),
    ("cube", |x| x.try_pow(3), 1.5, 1.5),
    ("fourth", |x| x.try_pow(4), 1.0, 2.0),
    ("root", |x| x.try_pow(0.5), 0.0, 2.5),
    ("inverse", |x| x.try_pow(-1), 0.0, 2.5),
    ("third", |x| x.try_pow(-3), 1.0, 2.0),
    ("odd", |x| x.try_pow(2.5), 1.0, 2.0),
];

const TWO: &[(&str, Function2, f64, f64)] = &[
    ("add", |a, b| a.try_add(b), 0.0, 0.0),
    ("sub", |a, b| a.try_sub(b), 0.0, 0.0),
    ("mul", |a, b| a.try_mul(b), 0.0, 0.0),
    ("div", |a, b| a.try_div(b), 0.0, 2.5),
    ("pow", |a, b| a.try_pow(b), 1.0, 2.0),
    ("maximum", |a, b| a.try_maximum(b), 0.0, 0.0),
    ("minimum", |a, b| a.try_minimum(b), 0.0, 0.0),
    ("atan2", |a, b| a.try_atan2(b), 2.0, 4.0),
    ("fmod", |a, b| a.try_fmod(b), 0.0, 0.0),
    ("rem", |a, b| a.try_rem(b), 0.0, 0.0),
    ("floor_div", |a, b| a.try_floor_div(b), 0.0, 0.0),
    ("eq", |a, b| a.try_eq(b), 0.0, 0.0),
    ("ne", |a, b| a.try_ne(b), 0.0, 0.0),
    ("lt", |a, b| a.try_lt(b), 0.0, 0.0),
    ("le", |a, b| a.try_le(b), 0.0, 0.0),
    ("gt", |a, b| a.try_gt(b), 0.0, 0.0),
    ("ge", |a, b| a.try_ge(b), 0.0, 0.0),
];

/// Functions whose gradients alone are checked here.
const GRADIENTS: &[(&str, Function, f64, f64)] = &[
    ("logsumexp", |x| Tensor::try_stack(&[x, &x.detach().try_neg()?, &x.try_mul(0.5)?], 1)?.try_logsumexp(1), 0.0, 0.0),
    (
        "softmax",
        |x| {
            Tensor::try_stack(&[x, &x.detach().try_mul(0.5)?, &x.detach().try_mul(0.25)?], 1)?
                .try_softmax(1)?
                .try_narrow(1, 0, 1)?
                .try_squeeze(1)
        },
        0.0,
        0.0,
    ),
];

/// A unit of the last place of a finite number.
fn ulp(x: f32) -> f64 {
    let exponent = (x.abs().max(f32::MIN_POSITIVE).to_bits() >> 23) as i32 - 150;
    (exponent as f64).exp2()
}

type Deviation = (&'static str, fn(f32) -> bool, &'static str);

/// Where values are not PyTorch's, and why.
const DEVIATIONS: &[Deviation] = &[("sign", f32::is_nan, "NaN, as in NumPy: a 0 would hide it")];

/// Where gradients are not PyTorch's, and why.
const GRADIENT_DEVIATIONS: &[Deviation] = &[
    ("abs", f32::is_nan, "NaN, as of sign"),
    ("acosh", |x| x == -1.0, "outside the domain, where the value is NaN: −∞ for ∞"),
    ("softsign", f32::is_infinite, "0, the limit, for NaN"),
];

fn deviates(list: &[Deviation], name: &str, args: &[&[f32]], i: usize) -> bool {
    list.iter().any(|(n, at, _)| *n == name && at(args[0][i]))
}

fn same(got: f32, want: f32) -> bool {
    got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan())
}

fn tiny(x: f32) -> bool {
    x != 0.0 && x.abs() < f32::MIN_POSITIVE
}

/// What is wrong with the results, as lines. `near` says whether a value may stand where these two were wanted.
fn compare(
    name: &str,
    args: &[&[f32]],
    got: &[f32],
    want: (&[f32], &[f32]),
    near: &dyn Fn(usize, f32, f32, f32) -> bool,
    worst: &mut f64,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for (i, (&g, (&y, &t))) in got.iter().zip(want.0.iter().zip(want.1)).enumerate() {
        let right = same(g, y) || near(i, g, y, t);
        if right && g.is_finite() && t.is_finite() && y.is_finite() && y != 0.0 && !tiny(y) && !args.iter().any(|a| tiny(a[i])) {
            *worst = worst.max((g as f64 - t as f64).abs() / ulp(t));
        }
        if !right {
            let at: Vec<String> = args.iter().map(|a| format!("{:e}", a[i])).collect();
            wrong.push(format!("{name}({}) = {g:e}, PyTorch {y:e}, in f64 {t:e}", at.join(", ")));
        }
    }
    wrong
}

/// Whether a GPU may have taken a denormal argument or result for zero.
fn flushed(args: &[&[f32]], i: usize, g: f32, y: f32) -> bool {
    args.iter().any(|a| tiny(a[i])) || (tiny(y) && g == 0.0)
}

fn report(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} deviations:\n{}", wrong.len(), wrong.iter().take(400).cloned().collect::<Vec<_>>().join("\n"));
}

fn devices() -> impl Iterator<Item = Device> {
    [Some(Device::cpu()), gpu()].into_iter().flatten()
}

#[test]
fn values_at_special_points() -> Result<()> {
    let golden = Golden::open();
    let mut wrong = Vec::new();
    let mut count = 0;
    for device in devices() {
        let on_gpu = device != Device::cpu();
        let mut check = |name: &str, args: &[&[f32]], y: Tensor, limit: f64| -> Result<()> {
            let got = y.try_cast(DType::F32)?.to_vec::<f32>()?;
            let want = golden.get(&format!("{name}.y")).unwrap();
            let exact = golden.get(&format!("{name}.t")).unwrap_or_else(|| want.clone());
            let near = |i: usize, g: f32, y: f32, t: f32| {
                // GELU is 0 times ∞ where it is small: its error is measured against its argument.
                let size = if name.starts_with("gelu") { t.abs().max(args[0][i].abs()) } else { t };
                let off = if g.is_finite() && t.is_finite() { (g as f64 - t as f64).abs() / ulp(size) } else { f64::INFINITY };
                let close = off <= limit && (g != 0.0 || t == 0.0 || tiny(t)) && g.is_sign_negative() == t.is_sign_negative();
                // What is made of several functions loses digits among the denormals.
                let faint = limit > 0.0 && tiny(t) && (g - t).abs() <= 0.5 * t.abs();
                close || faint || same(g, t) || (on_gpu && flushed(args, i, g, y)) || deviates(DEVIATIONS, name, args, i)
            };
            let mut worst = 0.0;
            let lines = compare(name, args, &got, (&want, &exact), &near, &mut worst);
            if std::env::var("SHOW_ULP").is_ok() {
                println!("{device} {name}: {worst:.2} ulp of {limit}");
            }
            count += got.len();
            wrong.extend(lines.into_iter().map(|l| format!("{device}: {l}")));
            Ok(())
        };
        let x = golden.get("x").unwrap();
        let t = Tensor::from_slice(&x, x.len(), device)?;
        for &(name, f, cpu, gpu) in ONE {
            check(name, &[&x], f(&t)?, if on_gpu { gpu } else { cpu })?;
        }
        let (a, b) = (golden.get("a").unwrap(), golden.get("b").unwrap());
        let (ta, tb) = (Tensor::from_slice(&a, a.len(), device)?, Tensor::from_slice(&b, b.len(), device)?);
        for &(name, f, cpu, gpu) in TWO {
            check(name, &[&a, &b], f(&ta, &tb)?, if on_gpu { gpu } else { cpu })?;
        }
    }
    report(&wrong);
    Ok(())
}

/// Gradients of what has one: the same class (NaN, infinity, sign) as PyTorch's, and near it.
#[test]
fn gradients_at_special_points() -> Result<()> {
    let golden = Golden::open();
    let mut wrong = Vec::new();
    for device in devices() {
        let on_gpu = device != Device::cpu();
        let mut check = |name: &str, suffix: &str, args: &[&[f32]], got: Option<&Tensor>| -> Result<()> {
            let Some(want) = golden.get(&format!("{name}.g{suffix}")) else { return Ok(()) };
            let exact = golden.get(&format!("{name}.gt{suffix}")).unwrap();
            let got = got.unwrap_or_else(|| panic!("{name}: no gradient")).to_vec::<f32>()?;
            // Where PyTorch's own f32 leaves the range and its f64 does not, either will do.
            let near = |i: usize, g: f32, y: f32, t: f32| {
                let close = |w: f32| g == w || (g.is_finite() && (g - w).abs() <= 2e-5 * w.abs() + 1e-6);
                close(y)
                    || close(t)
                    || (t.is_nan() && g.is_nan())
                    || (on_gpu && flushed(args, i, g, y))
                    || deviates(GRADIENT_DEVIATIONS, name, args, i)
            };
            let lines = compare(&format!("gradient of {name} by {suffix}"), args, &got, (&want, &exact), &near, &mut 0.0);
            wrong.extend(lines.into_iter().map(|l| format!("{device}: {l}")));
            Ok(())
        };
        let x = golden.get("x").unwrap();
        for &(name, f, ..) in ONE.iter().chain(GRADIENTS) {
            if golden.get(&format!("{name}.g")).is_some() {
                let t = Tensor::from_slice(&x, x.len(), device)?.requires_grad();
                check(name, "", &[&x], grad(&[&f(&t)?.try_sum(())?], &[&t])?[0].as_ref())?;
            }
        }
        let (a, b) = (golden.get("a").unwrap(), golden.get("b").unwrap());
        for &(name, f, ..) in TWO {
            if golden.get(&format!("{name}.ga")).is_some() {
                let (ta, tb) =
                    (Tensor::from_slice(&a, a.len(), device)?.requires_grad(), Tensor::from_slice(&b, b.len(), device)?.requires_grad());
                let grads = grad(&[&f(&ta, &tb)?.try_sum(())?], &[&ta, &tb])?;
                check(name, "a", &[&a, &b], grads[0].as_ref())?;
                check(name, "b", &[&a, &b], grads[1].as_ref())?;
            }
        }
    }
    report(&wrong);
    Ok(())
}

/// Reductions, norms, scans and the like over rows that hold infinities and NaN.
const ROWS: &[(&str, Function)] = &[
    ("softmax", |x| x.try_softmax(1)),
    ("log_softmax", |x| x.try_log_softmax(1)),
    ("row_logsumexp", |x| x.try_logsumexp(1)),
    ("max", |x| x.try_max(1)),
    ("min", |x| x.try_min(1)),
    ("argmax", |x| x.try_argmax(1)),
    ("sum", |x| x.try_sum(1)),
    ("mean", |x| x.try_mean(1)),
    ("prod", |x| x.try_prod(1)),
    ("layer_norm", |x| x.try_layer_norm(4, None, None, 1e-5)),
    ("rms_norm", |x| x.try_rms_norm(4, None, 1e-6)),
    ("max_pool", |x| x.try_unsqueeze(1)?.try_max_pool1d(2, PoolOptions::default())?.try_squeeze(1)),
    ("avg_pool", |x| x.try_unsqueeze(1)?.try_avg_pool1d(2, PoolOptions::default())?.try_squeeze(1)),
    ("cumsum", |x| x.try_cumsum(1)),
    ("cumprod", |x| x.try_cumprod(1)),
    ("cummax", |x| Ok(x.try_cummax(1)?.0)),
    ("sort", |x| Ok(x.try_sort(1, false)?.0)),
    ("var", |x| x.try_var(1, 1.0)),
    ("norm", |x| x.try_norm(2.0, 1)),
    ("cross_entropy", |x| {
        let targets = Tensor::try_ones(x.dims()[0], (DType::I32, x.device()))?;
        x.try_cross_entropy(&targets, &CrossEntropy { reduction: Reduction::None, ..CrossEntropy::default() })
    }),
    ("any", |x| x.try_any(1)),
    ("all", |x| x.try_all(1)),
];

#[test]
fn rows_with_infinities_and_nan() -> Result<()> {
    let golden = Golden::open();
    let x = golden.get("rows").unwrap();
    let mut wrong = Vec::new();
    for device in devices() {
        let t = Tensor::from_slice(&x, [x.len() / 4, 4], device)?;
        for &(name, f) in ROWS {
            let got = f(&t)?.try_cast(DType::F32)?.to_vec::<f32>()?;
            let (want, exact) = (golden.get(&format!("row.{name}.y")).unwrap(), golden.get(&format!("row.{name}.t")).unwrap());
            assert_eq!(got.len(), want.len(), "{name}");
            let per_row = want.len() / (x.len() / 4);
            // What a sum or product whose parts leave the range gives depends on their order.
            let ordered = ["sum", "mean", "layer_norm", "cumprod"].contains(&name);
            for (i, (&g, (&y, &t))) in got.iter().zip(want.iter().zip(&exact)).enumerate() {
                let close = |w: f32| g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= 1e-5 * w.abs() + 1e-37;
                let r = i / per_row;
                if !(close(y) || close(t) || ordered && x[4 * r] == 3e38) {
                    wrong.push(format!(
                        "{device}: {name} of {:?} has {g:e} at {}, PyTorch {y:e}, in f64 {t:e}",
                        &x[4 * r..4 * r + 4],
                        i % per_row
                    ));
                }
            }
        }
    }
    report(&wrong);
    Ok(())
}

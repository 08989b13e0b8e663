//! Pointwise ops against `f64` functions of Rust.

use crate::harness::*;
use fornax::{DType, Device, Result, Tensor};

/// The error function by its series.
pub fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

type Unary = (&'static str, fn(&Tensor) -> Result<Tensor>, fn(f64) -> f64, f64, f64);

/// Name, method, function, domain: away from kinks, because differences straddle them.
const SMOOTH: &[Unary] = &[
    ("neg", Tensor::try_neg, |x| -x, -2.0, 2.0),
    ("abs", Tensor::try_abs, f64::abs, 0.1, 2.0),
    ("abs of negatives", Tensor::try_abs, f64::abs, -2.0, -0.1),
    ("exp", Tensor::try_exp, f64::exp, -3.0, 3.0),
    ("exp2", Tensor::try_exp2, f64::exp2, -3.0, 3.0),
    ("expm1", Tensor::try_expm1, f64::exp_m1, -1.0, 1.0),
    ("log", Tensor::try_log, f64::ln, 0.2, 5.0),
    ("log2", Tensor::try_log2, f64::log2, 0.2, 5.0),
    ("log10", Tensor::try_log10, f64::log10, 0.2, 5.0),
    ("log1p", Tensor::try_log1p, f64::ln_1p, -0.5, 3.0),
    ("sqrt", Tensor::try_sqrt, f64::sqrt, 0.2, 5.0),
    ("rsqrt", Tensor::try_rsqrt, |x| 1.0 / x.sqrt(), 0.2, 5.0),
    ("square", Tensor::try_square, |x| x * x, -2.0, 2.0),
    ("recip", Tensor::try_recip, |x| 1.0 / x, 0.3, 3.0),
    ("sin", Tensor::try_sin, f64::sin, -3.0, 3.0),
    ("cos", Tensor::try_cos, f64::cos, -3.0, 3.0),
    ("tan", Tensor::try_tan, f64::tan, -1.2, 1.2),
    ("asin", Tensor::try_asin, f64::asin, -0.9, 0.9),
    ("acos", Tensor::try_acos, f64::acos, -0.9, 0.9),
    ("atan", Tensor::try_atan, f64::atan, -3.0, 3.0),
    ("sinh", Tensor::try_sinh, f64::sinh, -2.0, 2.0),
    ("cosh", Tensor::try_cosh, f64::cosh, -2.0, 2.0),
    ("tanh", Tensor::try_tanh, f64::tanh, -3.0, 3.0),
    ("asinh", Tensor::try_asinh, f64::asinh, -3.0, 3.0),
    ("acosh", Tensor::try_acosh, f64::acosh, 1.2, 4.0),
    ("atanh", Tensor::try_atanh, f64::atanh, -0.9, 0.9),
    ("erf", Tensor::try_erf, erf, -2.5, 2.5),
    ("relu", Tensor::try_relu, |x| x.max(0.0), 0.1, 2.0),
    ("relu of negatives", Tensor::try_relu, |x| x.max(0.0), -2.0, -0.1),
    ("leaky_relu", |x| x.try_leaky_relu(0.1), |x| if x > 0.0 { x } else { 0.1 * x }, -2.0, -0.1),
    ("elu", |x| x.try_elu(1.5), |x| if x > 0.0 { x } else { 1.5 * x.exp_m1() }, -2.0, -0.1),
    ("elu of positives", |x| x.try_elu(1.5), |x| x, 0.1, 2.0),
    ("selu", Tensor::try_selu, |x| 1.0507009873554805 * if x > 0.0 { x } else { 1.6732632423543772 * x.exp_m1() }, -2.0, -0.1),
    ("gelu", Tensor::try_gelu, |x| 0.5 * x * (1.0 + erf(x / 2f64.sqrt())), -3.0, 3.0),
    (
        "gelu_tanh",
        Tensor::try_gelu_tanh,
        |x| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
        -3.0,
        3.0,
    ),
    ("silu", Tensor::try_silu, |x| x * sigmoid(x), -3.0, 3.0),
    ("mish", Tensor::try_mish, |x| x * x.exp().ln_1p().tanh(), -3.0, 3.0),
    ("softplus", |x| x.try_softplus(2.0), |x| (2.0 * x).exp().ln_1p() / 2.0, -2.0, 2.0),
    ("sigmoid", Tensor::try_sigmoid, sigmoid, -4.0, 4.0),
    ("hardswish", Tensor::try_hardswish, |x| x * ((x + 3.0).clamp(0.0, 6.0)) / 6.0, -2.5, 2.5),
    ("hardsigmoid", Tensor::try_hardsigmoid, |x| (x + 3.0).clamp(0.0, 6.0) / 6.0, -2.5, 2.5),
    ("softsign", Tensor::try_softsign, |x| x / (1.0 + x.abs()), 0.1, 3.0),
];

/// Steps: no derivative to check (it is 0 where there is one).
const STEPS: &[Unary] = &[
    ("sign", Tensor::try_sign, |x| if x == 0.0 { 0.0 } else { x.signum() }, -2.0, 2.0),
    ("floor", Tensor::try_floor, f64::floor, -4.0, 4.0),
    ("ceil", Tensor::try_ceil, f64::ceil, -4.0, 4.0),
    ("round", Tensor::try_round, f64::round_ties_even, -4.0, 4.0),
    ("trunc", Tensor::try_trunc, f64::trunc, -4.0, 4.0),
    ("fract", Tensor::try_fract, |x| x - x.trunc(), -4.0, 4.0),
    ("isnan", Tensor::try_isnan, |x| x.is_nan() as u8 as f64, -1.0, 1.0),
    ("isinf", Tensor::try_isinf, |x| x.is_infinite() as u8 as f64, -1.0, 1.0),
];

fn map(f: impl Fn(f64) -> f64 + 'static) -> impl Fn(&[Arr]) -> Vec<f64> {
    move |a| a[0].v.iter().map(|&x| f(x)).collect()
}

fn map2(f: impl Fn(f64, f64) -> f64 + 'static) -> impl Fn(&[Arr]) -> Vec<f64> {
    move |a| a[0].v.iter().zip(&a[1].v).map(|(&x, &y)| f(x, y)).collect()
}

pub fn unary() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(name, f, o, lo, hi) in SMOOTH {
        cases.push(case(name, &[within(lo, hi, &[2, 3])], move |t| f(&t[0])).oracle(map(o)));
    }
    for &(name, f, o, lo, hi) in STEPS {
        cases.push(case(name, &[within(lo, hi, &[5, 3])], move |t| f(&t[0])).oracle(map(o)).flat().no_half());
    }
    for &(name, f, o, lo, hi) in SMOOTH.iter().chain(STEPS) {
        for shape in [&[][..], &[0], &[1], &[3, 0, 2], &[13], &[5, 7, 11], &[70, 1031]] {
            cases.push(case(format!("{name} {shape:?}"), &[within(lo, hi, shape)], move |t| f(&t[0])).oracle(map(o)).large());
        }
    }
    cases
}

type Binary = (&'static str, fn(&Tensor, &Tensor) -> Result<Tensor>, fn(f64, f64) -> f64, (f64, f64), (f64, f64), bool);

fn truth(b: bool) -> f64 {
    b as u8 as f64
}

const BINARY: &[Binary] = &[
    ("add", |a, b| a.try_add(b), |a, b| a + b, (-2.0, 2.0), (-2.0, 2.0), true),
    ("sub", |a, b| a.try_sub(b), |a, b| a - b, (-2.0, 2.0), (-2.0, 2.0), true),
    ("mul", |a, b| a.try_mul(b), |a, b| a * b, (-2.0, 2.0), (-2.0, 2.0), true),
    ("div", |a, b| a.try_div(b), |a, b| a / b, (-2.0, 2.0), (0.5, 2.0), true),
    ("pow", |a, b| a.try_pow(b), f64::powf, (0.3, 2.0), (-2.0, 2.0), true),
    ("maximum", |a, b| a.try_maximum(b), f64::max, (-2.0, -0.1), (0.1, 2.0), true),
    ("minimum", |a, b| a.try_minimum(b), f64::min, (-2.0, -0.1), (0.1, 2.0), true),
    ("atan2", |a, b| a.try_atan2(b), f64::atan2, (0.2, 2.0), (0.2, 2.0), true),
    ("xlogy", |a, b| a.try_xlogy(b), |a, b| a * b.ln(), (-2.0, 2.0), (0.2, 4.0), true),
    ("rem", |a, b| a.try_rem(b), |a, b| a - (a / b).floor() * b, (-4.0, 4.0), (0.5, 2.0), false),
    ("fmod", |a, b| a.try_fmod(b), |a, b| a % b, (-4.0, 4.0), (0.5, 2.0), false),
    ("floor_div", |a, b| a.try_floor_div(b), |a, b| (a / b).floor(), (-4.0, 4.0), (0.5, 2.0), false),
    ("eq", |a, b| a.try_eq(b), |a, b| truth(a == b), (-2.0, 2.0), (-2.0, 2.0), false),
    ("ne", |a, b| a.try_ne(b), |a, b| truth(a != b), (-2.0, 2.0), (-2.0, 2.0), false),
    ("lt", |a, b| a.try_lt(b), |a, b| truth(a < b), (-2.0, 2.0), (-2.0, 2.0), false),
    ("le", |a, b| a.try_le(b), |a, b| truth(a <= b), (-2.0, 2.0), (-2.0, 2.0), false),
    ("gt", |a, b| a.try_gt(b), |a, b| truth(a > b), (-2.0, 2.0), (-2.0, 2.0), false),
    ("ge", |a, b| a.try_ge(b), |a, b| truth(a >= b), (-2.0, 2.0), (-2.0, 2.0), false),
];

pub fn binary() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(name, f, o, (a, b), (c, d), smooth) in BINARY {
        let small = case(name, &[within(a, b, &[2, 3]), within(c, d, &[2, 3])], move |t| f(&t[0], &t[1])).oracle(map2(o));
        cases.push(if smooth { small } else { small.flat().no_half() });
        for (l, r) in [(&[2, 3][..], &[3][..]), (&[2, 1], &[1, 3]), (&[], &[2, 2]), (&[4, 1, 2], &[3, 1])] {
            let ins = [within(a, b, l), within(c, d, r)];
            let broad = case(format!("{name} {l:?} {r:?}"), &ins, move |t| f(&t[0], &t[1]));
            cases.push(if smooth && l.len() < 3 { broad.no_half().no_gpu() } else { broad.large() });
        }
        for shape in [&[0][..], &[1], &[67, 991]] {
            let ins = [within(a, b, shape), within(c, d, shape)];
            cases.push(case(format!("{name} {shape:?}"), &ins, move |t| f(&t[0], &t[1])).oracle(map2(o)).large());
        }
    }
    let ints: &[(&str, fn(&Tensor, &Tensor) -> Result<Tensor>, fn(i64, i64) -> i64)] = &[
        ("bitand", |a, b| a.try_bitand(b), |a, b| a & b),
        ("bitor", |a, b| a.try_bitor(b), |a, b| a | b),
        ("bitxor", |a, b| a.try_bitxor(b), |a, b| a ^ b),
        ("add i32", |a, b| a.try_add(b), |a, b| a + b),
        ("mul i32", |a, b| a.try_mul(b), |a, b| a * b),
        ("rem i32", |a, b| a.try_rem(b), |a, b| a.rem_euclid(b)),
        ("fmod i32", |a, b| a.try_fmod(b), |a, b| a % b),
        ("floor_div i32", |a, b| a.try_floor_div(b), |a, b| a.div_euclid(b)),
        ("maximum i32", |a, b| a.try_maximum(b), |a, b| a.max(b)),
        ("minimum i32", |a, b| a.try_minimum(b), |a, b| a.min(b)),
        ("lt i32", |a, b| a.try_lt(b), |a, b| (a < b) as i64),
        ("shl", |a, b| a.try_shl(b), |a, b| a << b),
        ("shr", |a, b| a.try_shr(b), |a, b| a >> b),
    ];
    for &(name, f, o) in ints {
        let ins = [int(-100, 100, &[7, 11]), int(1, 9, &[7, 11])];
        let oracle = map2(move |a, b| o(a as i64, b as i64) as f64);
        cases.push(case(name, &ins, move |t| f(&t[0], &t[1])).oracle(oracle).flat().no_half());
    }
    let logic: &[(&str, fn(&Tensor, &Tensor) -> Result<Tensor>, fn(bool, bool) -> bool)] = &[
        ("logical_and", |a, b| a.try_logical_and(b), |a, b| a & b),
        ("logical_or", |a, b| a.try_logical_or(b), |a, b| a | b),
        ("logical_xor", |a, b| a.try_logical_xor(b), |a, b| a ^ b),
    ];
    for &(name, f, o) in logic {
        let oracle = map2(move |a, b| truth(o(a != 0.0, b != 0.0)));
        cases.push(case(name, &[bools(&[5, 7]), bools(&[5, 7])], move |t| f(&t[0], &t[1])).oracle(oracle).flat().no_half());
    }
    cases
}

pub fn others() -> Vec<Case> {
    vec![
        case("logical_not", &[bools(&[3, 5])], |t| t[0].try_logical_not()).oracle(map(|x| 1.0 - x)).flat(),
        case("bitnot", &[int(-9, 9, &[3, 5])], |t| t[0].try_bitnot()).oracle(map(|x| -x - 1.0)).flat(),
        case("neg i32", &[int(-9, 9, &[3, 5])], |t| t[0].try_neg()).oracle(map(|x| -x)).flat(),
        case("abs i32", &[int(-9, 9, &[3, 5])], |t| t[0].try_abs()).oracle(map(f64::abs)).flat(),
        case("add scalar", &[real(&[2, 3])], |t| t[0].try_add(1.5)).oracle(map(|x| x + 1.5)),
        case("mul scalar", &[real(&[2, 3])], |t| t[0].try_mul(-2)).oracle(map(|x| x * -2.0)),
        case("div scalar", &[real(&[2, 3])], |t| t[0].try_div(4)).oracle(map(|x| x / 4.0)),
        case("pow 2", &[real(&[2, 3])], |t| t[0].try_pow(2)).oracle(map(|x| x * x)),
        case("pow 3", &[real(&[2, 3])], |t| t[0].try_pow(3)).oracle(map(|x| x * x * x)),
        case("pow -1.5", &[within(0.5, 2.0, &[2, 3])], |t| t[0].try_pow(-1.5)).oracle(map(|x| x.powf(-1.5))),
        case("clamp", &[within(-0.9, 0.9, &[2, 3])], |t| t[0].try_clamp(-1, 1)).oracle(map(|x| x)),
        case("clamp cuts", &[within(1.1, 2.0, &[2, 3])], |t| t[0].try_clamp(-1, 1)).oracle(map(|_| 1.0)),
        case("clamp both", &[real(&[20])], |t| t[0].try_clamp(-1, 0.5)).oracle(map(|x| x.clamp(-1.0, 0.5))).flat(),
        case("where", &[bools(&[2, 3]), real(&[2, 3]), real(&[2, 3])], |t| t[0].try_where(&t[1], &t[2]))
            .oracle(|a| (0..a[0].v.len()).map(|i| if a[0].v[i] != 0.0 { a[1].v[i] } else { a[2].v[i] }).collect()),
        case("where broadcast", &[bools(&[2, 1]), real(&[3]), real(&[])], |t| t[0].try_where(&t[1], &t[2])),
        case("masked_fill", &[real(&[2, 3]), bools(&[2, 3])], |t| t[0].try_masked_fill(&t[1], -7.0))
            .oracle(|a| a[0].v.iter().zip(&a[1].v).map(|(&x, &m)| if m != 0.0 { -7.0 } else { x }).collect()),
        case("contiguous", &[real(&[3, 4])], |t| t[0].try_contiguous()).oracle(map(|x| x)),
        case("tril", &[real(&[4, 5])], |t| t[0].try_tril(1))
            .oracle(|a| (0..20).map(|i| if i % 5 <= i / 5 + 1 { a[0].v[i] } else { 0.0 }).collect()),
        case("triu", &[real(&[4, 5])], |t| t[0].try_triu(-1))
            .oracle(|a| (0..20).map(|i| if i % 5 + 1 >= i / 5 { a[0].v[i] } else { 0.0 }).collect()),
        case("tril batched", &[real(&[2, 3, 3])], |t| t[0].try_tril(0)),
        case("one_hot", &[int(0, 5, &[3, 2])], |t| t[0].try_one_hot(5))
            .oracle(|a| a[0].v.iter().flat_map(|&i| (0..5).map(move |k| truth(k as f64 == i))).collect())
            .flat(),
        case("cast to i32", &[within(-9.0, 9.0, &[3, 5])], |t| t[0].try_cast(DType::I32)).oracle(map(f64::trunc)).flat().no_half(),
        case("cast to bool", &[int(-1, 2, &[3, 5])], |t| t[0].try_cast(DType::Bool)).oracle(map(|x| truth(x != 0.0))).flat(),
        case("cast to u8", &[int(0, 200, &[3, 5])], |t| t[0].try_cast(DType::U8)).oracle(map(|x| x)).flat(),
        case("cast from i32", &[int(-9, 9, &[3, 5])], |t| t[0].try_cast(DType::F32)).oracle(map(|x| x)).flat(),
        case("cast to f16", &[real(&[3, 5])], |t| t[0].try_cast(DType::F16)).tol(1e-3).flat(),
        case("cast to bf16", &[real(&[3, 5])], |t| t[0].try_cast(DType::BF16)).tol(8e-3).flat(),
        case("a fused chain", &[real(&[2, 3]), real(&[3])], |t| {
            let x = t[0].try_mul(&t[1])?.try_add(1.0)?.try_tanh()?;
            x.try_mul(&x)?.try_sub(&t[0])?.try_sigmoid()
        }),
        case("operators", &[real(&[2, 3]), within(0.5, 1.0, &[2, 3])], |t| Ok(-((&t[0] + 1.0) * &t[1] - 2.0 / &t[1]) / (&t[1] + &t[1]))),
    ]
}

#[test]
fn unary_ops() {
    check_all(
        &unary(),
        &[("f32 = oracle", 300), ("gradient", 378), ("second derivative", 84), ("second, by element", 42), ("gpu = cpu", 40)],
    );
}

#[test]
fn binary_ops() {
    check_all(
        &binary(),
        &[("f32 = oracle", 60), ("gradient", 344), ("second derivative", 64), ("second, by element", 32), ("layout", 200)],
    );
}

#[test]
fn other_pointwise_ops() {
    check_all(&others(), &[("f32 = oracle", 20), ("gradient", 154), ("second derivative", 34), ("second, by element", 14)]);
}

#[test]
fn special_values() {
    let x = Tensor::from_vec(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0], 5, Device::cpu()).unwrap();
    let bits = |t: Tensor| t.to_vec::<f32>().unwrap();
    assert!(bits(x.maximum(0.0))[0].is_nan() && bits(x.minimum(0.0))[0].is_nan());
    assert!(bits(x.relu())[0].is_nan());
    assert_eq!(x.isnan().to_vec::<bool>().unwrap(), [true, false, false, false, false]);
    assert_eq!(x.isinf().to_vec::<bool>().unwrap(), [false, true, true, false, false]);
    assert_eq!(bits(x.sqrt())[1], f32::INFINITY);
    assert_eq!(bits(x.exp())[2], 0.0);
    assert_eq!(bits(x.sigmoid())[1..3], [1.0, 0.0]);
    assert_eq!(bits(x.tanh())[1..3], [1.0, -1.0]);
    assert_eq!(bits(x.neg())[3].to_bits(), 0.0f32.to_bits());
}

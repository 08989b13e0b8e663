//! The table and the reductions as users run them, on the CPU: values, dtypes, gradients of first and second order, edge cases.

use super::{Row, Rule, Side, apply, rows};
use crate::{DType, Device, Error, GradCheck, Options, Result, Shape, Tensor, check_gradients, grad};

const CPU: Device = Device::cpu();

fn vector<T: crate::Element>(v: &[T]) -> Tensor {
    Tensor::from_slice(v, v.len(), CPU).unwrap()
}

/// Samples of argument `k` of a row: no two alike, none on a kink.
fn sample(row: &Row, k: usize, n: usize) -> Vec<f64> {
    let (lo, hi) = row.domain[k];
    (0..n).map(|i| lo + (hi - lo) * (((i * (5 + 2 * k) + 3 + k) % 17) as f64 + 0.37) / 17.5).collect()
}

#[test]
fn gradients_of_the_table() -> Result<()> {
    let mut count = 0;
    for row in rows().iter().filter(|r| !r.grads.is_empty() && (r.def.cpu)(DType::F64).is_some()) {
        let select = row.rule == Rule::Select;
        // Parameters are numbers: their row has fewer derivatives than arguments.
        let inputs: Vec<Tensor> = (select as usize..row.grads.len()).map(|k| vector(&sample(row, k, 9))).collect();
        let condition = vector(&[true, false, true, true, false, false, true, false, true]);
        let numbers: Vec<f64> = (row.grads.len()..row.domain.len()).map(|k| sample(row, k, 1)[0]).collect();
        let f = |x: &[Tensor]| {
            let mut sides: Vec<Side> = Vec::new();
            if select {
                sides.push((&condition).into());
            }
            sides.extend(x.iter().map(Side::from));
            sides.extend(numbers.iter().map(|&v| Side::Scalar(v.into())));
            apply(row, &sides)
        };
        let refs: Vec<&Tensor> = inputs.iter().collect();
        let named = |e: Error| Error::argument(row.def.name, format!("{}: {e}", row.def.name));
        check_gradients(f, &refs, GradCheck::default()).map_err(named)?;
        // These have slope 0 everywhere: there is nothing to differentiate again.
        if ["sign", "floor", "ceil", "round", "trunc", "floor_div"].contains(&row.def.name) {
            continue;
        }
        // Second order: the gradient of the gradient's sum.
        let second = |x: &[Tensor]| {
            let refs: Vec<&Tensor> = x.iter().collect();
            let y = if x[0].is_differentiable() { f(x)? } else { return first(&f, x) };
            let g = grad(&[&y.try_mul(&y)?.try_sum(())?], &refs)?;
            g.into_iter()
                .flatten()
                .try_fold(None, |sum: Option<Tensor>, g| {
                    let s = g.try_sum(())?;
                    Ok::<_, Error>(Some(match sum {
                        Some(t) => t.try_add(s)?,
                        None => s,
                    }))
                })?
                .ok_or(Error::NotDifferentiable { op: row.def.name })
        };
        check_gradients(second, &refs, GradCheck { rtol: 1e-4, atol: 1e-5, ..GradCheck::default() }).map_err(named)?;
        count += 1;
    }
    assert!(count >= 45, "{count}");
    Ok(())
}

/// The sum of the gradients of `Σ f²` where the inputs carry none.
fn first(f: &impl Fn(&[Tensor]) -> Result<Tensor>, x: &[Tensor]) -> Result<Tensor> {
    let x: Vec<Tensor> = x.iter().map(|t| t.requires_grad()).collect();
    let refs: Vec<&Tensor> = x.iter().collect();
    let y = f(&x)?;
    let mut sum = Tensor::full((), 0.0, (DType::F64, CPU));
    for g in grad(&[&y.try_mul(&y)?.try_sum(())?], &refs)?.into_iter().flatten() {
        sum = sum.try_add(g.try_sum(())?)?.detach();
    }
    Ok(sum)
}

/// The gradient of `Σ f(x)`.
fn slope(x: &[f32], f: impl Fn(&Tensor) -> Tensor) -> Vec<f32> {
    let x = vector(x).requires_grad();
    grad(&[&f(&x).sum(())], &[&x]).unwrap()[0].as_ref().unwrap().to_vec().unwrap()
}

#[test]
fn subgradients_are_pytorchs() {
    assert_eq!(slope(&[-1.0, 0.0, 1.0], Tensor::relu), [0.0, 0.0, 1.0]);
    assert_eq!(slope(&[-1.0, 0.0, 1.0], Tensor::abs), [-1.0, 0.0, 1.0]);
    assert_eq!(slope(&[-1.0, 0.0, 1.0], |x| x.clamp(0.0, 1.0)), [0.0, 0.0, 0.0]);
    assert_eq!(slope(&[0.0, 0.5, 1.0], |x| x.clamp(0.0, 1.0)), [0.0, 1.0, 0.0]);
    assert_eq!(slope(&[-1.0, 0.0, 1.0], |x| x.maximum(0.0)), [0.0, 0.5, 1.0]);
    assert_eq!(slope(&[-1.0, 0.0, 1.0], |x| x.minimum(x)), [1.0, 1.0, 1.0]);
    assert_eq!(slope(&[1.0, 3.0, 3.0], |x| x.max(())), [0.0, 0.5, 0.5]);
    assert_eq!(slope(&[1.0, f32::NAN, 3.0], |x| x.max(())), [0.0, 1.0, 0.0]);
    assert_eq!(slope(&[2.0, 3.0, 4.0], |x| x.prod(())), [12.0, 8.0, 6.0]);
    assert_eq!(slope(&[2.0, 0.0, 4.0], |x| x.prod(())), [0.0, 8.0, 0.0]);
    assert_eq!(slope(&[0.0, 0.0, 4.0], |x| x.prod(())), [0.0, 0.0, 0.0]);
    assert_eq!(slope(&[0.0, 0.0], |x| x.norm(2.0, ())), [0.0, 0.0]);
    assert_eq!(slope(&[3.0, -4.0], |x| x.norm(2.0, ())), [0.6, -0.8]);
    assert_eq!(slope(&[0.0, 4.0], |x| x.norm(0.5, ())), [0.0, 1.0]);
    assert_eq!(slope(&[3.0, -4.0], |x| x.norm(f64::INFINITY, ())), [0.0, -1.0]);
    assert_eq!(slope(&[2.0, 2.0], |x| x.std((), 1.0)), [0.0, 0.0]);
    assert_eq!(slope(&[0.0, 2.0], |x| x.pow(0.0)), [0.0, 0.0]);
    assert_eq!(slope(&[1000.0, 1000.0], |x| x.logsumexp(())), [0.5, 0.5]);
    assert_eq!(slope(&[1.5, 2.5], |x| x.cast(DType::F16)), [1.0, 1.0]);
    assert_eq!(slope(&[1.0, 2.0], |x| 6.0 / x), [-6.0, -1.5]);
    // A gradient ends at an integer.
    let x = vector(&[1.0f32]).requires_grad();
    assert!(!x.cast(DType::I32).is_differentiable());
}

#[test]
fn gradients_of_reductions() -> Result<()> {
    let x: Vec<f64> = (0..24).map(|i| ((i * 7 + 3) % 24) as f64 * 0.21 - 2.3).collect();
    let x = Tensor::from_vec(x, [2, 3, 4], CPU)?;
    type F = fn(&Tensor) -> Result<Tensor>;
    let cases: &[(&str, F)] = &[
        ("sum", |x| x.try_sum([0, 2])),
        ("mean", |x| x.try_mean_keepdim(1)),
        ("prod", |x| x.try_prod(-1)),
        ("max", |x| x.try_max([1, 2])),
        ("min", |x| x.try_min(0)),
        ("var", |x| x.try_var(-1, 1.0)),
        ("std", |x| x.try_std([0, 1], 0.0)),
        ("norm1", |x| x.try_norm(1.0, 1)),
        ("norm2", |x| x.try_norm(2.0, ())),
        ("norm3", |x| x.try_norm(3.0, -1)),
        ("logsumexp", |x| x.try_logsumexp([0, 2])),
        ("sum_to", |x| x.try_sum_to(&Shape::from([3, 1]))),
    ];
    for (name, f) in cases {
        let named = |e: Error| Error::argument("reduction", format!("{name}: {e}"));
        check_gradients(|x| f(&x[0]), &[&x], GradCheck::default()).map_err(named)?;
        let gradient = |x: &[Tensor]| {
            if !x[0].is_differentiable() {
                return first(&|x| f(&x[0]), x);
            }
            let y = f(&x[0])?;
            let g = grad(&[&y.try_mul(&y)?.try_sum(())?], &[&x[0]])?;
            g[0].as_ref().ok_or(Error::NotDifferentiable { op: "reduction" })?.try_sum(())
        };
        check_gradients(gradient, &[&x], GradCheck { rtol: 1e-4, atol: 1e-5, ..GradCheck::default() }).map_err(named)?;
    }
    Ok(())
}

#[test]
fn dtypes_promote() -> Result<()> {
    use DType::*;
    let of = |d: DType| Tensor::ones(2, (d, CPU));
    for (a, b, sum, quotient) in [
        (I32, F32, F32, F32),
        (U8, I32, I32, F32),
        (Bool, U8, U8, F32),
        (F16, BF16, F32, F32),
        (F16, I64, F16, F16),
        (I32, U32, I64, F32),
        (Bool, Bool, Bool, F32),
        (F32, F64, F64, F64),
    ] {
        let (x, y) = (of(a), of(b));
        assert_eq!((x.add(&y).dtype(), x.div(&y).dtype(), x.lt(&y).dtype()), (sum, quotient, Bool), "{a} {b}");
        assert_eq!(x.div(&y).to_vec::<f64>()?, [1.0; 2], "{a} {b}");
        assert_eq!(x.add(&y).to_vec::<f64>()?, [if sum == Bool { 1.0 } else { 2.0 }; 2], "{a} {b}");
    }
    assert_eq!((of(I32) + 0.5).dtype(), F32);
    assert_eq!((of(F16) + 0.5).dtype(), F16);
    assert_eq!((of(Bool) + 1).dtype(), I32);
    assert_eq!((1 - of(U8)).dtype(), U8);
    assert_eq!(of(I32).exp().dtype(), F32);
    assert_eq!(of(F16).gelu().dtype(), F16);
    assert!(matches!(of(Bool).try_sub(true), Err(Error::DType { .. })));
    assert!(matches!(of(F32).try_bitand(3), Err(Error::DType { .. })));
    assert!(matches!(of(I32).try_mean(()), Err(Error::DType { .. })));
    assert!(matches!(of(I32).try_pow(-1), Err(Error::Argument { .. })));
    assert!(matches!(Tensor::ones([2, 3], CPU).try_add(Tensor::ones([3, 2], CPU)), Err(Error::Shape { .. })));
    for d in [U8, I32, U32, I64, F16, BF16, F32, F64] {
        assert_eq!((of(d) + of(d) * 2 - 1).to_vec::<f64>()?, [2.0; 2], "{d}");
        assert_eq!(of(d).sum(()).item::<f64>()?, 2.0, "{d}");
        assert_eq!(of(d).max(0).dtype(), d);
        assert_eq!(Tensor::arange(0, 7, 2, (d, CPU)).to_vec::<f64>()?, [0.0, 2.0, 4.0, 6.0], "{d}");
    }
    assert_eq!((of(U8).sum(0).dtype(), of(Bool).prod(0).dtype(), of(I64).sum(0).dtype(), of(U32).sum(0).dtype()), (I32, I32, I64, U32));
    assert_eq!(vector(&[0u8, 9, 4]).argmax(0).item::<i32>()?, 1);
    assert_eq!(vector(&[true, false]).min(0).to_vec::<bool>()?, [false]);
    Ok(())
}

#[test]
fn reductions_over_axes() -> Result<()> {
    let v: Vec<f32> = (0..210).map(|i| ((i * 37) % 101) as f32 * 0.25 - 12.0).collect();
    let x = Tensor::from_vec(v.clone(), [5, 6, 7], CPU)?;
    for axes in [vec![], vec![0isize], vec![1], vec![-1], vec![0, 2], vec![1, 2]] {
        let flag = |d: usize| axes.is_empty() || axes.iter().any(|&a| a == d as isize || a == d as isize - 3);
        let dims: Vec<usize> = [5, 6, 7].iter().enumerate().filter(|(d, _)| !flag(*d)).map(|(_, &n)| n).collect();
        let mut groups: Vec<Vec<f32>> = vec![Vec::new(); dims.iter().product()];
        for (i, &value) in v.iter().enumerate() {
            let at = [i / 42, i / 7 % 6, i % 7];
            let place = (0..3).filter(|&d| !flag(d)).fold(0, |p, d| p * [5, 6, 7][d] + at[d]);
            groups[place].push(value);
        }
        let check = |y: Tensor, f: &dyn Fn(&[f32]) -> f64| {
            assert_eq!(y.dims(), dims);
            for (g, y) in groups.iter().zip(y.to_vec::<f64>().unwrap()) {
                assert!((y - f(g)).abs() < 1e-4 * (1.0 + f(g).abs()), "{axes:?}: {y} {}", f(g));
            }
        };
        let axes = || crate::Axes::from(axes.clone());
        let sum = |g: &[f32]| g.iter().map(|&v| v as f64).sum::<f64>();
        check(x.sum(axes()), &sum);
        check(x.mean(axes()), &|g| sum(g) / g.len() as f64);
        check(x.max(axes()), &|g| g.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(v as f64)));
        check(x.min(axes()), &|g| g.iter().fold(f64::INFINITY, |m, &v| m.min(v as f64)));
        let var = |g: &[f32]| {
            let m = sum(g) / g.len() as f64;
            g.iter().map(|&v| (v as f64 - m).powi(2)).sum::<f64>() / (g.len() as f64 - 1.0)
        };
        check(x.var(axes(), 1.0), &var);
        check(x.std(axes(), 1.0), &|g| var(g).sqrt());
        check(x.logsumexp(axes()), &|g| g.iter().map(|&v| (v as f64).exp()).sum::<f64>().ln());
        check(x.gt(12.0).any(axes()), &|g| g.iter().any(|&v| v > 12.0) as u8 as f64);
        check(x.gt(-11.0).all(axes()), &|g| g.iter().all(|&v| v > -11.0) as u8 as f64);
        check(x.norm(3.0, axes()), &|g| g.iter().map(|&v| (v as f64).abs().powi(3)).sum::<f64>().cbrt());
    }
    assert_eq!(x.argmax(1).to_vec::<i32>()?.len(), 35);
    assert_eq!(x.sum_keepdim([0, 2]).dims(), [1, 6, 1]);
    let empty = Tensor::zeros([0, 3], CPU);
    assert_eq!(empty.sum(0).to_vec::<f32>()?, [0.0; 3]);
    assert_eq!(empty.prod(0).to_vec::<f32>()?, [1.0; 3]);
    assert!(empty.mean(()).item::<f32>()?.is_nan());
    assert!(matches!(empty.try_max(0), Err(Error::Shape { .. })));
    assert_eq!(empty.max(1).dims(), [0]);
    assert!(matches!(empty.try_argmin(0), Err(Error::Shape { .. })));
    assert_eq!(Tensor::full((), 3.0, CPU).max(()).item::<f32>()?, 3.0);
    assert_eq!(empty.logsumexp(0).to_vec::<f32>()?, [f32::NEG_INFINITY; 3]);
    assert!(matches!(x.try_sum(3), Err(Error::Axis { .. })));
    Ok(())
}

#[test]
fn creation() -> Result<()> {
    let i32s: Options = (DType::I32, CPU).into();
    assert_eq!(Tensor::arange(5, 0, -2, i32s).to_vec::<i32>()?, [5, 3, 1]);
    assert_eq!(Tensor::arange(0, 0, 1, i32s).numel(), 0);
    assert_eq!(Tensor::arange(0.0, 1.0, 0.25, CPU).to_vec::<f32>()?, [0.0, 0.25, 0.5, 0.75]);
    assert!(Tensor::try_arange(0, 3, 0, CPU).is_err() && Tensor::try_arange(0.0, f64::NAN, 1, CPU).is_err());
    assert_eq!(Tensor::linspace(-1.0, 0.1, 3, CPU).to_vec::<f32>()?, [-1.0, -0.45, 0.1]);
    assert_eq!(Tensor::linspace(2.0, 3.0, 1, CPU).to_vec::<f32>()?, [2.0]);
    assert_eq!(Tensor::linspace(2.0, 3.0, 0, CPU).numel(), 0);
    assert_eq!(Tensor::eye(3, (DType::Bool, CPU)).sum(()).item::<i32>()?, 3);
    let m = Tensor::arange(0, 24, 1, i32s).reshape([2, 3, 4]);
    assert_eq!(m.tril(-1).to_vec::<i32>()?[..12], [0, 0, 0, 0, 4, 0, 0, 0, 8, 9, 0, 0]);
    assert_eq!(m.triu(1).to_vec::<i32>()?[12..], [0, 13, 14, 15, 0, 0, 18, 19, 0, 0, 0, 23]);
    assert!(vector(&[1.0f32]).try_tril(0).is_err());
    let hot = vector(&[1i64, 0]).one_hot(3);
    assert_eq!((hot.dtype(), hot.to_vec::<f32>()?), (DType::F32, vec![0.0, 1.0, 0.0, 1.0, 0.0, 0.0]));
    assert!(vector(&[1.0f32]).try_one_hot(3).is_err());
    assert_eq!(Tensor::full([2, 2], -3, (DType::I64, CPU)).to_vec::<i64>()?, [-3; 4]);
    assert!(Tensor::try_zeros([1 << 20, 1 << 20], CPU).is_err());
    let u = Tensor::uniform([300, 7], -2.0, 3.0, (DType::F16, CPU));
    assert_eq!((u.dtype(), u.dims()), (DType::F16, &[300, 7][..]));
    assert!(u.to_vec::<f32>()?.iter().all(|v| (-2.0..=3.0).contains(v)));
    let u = Tensor::uniform([7, 300], 0.0, 1.0, CPU);
    assert_eq!(u.t().contiguous().t().to_vec::<f32>()?, u.to_vec::<f32>()?);
    let d = Tensor::randint([1000], -3, 4, (DType::I64, CPU));
    assert_eq!((d.min(()).item::<i64>()?, d.max(()).item::<i64>()?), (-3, 3));
    assert_eq!(Tensor::bernoulli([50], 1.0, CPU).sum(()).item::<f32>()?, 50.0);
    assert!(Tensor::try_bernoulli(3, 1.5, CPU).is_err() && Tensor::try_randint(3, 4, 4, CPU).is_err());
    Ok(())
}

/// A value of a kernel, seen again through reshapes in the same kernel, is its register and not its memory.
#[test]
fn a_root_through_reshapes() -> Result<()> {
    for _ in 0..3 {
        let x = vector(&[3.0f64, -4.0]).requires_grad();
        let y = x.norm(2.0, ());
        let g = grad(&[&y.mul(&y)], &[&x])?[0].clone().unwrap();
        let gg = grad(&[&g.sum(())], &[&x])?[0].clone().unwrap();
        assert_eq!(gg.to_vec::<f64>()?, [2.0, 2.0]);
        assert_eq!(g.to_vec::<f64>()?, [6.0, -8.0]);
        assert_eq!(y.item::<f64>()?, 5.0);
    }
    Ok(())
}

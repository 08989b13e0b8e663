//! Reductions, scans, sorting.

use crate::harness::*;
use fornax::{Device, Result, Tensor};

/// Reduces axis `axis` of an array with a function of the values along it.
fn along(a: &Arr, axis: usize, f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let n = a.shape[axis];
    let inner: usize = a.shape[axis + 1..].iter().product();
    let outer: usize = a.shape[..axis].iter().product();
    let mut lines = vec![Vec::new(); outer * inner];
    for o in 0..outer {
        for i in 0..inner {
            let line: Vec<f64> = (0..n).map(|k| a.v[(o * n + k) * inner + i]).collect();
            lines[o * inner + i] = f(&line);
        }
    }
    let m = lines.first().map_or(0, Vec::len);
    let at = |o: usize, k: usize, i: usize| lines[o * inner + i][k];
    (0..outer).flat_map(|o| (0..m).flat_map(move |k| (0..inner).map(move |i| (o, k, i)))).map(|(o, k, i)| at(o, k, i)).collect()
}

type Reduction = (&'static str, fn(&Tensor, isize) -> Result<Tensor>, fn(&[f64]) -> f64);

const REDUCTIONS: &[Reduction] = &[
    ("sum", |x, a| x.try_sum(a), |l| l.iter().sum()),
    ("mean", |x, a| x.try_mean(a), |l| l.iter().sum::<f64>() / l.len() as f64),
    ("prod", |x, a| x.try_prod(a), |l| l.iter().product()),
    ("max", |x, a| x.try_max(a), |l| l.iter().copied().fold(f64::MIN, f64::max)),
    ("min", |x, a| x.try_min(a), |l| l.iter().copied().fold(f64::MAX, f64::min)),
    (
        "var",
        |x, a| x.try_var(a, 1.0),
        |l| {
            let m = l.iter().sum::<f64>() / l.len() as f64;
            l.iter().map(|x| (x - m) * (x - m)).sum::<f64>() / (l.len() as f64 - 1.0)
        },
    ),
    ("logsumexp", |x, a| x.try_logsumexp(a), |l| l.iter().map(|x| x.exp()).sum::<f64>().ln()),
    ("norm 2", |x, a| x.try_norm(2.0, a), |l| l.iter().map(|x| x * x).sum::<f64>().sqrt()),
    ("norm 3", |x, a| x.try_norm(3.0, a), |l| l.iter().map(|x| x.abs().powi(3)).sum::<f64>().cbrt()),
];

fn place_of(l: &[f64], better: fn(f64, f64) -> bool) -> f64 {
    (0..l.len()).fold(0, |best, i| if better(l[i], l[best]) { i } else { best }) as f64
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(name, f, o) in REDUCTIONS {
        for axis in 0..3usize {
            cases.push(
                case(format!("{name} axis {axis}"), &[distinct(&[2, 3, 2])], move |t| f(&t[0], axis as isize))
                    .oracle(move |a| along(&a[0], axis, |l| vec![o(l)])),
            );
        }
        for (axis, shape) in [(0, [1, 1, 1]), (1, [5, 1, 7]), (2, [3, 7, 130]), (0, [131, 3, 5]), (1, [3, 257, 2])] {
            cases.push(
                case(format!("{name} {axis} {shape:?}"), &[within(0.9, 1.1, &shape)], move |t| f(&t[0], axis))
                    .oracle(move |a| along(&a[0], axis as usize, |l| vec![o(l)]))
                    .flat()
                    .no_half()
                    .tol(if name == "var" { 1e-3 } else { 1e-4 }),
            );
        }
    }
    cases.retain(|c| c.name != "var 0 [1, 1, 1]" && c.name != "var 1 [5, 1, 7]");
    for (axis, shape) in [(0, [3, 0, 2]), (1, [3, 0, 2])] {
        cases.push(case(format!("sum {axis} {shape:?}"), &[real(&shape)], move |t| t[0].try_sum(axis)).large());
        cases.push(case(format!("prod {axis} {shape:?}"), &[real(&shape)], move |t| t[0].try_prod(axis)).large());
    }
    let large =
        |name: &str, shape: &[usize], f: fn(&Tensor) -> Result<Tensor>| case(name, &[real(shape)], move |t| f(&t[0])).large().tol(2e-4);
    cases.extend([
        case("sum of all", &[real(&[2, 3, 2])], |t| t[0].try_sum(())).oracle(|a| vec![a[0].v.iter().sum()]),
        case("sum of two axes", &[real(&[2, 3, 2])], |t| t[0].try_sum([0, 2])),
        case("sum_keepdim", &[real(&[2, 3, 2])], |t| t[0].try_sub(t[0].try_sum_keepdim(1)?)),
        case("mean of all", &[real(&[2, 3])], |t| t[0].try_mean(())),
        case("max of all", &[distinct(&[2, 3])], |t| t[0].try_max(())),
        case("std", &[real(&[4, 3])], |t| t[0].try_std(0, 1.0)),
        case("var without correction", &[real(&[4, 3])], |t| t[0].try_var((), 0.0)),
        case("prod with a zero", &[int(0, 2, &[3, 4])], |t| t[0].try_prod(1))
            .oracle(|a| along(&a[0], 1, |l| vec![l.iter().product()]))
            .flat(),
        case("sum of i32", &[int(-9, 9, &[3, 4])], |t| t[0].try_sum(0)).oracle(|a| along(&a[0], 0, |l| vec![l.iter().sum()])).flat(),
        case("max of i32", &[int(-9, 9, &[3, 4])], |t| t[0].try_max(0))
            .oracle(|a| along(&a[0], 0, |l| vec![l.iter().copied().fold(-99.0, f64::max)]))
            .flat(),
        case("any", &[bools(&[6, 2])], |t| t[0].try_any(1))
            .oracle(|a| along(&a[0], 1, |l| vec![(l.iter().sum::<f64>() > 0.0) as u8 as f64]))
            .flat(),
        case("all", &[bools(&[6, 2])], |t| t[0].try_all(1)).oracle(|a| along(&a[0], 1, |l| vec![l.iter().product()])).flat(),
        case("argmax", &[distinct(&[3, 7])], |t| t[0].try_argmax(1))
            .oracle(|a| along(&a[0], 1, |l| vec![place_of(l, |x, y| x > y)]))
            .flat(),
        case("argmin", &[distinct(&[3, 7])], |t| t[0].try_argmin(0))
            .oracle(|a| along(&a[0], 0, |l| vec![place_of(l, |x, y| x < y)]))
            .flat(),
        case("argmax with ties", &[int(0, 3, &[4, 9])], |t| t[0].try_argmax(1))
            .oracle(|a| along(&a[0], 1, |l| vec![place_of(l, |x, y| x > y)]))
            .flat(),
        case("sum_to", &[real(&[2, 3, 4])], |t| t[0].try_sum_to(&[3, 1].into())),
        large("sum of many", &[200_003], |x| x.try_sum(())),
        large("sum rows", &[300, 1031], |x| x.try_sum(1)),
        large("sum columns", &[1031, 300], |x| x.try_sum(0)),
        large("max of many", &[200_003], |x| x.try_max(())),
        large("sum middle", &[13, 517, 31], |x| x.try_sum(1)),
        large("sum outside", &[13, 517, 31], |x| x.try_sum([0, 2])),
        // Fusion into and out of a reduction.
        case("a fused softmax", &[real(&[3, 5])], |t| {
            let e = t[0].try_sub(t[0].try_max_keepdim(1)?)?.try_exp()?;
            e.try_div(e.try_sum_keepdim(1)?)
        }),
    ]);
    cases
}

pub fn scans() -> Vec<Case> {
    fn sorted(l: &[f64]) -> Vec<f64> {
        let mut l = l.to_vec();
        l.sort_by(f64::total_cmp);
        l
    }
    fn places(l: &[f64]) -> Vec<f64> {
        let mut p: Vec<usize> = (0..l.len()).collect();
        p.sort_by(|&a, &b| l[a].total_cmp(&l[b]));
        p.iter().map(|&i| i as f64).collect()
    }
    fn running(l: &[f64], f: fn(f64, f64) -> f64) -> Vec<f64> {
        let mut acc = None;
        l.iter().map(|&x| *acc.insert(acc.map_or(x, |a| f(a, x)))).collect()
    }
    let mut cases = vec![
        case("cumsum", &[real(&[2, 4])], |t| t[0].try_cumsum(1)).oracle(|a| along(&a[0], 1, |l| running(l, |a, b| a + b))),
        case("cumsum axis 0", &[real(&[4, 3])], |t| t[0].try_cumsum(0)).oracle(|a| along(&a[0], 0, |l| running(l, |a, b| a + b))),
        case("cumprod", &[within(0.5, 1.5, &[2, 4])], |t| t[0].try_cumprod(1)).oracle(|a| along(&a[0], 1, |l| running(l, |a, b| a * b))),
        case("cumprod with zeros", &[real(&[2, 5])], |t| {
            let holes = Tensor::from_vec(vec![1f32, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0], [2, 5], t[0].device())?;
            t[0].try_mul(&holes.try_cast(t[0].dtype())?)?.try_cumprod(1)
        }),
        case("linear_scan", &[real(&[2, 6]), within(-1.0, 1.0, &[2, 6])], |t| t[0].try_linear_scan(&t[1], 1, false)),
        case("linear_scan, backward", &[real(&[5, 2]), within(-1.0, 1.0, &[5, 1])], |t| t[0].try_linear_scan(&t[1], 0, true)),
        case("searchsorted", &[real(&[40]), real(&[3, 5])], |t| t[0].try_sort(0, false)?.0.try_searchsorted(&t[1], true))
            .oracle(|a| a[1].v.iter().map(|v| a[0].v.iter().filter(|x| *x <= v).count() as f64).collect())
            .flat()
            .no_half(),
        case("sort, many equal", &[real(&[3, 70])], |t| t[0].try_mul(3.0)?.try_round()?.try_argsort(1, true))
            .oracle(|a| {
                along(&a[0], 1, |l| {
                    let mut p: Vec<usize> = (0..l.len()).collect();
                    let key = |i: usize| (l[i] as f32 * 3.0).round_ties_even();
                    p.sort_by(|&a, &b| key(b).partial_cmp(&key(a)).unwrap());
                    p.iter().map(|&i| i as f64).collect()
                })
            })
            .flat()
            .no_half(),
        case("cummax", &[distinct(&[2, 4])], |t| Ok(t[0].try_cummax(1)?.0)).oracle(|a| along(&a[0], 1, |l| running(l, f64::max))),
        case("sort", &[distinct(&[2, 5])], |t| Ok(t[0].try_sort(1, false)?.0)).oracle(|a| along(&a[0], 1, sorted)),
        case("sort axis 0, descending", &[distinct(&[5, 2])], |t| Ok(t[0].try_sort(0, true)?.0))
            .oracle(|a| along(&a[0], 0, |l| sorted(l).into_iter().rev().collect())),
        case("argsort", &[distinct(&[3, 7])], |t| t[0].try_argsort(1, false)).oracle(|a| along(&a[0], 1, places)).flat(),
        case("topk", &[distinct(&[2, 6])], |t| Ok(t[0].try_topk(3, 1, true)?.0))
            .oracle(|a| along(&a[0], 1, |l| sorted(l).into_iter().rev().take(3).collect())),
    ];
    for n in [1, 130, 1025, 70_001] {
        cases.push(
            case(format!("cumsum of {n}"), &[within(-0.1, 0.1, &[n])], |t| t[0].try_cumsum(0))
                .oracle(|a| along(&a[0], 0, |l| running(l, |a, b| a + b)))
                .large()
                .tol(1e-3),
        );
        cases.push(
            case(format!("sort {n}"), &[distinct(&[n])], |t| Ok(t[0].try_sort(0, false)?.0)).oracle(|a| along(&a[0], 0, sorted)).large(),
        );
    }
    for n in [130, 1025] {
        let gpu = |c: Case| c.flat().no_half().tol(1e-3);
        cases.push(gpu(case(format!("cumsum of {n} on gpu"), &[within(-0.1, 0.1, &[2, n])], |t| t[0].try_cumsum(1))));
        cases.push(gpu(case(format!("sort {n} on gpu"), &[distinct(&[2, n])], |t| Ok(t[0].try_sort(1, false)?.0))));
    }
    cases
}

#[test]
fn reductions() {
    check_all(
        &cases(),
        &[("f32 = oracle", 60), ("gradient", 519), ("second derivative", 72), ("second, by element", 35), ("gpu = cpu", 60)],
    );
}

#[test]
fn scans_and_sorts() {
    check_all(&scans(), &[("f32 = oracle", 15), ("gradient", 123), ("second derivative", 20), ("second, by element", 9)]);
}

#[test]
fn empty_and_odd_reductions() {
    let cpu = Device::cpu();
    let x = Tensor::zeros([0, 3], cpu);
    assert_eq!(x.sum(()).item::<f32>().unwrap(), 0.0);
    assert_eq!(x.prod(0).to_vec::<f32>().unwrap(), [1.0; 3]);
    assert!(x.mean(()).item::<f32>().unwrap().is_nan());
    assert!(x.try_max(0).is_err() && x.try_argmax(0).is_err());
    assert_eq!(x.max(1).dims(), [0]);
    let nan = Tensor::from_vec(vec![1.0, f32::NAN, 3.0], 3, cpu).unwrap();
    assert!(nan.max(()).item::<f32>().unwrap().is_nan() && nan.min(()).item::<f32>().unwrap().is_nan());
    assert_eq!(nan.argmax(0).item::<i32>().unwrap(), 1);
    assert!(nan.try_sum(1).is_err() && nan.try_sum([0, 0]).is_err());
}

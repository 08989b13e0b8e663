//! Pooling, patches, resampling, einsum, and products large enough for every path of their GPU kernels.

use crate::harness::*;
use fornax::{ConvOptions, Device, Interpolation, PoolOptions, Resize, Tensor};

fn pool(stride: usize, padding: usize, ceil_mode: bool) -> PoolOptions {
    PoolOptions { stride: Some(stride.into()), padding: padding.into(), ceil_mode, ..PoolOptions::default() }
}

/// Averages or maxima over k×k windows, without padding.
fn pooled(a: &Arr, k: usize, stride: usize, f: fn(&[f64]) -> f64) -> Vec<f64> {
    let (planes, h, w) = (a.shape[0] * a.shape[1], a.shape[2], a.shape[3]);
    let mut out = Vec::new();
    for p in 0..planes {
        for i in (0..=h - k).step_by(stride) {
            for j in (0..=w - k).step_by(stride) {
                let window: Vec<f64> = (0..k * k).map(|t| a.v[(p * h + i + t / k) * w + j + t % k]).collect();
                out.push(f(&window));
            }
        }
    }
    out
}

fn largest(v: &[f64]) -> f64 {
    v.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b))
}

fn mean(v: &[f64]) -> f64 {
    v.iter().sum::<f64>() / v.len() as f64
}

pub fn pools() -> Vec<Case> {
    let x = [2, 2, 5, 6];
    vec![
        case("max_pool2d", &[distinct(&x)], |t| t[0].try_max_pool2d(2, PoolOptions::default())).oracle(|a| pooled(&a[0], 2, 2, largest)),
        case("max_pool2d overlapping", &[distinct(&x)], |t| t[0].try_max_pool2d(3, pool(1, 0, false)))
            .oracle(|a| pooled(&a[0], 3, 1, largest)),
        case("max_pool2d padded", &[distinct(&x)], |t| t[0].try_max_pool2d([3, 2], pool(2, 1, true))),
        case("max_pool2d dilated", &[distinct(&x)], |t| {
            t[0].try_max_pool2d(2, PoolOptions { dilation: [2, 3].into(), ..pool(1, 1, false) })
        }),
        case("max_pool1d", &[distinct(&[2, 7])], |t| t[0].try_max_pool1d(3, pool(2, 1, false))),
        case("avg_pool2d", &[real(&x)], |t| t[0].try_avg_pool2d(2, PoolOptions::default())).oracle(|a| pooled(&a[0], 2, 2, mean)).once(),
        case("avg_pool2d overlapping", &[real(&x)], |t| t[0].try_avg_pool2d(3, pool(1, 0, false)))
            .oracle(|a| pooled(&a[0], 3, 1, mean))
            .once(),
        case("avg_pool2d padded", &[real(&x)], |t| t[0].try_avg_pool2d(3, PoolOptions { count_include_pad: false, ..pool(2, 1, true) }))
            .once(),
        case("avg_pool2d divided", &[real(&x)], |t| t[0].try_avg_pool2d(3, PoolOptions { divisor_override: Some(7), ..pool(2, 1, true) }))
            .oracle(|a| {
                // 3 × 4 windows of each plane of 5 × 6; the last column of windows is cut off on the right.
                let at = |p: usize, i: usize, j: usize| a[0].v.get((p * 5 + i) * 6 + j).filter(|_| i < 5 && j < 6).copied().unwrap_or(0.0);
                let window = |p: usize, i: usize, j: usize| {
                    let inside = (0..9).filter_map(|t| Some(((2 * i + t / 3).checked_sub(1)?, (2 * j + t % 3).checked_sub(1)?)));
                    inside.map(|(i, j)| at(p, i, j)).sum::<f64>() / 7.0
                };
                (0..48).map(|o| window(o / 12, o / 4 % 3, o % 4)).collect()
            })
            .once(),
        case("avg_pool1d", &[real(&[2, 3, 7])], |t| t[0].try_avg_pool1d(3, pool(2, 1, true))).once(),
        case("adaptive_avg_pool2d", &[real(&x)], |t| t[0].try_adaptive_avg_pool2d([3, 4])).once(),
        case("adaptive_avg_pool2d to one", &[real(&x)], |t| t[0].try_adaptive_avg_pool2d(1))
            .oracle(|a| a[0].v.chunks(30).map(mean).collect())
            .once(),
        case("adaptive_max_pool2d", &[distinct(&x)], |t| t[0].try_adaptive_max_pool2d([2, 7])),
        case("adaptive_avg_pool1d", &[real(&[3, 7])], |t| t[0].try_adaptive_avg_pool1d(3)).once(),
        case("adaptive_max_pool1d", &[distinct(&[3, 7])], |t| t[0].try_adaptive_max_pool1d(3)),
        case("max_pool2d of many planes", &[distinct(&[3, 50, 8, 8])], |t| t[0].try_max_pool2d(2, PoolOptions::default()))
            .oracle(|a| pooled(&a[0], 2, 2, largest))
            .flat()
            .no_half(),
    ]
}

pub fn patches() -> Vec<Case> {
    let o = |stride: usize, padding: usize| ConvOptions { stride: stride.into(), padding: padding.into(), ..Default::default() };
    let x = [1, 2, 4, 5];
    let to = |size: [usize; 2], mode: Interpolation, corners: bool| move |t: &[Tensor]| t[0].try_interpolate(size, mode, corners);
    vec![
        case("unfold", &[real(&x)], move |t| t[0].try_unfold([2, 3], o(1, 1))).once(),
        case("fold", &[real(&[1, 12, 36])], move |t| t[0].try_fold([5, 6], [2, 3], o(1, 1))).once(),
        case("interpolate nearest", &[real(&x)], to([7, 3], Interpolation::Nearest, false)).once(),
        case("interpolate nearest doubled", &[real(&x)], |t| t[0].try_interpolate(2.0, Interpolation::Nearest, false)).once(),
        case("interpolate nearest exact", &[real(&x)], to([7, 3], Interpolation::NearestExact, false))
            .oracle(|a| {
                // PyTorch's rows and columns for 4 × 5 to 7 × 3.
                let (rows, columns) = ([0, 0, 1, 2, 2, 3, 3], [0, 2, 4]);
                (0..2).flat_map(|p| rows.into_iter().flat_map(move |i| columns.map(|j| (p * 4 + i) * 5 + j))).map(|i| a[0].v[i]).collect()
            })
            .once(),
        case("interpolate bilinear", &[real(&x)], to([7, 3], Interpolation::Bilinear, false)).once(),
        case("interpolate bilinear corners", &[real(&x)], to([3, 8], Interpolation::Bilinear, true)).once(),
        case("interpolate bicubic", &[real(&x)], |t| t[0].try_interpolate(Resize::By([1.5, 0.7]), Interpolation::Bicubic, false))
            .once()
            .tol(1e-4),
    ]
}

pub fn sums() -> Vec<Case> {
    let list: [(&str, &[&[usize]]); 9] = [
        ("ij,jk->ik", &[&[2, 3], &[3, 4]]),
        ("ii", &[&[3, 3]]),
        ("iij->j", &[&[3, 3, 2]]),
        ("bihd,bjhd->bhij", &[&[2, 2, 2, 3], &[2, 3, 2, 3]]),
        ("...ij,jk", &[&[2, 2, 3], &[3, 2]]),
        ("i,j,k->kij", &[&[2], &[3], &[2]]),
        ("ij,kl,jl->ik", &[&[2, 3], &[2, 2], &[3, 2]]),
        ("ij,ij->", &[&[2, 3], &[2, 3]]),
        ("i,ij->j", &[&[1], &[3, 2]]),
    ];
    let einsum = |&(e, shapes): &(&'static str, &[&[usize]])| {
        let ins: Vec<In> = shapes.iter().map(|s| real(s)).collect();
        let c = case(format!("einsum {e}"), &ins, move |t| Tensor::try_einsum(e, &t.iter().collect::<Vec<_>>()));
        if shapes.len() == 1 { c.once() } else { c }
    };
    let mut cases: Vec<Case> = list.iter().map(einsum).collect();
    cases.push(case("linear", &[real(&[2, 2, 3]), real(&[4, 3]), real(&[4])], |t| t[0].try_linear(&t[1], Some(&t[2]))));
    let mm = |t: &[Tensor]| t[0].try_matmul(&t[1]);
    // On the GPU: k in parts; a few rows and columns; vec4 loads; a tail behind each.
    for (a, b) in [([16, 5000], [5000, 20]), ([2, 300], [300, 33]), ([40, 300], [300, 3]), ([64, 32], [32, 68])] {
        let tail = |t: &[Tensor]| t[0].try_matmul(&t[1])?.try_add(&t[2])?.try_relu();
        let bias = [b[1]];
        cases.push(case(format!("matmul path {a:?}"), &[real(&a), real(&b)], mm).flat().no_half().tol(5e-4));
        cases.push(case(format!("matmul path {a:?} with a tail"), &[real(&a), real(&b), real(&bias)], tail).flat().no_half().tol(5e-4));
    }
    let weight = |t: &[Tensor]| {
        let w = t[1].detach().requires_grad();
        let y = t[0].try_conv2d(&w, None, ConvOptions { padding: 1.into(), ..Default::default() })?;
        Ok(fornax::grad(&[&y], &[&w])?[0].clone().unwrap())
    };
    cases.push(case("conv2d weight gradient in parts", &[real(&[4, 9, 20, 19]), real(&[12, 9, 3, 3])], weight).flat().no_half().tol(1e-3));
    cases
}

#[test]
fn pooling_ops() {
    check_all(&pools(), &[("f32 = oracle", 6), ("gradient", 56), ("second derivative", 14), ("second, by element", 1), ("gpu = cpu", 14)]);
}

#[test]
fn patches_and_resampling() {
    check_all(&patches(), &[("gradient", 21), ("gpu = cpu", 6)]);
}

#[test]
fn einstein_sums_and_kernel_paths() {
    check_all(&sums(), &[("gradient", 81), ("second derivative", 16), ("second, by element", 4), ("gpu = cpu", 18)]);
}

#[test]
fn wrong_images_are_errors() {
    let z = |s: &[usize]| Tensor::zeros(s, Device::cpu());
    let none = PoolOptions::default();
    assert!(z(&[4, 4]).try_max_pool2d(2, none).is_err());
    assert!(z(&[1, 1, 2, 2]).try_max_pool2d(3, none).is_err());
    assert!(z(&[1, 1, 4, 4]).try_avg_pool2d(2, PoolOptions { padding: 2.into(), ..none }).is_err());
    assert!(z(&[1, 1, 4, 4]).try_max_pool2d(0, none).is_err());
    assert!(z(&[1, 5, 4]).try_fold([3, 3], 2, ConvOptions::default()).is_err());
    assert!(z(&[1, 1, 4, 4]).try_unfold(5, ConvOptions::default()).is_err());
    assert!(z(&[1, 1, 4, 4]).try_interpolate([0, 3], Interpolation::Nearest, false).is_err());
    assert!(z(&[1, 1, 4, 4]).try_interpolate(-1.0, Interpolation::Bilinear, false).is_err());
    for (equation, shapes) in [
        ("ij,jk", vec![[2, 3]]),
        ("ijk", vec![[2, 3]]),
        ("ij->ijj", vec![[2, 3]]),
        ("ij->k", vec![[2, 3]]),
        ("i$", vec![[2, 3]]),
        ("ii", vec![[2, 3]]),
        ("ij,ij", vec![[2, 3], [3, 3]]),
    ] {
        let operands: Vec<Tensor> = shapes.iter().map(|s| z(s)).collect();
        assert!(Tensor::try_einsum(equation, &operands.iter().collect::<Vec<_>>()).is_err(), "{equation}");
    }
    assert!(Tensor::try_einsum("", &[]).is_err());
}

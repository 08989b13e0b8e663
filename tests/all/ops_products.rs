//! Products, convolutions, pooling.

use crate::harness::*;
use fornax::{ConvOptions, ConvOptions1d, Device, Tensor};

fn product(a: &[f64], b: &[f64], n: usize, k: usize, m: usize) -> Vec<f64> {
    (0..n * m).map(|i| (0..k).map(|j| a[i / m * k + j] * b[j * m + i % m]).sum()).collect()
}

pub fn products() -> Vec<Case> {
    let mm = |t: &[Tensor]| t[0].try_matmul(&t[1]);
    let mut cases = vec![
        case("matmul", &[real(&[2, 3]), real(&[3, 4])], mm).oracle(|a| product(&a[0].v, &a[1].v, 2, 3, 4)),
        case("matmul batched", &[real(&[2, 2, 3]), real(&[2, 3, 2])], mm),
        case("matmul broadcast", &[real(&[2, 2, 3]), real(&[3, 2])], mm),
        case("matmul broadcast both", &[real(&[2, 1, 2, 3]), real(&[2, 3, 2])], mm),
        case("matrix by vector", &[real(&[3, 4]), real(&[4])], mm),
        case("vector by matrix", &[real(&[3]), real(&[3, 2])], mm),
        case("vector by vector", &[real(&[5]), real(&[5])], mm),
        case("dot", &[real(&[5]), real(&[5])], |t| t[0].try_dot(&t[1])),
        case("outer", &[real(&[3]), real(&[4])], |t| t[0].try_outer(&t[1])),
        case("matmul of transposes", &[real(&[3, 2]), real(&[4, 3])], |t| t[0].try_t()?.try_matmul(&t[1].try_t()?)),
        case("matmul with a tail", &[real(&[3, 4]), real(&[4, 5]), real(&[5])], |t| t[0].try_matmul(&t[1])?.try_add(&t[2])?.try_gelu()),
        case("einsum ij,jk->ik", &[real(&[2, 3]), real(&[3, 2])], |t| Tensor::try_einsum("ij,jk->ik", &[&t[0], &t[1]])),
        case("einsum bij,bkj->bik", &[real(&[2, 2, 3]), real(&[2, 4, 3])], |t| Tensor::try_einsum("bij,bkj->bik", &[&t[0], &t[1]])),
        case("einsum ii->i", &[real(&[3, 3])], |t| Tensor::try_einsum("ii->i", &[&t[0]])),
        case("einsum ij->j", &[real(&[2, 3])], |t| Tensor::try_einsum("ij->j", &[&t[0]])),
    ];
    for [n, k, m] in [[1, 1, 1], [1, 7, 1], [5, 1, 3], [17, 31, 13], [65, 129, 67], [128, 64, 128], [130, 257, 70], [3, 1000, 2]] {
        cases.push(
            case(format!("matmul {n} {k} {m}"), &[real(&[n, k]), real(&[k, m])], mm)
                .oracle(move |a| product(&a[0].v, &a[1].v, n, k, m))
                .flat()
                .no_half()
                .tol(2e-4),
        );
    }
    for [n, k, m] in [[0, 3, 2], [3, 0, 2], [3, 2, 0]] {
        cases.push(
            case(format!("matmul {n} {k} {m}"), &[real(&[n, k]), real(&[k, m])], mm)
                .oracle(move |a| product(&a[0].v, &a[1].v, n, k, m))
                .large(),
        );
    }
    cases
}

/// A convolution as its definition says.
fn conv2d(x: &Arr, w: &Arr, stride: usize, padding: usize, dilation: usize, groups: usize) -> Vec<f64> {
    let (n, c, h, wd) = (x.shape[0], x.shape[1], x.shape[2] as isize, x.shape[3] as isize);
    let (o, cg, kh, kw) = (w.shape[0], w.shape[1], w.shape[2], w.shape[3]);
    let size = |s: isize, k: usize| (s as usize + 2 * padding - dilation * (k - 1) - 1) / stride + 1;
    let (oh, ow) = (size(h, kh), size(wd, kw));
    let mut out = Vec::new();
    for b in 0..n {
        for f in 0..o {
            for i in 0..oh {
                for j in 0..ow {
                    let mut sum = 0.0;
                    for ch in 0..cg {
                        for p in 0..kh {
                            for q in 0..kw {
                                let y = (i * stride + p * dilation) as isize - padding as isize;
                                let z = (j * stride + q * dilation) as isize - padding as isize;
                                if (0..h).contains(&y) && (0..wd).contains(&z) {
                                    let channel = f / (o / groups) * cg + ch;
                                    sum += x.v[((b * c + channel) * h as usize + y as usize) * wd as usize + z as usize]
                                        * w.v[((f * cg + ch) * kh + p) * kw + q];
                                }
                            }
                        }
                    }
                    out.push(sum);
                }
            }
        }
    }
    out
}

fn options(stride: usize, padding: usize, dilation: usize, groups: usize) -> ConvOptions {
    ConvOptions { stride: stride.into(), padding: padding.into(), dilation: dilation.into(), groups }
}

pub fn convolutions() -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, (x, w, [s, p, d, g])) in [
        ([1, 1, 4, 4], [1, 1, 3, 3], [1, 0, 1, 1]),
        ([2, 2, 5, 4], [3, 2, 3, 2], [1, 1, 1, 1]),
        ([1, 2, 6, 5], [2, 2, 3, 3], [2, 1, 1, 1]),
        ([1, 4, 5, 5], [4, 2, 2, 2], [1, 1, 2, 2]),
        ([1, 3, 4, 4], [3, 1, 3, 3], [1, 1, 1, 3]),
        ([2, 3, 3, 3], [4, 3, 1, 1], [1, 0, 1, 1]),
    ]
    .into_iter()
    .enumerate()
    {
        let c = case(format!("conv2d {i}"), &[real(&x), real(&w)], move |t| t[0].try_conv2d(&t[1], None, options(s, p, d, g)))
            .oracle(move |a| conv2d(&a[0], &a[1], s, p, d, g))
            .tol(1e-4);
        cases.push(if i < 4 { c } else { c.no_half() });
    }
    cases.extend([
        case("conv2d with bias", &[real(&[1, 2, 4, 4]), real(&[3, 2, 3, 3]), real(&[3])], |t| {
            t[0].try_conv2d(&t[1], Some(&t[2]), options(1, 1, 1, 1))
        }),
        case("conv2d of an image", &[real(&[2, 16, 19, 23]), real(&[32, 16, 3, 3])], |t| t[0].try_conv2d(&t[1], None, options(1, 1, 1, 1)))
            .oracle(|a| conv2d(&a[0], &a[1], 1, 1, 1, 1))
            .flat()
            .no_half()
            .tol(5e-4),
        case("conv2d with a step", &[real(&[1, 8, 33, 31]), real(&[70, 8, 3, 3])], |t| t[0].try_conv2d(&t[1], None, options(2, 1, 1, 1)))
            .oracle(|a| conv2d(&a[0], &a[1], 2, 1, 1, 1))
            .flat()
            .no_half()
            .tol(5e-4),
        case("conv1d", &[real(&[2, 2, 7]), real(&[3, 2, 3])], |t| {
            t[0].try_conv1d(&t[1], None, ConvOptions1d { stride: 2, padding: 1, ..Default::default() })
        }),
        case("conv_transpose2d", &[real(&[1, 2, 3, 3]), real(&[2, 2, 3, 3])], |t| {
            t[0].try_conv_transpose2d(&t[1], None, options(2, 1, 1, 1), 1)
        }),
        case("conv_transpose1d", &[real(&[1, 2, 4]), real(&[2, 3, 3])], |t| t[0].try_conv_transpose1d(&t[1], None, Default::default(), 0)),
    ]);
    cases
}

#[test]
fn matrix_products() {
    check_all(
        &products(),
        &[("f32 = oracle", 10), ("gradient", 124), ("second derivative", 30), ("second, by element", 8), ("gpu = cpu", 15)],
    );
}

#[test]
fn convolution_ops() {
    check_all(&convolutions(), &[("f32 = oracle", 8), ("gradient", 30), ("second derivative", 20), ("gpu = cpu", 8)]);
}

#[test]
fn wrong_products_are_errors() {
    let z = |s: &[usize]| Tensor::zeros(s, Device::cpu());
    assert!(z(&[2, 3]).try_matmul(&z(&[2, 3])).is_err());
    assert!(z(&[2, 2, 3]).try_matmul(&z(&[3, 3, 2])).is_err());
    assert!(z(&[]).try_matmul(&z(&[2, 3])).is_err());
    assert!(z(&[1, 3, 4, 4]).try_conv2d(&z(&[2, 2, 3, 3]), None, Default::default()).is_err());
    assert!(z(&[1, 3, 2, 2]).try_conv2d(&z(&[2, 3, 3, 3]), None, Default::default()).is_err());
}

/// The GPU's large tiles (128 of 128 × 128 or more), those of 64 × 64 (more than 8) and the small ones; whole vec4s and not, each operand lying either
/// way, with a tail and without.
#[test]
fn tiles_of_all_sizes_agree_with_the_cpu() -> fornax::Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let cpu = Device::cpu();
    for (batch, m, k, n) in [(33, 130, 20, 132), (33, 130, 21, 129), (1, 132, 20, 132), (1, 130, 21, 129), (2, 36, 40, 68), (3, 35, 33, 29)]
    {
        for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
            let draw = |rows: usize, cols: usize, t: bool| {
                Tensor::uniform(if t { [batch, cols, rows] } else { [batch, rows, cols] }, -1.0, 1.0, cpu)
            };
            let (a, b, c) = (draw(m, k, ta), draw(k, n, tb), Tensor::uniform(n, -1.0, 1.0, cpu));
            let run = |d: Device| -> fornax::Result<(Vec<f32>, Vec<f32>)> {
                let lie = |x: &Tensor, t: bool| if t { x.try_to(d)?.try_transpose(1, 2) } else { x.try_to(d) };
                let y = lie(&a, ta)?.try_matmul(&lie(&b, tb)?)?;
                let tail = lie(&a, ta)?.try_matmul(&lie(&b, tb)?)?.try_add(c.try_to(d)?)?.try_relu()?;
                Ok((y.to_vec()?, tail.to_vec()?))
            };
            let (want, got) = (run(cpu)?, run(gpu)?);
            for (w, g) in want.0.iter().chain(&want.1).zip(got.0.iter().chain(&got.1)) {
                assert!((w - g).abs() <= 2e-5, "{w} {g}, {m} {k} {n}, transposed {ta} {tb}");
            }
        }
    }
    Ok(())
}

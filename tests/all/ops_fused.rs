//! The options of the fused ops (masks, weights, ignored positions, groups) and linear algebra, in the op harness.

use crate::harness::*;
use fornax::{Attention, CrossEntropy, Device, Reduction, Result, Tensor, nn};

fn ids(like: &Tensor, v: &[i32], shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(v.to_vec(), shape, like.device())
}

fn attend(t: &[Tensor], options: Attention) -> Result<Tensor> {
    t[0].try_scaled_dot_product_attention(&t[1], &t[2], &options)
}

/// Rows of `n`, about their mean or about 0, over the root of their mean square + 1e-5; then times and plus.
fn normalized(x: &[f64], n: usize, affine: Option<(&[f64], &[f64])>, centred: bool) -> Vec<f64> {
    let row = |x: &[f64]| -> Vec<f64> {
        let mean = if centred { x.iter().sum::<f64>() / n as f64 } else { 0.0 };
        let square = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        let y = x.iter().map(|v| (v - mean) / (square + 1e-5).sqrt());
        match affine {
            Some((w, b)) => y.zip(w.iter().zip(b)).map(|(y, (w, b))| y * w + b).collect(),
            None => y.collect(),
        }
    };
    x.chunks(n).flat_map(row).collect()
}

pub fn cases() -> Vec<Case> {
    let entropy = |t: &Tensor, ignore: i32, eps: f64, weight: Option<&Tensor>, reduction| -> Result<Tensor> {
        let targets = ids(t, &[4, 0, -7, 2, 1, 1], &[2, 3])?;
        let options = CrossEntropy { weight: weight.map(Tensor::detach), ignore_index: ignore, label_smoothing: eps, reduction };
        t.try_cross_entropy(&targets, &options)
    };
    vec![
        case("softmax in the middle", &[real(&[2, 3, 70])], |t| t[0].try_softmax(1)),
        case("log_softmax in the middle", &[real(&[2, 5, 3])], |t| t[0].try_log_softmax(1)),
        case("softmax of nothing", &[real(&[0, 3])], |t| t[0].try_softmax(1)).flat(),
        case("instance_norm", &[real(&[2, 3, 35]), real(&[3]), real(&[3])], |t| t[0].try_instance_norm(Some(&t[1]), Some(&t[2]), 1e-5))
            .tol(1e-4),
        case("layer_norm of two axes", &[real(&[3, 5, 7]), real(&[5, 7]), real(&[5, 7])], |t| {
            t[0].try_layer_norm([5, 7], Some(&t[1]), Some(&t[2]), 1e-5)
        })
        .tol(1e-4)
        .oracle(|a| normalized(&a[0].v, 35, Some((&a[1].v, &a[2].v)), true)),
        case("layer_norm of long rows", &[real(&[2, 1030])], |t| t[0].try_layer_norm(1030, None, None, 1e-5))
            .tol(1e-4)
            .once()
            .oracle(|a| normalized(&a[0].v, 1030, None, true)),
        case("rms_norm", &[real(&[3, 2, 35]), real(&[35])], |t| t[0].try_rms_norm(35, Some(&t[1]), 1e-5))
            .tol(1e-4)
            .oracle(|a| normalized(&a[0].v, 35, Some((&a[1].v, &[0.0; 35])), false)),
        case("rms_norm of long rows", &[real(&[2, 1030])], |t| t[0].try_rms_norm(1030, None, 1e-5))
            .tol(1e-4)
            .once()
            .oracle(|a| normalized(&a[0].v, 1030, None, false)),
        case("group_norm with a bias only", &[real(&[2, 4, 2, 3]), real(&[4])], |t| t[0].try_group_norm(2, None, Some(&t[1]), 1e-5))
            .tol(1e-4),
        case("batch_norm_training of images", &[real(&[3, 2, 5, 5]), real(&[2])], |t| {
            Ok(t[0].try_batch_norm_training(Some(&t[1]), None, 1e-5)?.0)
        })
        .tol(1e-4)
        .no_half(),
        case("cross_entropy of images", &[real(&[2, 5, 3])], move |t| entropy(&t[0], -7, 0.0, None, Reduction::Mean)),
        case("cross_entropy smoothed", &[real(&[2, 5, 3])], move |t| entropy(&t[0], -7, 0.1, None, Reduction::Sum)),
        case("cross_entropy weighted", &[real(&[2, 5, 3])], move |t| {
            let w = Tensor::try_arange(1.0, 6.0, 1.0, (t[0].dtype(), t[0].device()))?;
            entropy(&t[0], -7, 0.2, Some(&w), Reduction::None)
        }),
        case("cross_entropy of probabilities", &[real(&[3, 5]), within(0.0, 1.0, &[3, 5])], |t| {
            t[0].try_cross_entropy(&t[1], &CrossEntropy { label_smoothing: 0.1, ..Default::default() })
        }),
        case("nll_loss", &[real(&[3, 5])], |t| t[0].try_nll_loss(&ids(&t[0], &[4, 0, 2], &[3])?, &Default::default())).once(),
        case("BCE", &[within(0.05, 0.95, &[3, 5]), within(0.0, 1.0, &[3, 5])], |t| {
            nn::BCELoss::new().reduction(Reduction::None).forward(&t[0], &t[1])
        })
        .oracle(|a| a[0].v.iter().zip(&a[1].v).map(|(x, t)| -(t * x.ln() + (1.0 - t) * (1.0 - x).ln())).collect()),
        case("BCE with logits", &[real(&[3, 5]), within(0.0, 1.0, &[3, 5])], |t| {
            let positive = Tensor::try_arange(0.5, 3.0, 0.5, (t[0].dtype(), t[0].device()))?;
            nn::BCEWithLogitsLoss::new().pos_weight(positive).reduction(Reduction::None).forward(&t[0], &t[1])
        })
        .oracle(|a| {
            let loss = |i: usize, x: f64, t: f64| 0.5 * (i % 5 + 1) as f64 * t * (-x).exp().ln_1p() + (1.0 - t) * x.exp().ln_1p();
            a[0].v.iter().zip(&a[1].v).enumerate().map(|(i, (x, t))| loss(i, *x, *t)).collect()
        }),
        // The gradient is the one behind a log-softmax.
        case("ctc_loss", &[real(&[4, 2, 3])], |t| {
            let (targets, lengths) = (ids(&t[0], &[1, 1, 2, 1], &[2, 2])?, ids(&t[0], &[4, 3], &[2])?);
            let losses = fornax::nn::CTCLoss::new().reduction(Reduction::None);
            losses.forward(&t[0].try_log_softmax(-1)?, &targets, &lengths, &ids(&t[0], &[2, 1], &[2])?)
        })
        .tol(1e-4),
        case("ctc_loss of much", &[real(&[9, 2, 5])], |t| {
            let targets: Vec<i32> = (0..300).map(|i| i % 4 + 1).collect();
            let (targets, lengths) = (ids(&t[0], &targets, &[2, 150])?, ids(&t[0], &[9, 5], &[2])?);
            let loss = fornax::nn::CTCLoss::new().zero_infinity(true);
            loss.forward(&t[0].try_log_softmax(-1)?, &targets, &lengths, &ids(&t[0], &[3, 6], &[2])?)
        })
        .tol(1e-4)
        .once(),
        case("attention causal", &[real(&[1, 2, 3, 4]), real(&[1, 2, 5, 4]), real(&[1, 2, 5, 3])], |t| {
            attend(t, Attention { causal: true, position: 1, ..Default::default() })
        })
        .tol(1e-4),
        case("attention masked", &[real(&[2, 3, 2]), real(&[2, 4, 2]), real(&[2, 4, 2]), bools(&[3, 4])], |t| {
            attend(t, Attention { mask: Some(t[3].clone()), scale: Some(0.9), ..Default::default() })
        })
        .tol(1e-4),
        case("attention biased", &[real(&[1, 2, 3, 2]), real(&[1, 2, 4, 2]), real(&[1, 2, 4, 2]), real(&[2, 1, 4])], |t| {
            attend(t, Attention { bias: Some(t[3].clone()), ..Default::default() })
        })
        .tol(1e-4),
        case("attention in groups", &[real(&[1, 4, 3, 2]), real(&[1, 2, 3, 2]), real(&[1, 2, 3, 2])], |t| {
            attend(t, Attention { causal: true, ..Default::default() })
        })
        .tol(1e-4),
        case("attention across tiles", &[real(&[1, 2, 70, 9]), real(&[1, 1, 70, 9]), real(&[1, 1, 70, 17])], |t| {
            attend(t, Attention { causal: true, ..Default::default() })
        })
        .tol(2e-4)
        .once()
        .no_half(),
        case("lstm", &[real(&[3, 2, 8]), real(&[8, 2]), real(&[2, 2]), real(&[2, 2])], |t| {
            let (h, c) = t[0].try_lstm(&t[1], &t[2], &t[3], false)?;
            h.try_add(c.try_mul(0.5)?)
        })
        .tol(1e-4),
        case("lstm backward in time", &[real(&[2, 3, 4]), real(&[4, 1]), real(&[3, 1]), real(&[3, 1])], |t| {
            Ok(t[0].try_lstm(&t[1], &t[2], &t[3], true)?.0)
        })
        .tol(1e-4),
        case("lstm across tiles", &[real(&[3, 17, 36]), real(&[36, 9]), real(&[17, 9]), real(&[17, 9])], |t| {
            let (h, c) = t[0].try_lstm(&t[1], &t[2], &t[3], false)?;
            h.try_mul(&c)
        })
        .tol(2e-4)
        .once()
        .no_half(),
    ]
}

#[cfg(feature = "linalg")]
pub fn linear_algebra() -> Vec<Case> {
    let symmetric = |a: &Tensor| a.try_add(a.try_transpose(-1, -2)?);
    // Far from singular: the matrix and four times the identity.
    let regular = |a: &Tensor| a.try_add(Tensor::try_eye(a.dims()[a.rank() - 1], (a.dtype(), a.device()))?.try_mul(4.0)?);
    let list = vec![
        case("qr", &[real(&[2, 4, 3])], |t| Ok(t[0].try_qr()?.0)),
        case("qr of wide", &[real(&[2, 4])], |t| Ok(t[0].try_qr()?.1)),
        case("svd", &[real(&[4, 3])], |t| {
            let (u, s, vt) = t[0].try_svd()?;
            u.try_square()?.try_sum(())?.try_add(s.try_exp()?.try_sum(())?)?.try_add(vt.try_square()?.try_mul(&s.try_unsqueeze(-1)?)?)
        }),
        case("eigh", &[real(&[2, 3, 3])], move |t| {
            let (w, v) = symmetric(&t[0])?.try_eigh()?;
            v.try_square()?.try_mul(w.try_unsqueeze(-2)?)
        }),
        case("cholesky", &[within(-1.0, 1.0, &[2, 3, 3])], move |t| symmetric(&regular(&t[0])?)?.try_cholesky()),
        case("solve", &[within(-1.0, 1.0, &[2, 3, 3]), real(&[3, 2])], move |t| regular(&t[0])?.try_solve(&t[1])),
        case("solve one column", &[within(-1.0, 1.0, &[3, 3]), real(&[3])], move |t| regular(&t[0])?.try_solve(&t[1])),
        case("det", &[within(-1.0, 1.0, &[2, 3, 3])], move |t| regular(&t[0])?.try_det()),
        case("inverse", &[within(-1.0, 1.0, &[3, 3])], move |t| regular(&t[0])?.try_inverse()),
    ];
    list.into_iter().map(|c| c.tol(1e-3).no_half()).collect()
}

#[test]
fn fused_ops() {
    check_all(&cases(), &[("kernel = decomposition", 12), ("gradient", 60), ("second derivative", 26), ("gpu gradient", 15)]);
}

#[cfg(feature = "linalg")]
#[test]
fn linear_algebra_ops() {
    check_all(&linear_algebra(), &[("gradient", 68), ("second derivative", 18), ("second, by element", 4), ("gpu = cpu", 9)]);
}

#[test]
#[ignore = "runs in a process of its own: faults.rs"]
fn a_class_out_of_range_is_an_error() {
    for device in [Some(Device::cpu()), gpu()].into_iter().flatten() {
        let x = Tensor::zeros([2, 3], device);
        let loss = x.try_cross_entropy(&ids(&x, &[0, 3], &[2]).unwrap(), &Default::default()).unwrap();
        assert!(matches!(loss.item::<f32>(), Err(fornax::Error::Index { .. })), "{device}");
    }
}

#[test]
fn wrong_use_of_fused_ops_is_an_error() {
    let z = |s: &[usize]| Tensor::zeros(s, Device::cpu());
    assert!(z(&[2, 3]).try_softmax(2).is_err());
    assert!(z(&[2, 3]).try_layer_norm(4, None, None, 1e-5).is_err());
    assert!(z(&[2, 3]).try_layer_norm(3, Some(&z(&[2])), None, 1e-5).is_err());
    assert!(z(&[2, 4, 2]).try_group_norm(3, None, None, 1e-5).is_err());
    assert!(z(&[1, 4]).try_batch_norm_training(None, None, 1e-5).is_err());
    let t = ids(&z(&[1]), &[0, 0, 0], &[3]).unwrap();
    assert!(z(&[2, 3]).try_cross_entropy(&t, &Default::default()).is_err());
    assert!(z(&[3, 3]).try_cross_entropy(&t, &CrossEntropy { label_smoothing: 2.0, ..Default::default() }).is_err());
    let (q, k) = (z(&[1, 3, 2, 4]), z(&[1, 2, 2, 4]));
    assert!(q.try_scaled_dot_product_attention(&k, &k, &Default::default()).is_err());
    let mask = Attention { mask: Some(z(&[2, 2])), ..Default::default() };
    assert!(q.try_scaled_dot_product_attention(&q, &q, &mask).is_err());
}

#[test]
fn dropout_in_attention_keeps_the_mean() {
    let _seed = fornax::testing::seed(3);
    let q = Tensor::ones([1, 1, 200, 4], Device::cpu());
    let y = attend(&[q.clone(), q.clone(), q], Attention { dropout: 0.3, ..Default::default() }).unwrap();
    let mean = y.mean(()).item::<f32>().unwrap();
    assert!((mean - 1.0).abs() < 0.05 && y.to_vec::<f32>().unwrap().iter().any(|v| (v - 1.0).abs() > 1e-3), "{mean}");
}

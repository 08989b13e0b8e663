//! The fused ops of networks: softmax, norms, losses, attention; and einsum.

use crate::harness::*;
use fornax::{Result, Tensor};

fn softmax(l: &[f64]) -> Vec<f64> {
    let m = l.iter().copied().fold(f64::MIN, f64::max);
    let s: f64 = l.iter().map(|x| (x - m).exp()).sum();
    l.iter().map(|x| (x - m).exp() / s).collect()
}

pub fn networks() -> Vec<Case> {
    let rows = |f: fn(&[f64]) -> Vec<f64>, n: usize| move |a: &[Arr]| a[0].v.chunks(n).flat_map(f).collect::<Vec<f64>>();
    fn norm(l: &[f64]) -> Vec<f64> {
        let n = l.len() as f64;
        let m = l.iter().sum::<f64>() / n;
        let v = l.iter().map(|x| (x - m) * (x - m)).sum::<f64>() / n;
        l.iter().map(|x| (x - m) / (v + 1e-5).sqrt()).collect()
    }
    fn rms(l: &[f64]) -> Vec<f64> {
        let s = l.iter().map(|x| x * x).sum::<f64>() / l.len() as f64;
        l.iter().map(|x| x / (s + 1e-5).sqrt()).collect()
    }
    fn log_softmax(l: &[f64]) -> Vec<f64> {
        softmax(l).into_iter().map(f64::ln).collect()
    }
    let ids = |t: &Tensor, v: &[i32], shape: &[usize]| -> Result<Tensor> { Tensor::from_vec(v.to_vec(), shape, t.device()) };
    vec![
        case("einsum ij,jk->ik", &[real(&[2, 3]), real(&[3, 2])], |t| Tensor::try_einsum("ij,jk->ik", &[&t[0], &t[1]])),
        case("einsum bij,bkj->bik", &[real(&[2, 2, 3]), real(&[2, 4, 3])], |t| Tensor::try_einsum("bij,bkj->bik", &[&t[0], &t[1]])),
        case("einsum ii->i", &[real(&[3, 3])], |t| Tensor::try_einsum("ii->i", &[&t[0]])),
        case("einsum ij->j", &[real(&[2, 3])], |t| Tensor::try_einsum("ij->j", &[&t[0]])),
        case("softmax", &[real(&[3, 4])], |t| t[0].try_softmax(-1)).oracle(rows(softmax, 4)),
        case("softmax axis 0", &[real(&[3, 4])], |t| t[0].try_softmax(0)),
        case("softmax of long rows", &[real(&[3, 1031])], |t| t[0].try_softmax(1)).oracle(rows(softmax, 1031)).flat().no_half(),
        case("log_softmax", &[real(&[3, 4])], |t| t[0].try_log_softmax(1)).oracle(rows(log_softmax, 4)),
        case("layer_norm", &[real(&[3, 5]), real(&[5]), real(&[5])], |t| t[0].try_layer_norm(5, Some(&t[1]), Some(&t[2]), 1e-5)).tol(1e-4),
        case("layer_norm without weights", &[real(&[3, 5])], |t| t[0].try_layer_norm(5, None, None, 1e-5)).oracle(rows(norm, 5)).tol(1e-4),
        case("layer_norm of long rows", &[real(&[5, 771])], |t| t[0].try_layer_norm(771, None, None, 1e-5))
            .oracle(rows(norm, 771))
            .tol(1e-4)
            .flat(),
        case("rms_norm", &[real(&[3, 5]), real(&[5])], |t| t[0].try_rms_norm(5, Some(&t[1]), 1e-5)).tol(1e-4),
        case("rms_norm without weights", &[real(&[3, 5])], |t| t[0].try_rms_norm(5, None, 1e-5)).oracle(rows(rms, 5)).tol(1e-4),
        case("group_norm", &[real(&[2, 4, 3]), real(&[4]), real(&[4])], |t| t[0].try_group_norm(2, Some(&t[1]), Some(&t[2]), 1e-5))
            .tol(1e-4),
        case("batch_norm", &[real(&[2, 3, 2]), real(&[3]), within(0.5, 2.0, &[3]), real(&[3]), real(&[3])], |t| {
            t[0].try_batch_norm(&t[1], &t[2], Some(&t[3]), Some(&t[4]), 1e-5)
        })
        .tol(1e-4),
        case("batch_norm_training", &[real(&[4, 3, 2]), real(&[3]), real(&[3])], |t| {
            Ok(t[0].try_batch_norm_training(Some(&t[1]), Some(&t[2]), 1e-5)?.0)
        })
        .tol(1e-4),
        case("cross_entropy", &[real(&[3, 5])], move |t| t[0].try_cross_entropy(&ids(&t[0], &[4, 0, 2], &[3])?, &Default::default()))
            .oracle(|a| {
                let picks: f64 = a[0].v.chunks(5).zip([4, 0, 2]).map(|(l, k): (&[f64], usize)| -softmax(l)[k].ln()).sum();
                vec![picks / 3.0]
            }),
        case("attention", &[real(&[1, 2, 3, 4]), real(&[1, 2, 5, 4]), real(&[1, 2, 5, 4])], |t| {
            t[0].try_scaled_dot_product_attention(&t[1], &t[2], &Default::default())
        })
        .tol(1e-4),
    ]
}

#[test]
fn network_ops() {
    check_all(&networks(), &[("kernel = decomposition", 5), ("gradient", 60), ("second derivative", 20)]);
}

//! Softmax, norms, losses, attention and linear algebra against PyTorch: values and gradients, on both backends. The files come from
//! `tests/golden/gen_norm_attention.py`.

use crate::golden_cases::{Case, Ins, one, run};
use fornax::{Attention, CrossEntropy, Reduction};

fn softmax_and_norms(name: &str) -> Option<Case> {
    let last = name.as_bytes().last().map_or(0, |b| (b % 8) as isize);
    let (w, b) = (|i: &Ins| i.get("w").cloned(), |i: &Ins| i.get("b").cloned());
    Some(match name {
        "softmax0" | "softmax1" | "softmax2" => Box::new(move |i| one(i["x"].try_softmax(last))),
        "log_softmax0" | "log_softmax1" | "log_softmax2" => Box::new(move |i| one(i["x"].try_log_softmax(last))),
        "softmax_inf" => Box::new(|i| Ok(vec![("y", i["x"].try_softmax(1)?), ("z", i["x"].try_log_softmax(1)?)])),
        "layer_norm" => Box::new(move |i| one(i["x"].try_layer_norm([5, 7], w(i).as_ref(), b(i).as_ref(), 1e-5))),
        "layer_norm_plain" => Box::new(|i| one(i["x"].try_layer_norm(33, None, None, 1e-3))),
        "rms_norm" => Box::new(move |i| one(i["x"].try_rms_norm(33, w(i).as_ref(), 1e-6))),
        "group_norm" => Box::new(move |i| one(i["x"].try_group_norm(3, w(i).as_ref(), b(i).as_ref(), 1e-5))),
        "instance_norm" => Box::new(move |i| one(i["x"].try_instance_norm(w(i).as_ref(), b(i).as_ref(), 1e-5))),
        "batch_norm_2d" | "batch_norm_rows" => Box::new(move |i| {
            let (y, mean, var) = i["x"].try_batch_norm_training(w(i).as_ref(), b(i).as_ref(), 1e-5)?;
            Ok(vec![("y", y), ("mean", mean), ("var", var)])
        }),
        "batch_norm_eval" => Box::new(move |i| one(i["x"].try_batch_norm(&i["m"], &i["v"], w(i).as_ref(), b(i).as_ref(), 1e-5))),
        _ => return None,
    })
}

fn losses(name: &str) -> Option<Case> {
    let reduction = match name.rsplit('_').next() {
        Some("sum") => Reduction::Sum,
        Some("none") => Reduction::None,
        _ => Reduction::Mean,
    };
    let (ignore_index, label_smoothing) = match name {
        n if n.starts_with("cross_entropy_all") => (1, 0.1),
        n if n.starts_with("cross_entropy_soft") => (-100, 0.2),
        n if n.starts_with("nll_loss") => (3, 0.0),
        _ => (-100, 0.0),
    };
    let options = move |i: &Ins| CrossEntropy { weight: i.get("w").cloned(), ignore_index, label_smoothing, reduction };
    Some(match name {
        n if n.starts_with("cross_entropy") => {
            Box::new(move |i| one(i["x"].try_cross_entropy(i.get("t").or_else(|| i.get("q")).unwrap(), &options(i))))
        }
        n if n.starts_with("nll_loss") => Box::new(move |i| one(i["x"].try_nll_loss(&i["t"], &options(i)))),
        _ => return None,
    })
}

fn attention(name: &str) -> Option<Case> {
    let causal = name == "attention_causal";
    let scale = (name == "attention_scale").then_some(0.7);
    name.starts_with("attention").then(|| -> Case {
        Box::new(move |i| {
            let options = Attention { mask: i.get("mask").cloned(), bias: i.get("bias").cloned(), causal, scale, ..Default::default() };
            one(i["q"].try_scaled_dot_product_attention(&i["k"], &i["v"], &options))
        })
    })
}

#[cfg(feature = "linalg")]
fn linear_algebra(name: &str) -> Option<Case> {
    Some(match name {
        "qr" => Box::new(|i| {
            let (q, r) = i["a"].try_qr()?;
            Ok(vec![("qq", q.try_square()?), ("rr", r.try_square()?)])
        }),
        "qr_wide" => Box::new(|i| Ok(vec![("rr", i["a"].try_qr()?.1.try_square()?)])),
        "svd" | "svd_wide" => Box::new(|i| {
            let (u, s, vt) = i["a"].try_svd()?;
            Ok(vec![("uu", u.try_square()?), ("s", s), ("vv", vt.try_square()?)])
        }),
        "eigh" => Box::new(|i| {
            let (w, v) = i["a"].try_add(i["a"].try_transpose(-1, -2)?)?.try_mul(0.5)?.try_eigh()?;
            Ok(vec![("w", w), ("vv", v.try_square()?)])
        }),
        "cholesky" => Box::new(|i| {
            let a = i["a"].try_add(i["a"].try_transpose(-1, -2)?)?.try_mul(0.5)?;
            Ok(vec![("l", a.try_cholesky()?)])
        }),
        "solve" => Box::new(|i| Ok(vec![("x", i["a"].try_solve(&i["b"])?)])),
        "det" => Box::new(|i| Ok(vec![("d", i["a"].try_det()?)])),
        "inverse" => Box::new(|i| Ok(vec![("x", i["a"].try_inverse()?)])),
        _ => return None,
    })
}

#[cfg(feature = "linalg")]
#[test]
fn linear_algebra_agrees_with_pytorch() {
    assert_eq!(run("norm_attention", &linear_algebra), 9);
}

#[test]
fn softmax_and_norms_agree_with_pytorch() {
    assert_eq!(run("norm_attention", &softmax_and_norms), 15);
}

#[test]
fn losses_agree_with_pytorch() {
    assert_eq!(run("norm_attention", &losses), 13);
}

#[test]
fn attention_agrees_with_pytorch() {
    assert_eq!(run("norm_attention", &attention), 6);
}

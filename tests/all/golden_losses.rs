//! Losses, distances and similarities against PyTorch and torchvision, forward and backward, on both backends (`tests/golden/gen_losses.py`).

use crate::golden_cases::{Case, Ins, one, run};
use crate::harness::gpu;
use fornax::nn::{self, Module};
use fornax::{DType, Device, Error, Reduction, Result, Tensor};

/// A loss of an input `x` and a target `t`.
macro_rules! pair {
    ($reduction:expr, $loss:expr) => {{
        let loss = $loss.reduction($reduction);
        Some(Box::new(move |i: &Ins| one(loss.forward(&i["x"], &i["t"]))) as Case)
    }};
}

/// A loss of inputs by name.
macro_rules! named {
    ($reduction:expr, $loss:expr, $($name:literal),+) => {{
        let loss = $loss.reduction($reduction);
        Some(Box::new(move |i: &Ins| one(loss.forward($(&i[$name]),+))) as Case)
    }};
}

/// A case's name without its reduction, and the reduction.
fn reduced(name: &str) -> Option<(&str, Reduction)> {
    let (name, reduction) = name.rsplit_once('_')?;
    let reduction = match reduction {
        "mean" => Reduction::Mean,
        "sum" => Reduction::Sum,
        "none" => Reduction::None,
        "batchmean" => Reduction::BatchMean,
        _ => return None,
    };
    Some((name, reduction))
}

fn regression(name: &str) -> Option<Case> {
    let (name, r) = reduced(name)?;
    match name.strip_suffix("_ties").unwrap_or(name) {
        "mse" => pair!(r, nn::MSELoss::new()),
        "l1" => pair!(r, nn::L1Loss::new()),
        "smooth_l1" => pair!(r, nn::SmoothL1Loss::new()),
        "smooth_l1_beta" => pair!(r, nn::SmoothL1Loss::new().beta(0.5)),
        "smooth_l1_zero" => pair!(r, nn::SmoothL1Loss::new().beta(0.0)),
        "huber" => pair!(r, nn::HuberLoss::new()),
        "huber_delta" => pair!(r, nn::HuberLoss::new().delta(1.5)),
        "poisson" => pair!(r, nn::PoissonNLLLoss::new()),
        "poisson_full" => pair!(r, nn::PoissonNLLLoss::new().full(true)),
        "poisson_rate" => pair!(r, nn::PoissonNLLLoss::new().log_input(false).full(true).eps(1e-3)),
        "gaussian" | "gaussian_rows" | "gaussian_one" => named!(r, nn::GaussianNLLLoss::new(), "x", "t", "v"),
        "gaussian_full" => named!(r, nn::GaussianNLLLoss::new().full(true).eps(0.3), "x", "t", "v"),
        _ => None,
    }
}

fn classification(name: &str) -> Option<Case> {
    let (name, r) = reduced(name)?;
    match name {
        "bce" | "bce_at_ends" | "bce_beyond_ends" | "bce_right" => pair!(r, nn::BCELoss::new()),
        "bce_weight" => Some(Box::new(move |i| one(nn::BCELoss::new().weight(i["w"].clone()).reduction(r).forward(&i["x"], &i["t"])))),
        "bce_logits" | "bce_logits_large" | "bce_logits_inf" => pair!(r, nn::BCEWithLogitsLoss::new()),
        // What is left of a loss whose large terms would cancel.
        "bce_logits_small" => {
            Some(Box::new(|i| one(nn::BCEWithLogitsLoss::new().reduction(Reduction::None).forward(&i["x"], &i["t"])?.try_mul(1e8))))
        }
        "bce_logits_weights" => Some(Box::new(move |i| {
            let loss = nn::BCEWithLogitsLoss::new().weight(i["w"].clone()).pos_weight(i["p"].clone());
            one(loss.reduction(r).forward(&i["x"], &i["t"]))
        })),
        "kl" | "kl_zeros" => pair!(r, nn::KLDivLoss::new()),
        "kl_log" => pair!(r, nn::KLDivLoss::new().log_target(true)),
        "focal" | "focal_large" => pair!(r, nn::SigmoidFocalLoss::new()),
        "focal_plain" => pair!(r, nn::SigmoidFocalLoss::new().alpha(-1.0).gamma(0.5)),
        "cross_entropy" => Some(Box::new(move |i| {
            let loss = nn::CrossEntropyLoss::new().weight(i["w"].clone()).label_smoothing(0.1);
            one(loss.reduction(r).forward(&i["x"], &i["t"]))
        })),
        "nll" => Some(Box::new(move |i| {
            let loss = nn::NLLLoss::new().weight(i["w"].clone()).ignore_index(2);
            one(loss.reduction(r).forward(&i["x"], &i["t"]))
        })),
        "distillation" => named!(r, nn::DistillationLoss::new().temperature(3.0).alpha(0.7), "student", "teacher", "t"),
        _ => None,
    }
}

fn margins(name: &str) -> Option<Case> {
    let (name, r) = reduced(name)?;
    match name {
        "hinge" => pair!(r, nn::HingeLoss::new()),
        "hinge_squared" => pair!(r, nn::HingeLoss::new().margin(0.5).squared(true)),
        "hinge_embedding" => pair!(r, nn::HingeEmbeddingLoss::new()),
        "hinge_embedding_margin" => pair!(r, nn::HingeEmbeddingLoss::new().margin(0.5)),
        "soft_margin" => pair!(r, nn::SoftMarginLoss::new()),
        "ranking" => named!(r, nn::MarginRankingLoss::new(), "x", "y", "t"),
        "ranking_margin" => named!(r, nn::MarginRankingLoss::new().margin(0.5), "x", "y", "t"),
        "multi_margin" | "multi_margin_single" => pair!(r, nn::MultiMarginLoss::new()),
        "multi_margin_squared" => Some(Box::new(move |i| {
            let loss = nn::MultiMarginLoss::new().p(2).margin(0.7).weight(i["w"].clone());
            one(loss.reduction(r).forward(&i["x"], &i["t"]))
        })),
        "multilabel_margin" | "multilabel_margin_single" => pair!(r, nn::MultiLabelMarginLoss::new()),
        "multilabel_soft" => pair!(r, nn::MultiLabelSoftMarginLoss::new()),
        "multilabel_soft_weight" => {
            Some(Box::new(move |i| one(nn::MultiLabelSoftMarginLoss::new().weight(i["w"].clone()).reduction(r).forward(&i["x"], &i["t"]))))
        }
        _ => None,
    }
}

fn embeddings(name: &str) -> Option<Case> {
    let (name, r) = reduced(name)?;
    match name {
        "cosine" | "cosine_zero" => named!(r, nn::CosineEmbeddingLoss::new(), "x", "y", "t"),
        "cosine_margin" => named!(r, nn::CosineEmbeddingLoss::new().margin(-0.6), "x", "y", "t"),
        "triplet" => named!(r, nn::TripletMarginLoss::new(), "a", "p", "n"),
        "triplet_swap" => named!(r, nn::TripletMarginLoss::new().swap(true).margin(2.0), "a", "p", "n"),
        "triplet_one" => named!(r, nn::TripletMarginLoss::new().p(1.0).eps(1e-3), "a", "p", "n"),
        "info_nce" | "info_nce_shared" | "info_nce_own" => {
            Some(Box::new(move |i| one(nn::InfoNCELoss::new().temperature(0.2).reduction(r).forward(&i["q"], &i["k"], i.get("n")))))
        }
        _ => None,
    }
}

fn alignments(name: &str) -> Option<Case> {
    let (name, r) = reduced(name)?;
    if !name.starts_with("ctc") {
        return None;
    }
    let (blank, zero) = (if name == "ctc_blank" { 2 } else { 0 }, name == "ctc_zero_infinity");
    let loss = nn::CTCLoss::new().blank(blank).zero_infinity(zero).reduction(r);
    let direct = name == "ctc_log_probs" || name == "ctc_unnormalised";
    Some(Box::new(move |i| {
        let x = if direct { i["x"].clone() } else { i["x"].try_log_softmax(-1)? };
        one(loss.forward(&x, &i["t"], &i["i"], &i["l"]))
    }))
}

fn distances(name: &str) -> Option<Case> {
    let (function, last) = name.rsplit_once('_').unwrap_or((name, ""));
    let p = last.parse::<f64>().unwrap_or(2.0);
    Some(match function {
        "cosine_similarity" if last == "1" || last == "tiny" => Box::new(|i| one(i["x"].try_cosine_similarity(&i["y"], 1))),
        "cosine_similarity" => Box::new(|i| one(i["x"].try_cosine_similarity(&i["y"], -1))),
        "pairwise_distance" => Box::new(move |i| one(i["x"].try_pairwise_distance(&i["y"], p))),
        "cdist" if last == "same" => Box::new(|i| one(i["x"].try_cdist(&i["x"].detach(), 2.0))),
        "cdist" => Box::new(move |i| one(i["x"].try_cdist(&i["y"], p))),
        "normalize" => Box::new(move |i| one(i["x"].try_normalize(p, -1))),
        "xlogy" => Box::new(|i| one(i["x"].try_xlogy(&i["y"]))),
        _ => return None,
    })
}

#[test]
fn losses_of_real_targets_as_pytorch() {
    assert_eq!(run("losses", &regression), 35);
}

#[test]
fn losses_of_classes_as_pytorch() {
    assert_eq!(run("losses", &classification), 41);
}

#[test]
fn losses_with_margins_as_pytorch() {
    assert_eq!(run("losses", &margins), 30);
}

#[test]
fn losses_of_embeddings_as_pytorch() {
    assert_eq!(run("losses", &embeddings), 15);
}

#[test]
fn ctc_as_pytorch() {
    assert_eq!(run("losses", &alignments), 19);
}

#[test]
fn distances_as_pytorch() {
    assert_eq!(run("losses", &distances), 18);
}

/// Sixteen-bit inputs: computed in f32, the result in the input's dtype.
#[test]
fn losses_of_half_precision() -> Result<()> {
    for device in [Some(Device::cpu()), gpu()].into_iter().flatten() {
        for dtype in [DType::F16, DType::BF16] {
            let x = Tensor::from_slice(&[300.0f32, -300.0, 0.5, 0.25], [2, 2], device)?.try_cast(dtype)?.requires_grad();
            let t = Tensor::from_slice(&[0.0f32, 0.0, 1.0, 0.0], [2, 2], device)?;
            // The squares are beyond f16; their mean in f32 is not what overflows.
            let loss = nn::huber_loss(&x, &t.try_cast(dtype)?)?;
            assert_eq!(loss.dtype(), dtype);
            assert_eq!(loss.item::<f32>()?, Tensor::full((), (299.5 * 2.0 + 0.125 + 0.03125) / 4.0, (dtype, device)).item::<f32>()?);
            let grads = loss.backward()?;
            assert_eq!(grads.get(&x).expect("a gradient").to_vec::<f32>()?, [0.25, -0.25, -0.125, 0.0625]);
            // Targets of integers and bools count as numbers; a wider float decides the dtype.
            let wide = nn::binary_cross_entropy_with_logits(&x.detach(), &t)?;
            assert_eq!(wide.dtype(), DType::F32);
            let bits = nn::binary_cross_entropy_with_logits(&x.detach(), &t.try_gt(0.5)?)?;
            assert_eq!(bits.dtype(), dtype);
            assert!((bits.item::<f32>()? - wide.item::<f32>()?).abs() < 0.5);
        }
    }
    Ok(())
}

/// A weight is a buffer: it moves and is saved with the module.
#[test]
fn weights_of_losses_are_buffers() -> Result<()> {
    let loss = nn::BCEWithLogitsLoss::new().pos_weight(Tensor::full(2, 3.0, Device::cpu()));
    let names: Vec<String> = loss.state_dict().into_keys().collect();
    assert_eq!(names, ["pos_weight"]);
    if let Some(device) = gpu() {
        loss.to(device)?;
        let x = Tensor::zeros([1, 2], device);
        assert!((loss.forward(&x, &Tensor::ones([1, 2], device))?.item::<f32>()? - 3.0 * 2f32.ln()).abs() < 1e-5);
    }
    Ok(())
}

/// Of nothing: PyTorch's means are NaN, its sums 0.
#[test]
fn losses_of_nothing() -> Result<()> {
    let none = Tensor::zeros([0, 3], Device::cpu());
    assert!(nn::mse_loss(&none, &none)?.item::<f32>()?.is_nan());
    assert_eq!(nn::MSELoss::new().reduction(Reduction::Sum).forward(&none, &none)?.item::<f32>()?, 0.0);
    assert_eq!(nn::KLDivLoss::new().reduction(Reduction::None).forward(&none, &none)?.dims(), [0, 3]);
    let x = Tensor::zeros([4, 0, 3], Device::cpu());
    let ids = |shape: &[usize]| Tensor::zeros(shape, (DType::I32, Device::cpu()));
    let each = nn::CTCLoss::new().reduction(Reduction::None).forward(&x, &ids(&[0, 2]), &ids(&[0]), &ids(&[0]))?;
    assert!(each.to_vec::<f32>()?.is_empty());
    // No labels at all: what is left are blanks.
    for device in [Some(Device::cpu()), gpu()].into_iter().flatten() {
        let x = Tensor::zeros([4, 2, 3], device).log_softmax(-1).requires_grad();
        let ids = |v: &[i32]| Tensor::from_slice(v, v.len(), device);
        let none = Tensor::zeros([2, 0], (DType::I32, device));
        let losses = nn::CTCLoss::new().reduction(Reduction::None).forward(&x, &none, &ids(&[4, 0])?, &ids(&[0, 0])?)?;
        let got = losses.to_vec::<f32>()?;
        assert!((got[0] - 4.0 * 3f32.ln()).abs() < 1e-5 && got[1] == 0.0, "{got:?} on {device}");
        let grads = losses.sum(()).backward()?;
        let sum = grads.get(&x).expect("a gradient").index(fornax::s![.., 1]).abs().sum(()).item::<f32>()?;
        assert_eq!(sum, 0.0);
        // One behind the other, and none of them.
        let joined = Tensor::zeros(0, (DType::I32, device));
        assert_eq!(nn::ctc_loss(&x.detach(), &joined, &ids(&[4, 0])?, &ids(&[0, 0])?)?.item::<f32>()?, got[0] / 2.0);
    }
    Ok(())
}

#[test]
fn wrong_losses_say_what_is_right() {
    let f = |shape: &[usize]| Tensor::zeros(shape, Device::cpu());
    let i = |shape: &[usize]| Tensor::zeros(shape, (DType::I32, Device::cpu()));
    let (x, one) = (f(&[2, 3]), f(&[2]));
    let message = |r: Result<Tensor, Error>| r.expect_err("an error").to_string();
    for (got, op, want) in [
        (message(nn::mse_loss(&x, &one)), "mse_loss", "one shape"),
        (message(nn::mse_loss(&i(&[2, 3]), &x)), "mse_loss", "a float dtype"),
        (message(nn::HuberLoss::new().delta(0.0).forward(&x, &x)), "huber_loss", "positive"),
        (message(nn::SmoothL1Loss::new().beta(-1.0).forward(&x, &x)), "smooth_l1_loss", "at least 0"),
        (message(nn::gaussian_nll_loss(&x, &x, &f(&[3]))), "gaussian_nll_loss", "without its last axis"),
        (message(nn::BCELoss::new().weight(f(&[2])).forward(&x, &x)), "binary_cross_entropy", "broadcasts"),
        (message(nn::cross_entropy(&x, &x.cast(DType::I32))), "cross_entropy", "[N, C, …]"),
        (message(nn::CrossEntropyLoss::new().weight(one.clone()).forward(&x, &i(&[2]))), "cross_entropy", "one element a class"),
        (message(nn::SigmoidFocalLoss::new().alpha(2.0).forward(&x, &x)), "sigmoid_focal_loss", "0..=1"),
        (message(nn::DistillationLoss::new().temperature(0.0).forward(&x, &x, &i(&[2]))), "distillation_loss", "positive temperature"),
        (message(nn::multi_margin_loss(&x, &one)), "multi_margin_loss", "integer dtype"),
        (message(nn::multi_margin_loss(&x, &i(&[3]))), "multi_margin_loss", "targets [N]"),
        (message(nn::MultiMarginLoss::new().p(3).forward(&x, &i(&[2]))), "multi_margin_loss", "1 or 2"),
        (message(nn::multilabel_margin_loss(&x, &i(&[2]))), "multilabel_margin_loss", "of its shape"),
        (message(nn::cosine_embedding_loss(&x, &x, &f(&[3]))), "cosine_embedding_loss", "targets [N]"),
        (message(nn::TripletMarginLoss::new().margin(0.0).forward(&x, &x, &x)), "triplet_margin_loss", "positive"),
        (message(nn::info_nce_loss(&x, &x, Some(&f(&[5, 2])))), "info_nce_loss", "[M, 3]"),
        (message(nn::ctc_loss(&f(&[4, 2, 3]), &i(&[2, 2]), &i(&[2]), &i(&[3]))), "ctc_loss", "lengths [N]"),
        (message(nn::ctc_loss(&f(&[4, 2, 3]), &f(&[2, 2]), &i(&[2]), &i(&[2]))), "ctc_loss", "integer dtypes"),
        (message(nn::CTCLoss::new().blank(3).forward(&f(&[4, 2, 3]), &i(&[2, 2]), &i(&[2]), &i(&[2]))), "ctc_loss", "3 classes"),
        (message(nn::ctc_loss(&f(&[0, 2, 3]), &i(&[2, 2]), &i(&[2]), &i(&[2]))), "ctc_loss", "at least one step"),
        (message(x.try_cdist(&f(&[2, 2]), 2.0)), "cdist", "rows of one length"),
        (message(x.try_cosine_similarity(&x, 2)), "cosine_similarity", "axis 2"),
    ] {
        assert!(got.starts_with(op) && got.contains(want), "{got:?} is not of {op}, or does not say {want:?}");
    }
}

//! Supervised fine-tuning, reward models and direct preference optimisation against PyTorch and transformers (`tests/golden/gen_align.py`), forward and
//! backward, on both backends; packing against samples alone; small trainings.

use crate::golden_cases::{Case, Ins, Outs, one, run};
use crate::harness::gpu;
use fornax::align::{
    Batch, DpoLoss, IGNORED, Packed, Preference, PreferenceBatch, RewardLoss, RewardModel, Sample, best_fit, sequence_log_probs, sft_loss,
};
use fornax::io::{StateDict, safetensors};
use fornax::nn::Module;
use fornax::optim::{AdamW, Optimizer};
use fornax::transformers::{CausalLm, Config};
use fornax::{DType, Device, GradCheck, Result, Tensor, check_gradients, no_grad};

fn dpo(loss: DpoLoss) -> Option<Case> {
    Some(Box::new(move |i: &Ins| -> Result<Outs> {
        let out = loss.forward(&i["c"], &i["r"], &i["rc"], &i["rr"])?;
        Ok(vec![("y", out.loss), ("chosen", out.chosen_rewards), ("rejected", out.rejected_rewards)])
    }))
}

fn reward(loss: RewardLoss) -> Option<Case> {
    Some(Box::new(move |i: &Ins| one(loss.forward(&i["c"], &i["r"], i.get("m")))))
}

#[test]
fn losses_as_pytorch() {
    let known = |name: &str| match name {
        "sft" => Some(Box::new(|i: &Ins| one(sft_loss(&i["x"], &i["labels"]))) as Case),
        "sums" => Some(Box::new(|i: &Ins| one(sequence_log_probs(&i["x"], &i["labels"]))) as Case),
        "dpo" => dpo(DpoLoss::new()),
        "dpo_smooth" => dpo(DpoLoss::new().beta(0.3).label_smoothing(0.1)),
        "dpo_robust" => dpo(DpoLoss::new().beta(0.5).label_smoothing(0.2).robust(true)),
        "reward" => reward(RewardLoss::new()),
        "reward_center" => reward(RewardLoss::new().center(0.01)),
        "reward_margin" => reward(RewardLoss::new().center(0.1)),
        _ => None,
    };
    assert_eq!(run("align", &known), 8);
}

fn folder(name: &str) -> String {
    format!("{}/tests/golden/transformers/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn expected() -> StateDict {
    safetensors::load(format!("{}/tests/golden/align_models.safetensors", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn on_devices(f: impl Fn(Device) -> Result<()>) {
    f(Device::cpu()).unwrap();
    if let Some(gpu) = gpu() {
        f(gpu).unwrap();
    }
}

/// Within a share of the largest number.
fn close(what: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let (g, w) = (got.to_vec::<f32>().unwrap(), want.to_vec::<f32>().unwrap());
    let scale = w.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    for (i, (g, w)) in g.iter().zip(&w).enumerate() {
        assert!((g - w).abs() <= tolerance * scale, "{what} on {}: element {i} is {g}, not {w}", got.device());
    }
}

/// As in gen_align.py.
fn samples() -> Vec<Sample> {
    let all: [(&[u32], &[u32]); 4] =
        [(&[5, 6, 7], &[8, 9]), (&[10], &[11, 12, 13, 14]), (&[15, 16, 17, 18], &[19]), (&[20, 21], &[22, 23, 24])];
    all.iter().map(|(p, c)| Sample::new(p, c)).collect()
}

/// As in gen_align.py.
fn preferences() -> Vec<Preference> {
    let all: [(&[u32], &[u32], &[u32]); 3] =
        [(&[5, 6, 7], &[8, 9], &[10]), (&[11], &[12, 13, 14], &[15, 16]), (&[17, 18], &[19], &[20, 21, 22, 23])];
    all.iter().map(|(p, c, r)| Preference { prompt: p.to_vec(), chosen: c.to_vec(), rejected: r.to_vec() }).collect()
}

#[test]
fn fine_tuning_as_transformers_padded_and_packed() {
    let e = expected();
    on_devices(|d| {
        for name in ["gpt2", "llama2", "mistral", "qwen2"] {
            let model = CausalLm::load(folder(name), d)?;
            let table = &model.decoder().embedding().weight;
            let batch = Batch::new(&samples(), 0, d)?;
            let logits = model.forward(&batch.tokens)?;
            close(name, &sequence_log_probs(&logits, &batch.labels)?, &e[&format!("{name}.sums")], 1e-5);
            let loss = sft_loss(&logits, &batch.labels)?;
            close(name, &loss, &e[&format!("{name}.sft")], 1e-5);
            let grads = loss.backward()?;
            close(name, table.grad(&grads).unwrap(), &e[&format!("{name}.grad")], 1e-4);
            // The same samples in rows of 12 tokens: the same loss, the same gradient.
            let packed = Packed::new(&samples(), 12, 0, d)?;
            assert_eq!(packed.ids.dims(), [2, 12]);
            let loss = sft_loss(&model.forward_packed(&packed.ids, &packed.segments)?, &packed.labels)?;
            close(name, &loss, &e[&format!("{name}.sft")], 1e-5);
            let grads = loss.backward()?;
            close(name, table.grad(&grads).unwrap(), &e[&format!("{name}.grad")], 1e-4);
        }
        Ok(())
    });
}

#[test]
fn a_packed_sample_has_the_logits_that_it_has_alone() {
    on_devices(|d| {
        // Mistral has a window of a few tokens, Falcon rotates or has ALiBi (in bf16, whose rounding depends on the place in the row).
        for (name, tolerance) in
            [("gpt2", 1e-5), ("llama3", 1e-5), ("mistral", 1e-5), ("qwen2", 1e-5), ("falcon-new", 1e-5), ("falcon-alibi", 2e-2)]
        {
            no_grad(|| {
                let model = CausalLm::load(folder(name), d)?;
                let samples: Vec<Sample> = [1u32, 9, 4, 13].iter().map(|&n| Sample::text(&(5..5 + n).collect::<Vec<_>>())).collect();
                let rows = vec![samples.iter().collect::<Vec<_>>(), vec![&samples[2], &samples[1]]];
                let packed = Packed::of_rows(&rows, 30, 0, d)?;
                let logits = model.forward_packed(&packed.ids, &packed.segments)?;
                for (r, row) in rows.iter().enumerate() {
                    let mut start = 0;
                    for sample in row {
                        let ids: Vec<i32> = sample.ids().iter().map(|&t| t as i32).collect();
                        let alone = model.forward(&Tensor::from_vec(ids, [1, sample.len()], d)?.into())?;
                        let here = logits.try_narrow(0, r, 1)?.try_narrow(1, start, sample.len())?;
                        close(name, &here, &alone, tolerance);
                        start += sample.len();
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn a_row_may_exceed_the_context() {
    let config = r#"{"model_type": "gpt2", "vocab_size": 20, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 6}"#;
    on_devices(|d| {
        let model = CausalLm::new(&Config::parse(config)?, d)?;
        let text = |n: u32| Sample::text(&(1..=n).collect::<Vec<_>>());
        let packed = Packed::new(&[text(6), text(5), text(4)], 24, 0, d)?;
        assert_eq!(packed.ids.dims(), [1, 24]);
        let loss = sft_loss(&model.forward_packed(&packed.ids, &packed.segments)?, &packed.labels)?;
        assert!(loss.item::<f32>()?.is_finite());
        Ok(())
    });
}

#[test]
fn direct_preference_optimisation_as_transformers() {
    let e = expected();
    on_devices(|d| {
        let (policy, reference) = (CausalLm::load(folder("gpt2"), d)?, CausalLm::load(folder("llama2"), d)?);
        let batch = PreferenceBatch::new(&preferences(), 0, d)?;
        let sums = |m: &CausalLm| batch.split(&sequence_log_probs(&m.forward(&batch.rows.tokens)?, &batch.rows.labels)?);
        let ((c, r), (rc, rr)) = (sums(&policy)?, sums(&reference)?);
        let out = DpoLoss::new().forward(&c, &r, &rc, &rr)?;
        close("loss", &out.loss, &e["dpo.loss"], 1e-5);
        close("rewards", &Tensor::try_cat(&[&out.chosen_rewards, &out.rejected_rewards], 0)?, &e["dpo.rewards"], 1e-4);
        let grads = out.loss.backward()?;
        let weights = policy.named_parameters();
        let (_, w) = weights.iter().find(|(n, _)| n == "transformer.h.0.attn.c_attn.weight").unwrap();
        close("gradient", w.grad(&grads).unwrap(), &e["dpo.grad"], 1e-4);
        // The reference is a constant.
        assert!(reference.parameters().iter().all(|p| p.grad(&grads).is_none()));
        Ok(())
    });
}

#[test]
fn reward_model_as_transformers() {
    let e = expected();
    // GPT-2's folder, and the head beside its weights.
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(format!("{}/config.json", folder("gpt2")), dir.path().join("config.json")).unwrap();
    let mut weights = safetensors::load(format!("{}/model.safetensors", folder("gpt2"))).unwrap();
    weights.insert("score.weight".to_string(), e["reward.score"].clone());
    safetensors::save(dir.path().join("model.safetensors"), &weights).unwrap();
    on_devices(|d| {
        let model = RewardModel::load(dir.path(), d)?;
        let batch = PreferenceBatch::new(&preferences(), 0, d)?;
        let rewards = model.forward(&batch.rows.tokens)?;
        close("rewards", &rewards, &e["reward.rewards"], 1e-5);
        let (c, r) = batch.split(&rewards)?;
        let loss = RewardLoss::new().center(0.01).forward(&c, &r, None)?;
        close("loss", &loss, &e["reward.loss"], 1e-5);
        let grads = loss.backward()?;
        let weights = model.named_parameters();
        for (name, key) in [("transformer.h.0.attn.c_attn.weight", "reward.grad"), ("score.weight", "reward.gradscore")] {
            let (_, w) = weights.iter().find(|(n, _)| n == name).unwrap();
            close(name, w.grad(&grads).unwrap(), &e[key], 1e-4);
        }
        // A batch without padding has no mask.
        let one = PreferenceBatch::new(&[Preference { prompt: vec![5, 6, 7], chosen: vec![8, 9], rejected: vec![9, 8] }], 0, d)?;
        assert!(one.rows.tokens.mask.is_none());
        close("one", &model.forward(&one.rows.tokens)?.try_narrow(0, 0, 1)?, &e["reward.rewards"].narrow(0, 0, 1), 1e-4);
        Ok(())
    });
    // The language model's own folder has no head for rewards.
    assert!(RewardModel::load(folder("gpt2"), Device::cpu()).err().unwrap().to_string().contains("score.weight"));
}

#[test]
fn gradients_of_the_losses() {
    let numbers = |n: usize, shift: f64| -> Tensor {
        let v: Vec<f64> = (0..n).map(|i| ((i * 37 % 23) as f64 - 11.0) / 4.0 + shift).collect();
        Tensor::from_vec(v, n, Device::cpu()).unwrap()
    };
    let (a, b, c, d) = (numbers(5, 0.1), numbers(5, -0.7), numbers(5, 1.3), numbers(5, 0.4));
    for loss in [DpoLoss::new(), DpoLoss::new().label_smoothing(0.1), DpoLoss::new().beta(0.7).label_smoothing(0.3).robust(true)] {
        check_gradients(|x| Ok(loss.forward(&x[0], &x[1], &c, &d)?.loss), &[&a, &b], GradCheck::default()).unwrap();
        // Neither the reference nor the rewards carry a gradient.
        let out = loss.forward(&a, &b, &c.requires_grad(), &d.requires_grad()).unwrap();
        assert!(!out.loss.is_differentiable() && !out.chosen_rewards.is_differentiable());
    }
    check_gradients(|x| RewardLoss::new().center(0.2).forward(&x[0], &x[1], Some(&c)), &[&a, &b], GradCheck::default()).unwrap();
    let logits = numbers(2 * 4 * 5, 0.0).reshape([2, 4, 5]);
    let labels = Tensor::from_slice(&[IGNORED, IGNORED, 3, 1, 0, 4, IGNORED, 2], [2, 4], Device::cpu()).unwrap();
    check_gradients(|x| sft_loss(&x[0], &labels), &[&logits], GradCheck::default()).unwrap();
    check_gradients(|x| sequence_log_probs(&x[0], &labels), &[&logits], GradCheck::default()).unwrap();
}

#[test]
fn packing_is_best_fit_decreasing() {
    // TRL's example: rows of 4 tokens.
    assert_eq!(best_fit(&[4, 2, 3, 1], 4).unwrap(), [vec![0], vec![2, 3], vec![1]]);
    // Every text once, no row too long, and few rows.
    let lengths: Vec<usize> = (0..500).map(|i| i * 7919 % 61).collect();
    let rows = best_fit(&lengths, 64).unwrap();
    let mut seen: Vec<usize> = rows.iter().flatten().copied().collect();
    seen.sort();
    assert_eq!(seen, (0..500).filter(|&i| lengths[i] > 0).collect::<Vec<_>>());
    assert!(rows.iter().all(|r| r.iter().map(|&i| lengths[i]).sum::<usize>() <= 64));
    let least = lengths.iter().sum::<usize>().div_ceil(64);
    assert!(rows.len() <= least + least / 50 + 1, "{} rows, {least} at least", rows.len());
}

/// A small model that was drawn anew.
fn small(seed: u64) -> CausalLm {
    let _seed = fornax::testing::seed(seed);
    let config = r#"{"model_type": "llama", "vocab_size": 32, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}"#;
    CausalLm::new(&Config::parse(config).unwrap(), Device::cpu()).unwrap()
}

#[test]
fn fine_tuning_learns_what_counts_and_nothing_else() {
    // The answer to `1 a` is `a+10 2`; what stands in the prompt's third place is noise, and cannot be learned by what is masked.
    let sample = |i: u32| Sample::new(&[1, 3 + i % 8, 20 + i * 5 % 11], &[13 + i % 8, 2]);
    let samples: Vec<Sample> = (0..64).map(sample).collect();
    let model = small(3);
    let packed = Packed::new(&samples, 40, 0, Device::cpu()).unwrap();
    let batch = Batch::new(&samples, 0, Device::cpu()).unwrap();
    // The labels of the prompts alone: what the training must not have made better.
    let prompts: Vec<Sample> = samples.iter().map(|s| Sample::masked(s.ids(), &[true, true, true, false, false]).unwrap()).collect();
    let others = Batch::new(&prompts, 0, Device::cpu()).unwrap();
    let losses = || -> [f32; 2] {
        no_grad(|| {
            let logits = model.forward(&batch.tokens).unwrap();
            [&batch.labels, &others.labels].map(|l| sft_loss(&logits, l).unwrap().item::<f32>().unwrap())
        })
    };
    let before = losses();
    let mut optimizer = AdamW::new(model.parameters(), 1e-2);
    for _ in 0..60 {
        let loss = sft_loss(&model.forward_packed(&packed.ids, &packed.segments).unwrap(), &packed.labels).unwrap();
        optimizer.step(loss.backward().unwrap()).unwrap();
    }
    let after = losses();
    assert!(after[0] < 0.05 * before[0], "answers: {before:?} to {after:?}");
    assert!(after[1] > 0.9 * before[1], "prompts: {before:?} to {after:?}");
}

#[test]
fn preferences_raise_the_margin() {
    let pairs: Vec<Preference> =
        (0..16).map(|i| Preference { prompt: vec![1, 3 + i], chosen: vec![20, 2], rejected: vec![21, 2] }).collect();
    let batch = PreferenceBatch::new(&pairs, 0, Device::cpu()).unwrap();
    let (model, reference) = (small(4), small(4));
    let sums = |m: &CausalLm| -> Result<(Tensor, Tensor)> {
        batch.split(&sequence_log_probs(&m.forward(&batch.rows.tokens)?, &batch.rows.labels)?)
    };
    let (rc, rr) = no_grad(|| sums(&reference)).unwrap();
    let mut optimizer = AdamW::new(model.parameters(), 2e-3);
    let mut history = Vec::new();
    for _ in 0..30 {
        let (c, r) = sums(&model).unwrap();
        let out = DpoLoss::new().forward(&c, &r, &rc, &rr).unwrap();
        let margin = out.margins().unwrap().mean(()).item::<f32>().unwrap();
        history.push((out.loss.item::<f32>().unwrap(), margin, out.accuracy().unwrap().item::<f32>().unwrap()));
        optimizer.step(out.loss.backward().unwrap()).unwrap();
    }
    // It starts as the reference: a loss of ln 2 and no margin.
    let ((loss, margin, _), (end_loss, end_margin, accuracy)) = (history[0], history[29]);
    assert!((loss - 2f32.ln()).abs() < 1e-5 && margin.abs() < 1e-5, "{loss} {margin}");
    assert!(end_margin > 0.5 && end_loss < 0.8 * loss && accuracy == 1.0, "{end_loss} {end_margin} {accuracy}");
}

fn says<T>(r: Result<T>, part: &str) {
    let message = r.err().expect("an error").to_string();
    assert!(message.contains(part), "{part:?} is not in {message:?}");
}

#[test]
fn what_does_not_fit_is_said() {
    let d = Device::cpu();
    let x = |shape: &[usize]| Tensor::zeros(shape, d);
    let labels = |shape: &[usize]| Tensor::zeros(shape, (DType::I32, d));
    says(sft_loss(&x(&[2, 3, 4]), &labels(&[2, 4])), "labels [B, T]");
    says(sft_loss(&x(&[2, 4]), &labels(&[2, 4])), "logits [B, T, V]");
    says(sft_loss(&x(&[2, 3, 4]), &x(&[2, 3])), "integers");
    says(sequence_log_probs(&x(&[2, 0, 4]), &labels(&[2, 0])), "at least one place");
    let v = x(&[3]);
    says(DpoLoss::new().beta(0.0).forward(&v, &v, &v, &v), "positive");
    says(DpoLoss::new().label_smoothing(0.5).forward(&v, &v, &v, &v), "below 0.5");
    says(DpoLoss::new().forward(&v, &x(&[2]), &v, &v), "four tensors [N]");
    says(RewardLoss::new().center(-1.0).forward(&v, &v, None), "at least 0");
    says(RewardLoss::new().forward(&v, &v, Some(&x(&[1]))), "margin of the same shape");
    says(Sample::masked(&[1, 2], &[true]), "one a token");
    says(Batch::new(&[], 0, d), "no token counts");
    says(Batch::new(&[Sample::new(&[1, 2, 3], &[4]).truncated(3)], 0, d), "cut off");
    says(Batch::new(&[Sample::text(&[1, 2]), Sample::text(&[])], 0, d), "sample 1 has no tokens");
    says(Batch::new(&[Sample::text(&[1, u32::MAX])], 0, d), "no token of any vocabulary");
    says(Packed::new(&[Sample::text(&[1, 2, 3])], 2, 0, d), "Sample::truncated");
    says(Packed::new(&[Sample::text(&[1])], 2, 0, d), "no token counts");
    let s = Sample::text(&[1, 2]);
    says(Packed::of_rows(&[vec![&s, &s]], 3, 0, d), "at most 3");
    let pair = |p: &[u32], c: &[u32], r: &[u32]| Preference { prompt: p.to_vec(), chosen: c.to_vec(), rejected: r.to_vec() };
    says(PreferenceBatch::new(&[pair(&[1], &[2], &[])], 0, d), "rejected completion of pair 0");
    says(PreferenceBatch::new(&[pair(&[1], &[2], &[3]), pair(&[], &[2], &[3])], 0, d), "prompt of pair 1");
    says(PreferenceBatch::new(&[pair(&[1], &[2], &[3])], 0, d).unwrap().split(&v), "2 rows");
    let model = small(1);
    says(model.forward_packed(&labels(&[2, 4]), &labels(&[2, 3])), "of the shape of the ids");
    says(model.forward_packed(&labels(&[2, 4]), &x(&[2, 4])), "integers");
}

//! Fine-tuning on answers and preferences, against TRL's formulas in PyTorch (`tests/golden/gen_align.py`).

use fornax::align::{
    Dpo, DpoKind, Example, IGNORED, PreferenceBatch, RewardLoss, RewardModel, answer_log_probs, batch, next_token_loss, pack,
};
use fornax::io::safetensors;
use fornax::lora::{Adapters, LoraConfig, Targets};
use fornax::nn::{Module, Param};
use fornax::optim::{AdamW, Optimizer};
use fornax::transformers::CausalLm;
use fornax::{Device, Result, Tensor, no_grad};

fn golden(path: &str) -> String {
    format!("{}/tests/golden/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs on the CPU, and on a GPU if there is one.
fn on_devices(run: impl Fn(Device) -> Result<()>) {
    run(Device::cpu()).unwrap();
    match Device::gpu(0) {
        Ok(gpu) => run(gpu).unwrap(),
        Err(e) if std::env::var_os("FORNAX_REQUIRE_GPU").is_some() => panic!("{e}"),
        Err(e) => eprintln!("skipped on the GPU: {e}"),
    }
}

fn close_to(what: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let (g, w) = (got.to_vec::<f32>().unwrap(), want.to_vec::<f32>().unwrap());
    let scale = w.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let off = g.iter().zip(&w).fold(0.0f32, |m, (g, w)| if (g - w).abs() <= m { m } else { (g - w).abs() });
    assert!(off <= tolerance * scale, "{what} on {}: off by {off} of {scale}", got.device());
}

fn close(what: &str, got: &Tensor, want: &Tensor) {
    close_to(what, got, want, 2e-5)
}

#[test]
fn losses_as_trl() {
    on_devices(|d| {
        let e = safetensors::load(golden("align.safetensors"))?;
        let on = |name: &str| e[name].to(d);
        let labels = on("labels");
        let check = |name: &str, param: &Param, loss: Tensor| -> Result<()> {
            close(name, &loss, &e[name]);
            let grads = loss.backward()?;
            close(&format!("{name}, gradient"), param.grad(&grads).unwrap(), &e[&format!("grad.{name}")]);
            Ok(())
        };
        let logits = Param::new(on("logits"));
        check("sft", &logits, next_token_loss(&logits.get(), &labels)?)?;
        let reference = answer_log_probs(&on("reference"), &labels)?;
        close("ref", &reference, &e["ref"]);
        let beta = 0.3;
        for (name, dpo) in [
            ("dpo", Dpo { beta, ..Dpo::default() }),
            ("dpo_smooth", Dpo { beta, label_smoothing: 0.2, ..Dpo::default() }),
            ("hinge", Dpo { beta, kind: DpoKind::Hinge, ..Dpo::default() }),
            ("ipo", Dpo { beta, kind: DpoKind::Ipo, ..Dpo::default() }),
        ] {
            let policy = answer_log_probs(&logits.get(), &labels)?;
            close("policy", &policy, &e["policy"]);
            let out = dpo.forward(&policy, &reference)?;
            close("chosen", &out.chosen_rewards, &e["chosen_rewards"]);
            close("rejected", &out.rejected_rewards, &e["rejected_rewards"]);
            check(name, &logits, out.loss)?;
        }
        let rewards = Param::new(on("rewards"));
        check("reward", &rewards, RewardLoss::default().forward(&rewards.get(), None)?)?;
        check("reward_margin", &rewards, RewardLoss { center: 0.01 }.forward(&rewards.get(), Some(&on("margin")))?)?;
        Ok(())
    })
}

/// Texts that share a row compute what each computes alone.
#[test]
fn packing_changes_nothing() {
    on_devices(|d| {
        let texts =
            [Example::new(&[5, 6, 7], &[8, 9]), Example::whole(&[10, 11, 12]), Example::new(&[13], &[14, 15]), Example::whole(&[20, 21])];
        for name in ["llama2", "gpt2", "mistral", "falcon-alibi"] {
            let model = CausalLm::load(golden(&format!("transformers/{name}")), d)?;
            let packed = pack(&texts, 8, 0, d)?;
            assert_eq!(packed.ids.dims(), [2, 8]);
            assert_eq!(packed.ids.to_vec::<i32>()?, [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 20, 21, 0, 0, 0]);
            assert_eq!(packed.labels.to_vec::<i32>()?[..8], [IGNORED, IGNORED, IGNORED, 8, 9, IGNORED, 11, 12]);
            let logits = no_grad(|| packed.forward(&model))?;
            for (text, row, start) in [(0, 0, 0), (1, 0, 5), (2, 1, 0), (3, 1, 3)] {
                let n = texts[text].ids.len();
                let (tokens, _) = batch(&texts[text..text + 1], 0, d)?;
                let alone = no_grad(|| model.forward(&tokens))?.squeeze(0);
                close_to(&format!("{name}, text {text}"), &logits.select(0, row).narrow(0, start, n), &alone, 1e-4);
            }
            let (tokens, labels) = batch(&texts, 0, d)?;
            let apart = next_token_loss(&no_grad(|| model.forward(&tokens))?, &labels)?;
            close_to(name, &next_token_loss(&logits, &packed.labels)?, &apart, 1e-4);
        }
        Ok(())
    })
}

#[test]
fn a_preference_is_learned() {
    let d = Device::cpu();
    fornax::manual_seed(2);
    let model = CausalLm::load(golden("transformers/llama2"), d).unwrap();
    let lora = Adapters::new(&model, LoraConfig { target_modules: Some(Targets::AllLinear), ..LoraConfig::default() }).unwrap();
    let pairs = PreferenceBatch::new(&[(vec![5, 6], vec![7, 8], vec![9]), (vec![10], vec![11, 12, 13], vec![14, 15])], 0, d).unwrap();
    let run = || answer_log_probs(&model.forward(&pairs.tokens)?, &pairs.labels);
    let reference = lora.disabled(|| no_grad(run)).unwrap();
    let mut optimizer = AdamW::new(lora.parameters(), 1e-2);
    let mut first = None;
    let mut last = 0.0;
    for _ in 0..20 {
        let out = Dpo { beta: 0.5, ..Dpo::default() }.forward(&run().unwrap(), &reference).unwrap();
        last = out.loss.item::<f32>().unwrap();
        first.get_or_insert(last);
        optimizer.step(out.loss.backward().unwrap()).unwrap();
    }
    // Nothing is learned yet, so that the margin is 0.
    assert!((first.unwrap() - 2f32.ln()).abs() < 1e-4, "{first:?}");
    assert!(last < 0.2, "{last}");

    let model = RewardModel::new(CausalLm::load(golden("transformers/gpt2"), d).unwrap()).unwrap();
    assert_eq!(model.named_parameters().last().unwrap().0, "score.weight");
    // Padding changes nothing.
    let alone = no_grad(|| model.forward(&batch(&[Example::whole(&[10, 14, 15])], 0, d)?.0)).unwrap();
    let beside = no_grad(|| model.forward(&pairs.tokens)).unwrap();
    close("reward", &beside.narrow(0, 3, 1), &alone);
    let mut optimizer = AdamW::new(model.parameters(), 1e-3);
    let mut losses = Vec::new();
    for _ in 0..15 {
        let loss = RewardLoss { center: 0.01 }.forward(&model.forward(&pairs.tokens).unwrap(), None).unwrap();
        losses.push(loss.item::<f32>().unwrap());
        optimizer.step(loss.backward().unwrap()).unwrap();
    }
    assert!(*losses.last().unwrap() < 0.5 * losses[0], "{losses:?}");
}

#[test]
fn what_does_not_fit() {
    let d = Device::cpu();
    let message = |r: Result<Tensor>| r.unwrap_err().to_string();
    let t = |shape: &[usize]| Tensor::zeros(shape, d);
    assert!(message(next_token_loss(&t(&[2, 3, 5]), &t(&[2, 4]))).contains("labels [B, T]"));
    assert!(message(next_token_loss(&t(&[2, 1, 5]), &t(&[2, 1]))).contains("two places"));
    assert!(message(RewardLoss::default().forward(&t(&[3]), None)).contains("[2B]"));
    assert!(message(RewardLoss::default().forward(&t(&[4]), Some(&t(&[3])))).contains("margin [B]"));
    assert!(message(Dpo::default().forward(&t(&[4]), &t(&[2])).map(|o| o.loss)).contains("[2B]"));
    assert!(message(Dpo { beta: 0.0, ..Dpo::default() }.forward(&t(&[4]), &t(&[4])).map(|o| o.loss)).contains("beta"));
    assert!(pack(&[], 8, 0, d).is_err() && pack(&[Example::whole(&[1])], 1, 0, d).is_err());
}

//! Folders that other versions and other makers write: configs in the old layout, heads that are not what the config says, recommended generation.

use fornax::generate::{Generation, generate, stream};
use fornax::io::{StateDict, safetensors};
use fornax::lora::{Adapters, LoraConfig};
use fornax::nn::Module;
use fornax::transformers::{CausalLm, Encoder, LoadOptions, MaskedLm, Seq2Seq, Tokens};
use fornax::{DType, Device, Tensor, no_grad};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/transformers").join(name)
}

fn expected(name: &str) -> StateDict {
    safetensors::load(golden(name).join("expected.safetensors")).unwrap()
}

/// A golden folder with one file of weights, with its config and weights changed.
fn changed(name: &str, config: impl Fn(&mut Value), weights: impl Fn(&mut StateDict)) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(golden(name).join("config.json")).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    config(&mut json);
    std::fs::write(to.path().join("config.json"), json.to_string()).unwrap();
    let mut all = safetensors::load(golden(name).join("model.safetensors")).unwrap();
    weights(&mut all);
    safetensors::save(to.path().join("model.safetensors"), &all).unwrap();
    to
}

fn values(t: &Tensor) -> Vec<f32> {
    t.to_vec::<f32>().unwrap()
}

fn logits(folder: &Path, ids: &Tensor) -> Vec<f32> {
    let model = CausalLm::load(folder, Device::cpu()).unwrap();
    values(&no_grad(|| model.forward(&ids.clone().into())).unwrap())
}

fn message<T>(r: fornax::Result<T>) -> String {
    r.err().expect("an error").to_string()
}

/// A file with a head of its own has it, whatever its config says; an equal one is the table.
#[test]
fn a_head_in_the_file_counts() {
    let ids = expected("llama3")["input_ids"].clone();
    let table = "model.embed_tokens.weight";
    let twice = |all: &mut StateDict| {
        all.insert("lm_head.weight".into(), &all[table] * 2.0);
    };
    let before = logits(&golden("llama3"), &ids);
    let folder = changed("llama3", |_| {}, twice);
    // A product with twice the table is twice the product, bit for bit.
    assert_eq!(logits(folder.path(), &ids), before.iter().map(|v| v * 2.0).collect::<Vec<_>>());
    let model = CausalLm::load(folder.path(), Device::cpu()).unwrap();
    assert!(model.named_parameters().iter().any(|(name, _)| name == "lm_head.weight"));
    let equal = changed(
        "llama3",
        |_| {},
        |all| {
            all.insert("lm_head.weight".into(), all[table].clone());
        },
    );
    let model = CausalLm::load(equal.path(), Device::cpu()).unwrap();
    assert!(model.named_parameters().iter().all(|(name, _)| name != "lm_head.weight"), "tied");
    assert_eq!(logits(equal.path(), &ids), before);
}

#[test]
fn a_masked_models_decoder_counts() {
    let e = expected("bert-mlm");
    let tokens = || Tokens { ids: e["input_ids"].clone(), mask: e.get("attention_mask").cloned(), types: e.get("token_type_ids").cloned() };
    let run = |folder: &Path| values(&no_grad(|| MaskedLm::load(folder, Device::cpu())?.forward(&tokens())).unwrap());
    let before = run(&golden("bert-mlm"));
    let twice = |all: &mut StateDict| {
        all.insert("cls.predictions.decoder.weight".into(), &all["bert.embeddings.word_embeddings.weight"] * 2.0);
        all.insert("cls.predictions.decoder.bias".into(), &all["cls.predictions.bias"] * 2.0);
    };
    let want: Vec<f32> = before.iter().map(|v| v * 2.0).collect();
    let close = |got: Vec<f32>| got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-5);
    assert!(close(run(changed("bert-mlm", |_| {}, twice).path())));
    assert!(close(run(changed("bert-mlm", |c| c["tie_word_embeddings"] = json!(false), twice).path())));
    let lacking = changed("bert-mlm", |c| c["tie_word_embeddings"] = json!(false), |_| {});
    let message = message(MaskedLm::load(lacking.path(), Device::cpu()));
    assert!(message.contains("missing: cls.predictions.decoder.weight"), "{message}");
}

/// The decoder's states are scaled by the config alone.
#[test]
fn a_t5_with_a_head_scales_as_its_config_says() {
    let e = expected("t5");
    let (source, target) = (Tokens::from(e["input_ids"].clone()), Tokens::from(e["decoder_input_ids"].clone()));
    let run = |folder: &Path| values(&no_grad(|| Seq2Seq::load(folder, Device::cpu())?.forward(&source, &target)).unwrap());
    let before = run(&golden("t5"));
    let old = |c: &mut Value| {
        c.as_object_mut().unwrap().remove("scale_decoder_outputs");
    };
    let twice = changed("t5", old, |all| {
        all.insert("lm_head.weight".into(), &all["shared.weight"] * 2.0);
    });
    assert_eq!(run(twice.path()), before.iter().map(|v| v * 2.0).collect::<Vec<_>>());
}

/// Before version 5 of transformers `rope_theta` and `rope_scaling` stood at the top of a config.
#[test]
fn rope_in_the_published_layout() {
    for name in ["llama2", "llama3", "mistral", "falcon"] {
        let ids = expected(name)["input_ids"].clone();
        let want = logits(&golden(name), &ids);
        for kind in ["rope_type", "type"] {
            let old = |c: &mut Value| {
                let mut rope = c.as_object_mut().unwrap().remove("rope_parameters").unwrap();
                let rope_object = rope.as_object_mut().unwrap();
                c["rope_theta"] = rope_object.remove("rope_theta").unwrap();
                let scaling = rope_object.remove("rope_type").unwrap();
                rope_object.insert(kind.into(), scaling.clone());
                c["rope_scaling"] = if scaling == "default" { Value::Null } else { rope };
            };
            let folder = changed(name, old, |_| {});
            let text = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
            assert!(!text.contains("rope_parameters") && text.contains("rope_theta"));
            assert_eq!(logits(folder.path(), &ids), want, "{name}, {kind}");
        }
    }
    // theta and the scaling do count.
    let ids = expected("llama3")["input_ids"].clone();
    let plain = changed("llama3", |c| c["rope_parameters"] = json!({"rope_theta": 500.0, "rope_type": "default"}), |_| {});
    assert_ne!(logits(plain.path(), &ids), logits(&golden("llama3"), &ids));
}

#[test]
fn configs_that_are_refused() {
    let load = |name: &str, change: &dyn Fn(&mut Value)| message(CausalLm::load(changed(name, change, |_| {}).path(), Device::cpu()));
    for factor in [json!(0.0), json!(-2.0), Value::Null] {
        let message = load("llama2", &|c| c["rope_parameters"] = json!({"rope_type": "linear", "factor": factor}));
        assert!(message.contains("factor") && message.contains("above 0"), "{message}");
    }
    let message = message(Encoder::load(changed("bert", |c| c["is_decoder"] = json!(true), |_| {}).path(), Device::cpu()));
    assert!(message.contains("is_decoder") && message.contains("encoders"), "{message}");
}

/// Greedy decoding says that there is no likeliest token, as the other ways do.
#[test]
fn greedy_decoding_reports_nan() {
    let folder = changed(
        "gpt2",
        |_| {},
        |all| {
            let mut table = values(&all["transformer.wte.weight"]);
            table[40 * 16 + 3] = f32::NAN;
            all.insert("transformer.wte.weight".into(), Tensor::from_vec(table, [48, 16], Device::cpu()).unwrap());
        },
    );
    let blind = LoadOptions { check_values: false, ..LoadOptions::from(Device::cpu()) };
    let model = CausalLm::load(folder.path(), blind).unwrap();
    let prompts = [vec![5, 6], vec![7]];
    for (beams, repetition_penalty) in [(1, 1.0), (1, 1.2), (2, 1.0)] {
        let options = Generation { max_new_tokens: 3, beams, repetition_penalty, ..Generation::default() };
        let message = message(generate(&model, &prompts, &options));
        assert!(message.contains("NaN"), "{message}");
    }
    let options = Generation { max_new_tokens: 3, ..Generation::default() };
    let steps: Vec<_> = stream(&model, &prompts, &options).unwrap().collect();
    assert!(steps.len() == 1 && steps[0].is_err(), "nothing comes after it");
}

/// What a folder recommends, and lengths that count the prompt.
#[test]
fn recommended_generation() {
    let folder = changed("gpt2", |_| {}, |_| {});
    let usual = Generation::from_folder(folder.path()).unwrap();
    assert!(!usual.sample && usual.top_k.is_none() && usual.max_length.is_none());
    std::fs::write(folder.path().join("generation_config.json"), r#"{"max_length": 9, "eos_token_id": 48, "do_sample": false}"#).unwrap();
    let options = Generation::from_folder(folder.path()).unwrap();
    let model = CausalLm::load(folder.path(), Device::cpu()).unwrap();
    assert_eq!(generate(&model, &[vec![5, 6, 7], vec![8]], &options).unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [6, 6]);
    let beams = Generation { beams: 2, ..options };
    assert_eq!(generate(&model, &[vec![5, 6, 7]], &beams).unwrap()[0].len(), 6);
    let message = message(generate(&model, &[vec![5; 9]], &beams));
    assert!(message.contains("9 tokens") && message.contains("max_length is 9"), "{message}");
}

/// An adapter's own table of tokens is not the head's: merged for good, the model has a head of its own, and its file too.
#[test]
fn a_saved_table_leaves_the_head() {
    let d = Device::cpu();
    let model = CausalLm::load(golden("llama3"), d).unwrap();
    let ids = expected("llama3")["input_ids"].clone();
    let run = || values(&no_grad(|| model.forward(&ids.clone().into())).unwrap());
    let before = run();
    let config =
        LoraConfig { target_modules: Some(["q_proj"].into()), modules_to_save: vec!["embed_tokens".into()], ..LoraConfig::default() };
    let adapters = Adapters::new(&model, config).unwrap();
    assert_eq!(run(), before);
    let table = model.decoder().embedding().weight.clone();
    let old = table.value();
    // A row that no text here has: only a head that shared the table would see it.
    let used = ids.to_vec::<i32>().unwrap();
    let row = (0..48).find(|i| !used.contains(i)).unwrap();
    let mask = Tensor::arange(0, 48, 1, d).eq(row).cast(DType::F32).unsqueeze(1);
    table.set(&old + mask).unwrap();
    assert_eq!(run(), before, "the head stays on the old table");
    // And no gradient comes to the table through the head.
    let grads = model.forward(&ids.clone().into()).unwrap().square().mean(()).backward().unwrap();
    let grad = table.grad(&grads).unwrap().narrow(0, row as usize, 1);
    assert_eq!(values(&grad.abs().max(())), [0.0]);
    assert_eq!(adapters.disabled(|| Ok(run())).unwrap(), before);
    adapters.merge_and_unload().unwrap();
    assert_eq!(run(), before);
    let to = tempfile::tempdir().unwrap();
    model.save_safetensors(to.path().join("model.safetensors")).unwrap();
    std::fs::copy(golden("llama3").join("config.json"), to.path().join("config.json")).unwrap();
    assert_eq!(logits(to.path(), &ids), before);
    let again = CausalLm::load(to.path(), d).unwrap();
    let names: Vec<String> = again.named_parameters().into_iter().map(|(n, _)| n).collect();
    assert!(names.iter().any(|n| n == "lm_head.weight"), "{names:?}");
}

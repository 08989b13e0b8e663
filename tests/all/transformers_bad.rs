//! Broken, hostile and unfitting folders, prompts and options: errors that say what to do.

use fornax::generate::{Generation, LogitsProcessor, generate, stream};
use fornax::io::safetensors;
use fornax::transformers::{
    CausalLm, Checkpoint, Config, Encoder, LoadOptions, MaskedLm, NextSentence, Seq2Seq, SequenceClassifier, Tokens,
};
use fornax::{Device, Result, Tensor};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/transformers").join(name)
}

/// A copy of a golden folder with its config changed.
fn changed(name: &str, change: impl Fn(&mut Value)) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(golden(name)).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, to.path().join(file.file_name().unwrap())).unwrap();
    }
    let path = to.path().join("config.json");
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
    to
}

fn message<T>(r: Result<T>) -> String {
    r.err().expect("an error").to_string()
}

fn has(message: String, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

fn load(folder: &Path) -> Result<CausalLm> {
    CausalLm::load(folder, Device::cpu())
}

#[test]
fn folders_that_do_not_fit() {
    let d = Device::cpu();
    has(message(load(&golden("nothing-here"))), &["config.json"]);
    has(
        message(load(changed("llama2", |c| c["model_type"] = json!("mamba")).path())),
        &["\"mamba\"", "falcon, gpt2, llama, mistral, qwen2"],
    );
    has(message(load(changed("llama2", |c| c["model_type"] = Value::Null).path())), &["model_type", "missing"]);
    has(message(load(&golden("bert"))), &["\"bert\"", "causal language model"]);
    has(message(Encoder::load(golden("llama2"), d)), &["\"llama\"", "bert, roberta"]);
    has(message(Seq2Seq::load(golden("gpt2"), d)), &["text-to-text", "t5"]);
    has(message(NextSentence::load(golden("distilbert-mlm"), d)), &["BERT"]);

    // A head that the file does not have.
    let lacking = message(SequenceClassifier::load(golden("bert-mlm"), d));
    has(lacking, &["missing: bert.pooler.dense.weight", "classifier.weight", "BertForMaskedLM", "initialize_missing"]);
    let fresh = LoadOptions { initialize_missing: true, ..LoadOptions::from(d) };
    let model = SequenceClassifier::load(golden("bert-mlm"), fresh).unwrap();
    assert_eq!(model.forward(&Tokens::pad(&[vec![5, 6]], 0, d).unwrap()).unwrap().dims(), [1, 2]);

    // Sizes that are not the file's.
    let wide = message(load(changed("llama2", |c| c["intermediate_size"] = json!(25)).path()));
    has(wide, &["model.layers.0.mlp.down_proj.weight is [16, 24], must be [16, 25] by config.json"]);
    has(message(load(changed("llama2", |c| c["num_hidden_layers"] = json!(3)).path())), &["missing: model.layers.2."]);
}

#[test]
fn hostile_configs() {
    let hostile = |key: &str, value: Value| message(load(changed("llama2", |c| c[key] = value.clone()).path()));
    for key in ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size", "max_position_embeddings"] {
        for value in [json!(0), json!(-1), json!(1e30), json!(u64::MAX), json!("many"), json!(1.5)] {
            has(hostile(key, value), &[key, "whole number from 1 to"]);
        }
    }
    // Large ones that are allowed: the file has other sizes, and nothing was allocated for them.
    has(hostile("vocab_size", json!(1 << 24)), &["model.embed_tokens.weight is [48, 16], must be [16777216, 16]"]);
    has(hostile("num_hidden_layers", json!(1024)), &["missing", "more"]);
    has(message(load(changed("gpt2", |c| c["n_head"] = json!(5)).path())), &["16 cannot be split among 5 heads"]);
    has(hostile("num_key_value_heads", json!(3)), &["num_key_value_heads must divide"]);
    has(hostile("rms_norm_eps", json!(-1.0)), &["rms_norm_eps"]);
    has(hostile("hidden_act", json!("magic")), &["\"magic\"", "known are relu"]);
    has(hostile("rope_parameters", json!({"rope_type": "yarn"})), &["\"yarn\"", "llama3"]);
    has(hostile("rope_parameters", json!(7)), &["rope_parameters", "object"]);
    has(hostile("tie_word_embeddings", json!("yes")), &["true or false"]);
    has(message(Config::parse("[1]")), &["JSON object"]);
    has(message(Config::parse("{\"a\": }")), &["line 1"]);
    let deep = "[".repeat(100_000);
    has(message(Config::parse(&deep)), &["recursion"]);
    let labels = changed("bert-ner", |c| c["id2label"] = json!({"0": "O", "2": "B"}));
    has(message(fornax::transformers::TokenClassifier::load(labels.path(), Device::cpu())), &["id2label", "numbered from 0"]);
}

#[test]
fn shards() {
    let d = Device::cpu();
    let copy = || changed("qwen2", |_| {});
    let lost = copy();
    std::fs::remove_file(lost.path().join("model-00002-of-00003.safetensors")).unwrap();
    has(message(load(lost.path())), &["1 of 3 shards are missing: model-00002-of-00003.safetensors"]);
    let index = |change: &dyn Fn(&mut Value)| {
        let to = copy();
        let path = to.path().join("model.safetensors.index.json");
        let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut json);
        std::fs::write(path, json.to_string()).unwrap();
        message(load(to.path()))
    };
    has(index(&|j| j["weight_map"]["model.norm.weight"] = json!("../../etc/passwd")), &["model.norm.weight", "same folder"]);
    has(index(&|j| j["weight_map"]["model.norm.weight"] = json!("/etc/passwd")), &["same folder"]);
    has(index(&|j| j["weight_map"]["model.norm.weight"] = json!("..")), &["same folder"]);
    has(index(&|j| j["weight_map"]["model.norm.weight"] = json!(7)), &["same folder"]);
    has(index(&|j| j["weight_map"] = Value::Null), &["weight_map"]);
    has(index(&|j| j["weight_map"]["more.weight"] = json!("model-00001-of-00003.safetensors")), &["more.weight", "do not belong together"]);
    let none = copy();
    for file in ["model.safetensors.index.json", "model-00001-of-00003.safetensors"] {
        std::fs::remove_file(none.path().join(file)).unwrap();
    }
    has(message(load(none.path())), &["neither model.safetensors nor", "converted"]);
    let cut = changed("gpt2", |_| {});
    let weights = cut.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    assert!(load(cut.path()).is_err());
    assert!(Checkpoint::open(golden("qwen2")).is_ok_and(|c| c.tensors().len() > 20));
    let _ = d;
}

#[test]
fn weights_that_are_no_numbers() {
    let bad = |value: f32| {
        let to = changed("bert-mlm", |_| {});
        let path = to.path().join("model.safetensors");
        // Read before the file is written anew: the tensors are views of it.
        let mut all = safetensors::load(golden("bert-mlm").join("model.safetensors")).unwrap();
        let name = "bert.encoder.layer.1.output.dense.weight";
        let mut values = all[name].to_vec::<f32>().unwrap();
        values[7] = value;
        all.insert(name.into(), Tensor::from_vec(values, [16, 24], Device::cpu()).unwrap());
        safetensors::save(path, &all).unwrap();
        to
    };
    for value in [f32::NAN, f32::INFINITY] {
        let folder = bad(value);
        has(message(MaskedLm::load(folder.path(), Device::cpu())), &["bert.encoder.layer.1.output.dense.weight holds NaN or infinite"]);
        let blind = LoadOptions { check_values: false, ..LoadOptions::from(Device::cpu()) };
        assert!(MaskedLm::load(folder.path(), blind).is_ok());
    }
}

#[test]
fn prompts_and_options() {
    let d = Device::cpu();
    let gpt2 = load(&golden("gpt2")).unwrap();
    let options = Generation { max_new_tokens: 4, ..Generation::default() };
    has(message(generate(&gpt2, &[], &options)), &["prompt"]);
    has(message(generate(&gpt2, &[vec![]], &options)), &["no tokens"]);
    has(message(generate(&gpt2, &[vec![5], vec![6, 48]], &options)), &["token 1 of prompt 1 is 48", "vocabulary has 48"]);
    has(message(generate(&gpt2, &[vec![5; 32]], &options)), &["33 tokens", "context holds 32"]);
    // As many tokens as fit, and no more.
    let long = Generation { max_new_tokens: 100, ends: Some(vec![]), ..Generation::default() };
    assert_eq!(generate(&gpt2, &[vec![5; 30]], &long).unwrap()[0].len(), 2);
    has(message(gpt2.forward(&Tokens::pad(&[vec![5; 33]], 0, d).unwrap())), &["33 tokens", "32"]);
    let bert = Encoder::load(golden("bert"), d).unwrap();
    has(message(bert.forward(&Tokens::pad(&[vec![5; 21]], 0, d).unwrap())), &["21 tokens", "20"]);
    has(message(bert.forward(&Tensor::ones([2, 3], d).into())), &["integers"]);
    has(message(bert.forward(&Tensor::zeros([3], (fornax::DType::I32, d)).into())), &["[B, T]"]);
    has(message(Tokens::pad(&[vec![]], 0, d)), &["no tokens"]);

    let sampled = |change: &dyn Fn(&mut Generation)| {
        let mut g = Generation { sample: true, max_new_tokens: 3, ..Generation::default() };
        change(&mut g);
        message(generate(&gpt2, &[vec![5]], &g))
    };
    has(sampled(&|g| g.temperature = 0.0), &["temperature"]);
    has(sampled(&|g| g.temperature = f64::NAN), &["temperature"]);
    has(sampled(&|g| g.top_k = Some(0)), &["top_k"]);
    has(sampled(&|g| g.top_p = Some(1.5)), &["top_p"]);
    has(sampled(&|g| g.min_p = Some(-0.1)), &["min_p"]);
    has(sampled(&|g| g.repetition_penalty = 0.0), &["repetition_penalty"]);
    has(sampled(&|g| g.beams = 2), &["sample must be false"]);
    has(message(generate(&gpt2, &[vec![5]], &Generation { beams: 40, ..Generation::default() })), &["40 beams"]);
    has(message(stream(&gpt2, &[vec![5]], &Generation { beams: 2, ..Generation::default() }).map(|_| ())), &["generate"]);

    struct Nothing;
    impl LogitsProcessor for Nothing {
        fn process(&self, _tokens: &[u32], logits: &mut [f32]) {
            logits.fill(f32::NEG_INFINITY);
        }
    }
    let g = Generation { sample: true, processors: vec![Box::new(Nothing)], ..Generation::default() };
    has(message(generate(&gpt2, &[vec![5]], &g)), &["no"]);
}

#[test]
fn draws_are_seeded() {
    let model = load(&golden("llama2")).unwrap();
    let draw = |seed, prompts: &[Vec<u32>]| {
        let g = Generation {
            sample: true,
            temperature: 1.5,
            top_k: Some(20),
            top_p: Some(0.95),
            min_p: Some(0.01),
            seed,
            ends: Some(vec![]),
            max_new_tokens: 10,
            ..Generation::default()
        };
        generate(&model, prompts, &g).unwrap()
    };
    let prompts = [vec![5, 6, 7], vec![8]];
    assert_eq!(draw(1, &prompts), draw(1, &prompts));
    assert_ne!(draw(1, &prompts), draw(2, &prompts));
    // A row's draws do not depend on its neighbours.
    assert_eq!(draw(1, &prompts)[0], draw(1, &prompts[..1])[0]);
}

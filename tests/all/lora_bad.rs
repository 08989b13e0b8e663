//! Adapters that do not fit: errors that say what is wrong and what there is.

use fornax::lora::{Adapters, Bias, BottleneckConfig, Ia3Config, Init, LoraConfig, PrefixTuning, PromptTuning, Targets};
use fornax::nn::{self, Module};
use fornax::transformers::CausalLm;
use fornax::{Device, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn root(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(part)
}

fn model(name: &str) -> CausalLm {
    CausalLm::load(root("transformers").join(name), Device::cpu()).unwrap()
}

/// A copy of an adapter's folder with its config changed.
fn changed(name: &str, change: impl Fn(&mut Value)) -> tempfile::TempDir {
    let (from, to) = (root("peft").join(name), tempfile::tempdir().unwrap());
    std::fs::copy(from.join("adapter_model.safetensors"), to.path().join("adapter_model.safetensors")).unwrap();
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(from.join("adapter_config.json")).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(to.path().join("adapter_config.json"), json.to_string()).unwrap();
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

/// Loading fails with this message, and the model is as before: whole, and free to take another adapter.
fn refused(of: &str, name: &str, change: impl Fn(&mut Value), parts: &[&str]) {
    let model = model(of);
    let before = model.named_parameters().len();
    has(message(Adapters::load(&model, changed(name, change).path())), parts);
    assert_eq!(model.named_parameters().len(), before);
    assert!(model.parameters().iter().all(|p| !p.is_frozen()));
}

#[test]
fn folders_that_do_not_fit() {
    let same = |_: &mut Value| {};
    // Another base: of other names, of other sizes.
    refused("gpt2", "llama-lora", same, &["q_proj", "match no layer", "c_attn"]);
    refused("mistral", "llama-lora", same, &["not for this base", "v_proj.lora_B.weight", "[16, 4]", "[8, 4]"]);
    refused(
        "llama2",
        "mistral-layers",
        |c| c["layers_to_transform"] = json!([0, 1]),
        &["missing", "layers.0.self_attn.q_proj.lora_A.weight"],
    );
    refused(
        "llama2",
        "llama-lora",
        |c| c["target_modules"] = json!(["q_proj"]),
        &["does not have or the config does not name", "v_proj.lora_A.weight"],
    );
    refused("llama2", "llama-lora", |c| c["use_dora"] = json!(true), &["missing", "lora_magnitude_vector"]);
    // The type.
    refused(
        "llama2",
        "llama-lora",
        |c| c["peft_type"] = json!("VERA"),
        &["\"VERA\"", "LORA, IA3, PREFIX_TUNING, PROMPT_TUNING, BOTTLENECK"],
    );
    refused("llama2", "llama-lora", |c| c["peft_type"] = Value::Null, &["peft_type", "missing"]);
    refused("gpt2", "gpt2-prompt", same, &["PromptTuning::load"]);
    refused("gpt2", "gpt2-prefix", same, &["PrefixTuning::load"]);
    // Numbers that cannot be, refused before anything is allocated.
    for r in [json!(1u64 << 40), json!(0), json!(-3), json!("8"), json!(2.5)] {
        refused("llama2", "llama-lora", |c| c["r"] = r.clone(), &["r is", "1 to 65536"]);
    }
    refused("llama2", "llama-lora", |c| c["r"] = json!(65536), &["not for this base", "[65536, 16]"]);
    refused("llama2", "llama-lora", |c| c["rank_pattern"] = json!({"q_proj": 1e15}), &["rank_pattern", "65536"]);
    refused("llama2", "llama-lora", |c| c["lora_dropout"] = json!(1.5), &["lora_dropout", "probability"]);
    refused("llama2", "llama-lora", |c| c["lora_alpha"] = json!([1]), &["lora_alpha", "number"]);
    refused("llama2", "llama-lora", |c| c["bias"] = json!("some"), &["bias", "none, all and lora_only"]);
    refused("llama2", "llama-lora", |c| c["init_lora_weights"] = json!("loftq"), &["loftq", "gaussian"]);
    refused("llama2", "llama-lora", |c| c["target_modules"] = json!(7), &["target_modules", "list of texts"]);
    refused("llama2", "llama-lora", |c| c["target_modules"] = Value::Null, &["target_modules is not given", "q_proj"]);
    refused("llama2", "llama-lora", |c| c["target_modules"] = json!("(unclosed"), &["(unclosed", "regular expression"]);
    refused("llama2", "llama-lora", |c| c["target_modules"] = json!("(a{1000}){1000}"), &["regular expression"]);
    refused("llama2", "llama-lora", |c| c["target_modules"] = json!(["norm"]), &["norm", "no layer that can be adapted"]);
    refused("llama2", "llama-lora", |c| c["target_modules"] = json!(["self_attn"]), &["self_attn", "no layer that can be adapted"]);
    refused("llama2", "llama-lora", |c| c["modules_to_save"] = json!(["score"]), &["score", "q_proj"]);
    refused("llama2", "llama-lora", |c| c["trainable_token_indices"] = json!([1, 2]), &["trainable_token_indices", "not known"]);
    refused("llama2", "llama-lora", |c| c["use_qalora"] = json!(true), &["use_qalora"]);
    refused("llama2", "llama-lora", |c| c["ensure_weight_tying"] = json!(true), &["ensure_weight_tying", "not known"]);
    // Files.
    let d = model("llama2");
    has(message(Adapters::load(&d, root("peft").join("nothing"))), &["adapter_config.json"]);
    let folder = changed("llama-lora", same);
    std::fs::write(folder.path().join("adapter_model.safetensors"), [0xff; 40]).unwrap();
    has(message(Adapters::load(&d, folder.path())), &["adapter_model.safetensors"]);
    std::fs::remove_file(folder.path().join("adapter_model.safetensors")).unwrap();
    std::fs::write(folder.path().join("adapter_model.bin"), "").unwrap();
    has(message(Adapters::load(&d, folder.path())), &["adapter_model.bin", "converted"]);
    std::fs::write(folder.path().join("adapter_config.json"), "[1, 2]").unwrap();
    has(message(Adapters::load(&d, folder.path())), &["JSON object"]);
    // Every cut of a config is an error, none a panic.
    let text = std::fs::read_to_string(root("peft/llama-lora/adapter_config.json")).unwrap();
    for n in (0..text.trim_end().len()).step_by(17) {
        std::fs::write(folder.path().join("adapter_config.json"), &text[..n]).unwrap();
        message(Adapters::load(&d, folder.path()));
    }
}

#[test]
fn prompts_that_do_not_fit() {
    let gpt2 = model("gpt2");
    let table = gpt2.decoder().embedding();
    let prompt = |change: &dyn Fn(&mut Value)| message(PromptTuning::load(&gpt2, table, changed("gpt2-prompt", change).path()));
    has(prompt(&|c| c["num_virtual_tokens"] = json!(6)), &["not for this base", "[5, 16]", "[6, 16]"]);
    has(prompt(&|c| c["num_virtual_tokens"] = json!(1u64 << 50)), &["num_virtual_tokens"]);
    has(prompt(&|c| c["peft_type"] = json!("LORA")), &["PROMPT_TUNING"]);
    has(message(PrefixTuning::load(&gpt2, root("peft/gpt2-prompt"))), &["PREFIX_TUNING"]);
    has(message(PrefixTuning::load(&model("falcon-new"), root("peft/gpt2-prefix"))), &["not for this base"]);
    let prefix = PrefixTuning::load(&gpt2, root("peft/gpt2-prefix")).unwrap();
    has(message(PrefixTuning::load(&gpt2, root("peft/gpt2-prefix"))), &["already"]);
    prefix.unload();
    let first = PromptTuning::load(&gpt2, table, root("peft/gpt2-prompt")).unwrap();
    has(message(PromptTuning::load(&gpt2, table, root("peft/gpt2-prompt"))), &["already"]);
    first.unload();
    assert!(gpt2.parameters().iter().all(|p| !p.is_frozen()));
}

#[test]
fn adapters_that_cannot_be() {
    let d = Device::cpu();
    let net = || nn::Sequential::new().add_named("up", nn::Linear::new(4, 8, d)).add_named("table", nn::Embedding::new(5, 4, d));
    let lora = |targets: Targets| LoraConfig { target_modules: Some(targets), ..LoraConfig::default() };
    let fails = |config: LoraConfig, parts: &[&str]| has(message(Adapters::new(&net(), config)), parts);
    fails(LoraConfig::default(), &["target_modules is not given", "table, up"]);
    fails(lora(["down"].into()), &["[down]", "match no layer", "table, up"]);
    fails(LoraConfig { r: 0, ..lora(["up"].into()) }, &["r = 0"]);
    fails(LoraConfig { r: 1 << 30, ..lora(["up"].into()) }, &["65536"]);
    fails(LoraConfig { lora_alpha: f64::NAN, ..lora(["up"].into()) }, &["lora_alpha"]);
    fails(LoraConfig { lora_dropout: 1.0, ..lora(["up"].into()) }, &["lora_dropout"]);
    fails(LoraConfig { lora_bias: true, ..lora(["table"].into()) }, &["table", "lora_bias"]);
    fails(LoraConfig { lora_bias: true, use_dora: true, ..lora(["up"].into()) }, &["use_dora"]);
    fails(LoraConfig { layers_to_transform: Some(vec![0]), ..lora(".*up".into()) }, &["layers_to_transform", "regular expression"]);
    if cfg!(feature = "linalg") {
        fails(LoraConfig { init_lora_weights: Init::Pissa, ..lora(["up"].into()) }, &["rank of 8"]);
    }
    let ia3 = Ia3Config { target_modules: Some(["table"].into()), ..Ia3Config::default() };
    has(message(Adapters::new(&net(), ia3)), &["table", "linear layers"]);
    let bottleneck = BottleneckConfig { bottleneck_size: 0, target_modules: Some(["up"].into()), ..BottleneckConfig::default() };
    has(message(Adapters::new(&net(), bottleneck)), &["bottleneck_size"]);

    let net = net();
    let adapters = Adapters::new(&net, lora(["up"].into())).unwrap();
    has(message(Adapters::new(&net, lora(["up"].into()))), &["already"]);
    has(message(adapters.add("default", lora(["up"].into()))), &["already"]);
    has(message(adapters.add("a/b", lora(["up"].into()))), &["a/b"]);
    has(message(adapters.add("..", lora(["up"].into()))), &["no name"]);
    let ia3 = Ia3Config { target_modules: Some(["up"].into()), ..Ia3Config::default() };
    has(message(adapters.add("scale", ia3)), &["LORA", "IA3"]);
    // Two with biases of their own.
    for name in ["one", "two"] {
        adapters.add(name, LoraConfig { bias: Bias::All, ..lora(["up"].into()) }).unwrap();
    }
    has(message(adapters.set_active(&["one", "two"])), &["one", "two", "up.bias"]);
    has(message(adapters.add_weighted(&["default", "one"], &[0.5, 0.5], "sum", Default::default())), &["one"]);
    has(message(adapters.add_weighted(&["default"], &[0.5, 0.5], "sum", Default::default())), &["2 weights"]);
    // A broken adapter is not merged.
    adapters.set_active(&["default"]).unwrap();
    for p in adapters.parameters() {
        p.update(|t| t.try_mul(0.0)?.try_add(f32::INFINITY)).unwrap();
    }
    has(message(adapters.merge()), &["up", "NaN"]);
    assert!(!adapters.is_merged());
    // A grouped convolution whose groups the rank does not divide.
    let conv = nn::Sequential::new().add_named("conv", nn::Conv2d::new(6, 6, 3, d).groups(3));
    has(message(Adapters::new(&conv, LoraConfig { r: 4, ..lora(["conv"].into()) })), &["conv", "3 groups"]);
    assert_eq!(conv.parameters().len(), 2);
    // A bottleneck is no linear map.
    let net = nn::Sequential::new().add_named("up", nn::Linear::new(4, 8, d));
    let adapters = Adapters::new(&net, BottleneckConfig { target_modules: Some(["up"].into()), ..BottleneckConfig::default() }).unwrap();
    has(message(adapters.merge()), &["up", "bottleneck"]);
}

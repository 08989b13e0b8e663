//! Adapters against PEFT (`tests/golden/gen_peft.py`): its folders load with equal logits and gradients; merging is exact; what we save, we load.

use fornax::io::{StateDict, safetensors};
use fornax::lora::{
    AdapterConfig, Adapters, Bias, BottleneckConfig, Combination, Ia3Config, Init, LoraConfig, PrefixTuning, PrefixTuningConfig,
    PromptTuning, PromptTuningConfig, Targets,
};
use fornax::nn::{self, Adaptable, Buffer, Forward, Hook, Item, LayerKind, Module, Param, Walk, Weight};
use fornax::optim::{AdamW, Optimizer};
use fornax::transformers::{CausalLm, Seq2Seq, SequenceClassifier, Tokens};
use fornax::{DType, Device, Result, Tensor, no_grad};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn root(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(part)
}

fn adapter(name: &str) -> PathBuf {
    root("peft").join(name)
}

fn base(name: &str) -> PathBuf {
    root("transformers").join(name)
}

fn expected(name: &str) -> StateDict {
    safetensors::load(adapter(name).join("expected.safetensors")).unwrap()
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

/// Within 1e-4 of the largest number.
fn close(what: &str, got: &Tensor, want: &Tensor) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let (g, w) = (got.to_vec::<f32>().unwrap(), want.to_vec::<f32>().unwrap());
    let scale = w.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let off = g.iter().zip(&w).fold(0.0f32, |m, (g, w)| if (g - w).abs() <= m { m } else { (g - w).abs() });
    assert!(off <= 1e-4 * scale, "{what} on {}: off by {off} of {scale}", got.device());
}

fn bits(params: &[(String, Param)]) -> Vec<Vec<u32>> {
    params.iter().map(|(_, p)| p.value().to_vec::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()).collect()
}

/// The loss of the next token.
fn next_token(logits: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let (b, t, v) = (logits.dims()[0], logits.dims()[1], logits.dims()[2]);
    nn::cross_entropy(&logits.narrow(1, 0, t - 1).reshape([b * (t - 1), v]), &ids.narrow(1, 1, t - 1).reshape(b * (t - 1)))
}

const CAUSAL: [(&str, &str); 18] = [
    ("llama-lora", "llama2"),
    ("llama-all-linear", "llama2"),
    ("llama-dora", "llama2"),
    ("llama-embedding", "llama2"),
    ("llama-embedding-dora", "llama2"),
    ("llama-pissa", "llama2"),
    ("llama-olora", "llama2"),
    ("mistral-layers", "mistral"),
    ("qwen2-regex", "qwen2"),
    ("llama-head", "llama2"),
    ("qwen2-table", "qwen2"),
    ("qwen2-head", "qwen2"),
    ("qwen2-both", "qwen2"),
    ("gpt2-lora", "gpt2"),
    ("gpt2-dora", "gpt2"),
    ("falcon-lora", "falcon"),
    ("llama-ia3", "llama2"),
    ("gpt2-ia3", "gpt2"),
];

#[test]
fn folders_of_peft_load() {
    on_devices(|d| {
        for (name, of) in CAUSAL {
            if cfg!(not(feature = "linalg")) && (name.ends_with("pissa") || name.ends_with("olora")) {
                continue;
            }
            let e = expected(name);
            let ids = e["input_ids"].to(d);
            let model = CausalLm::load(base(of), d)?;
            let params = model.named_parameters();
            let before = bits(&params);
            let plain = no_grad(|| model.forward(&ids.clone().into()))?;
            let adapters = Adapters::load_trainable(&model, adapter(name))?;
            let logits = model.forward(&ids.clone().into())?;
            close(name, &logits, &e["logits"]);
            let off = (&plain - &logits.detach()).abs().max(()).item::<f32>()?;
            assert!(off > 0.01, "{name} changes nothing: {off}");
            if e.contains_key("loss") {
                let loss = next_token(&logits, &ids)?;
                close(name, &loss, &e["loss"]);
                let grads = loss.backward()?;
                let mut found = 0;
                for (path, p) in model.named_parameters() {
                    let Some(g) = p.grad(&grads) else { continue };
                    let key = format!(
                        "grad.base_model.model.{}",
                        path.replace(".default", "").replace("magnitude_vector.weight", "magnitude_vector")
                    );
                    close(&format!("{name}, {key}"), g, &e[&key]);
                    found += 1;
                }
                assert_eq!(found, e.keys().filter(|k| k.starts_with("grad.")).count(), "{name}");
            }
            // The base alone, and then with the adapter again.
            let alone = adapters.disabled(|| no_grad(|| model.forward(&ids.clone().into())))?;
            assert_eq!(alone.to_vec::<f32>()?, plain.to_vec::<f32>()?, "{name}, disabled");
            adapters.merge()?;
            close(&format!("{name}, merged"), &no_grad(|| model.forward(&ids.clone().into()))?, &e["logits"]);
            adapters.unmerge()?;
            close(&format!("{name}, unmerged"), &no_grad(|| model.forward(&ids.clone().into()))?, &e["logits"]);
            adapters.unload()?;
            assert_eq!(bits(&params), before, "{name}: the base is what it was, bit for bit");
            assert_eq!(model.named_parameters().len(), params.len());
            assert!(params.iter().all(|(_, p)| !p.is_frozen()), "{name}: what was trained is trained again");
        }
        Ok(())
    })
}

#[test]
fn classifiers_of_peft_load() {
    on_devices(|d| {
        for name in ["bert-classify", "bert-bias"] {
            let e = expected(name);
            let model = SequenceClassifier::load(base("bert-classify"), d)?;
            let before = bits(&model.named_parameters());
            let tokens = Tokens { ids: e["input_ids"].to(d), mask: Some(e["attention_mask"].to(d)), types: None };
            let adapters = Adapters::load(&model, adapter(name))?;
            close(name, &no_grad(|| model.forward(&tokens))?, &e["logits"]);
            assert_eq!(adapters.trainable().trainable, 0, "loaded for inference");
            adapters.unload()?;
            assert_eq!(bits(&model.named_parameters()), before, "{name}");
            // A merged model is a plain one.
            let adapters = Adapters::load(&model, adapter(name))?;
            adapters.merge_and_unload()?;
            close(name, &no_grad(|| model.forward(&tokens))?, &e["logits"]);
            assert!(model.named_parameters().iter().all(|(path, _)| !path.contains("lora")));
        }
        let (name, e) = ("t5-lora", expected("t5-lora"));
        let model = Seq2Seq::load(base("t5"), d)?;
        let _adapters = Adapters::load(&model, adapter(name))?;
        let (source, target) = (Tokens::from(e["input_ids"].to(d)), Tokens::from(e["decoder_input_ids"].to(d)));
        close(name, &no_grad(|| model.forward(&source, &target))?, &e["logits"]);
        Ok(())
    })
}

#[derive(Module)]
struct Convolutions {
    conv1: nn::Conv2d,
    conv2: nn::Conv2d,
    conv3: nn::Conv2d,
    line: nn::Conv1d,
    head: nn::Linear,
}

impl Convolutions {
    fn new(d: Device) -> Convolutions {
        Convolutions {
            conv1: nn::Conv2d::new(3, 8, 3, d).stride(2).padding(1),
            conv2: nn::Conv2d::new(8, 8, [3, 1], d).groups(2).padding([1, 0]),
            conv3: nn::Conv2d::new(8, 4, 1, d).no_bias(),
            line: nn::Conv1d::new(4, 6, 3, d).padding(1),
            head: nn::Linear::new(6, 5, d),
        }
    }
}

impl Forward for Convolutions {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.conv1.forward(x)?.relu();
        let x = self.conv2.forward(&x)?.relu();
        let x = self.conv3.forward(&x)?.relu().flatten(2, -1);
        self.head.forward(&self.line.forward(&x)?.relu().mean(-1))
    }
}

#[test]
fn convolutions_of_peft_load() {
    on_devices(|d| {
        for name in ["conv-lora", "conv-dora"] {
            let e = expected(name);
            let model = Convolutions::new(d);
            let weights = e.iter().filter_map(|(k, v)| k.strip_prefix("base.").map(|k| (k.to_string(), v.clone()))).collect();
            model.load_state_dict(&weights, true)?;
            let adapters = Adapters::load(&model, adapter(name))?;
            close(name, &model.forward(&e["x"].to(d))?, &e["y"]);
            if name == "conv-lora" {
                let message = adapters.merge().unwrap_err().to_string();
                assert!(message.contains("conv2") && message.contains("grouped"), "{message}");
                close(name, &model.forward(&e["x"].to(d))?, &e["y"]);
            } else {
                adapters.merge_and_unload()?;
                close(name, &model.forward(&e["x"].to(d))?, &e["y"]);
            }
        }
        Ok(())
    })
}

#[test]
fn several_adapters() {
    on_devices(|d| {
        let e = expected("llama-several");
        let ids = e["input_ids"].to(d);
        let model = CausalLm::load(base("llama2"), d)?;
        let run = || no_grad(|| model.forward(&ids.clone().into()));
        let adapters = Adapters::load(&model, adapter("llama-several"))?;
        adapters.load_adapter("other", adapter("llama-several/other"))?;
        assert_eq!(adapters.names(), ["default", "other"]);
        close("default", &run()?, &e["default"]);
        adapters.set_active(&["other"])?;
        close("other", &run()?, &e["other"]);
        adapters.set_active(&["default", "other"])?;
        close("both", &run()?, &e["both"]);
        adapters.merge()?;
        close("both, merged", &run()?, &e["both"]);
        assert!(adapters.set_active(&["other"]).unwrap_err().to_string().contains("unmerge"));
        adapters.unmerge()?;
        for (how, key) in [(Combination::Linear, "linear"), (Combination::Cat, "cat")] {
            adapters.add_weighted(&["default", "other"], &[0.7, -0.4], key, how)?;
            adapters.set_active(&[key])?;
            close(key, &run()?, &e[key]);
            adapters.delete(key)?;
        }
        assert!(adapters.active().is_empty());
        adapters.delete("default")?;
        adapters.set_active(&["other"])?;
        close("other", &run()?, &e["other"]);
        let message = adapters.set_active(&["third"]).unwrap_err().to_string();
        assert!(message.contains("third") && message.contains("other"), "{message}");
        Ok(())
    })
}

#[test]
fn prompts_of_peft_load() {
    on_devices(|d| {
        for (name, of) in [("gpt2-prompt", "gpt2"), ("llama-prompt", "llama2"), ("gpt2-prefix", "gpt2"), ("mistral-prefix", "mistral")] {
            let e = expected(name);
            let model = CausalLm::load(base(of), d)?;
            let tokens = Tokens { ids: e["input_ids"].to(d), mask: Some(e["attention_mask"].to(d)), types: None };
            let before = no_grad(|| model.forward(&tokens))?.to_vec::<f32>()?;
            let text: Vec<u32> = e["input_ids"].to_vec::<i32>()?[..4].iter().map(|&t| t as u32).collect();
            let greedy: Vec<u32> = e["greedy"].to_vec::<i32>()?.iter().map(|&t| t as u32).collect();
            let options = fornax::generate::Generation { max_new_tokens: 6, ends: Some(vec![]), ..Default::default() };
            // What stands on padding has no meaning.
            let masked = |t: &Tensor| {
                let (all, text) = (t.dims()[1], tokens.mask.as_ref().unwrap().to(Device::cpu()));
                let m = Tensor::cat(&[&Tensor::ones([2, all - 6], Device::cpu()), &text.cast(DType::F32)], 1);
                t.to(Device::cpu()) * m.unsqueeze(-1)
            };
            let logits;
            let param;
            let undo: Box<dyn Fn() + '_>;
            let again = tempfile::tempdir().unwrap();
            if name.ends_with("prompt") {
                let tuning = PromptTuning::load(&model, model.decoder().embedding(), adapter(name))?;
                assert_eq!(tuning.trainable().trainable, 0);
                param = tuning.parameters().remove(0);
                param.set_frozen(false);
                logits = model.forward(&tuning.prepend(&tokens)?)?;
                no_grad(|| -> Result<()> {
                    // A second prompt beside it, of another length.
                    let out = fornax::generate::generate(&tuning.prompted(&model), &[text.clone(), vec![7]], &options)?;
                    assert_eq!(out[0], greedy, "{name}");
                    Ok(())
                })?;
                tuning.save(again.path())?;
                undo = Box::new(move || tuning.unload());
            } else {
                let tuning = PrefixTuning::load(&model, adapter(name))?;
                param = tuning.parameters().remove(0);
                param.set_frozen(false);
                logits = model.forward(&tokens)?;
                no_grad(|| -> Result<()> {
                    let out = fornax::generate::generate(&model, &[text.clone(), vec![7]], &options)?;
                    assert_eq!(out[0], greedy, "{name}");
                    Ok(())
                })?;
                tuning.save(again.path())?;
                undo = Box::new(move || tuning.unload());
            }
            close(name, &masked(&logits), &masked(&e["logits"]));
            let t = logits.dims()[1];
            let grads = logits.narrow(1, t - 6, 6).square().mean(()).backward()?;
            close(name, param.grad(&grads).unwrap(), &e["grad.prompt_embeddings"]);
            assert!(model.named_parameters().iter().all(|(path, p)| path.contains("prompt_embeddings") || p.grad(&grads).is_none()));
            undo();
            assert_eq!(no_grad(|| model.forward(&tokens))?.to_vec::<f32>()?, before);
            if name.ends_with("prompt") {
                let tuning = PromptTuning::load(&model, model.decoder().embedding(), again.path())?;
                close(name, &masked(&no_grad(|| model.forward(&tuning.prepend(&tokens)?))?), &masked(&e["logits"]));
            } else {
                let _tuning = PrefixTuning::load(&model, again.path())?;
                close(name, &masked(&no_grad(|| model.forward(&tokens))?), &masked(&e["logits"]));
            }
        }
        Ok(())
    })
}

fn draw(adapters: &Adapters, seed: u64) {
    let _seed = fornax::testing::seed(seed);
    for p in adapters.parameters() {
        let noise = Tensor::normal(p.shape(), 0.0, 0.3, (p.dtype(), p.device()));
        p.set(p.value() + noise).unwrap();
    }
}

/// Each adapter that we can make: saved, loaded, the same; with `FORNAX_PEFT_OUT` the folders stay there for `tests/golden/check_peft.py`.
#[test]
fn what_we_save_we_load() {
    let names = |n: &[&str]| Some(Targets::Names(n.iter().map(|n| n.to_string()).collect()));
    let about = |task: &str, of: &str| fornax::lora::About {
        task_type: Some(task.into()),
        base_model_name_or_path: Some(format!("tests/golden/transformers/{of}")),
        revision: None,
    };
    let lora = |of: &str, targets: Option<Targets>| LoraConfig {
        r: 3,
        lora_alpha: 5.0,
        target_modules: targets,
        about: about("CAUSAL_LM", of),
        ..LoraConfig::default()
    };
    let cases: Vec<(&str, &str, AdapterConfig)> = vec![
        ("lora", "llama2", lora("llama2", names(&["q_proj", "v_proj"])).into()),
        (
            "all-linear",
            "llama2",
            LoraConfig { use_rslora: true, rank_pattern: vec![("down_proj".into(), 2)], ..lora("llama2", Some(Targets::AllLinear)) }.into(),
        ),
        ("dora", "llama2", LoraConfig { use_dora: true, ..lora("llama2", names(&["o_proj", "up_proj"])) }.into()),
        ("embedding", "llama2", lora("llama2", names(&["embed_tokens"])).into()),
        ("head", "llama2", LoraConfig { modules_to_save: vec!["lm_head".into()], ..lora("llama2", names(&["k_proj"])) }.into()),
        (
            "conv1d",
            "gpt2",
            LoraConfig { bias: Bias::All, init_lora_weights: Init::Gaussian, ..lora("gpt2", names(&["c_attn", "c_fc"])) }.into(),
        ),
        ("conv1d-dora", "gpt2", LoraConfig { use_dora: true, ..lora("gpt2", names(&["c_attn"])) }.into()),
        (
            "lora-only",
            "gpt2",
            LoraConfig {
                bias: Bias::LoraOnly,
                alpha_pattern: vec![("c_proj".into(), 1.5)],
                ..lora("gpt2", Some(r".*\.c_(attn|proj)".into()))
            }
            .into(),
        ),
        (
            "lora-bias",
            "gpt2",
            LoraConfig { lora_bias: true, layers_to_transform: Some(vec![1]), ..lora("gpt2", names(&["c_attn"])) }.into(),
        ),
        (
            "ia3",
            "llama2",
            Ia3Config {
                target_modules: names(&["k_proj", "v_proj", "down_proj"]),
                feedforward_modules: names(&["down_proj"]),
                about: about("CAUSAL_LM", "llama2"),
                ..Ia3Config::default()
            }
            .into(),
        ),
        (
            "bottleneck",
            "llama2",
            BottleneckConfig { bottleneck_size: 6, target_modules: names(&["o_proj", "down_proj"]), ..BottleneckConfig::default() }.into(),
        ),
    ];
    let ids = Tensor::from_slice(&[5i32, 9, 12, 40, 7, 8, 33, 21], [2, 4], Device::cpu()).unwrap();
    let keep = std::env::var_os("FORNAX_PEFT_OUT").map(PathBuf::from);
    for (name, of, config) in cases {
        let model = CausalLm::load(base(of), Device::cpu()).unwrap();
        let run = || no_grad(|| model.forward(&ids.clone().into())).unwrap();
        let plain = run();
        let adapters = Adapters::new(&model, config.clone()).unwrap();
        if !matches!(config, AdapterConfig::Lora(LoraConfig { use_dora: true, .. })) {
            assert_eq!(run().to_vec::<f32>().unwrap(), plain.to_vec::<f32>().unwrap(), "{name} starts as the base");
        } else {
            close(name, &run(), &plain);
        }
        draw(&adapters, 4);
        let want = run();
        let folder = tempfile::tempdir().unwrap();
        adapters.save(folder.path()).unwrap();
        let (trained, kept) = (adapters.trainable(), adapters.state_dict("default").unwrap());
        adapters.unload().unwrap();
        assert_eq!(run().to_vec::<f32>().unwrap(), plain.to_vec::<f32>().unwrap(), "{name}, unloaded");
        let again = Adapters::load_trainable(&model, folder.path()).unwrap();
        assert_eq!(run().to_vec::<f32>().unwrap(), want.to_vec::<f32>().unwrap(), "{name}, loaded");
        assert_eq!(again.trainable(), trained, "{name}");
        assert_eq!(again.state_dict("default").unwrap().keys().collect::<Vec<_>>(), kept.keys().collect::<Vec<_>>());
        if let Some(out) = &keep {
            again.save(out.join(name)).unwrap();
            let expected = StateDict::from([("input_ids".to_string(), ids.clone()), ("logits".to_string(), want)]);
            safetensors::save(out.join(name).join("expected.safetensors"), &expected).unwrap();
        }
    }
    for name in ["prompt", "prefix"] {
        let Some(out) = keep.as_ref().map(|o| o.join(name)) else { continue };
        let model = CausalLm::load(base("gpt2"), Device::cpu()).unwrap();
        let _seed = fornax::testing::seed(9);
        let logits = if name == "prompt" {
            let config = PromptTuningConfig { num_virtual_tokens: 3, about: about("CAUSAL_LM", "gpt2") };
            let tuning = PromptTuning::new(&model, model.decoder().embedding(), config).unwrap();
            tuning.save(&out).unwrap();
            no_grad(|| model.forward(&tuning.prepend(&ids.clone().into())?)).unwrap()
        } else {
            let config = PrefixTuningConfig { num_virtual_tokens: 3, about: about("CAUSAL_LM", "gpt2") };
            let tuning = PrefixTuning::new(&model, config).unwrap();
            tuning.save(&out).unwrap();
            no_grad(|| model.forward(&ids.clone().into())).unwrap()
        };
        let expected = StateDict::from([("input_ids".to_string(), ids.clone()), ("logits".to_string(), logits)]);
        safetensors::save(out.join("expected.safetensors"), &expected).unwrap();
    }
}

/// A frozen base has no gradient and no state of an optimizer; the loss falls.
#[test]
fn a_lora_trains() {
    on_devices(|d| {
        let _seed = fornax::testing::seed(6);
        let model = CausalLm::load(base("llama2"), d)?;
        model.train();
        let before = bits(&model.named_parameters());
        let base_params = model.named_parameters();
        let config =
            LoraConfig { r: 4, lora_alpha: 8.0, lora_dropout: 0.05, target_modules: Some(Targets::AllLinear), ..LoraConfig::default() };
        let lora = Adapters::new(&model, config)?;
        assert_eq!(lora.parameters().len(), 2 * 14);
        // All of the model's parameters: those that are frozen cost nothing.
        let mut optimizer = AdamW::new(model.parameters(), 2e-2);
        let ids = expected("llama-lora")["input_ids"].to(d);
        let mut losses = Vec::new();
        for _ in 0..if d.is_gpu() { 6 } else { 25 } {
            let loss = next_token(&model.forward(&ids.clone().into())?, &ids)?;
            losses.push(loss.item::<f32>()?);
            let grads = loss.backward()?;
            assert!(base_params.iter().all(|(_, p)| p.grad(&grads).is_none()), "a frozen parameter has a gradient");
            assert!(lora.parameters().iter().all(|p| p.grad(&grads).is_some()));
            optimizer.step(grads)?;
        }
        assert!(losses.last() < losses.first(), "{losses:?}");
        if !d.is_gpu() {
            assert!(*losses.last().unwrap() < 0.75 * losses[0], "{losses:?}");
        }
        // Two moments for each number that is trained, and a step.
        let trained = lora.trainable().trainable;
        let state: usize = optimizer.state_dict()?.iter().filter(|(k, _)| k.contains("exp_avg")).map(|(_, t)| t.numel()).sum();
        assert_eq!(state, 2 * trained);
        lora.unload()?;
        assert_eq!(bits(&base_params), before);
        Ok(())
    })
}

/// Layers that are no slots: a transformer of one's own.
#[test]
fn any_model_can_be_adapted() {
    on_devices(|d| {
        let _seed = fornax::testing::seed(8);
        let layer = nn::MultiheadAttention::new(8, 2, d);
        let model = nn::Sequential::new()
            .add_named("attn", layer)
            .add_named("norm", nn::LayerNorm::new(8, d))
            .add_named("head", nn::Linear::new(8, 3, d));
        let x = Tensor::normal([2, 5, 8], 0.0, 1.0, d);
        let config = LoraConfig {
            r: 2,
            target_modules: Some(["attn", "out_proj", "head"].into()),
            init_lora_weights: Init::Random,
            ..LoraConfig::default()
        };
        let plain = no_grad(|| model.forward(&x))?;
        let lora = Adapters::new(&model, config)?;
        let names: Vec<String> = lora.state_dict("default")?.into_keys().filter(|k| k.ends_with("lora_B.weight")).collect();
        assert_eq!(names, ["attn.lora_B", "attn.out_proj.lora_B", "head.lora_B"].map(|n| format!("base_model.model.{n}.weight")));
        let adapted = no_grad(|| model.forward(&x))?;
        assert!((&adapted - &plain).abs().max(()).item::<f32>()? > 0.01);
        lora.merge()?;
        close("merged", &no_grad(|| model.forward(&x))?, &adapted.to(Device::cpu()));
        lora.unload()?;
        assert_eq!(no_grad(|| model.forward(&x))?.to_vec::<f32>()?, plain.to_vec::<f32>()?);
        Ok(())
    })
}

/// A layer that keeps its weight in another form: rounded to eighths, in bytes.
struct Eighths {
    codes: Buffer,
    bias: Param,
    hook: Hook,
}

impl Eighths {
    fn of(layer: &nn::Linear) -> Result<Eighths> {
        let codes = layer.weight.value().mul(8.0).round().add(128.0).cast(DType::U8);
        Ok(Eighths { codes: Buffer::new(codes), bias: layer.bias.clone().unwrap(), hook: Hook::default() })
    }

    fn unpack(codes: &Buffer) -> Result<Tensor> {
        codes.get().try_cast(DType::F32)?.try_sub(128.0)?.try_mul(0.125)
    }
}

impl Module for Eighths {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.module("Eighths");
        walk.item(Item::Layer(self));
        walk.field("weight", |walk| self.codes.walk(walk));
        walk.field("bias", |walk| self.bias.walk(walk));
        self.hook.walk(walk);
    }
}

impl Adaptable for Eighths {
    fn hook(&self) -> &Hook {
        &self.hook
    }

    fn kind(&self) -> LayerKind {
        let d = self.codes.get().dims().to_vec();
        LayerKind::Linear { inputs: d[1], outputs: d[0], transposed: false }
    }

    fn weight(&self) -> Weight {
        let codes = self.codes.clone();
        Weight::Packed(Arc::new(move || Eighths::unpack(&codes)))
    }

    fn bias(&self) -> Option<Param> {
        Some(self.bias.clone())
    }
}

impl Forward for Eighths {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.hook.call(x, &|x| x.try_linear(&Eighths::unpack(&self.codes)?, Some(&self.bias.get())))
    }
}

/// Adapters over packed weights (QLoRA): trained, merged into a plain layer that stands in, and that takes its place.
#[test]
fn packed_layers_are_adapted() {
    on_devices(|d| {
        for use_dora in [false, true] {
            let _seed = fornax::testing::seed(5);
            let model = nn::Sequential::new()
                .add_named("up", nn::Slot::new(Eighths::of(&nn::Linear::new(6, 8, d))?))
                .add(nn::Tanh)
                .add_named("down", nn::Slot::new(Eighths::of(&nn::Linear::new(8, 4, d))?));
            let x = Tensor::normal([3, 6], 0.0, 1.0, d);
            let plain = no_grad(|| model.forward(&x))?.to_vec::<f32>()?;
            let config = LoraConfig { r: 2, use_dora, target_modules: Some(Targets::AllLinear), ..LoraConfig::default() };
            let lora = Adapters::new(&model, config)?;
            let own = 2 * (6 + 8) + 2 * (8 + 4) + if use_dora { 8 + 4 } else { 0 };
            assert_eq!((lora.trainable().trainable, lora.trainable().all), (own, own + 6 * 8 + 8 + 8 * 4 + 4));
            let mut optimizer = AdamW::new(model.parameters(), 5e-2);
            let target = Tensor::normal([3, 4], 0.0, 1.0, d);
            let mut losses = Vec::new();
            for _ in 0..10 {
                let loss = nn::mse_loss(&model.forward(&x)?, &target)?;
                losses.push(loss.item::<f32>()?);
                optimizer.step(loss.backward()?)?;
            }
            assert!(losses[9] < 0.8 * losses[0], "{losses:?}");
            let adapted = no_grad(|| model.forward(&x))?.to(Device::cpu());
            lora.merge()?;
            close("stands in", &no_grad(|| model.forward(&x))?, &adapted);
            lora.unmerge()?;
            assert_eq!(no_grad(|| model.forward(&x))?.to_vec::<f32>()?, adapted.to_vec::<f32>()?);
            assert_eq!(lora.disabled(|| no_grad(|| model.forward(&x)))?.to_vec::<f32>()?, plain);
            lora.merge_and_unload()?;
            close("took its place", &no_grad(|| model.forward(&x))?, &adapted);
            let names: Vec<String> = model.named_parameters().into_iter().map(|(n, _)| n).collect();
            assert_eq!(names, ["up.weight", "up.bias", "down.weight", "down.bias"]);
        }
        Ok(())
    })
}

#[test]
fn reports_and_defaults() {
    let d = Device::cpu();
    let model = CausalLm::load(base("llama2"), d).unwrap();
    let all = model.num_params();
    let lora = Adapters::new(&model, LoraConfig { target_modules: Some(["q_proj"].into()), ..LoraConfig::default() }).unwrap();
    let trained = 2 * 2 * 16 * 8;
    let percent = 100.0 * trained as f64 / (all + trained) as f64;
    assert_eq!(
        lora.trainable().to_string(),
        format!(
            "trainable params: {trained} || all params: {},{:03} || trainable%: {percent:.4}",
            (all + trained) / 1000,
            (all + trained) % 1000
        )
    );
    let names: Vec<String> =
        model.named_parameters().into_iter().map(|(n, _)| n).filter(|n| n.contains("layers.0.self_attn.q_proj")).collect();
    let path = "model.layers.0.self_attn.q_proj";
    assert_eq!(names, [format!("{path}.weight"), format!("{path}.lora_A.default.weight"), format!("{path}.lora_B.default.weight")]);
    // A uniform within ±1/√in, B zero.
    let dict = lora.state_dict("default").unwrap();
    let a = &dict[&format!("base_model.model.{path}.lora_A.weight")];
    let largest = a.abs().max(()).item::<f32>().unwrap();
    assert!(largest <= 0.25 && largest > 0.2, "{largest}");
    assert_eq!(dict[&format!("base_model.model.{path}.lora_B.weight")].abs().max(()).item::<f32>().unwrap(), 0.0);
}

//! Every family against Hugging Face's transformers (`tests/golden/gen_transformers.py`): logits, hidden states, greedy and beam-searched tokens.

use fornax::generate::{Generation, generate, stream};
use fornax::io::{StateDict, safetensors};
use fornax::nn::Module;
use fornax::transformers::{
    CausalClassifier, CausalLm, Checkpoint, Encoder, KvCache, LoadOptions, MaskedLm, NextSentence, QuestionAnswerer, Seq2Seq,
    SequenceClassifier, TokenClassifier, Tokens,
};
use fornax::{DType, Device, Result, Tensor, no_grad};

fn folder(name: &str) -> String {
    format!("{}/tests/golden/transformers/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn expected(name: &str) -> StateDict {
    safetensors::load(format!("{}/expected.safetensors", folder(name))).unwrap()
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
    close_to(what, got, want, 1e-4)
}

fn close_to(what: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let (g, w) = (got.to_vec::<f32>().unwrap(), want.to_vec::<f32>().unwrap());
    let scale = w.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let off = g.iter().zip(&w).fold(0.0f32, |m, (g, w)| if (g - w).abs() <= m { m } else { (g - w).abs() });
    assert!(off <= tolerance * scale, "{what} on {}: off by {off} of {scale}", got.device());
}

fn states(what: &str, got: &[Tensor], want: &Tensor, mask: Option<&Tensor>) {
    let all = Tensor::stack(&got.iter().collect::<Vec<_>>(), 0).to(Device::cpu());
    // What stands on padding has no meaning.
    let Some(m) = mask else { return close(what, &all, want) };
    let m = m.cast(DType::F32).unsqueeze(-1).unsqueeze(0);
    close(what, &(all * &m), &(want * &m))
}

fn tokens(e: &StateDict, device: Device) -> Tokens {
    let on = |name: &str| e.get(name).map(|t| t.to(device));
    Tokens { ids: e["input_ids"].to(device), mask: on("attention_mask"), types: on("token_type_ids") }
}

#[test]
fn encoders_as_transformers() {
    on_devices(|d| {
        no_grad(|| {
            let e = expected("bert");
            let t = tokens(&e, d);
            let encoder = Encoder::load(folder("bert"), d)?;
            states("bert", &encoder.hidden_states(&t)?, &e["hidden_states"], e.get("attention_mask"));
            close("bert, pooled", &encoder.forward(&t)?.pooled.unwrap(), &e["pooler_output"]);
            for name in ["bert-mlm", "roberta-mlm", "distilbert-mlm"] {
                let (e, model) = (expected(name), MaskedLm::load(folder(name), d)?);
                let t = tokens(&e, d);
                states(name, &model.encoder().hidden_states(&t)?, &e["hidden_states"], e.get("attention_mask"));
                let m = e["attention_mask"].cast(DType::F32).unsqueeze(-1);
                close(name, &(model.forward(&t)?.to(Device::cpu()) * &m), &(&e["logits"] * &m));
            }
            for name in ["bert-classify", "roberta-classify", "distilbert-classify"] {
                let e = expected(name);
                close(name, &SequenceClassifier::load(folder(name), d)?.forward(&tokens(&e, d))?, &e["logits"]);
            }
            let e = expected("bert-ner");
            let model = TokenClassifier::load(folder("bert-ner"), d)?;
            let m = e["attention_mask"].cast(DType::F32).unsqueeze(-1);
            close("bert-ner", &(model.forward(&tokens(&e, d))?.to(Device::cpu()) * &m), &(&e["logits"] * &m));
            assert_eq!(model.labels(), ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]);
            let e = expected("bert-qa");
            let (start, end) = QuestionAnswerer::load(folder("bert-qa"), d)?.forward(&tokens(&e, d))?;
            let m = e["attention_mask"].cast(DType::F32);
            close("bert-qa", &(start.to(Device::cpu()) * &m), &(&e["start_logits"] * &m));
            close("bert-qa", &(end.to(Device::cpu()) * &m), &(&e["end_logits"] * &m));
            let e = expected("bert-nsp");
            close("bert-nsp", &NextSentence::load(folder("bert-nsp"), d)?.forward(&tokens(&e, d))?, &e["logits"]);
            Ok(())
        })
    })
}

#[test]
fn causal_classifiers_as_transformers() {
    on_devices(|d| {
        no_grad(|| {
            for name in ["gpt2-classify", "qwen2-classify", "falcon-classify"] {
                let (e, model) = (expected(name), CausalClassifier::load(folder(name), d)?);
                let t = tokens(&e, d);
                close(name, &model.forward(&t)?, &e["logits"]);
                // A text alone, without padding.
                let alone = Tokens::from(t.ids.narrow(0, 1, 1).narrow(1, 0, 6));
                close(name, &model.forward(&alone)?, &e["logits"].narrow(0, 1, 1));
                assert_eq!(model.labels(), ["LABEL_0", "LABEL_1", "LABEL_2"]);
            }
            Ok(())
        })
    });
    let e = CausalClassifier::load(folder("bert-classify"), Device::cpu()).map(|_| ()).unwrap_err().to_string();
    assert!(e.contains("bert") && e.contains("llama"), "{e}");
}

/// Prompts without their padding.
fn prompts(ids: &Tensor, mask: &Tensor) -> Vec<Vec<u32>> {
    let width = ids.dims()[1];
    let (ids, mask) = (ids.to_vec::<i32>().unwrap(), mask.to_vec::<i32>().unwrap());
    let rows = ids.chunks(width).zip(mask.chunks(width));
    rows.map(|(i, m)| i.iter().zip(m).filter(|(_, m)| **m == 1).map(|(i, _)| *i as u32).collect()).collect()
}

/// Rows of the file as they were before transformers filled them up: through the end.
fn rows(t: &Tensor, end: Option<u32>) -> Vec<Vec<u32>> {
    let width = t.dims()[1];
    let cut = |row: &[i32]| -> Vec<u32> {
        let row: Vec<u32> = row.iter().map(|&t| t as u32).collect();
        let len = end.and_then(|e| row.iter().position(|&t| t == e)).map_or(row.len(), |i| i + 1);
        row[..len].to_vec()
    };
    t.to_vec::<i32>().unwrap().chunks(width).map(cut).collect()
}

fn generations(name: &str, model: &dyn fornax::generate::Generative, e: &StateDict, prompts: &[Vec<u32>], all: bool) -> Result<()> {
    let end = e["eos"].item::<i32>()? as u32;
    let greedy = |ends: Vec<u32>| Generation { max_new_tokens: 12, ends: Some(ends), ..Generation::default() };
    assert_eq!(generate(model, prompts, &greedy(vec![end]))?, rows(&e["greedy_eos"], Some(end)), "{name}, greedy with an end");
    if !all {
        return Ok(());
    }
    assert_eq!(generate(model, prompts, &greedy(vec![]))?, rows(&e["greedy"], None), "{name}, greedy");
    // A row alone, without padding beside it, and through the iterator.
    let mut one = Vec::new();
    for step in stream(model, &prompts[1..2], &greedy(vec![]))? {
        one.extend(step?[0]);
    }
    assert_eq!(one, rows(&e["greedy"], None)[1], "{name}, one row");
    let options = Generation { repetition_penalty: 1.5, ..greedy(vec![]) };
    assert_eq!(generate(model, prompts, &options)?[0], rows(&e["greedy_repetition"], None)[0], "{name}, repetition penalty");
    let beams = |beams, length_penalty, early_stopping| Generation {
        max_new_tokens: 10,
        beams,
        length_penalty,
        early_stopping,
        ..greedy(vec![end])
    };
    for (key, options) in [
        ("beam", beams(3, 1.0, false)),
        ("beam_long", beams(4, 2.0, false)),
        ("beam_short", beams(3, -1.0, false)),
        ("beam_early", beams(3, 1.0, true)),
    ] {
        let found = generate(model, prompts, &options)?;
        // transformers fills up with 0, and cuts all rows at the longest.
        for (found, want) in found.iter().zip(rows(&e[key], Some(end))) {
            assert_eq!(*found, want, "{name}, {key}");
        }
    }
    Ok(())
}

const CAUSAL: [&str; 8] = ["gpt2", "llama2", "llama3", "mistral", "qwen2", "falcon", "falcon-new", "falcon-alibi"];

#[test]
fn causal_models_as_transformers() {
    on_devices(|d| {
        for name in CAUSAL {
            let e = expected(name);
            let model = CausalLm::load(folder(name), d)?;
            no_grad(|| {
                let t = tokens(&e, d);
                states(name, &model.hidden_states(&t)?, &e["hidden_states"], None);
                close(name, &model.forward(&t)?, &e["logits"]);
                generations(name, &model, &e, &prompts(&e["prompt"], &e["mask"]), !d.is_gpu())
            })?;
        }
        Ok(())
    })
}

#[test]
fn text_to_text_as_transformers() {
    on_devices(|d| {
        for name in ["t5", "t5-gated"] {
            let e = expected(name);
            let model = Seq2Seq::load(folder(name), d)?;
            no_grad(|| {
                let (source, target) = (tokens(&e, d), Tokens::from(e["decoder_input_ids"].to(d)));
                let (encoder, decoder) = model.hidden_states(&source, &target)?;
                states(&format!("{name}, encoder"), &encoder, &e["encoder_hidden_states"], e.get("attention_mask"));
                states(&format!("{name}, decoder"), &decoder, &e["hidden_states"], None);
                close(name, &model.forward(&source, &target)?, &e["logits"]);
                generations(name, &model, &e, &prompts(&e["input_ids"], &e["attention_mask"]), !d.is_gpu())
            })?;
        }
        Ok(())
    })
}

/// Reading a text piece by piece gives what reading it at once gives, across the growth of the cache; and a token needs no new plan.
#[test]
fn caches_change_nothing() {
    let d = Device::cpu();
    for name in ["llama3", "mistral", "gpt2"] {
        let model = CausalLm::load(folder(name), d).unwrap();
        let length = model.shape().context;
        let ids: Vec<i32> = (0..length).map(|i| (i * 7 % 44 + 4) as i32).collect();
        no_grad(|| -> Result<()> {
            let whole = model.forward(&Tensor::from_slice(&ids, [1, length], d)?.into())?;
            // Mistral sees five tokens: pieces that fill its ring, that turn it, and that are longer than it.
            for begin in [vec![3, 1, 5], vec![5, 1, 1, 1, 2], vec![7, 3, 6], vec![1, 1, 1, 1, 1, 1, 5, 4], vec![6, 1, 10]] {
                // Full after four tokens, so that it grows on the way.
                let mut cache = KvCache::with_capacity(4);
                let mut at = 0;
                let rest = length - begin.iter().sum::<usize>();
                for n in begin.into_iter().chain(std::iter::repeat_n(1, rest)) {
                    let part = Tensor::from_slice(&ids[at..at + n], [1, n], d)?;
                    let logits = model.next(&part, &mut cache)?;
                    let mut all = vec![&logits];
                    all.extend(cache.tensors());
                    fornax::eval(&all)?;
                    at += n;
                    close_to(name, &logits, &whole.narrow(1, at - 1, 1).squeeze(1), 2e-5);
                }
                assert_eq!(cache.len(), length);
                let places = cache.tensors().map(|t| t.dims()[2]).max();
                assert_eq!(places, Some(if name == "mistral" { 5 } else { cache.capacity() }), "{name}");
                assert!(model.next(&Tensor::from_slice(&[5i32], [1, 1], d)?, &mut cache).unwrap_err().to_string().contains("context"));
            }
            Ok(())
        })
        .unwrap();
    }
}

/// f16 and bf16 weights stay what they are; the results are near.
#[test]
fn half_precision_is_kept() {
    for dtype in [DType::F16, DType::BF16] {
        let options = LoadOptions { dtype: Some(dtype), ..LoadOptions::from(Device::cpu()) };
        let model = CausalLm::load(folder("llama3"), options).unwrap();
        assert!(model.parameters().iter().all(|p| p.dtype() == dtype));
        let e = expected("llama3");
        let got = no_grad(|| model.forward(&tokens(&e, Device::cpu()))).unwrap();
        assert_eq!(got.dtype(), dtype);
        close_to("llama3", &got, &e["logits"], if dtype == DType::F16 { 0.01 } else { 0.08 });
        let path = tempfile::tempdir().unwrap();
        model.save_safetensors(path.path().join("model.safetensors")).unwrap();
        std::fs::copy(format!("{}/config.json", folder("llama3")), path.path().join("config.json")).unwrap();
        let again = CausalLm::load(path.path(), Device::cpu()).unwrap();
        assert!(again.parameters().iter().all(|p| p.dtype() == dtype), "as stored");
    }
}

/// A model's parameters have the names that the file gives them, and train.
#[test]
fn names_are_the_files() {
    for (name, module) in [
        ("llama2", Box::new(CausalLm::load(folder("llama2"), Device::cpu()).unwrap()) as Box<dyn Module>),
        ("gpt2", Box::new(CausalLm::load(folder("gpt2"), Device::cpu()).unwrap())),
        ("falcon-new", Box::new(CausalLm::load(folder("falcon-new"), Device::cpu()).unwrap())),
        ("t5-gated", Box::new(Seq2Seq::load(folder("t5-gated"), Device::cpu()).unwrap())),
        ("bert-classify", Box::new(SequenceClassifier::load(folder("bert-classify"), Device::cpu()).unwrap())),
        ("distilbert-mlm", Box::new(MaskedLm::load(folder("distilbert-mlm"), Device::cpu()).unwrap())),
    ] {
        let mut names: Vec<String> = module.named_parameters().into_iter().map(|(n, _)| n).collect();
        names.sort();
        let file: Vec<String> = Checkpoint::open(folder(name)).unwrap().tensors().keys().cloned().collect();
        assert_eq!(names, file, "{name}");
    }
    let model = CausalLm::load(folder("llama2"), Device::cpu()).unwrap();
    let slots: Vec<String> = model.named_slots().into_iter().map(|(n, _)| n).filter(|n| n.ends_with("q_proj")).collect();
    assert_eq!(slots, ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]);
    let e = expected("llama2");
    let logits = model.forward(&tokens(&e, Device::cpu())).unwrap();
    let loss = fornax::nn::cross_entropy(&logits.reshape([18, 48]), &e["input_ids"].reshape(18)).unwrap();
    let grads = loss.backward().unwrap();
    for (name, p) in model.named_parameters() {
        let g = p.grad(&grads).unwrap_or_else(|| panic!("no gradient of {name}"));
        let norm = g.square().sum(()).item::<f32>().unwrap();
        assert!(norm.is_finite() && norm > 0.0, "{name}: {norm}");
    }
}

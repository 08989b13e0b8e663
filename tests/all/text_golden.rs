//! Chat templates and pipelines against Hugging Face's transformers (`tests/golden/gen_chat.py`, `tests/golden/gen_pipelines.py`).

use fornax::generate::Stop;
use fornax::text::{
    Aggregation, ChatTemplate, Classification, Entities, FillMask, Message, StopStrings, TextClassifier, Tokenizer, TokenizerKind,
    TokenizerTrainer,
};
use fornax::transformers::{CausalClassifier, MaskedLm, SequenceClassifier, TokenClassifier};
use fornax::{Device, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn read(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden(name)).unwrap()).unwrap()
}

fn text(v: &Value) -> &str {
    v.as_str().unwrap()
}

fn texts(v: &Value) -> Vec<&str> {
    v.as_array().unwrap().iter().map(text).collect()
}

fn near(got: f32, want: &Value) -> bool {
    (got as f64 - want.as_f64().unwrap()).abs() < 2e-5
}

#[test]
fn conversations_as_transformers() {
    let file = read("chat.json");
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 18);
    for case in cases {
        let mut template = ChatTemplate::new(text(&case["template"])).unwrap();
        for (name, token) in file["tokens"].as_object().unwrap() {
            template = template.token(name, text(token));
        }
        let messages: Vec<Message> =
            case["messages"].as_array().unwrap().iter().map(|m| Message::new(text(&m["role"]), text(&m["content"]))).collect();
        let got = template.render(&messages, case["prompt"].as_bool().unwrap());
        match case.get("error") {
            Some(e) => assert!(got.unwrap_err().to_string().contains(text(e))),
            None => assert_eq!(got.unwrap(), text(&case["text"]), "{}", case["name"]),
        }
    }
}

fn folder() -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    std::fs::copy(golden("pipelines/tokenizer.json"), to.path().join("tokenizer.json")).unwrap();
    to
}

fn write(folder: &tempfile::TempDir, name: &str, text: &str) {
    let path = folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Where templates are, and which counts.
#[test]
fn templates_of_folders() {
    let hi = [Message::new("user", "hi")];
    let usual = |f: &tempfile::TempDir| Tokenizer::open(f.path()).unwrap().template().map(|t| t.render(&hi, true));
    // Without a config, and before the one in a config; the config's tokens count all the same.
    let f = folder();
    assert!(usual(&f).is_none());
    write(&f, "chat_template.jinja", "{{ bos_token }}file: {{ messages[0].content }}");
    assert_eq!(usual(&f).unwrap().unwrap(), "file: hi");
    write(&f, "tokenizer_config.json", &json!({"chat_template": "config", "bos_token": "[CLS]"}).to_string());
    assert_eq!(usual(&f).unwrap().unwrap(), "[CLS]file: hi");
    // What is no template is an error when it is rendered.
    write(&f, "chat_template.jinja", "{% for %}");
    let message = usual(&f).unwrap().unwrap_err().to_string();
    assert!(message.contains("line 1"), "{message}");
    // Several.
    let f = folder();
    let named = |names: &[&str]| {
        let list: Vec<Value> =
            names.iter().map(|n| json!({"name": n, "template": format!("{n}: {{{{ messages[0].content }}}}")})).collect();
        json!({ "chat_template": list }).to_string()
    };
    write(&f, "tokenizer_config.json", &named(&["default", "rag"]));
    assert_eq!(usual(&f).unwrap().unwrap(), "default: hi");
    let tokenizer = Tokenizer::open(f.path()).unwrap();
    assert_eq!(tokenizer.template_named("rag").unwrap().render(&hi, true).unwrap(), "rag: hi");
    assert!(tokenizer.template_named("tool_use").is_none());
    write(&f, "tokenizer_config.json", &named(&["tool_use", "rag"]));
    let message = usual(&f).unwrap().unwrap_err().to_string();
    assert!(message.contains("template_named") && message.contains("rag, tool_use"), "{message}");
    write(&f, "chat_template.jinja", "usual");
    write(&f, "additional_chat_templates/rag.jinja", "more");
    assert_eq!(usual(&f).unwrap().unwrap(), "usual");
    assert_eq!(Tokenizer::open(f.path()).unwrap().template_named("rag").unwrap().render(&hi, true).unwrap(), "more");
}

/// A golden folder with another `problem_type`.
fn classifier(problem: &str, tokenizer: &Tokenizer) -> Result<TextClassifier> {
    let (from, to) = (golden("transformers/bert-classify"), tempfile::tempdir().unwrap());
    std::fs::copy(from.join("model.safetensors"), to.path().join("model.safetensors")).unwrap();
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(from.join("config.json")).unwrap()).unwrap();
    config["problem_type"] = if problem.is_empty() { Value::Null } else { json!(problem) };
    std::fs::write(to.path().join("config.json"), config.to_string()).unwrap();
    TextClassifier::new(SequenceClassifier::load(to.path(), Device::cpu())?, tokenizer)
}

/// A folder of a causal model is classified by the state of each text's last token.
#[test]
fn causal_models_classify_texts() -> Result<()> {
    let (from, to) = (golden("transformers/gpt2-classify"), tempfile::tempdir().unwrap());
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(from.join(name), to.path().join(name)).unwrap();
    }
    std::fs::copy(golden("pipelines/tokenizer.json"), to.path().join("tokenizer.json")).unwrap();
    let want = read("pipelines/expected.json");
    let texts = texts(&want["texts"]);
    let together = TextClassifier::load(to.path(), Device::cpu())?.classify(&texts)?;
    let (model, tokenizer) = (CausalClassifier::load(to.path(), Device::cpu())?, Tokenizer::open(to.path())?);
    for (text, classes) in texts.iter().zip(together) {
        let logits = model.forward(&tokenizer.batch(&tokenizer.encode_batch(&[*text])?, Device::cpu())?)?;
        let alone = logits.softmax(-1).to_vec::<f32>()?;
        for c in classes {
            let i = model.labels().iter().position(|l| *l == c.label).unwrap();
            assert!((alone[i] - c.score).abs() < 1e-5, "{text}: {} {} {}", c.label, alone[i], c.score);
        }
    }
    Ok(())
}

#[test]
fn pipelines_as_transformers() {
    let d = Device::cpu();
    let want = read("pipelines/expected.json");
    let tokenizer = Tokenizer::open(golden("pipelines/tokenizer.json")).unwrap();
    let inputs = texts(&want["texts"]);
    for (problem, rows) in want["classes"].as_object().unwrap() {
        let found = classifier(problem, &tokenizer).unwrap().classify(&inputs).unwrap();
        for (found, row) in found.iter().zip(rows.as_array().unwrap()) {
            let row = row.as_array().unwrap();
            assert_eq!(found.len(), row.len());
            let same = |(f, w): (&Classification, &Value)| f.label == text(&w["label"]) && near(f.score, &w["score"]);
            assert!(found.iter().zip(row).all(same), "{problem}: {found:?}, {row:?}");
        }
    }
    assert!(classifier("ranking", &tokenizer).err().unwrap().to_string().contains("multi_label_classification"));

    let strategies =
        [("simple", Aggregation::Simple), ("first", Aggregation::First), ("average", Aggregation::Average), ("max", Aggregation::Max)];
    for (name, how) in strategies {
        let entities = Entities::new(TokenClassifier::load(golden("transformers/bert-ner"), d).unwrap(), &tokenizer).aggregation(how);
        for (input, row) in inputs.iter().zip(want["entities"][name].as_array().unwrap()) {
            let (found, row) = (entities.find(input).unwrap(), row.as_array().unwrap());
            assert_eq!(found.len(), row.len(), "{name}: {input}: {found:?}");
            for (e, w) in found.iter().zip(row) {
                // All texts are ASCII: bytes are characters.
                assert_eq!(
                    (e.label.as_str(), json!(e.start), json!(e.end)),
                    (text(&w["entity_group"]), w["start"].clone(), w["end"].clone()),
                    "{name}"
                );
                assert_eq!(e.text, input[e.start..e.end]);
                assert!(near(e.score, &w["score"]), "{name}: {e:?}, {w}");
            }
        }
    }

    let fill = FillMask::new(MaskedLm::load(golden("transformers/bert-mlm"), d).unwrap(), &tokenizer).unwrap();
    for (input, masks) in texts(&want["masked"]).iter().zip(want["filled"].as_array().unwrap()) {
        let found = fill.fill(input, 3).unwrap();
        assert_eq!(found.len(), masks.as_array().unwrap().len());
        for (f, w) in found.iter().zip(masks.as_array().unwrap()).flat_map(|(f, w)| f.iter().zip(w.as_array().unwrap())) {
            assert_eq!(
                (json!(f.id), f.token.as_str(), f.sequence.as_str()),
                (w["token"].clone(), text(&w["token_str"]), text(&w["sequence"]))
            );
            assert!(near(f.score, &w["score"]), "{f:?}, {w}");
        }
    }
}

/// A special token is a text, too.
#[test]
fn stop_strings_see_special_tokens() {
    let tokenizer = TokenizerTrainer::new(TokenizerKind::Bpe, 300).special(&["<|im_end|>"]).train(&["one two three"]).unwrap();
    let ids = tokenizer.encode("one two<|im_end|> three").unwrap().ids;
    let end = ids.iter().position(|&t| Some(t) == tokenizer.id("<|im_end|>")).unwrap();
    let stop = StopStrings::new(&tokenizer, &["<|im_end|>"]);
    assert!(!stop.stops(&ids[..end]) && stop.stops(&ids[..=end]));
    // A string that goes on behind one.
    assert!(StopStrings::new(&tokenizer, &["two three"]).stops(&ids));
    assert_eq!(tokenizer.decode_with_special(&ids).unwrap(), "one two<|im_end|> three");
}

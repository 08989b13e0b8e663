//! Tokenizers, sentence embeddings, collators and pipelines.

use fornax::data::Rng;
use fornax::generate::Generation;
use fornax::io::safetensors;
use fornax::text::{
    Answers, CausalCollator, ChatTemplate, Encoding, Entities, FillMask, IGNORED, MaskedCollator, Message, SentenceEncoder, TextClassifier,
    TextGenerator, TextToText, Tokenizer, TokenizerKind, TokenizerTrainer,
};
use fornax::transformers::{CausalLm, MaskedLm, QuestionAnswerer, Seq2Seq, SequenceClassifier, TokenClassifier};
use fornax::{Device, Result};

fn golden(name: &str) -> String {
    format!("{}/tests/golden/transformers/{name}", env!("CARGO_MANIFEST_DIR"))
}

const TEXT: &str = "the cat sat on the mat and the dog sat on the cat";

/// A tokenizer whose numbers all lie in the small models' vocabulary of 48.
fn small(kind: TokenizerKind) -> Tokenizer {
    TokenizerTrainer::new(kind, 48).train(&[TEXT]).unwrap()
}

/// The real model against transformers (`tests/golden/gen_minilm.py`), where `FORNAX_MINILM` says that its folder is: the weights are 90 MB.
#[test]
fn minilm_as_transformers() {
    let Some(folder) = std::env::var_os("FORNAX_MINILM") else {
        eprintln!("skipped: FORNAX_MINILM is not set");
        return;
    };
    let want = safetensors::load(format!("{}/tests/golden/minilm.safetensors", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let fox = "The quick brown fox jumps over the lazy dog. ".repeat(40);
    let sentences = [
        "The cat sits on the mat.",
        "A kitten is resting on a rug.",
        "Stock markets fell sharply on Monday after the central bank raised interest rates by half a point.",
        "Zürich, naïve café – 3.14 % of the façade's 2,718 tiles!",
        "word",
        &fox,
    ];
    let run = |d: Device, count: usize| {
        let encoder = SentenceEncoder::load(&folder, d).unwrap().batch_size(4);
        for (i, e) in encoder.tokenizer().encode_batch(&sentences).unwrap().iter().enumerate() {
            let ids: Vec<i32> = e.ids.iter().map(|&t| t as i32).collect();
            assert_eq!(ids, want[&format!("ids{i}")].to_vec::<i32>().unwrap());
        }
        let got = encoder.encode(&sentences[..count]).unwrap().to_vec::<f32>().unwrap();
        let want = want["embeddings"].to_vec::<f32>().unwrap();
        let off = got.iter().zip(&want).fold(0.0f32, |m, (g, w)| if (g - w).abs() <= m { m } else { (g - w).abs() });
        println!("MiniLM on {d}: off by {off:e}");
        assert_eq!(got.len(), count * 384);
        assert!(off < 1e-5, "off by {off:e} on {d}");
    };
    run(Device::cpu(), 6);
    if let Ok(gpu) = Device::gpu(0) {
        run(gpu, 2);
    }
}

#[test]
fn trained_tokenizers_keep_their_promises() {
    let corpus: Vec<String> = (0..50).map(|i| format!("{TEXT} {} naïve 日本 {}", i * i, "word".repeat(i % 4))).collect();
    for kind in [TokenizerKind::Bpe, TokenizerKind::WordPiece, TokenizerKind::Unigram] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("corpus.txt");
        std::fs::write(&file, corpus.join("\n")).unwrap();
        let trainer = TokenizerTrainer::new(kind, 400).special(&["<extra>"]);
        let tokenizer = trainer.train_files(&[&file]).unwrap();
        assert!(tokenizer.vocabulary() > 20 && tokenizer.vocabulary() <= 400, "{kind:?}: {}", tokenizer.vocabulary());
        let encoding = tokenizer.encode("the dog sat").unwrap();
        assert_eq!(tokenizer.decode(&encoding.ids).unwrap(), "the dog sat", "{kind:?}");
        assert!(tokenizer.id("<extra>").is_some());
        // Saved and opened again it is the same.
        tokenizer.save(folder.path().join("tokenizer.json")).unwrap();
        let again = Tokenizer::open(folder.path()).unwrap();
        assert_eq!(again.encode(&corpus[7]).unwrap(), tokenizer.encode(&corpus[7]).unwrap());
        // Byte by byte nothing is lost.
        if kind == TokenizerKind::Bpe {
            let odd = "Ünï→code \t\n 🦀 never seen";
            let ids = tokenizer.encode(odd).unwrap().ids;
            assert_eq!(tokenizer.decode(&ids).unwrap(), odd);
            let mut stream = tokenizer.stream();
            let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
            assert_eq!(pieces.concat(), odd);
            assert!(pieces.iter().any(String::is_empty), "the crab's first bytes are no text");
        }
        let cut = tokenizer.max_length(3).unwrap();
        assert_eq!(cut.encode(&corpus[7]).unwrap().ids.len(), 3);
    }
    let message = |r: Result<Tokenizer>| r.err().unwrap().to_string();
    assert!(message(TokenizerTrainer::new(TokenizerKind::WordPiece, 3).train(&[TEXT])).contains("no room"));
    assert!(message(TokenizerTrainer::new(TokenizerKind::Unigram, 60).train(&[""])).contains("no text"));
    assert!(message(TokenizerTrainer::new(TokenizerKind::Bpe, 300).train_files(&["/no/such/file"])).contains("/no/such/file"));
    assert!(message(Tokenizer::open(golden("bert"))).contains("tokenizer.json"));
    let broken = tempfile::tempdir().unwrap();
    for text in ["", "{}", "{\"model\": {\"type\": \"BPE\"}}", "nonsense"] {
        std::fs::write(broken.path().join("tokenizer.json"), text).unwrap();
        assert!(Tokenizer::open(broken.path()).is_err(), "{text}");
    }
}

/// What a file bakes in does not cut or fill the texts.
#[test]
fn baked_in_padding_is_switched_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    small(TokenizerKind::WordPiece).save(&path).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    json["truncation"] = serde_json::json!({"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"});
    json["padding"] = serde_json::json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"});
    std::fs::write(&path, json.to_string()).unwrap();
    let tokenizer = Tokenizer::open(&path).unwrap();
    assert_eq!(tokenizer.encode("the cat sat on the mat").unwrap().ids.len(), 8);
    assert_eq!(tokenizer.encode("the").unwrap().ids.len(), 3);
    let batch = tokenizer.batch(&tokenizer.encode_batch(&["the cat", "the"]).unwrap(), Device::cpu()).unwrap();
    assert_eq!(batch.mask.unwrap().to_vec::<i32>().unwrap(), [1, 1, 1, 1, 1, 1, 1, 0]);
    let pair = tokenizer.encode_pair("the cat", "the dog").unwrap();
    let batch = tokenizer.batch(&[pair], Device::cpu()).unwrap();
    assert_eq!(batch.types.unwrap().to_vec::<i32>().unwrap(), [0, 0, 0, 0, 1, 1, 1]);
}

#[test]
fn chat_templates() {
    let source = "{%- if messages[0]['role'] == 'system' -%}\n{%- set start = 1 -%}\n{{ bos_token }}<<{{ messages[0].content | trim }}>>\n{%- else -%}\n{%- set start = 0 -%}\n{%- endif -%}\n{%- for m in messages[start:] -%}\n{%- if m.role not in ['user', 'assistant'] -%}{{ raise_exception('no role ' + m.role) }}{%- endif -%}\n[{{ m.role.upper() }}] {{ m.content.split('|')[0].strip() }}{{ eos_token if m.role == 'assistant' else '' }}\n{%- endfor -%}\n{%- if add_generation_prompt -%}[ASSISTANT]{%- endif -%}";
    let template = ChatTemplate::new(source).unwrap().token("bos_token", "<s>").token("eos_token", "</s>");
    let chat = [
        Message::new("system", " Be kind. "),
        Message::new("user", "Hi |x"),
        Message::new("assistant", "Hello"),
        Message::new("user", "Bye"),
    ];
    assert_eq!(template.render(&chat, true).unwrap(), "<s><<Be kind.>>[USER] Hi[ASSISTANT] Hello</s>[USER] Bye[ASSISTANT]");
    assert_eq!(template.render(&chat[1..2], false).unwrap(), "[USER] Hi");
    assert!(template.render(&[Message::new("user", ""), Message::new("tool", "")], true).unwrap_err().to_string().contains("no role tool"));
    assert!(ChatTemplate::new("{% for %}").unwrap_err().to_string().contains("line 1"));
    // A folder with a template.
    let folder = tempfile::tempdir().unwrap();
    small(TokenizerKind::WordPiece).save(folder.path().join("tokenizer.json")).unwrap();
    let config = serde_json::json!({"chat_template": "{{ bos_token }}{{ messages[0].content }}", "bos_token": {"content": "[CLS]"}, "model_max_length": 1e30});
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    assert_eq!(tokenizer.template().unwrap().render(&[Message::new("user", "the cat")], true).unwrap(), "[CLS]the cat");
    assert_eq!(tokenizer.context(), None);
}

#[test]
fn collators() {
    let tokenizer = small(TokenizerKind::WordPiece);
    let rows: Vec<Encoding> = tokenizer.encode_batch(&[TEXT; 40]).unwrap();
    let collator = MaskedCollator::new(&tokenizer, 0.3).unwrap();
    let (tokens, labels) = collator.collate(&rows, &mut Rng::new(3), Device::cpu()).unwrap();
    let (ids, labels) = (tokens.ids.to_vec::<i32>().unwrap(), labels.to_vec::<i32>().unwrap());
    let before: Vec<i32> = rows.iter().flat_map(|e| e.ids.iter().map(|&t| t as i32)).collect();
    let mask = tokenizer.id("[MASK]").unwrap() as i32;
    let (mut chosen, mut masked, mut kept) = (0.0, 0.0, 0.0);
    for ((id, label), before) in ids.iter().zip(&labels).zip(&before) {
        if *label == IGNORED {
            assert_eq!(id, before);
            continue;
        }
        assert_eq!(label, before);
        chosen += 1.0;
        masked += f64::from(u8::from(*id == mask));
        kept += f64::from(u8::from(id == before));
    }
    let inner = (before.len() - 2 * rows.len()) as f64;
    assert!((chosen / inner - 0.3).abs() < 0.06, "{}", chosen / inner);
    assert!((masked / chosen - 0.8).abs() < 0.1, "{}", masked / chosen);
    assert!((kept / chosen - 0.1).abs() < 0.08, "{}", kept / chosen);
    assert!(MaskedCollator::new(&TokenizerTrainer::new(TokenizerKind::Bpe, 300).train(&[TEXT]).unwrap(), 0.15).is_err());
    let (tokens, labels) = CausalCollator::new(&tokenizer).collate(&rows[..1], Device::cpu()).unwrap();
    assert_eq!(tokens.ids.to_vec::<i32>().unwrap(), labels.to_vec::<i32>().unwrap());
}

#[test]
fn pipelines_run() {
    let d = Device::cpu();
    let tokenizer = small(TokenizerKind::WordPiece);
    let classes = TextClassifier::new(SequenceClassifier::load(golden("bert-classify"), d).unwrap(), &tokenizer).unwrap();
    let found = classes.classify(&["the cat", "the dog sat on the mat"]).unwrap();
    assert_eq!(found.len(), 2);
    for row in &found {
        assert!((row.iter().map(|c| c.score).sum::<f32>() - 1.0).abs() < 1e-5 && row[0].score >= row[2].score);
    }
    // A batch changes nothing.
    assert!((classes.classify(&["the cat"]).unwrap()[0][0].score - found[0][0].score).abs() < 1e-5);

    let fill = FillMask::new(MaskedLm::load(golden("bert-mlm"), d).unwrap(), &tokenizer).unwrap();
    let found = fill.fill("the [MASK] sat on the [MASK]", 3).unwrap();
    assert!(found.len() == 2 && found[0].len() == 3 && found[0][0].score >= found[0][1].score && found[0][0].sequence.contains("[MASK]"));
    assert!(fill.fill("the cat", 3).unwrap_err().to_string().contains("[MASK]"));

    let text = "the cat sat on the mat";
    for e in Entities::new(TokenClassifier::load(golden("bert-ner"), d).unwrap(), &tokenizer).find(text).unwrap() {
        assert_eq!(&text[e.start..e.end], e.text);
        assert!(["PER", "LOC"].contains(&e.label.as_str()) && e.score > 0.0 && e.score <= 1.0);
    }
    let answers = Answers::new(QuestionAnswerer::load(golden("bert-qa"), d).unwrap(), &tokenizer);
    let short = Answers::new(QuestionAnswerer::load(golden("bert-qa"), d).unwrap(), &tokenizer).max_answer_len(1);
    // Longer than the model's context of 20, so that it is read in pieces.
    let context = [TEXT; 3].join(" ");
    let answer = answers.answer("the dog", &context).unwrap();
    assert!(!answer.text.is_empty() && context[answer.start..answer.end] == answer.text && answer.score <= 1.0);
    assert!(answers.answer(&context, "the cat").unwrap_err().to_string().contains("no room"));
    assert!(answers.answer("the cat", "").is_err());
    assert!(!short.answer("the dog", &context).unwrap().text.contains(' '));

    let options = Generation { max_new_tokens: 8, ends: Some(vec![]), ..Generation::default() };
    let generator = TextGenerator::new(CausalLm::load(golden("llama2"), d).unwrap(), &tokenizer);
    let prompt = generator.prompt("the cat").unwrap();
    let mut pieces = String::new();
    let streamed = generator.stream(&prompt, &options, |p| pieces += p).unwrap();
    assert_eq!(streamed, pieces);
    assert!(generator.chat(&[Message::new("user", "hi")]).unwrap_err().to_string().contains("chat template"));
    let whole = generator.generate(std::slice::from_ref(&prompt), &options).unwrap();
    let word = whole[0].split(' ').nth(1).unwrap_or(&whole[0]).to_string();
    let stop = generator.stop_at(&[&word]);
    let options = Generation { max_new_tokens: 8, ends: Some(vec![]), stops: vec![Box::new(stop)], ..Generation::default() };
    let cut = &generator.generate(&[prompt], &options).unwrap()[0];
    assert!(cut.contains(&word) && cut.len() <= whole[0].len());

    let options = Generation { max_new_tokens: 5, beams: 2, ..Generation::default() };
    let t5 = TextToText::new(Seq2Seq::load(golden("t5"), d).unwrap(), &tokenizer);
    assert_eq!(t5.run(&["the cat", "the dog sat"], &options).unwrap().len(), 2);
}

//! Quantised weights against bitsandbytes (`tests/golden/gen_quant.py`), in models, in files, under adapters; and what they cost in quality.

use fornax::io::{StateDict, safetensors};
use fornax::nn::{Forward, Linear, Module, Param, Slot, cross_entropy};
use fornax::optim::{AdamW, Optimizer};
use fornax::quant::{self, DoubleQuant, Format, QuantConfig, QuantLinear, Quantized};
use fornax::transformers::{CausalLm, Config, LoadOptions, Tokens};
use fornax::{DType, Device, Result, Tensor, no_grad};

fn golden(name: &str) -> String {
    format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The CPU, and a GPU if there is one.
fn devices() -> Vec<Device> {
    [Some(Device::cpu()), crate::harness::gpu()].into_iter().flatten().collect()
}

fn close(what: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let (g, w) = (got.to_vec::<f32>().unwrap(), want.to_vec::<f32>().unwrap());
    let scale = w.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let off = g.iter().zip(&w).fold(0.0f32, |m, (g, w)| if (g - w).abs() <= m { m } else { (g - w).abs() });
    assert!(off <= tolerance * scale, "{what} on {}: off by {off} of {scale}", got.device());
}

/// A golden weight as the file has it.
fn stored(e: &StateDict, name: &str, device: Device) -> Result<Quantized> {
    let at = |part: &str| e[&format!("{name}.{part}")].try_to(device);
    if name == "int8" {
        return Quantized::int8(at("codes")?, at("scale")?);
    }
    let state: serde_json::Value = serde_json::from_slice(&at("quant_state")?.to_vec::<u8>()?).unwrap();
    let size = |v: &serde_json::Value| v.as_u64().unwrap() as usize;
    let (shape, block) = ([size(&state["shape"][0]), size(&state["shape"][1])], size(&state["blocksize"]));
    match state["nested_offset"].as_f64() {
        None => Quantized::nf4(at("codes")?, at("absmax")?, shape, block),
        Some(offset) => {
            let block_size = size(&state["nested_blocksize"]);
            let double = DoubleQuant { map: at("nested_quant_map")?, absmax: at("nested_absmax")?, block_size, offset: offset as f32 };
            Quantized::nf4_double(at("codes")?, at("absmax")?, shape, block, double)
        }
    }
}

const WEIGHTS: [&str; 7] = ["plain", "double", "block128", "odd", "short", "bf16", "int8"];

#[test]
fn products_as_bitsandbytes() -> Result<()> {
    let e = safetensors::load(golden("quant.safetensors"))?;
    for device in devices() {
        for name in WEIGHTS {
            let w = stored(&e, name, device)?;
            let dense = w.dequantize()?;
            let (got, want) = (dense.to_vec::<f32>()?, e[&format!("{name}.dense")].to_vec::<f32>()?);
            if device.is_gpu() {
                // The product of the scales may be fused there.
                close(name, &dense, &e[&format!("{name}.dense")], 1e-6);
            } else {
                assert!(got == want, "{name}: the dense weight differs");
            }
            let x = e[&format!("{name}.x")].try_to(device)?;
            close(name, &x.try_qmatmul(&w)?, &e[&format!("{name}.y")], 1e-5);
        }
    }
    Ok(())
}

#[test]
fn quantises_as_bitsandbytes() -> Result<()> {
    let e = safetensors::load(golden("quant.safetensors"))?;
    assert_eq!(quant::dynamic_map().to_vec(), e["map"].to_vec::<f32>()?);
    assert_eq!(quant::nf4_map().to_vec(), e["plain.quant_map"].to_vec::<f32>()?);
    for name in WEIGHTS {
        let (w, want) = (&e[&format!("{name}.w")], stored(&e, name, Device::cpu())?);
        let got = match want.block_size() {
            // bitsandbytes rounds to f16 before it quantises to 8 bits.
            None => quant::int8(&w.try_cast(DType::F16)?)?,
            Some(block) => quant::nf4(w, block, want.double().is_some())?,
        };
        assert_eq!(got.codes().to_vec::<u8>()?, want.codes().to_vec::<u8>()?, "{name}");
        assert_eq!(got.scales().to_vec::<f32>()?, want.scales().to_vec::<f32>()?, "{name}: scales");
        if let (Some(g), Some(w)) = (got.double(), want.double()) {
            assert_eq!(g.block_size, w.block_size, "{name}");
            // The offset is a mean in f32: PyTorch's order of summing depends on the processor. Two units in the last place of it, of which the
            // largest difference from it is about as large.
            let ulps = 2.0 * f32::EPSILON * w.offset.abs();
            assert!((g.offset - w.offset).abs() <= ulps, "{name}: {} for {}", g.offset, w.offset);
            let near = |(a, b): (f32, f32)| (a - b).abs() <= 2.0 * ulps;
            assert!(g.absmax.to_vec::<f32>()?.into_iter().zip(w.absmax.to_vec::<f32>()?).all(near), "{name}");
        }
    }
    Ok(())
}

#[test]
fn relative_errors_are_those_that_are_stated() -> Result<()> {
    let _seed = fornax::testing::seed(3);
    let w = Tensor::try_normal([256, 1024], 0.0, 0.02, Device::cpu())?;
    let error = |q: Quantized| -> Result<f32> {
        let off = q.dequantize()?.try_sub(&w)?.try_square()?.try_sum(())?.item::<f32>()?;
        Ok((off / w.try_square()?.try_sum(())?.item::<f32>()?).sqrt())
    };
    let (int8, nf4, double) = (error(quant::int8(&w)?)?, error(quant::nf4(&w, 64, false)?)?, error(quant::nf4(&w, 64, true)?)?);
    assert!((0.004..0.009).contains(&int8), "{int8}");
    assert!((nf4 - 0.092).abs() < 0.002 && (double - 0.092).abs() < 0.002, "{nf4} {double}");
    Ok(())
}

/// Checkpoints that transformers has quantised with bitsandbytes.
#[test]
fn quantised_checkpoints_load() -> Result<()> {
    for device in devices() {
        for name in ["llama-nf4", "llama-int8"] {
            let folder = golden(&format!("transformers/{name}"));
            let e = safetensors::load(format!("{folder}/expected.safetensors"))?;
            let model = CausalLm::load(&folder, device)?;
            let kinds = model.describe().matches("QuantLinear").count();
            assert_eq!(kinds, 14, "{name}: {}", model.describe());
            let ids = Tokens::from(e["input_ids"].try_to(device)?);
            let logits = no_grad(|| model.forward(&ids))?;
            close(name, &logits, &e["logits"], 1e-4);
            // What was loaded is saved as it was.
            let folder_file = safetensors::load(format!("{folder}/model.safetensors"))?;
            let path = std::env::temp_dir().join(format!("fornax-{name}-{}-{}.safetensors", std::process::id(), device.is_gpu()));
            quant::save(&model, &path)?;
            let (again, text) = (safetensors::load(&path)?, std::fs::read(&path).unwrap());
            std::fs::remove_file(&path).ok();
            assert_eq!(again.keys().collect::<Vec<_>>(), folder_file.keys().collect::<Vec<_>>());
            for (key, t) in &folder_file {
                assert_eq!((t.dims(), t.dtype()), (again[key].dims(), again[key].dtype()), "{key}");
                if t.dtype() == DType::U8 {
                    assert_eq!(t.to_vec::<u8>()?, again[key].to_vec::<u8>()?, "{key}");
                } else {
                    assert_eq!(t.to_vec::<f32>()?, again[key].to_vec::<f32>()?, "{key}");
                }
            }
            let head = String::from_utf8_lossy(&text[..text.len().min(400)]).into_owned();
            assert!(head.contains(r#""__metadata__":{"format":"pt"}"#), "{head}");
            assert_eq!(String::from_utf8_lossy(&text).contains("\"I8\""), name == "llama-int8");
        }
    }
    Ok(())
}

fn tiny(device: Device) -> Result<CausalLm> {
    let text = r#"{"model_type": "llama", "vocab_size": 50, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}"#;
    let model = CausalLm::new(&Config::parse(text)?, device)?;
    model.eval();
    Ok(model)
}

#[test]
fn models_are_quantised_saved_and_loaded() -> Result<()> {
    let _seed = fornax::testing::seed(1);
    for device in devices() {
        for format in [Format::Int8, Format::NF4, Format::Nf4 { block_size: 32, double: false }] {
            let (a, b) = (tiny(device)?, tiny(device)?);
            b.load_state_dict(&a.state_dict(), true)?;
            let ids = Tokens::from(Tensor::from_slice(&[1i32, 5, 9, 3], [1, 4], device)?);
            let dense = no_grad(|| a.forward(&ids))?;
            let done = quant::quantize(&a, &QuantConfig::new(format))?;
            assert_eq!(done.len(), 14);
            assert!(done.iter().all(|p| p.contains("layers")));
            let y = no_grad(|| a.forward(&ids))?;
            close("quantised", &y, &dense, if format == Format::Int8 { 0.05 } else { 0.5 });
            // Into a dense model, and then once more into the quantised one.
            for _ in 0..2 {
                quant::load(&b, &a.state_dict(), true)?;
                close("loaded", &no_grad(|| b.forward(&ids))?, &y, 1e-6);
            }
            // Scales keep their dtype; the model still computes.
            a.to_dtype(DType::BF16)?;
            close("in bf16", &no_grad(|| a.forward(&ids))?.try_cast(DType::F32)?, &y, 0.05);
            // To the other device and back.
            for to in devices() {
                b.to(to)?;
                let there = Tokens::from(ids.ids.try_to(to)?);
                close("moved", &no_grad(|| b.forward(&there))?, &y, 1e-4);
            }
        }
    }
    Ok(())
}

#[test]
fn patterns_choose_the_layers() -> Result<()> {
    let model = tiny(Device::cpu())?;
    let e = quant::quantize(&model, &QuantConfig::new(Format::NF4).targets(["q_porj"])).unwrap_err().to_string();
    assert!(e.contains("q_proj") && e.contains("lm_head"), "{e}");
    let done = quant::quantize(&model, &QuantConfig::new(Format::NF4).targets(["q_proj", "layers.1.mlp"]).skip(["layers.0"]))?;
    let names = ["self_attn.q_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"].map(|n| format!("model.layers.1.{n}"));
    assert_eq!(done, names);
    // The rest later, in another format; GPT-2's layers lie turned.
    assert_eq!(quant::quantize(&model, &QuantConfig::new(Format::Int8).skip(["nothing"]))?.len(), 11);
    let text = r#"{"model_type": "gpt2", "vocab_size": 50, "n_embd": 64, "n_layer": 1, "n_head": 4}"#;
    let gpt = CausalLm::new(&Config::parse(text)?, Device::cpu())?;
    gpt.eval();
    let ids = Tokens::from(Tensor::from_slice(&[1i32, 5, 9], [1, 3], Device::cpu())?);
    let dense = no_grad(|| gpt.forward(&ids))?;
    assert_eq!(quant::quantize(&gpt, &QuantConfig::new(Format::Int8))?.len(), 4);
    close("GPT-2", &no_grad(|| gpt.forward(&ids))?, &dense, 0.05);
    Ok(())
}

#[test]
fn hostile_files_are_errors() -> Result<()> {
    let layer = || Slot::new(Linear::new(64, 4, Device::cpu()));
    let good = {
        let slot = layer();
        quant::quantize(&slot, &QuantConfig::new(Format::NF4))?;
        slot.state_dict()
    };
    let state = "weight.quant_state.bitsandbytes__nf4";
    let bytes = |text: &str| Tensor::from_slice(text.as_bytes(), text.len(), Device::cpu());
    let zeros = |n: usize, dtype: DType| Tensor::try_zeros(n, (dtype, Device::cpu()));
    let json = String::from_utf8(good[state].to_vec::<u8>()?).unwrap();
    let cases: Vec<(&str, Tensor, &str)> = vec![
        (state, bytes("{")?, "JSON"),
        (state, bytes(&json.replace("nf4", "fp4"))?, "fp4"),
        (state, bytes(&json.replace("[4, 64]", "[18446744073709551615, 64]"))?, "elements"),
        (state, bytes(&json.replace("[4, 64]", "[4000000, 64]"))?, "of codes"),
        (state, bytes(&json.replace("[4, 64]", "[4000000000, 4000000000]"))?, "elements"),
        (state, bytes(&json.replace("[4, 64]", "[64, 4]"))?, "must be [4, 64]"),
        (state, bytes(&json.replace("\"blocksize\": 64", "\"blocksize\": 0"))?, "block size"),
        (state, bytes(&json.replace("\"nested_blocksize\": 256", "\"nested_blocksize\": 1"))?, "block size"),
        (state, bytes(&json.replace("\"nested_offset\": ", "\"nested_offset\": 1e999, \"x\": "))?, ""),
        (state, zeros(3, DType::F32)?, "u8"),
        ("weight", zeros(3, DType::U8)?, "128 bytes"),
        ("weight.absmax", zeros(4, DType::F32)?, "u8"),
        ("weight.absmax", zeros(9, DType::U8)?, "4 scales"),
        ("weight.quant_map", zeros(16, DType::F32)?, "NF4"),
        ("weight.nested_quant_map", zeros(3, DType::F32)?, "[256]"),
        ("weight.nested_absmax", zeros(2, DType::F32)?, "1 nested"),
    ];
    for (name, value, part) in cases {
        let slot = layer();
        let mut dict = good.clone();
        dict.insert(name.to_string(), value);
        let e = quant::load(&slot, &dict, true).expect_err(name).to_string();
        assert!(e.contains(part), "{name}: {e}");
        assert!(slot.describe().contains("Linear") && !slot.describe().contains("QuantLinear"), "{name}: the layer was exchanged");
    }
    for name in ["weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight"] {
        let mut dict = good.clone();
        dict.remove(name);
        let e = quant::load(&layer(), &dict, true).unwrap_err().to_string();
        assert!(e.contains("missing"), "{name}: {e}");
    }
    // A description that a state dict brings into a layer that is quantised already is looked at before it is used.
    let slot = layer();
    quant::load(&slot, &good, true)?;
    let mut dict = good.clone();
    dict.insert(state.to_string(), bytes("nonsense")?);
    slot.load_state_dict(&dict, true)?;
    assert!(slot.forward(&Tensor::ones([1, 64], Device::cpu())).unwrap_err().to_string().contains("JSON"));
    let mut dict = good.clone();
    dict.insert(state.to_string(), zeros(3, DType::F32)?);
    assert!(slot.load_state_dict(&dict, true).unwrap_err().to_string().contains("u8"));
    slot.load_state_dict(&good, true)?;
    slot.forward(&Tensor::ones([1, 64], Device::cpu()))?;
    Ok(())
}

/// A frozen quantised layer with a low-rank adapter on top.
struct Adapted {
    base: QuantLinear,
    a: Param,
    b: Param,
}

impl Adapted {
    fn new(width: usize, format: Format) -> Result<Adapted> {
        let w = Tensor::try_normal([width, width], 0.0, 0.02, Device::cpu())?;
        let base = QuantLinear::new(&w, None, format)?;
        let a = Tensor::try_normal([8, width], 0.0, 0.1, Device::cpu())?;
        Ok(Adapted { base, a: Param::new(a), b: Param::new(Tensor::try_zeros([width, 8], Device::cpu())?) })
    }
}

impl Module for Adapted {
    fn walk(&self, walk: &mut fornax::nn::Walk<'_>) {
        walk.field("base_layer", |walk| self.base.walk(walk));
        walk.field("lora_A", |walk| self.a.walk(walk));
        walk.field("lora_B", |walk| self.b.walk(walk));
    }
}

impl Forward for Adapted {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.base.forward(x)?.try_add(x.try_linear(&self.a.get(), None)?.try_linear(&self.b.get(), None)?)
    }
}

#[test]
fn adapters_train_over_frozen_weights() -> Result<()> {
    let _seed = fornax::testing::seed(5);
    for format in [Format::Int8, Format::NF4] {
        let net: Vec<Slot> = (0..3).map(|_| Adapted::new(64, format).map(Slot::new)).collect::<Result<_>>()?;
        assert_eq!(net.named_parameters().len(), 6);
        let before = net[0].state_dict()["base_layer.weight"].to_vec::<u8>()?;
        let (x, y) = (Tensor::normal([16, 64], 0.0, 1.0, Device::cpu()), Tensor::normal([16, 64], 0.0, 1.0, Device::cpu()));
        let mut optimizer = AdamW::new(net.parameters(), 1e-2);
        let mut losses = Vec::new();
        for _ in 0..60 {
            let loss = net.forward(&x)?.try_sub(&y)?.try_square()?.try_mean(())?;
            let grads = loss.backward()?;
            // The first layer's adapter has its gradient through the frozen weights of the others.
            assert!(net.parameters().iter().all(|p| p.grad(&grads).is_some()));
            optimizer.step(grads)?;
            losses.push(loss.item::<f32>()?);
        }
        assert!(losses[59] < 0.8 * losses[0], "{losses:?}");
        assert_eq!(net[0].state_dict()["base_layer.weight"].to_vec::<u8>()?, before);
    }
    Ok(())
}

/// LoRA over 4 bits: the base has no gradient, no state in the optimizer, and stays as it is bit for bit.
#[test]
fn a_lora_over_nf4_is_a_qlora() -> Result<()> {
    use fornax::lora::{Adapters, LoraConfig, Targets};
    for device in devices() {
        let _seed = fornax::testing::seed(9);
        let model = tiny(Device::cpu())?;
        quant::quantize(&model, &QuantConfig::new(Format::NF4))?;
        model.to(device)?;
        let ids = Tensor::from_slice(&[3, 7, 7, 1, 9, 4, 2, 8], [1, 8], device)?;
        let base = no_grad(|| model.forward(&ids.clone().into()))?.to_vec::<f32>()?;
        let config = LoraConfig { r: 4, lora_alpha: 8.0, target_modules: Some(Targets::AllLinear), ..LoraConfig::default() };
        let lora = Adapters::new(&model, config)?;
        assert_eq!(lora.parameters().len(), 2 * 14, "{device}");
        // B is zero: nothing has changed yet.
        assert_eq!(no_grad(|| model.forward(&ids.clone().into()))?.to_vec::<f32>()?, base, "{device}");
        let mut optimizer = AdamW::new(model.parameters(), 2e-2);
        let mut losses = Vec::new();
        for _ in 0..12 {
            let logits = model.forward(&ids.clone().into())?.try_narrow(1, 0, 7)?.try_reshape([7, 50])?;
            let loss = cross_entropy(&logits, &ids.try_narrow(1, 1, 7)?.try_reshape(7)?)?;
            losses.push(loss.item::<f32>()?);
            let grads = loss.backward()?;
            assert!(lora.parameters().iter().all(|p| p.grad(&grads).is_some()), "{device}");
            optimizer.step(grads)?;
        }
        assert!(losses[11] < 0.8 * losses[0], "{device}: {losses:?}");
        let state: usize = optimizer.state_dict()?.iter().filter(|(k, _)| k.contains("exp_avg")).map(|(_, t)| t.numel()).sum();
        assert_eq!(state, 2 * lora.trainable().trainable, "{device}");
        lora.unload()?;
        assert_eq!(no_grad(|| model.forward(&ids.clone().into()))?.to_vec::<f32>()?, base, "{device}");
    }
    Ok(())
}

#[test]
#[ignore = "runs in a process of its own: it counts memory"]
fn a_step_over_frozen_weights_makes_nothing_dense() -> Result<()> {
    const WIDTH: usize = 512;
    const LAYERS: usize = 8;
    let dense = WIDTH * WIDTH * 4;
    // From a file, as a model is loaded: only what is quantised is kept.
    let path = std::env::temp_dir().join(format!("fornax-qlora-{}.safetensors", std::process::id()));
    {
        let net: Vec<Linear> =
            (0..LAYERS).map(|_| Linear::try_new(WIDTH, WIDTH, Device::cpu()).map(Linear::no_bias)).collect::<Result<_>>()?;
        net.save_safetensors(&path)?;
    }
    fornax::reset_peak();
    let start = fornax::stats().cpu_bytes;
    // Not yet drawn: what a file replaces is never computed.
    let blank = || Linear::try_new(WIDTH, WIDTH, Device::cpu()).map(|l| Slot::new(l.no_bias()));
    let net: Vec<Slot> = (0..LAYERS).map(|_| blank()).collect::<Result<_>>()?;
    net.load_safetensors(&path)?;
    quant::quantize(&net, &QuantConfig::new(Format::NF4))?;
    std::fs::remove_file(&path).ok();
    let counted = (fornax::stats().cpu_bytes - start) as usize;
    let packed = LAYERS * WIDTH * WIDTH * 42 / 80;
    assert!(counted < packed + LAYERS * 4096, "{counted} bytes for {packed} of weights");
    let peak = (fornax::stats().cpu_peak_bytes - start) as usize;
    assert!(peak < packed + 2 * dense, "peak of {peak} bytes while {packed} were made");

    // A step: adapters have gradients and state, weights have none; the largest thing that is made is an activation.
    let adapters: Vec<(Param, Param)> = (0..LAYERS)
        .map(|_| {
            let (a, b) = (Tensor::try_normal([4, WIDTH], 0.0, 0.1, Device::cpu())?, Tensor::try_zeros([WIDTH, 4], Device::cpu())?);
            Ok((Param::new(a), Param::new(b)))
        })
        .collect::<Result<_>>()?;
    let mut optimizer = AdamW::new(adapters.iter().flat_map(|(a, b)| [a.clone(), b.clone()]), 1e-3);
    let x = Tensor::normal([8, WIDTH], 0.0, 1.0, Device::cpu());
    x.eval()?;
    for step in 0..3 {
        fornax::reset_peak();
        let start = fornax::stats().cpu_bytes;
        let mut y = x.clone();
        for (layer, (a, b)) in net.iter().zip(&adapters) {
            y = layer.forward(&y)?.try_add(y.try_linear(&a.get(), None)?.try_linear(&b.get(), None)?)?;
        }
        let grads = y.try_square()?.try_mean(())?.backward()?;
        optimizer.step(grads)?;
        drop(y);
        let used = (fornax::stats().cpu_peak_bytes - start) as usize;
        println!("step {step}: {used} bytes at most beside weights, adapters and state; a dense weight has {dense}");
        // Activations of 16 KiB, gradients and state of 16 KiB an adapter.
        assert!(used < dense, "step {step}: {used} bytes");
    }
    Ok(())
}

#[test]
fn qlora_memory() {
    crate::harness::isolated("quantised::a_step_over_frozen_weights_makes_nothing_dense");
}

/// Perplexity of a small trained model in every format.
#[test]
fn quality_of_a_trained_model() -> Result<()> {
    let _seed = fornax::testing::seed(11);
    let d = Device::cpu();
    let text: Vec<i32> = include_str!("../../ARCHITECTURE.md").bytes().filter(|b| *b < 128).map(i32::from).collect();
    let (train, test) = text.split_at(text.len() * 9 / 10);
    let config = Config::parse(
        r#"{"model_type": "llama", "vocab_size": 128, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
            "max_position_embeddings": 64, "tie_word_embeddings": false}"#,
    )?;
    const T: usize = 48;
    let model = CausalLm::new(&config, d)?;
    let batch = |from: &[i32], starts: &[usize]| -> Result<(Tensor, Tensor)> {
        let rows = |shift: usize| starts.iter().flat_map(|&s| from[s + shift..][..T].to_vec()).collect::<Vec<i32>>();
        Ok((Tensor::from_vec(rows(0), [starts.len(), T], d)?, Tensor::from_vec(rows(1), starts.len() * T, d)?))
    };
    let loss = |model: &CausalLm, (x, y): (Tensor, Tensor)| -> Result<Tensor> {
        let n = y.numel();
        cross_entropy(&model.forward(&x.into())?.try_reshape([n, 128])?, &y)
    };
    let mut optimizer = AdamW::new(model.parameters(), 4e-3);
    let mut at = 7usize;
    for _ in 0..600 {
        let starts: Vec<usize> = (0..8)
            .map(|_| {
                at = (at * 1_103_515_245 + 12_345) % (1 << 31);
                at % (train.len() - T - 1)
            })
            .collect();
        optimizer.step(loss(&model, batch(train, &starts)?)?.backward()?)?;
    }
    model.eval();
    let starts: Vec<usize> = (0..(test.len() - 1) / T).map(|i| i * T).collect();
    let perplexity = |model: &CausalLm| -> Result<f32> { Ok(no_grad(|| loss(model, batch(test, &starts)?))?.item::<f32>()?.exp()) };
    let exact = perplexity(&model)?;
    println!("f32: perplexity {exact:.3}");
    assert!(exact < 12.0, "the model has not learnt: {exact}");
    let nf4 = |double| Format::Nf4 { block_size: 64, double };
    for (name, format, bound) in [("8 bits", Format::Int8, 0.005), ("NF4", nf4(false), 0.08), ("NF4, double", nf4(true), 0.08)] {
        let twin = CausalLm::new(&config, d)?;
        twin.load_state_dict(&model.state_dict(), true)?;
        twin.eval();
        quant::quantize(&twin, &QuantConfig::new(format))?;
        let p = perplexity(&twin)?;
        println!("{name}: perplexity {p:.3}, {:+.2} %", (p / exact - 1.0) * 100.0);
        assert!((p / exact - 1.0).abs() < bound, "{name}: {p} against {exact}");
    }
    Ok(())
}

#[test]
fn quantised_weights_load_only_where_they_belong() -> Result<()> {
    // A file for another model.
    let folder = golden("transformers/llama-nf4");
    let temp = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(format!("{folder}/config.json"))
        .unwrap()
        .replace("\"intermediate_size\": 96", "\"intermediate_size\": 128");
    std::fs::write(temp.path().join("config.json"), config).unwrap();
    std::fs::copy(format!("{folder}/model.safetensors"), temp.path().join("model.safetensors")).unwrap();
    let e = CausalLm::load(temp.path(), LoadOptions::from(Device::cpu())).map(|_| ()).unwrap_err().to_string();
    assert!(e.contains("must be [128, 64]") || e.contains("must be [64, 128]"), "{e}");
    Ok(())
}

//! Faults of the training kit and of transformers that were found and mended.

use crate::harness::gpu;
use fornax::data::{Csv, DataLoader, Image, Rng, Rows, Stream, StreamLoader, Table, TensorDataset, transforms};
use fornax::metrics::{Accuracy, ConfusionMatrix, Metric, TopK};
use fornax::nn::{self, Forward, Module, Sequential, init};
use fornax::optim::{Adam, Optimizer, SGD};
use fornax::train::*;
use fornax::{Attention, DType, Device, Result, Tensor, autocast};

fn message<T>(r: Result<T>) -> String {
    r.err().expect("an error").to_string()
}

fn devices() -> impl Iterator<Item = Device> {
    [Some(Device::cpu()), gpu()].into_iter().flatten()
}

#[test]
fn attention_of_nan_is_nan() -> Result<()> {
    for device in devices() {
        // One query, a few, and many: different kernels on the CPU.
        for t in [1, 3, 70] {
            let good = Tensor::ones([1, 2, t, 8], device);
            let bad = Tensor::full([1, 2, t, 8], f64::NAN, device);
            for (q, k) in [(&bad, &good), (&good, &bad)] {
                for causal in [false, true] {
                    let y = q.try_scaled_dot_product_attention(k, &good, &Attention { causal, ..Attention::default() })?;
                    let y = y.to_vec::<f32>()?;
                    assert!(y.iter().all(|v| v.is_nan()), "{device}, {t}, {causal}: {} numbers", y.iter().filter(|v| !v.is_nan()).count());
                }
            }
        }
    }
    Ok(())
}

#[test]
fn recurrent_layers_run_in_half_precision() -> Result<()> {
    for device in devices() {
        fornax::manual_seed(3);
        let x = Tensor::normal([5, 2, 3], 0.0, 1.0, device);
        let (lstm, gru) = (nn::LSTM::new(3, 4, device), nn::GRU::new(3, 4, device));
        for dtype in [DType::BF16, DType::F16] {
            let half = |f: &dyn Fn() -> Result<Tensor>| -> Result<f32> {
                let (whole, half) = (f()?, autocast(dtype, f)?);
                let y = half.try_cast(DType::F32)?;
                y.try_mul(&y)?.sum(()).backward()?;
                (y - whole.try_cast(DType::F32)?).abs().max(()).item()
            };
            for worst in [half(&|| Ok(lstm.forward(&x, None)?.0))?, half(&|| Ok(gru.forward(&x, None)?.0))?] {
                assert!(worst > 0.0 && worst < 0.02, "{device}, {dtype}: {worst}");
            }
        }
    }
    Ok(())
}

#[test]
fn metrics_refuse_what_has_no_class() -> Result<()> {
    let cpu = Device::cpu();
    let logits = Tensor::from_vec(vec![2.0f32, -1.0, 3.0, 1.0], [4, 1], cpu)?;
    let target = Tensor::from_vec(vec![1i32, 0, 1, 1], 4, cpu)?;
    assert!(message(Accuracy::new().update(&logits, &target)).contains("gt(0.0)"));
    assert!(message(ConfusionMatrix::new(2).update(&logits, &target)).contains("one score a row"));
    let classes = logits.squeeze(-1).gt(0.0).cast(DType::I32);
    let mut accuracy = Accuracy::new();
    accuracy.update(&classes, &target)?;
    assert_eq!(accuracy.compute()?, 1.0);
    let nan = Tensor::from_vec(vec![0.0f32, 1.0, f32::NAN, 0.0], [2, 2], cpu)?;
    assert!(message(Accuracy::new().update(&nan, &Tensor::zeros(2, (DType::I32, cpu)))).contains("row 1 is NaN"));
    let part = Tensor::from_vec(vec![0.9f32, 0.0], 2, cpu)?;
    let scores = Tensor::from_vec(vec![0.0f32, 1.0, 1.0, 0.0], [2, 2], cpu)?;
    assert!(message(Accuracy::new().update(&scores, &part)).contains("0.9"));
    assert!(message(TopK::new(1).update(&scores, &part)).contains("0.9"));
    let mut large = ConfusionMatrix::new(usize::MAX);
    assert!(message(large.update(&classes, &target)).contains("32768") && large.accuracy().is_err());
    Ok(())
}

#[test]
fn a_loaders_batches_are_weighed_by_their_rows() -> Result<()> {
    let cpu = Device::cpu();
    let x = Tensor::from_vec(vec![0.0f32, 0.0, 0.0, 0.0, 10.0], [5, 1], cpu)?;
    let model = nn::Linear::new(1, 1, cpu).no_bias();
    let mut step = |_: &nn::Linear, [x]: [Tensor; 1]| x.try_mean(());
    let loader = DataLoader::new(TensorDataset::new([x.clone()])?, 4);
    assert_eq!(evaluate(&model, &loader, &mut step, &mut [])?.get("loss"), Some(2.0));
    for workers in [0, 2] {
        let items = Stream::new(|_| Ok([0.0f32, 0.0, 0.0, 0.0, 10.0].into_iter().map(Ok)));
        let stream = StreamLoader::new(items, 4).workers(workers);
        let logs = evaluate(&model, &stream, &mut |_, x: Tensor| x.try_mean(()), &mut [])?;
        assert_eq!(logs.get("loss"), Some(2.0));
    }
    let step = |m: &nn::Linear, [x]: [Tensor; 1]| m.forward(&x)?.try_mean(());
    let report = Trainer::new(&model, SGD::new(model.parameters(), 0.0)).epochs(2).progress(false).fit(&loader, step)?;
    assert_eq!((report.rows, report.steps), (10, 4));
    Ok(())
}

#[test]
fn a_training_begins_in_training_mode_and_with_parameters() -> Result<()> {
    let cpu = Device::cpu();
    let loader = DataLoader::new(TensorDataset::new([Tensor::normal([8, 2], 3.0, 1.0, cpu)])?, 4);
    let step = |m: &Sequential, [x]: [Tensor; 1]| m.forward(&x)?.try_mean(());
    let model = || Sequential::new().add(nn::BatchNorm1d::new(2, cpu)).add(nn::Linear::new(2, 1, cpu)).add(nn::Dropout::new(0.5));
    let net = model();
    net.eval();
    Trainer::new(&net, SGD::new(net.parameters(), 0.1)).progress(false).fit(&loader, step)?;
    assert!(net.named_buffers()[0].1.get().sum(()).item::<f32>()? > 0.1, "the running mean has moved");
    let none = Trainer::new(&net, Adam::new(vec![], 1.0)).progress(false).fit(&loader, step);
    assert!(message(none).contains("no parameters"));
    assert!(Adam::new(vec![], 1.0).check().is_err());
    Ok(())
}

#[test]
fn patience_of_none_stops_at_the_first_epoch_that_is_not_better() {
    let mut early = EarlyStopping::new("val_loss").patience(0);
    assert!(!early.update(3.0) && !early.update(2.0) && early.update(2.5));
    let mut early = EarlyStopping::new("val_loss");
    assert!(!early.update(1.0) && !early.update(1.0) && !early.update(1.0) && early.update(1.0), "Lightning's patience is 3");
}

#[test]
fn numbers_that_f32_cannot_hold_are_errors() -> Result<()> {
    let table = Table::parse("t", "a,b\n1,2\n1e39,3\n")?;
    let text = message(table.tensor(&["b", "a"], Device::cpu()));
    assert!(text.contains("row 2") && text.contains("column a") && text.contains("1e39"), "{text}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a,b\n1,2\n3,-1e39\n").unwrap();
    let rows = StreamLoader::with_collate(Csv::new().stream(file.path())?, 1, |rows, _| Ok(rows));
    let rows: Vec<Result<_>> = rows.epoch(0)?.collect();
    assert!(rows.len() == 2 && rows[0].is_ok());
    let text = message(rows.into_iter().nth(1).unwrap());
    assert!(text.contains("line 3, column 2 (b)") && text.contains("-1e39"), "{text}");
    Ok(())
}

#[test]
fn extreme_options_of_loaders_and_transforms() -> Result<()> {
    let loader = DataLoader::new(Rows::new((0..10).collect::<Vec<i32>>()), 2).weighted(vec![1e308; 10], 200, true, 0)?;
    let mut drawn = std::collections::BTreeSet::new();
    for batch in loader.epoch(0) {
        drawn.extend(batch?.to_vec::<i32>()?);
    }
    assert_eq!(drawn.len(), 10);
    let stream = Stream::new(|_| Ok((0..6).map(Ok::<i32, _>)));
    assert_eq!(StreamLoader::new(stream, 2).workers(1).prefetch(usize::MAX).epoch(0)?.count(), 3);
    let loader = DataLoader::new(Rows::new((0..6).collect::<Vec<i32>>()), 2).workers(1).prefetch(usize::MAX);
    assert_eq!(loader.epoch(0).count(), 3);
    // Where α goes to 0, a share of all or nothing.
    let shares: Vec<f64> = (0..40).map(|seed| Rng::new(seed).beta(1e-9, 1e-9)).collect();
    assert!(shares.iter().all(|s| [0.0, 1.0].contains(s)) && shares.contains(&0.0) && shares.contains(&1.0));
    use transforms::Transform;
    // More than memory holds, not an overflow.
    let crop = transforms::RandomCrop::new(usize::MAX, 4).padding(usize::MAX / 4).pad_if_needed(true);
    assert!(crop.apply(Image::new(1, 6, 6, vec![1.0; 36])?, &mut Rng::new(0)).is_err());
    // torchvision never erases a whole side.
    let image = Image::new(1, 6, 6, vec![1.0; 36])?;
    let erase = transforms::RandomErasing::new(1.0).scale(1.0, 1.0).ratio(1.0, 1.0);
    assert_eq!(erase.apply(image.clone(), &mut Rng::new(0))?, image);
    Ok(())
}

#[test]
fn what_has_no_variance_and_no_fans() -> Result<()> {
    let cpu = Device::cpu();
    assert!(message(Tensor::ones([1, 3], cpu).try_group_norm(3, None, None, 1e-5)).contains("more than one value"));
    assert!(Tensor::ones([2, 3], cpu).try_group_norm(3, None, None, 1e-5).is_ok());
    for r in [init::xavier_uniform([3], init::Gain::Linear, cpu), init::xavier_normal((), init::Gain::Linear, cpu)] {
        assert!(message(r).contains("at least two axes"));
    }
    assert!(init::kaiming_normal([3], init::Fan::In, init::Gain::ReLU, cpu).is_err());
    assert!(init::kaiming_uniform((), init::Fan::In, init::Gain::ReLU, cpu).is_err());
    let (norm, x) = (nn::InstanceNorm2d::new(3, cpu), Tensor::normal([3, 4, 5], 0.0, 1.0, cpu));
    let (one, batch) = (norm.forward(&x)?, norm.forward(&x.unsqueeze(0))?);
    assert_eq!((one.dims(), one.to_vec::<f32>()?), (&[3, 4, 5][..], batch.to_vec::<f32>()?));
    Ok(())
}

#[test]
fn summaries_show_what_has_no_parameters() -> Result<()> {
    let cpu = Device::cpu();
    let model = Sequential::new().add(nn::Conv2d::new(1, 4, 3, cpu)).add(nn::ReLU).add(nn::MaxPool2d::new(2)).add(nn::Flatten::default());
    let summary = model.add(nn::Linear::new(36, 2, cpu)).summary([1, 1, 8, 8])?;
    let lines: Vec<(String, String)> = summary.layers.iter().map(|l| (l.kind.clone(), l.output.to_string())).collect();
    let has = |kind: &str, shape: &str| lines.iter().any(|l| l.0.contains(kind) && l.1 == shape);
    assert!(has("Conv2d", "[1, 4, 6, 6]") && has("relu", "[1, 4, 6, 6]") && has("pool", "[1, 4, 3, 3]"), "{summary}");
    assert!(has("Linear", "[1, 2]") && lines.iter().any(|l| l.1 == "[1, 36]"), "{summary}");
    let lstm = nn::LSTM::new(3, 5, cpu).layers(2).bidirectional();
    let x = Tensor::ones([7, 4, 3], cpu);
    let summary = nn::Summary::of(&lstm, || lstm.forward(&x, None))?;
    assert_eq!(summary.layers.len(), 1, "{summary}");
    Ok(())
}

#[test]
fn steps_that_tensorboard_was_given_are_in_the_file() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let model = nn::Linear::new(1, 1, Device::cpu());
    let loader = DataLoader::new(TensorDataset::new([Tensor::ones([8, 1], Device::cpu())])?, 1);
    struct Size(std::path::PathBuf, std::rc::Rc<std::cell::RefCell<Vec<u64>>>);
    impl Callback for Size {
        fn on_step_logs(&mut self, _: u64, _: &Logs, _: &mut Run<'_>) -> Result<()> {
            let file = std::fs::read_dir(&self.0).unwrap().next().unwrap().unwrap();
            self.1.borrow_mut().push(file.metadata().unwrap().len());
            Ok(())
        }
    }
    let sizes = std::rc::Rc::default();
    Trainer::new(&model, SGD::new(model.parameters(), 0.1))
        .callback(TensorBoard::new(folder.path()).every_steps(1))
        .callback(Size(folder.path().to_path_buf(), std::rc::Rc::clone(&sizes)))
        .progress(false)
        .fit(&loader, |m: &nn::Linear, [x]: [Tensor; 1]| m.forward(&x)?.try_mean(()))?;
    let sizes = sizes.borrow();
    assert!(sizes.len() == 8 && sizes.windows(2).all(|w| w[0] < w[1]), "{sizes:?}");
    Ok(())
}

#[cfg(feature = "text")]
mod text {
    use super::*;
    use fornax::lora::Adapters;
    use fornax::text::{Pooling, Tokenizer, TokenizerKind, TokenizerTrainer};
    use fornax::transformers::CausalLm;
    use std::path::Path;

    #[test]
    fn a_stream_of_text_ends_with_what_was_cut_off() -> Result<()> {
        let tokenizer = TokenizerTrainer::new(TokenizerKind::Bpe, 300).train(&["one two three"])?;
        let ids = tokenizer.encode("one é")?.ids;
        // The last byte of é is missing.
        let ids = &ids[..ids.len() - 1];
        let mut stream = tokenizer.stream();
        let mut text = String::new();
        for &id in ids {
            text += &stream.push(id)?;
        }
        text += &stream.finish()?;
        assert_eq!((text.as_str(), text.ends_with('\u{fffd}')), (tokenizer.decode(ids)?.as_str(), true));
        Ok(())
    }

    #[test]
    fn the_last_token_is_found_on_either_side() -> Result<()> {
        let cpu = Device::cpu();
        let states = Tensor::from_vec(vec![9.0f32, 9.0, 1.0, 2.0, 3.0, 4.0], [1, 3, 2], cpu)?;
        for (mask, want) in [([0i32, 1, 1], [3.0f32, 4.0]), ([1, 1, 0], [1.0, 2.0]), ([1, 0, 0], [9.0, 9.0])] {
            let mask = Tensor::from_slice(&mask, [1, 3], cpu)?;
            assert_eq!(Pooling::Last.apply(&states, Some(&mask))?.to_vec::<f32>()?, want);
        }
        Ok(())
    }

    #[test]
    fn a_tokenizer_that_contradicts_itself_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let json = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,
            "decoder":null,"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[["a","b"]]}}"#;
        std::fs::write(&path, json).unwrap();
        assert!(Tokenizer::open(&path).is_err());
    }

    #[test]
    fn adapters_of_nan_are_refused() {
        let golden = |part: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(part);
        let (from, to) = (golden("peft/llama-lora"), tempfile::tempdir().unwrap());
        std::fs::copy(from.join("adapter_config.json"), to.path().join("adapter_config.json")).unwrap();
        let mut tensors = fornax::io::safetensors::load(from.join("adapter_model.safetensors")).unwrap();
        let name = tensors.keys().next().unwrap().clone();
        tensors.insert(name.clone(), &tensors[&name] * f64::NAN);
        fornax::io::safetensors::save(to.path().join("adapter_model.safetensors"), &tensors).unwrap();
        let model = CausalLm::load(golden("transformers/llama2"), Device::cpu()).unwrap();
        let text = message(Adapters::load(&model, to.path()));
        assert!(text.contains(&name) && text.contains("NaN"), "{text}");
    }
}

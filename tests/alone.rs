//! What is counted or noted for the whole process (fault words, statistics): one test, alone in its process.

use fornax::{Device, Error, PadMode, Result, Tensor, nn, stats};

#[test]
fn faults_and_donations() -> Result<()> {
    bad_indices_are_errors_of_the_read()?;
    faults_are_cleared();
    faults_name_their_op()?;
    huge_indices_are_out_of_range()?;
    a_step_tells_of_a_fault()?;
    long_work_makes_more_submits()?;
    a_cache_grows_in_place()?;
    decoding_replays_its_plans()?;
    #[cfg(target_os = "linux")]
    a_load_takes_no_more_than_its_file()?;
    Ok(())
}

fn bad_indices_are_errors_of_the_read() -> Result<()> {
    for device in [Device::cpu()].into_iter().chain(Device::gpu(0)) {
        let x = Tensor::from_vec(vec![1.0f32, 2.0, 3.0], 3, device)?;
        let i = Tensor::from_vec(vec![1, 3], 2, device)?;
        for bad in [x.try_index_select(0, &i)?, x.try_gather(0, &i)?, x.try_scatter_add(0, &i, &x.try_narrow(0, 0, 2)?)?] {
            assert!(matches!(bad.to_vec::<f32>(), Err(Error::Index { .. })), "{device}");
            // Said once.
            assert_eq!(x.to_vec::<f32>()?, [1.0, 2.0, 3.0]);
        }
        assert!(matches!(x.try_index_select(1, &i), Err(Error::Axis { .. })));
        assert!(matches!(x.try_index_select(0, &x), Err(Error::DType { .. })));
        assert!(matches!(x.try_slice_assign(&[2..5], &x), Err(Error::Index { .. })));
        assert!(matches!(x.try_pad(&[(3, 0)], PadMode::Reflect), Err(Error::Argument { .. })));
        assert!(matches!(x.try_topk(4, 0, true), Err(Error::Argument { .. })));
    }
    Ok(())
}

fn faults_are_cleared() {
    for device in [Device::cpu()].into_iter().chain(Device::gpu(0)) {
        let x = Tensor::from_vec(vec![1f32, 2.0, 3.0], 3, device).unwrap();
        let bad = Tensor::from_vec(vec![0, 7], 2, device).unwrap();
        let y = x.index_select(0, &bad);
        assert!(matches!(y.to_vec::<f32>(), Err(fornax::Error::Index { .. })), "{device}");
        let good = Tensor::from_vec(vec![0, 2], 2, device).unwrap();
        assert_eq!(x.index_select(0, &good).to_vec::<f32>().unwrap(), [1.0, 3.0], "the fault is cleared on {device}");
        let y = x.try_index(fornax::s![&Tensor::from_vec(vec![-4], 1, device).unwrap()]).unwrap();
        assert!(matches!(y.to_vec::<f32>(), Err(fornax::Error::Index { .. })), "{device}");
    }
}

/// The message names the op, the range and the shapes; of several faults the op that was planned first is told.
fn faults_name_their_op() -> Result<()> {
    for device in [Device::cpu()].into_iter().chain(Device::gpu(0)) {
        let x = Tensor::ones([5, 3], device).try_mul(2.0)?;
        let i = Tensor::from_vec(vec![1, 5], 2, device)?;
        let table = i.try_reshape([2, 1])?.try_expand([2, 3])?;
        let told = |t: Tensor| match t.to_vec::<f32>() {
            Err(Error::Index { op, message }) => (op, message),
            other => panic!("{other:?}"),
        };
        let (op, message) = told(x.try_index_select(0, &i)?);
        assert!(op == "index_select" && message.contains("0..5") && message.contains("[5, 3]"), "{op}: {message}");
        let (op, message) = told(x.try_gather(0, &table)?);
        assert!(op == "gather" && message.contains("0..5"), "{op}: {message}");
        let (op, message) = told(x.try_scatter_add(0, &table, &x.try_narrow(0, 0, 2)?)?);
        assert!(op == "scatter_add" && message.contains("0..5"), "{op}: {message}");
        let (op, message) = told(x.try_narrow(0, 0, 2)?.try_cross_entropy(&i, &Default::default())?);
        assert!(op == "cross_entropy" && message.contains("0..3"), "{op}: {message}");
        // Ops that are made of these go by their own names.
        let rows = x.try_narrow(0, 0, 2)?;
        for (name, t) in [
            ("embedding", x.try_embedding(&i)?),
            ("take_along", x.try_take_along(0, &table)?),
            ("one_hot", i.try_one_hot(5)?),
            ("index", x.try_index(fornax::s![&i])?),
            ("index_set", x.try_index_set(fornax::s![&i], 1.0)?),
            ("index_add", x.try_index_add(0, &i, &rows)?),
            ("scatter", x.try_scatter(0, &table, &rows)?),
            ("nll_loss", rows.try_nll_loss(&i, &Default::default())?),
        ] {
            let (op, message) = told(t);
            assert!(op == name && message.contains("an index is out of range 0.."), "{name}: {op}: {message}");
        }
        for weights in [[-1.0f32, 2.0], [0.0, 0.0], [f32::NAN, 1.0]] {
            let (op, message) = told(Tensor::from_slice(&weights, 2, device)?.try_multinomial(1, true)?.try_cast(fornax::DType::F32)?);
            assert!(op == "multinomial" && message.contains("no distribution"), "{op}: {message}");
        }
        // Two in one flush.
        let first = x.try_gather(0, &table)?;
        let (op, _) = told(first.try_add(x.try_index_select(0, &i)?)?);
        assert!(op == if device.is_gpu() { "index_select" } else { "gather" }, "{op}");
        assert_eq!(x.to_vec::<f32>()?, [2.0; 15], "said once");
    }
    Ok(())
}

/// A training step with a bad index: an error of the step on the CPU, of the next read on a GPU.
fn a_step_tells_of_a_fault() -> Result<()> {
    use fornax::nn::Param;
    use fornax::optim::{Optimizer, SGD};
    for device in [Device::cpu()].into_iter().chain(Device::gpu(0)) {
        let w = Param::new(Tensor::ones([4, 2], device));
        let mut sgd = SGD::new([w.clone()], 0.1);
        let ids = Tensor::from_vec(vec![0, 9], 2, device)?;
        let grads = w.get().try_embedding(&ids)?.try_sum(())?.backward()?;
        let step = sgd.step(grads);
        let told = if device.is_gpu() { step.and_then(|()| w.value().to_vec::<f32>().map(drop)) } else { step };
        assert!(matches!(&told, Err(Error::Index { .. })), "{device}: {told:?}");
        // The good index counted all the same.
        assert_eq!(w.value().to_vec::<f32>()?, [0.9, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    }
    Ok(())
}

/// A lowered bound on the work of a dispatch and of a submit makes more of both, and no other values.
fn long_work_makes_more_submits() -> Result<()> {
    let Ok(device) = Device::gpu(0) else { return Ok(()) };
    let build = || -> Result<Vec<f32>> {
        let ramp = |n: usize| Tensor::arange(0, n as i64, 1, device).try_mul(1.0 / n as f64);
        let a = ramp(192 * 80)?.try_reshape([192, 80])?;
        let b = ramp(80 * 96)?.try_reshape([80, 96])?;
        let y = a.try_matmul(&b)?;
        y.try_exp()?.try_sum(1)?.try_add(y.try_sum(0)?.try_sum(())?)?.to_vec()
    };
    let counted = |f: &dyn Fn() -> Result<Vec<f32>>| -> Result<(Vec<f32>, u64, u64)> {
        let before = stats();
        let v = f()?;
        let after = stats().since(&before);
        Ok((v, after.dispatches, after.submits))
    };
    let (want, dispatches, submits) = counted(&build)?;
    // The product is 2 · 192 · 80 · 96 = 2.9 million operations.
    let (split, parts) = fornax::testing::with_gpu_limits(1 << 20, 400_000, || counted(&build));
    let (got, more, submitted) = split?;
    assert!(parts > 0 && more >= dispatches + 7 && submitted >= submits + 7, "{parts} {dispatches} {more} {submits} {submitted}");
    for (g, w) in got.iter().zip(&want) {
        assert!((g - w).abs() <= 1e-5 * w.abs(), "{g} {w}");
    }
    Ok(())
}

fn a_cache_grows_in_place() -> Result<()> {
    for device in [Device::cpu()].into_iter().chain(Device::gpu(0)) {
        let mut cache = Tensor::try_zeros([8, 2], device)?;
        cache.eval()?;
        let before = stats();
        for step in 0..8 {
            cache = cache.try_slice_assign_at(0, step, &Tensor::try_full([1, 2], step as f32, device)?)?;
            cache.eval()?;
        }
        let done = stats().since(&before);
        assert_eq!((done.donations_refused, done.donations), (0, 8), "{device}");
        assert!(done.plan_misses <= 1, "{device}: {} plans", done.plan_misses);
        assert_eq!(cache.to_vec::<f32>()?, (0..16).map(|i| (i / 2) as f32).collect::<Vec<_>>());
    }
    Ok(())
}

/// A language model writes its cache in place and needs no new plan for a token; a token outside the vocabulary is told of.
fn decoding_replays_its_plans() -> Result<()> {
    use fornax::generate::{Generation, stream};
    use fornax::transformers::CausalLm;
    let folder = |name: &str| format!("{}/tests/golden/transformers/{name}", env!("CARGO_MANIFEST_DIR"));
    let greedy = || Generation { max_new_tokens: 24, ends: Some(vec![]), ..Generation::default() };
    let drawn = || Generation { sample: true, top_k: Some(20), top_p: Some(0.9), min_p: Some(0.01), repetition_penalty: 1.2, ..greedy() };
    for device in [Device::cpu()].into_iter().chain(Device::gpu(0)) {
        // Mistral's window of 5 tokens is full when the counting begins.
        for (name, options) in [("llama3", greedy()), ("llama3", drawn()), ("mistral", greedy())] {
            let what = format!("{name}, sample {} on {device}", options.sample);
            let model = CausalLm::load(folder(name), device)?;
            let mut steps = stream(&model, &[vec![5, 6, 7]], &options)?;
            for _ in 0..8 {
                steps.next().expect("a step")?;
            }
            let before = stats();
            for step in steps {
                step?;
            }
            let done = stats().since(&before);
            assert_eq!(done.donations_refused, 0, "{what}");
            // Two caches a layer, in each of 16 steps.
            assert!(done.donations >= 2 * 2 * 16, "{what}: {} donations", done.donations);
            assert_eq!(done.plan_misses, 0, "{what}");
            // What computes a token brings it to the host.
            assert!(device == Device::cpu() || done.submits <= 16, "{what}: {} submits for 16 tokens", done.submits);
        }

        let model = CausalLm::load(folder("llama3"), device)?;
        let outside = Tensor::from_slice(&[5i32, 48], [1, 2], device)?;
        let logits = fornax::no_grad(|| model.forward(&outside.into()))?;
        assert!(matches!(logits.to_vec::<f32>(), Err(Error::Index { .. })), "{device}");

        // Of packed rows: a row may be longer than the context, a text may not, whose 33rd token has no learned position.
        let gpt2 = CausalLm::load(folder("gpt2"), device)?;
        let ids = Tensor::full([1, 50], 7, (fornax::DType::I32, device));
        for (longest, fits) in [(32, true), (33, false)] {
            let segments: Vec<i32> = (0..50).map(|i| 1 + i32::from(i >= longest)).collect();
            let logits = fornax::no_grad(|| gpt2.forward_packed(&ids, &Tensor::from_vec(segments, [1, 50], device)?))?;
            assert_eq!(logits.to_vec::<f32>().is_ok(), fits, "{device}");
        }
    }
    Ok(())
}

/// Indices that no i32 holds wrapped into the range.
fn huge_indices_are_out_of_range() -> Result<()> {
    let cpu = Device::cpu();
    let x = Tensor::from_slice(&[1f32, 2.0, 3.0], 3, cpu)?;
    let long = |i: i64| Tensor::from_slice(&[i], 1, cpu).unwrap();
    for i in [1i64 << 32, 1 - (1 << 32), (1 << 32) + 2, i64::MAX, i64::MIN] {
        assert!(matches!(x.try_index_select(0, &long(i))?.to_vec::<f32>(), Err(Error::Index { .. })), "{i}");
        assert!(matches!(x.index([fornax::Index::from(&long(i))]).to_vec::<f32>(), Err(Error::Index { .. })), "{i}");
    }
    let top = Tensor::from_slice(&[u32::MAX], 1, cpu)?;
    assert!(matches!(x.try_index_select(0, &top)?.to_vec::<f32>(), Err(Error::Index { .. })));
    assert_eq!(x.try_index_select(0, &long(2))?.to_vec::<f32>()?, [3.0]);
    // In losses too.
    let (scores, wide) = (x.try_unsqueeze(0)?, long((1 << 32) + 1));
    assert!(matches!(nn::multi_margin_loss(&scores, &wide)?.to_vec::<f32>(), Err(Error::Index { .. })));
    let logs = scores.try_log_softmax(-1)?.try_unsqueeze(0)?;
    let one = long(1);
    let ctc = |labels: &Tensor, inputs: &Tensor, lengths: &Tensor| {
        nn::ctc_loss(&logs, &labels.try_unsqueeze(0)?, inputs, lengths)?.to_vec::<f32>()
    };
    assert!(ctc(&one, &one, &one).is_ok());
    assert!(matches!(ctc(&wide, &one, &one), Err(Error::Index { .. })));
    assert!(matches!(ctc(&one, &wide, &one), Err(Error::Index { .. })));
    assert!(matches!(ctc(&one, &one, &wide), Err(Error::Index { .. })));
    Ok(())
}

/// Bytes that this process holds now (`VmRSS`), or held at most since the mark was reset (`VmHWM`): what the kernel says of it, mapped files included.
#[cfg(target_os = "linux")]
fn resident(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(what)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Loading a checkpoint and reading all of it holds the file and at most one tensor beside it, in one file or in shards.
#[cfg(target_os = "linux")]
fn a_load_takes_no_more_than_its_file() -> Result<()> {
    use fornax::nn::Module;
    use fornax::transformers::{CausalLm, Config};
    use std::io::Write;
    const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 40000, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 4}"#;
    // Nothing is computed for a model of which only the names and shapes are read.
    let blank = CausalLm::new(&Config::parse(CONFIG)?, Device::cpu())?;
    let tensors: Vec<(String, Vec<usize>)> = blank.named_parameters().into_iter().map(|(n, p)| (n, p.shape().to_vec())).collect();
    drop(blank);
    let bytes = |shape: &[usize]| 4 * shape.iter().product::<usize>() as u64;
    // Zeros that take no room on the disk.
    let write = |path: &std::path::Path, tensors: &[(String, Vec<usize>)]| {
        let mut end = 0;
        let entries: Vec<String> = tensors
            .iter()
            .map(|(name, shape)| {
                let start = end;
                end += bytes(shape);
                format!(r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{start},{end}]}}"#)
            })
            .collect();
        let mut header = format!("{{{}}}", entries.join(","));
        header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
        let mut file = std::fs::File::create(path).unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        file.set_len(8 + header.len() as u64 + end).unwrap();
    };
    let all: u64 = tensors.iter().map(|t| bytes(&t.1)).sum();
    let largest = tensors.iter().map(|t| bytes(&t.1)).max().unwrap();
    assert!(all > 90 << 20 && largest > 40_000_000, "{all} {largest}");
    for shards in [1, 3] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), CONFIG).unwrap();
        if shards == 1 {
            write(&folder.path().join("model.safetensors"), &tensors);
        } else {
            let mut map = Vec::new();
            for (i, part) in tensors.chunks(tensors.len().div_ceil(shards)).enumerate() {
                let name = format!("model-{i}.safetensors");
                write(&folder.path().join(&name), part);
                map.extend(part.iter().map(|(n, _)| format!(r#""{n}":"{name}""#)));
            }
            let index = format!(r#"{{"weight_map":{{{}}}}}"#, map.join(","));
            std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
        }
        if std::fs::write("/proc/self/clear_refs", "5").is_err() {
            eprintln!("skipped: this kernel does not measure a process's peak anew");
            return Ok(());
        }
        let before = resident("VmRSS");
        let model = CausalLm::load(folder.path(), Device::cpu())?;
        for p in model.parameters() {
            assert_eq!(p.value().sum(()).item::<f32>()?, 0.0);
        }
        let more = resident("VmHWM") - before;
        // Something of the process's own, too: 4 MiB.
        assert!(more <= all + largest + (4 << 20), "{shards} files of {all} bytes, the largest tensor {largest}: {more} more");
        assert!(more >= all, "the measurement works: {more} of {all}");
    }
    Ok(())
}

//! Choosing tokens where the model computes gives what choosing them on the host gives.

use crate::harness::gpu;
use fornax::generate::{Generation, LogitsProcessor, MinP, Temperature, TopK, TopP, generate, stream};
use fornax::transformers::CausalLm;
use fornax::{Device, Error, Result, Tensor};

fn devices() -> impl Iterator<Item = Device> {
    [Device::cpu()].into_iter().chain(gpu())
}

fn model(name: &str, device: Device) -> CausalLm {
    CausalLm::load(format!("{}/tests/golden/transformers/{name}", env!("CARGO_MANIFEST_DIR")), device).unwrap()
}

/// Changes nothing, on the host.
struct Nothing;

impl LogitsProcessor for Nothing {
    fn process(&self, _: &[u32], _: &mut [f32]) {}
}

#[test]
fn processors_do_the_same_to_tensors() -> Result<()> {
    let _seed = fornax::testing::seed(5);
    let processors: [(&str, Box<dyn LogitsProcessor>); 10] = [
        ("temperature", Box::new(Temperature::new(0.7)?)),
        ("top-k of 1", Box::new(TopK::new(1)?)),
        ("top-k", Box::new(TopK::new(7)?)),
        ("top-k of more", Box::new(TopK::new(1000)?)),
        ("top-p of 0", Box::new(TopP::new(0.0)?)),
        ("top-p", Box::new(TopP::new(0.8)?)),
        ("top-p of 1", Box::new(TopP::new(1.0)?)),
        ("min-p of 0", Box::new(MinP::new(0.0)?)),
        ("min-p", Box::new(MinP::new(0.2)?)),
        ("min-p of 1", Box::new(MinP::new(1.0)?)),
    ];
    let width = 333;
    // Whole and half numbers: many are equal. The last row has -inf, as an earlier processor leaves it.
    let logits = (Tensor::normal([3, width], 0.0, 2.0, Device::cpu()) * 2.0).round() / 2.0;
    let mut rows = logits.to_vec::<f32>()?;
    rows[2 * width + 5..].fill(f32::NEG_INFINITY);
    for (name, processor) in &processors {
        let mut want = rows.clone();
        want.chunks_mut(width).for_each(|row| processor.process(&[], row));
        for device in devices() {
            let got = processor.process_tensor(&Tensor::from_slice(&rows, [3, width], device)?)?.expect("a tensor").to_vec::<f32>()?;
            // (A probability that lies on the bound to the last digit may fall on either side: here none does.)
            for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                assert!(g == w || (g - w).abs() <= 1e-6 * w.abs(), "{name} on {device}, logit {i}: {g} and not {w}");
            }
        }
    }
    Ok(())
}

/// With a processor that needs the host, the same tokens are chosen there.
#[test]
fn the_host_chooses_the_same() -> Result<()> {
    let prompts = [vec![5, 6, 7, 8], vec![9], vec![10, 11]];
    let plain = || Generation { max_new_tokens: 14, ends: Some(vec![3]), ..Generation::default() };
    let drawn = || Generation { sample: true, seed: 3, temperature: 1.4, ..plain() };
    let options: [fn(&dyn Fn() -> Generation, &dyn Fn() -> Generation) -> Generation; 7] = [
        |plain, _| Generation { repetition_penalty: 1.7, ..plain() },
        |_, drawn| drawn(),
        |_, drawn| Generation { top_k: Some(9), repetition_penalty: 1.3, ..drawn() },
        |_, drawn| Generation { top_p: Some(0.7), ..drawn() },
        |_, drawn| Generation { min_p: Some(0.3), top_k: Some(30), top_p: Some(0.95), ..drawn() },
        |plain, _| Generation { beams: 3, ..plain() },
        |plain, _| Generation { beams: 4, repetition_penalty: 1.4, length_penalty: -0.5, ..plain() },
    ];
    for device in devices() {
        for name in ["llama3", "mistral"] {
            let model = model(name, device);
            for (i, make) in options.iter().enumerate() {
                let here = generate(&model, &prompts, &make(&plain, &drawn))?;
                let there = generate(&model, &prompts, &Generation { processors: vec![Box::new(Nothing)], ..make(&plain, &drawn) })?;
                assert_eq!(here, there, "{name} on {device}, options {i}");
                assert!(here.iter().all(|row| !row.is_empty()));
            }
        }
    }
    Ok(())
}

/// Leaves nothing, or makes a NaN of one logit, where the model computes.
struct Spoils(f32);

impl LogitsProcessor for Spoils {
    fn process(&self, _: &[u32], logits: &mut [f32]) {
        logits[1] += self.0;
    }
    fn process_tensor(&self, logits: &Tensor) -> Result<Option<Tensor>> {
        match self.0.is_nan() {
            true => logits.try_slice_assign_at(1, 1, &Tensor::try_full([logits.dims()[0], 1], f32::NAN, logits.device())?).map(Some),
            false => logits.try_mul(0.0)?.try_add(self.0).map(Some),
        }
    }
}

/// Wants the device and gives something else.
struct Narrows;

impl LogitsProcessor for Narrows {
    fn process(&self, _: &[u32], _: &mut [f32]) {}
    fn process_tensor(&self, logits: &Tensor) -> Result<Option<Tensor>> {
        logits.try_narrow(1, 0, 3).map(Some)
    }
}

#[test]
fn bad_logits_are_errors_on_the_device_too() -> Result<()> {
    for device in devices() {
        let model = model("gpt2", device);
        for sample in [false, true] {
            let with = |p: Box<dyn LogitsProcessor>| Generation { sample, max_new_tokens: 3, processors: vec![p], ..Generation::default() };
            let first = |options: &Generation| stream(&model, &[vec![5, 6]], options).and_then(|mut s| s.next().expect("a step"));
            let nan = first(&with(Box::new(Spoils(f32::NAN))));
            assert!(matches!(&nan, Err(Error::Argument { .. })) && nan.as_ref().unwrap_err().to_string().contains("NaN"), "{nan:?}");
            let shape = first(&with(Box::new(Narrows)));
            assert!(matches!(shape, Err(Error::Shape { .. })), "{shape:?}");
            let none = first(&with(Box::new(Spoils(f32::NEG_INFINITY))));
            assert_eq!(none.is_err(), sample, "{none:?}");
            if sample {
                assert!(none.unwrap_err().to_string().contains("left no token"));
            }
        }
        let beams = Generation { beams: 2, max_new_tokens: 3, processors: vec![Box::new(Spoils(f32::NAN))], ..Generation::default() };
        assert!(generate(&model, &[vec![5, 6]], &beams).unwrap_err().to_string().contains("NaN"));
    }
    Ok(())
}

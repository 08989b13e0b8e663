//! Reads the golden files of layers, losses and models (`tests/golden/layers_common.py` has their format) and runs their cases.

use fornax::nn::{Module, Param};
use fornax::{DType, Device, Result, Tensor};
use safetensors::SafeTensors;

/// What a case computes.
pub type Call<'a> = &'a dyn Fn(&[Tensor]) -> Result<Vec<Tensor>>;

/// A golden file, and what was wrong so far.
pub struct Golden<'a> {
    file: SafeTensors<'a>,
    dtype: DType,
    device: Device,
    tolerance: f64,
    cases: usize,
    wrong: Vec<String>,
}

/// Runs all cases of a file on the CPU in f32 and f64, and on a GPU if there is one, each with its tolerance, relative to a tensor's largest number (and at
/// least absolute).
pub fn on_all_devices(name: &str, tolerances: [f64; 3], cases: impl Fn(&mut Golden)) {
    let path = format!("{}/tests/golden/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    let run = |dtype, device, tolerance| {
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut golden = Golden { file, dtype, device, tolerance, cases: 0, wrong: Vec::new() };
        cases(&mut golden);
        let names = golden.file.names().iter().filter(|n| n.ends_with("/out0")).count();
        assert!(golden.wrong.is_empty(), "on {device} in {dtype}:\n{}", golden.wrong.join("\n"));
        assert_eq!(golden.cases, names, "cases in the golden file");
    };
    run(DType::F32, Device::cpu(), tolerances[0]);
    run(DType::F64, Device::cpu(), tolerances[1]);
    match Device::gpu(0) {
        Ok(gpu) => run(DType::F32, gpu, tolerances[2]),
        Err(e) if std::env::var_os("FORNAX_REQUIRE_GPU").is_some() => panic!("{e}"),
        Err(e) => eprintln!("skipped on the GPU: {e}"),
    }
}

impl Golden<'_> {
    /// The dtype and device of this run: a module's options.
    pub fn options(&self) -> (DType, Device) {
        (self.dtype, self.device)
    }

    fn values(&self, name: &str) -> Option<(Vec<usize>, Vec<f64>)> {
        let t = self.file.tensor(name).ok()?;
        let words = t.data().chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
        let values = match t.dtype() {
            safetensors::Dtype::F32 => words.map(|b| f32::from_le_bytes(b) as f64).collect(),
            safetensors::Dtype::I32 => words.map(|b| i32::from_le_bytes(b) as f64).collect(),
            d => panic!("{name} is of dtype {d:?}"),
        };
        Some((t.shape().to_vec(), values))
    }

    /// A tensor of the file, on the device; integers stay integers.
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        let Some((shape, values)) = self.values(name) else { return Ok(None) };
        let is_float = self.file.tensor(name).is_ok_and(|t| t.dtype() == safetensors::Dtype::F32);
        let t = if is_float {
            Tensor::from_vec(values.iter().map(|&v| v as f32).collect(), shape, self.device)?.try_cast(self.dtype)?
        } else {
            Tensor::from_vec(values.iter().map(|&v| v as i32).collect(), shape, self.device)?
        };
        Ok(Some(t))
    }

    fn compare(&self, what: &str, got: &Tensor, name: &str) -> Result<Option<String>> {
        let Some((shape, want)) = self.values(name) else { return Ok(Some(format!("{what}: not in the file"))) };
        if got.dims() != shape {
            return Ok(Some(format!("{what}: shape {}, expected {shape:?}", got.shape())));
        }
        let got = got.to_vec::<f64>()?;
        let scale = want.iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()));
        let off = got.iter().zip(&want).map(|(g, w)| if g == w { 0.0 } else { (g - w).abs() / scale });
        // NaN is further than anything.
        let worst = off.fold(0.0f64, |m, d| if d <= m { m } else { d });
        Ok((!(worst <= self.tolerance)).then(|| format!("{what}: off by {worst:e}")))
    }

    /// The names in the file of a case's parameters or buffers.
    fn paths(&self, prefix: &str) -> Vec<String> {
        self.file.names().iter().filter_map(|n| n.strip_prefix(prefix)).map(String::from).collect()
    }

    /// Runs a case: gives the module the file's parameters and buffers, computes, and compares outputs, all gradients, and the buffers afterwards.
    pub fn case(&mut self, name: &str, module: &dyn Module, call: Call) {
        self.cases += 1;
        let found = self.run(name, module, call);
        self.wrong.extend(match found {
            Ok(wrong) => wrong.into_iter().map(|w| format!("{name}: {w}")).collect(),
            Err(e) => vec![format!("{name}: {e}")],
        });
    }

    fn run(&self, name: &str, module: &dyn Module, call: Call) -> Result<Vec<String>> {
        let mut dict = fornax::nn::StateDict::new();
        for kind in ["param", "buffer"] {
            let prefix = format!("{name}/{kind}/");
            for path in self.paths(&prefix) {
                let value = self.tensor(&format!("{prefix}{path}"))?;
                dict.extend(value.map(|v| (path, v)));
            }
        }
        module.load_state_dict(&dict, true)?;
        let mut inputs = Vec::new();
        while let Some(x) = self.tensor(&format!("{name}/in{}", inputs.len()))? {
            let wanted = self.file.tensor(&format!("{name}/grad{}", inputs.len())).is_ok();
            inputs.push(if wanted { x.requires_grad() } else { x });
        }
        let outs = call(&inputs)?;
        let mut wrong = Vec::new();
        let mut loss: Option<Tensor> = None;
        for (i, y) in outs.iter().enumerate() {
            wrong.extend(self.compare(&format!("output {i}"), y, &format!("{name}/out{i}"))?);
            let Some(cot) = self.tensor(&format!("{name}/cot{i}"))? else { continue };
            let part = y.try_mul(&cot)?.try_sum(())?;
            loss = Some(match loss {
                Some(l) => l.try_add(&part)?,
                None => part,
            });
        }
        if self.file.tensor(&format!("{name}/out{}", outs.len())).is_ok() {
            wrong.push(format!("more outputs than {} are expected", outs.len()));
        }
        let loss = loss.expect("a case has an output");
        let grads = loss.backward()?;
        for (i, x) in inputs.iter().enumerate() {
            let file = format!("{name}/grad{i}");
            if self.file.tensor(&file).is_err() {
                continue;
            }
            let zero = x.try_zeros_like()?;
            wrong.extend(self.compare(&format!("gradient of input {i}"), grads.get(x).unwrap_or(&zero), &file)?);
        }
        let params: Vec<(String, Param)> = module.named_parameters();
        for (path, p) in &params {
            let grad = p.grad(&grads);
            let Some(grad) = grad else {
                wrong.push(format!("no gradient of {path}"));
                continue;
            };
            wrong.extend(self.compare(&format!("gradient of {path}"), grad, &format!("{name}/gradparam/{path}"))?);
        }
        let state = module.state_dict();
        for path in self.paths(&format!("{name}/after/")) {
            wrong.extend(match state.get(&path) {
                Some(t) => self.compare(&path, t, &format!("{name}/after/{path}"))?,
                None => Some(format!("no buffer {path}")),
            });
        }
        Ok(wrong)
    }
}

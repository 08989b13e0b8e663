//! What the golden files of PyTorch share: a case has inputs, outputs, cotangents and gradients by name, and runs in f64 and f32 on the CPU
//! and in f32 on the GPU.

use crate::harness::gpu;
use fornax::{DType, Device, Result, Tensor};
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeSet, HashMap};

/// The tensors of one case, by their names after it.
struct Golden<'a> {
    file: &'a SafeTensors<'a>,
    name: &'a str,
}

pub type Ins = HashMap<String, Tensor>;
pub type Outs = Vec<(&'static str, Tensor)>;

impl Golden<'_> {
    fn names(&self, kind: &str) -> Vec<String> {
        let prefix = format!("{}.{kind}.", self.name);
        let mut names: Vec<String> = self.file.names().iter().filter_map(|n| n.strip_prefix(&prefix).map(str::to_string)).collect();
        names.sort();
        names
    }

    fn values(&self, kind: &str, name: &str) -> Vec<f64> {
        let view = self.file.tensor(&format!("{}.{kind}.{name}", self.name)).unwrap();
        match view.dtype() {
            Dtype::F32 => view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b) as f64).collect(),
            Dtype::I32 => view.data().as_chunks().0.iter().map(|&b| i32::from_le_bytes(b) as f64).collect(),
            _ => view.data().iter().map(|&b| b as f64).collect(),
        }
    }

    /// Floats in `dtype`.
    fn tensor(&self, kind: &str, name: &str, dtype: DType, device: Device) -> Result<Tensor> {
        let view = self.file.tensor(&format!("{}.{kind}.{name}", self.name)).unwrap();
        let (v, shape) = (self.values(kind, name), view.shape());
        match (view.dtype(), dtype) {
            (Dtype::F32, DType::F64) => Tensor::from_vec(v, shape, device),
            (Dtype::F32, _) => Tensor::from_vec(v.iter().map(|&x| x as f32).collect(), shape, device),
            (Dtype::I32, _) => Tensor::from_vec(v.iter().map(|&x| x as i32).collect(), shape, device),
            _ => Tensor::from_vec(v.iter().map(|&x| x != 0.0).collect(), shape, device),
        }
    }

    /// Compares what `f` gives, and its gradients.
    fn check(&self, f: &dyn Fn(&Ins) -> Result<Outs>, dtype: DType, device: Device, tol: f64) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        let wanted = self.names("grad");
        let mut ins = Ins::new();
        for n in self.names("in") {
            let t = self.tensor("in", &n, dtype, device)?;
            ins.insert(n.clone(), if wanted.contains(&n) { t.requires_grad() } else { t });
        }
        let outs = f(&ins)?;
        assert_eq!(outs.len(), self.names("out").len(), "{}", self.name);
        let mut loss: Option<Tensor> = None;
        for (n, y) in &outs {
            assert_eq!(y.dims(), self.shape("out", n), "{} out {n}", self.name);
            wrong.extend(self.differs(&y.to_vec::<f64>()?, "out", n, tol, device));
            if self.names("cot").iter().any(|c| c == n) {
                let part = y.try_mul(self.tensor("cot", n, dtype, device)?)?.try_sum(())?;
                loss = Some(loss.map_or(Ok(part.clone()), |l| l.try_add(&part))?);
            }
        }
        if let (Some(loss), false) = (loss, wanted.is_empty()) {
            let grads = loss.backward()?;
            for n in &wanted {
                let g = grads.get(&ins[n]).unwrap_or_else(|| panic!("{}: no gradient for {n}", self.name));
                assert_eq!(g.dims(), ins[n].dims(), "{}", self.name);
                wrong.extend(self.differs(&g.to_vec::<f64>()?, "grad", n, 5.0 * tol, device));
            }
        }
        Ok(wrong)
    }

    fn shape(&self, kind: &str, name: &str) -> Vec<usize> {
        self.file.tensor(&format!("{}.{kind}.{name}", self.name)).unwrap().shape().to_vec()
    }

    /// The first element that is not as in the file.
    fn differs(&self, got: &[f64], kind: &str, name: &str, tol: f64, device: Device) -> Option<String> {
        let want = self.values(kind, name);
        assert_eq!(got.len(), want.len(), "{} {kind} {name}", self.name);
        let scale = want.iter().filter(|w| w.is_finite()).fold(1.0f64, |m, w| m.max(w.abs()));
        let same = |g: f64, w: f64| g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= tol * scale;
        let i = (0..want.len()).find(|&i| !same(got[i], want[i]))?;
        Some(format!("{} on {device}: {kind} {name}: element {i} is {}, not {}", self.name, got[i], want[i]))
    }
}

/// Runs every case of a file whose name `known` knows, in f64 and f32 on the CPU and in f32 on the GPU, and returns their number.
pub fn run(file: &str, known: &dyn Fn(&str) -> Option<Case>) -> usize {
    let path = format!("{}/tests/golden/{file}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let cases: BTreeSet<&str> = file.names().iter().filter_map(|n| n.split('.').next()).collect();
    let mut done = 0;
    let mut wrong = Vec::new();
    for name in cases {
        let Some(f) = known(name) else { continue };
        done += 1;
        let golden = Golden { file: &file, name };
        let mut at = |dtype, device, tol| match golden.check(&f, dtype, device, tol) {
            Ok(mut found) => wrong.append(&mut found),
            Err(e) => wrong.push(format!("{name} on {device} in {dtype}: {e}")),
        };
        at(DType::F64, Device::cpu(), 1e-6);
        at(DType::F32, Device::cpu(), 2e-5);
        if let Some(device) = gpu() {
            at(DType::F32, device, 5e-5);
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    done
}

/// One output.
pub fn one(y: Result<Tensor>) -> Result<Outs> {
    Ok(vec![("y", y?)])
}

/// A computation on inputs by name.
pub type Case = Box<dyn Fn(&Ins) -> Result<Outs>>;

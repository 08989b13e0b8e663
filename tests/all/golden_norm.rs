//! Softmax, norms, losses, attention and linear algebra against PyTorch: values and gradients, on both backends. The files come from
//! `tests/golden/gen_norm_attention.py`.

use fornax::{Attention, CrossEntropy, DType, Device, Reduction, Result, Tensor};
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;

/// The tensors of one case, by their names after it.
struct Golden<'a> {
    file: &'a SafeTensors<'a>,
    name: &'a str,
}

type Ins = HashMap<String, Tensor>;
type Outs = Vec<(&'static str, Tensor)>;

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
    fn check(&self, f: &dyn Fn(&Ins) -> Result<Outs>, dtype: DType, device: Device, tol: f64) -> Result<()> {
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
            self.close(&y.to_vec::<f64>()?, "out", n, tol, device);
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
                self.close(&g.to_vec::<f64>()?, "grad", n, 5.0 * tol, device);
            }
        }
        Ok(())
    }

    fn close(&self, got: &[f64], kind: &str, name: &str, tol: f64, device: Device) {
        let want = self.values(kind, name);
        assert_eq!(got.len(), want.len(), "{} {kind} {name}", self.name);
        let scale = want.iter().filter(|w| w.is_finite()).fold(1.0f64, |m, w| m.max(w.abs()));
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            let same = g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= tol * scale;
            assert!(same, "{} on {device}: {kind} {name}: element {i} is {g}, not {w}", self.name);
        }
    }
}

/// Runs every case whose name one of the functions knows, in f64 and f32 on the CPU and in f32 on the GPU, and returns their number.
fn run(gpu: Option<Device>, known: &dyn Fn(&str) -> Option<Box<dyn Fn(&Ins) -> Result<Outs>>>) -> usize {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/norm_attention.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut cases: Vec<String> = file.names().iter().filter_map(|n| n.split('.').next().map(str::to_string)).collect();
    cases.sort();
    cases.dedup();
    let mut done = 0;
    for name in &cases {
        let Some(f) = known(name) else { continue };
        done += 1;
        let golden = Golden { file: &file, name };
        let at = |dtype, device, tol| golden.check(&f, dtype, device, tol).unwrap_or_else(|e| panic!("{name} on {device}: {e}"));
        at(DType::F64, Device::cpu(), 1e-6);
        at(DType::F32, Device::cpu(), 2e-5);
        if let Some(device) = gpu {
            at(DType::F32, device, 5e-5);
        }
    }
    done
}

fn one(y: Result<Tensor>) -> Result<Outs> {
    Ok(vec![("y", y?)])
}

type Case = Box<dyn Fn(&Ins) -> Result<Outs>>;

fn softmax_and_norms(name: &str) -> Option<Case> {
    let last = name.as_bytes().last().map_or(0, |b| (b % 8) as isize);
    let (w, b) = (|i: &Ins| i.get("w").cloned(), |i: &Ins| i.get("b").cloned());
    Some(match name {
        "softmax0" | "softmax1" | "softmax2" => Box::new(move |i| one(i["x"].try_softmax(last))),
        "log_softmax0" | "log_softmax1" | "log_softmax2" => Box::new(move |i| one(i["x"].try_log_softmax(last))),
        "softmax_inf" => Box::new(|i| Ok(vec![("y", i["x"].try_softmax(1)?), ("z", i["x"].try_log_softmax(1)?)])),
        "layer_norm" => Box::new(move |i| one(i["x"].try_layer_norm([5, 7], w(i).as_ref(), b(i).as_ref(), 1e-5))),
        "layer_norm_plain" => Box::new(|i| one(i["x"].try_layer_norm(33, None, None, 1e-3))),
        "rms_norm" => Box::new(move |i| one(i["x"].try_rms_norm(33, w(i).as_ref(), 1e-6))),
        "group_norm" => Box::new(move |i| one(i["x"].try_group_norm(3, w(i).as_ref(), b(i).as_ref(), 1e-5))),
        "instance_norm" => Box::new(move |i| one(i["x"].try_instance_norm(w(i).as_ref(), b(i).as_ref(), 1e-5))),
        "batch_norm_2d" | "batch_norm_rows" => Box::new(move |i| {
            let (y, mean, var) = i["x"].try_batch_norm_training(w(i).as_ref(), b(i).as_ref(), 1e-5)?;
            Ok(vec![("y", y), ("mean", mean), ("var", var)])
        }),
        "batch_norm_eval" => Box::new(move |i| one(i["x"].try_batch_norm(&i["m"], &i["v"], w(i).as_ref(), b(i).as_ref(), 1e-5))),
        _ => return None,
    })
}

fn losses(name: &str) -> Option<Case> {
    let reduction = match name.rsplit('_').next() {
        Some("sum") => Reduction::Sum,
        Some("none") => Reduction::None,
        _ => Reduction::Mean,
    };
    let (ignore_index, label_smoothing) = match name {
        n if n.starts_with("cross_entropy_all") => (1, 0.1),
        n if n.starts_with("cross_entropy_soft") => (-100, 0.2),
        n if n.starts_with("nll_loss") => (3, 0.0),
        _ => (-100, 0.0),
    };
    let options = move |i: &Ins| CrossEntropy { weight: i.get("w").cloned(), ignore_index, label_smoothing, reduction };
    Some(match name {
        n if n.starts_with("cross_entropy") => {
            Box::new(move |i| one(i["x"].try_cross_entropy(i.get("t").or_else(|| i.get("q")).unwrap(), &options(i))))
        }
        n if n.starts_with("nll_loss") => Box::new(move |i| one(i["x"].try_nll_loss(&i["t"], &options(i)))),
        _ => return None,
    })
}

fn attention(name: &str) -> Option<Case> {
    let causal = name == "attention_causal";
    let scale = (name == "attention_scale").then_some(0.7);
    name.starts_with("attention").then(|| -> Case {
        Box::new(move |i| {
            let options = Attention { mask: i.get("mask").cloned(), bias: i.get("bias").cloned(), causal, scale, ..Default::default() };
            one(i["q"].try_scaled_dot_product_attention(&i["k"], &i["v"], &options))
        })
    })
}

#[cfg(feature = "linalg")]
fn linear_algebra(name: &str) -> Option<Case> {
    Some(match name {
        "qr" => Box::new(|i| {
            let (q, r) = i["a"].try_qr()?;
            Ok(vec![("qq", q.try_square()?), ("rr", r.try_square()?)])
        }),
        "qr_wide" => Box::new(|i| Ok(vec![("rr", i["a"].try_qr()?.1.try_square()?)])),
        "svd" | "svd_wide" => Box::new(|i| {
            let (u, s, vt) = i["a"].try_svd()?;
            Ok(vec![("uu", u.try_square()?), ("s", s), ("vv", vt.try_square()?)])
        }),
        "eigh" => Box::new(|i| {
            let (w, v) = i["a"].try_add(i["a"].try_transpose(-1, -2)?)?.try_mul(0.5)?.try_eigh()?;
            Ok(vec![("w", w), ("vv", v.try_square()?)])
        }),
        "cholesky" => Box::new(|i| {
            let a = i["a"].try_add(i["a"].try_transpose(-1, -2)?)?.try_mul(0.5)?;
            Ok(vec![("l", a.try_cholesky()?)])
        }),
        "solve" => Box::new(|i| Ok(vec![("x", i["a"].try_solve(&i["b"])?)])),
        "det" => Box::new(|i| Ok(vec![("d", i["a"].try_det()?)])),
        "inverse" => Box::new(|i| Ok(vec![("x", i["a"].try_inverse()?)])),
        _ => return None,
    })
}

#[cfg(feature = "linalg")]
#[test]
fn linear_algebra_agrees_with_pytorch() {
    assert_eq!(run(crate::harness::gpu(), &linear_algebra), 9);
}

#[test]
fn softmax_and_norms_agree_with_pytorch() {
    assert_eq!(run(crate::harness::gpu(), &softmax_and_norms), 15);
}

#[test]
fn losses_agree_with_pytorch() {
    assert_eq!(run(crate::harness::gpu(), &losses), 13);
}

#[test]
fn attention_agrees_with_pytorch() {
    assert_eq!(run(crate::harness::gpu(), &attention), 6);
}

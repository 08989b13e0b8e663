//! Bugs that were found by people who tried to break it: each failed before it was mended.

use crate::harness::gpu;
use fornax::nn::Param;
use fornax::{
    Attention, CustomInputs, CustomOp, CustomOutputs, DType, Device, Error, GradCheck, Result, Shape, Tensor, check_second_gradients,
    checkpoint, custom, grad,
};
use std::sync::atomic::{AtomicBool, Ordering};

fn cpu() -> Device {
    Device::cpu()
}

fn vector(v: &[f32]) -> Tensor {
    Tensor::from_slice(v, v.len(), cpu()).unwrap()
}

fn close(a: &Tensor, b: &Tensor) {
    let (a, b) = (a.to_vec::<f32>().unwrap(), b.to_vec::<f32>().unwrap());
    assert_eq!(a.len(), b.len());
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-5 * (1.0 + b.abs())), "{a:?} is not {b:?}");
}

/// Gradients of what a checkpoint has captured got lost where a fused op's decomposition was differentiated on the way.
#[test]
fn checkpoints_in_a_row_keep_the_gradients_of_captured_parameters() -> Result<()> {
    let run = |checked: bool| -> Result<Vec<Tensor>> {
        let mut params = Vec::new();
        let mut x = Tensor::linspace(-1.0, 1.0, 2 * 3 * 4, cpu()).reshape([1, 2, 3, 4]).requires_grad();
        for i in 0..2 {
            let b = Param::new(Tensor::linspace(0.0, 1.0 + i as f64, 9, cpu()).reshape([1, 1, 3, 3]));
            let w = Param::new(Tensor::full((), 1.5 + i as f64, cpu()));
            params.extend([b.clone(), w.clone()]);
            let f = move |x: &[Tensor]| -> Result<Tensor> {
                let options = Attention { bias: Some(b.get()), ..Default::default() };
                x[0].try_scaled_dot_product_attention(&x[0], &x[0], &options)?.try_mul(w.get())
            };
            x = if checked { checkpoint(&[&x], f)? } else { f(&[x])? };
        }
        let grads = x.square().sum(()).backward()?;
        Ok(params.iter().map(|p| p.grad(&grads).cloned().expect("a gradient")).collect())
    };
    for (a, b) in run(true)?.iter().zip(&run(false)?) {
        close(a, b);
    }
    Ok(())
}

#[test]
fn a_checkpoint_behind_a_gradient_keeps_its_parameters() -> Result<()> {
    let run = |checked: bool| -> Result<Tensor> {
        let x = vector(&[0.1, 0.7, -0.4]).requires_grad();
        let w = Param::new(vector(&[1.0, 2.0, 3.0]));
        let g = grad(&[&x.softmax(-1).square().sum(())], &[&x])?[0].clone().expect("a gradient");
        let own = w.clone();
        let f = move |a: &[Tensor]| a[0].try_mul(own.get());
        let y = if checked { checkpoint(&[&g], f)? } else { f(&[g])? };
        let grads = y.square().sum(()).backward()?;
        Ok(w.grad(&grads).cloned().expect("a gradient"))
    };
    close(&run(true)?, &run(false)?);
    Ok(())
}

#[test]
fn a_captured_tensor_gets_its_gradient_through_a_checkpoint() -> Result<()> {
    let x = vector(&[1.0, 2.0]).requires_grad();
    let leaf = vector(&[3.0, 4.0]).requires_grad();
    // A leaf, asked for by name.
    let own = leaf.clone();
    let y = checkpoint(&[&x], move |a| a[0].try_mul(&own))?;
    let found = grad(&[&y.sum(())], &[&leaf])?;
    close(found[0].as_ref().expect("a gradient"), &vector(&[1.0, 2.0]));
    // A tensor on the way, used elsewhere too.
    let h = &leaf * 2.0;
    let own = h.clone();
    let y = checkpoint(&[&x], move |a| a[0].try_mul(&own))? + &h;
    let found = grad(&[&y.sum(())], &[&h, &leaf])?;
    close(found[0].as_ref().expect("a gradient"), &vector(&[2.0, 3.0]));
    let grads = y.sum(()).backward()?;
    close(grads.get(&leaf).expect("a gradient"), &vector(&[4.0, 6.0]));
    close(grads.get(&x).expect("a gradient"), &vector(&[6.0, 8.0]));
    Ok(())
}

/// Rust's formatting refuses widths above 65,535: a long header panicked.
#[test]
fn a_long_header_is_saved() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("many.safetensors");
    let dict: fornax::io::StateDict =
        (0..1500).map(|i| (format!("model.layers.{i}.self_attn.q_proj.weight"), Tensor::full(2, i as f64, cpu()))).collect();
    fornax::io::safetensors::save(&path, &dict)?;
    let back = fornax::io::safetensors::load(&path)?;
    assert_eq!(back.len(), 1500);
    assert_eq!(back["model.layers.1499.self_attn.q_proj.weight"].to_vec::<f32>()?, [1499.0; 2]);
    let reserved = fornax::io::StateDict::from([("__metadata__".to_string(), Tensor::zeros(2, cpu()))]);
    assert!(matches!(fornax::io::safetensors::save(&path, &reserved), Err(Error::Argument { .. })));
    assert_eq!(fornax::io::safetensors::load(&path)?.len(), 1500, "the old file stays");
    Ok(())
}

/// Passes its input on; fails the first time.
#[derive(Debug)]
struct FailsOnce(AtomicBool);

impl CustomOp for FailsOnce {
    fn name(&self) -> &'static str {
        "fails_once"
    }
    fn infer(&self, inputs: &[(Shape, DType)]) -> Result<Vec<(Shape, DType)>> {
        Ok(vec![inputs[0].clone()])
    }
    fn cpu(&self, inputs: &CustomInputs, outputs: &mut CustomOutputs) -> Result<()> {
        if !self.0.swap(true, Ordering::Relaxed) {
            return Err(Error::Kernel { op: "fails_once".into(), message: "the first time".into() });
        }
        outputs.get::<f32>(0)?.copy_from_slice(inputs.get::<f32>(0)?);
        Ok(())
    }
    fn vjp(&self, _: &[Tensor], _: &[Tensor], cotangents: &[Tensor]) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(cotangents[0].clone())])
    }
}

/// What a flush had overwritten before it failed was read again by the next try.
#[test]
fn a_failed_flush_can_be_tried_again() -> Result<()> {
    for n in [3, 100_000] {
        let x = Tensor::ones(n, cpu());
        x.eval()?;
        let y = &x + 1.0;
        drop(x);
        let z = custom(FailsOnce(AtomicBool::new(false)), &[&y])?.remove(0) * 1.0;
        drop(y);
        assert!(z.to_vec::<f32>().is_err());
        assert_eq!(z.to_vec::<f32>()?, vec![2.0; n]);
    }
    let (w, v) = (Param::new(vector(&[1.5, 2.5])), Param::new(vector(&[1.0, 1.0])));
    fornax::eval(&[&w.value(), &v.value()])?;
    w.update(|t| t.try_mul(2.0))?;
    let double = w.value();
    v.update(|_| Ok(custom(FailsOnce(AtomicBool::new(false)), &[&double])?.remove(0)))?;
    drop(double);
    assert!(fornax::eval(&[&w.value(), &v.value()]).is_err());
    assert_eq!(w.value().to_vec::<f32>()?, [3.0, 5.0]);
    assert_eq!(v.value().to_vec::<f32>()?, [3.0, 5.0]);
    Ok(())
}

/// A chain of steps on the host needed a stack as deep as it is long.
#[cfg(feature = "linalg")]
#[test]
fn a_long_chain_of_host_steps_runs() -> Result<()> {
    let run = || -> Result<Vec<f32>> {
        let mut y = Tensor::eye(2, cpu()) * 2.0;
        for _ in 0..2000 {
            y = y.inverse() * 1.0;
        }
        y.to_vec()
    };
    let thread = std::thread::Builder::new().stack_size(512 << 10).spawn(run).unwrap();
    assert_eq!(thread.join().unwrap()?, [2.0, 0.0, 0.0, 2.0]);
    Ok(())
}

/// A host step that records (it reads a transposed view) while the window of pending nodes is full made cuts in cuts without end.
#[cfg(feature = "linalg")]
#[test]
fn a_host_step_in_a_full_window_runs() -> Result<()> {
    // A view of memory that is there: what a flush computes itself lies in rows, and reading that records nothing.
    let a = Tensor::from_slice(&[1.0f32, 0.5, 0.0, 2.0], [2, 2], cpu())?;
    let inverse = a.t().inverse();
    let moved = gpu().map(|d| a.t().to(d));
    let x = vector(&[1.0]);
    // More than the window holds, all of them alive.
    let held: Vec<Tensor> = (0..40_000).map(|i| &x + f64::from(i)).collect();
    assert_eq!(inverse.to_vec::<f32>()?, [1.0, 0.0, -0.25, 0.5]);
    if let Some(moved) = moved {
        assert_eq!(moved.to_vec::<f32>()?, [1.0, 0.0, 0.5, 2.0]);
    }
    assert_eq!(held[39_999].item::<f32>()?, 40_000.0);
    Ok(())
}

/// The second derivative of a product took what is 0 for a constant.
#[test]
fn the_second_derivative_of_a_product_with_zeros() -> Result<()> {
    let second = |x: &[f32]| -> Result<Vec<f32>> {
        let x = vector(x).requires_grad();
        let g = grad(&[&x.prod(())], &[&x])?[0].clone().expect("a gradient");
        grad(&[&g.sum(())], &[&x])?[0].clone().expect("a gradient").to_vec()
    };
    assert_eq!(second(&[2.0, 0.0, 3.0, 1.5])?, [4.5, 3.0 * 1.5 + 2.0 * 1.5 + 2.0 * 3.0, 2.0 * 1.5, 2.0 * 3.0]);
    assert_eq!(second(&[2.0, 0.0, 0.0])?, [0.0, 2.0, 2.0]);
    let x = Tensor::from_slice(&[2.0f64, 0.0, 3.0, 1.5, 0.0, 0.0], [2, 3], cpu())?;
    for axes in [vec![0isize], vec![1], vec![0, 1]] {
        check_second_gradients(move |x| x[0].try_prod(axes.clone())?.try_sum(()), &[&x], GradCheck::default())?;
    }
    Ok(())
}

/// ∞ · 0 in the gradient of eigenvalues that are equal; no inverse in that of a determinant that is 0.
#[cfg(feature = "linalg")]
#[test]
fn gradients_of_degenerate_matrices() -> Result<()> {
    let a = Tensor::eye(3, cpu()).requires_grad();
    let grads = a.eigh().0.sum(()).backward()?;
    close(grads.get(&a).expect("a gradient"), &Tensor::eye(3, cpu()));
    let a = vector(&[1.0, 2.0, 2.0, 4.0]).reshape([2, 2]).requires_grad();
    let grads = a.det().backward()?;
    close(grads.get(&a).expect("a gradient"), &vector(&[4.0, -2.0, -2.0, 1.0]).reshape([2, 2]));
    Ok(())
}

/// One of two updates at the same time was lost.
#[test]
fn no_update_is_lost() -> Result<()> {
    let w = Param::new(Tensor::zeros(1, cpu()));
    let done = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                for _ in 0..200 {
                    if w.update(|v| v.try_add(1.0)).is_ok() {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(w.value().item::<f32>()?, done.load(Ordering::Relaxed) as f32);
    let inner = w.clone();
    assert!(matches!(w.update(|v| inner.update(|v| v.try_add(1.0)).and_then(|()| v.try_add(1.0))), Err(Error::Argument { .. })));
    Ok(())
}

//! Bugs that were found by people who tried to break it: each failed before it was mended.

use crate::graphs::After;
use crate::harness::{gpu, isolated};
use fornax::nn::Param;
use fornax::{Attention, DType, Device, Error, GradCheck, Result, Tensor, check_second_gradients, checkpoint, custom, grad};
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
fn fails_once(x: &Tensor) -> Result<Tensor> {
    let failed = AtomicBool::new(false);
    let fail = move || match failed.swap(true, Ordering::Relaxed) {
        true => Ok(()),
        false => Err(Error::Kernel { op: "fails_once".into(), message: "the first time".into() }),
    };
    Ok(custom(After("fails_once", fail), &[x])?.remove(0))
}

/// What a flush had overwritten before it failed was read again by the next try.
#[test]
fn a_failed_flush_can_be_tried_again() -> Result<()> {
    for n in [3, 100_000] {
        let x = Tensor::ones(n, cpu());
        x.eval()?;
        let y = &x + 1.0;
        drop(x);
        let z = fails_once(&y)? * 1.0;
        drop(y);
        assert!(z.to_vec::<f32>().is_err());
        assert_eq!(z.to_vec::<f32>()?, vec![2.0; n]);
    }
    let (w, v) = (Param::new(vector(&[1.5, 2.5])), Param::new(vector(&[1.0, 1.0])));
    fornax::eval(&[&w.value(), &v.value()])?;
    w.update(|t| t.try_mul(2.0))?;
    let double = w.value();
    v.update(|_| fails_once(&double))?;
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

/// The determinant of a singular matrix was NaN where a column stood behind the first pivot of 0, and had no gradient.
#[cfg(feature = "linalg")]
#[test]
fn determinants_of_singular_matrices() -> Result<()> {
    let det = |v: &[f64]| {
        let n = v.len().isqrt();
        let x = Tensor::from_slice(v, [n, n], cpu())?.requires_grad();
        let y = x.try_det()?;
        let g = grad(&[&y], &[&x])?[0].clone().unwrap();
        Ok::<_, Error>((y.item::<f64>()?, g.to_vec::<f64>()?))
    };
    let singular: [&[f64]; 5] =
        [&[0.0; 4], &[0.0, 0.0, 0.0, 1.0], &[0.0, 1.0, 0.0, 2.0], &[2.0, 4.0, 1.0, 1.0, 2.0, 0.0, 4.0, 8.0, 3.0], &[0.0; 64 * 64]];
    for v in singular {
        assert_eq!(det(v)?.0, 0.0, "{:?}", &v[..4]);
    }
    assert_eq!(det(&[0.0, 0.0, 0.0, 1.0])?.1, [1.0, 0.0, 0.0, 0.0]);
    // By cofactors: of [2, 4, 1; 1, 2, 0; 4, 8, 3].
    let want = [6.0, -3.0, 0.0, -4.0, 2.0, 0.0, -2.0, 1.0, 0.0];
    let got = det(singular[3])?.1;
    assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-12), "{got:?}");
    // The rows' order counts: a swap, a cycle of three, two swaps.
    assert_eq!(det(&[0.0, 2.0, 3.0, 0.0])?.0, -6.0);
    assert_eq!(det(&[0.0, 2.0, 0.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0])?.0, 24.0);
    assert_eq!(det(&[0.0, 2.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 5.0, 0.0])?.0, 120.0);
    assert!(Tensor::from_slice(&[0.0, f64::NAN, 0.0, 1.0], [2, 2], cpu())?.try_det()?.item::<f64>()?.is_nan());
    Ok(())
}

/// A cut left long chains of pointwise ops as recipes, which every later cut computed again: the work grew with the square of the length.
#[test]
fn long_chains_of_second_derivatives_stay_linear() {
    isolated("regressions::long_chains");
}

#[test]
#[ignore = "runs in a process of its own"]
fn long_chains() -> Result<()> {
    let dispatches = |n: usize| -> Result<u64> {
        let before = fornax::stats();
        let x = Tensor::scalar(0.5f64, cpu())?.requires_grad();
        let mut y = x.clone();
        for _ in 0..n {
            y = y.try_mul(1.000_01)?.try_sin()?;
        }
        let g = grad(&[&y], &[&x])?[0].clone().unwrap();
        let h = grad(&[&g], &[&x])?[0].clone().unwrap();
        assert!(h.item::<f64>()?.is_finite());
        Ok(fornax::stats().since(&before).dispatches)
    };
    let (short, long) = (dispatches(4000)?, dispatches(16_000)?);
    assert!(long < 6 * short, "{short} dispatches for 4,000 steps, {long} for 16,000");
    Ok(())
}

/// Saving to a link replaced the link, and saving to a device the device.
#[cfg(unix)]
#[test]
fn a_save_replaces_files_alone() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("real.safetensors"), folder.path().join("link.safetensors"));
    std::fs::write(&file, "old").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    fornax::io::safetensors::save(&link, &fornax::io::StateDict::from([("x".to_string(), vector(&[1.0]))]))?;
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(fornax::io::safetensors::load(&file)?["x"].to_vec::<f32>()?, [1.0]);
    let socket = folder.path().join("socket");
    let _listens = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for path in [socket.as_path(), folder.path()] {
        let saved = fornax::io::safetensors::save(path, &fornax::io::StateDict::new());
        assert!(saved.unwrap_err().to_string().contains("no file"), "{}", path.display());
    }
    assert!(!socket.metadata().unwrap().is_file());
    fornax::io::npy::save(&link, &vector(&[2.0]))?;
    assert!(link.symlink_metadata().unwrap().is_symlink() && std::fs::read(&file).unwrap().starts_with(b"\x93NUMPY"));
    Ok(())
}

/// Counted in f64, whole numbers from 2^53 on were all alike; and 1 is no part of [0, 1) in half precision either.
#[test]
fn ranges_are_exact() -> Result<()> {
    let far = 1i64 << 60;
    let arange = |a: i64, b: i64, s: i64| Tensor::try_arange(a, b, s, (DType::I64, cpu()))?.to_vec::<i64>();
    assert_eq!(arange(far, far + 3, 1)?, [far, far + 1, far + 2]);
    assert_eq!(arange(5, 0, -2)?, [5, 3, 1]);
    assert_eq!((arange(0, 7, 3)?, arange(0, 6, 3)?, arange(3, 3, 1)?, arange(3, 0, 1)?), (vec![0, 3, 6], vec![0, 3], vec![], vec![]));
    for dtype in [DType::F16, DType::BF16] {
        let u = Tensor::uniform(100_000, 0.0, 1.0, (dtype, cpu())).to_vec::<f32>()?;
        let largest = u.iter().copied().fold(0.0, f32::max);
        assert!(largest < 1.0 && largest > 0.98 && u.contains(&0.0), "{dtype}: {largest}");
    }
    Ok(())
}

/// One image without a batch axis, as PyTorch takes it; and errors show the shapes that were given.
#[test]
fn convolutions_of_one_image() -> Result<()> {
    use fornax::{ConvOptions, ConvOptions1d};
    let (x, w, b) =
        (Tensor::uniform([3, 7, 6], -1.0, 1.0, cpu()), Tensor::uniform([4, 3, 3, 3], -1.0, 1.0, cpu()), vector(&[1.0, 2.0, 3.0, 4.0]));
    let options = ConvOptions { padding: 1.into(), ..ConvOptions::default() };
    let one = x.try_conv2d(&w, Some(&b), options)?;
    assert_eq!(one.dims(), [4, 7, 6]);
    close(&one, &x.try_unsqueeze(0)?.try_conv2d(&w, Some(&b), options)?.try_squeeze(0)?);
    let back = one.try_conv_transpose2d(&w, None, options, 0)?;
    close(&back, &one.try_unsqueeze(0)?.try_conv_transpose2d(&w, None, options, 0)?.try_squeeze(0)?);
    let (x, w) = (Tensor::uniform([3, 7], -1.0, 1.0, cpu()), Tensor::uniform([4, 3, 3], -1.0, 1.0, cpu()));
    let line = x.try_conv1d(&w, Some(&b), ConvOptions1d::default())?;
    close(&line, &x.try_unsqueeze(0)?.try_conv1d(&w, Some(&b), ConvOptions1d::default())?.try_squeeze(0)?);
    assert_eq!(line.try_conv_transpose1d(&w, None, ConvOptions1d::default(), 0)?.dims(), [3, 7]);
    let bad = Tensor::zeros([1, 2, 5], cpu()).try_conv1d(&w, None, ConvOptions1d::default()).unwrap_err().to_string();
    assert!(bad.contains("[1, 2, 5]") && bad.starts_with("conv1d"), "{bad}");
    Ok(())
}

/// Mistakes that went through, or whose error said something else.
#[test]
fn mistakes_are_told_of() -> Result<()> {
    use fornax::data::{DataLoader, TensorDataset};
    use fornax::optim::{Adam, ClipNorm, Optimizer};
    let says = |result: Result<()>, what: &str| {
        let e = result.expect_err(what).to_string();
        assert!(e.contains(what), "{e}");
    };
    let set = TensorDataset::new([vector(&[1.0, 2.0])])?;
    says(DataLoader::new(&set, 0).iter().next().unwrap().map(drop), "batch_size = 0");
    let gradients = || vector(&[1.0]).requires_grad().square().sum(()).backward();
    says(gradients()?.clip(&ClipNorm { max_norm: -1.0, ..Default::default() }).map(drop), "max_norm = -1");
    says(gradients()?.clip_value(-1.0), "clip_value = -1");
    says(Tensor::zeros(2, (DType::I32, cpu())).try_requires_grad().map(drop), "requires_grad");
    says(vector(&[1.0, 2.0]).try_linear(&Tensor::zeros([4, 3], cpu()), None).map(drop), "[.., 3]");
    let x = Tensor::zeros([2, 3], cpu());
    says(x.try_batch_norm(&vector(&[0.0; 4]), &vector(&[0.0; 3]), None, None, 1e-5).map(drop), "the running mean is [3]");
    assert_eq!(format!("{:?}", x.try_reshape(7).unwrap_err()), x.try_reshape(7).unwrap_err().to_string(), "what main prints");
    let Some(gpu) = gpu() else { return Ok(()) };
    let w = Param::new(vector(&[1.0]));
    let mut adam = Adam::new([w.clone()], 0.1);
    adam.step(w.get().square().sum(()).backward()?)?;
    w.replace(w.value().to(gpu));
    says(adam.step(w.get().square().sum(()).backward()?), "state_dict()");
    let state = adam.state_dict()?;
    adam.load_state_dict(&state)?;
    adam.step(w.get().square().sum(()).backward()?)
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

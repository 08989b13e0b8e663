//! The graph itself: depth, width, memory, errors, threads.

use crate::harness::gpu;
use fornax::nn::Param;
use fornax::{CustomInputs, CustomOp, CustomOutputs, DType, Device, Error, Result, Shape, Tensor, checkpoint, custom, grad, stats};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const CPU: Device = Device::cpu();

#[test]
fn deep_chains_build_run_and_drop() {
    let n = 100_000;
    let start = Instant::now();
    let x = Tensor::zeros([3], CPU);
    let mut y = x.clone();
    for i in 0..n {
        y = if i % 2 == 0 { y + 1.0 } else { y * 1.0 };
    }
    assert_eq!(y.to_vec::<f32>().unwrap(), [n as f32 / 2.0; 3]);
    // Built and never run.
    let mut y = x.clone();
    for _ in 0..n {
        y += 1.0;
    }
    drop(y);
    println!("{:?}", start.elapsed());
}

#[test]
fn deep_chains_have_gradients() {
    let n = 100_000;
    let x = Tensor::ones([2], CPU).requires_grad();
    let mut y = &x * 1.0;
    for i in 0..n {
        y = if i % 2 == 0 { y + 0.5 } else { -y };
    }
    let g = y.sum(()).backward().unwrap();
    assert_eq!(g.get(&x).unwrap().to_vec::<f32>().unwrap(), [1.0, 1.0]);
}

#[test]
fn shared_nodes_are_visited_once() {
    // 2^60 paths, 60 nodes.
    let x = Tensor::from_vec(vec![1f64], 1, CPU).unwrap().requires_grad();
    let mut y = x.clone();
    for _ in 0..60 {
        y = &y + &y;
    }
    let g = grad(&[&y.sum(())], &[&x]).unwrap().remove(0).unwrap();
    assert_eq!(g.item::<f64>().unwrap(), (1u64 << 60) as f64);
    assert_eq!(y.item::<f64>().unwrap(), (1u64 << 60) as f64);
}

#[test]
fn wide_graphs() {
    let parts: Vec<Tensor> = (0..3000).map(|i| Tensor::full([4], i as f32, CPU)).collect();
    let sum = parts.iter().fold(Tensor::zeros([4], CPU), |s, p| s + p);
    assert_eq!(sum.to_vec::<f32>().unwrap(), [(2999 * 3000 / 2) as f32; 4]);
    let all = Tensor::stack(&parts.iter().collect::<Vec<_>>(), 0);
    assert_eq!(all.sum(0).to_vec::<f32>().unwrap(), [(2999 * 3000 / 2) as f32; 4]);
}

#[test]
fn many_slices_of_one_tensor_share_a_gradient() {
    let t = 1000;
    let x = Tensor::ones([t, 64], CPU).requires_grad();
    let mut sum = Tensor::zeros([64], CPU);
    for i in 0..t as isize {
        sum += x.select(0, i) * i as f32;
    }
    let g = sum.sum(()).backward().unwrap();
    let g = g.get(&x).unwrap().to_vec::<f32>().unwrap();
    assert!(g.chunks(64).enumerate().all(|(i, row)| row.iter().all(|&v| v == i as f32)));
}

#[test]
fn reading_before_backward_changes_nothing() {
    let run = |read: bool| {
        let w = Tensor::from_vec(vec![0.5f32, -1.0, 2.0], 3, CPU).unwrap().requires_grad();
        let h = (&w * 3.0).tanh();
        let loss = (&h * &h).sum(());
        if read {
            loss.item::<f32>().unwrap();
            h.to_vec::<f32>().unwrap();
        }
        loss.backward().unwrap().get(&w).unwrap().to_vec::<f32>().unwrap()
    };
    assert_eq!(run(false), run(true));
}

#[test]
fn a_graph_is_spent_once() {
    let w = Tensor::ones(3, CPU).requires_grad();
    let loss = (&w * &w).sum(());
    let a = loss.backward_retain().unwrap();
    let b = loss.backward().unwrap();
    assert_eq!(a.get(&w).unwrap().to_vec::<f32>().unwrap(), b.get(&w).unwrap().to_vec::<f32>().unwrap());
    assert!(matches!(loss.backward(), Err(Error::Spent)));
}

#[test]
fn no_gradient_is_lost_in_silence() {
    let x = Tensor::ones(3, CPU);
    assert!(x.sum(()).backward().is_err(), "nothing asked for a gradient");
    assert!(grad(&[&x.sum(())], &[&x]).is_err());
    let w = x.requires_grad();
    assert!((&w * 2.0).backward().is_err(), "not a scalar");
    assert!(fornax::no_grad(|| (&w * 2.0).sum(())).backward().is_err());
    assert!(w.detach().sum(()).backward().is_err());
}

#[test]
fn threads_share_pending_tensors() {
    let base = Tensor::from_vec((0..5000).map(|i| i as f32 * 1e-3).collect(), 5000, CPU).unwrap();
    let shared: Vec<Tensor> = (0..20).map(|i| (&base * (i as f32 + 1.0)).sin() + &base).collect();
    let expected: Vec<f32> = (0..20).map(|i| ((&base * (i as f32 + 1.0)).sin() + &base).sum(()).item::<f32>().unwrap()).collect();
    std::thread::scope(|s| {
        for k in 0..8usize {
            let (shared, expected) = (&shared, &expected);
            s.spawn(move || {
                for j in 0..40 {
                    let i = (j * (2 * k + 1) + k) % 20;
                    let mine = if j % 3 == 0 { &shared[i] + 0.0 } else { shared[i].clone() };
                    assert_eq!(mine.sum(()).item::<f32>().unwrap(), expected[i]);
                }
            });
        }
    });
}

/// Gradient descent on a small network, its memory and plans. Alone in its process's time only by its own margin: other tests run beside
/// it, so the figures are taken from many steps.
#[test]
fn training_loops_reuse_their_plan() {
    let n = 64;
    let x = Tensor::normal([n, 8], 0.0, 1.0, CPU);
    let target = x.sum_keepdim(1).tanh();
    let mut w1 = Tensor::normal([8, 16], 0.0, 0.3, CPU);
    let mut w2 = Tensor::normal([16, 1], 0.0, 0.3, CPU);
    let mut losses = Vec::new();
    for _ in 0..60 {
        let (a, b) = (w1.requires_grad(), w2.requires_grad());
        let loss = (x.matmul(&a).tanh().matmul(&b) - &target).square().mean(());
        let g = loss.backward().unwrap();
        w1 = (&w1 - g.get(&a).unwrap() * 0.1).detach();
        w2 = (&w2 - g.get(&b).unwrap() * 0.1).detach();
        fornax::eval(&[&w1, &w2]).unwrap();
        losses.push(loss.item::<f32>().unwrap());
    }
    assert!(losses[59] < 0.5 * losses[0], "{losses:?}");
}

#[test]
fn recurrent_loops_without_reads_stay_bounded() {
    // Far more nodes than the bound on pending ones, and no read inside the loop.
    let mut x = Tensor::zeros([1000], CPU);
    for _ in 0..50_000 {
        x = &x * 0.5 + 1.0;
    }
    assert!((x.to_vec::<f32>().unwrap()[0] - 2.0).abs() < 1e-5);
    let _ = stats();
}

#[test]
fn a_view_of_a_product_survives_its_tail() {
    let x = Tensor::ones([2, 3], CPU);
    let y = x.matmul(&Tensor::ones([3, 2], CPU));
    let view = y.reshape(4);
    let tail = &y + 1.0;
    drop(y);
    tail.eval().unwrap();
    assert_eq!(view.to_vec::<f32>().unwrap(), [3.0; 4]);
    assert_eq!(tail.to_vec::<f32>().unwrap(), [4.0; 4]);
}

#[test]
fn an_aliased_leaf_and_its_gradient_share_a_kernel() {
    let w = Tensor::ones(3, CPU).requires_grad();
    let g = (&w * &w).sum(()).backward().unwrap();
    assert_eq!(g.get(&w).unwrap().to_vec::<f32>().unwrap(), [2.0; 3]);
}

#[test]
fn products_of_nothing() {
    let y = Tensor::ones([3, 0], CPU).matmul(&Tensor::ones([0, 2], CPU)) * 2.0 + 1.0;
    assert_eq!(y.to_vec::<f32>().unwrap(), [1.0; 6]);
    let empty = Tensor::ones([0, 2], CPU) * 2.0;
    assert_eq!(Tensor::cat(&[&empty, &Tensor::ones([1, 2], CPU)], 0).to_vec::<f32>().unwrap(), [1.0; 2]);
}

#[test]
fn tensors_travel_between_devices() {
    let Some(device) = gpu() else { return };
    for dtype in [DType::Bool, DType::U8, DType::I32, DType::U32, DType::F16, DType::BF16, DType::F32] {
        for n in [0, 1, 5, 1031] {
            let x = Tensor::arange(0, n, 1, (DType::F32, CPU)).clamp(0, 200).cast(dtype);
            let there = x.to(device);
            assert_eq!((there.device(), there.dtype()), (device, dtype));
            let want = x.to_vec::<f32>().unwrap();
            assert_eq!(there.to_vec::<f32>().unwrap(), want, "{dtype} {n}");
            assert_eq!(there.to(CPU).to_vec::<f32>().unwrap(), want, "{dtype} {n}");
        }
    }
    assert!(Tensor::ones(3, (DType::F64, CPU)).try_to(device).is_err());
    // Views travel as what they show, and gradients travel back.
    let x = Tensor::arange(0, 12, 1, CPU).reshape([3, 4]).requires_grad();
    let y = x.t().slice(0, 1, 3, 1).to(device);
    assert_eq!(y.to_vec::<f32>().unwrap(), [1.0, 5.0, 9.0, 2.0, 6.0, 10.0]);
    let g = (&y * &y).sum(()).to(CPU).backward().unwrap();
    let g = g.get(&x).unwrap();
    assert_eq!(g.device(), CPU);
    assert_eq!(g.to_vec::<f32>().unwrap(), [0., 2., 4., 0., 0., 10., 12., 0., 0., 18., 20., 0.]);
    assert!(x.try_add(y.t()).is_err(), "two devices in one op");
}

#[test]
fn a_part_of_larger_memory_is_not_overwritten_in_place() {
    let base = Tensor::arange(0, 24, 1, CPU).reshape([4, 6]);
    base.eval().unwrap();
    let part = base.narrow(0, 1, 3);
    part.eval().unwrap();
    drop(base);
    let y = part + 100.0;
    assert_eq!(y.to_vec::<f32>().unwrap(), (6..24).map(|i| i as f32 + 100.0).collect::<Vec<_>>());
}

#[test]
fn positions_are_constants() {
    let x = Tensor::from_vec(vec![3.0f32, 1.0, 2.0], 3, CPU).unwrap().requires_grad();
    for (values, places) in [x.sort(0, false), x.cummax(0), x.topk(3, 0, true)] {
        assert!(!places.is_differentiable() && !places.cast(DType::F32).is_differentiable());
        // What is computed from them takes no gradient back; the values beside them do.
        let loss = (places.cast(DType::F32) * &values).sum(());
        assert!(loss.backward_retain().unwrap().get(&x).is_some());
        assert!(places.cast(DType::F32).sum(()).backward().is_err());
    }
}

#[test]
fn checkpointed_gradients_are_the_same() {
    for device in [Some(CPU), gpu()].into_iter().flatten() {
        let run = |save: bool| -> Result<Vec<Vec<f32>>> {
            let _seed = fornax::testing::seed(5);
            let x = Tensor::normal([4, 6], 0.0, 1.0, device).requires_grad();
            let w = Param::new(Tensor::normal([6, 6], 0.0, 0.5, device));
            let mut h = x.clone();
            for _ in 0..3 {
                let w = w.clone();
                let block = move |t: &[Tensor]| t[0].try_matmul(&w.get())?.try_gelu();
                h = if save { checkpoint(&[&h], block)? } else { block(&[h])? };
            }
            let loss = h.try_square()?.try_sum(())?;
            let grads = loss.backward_retain()?;
            let second = grad(&[&loss], &[&x])?[0].clone().unwrap().try_square()?.try_sum(())?;
            let second = grad(&[&second], &[&x])?[0].clone().unwrap();
            [&loss, grads.get(&x).unwrap(), w.grad(&grads).unwrap(), &second].iter().map(|t| t.to_vec()).collect()
        };
        let (plain, saved) = (run(false).unwrap(), run(true).unwrap());
        for (k, (p, s)) in plain.iter().flatten().zip(saved.iter().flatten()).enumerate() {
            assert!((p - s).abs() <= 1e-5 * (1.0 + p.abs()), "{device}: {k}: {p} and {s}");
        }
        assert!(plain[2].iter().any(|g| g.abs() > 0.1));
    }
}

/// Passes its input on, after something else.
pub struct After<F>(pub &'static str, pub F);

impl<F> std::fmt::Debug for After<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl<F: Fn() -> Result<()> + Send + Sync + 'static> CustomOp for After<F> {
    fn name(&self) -> &'static str {
        self.0
    }
    fn infer(&self, inputs: &[(Shape, DType)]) -> Result<Vec<(Shape, DType)>> {
        Ok(vec![inputs[0].clone()])
    }
    fn cpu(&self, inputs: &CustomInputs, outputs: &mut CustomOutputs) -> Result<()> {
        (self.1)()?;
        outputs.get::<f32>(0)?.copy_from_slice(inputs.get::<f32>(0)?);
        Ok(())
    }
    fn vjp(&self, _: &[Tensor], _: &[Tensor], cotangents: &[Tensor]) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(cotangents[0].clone())])
    }
}

/// A flush on one device does not wait for a flush on another: here the CPU's cannot end before the GPU's has.
#[test]
fn devices_do_not_wait_for_each_other() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let (done, word) = channel();
    let word: Mutex<Receiver<()>> = Mutex::new(word);
    let wait = move || {
        let word = word.lock().unwrap().recv_timeout(Duration::from_secs(120));
        word.map_err(|e| Error::Kernel { op: "waits".into(), message: e.to_string() })
    };
    let y = custom(After("waits", wait), &[&Tensor::ones(3, Device::cpu())])?.remove(0) * 2.0;
    let other = std::thread::spawn(move || {
        let sum = (Tensor::ones([7, 5], gpu) * 3.0).sum(()).item::<f32>();
        done.send(()).map(|()| sum)
    });
    assert_eq!(y.to_vec::<f32>()?, [2.0; 3]);
    assert_eq!(other.join().unwrap().unwrap()?, 105.0);
    Ok(())
}

//! Flushing, planning, donation: what runs, how often, and what stays in memory.

use crate::graph::flush::flush_owned;
use crate::stats::thread_stats as stats;
use crate::{Device, Error, Result, Tensor, no_grad};

fn vector(n: usize) -> Tensor {
    Tensor::from_vec((0..n).map(|i| i as f32 * 0.25 - 1.0).collect(), n, Device::cpu()).unwrap()
}

#[test]
#[ignore = "runs in a process of its own"]
fn a_chain_is_one_kernel() -> Result<()> {
    let x = vector(1000);
    let before = stats();
    let mut y = x.clone();
    for i in 0..10 {
        y = y.try_mul(1.01)?.try_add(i as f32)?;
    }
    let got = y.to_vec::<f32>()?;
    let s = stats().since(&before);
    assert_eq!(s.dispatches, 1);
    assert_eq!(s.bytes_allocated, 4000);
    let mut want = -1.0f32;
    for i in 0..10 {
        want = want * 1.01 + i as f32;
    }
    assert_eq!(got[0], want);
    Ok(())
}

#[test]
#[ignore = "runs in a process of its own"]
fn plans_are_found_again_and_scalars_are_not_in_them() -> Result<()> {
    let x = vector(64);
    let step = |a: f32| x.try_mul(a)?.try_add(a)?.try_sum(())?.item::<f32>();
    step(1.0)?;
    let before = stats();
    assert_eq!(step(2.0)?, x.to_vec::<f32>()?.iter().map(|v| v * 2.0 + 2.0).sum::<f32>());
    let s = stats().since(&before);
    assert_eq!((s.plan_hits, s.plan_misses), (1, 0));
    Ok(())
}

#[test]
#[ignore = "runs in a process of its own"]
fn slices_at_other_places_share_a_plan() -> Result<()> {
    let x = vector(640);
    let step = |i: usize| x.try_narrow(0, i * 64, 64)?.try_mul(2.0)?.to_vec::<f32>();
    step(0)?;
    step(1)?;
    let before = stats();
    let got = step(5)?;
    assert_eq!(stats().since(&before).plan_misses, 0);
    assert_eq!(got[..], x.to_vec::<f32>()?[320..384].iter().map(|v| v * 2.0).collect::<Vec<_>>()[..]);
    Ok(())
}

#[test]
#[ignore = "runs in a process of its own"]
fn owners_updates_run_in_place() -> Result<()> {
    let mut w = vector(1 << 12);
    let mut m = Tensor::try_zeros(1 << 12, Device::cpu())?;
    let mut last = None;
    for _ in 0..6 {
        let before = stats();
        let g = w.try_mul(0.1)?;
        let loss = w.try_mul(&w)?.try_sum(())?;
        let new_m = m.try_mul(0.9)?.try_add(&g)?;
        let new_w = w.try_sub(&new_m.try_mul(0.01)?)?;
        drop(g);
        w = new_w.clone();
        m = new_m.clone();
        let roots = [new_w, new_m];
        flush_owned(&roots)?;
        drop(roots);
        last = Some(stats().since(&before));
        assert!(loss.item::<f32>()? > 0.0);
    }
    let s = last.unwrap();
    assert_eq!((s.donations, s.donations_refused, s.plan_misses), (2, 0, 0), "{s:?}");
    assert_eq!(s.bytes_allocated, 4, "only the loss");
    Ok(())
}

#[test]
fn a_reader_forbids_overwriting() -> Result<()> {
    let w = vector(256);
    let recipe = w.try_mul(3.0)?;
    let keep = w.clone();
    let new = w.try_add(1.0)?;
    drop(w);
    flush_owned(std::slice::from_ref(&new))?;
    assert_eq!(keep.to_vec::<f32>()?[5], 0.25);
    assert_eq!(recipe.to_vec::<f32>()?[5], 0.75);
    assert_eq!(new.to_vec::<f32>()?[5], 1.25);
    Ok(())
}

#[test]
#[ignore = "runs in a process of its own"]
fn a_recipe_is_run_before_its_source_is_overwritten() -> Result<()> {
    let w = vector(256);
    w.eval()?;
    let recipe = w.try_mul(3.0)?;
    let new = w.try_add(1.0)?;
    drop(w);
    let before = stats();
    flush_owned(std::slice::from_ref(&new))?;
    let s = stats().since(&before);
    assert_eq!((s.donations, s.donations_refused), (1, 0), "{s:?}");
    assert_eq!(recipe.to_vec::<f32>()?[5], 0.75);
    assert_eq!(new.to_vec::<f32>()?[5], 1.25);
    Ok(())
}

#[test]
fn deep_chains_run_and_drop() -> Result<()> {
    let x = Tensor::try_ones(4, Device::cpu())?;
    let mut y = x.clone();
    for _ in 0..100_000 {
        y = y.try_add(1.0)?;
    }
    assert_eq!(y.item_at(0)?, 100_001.0);
    let mut z = x.requires_grad();
    let leaf = z.clone();
    for _ in 0..50_000 {
        z = z.try_mul(1.0)?;
    }
    let grads = z.try_sum(())?.backward()?;
    assert_eq!(grads.get(&leaf).unwrap().to_vec::<f32>()?, [1.0; 4]);
    Ok(())
}

#[test]
fn a_spent_graph_says_so() -> Result<()> {
    let x = vector(3).requires_grad();
    let y = x.try_mul(&x)?.try_sum(())?;
    y.backward_retain()?;
    y.backward()?;
    assert!(matches!(y.backward(), Err(Error::Spent)));
    assert!(no_grad(|| x.try_mul(2.0))?.try_sum(())?.backward().is_err());
    Ok(())
}

#[test]
fn reading_the_loss_first_changes_no_gradient() -> Result<()> {
    let run = |read: bool| -> Result<Vec<f32>> {
        let x = vector(30).requires_grad();
        let h = x.try_mul(&x)?.try_tanh()?;
        let loss = h.try_sum(())?.try_mul(h.try_mean(())?)?;
        if read {
            loss.item::<f32>()?;
        }
        loss.backward()?.get(&x).unwrap().to_vec::<f32>()
    };
    assert_eq!(run(false)?, run(true)?);
    Ok(())
}

#[test]
fn a_kernel_reads_its_own_outputs_from_registers_through_views() -> Result<()> {
    // Leaves made of pending values are kept, and both are views of outputs of the kernel that computes the product.
    let (x, z) = (vector(4).try_add(1.0)?.requires_grad(), vector(4).try_add(10.0)?.requires_grad());
    let y = x.try_mul(&z)?;
    assert_eq!(y.to_vec::<f32>()?, x.to_vec::<f32>()?.iter().zip(z.to_vec::<f32>()?).map(|(x, z)| x * z).collect::<Vec<_>>());
    // The same through a chain of views around an inlined value.
    let x = vector(4).try_add(1.0)?.requires_grad();
    let y = x.try_reshape([2, 2])?.try_mul(2.0)?.try_reshape(4)?.try_add(1.0)?;
    crate::eval(&[&x, &y])?;
    assert_eq!(y.to_vec::<f32>()?, x.to_vec::<f32>()?.iter().map(|x| x * 2.0 + 1.0).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn a_reduction_reads_what_a_product_has_finished() -> Result<()> {
    let (a, b) = (vector(64).try_reshape([8, 8])?, vector(8));
    let y = a.try_matmul(&a)?.try_add(&b)?;
    let top = y.try_argmax(1)?;
    crate::eval(&[&y, &top])?;
    let rows = y.to_vec::<f32>()?;
    let want: Vec<i32> = rows.chunks(8).map(|r| (0..8).rev().max_by(|&i, &j| r[i].total_cmp(&r[j])).unwrap() as i32).collect();
    assert_eq!(top.to_vec::<i32>()?, want);
    Ok(())
}

#[test]
#[ignore = "runs in a process of its own"]
fn what_a_loop_carries_along_does_not_pile_up() -> Result<()> {
    let mut w = vector(4096);
    let mut ema = Tensor::try_zeros(4096, Device::cpu())?;
    let mut recorded = Vec::new();
    for _ in 0..8 {
        let before = stats();
        let new = w.try_mul(0.9)?.try_add(0.1)?;
        w = new.clone();
        flush_owned(&[new])?;
        ema = ema.try_mul(0.9)?.try_add(w.detach().try_mul(0.1)?)?;
        recorded.push(stats().since(&before).plan_misses);
    }
    // The average of the step before runs with each update: the plans stay the same.
    assert_eq!(recorded[4..], [0; 4]);
    assert!(ema.to_vec::<f32>()?.iter().all(|v| v.is_finite()));
    Ok(())
}

#[test]
#[ignore = "runs in a process of its own"]
fn an_old_value_that_is_still_read_is_a_refusal() -> Result<()> {
    let w = vector(256);
    let keep = w.clone();
    let new = w.try_add(1.0)?;
    drop(w);
    let before = stats();
    flush_owned(std::slice::from_ref(&new))?;
    assert_eq!(stats().since(&before).donations_refused, 1);
    drop(new);
    // Read by a later step of the same plan: the owner's new value comes first, so it cannot have the old one's memory.
    let w = keep;
    let new = w.try_mul(2.0)?;
    let top = w.try_argmax(0)?;
    drop(w);
    let before = stats();
    flush_owned(std::slice::from_ref(&new))?;
    assert_eq!(stats().since(&before).donations_refused, 1);
    assert_eq!(top.item::<i32>()?, 255);
    Ok(())
}

#[test]
#[ignore = "runs in a process of its own"]
fn a_gradient_that_is_pointwise_in_the_parameter_does_not_refuse_its_update() -> Result<()> {
    use crate::optim::{AdamW, Optimizer};
    // The gradient joins the update's kernel and reads the parameter there under a second name, the alias that it was recorded on.
    let w = crate::nn::Param::new(vector(512));
    let mut optimizer = AdamW::new([w.clone()], 0.1);
    for step in 0..5 {
        let before = stats();
        let loss = w.get().try_square()?.try_sum(())?;
        optimizer.step(loss.backward()?)?;
        let s = stats().since(&before);
        assert_eq!(s.donations_refused, 0, "step {step}");
        assert!(step < 1 || s.donations == 3, "step {step}: {s:?}");
    }
    Ok(())
}

#[test]
#[ignore = "runs in a process of its own"]
fn momentum_is_updated_in_place_from_the_start() -> Result<()> {
    use crate::optim::{Optimizer, SGD};
    // The gradient comes from a product, as a layer's does.
    let x = vector(64).try_mul(0.01)?.try_reshape([2, 32])?;
    let w = crate::nn::Param::new(vector(512).try_reshape([32, 16])?);
    let mut optimizer = SGD::new([w.clone()], 0.1).momentum(0.9);
    for step in 0..5 {
        let before = stats();
        let loss = x.try_matmul(&w.get())?.try_square()?.try_sum(())?;
        optimizer.step(loss.backward()?)?;
        let s = stats().since(&before);
        assert_eq!(s.donations_refused, 0, "step {step}");
        assert!(step < 2 || s.plan_misses == 0, "step {step}");
    }
    Ok(())
}

#[test]
fn checkpoints_draw_the_same_numbers_again_and_have_gradients_of_any_order() -> Result<()> {
    let x = vector(64).requires_grad();
    let y = crate::checkpoint(&[&x], |x| x[0].try_mul(&Tensor::try_bernoulli(64, 0.5, Device::cpu())?))?;
    let kept: Vec<f32> = y.to_vec::<f32>()?.iter().zip(x.to_vec::<f32>()?).map(|(y, x)| (*y == x) as u8 as f32).collect();
    let slopes = y.try_sum(())?.backward()?.get(&x).unwrap().to_vec::<f32>()?;
    assert!(slopes.iter().zip(&kept).zip(&x.to_vec::<f32>()?).all(|((s, k), x)| s == k || *x == 0.0));
    let x = Tensor::from_vec(vec![0.3f64, 1.1], 2, Device::cpu())?.requires_grad();
    let y = crate::checkpoint(&[&x], |x| x[0].try_sin()?.try_square())?;
    let first = crate::grad(&[&y.try_sum(())?], &[&x])?[0].clone().unwrap();
    let second = crate::grad(&[&first.try_sum(())?], &[&x])?[0].clone().unwrap().to_vec::<f64>()?;
    assert!(second.iter().zip([0.3f64, 1.1]).all(|(s, x)| (s - 2.0 * (2.0 * x).cos()).abs() < 1e-12), "{second:?}");
    Ok(())
}

impl Tensor {
    fn item_at(&self, i: usize) -> Result<f32> {
        Ok(self.to_vec::<f32>()?[i])
    }
}

#[test]
fn tensors_can_be_evaluated_in_a_users_thread_pool() -> Result<()> {
    use rayon::prelude::*;
    let sums: Vec<f32> = (0..64)
        .into_par_iter()
        .map(|i| Tensor::try_full(1 << 17, i as f64, Device::cpu())?.try_mul(2.0)?.try_exp()?.try_log()?.try_mean(())?.item::<f32>())
        .collect::<Result<_>>()?;
    sums.iter().enumerate().for_each(|(i, s)| assert!((s - 2.0 * i as f32).abs() <= 1e-4 * (1.0 + *s) || i > 43, "{i}: {s}"));
    Ok(())
}

/// Which plans the cache still holds, and what a flush computes beside, depends on whatever else runs in the process.
#[test]
fn what_is_counted_is_counted_in_a_process_of_its_own() {
    let exe = std::env::current_exe().unwrap();
    let out = std::process::Command::new(exe).args(["graph::tests::", "--ignored", "--test-threads=1"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && text.contains("test result: ok. 9 passed"), "{text}");
}

//! What exceeds a GPU's limits: buffers past the largest binding, and dispatches that are too long for a watchdog.

use crate::harness::*;
use crate::{ops_fused, ops_images, ops_movement, ops_products, ops_quantised, ops_reduce, ops_views};
use fornax::testing::with_gpu_limits;
use fornax::{Device, Result, Tensor};

/// No limit on the work.
const WORK: u64 = u64::MAX;

/// All cases of some families under bindings of a few elements; at least so many kernels must have run in parts.
fn family(cases: Vec<Case>, at_least: usize) {
    let mut report = Report::default();
    let (n, mut parts) = (cases.len(), 0);
    for case in &cases {
        match check_limited(&mut report, case) {
            Ok(p) => parts += p,
            Err(e) => report.failures.push(format!("{}: {e}", case.name)),
        }
    }
    println!("{n} cases, {parts} kernels in parts");
    report.finish(&[("gpu, small bindings", n / 2)]);
    assert!(gpu().is_none() || parts >= at_least, "{parts} kernels ran in parts, at least {at_least} were expected");
}

#[test]
fn movement_in_parts() {
    family(ops_movement::cases(), 20);
}

#[test]
fn views_in_parts() {
    family(ops_views::cases(), 0);
}

#[test]
fn reductions_and_scans_in_parts() {
    family(ops_reduce::cases(), 0);
    family(ops_reduce::scans(), 5);
}

#[test]
fn products_in_parts() {
    family(ops_products::products(), 10);
    family(ops_products::convolutions(), 10);
}

#[test]
fn quantised_products_in_parts() {
    family(ops_quantised::cases(), 10);
}

#[test]
fn fused_ops_in_parts() {
    family(ops_fused::cases(), 10);
}

#[test]
fn images_in_parts() {
    family(ops_images::pools(), 5);
    family(ops_images::patches(), 5);
}

fn ramp(shape: &[usize], device: Device) -> Result<Tensor> {
    let n: usize = shape.iter().product();
    let v: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect();
    Tensor::from_vec(v, shape, device)
}

fn near(a: &[f32], b: &[f32], tol: f32) {
    assert_eq!(a.len(), b.len());
    if let Some(i) = (0..a.len()).find(|&i| (a[i] - b[i]).abs() > tol * (1.0 + b[i].abs())) {
        panic!("element {i}: {} is not {}", a[i], b[i]);
    }
}

/// Windows of a large buffer are bound, not the buffer.
#[test]
fn a_small_view_of_a_large_buffer() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let build = |device| -> Result<Vec<Tensor>> {
        let x = ramp(&[400, 50], device)?;
        x.eval()?;
        let rows = x.try_narrow(0, 101, 3)?;
        let w = ramp(&[50, 7], device)?;
        Ok(vec![
            rows.try_matmul(&w)?,
            x.try_narrow(0, 333, 20)?.try_narrow(1, 5, 40)?.try_matmul(&w.try_narrow(0, 3, 40)?)?,
            rows.try_softmax(1)?,
            rows.try_sum(1)?,
            rows.try_cumsum(1)?,
            x.try_narrow(1, 7, 1)?.try_narrow(0, 390, 10)?.try_mul(2.0)?,
        ])
    };
    let want = build(Device::cpu())?;
    let (got, parts) =
        with_gpu_limits(8 << 10, WORK, || -> Result<Vec<Vec<f32>>> { build(device)?.iter().map(|t| t.to_vec::<f32>()).collect() });
    assert_eq!(parts, 0, "views that fit run in one piece");
    for (g, w) in got?.iter().zip(&want) {
        near(g, &w.to_vec::<f32>()?, 1e-5);
    }
    Ok(())
}

/// The step of a language model with a tied table: embedding, its gradient, the head's product and its gradients, cross-entropy, AdamW.
fn tied_step(device: Device, vocabulary: usize, width: usize, tokens: usize, steps: usize) -> Result<(Vec<f32>, Vec<f32>)> {
    use fornax::nn::Param;
    use fornax::optim::{AdamW, Optimizer};
    let table = Param::new(ramp(&[vocabulary, width], device)?.try_mul(0.1)?);
    let ids: Vec<i32> = (0..tokens).map(|i| ((i * 7919 + 13) % vocabulary) as i32).collect();
    let targets: Vec<i32> = (0..tokens).map(|i| ((i * 104_729 + 5) % vocabulary) as i32).collect();
    let ids = Tensor::from_vec(ids, tokens, device)?;
    let targets = Tensor::from_vec(targets, tokens, device)?;
    let mut optimizer = AdamW::new([table.clone()], 1e-2);
    let mut losses = Vec::new();
    for _ in 0..steps {
        let w = table.get();
        let h = w.try_embedding(&ids)?;
        let loss = h.try_matmul(&w.try_t()?)?.try_cross_entropy(&targets, &Default::default())?;
        let grads = loss.backward()?;
        losses.push(loss.item::<f32>()?);
        optimizer.step(grads)?;
    }
    Ok((losses, table.get().try_narrow(0, vocabulary - 64, 64)?.to_vec::<f32>()?))
}

#[test]
fn a_tied_table_past_the_limit() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let want = tied_step(Device::cpu(), 1003, 24, 40, 3)?;
    for limit in [64 << 10, 20 << 10] {
        let (got, parts) = with_gpu_limits(limit, WORK, || tied_step(device, 1003, 24, 40, 3));
        let got = got?;
        near(&got.0, &want.0, 1e-4);
        near(&got.1, &want.1, 2e-3);
        assert!(parts >= 4, "{parts} kernels in parts");
    }
    Ok(())
}

/// GPT-2's table, 50,257 by 768, has 154 MB: more than lavapipe binds. Run with `--ignored`; it takes minutes and 3 GB.
#[test]
#[ignore = "minutes on a software adapter"]
fn gpt2s_table() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let want = tied_step(Device::cpu(), 50_257, 768, 64, 2)?;
    let got = tied_step(device, 50_257, 768, 64, 2)?;
    println!("{:?} {:?}", got.0, want.0);
    near(&got.0, &want.0, 1e-4);
    near(&got.1, &want.1, 2e-3);
    Ok(())
}

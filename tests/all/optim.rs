//! Optimizers against trajectories from PyTorch (tests/golden/gen_optim.py), on both backends.

use crate::harness;
use fornax::io::safetensors;
use fornax::nn::Param;
use fornax::optim::{Adam, AdamW, Optimizer, SGD};
use fornax::{Device, Result, nn};

fn run(name: &str, device: Device, make: impl Fn(Vec<Param>) -> Box<dyn Optimizer>) -> Result<()> {
    let golden = safetensors::load("tests/golden/optim.safetensors")?;
    let get = |k: &str| golden[k].try_to(device);
    let (x, y) = (get("x")?, get("y")?);
    let (w, b) = (Param::new(get("weight")?), Param::new(get("bias")?));
    let mut optimizer = make(vec![w.clone(), b.clone()]);
    for step in 1..=10 {
        if step == 6 {
            optimizer.set_lr(optimizer.lr() * 0.5);
            // The state survives a trip through its dict.
            let state = optimizer.state_dict();
            let lr = optimizer.lr();
            optimizer = make(vec![w.clone(), b.clone()]);
            optimizer.load_state_dict(&state)?;
            optimizer.set_lr(lr);
        }
        let loss = nn::mse_loss(&x.linear(&w.get(), Some(&b.get())), &y)?;
        optimizer.step(loss.backward()?)?;
        for (param, part) in [(&w, "weight"), (&b, "bias")] {
            let want = golden[&format!("{name}.{step}.{part}")].to_vec::<f32>()?;
            let got = param.value().to_vec::<f32>()?;
            for (g, w) in got.iter().zip(&want) {
                assert!((g - w).abs() < 2e-5 * (1.0 + w.abs()), "{name}, step {step}, {part} on {device}: {g} must be {w}");
            }
        }
    }
    Ok(())
}

fn all(device: Device) -> Result<()> {
    run("sgd", device, |p| Box::new(SGD::new(p, 0.1)))?;
    run("sgd_momentum", device, |p| Box::new(SGD::new(p, 0.1).momentum(0.9)))?;
    run("sgd_dampening", device, |p| Box::new(SGD::new(p, 0.1).momentum(0.9).dampening(0.4)))?;
    run("sgd_nesterov", device, |p| Box::new(SGD::new(p, 0.1).momentum(0.9).nesterov(true).weight_decay(0.05)))?;
    run("adam", device, |p| Box::new(Adam::new(p, 0.05)))?;
    run("adam_decay", device, |p| Box::new(Adam::new(p, 0.05).betas(0.8, 0.95).eps(1e-6).weight_decay(0.1)))?;
    run("adamw", device, |p| Box::new(AdamW::new(p, 0.05)))?;
    run("adamw_decay", device, |p| Box::new(AdamW::new(p, 0.05).betas(0.8, 0.95).weight_decay(0.3)))
}

#[test]
fn trajectories_equal_pytorchs_on_the_cpu() -> Result<()> {
    all(Device::cpu())
}

#[test]
fn trajectories_equal_pytorchs_on_the_gpu() -> Result<()> {
    match harness::gpu() {
        Some(device) => all(device),
        None => Ok(()),
    }
}

#[test]
fn state_that_does_not_fit_is_an_error_and_changes_nothing() -> Result<()> {
    let w = Param::new(fornax::Tensor::ones([2, 3], Device::cpu()));
    let mut a = SGD::new([w.clone()], 0.1).momentum(0.9);
    a.step(w.get().square().sum(()).backward()?)?;
    let state = a.state_dict();
    let names = [
        "0.momentum_buffer",
        "0.step",
        "groups.0.dampening",
        "groups.0.lr",
        "groups.0.momentum",
        "groups.0.nesterov",
        "groups.0.weight_decay",
    ];
    assert_eq!(state.keys().collect::<Vec<_>>(), names);
    let other = Param::new(fornax::Tensor::ones([3, 2], Device::cpu()));
    let e = SGD::new([other], 0.1).load_state_dict(&state).unwrap_err();
    assert!(e.to_string().contains("0.momentum_buffer is [2, 3], must be [3, 2]"), "{e}");
    let e = Adam::new([w], 0.1).load_state_dict(&state).unwrap_err();
    assert!(e.to_string().contains("unexpected: 0.momentum_buffer"), "{e}");
    Ok(())
}

#[test]
fn frozen_and_unused_parameters_stay() -> Result<()> {
    let ones = || Param::new(fornax::Tensor::ones(2, Device::cpu()));
    let (used, frozen, unused) = (ones(), ones(), ones());
    frozen.set_frozen(true);
    let mut optimizer = AdamW::new([used.clone(), frozen.clone(), unused.clone(), used.clone()], 0.1);
    let loss = (used.get() * frozen.get()).sum(());
    let grads = loss.backward()?;
    assert!(used.grad(&grads).is_some() && frozen.grad(&grads).is_none());
    optimizer.step(grads)?;
    assert!(used.value().to_vec::<f32>()?[0] < 0.95);
    assert_eq!(frozen.value().to_vec::<f32>()?, [1.0, 1.0]);
    assert_eq!(unused.value().to_vec::<f32>()?, [1.0, 1.0]);
    Ok(())
}

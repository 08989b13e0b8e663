//! Gradients by hand. `cargo run --example 02_autograd`

use fornax::{Device, Result, Tensor};

fn main() -> Result<()> {
    let device = Device::from_env()?;

    // backward() walks from a scalar to everything that requires a gradient; the gradients are a value.
    let x = Tensor::from_vec(vec![1.0f32, 2.0, 3.0], 3, device)?.requires_grad();
    let y = (x.square() * 3.0).sum(());
    let grads = y.backward()?;
    println!("d Σ 3x² / dx = {}", grads.get(&x).expect("y depends on x"));

    // A gradient is a tensor like any other, so it has gradients too.
    let x = Tensor::from_vec(vec![0.5f32], 1, device)?.requires_grad();
    let mut f = x.sin();
    for order in 1..=4 {
        f = fornax::grad(&[&f.sum(())], &[&x])?[0].clone().expect("f depends on x");
        println!("derivative {order} of sin at 0.5: {:+.4}", f.item::<f32>()?);
    }

    // Newton's method for the minimum of x⁴ - 3x³ + 2, from its first two derivatives.
    let mut at = 3.0f32;
    for _ in 0..6 {
        let x = Tensor::from_vec(vec![at], 1, device)?.requires_grad();
        let f = (x.pow(4) - x.pow(3) * 3.0 + 2.0).sum(());
        let slope = fornax::grad(&[&f], &[&x])?[0].clone().expect("f depends on x");
        let bend = fornax::grad(&[&slope.sum(())], &[&x])?[0].clone().expect("its slope does too");
        at -= slope.item::<f32>()? / bend.item::<f32>()?;
    }
    println!("minimum of x⁴ - 3x³ + 2 at {at:.6} (exactly 2.25)");

    // What is computed in no_grad, or behind detach, is a constant.
    let x = Tensor::ones(2, device).requires_grad();
    let y = (&x * x.detach()).sum(());
    println!("d x·const / dx = {}", y.backward()?.get(&x).expect("y depends on x"));
    Ok(())
}

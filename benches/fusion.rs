//! Pointwise chains in the shapes of the peers' programs, and what follows a product. `cargo bench --bench fusion -- [--device cpu] [--only add]`

mod common;

use common::{Bench, bytes, flops};
use fornax::{Result, Tensor};

const N: usize = 16 << 20;

fn chains(b: &mut Bench) -> Result<()> {
    let n = N as f64;
    b.op("gelu(x*s+s)_erf", "16M", bytes(8.0 * n), |b| {
        let x = b.normal([N])?;
        Ok(move || x.try_mul(1.5)?.try_add(0.25)?.try_gelu())
    })?;
    b.op("gelu(x*a+b)_erf", "16M", bytes(16.0 * n), |b| {
        let (x, y, z) = (b.normal([N])?, b.normal([N])?, b.normal([N])?);
        Ok(move || x.try_mul(&y)?.try_add(&z)?.try_gelu())
    })?;
    b.op("gelu(x*s+s)_tanh", "16M", bytes(8.0 * n), |b| {
        let x = b.normal([N])?;
        Ok(move || x.try_mul(1.5)?.try_add(0.25)?.try_gelu_tanh())
    })?;
    b.op("add", "16M", bytes(12.0 * n), |b| {
        let (x, y) = (b.normal([N])?, b.normal([N])?);
        Ok(move || x.try_add(&y))
    })?;
    b.row("mul_add_clamp_inplace", "16M", bytes(8.0 * n), |b| {
        let (state, device) = (fornax::nn::Buffer::new(b.normal([N])?), b.device);
        Ok(move || {
            state.update(|x| x.try_mul(1.5)?.try_add(0.25)?.try_clamp(-3.0, 3.0))?;
            common::finish(device, &state.get())
        })
    })
}

/// A linear layer with its activation: the bias and the activation finish the product.
fn epilogues(b: &mut Bench) -> Result<()> {
    let (rows, inputs, outputs) = (1024usize, 768usize, 3072usize);
    let work = flops(2.0 * (rows * inputs * outputs) as f64, 4.0 * (rows * inputs + inputs * outputs + rows * outputs) as f64);
    let layer = |name: &str, b: &mut Bench, f: fn(&Tensor) -> Result<Tensor>| {
        b.op(name, "1024x768->3072", work, |b| {
            let (x, w, bias) = (b.normal([rows, inputs])?, b.normal([outputs, inputs])?, b.normal([outputs])?);
            Ok(move || f(&x.try_linear(&w, Some(&bias))?))
        })
    };
    layer("linear+relu", b, |y| y.try_relu())?;
    layer("linear+gelu", b, |y| y.try_gelu())
}

fn main() -> Result<()> {
    let mut b = Bench::from_args()?;
    chains(&mut b)?;
    epilogues(&mut b)?;
    b.done();
    Ok(())
}

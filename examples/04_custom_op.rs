//! An op of your own: the CPU code, the GPU code, the gradient. `cargo run --example 04_custom_op`

use fornax::{CustomInputs, CustomOp, CustomOutputs, DType, Device, Error, Result, Shader, Shape, Tensor, custom};

/// The Swish of a gate times a value, `silu(beta · gate) · value`, in one kernel.
#[derive(Debug)]
struct Gate {
    beta: f32,
}

const WGSL: &str = "
struct Params { n: u32, beta: f32 }
@group(0) @binding(0) var<storage, read> gate: array<f32>;
@group(0) @binding(1) var<storage, read> value: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) g: vec3<u32>, @builtin(local_invocation_index) l: u32) {
    let i = (w.x + w.y * g.x) * 64u + l;
    if i < p.n {
        let x = gate[i] * p.beta;
        y[i] = x / (1.0 + exp(-x)) * value[i];
    }
}";

impl CustomOp for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    /// What changes the kernel or its parameters: plans are shared by key.
    fn key(&self) -> Vec<u64> {
        vec![self.beta.to_bits() as u64]
    }

    fn infer(&self, inputs: &[(Shape, DType)]) -> Result<Vec<(Shape, DType)>> {
        match inputs {
            [gate, value] if gate == value && gate.1 == DType::F32 => Ok(vec![gate.clone()]),
            _ => Err(Error::argument("gate", "wants two f32 tensors of one shape")),
        }
    }

    fn cpu(&self, inputs: &CustomInputs, outputs: &mut CustomOutputs) -> Result<()> {
        let (gate, value) = (inputs.get::<f32>(0)?, inputs.get::<f32>(1)?);
        for ((y, g), v) in outputs.get::<f32>(0)?.iter_mut().zip(gate).zip(value) {
            let x = g * self.beta;
            *y = x / (1.0 + (-x).exp()) * v;
        }
        Ok(())
    }

    fn gpu(&self, inputs: &[(Shape, DType)]) -> Option<Shader> {
        let n = inputs[0].0.numel();
        Some(Shader::new(WGSL, &[n as u32, self.beta.to_bits()], n.div_ceil(64)))
    }

    /// Written with tensor ops, so that it fuses with its neighbours and has a gradient of its own.
    fn vjp(&self, inputs: &[Tensor], _outputs: &[Tensor], cotangents: &[Tensor]) -> Result<Vec<Option<Tensor>>> {
        let (gate, value, dy) = (&inputs[0], &inputs[1], &cotangents[0]);
        let x = gate.try_mul(self.beta)?;
        let s = x.try_sigmoid()?;
        let swish = x.try_mul(&s)?;
        // d silu(x) / dx = s + silu(x) (1 − s)
        let slope = s.try_add(swish.try_sub(swish.try_mul(&s)?)?)?.try_mul(self.beta)?;
        Ok(vec![Some(dy.try_mul(value)?.try_mul(slope)?), Some(dy.try_mul(swish)?)])
    }
}

fn gate(gate: &Tensor, value: &Tensor) -> Result<Tensor> {
    Ok(custom(Gate { beta: 1.5 }, &[gate, value])?.remove(0))
}

fn main() -> Result<()> {
    let device = Device::from_env()?;
    let a = Tensor::linspace(-2.0, 2.0, 5, device).requires_grad();
    let b = Tensor::ones(5, device).requires_grad();
    let y = gate(&a, &b)?;
    println!("gate     {y}");

    // The same from built-in ops.
    let composed = (&a * 1.5).silu() * &b;
    println!("composed {composed}");

    let ours = y.sum(()).backward()?;
    let theirs = composed.sum(()).backward()?;
    for (name, t) in [("gate", &a), ("value", &b)] {
        let (ours, theirs) = (ours.get(t).expect("y depends on it"), theirs.get(t).expect("and so does the other"));
        println!("gradient of {name}: {ours}, off by {:.1e}", (ours - theirs).abs().max(()).item::<f32>()?);
    }
    Ok(())
}

//! Memory for time: a part of a model whose activations are computed again in the backward pass.

use super::{EXTRA, Extra, Pass, no_grad};
use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::GpuKernel;
use crate::graph::node::{Inputs, grad_enabled, insert, next_seq, record, with_grad};
use crate::graph::{Class, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp};
use crate::ops::view::Alias;
use crate::{DType, Error, Result, Tensor, autocast, rng};
use std::sync::Arc;

type Function = dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync;

/// The value of `f`, computed without a tape; going back calls `f` once more.
struct Checkpoint {
    f: Arc<Function>,
    /// Of the random numbers that `f` draws.
    stream: u64,
    /// The mixed precision that `f` runs in.
    low: Option<DType>,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Checkpoint")
    }
}

/// Calls `f` on the inputs and keeps nothing of its inside for the backward pass, which calls `f` again. The gradients are the same, those of
/// parameters and tensors that `f` has captured too, and of any order. Random numbers that `f` draws (dropout) are the same both times; running statistics
/// that it updates (batch norm in training mode) are updated twice.
///
/// # Errors
/// What `f` returns.
///
/// ```
/// use fornax::{Device, Tensor, checkpoint};
/// let x = Tensor::from_vec(vec![0.5f32, 1.0], 2, Device::cpu())?.requires_grad();
/// let y = checkpoint(&[&x], |x| x[0].try_exp()?.try_mul(&x[0]))?;
/// let grads = y.sum(()).backward()?;
/// assert!((grads.get(&x).unwrap().to_vec::<f32>()?[1] - 2.0 * 1f32.exp()).abs() < 1e-5);
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn checkpoint(inputs: &[&Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static) -> Result<Tensor> {
    let detached: Vec<Tensor> = inputs.iter().map(|t| t.detach()).collect();
    let stream = rng::fork();
    let value = no_grad(|| rng::with_stream(stream, || f(&detached)))?;
    if !grad_enabled() || !value.dtype().is_float() {
        return Ok(value);
    }
    let mut all: Inputs = smallvec::smallvec![value.clone()];
    all.extend(inputs.iter().map(|&t| t.clone()));
    let outs = smallvec::smallvec![value.meta().clone()];
    Ok(insert(value.node.device, Arc::new(Checkpoint { f: Arc::new(f), stream, low: autocast::current() }), all, outs, true, None))
}

impl Op for Checkpoint {
    fn name(&self) -> &'static str {
        "checkpoint"
    }

    fn class(&self) -> Class<'_> {
        Class::View
    }

    fn key(&self, _key: &mut Key) {}

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        Ok(smallvec::smallvec![inputs[0].clone()])
    }

    fn saves(&self) -> Saves {
        Saves::default()
    }

    fn is_effectful(&self) -> bool {
        true
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let create_graph = grad_enabled();
        let floor = next_seq();
        // Aliases that gradients pass through: what comes out can be differentiated again.
        let alias = |x: &Tensor| if x.node.requires_grad { record(Arc::new(Alias {}), &[x]) } else { Ok(x.clone()) };
        let (xs, y) = with_grad(true, || -> Result<_> {
            let xs: Vec<Tensor> = ctx.inputs[1..].iter().map(alias).collect::<Result<_>>()?;
            let y = autocast::with(self.low, || rng::with_stream(self.stream, || (self.f)(&xs)))?;
            Ok((xs, y))
        })?;
        let mut grads = vec![None; ctx.inputs.len()];
        if !y.node.requires_grad {
            return Ok(grads);
        }
        let mut pass = Pass { create_graph, collect: true, floor, ..Pass::default() };
        let place = |x: &Tensor| (Arc::as_ptr(&x.node), x.out);
        pass.targets = xs.iter().filter(|x| x.node.requires_grad).map(place).collect();
        pass.run(vec![(y, ctx.cotangent()?.clone())])?;
        for (x, g) in xs.iter().zip(&mut grads[1..]) {
            *g = pass.found.get(&place(x)).cloned();
        }
        let leaves = pass.gradients.by_leaf.into_iter().map(|(id, g)| Extra::Leaf(id, g));
        let captured = pass.captured.into_iter().map(|(y, g)| Extra::Captured(y, g));
        EXTRA.with_borrow_mut(|e| e.extend(leaves.chain(captured)));
        Ok(grads)
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        ctx.unsupported()
    }

    fn gpu(&self, _ctx: &GpuCtx) -> Result<GpuKernel> {
        Err(Error::Kernel { op: self.name().into(), message: "a view does no work".into() })
    }
}

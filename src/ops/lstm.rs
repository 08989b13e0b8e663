//! All steps of an LSTM as one op: the gates' products with the state, the gates and the states, forward and backward. The kernels are in `lstm_cpu`;
//! on a GPU the layer runs step by step.

use super::lstm_cpu;
use super::rows::to_compute;
use crate::autograd::vjp_by_decomposition;
use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::GpuKernel;
use crate::graph::{GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record_all};
use crate::layout::Layout;
use crate::{DType, Error, Result, Tensor};
use smallvec::smallvec;
use std::sync::Arc;

/// From (input products `[T, N, 4H]`, weight `[4H, H]`, h₀ `[N, H]`, c₀ `[N, H]`) to (h `[T, N, H]`, c `[T, N, H]`, gates `[T, N, 4H]`). The gates i, f, g, o
/// after their functions are auxiliary. `reverse` runs from the last step to the first.
#[derive(Clone, Debug)]
pub(super) struct Lstm {
    pub reverse: bool,
}

/// From (the four inputs, c, gates, dh, dc?) to the gradients of the input products, h₀ and c₀.
#[derive(Clone, Debug)]
pub(super) struct LstmBackward {
    pub reverse: bool,
}

/// Sizes of an LSTM.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub steps: usize,
    pub n: usize,
    pub hidden: usize,
    pub reverse: bool,
}

impl Sizes {
    pub fn new(from_input: &[usize], reverse: bool) -> Sizes {
        Sizes { steps: from_input[0], n: from_input[1], hidden: from_input[2] / 4, reverse }
    }

    /// The step that is run as number `i`.
    pub fn step(&self, i: usize) -> usize {
        if self.reverse { self.steps - 1 - i } else { i }
    }

    fn flops(&self) -> u64 {
        (8 * self.steps * self.n * self.hidden * self.hidden) as u64
    }
}

const OP: &str = "lstm";
const BACKWARD: &str = "lstm_backward";

#[fornax_derive::fallible]
impl Tensor {
    /// All steps of an LSTM layer: `self` are the products of the inputs with their weight, biases added, `[T, N, 4·H]` in the order i, f, g, o;
    /// `weight` `[4·H, H]` is that of the state, and h and c `[N, H]` are the states before the first step. The states (h, c) after each step, both
    /// `[T, N, H]`. With `reverse` the last step is the first one.
    ///
    /// `i, f, o = σ(x + W h)`, `g = tanh(x + W h)` each in its part, `c ← f · c + i · g`, `h ← o · tanh c` (Hochreiter and Schmidhuber 1997; Gers 2000).
    /// [`nn::LSTM`](crate::nn::LSTM) is the layer. On the CPU all steps are one kernel.
    ///
    /// # Errors
    /// Shapes or dtypes that do not belong together, integers.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let cpu = Device::cpu();
    /// let (x, w, zeros) = (Tensor::ones([3, 2, 16], cpu), Tensor::zeros([16, 4], cpu), Tensor::zeros([2, 4], cpu));
    /// let (h, c) = x.lstm(&w, &zeros, &zeros, false);
    /// assert_eq!(h.dims(), [3, 2, 4]);
    /// // σ(1) · tanh(1) in the first step.
    /// assert!((c.to_vec::<f32>()?[0] - 0.556_777).abs() < 1e-5);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_lstm(&self, weight: &Tensor, h: &Tensor, c: &Tensor, reverse: bool) -> Result<(Tensor, Tensor)> {
        let dtype = self.dtype();
        if [weight, h, c].iter().any(|t| t.dtype() != dtype) {
            return Err(Error::dtype(OP, &[dtype, weight.dtype(), h.dtype(), c.dtype()], "one float dtype"));
        }
        if self.device().is_gpu() {
            check(OP, &[self.meta(), weight.meta(), h.meta(), c.meta()])?;
            let outs = run(&[self.clone(), weight.clone(), h.clone(), c.clone()], reverse, false)?;
            return Ok((outs[0].clone(), outs[1].clone()));
        }
        let [x, w, h, c] = [self, weight, h, c].map(|t| to_compute(OP, t));
        let outs = record_all(Arc::new(Lstm { reverse }), &[&x?, &w?, &h?, &c?])?;
        Ok((outs[0].try_cast(dtype)?, outs[1].try_cast(dtype)?))
    }
}

/// The gates i, f, g, o before their functions.
fn parts(gates: &Tensor) -> Result<[Tensor; 4]> {
    let h = gates.dims()[1] / 4;
    let part = |k: usize| gates.try_narrow(1, k * h, h);
    Ok([part(0)?, part(1)?, part(2)?, part(3)?])
}

/// A row of a step.
fn at(t: &Tensor, step: usize) -> Result<Tensor> {
    t.try_select(0, step as isize)
}

/// h, c and (where wanted) the gates of all steps, by smaller ops.
fn run(inputs: &[Tensor], reverse: bool, wants_gates: bool) -> Result<Vec<Tensor>> {
    let s = Sizes::new(inputs[0].dims(), reverse);
    let (mut h, mut c) = (inputs[2].clone(), inputs[3].clone());
    let mut all: [Vec<Option<Tensor>>; 3] = std::array::from_fn(|_| vec![None; s.steps]);
    for step in (0..s.steps).map(|i| s.step(i)) {
        let [i, f, g, o] = parts(&at(&inputs[0], step)?.try_add(h.try_linear(&inputs[1], None)?)?)?;
        let (i, f, g, o) = (i.try_sigmoid()?, f.try_sigmoid()?, g.try_tanh()?, o.try_sigmoid()?);
        c = f.try_mul(&c)?.try_add(i.try_mul(&g)?)?;
        h = o.try_mul(c.try_tanh()?)?;
        (all[0][step], all[1][step]) = (Some(h.clone()), Some(c.clone()));
        if wants_gates {
            all[2][step] = Some(Tensor::try_cat(&[&i, &f, &g, &o], 1)?);
        }
    }
    let stack = |list: &[Option<Tensor>]| Tensor::try_stack(&list.iter().flatten().collect::<Vec<_>>(), 0);
    all[..2 + wants_gates as usize].iter().map(|list| stack(list)).collect()
}

/// The state before each step: the results of the one before, and at the first one the given state.
fn before(states: &Tensor, first: &Tensor, reverse: bool) -> Result<Tensor> {
    let (steps, first) = (states.dims()[0], first.try_unsqueeze(0)?);
    if steps == 1 {
        return Ok(first);
    }
    let rest = states.try_narrow(0, reverse as usize, steps - 1)?;
    if reverse { Tensor::try_cat(&[&rest, &first], 0) } else { Tensor::try_cat(&[&first, &rest], 0) }
}

fn check(op: &'static str, inputs: &[&Meta]) -> Result<Sizes> {
    let (x, w, h, c) = (inputs[0].shape(), inputs[1].shape(), inputs[2].shape(), inputs[3].shape());
    let expected = "input products [T, N, 4·H], a weight [4·H, H], states [N, H]";
    let fits = x.rank() == 3 && x[0] > 0 && x[2] % 4 == 0 && w[..] == [x[2], x[2] / 4] && h[..] == [x[1], x[2] / 4] && c == h;
    if !fits {
        return Err(Error::shape(op, &[x, w, h, c], expected));
    }
    let dtype = inputs[0].dtype;
    if !dtype.is_float() || inputs.iter().any(|m| m.dtype != dtype) {
        return Err(Error::dtype(op, &inputs.iter().map(|m| m.dtype).collect::<Vec<_>>(), "one float dtype"));
    }
    Ok(Sizes::new(x, false))
}

fn no_gpu(op: &str) -> Result<GpuKernel> {
    Err(Error::Kernel { op: op.into(), message: "it runs step by step on a GPU".into() })
}

impl Op for Lstm {
    fn name(&self) -> &'static str {
        "lstm"
    }

    fn key(&self, key: &mut Key) {
        key.add(self.reverse as u64);
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let s = check(OP, inputs)?;
        let meta = |width| Meta::new(inputs[0].dtype, [s.steps, s.n, width]);
        Ok(smallvec![meta(s.hidden), meta(s.hidden), meta(4 * s.hidden)])
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let (h, c, gates) = (&ctx.outputs[0], &ctx.outputs[1], &ctx.outputs[2]);
        let zeros;
        let dh = match &ctx.cotangents[0] {
            Some(dh) => dh,
            None => {
                zeros = h.try_zeros_like()?;
                &zeros
            }
        };
        let mut inputs: Vec<&Tensor> = ctx.inputs.iter().collect();
        inputs.extend([c, gates, dh]);
        inputs.extend(&ctx.cotangents[1]);
        let outs = record_all(Arc::new(LstmBackward { reverse: self.reverse }), &inputs)?;
        let weight = || {
            let (rows, width) = (h.dims()[0] * h.dims()[1], h.dims()[2]);
            let states = before(h, &ctx.inputs[2], self.reverse)?.try_reshape([rows, width])?;
            outs[0].try_reshape([rows, 4 * width])?.try_transpose(0, 1)?.try_matmul(&states)
        };
        let dw = if ctx.needs[1] { Some(weight()?) } else { None };
        let give = |i: usize, k: usize| ctx.needs[i].then(|| outs[k].clone());
        Ok(vec![give(0, 0), dw, give(2, 1), give(3, 2)])
    }

    fn decompose(&self, inputs: &[Tensor]) -> Option<Result<Vec<Tensor>>> {
        Some(run(inputs, self.reverse, true))
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        let s = Sizes::new(ctx.shape(0), self.reverse);
        match ctx.dtype(0) {
            DType::F32 => lstm_cpu::forward::<f32>(&s, ctx),
            DType::F64 => lstm_cpu::forward::<f64>(&s, ctx),
            _ => return ctx.unsupported(),
        }
        Ok(())
    }

    fn gpu(&self, _ctx: &GpuCtx) -> Result<GpuKernel> {
        no_gpu(OP)
    }

    fn flops(&self, inputs: &[&Layout], _outputs: &[&Layout]) -> u64 {
        Sizes::new(&inputs[0].shape, self.reverse).flops()
    }
}

impl Op for LstmBackward {
    fn name(&self) -> &'static str {
        "lstm_backward"
    }

    fn key(&self, key: &mut Key) {
        key.add(self.reverse as u64);
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let s = check(BACKWARD, inputs)?;
        let meta = |shape: &[usize]| Meta::new(inputs[0].dtype, shape);
        Ok(smallvec![meta(&[s.steps, s.n, 4 * s.hidden]), meta(&[s.n, s.hidden]), meta(&[s.n, s.hidden])])
    }

    fn saves(&self) -> Saves {
        Saves { inputs: u32::MAX, outputs: 0 }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        vjp_by_decomposition(self, ctx)
    }

    fn decompose(&self, inputs: &[Tensor]) -> Option<Result<Vec<Tensor>>> {
        let build = || {
            let s = Sizes::new(inputs[0].dims(), self.reverse);
            // The gates and states are computed anew: only so do gradients flow through them.
            let states = run(&inputs[..4], self.reverse, true)?;
            let (c, gates) = (&states[1], &states[2]);
            let previous = before(c, &inputs[3], self.reverse)?;
            let (mut dh, mut dc) = (inputs[2].try_zeros_like()?, inputs[3].try_zeros_like()?);
            let mut all = vec![None; s.steps];
            for step in (0..s.steps).rev().map(|i| s.step(i)) {
                let [i, f, g, o] = parts(&at(gates, step)?)?;
                dh = dh.try_add(at(&inputs[6], step)?)?;
                if let Some(given) = inputs.get(7) {
                    dc = dc.try_add(at(given, step)?)?;
                }
                let t = at(c, step)?.try_tanh()?;
                // x(1 - x) and 1 - x².
                let logistic = |x: &Tensor| x.try_sub(x.try_square()?);
                let hyperbolic = |x: &Tensor| x.try_square()?.try_neg()?.try_add(1.0);
                dc = dc.try_add(dh.try_mul(&o)?.try_mul(hyperbolic(&t)?)?)?;
                let di = dc.try_mul(&g)?.try_mul(logistic(&i)?)?;
                let df = dc.try_mul(at(&previous, step)?)?.try_mul(logistic(&f)?)?;
                let dg = dc.try_mul(&i)?.try_mul(hyperbolic(&g)?)?;
                let d_o = dh.try_mul(&t)?.try_mul(logistic(&o)?)?;
                let d = Tensor::try_cat(&[&di, &df, &dg, &d_o], 1)?;
                dh = d.try_matmul(&inputs[1])?;
                dc = dc.try_mul(&f)?;
                all[step] = Some(d);
            }
            let all: Vec<&Tensor> = all.iter().flatten().collect();
            Ok(vec![Tensor::try_stack(&all, 0)?, dh, dc])
        };
        Some(build())
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        let s = Sizes::new(ctx.shape(0), self.reverse);
        match ctx.dtype(0) {
            DType::F32 => lstm_cpu::backward::<f32>(&s, ctx),
            DType::F64 => lstm_cpu::backward::<f64>(&s, ctx),
            _ => return ctx.unsupported(),
        }
        Ok(())
    }

    fn gpu(&self, _ctx: &GpuCtx) -> Result<GpuKernel> {
        no_gpu(BACKWARD)
    }

    fn flops(&self, inputs: &[&Layout], _outputs: &[&Layout]) -> u64 {
        Sizes::new(&inputs[0].shape, self.reverse).flops()
    }
}

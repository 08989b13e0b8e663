//! Scaled dot-product attention without a matrix of scores: the public method, the ops, and their form in smaller ops. The kernels are in
//! `attention_cpu` and `attention_gpu`.

use crate::autograd::vjp_by_decomposition;
use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::GpuKernel;
use crate::graph::{Along, Cut, GpuCtx, Key, Meta, Op, Outputs, Reads, Saves, Span, Vjp, record, record_all};
use crate::layout::Layout;
use crate::ops::rows::{like, to_compute};
use crate::{DType, Error, Result, Scalar, Shape, Tensor, autocast};
use smallvec::smallvec;
use std::sync::Arc;

/// The options of [`Tensor::scaled_dot_product_attention`].
///
/// ```
/// use fornax::Attention;
/// let options = Attention { causal: true, ..Default::default() };
/// assert!(options.mask.is_none() && options.scale.is_none());
/// ```
#[derive(Clone, Default)]
pub struct Attention {
    /// Truth values that broadcast to `[…, H, L, S]`: a query sees a key where it is true.
    pub mask: Option<Tensor>,
    /// Numbers that broadcast to `[…, H, L, S]` and are added to the scores.
    pub bias: Option<Tensor>,
    /// Query i sees keys 0 ..= i + `position`.
    pub causal: bool,
    /// The place of the first query among the keys, for `causal`: 0 as in PyTorch, or the number of keys that a cache held before. It is a
    /// run-time number, so a cache of fixed capacity needs no new plan for each token.
    pub position: usize,
    /// The factor of the scores; 1/√D if not given.
    pub scale: Option<f64>,
    /// The probability with which a weight is set to 0 (the others grow by 1/(1 - p)). Above 0 the scores are materialised.
    pub dropout: f64,
}

/// From (q, k, v, mask or bias?), all of rank 4, to (out `[B, L, H, E]`, log-sum-exp of the scores `[B, H, L]`); the latter is auxiliary, and
/// +∞ for a query that sees no key. The heads of a position lie side by side in the result (and in the gradients), as the product that follows
/// wants them, and as the product before made them: there is no copy on either side.
#[derive(Clone, Debug)]
pub(super) struct Sdpa {
    pub extra: Extra,
    pub causal: bool,
    /// scale, position.
    pub scalars: [Scalar; 2],
}

/// From (q, k, v, out, log-sum-exp, dout, mask or bias?) to those of (dq, dk, dv) that are wanted, each with its axes 1 and 2 swapped, as in out.
#[derive(Clone, Debug)]
pub(super) struct SdpaBackward {
    pub forward: Sdpa,
    pub needs: [bool; 3],
}

/// What is added to the scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extra {
    Nothing,
    Mask,
    Bias,
}

/// The sizes of an attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dims {
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub queries: usize,
    pub keys: usize,
    /// Of queries and keys.
    pub width: usize,
    /// Of values.
    pub value_width: usize,
}

impl Dims {
    pub fn of(q: &[usize], k: &[usize], v: &[usize]) -> Dims {
        Dims { batch: q[0], heads: q[1], kv_heads: k[1], queries: q[2], keys: k[2], width: q[3], value_width: v[3] }
    }

    /// Query heads that share a key head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads.max(1)
    }

    pub fn flops(&self, products: usize) -> u64 {
        (self.batch * self.heads * self.queries * self.keys * (self.width + self.value_width) * products) as u64
    }
}

/// The widest head of the GPU kernels.
const GPU_WIDTH: usize = 256;

const OP: &str = "scaled_dot_product_attention";

#[fornax_derive::fallible]
impl Tensor {
    /// Attention: softmax(scale · q kᵀ + bias) v, where `self` is q `[…, H, L, D]`, k `[…, G, S, D]` and v `[…, G, S, E]`; the result is
    /// `[…, H, L, E]`. G divides H: H/G query heads share a key and value head (grouped queries). The matrix of scores is never stored
    /// (Dao et al., 2022; Milakov, Gimelshein, 2018), forward or backward, unless the bias needs a gradient or there is dropout.
    ///
    /// A query that sees no key gives zeros, as in PyTorch. CPU and GPU agree within 1e-5. On the GPU heads wider than 256 take the way of
    /// dropout.
    ///
    /// # Errors
    /// `Error::Shape` where the shapes do not belong together; `Error::DType` for integers, or for a mask that is not bool;
    /// `Error::Argument` for a dropout outside 0..1.
    ///
    /// ```
    /// use fornax::{Attention, Device, Tensor};
    /// let cpu = Device::cpu();
    /// let q = Tensor::zeros([1, 2, 3, 4], cpu);
    /// let v = Tensor::ones([1, 1, 5, 4], cpu);
    /// let y = q.scaled_dot_product_attention(&v, &v, &Attention::default());
    /// assert_eq!(y.dims(), [1, 2, 3, 4]);
    /// assert!(y.to_vec::<f32>()?.iter().all(|v| (v - 1.0).abs() < 1e-6));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_scaled_dot_product_attention(&self, k: &Tensor, v: &Tensor, options: &Attention) -> Result<Tensor> {
        if let Some([q, k, v]) = autocast::lowered([self, k, v])? {
            return q.try_scaled_dot_product_attention(&k, &v, options);
        }
        let shape = check(self, k, v, options)?;
        let (q, k, v) = (to_compute(OP, self)?, like(k, self.dtype().compute())?, like(v, self.dtype().compute())?);
        let (q4, k4, v4) = (q.try_reshape(rank4(q.dims()))?, k.try_reshape(rank4(k.dims()))?, v.try_reshape(rank4(v.dims()))?);
        let scores: Shape = [&shape[..shape.rank() - 1], &[k.dims()[k.rank() - 2]]].concat().into();
        let extra = extra(options, q.dtype(), &scores)?;
        let scale = options.scale.unwrap_or(1.0 / (q4.dims()[3] as f64).sqrt());
        let kind = match &extra {
            None => Extra::Nothing,
            Some(t) if t.dtype() == DType::Bool => Extra::Mask,
            Some(_) => Extra::Bias,
        };
        let op = Sdpa { extra: kind, causal: options.causal, scalars: [scale.into(), options.position.into()] };
        let wide = q.device().is_gpu() && q4.dims()[3].max(v4.dims()[3]) > GPU_WIDTH;
        let out = if options.dropout > 0.0 || wide {
            let w = op.weights(&q4, &k4, extra.as_ref())?.0;
            let w = if options.dropout > 0.0 {
                let keep = 1.0 - options.dropout;
                w.try_mul(Tensor::try_bernoulli(w.shape(), keep, (w.dtype(), w.device()))?.try_mul(1.0 / keep)?)?
            } else {
                w
            };
            w.try_matmul(&widen(&v4, q4.dims()[1])?)?
        } else {
            let inputs: Vec<&Tensor> = [&q4, &k4, &v4].into_iter().chain(&extra).collect();
            record(Arc::new(op), &inputs)?.try_transpose(1, 2)?
        };
        out.try_reshape(shape)?.try_cast(self.dtype())
    }
}

/// The shape of the result, if everything fits.
fn check(q: &Tensor, k: &Tensor, v: &Tensor, options: &Attention) -> Result<Shape> {
    let bad = |expected: &str| Err(Error::shape(OP, &[q.shape(), k.shape(), v.shape()], expected));
    let (a, b, c) = (q.dims(), k.dims(), v.dims());
    let rank = q.rank();
    if rank < 2 || k.rank() != rank || v.rank() != rank {
        return bad("q, k and v are of one rank, at least 2");
    }
    if a[rank - 1] != b[rank - 1] || b[rank - 2] != c[rank - 2] {
        return bad("q is […, H, L, D], k […, G, S, D], v […, G, S, E]");
    }
    if rank >= 3 {
        let (h, g) = (a[rank - 3], b[rank - 3]);
        if c[rank - 3] != g || h % g.max(1) != 0 || (g == 0 && h != 0) {
            return bad("k and v have one number of heads, which divides that of q");
        }
        if a[..rank - 3] != b[..rank - 3] || a[..rank - 3] != c[..rank - 3] {
            return bad("q, k and v have the same batch axes");
        }
    }
    if [k, v].iter().any(|t| t.dtype() != q.dtype()) {
        return Err(Error::dtype(OP, &[q.dtype(), k.dtype(), v.dtype()], "q, k and v of one dtype"));
    }
    if let Some(m) = &options.mask
        && m.dtype() != DType::Bool
    {
        return Err(Error::dtype(OP, &[m.dtype()], "the mask is bool; numbers are a bias"));
    }
    if !(0.0..1.0).contains(&options.dropout) {
        return Err(Error::argument(OP, format!("dropout {} is not in 0..1", options.dropout)));
    }
    let mut shape = q.shape().clone();
    shape[rank - 1] = c[rank - 1];
    Ok(shape)
}

/// [batch, heads, length, width] of a shape of any rank from 2 up.
fn rank4(s: &[usize]) -> Shape {
    let r = s.len();
    let heads = if r > 2 { s[r - 3] } else { 1 };
    [s[..r.saturating_sub(3)].iter().product(), heads, s[r - 2], s[r - 1]].into()
}

/// The mask or the bias, or both in one, as a view of rank 4 that covers the scores.
fn extra(options: &Attention, dtype: DType, scores: &Shape) -> Result<Option<Tensor>> {
    let fit = |t: &Tensor| match t.shape().broadcast(scores) {
        Some(s) if s == *scores => Ok(()),
        _ => Err(Error::shape(OP, &[t.shape(), scores], "mask and bias broadcast to the scores (the second)")),
    };
    let bias = options.bias.as_ref().map(|b| fit(b).and_then(|_| to_compute(OP, b)).and_then(|b| like(&b, dtype))).transpose()?;
    let found = match (&options.mask, bias) {
        (None, None) => return Ok(None),
        (None, Some(b)) => b,
        (Some(m), b) => {
            fit(m)?;
            match b {
                None => m.clone(),
                Some(b) => m.try_where(b, f64::NEG_INFINITY)?,
            }
        }
    };
    Ok(Some(found.try_expand(scores)?.try_reshape(rank4(scores))?))
}

/// Heads repeated so that there are `heads` of them: a view.
fn widen(t: &Tensor, heads: usize) -> Result<Tensor> {
    let &[b, g, s, d] = t.dims() else { return Ok(t.clone()) };
    if g == heads {
        return Ok(t.clone());
    }
    t.try_unsqueeze(2)?.try_expand([b, g, heads / g, s, d])?.try_reshape([b, heads, s, d])
}

/// The sum over the query heads that share a head.
fn narrow(t: &Tensor, kv_heads: usize) -> Result<Tensor> {
    let &[b, h, s, d] = t.dims() else { return Ok(t.clone()) };
    if h == kv_heads {
        return Ok(t.clone());
    }
    t.try_reshape([b, kv_heads, h / kv_heads, s, d])?.try_sum(2)
}

impl Sdpa {
    /// The attention weights [B, H, L, S] and the log-sum-exp, by smaller ops.
    fn weights(&self, q: &Tensor, k: &Tensor, extra: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let k = widen(k, q.dims()[1])?;
        let mut s = q.try_matmul(&k.try_transpose(-1, -2)?)?.try_mul(self.scalars[0])?;
        let hidden = f64::NEG_INFINITY;
        s = match (self.extra, extra) {
            (Extra::Mask, Some(m)) => m.try_where(s, hidden)?,
            (Extra::Bias, Some(b)) => s.try_add(b)?,
            _ => s,
        };
        if self.causal {
            let index = |n: usize, from: i64| Tensor::try_arange(from, from + n as i64, 1, (DType::I32, q.device()));
            let row = index(s.dims()[2], self.scalars[1].as_i64())?.try_unsqueeze(1)?;
            s = row.try_ge(index(s.dims()[3], 0)?)?.try_where(s, hidden)?;
        }
        if s.dims()[3] == 0 {
            let lse = s.try_sum(-1)?.try_add(f64::INFINITY)?;
            return Ok((s, lse));
        }
        let m = s.detach().try_max_keepdim(-1)?;
        // A row without a key has the maximum -∞, and sums to 0.
        let empty = m.try_eq(hidden)?;
        let m = empty.try_where(0.0, m)?;
        let e = s.try_sub(&m)?.try_exp()?;
        let sum = empty.try_where(1.0, e.try_sum_keepdim(-1)?)?;
        let lse = empty.try_where(f64::INFINITY, sum.try_log()?.try_add(m)?)?;
        Ok((e.try_div(sum)?, lse.try_squeeze(-1)?))
    }
}

/// Cuts along the batch and along the heads. An operand: the axis of its heads, and whether they are the queries' (else the keys').
fn batch_cuts(q: &Shape, k: &Shape, inputs: &[(usize, bool)], outputs: &[(usize, bool)]) -> Vec<Cut> {
    let group = q[1] / k[1].max(1);
    let heads = |&(axis, of_queries): &(usize, bool)| Span { axis, scale: if of_queries { group } else { 1 }, shift: 0 };
    vec![
        Cut::new(q[0], &vec![Some(0); inputs.len()], &vec![Along::axis(0); outputs.len()]),
        Cut {
            len: k[1],
            inputs: inputs.iter().map(|i| Some(heads(i))).collect(),
            outputs: outputs.iter().map(|o| Along::Axis(heads(o))).collect(),
        },
    ]
}

fn check_dtypes(op: &'static str, inputs: &[&Meta], floats: usize) -> Result<()> {
    let dtype = inputs[0].dtype;
    if !matches!(dtype, DType::F32 | DType::F64) || inputs[..floats].iter().any(|m| m.dtype != dtype) {
        return Err(Error::dtype(op, &inputs.iter().map(|m| m.dtype).collect::<Vec<_>>(), "all f32 or all f64"));
    }
    Ok(())
}

impl Op for Sdpa {
    fn name(&self) -> &'static str {
        OP
    }

    fn key(&self, key: &mut Key) {
        key.add(self.extra as u64).add(self.causal as u64);
    }

    fn scalars(&self) -> &[Scalar] {
        &self.scalars
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        check_dtypes(OP, inputs, 3)?;
        let (q, v) = (inputs[0].shape(), inputs[2].shape());
        let dtype = inputs[0].dtype;
        Ok(smallvec![Meta::new(dtype, [q[0], q[2], q[1], v[3]]), Meta::new(dtype, [q[0], q[1], q[2]])])
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        if ctx.needs.get(3) == Some(&true) {
            // The gradient of the bias is as large as the scores anyway.
            return vjp_by_decomposition(self, ctx);
        }
        let needs = [ctx.needs[0], ctx.needs[1], ctx.needs[2]];
        let [q, k, v] = [0, 1, 2].map(|i| &ctx.inputs[i]);
        let mut inputs = vec![q, k, v, &ctx.outputs[0], &ctx.outputs[1], ctx.cotangent()?];
        inputs.extend(ctx.inputs.get(3));
        let mut found = record_all(Arc::new(SdpaBackward { forward: self.clone(), needs }), &inputs)?.into_iter();
        let mut grads = Vec::with_capacity(ctx.inputs.len());
        for n in needs {
            grads.push(if n { found.next().map(|g| g.try_transpose(1, 2)).transpose()? } else { None });
        }
        grads.resize(ctx.inputs.len(), None);
        Ok(grads)
    }

    fn decompose(&self, inputs: &[Tensor]) -> Option<Result<Vec<Tensor>>> {
        let build = || {
            let (w, lse) = self.weights(&inputs[0], &inputs[1], inputs.get(3))?;
            Ok(vec![w.try_matmul(&widen(&inputs[2], inputs[0].dims()[1])?)?.try_transpose(1, 2)?, lse])
        };
        Some(build())
    }

    fn reads(&self, _input: usize) -> Reads {
        Reads::Strided
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        super::attention_cpu::forward(self, ctx)
    }

    fn flops(&self, inputs: &[&Layout], _outputs: &[&Layout]) -> u64 {
        Dims::of(&inputs[0].shape, &inputs[1].shape, &inputs[2].shape).flops(2)
    }

    fn cuts(&self, inputs: &[Meta], outputs: &[Meta]) -> Vec<Cut> {
        let (q, k) = (inputs[0].shape(), inputs[1].shape());
        let ins = [(1, true), (1, false), (1, false), (1, true)];
        let mut cuts = batch_cuts(q, k, &ins[..inputs.len()], &[(2, true), (1, true)][..outputs.len()]);
        // The rows of a causal mask depend on their place.
        if !self.causal {
            let along = [Some(2), None, None, Some(2)];
            cuts.push(Cut::new(q[2], &along[..inputs.len()], &[Along::axis(1), Along::axis(2)][..outputs.len()]));
        }
        cuts
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        super::attention_gpu::forward(self, ctx)
    }
}

impl Op for SdpaBackward {
    fn name(&self) -> &'static str {
        "scaled_dot_product_attention_backward"
    }

    fn key(&self, key: &mut Key) {
        self.forward.key(key);
        key.add(self.needs.iter().fold(0, |bits, &n| bits << 1 | n as u64));
    }

    fn scalars(&self) -> &[Scalar] {
        &self.forward.scalars
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        check_dtypes(self.name(), inputs, 6)?;
        let swapped = |s: &[usize]| [s[0], s[2], s[1], s[3]];
        Ok((0..3).filter(|&i| self.needs[i]).map(|i| Meta::new(inputs[i].dtype, swapped(inputs[i].shape()))).collect())
    }

    fn saves(&self) -> Saves {
        Saves { inputs: u32::MAX, outputs: 0 }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        vjp_by_decomposition(self, ctx)
    }

    fn decompose(&self, inputs: &[Tensor]) -> Option<Result<Vec<Tensor>>> {
        let build = || {
            let [q, k, v] = [0, 1, 2].map(|i| &inputs[i]);
            let dout = &inputs[5].try_transpose(1, 2)?;
            let (heads, kv_heads) = (q.dims()[1], k.dims()[1]);
            // The weights are computed anew and not from the saved log-sum-exp: only so do gradients flow through them.
            let (w, _) = self.forward.weights(q, k, inputs.get(6))?;
            let mut outs = Vec::new();
            let dw = dout.try_matmul(&widen(v, heads)?.try_transpose(-1, -2)?)?;
            let ds = w.try_mul(dw.try_sub(dw.try_mul(&w)?.try_sum_keepdim(-1)?)?)?.try_mul(self.forward.scalars[0])?;
            if self.needs[0] {
                outs.push(ds.try_matmul(&widen(k, heads)?)?);
            }
            if self.needs[1] {
                outs.push(narrow(&ds.try_transpose(-1, -2)?.try_matmul(q)?, kv_heads)?);
            }
            if self.needs[2] {
                outs.push(narrow(&w.try_transpose(-1, -2)?.try_matmul(dout)?, kv_heads)?);
            }
            outs.iter().map(|g| g.try_transpose(1, 2)).collect()
        };
        Some(build())
    }

    fn reads(&self, input: usize) -> Reads {
        if matches!(input, 3..=5) { Reads::Contiguous } else { Reads::Strided }
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        super::attention_cpu::backward(self, ctx)
    }

    fn flops(&self, inputs: &[&Layout], _outputs: &[&Layout]) -> u64 {
        Dims::of(&inputs[0].shape, &inputs[1].shape, &inputs[2].shape).flops(5)
    }

    fn cuts(&self, inputs: &[Meta], _outputs: &[Meta]) -> Vec<Cut> {
        let outs: Vec<_> = (0..3).filter(|&i| self.needs[i]).map(|i| (2, i == 0)).collect();
        let ins = [(1, true), (1, false), (1, false), (2, true), (1, true), (2, true), (1, true)];
        batch_cuts(inputs[0].shape(), inputs[1].shape(), &ins[..inputs.len()], &outs)
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        super::attention_gpu::backward(self, ctx)
    }
}

#[cfg(test)]
#[path = "attention_tests.rs"]
mod tests;

//! Matrix products: `matmul` with PyTorch's rules, `dot`, `outer`, and the linear layer's product.

use super::{matmul_cpu, matmul_gpu};
use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::GpuKernel;
use crate::graph::{Along, Cut, GpuCtx, Key, Meta, Op, Outputs, Reads, Saves, Vjp, record};
use crate::layout::Layout;
use crate::{DType, Error, Result, Shape, Tensor, autocast};
use smallvec::smallvec;
use std::sync::Arc;

/// `C[.., m, n] = Σ_k A[.., m, k] · B[.., k, n]`, both of one rank (2 to 6) and with the same batch axes.
#[derive(Debug)]
pub(crate) struct MatMul {
    /// Whether the elements are floats: only those take an epilogue.
    pub float: bool,
}

impl Op for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn key(&self, key: &mut Key) {
        key.add(self.float as u64);
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let (a, b) = (inputs[0], inputs[1]);
        let r = a.shape().rank();
        debug_assert!(r >= 2 && r == b.shape().rank() && a.shape()[..r - 2] == b.shape()[..r - 2]);
        debug_assert!(a.shape()[r - 1] == b.shape()[r - 2] && a.dtype == b.dtype);
        let mut shape = a.shape().clone();
        shape[r - 1] = b.shape()[r - 1];
        shape.checked_numel()?;
        Ok(smallvec![Meta::new(a.dtype, shape)])
    }

    fn saves(&self) -> Saves {
        Saves { inputs: 0b11, outputs: 0 }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        let g = ctx.cotangent()?;
        let (a, b) = (&ctx.inputs[0], &ctx.inputs[1]);
        let da = ctx.needs[0].then(|| product(g, &b.try_transpose(-1, -2)?)).transpose()?;
        let db = ctx.needs[1].then(|| product(&a.try_transpose(-1, -2)?, g)).transpose()?;
        Ok(vec![da, db])
    }

    fn reads(&self, _input: usize) -> Reads {
        Reads::Matrix
    }

    fn takes_epilogue(&self) -> bool {
        self.float
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        matmul_cpu::run(ctx)
    }

    fn flops(&self, inputs: &[&Layout], outputs: &[&Layout]) -> u64 {
        2 * (outputs[0].numel() * inputs[0].shape.last().copied().unwrap_or(0)) as u64
    }

    fn cuts(&self, inputs: &[Meta], outputs: &[Meta]) -> Vec<Cut> {
        let (a, c, r) = (inputs[0].shape(), outputs[0].shape(), outputs[0].shape().rank());
        // Rows, then columns, then terms; and each batch axis.
        let mut cuts = vec![
            Cut::new(c[r - 2], &[Some(r - 2), None], &[Along::axis(r - 2)]),
            Cut::new(c[r - 1], &[None, Some(r - 1)], &[Along::axis(r - 1)]),
            Cut::new(a[r - 1], &[Some(r - 1), Some(r - 2)], &[Along::Sum]),
        ];
        cuts.extend(Cut::axes(c, 2, 1, |d| d + 2 < r));
        cuts
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        matmul_gpu::kernel(ctx)
    }
}

/// The product of two tensors of one rank with the same batch axes.
fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    record(Arc::new(MatMul { float: a.dtype().is_float() }), &[a, b])
}

/// The dtype in which the kernel multiplies.
fn kernel_dtype(x: &Tensor) -> DType {
    match x.dtype() {
        DType::F16 | DType::BF16 => DType::F32,
        DType::U8 if x.device().is_gpu() => DType::I32,
        d => d,
    }
}

#[fornax_derive::fallible]
impl Tensor {
    /// The matrix product, `out[.., i, j] = Σ_k self[.., i, k] · rhs[.., k, j]`.
    ///
    /// The axes before the last two are batch axes and broadcast. A vector on the left is a row, a vector on the right a column, and the axis
    /// that this adds is not in the result; two vectors give a scalar. Transposed operands are read where they lie. f16 and bf16 are
    /// multiplied and summed in f32; integers wrap around.
    ///
    /// # Errors
    /// `Error::Shape` where the inner sizes differ or the batch axes do not broadcast, `Error::DType` where the dtypes differ or are bool.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let a = Tensor::from_vec(vec![1.0f32, 2.0, 3.0, 4.0], [2, 2], Device::cpu())?;
    /// assert_eq!(a.matmul(&a).to_vec::<f32>()?, [7.0, 10.0, 15.0, 22.0]);
    /// let x = Tensor::ones([5, 2], Device::cpu());
    /// assert_eq!(x.matmul(&a.t()).dims(), [5, 2]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_matmul(&self, rhs: &Tensor) -> Result<Tensor> {
        const OP: &str = "matmul";
        if let Some([a, b]) = autocast::lowered([self, rhs])? {
            return a.try_matmul(&b);
        }
        let shapes = || [self.shape().clone(), rhs.shape().clone()];
        if self.dtype() != rhs.dtype() || self.dtype() == DType::Bool {
            let expected = "two tensors of one dtype, not bool: cast one of them";
            return Err(Error::dtype(OP, &[self.dtype(), rhs.dtype()], expected));
        }
        let (ra, rb) = (self.rank(), rhs.rank());
        if ra == 0 || rb == 0 {
            return Err(Error::shape(OP, &shapes(), "at least one axis on each side; use * to scale by a scalar"));
        }
        let inner = (self.dims()[ra - 1], rhs.dims()[if rb == 1 { 0 } else { rb - 2 }]);
        if inner.0 != inner.1 {
            let expected = format!(
                "the left's last size ({}) must equal the right's {} ({})",
                inner.0,
                if rb == 1 { "only size" } else { "last but one" },
                inner.1
            );
            return Err(Error::shape(OP, &shapes(), expected));
        }
        let a = if ra == 1 { self.try_unsqueeze(0)? } else { self.clone() };
        let b = if rb == 1 { rhs.try_unsqueeze(1)? } else { rhs.clone() };
        let lead = |t: &Tensor| Shape::from(&t.dims()[..t.rank() - 2]);
        let Some(mut batch) = lead(&a).broadcast(&lead(&b)) else {
            return Err(Error::shape(OP, &shapes(), "the axes before the last two must broadcast: equal, or 1"));
        };
        let (m, k, n) = (a.dims()[a.rank() - 2], inner.0, b.dims()[b.rank() - 1]);
        for (rows, columns) in [(m, n), (m, k), (k, n)] {
            let mut whole = batch.clone();
            whole.push(rows);
            whole.push(columns);
            whole.checked_numel()?;
        }
        let (dtype, compute) = (self.dtype(), kernel_dtype(self));
        let (a, b) = if compute == dtype { (a, b) } else { (a.try_cast(compute)?, b.try_cast(compute)?) };
        let matrix = |t: &Tensor| t.numel() == t.dims()[t.rank() - 2] * t.dims()[t.rank() - 1];

        // A matrix on the right beside a batch on the left is one product of more rows, and its gradient one product too.
        let rows = Shape::from([batch.numel() * m, k]);
        let out = if batch.rank() > 0 && batch.numel() > 0 && matrix(&b) && lead(&a) == batch && folds(&a, &rows, &b) {
            let b = b.try_reshape([k, n])?;
            product(&a.try_reshape(rows)?, &b)?
        } else {
            let expand = |t: &Tensor| {
                let mut shape = batch.clone();
                shape.push(t.dims()[t.rank() - 2]);
                shape.push(t.dims()[t.rank() - 1]);
                let t = t.try_expand(shape)?;
                // The kernels know at most four batch axes.
                if batch.rank() > 4 { t.try_reshape([batch.numel(), t.dims()[t.rank() - 2], t.dims()[t.rank() - 1]]) } else { Ok(t) }
            };
            product(&expand(&a)?, &expand(&b)?)?
        };
        let out = if compute == dtype { out } else { out.try_cast(dtype)? };
        if ra > 1 {
            batch.push(m);
        }
        if rb > 1 {
            batch.push(n);
        }
        out.try_reshape(batch)
    }

    /// The sum of the products of two vectors, `Σ_i self[i] · rhs[i]`: a scalar.
    ///
    /// # Errors
    /// `Error::Shape` where they are not vectors of one length, `Error::DType` as `matmul`.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![1.0f32, 2.0, 3.0], 3, Device::cpu())?;
    /// assert_eq!(x.dot(&x).item::<f32>()?, 14.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_dot(&self, rhs: &Tensor) -> Result<Tensor> {
        if self.rank() != 1 || self.shape() != rhs.shape() {
            return Err(Error::shape("dot", &[self.shape(), rhs.shape()], "two vectors of one length"));
        }
        self.try_matmul(rhs)
    }

    /// The outer product of two vectors, `out[i, j] = self[i] · rhs[j]`.
    ///
    /// # Errors
    /// `Error::Shape` where they are not vectors.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![1.0f32, 2.0], 2, Device::cpu())?;
    /// assert_eq!(x.outer(&x).to_vec::<f32>()?, [1.0, 2.0, 2.0, 4.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_outer(&self, rhs: &Tensor) -> Result<Tensor> {
        if self.rank() != 1 || rhs.rank() != 1 {
            return Err(Error::shape("outer", &[self.shape(), rhs.shape()], "two vectors"));
        }
        self.try_unsqueeze(1)?.try_mul(rhs.try_unsqueeze(0)?)
    }

    /// A linear layer, `out = self · weightᵀ + bias`: `self` is [.., in], `weight` [out, in], `bias` [out].
    ///
    /// # Errors
    /// `Error::Shape` where the sizes do not fit, `Error::DType` where the dtypes differ.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let (x, w, b) = (Tensor::ones([4, 3], Device::cpu()), Tensor::ones([2, 3], Device::cpu()), Tensor::ones(2, Device::cpu()));
    /// assert_eq!(x.linear(&w, Some(&b)).to_vec::<f32>()?, [4.0; 8]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (r, w) = (self.rank(), weight.dims());
        if w.len() != 2 || r == 0 || self.dims()[r - 1] != w[1] {
            let expected = match w {
                [_, n] => format!("an input [.., {n}], whose last axis is as long as the weight [out, in] is wide"),
                _ => "an input [.., in] and a weight [out, in]".into(),
            };
            return Err(Error::shape("linear", &[self.shape(), weight.shape()], expected));
        }
        let (inputs, outputs) = (w[1], w[0]);
        if let Some(b) = bias.filter(|b| b.dims() != [outputs]) {
            return Err(Error::shape("linear", &[weight.shape(), b.shape()], format!("a bias [{outputs}]")));
        }
        let rows: usize = self.dims()[..r - 1].iter().product();
        let x = if r == 2 { self.clone() } else { self.try_reshape([rows, inputs])? };
        let mut out = x.try_matmul(&weight.try_t()?)?;
        if let Some(b) = bias {
            out = out.try_add(autocast::low(b)?)?;
        }
        if r == 2 {
            return Ok(out);
        }
        let mut shape = self.shape().clone();
        shape[r - 1] = outputs;
        out.try_reshape(shape)
    }
}

/// Whether to fold the batch axes of `a` into its rows: where that is a view, or where the gradient of `b` would otherwise be a batch of
/// matrices.
fn folds(a: &Tensor, rows: &Shape, b: &Tensor) -> bool {
    a.layout().reshape(rows).is_some() || b.node.requires_grad
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_checked() {
        let op = MatMul { float: true };
        let meta = |s: &[usize]| Meta::new(DType::F32, Shape::from(s));
        let out = op.infer(&[&meta(&[5, 2, 3]), &meta(&[5, 3, 4])]).unwrap();
        assert_eq!(*out[0].shape(), [5, 2, 4]);
    }
}

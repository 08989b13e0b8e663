//! Linear algebra on the host, by `faer`: qr, svd, eigh, cholesky, solve, det, inverse, over batches of matrices. The derivatives are in
//! `linalg_vjp`.

use super::rows::{like, to_compute};
use crate::backend::cpu::CpuCtx;
use crate::backend::cpu::threads::Shared;
use crate::codegen::dispatch::GpuKernel;
use crate::graph::{Class, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record, record_all};
use crate::{DType, Device, Element, Error, Result, Shape, Tensor};
use faer::linalg::solvers::Solve;
use faer::prelude::{Mat, MatRef};
use rayon::prelude::*;
use std::sync::Arc;

/// A factorisation or a solution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Linalg {
    /// A → Q, R.
    Qr,
    /// A → U, S, Vᵀ.
    Svd,
    /// A → eigenvalues, eigenvectors.
    Eigh,
    /// A → L.
    Cholesky,
    /// A, B → X.
    Solve,
    /// A → determinant.
    Det,
    /// A → A⁻¹.
    Inverse,
}

/// Linear algebra (feature `linalg`) works on matrices in the last two axes, over any leading batch axes, in f32 or f64 (f16 and bf16 are computed in f32). It
/// runs on the CPU: a GPU tensor travels there and its result back, which waits for the GPU. Errors that lie in the numbers (a singular
/// matrix) come when the result is computed.
#[fornax_derive::fallible]
impl Tensor {
    /// The reduced QR decomposition A = Q R of `[…, m, n]`: Q `[…, m, k]` has orthonormal columns, R `[…, k, n]` is upper triangular with
    /// a diagonal that is not negative, k = min(m, n).
    ///
    /// The gradient needs the first k columns of A to be independent.
    ///
    /// # Errors
    /// `Error::Shape` for rank below 2; `Error::DType` for integers.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let a = Tensor::from_vec(vec![3.0f32, 1.0, 4.0, 2.0], [2, 2], Device::cpu())?;
    /// let (q, r) = a.qr();
    /// assert!((q.matmul(&r) - &a).abs().max(()).item::<f32>()? < 1e-5);
    /// assert!((r.to_vec::<f32>()?[0] - 5.0).abs() < 1e-5);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_qr(&self) -> Result<(Tensor, Tensor)> {
        let [q, r] = factor(Linalg::Qr, self)?;
        Ok((q, r))
    }

    /// The thin singular value decomposition A = U diag(S) Vᵀ of `[…, m, n]`: U `[…, m, k]`, S `[…, k]` in descending order, Vᵀ `[…, k, n]`,
    /// k = min(m, n).
    ///
    /// The gradient needs the singular values to differ, and, through U and V of a matrix that is not square, to differ from 0.
    ///
    /// # Errors
    /// `Error::Shape` for rank below 2; `Error::DType` for integers; `Error::Argument`, when computed, where it does not converge.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let a = Tensor::from_vec(vec![0.0f32, 2.0, 3.0, 0.0], [2, 2], Device::cpu())?;
    /// let (_, s, _) = a.svd();
    /// let s = s.to_vec::<f32>()?;
    /// assert!((s[0] - 3.0).abs() < 1e-5 && (s[1] - 2.0).abs() < 1e-5);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_svd(&self) -> Result<(Tensor, Tensor, Tensor)> {
        let [u, s, vt] = factor(Linalg::Svd, self)?;
        Ok((u, s, vt))
    }

    /// Eigenvalues `[…, n]` in ascending order and orthonormal eigenvectors (columns of `[…, n, n]`) of symmetric matrices. Only the lower
    /// triangle is read; the gradient is that of a symmetric argument, and needs the eigenvalues to differ.
    ///
    /// # Errors
    /// `Error::Shape` where the matrices are not square; `Error::DType` for integers; `Error::Argument`, when computed, where it does not
    /// converge.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let a = Tensor::from_vec(vec![2.0f32, 1.0, 1.0, 2.0], [2, 2], Device::cpu())?;
    /// let w = a.eigh().0.to_vec::<f32>()?;
    /// assert!((w[0] - 1.0).abs() < 1e-5 && (w[1] - 3.0).abs() < 1e-5);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_eigh(&self) -> Result<(Tensor, Tensor)> {
        let [w, v] = factor(Linalg::Eigh, self)?;
        Ok((w, v))
    }

    /// The lower triangular L with A = L Lᵀ of symmetric positive definite matrices. Only the lower triangle is read; the gradient is that
    /// of a symmetric argument.
    ///
    /// # Errors
    /// `Error::Shape` where the matrices are not square; `Error::DType` for integers; `Error::Argument`, when computed, where a matrix is not
    /// positive definite.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let a = Tensor::from_vec(vec![4.0f32, 2.0, 2.0, 10.0], [2, 2], Device::cpu())?;
    /// assert_eq!(a.cholesky().to_vec::<f32>()?, [2.0, 0.0, 1.0, 3.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_cholesky(&self) -> Result<Tensor> {
        let [l] = factor(Linalg::Cholesky, self)?;
        Ok(l)
    }

    /// The solution X of A X = B for A `[…, n, n]` and B `[…, n, k]`, or `[…, n]` for one column each (where B has one axis less than A
    /// and the same batch axes). Batch axes broadcast otherwise.
    ///
    /// # Errors
    /// `Error::Shape` where A is not square or B does not fit; `Error::DType` for integers; `Error::Argument`, when computed, where a matrix
    /// is singular.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let a = Tensor::from_vec(vec![2.0f32, 0.0, 0.0, 4.0], [2, 2], Device::cpu())?;
    /// let b = Tensor::from_vec(vec![2.0f32, 2.0], 2, Device::cpu())?;
    /// assert_eq!(a.solve(&b).to_vec::<f32>()?, [1.0, 0.5]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_solve(&self, b: &Tensor) -> Result<Tensor> {
        let rank = self.rank();
        let bad = || Error::shape("solve", &[self.shape(), b.shape()], "A is […, n, n] and B […, n, k] or […, n]");
        if rank < 2 || b.rank() == 0 {
            return Err(bad());
        }
        if b.rank() + 1 == rank && b.shape()[..] == self.dims()[..rank - 1] {
            return self.try_solve(&b.try_unsqueeze(-1)?)?.try_squeeze(-1);
        }
        let n = self.dims()[rank - 1];
        if b.rank() < 2 || self.dims()[rank - 2] != n || b.dims()[b.rank() - 2] != n {
            return Err(bad());
        }
        let batch = |t: &Tensor| Shape::from(&t.dims()[..t.rank() - 2]);
        let common = batch(self).broadcast(&batch(b)).ok_or_else(bad)?;
        let widen = |t: &Tensor| -> Result<Tensor> { t.try_expand([&common[..], &t.dims()[t.rank() - 2..]].concat()) };
        let a = to_compute("solve", self)?;
        let x = record(Arc::new(Linalg::Solve), &[&widen(&a)?, &widen(&like(b, a.dtype())?)?])?;
        x.try_cast(self.dtype())
    }

    /// The determinants of square matrices: 0 of singular ones, where the gradient is that of the cofactors.
    ///
    /// # Errors
    /// `Error::Shape` where the matrices are not square; `Error::DType` for integers.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let a = Tensor::from_vec(vec![2.0f32, 1.0, 1.0, 2.0], [2, 2], Device::cpu())?;
    /// assert!((a.det().item::<f32>()? - 3.0).abs() < 1e-5);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_det(&self) -> Result<Tensor> {
        let [d] = factor(Linalg::Det, self)?;
        Ok(d)
    }

    /// The inverses of square matrices. (To solve equations, [`solve`](Tensor::solve) is faster and more accurate.)
    ///
    /// # Errors
    /// `Error::Shape` where the matrices are not square; `Error::DType` for integers; `Error::Argument`, when computed, where a matrix is
    /// singular.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let a = Tensor::from_vec(vec![2.0f32, 0.0, 0.0, 4.0], [2, 2], Device::cpu())?;
    /// assert_eq!(a.inverse().to_vec::<f32>()?, [0.5, 0.0, 0.0, 0.25]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_inverse(&self) -> Result<Tensor> {
        let [x] = factor(Linalg::Inverse, self)?;
        Ok(x)
    }
}

fn factor<const N: usize>(kind: Linalg, a: &Tensor) -> Result<[Tensor; N]> {
    let outs = record_all(Arc::new(kind), &[&to_compute(kind.name(), a)?])?;
    let outs = outs.iter().map(|t| t.try_cast(a.dtype())).collect::<Result<Vec<_>>>()?;
    outs.try_into().map_err(|_| Error::Kernel { op: kind.name().into(), message: "another number of outputs".into() })
}

impl Op for Linalg {
    fn name(&self) -> &'static str {
        match self {
            Linalg::Qr => "qr",
            Linalg::Svd => "svd",
            Linalg::Eigh => "eigh",
            Linalg::Cholesky => "cholesky",
            Linalg::Solve => "solve",
            Linalg::Det => "det",
            Linalg::Inverse => "inverse",
        }
    }

    fn class(&self) -> Class<'_> {
        Class::Host
    }

    fn key(&self, key: &mut Key) {
        key.add(*self as u64);
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let (a, dtype) = (inputs[0].shape(), inputs[0].dtype);
        if !matches!(dtype, DType::F32 | DType::F64) {
            return Err(Error::dtype(self.name(), &[dtype], "f32 or f64"));
        }
        let rank = a.rank();
        if rank < 2 {
            return Err(Error::shape(self.name(), &[a], "matrices […, m, n]"));
        }
        let (m, n) = (a[rank - 2], a[rank - 1]);
        if m != n && !matches!(self, Linalg::Qr | Linalg::Svd) {
            return Err(Error::shape(self.name(), &[a], "square matrices […, n, n]"));
        }
        let k = m.min(n);
        let out = |tail: &[usize]| Meta::new(dtype, [&a[..rank - 2], tail].concat());
        Ok(match self {
            Linalg::Qr => smallvec::smallvec![out(&[m, k]), out(&[k, n])],
            Linalg::Svd => smallvec::smallvec![out(&[m, k]), out(&[k]), out(&[k, n])],
            Linalg::Eigh => smallvec::smallvec![out(&[n]), out(&[n, n])],
            Linalg::Cholesky | Linalg::Inverse => smallvec::smallvec![out(&[n, n])],
            Linalg::Solve => smallvec::smallvec![Meta::new(dtype, inputs[1].shape())],
            Linalg::Det => smallvec::smallvec![out(&[])],
        })
    }

    fn saves(&self) -> Saves {
        match self {
            Linalg::Solve => Saves { inputs: 0b01, outputs: 0b1 },
            Linalg::Det => Saves { inputs: 0b1, outputs: 0b1 },
            _ => Saves { inputs: 0, outputs: u32::MAX },
        }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        super::linalg_vjp::vjp(*self, ctx)
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        ctx.unsupported()
    }

    fn gpu(&self, _ctx: &GpuCtx) -> Result<GpuKernel> {
        Err(Error::Kernel { op: self.name().into(), message: "a host step".into() })
    }

    fn host(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        match inputs[0].dtype() {
            DType::F32 => self.run::<f32>(inputs),
            DType::F64 => self.run::<f64>(inputs),
            d => Err(Error::dtype(self.name(), &[d], "f32 or f64")),
        }
    }
}

/// The dtypes of the factorisations.
trait Field: Element + bytemuck::Pod + faer::traits::RealField {}
impl Field for f32 {}
impl Field for f64 {}

/// Writes a matrix row by row.
fn store<T: Field>(out: &mut [T], a: MatRef<'_, T>) {
    let n = a.ncols();
    for (i, row) in out.chunks_exact_mut(n.max(1)).enumerate() {
        row.iter_mut().enumerate().for_each(|(j, o)| *o = a[(i, j)]);
    }
}

impl Linalg {
    fn run<T: Field>(self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let metas: Vec<&Meta> = inputs.iter().map(Tensor::meta).collect();
        let outs = self.infer(&metas)?;
        let rank = inputs[0].rank();
        let batch: usize = inputs[0].dims()[..rank - 2].iter().product();
        let dims = |t: &Tensor| (t.dims()[t.rank() - 2], t.dims()[t.rank() - 1]);
        let data: Vec<Vec<T>> = inputs.iter().map(Tensor::to_vec::<T>).collect::<Result<_>>()?;
        let matrix = |input: usize, i: usize| {
            let (m, n) = dims(&inputs[input]);
            MatRef::from_row_major_slice(&data[input][i * m * n..(i + 1) * m * n], m, n)
        };
        let sizes: Vec<usize> = outs.iter().map(|o| o.layout.numel() / batch.max(1)).collect();
        let mut found: Vec<Vec<T>> = outs.iter().map(|o| vec![T::zeroed(); o.layout.numel()]).collect();
        let shared: Vec<Shared<T>> = found.iter_mut().map(|f| Shared::new(f)).collect();
        let one = |i: usize| {
            // SAFETY: each matrix of the batch is one task's.
            let mut outs: Vec<&mut [T]> = shared.iter().zip(&sizes).map(|(s, &n)| unsafe { s.slice(i * n, n) }).collect();
            let b = (self == Linalg::Solve).then(|| matrix(1, i));
            self.one(matrix(0, i), b, &mut outs).map_err(|what| {
                let place = if batch > 1 { format!("matrix {i} of the batch") } else { "the matrix".into() };
                Error::argument(self.name(), format!("{place} {what}"))
            })
        };
        if batch > 1 {
            (0..batch).into_par_iter().try_for_each(one)?
        } else {
            (0..batch).try_for_each(one)?
        }
        let device: Device = inputs[0].device();
        found.into_iter().zip(&outs).map(|(f, o)| Tensor::from_vec(f, o.shape(), device)).collect()
    }

    /// One matrix; an error says what is wrong with it.
    fn one<T: Field>(self, a: MatRef<'_, T>, b: Option<MatRef<'_, T>>, outs: &mut [&mut [T]]) -> std::result::Result<(), &'static str> {
        let n = a.ncols();
        if a.nrows() == 0 || n == 0 {
            if self == Linalg::Det {
                outs[0].fill(T::one_impl());
            }
            return Ok(());
        }
        const DIVERGED: &str = "has no decomposition: the iteration did not converge (is it finite?)";
        match self {
            Linalg::Qr => {
                let qr = a.qr();
                let (q, r) = (qr.compute_thin_Q(), qr.thin_R());
                store(outs[0], q.as_ref());
                let width = q.ncols();
                for i in 0..width {
                    let flip = r[(i, i)] < T::zeroed();
                    for j in i..n {
                        outs[1][i * n + j] = if flip { -r[(i, j)] } else { r[(i, j)] };
                    }
                    if flip {
                        outs[0].chunks_exact_mut(width).for_each(|row| row[i] = -row[i]);
                    }
                }
            }
            Linalg::Svd => {
                let svd = a.thin_svd().map_err(|_| DIVERGED)?;
                store(outs[0], svd.U());
                outs[1].iter_mut().enumerate().for_each(|(i, o)| *o = svd.S()[i]);
                store(outs[2], svd.V().transpose());
            }
            Linalg::Eigh => {
                let eigen = a.self_adjoint_eigen(faer::Side::Lower).map_err(|_| DIVERGED)?;
                outs[0].iter_mut().enumerate().for_each(|(i, o)| *o = eigen.S()[i]);
                store(outs[1], eigen.U());
            }
            Linalg::Cholesky => {
                let llt = a.llt(faer::Side::Lower).map_err(|_| "is not positive definite")?;
                for i in 0..n {
                    (0..=i).for_each(|j| outs[0][i * n + j] = llt.L()[(i, j)]);
                }
            }
            Linalg::Det => {
                let lu = a.partial_piv_lu();
                let (mut det, mut swaps) = (T::one_impl(), 0);
                // The columns behind a pivot of 0 were divided by it.
                let mut singular = false;
                for i in 0..n {
                    let pivot = lu.U()[(i, i)];
                    det *= pivot;
                    if pivot == T::zeroed() {
                        singular = true;
                        break;
                    }
                }
                // The parity of the rows' order: each cycle of length k takes k - 1 swaps.
                let order = lu.P().arrays().0;
                let mut seen = vec![false; n];
                for start in 0..n {
                    let mut at = start;
                    while !std::mem::replace(&mut seen[at], true) {
                        at = order[at];
                        swaps += usize::from(at != start);
                    }
                }
                let unknown = singular && (0..n).any(|j| (0..n).any(|i| a[(i, j)].partial_cmp(&a[(i, j)]).is_none()));
                outs[0][0] = match (unknown, singular, swaps % 2) {
                    (true, ..) => T::nan_impl(),
                    (_, true, _) => T::zeroed(),
                    (_, _, 1) => -det,
                    _ => det,
                };
            }
            Linalg::Solve | Linalg::Inverse => {
                let lu = a.partial_piv_lu();
                if (0..n).any(|i| lu.U()[(i, i)] == T::zeroed()) {
                    return Err("is singular");
                }
                let x = match b {
                    Some(b) => lu.solve(b),
                    None => lu.solve(Mat::<T>::identity(n, n)),
                };
                store(outs[0], x.as_ref());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(v: &[f64], shape: &[usize]) -> Tensor {
        Tensor::from_vec(v.to_vec(), shape, Device::cpu()).unwrap()
    }

    #[test]
    fn what_is_wrong_with_a_matrix_is_an_error_when_it_is_computed() {
        let a = tensor(&[1.0, 0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 4.0], &[2, 2, 2]);
        let e = a.try_inverse().unwrap().to_vec::<f64>().unwrap_err().to_string();
        assert!(e.contains("matrix 1 of the batch is singular"), "{e}");
        let e = tensor(&[1.0, 2.0, 2.0, 1.0], &[2, 2]).try_cholesky().unwrap().to_vec::<f64>().unwrap_err().to_string();
        assert!(e.contains("positive definite"), "{e}");
        assert!(tensor(&[f64::NAN; 4], &[2, 2]).try_det().unwrap().item::<f64>().unwrap().is_nan());
        assert!(tensor(&[0.0; 6], &[2, 3]).try_det().is_err());
        assert!(tensor(&[0.0; 6], &[6]).try_qr().is_err());
    }

    #[test]
    fn empty_matrices() {
        let a = tensor(&[], &[2, 0, 0]);
        assert_eq!(a.try_det().unwrap().to_vec::<f64>().unwrap(), [1.0, 1.0]);
        assert_eq!(a.try_inverse().unwrap().dims(), [2, 0, 0]);
        assert!(tensor(&[], &[0, 3, 3]).try_svd().unwrap().0.to_vec::<f64>().unwrap().is_empty());
    }
}

//! The derivatives of linear algebra, written with tensor ops, so that they have derivatives too. The formulas are those of Giles (2008),
//! Murray (2016) for Cholesky, Townsend (2016) for the singular values, and Walter, Lehmann (2010) for QR.

use super::linalg::Linalg;
use super::scan::others;
use crate::graph::Vjp;
use crate::{Result, Tensor};

pub(super) fn vjp(kind: Linalg, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
    // The cotangent of an output from which nothing flowed back is 0.
    let g = |i: usize| ctx.cotangents[i].clone().map_or_else(|| ctx.outputs[i].try_zeros_like(), Ok);
    let y = ctx.outputs;
    let da = match kind {
        Linalg::Qr => qr(&y[0], &y[1], &g(0)?, &g(1)?)?,
        Linalg::Svd => svd(&y[0], &y[1], &y[2], [&ctx.cotangents[0], &ctx.cotangents[1], &ctx.cotangents[2]])?,
        Linalg::Eigh => eigh(&y[0], &y[1], &g(0)?, ctx.cotangents[1].as_ref())?,
        Linalg::Cholesky => cholesky(&y[0], &g(0)?)?,
        Linalg::Solve => {
            let db = t(&ctx.inputs[0])?.try_solve(&g(0)?)?;
            let da = if ctx.needs[0] { Some(db.try_matmul(&t(&y[0])?)?.try_neg()?) } else { None };
            return Ok(vec![da, Some(db).filter(|_| ctx.needs[1])]);
        }
        Linalg::Det => {
            let whole = |g: Tensor| g.try_unsqueeze(-1)?.try_unsqueeze(-1);
            if y[0].detach().try_eq(0.0)?.try_any(())?.item::<bool>()? {
                cofactors(&ctx.inputs[0])?.try_mul(whole(g(0)?)?)?
            } else {
                t(&ctx.inputs[0].try_inverse()?)?.try_mul(whole(g(0)?.try_mul(&y[0])?)?)?
            }
        }
        Linalg::Inverse => {
            let x = t(&y[0])?;
            x.try_matmul(&g(0)?)?.try_matmul(&x)?.try_neg()?
        }
    };
    Ok(vec![Some(da)])
}

/// The gradient of the determinant where there is no inverse: with A = U S Vᵀ, det(U) det(Vᵀ) U diag(Π_{j≠i} sⱼ) Vᵀ.
fn cofactors(a: &Tensor) -> Result<Tensor> {
    let (u, s, vt) = a.try_svd()?;
    let sign = u.detach().try_det()?.try_mul(vt.detach().try_det()?)?.try_unsqueeze(-1)?;
    let others = others(&s, s.rank() - 1)?.try_mul(sign)?;
    u.try_mul(others.try_unsqueeze(-2)?)?.try_matmul(&vt)
}

/// The transposes.
fn t(a: &Tensor) -> Result<Tensor> {
    a.try_transpose(-1, -2)
}

fn eye(n: usize, like: &Tensor) -> Result<Tensor> {
    Tensor::try_eye(n, (like.dtype(), like.device()))
}

/// Vectors as the diagonals of matrices.
fn diagonal(s: &Tensor) -> Result<Tensor> {
    s.try_unsqueeze(-1)?.try_mul(eye(s.dims()[s.rank() - 1], s)?)
}

/// 1 / (sⱼ - sᵢ) off the diagonal, 0 on it.
fn gaps(s: &Tensor) -> Result<Tensor> {
    let eye = eye(s.dims()[s.rank() - 1], s)?;
    let d = s.try_unsqueeze(-2)?.try_sub(s.try_unsqueeze(-1)?)?;
    d.try_add(&eye)?.try_recip()?.try_sub(&eye)
}

/// dA = (S + Sᵀ) / 2 with S = L⁻ᵀ Φ(Lᵀ dL) L⁻¹, where Φ takes the lower triangle and halves the diagonal.
fn cholesky(l: &Tensor, dl: &Tensor) -> Result<Tensor> {
    let lt = t(l)?;
    let p = lt.try_matmul(&dl.try_tril(0)?)?;
    let phi = p.try_tril(0)?.try_add(p.try_tril(-1)?)?.try_mul(0.5)?;
    let s = lt.try_solve(&t(&lt.try_solve(&phi)?)?)?;
    s.try_add(t(&s)?)?.try_mul(0.5)
}

/// dA = V (diag(dw) + F ∘ Vᵀ dV) Vᵀ with F the gaps, for a symmetric argument.
fn eigh(w: &Tensor, v: &Tensor, dw: &Tensor, dv: Option<&Tensor>) -> Result<Tensor> {
    let mut inner = diagonal(dw)?;
    // The vectors of equal values are not differentiable; the values' gradient does not need them.
    if let Some(dv) = dv {
        inner = inner.try_add(gaps(w)?.try_mul(t(v)?.try_matmul(dv)?)?)?;
    }
    let a = v.try_matmul(&inner)?.try_matmul(&t(v)?)?;
    a.try_add(t(&a)?)?.try_mul(0.5)
}

/// The part of `d` outside of the span of the orthonormal columns of `u`.
fn outside(u: &Tensor, d: &Tensor) -> Result<Tensor> {
    d.try_sub(u.try_matmul(&t(u)?.try_matmul(d)?)?)
}

fn svd(u: &Tensor, s: &Tensor, vt: &Tensor, [du, ds, dvt]: [&Option<Tensor>; 3]) -> Result<Tensor> {
    let v = t(vt)?;
    let (m, n, k) = (u.dims()[u.rank() - 2], v.dims()[v.rank() - 2], s.dims()[s.rank() - 1]);
    let row = s.try_unsqueeze(-2)?;
    let f = gaps(&s.try_square()?)?;
    let skew = |a: &Tensor, da: &Tensor| -> Result<Tensor> {
        let p = t(a)?.try_matmul(da)?;
        f.try_mul(p.try_sub(t(&p)?)?)
    };
    let mut inner = match ds {
        Some(ds) => diagonal(ds)?,
        None => diagonal(&s.try_zeros_like()?)?,
    };
    // What lies outside of the spans of U and of V, where these are not square.
    let mut rest: Option<Tensor> = None;
    if let Some(du) = du {
        inner = inner.try_add(skew(u, du)?.try_mul(&row)?)?;
        if m > k {
            rest = Some(outside(u, du)?.try_div(&row)?.try_matmul(vt)?);
        }
    }
    if let Some(dvt) = dvt {
        let dv = t(dvt)?;
        inner = inner.try_add(skew(&v, &dv)?.try_mul(s.try_unsqueeze(-1)?)?)?;
        if n > k {
            let more = u.try_matmul(&t(&outside(&v, &dv)?.try_div(&row)?)?)?;
            rest = Some(rest.map_or(Ok(more.clone()), |r| r.try_add(&more))?);
        }
    }
    let a = u.try_matmul(&inner)?.try_matmul(vt)?;
    rest.map_or(Ok(a.clone()), |r| a.try_add(&r))
}

/// For a square or tall A: dA = (dQ + Q · sym(R dRᵀ - dQᵀ Q)) R⁻ᵀ, where sym mirrors the lower triangle. A wide A is [X, Y] with
/// X = Q U and Y = Q V: then dY = Q dV, and X gets the rest.
fn qr(q: &Tensor, r: &Tensor, dq: &Tensor, dr: &Tensor) -> Result<Tensor> {
    let (k, n) = (r.dims()[r.rank() - 2], r.dims()[r.rank() - 1]);
    if n > k {
        let (u, v) = (r.try_narrow(-1, 0, k)?, r.try_narrow(-1, k, n - k)?);
        let (du, dv) = (dr.try_narrow(-1, 0, k)?, dr.try_narrow(-1, k, n - k)?);
        let y = q.try_matmul(&v)?;
        let dx = qr(q, &u, &dq.try_add(y.try_matmul(&t(&dv)?)?)?, &du)?;
        return Tensor::try_cat(&[&dx, &q.try_matmul(&dv)?], -1);
    }
    let dr = dr.try_triu(0)?;
    let m = r.try_matmul(&t(&dr)?)?.try_sub(t(dq)?.try_matmul(q)?)?;
    let mirrored = m.try_tril(0)?.try_add(t(&m.try_tril(-1)?)?)?;
    let b = dq.try_add(q.try_matmul(&mirrored)?)?;
    t(&r.try_solve(&t(&b)?)?)
}

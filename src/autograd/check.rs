//! A public gradient checker: vjps against central differences in f64.

use super::grad_with;
use crate::{DType, Device, Error, Result, Tensor};

/// How [`check_gradients`] compares.
///
/// ```
/// use fornax::{Device, GradCheck, Tensor, check_gradients};
/// let x = Tensor::from_vec(vec![0.5f64], 1, Device::cpu())?;
/// let loose = GradCheck { rtol: 1e-3, ..GradCheck::default() };
/// check_gradients(|x| x[0].try_exp(), &[&x], loose)?;
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct GradCheck {
    /// The step of the central difference.
    pub step: f64,
    /// Allowed difference relative to the size of the gradient.
    pub rtol: f64,
    /// Allowed difference beside that.
    pub atol: f64,
}

impl Default for GradCheck {
    fn default() -> Self {
        GradCheck { step: 1e-5, rtol: 1e-5, atol: 1e-7 }
    }
}

/// Compares the gradient of `f` with central differences, `(f(x + h) − f(x − h)) / 2h`, in f64 on the CPU, for every element of every input.
/// The output may have any shape: it is reduced with fixed pseudo-random weights, so that a wrong element cannot hide behind another.
///
/// # Errors
/// `Error::Argument` names the worst element where a gradient is wrong; also whatever `f` returns.
///
/// ```
/// use fornax::{check_gradients, Device, GradCheck, Tensor};
/// let x = Tensor::from_vec(vec![0.3f64, -1.2, 2.0], 3, Device::cpu())?;
/// check_gradients(|x| x[0].try_tanh()?.try_mul(&x[0]), &[&x], GradCheck::default())?;
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn check_gradients(f: impl Fn(&[Tensor]) -> Result<Tensor>, inputs: &[&Tensor], options: GradCheck) -> Result<()> {
    let cpu = Device::cpu();
    let values: Vec<Vec<f64>> = inputs.iter().map(|t| t.to_vec::<f64>()).collect::<Result<_>>()?;
    let make = |v: &[Vec<f64>], grad: bool| -> Result<Vec<Tensor>> {
        v.iter()
            .zip(inputs)
            .map(|(v, t)| {
                let x = Tensor::from_vec(v.clone(), t.shape(), cpu)?;
                Ok(if grad { x.requires_grad() } else { x })
            })
            .collect()
    };
    let weight = |i: usize| ((i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 / (1u64 << 24) as f64 + 0.5;
    let weights = |y: &Tensor| Tensor::from_vec((0..y.numel()).map(weight).collect::<Vec<f64>>(), y.shape(), cpu);
    let at = |v: &[Vec<f64>]| -> Result<f64> {
        let y = f(&make(v, false)?)?.try_cast(DType::F64)?;
        Ok(y.to_vec::<f64>()?.iter().enumerate().map(|(i, y)| y * weight(i)).sum())
    };
    let xs = make(&values, true)?;
    let y = f(&xs)?;
    let w = weights(&y)?;
    let refs: Vec<&Tensor> = xs.iter().collect();
    // What hangs on no input has the gradient zero, which the differences must agree with.
    let grads = if y.is_differentiable() { grad_with(&[&y], &[Some(&w)], &refs)? } else { vec![None; refs.len()] };
    let mut moved = values.clone();
    for (k, g) in grads.iter().enumerate() {
        let found = match g {
            Some(g) => g.to_vec::<f64>()?,
            None => vec![0.0; values[k].len()],
        };
        for i in 0..values[k].len() {
            let h = options.step * values[k][i].abs().max(1.0);
            moved[k][i] = values[k][i] + h;
            let up = at(&moved)?;
            moved[k][i] = values[k][i] - h;
            let down = at(&moved)?;
            moved[k][i] = values[k][i];
            let want = (up - down) / (2.0 * h);
            let error = (found[i] - want).abs();
            if !(error <= options.atol + options.rtol * want.abs().max(found[i].abs())) {
                let message = format!(
                    "the gradient of input {k} at element {i} (value {}) is {} but central differences give {want}",
                    values[k][i], found[i]
                );
                return Err(Error::argument("check_gradients", message));
            }
        }
    }
    Ok(())
}

/// As [`check_gradients`], one order up: checks the gradient of `f`'s gradient, with respect to the inputs and to the cotangent of `f`'s output.
/// An op whose gradient does not depend on its inputs (a linear one) has a second derivative of zero.
///
/// # Errors
/// As [`check_gradients`]; input `inputs.len()` is the cotangent.
///
/// ```
/// use fornax::{check_second_gradients, Device, GradCheck, Tensor};
/// let x = Tensor::from_vec(vec![0.3f64, -1.2, 2.0], 3, Device::cpu())?;
/// check_second_gradients(|x| x[0].try_tanh()?.try_mul(&x[0]), &[&x], GradCheck::default())?;
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn check_second_gradients(f: impl Fn(&[Tensor]) -> Result<Tensor>, inputs: &[&Tensor], options: GradCheck) -> Result<()> {
    let cpu = Device::cpu();
    let n = inputs.len();
    let doubles = |t: &&Tensor| Tensor::from_vec(t.to_vec::<f64>()?, t.shape(), cpu);
    let mut all: Vec<Tensor> = inputs.iter().map(doubles).collect::<Result<_>>()?;
    let y = f(&all)?;
    let cotangent = (0..y.numel()).map(|i| 1.0 + (i as f64 * 0.7).sin() * 0.5).collect();
    all.push(Tensor::from_vec(cotangent, y.shape(), cpu)?);
    let gradient = |t: &[Tensor]| -> Result<Tensor> {
        let xs: Vec<Tensor> = t[..n].iter().map(|x| if x.is_differentiable() { x.clone() } else { x.requires_grad() }).collect();
        let y = f(&xs)?;
        let refs: Vec<&Tensor> = xs.iter().collect();
        let grads = if y.is_differentiable() { grad_with(&[&y], &[Some(&t[n])], &refs)? } else { vec![None; n] };
        let flat = |(g, x): (Option<Tensor>, &Tensor)| g.map_or_else(|| x.try_zeros_like(), Ok)?.try_reshape(x.numel());
        let parts: Vec<Tensor> = grads.into_iter().zip(&xs).map(flat).collect::<Result<_>>()?;
        Tensor::try_cat(&parts.iter().collect::<Vec<_>>(), 0)
    };
    check_gradients(gradient, &all.iter().collect::<Vec<_>>(), options)
}

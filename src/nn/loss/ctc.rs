//! Connectionist temporal classification.

use super::{floats, losses};
use crate::ops::ctc::ctc;
use crate::ops::movement::narrowed;
use crate::{DType, Error, Reduction, Result, Tensor};

/// Labels that stand one behind the other, `[Σ lengths]`, as rows `[N, Σ lengths]` of which each holds its own in front. No length is read.
fn apart(targets: &Tensor, lengths: &Tensor) -> Result<Tensor> {
    let total = targets.dims()[0];
    if total == 0 {
        return targets.try_unsqueeze(0)?.try_expand([lengths.dims()[0], 0]);
    }
    let first = lengths.try_cumsum(0)?.try_sub(lengths)?.try_unsqueeze(1)?;
    let at = Tensor::try_arange(0, total, 1, (DType::I32, targets.device()))?.try_add(first)?.try_clamp(0, total - 1)?;
    let shape = [at.dims()[0], total];
    targets.try_index_select(0, &at.try_flatten(0, -1)?)?.try_reshape(shape)
}

losses! {
    /// Connectionist temporal classification (Graves et al. 2006): `−ln p(labels)`, where p sums over all ways to stretch the labels along the input with repeats
    /// and blanks.
    ///
    /// The log-probabilities are `[T, N, C]` (from [`Tensor::log_softmax`]), the labels `[N, S]`, padded, with how many count of each, `[N]`; or all behind each
    /// other, `[Σ lengths]` (which takes more memory, for no length is read on the host). The lengths of the inputs are `[N]` too. One sequence alone is `[T, C]` with
    /// labels `[S]` and lengths `[]`. The mean is that of the losses divided by the number of labels (by 1, where there are none).
    ///
    /// As PyTorch's, the gradient is the one that belongs to log-probabilities out of a log-softmax: `exp(x) − posterior`. An input too short for its labels has an
    /// infinite loss, and NaN for gradients. A label that is no class, or a length beyond its axis, makes the next read an `Error::Index`.
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let cpu = Device::cpu();
    /// let x = Tensor::zeros([2, 1, 3], cpu).log_softmax(-1);
    /// let ids = |v: &[i32]| Tensor::from_slice(v, v.len(), cpu);
    /// // Of 9 paths, "1 blank", "blank 1" and "1 1" say 1.
    /// let loss = nn::ctc_loss(&x, &ids(&[1])?.unsqueeze(0), &ids(&[2])?, &ids(&[1])?)?.item::<f32>()?;
    /// assert!((loss - 3f32.ln()).abs() < 1e-6);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    CTCLoss ctc_loss(log_probs: &Tensor, targets: &Tensor, input_lengths: &Tensor, target_lengths: &Tensor) reduced by Mean {
        /// The class that stands for no label.
        blank: usize = 0,
        /// Whether infinite losses and their gradients are 0.
        zero_infinity: bool = false,
    } [] |s, op| {
        let ([x], dtype) = floats(op, [log_probs])?;
        let ids = [targets, input_lengths, target_lengths];
        if ids.iter().any(|t| !t.dtype().is_int()) {
            return Err(Error::dtype(op, &ids.map(|t| t.dtype()), "labels and lengths of integer dtypes"));
        }
        let single = x.rank() == 2;
        let lift = |t: &Tensor, axis: isize| if single { t.try_unsqueeze(axis) } else { Ok(t.clone()) };
        let (x, inputs, labels) = (lift(&x, 1)?, narrowed(&lift(input_lengths, 0)?)?, narrowed(&lift(target_lengths, 0)?)?);
        let fits = x.rank() == 3 && [&inputs, &labels].iter().all(|t| t.dims() == &x.dims()[1..2]) && match targets.dims() {
            [_] => true,
            [n, _] => *n == x.dims()[1],
            _ => false,
        };
        if !fits {
            let shapes = [log_probs.shape(), targets.shape(), input_lengths.shape(), target_lengths.shape()];
            let expected = "log-probabilities [T, N, C], labels [N, S] or [Σ lengths], lengths [N] and [N]; or [T, C], [S], [] and []";
            return Err(Error::shape(op, &shapes, expected));
        }
        if s.blank >= x.dims()[2] {
            return Err(Error::argument(op, format!("blank {}: one of the {} classes is wanted", s.blank, x.dims()[2])));
        }
        let targets = narrowed(targets)?;
        let targets = match targets.rank() {
            1 if single => targets.try_unsqueeze(0)?,
            1 => apart(&targets, &labels)?,
            _ => targets,
        };
        let losses = ctc([&x, &targets, &inputs, &labels], s.blank, s.zero_infinity)?;
        let losses = match s.reduction {
            Reduction::Mean => losses.try_div(labels.try_maximum(1)?.try_cast(x.dtype())?)?,
            _ => losses,
        };
        let losses = if single { losses.try_squeeze(0)? } else { losses };
        s.reduction.apply(&losses)?.try_cast(dtype)
    };
}

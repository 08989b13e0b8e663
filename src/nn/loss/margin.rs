//! Losses that count what falls short of a margin.

use super::{class_factor, factor, finish, floats, losses, same_shape, times};
use crate::graph::asked::asked;
use crate::ops::movement::narrowed;
use crate::{DType, Error, Result, Tensor};

/// An input `[N, C]` or `[C]` of classes as `[N, C]`, and integer targets of it as `[N, ..]`.
fn rows(op: &'static str, input: &Tensor, target: &Tensor, labels: bool) -> Result<(Tensor, Tensor)> {
    if !target.dtype().is_int() {
        return Err(Error::dtype(op, &[target.dtype()], "class indices: targets of an integer dtype"));
    }
    let fits = match (input.dims(), target.dims(), labels) {
        ([_, _] | [_], t, true) => input.dims() == t,
        ([n, _], [m], false) => n == m,
        ([_], [], false) => true,
        _ => false,
    };
    if !fits {
        let expected =
            if labels { "an input [N, C] or [C], and targets of its shape" } else { "an input [N, C] and targets [N], or [C] and []" };
        return Err(Error::shape(op, &[input.shape(), target.shape()], expected));
    }
    let target = narrowed(target)?;
    match input.rank() {
        1 => Ok((input.try_unsqueeze(0)?, target.try_unsqueeze(0)?)),
        _ => Ok((input.clone(), target)),
    }
}

losses! {
    /// `max(0, m − t x)` of scores x and targets t of -1 or 1, with the margin m; the squared one with `squared`. (Keras has it by this name.)
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let score = Tensor::from_slice(&[0.5f32, 2.0], 2, Device::cpu())?;
    /// assert_eq!(nn::hinge_loss(&score, &Tensor::ones(2, Device::cpu()))?.item::<f32>()?, 0.25);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    HingeLoss hinge_loss(input: &Tensor, target: &Tensor) reduced by Mean {
        /// The margin.
        margin: f64 = 1.0,
        /// Whether to square what falls short.
        squared: bool = false,
    } [] |s, op| {
        same_shape(op, &[input, target])?;
        let ([x, t], dtype) = floats(op, [input, target])?;
        let short = t.try_mul(x)?.try_neg()?.try_add(s.margin)?.try_relu()?;
        finish(&if s.squared { short.try_square()? } else { short }, s.reduction, dtype)
    };
    /// Of distances x: x itself for targets of 1, `max(0, m − x)` for targets of -1.
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let x = Tensor::from_slice(&[0.5f32, 0.25], 2, Device::cpu())?;
    /// let target = Tensor::from_slice(&[1, -1], 2, Device::cpu())?;
    /// assert_eq!(nn::hinge_embedding_loss(&x, &target)?.item::<f32>()?, (0.5 + 0.75) / 2.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    HingeEmbeddingLoss hinge_embedding_loss(input: &Tensor, target: &Tensor) reduced by Mean {
        /// The margin m.
        margin: f64 = 1.0,
    } [] |s, op| {
        same_shape(op, &[input, target])?;
        let ([x, t], dtype) = floats(op, [input, target])?;
        let apart = x.try_neg()?.try_add(s.margin)?.try_relu()?;
        let losses = t.try_ne(1)?.try_where(apart, 0.0)?.try_add(t.try_ne(-1)?.try_where(&x, 0.0)?)?;
        finish(&losses, s.reduction, dtype)
    };
    /// `max(0, −t (x₁ − x₂) + m)`: with targets of 1 the first should rank higher, with -1 the second.
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let (a, b) = (Tensor::ones(3, Device::cpu()), Tensor::zeros(3, Device::cpu()));
    /// assert_eq!(nn::margin_ranking_loss(&a, &b, &Tensor::full(3, -1.0, Device::cpu()))?.item::<f32>()?, 1.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    MarginRankingLoss margin_ranking_loss(input1: &Tensor, input2: &Tensor, target: &Tensor) reduced by Mean {
        /// The margin m.
        margin: f64 = 0.0,
    } [] |s, op| {
        same_shape(op, &[input1, input2, target])?;
        let ([x, y, t], dtype) = floats(op, [input1, input2, target])?;
        let losses = t.try_neg()?.try_mul(x.try_sub(y)?)?.try_add(s.margin)?.try_relu()?;
        finish(&losses, s.reduction, dtype)
    };
    /// `ln(1 + e^(−t x))` of scores x and targets t of -1 or 1, without overflow.
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let x = Tensor::zeros(3, Device::cpu());
    /// assert_eq!(nn::soft_margin_loss(&x, &Tensor::ones(3, Device::cpu()))?.item::<f32>()?, 2f32.ln());
    /// # Ok::<(), fornax::Error>(())
    /// ```
    SoftMarginLoss soft_margin_loss(input: &Tensor, target: &Tensor) reduced by Mean {} [] |s, op| {
        same_shape(op, &[input, target])?;
        let ([x, t], dtype) = floats(op, [input, target])?;
        finish(&t.try_neg()?.try_mul(x)?.try_softplus(1.0)?, s.reduction, dtype)
    };
    /// For scores `[N, C]` (or `[C]`) and class indices `[N]`: `Σ_{j≠t} w_t · max(0, m − x_t + x_j)^p / C`.
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let x = Tensor::from_slice(&[1.0f32, 0.5, -2.0], [1, 3], Device::cpu())?;
    /// let target = Tensor::from_slice(&[0], 1, Device::cpu())?;
    /// assert_eq!(nn::multi_margin_loss(&x, &target)?.item::<f32>()?, 0.5 / 3.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    MultiMarginLoss multi_margin_loss(input: &Tensor, target: &Tensor) reduced by Mean {
        /// The power p, 1 or 2.
        p: usize = 1,
        /// The margin m.
        margin: f64 = 1.0,
    } [
        /// A factor for each class, `[C]`.
        weight
    ] |s, op| {
        if !(1..=2).contains(&s.p) {
            return Err(Error::argument(op, format!("p = {}: 1 or 2 is wanted", s.p)));
        }
        let ([x], dtype) = floats(op, [input])?;
        let (x, t) = rows(op, &x, target, false)?;
        let classes = x.dims()[1];
        let t = t.try_unsqueeze(1)?;
        let short = x.try_sub(asked(op, "", || x.try_gather(1, &t))?)?.try_add(s.margin)?.try_relu()?;
        let other = Tensor::try_arange(0, classes, 1, (DType::I32, x.device()))?.try_ne(&t)?;
        let each = other.try_where(if s.p == 2 { short.try_square()? } else { short }, 0.0)?.try_sum(1)?;
        let weight = match class_factor(op, &s.weight, &x, classes)? {
            Some(w) => Some(asked(op, "", || w.try_index_select(0, &t.try_squeeze(1)?))?),
            None => None,
        };
        let losses = times(each, weight)?.try_mul(1.0 / classes as f64)?;
        finish(&if input.rank() == 1 { losses.try_squeeze(0)? } else { losses }, s.reduction, dtype)
    };
    /// For scores `[N, C]` (or `[C]`) and as many class indices, of which those before the first negative one count:
    /// `Σ_j Σ_i max(0, 1 − (x_{t_j} − x_i)) / C` over the targets j and the classes i that are none.
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let x = Tensor::from_slice(&[0.1f32, 0.2, 0.4, 0.8], [1, 4], Device::cpu())?;
    /// let target = Tensor::from_slice(&[3, 0, -1, 1], [1, 4], Device::cpu())?;
    /// assert!((nn::multilabel_margin_loss(&x, &target)?.item::<f32>()? - 0.85).abs() < 1e-6);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    MultiLabelMarginLoss multilabel_margin_loss(input: &Tensor, target: &Tensor) reduced by Mean {} [] |s, op| {
        let ([x], dtype) = floats(op, [input])?;
        let (x, t) = rows(op, &x, target, true)?;
        let classes = x.dims()[1];
        let named = t.try_ge(0)?.try_cast(DType::I32)?.try_cumprod(1)?;
        let t = t.try_mul(&named)?;
        let named = named.try_gt(0)?.try_unsqueeze(2)?;
        // Which class i each target j names, [N, j, i].
        let hit = Tensor::try_arange(0, classes, 1, (DType::I32, x.device()))?.try_eq(t.try_unsqueeze(2)?)?.try_logical_and(&named)?;
        let is_target = hit.try_cast(x.dtype())?.try_sum(1)?.try_gt(0.0)?.try_unsqueeze(1)?;
        let short = x.try_unsqueeze(1)?.try_sub(asked(op, "", || x.try_gather(1, &t))?.try_unsqueeze(2)?)?.try_add(1.0)?.try_relu()?;
        let counts = is_target.try_logical_not()?.try_logical_and(&named)?;
        let losses = counts.try_where(short, 0.0)?.try_sum([1, 2])?.try_mul(1.0 / classes as f64)?;
        finish(&if input.rank() == 1 { losses.try_squeeze(0)? } else { losses }, s.reduction, dtype)
    };
    /// The binary cross-entropy of logits `[N, .., C]` and targets of 0 or 1, averaged over the classes, the last axis.
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let x = Tensor::zeros([2, 3], Device::cpu());
    /// assert_eq!(nn::multilabel_soft_margin_loss(&x, &Tensor::ones([2, 3], Device::cpu()))?.item::<f32>()?, 2f32.ln());
    /// # Ok::<(), fornax::Error>(())
    /// ```
    MultiLabelSoftMarginLoss multilabel_soft_margin_loss(input: &Tensor, target: &Tensor) reduced by Mean {} [
        /// A factor for each class, `[C]`; it broadcasts.
        weight
    ] |s, op| {
        same_shape(op, &[input, target])?;
        if input.rank() == 0 {
            return Err(Error::shape(op, &[input.shape()], "an input [.., C]"));
        }
        let ([x, t], dtype) = floats(op, [input, target])?;
        let weight = factor(op, &s.weight, &x)?;
        finish(&times(x.bce_with_logits(&t, None)?, weight)?.try_mean(-1)?, s.reduction, dtype)
    };
}

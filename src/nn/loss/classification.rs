//! Losses of classes and probabilities.

use super::{factor, finish, floats, losses, same_shape, times};
use crate::nn::Buffer;
use crate::{CrossEntropy, Error, Tensor};

losses! {
    /// The cross-entropy of logits `[N, C, ..]` (or `[C]`) and class indices `[N, ..]`, or probabilities of the logits' shape: see [`Tensor::cross_entropy`].
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let logits = Tensor::zeros([2, 4], Device::cpu());
    /// let target = Tensor::from_slice(&[1i32, 3], 2, Device::cpu())?;
    /// let loss = nn::CrossEntropyLoss::new().label_smoothing(0.1).forward(&logits, &target)?.item::<f32>()?;
    /// assert!((loss - 4f32.ln()).abs() < 1e-6);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    CrossEntropyLoss cross_entropy(input: &Tensor, target: &Tensor) reduced by Mean {
        /// Positions with this class index count for nothing.
        ignore_index: i32 = -100,
        /// ε in 0..=1: the target becomes `(1 − ε) · target + ε / C`.
        label_smoothing: f64 = 0.0,
    } [
        /// A factor for each class, `[C]`.
        weight
    ] |s, _op| {
        let weight = s.weight.as_ref().map(Buffer::get);
        let (ignore_index, label_smoothing, reduction) = (s.ignore_index, s.label_smoothing, s.reduction);
        input.try_cross_entropy(target, &CrossEntropy { weight, ignore_index, label_smoothing, reduction })
    };
    /// The negative log-likelihood of log-probabilities `[N, C, ..]` (or `[C]`) at class indices `[N, ..]`: see [`Tensor::nll_loss`].
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let x = Tensor::from_slice(&[-1.0f32, -2.0], [1, 2], Device::cpu())?;
    /// let target = Tensor::from_slice(&[1i32], 1, Device::cpu())?;
    /// assert_eq!(nn::nll_loss(&x, &target)?.item::<f32>()?, 2.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    NLLLoss nll_loss(input: &Tensor, target: &Tensor) reduced by Mean {
        /// Positions with this class index count for nothing.
        ignore_index: i32 = -100,
    } [
        /// A factor for each class, `[C]`.
        weight
    ] |s, _op| {
        let weight = s.weight.as_ref().map(Buffer::get);
        let (ignore_index, reduction) = (s.ignore_index, s.reduction);
        input.try_nll_loss(target, &CrossEntropy { weight, ignore_index, label_smoothing: 0.0, reduction })
    };
    /// The binary cross-entropy of probabilities: `−(t ln x + (1 − t) ln(1 − x))`. As in PyTorch the logarithms are held at -100, and in the gradient
    /// `(x − t) / (x (1 − x))` the denominator at 10⁻¹². A probability outside 0..=1 gives NaN.
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let x = Tensor::full(4, 0.5, Device::cpu());
    /// assert_eq!(nn::binary_cross_entropy(&x, &x)?.item::<f32>()?, 2f32.ln());
    /// # Ok::<(), fornax::Error>(())
    /// ```
    BCELoss binary_cross_entropy(input: &Tensor, target: &Tensor) reduced by Mean {} [
        /// A factor for each loss; it broadcasts.
        weight
    ] |s, op| {
        same_shape(op, &[input, target])?;
        let ([x, t], dtype) = floats(op, [input, target])?;
        let weight = factor(op, &s.weight, &x)?;
        finish(&times(x.bce(&t)?, weight)?, s.reduction, dtype)
    };
    /// The binary cross-entropy of logits, `−(p t ln σ(x) + (1 − t) ln(1 − σ(x)))` with a factor p for positive targets, by default 1. Accurate for logits of any
    /// size.
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let x = Tensor::from_slice(&[-100.0f32, 100.0], 2, Device::cpu())?;
    /// let loss = nn::binary_cross_entropy_with_logits(&x, &Tensor::ones(2, Device::cpu()))?;
    /// assert_eq!(loss.item::<f32>()?, 50.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    BCEWithLogitsLoss binary_cross_entropy_with_logits(input: &Tensor, target: &Tensor) reduced by Mean {} [
        /// A factor for each loss; it broadcasts.
        weight,
        /// A factor for positive targets, `[C]` for inputs `[.., C]`, say; it broadcasts. Above 1 it favours recall.
        pos_weight
    ] |s, op| {
        same_shape(op, &[input, target])?;
        let ([x, t], dtype) = floats(op, [input, target])?;
        let (weight, positive) = (factor(op, &s.weight, &x)?, factor(op, &s.pos_weight, &x)?);
        finish(&times(x.bce_with_logits(&t, positive.as_ref())?, weight)?, s.reduction, dtype)
    };
    /// The terms `t (ln t − x)` of the Kullback–Leibler divergence of log-probabilities x from probabilities t (0 where t is 0), or with `log_target`
    /// `eᵗ (t − x)` from log-probabilities.
    ///
    /// By default it is the mean over all elements, as in PyTorch; the divergence itself, summed over classes and averaged over samples, is
    /// [`Reduction::BatchMean`](crate::Reduction::BatchMean).
    ///
    /// ```
    /// use fornax::{Device, Reduction, Tensor, nn};
    /// let target = Tensor::full([3, 2], 0.5, Device::cpu());
    /// let x = Tensor::from_slice(&[0.25f32, 0.75], 2, Device::cpu())?.log().expand([3, 2]);
    /// let divergence = nn::KLDivLoss::new().reduction(Reduction::BatchMean).forward(&x, &target)?.item::<f32>()?;
    /// assert!((divergence - 0.5 * (2f32.ln() + (2f32 / 3.0).ln())).abs() < 1e-6);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    KLDivLoss kl_div(input: &Tensor, target: &Tensor) reduced by Mean {
        /// Whether the target holds log-probabilities too.
        log_target: bool = false,
    } [] |s, op| {
        same_shape(op, &[input, target])?;
        let ([x, t], dtype) = floats(op, [input, target])?;
        let losses = match s.log_target {
            true => t.try_exp()?.try_mul(t.try_sub(x)?)?,
            false => t.try_xlogy(&t)?.try_sub(t.try_mul(x)?)?,
        };
        finish(&losses, s.reduction, dtype)
    };
    /// The focal loss of logits, which turns away from what is classified well already: `−αₜ (1 − pₜ)^γ ln pₜ`, with pₜ the probability of what the target says and
    /// αₜ = α for positive targets, 1 − α for negative ones (Lin et al. 2017). As torchvision's, it is not averaged by default.
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let x = Tensor::zeros(2, Device::cpu());
    /// let each = nn::sigmoid_focal_loss(&x, &Tensor::ones(2, Device::cpu()))?.to_vec::<f32>()?;
    /// assert!((each[0] - 0.25 * 0.25 * 2f32.ln()).abs() < 1e-7);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    SigmoidFocalLoss sigmoid_focal_loss(input: &Tensor, target: &Tensor) reduced by None {
        /// The factor of positive targets in 0..=1; negative: no factors.
        alpha: f64 = 0.25,
        /// γ, the power of 1 − pₜ.
        gamma: f64 = 2.0,
    } [] |s, op| {
        if !(s.alpha <= 1.0) {
            return Err(Error::argument(op, format!("alpha {}: a number in 0..=1 is wanted, or a negative one for no factors", s.alpha)));
        }
        same_shape(op, &[input, target])?;
        let ([x, t], dtype) = floats(op, [input, target])?;
        // 1 − pₜ, without the subtraction.
        let negative = t.try_neg()?.try_add(1.0)?;
        let miss = x.try_sigmoid()?.try_mul(&negative)?.try_add(x.try_neg()?.try_sigmoid()?.try_mul(&t)?)?;
        let mut losses = x.bce_with_logits(&t, None)?.try_mul(miss.try_pow(s.gamma)?)?;
        if s.alpha >= 0.0 {
            losses = losses.try_mul(t.try_mul(s.alpha)?.try_add(negative.try_mul(1.0 - s.alpha)?)?)?;
        }
        finish(&losses, s.reduction, dtype)
    };
    /// Knowledge distillation (Hinton et al. 2015): `α T² KL(softmax(teacher/T) ‖ softmax(student/T)) + (1 − α) cross-entropy(student, target)`.
    ///
    /// Both logits are `[N, C, ..]` (or `[C]`), the class indices `[N, ..]`. The teacher is a constant. The mean is over positions.
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let student = Tensor::from_slice(&[0.0f32, 2.0, 1.0, 1.0], [2, 2], Device::cpu())?;
    /// let target = Tensor::from_slice(&[1i32, 0], 2, Device::cpu())?;
    /// // A teacher that agrees teaches nothing.
    /// let loss = nn::DistillationLoss::new().alpha(1.0).forward(&student, &student, &target)?;
    /// assert!(loss.item::<f32>()?.abs() < 1e-6);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    DistillationLoss distillation_loss(student: &Tensor, teacher: &Tensor, target: &Tensor) reduced by Mean {
        /// T, which softens the probabilities that are compared.
        temperature: f64 = 2.0,
        /// α, the share of the teacher's part.
        alpha: f64 = 0.5,
    } [] |s, op| {
        if !(s.temperature > 0.0) || !(0.0..=1.0).contains(&s.alpha) {
            let message = format!("temperature {}, alpha {}: a positive temperature and a share in 0..=1 are wanted", s.temperature, s.alpha);
            return Err(Error::argument(op, message));
        }
        same_shape(op, &[student, teacher])?;
        let ([x, teacher], dtype) = floats(op, [student, &teacher.detach()])?;
        let hard = x.try_cross_entropy(target, &CrossEntropy { reduction: crate::Reduction::None, ..CrossEntropy::default() })?;
        let axis = (x.rank() > 1) as isize;
        let soft = |t: &Tensor| t.try_mul(1.0 / s.temperature)?.try_log_softmax(axis);
        let (x, t) = (soft(&x)?, soft(&teacher)?);
        let divergence = t.try_exp()?.try_mul(t.try_sub(x)?)?.try_sum(axis)?;
        let losses = divergence.try_mul(s.alpha * s.temperature * s.temperature)?.try_add(hard.try_mul(1.0 - s.alpha)?)?;
        finish(&losses, s.reduction, dtype)
    };
}

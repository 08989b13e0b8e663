//! Losses of embeddings: of how vectors lie to each other.

use super::{finish, floats, losses, same_shape};
use crate::ops::distance::distance;
use crate::{CrossEntropy, DType, Error, Reduction, Tensor};

losses! {
    /// Of the cosine of two vectors `[N, D]` (or `[D]`): `1 − cos` for targets `[N]` of 1, `max(0, cos − m)` for targets of -1.
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let x = Tensor::ones([2, 3], Device::cpu());
    /// let target = Tensor::from_slice(&[1, -1], 2, Device::cpu())?;
    /// assert!((nn::cosine_embedding_loss(&x, &x, &target)?.item::<f32>()? - 0.5).abs() < 1e-6);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    CosineEmbeddingLoss cosine_embedding_loss(input1: &Tensor, input2: &Tensor, target: &Tensor) reduced by Mean {
        /// The margin m, the cosine up to which unlike vectors cost nothing: a number in -1..=1, of which 0..0.5 is sensible.
        margin: f64 = 0.0,
    } [] |s, op| {
        if input1.shape() != input2.shape() || !(1..=2).contains(&input1.rank()) || target.dims() != &input1.dims()[..input1.rank() - 1] {
            let shapes = [input1.shape(), input2.shape(), target.shape()];
            return Err(Error::shape(op, &shapes, "inputs [N, D] and targets [N], or [D] and []"));
        }
        let ([x, y, t], dtype) = floats(op, [input1, input2, target])?;
        // Not 0 / 0 for a vector of zeros.
        let square = |x: &Tensor| x.try_square()?.try_sum(-1)?.try_add(1e-12);
        let cos = x.try_mul(&y)?.try_sum(-1)?.try_div(square(&x)?.try_mul(square(&y)?)?.try_sqrt()?)?;
        let unlike = t.try_eq(-1)?.try_where(cos.try_sub(s.margin)?.try_relu()?, 0.0)?;
        finish(&t.try_eq(1)?.try_where(cos.try_neg()?.try_add(1.0)?, unlike)?, s.reduction, dtype)
    };
    /// `max(0, d(a, p) − d(a, n) + m)`: what is alike should lie nearer to the anchor, by a margin, than what is not (Balntas et al. 2016). The distance is
    /// `‖x − y + eps‖ₚ` over the last axis; all have one shape, `[.., D]`.
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let anchor = Tensor::zeros([2, 3], Device::cpu());
    /// assert_eq!(nn::triplet_margin_loss(&anchor, &anchor, &anchor)?.item::<f32>()?, 1.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    TripletMarginLoss triplet_margin_loss(anchor: &Tensor, positive: &Tensor, negative: &Tensor) reduced by Mean {
        /// The margin m.
        margin: f64 = 1.0,
        /// The norm of the distance.
        p: f64 = 2.0,
        /// What is added to differences, so that the distance of equal vectors has a gradient.
        eps: f64 = 1e-6,
        /// Whether the negative's distance is that to the anchor or to the positive, whichever is smaller.
        swap: bool = false,
    } [] |s, op| {
        if !(s.margin > 0.0) {
            return Err(Error::argument(op, format!("margin {}: a positive number is wanted", s.margin)));
        }
        same_shape(op, &[anchor, positive, negative])?;
        let ([a, p, n], dtype) = floats(op, [anchor, positive, negative])?;
        let far = |x: &Tensor, y: &Tensor| distance(x, y, s.p, s.eps);
        let mut unlike = far(&a, &n)?;
        if s.swap {
            unlike = unlike.try_minimum(far(&p, &n)?)?;
        }
        finish(&far(&a, &p)?.try_sub(unlike)?.try_add(s.margin)?.try_relu()?, s.reduction, dtype)
    };
    /// The cross-entropy of finding a query's positive key among negative ones by cosine (van den Oord et al. 2018): `−ln softmax(cos(q, k) / T)` at the positive.
    ///
    /// Queries and positives are `[N, D]`. The negatives are `[M, D]`, the same for all queries, or `[N, M, D]`; without any, the positives of the other
    /// queries (as SimCLR and CLIP have it).
    ///
    /// ```
    /// use fornax::{Device, Tensor, nn};
    /// let q = Tensor::eye(4, Device::cpu());
    /// let sure = nn::InfoNCELoss::new().temperature(0.05).forward(&q, &q, None)?.item::<f32>()?;
    /// let unsure = nn::InfoNCELoss::new().temperature(1.0).forward(&q, &q, None)?.item::<f32>()?;
    /// assert!(sure < 1e-7 && (unsure - (1.0 + 3.0 * (-1f32).exp()).ln()).abs() < 1e-6);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    InfoNCELoss info_nce_loss(query: &Tensor, positive: &Tensor, negatives: Option<&Tensor>) reduced by Mean {
        /// T.
        temperature: f64 = 0.1,
    } [] |s, op| {
        if !(s.temperature > 0.0) {
            return Err(Error::argument(op, format!("temperature {}: a positive number is wanted", s.temperature)));
        }
        same_shape(op, &[query, positive])?;
        if query.rank() != 2 {
            return Err(Error::shape(op, &[query.shape()], "queries and positive keys [N, D]"));
        }
        let (n, d) = (query.dims()[0], query.dims()[1]);
        let ([q, k, keys], dtype) = floats(op, [query, positive, negatives.unwrap_or(positive)])?;
        let unit = |x: &Tensor| x.try_normalize(2.0, -1);
        let (q, k) = (unit(&q)?, unit(&k)?);
        let ids = (DType::I32, q.device());
        let (cosines, target) = match negatives.map(Tensor::dims) {
            None => (q.try_matmul(&k.try_t()?)?, Tensor::try_arange(0, n, 1, ids)?),
            Some([_, m] | [_, _, m]) if *m == d && (keys.rank() == 2 || keys.dims()[0] == n) => {
                let near = q.try_mul(k)?.try_sum_keepdim(1)?;
                let keys = unit(&keys)?;
                let far = match keys.rank() {
                    2 => q.try_matmul(&keys.try_t()?)?,
                    _ => keys.try_matmul(&q.try_unsqueeze(2)?)?.try_squeeze(2)?,
                };
                (Tensor::try_cat(&[&near, &far], 1)?, Tensor::try_zeros(n, ids)?)
            }
            Some(_) => {
                let expected = format!("negative keys [M, {d}] or [{n}, M, {d}]");
                return Err(Error::shape(op, &[query.shape(), keys.shape()], expected));
            }
        };
        let options = CrossEntropy { reduction: Reduction::None, ..CrossEntropy::default() };
        finish(&cosines.try_mul(1.0 / s.temperature)?.try_cross_entropy(&target, &options)?, s.reduction, dtype)
    };
}

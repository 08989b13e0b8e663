//! The bilinear layer.

use super::{Module, Param, init};
use crate::{Error, Options, Result, Tensor};

/// `y_k = x₁ᵀ W_k x₂ + b_k`, on the last axes of two inputs.
///
/// Weight `[out, in1, in2]` and bias `[out]` start uniform between `±1/√in1`.
///
/// ```
/// use fornax::nn::Bilinear;
/// use fornax::{Device, Tensor};
/// let layer = Bilinear::new(3, 4, 5, Device::cpu());
/// let y = layer.forward(&Tensor::ones([2, 3], Device::cpu()), &Tensor::ones([2, 4], Device::cpu()))?;
/// assert_eq!(y.dims(), [2, 5]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Debug, Module)]
pub struct Bilinear {
    /// `[out, in1, in2]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Option<Param>,
}

#[fornax_derive::fallible]
impl Bilinear {
    /// A layer from `inputs1` and `inputs2` features to `outputs`, with a bias.
    ///
    /// # Errors
    /// No features in the first input; sizes that memory cannot hold, or a dtype that the device lacks.
    pub fn try_new(inputs1: usize, inputs2: usize, outputs: usize, options: impl Into<Options>) -> Result<Bilinear> {
        if inputs1 == 0 {
            return Err(Error::argument("Bilinear", "0 features of the first input: at least 1 is wanted"));
        }
        let options = options.into();
        let bound = 1.0 / (inputs1 as f64).sqrt();
        let weight = Param::new(Tensor::try_uniform([outputs, inputs1, inputs2], -bound, bound, options)?);
        Ok(Bilinear { weight, bias: Some(Param::new(init::bias(outputs, inputs1, options)?)) })
    }
}

impl Bilinear {
    /// The layer without its bias.
    pub fn no_bias(mut self) -> Bilinear {
        self.bias = None;
        self
    }

    /// The output `[.., out]` for inputs `[.., in1]` and `[.., in2]`.
    ///
    /// # Errors
    /// Inputs whose last axes are not `in1` and `in2`, or whose other axes differ.
    pub fn forward(&self, x1: &Tensor, x2: &Tensor) -> Result<Tensor> {
        let w = self.weight.get();
        let (d1, d2) = (w.dims()[1], w.dims()[2]);
        let fits = match (x1.dims(), x2.dims()) {
            ([before1 @ .., n1], [before2 @ .., n2]) => before1 == before2 && *n1 == d1 && *n2 == d2,
            _ => false,
        };
        if !fits {
            return Err(Error::shape("Bilinear", &[x1.shape(), x2.shape()], format!("inputs [.., {d1}] and [.., {d2}] of one batch")));
        }
        let products = x1.try_unsqueeze(-1)?.try_mul(x2.try_unsqueeze(-2)?)?.try_flatten(-2, -1)?;
        products.try_linear(&w.try_flatten(1, 2)?, self.bias.as_ref().map(Param::get).as_ref())
    }
}

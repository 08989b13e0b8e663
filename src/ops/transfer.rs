//! Copies between devices: host steps that split a plan.

use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::GpuKernel;
use crate::graph::{Class, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record_on};
use crate::{DType, Device, Error, Result, Tensor};
use std::sync::Arc;

#[derive(Debug)]
struct Transfer {
    from: Device,
    to: Device,
}

#[fornax_derive::fallible]
impl Tensor {
    /// The same tensor on another device; itself where it is there already. Lazy, and differentiable.
    ///
    /// i64 becomes i32 on the way to a GPU, with a check when it is copied; f64 must be cast first.
    ///
    /// # Errors
    /// `Error::DType` for f64 to a GPU; `Error::Argument` when an i64 does not fit i32 (at the flush).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([2, 2], Device::cpu()).to(Device::best());
    /// assert_eq!(x.sum(()).item::<f32>()?, 4.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_to(&self, device: Device) -> Result<Tensor> {
        if device == self.device() {
            return Ok(self.clone());
        }
        record_on(device, Arc::new(Transfer { from: self.device(), to: device }), &[self])
    }
}

impl Op for Transfer {
    fn name(&self) -> &'static str {
        "to"
    }

    fn class(&self) -> Class<'_> {
        Class::Host
    }

    fn key(&self, key: &mut Key) {
        key.add(self.from.word()).add(self.to.word());
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let dtype = match inputs[0].dtype {
            DType::F64 if self.to.is_gpu() => {
                return Err(Error::dtype("to", &[DType::F64], "a GPU holds no f64: cast to f32 first"));
            }
            DType::I64 if self.to.is_gpu() => DType::I32,
            d => d,
        };
        Ok(smallvec::smallvec![Meta::new(dtype, inputs[0].shape().clone())])
    }

    fn saves(&self) -> Saves {
        Saves::default()
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(ctx.cotangent()?.try_to(self.from)?)])
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        ctx.unsupported()
    }

    fn gpu(&self, _ctx: &GpuCtx) -> Result<GpuKernel> {
        Err(Error::Kernel { op: "to".into(), message: "a host step".into() })
    }

    fn host(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let x = &inputs[0];
        if x.dtype() == DType::I64 && self.to.is_gpu() {
            let wide = x.to_vec::<i64>()?;
            let narrow: Vec<i32> = wide
                .iter()
                .map(|&v| i32::try_from(v).map_err(|_| Error::argument("to", format!("{v} does not fit the i32 that a GPU holds"))))
                .collect::<Result<_>>()?;
            return Ok(vec![Tensor::from_slice(&narrow, x.shape(), self.to)?]);
        }
        let moved = x.with_bytes(|b| Tensor::from_bytes(b, x.dtype(), x.shape().clone(), self.to))??;
        Ok(vec![moved])
    }
}

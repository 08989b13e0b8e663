//! Products with quantised weights: 8-bit per output channel, and 4-bit NF4. The weight is dequantised inside the product.

use super::{qmatmul_cpu, qmatmul_gpu};
use crate::backend::cpu::CpuCtx;
use crate::codegen::dispatch::GpuKernel;
use crate::graph::{Along, Cut, GpuCtx, Key, Meta, Op, Outputs, Saves, Vjp, record};
use crate::layout::Layout;
use crate::{DType, Device, Error, Result, Scalar, Shape, Tensor};
use smallvec::smallvec;
use std::ops::Range;
use std::sync::Arc;

/// The sixteen values of NF4: quantiles of the normal distribution, scaled to ±1, with a zero (Dettmers et al., QLoRA, 2023, appendix E).
pub(crate) const NF4: [f32; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

/// A code of ±127 times this times the scale of its channel is a weight.
pub(crate) const INT8: f32 = 1.0 / 127.0;

/// How codes stand for weights; everything here is in the plan's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Int8,
    Nf4 {
        block: usize,
    },
    /// The scales of the blocks are codes themselves, in blocks of `outer`.
    Double {
        block: usize,
        outer: usize,
    },
}

impl Form {
    /// Elements of a block, where the codes are NF4's.
    pub fn block(self) -> Option<usize> {
        match self {
            Form::Int8 => None,
            Form::Nf4 { block } | Form::Double { block, .. } => Some(block),
        }
    }
}

/// `y[m, n] = Σ_k x[m, k] · W[n, k]`, or, `turned`, `y[m, k] = Σ_n x[m, n] · W[n, k]`. Inputs: x, codes, scales, and for `Double` the map of the codes of the
/// scales and their own scales. Where blocks end with rows, codes and scales are matrices whose first axis is n; else they are lists.
#[derive(Clone, Debug)]
pub(crate) struct QMatMul {
    pub form: Form,
    pub n: usize,
    pub k: usize,
    pub turned: bool,
    /// The row of the whole weight at which this part of it begins.
    pub first: usize,
    /// What is added to the scales of `Double`.
    pub offset: [Scalar; 1],
}

impl QMatMul {
    /// Whether each row has blocks of its own.
    pub fn in_rows(&self) -> bool {
        self.form.block().is_none_or(|b| self.k.is_multiple_of(b))
    }

    /// Blocks before `first`.
    pub fn first_block(&self) -> usize {
        self.form.block().map_or(0, |b| self.first * self.k / b)
    }
}

impl Op for QMatMul {
    fn name(&self) -> &'static str {
        "qmatmul"
    }

    fn key(&self, key: &mut Key) {
        let form = match self.form {
            Form::Int8 => [0, 0, 0],
            Form::Nf4 { block } => [1, block, 0],
            Form::Double { block, outer } => [2, block, outer],
        };
        key.list(form.iter()).add(self.n as u64).add(self.k as u64).add(self.turned as u64).add(self.first as u64);
    }

    fn scalars(&self) -> &[Scalar] {
        &self.offset
    }

    fn infer(&self, inputs: &[&Meta]) -> Result<Outputs> {
        let x = inputs[0];
        debug_assert!(x.shape().rank() == 2 && x.shape()[1] == if self.turned { self.n } else { self.k });
        let shape = Shape::from([x.shape()[0], if self.turned { self.k } else { self.n }]);
        shape.checked_numel()?;
        Ok(smallvec![Meta::new(x.dtype, shape)])
    }

    fn saves(&self) -> Saves {
        Saves { inputs: !1, outputs: 0 }
    }

    fn vjp(&self, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
        if ctx.needs[1..].iter().any(|&n| n) {
            return ctx.not_differentiable();
        }
        let mut inputs: Vec<&Tensor> = ctx.inputs.iter().collect();
        inputs[0] = ctx.cotangent()?;
        let back = QMatMul { turned: !self.turned, ..self.clone() };
        let mut all = vec![None; inputs.len()];
        all[0] = Some(record(Arc::new(back), &inputs)?);
        Ok(all)
    }

    fn decompose(&self, inputs: &[Tensor]) -> Option<Result<Vec<Tensor>>> {
        let run = || {
            let w = self.dense(&inputs[1..])?.try_cast(inputs[0].dtype())?;
            inputs[0].try_matmul(&if self.turned { w } else { w.try_t()? })
        };
        Some(run().map(|y| vec![y]))
    }

    fn takes_epilogue(&self) -> bool {
        true
    }

    fn cpu(&self, ctx: &CpuCtx) -> Result<()> {
        qmatmul_cpu::run(self, ctx)
    }

    fn gpu(&self, ctx: &GpuCtx) -> Result<GpuKernel> {
        qmatmul_gpu::kernel(self, ctx)
    }

    fn flops(&self, inputs: &[&Layout], _outputs: &[&Layout]) -> u64 {
        2 * (inputs[0].shape[0] * self.n * self.k) as u64
    }

    fn cuts(&self, inputs: &[Meta], _outputs: &[Meta]) -> Vec<Cut> {
        let rest = |axis: Option<usize>| {
            let mut all = vec![axis; inputs.len() - 1];
            // The map and the scales of scales belong to all rows.
            all.iter_mut().skip(2).for_each(|a| *a = None);
            all
        };
        let list = |x: Option<usize>, w: Option<usize>| [vec![x], rest(w)].concat();
        // Rows of x first; then rows of the weight.
        let mut cuts = vec![Cut::new(inputs[0].shape()[0], &list(Some(0), None), &[Along::axis(0)])];
        if self.in_rows() {
            cuts.push(match self.turned {
                false => Cut::new(self.n, &list(None, Some(0)), &[Along::axis(1)]),
                true => Cut::new(self.n, &list(Some(1), Some(0)), &[Along::Sum]),
            });
        }
        cuts
    }

    fn part(&self, cut: usize, range: &Range<usize>, _inputs: &[Meta]) -> Option<Arc<dyn Op>> {
        (cut == 1).then(|| Arc::new(QMatMul { n: range.len(), first: self.first + range.start, ..self.clone() }) as _)
    }
}

impl QMatMul {
    /// The weight [n, k] in f32, by smaller ops, from the inputs without x.
    fn dense(&self, inputs: &[Tensor]) -> Result<Tensor> {
        let (codes, shape, device) = (&inputs[0], [self.n, self.k], inputs[0].device());
        let Some(block) = self.form.block() else {
            let c = codes.try_cast(DType::I32)?;
            let c = c.try_sub(c.try_ge(128)?.try_cast(DType::I32)?.try_mul(256)?)?.try_cast(DType::F32)?;
            return c.try_reshape(shape)?.try_mul(inputs[1].try_reshape([self.n, 1])?)?.try_mul(INT8);
        };
        let numel = self.n * self.k;
        if numel == 0 {
            return Tensor::try_zeros(shape, device);
        }
        let pairs: Vec<f32> = (0..256usize).flat_map(|b| [NF4[b >> 4], NF4[b & 15]]).collect();
        let values = Tensor::from_vec(pairs, [256, 2], device)?.try_embedding(&flat(codes)?)?;
        let values = flat(&values)?.try_narrow(0, 0, numel)?;
        let scales = match self.form {
            Form::Double { outer, .. } => {
                let own = flat(&inputs[1])?;
                let scales = spread(&inputs[3], outer)?.try_narrow(0, self.first_block(), own.numel())?;
                inputs[2].try_embedding(&own)?.try_mul(&scales)?.try_add(self.offset[0].as_f64())?
            }
            _ => flat(&inputs[1])?,
        };
        values.try_mul(spread(&scales, block)?.try_narrow(0, 0, numel)?)?.try_reshape(shape)
    }
}

fn flat(t: &Tensor) -> Result<Tensor> {
    t.try_reshape(t.numel())
}

/// Each element of a list, `times` times.
fn spread(t: &Tensor, times: usize) -> Result<Tensor> {
    let n = t.numel();
    t.try_reshape([n, 1])?.try_expand([n, times])?.try_reshape(n * times)
}

/// The scales of NF4's scales: absmax minus an offset, as codes of a map of 256 values in blocks that have a scale each.
#[derive(Clone, Debug)]
pub struct DoubleQuant {
    /// The values of the codes: f32 `[256]`.
    pub map: Tensor,
    /// The scale of each block of codes: f32 `[blocks]`.
    pub absmax: Tensor,
    /// Codes in a block; 256 in bitsandbytes.
    pub block_size: usize,
    /// What was subtracted: the mean.
    pub offset: f32,
}

/// A quantised weight `[outputs, inputs]`: plain tensors, which [`Tensor::qmatmul`] multiplies with without a dense copy of the weight.
///
/// Two forms, both as bitsandbytes stores them:
///
/// * **8 bits per channel** ([`int8`](Quantized::int8)): `W[o, i] = code[o, i] · scale[o] / 127`, where a code is a signed byte (kept in u8, in two's
///   complement) and `scale[o]` the largest magnitude of row o. (Dettmers et al., LLM.int8(), 2022. Only the weight is rounded here, not the input.)
/// * **NF4** ([`nf4`](Quantized::nf4)): `W.flat[e] = NF4[code[e]] · absmax[e / block]`, two codes a byte, the first in the high half. With double
///   quantisation ([`nf4_double`](Quantized::nf4_double)) absmax is `map[code] · scale[block / 256] + offset`. (Dettmers et al., QLoRA, 2023.)
///
/// Bytes per weight: `1 + 4 / inputs` in 8 bits; `0.5 + 4 / 64` (4.5 bits) in NF4 with blocks of 64, `0.5 + 1 / 64 + 4 / (64 · 256)` (4.127 bits) with double
/// quantisation. [`quant`](crate::quant) makes them from dense weights.
///
/// ```
/// use fornax::quant::Quantized;
/// use fornax::{Device, Tensor};
/// // Two rows of two: ±127 is ±scale.
/// let codes = Tensor::from_slice(&[127u8, 0, 129, 64], [2, 2], Device::cpu())?;
/// let w = Quantized::int8(codes, Tensor::from_slice(&[2.0f32, 1.27], 2, Device::cpu())?)?;
/// let x = Tensor::from_slice(&[1.0f32, 1.0], [1, 2], Device::cpu())?;
/// let y = x.qmatmul(&w).to_vec::<f32>()?;
/// assert!((y[0] - 2.0).abs() < 1e-6 && (y[1] + 0.63).abs() < 1e-6);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Quantized {
    form: Form,
    n: usize,
    k: usize,
    codes: Tensor,
    scales: Tensor,
    double: Option<DoubleQuant>,
}

/// The sizes of blocks that bitsandbytes knows.
const BLOCKS: [usize; 8] = [32, 64, 128, 256, 512, 1024, 2048, 4096];

impl Quantized {
    /// A weight in 8 bits: codes `[outputs, inputs]` in u8 (two's complement), scales `[outputs]` in f32.
    ///
    /// # Errors
    /// `Error::Shape` or `Error::DType` where they are anything else.
    pub fn int8(codes: Tensor, scale: Tensor) -> Result<Quantized> {
        const OP: &str = "Quantized::int8";
        if codes.rank() != 2 || scale.dims() != [codes.dims()[0]] {
            return Err(Error::shape(OP, &[codes.shape(), scale.shape()], "codes [outputs, inputs] and scales [outputs]"));
        }
        Self::dtypes(OP, &codes, DType::U8, &scale, DType::F32)?;
        let (n, k) = (codes.dims()[0], codes.dims()[1]);
        Ok(Quantized { form: Form::Int8, n, k, codes: codes.detach(), scales: scale.detach(), double: None })
    }

    /// A weight in NF4: `⌈outputs · inputs / 2⌉` bytes of codes in any shape, an absmax in f32 for each `block_size` elements of the weight, row by row (the last
    /// block may be short).
    ///
    /// # Errors
    /// `Error::Shape`, `Error::DType`, or `Error::Argument` for a block size that is none of bitsandbytes' (32, 64, … 4096).
    ///
    /// ```
    /// use fornax::quant::Quantized;
    /// use fornax::{Device, Tensor};
    /// // Codes 15 and 7 are 1 and 0.
    /// let codes = Tensor::from_vec(vec![0xf7u8; 32], [32, 1], Device::cpu())?;
    /// let w = Quantized::nf4(codes, Tensor::from_slice(&[0.5f32], 1, Device::cpu())?, [1, 64], 64)?;
    /// assert_eq!(Tensor::ones([1, 64], Device::cpu()).qmatmul(&w).to_vec::<f32>()?, [16.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn nf4(codes: Tensor, absmax: Tensor, shape: [usize; 2], block_size: usize) -> Result<Quantized> {
        Self::blocks("Quantized::nf4", codes, absmax, shape, block_size, DType::F32)
    }

    /// As [`nf4`](Quantized::nf4), with absmax in codes (u8) themselves.
    ///
    /// # Errors
    /// As [`nf4`](Quantized::nf4), and for parts of `double` that do not fit.
    pub fn nf4_double(codes: Tensor, absmax: Tensor, shape: [usize; 2], block_size: usize, double: DoubleQuant) -> Result<Quantized> {
        const OP: &str = "Quantized::nf4_double";
        let mut w = Self::blocks(OP, codes, absmax, shape, block_size, DType::U8)?;
        if !BLOCKS.contains(&double.block_size) {
            return Err(Error::argument(OP, format!("the nested block size is {}: it is one of {BLOCKS:?}", double.block_size)));
        }
        if double.map.dims() != [256] {
            return Err(Error::shape(OP, &[double.map.shape()], "a map [256]"));
        }
        let blocks = w.scales.numel().div_ceil(double.block_size);
        if double.absmax.numel() != blocks {
            let expected = format!("{blocks} nested scales, one for each {} of {} blocks", double.block_size, w.scales.numel());
            return Err(Error::shape(OP, &[double.absmax.shape()], expected));
        }
        Self::dtypes(OP, &w.scales, DType::U8, &double.map, DType::F32)?;
        Self::dtypes(OP, &w.scales, DType::U8, &double.absmax, DType::F32)?;
        if !double.offset.is_finite() {
            return Err(Error::argument(OP, format!("the offset is {}: it is a finite number", double.offset)));
        }
        w.form = Form::Double { block: block_size, outer: double.block_size };
        w.double = Some(DoubleQuant { map: double.map.detach(), absmax: flat(&double.absmax)?.detach(), ..double });
        Ok(w)
    }

    fn blocks(op: &'static str, codes: Tensor, absmax: Tensor, [n, k]: [usize; 2], block: usize, scales: DType) -> Result<Quantized> {
        if !BLOCKS.contains(&block) {
            return Err(Error::argument(op, format!("the block size is {block}: it is one of {BLOCKS:?}")));
        }
        let numel = Shape::from([n, k]).checked_numel()?;
        if codes.numel() != numel.div_ceil(2) || absmax.numel() != numel.div_ceil(block) {
            let expected = format!(
                "{} bytes of codes and {} scales for a weight [{n}, {k}] in blocks of {block}",
                numel.div_ceil(2),
                numel.div_ceil(block)
            );
            return Err(Error::shape(op, &[codes.shape(), absmax.shape()], expected));
        }
        Self::dtypes(op, &codes, DType::U8, &absmax, scales)?;
        let (codes, scales) = (flat(&codes)?.detach(), flat(&absmax)?.detach());
        Ok(Quantized { form: Form::Nf4 { block }, n, k, codes, scales, double: None })
    }

    fn dtypes(op: &'static str, a: &Tensor, da: DType, b: &Tensor, db: DType) -> Result<()> {
        if (a.dtype(), b.dtype()) != (da, db) {
            return Err(Error::dtype(op, &[a.dtype(), b.dtype()], format!("{da} and {db}")));
        }
        if a.device() != b.device() {
            let message = format!("the parts lie on {} and {}: move them to one device", a.device(), b.device());
            return Err(Error::Device { op, message });
        }
        Ok(())
    }

    /// `[outputs, inputs]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.n, self.k]
    }

    /// Elements of a block, for NF4; `None` in 8 bits.
    pub fn block_size(&self) -> Option<usize> {
        self.form.block()
    }

    /// The codes: `[outputs, inputs]` in 8 bits, a list of bytes for NF4.
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }

    /// The scales: f32 per channel in 8 bits; per block for NF4, as codes (u8) with double quantisation.
    pub fn scales(&self) -> &Tensor {
        &self.scales
    }

    /// What the codes of the scales stand for, with double quantisation.
    pub fn double(&self) -> Option<&DoubleQuant> {
        self.double.as_ref()
    }

    /// Where it lies.
    pub fn device(&self) -> Device {
        self.codes.device()
    }

    /// Bytes of all its tensors.
    pub fn bytes(&self) -> usize {
        let double = self.double.iter().flat_map(|d| [&d.map, &d.absmax]);
        [&self.codes, &self.scales].into_iter().chain(double).map(|t| t.numel() * t.dtype().size()).sum()
    }

    /// The dense weight `[outputs, inputs]` in f32.
    ///
    /// # Errors
    /// What recording ops can give.
    pub fn dequantize(&self) -> Result<Tensor> {
        let inputs = self.operands()?;
        self.op().dense(&inputs)
    }

    fn op(&self) -> QMatMul {
        let offset = self.double.as_ref().map_or(0.0, |d| d.offset);
        QMatMul { form: self.form, n: self.n, k: self.k, turned: false, first: 0, offset: [offset.into()] }
    }

    /// What the op takes beside x.
    fn operands(&self) -> Result<Vec<Tensor>> {
        let (codes, scales) = match self.form.block().filter(|&b| self.k.is_multiple_of(b)) {
            Some(b) => (self.codes.try_reshape([self.n, self.k / 2])?, self.scales.try_reshape([self.n, self.k / b])?),
            None => (self.codes.clone(), self.scales.clone()),
        };
        let mut all = vec![codes, scales];
        all.extend(self.double.iter().flat_map(|d| [d.map.clone(), d.absmax.clone()]));
        Ok(all)
    }
}

#[fornax_derive::fallible]
impl Tensor {
    /// The product with a quantised weight, `out = self · Wᵀ`: `self` is `[.., inputs]`, the result `[.., outputs]`.
    ///
    /// The weight is dequantised inside the product, tile by tile; no dense copy of it is made, in the backward pass neither. Gradients flow to `self` (`dy · W`),
    /// none to the weight. f16 and bf16 are multiplied and summed in f32. A row (or up to four) at a time is a matrix–vector product whose time is that of reading the
    /// weight's bytes.
    ///
    /// # Errors
    /// `Error::Shape` where the sizes do not fit, `Error::DType` where `self` is not of floats.
    ///
    /// ```
    /// use fornax::{Device, Tensor, quant};
    /// let w = Tensor::normal([8, 64], 0.0, 0.02, Device::cpu());
    /// let q = quant::nf4(&w, 64, false)?;
    /// let x = Tensor::ones([3, 2, 64], Device::cpu());
    /// assert_eq!(x.qmatmul(&q).dims(), [3, 2, 8]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_qmatmul(&self, weight: &Quantized) -> Result<Tensor> {
        const OP: &str = "qmatmul";
        let r = self.rank();
        if !self.dtype().is_float() {
            return Err(Error::dtype(OP, &[self.dtype()], "a tensor of floats: cast it"));
        }
        if r == 0 || self.dims()[r - 1] != weight.k {
            let expected = format!("an input [.., {}] for the weight [{}, {}]", weight.k, weight.n, weight.k);
            return Err(Error::shape(OP, &[self.shape()], expected));
        }
        let rows: usize = self.dims()[..r - 1].iter().product();
        let x = self.try_reshape([rows, weight.k])?.try_cast(self.dtype().compute())?;
        let operands = weight.operands()?;
        let inputs: Vec<&Tensor> = [&x].into_iter().chain(&operands).collect();
        let y = record(Arc::new(weight.op()), &inputs)?.try_cast(self.dtype())?;
        let mut shape = self.shape().clone();
        shape[r - 1] = weight.n;
        y.try_reshape(shape)
    }
}

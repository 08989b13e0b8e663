//! The linear layer with a quantised weight.

use super::state::State;
use super::{DoubleQuant, Format, Quantized, int8, nf4, nf4_map};
use crate::io::StateDict;
use crate::nn::{Adaptable, Buffer, Extra, Forward, Hook, Item, LayerKind, Module, Param, Walk, Weight};
use crate::{DType, Device, Error, Result, Tensor};
use std::sync::{Arc, Mutex};

/// A linear layer with a quantised weight, `y = x Wᵀ + b`: bitsandbytes' `Linear4bit` and `Linear8bitLt`.
///
/// The weight is frozen: its tensors are buffers, under bitsandbytes' names. NF4: `weight` (bytes `[n, 1]`), `weight.absmax`, `weight.quant_map`, with double quantisation
/// `weight.nested_absmax` and `weight.nested_quant_map`, and `weight.quant_state.bitsandbytes__nf4` (JSON). 8 bits: `weight` `[out, in]` (signed bytes, as u8 here), `SCB` (the
/// scales), `weight_format` (0). The bias is a parameter as before.
///
/// ```
/// use fornax::nn::{Forward, Linear, Module};
/// use fornax::quant::{Format, QuantLinear};
/// use fornax::{Device, Tensor};
/// let dense = Linear::new(64, 8, Device::cpu());
/// let layer = QuantLinear::new(&dense.weight.value(), dense.bias.clone(), Format::NF4)?;
/// let x = Tensor::ones([2, 64], Device::cpu()).requires_grad();
/// let grads = layer.forward(&x)?.sum(()).backward()?;
/// assert_eq!(grads.get(&x).unwrap().dims(), [2, 64]);
/// assert_eq!(layer.named_parameters().len(), 1); // the bias
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Debug)]
pub struct QuantLinear {
    parts: Parts,
    shape: [usize; 2],
    /// `[out]`.
    pub bias: Option<Param>,
    /// Where adapters stand: a LoRA around it is a QLoRA.
    pub hook: Hook,
}

#[derive(Debug)]
enum Parts {
    Int8 { weight: Buffer, scb: Buffer, weight_format: Buffer },
    Nf4 { weight: Buffer, absmax: Buffer, quant_map: Buffer, nested: Option<Nested>, state: Extra, parsed: Parsed },
}

#[derive(Debug)]
struct Nested {
    absmax: Buffer,
    map: Buffer,
}

/// The description, and the bytes that it was read from: state dicts may replace them.
type Parsed = Mutex<Option<(Arc<[u8]>, State)>>;

impl QuantLinear {
    /// Quantises a dense weight `[out, in]`.
    ///
    /// # Errors
    /// As [`nf4`] and [`int8`]; a bias that is not `[out]`.
    pub fn new(weight: &Tensor, bias: Option<Param>, format: Format) -> Result<QuantLinear> {
        let quantized = match format {
            Format::Int8 => int8(weight)?,
            Format::Nf4 { block_size, double } => nf4(weight, block_size, double)?,
        };
        let dtype = match weight.dtype() {
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            _ => "float32",
        };
        QuantLinear::with_dtype(&quantized, bias, dtype)
    }

    /// A layer with this weight.
    ///
    /// # Errors
    /// A bias that is not `[out]`.
    pub fn from_quantized(weight: &Quantized, bias: Option<Param>) -> Result<QuantLinear> {
        QuantLinear::with_dtype(weight, bias, "float32")
    }

    fn with_dtype(w: &Quantized, bias: Option<Param>, dtype: &str) -> Result<QuantLinear> {
        let [n, _] = w.shape();
        if let Some(b) = bias.as_ref().filter(|b| b.shape() != [n]) {
            return Err(Error::shape("QuantLinear", &[b.shape()], format!("a bias [{n}]")));
        }
        let (codes, scales) = (w.codes(), w.scales());
        let parts = match w.block_size() {
            None => Parts::Int8 {
                weight: Buffer::fixed(codes.clone()),
                scb: Buffer::fixed(scales.clone()),
                weight_format: Buffer::fixed(Tensor::from_slice(&[0u8], (), Device::cpu())?.try_to(w.device())?),
            },
            Some(block_size) => {
                let nested = w.double().map(|d| (d.block_size, d.offset));
                let state = State { shape: w.shape(), block_size, dtype: dtype.to_string(), nested };
                let map = Tensor::from_slice(&nf4_map(), 16, Device::cpu())?.try_to(w.device())?;
                Parts::Nf4 {
                    weight: Buffer::fixed(codes.try_reshape([codes.numel(), 1])?),
                    absmax: Buffer::fixed(scales.clone()),
                    quant_map: Buffer::fixed(map),
                    nested: w.double().map(|d| Nested { absmax: Buffer::fixed(d.absmax.clone()), map: Buffer::fixed(d.map.clone()) }),
                    state: Extra::new(state.to_json().into_bytes()),
                    parsed: Mutex::default(),
                }
            }
        };
        Ok(QuantLinear { parts, shape: w.shape(), bias, hook: Hook::default() })
    }

    /// The layer whose weight a state dict holds under bitsandbytes' names at `path`, if it does: `get` gives the tensor of a path.
    pub(super) fn find(get: &dyn Fn(&str) -> Option<Tensor>, path: &str, bias: Option<Param>) -> Result<Option<QuantLinear>> {
        let at = |name: &str| get(&format!("{path}.{name}"));
        let need = |name: &str| at(name).ok_or_else(|| Error::StateDict { message: format!("missing: {path}.{name}") });
        let wrong = |e: Error| Error::StateDict { message: format!("{path}: {e}") };
        if let Some(scb) = at("SCB") {
            if let Some(format) = at("weight_format")
                && (format.numel() != 1 || format.try_cast(DType::I32)?.try_sum(())?.item::<i32>()? != 0)
            {
                return Err(Error::StateDict { message: format!("{path}.weight_format is not 0: only weights row by row can be read") });
            }
            let weight = Quantized::int8(need("weight")?, scb).map_err(wrong)?;
            return QuantLinear::from_quantized(&weight, bias).map(Some).map_err(wrong);
        }
        if at("weight.quant_state.bitsandbytes__fp4").is_some() {
            let message = format!("{path} is quantised to FP4, which is not known: known are NF4 and 8 bits");
            return Err(Error::StateDict { message });
        }
        let Some(json) = at("weight.quant_state.bitsandbytes__nf4") else { return Ok(None) };
        if json.dtype() != DType::U8 {
            return Err(Error::StateDict { message: format!("{path}: the quant_state is of {}, must be bytes (u8)", json.dtype()) });
        }
        let state = State::parse(&json.to_vec::<u8>()?).map_err(wrong)?;
        let map = need("weight.quant_map")?;
        if map.dtype() != DType::F32 || map.to_vec::<f32>()? != nf4_map() {
            return Err(Error::StateDict { message: format!("{path}.weight.quant_map is not that of NF4") });
        }
        let (codes, absmax) = (need("weight")?, need("weight.absmax")?);
        let weight = match state.nested {
            None => Quantized::nf4(codes, absmax, state.shape, state.block_size),
            Some((block_size, offset)) => {
                let (map, absmax2) = (need("weight.nested_quant_map")?, need("weight.nested_absmax")?);
                Quantized::nf4_double(
                    codes,
                    absmax,
                    state.shape,
                    state.block_size,
                    DoubleQuant { map, absmax: absmax2, block_size, offset },
                )
            }
        };
        QuantLinear::with_dtype(&weight.map_err(wrong)?, bias, &state.dtype).map(Some).map_err(wrong)
    }

    /// The weight.
    ///
    /// # Errors
    /// Tensors that do not belong together, which a state dict may have brought.
    pub fn weight(&self) -> Result<Quantized> {
        match &self.parts {
            Parts::Int8 { weight, scb, .. } => Quantized::int8(weight.get(), scb.get()),
            Parts::Nf4 { weight, absmax, nested, state, parsed, .. } => {
                let bytes = state.get();
                let mut parsed = parsed.lock().unwrap_or_else(|e| e.into_inner());
                let s = match &*parsed {
                    Some((from, s)) if Arc::ptr_eq(from, &bytes) => s.clone(),
                    _ => {
                        let s = State::parse(&bytes)?;
                        *parsed = Some((bytes, s.clone()));
                        s
                    }
                };
                match (s.nested, nested) {
                    (Some((block_size, offset)), Some(n)) => {
                        let double = DoubleQuant { map: n.map.get(), absmax: n.absmax.get(), block_size, offset };
                        Quantized::nf4_double(weight.get(), absmax.get(), s.shape, s.block_size, double)
                    }
                    (None, None) => Quantized::nf4(weight.get(), absmax.get(), s.shape, s.block_size),
                    _ => Err(Error::argument("QuantLinear", "the quant_state and the tensors disagree about double quantisation")),
                }
            }
        }
    }

    /// The number of features that go in and that come out.
    ///
    /// # Errors
    /// As [`weight`](QuantLinear::weight).
    pub fn features(&self) -> Result<(usize, usize)> {
        let [n, k] = self.weight()?.shape();
        Ok((k, n))
    }

    /// The names of the buffers that hold signed bytes.
    pub(super) fn signed(dict: &StateDict) -> Vec<String> {
        let codes = |name: &String| {
            let weight = format!("{}.weight", name.strip_suffix(".SCB")?);
            dict.get(&weight).filter(|t| t.dtype() == DType::U8).map(|_| weight)
        };
        dict.keys().filter_map(codes).collect()
    }
}

impl Module for QuantLinear {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.module("QuantLinear");
        walk.item(Item::Layer(self));
        let buffer = |walk: &mut Walk<'_>, name: &str, b: &Buffer| walk.field(name, |walk| walk.item(Item::Buffer(b)));
        match &self.parts {
            Parts::Int8 { weight, scb, weight_format } => {
                buffer(walk, "weight", weight);
                buffer(walk, "SCB", scb);
                buffer(walk, "weight_format", weight_format);
            }
            Parts::Nf4 { weight, absmax, quant_map, nested, state, .. } => walk.field("weight", |walk| {
                walk.item(Item::Buffer(weight));
                buffer(walk, "absmax", absmax);
                buffer(walk, "quant_map", quant_map);
                if let Some(n) = nested {
                    buffer(walk, "nested_absmax", &n.absmax);
                    buffer(walk, "nested_quant_map", &n.map);
                }
                walk.field("quant_state", |walk| walk.field("bitsandbytes__nf4", |walk| walk.item(Item::Extra(state))));
            }),
        }
        if let Some(b) = &self.bias {
            walk.field("bias", |walk| b.walk(walk));
        }
        self.hook.walk(walk);
    }
}

impl Adaptable for QuantLinear {
    fn hook(&self) -> &Hook {
        &self.hook
    }

    fn kind(&self) -> LayerKind {
        LayerKind::Linear { inputs: self.shape[1], outputs: self.shape[0], transposed: false }
    }

    fn weight(&self) -> Weight {
        let weight = QuantLinear::weight(self).map_err(|e| e.to_string());
        Weight::Packed(Arc::new(move || match &weight {
            Ok(w) => w.dequantize(),
            Err(e) => Err(Error::argument("QuantLinear", e.clone())),
        }))
    }

    fn bias(&self) -> Option<Param> {
        self.bias.clone()
    }
}

impl Forward for QuantLinear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.hook.call(x, &|x| {
            let y = x.try_qmatmul(&self.weight()?)?;
            match &self.bias {
                Some(b) => y.try_add(b.get().try_cast(y.dtype())?),
                None => Ok(y),
            }
        })
    }
}

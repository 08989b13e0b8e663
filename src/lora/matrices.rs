//! The two matrices of a LoRA at one layer, and DoRA's norms.

use super::config::{Init, LoraConfig};
use super::part::{Source, cast, features, options, uniform};
use super::targets::{Place, by_pattern};
use crate::nn::{Conv1d, Conv2d, Dropout, Forward, Hook, LayerKind, Param, Weight};
use crate::{ConvOptions, ConvOptions1d, Error, Options, PadMode, Result, Tensor, no_grad};

/// How the two are applied.
enum Apply {
    Linear,
    Embedding,
    Conv1d(Conv1d, Conv1d),
    Conv2d(Conv2d, Conv2d),
}

/// A LoRA at one layer.
pub(super) struct Matrices {
    /// `[r, in]`; of a convolution `[r, in, window]`.
    pub a: Param,
    /// `[out, r]`; of a convolution `[out, r/groups, 1..]`.
    pub b: Param,
    pub b_bias: Option<Param>,
    /// DoRA's norms `[out]`; of a convolution `[1, out, 1..]`.
    pub magnitude: Option<Param>,
    pub dropout: Dropout,
    pub r: usize,
    pub scaling: f64,
    apply: Apply,
    place: Place,
}

/// The rank and the scale at a layer.
fn rank(c: &LoraConfig, path: &str) -> Result<(usize, f64)> {
    let r = by_pattern(&c.rank_pattern, path, c.r)?;
    let alpha = by_pattern(&c.alpha_pattern, path, c.lora_alpha)?;
    Ok((r, alpha / if c.use_rslora { (r as f64).sqrt() } else { r as f64 }))
}

/// The names of A and B in a file.
fn names(kind: &LayerKind) -> (&'static str, &'static str) {
    match kind {
        LayerKind::Embedding { .. } => ("lora_embedding_A", "lora_embedding_B"),
        _ => ("lora_A.weight", "lora_B.weight"),
    }
}

impl Matrices {
    /// Also gives what the base keeps of its weight, where the start takes something out.
    pub fn new(c: &LoraConfig, place: &Place, source: &mut dyn Source) -> Result<(Matrices, Option<Tensor>)> {
        let (r, scaling) = rank(c, &place.path)?;
        let (inputs, outputs) = features(place)?;
        let o = options(place)?;
        let (a_shape, b_shape) = match place.kind {
            LayerKind::Linear { .. } | LayerKind::Embedding { .. } => (vec![r, inputs], vec![outputs, r]),
            LayerKind::Conv1d { options, .. } => shapes(place, r, inputs, outputs, options.groups)?,
            LayerKind::Conv2d { options, .. } => shapes(place, r, inputs, outputs, options.groups)?,
        };
        let embedding = matches!(place.kind, LayerKind::Embedding { .. });
        if c.lora_bias && embedding {
            return Err(Error::argument(
                "LoRA",
                format!("{}: lora_bias is for linear layers and convolutions, not for embeddings", place.path),
            ));
        }
        let start = Start::new(c.init_lora_weights, place, r, scaling, &a_shape, &b_shape, o)?;
        let (a_name, b_name) = names(&place.kind);
        let a = Param::new(source.value(a_name, &a_shape, o, &|| start.a())?);
        let b = Param::new(source.value(b_name, &b_shape, o, &|| start.b())?);
        let b_bias = match c.lora_bias {
            true => Some(Param::new(source.value("lora_B.bias", &[outputs], o, &|| match c.init_lora_weights {
                Init::Random => Tensor::try_uniform(outputs, -1.0 / (r as f64).sqrt(), 1.0 / (r as f64).sqrt(), o),
                _ => Tensor::try_zeros(outputs, o),
            })?)),
            false => None,
        };
        let apply = Apply::of(place, &a, &b, b_bias.as_ref());
        let dropout = Dropout::try_new(c.lora_dropout)?;
        let mut m = Matrices { a, b, b_bias, magnitude: None, dropout, r, scaling, apply, place: place.detached() };
        if c.use_dora {
            let groups = match place.kind {
                LayerKind::Conv1d { options, .. } => options.groups,
                LayerKind::Conv2d { options, .. } => options.groups,
                _ => 1,
            };
            if groups != 1 {
                return Err(Error::argument("DoRA", format!("{}: grouped convolutions have no DoRA", place.path)));
            }
            let mut shape = vec![outputs];
            if let LayerKind::Conv1d { .. } | LayerKind::Conv2d { .. } = place.kind {
                shape = vec![1; a_shape.len()];
                shape[1] = outputs;
            }
            let value = source.value("lora_magnitude_vector", &shape, o, &|| m.norms(start.rest.as_ref())?.try_reshape(&shape[..]))?;
            m.magnitude = Some(Param::new(value));
        }
        Ok((m, start.rest))
    }

    pub fn params(&self) -> Vec<(&'static str, &Param)> {
        let (a, b) = names(&self.place.kind);
        let mut all = vec![(a, &self.a), (b, &self.b)];
        all.extend(self.b_bias.iter().map(|p| ("lora_B.bias", p)));
        all.extend(self.magnitude.iter().map(|p| ("lora_magnitude_vector", p)));
        all
    }

    /// `(x Aᵀ) Bᵀ`: two thin products.
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        match &self.apply {
            Apply::Linear => x.try_linear(&self.a.get(), None)?.try_linear(&self.b.get(), self.b_bias.as_ref().map(Param::get).as_ref()),
            Apply::Embedding => self.a.get().try_t()?.try_embedding(x)?.try_linear(&self.b.get(), None),
            Apply::Conv1d(a, b) => b.forward(&a.forward(x)?),
            Apply::Conv2d(a, b) => b.forward(&a.forward(x)?),
        }
    }

    /// What is added to the layer's output `y`, for its input `x`.
    pub fn delta(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let embedding = matches!(self.apply, Apply::Embedding);
        let input = if embedding { x.clone() } else { self.dropout.forward(&cast(x, self.a.dtype())?)? };
        let low = self.product(&input)?.try_mul(self.scaling)?;
        let Some(magnitude) = &self.magnitude else { return low.try_cast(y.dtype()) };
        let shape = if self.is_conv() { magnitude.shape() } else { [magnitude.shape().numel()].into() };
        let m = magnitude.get();
        let scale = m.try_div(self.norms(None)?.try_reshape(m.shape())?)?.try_reshape(shape)?;
        // What the weight alone gives, of the same dropped input.
        let plain = match self.dropout.rate() > 0.0 && !embedding {
            true => self.base_product(&input)?,
            false => match &self.place.bias {
                Some(bias) => cast(y, low.dtype())?.try_sub(self.shaped_bias(bias)?)?,
                None => cast(y, low.dtype())?,
            },
        };
        let delta = scale.try_sub(1.0)?.try_mul(plain)?.try_add(scale.try_mul(low)?)?;
        delta.try_cast(y.dtype())
    }

    fn is_conv(&self) -> bool {
        matches!(self.apply, Apply::Conv1d(..) | Apply::Conv2d(..))
    }

    /// A bias as it is added to the layer's output.
    fn shaped_bias(&self, bias: &Param) -> Result<Tensor> {
        let value = cast(&bias.get(), self.a.dtype())?;
        match self.is_conv() {
            true => {
                let mut shape = vec![1; self.a.shape().rank()];
                shape[1] = value.numel();
                value.try_reshape(shape)
            }
            false => Ok(value),
        }
    }

    /// The product with the base's weight, without its bias.
    fn base_product(&self, x: &Tensor) -> Result<Tensor> {
        let weight = match &self.place.weight {
            Weight::Param(p) => p.get(),
            packed => packed.value()?,
        };
        let weight = cast(&weight, self.a.dtype())?;
        match self.place.kind {
            LayerKind::Linear { transposed: true, .. } => x.try_linear(&weight.try_t()?, None),
            LayerKind::Linear { .. } => x.try_linear(&weight, None),
            LayerKind::Embedding { .. } => weight.try_embedding(x),
            LayerKind::Conv1d { options, padding_mode, same } => conv1d(Param::new(weight), None, options, padding_mode, same).forward(x),
            LayerKind::Conv2d { options, padding_mode, same } => conv2d(Param::new(weight), None, options, padding_mode, same).forward(x),
        }
    }

    /// A, B and a weight as matrices `[r, n]`, `[out, r]`, `[out, n]`.
    fn flat(&self, weight: &Tensor) -> Result<[Tensor; 3]> {
        let (a, b) = (self.a.value().try_flatten(1, -1)?, self.b.value().try_flatten(1, -1)?);
        let w = cast(weight, self.a.dtype())?;
        let w = match self.place.kind {
            LayerKind::Linear { transposed: true, .. } | LayerKind::Embedding { .. } => w.try_t()?,
            _ => w.try_flatten(1, -1)?,
        };
        Ok([a, b, w])
    }

    /// ‖W + sBA‖ of each row, a constant: `‖W‖² + 2s Σ B∘(WAᵀ) + s² Σ B∘(BAAᵀ)`, so that the sum of the matrices is never made. `weight` if it is not the layer's.
    fn norms(&self, weight: Option<&Tensor>) -> Result<Tensor> {
        no_grad(|| {
            let [a, b, w] = self.flat(&match weight {
                Some(w) => w.clone(),
                None => self.place.weight.value()?,
            })?;
            let s = self.scaling;
            let cross = w.try_matmul(&a.try_t()?)?.try_mul(&b)?.try_sum(1)?.try_mul(2.0 * s)?;
            let own = b.try_matmul(&a.try_matmul(&a.try_t()?)?)?.try_mul(&b)?.try_sum(1)?.try_mul(s * s)?;
            w.try_square()?.try_sum(1)?.try_add(cross)?.try_add(own)?.try_relu()?.try_sqrt()
        })
    }

    /// `sBA` as the layer's weight lies. Dense: for merging alone.
    pub fn dense(&self, weight: &Tensor) -> Result<Tensor> {
        if self.is_conv() && self.b.shape()[1] != self.r {
            let message = format!(
                "{}: the matrices of a grouped convolution reach across the groups and cannot be merged into its weight",
                self.place.path
            );
            return Err(Error::argument("merge", message));
        }
        let [a, b, _] = self.flat(weight)?;
        let d = b.try_matmul(&a)?.try_mul(self.scaling)?;
        match self.place.kind {
            LayerKind::Linear { transposed: true, .. } | LayerKind::Embedding { .. } => d.try_t(),
            _ => d.try_reshape(weight.shape()),
        }
    }

    /// The weight and the bias with the adapter in them. `weight` may hold other adapters already; the norms are those of the base's.
    pub fn merged(&self, base: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<(Tensor, Option<Tensor>)> {
        let dtype = self.a.dtype();
        let mut new = cast(weight, dtype)?.try_add(self.dense(base)?)?;
        if let Some(m) = &self.magnitude {
            let factor = m.value().try_flatten(0, -1)?.try_div(self.norms(Some(base))?)?;
            let across = matches!(self.place.kind, LayerKind::Linear { transposed: true, .. } | LayerKind::Embedding { .. });
            let mut shape = vec![1; weight.rank()];
            shape[usize::from(across)] = factor.numel();
            new = new.try_mul(factor.try_reshape(shape)?)?;
        }
        let bias = match (&self.b_bias, bias) {
            (None, _) => None,
            (Some(own), Some(b)) => Some(cast(b, dtype)?.try_add(own.value().try_mul(self.scaling)?)?.try_cast(b.dtype())?),
            (Some(_), None) => {
                let message = format!("{}: the adapter has a bias (lora_bias) and the layer has none to merge it into", self.place.path);
                return Err(Error::argument("merge", message));
            }
        };
        Ok((new.try_cast(weight.dtype())?, bias))
    }
}

fn shapes(place: &Place, r: usize, inputs: usize, outputs: usize, groups: usize) -> Result<(Vec<usize>, Vec<usize>)> {
    if !r.is_multiple_of(groups) {
        let message = format!("{}: a rank of {r} cannot be split into the convolution's {groups} groups; choose a multiple", place.path);
        return Err(Error::argument("LoRA", message));
    }
    let weight = place.weight.value()?;
    let window = &weight.dims()[2..];
    let a = [&[r, inputs], window].concat();
    let b = [&[outputs, r / groups], &vec![1; window.len()][..]].concat();
    Ok((a, b))
}

fn conv1d(weight: Param, bias: Option<Param>, options: ConvOptions1d, padding_mode: PadMode, same: bool) -> Conv1d {
    Conv1d { weight, bias, options, padding_mode, same, hook: Hook::default() }
}

fn conv2d(weight: Param, bias: Option<Param>, options: ConvOptions, padding_mode: PadMode, same: bool) -> Conv2d {
    Conv2d { weight, bias, options, padding_mode, same, hook: Hook::default() }
}

impl Apply {
    fn of(place: &Place, a: &Param, b: &Param, bias: Option<&Param>) -> Apply {
        let (a, b, bias) = (a.clone(), b.clone(), bias.cloned());
        let zeros = PadMode::Constant(0.0);
        match place.kind {
            LayerKind::Linear { .. } => Apply::Linear,
            LayerKind::Embedding { .. } => Apply::Embedding,
            LayerKind::Conv1d { options, padding_mode, same } => {
                let point = ConvOptions1d { groups: options.groups, ..ConvOptions1d::default() };
                Apply::Conv1d(
                    conv1d(a, None, ConvOptions1d { groups: 1, ..options }, padding_mode, same),
                    conv1d(b, bias, point, zeros, false),
                )
            }
            LayerKind::Conv2d { options, padding_mode, same } => {
                let point = ConvOptions { groups: options.groups, ..ConvOptions::default() };
                Apply::Conv2d(
                    conv2d(a, None, ConvOptions { groups: 1, ..options }, padding_mode, same),
                    conv2d(b, bias, point, zeros, false),
                )
            }
        }
    }
}

/// How A and B start.
struct Start<'a> {
    init: Init,
    a_shape: &'a [usize],
    b_shape: &'a [usize],
    r: usize,
    embedding: bool,
    options: Options,
    /// A and B that were taken out of the weight.
    taken: Option<(Tensor, Tensor)>,
    /// What was left of it.
    rest: Option<Tensor>,
}

impl<'a> Start<'a> {
    fn new(
        init: Init,
        place: &Place,
        r: usize,
        scaling: f64,
        a_shape: &'a [usize],
        b_shape: &'a [usize],
        options: Options,
    ) -> Result<Start<'a>> {
        let embedding = matches!(place.kind, LayerKind::Embedding { .. });
        let mut start = Start { init, a_shape, b_shape, r, embedding, options, taken: None, rest: None };
        if matches!(init, Init::Pissa | Init::Olora) {
            let LayerKind::Linear { inputs, outputs, transposed } = place.kind else {
                return Err(Error::argument("LoRA", format!("{}: pissa and olora are for linear layers", place.path)));
            };
            if r > inputs.min(outputs) {
                let message = format!("{}: a rank of {r} cannot be taken out of a weight [{outputs}, {inputs}]", place.path);
                return Err(Error::argument("LoRA", message));
            }
            let Weight::Param(p) = &place.weight else {
                return Err(Error::argument(
                    "LoRA",
                    format!("{}: pissa and olora change the weight, which is packed; unpack it first", place.path),
                ));
            };
            let stored = p.value();
            let weight = cast(&stored, options.dtype)?;
            let weight = if transposed { weight.try_t()? } else { weight };
            let (a, b) = take(init, &weight, r, scaling)?;
            let rest = weight.try_sub(b.try_matmul(&a)?.try_mul(scaling)?)?;
            let rest = if transposed { rest.try_t()? } else { rest };
            start.rest = Some(rest.try_cast(stored.dtype())?);
            start.taken = Some((a, b));
        }
        Ok(start)
    }

    fn a(&self) -> Result<Tensor> {
        if let Some((a, _)) = &self.taken {
            return Ok(a.clone());
        }
        let o = self.options;
        match (self.embedding, self.init) {
            (true, Init::Random) => Tensor::try_normal(self.a_shape, 0.0, 1.0, o),
            (true, _) => Tensor::try_zeros(self.a_shape, o),
            (false, Init::Gaussian) => Tensor::try_normal(self.a_shape, 0.0, 1.0 / self.r as f64, o),
            (false, _) => uniform(self.a_shape, o),
        }
    }

    fn b(&self) -> Result<Tensor> {
        if let Some((_, b)) = &self.taken {
            return Ok(b.clone());
        }
        let o = self.options;
        match (self.embedding, self.init) {
            (true, _) => Tensor::try_normal(self.b_shape, 0.0, 1.0, o),
            (false, Init::Random) => uniform(self.b_shape, o),
            (false, _) => Tensor::try_zeros(self.b_shape, o),
        }
    }
}

/// A and B so that sBA is what is taken out of a weight `[out, in]`.
#[cfg(feature = "linalg")]
fn take(init: Init, weight: &Tensor, r: usize, scaling: f64) -> Result<(Tensor, Tensor)> {
    no_grad(|| {
        if init == Init::Olora {
            let (q, rr) = weight.try_qr()?;
            return Ok((rr.try_narrow(0, 0, r)?, q.try_narrow(1, 0, r)?));
        }
        let (u, s, vt) = weight.try_svd()?;
        let root = s.try_narrow(0, 0, r)?.try_div(scaling)?.try_sqrt()?;
        let a = root.try_unsqueeze(1)?.try_mul(vt.try_narrow(0, 0, r)?)?;
        let b = u.try_narrow(1, 0, r)?.try_mul(root.try_unsqueeze(0)?)?;
        Ok((a, b))
    })
}

#[cfg(not(feature = "linalg"))]
fn take(_init: Init, _weight: &Tensor, _r: usize, _scaling: f64) -> Result<(Tensor, Tensor)> {
    Err(Error::argument("LoRA", "pissa and olora decompose matrices: build with the feature `linalg`"))
}

//! What one adapter has at one layer.

use super::config::{AdapterConfig, BottleneckConfig, Ia3Config, NonLinearity};
use super::matrices::Matrices;
use super::targets::{Matcher, Place};
use crate::nn::init::{Fan, Gain, kaiming_uniform};
use crate::nn::{Dropout, Forward, LayerKind, Module, Param, Walk, Weight};
use crate::{DType, Error, Options, Result, Shape, Tensor};

/// Where the values of new parameters come from.
pub(super) trait Source {
    /// The value for a name below the layer's path, such as `lora_A.weight`; `draw` makes a new one.
    fn value(&mut self, name: &str, shape: &[usize], options: Options, draw: &dyn Fn() -> Result<Tensor>) -> Result<Tensor>;
}

/// New values.
pub(super) struct Draw;

impl Source for Draw {
    fn value(&mut self, _name: &str, _shape: &[usize], _options: Options, draw: &dyn Fn() -> Result<Tensor>) -> Result<Tensor> {
        draw()
    }
}

/// What one adapter has at one layer.
pub(super) enum Part {
    Lora(Box<Matrices>),
    Ia3(Scale),
    Bottleneck(Bottleneck),
}

impl Part {
    /// The part of this kind of adapter at a layer. What the base keeps of its weight instead of all of it is returned with it, where the start takes something out.
    pub fn new(config: &AdapterConfig, place: &Place, source: &mut dyn Source) -> Result<(Part, Option<Tensor>)> {
        Ok(match config {
            AdapterConfig::Lora(c) => {
                let (matrices, rest) = Matrices::new(c, place, source)?;
                (Part::Lora(Box::new(matrices)), rest)
            }
            AdapterConfig::Ia3(c) => (Part::Ia3(Scale::new(c, place, source)?), None),
            AdapterConfig::Bottleneck(c) => (Part::Bottleneck(Bottleneck::new(c, place, source)?), None),
        })
    }

    /// The parameters under their names in a file.
    pub fn params(&self) -> Vec<(&'static str, &Param)> {
        match self {
            Part::Lora(m) => m.params(),
            Part::Ia3(s) => vec![("ia3_l", &s.scale)],
            Part::Bottleneck(b) => b.params(),
        }
    }

    /// Shows the parameters of the adapter of this name: PEFT puts it behind the first part of a parameter's name.
    pub fn walk(&self, adapter: &str, walk: &mut Walk<'_>) {
        for (name, p) in self.params() {
            let (first, rest) = name.split_once('.').unwrap_or((name, ""));
            // PEFT's file leaves this one out, its model does not.
            let rest = if first == "lora_magnitude_vector" { "weight" } else { rest };
            walk.field(first, |walk| {
                walk.field(adapter, |walk| if rest.is_empty() { p.walk(walk) } else { walk.field(rest, |walk| p.walk(walk)) })
            });
        }
        if let Some(dropout) = self.dropout() {
            dropout.walk(walk);
        }
    }

    fn dropout(&self) -> Option<&Dropout> {
        match self {
            Part::Lora(m) => Some(&m.dropout),
            Part::Bottleneck(b) => Some(&b.dropout),
            Part::Ia3(_) => None,
        }
    }

    /// Training or evaluation mode.
    pub fn set_training(&self, on: bool) {
        if let Some(dropout) = self.dropout() {
            dropout.set_training(on);
        }
    }
}

/// The options of an adapter's parameters at a layer: adapters are trained, so that halves become f32.
pub(super) fn options(place: &Place) -> Result<Options> {
    let like = |p: &Param| (p.dtype(), p.device());
    let (dtype, device) = match &place.weight {
        Weight::Param(p) => like(p),
        other => {
            let w = other.value()?;
            (w.dtype(), w.device())
        }
    };
    Ok(Options { dtype: if dtype == DType::F64 { dtype } else { DType::F32 }, device })
}

/// Uniform between `±1/√in`, as PyTorch's layers start.
pub(super) fn uniform(shape: &[usize], options: Options) -> Result<Tensor> {
    kaiming_uniform(shape, Fan::In, Gain::LeakyReLU(5f64.sqrt()), options)
}

/// In and out of a layer.
pub(super) fn features(place: &Place) -> Result<(usize, usize)> {
    Ok(match place.kind {
        LayerKind::Linear { inputs, outputs, .. } => (inputs, outputs),
        LayerKind::Embedding { count, dim } => (count, dim),
        LayerKind::Conv1d { options, .. } => channels(&place.weight.value()?, options.groups),
        LayerKind::Conv2d { options, .. } => channels(&place.weight.value()?, options.groups),
    })
}

fn channels(weight: &Tensor, groups: usize) -> (usize, usize) {
    let d = weight.dims();
    (d[1] * groups, d[0])
}

/// An input in the dtype of a parameter.
pub(super) fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype { Ok(x.clone()) } else { x.try_cast(dtype) }
}

/// (IA)³ at a layer.
pub(super) struct Scale {
    /// `[out, 1]`, or `[1, in]`, with ones for the axes of a window.
    scale: Param,
    pub feedforward: bool,
    /// Axes of the weight behind the first two.
    window: usize,
}

impl Scale {
    fn new(c: &Ia3Config, place: &Place, source: &mut dyn Source) -> Result<Scale> {
        let window = match place.kind {
            LayerKind::Linear { .. } => 0,
            LayerKind::Conv2d { .. } => 2,
            _ => return Err(Error::argument("IA3", format!("{}: linear layers and 2-D convolutions can be scaled", place.path))),
        };
        let feedforward = match &c.feedforward_modules {
            Some(t) => Matcher::new(t)?.matches(&place.path, window == 0, false),
            None => false,
        };
        let (inputs, outputs) = features(place)?;
        let mut shape = match (window, feedforward) {
            (_, true) => vec![1, inputs],
            (0, false) => vec![outputs, 1],
            (_, false) => vec![1, outputs],
        };
        shape.extend(std::iter::repeat_n(1, window));
        let o = options(place)?;
        let value = source.value("ia3_l", &shape, o, &|| Tensor::try_ones(&shape[..], o))?;
        Ok(Scale { scale: Param::new(value), feedforward, window })
    }

    /// The scale as it broadcasts to what a layer takes or gives.
    fn shaped(&self) -> Result<Tensor> {
        let l = self.scale.get();
        if self.window == 0 { l.try_flatten(0, -1) } else { Ok(l) }
    }

    /// Scales what the layer takes or gives.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let l = self.shaped()?;
        cast(x, l.dtype())?.try_mul(l)?.try_cast(x.dtype())
    }

    /// The weight and the bias with the scale in them.
    pub fn merged(&self, place: &Place, weight: &Tensor, bias: Option<&Tensor>) -> Result<(Tensor, Option<Tensor>)> {
        let l = self.scale.value().try_flatten(0, -1)?;
        let n = l.numel();
        let transposed = matches!(place.kind, LayerKind::Linear { transposed: true, .. });
        if let LayerKind::Conv2d { options, .. } = place.kind
            && options.groups != 1
            && self.feedforward
        {
            return Err(Error::argument(
                "IA3",
                format!("{}: the input of a grouped convolution cannot be merged into its weight", place.path),
            ));
        }
        // Rows of the weight are outputs, unless it is transposed.
        let axis = usize::from(self.feedforward != transposed);
        let mut shape: Shape = vec![1; weight.rank()].into();
        shape[axis] = n;
        let new = cast(weight, l.dtype())?.try_mul(l.try_reshape(shape)?)?.try_cast(weight.dtype())?;
        let bias = match bias.filter(|_| !self.feedforward) {
            Some(b) => Some(cast(b, l.dtype())?.try_mul(&l)?.try_cast(b.dtype())?),
            None => None,
        };
        Ok((new, bias))
    }
}

/// A bottleneck behind a layer, or beside it.
pub(super) struct Bottleneck {
    down: [Param; 2],
    up: [Param; 2],
    f: NonLinearity,
    dropout: Dropout,
    scaling: f64,
    pub parallel: bool,
}

impl Bottleneck {
    fn new(c: &BottleneckConfig, place: &Place, source: &mut dyn Source) -> Result<Bottleneck> {
        let LayerKind::Linear { inputs, outputs, .. } = place.kind else {
            return Err(Error::argument("bottleneck adapter", format!("{}: it stands behind linear layers", place.path)));
        };
        let (from, n, o) = (if c.use_parallel_adapter { inputs } else { outputs }, c.bottleneck_size, options(place)?);
        let mut param = |name: &str, shape: &[usize], draw: &dyn Fn() -> Result<Tensor>| source.value(name, shape, o, draw).map(Param::new);
        Ok(Bottleneck {
            // Near zero: at first the adapter changes nothing.
            down: [
                param("adapter_down.weight", &[n, from], &|| uniform(&[n, from], o))?,
                param("adapter_down.bias", &[n], &|| Tensor::try_zeros(n, o))?,
            ],
            up: [
                param("adapter_up.weight", &[outputs, n], &|| Tensor::try_zeros([outputs, n], o))?,
                param("adapter_up.bias", &[outputs], &|| Tensor::try_zeros(outputs, o))?,
            ],
            f: c.non_linearity,
            dropout: Dropout::try_new(c.adapter_dropout)?,
            scaling: c.scaling,
            parallel: c.use_parallel_adapter,
        })
    }

    fn params(&self) -> Vec<(&'static str, &Param)> {
        let [(a, b), (c, d)] = [(&self.down[0], &self.down[1]), (&self.up[0], &self.up[1])];
        vec![("adapter_down.weight", a), ("adapter_down.bias", b), ("adapter_up.weight", c), ("adapter_up.bias", d)]
    }

    /// What is added to `y`; `x` is the layer's input.
    pub fn delta(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let from = if self.parallel { x } else { y };
        let h = cast(from, self.down[0].dtype())?.try_linear(&self.down[0].get(), Some(&self.down[1].get()))?;
        let h = match self.f {
            NonLinearity::Relu => h.try_relu()?,
            NonLinearity::Gelu => h.try_gelu()?,
            NonLinearity::Silu => h.try_silu()?,
            NonLinearity::Tanh => h.try_tanh()?,
        };
        let up = self.dropout.forward(&h)?.try_linear(&self.up[0].get(), Some(&self.up[1].get()))?;
        up.try_mul(self.scaling)?.try_cast(y.dtype())
    }
}

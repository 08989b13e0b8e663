//! Quantising the layers of a model, and checkpoints of quantised models.

use super::{Format, QuantLinear};
use crate::io::{StateDict, safetensors};
use crate::nn::{Item, Loaded, Module, Param, Slot, Walk};
use crate::{Error, Result, Tensor};
use std::path::Path;

/// Which layers [`quantize`] exchanges, and for what.
///
/// A pattern is a name or several with dots between, and matches a path that has them somewhere, one after the other: `q_proj`, `layers.0`, `layers.*.mlp`, where `*` stands for
/// any one name.
///
/// ```
/// use fornax::quant::{Format, QuantConfig};
/// let config = QuantConfig::new(Format::Int8).targets(["q_proj", "v_proj"]).skip(["layers.0"]);
/// assert!(config.matches("model.layers.1.self_attn.q_proj"));
/// assert!(!config.matches("model.layers.0.self_attn.q_proj") && !config.matches("model.layers.1.mlp.up_proj"));
/// assert!(!QuantConfig::new(Format::NF4).matches("lm_head"));
/// ```
#[derive(Clone, Debug)]
pub struct QuantConfig {
    /// How weights are stored.
    pub format: Format,
    /// Patterns of the layers; all linear ones if not given.
    pub targets: Option<Vec<String>>,
    /// Patterns of layers that stay as they are. At first those of heads, which matter most for quality: `lm_head`, `classifier`, `score`, `qa_outputs`.
    pub skip: Vec<String>,
}

impl QuantConfig {
    /// All linear layers but heads. (Embeddings are no linear layers.)
    pub fn new(format: Format) -> QuantConfig {
        QuantConfig { format, targets: None, skip: ["lm_head", "classifier", "score", "qa_outputs"].map(String::from).to_vec() }
    }

    /// Only layers that one of these patterns matches.
    pub fn targets<S: Into<String>>(mut self, patterns: impl IntoIterator<Item = S>) -> QuantConfig {
        self.targets = Some(patterns.into_iter().map(Into::into).collect());
        self
    }

    /// Leaves out the layers that one of these patterns matches, instead of the heads.
    pub fn skip<S: Into<String>>(mut self, patterns: impl IntoIterator<Item = S>) -> QuantConfig {
        self.skip = patterns.into_iter().map(Into::into).collect();
        self
    }

    /// Whether the layer at this path is exchanged.
    pub fn matches(&self, path: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|p| matches(p, path));
        self.targets.as_deref().is_none_or(any) && !any(&self.skip)
    }
}

fn matches(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('.').collect();
    let path: Vec<&str> = path.split('.').collect();
    path.windows(pattern.len()).any(|w| w.iter().zip(&pattern).all(|(name, p)| *p == "*" || p == name))
}

/// A linear layer's weight and bias; `turned`: the weight lies as `[in, out]`.
struct Dense {
    weight: Param,
    bias: Option<Param>,
    turned: bool,
}

/// What is in a slot, if it is a linear layer.
fn dense(slot: &Slot) -> Option<Dense> {
    let (mut kinds, mut params, mut others) = (Vec::new(), Vec::new(), 0);
    slot.get().walk(&mut Walk::new(&mut |path, item| match item {
        Item::Module(kind) => kinds.push(kind),
        Item::Param(p) => params.push((path.to_string(), p.clone())),
        Item::Buffer(_) | Item::Counter(_) | Item::Extra(_) | Item::Slot(_) => others += 1,
        _ => {}
    }));
    let turned = match kinds[..] {
        ["Linear"] => false,
        ["Conv1D"] => true,
        _ => return None,
    };
    let mut params = params.into_iter();
    let (name, weight) = params.next()?;
    let bias = params.next();
    let plain = others == 0 && name == "weight" && params.next().is_none() && bias.as_ref().is_none_or(|(name, _)| name == "bias");
    (plain && weight.shape().rank() == 2).then(|| Dense { weight, bias: bias.map(|b| b.1), turned })
}

/// Exchanges the linear layers of a model that the config matches for quantised ones, one after the other; a shared one stays shared. Returns their paths.
///
/// The dense weight of a layer is let go before the next one is read: of a model that was loaded lazily (from a memory map), no more than one dense layer is in memory at a
/// time. For a GPU, load on the CPU, quantise, and then move the model with [`Module::to`]. GPT-2's `Conv1D` layers, whose weight lies as `[in, out]`, are turned, as transformers does.
///
/// # Errors
/// A pattern list that matches no linear layer (the message names what there is), weights that are not finite, or what reading them can give. Layers that were exchanged before stay so.
pub fn quantize(model: &dyn Module, config: &QuantConfig) -> Result<Vec<String>> {
    const OP: &str = "quantize";
    let slots: Vec<(String, Slot, Dense)> =
        model.named_slots().into_iter().filter_map(|(path, slot)| dense(&slot).map(|d| (path, slot, d))).collect();
    if !slots.iter().any(|(path, ..)| config.matches(path)) {
        let mut names: Vec<&str> = slots.iter().map(|(path, ..)| path.rsplit('.').next().unwrap_or(path)).collect();
        names.sort_unstable();
        names.dedup();
        let message = match names.is_empty() {
            true => "the model has no linear layer in a Slot, where it could be exchanged".to_string(),
            false => format!("no linear layer matches; there are those named {}", names.join(", ")),
        };
        return Err(Error::argument(OP, message));
    }
    let mut done = Vec::new();
    for (path, slot, d) in slots {
        if !config.matches(&path) {
            continue;
        }
        // A slot that is at two places was exchanged at the first one.
        if dense(&slot).is_none() {
            done.push(path);
            continue;
        }
        let value = d.weight.value();
        let value = if d.turned { value.try_t()? } else { value };
        let layer = QuantLinear::new(&value, d.bias, config.format).map_err(|e| Error::argument(OP, format!("{path}: {e}")))?;
        slot.replace(layer);
        done.push(path);
    }
    Ok(done)
}

/// A layer that is to take a slot's place.
pub(crate) struct Placement {
    pub path: String,
    slot: Slot,
    layer: QuantLinear,
}

impl Placement {
    /// Puts the layer there.
    pub fn place(self) {
        self.slot.replace(self.layer);
    }
}

/// The layers of a model for which a checkpoint holds quantised weights, made from them. `get` gives the tensor of a path. Biases are the model's parameters. Nothing is
/// changed yet.
pub(crate) fn prepare(model: &dyn Module, get: &dyn Fn(&str) -> Option<Tensor>) -> Result<Vec<Placement>> {
    let mut all = Vec::new();
    for (path, slot) in model.named_slots() {
        let Some(d) = dense(&slot) else { continue };
        let Some(mut layer) = QuantLinear::find(get, &path, None)? else { continue };
        let mut wanted = d.weight.shape().to_vec();
        if d.turned {
            wanted.reverse();
        }
        let found = layer.weight()?.shape();
        if found[..] != wanted[..] {
            return Err(Error::StateDict { message: format!("{path}.weight is {found:?}, must be {wanted:?}") });
        }
        layer.bias = d.bias;
        layer.to(d.weight.device())?;
        all.push(Placement { path, slot, layer });
    }
    Ok(all)
}

/// Loads a state dict into a model: slots for which it holds weights under bitsandbytes' names become [`QuantLinear`] (a model that is quantised already stays so), everything else
/// is loaded as [`Module::load_state_dict`] does.
///
/// ```
/// use fornax::nn::{Linear, Module, Slot};
/// use fornax::quant::{self, Format, QuantConfig};
/// use fornax::Device;
/// let new = || Slot::new(Linear::new(64, 8, Device::cpu()));
/// let (a, b) = (new(), new());
/// quant::quantize(&a, &QuantConfig::new(Format::NF4))?;
/// quant::load(&b, &a.state_dict(), true)?;
/// assert_eq!(b.state_dict().len(), a.state_dict().len());
/// # Ok::<(), fornax::Error>(())
/// ```
///
/// # Errors
/// As [`Module::load_state_dict`]; quantised weights whose tensors do not fit each other or the layer. Nothing is changed then, but for the kind of layers.
pub fn load(model: &dyn Module, dict: &StateDict, strict: bool) -> Result<Loaded> {
    let at = |path: &str| dict.get(path.strip_prefix('.').unwrap_or(path)).cloned();
    prepare(model, &at)?.into_iter().for_each(Placement::place);
    model.load_state_dict(dict, strict)
}

/// Saves a model's state dict as bitsandbytes would: 8-bit weights as `i8`, and the metadata that transformers wants to see. ([`Module::save_safetensors`] keeps them as `u8`; both load
/// here.)
///
/// # Errors
/// As [`safetensors::save`].
pub fn save(model: &dyn Module, path: impl AsRef<Path>) -> Result<()> {
    let dict = model.state_dict();
    let header = safetensors::Header { signed: QuantLinear::signed(&dict).into_iter().collect(), ..safetensors::Header::pt() };
    safetensors::save_as(path, &dict, &header)
}

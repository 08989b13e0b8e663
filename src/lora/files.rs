//! `adapter_model.safetensors`, with PEFT's names.

use super::adapters::{Adapters, PerLayer, Swap, SwapKind, error};
use super::config::{AdapterConfig, Targets};
use super::json;
use super::part::{Source, cast};
use super::targets::Place;
use super::wrap::lock;
use crate::io::{StateDict, safetensors};
use crate::nn::{LayerKind, Module, Param, Weight};
use crate::transformers::Config;
use crate::{Error, Options, Result, Tensor};
use std::collections::HashSet;
use std::path::Path;

/// The file.
pub(super) const TENSORS: &str = "adapter_model.safetensors";
/// What stands before every name.
const PREFIX: &str = "base_model.model.";

/// The tensors of an adapter's folder.
pub(super) fn tensors(folder: &Path) -> Result<StateDict> {
    let path = folder.join(TENSORS);
    if !path.is_file() && folder.join("adapter_model.bin").is_file() {
        return Err(Error::format(folder, "adapter_model.bin must be converted to adapter_model.safetensors: save it with a newer PEFT"));
    }
    let tensors = safetensors::load(&path)?;
    for (name, t) in &tensors {
        safetensors::check_finite(&path, name, t)?;
    }
    Ok(tensors)
}

/// Writes the tensors of an adapter.
pub(super) fn write(folder: &Path, tensors: &StateDict) -> Result<()> {
    safetensors::save_as(folder.join(TENSORS), tensors, &safetensors::Header::pt())
}

/// A value as a parameter of these options holds it, computed.
pub(super) fn fit(t: &Tensor, o: Options) -> Result<Tensor> {
    let t = cast(t, o.dtype)?;
    let t = if t.device() == o.device { t } else { t.try_to(o.device)? };
    t.eval()?;
    Ok(t)
}

/// The values of a file.
struct File<'a> {
    dict: &'a StateDict,
    layer: String,
    used: HashSet<String>,
    missing: Vec<String>,
    wrong: Vec<String>,
}

impl<'a> File<'a> {
    fn new(dict: &'a StateDict) -> File<'a> {
        File { dict, layer: String::new(), used: HashSet::new(), missing: Vec::new(), wrong: Vec::new() }
    }

    /// The value of a parameter of the base.
    fn base(&mut self, path: &str, names: &[String], param: &Param) -> Result<Option<Tensor>> {
        let Some(key) = names.iter().find(|k| self.dict.contains_key(*k)) else {
            self.missing.push(format!("{PREFIX}{path}"));
            return Ok(None);
        };
        self.used.insert(key.clone());
        let t = &self.dict[key];
        if *t.shape() != param.shape() {
            self.wrong.push(format!("{key} is {}, must be {}", t.shape(), param.shape()));
            return Ok(None);
        }
        fit(t, Options { dtype: param.dtype(), device: param.device() }).map(Some)
    }
}

impl Source for File<'_> {
    fn value(&mut self, name: &str, shape: &[usize], options: Options, _draw: &dyn Fn() -> Result<Tensor>) -> Result<Tensor> {
        let key = format!("{PREFIX}{}.{name}", self.layer);
        match self.dict.get(&key) {
            Some(t) if t.dims() == shape && t.dtype().is_float() => {
                self.used.insert(key);
                fit(t, options)
            }
            found => {
                match found {
                    Some(t) => {
                        self.used.insert(key.clone());
                        self.wrong.push(format!("{key} is {} {}, must be {options:?} {shape:?} for this base", t.dtype(), t.shape()));
                    }
                    None => self.missing.push(key),
                }
                // A recipe, which is never computed: what is missing is an error at the end.
                Tensor::try_zeros(shape, options)
            }
        }
    }
}

/// `a.b.weight` as `a.b.base_layer.weight`.
fn based(path: &str) -> String {
    match path.rsplit_once('.') {
        Some((layer, leaf)) => format!("{layer}.base_layer.{leaf}"),
        None => format!("base_layer.{path}"),
    }
}

impl PerLayer for File<'_> {
    fn at(&mut self, place: &Place) {
        self.layer = place.path.clone();
    }

    fn source(&mut self) -> &mut dyn Source {
        self
    }

    fn finish(&mut self, swaps: &mut Vec<Swap>, places: &[Place]) -> Result<()> {
        for swap in swaps.iter_mut().filter(|s| s.kind != SwapKind::Rest) {
            let (layer, leaf) = swap.path.rsplit_once('.').unwrap_or(("", &swap.path));
            let names = [swap.path.clone(), based(&swap.path), format!("{layer}.modules_to_save.{leaf}")].map(|n| format!("{PREFIX}{n}"));
            let path = swap.path.clone();
            if let Some(value) = self.base(&path, &names, &swap.param)? {
                swap.other = value;
            }
        }
        // Tables of tokens are saved with the adapter that stands around them.
        for place in places {
            let Weight::Param(p) = &place.weight else { continue };
            let path = format!("{}.weight", place.path);
            let key = format!("{PREFIX}{}", based(&path));
            if self.dict.contains_key(&key)
                && !swaps.iter().any(|s| s.param.id() == p.id())
                && let Some(other) = self.base(&path, &[key], p)?
            {
                swaps.push(Swap { path, param: p.clone(), other, kind: SwapKind::Table });
            }
        }
        // What PEFT keeps beside a saved module.
        let beside = |k: &str| k.contains(".original_module.");
        let unexpected: Vec<&str> = self.dict.keys().filter(|k| !self.used.contains(*k) && !beside(k)).map(String::as_str).collect();
        let mut parts = Vec::new();
        let mut say = |what: &str, names: Vec<&str>| {
            if !names.is_empty() {
                let more = names.len().saturating_sub(8);
                let shown = names[..names.len().min(8)].join("; ");
                parts.push(format!("{what}: {shown}{}", if more > 0 { format!(" and {more} more") } else { String::new() }));
            }
        };
        say("of another shape", self.wrong.iter().map(String::as_str).collect());
        say("missing", self.missing.iter().map(String::as_str).collect());
        say("for modules that this base does not have or the config does not name", unexpected);
        if parts.is_empty() {
            return Ok(());
        }
        Err(Error::StateDict { message: format!("the adapter is not for this base: {}", parts.join("; ")) })
    }
}

impl Adapters {
    /// Loads a folder that PEFT or [`save`](Adapters::save) wrote, as the adapter `default`, active and frozen. The folders in it, of adapters of other names, are loaded
    /// with [`load_adapter`](Adapters::load_adapter).
    ///
    /// ```no_run
    /// use fornax::lora::Adapters;
    /// use fornax::transformers::CausalLm;
    /// use fornax::Device;
    /// let model = CausalLm::load("Llama-3.2-1B", Device::cpu())?;
    /// let adapters = Adapters::load(&model, "my-adapter")?;
    /// adapters.merge_and_unload()?;
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Error::Io` where a file is missing; `Error::Format` where it is not what it should be, for an unknown `peft_type`, or for sizes that cannot be;
    /// `Error::StateDict` names what does not fit this base.
    pub fn load(model: &dyn Module, folder: impl AsRef<Path>) -> Result<Adapters> {
        Adapters::from_folder(model, folder.as_ref(), false)
    }

    /// As [`load`](Adapters::load), to be trained on.
    ///
    /// # Errors
    /// As [`load`](Adapters::load).
    pub fn load_trainable(model: &dyn Module, folder: impl AsRef<Path>) -> Result<Adapters> {
        Adapters::from_folder(model, folder.as_ref(), true)
    }

    fn from_folder(model: &dyn Module, folder: &Path, trainable: bool) -> Result<Adapters> {
        let adapters = Adapters::bare(model)?;
        adapters.load_as("default", folder, trainable)?;
        adapters.set_active(&["default"])?;
        Ok(adapters)
    }

    /// Loads a folder as one more adapter, frozen; [`set_active`](Adapters::set_active) turns it on.
    ///
    /// # Errors
    /// As [`load`](Adapters::load); a name that is taken.
    pub fn load_adapter(&self, name: &str, folder: impl AsRef<Path>) -> Result<()> {
        self.load_as(name, folder.as_ref(), false)
    }

    fn load_as(&self, name: &str, folder: &Path, trainable: bool) -> Result<()> {
        let config = json::read(&Config::read(folder.join(json::CONFIG))?)?;
        let dict = tensors(folder)?;
        self.attach(name, config, &mut File::new(&dict), trainable)
    }

    /// Adds an adapter with the values of a state dict, under PEFT's names.
    ///
    /// # Errors
    /// As [`load`](Adapters::load).
    pub fn add_from(&self, name: &str, config: impl Into<AdapterConfig>, tensors: &StateDict) -> Result<()> {
        self.attach(name, config.into(), &mut File::new(tensors), true)
    }

    /// The tensors of an adapter under the names that PEFT's file has.
    ///
    /// # Errors
    /// No adapter of this name; merged adapters.
    pub fn state_dict(&self, name: &str) -> Result<StateDict> {
        self.with(name, |_| ())?;
        let (held, wraps) = (lock(&self.held), lock(&self.wraps));
        if held.merged.is_some() {
            return Err(error("adapters are merged: unmerge them first"));
        }
        let mut dict = StateDict::new();
        let Some(adapter) = held.adapters.get(name) else { return Ok(dict) };
        for place in &adapter.places {
            if let Some(part) = wraps.get(&place.path).and_then(|w| w.part(name)) {
                dict.extend(part.params().into_iter().map(|(leaf, p)| (format!("{PREFIX}{}.{leaf}", place.path), p.value())));
            }
            // PEFT saves a table of tokens whose layer is named.
            let table = |n: &String| matches!(n.as_str(), "embed_tokens" | "lm_head") && place.path.ends_with(n.as_str());
            if let (Some(Targets::Names(names)), Weight::Param(p)) = (adapter.config.targets().0, &place.weight)
                && names.iter().any(table)
                && matches!(place.kind, LayerKind::Embedding { .. } | LayerKind::Linear { .. })
            {
                dict.insert(format!("{PREFIX}{}.base_layer.weight", place.path), p.value());
            }
        }
        for swap in adapter.swaps.iter().filter(|s| s.kind != SwapKind::Rest) {
            let layer = swap.path.rsplit_once('.').map_or("", |(layer, _)| layer);
            let around = adapter.places.iter().any(|p| p.path == layer);
            let path = if around { based(&swap.path) } else { swap.path.clone() };
            let value = if adapter.installed { swap.param.value() } else { swap.other.clone() };
            dict.insert(format!("{PREFIX}{path}"), value);
        }
        Ok(dict)
    }

    /// Saves all adapters as PEFT does: `default` in this folder, each other in a folder of its name inside.
    ///
    /// # Errors
    /// `Error::Io`; merged adapters.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        for name in self.names() {
            let folder = if name == "default" { folder.as_ref().to_path_buf() } else { folder.as_ref().join(&name) };
            self.save_adapter(&name, folder)?;
        }
        Ok(())
    }

    /// Saves one adapter into a folder.
    ///
    /// # Errors
    /// `Error::Io`; no adapter of this name; merged adapters.
    pub fn save_adapter(&self, name: &str, folder: impl AsRef<Path>) -> Result<()> {
        let (folder, dict) = (folder.as_ref(), self.state_dict(name)?);
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        write(folder, &dict)?;
        json::write(folder, &json::file(&self.config(name)?))
    }
}

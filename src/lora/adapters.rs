//! The adapters of a model.

use super::config::{AdapterConfig, Bias, Targets};
use super::part::{Draw, Part, Source};
use super::targets::{Layout, Place, list};
use super::wrap::{Gate, Wrapped, lock};
use crate::nn::{LayerKind, Module, Param, Weight};
use crate::{Error, Result, Tensor};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex};

/// A parameter of the base that an adapter has a value of its own for: a bias, a new head. The value that is not in the parameter now waits here.
pub(super) struct Swap {
    pub path: String,
    pub param: Param,
    pub other: Tensor,
    pub kind: SwapKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SwapKind {
    /// A parameter of `modules_to_save`.
    Module,
    /// A bias.
    Base,
    /// A table of tokens that came with a file, and is not trained.
    Table,
    /// What PiSSA or OLoRA left of a weight: made anew from the base.
    Rest,
}

impl Swap {
    fn swap(&mut self) {
        let now = self.param.value();
        self.param.replace(std::mem::replace(&mut self.other, now));
    }
}

/// An adapter.
pub(super) struct Adapter {
    pub config: AdapterConfig,
    pub trainable: bool,
    /// The layers that it stands around.
    pub places: Vec<Place>,
    pub swaps: Vec<Swap>,
    pub installed: bool,
}

/// What a merge changed.
pub(super) struct Merged {
    pub old: Vec<(Param, Tensor)>,
    pub packed: Vec<String>,
}

#[derive(Default)]
pub(super) struct Held {
    pub adapters: BTreeMap<String, Adapter>,
    pub active: Vec<String>,
    pub merged: Option<Merged>,
}

/// The adapters of a model: a handle on what stands around its layers. The model itself is used as before; its own parameters are frozen while it has adapters.
///
/// ```
/// use fornax::lora::{Adapters, LoraConfig};
/// use fornax::nn::{self, Forward, Module};
/// use fornax::{Device, Tensor};
/// let model = nn::Sequential::new()
///     .add_named("up", nn::Linear::new(4, 8, Device::cpu()))
///     .add(nn::ReLU)
///     .add_named("down", nn::Linear::new(8, 2, Device::cpu()));
/// let x = Tensor::ones([3, 4], Device::cpu());
/// let before = model.forward(&x)?.to_vec::<f32>()?;
/// let lora = Adapters::new(&model, LoraConfig { r: 2, target_modules: Some(["down"].into()), ..LoraConfig::default() })?;
/// println!("{}", lora.trainable());
/// assert_eq!(lora.trainable().to_string(), "trainable params: 20 || all params: 78 || trainable%: 25.6410");
/// // B starts at zero.
/// assert_eq!(model.forward(&x)?.to_vec::<f32>()?, before);
/// let grads = model.forward(&x)?.square().mean(()).backward()?;
/// assert_eq!(model.parameters().iter().filter(|p| p.grad(&grads).is_some()).count(), 2);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct Adapters {
    pub(super) layout: Layout,
    pub(super) gate: Arc<Gate>,
    pub(super) wraps: Mutex<HashMap<String, Arc<Wrapped>>>,
    pub(super) held: Mutex<Held>,
    /// Which parameters of the base were frozen before.
    frozen: Vec<(Param, bool)>,
}

/// How many parameters are trained; displayed as PEFT's `print_trainable_parameters` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trainable {
    /// Numbers that are trained.
    pub trainable: usize,
    /// All numbers.
    pub all: usize,
}

/// 1234567 as `1,234,567`.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let commas = |i: usize| i > 0 && (digits.len() - i).is_multiple_of(3);
    digits.char_indices().flat_map(|(i, c)| commas(i).then_some(',').into_iter().chain([c])).collect()
}

impl fmt::Display for Trainable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = 100.0 * self.trainable as f64 / self.all.max(1) as f64;
        write!(f, "trainable params: {} || all params: {} || trainable%: {percent:.4}", grouped(self.trainable), grouped(self.all))
    }
}

pub(super) fn error(message: impl Into<String>) -> Error {
    Error::argument("Adapters", message)
}

/// The name of an adapter is a folder's and a part of paths.
pub(super) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.contains(['.', '/', '\\']) {
        return Err(error(format!("{name:?} is no name for an adapter: one without dots and slashes is wanted")));
    }
    Ok(())
}

impl Adapters {
    /// Freezes a model and puts an adapter around its layers, under the name `default`, to be trained.
    ///
    /// # Errors
    /// Targets that match no layer (the message says which there are); numbers that cannot be; a model that has adapters of another handle.
    pub fn new(model: &dyn Module, config: impl Into<AdapterConfig>) -> Result<Adapters> {
        let adapters = Adapters::bare(model)?;
        adapters.attach("default", config.into(), &mut Draw, true)?;
        adapters.set_active(&["default"])?;
        Ok(adapters)
    }

    /// A handle without adapters yet.
    pub(super) fn bare(model: &dyn Module) -> Result<Adapters> {
        let layout = Layout::of(model);
        if let Some(p) = layout.places.iter().find(|p| p.hook.get().is_some()) {
            return Err(error(format!("something stands around {} already: use the handle that put it there, or unload it", p.path)));
        }
        let mut seen = HashSet::new();
        let frozen = layout.params.iter().filter(|(_, p)| seen.insert(p.id())).map(|(_, p)| (p.clone(), p.is_frozen())).collect();
        Ok(Adapters { layout, gate: Arc::default(), wraps: Mutex::default(), held: Mutex::default(), frozen })
    }

    /// Adds another adapter of the same kind; [`set_active`](Adapters::set_active) turns it on.
    ///
    /// # Errors
    /// As [`new`](Adapters::new); a name that is taken; another kind of adapter.
    pub fn add(&self, name: &str, config: impl Into<AdapterConfig>) -> Result<()> {
        self.attach(name, config.into(), &mut Draw, true)
    }

    /// Puts an adapter around the layers that its config means.
    pub(super) fn attach(&self, name: &str, mut config: AdapterConfig, source: &mut dyn PerLayer, trainable: bool) -> Result<()> {
        check_name(name)?;
        config.check()?;
        {
            let held = lock(&self.held);
            if held.adapters.contains_key(name) {
                return Err(error(format!("there is an adapter {name} already: delete it first, or choose another name")));
            }
            if held.merged.is_some() {
                return Err(error("adapters are merged: unmerge them first"));
            }
            if let Some(other) = held.adapters.values().find(|a| a.config.peft_type() != config.peft_type()) {
                let (have, want) = (other.config.peft_type(), config.peft_type());
                return Err(error(format!(
                    "the model has adapters of type {have}, this one is {want}: the adapters of a model are of one type"
                )));
            }
        }
        // The matrices and the rests are made of the base, without other adapters' values.
        let active = lock(&self.held).active.clone();
        self.activate(&[])?;
        let made = self.make(&mut config, source);
        self.activate(&active)?;
        let (parts, places, swaps) = made?;
        // As the model is: an adapter to be used is not in training mode, whatever its model is in.
        let training = trainable && self.layout.training.unwrap_or(true);
        for (place, part) in parts {
            part.set_training(training);
            let mut wraps = lock(&self.wraps);
            let wrap = wraps.entry(place.path.clone()).or_insert_with(|| Arc::new(Wrapped::new(self.gate.clone())));
            wrap.put(name, part);
            place.hook.set(Some(wrap.clone()));
        }
        lock(&self.held).adapters.insert(name.into(), Adapter { config, trainable, places, swaps, installed: false });
        self.refreeze();
        Ok(())
    }

    fn make(&self, config: &mut AdapterConfig, source: &mut dyn PerLayer) -> Result<(Vec<(Place, Part)>, Vec<Place>, Vec<Swap>)> {
        let heads: &[&str] = match config.about().task_type.as_deref() {
            Some("SEQ_CLS" | "TOKEN_CLS") => &["classifier", "score"],
            Some("QUESTION_ANS") => &["qa_outputs"],
            _ => &[],
        };
        heads.iter().filter(|h| self.layout.has(h)).for_each(|h| config.save_module(h));
        let places = self.layout.matched(config)?;
        if let AdapterConfig::Lora(c) = &mut *config {
            c.fan_in_fan_out |= places.iter().any(|p| matches!(p.kind, LayerKind::Linear { transposed: true, .. }));
        }
        if matches!(config.targets().0, Some(Targets::AllLinear)) {
            config.set_targets(Targets::Names(places.iter().map(|p| p.path.clone()).collect()));
        }
        let (mut parts, mut swaps) = (Vec::new(), Vec::new());
        let mut known = HashSet::new();
        for place in &places {
            source.at(place);
            let (part, rest) = Part::new(config, place, source.source())?;
            if let (Some(other), Weight::Param(p)) = (rest, &place.weight) {
                known.insert(p.id());
                swaps.push(Swap { path: format!("{}.weight", place.path), param: p.clone(), other, kind: SwapKind::Rest });
            }
            parts.push((place.clone(), part));
        }
        let mut add = |path: &str, param: &Param, kind| {
            if known.insert(param.id()) {
                swaps.push(Swap { path: path.into(), param: param.clone(), other: param.value(), kind });
            }
        };
        for (path, p) in self.layout.to_save(config.modules_to_save())? {
            add(&path, &p, SwapKind::Module);
        }
        if let AdapterConfig::Lora(c) = &*config {
            for (path, p) in &self.layout.params {
                let wanted = match c.bias {
                    Bias::None => false,
                    Bias::All => path == "bias" || path.ends_with(".bias"),
                    Bias::LoraOnly => places.iter().any(|l| l.bias.as_ref().is_some_and(|b| b.id() == p.id())),
                };
                if wanted {
                    add(path, p, SwapKind::Base);
                }
            }
        }
        source.finish(&mut swaps, &places)?;
        Ok((parts, places, swaps))
    }

    /// The names of the adapters.
    pub fn names(&self) -> Vec<String> {
        lock(&self.held).adapters.keys().cloned().collect()
    }

    /// The names of those that count now.
    pub fn active(&self) -> Vec<String> {
        lock(&self.held).active.clone()
    }

    /// The description of an adapter.
    ///
    /// # Errors
    /// No adapter of this name.
    pub fn config(&self, name: &str) -> Result<AdapterConfig> {
        self.with(name, |a| a.config.clone())
    }

    pub(super) fn with<T>(&self, name: &str, f: impl FnOnce(&Adapter) -> T) -> Result<T> {
        let held = lock(&self.held);
        match held.adapters.get(name) {
            Some(a) => Ok(f(a)),
            None => Err(error(format!("there is no adapter {name}; there are {}", list(held.adapters.keys().cloned().collect())))),
        }
    }

    /// Lets these adapters count, together, and no others; they are trained unless they were loaded for inference.
    ///
    /// # Errors
    /// No adapter of a name; merged adapters; two adapters with values of their own for the same parameter of the base (a bias, a saved module).
    pub fn set_active(&self, names: &[&str]) -> Result<()> {
        let (mut seen, mut paths) = (HashMap::new(), HashMap::new());
        for name in names {
            let ids: Vec<_> = self.with(name, |a| a.swaps.iter().map(|s| (s.param.id(), s.path.clone())).collect())?;
            for (id, path) in ids {
                // The copies of a tied weight are not the same parameter, but stand in the same place.
                if let Some(other) = seen.insert(id, *name).or(paths.insert(path.clone(), *name)) {
                    return Err(error(format!("{other} and {name} both have a {path} of their own: only one of them can be active")));
                }
            }
        }
        if lock(&self.held).merged.is_some() {
            return Err(error("adapters are merged: unmerge them first"));
        }
        self.activate(&names.iter().map(|n| n.to_string()).collect::<Vec<_>>())?;
        self.refreeze();
        Ok(())
    }

    /// Puts the values of these adapters into the base, and takes those of all others out.
    fn activate(&self, names: &[String]) -> Result<()> {
        let mut held = lock(&self.held);
        for (name, adapter) in &mut held.adapters {
            if adapter.installed && !names.contains(name) {
                adapter.swaps.iter_mut().for_each(Swap::swap);
                adapter.installed = false;
            }
        }
        for (name, adapter) in &mut held.adapters {
            if !adapter.installed && names.contains(name) {
                adapter.swaps.iter_mut().for_each(Swap::swap);
                adapter.installed = true;
            }
        }
        self.untie(&held);
        held.active = names.to_vec();
        self.gate.set(names.to_vec());
        Ok(())
    }

    /// A module that an adapter has saved is the adapter's alone, as with PEFT: what is tied to its weight stays with the base's value, and a tied weight that was
    /// saved itself is the adapter's copy.
    fn untie(&self, held: &Held) {
        let swaps = || held.adapters.values().filter(|a| a.installed).flat_map(|a| &a.swaps).filter(|s| s.kind == SwapKind::Module);
        for (path, tied) in &self.layout.ties {
            if let Some(own) = swaps().find(|s| s.path == *path) {
                tied.set_own(Some(own.param.clone()));
                continue;
            }
            let kept = swaps().find(|s| s.param.id() == tied.other().id() && s.path != *path).map(|s| {
                let param = Param::new(s.other.clone());
                param.set_frozen(true);
                param
            });
            tied.set_own(kept);
        }
    }

    /// Freezes everything but what the active adapters train.
    fn refreeze(&self) {
        self.frozen.iter().for_each(|(p, _)| p.set_frozen(true));
        let (held, wraps) = (lock(&self.held), lock(&self.wraps));
        for (name, adapter) in &held.adapters {
            let trained = adapter.trainable && held.active.contains(name);
            for part in wraps.values().filter_map(|w| w.part(name)) {
                part.params().iter().for_each(|(_, p)| p.set_frozen(!trained));
            }
            if trained {
                adapter
                    .swaps
                    .iter()
                    .filter(|s| matches!(s.kind, SwapKind::Module | SwapKind::Base))
                    .for_each(|s| s.param.set_frozen(false));
            }
        }
    }

    /// Takes an adapter away. If it was active, the others stay active.
    ///
    /// # Errors
    /// No adapter of this name; merged adapters.
    pub fn delete(&self, name: &str) -> Result<()> {
        self.with(name, |_| ())?;
        if lock(&self.held).merged.is_some() {
            return Err(error("adapters are merged: unmerge them first"));
        }
        let rest: Vec<String> = self.active().into_iter().filter(|n| n != name).collect();
        self.activate(&rest)?;
        lock(&self.held).adapters.remove(name);
        let mut wraps = lock(&self.wraps);
        let empty: Vec<String> = wraps.iter().filter(|(_, w)| w.remove(name)).map(|(path, _)| path.clone()).collect();
        for place in self.layout.places.iter().filter(|p| empty.contains(&p.path)) {
            place.hook.set(None);
            wraps.remove(&place.path);
        }
        drop(wraps);
        self.refreeze();
        Ok(())
    }

    /// Runs something with the base alone; afterwards, whatever happens, the adapters count as before.
    ///
    /// # Errors
    /// Those of `f`; merged adapters.
    pub fn disabled<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        struct Restore<'a>(&'a Adapters, Vec<String>);
        impl Drop for Restore<'_> {
            fn drop(&mut self) {
                // Putting values back cannot fail.
                let _ = self.0.activate(&self.1);
            }
        }
        if lock(&self.held).merged.is_some() {
            return Err(error("adapters are merged: unmerge them first"));
        }
        let restore = Restore(self, self.active());
        self.activate(&[])?;
        let out = f();
        drop(restore);
        out
    }

    /// The parameters that are trained: what an optimizer takes.
    pub fn parameters(&self) -> Vec<Param> {
        self.all().into_iter().filter(|p| !p.is_frozen()).collect()
    }

    /// Each parameter of the base and the adapters once.
    fn all(&self) -> Vec<Param> {
        let mut seen = HashSet::new();
        let mut all: Vec<Param> = self.frozen.iter().map(|(p, _)| p.clone()).collect();
        seen.extend(all.iter().map(Param::id));
        let (held, wraps) = (lock(&self.held), lock(&self.wraps));
        for (name, adapter) in &held.adapters {
            // Copies of tied weights; all others are the base's.
            all.extend(adapter.swaps.iter().filter(|s| seen.insert(s.param.id())).map(|s| s.param.clone()));
            for place in &adapter.places {
                let Some(part) = wraps.get(&place.path).and_then(|w| w.part(name)) else { continue };
                all.extend(part.params().iter().filter(|(_, p)| seen.insert(p.id())).map(|(_, p)| (*p).clone()));
            }
        }
        all
    }

    /// How many parameters are trained, and how many there are: those of the base (packed weights by the numbers that they stand for), of the adapters, and the
    /// copies of saved modules.
    pub fn trainable(&self) -> Trainable {
        let count = |t: &Param| t.shape().numel();
        let params = self.all();
        let base: HashSet<_> = self.frozen.iter().map(|(p, _)| p.id()).collect();
        let saved = |s: &&Swap| s.kind == SwapKind::Module && base.contains(&s.param.id());
        let copies: usize = lock(&self.held).adapters.values().flat_map(|a| &a.swaps).filter(saved).map(|s| count(&s.param)).sum();
        let packed = |p: &Place| match (&p.weight, p.kind) {
            (Weight::Packed(_), LayerKind::Linear { inputs, outputs, .. }) => inputs * outputs,
            (Weight::Packed(_), LayerKind::Embedding { count, dim }) => count * dim,
            _ => 0,
        };
        Trainable {
            trainable: params.iter().filter(|p| !p.is_frozen()).map(count).sum(),
            all: params.iter().map(count).sum::<usize>() + copies + self.layout.places.iter().map(packed).sum::<usize>(),
        }
    }

    /// Takes all adapters away; the model is what it was before, and what was trained in it is trained again.
    ///
    /// # Errors
    /// None that is known.
    pub fn unload(&self) -> Result<()> {
        self.unmerge()?;
        self.activate(&[])?;
        self.release();
        Ok(())
    }

    /// Leaves the model as it is now, without adapters.
    pub(super) fn release(&self) {
        let wraps = std::mem::take(&mut *lock(&self.wraps));
        self.layout.places.iter().filter(|p| wraps.contains_key(&p.path)).for_each(|p| {
            p.hook.set(None);
        });
        *lock(&self.held) = Held::default();
        self.gate.set(Vec::new());
        self.frozen.iter().for_each(|(p, frozen)| p.set_frozen(*frozen));
        // What was untied and stays so is trained as the base is.
        for own in self.layout.ties.iter().filter_map(|(_, tied)| Some((tied.own()?, tied.other()))) {
            own.0.set_frozen(own.1.is_frozen());
        }
    }
}

impl fmt::Debug for Adapters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Adapters({}; active: {})", list(self.names()), list(self.active()))
    }
}

/// A source of values that knows which layer they are for.
pub(super) trait PerLayer: Source {
    fn at(&mut self, _place: &Place) {}
    fn source(&mut self) -> &mut dyn Source;
    /// After the last layer: the values of parameters of the base, or what is wrong.
    fn finish(&mut self, _swaps: &mut Vec<Swap>, _places: &[Place]) -> Result<()> {
        Ok(())
    }
}

impl PerLayer for Draw {
    fn source(&mut self) -> &mut dyn Source {
        self
    }
}

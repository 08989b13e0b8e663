//! Folders of weights as Hugging Face publishes them.

use super::{Config, blank};
use crate::io::{StateDict, safetensors};
use crate::nn::{Item, Module, Param, Walk};
use crate::quant;
use crate::{DType, Device, Error, Result, Tensor};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// How to load.
///
/// ```
/// use fornax::transformers::LoadOptions;
/// use fornax::{DType, Device};
/// let options = LoadOptions { dtype: Some(DType::F32), ..LoadOptions::from(Device::cpu()) };
/// assert!(options.check_values && !options.initialize_missing);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Where the weights go.
    pub device: Device,
    /// Their dtype; as stored if not given.
    pub dtype: Option<DType>,
    /// Look for NaN and infinities, which reads the whole file once.
    pub check_values: bool,
    /// Draw what the file lacks at random, as for training: a new head on a pretrained encoder.
    pub initialize_missing: bool,
}

impl From<Device> for LoadOptions {
    fn from(device: Device) -> Self {
        LoadOptions { device, dtype: None, check_values: true, initialize_missing: false }
    }
}

/// A folder with `config.json` and `model.safetensors`, or shards and `model.safetensors.index.json`. The files are memory-mapped, and weights on the CPU stay in the
/// map: loading makes no copy of them. [`fill`](Checkpoint::fill) reads each weight once all the same, to look for NaN and infinities; with
/// [`check_values`](LoadOptions::check_values) off a weight is read when it is used, or when it is copied to a GPU, one after the other.
///
/// ```no_run
/// use fornax::transformers::Checkpoint;
/// let checkpoint = Checkpoint::open("all-MiniLM-L6-v2")?;
/// println!("{} with {} tensors", checkpoint.config().model_type()?, checkpoint.tensors().len());
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct Checkpoint {
    folder: PathBuf,
    config: Config,
    tensors: StateDict,
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl Checkpoint {
    /// Opens a folder.
    ///
    /// # Errors
    /// `Error::Io` where a file is missing, `Error::Format` where one is not what it should be.
    pub fn open(folder: impl AsRef<Path>) -> Result<Checkpoint> {
        let folder = folder.as_ref();
        let config = Config::read(folder.join("config.json"))?;
        let tensors = if folder.join(SINGLE).is_file() {
            safetensors::load(folder.join(SINGLE))?
        } else if folder.join(INDEX).is_file() {
            shards(folder)?
        } else {
            let message = format!(
                "neither {SINGLE} nor {INDEX} is here; files of other formats (pytorch_model.bin) must be converted to safetensors"
            );
            return Err(Error::format(folder, message));
        };
        // Old checkpoints name the weights of norms otherwise.
        let modern = |name: String| match name.rsplit_once('.') {
            Some((rest, "gamma")) => format!("{rest}.weight"),
            Some((rest, "beta")) => format!("{rest}.bias"),
            _ => name,
        };
        let tensors = tensors.into_iter().map(|(name, t)| (modern(name), t)).collect();
        Ok(Checkpoint { folder: folder.to_path_buf(), config, tensors })
    }

    /// The description.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The weights by name.
    pub fn tensors(&self) -> &StateDict {
        &self.tensors
    }

    /// The tokens that end a text: `generation_config.json` has the last word, for the end of an answer in a conversation is often another token than
    /// that of a text.
    ///
    /// # Errors
    /// A file that is no config, or that has something else there.
    pub fn ends(&self) -> Result<Vec<u32>> {
        let path = self.folder.join("generation_config.json");
        let found = if path.is_file() { Config::read(path)?.tokens("eos_token_id")? } else { Vec::new() };
        if found.is_empty() { self.config.tokens("eos_token_id") } else { Ok(found) }
    }

    /// Whether a weight of this name, with or without the name of the model in front, is there.
    pub(super) fn has(&self, prefix: &str, name: &str) -> bool {
        self.find(prefix, name).is_some()
    }

    /// Whether the file has a weight of this name that is not the one of a parameter of the module: then `tie_word_embeddings` does not count, as with transformers.
    pub(super) fn unties(&self, module: &dyn Module, prefix: &str, table: &Param, name: &str) -> Result<bool> {
        let Some((_, other)) = self.find(prefix, name) else { return Ok(false) };
        let path = module.named_parameters().into_iter().find(|(_, p)| p.id() == table.id()).map(|(path, _)| path);
        let Some((_, t)) = path.and_then(|path| self.find(prefix, &path)) else { return Ok(false) };
        if t.shape() != other.shape() || t.dtype() != other.dtype() {
            return Ok(true);
        }
        crate::no_grad(|| t.try_ne(other)?.try_any(()))?.item::<bool>()
    }

    /// The weight of a path: the file may lack the model's name in front, or have it where the path does not.
    fn find(&self, prefix: &str, path: &str) -> Option<(String, &Tensor)> {
        let bare = path.strip_prefix(prefix).and_then(|p| p.strip_prefix('.'));
        let names = [Some(path.to_string()), bare.map(String::from), Some(format!("{prefix}.{path}"))];
        names.into_iter().flatten().find_map(|name| self.tensors.get(&name).map(|t| (name.clone(), t)))
    }

    /// Gives a module's parameters their weights, by path; `prefix` is the model's name, which the file may have in front of every name or not.
    /// Weights that the module has no place for are passed over, as a head for another task is; they are returned. Where the file holds a weight as bitsandbytes
    /// quantises it (NF4 or 8 bits), a [`QuantLinear`](crate::quant::QuantLinear) takes the layer's place.
    ///
    /// # Errors
    /// `Error::StateDict` names everything that is missing or of another shape; `Error::Format` names a tensor with NaN or infinities. Nothing is changed then.
    pub fn fill(&self, module: &dyn Module, prefix: &str, options: &LoadOptions) -> Result<Vec<String>> {
        let quantised = quant::prepare(module, &|path| self.find(prefix, path).map(|(_, t)| t.clone()))?;
        let held: HashSet<String> = quantised.iter().map(|q| format!("{}.weight", q.path)).collect();
        let mut places: Vec<(Param, Vec<String>)> = Vec::new();
        let mut seen = HashMap::new();
        module.walk(&mut Walk::new(&mut |path, item| {
            if let Item::Param(p) = item
                && !held.contains(path)
            {
                let at = *seen.entry(p.id()).or_insert_with(|| {
                    places.push((p.clone(), Vec::new()));
                    places.len() - 1
                });
                places[at].1.push(path.to_string());
            }
        }));
        let (mut used, mut wrong, mut missing) = (BTreeSet::new(), Vec::new(), Vec::new());
        let mut fresh = Vec::new();
        let mut changes: Vec<(Param, String, Tensor)> = Vec::new();
        for (param, paths) in places {
            let mut found = None;
            for path in &paths {
                if let Some((name, t)) = self.find(prefix, path) {
                    used.insert(name.clone());
                    found = found.or(Some((name, t)));
                }
            }
            match found {
                Some((name, t)) if *t.shape() == param.shape() => changes.push((param, name, t.clone())),
                Some((name, t)) => wrong.push(format!("{name} is {}, must be {} by config.json", t.shape(), param.shape())),
                None => {
                    missing.push(paths.into_iter().next().unwrap_or_default());
                    fresh.push(param);
                }
            }
        }
        if !wrong.is_empty() || !(missing.is_empty() || options.initialize_missing) {
            return Err(self.misfit(&wrong, &missing));
        }
        let mut changes =
            changes.into_iter().map(|(p, name, t)| self.fit(&p, &name, t, options).map(|t| (p, t))).collect::<Result<Vec<_>>>()?;
        let std = self.config.number("initializer_range", 0.02)?;
        let dtype = changes.first().map(|(_, t)| t.dtype());
        for p in fresh {
            let dtype = options.dtype.or(dtype).unwrap_or(p.dtype());
            let value = blank::drawn(&p, std)?.try_cast(dtype)?;
            value.eval()?;
            changes.push((p.clone(), value));
        }
        changes.into_iter().for_each(|(p, t)| p.replace(t));
        let layers: HashSet<&str> = quantised.iter().map(|q| q.path.as_str()).collect();
        let of_layer = |name: &str| {
            let owner = name.split_once(".weight").map(|(owner, _)| owner).or(name.strip_suffix(".SCB"));
            owner.is_some_and(|owner| {
                let bare = owner.strip_prefix(prefix).and_then(|o| o.strip_prefix('.'));
                layers.contains(owner) || layers.contains(format!("{prefix}.{owner}").as_str()) || bare.is_some_and(|o| layers.contains(o))
            })
        };
        used.extend(self.tensors.keys().filter(|name| of_layer(name)).cloned());
        quantised.into_iter().for_each(quant::Placement::place);
        Ok(self.tensors.keys().filter(|k| !used.contains(*k)).cloned().collect())
    }

    fn misfit(&self, wrong: &[String], missing: &[String]) -> Error {
        let mut parts = Vec::new();
        let list = |what: &str, names: &[String]| {
            let shown = names.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
            let rest = names.len().saturating_sub(8);
            format!("{what}: {shown}{}", if rest > 0 { format!(" and {rest} more") } else { String::new() })
        };
        if !wrong.is_empty() {
            parts.push(list("of another shape", wrong));
        }
        if !missing.is_empty() {
            let made = match self.config.get("architectures") {
                Some(v) => format!(" (the checkpoint was saved as {v}; `initialize_missing` draws what is missing at random, to train it)"),
                None => String::new(),
            };
            parts.push(list("missing", missing) + &made);
        }
        Error::StateDict { message: format!("{}: {}", self.folder.display(), parts.join("; ")) }
    }

    /// A weight as the parameter holds it.
    fn fit(&self, param: &Param, name: &str, t: Tensor, options: &LoadOptions) -> Result<Tensor> {
        if !t.dtype().is_float() {
            return Err(Error::format(&self.folder, format!("{name} is of dtype {}: weights are floats", t.dtype())));
        }
        if options.check_values {
            crate::io::safetensors::check_finite(&self.folder, name, &t)?;
        }
        // f64 has no kernel everywhere and no use here.
        let dtype = options.dtype.unwrap_or(if t.dtype() == DType::F64 { param.dtype() } else { t.dtype() });
        if t.dtype() == dtype && options.device == t.device() {
            return Ok(t);
        }
        let there = t.try_cast(dtype)?.try_to(options.device)?;
        // Now: no more than one tensor is on its way, and no cast is left to be done in each pass.
        there.eval()?;
        Ok(there)
    }
}

/// The tensors of all shards.
fn shards(folder: &Path) -> Result<StateDict> {
    let path = folder.join(INDEX);
    let index = Config::read(&path)?;
    let Some(Value::Object(map)) = index.get("weight_map") else {
        return Err(index.error("`weight_map` is missing: an object that gives each weight its file"));
    };
    let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, file) in map {
        match file.as_str() {
            // A name that leads out of the folder is none of a shard.
            Some(f) if !f.is_empty() && Path::new(f).components().count() == 1 && Path::new(f).file_name().is_some() => {
                files.entry(f).or_default().push(name)
            }
            _ => {
                return Err(
                    index.error(format!("weight_map gives {name} the file {file}: the name of a file in the same folder is wanted"))
                );
            }
        }
    }
    let missing: Vec<&str> = files.keys().copied().filter(|f| !folder.join(f).is_file()).collect();
    if !missing.is_empty() {
        let message =
            format!("{} of {} shards are missing: {}; download them into the same folder", missing.len(), files.len(), missing.join(", "));
        return Err(index.error(message));
    }
    let mut all = StateDict::new();
    for (file, names) in files {
        let mut tensors = safetensors::load(folder.join(file))?;
        for name in names {
            let Some(t) = tensors.remove(name) else {
                return Err(index.error(format!("{name} should be in {file} and is not: the shards and the index do not belong together")));
            };
            all.insert(name.to_string(), t);
        }
    }
    Ok(all)
}

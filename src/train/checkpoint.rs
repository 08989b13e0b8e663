//! Checkpoints: tensors as safetensors, the rest as JSON, in a folder that is whole or not there.

use crate::data::{Json, LoaderOrder, LoaderState};
use crate::io::{StateDict, safetensors};
use crate::{Error, Result, RngState};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file that says what a checkpoint holds.
const INDEX: &str = "checkpoint.json";
const FORMAT: &str = "fornax-checkpoint";

/// All that a training needs to go on: named parts of tensors (`model`, `optimizer`), and named values.
///
/// Saved, it is a folder of one safetensors file for each part, which any reader of safetensors can open, and a `checkpoint.json`. The folder is
/// written under another name, synced, and renamed, so that a kill at any moment leaves the old checkpoint or the new one, whole. Tensors are
/// written one by one and never copied as a whole. Loading maps the files.
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::{AdamW, Optimizer};
/// use fornax::train::Checkpoint;
/// # let folder = std::env::temp_dir().join(format!("fornax-checkpoint-{}", std::process::id()));
/// let model = Linear::new(3, 2, fornax::Device::cpu());
/// let mut optimizer = AdamW::new(model.parameters(), 1e-3);
/// let mut checkpoint = Checkpoint::new();
/// checkpoint.insert("model", model.state_dict());
/// checkpoint.insert("optimizer", optimizer.state_dict()?);
/// checkpoint.set("epoch", 7);
/// checkpoint.save(&folder)?;
///
/// let loaded = Checkpoint::load(&folder)?;
/// model.load_state_dict(loaded.part("model")?, true)?;
/// optimizer.load_state_dict(loaded.part("optimizer")?)?;
/// assert_eq!(loaded.get("epoch").and_then(|e| e.as_u64()), Some(7));
/// # std::fs::remove_dir_all(&folder).ok();
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Checkpoint {
    parts: BTreeMap<String, StateDict>,
    values: serde_json::Map<String, Json>,
    /// Where it was loaded from, for messages.
    path: PathBuf,
}

impl Checkpoint {
    /// An empty one.
    pub fn new() -> Checkpoint {
        Checkpoint::default()
    }

    /// Puts a part in; it is a file of this name, of letters, digits, `_`, `-` and `.`. The tensors are handles, not copies.
    pub fn insert(&mut self, part: &str, tensors: StateDict) {
        self.parts.insert(part.to_string(), tensors);
    }

    /// A part.
    ///
    /// # Errors
    /// `Error::StateDict` where there is none of this name, with the names that there are.
    pub fn part(&self, part: &str) -> Result<&StateDict> {
        let names = || self.parts.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let message = || format!("the checkpoint {} has no part {part}; it has {}", self.path.display(), names());
        self.parts.get(part).ok_or_else(|| Error::StateDict { message: message() })
    }

    /// Whether there is such a part.
    pub fn has_part(&self, part: &str) -> bool {
        self.parts.contains_key(part)
    }

    /// Sets a value.
    pub fn set(&mut self, name: &str, value: impl Into<Json>) {
        self.values.insert(name.to_string(), value.into());
    }

    /// A value, if there is one of this name.
    pub fn get(&self, name: &str) -> Option<&Json> {
        self.values.get(name)
    }

    /// Keeps the state of the process's random numbers.
    ///
    /// ```
    /// let mut checkpoint = fornax::train::Checkpoint::new();
    /// checkpoint.set_rng(fornax::rng_state());
    /// assert_eq!(checkpoint.rng()?, fornax::rng_state());
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn set_rng(&mut self, state: RngState) {
        self.set("rng", serde_json::json!({ "seed": state.seed, "counter": state.counter }));
    }

    /// The state of the process's random numbers that was kept.
    ///
    /// # Errors
    /// `Error::Format` where there is none.
    pub fn rng(&self) -> Result<RngState> {
        Ok(RngState { seed: self.number("rng", "seed")?, counter: self.number("rng", "counter")? })
    }

    /// Keeps a place in a loader's batches.
    pub fn set_loader(&mut self, state: &LoaderState) {
        let LoaderState { epoch, batch, rows, batch_size, seed, order, drop_last } = *state;
        let order = order.map(LoaderOrder::name);
        self.set(
            "loader",
            serde_json::json!({
                "epoch": epoch, "batch": batch, "rows": rows, "batch_size": batch_size, "seed": seed, "order": order, "drop_last": drop_last
            }),
        );
    }

    /// The place in a loader's batches that was kept, if one was.
    ///
    /// # Errors
    /// `Error::Format` where it is not whole.
    pub fn loader(&self) -> Result<Option<LoaderState>> {
        if self.get("loader").is_none_or(Json::is_null) {
            return Ok(None);
        }
        let number = |field| self.number("loader", field);
        let size = |field| number(field).map(|n| n as usize);
        // Older checkpoints do not have these.
        let told = |field: &str| self.get("loader").and_then(|l| l.get(field)).filter(|v| !v.is_null());
        let order = told("order").map(|o| {
            let order = o.as_str().and_then(LoaderOrder::of_name);
            order.ok_or_else(|| self.wrong("loader.order must be sequential, shuffled or weighted"))
        });
        let drop_last = told("drop_last").map(|d| d.as_bool().ok_or_else(|| self.wrong("loader.drop_last must be true or false")));
        Ok(Some(LoaderState {
            epoch: number("epoch")?,
            batch: size("batch")?,
            rows: size("rows")?,
            batch_size: size("batch_size")?,
            seed: number("seed")?,
            order: order.transpose()?,
            drop_last: drop_last.transpose()?,
        }))
    }

    /// A whole number in a value.
    pub(crate) fn number(&self, name: &str, field: &str) -> Result<u64> {
        let found = self.get(name).and_then(|v| v.get(field)).and_then(Json::as_u64);
        found.ok_or_else(|| self.wrong(format!("{name}.{field} must be a whole number")))
    }

    /// An error about what this checkpoint holds.
    pub(crate) fn wrong(&self, message: impl Into<String>) -> Error {
        Error::format(self.path.join(INDEX), message)
    }

    /// Saves the checkpoint as the folder `path`, in place of one that is there.
    ///
    /// # Errors
    /// `Error::Io` for the files; what evaluating and reading the tensors can give. What was there is still there then.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let io = |e| Error::io(path, e);
        let (temporary, old) = (beside(path, "tmp")?, beside(path, "old")?);
        if path.is_file() {
            return Err(io(std::io::Error::new(
                std::io::ErrorKind::AlreadyExists,
                "a checkpoint is a folder, and there is a file of this name",
            )));
        }
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(io)?;
        }
        // What a kill has left there.
        remove(&temporary).map_err(io)?;
        std::fs::create_dir(&temporary).map_err(io)?;
        let written = self.write(&temporary, path);
        if let Err(e) = written {
            let _ = remove(&temporary);
            return Err(e);
        }
        if path.exists() {
            // A folder takes no other folder's place: between these two lines the old one is whole under its other name, where `load` finds it.
            remove(&old).map_err(io)?;
            std::fs::rename(path, &old).map_err(io)?;
        }
        std::fs::rename(&temporary, path).map_err(io)?;
        safetensors::sync_folder(path);
        // It is a leftover from now on; a system that cannot remove files in use leaves it to the next save.
        let _ = remove(&old);
        Ok(())
    }

    fn write(&self, folder: &Path, path: &Path) -> Result<()> {
        let mut parts = serde_json::Map::new();
        for (name, tensors) in &self.parts {
            let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            if name.is_empty() || name.starts_with('.') || !name.chars().all(fine) {
                let message = format!("a part named {name:?}: a name is made of letters, digits, `_`, `-` and `.`");
                return Err(Error::argument("Checkpoint::save", message));
            }
            let file = format!("{name}.safetensors");
            let bytes = safetensors::write(&folder.join(&file), &path.join(&file), tensors)?;
            parts.insert(name.clone(), serde_json::json!({ "file": file, "bytes": bytes }));
        }
        let index = serde_json::json!({ "format": FORMAT, "version": 1, "parts": parts, "values": self.values });
        write_synced(&folder.join(INDEX), format!("{index:#}\n").as_bytes()).map_err(|e| Error::io(path.join(INDEX), e))?;
        // The folder's own entries last too.
        safetensors::sync_folder(&folder.join(INDEX));
        Ok(())
    }

    /// Loads a checkpoint. The tensors are views of the mapped files, on the CPU.
    ///
    /// # Errors
    /// `Error::Io` where the folder or a file of it is not there, `Error::Format` where a file is not what it must be.
    pub fn load(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = path.as_ref();
        let Some(place) = Checkpoint::find(path) else {
            return Err(Error::io(path.join(INDEX), std::io::Error::from(std::io::ErrorKind::NotFound)));
        };
        let file = place.join(INDEX);
        let text = std::fs::read_to_string(&file).map_err(|e| Error::io(&file, e))?;
        let wrong = |message: String| Error::format(&file, message);
        let mut index: Json = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        if index["format"] != FORMAT || index["version"] != 1 {
            return Err(wrong(format!("must be of format {FORMAT:?}, version 1; it says {}, {}", index["format"], index["version"])));
        }
        let mut parts = BTreeMap::new();
        for (name, part) in index["parts"].as_object().ok_or_else(|| wrong("parts must be an object".into()))? {
            let (Some(file), Some(bytes)) = (part["file"].as_str(), part["bytes"].as_u64()) else {
                return Err(wrong(format!("the part {name} must have a file and its size in bytes")));
            };
            if Path::new(file).components().count() != 1 || file.starts_with('.') {
                return Err(wrong(format!("the part {name} must be a file of this folder, it says {file:?}")));
            }
            let file = place.join(file);
            let length = std::fs::metadata(&file).map_err(|e| Error::io(&file, e))?.len();
            if length != bytes {
                return Err(Error::format(&file, format!("{length} bytes; the checkpoint says {bytes}")));
            }
            parts.insert(name.clone(), safetensors::load(&file)?);
        }
        let values = match index["values"].take() {
            Json::Object(values) => values,
            _ => return Err(wrong("values must be an object".into())),
        };
        Ok(Checkpoint { parts, values, path: place })
    }

    /// Where the checkpoint `path` is: there, or, after a kill in the middle of its replacement, beside it.
    pub(crate) fn find(path: &Path) -> Option<PathBuf> {
        let old = beside(path, "old").ok()?;
        [path.to_path_buf(), old].into_iter().find(|p| p.join(INDEX).is_file())
    }
}

/// Whether a folder lacks the index of a checkpoint, or a file that it names: half of it was removed.
pub(super) fn is_remnant(folder: &Path) -> bool {
    let index = std::fs::read_to_string(folder.join(INDEX)).ok().and_then(|text| serde_json::from_str::<Json>(&text).ok());
    let files = index.as_ref().and_then(|i| i["parts"].as_object()).map(|parts| parts.values().filter_map(|p| p["file"].as_str()));
    files.is_none_or(|mut files| files.any(|f| !folder.join(f).is_file()))
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: BTreeMap<&String, usize> = self.parts.iter().map(|(name, dict)| (name, dict.len())).collect();
        f.debug_struct("Checkpoint").field("tensors", &parts).field("values", &self.values.keys()).finish()
    }
}

/// `folder/name` as `folder/name.ending`.
fn beside(path: &Path, ending: &str) -> Result<PathBuf> {
    let Some(name) = path.file_name() else {
        let message = format!("{} names no folder to be made", path.display());
        return Err(Error::argument("Checkpoint", message));
    };
    let mut name = name.to_os_string();
    name.push(".");
    name.push(ending);
    Ok(path.with_file_name(name))
}

/// Removes a folder that may not be there. Its index goes first, so that what a kill leaves of it is no checkpoint.
pub(super) fn remove(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(folder.join(INDEX)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Writes a file that is the old one or the new one at any moment.
pub(super) fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let io = |e| Error::io(path, e);
    let temporary = beside(path, "tmp")?;
    write_synced(&temporary, bytes).map_err(io)?;
    std::fs::rename(&temporary, path).map_err(io)?;
    safetensors::sync_folder(path);
    Ok(())
}

/// A number as JSON, also where it is none that JSON has.
pub(super) fn json_number(x: f64) -> Json {
    if x.is_finite() { x.into() } else { x.to_string().into() }
}

/// What [`json_number`] wrote.
pub(super) fn number_from(json: &Json) -> Option<f64> {
    json.as_f64().or_else(|| json.as_str().and_then(|s| s.parse().ok()))
}

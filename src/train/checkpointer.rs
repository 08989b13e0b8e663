//! Which checkpoints are taken, and which are kept.

use super::checkpoint::{is_remnant, json_number, number_from, remove, replace_file};
use super::{Callback, Checkpoint, Goal, Run, When};
use crate::data::Json;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// The file that says which checkpoint of a folder is the last and which the best.
const INDEX: &str = "checkpoints.json";

/// Takes checkpoints of a training in a folder: the last one, the best one, and every so many epochs or steps.
///
/// Each is a folder of its own, `step-00001200`, that never changes; `checkpoints.json` says which is the last and which the best. Those that are
/// neither, nor among the last `keep`, are removed. What a kill leaves behind is never taken for a checkpoint, and is removed by the next training.
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::train::{Checkpoint, Checkpointer, Goal};
/// # let folder = std::env::temp_dir().join(format!("fornax-checkpointer-{}", std::process::id()));
/// let model = Linear::new(3, 2, fornax::Device::cpu());
/// // In a loop of your own:
/// let mut checkpointer = Checkpointer::new(&folder).best("val_loss", Goal::Min).keep(2);
/// for (epoch, loss) in [(1, 0.5), (2, 0.25), (3, 0.75), (4, 0.7)] {
///     let mut checkpoint = Checkpoint::new();
///     checkpoint.insert("model", model.state_dict());
///     checkpointer.save(&checkpoint, epoch, Some(loss))?;
/// }
/// assert!(Checkpointer::last(&folder)?.unwrap().ends_with("step-00000004"));
/// assert!(Checkpointer::best_of(&folder)?.unwrap().ends_with("step-00000002"));
/// assert_eq!(checkpointer.saved(), [2, 3, 4]);
/// # std::fs::remove_dir_all(&folder).ok();
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct Checkpointer {
    folder: PathBuf,
    epochs: u64,
    steps: Option<u64>,
    keep: usize,
    monitor: Option<(String, Goal)>,
    index: Option<Index>,
}

#[derive(Clone, Default, PartialEq)]
struct Index {
    /// In the order in which they were taken, with the number that was monitored.
    saved: Vec<(u64, f64)>,
    best: Option<(u64, f64)>,
}

impl Checkpointer {
    /// Takes a checkpoint after each epoch and when the training leaves, and keeps the last. Use a folder for each run: a run that is not resumed makes
    /// a list of its own, in place of the one that is there.
    pub fn new(folder: impl AsRef<Path>) -> Checkpointer {
        Checkpointer { folder: folder.as_ref().to_path_buf(), epochs: 1, steps: None, keep: 1, monitor: None, index: None }
    }

    /// After every so many epochs (1); 0 for none.
    pub fn every_epochs(mut self, epochs: u64) -> Checkpointer {
        self.epochs = epochs;
        self
    }

    /// Also in the middle of an epoch, after every so many optimizer steps.
    pub fn every_steps(mut self, steps: u64) -> Checkpointer {
        self.steps = (steps > 0).then_some(steps);
        self
    }

    /// How many of the last ones to keep (1, the least). The best is kept besides.
    pub fn keep(mut self, keep: usize) -> Checkpointer {
        self.keep = keep.max(1);
        self
    }

    /// Keeps the one that is best by a number of the epoch, too. (Those in the middle of an epoch, and of an epoch without the validation that gives
    /// it, have no such number, and are never the best.)
    pub fn best(mut self, monitor: &str, goal: Goal) -> Checkpointer {
        self.monitor = Some((monitor.to_string(), goal));
        self
    }

    /// The steps of the checkpoints that are kept, ascending.
    pub fn saved(&self) -> Vec<u64> {
        let mut steps: Vec<u64> = self.index.iter().flat_map(|i| i.saved.iter().map(|s| s.0)).collect();
        steps.sort_unstable();
        steps
    }

    /// The last checkpoint of a folder, if there is one.
    ///
    /// # Errors
    /// `Error::Format` where the folder's list is not what it must be, `Error::Io` where it cannot be read.
    pub fn last(folder: impl AsRef<Path>) -> Result<Option<PathBuf>> {
        let folder = folder.as_ref();
        let last = Index::read(folder)?.and_then(|i| i.saved.last().map(|s| s.0));
        Ok(last.map(|step| place(folder, step)))
    }

    /// The best checkpoint of a folder, if there is one.
    ///
    /// # Errors
    /// As [`last`](Checkpointer::last).
    pub fn best_of(folder: impl AsRef<Path>) -> Result<Option<PathBuf>> {
        let folder = folder.as_ref();
        Ok(Index::read(folder)?.and_then(|i| i.best).map(|(step, _)| place(folder, step)))
    }

    /// Saves a checkpoint under the number of its step, with the number that is monitored, if there is one; removes those that are not to be kept.
    ///
    /// # Errors
    /// Those of [`Checkpoint::save`], and of the folder's list. The checkpoints before it are still there then.
    pub fn save(&mut self, checkpoint: &Checkpoint, step: u64, value: Option<f64>) -> Result<()> {
        let mut index = match self.index.take() {
            Some(index) => index,
            // A new run in an old folder: what is there stays until it is replaced.
            None => self.start()?,
        };
        let saved = checkpoint.save(place(&self.folder, step));
        if let Err(e) = saved {
            self.index = Some(index);
            return Err(e);
        }
        let value = value.unwrap_or(f64::NAN);
        index.saved.retain(|s| s.0 != step);
        index.saved.push((step, value));
        if index.best.is_some_and(|b| b.0 == step) {
            index.best = None;
        }
        if let Some((_, goal)) = &self.monitor
            && !value.is_nan()
            && index.best.is_none_or(|(_, best)| goal.better(value, best, 0.0))
        {
            index.best = Some((step, value));
        }
        let last = index.saved.len().saturating_sub(self.keep);
        let best = index.best.map(|b| b.0);
        let (keep, gone): (Vec<_>, Vec<_>) = index.saved.iter().enumerate().partition(|(i, s)| *i >= last || Some(s.0) == best);
        let gone: Vec<u64> = gone.into_iter().map(|(_, s)| s.0).collect();
        index.saved = keep.into_iter().map(|(_, s)| *s).collect();
        // First the list no longer names them, then they go.
        let written = index.write(&self.folder);
        self.index = Some(index);
        written?;
        for step in gone {
            let place = place(&self.folder, step);
            remove(&place).map_err(|e| Error::io(place, e))?;
        }
        Ok(())
    }

    /// The list to begin with, once what a kill has left behind is removed.
    fn start(&self) -> Result<Index> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Ok(Index::default()) };
        // Of a list that cannot be read nobody knows what it names.
        let listed = Index::read(&self.folder).map(Option::unwrap_or_default);
        let is_listed = |step: u64| listed.as_ref().map_or(true, |list| list.names(step));
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().and_then(|n| n.strip_prefix("step-")) else { continue };
            let (number, ending) = name.split_once('.').unwrap_or((name, ""));
            let Some(step) = number.parse::<u64>().ok().filter(|_| number.bytes().all(|b| b.is_ascii_digit())) else { continue };
            let leftover = match ending {
                "tmp" => true,
                // Without the one that was to replace it, it is the checkpoint that the list names.
                "old" => !is_listed(step) || !is_remnant(&place(&self.folder, step)),
                "" => !is_listed(step) && is_remnant(&entry.path()),
                _ => false,
            };
            if leftover {
                let place = entry.path();
                remove(&place).map_err(|e| Error::io(place, e))?;
            }
        }
        Ok(Index::default())
    }
}

fn place(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("step-{step:08}"))
}

impl Index {
    fn names(&self, step: u64) -> bool {
        self.saved.iter().chain(&self.best).any(|s| s.0 == step)
    }

    fn read(folder: &Path) -> Result<Option<Index>> {
        let file = folder.join(INDEX);
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(file, e)),
        };
        let json: Json = serde_json::from_str(&text).map_err(|e| Error::format(&file, e.to_string()))?;
        let entry = |e: &Json| Some((e["step"].as_u64()?, number_from(&e["value"])?));
        let saved: Option<Vec<(u64, f64)>> = json["saved"].as_array().and_then(|list| list.iter().map(entry).collect());
        let Some(saved) = saved else {
            return Err(Error::format(&file, "saved must be a list of objects with a step and a value"));
        };
        Ok(Some(Index { saved, best: entry(&json["best"]) }))
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let entry = |&(step, value): &(u64, f64)| serde_json::json!({ "step": step, "value": json_number(value) });
        let json = serde_json::json!({ "saved": self.saved.iter().map(entry).collect::<Vec<_>>(), "best": self.best.as_ref().map(entry) });
        replace_file(&folder.join(INDEX), format!("{json:#}\n").as_bytes())
    }
}

impl Callback for Checkpointer {
    fn wants_checkpoint(&mut self, when: When, run: &Run<'_>) -> bool {
        match when {
            When::Step => self.steps.is_some_and(|n| run.step().is_multiple_of(n)),
            When::Epoch => self.epochs > 0 && run.epoch().is_multiple_of(self.epochs),
            When::Leave => true,
        }
    }

    fn on_checkpoint(&mut self, checkpoint: &Checkpoint, run: &mut Run<'_>) -> Result<()> {
        // In the middle of an epoch the numbers are those of the one before.
        let value = match &self.monitor {
            Some((name, _)) if run.batch() == 0 => run.monitored("Checkpointer", name)?,
            _ => None,
        };
        self.save(checkpoint, run.step(), value)
    }

    fn load(&mut self, _checkpoint: &Checkpoint) -> Result<()> {
        // Goes on with the folder's own list, which is never older than the checkpoint.
        self.start()?;
        self.index = Index::read(&self.folder)?;
        Ok(())
    }
}

//! Logs as files: CSV and JSON lines.

use super::checkpoint::replace_file;
use super::{Callback, Checkpoint, Logs, Run};
use crate::data::Json;
use crate::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What a logger's rows are about: how often one is written.
#[derive(Clone, Copy, Default)]
struct Rhythm {
    steps: Option<u64>,
}

impl Rhythm {
    fn is_due(self, step: u64) -> bool {
        self.steps.is_some_and(|n| step.is_multiple_of(n))
    }
}

/// Writes numbers as CSV: `epoch`, `step`, and a column for each name; a row for each epoch and, if asked for, every so many steps.
///
/// A name that comes later becomes a new column: the file is written anew. In a resumed training the rows after the checkpoint go, for their
/// steps are done again. Each row is on its way to the disk when it is logged.
///
/// ```
/// use fornax::train::{CsvLogger, Logs};
/// # let path = std::env::temp_dir().join(format!("fornax-log-{}.csv", std::process::id()));
/// let mut log = CsvLogger::new(&path);
/// log.log(1, 10, &Logs::from_iter([("loss", 0.5)]))?;
/// log.log(2, 20, &Logs::from_iter([("loss", 0.25), ("val_loss", 0.375)]))?;
/// assert_eq!(std::fs::read_to_string(&path)?, "epoch,step,loss,val_loss\n1,10,0.5,\n2,20,0.25,0.375\n");
/// # std::fs::remove_file(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CsvLogger {
    path: PathBuf,
    rhythm: Rhythm,
    columns: Vec<String>,
    rows: u64,
    file: Option<File>,
}

impl CsvLogger {
    /// Logs to this file, in place of what is there.
    pub fn new(path: impl AsRef<Path>) -> CsvLogger {
        CsvLogger { path: path.as_ref().to_path_buf(), rhythm: Rhythm::default(), columns: Vec::new(), rows: 0, file: None }
    }

    /// Writes a row after every so many steps, too.
    pub fn every_steps(mut self, steps: u64) -> CsvLogger {
        self.rhythm.steps = (steps > 0).then_some(steps);
        self
    }

    /// Writes a row.
    ///
    /// # Errors
    /// `Error::Io` for the file.
    pub fn log(&mut self, epoch: u64, step: u64, logs: &Logs) -> Result<()> {
        let new: Vec<String> = logs.iter().map(|(n, _)| n.to_string()).filter(|n| !self.columns.contains(n)).collect();
        if !new.is_empty() {
            // The rows before have nothing in the new columns.
            let rows = if self.file.is_some() { read(&self.path)? } else { Vec::new() };
            let empty = ",".repeat(new.len());
            self.columns.extend(new);
            let rows: String = rows.iter().skip(1).map(|row| format!("{row}{empty}\n")).collect();
            self.rewrite(&rows)?;
        }
        let mut row = format!("{epoch},{step}");
        for name in &self.columns {
            row.push(',');
            row += &logs.get(name).map_or(String::new(), |v| v.to_string());
        }
        self.rows += 1;
        append(&mut self.file, &self.path, &row)
    }

    /// Makes the file of the header and these rows.
    fn rewrite(&mut self, rows: &str) -> Result<()> {
        let header: String = self.columns.iter().map(|c| format!(",{}", quoted(c))).collect();
        self.file = None;
        make_folder(&self.path)?;
        replace_file(&self.path, format!("epoch,step{header}\n{rows}").as_bytes())?;
        self.file = Some(reopen(&self.path)?);
        Ok(())
    }
}

/// A field, in quotes where it needs them.
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.to_string() }
}

/// Writes numbers as JSON lines: an object for each epoch, `{"epoch":1,"step":10,"loss":0.5}`, and, if asked for, every so many steps. A number that
/// JSON has not is a string (`"NaN"`).
///
/// In a resumed training the rows after the checkpoint go, for their steps are done again.
///
/// ```
/// use fornax::train::{JsonLogger, Logs};
/// # let path = std::env::temp_dir().join(format!("fornax-log-{}.jsonl", std::process::id()));
/// let mut log = JsonLogger::new(&path);
/// log.log(1, 10, &Logs::from_iter([("loss", 0.5)]))?;
/// assert_eq!(std::fs::read_to_string(&path)?, "{\"epoch\":1,\"step\":10,\"loss\":0.5}\n");
/// # std::fs::remove_file(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct JsonLogger {
    path: PathBuf,
    rhythm: Rhythm,
    rows: u64,
    file: Option<File>,
}

impl JsonLogger {
    /// Logs to this file, in place of what is there.
    pub fn new(path: impl AsRef<Path>) -> JsonLogger {
        JsonLogger { path: path.as_ref().to_path_buf(), rhythm: Rhythm::default(), rows: 0, file: None }
    }

    /// Writes a line after every so many steps, too.
    pub fn every_steps(mut self, steps: u64) -> JsonLogger {
        self.rhythm.steps = (steps > 0).then_some(steps);
        self
    }

    /// Writes a line.
    ///
    /// # Errors
    /// `Error::Io` for the file.
    pub fn log(&mut self, epoch: u64, step: u64, logs: &Logs) -> Result<()> {
        if self.file.is_none() {
            make_folder(&self.path)?;
            self.file = Some(File::create(&self.path).map_err(|e| Error::io(&self.path, e))?);
        }
        // By hand, so that the numbers stand in their order.
        let mut line = format!("{{\"epoch\":{epoch},\"step\":{step}");
        for (name, value) in logs.iter() {
            line += &format!(",{}:{}", Json::from(name), super::checkpoint::json_number(value));
        }
        line.push('}');
        self.rows += 1;
        append(&mut self.file, &self.path, &line)
    }
}

fn append(file: &mut Option<File>, path: &Path, line: &str) -> Result<()> {
    match file {
        Some(file) => file.write_all(format!("{line}\n").as_bytes()).map_err(|e| Error::io(path, e)),
        None => Ok(()),
    }
}

/// The lines of a file; none where there is none.
fn read(path: &Path) -> Result<Vec<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().map(str::to_string).collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(path, e)),
    }
}

fn reopen(path: &Path) -> Result<File> {
    OpenOptions::new().append(true).open(path).map_err(|e| Error::io(path, e))
}

/// Makes the folder that a file is to be in.
pub(super) fn make_folder(path: &Path) -> Result<()> {
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(folder) => std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e)),
        None => Ok(()),
    }
}

/// The name of a logger's state: it is the number of rows that it had written.
fn key(kind: &str, path: &Path) -> String {
    format!("{kind}.{}", path.file_name().unwrap_or_default().to_string_lossy())
}

impl Callback for CsvLogger {
    fn on_step_logs(&mut self, step: u64, logs: &Logs, run: &mut Run<'_>) -> Result<()> {
        if self.rhythm.is_due(step) { self.log(run.epoch() + 1, step, logs) } else { Ok(()) }
    }

    fn on_epoch_end(&mut self, run: &mut Run<'_>) -> Result<()> {
        self.log(run.epoch(), run.step(), run.logs())
    }

    fn save(&self, checkpoint: &mut Checkpoint) {
        checkpoint.set(&key("csv_logger", &self.path), self.rows);
    }

    fn load(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let Some(rows) = checkpoint.get(&key("csv_logger", &self.path)).and_then(Json::as_u64) else { return Ok(()) };
        let lines = read(&self.path)?;
        let Some((header, lines)) = lines.split_first() else { return Ok(()) };
        let names = csv::ReaderBuilder::new().has_headers(false).from_reader(header.as_bytes()).into_records().next();
        let Some(names) = names.and_then(|n| n.ok()).filter(|n| n.get(0) == Some("epoch") && n.get(1) == Some("step")) else {
            return Err(Error::format(&self.path, "row 1: must begin with epoch,step"));
        };
        self.columns = names.iter().skip(2).map(str::to_string).collect();
        self.rows = rows.min(lines.len() as u64);
        let kept: String = lines.iter().take(rows as usize).map(|row| format!("{row}\n")).collect();
        self.rewrite(&kept)
    }
}

impl Callback for JsonLogger {
    fn on_step_logs(&mut self, step: u64, logs: &Logs, run: &mut Run<'_>) -> Result<()> {
        if self.rhythm.is_due(step) { self.log(run.epoch() + 1, step, logs) } else { Ok(()) }
    }

    fn on_epoch_end(&mut self, run: &mut Run<'_>) -> Result<()> {
        self.log(run.epoch(), run.step(), run.logs())
    }

    fn save(&self, checkpoint: &mut Checkpoint) {
        checkpoint.set(&key("json_logger", &self.path), self.rows);
    }

    fn load(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let Some(rows) = checkpoint.get(&key("json_logger", &self.path)).and_then(Json::as_u64) else { return Ok(()) };
        let lines = read(&self.path)?;
        self.rows = rows.min(lines.len() as u64);
        let kept: String = lines.iter().take(rows as usize).map(|line| format!("{line}\n")).collect();
        make_folder(&self.path)?;
        replace_file(&self.path, kept.as_bytes())?;
        self.file = Some(reopen(&self.path)?);
        Ok(())
    }
}

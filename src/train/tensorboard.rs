//! TensorBoard's event files: records of protocol buffers, each with its length and checksums (the framing of TFRecord files). Written from the
//! published formats: `tensorflow/core/util/event.proto`, `framework/summary.proto`, and the page on TFRecord.

use super::loggers::make_folder;
use super::{Callback, Checkpoint, Logs, Run};
use crate::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes one event file of TensorBoard. `tensorboard --logdir folder` shows it while it grows.
///
/// ```
/// use fornax::train::EventWriter;
/// # let folder = std::env::temp_dir().join(format!("fornax-events-{}", std::process::id()));
/// let mut events = EventWriter::create(&folder)?;
/// for step in 0..10 {
///     events.scalar("loss", step, 1.0 / (step + 1) as f64)?;
/// }
/// events.histogram("weights", 9, &[0.1, 0.2, 0.2, -0.3])?;
/// events.text("notes", 9, "a *first* try")?;
/// events.flush()?;
/// # std::fs::remove_dir_all(&folder).ok();
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct EventWriter {
    path: PathBuf,
    out: BufWriter<File>,
}

impl EventWriter {
    /// A new file in this folder, `events.out.tfevents.…`, beside those that are there.
    ///
    /// # Errors
    /// `Error::Io` for the file.
    pub fn create(folder: impl AsRef<Path>) -> Result<EventWriter> {
        // Several in the same second of one process.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let seconds = now() as u64;
        let name = format!("events.out.tfevents.{seconds:010}.fornax.{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = folder.as_ref().join(name);
        make_folder(&path)?;
        let out = BufWriter::new(File::create(&path).map_err(|e| Error::io(&path, e))?);
        let mut writer = EventWriter { path, out };
        let mut event = Message::default();
        event.double(1, now());
        event.bytes(3, b"brain.Event:2");
        writer.record(&event.0)?;
        writer.flush()?;
        Ok(writer)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A number.
    ///
    /// # Errors
    /// `Error::Io` for the file.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) -> Result<()> {
        self.value(tag, step, |v| v.float(2, value as f32))
    }

    /// The distribution of numbers: how many lie in each of 30 ranges of one width. NaN and infinities are left out.
    ///
    /// # Errors
    /// `Error::Io` for the file.
    pub fn histogram(&mut self, tag: &str, step: u64, values: &[f32]) -> Result<()> {
        const BUCKETS: usize = 30;
        let finite = || values.iter().filter(|v| v.is_finite()).map(|&v| f64::from(v));
        let (low, high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let mut histogram = Message::default();
        let width = (high - low) / BUCKETS as f64;
        let buckets = match finite().count() {
            0 => 0,
            _ if width > 0.0 => BUCKETS,
            _ => 1,
        };
        let mut counts = vec![0.0f64; buckets];
        finite().for_each(|v| counts[if buckets > 1 { (((v - low) / width) as usize).min(buckets - 1) } else { 0 }] += 1.0);
        if buckets > 0 {
            histogram.double(1, low);
            histogram.double(2, high);
        }
        histogram.double(3, finite().count() as f64);
        histogram.double(4, finite().sum());
        histogram.double(5, finite().map(|v| v * v).sum());
        histogram.doubles(6, &(1..=buckets).map(|i| if i == buckets { high } else { low + width * i as f64 }).collect::<Vec<_>>());
        histogram.doubles(7, &counts);
        self.value(tag, step, |v| v.bytes(5, &histogram.0))
    }

    /// A text, which TensorBoard shows as Markdown.
    ///
    /// # Errors
    /// `Error::Io` for the file.
    pub fn text(&mut self, tag: &str, step: u64, text: &str) -> Result<()> {
        // A string tensor of one element, and the name of the plugin that shows it.
        let (mut tensor, mut plugin, mut metadata) = (Message::default(), Message::default(), Message::default());
        tensor.varint(1, 7);
        let (mut size, mut shape) = (Message::default(), Message::default());
        size.varint(1, 1);
        shape.bytes(2, &size.0);
        tensor.bytes(2, &shape.0);
        tensor.bytes(8, text.as_bytes());
        plugin.bytes(1, b"text");
        metadata.bytes(1, &plugin.0);
        self.value(tag, step, |v| {
            v.bytes(9, &metadata.0);
            v.bytes(8, &tensor.0);
        })
    }

    /// An image: a PNG file's bytes, with its size in pixels.
    ///
    /// # Errors
    /// `Error::Io` for the file.
    pub fn png(&mut self, tag: &str, step: u64, (width, height): (usize, usize), file: &[u8]) -> Result<()> {
        let mut image = Message::default();
        image.varint(1, height as u64);
        image.varint(2, width as u64);
        image.varint(3, 3);
        image.bytes(4, file);
        self.value(tag, step, |v| v.bytes(4, &image.0))
    }

    /// Says that the steps from this one on are done again: what earlier files have of them is not shown any more.
    ///
    /// # Errors
    /// `Error::Io` for the file.
    pub fn restart(&mut self, step: u64) -> Result<()> {
        let (mut event, mut session) = (Message::default(), Message::default());
        session.varint(1, 1);
        event.double(1, now());
        event.varint(2, step);
        event.bytes(7, &session.0);
        self.record(&event.0)
    }

    /// Hands what was written to the system.
    ///
    /// # Errors
    /// `Error::Io` for the file.
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(|e| Error::io(&self.path, e))
    }

    /// An event with a summary of one value.
    fn value(&mut self, tag: &str, step: u64, fill: impl FnOnce(&mut Message)) -> Result<()> {
        let (mut value, mut summary, mut event) = (Message::default(), Message::default(), Message::default());
        value.bytes(1, tag.as_bytes());
        fill(&mut value);
        summary.bytes(1, &value.0);
        event.double(1, now());
        event.varint(2, step);
        event.bytes(5, &summary.0);
        self.record(&event.0)
    }

    /// A record: its length, the length's checksum, the data, the data's checksum.
    fn record(&mut self, data: &[u8]) -> Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend(length);
        record.extend(masked(&length).to_le_bytes());
        record.extend(data);
        record.extend(masked(data).to_le_bytes());
        self.out.write_all(&record).map_err(|e| Error::io(&self.path, e))
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// A protocol buffer's message, field by field.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.0.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
    }

    fn key(&mut self, field: u64, wire: u64) {
        self.raw(field << 3 | wire);
    }

    fn varint(&mut self, field: u64, v: u64) {
        self.key(field, 0);
        self.raw(v);
    }

    fn double(&mut self, field: u64, v: f64) {
        self.key(field, 1);
        self.0.extend(v.to_le_bytes());
    }

    fn float(&mut self, field: u64, v: f32) {
        self.key(field, 5);
        self.0.extend(v.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, v: &[u8]) {
        self.key(field, 2);
        self.raw(v.len() as u64);
        self.0.extend(v);
    }

    fn doubles(&mut self, field: u64, v: &[f64]) {
        self.bytes(field, &v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
    }
}

/// CRC-32C (Castagnoli's polynomial, reflected).
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let (mut c, mut bit) = (i as u32, 0);
        while bit < 8 {
            c = if c & 1 == 1 { c >> 1 ^ 0x82f6_3b78 } else { c >> 1 };
            bit += 1;
        }
        table[i] = c;
        i += 1;
    }
    table
};

fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |c, &b| c >> 8 ^ TABLE[(c as u8 ^ b) as usize])
}

/// The checksum as the records hold it.
fn masked(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Logs a training for TensorBoard: the numbers of each epoch, by the step at which it ended; with [`every_steps`](TensorBoard::every_steps) those of steps,
/// as `step/loss`, and with [`histograms`](TensorBoard::histograms) the parameters.
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::{optim::SGD, train::{TensorBoard, Trainer}};
/// let model = Linear::new(2, 1, fornax::Device::cpu());
/// let trainer = Trainer::new(&model, SGD::new(model.parameters(), 0.1)).callback(TensorBoard::new("runs/first").every_steps(50));
/// ```
pub struct TensorBoard {
    folder: PathBuf,
    steps: Option<u64>,
    histograms: bool,
    resumed: Option<u64>,
    writer: Option<EventWriter>,
}

impl TensorBoard {
    /// Logs to a new event file in this folder.
    pub fn new(folder: impl AsRef<Path>) -> TensorBoard {
        TensorBoard { folder: folder.as_ref().to_path_buf(), steps: None, histograms: false, resumed: None, writer: None }
    }

    /// Logs after every so many steps, too.
    pub fn every_steps(mut self, steps: u64) -> TensorBoard {
        self.steps = (steps > 0).then_some(steps);
        self
    }

    /// Also the distribution of each parameter, after each epoch.
    pub fn histograms(mut self) -> TensorBoard {
        self.histograms = true;
        self
    }

    fn writer(&mut self) -> Result<&mut EventWriter> {
        if self.writer.is_none() {
            let mut writer = EventWriter::create(&self.folder)?;
            if let Some(step) = self.resumed {
                writer.restart(step + 1)?;
            }
            self.writer = Some(writer);
        }
        self.writer.as_mut().ok_or_else(|| Error::argument("TensorBoard", "no writer"))
    }
}

impl Callback for TensorBoard {
    fn on_fit_start(&mut self, _run: &mut Run<'_>) -> Result<()> {
        self.writer().map(|_| ())
    }

    fn on_step_logs(&mut self, step: u64, logs: &Logs, _run: &mut Run<'_>) -> Result<()> {
        if self.steps.is_some_and(|n| step.is_multiple_of(n)) {
            let writer = self.writer()?;
            for (name, value) in logs.iter() {
                writer.scalar(&format!("step/{name}"), step, value)?;
            }
            // Now: a training that is killed goes on from a checkpoint behind this step, and never logs it again.
            writer.flush()?;
        }
        Ok(())
    }

    fn on_epoch_end(&mut self, run: &mut Run<'_>) -> Result<()> {
        let histograms = self.histograms;
        let writer = self.writer()?;
        for (name, value) in run.logs().iter() {
            writer.scalar(name, run.step(), value)?;
        }
        if histograms {
            for (path, param) in run.model.named_parameters() {
                writer.histogram(&path, run.step(), &param.value().to_vec::<f32>()?)?;
            }
        }
        writer.flush()
    }

    fn on_fit_end(&mut self, _run: &mut Run<'_>) -> Result<()> {
        self.writer()?.flush()
    }

    fn load(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        (self.resumed, self.writer) = (Some(checkpoint.number("trainer", "step")?), None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4, and the string that every implementation is checked with.
    #[test]
    fn known_checksums() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}

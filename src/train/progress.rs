//! The progress bar.

use super::Logs;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// A bar for an epoch: where it is, how fast, how long it will take, and running numbers. Where the output is no terminal it draws nothing.
///
/// ```
/// use fornax::train::{Logs, Progress};
/// let progress = Progress::new(false); // true draws it
/// progress.start("epoch 1/3", Some(100), 0);
/// for batch in 0..100 {
///     progress.step(32, &Logs::from_iter([("loss", 0.5)]));
/// }
/// progress.finish();
/// ```
pub struct Progress {
    bar: ProgressBar,
    visible: bool,
    state: std::sync::Mutex<Rate>,
}

struct Rate {
    since: Instant,
    rows: u64,
    shown: Option<Instant>,
}

impl Progress {
    /// A bar on the standard error output, or none.
    pub fn new(visible: bool) -> Progress {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Progress { bar, visible, state: std::sync::Mutex::new(Rate { since: Instant::now(), rows: 0, shown: None }) }
    }

    fn rate(&self) -> std::sync::MutexGuard<'_, Rate> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Starts the bar of an epoch of so many batches, of which some are done.
    pub fn start(&self, title: &str, batches: Option<usize>, done: usize) {
        if self.visible && self.bar.is_hidden() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        }
        let template = match batches {
            Some(_) => "{prefix} [{bar:30}] {pos}/{len} {elapsed}<{eta} {msg}",
            None => "{prefix} {spinner} {pos} {elapsed} {msg}",
        };
        // The templates are constants: a wrong one would be seen in the tests, and leaves the style of before.
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style.progress_chars("=> "));
        }
        self.bar.reset();
        self.bar.set_prefix(title.to_string());
        self.bar.set_message("");
        match batches {
            Some(n) => self.bar.set_length(n as u64),
            None => self.bar.unset_length(),
        }
        self.bar.set_position(done as u64);
        self.bar.reset_elapsed();
        self.bar.reset_eta();
        *self.rate() = Rate { since: Instant::now(), rows: 0, shown: None };
    }

    /// Counts a batch of so many rows, and shows running numbers.
    pub fn step(&self, rows: usize, logs: &Logs) {
        self.bar.inc(1);
        let mut rate = self.rate();
        rate.rows += rows as u64;
        // Texts are made no more often than they are drawn.
        if self.bar.is_hidden() || rate.shown.is_some_and(|t| t.elapsed() < Duration::from_millis(100)) {
            return;
        }
        rate.shown = Some(Instant::now());
        let per_second = rate.rows as f64 / rate.since.elapsed().as_secs_f64().max(1e-9);
        self.bar.set_message(format!("{per_second:.0} rows/s  {logs}"));
    }

    /// Prints a line above the bar, or, where nothing is shown, not at all.
    pub fn print(&self, line: &str) {
        if self.visible {
            self.bar.suspend(|| eprintln!("{line}"));
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

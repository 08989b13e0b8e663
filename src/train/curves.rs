//! A training's curves, drawn after each epoch.

use super::{Callback, History, Run};
use crate::Result;
use crate::plot::{Chart, save};
use std::path::{Path, PathBuf};

/// Draws a training's numbers by epoch into an SVG or PNG file, anew after each epoch: a chart for each number, with that of the validation beside it
/// (`loss` and `val_loss`). Needs the feature `plot`.
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::{optim::SGD, train::{Curves, Trainer}};
/// let model = Linear::new(2, 1, fornax::Device::cpu());
/// let trainer = Trainer::new(&model, SGD::new(model.parameters(), 0.1)).callback(Curves::new("out/curves.svg"));
/// ```
pub struct Curves {
    path: PathBuf,
}

impl Curves {
    /// Draws into this file, which ends in `.svg` or `.png`.
    pub fn new(path: impl AsRef<Path>) -> Curves {
        Curves { path: path.as_ref().to_path_buf() }
    }

    /// Draws a history.
    ///
    /// # Errors
    /// As [`plot::save`](crate::plot::save).
    ///
    /// ```
    /// use fornax::train::{Curves, History, Logs};
    /// # let path = std::env::temp_dir().join(format!("fornax-curves-{}.svg", std::process::id()));
    /// let mut history = History::new();
    /// history.push(1, Logs::from_iter([("loss", 0.5), ("val_loss", 0.75)]));
    /// Curves::new(&path).draw(&history)?;
    /// # std::fs::remove_file(&path).ok();
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn draw(&self, history: &History) -> Result<()> {
        let names = history.names();
        let mut charts = Vec::new();
        for name in &names {
            let partner = format!("val_{name}");
            let of_other = name.strip_prefix("val_").is_some_and(|n| names.iter().any(|m| m == n));
            if of_other {
                continue;
            }
            let mut chart = Chart::new(&format!("{name} by epoch")).series("training", history.series(name)).size(720, 300);
            if names.contains(&partner) {
                chart = chart.series("validation", history.series(&partner));
            }
            charts.push(chart);
        }
        if charts.is_empty() { Ok(()) } else { save(&charts, &self.path) }
    }
}

impl Callback for Curves {
    fn on_epoch_end(&mut self, run: &mut Run<'_>) -> Result<()> {
        self.draw(run.history())
    }
}

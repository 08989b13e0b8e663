//! Curves as pictures: a [`Chart`] as SVG or PNG, and a [`Canvas`] of pixels for whatever else is to be drawn.
//!
//! ```
//! use fornax::plot::Chart;
//! # let folder = std::env::temp_dir().join(format!("fornax-plot-{}", std::process::id()));
//! let falling: Vec<(f64, f64)> = (1..=20).map(|epoch| (epoch as f64, 1.0 / epoch as f64)).collect();
//! let chart = Chart::new("loss by epoch").series("training", falling).log_y();
//! chart.save(folder.join("loss.svg"))?;
//! chart.save(folder.join("loss.png"))?;
//! # std::fs::remove_dir_all(&folder).ok();
//! # Ok::<(), fornax::Error>(())
//! ```

mod canvas;
mod svg;

pub use canvas::{Canvas, Colour, INK};

use crate::{Error, Result};
use std::path::Path;

/// What a chart is drawn with. Places are in pixels from the upper left.
trait Surface {
    fn fill(&mut self, x: f32, y: f32, width: f32, height: f32, colour: Colour);
    fn path(&mut self, points: &[(f32, f32)], width: f32, colour: Colour);
    /// Text on the line `y`; `anchor` 0 begins at `x`, 0.5 is centred there, 1 ends there.
    fn text(&mut self, x: f32, y: f32, anchor: f32, text: &str, colour: Colour);
}

const GRID: Colour = [226, 226, 230];
/// Told apart by most readers (after Okabe and Ito).
const COLOURS: [Colour; 7] = [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233], [120, 120, 130]];

#[derive(Clone, Debug)]
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
    colour: Colour,
}

/// Curves in one frame, with axes that fit them and a legend.
#[derive(Clone, Debug)]
pub struct Chart {
    title: String,
    series: Vec<Series>,
    log: [bool; 2],
    size: (u32, u32),
}

impl Chart {
    /// An empty chart of 720 by 360 pixels.
    pub fn new(title: &str) -> Chart {
        Chart { title: title.to_string(), series: Vec::new(), log: [false; 2], size: (720, 360) }
    }

    /// Adds a curve through these points; it is broken where one is not finite.
    pub fn series(mut self, name: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Chart {
        let colour = COLOURS[self.series.len() % COLOURS.len()];
        self.series.push(Series { name: name.to_string(), points: points.into_iter().collect(), colour });
        self
    }

    /// A logarithmic axis from left to right; points without a positive number there are left out.
    pub fn log_x(mut self) -> Chart {
        self.log[0] = true;
        self
    }

    /// A logarithmic axis upwards; points without a positive number there are left out.
    pub fn log_y(mut self) -> Chart {
        self.log[1] = true;
        self
    }

    /// The size in pixels; at least 160 by 120.
    pub fn size(mut self, width: u32, height: u32) -> Chart {
        self.size = (width.clamp(160, 10_000), height.clamp(120, 10_000));
        self
    }

    /// Saves it as SVG or PNG, by the file's ending.
    ///
    /// # Errors
    /// `Error::Io` for the file; `Error::Argument` for another ending.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        save(std::slice::from_ref(self), path)
    }

    /// The chart as the text of an SVG file.
    ///
    /// ```
    /// let svg = fornax::plot::Chart::new("a < b").series("x", [(0.0, 1.0), (1.0, 2.0)]).svg();
    /// assert!(svg.starts_with("<svg") && svg.contains("a &lt; b"));
    /// ```
    pub fn svg(&self) -> String {
        svg::stack(std::slice::from_ref(self))
    }

    /// Draws it with its upper left corner here, in its size.
    ///
    /// ```
    /// use fornax::plot::{Canvas, Chart};
    /// let mut canvas = Canvas::new(400, 400)?;
    /// Chart::new("curve").series("x", [(0.0, 1.0), (1.0, 2.0)]).size(400, 200).draw(&mut canvas, 0, 100);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn draw(&self, canvas: &mut Canvas, x: i32, y: i32) {
        self.paint(canvas, x as f32, y as f32);
    }

    /// The range of an axis: (first, last, ticks), where both ends are in the axis' own measure.
    fn axis(&self, d: usize) -> Axis {
        let coordinate = |p: &(f64, f64)| if d == 0 { p.0 } else { p.1 };
        let log = self.log[d];
        let values = self.series.iter().flat_map(|s| s.points.iter().filter(|p| self.is_shown(p)).map(coordinate));
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        Axis::new(low, high, log, if d == 0 { 8 } else { 5 })
    }

    fn is_shown(&self, p: &(f64, f64)) -> bool {
        let fine = |v: f64, log: bool| v.is_finite() && (!log || v > 0.0);
        fine(p.0, self.log[0]) && fine(p.1, self.log[1])
    }

    fn paint(&self, surface: &mut dyn Surface, left: f32, top: f32) {
        let (width, height) = (self.size.0 as f32, self.size.1 as f32);
        let (x, y) = (left + 66.0, top + 44.0);
        let (w, h) = (width - 66.0 - 22.0, height - 44.0 - 34.0);
        let (across, up) = (self.axis(0), self.axis(1));
        surface.text(x, top + 18.0, 0.0, &self.title, INK);
        for tick in &up.ticks {
            let v = y + h - up.place(*tick) * h;
            surface.fill(x, v, w, 1.0, GRID);
            surface.text(x - 8.0, v + 4.0, 1.0, &number(*tick), INK);
        }
        for tick in &across.ticks {
            let u = x + across.place(*tick) * w;
            surface.fill(u, y, 1.0, h, GRID);
            surface.text(u, y + h + 20.0, 0.5, &number(*tick), INK);
        }
        for s in &self.series {
            let place = |p: &(f64, f64)| (x + across.place(p.0) * w, y + h - up.place(p.1) * h);
            for run in s.points.split(|p| !self.is_shown(p)).filter(|run| !run.is_empty()) {
                let points: Vec<(f32, f32)> = run.iter().map(place).collect();
                match points[..] {
                    // A point alone is a dot.
                    [(u, v)] => surface.fill(u - 2.0, v - 2.0, 4.0, 4.0, s.colour),
                    _ => surface.path(&points, 2.0, s.colour),
                }
            }
        }
        surface.fill(x, y, 1.0, h, INK);
        surface.fill(x, y + h, w, 1.0, INK);
        // The legend, from the right.
        let mut end = x + w;
        for s in self.series.iter().rev().filter(|s| !s.name.is_empty()) {
            surface.text(end, top + 36.0, 1.0, &s.name, INK);
            end -= 8.0 * s.name.chars().count() as f32 + 6.0;
            surface.fill(end - 18.0, top + 31.0, 18.0, 3.0, s.colour);
            end -= 34.0;
        }
    }
}

/// Saves charts, one below the other, as SVG or PNG, by the file's ending.
///
/// ```
/// use fornax::plot::Chart;
/// # let path = std::env::temp_dir().join(format!("fornax-charts-{}.svg", std::process::id()));
/// let charts = ["loss", "accuracy"].map(|name| Chart::new(name).series(name, [(1.0, 0.5), (2.0, 0.25)]));
/// fornax::plot::save(&charts, &path)?;
/// # std::fs::remove_file(&path).ok();
/// # Ok::<(), fornax::Error>(())
/// ```
///
/// # Errors
/// `Error::Io` for the file; `Error::Argument` for another ending, or no chart.
pub fn save(charts: &[Chart], path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    if charts.is_empty() {
        return Err(Error::argument("plot::save", "no chart"));
    }
    match ending.as_deref() {
        Some("svg") => write(path, svg::stack(charts).as_bytes()),
        Some("png") => {
            let mut canvas = Canvas::new(charts.iter().map(|c| c.size.0).max().unwrap_or(1), charts.iter().map(|c| c.size.1).sum())?;
            let mut y = 0;
            for chart in charts {
                chart.draw(&mut canvas, 0, y);
                y += chart.size.1 as i32;
            }
            canvas.save(path)
        }
        _ => Err(Error::argument("plot::save", format!("{}: the file's name must end in .svg or .png", path.display()))),
    }
}

/// Writes a file, and makes its folder if need be.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    std::fs::write(path, bytes).map_err(|e| Error::io(path, e))
}

struct Axis {
    low: f64,
    high: f64,
    log: bool,
    ticks: Vec<f64>,
}

impl Axis {
    /// An axis over these values, with about so many ticks at round numbers.
    fn new(low: f64, high: f64, log: bool, wanted: usize) -> Axis {
        // Nothing to show, or a single value.
        let (low, high) = if low <= high { (low, high) } else { (if log { 1.0 } else { 0.0 }, 1.0) };
        if log {
            let (mut from, mut to) = (low.log10().floor(), high.log10().ceil());
            if from == to {
                (from, to) = (from - 1.0, to + 1.0);
            }
            let step = ((to - from) / wanted as f64).ceil().max(1.0);
            let count = ((to - from) / step) as usize;
            let ticks = (0..=count).map(|i| 10f64.powf(from + i as f64 * step)).collect();
            return Axis { low: from, high: to, log, ticks };
        }
        let (low, high) = if low < high { (low, high) } else { (low - 0.5f64.max(low.abs() / 2.0), high + 0.5f64.max(high.abs() / 2.0)) };
        let raw = (high - low) / wanted as f64;
        let ten = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * ten).find(|&s| s >= raw).unwrap_or(10.0 * ten);
        let (from, to) = ((low / step).floor(), (high / step).ceil());
        let ticks = (0..=(to - from).min(100.0) as usize).map(|i| (from + i as f64) * step).collect();
        Axis { low: from * step, high: to * step, log, ticks }
    }

    /// Where a value lies, from 0 to 1.
    fn place(&self, v: f64) -> f32 {
        let v = if self.log { v.log10() } else { v };
        ((v - self.low) / (self.high - self.low)) as f32
    }
}

/// A tick's number, short.
fn number(v: f64) -> String {
    if v != 0.0 && !(1e-3..1e5).contains(&v.abs()) {
        return format!("{v:.0e}");
    }
    let text = format!("{v:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

impl Surface for Canvas {
    fn fill(&mut self, x: f32, y: f32, width: f32, height: f32, colour: Colour) {
        Canvas::fill(self, x.round() as i32, y.round() as i32, width.round() as i32, height.round() as i32, colour);
    }

    fn path(&mut self, points: &[(f32, f32)], width: f32, colour: Colour) {
        points.windows(2).for_each(|p| self.line(p[0], p[1], width, colour));
    }

    fn text(&mut self, x: f32, y: f32, anchor: f32, text: &str, colour: Colour) {
        let width = 8.0 * text.chars().count() as f32 - 2.0;
        Canvas::text(self, (x - anchor * width).round() as i32, y.round() as i32 - 10, 2, text, colour);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_ticks_that_hold_all_values() {
        for (low, high) in [(0.0, 1.0), (-3.2, 17.9), (0.013, 0.0131), (5.0, 5.0), (-1e9, 1e-9), (f64::INFINITY, f64::NEG_INFINITY)] {
            let axis = Axis::new(low, high, false, 5);
            let (first, last) = (axis.ticks[0], axis.ticks[axis.ticks.len() - 1]);
            assert!((3..=12).contains(&axis.ticks.len()), "{low} {high}: {:?}", axis.ticks);
            assert!(axis.place(first).abs() < 1e-4 && (axis.place(last) - 1.0).abs() < 1e-4);
            if low <= high {
                assert!((-1e-5..=1.00001).contains(&axis.place(low)) && (-1e-5..=1.00001).contains(&axis.place(high)));
            }
        }
        let axis = Axis::new(0.02, 300.0, true, 5);
        assert_eq!(axis.ticks.iter().map(|&t| number(t)).collect::<Vec<_>>(), ["0.01", "0.1", "1", "10", "100", "1000"]);
        assert!((axis.place(1.0) - 0.4).abs() < 1e-6);
    }
}

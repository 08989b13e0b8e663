//! Charts as SVG.

use super::{Chart, Colour, Surface};
use std::fmt::Write;

struct Svg(String);

/// A colour as `#0072b2`.
fn hex([r, g, b]: Colour) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// Text as XML holds it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Surface for Svg {
    fn fill(&mut self, x: f32, y: f32, width: f32, height: f32, colour: Colour) {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(self.0, r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{}"/>"#, hex(colour));
    }

    fn path(&mut self, points: &[(f32, f32)], width: f32, colour: Colour) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let style = format!(r#"fill="none" stroke="{}" stroke-width="{width}" stroke-linejoin="round""#, hex(colour));
        let _ = writeln!(self.0, r#"<polyline points="{}" {style}/>"#, points.join(" "));
    }

    fn text(&mut self, x: f32, y: f32, anchor: f32, text: &str, colour: Colour) {
        let anchor = match anchor {
            a if a < 0.25 => "start",
            a if a < 0.75 => "middle",
            _ => "end",
        };
        let _ = writeln!(self.0, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{}">{}</text>"#, hex(colour), escaped(text));
    }
}

/// The charts, one below the other.
pub(super) fn stack(charts: &[Chart]) -> String {
    let (width, height) = (charts.iter().map(|c| c.size.0).max().unwrap_or(0), charts.iter().map(|c| c.size.1).sum::<u32>());
    let font = r#"font-family="Helvetica, Arial, sans-serif" font-size="13""#;
    let head =
        format!(r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" {font}>"#);
    let mut svg = Svg(format!("{head}\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"));
    let mut y = 0.0;
    for chart in charts {
        chart.paint(&mut svg, 0.0, y);
        y += chart.size.1 as f32;
    }
    svg.0 + "</svg>\n"
}

//! A small picture to draw on: lines, boxes, numbers and capital letters, saved as PNG.

use std::io::BufWriter;

pub type Colour = [u8; 3];
pub const INK: Colour = [40, 40, 48];
pub const GRID: Colour = [226, 226, 230];

pub struct Canvas {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

/// Three by five dots a glyph, a row an octal digit.
const GLYPHS: &[(char, u16)] = &[
    ('0', 0o75557),
    ('1', 0o26227),
    ('2', 0o71747),
    ('3', 0o71717),
    ('4', 0o55711),
    ('5', 0o74717),
    ('6', 0o74757),
    ('7', 0o71122),
    ('8', 0o75757),
    ('9', 0o75717),
    ('A', 0o25755),
    ('B', 0o65656),
    ('C', 0o34443),
    ('D', 0o65556),
    ('E', 0o74647),
    ('F', 0o74644),
    ('G', 0o34553),
    ('H', 0o55755),
    ('I', 0o72227),
    ('J', 0o11152),
    ('K', 0o55655),
    ('L', 0o44447),
    ('M', 0o57755),
    ('N', 0o65555),
    ('O', 0o25552),
    ('P', 0o65644),
    ('Q', 0o25563),
    ('R', 0o65655),
    ('S', 0o34216),
    ('T', 0o72222),
    ('U', 0o55557),
    ('V', 0o55552),
    ('W', 0o55775),
    ('X', 0o55255),
    ('Y', 0o55222),
    ('Z', 0o71247),
    ('.', 0o00002),
    ('%', 0o51245),
    ('-', 0o00700),
    (':', 0o02020),
    ('/', 0o11244),
];

impl Canvas {
    pub fn new(width: u32, height: u32) -> Canvas {
        Canvas { width, height, pixels: vec![255; (width * height * 3) as usize] }
    }

    pub fn dot(&mut self, x: i32, y: i32, colour: Colour) {
        if x >= 0 && y >= 0 && x < self.width as i32 && y < self.height as i32 {
            let at = (y as usize * self.width as usize + x as usize) * 3;
            self.pixels[at..at + 3].copy_from_slice(&colour);
        }
    }

    pub fn fill(&mut self, x: i32, y: i32, width: i32, height: i32, colour: Colour) {
        for v in y..y + height {
            for u in x..x + width {
                self.dot(u, v, colour);
            }
        }
    }

    pub fn line(&mut self, from: (f32, f32), to: (f32, f32), thick: i32, colour: Colour) {
        let steps = (to.0 - from.0).abs().max((to.1 - from.1).abs()).ceil().max(1.0);
        for i in 0..=steps as i32 {
            let t = i as f32 / steps;
            let (x, y) = (from.0 + t * (to.0 - from.0), from.1 + t * (to.1 - from.1));
            self.fill(x.round() as i32 - thick / 2, y.round() as i32 - thick / 2, thick, thick, colour);
        }
    }

    /// Writes a line of text with dots of `scale` pixels; characters that there is no glyph for are left blank.
    pub fn text(&mut self, x: i32, y: i32, scale: i32, text: &str, colour: Colour) {
        for (i, c) in text.chars().enumerate() {
            let Some(&(_, bits)) = GLYPHS.iter().find(|g| g.0 == c.to_ascii_uppercase()) else { continue };
            for dot in 0..15 {
                if bits >> (14 - dot) & 1 == 1 {
                    let (u, v) = (x + (4 * i as i32 + dot % 3) * scale, y + dot / 3 * scale);
                    self.fill(u, v, scale, scale, colour);
                }
            }
        }
    }

    /// A frame with a grid, and the curves in it: each a list of points, all in one range.
    pub fn chart(&mut self, (x, y, width, height): (i32, i32, i32, i32), title: &str, curves: &[(Vec<(f32, f32)>, i32, Colour)]) {
        let points = || curves.iter().flat_map(|c| &c.0).filter(|p| p.1.is_finite());
        let right = points().map(|p| p.0).fold(1e-6, f32::max);
        let top = points().map(|p| p.1).fold(1e-6, f32::max);
        self.text(x, y - 18, 2, title, INK);
        for i in 0..=5 {
            let v = y + height - i * height / 5;
            self.fill(x, v, width, 1, GRID);
            self.text(x - 36, v - 5, 2, &format!("{:.2}", top * i as f32 / 5.0), INK);
            let u = x + i * width / 5;
            self.text(u - 6, y + height + 8, 2, &format!("{:.0}", right * i as f32 / 5.0), INK);
        }
        for (points, thick, colour) in curves {
            let place = |p: &(f32, f32)| (x as f32 + p.0 / right * width as f32, (y + height) as f32 - p.1 / top * height as f32);
            for pair in points.windows(2).filter(|p| p[0].1.is_finite() && p[1].1.is_finite()) {
                self.line(place(&pair[0]), place(&pair[1]), *thick, *colour);
            }
        }
        self.fill(x, y, 1, height, INK);
        self.fill(x, y + height, width, 1, INK);
    }

    /// Saves the picture as PNG.
    pub fn save(&self, path: &str) -> Result<(), Box<dyn std::error::Error>> {
        let mut encoder = png::Encoder::new(BufWriter::new(std::fs::File::create(path)?), self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        Ok(writer.finish()?)
    }
}

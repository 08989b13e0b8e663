//! A picture of pixels: lines, boxes, numbers and capital letters, saved as PNG.

use crate::{Error, Result};
use std::io::BufWriter;
use std::path::Path;

/// Red, green and blue, 0 to 255.
pub type Colour = [u8; 3];

/// The colour of text.
pub const INK: Colour = [40, 40, 48];

/// A picture to draw on, white at first.
///
/// ```
/// use fornax::plot::{Canvas, INK};
/// # let path = std::env::temp_dir().join(format!("fornax-canvas-{}.png", std::process::id()));
/// let mut canvas = Canvas::new(200, 60)?;
/// canvas.text(10, 10, 2, "99.1 % right", INK);
/// canvas.line((10.0, 50.0), (190.0, 30.0), 2.0, [30, 80, 190]);
/// canvas.save(&path)?;
/// # std::fs::remove_file(&path).ok();
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
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
    ('_', 0o00007),
    ('(', 0o12221),
    (')', 0o42224),
    ('=', 0o07070),
    ('+', 0o02720),
    (',', 0o00024),
    ('×', 0o05250),
    ('µ', 0o05576),
];

impl Canvas {
    /// A canvas of so many pixels, up to 100 million.
    ///
    /// # Errors
    /// `Error::Argument` where it has none, or more.
    pub fn new(width: u32, height: u32) -> Result<Canvas> {
        let pixels = width as usize * height as usize;
        if pixels == 0 || pixels > 100_000_000 {
            return Err(Error::argument("Canvas", format!("{width}×{height} pixels: one to 100 million are wanted")));
        }
        Ok(Canvas { width, height, pixels: vec![255; pixels * 3] })
    }

    /// The width and the height.
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// The colour of a pixel; `None` outside.
    ///
    /// ```
    /// let mut canvas = fornax::plot::Canvas::new(4, 4)?;
    /// canvas.fill(1, 1, 2, 2, [255, 0, 0]);
    /// assert_eq!((canvas.pixel(1, 2), canvas.pixel(0, 0)), (Some([255, 0, 0]), Some([255; 3])));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn pixel(&self, x: i32, y: i32) -> Option<Colour> {
        self.at(x, y).map(|at| [self.pixels[at], self.pixels[at + 1], self.pixels[at + 2]])
    }

    fn at(&self, x: i32, y: i32) -> Option<usize> {
        let inside = x >= 0 && y >= 0 && (x as u32) < self.width && (y as u32) < self.height;
        inside.then(|| (y as usize * self.width as usize + x as usize) * 3)
    }

    /// Mixes a colour into a pixel; outside nothing happens.
    fn blend(&mut self, x: i32, y: i32, colour: Colour, share: f32) {
        if let Some(at) = self.at(x, y) {
            for (p, c) in self.pixels[at..at + 3].iter_mut().zip(colour) {
                *p = (f32::from(*p) + (f32::from(c) - f32::from(*p)) * share).round() as u8;
            }
        }
    }

    /// Fills a box with its upper left corner here. What lies outside is not drawn.
    pub fn fill(&mut self, x: i32, y: i32, width: i32, height: i32, colour: Colour) {
        let (right, bottom) = (x.saturating_add(width).min(self.width as i32), y.saturating_add(height).min(self.height as i32));
        for v in y.max(0)..bottom {
            for u in x.max(0)..right {
                self.blend(u, v, colour, 1.0);
            }
        }
    }

    /// A smooth line of so many pixels' width.
    pub fn line(&mut self, from: (f32, f32), to: (f32, f32), width: f32, colour: Colour) {
        if ![from.0, from.1, to.0, to.1, width].iter().all(|v| v.is_finite()) {
            return;
        }
        let half = width / 2.0;
        let bound = |a: f32, b: f32, limit: u32| {
            ((a.min(b) - half - 1.0).floor().max(0.0) as i32, (a.max(b) + half + 1.0).ceil().min(limit as f32) as i32)
        };
        let ((x0, x1), (y0, y1)) = (bound(from.0, to.0, self.width), bound(from.1, to.1, self.height));
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length = (dx * dx + dy * dy).max(1e-12);
        for y in y0..y1 {
            for x in x0..x1 {
                // The distance of the pixel's centre from the line.
                let (px, py) = (x as f32 + 0.5 - from.0, y as f32 + 0.5 - from.1);
                let t = ((px * dx + py * dy) / length).clamp(0.0, 1.0);
                let distance = (px - t * dx).hypot(py - t * dy);
                self.blend(x, y, colour, (half + 0.5 - distance).clamp(0.0, 1.0));
            }
        }
    }

    /// Writes a line of text with dots of `scale` pixels, five dots high; small letters as capitals, and what there is no glyph for as blanks.
    pub fn text(&mut self, x: i32, y: i32, scale: i32, text: &str, colour: Colour) {
        for (i, c) in text.chars().enumerate() {
            let Some(&(_, bits)) = GLYPHS.iter().find(|g| g.0 == c.to_ascii_uppercase()) else { continue };
            for dot in (0..15).filter(|dot| bits >> (14 - dot) & 1 == 1) {
                let (u, v) = (x + (4 * i as i32 + dot % 3) * scale, y + dot / 3 * scale);
                self.fill(u, v, scale, scale, colour);
            }
        }
    }

    /// The picture as the bytes of a PNG file.
    ///
    /// # Errors
    /// `Error::Format` where it cannot be encoded.
    pub fn png(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(BufWriter::new(&mut bytes), self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        let written = encoder.write_header().and_then(|mut w| {
            w.write_image_data(&self.pixels)?;
            w.finish()
        });
        written.map_err(|e| Error::format("png", e.to_string()))?;
        Ok(bytes)
    }

    /// Saves the picture as a PNG file; the folder is made if need be.
    ///
    /// # Errors
    /// `Error::Io` for the file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        super::write(path.as_ref(), &self.png()?)
    }
}

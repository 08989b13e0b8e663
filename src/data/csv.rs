//! Tables from CSV files.

use super::Stream;
use super::quotes::Quotes;
use super::source::{failed, open};
use crate::{Device, Error, Result, Tensor};
use std::collections::BTreeMap;
use std::path::Path;

/// How a CSV file is to be read. The default: commas, a first line with the columns' names, and numbers everywhere.
///
/// ```
/// use fornax::data::Csv;
/// let text = "name;size\nant;1\nbee;?\nant;3\n";
/// let table = Csv::new().delimiter(b';').text(&["name"]).missing(f64::NAN).parse("inline", text)?;
/// assert_eq!(table.categories("name")?, ["ant", "bee"]);
/// assert_eq!(table.column("name")?, [0.0, 1.0, 0.0]);
/// assert!(table.column("size")?[1].is_nan());
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Csv {
    delimiter: u8,
    header: bool,
    missing: Option<f64>,
    text: Vec<String>,
}

impl Default for Csv {
    fn default() -> Csv {
        Csv::new()
    }
}

/// What stands for a missing number.
const MISSING: [&str; 8] = ["", "?", "NA", "N/A", "NaN", "nan", "null", "NULL"];

impl Csv {
    /// The default.
    pub fn new() -> Csv {
        Csv { delimiter: b',', header: true, missing: None, text: Vec::new() }
    }

    /// The byte between fields.
    pub fn delimiter(mut self, delimiter: u8) -> Csv {
        self.delimiter = delimiter;
        self
    }

    /// Whether the first line names the columns. Without names they are called `0`, `1`, ….
    pub fn header(mut self, header: bool) -> Csv {
        self.header = header;
        self
    }

    /// The number in place of an empty field, `?`, `NA`, `N/A`, `NaN` or `null`. Without it, such a field is an error. An infinite number, or one that
    /// f64 does not hold, is one in any case.
    pub fn missing(mut self, value: f64) -> Csv {
        self.missing = Some(value);
        self
    }

    /// These columns hold text. Their numbers are the positions in [`Table::categories`].
    pub fn text(mut self, columns: &[&str]) -> Csv {
        self.text = columns.iter().map(|c| c.to_string()).collect();
        self
    }

    /// Reads a file; a gzip file is unpacked.
    ///
    /// # Errors
    /// `Error::Io` for the file; `Error::Format` for two columns of one name, and with line and column for a row of another length, a field that is no
    /// finite number, or a quote that the end of the file leaves open.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Table> {
        let path = path.as_ref();
        self.table(Reader::new(path.display().to_string(), open(path)?, self)?)
    }

    /// The same from text; `name` is for messages.
    ///
    /// # Errors
    /// As [`read`](Csv::read).
    pub fn parse(&self, name: &str, text: &str) -> Result<Table> {
        self.table(Reader::new(name.into(), text.as_bytes(), self)?)
    }

    /// The rows of a file one after the other, for files larger than memory: numbers only.
    ///
    /// # Errors
    /// `Error::Argument` where there are text columns, whose categories only the whole file can tell.
    ///
    /// ```no_run
    /// use fornax::data::{Csv, StreamLoader};
    /// for batch in StreamLoader::new(Csv::new().stream("huge.csv")?.shuffle(10_000, 1), 256).workers(2).epoch(0)? {
    ///     println!("{:?}", batch?.dims()); // [256, columns]
    /// }
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn stream(&self, path: impl AsRef<Path>) -> Result<Stream<Vec<f32>>> {
        if let Some(column) = self.text.first() {
            return Err(Error::argument("csv", format!("column {column:?} holds text: a stream has numbers only, read the table")));
        }
        let (path, options) = (path.as_ref().to_path_buf(), self.clone());
        Ok(Stream::new(move |_| {
            let mut reader = Reader::new(path.display().to_string(), open(&path)?, &options)?;
            let mut ended = false;
            Ok(std::iter::from_fn(move || {
                if ended {
                    return None;
                }
                // There are no text columns to code.
                let row = reader.next(|_, _| f64::NAN).map(|r| r.map(narrow)).transpose();
                let row = row.map(|r| r.and_then(|r| r.map_err(|(column, value)| reader.too_large(column, value))));
                // What the reader finds after a fault it cannot tell from the fault.
                ended = !matches!(row, Some(Ok(_)));
                row
            }))
        }))
    }

    fn table(&self, mut reader: Reader<impl std::io::Read>) -> Result<Table> {
        let mut seen: Vec<BTreeMap<String, usize>> = vec![BTreeMap::new(); reader.columns.len()];
        let mut values = Vec::new();
        while let Some(row) = reader.next(|column, field| {
            let known = seen[column].len();
            if let Some(&code) = seen[column].get(field) {
                return code as f64;
            }
            seen[column].insert(field.into(), known);
            known as f64
        })? {
            values.extend_from_slice(row);
        }
        // From the order of their appearance to the order of the alphabet.
        let n = reader.columns.len();
        let mut categories = Vec::with_capacity(n);
        for (column, seen) in seen.into_iter().enumerate() {
            let mut place = vec![0.0; seen.len()];
            seen.values().enumerate().for_each(|(sorted, &code)| place[code] = sorted as f64);
            if reader.text[column] {
                values.iter_mut().skip(column).step_by(n).for_each(|v| *v = place[*v as usize]);
            }
            categories.push(reader.text[column].then(|| seen.into_keys().collect()));
        }
        Ok(Table { name: reader.name, columns: reader.columns, categories, values })
    }
}

/// The rows of a file, checked and parsed.
struct Reader<R> {
    name: String,
    columns: Vec<String>,
    text: Vec<bool>,
    missing: Option<f64>,
    reader: csv::Reader<Quotes<R>>,
    record: csv::StringRecord,
    /// A first line that is no header.
    waiting: bool,
    /// What the first line is, for messages.
    first: &'static str,
    row: Vec<f64>,
}

impl<R: std::io::Read> Reader<R> {
    fn new(name: String, source: R, options: &Csv) -> Result<Reader<R>> {
        let mut builder = csv::ReaderBuilder::new();
        let builder = builder.flexible(true).trim(csv::Trim::All).delimiter(options.delimiter).has_headers(false);
        let (mut reader, mut record) = (builder.from_reader(Quotes::new(source, options.delimiter)), csv::StringRecord::new());
        let found = read(&name, &mut reader, &mut record)?;
        if !found && options.header {
            return Err(Error::format(&name, "no header line"));
        }
        let columns: Vec<String> =
            if options.header { record.iter().map(String::from).collect() } else { (0..record.len()).map(|i| i.to_string()).collect() };
        if let Some((second, first)) =
            columns.iter().enumerate().find_map(|(i, c)| Some((i, columns[..i].iter().position(|other| other == c)?)))
        {
            let message =
                format!("columns {} and {} are both called {:?}: give each a name of its own", first + 1, second + 1, columns[first]);
            return Err(Error::format(&name, message));
        }
        if let Some(column) = options.text.iter().find(|t| !columns.contains(t)) {
            return Err(Error::format(&name, format!("no column {column:?}; there are {}", columns.join(", "))));
        }
        let text = columns.iter().map(|c| options.text.contains(c)).collect();
        let waiting = found && !options.header;
        let first = if options.header { "header" } else { "first line" };
        Ok(Reader { name, columns, text, missing: options.missing, reader, record, waiting, first, row: Vec::new() })
    }

    /// What is wrong with a number of the last row.
    fn too_large(&self, column: usize, value: f64) -> Error {
        let line = self.record.position().map_or(0, |p| p.line());
        let name = &self.columns[column];
        let message = format!("line {line}, column {} ({name}): {value:e} is too large for f32, which ends at {:e}", column + 1, f32::MAX);
        Error::format(&self.name, message)
    }

    /// The next row; `code` gives the number of a field of a text column.
    fn next(&mut self, mut code: impl FnMut(usize, &str) -> f64) -> Result<Option<&[f64]>> {
        let waiting = std::mem::take(&mut self.waiting);
        if !waiting && !read(&self.name, &mut self.reader, &mut self.record)? {
            return Ok(None);
        }
        let line = self.record.position().map_or(0, |p| p.line());
        if self.record.len() != self.columns.len() {
            let message = format!("line {line} has {} columns, the {} has {}", self.record.len(), self.first, self.columns.len());
            return Err(Error::format(&self.name, message));
        }
        self.row.clear();
        for (i, field) in self.record.iter().enumerate() {
            let value = match (self.text[i], self.missing) {
                (true, _) => code(i, field),
                (false, Some(missing)) if MISSING.contains(&field) => missing,
                (false, missing) => {
                    let wrong = |what: &str| {
                        let shown: String = field.chars().take(40).collect();
                        Error::format(&self.name, format!("line {line}, column {} ({}): {shown:?} is {what}", i + 1, self.columns[i]))
                    };
                    match (field.parse::<f64>(), missing) {
                        (Ok(value), _) if value.is_finite() => value,
                        (Ok(value), Some(missing)) if value.is_nan() => missing,
                        (Ok(_), _) => return Err(wrong("not a finite number")),
                        (Err(_), _) => return Err(wrong("not a number")),
                    }
                }
            };
            self.row.push(value);
        }
        Ok(Some(&self.row))
    }
}

/// The next record, if there is one.
fn read<R: std::io::Read>(name: &str, reader: &mut csv::Reader<Quotes<R>>, record: &mut csv::StringRecord) -> Result<bool> {
    let found = reader.read_record(record).map_err(|e| wrong(name, e))?;
    if found && reader.get_ref().is_left_open() {
        let line = record.position().map_or(0, |p| p.line());
        let message = format!("line {line}, column {}: the quote is never closed: is the file cut off?", record.len());
        return Err(Error::format(name, message));
    }
    Ok(found)
}

fn wrong(name: &str, e: csv::Error) -> Error {
    match e.into_kind() {
        csv::ErrorKind::Io(e) => failed(name, e),
        csv::ErrorKind::Utf8 { pos, err } => {
            let line = pos.map_or(0, |p| p.line());
            Error::format(name, format!("line {line}, column {}: not valid UTF-8", err.field() + 1))
        }
        _ => Error::format(name, "not a CSV file"),
    }
}

/// A table of numbers with named columns.
///
/// ```
/// use fornax::data::Table;
/// use fornax::Device;
/// let table = Table::parse("inline", "a,b\n1,2\n3,4\n")?;
/// assert_eq!((table.rows(), table.columns()), (2, &["a".to_string(), "b".to_string()][..]));
/// assert_eq!(table.column("b")?, [2.0, 4.0]);
/// assert_eq!(table.tensor(&["b", "a"], Device::cpu())?.to_vec::<f32>()?, [2.0, 1.0, 4.0, 3.0]);
/// assert_eq!(table.labels("a", Device::cpu())?.to_vec::<i32>()?, [1, 3]);
/// let e = Table::parse("inline", "a,b\n1,x\n").unwrap_err();
/// assert_eq!(e.to_string(), "inline: line 2, column 2 (b): \"x\" is not a number");
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Table {
    name: String,
    columns: Vec<String>,
    /// The texts of each text column, in alphabetical order.
    categories: Vec<Option<Vec<String>>>,
    /// Row by row.
    values: Vec<f64>,
}

impl Table {
    /// Reads a file of numbers whose first line names the columns: [`Csv`] reads others.
    ///
    /// # Errors
    /// As [`Csv::read`].
    ///
    /// ```
    /// use fornax::data::Table;
    /// let path = std::env::temp_dir().join(format!("fornax-table-{}.csv", std::process::id()));
    /// std::fs::write(&path, "x,y\n1,2\n3,4\n").unwrap();
    /// assert_eq!(Table::read(&path)?.rows(), 2);
    /// # std::fs::remove_file(&path).ok();
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn read(path: impl AsRef<Path>) -> Result<Table> {
        Csv::new().read(path)
    }

    /// The same from text; `name` is for messages.
    ///
    /// # Errors
    /// As [`read`](Table::read).
    ///
    /// ```
    /// use fornax::data::Table;
    /// let table = Table::parse("points", "x, y\n1, 2\n3, 4\n")?;
    /// assert!(Table::parse("points", "x\nfour\n").is_err());
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn parse(name: &str, text: &str) -> Result<Table> {
        Csv::new().parse(name, text)
    }

    /// The names of the columns.
    ///
    /// ```
    /// use fornax::data::Table;
    /// let table = Table::parse("points", "x, y\n1, 2\n3, 4\n")?;
    /// assert_eq!(table.columns(), ["x", "y"]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The number of rows.
    ///
    /// ```
    /// use fornax::data::Table;
    /// let table = Table::parse("points", "x, y\n1, 2\n3, 4\n")?;
    /// assert_eq!(table.rows(), 2);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn rows(&self) -> usize {
        self.values.len() / self.columns.len().max(1)
    }

    /// A row's numbers, in the order of the columns; empty past the end.
    ///
    /// ```
    /// use fornax::data::Table;
    /// let table = Table::parse("points", "x, y\n1, 2\n3, 4\n")?;
    /// assert_eq!(table.row(1), [3.0, 4.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn row(&self, row: usize) -> &[f64] {
        let n = self.columns.len();
        self.values.get(row * n..(row + 1) * n).unwrap_or_default()
    }

    fn find(&self, column: &str) -> Result<usize> {
        let found = self.columns.iter().position(|c| c == column);
        found.ok_or_else(|| Error::format(&self.name, format!("no column {column:?}; there are {}", self.columns.join(", "))))
    }

    /// A column's numbers.
    ///
    /// # Errors
    /// `Error::Format` where there is no such column.
    ///
    /// ```
    /// use fornax::data::Table;
    /// let table = Table::parse("points", "x, y\n1, 2\n3, 4\n")?;
    /// assert_eq!(table.column("y")?, [2.0, 4.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn column(&self, column: &str) -> Result<Vec<f64>> {
        let i = self.find(column)?;
        Ok((0..self.rows()).map(|r| self.row(r)[i]).collect())
    }

    /// The different texts of a text column, in alphabetical order: its numbers are positions in this.
    ///
    /// # Errors
    /// `Error::Format` where there is no such text column.
    pub fn categories(&self, column: &str) -> Result<&[String]> {
        let categories = self.categories[self.find(column)?].as_deref();
        categories.ok_or_else(|| Error::format(&self.name, format!("column {column:?} holds numbers: name it in Csv::text to read text")))
    }

    /// Some columns as an f32 tensor of shape `[rows, columns]`.
    ///
    /// # Errors
    /// `Error::Format` where there is no such column; memory.
    ///
    /// ```
    /// use fornax::data::Table;
    /// let table = Table::parse("points", "x, y\n1, 2\n3, 4\n")?;
    /// let x = table.tensor(&["y", "x"], fornax::Device::cpu())?;
    /// assert_eq!(x.dims(), [2, 2]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn tensor(&self, columns: &[&str], device: Device) -> Result<Tensor> {
        let picked: Vec<usize> = columns.iter().map(|c| self.find(c)).collect::<Result<_>>()?;
        let mut values: Vec<f32> = Vec::with_capacity(self.rows() * picked.len());
        for r in 0..self.rows() {
            for (&i, column) in picked.iter().zip(columns) {
                let value = self.row(r)[i];
                if (value as f32).is_infinite() {
                    let message =
                        format!("row {} (from 1), column {column}: {value:e} is too large for f32, which ends at {:e}", r + 1, f32::MAX);
                    return Err(Error::format(&self.name, message));
                }
                values.push(value as f32);
            }
        }
        Tensor::from_vec(values, [self.rows(), columns.len()], device)
    }

    /// A column of whole numbers, or of text, as an i32 tensor of shape `[rows]`: the classes of a loss.
    ///
    /// # Errors
    /// `Error::Format` where there is no such column, or one of its numbers is not whole; memory.
    pub fn labels(&self, column: &str, device: Device) -> Result<Tensor> {
        let values = self.column(column)?;
        if let Some(row) = values.iter().position(|&v| f64::from(v as i32) != v) {
            let message = format!("row {}, column {column:?}: {} is not a whole number of 32 bits", row + 1, values[row]);
            return Err(Error::format(&self.name, message));
        }
        Tensor::from_vec(values.iter().map(|&v| v as i32).collect(), values.len(), device)
    }
}

/// A row in f32, or the first number that is too large for that, with its place.
fn narrow(row: &[f64]) -> std::result::Result<Vec<f32>, (usize, f64)> {
    let one = |(i, &v): (usize, &f64)| if (v as f32).is_infinite() { Err((i, v)) } else { Ok(v as f32) };
    row.iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_files_are_errors_that_say_where() {
        let message = |text: &str| Table::parse("t", text).unwrap_err().to_string();
        assert_eq!(message("a,b\n1,2\n3\n"), "t: line 3 has 1 columns, the header has 2");
        assert_eq!(message("a,b\n1,2,3\n"), "t: line 2 has 3 columns, the header has 2");
        assert_eq!(message("a\n1\n\"\"\n"), "t: line 3, column 1 (a): \"\" is not a number");
        assert_eq!(message(""), "t: no header line");
        // What Rust reads as a number, and no data set means.
        for field in ["NaN", "-nan", "inf", "-Infinity", "1e999"] {
            let says = format!("t: line 3, column 2 (b): {field:?} is not a finite number");
            assert_eq!(message(&format!("a,b\n1,2\n3,{field}\n")), says);
        }
        assert_eq!(message("a, b,a\n1,2,3\n"), "t: columns 1 and 3 are both called \"a\": give each a name of its own");
        let reader = Reader::new("t".into(), &b"a\n\xff\n"[..], &Csv::new()).unwrap();
        assert_eq!(Csv::new().table(reader).unwrap_err().to_string(), "t: line 2, column 1: not valid UTF-8");
        assert!(matches!(Table::read("/nowhere/x.csv"), Err(Error::Io { .. })));
        assert_eq!(Table::parse("t", "a,b\n").unwrap().rows(), 0);
        let table = Table::parse("t", "a\n1.5\n").unwrap();
        assert!(table.column("z").is_err() && table.categories("a").is_err());
        assert_eq!(
            table.labels("a", Device::cpu()).unwrap_err().to_string(),
            "t: row 1, column \"a\": 1.5 is not a whole number of 32 bits"
        );
    }

    #[test]
    fn a_quote_left_open_is_no_field_of_many_lines() -> Result<()> {
        let csv = Csv::new().text(&["k"]);
        let whole = "x,k\n1,\"a, b\"\n2,\"c\nd \"\"e\"\"\"\n3,5\" pipe\n4,\"f\"\n";
        assert_eq!(csv.parse("t", whole)?.categories("k")?, ["5\" pipe", "a, b", "c\nd \"e\"", "f"]);
        // Cut off at any byte, the text is an error, or has the rows that are whole.
        let full = csv.parse("t", whole)?;
        for end in 0..whole.len() {
            let Ok(table) = csv.parse("t", &whole[..end]) else { continue };
            assert!((0..table.rows().saturating_sub(1)).all(|r| table.row(r)[0] == full.row(r)[0]), "{end}");
            assert!(
                table.categories("k")?.iter().all(|k| !k.contains('\n') || k.starts_with("c\nd")),
                "{end}: {:?}",
                table.categories("k")
            );
        }
        let says = |text: &str| csv.parse("t", text).unwrap_err().to_string();
        assert_eq!(says("x,k\n1,a\n2,\"b\n3,c\n4,d\n"), "t: line 3, column 2: the quote is never closed: is the file cut off?");
        assert_eq!(says("x,k\n1,\"b"), "t: line 2, column 2: the quote is never closed: is the file cut off?");
        assert_eq!(says("x,\"k\n1,2\n"), "t: line 1, column 2: the quote is never closed: is the file cut off?");
        assert!(says("x,k\n1,\"b\"\"\n").ends_with("is the file cut off?"));
        // A buffer that ends inside quotes is no end of the file.
        let long = format!("x,k\n{}", "1,\"a\nb\"\n".repeat(5000));
        assert_eq!(csv.parse("t", &long)?.rows(), 5000);
        Ok(())
    }

    #[test]
    fn files_without_header_and_with_text() -> Result<()> {
        let plain = Csv::new().header(false).parse("t", "1,2\n3,4\n")?;
        assert_eq!((plain.rows(), plain.column("1")?), (2, vec![2.0, 4.0]));
        assert_eq!(Csv::new().header(false).parse("t", "")?.rows(), 0);
        let e = Csv::new().header(false).parse("t", "1,2\n3\n").unwrap_err();
        assert_eq!(e.to_string(), "t: line 2 has 1 columns, the first line has 2");
        let mixed = Csv::new().text(&["k"]).missing(-1.0).parse("t", "x,k\n1,zebra\nNA,ant\n,zebra\n")?;
        assert_eq!(mixed.column("x")?, [1.0, -1.0, -1.0]);
        assert_eq!(mixed.categories("k")?, ["ant", "zebra"]);
        assert_eq!(mixed.labels("k", Device::cpu())?.to_vec::<i32>()?, [1, 0, 1]);
        let missing = Csv::new().missing(0.5);
        assert_eq!(missing.parse("t", "x\nNaN\nNAN\n-nan\n1e300\n")?.column("x")?, [0.5, 0.5, 0.5, 1e300]);
        assert!(missing.parse("t", "x\ninf\n").is_err() && missing.parse("t", "x\n1e999\n").is_err());
        assert!(Csv::new().text(&["q"]).parse("t", "x\n1\n").is_err());
        assert!(Csv::new().text(&["x"]).stream("t").is_err());
        Ok(())
    }
}

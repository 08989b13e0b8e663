//! Tables of numbers from CSV files.

use crate::{Device, Error, Result, Tensor};
use std::path::Path;

/// A table of numbers with named columns.
///
/// ```
/// use fornax::data::Table;
/// use fornax::Device;
/// let table = Table::parse("inline", "a,b\n1,2\n3,4\n")?;
/// assert_eq!((table.rows(), table.columns()), (2, &["a".to_string(), "b".to_string()][..]));
/// assert_eq!(table.column("b")?, [2.0, 4.0]);
/// assert_eq!(table.tensor(&["b", "a"], Device::cpu())?.to_vec::<f32>()?, [2.0, 1.0, 4.0, 3.0]);
/// let e = Table::parse("inline", "a,b\n1,x\n").unwrap_err();
/// assert_eq!(e.to_string(), "inline: line 2, column 2 (b): \"x\" is not a number");
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Table {
    name: String,
    columns: Vec<String>,
    /// Row by row.
    values: Vec<f64>,
}

impl Table {
    /// Reads a file whose first line names the columns.
    ///
    /// # Errors
    /// `Error::Io` for the file; `Error::Format` with line and column for a row of another length, or a field that is no number.
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
        let path = path.as_ref();
        let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
        Table::from_reader(&path.display().to_string(), file)
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
        Table::from_reader(name, text.as_bytes())
    }

    fn from_reader(name: &str, reader: impl std::io::Read) -> Result<Table> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(reader);
        let failed = |e: csv::Error| match e.into_kind() {
            csv::ErrorKind::Io(e) => Error::io(name, e),
            csv::ErrorKind::Utf8 { pos, err } => {
                let line = pos.map_or(0, |p| p.line());
                Error::format(name, format!("line {line}, column {}: not valid UTF-8", err.field() + 1))
            }
            _ => Error::format(name, "not a CSV file"),
        };
        let columns: Vec<String> = reader.headers().map_err(failed)?.iter().map(String::from).collect();
        if columns.is_empty() {
            return Err(Error::format(name, "no header line"));
        }
        let mut values = Vec::new();
        let mut record = csv::StringRecord::new();
        while reader.read_record(&mut record).map_err(failed)? {
            let line = record.position().map_or(0, |p| p.line());
            if record.len() != columns.len() {
                let message = format!("line {line} has {} columns, the header has {}", record.len(), columns.len());
                return Err(Error::format(name, message));
            }
            for (i, field) in record.iter().enumerate() {
                let value = field.parse::<f64>().map_err(|_| {
                    let shown: String = field.chars().take(40).collect();
                    Error::format(name, format!("line {line}, column {} ({}): {shown:?} is not a number", i + 1, columns[i]))
                })?;
                values.push(value);
            }
        }
        Ok(Table { name: name.into(), columns, values })
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
        self.values.len() / self.columns.len()
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
        let values: Vec<f32> = (0..self.rows()).flat_map(|r| picked.iter().map(move |&i| self.row(r)[i] as f32)).collect();
        Tensor::from_vec(values, [self.rows(), columns.len()], device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_files_are_errors_that_say_where() {
        let message = |text: &str| Table::parse("t", text).unwrap_err().to_string();
        assert_eq!(message("a,b\n1,2\n3\n"), "t: line 3 has 1 columns, the header has 2");
        assert_eq!(message("a,b\n1,2,3\n"), "t: line 2 has 3 columns, the header has 2");
        assert_eq!(message(""), "t: no header line");
        let e = Table::from_reader("t", &b"a\n\xff\n"[..]).unwrap_err().to_string();
        assert_eq!(e, "t: line 2, column 1: not valid UTF-8");
        assert!(matches!(Table::read("/nowhere/x.csv"), Err(Error::Io { .. })));
        assert_eq!(Table::parse("t", "a,b\n").unwrap().rows(), 0);
        assert!(Table::parse("t", "a\n1\n").unwrap().column("z").is_err());
    }
}

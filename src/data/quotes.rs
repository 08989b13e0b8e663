//! Quotes in CSV files that nobody closes.

use std::io::Read;

/// The bytes of a CSV file as they are, with an eye on whether they end inside quotes: there the `csv` crate gives all that follows the quote as one
/// field and says nothing.
pub(super) struct Quotes<R> {
    source: R,
    delimiter: u8,
    place: Place,
    /// Bytes of a byte order mark so far.
    mark: usize,
    ended: bool,
}

/// Where the bytes so far end. A quote counts at the start of a field only, and a doubled one stands for itself.
#[derive(Clone, Copy)]
enum Place {
    Start,
    Plain,
    Quoted,
    /// After a quote that closes the field, unless another follows.
    Closed,
}

impl<R> Quotes<R> {
    pub fn new(source: R, delimiter: u8) -> Quotes<R> {
        Quotes { source, delimiter, place: Place::Start, mark: 0, ended: false }
    }

    /// Whether the file has ended inside quotes.
    pub fn is_left_open(&self) -> bool {
        self.ended && matches!(self.place, Place::Quoted)
    }

    fn take(&mut self, byte: u8) {
        // A mark is no part of the first field.
        if self.mark < 3 {
            self.mark = if b"\xef\xbb\xbf"[self.mark] == byte { self.mark + 1 } else { 4 };
            if self.mark < 4 {
                return;
            }
        }
        self.place = match (self.place, byte) {
            (Place::Quoted, b'"') => Place::Closed,
            (Place::Quoted, _) => Place::Quoted,
            (Place::Start, b'"') | (Place::Closed, b'"') => Place::Quoted,
            (_, b'\n' | b'\r') => Place::Start,
            (_, b) if b == self.delimiter => Place::Start,
            _ => Place::Plain,
        };
    }
}

impl<R: Read> Read for Quotes<R> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let n = self.source.read(bytes)?;
        self.ended |= n == 0 && !bytes.is_empty();
        bytes[..n].iter().for_each(|&b| self.take(b));
        Ok(n)
    }
}

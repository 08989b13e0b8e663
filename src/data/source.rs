//! Files to read from, unpacked on the way where they are gzip.

use crate::{Error, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// A file's bytes; those of a gzip file (by its first two bytes) unpacked.
pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(path).map_err(|e| Error::io(path, e))?);
    let start = file.fill_buf().map_err(|e| Error::io(path, e))?;
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(BufReader::with_capacity(1 << 16, flate2::bufread::MultiGzDecoder::new(file)))
    } else {
        Box::new(file)
    })
}

/// The error of a read: what the system says is `Io`, what an unpacker says is `Format`.
pub(super) fn failed(path: impl AsRef<Path>, e: std::io::Error) -> Error {
    use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    match e.kind() {
        InvalidData | InvalidInput | UnexpectedEof => Error::format(path, format!("not a whole gzip file: {e}")),
        _ => Error::io(path, e),
    }
}

/// Reads up to `limit` bytes. Memory grows with what is there, not with what a header promises.
pub(super) fn read_up_to(path: &Path, source: &mut dyn BufRead, limit: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(limit as u64).read_to_end(&mut bytes).map_err(|e| failed(path, e))?;
    Ok(bytes)
}

//! NumPy's files: `.npy`, one array, and `.npz`, several in a zip archive.
//!
//! The formats are those of NumPy's documentation of `numpy.lib.format` and of PKWARE's APPNOTE (zip without encryption, stored or deflated).

use super::StateDict;
use super::safetensors::{Temporary, replaceable, sync_folder};
use crate::backend::Storage;
use crate::backend::cpu::memory::CpuBuffer;
use crate::graph::Node;
use crate::graph::op::Meta;
use crate::{DType, Device, Error, Result, Shape, Tensor};
use memmap2::Mmap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Loads the array of a `.npy` file, on the CPU. Arrays of our dtypes in C order are views of the mapped file, so that a data set larger than
/// memory can be read row by row; the file must not be changed in place while they live. 8- and 16-bit integers become i32, arrays in
/// Fortran order and of the other byte order are copied.
///
/// # Errors
/// `Error::Io` where the file cannot be opened or mapped; `Error::Format` where it is no `.npy` file, its dtype is none that we have, or it is
/// longer or shorter than its header says.
///
/// ```
/// use fornax::{Device, Tensor, io::npy};
/// let path = std::env::temp_dir().join(format!("fornax-doc-{}.npy", std::process::id()));
/// npy::save(&path, &Tensor::arange(0, 6, 1, Device::cpu()).reshape([2, 3]))?;
/// assert_eq!(npy::load(&path)?.dims(), [2, 3]);
/// # std::fs::remove_file(&path).ok();
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn load(path: impl AsRef<Path>) -> Result<Tensor> {
    let path = path.as_ref();
    let map = map(path)?;
    let header = parse(&map).map_err(|m| Error::format(path, m))?;
    let range = header.data..map.len();
    let aligned = !range.is_empty() && (map[range.clone()].as_ptr() as usize).is_multiple_of(header.kind.size());
    match header.kind.native() {
        Some(dtype) if aligned && header.little && !header.fortran && dtype != DType::Bool => {
            let buffer = CpuBuffer::from_map(Arc::new(map), range);
            Ok(Node::leaf(Device::cpu(), Meta::new(dtype, Shape::from(&header.shape[..])), Arc::new(Storage::Cpu(buffer)), false))
        }
        _ => header.tensor(&map[range]).map_err(|e| located(path, "", e)),
    }
}

/// Saves a tensor as a `.npy` file. A kill leaves the old file or the new one.
///
/// # Errors
/// `Error::DType` for bf16, which NumPy does not have; `Error::Io` for the file; what evaluating and reading the tensor can give.
pub fn save(path: impl AsRef<Path>, tensor: &Tensor) -> Result<()> {
    let (path, head) = (path.as_ref(), header(tensor)?);
    replace(path, |out| {
        out.write_all(&head).map_err(|e| Error::io(path, e))?;
        tensor.with_bytes(|bytes| out.write_all(bytes))?.map_err(|e| Error::io(path, e))
    })
}

/// Loads the arrays of a `.npz` archive (`numpy.savez`, `numpy.savez_compressed`), by their names without `.npy`.
///
/// # Errors
/// As [`load`], for the archive and for each array in it.
pub fn load_npz(path: impl AsRef<Path>) -> Result<StateDict> {
    let path = path.as_ref();
    let map = map(path)?;
    let mut dict = StateDict::new();
    for entry in entries(&map).map_err(|m| Error::format(path, m))? {
        let wrong = |m: String| Error::format(path, format!("array {:?}: {m}", entry.name));
        let bytes = entry.unpack(&map).map_err(wrong)?;
        let header = parse(&bytes).map_err(wrong)?;
        let tensor = header.tensor(&bytes[header.data..]).map_err(|e| located(path, &entry.name, e))?;
        if dict.insert(entry.name.clone(), tensor).is_some() {
            return Err(wrong("there are two of this name".into()));
        }
    }
    Ok(dict)
}

/// Saves tensors as a `.npz` archive, not compressed, as `numpy.savez` does.
///
/// # Errors
/// As [`save`]; `Error::Argument` where the archive would be larger than 4 GiB, which plain zip cannot say: use safetensors.
///
/// ```
/// use fornax::{Device, Tensor, io::StateDict, io::npy};
/// let path = std::env::temp_dir().join(format!("fornax-doc-{}.npz", std::process::id()));
/// let x = Tensor::from_slice(&[1.0f32, 2.0], 2, Device::cpu())?;
/// npy::save_npz(&path, &StateDict::from([("x".to_string(), x)]))?;
/// assert_eq!(npy::load_npz(&path)?["x"].to_vec::<f32>()?, [1.0, 2.0]);
/// # std::fs::remove_file(&path).ok();
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn save_npz(path: impl AsRef<Path>, tensors: &StateDict) -> Result<()> {
    let path = path.as_ref();
    let io = |e| Error::io(path, e);
    let total: usize = tensors.iter().map(|(name, t)| t.numel() * t.dtype().size() + 2 * name.len() + 1024).sum();
    if total > u32::MAX as usize || tensors.len() > usize::from(u16::MAX) || tensors.keys().any(|k| k.len() > 1 << 15) {
        return Err(Error::argument("save_npz", "more than 4 GiB, or than 65535 arrays: use io::safetensors"));
    }
    replace(path, |out| {
        let (mut directory, mut at) = (Vec::new(), 0usize);
        for (name, tensor) in tensors {
            let head = header(tensor)?;
            let mut crc = flate2::Crc::new();
            crc.update(&head);
            let size = tensor.with_bytes(|bytes| (crc.update(bytes), bytes.len()).1)? + head.len();
            let file = format!("{name}.npy");
            // Version 2.0, names in UTF-8, stored, midnight of 1980-01-01: the same tensors give the same file.
            let mut fields = vec![20, 0, 0, 8, 0, 0, 0, 0, 33, 0];
            fields.extend(crc.sum().to_le_bytes());
            fields.extend((size as u32).to_le_bytes());
            fields.extend((size as u32).to_le_bytes());
            fields.extend((file.len() as u16).to_le_bytes());
            fields.extend([0, 0]);
            out.write_all(b"PK\x03\x04").and_then(|_| out.write_all(&fields)).map_err(io)?;
            out.write_all(file.as_bytes()).and_then(|_| out.write_all(&head)).map_err(io)?;
            tensor.with_bytes(|bytes| out.write_all(bytes))?.map_err(io)?;
            directory.extend(b"PK\x01\x02\x14\x00");
            directory.extend(&fields);
            directory.extend([0; 10]);
            directory.extend((at as u32).to_le_bytes());
            directory.extend(file.as_bytes());
            at += 30 + file.len() + size;
        }
        let count = (tensors.len() as u16).to_le_bytes();
        let mut end = b"PK\x05\x06\0\0\0\0".to_vec();
        end.extend([count, count].concat());
        end.extend((directory.len() as u32).to_le_bytes());
        end.extend((at as u32).to_le_bytes());
        end.extend([0, 0]);
        out.write_all(&directory).and_then(|_| out.write_all(&end)).map_err(io)
    })
}

/// Writes a new file and puts it in the place of the old.
fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let io = |e| Error::io(path, e);
    let target = &replaceable(path)?;
    let temporary = Temporary::beside(target);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&temporary.0).map_err(io)?);
    write(&mut out)?;
    let file = out.into_inner().map_err(|e| io(e.into_error()))?;
    file.sync_all().map_err(io)?;
    drop(file);
    std::fs::rename(&temporary.0, target).map_err(io)?;
    sync_folder(target);
    Ok(())
}

fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    if file.metadata().map_err(|e| Error::io(path, e))?.len() == 0 {
        return Err(Error::format(path, "the file is empty"));
    }
    // SAFETY: the map is only read. That nobody changes the file in place is the caller's part of the contract.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))
}

/// An error of the content, with the file's name; one of memory stays what it is.
fn located(path: &Path, array: &str, e: Error) -> Error {
    match e {
        Error::Format { message, .. } if array.is_empty() => Error::format(path, message),
        Error::Format { message, .. } => Error::format(path, format!("array {array:?}: {message}")),
        other => other,
    }
}

/// A dtype of NumPy's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Native(DType),
    I8,
    I16,
    U16,
    U64,
}

impl Kind {
    fn native(self) -> Option<DType> {
        match self {
            Kind::Native(dtype) => Some(dtype),
            _ => None,
        }
    }

    fn size(self) -> usize {
        match self {
            Kind::Native(dtype) => dtype.size(),
            Kind::I8 => 1,
            Kind::I16 | Kind::U16 => 2,
            Kind::U64 => 8,
        }
    }
}

/// What stands before an array's data.
struct Header {
    kind: Kind,
    little: bool,
    fortran: bool,
    shape: Vec<usize>,
    /// Where the data starts.
    data: usize,
}

/// Reads the header, and checks that the data are as long as it says.
fn parse(bytes: &[u8]) -> Result<Header, String> {
    let Some(rest) = bytes.strip_prefix(b"\x93NUMPY") else { return Err("not a .npy file: it must start with \\x93NUMPY".into()) };
    let (start, length) = match *rest {
        [1, _, a, b, ..] => (10, usize::from(u16::from_le_bytes([a, b]))),
        [2 | 3, _, a, b, c, d, ..] => (12, u32::from_le_bytes([a, b, c, d]) as usize),
        [version, ..] => return Err(format!("version {version} of the format is unknown (there are 1, 2, 3)")),
        [] => return Err("the file ends in its header".into()),
    };
    let data = start + length;
    let text = bytes.get(start..data).ok_or_else(|| format!("the header has {length} bytes, more than the file"))?;
    let text = std::str::from_utf8(text).map_err(|_| "the header is not text".to_string())?;
    let field = |name: &str| {
        let after = text.split_once(&format!("'{name}':")).ok_or_else(|| format!("the header has no {name:?}"))?.1;
        Ok::<&str, String>(after.trim_start())
    };
    let descr = field("descr")?.strip_prefix('\'').and_then(|t| t.split_once('\'')).ok_or("records of several fields cannot be tensors")?.0;
    let kind = match descr.get(1..).unwrap_or_default() {
        "b1" => Kind::Native(DType::Bool),
        "u1" => Kind::Native(DType::U8),
        "i4" => Kind::Native(DType::I32),
        "u4" => Kind::Native(DType::U32),
        "i8" => Kind::Native(DType::I64),
        "f2" => Kind::Native(DType::F16),
        "f4" => Kind::Native(DType::F32),
        "f8" => Kind::Native(DType::F64),
        "i1" => Kind::I8,
        "i2" => Kind::I16,
        "u2" => Kind::U16,
        "u8" => Kind::U64,
        _ => return Err(format!("dtype {descr:?}: there are bool, integers, and floats of 16, 32 and 64 bits")),
    };
    let little = match descr.as_bytes()[0] {
        b'<' | b'|' | b'=' => true,
        b'>' => false,
        other => return Err(format!("byte order {:?} of dtype {descr:?} is unknown", char::from(other))),
    };
    let fortran = match field("fortran_order")? {
        t if t.starts_with("True") => true,
        t if t.starts_with("False") => false,
        _ => return Err("fortran_order is neither True nor False".into()),
    };
    let shape = field("shape")?.strip_prefix('(').and_then(|t| t.split_once(')')).ok_or("the shape is no tuple")?.0;
    let sizes = shape.split(',').map(str::trim).filter(|s| !s.is_empty());
    let shape: Vec<usize> = sizes.map(|s| s.parse().map_err(|_| format!("{s:?} in the shape is no size"))).collect::<Result<_, _>>()?;
    let wanted = shape.iter().try_fold(kind.size(), |n: usize, &d| n.checked_mul(d)).filter(|&n| n < isize::MAX as usize);
    let wanted = wanted.ok_or_else(|| format!("shape {shape:?} is more than a file can hold"))?;
    if bytes.len() - data != wanted {
        return Err(format!("{} bytes of data, and shape {shape:?} of {descr:?} needs {wanted}", bytes.len() - data));
    }
    Ok(Header { kind, little, fortran, shape, data })
}

impl Header {
    /// The array as a tensor of its own. `data` is as long as the header says.
    fn tensor(&self, data: &[u8]) -> Result<Tensor> {
        let swapped: Vec<u8>;
        let data = if self.little || self.kind.size() == 1 {
            data
        } else {
            swapped = data.chunks_exact(self.kind.size()).flat_map(|b| b.iter().rev().copied()).collect();
            &swapped
        };
        let mut dims = self.shape.clone();
        if self.fortran {
            dims.reverse();
        }
        let (shape, cpu) = (Shape::from(&dims[..]), Device::cpu());
        // A size of 0 hides what the others multiply to.
        shape.checked_numel()?;
        let wide = |f: &dyn Fn(&[u8]) -> i32| Tensor::from_vec(data.chunks_exact(self.kind.size()).map(f).collect(), shape.clone(), cpu);
        let tensor = match self.kind {
            Kind::Native(DType::Bool) if data.iter().any(|&b| b > 1) => {
                return Err(Error::format("", "bytes of a bool other than 0 and 1"));
            }
            Kind::Native(dtype) => Tensor::from_bytes(data, dtype, shape, cpu)?,
            Kind::I8 => wide(&|b| i32::from(b[0] as i8))?,
            Kind::I16 => wide(&|b| i32::from(i16::from_le_bytes([b[0], b[1]])))?,
            Kind::U16 => wide(&|b| i32::from(u16::from_le_bytes([b[0], b[1]])))?,
            Kind::U64 => {
                let whole =
                    data.chunks_exact(8).map(|b| i64::try_from(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])));
                let whole: Vec<i64> = whole.collect::<Result<_, _>>().map_err(|_| Error::format("", "a number is too large for i64"))?;
                Tensor::from_vec(whole, shape, cpu)?
            }
        };
        if !self.fortran {
            return Ok(tensor);
        }
        let axes: Vec<isize> = (0..dims.len() as isize).rev().collect();
        tensor.try_permute(&axes)?.try_contiguous()
    }
}

/// The header of a tensor's array, padded so that the data lie at a multiple of 64.
fn header(tensor: &Tensor) -> Result<Vec<u8>> {
    let descr = match tensor.dtype() {
        DType::Bool => "|b1",
        DType::U8 => "|u1",
        DType::I32 => "<i4",
        DType::U32 => "<u4",
        DType::I64 => "<i8",
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::BF16 => return Err(Error::dtype("npy", &[DType::BF16], "a dtype that NumPy has: cast to f32, or use io::safetensors")),
    };
    let mut shape = tensor.dims().iter().map(|d| d.to_string()).collect::<Vec<_>>().join(", ");
    if tensor.dims().len() == 1 {
        shape.push(',');
    }
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
    let mut head = b"\x93NUMPY\x01\x00".to_vec();
    let short = u16::try_from(length).map_err(|_| Error::shape("npy", &[tensor.shape()], "a rank whose header fits 64 KiB"))?;
    head.extend(short.to_le_bytes());
    head.extend(format!("{text:<width$}\n", width = length - 1).as_bytes());
    Ok(head)
}

/// A file in an archive.
struct Entry {
    /// Its name without `.npy`.
    name: String,
    deflated: bool,
    crc: u32,
    size: usize,
    /// Where its bytes are, and where its own header before them begins.
    range: Range<usize>,
    local: usize,
}

fn short(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?)))
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?) as usize)
}

/// The archive's files, from its directory.
fn entries(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    // The end record is the last thing, before a comment of at most 65535 bytes.
    let first = bytes.len().saturating_sub(22 + 65535);
    let end = (first..(bytes.len() + 1).saturating_sub(22)).rev().find(|&i| bytes[i..].starts_with(b"PK\x05\x06"));
    let end = end.ok_or("not a zip archive: it has no end record")?;
    let cut = || "the archive's directory is cut off".to_string();
    let count = short(bytes, end + 10).ok_or_else(cut)?;
    let mut at = word(bytes, end + 16).ok_or_else(cut)?;
    let mut all = Vec::new();
    for _ in 0..count {
        let entry = (|| {
            let fixed = bytes.get(at..at.checked_add(46)?)?;
            let (name, extra, comment) = (short(fixed, 28)?, short(fixed, 30)?, short(fixed, 32)?);
            let named = bytes.get(at + 46..at + 46 + name)?;
            let extra = bytes.get(at + 46 + name..at + 46 + name + extra)?;
            Some((fixed, named, extra, 46 + name + extra.len() + comment))
        })();
        let (fixed, name, extra, length) = entry.filter(|e| e.0.starts_with(b"PK\x01\x02")).ok_or_else(cut)?;
        let name = std::str::from_utf8(name).map_err(|_| "the name of an array is not UTF-8")?;
        let wrong = |what: &str| format!("array {name:?}: {what}");
        let field = |i: usize| word(fixed, i).ok_or_else(cut);
        let (mut packed, mut size, mut local) = (field(20)?, field(24)?, field(42)?);
        let mut large = wide_fields(extra);
        for value in [&mut size, &mut packed, &mut local] {
            if *value == u32::MAX as usize {
                *value = large.next().ok_or_else(|| wrong("its size is not in the archive"))?;
            }
        }
        let method = short(fixed, 10).ok_or_else(cut)?;
        if short(fixed, 8).ok_or_else(cut)? & 1 != 0 || ![0, 8].contains(&method) {
            return Err(wrong("encrypted, or packed by another method than deflate"));
        }
        let data = local.checked_add(30).and_then(|data| data.checked_add(short(bytes, data - 4)?)?.checked_add(short(bytes, data - 2)?));
        let range = data.and_then(|data| Some(data..data.checked_add(packed)?)).filter(|r| r.end <= bytes.len());
        let range = range.ok_or_else(|| wrong("it lies outside the file"))?;
        let crc = field(16)? as u32;
        all.push(Entry { name: name.strip_suffix(".npy").unwrap_or(name).into(), deflated: method == 8, crc, size, range, local });
        at += length;
    }
    // Files that share their bytes unpack to any multiple of the archive's size.
    let mut sorted: Vec<&Entry> = all.iter().collect();
    sorted.sort_by_key(|e| e.local);
    if let Some(pair) = sorted.windows(2).find(|pair| pair[1].local < pair[0].range.end) {
        return Err(format!("arrays {:?} and {:?} lie in the same bytes", pair[0].name, pair[1].name));
    }
    Ok(all)
}

/// The 64-bit numbers of a directory entry's extra field, in their order.
fn wide_fields(mut extra: &[u8]) -> impl Iterator<Item = usize> {
    let mut found: &[u8] = &[];
    while let (Some(id), Some(length)) = (short(extra, 0), short(extra, 2)) {
        let Some(body) = extra.get(4..4 + length) else { break };
        if id == 1 {
            found = body;
        }
        extra = &extra[4 + length..];
    }
    let numbers: Vec<usize> = found
        .chunks_exact(8)
        .filter_map(|b| usize::try_from(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])).ok())
        .collect();
    numbers.into_iter()
}

impl Entry {
    /// The bytes of the file in the archive. Memory grows with what unpacking gives, not with what the directory promises.
    fn unpack(&self, archive: &[u8]) -> Result<Vec<u8>, String> {
        let packed = &archive[self.range.clone()];
        let mut bytes = Vec::new();
        if self.deflated {
            let limit = (self.size as u64).saturating_add(1);
            let mut unpacked = flate2::read::DeflateDecoder::new(packed).take(limit);
            unpacked.read_to_end(&mut bytes).map_err(|e| format!("it cannot be unpacked: {e}"))?;
        } else {
            bytes.extend_from_slice(packed);
        }
        let mut crc = flate2::Crc::new();
        crc.update(&bytes);
        if bytes.len() != self.size || crc.sum() != self.crc {
            return Err(format!(
                "{} bytes with checksum {:08x}, and the archive says {} with {:08x}",
                bytes.len(),
                crc.sum(),
                self.size,
                self.crc
            ));
        }
        Ok(bytes)
    }
}

//! Safetensors files: named tensors behind a JSON header.
//!
//! Reading maps the file into memory, so that a tensor costs nothing before it is used; writing goes to a new file in the same folder, which
//! is synced and then takes the old one's place, so that a kill at any moment leaves the old file or the new one.

use super::StateDict;
use crate::backend::Storage;
use crate::backend::cpu::memory::CpuBuffer;
use crate::graph::Node;
use crate::graph::op::Meta;
use crate::{DType, Device, Error, Result, Shape, Tensor};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether a tensor of floats holds numbers alone.
pub(crate) fn is_finite(t: &Tensor) -> Result<bool> {
    // x - x is 0 for every number, and NaN for infinities and NaN.
    Ok(!crate::no_grad(|| t.try_sub(t)?.try_isnan()?.try_any(()))?.item::<bool>()?)
}

/// Refuses a file's tensor of floats that holds anything else.
pub(crate) fn check_finite(file: &Path, name: &str, t: &Tensor) -> Result<()> {
    if !t.dtype().is_float() || is_finite(t)? {
        return Ok(());
    }
    let message = format!("{name} holds NaN or infinite numbers: the file is damaged, or was saved after a training that diverged");
    Err(Error::format(file, message))
}

/// Loads all tensors of a file, on the CPU. They are views of the mapped file; those that do not lie at a multiple of their
/// element's size are copied. The file must not be changed in place while they live (saving through [`save`] is no such change).
///
/// # Errors
/// `Error::Io` where the file cannot be opened or mapped; `Error::Format` where its header, its offsets, a shape or a value is invalid, or
/// a dtype is none of ours (`bool`, `u8`, `i32`, `u32`, `i64`, `f16`, `bf16`, `f32`, `f64`) and not `i8`, which comes as the same bytes in `u8` (255 is −1), as
/// quantised weights are kept here.
///
/// ```
/// use fornax::{Device, Tensor, io::safetensors, io::StateDict};
/// let path = std::env::temp_dir().join(format!("fornax-doc-{}.safetensors", std::process::id()));
/// let x = Tensor::from_slice(&[1.0f32, 2.0], 2, Device::cpu())?;
/// safetensors::save(&path, &StateDict::from([("x".to_string(), x)]))?;
/// assert_eq!(safetensors::load(&path)?["x"].to_vec::<f32>()?, [1.0, 2.0]);
/// # std::fs::remove_file(&path).ok();
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn load(path: impl AsRef<Path>) -> Result<StateDict> {
    let path = path.as_ref();
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    if file.metadata().map_err(|e| Error::io(path, e))?.len() < 8 {
        return Err(Error::format(path, "too short for a safetensors file"));
    }
    // SAFETY: the map is only read. That nobody changes the file in place is the caller's part of the contract.
    let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?);
    // This checks that the header lies in the file, and that the tensors' ranges follow each other, are as long as shape and
    // dtype demand, and fill the file.
    let wrong =
        |e: safetensors::SafeTensorError| Error::format(path, format!("no whole safetensors file ({e}): cut off, or of another format?"));
    let (header, metadata) = SafeTensors::read_metadata(&map).map_err(wrong)?;
    // The parser keeps the last of several tensors of one name.
    let names = map.get(8..8 + header).map_or(0, count_names);
    if names != metadata.tensors().len() {
        return Err(Error::format(path, format!("{names} tensors under {} names: each name may stand once", metadata.tensors().len())));
    }
    let mut dict = StateDict::new();
    for (name, info) in metadata.tensors() {
        let Some(dtype) = dtype(info.dtype) else {
            return Err(Error::format(path, format!("tensor {name:?} has the dtype {:?}, which fornax does not have", info.dtype)));
        };
        let shape = Shape::from(&info.shape[..]);
        shape.checked_numel().map_err(|e| Error::format(path, format!("tensor {name:?}: {e}")))?;
        let range = 8 + header + info.data_offsets.0..8 + header + info.data_offsets.1;
        let Some(bytes) = map.get(range.clone()) else {
            return Err(Error::format(path, format!("tensor {name:?} lies outside the file")));
        };
        if dtype == DType::Bool && bytes.iter().any(|&b| b > 1) {
            return Err(Error::format(path, format!("tensor {name:?} is of dtype bool and holds bytes other than 0 and 1")));
        }
        let aligned = !bytes.is_empty() && (bytes.as_ptr() as usize).is_multiple_of(dtype.size());
        let buffer = if aligned { CpuBuffer::from_map(map.clone(), range) } else { CpuBuffer::from_bytes(bytes)? };
        let tensor = Node::leaf(Device::cpu(), Meta::new(dtype, shape), Arc::new(Storage::Cpu(buffer)), false);
        dict.insert(name, tensor);
    }
    Ok(dict)
}

/// The number of keys of a JSON object, each time that one stands there, but for `__metadata__`.
fn count_names(json: &[u8]) -> usize {
    let (mut depth, mut count) = (0u32, 0);
    let (mut start, mut key): (Option<usize>, &[u8]) = (None, b"");
    let mut escaped = false;
    for (i, &c) in json.iter().enumerate() {
        match (start, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(from), b'"') => (start, key) = (None, &json[from..i]),
            (Some(_), _) => {}
            (None, b'"') => start = Some(i + 1),
            (None, b'{' | b'[') => depth += 1,
            (None, b'}' | b']') => depth = depth.saturating_sub(1),
            (None, b':') if depth == 1 && key != b"__metadata__" => count += 1,
            _ => {}
        }
    }
    count
}

/// Saves tensors. They are written one by one: there is no second copy of all of them.
///
/// # Errors
/// `Error::Io` for the file (which then keeps its old content), or what evaluating and reading the tensors can give.
///
/// ```
/// use fornax::{Device, Tensor, io::safetensors, io::StateDict};
/// let path = std::env::temp_dir().join(format!("fornax-save-{}.safetensors", std::process::id()));
/// safetensors::save(&path, &StateDict::from([("w".to_string(), Tensor::zeros([2, 3], Device::cpu()))]))?;
/// assert_eq!(safetensors::load(&path)?["w"].dims(), [2, 3]);
/// # std::fs::remove_file(&path).ok();
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn save(path: impl AsRef<Path>, tensors: &StateDict) -> Result<()> {
    save_as(path, tensors, &Header::default())
}

/// What a file's header says beside the names, shapes and dtypes of the tensors.
///
/// ```
/// use fornax::io::safetensors::Header;
/// // What transformers and PEFT want to see.
/// let header = Header::pt();
/// assert_eq!(header.metadata["format"], "pt");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// The `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// The names of u8 tensors whose bytes are signed (`i8`).
    pub signed: BTreeSet<String>,
}

impl Header {
    /// With the metadata `{"format": "pt"}`.
    pub fn pt() -> Header {
        Header { metadata: [("format".to_string(), "pt".to_string())].into(), signed: BTreeSet::new() }
    }
}

/// As [`save`], with more in the header.
///
/// # Errors
/// As [`save`]; a `signed` name that is not that of a u8 tensor.
///
/// ```
/// use fornax::io::{StateDict, safetensors};
/// use fornax::{Device, Tensor};
/// let path = std::env::temp_dir().join(format!("fornax-as-{}.safetensors", std::process::id()));
/// let header = safetensors::Header { signed: ["w".to_string()].into(), ..safetensors::Header::pt() };
/// safetensors::save_as(&path, &StateDict::from([("w".to_string(), Tensor::from_slice(&[255u8], 1, Device::cpu())?)]), &header)?;
/// assert!(String::from_utf8_lossy(&std::fs::read(&path).unwrap()).contains("\"I8\""));
/// # std::fs::remove_file(&path).ok();
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn save_as(path: impl AsRef<Path>, tensors: &StateDict, header: &Header) -> Result<()> {
    let path = path.as_ref();
    if let Some(name) = header.signed.iter().find(|n| tensors.get(*n).is_none_or(|t| t.dtype() != DType::U8)) {
        return Err(Error::argument("save", format!("{name} cannot be saved as i8: it is none of the u8 tensors")));
    }
    let target = &replaceable(path)?;
    let temporary = Temporary::beside(target);
    write_as(&temporary.0, path, tensors, header)?;
    std::fs::rename(&temporary.0, target).map_err(|e| Error::io(path, e))?;
    sync_folder(target);
    Ok(())
}

/// Writes a new file, tensor by tensor, and syncs it; says how long it is. Errors name `named`.
pub(crate) fn write(file: &Path, named: &Path, tensors: &StateDict) -> Result<u64> {
    write_as(file, named, tensors, &Header::default())
}

fn write_as(file: &Path, named: &Path, tensors: &StateDict, more: &Header) -> Result<u64> {
    if tensors.contains_key("__metadata__") {
        return Err(Error::argument("save", "a tensor cannot be called __metadata__: the format keeps that name for itself"));
    }
    let all: Vec<&Tensor> = tensors.values().collect();
    crate::eval(&all)?;
    let io = |e| Error::io(named, e);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(file).map_err(io)?);
    // The largest elements first: then every tensor is aligned.
    let mut order: Vec<(&String, &Tensor)> = tensors.iter().collect();
    order.sort_by_key(|(_, t)| std::cmp::Reverse(t.dtype().size()));
    let header = header(&order, more);
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    out.write_all(header.as_bytes()).map_err(io)?;
    for (name, t) in order {
        let t = t.try_to(Device::cpu())?.try_contiguous()?;
        t.eval()?;
        let storage = t.storage();
        let Some(Storage::Cpu(buffer)) = storage.as_deref() else {
            return Err(Error::argument("save", format!("{name} has no value")));
        };
        let start = t.layout().offset * t.dtype().size();
        // SAFETY: a tensor's buffer is not written while a handle lives.
        let bytes = unsafe { buffer.slice::<u8>() }.get(start..start + t.numel() * t.dtype().size()).unwrap_or_default();
        out.write_all(bytes).map_err(io)?;
    }
    let file = out.into_inner().map_err(|e| io(e.into_error()))?;
    file.sync_all().map_err(io)?;
    Ok(file.metadata().map_err(io)?.len())
}

/// The JSON header, padded to a multiple of eight.
fn header(order: &[(&String, &Tensor)], more: &Header) -> String {
    let mut json = String::from("{");
    if !more.metadata.is_empty() {
        let pairs: Vec<String> = more.metadata.iter().map(|(k, v)| format!("{}:{}", quoted(k), quoted(v))).collect();
        json += &format!("\"__metadata__\":{{{}}}", pairs.join(","));
        json += if order.is_empty() { "" } else { "," };
    }
    let mut at = 0;
    for (i, (name, t)) in order.iter().enumerate() {
        let end = at + t.numel() * t.dtype().size();
        json += if i > 0 { "," } else { "" };
        json += &format!(
            "{}:{{\"dtype\":\"{}\",\"shape\":[",
            quoted(name),
            if more.signed.contains(*name) { "I8".into() } else { dtype_name(t.dtype()) }
        );
        json += &t.dims().iter().map(|d| d.to_string()).collect::<Vec<_>>().join(",");
        json += &format!("],\"data_offsets\":[{at},{end}]}}");
        at = end;
    }
    json.push('}');
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));
    json
}

/// A JSON string.
fn quoted(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if (c as u32) < 0x20 => out += &format!("\\u{:04x}", c as u32),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn dtype(d: Dtype) -> Option<DType> {
    Some(match d {
        Dtype::BOOL => DType::Bool,
        // The same bits.
        Dtype::U8 | Dtype::I8 => DType::U8,
        Dtype::I32 => DType::I32,
        Dtype::U32 => DType::U32,
        Dtype::I64 => DType::I64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        _ => return None,
    })
}

/// The name of a dtype in a header.
fn dtype_name(d: DType) -> String {
    d.name().to_uppercase()
}

/// The file that a new one may take the place of: behind links the one that they name, and nothing but a file (or nothing yet).
pub(super) fn replaceable(path: &Path) -> Result<PathBuf> {
    let target = match path.symlink_metadata() {
        // (Of a link that leads nowhere, the link itself.)
        Ok(m) if m.is_symlink() => path.canonicalize().unwrap_or_else(|_| path.to_path_buf()),
        _ => path.to_path_buf(),
    };
    match target.metadata() {
        Ok(m) if !m.is_file() => {
            let message = "there is something that is no file: a save writes a new file beside the old one, which it then replaces";
            Err(Error::io(path, std::io::Error::new(std::io::ErrorKind::InvalidInput, message)))
        }
        _ => Ok(target),
    }
}

/// A file that goes away unless it was renamed.
pub(super) struct Temporary(pub(super) PathBuf);

impl Temporary {
    pub(super) fn beside(path: &Path) -> Temporary {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        Temporary(path.with_file_name(name))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After the rename there is nothing under this name.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Makes a rename last through a power cut, where the system can sync folders.
pub(crate) fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(folder) = File::open(folder) {
        // Windows has no such call, and the file itself is already whole.
        let _ = folder.sync_all();
    }
}

//! The driver's compiled pipelines, kept on disk from one process to the next: where Vulkan offers it, a second start compiles nothing.
//!
//! The file lies in `FORNAX_CACHE` (`0`: none is kept), else in the user's folder for caches. It is read when the GPU is opened, written when the
//! process ends in the ordinary way and has built something, and forgotten where it is damaged: it never decides what is computed.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a file begins with; then come a checksum and the driver's bytes.
const MAGIC: &[u8; 16] = b"fornax pipelines";
/// A file that has grown beyond this (old shaders stay in it) is begun anew.
const LARGEST: u64 = 256 << 20;

pub(super) struct DiskCache {
    pub cache: wgpu::PipelineCache,
    path: PathBuf,
    /// Whether something was built that the file may lack.
    changed: AtomicBool,
    /// One writer at a time.
    writing: Mutex<()>,
}

/// Where caches are kept: none if the user does not want any, or has no such folder.
fn folder(setting: Option<&str>) -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    match setting {
        Some("0") => None,
        Some(dir) if !dir.is_empty() => Some(dir.into()),
        _ if cfg!(windows) => from("LOCALAPPDATA").map(|d| d.join("fornax").join("cache")),
        _ => from("XDG_CACHE_HOME").or_else(|| Some(from("HOME")?.join(".cache"))).map(|d| d.join("fornax")),
    }
}

/// FNV-1a over 64 bits: against damage, not against malice.
fn checksum(data: &[u8]) -> [u8; 8] {
    data.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, &b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3)).to_le_bytes()
}

/// The driver's bytes of a file; `None` where there is none, or it is damaged.
fn load(path: &Path) -> Option<Vec<u8>> {
    let file = std::fs::File::open(path).ok()?;
    if file.metadata().ok()?.len() > LARGEST {
        return None;
    }
    let mut all = Vec::new();
    file.take(LARGEST).read_to_end(&mut all).ok()?;
    let (head, data) = (all.get(..24)?, all.get(24..)?);
    (head[..16] == MAGIC[..] && head[16..] == checksum(data)).then(|| data.to_vec())
}

/// Writes a file beside the old one, which it then replaces.
fn store(path: &Path, data: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = std::fs::File::create(&temporary).and_then(|mut f| {
        f.write_all(MAGIC)?;
        f.write_all(&checksum(data))?;
        f.write_all(data)
    });
    let moved = written.and_then(|()| std::fs::rename(&temporary, path));
    if moved.is_err() {
        // The first error is the one to tell of.
        drop(std::fs::remove_file(&temporary));
    }
    moved
}

impl DiskCache {
    /// The cache of a device; `None` where the device or the user wants none.
    pub fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo) -> Option<DiskCache> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let name = wgpu::util::pipeline_cache_key(info)?;
        let path = folder(std::env::var("FORNAX_CACHE").ok().as_deref())?.join(name);
        let data = load(&path);
        let desc = wgpu::PipelineCacheDescriptor { label: Some("fornax"), data: data.as_deref(), fallback: true };
        // SAFETY: the bytes are those that `get_data` gave to `store`, or the checksum would differ; wgpu and the driver compare adapter and version.
        let cache = unsafe { device.create_pipeline_cache(&desc) };
        Some(DiskCache { cache, path, changed: AtomicBool::new(false), writing: Mutex::new(()) })
    }

    /// Notes that a pipeline was built.
    pub fn built(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Writes the file, if something was built since it was last written. What cannot be written is only said: it costs time at the next start.
    pub fn save(&self) {
        let _one = self.writing.lock().unwrap_or_else(|e| e.into_inner());
        if !self.changed.swap(false, Ordering::Relaxed) {
            return;
        }
        let Some(data) = self.cache.get_data().filter(|d| !d.is_empty()) else { return };
        if let Err(e) = store(&self.path, &data) {
            eprintln!("fornax: the pipeline cache {} cannot be written ({e}); FORNAX_CACHE=0 keeps none", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a").join("cache");
        assert_eq!(load(&path), None);
        let data: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        store(&path, &data).unwrap();
        assert_eq!(load(&path).as_deref(), Some(&data[..]));
        store(&path, &data[..10]).unwrap();
        assert_eq!(load(&path).as_deref(), Some(&data[..10]), "the new one replaces the old one");
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 4;
            std::fs::write(&path, bad).unwrap();
            assert_eq!(load(&path), None, "byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(load(&path), None, "{at} bytes");
        }
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary is left");
    }

    #[test]
    fn the_user_says_where() {
        assert_eq!(folder(Some("0")), None);
        assert_eq!(folder(Some("here")), Some("here".into()));
    }
}

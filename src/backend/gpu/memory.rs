//! GPU memory: buffers by size class, kept for reuse.

use super::{Gpu, lock};
use crate::backend::cpu::memory::size_class;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Uploads past this are submitted, so that their staging memory can be reclaimed.
const UPLOAD_CHUNK: usize = 32 << 20;

/// A driver's buffer. The id is never reused: it stands for the buffer in the keys of bind groups.
pub(super) struct Raw {
    pub id: u64,
    pub buffer: wgpu::Buffer,
}

/// GPU memory; goes back to its device's pool when dropped.
pub(crate) struct GpuBuffer {
    raw: Option<Raw>,
    len: usize,
    capacity: u64,
    pool: Arc<Pool>,
}

/// Buffers that nobody holds, by capacity. Reuse needs no waiting: a queue runs its submits in order, and a buffer is dropped only after
/// the submit that uses it.
pub(super) struct Pool {
    free: Mutex<BTreeMap<u64, Vec<Raw>>>,
    limit: AtomicU64,
    next_id: AtomicU64,
    in_use: AtomicU64,
    peak: AtomicU64,
    pooled: AtomicU64,
    allocated: AtomicU64,
}

impl Pool {
    pub fn new(limit: u64) -> Pool {
        Pool {
            free: Mutex::default(),
            limit: AtomicU64::new(limit),
            next_id: AtomicU64::new(1),
            in_use: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            pooled: AtomicU64::new(0),
            allocated: AtomicU64::new(0),
        }
    }

    /// Bytes in use, their peak, bytes kept for reuse, bytes ever asked of the driver.
    pub fn usage(&self) -> (u64, u64, u64, u64) {
        let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
        (get(&self.in_use), get(&self.peak), get(&self.pooled), get(&self.allocated))
    }

    pub fn reset_peak(&self) {
        self.peak.store(self.in_use.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn take(&self, capacity: u64) -> Option<Raw> {
        let raw = lock(&self.free).get_mut(&capacity).and_then(Vec::pop)?;
        self.pooled.fetch_sub(capacity, Ordering::Relaxed);
        Some(raw)
    }

    fn give(&self, raw: Raw, capacity: u64) {
        self.pooled.fetch_add(capacity, Ordering::Relaxed);
        lock(&self.free).entry(capacity).or_default().push(raw);
    }

    fn drain(&self) {
        let free = std::mem::take(&mut *lock(&self.free));
        let bytes: u64 = free.iter().map(|(capacity, list)| capacity * list.len() as u64).sum();
        self.pooled.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl GpuBuffer {
    /// Its size in bytes as kernels see it: a multiple of 16, at least 16. The bytes past `len` are padding, which kernels may read and
    /// write.
    pub fn padded(&self) -> u64 {
        padded(self.len)
    }

    pub(super) fn id(&self) -> u64 {
        self.raw.as_ref().map_or(0, |r| r.id)
    }

    pub(super) fn raw(&self) -> &wgpu::Buffer {
        // It is taken out by `drop` alone.
        &self.raw.as_ref().expect("a live buffer").buffer
    }
}

impl std::fmt::Debug for GpuBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GpuBuffer({} bytes, #{})", self.len, self.id())
    }
}

impl Drop for GpuBuffer {
    fn drop(&mut self) {
        if let Some(raw) = self.raw.take() {
            self.pool.in_use.fetch_sub(self.capacity, Ordering::Relaxed);
            self.pool.give(raw, self.capacity);
        }
    }
}

fn padded(bytes: usize) -> u64 {
    (bytes.max(1) as u64).next_multiple_of(16)
}

impl Gpu {
    /// Memory with any content.
    ///
    /// # Errors
    /// `Error::OutOfMemory`, after the pool was emptied and the request tried again.
    pub fn alloc(&self, bytes: usize) -> Result<GpuBuffer> {
        self.alive()?;
        let out_of_memory = |message: String| Error::OutOfMemory { device: self.label(), bytes, message };
        if bytes as u64 > self.caps.max_buffer {
            return Err(out_of_memory(format!("one buffer holds at most {} bytes on this device", self.caps.max_buffer)));
        }
        let capacity = (size_class(padded(bytes) as usize) as u64).next_multiple_of(256).min(self.caps.max_buffer);
        let raw = match self.pool.take(capacity) {
            Some(raw) => raw,
            None => match self.create(capacity) {
                Ok(raw) => raw,
                Err(_) => {
                    self.trim();
                    self.alive()?;
                    self.create(capacity).map_err(out_of_memory)?
                }
            },
        };
        let now = self.pool.in_use.fetch_add(capacity, Ordering::Relaxed) + capacity;
        self.pool.peak.fetch_max(now, Ordering::Relaxed);
        Ok(GpuBuffer { raw: Some(raw), len: bytes, capacity, pool: self.pool.clone() })
    }

    /// A new buffer of the driver, or why there is none.
    fn create(&self, capacity: u64) -> Result<Raw, String> {
        let (in_use, _, pooled, _) = self.pool.usage();
        let limit = self.pool.limit.load(Ordering::Relaxed);
        if in_use + pooled + capacity > limit {
            return Err(format!("{in_use} bytes are in use, and the limit is {limit}"));
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let desc = wgpu::BufferDescriptor { label: None, size: capacity, usage, mapped_at_creation: false };
        match self.scoped(|| self.device.create_buffer(&desc)) {
            (buffer, None) => {
                self.pool.allocated.fetch_add(capacity, Ordering::Relaxed);
                Ok(Raw { id: self.pool.next_id.fetch_add(1, Ordering::Relaxed), buffer })
            }
            (_, Some(error)) => Err(format!("{error}; {in_use} bytes are in use")),
        }
    }

    /// Gives the pooled memory back to the driver.
    pub fn trim(&self) {
        self.submit_held();
        self.pool.drain();
        lock(&self.bind_groups).clear();
        self.staging.clear();
        // wgpu frees a buffer once the submits that use it have run.
        let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
    }

    /// The most that tensors may take, in bytes.
    #[cfg(test)]
    pub fn set_memory_limit(&self, bytes: u64) {
        self.pool.limit.store(bytes, Ordering::Relaxed);
    }

    /// Memory with these bytes.
    ///
    /// # Errors
    /// As [`alloc`](Gpu::alloc).
    pub fn upload(&self, bytes: &[u8]) -> Result<GpuBuffer> {
        let buffer = self.alloc(bytes.len())?;
        self.write(&buffer, bytes)?;
        Ok(buffer)
    }

    /// Fills a buffer that no kernel has been given yet. wgpu copies these bytes when the next submit *starts*: every earlier use of the
    /// buffer is in an earlier submit, because [`run`](Gpu::run) submits before it returns, or holds back what is submitted here first.
    fn write(&self, buffer: &GpuBuffer, bytes: &[u8]) -> Result<()> {
        self.submit_held();
        let whole = bytes.len() & !15;
        let mut at = 0;
        while at < bytes.len() {
            let end = (at + UPLOAD_CHUNK).min(if at < whole { whole } else { bytes.len() });
            let mut last = [0u8; 16];
            let piece = if at < whole {
                &bytes[at..end]
            } else {
                last[..end - at].copy_from_slice(&bytes[at..]);
                &last[..]
            };
            let ((), error) = self.scoped(|| self.queue.write_buffer(buffer.raw(), at as u64, piece));
            if let Some(error) = error {
                self.alive()?;
                return Err(Error::OutOfMemory { device: self.label(), bytes: piece.len(), message: format!("upload: {error}") });
            }
            let waiting = self.counters.unsubmitted.fetch_add(piece.len() as u64, Ordering::Relaxed) + piece.len() as u64;
            if waiting >= UPLOAD_CHUNK as u64 {
                self.submit(None);
            }
            at = end;
        }
        self.alive()
    }

    pub(super) fn submit(&self, commands: Option<wgpu::CommandBuffer>) -> wgpu::SubmissionIndex {
        self.counters.unsubmitted.store(0, Ordering::Relaxed);
        self.counters.submits.fetch_add(1, Ordering::Relaxed);
        let mut held = lock(&self.held);
        self.queue.submit(held.drain(..).chain(commands))
    }

    /// Submits commands that were held back for a read.
    pub(super) fn submit_held(&self) {
        if !lock(&self.held).is_empty() {
            self.submit(None);
        }
    }
}

//! CPU memory: a pool of aligned buffers that keeps its pages, because fresh memory costs ten times what reused memory costs.

use crate::{Error, Result};
use std::alloc::Layout as AllocLayout;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const ALIGN: usize = 64;
/// A huge page on most machines.
const HUGE: usize = 2 << 20;

/// Bytes of host memory, from the pool or borrowed from a memory map.
pub(crate) struct CpuBuffer {
    ptr: NonNull<u8>,
    len: usize,
    capacity: usize,
    map: Option<std::sync::Arc<memmap2::Mmap>>,
    /// A window on another buffer.
    borrowed: bool,
}

// SAFETY: the bytes are plain memory; the graph's executor orders the accesses.
unsafe impl Send for CpuBuffer {}
unsafe impl Sync for CpuBuffer {}

static POOL: Mutex<BTreeMap<usize, Vec<usize>>> = Mutex::new(BTreeMap::new());
static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static POOLED: AtomicUsize = AtomicUsize::new(0);
/// The most that live buffers ever held.
static HIGH: AtomicUsize = AtomicUsize::new(0);

/// The pool keeps at most this many times what was ever in use at once, so that inputs of ever new sizes do not fill the memory.
const KEPT: usize = 4;

/// Bytes that live buffers hold now, the most that they ever held since [`reset_peak`], and bytes kept for reuse.
pub(crate) fn usage() -> (usize, usize, usize) {
    (IN_USE.load(Ordering::Relaxed), PEAK.load(Ordering::Relaxed), POOLED.load(Ordering::Relaxed))
}

/// Starts a new measurement of the peak.
pub(crate) fn reset_peak() {
    PEAK.store(IN_USE.load(Ordering::Relaxed), Ordering::Relaxed);
}

/// Gives the pooled pages back to the system.
pub(crate) fn trim() {
    let classes = std::mem::take(&mut *POOL.lock().unwrap_or_else(|e| e.into_inner()));
    for (capacity, list) in classes {
        for p in list {
            POOLED.fetch_sub(capacity, Ordering::Relaxed);
            // SAFETY: the pool owns it, allocated with this layout.
            unsafe { std::alloc::dealloc(p as *mut u8, AllocLayout::from_size_align_unchecked(capacity, alignment(capacity))) };
        }
    }
}

/// The size class of a request: eight steps between powers of two, so at most an eighth is lost; from 16 huge pages on whole huge pages, and at
/// most a thirty-second.
pub(crate) fn size_class(bytes: usize) -> usize {
    let bytes = bytes.max(64);
    let power = bytes.next_power_of_two();
    let step = if bytes >= 16 * HUGE { (power / 64).max(HUGE) } else { (power / 16).max(64) };
    bytes.div_ceil(step) * step
}

/// Zeroed pages. Large buffers ask for huge pages, which come faster and are found faster.
fn allocate(capacity: usize) -> Option<NonNull<u8>> {
    let layout = AllocLayout::from_size_align(capacity, alignment(capacity)).ok()?;
    #[cfg(target_os = "linux")]
    if capacity >= HUGE {
        unsafe extern "C" {
            fn madvise(start: *mut u8, len: usize, advice: i32) -> i32;
        }
        const MADV_HUGEPAGE: i32 = 14;
        // SAFETY: the size is not zero; the advice concerns pages that we own, and does not change what they hold.
        unsafe {
            let p = NonNull::new(std::alloc::alloc(layout))?;
            madvise(p.as_ptr(), capacity, MADV_HUGEPAGE);
            p.as_ptr().write_bytes(0, capacity);
            return Some(p);
        }
    }
    // SAFETY: the size is not zero.
    NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })
}

/// Buffers from the size of a huge page on begin at one.
fn alignment(capacity: usize) -> usize {
    if capacity >= HUGE { HUGE } else { ALIGN }
}

/// A buffer of the pool: of this size class or, where classes lie close, of the smallest one that is at most an eighth larger.
fn pooled(capacity: usize) -> Option<(usize, usize)> {
    let most = if capacity >= 16 * HUGE { capacity + capacity / 8 } else { capacity };
    let mut pool = POOL.lock().unwrap_or_else(|e| e.into_inner());
    pool.range_mut(capacity..=most).find_map(|(&found, list)| Some((list.pop()?, found)))
}

impl CpuBuffer {
    /// Uninitialised memory (whatever an earlier tensor left there).
    pub fn new(bytes: usize) -> Result<CpuBuffer> {
        let capacity = size_class(bytes);
        let (ptr, capacity) = match pooled(capacity) {
            Some((p, found)) => {
                POOLED.fetch_sub(found, Ordering::Relaxed);
                (NonNull::new(p as *mut u8), found)
            }
            // Zeroed, so that reading a buffer is defined from the first use on.
            None => match allocate(capacity) {
                Some(p) => (Some(p), capacity),
                None => {
                    trim();
                    (allocate(capacity), capacity)
                }
            },
        };
        let Some(ptr) = ptr else {
            return Err(Error::OutOfMemory { device: "cpu".into(), bytes, message: "the allocator refused".into() });
        };
        let now = IN_USE.fetch_add(capacity, Ordering::Relaxed) + capacity;
        PEAK.fetch_max(now, Ordering::Relaxed);
        HIGH.fetch_max(now, Ordering::Relaxed);
        Ok(CpuBuffer { ptr, len: bytes, capacity, map: None, borrowed: false })
    }

    /// A buffer with these bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<CpuBuffer> {
        let b = CpuBuffer::new(bytes.len())?;
        // SAFETY: the buffer is ours and holds that many bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), b.ptr.as_ptr(), bytes.len()) };
        Ok(b)
    }

    /// A range of a memory-mapped file, without a copy. Such a buffer is never written.
    pub fn from_map(map: std::sync::Arc<memmap2::Mmap>, range: std::ops::Range<usize>) -> CpuBuffer {
        let bytes = &map[range];
        CpuBuffer { ptr: NonNull::from(bytes).cast(), len: bytes.len(), capacity: 0, map: Some(map), borrowed: false }
    }

    /// The buffer from byte `offset` on.
    ///
    /// # Safety
    /// The result must not outlive `self`.
    pub unsafe fn window(&self, offset: usize) -> CpuBuffer {
        let offset = offset.min(self.len);
        // SAFETY: within the buffer.
        let ptr = unsafe { self.ptr.add(offset) };
        CpuBuffer { ptr, len: self.len - offset, capacity: 0, map: self.map.clone(), borrowed: true }
    }

    /// Whether kernels may write it.
    pub fn is_writable(&self) -> bool {
        self.map.is_none()
    }

    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// The buffer as elements.
    ///
    /// # Safety
    /// Nothing may write it while the slice lives.
    pub unsafe fn slice<T: bytemuck::Pod>(&self) -> &[T] {
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr().cast(), self.len / size_of::<T>()) }
    }

    /// The buffer as elements to write.
    ///
    /// # Safety
    /// Nothing else may read or write it while the slice lives.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice_mut<T: bytemuck::Pod>(&self) -> &mut [T] {
        debug_assert!(self.is_writable());
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr().cast(), self.len / size_of::<T>()) }
    }
}

impl Drop for CpuBuffer {
    fn drop(&mut self) {
        if self.map.is_none() && !self.borrowed {
            IN_USE.fetch_sub(self.capacity, Ordering::Relaxed);
            let kept = POOLED.fetch_add(self.capacity, Ordering::Relaxed) + self.capacity;
            let mut pool = POOL.lock().unwrap_or_else(|e| e.into_inner());
            pool.entry(self.capacity).or_default().push(self.ptr.as_ptr() as usize);
            drop(pool);
            if kept > KEPT * HIGH.load(Ordering::Relaxed).max(16 * HUGE) {
                trim();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back() {
        let size = (3 << 20) + 12_345;
        let p = CpuBuffer::new(size).unwrap().as_ptr();
        let b = CpuBuffer::new(size - 1000).unwrap();
        assert_eq!(b.as_ptr(), p);
        assert!(size_class(size) < size + size / 8 + 64);
    }

    #[test]
    fn large_buffers_lose_little_and_serve_their_neighbours() {
        for size in [40 << 20, 77_275_136, (1 << 30) + 1] {
            assert!(size_class(size) <= size + size / 32 + HUGE && size_class(size).is_multiple_of(HUGE));
        }
        let size = 200 << 20;
        let p = CpuBuffer::new(size).unwrap().as_ptr();
        assert_eq!(CpuBuffer::new(size - (9 << 20)).unwrap().as_ptr(), p);
    }

    #[test]
    fn absurd_sizes_are_errors() {
        assert!(matches!(CpuBuffer::new(usize::MAX / 4), Err(Error::OutOfMemory { .. })));
    }
}

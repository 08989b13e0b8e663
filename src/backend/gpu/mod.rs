//! The GPU backend on wgpu: adapters, memory, pipelines, one submit a plan, reading.

mod adapter;
mod convert;
mod disk;
mod memory;
mod pipeline;
mod profile;
mod read;
mod run;
#[cfg(test)]
mod tests;

pub(crate) use adapter::{open, opened};
#[allow(unused_imports)]
pub(crate) use convert::{from_gpu_bytes, to_gpu_bytes};
pub(crate) use memory::GpuBuffer;
pub(crate) use read::Reading;
#[allow(unused_imports)]
pub(crate) use run::Compiled;
#[cfg(test)]
pub(crate) use tests::test_gpu;

use crate::backend::Fault;
use crate::codegen::dispatch::Caps;
use crate::{Error, Result};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// An opened GPU.
pub(crate) struct Gpu {
    name: String,
    number: usize,
    caps: Caps,
    device: wgpu::Device,
    queue: wgpu::Queue,
    /// Alignment in bytes of a uniform binding's dynamic offset.
    uniform_alignment: u32,
    max_uniform: u32,
    /// Keep naga's checks of every index and loop (`FORNAX_SHADER_CHECKS=1`).
    checks: bool,
    pool: Arc<memory::Pool>,
    pipelines: pipeline::Pipelines,
    /// The driver's compiled pipelines from one process to the next, where Vulkan offers it.
    disk: Option<disk::DiskCache>,
    bind_groups: Mutex<run::BindGroups>,
    staging: read::Staging,
    /// Commands that wait for the read that follows them, to be submitted with it: before anything else that the queue is given.
    held: Mutex<Vec<wgpu::CommandBuffer>>,
    fault: wgpu::Buffer,
    /// The faults that kernels can report, in the order in which their ops were first planned; see `fault_word`.
    faults: Mutex<Vec<Fault>>,
    /// Where `FORNAX_PROFILE=1` asks for one.
    profiler: Option<profile::Profiler>,
    /// Why the device was lost: final.
    lost: Arc<OnceLock<String>>,
    counters: Counters,
}

/// What the device has done since it was opened.
#[derive(Default)]
struct Counters {
    dispatches: AtomicU64,
    submits: AtomicU64,
    reads: AtomicU64,
    bind_groups: AtomicU64,
    /// Bytes uploaded since the last submit: their staging memory waits for one.
    unsubmitted: AtomicU64,
}

/// A snapshot of a device's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct GpuStats {
    /// Compute dispatches encoded.
    pub dispatches: u64,
    /// Command buffers submitted.
    pub submits: u64,
    /// Reads to the host.
    pub reads: u64,
    /// Pipelines built.
    pub pipelines: u64,
    /// Bind groups built.
    pub bind_groups: u64,
    /// Bytes that live buffers hold.
    pub in_use: u64,
    /// The most that they held since `reset_peak`.
    pub peak: u64,
    /// Bytes kept for reuse.
    pub pooled: u64,
    /// Bytes ever asked of the driver.
    pub allocated: u64,
}

impl Gpu {
    /// What the adapter offers.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// What was done since the device was opened.
    pub fn stats(&self) -> GpuStats {
        let c = &self.counters;
        let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
        let (in_use, peak, pooled, allocated) = self.pool.usage();
        GpuStats {
            dispatches: get(&c.dispatches),
            submits: get(&c.submits),
            reads: get(&c.reads),
            pipelines: self.pipelines.count() as u64,
            bind_groups: get(&c.bind_groups),
            in_use,
            peak,
            pooled,
            allocated,
        }
    }

    /// Starts a new measurement of the peak.
    pub fn reset_peak(&self) {
        self.pool.reset_peak();
    }

    /// Waits until everything submitted has run.
    pub fn wait(&self) -> Result<()> {
        self.submit_held();
        let done = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.alive()?;
        done.map(drop).map_err(|e| self.failed("wait", e.to_string()))
    }

    fn label(&self) -> String {
        format!("gpu:{} ({})", self.number, self.name)
    }

    /// The word that a kernel leaves in the fault word. The op that was planned first has the largest: it is told.
    pub fn fault_word(&self, fault: &Fault) -> u32 {
        let mut known = lock(&self.faults);
        let at = known.iter().position(|f| f == fault).unwrap_or_else(|| {
            known.push(fault.clone());
            known.len() - 1
        });
        u32::MAX - at as u32
    }

    /// What a fault word says.
    fn fault_of(&self, word: u32) -> Error {
        let unknown =
            || Fault { op: "read", message: "an index was out of range in an op computed since this device was last read".into() };
        lock(&self.faults).get((u32::MAX - word) as usize).cloned().unwrap_or_else(unknown).error()
    }

    /// `Error::DeviceLost` once the device is gone.
    fn alive(&self) -> Result<()> {
        match self.lost.get() {
            None => Ok(()),
            Some(message) => Err(Error::DeviceLost { device: self.label(), message: message.clone() }),
        }
    }

    fn failed(&self, op: &str, message: String) -> Error {
        Error::Kernel { op: op.into(), message }
    }

    /// Runs `f` and returns what wgpu found wrong with it, if anything.
    fn scoped<T>(&self, f: impl FnOnce() -> T) -> (T, Option<wgpu::Error>) {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        let scopes = [Internal, OutOfMemory, Validation].map(|filter| self.device.push_error_scope(filter));
        let value = f();
        let mut error = None;
        for scope in scopes.into_iter().rev() {
            let caught = pollster::block_on(scope.pop());
            error = error.or(caught);
        }
        (value, error)
    }
}

thread_local! {
    static HOLD: Cell<bool> = const { Cell::new(false) };
}

/// Runs a flush, of this thread, that a read follows at once: its last commands may wait for the read's.
pub(crate) fn before_a_read<R>(flush: impl FnOnce() -> R) -> R {
    let before = HOLD.replace(true);
    let result = flush();
    HOLD.set(before);
    result
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

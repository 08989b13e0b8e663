//! The GPU backend on wgpu.

use crate::codegen::dispatch::{Caps, GpuStep, Param};
use crate::{Error, Result};

/// A step with its buffers: every slot is `Slot::Buffer` or `Slot::Fault`, every parameter `Word` or `Remote`.
#[derive(Debug)]
pub(crate) struct Placed {
    pub step: GpuStep,
    /// The byte offset of each binding (a multiple of `Caps::offset_alignment`).
    pub offsets: Vec<u64>,
}

/// GPU memory; goes back to its device's pool when dropped.
pub(crate) struct GpuBuffer {}

/// An opened GPU.
pub(crate) struct Gpu {}

/// A plan's steps with their pipelines: ready to be encoded any number of times.
pub(crate) struct Compiled {}

/// GPU `n` (hardware first); opened once, kept for the process's life. A software adapter only where `software` allows it.
pub(crate) fn open(_n: usize, _software: bool) -> Result<&'static Gpu> {
    Err(Error::Device { op: "Device::gpu", message: "not there".into() })
}

impl Gpu {
    pub fn caps(&self) -> &Caps {
        &Caps::PORTABLE
    }

    /// Memory with any content.
    pub fn alloc(&self, _bytes: usize) -> Result<GpuBuffer> {
        Ok(GpuBuffer {})
    }

    /// Memory with these bytes.
    pub fn upload(&self, _bytes: &[u8]) -> Result<GpuBuffer> {
        Ok(GpuBuffer {})
    }

    /// Builds (or finds) the pipelines.
    pub fn compile(&self, _steps: Vec<Placed>) -> Result<Compiled> {
        Ok(Compiled {})
    }

    /// Encodes and submits: `buffers` are the plan's, by index; `word` gives the value of a `Param::Remote`.
    pub fn run(&self, _plan: &Compiled, _buffers: &[&GpuBuffer], _word: &dyn Fn(&Param) -> u32) -> Result<()> {
        Ok(())
    }

    /// The first `bytes` of a buffer. `Error::Index` where the fault word was set since the last read (which clears it).
    pub fn read(&self, _buffer: &GpuBuffer, _bytes: usize) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

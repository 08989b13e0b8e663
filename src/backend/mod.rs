//! The two backends. Both get the same steps, as data.

pub(crate) mod cpu;
#[cfg(feature = "wgpu")]
pub(crate) mod gpu;

/// The memory of a tensor.
pub(crate) enum Storage {
    Cpu(cpu::memory::CpuBuffer),
    #[cfg(feature = "wgpu")]
    Gpu(gpu::GpuBuffer),
}

impl Storage {
    /// Whether kernels may write it: not so for a memory-mapped file.
    pub fn is_writable(&self) -> bool {
        match self {
            Storage::Cpu(b) => b.is_writable(),
            #[cfg(feature = "wgpu")]
            Storage::Gpu(_) => true,
        }
    }
}

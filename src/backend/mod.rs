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

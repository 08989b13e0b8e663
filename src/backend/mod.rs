//! The two backends. Both get the same steps, as data.

pub(crate) mod cpu;
pub(crate) mod exit;
#[cfg(feature = "wgpu")]
pub(crate) mod gpu;
pub(crate) mod profile;

/// An index of an index tensor that was out of range: the op that met it, and what to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub op: &'static str,
    pub message: String,
}

impl Fault {
    pub fn error(self) -> crate::Error {
        crate::Error::Index { op: self.op, message: self.message }
    }
}

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

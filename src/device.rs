//! Devices.

use crate::{Error, Result};
use std::fmt;

/// Where tensors live and ops run: the CPU, or a GPU by its number. A small `Copy` value: the one switch of a program.
///
/// ```
/// use fornax::{Device, Tensor};
/// let device = Device::best(); // a GPU where there is a real one, else the CPU
/// let x = Tensor::ones([2, 2], device);
/// assert_eq!(x.device(), device);
/// assert_eq!(Device::cpu().to_string(), "cpu");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device(pub(crate) Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Cpu,
    /// The GPU's number; it was opened when the device was made, and stays open.
    #[cfg_attr(not(feature = "wgpu"), allow(dead_code))]
    Gpu(u8),
}

impl Device {
    /// The CPU.
    ///
    /// ```
    /// let x = fornax::Tensor::zeros(3, fornax::Device::cpu());
    /// assert_eq!(x.device().to_string(), "cpu");
    /// ```
    pub const fn cpu() -> Device {
        Device(Kind::Cpu)
    }

    /// Whether this is a GPU.
    ///
    /// ```
    /// assert!(!fornax::Device::cpu().is_gpu());
    /// ```
    pub const fn is_gpu(self) -> bool {
        matches!(self.0, Kind::Gpu(_))
    }

    /// The device as a word of a plan's key.
    pub(crate) fn word(self) -> u64 {
        match self.0 {
            Kind::Cpu => 0,
            Kind::Gpu(n) => n as u64 + 1,
        }
    }

    /// GPU number `n`, hardware adapters first. A software adapter (lavapipe, WARP) is taken, with a notice on stderr, only where there is
    /// no hardware one.
    ///
    /// # Errors
    /// `Error::Device` where there is no such adapter, or where the crate was built without the feature `wgpu`.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// if let Ok(gpu) = Device::gpu(0) {
    ///     assert_eq!(Tensor::ones(3, gpu).sum(()).item::<f32>()?, 3.0);
    /// }
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn gpu(n: usize) -> Result<Device> {
        #[cfg(feature = "wgpu")]
        {
            crate::backend::gpu::open(n, true)?;
            Ok(Device(Kind::Gpu(n as u8)))
        }
        #[cfg(not(feature = "wgpu"))]
        Err(Error::Device { op: "Device::gpu", message: format!("no GPU {n}: fornax was built without the feature `wgpu`") })
    }

    /// The first hardware GPU, or the CPU where there is none. Never a software adapter.
    ///
    /// ```
    /// let device = fornax::Device::best();
    /// let x = fornax::Tensor::zeros(3, device);
    /// assert_eq!(x.device(), device);
    /// ```
    pub fn best() -> Device {
        #[cfg(feature = "wgpu")]
        if crate::backend::gpu::open(0, false).is_ok() {
            return Device(Kind::Gpu(0));
        }
        Device::cpu()
    }

    /// The device that the environment variable `FORNAX_DEVICE` names (`cpu`, `gpu`, `gpu:1`), or [`best`](Device::best) where it is unset.
    ///
    /// # Errors
    /// `Error::Device` where the variable says something else or the device is not there.
    ///
    /// ```
    /// use fornax::Device;
    /// // FORNAX_DEVICE=gpu:1 my-program
    /// let device = Device::from_env()?;
    /// // The same names as text.
    /// assert_eq!("cpu".parse::<Device>()?, Device::cpu());
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn from_env() -> Result<Device> {
        match std::env::var("FORNAX_DEVICE") {
            Ok(name) if !name.is_empty() => name.parse(),
            _ => Ok(Device::best()),
        }
    }
}

impl std::str::FromStr for Device {
    type Err = Error;

    fn from_str(name: &str) -> Result<Device> {
        let bad = || Error::Device { op: "Device", message: format!("unknown device {name:?}: use cpu, gpu, gpu:1 or best") };
        match name.to_ascii_lowercase().as_str() {
            "cpu" => Ok(Device::cpu()),
            "gpu" => Device::gpu(0),
            "best" => Ok(Device::best()),
            other => Device::gpu(other.strip_prefix("gpu:").and_then(|n| n.parse().ok()).ok_or_else(bad)?),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Kind::Cpu => f.pad("cpu"),
            Kind::Gpu(n) => f.pad(&format!("gpu:{n}")),
        }
    }
}

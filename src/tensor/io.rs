//! In and out: tensors from host memory, values back to it, and moves between devices.

use crate::backend::Storage;
use crate::backend::cpu::memory::CpuBuffer;
use crate::device::Kind;
use crate::graph::node::with_grad;
use crate::graph::{Meta, Node, flush, run::CPU_FAULT};
use crate::stats::{COUNTERS, count};
use crate::{DType, Device, Element, Error, Result, Shape, Tensor};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Evaluates several tensors in one flush: less work than one after the other where they share ancestors.
///
/// # Errors
/// As [`Tensor::eval`].
///
/// ```
/// use fornax::{Device, Tensor};
/// let x = Tensor::ones(8, Device::cpu());
/// let (a, b) = (x.exp(), x.exp() + 1.0);
/// fornax::eval(&[&a, &b])?;
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn eval(tensors: &[&Tensor]) -> Result<()> {
    flush::flush(&tensors.iter().map(|&t| t.clone()).collect::<Vec<_>>())
}

impl Tensor {
    /// A tensor with these elements in row-major order.
    ///
    /// # Errors
    /// `Error::Shape` where the shape has another number of elements; `Error::DType` for i64 or f64 on a GPU.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![1, 2, 3, 4, 5, 6], [2, 3], Device::cpu())?;
    /// assert_eq!(x.dims(), [2, 3]);
    /// assert!(Tensor::from_vec(vec![1.0f32; 5], [2, 3], Device::cpu()).is_err());
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn from_vec<T: Element>(data: Vec<T>, shape: impl Into<Shape>, device: Device) -> Result<Tensor> {
        Tensor::from_slice(&data, shape, device)
    }

    /// As [`from_vec`](Tensor::from_vec), from a slice.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], [2, 2], Device::cpu())?;
    /// assert_eq!(x.t().to_vec::<f32>()?, [1.0, 3.0, 2.0, 4.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn from_slice<T: Element>(data: &[T], shape: impl Into<Shape>, device: Device) -> Result<Tensor> {
        let shape = shape.into();
        if shape.checked_numel()? != data.len() {
            let expected = format!("a shape of {} elements, as many as were given", data.len());
            return Err(Error::shape("from_vec", &[&shape], expected));
        }
        Tensor::from_bytes(bytemuck::cast_slice(data), T::DTYPE, shape, device)
    }

    /// A tensor of one element and no axes.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::scalar(7i32, Device::cpu())?;
    /// assert_eq!((x.rank(), x.item::<i32>()?), (0, 7));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn scalar<T: Element>(value: T, device: Device) -> Result<Tensor> {
        Tensor::from_slice(&[value], (), device)
    }

    /// A tensor from the bytes of its elements (as in host memory: a bool is one byte).
    pub(crate) fn from_bytes(bytes: &[u8], dtype: DType, shape: Shape, device: Device) -> Result<Tensor> {
        let storage = match device.0 {
            Kind::Cpu => Storage::Cpu(CpuBuffer::from_bytes(bytes)?),
            #[cfg(feature = "wgpu")]
            Kind::Gpu(n) => {
                if !dtype.on_gpu() {
                    let expected = "i64 and f64 exist on the CPU only: make the tensor there, and cast it or move it with .to(device)";
                    return Err(Error::dtype("from_vec", &[dtype], expected));
                }
                let gpu = crate::backend::gpu::open(n as usize, true)?;
                Storage::Gpu(gpu.upload(&crate::backend::gpu::to_gpu_bytes(dtype, bytes))?)
            }
            #[cfg(not(feature = "wgpu"))]
            Kind::Gpu(_) => unreachable!("no GPU device can be made without the feature `wgpu`"),
        };
        Ok(Node::leaf(device, Meta::new(dtype, shape), Arc::new(storage), false))
    }

    /// Evaluates and shows the bytes of the elements in row-major order.
    pub(crate) fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let whole =
            if self.layout().is_contiguous() { Cow::Borrowed(self) } else { Cow::Owned(with_grad(false, || self.try_contiguous())?) };
        whole.eval()?;
        count(&COUNTERS.reads, 1);
        let Some(storage) = whole.storage() else {
            return Err(Error::Kernel { op: "read".into(), message: "no value after a flush: please report this as a bug".into() });
        };
        let (start, len) = (whole.layout().offset, whole.numel());
        let size = self.dtype().size();
        match &*storage {
            Storage::Cpu(b) => {
                check_fault()?;
                // SAFETY: a tensor's value never changes while a handle on it lives.
                let bytes = unsafe { b.slice::<u8>() };
                Ok(f(&bytes[start * size..(start + len) * size]))
            }
            #[cfg(feature = "wgpu")]
            Storage::Gpu(b) => {
                let Kind::Gpu(n) = self.node.device.0 else { unreachable!("GPU memory belongs to a GPU") };
                let gpu = crate::backend::gpu::open(n as usize, true)?;
                let word = self.dtype().gpu_size();
                let mut raw = gpu.read(b, (start + len) * word)?;
                raw.truncate((start + len) * word);
                raw.drain(..start * word);
                Ok(f(&crate::backend::gpu::from_gpu_bytes(self.dtype(), raw)))
            }
        }
    }

    /// The elements in row-major order, converted to `T` if need be. Evaluates what is pending.
    ///
    /// # Errors
    /// As [`eval`](Tensor::eval); `Error::Index` where an index tensor held a position out of range since the device's last read.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::arange(0, 4, 1, Device::cpu());
    /// assert_eq!(x.to_vec::<f32>()?, [0.0, 1.0, 2.0, 3.0]);
    /// assert_eq!(x.to_vec::<i64>()?, [0, 1, 2, 3]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if self.dtype() != T::DTYPE {
            let host = if T::DTYPE.on_gpu() { self.clone() } else { self.try_to(Device::cpu())? };
            return with_grad(false, || host.try_cast(T::DTYPE))?.to_vec();
        }
        self.with_bytes(|b| b.chunks_exact(size_of::<T>()).map(bytemuck::checked::pod_read_unaligned).collect())
    }

    /// The value of a tensor of one element, converted to `T` if need be.
    ///
    /// # Errors
    /// `Error::Shape` where there is not exactly one element; otherwise as [`to_vec`](Tensor::to_vec).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([2, 3], Device::cpu());
    /// assert_eq!(x.sum(()).item::<f32>()?, 6.0);
    /// assert!(x.item::<f32>().is_err());
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn item<T: Element>(&self) -> Result<T> {
        if self.numel() != 1 {
            return Err(Error::shape("item", &[self.shape()], "one element; use to_vec for more"));
        }
        Ok(self.to_vec::<T>()?[0])
    }
}

/// An index that was out of range since the CPU's last read.
fn check_fault() -> Result<()> {
    if CPU_FAULT.load(Ordering::Relaxed) != 0 && CPU_FAULT.swap(0, Ordering::Relaxed) != 0 {
        let message = "an index was out of range in an op computed since this device was last read (gather, index_select, embedding, scatter, \
                       the classes of cross_entropy, …): it read 0 or wrote nothing. The fault belongs to the device, not to the tensor read"
            .into();
        return Err(Error::Index { op: "index", message });
    }
    Ok(())
}

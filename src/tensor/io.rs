//! In and out: tensors from host memory, values back to it, and moves between devices.

use crate::backend::Storage;
use crate::backend::cpu::memory::CpuBuffer;
use crate::device::Kind;
use crate::graph::node::with_grad;
use crate::graph::{Meta, Node, flush, run::check_cpu_fault};
use crate::stats::{COUNTERS, count};
use crate::{DType, Device, Element, Error, Result, Shape, Tensor};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::sync::Arc;

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

    /// Evaluates, with others in the same flush; the value in row-major order, and the first element and the length of it in the memory. To be read
    /// at once.
    fn evaluated(&self, others: &[&Tensor]) -> Result<(Arc<Storage>, usize, usize)> {
        let whole =
            if self.layout().is_contiguous() { Cow::Borrowed(self) } else { Cow::Owned(with_grad(false, || self.try_contiguous())?) };
        let roots: SmallVec<[Tensor; 4]> = [&*whole].iter().chain(others).map(|&t| t.clone()).collect();
        #[cfg(feature = "wgpu")]
        crate::backend::gpu::before_a_read(|| flush::flush(&roots))?;
        #[cfg(not(feature = "wgpu"))]
        flush::flush(&roots)?;
        count(&COUNTERS.reads, 1);
        let Some(storage) = whole.storage() else {
            return Err(Error::Kernel { op: "read".into(), message: "no value after a flush: please report this as a bug".into() });
        };
        Ok((storage, whole.layout().offset, whole.numel()))
    }

    /// Evaluates and shows the bytes of the elements in row-major order.
    pub(crate) fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        self.with_bytes_and(&[], f)
    }

    fn with_bytes_and<R>(&self, others: &[&Tensor], f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let (storage, start, len) = self.evaluated(others)?;
        let size = self.dtype().size();
        match &*storage {
            Storage::Cpu(b) => {
                check_cpu_fault()?;
                // SAFETY: a tensor's value never changes while a handle on it lives.
                let bytes = unsafe { b.slice::<u8>() };
                Ok(f(&bytes[start * size..(start + len) * size]))
            }
            #[cfg(feature = "wgpu")]
            Storage::Gpu(b) => {
                let (gpu, from, to) = self.bytes_on_gpu(start, len)?;
                let mut raw = gpu.read_from(b, from as u64, to - from)?;
                raw.drain(..start * self.dtype().gpu_size() - from);
                Ok(f(&crate::backend::gpu::from_gpu_bytes(self.dtype(), raw)))
            }
        }
    }

    /// The GPU, and the bytes to read there: from a multiple of 16 on.
    #[cfg(feature = "wgpu")]
    fn bytes_on_gpu(&self, start: usize, len: usize) -> Result<(&'static crate::backend::gpu::Gpu, usize, usize)> {
        let Kind::Gpu(n) = self.node.device.0 else { unreachable!("GPU memory belongs to a GPU") };
        let word = self.dtype().gpu_size();
        Ok((crate::backend::gpu::open(n as usize, true)?, start * word / 16 * 16, (start + len) * word))
    }

    /// Evaluates, and starts bringing the bytes of the elements in row-major order to the host.
    fn start_read(&self) -> Result<Bytes> {
        let (storage, start, len) = self.evaluated(&[])?;
        match &*storage {
            Storage::Cpu(b) => {
                check_cpu_fault()?;
                let size = self.dtype().size();
                // SAFETY: a tensor's value never changes while a handle on it lives.
                let bytes = unsafe { b.slice::<u8>() };
                Ok(Bytes::Here(bytes[start * size..(start + len) * size].to_vec()))
            }
            #[cfg(feature = "wgpu")]
            Storage::Gpu(b) => {
                let (gpu, from, to) = self.bytes_on_gpu(start, len)?;
                let skip = start * self.dtype().gpu_size() - from;
                Ok(Bytes::Coming { reading: gpu.read_async(b, from as u64, to - from)?, skip, dtype: self.dtype() })
            }
        }
    }

    /// As [`to_vec`](Tensor::to_vec), as a future of any runtime: the work is submitted when this is called, not when the future is first
    /// polled, and the thread that polls never waits. On the CPU the value is there at once; on a GPU a thread of the library waits for the
    /// copy and wakes the task. A future that is dropped leaves its work to be done for nothing.
    ///
    /// # Errors
    /// As [`to_vec`](Tensor::to_vec).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones(3, Device::cpu());
    /// let reading = (&x * 2.0).to_vec_async::<f32>();
    /// assert_eq!(pollster::block_on(reading)?, [2.0; 3]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn to_vec_async<T: Element>(&self) -> impl Future<Output = Result<Vec<T>>> + Send + use<T> {
        let (started, dtype, shape) = (self.start_read(), self.dtype(), self.shape().clone());
        async move {
            let bytes = match started? {
                Bytes::Here(bytes) => bytes,
                #[cfg(feature = "wgpu")]
                Bytes::Coming { reading, skip, dtype } => {
                    let mut raw = reading.await?;
                    raw.drain(..skip);
                    crate::backend::gpu::from_gpu_bytes(dtype, raw)
                }
            };
            if dtype == T::DTYPE {
                return Ok(elements(&bytes));
            }
            with_grad(false, || Tensor::from_bytes(&bytes, dtype, shape, Device::cpu())?.to_vec())
        }
    }

    /// As [`item`](Tensor::item), as a future; see [`to_vec_async`](Tensor::to_vec_async).
    ///
    /// # Errors
    /// As [`item`](Tensor::item).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let loss = Tensor::ones(8, Device::cpu()).sum(());
    /// assert_eq!(pollster::block_on(loss.item_async::<f32>())?, 8.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn item_async<T: Element>(&self) -> impl Future<Output = Result<T>> + Send + use<T> {
        let one = self.numel() == 1;
        let (shape, values) = (self.shape().clone(), one.then(|| self.to_vec_async::<T>()));
        async move {
            match values {
                Some(values) => Ok(values.await?[0]),
                None => Err(Error::shape("item", &[shape], "one element; use to_vec for more")),
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
        self.with_bytes(elements)
    }

    /// As [`to_vec`](Tensor::to_vec), with other tensors computed in the same flush: on a GPU they and the read are one submit.
    ///
    /// # Errors
    /// As [`to_vec`](Tensor::to_vec).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let state = Tensor::arange(0, 4, 1, Device::cpu()) * 2;
    /// let chosen = state.argmax(0);
    /// assert_eq!(chosen.to_vec_with::<i32>(&[&state])?, [3]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn to_vec_with<T: Element>(&self, others: &[&Tensor]) -> Result<Vec<T>> {
        if self.dtype() != T::DTYPE && T::DTYPE.on_gpu() {
            return with_grad(false, || self.try_cast(T::DTYPE))?.with_bytes_and(others, elements);
        }
        if self.dtype() != T::DTYPE {
            eval(&[others, &[self]].concat())?;
            return self.to_vec();
        }
        self.with_bytes_and(others, elements)
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

/// The bytes of a tensor: here, or on the way.
enum Bytes {
    Here(Vec<u8>),
    #[cfg(feature = "wgpu")]
    Coming {
        reading: crate::backend::gpu::Reading,
        skip: usize,
        dtype: DType,
    },
}

/// Host bytes as elements.
fn elements<T: Element>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::checked::pod_read_unaligned).collect()
}

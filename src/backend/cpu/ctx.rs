//! What an op's CPU kernel sees.

use super::memory::CpuBuffer;
use crate::layout::Layout;
use crate::{DType, Error, Result, Scalar};
use std::sync::atomic::{AtomicU32, Ordering};

/// An input or output of a kernel: a buffer and how the tensor lies in it.
#[derive(Clone, Copy)]
pub(crate) struct Arg<'a> {
    pub buffer: &'a CpuBuffer,
    pub layout: &'a Layout,
    pub dtype: DType,
}

/// The inputs, outputs and scalars of one call of an op's CPU kernel. Outputs are row-major and hold garbage; inputs are row-major
/// (at any offset) unless the op's `reads` says otherwise.
pub(crate) struct CpuCtx<'a> {
    pub op: &'static str,
    pub inputs: &'a [Arg<'a>],
    pub outputs: &'a [Arg<'a>],
    pub scalars: &'a [Scalar],
    pub fault: &'a AtomicU32,
}

impl<'a> CpuCtx<'a> {
    /// The layout of input `i`.
    pub fn layout(&self, i: usize) -> &'a Layout {
        self.inputs[i].layout
    }

    /// The sizes of input `i`.
    pub fn shape(&self, i: usize) -> &'a [usize] {
        &self.inputs[i].layout.shape
    }

    /// The sizes of output `i`.
    pub fn out_shape(&self, i: usize) -> &'a [usize] {
        &self.outputs[i].layout.shape
    }

    /// The dtype of input `i`.
    pub fn dtype(&self, i: usize) -> DType {
        self.inputs[i].dtype
    }

    /// The elements of a row-major input.
    pub fn input<T: bytemuck::Pod>(&self, i: usize) -> &'a [T] {
        let a = &self.inputs[i];
        debug_assert!(a.layout.is_contiguous() && a.dtype.size() == size_of::<T>(), "{}: input {i}", self.op);
        // SAFETY: nothing writes an input during the call but a donated output, and no op that donates reads past what it writes.
        unsafe { &a.buffer.slice::<T>()[a.layout.offset..a.layout.offset + a.layout.numel()] }
    }

    /// The whole buffer of an input that may be strided: index it by `layout(i)`.
    pub fn strided<T: bytemuck::Pod>(&self, i: usize) -> &'a [T] {
        // SAFETY: as `input`.
        unsafe { self.inputs[i].buffer.slice::<T>() }
    }

    /// The elements of an output. Take each output once.
    #[allow(clippy::mut_from_ref)]
    pub fn output<T: bytemuck::Pod>(&self, i: usize) -> &'a mut [T] {
        let a = &self.outputs[i];
        debug_assert!(a.dtype.size() == size_of::<T>(), "{}: output {i}", self.op);
        // SAFETY: the plan gives a kernel's outputs to nobody else while it runs.
        unsafe { &mut a.buffer.slice_mut::<T>()[..a.layout.numel()] }
    }

    /// The elements of a row-major input of any dtype, as bytes.
    pub fn input_bytes(&self, i: usize) -> &'a [u8] {
        let (a, size) = (&self.inputs[i], self.inputs[i].dtype.size());
        // SAFETY: as `input`.
        unsafe { &a.buffer.slice::<u8>()[a.layout.offset * size..(a.layout.offset + a.layout.numel()) * size] }
    }

    /// The elements of an output of any dtype, as bytes. Take each output once.
    #[allow(clippy::mut_from_ref)]
    pub fn output_bytes(&self, i: usize) -> &'a mut [u8] {
        let a = &self.outputs[i];
        // SAFETY: as `output`.
        unsafe { &mut a.buffer.slice_mut::<u8>()[..a.layout.numel() * a.dtype.size()] }
    }

    /// Records that an index was out of range. The kernel then reads 0 or writes nothing; the device's next read returns an
    /// `Error::Index` that names the op.
    pub fn fault(&self) {
        self.fault.store(1, Ordering::Relaxed);
    }

    /// An error for a dtype that the kernel does not know; `infer` should have refused it.
    pub fn unsupported<T>(&self) -> Result<T> {
        Err(Error::Kernel { op: self.op.into(), message: format!("the CPU kernel does not take {}", self.dtype(0)) })
    }
}

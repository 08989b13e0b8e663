//! Host bytes and GPU words: they differ for bool alone, a byte here and a `u32` there.

use crate::DType;
use std::borrow::Cow;

/// A tensor's host bytes as they lie in GPU memory.
pub(crate) fn to_gpu_bytes(dtype: DType, host: &[u8]) -> Cow<'_, [u8]> {
    match dtype {
        DType::Bool => Cow::Owned(host.iter().flat_map(|&b| [(b != 0) as u8, 0, 0, 0]).collect()),
        _ => Cow::Borrowed(host),
    }
}

/// The bytes of GPU memory as they lie on the host.
pub(crate) fn from_gpu_bytes(dtype: DType, gpu: Vec<u8>) -> Vec<u8> {
    match dtype {
        DType::Bool => gpu.chunks_exact(4).map(|w| (w != [0; 4]) as u8).collect(),
        _ => gpu,
    }
}

//! How tiles move between memory and registers.

use super::simd::multiversion;
use super::tile::{Code, Tile};
use crate::codegen::kernel::Operand;
use crate::{DType, Scalar};
use smallvec::SmallVec;

/// Copies past the caches. [`State::fence`](super::tile::State::fence) makes it visible to other threads.
///
/// # Safety
/// Of [`std::ptr::copy_nonoverlapping`].
pub(super) unsafe fn stream(src: *const u8, dst: *mut u8, bytes: usize) {
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if dst.addr().is_multiple_of(16) {
        use std::arch::x86_64::{_mm_loadu_ps, _mm_stream_ps};
        done = bytes & !15;
        for at in (0..done).step_by(16) {
            // SAFETY: 16 bytes of both, and the places are aligned.
            unsafe { _mm_stream_ps(dst.add(at).cast(), _mm_loadu_ps(src.add(at).cast())) };
        }
    }
    // SAFETY: as promised.
    unsafe { std::ptr::copy_nonoverlapping(src.add(done), dst.add(done), bytes - done) };
}

/// Asks for memory that the tile will write when it is done computing, so that the two overlap.
#[inline(always)]
pub(super) unsafe fn prefetch_write(p: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..bytes).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(p.add(at).cast()) };
    }
}

#[inline(always)]
pub(super) fn prefetch_read(p: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..bytes).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(at).cast()) };
    }
}

pub(super) fn position(offset: usize, strides: &[isize], index: &[usize]) -> isize {
    offset as isize + strides.iter().zip(index).map(|(&s, &i)| s * i as isize).sum::<isize>()
}

/// Calls `f(place in the tile, position in the buffer, length, stride)` for each stretch of a tile along the last dimension.
#[inline(always)]
pub(super) fn segments(
    shape: &[usize],
    strides: &[isize],
    offset: usize,
    index: &[usize],
    tile: Tile,
    mut f: impl FnMut(usize, isize, usize, isize),
) {
    let last = shape.len() - 1;
    let mut pos = position(offset, strides, index);
    match tile {
        Tile::Box { dim, rows, cols, .. } => {
            for r in 0..rows {
                f(r * cols, pos + r as isize * strides[dim], cols, strides[last]);
            }
        }
        Tile::Run { n, .. } => {
            let mut len = (shape[last] - index[last]).min(n);
            f(0, pos, len, strides[last]);
            let mut done = len;
            if done == n {
                return;
            }
            let mut index: SmallVec<[usize; 8]> = index.into();
            pos -= strides[last] * index[last] as isize;
            index[last] = 0;
            while done < n {
                for d in (0..last).rev() {
                    index[d] += 1;
                    pos += strides[d];
                    if index[d] < shape[d] {
                        break;
                    }
                    pos -= strides[d] * shape[d] as isize;
                    index[d] = 0;
                }
                len = shape[last].min(n - done);
                f(done, pos, len, strides[last]);
                done += len;
            }
        }
    }
}

/// Collects a tile of an operand's elements, whatever its strides.
pub(super) unsafe fn gather<T: Copy>(code: &Code, o: &Operand, base: *mut u8, index: &[usize], tile: Tile, dst: *mut u8) {
    let (base, dst) = (base.cast::<T>().cast_const(), dst.cast::<T>());
    unsafe {
        if let Tile::Box { dim, rows, cols, .. } = tile {
            let (down, across) = (o.strides[dim], *o.strides.last().unwrap_or(&0));
            if across.unsigned_abs() > down.unsigned_abs() && down != 0 {
                let src = base.offset(position(o.offset, &o.strides, index));
                return transpose(src, down, across, rows, cols, dst);
            }
        }
        segments(code.shape, &o.strides, o.offset, index, tile, |at, pos, len, stride| {
            let (src, dst) = (base.offset(pos), dst.add(at));
            match stride {
                1 => std::ptr::copy_nonoverlapping(src, dst, len),
                0 => {
                    let v = *src;
                    (0..len).for_each(|i| *dst.add(i) = v);
                }
                _ => (0..len).for_each(|i| *dst.add(i) = *src.offset(i as isize * stride)),
            }
        });
    }
}

multiversion! {
    /// `dst[r][c] = src[r · down + c · across]`, reading along `down`.
    pub(super) unsafe fn transpose[T: Copy](src: *const T, down: isize, across: isize, rows: usize, cols: usize, dst: *mut T) {
        // For the box below, which comes next.
        for c in 0..cols {
            let next = src.wrapping_offset(rows as isize * down + c as isize * across);
            prefetch_read(next.cast(), rows * size_of::<T>());
        }
        let (mut r0, mut c0) = (0, 0);
        if down == 1 {
            // Squares of eight, which LLVM turns within registers.
            c0 = cols / 8 * 8;
            r0 = rows / 8 * 8;
            for c in (0..c0).step_by(8) {
                for r in (0..r0).step_by(8) {
                    let src = src.offset(r as isize + c as isize * across);
                    let x: [[T; 8]; 8] = std::array::from_fn(|j| *src.offset(j as isize * across).cast());
                    for i in 0..8 {
                        *dst.add((r + i) * cols + c).cast::<[T; 8]>() = std::array::from_fn(|j| x[j][i]);
                    }
                }
            }
        }
        for c in 0..cols {
            let src = src.offset(c as isize * across);
            for r in if c < c0 { r0 } else { 0 }..rows {
                *dst.add(r * cols + c) = *src.offset(r as isize * down);
            }
        }
    }
}

multiversion! {
    pub(super) unsafe fn fill[T: Copy](n: usize, v: T, dst: *mut T) {
        for i in 0..n {
            *dst.add(i) = v;
        }
    }
}

multiversion! {
    pub(super) unsafe fn iota(n: usize, first: u32, step: u32, dst: *mut u32) {
        for i in 0..n {
            *dst.add(i) = first.wrapping_add((i as u32).wrapping_mul(step));
        }
    }
}

pub(super) unsafe fn fill_sized(size: usize, n: usize, src: *const u8, dst: *mut u8) {
    unsafe {
        match size {
            1 => fill(n, *src, dst),
            2 => fill(n, *src.cast::<u16>(), dst.cast()),
            4 => fill(n, *src.cast::<u32>(), dst.cast()),
            _ => fill(n, *src.cast::<u64>(), dst.cast()),
        }
    }
}

pub(super) unsafe fn fill_scalar(v: Scalar, dtype: DType, n: usize, dst: *mut u8) {
    unsafe {
        match dtype {
            DType::Bool => fill(n, v.as_bool() as u8, dst),
            DType::U8 => fill(n, v.as_i64() as u8, dst),
            DType::I32 => fill(n, v.as_i64() as i32, dst.cast()),
            DType::U32 => fill(n, v.as_i64() as u32, dst.cast()),
            DType::I64 => fill(n, v.as_i64(), dst.cast()),
            DType::F64 => fill(n, v.as_f64(), dst.cast()),
            DType::F32 | DType::F16 | DType::BF16 => fill(n, v.as_f64() as f32, dst.cast()),
        }
    }
}

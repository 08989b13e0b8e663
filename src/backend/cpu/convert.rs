//! Conversions between dtypes over tiles: the rules of `Instr::Cast`, and f16 and bf16 to and from f32.

use super::simd::multiversion;
use crate::DType;
use crate::codegen::program::TileFn;
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

/// Widens `n` elements of f16 or bf16 in memory to f32.
///
/// # Safety
/// `src` must be valid for `n` elements of `dtype`, `dst` for `n` of f32; they do not overlap.
pub(crate) unsafe fn widen(dtype: DType, n: usize, src: *const u8, dst: *mut f32) {
    unsafe {
        match dtype {
            DType::F16 => widen_f16(n, src.cast(), dst),
            _ => widen_bf16(n, src.cast(), dst),
        }
    }
}

/// Rounds `n` elements of f32 to f16 or bf16 in memory, to nearest even.
///
/// # Safety
/// `src` must be valid for `n` elements of f32, `dst` for `n` of `dtype`; they do not overlap.
pub(crate) unsafe fn narrow(dtype: DType, n: usize, src: *const f32, dst: *mut u8) {
    unsafe {
        match dtype {
            DType::F16 => narrow_f16(n, src, dst.cast()),
            _ => narrow_bf16(n, src, dst.cast()),
        }
    }
}

multiversion! {
    unsafe fn widen_bf16(n: usize, src: *const u16, dst: *mut f32) {
        for i in 0..n {
            *dst.add(i) = f32::from_bits((*src.add(i) as u32) << 16);
        }
    }
}

/// The bits of the nearest bf16, ties to even, in the lower half. NaN stays NaN.
#[inline(always)]
fn bf16_bits(x: f32) -> u32 {
    let b = x.to_bits();
    let rounded = b.wrapping_add(0x7fff + ((b >> 16) & 1)) >> 16;
    if x.is_nan() { (b >> 16) | 0x40 } else { rounded }
}

multiversion! {
    unsafe fn narrow_bf16(n: usize, src: *const f32, dst: *mut u16) {
        for i in 0..n {
            *dst.add(i) = bf16_bits(*src.add(i)) as u16;
        }
    }
}

multiversion! {
    unsafe fn round_bf16(n: usize, x: *mut f32) {
        for i in 0..n {
            *x.add(i) = f32::from_bits(bf16_bits(*x.add(i)) << 16);
        }
    }
}

unsafe fn widen_f16(n: usize, src: *const u16, dst: *mut f32) {
    let done = match () {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level says that the processor has F16C.
        () if super::simd::level() >= super::simd::Level::Avx2 => unsafe { f16c::widen(n, src, dst) },
        () => 0,
    };
    // SAFETY: the caller's promise.
    unsafe {
        let rest: &[f16] = std::slice::from_raw_parts(src.add(done), n - done).reinterpret_cast();
        rest.convert_to_f32_slice(std::slice::from_raw_parts_mut(dst.add(done), n - done));
    }
}

unsafe fn narrow_f16(n: usize, src: *const f32, dst: *mut u16) {
    let done = match () {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level says that the processor has F16C.
        () if super::simd::level() >= super::simd::Level::Avx2 => unsafe { f16c::narrow(n, src, dst) },
        () => 0,
    };
    // SAFETY: the caller's promise.
    unsafe {
        let rest: &mut [f16] = std::slice::from_raw_parts_mut(dst.add(done), n - done).reinterpret_cast_mut();
        rest.convert_from_f32_slice(std::slice::from_raw_parts(src.add(done), n - done));
    }
}

unsafe fn round_f16(n: usize, x: *mut f32) {
    let mut bits = [0u16; 128];
    for start in (0..n).step_by(128) {
        let len = (n - start).min(128);
        // SAFETY: the caller's promise.
        unsafe {
            narrow_f16(len, x.add(start), bits.as_mut_ptr());
            widen_f16(len, bits.as_ptr(), x.add(start));
        }
    }
}

/// Eight at a time in hardware; both return how many they did.
#[cfg(target_arch = "x86_64")]
mod f16c {
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx,f16c")]
    pub unsafe fn widen(n: usize, src: *const u16, dst: *mut f32) -> usize {
        for i in (0..n / 8 * 8).step_by(8) {
            unsafe { _mm256_storeu_ps(dst.add(i), _mm256_cvtph_ps(_mm_loadu_si128(src.add(i).cast()))) };
        }
        n / 8 * 8
    }

    #[target_feature(enable = "avx,f16c")]
    pub unsafe fn narrow(n: usize, src: *const f32, dst: *mut u16) -> usize {
        for i in (0..n / 8 * 8).step_by(8) {
            unsafe { _mm_storeu_si128(dst.add(i).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(src.add(i)))) };
        }
        n / 8 * 8
    }
}

multiversion! {
    unsafe fn convert[S: Copy, D, F: Fn(S) -> D](n: usize, src: *const S, dst: *mut D, f: F) {
        for i in 0..n {
            *dst.add(i) = f(*src.add(i));
        }
    }
}

/// The tile function of a conversion between two compute dtypes, or from one to f16 or bf16 (which rounds and stays f32).
pub(crate) fn cast(from: DType, to: DType) -> TileFn {
    macro_rules! to {
        ($s:ty, $zero:expr) => {
            match to {
                DType::Bool => |n, a, o| unsafe { convert(n, a[0].cast(), o, |x: $s| (x != $zero) as u8) },
                DType::U8 => |n, a, o| unsafe { convert(n, a[0].cast(), o, |x: $s| x as u8) },
                DType::I32 => |n, a, o| unsafe { convert(n, a[0].cast(), o.cast(), |x: $s| x as i32) },
                DType::U32 => |n, a, o| unsafe { convert(n, a[0].cast(), o.cast(), |x: $s| x as u32) },
                DType::I64 => |n, a, o| unsafe { convert(n, a[0].cast(), o.cast(), |x: $s| x as i64) },
                DType::F32 => |n, a, o| unsafe { convert(n, a[0].cast(), o.cast(), |x: $s| x as f32) },
                DType::F64 => |n, a, o| unsafe { convert(n, a[0].cast(), o.cast(), |x: $s| x as f64) },
                DType::F16 => |n, a, o| unsafe {
                    convert(n, a[0].cast(), o.cast(), |x: $s| x as f32);
                    round_f16(n, o.cast());
                },
                DType::BF16 => |n, a, o| unsafe {
                    convert(n, a[0].cast(), o.cast(), |x: $s| x as f32);
                    round_bf16(n, o.cast());
                },
            }
        };
    }
    match from.compute() {
        DType::Bool | DType::U8 => to!(u8, 0),
        DType::I32 => to!(i32, 0),
        DType::U32 => to!(u32, 0),
        DType::I64 => to!(i64, 0),
        DType::F64 => to!(f64, 0.0),
        DType::F32 | DType::F16 | DType::BF16 => to!(f32, 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn half_formats_agree_with_the_scalar_code() {
        let mut x: Vec<f32> = (0..777).map(|i| (i as f32 - 300.0) * 1.37e-3 * (i % 17) as f32).collect();
        x.extend([f32::NAN, f32::INFINITY, -f32::INFINITY, 65504.0, 65520.0, 1e-8, 6e-8, -0.0, 3.4e38, 1.00390625, 1.01171875]);
        let n = x.len();
        for dtype in [DType::F16, DType::BF16] {
            let (mut bits, mut back, mut round) = (vec![0u16; n], vec![0f32; n], vec![0f32; n]);
            unsafe {
                narrow(dtype, n, x.as_ptr(), bits.as_mut_ptr().cast());
                widen(dtype, n, bits.as_ptr().cast(), back.as_mut_ptr());
                cast(DType::F32, dtype)(n, &[x.as_ptr().cast()], round.as_mut_ptr().cast());
            }
            for i in 0..n {
                let want = if dtype == DType::F16 { f16::from_f32(x[i]).to_f32() } else { bf16::from_f32(x[i]).to_f32() };
                assert!(back[i].to_bits() == want.to_bits() || (want.is_nan() && back[i].is_nan()), "{dtype} {} {} {want}", x[i], back[i]);
                assert!(round[i].to_bits() == back[i].to_bits(), "{dtype} {}", x[i]);
            }
        }
    }

    #[test]
    fn casts_truncate_and_saturate() {
        let x = [1.9f32, -1.9, 300.0, f32::NAN, -0.0, 3e9];
        let (mut i, mut u, mut b) = ([0i32; 6], [0u8; 6], [0u8; 6]);
        unsafe {
            cast(DType::F32, DType::I32)(6, &[x.as_ptr().cast()], i.as_mut_ptr().cast());
            cast(DType::F32, DType::U8)(6, &[x.as_ptr().cast()], u.as_mut_ptr());
            cast(DType::F32, DType::Bool)(6, &[x.as_ptr().cast()], b.as_mut_ptr());
        }
        assert_eq!(i, [1, -1, 300, 0, 0, i32::MAX]);
        assert_eq!(u, [1, 0, 255, 0, 0, 255]);
        assert_eq!(b, [1, 1, 1, 1, 0, 1]);
    }
}

//! Run-time choice of the instruction set: code is compiled for AVX-512, AVX2 and the baseline, and the first call looks at the processor.
//!
//! [`multiversion!`] wraps a function whose loops LLVM vectorises. Nothing here contracts `a * b + c` into one rounding, so a loop gives the
//! same bits on every instruction set as long as it does not call `mul_add` and sums in an order of its own.

use std::sync::atomic::{AtomicU8, Ordering};

/// What the processor offers. On aarch64 NEON is the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Level {
    Baseline = 1,
    /// AVX2 with FMA and F16C.
    Avx2 = 2,
    /// AVX-512 F, BW, DQ and VL besides.
    Avx512 = 3,
}

static LEVEL: AtomicU8 = AtomicU8::new(0);

/// The instruction set in use: found out once.
#[inline(always)]
pub(crate) fn level() -> Level {
    match LEVEL.load(Ordering::Relaxed) {
        3 => Level::Avx512,
        2 => Level::Avx2,
        1 => Level::Baseline,
        _ => detect(),
    }
}

#[cold]
fn detect() -> Level {
    let found = processor();
    LEVEL.store(found as u8, Ordering::Relaxed);
    found
}

/// What the processor offers, whatever is in use.
pub(crate) fn processor() -> Level {
    #[cfg(target_arch = "x86_64")]
    let found = {
        use std::arch::is_x86_feature_detected as has;
        let v3 = has!("avx2") && has!("fma") && has!("f16c") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("popcnt");
        let v4 = v3 && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("avx512cd");
        match (v3, v4) {
            (_, true) => Level::Avx512,
            (true, _) => Level::Avx2,
            _ => Level::Baseline,
        }
    };
    #[cfg(not(target_arch = "x86_64"))]
    let found = Level::Baseline;
    found
}

/// Holds the level down to compare instruction sets. Other tests may run meanwhile: by the rule above they cannot tell.
#[cfg(test)]
pub(crate) fn limit(to: Level) {
    LEVEL.store(detect().min(to) as u8, Ordering::Relaxed);
}

/// Defines a function that runs its body compiled for the best instruction set at hand.
///
/// Generic parameters stand in square brackets and must follow from the argument types. What the body calls must be `#[inline(always)]`
/// (or small) to be compiled for the instruction set too; a function argument is best a generic `F: Fn`, given a named inline function.
/// The call costs one load and a predictable branch, so give it whole tiles and not elements.
///
/// ```ignore
/// multiversion! {
///     /// out[i] = f(x[i])
///     pub(crate) fn map[T: Copy, F: Fn(T) -> T](x: &[T], out: &mut [T], f: F) {
///         for (o, &x) in out.iter_mut().zip(x) { *o = f(x); }
///     }
/// }
/// ```
macro_rules! multiversion {
    ($(#[$m:meta])* $vis:vis fn $name:ident $([$($g:tt)*])? ($($a:ident : $t:ty),* $(,)?) $(-> $r:ty)? $body:block) => {
        $(#[$m])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $(<$($g)*>)? ($($a: $t),*) $(-> $r)? {
            #[inline(always)]
            fn body $(<$($g)*>)? ($($a: $t),*) $(-> $r)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
                fn v4 $(<$($g)*>)? ($($a: $t),*) $(-> $r)? { body($($a),*) }
                #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
                fn v3 $(<$($g)*>)? ($($a: $t),*) $(-> $r)? { body($($a),*) }
                match $crate::backend::cpu::simd::level() {
                    // SAFETY: the processor has these instructions.
                    $crate::backend::cpu::simd::Level::Avx512 => return unsafe { v4($($a),*) },
                    $crate::backend::cpu::simd::Level::Avx2 => return unsafe { v3($($a),*) },
                    $crate::backend::cpu::simd::Level::Baseline => {}
                }
            }
            body($($a),*)
        }
    };
    ($(#[$m:meta])* $vis:vis unsafe fn $name:ident $([$($g:tt)*])? ($($a:ident : $t:ty),* $(,)?) $(-> $r:ty)? $body:block) => {
        $(#[$m])*
        #[allow(clippy::too_many_arguments, clippy::missing_safety_doc)]
        $vis unsafe fn $name $(<$($g)*>)? ($($a: $t),*) $(-> $r)? {
            #[inline(always)]
            unsafe fn body $(<$($g)*>)? ($($a: $t),*) $(-> $r)? { unsafe { $body } }
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
                unsafe fn v4 $(<$($g)*>)? ($($a: $t),*) $(-> $r)? { unsafe { body($($a),*) } }
                #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
                unsafe fn v3 $(<$($g)*>)? ($($a: $t),*) $(-> $r)? { unsafe { body($($a),*) } }
                match $crate::backend::cpu::simd::level() {
                    // SAFETY: the processor has these instructions; the rest is the caller's promise.
                    $crate::backend::cpu::simd::Level::Avx512 => return unsafe { v4($($a),*) },
                    $crate::backend::cpu::simd::Level::Avx2 => return unsafe { v3($($a),*) },
                    $crate::backend::cpu::simd::Level::Baseline => {}
                }
            }
            unsafe { body($($a),*) }
        }
    };
}
pub(crate) use multiversion;

#[cfg(test)]
mod tests {
    use super::*;

    multiversion! {
        fn axpy[T: Copy, F: Fn(T, T) -> T](x: &[T], y: &mut [T], f: F) -> usize {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = f(*y, x);
            }
            x.len()
        }
    }

    multiversion! {
        unsafe fn negate(n: usize, x: *const f32, y: *mut f32) {
            for i in 0..n {
                *y.add(i) = -*x.add(i);
            }
        }
    }

    #[test]
    fn the_level_does_not_change_a_bit() {
        let x: Vec<f32> = (0..1000).map(|i| (i as f32).sin()).collect();
        let mut results = Vec::new();
        for to in [Level::Baseline, Level::Avx2, Level::Avx512] {
            limit(to);
            let mut y = x.clone();
            assert_eq!(axpy(&x, &mut y, |y, x| y * 0.3 + x * 1.7 - 0.1), 1000);
            let mut z = vec![0.0; 1000];
            unsafe { negate(1000, y.as_ptr(), z.as_mut_ptr()) };
            results.push(z);
        }
        assert!(results.windows(2).all(|w| w[0] == w[1]));
    }
}

//! The CPU bodies of the pointwise ops: scalar functions over all dtypes, and the loops over tiles, compiled for each instruction set.

#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::simd;
use crate::codegen::math;
use crate::codegen::program::TileFn;

/// A bool in a register: one byte, 0 or 1.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
#[repr(transparent)]
pub(crate) struct Truth(pub u8);

/// A loop over a tile.
pub(crate) trait Tile {
    /// # Safety
    /// As [`TileFn`].
    unsafe fn run(n: usize, args: &[*const u8], out: *mut u8);
}

/// The loop, compiled for this machine. LLVM never contracts a product and a sum, so the versions give the same bits.
pub(crate) fn versions<T: Tile>() -> TileFn {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
        unsafe fn v3<T: Tile>(n: usize, args: &[*const u8], out: *mut u8) {
            unsafe { T::run(n, args, out) }
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
        unsafe fn v4<T: Tile>(n: usize, args: &[*const u8], out: *mut u8) {
            unsafe { T::run(n, args, out) }
        }
        match simd::level() {
            simd::Level::Avx512 => return v4::<T>,
            simd::Level::Avx2 => return v3::<T>,
            simd::Level::Baseline => {}
        }
    }
    T::run
}

/// `n` elements from a pointer.
///
/// # Safety
/// The pointer is valid for `n` elements while the slice lives.
#[inline(always)]
unsafe fn slice<'a, T>(p: *const u8, n: usize) -> &'a [T] {
    unsafe { std::slice::from_raw_parts(p as *const T, n) }
}

#[inline(always)]
fn loop1<A: Copy, R>(a: &[A], out: &mut [R], f: impl Fn(A) -> R) {
    for (o, &a) in out.iter_mut().zip(a) {
        *o = f(a)
    }
}

#[inline(always)]
fn loop2<A: Copy, B: Copy, R>(a: &[A], b: &[B], out: &mut [R], f: impl Fn(A, B) -> R) {
    for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *o = f(a, b)
    }
}

#[inline(always)]
fn loop3<A: Copy, B: Copy, C: Copy, R>(a: &[A], b: &[B], c: &[C], out: &mut [R], f: impl Fn(A, B, C) -> R) {
    for (((o, &a), &b), &c) in out.iter_mut().zip(a).zip(b).zip(c) {
        *o = f(a, b, c)
    }
}

/// Applies a function of one argument.
///
/// # Safety
/// As [`TileFn`], with argument and result types `A` and `R`.
#[inline(always)]
pub(crate) unsafe fn map1<A: Copy, R>(n: usize, args: &[*const u8], out: *mut u8, f: impl Fn(A) -> R) {
    unsafe { loop1(slice::<A>(args[0], n), std::slice::from_raw_parts_mut(out as *mut R, n), f) }
}

/// Applies a function of two arguments.
///
/// # Safety
/// As [`map1`].
#[inline(always)]
pub(crate) unsafe fn map2<A: Copy, B: Copy, R>(n: usize, args: &[*const u8], out: *mut u8, f: impl Fn(A, B) -> R) {
    unsafe { loop2(slice::<A>(args[0], n), slice::<B>(args[1], n), std::slice::from_raw_parts_mut(out as *mut R, n), f) }
}

/// Applies a function of three arguments.
///
/// # Safety
/// As [`map1`].
#[inline(always)]
pub(crate) unsafe fn map3<A: Copy, B: Copy, C: Copy, R>(n: usize, args: &[*const u8], out: *mut u8, f: impl Fn(A, B, C) -> R) {
    unsafe {
        let (a, b, c) = (slice::<A>(args[0], n), slice::<B>(args[1], n), slice::<C>(args[2], n));
        loop3(a, b, c, std::slice::from_raw_parts_mut(out as *mut R, n), f)
    }
}

/// `fast` where |x| ≤ limit, then `slow` for the other elements.
///
/// # Safety
/// As [`map1`], for f32.
#[inline(always)]
pub(crate) unsafe fn map_within(n: usize, args: &[*const u8], out: *mut u8, limit: f32, fast: impl Fn(f32) -> f32, slow: fn(f32) -> f32) {
    let (a, o) = unsafe { (slice::<f32>(args[0], n), std::slice::from_raw_parts_mut(out as *mut f32, n)) };
    loop1(a, o, fast);
    if a.iter().fold(false, |any, x| any | (x.abs() > limit)) {
        for (o, &x) in o.iter_mut().zip(a).filter(|(_, x)| x.abs() > limit) {
            *o = slow(x)
        }
    }
}

/// A [`TileFn`] from a function of typed arguments: `tile!(map1, f32 => f32, |x| x + 1.0)`.
macro_rules! tile {
    ($map:ident, $($a:ty),+ => $r:ty, $f:expr) => {{
        struct F;
        impl $crate::ops::pointwise::tile::Tile for F {
            #[inline(always)]
            unsafe fn run(n: usize, args: &[*const u8], out: *mut u8) {
                unsafe { $crate::ops::pointwise::tile::$map::<$($a,)+ $r>(n, args, out, $f) }
            }
        }
        Some($crate::ops::pointwise::tile::versions::<F>())
    }};
}
pub(crate) use tile;

/// Arithmetic over every compute dtype, by PyTorch's rules. Integers wrap. What divides by an integer zero gives 0.
pub(crate) trait Num: Copy + PartialEq + PartialOrd {
    fn add(self, o: Self) -> Self;
    fn sub(self, o: Self) -> Self;
    fn mul(self, o: Self) -> Self;
    fn neg(self) -> Self;
    fn abs(self) -> Self;
    fn sign(self) -> Self;
    /// max(x, 0), NaN for NaN.
    fn relu(self) -> Self;
    fn maximum(self, o: Self) -> Self;
    fn minimum(self, o: Self) -> Self;
    /// The remainder with the sign of the dividend.
    fn fmod(self, o: Self) -> Self;
    /// The remainder with the sign of the divisor.
    fn rem(self, o: Self) -> Self;
    /// The quotient, rounded down.
    fn floor_div(self, o: Self) -> Self;
    fn pow(self, o: Self) -> Self;
}

macro_rules! float_num {
    ($t:ty, $pow:expr) => {
        impl Num for $t {
            #[inline(always)]
            fn add(self, o: Self) -> Self {
                self + o
            }
            #[inline(always)]
            fn sub(self, o: Self) -> Self {
                self - o
            }
            #[inline(always)]
            fn mul(self, o: Self) -> Self {
                self * o
            }
            #[inline(always)]
            fn neg(self) -> Self {
                -self
            }
            #[inline(always)]
            fn abs(self) -> Self {
                <$t>::abs(self)
            }
            #[inline(always)]
            fn sign(self) -> Self {
                let s = if self < 0.0 { -1.0 } else { 0.0 };
                let s = if self > 0.0 { 1.0 } else { s };
                if self.is_nan() { self } else { s }
            }
            #[inline(always)]
            fn relu(self) -> Self {
                if self < 0.0 { 0.0 } else { self }
            }
            #[inline(always)]
            fn maximum(self, o: Self) -> Self {
                let m = if self > o { self } else { o };
                if self.is_nan() { self } else { m }
            }
            #[inline(always)]
            fn minimum(self, o: Self) -> Self {
                let m = if self < o { self } else { o };
                if self.is_nan() { self } else { m }
            }
            #[inline(always)]
            fn fmod(self, o: Self) -> Self {
                self % o
            }
            #[inline(always)]
            fn rem(self, o: Self) -> Self {
                let m = self % o;
                if m != 0.0 && ((o < 0.0) != (m < 0.0)) { m + o } else { m }
            }
            #[inline(always)]
            fn floor_div(self, o: Self) -> Self {
                if o == 0.0 {
                    return self / o;
                }
                let m = self % o;
                let d = (self - m) / o;
                let d = if m != 0.0 && ((o < 0.0) != (m < 0.0)) { d - 1.0 } else { d };
                let f = d.floor();
                let f = if d - f > 0.5 { f + 1.0 } else { f };
                if d == 0.0 { (0.0 as $t).copysign(self / o) } else { f }
            }
            #[inline(always)]
            fn pow(self, o: Self) -> Self {
                $pow(self, o)
            }
        }
    };
}
float_num!(f32, math::pow);
float_num!(f64, f64::powf);

macro_rules! int_num {
    ($t:ty, $abs:expr, $sign:expr, $negative:expr) => {
        impl Num for $t {
            #[inline(always)]
            fn add(self, o: Self) -> Self {
                self.wrapping_add(o)
            }
            #[inline(always)]
            fn sub(self, o: Self) -> Self {
                self.wrapping_sub(o)
            }
            #[inline(always)]
            fn mul(self, o: Self) -> Self {
                self.wrapping_mul(o)
            }
            #[inline(always)]
            fn neg(self) -> Self {
                self.wrapping_neg()
            }
            #[inline(always)]
            fn abs(self) -> Self {
                $abs(self)
            }
            #[inline(always)]
            fn sign(self) -> Self {
                $sign(self)
            }
            #[inline(always)]
            fn relu(self) -> Self {
                self.max(0)
            }
            #[inline(always)]
            fn maximum(self, o: Self) -> Self {
                self.max(o)
            }
            #[inline(always)]
            fn minimum(self, o: Self) -> Self {
                self.min(o)
            }
            #[inline(always)]
            fn fmod(self, o: Self) -> Self {
                if o == 0 { 0 } else { self.wrapping_rem(o) }
            }
            #[inline(always)]
            fn rem(self, o: Self) -> Self {
                let m = Num::fmod(self, o);
                if m != 0 && $negative(m) != $negative(o) { m.wrapping_add(o) } else { m }
            }
            #[inline(always)]
            fn floor_div(self, o: Self) -> Self {
                if o == 0 {
                    return 0;
                }
                let down = self.wrapping_rem(o) != 0 && $negative(self) != $negative(o);
                self.wrapping_div(o).wrapping_sub(down as $t)
            }
            fn pow(self, o: Self) -> Self {
                if $negative(o) {
                    // The truncated reciprocal: ±1 of ±1, else 0.
                    let one: $t = 1;
                    return if self == 1 {
                        1
                    } else if self.wrapping_add(one) == 0 {
                        if o & 1 == 0 { 1 } else { self }
                    } else {
                        0
                    };
                }
                let (mut base, mut e, mut y): (Self, Self, Self) = (self, o, 1);
                while e > 0 {
                    if e & 1 == 1 {
                        y = y.wrapping_mul(base);
                    }
                    base = base.wrapping_mul(base);
                    e >>= 1;
                }
                y
            }
        }
    };
}
int_num!(i32, i32::wrapping_abs, i32::signum, |x: i32| x < 0);
int_num!(i64, i64::wrapping_abs, i64::signum, |x: i64| x < 0);
int_num!(u8, |x| x, |x: u8| (x > 0) as u8, |_: u8| false);
int_num!(u32, |x| x, |x: u32| (x > 0) as u32, |_: u32| false);

/// Bits and shifts. A shift by a negative count, or by the width or more, leaves the sign bit's copies (right) or nothing (left).
pub(crate) trait Bits: Copy {
    fn and(self, o: Self) -> Self;
    fn or(self, o: Self) -> Self;
    fn xor(self, o: Self) -> Self;
    fn not(self) -> Self;
    fn shl(self, o: Self) -> Self;
    fn shr(self, o: Self) -> Self;
}

macro_rules! int_bits {
    ($($t:ty),*) => { $(
        impl Bits for $t {
            #[inline(always)]
            fn and(self, o: Self) -> Self {
                self & o
            }
            #[inline(always)]
            fn or(self, o: Self) -> Self {
                self | o
            }
            #[inline(always)]
            fn xor(self, o: Self) -> Self {
                self ^ o
            }
            #[inline(always)]
            fn not(self) -> Self {
                !self
            }
            #[inline(always)]
            fn shl(self, o: Self) -> Self {
                let inside = (o as u64) < <$t>::BITS as u64;
                if inside { self << (o as u32 & (<$t>::BITS - 1)) } else { 0 }
            }
            #[inline(always)]
            fn shr(self, o: Self) -> Self {
                let inside = (o as u64) < <$t>::BITS as u64;
                #[allow(unused_comparisons)]
                let sign = if self < 0 { !0 } else { 0 };
                if inside { self >> (o as u32 & (<$t>::BITS - 1)) } else { sign }
            }
        }
    )* };
}
int_bits!(u8, i32, u32, i64);

impl Bits for Truth {
    #[inline(always)]
    fn and(self, o: Self) -> Self {
        Truth(self.0 & o.0)
    }
    #[inline(always)]
    fn or(self, o: Self) -> Self {
        Truth(self.0 | o.0)
    }
    #[inline(always)]
    fn xor(self, o: Self) -> Self {
        Truth(self.0 ^ o.0)
    }
    #[inline(always)]
    fn not(self) -> Self {
        Truth(self.0 ^ 1)
    }
    fn shl(self, _: Self) -> Self {
        self
    }
    fn shr(self, _: Self) -> Self {
        self
    }
}

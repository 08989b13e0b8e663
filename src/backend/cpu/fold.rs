//! The arithmetic of reductions: for each kind and dtype, how elements gather in lanes, lanes in accumulators, accumulators in results.
//!
//! Sums of f32 add at most 32 elements one after another in an f32 lane; lanes meet in a tree, and what they give is added up in f64. So the
//! error stays near that of one rounding whatever the length. Products of floats are taken in f64, integers in i64 (wrapping).

use super::simd::multiversion;
use crate::DType;
use crate::codegen::kernel::ReduceKind;
use half::{bf16, f16};
use std::marker::PhantomData;

/// Elements of a row that lanes take before they meet.
pub(super) const CHUNK: usize = 512;

/// Numbers that can be reduced.
trait Num: Copy + PartialOrd + Send + Sync + 'static {
    const LOWEST: Self;
    const HIGHEST: Self;
    const ZERO: Self;
    fn is_nan(self) -> bool;
    fn f64(self) -> f64;
    fn i64(self) -> i64;
}

macro_rules! nums {
    ($($t:ty, $lowest:expr, $highest:expr, $nan:expr);*) => { $(
        impl Num for $t {
            const LOWEST: $t = $lowest;
            const HIGHEST: $t = $highest;
            const ZERO: $t = 0 as $t;
            #[inline(always)]
            fn is_nan(self) -> bool {
                let nan: fn($t) -> bool = $nan;
                nan(self)
            }
            #[inline(always)]
            fn f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn i64(self) -> i64 {
                self as i64
            }
        }
    )* };
}
nums! {
    u8, 0, u8::MAX, |_| false;
    i32, i32::MIN, i32::MAX, |_| false;
    u32, 0, u32::MAX, |_| false;
    i64, i64::MIN, i64::MAX, |_| false;
    f32, f32::NEG_INFINITY, f32::INFINITY, |x| x.is_nan();
    f64, f64::NEG_INFINITY, f64::INFINITY, |x| x.is_nan()
}

/// One kind of reduction of one dtype.
trait Fold: 'static {
    type In: Copy + 'static;
    type Lane: Copy + 'static;
    type Acc: Copy + 'static;
    const LANE: Self::Lane;
    const ACC: Self::Acc;
    /// Element number `s` of this lane.
    fn lane(l: Self::Lane, x: Self::In, s: u32) -> Self::Lane;
    fn meet(a: Self::Lane, b: Self::Lane) -> Self::Lane;
    /// A lane whose element `s` has the position `at + s · step`.
    fn widen(l: Self::Lane, at: usize, step: usize) -> Self::Acc;
    fn join(a: Self::Acc, b: Self::Acc) -> Self::Acc;
    /// The numbers of the result.
    fn value(a: Self::Acc) -> impl Num;

    /// A stretch of a row that begins at position `at`.
    #[inline(always)]
    fn row(x: &[Self::In], at: usize, mut acc: Self::Acc) -> Self::Acc {
        for (i, x) in x.chunks(CHUNK).enumerate() {
            acc = Self::join(acc, Self::widen(chunk::<Self>(x), at + i * CHUNK, 0));
        }
        acc
    }
}

/// At most [`CHUNK`] elements of a row, in lanes that meet in a tree.
#[inline(always)]
fn chunk<F: Fold + ?Sized>(x: &[F::In]) -> F::Lane {
    match x.len() {
        128.. => lanes::<F, 64>(x),
        16.. => lanes::<F, 16>(x),
        4.. => lanes::<F, 4>(x),
        _ => x.iter().fold(F::LANE, |l, &x| F::lane(l, x, 0)),
    }
}

#[inline(always)]
fn lanes<F: Fold + ?Sized, const W: usize>(x: &[F::In]) -> F::Lane {
    let mut l = [F::LANE; W];
    let (blocks, rest) = x.as_chunks::<W>();
    for b in blocks {
        for i in 0..W {
            l[i] = F::lane(l[i], b[i], 0);
        }
    }
    for (l, &x) in l.iter_mut().zip(rest) {
        *l = F::lane(*l, x, 0);
    }
    // Constant bounds, so that the lanes stay in registers.
    macro_rules! meet {
        ($($w:literal)*) => { $(
            if W > $w {
                for i in 0..$w {
                    l[i] = F::meet(l[i], l[(i + $w) % W]);
                }
            }
        )* };
    }
    meet!(32 16 8 4 2 1);
    l[0]
}

/// The same for every type: what `reduce` works with. Pointers are to elements, lanes or accumulators of the fold.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    pub lane_bytes: usize,
    pub acc_bytes: usize,
    /// Sets `n` lanes to the start.
    pub start_lanes: unsafe fn(n: usize, lanes: *mut u8),
    /// Sets `n` accumulators to the start.
    pub start: unsafe fn(n: usize, acc: *mut u8),
    /// `rows` rows of `len` neighbours, each beginning at position `at`, into an accumulator each.
    pub rows: unsafe fn(x: *const u8, rows: usize, len: usize, at: usize, acc: *mut u8),
    /// `rows` rows of `width` elements, number `s` and following, into `width` lanes.
    pub columns: unsafe fn(x: *const u8, rows: usize, width: usize, s: u32, lanes: *mut u8),
    /// `width` lanes into `cols` accumulators: lane `j` belongs to number `j % cols`, and its element `s` has the position
    /// `at + j / cols + s · step`.
    pub flush: unsafe fn(lanes: *const u8, width: usize, cols: usize, at: usize, step: usize, acc: *mut u8),
    /// `a = a joined with b`.
    pub join: unsafe fn(n: usize, a: *mut u8, b: *const u8),
    /// Writes results as `dtype`; `count` is there for means.
    pub finish: unsafe fn(n: usize, acc: *const u8, count: Option<usize>, out: *mut u8, dtype: DType),
}

const fn erase<F: Fold>() -> Kernel {
    Kernel {
        lane_bytes: size_of::<F::Lane>(),
        acc_bytes: size_of::<F::Acc>(),
        start_lanes: |n, lanes| unsafe { std::slice::from_raw_parts_mut(lanes.cast(), n).fill(F::LANE) },
        start: |n, acc| unsafe { std::slice::from_raw_parts_mut(acc.cast(), n).fill(F::ACC) },
        rows: |x, rows, len, at, acc| unsafe {
            let (x, acc) = (std::slice::from_raw_parts(x.cast(), rows * len), std::slice::from_raw_parts_mut(acc.cast(), rows));
            fold_rows(x, len, at, acc, PhantomData::<F>)
        },
        columns: |x, rows, width, s, lanes| unsafe {
            let (x, lanes) = (std::slice::from_raw_parts(x.cast(), rows * width), std::slice::from_raw_parts_mut(lanes.cast(), width));
            fold_columns(x, s, lanes, PhantomData::<F>)
        },
        flush: |lanes, width, cols, at, step, acc| unsafe {
            let (lanes, acc) = (std::slice::from_raw_parts(lanes.cast(), width), std::slice::from_raw_parts_mut(acc.cast(), cols));
            flush(lanes, at, step, acc, PhantomData::<F>)
        },
        join: |n, a, b| unsafe {
            let (a, b): (&mut [F::Acc], _) = (std::slice::from_raw_parts_mut(a.cast(), n), std::slice::from_raw_parts(b.cast(), n));
            a.iter_mut().zip(b).for_each(|(a, &b)| *a = F::join(*a, b));
        },
        finish: |n, acc, count, out, dtype| unsafe { finish::<F>(std::slice::from_raw_parts(acc.cast(), n), count, out, dtype) },
    }
}

multiversion! {
    fn fold_rows[F: Fold](x: &[F::In], len: usize, at: usize, acc: &mut [F::Acc], _fold: PhantomData<F>) {
        for (row, acc) in x.chunks_exact(len).zip(acc) {
            *acc = F::row(row, at, *acc);
        }
    }
}

multiversion! {
    fn fold_columns[F: Fold](x: &[F::In], first: u32, lanes: &mut [F::Lane], _fold: PhantomData<F>) {
        for (s, row) in (first..).zip(x.chunks_exact(lanes.len())) {
            for (l, &x) in lanes.iter_mut().zip(row) {
                *l = F::lane(*l, x, s);
            }
        }
    }
}

multiversion! {
    fn flush[F: Fold](lanes: &[F::Lane], at: usize, step: usize, acc: &mut [F::Acc], _fold: PhantomData<F>) {
        for (g, lanes) in lanes.chunks(acc.len()).enumerate() {
            for (a, &l) in acc.iter_mut().zip(lanes) {
                *a = F::join(*a, F::widen(l, at + g, step));
            }
        }
    }
}

unsafe fn finish<F: Fold>(acc: &[F::Acc], count: Option<usize>, out: *mut u8, dtype: DType) {
    macro_rules! write {
        ($t:ty, $v:expr) => {{
            let v: fn(F::Acc) -> $t = $v;
            // SAFETY: the caller's promise: `out` holds as many elements as `acc`.
            acc.iter().enumerate().for_each(|(i, &a)| unsafe { *out.cast::<$t>().add(i) = v(a) })
        }};
    }
    if let Some(count) = count {
        let mean = |a: F::Acc| F::value(a).f64() / count as f64;
        for (i, &a) in acc.iter().enumerate() {
            let v = mean(a);
            // SAFETY: as above.
            unsafe {
                match dtype {
                    DType::F32 => *out.cast::<f32>().add(i) = v as f32,
                    DType::F16 => *out.cast::<f16>().add(i) = f16::from_f32(v as f32),
                    DType::BF16 => *out.cast::<bf16>().add(i) = bf16::from_f32(v as f32),
                    DType::F64 => *out.cast::<f64>().add(i) = v,
                    DType::I32 => *out.cast::<i32>().add(i) = v as i32,
                    DType::U32 => *out.cast::<u32>().add(i) = v as u32,
                    DType::I64 => *out.cast::<i64>().add(i) = v as i64,
                    DType::U8 => *out.add(i) = v as u8,
                    DType::Bool => *out.add(i) = (v != 0.0) as u8,
                }
            }
        }
        return;
    }
    match dtype {
        DType::F32 => write!(f32, |a| F::value(a).f64() as f32),
        DType::F64 => write!(f64, |a| F::value(a).f64()),
        DType::F16 => write!(f16, |a| f16::from_f32(F::value(a).f64() as f32)),
        DType::BF16 => write!(bf16, |a| bf16::from_f32(F::value(a).f64() as f32)),
        DType::I32 => write!(i32, |a| F::value(a).i64() as i32),
        DType::U32 => write!(u32, |a| F::value(a).i64() as u32),
        DType::I64 => write!(i64, |a| F::value(a).i64()),
        DType::U8 => write!(u8, |a| F::value(a).i64() as u8),
        DType::Bool => write!(u8, |a| (F::value(a).f64() != 0.0) as u8),
    }
}

struct Sum<T>(PhantomData<T>);
struct Prod<T>(PhantomData<T>);

macro_rules! arithmetic {
    ($fold:ident, $start:expr; $($t:ty, $lane:ty, $acc:ty, |$a:ident, $b:ident| $op:expr);* $(;)?) => { $(
        impl Fold for $fold<$t> {
            type In = $t;
            type Lane = $lane;
            type Acc = $acc;
            const LANE: $lane = $start as $lane;
            const ACC: $acc = $start as $acc;
            #[inline(always)]
            fn lane($a: $lane, x: $t, _: u32) -> $lane {
                let $b = x as $lane;
                $op
            }
            #[inline(always)]
            fn meet($a: $lane, $b: $lane) -> $lane {
                $op
            }
            #[inline(always)]
            fn widen(l: $lane, _: usize, _: usize) -> $acc {
                l as $acc
            }
            #[inline(always)]
            fn join($a: $acc, $b: $acc) -> $acc {
                $op
            }
            #[inline(always)]
            fn value(a: $acc) -> impl Num {
                a
            }
        }
    )* };
}
arithmetic! { Sum, 0;
    f32, f32, f64, |a, b| a + b;
    f64, f64, f64, |a, b| a + b;
    u8, i32, i64, |a, b| a.wrapping_add(b);
    i32, i64, i64, |a, b| a.wrapping_add(b);
    u32, i64, i64, |a, b| a.wrapping_add(b);
    i64, i64, i64, |a, b| a.wrapping_add(b);
}
arithmetic! { Prod, 1;
    f32, f64, f64, |a, b| a * b;
    f64, f64, f64, |a, b| a * b;
    u8, i64, i64, |a, b| a.wrapping_mul(b);
    i32, i64, i64, |a, b| a.wrapping_mul(b);
    u32, i64, i64, |a, b| a.wrapping_mul(b);
    i64, i64, i64, |a, b| a.wrapping_mul(b);
}

/// Maximum (`true`) or minimum. NaN wins.
struct Extreme<T, const MAX: bool>(PhantomData<T>);

#[inline(always)]
fn beats<T: Num, const MAX: bool>(x: T, l: T) -> bool {
    if MAX { x > l } else { x < l }
}

impl<T: Num, const MAX: bool> Fold for Extreme<T, MAX> {
    type In = T;
    type Lane = T;
    type Acc = T;
    const LANE: T = if MAX { T::LOWEST } else { T::HIGHEST };
    const ACC: T = Self::LANE;
    #[inline(always)]
    fn lane(l: T, x: T, _: u32) -> T {
        if beats::<T, MAX>(x, l) | x.is_nan() { x } else { l }
    }
    #[inline(always)]
    fn meet(a: T, b: T) -> T {
        Self::lane(a, b, 0)
    }
    #[inline(always)]
    fn widen(l: T, _: usize, _: usize) -> T {
        l
    }
    #[inline(always)]
    fn join(a: T, b: T) -> T {
        Self::lane(a, b, 0)
    }
    #[inline(always)]
    fn value(a: T) -> impl Num {
        a
    }
}

/// Any (`true`) or all elements differ from zero.
struct Truth<T, const ANY: bool>(PhantomData<T>);

impl<T: Num, const ANY: bool> Fold for Truth<T, ANY> {
    type In = T;
    type Lane = u8;
    type Acc = u8;
    const LANE: u8 = !ANY as u8;
    const ACC: u8 = !ANY as u8;
    #[inline(always)]
    fn lane(l: u8, x: T, _: u32) -> u8 {
        Self::meet(l, (x != T::ZERO) as u8)
    }
    #[inline(always)]
    fn meet(a: u8, b: u8) -> u8 {
        if ANY { a | b } else { a & b }
    }
    #[inline(always)]
    fn widen(l: u8, _: usize, _: usize) -> u8 {
        l
    }
    #[inline(always)]
    fn join(a: u8, b: u8) -> u8 {
        Self::meet(a, b)
    }
    #[inline(always)]
    fn value(a: u8) -> impl Num {
        a
    }
}

/// The position of the first maximum (`true`) or minimum; the first NaN wins.
struct Arg<T, const MAX: bool>(PhantomData<T>);

const UNSET: u32 = u32::MAX;

impl<T: Num, const MAX: bool> Arg<T, MAX> {
    #[inline(always)]
    fn beats(x: T, l: T) -> bool {
        beats::<T, MAX>(x, l) | (x.is_nan() & !l.is_nan())
    }
}

impl<T: Num, const MAX: bool> Fold for Arg<T, MAX> {
    type In = T;
    /// The value, and the number of its element.
    type Lane = (T, u32);
    /// The value and its position.
    type Acc = (T, i64);
    const LANE: (T, u32) = (<Extreme<T, MAX> as Fold>::LANE, UNSET);
    const ACC: (T, i64) = (<Extreme<T, MAX> as Fold>::LANE, i64::MAX);
    #[inline(always)]
    fn lane(l: (T, u32), x: T, s: u32) -> (T, u32) {
        let better = Self::beats(x, l.0) | (l.1 == UNSET);
        (if better { x } else { l.0 }, if better { s } else { l.1 })
    }
    #[inline(always)]
    fn meet(a: (T, u32), b: (T, u32)) -> (T, u32) {
        if Self::beats(b.0, a.0) { b } else { a }
    }
    #[inline(always)]
    fn widen(l: (T, u32), at: usize, step: usize) -> (T, i64) {
        (l.0, (at + l.1 as usize * step) as i64)
    }
    #[inline(always)]
    fn join(a: (T, i64), b: (T, i64)) -> (T, i64) {
        let better = Self::beats(b.0, a.0) || (!Self::beats(a.0, b.0) && b.1 < a.1);
        if better { b } else { a }
    }
    #[inline(always)]
    fn value(a: (T, i64)) -> impl Num {
        a.1
    }

    /// Positions are looked up only where a chunk beats all before it.
    #[inline(always)]
    fn row(x: &[T], at: usize, mut acc: (T, i64)) -> (T, i64) {
        for (i, x) in x.chunks(CHUNK).enumerate() {
            let best = chunk::<Extreme<T, MAX>>(x);
            if Self::beats(best, acc.0) || acc.1 == i64::MAX {
                let first = x.iter().position(|&x| x == best || (x.is_nan() && best.is_nan()));
                acc = (best, (at + i * CHUNK + first.unwrap_or(0)) as i64);
            }
        }
        acc
    }
}

/// The code of a kind of reduction for elements of a compute dtype.
pub(super) fn kernel(kind: ReduceKind, dtype: DType) -> Kernel {
    macro_rules! of {
        ($fold:ident $(, $max:literal)?) => {
            match dtype {
                DType::Bool | DType::U8 => const { erase::<$fold<u8 $(, $max)?>>() },
                DType::I32 => const { erase::<$fold<i32 $(, $max)?>>() },
                DType::U32 => const { erase::<$fold<u32 $(, $max)?>>() },
                DType::I64 => const { erase::<$fold<i64 $(, $max)?>>() },
                DType::F64 => const { erase::<$fold<f64 $(, $max)?>>() },
                DType::F32 | DType::F16 | DType::BF16 => const { erase::<$fold<f32 $(, $max)?>>() },
            }
        };
    }
    match kind {
        ReduceKind::Sum | ReduceKind::Mean => of!(Sum),
        ReduceKind::Prod => of!(Prod),
        ReduceKind::Max => of!(Extreme, true),
        ReduceKind::Min => of!(Extreme, false),
        ReduceKind::Any => of!(Truth, true),
        ReduceKind::All => of!(Truth, false),
        ReduceKind::ArgMax => of!(Arg, true),
        ReduceKind::ArgMin => of!(Arg, false),
    }
}

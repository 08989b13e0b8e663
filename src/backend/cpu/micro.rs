//! The innermost kernels of products in f32: a tile of sums that stays in registers while `k` runs.
//!
//! AVX-512 and AVX2 with FMA; on other processors [`shape`] gives nothing, and products go another way. A sum runs over k in order, with one rounding
//! a step, so its bits depend on neither the tile nor its place in it.

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

use super::simd::Level;
use std::sync::OnceLock;

/// The largest tile of an instruction set: rows, and columns (the lanes of two vectors). A call computes all columns or half of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TileShape {
    level: Level,
    pub rows: usize,
    pub columns: usize,
    /// Rows of a tile of [`windows`]: their places must stay in integer registers.
    pub window_rows: usize,
}

/// Rows and columns of the largest tile of any processor.
pub(crate) const MAX_ROWS: usize = 14;
pub(crate) const MAX_COLUMNS: usize = 32;

/// The tiles that this processor can run, the best one first.
pub(crate) fn shapes() -> &'static [TileShape] {
    const AVX512: TileShape = TileShape { level: Level::Avx512, rows: MAX_ROWS, columns: MAX_COLUMNS, window_rows: 9 };
    const AVX2: TileShape = TileShape { level: Level::Avx2, rows: 6, columns: 16, window_rows: 6 };
    static FOUND: OnceLock<&[TileShape]> = OnceLock::new();
    // Not the level in use: a test may hold that one down for a moment.
    FOUND.get_or_init(|| match super::simd::processor() {
        Level::Avx512 => &[AVX512, AVX2],
        Level::Avx2 => &[AVX2],
        Level::Baseline => &[],
    })
}

/// The tile of this processor, if it has vector instructions that are worth it.
pub(crate) fn shape() -> Option<TileShape> {
    shapes().first().copied()
}

/// The tile for whole products. On AVX-512 the `gemm` crate is the faster one.
pub(crate) fn products() -> Option<TileShape> {
    shape().filter(|s| s.level == Level::Avx2)
}

/// Where the columns of step k of the second factor begin, in elements.
pub(crate) trait Steps: Copy {
    /// # Safety
    /// `k` is below the number of steps that the caller promised.
    unsafe fn at(self, k: usize) -> isize;
}

/// Equally far from each other.
#[derive(Clone, Copy)]
pub(crate) struct Stride(pub isize);

impl Steps for Stride {
    #[inline(always)]
    unsafe fn at(self, k: usize) -> isize {
        k as isize * self.0
    }
}

/// From a table.
#[derive(Clone, Copy)]
pub(crate) struct Table(pub *const u32);

impl Steps for Table {
    #[inline(always)]
    unsafe fn at(self, k: usize) -> isize {
        // SAFETY: as promised.
        unsafe { *self.0.add(k) as isize }
    }
}

/// The operands of a tile: `c[r][j] (+)= Σ a[k][r] · b[steps.at(k) + j]`, with the rows of `c` `stride` apart, and the steps of `a`
/// `pitch` apart.
#[derive(Clone, Copy)]
pub(crate) struct Operands<S> {
    pub k: usize,
    pub a: *const f32,
    pub pitch: usize,
    pub b: *const f32,
    pub steps: S,
    pub c: *mut f32,
    pub stride: usize,
    pub add: bool,
}

/// The operands of a tile whose factors are packed: `c[r][j] (+)= Σ a[k·rows + r] · b[k·columns + j]` with the rows and columns of the largest tile, of which fewer may
/// be computed.
#[derive(Clone, Copy)]
pub(crate) struct Packed {
    pub k: usize,
    pub a: *const f32,
    pub b: *const f32,
    pub c: *mut f32,
    pub stride: usize,
    pub add: bool,
}

/// The operands of a tile whose rows come from shifted windows of one plane: `c[r][j] (+)= Σ x[i·pitch + l + rows[r]] · g[(i·len + l)·columns + j]` over
/// `lines` lines i of `len` elements l.
#[derive(Clone, Copy)]
pub(crate) struct Windows {
    pub lines: usize,
    pub len: usize,
    pub x: *const f32,
    pub pitch: usize,
    pub g: *const f32,
    pub c: *mut f32,
    pub stride: usize,
    pub add: bool,
}

/// A loop of constant length in a kernel. Builds for tests inline no iterator, and a `for` would call one between any two instructions there.
#[cfg(target_arch = "x86_64")]
macro_rules! each {
    ($i:ident of $n:ident $body:block) => {
        let mut $i = 0;
        while $i < $n {
            $body
            $i += 1;
        }
    };
}

#[cfg(target_arch = "x86_64")]
macro_rules! kernels {
    (
        $tile:ident, $packed:ident, $windows:ident, $dots:ident, $taps:ident, $features:literal, $lanes:literal, $pitch:literal, $zero:ident, $load:ident, $set:ident, $fma:ident,
        $plus:ident, $store:ident
    ) => {
        #[target_feature(enable = $features)]
        unsafe fn $packed<const ROWS: usize, const VECTORS: usize>(o: Packed) {
            // SAFETY: as the caller promised; a prefetch may be of any address.
            unsafe {
                let ahead = |p: *const f32| _mm_prefetch::<_MM_HINT_T0>(p as *const i8);
                each!(r of ROWS {
                    ahead(o.c.add(r * o.stride));
                    ahead(o.c.add(r * o.stride + VECTORS * $lanes - 1));
                });
                let mut sums = [[$zero(); VECTORS]; ROWS];
                let (mut a, mut b) = (o.a, o.b);
                macro_rules! step {
                    ($s:literal) => {
                        let mut v = [$zero(); VECTORS];
                        each!(j of VECTORS { v[j] = $load(b.add(2 * $lanes * $s + j * $lanes)) });
                        each!(r of ROWS {
                            let x = $set(*a.add($pitch * $s + r));
                            each!(j of VECTORS {
                                sums[r][j] = $fma(x, v[j], sums[r][j]);
                            });
                        });
                    };
                }
                for _ in 0..o.k / 4 {
                    let mut j = 32 * $lanes;
                    while j < 40 * $lanes {
                        ahead(b.wrapping_add(j));
                        j += 16;
                    }
                    step!(0);
                    step!(1);
                    step!(2);
                    step!(3);
                    (a, b) = (a.add(4 * $pitch), b.add(8 * $lanes));
                }
                for _ in 0..o.k % 4 {
                    step!(0);
                    (a, b) = (a.add($pitch), b.add(2 * $lanes));
                }
                each!(r of ROWS {
                    each!(j of VECTORS {
                        let at = o.c.add(r * o.stride + j * $lanes);
                        let sum = if o.add { $plus($load(at), sums[r][j]) } else { sums[r][j] };
                        $store(at, sum);
                    });
                });
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn $tile<const ROWS: usize, const VECTORS: usize>(o: Operands<impl Steps>) {
            // SAFETY: as the caller promised.
            unsafe {
                let mut sums = [[$zero(); VECTORS]; ROWS];
                let mut a = o.a;
                for k in 0..o.k {
                    let b = o.b.offset(o.steps.at(k));
                    let mut v = [$zero(); VECTORS];
                    each!(j of VECTORS { v[j] = $load(b.add(j * $lanes)) });
                    each!(r of ROWS {
                        let x = $set(*a.add(r));
                        each!(j of VECTORS {
                            sums[r][j] = $fma(x, v[j], sums[r][j]);
                        });
                    });
                    a = a.add(o.pitch);
                }
                each!(r of ROWS {
                    each!(j of VECTORS {
                        let at = o.c.add(r * o.stride + j * $lanes);
                        let sum = if o.add { $plus($load(at), sums[r][j]) } else { sums[r][j] };
                        $store(at, sum);
                    });
                });
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn $taps<const ROWS: usize, const VECTORS: usize>(
            x: *const f32,
            width: usize,
            taps: &[(usize, f32)],
            c: *mut f32,
            stride: usize,
        ) {
            // SAFETY: as the caller promised.
            unsafe {
                let mut sums = [[$zero(); VECTORS]; ROWS];
                for &(place, weight) in taps {
                    let (x, weight) = (x.add(place), $set(weight));
                    each!(r of ROWS {
                        each!(j of VECTORS {
                            sums[r][j] = $fma($load(x.add(r * width + j * $lanes)), weight, sums[r][j]);
                        });
                    });
                }
                each!(r of ROWS {
                    each!(j of VECTORS {
                        $store(c.add(r * stride + j * $lanes), sums[r][j]);
                    });
                });
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn $dots<const ROWS: usize>(k: usize, w: [*const f32; 2], x: &[&[f32]]) -> [[f32; 4]; 2] {
            // SAFETY: as the caller promised.
            unsafe {
                let x: [*const f32; ROWS] = std::array::from_fn(|r| x[r].as_ptr());
                let mut sums = [[$zero(); ROWS]; 2];
                let whole = k / $lanes * $lanes;
                let mut at = 0;
                while at < whole {
                    let (first, second) = ($load(w[0].add(at)), $load(w[1].add(at)));
                    for r in 0..ROWS {
                        let x = $load(x[r].add(at));
                        sums[0][r] = $fma(first, x, sums[0][r]);
                        sums[1][r] = $fma(second, x, sums[1][r]);
                    }
                    at += $lanes;
                }
                let mut out = [[0.0; 4]; 2];
                for j in 0..2 {
                    for r in 0..ROWS {
                        let mut lanes = [0.0f32; $lanes];
                        $store(lanes.as_mut_ptr(), sums[j][r]);
                        let mut width = $lanes / 2;
                        while width > 0 {
                            (0..width).for_each(|l| lanes[l] += lanes[l + width]);
                            width /= 2;
                        }
                        out[j][r] = (whole..k).fold(lanes[0], |sum, i| sum + *w[j].add(i) * *x[r].add(i));
                    }
                }
                out
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn $windows<const ROWS: usize>(o: Windows, rows: [usize; ROWS]) {
            // SAFETY: as the caller promised.
            unsafe {
                let mut sums = [[$zero(); 2]; ROWS];
                let mut g = o.g;
                for i in 0..o.lines {
                    let x = o.x.add(i * o.pitch);
                    for l in 0..o.len {
                        let (low, high) = ($load(g), $load(g.add($lanes)));
                        g = g.add(2 * $lanes);
                        for r in 0..ROWS {
                            let x = $set(*x.add(rows[r] + l));
                            sums[r][0] = $fma(x, low, sums[r][0]);
                            sums[r][1] = $fma(x, high, sums[r][1]);
                        }
                    }
                }
                for r in 0..ROWS {
                    for j in 0..2 {
                        let at = o.c.add(r * o.stride + j * $lanes);
                        let sum = if o.add { $plus($load(at), sums[r][j]) } else { sums[r][j] };
                        $store(at, sum);
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
#[cfg(target_arch = "x86_64")]
kernels!(
    tile_512,
    packed_512,
    windows_512,
    dots_512,
    taps_512,
    "avx512f",
    16,
    14,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    _mm512_storeu_ps
);
#[cfg(target_arch = "x86_64")]
kernels!(
    tile_256,
    packed_256,
    windows_256,
    dots_256,
    taps_256,
    "avx2,fma",
    8,
    6,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    _mm256_storeu_ps
);

/// Calls the kernel of an instruction set for so many rows, and for all columns or half of them.
#[cfg(target_arch = "x86_64")]
macro_rules! by_rows {
    ($shape:ident, $rows:ident, $half:ident, $wide:ident $narrow:ident $args:tt, $wide_rows:tt $narrow_rows:tt) => {
        match $shape.level {
            Level::Avx512 => by_rows!(@ $rows, $half, $wide $args, $wide_rows),
            _ => by_rows!(@ $rows, $half, $narrow $args, $narrow_rows),
        }
    };
    (@ $rows:ident, $half:ident, $kernel:ident $args:tt, { $($n:literal)* }) => {
        match ($rows, $half) {
            // SAFETY: the processor has these instructions; the rest is the promise of the function around this.
            $(($n, false) => unsafe { $kernel::<$n, 2> $args },
            ($n, true) => unsafe { $kernel::<$n, 1> $args },)*
            _ => unreachable!("a tile of {} rows", $rows),
        }
    };
}

/// Computes a tile of `rows` rows and all columns of `shape`, or (`half`) half of the columns.
///
/// # Safety
/// The shape is of [`shapes`] and has at least so many rows; all that the formula reads and writes is there, and nothing else touches `c` meanwhile.
pub(crate) unsafe fn tile<S: Steps>(shape: TileShape, rows: usize, half: bool, o: Operands<S>) {
    #[cfg(target_arch = "x86_64")]
    by_rows!(shape, rows, half, tile_512 tile_256 (o), { 1 2 3 4 5 6 7 8 9 10 11 12 13 14 } { 1 2 3 4 5 6 });
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (shape.level, rows, half, o);
}

/// Computes a tile of packed factors, of `rows` rows and all columns of `shape`, or (`half`) half of them.
///
/// # Safety
/// As [`tile`].
pub(crate) unsafe fn packed(shape: TileShape, rows: usize, half: bool, o: Packed) {
    #[cfg(target_arch = "x86_64")]
    by_rows!(shape, rows, half, packed_512 packed_256 (o), { 1 2 3 4 5 6 7 8 9 10 11 12 13 14 } { 1 2 3 4 5 6 });
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (shape.level, rows, half, o);
}

/// Rows of a tile of [`taps`].
pub(crate) const TAP_ROWS: usize = 4;

/// `c[r][j] = Σ w · x[place + r·width + j]` over the taps (place, w), for `rows` rows, at most [`TAP_ROWS`], and all columns of `shape` or (`half`) half of them.
///
/// # Safety
/// As [`tile`].
pub(crate) unsafe fn taps(
    shape: TileShape,
    rows: usize,
    half: bool,
    x: *const f32,
    width: usize,
    taps: &[(usize, f32)],
    c: *mut f32,
    stride: usize,
) {
    #[cfg(target_arch = "x86_64")]
    by_rows!(shape, rows, half, taps_512 taps_256 (x, width, taps, c, stride), { 1 2 3 4 } { 1 2 3 4 });
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (shape.level, rows, half, x, width, taps, c, stride);
}

/// The products of two vectors of `k` elements with each of up to four.
///
/// # Safety
/// The shape is of [`shapes`], and all vectors have `k` elements.
pub(crate) unsafe fn dots(shape: TileShape, k: usize, w: [*const f32; 2], x: &[&[f32]]) -> [[f32; 4]; 2] {
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! call {
            ($kernel:ident) => {
                match x.len() {
                    1 => unsafe { $kernel::<1>(k, w, x) },
                    2 => unsafe { $kernel::<2>(k, w, x) },
                    3 => unsafe { $kernel::<3>(k, w, x) },
                    4 => unsafe { $kernel::<4>(k, w, x) },
                    n => unreachable!("{n} vectors"),
                }
            };
        }
        match shape.level {
            Level::Avx512 => call!(dots_512),
            _ => call!(dots_256),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("{shape:?} {k} {w:?} {x:?}")
}

/// Computes a tile of rows that begin at `rows`, at most `window_rows` of the shape.
///
/// # Safety
/// As [`tile`].
pub(crate) unsafe fn windows(shape: TileShape, rows: &[usize], o: Windows) {
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! call {
            ($kernel:ident, $($rows:literal)*) => {
                match rows.len() {
                    $($rows => unsafe { $kernel::<$rows>(o, std::array::from_fn(|r| rows[r])) },)*
                    n => unreachable!("a tile of {n} rows"),
                }
            };
        }
        match shape.level {
            Level::Avx512 => call!(windows_512, 1 2 3 4 5 6 7 8 9),
            _ => call!(windows_256, 1 2 3 4 5 6),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (shape.level, rows, o);
}

/// `out[i·pitch + r] = from[r·stride + i]` for `rows` rows of `len` elements each: rows become columns. `out` has room for whole vectors.
///
/// # Safety
/// The rows can be read, and `out` written up to `len · pitch` elements; `pitch` is at least `rows`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn turn_512(from: *const f32, stride: isize, rows: usize, len: usize, out: *mut f32, pitch: usize) {
    // SAFETY: as the caller promised; what is not there is masked.
    unsafe {
        for r0 in (0..rows).step_by(16) {
            let here = (rows - r0).min(16);
            let keep = (0xFFFFu32 >> (16 - here)) as __mmask16;
            for i0 in (0..len).step_by(16) {
                let mask = (0xFFFFu32 >> (16 - (len - i0).min(16))) as __mmask16;
                let mut v = [_mm512_setzero_ps(); 16];
                for (r, v) in v.iter_mut().enumerate().take(here) {
                    *v = _mm512_maskz_loadu_ps(mask, from.offset((r0 + r) as isize * stride).add(i0));
                }
                // Pairs of rows, then quadruples, then lanes of 128 bits.
                let mut a = v;
                for q in 0..8 {
                    a[2 * q] = _mm512_unpacklo_ps(v[2 * q], v[2 * q + 1]);
                    a[2 * q + 1] = _mm512_unpackhi_ps(v[2 * q], v[2 * q + 1]);
                }
                let mut b = a;
                for q in 0..4 {
                    for h in 0..2 {
                        let (x, y) = (_mm512_castps_pd(a[4 * q + h]), _mm512_castps_pd(a[4 * q + 2 + h]));
                        b[4 * q + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
                        b[4 * q + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
                    }
                }
                // b[4q + e] holds element 4l + e of rows 4q.. in lane l.
                for e in 0..4 {
                    let (x, y) = (_mm512_shuffle_f32x4::<0x88>(b[e], b[4 + e]), _mm512_shuffle_f32x4::<0xDD>(b[e], b[4 + e]));
                    let (z, w) = (_mm512_shuffle_f32x4::<0x88>(b[8 + e], b[12 + e]), _mm512_shuffle_f32x4::<0xDD>(b[8 + e], b[12 + e]));
                    let lanes = [
                        _mm512_shuffle_f32x4::<0x88>(x, z),
                        _mm512_shuffle_f32x4::<0x88>(y, w),
                        _mm512_shuffle_f32x4::<0xDD>(x, z),
                        _mm512_shuffle_f32x4::<0xDD>(y, w),
                    ];
                    for (l, &column) in lanes.iter().enumerate() {
                        let i = i0 + 4 * l + e;
                        if i < len {
                            _mm512_mask_storeu_ps(out.add(i * pitch + r0), keep, column);
                        }
                    }
                }
            }
        }
    }
}

/// As [`turn_512`], by blocks of eight by eight.
///
/// # Safety
/// As [`turn`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn turn_256(from: *const f32, stride: isize, rows: usize, len: usize, out: *mut f32, pitch: usize) {
    let whole = len / 8 * 8;
    // SAFETY: as the caller promised.
    unsafe {
        for r0 in (0..rows).step_by(8) {
            let here = (rows - r0).min(8);
            let from = from.offset(r0 as isize * stride);
            for i0 in (0..whole).step_by(8) {
                let mut v = [_mm256_setzero_ps(); 8];
                for (r, v) in v.iter_mut().enumerate().take(here) {
                    *v = _mm256_loadu_ps(from.offset(r as isize * stride).add(i0));
                }
                // Pairs of rows, then quadruples, then halves.
                let mut a = v;
                for q in 0..4 {
                    a[2 * q] = _mm256_unpacklo_ps(v[2 * q], v[2 * q + 1]);
                    a[2 * q + 1] = _mm256_unpackhi_ps(v[2 * q], v[2 * q + 1]);
                }
                let mut b = a;
                for q in 0..2 {
                    for h in 0..2 {
                        let (x, y) = (a[4 * q + h], a[4 * q + 2 + h]);
                        b[4 * q + 2 * h] = _mm256_shuffle_ps::<0x44>(x, y);
                        b[4 * q + 2 * h + 1] = _mm256_shuffle_ps::<0xEE>(x, y);
                    }
                }
                for e in 0..4 {
                    for (i, column) in
                        [(e, _mm256_permute2f128_ps::<0x20>(b[e], b[4 + e])), (4 + e, _mm256_permute2f128_ps::<0x31>(b[e], b[4 + e]))]
                    {
                        let to = out.add((i0 + i) * pitch + r0);
                        // A masked store is slow on some processors.
                        let (low, high) = (_mm256_castps256_ps128(column), _mm256_extractf128_ps::<1>(column));
                        match here {
                            8 => _mm256_storeu_ps(to, column),
                            6 => {
                                _mm_storeu_ps(to, low);
                                _mm_storel_pd(to.add(4) as *mut f64, _mm_castps_pd(high));
                            }
                            _ => {
                                let mut lanes = [0.0f32; 8];
                                _mm256_storeu_ps(lanes.as_mut_ptr(), column);
                                std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, here);
                            }
                        }
                    }
                }
            }
            for i in whole..len {
                for r in 0..here {
                    *out.add(i * pitch + r0 + r) = *from.offset(r as isize * stride).add(i);
                }
            }
        }
    }
}

/// `out[i·pitch + r] = from[r·stride + i]` for `rows` rows of `len` elements each: rows become columns.
///
/// # Safety
/// The rows can be read; `out` has `len` columns, `pitch` apart, of at least `rows` elements. `shape` is of [`shapes`].
pub(crate) unsafe fn turn(shape: TileShape, from: *const f32, stride: isize, rows: usize, len: usize, out: *mut f32, pitch: usize) {
    #[cfg(target_arch = "x86_64")]
    match shape.level {
        // SAFETY: as the caller promised.
        Level::Avx512 => unsafe { turn_512(from, stride, rows, len, out, pitch) },
        _ => unsafe { turn_256(from, stride, rows, len, out, pitch) },
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (shape.level, from, stride, rows, len, out, pitch);
}

//! Products with quantised weights on the CPU. Few rows: each row of the weight is read once, and its codes are looked up in registers. More: panels of the
//! weight are dequantised into scratch memory that stays in cache, and multiplied by the `gemm` crate.
//!
//! As for plain products, work is split by shape alone.

use super::matmul_cpu::{Mat, Real, product};
use super::qmatmul::{Form, INT8, NF4, QMatMul};
use crate::backend::cpu::CpuCtx;
use crate::backend::cpu::scratch::scratch;
use crate::backend::cpu::simd::{Level, level, multiversion};
use crate::backend::cpu::threads::{Shared, each};
use crate::{DType, Result};

/// The most rows of x for which a weight's row is not written out.
const FEW: usize = 4;
/// Weights that a task of the few-rows product reads.
const TASK: usize = 1 << 16;
/// Multiply-adds below which a product stays on the calling thread.
const SERIAL: usize = 1 << 17;

/// The scales of NF4's blocks.
enum Scales<'a> {
    Plain(&'a [f32]),
    Double { codes: &'a [u8], map: &'a [f32], outer: &'a [f32], block: usize, first: usize, offset: f32 },
}

/// A weight in memory.
struct Weight<'a> {
    k: usize,
    codes: &'a [u8],
    /// Elements of a block; 0 for 8 bits, where scales are the rows'.
    block: usize,
    scales: Scales<'a>,
}

impl Weight<'_> {
    fn scale(&self, block: usize) -> f32 {
        match self.scales {
            Scales::Plain(s) => s[block],
            Scales::Double { codes, map, outer, block: size, first, offset } => {
                map[codes[block] as usize] * outer[(block + first) / size] + offset
            }
        }
    }

    /// The scales of the blocks of a row whose blocks are its own.
    fn row_scales(&self, row: usize, out: &mut [f32]) {
        let n = out.len();
        match self.scales {
            Scales::Plain(s) => out.copy_from_slice(&s[row * n..][..n]),
            Scales::Double { codes, map, outer, block: size, first, offset } => {
                let mut codes = &codes[row * n..][..n];
                let (mut out, mut block) = (out, row * n + first);
                while !out.is_empty() {
                    // Those of one outer block.
                    let run = (size - block % size).min(out.len());
                    let (now, later) = out.split_at_mut(run);
                    let scale = outer[block / size];
                    now.iter_mut().zip(codes).for_each(|(s, &c)| *s = map[c as usize] * scale + offset);
                    (out, codes, block) = (later, &codes[run..], block + run);
                }
            }
        }
    }

    /// The weights of a row, from one of its elements on.
    fn expand(&self, row: usize, from: usize, out: &mut [f32]) {
        let mut at = row * self.k + from;
        if self.block == 0 {
            let Scales::Plain(scales) = self.scales else { return };
            return expand_int8(&self.codes[at..][..out.len()], scales[row], out);
        }
        let mut rest = out;
        while !rest.is_empty() {
            let block = at / self.block;
            let len = ((block + 1) * self.block - at).min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            self.expand_block(at, self.scale(block), now);
            (at, rest) = (at + len, later);
        }
    }

    /// Weights of one block, from element `at` on.
    fn expand_block(&self, mut at: usize, scale: f32, mut out: &mut [f32]) {
        if at % 2 == 1 {
            let Some((first, later)) = out.split_first_mut() else { return };
            *first = NF4[(self.codes[at / 2] & 15) as usize] * scale;
            (at, out) = (at + 1, later);
        }
        let whole = out.len() / 2;
        let (pairs, last) = out.split_at_mut(2 * whole);
        expand_pairs(&self.codes[at / 2..][..whole], scale, pairs);
        if let Some(last) = last.first_mut() {
            *last = NF4[(self.codes[at / 2 + whole] >> 4) as usize] * scale;
        }
    }
}

multiversion! {
    fn expand_int8(codes: &[u8], scale: f32, out: &mut [f32]) {
        // In this order: as bitsandbytes does.
        out.iter_mut().zip(codes).for_each(|(o, &c)| *o = c as i8 as f32 * scale * INT8);
    }
}

/// Both weights of each byte.
fn expand_pairs(codes: &[u8], scale: f32, out: &mut [f32]) {
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the processor has these instructions; whole groups of codes lie in the slices.
        unsafe {
            match level() {
                Level::Avx512 => {
                    done = codes.len() / 16 * 16;
                    x86::expand_512(codes.as_ptr(), done, scale, out.as_mut_ptr());
                }
                Level::Avx2 => {
                    done = codes.len() / 16 * 16;
                    x86::expand_256(codes.as_ptr(), done, scale, out.as_mut_ptr());
                }
                Level::Baseline => {}
            }
        }
    }
    for (o, &c) in out[2 * done..].chunks_exact_mut(2).zip(&codes[done..]) {
        o[0] = NF4[(c >> 4) as usize] * scale;
        o[1] = NF4[(c & 15) as usize] * scale;
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::NF4;
    use std::arch::x86_64::*;

    /// The bytes of the sixteen values: the first byte of each, the second, and so on, in both halves of a register.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn planes() -> [__m256i; 4] {
        std::array::from_fn(|p| {
            let bytes: [u8; 16] = std::array::from_fn(|v| NF4[v].to_le_bytes()[p]);
            // SAFETY: sixteen bytes.
            _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(bytes.as_ptr() as *const __m128i) })
        })
    }

    /// The 32 values of sixteen bytes, in groups of eight: four even elements, then four odd ones. Each byte of a value is looked up for itself, since
    /// lookups of bytes are the fastest.
    ///
    /// # Safety
    /// The codes are there.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn look_up_256(codes: *const u8, planes: &[__m256i; 4]) -> [__m256; 4] {
        // SAFETY: as the caller promised.
        let v = unsafe { _mm_loadu_si128(codes as *const __m128i) };
        let v = _mm256_and_si256(_mm256_set_m128i(v, _mm_srli_epi16::<4>(v)), _mm256_set1_epi8(15));
        let [a, b, c, d] = planes.map(|p| _mm256_shuffle_epi8(p, v));
        let (low, high) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
        let (low2, high2) = (_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d));
        [
            _mm256_castsi256_ps(_mm256_unpacklo_epi16(low, low2)),
            _mm256_castsi256_ps(_mm256_unpackhi_epi16(low, low2)),
            _mm256_castsi256_ps(_mm256_unpacklo_epi16(high, high2)),
            _mm256_castsi256_ps(_mm256_unpackhi_epi16(high, high2)),
        ]
    }

    /// # Safety
    /// `n` codes, a multiple of 16, and `2 n` places are there.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn expand_256(codes: *const u8, n: usize, scale: f32, out: *mut f32) {
        // SAFETY: as the caller promised.
        unsafe {
            let (planes, s) = (planes(), _mm256_set1_ps(scale));
            for i in (0..n).step_by(16) {
                for (q, v) in look_up_256(codes.add(i), &planes).into_iter().enumerate() {
                    let v = _mm256_mul_ps(v, s);
                    let (even, odd) = (_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                    let out = out.add(2 * i + 8 * q);
                    _mm_storeu_ps(out, _mm_unpacklo_ps(even, odd));
                    _mm_storeu_ps(out.add(4), _mm_unpackhi_ps(even, odd));
                }
            }
        }
    }

    /// # Safety
    /// `n` codes, a multiple of 16, and `2 n` places are there.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn expand_512(codes: *const u8, n: usize, scale: f32, out: *mut f32) {
        // SAFETY: as the caller promised.
        unsafe {
            let (book, s) = (_mm512_loadu_ps(NF4.as_ptr()), _mm512_set1_ps(scale));
            // Lanes of a and b (16 on) in turn.
            let first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let second = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
            for i in (0..n).step_by(16) {
                let v = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.add(i) as *const __m128i));
                // A permutation looks at four bits of each code.
                let a = _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srli_epi32::<4>(v), book), s);
                let b = _mm512_mul_ps(_mm512_permutexvar_ps(v, book), s);
                _mm512_storeu_ps(out.add(2 * i), _mm512_permutex2var_ps(a, first, b));
                _mm512_storeu_ps(out.add(2 * i + 16), _mm512_permutex2var_ps(a, second, b));
            }
        }
    }

    /// The products of a row of codes (`chunks` of 64) with M rows of x, which lie in groups of 8: four even elements, then four odd ones. Chunk c has
    /// the scale `scales[c >> shift]`.
    ///
    /// # Safety
    /// All that is there.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn dots_256<const M: usize>(
        codes: *const u8,
        chunks: usize,
        scales: *const f32,
        shift: u32,
        x: *const f32,
        k: usize,
    ) -> [f32; M] {
        // SAFETY: as the caller promised.
        unsafe {
            let planes = planes();
            let mut sums = [_mm256_setzero_ps(); M];
            for c in 0..chunks {
                let mut part = [_mm256_setzero_ps(); M];
                for g in 0..2 {
                    let w = look_up_256(codes.add(32 * c + 16 * g), &planes);
                    for r in 0..M {
                        let at = x.add(r * k + 64 * c + 32 * g);
                        for (q, w) in w.into_iter().enumerate() {
                            part[r] = _mm256_fmadd_ps(w, _mm256_loadu_ps(at.add(8 * q)), part[r]);
                        }
                    }
                }
                let s = _mm256_set1_ps(*scales.add(c >> shift));
                for r in 0..M {
                    sums[r] = _mm256_fmadd_ps(part[r], s, sums[r]);
                }
            }
            sums.map(|s| {
                let mut lanes = [0f32; 8];
                _mm256_storeu_ps(lanes.as_mut_ptr(), s);
                super::tree(&mut lanes)
            })
        }
    }

    /// As [`dots_256`], with groups of 32 (sixteen even elements, then sixteen odd ones).
    ///
    /// # Safety
    /// All that is there.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn dots_512<const M: usize>(
        codes: *const u8,
        chunks: usize,
        scales: *const f32,
        shift: u32,
        x: *const f32,
        k: usize,
    ) -> [f32; M] {
        // SAFETY: as the caller promised.
        unsafe {
            let book = _mm512_loadu_ps(NF4.as_ptr());
            let mut sums = [_mm512_setzero_ps(); M];
            for c in 0..chunks {
                let mut part = [_mm512_setzero_ps(); M];
                for g in 0..2 {
                    let v = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.add(32 * c + 16 * g) as *const __m128i));
                    let a = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(v), book);
                    let b = _mm512_permutexvar_ps(v, book);
                    for r in 0..M {
                        let at = x.add(r * k + 64 * c + 32 * g);
                        part[r] = _mm512_fmadd_ps(a, _mm512_loadu_ps(at), part[r]);
                        part[r] = _mm512_fmadd_ps(b, _mm512_loadu_ps(at.add(16)), part[r]);
                    }
                }
                let s = _mm512_set1_ps(*scales.add(c >> shift));
                for r in 0..M {
                    sums[r] = _mm512_fmadd_ps(part[r], s, sums[r]);
                }
            }
            sums.map(|s| {
                let mut lanes = [0f32; 16];
                _mm512_storeu_ps(lanes.as_mut_ptr(), s);
                super::tree(&mut lanes)
            })
        }
    }
}

/// The sum of a power of two of lanes.
#[inline(always)]
fn tree(lanes: &mut [f32]) -> f32 {
    let mut width = lanes.len() / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] += lanes[l + width];
        }
        width /= 2;
    }
    lanes[0]
}

multiversion! {
    /// The products of a row of 8-bit codes with M rows of x, in L lanes each.
    fn dots_int8[const M: usize, const L: usize](codes: &[u8], x: &[f32], k: usize, sums: &mut [[f32; L]; M]) {
        let whole = k / L * L;
        for from in (0..whole).step_by(L) {
            let c = &codes[from..from + L];
            for r in 0..M {
                let x = &x[r * k + from..][..L];
                for l in 0..L {
                    sums[r][l] += c[l] as i8 as f32 * x[l];
                }
            }
        }
        for i in whole..k {
            for r in 0..M {
                sums[r][i - whole] += codes[i] as i8 as f32 * x[r * k + i];
            }
        }
    }
}

multiversion! {
    /// The product of a row in f32 with a row of x.
    fn dot(w: &[f32], x: &[f32]) -> f32 {
        const L: usize = 32;
        let mut sums = [0f32; L];
        let (mut pw, mut px) = (w.chunks_exact(L), x.chunks_exact(L));
        for (w, x) in pw.by_ref().zip(px.by_ref()) {
            for l in 0..L {
                sums[l] += w[l] * x[l];
            }
        }
        for (l, (w, x)) in pw.remainder().iter().zip(px.remainder()).enumerate() {
            sums[l] += w * x;
        }
        tree(&mut sums)
    }
}

/// Even and odd elements of each group of `2 · lanes` apart.
fn apart(x: &[f32], lanes: usize, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(2 * lanes).zip(out.chunks_exact_mut(2 * lanes)) {
        for l in 0..lanes {
            out[l] = x[2 * l];
            out[lanes + l] = x[2 * l + 1];
        }
    }
}

/// `y[m, n]` for M rows of x.
fn few<const M: usize>(w: &Weight, n: usize, x: &[f32], y: &mut [f32]) {
    let k = w.k;
    // Even elements that stand together in the registers.
    let lanes = match level() {
        Level::Avx512 => 16,
        Level::Avx2 => 4,
        Level::Baseline => 0,
    };
    let fast = w.block > 0 && w.block.is_multiple_of(64) && k.is_multiple_of(w.block) && lanes > 0;
    let all = Shared::new(y);
    let rows = (TASK / k).clamp(1, 256);
    let run = |x: &[f32]| {
        let task = |t: usize| {
            for j in t * rows..((t + 1) * rows).min(n) {
                let sums: [f32; M] = if fast {
                    nf4_row(w, j, x, lanes)
                } else if w.block == 0 {
                    int8_row(w, j, x)
                } else {
                    scratch::<f32, _>(k, |row| {
                        w.expand(j, 0, row);
                        std::array::from_fn(|r| dot(row, &x[r * k..][..k]))
                    })
                };
                for (r, s) in sums.into_iter().enumerate() {
                    // SAFETY: each task has columns of its own.
                    unsafe { *all.at(r * n + j) = s };
                }
            }
        };
        let tasks = n.div_ceil(rows);
        if n * k * M < SERIAL { (0..tasks).for_each(task) } else { each(tasks, 1, &task) }
    };
    if fast {
        scratch::<f32, _>(M * k, |turned| {
            apart(x, lanes, turned);
            run(turned)
        })
    } else {
        run(x)
    }
}

fn nf4_row<const M: usize>(w: &Weight, j: usize, x: &[f32], lanes: usize) -> [f32; M] {
    let (k, blocks) = (w.k, w.k / w.block);
    let codes = &w.codes[j * k / 2..][..k / 2];
    let shift = (w.block / 64).trailing_zeros();
    debug_assert!(x.len() == M * k);
    let run = |scales: &[f32]| -> [f32; M] {
        #[cfg(target_arch = "x86_64")]
        {
            let (codes, scales, x) = (codes.as_ptr(), scales.as_ptr(), x.as_ptr());
            // SAFETY: the processor has these instructions (`lanes` says which); a row of codes, its scales and the rows of x are there.
            unsafe {
                if lanes == 16 {
                    x86::dots_512(codes, k / 64, scales, shift, x, k)
                } else {
                    x86::dots_256(codes, k / 64, scales, shift, x, k)
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (codes, scales, shift, lanes, x);
            unreachable!("only x86-64 has lanes")
        }
    };
    match w.scales {
        Scales::Plain(s) => run(&s[j * blocks..][..blocks]),
        Scales::Double { .. } => scratch::<f32, _>(blocks, |s| {
            w.row_scales(j, s);
            run(s)
        }),
    }
}

fn int8_row<const M: usize>(w: &Weight, j: usize, x: &[f32]) -> [f32; M] {
    let codes = &w.codes[j * w.k..][..w.k];
    let scale = w.scale(j) * INT8;
    let mut out = [0f32; M];
    if M == 1 {
        let mut sums = [[0f32; 32]; M];
        dots_int8(codes, x, w.k, &mut sums);
        out.iter_mut().zip(&mut sums).for_each(|(o, s)| *o = tree(s) * scale);
    } else {
        let mut sums = [[0f32; 16]; M];
        dots_int8(codes, x, w.k, &mut sums);
        out.iter_mut().zip(&mut sums).for_each(|(o, s)| *o = tree(s) * scale);
    }
    out
}

/// Rows `rows` of the weight, elements `from..from + width` of each, in a panel.
fn panel<T: Real>(w: &Weight, rows: std::ops::Range<usize>, from: usize, width: usize, out: &mut [T]) {
    for (j, out) in rows.zip(out.chunks_exact_mut(width)) {
        if size_of::<T>() == 4 {
            w.expand(j, from, bytemuck::cast_slice_mut(out));
        } else {
            scratch::<f32, _>(width, |narrow| {
                w.expand(j, from, narrow);
                out.iter_mut().zip(&*narrow).for_each(|(o, &v)| *o = T::of(v as f64));
            })
        }
    }
}

/// Rows of x that one task multiplies with a panel.
const TALL: usize = 256;
/// Elements of a row that a panel holds.
const WIDE: usize = 512;

/// `y[m, n] = x[m, k] · Wᵀ`.
fn many<T: Real>(w: &Weight, m: usize, n: usize, x: &[T], y: &mut [T]) {
    let k = w.k;
    // Rows of the weight in a panel: enough of them that packing x for each weighs little, and panels enough for all cores.
    let rows = if n >= 1024 { 128 } else { 64 };
    let (panels, tall) = (n.div_ceil(rows), m.div_ceil(TALL));
    let all = Shared::new(y);
    let task = |t: usize| {
        let (j0, i0) = ((t % panels) * rows, (t / panels) * TALL);
        let (nj, ni) = (rows.min(n - j0), TALL.min(m - i0));
        scratch::<T, _>(rows * WIDE.min(k), |buffer| {
            for p0 in (0..k).step_by(WIDE) {
                let np = WIDE.min(k - p0);
                panel(w, j0..j0 + nj, p0, np, &mut buffer[..nj * np]);
                let c = Mat::new(all.pointer(i0 * n + j0, 1), n as isize, 1);
                let (a, b) = (Mat::read(&x[i0 * k + p0..], k as isize, 1), Mat::read(buffer, 1, np as isize));
                // SAFETY: the operands have these sizes, and tasks write disjoint blocks of y.
                unsafe { product(ni, nj, np, c, p0 > 0, a, b, false) };
            }
        });
    };
    if m * n * k < SERIAL { (0..panels * tall).for_each(task) } else { each(panels * tall, 1, &task) }
}

/// `y[m, k] = x[m, n] · W`.
fn turned<T: Real>(w: &Weight, m: usize, n: usize, x: &[T], y: &mut [T]) {
    const COLUMNS: usize = 256;
    const DEEP: usize = 128;
    let k = w.k;
    let (panels, tall) = (k.div_ceil(COLUMNS), m.div_ceil(TALL));
    let all = Shared::new(y);
    let task = |t: usize| {
        let (p0, i0) = ((t % panels) * COLUMNS, (t / panels) * TALL);
        let (np, ni) = (COLUMNS.min(k - p0), TALL.min(m - i0));
        scratch::<T, _>(DEEP.min(n) * np, |buffer| {
            for j0 in (0..n).step_by(DEEP) {
                let nj = DEEP.min(n - j0);
                panel(w, j0..j0 + nj, p0, np, &mut buffer[..nj * np]);
                let c = Mat::new(all.pointer(i0 * k + p0, 1), k as isize, 1);
                let (a, b) = (Mat::read(&x[i0 * n + j0..], n as isize, 1), Mat::read(buffer, np as isize, 1));
                // SAFETY: the operands have these sizes, and tasks write disjoint blocks of y.
                unsafe { product(ni, np, nj, c, j0 > 0, a, b, false) };
            }
        });
    };
    if m * n * k < SERIAL { (0..panels * tall).for_each(task) } else { each(panels * tall, 1, &task) }
}

pub(super) fn run(op: &QMatMul, ctx: &CpuCtx) -> Result<()> {
    match ctx.dtype(0) {
        DType::F32 => real::<f32>(op, ctx),
        DType::F64 => real::<f64>(op, ctx),
        _ => return ctx.unsupported(),
    }
    Ok(())
}

fn real<T: Real>(op: &QMatMul, ctx: &CpuCtx) {
    let (m, n, k) = (ctx.shape(0)[0], op.n, op.k);
    let (x, y) = (ctx.input::<T>(0), ctx.output::<T>(0));
    if y.is_empty() {
        return;
    }
    if x.is_empty() {
        return y.fill(T::ZERO);
    }
    let scales = match op.form {
        Form::Double { outer, .. } => Scales::Double {
            codes: ctx.input(2),
            map: ctx.input(3),
            outer: ctx.input(4),
            block: outer,
            first: op.first_block(),
            offset: op.offset[0].as_f64() as f32,
        },
        _ => Scales::Plain(ctx.input(2)),
    };
    let w = Weight { k, codes: ctx.input(1), block: op.form.block().unwrap_or(0), scales };
    if op.turned {
        return turned(&w, m, n, x, y);
    }
    if size_of::<T>() == 4 && m <= FEW {
        let (x, y) = (bytemuck::cast_slice(x), bytemuck::cast_slice_mut(y));
        return match m {
            1 => few::<1>(&w, n, x, y),
            2 => few::<2>(&w, n, x, y),
            3 => few::<3>(&w, n, x, y),
            _ => few::<4>(&w, n, x, y),
        };
    }
    many(&w, m, n, x, y)
}

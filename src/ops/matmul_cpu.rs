//! Matrix products on the CPU: own tiles or the `gemm` crate behind strides, own kernels for vectors and few rows, simple loops for integers.
//!
//! Work is split by shape alone, never by the number of threads, so a product has the same bits on any machine with the same
//! instruction set.

use crate::backend::cpu::CpuCtx;
use crate::backend::cpu::gemm::{Factor, gemm};
use crate::backend::cpu::micro::{self, TileShape};
use crate::backend::cpu::simd::multiversion;
use crate::backend::cpu::threads::{each, each_chunk, split};
use crate::layout::Layout;
use crate::{DType, Result};
use smallvec::SmallVec;

/// Multiply-adds below which a product stays on the calling thread.
const SERIAL: usize = 48 * 48 * 256;
/// Elements of a vector that one partial sum covers.
const BLOCK: usize = 8192;

/// f32 or f64.
pub(crate) trait Real: bytemuck::Pod + Send + Sync + PartialOrd + std::ops::AddAssign {
    const SINGLE: bool;
    const ZERO: Self;
    const ONE: Self;
    const NEG_INFINITY: Self;
    fn of(v: f64) -> Self;
    /// `self · b + c`, rounded twice: the same on every target.
    fn mul_acc(self, b: Self, c: Self) -> Self;
}

macro_rules! real {
    ($($t:ident),*) => { $(
        impl Real for $t {
            const SINGLE: bool = size_of::<$t>() == 4;
            const ZERO: $t = 0.0;
            const ONE: $t = 1.0;
            const NEG_INFINITY: $t = $t::NEG_INFINITY;
            #[inline(always)]
            fn of(v: f64) -> $t {
                v as $t
            }
            #[inline(always)]
            fn mul_acc(self, b: $t, c: $t) -> $t {
                self * b + c
            }
        }
    )* };
}
real!(f32, f64);

/// A matrix in memory: the first element and the strides of rows and columns.
#[derive(Clone, Copy)]
pub(crate) struct Mat<T> {
    pub ptr: *mut T,
    pub rs: isize,
    pub cs: isize,
}

// SAFETY: a pointer into buffers that the executor keeps alive; tasks write disjoint parts.
unsafe impl<T> Send for Mat<T> {}
unsafe impl<T> Sync for Mat<T> {}

impl<T> Mat<T> {
    pub fn new(ptr: *mut T, rs: isize, cs: isize) -> Mat<T> {
        Mat { ptr, rs, cs }
    }

    pub fn read(slice: &[T], rs: isize, cs: isize) -> Mat<T> {
        Mat { ptr: slice.as_ptr() as *mut T, rs, cs }
    }

    pub fn t(self) -> Mat<T> {
        Mat { ptr: self.ptr, rs: self.cs, cs: self.rs }
    }

    /// Elements that lie together.
    ///
    /// # Safety
    /// They are inside the buffer, which outlives the slice and is not written meanwhile.
    unsafe fn slice<'a>(self, at: isize, len: usize) -> &'a [T] {
        unsafe { std::slice::from_raw_parts(self.ptr.wrapping_offset(at), len) }
    }

    /// The same memory as elements of another type, which must be the same one.
    fn cast<U>(self) -> Mat<U> {
        debug_assert_eq!(size_of::<T>(), size_of::<U>());
        Mat { ptr: self.ptr.cast(), rs: self.rs, cs: self.cs }
    }

    pub fn offset(self, elements: isize) -> Mat<T> {
        Mat { ptr: self.ptr.wrapping_offset(elements), ..self }
    }
}

/// `c = a · b`, or `c += a · b` where `add`, for an m×k matrix `a` and a k×n matrix `b`, on this thread or (`parallel`) on all.
///
/// # Safety
/// The pointers are valid for these sizes and strides; `c` overlaps neither `a` nor `b`, and nothing else touches it meanwhile.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn product<T: Real>(m: usize, n: usize, k: usize, c: Mat<T>, add: bool, a: Mat<T>, b: Mat<T>, parallel: bool) {
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !add {
            for i in 0..m as isize {
                for j in 0..n as isize {
                    // SAFETY: within the m×n matrix.
                    unsafe { *c.ptr.offset(i * c.rs + j * c.cs) = T::ZERO };
                }
            }
        }
        return;
    }
    // The crate runs products with k of 1 or 2 on one thread: hand out blocks of rows here.
    if parallel && k <= 2 && m > 1 && m * n >= 1 << 18 {
        let rows = ((1usize << 16) / n).max(1);
        each(m.div_ceil(rows), 1, &|i| {
            let first = i * rows;
            let (c, a) = (c.offset(first as isize * c.rs), a.offset(first as isize * a.rs));
            // SAFETY: the caller's promise; blocks are disjoint.
            unsafe { product(rows.min(m - first), n, k, c, add, a, b, false) }
        });
        return;
    }
    let parallel = parallel && m * n * k >= SERIAL;
    if let Some(shape) = micro::products().filter(|_| T::SINGLE && (c.cs == 1 || c.rs == 1)) {
        let factor = |m: Mat<T>| Factor { ptr: m.ptr.cast(), rs: m.rs, cs: m.cs };
        // SAFETY: the caller's promise; T is f32.
        return unsafe {
            if c.cs == 1 {
                gemm(shape, [m, n, k], c.ptr.cast(), c.rs as usize, add, factor(a), factor(b), parallel)
            } else {
                gemm(shape, [n, m, k], c.ptr.cast(), c.cs as usize, add, factor(b.t()), factor(a.t()), parallel)
            }
        };
    }
    let run = move |threads| {
        let (c, a, b) = (c, a, b);
        // SAFETY: the caller's promise.
        unsafe {
            ::gemm::gemm(
                m,
                n,
                k,
                c.ptr,
                c.cs,
                c.rs,
                add,
                a.ptr,
                a.cs,
                a.rs,
                b.ptr,
                b.cs,
                b.rs,
                T::ONE,
                T::ONE,
                false,
                false,
                false,
                threads,
            )
        }
    };
    if parallel { split(|| run(::gemm::Parallelism::Rayon(0))) } else { run(::gemm::Parallelism::None) }
}

multiversion! {
    /// The sum of products of two vectors of at most [`BLOCK`] elements, in 32 lanes.
    fn dot[T: Real](a: &[T], b: &[T]) -> T {
        const LANES: usize = 32;
        let mut sums = [T::ZERO; LANES];
        let (mut pa, mut pb) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
        for (x, y) in pa.by_ref().zip(pb.by_ref()) {
            for l in 0..LANES {
                sums[l] = x[l].mul_acc(y[l], sums[l]);
            }
        }
        for (l, (x, y)) in pa.remainder().iter().zip(pb.remainder()).enumerate() {
            sums[l] = x.mul_acc(*y, sums[l]);
        }
        let mut width = LANES / 2;
        while width > 0 {
            for l in 0..width {
                let s = sums[l + width];
                sums[l] += s;
            }
            width /= 2;
        }
        sums[0]
    }
}

/// Rows up to which a product reads the second factor where it lies, if its columns lie together.
const THIN: usize = 8;

/// `c = x · wᵀ` for few rows of x and many of w, all of which lie together; `w` is read once.
fn thin(shape: TileShape, [m, n, k]: [usize; 3], x: Mat<f32>, w: Mat<f32>, c: Mat<f32>) {
    // SAFETY: row i of either.
    let row = |f: Mat<f32>, i: usize| unsafe { f.slice(i as isize * f.rs, k) };
    let x: SmallVec<[&[f32]; THIN]> = (0..m).map(|i| row(x, i)).collect();
    each(n.div_ceil(2), ((1 << 14) / k).max(1), &|j| {
        let j = 2 * j;
        let w = [row(w, j).as_ptr(), row(w, (j + 1).min(n - 1)).as_ptr()];
        for (i, x) in x.chunks(4).enumerate() {
            // SAFETY: all these rows have k elements.
            let sums = unsafe { micro::dots(shape, k, w, x) };
            for (j, sums) in (j..n).zip(sums) {
                for (r, &v) in sums.iter().enumerate().take(x.len()) {
                    // SAFETY: each element of the result is one task's.
                    unsafe { *c.offset((4 * i + r) as isize * c.rs + j as isize * c.cs).ptr = v };
                }
            }
        }
    });
}

multiversion! {
    /// `y += Σ x · column` for four columns of a matrix whose columns are contiguous.
    fn add_columns[T: Real](y: &mut [T], columns: [&[T]; 4], x: [T; 4]) {
        let n = y.len();
        let [a, b, c, d] = columns.map(|s| &s[..n]);
        for i in 0..n {
            let low = a[i].mul_acc(x[0], y[i]);
            let low = b[i].mul_acc(x[1], low);
            let low = c[i].mul_acc(x[2], low);
            y[i] = d[i].mul_acc(x[3], low);
        }
    }
}

multiversion! {
    /// `y += a · x`.
    pub(crate) fn axpy[T: Real](y: &mut [T], a: T, x: &[T]) {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = x.mul_acc(a, *y));
    }
}

/// `y = a · x` for an m×k matrix with contiguous rows or columns.
fn matvec<T: Real>(m: usize, k: usize, a: Mat<T>, x: &[T], y: &mut [T]) {
    let parallel = m * k > 1 << 16;
    if a.cs == 1 || k == 1 {
        // SAFETY: row i of the matrix.
        let row = |i: usize, from: usize, to: usize| unsafe { a.slice(i as isize * a.rs + from as isize, to - from) };
        let whole = |i: usize| {
            let mut sum = T::ZERO;
            for from in (0..k).step_by(BLOCK) {
                let to = (from + BLOCK).min(k);
                sum += dot(row(i, from, to), &x[from..to]);
            }
            sum
        };
        if !parallel {
            y.iter_mut().enumerate().for_each(|(i, y)| *y = whole(i));
        } else if m >= 8 {
            let rows = ((1usize << 15) / k).clamp(1, 256);
            each_chunk(y, rows, 1, |c, y| {
                y.iter_mut().enumerate().for_each(|(i, y)| *y = whole(c * rows + i));
            });
        } else {
            for (i, y) in y.iter_mut().enumerate() {
                let mut blocks = vec![T::ZERO; k.div_ceil(BLOCK)];
                each_chunk(&mut blocks, 1, 1, |b, sum| {
                    let (from, to) = (b * BLOCK, ((b + 1) * BLOCK).min(k));
                    sum[0] = dot(row(i, from, to), &x[from..to]);
                });
                *y = T::ZERO;
                blocks.into_iter().for_each(|b| *y += b);
            }
        }
        return;
    }
    // Columns are contiguous: blocks of the result stay in cache while the columns stream by.
    let block = |first: usize, y: &mut [T]| {
        y.fill(T::ZERO);
        // SAFETY: rows first.. of column j.
        let rows = y.len();
        let column = |j: usize| unsafe { a.slice(first as isize * a.rs + j as isize * a.cs, rows) };
        let whole = k / 4 * 4;
        for j in (0..whole).step_by(4) {
            let c = [column(j), column(j + 1), column(j + 2), column(j + 3)];
            add_columns(y, c, [x[j], x[j + 1], x[j + 2], x[j + 3]]);
        }
        for (j, &x) in x.iter().enumerate().skip(whole) {
            axpy(y, x, column(j));
        }
    };
    if parallel {
        each_chunk(y, 1024, 1, |c, y| block(c * 1024, y));
    } else {
        y.chunks_mut(1024).enumerate().for_each(|(c, y)| block(c * 1024, y));
    }
}

/// The strides of a matrix's last two axes; those of axes of size 1 do not matter and become harmless.
fn strides(l: &Layout) -> (isize, isize) {
    let r = l.shape.rank();
    let fix = |a: usize| if l.shape[a] == 1 { 1 } else { l.strides[a] };
    (fix(r - 2), fix(r - 1))
}

/// The offset of each matrix of a batch.
fn starts(l: &Layout) -> SmallVec<[usize; 16]> {
    let r = l.shape.rank() - 2;
    if r == 0 {
        return SmallVec::from_slice(&[l.offset]);
    }
    let batch = Layout { shape: l.shape[..r].into(), strides: l.strides[..r].into(), offset: l.offset };
    batch.positions().collect()
}

fn real<T: Real>(ctx: &CpuCtx) {
    let (la, lb) = (ctx.layout(0), ctx.layout(1));
    let r = la.shape.rank();
    let (m, k, n) = (la.shape[r - 2], la.shape[r - 1], lb.shape[r - 1]);
    let c = ctx.output::<T>(0);
    if c.is_empty() {
        return;
    }
    if k == 0 {
        c.fill(T::ZERO);
        return;
    }
    let (a, b) = (ctx.strided::<T>(0), ctx.strided::<T>(1));
    let ((ars, acs), (brs, bcs)) = (strides(la), strides(lb));
    let (sa, sb) = (starts(la), starts(lb));
    let one = |i: usize, c: &mut [T], parallel: bool| {
        let (ma, mb) = (Mat::read(&a[sa[i]..], ars, acs), Mat::read(&b[sb[i]..], brs, bcs));
        if parallel && n == 1 && (acs == 1 || ars == 1) {
            return matvec(m, k, ma, &vector(&b[sb[i]..], brs, k), c);
        }
        if parallel && m == 1 && (bcs == 1 || brs == 1) {
            return matvec(n, k, mb.t(), &vector(&a[sa[i]..], acs, k), c);
        }
        let out = Mat::new(c.as_mut_ptr(), n as isize, 1);
        if let Some(shape) = micro::shape().filter(|_| T::SINGLE && parallel && k >= 64 && acs == 1 && brs == 1) {
            if m <= THIN && n > 2 * m {
                return thin(shape, [m, n, k], ma.cast(), mb.t().cast(), out.cast());
            }
            if n <= THIN && m > 2 * n {
                return thin(shape, [n, m, k], mb.t().cast(), ma.cast(), out.t().cast());
            }
        }
        // SAFETY: the layouts stay inside their buffers, and the output is ours alone.
        unsafe { product(m, n, k, out, false, ma, mb, parallel) }
    };
    let (batch, work) = (sa.len(), m * n * k);
    if batch == 1 {
        one(0, c, true);
    } else if batch * work < SERIAL {
        c.chunks_mut(m * n).enumerate().for_each(|(i, c)| one(i, c, false));
    } else if batch < 8 && work >= 1 << 23 {
        c.chunks_mut(m * n).enumerate().for_each(|(i, c)| one(i, c, true));
    } else {
        let per_task = ((1usize << 17) / work).max(1);
        each_chunk(c, m * n, per_task, |i, c| one(i, c, false));
    }
}

/// `k` elements of a strided vector, copied where they are not contiguous.
fn vector<T: Real>(x: &[T], stride: isize, k: usize) -> std::borrow::Cow<'_, [T]> {
    match stride {
        1 => (&x[..k]).into(),
        s => (0..k).map(|i| x[i * s as usize]).collect::<Vec<_>>().into(),
    }
}

trait Int: bytemuck::Pod + Send + Sync {
    const ZERO: Self;
    fn mul_add_wrapping(self, b: Self, c: Self) -> Self;
}

macro_rules! int {
    ($($t:ident),*) => { $(
        impl Int for $t {
            const ZERO: $t = 0;
            #[inline(always)]
            fn mul_add_wrapping(self, b: $t, c: $t) -> $t {
                self.wrapping_mul(b).wrapping_add(c)
            }
        }
    )* };
}
int!(u8, i32, u32, i64);

fn integer<T: Int>(ctx: &CpuCtx) {
    let (la, lb) = (ctx.layout(0), ctx.layout(1));
    let r = la.shape.rank();
    let (m, k, n) = (la.shape[r - 2], la.shape[r - 1], lb.shape[r - 1]);
    let c = ctx.output::<T>(0);
    if c.is_empty() {
        return;
    }
    let (a, b) = (ctx.strided::<T>(0), ctx.strided::<T>(1));
    let ((ars, acs), (brs, bcs)) = (strides(la), strides(lb));
    let (sa, sb) = (starts(la), starts(lb));
    let at = |start: usize, offset: isize| (start as isize + offset) as usize;
    let row = |(i, c): (usize, &mut [T])| {
        let (batch, i) = (i / m, i % m);
        c.fill(T::ZERO);
        for p in 0..k {
            let x = a[at(sa[batch], i as isize * ars + p as isize * acs)];
            let first = at(sb[batch], p as isize * brs);
            if bcs == 1 {
                c.iter_mut().zip(&b[first..first + n]).for_each(|(c, &y)| *c = x.mul_add_wrapping(y, *c));
            } else {
                c.iter_mut().enumerate().for_each(|(j, c)| *c = x.mul_add_wrapping(b[at(first, j as isize * bcs)], *c));
            }
        }
    };
    if c.len() * k < 1 << 16 {
        c.chunks_mut(n).enumerate().for_each(row);
    } else {
        each_chunk(c, n, (1usize << 14) / (n * k).max(1), |i, c| row((i, c)));
    }
}

pub(super) fn run(ctx: &CpuCtx) -> Result<()> {
    match ctx.dtype(0) {
        DType::F32 => real::<f32>(ctx),
        DType::F64 => real::<f64>(ctx),
        DType::U8 => integer::<u8>(ctx),
        DType::I32 => integer::<i32>(ctx),
        DType::U32 => integer::<u32>(ctx),
        DType::I64 => integer::<i64>(ctx),
        _ => return ctx.unsupported(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{close, cpu, noise};
    use crate::DType;
    use crate::layout::Layout;
    use crate::ops::matmul::MatMul;

    fn naive(a: &[f64], la: &Layout, b: &[f64], lb: &Layout) -> Vec<f64> {
        let r = la.shape.rank();
        let (m, k, n) = (la.shape[r - 2], la.shape[r - 1], lb.shape[r - 1]);
        let (pa, pb): (Vec<usize>, Vec<usize>) = (la.positions().collect(), lb.positions().collect());
        let batch: usize = la.shape[..r - 2].iter().product();
        let mut out = Vec::new();
        for z in 0..batch {
            for i in 0..m {
                for j in 0..n {
                    out.push((0..k).map(|p| a[pa[(z * m + i) * k + p]] * b[pb[(z * k + p) * n + j]]).sum());
                }
            }
        }
        out
    }

    #[test]
    fn products_agree_with_loops() {
        let cases = [
            (1, 1, 1),
            (3, 5, 7),
            (65, 130, 67),
            (1, 300, 513),
            (513, 300, 1),
            (2, 40_000, 1),
            (128, 1, 900),
            (4, 0, 3),
            (2000, 40, 1),
            (4, 200, 131),
            (130, 77, 7),
            (1, 40, 2100),
        ];
        for (m, k, n) in cases {
            for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
                for batch in [1usize, 3] {
                    let matrix = |rows: usize, cols: usize, t: bool| {
                        if t {
                            Layout::contiguous([batch, cols, rows].into()).permute(&[0, 2, 1])
                        } else {
                            Layout::contiguous([batch, rows, cols].into())
                        }
                    };
                    let (la, mut lb) = (matrix(m, k, ta), matrix(k, n, tb));
                    if batch > 1 && m == 3 {
                        lb.strides[0] = 0;
                    }
                    let (a, b) = (noise(batch * m * k, 1), noise(batch * k * n, 2));
                    let expected = naive(&a, &la, &b, &lb);
                    let op = MatMul { float: true };
                    let got = cpu::<f64>(&op, &[(&a, &la), (&b, &lb)], DType::F64);
                    close(&got, &expected, 1e-12, &format!("{m} {k} {n} {ta} {tb} {batch}"));
                    let narrow = |v: &[f64]| v.iter().map(|&v| v as f32).collect::<Vec<f32>>();
                    let got: Vec<f64> =
                        cpu::<f32>(&op, &[(&narrow(&a), &la), (&narrow(&b), &lb)], DType::F32).iter().map(|&v| v as f64).collect();
                    close(&got, &expected, 2e-6 * (k as f64).sqrt().max(4.0), &format!("f32 {m} {k} {n} {ta} {tb} {batch}"));
                }
            }
        }
    }

    #[test]
    fn integers() {
        let a: Vec<i64> = (0..6).map(|i| i - 2).collect();
        let la = Layout::contiguous([2, 3].into());
        let lb = la.permute(&[1, 0]);
        assert_eq!(cpu::<i64>(&MatMul { float: false }, &[(&a, &la), (&a, &lb)], DType::I64), [5, -4, -4, 14]);
    }
}

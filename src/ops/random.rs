//! Random tensors: Philox4x32-10 as a function of the position. The key and a range of counters are reserved when the op is recorded and stay
//! in the node as scalars, so that replay and recomputation give the same numbers. Element `i` is lane `i % 4` of block `counter + i / 4`, on both
//! backends.

use super::pointwise::tile::{Tile, versions};
use super::pointwise::{Row, Rule, generate};
use crate::codegen::math;
use crate::codegen::program::{Def, TileFn};
use crate::rng;
use crate::{DType, Error, Options, Result, Scalar, Shape, Tensor};

/// Blocks that a step of the vectorised loop computes.
const LANES: usize = 16;

/// What becomes of the four words of a block; `extra` is a further scalar argument.
trait Emit {
    type Out: Copy;
    fn emit(words: [u32; 4], extra: u32) -> [Self::Out; 4];

    /// The same for the words of consecutive blocks.
    #[inline(always)]
    fn emit_all(words: &[[u32; LANES]; 4], extra: u32, out: &mut [Self::Out]) {
        let mut results = [Self::emit([0; 4], extra); LANES];
        for l in 0..LANES {
            results[l] = Self::emit([words[0][l], words[1][l], words[2][l], words[3][l]], extra);
        }
        out.copy_from_slice(results.as_flattened());
    }
}

#[cfg(test)]
struct Words;
#[cfg(test)]
impl Emit for Words {
    type Out = u32;
    #[inline(always)]
    fn emit(words: [u32; 4], _: u32) -> [u32; 4] {
        words
    }
}

/// The upper 24 bits as a number in [0, 1).
#[inline(always)]
fn unit(word: u32) -> f32 {
    (word >> 8) as i32 as f32 * (1.0 / 16_777_216.0)
}

struct Uniform;
impl Emit for Uniform {
    type Out = f32;
    #[inline(always)]
    fn emit(words: [u32; 4], _: u32) -> [f32; 4] {
        words.map(unit)
    }
}

/// Two normal numbers from two words, by Box and Muller: √(−2 ln u) (cos 2πv, sin 2πv), u in (0, 1].
#[inline(always)]
fn box_muller(a: u32, b: u32) -> [f32; 2] {
    let r = (-2.0 * math::log(unit(a) + 1.0 / 16_777_216.0)).sqrt();
    let (c, s) = math::cos_sin_turns(unit(b));
    [r * c, r * s]
}

struct Normal;
impl Emit for Normal {
    type Out = f32;
    #[inline(always)]
    fn emit(w: [u32; 4], _: u32) -> [f32; 4] {
        let ([a, b], [c, d]) = (box_muller(w[0], w[1]), box_muller(w[2], w[3]));
        [a, b, c, d]
    }

    /// With the elementary functions in loops of their own, which LLVM vectorises.
    #[inline(always)]
    fn emit_all(words: &[[u32; LANES]; 4], _: u32, out: &mut [f32]) {
        let mut z = [[0.0; LANES]; 4];
        for half in [0, 2] {
            for l in 0..LANES {
                [z[half][l], z[half + 1][l]] = box_muller(words[half][l], words[half + 1][l]);
            }
        }
        for l in 0..LANES {
            for j in 0..4 {
                out[4 * l + j] = z[j][l];
            }
        }
    }
}

struct Below;
impl Emit for Below {
    type Out = u32;
    #[inline(always)]
    fn emit(words: [u32; 4], range: u32) -> [u32; 4] {
        words.map(|w| ((w as u64 * range as u64) >> 32) as u32)
    }
}

struct Generator<E>(std::marker::PhantomData<E>);

impl<E: Emit> Tile for Generator<E> {
    #[inline(always)]
    unsafe fn run(n: usize, args: &[*const u8], out: *mut u8) {
        if n == 0 {
            return;
        }
        // SAFETY: the caller's promise: n elements each, u32 arguments, results of E::Out.
        let (index, out) =
            unsafe { (std::slice::from_raw_parts(args[0] as *const u32, n), std::slice::from_raw_parts_mut(out as *mut E::Out, n)) };
        // The scalars are the same at every position.
        let word = |k: usize| unsafe { *(args[k] as *const u32) };
        let (key, counter) = ([word(1), word(2)], word(3) as u64 | (word(4) as u64) << 32);
        let extra = if args.len() > 5 { word(5) } else { 0 };
        let at = |block: u32| {
            let c = counter.wrapping_add(block as u64);
            [c as u32, (c >> 32) as u32, 0, 0]
        };
        let mut known = (u32::MAX, E::emit([0; 4], extra));
        let mut i = 0;
        while i < n {
            let first = index[i];
            let run = 4 * LANES;
            let straight = first % 4 == 0
                && i + run <= n
                && first.checked_add(run as u32).is_some()
                && index[i..i + run].iter().enumerate().fold(true, |all, (k, &v)| all & (v == first.wrapping_add(k as u32)));
            if straight {
                let mut words = [[0u32; LANES]; 4];
                for l in 0..LANES {
                    let w = rng::philox(key, at(first / 4 + l as u32));
                    for j in 0..4 {
                        words[j][l] = w[j];
                    }
                }
                E::emit_all(&words, extra, &mut out[i..i + run]);
                i += run;
            } else {
                let block = first / 4;
                if known.0 != block {
                    known = (block, E::emit(rng::philox(key, at(block)), extra));
                }
                out[i] = known.1[first as usize % 4];
                i += 1;
            }
        }
    }
}

/// The WGSL of Philox: the lane of an element, with all names under a prefix (a 32×32-bit product's upper half has to be put together).
macro_rules! philox {
    ($p:literal, $rest:expr) => {
        concat!(
            "fn ",
            $p,
            "_mulhi(a: u32, b: u32) -> u32 {
    let al = a & 0xffffu;
    let ah = a >> 16u;
    let bl = b & 0xffffu;
    let bh = b >> 16u;
    let mid = ah * bl + ((al * bl) >> 16u);
    let low = al * bh + (mid & 0xffffu);
    return ah * bh + (mid >> 16u) + (low >> 16u);
}
fn ",
            $p,
            "_block(i: u32, k0: u32, k1: u32, c0: u32, c1: u32) -> vec4<u32> {
    let low = c0 + (i >> 2u);
    var c = vec4<u32>(low, c1 + select(0u, 1u, low < c0), 0u, 0u);
    var k = vec2<u32>(k0, k1);
    for (var r = 0u; r < 10u; r++) {
        let a = ",
            $p,
            "_mulhi(0xd2511f53u, c.x);
        let b = ",
            $p,
            "_mulhi(0xcd9e8d57u, c.z);
        c = vec4<u32>(b ^ c.y ^ k.x, 0xcd9e8d57u * c.z, a ^ c.w ^ k.y, 0xd2511f53u * c.x);
        k = k + vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}
fn ",
            $p,
            "_word(i: u32, k0: u32, k1: u32, c0: u32, c1: u32) -> u32 {
    let c = ",
            $p,
            "_block(i, k0, k1, c0, c1);
    let even = select(c.x, c.z, (i & 2u) != 0u);
    let odd = select(c.y, c.w, (i & 2u) != 0u);
    return select(even, odd, (i & 1u) != 0u);
}
",
            $rest
        )
    };
}

macro_rules! generator {
    ($(#[$doc:meta])* $id:ident, $name:literal, $dtype:ident, $emit:ty, $wgsl:literal, $prelude:expr) => {
        $(#[$doc])*
        pub(crate) static $id: Row = Row {
            def: Def {
                name: $name,
                cpu: |d| {
                    let f: TileFn = versions::<Generator<$emit>>();
                    (d == DType::$dtype).then_some(f)
                },
                wgsl: |d| (d == DType::$dtype).then_some($wgsl),
                prelude: $prelude,
            },
            rule: Rule::Generator,
            grads: &[],
            domain: &[],
        };
    };
}

#[cfg(test)]
generator!(
    /// 32 random bits.
    BITS,
    "random_bits",
    U32,
    Words,
    "fx_bits_word($0, $1, $2, $3, $4)",
    philox!("fx_bits", "")
);
generator!(
    /// A number in [0, 1), of 24 bits.
    UNIT,
    "random_uniform",
    F32,
    Uniform,
    "(f32(fx_unit_word($0, $1, $2, $3, $4) >> 8u) * 5.9604645e-8)",
    philox!("fx_unit", "")
);
generator!(
    /// A number in 0..range.
    BELOW,
    "random_below",
    U32,
    Below,
    "fx_below_mulhi(fx_below_word($0, $1, $2, $3, $4), $5)",
    philox!("fx_below", "")
);
generator!(
    /// A standard normal number.
    NORMAL,
    "random_normal",
    F32,
    Normal,
    "fx_normal($0, $1, $2, $3, $4)",
    philox!(
        "fx_normal",
        "fn fx_normal_log(x: f32) -> f32 {
    let i = bitcast<i32>(x) - 0x3f3504f3;
    let k = f32(i >> 23u);
    let f = bitcast<f32>((i & 0x7fffff) + 0x3f3504f3) - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let r = z * (0.6666667 + z * (0.4 + z * (0.2857143 + z * (0.22222222 + z * 0.18181819))));
    let h = 0.5 * f * f;
    return k * 0.69314575 + (f + ((s * (h + r) - h) + k * 1.4286068e-6));
}
fn fx_normal(i: u32, k0: u32, k1: u32, c0: u32, c1: u32) -> f32 {
    let c = fx_normal_block(i, k0, k1, c0, c1);
    let pair = select(c.xy, c.zw, (i & 2u) != 0u);
    let u = f32((pair.x >> 8u) + 1u) * 5.9604645e-8;
    let radius = sqrt(max(-2.0 * fx_normal_log(u), 0.0));
    let t = f32(pair.y >> 8u) * 2.3841858e-7;
    let n = round(t);
    let r = (t - n) * 1.5707964;
    let z = r * r;
    let sine = r + r * z * (-0.16666667 + z * (0.008333334 + z * (-1.984127e-4 + z * 2.7557319e-6)));
    let cosine = 1.0 - (0.5 * z - z * z * (0.041666668 + z * (-0.0013888889 + z * (2.4801587e-5 - z * 2.7557319e-7))));
    let q = u32(n) + select(1u, 0u, (i & 1u) != 0u);
    let y = select(sine, cosine, (q & 1u) != 0u);
    return radius * select(y, -y, (q & 2u) != 0u);
}
"
    )
);

/// The generators' rows.
#[cfg(test)]
pub(crate) static ROWS: &[&Row] = &[&BITS, &UNIT, &BELOW, &NORMAL];

/// The WGSL type of a row's result.
#[cfg(test)]
pub(crate) fn wgsl_result(row: &Row) -> &'static str {
    if (row.def.wgsl)(DType::U32).is_some() { "u32" } else { "f32" }
}

/// Records a generator with its share of the process's stream.
fn draw(row: &'static Row, shape: Shape, out: DType, extra: Option<u32>, device: crate::Device) -> Result<Tensor> {
    let compute = out.compute();
    let (key, counter) = rng::reserve((shape.checked_numel()? as u64).div_ceil(4));
    let words = [key as u32, (key >> 32) as u32, counter as u32, (counter >> 32) as u32];
    let scalars: smallvec::SmallVec<[(Scalar, DType); 5]> =
        words.into_iter().chain(extra).map(|w| (Scalar::Int(w as i64), DType::U32)).collect();
    generate(row, &scalars, shape, out, compute, device)
}

/// A float generator: half precision is the rounding of f32, f64 a cast of it.
fn draw_float(op: &'static str, row: &'static Row, shape: Shape, o: Options) -> Result<Tensor> {
    match o.dtype {
        DType::F64 => draw(row, shape, DType::F32, None, o.device)?.try_cast(DType::F64),
        d if d.is_float() => draw(row, shape, DType::F32, None, o.device),
        d => Err(Error::dtype(op, &[d], "a float dtype")),
    }
}

#[fornax_derive::fallible]
impl Tensor {
    /// Random numbers, uniform in [lo, hi): 24 random bits each (11 in f16, 8 in bf16). (Rounding of the scaled number can give `hi` itself.)
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::uniform([100], -1.0, 1.0, Device::cpu());
    /// assert!(x.to_vec::<f32>()?.iter().all(|v| (-1.0..=1.0).contains(v)));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// `lo` above `hi`, or bounds that are not finite in the dtype, or lie too far apart for it; a dtype that is no float; more than 2³² − 1 elements.
    pub fn try_uniform(shape: impl Into<Shape>, lo: f64, hi: f64, options: impl Into<Options>) -> Result<Tensor> {
        let o = options.into();
        if !(lo <= hi && (hi - lo).is_finite()) {
            return Err(Error::argument("uniform", format!("{lo} to {hi}: finite bounds are wanted, the lower one first")));
        }
        for bound in [lo, hi, hi - lo] {
            Scalar::Float(bound).fit("uniform", if o.dtype.is_float() { o.dtype } else { DType::F32 })?;
        }
        let u = draw_float("uniform", &UNIT, shape.into(), o)?;
        // As many bits as the dtype keeps: 1 - 2^-24 would be rounded to 1.
        let u = match o.dtype {
            DType::F16 => u.try_mul(2048.0)?.try_floor()?.try_mul(1.0 / 2048.0)?,
            DType::BF16 => u.try_mul(256.0)?.try_floor()?.try_mul(1.0 / 256.0)?,
            _ => u,
        };
        let u = if hi - lo == 1.0 { u } else { u.try_mul(hi - lo)? };
        let u = if lo == 0.0 { u } else { u.try_add(lo)? };
        u.try_cast(o.dtype)
    }

    /// Random numbers of the normal distribution, by Box and Muller.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::normal([1000], 5.0, 0.1, Device::cpu());
    /// assert!((x.mean(()).item::<f32>()? - 5.0).abs() < 0.05);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// A standard deviation that is negative or NaN; a dtype that is no float; more than 2³² − 1 elements.
    pub fn try_normal(shape: impl Into<Shape>, mean: f64, std: f64, options: impl Into<Options>) -> Result<Tensor> {
        let o = options.into();
        if std.is_nan() || std < 0.0 {
            return Err(Error::argument("normal", format!("std = {std}: a standard deviation from 0 on is wanted")));
        }
        let z = draw_float("normal", &NORMAL, shape.into(), o)?;
        let z = if std == 1.0 { z } else { z.try_mul(std)? };
        let z = if mean == 0.0 { z } else { z.try_add(mean)? };
        z.try_cast(o.dtype)
    }

    /// 1 with probability `p`, else 0, in any dtype (true and false as bools).
    ///
    /// ```
    /// use fornax::{DType, Device, Tensor};
    /// let x = Tensor::bernoulli([1000], 0.25, (DType::Bool, Device::cpu()));
    /// let ones = x.sum(()).item::<i32>()?;
    /// assert!((150..350).contains(&ones));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// A probability outside [0, 1]; more than 2³² − 1 elements.
    pub fn try_bernoulli(shape: impl Into<Shape>, p: f64, options: impl Into<Options>) -> Result<Tensor> {
        if !(0.0..=1.0).contains(&p) {
            return Err(Error::argument("bernoulli", format!("p = {p}: a probability in [0, 1] is wanted")));
        }
        let o = options.into();
        draw(&UNIT, shape.into(), DType::F32, None, o.device)?.try_lt(p)?.try_cast(o.dtype)
    }

    /// Random integers, uniform in lo..hi, in any number dtype (a device alone means f32, as everywhere).
    ///
    /// ```
    /// use fornax::{DType, Device, Tensor};
    /// let dice = Tensor::randint([100], 1, 7, (DType::I32, Device::cpu())).to_vec::<i32>()?;
    /// assert!(dice.iter().all(|d| (1..7).contains(d)));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// An empty range, one of more than 2³¹ numbers, or one that the dtype cannot hold; the dtype bool; more than 2³² − 1 elements.
    pub fn try_randint(shape: impl Into<Shape>, lo: i64, hi: i64, options: impl Into<Options>) -> Result<Tensor> {
        let o = options.into();
        let range = hi.checked_sub(lo).filter(|&r| r > 0 && r <= 1 << 31);
        let Some(range) = range else {
            return Err(Error::argument("randint", format!("{lo}..{hi}: a range of 1 to 2^31 numbers is wanted")));
        };
        if o.dtype == DType::Bool {
            return Err(Error::dtype("randint", &[o.dtype], "a number dtype"));
        }
        let (least, most) = Scalar::bounds(o.dtype);
        if o.dtype.is_int() && (lo < least || hi - 1 > most) {
            return Err(Error::argument("randint", format!("{lo}..{hi} does not fit {}, which holds {least} to {most}", o.dtype)));
        }
        let v = draw(&BELOW, shape.into(), DType::U32, Some(range as u32), o.device)?.try_cast(o.dtype)?;
        if lo == 0 { Ok(v) } else { v.try_add(lo) }
    }

    /// Uniform numbers in [0, 1) in this tensor's shape, dtype and device.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// assert_eq!(Tensor::zeros([2, 3], Device::cpu()).rand_like().dims(), [2, 3]);
    /// ```
    ///
    /// # Errors
    /// A dtype that is no float.
    pub fn try_rand_like(&self) -> Result<Tensor> {
        Tensor::try_uniform(self.shape(), 0.0, 1.0, (self.dtype(), self.device()))
    }

    /// Standard normal numbers in this tensor's shape, dtype and device.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// assert_eq!(Tensor::zeros([2, 3], Device::cpu()).randn_like().dims(), [2, 3]);
    /// ```
    ///
    /// # Errors
    /// A dtype that is no float.
    pub fn try_randn_like(&self) -> Result<Tensor> {
        Tensor::try_normal(self.shape(), 0.0, 1.0, (self.dtype(), self.device()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a generator over some positions.
    fn run<R: Copy + Default>(row: &Row, d: DType, index: &[u32], scalars: &[u32]) -> Vec<R> {
        let n = index.len();
        let tiles: Vec<Vec<u32>> = scalars.iter().map(|&s| vec![s; n]).collect();
        let mut args = vec![index.as_ptr() as *const u8];
        args.extend(tiles.iter().map(|t| t.as_ptr() as *const u8));
        let mut out = vec![R::default(); n];
        unsafe { (row.def.cpu)(d).unwrap()(n, &args, out.as_mut_ptr() as *mut u8) };
        out
    }

    #[test]
    fn lanes_and_counters() {
        let scalars = [1, 2, u32::MAX - 20, 7];
        let index: Vec<u32> = (0..1001).collect();
        let words: Vec<u32> = run(&BITS, DType::U32, &index, &scalars);
        for (i, &w) in words.iter().enumerate() {
            let c = ((7u64 << 32) | (u32::MAX - 20) as u64) + i as u64 / 4;
            assert_eq!(w, rng::philox([1, 2], [c as u32, (c >> 32) as u32, 0, 0])[i % 4], "{i}");
        }
        // Any other order of positions gives the same numbers.
        let odd: Vec<u32> = (0..500).map(|i| (i * 37 + 3) % 1001).collect();
        let some: Vec<u32> = run(&BITS, DType::U32, &odd, &scalars);
        assert!(odd.iter().zip(some).all(|(&i, w)| w == words[i as usize]));
        let offset: Vec<f32> = run(&NORMAL, DType::F32, &index[13..], &scalars);
        let normal: Vec<f32> = run(&NORMAL, DType::F32, &index, &scalars);
        assert_eq!(offset[..], normal[13..]);
    }

    #[test]
    fn moments() {
        let index: Vec<u32> = (0..100_000).collect();
        let mean = |v: &[f32], p: i32| v.iter().map(|&x| (x as f64).powi(p)).sum::<f64>() / v.len() as f64;
        let u: Vec<f32> = run(&UNIT, DType::F32, &index, &[3, 4, 0, 0]);
        assert!(u.iter().all(|u| (0.0..1.0).contains(u)));
        assert!((mean(&u, 1) - 0.5).abs() < 0.005 && (mean(&u, 2) - 1.0 / 3.0).abs() < 0.005);
        let z: Vec<f32> = run(&NORMAL, DType::F32, &index, &[3, 4, 0, 0]);
        assert!(
            mean(&z, 1).abs() < 0.015 && (mean(&z, 2) - 1.0).abs() < 0.02 && mean(&z, 3).abs() < 0.06 && (mean(&z, 4) - 3.0).abs() < 0.15
        );
        let pairs = z.chunks(2).map(|p| (p[0] * p[1]) as f64).sum::<f64>() / 50_000.0;
        assert!(pairs.abs() < 0.02);
        let dice: Vec<u32> = run(&BELOW, DType::U32, &index, &[3, 4, 0, 0, 6]);
        for face in 0..6 {
            let count = dice.iter().filter(|&&d| d == face).count();
            assert!((16_000..17_400).contains(&count), "{face}: {count}");
        }
    }
}

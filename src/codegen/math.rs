//! Elementary functions, as straight-line code that LLVM turns into SIMD loops.
//!
//! Nothing here contracts a product and a sum (`mul_add`), so results do not depend on the instruction set. NaN goes in and out; infinities,
//! zeros of either sign, denormals and overflow give what IEEE 754 (and PyTorch) give. The errors stated were measured against f64; an ulp
//! is the spacing of f32 at the true value. Functions that training hardly ever calls are the standard library's.

use std::f64::consts as c64;

/// 1.5·2²³: adding it rounds to the nearest integer, which the low bits of the sum then hold.
const MAGIC: f32 = 12_582_912.0;
const LOG2E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts; the first has 15 bits, so that its product with an exponent is exact.
const LN2_HI: f32 = 0.693_145_75;
const LN2_LO: f32 = 1.428_606_8e-6;

/// 2^k for -126 ≤ k ≤ 127.
#[inline(always)]
fn pow2(k: i32) -> f32 {
    f32::from_bits(((k + 127) << 23) as u32)
}

/// x·2^k for -252 ≤ k ≤ 254, rounded once.
#[inline(always)]
fn scale(x: f32, k: i32) -> f32 {
    let half = k >> 1;
    x * pow2(half) * pow2(k - half)
}

/// Bounds that let NaN through.
#[inline(always)]
fn bound(x: f32, lo: f32, hi: f32) -> f32 {
    let x = if x > hi { hi } else { x };
    if x < lo { lo } else { x }
}

/// The nearest integer to x (|x| < 2²²), as a float and as an integer.
#[inline(always)]
fn nearest(x: f32) -> (f32, i32) {
    let z = x + MAGIC;
    (z - MAGIC, (z.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32))
}

/// e^r − 1 for |r| ≤ ln 2 / 2, by its series.
#[inline(always)]
fn expm1_small(r: f32) -> f32 {
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    r + r * r * p
}

/// eˣ; error below 1.5 ulp.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = bound(x, -104.0, 89.0);
    let (k, n) = nearest(x * LOG2E);
    let r = x - k * LN2_HI - k * LN2_LO;
    let n = if x.is_nan() { 0 } else { n };
    scale(1.0 + expm1_small(r), n)
}

/// eˣ for x ≤ 0, as a softmax needs it; error below 1.5 ulp, and 0 below -87 (where the result is not far from the smallest normal number).
#[inline(always)]
pub fn exp_falling(x: f32) -> f32 {
    let b = if x < -87.0 { -87.0 } else { x };
    let (k, n) = nearest(b * LOG2E);
    let y = (1.0 + expm1_small(b - k * LN2_HI - k * LN2_LO)) * pow2(n);
    if x < -87.0 { 0.0 } else { y }
}

/// 2ˣ; error below 1.5 ulp.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    let x = bound(x, -151.0, 129.0);
    let (k, n) = nearest(x);
    let n = if x.is_nan() { 0 } else { n };
    scale(1.0 + expm1_small((x - k) * std::f32::consts::LN_2), n)
}

/// eˣ − 1; error below 2.5 ulp.
#[inline(always)]
pub fn expm1(x: f32) -> f32 {
    let b = bound(x, -18.0, 89.0);
    let (k, n) = nearest(b * LOG2E);
    let n = if b.is_nan() { 0 } else { n };
    let q = expm1_small(b - k * LN2_HI - k * LN2_LO);
    // 2^k·q + (2^k − 1), with half of 2^k so that k = 128 is in range.
    let t = pow2(n - 1);
    let y = 2.0 * (t * q + (t - 0.5));
    if x.abs() < 1e-20 { x } else { y }
}

/// x = m·2^k with m in [√½, √2): ln m as (f, correction), and k. For finite x > 0.
#[inline(always)]
fn log_parts(x: f32) -> (f32, f32) {
    let tiny = x < f32::MIN_POSITIVE;
    let x = if tiny { x * 33_554_432.0 } else { x };
    const OFFSET: i32 = 0x3f35_04f3;
    let i = (x.to_bits() as i32).wrapping_sub(OFFSET);
    let k = (i >> 23) as f32 - if tiny { 25.0 } else { 0.0 };
    let m = f32::from_bits(((i & 0x7f_ffff) + OFFSET) as u32);
    (m - 1.0, k)
}

/// ln(1 + f) − f for 1 + f in [√½, √2), from s = f / (2 + f): ln(1 + f) = 2·atanh(s) = f − f²/2 + s·(f²/2 + R(s²)).
#[inline(always)]
fn log_tail(f: f32) -> f32 {
    let s = f / (2.0 + f);
    let z = s * s;
    let r = 2.0 / 11.0;
    let r = r * z + 2.0 / 9.0;
    let r = r * z + 2.0 / 7.0;
    let r = r * z + 2.0 / 5.0;
    let r = (r * z + 2.0 / 3.0) * z;
    let h = 0.5 * f * f;
    s * (h + r) - h
}

/// What a logarithm gives outside (0, ∞).
#[inline(always)]
fn log_special(x: f32, y: f32) -> f32 {
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    let y = if x < 0.0 { f32::NAN } else { y };
    if x.is_nan() { x } else { y }
}

/// ln x; error below 1 ulp.
#[inline(always)]
pub fn log(x: f32) -> f32 {
    let (f, k) = log_parts(x);
    log_special(x, k * LN2_HI + (f + (log_tail(f) + k * LN2_LO)))
}

/// log₂ x; error below 2 ulp, exact for powers of two.
#[inline(always)]
pub fn log2(x: f32) -> f32 {
    let (f, k) = log_parts(x);
    log_special(x, k + (f + log_tail(f)) * LOG2E)
}

/// log₁₀ x; error below 2.5 ulp.
#[inline(always)]
pub fn log10(x: f32) -> f32 {
    let (f, k) = log_parts(x);
    // log₁₀ 2 in two parts, as ln 2 above.
    let (hi, lo) = (0.301_025_4, 4.605_038_6e-6);
    log_special(x, k * hi + ((f + log_tail(f)) * std::f32::consts::LOG10_E + k * lo))
}

/// ln(1 + x); error below 3 ulp.
#[inline(always)]
pub fn log1p(x: f32) -> f32 {
    let u = 1.0 + x;
    // The rounding of 1 + x is made good by the ratio of x to what arrived.
    let d = u - 1.0;
    let y = log(u) * (x / d);
    let y = if d == 0.0 { x } else { y };
    if x == f32::INFINITY { x } else { y }
}

/// The largest argument that `sin`, `cos` and `tan` reduce themselves; callers send larger ones to the standard library.
pub const TRIG_LIMIT: f32 = 1.0e6;

/// x − n·π/2 for the nearest n, and n. |x| ≤ TRIG_LIMIT.
#[inline(always)]
fn trig_reduce(x: f32) -> (f32, i32) {
    const MAGIC64: f64 = 6_755_399_441_055_744.0;
    // π/2 in two parts; the first has 33 bits.
    const HI: f64 = 1.570_796_326_734_125_6;
    const LO: f64 = 6.077_100_506_506_192e-11;
    let x = x as f64;
    let z = x * c64::FRAC_2_PI + MAGIC64;
    let k = z - MAGIC64;
    ((x - k * HI - k * LO) as f32, z.to_bits() as i32)
}

#[inline(always)]
fn sin_small(r: f32) -> f32 {
    let z = r * r;
    let p = 1.0 / 362_880.0;
    let p = p * z - 1.0 / 5040.0;
    let p = p * z + 1.0 / 120.0;
    let p = p * z - 1.0 / 6.0;
    r + r * z * p
}

#[inline(always)]
fn cos_small(r: f32) -> f32 {
    let z = r * r;
    let p = -1.0 / 3_628_800.0;
    let p = p * z + 1.0 / 40_320.0;
    let p = p * z - 1.0 / 720.0;
    let p = p * z + 1.0 / 24.0;
    1.0 - (0.5 * z - z * z * p)
}

/// sin x for |x| ≤ [`TRIG_LIMIT`]; error below 1.5 ulp.
#[inline(always)]
pub fn sin(x: f32) -> f32 {
    let (r, n) = trig_reduce(x);
    let y = if n & 1 == 0 { sin_small(r) } else { cos_small(r) };
    let y = if n & 2 == 0 { y } else { -y };
    if x == 0.0 { x } else { y }
}

/// cos x for |x| ≤ [`TRIG_LIMIT`]; error below 1.5 ulp.
#[inline(always)]
pub fn cos(x: f32) -> f32 {
    let (r, n) = trig_reduce(x);
    let y = if n & 1 == 0 { cos_small(r) } else { sin_small(r) };
    if (n.wrapping_add(1)) & 2 == 0 { y } else { -y }
}

/// tan x for |x| ≤ [`TRIG_LIMIT`]; error below 3.5 ulp.
#[inline(always)]
pub fn tan(x: f32) -> f32 {
    let (r, n) = trig_reduce(x);
    let (s, c) = (sin_small(r), cos_small(r));
    let y = if n & 1 == 0 { s / c } else { -c / s };
    if x == 0.0 { x } else { y }
}

/// (cos 2πu, sin 2πu) for 0 ≤ u ≤ 1; absolute error below 2·10⁻⁷.
#[inline(always)]
pub fn cos_sin_turns(u: f32) -> (f32, f32) {
    let (k, n) = nearest(4.0 * u);
    let r = (4.0 * u - k) * std::f32::consts::FRAC_PI_2;
    let (s, c) = (sin_small(r), cos_small(r));
    let (a, b) = if n & 1 == 0 { (c, s) } else { (-s, c) };
    if n & 2 == 0 { (a, b) } else { (-a, -b) }
}

/// tanh x = (e²ˣ − 1) / (e²ˣ + 1); error below 3.5 ulp.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    let e = expm1(2.0 * if a > 10.0 { 10.0 } else { a });
    (e / (e + 2.0)).copysign(x)
}

/// sinh x = (u + u / (u + 1)) / 2 with u = e^|x| − 1; error below 4 ulp.
#[inline(always)]
pub fn sinh(x: f32) -> f32 {
    let a = x.abs();
    let u = expm1(a);
    let y = 0.5 * (u + u / (u + 1.0));
    // Beyond ln(f32::MAX), where eˣ overflows and sinh does not: ½·(e^(x/2))².
    let h = exp(0.5 * a);
    let y = if a > 88.0 { 0.5 * h * h } else { y };
    y.copysign(x)
}

/// cosh x; error below 4 ulp.
#[inline(always)]
pub fn cosh(x: f32) -> f32 {
    let a = x.abs();
    let h = exp(0.5 * a);
    let e = exp(a);
    if a > 88.0 { 0.5 * h * h } else { 0.5 * e + 0.5 / e }
}

/// 1 / (1 + e⁻ˣ); error below 3 ulp.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// ln(1 + eˣ) without overflow; error below 3 ulp.
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    let t = log1p(exp(-x.abs()));
    if x > 0.0 { x + t } else { t }
}

/// arsinh x; error below 1 ulp.
#[inline(always)]
pub fn asinh(x: f32) -> f32 {
    (x as f64).asinh() as f32
}

/// arcosh x; error below 1 ulp.
#[inline(always)]
pub fn acosh(x: f32) -> f32 {
    (x as f64).acosh() as f32
}

/// artanh x; error below 1 ulp.
#[inline(always)]
pub fn atanh(x: f32) -> f32 {
    atanh64(x as f64) as f32
}

/// artanh x in f64, by way of |x|: near -1 the standard library's formula loses what it is about.
#[inline(always)]
pub fn atanh64(x: f64) -> f64 {
    let a = x.abs();
    (0.5 * (2.0 * a / (1.0 - a)).ln_1p()).copysign(x)
}

/// erf x = 2/√π ∫₀ˣ e^(−t²) dt; error below 2.5 ulp. Polynomials fitted by Chebyshev interpolation: erf(x)/x in x² up to 1, then
/// ln(1 − erf(x)) in x − 2.5 up to 4, after which erf rounds to 1.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let a = x.abs();
    let z = a * a;
    let p = 7.875_875e-5;
    let p = p * z - 8.016_864_3e-4;
    let p = p * z + 5.189_087_4e-3;
    let p = p * z - 2.685_421_2e-2;
    let p = p * z + 1.128_359_47e-1;
    let p = p * z - 3.761_262_7e-1;
    let p = p * z + 1.283_791_66e-1;
    let small = a + a * p;
    let b = if a > 4.0 { 4.0 } else { a };
    let u = b - 2.5;
    let q = 1.637_151_4e-6;
    let q = q * u - 1.331_501_4e-5;
    let q = q * u + 7.729_137_6e-5;
    let q = q * u - 4.201_225_2e-4;
    let q = q * u + 2.165_303_5e-3;
    let q = q * u - 1.085_854_2e-2;
    let q = q * u - 9.438_937e-1;
    let q = q * u - 5.352_680_7;
    let q = q * u - 7.806_815_3;
    // q lies in [-18, 0), so that 2^k is in range.
    let (k, n) = nearest(q * LOG2E);
    let e = (1.0 + expm1_small(q - k * LN2_HI - k * LN2_LO)) * pow2(n);
    let y = if a < 1.0 { small } else { 1.0 - e };
    y.copysign(x)
}

/// The bits from which a f64 mantissa in [√½, √2) starts.
const SQRT_HALF_BITS: u64 = 0x3fe6_a09e_667f_3bcd;

/// xʸ by PyTorch's rules (C99's `pow`); error below 1 ulp: log₂ and 2ˣ are computed in f64 with a relative error of about 10⁻¹¹.
#[inline(always)]
pub fn pow(x: f32, y: f32) -> f32 {
    const MAGIC64: f64 = 6_755_399_441_055_744.0;
    let a = x.abs();
    let bits = (a as f64).to_bits().wrapping_sub(SQRT_HALF_BITS).wrapping_add(1023 << 52);
    // The exponent, by way of the low bits of a large float (an integer conversion that every instruction set can do in lanes).
    let k = f64::from_bits((bits >> 52) | 4_503_599_627_370_496.0f64.to_bits()) - 4_503_599_627_370_496.0 - 1023.0;
    let m = f64::from_bits((bits & 0xf_ffff_ffff_ffff).wrapping_add(SQRT_HALF_BITS));
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let p = 1.0 / 15.0;
    let p = p * z + 1.0 / 13.0;
    let p = p * z + 1.0 / 11.0;
    let p = p * z + 1.0 / 9.0;
    let p = p * z + 1.0 / 7.0;
    let p = p * z + 1.0 / 5.0;
    let p = p * z + 1.0 / 3.0;
    let ln = 2.0 * (s + s * z * p);
    let l = k + ln * c64::LOG2_E;
    let l = if a == 0.0 { f64::NEG_INFINITY } else { l };
    let l = if a == f32::INFINITY { f64::INFINITY } else { l };
    let e = l * y as f64;
    let e = if e > 200.0 { 200.0 } else { e };
    let e = if e < -200.0 { -200.0 } else { e };
    let t = e + MAGIC64;
    let r = (e - (t - MAGIC64)) * c64::LN_2;
    let q = 1.0 / 362_880.0;
    let q = q * r + 1.0 / 40_320.0;
    let q = q * r + 1.0 / 5040.0;
    let q = q * r + 1.0 / 720.0;
    let q = q * r + 1.0 / 120.0;
    let q = q * r + 1.0 / 24.0;
    let q = q * r + 1.0 / 6.0;
    let q = q * r + 0.5;
    let q = 1.0 + (r + r * r * q);
    let two_k = f64::from_bits(t.to_bits().wrapping_sub(MAGIC64.to_bits()).wrapping_add(1023) << 52);
    let v = (q * two_k) as f32;
    // The sign, and the points where the formula does not hold. Beyond 2²⁴ every float is an even integer.
    let huge = y.abs() >= 16_777_216.0;
    let w = if huge { 0.0 } else { y };
    let integer = w == w.trunc();
    let half = 0.5 * w;
    let odd = integer & (half != half.trunc());
    let negative = x.is_sign_negative();
    let v = if odd & negative { -v } else { v };
    let v = if (x < 0.0) & !integer & (a != f32::INFINITY) & (y.abs() != f32::INFINITY) { f32::NAN } else { v };
    let v = if (a == 1.0) & (y.abs() == f32::INFINITY) { 1.0 } else { v };
    let v = if x.is_nan() | y.is_nan() { f32::NAN } else { v };
    if (x == 1.0) | (y == 0.0) { 1.0 } else { v }
}

/// erf in f64; error below 2·10⁻¹⁵ relative. Below 2 the series 2/√π · e^(−x²) Σ 2ⁿ x^(2n+1) / (2n+1)!!, whose terms are positive; above, 1 −
/// erfc by the continued fraction e^(−x²)/√π · 1/(x + ½/(x + 1/(x + 3⁄2/(x + …)))).
pub fn erf64(x: f64) -> f64 {
    let a = x.abs();
    let y = if a < 2.0 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term > sum * 1e-17 {
            n += 1.0;
            term *= 2.0 * a * a / (2.0 * n + 1.0);
            sum += term;
        }
        c64::FRAC_2_SQRT_PI * (-a * a).exp() * sum
    } else if a < 6.0 {
        let f = (1..=120).rev().fold(a, |f, n| a + 0.5 * n as f64 / f);
        1.0 - (-a * a).exp() / (f * std::f64::consts::PI.sqrt())
    } else if a.is_nan() {
        x
    } else {
        1.0
    };
    y.copysign(x)
}

/// ln(1 + eˣ) in f64.
#[inline(always)]
pub fn softplus64(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests;

//! WGSL functions that the table's expressions call. A row has one prelude; a function is printed once a shader, so the names of helpers begin with the
//! op's name, or their text is the same wherever they stand. NaN is told by its bits, for naga folds `x != x` to false.

mod arithmetic;

pub(crate) use arithmetic::*;

/// 2^k·(1 + q) for e^r − 1 = q, in two steps, so that results from the largest to denormal ones are right.
macro_rules! exp {
    () => {
        "fn fx_exp_scaled(r: f32, k: f32) -> f32 {
    let p = 0.5 + r * (0.16666667 + r * (0.041666668 + r * (0.008333334 + r * (0.0013888889 + r * 1.984127e-4))));
    let n = i32(k);
    let half = n >> 1u;
    return (1.0 + (r + r * r * p)) * bitcast<f32>((half + 127) << 23u) * bitcast<f32>((n - half + 127) << 23u);
}
fn fx_exp(x: f32) -> f32 {
    let b = clamp(x, -104.0, 89.0);
    let k = round(b * 1.44269504);
    let y = fx_exp_scaled((b - k * 0.69314575) - k * 1.4286068e-6, k);
    return select(y, x, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
}
"
    };
}

/// x = (1 + f)·2^k with 1 + f in [√½, √2), as a vec3 (f, ln(1 + f) − f, k), and what a logarithm is outside (0, ∞). The CPU's series.
macro_rules! log {
    () => {
        "fn fx_log_parts(x: f32) -> vec3<f32> {
    let tiny = x < 1.1754944e-38;
    let i = bitcast<i32>(select(x, x * 33554432.0, tiny)) - 0x3f3504f3;
    let f = bitcast<f32>((i & 0x7fffff) + 0x3f3504f3) - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let r = z * (0.6666667 + z * (0.4 + z * (0.2857143 + z * (0.22222222 + z * 0.18181819))));
    let h = 0.5 * f * f;
    return vec3<f32>(f, s * (h + r) - h, f32(i >> 23u) - select(0.0, 25.0, tiny));
}
fn fx_log_special(x: f32, y: f32) -> f32 {
    let u = bitcast<u32>(x);
    let inside = select(y, x, u >= 0x7f800000u && u < 0x80000000u);
    let nan = bitcast<f32>(u | 0x7fc00000u);
    let below = select(inside, nan, u > 0x80000000u);
    return select(below, bitcast<f32>(0xff800000u | (u & 0u)), x == 0.0);
}
fn fx_log(x: f32) -> f32 {
    let p = fx_log_parts(x);
    return fx_log_special(x, p.z * 0.69314575 + (p.x + (p.y + p.z * 1.4286068e-6)));
}
"
    };
}

/// eˣ − 1 by the series of the CPU's version.
macro_rules! expm1 {
    ($name:literal) => {
        concat!(
            "fn ",
            $name,
            "(x: f32) -> f32 {
    let b = clamp(x, -18.0, 88.8);
    let k = round(b * 1.44269504);
    let r = (b - k * 0.69314575) - k * 1.4286068e-6;
    let p = 0.5 + r * (0.16666667 + r * (0.041666668 + r * (0.008333334 + r * (0.0013888889 + r * 1.984127e-4))));
    let q = r + r * r * p;
    let t = bitcast<f32>(u32(i32(k) + 126) << 23u);
    let y = select(2.0 * (t * q + (t - 0.5)), x, x == 0.0);
    let inf = select(y, bitcast<f32>(0x7f800000u + (bitcast<u32>(x) & 0u)), x > 88.8);
    return select(inf, x, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
}
"
        )
    };
}

/// ln(1 + x): a series in x / (2 + x) near 0, elsewhere the logarithm with the rounding of 1 + x made good.
macro_rules! log1p {
    ($name:literal) => {
        concat!(
            log!(),
            "fn ",
            $name,
            "(x: f32) -> f32 {
    let s = x / (2.0 + x);
    let z = s * s;
    let near = 2.0 * s + 2.0 * s * z * (0.33333334 + z * (0.2 + z * (0.14285715 + z * (0.11111111 + z * 0.09090909))));
    let u = 1.0 + x;
    let far = fx_log(u) + select((x - (u - 1.0)) / u, 0.0, u == 0.0 || abs(x) > 1e30);
    let y = select(far, near, x > -0.25 && x < 0.4);
    return select(y, x, x == 0.0);
}
"
        )
    };
}

/// tanh by way of expm1, which the caller's prelude defines under `$expm1`.
macro_rules! tanh {
    ($name:literal, $expm1:literal) => {
        concat!(
            "fn ",
            $name,
            "(x: f32) -> f32 {
    let e = ",
            $expm1,
            "(2.0 * min(abs(x), 10.0));
    let y = e / (e + 2.0);
    let s = select(y, -y, x < 0.0);
    return select(s, x, x == 0.0 || (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
}
"
        )
    };
}

/// The error function: the CPU's polynomials.
macro_rules! erf {
    ($name:literal) => {
        concat!(
            exp!(),
            "fn ",
            $name,
            "(x: f32) -> f32 {
    let a = abs(x);
    let z = a * a;
    let p = 0.128379166 + z * (-0.37612627 + z * (0.112835947 + z * (-0.026854212 + z * (0.0051890874 + z * (-8.0168643e-4 + z * 7.875875e-5)))));
    let u = min(a, 4.0) - 2.5;
    let q = -7.8068153 + u * (-5.3526807 + u * (-0.9438937 + u * (-0.010858542 + u * (0.0021653035 + u * (-4.2012252e-4
        + u * (7.7291376e-5 + u * (-1.3315014e-5 + u * 1.6371514e-6)))))));
    let y = select(1.0 - fx_exp(q), a + a * p, a < 1.0);
    let s = select(y, -y, x < 0.0);
    return select(s, x, x == 0.0 || (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
}
"
        )
    };
}

/// The upper half of a product, put together, for WGSL has no such thing.
macro_rules! mulhi {
    () => {
        "fn fx_mulhi(a: u32, b: u32) -> u32 {
    let al = a & 0xffffu;
    let ah = a >> 16u;
    let bl = b & 0xffffu;
    let bh = b >> 16u;
    let mid = ah * bl + ((al * bl) >> 16u);
    let low = al * bh + (mid & 0xffffu);
    return ah * bh + (mid >> 16u) + (low >> 16u);
}
"
    };
}

/// x − n·π/2 as a vec2 (remainder, n modulo 4) for any |x| ≥ 4, NaN for an infinity (Payne and Hanek, 1983): the bits of 2/π that matter for
/// x's exponent, times its mantissa, in fixed point with 62 bits after the point; what they leave of x·2/π counts quadrants.
macro_rules! trig_huge {
    () => {
        concat!(
            mulhi!(),
            "fn fx_trig_huge(x: f32) -> vec2<f32> {
    let u = bitcast<u32>(x);
    let m = ((u & 0x7fffffu) << 8u) | 0x80000000u;
    let e = ((u >> 23u) & 0xffu) - 126u;
    var w = vec4<u32>(0u, 0x28be60dbu, 0x9391054au, 0x7f09d5f4u);
    switch e >> 5u {
        case 1u: { w = vec4<u32>(0x28be60dbu, 0x9391054au, 0x7f09d5f4u, 0x7d4d3770u); }
        case 2u: { w = vec4<u32>(0x9391054au, 0x7f09d5f4u, 0x7d4d3770u, 0x36d8a566u); }
        case 3u: { w = vec4<u32>(0x7f09d5f4u, 0x7d4d3770u, 0x36d8a566u, 0x4f10e410u); }
        case 4u: { w = vec4<u32>(0x7d4d3770u, 0x36d8a566u, 0x4f10e410u, 0u); }
        default: {}
    }
    let s = e & 31u;
    let mid = (w.y << s) | ((w.z >> 1u) >> (31u - s));
    let p = m * mid;
    var low = p + fx_mulhi(m, (w.z << s) | ((w.w >> 1u) >> (31u - s)));
    var high = m * ((w.x << s) | ((w.y >> 1u) >> (31u - s))) + fx_mulhi(m, mid) + select(0u, 1u, low < p);
    var q = high >> 30u;
    high = high & 0x3fffffffu;
    let down = high >= 0x20000000u;
    if down {
        q = q + 1u;
        high = 0x40000000u - high - select(0u, 1u, low != 0u);
        low = 0u - low;
    }
    var shift = 0u;
    if high == 0u {
        high = low;
        low = 0u;
        shift = 32u;
    }
    let z = countLeadingZeros(high) & 31u;
    high = (high << z) | ((low >> 1u) >> (31u - z));
    let top = f32(high >> 8u);
    let rest = f32(high & 255u);
    let r = (top * 1.5707964 + (rest * 0.0061359233 - top * 4.371139e-8)) * bitcast<f32>((105u - z - shift) << 23u);
    let turned = select(r, -r, down != (x < 0.0));
    let nan = bitcast<f32>(u | 0x7fc00000u);
    return vec2<f32>(select(turned, nan, (u & 0x7fffffffu) >= 0x7f800000u), select(f32(q), -f32(q), x < 0.0));
}
"
        )
    };
}

/// x − n·π/2 as a vec2 (remainder, n): π/2 in four parts whose products with n are exact up to 8192; beyond, in fixed point.
macro_rules! reduce {
    ($name:literal) => {
        concat!(
            trig_huge!(),
            "fn ",
            $name,
            "_reduce(x: f32) -> vec2<f32> {
    if !(abs(x) <= 8192.0) {
        return fx_trig_huge(x);
    }
    let n = round(x * 0.63661975);
    let r = ((x - n * 1.5703125) - n * 4.8375129699707e-4) - n * 7.5495336204767e-8 - n * 2.5633441e-12;
    return vec2<f32>(r, n);
}
fn ",
            $name,
            "_s(r: f32) -> f32 {
    let z = r * r;
    return r + r * z * (-0.16666667 + z * (0.008333334 + z * (-1.984127e-4 + z * 2.7557319e-6)));
}
fn ",
            $name,
            "_c(r: f32) -> f32 {
    let z = r * r;
    return 1.0 - (0.5 * z - z * z * (0.041666668 + z * (-0.0013888889 + z * (2.4801587e-5 - z * 2.7557319e-7))));
}
"
        )
    };
}

/// atan for x ≥ 0: arguments above 0.66 are turned by π/4 or π/2.
macro_rules! atan_positive {
    ($name:literal) => {
        concat!(
            "fn ",
            $name,
            "_positive(a: f32) -> f32 {
    let big = a > 2.4142135;
    let mid = a > 0.41421357;
    let t = select(select(a, (a - 1.0) / (a + 1.0), mid), -1.0 / a, big);
    let base = select(select(0.0, 0.78539816, mid), 1.5707963, big);
    let z = t * t;
    let p = t + t * z * (-0.33333334 + z * (0.2 + z * (-0.14285715 + z * (0.11111111 + z * (-0.09090909 + z * (0.07692308 - z * 0.055))))));
    return base + p;
}
"
        )
    };
}

pub(crate) const EXPM1: &str = expm1!("fx_expm1");
pub(crate) const LOG1P: &str = log1p!("fx_log1p");
pub(crate) const TANH: &str = concat!(expm1!("fx_tanh_expm1"), tanh!("fx_tanh", "fx_tanh_expm1"));
pub(crate) const ERF: &str = erf!("fx_erf");

pub(crate) const SIN: &str = concat!(
    reduce!("fx_sin"),
    "fn fx_sin(x: f32) -> f32 {
    let p = fx_sin_reduce(x);
    let n = i32(p.y);
    let y = select(fx_sin_c(p.x), fx_sin_s(p.x), (n & 1) == 0);
    return select(select(-y, y, (n & 2) == 0), x, x == 0.0);
}
"
);
pub(crate) const COS: &str = concat!(
    reduce!("fx_cos"),
    "fn fx_cos(x: f32) -> f32 {
    let p = fx_cos_reduce(x);
    let n = i32(p.y);
    let y = select(fx_cos_s(p.x), fx_cos_c(p.x), (n & 1) == 0);
    return select(-y, y, ((n + 1) & 2) == 0);
}
"
);
pub(crate) const TAN: &str = concat!(
    reduce!("fx_tan"),
    "fn fx_tan(x: f32) -> f32 {
    let p = fx_tan_reduce(x);
    let s = fx_tan_s(p.x);
    let c = fx_tan_c(p.x);
    return select(select(-c / s, s / c, (i32(p.y) & 1) == 0), x, x == 0.0);
}
"
);
pub(crate) const ATAN: &str = concat!(
    atan_positive!("fx_atan"),
    "fn fx_atan(x: f32) -> f32 {
    let y = fx_atan_positive(abs(x));
    return select(select(y, -y, x < 0.0), x, x == 0.0);
}
"
);
pub(crate) const ASIN: &str = concat!(
    atan_positive!("fx_asin"),
    "fn fx_asin(x: f32) -> f32 {
    let a = abs(x);
    let c = sqrt((1.0 - a) * (1.0 + a));
    let y = select(fx_asin_positive(a / c), 1.5707963, c == 0.0);
    return select(select(y, -y, x < 0.0), x, x == 0.0);
}
"
);
pub(crate) const ACOS: &str = concat!(
    atan_positive!("fx_acos"),
    "fn fx_acos(x: f32) -> f32 {
    let y = 2.0 * fx_acos_positive(sqrt((1.0 - x) / (1.0 + x)));
    return select(y, 3.1415927, x == -1.0);
}
"
);
pub(crate) const ATAN2: &str = concat!(
    atan_positive!("fx_atan2"),
    "fn fx_atan2(y: f32, x: f32) -> f32 {
    let a = abs(y);
    let b = abs(x);
    let inf = bitcast<u32>(a) == 0x7f800000u && bitcast<u32>(b) == 0x7f800000u;
    let q = select(select(a / b, 0.0, a == 0.0), 1.0, inf);
    let t = select(fx_atan2_positive(q), 1.5707963, b == 0.0 && a > 0.0);
    let u = select(t, 3.1415927 - t, (bitcast<u32>(x) >> 31u) == 1u);
    let v = select(u, -u, (bitcast<u32>(y) >> 31u) == 1u);
    let nan = (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u || (bitcast<u32>(y) & 0x7fffffffu) > 0x7f800000u;
    return select(v, x + y, nan);
}
"
);
pub(crate) const SINH: &str = concat!(
    exp!(),
    expm1!("fx_sinh_expm1"),
    "fn fx_sinh(x: f32) -> f32 {
    let a = abs(x);
    let u = fx_sinh_expm1(a);
    let h = fx_exp(0.5 * a);
    let y = select(0.5 * (u + u / (u + 1.0)), (0.5 * h) * h, a > 88.0);
    return select(select(y, -y, x < 0.0), x, x == 0.0);
}
"
);
pub(crate) const COSH: &str = concat!(
    exp!(),
    "fn fx_cosh(x: f32) -> f32 {
    let a = abs(x);
    let h = fx_exp(0.5 * a);
    let e = fx_exp(a);
    return select(0.5 * e + 0.5 / e, (0.5 * h) * h, a > 88.0);
}
"
);
pub(crate) const ASINH: &str = concat!(
    log1p!("fx_asinh_log1p"),
    "fn fx_asinh(x: f32) -> f32 {
    let a = abs(x);
    let b = min(a, 1e18);
    let near = fx_asinh_log1p(b + b * b / (1.0 + sqrt(b * b + 1.0)));
    let y = select(near, fx_log(a) + 0.6931472, a > 1e18);
    return select(select(y, -y, x < 0.0), x, x == 0.0 || (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
}
"
);
pub(crate) const ACOSH: &str = concat!(
    log1p!("fx_acosh_log1p"),
    "fn fx_acosh(x: f32) -> f32 {
    let t = min(x, 1e18) - 1.0;
    let near = fx_acosh_log1p(t + sqrt(t * (t + 2.0)));
    return select(select(near, fx_log(x) + 0.6931472, x > 1e18), bitcast<f32>(bitcast<u32>(x) | 0x7fc00000u), !(x >= 1.0));
}
"
);
pub(crate) const ATANH: &str = concat!(
    log1p!("fx_atanh_log1p"),
    "fn fx_atanh(x: f32) -> f32 {
    let a = abs(x);
    let y = 0.5 * fx_atanh_log1p(2.0 * a / (1.0 - a));
    return select(select(y, -y, x < 0.0), x, x == 0.0);
}
"
);
pub(crate) const EXP: &str = exp!();
pub(crate) const EXP2: &str = concat!(
    exp!(),
    "fn fx_exp2(x: f32) -> f32 {
    let b = clamp(x, -151.0, 129.0);
    let k = round(b);
    let y = fx_exp_scaled((b - k) * 0.6931472, k);
    return select(y, x, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
}
"
);
pub(crate) const LOG: &str = log!();
pub(crate) const LOG2: &str = concat!(
    log!(),
    "fn fx_log2(x: f32) -> f32 {
    let p = fx_log_parts(x);
    return fx_log_special(x, p.z + (p.x + p.y) * 1.442695);
}
"
);
pub(crate) const LOG10: &str = concat!(
    log!(),
    "fn fx_log10(x: f32) -> f32 {
    let p = fx_log_parts(x);
    return fx_log_special(x, p.z * 0.3010254 + ((p.x + p.y) * 0.4342945 + p.z * 4.6050386e-6));
}
"
);
pub(crate) const SIGMOID: &str = concat!(
    exp!(),
    "fn fx_sigmoid(x: f32) -> f32 {
    let e = fx_exp(-abs(x));
    return select(1.0, e, x < 0.0) / (1.0 + e);
}
"
);
/// Below 0, x·eˣ / (1 + eˣ) by the root of eˣ, for eˣ alone leaves the range before the product does.
pub(crate) const SILU: &str = concat!(
    exp!(),
    "fn fx_silu(x: f32) -> f32 {
    let h = fx_exp(-0.5 * abs(x));
    return select(x, (x * h) * h, x < 0.0) / (1.0 + h * h);
}
"
);
pub(crate) const SOFTPLUS: &str = concat!(
    exp!(),
    log1p!("fx_softplus_log1p"),
    "fn fx_softplus(x: f32, b: f32) -> f32 {
    let t = x * b;
    let y = (select(0.0, t, t > 0.0) + fx_softplus_log1p(fx_exp(-abs(t)))) / b;
    return select(y, x, t > 40.0);
}
"
);
pub(crate) const BCE: &str = concat!(
    log1p!("fx_log1p"),
    "fn fx_bce_bound(v: f32) -> f32 {
    return select(v, -100.0, v < -100.0);
}
fn fx_bce(x: f32, t: f32) -> f32 {
    return (t - 1.0) * fx_bce_bound(fx_log1p(-x)) - t * fx_bce_bound(fx_log(x));
}
"
);
/// With w = e^(2x) + 2eˣ, tanh(ln(1 + eˣ)) = w / (w + 2); above 0, both divided by e^(2x).
pub(crate) const MISH: &str = concat!(
    exp!(),
    "fn fx_mish(x: f32) -> f32 {
    let h = fx_exp(-0.5 * abs(x));
    let e = h * h;
    let low = ((x * h) * h) * (e + 2.0) / (e * (e + 2.0) + 2.0);
    let high = x * (1.0 + 2.0 * e) / (1.0 + 2.0 * e + 2.0 * e * e);
    return select(high, low, x < 0.0);
}
"
);
pub(crate) const GELU: &str = concat!(
    erf!("fx_gelu_erf"),
    "fn fx_gelu(x: f32) -> f32 {
    return 0.5 * x * (1.0 + fx_gelu_erf(x * 0.70710678));
}
"
);
pub(crate) const GELU_TANH: &str = concat!(
    expm1!("fx_gelu_tanh_expm1"),
    tanh!("fx_gelu_tanh_tanh", "fx_gelu_tanh_expm1"),
    "fn fx_gelu_tanh(x: f32) -> f32 {
    return 0.5 * x * (1.0 + fx_gelu_tanh_tanh(0.7978846 * (x + 0.044715 * x * x * x)));
}
"
);
pub(crate) const ELU: &str = expm1!("fx_elu");
pub(crate) const SELU: &str = concat!(
    expm1!("fx_selu_expm1"),
    "fn fx_selu(x: f32) -> f32 {
    return select(1.7580993 * fx_selu_expm1(x), 1.050701 * x, x > 0.0);
}
"
);
pub(crate) const HARDSIGMOID: &str = "fn fx_hardsigmoid(x: f32) -> f32 {
    let y = x / 6.0 + 0.5;
    return select(select(y, 1.0, y > 1.0), 0.0, y < 0.0);
}
";
pub(crate) const HARDSWISH: &str = "fn fx_hardswish(x: f32) -> f32 {
    let y = x / 6.0 + 0.5;
    return x * select(select(y, 1.0, y > 1.0), 0.0, y < 0.0);
}
";

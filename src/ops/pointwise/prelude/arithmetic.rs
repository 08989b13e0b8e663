//! WGSL of arithmetic with rules of its own: extrema, remainders, quotients, powers, shifts.

/// NaN wins, as in PyTorch.
pub(crate) const MAXIMUM: &str = "fn fx_maximum(a: f32, b: f32) -> f32 {
    let m = select(b, a, a > b);
    return select(m, a, (bitcast<u32>(a) & 0x7fffffffu) > 0x7f800000u);
}
";
pub(crate) const MINIMUM: &str = "fn fx_minimum(a: f32, b: f32) -> f32 {
    let m = select(b, a, a < b);
    return select(m, a, (bitcast<u32>(a) & 0x7fffffffu) > 0x7f800000u);
}
";
/// The remainder of floats with the sign of the dividend, exactly: a long division of the mantissas, eight bits a step.
macro_rules! fmod {
    () => {
        "fn fx_mantissa(u: u32) -> vec2<u32> {
    let e = (u >> 23u) & 255u;
    let m = u & 0x7fffffu;
    if e != 0u {
        return vec2<u32>(m | 0x800000u, e);
    }
    // A denormal number, with its leading bit where others have theirs: exponents wrap below 0, and their differences are right.
    let z = countLeadingZeros(m | 1u) - 8u;
    return vec2<u32>(m << z, 1u - z);
}
fn fx_fmod_f(a: f32, b: f32) -> f32 {
    let ua = bitcast<u32>(a) & 0x7fffffffu;
    let ub = bitcast<u32>(b) & 0x7fffffffu;
    let sign = bitcast<u32>(a) & 0x80000000u;
    if ua >= 0x7f800000u || ub == 0u || ub > 0x7f800000u {
        return bitcast<f32>(0x7fc00000u | sign);
    }
    if ua < ub {
        return a;
    }
    let ma = fx_mantissa(ua);
    let mb = fx_mantissa(ub);
    var d = ma.y - mb.y;
    var m = ma.x % mb.x;
    while d > 0u && m != 0u {
        let s = min(d, 8u);
        m = (m << s) % mb.x;
        d = d - s;
    }
    if m == 0u {
        return bitcast<f32>(sign);
    }
    let z = countLeadingZeros(m) - 8u;
    let e = bitcast<i32>(mb.y) - bitcast<i32>(z);
    m = m << z;
    if e <= 0 {
        return bitcast<f32>(sign | (m >> bitcast<u32>(1 - e)));
    }
    return bitcast<f32>(sign | (bitcast<u32>(e) << 23u) | (m & 0x7fffffu));
}
"
    };
}

/// Every integer division says what happens at 0 and at the one overflow, i32::MIN / -1.
pub(crate) const FMOD: &str = concat!(
    fmod!(),
    "fn fx_fmod_i(a: i32, b: i32) -> i32 {
    let d = select(b, 1, b == 0 || b == -1);
    return a - (a / d) * d;
}
fn fx_fmod_u(a: u32, b: u32) -> u32 {
    let d = select(b, 1u, b == 0u);
    return a - (a / d) * d;
}
"
);
pub(crate) const REM: &str = concat!(
    fmod!(),
    "fn fx_rem_f(a: f32, b: f32) -> f32 {
    let r = fx_fmod_f(a, b);
    return select(r, r + b, (bitcast<u32>(r) << 1u) != 0u && ((bitcast<u32>(b) ^ bitcast<u32>(r)) >> 31u) == 1u);
}
fn fx_rem_i(a: i32, b: i32) -> i32 {
    let d = select(b, 1, b == 0 || b == -1);
    let r = a - (a / d) * d;
    return select(r, r + d, r != 0 && ((d < 0) != (r < 0)));
}
fn fx_rem_u(a: u32, b: u32) -> u32 {
    let d = select(b, 1u, b == 0u);
    return a - (a / d) * d;
}
"
);
/// The quotient of floats is rounded to nearest by integers, for a driver's division may be off by 2.5 ulp: PyTorch's steps then give its result.
pub(crate) const FLOOR_DIV: &str = concat!(
    fmod!(),
    "fn fx_floor_div_quotient(a: f32, b: f32) -> f32 {
    let sign = (bitcast<u32>(a) ^ bitcast<u32>(b)) & 0x80000000u;
    let ua = bitcast<u32>(a) & 0x7fffffffu;
    if ua == 0u {
        return bitcast<f32>(sign);
    }
    let ma = fx_mantissa(ua);
    let mb = fx_mantissa(bitcast<u32>(b) & 0x7fffffffu);
    // 26 or 27 bits of the quotient, and whether something is left.
    var q = ma.x / mb.x;
    var m = ma.x % mb.x;
    q = (q << 8u) | ((m << 8u) / mb.x);
    m = (m << 8u) % mb.x;
    q = (q << 8u) | ((m << 8u) / mb.x);
    m = (m << 8u) % mb.x;
    q = (q << 8u) | ((m << 8u) / mb.x);
    m = (m << 8u) % mb.x;
    q = (q << 2u) | ((m << 2u) / mb.x);
    m = (m << 2u) % mb.x;
    var e = bitcast<i32>(ma.y) - bitcast<i32>(mb.y) + 127;
    if q < 0x4000000u {
        q = q << 1u;
        e = e - 1;
    }
    let half = (q & 7u) | select(0u, 1u, m != 0u);
    q = q >> 3u;
    q = q + select(0u, 1u, half > 4u || (half == 4u && (q & 1u) == 1u));
    if e <= 0 {
        return bitcast<f32>(sign);
    }
    if e >= 255 {
        return bitcast<f32>(sign | 0x7f800000u);
    }
    return bitcast<f32>(sign | ((bitcast<u32>(e) << 23u) + (q - 0x800000u)));
}
fn fx_floor_div_f(a: f32, b: f32) -> f32 {
    let ub = bitcast<u32>(b) & 0x7fffffffu;
    if ub == 0u {
        return a / b;
    }
    let m = fx_fmod_f(a, b);
    if (bitcast<u32>(m) & 0x7fffffffu) > 0x7f800000u {
        return m;
    }
    let sign = (bitcast<u32>(a) ^ bitcast<u32>(b)) & 0x80000000u;
    var d = bitcast<f32>(sign);
    if ub < 0x7f800000u {
        d = fx_floor_div_quotient(a - m, b);
    }
    if (bitcast<u32>(m) << 1u) != 0u && ((bitcast<u32>(b) ^ bitcast<u32>(m)) >> 31u) == 1u {
        d = d - 1.0;
    }
    let f = floor(d);
    return select(f + select(0.0, 1.0, d - f > 0.5), bitcast<f32>(sign), d == 0.0);
}
fn fx_floor_div_i(a: i32, b: i32) -> i32 {
    let d = select(b, 1, b == 0 || b == -1);
    let q = a / d;
    let down = select(0, 1, q * d != a && ((a < 0) != (d < 0)));
    return select(select(q - down, -a, b == -1), 0, b == 0);
}
fn fx_floor_div_u(a: u32, b: u32) -> u32 {
    return select(a / select(b, 1u, b == 0u), 0u, b == 0u);
}
"
);
/// The sign rules of C's `pow` around |x|^y = 2^(y·log₂|x|). A driver's pow would be off by up to y·log₂|x| ulp, so the logarithm is kept in two parts:
/// masks cut factors to 12 bits, whose products are exact, and no compiler sees through a mask. With m in [√½, √2), f = m − 1 and s = f / (2 + f),
/// log₂ m = 2/ln 2 · (s + s³/3 + s⁵/5 + …).
pub(crate) const POW: &str = "fn fx_pow_cut(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) & 0xfffff000u);
}
fn fx_pow_positive(a: f32, y: f32) -> f32 {
    let i = bitcast<i32>(a) - 0x3f3504f3;
    let k = f32(i >> 23u);
    let m = bitcast<f32>((i & 0x7fffff) + 0x3f3504f3);
    let f = m - 1.0;
    let t = fx_pow_cut(m + 1.0);
    let s = f / (m + 1.0);
    let sh = fx_pow_cut(s);
    let sl = ((f - sh * t) - sh * (m - (t - 1.0))) / (m + 1.0);
    let z = s * s;
    let p = s * z * (0.33333334 + z * (0.2 + z * (0.14285715 + z * (0.11111111 + z * 0.09090909))));
    let w = sh * 2.8847656;
    let wh = fx_pow_cut(w);
    let wl = (w - wh) + (sh * 6.2445678e-4 + (sl + p) * 2.8853901);
    let estimate = y * (k + (wh + wl));
    if !(abs(estimate) < 200.0) {
        return select(0.0, bitcast<f32>(0x7f800000u | (bitcast<u32>(y) & 0u)), estimate > 0.0);
    }
    let yh = fx_pow_cut(y);
    let yl = y - yh;
    let e0 = yh * k;
    let e1 = yl * k;
    let e2 = yh * wh;
    let e3 = yl * wh + y * wl;
    let n0 = round(e0);
    let n1 = round(e1);
    let n2 = round(e2);
    let g = ((e0 - n0) + (e2 - n2)) + ((e1 - n1) + e3);
    let n3 = round(g);
    let r = (g - n3) * 0.6931472;
    let q = r + r * r * (0.5 + r * (0.16666667 + r * (0.041666668 + r * (0.008333334 + r * (0.0013888889 + r * 1.984127e-4)))));
    let n = i32(n0 + n1 + n2 + n3);
    let half = n >> 1u;
    return (1.0 + q) * bitcast<f32>((half + 127) << 23u) * bitcast<f32>((n - half + 127) << 23u);
}
fn fx_pow_f(x: f32, y: f32) -> f32 {
    let a = abs(x);
    let b = abs(y);
    let huge = b >= 16777216.0;
    let w = select(y, 0.0, huge);
    let integer = w == trunc(w);
    let half = 0.5 * w;
    let odd = integer && half != trunc(half);
    let nan = bitcast<f32>(0x7fc00000u + (bitcast<u32>(x) & 0u));
    let inf = bitcast<f32>(0x7f800000u + (bitcast<u32>(x) & 0u));
    var v = fx_pow_positive(a, y);
    v = select(v, select(0.0, inf, y < 0.0), a == 0.0);
    v = select(v, select(0.0, inf, y > 0.0), a > 3.4028234e38);
    v = select(v, select(0.0, inf, (a > 1.0) == (y > 0.0)), b > 3.4028234e38);
    v = select(v, -v, odd && (bitcast<u32>(x) >> 31u) == 1u);
    v = select(v, nan, x < 0.0 && !integer && a <= 3.4028234e38 && b <= 3.4028234e38);
    v = select(v, 1.0, a == 1.0 && b > 3.4028234e38);
    v = select(v, nan, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u || (bitcast<u32>(y) & 0x7fffffffu) > 0x7f800000u);
    return select(v, 1.0, x == 1.0 || y == 0.0);
}
fn fx_pow_u(x: u32, y: u32) -> u32 {
    var base = x;
    var e = y;
    var r = 1u;
    for (var i = 0u; i < 32u; i++) {
        if (e & 1u) == 1u {
            r = r * base;
        }
        base = base * base;
        e = e >> 1u;
    }
    return r;
}
fn fx_pow_i(x: i32, y: i32) -> i32 {
    let r = bitcast<i32>(fx_pow_u(bitcast<u32>(x), bitcast<u32>(max(y, 0))));
    let inverse = select(select(0, select(-1, 1, (y & 1) == 0), x == -1), 1, x == 1);
    return select(r, inverse, y < 0);
}
";
pub(crate) const SHL: &str = "fn fx_shl_u(a: u32, b: u32, bits: u32) -> u32 {
    return select(0u, a << (b & 31u), b < bits);
}
fn fx_shl_i(a: i32, b: i32) -> i32 {
    return select(0, a << (bitcast<u32>(b) & 31u), bitcast<u32>(b) < 32u);
}
";
pub(crate) const SHR: &str = "fn fx_shr_u(a: u32, b: u32, bits: u32) -> u32 {
    return select(0u, a >> (b & 31u), b < bits);
}
fn fx_shr_i(a: i32, b: i32) -> i32 {
    return a >> min(bitcast<u32>(b), 31u);
}
";
pub(crate) const CLAMP: &str = "fn fx_clamp(x: f32, lo: f32, hi: f32) -> f32 {
    let a = select(x, lo, x < lo);
    return select(a, hi, a > hi);
}
";

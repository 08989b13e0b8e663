// Pooling over planes: MAX, MAX_GRAD, TAKE, AVG or AVG_GRAD, one result an invocation; windows fixed or ADAPTIVE.
struct Params {
    results: u32, include_pad: u32,
    h: u32, w: u32, oh: u32, ow: u32,
    kh: u32, kw: u32, stride_h: u32, stride_w: u32, pad_h: u32, pad_w: u32, dil_h: u32, dil_w: u32,
}

@group(0) @binding(0) var<storage, read> in_0: array<f32>;
//#if MAX_GRAD
@group(0) @binding(1) var<storage, read> positions: array<i32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
//#endif
//#if TAKE
@group(0) @binding(1) var<storage, read> positions: array<i32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
//#endif
//#if MAX
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> positions: array<i32>;
//#endif
//#if AVG
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
//#endif
//#if AVG_GRAD
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
//#endif
@group(1) @binding(0) var<uniform> p: Params;

// Window o along an axis: first position, end, and how many elements an average counts.
fn window(o: u32, size: u32, n: u32, k: u32, stride: u32, pad: u32, dil: u32) -> vec3<u32> {
//#if ADAPTIVE
    let start = o * size / n;
    let end = ((o + 1u) * size + n - 1u) / n;
    return vec3(start, end, end - start);
//#else
    let first = o * stride;
    let end = first + (k - 1u) * dil + 1u;
    var start = first - pad;
    if first < pad {
        start = (dil - (pad - first) % dil) % dil;
    }
    let stop = min(max(end, pad) - pad, size);
    var count = max(stop, start) - start;
    if p.include_pad != 0u {
        count = min(end, size + 2u * pad) - first;
    }
    return vec3(start, stop, count);
//#endif
}

// The windows (first, end) that may cover position i along an axis.
fn covering(i: u32, size: u32, n: u32, k: u32, stride: u32, pad: u32, dil: u32) -> vec2<u32> {
//#if ADAPTIVE
    return vec2(i * n / size, min(((i + 1u) * n - 1u) / size + 1u, n));
//#else
    let reach = (k - 1u) * dil;
    let at = i + pad;
    var first = 0u;
    if at > reach {
        first = (at - reach + stride - 1u) / stride;
    }
    return vec2(first, min(at / stride + 1u, n));
//#endif
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.x + wid.y * num.x) * 256u + lid;
    if at >= p.results {
        return;
    }
//#if MAX
    let plane = at / p.ow / p.oh * p.h;
    let rows = window(at / p.ow % p.oh, p.h, p.oh, p.kh, p.stride_h, p.pad_h, p.dil_h);
    let cols = window(at % p.ow, p.w, p.ow, p.kw, p.stride_w, p.pad_w, p.dil_w);
    var best = bitcast<f32>(0xff800000u + min(p.results, 0u));
    var place = -1;
    for (var i = rows.x; i < rows.y; i += p.dil_h) {
        for (var j = cols.x; j < cols.y; j += p.dil_w) {
            let v = in_0[(plane + i) * p.w + j];
            // The first value wins even where it is -∞; NaN wins always (tested by its bits).
            if v > best || place < 0 || (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u {
                best = v;
                place = i32(i * p.w + j);
            }
        }
    }
    out[at] = best;
    positions[at] = place;
//#endif
//#if TAKE
    let place = positions[at];
    var value = 0.0;
    if place >= 0 && u32(place) < p.h * p.w {
        value = in_0[at / p.ow / p.oh * p.h * p.w + u32(place)];
    }
    out[at] = value;
//#endif
//#if AVG
    let plane = at / p.ow / p.oh * p.h;
    let rows = window(at / p.ow % p.oh, p.h, p.oh, p.kh, p.stride_h, p.pad_h, p.dil_h);
    let cols = window(at % p.ow, p.w, p.ow, p.kw, p.stride_w, p.pad_w, p.dil_w);
    var sum = 0.0;
    for (var i = rows.x; i < rows.y; i += 1u) {
        for (var j = cols.x; j < cols.y; j += 1u) {
            sum += in_0[(plane + i) * p.w + j];
        }
    }
    out[at] = sum / f32(rows.z * cols.z);
//#endif
//#if MAX_GRAD
    let x = at % p.w;
    let y = at / p.w % p.h;
    let plane = at / p.w / p.h * p.oh;
    let rows = covering(y, p.h, p.oh, p.kh, p.stride_h, p.pad_h, p.dil_h);
    let cols = covering(x, p.w, p.ow, p.kw, p.stride_w, p.pad_w, p.dil_w);
    let here = i32(y * p.w + x);
    var sum = 0.0;
    for (var i = rows.x; i < rows.y; i += 1u) {
        for (var j = cols.x; j < cols.y; j += 1u) {
            let o = (plane + i) * p.ow + j;
            if positions[o] == here {
                sum += in_0[o];
            }
        }
    }
    out[at] = sum;
//#endif
//#if AVG_GRAD
    let x = at % p.w;
    let y = at / p.w % p.h;
    let plane = at / p.w / p.h * p.oh;
    let rows = covering(y, p.h, p.oh, p.kh, p.stride_h, p.pad_h, p.dil_h);
    let cols = covering(x, p.w, p.ow, p.kw, p.stride_w, p.pad_w, p.dil_w);
    var sum = 0.0;
    for (var i = rows.x; i < rows.y; i += 1u) {
        let tall = window(i, p.h, p.oh, p.kh, p.stride_h, p.pad_h, p.dil_h).z;
        for (var j = cols.x; j < cols.y; j += 1u) {
            let wide = window(j, p.w, p.ow, p.kw, p.stride_w, p.pad_w, p.dil_w).z;
            sum += in_0[(plane + i) * p.ow + j] / f32(tall * wide);
        }
    }
    out[at] = sum;
//#endif
}

// Layer, group and RMS norm: y = (x - mean) * rstd * weight + bias over rows of n elements. L invocations share a row. Element k of row r
// takes weight[(r % groups) * channels + k / inner].

struct Params { rows: u32, n: u32, groups: u32, channels: u32, inner: u32, eps: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
//#if WEIGHT
@group(0) @binding({{B_WEIGHT}}) var<storage, read> weight: array<f32>;
//#endif
//#if BIAS
@group(0) @binding({{B_BIAS}}) var<storage, read> bias: array<f32>;
//#endif
@group(0) @binding({{B_Y}}) var<storage, read_write> y: array<f32>;
//#if !RMS
@group(0) @binding({{B_MEAN}}) var<storage, read_write> mean_out: array<f32>;
//#endif
@group(0) @binding({{B_RSTD}}) var<storage, read_write> rstd_out: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

const L = {{L}}u;
const R = 256u / L;

var<workgroup> tile: array<f32, 256>;

// The sum over the lanes of a row; every invocation takes part.
fn reduce(value: f32, t: u32) -> f32 {
//#if SHARE
    let lane = t % L;
    workgroupBarrier();
    tile[t] = value;
    for (var half = L / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            tile[t] += tile[t + half];
        }
    }
    workgroupBarrier();
    return tile[t - lane];
//#else
    return value;
//#endif
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let lane = t % L;
    let row = (wid.x + wid.y * num.x) * R + t / L;
    let live = row < p.rows;
    let base = row * p.n;
    var sum = 0.0;
    var mean = 0.0;
//#if !RMS
    if live {
        for (var k = lane; k < p.n; k += L) {
            sum += x[base + k];
        }
    }
    mean = reduce(sum, t) / f32(p.n);
    sum = 0.0;
//#endif
    if live {
        for (var k = lane; k < p.n; k += L) {
            let d = x[base + k] - mean;
            sum += d * d;
        }
    }
    let rstd = inverseSqrt(reduce(sum, t) / f32(p.n) + p.eps);
    if !live { return; }
    if lane == 0u {
//#if !RMS
        mean_out[row] = mean;
//#endif
        rstd_out[row] = rstd;
    }
    let first = (row % p.groups) * p.channels;
    for (var k = lane; k < p.n; k += L) {
        var v = (x[base + k] - mean) * rstd;
//#if AFFINE
        let c = first + k / p.inner;
//#endif
//#if WEIGHT
        v *= weight[c];
//#endif
//#if BIAS
        v += bias[c];
//#endif
        y[base + k] = v;
    }
}

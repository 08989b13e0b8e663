// The gradient of layer, group and RMS norm for x: rstd * (g - mean(g) - xhat * mean(g * xhat)) with g = dy * weight; without the
// mean(g) for RMS norm. Rows as in norm.wgsl.

struct Params { rows: u32, n: u32, groups: u32, channels: u32, inner: u32 }

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
//#if WEIGHT
@group(0) @binding({{B_WEIGHT}}) var<storage, read> weight: array<f32>;
//#endif
//#if !RMS
@group(0) @binding({{B_MEAN}}) var<storage, read> mean_in: array<f32>;
//#endif
@group(0) @binding({{B_RSTD}}) var<storage, read> rstd_in: array<f32>;
@group(0) @binding({{B_DX}}) var<storage, read_write> dx: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

const L = {{L}}u;
const R = 256u / L;

var<workgroup> tile: array<vec2<f32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let lane = t % L;
    let row = (wid.x + wid.y * num.x) * R + t / L;
    let live = row < p.rows;
    let base = row * p.n;
    let first = (row % p.groups) * p.channels;
    var mean = 0.0;
    var rstd = 0.0;
    // Sums of g and of g * xhat.
    var s = vec2<f32>(0.0, 0.0);
    if live {
//#if !RMS
        mean = mean_in[row];
//#endif
        rstd = rstd_in[row];
        for (var k = lane; k < p.n; k += L) {
            var g = dy[base + k];
//#if WEIGHT
            g *= weight[first + k / p.inner];
//#endif
            s += vec2<f32>(g, g * ((x[base + k] - mean) * rstd));
        }
    }
//#if SHARE
    tile[t] = s;
    for (var half = L / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            tile[t] += tile[t + half];
        }
    }
    workgroupBarrier();
    s = tile[t - lane];
//#endif
    if !live { return; }
    s /= f32(p.n);
//#if RMS
    s.x = 0.0;
//#endif
    for (var k = lane; k < p.n; k += L) {
        var g = dy[base + k];
//#if WEIGHT
        g *= weight[first + k / p.inner];
//#endif
        dx[base + k] = rstd * (g - s.x - (x[base + k] - mean) * rstd * s.y);
    }
}

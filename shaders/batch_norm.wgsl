// Batch norm of [outer, channels, inner] with known statistics: y = (x - mean) * rstd * weight + bias; or, with BACKWARD, its gradient
// for x: rstd * weight * (dy - (sum(dy) + xhat * sum(dy * xhat)) / count), where the sums are one pair a channel.

struct Params { numel: u32, channels: u32, inner: u32, count: u32, eps: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> mean_in: array<f32>;
@group(0) @binding(2) var<storage, read> var_in: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
//#if WEIGHT
@group(0) @binding(4) var<storage, read> weight: array<f32>;
//#endif
//#if BIAS
@group(0) @binding({{B_BIAS}}) var<storage, read> bias: array<f32>;
//#endif
//#if BACKWARD
@group(0) @binding({{B_DY}}) var<storage, read> dy: array<f32>;
@group(0) @binding({{B_SUMS}}) var<storage, read> sums: array<vec2<f32>>;
//#endif
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let first = (wid.x + wid.y * num.x) * 1024u + t;
    for (var k = 0u; k < 4u; k++) {
        let i = first + k * 256u;
        if i >= p.numel { return; }
        let c = (i / p.inner) % p.channels;
        let rstd = inverseSqrt(var_in[c] + p.eps);
        let xhat = (x[i] - mean_in[c]) * rstd;
//#if BACKWARD
        var v = (dy[i] - (sums[c].x + xhat * sums[c].y) / f32(p.count)) * rstd;
//#else
        var v = xhat;
//#endif
//#if WEIGHT
        v *= weight[c];
//#endif
//#if BIAS
        v += bias[c];
//#endif
        out[i] = v;
    }
}

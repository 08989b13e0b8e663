// Merges the parts that norm_channels.wgsl wrote, one invocation a channel.

struct Params { channels: u32, count: u32, splits: u32, eps: f32 }

@group(0) @binding(0) var<storage, read> partial: array<vec2<f32>>;
//#if STATS
@group(0) @binding(1) var<storage, read_write> mean_out: array<f32>;
@group(0) @binding(2) var<storage, read_write> var_out: array<f32>;
//#else
//#if VARIANCE
@group(0) @binding(1) var<storage, read> variance: array<f32>;
//#endif
//#if SUMS
@group(0) @binding({{B_SUMS}}) var<storage, read_write> sums: array<vec2<f32>>;
//#endif
//#if DW
@group(0) @binding({{B_DW}}) var<storage, read_write> dw: array<f32>;
//#endif
//#if DB
@group(0) @binding({{B_DB}}) var<storage, read_write> db: array<f32>;
//#endif
//#endif
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let c = (wid.x + wid.y * num.x) * 64u + t;
    if c >= p.channels { return; }
//#if STATS
    let size = (p.count + p.splits - 1u) / p.splits;
    var mean = 0.0;
    var m2 = 0.0;
    var n = 0.0;
    for (var i = 0u; i < p.splits; i++) {
        let part = partial[i * p.channels + c];
        let first = min(i * size, p.count);
        let count = f32(min(first + size, p.count) - first);
        if count > 0.0 {
            let d = part.x - mean;
            let both = n + count;
            mean += d * (count / both);
            m2 += part.y + d * d * (n * count / both);
            n = both;
        }
    }
    mean_out[c] = mean;
    var_out[c] = m2 / n;
//#else
    var s = vec2<f32>(0.0, 0.0);
    for (var i = 0u; i < p.splits; i++) {
        s += partial[i * p.channels + c];
    }
//#if VARIANCE
    s.y *= inverseSqrt(variance[c] + p.eps);
//#endif
//#if SUMS
    sums[c] = s;
//#endif
//#if DW
    dw[c] = s.y;
//#endif
//#if DB
    db[c] = s.x;
//#endif
//#endif
}

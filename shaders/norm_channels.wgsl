// Sums over one channel of [outer, channels, inner]: of dy and of dy * xhat, the gradients of a norm's bias and weight, or
// (with STATS) the mean and the sum of squared deviations. A workgroup takes C neighbouring channels and one of `splits` parts of
// the outer * inner elements of each, and writes one pair a channel, which norm_channels_end.wgsl merges.

struct Params { channels: u32, inner: u32, count: u32, splits: u32, groups: u32, per_group: u32, blocks: u32 }

//#if STATS
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> partial: array<vec2<f32>>;
//#else
@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
//#if MEAN
@group(0) @binding(2) var<storage, read> mean_in: array<f32>;
//#endif
//#if RSTD
@group(0) @binding({{B_RSTD}}) var<storage, read> rstd_in: array<f32>;
//#endif
@group(0) @binding({{B_PARTIAL}}) var<storage, read_write> partial: array<vec2<f32>>;
//#endif
@group(1) @binding(0) var<uniform> p: Params;

const C = {{C}}u;
const LANES = 256u / C;

//#if STATS
// Mean, squared deviations, count.
var<workgroup> tile: array<vec3<f32>, 256>;

// Merges two parts (Chan, Golub, LeVeque 1983).
fn merge(a: vec3<f32>, b: vec3<f32>) -> vec3<f32> {
    let n = a.z + b.z;
    if n == 0.0 { return a; }
    let d = b.x - a.x;
    return vec3<f32>(a.x + d * (b.z / n), a.y + b.y + d * d * (a.z * b.z / n), n);
}
//#else
var<workgroup> tile: array<vec2<f32>, 256>;
//#endif

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let group = wid.x + wid.y * num.x;
    let channel = (group % p.blocks) * C + t % C;
    let split = group / p.blocks;
    let lane = t / C;
    let live = channel < p.channels && split < p.splits;
    let size = (p.count + p.splits - 1u) / p.splits;
    let end = min(p.count, (split + 1u) * size);
//#if STATS
    var s = vec3<f32>(0.0, 0.0, 0.0);
    if live {
        for (var i = split * size + lane; i < end; i += LANES) {
            let v = x[((i / p.inner) * p.channels + channel) * p.inner + i % p.inner];
            s.z += 1.0;
            let d = v - s.x;
            s.x += d / s.z;
            s.y += d * (v - s.x);
        }
    }
//#else
    var s = vec2<f32>(0.0, 0.0);
    if live {
        for (var i = split * size + lane; i < end; i += LANES) {
            let o = i / p.inner;
            let at = (o * p.channels + channel) * p.inner + i % p.inner;
            // A norm over rows has a mean for each group of channels in each outer element, batch norm one for each channel.
            let row = o * p.groups + channel / p.per_group;
            var d = x[at];
//#if MEAN
            d -= mean_in[row];
//#endif
//#if RSTD
            d *= rstd_in[row];
//#endif
            s += vec2<f32>(dy[at], dy[at] * d);
        }
    }
//#endif
    tile[t] = s;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
//#if STATS
            tile[t] = merge(tile[t], tile[t + half * C]);
//#else
            tile[t] += tile[t + half * C];
//#endif
        }
    }
    if live && lane == 0u {
        partial[split * p.channels + channel] = tile[t].xy;
    }
}

// The gradient of cross-entropy for the logits, one invocation an element: from the row's log-sum-exp, label and cotangent.

struct Params { numel: u32, n: u32, inner: u32, ignore: i32, smoothing: f32 }

@group(0) @binding(0) var<storage, read> dloss: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> targets: array<i32>;
@group(0) @binding(3) var<storage, read> lse: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;
//#if WEIGHT
@group(0) @binding(5) var<storage, read> weight: array<f32>;
//#endif
//#if TOTAL
@group(0) @binding(6) var<storage, read> total: array<f32>;
//#endif
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let first = (wid.x + wid.y * num.x) * 1024u + t;
    for (var k = 0u; k < 4u; k++) {
        let i = first + k * 256u;
        if i >= p.numel { return; }
        let c = (i / p.inner) % p.n;
        let row = (i / p.inner / p.n) * p.inner + i % p.inner;
        let label = targets[row];
        var g = 0.0;
        if label != p.ignore && label >= 0 && u32(label) < p.n {
            var w = 1.0;
//#if WEIGHT
            w = weight[label];
//#endif
            let prob = exp(x[i] - lse[row]);
            g = w * (prob - select(0.0, 1.0, c == u32(label)));
//#if SMOOTH
//#if WEIGHT
            g = (1.0 - p.smoothing) * g + p.smoothing / f32(p.n) * (total[0] * prob - weight[c]);
//#else
            g = (1.0 - p.smoothing) * g + p.smoothing / f32(p.n) * (f32(p.n) * prob - 1.0);
//#endif
//#endif
            g *= dloss[row];
        }
        dx[i] = g;
    }
}

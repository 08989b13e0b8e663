// Cross-entropy from logits for label ids: row r is one position, its classes lie as in softmax.wgsl. Writes the loss, the weight by which
// a mean divides (0 for an ignored position) and the log-sum-exp.

struct Params { rows: u32, n: u32, inner: u32, ignore: i32, smoothing: f32, fault: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> targets: array<i32>;
@group(0) @binding(2) var<storage, read_write> loss: array<f32>;
@group(0) @binding(3) var<storage, read_write> counted: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<storage, read_write> fault: array<atomic<u32>>;
//#if WEIGHT
@group(0) @binding(6) var<storage, read> weight: array<f32>;
//#endif
@group(1) @binding(0) var<uniform> p: Params;

const L = {{L}}u;
const R = 256u / L;

// Maximum, sum of exponentials, sum of weighted logits, sum of weights.
var<workgroup> tile: array<vec4<f32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) t: u32) {
//#if STRIDED
    let place = t % R;
    let lane = t / R;
//#else
    let place = t / L;
    let lane = t % L;
//#endif
    let row = (wid.x + wid.y * num.x) * R + place;
    let live = row < p.rows;
    let base = (row / p.inner) * p.n * p.inner + row % p.inner;
    var s = vec4<f32>(-3.4028234e38, 0.0, 0.0, 0.0);
    if live {
        for (var k = lane; k < p.n; k += L) {
            let v = x[base + k * p.inner];
            if v > s.x {
                s.y = s.y * exp(s.x - v) + 1.0;
                s.x = v;
            } else {
                s.y += exp(v - s.x);
            }
//#if SMOOTH
//#if WEIGHT
            s.z += weight[k] * v;
            s.w += weight[k];
//#else
            s.z += v;
            s.w += 1.0;
//#endif
//#endif
        }
    }
//#if SHARE
    let at = place * L + lane;
    tile[at] = s;
    for (var half = L / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            let o = tile[at + half];
            let m = max(s.x, o.x);
            s = vec4<f32>(m, s.y * exp(s.x - m) + o.y * exp(o.x - m), s.z + o.z, s.w + o.w);
            tile[at] = s;
        }
    }
//#endif
    if !live || lane != 0u { return; }
    // With an infinite maximum the sum holds exp(∞ - ∞).
    let shift = select(log(s.y), bitcast<f32>(bitcast<u32>(s.x) | 0x400000u), s.x > 3.4028234e38);
    lse[row] = s.x + shift;
    let label = targets[row];
    var l = 0.0;
    var w = 0.0;
    if label != p.ignore {
        if label < 0 || u32(label) >= p.n {
            atomicMax(&fault[0], p.fault);
        } else {
            w = 1.0;
//#if WEIGHT
            w = weight[label];
//#endif
            l = w * (shift + (s.x - x[base + u32(label) * p.inner]));
//#if SMOOTH
            l = (1.0 - p.smoothing) * l + p.smoothing / f32(p.n) * (s.w * (s.x + shift) - s.z);
//#endif
        }
    }
    loss[row] = l;
    counted[row] = w;
}

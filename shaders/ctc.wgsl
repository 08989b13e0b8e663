// A recursion of connectionist temporal classification along the steps of a sequence, one workgroup a sequence. The states are the labels with blanks
// around each.
//   FORWARD  α, what leads to each state, and the loss; ZERO: infinite losses are 0
//   else     β, what leads from each state to the end, without the step's own log-probability
// A row is relative to the largest element of the row before it.

//#if FORWARD
struct Params { batch: u32, steps: u32, classes: u32, labels: u32, blank: i32, fault: u32 }
//#else
struct Params { batch: u32, steps: u32, classes: u32, labels: u32, blank: i32 }
//#endif

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> targets: array<i32>;
@group(0) @binding(2) var<storage, read> input_lengths: array<i32>;
@group(0) @binding(3) var<storage, read> target_lengths: array<i32>;
@group(0) @binding(4) var<storage, read_write> rows: array<f32>;
//#if FORWARD
@group(0) @binding(5) var<storage, read_write> loss: array<f32>;
@group(0) @binding(6) var<storage, read_write> fault: array<atomic<u32>>;
//#endif
@group(1) @binding(0) var<uniform> p: Params;

const W = {{W}}u;
// The logarithm of 0: infinities are not safe in every driver's arithmetic.
const NEVER = -1e30;
const POSSIBLE = -5e29;

var<workgroup> tile: array<f32, W>;

fn class_of(n: u32, s: u32) -> i32 {
    if (s & 1u) == 0u { return p.blank; }
    return targets[n * p.labels + s / 2u];
}

// -∞ becomes NEVER; NaN stays.
fn bounded(v: f32) -> f32 {
    return select(v, NEVER, v < NEVER);
}

fn emission(t: u32, n: u32, c: i32) -> f32 {
    if c < 0 || u32(c) >= p.classes { return NEVER; }
    return bounded(x[(t * p.batch + n) * p.classes + u32(c)]);
}

fn sum(a: f32, b: f32, c: f32) -> f32 {
    let m = max(max(a, b), c);
    if m > POSSIBLE {
        return m + log(exp(a - m) + exp(b - m) + exp(c - m));
    }
    return bounded(a + b + c);
}

@compute @workgroup_size({{W}})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n = wid.x + wid.y * num.x;
    if n >= p.batch { return; }
    let width = 2u * p.labels + 1u;
    let length = clamp(input_lengths[n], 0, i32(p.steps));
    let count = clamp(target_lengths[n], 0, i32(p.labels));
    let steps = u32(length);
    let states = 2u * u32(count) + 1u;
    let base = n * p.steps * width;
//#if FORWARD
    if lane == 0u && (length != input_lengths[n] || count != target_lengths[n]) {
        atomicMax(&fault[0], p.fault);
    }
    for (var j = lane; j < u32(count); j += W) {
        let c = targets[n * p.labels + j];
        if c < 0 || u32(c) >= p.classes { atomicMax(&fault[0], p.fault); }
    }
    var total = 0.0;
//#endif
    var shift = 0.0;
    for (var i = 0u; i < p.steps; i++) {
        var top = NEVER;
//#if FORWARD
        let t = i;
        let other = base + (t - 1u) * width;
//#else
        let t = p.steps - 1u - i;
        let other = base + (t + 1u) * width;
//#endif
        for (var s = lane; s < width; s += W) {
            var v = NEVER;
            if s < states {
                let here = class_of(n, s);
//#if FORWARD
                if t == 0u && steps > 0u {
                    if s < 2u { v = emission(t, n, here); }
                } else if t < steps {
                    var b = NEVER;
                    var c = NEVER;
                    if s > 0u { b = rows[other + s - 1u]; }
                    if s > 1u && here != class_of(n, s - 2u) { c = rows[other + s - 2u]; }
                    v = bounded(sum(rows[other + s], b, c) + emission(t, n, here) - shift);
                }
//#else
                if t + 1u == steps {
                    if s + 2u >= states { v = 0.0; }
                } else if t + 1u < steps {
                    let a = rows[other + s] + emission(t + 1u, n, here);
                    var b = NEVER;
                    var c = NEVER;
                    if s + 1u < states { b = rows[other + s + 1u] + emission(t + 1u, n, class_of(n, s + 1u)); }
                    if s + 2u < states {
                        let there = class_of(n, s + 2u);
                        if here != there { c = rows[other + s + 2u] + emission(t + 1u, n, there); }
                    }
                    v = bounded(sum(a, b, c) - shift);
                }
//#endif
            }
            rows[base + t * width + s] = v;
            top = max(top, v);
        }
        tile[lane] = top;
        for (var half = W / 2u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if lane < half { tile[lane] = max(tile[lane], tile[lane + half]); }
        }
        workgroupBarrier();
        shift = select(0.0, tile[0], tile[0] > POSSIBLE);
//#if FORWARD
        if t + 1u < steps { total += shift; }
//#endif
        storageBarrier();
        workgroupBarrier();
    }
//#if FORWARD
    if lane != 0u { return; }
    var likelihood = select(NEVER, 0.0, states == 1u);
    if steps > 0u {
        let end = base + (steps - 1u) * width + states - 1u;
        var b = NEVER;
        if states > 1u { b = rows[end - 1u]; }
        likelihood = sum(rows[end], b, NEVER);
    }
    var l = -(likelihood + total);
    if likelihood <= POSSIBLE {
//#if ZERO
        l = 0.0;
//#else
        l = bitcast<f32>(p.batch * 0u + 0x7f800000u);
//#endif
    }
    loss[n] = l;
//#endif
}

// The gradient of connectionist temporal classification for the log-probabilities of one step of one sequence: a workgroup each, from α and β. ZERO: that of an
// infinite loss is 0.

struct Params { batch: u32, steps: u32, classes: u32, labels: u32, blank: i32 }

@group(0) @binding(0) var<storage, read> dloss: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> targets: array<i32>;
@group(0) @binding(3) var<storage, read> input_lengths: array<i32>;
@group(0) @binding(4) var<storage, read> target_lengths: array<i32>;
@group(0) @binding(5) var<storage, read> alpha: array<f32>;
@group(0) @binding(6) var<storage, read> beta: array<f32>;
@group(0) @binding(7) var<storage, read_write> dx: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

const W = {{W}}u;
const NEVER = -1e30;
const POSSIBLE = -5e29;

// The largest α + β; then the sums of the exponentials: of all, and of blanks.
var<workgroup> tile: array<vec2<f32>, W>;

@compute @workgroup_size({{W}})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = wid.x + wid.y * num.x;
    if row >= p.batch * p.steps { return; }
    let n = row % p.batch;
    let t = row / p.batch;
    let width = 2u * p.labels + 1u;
    let count = u32(clamp(target_lengths[n], 0, i32(p.labels)));
    let states = 2u * count + 1u;
    let first = (n * p.steps + t) * width;
    let live = i32(t) < input_lengths[n];

    var top = NEVER;
    for (var s = lane; s < states; s += W) { top = max(top, alpha[first + s] + beta[first + s]); }
    tile[lane] = vec2<f32>(top, 0.0);
    for (var half = W / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half { tile[lane] = max(tile[lane], tile[lane + half]); }
    }
    workgroupBarrier();
    let m = tile[0].x;
    workgroupBarrier();
    var sums = vec2<f32>(0.0, 0.0);
    for (var s = lane; s < states; s += W) {
        let e = exp(alpha[first + s] + beta[first + s] - m);
        var blank = (s & 1u) == 0u;
        if !blank { blank = targets[n * p.labels + s / 2u] == p.blank; }
        sums += vec2<f32>(e, select(0.0, e, blank));
    }
    tile[lane] = sums;
    for (var half = W / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half { tile[lane] += tile[lane + half]; }
    }
    workgroupBarrier();
    let norm = tile[0].x;
    let blanks = tile[0].y / norm;
    let dl = dloss[n];
    let unknown = (bitcast<u32>(norm) & 0x7fffffffu) > 0x7f800000u;
    let possible = m > POSSIBLE && !unknown;
    let out = row * p.classes;
    for (var c = lane; c < p.classes; c += W) {
        var d = 0.0;
        if live {
            d = dl * (exp(x[out + c]) - select(0.0, blanks, i32(c) == p.blank));
            if !possible {
                d = bitcast<f32>(p.batch * 0u + 0x7fc00000u);
//#if ZERO
                if !unknown { d = 0.0; }
//#endif
            }
        }
        dx[out + c] = d;
    }
    storageBarrier();
    workgroupBarrier();
    if !live || !possible { return; }
    // A label's posterior is summed where it stands first.
    for (var j = lane; j < count; j += W) {
        let c = targets[n * p.labels + j];
        if c < 0 || u32(c) >= p.classes || c == p.blank { continue; }
        var before = false;
        for (var k = 0u; k < j; k++) { before = before || targets[n * p.labels + k] == c; }
        if before { continue; }
        var sum = 0.0;
        for (var k = j; k < count; k++) {
            if targets[n * p.labels + k] == c {
                let s = first + 2u * k + 1u;
                sum += exp(alpha[s] + beta[s] - m);
            }
        }
        dx[out + u32(c)] -= dl * sum / norm;
    }
}

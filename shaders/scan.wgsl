// A scan along an axis: sums, products, maxima with their places, or the recurrence y = f y + v.
//   LINE    an invocation runs along a line
//   TOTALS  a workgroup combines a chunk of 2048
//   PREFIX  a workgroup makes the chunks' totals of a line what came before each
//   FINAL   a workgroup scans a chunk, from what came before it; ALONE: the line is one chunk
struct Params { n: u32, size: u32, inner: u32, chunks: u32 }

struct State {
    v: {{T}},
    //#if MAX
    at: i32,
    //#else
    f: {{T}},
    //#endif
}

//#if !PREFIX
@group(0) @binding(0) var<storage, read> x: array<{{T}}>;
//#if LINEAR
@group(0) @binding(1) var<storage, read> factor: array<{{T}}>;
//#endif
//#endif
//#if LINE
@group(0) @binding({{OUT}}) var<storage, read_write> y: array<{{T}}>;
//#if MAX
@group(0) @binding({{OUT2}}) var<storage, read_write> places: array<i32>;
//#endif
//#endif
//#if FINAL
@group(0) @binding({{OUT}}) var<storage, read_write> y: array<{{T}}>;
//#if MAX
@group(0) @binding({{OUT2}}) var<storage, read_write> places: array<i32>;
//#endif
//#endif
//#if !LINE
//#if !ALONE
@group(0) @binding({{TEMP}}) var<storage, read_write> totals: array<State>;
//#endif
var<workgroup> lanes: array<State, 256>;
//#endif
@group(1) @binding(0) var<uniform> p: Params;

fn nothing() -> State {
    //#if MAX
    return State({{T}}(0), -1);
    //#else
    //#if PROD
    return State({{T}}(1), {{T}}(1));
    //#else
    return State({{T}}(0), {{T}}(1));
    //#endif
    //#endif
}

//#if MAX
fn is_nan(v: {{T}}) -> bool {
    //#if FLOAT
    return (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u;
    //#else
    return false;
    //#endif
}
//#endif

fn combine(a: State, b: State) -> State {
    //#if SUM
    return State(a.v + b.v, a.f);
    //#endif
    //#if PROD
    return State(a.v * b.v, a.f);
    //#endif
    //#if LINEAR
    // A start of 0 must not meet an infinite factor.
    var v = b.v;
    if (a.v != {{T}}(0)) { v = b.f * a.v + b.v; }
    return State(v, a.f * b.f);
    //#endif
    //#if MAX
    if (a.at < 0 || (b.at >= 0 && (is_nan(b.v) || (!is_nan(a.v) && b.v >= a.v)))) { return b; }
    return a;
    //#endif
}

// The place in memory of step k, in the order of the scan.
fn element(line: u32, k: u32) -> u32 {
    //#if REVERSE
    let at = p.size - 1u - k;
    //#else
    let at = k;
    //#endif
    return ((line / p.inner) * p.size + at) * p.inner + line % p.inner;
}

//#if !PREFIX
fn load(line: u32, k: u32) -> State {
    let e = element(line, k);
    //#if MAX
    //#if REVERSE
    return State(x[e], i32(p.size - 1u - k));
    //#else
    return State(x[e], i32(k));
    //#endif
    //#else
    //#if LINEAR
    return State(x[e], factor[e]);
    //#else
    return State(x[e], {{T}}(1));
    //#endif
    //#endif
}
//#endif

//#if LINE
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let line = (wid.x + wid.y * num.x) * 256u + lid;
    if (line >= p.n) { return; }
    var s = nothing();
    for (var k = 0u; k < p.size; k++) {
        s = combine(s, load(line, k));
        let e = element(line, k);
        y[e] = s.v;
        //#if MAX
        places[e] = s.at;
        //#endif
    }
}
//#else

// Each lane's state becomes the combination of all up to it.
fn scan_lanes(lid: u32) {
    workgroupBarrier();
    for (var d = 1u; d < 256u; d = d << 1u) {
        var s = lanes[lid];
        if (lid >= d) { s = combine(lanes[lid - d], s); }
        workgroupBarrier();
        lanes[lid] = s;
        workgroupBarrier();
    }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let group = wid.x + wid.y * num.x;
    if (group >= p.n) { return; }
    //#if PREFIX
    var before = nothing();
    for (var tile = 0u; tile < p.chunks; tile += 256u) {
        let k = tile + lid;
        lanes[lid] = nothing();
        if (k < p.chunks) { lanes[lid] = totals[group * p.chunks + k]; }
        scan_lanes(lid);
        if (k < p.chunks) {
            var s = before;
            if (lid > 0u) { s = combine(before, lanes[lid - 1u]); }
            totals[group * p.chunks + k] = s;
        }
        before = combine(before, lanes[255]);
        workgroupBarrier();
    }
    //#else
    let line = group / p.chunks;
    let base = (group % p.chunks) * 2048u + lid * 8u;
    var own: array<State, 8>;
    var s = nothing();
    for (var j = 0u; j < 8u; j++) {
        if (base + j < p.size) { s = combine(s, load(line, base + j)); }
        own[j] = s;
    }
    lanes[lid] = s;
    scan_lanes(lid);
    //#if TOTALS
    if (lid == 255u) { totals[group] = lanes[255]; }
    //#else
    //#if ALONE
    var before = nothing();
    //#else
    var before = totals[group];
    //#endif
    if (lid > 0u) { before = combine(before, lanes[lid - 1u]); }
    for (var j = 0u; j < 8u; j++) {
        if (base + j < p.size) {
            let r = combine(before, own[j]);
            let e = element(line, base + j);
            y[e] = r.v;
            //#if MAX
            places[e] = r.at;
            //#endif
        }
    }
    //#endif
    //#endif
}
//#endif

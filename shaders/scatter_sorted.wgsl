// dst[o, index - start, c] (+)= src[o, order[k], c] for an index that is sorted along k. The first invocation of a run of equal indices
// does the whole run, in its order; the others leave.
struct Params { n: u32, count: u32, size: u32, inner: u32, start: u32, total: u32, fault: u32 }

@group(0) @binding(0) var<storage, read> index: array<i32>;
@group(0) @binding(1) var<storage, read> order: array<i32>;
@group(0) @binding(2) var<storage, read> src: array<{{T}}>;
@group(0) @binding(3) var<storage, read_write> dst: array<{{T}}>;
@group(0) @binding(4) var<storage, read_write> fault: array<atomic<u32>>;
@group(1) @binding(0) var<uniform> p: Params;

fn place(o: u32, k: u32, c: u32) -> u32 {
    //#if SHARED
    return k;
    //#else
    return (o * p.count + k) * p.inner + c;
    //#endif
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.x + wid.y * num.x) * 256u + lid;
    if (i >= p.n) { return; }
    let c = i % p.inner;
    let o = i / p.inner / p.count;
    let first = (i / p.inner) % p.count;
    let j = index[place(o, first, c)];
    if (first > 0u && index[place(o, max(first, 1u) - 1u, c)] == j) { return; }
    if (j < 0 || u32(j) >= p.total) {
        atomicMax(&fault[0], p.fault);
        return;
    }
    // Below the start this wraps to a large number.
    let at = u32(j) - p.start;
    if (at >= p.size) { return; }
    let to = (o * p.size + at) * p.inner + c;
    var v = dst[to];
    for (var k = first; k < p.count; k++) {
        let here = place(o, k, c);
        if (index[here] != j) { break; }
        let s = src[(o * p.count + u32(order[here])) * p.inner + c];
        //#if ADD
        v += s;
        //#else
        v = s;
        //#endif
    }
    dst[to] = v;
}

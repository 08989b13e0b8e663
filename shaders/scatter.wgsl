// dst[o, index - start, c] (+)= src[o, k, c] for k in order. An invocation has a line (o, c), or with ELEMENT one element of it: then no
// place is named twice. dst holds the `size` steps from `start` on of an axis of `total`.
struct Params { n: u32, count: u32, size: u32, inner: u32, start: u32, total: u32, fault: u32 }

@group(0) @binding(0) var<storage, read> index: array<i32>;
@group(0) @binding(1) var<storage, read> src: array<{{T}}>;
@group(0) @binding(2) var<storage, read_write> dst: array<{{T}}>;
@group(0) @binding(3) var<storage, read_write> fault: array<atomic<u32>>;
@group(1) @binding(0) var<uniform> p: Params;

fn put(o: u32, k: u32, c: u32) {
    let e = (o * p.count + k) * p.inner + c;
    //#if SHARED
    let j = index[k];
    //#else
    let j = index[e];
    //#endif
    if (j < 0 || u32(j) >= p.total) {
        atomicMax(&fault[0], p.fault);
        return;
    }
    // Below the start this wraps to a large number.
    let at = u32(j) - p.start;
    if (at < p.size) {
        let to = (o * p.size + at) * p.inner + c;
        //#if ADD
        dst[to] += src[e];
        //#else
        dst[to] = src[e];
        //#endif
    }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.x + wid.y * num.x) * 256u + lid;
    if (i >= p.n) { return; }
    //#if ELEMENT
    put(i / p.inner / p.count, (i / p.inner) % p.count, i % p.inner);
    //#else
    for (var k = 0u; k < p.count; k++) {
        put(i / p.inner, k, i % p.inner);
    }
    //#endif
}

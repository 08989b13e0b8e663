// dst[o, k, c] = src[o, index[o, k, c], c]; src has `size` steps on the axis, dst and index have `count`.
struct Params { n: u32, count: u32, size: u32, inner: u32, fault: u32 }

@group(0) @binding(0) var<storage, read> src: array<u32>;
@group(0) @binding(1) var<storage, read> index: array<i32>;
@group(0) @binding(2) var<storage, read_write> dst: array<u32>;
@group(0) @binding(3) var<storage, read_write> fault: array<atomic<u32>>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.x + wid.y * num.x) * 256u + lid;
    if (i >= p.n) { return; }
    let c = i % p.inner;
    let o = i / p.inner / p.count;
    let j = index[i];
    var v = 0u;
    if (j < 0 || u32(j) >= p.size) {
        atomicMax(&fault[0], p.fault);
    } else {
        v = src[(o * p.size + u32(j)) * p.inner + c];
    }
    dst[i] = v;
}

// Adds (or copies) a tensor into a strided part of another. One invocation an element of the part; no two meet at one place.
struct Params {
    n: u32,
    rank: u32,
    from_offset: i32,
    to_offset: i32,
    // size, stride in `part`, stride in `whole`, unused
    dims: array<vec4<i32>, 16>,
}

@group(0) @binding(0) var<storage, read> part: array<{{T}}>;
@group(0) @binding(1) var<storage, read_write> whole: array<{{T}}>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) num: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = (wid.x + wid.y * num.x) * 256u + lid;
    if (i >= p.n) {
        return;
    }
    var rest = i;
    var from_at = p.from_offset;
    var to_at = p.to_offset;
    for (var k = min(p.rank, 16u); k > 0u; k -= 1u) {
        let dim = p.dims[k - 1u];
        let size = u32(dim.x);
        let r = i32(rest % size);
        rest /= size;
        from_at += r * dim.y;
        to_at += r * dim.z;
    }
    let to = u32(to_at);
    whole[to] = {{BEFORE}}part[u32(from_at)];
}

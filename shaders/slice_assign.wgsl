// Writes a block into a tensor: an invocation writes one word. An axis is (size of the block, stride of the tensor, start,
// first place of a part of the tensor); what lies outside of the part is left out.
struct Params { n: u32, size0: u32, b: u32, c: u32, axes: array<vec4<u32>, {{RANK}}> }

@group(0) @binding(0) var<storage, read> src: array<u32>;
@group(0) @binding(1) var<storage, read_write> dst: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.x + wid.y * num.x) * 256u + lid;
    if (i >= p.n) { return; }
    var rest = i;
    var at = 0u;
    for (var k = {{RANK}}u; k > 0u; k--) {
        let a = p.axes[k - 1u];
//#if PART
        let c = rest % a.x + a.z - a.w;
        var size = p.size0;
        if (k > 1u) { size = p.axes[k - 2u].y / max(a.y, 1u); }
        if (c >= size) { return; }
        at += c * a.y;
//#else
        at += (rest % a.x + a.z) * a.y;
//#endif
        rest /= a.x;
    }
    dst[at] = src[i];
}

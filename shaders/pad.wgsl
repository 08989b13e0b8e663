// Constant padding: an invocation writes one word. An axis is (padded size, pad before, size, stride of the input).
struct Params { n: u32, fill: u32, a: u32, b: u32, axes: array<vec4<u32>, {{RANK}}> }

@group(0) @binding(0) var<storage, read> src: array<u32>;
@group(0) @binding(1) var<storage, read_write> dst: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.x + wid.y * num.x) * 256u + lid;
    if (i >= p.n) { return; }
    var rest = i;
    var at = 0u;
    var inside = true;
    for (var k = {{RANK}}u; k > 0u; k--) {
        let a = p.axes[k - 1u];
        // Below the pad this wraps to a large number, which is outside as well.
        let c = rest % a.x - a.y;
        inside = inside && c < a.z;
        at += c * a.w;
        rest /= a.x;
    }
    if (inside) { dst[i] = src[at]; } else { dst[i] = p.fill; }
}

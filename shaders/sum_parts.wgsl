// The second half of a product whose k was cut in parts: adds the parts in order.
struct Params {
    n: u32, parts: u32,
{{EPILOGUE_FIELDS}}
}

@group(0) @binding(0) var<storage, read> parts: array<{{T}}>;
@group(0) @binding(1) var<storage, read_write> c: array<{{T}}>;
@group(1) @binding(0) var<uniform> p: Params;

{{EPILOGUE}}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.x + wid.y * num.x) * 256u + lid;
    if at >= p.n {
        return;
    }
    var sum = parts[at];
    for (var i = 1u; i < p.parts; i += 1u) {
        sum += parts[at + i * p.n];
    }
    c[at] = epilogue(sum, at);
}

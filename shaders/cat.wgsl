// Joins parts along an axis. The output is rows of `row` words; these parts fill the `span` words of each row from `start` on, part k
// with `lenk` of them.
struct Params { n: u32, span: u32, row: u32, start: u32,{{MEMBERS}} }

@group(0) @binding(0) var<storage, read_write> dst: array<u32>;
{{PARTS}}
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.x + wid.y * num.x) * 256u + lid;
    if (i >= p.n) { return; }
    let r = i / p.span;
    var c = i % p.span;
    let to = r * p.row + p.start + c;
{{BODY}}
}

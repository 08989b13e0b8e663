// How many elements of its sorted row come before a value: an invocation has a value, `per_row` of them share a row.
struct Params { n: u32, size: u32, per_row: u32 }

@group(0) @binding(0) var<storage, read> rows: array<u32>;
@group(0) @binding(1) var<storage, read> values: array<u32>;
@group(0) @binding(2) var<storage, read_write> dst: array<i32>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.x + wid.y * num.x) * 256u + lid;
    if (i >= p.n) { return; }
    let base = i / p.per_row * p.size;
    let v = key_of(values[i]);
    var lo = 0u;
    var hi = p.size;
    for (var round = 0u; round < 32u; round++) {
        if (lo >= hi) { break; }
        let mid = (lo + hi) / 2u;
        let k = key_of(rows[base + mid]);
        //#if RIGHT
        if (k <= v) { lo = mid + 1u; } else { hi = mid; }
        //#else
        if (k < v) { lo = mid + 1u; } else { hi = mid; }
        //#endif
    }
    dst[i] = i32(lo);
}

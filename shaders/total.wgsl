// The sum of a short vector, by one workgroup.

struct Params { n: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> total: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

var<workgroup> tile: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) t: u32) {
    var s = 0.0;
    for (var k = t; k < p.n; k += 256u) {
        s += x[k];
    }
    tile[t] = s;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if t < half {
            tile[t] += tile[t + half];
        }
    }
    if t == 0u {
        total[0] = tile[0];
    }
}

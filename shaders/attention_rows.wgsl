// What attention's gradients need of each query: its log-sum-exp beside sum(dout * out). Sixteen invocations share a row.

struct Params { rows: u32, width: u32, heads: u32, queries: u32 }

@group(0) @binding(0) var<storage, read> out: array<f32>;
@group(0) @binding(1) var<storage, read> dout: array<f32>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read_write> rows: array<vec2<f32>>;
@group(1) @binding(0) var<uniform> p: Params;

var<workgroup> tile: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let lane = t % 16u;
    let row = (wid.x + wid.y * num.x) * 16u + t / 16u;
    let live = row < p.rows;
    var s = 0.0;
    if live {
        for (var k = lane; k < p.width; k += 16u) {
            s += out[row * p.width + k] * dout[row * p.width + k];
        }
    }
    tile[t] = s;
    for (var half = 8u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            tile[t] += tile[t + half];
        }
    }
    if live && lane == 0u {
        // out and dout lie by batch, query, head; what belongs to a query by batch, head, query.
        let h = row % p.heads;
        let i = row / p.heads % p.queries;
        let place = (row / p.heads / p.queries * p.heads + h) * p.queries + i;
        rows[place] = vec2<f32>(lse[place], tile[t]);
    }
}

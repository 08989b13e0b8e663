// The gradient of softmax, y * (dy - sum(dy * y)), or of log-softmax, dy - exp(y) * sum(dy). Rows as in softmax.wgsl.

struct Params { rows: u32, n: u32, inner: u32 }

@group(0) @binding(0) var<storage, read> y: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

const L = {{L}}u;
const R = 256u / L;

var<workgroup> tile: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) t: u32) {
//#if STRIDED
    let place = t % R;
    let lane = t / R;
//#else
    let place = t / L;
    let lane = t % L;
//#endif
    let row = (wid.x + wid.y * num.x) * R + place;
    let live = row < p.rows;
    let base = (row / p.inner) * p.n * p.inner + row % p.inner;
    var s = 0.0;
    if live {
        for (var k = lane; k < p.n; k += L) {
            let i = base + k * p.inner;
//#if LOG
            s += dy[i];
//#else
            s += dy[i] * y[i];
//#endif
        }
    }
//#if SHARE
    let at = place * L + lane;
    tile[at] = s;
    for (var half = L / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            tile[at] += tile[at + half];
        }
    }
    workgroupBarrier();
    s = tile[place * L];
//#endif
    if !live { return; }
    for (var k = lane; k < p.n; k += L) {
        let i = base + k * p.inner;
//#if LOG
        dx[i] = dy[i] - exp(y[i]) * s;
//#else
        dx[i] = y[i] * (dy[i] - s);
//#endif
    }
}

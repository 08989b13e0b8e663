// Softmax or log-softmax of rows: element k of row r is at (r / inner) * n * inner + r % inner + k * inner. L invocations share a row;
// each keeps a running maximum and sum, which are then merged pairwise in workgroup memory.

struct Params { rows: u32, n: u32, inner: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

const L = {{L}}u;
const R = 256u / L;

var<workgroup> tile_m: array<f32, 256>;
var<workgroup> tile_s: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) t: u32) {
//#if STRIDED
    // Neighbouring invocations take neighbouring rows, which lie side by side.
    let place = t % R;
    let lane = t / R;
//#else
    let place = t / L;
    let lane = t % L;
//#endif
    let row = (wid.x + wid.y * num.x) * R + place;
    let live = row < p.rows;
    let base = (row / p.inner) * p.n * p.inner + row % p.inner;
    var m = -3.4028234e38;
    var s = 0.0;
    if live {
        for (var k = lane; k < p.n; k += L) {
            let v = x[base + k * p.inner];
            if v > m {
                s = s * exp(m - v) + 1.0;
                m = v;
            } else {
                s += exp(v - m);
            }
        }
    }
//#if SHARE
    let at = place * L + lane;
    tile_m[at] = m;
    tile_s[at] = s;
    for (var half = L / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            let m2 = tile_m[at + half];
            let s2 = tile_s[at + half];
            let both = max(m, m2);
            s = s * exp(m - both) + s2 * exp(m2 - both);
            m = both;
            tile_m[at] = m;
            tile_s[at] = s;
        }
    }
    workgroupBarrier();
    m = tile_m[place * L];
    s = tile_s[place * L];
//#endif
    if !live { return; }
    // With an infinite maximum all is NaN: ∞ - ∞ in one place, so the sum of the row.
    let nan = bitcast<f32>(bitcast<u32>(m) | 0x400000u);
    let infinite = m > 3.4028234e38;
//#if LOG
    let shift = select(log(s), nan, infinite);
    for (var k = lane; k < p.n; k += L) {
        let i = base + k * p.inner;
        y[i] = (x[i] - m) - shift;
    }
//#else
    let scale = select(1.0 / s, nan, infinite);
    for (var k = lane; k < p.n; k += L) {
        let i = base + k * p.inner;
        y[i] = exp(x[i] - m) * scale;
    }
//#endif
}

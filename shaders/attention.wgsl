// Attention of one tile of BQ queries: runs over tiles of BK keys with an online softmax, so that no matrix of scores leaves the
// workgroup. 16 × 16 invocations each hold RQ × RK scores and RQ × RV elements of the output. Writes the output and the log-sum-exp.

struct Params {
    heads: u32, group: u32, queries: u32, keys: u32, width: u32, value_width: u32, tiles: u32, total: u32,
    scale: f32, position: u32,
    q_at: i32, q_b: i32, q_h: i32, q_l: i32, q_d: i32,
    k_at: i32, k_b: i32, k_h: i32, k_l: i32, k_d: i32,
    v_at: i32, v_b: i32, v_h: i32, v_l: i32, v_d: i32,
    e_at: i32, e_b: i32, e_h: i32, e_l: i32, e_d: i32,
}

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
//#if MASK
@group(0) @binding(5) var<storage, read> mask: array<u32>;
//#endif
//#if BIAS
@group(0) @binding(5) var<storage, read> bias: array<f32>;
//#endif
@group(1) @binding(0) var<uniform> p: Params;

const BQ = {{BQ}}u;
const BK = 32u;
const RQ = BQ / 16u;
const RK = BK / 16u;
// Columns of the output an invocation holds.
const RV = {{RV}}u;
// Elements of a head, and keys, that are staged at a time.
const DC = 16u;
const VK = 8u;
const STRIDE_Q = BQ + 1u;
const STRIDE_K = BK + 1u;
// Invocations that share a row of the softmax.
const SHARE = 256u / BQ;
// At and below this a key is hidden.
const HIDDEN = -3.0e38;

var<workgroup> weights: array<f32, BQ * BK>;
var<workgroup> stage: array<f32, {{STAGE}}>;
var<workgroup> red: array<f32, 256>;
var<workgroup> row_max: array<f32, BQ>;
var<workgroup> row_sum: array<f32, BQ>;
var<workgroup> row_scale: array<f32, BQ>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let place = wid.x + wid.y * num.x;
    if place >= p.total { return; }
    let bh = place / p.tiles;
    let b = i32(bh / p.heads);
    let h = i32(bh % p.heads);
    let g = h / i32(p.group);
    let i0 = (place % p.tiles) * BQ;
    let tx = t % 16u;
    let ty = t / 16u;
    let q_at = p.q_at + b * p.q_b + h * p.q_h;
    let k_at = p.k_at + b * p.k_b + g * p.k_h;
    let v_at = p.v_at + b * p.v_b + g * p.v_h;
    let e_at = p.e_at + b * p.e_b + h * p.e_h;
    var acc: array<f32, RQ * RV>;
    var s: array<f32, RQ * RK>;
    if t < BQ {
        row_max[t] = HIDDEN;
        row_sum[t] = 0.0;
    }
    var end = p.keys;
//#if CAUSAL
    end = min(end, i0 + BQ + p.position);
//#endif
    for (var j0 = 0u; j0 < end; j0 += BK) {
        for (var n = 0u; n < RQ * RK; n++) {
            s[n] = 0.0;
        }
        for (var d0 = 0u; d0 < p.width; d0 += DC) {
            workgroupBarrier();
            for (var e = t; e < BQ * DC; e += 256u) {
                let d = e % DC;
                let i = i0 + e / DC;
                var x = 0.0;
                if i < p.queries && d0 + d < p.width {
                    x = q[u32(q_at + i32(i) * p.q_l + i32(d0 + d) * p.q_d)];
                }
                stage[d * STRIDE_Q + e / DC] = x;
            }
            for (var e = t; e < BK * DC; e += 256u) {
                let d = e % DC;
                let j = j0 + e / DC;
                var x = 0.0;
                if j < p.keys && d0 + d < p.width {
                    x = k[u32(k_at + i32(j) * p.k_l + i32(d0 + d) * p.k_d)];
                }
                stage[DC * STRIDE_Q + d * STRIDE_K + e / DC] = x;
            }
            workgroupBarrier();
            for (var d = 0u; d < DC; d++) {
                var c: array<f32, RK>;
                for (var j = 0u; j < RK; j++) {
                    c[j] = stage[DC * STRIDE_Q + d * STRIDE_K + tx + 16u * j];
                }
                for (var i = 0u; i < RQ; i++) {
                    let a = stage[d * STRIDE_Q + ty + 16u * i];
                    for (var j = 0u; j < RK; j++) {
                        s[i * RK + j] += a * c[j];
                    }
                }
            }
        }
        workgroupBarrier();
        for (var n = 0u; n < RQ; n++) {
            for (var m = 0u; m < RK; m++) {
                let i = i0 + ty + 16u * n;
                let j = j0 + tx + 16u * m;
                var x = HIDDEN;
                if i < p.queries && j < p.keys {
                    x = s[n * RK + m] * p.scale;
//#if MASK
                    if mask[u32(e_at + i32(i) * p.e_l + i32(j) * p.e_d)] == 0u { x = HIDDEN; }
//#endif
//#if BIAS
                    x += bias[u32(e_at + i32(i) * p.e_l + i32(j) * p.e_d)];
//#endif
//#if CAUSAL
                    if j > i + p.position { x = HIDDEN; }
//#endif
                }
                weights[(ty + 16u * n) * BK + tx + 16u * m] = x;
            }
        }
        workgroupBarrier();
        let row = t / SHARE;
        let first = row * BK + t % SHARE;
        let old = row_max[row];
        var m = HIDDEN;
        for (var c = 0u; c < BK; c += SHARE) {
            m = max(m, weights[first + c]);
        }
        red[t] = m;
        workgroupBarrier();
        m = old;
        for (var c = 0u; c < SHARE; c++) {
            m = max(m, red[row * SHARE + c]);
        }
        var sum = 0.0;
        for (var c = 0u; c < BK; c += SHARE) {
            let x = weights[first + c];
            var w = 0.0;
            if !(x <= HIDDEN) {
                w = exp(x - m);
            }
            weights[first + c] = w;
            sum += w;
        }
        workgroupBarrier();
        red[t] = sum;
        workgroupBarrier();
        if t % SHARE == 0u {
            let scale = exp(old - m);
            sum = row_sum[row] * scale;
            for (var c = 0u; c < SHARE; c++) {
                sum += red[t + c];
            }
            row_sum[row] = sum;
            row_max[row] = m;
            row_scale[row] = scale;
        }
        workgroupBarrier();
        for (var i = 0u; i < RQ; i++) {
            let scale = row_scale[ty + 16u * i];
            for (var j = 0u; j < RV; j++) {
                acc[i * RV + j] *= scale;
            }
        }
        for (var k0 = 0u; k0 < BK; k0 += VK) {
            workgroupBarrier();
            for (var e = t; e < VK * RV * 16u; e += 256u) {
                let col = e % (RV * 16u);
                let j = j0 + k0 + e / (RV * 16u);
                var x = 0.0;
                if j < p.keys && col < p.value_width {
                    x = v[u32(v_at + i32(j) * p.v_l + i32(col) * p.v_d)];
                }
                stage[e] = x;
            }
            workgroupBarrier();
            for (var d = 0u; d < VK; d++) {
                var c: array<f32, RV>;
                for (var j = 0u; j < RV; j++) {
                    c[j] = stage[d * RV * 16u + tx + 16u * j];
                }
                for (var i = 0u; i < RQ; i++) {
                    let w = weights[(ty + 16u * i) * BK + k0 + d];
                    for (var j = 0u; j < RV; j++) {
                        acc[i * RV + j] += w * c[j];
                    }
                }
            }
        }
    }
    workgroupBarrier();
    for (var n = 0u; n < RQ; n++) {
        let row = ty + 16u * n;
        let i = i0 + row;
        if i >= p.queries { continue; }
        let sum = row_sum[row];
        // A query that sees no key gives zeros.
        var scale = 0.0;
        var l = 3.0e38;
        if sum != 0.0 {
            scale = 1.0 / sum;
            l = row_max[row] + log(sum);
        }
        for (var j = 0u; j < RV; j++) {
            let col = tx + 16u * j;
            if col < p.value_width {
                out[((u32(b) * p.queries + i) * p.heads + u32(h)) * p.value_width + col] = acc[n * RV + j] * scale;
            }
        }
        if tx == 0u {
            lse[bh * p.queries + i] = l;
        }
    }
}

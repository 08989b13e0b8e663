// The gradients of attention, from weights that are computed anew by the saved log-sum-exp. A workgroup takes one tile of BR rows and
// runs over tiles of BC columns. Without KEYS the rows are queries and it writes dq; with KEYS the rows are keys, the columns the queries
// of all heads that share them, and it writes dk and dv. With w the weights: ds = w * (dout vᵀ - delta) * scale; dq = ds k, dk = dsᵀ q,
// dv = wᵀ dout.

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
@group(0) @binding(3) var<storage, read> dout: array<f32>;
// Log-sum-exp and delta of each query.
@group(0) @binding(4) var<storage, read> rows: array<vec2<f32>>;
//#if MASK
@group(0) @binding(5) var<storage, read> mask: array<u32>;
//#endif
//#if BIAS
@group(0) @binding(5) var<storage, read> bias: array<f32>;
//#endif
//#if GRAD_A
@group(0) @binding({{B_A}}) var<storage, read_write> grad_a: array<f32>;
//#endif
//#if GRAD_B
@group(0) @binding({{B_B}}) var<storage, read_write> grad_b: array<f32>;
//#endif
@group(1) @binding(0) var<uniform> p: Params;

const BR = {{BR}}u;
const BC = 32u;
const RR = BR / 16u;
const RC = BC / 16u;
// Elements of a gradient's row that an invocation holds: of q and k, and of v.
const RD = {{RD}}u;
const RV = {{RV}}u;
const DC = 16u;
const VK = 8u;
const STRIDE_R = BR + 1u;
const STRIDE_C = BC + 1u;

var<workgroup> tile: array<f32, BR * BC>;
var<workgroup> stage: array<f32, {{STAGE}}>;
// Batch, query head, key head.
var<private> b: i32;
var<private> h: i32;
var<private> g: i32;

fn q_of(i: u32, d: u32) -> f32 {
    if i >= p.queries || d >= p.width { return 0.0; }
    return q[u32(p.q_at + b * p.q_b + h * p.q_h + i32(i) * p.q_l + i32(d) * p.q_d)];
}

fn k_of(j: u32, d: u32) -> f32 {
    if j >= p.keys || d >= p.width { return 0.0; }
    return k[u32(p.k_at + b * p.k_b + g * p.k_h + i32(j) * p.k_l + i32(d) * p.k_d)];
}

fn v_of(j: u32, d: u32) -> f32 {
    if j >= p.keys || d >= p.value_width { return 0.0; }
    return v[u32(p.v_at + b * p.v_b + g * p.v_h + i32(j) * p.v_l + i32(d) * p.v_d)];
}

fn dout_of(i: u32, d: u32) -> f32 {
    if i >= p.queries || d >= p.value_width { return 0.0; }
    return dout[((u32(b) * p.queries + i) * p.heads + u32(h)) * p.value_width + d];
}

// The weight of key j for query i, from its raw score.
fn weight(i: u32, j: u32, score: f32, lse: f32) -> f32 {
    if i >= p.queries || j >= p.keys { return 0.0; }
    var x = score * p.scale;
//#if CAUSAL
    if j > i + p.position { return 0.0; }
//#endif
//#if MASK
    if mask[u32(p.e_at + b * p.e_b + h * p.e_h + i32(i) * p.e_l + i32(j) * p.e_d)] == 0u { return 0.0; }
//#endif
//#if BIAS
    x += bias[u32(p.e_at + b * p.e_b + h * p.e_h + i32(i) * p.e_l + i32(j) * p.e_d)];
//#endif
    return exp(x - lse);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let place = wid.x + wid.y * num.x;
    if place >= p.total { return; }
    let tx = t % 16u;
    let ty = t / 16u;
    let r0 = (place % p.tiles) * BR;
    let head = place / p.tiles;
//#if GRAD_A
    var acc_a: array<f32, RR * RD>;
//#endif
//#if GRAD_B
    var acc_b: array<f32, RR * RV>;
//#endif
    var s: array<f32, RR * RC>;
    var ds: array<f32, RR * RC>;
//#if KEYS
    let kv_heads = p.heads / p.group;
    b = i32(head / kv_heads);
    g = i32(head % kv_heads);
    let end = p.queries;
    var start = 0u;
//#if CAUSAL
    // The first query that sees the first of these keys.
    if r0 > p.position {
        start = (r0 - p.position) / BC * BC;
    }
//#endif
    for (var member = 0u; member < p.group; member++) {
    h = g * i32(p.group) + i32(member);
//#else
    b = i32(head / p.heads);
    h = i32(head % p.heads);
    g = h / i32(p.group);
    let start = 0u;
    var end = p.keys;
//#if CAUSAL
    end = min(end, r0 + BR + p.position);
//#endif
//#endif
    let base = (u32(b) * p.heads + u32(h)) * p.queries;
    for (var c0 = start; c0 < end; c0 += BC) {
        for (var n = 0u; n < RR * RC; n++) {
            s[n] = 0.0;
            ds[n] = 0.0;
        }
        for (var d0 = 0u; d0 < p.width; d0 += DC) {
            workgroupBarrier();
            for (var e = t; e < BR * DC; e += 256u) {
//#if KEYS
                stage[e % DC * STRIDE_R + e / DC] = k_of(r0 + e / DC, d0 + e % DC);
//#else
                stage[e % DC * STRIDE_R + e / DC] = q_of(r0 + e / DC, d0 + e % DC);
//#endif
            }
            for (var e = t; e < BC * DC; e += 256u) {
//#if KEYS
                stage[DC * STRIDE_R + e % DC * STRIDE_C + e / DC] = q_of(c0 + e / DC, d0 + e % DC);
//#else
                stage[DC * STRIDE_R + e % DC * STRIDE_C + e / DC] = k_of(c0 + e / DC, d0 + e % DC);
//#endif
            }
            workgroupBarrier();
            for (var d = 0u; d < DC; d++) {
                for (var i = 0u; i < RR; i++) {
                    let a = stage[d * STRIDE_R + ty + 16u * i];
                    for (var j = 0u; j < RC; j++) {
                        s[i * RC + j] += a * stage[DC * STRIDE_R + d * STRIDE_C + tx + 16u * j];
                    }
                }
            }
        }
//#if GRAD_A
        for (var d0 = 0u; d0 < p.value_width; d0 += DC) {
            workgroupBarrier();
            for (var e = t; e < BR * DC; e += 256u) {
//#if KEYS
                stage[e % DC * STRIDE_R + e / DC] = v_of(r0 + e / DC, d0 + e % DC);
//#else
                stage[e % DC * STRIDE_R + e / DC] = dout_of(r0 + e / DC, d0 + e % DC);
//#endif
            }
            for (var e = t; e < BC * DC; e += 256u) {
//#if KEYS
                stage[DC * STRIDE_R + e % DC * STRIDE_C + e / DC] = dout_of(c0 + e / DC, d0 + e % DC);
//#else
                stage[DC * STRIDE_R + e % DC * STRIDE_C + e / DC] = v_of(c0 + e / DC, d0 + e % DC);
//#endif
            }
            workgroupBarrier();
            for (var d = 0u; d < DC; d++) {
                for (var i = 0u; i < RR; i++) {
                    let a = stage[d * STRIDE_R + ty + 16u * i];
                    for (var j = 0u; j < RC; j++) {
                        ds[i * RC + j] += a * stage[DC * STRIDE_R + d * STRIDE_C + tx + 16u * j];
                    }
                }
            }
        }
//#endif
        for (var n = 0u; n < RR; n++) {
            for (var m = 0u; m < RC; m++) {
                let row = r0 + ty + 16u * n;
                let col = c0 + tx + 16u * m;
//#if KEYS
                let i = col;
                let j = row;
//#else
                let i = row;
                let j = col;
//#endif
                var known = vec2<f32>(0.0, 0.0);
                if i < p.queries {
                    known = rows[base + i];
                }
                let w = weight(i, j, s[n * RC + m], known.x);
                s[n * RC + m] = w;
                ds[n * RC + m] = w * (ds[n * RC + m] - known.y) * p.scale;
            }
        }
//#if GRAD_B
        workgroupBarrier();
        for (var n = 0u; n < RR; n++) {
            for (var m = 0u; m < RC; m++) {
                tile[(ty + 16u * n) * BC + tx + 16u * m] = s[n * RC + m];
            }
        }
        for (var k0 = 0u; k0 < BC; k0 += VK) {
            workgroupBarrier();
            for (var e = t; e < VK * RV * 16u; e += 256u) {
                stage[e] = dout_of(c0 + k0 + e / (RV * 16u), e % (RV * 16u));
            }
            workgroupBarrier();
            for (var d = 0u; d < VK; d++) {
                for (var i = 0u; i < RR; i++) {
                    let w = tile[(ty + 16u * i) * BC + k0 + d];
                    for (var j = 0u; j < RV; j++) {
                        acc_b[i * RV + j] += w * stage[d * RV * 16u + tx + 16u * j];
                    }
                }
            }
        }
//#endif
//#if GRAD_A
        workgroupBarrier();
        for (var n = 0u; n < RR; n++) {
            for (var m = 0u; m < RC; m++) {
                tile[(ty + 16u * n) * BC + tx + 16u * m] = ds[n * RC + m];
            }
        }
        for (var k0 = 0u; k0 < BC; k0 += VK) {
            workgroupBarrier();
            for (var e = t; e < VK * RD * 16u; e += 256u) {
//#if KEYS
                stage[e] = q_of(c0 + k0 + e / (RD * 16u), e % (RD * 16u));
//#else
                stage[e] = k_of(c0 + k0 + e / (RD * 16u), e % (RD * 16u));
//#endif
            }
            workgroupBarrier();
            for (var d = 0u; d < VK; d++) {
                for (var i = 0u; i < RR; i++) {
                    let w = tile[(ty + 16u * i) * BC + k0 + d];
                    for (var j = 0u; j < RD; j++) {
                        acc_a[i * RD + j] += w * stage[d * RD * 16u + tx + 16u * j];
                    }
                }
            }
        }
//#endif
    }
//#if KEYS
    }
    let count = p.keys;
    let heads = kv_heads;
    let own = u32(g);
//#else
    let count = p.queries;
    let heads = p.heads;
    let own = u32(h);
//#endif
    for (var n = 0u; n < RR; n++) {
        let row = r0 + ty + 16u * n;
        if row >= count { continue; }
//#if GRAD_A
        for (var j = 0u; j < RD; j++) {
            let col = tx + 16u * j;
            if col < p.width {
                grad_a[((u32(b) * count + row) * heads + own) * p.width + col] = acc_a[n * RD + j];
            }
        }
//#endif
//#if GRAD_B
        for (var j = 0u; j < RV; j++) {
            let col = tx + 16u * j;
            if col < p.value_width {
                grad_b[((u32(b) * count + row) * heads + own) * p.value_width + col] = acc_b[n * RV + j];
            }
        }
//#endif
    }
}

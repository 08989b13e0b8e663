// Products with a quantised weight W [n, k]: C = X · Wᵀ, or X · W where TURNED is defined. The weight is dequantised on its way into workgroup memory, or
// (FEW, at most four rows) into registers. VEC is defined where rows of W are whole groups of four.
//
// FEW: 4 rows of W a workgroup, 64 invocations along k for each, summed as a tree. Else: tiles of 64 × 64 results, 16 steps of the sum at a time; an
// invocation of the 16 × 16 holds a block of 4 × 4.
struct Params {
    m: u32, n: u32, k: u32,
    // Columns of C, and terms of its sums: n and k, or (TURNED) k and n.
    cols: u32, terms: u32,
    tiles_m: u32, tiles_n: u32, groups: u32,
    // The length of the part of the terms that one group sums (a multiple of 16).
    part: u32,
    first_block: u32, offset: f32,
{{EPILOGUE_FIELDS}}
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> codes: array<u32>;
//#if NESTED
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> map: array<f32>;
@group(0) @binding(4) var<storage, read> outer: array<f32>;
@group(0) @binding(5) var<storage, read_write> c: array<f32>;
//#else
@group(0) @binding(2) var<storage, read> scales: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
//#endif
@group(1) @binding(0) var<uniform> p: Params;

{{EPILOGUE}}

{{WEIGHT}}

//#if FEW
var<workgroup> sums: array<vec4<f32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let group = wid.x + wid.y * num.x;
    if group >= p.groups {
        return;
    }
//#if NF4
    open_book(lid);
//#endif
    let slice = lid % 64u;
    let col = group * 4u + lid / 64u;
    let row = min(col, p.n - 1u) * p.k;
    let r1 = min(1u, p.m - 1u) * p.k;
    let r2 = min(2u, p.m - 1u) * p.k;
    let r3 = min(3u, p.m - 1u) * p.k;
    var sum = vec4<f32>();
//#if VEC
    for (var k = slice * 4u; k < p.k; k += 256u) {
        let w = weights(row + k);
        for (var e = 0u; e < 4u; e += 1u) {
            let at = k + e;
            sum += vec4(x[at], x[at + r1], x[at + r2], x[at + r3]) * w[e];
        }
    }
//#else
    for (var k = slice; k < p.k; k += 64u) {
        sum += vec4(x[k], x[k + r1], x[k + r2], x[k + r3]) * weight(row + k);
    }
//#endif
    sums[lid] = sum;
    workgroupBarrier();
    for (var s = 32u; s > 0u; s /= 2u) {
        if slice < s {
            sums[lid] += sums[lid + s];
        }
        workgroupBarrier();
    }
    if slice == 0u && col < p.n {
        let total = sums[lid];
        for (var r = 0u; r < min(p.m, 4u); r += 1u) {
            let at = r * p.n + col;
            c[at] = epilogue(total[r], at);
        }
    }
}
//#else
// A row for each of 16 terms, 64 elements each; row t keeps vec4 i at i ^ (t / 4 * 4), so that writes along the terms hit different banks.
var<workgroup> tile_x: array<vec4<f32>, 256>;
var<workgroup> tile_w: array<vec4<f32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let group = wid.x + wid.y * num.x;
    if group >= p.groups {
        return;
    }
//#if NF4
    open_book(lid);
//#endif
    let tiles = p.tiles_m * p.tiles_n;
    let slice = group / tiles;
    let m0 = group % tiles / p.tiles_n * 64u;
    let n0 = group % tiles % p.tiles_n * 64u;
    let first = slice * p.part;
    let end = min(first + p.part, p.terms);
    // The four elements of each tile that this invocation fetches.
    let x_i = lid / 4u;
    let x_t = lid % 4u * 4u;
//#if TURNED
    let w_j = lid % 16u * 4u;
    let w_t = lid / 16u;
//#else
    let w_j = lid / 4u;
    let w_t = lid % 4u * 4u;
//#endif
    let tx = lid % 16u;
    let ty = lid / 16u;
    var acc_0 = vec4<f32>();
    var acc_1 = vec4<f32>();
    var acc_2 = vec4<f32>();
    var acc_3 = vec4<f32>();
    for (var t0 = first; t0 < end; t0 += 16u) {
        var vx = vec4<f32>();
        var vw = vec4<f32>();
        for (var e = 0u; e < 4u; e += 1u) {
            let t = t0 + x_t + e;
            if m0 + x_i < p.m && t < end {
                vx[e] = x[(m0 + x_i) * p.terms + t];
            }
        }
//#if TURNED
        let t = t0 + w_t;
//#if VEC
        if t < end && n0 + w_j < p.cols {
            vw = weights(t * p.k + n0 + w_j);
        }
//#else
        for (var e = 0u; e < 4u; e += 1u) {
            if t < end && n0 + w_j + e < p.cols {
                vw[e] = weight(t * p.k + n0 + w_j + e);
            }
        }
//#endif
        tile_w[w_t * 16u + ((w_j / 4u) ^ (w_t / 4u * 4u))] = vw;
//#else
//#if VEC
        if t0 + w_t < end && n0 + w_j < p.cols {
            vw = weights((n0 + w_j) * p.k + t0 + w_t);
        }
//#else
        for (var e = 0u; e < 4u; e += 1u) {
            if t0 + w_t + e < end && n0 + w_j < p.cols {
                vw[e] = weight((n0 + w_j) * p.k + t0 + w_t + e);
            }
        }
//#endif
        let w_place = w_t * 16u + ((w_j / 4u) ^ (w_t / 4u * 4u));
        let w_lane = w_j % 4u;
        tile_w[w_place][w_lane] = vw.x;
        tile_w[w_place + 16u][w_lane] = vw.y;
        tile_w[w_place + 32u][w_lane] = vw.z;
        tile_w[w_place + 48u][w_lane] = vw.w;
//#endif
        let x_place = x_t * 16u + ((x_i / 4u) ^ (x_t / 4u * 4u));
        let x_lane = x_i % 4u;
        tile_x[x_place][x_lane] = vx.x;
        tile_x[x_place + 16u][x_lane] = vx.y;
        tile_x[x_place + 32u][x_lane] = vx.z;
        tile_x[x_place + 48u][x_lane] = vx.w;
        workgroupBarrier();
        for (var k = 0u; k < 16u; k += 1u) {
            let turn = k / 4u * 4u;
            let a = tile_x[k * 16u + (ty ^ turn)];
            let b = tile_w[k * 16u + (tx ^ turn)];
            acc_0 += a.x * b;
            acc_1 += a.y * b;
            acc_2 += a.z * b;
            acc_3 += a.w * b;
        }
        workgroupBarrier();
    }
    var acc = array<vec4<f32>, 4>(acc_0, acc_1, acc_2, acc_3);
    for (var i = 0u; i < 4u; i += 1u) {
        let row = m0 + ty * 4u + i;
        let sums = acc[i];
        for (var e = 0u; e < 4u; e += 1u) {
            let col = n0 + tx * 4u + e;
            if row < p.m && col < p.cols {
                let at = (slice * p.m + row) * p.cols + col;
                c[at] = epilogue(sums[e], at);
            }
        }
    }
}
//#endif

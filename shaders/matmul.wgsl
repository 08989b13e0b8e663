// C = A · B in square tiles of SIDE, BK steps of k at a time through workgroup memory. An invocation of the 16 × 16 holds R × R blocks of 4 × 4
// results, 64 apart; R is SIDE / 64. While one stage is multiplied, the next one is on its way: it is fetched into registers before and put into the
// other half of the workgroup's memory after. The strides say how the matrices lie; A_K (B_K) is defined where A (B) is contiguous along k, A_VEC (B_VEC)
// where whole vec4s can be loaded, C_VEC where they can be stored.
struct Params {
    m: u32, n: u32, k: u32,
    tiles_m: u32, tiles_n: u32, groups: u32,
    // Batches, and the length of the part of k that one group sums (a multiple of 16).
    batches: u32, part: u32,
    a_offset: u32, a_row: u32, a_col: u32,
    b_offset: u32, b_row: u32, b_col: u32,
    // Batch axes: the sizes of the last three of four, and the strides of all.
    size_1: u32, size_2: u32, size_3: u32,
    a_0: u32, a_1: u32, a_2: u32, a_3: u32,
    b_0: u32, b_1: u32, b_2: u32, b_3: u32,
{{EPILOGUE_FIELDS}}
}

//#if A_VEC
@group(0) @binding(0) var<storage, read> a: array<vec4<{{T}}>>;
//#else
@group(0) @binding(0) var<storage, read> a: array<{{T}}>;
//#endif
//#if B_VEC
@group(0) @binding(1) var<storage, read> b: array<vec4<{{T}}>>;
//#else
@group(0) @binding(1) var<storage, read> b: array<{{T}}>;
//#endif
//#if C_VEC
@group(0) @binding(2) var<storage, read_write> c: array<vec4<{{T}}>>;
//#else
@group(0) @binding(2) var<storage, read_write> c: array<{{T}}>;
//#endif
@group(1) @binding(0) var<uniform> p: Params;

{{EPILOGUE}}

const SIDE = {{SIDE}}u;
const BK = {{BK}}u;
// vec4s in a row of a stage, and in a stage.
const ROW = SIDE / 4u;
const STAGE = BK * ROW;
// vec4s along k of a stage.
const DEEP = BK / 4u;

// Two stages: a row for each step of k, SIDE elements each. Row k keeps vec4 i at i ^ (k / 4 * 4), so that writes along k hit different banks.
var<workgroup> tile_a: array<vec4<{{T}}>, {{STAGES}}>;
var<workgroup> tile_b: array<vec4<{{T}}>, {{STAGES}}>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let group = wid.x + wid.y * num.x;
    if group >= p.groups {
        return;
    }
    // Tiles in strips of 8 rows of tiles, so that neighbours share what they read.
    let tiles = p.tiles_m * p.tiles_n;
    let tile = group % tiles;
    let slice = group / tiles;
    let batch = slice % p.batches;
    let strip = tile / (8u * p.tiles_n);
    let in_strip = tile % (8u * p.tiles_n);
    let height = min(p.tiles_m - strip * 8u, 8u);
    let m0 = (strip * 8u + in_strip % height) * SIDE;
    let n0 = (in_strip / height) * SIDE;
    let i3 = batch % p.size_3;
    let i2 = batch / p.size_3 % p.size_2;
    let i1 = batch / p.size_3 / p.size_2 % p.size_1;
    let i0 = batch / p.size_3 / p.size_2 / p.size_1;
    let a_start = p.a_offset + i0 * p.a_0 + i1 * p.a_1 + i2 * p.a_2 + i3 * p.a_3;
    let b_start = p.b_offset + i0 * p.b_0 + i1 * p.b_1 + i2 * p.b_2 + i3 * p.b_3;
    let k_first = (slice / p.batches) * p.part;
    let k_end = min(k_first + p.part, p.k);

    // The four elements of each tile that this invocation fetches: neighbours along the contiguous axis.
//#if A_K
    let a_i = lid / DEEP;
    let a_k = (lid % DEEP) * 4u;
//#else
    let a_i = (lid % ROW) * 4u;
    let a_k = lid / ROW;
//#endif
//#if B_K
    let b_j = lid / DEEP;
    let b_k = (lid % DEEP) * 4u;
//#else
    let b_j = (lid % ROW) * 4u;
    let b_k = lid / ROW;
//#endif
    let a_place = a_k * ROW + ((a_i / 4u) ^ (a_k / 4u * 4u));
    let b_place = b_k * ROW + ((b_j / 4u) ^ (b_k / 4u * 4u));

    let tx = lid % 16u;
    let ty = lid / 16u;
{{ACCUMULATORS}}

    var half = 0u;
    // One round more than there are stages: round r fetches stage r and multiplies stage r - 1.
    for (var k0 = k_first; k0 < k_end + BK; k0 += BK) {
        var va = vec4<{{T}}>();
        var vb = vec4<{{T}}>();
//#if A_VEC
        if m0 + a_i < p.m && k0 + a_k < k_end {
            va = a[(a_start + (m0 + a_i) * p.a_row + (k0 + a_k) * p.a_col) / 4u];
        }
//#else
        for (var e = 0u; e < 4u; e += 1u) {
//#if A_K
            let i = m0 + a_i;
            let k = k0 + a_k + e;
//#else
            let i = m0 + a_i + e;
            let k = k0 + a_k;
//#endif
            if i < p.m && k < k_end {
                va[e] = a[a_start + i * p.a_row + k * p.a_col];
            }
        }
//#endif
//#if B_VEC
        if n0 + b_j < p.n && k0 + b_k < k_end {
            vb = b[(b_start + (n0 + b_j) * p.b_col + (k0 + b_k) * p.b_row) / 4u];
        }
//#else
        for (var e = 0u; e < 4u; e += 1u) {
//#if B_K
            let j = n0 + b_j;
            let k = k0 + b_k + e;
//#else
            let j = n0 + b_j + e;
            let k = k0 + b_k;
//#endif
            if j < p.n && k < k_end {
                vb[e] = b[b_start + j * p.b_col + k * p.b_row];
            }
        }
//#endif
        if k0 > k_first {
            let from_stage = (1u - half) * STAGE;
            for (var k = 0u; k < BK; k += 1u) {
                let row = from_stage + k * ROW;
                let turn = k / 4u * 4u;
                let at_a = row + (ty ^ turn);
                let at_b = row + (tx ^ turn);
{{MULTIPLY}}
            }
        }
        let stage = half * STAGE;
//#if A_K
        let a_lane = a_i % 4u;
        tile_a[stage + a_place][a_lane] = va.x;
        tile_a[stage + a_place + ROW][a_lane] = va.y;
        tile_a[stage + a_place + 2u * ROW][a_lane] = va.z;
        tile_a[stage + a_place + 3u * ROW][a_lane] = va.w;
//#else
        tile_a[stage + a_place] = va;
//#endif
//#if B_K
        let b_lane = b_j % 4u;
        tile_b[stage + b_place][b_lane] = vb.x;
        tile_b[stage + b_place + ROW][b_lane] = vb.y;
        tile_b[stage + b_place + 2u * ROW][b_lane] = vb.z;
        tile_b[stage + b_place + 3u * ROW][b_lane] = vb.w;
//#else
        tile_b[stage + b_place] = vb;
//#endif
        workgroupBarrier();
        half = 1u - half;
    }

    // By row of results, then by block of columns.
    var acc = {{RESULTS}};
    const R = SIDE / 64u;
    for (var i = 0u; i < 4u * R; i += 1u) {
        let row = m0 + i / 4u * 64u + ty * 4u + i % 4u;
        for (var j = 0u; j < R; j += 1u) {
            let col = n0 + j * 64u + tx * 4u;
            let sums = acc[i * R + j];
            let at = (slice * p.m + row) * p.n + col;
//#if C_VEC
            if row < p.m && col < p.n {
                c[at / 4u] = vec4(epilogue(sums.x, at), epilogue(sums.y, at + 1u), epilogue(sums.z, at + 2u), epilogue(sums.w, at + 3u));
            }
//#else
            for (var e = 0u; e < 4u; e += 1u) {
                if row < p.m && col + e < p.n {
                    c[at + e] = epilogue(sums[e], at + e);
                }
            }
//#endif
        }
    }
}

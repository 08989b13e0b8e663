// C = A · B in tiles of 64×64, 16 steps of k at a time through workgroup memory, 4×4 results a thread. The strides say how the matrices
// lie; A_K (B_K) is defined where A (B) is contiguous along k, A_VEC (B_VEC) where whole vec4s can be loaded.
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
@group(0) @binding(2) var<storage, read_write> c: array<{{T}}>;
@group(1) @binding(0) var<uniform> p: Params;

{{EPILOGUE}}

// 16 rows (one a step of k) of 64, padded so that writes along k hit different banks.
var<workgroup> tile_a: array<{{T}}, 1056>;
var<workgroup> tile_b: array<{{T}}, 1056>;

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
    let m0 = (strip * 8u + in_strip % height) * 64u;
    let n0 = (in_strip / height) * 64u;
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
    let a_i = lid / 4u;
    let a_k = (lid % 4u) * 4u;
//#else
    let a_i = (lid % 16u) * 4u;
    let a_k = lid / 16u;
//#endif
//#if B_K
    let b_j = lid / 4u;
    let b_k = (lid % 4u) * 4u;
//#else
    let b_j = (lid % 16u) * 4u;
    let b_k = lid / 16u;
//#endif

    let tx = lid % 16u;
    let ty = lid / 16u;
    var acc_0 = vec4<{{T}}>();
    var acc_1 = vec4<{{T}}>();
    var acc_2 = vec4<{{T}}>();
    var acc_3 = vec4<{{T}}>();

    for (var k0 = k_first; k0 < k_end; k0 += 16u) {
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
        workgroupBarrier();
//#if A_K
        tile_a[a_k * 66u + a_i] = va.x;
        tile_a[(a_k + 1u) * 66u + a_i] = va.y;
        tile_a[(a_k + 2u) * 66u + a_i] = va.z;
        tile_a[(a_k + 3u) * 66u + a_i] = va.w;
//#else
        tile_a[a_k * 66u + a_i] = va.x;
        tile_a[a_k * 66u + a_i + 1u] = va.y;
        tile_a[a_k * 66u + a_i + 2u] = va.z;
        tile_a[a_k * 66u + a_i + 3u] = va.w;
//#endif
//#if B_K
        tile_b[b_k * 66u + b_j] = vb.x;
        tile_b[(b_k + 1u) * 66u + b_j] = vb.y;
        tile_b[(b_k + 2u) * 66u + b_j] = vb.z;
        tile_b[(b_k + 3u) * 66u + b_j] = vb.w;
//#else
        tile_b[b_k * 66u + b_j] = vb.x;
        tile_b[b_k * 66u + b_j + 1u] = vb.y;
        tile_b[b_k * 66u + b_j + 2u] = vb.z;
        tile_b[b_k * 66u + b_j + 3u] = vb.w;
//#endif
        workgroupBarrier();
        for (var k = 0u; k < 16u; k += 1u) {
            let row = k * 66u;
            let vec_b = vec4(tile_b[row + tx], tile_b[row + tx + 16u], tile_b[row + tx + 32u], tile_b[row + tx + 48u]);
            acc_0 += tile_a[row + ty] * vec_b;
            acc_1 += tile_a[row + ty + 16u] * vec_b;
            acc_2 += tile_a[row + ty + 32u] * vec_b;
            acc_3 += tile_a[row + ty + 48u] * vec_b;
        }
    }

    var acc = array<vec4<{{T}}>, 4>(acc_0, acc_1, acc_2, acc_3);
    for (var i = 0u; i < 4u; i += 1u) {
        let row = m0 + ty + 16u * i;
        for (var j = 0u; j < 4u; j += 1u) {
            let col = n0 + tx + 16u * j;
            if row < p.m && col < p.n {
                let at = (slice * p.m + row) * p.n + col;
                c[at] = epilogue(acc[i][j], at);
            }
        }
    }
}

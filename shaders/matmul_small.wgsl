// C = A · B in tiles of 16 × 16, one result an invocation, 16 steps of k at a time through workgroup memory: for products with so few results that
// tiles of 64 would leave most of a card idle. While one stage is multiplied the next one is on its way, as in matmul.wgsl. The strides are data,
// so that one text serves every layout.
struct Params {
    m: u32, n: u32, k: u32,
    tiles_m: u32, tiles_n: u32, groups: u32,
    a_offset: u32, a_row: u32, a_col: u32,
    b_offset: u32, b_row: u32, b_col: u32,
    // Batch axes: the sizes of the last three of four, and the strides of all.
    size_1: u32, size_2: u32, size_3: u32,
    a_0: u32, a_1: u32, a_2: u32, a_3: u32,
    b_0: u32, b_1: u32, b_2: u32, b_3: u32,
{{EPILOGUE_FIELDS}}
}

@group(0) @binding(0) var<storage, read> a: array<{{T}}>;
@group(0) @binding(1) var<storage, read> b: array<{{T}}>;
@group(0) @binding(2) var<storage, read_write> c: array<{{T}}>;
@group(1) @binding(0) var<uniform> p: Params;

{{EPILOGUE}}

// Rows of 17, so that neighbours along either axis are in different banks.
var<workgroup> tile_a: array<{{T}}, 544>;
var<workgroup> tile_b: array<{{T}}, 544>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let group = wid.x + wid.y * num.x;
    if group >= p.groups {
        return;
    }
    let tiles = p.tiles_m * p.tiles_n;
    let batch = group / tiles;
    let m0 = group % tiles / p.tiles_n * 16u;
    let n0 = group % p.tiles_n * 16u;
    let i3 = batch % p.size_3;
    let i2 = batch / p.size_3 % p.size_2;
    let i1 = batch / p.size_3 / p.size_2 % p.size_1;
    let i0 = batch / p.size_3 / p.size_2 / p.size_1;
    let a_start = p.a_offset + i0 * p.a_0 + i1 * p.a_1 + i2 * p.a_2 + i3 * p.a_3;
    let b_start = p.b_offset + i0 * p.b_0 + i1 * p.b_1 + i2 * p.b_2 + i3 * p.b_3;

    // What this invocation fetches of each stage: neighbours along the axis of stride 1.
    let fast = lid % 16u;
    let slow = lid / 16u;
    let a_i = select(fast, slow, p.a_col == 1u);
    let a_k = select(slow, fast, p.a_col == 1u);
    let b_j = select(fast, slow, p.b_row == 1u);
    let b_k = select(slow, fast, p.b_row == 1u);
    let a_at = a_start + (m0 + a_i) * p.a_row + a_k * p.a_col;
    let b_at = b_start + (n0 + b_j) * p.b_col + b_k * p.b_row;
    var sum = {{T}}();
    var half = 0u;
    for (var k0 = 0u; k0 < p.k + 16u; k0 += 16u) {
        var va = {{T}}();
        var vb = {{T}}();
        if m0 + a_i < p.m && k0 + a_k < p.k {
            va = a[a_at + k0 * p.a_col];
        }
        if n0 + b_j < p.n && k0 + b_k < p.k {
            vb = b[b_at + k0 * p.b_row];
        }
        if k0 > 0u {
            let at_a = (1u - half) * 272u + slow;
            let at_b = (1u - half) * 272u + fast;
            for (var k = 0u; k < 272u; k += 17u) {
                sum += tile_a[at_a + k] * tile_b[at_b + k];
            }
        }
        tile_a[half * 272u + a_k * 17u + a_i] = va;
        tile_b[half * 272u + b_k * 17u + b_j] = vb;
        workgroupBarrier();
        half = 1u - half;
    }
    let row = m0 + slow;
    let col = n0 + fast;
    if row < p.m && col < p.n {
        let at = (batch * p.m + row) * p.n + col;
        c[at] = epilogue(sum, at);
    }
}

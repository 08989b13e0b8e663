// C = A · B where A has at most four rows: COLS columns a workgroup, SLICES invocations along k for each, summed as a tree. A product with
// at most four columns comes here transposed. B_K is defined where B is contiguous along k: then neighbours walk along k.
struct Params {
    m: u32, n: u32, k: u32,
    tiles: u32, groups: u32, batches: u32,
    a_offset: u32, a_row: u32, a_col: u32,
    b_offset: u32, b_row: u32, b_col: u32,
    c_row: u32, c_col: u32,
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

//#if B_K
const COLS = 4u;
const SLICES = 64u;
//#else
const COLS = 32u;
const SLICES = 8u;
//#endif

var<workgroup> sums: array<vec4<{{T}}>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let group = wid.x + wid.y * num.x;
    if group >= p.groups {
        return;
    }
//#if B_K
    let slice = lid % SLICES;
    let place_in_tile = lid / SLICES;
//#else
    let slice = lid / COLS;
    let place_in_tile = lid % COLS;
//#endif
    let batch = group / p.tiles;
    let col = (group % p.tiles) * COLS + place_in_tile;
    let i3 = batch % p.size_3;
    let i2 = batch / p.size_3 % p.size_2;
    let i1 = batch / p.size_3 / p.size_2 % p.size_1;
    let i0 = batch / p.size_3 / p.size_2 / p.size_1;
    let a_start = p.a_offset + i0 * p.a_0 + i1 * p.a_1 + i2 * p.a_2 + i3 * p.a_3;
    let b_start = p.b_offset + i0 * p.b_0 + i1 * p.b_1 + i2 * p.b_2 + i3 * p.b_3 + min(col, p.n - 1u) * p.b_col;
    let r1 = min(1u, p.m - 1u) * p.a_row;
    let r2 = min(2u, p.m - 1u) * p.a_row;
    let r3 = min(3u, p.m - 1u) * p.a_row;
    var sum = vec4<{{T}}>();
    for (var k = slice; k < p.k; k += SLICES) {
        let at = a_start + k * p.a_col;
        sum += vec4(a[at], a[at + r1], a[at + r2], a[at + r3]) * b[b_start + k * p.b_row];
    }
    let place = slice * COLS + place_in_tile;
    sums[place] = sum;
    workgroupBarrier();
    for (var s = SLICES / 2u; s > 0u; s /= 2u) {
        if slice < s {
            sums[place] += sums[place + s * COLS];
        }
        workgroupBarrier();
    }
    if slice == 0u && col < p.n {
        let total = sums[place];
        for (var r = 0u; r < min(p.m, 4u); r += 1u) {
            let at = batch * p.m * p.n + r * p.c_row + col * p.c_col;
            c[at] = epilogue(total[r], at);
        }
    }
}

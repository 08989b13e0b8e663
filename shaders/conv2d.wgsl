// A 2-D convolution (FORWARD) or one of its gradients (INPUT_GRAD, WEIGHT_GRAD) as a product C = A · B in tiles of 64×64, 16 steps of k at a
// time; the matrices are not there: each tile's elements are fetched from the images by index. One product a group of channels.
//
//              rows            columns        k              A             B
// FORWARD      o               (n, y, x) out  (c, u, v)      weight        input
// INPUT_GRAD   c               (n, y, x) in   (o, u, v)      weight        output's gradient
// WEIGHT_GRAD  o               (c, u, v)      (n, y, x) out  gradient      input
struct Params {
    rows: u32, cols: u32, depth: u32,
    tiles_m: u32, tiles_n: u32, groups: u32,
    // The length of the part of k that one workgroup sums (a multiple of 16), and the results of one part.
    part: u32, results: u32,
    c: u32, o: u32, channel_groups: u32,
    h: u32, w: u32, kh: u32, kw: u32, oh: u32, ow: u32,
    stride_h: u32, stride_w: u32, pad_h: u32, pad_w: u32, dil_h: u32, dil_w: u32,
{{EPILOGUE_FIELDS}}
}

@group(0) @binding(0) var<storage, read> in_0: array<f32>;
@group(0) @binding(1) var<storage, read> in_1: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

{{EPILOGUE}}

var<workgroup> tile_a: array<f32, 1056>;
var<workgroup> tile_b: array<f32, 1056>;

// An index as (leading, second, last) of axes [.., n, m].
fn split(i: u32, n: u32, m: u32) -> vec3<u32> {
    let q = i / m;
    return vec3(q / n, q % n, i % m);
}

// The input pixel under tap (u, v) of output pixel (y, x): beyond the image where it lies outside (unsigned, so it may wrap).
fn tap_in(y: u32, x: u32, u: u32, v: u32) -> vec2<u32> {
    return vec2(y * p.stride_h + u * p.dil_h - p.pad_h, x * p.stride_w + v * p.dil_w - p.pad_w);
}

fn fetch_a(group: u32, row: u32, k: u32) -> f32 {
//#if FORWARD
    return in_1[(group * p.o + row) * p.depth + k];
//#endif
//#if INPUT_GRAD
    let taps = p.kh * p.kw;
    return in_1[((group * p.o + k / taps) * p.c + row) * taps + k % taps];
//#endif
//#if WEIGHT_GRAD
    let pixels = p.oh * p.ow;
    return in_1[((k / pixels * p.channel_groups + group) * p.o + row) * pixels + k % pixels];
//#endif
}

// `col` is the column taken apart already.
fn fetch_b(group: u32, col: vec3<u32>, k: u32) -> f32 {
//#if FORWARD
    let t = split(k, p.kh, p.kw);
    let at = tap_in(col.y, col.z, t.y, t.z);
    if at.x >= p.h || at.y >= p.w {
        return 0.0;
    }
    return in_0[(((col.x * p.channel_groups + group) * p.c + t.x) * p.h + at.x) * p.w + at.y];
//#endif
//#if INPUT_GRAD
    let t = split(k, p.kh, p.kw);
    let y = col.y + p.pad_h;
    let x = col.z + p.pad_w;
    let u = t.y * p.dil_h;
    let v = t.z * p.dil_w;
    if y < u || x < v || (y - u) % p.stride_h != 0u || (x - v) % p.stride_w != 0u {
        return 0.0;
    }
    let oy = (y - u) / p.stride_h;
    let ox = (x - v) / p.stride_w;
    if oy >= p.oh || ox >= p.ow {
        return 0.0;
    }
    return in_0[(((col.x * p.channel_groups + group) * p.o + t.x) * p.oh + oy) * p.ow + ox];
//#endif
//#if WEIGHT_GRAD
    let t = split(k, p.oh, p.ow);
    let at = tap_in(t.y, t.z, col.y, col.z);
    if at.x >= p.h || at.y >= p.w {
        return 0.0;
    }
    return in_0[(((t.x * p.channel_groups + group) * p.c + col.x) * p.h + at.x) * p.w + at.y];
//#endif
}

// A column as the two sizes below its leading axis.
fn take_apart(col: u32) -> vec3<u32> {
//#if FORWARD
    return split(col, p.oh, p.ow);
//#endif
//#if INPUT_GRAD
    return split(col, p.h, p.w);
//#endif
//#if WEIGHT_GRAD
    return split(col, p.kh, p.kw);
//#endif
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let id = wid.x + wid.y * num.x;
    if id >= p.groups {
        return;
    }
    let tiles = p.tiles_m * p.tiles_n;
    let tile = id % tiles;
    let group = id / tiles % p.channel_groups;
    let part = id / tiles / p.channel_groups;
    let m0 = (tile % p.tiles_m) * 64u;
    let n0 = (tile / p.tiles_m) * 64u;
    let k_first = part * p.part;
    let k_end = min(k_first + p.part, p.depth);

    // What this invocation fetches: four neighbours along k of A, and four elements of one column of B.
    let a_i = lid / 4u;
    let a_k = (lid % 4u) * 4u;
//#if WEIGHT_GRAD
    let b_j = lid / 4u;
    let b_k = (lid % 4u) * 4u;
    let b_step = 1u;
//#else
    let b_j = lid % 64u;
    let b_k = lid / 64u;
    let b_step = 4u;
//#endif
    let col = take_apart(min(n0 + b_j, p.cols - 1u));
    let row_here = m0 + a_i < p.rows;
    let col_here = n0 + b_j < p.cols;

    let tx = lid % 16u;
    let ty = lid / 16u;
    var acc_0 = vec4<f32>();
    var acc_1 = vec4<f32>();
    var acc_2 = vec4<f32>();
    var acc_3 = vec4<f32>();
    for (var k0 = k_first; k0 < k_end; k0 += 16u) {
        var va = vec4<f32>();
        var vb = vec4<f32>();
        for (var e = 0u; e < 4u; e += 1u) {
            let k = k0 + a_k + e;
            if row_here && k < k_end {
                va[e] = fetch_a(group, m0 + a_i, k);
            }
            let l = k0 + b_k + e * b_step;
            if col_here && l < k_end {
                vb[e] = fetch_b(group, col, l);
            }
        }
        workgroupBarrier();
        for (var e = 0u; e < 4u; e += 1u) {
            tile_a[(a_k + e) * 66u + a_i] = va[e];
            tile_b[(b_k + e * b_step) * 66u + b_j] = vb[e];
        }
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

    var acc = array<vec4<f32>, 4>(acc_0, acc_1, acc_2, acc_3);
    for (var j = 0u; j < 4u; j += 1u) {
        let column = n0 + tx + 16u * j;
        for (var i = 0u; i < 4u; i += 1u) {
            let row = m0 + ty + 16u * i;
            if row < p.rows && column < p.cols {
//#if WEIGHT_GRAD
                let at = part * p.results + (group * p.rows + row) * p.cols + column;
//#else
//#if FORWARD
                let pixels = p.oh * p.ow;
//#else
                let pixels = p.h * p.w;
//#endif
                let at = part * p.results
                    + ((column / pixels * p.channel_groups + group) * p.rows + row) * pixels + column % pixels;
//#endif
                out[at] = epilogue(acc[i][j], at);
            }
        }
    }
}

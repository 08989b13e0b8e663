// Patches of images as columns (UNFOLD), and their sum back into images (FOLD); one result an invocation.
struct Params {
    results: u32,
    h: u32, w: u32, kh: u32, kw: u32, oh: u32, ow: u32,
    stride_h: u32, stride_w: u32, pad_h: u32, pad_w: u32, dil_h: u32, dil_w: u32,
}

@group(0) @binding(0) var<storage, read> source: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = (wid.x + wid.y * num.x) * 256u + lid;
    if at >= p.results {
        return;
    }
//#if UNFOLD
    let ox = at % p.ow;
    let oy = at / p.ow % p.oh;
    let row = at / p.ow / p.oh;
    let v = row % p.kw;
    let u = row / p.kw % p.kh;
    let plane = row / p.kw / p.kh;
    // Unsigned: what lies before the image wraps and is beyond it too.
    let y = oy * p.stride_h + u * p.dil_h - p.pad_h;
    let x = ox * p.stride_w + v * p.dil_w - p.pad_w;
    var value = 0.0;
    if y < p.h && x < p.w {
        value = source[(plane * p.h + y) * p.w + x];
    }
    out[at] = value;
//#endif
//#if FOLD
    let x = at % p.w + p.pad_w;
    let y = at / p.w % p.h + p.pad_h;
    let plane = at / p.w / p.h;
    var sum = 0.0;
    for (var u = 0u; u < p.kh; u += 1u) {
        let ty = u * p.dil_h;
        if y < ty || (y - ty) % p.stride_h != 0u || (y - ty) / p.stride_h >= p.oh {
            continue;
        }
        for (var v = 0u; v < p.kw; v += 1u) {
            let tx = v * p.dil_w;
            if x >= tx && (x - tx) % p.stride_w == 0u && (x - tx) / p.stride_w < p.ow {
                let row = (plane * p.kh + u) * p.kw + v;
                sum += source[(row * p.oh + (y - ty) / p.stride_h) * p.ow + (x - tx) / p.stride_w];
            }
        }
    }
    out[at] = sum;
//#endif
}

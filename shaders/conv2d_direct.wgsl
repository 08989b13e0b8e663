// Convolutions with few channels a group (depthwise ones above all): FORWARD and INPUT_GRAD compute one result an invocation, WEIGHT_GRAD one
// a workgroup.
struct Params {
    results: u32,
    n: u32, c: u32, o: u32, channel_groups: u32,
    h: u32, w: u32, kh: u32, kw: u32, oh: u32, ow: u32,
    stride_h: u32, stride_w: u32, pad_h: u32, pad_w: u32, dil_h: u32, dil_w: u32,
{{EPILOGUE_FIELDS}}
}

@group(0) @binding(0) var<storage, read> in_0: array<f32>;
@group(0) @binding(1) var<storage, read> in_1: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(1) @binding(0) var<uniform> p: Params;

{{EPILOGUE}}

//#if WEIGHT_GRAD
var<workgroup> sums: array<f32, 256>;
//#endif

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let id = wid.x + wid.y * num.x;
//#if FORWARD
    let at = id * 256u + lid;
    if at >= p.results {
        return;
    }
    let x = at % p.ow;
    let y = at / p.ow % p.oh;
    let channel = at / p.ow / p.oh % (p.o * p.channel_groups);
    let image = at / p.ow / p.oh / (p.o * p.channel_groups);
    let group = channel / p.o;
    var sum = 0.0;
    for (var c = 0u; c < p.c; c += 1u) {
        let plane = ((image * p.channel_groups + group) * p.c + c) * p.h;
        for (var u = 0u; u < p.kh; u += 1u) {
            let iy = y * p.stride_h + u * p.dil_h - p.pad_h;
            if iy >= p.h {
                continue;
            }
            let taps = ((channel * p.c + c) * p.kh + u) * p.kw;
            for (var v = 0u; v < p.kw; v += 1u) {
                let ix = x * p.stride_w + v * p.dil_w - p.pad_w;
                if ix < p.w {
                    sum += in_0[(plane + iy) * p.w + ix] * in_1[taps + v];
                }
            }
        }
    }
    out[at] = epilogue(sum, at);
//#endif
//#if INPUT_GRAD
    let at = id * 256u + lid;
    if at >= p.results {
        return;
    }
    let x = at % p.w + p.pad_w;
    let y = at / p.w % p.h + p.pad_h;
    let channel = at / p.w / p.h % (p.c * p.channel_groups);
    let image = at / p.w / p.h / (p.c * p.channel_groups);
    let group = channel / p.c;
    var sum = 0.0;
    for (var o = 0u; o < p.o; o += 1u) {
        let plane = ((image * p.channel_groups + group) * p.o + o) * p.oh;
        for (var u = 0u; u < p.kh; u += 1u) {
            let ty = u * p.dil_h;
            if y < ty || (y - ty) % p.stride_h != 0u || (y - ty) / p.stride_h >= p.oh {
                continue;
            }
            let oy = (y - ty) / p.stride_h;
            let taps = (((group * p.o + o) * p.c + channel % p.c) * p.kh + u) * p.kw;
            for (var v = 0u; v < p.kw; v += 1u) {
                let tx = v * p.dil_w;
                if x >= tx && (x - tx) % p.stride_w == 0u && (x - tx) / p.stride_w < p.ow {
                    sum += in_0[(plane + oy) * p.ow + (x - tx) / p.stride_w] * in_1[taps + v];
                }
            }
        }
    }
    out[at] = epilogue(sum, at);
//#endif
//#if WEIGHT_GRAD
    if id >= p.results {
        return;
    }
    let v = id % p.kw;
    let u = id / p.kw % p.kh;
    let c = id / p.kw / p.kh % p.c;
    let channel = id / p.kw / p.kh / p.c;
    let group = channel / p.o;
    let pixels = p.oh * p.ow;
    var sum = 0.0;
    for (var k = lid; k < p.n * pixels; k += 256u) {
        let image = k / pixels;
        let pixel = k % pixels;
        let iy = pixel / p.ow * p.stride_h + u * p.dil_h - p.pad_h;
        let ix = pixel % p.ow * p.stride_w + v * p.dil_w - p.pad_w;
        if iy < p.h && ix < p.w {
            sum += in_0[(((image * p.channel_groups + group) * p.c + c) * p.h + iy) * p.w + ix]
                * in_1[(image * p.channel_groups * p.o + channel) * pixels + pixel];
        }
    }
    sums[lid] = sum;
    workgroupBarrier();
    for (var s = 128u; s > 0u; s /= 2u) {
        if lid < s {
            sums[lid] += sums[lid + s];
        }
        workgroupBarrier();
    }
    if lid == 0u {
        out[id] = epilogue(sums[0], id);
    }
//#endif
}

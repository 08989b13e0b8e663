// Sorts blocks of BLOCK elements of each row in workgroup memory (a bitonic network on pairs of key and position, so: stable). With LAST
// a row is one block, and the first `keep` go to the outputs; else keys and positions go on to be merged.
struct Params { n: u32, blocks: u32, size: u32, keep: u32 }

@group(0) @binding(0) var<storage, read> src: array<u32>;
// With LAST values and positions, else keys and positions.
@group(0) @binding(1) var<storage, read_write> first: array<u32>;
@group(0) @binding(2) var<storage, read_write> second: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

var<workgroup> keys: array<u32, {{BLOCK}}>;
var<workgroup> places: array<u32, {{BLOCK}}>;

@compute @workgroup_size({{THREADS}})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let group = wid.x + wid.y * num.x;
    if (group >= p.n) { return; }
    let row = group / p.blocks;
    let base = (group % p.blocks) * {{BLOCK}}u;
    for (var t = lid; t < {{BLOCK}}u; t += {{THREADS}}u) {
        let at = base + t;
        // What fills the block up sorts behind everything.
        var k = 0xffffffffu;
        var q = 0xffffffffu;
        if (at < p.size) {
            k = key_of(src[row * p.size + at]);
            q = at;
        }
        keys[t] = k;
        places[t] = q;
    }
    workgroupBarrier();
    for (var span = 2u; span <= {{BLOCK}}u; span = span << 1u) {
        for (var step = span >> 1u; step > 0u; step = step >> 1u) {
            for (var e = lid; e < {{BLOCK}}u / 2u; e += {{THREADS}}u) {
                let a = 2u * e - (e & (step - 1u));
                let b = a + step;
                let ka = keys[a];
                let kb = keys[b];
                let qa = places[a];
                let qb = places[b];
                let after = ka > kb || (ka == kb && qa > qb);
                if (after == ((a & span) == 0u)) {
                    keys[a] = kb;
                    keys[b] = ka;
                    places[a] = qb;
                    places[b] = qa;
                }
            }
            workgroupBarrier();
        }
    }
    for (var t = lid; t < {{BLOCK}}u; t += {{THREADS}}u) {
        let at = base + t;
        //#if LAST
        if (at < p.keep) {
            first[row * p.keep + at] = src[row * p.size + places[t]];
            second[row * p.keep + at] = places[t];
        }
        //#else
        if (at < p.size) {
            first[row * p.size + at] = keys[t];
            second[row * p.size + at] = places[t];
        }
        //#endif
    }
}

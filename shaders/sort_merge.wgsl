// Merges neighbouring sorted runs of `run` elements in each row: an element goes to its place in its own run plus the number of elements
// of the other run before it (of equal ones the left run's come first). Past the first `keep` of a run nothing is needed. With LAST the
// result goes to the outputs.
struct Params { n: u32, size: u32, run: u32, keep: u32 }

@group(0) @binding(0) var<storage, read> keys: array<u32>;
@group(0) @binding(1) var<storage, read> places: array<u32>;
//#if LAST
@group(0) @binding(2) var<storage, read> src: array<u32>;
@group(0) @binding(3) var<storage, read_write> values: array<u32>;
@group(0) @binding(4) var<storage, read_write> indices: array<u32>;
//#else
@group(0) @binding(2) var<storage, read_write> keys_out: array<u32>;
@group(0) @binding(3) var<storage, read_write> places_out: array<u32>;
//#endif
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) num: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.x + wid.y * num.x) * 256u + lid;
    if (i >= p.n) { return; }
    let row = i / p.size;
    let at = i % p.size;
    let own = at % p.run;
    if (own >= p.keep) { return; }
    let left = at - at % (2u * p.run);
    let middle = min(left + p.run, p.size);
    let in_left = at < middle;
    let key = keys[i];
    // The other run's live part, in which [lo, hi) closes on the first element that comes after this one.
    var lo = select(left, middle, in_left);
    let other = lo;
    let other_end = select(middle, min(left + 2u * p.run, p.size), in_left);
    var hi = min(other_end, other + p.keep);
    for (var round = 0u; round < 32u; round++) {
        if (lo >= hi) { break; }
        let mid = (lo + hi) / 2u;
        let k = keys[row * p.size + mid];
        if (k < key || (k == key && !in_left)) { lo = mid + 1u; } else { hi = mid; }
    }
    let rank = own + lo - other;
    if (rank >= p.keep) { return; }
    //#if LAST
    values[row * p.keep + rank] = src[row * p.size + places[i]];
    indices[row * p.keep + rank] = places[i];
    //#else
    keys_out[row * p.size + left + rank] = key;
    places_out[row * p.size + left + rank] = places[i];
    //#endif
}

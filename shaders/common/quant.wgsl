// A quantised weight, row by row: codes[e] stands for element e of it. Int8: four signed bytes in a word, a scale per row. NF4: eight codes in a word, the
// first of each byte in its high half, and a scale per block; with NESTED, four codes of scales in a word.
//#if NF4
var<workgroup> book: array<f32, 16>;

fn open_book(lid: u32) {
    if lid < 16u {
        var values = array<f32, 16>({{BOOK}});
        book[lid] = values[lid];
    }
    workgroupBarrier();
}
//#endif

fn scale_of(e: u32) -> f32 {
//#if NF4
    let b = e / {{BLOCK}}u;
//#if NESTED
    let code = (scales[b / 4u] >> (b % 4u * 8u)) & 255u;
    return map[code] * outer[(b + p.first_block) / {{OUTER}}u] + p.offset;
//#else
    return scales[b];
//#endif
//#else
    return scales[e / p.k] * {{INT8}};
//#endif
}

// Element e.
fn weight(e: u32) -> f32 {
//#if NF4
    let shift = e / 2u % 4u * 8u + (1u - e % 2u) * 4u;
    return book[(codes[e / 8u] >> shift) & 15u] * scale_of(e);
//#else
    return f32(i32(codes[e / 4u] << (24u - e % 4u * 8u)) >> 24u) * scale_of(e);
//#endif
}

// Four elements from e on, a multiple of four, in one row and one block.
fn weights(e: u32) -> vec4<f32> {
//#if NF4
    let w = codes[e / 8u] >> (e / 4u % 2u * 16u);
    return vec4(book[(w >> 4u) & 15u], book[w & 15u], book[(w >> 12u) & 15u], book[(w >> 8u) & 15u]) * scale_of(e);
//#else
    let w = codes[e / 4u];
    return vec4(f32(i32(w << 24u) >> 24u), f32(i32(w << 16u) >> 24u), f32(i32(w << 8u) >> 24u), f32(i32(w) >> 24u)) * scale_of(e);
//#endif
}

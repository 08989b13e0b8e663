// An unsigned integer that sorts as the element does.
fn key_of(bits: u32) -> u32 {
    var k = bits;
    //#if FLOAT
    if (k == 0x80000000u) { k = 0u; }
    if ((k & 0x7fffffffu) > 0x7f800000u) {
        k = 0xffffffffu;
    } else if ((k >> 31u) == 1u) {
        k = ~k;
    } else {
        k = k | 0x80000000u;
    }
    //#endif
    //#if SIGNED
    k = k ^ 0x80000000u;
    //#endif
    //#if DESCENDING
    k = ~k;
    //#endif
    return k;
}


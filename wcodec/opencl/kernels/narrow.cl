// Halves that hold whole numbers from -128 to 127 to bytes, 16 a work-item.

kernel void narrow(global const half *restrict from, global char *to) {
    const size_t place = get_global_id(0);
    vstore16(convert_char16_rte(vload_half16(place, from)), place, to);
}

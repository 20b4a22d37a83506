// How many multiplications and additions a device does in a second at most: chains of FMAs whose numbers stay in
// registers, and that wait for nothing but themselves.
//
//   NUMBERS   the vectors that are computed with
//   STORE     what puts one of them into memory
//   CHAINS    as many as hide how long one FMA takes, and as have room in the registers

kernel void peak(global float *out, float factor, int rounds) {
    const int id = get_global_id(0);
    const NUMBERS factors = factor;
    NUMBERS sums[CHAINS];
#pragma unroll
    for (int c = 0; c < CHAINS; c++)
        sums[c] = id + c;
    for (int round = 0; round < rounds; round++)
#pragma unroll
        for (int c = 0; c < CHAINS; c++)
            sums[c] = fma(sums[c], factors, factors);
    NUMBERS total = 0;
#pragma unroll
    for (int c = 0; c < CHAINS; c++)
        total += sums[c];
    STORE(total, id, out);
}

// Rows times a matrix packed in blocks of 16 columns, (N / 16, K, 16): ROWS rows and one block a work-item.
//
// Rows are converted to floats CHUNK numbers at a time, and UNROLL sums are kept for each.

#define CHUNK 1024

typedef struct {
    int rows, columns, depth;
} Shape;

kernel void dense(global const X *restrict x, global const W *restrict weight, global const float *scale,
                  global const float *bias, global Y *y, Shape s, Epilogue epilogue, global const Y *other,
                  global const float *slopes, local Real *tile) {
    const int block = get_global_id(0), first = (int)get_global_id(1) * ROWS;
    // several sums for each row: one would wait for itself
    Real16 sums[ROWS][UNROLL];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
            sums[r][u] = 0;
    global const W *w = weight + (long)block * s.depth * 16;
    for (int start = 0; start < s.depth; start += CHUNK) {
        const int count = min(CHUNK, s.depth - start);
        for (int r = 0; r < ROWS; r++) {
            global const X *from = x + (long)min(first + r, s.rows - 1) * s.depth + start;
            int k = 0;
            for (; k + 16 <= count; k += 16)
                vstore16(LOAD16_X(from + k), 0, tile + r * CHUNK + k);
            for (; k < count; k++)
                tile[r * CHUNK + k] = LOAD_X(from + k);
        }
        int k = 0;
        for (; k + UNROLL <= count; k += UNROLL)
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                const Real16 weights = LOAD16_W(w + (long)(start + k + u) * 16);
#pragma unroll
                for (int r = 0; r < ROWS; r++)
                    sums[r][u] = fma((Real16)tile[r * CHUNK + k + u], weights, sums[r][u]);
            }
        for (; k < count; k++) {
            const Real16 weights = LOAD16_W(w + (long)(start + k) * 16);
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                sums[r][0] = fma((Real16)tile[r * CHUNK + k], weights, sums[r][0]);
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int u = 1; u < UNROLL; u++)
            sums[r][0] += sums[r][u];
        vstore16(sums[r][0], r, tile);
    }
    const float16 factor = vload16(block, scale), offset = vload16(block, bias);
    // not unrolled: the program would be ROWS times as long
#pragma unroll 1
    for (int r = 0; r < min(ROWS, s.rows - first); r++) {
        const float16 v = fma(FLOAT16(vload16(r, tile)), factor, offset);
        const long place = (long)(first + r) * s.columns + block * 16;
        const int valid = min(16, s.columns - block * 16);
        put16(finished_some(v, epilogue, other + place, slopes + block * 16, valid), y + place, valid);
    }
}

// Convolution of images computed directly: for devices with many small cores that share local memory.
//
// A work-group of 64 computes 64 places of the result, of 16 * AT_ONCE output channels. It brings the part of 16
// channels of the image that these need into local memory, once for all; each work-item then has four places of four
// channels of every block, and reads weights four at a time. At the end each finishes one place of all channels.
//
//   KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W
//   ROWS, COLUMNS   places of the result that a work-group computes: 64 in all
//   AT_ONCE         blocks of output channels

#define GROUP 64
#define EACH 4
#define TILE_H ((ROWS - 1) * STRIDE_H + (KERNEL_H - 1) * DILATION_H + 1)
#define TILE_W ((COLUMNS - 1) * STRIDE_W + (KERNEL_W - 1) * DILATION_W + 1)

// As in conv.cl.
typedef struct {
    int height, width, out_height, out_width, channels, in_blocks, group_blocks, blocks, top, left;
} Shape;

inline void load_tile(global const X *x, local Real *tile, Shape s, int y0, int x0) {
    for (int n = get_local_id(0); n < TILE_H * TILE_W; n += GROUP) {
        const int y = y0 + n / TILE_W, at = x0 + n % TILE_W;
        Real16 numbers = 0;
        if (y >= 0 && y < s.height && at >= 0 && at < s.width)
            numbers = LOAD16_X(x + ((long)y * s.width + at) * 16);
        vstore16(numbers, n, tile);
    }
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1)))
void conv_tiled(global const X *restrict x, global const W *restrict weight, global const float *scale,
                global const float *bias, global Y *y, Shape s, Epilogue epilogue, global const Y *other,
                global const float *slopes, local Real *tile, local Real *results) {
    const int id = get_local_id(0), quarter = id % 4, strips = (s.out_width + COLUMNS - 1) / COLUMNS;
    const int place = get_group_id(0);
    const int oy = place / strips * ROWS, ox = place % strips * COLUMNS;
    const int shares = (s.group_blocks + AT_ONCE - 1) / AT_ONCE;
    const int group = (int)get_global_id(1) / shares;
    const int first = group * s.group_blocks + (int)get_global_id(1) % shares * AT_ONCE;
    const int end = (group + 1) * s.group_blocks;
    const long image = get_global_id(2), plane = (long)s.height * s.width * 16;
    x += (image * s.in_blocks + group * (s.channels / 16)) * plane;

    int corners[EACH];
    for (int p = 0; p < EACH; p++) {
        const int out = id / 4 + p * (GROUP / 4);
        corners[p] = (out / COLUMNS * STRIDE_H * TILE_W + out % COLUMNS * STRIDE_W) * 16;
    }
    Real4 sums[AT_ONCE][EACH];
    for (int q = 0; q < AT_ONCE; q++)
        for (int p = 0; p < EACH; p++)
            sums[q][p] = 0;
    const long block_size = (long)s.channels * KERNEL_H * KERNEL_W * 16;
    for (int start = 0; start < s.channels; start += 16) {
        barrier(CLK_LOCAL_MEM_FENCE);
        load_tile(x + start / 16 * plane, tile, s, oy * STRIDE_H - s.top, ox * STRIDE_W - s.left);
        barrier(CLK_LOCAL_MEM_FENCE);
        const int count = min(16, s.channels - start);
        for (int c = 0; c < count; c++)
            for (int ky = 0; ky < KERNEL_H; ky++)
#pragma unroll
                for (int kx = 0; kx < KERNEL_W; kx++) {
                    const int at = (ky * DILATION_H * TILE_W + kx * DILATION_W) * 16 + c;
                    Real numbers[EACH];
#pragma unroll
                    for (int p = 0; p < EACH; p++)
                        numbers[p] = tile[corners[p] + at];
#pragma unroll
                    for (int q = 0; q < AT_ONCE; q++) {
                        const long from = min(first + q, end - 1) * block_size
                            + (((long)(start + c) * KERNEL_H + ky) * KERNEL_W + kx) * 16 + quarter * 4;
                        const Real4 weights = LOAD4_W(weight + from);
#pragma unroll
                        for (int p = 0; p < EACH; p++)
                            sums[q][p] = fma((Real4)numbers[p], weights, sums[q][p]);
                    }
                }
    }
    for (int q = 0; q < AT_ONCE; q++) {
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int p = 0; p < EACH; p++)
            vstore4(sums[q][p], (id / 4 + p * (GROUP / 4)) * 4 + quarter, results);
        barrier(CLK_LOCAL_MEM_FENCE);
        const int block = first + q, row = oy + id / COLUMNS, column = ox + id % COLUMNS;
        if (block < end && row < s.out_height && column < s.out_width) {
            const float16 v = fma(FLOAT16(vload16(id, results)), vload16(block, scale), vload16(block, bias));
            const long to = (((image * s.blocks + block) * s.out_height + row) * s.out_width + column) * 16;
            STORE16_Y(REAL16(finished(v, epilogue, other + to, slopes + block * 16)), y + to);
        }
    }
}

// Convolution of images computed directly: for devices whose cores have wide vectors and large caches. Follows direct.cl.
//
// A work-item computes `rows` x COLUMNS places of the result, of some blocks of 16 output channels each. It first
// converts the part of the image that these need to floats, padding included, in a tile of local memory. Then sums of
// 16 channels at COLUMNS places stay in registers. (The scheme of DeepMon, MobiSys 2017, with lanes along output
// channels instead of the input's.)

#define TILE_W ((COLUMNS - 1) * STRIDE_W + (KERNEL_W - 1) * DILATION_W + 1)

// Heights and widths of input and output, channels of a group, blocks of channels of the whole input, of output
// channels in a group and in all, padding above and on the left, how many blocks and rows a work-item computes, and
// how many rows of the input that takes.
typedef struct {
    int height, width, out_height, out_width, channels, in_blocks, group_blocks, blocks, top, left, share, rows;
    int tile_h;
} Shape;

kernel void conv(global const X *restrict x, global const W *restrict weight, global const float *scale,
                 global const float *bias, global Y *y, Shape s, Epilogue epilogue, global const Y *other,
                 global const float *slopes, local Real *tile, local Real *results) {
    const int strips = (s.out_width + COLUMNS - 1) / COLUMNS;
    const int oy = (int)get_global_id(0) / strips * s.rows, ox = (int)get_global_id(0) % strips * COLUMNS;
    const int shares = (s.group_blocks + s.share - 1) / s.share;
    const int group = (int)get_global_id(1) / shares;
    const int first = group * s.group_blocks + (int)get_global_id(1) % shares * s.share;
    const int end = min(first + s.share, (group + 1) * s.group_blocks);
    const int image = get_global_id(2);
#ifdef PLANES
    x += (long)image * s.channels * s.height * s.width;
#else
    x += ((long)image * s.in_blocks + group * (s.channels / 16)) * s.height * s.width * 16;
#endif
    const int y0 = oy * STRIDE_H - s.top, x0 = ox * STRIDE_W - s.left;
    load_tile(x, tile, s.channels, s.height, s.width, s.tile_h, TILE_W, y0, x0);
    const long block_size = (long)s.channels * KERNEL_H * KERNEL_W * 16;
    for (int block = first; block < end; block += AT_ONCE)
        for (int row = 0; row < s.rows && oy + row < s.out_height; row++) {
            // where the last blocks are fewer, the last one is computed again
            long apart[AT_ONCE];
#pragma unroll
            for (int q = 0; q < AT_ONCE; q++)
                apart[q] = min(q, end - 1 - block) * block_size;
            Real16 sums[AT_ONCE][COLUMNS];
            convolve(sums, weight + block * block_size, apart, tile + row * STRIDE_H * TILE_W * PITCH, s.channels,
                     s.tile_h, TILE_W);
#pragma unroll
            for (int q = 0; q < AT_ONCE; q++) {
                if (block + q < end) {
                    const float16 factor = vload16(block + q, scale), offset = vload16(block + q, bias);
                    const long to = (((long)image * s.blocks + block + q) * s.out_height + oy + row) * s.out_width + ox;
                    finish_strip(sums[q], COLUMNS, s.out_width - ox, factor, offset, epilogue, other + to * 16,
                                 slopes + (block + q) * 16, y + to * 16, results);
                }
            }
        }
}

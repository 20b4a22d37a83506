// Convolution of images computed directly: for devices whose cores have wide vectors and large caches.
//
// A work-item computes `rows` x COLUMNS places of the result, of some blocks of 16 output channels each. It first
// converts the part of the image that these need to floats, padding included, in a tile of local memory. Then sums of
// 16 channels at COLUMNS places stay in registers: a weight vector is loaded once for all of them, and the input,
// one number at a time, is the FMA's broadcast operand. (The scheme of DeepMon, MobiSys 2017, with lanes along output
// channels instead of the input's.)
//
//   KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W
//   PLANES    the input is in C order, of few channels
//   COLUMNS   places of a row of the result whose sums are in registers together
//   AT_ONCE   blocks of output channels whose sums are in registers together

#define TILE_W ((COLUMNS - 1) * STRIDE_W + (KERNEL_W - 1) * DILATION_W + 1)

// Heights and widths of input and output, channels of a group, blocks of channels of the whole input, of output
// channels in a group and in all, padding above and on the left, how many blocks and rows a work-item computes, and
// how many rows of the input that takes.
typedef struct {
    int height, width, out_height, out_width, channels, in_blocks, group_blocks, blocks, top, left, share, rows;
    int tile_h;
} Shape;

inline void load_tile(global const X *x, local Real *tile, Shape s, int y0, int x0) {
    const int blocks = (s.channels + 15) / 16;
    for (int block = 0; block < blocks; block++)
        for (int row = 0; row < s.tile_h; row++) {
            const int y = y0 + row;
            local Real *to = tile + (block * s.tile_h + row) * TILE_W * 16;
            const bool inside = y >= 0 && y < s.height;
#ifdef PLANES
            for (int column = 0; column < TILE_W; column++) {
                const int at = x0 + column;
                for (int c = 0; c < s.channels; c++)
                    to[column * 16 + c] = inside && at >= 0 && at < s.width
                        ? LOAD_X(x + ((long)c * s.height + y) * s.width + at) : (Real)0;
            }
#else
            global const X *from = x + ((long)(block * s.height + y) * s.width) * 16;
            for (int column = 0; column < TILE_W; column++) {
                const int at = x0 + column;
                Real16 numbers = 0;
                if (inside && at >= 0 && at < s.width)
                    numbers = LOAD16_X(from + (long)at * 16);
                vstore16(numbers, column, to);
            }
#endif
        }
}

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
    load_tile(x, tile, s, oy * STRIDE_H - s.top, ox * STRIDE_W - s.left);
    const long block_size = (long)s.channels * KERNEL_H * KERNEL_W * 16;
    for (int block = first; block < end; block += AT_ONCE)
        for (int row = 0; row < s.rows && oy + row < s.out_height; row++) {
            Real16 sums[AT_ONCE][COLUMNS];
#pragma unroll
            for (int q = 0; q < AT_ONCE; q++)
#pragma unroll
                for (int p = 0; p < COLUMNS; p++)
                    sums[q][p] = 0;
            global const W *w = weight + block * block_size;
            // where the last blocks are fewer, the last one is computed again
            long apart[AT_ONCE];
#pragma unroll
            for (int q = 0; q < AT_ONCE; q++)
                apart[q] = min(q, end - 1 - block) * block_size;
            for (int c = 0; c < s.channels; c++) {
                local const Real *in = tile + (c / 16 * s.tile_h + row * STRIDE_H) * TILE_W * 16 + c % 16;
                for (int ky = 0; ky < KERNEL_H; ky++) {
#pragma unroll
                    for (int kx = 0; kx < KERNEL_W; kx++) {
                        Real16 weights[AT_ONCE];
#pragma unroll
                        for (int q = 0; q < AT_ONCE; q++)
                            weights[q] = LOAD16_W(w + apart[q] + kx * 16);
#pragma unroll
                        for (int p = 0; p < COLUMNS; p++) {
                            const Real16 number = (Real16)in[(p * STRIDE_W + kx * DILATION_W) * 16];
#pragma unroll
                            for (int q = 0; q < AT_ONCE; q++)
                                sums[q][p] = fma(number, weights[q], sums[q][p]);
                        }
                    }
                    w += KERNEL_W * 16;
                    in += DILATION_H * TILE_W * 16;
                }
            }
#pragma unroll
            for (int q = 0; q < AT_ONCE; q++) {
                if (block + q < end) {
                    const float16 factor = vload16(block + q, scale), offset = vload16(block + q, bias);
                    const long to = (((long)image * s.blocks + block + q) * s.out_height + oy + row) * s.out_width + ox;
                    if (epilogue.count == 0 && ox + COLUMNS <= s.out_width) {
#pragma unroll
                        for (int p = 0; p < COLUMNS; p++) {
                            const float16 v = fma(FLOAT16(sums[q][p]), factor, offset);
                            STORE16_Y(REAL16(begun(v, epilogue, other + (to + p) * 16)), y + (to + p) * 16);
                        }
                    } else {
#pragma unroll
                        for (int p = 0; p < COLUMNS; p++)
                            vstore16(sums[q][p], p, results);
                        finish_run(results, min(COLUMNS, s.out_width - ox), factor, offset, epilogue, other + to * 16,
                                   slopes + (block + q) * 16, y + to * 16);
                    }
                }
            }
        }
}

// Convolution of each channel by itself, 16 channels in the lanes of a vector.
//
// A work-item computes `rows` rows of the result, all of their width, from rows of the input converted to floats in
// local memory once.
//
//   KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W
//   COLUMNS   places of a row of the result whose sums are in registers together

typedef struct {
    int height, width, out_height, out_width, blocks, top, left, rows, tile_h;
} Shape;

kernel void depthwise(global const X *restrict x, global const W *restrict weight, global const float *scale,
                      global const float *bias, global Y *y, Shape s, Epilogue epilogue,
                      global const Y *other, global const float *slopes, local Real *tile,
                      local Real *results) {
    const int oy = (int)get_global_id(0) * s.rows, block = get_global_id(1), image = get_global_id(2);
    const int strips = (s.out_width + COLUMNS - 1) / COLUMNS;
    const int tile_w = (strips * COLUMNS - 1) * STRIDE_W + (KERNEL_W - 1) * DILATION_W + 1;
    const int first = min(s.left, tile_w), last = clamp(s.left + s.width, first, tile_w);
    x += ((long)image * s.blocks + block) * s.height * s.width * 16;
    for (int row = 0; row < s.tile_h; row++) {
        const int in_y = oy * STRIDE_H - s.top + row;
        local Real *to = tile + row * tile_w * 16;
        if (in_y < 0 || in_y >= s.height) {
            clear(to, 0, tile_w);
            continue;
        }
        clear(to, 0, first);
        for (int column = first; column < last; column++)
            PUT16(LOAD16_X(x + ((long)in_y * s.width + column - s.left) * 16), column, to);
        clear(to, last, tile_w);
    }
    Real16 weights[KERNEL_H * KERNEL_W];
#pragma unroll
    for (int k = 0; k < KERNEL_H * KERNEL_W; k++)
        weights[k] = LOAD16_W(weight + (block * KERNEL_H * KERNEL_W + k) * 16);
    const float16 factor = vload16(block, scale), offset = vload16(block, bias);
    for (int row = 0; row < s.rows && oy + row < s.out_height; row++)
        for (int ox = 0; ox < s.out_width; ox += COLUMNS) {
            local const Real *in = tile + (row * STRIDE_H * tile_w + ox * STRIDE_W) * 16;
            Real16 sums[COLUMNS];
#pragma unroll
            for (int p = 0; p < COLUMNS; p++)
                sums[p] = 0;
#pragma unroll
            for (int ky = 0; ky < KERNEL_H; ky++) {
                local const Real *from = in + ky * DILATION_H * tile_w * 16;
                // each number is loaded once, and goes to all sums that it is part of
#pragma unroll
                for (int n = 0; n < (COLUMNS - 1) * STRIDE_W + (KERNEL_W - 1) * DILATION_W + 1; n++) {
                    const Real16 number = vload16(n, from);
#pragma unroll
                    for (int kx = 0; kx < KERNEL_W; kx++) {
                        const int ahead = n - kx * DILATION_W, p = ahead / STRIDE_W;
                        if (ahead >= 0 && ahead % STRIDE_W == 0 && p < COLUMNS)
                            sums[p] = fma(number, weights[ky * KERNEL_W + kx], sums[p]);
                    }
                }
            }
            const long to = (((long)image * s.blocks + block) * s.out_height + oy + row) * s.out_width + ox;
            finish_strip(sums, COLUMNS, s.out_width - ox, factor, offset, epilogue, other + to * 16,
                         slopes + block * 16, y + to * 16, results);
        }
}

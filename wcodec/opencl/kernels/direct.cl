// What kernels share that compute convolutions directly, 16 output channels in the lanes of a vector.
//
//   KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W
//   PLANES    the input is in C order, of few channels, and so is its tile
//   COLUMNS   places of a row of the result whose sums are in registers together
//   AT_ONCE   blocks of output channels whose sums are in registers together

#ifdef PLANES
#define PITCH 1
#else
#define PITCH 16
#endif

// The part of an image that begins at (y0, x0), padding included: converted, and channels in planes where PLANES says
// so, else in blocks.
INLINED void load_tile(global const X *x, local Real *tile, int channels, int height, int width, int tile_h, int tile_w,
                      int y0, int x0) {
    const int first = clamp(-x0, 0, tile_w), end = clamp(width - x0, first, tile_w);
    const int planes = PITCH == 1 ? channels : (channels + 15) / 16;
    for (int plane = 0; plane < planes; plane++)
        for (int row = 0; row < tile_h; row++) {
            const int y = y0 + row;
            const bool inside = y >= 0 && y < height;
            local Real *to = tile + (plane * tile_h + row) * tile_w * PITCH;
            global const X *from = x + ((long)(plane * height + y) * width + x0) * PITCH;
#ifdef PLANES
            int column = 0;
            for (; column < (inside ? first : tile_w); column++)
                to[column] = 0;
            // a row outside is at its end by now
            for (; column + 16 <= end; column += 16)
                vstore16(LOAD16_X(from + column), 0, to + column);
            for (; column < end; column++)
                to[column] = LOAD_X(from + column);
            for (; column < tile_w; column++)
                to[column] = 0;
#else
            clear(to, 0, inside ? first : tile_w);
            if (inside) {
                for (int column = first; column < end; column++)
                    PUT16(LOAD16_X(from + column * 16), column, to);
                clear(to, end, tile_w);
            }
#endif
        }
}

// Sums at COLUMNS places for AT_ONCE blocks: a weight vector is loaded once for all of them, and the input, one number
// at a time, is the FMA's broadcast operand. `in` is where the first place's window begins in the tile's first plane,
// `apart` how far the blocks' weights are from `w`.
INLINED void convolve(Real16 sums[AT_ONCE][COLUMNS], global const W *w, const long apart[AT_ONCE], local const Real *in,
                     int channels, int tile_h, const int tile_w) {
#pragma unroll
    for (int q = 0; q < AT_ONCE; q++)
#pragma unroll
        for (int p = 0; p < COLUMNS; p++)
            sums[q][p] = 0;
    for (int c = 0; c < channels; c++) {
#ifdef PLANES
        local const Real *row = in + c * tile_h * tile_w;
#else
        local const Real *row = in + c / 16 * tile_h * tile_w * 16 + c % 16;
#endif
        for (int ky = 0; ky < KERNEL_H; ky++) {
#pragma unroll
            for (int kx = 0; kx < KERNEL_W; kx++) {
                Real16 weights[AT_ONCE];
#pragma unroll
                for (int q = 0; q < AT_ONCE; q++)
                    weights[q] = LOAD16_W(w + apart[q] + kx * 16);
#pragma unroll
                for (int p = 0; p < COLUMNS; p++) {
                    const Real16 number = (Real16)row[(p * STRIDE_W + kx * DILATION_W) * PITCH];
#pragma unroll
                    for (int q = 0; q < AT_ONCE; q++)
                        sums[q][p] = fma(number, weights[q], sums[q][p]);
                }
            }
            w += KERNEL_W * 16;
            row += DILATION_H * tile_w * PITCH;
        }
    }
}

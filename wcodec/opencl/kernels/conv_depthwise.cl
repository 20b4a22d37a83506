// A convolution and, of what it gives, one of each channel by itself: what is between them stays in local memory. Follows
// direct.cl, whose definitions are those of the first.
//
// A work-item computes `rows` rows of the result, of `share` blocks of 16 channels. Of what is between, it keeps as many
// rows of these channels as the second kernel is high, in a ring: each row is computed once, and overwritten by that
// which is NEXT_H rows further down.
//
//   NEXT_H, NEXT_W, NEXT_STRIDE_H, NEXT_STRIDE_W   the second convolution's kernel and strides
//   NEXT_COLUMNS                                   places of a row of its result whose sums are in registers together
//   V_WIDE, V_BYTES                                its weights are stored as floats or bytes, else as halves

#if defined(V_BYTES)
typedef char V;
#define LOAD16_V(p) REAL16(convert_float16(vload16(0, p)))
#elif defined(V_WIDE)
typedef float V;
#define LOAD16_V(p) WIDE_LOAD16(p)
#else
typedef half V;
#define LOAD16_V(p) HALF_LOAD16(p)
#endif

// Heights and widths of the input, of what is between and of the result; channels of the input and its blocks, blocks
// of the result; padding above and on the left of both convolutions; what a work-item computes; rows and columns of a
// tile, and columns of the ring.
typedef struct {
    int height, width, mid_height, mid_width, out_height, out_width, channels, in_blocks, blocks;
    int top, left, next_top, next_left, rows, share, tile_h, tile_w, ring_w;
} Shape;

// A strip of what is between, `valid` places of it, to where it is kept.
INLINED void keep(const Real16 *sums, int valid, float16 factor, float16 offset, Epilogue between, local Real *to) {
    if (valid >= COLUMNS) {
#pragma unroll
        for (int p = 0; p < COLUMNS; p++)
            PUT16(REAL16(bounded(fma(FLOAT16(sums[p]), factor, offset), between.low, between.high)), p, to);
    } else {
#pragma unroll
        for (int p = 0; p < COLUMNS; p++)
            if (p < valid)
                PUT16(REAL16(bounded(fma(FLOAT16(sums[p]), factor, offset), between.low, between.high)), p, to);
    }
    for (int n = 0; n < between.count; n++)
#pragma unroll 1
        for (int p = 0; p < valid; p++) {
            const float16 v = FLOAT16(vload16(p, to));
            PUT16(REAL16(stepped(v, between.kind[n], between.a[n], between.b[n], 0, 0)), p, to);
        }
}

// Row `made` of what is between, of the blocks from `first` to before `end`, into a row of the ring of each.
INLINED void make_row(global const X *x, global const W *weight, global const float *scale, global const float *bias,
                     Shape s, Epilogue between, int made, int first, int end, local Real *tile, local Real *slot) {
    const int ring_size = NEXT_H * s.ring_w * 16;
    if (made < 0 || made >= s.mid_height) {
        for (int block = first; block < end; block++)
            clear(slot + (block - first) * ring_size, 0, s.ring_w);
        return;
    }
    load_tile(x, tile, s.channels, s.height, s.width, s.tile_h, s.tile_w, made * STRIDE_H - s.top, -s.left);
    const long block_size = (long)s.channels * KERNEL_H * KERNEL_W * 16;
    for (int block = first; block < end; block += AT_ONCE) {
        long apart[AT_ONCE];
#pragma unroll
        for (int q = 0; q < AT_ONCE; q++)
            apart[q] = min(q, end - 1 - block) * block_size;
        for (int column = 0; column < s.mid_width; column += COLUMNS) {
            Real16 sums[AT_ONCE][COLUMNS];
            convolve(sums, weight + block * block_size, apart, tile + column * STRIDE_W * PITCH, s.channels, s.tile_h,
                     s.tile_w);
#pragma unroll
            for (int q = 0; q < AT_ONCE; q++)
                if (block + q < end)
                    keep(sums[q], s.mid_width - column, vload16(block + q, scale), vload16(block + q, bias), between,
                         slot + (block + q - first) * ring_size + (s.next_left + column) * 16);
        }
    }
}

kernel void conv_depthwise(global const X *restrict x, global const W *restrict weight, global const float *scale,
                           global const float *bias, global const V *restrict next_weight,
                           global const float *next_scale, global const float *next_bias, global Y *y, Shape s,
                           Epilogue between, Epilogue epilogue, global const Y *other, global const float *slopes,
                           local Real *tile, local Real *ring, local Real *results) {
    const int oy = (int)get_global_id(0) * s.rows, first = (int)get_global_id(1) * s.share;
    const int end = min(first + s.share, s.blocks), image = get_global_id(2);
    x += (long)image * (PITCH == 1 ? s.channels : s.in_blocks) * s.height * s.width * PITCH;
    for (int row = 0; row < (end - first) * NEXT_H; row++) {
        clear(ring + row * s.ring_w * 16, 0, s.next_left);
        clear(ring + row * s.ring_w * 16, s.next_left + s.mid_width, s.ring_w);
    }
    int made = oy * NEXT_STRIDE_H - s.next_top;
    for (int row = oy; row < min(oy + s.rows, s.out_height); row++) {
        const int top = row * NEXT_STRIDE_H - s.next_top;
        // rows are counted from the padding's first, so that none is below zero
        for (made = max(made, top); made < top + NEXT_H; made++)
            make_row(x, weight, scale, bias, s, between, made, first, end, tile,
                     ring + (made + s.next_top) % NEXT_H * s.ring_w * 16);
        for (int block = first; block < end; block++) {
            local const Real *in = ring + (block - first) * NEXT_H * s.ring_w * 16;
            Real16 weights[NEXT_H * NEXT_W];
#pragma unroll
            for (int k = 0; k < NEXT_H * NEXT_W; k++)
                weights[k] = LOAD16_V(next_weight + (block * NEXT_H * NEXT_W + k) * 16);
            int rows[NEXT_H];
#pragma unroll
            for (int ky = 0; ky < NEXT_H; ky++)
                rows[ky] = (row * NEXT_STRIDE_H + ky) % NEXT_H * s.ring_w;
            for (int ox = 0; ox < s.out_width; ox += NEXT_COLUMNS) {
                Real16 sums[NEXT_COLUMNS];
#pragma unroll
                for (int p = 0; p < NEXT_COLUMNS; p++)
                    sums[p] = 0;
                // unrolled, it would run no faster, and take compilers twice as long
#pragma unroll 1
                for (int ky = 0; ky < NEXT_H; ky++) {
                    local const Real *from = in + (rows[ky] + ox * NEXT_STRIDE_W) * 16;
                    // each number is loaded once, and goes to all sums that it is part of
#pragma unroll
                    for (int n = 0; n < (NEXT_COLUMNS - 1) * NEXT_STRIDE_W + NEXT_W; n++) {
                        const Real16 number = vload16(n, from);
#pragma unroll
                        for (int kx = 0; kx < NEXT_W; kx++)
                            if (n >= kx && (n - kx) % NEXT_STRIDE_W == 0 && (n - kx) / NEXT_STRIDE_W < NEXT_COLUMNS)
                                sums[(n - kx) / NEXT_STRIDE_W] =
                                    fma(number, weights[ky * NEXT_W + kx], sums[(n - kx) / NEXT_STRIDE_W]);
                    }
                }
                const long to = (((long)image * s.blocks + block) * s.out_height + row) * s.out_width + ox;
                finish_strip(sums, NEXT_COLUMNS, s.out_width - ox, vload16(block, next_scale),
                             vload16(block, next_bias), epilogue, other + to * 16, slopes + block * 16, y + to * 16,
                             results);
            }
        }
    }
}

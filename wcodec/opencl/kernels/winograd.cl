// Convolution 3x3 of stride 1 by F(OUT x OUT, 3x3), after Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural
// Networks": 36 multiplications for 16 places of the result instead of 144, or 16 for 4 instead of 36.
//
// One kernel transforms the weights. A work-item of the other brings TILES tiles of SIDE x SIDE places of the input into
// the same space, in local memory, and goes through all output channels, 16 * AT_ONCE at a time: sums for each of the
// places, then the way back. All of it is in floats: halves in that space would cost three digits.
//
//   OUT   places of the result, down and across, that one tile makes: 4 or 2

#define SIDE (OUT + 2)
#define PLACES (SIDE * SIDE)

// FORTH: the numbers of a row or column of the input, B^T. BACK: those of sums into the result's, A^T. Numbers are `step`
// apart in `from`, and `stride` in `to`.
#if OUT == 4
#define FORTH(from, step, to, stride) do { \
    const float16 d0 = (from)[0], d1 = (from)[step], d2 = (from)[2 * step], d3 = (from)[3 * step]; \
    const float16 d4 = (from)[4 * step], d5 = (from)[5 * step]; \
    const float16 even = fma((float16)-4.0f, d2, d4), odd = fma((float16)-4.0f, d1, d3); \
    const float16 near = d4 - d2, far = 2.0f * (d3 - d1); \
    (to)[0] = fma((float16)4.0f, d0, fma((float16)-5.0f, d2, d4)); \
    (to)[1 * stride] = even + odd; \
    (to)[2 * stride] = even - odd; \
    (to)[3 * stride] = near + far; \
    (to)[4 * stride] = near - far; \
    (to)[5 * stride] = fma((float16)4.0f, d1, fma((float16)-5.0f, d3, d5)); \
} while (0)

#define BACK(from, step, to, stride) do { \
    const float16 m1 = (from)[step], m2 = (from)[2 * step], m3 = (from)[3 * step], m4 = (from)[4 * step]; \
    const float16 sum = m1 + m2, difference = m1 - m2, sum2 = m3 + m4, difference2 = m3 - m4; \
    (to)[0] = (from)[0] + sum + sum2; \
    (to)[1 * stride] = fma((float16)2.0f, difference2, difference); \
    (to)[2 * stride] = fma((float16)4.0f, sum2, sum); \
    (to)[3 * stride] = fma((float16)8.0f, difference2, difference) + (from)[5 * step]; \
} while (0)
#else
#define FORTH(from, step, to, stride) do { \
    const float16 d0 = (from)[0], d1 = (from)[step], d2 = (from)[2 * step], d3 = (from)[3 * step]; \
    (to)[0] = d0 - d2; \
    (to)[1 * stride] = d1 + d2; \
    (to)[2 * stride] = d2 - d1; \
    (to)[3 * stride] = d1 - d3; \
} while (0)

#define BACK(from, step, to, stride) do { \
    const float16 m1 = (from)[step], m2 = (from)[2 * step]; \
    (to)[0] = (from)[0] + m1 + m2; \
    (to)[1 * stride] = m1 - m2 - (from)[3 * step]; \
} while (0)
#endif

// Three numbers of a kernel into SIDE, G.
inline void spread(float16 g0, float16 g1, float16 g2, private float16 *to, int stride) {
#if OUT == 4
    const float16 sum = (g0 + g2) * (1.0f / 6), sum2 = (g0 * 0.25f + g2) * (1.0f / 6);
    to[0] = g0 * 0.25f;
    to[1 * stride] = -sum - g1 * (1.0f / 6);
    to[2 * stride] = -sum + g1 * (1.0f / 6);
    to[3 * stride] = sum2 + g1 * (1.0f / 12);
    to[4 * stride] = sum2 - g1 * (1.0f / 12);
    to[5 * stride] = g2;
#else
    const float16 sum = (g0 + g2) * 0.5f;
    to[0] = g0;
    to[1 * stride] = sum + g1 * 0.5f;
    to[2 * stride] = sum - g1 * 0.5f;
    to[3 * stride] = g2;
#endif
}

// Weights (K / 16, C, 9, 16) to (K / 16, PLACES, C, 16).
kernel void transform_weights(global const W *restrict weight, global float *to, int channels) {
    const int c = get_global_id(0);
    const long block = get_global_id(1);
    weight += (block * channels + c) * 9 * 16;
    float16 rows[SIDE * 3], places[PLACES];
    for (int x = 0; x < 3; x++)
        spread(FLOAT16(LOAD16_W(weight + x * 16)), FLOAT16(LOAD16_W(weight + (3 + x) * 16)),
               FLOAT16(LOAD16_W(weight + (6 + x) * 16)), rows + x, 3);
    for (int y = 0; y < SIDE; y++)
        spread(rows[y * 3], rows[y * 3 + 1], rows[y * 3 + 2], places + y * SIDE, 1);
    for (int place = 0; place < PLACES; place++)
        vstore16(places[place], (block * PLACES + place) * channels + c, to);
}

// Heights and widths of input and output, channels and their blocks, blocks of output channels, padding above and on
// the left, tiles in a row and in all, and how many blocks a work-item computes.
typedef struct {
    int height, width, out_height, out_width, channels, in_blocks, blocks, top, left, across, tiles, share;
} Shape;

inline void load_tiles(global const X *x, local float *tile, Shape s, int first) {
    for (int block = 0; block < s.in_blocks; block++)
        for (int t = 0; t < TILES; t++) {
            const int at = min(first + t, s.tiles - 1);
            const int y0 = at / s.across * OUT - s.top, x0 = at % s.across * OUT - s.left;
            float16 numbers[PLACES], columns[PLACES];
            for (int y = 0; y < SIDE; y++)
                for (int column = 0; column < SIDE; column++) {
                    const int in_y = y0 + y, in_x = x0 + column;
                    const bool inside = in_y >= 0 && in_y < s.height && in_x >= 0 && in_x < s.width;
                    numbers[y * SIDE + column] = inside
                        ? FLOAT16(LOAD16_X(x + ((long)(block * s.height + in_y) * s.width + in_x) * 16)) : 0;
                }
            for (int n = 0; n < SIDE; n++)
                FORTH(numbers + n, SIDE, columns + n, SIDE);
            for (int n = 0; n < SIDE; n++)
                FORTH(columns + n * SIDE, 1, numbers + n * SIDE, 1);
            for (int place = 0; place < PLACES; place++)
                vstore16(numbers[place], (place * s.in_blocks + block) * TILES + t, tile);
        }
}

kernel void winograd(global const X *restrict x, global const float *restrict weight, global const float *scale,
                     global const float *bias, global Y *y, Shape s, Epilogue epilogue, global const Y *other,
                     global const float *slopes, local float *tile, local float *products, local Real *results) {
    const int first = (int)get_global_id(0) * TILES, start = (int)get_global_id(1) * s.share;
    const long image = get_global_id(2);
    const int end = min(start + s.share, s.blocks);
    load_tiles(x + image * s.in_blocks * s.height * s.width * 16, tile, s, first);
    for (int block = start; block < end; block += AT_ONCE) {
        for (int place = 0; place < PLACES; place++) {
            float16 sums[AT_ONCE][TILES];
#pragma unroll
            for (int q = 0; q < AT_ONCE; q++)
#pragma unroll
                for (int t = 0; t < TILES; t++)
                    sums[q][t] = 0;
            global const float *w[AT_ONCE];
#pragma unroll
            for (int q = 0; q < AT_ONCE; q++)
                w[q] = weight + ((long)min(block + q, end - 1) * PLACES + place) * s.channels * 16;
            local const float *in = tile + place * s.in_blocks * TILES * 16;
            for (int c = 0; c < s.channels; c++) {
                local const float *numbers = in + c / 16 * TILES * 16 + c % 16;
                float16 weights[AT_ONCE];
#pragma unroll
                for (int q = 0; q < AT_ONCE; q++)
                    weights[q] = vload16(c, w[q]);
#pragma unroll
                for (int t = 0; t < TILES; t++) {
                    const float16 number = (float16)numbers[t * 16];
#pragma unroll
                    for (int q = 0; q < AT_ONCE; q++)
                        sums[q][t] = fma(number, weights[q], sums[q][t]);
                }
            }
#pragma unroll
            for (int q = 0; q < AT_ONCE; q++)
#pragma unroll
                for (int t = 0; t < TILES; t++)
                    vstore16(sums[q][t], (q * PLACES + place) * TILES + t, products);
        }
        for (int q = 0; q < AT_ONCE && block + q < end; q++) {
            const float16 factor = vload16(block + q, scale), offset = vload16(block + q, bias);
            for (int t = 0; t < TILES && first + t < s.tiles; t++) {
                const int oy = (first + t) / s.across * OUT, ox = (first + t) % s.across * OUT;
                float16 sums[PLACES], columns[OUT * SIDE], numbers[OUT * OUT];
                for (int place = 0; place < PLACES; place++)
                    sums[place] = vload16((q * PLACES + place) * TILES + t, products);
                for (int n = 0; n < SIDE; n++)
                    BACK(sums + n, SIDE, columns + n, SIDE);
                for (int n = 0; n < OUT; n++)
                    BACK(columns + n * SIDE, 1, numbers + n * OUT, 1);
                for (int row = 0; row < min(OUT, s.out_height - oy); row++) {
                    const long to = (((image * s.blocks + block + q) * s.out_height + oy + row) * s.out_width + ox) * 16;
                    for (int n = 0; n < OUT; n++)
                        vstore16(REAL16(numbers[row * OUT + n]), n, results);
                    finish_run(results, min(OUT, s.out_width - ox), factor, offset, epilogue, other + to,
                               slopes + (block + q) * 16, y + to);
                }
            }
        }
    }
}

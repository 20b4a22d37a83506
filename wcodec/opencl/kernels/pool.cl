// Maxima or means of windows of images: one row of the result of 16 channels a work-item.
//
//   MEAN            means, else maxima
//   COUNT_PADDING   a mean divides by the places of the padding too

typedef struct {
    int height, width, out_height, out_width, blocks, kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    int top, left, bottom, right;
} Shape;

kernel void pool(global const X *restrict x, global Y *y, Shape s, Epilogue epilogue,
                 global const Y *other, global const float *slopes) {
    const int oy = get_global_id(0), block = get_global_id(1), image = get_global_id(2);
    x += ((long)image * s.blocks + block) * s.height * s.width * 16;
    const int y0 = oy * s.stride_h - s.top;
    for (int ox = 0; ox < s.out_width; ox++) {
        const int x0 = ox * s.stride_w - s.left;
#ifdef MEAN
        float16 v = 0;
#else
        float16 v = -INFINITY;
#endif
        int count = 0;
        for (int ky = 0; ky < s.kernel_h; ky++) {
            const int in_y = y0 + ky * s.dilation_h;
            for (int kx = 0; kx < s.kernel_w; kx++) {
                const int in_x = x0 + kx * s.dilation_w;
                const bool inside = in_y >= 0 && in_y < s.height && in_x >= 0 && in_x < s.width;
                // windows may reach beyond the padding, where nothing is counted
                const bool padding = in_y < s.height + s.bottom && in_x < s.width + s.right;
                if (inside) {
                    const float16 number = FLOAT16(LOAD16_X(x + ((long)in_y * s.width + in_x) * 16));
#ifdef MEAN
                    v += number;
#else
                    v = select(v, number, (number > v) | (number != number));
#endif
                }
#ifdef COUNT_PADDING
                count += padding;
#else
                count += inside;
#endif
            }
        }
#ifdef MEAN
        v /= (float)max(count, 1);
#endif
        const long place = ((((long)image * s.blocks + block) * s.out_height + oy) * s.out_width + ox) * 16;
        STORE16_Y(REAL16(finished(v, epilogue, other + place, slopes + block * 16)), y + place);
    }
}

// Mean, maximum or sum of the whole of an image, 16 channels a work-item.
kernel void pool_all(global const X *restrict x, global Y *y, int places, float factor, Epilogue epilogue,
                     global const Y *other, global const float *slopes) {
    const long block = get_global_id(0);
    x += block * places * 16;
#ifdef MEAN
    float16 sums[4] = {0, 0, 0, 0};
    int n = 0;
    for (; n + 4 <= places; n += 4)
        for (int k = 0; k < 4; k++)
            sums[k] += FLOAT16(LOAD16_X(x + (n + k) * 16));
    for (; n < places; n++)
        sums[0] += FLOAT16(LOAD16_X(x + n * 16));
    float16 v = (sums[0] + sums[1] + sums[2] + sums[3]) * factor;
#else
    float16 v = FLOAT16(LOAD16_X(x));
    for (int n = 1; n < places; n++) {
        const float16 number = FLOAT16(LOAD16_X(x + n * 16));
        v = select(v, number, (number > v) | (number != number));
    }
#endif
    STORE16_Y(REAL16(finished(v, epilogue, other + block * 16, slopes)), y + block * 16);
}

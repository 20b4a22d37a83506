// Images to another size: one place of the result of 16 channels a work-item.

typedef struct {
    int height, width, out_height, out_width, linear, rounding;
    float scale_h, scale_w, offset_h, offset_w;
} Sampling;

// Ties are what rounding is about, and floats miss them by a little.
#define NEAR 1e-4f

inline int nearest(float place, int rounding, int length) {
    const float to = rounding == 0 ? floor(place + NEAR) : rounding == 1 ? ceil(place - NEAR)
        : rounding == 2 ? ceil(place - 0.5f - NEAR) : floor(place + 0.5f + NEAR);
    return clamp((int)to, 0, length - 1);
}

kernel void resize(global const X *restrict x, global Y *y, Sampling s) {
    const int ox = get_global_id(0), oy = get_global_id(1);
    const long block = get_global_id(2);
    x += block * s.height * s.width * 16;
    const float at_y = oy * s.scale_h + s.offset_h, at_x = ox * s.scale_w + s.offset_w;
    float16 v;
    if (s.linear) {
        const float in_y = clamp(at_y, 0.0f, (float)(s.height - 1)), in_x = clamp(at_x, 0.0f, (float)(s.width - 1));
        const int y0 = in_y, x0 = in_x, y1 = min(y0 + 1, s.height - 1), x1 = min(x0 + 1, s.width - 1);
        const float down = in_y - y0, right = in_x - x0;
        const float16 upper = mix(FLOAT16(LOAD16_X(x + (y0 * s.width + x0) * 16)),
                                  FLOAT16(LOAD16_X(x + (y0 * s.width + x1) * 16)), right);
        const float16 lower = mix(FLOAT16(LOAD16_X(x + (y1 * s.width + x0) * 16)),
                                  FLOAT16(LOAD16_X(x + (y1 * s.width + x1) * 16)), right);
        v = mix(upper, lower, down);
    } else {
        const int in_y = nearest(at_y, s.rounding, s.height), in_x = nearest(at_x, s.rounding, s.width);
        v = FLOAT16(LOAD16_X(x + (in_y * s.width + in_x) * 16));
    }
    STORE16_Y(REAL16(v), y + ((block * s.out_height + oy) * s.out_width + ox) * 16);
}

// Convolution of each channel by itself: one place of 16 channels a work-item, for devices with many of them.
//
//   KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W

typedef struct {
    int height, width, out_height, out_width, blocks, top, left;
} Shape;

kernel void depthwise_tiled(global const X *restrict x, global const W *restrict weight, global const float *scale,
                            global const float *bias, global Y *y, Shape s, Epilogue epilogue, global const Y *other,
                            global const float *slopes) {
    const int out = get_global_id(0), block = get_global_id(1);
    const int oy = out / s.out_width, ox = out % s.out_width;
    const long image = get_global_id(2), plane = image * s.blocks + block;
    x += plane * s.height * s.width * 16;
    Real16 sum = 0;
    for (int ky = 0; ky < KERNEL_H; ky++) {
        const int in_y = oy * STRIDE_H - s.top + ky * DILATION_H;
#pragma unroll
        for (int kx = 0; kx < KERNEL_W; kx++) {
            const int in_x = ox * STRIDE_W - s.left + kx * DILATION_W;
            if (in_y >= 0 && in_y < s.height && in_x >= 0 && in_x < s.width)
                sum = fma(LOAD16_X(x + ((long)in_y * s.width + in_x) * 16),
                          LOAD16_W(weight + ((block * KERNEL_H + ky) * KERNEL_W + kx) * 16), sum);
        }
    }
    const float16 v = fma(FLOAT16(sum), vload16(block, scale), vload16(block, bias));
    const long to = (plane * s.out_height * s.out_width + out) * 16;
    STORE16_Y(REAL16(finished(v, epilogue, other + to, slopes + block * 16)), y + to);
}

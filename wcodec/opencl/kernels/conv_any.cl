// Convolutions of every other kind: transposed ones, and those whose groups do not fill blocks of channels.
//
// A work-item computes one place of the result, of 16 output channels, each of which may read channels of its own.
//
//   TRANSPOSED   the weight's blocks are of output channels all the same: (K / 16, C, ...) where groups are one

typedef struct {
    int height, width, out_height, out_width, channels, group_channels, group_outputs, in_blocks, blocks;
    int kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, top, left;
} Shape;

// The place of the input that a place of the kernel meets, or -1.
inline int met(int out, int k, int stride, int dilation, int before, int length) {
#ifdef TRANSPOSED
    const int scaled = out + before - k * dilation;
    const int place = scaled / stride;
    return scaled >= 0 && scaled % stride == 0 && place < length ? place : -1;
#else
    const int place = out * stride - before + k * dilation;
    return place < length ? place : -1;
#endif
}

kernel void conv_any(global const X *restrict x, global const W *restrict weight, global const float *scale,
                     global const float *bias, global Y *y, Shape s, Epilogue epilogue,
                     global const Y *other, global const float *slopes) {
    const int ox = (int)get_global_id(0) % s.out_width, oy = (int)get_global_id(0) / s.out_width;
    const int block = get_global_id(1), image = get_global_id(2);
    const long plane = (long)s.height * s.width * 16;
    x += image * s.in_blocks * plane;
    const int kernel_size = s.kernel_h * s.kernel_w;
    const int first_group = block * 16 / s.group_outputs;
    const bool alike = (min(block * 16 + 15, s.blocks * 16 - 1)) / s.group_outputs == first_group;
    float16 sum = 0;
    for (int ky = 0; ky < s.kernel_h; ky++) {
        const int in_y = met(oy, ky, s.stride_h, s.dilation_h, s.top, s.height);
        for (int kx = 0; kx < s.kernel_w; kx++) {
            const int in_x = met(ox, kx, s.stride_w, s.dilation_w, s.left, s.width);
            if (in_y < 0 || in_x < 0)
                continue;
            global const X *from = x + ((long)in_y * s.width + in_x) * 16;
            for (int c = 0; c < s.group_channels; c++) {
                float16 numbers;
                if (alike) {
                    const int channel = first_group * s.group_channels + c;
                    numbers = (float16)LOAD_X(from + channel / 16 * plane + channel % 16);
                } else {
                    float each[16];
                    for (int lane = 0; lane < 16; lane++) {
                        const int group = min((block * 16 + lane) / s.group_outputs, s.channels / s.group_channels - 1);
                        const int channel = group * s.group_channels + c;
                        each[lane] = LOAD_X(from + channel / 16 * plane + channel % 16);
                    }
                    numbers = vload16(0, each);
                }
#ifdef TRANSPOSED
                const long at = ((long)block * s.channels + first_group * s.group_channels + c) * kernel_size;
#else
                const long at = ((long)block * s.group_channels + c) * kernel_size;
#endif
                sum = fma(numbers, FLOAT16(LOAD16_W(weight + (at + ky * s.kernel_w + kx) * 16)), sum);
            }
        }
    }
    const float16 v = fma(sum, vload16(block, scale), vload16(block, bias));
    const long place = ((((long)image * s.blocks + block) * s.out_height + oy) * s.out_width + ox) * 16;
    STORE16_Y(REAL16(finished(v, epilogue, other + place, slopes + block * 16)), y + place);
}

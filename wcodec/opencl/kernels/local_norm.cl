// Normalization across neighbouring channels: one place of 16 channels a work-item.

typedef struct {
    int channels, blocks, places, before, after;
    float factor, beta, bias;
} Window;

kernel void local_norm(global const X *restrict x, global Y *y, Window w) {
    const int place = get_global_id(0), block = get_global_id(1);
    const long image = get_global_id(2);
    x += image * w.blocks * w.places * 16;
    float sums[16], numbers[16];
    for (int lane = 0; lane < 16; lane++) {
        const int channel = block * 16 + lane;
        float sum = 0;
        for (int c = max(0, channel - w.before); c <= min(w.channels - 1, channel + w.after); c++) {
            const float number = LOAD_X(x + ((long)(c / 16) * w.places + place) * 16 + c % 16);
            sum = fma(number, number, sum);
        }
        sums[lane] = sum;
    }
    const long at = ((long)block * w.places + place) * 16;
    const float16 base = fma(vload16(0, sums), (float16)w.factor, (float16)w.bias);
    STORE16_Y(REAL16(FLOAT16(LOAD16_X(x + at)) * pow(base, -w.beta)), y + image * w.blocks * w.places * 16 + at);
}

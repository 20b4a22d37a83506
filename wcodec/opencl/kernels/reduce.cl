// Along one axis of values in C order, (outer, length, inner): sums, means and maxima, softmax, and where maxima are.
// A work-item has up to 16 of the inner numbers.

typedef struct {
    int length, inner;
} Line;

inline float16 line_at(global const X *x, Line line, int n, int valid) {
    return some16(x + (long)n * line.inner, valid);
}

kernel void reduce(global const X *restrict x, global Y *y, Line line, int maximum, float factor) {
    const int runs = (line.inner + 15) / 16, start = (int)get_global_id(0) % runs * 16;
    const long outer = get_global_id(0) / runs;
    const int valid = min(16, line.inner - start);
    x += outer * line.length * line.inner + start;
    float16 v = line_at(x, line, 0, valid);
    for (int n = 1; n < line.length; n++) {
        const float16 number = line_at(x, line, n, valid);
        v = maximum ? select(v, number, (number > v) | (number != number)) : v + number;
    }
    put16(v * factor, y + outer * line.inner + start, valid);
}

kernel void softmax(global const X *restrict x, global Y *y, Line line, int logarithm) {
    const int runs = (line.inner + 15) / 16, start = (int)get_global_id(0) % runs * 16;
    const long at = get_global_id(0) / runs * line.length * line.inner + start;
    const int valid = min(16, line.inner - start);
    x += at;
    y += at;
    float16 largest = -INFINITY, sum = 0;
    for (int n = 0; n < line.length; n++)
        largest = fmax(largest, line_at(x, line, n, valid));
    for (int n = 0; n < line.length; n++)
        sum += exp(line_at(x, line, n, valid) - largest);
    const float16 log_sum = log(sum);
    for (int n = 0; n < line.length; n++) {
        const float16 v = line_at(x, line, n, valid) - largest;
        put16(logarithm ? v - log_sum : exp(v) / sum, y + (long)n * line.inner, valid);
    }
}

// `y` gets integers.
kernel void arg_max(global const X *restrict x, global int *y, Line line, int last) {
    const int inner = get_global_id(0) % line.inner;
    const long outer = get_global_id(0) / line.inner;
    x += outer * line.length * line.inner + inner;
    int best = 0;
    float largest = LOAD_X(x);
    for (int n = 1; n < line.length; n++) {
        const float number = LOAD_X(x + (long)n * line.inner);
        if (number > largest || (last && number == largest)) {
            largest = number;
            best = n;
        }
    }
    y[get_global_id(0)] = best;
}

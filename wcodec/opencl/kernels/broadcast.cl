// Two values in C order into one, broadcast in any way: one number after the other, 16 a work-item.

#define AXES 6

typedef struct {
    int axes, length[AXES], a[AXES], b[AXES];
} Strides;

kernel void broadcast(global const X *a, global const X *b, int kind, global Y *y, Strides strides,
                      int count, Epilogue epilogue, global const Y *other) {
    const int start = get_global_id(0) * 16, valid = min(16, count - start);
    float left[16] = {0}, right[16] = {0};
    for (int n = 0; n < valid; n++) {
        long from_a = 0, from_b = 0;
        int rest = start + n;
        for (int axis = strides.axes - 1; axis >= 0; axis--) {
            const int at = rest % strides.length[axis];
            rest /= strides.length[axis];
            from_a += (long)at * strides.a[axis];
            from_b += (long)at * strides.b[axis];
        }
        left[n] = LOAD_X(a + from_a);
        right[n] = LOAD_X(b + from_b);
    }
    const float16 v = combined(vload16(0, left), vload16(0, right), kind);
    put16(finished_some(v, epilogue, other + start, 0, valid), y + start, valid);
}

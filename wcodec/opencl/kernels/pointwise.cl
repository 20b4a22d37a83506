// Two values into one, or one as it is, number by number, 16 numbers a work-item.

// How a value's numbers repeat: the run at `run` of the result, of 16 in C order or of one place of a block of
// channels, is the value's at run / divisor % modulus, spread over all 16 where it is one number.
typedef struct {
    int divisor, modulus, single;
} Repeat;

inline float16 taken(global const X *x, Repeat repeat, long run, int valid) {
    const long at = run / repeat.divisor % repeat.modulus;
    return repeat.single ? (float16)LOAD_X(x + at) : some16(x + at * 16, valid);
}

// `runs` of 16; the last has `last` numbers. Slopes are those of channel_runs runs in turn, each for `places` runs.
kernel void pointwise(global const X *a, Repeat repeat_a, global const X *b, Repeat repeat_b, int kind,
                      global Y *y, int runs, int last, Epilogue epilogue, global const Y *other,
                      global const float *slopes, int places, int channel_runs) {
    const int first = get_global_id(0) * AT_ONCE;
    for (int run = first; run < min(first + AT_ONCE, runs); run++) {
        const int valid = run == runs - 1 ? last : 16;
        float16 v = taken(a, repeat_a, run, valid);
        if (kind < 7)
            v = combined(v, taken(b, repeat_b, run, valid), kind);
        global const float *slope = slopes + run / places % channel_runs * 16;
        put16(finished_some(v, epilogue, other + (long)run * 16, slope, valid), y + (long)run * 16, valid);
    }
}

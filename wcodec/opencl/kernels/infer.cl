// What all kernels of inference share: how numbers are stored and computed with, and what is done to a result.
//
//   X_WIDE, W_WIDE, Y_WIDE   inputs, weights, and results with their operands are stored as floats, else as halves
//   W_BYTES       weights are symbols of 8 bits
//   HALVES        halves are computed with; needs cl_khr_fp16
//   NATIVE_HALF   the device has cl_khr_fp16: casts from its halves are faster than vload_half on some
//   SMOOTH        the functions that take long to build are there
//   POWER         powers are among the ways to make one number of two
//
// Images lie in blocks of 16 channels: (N, C / 16, H, W, 16). What fills up the last block is any finite or infinite
// number: nothing reads it but to write what fills up another.

#if defined(HALVES) || defined(NATIVE_HALF)
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#endif

#ifdef HALVES
typedef half Real;
typedef half4 Real4;
typedef half16 Real16;
#define REAL4(x) convert_half4(x)
#define REAL16(x) convert_half16(x)
#define FLOAT16(x) convert_float16(x)
#else
typedef float Real;
typedef float4 Real4;
typedef float16 Real16;
#define REAL4(x) (x)
#define REAL16(x) (x)
#define FLOAT16(x) (x)
#endif

// For functions that are given arrays of sums, which only stay in registers where these are inlined.
#define INLINED inline __attribute__((always_inline))

// The n-th vector of a tile in local memory, where vectors lie side by side: one store, which vstore16 is not for PoCL.
#define PUT16(v, n, p) (((local Real16 *)(p))[n] = (v))

#define WIDE_LOAD(p) ((Real)*(p))
#define WIDE_STORE(v, p) (*(p) = (float)(v))
#define WIDE_LOAD16(p) REAL16(vload16(0, p))
#define WIDE_STORE16(v, p) vstore16(FLOAT16(v), 0, p)

#if defined(HALVES)
#define HALF_LOAD(p) (*(p))
#define HALF_STORE(v, p) (*(p) = (half)(v))
#define HALF_LOAD4(p) vload4(0, p)
#define HALF_LOAD16(p) vload16(0, p)
#define HALF_STORE16(v, p) vstore16(v, 0, p)
#elif defined(NATIVE_HALF)
#define HALF_LOAD(p) ((float)*(p))
#define HALF_STORE(v, p) (*(p) = (half)(v))
#define HALF_LOAD4(p) convert_float4(vload4(0, p))
#define HALF_LOAD16(p) convert_float16(vload16(0, p))
#define HALF_STORE16(v, p) vstore16(convert_half16(v), 0, p)
#else
#define HALF_LOAD(p) vload_half(0, p)
#define HALF_STORE(v, p) vstore_half(v, 0, p)
#define HALF_LOAD4(p) vload_half4(0, p)
#define HALF_LOAD16(p) vload_half16(0, p)
#define HALF_STORE16(v, p) vstore_half16(v, 0, p)
#endif

#ifdef X_WIDE
typedef float X;
#define LOAD_X(p) WIDE_LOAD(p)
#define LOAD16_X(p) WIDE_LOAD16(p)
#else
typedef half X;
#define LOAD_X(p) HALF_LOAD(p)
#define LOAD16_X(p) HALF_LOAD16(p)
#endif

#if defined(W_BYTES)
typedef char W;
#define LOAD4_W(p) REAL4(convert_float4(vload4(0, p)))
#define LOAD16_W(p) REAL16(convert_float16(vload16(0, p)))
#elif defined(W_WIDE)
typedef float W;
#define LOAD4_W(p) REAL4(vload4(0, p))
#define LOAD16_W(p) WIDE_LOAD16(p)
#else
typedef half W;
#define LOAD4_W(p) HALF_LOAD4(p)
#define LOAD16_W(p) HALF_LOAD16(p)
#endif

#ifdef Y_WIDE
typedef float Y;
#define LOAD_Y(p) WIDE_LOAD(p)
#define STORE_Y(v, p) WIDE_STORE(v, p)
#define LOAD16_Y(p) WIDE_LOAD16(p)
#define STORE16_Y(v, p) WIDE_STORE16(v, p)
#else
typedef half Y;
#define LOAD_Y(p) HALF_LOAD(p)
#define STORE_Y(v, p) HALF_STORE(v, p)
#define LOAD16_Y(p) HALF_LOAD16(p)
#define STORE16_Y(v, p) HALF_STORE16(v, p)
#endif

// Steps by the numbers that wcodec/infer/forms/launch.py gives their kinds.
// What is most common comes first, and needs no step: a pair of bounds, the operand added where `adds`, other bounds.
#define STEPS 4
typedef struct {
    float low, high, last_low, last_high;
    int adds, count;
    int kind[STEPS];
    float a[STEPS], b[STEPS];
} Epilogue;

// A result between the bounds, which are infinite where it has none. Comparisons, unlike fmax, let through what is no
// number.
INLINED float16 bounded(float16 v, float low, float high) {
    v = select(v, (float16)low, v < low);
    return select(v, (float16)high, v > high);
}

INLINED float16 begun(float16 v, Epilogue epilogue, global const Y *other) {
    v = bounded(v, epilogue.low, epilogue.high);
    if (epilogue.adds)
        v = bounded(v + FLOAT16(LOAD16_Y(other)), epilogue.last_low, epilogue.last_high);
    return v;
}

// `other` are the 16 numbers of the operand at the result's place, `slopes` those of its channels.
inline float16 stepped(float16 v, int kind, float a, float b, float16 other, float16 slopes) {
    switch (kind) {
    case 0: return bounded(v, 0, INFINITY);
    case 1: return bounded(v, a, b);
    case 2: return select(v * a, v, v > 0.0f);
    case 3: return select(v * slopes, v, v > 0.0f);
    case 4: return clamp(fma(v, (float16)a, (float16)b), 0.0f, 1.0f);
    case 5: return v * clamp(fma(v, (float16)(1.0f / 6.0f), (float16)0.5f), 0.0f, 1.0f);
    case 6: return -v;
    case 7: return v + other;
    case 8: return v * other;
#ifdef SMOOTH
    case 9: return 1.0f / (1.0f + exp(-v));
    case 10: return v / (1.0f + exp(-v));
    case 11: return tanh(v);
    case 12: return exp(v);
    case 13: return sqrt(v);
#endif
    default: return v;
    }
}

// What 16 channels of a result become. `other` points at the operand's numbers in the result's place.
inline float16 finished(float16 v, Epilogue epilogue, global const Y *other, global const float *slopes) {
    v = begun(v, epilogue, other);
    for (int n = 0; n < epilogue.count; n++) {
        const int kind = epilogue.kind[n];
        const float16 operand = kind == 7 || kind == 8 ? FLOAT16(LOAD16_Y(other)) : 0;
        const float16 slope = kind == 3 ? vload16(0, slopes) : 0;
        v = stepped(v, kind, epilogue.a[n], epilogue.b[n], operand, slope);
    }
    return v;
}

// `count` neighbours of 16 channels of a layer's sums into its result, from `results` to `y`, by way of `results`:
// loops over neighbours for each step take less time, and less of a program, than steps for each neighbour.
inline void finish_run(local Real *results, int count, float16 factor, float16 offset, Epilogue epilogue,
                       global const Y *other, global const float *slopes, global Y *y) {
#pragma unroll 1
    for (int p = 0; p < count; p++) {
        const float16 v = fma(FLOAT16(vload16(p, results)), factor, offset);
        PUT16(REAL16(begun(v, epilogue, other + p * 16)), p, results);
    }
    for (int n = 0; n < epilogue.count; n++) {
        const int kind = epilogue.kind[n];
        const float16 slope = kind == 3 ? vload16(0, slopes) : 0;
#pragma unroll 1
        for (int p = 0; p < count; p++) {
            const float16 operand = kind == 7 || kind == 8 ? FLOAT16(LOAD16_Y(other + p * 16)) : 0;
            const float16 v = FLOAT16(vload16(p, results));
            PUT16(REAL16(stepped(v, kind, epilogue.a[n], epilogue.b[n], operand, slope)), p, results);
        }
    }
#pragma unroll 1
    for (int p = 0; p < count; p++)
        STORE16_Y(vload16(p, results), y + p * 16);
}

// Sums at `columns` neighbouring places, of which only `valid` are the result's, into the result at `y`. Most layers only
// add and bound, which is done in registers; the others go by way of `results`.
INLINED void finish_strip(const Real16 *sums, const int columns, int valid, float16 factor, float16 offset,
                         Epilogue epilogue, global const Y *other, global const float *slopes, global Y *y,
                         local Real *results) {
    if (epilogue.count == 0 && valid >= columns) {
#pragma unroll
        for (int p = 0; p < columns; p++) {
            const float16 v = fma(FLOAT16(sums[p]), factor, offset);
            STORE16_Y(REAL16(begun(v, epilogue, other + p * 16)), y + p * 16);
        }
        return;
    }
#pragma unroll
    for (int p = 0; p < columns; p++)
        PUT16(sums[p], p, results);
    finish_run(results, min(columns, valid), factor, offset, epilogue, other, slopes, y);
}

// Zeros for what of a row of a tile, 16 numbers a place, is beyond the image's edges.
inline void clear(local Real *row, int first, int end) {
    for (int column = first; column < end; column++)
        PUT16((Real16)0, column, row);
}

// Two numbers into one, by the numbers that wcodec/infer/forms/elements.py gives the ways to.
inline float16 combined(float16 a, float16 b, int kind) {
    switch (kind) {
    case 0: return a + b;
    case 1: return a - b;
    case 2: return a * b;
    case 3: return a / b;
    case 4: return select(a, b, (b > a) | (b != b));
    case 5: return select(a, b, (b < a) | (b != b));
#ifdef POWER
    case 6: return pow(a, b);
#endif
    default: return a;
    }
}

// The first `valid` of 16 numbers in C order, where there may be no more.
inline float16 some16(global const X *from, int valid) {
    if (valid == 16)
        return FLOAT16(LOAD16_X(from));
    float numbers[16] = {0};
    for (int n = 0; n < valid; n++)
        numbers[n] = LOAD_X(from + n);
    return vload16(0, numbers);
}

// The same of an operand.
inline float16 some16_other(global const Y *from, int valid) {
    if (valid == 16)
        return FLOAT16(LOAD16_Y(from));
    float numbers[16] = {0};
    for (int n = 0; n < valid; n++)
        numbers[n] = LOAD_Y(from + n);
    return vload16(0, numbers);
}

inline void put16(float16 v, global Y *to, int valid) {
    if (valid == 16) {
        STORE16_Y(REAL16(v), to);
        return;
    }
    float numbers[16];
    vstore16(v, 0, numbers);
    for (int n = 0; n < valid; n++)
        STORE_Y(numbers[n], to + n);
}

// What up to 16 numbers of a result in C order become.
inline float16 finished_some(float16 v, Epilogue epilogue, global const Y *other, global const float *slopes,
                             int valid) {
    v = bounded(v, epilogue.low, epilogue.high);
    if (epilogue.adds)
        v = bounded(v + some16_other(other, valid), epilogue.last_low, epilogue.last_high);
    for (int n = 0; n < epilogue.count; n++) {
        const int kind = epilogue.kind[n];
        const float16 operand = kind == 7 || kind == 8 ? some16_other(other, valid) : 0;
        const float16 slope = kind == 3 ? vload16(0, slopes) : 0;
        v = stepped(v, kind, epilogue.a[n], epilogue.b[n], operand, slope);
    }
    return v;
}

// Frames of symbols, or of floats kept as they are, to numbers in their place: 16 elements of a chunk a work-item.
//
// Built for one source type, with GRID where frames are tiled, TRAIL where factors change within rows, LOSSY where
// symbols out of range are moved into it rather than refused, and PACKED for a layout other than rows.

#if defined(SRC_S8)
typedef char Source;
#define LOAD(place) source[place]
#define LOAD_16(place) convert_float16(vload16(0, source + (place)))
#elif defined(SRC_U8)
typedef uchar Source;
#define LOAD(place) source[place]
#define LOAD_16(place) convert_float16(vload16(0, source + (place)))
#elif defined(SRC_S16)
typedef short Source;
#define LOAD(place) source[place]
#define LOAD_16(place) convert_float16(vload16(0, source + (place)))
#elif defined(SRC_U16)
typedef ushort Source;
#define LOAD(place) source[place]
#define LOAD_16(place) convert_float16(vload16(0, source + (place)))
#elif defined(SRC_F16)
typedef ushort Source;
#define KEPT
#define LOAD(place) vload_half(place, (global const half *)source)
#define LOAD_16(place) vload_half16(0, (global const half *)(source + (place)))
#elif defined(SRC_BF16)
typedef ushort Source;
#define KEPT
#define LOAD(place) as_float((uint)source[place] << 16)
#define LOAD_16(place) as_float16(convert_uint16(vload16(0, source + (place))) << 16u)
#else
typedef float Source;
#define KEPT
#define LOAD(place) source[place]
#define LOAD_16(place) vload16(0, source + (place))
#endif

// The width, height and number across of frames, and how many symbols their lines hold.
typedef struct {
    uint line, height, width, across;
} Frames;

inline uint framed(Frames frames, uint place) {
#ifdef GRID
    const uint down = place / frames.line, right = place % frames.line;
    const uint frame = down / frames.height * frames.across + right / frames.width;
    return (frame * frames.height + down % frames.height) * frames.width + right % frames.width;
#else
    return place;
#endif
}

kernel void unpack(global const Source *source, uint count, uint first_row, uint row_size, Frames frames,
                   global const uint *factors, uint zeros_at, uint lead_at, uint trail_at, uint trails,
                   global Number *out, Layout layout, uint columns, uint positions, int lowest, int highest,
                   global int *status) {
    global const float *scale = (global const float *)factors, *zero = scale + zeros_at;
    global const int *lead = (global const int *)factors + lead_at, *trail = (global const int *)factors + trail_at;
    const uint start = 16 * get_global_id(0), stop = min(start + 16, count);
    const ulong base = (ulong)first_row * row_size;
#if !defined(GRID) && !defined(TRAIL) && !defined(PACKED)
    if (stop - start == 16 && start / row_size == (stop - 1) / row_size) {
        float16 numbers = LOAD_16(start);
#ifndef KEPT
        const int factor = lead[first_row + start / row_size];
#ifdef LOSSY
        numbers = clamp(numbers, (float16)(lowest), (float16)(highest));
#else
        if (any((numbers < (float)lowest) | (numbers > (float)highest)))
            atomic_min(status, (int)start);
#endif
        numbers = (numbers - zero[factor]) * scale[factor];
#endif
#ifdef DST_F16
        vstore_half16(numbers, 0, (global half *)(out + base + start));
#else
        vstore16(numbers, 0, out + base + start);
#endif
        return;
    }
#endif
    for (uint place = start; place < stop; place++) {
        float number = LOAD(framed(frames, place));
        const uint row = first_row + place / row_size;
#ifndef KEPT
        int factor = lead[row] * (int)trails;
#ifdef TRAIL
        factor += trail[place % row_size];
#endif
#ifdef LOSSY
        number = clamp(number, (float)lowest, (float)highest);
#else
        if (number < lowest || number > highest)
            atomic_min(status, (int)place);
#endif
        number = (number - zero[factor]) * scale[factor];
#endif
        const ulong element = base + place;
#ifdef PACKED
        const ulong kernels = element / positions;
        const ulong to = placed_row(layout, (uint)(kernels / columns)) + placed_column(layout, (uint)(kernels % columns))
            + element % positions * layout.position;
#else
        const ulong to = element;
#endif
        STORE(number, to, out);
    }
}

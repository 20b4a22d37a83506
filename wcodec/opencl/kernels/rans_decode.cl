// Decodes lanes of `rans`, LANES of them in step, dequantizes and places their numbers in one pass.
//
// Built for one PERIOD, with PREDICTED, PHASES, LOW and TRAIL where any chunk needs them, and PACKED for a layout other
// than rows. Without PHASES, a table does not depend on the prediction, so that the next look-up need not wait for it.

#define LAGS 8
#define UNROLLED 9

// What `side` holds of a chunk, as places in it; see BatchBuilder._fields in wcodec/opencl/batch.py.
enum { DIVIDERS, ENTRIES, LOG_SIZE, LOG_PHASES, ROW, CENTER, CENTER_STEP, COLUMN, POSITION, COEFFICIENTS, LAST_CLASS,
       ORIGIN, LOW_BITS, FIRST_ROW, CHUNK_FIELDS };

// What stands before the lanes of a group.
enum { CHUNK, VALID, ROWS, FIRST_COLUMN, COLUMNS, GROUP_FIELDS = 8 };

#define FROM_SIDE(k) side[LANE(at, k)]
#define FROM_LEAD(k) lead[LANE(at, k)]
#define FROM_SCALE(k) scale[LANE(at, k)]
#define FROM_ZERO(k) zero[LANE(at, k)]
#define FROM_DIVIDERS(k) dividers[LANE(cell, k)]
#define FROM_ENTRIES(k) entries[LANE(cell, k)]

// Two words from where each lane is, or zeros beyond the last word.
#define FROM_WORDS(k) as_uint(vload2(0, words + LANE(at_word, k)))
#define READ_PAIR \
    do { \
        const Uints at_word = min(next, (Uints)(last_word)); \
        pair = (Uints)EACH(FROM_WORDS); \
    } while (0)

// States below 2^16 take the next word.
#define TAKE_WORD \
    do { \
        const Uints low_state = ONE_IF(state < LOWEST); \
        state = WHERE(state < LOWEST, (state << 16u) | (pair & 65535u), state); \
        pair >>= low_state << 4u; \
        next += low_state; \
    } while (0)

#define LOWEST 65536u

#if PERIOD <= UNROLLED
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("unroll 1")
#endif

#if LANES == 16 && !defined(PACKED)
// Sixteen places of sixteen rows, turned on their side before they are stored.
#define TILED
#ifdef DST_F32
typedef float16 Tile;
typedef float Element;
#else
typedef ushort16 Tile;
typedef ushort Element;
#endif

#define ZIP(a, b, h) \
    (Tile)(a.h.s0, b.h.s0, a.h.s1, b.h.s1, a.h.s2, b.h.s2, a.h.s3, b.h.s3, \
           a.h.s4, b.h.s4, a.h.s5, b.h.s5, a.h.s6, b.h.s6, a.h.s7, b.h.s7)

// Four perfect shuffles of 256 elements exchange the halves of their places: rows become columns.
inline void transpose(private Tile *tile) {
    for (int round = 0; round < 4; round++) {
        Tile turned[16];
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            turned[2 * i] = ZIP(tile[i], tile[i + 8], lo);
            turned[2 * i + 1] = ZIP(tile[i], tile[i + 8], hi);
        }
        #pragma unroll
        for (int i = 0; i < 16; i++)
            tile[i] = turned[i];
    }
}

// Store the first `count` columns of the tile's sixteen rows of numbers, which begin at `to`.
inline void flush(private Tile *tile, uint count, Uints row, uint valid, uint row_size, uint column,
                  global Number *out) {
    uint rows[16];
    vstore16(row, 0, rows);
    if (count < 16) {
        for (uint k = 0; k < valid; k++)
            for (uint n = 0; n < count; n++)
                out[(ulong)rows[k] * row_size + column + n] = (Number)((private Element *)tile)[n * 16 + k];
        return;
    }
    transpose(tile);
    for (uint k = 0; k < valid; k++) {
        global Number *to = out + (ulong)rows[k] * row_size + column;
#ifdef DST_8
        vstore16(convert_uchar16(tile[k]), 0, to);
#else
        vstore16(tile[k], 0, to);
#endif
    }
}
#endif

#if LANES == 16 && defined(PACKED)
#if defined(DST_F16)
#define STORE_16(numbers, place) vstore_half16(numbers, 0, (global half *)(out) + place)
#elif defined(DST_F32)
#define STORE_16(numbers, place) vstore16(numbers, 0, out + place)
#elif defined(DST_8)
#define STORE_16(numbers, place) vstore16(convert_uchar16(as_uint16(numbers) & (uint16)(255)), 0, out + place)
#else
#define STORE_16(numbers, place) vstore16(convert_ushort16(as_uint16(numbers) & (uint16)(65535)), 0, out + place)
#endif
#ifdef DEQUANTIZE
typedef float16 Numbers;
typedef float Plain;
#else
typedef int16 Numbers;
typedef int Plain;
#endif

// Sixteen rows' numbers of one column and position, together where the layout has rows innermost.
inline void scatter(Numbers numbers, private const ulong *rows, bool together, uint valid, ulong place,
                    global Number *out) {
    if (together) {
        STORE_16(numbers, rows[0] + place);
        return;
    }
    Plain each[16];
    vstore16(numbers, 0, each);
    for (uint k = 0; k < valid; k++)
        STORE(each[k], rows[k] + place, out);
}
#endif

// `blob` holds a batch, `factors` what its tensor's numbers are made with; the other numbers say where in them.
kernel void decode(global const uint *blob, uint groups_at, uint chunks_at, uint words_at, uint last_word,
                   global const uint *factors, uint zeros_at, uint lead_at, uint trail_at, uint trails,
                   global Number *out, Layout layout, uint row_size, int lowest, int highest, global int *status) {
    global const int *side = (global const int *)blob;
    global const ushort *words = (global const ushort *)(blob + words_at);
    global const float *scale = (global const float *)factors;
    global const float *zero = scale + zeros_at;
    global const int *lead = (global const int *)factors + lead_at, *trail = (global const int *)factors + trail_at;
    const uint group = get_global_id(0);
    global const uint *record = blob + groups_at + group * (GROUP_FIELDS + 4 * LANES);
    global const int *chunk = side + chunks_at + record[CHUNK] * CHUNK_FIELDS;
    const uint valid = record[VALID], rows = record[ROWS], first = record[FIRST_COLUMN];
    const uint columns = first + record[COLUMNS];
    const Uints begin = LOAD_UINTS(record + GROUP_FIELDS), end = LOAD_UINTS(record + GROUP_FIELDS + LANES);
    Uints state = LOAD_UINTS(record + GROUP_FIELDS + 2 * LANES), next = begin;
    Uints row = LOAD_UINTS(record + GROUP_FIELDS + 3 * LANES);

    global const uint *dividers = (global const uint *)side + chunk[DIVIDERS];
    global const uint *entries = (global const uint *)side + chunk[ENTRIES];
    global const int *coefficients = side + chunk[COEFFICIENTS];
    global const int *position_scale = side + chunk[POSITION];
    global const int *column_scale = side + chunk[COLUMN];
    const int log_size = chunk[LOG_SIZE], log_phases = chunk[LOG_PHASES], last_class = chunk[LAST_CLASS];
    const uint escape = (1u << log_size) - 1;
    const int half_size = (int)(escape >> 1), bucket = 12 - log_size;
    const int origin = chunk[ORIGIN], low_bits = chunk[LOW_BITS];
    const int rounding = 1 << (5 - log_phases), steps = 6 - log_phases;
    const int middle = (1 << log_phases) >> 1, phase_mask = (1 << log_phases) - 1;

#ifdef LOW
    Ints outside = (Ints)(0);
#else
    // symbols are levels of 0 to 255 and the origin
    const Ints outside = (Ints)(0);
    lowest = max(lowest, origin);
    highest = min(highest, origin + 255);
#endif
    Ints least = (Ints)(highest), most = (Ints)(lowest);
    for (uint i = 0; i < rows; i++, row += 1) {
        Ints at = AS_INTS(row) + chunk[ROW];
        const Ints row_scale = (Ints)EACH(FROM_SIDE);
        at = AS_INTS(row) * chunk[CENTER_STEP] + chunk[CENTER];
        const Ints center = (Ints)EACH(FROM_SIDE);
        const Uints absolute = row + (uint)chunk[FIRST_ROW];
#ifdef DEQUANTIZE
        at = AS_INTS(absolute);
        const Ints leading = (Ints)EACH(FROM_LEAD) * (int)trails;
#ifndef TRAIL
        at = leading;
        const Floats factor = (Floats)EACH(FROM_SCALE), offset = (Floats)EACH(FROM_ZERO);
#endif
#endif
#ifdef PACKED
        ulong row_places[LANES];
        for (uint k = 0; k < LANES; k++)
            row_places[k] = placed_row(layout, ((private const uint *)&absolute)[k]);
        const bool together = valid == 16 && row_places[LANES - 1] == row_places[0] + LANES - 1 && layout.inner_row == 1;
#endif
#ifdef TILED
        Tile tile[16];
        uint filled = 0, from = first * PERIOD;
#endif
        Ints height[LAGS];
        Uints pair = 0;
        for (uint c = first; c < columns; c++) {
            const int column_class = column_scale[c];
#ifdef PACKED
            const ulong column_place = placed_column(layout, c);
#endif
            UNROLL
            for (int p = 0; p < PERIOD; p++) {
                const Ints kind = clamp(row_scale + (column_class + position_scale[p]), (Ints)(0), (Ints)(last_class));
                Ints whole = (Ints)(0);
#ifdef PHASES
                Ints phase = (Ints)(middle);
#else
                const Ints phase = (Ints)(0);
#endif
#ifdef PREDICTED
                Ints predicted = (Ints)(rounding);
                #pragma unroll
                for (int lag = 0; lag < LAGS; lag++)
                    if (PERIOD > UNROLLED ? lag < PERIOD : lag < p)
                        predicted += coefficients[p * LAGS + lag] * height[lag];
#ifdef PHASES
                predicted = (predicted >> steps) + middle;
                whole = predicted >> log_phases;
                phase = predicted & phase_mask;
#else
                whole = predicted >> steps;
#endif
#endif
                const Uints slot = state & 4095u;
                Uints cell = AS_UINTS(((kind << log_phases) + phase) << log_size) + (slot >> (uint)bucket);
                const Uints divider = (Uints)EACH(FROM_DIVIDERS);
                cell = 2 * cell + ONE_IF(slot >= divider);
                const Uints entry = (Uints)EACH(FROM_ENTRIES);
                state = (entry >> 20u) * (state >> 12u) + ((slot + (entry >> 8u)) & 4095u);
                // one look at the words serves two symbols, which take at most one each
                if (((PERIOD == 1 ? (int)(c - first) : p) & 1) == 0)
                    READ_PAIR;
                TAKE_WORD;
                const Uints symbol = entry & 255u;
                Ints level = AS_INTS(symbol) - half_size + whole;
                if (ANY(symbol == escape)) {
                    const Ints escaped = symbol == escape;
                    level = WHERE(escaped, AS_INTS(state & 255u) - center, level);
                    state = WHERE(escaped, state >> 8u, state);
                    READ_PAIR;
                    TAKE_WORD;
                    READ_PAIR;
                }
#ifdef PREDICTED
                #pragma unroll
                for (int lag = LAGS - 1; lag > 0; lag--)
                    height[lag] = height[lag - 1];
                height[0] = level;
#endif
                level += center;
#ifdef LOW
                outside |= level;
                if (low_bits) {
                    level = (level << low_bits) | AS_INTS(state & ((1u << low_bits) - 1u));
                    state >>= (uint)low_bits;
                    READ_PAIR;
                    TAKE_WORD;
                    READ_PAIR;
                }
#endif
                level += origin;
                least = min(least, level);
                most = max(most, level);
#ifdef DEQUANTIZE
#ifdef TRAIL
                at = leading + trail[c * PERIOD + p];
                const Floats factor = (Floats)EACH(FROM_SCALE), offset = (Floats)EACH(FROM_ZERO);
#endif
                const Floats number = (TO_FLOATS(level) - offset) * factor;
#else
                const Ints number = level;
#endif
#if defined(TILED)
#ifdef DST_F16
                vstore_half16(number, 0, (private half *)(tile + filled));
#elif defined(DST_F32)
                tile[filled] = number;
#else
                tile[filled] = convert_ushort16(as_uint16(number) & (uint16)(sizeof(Number) == 1 ? 255 : 65535));
#endif
                if (++filled == 16) {
                    flush(tile, filled, absolute, valid, row_size, from, out);
                    from += filled;
                    filled = 0;
                }
#elif LANES == 1
#ifdef PACKED
                STORE(number, row_places[0] + column_place + p * layout.position, out);
#else
                STORE(number, (ulong)absolute * row_size + c * PERIOD + p, out);
#endif
#else
                scatter(number, row_places, together, valid, column_place + p * layout.position, out);
#endif
            }
        }
#ifdef TILED
        if (filled)
            flush(tile, filled, absolute, valid, row_size, from, out);
#endif
    }
    const Ints broken = (state != LOWEST) | (next != end) | ((outside & ~255) != 0) | (least < lowest) | (most > highest);
    if (ANY(broken)) {
#if LANES == 16
        int each[16];
        vstore16(broken, 0, each);
        for (uint k = 0; k < valid; k++)
            if (each[k])
                atomic_min(status, (int)(group * LANES + k));
#else
        atomic_min(status, (int)group);
#endif
    }
}

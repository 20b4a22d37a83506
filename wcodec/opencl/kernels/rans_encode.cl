// Encodes lanes of `rans`, one a work-item: the last symbol first, words from the end of the lane's room to its start.
//
// Built for one PERIOD and SOURCE, the type of symbols. The states and words are those of wcodec/coders/rans/words.py.

#define LAGS 8
#define LOWEST 65536u

// What `side` holds of the chunk, as places in it; see _encoder_side in wcodec/opencl/accelerate.py.
enum { FREQUENCIES, FIRSTS, SLOTS, LOG_SIZE, LOG_PHASES, ROW, CENTER, CENTER_STEP, COLUMN, POSITION, COEFFICIENTS,
       LAST_CLASS, ORIGIN, LOW_BITS };

#define FLUSH_IF(full) \
    if (full) { \
        words[--place] = (ushort)state; \
        state >>= 16u; \
    }

// Lane n holds symbols lane_starts[n] to lane_starts[n + 1], and has `room` words for each.
kernel void encode(global const SOURCE *symbols, uint row_size, global const int *side, global const int *chunk,
                   global const uint *lane_starts, uint room, global ushort *words, global uint *counts,
                   global uint *states) {
    const uint lane = get_global_id(0);
    const uint start = lane_starts[lane], stop = lane_starts[lane + 1];
    const int log_size = chunk[LOG_SIZE], log_phases = chunk[LOG_PHASES], last_class = chunk[LAST_CLASS];
    const int origin = chunk[ORIGIN], low_bits = chunk[LOW_BITS];
    const uint escape = (1u << log_size) - 1;
    const int half_size = (int)(escape >> 1), middle = (1 << log_phases) >> 1;
    global const int *coefficients = side + chunk[COEFFICIENTS];
    const ulong end = (ulong)stop * room;
    ulong place = end;
    uint state = LOWEST;
    for (uint kernel_stop = stop; kernel_stop > start; kernel_stop -= PERIOD) {
        const uint first = kernel_stop - PERIOD, row = first / row_size, column = first % row_size / PERIOD;
        const int center = side[chunk[CENTER] + row * chunk[CENTER_STEP]];
        const int scale = side[chunk[ROW] + row] + side[chunk[COLUMN] + column];
        int heights[PERIOD];
        for (int p = 0; p < PERIOD; p++)
            heights[p] = (((int)symbols[first + p] - origin) >> low_bits) - center;
        for (int p = PERIOD - 1; p >= 0; p--) {
            int whole = 0, phase = middle;
#ifdef PREDICTED
            int predicted = 1 << (5 - log_phases);
            for (int lag = 1; lag <= min(p, LAGS); lag++)
                predicted += coefficients[p * LAGS + lag - 1] * heights[p - lag];
            predicted = (predicted >> (6 - log_phases)) + middle;
            whole = predicted >> log_phases;
            phase = predicted & ((1 << log_phases) - 1);
#endif
            const int kind = clamp(scale + side[chunk[POSITION] + p], 0, last_class);
            const uint table = (uint)((kind << log_phases) + phase) << log_size;
            const int residual = heights[p] - whole;
            uint entry = abs(residual) > (uint)half_size ? escape : (uint)(residual + half_size);
            uint frequency = (uint)side[chunk[FREQUENCIES] + table + entry];
            if (low_bits) {
                FLUSH_IF(state >> (32 - low_bits))
                state = (state << low_bits) | (((int)symbols[first + p] - origin) & ((1u << low_bits) - 1u));
            }
            if (frequency == 0 || entry == escape) {
                entry = escape;
                frequency = (uint)side[chunk[FREQUENCIES] + table + entry];
                FLUSH_IF(state >> 24)
                state = (state << 8) | (uint)(heights[p] + center);
            }
            FLUSH_IF(state >> 20 >= frequency)
            const uint rank = state % frequency;
            state = ((state / frequency) << 12) | (uint)side[chunk[SLOTS] + side[chunk[FIRSTS] + table + entry] + rank];
        }
    }
    counts[lane] = (uint)(end - place);
    states[lane] = state;
}

// Encodes lanes of `rans`: the last symbol first, words from the end of a lane's room to its start.
//
// Built for one PERIOD, SOURCE, the type of symbols, and AT_ONCE, the lanes of a work-item. What one lane waits for, a
// division and three look-ups, the others of a work-item use. States and words are those of wcodec/coders/rans/words.py.

#define LAGS 8
#define LOWEST 65536u

// What `side` holds of the chunk, as places in it; see _encoder_side in wcodec/opencl/accelerate.py.
enum { CELLS, SLOTS, LOG_SIZE, LOG_PHASES, ROW, CENTER, CENTER_STEP, COLUMN, POSITION, COEFFICIENTS, LAST_CLASS, ORIGIN,
       LOW_BITS };

#define EACH_LANE _Pragma("unroll") for (uint k = 0; k < AT_ONCE; k++) if (step < kernels[k])

// A word is always written, below those that count, and counts if the state is too high.
#define FLUSH_IF(full) \
    do { \
        const uint flushes = (full); \
        words[place[k] - 1] = (ushort)state[k]; \
        place[k] -= flushes; \
        state[k] >>= flushes << 4; \
    } while (0)

// Lane n holds symbols lane_starts[n] to lane_starts[n + 1], and has `room` words for each; before the first lane's
// there is one word to spare.
kernel void encode(global const SOURCE *symbols, uint row_size, global const int *side, global const int *chunk,
                   global const uint *lane_starts, uint lanes, uint room, global ushort *words, global uint *counts,
                   global uint *states) {
    const uint first_lane = get_global_id(0) * AT_ONCE;
    const int log_size = chunk[LOG_SIZE], log_phases = chunk[LOG_PHASES], last_class = chunk[LAST_CLASS];
    const int origin = chunk[ORIGIN], low_bits = chunk[LOW_BITS];
    const uint escape = (1u << log_size) - 1;
    const int half_size = (int)(escape >> 1), middle = (1 << log_phases) >> 1;
    global const int *coefficients = side + chunk[COEFFICIENTS], *positions = side + chunk[POSITION];
    global const int *slots = side + chunk[SLOTS];
    global const int2 *cells = (global const int2 *)(side + chunk[CELLS]);
    const uint columns = row_size / PERIOD;

    uint kernels[AT_ONCE], first[AT_ONCE], state[AT_ONCE], row[AT_ONCE], column[AT_ONCE], most = 0;
    ulong place[AT_ONCE];
    for (uint k = 0; k < AT_ONCE; k++) {
        const uint lane = min(first_lane + k, lanes - 1);
        const uint start = lane_starts[lane], stop = lane_starts[lane + 1];
        kernels[k] = first_lane + k < lanes ? (stop - start) / PERIOD : 0;
        first[k] = stop;
        row[k] = stop / row_size;
        column[k] = stop % row_size / PERIOD;
        place[k] = (ulong)stop * room + 1;
        state[k] = LOWEST;
        most = max(most, kernels[k]);
    }
    for (uint step = most; step-- > 0;) {
        // For every symbol the frequency and the first slot of its entry; entries that do not have them are escaped.
        int2 found[AT_ONCE][PERIOD];
        uchar level[AT_ONCE][PERIOD];
        EACH_LANE {
            first[k] -= PERIOD;
            row[k] -= column[k] == 0;
            column[k] = column[k] == 0 ? columns - 1 : column[k] - 1;
            const int center = side[chunk[CENTER] + row[k] * chunk[CENTER_STEP]];
            const int scale = side[chunk[ROW] + row[k]] + side[chunk[COLUMN] + column[k]];
            int heights[PERIOD];
            for (int p = 0; p < PERIOD; p++) {
                const int own = ((int)symbols[first[k] + p] - origin) >> low_bits;
                level[k][p] = (uchar)own;
                heights[p] = own - center;
            }
            for (int p = 0; p < PERIOD; p++) {
                int whole = 0, phase = middle;
#ifdef PREDICTED
                int predicted = 1 << (5 - log_phases);
                for (int lag = 1; lag <= min(p, LAGS); lag++)
                    predicted += coefficients[p * LAGS + lag - 1] * heights[p - lag];
                predicted = (predicted >> (6 - log_phases)) + middle;
                whole = predicted >> log_phases;
                phase = predicted & ((1 << log_phases) - 1);
#endif
                const int kind = clamp(scale + positions[p], 0, last_class);
                const uint table = (uint)((kind << log_phases) + phase) << log_size;
                const uint entry = min((uint)(heights[p] - whole + half_size), escape);
                int2 cell = cells[table + entry];
                // an escape's frequency is negative here
                if (cell.x == 0 || entry == escape)
                    cell = cells[table + escape] * (int2)(-1, 1);
                found[k][p] = cell;
            }
        }
        for (int p = PERIOD - 1; p >= 0; p--) {
            EACH_LANE {
                if (low_bits) {
                    FLUSH_IF(state[k] >> (32 - low_bits) != 0);
                    state[k] = (state[k] << low_bits) | (((int)symbols[first[k] + p] - origin) & ((1u << low_bits) - 1u));
                }
                if (found[k][p].x < 0) {
                    FLUSH_IF(state[k] >> 24 != 0);
                    state[k] = (state[k] << 8) | level[k][p];
                }
                const uint frequency = abs(found[k][p].x);
                FLUSH_IF(state[k] >> 20 >= frequency);
                const uint whole = state[k] / frequency;
                state[k] = (whole << 12) | (uint)slots[found[k][p].y + (state[k] - whole * frequency)];
            }
        }
    }
    for (uint k = 0; k < AT_ONCE && first_lane + k < lanes; k++) {
        counts[first_lane + k] = (uint)((ulong)lane_starts[first_lane + k + 1] * room + 1 - place[k]);
        states[first_lane + k] = state[k];
    }
}

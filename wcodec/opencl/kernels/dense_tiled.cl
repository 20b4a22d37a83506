// Rows times a matrix packed in blocks of 16 columns, (N / 16, K, 16): for devices with many small cores.
//
// A work-group of 64 computes one block of one row: each work-item sums a sixteenth of it for four columns.

#define GROUP 64
#define PARTS 16

typedef struct {
    int rows, columns, depth;
} Shape;

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1)))
void dense_tiled(global const X *restrict x, global const W *restrict weight, global const float *scale,
                 global const float *bias, global Y *y, Shape s, Epilogue epilogue, global const Y *other,
                 global const float *slopes, local Real *results) {
    const int id = get_local_id(0), quarter = id % 4, block = get_group_id(0);
    const long row = get_global_id(1);
    x += row * s.depth;
    weight += (long)block * s.depth * 16 + quarter * 4;
    Real4 sum = 0;
    for (int k = id / 4; k < s.depth; k += PARTS)
        sum = fma((Real4)LOAD_X(x + k), LOAD4_W(weight + (long)k * 16), sum);
    vstore4(sum, id / 4 * 4 + quarter, results);
    barrier(CLK_LOCAL_MEM_FENCE);
    if (id)
        return;
    float16 total = 0;
    for (int part = 0; part < PARTS; part++)
        total += FLOAT16(vload16(part, results));
    const float16 v = fma(total, vload16(block, scale), vload16(block, bias));
    const long place = row * s.columns + block * 16;
    const int valid = min(16, s.columns - block * 16);
    put16(finished_some(v, epilogue, other + place, slopes + block * 16, valid), y + place, valid);
}

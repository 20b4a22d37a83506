// Products of matrices that are both computed, in C order: one row and 16 columns of a result a work-item.

typedef struct {
    int rows, columns, depth, a_row, a_depth, b_depth, b_column;
    float scale;
} Product;

#define AXES 4

// Lengths of the leading axes, and how far apart matrices are along them.
typedef struct {
    int axes, length[AXES], a[AXES], b[AXES];
} Batches;

kernel void matmul(global const X *restrict a, global const X *restrict b, global Y *y, Product p,
                   Batches batches, Epilogue epilogue, global const Y *other) {
    const int column = (int)get_global_id(0) * 16, row = get_global_id(1);
    const long batch = get_global_id(2);
    const int valid = min(16, p.columns - column);
    long rest = batch;
    for (int axis = batches.axes - 1; axis >= 0; axis--) {
        a += rest % batches.length[axis] * batches.a[axis];
        b += rest % batches.length[axis] * batches.b[axis];
        rest /= batches.length[axis];
    }
    a += (long)row * p.a_row;
    b += (long)column * p.b_column;
    float16 sum = 0;
    for (int k = 0; k < p.depth; k++) {
        float16 numbers;
        if (p.b_column == 1) {
            numbers = some16(b + (long)k * p.b_depth, valid);
        } else {
            float each[16] = {0};
            for (int n = 0; n < valid; n++)
                each[n] = LOAD_X(b + (long)k * p.b_depth + (long)n * p.b_column);
            numbers = vload16(0, each);
        }
        sum = fma((float16)LOAD_X(a + (long)k * p.a_depth), numbers, sum);
    }
    const long place = (batch * p.rows + row) * p.columns + column;
    put16(finished_some(sum * p.scale, epilogue, other + place, 0, valid), y + place, valid);
}

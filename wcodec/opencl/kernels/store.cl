// The types of a destination: NUMBER is what one element is stored as.
//   DST_F16  half floats, by vstore_half, which needs no extension; DST_F32; DST_8, DST_16  the low bits of symbols, signed or not

#if defined(DST_F16)
typedef ushort Number;
#define STORE(value, place, out) vstore_half(value, place, (global half *)(out))
#elif defined(DST_F32)
typedef float Number;
#define STORE(value, place, out) (out)[place] = (value)
#elif defined(DST_8)
typedef uchar Number;
#define STORE(value, place, out) (out)[place] = (uchar)((value) & 255)
#else
typedef ushort Number;
#define STORE(value, place, out) (out)[place] = (ushort)((value) & 65535)
#endif

#if defined(DST_F16) || defined(DST_F32)
#define DEQUANTIZE
#endif

// The offset of an element is those of its row and column and its position's multiple of a stride, by the strides of blocks of rows and columns and within them.
typedef struct {
    uint row_block, column_block, outer_row, inner_row, outer_column, inner_column, position;
} Layout;

inline ulong placed_row(Layout layout, uint row) {
    return (ulong)(row / layout.row_block) * layout.outer_row + (row % layout.row_block) * layout.inner_row;
}

inline ulong placed_column(Layout layout, uint column) {
    return (ulong)(column / layout.column_block) * layout.outer_column
        + (column % layout.column_block) * layout.inner_column;
}

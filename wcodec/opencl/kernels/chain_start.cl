// What the functions that kernels have become in a chain read their arguments from: see Chain in wcodec/infer/chain.py.

#define UNIT 64

// Part of a buffer: which, and how many UNITs from its beginning; nothing where the first is below zero.
inline global uchar *region(global uchar *const *buffers, global const int *words) {
    return words[0] < 0 ? 0 : buffers[words[0]] + (long)words[1] * UNIT;
}

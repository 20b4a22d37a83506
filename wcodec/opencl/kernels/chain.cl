// Kernels one after the other in one launch. Follows them: see Chain in wcodec/infer/chain.py.
//
//   PARAMETERS   the buffers that they read and write, `global uchar *` each
//   BUFFERS      their names
//   CALLS        the cases of a switch that call each kernel

// Times that a group looks whether the others have done their work-items, about a millisecond, before it leaves the rest
// of the chain to them: where other programs want the cores, theirs is better given away.
#define PATIENCE 50000

// The table begins with the number of steps and where the words of each begin: which kernel, its work-items along three
// axes, its arguments. `control` counts the groups that have left, and for each step the work-items that were taken and
// those that are done; all are zero between runs.
kernel void chain(PARAMETERS, global const int *table, global volatile uint *control, local uchar *scratch) {
    global uchar *const buffers[] = {BUFFERS};
    int patience = PATIENCE;
    for (int step = 0; step < table[0] && patience > 0; step++) {
        global const int *words = table + table[step + 1];
        const uint across = words[1], down = words[2], total = across * down * words[3];
        global volatile uint *taken = control + 1 + 2 * step, *done = taken + 1;
        for (uint item = atomic_inc(taken); item < total; item = atomic_inc(taken)) {
            const int id0 = item % across, id1 = item / across % down, id2 = item / (across * down);
            switch (words[0]) {
                CALLS
            }
            // results are in memory before the work-item counts as done
            mem_fence(CLK_GLOBAL_MEM_FENCE);
            atomic_inc(done);
        }
        for (patience = PATIENCE; patience > 0 && atomic_add(done, 0) < total; patience--)
            ;
        mem_fence(CLK_GLOBAL_MEM_FENCE);
    }
    if (atomic_inc(control) == get_num_groups(0) - 1)
        for (int n = 0; n <= 2 * table[0]; n++)
            control[n] = 0;
}

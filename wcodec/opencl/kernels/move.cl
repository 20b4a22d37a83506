// Numbers to other places: what transposes, slices, joins, pads, repeats, and brings images into blocks and out of them.
//
//   FROM_BLOCKS, TO_BLOCKS   images in blocks of channels, else C order

#define AXES 6

// A work-item moves up to RUN numbers along the last axis of the destination.
#define RUN 256

// Along each axis of the source: its length, the axis of the destination that runs along it (or -1), and where it is
// sampled. Along each axis of the destination: its length, where this part of it begins, and how long the part is.
typedef struct {
    int axes, length[AXES], along[AXES], start[AXES], step[AXES];
    int to_axes, to_length[AXES], to_start[AXES], extent[AXES];
    int beyond;
    float value;
} Map;

// What lies beyond the ends of an axis, where it is not the reflection.
#define NOTHING 0
#define CONSTANT 1
#define EDGE 2

// How far from the source's beginning a place along one of its axes is.
inline long apart(const Map *map, int axis, long place) {
#ifdef FROM_BLOCKS
    const long width = map->length[3] * 16, plane = map->length[2] * width;
    if (axis == 1)
        return place / 16 * plane + place % 16;
    return axis == 0 ? place * ((map->length[1] + 15) / 16) * plane : axis == 2 ? place * width : place * 16;
#else
    for (int inner = axis + 1; inner < map->axes; inner++)
        place *= map->length[inner];
    return place;
#endif
}

// The place along an axis of the source that a place of the destination's axis samples, or -1 where there is none.
inline int sampled(const Map *map, int axis, int at) {
    const int length = map->length[axis], place = map->start[axis] + map->step[axis] * at;
    if (place >= 0 && place < length)
        return place;
    if (map->beyond == CONSTANT)
        return -1;
    return map->beyond == EDGE ? clamp(place, 0, length - 1) : place < 0 ? -place : 2 * length - 2 - place;
}

// How far from the source's beginning numbers are that the destination has at `at`, but for axes that run along the
// destination's axes `skipped` and `also`; -1 where there are none.
inline long source_of(const Map *map, const int *at, int skipped, int also) {
    long from = 0;
    for (int axis = 0; axis < map->axes; axis++) {
        const int along = map->along[axis];
        if (along >= 0 && (along == skipped || along == also))
            continue;
        const int place = sampled(map, axis, along < 0 ? 0 : at[along]);
        if (place < 0)
            return -1;
        from += apart(map, axis, place);
    }
    return from;
}

// The axis of the source that runs along one of the destination's, or -1.
inline int running_along(const Map *map, int along) {
    for (int axis = 0; axis < map->axes; axis++)
        if (map->along[axis] == along)
            return axis;
    return -1;
}

#ifdef TO_BLOCKS

// Up to RUN places of one row of a block of channels. `aligned` says that blocks are blocks in the source too.
kernel void move(global const X *restrict x, global Y *y, Map map, int aligned) {
    const int blocks = (map.to_length[1] + 15) / 16, first = map.to_start[1] / 16;
    const int blocks_here = (map.to_start[1] + map.extent[1] + 15) / 16 - first;
    const int runs = (map.extent[3] + RUN - 1) / RUN;
    const int start = (int)get_global_id(0) % runs * RUN, block = first + (int)get_global_id(0) / runs % blocks_here;
    int at[AXES] = {get_global_id(2), 0, get_global_id(1), 0};
    const int stop = min(start + RUN, map.extent[3]);
    const long row = (at[0] + map.to_start[0]) * (long)blocks + block;
    y += ((row * map.to_length[2] + at[2] + map.to_start[2]) * map.to_length[3] + map.to_start[3]) * 16;
    const int across = running_along(&map, 3), channel_axis = running_along(&map, 1);
    const long base = source_of(&map, at, 1, 3);
    // what a lane has, counted from `base`: -1 for nothing, -2 for what belongs to another part of the destination
    long lanes[16];
    bool whole = true;
    int first_lane = 16, end_lane = 0;
    for (int lane = 0; lane < 16; lane++) {
        const int channel = block * 16 + lane - map.to_start[1];
        const bool filling = block * 16 + lane >= map.to_length[1];
        const bool mine = channel >= 0 && channel < map.extent[1];
        whole = whole && (mine || filling);
        const int place = !mine || channel_axis < 0 ? 0 : sampled(&map, channel_axis, channel);
        lanes[lane] = !mine ? filling ? -1 : -2
            : base < 0 || place < 0 ? -1 : base + (channel_axis < 0 ? 0 : apart(&map, channel_axis, place));
        if (lanes[lane] >= 0) {
            first_lane = min(first_lane, lane);
            end_lane = lane + 1;
        }
    }
    float numbers[16];
    for (int lane = 0; lane < 16; lane++)
        numbers[lane] = map.value;
    for (int column = start; column < stop; column++) {
        const int place = across < 0 ? 0 : sampled(&map, across, column);
        const long further = across < 0 || place < 0 ? 0 : apart(&map, across, place);
        if (aligned && place >= 0 && lanes[0] >= 0) {
            STORE16_Y(LOAD16_X(x + lanes[0] + further), y + column * 16);
            continue;
        }
        for (int lane = first_lane; lane < end_lane; lane++)
            numbers[lane] = lanes[lane] < 0 || place < 0 ? map.value : (float)LOAD_X(x + lanes[lane] + further);
        if (whole) {
            STORE16_Y(REAL16(vload16(0, numbers)), y + column * 16);
        } else {
            for (int lane = 0; lane < 16; lane++)
                if (lanes[lane] != -2)
                    STORE_Y(numbers[lane], y + column * 16 + lane);
        }
    }
}

#else

// Up to RUN numbers along the last axis. `aligned` says that they are neighbours in the source too.
kernel void move(global const X *restrict x, global Y *y, Map map, int aligned) {
    const int last = map.to_axes - 1, runs = (map.extent[last] + RUN - 1) / RUN;
    const int start = (int)get_global_id(0) % runs * RUN, stop = min(start + RUN, map.extent[last]);
    int at[AXES];
    long rest = get_global_id(0) / runs;
    at[last] = 0;
    for (int axis = last - 1; axis >= 0; axis--) {
        at[axis] = rest % map.extent[axis];
        rest /= map.extent[axis];
    }
    long to = 0;
    for (int axis = 0; axis <= last; axis++)
        to = to * map.to_length[axis] + at[axis] + map.to_start[axis];
    y += to;
    const long base = source_of(&map, at, last, -1);
    const int along = running_along(&map, last);
    if (base < 0) {
        for (int n = start; n < stop; n++)
            STORE_Y(map.value, y + n);
        return;
    }
    x += base;
    if (along < 0) {
        for (int n = start; n < stop; n++)
            STORE_Y((float)LOAD_X(x), y + n);
        return;
    }
#ifdef FROM_BLOCKS
    const bool even = along != 1;
#else
    const bool even = true;
#endif
    if (map.beyond == NOTHING && even) {
        const long step = apart(&map, along, 1) * map.step[along];
        x += apart(&map, along, map.start[along]);
        int n = start;
        if (aligned)
            for (; n + 16 <= stop; n += 16)
                STORE16_Y(LOAD16_X(x + n), y + n);
        for (; n < stop; n++)
            STORE_Y((float)LOAD_X(x + n * step), y + n);
        return;
    }
    for (int n = start; n < stop; n++) {
        const int place = sampled(&map, along, n);
        STORE_Y(place < 0 ? map.value : (float)LOAD_X(x + apart(&map, along, place)), y + n);
    }
}

#endif

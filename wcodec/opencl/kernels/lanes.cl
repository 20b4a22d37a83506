// Vectors of LANES lanes: 16 where one core's registers serve all of them, 1 where a device has threads to spare.

#if LANES == 16
typedef int16 Ints;
typedef uint16 Uints;
typedef float16 Floats;
#define EACH(M) (M(0), M(1), M(2), M(3), M(4), M(5), M(6), M(7), M(8), M(9), M(a), M(b), M(c), M(d), M(e), M(f))
#define LANE(v, k) v.s##k
#define AS_UINTS as_uint16
#define AS_INTS as_int16
#define TO_FLOATS convert_float16
#define LOAD_UINTS(place) vload16(0, place)
#define ANY(flags) any(flags)
// 1 where a comparison holds: comparing vectors gives -1, comparing numbers 1.
#define ONE_IF(flags) as_uint16(-(flags))
#define WHERE(flags, yes, no) select(no, yes, flags)
#else
typedef int Ints;
typedef uint Uints;
typedef float Floats;
#define EACH(M) M(x)
#define LANE(v, k) v
#define AS_UINTS as_uint
#define AS_INTS as_int
#define TO_FLOATS convert_float
#define LOAD_UINTS(place) *(place)
#define ANY(flags) (flags)
#define ONE_IF(flags) ((uint)(flags))
#define WHERE(flags, yes, no) ((flags) ? (yes) : (no))
#endif

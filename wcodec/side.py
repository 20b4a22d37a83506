"""Side information: the scales and zero points of one tensor as the bytes of its side chunk.

A little-endian u32 with the length of the coded scales, the scales as the `floats` coder codes them, then, in the
asymmetric form, the zero points as one Zstandard frame. Both in C order of the block grid.
"""

from __future__ import annotations

import math
import struct

import numpy as np

from wcodec.coders.floats import Floats, encode_planes
from wcodec.coders.zstd import Zstd
from wcodec.errors import CoderError, CorruptFileError
from wcodec.scales import Scales, Uniform, block_grid, scale_dtype
from wcodec.tiling import Rows

SIDE_SLACK = 1 << 18
SIDE_RATIO = 64
"""Scales and zero points together may take `SIDE_SLACK` bytes and `SIDE_RATIO` times the length of the side chunk: a
small file cannot make a reader allocate without bound."""

_LENGTH = struct.Struct("<I")
_SCALES = Floats(level=19)
_ZERO_POINTS = Zstd(level=19, layout="bytes")


def pack_scales(scales: Scales, quantizer: Uniform, dtype: str) -> bytes:
    """The side chunk of a tensor of wcodec dtype `dtype` with these scales; `CoderError` if it would not read back."""
    zero_points = b"" if scales.zero_point is None else _ZERO_POINTS.encode(scales.zero_point.reshape(1, 1, -1))
    payload = _joined(encode_planes(scales.scale, _SCALES.level), zero_points)
    if _unpacked_bytes(scales.scale.size, quantizer, dtype) > SIDE_SLACK + SIDE_RATIO * len(payload):
        # nearly all of them are the same, and compress by more than a reader believes
        payload = _joined(encode_planes(scales.scale, None), zero_points)
    back = unpack_scales(memoryview(payload), quantizer, dtype, scales.rows)
    if not all(np.array_equal(getattr(back, part), getattr(scales, part)) for part in ("scale", "zero_point")):
        raise CoderError("the scales did not come back as they were given")
    return payload


def _joined(coded_scales: bytes, zero_points: bytes) -> bytes:
    return _LENGTH.pack(len(coded_scales)) + coded_scales + zero_points


def _unpacked_bytes(count: int, quantizer: Uniform, dtype: str) -> int:
    return count * (scale_dtype(dtype).itemsize + (0 if quantizer.symmetric else quantizer.symbol_dtype.itemsize))


def unpack_scales(payload: memoryview, quantizer: Uniform, dtype: str, rows: Rows) -> Scales:
    """The scales of a tensor of wcodec dtype `dtype`, from its side chunk; `CorruptFileError` if they are not."""
    if len(quantizer.block) != len(rows.shape):
        raise CorruptFileError("recipe", f"blocks of {len(quantizer.block)} axes for a tensor of {len(rows.shape)}")
    grid = block_grid(rows.shape, quantizer.block)
    size = _unpacked_bytes(math.prod(grid), quantizer, dtype)
    if size > SIDE_SLACK + SIDE_RATIO * len(payload):
        raise CorruptFileError("side chunk", f"{len(payload)} bytes cannot hold {size} bytes of scales")
    if len(payload) < _LENGTH.size:
        raise CorruptFileError("side chunk", "ends before the length of its scales")
    (length,) = _LENGTH.unpack_from(payload)
    coded, rest = payload[_LENGTH.size :][:length], payload[_LENGTH.size :][length:]
    scale = np.empty(grid, scale_dtype(dtype))
    _SCALES.decode(coded, scale.reshape(1, 1, -1))
    if not np.isfinite(scale).all():
        raise CorruptFileError("side chunk", "holds a scale that is not a finite number")
    if quantizer.symmetric:
        if len(rest):
            raise CorruptFileError("side chunk", f"{len(rest)} bytes after its scales")
        return Scales(rows, quantizer.block, scale, None)
    zero_point = np.empty(grid, quantizer.symbol_dtype)
    _ZERO_POINTS.decode(rest, zero_point.reshape(1, 1, -1))
    if zero_point.size and zero_point.max() > quantizer.highest:
        raise CorruptFileError("side chunk", f"holds a zero point beyond {quantizer.highest}")
    return Scales(rows, quantizer.block, scale, zero_point)

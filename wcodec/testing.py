"""The contract every coder keeps, as a suite: run it over your own with `check_coder`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from wcodec.coders.base import Coder, Frames
from wcodec.errors import CorruptFileError
from wcodec.model import DTYPES


def symbols_for(dtype: np.dtype[Any], bits: int, shape: tuple[int, ...]) -> Frames:
    """Symbols that use the whole range of `bits`, the same on every machine: a linear congruential sequence.

    Half of the integers are small, as trained weights are, and the extremes are among them; floats are any bits.
    """
    size = math.prod(shape)
    state = (np.arange(1, size + 1, dtype=np.uint64) * np.uint64(6364136223846793005)) ^ np.uint64(0x9E3779B97F4A7C15)
    state ^= state >> np.uint64(29)
    state *= np.uint64(0xBF58476D1CE4E5B9)
    if dtype.kind not in "iu" or bits > 32:
        return (state >> np.uint64(64 - 8 * dtype.itemsize)).astype(f"<u{dtype.itemsize}").view(dtype).reshape(shape)
    noise = (state >> np.uint64(64 - bits)).astype(np.int64)
    middle = 1 << (bits - 1)
    noise = np.where(state & np.uint64(1) == 1, noise, middle + (noise - middle) // max(1, middle // 8))
    noise[0], noise[-1] = 0, (1 << bits) - 1
    if dtype.kind == "i":
        noise -= middle
    return noise.astype(dtype).reshape(shape)


def frame_shapes(coder: Coder) -> Iterator[tuple[int, int, int]]:
    """Least, odd, flat, tall and several frames, within the coder's limits."""
    if coder.limits is None:
        yield from ((1, 1, 1), (1, 1, 37), (1, 53, 1), (1, 7, 129), (3, 5, 11))
        return
    low = coder.limits.low
    yield from ((1, low, low), (1, low + 1, low), (1, low, low + 3), (3, low + 1, low + 2))


def check_coder(coder: Coder, dtype: np.dtype[Any], bits: int) -> None:
    """Assert the contract of `Coder` for symbols of one kind, over every shape of `frame_shapes`."""
    assert coder.takes(dtype, bits)
    for shape in frame_shapes(coder):
        frames = symbols_for(dtype, bits, shape)
        given = frames.copy()
        payload = coder.encode(frames)
        assert np.array_equal(_bits(frames), _bits(given)), "encode changed its input"
        assert payload == coder.encode(frames), "the same frames gave other bytes"
        for view in (payload, memoryview(payload)):
            out = np.full_like(_bits(frames), 0xA5).view(dtype).reshape(shape)
            coder.decode(view, out)
            if coder.lossless:
                assert np.array_equal(_bits(out), _bits(frames)), "decode is not the inverse of encode"
        for damaged in (b"", payload[:-1], payload[: len(payload) // 2], payload + b"\0"):
            _refused(coder, damaged, frames)
        larger = np.empty((shape[0] + 8, *shape[1:]), dtype)
        _refused(coder, payload, larger)


def _refused(coder: Coder, payload: bytes, like: Frames) -> None:
    try:
        coder.decode(payload, np.empty_like(like))
    except CorruptFileError:
        return
    raise AssertionError(f"{len(payload)} bytes that are not such frames were taken for {like.shape}")


def _bits(frames: Frames) -> Frames:
    return frames.reshape(-1).view(np.uint8)


SYMBOL_KINDS: tuple[tuple[np.dtype[Any], int], ...] = (
    *((np.dtype(np.int8), bits) for bits in (2, 3, 4, 7, 8)),
    *((np.dtype(np.uint8), bits) for bits in (2, 4, 8)),
    *((np.dtype(np.int16), bits) for bits in (10, 12, 16)),
    *((np.dtype(np.uint16), bits) for bits in (10, 12, 16)),
    *(
        (dtype, 8 * dtype.itemsize)
        for dtype in DTYPES.values()
        if 2 < dtype.itemsize < 16 or dtype.name.startswith(("float", "bfloat"))
    ),
)
"""Dtypes and bits of symbols that coders meet."""

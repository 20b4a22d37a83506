"""A decoder written from SPEC.md alone, slow and obvious, for the coders that need no video codec."""

from __future__ import annotations

import itertools
import math
import struct
from typing import Any

import ml_dtypes
import numpy as np
import zstandard

from tests.support import plain_rans
from tests.support.containers import dissect

Array = np.ndarray[Any, Any]

_TYPES: dict[str, Any] = {
    "bool": "u1", "u8": "u1", "i8": "i1", "u16": "<u2", "i16": "<i2", "u32": "<u4", "i32": "<i4", "u64": "<u8",
    "i64": "<i8", "f16": "<f2", "f32": "<f4", "f64": "<f8", "c64": "<c8", "c128": "<c16", "u4": "u1", "i4": "i1",
    "bf16": ml_dtypes.bfloat16, "f8_e4m3fn": ml_dtypes.float8_e4m3fn,
}  # fmt: skip


def decode(data: bytes) -> dict[str, Array]:
    """Every tensor of a file; 4-bit integers as 8-bit ones, booleans as bytes."""
    index = dissect(data).index
    return {entry[0]: _tensor(data, index["recipes"][entry[4]], *entry[:4], *entry[5:]) for entry in index["tensors"]}


def _tensor(
    data: bytes, recipe: Any, name: str, dtype: str, shape: Any, row_axes: int, side: Any, chunks: Any
) -> Array:
    quantizer = recipe["quantizer"]
    result = np.dtype(_TYPES[dtype])
    kind = result
    if quantizer["id"] == "uniform":
        kind = np.dtype(f"<{'i' if quantizer['symmetric'] else 'u'}{1 if quantizer['bits'] <= 8 else 2}")
    row_size = math.prod(shape[row_axes:])
    pieces = [
        frames_to_symbols(recipe, data[offset : offset + length], rows, row_size, kind)
        for offset, length, rows, _ in chunks
    ]
    symbols = np.concatenate([np.empty(0, kind), *pieces]).reshape(shape)
    if quantizer["id"] == "keep" or not chunks:
        return symbols.astype(result)
    real = np.dtype("<f8" if dtype == "f64" else "<f4")
    grid = [1 if b == 0 else -(-d // b) for d, b in zip(shape, quantizer["block"], strict=True)]
    payload = data[side[0] : side[0] + side[1]]
    (length,) = struct.unpack("<I", payload[:4])
    scales = _floats(payload[4 : 4 + length], math.prod(grid), real).reshape(grid)
    zeros = np.zeros(grid, kind)
    if not quantizer["symmetric"]:
        zeros = np.frombuffer(_zstd(payload[4 + length :]), kind).reshape(grid)
    else:
        assert 4 + length == len(payload)
    out = np.empty(shape, result)
    for place in itertools.product(*map(range, shape)):
        block = tuple(i // b if b else 0 for i, b in zip(place, quantizer["block"], strict=True))
        out[place] = ((real.type(symbols[place]) - real.type(zeros[block])) * scales[block]).astype(result)
    return out


def frames_to_symbols(recipe: Any, payload: bytes, rows: int, row_size: int, kind: np.dtype[Any]) -> Array:
    """The symbols of one chunk, in C order."""
    tiling, count = recipe["tiling"], rows * row_size
    if recipe["coder"]["id"] == "rans":
        assert tiling["id"] == "flat"
        period, lane = recipe["coder"]["period"], recipe["coder"]["lane"]
        return np.array(plain_rans.decode(payload, rows, row_size, period, lane), kind)
    if tiling["id"] == "flat":
        return _symbols(recipe["coder"], payload, count, kind)
    lines = -(-count // tiling["line"])
    height, width = tiling["height"], tiling["width"]
    down, across = -(-lines // height), -(-tiling["line"] // width)
    frames = _symbols(recipe["coder"], payload, down * across * height * width, kind)
    out = np.empty(count, kind)
    for position in range(count):
        line, column = divmod(position, tiling["line"])
        frame = line // height * across + column // width
        out[position] = frames[(frame * height + line % height) * width + column % width]
    return out


def _symbols(coder: Any, payload: bytes, count: int, kind: np.dtype[Any]) -> Array:
    if coder["id"] == "raw":
        return np.frombuffer(payload, kind, count)
    if coder["id"] == "floats":
        return _floats(payload, count, kind)
    assert coder["id"] == "zstd"
    content = _zstd(payload)
    if coder["layout"] == "bytes":
        return np.frombuffer(content, kind, count)
    if coder["layout"] == "planes":
        planes = [content[plane * count : (plane + 1) * count] for plane in range(kind.itemsize)]
        return np.frombuffer(b"".join(bytes(element) for element in zip(*planes, strict=True)), kind)
    bits = {"nibbles": 4, "crumbs": 2}[coder["layout"]]
    values = [(byte >> shift) & ((1 << bits) - 1) for byte in content for shift in range(0, 8, bits)]
    assert not any(values[count:])
    if kind.kind == "i":
        values = [value - (1 << bits) if value >> (bits - 1) else value for value in values]
    return np.array(values[:count], kind)


def _floats(payload: bytes, count: int, kind: np.dtype[Any]) -> Array:
    planes = []
    for _ in range(kind.itemsize):
        (length,) = struct.unpack("<I", payload[:4])
        stored, payload = payload[4 : 4 + length % 2**31], payload[4 + length % 2**31 :]
        planes.append(stored if length >= 2**31 else _zstd(stored))
    assert not payload
    assert all(len(plane) == count for plane in planes)
    width = 8 * kind.itemsize
    words = [int.from_bytes(bytes(parts), "big") for parts in zip(*planes, strict=True)]
    words = [(word >> 1) | ((word & 1) << (width - 1)) for word in words]
    return np.frombuffer(b"".join(word.to_bytes(kind.itemsize, "little") for word in words), kind)


def _zstd(payload: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(payload)

"""`zstd`: Zstandard over symbols, packed below the byte or split into byte planes first."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import zstandard
from msgspec import Meta
from numpy.typing import NDArray

from wcodec.coders.base import Coder, Frames
from wcodec.errors import CoderError, CorruptFileError

Layout = Literal["bytes", "planes", "nibbles", "crumbs"]

_PACKED = {"nibbles": 4, "crumbs": 2}


class Zstd(Coder, frozen=True, tag="zstd"):
    """One Zstandard frame a chunk, with its content size, without a checksum or a dictionary.

    `layout` says what the bytes are: "bytes", the elements in little-endian order; "planes", the first byte of all
    elements, then the second of all, and so on; "nibbles" and "crumbs", the low 4 or 2 bits of 8-bit symbols, the
    first symbol in a byte's lowest bits, the last byte filled up with zeros.
    """

    level: Annotated[int, Meta(ge=1, le=22)]
    layout: Layout

    @classmethod
    def suited(cls, level: int, dtype: np.dtype[Any], bits: int) -> Zstd:
        """The layout that packs symbols of `dtype` with `bits` of information densest."""
        if dtype.kind in "iu" and dtype.itemsize == 1 and bits <= 4:
            return cls(level, "crumbs" if bits <= 2 else "nibbles")
        return cls(level, "planes" if dtype.itemsize > 1 else "bytes")

    def takes(self, dtype: np.dtype[Any], bits: int) -> bool:
        packed = _PACKED.get(self.layout)
        return packed is None or (dtype.kind in "iu" and dtype.itemsize == 1 and bits <= packed)

    def encode(self, frames: Frames) -> bytes:
        return compress(self._pack(frames), self.level)

    def decode(self, payload: bytes | memoryview, out: Frames) -> None:
        packed = _PACKED.get(self.layout)
        length = out.nbytes if packed is None else -(-out.size * packed // 8)
        data = np.frombuffer(decompress(payload, length), np.uint8)
        if self.layout == "bytes":
            out[...] = data.view(out.dtype).reshape(out.shape)
        elif self.layout == "planes":
            out.view(np.uint8).reshape(-1, out.itemsize)[...] = data.reshape(out.itemsize, -1).T
        else:
            _unpack(data, _PACKED[self.layout], out)

    def _pack(self, frames: Frames) -> NDArray[np.uint8]:
        flat = np.ascontiguousarray(frames).reshape(-1)
        data = flat.view(np.uint8)
        if self.layout == "bytes":
            return data
        if self.layout == "planes":
            return np.ascontiguousarray(data.reshape(-1, frames.itemsize).T).reshape(-1)
        bits = _PACKED[self.layout]
        low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if frames.dtype.kind == "i" else (0, (1 << bits) - 1)
        if flat.min() < low or flat.max() > high:
            raise CoderError(f"symbols beyond {low}..{high} do not fit {self.layout}; take another layout")
        lanes = 8 // bits
        columns = np.pad(data & ((1 << bits) - 1), (0, -data.size % lanes)).reshape(-1, lanes)
        packed = columns[:, 0].copy()
        for lane in range(1, lanes):
            packed |= columns[:, lane] << (bits * lane)
        return packed


def _unpack(data: NDArray[np.uint8], bits: int, out: Frames) -> None:
    lanes = 8 // bits
    filled = out.size % lanes
    if filled and data[-1] >> (bits * filled):
        raise CorruptFileError("zstd payload", "the last byte is not filled up with zeros")
    symbols = np.empty((data.size, lanes), np.uint8)
    for lane in range(lanes):
        # shifting the lane to the top and back down extends the sign of signed symbols
        symbols[:, lane] = data << (8 - bits * (lane + 1))
    flat = symbols.reshape(-1)[: out.size].view(out.dtype)
    np.right_shift(flat, 8 - bits, out=flat)
    out[...] = flat.reshape(out.shape)


def compress(data: bytes | NDArray[np.uint8], level: int) -> bytes:
    """One Zstandard frame that states its content size."""
    compressor = zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)
    return compressor.compress(data.data if isinstance(data, np.ndarray) else data)


def decompress(payload: bytes | memoryview, length: int) -> bytes:
    """The content of one Zstandard frame that must be exactly `length` bytes, and must say so beforehand."""
    try:
        stated = zstandard.frame_content_size(payload)
        if stated != length:
            raise CorruptFileError("zstd payload", f"states {stated} bytes where {length} were expected")
        return zstandard.ZstdDecompressor().decompress(payload, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptFileError("zstd payload", str(error)) from error

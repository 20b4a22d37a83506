"""`floats`: floats bit for bit, exponents apart from mantissas.

Trained weights use few exponents, which Huffman coding halves, while their mantissas are noise that costs time and
gains nothing; the split is that of ZipNN (Hershcovitch et al., arXiv 2411.05239).
"""

from __future__ import annotations

import struct
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from wcodec.coders.base import Coder, Frames
from wcodec.coders.zstd import compress, decompress
from wcodec.errors import CorruptFileError

_PLANE = struct.Struct("<I")
_STORED = 1 << 31


class Floats(Coder, frozen=True, tag="floats"):
    """Byte planes of the floats' bits, each as it is or as one Zstandard frame, whichever is smaller.

    The bits of a float are rotated left by one, which puts the sign below the mantissa and the exponent into the
    highest byte. Planes run from that byte down. Each begins with its length as a little-endian u32, whose highest
    bit is set where the plane is stored as it is.
    """

    level: Annotated[int, Meta(ge=1, le=22)]

    def takes(self, dtype: np.dtype[Any], bits: int) -> bool:
        return dtype.itemsize in (1, 2, 4, 8) and dtype.name.startswith(("float", "bfloat"))

    def encode(self, frames: Frames) -> bytes:
        return encode_planes(frames, self.level)

    def decode(self, payload: bytes | memoryview, out: Frames) -> None:
        planes = np.empty((out.size, out.itemsize), np.uint8)
        rest = memoryview(payload)
        for place in reversed(range(out.itemsize)):
            if len(rest) < _PLANE.size:
                raise CorruptFileError("floats payload", "ends before its last plane")
            (word,) = _PLANE.unpack_from(rest)
            length, rest = word & ~_STORED, rest[_PLANE.size :]
            if length > len(rest) or (word & _STORED and length != out.size):
                raise CorruptFileError("floats payload", f"a plane of {length} bytes does not fit")
            plane = rest[:length] if word & _STORED else decompress(rest[:length], out.size)
            planes[:, place] = np.frombuffer(plane, np.uint8)
            rest = rest[length:]
        if len(rest):
            raise CorruptFileError("floats payload", f"{len(rest)} bytes after its last plane")
        words = planes.reshape(-1).view(f"<u{out.itemsize}")
        out.reshape(-1).view(f"<u{out.itemsize}")[...] = _rotate(words, 8 * out.itemsize - 1, 8 * out.itemsize)


def encode_planes(floats: NDArray[Any], level: int | None) -> bytes:
    """The payload of `Floats` for floats of any shape; with `level` None, every plane stored as it is."""
    words = np.ascontiguousarray(floats).reshape(-1).view(f"<u{floats.itemsize}")
    planes = _rotate(words, 1, 8 * floats.itemsize).view(np.uint8).reshape(-1, floats.itemsize)
    return b"".join(_encode_plane(planes[:, place], level) for place in reversed(range(floats.itemsize)))


def _encode_plane(plane: NDArray[np.uint8], level: int | None) -> bytes:
    stored = plane.tobytes()
    coded = stored if level is None else compress(stored, level)
    if len(coded) < len(stored):
        return _PLANE.pack(len(coded)) + coded
    return _PLANE.pack(len(stored) | _STORED) + stored


def _rotate(words: NDArray[Any], left: int, width: int) -> NDArray[Any]:
    one = words.dtype.type
    rotated: NDArray[Any] = (words << one(left)) | (words >> one(width - left))
    return rotated

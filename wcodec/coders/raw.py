"""`raw`: the symbols' own little-endian bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from wcodec.coders.base import Coder, Frames
from wcodec.errors import CorruptFileError


class Raw(Coder, frozen=True, tag="raw"):
    """Frames as they lie in memory, little-endian; the fastest to read, and the fallback for anything."""

    def takes(self, dtype: np.dtype[Any], bits: int) -> bool:
        return True

    def encode(self, frames: Frames) -> bytes:
        return frames.astype(frames.dtype.newbyteorder("<"), copy=False).tobytes()

    def decode(self, payload: bytes | memoryview, out: Frames) -> None:
        if len(payload) != out.nbytes:
            raise CorruptFileError("raw payload", f"{len(payload)} bytes where {out.nbytes} were expected")
        out[...] = np.frombuffer(payload, out.dtype.newbyteorder("<")).reshape(out.shape)

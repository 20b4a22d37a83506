"""The coder `rans` on the host, in NumPy: the reference that devices are held to."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from wcodec.coders.base import Coder, Frames
from wcodec.coders.rans.fit import fit
from wcodec.coders.rans.host import decode_lanes, encode_lanes
from wcodec.coders.rans.lanes import Lanes
from wcodec.coders.rans.payload import pack, unpack
from wcodec.errors import CoderError, CorruptFileError, WcodecError

LANE = 4608
"""Symbols of a lane of a large tensor: short enough for tens of thousands of lanes, long enough that the 40 bits or so
that a lane takes are under 1 % at 1.7 bits a symbol, and one row of a 3 x 3 convolution of 512 channels."""

LARGE = 1 << 20
"""Symbols of a tensor below which lanes are half as long: it has few enough of them as it is."""

MOST_POSITIONS = 128


class Rans(Coder, frozen=True, tag="rans"):
    """Asymmetric numeral systems over lanes of about `lane` symbols, their tables picked by scale and prediction.

    `period` is how many symbols that follow each other make a kernel, such as 9; 1 where there are none. The payload
    is described in formats/SPEC.md.
    """

    lane: Annotated[int, Meta(ge=128, le=16384)]
    period: Annotated[int, Meta(ge=1, le=MOST_POSITIONS)]

    @classmethod
    def suited(cls, size: int, kernel: tuple[int, ...]) -> Rans:
        """The coder for a tensor of `size` weights whose last axes, of these sides, are places in a kernel."""
        places = math.prod(kernel)
        return cls(LANE if size >= LARGE else LANE // 2, places if 0 < places <= MOST_POSITIONS else 1)

    def takes(self, dtype: np.dtype[Any], bits: int) -> bool:
        return dtype.kind in "iu" and dtype.itemsize <= 2

    def encode(self, frames: Frames) -> bytes:
        self.check_frames(frames, CoderError)
        symbols = frames.reshape(-1, frames.shape[2])
        model = fit(symbols, self.period)
        return pack(model, encode_lanes(model, symbols, self.lanes(symbols)))

    def decode(self, payload: bytes | memoryview, out: Frames) -> None:
        self.check_frames(out, partial(CorruptFileError, "rans payload"))
        symbols = out.reshape(-1, out.shape[2])
        lanes = self.lanes(symbols)
        model, streams = unpack(payload, len(symbols), symbols.shape[1] // self.period, self.period, len(lanes))
        decode_lanes(model, streams, lanes, symbols)

    def lanes(self, symbols: NDArray[Any]) -> Lanes:
        """The lanes of a chunk of shape (rows, row size)."""
        rows, row_size = symbols.shape
        return Lanes(rows, row_size, self.period, self.lane)

    def check_frames(self, frames: Frames, error: Callable[[str], WcodecError]) -> None:
        """Raise an error unless lines of frames are whole kernels."""
        if frames.shape[2] % self.period:
            raise error(f"lines of {frames.shape[2]} symbols are not whole kernels of {self.period}")

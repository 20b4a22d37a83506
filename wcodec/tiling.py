"""Geometry: a tensor's rows, the chunks they are cut into, and the bijection between a chunk and its frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from wcodec.coders.base import FrameLimits

CHUNK_ELEMENTS = 1 << 20
"""Elements a chunk aims at: large enough for a coder to learn its statistics, small enough for many cores."""

ROWS_TOGETHER = 16
"""Chunks of many rows begin at multiples of this: devices decode rows side by side, and store them in blocks."""

Side = Annotated[int, Meta(ge=1, le=16384)]


@dataclass(frozen=True)
class Rows:
    """A tensor seen as `count` rows of `size` elements: its first `axes` axes flattened, the rest a row."""

    shape: tuple[int, ...]
    axes: int

    @classmethod
    def of(cls, shape: Sequence[int]) -> Rows:
        """Axis 0 makes the rows, with as many axes after it as it takes to fit a row into a chunk."""
        axes = min(1, len(shape))
        while axes < len(shape) and math.prod(shape[axes:]) > CHUNK_ELEMENTS:
            axes += 1
        return cls(tuple(shape), axes)

    @property
    def count(self) -> int:
        return math.prod(self.shape[: self.axes])

    @property
    def trail(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.shape[self.axes :]

    @property
    def size(self) -> int:
        return math.prod(self.trail)

    def trail_from(self, axis: int) -> tuple[int, ...]:
        """The sides of a row that are the tensor's from axis `axis` on, such as those of convolution kernels from 2."""
        return self.shape[max(self.axes, axis) :]

    def chunks(self) -> list[tuple[int, int]]:
        """Ranges [start, stop) of rows, about as long as each other, together the tensor; none if empty."""
        if not self.count or not self.size:
            return []
        pieces = min(math.ceil(self.count * self.size / CHUNK_ELEMENTS), self.count)
        step = ROWS_TOGETHER if self.count >= 4 * ROWS_TOGETHER * pieces else 1
        bounds = [step * -(-self.count * piece // (pieces * step)) for piece in range(pieces)]
        return list(pairwise([*bounds, self.count]))


class Flat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id", tag="flat"):
    """A chunk is one frame: a line a row, nothing added."""

    in_place: ClassVar[bool] = True
    """Whether frames and symbols are the same bytes in the same order, so that decoding needs no second array."""

    def frames_shape(self, rows: int, row_size: int) -> tuple[int, int, int]:
        return 1, rows, row_size

    def tile(self, symbols: NDArray[Any]) -> NDArray[Any]:
        """(rows, ...) -> (1, rows, row size), without a copy where the input is contiguous."""
        return np.ascontiguousarray(symbols).reshape(1, symbols.shape[0], -1)

    def untile(self, frames: NDArray[Any], rows: int, row_size: int) -> NDArray[Any]:
        """The inverse of `tile`, as (rows, row size), without a copy."""
        return frames.reshape(rows, row_size)


class Grid(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id", tag="grid"):
    """A chunk is cut into lines of `line` symbols, and the plane they make into frames of `height` x `width`.

    The symbols of a chunk, in C order, fill lines one after the other; the last line and the last frames down and
    across are filled up by repeating their edge, which costs a predictive coder least. Frames go left to right,
    then down. With `line` a row's size or a multiple of it, neighbouring rows stay neighbours.
    """

    in_place: ClassVar[bool] = False

    line: Annotated[int, Meta(ge=1, le=1 << 24)]
    height: Side
    width: Side

    def frames_shape(self, rows: int, row_size: int) -> tuple[int, int, int]:
        down, across = self._frames(rows * row_size)
        return down * across, self.height, self.width

    def tile(self, symbols: NDArray[Any]) -> NDArray[Any]:
        """(rows, ...) of at least one symbol -> (count, height, width)."""
        flat = symbols.reshape(-1)
        down, across = self._frames(flat.size)
        lines = math.ceil(flat.size / self.line)
        plane = np.pad(flat, (0, lines * self.line - flat.size), mode="edge").reshape(lines, self.line)
        missing = ((0, down * self.height - lines), (0, across * self.width - self.line))
        plane = np.pad(plane, missing, mode="edge")
        frames = plane.reshape(down, self.height, across, self.width).swapaxes(1, 2)
        return np.ascontiguousarray(frames).reshape(-1, self.height, self.width)

    def untile(self, frames: NDArray[Any], rows: int, row_size: int) -> NDArray[Any]:
        """The inverse of `tile`, as (rows, row size)."""
        size = rows * row_size
        down, across = self._frames(size)
        lines = math.ceil(size / self.line)
        blocks = frames.reshape(down, across, self.height, self.width)
        plane = blocks.swapaxes(1, 2).reshape(down * self.height, across * self.width)
        return plane[:lines, : self.line].reshape(-1)[:size].reshape(rows, row_size)

    def _frames(self, size: int) -> tuple[int, int]:
        lines = math.ceil(size / self.line)
        return math.ceil(lines / self.height), math.ceil(self.line / self.width)


Tiling = Flat | Grid

_FEW = 16
"""A chunk of fewer rows than this is laid out square: there is little below a row to predict."""

_NARROW = 128
"""Rows shorter than this are laid side by side: a narrow frame is mostly border, which predicts badly."""


def choose_tiling(rows: Rows, limits: FrameLimits | None) -> Tiling:
    """The tiling of a tensor for a coder with these frame limits (None: the coder takes any size)."""
    if limits is None or not rows.chunks():
        return Flat()
    start, stop = rows.chunks()[0]
    size = (stop - start) * rows.size
    if stop - start < _FEW:
        line = min(size, max(_NARROW, math.isqrt(size)))
    else:
        line = rows.size * math.ceil(min(_NARROW, size) / rows.size)
    across = math.ceil(line / limits.high)
    lines = math.ceil(size / line)
    down = math.ceil(lines / limits.high)
    return Grid(line, max(limits.low, math.ceil(lines / down)), max(limits.low, math.ceil(line / across)))

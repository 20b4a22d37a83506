"""How the symbols of a chunk are dealt to lanes, each decoded by itself."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Lanes:
    """The lanes of a chunk of `rows` rows of `row_size` symbols, in kernels of `period`, each of about `lane` symbols.

    A row longer than `lane` symbols is cut into pieces of whole kernels, one kernel longer or shorter than another; of
    shorter rows, a lane holds as many whole ones as come to no more than `lane` symbols. So every lane is a range of
    the chunk's symbols in C order.
    """

    def __init__(self, rows: int, row_size: int, period: int, lane: int) -> None:
        if row_size <= lane:
            self.rows, self.pieces = lane // row_size, 1
            starts = np.arange(0, rows, self.rows, dtype=np.int64) * row_size
        else:
            kernels = row_size // period
            self.rows, self.pieces = 1, min(-(-row_size // lane), kernels)
            within = np.arange(self.pieces, dtype=np.int64) * kernels // self.pieces * period
            starts = (np.arange(rows, dtype=np.int64)[:, None] * row_size + within).reshape(-1)
        self.starts = np.append(starts, rows * row_size)
        """Where lanes begin among the chunk's symbols, and where the last one ends."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """The lanes' numbers, longest first, so that those that go on are always the first ones."""
        return np.argsort(-self.lengths, kind="stable")

    def alike(self) -> list[NDArray[np.int64]]:
        """The lanes' numbers in sets of lanes that hold as many rows, or the same columns of different rows."""
        numbers = np.arange(len(self))
        if self.pieces > 1:
            return list(numbers.reshape(-1, self.pieces).T)
        whole = len(self) - int(self.lengths[-1] != self.lengths[0])
        return [part for part in (numbers[:whole], numbers[whole:]) if len(part)]

    @property
    def longest(self) -> int:
        return int(self.lengths.max())

    def runs(self) -> Iterator[tuple[range, int]]:
        """Ranges of places in lanes, from the first place to the last, and how many lanes reach them."""
        ends, counts = np.unique(self.lengths, return_counts=True)
        start, count = 0, len(self)
        for end, fewer in zip(ends.tolist(), counts.tolist(), strict=True):
            yield range(start, end), count
            start, count = end, count - fewer

    def columns(self, flat: NDArray[Any]) -> NDArray[Any]:
        """Symbols in C order as columns, one a lane, longest first: shape (longest lane, lanes)."""
        out = np.zeros((self.longest, len(self)), flat.dtype)
        for column, lane in enumerate(self.order.tolist()):
            out[: self.lengths[lane], column] = flat[self.starts[lane] : self.starts[lane + 1]]
        return out

    def flat(self, columns: NDArray[Any]) -> NDArray[Any]:
        """The inverse of `columns`."""
        out = np.empty(self.starts[-1], columns.dtype)
        for column, lane in enumerate(self.order.tolist()):
            out[self.starts[lane] : self.starts[lane + 1]] = columns[: self.lengths[lane], column]
        return out

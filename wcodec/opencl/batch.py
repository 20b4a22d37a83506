"""Chunks of `rans` as the kernel takes them: side information as integers, and lanes in groups that go in step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wcodec.coders.rans import Rans
from wcodec.coders.rans.lanes import Lanes
from wcodec.coders.rans.model import LAGS, Model
from wcodec.coders.rans.payload import unpack
from wcodec.coders.rans.words import Streams

GROUP_FIELDS = 8
"""Integers before those of a group's lanes."""

_PADDING = 2
"""Words after the last one, since kernels look at two at a time."""


@dataclass
class Batch:
    """Some chunks of one tensor in one array: integers first, then 16-bit words.

    `groups_at` and `chunks_at` count integers, `words_at` counts u32, `words` the words themselves.
    """

    blob: NDArray[np.uint32]
    groups: int
    groups_at: int
    chunks_at: int
    words_at: int
    words: int
    predicted: bool
    low: bool
    owners: NDArray[np.int64] = field(repr=False)
    """For every lane of every group: its chunk's place in the batch and its number there, shape (groups * lanes, 2)."""


class SideBuilder:
    """Collects numbers of models in one array, as kernels take them."""

    def __init__(self) -> None:
        self.parts: list[NDArray[np.int32]] = []
        self.filled = 0

    def put(self, numbers: NDArray[Any]) -> int:
        """Numbers into the array; the place of the first."""
        place = self.filled
        self.parts.append(numbers.reshape(-1).astype(np.int64).astype(np.uint32).view(np.int32))
        self.filled += len(self.parts[-1])
        return place

    def put_model(self, model: Model, columns: int) -> list[int]:
        """All of a model but its tables; the fields from LOG_SIZE to LOW_BITS of the kernels' enums."""
        period = len(model.position)
        coefficients = np.zeros((period, LAGS), np.int32)
        if model.coefficients is not None:
            for position in range(period):
                coefficients[position, : min(position, LAGS)] = model.coefficients[position, : min(position, LAGS)]
        return [
            model.size.bit_length() - 1,
            model.phases.bit_length() - 1,
            self.put(model.row),
            self.put(model.center),
            int(len(model.center) > 1),
            self.put(np.broadcast_to(model.column, columns)),
            self.put(model.position),
            self.put(coefficients),
            len(model.classes) - 1,
            model.origin,
            model.low,
        ]


class BatchBuilder:
    """Collects the chunks of a batch, for kernels that decode `vector` lanes in step."""

    def __init__(self, coder: Rans, row_size: int, vector: int) -> None:
        self._coder, self._row_size, self._vector = coder, row_size, vector
        self._side = SideBuilder()
        self._chunks: list[list[int]] = []
        self._groups: list[NDArray[np.int64]] = []
        self._owners: list[NDArray[np.int64]] = []
        self._words: list[NDArray[np.uint16]] = []
        self._word_count = 0
        self._predicted = self._low = False

    def add(self, payload: bytes | memoryview, rows: int, first_row: int) -> None:
        """A chunk of so many rows; `CorruptFileError` where its payload does not say how to decode it."""
        period = self._coder.period
        lanes = Lanes(rows, self._row_size, period, self._coder.lane)
        model, streams = unpack(payload, rows, self._row_size // period, period, len(lanes))
        self._add_groups(lanes, streams)
        self._chunks.append(self._fields(model, first_row))
        self._words.append(streams.words)
        self._word_count += len(streams.words)
        self._predicted |= model.coefficients is not None
        self._low |= model.low > 0

    def finish(self) -> Batch:
        groups = np.concatenate(self._groups).reshape(-1)
        chunks = np.array(self._chunks, np.int32).reshape(-1)
        words = np.concatenate([*self._words, np.zeros(_PADDING + self._word_count % 2, np.uint16)])
        parts = [*self._side.parts, chunks.view(np.uint32), groups.astype(np.uint32), words.view(np.uint32)]
        return Batch(
            blob=np.concatenate([part.view(np.uint32) for part in parts]),
            groups=len(groups) // (GROUP_FIELDS + 4 * self._vector),
            chunks_at=self._side.filled,
            groups_at=self._side.filled + len(chunks),
            words_at=self._side.filled + len(chunks) + len(groups),
            words=self._word_count,
            predicted=self._predicted,
            low=self._low,
            owners=np.concatenate(self._owners),
        )

    def _fields(self, model: Model, first_row: int) -> list[int]:
        """What the first enum of kernels/rans_decode.cl names."""
        tables = model.tables()
        return [
            self._side.put(np.concatenate([table.dividers for table in tables])),
            self._side.put(np.concatenate([table.entries for table in tables])),
            *self._side.put_model(model, self._row_size // self._coder.period),
            first_row,
        ]

    def _add_groups(self, lanes: Lanes, streams: Streams) -> None:
        """Lanes of the same columns and number of rows go in step; the last group is filled up with its last lane."""
        size, period = self._row_size, self._coder.period
        ends = self._word_count + np.cumsum(streams.counts)
        begins, firsts = ends - streams.counts, lanes.starts[:-1]
        rows = np.maximum(1, lanes.lengths // size)
        columns = np.minimum(lanes.lengths, size) // period
        kinds, kind_of = np.unique(
            np.stack([rows, firsts % size // period, columns], axis=1), axis=0, return_inverse=True
        )
        for number, (count, first, width) in enumerate(kinds.tolist()):
            alike = np.flatnonzero(kind_of.reshape(-1) == number)
            members = np.pad(alike, (0, -len(alike) % self._vector), mode="edge").reshape(-1, self._vector)
            valid = np.minimum(self._vector, len(alike) - self._vector * np.arange(len(members)))
            heads = np.zeros((len(members), GROUP_FIELDS), np.int64)
            heads[:, 0], heads[:, 1], heads[:, 2:5] = len(self._chunks), valid, (count, first, width)
            parts = [begins[members], ends[members], streams.states[members].astype(np.int64), firsts[members] // size]
            self._groups.append(np.concatenate([heads, *parts], axis=1).reshape(-1))
            chunk = np.full(members.size, len(self._chunks))
            self._owners.append(np.stack([chunk, members.reshape(-1)], axis=1))

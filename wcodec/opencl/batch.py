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
    phases: bool
    low: bool
    owners: list[tuple[int, NDArray[np.int64]]] = field(repr=False)
    """For the lanes of all groups, in order: their chunk's place in the batch and their numbers there."""

    def owner(self, lane: int) -> tuple[int, int]:
        """The chunk of a lane, counted over all groups, and its number there."""
        for chunk, numbers in self.owners:
            if lane < len(numbers):
                return chunk, int(numbers[lane])
            lane -= len(numbers)
        raise IndexError(lane)


class SideBuilder:
    """Collects numbers of models in one array, as kernels take them."""

    def __init__(self) -> None:
        self.parts: list[NDArray[np.int32]] = []
        self.filled = 0

    def put(self, numbers: NDArray[Any]) -> int:
        """Numbers into the array; the place of the first."""
        place = self.filled
        flat = numbers.reshape(-1)
        self.parts.append((flat if flat.dtype == np.uint32 else flat.astype(np.int64).astype(np.uint32)).view(np.int32))
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
            model.log_size,
            model.log_phases,
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
        self._groups: list[NDArray[np.uint32]] = []
        self._owners: list[tuple[int, NDArray[np.int64]]] = []
        self._words: list[NDArray[np.uint16]] = []
        self._word_count = 0
        self._predicted = self._phases = self._low = False

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
        self._phases |= model.phases > 1
        self._low |= model.low > 0

    def finish(self) -> Batch:
        groups = np.concatenate(self._groups)
        chunks = np.array(self._chunks, np.int32).reshape(-1)
        words = np.concatenate([*self._words, np.zeros(_PADDING + self._word_count % 2, np.uint16)])
        parts = [*self._side.parts, chunks.view(np.uint32), groups, words.view(np.uint32)]
        return Batch(
            blob=np.concatenate([part.view(np.uint32) for part in parts]),
            groups=len(groups) // (GROUP_FIELDS + 4 * self._vector),
            chunks_at=self._side.filled,
            groups_at=self._side.filled + len(chunks),
            words_at=self._side.filled + len(chunks) + len(groups),
            words=self._word_count,
            predicted=self._predicted,
            phases=self._phases,
            low=self._low,
            owners=self._owners,
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
        size, period, vector = self._row_size, self._coder.period, self._vector
        ends = self._word_count + np.cumsum(streams.counts)
        begins, states = ends - streams.counts, streams.states.astype(np.int64)
        for alike in lanes.alike():
            start, length = int(lanes.starts[alike[0]]), int(lanes.lengths[alike[0]])
            filled = np.minimum(np.arange(-(-len(alike) // vector) * vector), len(alike) - 1)
            members = alike[filled].reshape(-1, vector)
            records = np.zeros((len(members), GROUP_FIELDS + 4 * vector), np.uint32)
            records[:, 0] = len(self._chunks)
            records[:, 1] = vector
            records[-1, 1] = len(alike) - vector * (len(members) - 1)
            records[:, 2:5] = max(1, length // size), start % size // period, min(length, size) // period
            parts = begins[members], ends[members], states[members], lanes.starts[members] // size
            records[:, GROUP_FIELDS:] = np.concatenate(parts, axis=1)
            self._groups.append(records.reshape(-1))
            self._owners.append((len(self._chunks), members.reshape(-1)))

"""The entropy coder: asymmetric numeral systems over lanes, in NumPy. It knows frequencies, and nothing of weights.

Range ANS (Duda, arXiv 1311.2540) with states of 32 bits, words of 16 and frequencies out of 4096. A lane has one state
and a stream of its own, so that any number of lanes can be decoded side by side. The encoder begins with the state
2^16 and the last symbol; the decoder ends there, and a lane that ends elsewhere is damaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wcodec.coders.rans.tables import PRECISION, TOTAL, Table

LOWEST = 1 << 16
"""States are in [2^16, 2^32) between symbols."""

Flags = NDArray[np.bool_]
Words = NDArray[np.uint32]
Places = NDArray[np.int64]


class Streams(NamedTuple):
    """Coded lanes: the state each begins decoding with, u32; how many words each has; their words, u16, in order."""

    states: Words
    counts: Places
    words: NDArray[np.uint16]


class Slots:
    """What decoding takes of the slots of tables, one table after the other: i64 each."""

    def __init__(self, tables: Sequence[Table]) -> None:
        entries = np.concatenate([table.entries_by_slot for table in tables]).astype(np.int64)
        self.frequencies = entries >> 20
        # state = frequency * (state >> 12) + rank, and the symbol below it, in one step from frequency * state
        slot = np.arange(len(entries)) & (TOTAL - 1)
        self.steps = ((entries >> 8 & TOTAL - 1) << PRECISION) - self.frequencies * slot + (entries & 255)


class Encoder:
    """Pushes symbols onto lanes, the last symbol first. Columns are lanes, longest first.

    Constants are arrays, results go where they are needed: with some hundred lanes, what NumPy does around a loop costs
    more than the loop.
    """

    def __init__(self, lanes: int, most: int) -> None:
        """For at most `most` pushes a lane."""
        self._states = np.full(lanes, LOWEST, np.uint32)
        self._words = np.empty((most, lanes), np.uint16)
        self._filled = np.zeros((most, lanes), np.bool_)
        self._place = most

    def use(self, count: int) -> None:
        """Push onto the first `count` lanes from now on."""
        self._state, self._whole, self._rank = self._states[:count], *np.empty((2, count), np.uint32)
        self._slot, self._full = np.empty(count, np.int64), np.empty(count, np.bool_)
        constants = np.array([PRECISION, 32 - PRECISION, 16], np.uint32)
        self._precision, self._headroom, self._sixteen = np.repeat(constants, count).reshape(3, count)

    def push(self, frequency: Words, slots: Words, base: Places) -> None:
        """A symbol onto each lane in use: `slots[base]` and on are the slots that decode to it."""
        state, whole, rank = self._state, self._whole, self._rank
        np.right_shift(state, self._headroom, out=whole)
        self._flush(np.greater_equal(whole, frequency, out=self._full))
        np.divmod(state, frequency, out=(whole, rank))
        np.add(base, rank, out=self._slot)
        slots.take(self._slot, out=rank, mode="clip")
        np.left_shift(whole, self._precision, out=whole)
        np.bitwise_or(whole, rank, out=state)

    def push_bits(self, which: Flags, bits: NDArray[Any], width: int) -> None:
        """`width` bits as they are onto those of the lanes in use that `which` picks."""
        state = self._state
        self._flush(which & (state >> np.uint32(32 - width) != 0))
        np.copyto(state, state << np.uint32(width) | bits.astype(np.uint32), where=which)

    def _flush(self, full: Flags) -> None:
        self._place -= 1
        self._words[self._place, : len(full)] = self._state
        self._filled[self._place, : len(full)] = full
        np.right_shift(self._state, self._sixteen, out=self._whole)
        np.copyto(self._state, self._whole, where=full)

    def finish(self, column: Places) -> Streams:
        """The streams of all lanes, of which number n is the column `column[n]`."""
        filled, words = (np.ascontiguousarray(part[self._place :].T)[column] for part in (self._filled, self._words))
        return Streams(self._states[column], filled.sum(axis=1, dtype=np.int64), words[filled])


class Decoder:
    """Takes symbols from lanes, the first symbol first. Columns are lanes, longest first. In the style of `Encoder`."""

    def __init__(self, streams: Streams, order: Places) -> None:
        """Of lanes of which number `order[n]` is column n."""
        ends = np.cumsum(streams.counts)
        self._ends = ends[order]
        self._nexts = self._ends - streams.counts[order]
        self._states = streams.states[order].astype(np.int64)
        # a lane that reads beyond the last word of all gets zeros, and does not end where it must
        self._words = np.append(streams.words, np.zeros(1, np.uint16)).astype(np.int64)

    def use(self, count: int) -> None:
        """Pop from the first `count` lanes from now on."""
        self._state, self._next = self._states[:count], self._nexts[:count]
        self._symbol, self._part, self._word = np.empty((3, count), np.int64)
        self._low = np.empty(count, np.bool_)
        constants = np.array([TOTAL - 1, PRECISION, 255, LOWEST, 16], np.int64)
        self._constants = tuple(np.repeat(constants, count).reshape(-1, count))

    def pop(self, slots: Slots, base: Places) -> Places:
        """The next symbol of each lane in use; its table begins at `base` of the slots. Valid until the next call."""
        state, symbol, part, word = self._state, self._symbol, self._part, self._word
        mask, precision, byte, _, _ = self._constants
        np.bitwise_and(state, mask, part)
        np.add(part, base, part)
        slots.frequencies.take(part, None, word, "clip")
        slots.steps.take(part, None, symbol, "clip")
        np.multiply(state, word, state)
        np.add(state, symbol, state)
        np.bitwise_and(state, byte, symbol)
        np.right_shift(state, precision, state)
        self._fill()
        return symbol

    def pop_bits(self, which: Flags, width: int) -> Places:
        """`width` bits from those of the lanes in use that `which` picks; the others' results mean nothing."""
        bits = self._state & ((1 << width) - 1)
        np.copyto(self._state, self._state >> width, where=which)
        self._fill()
        return bits

    def _fill(self) -> None:
        state, word, shifted, low = self._state, self._word, self._part, self._low
        np.less(state, self._constants[-2], low)
        self._words.take(self._next, None, word, "clip")
        np.add(self._next, low, self._next)
        # all states are shifted, which costs less than to leave some out
        np.left_shift(state, self._constants[-1], shifted)
        np.bitwise_or(shifted, word, shifted)
        np.copyto(state, shifted, "same_kind", low)

    def unfinished(self) -> Flags:
        """Which lanes did not end with the state and the word that the encoder began with."""
        unfinished: Flags = (self._states != LOWEST) | (self._nexts != self._ends)
        return unfinished

"""A decoder of `rans` written from SPEC.md alone, one symbol after the other, in Python's integers."""

from __future__ import annotations

import struct
from functools import cache
from math import isqrt

import zstandard

SHAPES = [(64, 0), (12, 0), (6, 0), (4, 0), (64, 64), (64, 128), (64, 192), (6, 128)]


class Stream:
    """The state of a lane and the words that it has left."""

    def __init__(self, state: int, words: list[int]) -> None:
        self.state, self.words = state, words

    def entry(self, frequency: list[int], owner: list[int], rank: list[int]) -> int:
        slot = self.state % 4096
        self.state = frequency[owner[slot]] * (self.state >> 12) + rank[slot]
        self._refill()
        return owner[slot]

    def bits(self, width: int) -> int:
        value, self.state = self.state % 2**width, self.state >> width
        self._refill()
        return value

    def _refill(self) -> None:
        if self.state < 2**16:
            self.state = self.state * 2**16 + self.words.pop(0)


class Chunk:
    """The fields of a payload under the names that SPEC.md gives them."""

    def __init__(self, payload: bytes, rows: int, row_size: int, period: int, lanes: int) -> None:
        fixed = struct.unpack_from("<BBBBiBB2xI", payload)
        self.log_size, self.log_phases, self.flags, self.low, self.origin, self.classes, stored, length = fixed
        self.row_size, self.period = row_size, period
        self.size, self.phases, self.half = 1 << self.log_size, 1 << self.log_phases, (1 << self.log_size) // 2 - 1
        side = payload[16 : 16 + length % 2**31]
        self.words = list(struct.unpack(f"<{(len(payload) - 16 - len(side)) // 2}H", payload[16 + len(side) :]))
        if length < 2**31:
            side = zstandard.ZstdDecompressor().decompress(side)
        self.row = signed(side[:rows])
        parts, place = [], rows
        for size in (
            rows if self.flags & 4 else 1,
            row_size // period if self.flags & 2 else 0,
            period,
            8 * period if self.flags & 1 else 0,
            2 * self.classes,
            2 * stored * self.size * self.phases,
            2 * lanes,
            4 * lanes,
        ):
            parts.append(side[place : place + size])
            place += size
        assert place == len(side)
        self.center, column, position, coefficients, tables, numbers, counts, states = parts
        self.column, self.position, self.coefficients = signed(column), signed(position), signed(coefficients)
        self.scales, self.shapes = tables[::2], tables[1::2]
        assert self.shapes.count(8) == stored
        self.stored, self.counts, self.states = planes(numbers, 2), planes(counts, 2), planes(states, 4)
        assert sum(self.counts) == len(self.words)

    def table(self, kind: int, phase: int) -> tuple[list[int], list[int], list[int]]:
        if self.shapes[kind] != 8:
            return table(self.scales[kind], self.shapes[kind], phase, self.phases, self.size)
        place = (self.shapes[:kind].count(8) * self.phases + phase) * self.size
        frequency = self.stored[place : place + self.size]
        assert sum(frequency) == 4096
        return frequency, *slots(tuple(frequency))

    def symbol(self, place: int, stream: Stream, heights: list[int]) -> int:
        """The symbol at a place among the chunk's, whose height is added to those of its lane."""
        row, within = divmod(place, self.row_size)
        column, position = divmod(within, self.period)
        predicted = 0
        if self.flags & 1:
            for lag in range(1, min(position, 8) + 1):
                predicted += self.coefficients[8 * position + lag - 1] * heights[-lag]
        steps = (predicted + 2 ** (5 - self.log_phases)) >> (6 - self.log_phases)
        whole = (steps + self.phases // 2) >> self.log_phases
        phase = steps + self.phases // 2 - whole * self.phases
        kind = self.row[row] + (self.column[column] if self.flags & 2 else 0) + self.position[position]
        entry = stream.entry(*self.table(min(max(kind, 0), self.classes - 1), phase))
        center = self.center[row if self.flags & 4 else 0]
        level = stream.bits(8) if entry == self.size - 1 else whole + entry - self.half + center
        assert 0 <= level <= 255
        heights.append(level - center)
        return self.origin + level * 2**self.low + (stream.bits(self.low) if self.low else 0)


def decode(payload: bytes, rows: int, row_size: int, period: int, lane: int) -> list[int]:
    """The symbols of a chunk in C order."""
    lanes = lane_ranges(rows, row_size, period, lane)
    chunk = Chunk(payload, rows, row_size, period, len(lanes))
    out, taken = [], 0
    for (start, stop), count, state in zip(lanes, chunk.counts, chunk.states, strict=True):
        stream, heights = Stream(state, chunk.words[taken : taken + count]), list[int]()
        out += [chunk.symbol(place, stream, heights) for place in range(start, stop)]
        assert (stream.state, stream.words) == (2**16, [])
        taken += count
    return out


def signed(values: bytes) -> list[int]:
    return [value - 256 if value > 127 else value for value in values]


def planes(values: bytes, count: int) -> list[int]:
    """Numbers stored as planes of bytes, lowest first."""
    size = len(values) // count
    return [sum(values[place + plane * size] << (8 * plane) for plane in range(count)) for place in range(size)]


def lane_ranges(rows: int, row_size: int, period: int, lane: int) -> list[tuple[int, int]]:
    """First and last symbol, exclusive, of every lane."""
    starts: list[int] = []
    if row_size <= lane:
        starts = [row * row_size for row in range(0, rows, lane // row_size)]
    else:
        kernels = row_size // period
        pieces = min(-(-row_size // lane), kernels)
        for row in range(rows):
            starts += [row * row_size + i * kernels // pieces * period for i in range(pieces)]
    return list(zip(starts, [*starts[1:], rows * row_size], strict=True))


@cache
def table(scale: int, shape: int, phase: int, phases: int, size: int) -> tuple[list[int], list[int], list[int]]:
    """Frequencies of entries, and the entry and rank of slots."""
    freedom, spike = SHAPES[shape]
    shift = 2 * phase - phases if phases > 1 else 0
    half = size // 2 - 1

    def below(bound: int) -> int:
        width = 2 * phases * isqrt(isqrt(2 ** (scale + 52)))
        square = (bound * 2**16) ** 2
        whole = freedom * width**2 + square
        sine = isqrt(square * 2**60 // whole)
        cosine = (whole - square) * 2**30 // whole
        terms = [2**30]
        for k in range(1, freedom // 2):
            terms.append(terms[-1] * (2 * k - 1) // (2 * k))
        series = 0
        for term in reversed(terms):
            series = term + (series * cosine >> 30)
        return 2**29 + (sine * series >> 31) if bound > 0 else 2**29 - (sine * series >> 31)

    masses = []
    for residual in range(-half, half + 1):
        low, high = (below(2 * phases * (residual + edge) - phases - shift) for edge in (0, 1))
        mass = ((high - low) * (2**30 - spike * 2**22) >> 30) + (spike * 2**22 if residual == 0 else 0)
        masses.append(0 if mass < 2**16 else mass)
    masses.append(min(max(1, 2**30 - sum(masses)), 2**22))
    surplus = [max(0, mass - 2**18) for mass in masses]
    free, every = 4096 - sum(mass > 0 for mass in masses), max(1, sum(surplus))
    frequency = []
    for place, mass in enumerate(masses):
        before = sum(surplus[:place])
        share = free * (before + surplus[place]) // every - free * before // every
        frequency.append(1 + share if mass else 0)
    assert sum(frequency) == 4096
    return frequency, *slots(tuple(frequency))


@cache
def slots(frequency: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """The entry that every slot belongs to, and its rank among that entry's slots."""
    size = len(frequency)
    width = 4096 // size
    left, owner = list(frequency), [slot // width for slot in range(4096)]
    settled: set[int] = set()
    latest: list[int] = []
    while True:
        if latest:
            entry = latest.pop()
        else:
            waiting = [e for e in range(size) if frequency[e] < width and e not in settled]
            if not waiting:
                break
            entry = waiting[0]
        settled.add(entry)
        donor = next(e for e in range(size) if e not in settled and left[e] >= width)
        for slot in range(entry * width + left[entry], (entry + 1) * width):
            owner[slot] = donor
        left[donor] -= width - left[entry]
        if left[donor] < width:
            latest.append(donor)
    ranks, seen = [], [0] * size
    for slot in range(4096):
        ranks.append(seen[owner[slot]])
        seen[owner[slot]] += 1
    assert tuple(seen) == frequency
    return owner, ranks

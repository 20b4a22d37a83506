"""One piece of memory for all values: those that are never needed at the same time share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Life:
    """A value of so many bytes, needed from the step that makes it to the last that reads it, both counted."""

    name: str
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Arena:
    """Where each value begins, in bytes, and the bytes that all take."""

    offsets: dict[str, int]
    size: int


def arranged(lives: Sequence[Life], alignment: int) -> Arena:
    """Offsets at which no two values overlap that are needed at the same time.

    The largest are placed first, each in the smallest gap that the ones before leave it (Pisarchyk and Lee 2020,
    "Efficient Memory Management for Deep Neural Net Inference", greedy by size).
    """
    placed: list[tuple[int, int, Life]] = []
    for life in sorted(lives, key=lambda life: (-life.size, life.first, life.name)):
        size = -(-life.size // alignment) * alignment
        taken = sorted((b, e) for b, e, other in placed if other.first <= life.last and life.first <= other.last)
        begin = _smallest_gap(taken, size)
        placed.append((begin, begin + size, life))
    return Arena({life.name: begin for begin, _, life in placed}, max((end for _, end, _ in placed), default=alignment))


def _smallest_gap(taken: list[tuple[int, int]], size: int) -> int:
    best, slack, at = -1, 0, 0
    for begin, end in taken:
        gap = begin - at
        if gap >= size and (best < 0 or gap < slack):
            best, slack = at, gap
        at = max(at, end)
    return best if best >= 0 else at

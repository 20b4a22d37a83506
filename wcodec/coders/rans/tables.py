"""Probability tables of `rans`: a family of symmetric distributions, built by integer arithmetic alone.

A table gives every residual of [-half, half] and an escape, together `size` entries, a frequency out of 4096. Its shape
is Student's t distribution with an even number of degrees of freedom, whose cumulative function is a polynomial and one
square root (Abramowitz and Stegun, 26.7.4), or such a one with a spike at 0. Slots are given to symbols by the alias
method (Walker 1977; for rANS: Giesen, "Interleaved entropy coders", arXiv 1402.3392), so that a decoder needs two short
look-ups and no search.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from math import isqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

PRECISION = 12
TOTAL = 1 << PRECISION
"""Frequencies of a table add up to this."""

SCALES = 48
"""Scales of the family: number u has a standard deviation, or what stands for it, of 2^(u / 4 - 3) steps."""

_ONE = 1 << 30
"""1 as the integers that stand for probabilities here."""

_RARE = 8
"""An escape has at most a probability of 2^-8 or so: what lies beyond a table is mostly what no symbol can reach."""

SMALLEST, LARGEST = 8, 256
"""Entries of a table: a power of two in this range."""


class Shape(NamedTuple):
    """Degrees of freedom, an even number, and 256ths of the probability that stand at 0 alone."""

    freedom: int
    spike: int


SHAPES = (
    Shape(64, 0),
    Shape(12, 0),
    Shape(6, 0),
    Shape(4, 0),
    Shape(64, 64),
    Shape(64, 128),
    Shape(64, 192),
    Shape(6, 128),
)
"""From near-Gaussian to long-tailed; the spiked ones are for tensors with many zeros."""

STORED = len(SHAPES)
"""Stands for a shape where a class's frequencies are stored: those of pruned or oddly rounded weights fit no family."""


class Table(NamedTuple):
    """Frequencies of the residuals from -half to half and of the escape, and the slots that decode to each.

    `frequencies` has shape (size,). For slot s of bucket b = s * size / 4096, rounded down, the symbol is b where
    s < `dividers[b]`, else the alias; entry 2b or 2b + 1 of `entries` holds it: the symbol in bits 0 to 7, in bits 8 to
    19 what added to s gives, modulo 4096, its rank among the symbol's slots, and in bits 20 to 31 its frequency.
    """

    frequencies: NDArray[np.uint32]
    dividers: NDArray[np.uint32]
    entries: NDArray[np.uint32]
    slots: NDArray[np.uint32]
    """All slots, those of the first symbol in order of rank, then those of the second, and so on: for encoders."""
    entries_by_slot: NDArray[np.uint32]
    """The entry of every slot, its middle bits the rank itself: for decoders that would rather look up once."""


def cumulative(shape: Shape, scale: int, numerator: int, denominator: int) -> int:
    """The probability, of 2^30, of a value below numerator / denominator steps, without the spike."""
    # 2^16 times the scale, rounded down: the nested square roots are a fourth root
    width = denominator * isqrt(isqrt(1 << (scale + 4 * 13)))
    square = (numerator << 16) ** 2
    whole = shape.freedom * width**2 + square
    sine = isqrt((square << 60) // whole)
    cosine = ((whole - square) << 30) // whole
    series = 0
    for coefficient in reversed(_series(shape.freedom)):
        series = coefficient + (series * cosine >> 30)
    half = sine * series >> 31
    return (_ONE >> 1) + (half if numerator > 0 else -half)


@lru_cache
def _series(freedom: int) -> tuple[int, ...]:
    """Coefficients of the powers of cos^2 in the cumulative function, times 2^30."""
    terms = [_ONE]
    for k in range(1, freedom // 2):
        terms.append(terms[-1] * (2 * k - 1) // (2 * k))
    return tuple(terms)


@lru_cache(maxsize=4096)
def frequencies(shape: int, scale: int, phase: int, phases: int, size: int) -> tuple[int, ...]:
    """Frequencies of the residuals -half to half, half = size / 2 - 1, and of the escape, adding up to 4096.

    The distribution's middle is at phase / phases - 1/2, or at 0 where there is but one phase. What is improbable has
    frequency 0 and is escaped.
    """
    form, half = SHAPES[shape], size // 2 - 1
    middle = 2 * phase - phases if phases > 1 else 0
    bounds = [2 * phases * place - phases - middle for place in range(-half, half + 2)]
    below = [cumulative(form, scale, bound, 2 * phases) for bound in bounds]
    spike = form.spike << 22
    masses = [(b - a) * (_ONE - spike) >> 30 for a, b in pairwise(below)]
    masses[half] += spike
    # below a quarter of a slot, a slot taken from the others costs more than to escape
    masses = [mass if mass >= _ONE >> (PRECISION + 2) else 0 for mass in masses]
    masses.append(min(max(1, _ONE - sum(masses)), _ONE >> _RARE))
    return _shares(masses)


def measured(counts: NDArray[np.integer[Any]]) -> tuple[int, ...]:
    """Frequencies for entries counted so often, all alike if none was; the escape, the last one, has one always."""
    if not counts.any():
        counts = np.ones_like(counts)
    total = int(counts.sum())
    masses = [int(count) * _ONE // total for count in counts]
    masses[-1] = max(1, masses[-1])
    if not any(masses[:-1]):
        masses[0] = 1  # no entry has all slots
    return _shares(masses)


def _shares(masses: list[int]) -> tuple[int, ...]:
    """Frequencies that add up to 4096, one at least for every mass but 0; masses are of 2^30 or so."""
    surplus = [max(0, mass - (_ONE >> PRECISION)) for mass in masses]
    free, total = TOTAL - sum(mass > 0 for mass in masses), max(1, sum(surplus))
    result, before = [], 0
    for mass, extra in zip(masses, surplus, strict=True):
        result.append((mass > 0) + free * (before + extra) // total - free * before // total)
        before += extra
    return tuple(result)


def alias_table(counts: NDArray[np.uint32]) -> Table:
    """The slots of a table whose frequencies add up to 4096; `ValueError` if they do not, or if one is all of them."""
    size = len(counts)
    if int(counts.sum()) != TOTAL or int(counts.max()) >= TOTAL or size & (size - 1):
        raise ValueError("the frequencies of a table are a power of two in number and add up to 4096, none of them all")
    width = TOTAL // size
    left = [int(count) for count in counts]
    own, alias = [width] * size, list(range(size))
    small = [place for place in reversed(range(size)) if left[place] < width]
    large = [place for place in reversed(range(size)) if left[place] >= width]
    while small:
        place, donor = small.pop(), large[-1]
        own[place], alias[place] = left[place], donor
        left[donor] -= width - left[place]
        if left[donor] < width:
            small.append(large.pop())
    dividers = np.arange(0, TOTAL, width) + np.array(own)
    symbols = np.stack([np.arange(size), np.array(alias)], axis=1)
    slots = np.arange(TOTAL)
    cell = 2 * (slots // width) + (slots >= dividers.repeat(width))
    symbol = symbols.reshape(-1)[cell]
    by_symbol = np.argsort(symbol, kind="stable")
    rank = np.empty(TOTAL, np.int64)
    rank[by_symbol] = slots - np.repeat(np.cumsum(counts) - counts, counts)
    by_slot = symbol | rank << 8 | counts[symbol].astype(np.int64) << 20
    first = np.zeros(2 * size, np.int64)
    first[cell[::-1]] = slots[::-1]
    entries = by_slot[first] & ~(0xFFF << 8) | (rank[first] - first & 0xFFF) << 8
    return Table(*(part.astype(np.uint32) for part in (counts, dividers, entries, by_symbol, by_slot)))


@lru_cache(maxsize=4096)
def table(shape: int, scale: int, phase: int, phases: int, size: int) -> Table:
    """The table of one member of the family."""
    return alias_table(np.array(frequencies(shape, scale, phase, phases, size), np.uint32))

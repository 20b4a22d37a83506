"""Finding the model of a chunk: prediction by least squares, scales by their mean squares, tables by their cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wcodec.coders.rans.model import FRACTION, LAGS, MOST_CLASSES, Model
from wcodec.coders.rans.tables import LARGEST, PRECISION, SCALES, SHAPES, SMALLEST, STORED, measured

_SAMPLE = 1 << 18
"""Symbols of a chunk that predictions and tables are chosen on; scales are found on all of them."""

_BLOCK = 1 << 16
"""Symbols of a chunk that are looked at together."""

_ESCAPED = 20.0
"""Bits that an escaped symbol takes, roughly."""

_SPARE = 0.002
"""Bits a symbol that escapes may cost for the sake of smaller tables."""

_STORED_BITS = 9
"""What an entry of a stored table takes in the payload."""

_STORED_GAIN = 0.01
"""The share of a class's bits that stored tables must save: they take decoders longer to make than the family's."""

_SCALE_BITS = 3.5
"""What a scale takes in the payload, and saves by chance alone."""

_ROUNDING = 1 / 12
"""The mean square that rounding to integers leaves."""

Floats = NDArray[np.float32]

Scales = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]
"""Of rows, columns and places in a kernel, in quarter octaves."""


def fit(symbols: NDArray[Any], period: int) -> Model:
    """A model of symbols of shape (rows, row size), a chunk's; 8- or 16-bit integers."""
    origin, low = _reach(symbols)
    levels = _levels(symbols, origin, low)
    center = _centers(levels)
    rows = _sample(len(levels), levels.size)
    centers = np.broadcast_to(center, len(levels))
    some = _heights(levels[rows], centers[rows]).reshape(len(rows), -1, period)
    coefficients = _coefficients(some.reshape(-1, period))
    plain = Model(LARGEST, 1, origin, low, center, *_flat(len(symbols), period), coefficients, _CLASSES, _NONE)
    scales = _scales(_squares(levels, centers, plain.lag_matrix(), period))
    model, bits = _with_tables(plain, some, scales, rows)
    if np.count_nonzero(some) < some.size / 2:
        # where most heights are 0, the few that are not make scales differ by chance
        other, fewer = _with_tables(plain, some, _one_scale(scales), rows)
        model = other if fewer < bits else model
    return model


_CLASSES, _NONE = np.zeros((1, 2), np.uint8), np.zeros((0, 1, LARGEST), np.uint16)


def _flat(rows: int, period: int) -> tuple[NDArray[np.int8], NDArray[np.int8], NDArray[np.int8]]:
    return np.zeros(rows, np.int8), np.zeros(1, np.int8), np.zeros(period, np.int8)


def _reach(symbols: NDArray[Any]) -> tuple[int, int]:
    """Origin and number of low bits that bring symbols into 8 bits."""
    if symbols.itemsize == 1:
        return (-128 if symbols.dtype.kind == "i" else 0), 0
    least, most = int(symbols.min()), int(symbols.max())
    return least, max(0, (most - least).bit_length() - 8)


def _levels(symbols: NDArray[Any], origin: int, low: int) -> NDArray[np.uint8]:
    if symbols.itemsize == 1:
        levels: NDArray[np.uint8] = symbols.view(np.uint8) ^ np.uint8(-origin)
        return levels
    return (symbols.astype(np.int32) - origin >> low).astype(np.uint8)


def _blocks(levels: NDArray[np.uint8]) -> Iterator[slice]:
    """All rows, some at a time: what is made of them stays in cache, and its memory is used again."""
    step = max(1, _BLOCK // levels.shape[1])
    return (slice(start, start + step) for start in range(0, len(levels), step))


def _centers(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle level of all rows, or of every row where that saves more than it costs."""
    middle, means, square = float(levels.mean()), np.empty(len(levels)), 0.0
    for rows in _blocks(levels):
        values = levels[rows].astype(np.float32)
        values -= np.float32(middle)
        values.mean(axis=1, dtype=np.float64, out=means[rows])
        square += float(np.vdot(values, values))
    between = float(np.square(means).mean())
    within = max(0.0, square / levels.size - between) + _ROUNDING
    saved = levels.size / 2 * np.log2((within + between) / within)
    chosen: NDArray[np.float64] = middle + (means if saved > 10 * len(means) else np.zeros(1))
    return np.rint(chosen).astype(np.uint8)


def _heights(levels: NDArray[np.uint8], centers: NDArray[np.uint8]) -> Floats:
    heights = levels.astype(np.float32)
    heights -= centers[:, None].astype(np.float32)
    return heights


def _squares(levels: NDArray[np.uint8], centers: NDArray[np.uint8], matrix: Floats | None, period: int) -> Floats:
    """The squares of what is left of each height once it is predicted: shape (rows, columns, period)."""
    squares = np.empty((len(levels), levels.shape[1] // period, period), np.float32)
    unpredicted = None if matrix is None else np.eye(period, dtype=np.float32) - matrix.T
    for rows in _blocks(levels):
        left, heights = squares[rows].reshape(-1, period), _heights(levels[rows], centers[rows]).reshape(-1, period)
        if unpredicted is not None:
            heights = np.matmul(heights, unpredicted, out=left)
        np.square(heights, left)
        left += np.float32(_ROUNDING)
    return squares


def _coefficients(kernels: Floats) -> NDArray[np.int8] | None:
    """What each height in a kernel is predicted with from those before it, in 64ths; None if that is not worth it."""
    period = kernels.shape[1]
    if period == 1:
        return None
    products = (kernels.T @ kernels).astype(np.float64) / len(kernels)
    rounded = np.zeros((period, LAGS), np.int8)
    saved = 0.0
    for place in range(1, period):
        lags = np.arange(place - 1, place - 1 - min(place, LAGS), -1)
        inner, outer = products[np.ix_(lags, lags)], products[lags, place]
        weights = np.linalg.solve(inner + (1e-3 + 1e-6 * np.trace(inner)) * np.eye(len(lags)), outer)
        rounded[place, : len(lags)] = np.clip(np.rint(weights * (1 << FRACTION)), -128, 127)
        used = rounded[place, : len(lags)] / (1 << FRACTION)
        left = products[place, place] - 2 * used @ outer + used @ inner @ used
        saved += len(kernels) / 2 * np.log2((products[place, place] + _ROUNDING) / (max(0.0, left) + _ROUNDING))
    return rounded if saved > 6 * rounded.size else None


def _scales(squares: Floats) -> Scales:
    """Scales of rows, columns and places in a kernel, in quarter octaves, whose sums are those of the family.

    Rows or columns that are too much alike, or too short to know, have a single scale.
    """
    rows, columns, period = squares.shape
    flat = squares.reshape(rows, -1)
    by_row = flat.mean(axis=1)
    rows_differ = _differ(by_row, squares.size)
    row = _steps(by_row if rows_differ else np.full(rows, by_row.mean()))
    # means over rows, each weighing as its scale deserves, are all that columns and positions need
    means = (_powers(-row) @ flat).reshape(columns, period) / rows
    position = _steps(means.mean(axis=0))
    by_column = (means * _powers(-position)).mean(axis=1)
    column = _steps(by_column) if _differ(by_column, squares.size) else np.zeros(1, np.int32)
    position += _steps((means * _powers(-column)[:, None] * _powers(-position)).mean(axis=0))
    weights = np.broadcast_to(_powers(-column)[:, None] * _powers(-position), (columns, period))
    by_row = flat @ np.ascontiguousarray(weights).reshape(-1) / (columns * period)
    return _steps(by_row if rows_differ else np.full(rows, by_row.mean())), column, position


def _differ(means: NDArray[Any], symbols: int) -> bool:
    """Whether scales of their own save more than they take, for these mean squares of equal shares of `symbols`."""
    means = np.maximum(means, _ROUNDING)
    return bool(symbols / 2 * (np.log2(means.mean()) - np.log2(means).mean()) > _SCALE_BITS * len(means))


def _steps(squares: NDArray[Any]) -> NDArray[np.int32]:
    """Quarter octaves of the roots of mean squares."""
    steps: NDArray[np.float64] = np.rint(2 * np.log2(np.maximum(squares, 1e-9)))
    return steps.astype(np.int32)


def _powers(steps: NDArray[np.int32]) -> Floats:
    """The squares of scales given in quarter octaves."""
    return np.exp2(steps.astype(np.float32) / 2)


def _sample(rows: int, size: int) -> NDArray[np.intp]:
    """Some rows of a chunk of `size` symbols: without a pattern, since rows may have one, but always the same."""
    count = max(1, rows * _SAMPLE // size)
    return np.arange(rows) if count >= rows else np.sort(np.random.default_rng(rows).permutation(rows)[:count])


def _one_scale(scales: Scales) -> Scales:
    """The scales of rows and positions as one, and none of columns."""
    row, _, position = scales
    middle = round(float(row.mean() + position.mean()))
    return np.full_like(row, middle), np.zeros(1, np.int32), np.zeros_like(position)


def _with_tables(plain: Model, some: Floats, scales: Scales, rows: NDArray[np.intp]) -> tuple[Model, float]:
    """The model with these scales and the tables that cost least for `some`, the heights of some `rows`, and its bits.

    The bits are about what all rows take.
    """
    row, column, position = scales
    first, median, last = _quantiles((row[rows], column, position), (0.0005, 0.5, 0.9995))
    last = min(last, first + MOST_CLASSES - 1)
    scaled = replace(
        plain,
        phases=1 if plain.coefficients is None else 1 << int(np.clip(3 - np.rint(median / 4), 0, 3)),
        row=np.clip(row - first, -128, 127).astype(np.int8),
        column=column.astype(np.int8),
        position=position.astype(np.int8),
        classes=np.zeros((last - first + 1, 2), np.uint8),
    )
    residuals, places = scaled.residuals(some)
    classes = replace(scaled, row=scaled.row[rows]).scale_class()
    classes *= scaled.phases
    places += classes
    places *= LARGEST
    places += scaled.entries(residuals)
    counts = np.bincount(places.reshape(-1), minlength=len(scaled.classes) * scaled.phases * LARGEST)
    sized, fewer = _sized(scaled, counts.reshape(-1, LARGEST))
    model, bits = _choose_tables(sized, fewer.reshape(len(sized.classes), -1), first, row.size / len(rows))
    return model, bits + _SCALE_BITS * (np.unique(row).size > 1) * row.size + _SCALE_BITS * (column.size - 1)


def _quantiles(terms: Scales, shares: tuple[float, ...]) -> list[int]:
    """The numbers that these shares of all sums, of one of each of the terms, are at most."""
    least = sum(int(term.min()) for term in terms)
    counts = reduce(np.convolve, [np.bincount(term - term.min()).astype(np.float64) for term in terms])
    below = np.cumsum(counts)
    return [least + int(np.searchsorted(below, share * below[-1])) for share in shares]


def _sized(model: Model, counts: NDArray[np.intp]) -> tuple[Model, NDArray[np.intp]]:
    """A model of the smallest tables that leave few residuals to be escaped, and how often their entries were met.

    `counts` tells that of the largest tables, and has their shape.
    """
    middle, met = model.half, counts.sum(axis=0)
    size = SMALLEST
    while size < LARGEST and (met.sum() - met[_inner(middle, size)].sum()) * _ESCAPED > _SPARE * met.sum():
        size *= 2
    inner = counts[:, _inner(middle, size)]
    escapes = counts.sum(axis=1) - inner.sum(axis=1)
    return replace(model, size=size), np.concatenate([inner, escapes[:, None]], axis=1)


def _inner(middle: int, size: int) -> slice:
    """The residuals that tables of `size` entries hold, among those of tables whose residual 0 is entry `middle`."""
    half = size // 2 - 1
    return slice(middle - half, middle + half + 1)


def _choose_tables(model: Model, counts: NDArray[np.intp], first: int, weight: float) -> tuple[Model, float]:
    """The family's cheapest tables for each class, or stored ones where they save more than they take; and the bits.

    `counts` tells of each class how often its entries were met, phase by phase, in one of `weight` parts of the chunk.
    """
    costs = counts.astype(np.float32) @ _bits(model.phases, model.size)
    best, least = costs.argmin(axis=1), costs.min(axis=1)
    # a class that was not met may be met elsewhere: it gets the scale that made it one
    unmet = 12 + first + np.arange(len(counts))
    best = np.where(least > 0, best, np.clip(unmet, 0, SCALES - 1) * len(SHAPES))
    classes = np.stack(np.divmod(best, len(SHAPES)), axis=1)
    total, stored = weight * float(least.sum()), []
    for number, row in enumerate(counts.reshape(len(counts), model.phases, model.size)):
        taken = _STORED_BITS * np.count_nonzero(row) + model.phases * model.size
        needed = taken + _STORED_GAIN * weight * float(least[number])
        if weight * (float(least[number]) - _entropy(row)) < needed:
            continue
        own = np.array([measured(phase) for phase in row], np.uint16)
        bits = -np.log2(np.maximum(own, 0.5) / (1 << PRECISION))
        bits[:, -1] += 8
        saved = weight * float(least[number] - (row * bits).sum())
        if saved > needed:
            classes[number] = 0, STORED
            stored.append(own)
            total -= saved - taken
    tables = np.array(stored, np.uint16).reshape(-1, model.phases, model.size)
    return replace(model, classes=classes.astype(np.uint8), stored=tables), total


def _entropy(counts: NDArray[np.intp]) -> float:
    """The least that entries counted so often take, phase by phase, in bits; escapes have 8 more."""
    met = counts[counts > 0]
    totals = counts.sum(axis=1)
    totals = totals[totals > 0]
    return float((totals * np.log2(totals)).sum() - (met * np.log2(met)).sum()) + 8 * float(counts[:, -1].sum())


@lru_cache
def _bits(phases: int, size: int) -> Floats:
    """About what the entries of all tables cost: shape (phases * size, scales * shapes), in bits."""
    half = size // 2 - 1
    edges = np.arange(-half, half + 2) - 0.5
    middles = np.arange(phases) / phases - 0.5 if phases > 1 else np.zeros(1)
    deviations = np.exp2(np.arange(SCALES) / 4 - 3)
    bounds = (edges[None, None, :] - middles[None, :, None]) / deviations[:, None, None]
    costs = np.empty((SCALES, len(SHAPES), phases, size), np.float32)
    for number, shape in enumerate(SHAPES):
        masses = np.diff(_student(bounds, shape.freedom), axis=-1) * (1 - shape.spike / 256)
        masses[..., half] += shape.spike / 256
        # an entry with less than a quarter of a slot is escaped, and one with less than a slot gets one
        least = 2.0**-PRECISION
        costs[:, number, :, :-1] = np.where(masses < least / 4, _ESCAPED, -np.log2(np.maximum(masses, least)))
    costs[..., -1] = _ESCAPED
    return np.ascontiguousarray(costs.reshape(SCALES * len(SHAPES), phases * size).T)


def _student(values: NDArray[np.float64], freedom: int) -> NDArray[np.float64]:
    """The cumulative function of Student's t distribution with an even number of degrees of freedom."""
    whole = freedom + values**2
    cosine, series, term = freedom / whole, np.ones_like(values), np.ones_like(values)
    for k in range(1, freedom // 2):
        term = term * cosine * ((2 * k - 1) / (2 * k))
        series += term
    return 0.5 + 0.5 * values / np.sqrt(whole) * series

"""Finding the scales of a tensor: by the largest magnitude of every block, or by the least squared error."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from wcodec.errors import NonFiniteError, UsageError
from wcodec.model import FLOATS, Array, Tensor
from wcodec.scales import (
    Scales,
    Uniform,
    block_grid,
    dequantize_rows,
    lead_index,
    lead_view,
    quantize_rows,
    read_rows,
    scale_dtype,
)
from wcodec.tiling import Rows
from wcodec.workers import Runner

_COARSE = np.linspace(0.1, 1.0, 19)
_FINE = np.linspace(-0.04, 0.04, 9)
"""Fractions of the largest magnitude that "mse" tries: every 5 %, then every 1 % around the best."""


def fit_scales(tensor: Tensor, quantizer: Uniform, run: Runner = map) -> Scales:
    """The scales of a float tensor, in one pass over its chunks for "max" and some thirty for "mse".

    Raises `NonFiniteError` naming the tensor and the position of its first NaN or infinity, `UsageError` for a tensor
    that is not of floats or not of as many axes as the quantizer has blocks.
    """
    if tensor.dtype not in FLOATS or len(quantizer.block) != len(tensor.shape):
        raise UsageError(f"tensor {tensor.name!r}, {tensor.dtype} of shape {tensor.shape}, does not fit {quantizer}")
    rows = Rows.of(tensor.shape)
    low, high = _extremes(tensor, rows, quantizer.block, run)
    largest = scale_dtype(tensor.dtype).type(ml_dtypes.finfo(tensor.numpy_dtype).max)
    best = np.ones_like(low)
    for spread in (_COARSE - 1.0, _FINE) if quantizer.fit == "mse" else ():
        middle, least = best, np.full(low.shape, np.inf)
        for offset in spread.astype(low.dtype):
            factor = np.clip(middle + offset, 0.05, 1.0).astype(low.dtype)
            scales = _scales(quantizer, rows, low * factor, high * factor, largest)
            error = _squared_error(tensor, quantizer, scales, run)
            best = np.where(error < least, factor, best)
            least = np.minimum(error, least)
    return _scales(quantizer, rows, low * best, high * best, largest)


def _scales(quantizer: Uniform, rows: Rows, low: Array, high: Array, largest: np.floating[Any]) -> Scales:
    """Scales that take [low, high] of every block to the ends of the symbols' range, all of it within `largest`."""
    tiny = np.finfo(low.dtype).smallest_subnormal
    zero_point = None
    if quantizer.symmetric:
        reach = np.maximum(-low, high)
    else:
        # the range always holds 0, so that zeros stay exactly zero
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        # halved first, since the width of a range may exceed the largest float
        reach = high / 2 - low / 2
    with np.errstate(under="ignore"):
        scale = reach / low.dtype.type(quantizer.highest if quantizer.symmetric else quantizer.highest / 2)
    scale = np.where(reach == 0, low.dtype.type(1), np.maximum(scale, tiny))
    farthest = np.full_like(scale, quantizer.highest)
    if not quantizer.symmetric:
        zero_point = np.clip(np.rint(-low / scale), 0, quantizer.highest).astype(quantizer.symbol_dtype)
        farthest = np.maximum(zero_point, quantizer.highest - zero_point).astype(scale.dtype)
    # rounding, of the zero point above all, must not put the last symbol's value beyond the largest number
    scale = np.minimum(scale, np.nextafter(largest / farthest, low.dtype.type(0)))
    return Scales(rows, quantizer.block, scale, zero_point)


def _extremes(tensor: Tensor, rows: Rows, block: tuple[int, ...], run: Runner) -> tuple[Array, Array]:
    """Smallest and largest value of every block, each of the block grid's shape, in the scales' dtype."""
    dtype = scale_dtype(tensor.dtype)
    grid = block_grid(tensor.shape, block)
    low, high = np.full(grid, np.inf, dtype), np.full(grid, -np.inf, dtype)

    def of_chunk(chunk: tuple[int, int]) -> tuple[Array, Array]:
        values = read_rows(tensor, rows, *chunk).astype(dtype, copy=False)
        ends = tuple(_reduce(ufunc, values, rows, block) for ufunc in (np.minimum, np.maximum))
        if not all(np.isfinite(end).all() for end in ends):
            _refuse(tensor, rows, values, chunk[0])
        return ends[0], ends[1]

    chunks = rows.chunks()
    for chunk, (smallest, largest) in zip(chunks, run(of_chunk, chunks), strict=True):
        index = lead_index(rows, block, *chunk)
        np.minimum.at(lead_view(low, rows), index, smallest)
        np.maximum.at(lead_view(high, rows), index, largest)
    return low, high


def _squared_error(tensor: Tensor, quantizer: Uniform, scales: Scales, run: Runner) -> Array:
    """The squared error that these scales make in every block, of the block grid's shape, in float64."""
    rows = scales.rows
    total = np.zeros(scales.scale.shape)

    def of_chunk(chunk: tuple[int, int]) -> Array:
        values = read_rows(tensor, rows, *chunk).astype(scales.scale.dtype)
        error = np.empty_like(values)
        dequantize_rows(quantize_rows(values, quantizer, scales, chunk[0]), scales, chunk[0], error)
        error -= values
        return _reduce(np.add, np.square(error, dtype=np.float64), rows, quantizer.block)

    chunks = rows.chunks()
    for chunk, part in zip(chunks, run(of_chunk, chunks), strict=True):
        np.add.at(lead_view(total, rows), lead_index(rows, quantizer.block, *chunk), part)
    return total


def _reduce(ufunc: np.ufunc, values: Array, rows: Rows, block: tuple[int, ...]) -> Array:
    """Reduce a chunk of shape (rows, *row) over blocks within rows; axis 0 stays one entry a row."""
    for axis, length in enumerate(block[rows.axes :], 1):
        if length == 0:
            values = ufunc.reduce(values, axis=axis, keepdims=True)
        elif length > 1:
            values = ufunc.reduceat(values, np.arange(0, values.shape[axis], length), axis=axis)
    return values


def _refuse(tensor: Tensor, rows: Rows, values: Array, start: int) -> None:
    place = int(np.flatnonzero(~np.isfinite(values.reshape(-1)))[0])
    position = tuple(int(i) for i in np.unravel_index(start * rows.size + place, tensor.shape))
    raise NonFiniteError(
        f"tensor {tensor.name!r} holds {values.reshape(-1)[place]} at {position}; "
        "mend the model, or store such tensors losslessly"
    )

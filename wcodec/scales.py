"""Scales, and the arithmetic between rows of floats and rows of symbols: value = (symbol - zero_point) * scale.

A scale and, in the asymmetric form, a zero point serve a block of the tensor. A block is given by its length along
every axis, 0 meaning the whole axis: (0, 0) is one scale a tensor, (1, 0) one a row, (1, 32) one for every 32
columns of every row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import msgspec
import numpy as np
from msgspec import Meta

from wcodec.errors import UsageError
from wcodec.model import Array, Tensor
from wcodec.tiling import Rows

Fit = Literal["max", "mse"]


class Keep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id", tag="keep"):
    """The tensor's own elements, bit for bit, are its symbols."""

    def summary(self) -> str:
        return "as it is"


class Uniform(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id", tag="uniform"):
    """Evenly spaced values, `scale` apart, rounded half to even.

    Symmetric: symbols from -(2**(bits-1) - 1) to 2**(bits-1) - 1, zero is 0. Asymmetric: from 0 to 2**bits - 1,
    zero is the zero point. `fit` is how scales were found: "max" reaches the block's largest magnitude, "mse"
    clips it where that makes the squared error least.
    """

    bits: Annotated[int, Meta(ge=2, le=16)]
    symmetric: bool
    block: tuple[Annotated[int, Meta(ge=0, le=1 << 48)], ...]
    fit: Fit

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16 or any(length < 0 for length in self.block) or self.fit not in get_args(Fit):
            raise UsageError(
                f"{self} cannot be: bits are 2 to 16, lengths of blocks 0 or more, fit one of {get_args(Fit)}"
            )

    @property
    def symbol_dtype(self) -> np.dtype[Any]:
        """int8 or int16 when symmetric, uint8 or uint16 when not."""
        return np.dtype(f"<{'i' if self.symmetric else 'u'}{1 if self.bits <= 8 else 2}")

    def summary(self) -> str:
        """Such as "int8 per axis 0" for a scale for every index of axis 0, "uint4 by 32" for groups of 32."""
        kind = f"{'int' if self.symmetric else 'uint'}{self.bits}"
        group = [length for length in self.block if length > 1]
        axes = ",".join(str(axis) for axis, length in enumerate(self.block) if length == 1)
        if group:
            return f"{kind} by {group[0]}"
        return f"{kind} per axis {axes}" if axes else f"{kind} per tensor"

    @property
    def lowest(self) -> int:
        return -self.highest if self.symmetric else 0

    @property
    def highest(self) -> int:
        return (1 << (self.bits - 1)) - 1 if self.symmetric else (1 << self.bits) - 1


Quantizer = Keep | Uniform


def scale_dtype(dtype: str) -> np.dtype[Any]:
    """The dtype scales have and arithmetic is done in, for a tensor of wcodec dtype `dtype`: f64's own, else f32."""
    return np.dtype("<f8") if dtype == "f64" else np.dtype("<f4")


@dataclass(frozen=True)
class Scales:
    """The factors of one tensor. Arrays have one entry a block: shape ceil(shape / block) along every axis."""

    rows: Rows
    block: tuple[int, ...]
    scale: Array
    zero_point: Array | None

    def of_rows(self, start: int, stop: int) -> tuple[Array, Array | None]:
        """Scale and zero point of rows [start, stop), in shapes that broadcast against (stop - start, *row)."""
        return self._spread(self.scale, start, stop), (
            None if self.zero_point is None else self._spread(self.zero_point, start, stop)
        )

    def _spread(self, factor: Array, start: int, stop: int) -> Array:
        out = lead_view(factor, self.rows)[lead_index(self.rows, self.block, start, stop)]
        for axis, (length, block) in enumerate(zip(self.rows.trail, self.block[self.rows.axes :], strict=True), 1):
            if 1 < block < length:
                out = np.repeat(out, block, axis=axis).take(np.arange(length), axis=axis)
        return out


def block_grid(shape: tuple[int, ...], block: tuple[int, ...]) -> tuple[int, ...]:
    """How many blocks there are along every axis: the shape of a scale array."""
    return tuple(1 if not b else math.ceil(n / b) for n, b in zip(shape, block, strict=True))


def lead_view(factor: Array, rows: Rows) -> Array:
    """A scale array with the axes that make rows flattened into one."""
    return factor.reshape(-1, *factor.shape[rows.axes :])


def lead_index(rows: Rows, block: tuple[int, ...], start: int, stop: int) -> Array:
    """For every row in [start, stop), which entry of `lead_view` holds its factors."""
    if not rows.axes:
        return np.zeros(stop - start, np.intp)
    if not any(block[1 : rows.axes]):
        # only the first axis counts: in a tensor of few long rows, whole chunks have the same factors
        inner = math.prod(rows.shape[1 : rows.axes]) * (block[0] or rows.shape[0])
        if start // inner == (stop - 1) // inner:
            return np.full(stop - start, start // inner)
    grid = block_grid(rows.shape, block)[: rows.axes]
    places = np.unravel_index(np.arange(start, stop), rows.shape[: rows.axes])
    blocks = tuple(p // b if b else np.zeros_like(p) for p, b in zip(places, block, strict=False))
    return np.ravel_multi_index(blocks, grid)


def read_rows(tensor: Tensor, rows: Rows, start: int, stop: int) -> Array:
    """Rows [start, stop) of a tensor, shape (stop - start, *row)."""
    return tensor.read(start * rows.size, stop * rows.size).reshape(stop - start, *rows.trail)


def quantize_rows(values: Array, quantizer: Uniform, scales: Scales, start: int) -> Array:
    """Float rows -> symbols of the same shape; `start` is the first row's number in the tensor."""
    scale, zero = scales.of_rows(start, start + len(values))
    with np.errstate(under="ignore"):
        steps = np.rint(values.astype(scale.dtype, copy=False) / scale)
    if zero is not None:
        steps += zero
    return np.clip(steps, quantizer.lowest, quantizer.highest, out=steps).astype(quantizer.symbol_dtype)


_CACHED = 1 << 16
"""Elements dequantized at a time: the two passes over them then stay in a core's own cache."""


def dequantize_rows(symbols: Array, scales: Scales, start: int, out: Array) -> None:
    """Symbols -> numbers in `out`, both of shape (rows, *row); arithmetic in the scales' dtype, then rounded."""
    step = max(1, _CACHED // max(1, symbols[0].size))
    scale, zero = scales.of_rows(start, start + len(symbols))
    direct = out.dtype == scale.dtype
    for a in range(0, len(symbols), step):
        rows = slice(a, a + step)
        target = out[rows] if direct else np.empty(symbols[rows].shape, scale.dtype)
        np.copyto(target, symbols[rows])
        if zero is not None:
            target -= zero[rows]
        target *= scale[rows]
        if not direct:
            out[rows] = target

"""A tensor of a model with what is known about it, and the symbols that steps make of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from wcodec.coders.video import VIDEO_CODERS
from wcodec.model import Array, QuantizedTensor
from wcodec.plan.layer import Layer, coarse
from wcodec.plan.matrix import Matrix, rows_first
from wcodec.quantize import dequantize

_BITS = 12
"""Of a symbol at most: what the deepest of most coders' samples hold, and more than rounding is ever fine."""

_TINY = 1e-30
"""A step for a row of zeros."""


@dataclass(frozen=True)
class Known:
    """A tensor of the model as matrices, with what all inputs say of it, and what each half of them does."""

    name: str
    dtype: str
    matrix: Matrix
    whole: Layer
    halves: tuple[Layer, ...]

    def rounded(self, layer: Layer, step: float, coder: str) -> QuantizedTensor:
        """Symbols that a coder takes, with rows' steps of this mean, as one of the layers spreads and rounds them."""
        most, highest = np.abs(layer.weights).max(2), (1 << (bits_of(coder) - 1)) - 1
        # symbols of a row's weights must fit, and somewhat larger ones; steps beyond weights change nothing
        steps = coarse(np.clip(layer.units * step, 1.25 * most / highest + _TINY, 4 * most + _TINY))
        symbols = layer.rounded(steps, highest)
        return self.quantized(symbols, steps, max(2, int(np.abs(symbols).max(initial=1)).bit_length() + 1))

    def quantized(self, symbols: Array, steps: Array, bits: int) -> QuantizedTensor:
        """The tensor of symbols (groups, rows, columns) and steps of rows (groups, rows)."""
        return QuantizedTensor(
            self.name,
            self.dtype,
            bits,
            self.matrix.back(symbols.astype(np.int8 if bits <= 8 else np.int16)),
            self.matrix.grid(steps.astype(np.float64 if self.dtype == "f64" else np.float32)),
            None,
            self.matrix.block,
        )

    def sample(self, size: int) -> tuple[Known, Array | slice]:
        """About so many of its weights: the first rows, or all where rows are not the first axis; and which rows."""
        first = self.matrix.groups == 1 and self.matrix == rows_first(self.matrix.shape)
        count = max(1, size // self.matrix.columns)
        if not first or count >= self.matrix.rows:
            return self, slice(None)
        rows = np.arange(count)
        return replace(self, matrix=rows_first((count, *self.matrix.shape[1:])), whole=self.whole.of_rows(rows)), rows


def bits_of(coder: str) -> int:
    """Of the symbols that a coder is given at most."""
    return min(_BITS, max(VIDEO_CODERS[coder].formats)) if coder in VIDEO_CODERS else _BITS


def dequantized(quantized: QuantizedTensor) -> Array:
    """The weights as a decoder gives them, but f32."""
    return dequantize(quantized).astype(np.float32)

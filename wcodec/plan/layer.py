"""One tensor and what is known about its errors: the steps of its rows for a knob, and the symbols they give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wcodec.model import Array
from wcodec.plan.matrix import Matrix
from wcodec.plan.rounding import factor_of, rounded_columns
from wcodec.plan.sensitivity import Moments, column_blocks

HIGHEST = (1 << 15) - 1
"""The largest symbol there is."""

_MOST_ROW = 4.0
"""How much more or less than its mean an error of a row may weigh: what few inputs say of rows is taken no further."""


@dataclass(frozen=True)
class Layer:
    """A tensor's matrices, f32 (groups, rows, columns), and what errors of theirs do.

    The damage of errors E is the sum over rows of `weighs` (groups, rows) times |E U| ** 2, with U a factor (groups,
    columns, columns) for each block of columns. It is the divergence of classes in nats, or of other outputs the square
    of their error.
    """

    matrix: Matrix
    weights: Array
    factors: list[Array]
    weighs: Array

    @classmethod
    def of(cls, tensor: Array, matrix: Matrix, moments: Moments, *, shrinkage: float, damping: float) -> Layer:
        """A tensor and the moments of its errors, made sound as `factor_of` does."""
        means = [block / np.float32(moments.count) for block in moments.columns]
        factors = [
            np.stack([factor_of(one, shrinkage=shrinkage, damping=damping) for one in mean]).astype(np.float32)
            for mean in means
        ]
        weighs = moments.rows / moments.count
        mean = weighs.mean(1, keepdims=True)
        share = np.clip(weighs / np.maximum(mean, np.finfo(np.float32).tiny), 1 / _MOST_ROW, _MOST_ROW)
        weighs = share / share.sum(1, keepdims=True)
        return cls(matrix, matrix.of(tensor).astype(np.float32), factors, weighs)

    @property
    def diagonal(self) -> Array:
        """Of U, (groups, columns)."""
        return np.concatenate([np.diagonal(factor, axis1=1, axis2=2) for factor in self.factors], 1)

    def steps(self, knob: float) -> Array:
        """The steps of rows, (groups, rows), at which an error of a whole step does damage of knob ** 2 on average."""
        return coarse(knob / np.sqrt(self.weighs * np.square(self.diagonal).mean(1, keepdims=True)))

    def rounded(self, steps: Array, zone: Array | None = None) -> Array:
        """Symbols of shape (groups, rows, columns) for steps of rows; `zone` as `rounded_columns` takes it."""
        found = [
            rounded_columns(
                self.weights[..., start:stop], factor, steps, HIGHEST, None if zone is None else zone[..., start:stop]
            )
            for factor, (start, stop) in zip(self.factors, column_blocks(self.matrix.columns), strict=True)
        ]
        return np.concatenate(found, -1)


def coarse(steps: Array) -> Array:
    """Steps as f32 of three significant bits, which take few bits themselves."""
    fraction, exponent = np.frexp(steps)
    return np.ldexp(np.rint(fraction * 8) / 8, exponent).astype(np.float32)

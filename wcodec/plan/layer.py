"""A layer's matrices and what is known about errors of theirs: steps of rows for a knob, and symbols for steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wcodec.model import Array
from wcodec.plan.rounding import factor_of, rounded_columns
from wcodec.plan.sensitivity import Moments, column_blocks

_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Trust:
    """How far moments of few inputs are believed.

    `shrinkage` and `damping` are those of `factor_of`; `spread` times what rows, and groups, have on average is added
    to what each has; `prior` is the weight of inputs made of nothing beside real ones.
    """

    shrinkage: float = 0.4
    damping: float = 0.01
    spread: float = 0.3
    prior: float = 0.0


@dataclass(frozen=True)
class Layer:
    """Matrices, f32 (groups, rows, columns), and what errors of theirs do.

    The damage of errors E is the sum over rows of `weighs` (groups, rows) times |E U| ** 2, with U a factor (groups,
    columns, columns) for each block of columns: twice the divergence of classes in nats, or the square of other
    outputs' error. `scale` is that of steps.
    """

    weights: Array
    factors: Sequence[Array]
    weighs: Array
    scale: float = 1.0

    @property
    def diagonal(self) -> Array:
        """Of U, (groups, columns)."""
        return np.concatenate([np.diagonal(factor, axis1=1, axis2=2) for factor in self.factors], 1)

    def steps(self, knob: float) -> Array:
        """The steps of rows, (groups, rows), for which a weight's error of one step does damage of knob ** 2."""
        return coarse(self._exact(knob))

    def _exact(self, knob: float) -> Array:
        done = self.weighs * np.square(self.diagonal, dtype=np.float64).mean(1, keepdims=True)
        return np.asarray(knob * self.scale / np.sqrt(np.maximum(done, _TINY)))

    @property
    def units(self) -> Array:
        """The steps of rows, (groups, rows), for a mean step of 1, by the logarithm, before they are made coarse."""
        steps = self._exact(1.0)
        return np.asarray(steps / np.exp(np.log(steps).mean()))

    def mean_step(self, knob: float) -> float:
        """The mean of rows' steps, by their logarithm."""
        return float(np.exp(np.log(self._exact(knob)).mean()))

    def rounded(self, steps: Array, highest: int) -> Array:
        """Symbols, int32 (groups, rows, columns), for steps of rows, from -highest to highest."""
        blocks = zip(self.factors, column_blocks(self.weights.shape[2]), strict=True)
        found = [rounded_columns(self.weights[..., slice(*ends)], factor, steps, highest) for factor, ends in blocks]
        return np.concatenate(found, -1)

    def of_rows(self, rows: Array) -> Layer:
        """Only some rows."""
        return replace(self, weights=self.weights[:, rows], weighs=self.weighs[:, rows])


def factors_of(moments: Moments, trust: Trust) -> list[Array]:
    """The factors of all blocks of columns, f32, of moments that are made sound."""
    found = []
    for block in moments.columns:
        mean = block / np.float32(max(1, moments.count))
        if len(mean) > 1:
            mean += np.float32(trust.spread) * mean.mean(0)
        each = [factor_of(one, shrinkage=trust.shrinkage, damping=trust.damping) for one in mean]
        found.append(np.stack(each).astype(np.float32))
    return found


def row_weights(moments: Moments, spread: float = 0.0) -> Array:
    """What part of a group's damage errors of each row do, (groups, rows)."""
    rows = np.maximum(moments.rows.astype(np.float64), _TINY)
    rows += spread * rows.mean(1, keepdims=True)
    return np.asarray(rows / rows.sum(1, keepdims=True))


def damage(errors: Array, moments: Moments, rows: Array | slice = slice(None)) -> float:
    """What errors (groups, rows, columns), of some rows only, do by moments as they are."""
    total = 0.0
    roots = np.sqrt(row_weights(moments)[:, rows, None]).astype(np.float32)
    for block, ends in zip(moments.columns, column_blocks(errors.shape[2]), strict=True):
        part = errors[..., slice(*ends)] * roots
        total += float(((part @ block) * part).sum(dtype=np.float64)) / max(1, moments.count)
    return total


def coarse(steps: Array) -> Array:
    """Steps as f32 of three significant bits, which take few bits themselves."""
    fraction, exponent = np.frexp(steps)
    return np.asarray(np.ldexp(np.rint(fraction * 8) / 8, exponent), np.float32)

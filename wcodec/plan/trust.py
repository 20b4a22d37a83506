"""How far moments of few inputs are to be believed: as far as those of other inputs bear them out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wcodec.model import Array
from wcodec.plan.layer import Layer, Trust, damage, factors_of, row_weights
from wcodec.plan.sensitivity import Moments

_GRIDS: dict[str, tuple[float, ...]] = {
    "spread": (0.02, 0.1, 0.3, 1.0, 3.0),
    "prior": (0.0, 0.1, 0.3, 1.0),
    "shrinkage": (0.01, 0.05, 0.2, 0.4, 0.6, 0.8),
}
"""What is tried for each number, one after the other. What no input reached keeps a share of what the others have."""

_ROUNDS = 2

_LARGE = 2048
"""Columns from which on one round must do."""

_ROWS = 64
"""Rows of a group that are looked at, spread evenly."""

_HIGHEST = 1 << 15

_FINENESS = 8
"""Steps in the root of weights' mean square, at which roundings are compared."""


def layer_of(weights: Array, moments: Moments, prior: Moments | None, trust: Trust, scale: float = 1.0) -> Layer:
    """Matrices (groups, rows, columns) with their moments believed as far as `trust` says."""
    mixed = moments if prior is None else moments.mixed(prior, trust.prior)
    return Layer(weights, factors_of(mixed, trust), row_weights(mixed, trust.spread), scale)


def tuned(weights: Array, halves: Sequence[Moments], prior: Moments | None) -> tuple[Trust, float]:
    """The trust with which what is learnt of each half of the inputs does least damage to others, at equal bits.

    With it the scale of steps at which a knob does the damage to those others that it stands for. At a high rate, bits
    change by the logarithm of steps.
    """
    trial = _Trial(weights, halves, prior)
    best = Trust(prior=0.0 if prior is None else 0.3)
    for _ in range(1 if weights.shape[2] >= _LARGE else _ROUNDS):
        before = best
        for name, values in _GRIDS.items():
            if name != "prior" or prior is not None:
                best = min((replace(best, **{name: value}) for value in values), key=lambda trust: trial(trust)[0])
        if best == before:
            break
    return best, trial(best)[1]


class _Trial:
    """Trusts tried on some rows of matrices."""

    def __init__(self, weights: Array, halves: Sequence[Moments], prior: Moments | None) -> None:
        self._weights, self._halves, self._prior = weights, halves, prior
        self._rows = np.unique(np.linspace(0, weights.shape[1] - 1, min(_ROWS, weights.shape[1])).astype(int))
        self._known: dict[Trust, tuple[float, float]] = {}
        self._factors: dict[tuple[int, Trust], list[Array]] = {}

    def __call__(self, trust: Trust) -> tuple[float, float]:
        """A score, the lower the better, and the scale of steps."""
        if trust not in self._known:
            found = [self._of_half(half, trust) for half in range(len(self._halves))]
            score = sum(score for score, _ in found)
            self._known[trust] = score, math.exp(-sum(math.log(ratio) for _, ratio in found) / (2 * len(found)))
        return self._known[trust]

    def _of_half(self, half: int, trust: Trust) -> tuple[float, float]:
        """The score of what is learnt of one half, and how often the damage that it stands for it does to others."""
        moments, weights = self._halves[half], self._weights
        mixed = moments if self._prior is None else moments.mixed(self._prior, trust.prior)
        layer = Layer(weights, self._factors_of(half, mixed, trust), row_weights(mixed, trust.spread))
        layer = layer.of_rows(self._rows)
        unit = layer.steps(1.0)
        size = float(np.sqrt(np.square(layer.weights, dtype=np.float64).mean())) or 1.0
        knob = size / _FINENESS / float(np.exp(np.log(unit).mean()))
        steps = layer.steps(knob)
        errors = layer.weights - layer.rounded(steps, _HIGHEST) * steps[..., None]
        others = [other for number, other in enumerate(self._halves) if number != half]
        done = max(sum(damage(errors, other, self._rows) for other in others) / len(others), 1e-300)
        return math.log(done) - 2 * float(np.log(steps).mean()), done / (knob**2 * errors.size / 12)

    def _factors_of(self, half: int, mixed: Moments, trust: Trust) -> list[Array]:
        # what is added to groups' moments is part of their factors, but of a single group's it is not
        key = half, trust if self._weights.shape[0] > 1 else replace(trust, spread=0.0)
        if key not in self._factors:
            self._factors[key] = factors_of(mixed, trust)
        return self._factors[key]

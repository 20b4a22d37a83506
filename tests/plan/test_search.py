"""The search for a target, on functions that grow and on such as are unsteady."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from wcodec.plan.search import farthest


@given(st.floats(-8, 8), st.floats(0.2, 5), st.floats(-8, 8), st.floats(0.3, 3))
def test_what_grows_reaches_its_target(root: float, steepness: float, start: float, slope: float) -> None:
    def grows(point: float) -> float:
        return steepness * (point - root) + math.sin(point - root) * steepness / 2

    found = farthest(grows, 0.0, start=start, slope=slope * steepness, ends=(-20, 20), tolerance=steepness)
    assert found.reached
    assert -steepness <= found.value <= 0
    assert found.value == grows(found.point)


@given(st.integers(0, 1000))
def test_what_is_unsteady_is_never_beyond_its_target(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values: dict[float, float] = {}

    def unsteady(point: float) -> float:
        values[point] = 2 * point + float(rng.normal(0, 0.3))
        return values[point]

    found = farthest(unsteady, 0.0, start=float(rng.uniform(-3, 3)), slope=2, ends=(-10, 10), tolerance=0.1)
    assert found.reached
    assert found.value <= 0
    assert found.value == values[found.point]


def test_what_cannot_be_reached_is_told() -> None:
    found = farthest(lambda point: point + 100, 0.0, start=1, slope=1, ends=(-5, 5), tolerance=0.1)
    assert (found.reached, found.point, found.value) == (False, -5, 95)


def test_what_is_reached_everywhere_ends_at_the_end() -> None:
    found = farthest(lambda point: point - 100, 0.0, start=1, slope=1, ends=(-5, 5), tolerance=0.1)
    assert (found.reached, found.point) == (True, 5)

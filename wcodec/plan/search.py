"""Finding the point where something that grows, and is costly and a little unsteady to measure, reaches a target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_MOST = 9
"""Measurements."""


@dataclass(frozen=True)
class Found:
    """A point and what was measured there; `reached` tells whether that is the target or less."""

    point: float
    value: float
    reached: bool


def farthest(
    measure: Callable[[float], float],
    target: float,
    *,
    start: float,
    slope: float,
    ends: tuple[float, float],
    tolerance: float,
) -> Found:
    """The farthest point found between `ends` whose value is at most the target, and no more than `tolerance` less.

    `slope` is about how much the value grows from one point to the next. Where nothing reaches the target, the point
    of the least value.
    """
    low: Found | None = None
    high: Found | None = None
    point = min(max(start, ends[0]), ends[1])
    for _ in range(_MOST):
        value = measure(point)
        if value <= target:
            low = Found(point, value, reached=True)
            if target - value <= tolerance or point >= ends[1]:
                break
        else:
            high = Found(point, value, reached=False)
            if point <= ends[0]:
                break
        point = _next(low, high, target - tolerance / 2, slope, ends)
        if low is not None and high is not None and high.point - low.point < 1e-3:
            break
    found = low or high
    assert found is not None
    return found


def _next(low: Found | None, high: Found | None, aim: float, slope: float, ends: tuple[float, float]) -> float:
    if low is not None and high is not None:
        rise = high.value - low.value
        share = (aim - low.value) / rise if rise > 0 else 0.5
        return low.point + min(max(share, 0.1), 0.9) * (high.point - low.point)
    one = low or high
    assert one is not None
    # a little more than the slope says, so that the target comes to lie between two points
    step = 1.1 * (aim - one.value) / slope
    return min(max(one.point + step, ends[0]), ends[1])

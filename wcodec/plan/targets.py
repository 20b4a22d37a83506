"""Plans that reach a target: outputs no further off than asked, or a file no larger."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from wcodec.errors import UsageError
from wcodec.evaluate import Fidelity
from wcodec.plan.plan import Plan
from wcodec.plan.planner import Planner
from wcodec.plan.search import Found, farthest

_WITHIN = 0.05
"""How much less than a target may be left of it, as a share."""

_LEAST_DECIBELS = 1.0

_ENDS = (-30.0, 30.0)
"""Of the knob's natural logarithm, around where it is thought to be."""


@dataclass(frozen=True)
class Planned:
    """A plan, and how far outputs are off with it."""

    plan: Plan
    fidelity: Fidelity


def for_fidelity(planner: Planner, target: float, coder: str, tell: Callable[[str], None]) -> Planned:
    """The plan of largest steps with which outputs are off by no more than `target`.

    That is the Kullback-Leibler divergence in nats at most for classifiers, and for others their signal-to-noise ratio
    in decibels at least. `UsageError` for a target that cannot be meant, or is not reached, with what is.
    """
    if planner.is_classifier:
        if not 0 < target <= 10:
            raise UsageError(f"--fidelity {target:g}: for a classifier it is the divergence in nats, such as 0.01")
    elif not _LEAST_DECIBELS <= target <= 120:
        raise UsageError(f"--fidelity {target:g}: for a model that is no classifier it is decibels, such as 20")
    error = target if planner.is_classifier else 10 ** (-target / 10)
    start = math.log(planner.knob_for(error))
    measured: dict[float, Fidelity] = {}

    def measure(point: float) -> float:
        measured[point] = planner.fidelity(planner.plan_at(math.exp(point), coder))
        tell(described(measured[point]))
        return math.log(max(_error(measured[point]), 1e-300))

    ends = start + _ENDS[0] / 3, start + _ENDS[1] / 3
    found = farthest(measure, math.log(error), start=start, slope=2, ends=ends, tolerance=_WITHIN * 2)
    if not found.reached:
        raise UsageError(f"--fidelity {target:g} is not reached; the closest is {described(measured[found.point])}")
    return Planned(planner.plan_at(math.exp(found.point), coder), measured[found.point])


def for_size(
    planner: Planner, target: int, coder: str, size: Callable[[Plan], int], tell: Callable[[str], None]
) -> Planned:
    """The plan of least steps whose file, as long as `size` says, is no longer than `target` bytes.

    `UsageError` for a target that no steps reach within a twentieth, with the closest there is.
    """
    start = math.log(planner.knob_for(0.01))

    def measure(point: float) -> float:
        found = size(planner.plan_at(math.exp(-point), coder))
        tell(f"{found:,} bytes")
        return float(found)

    ends = -start + _ENDS[0] / 2, -start + _ENDS[1] / 4
    slope = planner.weights / 8 / math.log(2)
    found: Found = farthest(
        measure, float(target), start=-start, slope=slope, ends=ends, tolerance=target * _WITHIN / 2
    )
    if not found.reached or found.value < target * (1 - _WITHIN):
        raise UsageError(f"{target:,} bytes cannot be met within 5 %; the closest is {int(found.value):,} bytes")
    plan = planner.plan_at(math.exp(-found.point), coder)
    return Planned(plan, planner.fidelity(plan))


def described(fidelity: Fidelity) -> str:
    """A fidelity in a few words."""
    if fidelity.kl is None or fidelity.top1 is None:
        return f"{fidelity.snr_db:.2f} dB"
    return f"KL divergence {fidelity.kl:.4g} nats, the same first class on {fidelity.top1:.1%}"


def _error(fidelity: Fidelity) -> float:
    return fidelity.kl if fidelity.kl is not None else 10 ** (-fidelity.snr_db / 10)

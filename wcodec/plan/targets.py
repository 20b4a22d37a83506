"""Plans that reach a target: outputs no further off than asked, or a file no larger."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from wcodec.errors import UsageError
from wcodec.evaluate import Fidelity
from wcodec.plan.plan import Plan
from wcodec.plan.planner import Planner
from wcodec.plan.search import Found, farthest

_WITHIN = 0.05
"""How much less than a target may be left of it, as a share."""

_LEAST_DECIBELS = 1.0

_REACH = 10.0
"""Of the knob's natural logarithm, around where it is thought to be."""

_SPREAD = (-0.5, -0.3, -0.1, 0.1, 0.3, 0.5)
"""Of the knob's natural logarithm: where a classifier is measured, of which each rounding tells something else."""

_NEAR = 0.35
"""As far from a knob measurements still speak for it."""

_SLOPES = (1.2, 2.4)
"""Of the logarithm of divergence to that of the knob: it is a square, but for what is beyond it or luck."""

_ROUNDS = 4


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
        return _for_divergence(planner, target, coder, tell)
    if not _LEAST_DECIBELS <= target <= 120:
        raise UsageError(f"--fidelity {target:g}: for a model that is no classifier it is decibels, such as 20")
    measured: dict[float, Fidelity] = {}

    def measure(point: float) -> float:
        measured[point] = planner.fidelity(planner.plan_at(math.exp(point), coder))
        tell(described(measured[point]))
        return -measured[point].snr_db

    start = math.log(planner.knob_for(10 ** (-target / 10)))
    ends = start - _REACH, start + _REACH
    found = farthest(measure, -target, start=start, slope=20 / math.log(10), ends=ends, tolerance=_WITHIN * 4)
    if not found.reached:
        raise UsageError(f"--fidelity {target:g} is not reached; the closest is {described(measured[found.point])}")
    return Planned(planner.plan_at(math.exp(found.point), coder), measured[found.point])


def _for_divergence(planner: Planner, target: float, coder: str, tell: Callable[[str], None]) -> Planned:
    """The plan for a divergence: that of many roundings at knobs around it, made level by a line through them."""
    knob = start = math.log(planner.knob_for(target))
    measured: list[tuple[float, Fidelity]] = []
    for _ in range(_ROUNDS):
        for off in _SPREAD:
            measured.append((knob + off, planner.fidelity(planner.plan_at(math.exp(knob + off), coder))))
            tell(described(measured[-1][1]))
        centre, level, slope = _line(measured, knob)
        before, knob = knob, centre + (math.log(target) - level) / slope
        if abs(knob - before) <= _SPREAD[-1] or abs(knob - start) > _REACH:
            break
    near = [found for point, found in measured if abs(point - knob) <= _NEAR]
    if not near:
        closest = min((found for _, found in measured), key=lambda found: found.kl or 0.0)
        raise UsageError(f"--fidelity {target:g} is not reached; the closest is {described(closest)}")
    settled = replace(
        near[0],
        kl=target,
        snr_db=_mean([found.snr_db for found in near]),
        top1=_mean([found.top1 for found in near]),
        top5=_mean([found.top5 for found in near]),
    )
    return Planned(planner.plan_at(math.exp(knob), coder), settled)


def _mean(shares: Sequence[float | None]) -> float:
    return sum(share or 0.0 for share in shares) / len(shares)


def _line(measured: Sequence[tuple[float, Fidelity]], around: float) -> tuple[float, float, float]:
    """The middle of the knobs measured last, the logarithm of divergence there, and its slope."""
    points = [(point, math.log(max(found.kl or 0.0, 1e-12))) for point, found in measured]
    near = np.array([pair for pair in points if abs(pair[0] - around) <= 2 * _SPREAD[-1]])
    centre, level = near.mean(0)
    rise = ((near[:, 0] - centre) * (near[:, 1] - level)).sum() / np.square(near[:, 0] - centre).sum()
    return float(centre), float(level), float(np.clip(rise, *_SLOPES))


def with_video(planner: Planner, planned: Planned, tell: Callable[[str], None]) -> Planned:
    """The same with tensors by lossy video codecs where these take less, unless outputs are further off by that."""
    plan = planner.with_video(planned.plan)
    if plan == planned.plan:
        return planned
    before, after = planner.fidelity(planned.plan), planner.fidelity(plan)
    lossy = sum(choice.qp is not None for choice in plan.tensors.values())
    tell(f"{lossy} of {len(plan.tensors)} tensors by video: {described(after)}, {described(before)} without")
    is_worse = after.snr_db < before.snr_db if after.kl is None else after.kl > (before.kl or 0.0)
    return planned if is_worse else Planned(plan, planned.fidelity)


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

    ends = -start - 1.5 * _REACH, -start + 0.75 * _REACH
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

"""Every way of encoding a model at many rates: what each takes and what the outputs lose."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from wcodec.archive import open_archive
from wcodec.encode import Ready, encode
from wcodec.evaluate import Fidelity
from wcodec.model import Model
from wcodec.plan.planner import Planner
from wcodec.policy import Policy
from wcodec.quantize import quantize
from wcodec.scales import Uniform

PLANNED = "planned"

_ERRORS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)
"""Divergences, or noise to signal, that plans are made for."""

_BITS = (8, 7, 6, 5, 4)
"""Of steps that are the same for all weights of a channel."""


@dataclass(frozen=True)
class Point:
    """One way at one rate: `bpw` is bits for each weight of the tensors that are quantized, everything counted."""

    method: str
    bpw: float
    fidelity: Fidelity


def sweep(
    planner: Planner, model: Model, coders: Sequence[str], tell: Callable[[str], None] = lambda line: None
) -> list[Point]:
    """Plans by every coder, and the same bits for all channels by the first, each measured on inputs held out."""
    points = []
    for error in _ERRORS:
        plan = planner.plan_at(planner.knob_for(error), coders[0])
        found, ready = planner.fidelity(plan), planner.ready(plan)
        for coder in coders:
            coded = {name: replace(one, coder=coder) for name, one in ready.items()}
            points.append(Point(f"{PLANNED}, {coder}", bits_per_weight(model, coded), found))
            tell(points[-1].method)
    for bits in _BITS:
        ready = per_channel(planner, model, bits, coders[0])
        found = planner.fidelity_of({name: one.quantized for name, one in ready.items()})
        points.append(Point(f"per channel, {coders[0]}", bits_per_weight(model, ready), found))
        tell(points[-1].method)
    return points


def bits_per_weight(model: Model, ready: Mapping[str, Ready]) -> float:
    """What tensors that are made ready take in an archive, with their scales."""
    with TemporaryDirectory(prefix="wcodec-") as folder:
        trial = Path(folder) / "trial.wcodec"
        encode(model, trial, Policy(lossless=True, coder="raw"), ready=ready)
        with open_archive(trial) as archive:
            stored = sum(archive.tensor(name).stored_bytes for name in ready)
    return 8 * stored / sum(math.prod(one.quantized.symbols.shape) for one in ready.values())


def per_channel(planner: Planner, model: Model, bits: int, coder: str) -> dict[str, Ready]:
    """The tensors that plans are made for, with symbols of `bits`, and scales of least squared error for each row."""
    tensors = {tensor.name: tensor for tensor in model.tensors}
    return {
        known.name: Ready(quantize(tensors[known.name], Uniform(bits, True, known.matrix.block, "mse")), coder)
        for known in planner.known
    }

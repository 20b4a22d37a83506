"""Layer by layer: which gives numbers that are none, or too large for what they are stored as."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wcodec.infer.places import IN_BLOCKS, Place
from wcodec.model import Array
from wcodec.opencl.device import translating

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wcodec.infer.plan import Plan


def first_bad_layer(plan: Plan, inputs: Sequence[Array]) -> tuple[str, str] | None:
    """The name of the first node whose result holds NaN or an infinity, and what it holds; None if none does.

    Runs the plan one task at a time, and reads every result back.
    """
    given = plan.give(inputs)
    tasks = list(plan.by_task())
    for (task, steps), following in zip(tasks, [*tasks[1:], None], strict=True):
        plan.run(steps)
        if following is not None and following[0].output == task.output:
            continue  # of a concatenation this is a part, and what follows it is not there yet
        found = _read(plan, task.output)
        if not np.isfinite(found).all():
            nans = int(np.isnan(found).sum())
            infinite = int(np.isinf(found).sum())
            return task.name, f"{infinite} infinities and {nans} NaN among {found.size} numbers"
    del given  # held until all has run
    return None


def _read(plan: Plan, place: Place) -> Array:
    """A place's numbers, less what fills up blocks."""
    stored = np.empty(place.elements, place.dtype)
    with translating(f"reading {place.memory!r}"):
        plan.read(stored, place)
    return IN_BLOCKS.unpack(stored, place.shape) if place.blocks else stored

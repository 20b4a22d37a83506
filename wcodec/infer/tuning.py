"""Which form of a task is fastest on a device: timed once, remembered for every later process."""

from __future__ import annotations

import time
from collections.abc import Callable

from wcodec.infer.forms.launch import Form, Target
from wcodec.infer.places import Pair, Task
from wcodec.opencl.cache import key_of, remember, remembered
from wcodec.opencl.device import Device, kernel_text
from wcodec.opencl.platforms import identity

_RUNS = 9
"""Times that a form is run after the first, of which the shortest counts."""

_ENOUGH = 0.03
"""Seconds for each form after which they are not run again."""


def remembered_form(task: Task, forms: list[Form], target: Target, device: Device) -> Form | None:
    """The only form, or the one that was found to be fastest by this or an earlier process."""
    if len(forms) == 1:
        return forms[0]
    known = remembered("forms", _key(task, forms, target, device))
    return next((form for form in forms if known is not None and form.name.encode() == known), None)


def fastest_form(
    task: Task, forms: list[Form], target: Target, device: Device, prepared: Callable[[Form], Callable[[], None]]
) -> Form:
    """Time all forms by running them, and remember the fastest. What `prepared` gives returns when it is done."""
    runs = [prepared(form) for form in forms]
    for run in runs:
        run()
    times: list[list[float]] = [[] for _ in forms]
    # in turn, so that what disturbs them disturbs them alike
    while len(times[0]) < _RUNS and sum(map(sum, times)) < _ENOUGH * len(forms):
        for run, taken in zip(runs, times, strict=True):
            began = time.perf_counter()
            run()
            taken.append(time.perf_counter() - began)
    best = min(zip(forms, times, strict=True), key=lambda each: min(each[1]))[0]
    remember("forms", _key(task, forms, target, device), best.name.encode())
    return best


def _key(task: Task, forms: list[Form], target: Target, device: Device) -> str:
    """What the time of a task depends on: the device, the kernels' text, and the task but for names."""
    sources = sorted({source for form in forms for launch in form.launches for source in launch.sources})
    what = repr((_described(task), target, [form.name for form in forms]))
    return key_of(b"form", identity(device.device), kernel_text((*sources,)).encode(), what.encode())


def _described(task: Task) -> tuple[object, ...]:
    """A task but for names."""
    if isinstance(task.op, Pair):
        return _described(task.op.first), _described(task.op.second)
    places = [(place.shape, place.storage, place.blocks) for place in (*task.reads(), task.output)]
    return task.op, places, [step.kind for step in task.epilogue]

"""Which form of a task is fastest on a device: timed once, remembered for every later process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from wcodec.errors import AllocationError
from wcodec.infer.forms.launch import Form, Target
from wcodec.infer.places import Pair, Task
from wcodec.opencl.cache import key_of, remember, remembered
from wcodec.opencl.device import Device, kernel_text
from wcodec.opencl.platforms import identity

_RUNS = 9
"""Times that a form is run after the first, of which the shortest counts."""

_ENOUGH = 0.03
"""Seconds for each form after which they are not run again."""


def remembered_form(key: str, forms: list[Form]) -> Form | None:
    """The form that was found to be fastest by this or an earlier process."""
    known = remembered("forms", key)
    return next((form for form in forms if known is not None and form.name.encode() == known), None)


def fastest_form(key: str, forms: list[Form], prepared: Callable[[Form], Callable[[], None]]) -> Form:
    """Time all forms by running them, and remember the fastest. What `prepared` gives returns when it is done.

    Forms for which there is not enough memory are left out; `AllocationError` where there is for none.
    """
    fitting, runs, refused = [], [], None
    for form in forms:
        try:
            run = prepared(form)
            run()
        except AllocationError as error:
            refused = error
            continue
        fitting.append(form)
        runs.append(run)
    if refused is not None and not fitting:
        raise refused
    times: list[list[float]] = [[] for _ in fitting]
    # in turn, so that what disturbs them disturbs them alike
    while len(times[0]) < _RUNS and sum(map(sum, times)) < _ENOUGH * len(fitting):
        for run, taken in zip(runs, times, strict=True):
            began = time.perf_counter()
            run()
            taken.append(time.perf_counter() - began)
    best = min(zip(fitting, times, strict=True), key=lambda each: min(each[1]))[0]
    if refused is None:
        remember("forms", key, best.name.encode())
    return best


def key_of_form(task: Task, forms: list[Form], stored: Sequence[str], target: Target, device: Device) -> str:
    """What the time of a task depends on: the device, the kernels' text, how weights are stored, the task less names.

    `stored` tells it of the weights of all forms.
    """
    sources = sorted({source for form in forms for launch in form.launches for source in launch.sources})
    what = repr((_described(task), target, *((form.name, len(form.launches)) for form in forms), *stored))
    return key_of(b"form", identity(device.device), kernel_text((*sources,)).encode(), what.encode())


def _described(task: Task) -> tuple[object, ...]:
    """A task but for names."""
    if isinstance(task.op, Pair):
        return _described(task.op.first), _described(task.op.second)
    places = [(place.shape, place.storage, place.blocks) for place in (*task.reads(), task.output)]
    return task.op, places, [step.kind for step in task.epilogue]

"""Which form of a task is fastest on a device: timed once, remembered for every later process."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.resources import files

from wcodec.infer.forms.launch import Form, Target
from wcodec.infer.places import Pair, Task
from wcodec.opencl.cache import key_of, remember, remembered
from wcodec.opencl.device import Device
from wcodec.opencl.platforms import identity

_RUNS = 3
"""Times that a form is run after the first, of which the shortest counts."""

_ENOUGH = 0.05
"""Seconds of running a form after which it is not run again."""


def remembered_form(task: Task, forms: list[Form], target: Target, device: Device) -> Form | None:
    """The only form, or the one that was found to be fastest by this or an earlier process."""
    if len(forms) == 1:
        return forms[0]
    known = remembered("forms", _key(task, forms, target, device))
    return next((form for form in forms if known is not None and form.name.encode() == known), None)


def fastest_form(task: Task, forms: list[Form], target: Target, device: Device, run: Callable[[Form], None]) -> Form:
    """Time all forms by running them, and remember the fastest. `run` returns when the device has finished."""
    best = min(forms, key=lambda form: _seconds(lambda: run(form)))
    remember("forms", _key(task, forms, target, device), best.name.encode())
    return best


def _seconds(run: Callable[[], None]) -> float:
    run()
    shortest = spent = 0.0
    for number in range(_RUNS):
        began = time.perf_counter()
        run()
        took = time.perf_counter() - began
        shortest, spent = (min(shortest, took) if number else took), spent + took
        if spent > _ENOUGH:
            break
    return shortest


def _key(task: Task, forms: list[Form], target: Target, device: Device) -> str:
    """What the time of a task depends on: the device, the kernels' text, and the task but for names."""
    folder = files("wcodec.opencl") / "kernels"
    sources = sorted({source for form in forms for launch in form.launches for source in launch.sources})
    texts = [(folder / source).read_bytes() for source in sources]
    what = repr((_described(task), target, [form.name for form in forms]))
    return key_of(b"form", identity(device.device), *texts, what.encode())


def _described(task: Task) -> tuple[object, ...]:
    """A task but for names."""
    if isinstance(task.op, Pair):
        return _described(task.op.first), _described(task.op.second)
    places = [(place.shape, place.storage, place.blocks) for place in (*task.reads(), task.output)]
    return task.op, places, [step.kind for step in task.epilogue]

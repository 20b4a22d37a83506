"""Where an engine's time goes: kernel by kernel, by the device's own clock, and what the device could do at most."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from wcodec.errors import MismatchError
from wcodec.infer.engine import Engine
from wcodec.infer.forms.cost import operations
from wcodec.infer.forms.launch import Form, Weight
from wcodec.infer.graph import Binary, Convolution, Pool, Reduce
from wcodec.infer.places import Pair, Task
from wcodec.infer.plan import Plan
from wcodec.model import Array
from wcodec.opencl.device import Device, translating

_RUNS = 8
"""Times that a peak is measured, of which the best counts."""

_RUN_SECONDS = 0.02

_WIDEST = 16
"""Floats of the widest vectors of CPUs."""


@dataclass(frozen=True)
class Layer:
    """One task of a plan: its kernels' time, operations as `cost.operations` counts them, bytes of its constants."""

    name: str
    kind: str
    form: str
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    seconds: float
    operations: int
    weights: int

    @property
    def speed(self) -> float:
        """Operations a second."""
        return self.operations / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class Span:
    """One kernel of a run: when it ran, in seconds from the beginning of the first one."""

    layer: Layer
    kernel: str
    start: float
    stop: float


@dataclass(frozen=True)
class Profile:
    """Layers in the order in which they run, times being medians.

    `seconds` is what a run of the engine itself takes. `spans` are the kernels of the run whose time is the median.
    """

    layers: tuple[Layer, ...]
    spans: tuple[Span, ...]
    seconds: float

    @property
    def operations(self) -> int:
        return sum(layer.operations for layer in self.layers)

    @property
    def overhead(self) -> float:
        """Seconds of a run that no kernel takes: launches, and copies of inputs and outputs.

        Below zero where kernels together take less than one by one, as they do where one launch runs them all.
        """
        return self.seconds - sum(layer.seconds for layer in self.layers)

    def trace(self) -> dict[str, Any]:
        """What chrome://tracing and Perfetto show, as JSON types: an event for every kernel, in microseconds."""
        events: list[dict[str, Any]] = [
            {"name": name, "ph": "M", "pid": 0, "tid": 0, "args": {"name": value}}
            for name, value in (("process_name", "wcodec"), ("thread_name", "kernels"))
        ]
        for span in self.spans:
            layer = span.layer
            what = {"kernel": span.kernel, "form": layer.form, "output": list(layer.output)}
            events.append(
                {
                    "name": layer.name,
                    "cat": layer.kind,
                    "ph": "X",
                    "pid": 0,
                    "tid": 0,
                    "ts": 1e6 * span.start,
                    "dur": 1e6 * (span.stop - span.start),
                    "args": what | {"operations": layer.operations, "weights": layer.weights},
                }
            )
        return {"displayTimeUnit": "ms", "traceEvents": events}


def profile(engine: Engine, *inputs: Array, repeats: int = 9) -> Profile:
    """Run an engine `repeats` times for its whole time, in turn with as many runs for the time of each kernel.

    Raises what `Engine.start` raises, and `MismatchError` for several of the batches that a model takes one by one.
    """
    engine(*inputs)
    for port, array in zip(engine.inputs, inputs, strict=True):
        own = port.shape[0] if port.shape else 1
        if isinstance(own, int) and port.shape and len(array) != own:
            raise MismatchError(f"input {port.name!r}: a profile is of one batch, which is {own}, not {len(array)}")
    arrays = [np.ascontiguousarray(array, np.float32) for array in inputs]
    plan, cl = engine.plan(*(array.shape for array in arrays)), engine.device.cl
    with translating("opening a queue"):
        queue = cl.CommandQueue(engine.device.context, properties=cl.command_queue_properties.PROFILING_ENABLE)
    whole, kernels = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        engine(*inputs)
        whole.append(time.perf_counter() - began)
        kernels.append(_kernel_times(plan, queue, arrays))
    return _made(plan, np.stack(kernels), float(np.median(whole)))


def measured_peak(device: Device) -> float:
    """Floating-point operations a second that the device does at most, of floats, an FMA being two; takes 0.2 s."""
    units: int = device.device.max_compute_units
    lanes, chains = (16, 12 if device.vector_width >= _WIDEST else 6) if device.is_cpu else (4, 8)
    group = 1 if device.is_cpu else min(256, device.device.max_work_group_size)
    items = units * 16 * group
    kernel = device.kernel("peak", ("peak.cl",), (f"NUMBERS=float{lanes}", f"STORE=vstore{lanes}", f"CHAINS={chains}"))
    out = device.buffer(4 * lanes * items, "measuring the peak")
    cl, best, rounds = device.cl, 0.0, 1000
    with translating("measuring the peak"):
        queue = cl.CommandQueue(device.context, properties=cl.command_queue_properties.PROFILING_ENABLE)
        for _ in range(_RUNS):
            kernel.set_args(out, np.float32(0.5), np.int32(rounds))
            event = cl.enqueue_nd_range_kernel(queue, kernel, (items,), (group,))
            queue.finish()
            took = max(event.profile.end - event.profile.start, 1) * 1e-9
            best = max(best, 2 * lanes * chains * items * rounds / took)
            rounds = int(np.clip(rounds * _RUN_SECONDS / took, 1000, 10**9))
    return best


def _kernel_times(plan: Plan, queue: Any, arrays: list[Array]) -> Array:
    """When each kernel of a run began and ended, shape (kernels, 2), in nanoseconds by the device's clock."""
    plan.give(arrays)
    with translating("profiling"):
        events = [step.enqueue(queue) for step in plan.steps]
        queue.finish()
        times = [(event.profile.start, event.profile.end) for event in events]
    return np.array(times, np.int64).reshape(-1, 2)


def _made(plan: Plan, times: Array, seconds: float) -> Profile:
    """`times` has the shape (runs, kernels, 2)."""
    durations = times[..., 1] - times[..., 0]
    usual = np.median(durations, axis=0) * 1e-9
    middle = np.argsort(durations.sum(axis=1), kind="stable")[len(times) // 2]
    shown = (times[middle] - times[middle].min(initial=np.iinfo(np.int64).max)) * 1e-9
    layers, spans, done = [], [], 0
    for task, steps in plan.by_task():
        places = range(done, done + len(steps))
        done += len(steps)
        layers.append(_layer(plan, task, steps[0].form, float(usual[places].sum())))
        for place, step in zip(places, steps, strict=True):
            spans.append(Span(layers[-1], step.call.kernel.function_name, *map(float, shown[place])))
    return Profile(tuple(layers), tuple(spans), seconds)


def _layer(plan: Plan, task: Task, form: Form, seconds: float) -> Layer:
    weights = {argument for launch in form.launches for argument in launch.arguments if isinstance(argument, Weight)}
    coded = {weight: plan.weights.coded(weight) for weight in weights}
    held = [each.nbytes if each else plan.weights.buffer(weight).size for weight, each in coded.items()]
    held += [plan.weights.value(place).size for place in {*task.reads()} if plan.weights.holds(place)]
    shapes = tuple(place.shape for place in task.reads())
    return Layer(task.name, _kind(task), form.name, shapes, task.output.shape, seconds, operations(task), sum(held))


def _kind(task: Task) -> str:
    """What a task does, in a few words such as "convolution 3x3"."""
    op = task.op
    if isinstance(op, Pair):
        return f"{_kind(op.first)}, {_kind(op.second).split()[-1]}"
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(op).__name__).lower()
    if isinstance(op, Binary | Pool | Reduce):
        words = op.kind if isinstance(op, Binary) else f"{op.kind} {words}"
    if isinstance(op, Convolution | Pool):
        words += f" {'x'.join(map(str, op.kernel))}"
    return words

"""Which values are stored as floats where others are halves, and which layers are computed with which."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from wcodec.errors import MissingDependencyError
from wcodec.infer.forms.cost import operations
from wcodec.infer.forms.launch import Precision, Target
from wcodec.infer.graph import Convolution, Dense, Graph
from wcodec.infer.places import Task
from wcodec.infer.schedule import Schedule
from wcodec.opencl.device import Device

_FIRST = 4
"""Layers from the first on whose inputs and results are looked at."""

_FEW = 256
"""Numbers summed up for one of a result, from which on their rounding errors average out."""


_LONGEST = 1024
"""Products that are summed up in halves; more of them lose digits that show in the result."""


def wide_values(graph: Graph) -> frozenset[str]:
    """The values of a graph that halves would round too coarsely.

    In smooth parts of a picture neighbours are rounded alike, and a layer that sums few numbers does not average such
    errors out: measured on MobileNetV2 and EfficientNet-Lite0, they are most of what halves do to the result. So what
    such layers read at the beginning of a net is f32; and so is what leaves the graph.
    """
    layers = [node for node in graph.nodes if isinstance(node.op, Convolution)]
    early = {*graph.inputs, *(node.output for node in layers[:_FIRST])}
    wide = set(graph.outputs)
    for node in layers[: _FIRST + 1]:
        assert isinstance(node.op, Convolution)
        channels = graph.shape(node.inputs[0])[1] // node.op.groups
        if channels * math.prod(node.op.kernel) < _FEW:
            wide.update(early.intersection(node.inputs[:1]))
    return frozenset(wide)


def target_of(device: Device, precision: Precision, *, keeps_more: bool) -> Target:
    """What forms depend on; `MissingDependencyError` for halves on a device that does not compute with them."""
    if precision == "half" and not device.has_half:
        name, platform = device.device.name.strip(), device.device.platform.name.strip()
        raise MissingDependencyError(
            f"{name} by {platform} does not compute with halves (cl_khr_fp16); use precision 'storage', "
            "or another device: 'wcodec devices' tells which can"
        )
    return Target(
        is_cpu=device.is_cpu,
        units=device.device.max_compute_units,
        local=device.device.local_mem_size,
        vector=device.vector_width,
        native_half=device.has_half,
        keeps_more=keeps_more,
        precision=precision,
    )


def _products(task: Task) -> int:
    """Products that make one number of a layer's result."""
    return operations(task) // (2 * math.prod(task.output.shape))


def targets_of(schedule: Schedule, target: Target, floats: Collection[str]) -> list[Target]:
    """What each task is computed with: floats in the first and last layer, where sums are long, and in all others."""
    if target.precision != "half":
        return [target] * len(schedule.tasks)
    layers = [n for n, task in enumerate(schedule.tasks) if isinstance(task.op, Convolution | Dense)]
    half = {
        n for n in layers[1:-1] if schedule.tasks[n].name not in floats and _products(schedule.tasks[n]) <= _LONGEST
    }
    plain = replace(target, precision="storage")
    return [target if n in half else plain for n in range(len(schedule.tasks))]

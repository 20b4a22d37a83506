"""Kernels of forms given their weights, and memory for their values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from wcodec.infer.calls import Call, Decoding, Given, Region, Scratch
from wcodec.infer.coded import Coded
from wcodec.infer.forms.launch import SMOOTH, Argument, Form, Launch, Local, Target, Weight
from wcodec.infer.graph import Constant
from wcodec.infer.places import Pair, Place, Task
from wcodec.infer.weights import Weights
from wcodec.opencl.device import Device

_DEFINES = {"f32": ("X_WIDE", "Y_WIDE", "W_WIDE", "V_WIDE"), "i8": ("", "", "W_BYTES", "V_BYTES")}
"""What kernels are told of how inputs, results and weights are stored, where not as halves."""


class Binding:
    """What kernels of one device need besides memory for values: weights, and how numbers are stored."""

    def __init__(self, device: Device, weights: Weights, constants: Mapping[str, Constant]) -> None:
        self.device, self.weights, self.constants = device, weights, constants

    def call(self, task: Task, launch: Launch, target: Target, region: Callable[[Place], Region]) -> Call:
        """A launch of one of a task's forms, where `region` tells the memory of each place."""
        own = launch.task or task
        defines = (*self._storages(own, launch), *_arithmetic(own, target), *launch.defines)
        arguments = tuple(self._given(argument, target, region) for argument in launch.arguments)
        # left to themselves, runtimes of CPUs make groups so large that some cores get none
        group = launch.group or ((1,) * len(launch.size) if target.is_cpu else None)
        return Call(self.device, launch.sources, launch.kernel, defines, arguments, launch.size, group, task.name)

    def coded(self, form: Form) -> list[Coded]:
        """What has to be decoded before a form's kernels run."""
        found = map(self.weights.coded, dict.fromkeys(weights_of(form)))
        return [coded for coded in found if coded is not None]

    def decoding(self, coded: Coded, region: Region) -> Decoding:
        """What decodes a weight into a region."""
        kernel, size, arguments = coded.decoder(region.part)
        return Decoding(kernel, size, (1,) if self.device.is_cpu else None, arguments)

    def _storages(self, task: Task, launch: Launch) -> tuple[str, ...]:
        """What a kernel's numbers are stored as, where that is not halves."""
        weights = [argument for argument in launch.arguments if isinstance(argument, Weight)]
        matrices = [weight for weight in weights if weight.packing in ("rows", "swapped")]
        kinds = task.x.storage, task.output.storage, *(self.weights.kind(each, self.constants) for each in matrices)
        return tuple(_DEFINES[kind][place] for place, kind in enumerate(kinds) if kind in _DEFINES)

    def _given(self, argument: Argument, target: Target, region: Callable[[Place], Region]) -> Given:
        if isinstance(argument, Place):
            return region(argument)
        if isinstance(argument, Weight):
            coded = self.weights.coded(argument)
            return whole(self.weights.buffer(argument)) if coded is None else region(coded.place)
        if isinstance(argument, Local):
            return Scratch(argument.numbers * target.real_bytes)
        return argument


def whole(buffer: Any) -> Region:
    """All of a buffer."""
    return Region(buffer, 0, buffer)


def weights_of(form: Form) -> Iterator[Weight]:
    """The constants that a form's kernels read, some of them several times."""
    return (argument for launch in form.launches for argument in launch.arguments if isinstance(argument, Weight))


def _arithmetic(task: Task, target: Target) -> tuple[str, ...]:
    """What a task's kernels compute with."""
    half = ("HALVES" if target.precision == "half" else "NATIVE_HALF",) * target.native_half
    steps = (*task.epilogue, *(task.op.first.epilogue if isinstance(task.op, Pair) else ()))
    return half + ("SMOOTH",) * any(step.kind in SMOOTH for step in steps)

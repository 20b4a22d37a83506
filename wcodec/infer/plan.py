"""A graph for inputs of one shape as kernels with their arguments set, in one arena."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from wcodec.infer.arena import Life, arranged
from wcodec.infer.calls import Call, Decoding, Given, Region, Scratch, Step
from wcodec.infer.chain import chains_of
from wcodec.infer.coded import Coded
from wcodec.infer.forms.cost import operations
from wcodec.infer.forms.launch import SMOOTH, Argument, Form, Launch, Local, Target, Weight
from wcodec.infer.forms.pair import apart
from wcodec.infer.forms.table import forms_of
from wcodec.infer.graph import Constant
from wcodec.infer.places import Pair, Place, Task
from wcodec.infer.schedule import Schedule
from wcodec.infer.tuning import fastest_form, remembered_form
from wcodec.infer.weights import Weights
from wcodec.model import Array
from wcodec.opencl.device import Device, translating

_FEWEST = 12
"""Kernels from which on launching them at once is worth building one more program."""

_LARGE = 50_000_000
"""Operations of a kernel, on average, above which what its launch costs does not show."""

_WORTH_TRYING = 2_000_000
"""Operations of a task below which building kernels to choose from costs more than the best of them saves."""

_DEFINES = {"f32": ("X_WIDE", "Y_WIDE", "W_WIDE", "V_WIDE"), "i8": ("", "", "W_BYTES", "V_BYTES")}
"""What kernels are told of how inputs, results and weights are stored, where not as halves."""


@dataclass(frozen=True)
class Started:
    """A run that has begun: its outputs, and the events after which they hold what they should."""

    outputs: list[Array]
    events: list[Any]

    def wait(self) -> None:
        with translating("running"):
            for event in self.events:
                event.wait()


class Plan:
    """Everything that running takes, allocated and built."""

    def __init__(
        self,
        device: Device,
        queue: Any,
        schedule: Schedule,
        targets: Sequence[Target],
        weights: Weights,
        constants: Mapping[str, Constant],
        *,
        together: bool = False,
    ) -> None:
        """`targets` holds what the forms of each task depend on; kernels run in `queue`, in order.

        `together` says that one launch may run them all, where they are small.
        """
        self.schedule = schedule
        self._device, self._queue, self._weights = device, queue, weights
        for memory, place in schedule.constants.items():
            weights.add_value(place, constants[schedule.names[memory]])
        wanted = [
            argument
            for task, target in zip(schedule.tasks, targets, strict=True)
            for form in _every_form(task, target)
            for launch in form.launches
            for argument in launch.arguments
            if isinstance(argument, Weight)
        ]
        weights.add(wanted, constants, "f32" if targets and targets[0].precision == "float" else "f16")
        forms = [self._chosen(task, target) for task, target in zip(schedule.tasks, targets, strict=True)]
        self._expanded = [self._coded(form) for form in forms]
        lives = _lives(schedule, forms, self._expanded)
        self._sizes = {life.name: life.size for life in lives}
        self.arena = arranged(lives, max(64, device.device.mem_base_addr_align // 8))
        """Where values lie in the memory that they share."""
        self._memory = device.buffer(self.arena.size, "the arena of intermediate values")
        self._parts: dict[str, Region] = {}
        self.steps: list[Step] = []
        for task, form, target, coded in zip(schedule.tasks, forms, targets, self._expanded, strict=True):
            self.steps += [Step(task, form, self._decoding(weight)) for weight in coded]
            self.steps += [Step(task, form, self._call(task, launch, target, self._region)) for launch in form.launches]
        calls = [step.call for step in self.steps if isinstance(step.call, Call)]
        many_small = len(calls) >= _FEWEST and sum(map(operations, schedule.tasks)) < _LARGE * len(calls)
        worth = device.starts_slowly and many_small and len(calls) == len(self.steps)
        self._chains = chains_of(device, calls) if together and worth else []

    def start(self, inputs: Sequence[Array]) -> Started:
        """Begin to run, and return at once."""
        given = self.give(inputs)
        self._run_all()
        outputs, done = [np.empty(place.shape, place.dtype) for place in self.schedule.outputs], []
        with translating("running"):
            for place, array in zip(self.schedule.outputs, outputs, strict=True):
                copy = self._device.cl.enqueue_copy(self._queue, array, self._buffer(place), is_blocking=False)
                done.append(copy)
            self._queue.flush()
        return Started(outputs, [*given, *done])

    def give(self, inputs: Sequence[Array]) -> list[Any]:
        """Begin to put the inputs where the first tasks read them; the events that hold on to them until it is done."""
        with translating("uploading inputs"):
            return [
                self._device.cl.enqueue_copy(self._queue, self._buffer(place), array, is_blocking=False)
                for place, array in zip(self.schedule.inputs, inputs, strict=True)
            ]

    def run(self, steps: Sequence[Step]) -> None:
        """Begin to run some of the steps."""
        with translating("running"):
            for step in steps:
                step.enqueue(self._queue)

    def _run_all(self) -> None:
        if not self._chains:
            self.run(self.steps)
        with translating("running"):
            for chain in self._chains:
                chain.enqueue(self._queue)

    def by_task(self) -> Iterator[tuple[Task, list[Step]]]:
        """The steps of each task, in order."""
        for _, steps in groupby(self.steps, key=lambda step: id(step.task)):
            together = list(steps)
            yield together[0].task, together

    def read(self, into: Array, place: Place) -> None:
        """Wait for all that was begun, and copy what a place holds."""
        self._device.cl.enqueue_copy(self._queue, into, self._buffer(place))

    def _buffer(self, place: Place) -> Any:
        """The memory of a place."""
        return self._region(place).part

    def _region(self, place: Place) -> Region:
        if self._weights.holds(place):
            return _whole(self._weights.value(place))
        if place.memory not in self._parts:
            with translating("dividing the arena"):
                offset, size = self.arena.offsets[place.memory], self._sizes[place.memory]
                part = self._memory.get_sub_region(offset, size)
            self._parts[place.memory] = Region(self._memory, offset, part)
        return self._parts[place.memory]

    def _chosen(self, task: Task, target: Target) -> Form:
        forms = forms_of(task, target)
        if isinstance(task.op, Pair):
            # finding the best of both takes as many programs again, for what one kernel mostly does faster
            joined = bool(forms)
            each = [
                forms_of(part, target)[0] if joined else self._chosen(part, target)
                for part in (task.op.first, task.op.second)
            ]
            forms.append(apart(task.op, *each))
        if operations(task) < _WORTH_TRYING:
            return forms[0]
        known = remembered_form(task, forms, target, self._device)
        if known is not None:
            return known
        trial = {place.memory: self._trial_buffer(place) for place in (*task.reads(), task.output)}

        def prepared(form: Form) -> Callable[[], None]:
            extra = (*form.scratch, *(coded.place for coded in self._coded(form)))
            memory = trial | {place.memory: self._trial_buffer(place) for place in extra}
            calls = [
                self._call(task, launch, target, lambda place: _whole(memory[place.memory])) for launch in form.launches
            ]

            def run() -> None:
                with translating(f"trying forms of {task.name!r}"):
                    for call in calls:
                        Step(task, form, call).enqueue(self._queue)
                    self._queue.finish()

            return run

        return fastest_form(task, forms, target, self._device, prepared)

    def _trial_buffer(self, place: Place) -> Any:
        if self._weights.holds(place):
            return self._weights.value(place)
        buffer = self._device.buffer(place.nbytes, f"trying forms of {place.memory!r}")
        with translating("clearing"):
            self._device.cl.enqueue_fill_buffer(self._queue, buffer, np.uint8(0), 0, place.nbytes)
        return buffer

    def _call(self, task: Task, launch: Launch, target: Target, region: Callable[[Place], Region]) -> Call:
        own = launch.task or task
        defines = (*self._storages(own, launch), *_arithmetic(own, target), *launch.defines)
        arguments = tuple(self._given(argument, target, region) for argument in launch.arguments)
        # left to themselves, runtimes of CPUs make groups so large that some cores get none
        group = launch.group or ((1,) * len(launch.size) if target.is_cpu else None)
        return Call(self._device, launch.sources, launch.kernel, defines, arguments, launch.size, group, task.name)

    def _coded(self, form: Form) -> list[Coded]:
        """What has to be decoded before a form's kernels run."""
        weights = {
            argument for launch in form.launches for argument in launch.arguments if isinstance(argument, Weight)
        }
        return [coded for coded in map(self._weights.coded, weights) if coded is not None]

    def _decoding(self, coded: Coded) -> Decoding:
        kernel, size, arguments = coded.decoder(self._buffer(coded.place))
        return Decoding(kernel, size, (1,) if self._device.is_cpu else None, arguments)

    def _storages(self, task: Task, launch: Launch) -> tuple[str, ...]:
        """What a kernel's numbers are stored as, where that is not halves."""
        weights = [argument for argument in launch.arguments if isinstance(argument, Weight)]
        matrices = [self._weights.kind(weight) for weight in weights if weight.packing in ("rows", "swapped")]
        kinds = task.x.storage, task.output.storage, *matrices
        return tuple(_DEFINES[kind][place] for place, kind in enumerate(kinds) if kind in _DEFINES)

    def _given(self, argument: Argument, target: Target, region: Callable[[Place], Region]) -> Given:
        if isinstance(argument, Place):
            return region(argument)
        if isinstance(argument, Weight):
            coded = self._weights.coded(argument)
            return _whole(self._weights.buffer(argument)) if coded is None else region(coded.place)
        if isinstance(argument, Local):
            return Scratch(argument.numbers * target.real_bytes)
        return argument


def _whole(buffer: Any) -> Region:
    return Region(buffer, 0, buffer)


def _every_form(task: Task, target: Target) -> Iterator[Form]:
    """The forms of a task and of its parts."""
    parts = (task.op.first, task.op.second) if isinstance(task.op, Pair) else ()
    for each in (*parts, task):
        yield from forms_of(each, target)


def _arithmetic(task: Task, target: Target) -> tuple[str, ...]:
    """What a task's kernels compute with."""
    half = ("HALVES" if target.precision == "half" else "NATIVE_HALF",) * target.native_half
    steps = (*task.epilogue, *(task.op.first.epilogue if isinstance(task.op, Pair) else ()))
    return half + ("SMOOTH",) * any(step.kind in SMOOTH for step in steps)


def _lives(schedule: Schedule, forms: Sequence[Form], expanded: Sequence[Sequence[Coded]]) -> list[Life]:
    """When the memory of every value is needed; that of inputs from before the first task, of outputs until the end."""
    last = len(schedule.tasks)
    spans: dict[str, list[int]] = {}
    sizes: dict[str, int] = {}

    def touch(place: Place, when: int) -> None:
        if place.memory in schedule.constants:
            return
        span = spans.setdefault(place.memory, [when, when])
        span[0], span[1] = min(span[0], when), max(span[1], when)
        sizes[place.memory] = max(sizes.get(place.memory, 0), place.nbytes)

    for place in schedule.inputs:
        touch(place, -1)
    for when, (task, form, coded) in enumerate(zip(schedule.tasks, forms, expanded, strict=True)):
        for place in (*task.reads(), task.output, *form.scratch, *(weight.place for weight in coded)):
            touch(place, when)
    for place in schedule.outputs:
        touch(place, last)
    return [Life(name, sizes[name], *span) for name, span in spans.items()]

"""A graph for inputs of one shape as kernels with their arguments set, in one arena."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from wcodec.infer.arena import Life, arranged
from wcodec.infer.binding import Binding, whole
from wcodec.infer.calls import Call, Region, Step
from wcodec.infer.chain import chains_of
from wcodec.infer.choice import chosen_forms, with_room
from wcodec.infer.coded import Coded
from wcodec.infer.forms.cost import operations
from wcodec.infer.forms.launch import Form, Target
from wcodec.infer.graph import Constant
from wcodec.infer.places import Place, Task
from wcodec.infer.schedule import Schedule
from wcodec.infer.weights import Weights
from wcodec.model import Array
from wcodec.opencl.device import Device, translating

_FEWEST = 12
"""Kernels from which on launching them at once is worth building one more program."""

_LARGE = 50_000_000
"""Operations of a kernel, on average, above which what its launch costs does not show."""


@dataclass(frozen=True)
class Started:
    """A run that has begun: its outputs, and the events after which they hold what they should."""

    outputs: list[Array]
    events: list[Any]

    def wait(self) -> None:
        with translating("waiting for the outputs"):
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
        self._device, self._queue = device, queue
        self._binding = binding = Binding(device, weights, constants)
        for memory, place in schedule.constants.items():
            weights.add_value(place, constants[schedule.names[memory]])
        targets = with_room(schedule.tasks, targets, constants)
        forms = chosen_forms(binding, queue, schedule.tasks, targets)
        expanded = [binding.coded(form) for form in forms]
        lives = _lives(schedule, forms, expanded)
        self._sizes = {life.name: life.size for life in lives}
        self.arena = arranged(lives, max(64, device.device.mem_base_addr_align // 8))
        """Where values lie in the memory that they share."""
        self._memory = device.buffer(self.arena.size, "the arena of intermediate values")
        self._parts: dict[str, Region] = {}
        self.steps: list[Step] = []
        for task, form, target, coded in zip(schedule.tasks, forms, targets, expanded, strict=True):
            self.steps += [Step(task, form, binding.decoding(each, self._region(each.place))) for each in coded]
            self.steps += [
                Step(task, form, binding.call(task, launch, target, self._region)) for launch in form.launches
            ]
        calls = [step.call for step in self.steps if isinstance(step.call, Call)]
        many_small = len(calls) >= _FEWEST and sum(map(operations, schedule.tasks)) < _LARGE * len(calls)
        worth = device.starts_slowly and many_small and len(calls) == len(self.steps)
        self._chains = chains_of(device, calls) if together and worth else []

    def start(self, inputs: Sequence[Array]) -> Started:
        """Begin to run, and return at once."""
        given = self.give(inputs)
        self._run_all()
        outputs, done = [np.empty(place.shape, place.dtype) for place in self.schedule.outputs], []
        with translating("fetching the outputs"):
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
        for step in steps:
            with translating(f"running kernel {step.call.name} of {step.task.name!r}"):
                step.enqueue(self._queue)

    def _run_all(self) -> None:
        if not self._chains:
            self.run(self.steps)
        with translating(f"running {len(self.steps)} kernels at once"):
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

    @property
    def weights(self) -> Weights:
        return self._binding.weights

    def _buffer(self, place: Place) -> Any:
        """The memory of a place."""
        return self._region(place).part

    def _region(self, place: Place) -> Region:
        if self.weights.holds(place):
            return whole(self.weights.value(place))
        if place.memory not in self._parts:
            with translating("dividing the arena"):
                offset, size = self.arena.offsets[place.memory], self._sizes[place.memory]
                part = self._memory.get_sub_region(offset, size)
            self._parts[place.memory] = Region(self._memory, offset, part)
        return self._parts[place.memory]


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

"""Which form each task gets: the only one, the one remembered, or the fastest by trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wcodec.errors import AllocationError
from wcodec.infer.binding import Binding, weights_of, whole
from wcodec.infer.calls import Step
from wcodec.infer.forms.cost import operations
from wcodec.infer.forms.launch import Form, Target
from wcodec.infer.forms.pair import apart
from wcodec.infer.forms.table import forms_of
from wcodec.infer.forms.winograd import transformed_bytes
from wcodec.infer.graph import Constant
from wcodec.infer.places import Pair, Place, Task
from wcodec.infer.tuning import fastest_form, key_of_form, remembered_form
from wcodec.opencl.device import translating

_WORTH_TRYING = 2_000_000
"""Operations of a task below which building kernels to choose from costs more than the best of them saves."""

_TRANSFORMED = 12 << 20
"""Bytes that transformed weights may take beside halves, in the first layers, which gain most by them."""


@dataclass(frozen=True)
class _Question:
    """Forms of a task of which one is to be chosen, and the key that the answer is remembered by."""

    task: Task
    target: Target
    forms: list[Form]
    key: str


def chosen_forms(binding: Binding, queue: Any, tasks: Sequence[Task], targets: Sequence[Target]) -> list[Form]:
    """The form of each task, trials running in `queue`. Weights that no form needs are let go again."""
    questions = [_questions(binding, *each) for each in zip(tasks, targets, strict=True)]
    wanted = [weight for each in questions for one in each for form in one.forms for weight in weights_of(form)]
    added = binding.weights.add(wanted, binding.constants)
    forms = [
        _joined(task, [_answer(binding, queue, one) for one in each])
        for task, each in zip(tasks, questions, strict=True)
    ]
    binding.weights.drop(added.difference(weight for form in forms for weight in weights_of(form)))
    return forms


def with_room(tasks: Sequence[Task], targets: Sequence[Target], constants: Mapping[str, Constant]) -> list[Target]:
    """The targets, those of later layers without leave to keep transformed weights, once there are enough of them."""
    left, allowed = _TRANSFORMED, []
    for task, target in zip(tasks, targets, strict=True):
        forms = [form for part in _parts(task) for form in forms_of(part, target)]
        kept = {weight for form in forms for weight in weights_of(form) if weight.packing == "winograd"}
        size = sum(transformed_bytes(weight, constants[weight.constant].shape) for weight in kept)
        fits = size <= left
        left -= size * fits
        allowed.append(target if fits else replace(target, keeps_more=False))
    return allowed


def _parts(task: Task) -> tuple[Task, ...]:
    return (task, task.op.first, task.op.second) if isinstance(task.op, Pair) else (task,)


def _questions(binding: Binding, task: Task, target: Target) -> list[_Question]:
    """One, but for a pair that no kernel computes at once: one for each of its parts."""
    forms = forms_of(task, target)
    if isinstance(task.op, Pair):
        parts = (task.op.first, task.op.second)
        if not forms:
            return [question for part in parts for question in _questions(binding, part, target)]
        # finding the best of both takes as many programs again, for what one kernel mostly does faster
        forms.append(apart(task.op, *(forms_of(part, target)[0] for part in parts)))
    if len(forms) == 1 or operations(task) < _WORTH_TRYING:
        return [_Question(task, target, forms[:1], "")]
    stored = [binding.weights.kind(weight, binding.constants) for form in forms for weight in weights_of(form)]
    key = key_of_form(task, forms, stored, target, binding.device)
    known = remembered_form(key, forms)
    return [_Question(task, target, forms if known is None else [known], key)]


def _joined(task: Task, forms: list[Form]) -> Form:
    if len(forms) == 1:
        return forms[0]
    assert isinstance(task.op, Pair)
    return apart(task.op, *forms)


def _answer(binding: Binding, queue: Any, question: _Question) -> Form:
    if len(question.forms) == 1:
        return question.forms[0]
    trial = _Trial(binding, queue, question)
    try:
        trial.share((*question.task.reads(), question.task.output))
    except AllocationError:
        return question.forms[0]
    return fastest_form(question.key, question.forms, trial.prepared)


class _Trial:
    """Memory to try the forms of a task in."""

    def __init__(self, binding: Binding, queue: Any, question: _Question) -> None:
        self._binding, self._queue, self._question = binding, queue, question
        self._shared: dict[str, Any] = {}

    def share(self, places: Sequence[Place]) -> None:
        """Allocate what all forms read and write; `AllocationError` where there is not enough."""
        self._shared = {place.memory: self._buffer(place) for place in places}

    def prepared(self, form: Form) -> Callable[[], None]:
        """What runs a form, and returns when it is done; `AllocationError` where its own memory is not to be had."""
        binding, task = self._binding, self._question.task
        extra = (*form.scratch, *(coded.place for coded in binding.coded(form)))
        memory = self._shared | {place.memory: self._buffer(place) for place in extra}
        calls = [
            binding.call(task, launch, self._question.target, lambda place: whole(memory[place.memory]))
            for launch in form.launches
        ]

        def run() -> None:
            with translating(f"trying forms of {task.name!r}"):
                for call in calls:
                    Step(task, form, call).enqueue(self._queue)
                self._queue.finish()

        return run

    def _buffer(self, place: Place) -> Any:
        if self._binding.weights.holds(place):
            return self._binding.weights.value(place)
        device = self._binding.device
        buffer = device.buffer(place.nbytes, f"trying forms of {place.memory!r}")
        with translating("clearing"):
            device.cl.enqueue_fill_buffer(self._queue, buffer, np.uint8(0), 0, place.nbytes)
        return buffer

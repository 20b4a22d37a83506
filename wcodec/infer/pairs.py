"""Tasks that one kernel may do together: what is between them need not be stored then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from wcodec.infer.graph import Convolution
from wcodec.infer.places import Pair, Task
from wcodec.infer.schedule import Schedule


def paired(schedule: Schedule) -> Schedule:
    """The same tasks, convolutions joined with those of each channel by itself that alone read their results."""
    return replace(schedule, tasks=tuple(_joined(schedule)))


def _joined(schedule: Schedule) -> Iterator[Task]:
    reads = Counter(place.memory for task in schedule.tasks for place in task.reads())
    reads.update(place.memory for place in schedule.outputs)
    waiting: Task | None = None
    for task in schedule.tasks:
        if waiting is not None and reads[waiting.output.memory] == 1 and _can_follow(waiting, task):
            pair = Pair(waiting, task)
            yield replace(task, op=pair, inputs=waiting.inputs)
            waiting = None
            continue
        if waiting is not None:
            yield waiting
        waiting = task if _can_lead(task) else None
        if waiting is None:
            yield task
    if waiting is not None:
        yield waiting


def _can_lead(task: Task) -> bool:
    """Whether a task is a convolution over all channels that needs nothing else to finish its result."""
    op = task.op
    return isinstance(op, Convolution) and op.groups == 1 and not op.transposed and not task.operand and not task.slopes


def _can_follow(first: Task, task: Task) -> bool:
    op, channels = task.op, first.output.shape[1]
    if not isinstance(op, Convolution) or task.inputs[0] != first.output or op.transposed:
        return False
    return op.groups == channels == task.output.shape[1] > 1 and op.dilations == (1, 1)

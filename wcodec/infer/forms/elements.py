"""What works element by element, along an axis, or only moves elements about."""

from __future__ import annotations

import math

import numpy as np

from wcodec.errors import UnsupportedError
from wcodec.infer.forms.launch import Argument, Form, Launch, Target, epilogue_arguments, epilogue_of, ints
from wcodec.infer.graph import ArgMax, Binary, Softmax
from wcodec.infer.places import BLOCK, Move, Place, Task, blocks_of

_BINARY = ("add", "sub", "mul", "div", "max", "min", "pow")
"""By their numbers in kernels/infer.cl."""

_AXES = 6
_AT_ONCE = 64
_RUN = 256
"""Numbers that a work-item of kernels/move.cl moves."""
_BEYOND = ("nothing", "constant", "edge", "reflect")


def pointwise_forms(task: Task, target: Target) -> list[Form]:
    """One value or two into one."""
    first = task.x
    second = task.inputs[1] if isinstance(task.op, Binary) else first
    assert isinstance(second, Place)
    kind = _BINARY.index(task.op.kind) if isinstance(task.op, Binary) else len(_BINARY)
    repeats = [_repeat(place, task.output) for place in (first, second)]
    if None in repeats:
        return [_broadcast(task, first, second, kind)]
    runs = -(-task.output.elements // BLOCK)
    last = task.output.elements - (runs - 1) * BLOCK
    steps, operand, slopes = epilogue_arguments(task, task.output.shape[1] if len(task.output.shape) > 1 else 1)
    places = math.prod(task.output.shape[2:]) if task.output.blocks else 1
    channel_runs = blocks_of(task.output.shape[1]) if task.output.blocks else 1
    launch = Launch(
        *("pointwise.cl", "pointwise", (f"AT_ONCE={_AT_ONCE}", *_power(kind))),
        (
            *(first, repeats[0], second, repeats[1], np.int32(kind), task.output, np.int32(runs), np.int32(last)),
            *(steps, operand, slopes, np.int32(places), np.int32(channel_runs)),
        ),
        (-(-runs // _AT_ONCE),),
    )
    return [Form("pointwise", (launch,))]


def _power(kind: int) -> tuple[str, ...]:
    return ("POWER",) * (kind == _BINARY.index("pow"))


def _repeat(place: Place, result: Place) -> np.void | None:
    """How a value's runs of 16 numbers repeat in the result's, if they do."""
    most = 2**31 - 1
    if place.elements == 1 or math.prod(place.shape) == 1:
        return ints(1, 1, 1)
    if place.shape == result.shape:
        return ints(1, most, 0)
    if result.blocks and place.blocks:
        channels = blocks_of(place.shape[1])
        return ints(math.prod(result.shape[2:]), channels * place.shape[0], 0)
    if not result.blocks and result.shape[-1] % BLOCK == 0 and place.shape[-1] == result.shape[-1]:
        own = (1,) * (len(result.shape) - len(place.shape)) + place.shape
        same = next((axis for axis in range(len(own)) if own[axis:] == result.shape[axis:]), len(own))
        if set(own[:same]) <= {1}:
            return ints(1, place.elements // BLOCK, 0)
    return None


def _broadcast(task: Task, first: Place, second: Place, kind: int) -> Form:
    shape = task.output.shape
    if len(shape) > _AXES:
        raise UnsupportedError(f"node {task.name!r}: broadcasts along more than {_AXES} axes")
    spread = [broadcast_strides(place.shape, shape) for place in (first, second)]
    fields: list[int] = [len(shape)]
    for numbers in (shape, *spread):
        fields += [*numbers, *[0] * (_AXES - len(shape))]
    count = task.output.elements
    launch = Launch(
        *("broadcast.cl", "broadcast", _power(kind)),
        (
            *(first, second, np.int32(kind), task.output, ints(*fields), np.int32(count)),
            *(epilogue_of(task.epilogue), task.operand),
        ),
        (-(-count // BLOCK),),
    )
    return Form("broadcast", (launch,))


def broadcast_strides(shape: tuple[int, ...], result: tuple[int, ...]) -> list[int]:
    """How far apart numbers are along the axes of a result that their shape is broadcast to; 0 where one serves all."""
    own = (1,) * (len(result) - len(shape)) + shape
    strides = [math.prod(own[axis + 1 :]) for axis in range(len(own))]
    return [0 if length == 1 else stride for length, stride in zip(own, strides, strict=True)]


def softmax_forms(task: Task, target: Target) -> list[Form]:
    op = task.op
    assert isinstance(op, Softmax)
    length, inner = task.x.shape[op.axis], math.prod(task.x.shape[op.axis + 1 :])
    launch = Launch(
        *("reduce.cl", "softmax", (), (task.x, task.output, ints(length, inner), np.int32(op.log))),
        (math.prod(task.x.shape[: op.axis]) * blocks_of(inner),),
    )
    return [Form("softmax", (launch,))]


def arg_max_forms(task: Task, target: Target) -> list[Form]:
    op = task.op
    assert isinstance(op, ArgMax)
    length, inner = task.x.shape[op.axis], math.prod(task.x.shape[op.axis + 1 :])
    launch = Launch(
        *("reduce.cl", "arg_max", (), (task.x, task.output, ints(length, inner), np.int32(op.last))),
        (math.prod(task.output.shape),),
    )
    return [Form("argmax", (launch,))]


def move_forms(task: Task, target: Target) -> list[Form]:
    """Elements to other places."""
    move, source, to = task.op, task.x, task.output
    assert isinstance(move, Move)
    if max(len(source.shape), len(to.shape)) > _AXES:
        raise UnsupportedError(f"node {task.name!r}: moves along more than {_AXES} axes")

    def padded(numbers: tuple[int, ...]) -> list[int]:
        return [*numbers, *[0] * (_AXES - len(numbers))]

    fields = np.zeros(1, np.dtype([("numbers", "<i4", (2 + 7 * _AXES + 1,)), ("value", "<f4")]))[0]
    fields["numbers"] = [
        *(len(source.shape), *padded(source.shape), *padded(move.along), *padded(move.starts), *padded(move.steps)),
        *(len(to.shape), *padded(to.shape), *padded(move.to), *padded(move.extent)),
        _BEYOND.index(move.beyond),
    ]
    fields["value"] = move.value
    defines = ("FROM_BLOCKS",) * source.blocks + ("TO_BLOCKS",) * to.blocks
    arguments: tuple[Argument, ...] = (source, to, fields, np.int32(_is_aligned(move, source, to)))
    if to.blocks:
        runs = -(-move.extent[3] // _RUN)
        blocks = blocks_of(move.to[1] + move.extent[1]) - move.to[1] // BLOCK
        size: tuple[int, ...] = (runs * blocks, move.extent[2], move.extent[0])
    else:
        size = (-(-move.extent[-1] // _RUN) * math.prod(move.extent[:-1]),)
    return [Form("move", (Launch("move.cl", "move", defines, arguments, size),))]


def _is_aligned(move: Move, source: Place, to: Place) -> bool:
    """Whether the numbers that lie closest in the destination do so in the source: 16 channels, or the last axis."""
    if source.blocks != to.blocks:
        return False
    near, closest = (1, 1) if to.blocks else (len(to.shape) - 1, len(source.shape) - 1)
    together = move.along[closest] == near and move.steps[closest] == 1
    if not to.blocks:
        return together and move.beyond == "nothing"
    untouched = move.beyond == "nothing" or (move.starts[1] == 0 and move.extent[1] == source.shape[1])
    whole = move.to[1] + move.extent[1] == to.shape[1] or move.extent[1] % BLOCK == 0
    return together and untouched and whole and move.starts[1] % BLOCK == 0 and move.to[1] % BLOCK == 0

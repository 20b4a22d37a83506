"""The lowered graph as tasks in memory: which values lie in blocks, and what brings them there and back."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from wcodec.infer.graph import (
    ArgMax,
    Binary,
    Concat,
    Convolution,
    Dense,
    Expand,
    Graph,
    LocalNorm,
    Map,
    Node,
    Pad,
    Pool,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Transpose,
)
from wcodec.infer.places import BLOCK, Beyond, Move, Place, Storage, Task

_PLANES = 4
"""Channels up to which a convolution reads an image in C order."""

_IN_BLOCKS = (Convolution, Pool, Resize, LocalNorm)
"""Operations that only know images in blocks."""


@dataclass(frozen=True)
class Schedule:
    """Tasks in order. Inputs and outputs are in C order, of f32 or i32."""

    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]
    tasks: tuple[Task, ...]
    constants: Mapping[str, Place]
    """Constants that tasks read as values, and where they are to lie, by the names of their memory."""
    names: Mapping[str, str]
    """The constant of each such memory."""


def scheduled(graph: Graph, storage: Storage, wide: Collection[str] = ()) -> Schedule:
    """The tasks that a graph takes, values stored so; those whose names are in `wide`, as f32."""
    work = _Scheduler(graph, storage, frozenset(wide))
    inputs = tuple(work.start(name) for name in graph.inputs)
    for node in graph.nodes:
        work.add(node)
    outputs = tuple(work.end(name) for name in graph.outputs)
    return Schedule(inputs, outputs, tuple(work.tasks), work.constants, work.names)


class _Scheduler:
    """Memory is named by what it is for and the value's own name, which may be any: whose it is, is never in doubt."""

    def __init__(self, graph: Graph, storage: Storage, wide: frozenset[str]) -> None:
        self.graph = graph
        self.tasks: list[Task] = []
        self.constants: dict[str, Place] = {}
        self.names: dict[str, str] = {}
        self._storage, self._wide = storage, wide
        self._places: dict[str, list[Place]] = {}

    def start(self, name: str) -> Place:
        place = Place(f"given:{name}", self.graph.shape(name), "f32")
        self._places[name] = [place]
        return place

    def end(self, name: str) -> Place:
        """An output in C order, of f32 or i32."""
        if self.graph.values[name].dtype == "i64":
            return self._places[name][0]
        return self.place(name, blocks=False, storage="f32")

    def place(self, name: str, *, blocks: bool, storage: Storage | None = None) -> Place:
        """Where a value lies in blocks or in C order, brought there if it does not yet. Any storage does for None."""
        shape = self.graph.shape(name)
        if name in self.graph.constants:
            stored = storage or self._storage
            return self._constant(name, Place(f"{stored}:{name}", shape, stored))
        fitting = [known for known in self._places[name] if storage in (None, known.storage)]
        for known in fitting:
            if known.blocks == blocks:
                return known
        for known in fitting:
            if _is_one_vector(known):
                return replace(known, blocks=blocks)
        stored = storage or self._stored(name)
        wanted = Place(f"{stored}{' in blocks' if blocks else ''}:{name}", shape, stored, blocks)
        self._move(name, self._places[name][0], wanted)
        self._places[name].append(wanted)
        return wanted

    def _stored(self, name: str) -> Storage:
        """What a value is stored as that a node computes."""
        return "f32" if name in self._wide else self._storage

    def _constant(self, name: str, place: Place) -> Place:
        self.names[place.memory] = name
        return self.constants.setdefault(place.memory, place)

    def _move(self, name: str, source: Place, to: Place) -> None:
        if not source.shape:  # which is an array of one number to a kernel
            source, to = replace(source, shape=(1,)), replace(to, shape=(1,))
        rank = len(source.shape)
        self._add_move(name, source, to, Move(tuple(range(rank)), (0,) * rank, (1,) * rank, (0,) * rank, source.shape))

    def _add_move(self, name: str, source: Place, to: Place, move: Move) -> None:
        self.tasks.append(Task(name, move, (source,), to))

    def add(self, node: Node) -> None:
        """Add what a node takes."""
        op = node.op
        if isinstance(op, Reshape):
            self._reshape(node)
        elif isinstance(op, Transpose | Slice | Pad | Expand):
            self._rearrange(node)
        elif isinstance(op, Concat):
            self._concat(node)
        elif isinstance(op, Reduce):
            self._reduce(node)
        elif isinstance(op, _IN_BLOCKS):
            first = self.place(node.inputs[0], blocks=not self._takes_planes(node))
            self._compute(node, (first, *node.inputs[1:]), blocks=True)
        elif isinstance(op, Binary | Map):
            self._pointwise(node)
        elif isinstance(op, Dense):
            self._compute(node, (self.place(node.inputs[0], blocks=False), *node.inputs[1:]), blocks=False)
        else:
            self._compute(node, self._alike(node.inputs, blocks=False), blocks=False)

    def _takes_planes(self, node: Node) -> bool:
        """Whether a convolution reads pictures as they are given: blocks of few channels would be mostly empty."""
        op, given = node.op, self._places.get(node.inputs[0], [])
        if not isinstance(op, Convolution) or op.transposed or op.groups > 1:
            return False
        return len(given) == 1 and not given[0].blocks and given[0].shape[1] <= _PLANES

    def _alike(self, names: tuple[str, ...], *, blocks: bool) -> tuple[Place, ...]:
        """Places of values that are stored alike: kernels read all their inputs in one way."""
        storages = [self._given(name).storage for name in names if name not in self.graph.constants]
        storage = storages[0] if len(set(storages)) == 1 else self._storage
        return tuple(self._among(name, storage, blocks=blocks) for name in names)

    def _among(self, name: str, storage: Storage, *, blocks: bool) -> Place:
        """A value for a result in blocks or not: in blocks too, unless it is a single number."""
        shape = self.graph.shape(name)
        if not blocks or math.prod(shape) == 1:
            return self.place(name, blocks=False, storage=storage)
        if name not in self.graph.constants:
            return self.place(name, blocks=True, storage=storage)
        aligned = (1,) * (4 - len(shape)) + shape
        return self._constant(name, Place(f"{storage} in blocks:{name}", aligned, storage, blocks=True))

    def _compute(self, node: Node, inputs: tuple[Place | str, ...], *, blocks: bool) -> None:
        stored: Storage = "i32" if isinstance(node.op, ArgMax) else self._stored(node.output)
        output = Place(f"result:{node.output}", self.graph.shape(node.output), stored, blocks)
        operands = [step.operand for step in node.epilogue if step.kind in ("add", "mul")]
        operand = self.place(operands[0], blocks=blocks, storage=stored) if operands else None
        slopes = next((step.operand for step in node.epilogue if step.kind == "prelu"), "")
        self.tasks.append(Task(node.name, node.op, inputs, output, node.epilogue, operand, slopes))
        self._places[node.output] = [output]

    def _reshape(self, node: Node) -> None:
        plain = self.place(node.inputs[0], blocks=False)
        self._places[node.output] = [replace(plain, shape=self.graph.shape(node.output))]

    def _rearrange(self, node: Node) -> None:
        """Transpose, Slice, Pad and Expand; images stay in blocks where their axes stay, and get there if they move."""
        op, shape = node.op, self.graph.shape(node.output)
        source = self._given(node.inputs[0])
        rank = len(source.shape)
        along, starts, steps = tuple(range(rank)), (0,) * rank, (1,) * rank
        beyond: Beyond = "nothing"
        value = 0.0
        if isinstance(op, Transpose):
            along = tuple(op.order.index(axis) for axis in range(rank))
        elif isinstance(op, Slice):
            starts, steps = op.starts, op.steps
        elif isinstance(op, Pad):
            starts, beyond, value = tuple(-before for before in op.before), op.mode, op.value
        else:
            ahead = len(shape) - rank
            along = tuple(-1 if length == 1 else axis + ahead for axis, length in enumerate(source.shape))
        # a model that takes (N, H, W, C) wants its convolutions' order next
        blocks = len(shape) == 4 and (source.blocks or (isinstance(op, Transpose) and op.order == (0, 3, 1, 2)))
        blocks = blocks and not (isinstance(op, Transpose) and source.blocks)
        output = Place(f"result:{node.output}", shape, self._stored(node.output), blocks)
        self._add_move(node.name, source, output, Move(along, starts, steps, (0,) * len(shape), shape, beyond, value))
        self._places[node.output] = [output]

    def _given(self, name: str) -> Place:
        """A value wherever it lies."""
        return self.place(name, blocks=False) if name in self.graph.constants else self._places[name][0]

    def _concat(self, node: Node) -> None:
        assert isinstance(node.op, Concat)
        shape, axis = self.graph.shape(node.output), node.op.axis
        sources = [self._given(name) for name in node.inputs]
        blocks = len(shape) == 4 and any(source.blocks for source in sources)
        output = Place(f"result:{node.output}", shape, self._stored(node.output), blocks)
        at, every = 0, tuple(range(len(shape)))
        for source in sources:
            to = tuple(at if place == axis else 0 for place in every)
            move = Move(every, (0,) * len(every), (1,) * len(every), to, source.shape)
            self._add_move(node.name, source, output, move)
            at += source.shape[axis]
        self._places[node.output] = [output]

    def _reduce(self, node: Node) -> None:
        """Over both axes of images at once; otherwise over one axis after the other."""
        op, shape = node.op, self.graph.shape(node.inputs[0])
        assert isinstance(op, Reduce)
        if len(shape) == 4 and op.axes == (2, 3):
            self._compute(node, (self.place(node.inputs[0], blocks=True),), blocks=True)
            return
        source = self.place(node.inputs[0], blocks=False)
        for axis in op.axes:
            kept = tuple(1 if place == axis else length for place, length in enumerate(source.shape))
            kind = "result" if axis == op.axes[-1] else f"over {axis}"
            output = Place(f"{kind}:{node.output}", kept, self._stored(node.output))
            self.tasks.append(Task(node.name, Reduce(op.kind, (axis,)), (source,), output))
            source = output
        self._places[node.output] = [source]

    def _pointwise(self, node: Node) -> None:
        """In blocks where an input is, and the others fit there."""
        shape = self.graph.shape(node.output)
        nearest = [self._given(name) for name in node.inputs]
        wanted = any(place.blocks and place.shape == shape for place in nearest)
        wanted = wanted or any(step.kind == "prelu" for step in node.epilogue)
        blocks = wanted and all(_fits_blocks(place.shape, shape) for place in nearest)
        self._compute(node, self._alike(node.inputs, blocks=blocks), blocks=blocks)


def _is_one_vector(place: Place) -> bool:
    """Whether blocks and C order are one: where images are single places, of whole blocks or all in a row."""
    if len(place.shape) != 4 or place.shape[2:] != (1, 1):
        return False
    return place.shape[1] % BLOCK == 0 or (place.shape[0] == 1 and place.blocks)


def _fits_blocks(shape: tuple[int, ...], result: tuple[int, ...]) -> bool:
    """Whether a value is the result's shape, or one number, or one a channel of every image or of each."""
    aligned = (1,) * (4 - len(shape)) + shape
    if len(result) != 4 or len(aligned) != 4:
        return False
    if aligned == result or set(aligned) == {1}:
        return True
    return aligned[1] == result[1] and aligned[2:] == (1, 1) and aligned[0] in (1, result[0])

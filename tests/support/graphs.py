"""Lowered graphs drawn at random, and what must hold of every schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import hypothesis.strategies as st
import numpy as np

from wcodec.infer.forms.launch import Precision
from wcodec.infer.graph import (
    Binary,
    Concat,
    Constant,
    Convolution,
    Dense,
    Expand,
    Graph,
    Map,
    Node,
    Op,
    Pad,
    Pool,
    Reduce,
    Reshape,
    Slice,
    Softmax,
    Step,
    Transpose,
    Value,
)
from wcodec.infer.places import Place, Storage
from wcodec.infer.plan import Plan
from wcodec.infer.precision import target_of, targets_of
from wcodec.infer.schedule import Schedule, scheduled
from wcodec.infer.weights import Weights
from wcodec.model import Array
from wcodec.opencl.device import Device

Shape = tuple[int, ...]

IMAGES: Shape = (2, 20, 4, 5)
"""The shape of every input."""

CHANNELS = (3, 16, 20, 40)


@dataclass
class Sketch:
    """A graph while it is being drawn: nodes are added at its end, all of values there are."""

    seed: int
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)

    def add(self, op: Op, inputs: tuple[str, ...], shape: Shape, *steps: Step) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(Node(f"{type(op).__name__} of {name}", op, inputs, name, steps))
        self.shapes[name] = shape
        return name

    def constant(self, *shape: int, size: float = 1.0) -> str:
        name = f"c{len(self.constants)}"
        rng = np.random.default_rng([self.seed, len(self.constants)])
        self.constants[name] = (size * rng.standard_normal(shape)).astype(np.float32)
        return name

    def graph(self, outputs: tuple[str, ...], inputs: tuple[str, ...] = ("x",)) -> Graph:
        values = {name: Value(shape) for name, shape in self.shapes.items()}
        constants: Mapping[str, Constant] = dict(self.constants)
        return Graph(inputs, outputs, tuple(self.nodes), values, constants)


PLAIN_STEPS = (
    *(Step("relu"), Step("clip", -0.5, 0.75), Step("leaky_relu", 0.2), Step("sigmoid"), Step("silu"), Step("tanh")),
    *(Step("hard_sigmoid", 0.3, 0.4), Step("hard_sigmoid", 1 / 6, 0.5), Step("hard_swish"), Step("neg")),
)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to ten nodes on images, often one after the other, sometimes on what came before."""
    sketch = Sketch(draw(st.integers(0, 2**16)))
    sketch.shapes["x"] = IMAGES
    for _ in range(draw(st.integers(1, 10))):
        source = draw(st.sampled_from([*sketch.shapes][-2:])) if draw(st.booleans()) else [*sketch.shapes][-1]
        kinds = _ON_IMAGES if len(sketch.shapes[source]) == 4 else _ON_ROWS
        draw(st.sampled_from(kinds))(draw, sketch, source)
    names = [name for name in sketch.shapes if name != "x"]
    others = draw(st.lists(st.sampled_from(names), max_size=2))
    return sketch.graph(tuple(dict.fromkeys([names[-1], *others])))


Draw = st.DrawFn


def _convolution(draw: Draw, to: Sketch, x: str) -> None:
    n, channels, height, width = to.shapes[x]
    depthwise = draw(st.booleans()) and draw(st.booleans())
    outputs = channels if depthwise else draw(st.sampled_from(CHANNELS))
    side = draw(st.sampled_from([1, 3]))
    taken = 1 if depthwise else channels
    weight = to.constant(outputs, taken, side, side, size=1 / math.sqrt(taken * side**2))
    scale, bias = (to.constant(outputs) if draw(st.booleans()) else "" for _ in range(2))
    op = Convolution((side, side), pads=(side // 2,) * 4, groups=channels if depthwise else 1)
    to.add(op, (x, weight, scale, bias), (n, outputs, height, width))


def _padded_convolution(draw: Draw, to: Sketch, x: str) -> None:
    """Zeros that a convolution may take in, or another number, which it may not."""
    n, channels, height, width = to.shapes[x]
    value = draw(st.sampled_from([0.0, 0.0, 1.5]))
    padded = to.add(Pad((0, 0, 1, 1), "constant", value), (x,), (n, channels, height + 2, width + 2))
    weight = to.constant(16, channels, 3, 3, size=1 / math.sqrt(9 * channels))
    to.add(Convolution((3, 3)), (padded, weight, "", ""), (n, 16, height, width))


def _steps(draw: Draw, to: Sketch, x: str) -> None:
    shape = to.shapes[x]
    if len(shape) == 4 and draw(st.integers(0, 4)) == 0:
        to.add(Map(), (x,), shape, Step("prelu", operand=to.constant(shape[1])))
    else:
        to.add(Map(), (x,), shape, draw(st.sampled_from(PLAIN_STEPS)))


def _gate(draw: Draw, to: Sketch, x: str) -> None:
    """A value times a function of itself."""
    gate = to.add(Map(), (x,), to.shapes[x], draw(st.sampled_from(PLAIN_STEPS)))
    to.add(Binary("mul"), draw(st.sampled_from([(x, gate), (gate, x)])), to.shapes[x])


def _with_constant(draw: Draw, to: Sketch, x: str) -> None:
    shape = to.shapes[x]
    channels = shape[1] if len(shape) == 4 else shape[-1]
    each = (channels, 1, 1) if len(shape) == 4 else (channels,)
    other = to.constant(*draw(st.sampled_from([each, (1, *each)[-len(shape) :], (1,), shape])))
    # far from zero, by which a constant may be divided
    to.constants[other] = np.sign(to.constants[other]) * (abs(to.constants[other]) + 0.5).astype(np.float32)
    op = draw(
        st.sampled_from([Binary("add"), Binary("sub"), Binary("mul"), Binary("div"), Binary("max"), Binary("min")])
    )
    turned = op.kind != "div" and draw(st.booleans())
    to.add(op, (other, x) if turned else (x, other), shape)


def _with_value(draw: Draw, to: Sketch, x: str) -> None:
    shape = to.shapes[x]
    alike = [name for name, other in to.shapes.items() if other == shape]
    other = draw(st.sampled_from(alike))
    op = draw(st.sampled_from([Binary("add"), Binary("mul"), Binary("sub")]))
    to.add(op, draw(st.sampled_from([(x, other), (other, x)])), shape)


def _pool(draw: Draw, to: Sketch, x: str) -> None:
    op = Pool(draw(st.sampled_from(["max", "mean"])), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), draw(st.booleans()))
    to.add(op, (x,), to.shapes[x])


def _squeeze(draw: Draw, to: Sketch, x: str) -> None:
    """Channels weighed by their means."""
    n, channels, height, width = to.shapes[x]
    mean = to.add(Reduce("mean", (2, 3)), (x,), (n, channels, 1, 1))
    weight = to.constant(channels, channels, 1, 1, size=1 / math.sqrt(channels))
    op = Convolution((1, 1))
    gate = to.add(op, (mean, weight, "", to.constant(channels)), (n, channels, 1, 1), Step("sigmoid"))
    if draw(st.booleans()):
        gate = to.add(Expand(), (gate,), (n, channels, height, width))
    to.add(Binary("mul"), (x, gate), (n, channels, height, width))


def _concat(draw: Draw, to: Sketch, x: str) -> None:
    """Channels of two values that have as many places, then some of these."""
    n, _, height, width = to.shapes[x]
    fitting = [v for v, s in to.shapes.items() if len(s) == 4 and (s[0], *s[2:]) == (n, height, width)]
    other = draw(st.sampled_from(fitting))
    channels = to.shapes[x][1] + to.shapes[other][1]
    both = to.add(Concat(1), (x, other), (n, channels, height, width))
    first, kept = draw(st.sampled_from([(0, 16), (1, 3), (channels - 3, 3), (0, channels - 1)]))
    kept = min(kept, channels - first)
    to.add(Slice((0, first, 0, 0), (1, 1, 1, 1)), (both,), (n, kept, height, width))


def _reshape(draw: Draw, to: Sketch, x: str) -> None:
    """Twice, as exporters do; to rows, or to other images."""
    shape = to.shapes[x]
    size = math.prod(shape)
    flat = to.add(Reshape(), (x,), (size,))
    targets = [(1, size), (2, size // 2), (size // 5, 5), (1, size // 20, 4, 5), (2, size // 40, 4, 5)]
    to.add(Reshape(), (flat,), draw(st.sampled_from([shape for shape in targets if math.prod(shape) == size])))


def _transpose(draw: Draw, to: Sketch, x: str) -> None:
    shape = to.shapes[x]
    order = draw(st.permutations(range(len(shape))))
    to.add(Transpose(tuple(order)), (x,), tuple(shape[axis] for axis in order))


def _dense(draw: Draw, to: Sketch, x: str) -> None:
    *ahead, columns = to.shapes[x]
    outputs, rows_first = draw(st.sampled_from([3, 16, 20])), draw(st.booleans())
    shape = (outputs, columns) if rows_first else (columns, outputs)
    weight = to.constant(*shape, size=1 / math.sqrt(columns))
    bias = to.constant(outputs) if draw(st.booleans()) else ""
    to.add(Dense(rows_first), (x, weight, "", bias), (*ahead, outputs))


def _softmax(draw: Draw, to: Sketch, x: str) -> None:
    to.add(Softmax(len(to.shapes[x]) - 1), (x,), to.shapes[x])


_ANYWHERE = (_steps, _steps, _gate, _with_constant, _with_constant, _with_value, _with_value, _reshape)

_ON_IMAGES: tuple[Any, ...] = (*_ANYWHERE, _convolution, _convolution, _padded_convolution, _pool, _squeeze, _concat)

_ON_ROWS: tuple[Any, ...] = (*_ANYWHERE, _dense, _dense, _softmax, _transpose)


def run_on(device: Device, graph: Graph, precision: Precision, inputs: Sequence[Array]) -> list[Array]:
    """The outputs of a graph whose constants are all arrays."""
    queue = device.cl.CommandQueue(device.context)
    storage: Storage = "f32" if precision == "float" else "f16"
    schedule = scheduled(graph, storage)
    targets = targets_of(schedule, target_of(device, precision, keeps_more=True), ())
    source = SimpleNamespace(numbers=lambda constant: constant)  # none are an archive's
    weights = Weights(cast(Any, source), device, "packed", storage)
    started = Plan(device, queue, schedule, targets, weights, graph.constants).start(inputs)
    started.wait()
    return started.outputs


def check_order(schedule: Schedule) -> None:
    """Everything is written before it is read, and places of one memory agree about it."""
    memory = {place.memory: place for place in (*schedule.inputs, *schedule.constants.values())}
    for task in schedule.tasks:
        reads = {place.memory for place in task.reads()}
        for place in task.reads():
            assert place.memory in memory, f"{task.name} reads {place.memory}"
            _check_same(memory[place.memory], place)
        known = memory.setdefault(task.output.memory, task.output)
        assert known == task.output, f"{task.name} writes {known.memory} again"
        assert task.output.memory not in reads
    for place in schedule.outputs:
        _check_same(memory[place.memory], place)
        assert not place.blocks
        assert place.storage != "f16"


def _check_same(written: Place, read: Place) -> None:
    assert written.storage == read.storage
    assert read.elements <= written.elements
    if written.blocks == read.blocks == (len(read.shape) != 4):
        assert read.elements == written.elements

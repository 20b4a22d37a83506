"""The lowered graph: the small set of operations that every model becomes before it meets a device.

A graph is a list of nodes in an order in which they can run. Values have names and fixed shapes, batch first. Images
are (N, C, H, W). What a node does to its result before it stores it, such as an activation, is its epilogue.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from wcodec.model import Array

StepKind = Literal[
    "relu",
    "clip",
    "leaky_relu",
    "prelu",
    "sigmoid",
    "silu",
    "hard_sigmoid",
    "hard_swish",
    "tanh",
    "exp",
    "sqrt",
    "neg",
    "add",
    "mul",
]


@dataclass(frozen=True)
class Step:
    """One thing done to a result: a function of it with parameters `a` and `b`, or of it and another value.

    clip: between a and b. leaky_relu: slope a. hard_sigmoid: clip(a * x + b, 0, 1). prelu: `operand` holds slopes, one
    a channel. add and mul: `operand` has the result's shape.
    """

    kind: StepKind
    a: float = 0.0
    b: float = 0.0
    operand: str = ""


@dataclass(frozen=True)
class Convolution:
    """Inputs: x (N, C, H, W), weight, scale, bias; scale and bias, one a row of the output, may be "".

    `pads` are top, left, bottom, right. The weight is (K, C / groups, *kernel), or for a transposed convolution
    (C, K / groups, *kernel); the result is convolved * scale + bias.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    transposed: bool = False


@dataclass(frozen=True)
class Dense:
    """Inputs: x (..., K), weight, scale, bias. x times the weight, (N, K), or (K, N) where `rows_first` is false."""

    rows_first: bool


@dataclass(frozen=True)
class MatMul:
    """Inputs: a (..., M, K) and b (..., K, N), leading axes broadcast. The result is times `scale`."""

    transpose_a: bool = False
    transpose_b: bool = False
    scale: float = 1.0


@dataclass(frozen=True)
class Pool:
    """Maximum or mean over windows. `counts_padding` says whether a mean divides by the padding's places too."""

    kind: Literal["max", "mean"]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    counts_padding: bool = False


@dataclass(frozen=True)
class Reduce:
    """Mean, maximum or sum over axes, which remain with length 1."""

    kind: Literal["mean", "max", "sum"]
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Binary:
    """Two values, broadcast as NumPy does."""

    kind: Literal["add", "sub", "mul", "div", "max", "min", "pow"]


@dataclass(frozen=True)
class Map:
    """The value as it is: for the sake of an epilogue."""


@dataclass(frozen=True)
class Concat:
    axis: int


@dataclass(frozen=True)
class Slice:
    """Every `steps`th element from `starts` on; the output's shape says how many. Steps may be negative."""

    starts: tuple[int, ...]
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Pad:
    """`before` are places put ahead of each axis; the output's shape says how many follow. None are negative."""

    before: tuple[int, ...]
    mode: Literal["constant", "edge", "reflect"]
    value: float = 0.0


@dataclass(frozen=True)
class Transpose:
    order: tuple[int, ...]


@dataclass(frozen=True)
class Reshape:
    """The same numbers in another shape."""


@dataclass(frozen=True)
class Expand:
    """Broadcast to the output's shape."""


@dataclass(frozen=True)
class Resize:
    """Images to another size. A place of the output, i, samples the input at i * scale + offset, along each axis.

    "nearest" takes the place `rounding` says; "linear" interpolates between neighbours. Beyond the edges, the edge.
    """

    kind: Literal["nearest", "linear"]
    scales: tuple[float, float]
    offsets: tuple[float, float]
    rounding: Literal["floor", "ceil", "prefer_floor", "prefer_ceil"] = "floor"


@dataclass(frozen=True)
class Softmax:
    axis: int
    log: bool = False


@dataclass(frozen=True)
class LocalNorm:
    """x / (bias + alpha / size * sum of squares over `size` channels around) ** beta."""

    size: int
    alpha: float
    beta: float
    bias: float


@dataclass(frozen=True)
class ArgMax:
    """Where along an axis the maximum is, its first or its last place. The axis remains with length 1."""

    axis: int
    last: bool = False


Op = (
    Convolution
    | Dense
    | MatMul
    | Pool
    | Reduce
    | Binary
    | Map
    | Concat
    | Slice
    | Pad
    | Transpose
    | Reshape
    | Expand
    | Resize
    | Softmax
    | LocalNorm
    | ArgMax
)


@dataclass(frozen=True)
class Value:
    """A shape, and whether it holds floats or the integers that ArgMax gives."""

    shape: tuple[int, ...]
    dtype: Literal["f32", "i64"] = "f32"

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Stored:
    """A constant that is a tensor of the archive, as it is."""

    tensor: str
    shape: tuple[int, ...]


Constant = Stored | Array


@dataclass(frozen=True)
class Node:
    """One operation. `name` is the source's own for it; `inputs` are values or constants, "" where one is left out."""

    name: str
    op: Op
    inputs: tuple[str, ...]
    output: str
    epilogue: tuple[Step, ...] = ()

    def reads(self) -> Iterator[str]:
        """All values and constants that the node needs."""
        yield from filter(None, self.inputs)
        yield from (step.operand for step in self.epilogue if step.operand)


@dataclass(frozen=True)
class Graph:
    """Nodes in order, with the values they compute and the constants they need."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    values: Mapping[str, Value]
    constants: Mapping[str, Constant] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value or a constant."""
        return (self.values.get(name) or self.constants[name]).shape

    def uses(self) -> dict[str, int]:
        """How often each value or constant is read, the graph's outputs counted as readings."""
        counts: dict[str, int] = dict.fromkeys(self.outputs, 1)
        for node in self.nodes:
            for name in node.reads():
                counts[name] = counts.get(name, 0) + 1
        return counts

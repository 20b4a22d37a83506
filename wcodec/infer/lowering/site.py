"""What a translator sees of one ONNX node, and where it puts what the node becomes."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from wcodec.errors import CorruptFileError, UnsupportedError
from wcodec.infer.graph import Binary, Constant, Dense, MatMul, Node, Op, Reshape, Step, Stored, Value
from wcodec.model import FLOATS, Array, dtype_name

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Draft:
    """The lowered graph while it is being made. `same` says which value or constant a name stands for."""

    nodes: list[Node] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    reserved: Collection[str] = ()
    """Names that the source has for values which are still to come."""

    def resolve(self, name: str) -> str:
        return self.same.get(name, name)

    def shape(self, name: str) -> tuple[int, ...]:
        return (self.values.get(name) or self.constants[name]).shape

    def unused_name(self, base: str) -> str:
        """A name that nothing has, from that of what it belongs to."""
        name, number = base, 0
        while name in self.values or name in self.constants or name in self.same or name in self.reserved:
            number += 1
            name = f"{base}#{number}"
        return name


@dataclass(frozen=True)
class Site:
    """One ONNX node: its inputs by the names they stand for, "" where left out, its attributes, its outputs' shapes."""

    draft: Draft
    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    output_shapes: tuple[tuple[int, ...], ...]
    read: Callable[[str], Array]

    def __str__(self) -> str:
        return f"{self.kind} node {self.name!r}"

    def refuse(self, why: str) -> NoReturn:
        raise UnsupportedError(f"{self}: {why}")

    def deny(self, what: str) -> NoReturn:
        """Refuse what no graph may have."""
        raise CorruptFileError("graph", f"{self}: {what}")

    def has(self, place: int) -> bool:
        """Whether an optional input is given."""
        return place < len(self.inputs) and self.inputs[place] != ""

    def is_constant(self, place: int) -> bool:
        return self.has(place) and self.inputs[place] in self.draft.constants

    def shape(self, place: int = 0) -> tuple[int, ...]:
        return self.draft.shape(self.inputs[place])

    def rank(self, place: int = 0) -> int:
        return len(self.shape(place))

    def axis(self, default: int) -> int:
        """The attribute `axis`, counted from the front."""
        axis = int(self.attributes.get("axis", default))
        if not -self.rank() <= axis < self.rank():
            self.deny(f"its axis is {axis}")
        return axis % self.rank()

    def array(self, place: int) -> Array:
        """The numbers of an input that must be constant."""
        if not self.is_constant(place):
            self.refuse(f"its input {place} must be a constant")
        return self.read(self.inputs[place])

    def numbers(self, place: int, attribute: str = "") -> list[int] | None:
        """Integers given by a constant input, or, as older operator sets have it, an attribute."""
        if self.has(place):
            return [int(number) for number in self.array(place).reshape(-1)]
        given = self.attributes.get(attribute)
        return None if given is None else [int(number) for number in given]

    def number(self, place: int, attribute: str, default: float) -> float:
        """A float given by a constant input or an attribute."""
        if self.has(place):
            array = self.array(place)
            if array.size != 1:
                self.deny(f"its input {place} is one number, not {array.size}")
            return float(array.reshape(-1)[0])
        return float(self.attributes.get(attribute, default))

    def emit(
        self,
        op: Op,
        inputs: Sequence[str] | None = None,
        *,
        output: int = 0,
        steps: tuple[Step, ...] = (),
        dtype: str = "f32",
    ) -> None:
        """Add the node that computes an output of this one."""
        value = Value(self.output_shapes[output], "i64" if dtype == "i64" else "f32")
        self._add(op, self.inputs if inputs is None else inputs, self.outputs[output], value, steps)

    def between(
        self, op: Op, inputs: Sequence[str], shape: tuple[int, ...], steps: tuple[Step, ...] = (), dtype: str = "f32"
    ) -> str:
        """Add a node for a value that only this one's other nodes see; the value's name."""
        name = self.draft.unused_name(f"{self.outputs[0]}/{type(op).__name__}")
        self._add(op, inputs, name, Value(shape, "i64" if dtype == "i64" else "f32"), steps)
        return name

    def constant(self, array: Array) -> str:
        """Add a constant of this node's own; its name."""
        name = self.draft.unused_name(f"{self.outputs[0]}/constant")
        self.draft.constants[name] = np.ascontiguousarray(array)
        return name

    def vector(self, place: int) -> str:
        """The name of a float constant of one axis, or "" for an input left out."""
        if not self.has(place):
            return ""
        self.array(place)
        return self.inputs[place]

    def stand_for(self, name: str, output: int = 0) -> None:
        """Have an output be another value."""
        self.draft.same[self.outputs[output]] = name

    def _add(self, op: Op, inputs: Sequence[str], name: str, value: Value, steps: tuple[Step, ...]) -> None:
        for given in inputs:
            self._check(given)
        shapes = [self.draft.shape(given) for given in inputs if given]
        if not _fits(op, shapes, value.shape):
            self.deny(f"of {', '.join(map(str, shapes))} it does not make {value.shape}")
        self.draft.values[name] = value
        self.draft.nodes.append(Node(self.name or self.outputs[0], op, tuple(inputs), name, steps))

    def _check(self, name: str) -> None:
        """Refuse what devices do not compute with."""
        constant = self.draft.constants.get(name)
        if isinstance(constant, np.ndarray) and dtype_name(constant.dtype) not in FLOATS:
            self.refuse(f"computes with a constant of dtype {constant.dtype}; devices compute with floats")
        if isinstance(constant, Stored | np.ndarray) or not name:
            return
        if name in self.draft.values and self.draft.values[name].dtype != "f32" and self.kind not in _ANY_DTYPE:
            self.refuse("computes with the integers of an ArgMax; only their shape may change")


def _fits(op: Op, shapes: Sequence[tuple[int, ...]], result: tuple[int, ...]) -> bool:
    """Whether an operation makes its result of its inputs, where shape inference does not see to it."""
    if isinstance(op, Reshape):
        return math.prod(shapes[0]) == math.prod(result)
    if isinstance(op, Binary):
        return _broadcast(*shapes) == result
    if isinstance(op, Dense):
        x, weight = shapes[:2]
        inner, outer = reversed(weight) if op.rows_first else weight
        vectors = all(math.prod(shape) == outer for shape in shapes[2:])
        return x[-1] == inner and result == (*x[:-1], outer) and vectors
    if isinstance(op, MatMul):
        (*ahead, rows, inner), (*others, outer, columns) = (
            (*shape[:-2], *shape[:-3:-1]) if flipped else shape
            for shape, flipped in zip(shapes, (op.transpose_a, op.transpose_b), strict=True)
        )
        stack = _broadcast(tuple(ahead), tuple(others))
        return inner == outer and stack is not None and result == (*stack, rows, columns)
    return True


def _broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...] | None:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return None


_ANY_DTYPE = ("ArgMax", "Reshape", "Squeeze", "Unsqueeze", "Flatten")

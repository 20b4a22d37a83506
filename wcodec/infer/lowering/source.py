"""The ONNX graph of an archive: what it takes and gives, whether it can be run, and the weights it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wcodec.archive import Archive
from wcodec.errors import UnsupportedError
from wcodec.formats.onnx import is_standard, opset_of, parse, require_onnx, subgraphs
from wcodec.infer.graph import Constant, Stored
from wcodec.model import FLOATS, Array

if TYPE_CHECKING:
    from collections.abc import Collection

    import onnx

OLDEST_OPSET = 13

DRAWN = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")
"""Operators whose result is another every time."""


class OnnxSource:
    """An archive with its graph parsed.

    Raises `UnsupportedError` for an archive without a graph or with one of an old operator set, `CorruptFileError`
    for one that is no graph, `MissingDependencyError` without the onnx package.
    """

    def __init__(self, archive: Archive) -> None:
        stored = archive.graph()
        if stored is None:
            raise UnsupportedError("the archive holds weights only, no graph to run; encode the model from .onnx")
        require_onnx()
        self.archive = archive
        self.proto = parse("graph", stored)
        self.opset = opset_of(self.proto)
        if self.opset < OLDEST_OPSET:
            raise UnsupportedError(
                f"the graph is of ONNX operator set {self.opset}; from {OLDEST_OPSET} on they can be run: "
                "export it anew, or convert it with onnx.version_converter"
            )
        self.inputs = self._inputs()
        """Names and shapes of what the model takes; a length that is free has a name, or "?"."""
        self.outputs = tuple(info.name for info in self.proto.graph.output)
        self._arrays: dict[str, Array] = {}
        weights = {stub.name for stub in self.proto.graph.initializer}
        self.names = weights.union(name for node in self.proto.graph.node for name in node.output)
        """Names of all values and weights but the inputs."""
        self._computed: dict[str, list[Array]] = {}

    def check_operators(self, known: Collection[str]) -> None:
        """`UnsupportedError` unless every node is of a known operator, or constant."""
        constant = {stub.name for stub in self.proto.graph.initializer} | {""}
        for node in self.proto.graph.node:
            if node.op_type == "Shape" or (constant.issuperset(node.input) and not is_unsteady(node)):
                constant.update(node.output)
            elif not is_standard(node) or node.op_type not in known:
                domain = f"{node.domain}." if node.domain else ""
                raise UnsupportedError(
                    f"operator {domain}{node.op_type} of node {node.name or node.output[0]!r} is not supported; "
                    f"these are: {', '.join(sorted(known))}"
                )

    @property
    def has_free_sizes(self) -> bool:
        """Whether lengths but those of batches are free, so that some may fit and others not."""
        return any(isinstance(length, str) for shape in self.inputs.values() for length in shape[1:])

    def output_shapes(self) -> list[tuple[str, tuple[int | str, ...]]]:
        """Names and shapes of what the model gives, as far as the graph tells."""
        return [(info.name, _declared(info)) for info in self.proto.graph.output]

    def read(self, tensor: str) -> Array:
        """A tensor of the archive, decoded once, floats as f32."""
        if tensor not in self._arrays:
            stored = self.archive.tensor(tensor)
            array = stored.array()
            self._arrays[tensor] = array.astype(np.float32, copy=False) if stored.dtype in FLOATS else array
        return self._arrays[tensor]

    def numbers(self, constant: Constant) -> Array:
        """The numbers of a constant of this model's, floats of the archive as f32."""
        return self.read(constant.tensor) if isinstance(constant, Stored) else constant

    def own_name(self, name: str, array: Array) -> str:
        """A name for a constant that was computed, one for each array: some depend on the inputs' shapes."""
        known = self._computed.setdefault(name, [])
        same = (n for n, other in enumerate(known) if _identical(array, other))
        number = next(same, len(known))
        if number == len(known):
            known.append(array)
        own = f"{name}, {number}" if number else name
        while number and own in self.names:
            own += "'"
        return own

    def _inputs(self) -> dict[str, tuple[int | str, ...]]:
        weights = {stub.name for stub in self.proto.graph.initializer}
        found: dict[str, tuple[int | str, ...]] = {}
        for info in self.proto.graph.input:
            if info.name in weights:
                continue
            kind = info.type.tensor_type
            if kind.elem_type not in float_types() or not kind.HasField("shape"):
                raise UnsupportedError(f"input {info.name!r}: is no array of floats of known rank")
            found[info.name] = _declared(info)
        return found


def is_unsteady(node: onnx.NodeProto) -> bool:
    """Whether a node's inputs do not say what it gives: it draws numbers, or has graphs of its own, which read more."""
    return node.op_type in DRAWN or any(subgraphs([node]))


def _identical(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def declared_shapes(graph: bytes) -> tuple[list[tuple[int | str, ...]], list[tuple[int | str, ...]]]:
    """The shapes of what a model takes, and of what it gives, as far as its graph tells; of others ()."""
    proto = parse("graph", graph).graph
    weights = {stub.name for stub in proto.initializer}
    return [_declared(info) for info in proto.input if info.name not in weights], [*map(_declared, proto.output)]


def declared_classes(graph: bytes) -> int | None:
    """How many classes a model's only output counts, as far as its graph tells."""
    _, outputs = declared_shapes(graph)
    classes = outputs[0][1:2] if len(outputs) == 1 and {*outputs[0][2:]} <= {1} else ()
    return classes[0] if classes and isinstance(classes[0], int) else None


def _declared(info: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else dim.dim_param or "?"
        for dim in info.type.tensor_type.shape.dim
    )


def float_types() -> tuple[int, ...]:
    """ONNX's numbers of float dtypes, f32 first."""
    from onnx import TensorProto

    return (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)

"""The ONNX graph of an archive: what it takes and gives, whether it can be run, and the weights it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wcodec.archive import Archive
from wcodec.errors import UnsupportedError
from wcodec.formats.onnx import parse, require_onnx
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
        self.opset = max((o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
        if self.opset < OLDEST_OPSET:
            raise UnsupportedError(
                f"the graph is of ONNX operator set {self.opset}; from {OLDEST_OPSET} on they can be run: "
                "export it anew, or convert it with onnx.version_converter"
            )
        self.inputs = self._inputs()
        """Names and shapes of what the model takes; a length that is free has a name, or "?"."""
        self.outputs = tuple(info.name for info in self.proto.graph.output)
        self._arrays: dict[str, Array] = {}

    def check_operators(self, known: Collection[str]) -> None:
        """`UnsupportedError` unless every node is of a known operator, or constant."""
        constant = {stub.name for stub in self.proto.graph.initializer} | {""}
        for node in self.proto.graph.node:
            if node.op_type == "Shape" or (constant.issuperset(node.input) and node.op_type not in DRAWN):
                constant.update(node.output)
            elif node.domain not in ("", "ai.onnx") or node.op_type not in known:
                domain = f"{node.domain}." if node.domain else ""
                raise UnsupportedError(
                    f"operator {domain}{node.op_type} of node {node.name or node.output[0]!r} is not supported; "
                    f"these are: {', '.join(sorted(known))}"
                )

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


def _declared(info: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else dim.dim_param or "?"
        for dim in info.type.tensor_type.shape.dim
    )


def float_types() -> tuple[int, ...]:
    """ONNX's numbers of float dtypes, f32 first."""
    from onnx import TensorProto

    return (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)

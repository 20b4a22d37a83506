"""Which axis of an ONNX weight counts output channels: what the operator that uses it says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def channel_axes(graph: onnx.GraphProto) -> Mapping[str, int]:
    """The axis of output channels of every initializer whose operator has another than axis 0."""
    ranks = {stub.name: len(stub.dims) for stub in graph.initializer}
    return {name: axis for name, axis in _uses(graph.node, ranks) if axis}


def _uses(nodes: Iterable[onnx.NodeProto], ranks: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    for node in nodes:
        if len(node.input) < 2:
            continue
        left, right = node.input[:2]
        if node.op_type == "MatMul":
            yield right, max(0, ranks.get(right, 0) - 1)
            yield left, max(0, ranks.get(left, 0) - 2)
        elif node.op_type == "Gemm":
            yield right, 0 if _flag(node, "transB") else 1
        elif node.op_type == "ConvTranspose":
            yield right, 1


def _flag(node: onnx.NodeProto, name: str) -> bool:
    return any(attribute.name == name and attribute.i for attribute in node.attribute)

"""What operators of an ONNX graph say of its weights: which are multiplied with, and which axis counts channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_FACTORS: Mapping[str, slice] = {
    **dict.fromkeys(("MatMul", "Gemm", "MatMulInteger"), slice(2)),
    **dict.fromkeys(("Conv", "ConvTranspose", "ConvInteger", "DeformConv"), slice(1, 2)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), slice(1, 3)),
    "Gather": slice(1),
    "Einsum": slice(None),
}
"""Operators whose results are sums of products, or rows of a table, and which of their inputs are the factors."""

_PASSED_ON = frozenset(
    {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast", "Slice", "Split"}
)
"""Operators whose outputs are the numbers of their first input."""


def channel_axes(graph: onnx.GraphProto) -> Mapping[str, int]:
    """The axis of output channels of every initializer whose operator has another than axis 0."""
    ranks = {stub.name: len(stub.dims) for stub in graph.initializer}
    return {name: axis for name, axis in _uses(graph.node, ranks) if axis}


def factors(graph: onnx.GraphProto, inner: Iterable[onnx.GraphProto]) -> frozenset[str]:
    """Names of values that sums of products are made with, or tables that rows are taken from.

    Rounding errors of such numbers average out. Those of others, such as anchors that are added to boxes, do not. What
    subgraphs, which are `inner`, and operators read that are not ONNX's own may be anything, and counts too.
    """
    found = {name for within in inner for node in within.node for name in node.input}
    for node in reversed(graph.node):
        if node.domain not in ("", "ai.onnx"):
            found.update(node.input)
        elif node.op_type in _FACTORS:
            found.update(node.input[_FACTORS[node.op_type]])
        elif node.op_type in _PASSED_ON and found.intersection(node.output):
            found.update(node.input[:1])
    return frozenset(found)


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

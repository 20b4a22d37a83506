"""How many axes the values of an ONNX graph have, where that can be told without knowing any numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from wcodec.formats.onnx import is_standard

if TYPE_CHECKING:
    import onnx

_AS_FIRST_INPUT = frozenset(
    {
        *("AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Conv", "ConvTranspose", "Dropout", "Elu"),
        *("Gelu", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "Identity", "LayerNormalization"),
        *("LeakyRelu", "LogSoftmax", "MaxPool", "Mish", "PRelu", "Pad", "Relu", "Selu", "Sigmoid", "Softmax"),
        *("Softplus", "Swish", "Tanh", "Transpose"),
    }
)
"""Operators whose result has as many axes as their first input."""

_BROADCASTING = frozenset({"Add", "Div", "Mul", "Sub"})


def known_ranks(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> dict[str, int]:
    """The ranks of values by name: declared ones, those of initializers, and what follows from these node by node."""
    lengths = {stub.name: tuple(stub.dims) for stub in graph.initializer}
    ranks = {
        info.name: len(info.type.tensor_type.shape.dim)
        for info in (*graph.input, *graph.value_info, *graph.output)
        if info.type.tensor_type.HasField("shape")
    }
    ranks.update({name: len(shape) for name, shape in lengths.items()})
    for node in nodes:
        if node.op_type == "Constant":
            values = [attribute.t for attribute in node.attribute if attribute.HasField("t")]
            lengths.update(zip(node.output, (tuple(value.dims) for value in values), strict=False))
            continue
        rank = _rank(node, ranks, lengths)
        if rank is not None and node.output:
            ranks.setdefault(node.output[0], rank)
    return ranks


def _rank(node: onnx.NodeProto, ranks: Mapping[str, int], lengths: Mapping[str, tuple[int, ...]]) -> int | None:
    given = [ranks.get(name) for name in node.input]
    known = [rank for rank in given if rank is not None]
    if not is_standard(node) or not given:
        return None
    if node.op_type in ("Flatten", "Gemm"):
        return 2
    if node.op_type in _AS_FIRST_INPUT:
        return given[0]
    if node.op_type == "Reshape" and len(node.input) > 1:
        target = lengths.get(node.input[1], ())
        return target[0] if len(target) == 1 else None
    if node.op_type in _BROADCASTING and len(known) == len(given):
        return max(known)
    if node.op_type == "MatMul" and len(known) == len(given) and min(known) > 1:
        return max(known)
    return None

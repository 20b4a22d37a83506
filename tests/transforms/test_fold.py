"""Folding, against ONNX Runtime: the same outputs, in fewer nodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.support.folding import Weights, drawn, folded, kinds, norm, norm_node, same_outputs
from tests.support.infer import graph_of, node

Shape = tuple[int, ...]


class Case(NamedTuple):
    """Nodes from x to y, what is left of them after folding, and the tensors that are left."""

    shape: Shape
    nodes: Sequence[onnx.NodeProto]
    weights: Weights
    left: list[str]
    tensors: list[str]


IMAGES = (2, 6, 9, 8)
CONV = node("Conv", "x", "conv.weight", outputs=("c",), pads=[1, 1, 1, 1])
BIASED = node("Conv", "x", "conv.weight", "conv.bias", outputs=("c",))
WEIGHT = {"conv.weight": drawn(8, 6, 3, 3)}
BIAS = {"conv.bias": drawn(8)}
BN = norm_node("c", "y")
SCALARS: Weights = {"factor": np.array(-1.7, np.float32), "summand": np.full(1, 0.3, np.float32)}


def matrix(kind: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:
    return node(kind, "x", "fc.weight", *inputs, outputs=("c",), **attributes)


FOLDED: dict[str, Case] = {
    "convolution": Case(IMAGES, [CONV, BN], WEIGHT | norm(8), ["Conv"], ["conv.weight", "conv.bias"]),
    "its bias": Case(IMAGES, [BIASED, BN], WEIGHT | BIAS | norm(8), ["Conv"], ["conv.weight", "conv.bias"]),
    "epsilon": Case(
        IMAGES, [CONV, norm_node("c", "y", epsilon=0.25)], WEIGHT | norm(8), ["Conv"], ["conv.weight", "conv.bias"]
    ),
    "signals": Case(
        (2, 6, 9),
        [node("Conv", "x", "w", outputs=("c",)), BN],
        {"w": drawn(8, 6, 3)} | norm(8),
        ["Conv"],
        ["w", "w.bias"],
    ),
    "groups": Case(
        IMAGES,
        [node("Conv", "x", "w", outputs=("c",), group=3), BN],
        {"w": drawn(9, 2, 3, 3)} | norm(9),
        ["Conv"],
        ["w", "w.bias"],
    ),
    "depthwise": Case(
        IMAGES,
        [node("Conv", "x", "w", outputs=("c",), group=6), BN],
        {"w": drawn(6, 1, 3, 3)} | norm(6),
        ["Conv"],
        ["w", "w.bias"],
    ),
    "transposed": Case(
        IMAGES,
        [node("ConvTranspose", "x", "w", "b", outputs=("c",), strides=[2, 2]), BN],
        {"w": drawn(6, 5, 2, 3), "b": drawn(5)} | norm(5),
        ["ConvTranspose"],
        ["w", "b"],
    ),
    "transposed in groups": Case(
        IMAGES,
        [node("ConvTranspose", "x", "w", outputs=("c",), group=3), BN],
        {"w": drawn(6, 5, 2, 3)} | norm(15),
        ["ConvTranspose"],
        ["w", "w.bias"],
    ),
    "gemm": Case(
        (4, 9),
        [matrix("Gemm", "fc.bias"), BN],
        {"fc.weight": drawn(9, 7), "fc.bias": drawn(7)} | norm(7),
        ["Gemm"],
        ["fc.weight", "fc.bias"],
    ),
    "gemm, rows": Case(
        (4, 9),
        [matrix("Gemm", transB=1), BN],
        {"fc.weight": drawn(7, 9)} | norm(7),
        ["Gemm"],
        ["fc.weight", "fc.bias"],
    ),
    "gemm, alpha and beta": Case(
        (9, 4),
        [matrix("Gemm", "b", transA=1, alpha=0.3, beta=-2.0), BN],
        {"fc.weight": drawn(9, 7), "b": drawn(1, 7)} | norm(7),
        ["Gemm"],
        ["fc.weight", "b"],
    ),
    "gemm, one number for all": Case(
        (4, 9),
        [matrix("Gemm", "factor"), BN],
        {"fc.weight": drawn(9, 7)} | SCALARS | norm(7),
        ["Gemm"],
        ["fc.weight", "fc.bias"],
    ),
    "matmul": Case(
        (4, 9),
        [matrix("MatMul"), BN],
        {"fc.weight": drawn(9, 7)} | norm(7),
        ["MatMul", "Add"],
        ["fc.weight", "fc.bias"],
    ),
    "matmul and its bias": Case(
        (4, 9),
        [matrix("MatMul"), node("Add", "b", "c", outputs=("d",)), norm_node("d", "y")],
        {"fc.weight": drawn(9, 7), "b": drawn(7)} | norm(7),
        ["MatMul", "Add"],
        ["fc.weight", "b"],
    ),
    "matmul of a stack": Case(
        (3, 4, 9),
        [
            matrix("MatMul"),
            node("Mul", "c", "f", outputs=("d",)),
            node("Sub", "d", "s", outputs=("e",)),
            node("Mul", "e", "f", outputs=("y",)),
        ],
        {"fc.weight": drawn(9, 7), "f": drawn(7), "s": drawn(1, 1, 7)},
        ["MatMul", "Add"],
        ["fc.weight", "s"],
    ),
    "matmul and a factor": Case(
        (4, 9),
        [matrix("MatMul"), node("Div", "c", "f", outputs=("y",))],
        {"fc.weight": drawn(9, 7), "f": drawn(7)},
        ["MatMul"],
        ["fc.weight"],
    ),
    "as tf2onnx writes norms": Case(
        IMAGES,
        [CONV, node("Mul", "c", "f", outputs=("d",)), node("Add", "d", "s")],
        WEIGHT | {"f": drawn(1, 8, 1, 1), "s": drawn(8, 1, 1, seed=1)},
        ["Conv"],
        ["conv.weight", "conv.bias"],
    ),
    "one number for all": Case(
        IMAGES,
        [CONV, node("Mul", "factor", "c", outputs=("d",)), node("Add", "d", "summand")],
        WEIGHT | SCALARS,
        ["Conv"],
        ["conv.weight", "conv.bias"],
    ),
    "a factor alone": Case(IMAGES, [CONV, node("Mul", "c", "factor")], WEIGHT | SCALARS, ["Conv"], ["conv.weight"]),
    "a chain": Case(
        IMAGES,
        [
            BIASED,
            norm_node("c", "d"),
            node("Relu", "d", outputs=("e",)),
            node("Conv", "e", "w", outputs=("f",)),
            norm_node("f", "g", "bn2"),
            node("Mul", "g", "factor", outputs=("h",)),
            node("Relu", "h"),
        ],
        WEIGHT | BIAS | norm(8) | {"w": drawn(5, 8, 1, 1)} | norm(5, "bn2", 1) | SCALARS,
        ["Conv", "Relu", "Conv", "Relu"],
        ["conv.weight", "conv.bias", "w", "w.bias"],
    ),
    "what changes nothing": Case(
        IMAGES,
        [
            node("Identity", "bn.variance", outputs=("v",)),
            node("Identity", "x", outputs=("a",)),
            node("Conv", "a", "conv.weight", outputs=("c",)),
            node("Dropout", "c", outputs=("d", "mask")),
            node("BatchNormalization", "d", "bn.scale", "bn.shift", "bn.mean", "v", outputs=("e",)),
            node("Dropout", "e", "rate", "training", outputs=("f",)),
            node("Identity", "f"),
        ],
        WEIGHT | norm(8) | {"rate": np.array(0.5, np.float32), "training": np.array(False)},
        ["Conv"],
        ["conv.weight", "conv.bias"],
    ),
    "constants as nodes": Case(
        IMAGES,
        [
            node("Constant", outputs=("f",), value=numpy_helper.from_array(drawn(8, 1, 1))),
            node("Constant", outputs=("b",), value=numpy_helper.from_array(drawn(8))),
            node("Conv", "x", "conv.weight", "b", outputs=("c",)),
            node("Mul", "c", "f"),
        ],
        WEIGHT,
        ["Conv"],
        ["conv.weight", "conv.bias"],
    ),
    "a bias of two layers": Case(
        IMAGES,
        [
            BIASED,
            norm_node("c", "d"),
            node("Conv", "x", "other", "conv.bias", outputs=("e",)),
            node("Add", "d", "e"),
        ],
        WEIGHT | BIAS | {"other": drawn(8, 6, 3, 3, seed=1)} | norm(8),
        ["Conv", "Conv", "Add"],
        ["conv.weight", "conv.bias#2", "conv.bias", "other"],
    ),
}


@pytest.mark.parametrize("name", FOLDED)
def test_folded_models_give_the_same(name: str, tmp_path: Path) -> None:
    case = FOLDED[name]
    model = graph_of(case.nodes, {"x": case.shape}, case.weights)
    after = folded(model, tmp_path)
    assert kinds(after) == case.left
    assert [stub.name for stub in after.graph.initializer] == case.tensors
    same_outputs(model, after, drawn(*case.shape, seed=5))


LEFT: dict[str, tuple[Shape, Sequence[onnx.NodeProto], Weights, dict[str, Any]]] = {
    "a norm behind a sum": (
        IMAGES,
        [CONV, node("Add", "c", "x", outputs=("s",)), norm_node("s", "y")],
        {"conv.weight": drawn(6, 6, 3, 3)} | norm(6),
        {},
    ),
    "an output that two read": (IMAGES, [CONV, norm_node("c", "d"), node("Add", "c", "d")], WEIGHT | norm(8), {}),
    "an output of the graph": (IMAGES, [CONV, BN], WEIGHT | norm(8), {"outputs": ("c", "y")}),
    "a weight that two use": (
        IMAGES,
        [
            *(node("Conv", "x", "conv.weight", outputs=("c",)), norm_node("c", "d")),
            *(node("Conv", "x", "conv.weight", outputs=("e",)), norm_node("e", "f", "bn2"), node("Add", "d", "f")),
        ],
        WEIGHT | norm(8) | norm(8, "bn2", 1),
        {},
    ),
    "a norm behind an activation": (
        IMAGES,
        [CONV, node("Relu", "c", outputs=("d",)), norm_node("d", "y")],
        WEIGHT | norm(8),
        {},
    ),
    "a norm of other channels than a stack of matrices has": (
        (3, 7, 9),
        [matrix("MatMul"), BN],
        {"fc.weight": drawn(9, 7)} | norm(7),
        {},
    ),
    "a factor for each place": (
        IMAGES,
        [CONV, node("Mul", "c", "f")],
        WEIGHT | {"f": drawn(9, 1)},
        {},
    ),
    "a summand that widens": (
        IMAGES,
        [node("Conv", "x", "w", outputs=("c",)), node("Add", "c", "s")],
        {"w": drawn(1, 6, 3, 3), "s": drawn(5, 1, 1)},
        {},
    ),
    "a summand with more axes": (IMAGES, [CONV, node("Add", "c", "s")], WEIGHT | {"s": drawn(1, 1, 8, 1, 1)}, {}),
    "a bias of a matmul": (
        (4, 9),
        [matrix("MatMul"), node("Add", "c", "b")],
        {"fc.weight": drawn(9, 7), "b": drawn(7)},
        {},
    ),
    "a constant less the output": (IMAGES, [CONV, node("Sub", "s", "c")], WEIGHT | {"s": drawn(1)}, {}),
    "a division by zero": (IMAGES, [CONV, node("Div", "c", "f")], WEIGHT | {"f": np.zeros(1, np.float32)}, {}),
    "a bias for each row": (
        (4, 9),
        [matrix("Gemm", "b"), BN],
        {"fc.weight": drawn(9, 7), "b": drawn(4, 7)} | norm(7),
        {},
    ),
    "a computed bias": (
        (8,),
        [
            node("Conv", "images", "conv.weight", "x", outputs=("c",)),
            norm_node("c", "y"),
        ],
        WEIGHT | {"images": drawn(*IMAGES)} | norm(8),
        {},
    ),
    "a weight under a node": (
        IMAGES,
        [node("Neg", "conv.weight", outputs=("w",)), node("Conv", "x", "w", outputs=("c",)), BN],
        WEIGHT | norm(8),
        {},
    ),
    "a norm that trains": (
        IMAGES,
        [
            node("Conv", "x", "conv.weight", outputs=("c",)),
            node(
                "BatchNormalization",
                *("c", "bn.scale", "bn.shift", "bn.mean", "bn.variance"),
                outputs=("y", "mean", "variance"),
                training_mode=1,
            ),
        ],
        WEIGHT | norm(8),
        {},
    ),
    "a Dropout that trains": (
        IMAGES,
        [CONV, node("Dropout", "c", "", "on", outputs=("d",)), norm_node("d", "y")],
        WEIGHT | norm(8) | {"on": np.array(True)},
        {},
    ),
    "a Dropout whose mask is read": (
        IMAGES,
        [CONV, node("Dropout", "c", outputs=("d", "mask")), norm_node("d", "y")],
        WEIGHT | norm(8),
        {"outputs": ("y", "mask")},
    ),
    "an input given back": (IMAGES, [node("Identity", "x"), CONV], WEIGHT, {"outputs": ("y", "c")}),
    "an output under two names": (IMAGES, [CONV, node("Identity", "c")], WEIGHT, {"outputs": ("c", "y")}),
    "numbers without end": (
        IMAGES,
        [CONV, BN],
        WEIGHT | norm(8) | {"bn.variance": np.full(8, -1, np.float32)},
        {},
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_cannot_be_folded_stays_as_it_is(name: str, tmp_path: Path) -> None:
    shape, nodes, weights, more = LEFT[name]
    model = graph_of(nodes, {"x": shape}, weights, **more)
    after = folded(model, tmp_path)
    assert after.graph == onnx.ModelProto.FromString(model).graph

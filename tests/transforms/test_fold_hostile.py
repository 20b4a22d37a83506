"""Graphs that make no sense, or do not belong to their tensors, are refused when they are folded."""

from __future__ import annotations

import contextlib
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import wcodec
from tests.support.folding import drawn, norm, norm_node, read
from tests.support.infer import node
from wcodec.model import Array, Model, Tensor
from wcodec.transforms import fold

IMAGES = (2, 6, 9, 8)
CONV = node("Conv", "x", "conv.weight", outputs=("c",))
BN = norm_node("c", "y")
WEIGHTS = {"conv.weight": drawn(8, 6, 3, 3)} | norm(8)


def hostile(*nodes: onnx.NodeProto, **weights: Array) -> bytes:
    """A model that the onnx package would not have made."""
    arrays = WEIGHTS | {name.replace("_", "."): array for name, array in weights.items()}
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(IMAGES))]
    results = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    stubs = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(list(nodes), "g", inputs, results, stubs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def transposed(groups: int) -> onnx.NodeProto:
    return node("ConvTranspose", "x", "conv.weight", outputs=("c",), group=groups)


BROKEN: dict[str, tuple[bytes, str]] = {
    "a convolution of nothing": (hostile(node("Conv", "x", outputs=("c",)), BN), "lacks one of the 2 inputs"),
    "a norm with too little": (
        hostile(CONV, node("BatchNormalization", "c", "bn.scale", "bn.shift")),
        "lacks one of the 5 inputs",
    ),
    "a norm with a gap": (
        hostile(CONV, node("BatchNormalization", "c", "bn.scale", "", "bn.mean", "bn.variance")),
        "lacks one of the 5 inputs",
    ),
    "a sum of one": (hostile(CONV, node("Add", "c")), "lacks one of the 2 inputs"),
    "an identity of nothing": (hostile(node("Identity")), "lacks one of the 1 inputs"),
    **{
        f"{name} for other channels": (hostile(CONV, BN, **{f"bn_{name}": drawn(7)}), r"shape \(7,\) for 8 channels")
        for name in ("scale", "shift", "mean", "variance")
    },
    "a norm of a matrix": (hostile(CONV, BN, bn_mean=drawn(8, 1)), r"shape \(8, 1\) for 8 channels"),
    "a bias for other channels": (
        hostile(node("Conv", "x", "conv.weight", "b", outputs=("c",)), BN, b=drawn(1)),
        r"bias of shape \(1,\) for 8 channels",
    ),
    "a convolution by a vector": (hostile(CONV, BN, conv_weight=drawn(8)), r"weight of shape \(8,\)"),
    "a product by a stack": (hostile(node("Gemm", "x", "conv.weight")), r"weight of shape \(8, 6, 3, 3\)"),
    "no groups": (hostile(transposed(0), BN), "for 0 groups"),
    "groups that do not fit": (hostile(transposed(3), BN), "for 3 groups"),
    "an epsilon of text": (hostile(CONV, norm_node("c", "y", epsilon="tiny")), "epsilon that is no number"),
    "something from nowhere": (hostile(node("Conv", "x", "nothing")), "reads 'nothing', which nothing before it"),
    "the cart before the horse": (hostile(BN, CONV), "reads 'c', which nothing before it"),
    "a value twice": (hostile(CONV, CONV, BN), "computes 'c', which there is already"),
    "a weight computed": (hostile(CONV, node("Relu", "c", outputs=("bn.mean",)), BN), "which there is already"),
    "an output that is none": (hostile(CONV), "output 'y' is computed by no node"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_graphs_are_refused(tmp_path: Path, name: str) -> None:
    model, message = BROKEN[name]
    with read(tmp_path / "m.onnx", model) as source, pytest.raises(wcodec.CorruptFileError, match=message):
        fold(source)


def test_graphs_that_do_not_belong_to_the_tensors_are_refused(tmp_path: Path) -> None:
    with read(tmp_path / "m.onnx", hostile(CONV, BN)) as source:
        missing = Model([t for t in source.tensors if t.name != "bn.mean"], graph=source.graph)
        with pytest.raises(wcodec.CorruptFileError, match=r"'bn\.mean': is not among"):
            fold(missing)
        with pytest.raises(wcodec.CorruptFileError, match="is no ONNX model"):
            fold(Model(source.tensors, graph=b"\xff"))
        other = [Tensor.from_array(t.name, drawn(3)) if t.name == "conv.weight" else t for t in source.tensors]
        with pytest.raises(wcodec.CorruptFileError, match=r"'conv\.weight': is not of the tensor's"):
            fold(Model(other, graph=source.graph))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_graphs_give_errors_of_the_tree(tmp_path: Path, damage: list[tuple[float, int]]) -> None:
    nodes = [node("Identity", "x", outputs=("a",)), node("Conv", "a", "conv.weight", outputs=("c",)), BN]
    with read(tmp_path / "m.onnx", hostile(*nodes)) as source:
        assert source.graph is not None
        graph = bytearray(source.graph)
        for place, byte in damage:
            graph[int(place * len(graph))] = byte
        with contextlib.suppress(wcodec.InputError):
            fold(Model(source.tensors, graph=bytes(graph)))

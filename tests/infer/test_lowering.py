"""ONNX graphs that are refused, in words that help, and what of a graph is computed before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import wcodec
from tests.support.infer import IMAGES, archive_of, distance, graph_of, lowered, node, oracle, outputs_of, raw
from tests.support.opencl import encoded
from wcodec import MismatchError, UnsupportedError
from wcodec.infer.engine import Engine
from wcodec.infer.graph import Reshape
from wcodec.infer.lowering.source import OnnxSource
from wcodec.infer.lowering.walk import OPERATORS, lower
from wcodec.infer.reference import Reference
from wcodec.model import Array
from wcodec.opencl.device import Device


def drawn(*shape: int) -> Array:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


# What no device runs, refused when it is opened


def test_an_archive_of_weights_only(device: Device) -> None:
    with pytest.raises(UnsupportedError, match=r"weights only, no graph to run; encode the model from \.onnx"):
        Engine.open(encoded({"w": drawn(3, 3)}), device)


@pytest.mark.parametrize("opset", [7, 12])
def test_a_graph_of_old_operators(device: Device, tmp_path: Path, opset: int) -> None:
    model = graph_of([node("Relu", "x")], {"x": [2, 3]}, opset=opset)
    with pytest.raises(UnsupportedError, match=rf"operator set {opset}; from 13 on .*onnx\.version_converter"):
        Engine.open(archive_of(model, tmp_path), device)


def test_an_operator_that_is_not_there(device: Device, tmp_path: Path) -> None:
    nodes = [node("Relu", "x", outputs=["a"]), node("Erf", "a")]
    model = graph_of(nodes, {"x": ["batch", "length"]})
    with pytest.raises(
        UnsupportedError, match="operator Erf of node 'Erf of y' is not supported; these are: "
    ) as caught:
        Engine.open(archive_of(model, tmp_path), device)
    assert str(caught.value).partition("these are: ")[2].split(", ") == sorted(OPERATORS)


@pytest.mark.parametrize("name", ["", "the node"])
def test_an_operator_of_another_domain(device: Device, tmp_path: Path, name: str) -> None:
    """Whatever else it is called; a node without a name goes by its output."""
    other = helper.make_node("Relu", ["x"], ["y"], name, domain="com.example")
    with pytest.raises(UnsupportedError, match=rf"operator com\.example\.Relu of node '{name or 'y'}'"):
        Engine.open(archive_of(raw(other), tmp_path), device)


def branch(kind: str) -> onnx.GraphProto:
    result = helper.make_tensor_value_info("r", TensorProto.FLOAT, [2, 3])
    return helper.make_graph([helper.make_node(kind, ["x"], ["r"])], kind, [], [result])


def test_branches_and_loops(device: Device, tmp_path: Path) -> None:
    """Though what they depend on is constant: their graphs read more than their inputs."""
    weights = {"count": np.array(2**62), "go on": np.array(True)}
    chosen = node("If", "go on", then_branch=branch("Neg"), else_branch=branch("Relu"))
    with pytest.raises(UnsupportedError, match="operator If of node 'If of y' is not supported"):
        Engine.open(archive_of(graph_of([chosen], {"x": [2, 3]}, weights), tmp_path), device)
    floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in ("before", "after")]
    truths = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("on", "still on")]
    body = helper.make_graph(
        [helper.make_node("Neg", ["before"], ["after"]), helper.make_node("Identity", ["on"], ["still on"])],
        "body",
        [helper.make_tensor_value_info("number", TensorProto.INT64, []), truths[0], floats[0]],
        [truths[1], floats[1]],
    )
    for start in ("x", "w"):
        nodes = [node("Loop", "count", "go on", start, outputs=["looped"], body=body), node("Add", "x", "looped")]
        model = graph_of(nodes, {"x": [2, 3]}, weights | {"w": drawn(2, 3)})
        with pytest.raises(UnsupportedError, match="operator Loop of node 'Loop of looped' is not supported"):
            Engine.open(archive_of(model, tmp_path), device)


# What is refused for how it is used

REFUSED: dict[str, tuple[onnx.NodeProto, Sequence[int], dict[str, Array], str]] = {
    "antialias": (
        node("Resize", "x", "", "s", antialias=1, mode="linear"),
        *(IMAGES, {"s": np.array([1, 1, 0.5, 0.5], np.float32)}, r"antialias"),
    ),
    "cubic": (
        node("Resize", "x", "", "s", mode="cubic"),
        *(IMAGES, {"s": np.array([1, 1, 2, 2], np.float32)}, r"its mode 'cubic' is not supported; nearest and linear"),
    ),
    "resized channels": (
        node("Resize", "x", "", "s", mode="linear"),
        *(IMAGES, {"s": np.array([1, 2, 2, 2], np.float32)}, r"other axes than the last two"),
    ),
    "places of a box": (
        node("Resize", "x", "r", "s", mode="linear", coordinate_transformation_mode="tf_crop_and_resize"),
        *(IMAGES, {"r": np.ones(8, np.float32), "s": np.array([1, 1, 2, 2], np.float32)}, "tf_crop_and_resize"),
    ),
    "three axes": (node("MaxPool", "x", kernel_shape=[1, 1, 1]), (1, 2, 3, 3, 3), {}, r"slides over 3 axes; 1 and 2"),
    "wrapped": (
        node("Pad", "x", "p", mode="wrap"),
        *(IMAGES, {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, "its mode 'wrap' is not supported"),
    ),
    "cut by padding": (
        node("Pad", "x", "p"),
        *(IMAGES, {"p": np.array([0, 0, -1, 0, 0, 0, 0, 0])}, "negative padding; use Slice"),
    ),
    "scattered": (
        node("Gather", "x", "i", axis=1),
        *(IMAGES, {"i": np.array([0, 1, 3])}, "not at equal distances"),
    ),
    "gathered beyond": (node("Gather", "x", "i", axis=1), IMAGES, {"i": np.array([9])}, "beyond an axis of length 4"),
    "integers": (node("Cast", "x", to=TensorProto.INT32), IMAGES, {}, "casts to integers"),
    "three summands": (node("Max", "x", "x", "x"), IMAGES, {}, "takes 3 inputs; 2 are supported"),
    "slopes": (node("PRelu", "x", "s"), IMAGES, {"s": drawn(4, 6, 6)}, "one, or one a channel"),
    "training": (
        node("BatchNormalization", "x", "o", "o", "o", "o", outputs=["y", "m", "v"], training_mode=1),
        *(IMAGES, {"o": np.ones(4, np.float32)}, "training mode"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_use_that_is_not_supported(tmp_path: Path, case: str) -> None:
    """The error names the node."""
    wanted, shape, weights, why = REFUSED[case]
    model = graph_of([wanted], {"x": shape}, weights, opset=19)
    with pytest.raises(UnsupportedError, match=f"{wanted.op_type} node '{wanted.name}': .*{why}"):
        lowered(model, tmp_path, tuple(shape))


def test_weights_that_are_no_constants(tmp_path: Path) -> None:
    model = graph_of([node("Conv", "x", "w")], {"x": IMAGES, "w": (3, 4, 3, 3)})
    with pytest.raises(UnsupportedError, match="Conv node 'Conv of y': its weight must be a constant"):
        lowered(model, tmp_path, IMAGES, (3, 4, 3, 3))
    model = graph_of([node("Clip", "x", "low")], {"x": IMAGES, "low": ()})
    with pytest.raises(UnsupportedError, match="Clip node 'Clip of y': its input 1 must be a constant"):
        lowered(model, tmp_path, IMAGES, ())


def test_a_shape_that_depends_on_what_is_computed(device: Device, tmp_path: Path) -> None:
    nodes = [node("ArgMax", "x", outputs=["i"], axis=1, keepdims=0), node("Reshape", "x", "i")]
    with pytest.raises(UnsupportedError, match=r"'Reshape of y': .*depends on what is computed"):
        Engine.open(archive_of(graph_of(nodes, {"x": [2, 3]}), tmp_path), device)


def test_integers_of_an_arg_max_are_not_computed_with(tmp_path: Path) -> None:
    nodes = [node("ArgMax", "x", outputs=["i"], axis=1), node("Add", "i", "i")]
    with pytest.raises(UnsupportedError, match="'Add of y': computes with the integers of an ArgMax"):
        lowered(graph_of(nodes, {"x": [2, 3]}), tmp_path, (2, 3))


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT64, TensorProto.STRING])
def test_inputs_that_are_no_floats(tmp_path: Path, kind: int) -> None:
    model = onnx.load_from_string(graph_of([node("Relu", "x")], {"x": [2, 3]}))
    model.graph.input[0].type.tensor_type.elem_type = kind
    with pytest.raises(UnsupportedError, match="input 'x': is no array of floats of known rank"):
        lowered(model.SerializeToString(), tmp_path, (2, 3))


def test_random_numbers(tmp_path: Path) -> None:
    """Though all their inputs are constants."""
    nodes = [node("RandomNormal", outputs=["r"], shape=[2, 3]), node("Add", "x", "r")]
    with pytest.raises(UnsupportedError, match="operator RandomNormal of node"):
        lowered(graph_of(nodes, {"x": [2, 3]}), tmp_path, (2, 3))


def test_other_shapes_than_the_graphs(tmp_path: Path) -> None:
    model = graph_of([node("Relu", "x")], {"x": ["batch", 3]})
    for shape, given in (((2, 4), "2x4"), ((3,), "3"), ((0, 3), "0x3")):
        with pytest.raises(MismatchError, match=f"input 'x' is batchx3, not {given}"):
            lowered(model, tmp_path, shape)
    with wcodec.open(archive_of(model, tmp_path)) as archive, pytest.raises(MismatchError, match="nothing was given"):
        lower(OnnxSource(archive), {})


# What is computed before


def test_shapes_are_computed_before(tmp_path: Path) -> None:
    """As exporters write them: the rank's and batch's arithmetic leaves one reshaping."""
    nodes = [
        node("Shape", "x", outputs=["shape"]),
        node("Gather", "shape", "zero", outputs=["batch"], axis=0),
        node("Unsqueeze", "batch", "axes", outputs=["as vector"]),
        node("Shape", "x", outputs=["sides"], start=-2),
        node("ReduceProd", "sides", outputs=["places"], keepdims=1),
        node("Constant", outputs=["all"], value=numpy_helper.from_array(np.array([-1]))),
        node("Concat", "as vector", "all", "places", outputs=["target"], axis=0),
        node("Cast", "target", outputs=["as floats"], to=TensorProto.FLOAT),
        node("Cast", "as floats", outputs=["whole"], to=TensorProto.INT64),
        node("Reshape", "x", "whole"),
    ]
    weights = {"zero": np.array(0), "axes": np.array([0])}
    model = graph_of(nodes, {"x": ["batch", 4, 6, 6]}, weights)
    graph = lowered(model, tmp_path, (3, 4, 6, 6))
    [only] = graph.nodes
    assert only.op == Reshape()
    assert graph.shape("y") == (3, 4, 36)
    assert dict(graph.constants) == {}


def test_constants_are_computed_before_by_any_operator(tmp_path: Path) -> None:
    """Such as a table of places, which no device could compute."""
    nodes = [
        node("ConstantOfShape", "size", outputs=["ones"], value=numpy_helper.from_array(np.ones(1, np.float32))),
        node("CumSum", "ones", "axis", outputs=["counted"]),
        node("Sin", "counted", outputs=["waves"]),
        node("Where", "choice", "waves", "counted", outputs=["table"]),
        node("Add", "x", "table"),
    ]
    weights = {"size": np.array([3]), "axis": np.array(0), "choice": np.array([True, False, True])}
    model, x = graph_of(nodes, {"x": [2, 3]}, weights), drawn(2, 3)
    graph = lowered(model, tmp_path, (2, 3))
    assert len(graph.nodes) == 1
    constants = {name: np.asarray(constant) for name, constant in graph.constants.items()}
    [found] = Reference(graph, constants)(x)
    assert np.allclose(found, oracle(model, x)[0])


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_quantized_constants_of_any_opset(tmp_path: Path, opset: int) -> None:
    weights = {
        "q": np.random.default_rng(3).integers(-128, 128, (4, 3, 1, 1), np.int8),
        "s": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
    }
    nodes = [node("DequantizeLinear", "q", "s", outputs=["w"], axis=0), node("Conv", "x", "w")]
    graph = lowered(graph_of(nodes, {"x": (1, 3, 5, 5)}, weights, opset=opset), tmp_path, (1, 3, 5, 5))
    [constant] = graph.constants.values()
    assert np.allclose(np.asarray(constant), weights["q"] * weights["s"][:, None, None, None])


def test_constants_that_depend_on_shapes_are_each_shapes_own(device: Device, tmp_path: Path) -> None:
    """An engine shares constants among the shapes that it ran: places, and a layer's scale made of a size."""
    nodes = [
        node("Shape", "x", outputs=["shape"]),
        node("Gather", "shape", "last", outputs=["length"], axis=0),
        node("Range", "zero", "length", "one", outputs=["counted"]),
        node("Cast", "counted", outputs=["places"], to=TensorProto.FLOAT),
        node("Add", "x", "places", outputs=["sum"]),
        node("Conv", "sum", "w", outputs=["c"]),
        node("Cast", "length", outputs=["divisor"], to=TensorProto.FLOAT),
        node("Div", "c", "divisor"),
    ]
    weights = {"last": np.array(3), "zero": np.array(0), "one": np.array(1), "w": drawn(5, 4, 1, 1)}
    model = graph_of(nodes, {"x": [1, 4, 6, "width"]}, weights)
    with Engine.open(archive_of(model, tmp_path), device, precision="float") as engine:
        for width in (5, 9, 70, 3, 9):
            x = drawn(1, 4, 6, width)
            assert distance(outputs_of(engine, x)[0], oracle(model, x)[0]) < 1e-6


@pytest.mark.parametrize(
    "names",
    [
        ("f32:w", "given:x", "result:f32:w"),
        ("w/f32", "x/given", "over 1:y"),
        ("y/Reduce", "z/constant", "y/constant"),
        ("", "#1", "\0"),
    ],
    ids=str,
)
def test_any_names_may_be_given(device: Device, tmp_path: Path, names: tuple[str, str, str]) -> None:
    """Those that values have within are never taken for them."""
    first, second, third = (name or "name" for name in names)
    nodes = [
        node("Neg", "x", outputs=[first]),
        node("Exp", "x", outputs=[second]),
        node("Mul", first, "w", outputs=[third]),
        node("PRelu", third, "s", outputs=["y"]),
        node("ReduceMean", second, outputs=["z"], axes=[0, 1], keepdims=0),
    ]
    model, x = graph_of(nodes, {"x": [3, 40]}, {"w": drawn(40), "s": drawn(1)}, outputs=("y", "z", first)), drawn(3, 40)
    with Engine.open(archive_of(model, tmp_path), device, precision="float") as engine:
        for found, wanted in zip(outputs_of(engine, x), oracle(model, x), strict=True):
            assert distance(found, wanted) < 1e-5


@pytest.mark.parametrize("kind", ["ConstantOfShape", "Expand", "Tile", "Range"])
def test_constants_of_a_few_bytes_stay_small(tmp_path: Path, kind: str) -> None:
    weights = {"shape": np.array([2**20, 2**14]), "one": np.array(1), "few": drawn(1, 1), "zero": np.array(0)}
    weights["many"] = np.array(2**34)
    given = {"ConstantOfShape": ["shape"], "Range": ["zero", "many", "one"]}.get(kind, ["few", "shape"])
    model = raw(node(kind, *given, outputs=["c"]), node("Add", "x", "c"), weights=weights)
    with pytest.raises(UnsupportedError, match=f"{kind} node '{kind} of c': its constants make 17,179,869,184 numbers"):
        lowered(model, tmp_path, IMAGES)


def test_what_constants_do_not_allow_is_refused(tmp_path: Path) -> None:
    nodes = [node("MatMul", "a", "a", outputs=["b"]), node("Add", "x", "b")]
    model = graph_of(nodes, {"x": [2, 3]}, {"a": drawn(2, 3)})
    with pytest.raises(UnsupportedError, match="MatMul node 'MatMul of b': its constants: "):
        lowered(model, tmp_path, (2, 3))


def test_an_output_that_is_constant_is_refused(tmp_path: Path) -> None:
    model = graph_of([node("Neg", "w"), node("Relu", "x", outputs=["z"])], {"x": [2]}, {"w": drawn(3)}, outputs=("y",))
    with pytest.raises(UnsupportedError, match="output 'y': is constant"):
        lowered(model, tmp_path, (2,))

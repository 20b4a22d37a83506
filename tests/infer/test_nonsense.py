"""Graphs that make no sense: they are refused before anything reaches a device, with an error that names the node."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.strategies as st
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import numpy_helper

import wcodec
from tests.support.infer import IMAGES, archive_of, graph_of, lowered, node, oracle, raw
from wcodec import CorruptFileError, UnsupportedError, WcodecError
from wcodec.infer.engine import Engine
from wcodec.infer.graph import Stored
from wcodec.infer.lowering.source import OnnxSource
from wcodec.infer.lowering.walk import OPERATORS, lower
from wcodec.infer.reference import Reference
from wcodec.infer.schedule import scheduled
from wcodec.model import Array
from wcodec.opencl.device import Device


def drawn(*shape: int) -> Array:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def test_a_name_that_nothing_computes(device: Device, tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="graph: node 'Add of y' reads 'nothing', which nothing before it"):
        Engine.open(archive_of(raw(node("Add", "x", "nothing")), tmp_path), device)


def test_a_cycle(device: Device, tmp_path: Path) -> None:
    nodes = [node("Add", "x", "b", outputs=["a"]), node("Relu", "a", outputs=["b"]), node("Neg", "b")]
    with pytest.raises(CorruptFileError, match="graph: node 'Add of a' reads 'b', which nothing before it computes"):
        Engine.open(archive_of(raw(*nodes), tmp_path), device)


@pytest.mark.parametrize("name", ["x", "w", "a", "s"])
def test_a_name_that_is_computed_twice(tmp_path: Path, name: str) -> None:
    nodes = [node("Neg", "x", outputs=["a"]), node("Identity", "a", outputs=["s"]), node("Add", "s", "w")]
    again = node("MaxPool", "x", outputs=[name], kernel_shape=[2, 2])
    with pytest.raises(CorruptFileError, match=f"node 'MaxPool of {name}' computes '{name}', which is there already"):
        lowered(raw(*nodes, again, weights={"w": drawn(4, 1, 1)}), tmp_path, IMAGES)
    with pytest.raises(CorruptFileError, match="computes 'y', which is there already"):
        lowered(raw(node("Split", "x", outputs=["y", "y"], axis=1, num_outputs=2)), tmp_path, IMAGES)


def test_an_output_that_nothing_computes(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="output 'nothing': is constant, or computed by no node"):
        lowered(raw(node("Relu", "x"), output="nothing"), tmp_path, IMAGES)


def floats(*numbers: float) -> Array:
    return np.array(numbers, np.float32)


def whole(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


NONSENSE: list[tuple[str, list[Array | str], dict[str, Any]]] = [
    ("Conv", ["x", drawn(3, 9, 3, 3)], {}),
    ("Conv", ["x", drawn(3, 4, 3, 3), drawn(7)], {}),
    ("Conv", ["x", drawn(3, 4, 3, 3), drawn(3, 1)], {}),
    ("Conv", ["x", drawn(4, 2, 3, 3)], {"group": 3}),
    ("Conv", ["x", drawn(5, 2, 3, 3)], {"group": 2}),
    ("Conv", ["x", drawn(4, 4, 3, 3)], {"group": -1}),
    ("Conv", ["x", drawn(4, 4, 3, 3)], {"kernel_shape": [1, 1]}),
    ("Conv", ["x", drawn(4, 4, 3, 3)], {"strides": [-1, 1]}),
    ("Conv", ["x", drawn(4, 4, 3, 3)], {"strides": [2**40, 1]}),
    ("Conv", ["x", drawn(4, 4, 3, 3)], {"pads": [2**40] * 4, "strides": [2**39] * 2}),
    ("Conv", ["x", drawn(4, 4, 3, 3)], {"group": 1.5}),
    ("Conv", ["x", drawn(4, 4, 9, 9)], {}),
    ("Conv", ["x", drawn(0, 4, 3, 3)], {}),
    ("Conv", ["x"], {}),
    ("Conv", ["x", ""], {}),
    ("ConvTranspose", ["x", drawn(9, 3, 3, 3)], {}),
    ("ConvTranspose", ["x", drawn(4, 3, 3, 3), drawn(5)], {}),
    ("ConvTranspose", ["x", drawn(4, 3, 3, 3)], {"output_shape": [1, 1]}),
    ("ConvTranspose", ["x", drawn(4, 3, 3, 3)], {"pads": [9] * 4}),
    ("ConvTranspose", ["x", drawn(4, 3, 3, 3)], {"group": 0}),
    ("Reshape", ["x", whole(5, 77)], {}),
    ("Reshape", ["x", whole(-1, 77)], {}),
    ("Reshape", ["x", whole()], {}),
    ("Flatten", ["x"], {"axis": 9}),
    ("Squeeze", ["x", whole(0)], {}),
    ("DepthToSpace", ["x"], {"blocksize": 3}),
    ("SpaceToDepth", ["x"], {"blocksize": 4}),
    ("SpaceToDepth", ["x"], {"blocksize": 0}),
    ("Pad", ["x", whole(1, 1)], {}),
    ("Pad", ["x", whole(0, 0, 0, 0, 0, 0, 0, 2**40)], {}),
    ("Expand", ["x", whole(2**40, 2, 4, 6, 6)], {}),
    ("Transpose", ["x"], {"perm": [0, 1]}),
    ("Transpose", ["x"], {"perm": [0, 0, 1, 1]}),
    ("Concat", ["x", "x"], {"axis": 9}),
    ("Concat", ["x"], {}),
    ("Gather", ["x", floats(0, 1)], {"axis": 1}),
    ("Resize", ["x"], {}),
    ("Resize", ["x", "", floats(1, 1, -2, 2)], {}),
    ("Resize", ["x", "", floats(1, 1, 0, 2)], {}),
    ("Resize", ["x", "", floats(1, 1, np.nan, 2)], {}),
    ("Resize", ["x", "", floats(1, 1, 1e9, 2)], {}),
    ("Resize", ["x", "", "", whole(2, 4, 3, 4)], {"nearest_mode": "round_about"}),
    ("MaxPool", ["x"], {}),
    ("MaxPool", ["x"], {"kernel_shape": 2}),
    ("MaxPool", ["x"], {"kernel_shape": [9, 9]}),
    ("MaxPool", ["x"], {"kernel_shape": [2**40, 3]}),
    ("AveragePool", ["x"], {"kernel_shape": [3, 3], "strides": [0, 0]}),
    ("LRN", ["x"], {}),
    ("LRN", ["x"], {"size": 0}),
    ("LRN", ["x"], {"size": 2**31}),
    ("ReduceMean", ["x", whole(1, 1)], {}),
    ("ReduceMean", ["x", whole(5)], {}),
    ("Softmax", ["x"], {"axis": 7}),
    ("ArgMax", ["x"], {"axis": 4}),
    ("Add", ["x", drawn(5)], {}),
    ("Add", ["x"], {}),
    ("MatMul", ["x", drawn(3, 9)], {}),
    ("Gemm", ["x", drawn(6, 6)], {}),
    ("PRelu", ["x", floats()], {}),
    ("BatchNormalization", ["x", *[drawn(5)] * 4], {}),
    ("Clip", ["x", whole(1)], {}),
    ("Clip", ["x", floats()], {}),
    ("Clip", ["x", floats(1, 2)], {}),
    ("Cast", ["x"], {}),
    ("LeakyRelu", ["x"], {"alpha": "abc"}),
    ("Tanh", ["x"], {"other": 3}),
    ("Relu", [], {}),
    ("Relu", ["x", "x"], {}),
]


@pytest.mark.parametrize("case", NONSENSE, ids=[f"{number}: {case[0]}" for number, case in enumerate(NONSENSE)])
def test_a_node_that_makes_no_sense(tmp_path: Path, case: tuple[str, list[Array | str], dict[str, Any]]) -> None:
    """Whatever is wrong with it, the error is one of ours and names the node; nothing reaches a device."""
    kind, inputs, attributes = case
    weights = {f"w{place}": given for place, given in enumerate(inputs) if not isinstance(given, str)}
    names = [given if isinstance(given, str) else f"w{place}" for place, given in enumerate(inputs)]
    model = raw(node(kind, *names, **attributes), weights=weights)
    with pytest.raises((CorruptFileError, UnsupportedError), match=f"{kind} node '{kind} of y'"):
        lowered(model, tmp_path, IMAGES)


# Sound graphs with one thing changed


def sound() -> onnx.ModelProto:
    """Many operators one after the other."""
    weights = {
        "w": drawn(6, 4, 3, 3),
        "b": drawn(6),
        "t": drawn(6, 3, 2, 2),
        "norm": abs(drawn(3)),
        "sizes": whole(2, 1),
        "pads": whole(0, 0, 1, 2, 0, 0, 0, 1),
        "first": whole(1),
        "last": whole(9),
        "axis": whole(2),
        "scales": floats(1, 1, 2, 1.5),
        "shape": whole(2, -1),
        "d": drawn(882, 5),
        "e": drawn(5),
        "low": np.array(-1, np.float32),
        "places": whole(0, 2, 4),
    }
    nodes = [
        node("Conv", "x", "w", "b", outputs=["1"], pads=[1, 1, 1, 1], strides=[1, 1], dilations=[1, 1], group=1),
        node("LeakyRelu", "1", outputs=["2"], alpha=0.1),
        node("ConvTranspose", "2", "t", outputs=["3"], strides=[2, 2], group=1, output_padding=[0, 0]),
        node("BatchNormalization", "3", "norm", "norm", "norm", "norm", outputs=["4"]),
        node("Split", "4", "sizes", outputs=["5", "6"], axis=1),
        node("Concat", "5", "6", outputs=["7"], axis=1),
        node("Pad", "7", "pads", "low", outputs=["8"], mode="constant"),
        node("Slice", "8", "first", "last", "axis", outputs=["9"]),
        node("MaxPool", "9", outputs=["10"], kernel_shape=[2, 2], strides=[1, 1], ceil_mode=0),
        node("LRN", "10", outputs=["11"], size=3),
        node("Resize", "11", "", "scales", outputs=["12"], mode="linear"),
        node("Transpose", "12", outputs=["13"], perm=[0, 2, 3, 1]),
        node("Reshape", "13", "shape", outputs=["14"]),
        node("Gemm", "14", "d", "e", outputs=["15"], transB=0),
        node("Softmax", "15", outputs=["16"], axis=1),
        node("Gather", "16", "places", outputs=["17"], axis=1),
        node("Clip", "17", "low", outputs=["18"]),
        node("ReduceMean", "18", outputs=["19"], axes=[1], keepdims=1),
        node("ArgMax", "19", outputs=["y"], axis=0),
    ]
    return onnx.load_from_string(graph_of(nodes, {"x": IMAGES}, weights))


NUMBERS = st.sampled_from([-(2**63), -7, -1, 0, 1, 2, 3, 5, 7, 2**16, 2**31, 2**40, 2**63 - 1])


def test_the_graph_to_be_changed_is_sound(tmp_path: Path) -> None:
    model, x = sound().SerializeToString(), drawn(*IMAGES)
    graph = lowered(model, tmp_path, IMAGES)
    [wanted] = oracle(model, x)
    assert [graph.shape(name) for name in graph.outputs] == [wanted.shape]


def change_attribute(draw: st.DrawFn, model: onnx.ModelProto, changing: onnx.NodeProto) -> str:
    attribute = draw(st.sampled_from([*changing.attribute] or [onnx.AttributeProto()]))
    if attribute.ints:
        attribute.ints[draw(st.integers(0, len(attribute.ints) - 1))] = draw(NUMBERS)
        if draw(st.booleans()):
            attribute.ints.append(draw(NUMBERS))
    elif attribute.s:
        attribute.s = b"other"
    else:
        attribute.i = draw(NUMBERS)
    return str(attribute)


def change_input(draw: st.DrawFn, model: onnx.ModelProto, changing: onnx.NodeProto) -> str:
    name, place = draw(st.sampled_from(names_of(model))), draw(st.integers(0, len(changing.input)))
    if place < len(changing.input):
        changing.input[place] = name
    elif draw(st.booleans()):
        changing.input.append(name)
    else:
        del changing.input[-1]
    return str(changing.input)


def change_output(draw: st.DrawFn, model: onnx.ModelProto, changing: onnx.NodeProto) -> str:
    changing.output[0] = draw(st.sampled_from(names_of(model)))
    return changing.output[0]


def change_operator(draw: st.DrawFn, model: onnx.ModelProto, changing: onnx.NodeProto) -> str:
    changing.op_type = draw(st.sampled_from(sorted(OPERATORS)))
    return changing.op_type


def change_weight(draw: st.DrawFn, model: onnx.ModelProto, changing: onnx.NodeProto) -> str:
    """Of one that this or another node reads."""
    tensor = draw(st.sampled_from(model.graph.initializer))
    old, shape = numpy_helper.to_array(tensor), draw(st.lists(st.sampled_from([0, 1, 2, 3, 6]), max_size=4))
    number = draw(NUMBERS) if old.dtype == np.int64 else draw(st.sampled_from([0, 1, np.nan]))
    array = np.full(draw(st.sampled_from([tuple(shape), old.shape])), number)
    tensor.CopyFrom(numpy_helper.from_array(array.astype(old.dtype), tensor.name))
    return f"{tensor.name} of {array.shape}, all {number}"


def leave_out(draw: st.DrawFn, model: onnx.ModelProto, changing: onnx.NodeProto) -> str:
    model.graph.node.remove(changing)
    return ""


def names_of(model: onnx.ModelProto) -> list[str]:
    return [*(tensor.name for tensor in model.graph.initializer), *(n.output[0] for n in model.graph.node), "x", ""]


CHANGES = (change_attribute, change_attribute, change_input, change_output, change_operator, change_weight, leave_out)


class Changed:
    """A model, and what was changed in it, which is all that is printed."""

    def __init__(self, model: bytes, what: str) -> None:
        self.model, self._what = model, what

    def __repr__(self) -> str:
        return self._what


@st.composite
def changed(draw: st.DrawFn) -> Changed:
    model = sound()
    node, change = draw(st.sampled_from(model.graph.node)), draw(st.sampled_from(CHANGES))
    name = node.name
    what = change(draw, model, node)
    del model.graph.value_info[:]
    return Changed(model.SerializeToString(), f"{change.__name__} of {name}: {what}")


@settings(max_examples=150)
@given(changed())
def test_a_graph_with_one_thing_changed_is_refused_or_runs(change: Changed) -> None:
    """Reference and graph then agree about every shape, as kernels must."""
    with TemporaryDirectory() as folder:
        try:
            data = archive_of(change.model, Path(folder))
            with wcodec.open(data) as archive:
                source = OnnxSource(archive)
                graph = lower(source, {"x": IMAGES})
                constants = {
                    name: source.read(constant.tensor) if isinstance(constant, Stored) else constant
                    for name, constant in graph.constants.items()
                }
        except WcodecError:
            return
    if max(value.size for value in graph.values.values()) < 1e6:
        Reference(graph, constants)(np.zeros(IMAGES, np.float32))
        scheduled(graph, "f16")

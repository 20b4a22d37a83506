"""Small ONNX models run by the engine and by ONNX Runtime."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import wcodec
from wcodec.infer import choice
from wcodec.infer.engine import PRECISIONS, Engine
from wcodec.infer.forms.launch import Form, Precision
from wcodec.infer.graph import Graph
from wcodec.infer.lowering.source import OnnxSource
from wcodec.infer.lowering.walk import lower
from wcodec.model import Array
from wcodec.opencl.device import Device

BOUNDS: dict[Precision, float] = {"storage": 2e-3, "half": 2e-2, "float": 2e-5}
"""Relative L2 error of one operation's result."""


def precisions(device: Device) -> list[Precision]:
    """Those that a device has."""
    return [precision for precision in PRECISIONS if device.has_half or precision != "half"]


def node(kind: str, *inputs: str, outputs: Sequence[str] = ("y",), **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), list(outputs), name=f"{kind} of {outputs[0]}", **attributes)


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    shapes: Mapping[str, Sequence[int | str]],
    weights: Mapping[str, Array] | None = None,
    *,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
) -> bytes:
    """An ONNX model of floats."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in shapes.items()]
    results = [helper.make_empty_tensor_value_info(name) for name in outputs]
    # a model has a tensor, used or not
    arrays = weights or {"unused": np.zeros(1, np.float32)}
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(list(nodes), "g", inputs, results, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model).SerializeToString()


def archive_of(model: bytes, folder: Any, **policy: Any) -> bytes:
    """The archive of an ONNX model, every weight as it is unless a policy says otherwise."""
    path = folder / "model.onnx"
    path.write_bytes(model)
    stream = io.BytesIO()
    wcodec.encode(path, stream, wcodec.Policy(**(policy or {"lossless": True})))
    return stream.getvalue()


IMAGES = (2, 4, 6, 6)
"""The input of a `raw` model."""


def raw(*nodes: onnx.NodeProto, weights: Mapping[str, Array] | None = None, output: str = "y") -> bytes:
    """A model of images x whose nodes are as given, whatever the onnx package thinks of them."""
    model = onnx.load_from_string(graph_of([node("Relu", "x")], {"x": IMAGES}, weights, opset=18))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.output[0].name = output
    return model.SerializeToString()


def lowered(model: bytes, folder: Any, *shapes: tuple[int, ...]) -> Graph:
    """The graph of a model's archive, for inputs of these shapes."""
    with wcodec.open(archive_of(model, folder)) as archive:
        source = OnnxSource(archive)
        return lower(source, dict(zip(source.inputs, shapes, strict=True)))


def oracle(model: bytes, *inputs: Array) -> list[Array]:
    """What ONNX Runtime gives, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]
    found: list[Array] = session.run(None, dict(zip(names, inputs, strict=True)))
    return found


def outputs_of(engine: Engine, *inputs: Array) -> list[Array]:
    found = engine(*inputs)
    return [*found] if isinstance(found, tuple) else [found]


def distance(found: Array, wanted: Array) -> float:
    """Relative L2 error."""
    assert found.shape == wanted.shape
    return float(np.linalg.norm((found - wanted).astype(np.float64)) / max(float(np.linalg.norm(wanted)), 1e-30))


def check_alike(device: Device, model: bytes, folder: Any, *inputs: Array, bound: float = 1.0) -> None:
    """Run a model in every precision, and hold its outputs to ONNX Runtime's; `bound` times the usual bounds."""
    archive, wanted = archive_of(model, folder), oracle(model, *inputs)
    for precision in precisions(device):
        with Engine.open(archive, device, precision=precision) as engine:
            for found, want in zip(outputs_of(engine, *inputs), wanted, strict=True):
                assert found.dtype == want.dtype
                assert distance(found, want) <= BOUNDS[precision] * bound, precision


def every_choice(monkeypatch: pytest.MonkeyPatch, among: str = "") -> Iterator[set[str]]:
    """Have layers take their forms in turn, until each of them was taken once; names of those that were.

    Only layers count that have a form whose name begins with `among`; others take their first.
    """
    tried: set[str] = set()
    left = True

    def pick(_: str, forms: list[Form]) -> Form:
        nonlocal left
        if not any(form.name.startswith(among) for form in forms):
            return forms[0]
        form = next((form for form in forms if form.name not in tried), forms[0])
        tried.add(form.name)
        left = left or not tried.issuperset(form.name for form in forms)
        return form

    monkeypatch.setattr(choice, "_WORTH_TRYING", 0)
    monkeypatch.setattr(choice, "remembered_form", pick)
    while left:
        left = False
        yield tried

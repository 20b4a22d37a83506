"""Models to fold, and folding as a user does it, from file to file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import wcodec
from tests.support.infer import distance, node, oracle
from wcodec.model import Array
from wcodec.transforms import fold

Weights = dict[str, Array]


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def norm(channels: int, prefix: str = "bn", seed: int = 0) -> Weights:
    """What a norm needs: scales of either sign, variances from small to large."""
    draw = np.random.default_rng([seed, channels])
    arrays = {
        "scale": draw.normal(1, 0.7, channels),
        "shift": draw.normal(0, 1, channels),
        "mean": draw.normal(0, 0.5, channels),
        "variance": draw.lognormal(0, 1.5, channels),
    }
    return {f"{prefix}.{name}": array.astype(np.float32) for name, array in arrays.items()}


def norm_node(x: str, y: str, prefix: str = "bn", **attributes: Any) -> onnx.NodeProto:
    parameters = [f"{prefix}.{name}" for name in ("scale", "shift", "mean", "variance")]
    return node("BatchNormalization", x, *parameters, outputs=(y,), **attributes)


def read(path: Path, model: bytes) -> wcodec.Model:
    """The model from a new file of these bytes."""
    path.write_bytes(model)
    return wcodec.read_model(path)


def changed(model: bytes, change: Callable[[onnx.ModelProto], Any]) -> bytes:
    """The bytes of a model that something was done to."""
    proto = onnx.ModelProto.FromString(model)
    change(proto)
    return proto.SerializeToString()


def folded(model: bytes, folder: Path) -> onnx.ModelProto:
    """The model after folding, as a checked ONNX file holds it."""
    before = onnx.ModelProto.FromString(model)
    with read(folder / "model.onnx", model) as source:
        axes = {tensor.name: tensor.channel_axis for tensor in source.tensors}
        result = fold(source)
        wcodec.write_model(result, folder / "folded.onnx")
    after = onnx.load(folder / "folded.onnx")
    onnx.checker.check_model(after, full_check=True)
    assert [info.name for info in after.graph.output] == [info.name for info in before.graph.output]
    assert {node.name for node in after.graph.node} <= {node.name for node in before.graph.node}
    assert [tensor.name for tensor in result.tensors] == [stub.name for stub in after.graph.initializer]
    assert all(tensor.channel_axis == axes.get(tensor.name, 0) for tensor in result.tensors)
    values = {name for n in after.graph.node for name in n.output} | {i.name for i in after.graph.initializer}
    assert {info.name for info in after.graph.value_info} <= values | {info.name for info in after.graph.input}
    return after


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def same_outputs(model: bytes, other: onnx.ModelProto, *inputs: Array, bound: float = 1e-5) -> None:
    for found, wanted in zip(oracle(other.SerializeToString(), *inputs), oracle(model, *inputs), strict=True):
        assert distance(found, wanted) <= bound

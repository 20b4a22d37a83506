"""Small ONNX models, and what the onnx package finds in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.model_files import Contents, contents_of
from wcodec.formats.onnx_tensors import DTYPE_CODES


def model_of(*initializers: onnx.TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> onnx.ModelProto:
    """A model that adds 1 to its input, with more initializers and nodes."""
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    add = helper.make_node("Add", ["x", "one"], ["y"])
    graph = helper.make_graph([add, *nodes], "g", [x], [y], [one, *initializers])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, producer_name="tests")


def saved(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def onnx_contents(model: onnx.ModelProto) -> Contents:
    """What the onnx package finds in a model's initializers."""
    return contents_of(
        {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in model.graph.initializer
            if tensor.data_type != TensorProto.STRING
        }
    )


def typed(proto: onnx.TensorProto) -> onnx.TensorProto:
    """The same tensor with its values in the field for its dtype instead of raw bytes."""
    array = numpy_helper.to_array(proto)
    changed = TensorProto(name=proto.name, data_type=proto.data_type, dims=proto.dims)
    field = getattr(changed, helper.tensor_dtype_to_field(proto.data_type))
    dtype = DTYPE_CODES[proto.data_type]
    if dtype in ("c64", "c128"):
        field.extend(array.reshape(-1).view(f"f{array.itemsize // 2}").tolist())
    elif dtype in ("i4", "u4"):
        field.extend(proto.raw_data)
    elif dtype.startswith(("f16", "bf16", "f8")):
        field.extend(array.reshape(-1).view(f"u{array.itemsize}").tolist())
    else:
        field.extend(map(int, array.reshape(-1)) if dtype == "bool" else array.reshape(-1).tolist())
    return changed


def network() -> onnx.ModelProto:
    """Two matrix products with a reshape between, whose target shape is an initializer too."""
    draw = np.random.default_rng(1)
    arrays = {
        "first": draw.normal(size=(8, 60)).astype(np.float32),
        "shape": np.array([4, -1]),
        "second": draw.normal(size=(30, 20)).astype(np.float32),
        "bias": draw.normal(size=20).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("Gemm", ["b", "second", "bias"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 20])
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

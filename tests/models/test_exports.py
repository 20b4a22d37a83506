"""The nets as ONNX files: ONNX Runtime makes of each what torch makes of the net."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests import zoo_nets
from wcodec.model import Array

OPERATORS = {
    "vgg16": {"Conv", "Flatten", "Gemm", "MaxPool", "Relu"},
    "resnet18": {"Add", "Conv", "Gemm", "MaxPool", "ReduceMean", "Relu"},
    "resnet50": {"Add", "Conv", "Gemm", "MaxPool", "ReduceMean", "Relu"},
    "mobilenet_v2": {"Add", "Clip", "Conv", "Flatten", "Gemm", "GlobalAveragePool"},
    "squeezenet": {"Concat", "Conv", "Flatten", "GlobalAveragePool", "MaxPool", "Relu"},
    "alexnet": {"Conv", "Flatten", "Gemm", "LRN", "MaxPool", "Relu"},
    "yolov3_tiny": {"Concat", "Conv", "LeakyRelu", "MaxPool", "Pad", "Resize"},
    "yolov8n": {
        *("Add", "Concat", "Conv", "Div", "MaxPool", "Mul", "Reshape", "Resize", "Sigmoid", "Slice", "Softmax"),
        *("Split", "Sub", "Transpose"),
    },
    "unet": {"Concat", "Conv", "ConvTranspose", "MaxPool", "Relu", "Sigmoid"},
    "efficientnet_lite0": {"Add", "Clip", "Conv", "Gemm", "GlobalAveragePool", "Pad", "Reshape"},
}
"""What the older exporter writes of each net, beside `SHAPES`."""

SHAPES = {
    *("Cast", "Concat", "Constant", "ConstantOfShape", "Gather", "Mul", "Add", "Div", "Reshape", "Shape", "Slice"),
    *("Transpose", "Unsqueeze"),
}
"""What it computes shapes with."""


def run(path: Path, images: torch.Tensor) -> list[Array]:
    """All outputs of ONNX Runtime on one thread.

    Left to itself, it would make a maximum ignore the zeros that a Pad before it adds, which counts where all else is
    negative.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"], disabled_optimizers=["Pad_Fusion"]
    )
    outputs: list[Array] = session.run(None, {"images": images.numpy()})
    return outputs


def check(path: Path, net: str) -> None:
    """The file takes another number of images than it was made with, and gives for them what torch does."""
    images = zoo_nets.images(net, 1, seed=2)
    with torch.inference_mode():
        outputs = zoo_nets.ready(net)(images)
    expected = outputs if isinstance(outputs, tuple) else (outputs,)
    for found, wanted in zip(run(path, images), (output.numpy() for output in expected), strict=True):
        assert found.shape == wanted.shape
        # Boxes, in pixels, would outweigh the probabilities after them.
        for part in (slice(4), slice(4, None)) if net == "yolov8n" else (slice(None),):
            error = np.linalg.norm(found[:, part] - wanted[:, part]) / np.linalg.norm(wanted[:, part])
            assert error < 1e-5, part  # measured: 3e-6 and less


@pytest.mark.parametrize("net", list(zoo_nets.NETS))
def test_onnx_runtime_agrees_with_torch(net: str, exports: Callable[..., Path]) -> None:
    path = exports(net)
    check(path, net)
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model)
    [images] = model.graph.input
    sizes = [size.dim_param or size.dim_value for size in images.type.tensor_type.shape.dim]
    assert sizes == ["batch", *zoo_nets.NETS[net].shape]
    found = {node.op_type for node in model.graph.node}
    assert found >= OPERATORS[net]
    assert found <= OPERATORS[net] | SHAPES


def test_the_newer_exporter_agrees_too(exports: Callable[..., Path]) -> None:
    pytest.importorskip("onnxscript")
    path = exports("efficientnet_lite0", dynamo=True)
    check(path, "efficientnet_lite0")
    found = {node.op_type for node in onnx.load(path).graph.node}
    assert found == {"Add", "Clip", "Conv", "Gemm", "ReduceMean", "Reshape"}

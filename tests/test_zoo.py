"""The zoo is what the other tests take it for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from tests import zoo, zoo_nets


def per_row_entropy(weights: NDArray[Any], bits: int) -> float:
    """Bits a symbol, of zeroth order, of weights quantized symmetrically to integers per row."""
    rows = weights.reshape(len(weights), -1)
    symbols = np.rint(rows / (np.abs(rows).max(1, keepdims=True) / (2 ** (bits - 1) - 1)))
    shares = np.unique(symbols, return_counts=True)[1] / symbols.size
    return float(-(shares * np.log2(shares)).sum())


@pytest.mark.parametrize(
    ("net", "parameters", "tensors"),
    [
        ("vgg16", 138_357_544, 32),
        ("resnet18", 11_689_512, 122),
        ("resnet50", 25_557_032, 320),
        ("mobilenet_v2", 3_504_872, 314),
        ("squeezenet", 1_235_496, 52),
        ("alexnet", 60_965_224, 16),
        ("yolov3_tiny", 8_852_366, 70),
        ("yolov8n", 3_157_200, 355),
        ("unet", 1_927_009, 92),
        ("efficientnet_lite0", 4_652_008, 296),
    ],
)
def test_full_sized_nets_are_what_they_are_named(net: str, parameters: int, tensors: int) -> None:
    with torch.device("meta"):
        module = zoo_nets.NETS[net].build()
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


@pytest.mark.parametrize("net", list(zoo_nets.NETS))
def test_activations_keep_their_range(net: str) -> None:
    module, images = zoo_nets.ready(net), zoo_nets.images(net, 2)
    spreads = []

    def note(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        spreads.append(output.std().item())

    layers = (torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.Linear)
    hooks = [layer.register_forward_hook(note) for layer in module.modules() if isinstance(layer, layers)]
    with torch.inference_mode():
        outputs = module(images)
    for hook in hooks:
        hook.remove()
    assert len(spreads) >= 8
    assert all(1e-2 < spread < 200 for spread in spreads)
    for output in outputs if isinstance(outputs, tuple) else (outputs,):
        assert output.isfinite().all()
        assert 1e-3 < output.std() < 1e3
        assert (output[0] - output[1]).norm() > 0.05 * output[0].norm()


def test_detectors_give_boxes_and_grids() -> None:
    with torch.inference_mode():
        coarse, fine = zoo_nets.ready("yolov3_tiny")(zoo_nets.images("yolov3_tiny", 1))
        found = zoo_nets.ready("yolov8n")(zoo_nets.images("yolov8n", 1))
    assert (coarse.shape, fine.shape, found.shape) == ((1, 255, 13, 13), (1, 255, 26, 26), (1, 84, 8400))
    centres, sizes, names = found[0].split((2, 2, 80))
    assert centres.mean() == pytest.approx(320, abs=20)
    assert (sizes > 0).all()
    assert (names > 0).all()
    assert (names < 1).all()


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

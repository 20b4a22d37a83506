"""VGG16, ResNet18 and ResNet50 at their full sizes: every symbol and every number comes back."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from typing import NamedTuple

import pytest
import torch
from torch import nn

import wcodec
from tests import zoo
from tests.support.models import same_bits
from tests.support.plain import Plain, encoded, quantized_by
from wcodec import Policy
from wcodec.model import Array
from wcodec.quantize import dequantize


class Drawn(NamedTuple):
    """A net's name and weights."""

    net: str
    weights: dict[str, Array]


@pytest.fixture(scope="module")
def drawn(request: pytest.FixtureRequest) -> Drawn:
    return Drawn(request.param, zoo.imagenet_weights(request.param))


def unfilled(net: str) -> nn.Module:
    """The net with whatever memory holds for weights."""
    with torch.device("meta"):
        module = zoo.IMAGENET[net]()
    return module.to_empty(device="cpu")


def check(data: bytes, weights: Mapping[str, Array], loaded: Mapping[str, Array], bits: int) -> None:
    """Every symbol of the archive, and every loaded number, is that of plain quantization, or the original's."""
    assert list(loaded) == list(weights)
    kept = set(weights)
    with wcodec.open(data) as archive:
        for plain in Plain(bits).quantized(weights):
            name, tensor = plain.name, archive.tensor(plain.name)
            symbols = tensor.symbols((0, tensor.rows.count)).reshape(tensor.shape)
            assert same_bits(symbols, plain.symbols), name
            assert same_bits(loaded[name], dequantize(plain)), name
            kept.remove(name)
    assert all(same_bits(loaded[name], weights[name]) for name in kept)


@pytest.mark.parametrize(
    ("drawn", "coder", "bits"),
    [
        ("vgg16", "raw", 8),
        ("vgg16", "zstd", 8),
        ("vgg16", "zstd", 4),
        ("resnet18", "zstd", 8),
        ("resnet18", "ffv1", 4),
        ("resnet50", "raw", 4),
        ("resnet50", "zstd", 8),
    ],
    indirect=["drawn"],
    scope="module",
)
def test_a_whole_net_comes_back(drawn: Drawn, coder: str, bits: int) -> None:
    data = encoded(wcodec.Model.from_arrays(drawn.weights), Policy(bits=bits, coder=coder))
    assert quantized_by(data) == {coder}
    module = unfilled(drawn.net)
    module.load_state_dict(wcodec.load(data, "torch"), assign=True)
    check(data, drawn.weights, {name: value.numpy() for name, value in module.state_dict().items()}, bits)


@pytest.mark.parametrize(
    ("drawn", "part", "bits"),
    [("vgg16", "features.?.*", 4), ("resnet18", "layer2.*", 8), ("resnet50", "layer1.*", 8)],
    indirect=["drawn"],
    scope="module",
)
@pytest.mark.parametrize("coder", ["h264", "hevc", "av1", "vp9", "auto"])
def test_part_of_a_net_comes_back(drawn: Drawn, part: str, coder: str, bits: int) -> None:
    weights = {name: array for name, array in drawn.weights.items() if fnmatch(name, part)}
    data = encoded(wcodec.Model.from_arrays(weights), Policy(bits=bits, coder=coder))
    assert coder == "auto" or quantized_by(data) == {coder}
    check(data, weights, wcodec.load(data), bits)


@pytest.mark.parametrize("drawn", ["resnet18"], indirect=True)
def test_a_module_is_filled_in_place(drawn: Drawn) -> None:
    data = encoded(wcodec.Model.from_arrays(drawn.weights), Policy(coder="zstd"))
    module = unfilled(drawn.net)
    wcodec.load(data, out=module.state_dict())
    check(data, drawn.weights, {name: value.numpy() for name, value in module.state_dict().items()}, 8)


@pytest.mark.parametrize("drawn", ["resnet18"], indirect=True)
def test_a_module_of_another_net_is_refused(drawn: Drawn) -> None:
    data = encoded(wcodec.Model.from_arrays(drawn.weights), Policy(coder="raw"))
    with pytest.raises(wcodec.MismatchError, match=r"layer1\.0\.conv3\.weight"):
        wcodec.load(data, out=unfilled("resnet50").state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        unfilled("resnet50").load_state_dict(wcodec.load(data, "torch"))

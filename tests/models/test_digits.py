"""The digit nets: what quantization costs in labelled accuracy, and that lossless coders cost nothing more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pytest
import torch

import wcodec
from tests import zoo
from tests.support.models import same_bits
from tests.support.plain import CODERS, Plain, encoded, quantized_by, tensors
from wcodec import Policy
from wcodec.model import Array

TESTING = zoo.digits()[1]


class Named(NamedTuple):
    """What a net says of the 500 digits it was not trained on."""

    logits: torch.Tensor
    accuracy: float


class Trained(NamedTuple):
    """A trained net, its weights, and what it says with these as they are and as int8, quantized without an archive."""

    net: zoo.Net
    weights: dict[str, Array]
    original: Named
    int8: dict[str, Array]
    from_int8: Named


@pytest.fixture(scope="module", params=list(zoo.DIGITS))
def trained(request: pytest.FixtureRequest, digit_nets: dict[str, zoo.Net]) -> Trained:
    net = digit_nets[request.param]
    weights = {name: value.numpy() for name, value in net.weights().items()}
    int8 = Plain(8, min_size=1).values(weights)
    return Trained(net, weights, name_digits(net, net.weights()), int8, name_digits(net, tensors(int8)))


def name_digits(net: zoo.Net, weights: Mapping[str, torch.Tensor]) -> Named:
    module = net.module(weights)
    with torch.inference_mode():
        return Named(module(TESTING.images), zoo.accuracy(module, TESTING))


@pytest.mark.parametrize("coder", CODERS)
def test_int8_through_a_lossless_coder_is_int8_alone(trained: Trained, coder: str) -> None:
    data = encoded(trained.net.path, Policy(coder=coder, min_size=1))
    if coder != "auto":
        assert quantized_by(data) == {coder}
    loaded = wcodec.load(data, "torch")
    assert all(same_bits(loaded[name].numpy(), array) for name, array in trained.int8.items())
    found = name_digits(trained.net, loaded)
    assert torch.equal(found.logits, trained.from_int8.logits)
    assert found.accuracy == trained.from_int8.accuracy


def test_int8_loses_less_than_two_points(trained: Trained) -> None:
    assert not torch.equal(trained.from_int8.logits, trained.original.logits)
    assert trained.from_int8.accuracy > trained.original.accuracy - 0.02


@pytest.mark.parametrize("coder", ["zstd", "ffv1"])
def test_int4_of_least_squared_error_loses_less_than_three_points(trained: Trained, coder: str) -> None:
    data = encoded(trained.net.path, Policy(coder=coder, bits=4, fit="mse", min_size=1))
    loaded = wcodec.load(data, "torch")
    expected = Plain(4, "mse", min_size=1).values(trained.weights)
    assert all(same_bits(loaded[name].numpy(), array) for name, array in expected.items())
    # Measured: 98.8 % to 98.2 % for VGG, 99.2 to 98.2 for ResNet18, 98.2 to 97.6 for ResNet50.
    assert name_digits(trained.net, loaded).accuracy > trained.original.accuracy - 0.03


def test_lossless_keeps_every_prediction(trained: Trained) -> None:
    loaded = wcodec.load(encoded(trained.net.path, Policy(lossless=True)), "torch")
    assert all(same_bits(loaded[name].numpy(), array) for name, array in trained.weights.items())
    assert torch.equal(name_digits(trained.net, loaded).logits, trained.original.logits)

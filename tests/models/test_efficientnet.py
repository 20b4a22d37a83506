"""EfficientNet-Lite0 with its trained weights: what its outputs become through every coder."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from typing import NamedTuple

import pytest
import torch

import wcodec
from tests.support.models import same_bits
from tests.support.plain import CODERS, Plain, encoded, quantized_by, tensors
from tests.zoo import Net
from wcodec import Policy
from wcodec.evaluate import Fidelity, fidelity
from wcodec.model import Array

Run = Callable[[Mapping[str, torch.Tensor], torch.Tensor], torch.Tensor]

PROBES = slice(4, 6)
"""The photos on which outputs are compared bit for bit."""


class Expected(NamedTuple):
    """The net quantized without an archive: its tensors and the logits of the probes."""

    values: dict[str, Array]
    logits: torch.Tensor


@pytest.fixture(scope="module")
def weights(efficientnet: Net) -> dict[str, Array]:
    return {name: value.numpy() for name, value in efficientnet.weights().items()}


@pytest.fixture(scope="module")
def run(efficientnet: Net) -> Run:
    """Runs one and the same module with other weights."""
    module = efficientnet.module()

    def forward(state: Mapping[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        module.load_state_dict(state)
        with torch.inference_mode():
            logits: torch.Tensor = module(images)
        return logits

    return forward


@pytest.fixture(scope="module")
def plain(weights: dict[str, Array], run: Run, photo_tensor: torch.Tensor) -> dict[int, Expected]:
    """The plainly quantized net, by bits."""
    values = {bits: Plain(bits).values(weights) for bits in (4, 8)}
    return {bits: Expected(state, run(tensors(state), photo_tensor[PROBES])) for bits, state in values.items()}


@pytest.fixture(scope="module")
def logits(efficientnet: Net, run: Run, photo_tensor: torch.Tensor) -> Array:
    """What the original net gives for all photos."""
    return run(efficientnet.weights(), photo_tensor).numpy()


# The coders that "auto" tries take their time; it is tried on 4 bits with smaller nets.
@pytest.mark.parametrize(("coder", "bits"), [(c, b) for b in (8, 4) for c in CODERS if (c, b) != ("auto", 4)])
def test_lossless_coders_give_the_outputs_of_plain_quantization(
    efficientnet: Net, plain: dict[int, Expected], run: Run, photo_tensor: torch.Tensor, coder: str, bits: int
) -> None:
    data = encoded(efficientnet.path, Policy(bits=bits, coder=coder))
    assert coder == "auto" or quantized_by(data) == {coder}
    loaded = wcodec.load(data, "torch")
    assert list(loaded) == list(plain[bits].values)
    assert all(same_bits(loaded[name].numpy(), array) for name, array in plain[bits].values.items())
    assert torch.equal(run(loaded, photo_tensor[PROBES]), plain[bits].logits)


@pytest.mark.parametrize("coder", ["auto", "floats", "zstd"])
def test_a_lossless_archive_gives_the_original_outputs(
    efficientnet: Net, weights: dict[str, Array], run: Run, photo_tensor: torch.Tensor, coder: str
) -> None:
    data = encoded(efficientnet.path, Policy(lossless=True, coder=coder))
    assert len(data) < 0.88 * sum(array.nbytes for array in weights.values())
    loaded = wcodec.load(data, "torch")
    assert all(same_bits(loaded[name].numpy(), array) for name, array in weights.items())
    assert torch.equal(run(loaded, photo_tensor[PROBES]), run(tensors(weights), photo_tensor[PROBES]))


def test_int8_stays_near_the_original(efficientnet: Net, logits: Array, run: Run, photo_tensor: torch.Tensor) -> None:
    loaded = wcodec.load(encoded(efficientnet.path, Policy(coder="zstd")), "torch")
    found = fidelity(logits, run(loaded, photo_tensor).numpy())
    # Measured: 0.0087 nats, 28 of 32 photos, 22.7 dB. With 7 bits: 0.023 nats, 27 photos, 16.9 dB.
    assert found.kl is not None
    assert found.top1 is not None
    assert 0 < found.kl < 0.02
    assert found.top1 >= 24 / 32
    assert found.snr_db > 19


@pytest.mark.parametrize("coder", ["hevc", "av1"])
def test_the_loss_of_lossy_video_grows_with_qp(
    weights: dict[str, Array],
    plain: dict[int, Expected],
    logits: Array,
    run: Run,
    photo_tensor: torch.Tensor,
    coder: str,
) -> None:
    """The first ten blocks are coded with loss, the rest is int8."""
    part = wcodec.Model.from_arrays({name: array for name, array in weights.items() if fnmatch(name, "_blocks.?.*")})
    images, original = photo_tensor[1::4], logits[1::4]

    def measured(state: Mapping[str, torch.Tensor]) -> Fidelity:
        return fidelity(original, run({**tensors(plain[8].values), **state}, images).numpy())

    sizes, losses = [len(encoded(part, Policy(coder=coder)))], [measured({})]
    for qp in (12, 20, 28):
        data = encoded(part, Policy(coder=coder, qp=qp))
        sizes.append(len(data))
        losses.append(measured(wcodec.load(data, "torch")))
    # Measured with hevc: 0.010, 0.040, 0.26, 1.3 nats; with av1: 0.010, 0.20, 0.71, 2.2.
    kl, snr = [loss.kl or 0.0 for loss in losses], [loss.snr_db for loss in losses]
    assert all(2 * less < more for less, more in itertools.pairwise(kl))
    assert snr == sorted(snr, reverse=True)
    assert sizes == sorted(sizes, reverse=True)

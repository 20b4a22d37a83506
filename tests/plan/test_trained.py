"""Nets trained on digits, planned for: small, and as good at digits as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import wcodec
from tests import zoo
from tests.support.trained import digits_onnx
from wcodec import Policy
from wcodec.infer.fallback import Fallback
from wcodec.infer.inputs import Inputs
from wcodec.plan.encoding import Goal, encode_for

TRAINING, TESTING = zoo.digits()


@pytest.mark.parametrize("name", list(zoo.DIGITS))
def test_half_a_point_is_lost_at_most_in_half_the_size_of_int8(
    name: str, digit_nets: dict[str, zoo.Net], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WCODEC_CACHE_DIR", str(tmp_path / "cache"))
    net = digit_nets[name]
    source = digits_onnx(net.module(), tmp_path / "net.onnx")
    inputs = Inputs([TRAINING.images.numpy()])
    with wcodec.read_model(source) as model:
        made = encode_for(model, tmp_path / "planned.wcodec", Goal(fidelity=0.01), inputs)
    wcodec.encode(source, tmp_path / "int8.wcodec", Policy(coder="zstd"))
    assert made.fidelity.kl == 0.01
    assert 2 * (tmp_path / "planned.wcodec").stat().st_size <= (tmp_path / "int8.wcodec").stat().st_size
    with wcodec.open(tmp_path / "planned.wcodec") as archive:
        named = Fallback(archive, "torch")(TESTING.images.numpy())
    assert isinstance(named, np.ndarray)
    accuracy = float((named.argmax(1) == TESTING.labels.numpy()).mean())
    assert accuracy >= zoo.accuracy(net.module(), TESTING) - 0.005

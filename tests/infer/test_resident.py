"""Weights that are kept on the device as bytes, or coded: the same numbers in less memory."""

from __future__ import annotations

import numpy as np
import pytest

import wcodec
from tests.support.containers import dissect
from tests.support.infer import archive_of, graph_of, node, outputs_of, precisions
from wcodec import UsageError
from wcodec.infer.engine import Engine
from wcodec.opencl.device import Device

SHAPE = (1, 24, 10, 10)


@pytest.fixture(scope="module")
def model() -> bytes:
    """Layers of every kind that has a weight."""
    rng = np.random.default_rng(6)
    weights = {
        "a": rng.laplace(size=(40, 24, 3, 3)),
        "b": rng.laplace(size=(40, 1, 5, 5)),
        "c": rng.laplace(size=(40, 64, 2, 2)),
        "d": rng.laplace(size=(64 * 20 * 20, 20)),
        "e": rng.laplace(size=(60, 20)),
    }
    nodes = [
        node("Conv", "x", "a", outputs=["p"], pads=[1, 1, 1, 1]),
        node("Conv", "p", "b", outputs=["q"], pads=[2, 2, 2, 2], group=40),
        node("ConvTranspose", "q", "c", outputs=["r"], strides=[2, 2]),
        node("Flatten", "r", outputs=["s"]),
        node("MatMul", "s", "d", outputs=["t"]),
        node("Gemm", "t", "e", transB=1),
    ]
    # so that halves hold what comes out
    scaled = {name: (0.03 * array).astype(np.float32) for name, array in weights.items()}
    return graph_of(nodes, {"x": SHAPE}, scaled)


@pytest.mark.parametrize("policy", [{"coder": "rans"}, {"coder": "zstd"}, {"bits": 4}, {"per": "group"}], ids=str)
def test_what_is_resident_changes_nothing_but_memory(device: Device, tmp_path, model, policy) -> None:
    archive = archive_of(model, tmp_path, **policy)
    x = np.random.default_rng(7).standard_normal(SHAPE).astype(np.float32)
    for precision in precisions(device):
        with Engine.open(archive, device, precision=precision) as engine:
            [wanted], packed = outputs_of(engine, x), engine.memory
        for resident in ("int8", "coded"):
            with Engine.open(archive, device, precision=precision, resident=resident) as engine:
                [found], memory = outputs_of(engine, x), engine.memory
                np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * abs(wanted).max())
                assert np.array_equal(outputs_of(engine, x)[0], found)
            less = policy.get("per") != "group" if resident == "int8" else policy.get("coder", "auto") != "zstd"
            assert (memory.weights < 0.8 * packed.weights) == less


def test_coded_weights_that_are_damaged_are_found(device: Device, tmp_path, model) -> None:
    data = bytearray(archive_of(model, tmp_path, coder="rans"))
    part = next(part for part in dissect(bytes(data)).parts if part.what == "tensor 'd', chunk 0")
    data[part.stop - 100] ^= 1
    with pytest.raises(wcodec.CorruptFileError, match="tensor 'd', chunk 0"):
        Engine.open(bytes(data), device, resident="coded")


def test_other_words_are_refused(device: Device, tmp_path, model) -> None:
    with pytest.raises(UsageError, match="packed, int8, coded"):
        Engine.open(archive_of(model, tmp_path), device, resident="everything")  # type: ignore[arg-type]

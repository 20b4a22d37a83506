"""Moments of weights' errors, against what such errors do to the outputs of small nets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import wcodec
from tests.support.infer import graph_of, node
from wcodec import UnsupportedError
from wcodec.evaluate import fidelity
from wcodec.infer.evaluation import lossless
from wcodec.model import Array
from wcodec.plan import sensitivity
from wcodec.plan.layer import damage
from wcodec.plan.network import Network
from wcodec.plan.sensitivity import Gradients, Moments, column_blocks

CLASSES = 5
TAIL = {
    "logits": [],
    "probabilities": [node("Softmax", "l", outputs=["y"], axis=1)],
    "logarithms": [node("LogSoftmax", "l", outputs=["y"], axis=1)],
}


def network(folder: Path, filters: int, tail: str) -> Iterator[Network]:
    """A classifier of one convolution, or with the tail "image" that convolution alone."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((filters, 3, 3, 3)) / 4}
    if tail == "image":
        nodes = [node("Conv", "x", "w")]
    elif tail == "argmax":
        nodes = [node("Conv", "x", "w", outputs=["c"]), node("ArgMax", "c", axis=1)]
    else:
        weights |= {"v": rng.standard_normal((filters, CLASSES)), "b": rng.standard_normal(CLASSES)}
        nodes = [
            node("Conv", "x", "w", outputs=["c"]),
            node("Relu", "c", outputs=["r"]),
            node("ReduceMean", "r", outputs=["m"], axes=[2, 3], keepdims=0),
            node("Gemm", "m", "v", "b", outputs=["l" if TAIL[tail] else "y"]),
            *TAIL[tail],
        ]
    path = folder / "net.onnx"
    floats = {name: array.astype(np.float32) for name, array in weights.items()}
    path.write_bytes(graph_of(nodes, {"x": ["n", 3, 8, 8]}, floats))
    with wcodec.read_model(path) as model, lossless(model) as archive:
        yield Network(archive, (3, 8, 8))


def learnt(net: Network, inputs: Array, draws: int) -> Moments:
    moments = {"w": Moments.empty(net.matrices["w"])}
    gradients = Gradients(net, ["w"])
    for draw in range(draws):
        for number, one in enumerate(inputs):
            gradients.add(one[None], moments, draw * len(inputs) + number)
    return moments["w"]


@pytest.mark.parametrize("tail", TAIL)
def test_of_one_row_they_tell_the_divergence_that_an_error_makes(tmp_path: Path, tail: str) -> None:
    [net] = network(tmp_path, 1, tail)
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((6, 3, 8, 8)).astype(np.float32)
    moments = learnt(net, inputs, 300)
    assert moments.count == 6 * 300
    before = net.run(inputs)[0]
    for _ in range(4):
        error = (rng.standard_normal((1, 3, 3, 3)) * 1e-2).astype(np.float32)
        made = fidelity(before, net.run(inputs, {"w": net.weight("w") + error})[0]).kl
        told = damage(net.matrices["w"].of(error), moments) / 2
        assert told == pytest.approx(made, rel=0.2)


def test_of_many_rows_they_tell_it_on_average(tmp_path: Path) -> None:
    [net] = network(tmp_path, 12, "logits")
    rng = np.random.default_rng(2)
    inputs = rng.standard_normal((6, 3, 8, 8)).astype(np.float32)
    moments = learnt(net, inputs, 250)
    before, made, told = net.run(inputs)[0], 0.0, 0.0
    for _ in range(800):
        error = (rng.standard_normal((12, 3, 3, 3)) * 1e-2).astype(np.float32)
        made += fidelity(before, net.run(inputs, {"w": net.weight("w") + error})[0]).kl or 0.0
        told += damage(net.matrices["w"].of(error), moments) / 2
    assert told == pytest.approx(made, rel=0.12)


def test_of_other_outputs_they_tell_the_square_of_their_error(tmp_path: Path) -> None:
    [net] = network(tmp_path, 4, "image")
    rng = np.random.default_rng(3)
    inputs = rng.standard_normal((5, 3, 8, 8)).astype(np.float32)
    moments = learnt(net, inputs, 150)
    before = net.run(inputs)[0]
    made, told = 0.0, 0.0
    for _ in range(60):
        error = (rng.standard_normal((4, 3, 3, 3)) * 1e-2).astype(np.float32)
        off = net.run(inputs, {"w": net.weight("w") + error})[0] - before
        power = np.square(before).mean((1, 2, 3))
        made += float((np.square(off).sum((1, 2, 3)) / power).mean())
        told += damage(net.matrices["w"].of(error), moments)
    assert told == pytest.approx(made, rel=0.1)


def test_sketched_rows_tell_about_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [net] = network(tmp_path, 80, "logits")
    inputs = np.random.default_rng(4).standard_normal((8, 3, 8, 8)).astype(np.float32)
    sketched = learnt(net, inputs, 40)
    monkeypatch.setattr(sensitivity, "_SKETCHED", 1000)
    exact = learnt(net, inputs, 40)
    assert np.allclose(sketched.rows, exact.rows)
    assert np.abs(sketched.columns[0] - exact.columns[0]).max() < 0.1 * exact.columns[0].max()


def test_wide_matrices_fall_into_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [net] = network(tmp_path, 4, "logits")
    inputs = np.random.default_rng(5).standard_normal((3, 3, 8, 8)).astype(np.float32)
    whole = learnt(net, inputs, 5)
    monkeypatch.setattr(sensitivity, "WIDEST", 10)
    assert column_blocks(27) == [(0, 9), (9, 18), (18, 27)]
    parts = learnt(net, inputs, 5)
    for block, (start, stop) in zip(parts.columns, column_blocks(27), strict=True):
        assert np.allclose(block, whole.columns[0][:, start:stop, start:stop], rtol=1e-4)


def test_what_does_not_change_smoothly_is_refused(tmp_path: Path) -> None:
    [net] = network(tmp_path, 4, "argmax")
    with pytest.raises(UnsupportedError, match="smoothly"):
        learnt(net, np.zeros((1, 3, 8, 8), np.float32), 1)

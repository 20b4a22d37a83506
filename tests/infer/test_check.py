"""The check of every layer: what overflows halves is named, and computed with floats from then on."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.infer import archive_of, distance, graph_of, node, oracle, precisions
from wcodec import NonFiniteError
from wcodec.infer.check import first_bad_layer
from wcodec.infer.engine import Engine
from wcodec.opencl.device import Device

SHAPE = (1, 32, 9, 9)


def layers(scales: list[float]) -> bytes:
    """Convolutions one after the other that multiply what goes through them by about these."""
    rng = np.random.default_rng(4)
    names = ["x", *(f"v{n}" for n in range(1, len(scales))), "y"]
    nodes = [
        node("Conv", names[n], f"w{n}", outputs=[names[n + 1]], pads=[1, 1, 1, 1], group=1) for n in range(len(scales))
    ]
    weights = {
        f"w{n}": (scale / 17 * rng.standard_normal((32, 32, 3, 3))).astype(np.float32) for n, scale in enumerate(scales)
    }
    return graph_of(nodes, {"x": SHAPE}, weights)


def test_what_overflows_is_moved_to_floats(device: Device, tmp_path) -> None:
    model = layers([30, 3e4, 1e-3, 1])
    x = np.random.default_rng(5).standard_normal(SHAPE).astype(np.float32)
    [wanted] = oracle(model, x)
    archive = archive_of(model, tmp_path)
    for precision in precisions(device):
        with Engine.open(archive, device, precision=precision) as engine:
            moved = engine.check(x)
            # what computes with halves cannot read the numbers either
            expected = {"storage": ("Conv of v2",), "half": ("Conv of v2", "Conv of v3"), "float": ()}
            assert moved == expected[precision]
            assert engine.check(x) == ()
            found = engine(x)
            assert isinstance(found, np.ndarray)
            assert distance(found, wanted) < 5e-3


def test_what_overflows_floats_too_is_named(device: Device, tmp_path) -> None:
    archive = archive_of(layers([1, 1e38, 1e38]), tmp_path)
    x = np.ones(SHAPE, np.float32)
    for precision in precisions(device):
        with (
            Engine.open(archive, device, precision=precision) as engine,
            pytest.raises(NonFiniteError, match=r"layer 'Conv of (v2|y)' gives .* infinities"),
        ):
            engine.check(x)


def test_concatenations_are_looked_at_when_they_are_whole(device: Device, tmp_path) -> None:
    rng = np.random.default_rng(6)
    weights = {name: rng.standard_normal((16, 16, 1, 1)).astype(np.float32) / 4 for name in ("a", "b")}
    nodes = [
        node("Conv", "x", "a", outputs=["p"]),
        node("Conv", "x", "b", outputs=["q"]),
        node("MaxPool", "p", outputs=["m"], kernel_shape=[2, 2], strides=[2, 2]),
        node("MaxPool", "q", outputs=["n"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Concat", "n", "m", outputs=["y"], axis=1),
    ]
    archive = archive_of(graph_of(nodes, {"x": [1, 16, 12, 12]}, weights), tmp_path)
    x = rng.standard_normal((1, 16, 12, 12)).astype(np.float32)
    for precision in precisions(device):
        with Engine.open(archive, device, precision=precision) as engine:
            plan = engine._planned((x.shape,), together=False)
            # as if what had lain there before were no numbers
            device.cl.enqueue_fill_buffer(plan._queue, plan._memory, np.uint8(255), 0, plan.arena.size)
            assert first_bad_layer(plan, [x]) is None
            assert engine.check(x) == ()

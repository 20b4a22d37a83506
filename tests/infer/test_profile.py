"""Profiles: what runs, in order, with the operations and bytes of each layer. No time is asserted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.support.infer import archive_of, graph_of, node
from wcodec.errors import MismatchError, NonFiniteError
from wcodec.infer.engine import Engine
from wcodec.infer.profile import measured_peak, profile
from wcodec.model import Array
from wcodec.opencl.device import Device


def drawn(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).standard_normal(shape, np.float32)


def small_model(batch: int | str = "batch") -> bytes:
    """A convolution with a ReLU, a maximum, and a dense layer, for images of 10x12."""
    weights = {"kernel": drawn(24, 5, 3, 3), "matrix": drawn(7, 24 * 5 * 6), "bias": drawn(7)}
    nodes = [
        node("Conv", "x", "kernel", outputs=("a",), pads=[1, 1, 1, 1]),
        node("Relu", "a", outputs=("b",)),
        node("MaxPool", "b", outputs=("c",), kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "c", outputs=("d",)),
        node("Gemm", "d", "matrix", "bias", transB=1),
    ]
    return graph_of(nodes, {"x": [batch, 5, 10, 12]}, weights)


@pytest.fixture
def engine(device: Device, tmp_path: Path) -> Iterator[Engine]:
    with Engine.open(archive_of(small_model(), tmp_path), device) as made:
        yield made


def test_layers_are_in_the_order_in_which_they_run(engine: Engine) -> None:
    found = profile(engine, drawn(2, 5, 10, 12), repeats=3)
    plan = engine.plan((2, 5, 10, 12))
    assert [layer.name for layer in found.layers] == [task.name for task in plan.schedule.tasks]
    kinds = [layer.kind for layer in found.layers]
    assert [kind for kind in kinds if kind != "move"] == ["convolution 3x3", "max pool 2x2", "dense"]
    assert [span.kernel for span in found.spans] == [step.call.kernel.function_name for step in plan.steps]
    assert [span.layer for span in found.spans if span.layer.kind == "dense"] == [found.layers[-1]]


def test_what_a_convolution_takes(engine: Engine) -> None:
    [layer] = (layer for layer in profile(engine, drawn(2, 5, 10, 12)).layers if layer.kind == "convolution 3x3")
    assert layer.inputs == ((2, 5, 10, 12),)
    assert layer.output == (2, 24, 10, 12)
    assert layer.operations == 2 * (2 * 24 * 10 * 12) * (5 * 3 * 3)
    # the kernel for two blocks of 16 channels, at least as halves
    assert layer.weights >= 2 * 32 * 5 * 3 * 3
    assert layer.form
    assert layer.speed == pytest.approx(layer.operations / layer.seconds)


def test_totals(engine: Engine) -> None:
    found = profile(engine, drawn(1, 5, 10, 12), repeats=2)
    assert found.operations == sum(layer.operations for layer in found.layers) > 0
    assert found.seconds > 0
    assert all(layer.seconds > 0 for layer in found.layers)
    assert found.overhead == pytest.approx(found.seconds - sum(layer.seconds for layer in found.layers))


def test_a_trace_has_an_event_for_every_kernel(engine: Engine) -> None:
    found = profile(engine, drawn(1, 5, 10, 12), repeats=2)
    trace = json.loads(json.dumps(found.trace(), allow_nan=False))
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert [event["name"] for event in events] == [step.task.name for step in engine.plan((1, 5, 10, 12)).steps]
    assert {(event["pid"], event["tid"]) for event in events} == {(0, 0)}
    assert events[0]["ts"] == 0
    # queues run one kernel after the other
    assert all(one["ts"] + one["dur"] <= other["ts"] + 1e-3 for one, other in pairwise(events))
    assert all(event["dur"] > 0 for event in events)


def test_profiling_leaves_the_engine_as_it_is(engine: Engine) -> None:
    x = drawn(1, 5, 10, 12)
    before, memory = engine(x), engine.memory
    profile(engine, x, repeats=1)
    assert np.array_equal(engine(x), before)
    assert engine.memory == memory


def test_what_cannot_be_profiled(engine: Engine, device: Device, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="takes 1 input, not 2"):
        profile(engine, drawn(1, 5, 10, 12), drawn(1))
    with pytest.raises(NonFiniteError):
        profile(engine, np.full((1, 5, 10, 12), np.nan))
    with Engine.open(archive_of(small_model(batch=2), tmp_path), device) as fixed:
        assert profile(fixed, drawn(2, 5, 10, 12), repeats=1).layers
        with pytest.raises(MismatchError, match="a profile is of one batch, which is 2, not 4"):
            profile(fixed, drawn(4, 5, 10, 12))


def test_a_device_has_a_peak(device: Device) -> None:
    assert measured_peak(device) > 0

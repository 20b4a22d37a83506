"""Layers that one kernel computes together, and kernels that one launch runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest

from tests.support.infer import (
    BOUNDS,
    archive_of,
    distance,
    every_choice,
    graph_of,
    lowered,
    node,
    oracle,
    outputs_of,
    precisions,
)
from wcodec.infer import chain, choice, plan
from wcodec.infer.engine import Engine
from wcodec.infer.pairs import paired
from wcodec.infer.places import Pair
from wcodec.infer.schedule import scheduled
from wcodec.model import Array
from wcodec.opencl.device import Device, kernel_text

PAIRS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any], int, dict[str, Any]]] = {
    "1x1, 3x3": ((2, 24, 13, 17), (72, 24, 1, 1), {}, 3, {"pads": [1, 1, 1, 1]}),
    "1x1, 5x5, stride": ((1, 40, 14, 14), (80, 40, 1, 1), {}, 5, {"pads": [2, 2, 2, 2], "strides": [2, 2]}),
    "1x1, 3x3, no padding": ((1, 16, 9, 30), (33, 16, 1, 1), {}, 3, {}),
    "1x1, 5x5, asymmetric": ((1, 16, 7, 7), (48, 16, 1, 1), {}, 5, {"pads": [0, 3, 4, 1], "strides": [2, 1]}),
    "1x1, 2x2, far apart": ((1, 16, 9, 9), (16, 16, 1, 1), {}, 2, {"strides": [3, 3]}),
    "pictures, 3x3": ((2, 3, 31, 30), (32, 3, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}, 3, {"pads": [1] * 4}),
    "3x3, 3x3": ((1, 20, 12, 12), (24, 20, 3, 3), {"pads": [0, 1, 1, 0], "dilations": [2, 1]}, 3, {"pads": [1] * 4}),
}


def drawn(rng: np.random.Generator, *shape: int) -> Array:
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def pair(name: str, between: Sequence[onnx.NodeProto]) -> tuple[bytes, Array]:
    """A model of two convolutions, `between` taking c to d, and its input."""
    shape, kernel, attributes, size, after = PAIRS[name]
    rng = np.random.default_rng(7)
    channels = kernel[0]
    weights = {"w": drawn(rng, *kernel), "b": drawn(rng, channels, 1).ravel()}
    weights |= {"v": drawn(rng, channels, 1, size, size), "a": drawn(rng, channels, 1).ravel()}
    nodes = [
        node("Conv", "x", "w", "b", outputs=["c"], **attributes),
        *between,
        node("Conv", "d", "v", "a", outputs=["e"], group=channels, **after),
        node("Relu", "e"),
    ]
    return graph_of(nodes, {"x": shape}, weights), rng.standard_normal(shape).astype(np.float32)


BETWEEN = {
    "relu": [node("Relu", "c", outputs=["d"])],
    "nothing": [node("Identity", "c", outputs=["d"])],
    "silu": [node("Sigmoid", "c", outputs=["s"]), node("Mul", "c", "s", outputs=["d"])],
}


@pytest.mark.parametrize(
    ("name", "between"), [*((name, "relu") for name in PAIRS), ("1x1, 3x3", "nothing"), ("3x3, 3x3", "silu")]
)
def test_every_form_of_a_pair(device: Device, tmp_path, monkeypatch, name: str, between: str) -> None:
    model, x = pair(name, BETWEEN[between])
    archive, [wanted] = archive_of(model, tmp_path), oracle(model, x)
    for precision in ("storage", "float"):
        for tried in every_choice(monkeypatch, "joined"):
            with Engine.open(archive, device, precision=precision) as engine:
                [found] = outputs_of(engine, x)
            assert distance(found, wanted) <= BOUNDS[precision], (precision, tried)
        assert len(tried) >= 2
        assert any(form.startswith("joined") for form in tried)


@pytest.mark.parametrize("resident", ["packed", "int8", "coded"])
def test_pairs_of_quantized_weights(device: Device, tmp_path, monkeypatch, resident) -> None:
    model, x = pair("1x1, 3x3", BETWEEN["relu"])
    archive = archive_of(model, tmp_path, bits=8, coder="rans")
    with Engine.open(archive, device, precision="float") as engine:
        [wanted] = outputs_of(engine, x)
    monkeypatch.setattr(choice, "remembered_form", lambda key, forms: forms[0])
    with Engine.open(archive, device, resident=resident) as engine:
        [found] = outputs_of(engine, x)
        [task] = [task for task in engine.plan(x.shape).schedule.tasks if isinstance(task.op, Pair)]
        assert any(step.form.name.startswith("joined") for step in engine.plan(x.shape).steps if step.task is task)
    assert distance(found, wanted) <= BOUNDS["storage"]


def pairs_of(model: bytes, folder) -> list[str]:
    shape = onnx.load_from_string(model).graph.input[0].type.tensor_type.shape
    graph = lowered(model, folder, tuple(dim.dim_value for dim in shape.dim))
    return [task.name for task in paired(scheduled(graph, "f16")).tasks if isinstance(task.op, Pair)]


def test_only_what_nothing_else_reads_is_between(tmp_path) -> None:
    model, _ = pair("1x1, 3x3", BETWEEN["relu"])
    assert len(pairs_of(model, tmp_path)) == 1
    changed = onnx.load_from_string(model)
    changed.graph.output.append(onnx.helper.make_empty_tensor_value_info("d"))
    assert pairs_of(changed.SerializeToString(), tmp_path) == []
    read_twice = [*BETWEEN["relu"], node("GlobalAveragePool", "d", outputs=["g"])]
    changed = onnx.load_from_string(pair("1x1, 3x3", read_twice)[0])
    changed.graph.output.append(onnx.helper.make_empty_tensor_value_info("g"))
    assert pairs_of(changed.SerializeToString(), tmp_path) == []


def test_only_single_channels_behind_all_channels_are_pairs(tmp_path) -> None:
    rng = np.random.default_rng(3)
    weights = {"w": drawn(rng, 32, 16, 1, 1), "g": drawn(rng, 32, 2, 3, 3), "v": drawn(rng, 32, 1, 3, 3)}

    def pairs(*nodes: onnx.NodeProto) -> int:
        used = {name: weights[name] for each in nodes for name in each.input if name in weights}
        return len(pairs_of(graph_of(nodes, {"x": (1, 16, 8, 8)}, used), tmp_path))

    first = node("Conv", "x", "w", outputs=["c"])
    assert pairs(first, node("Conv", "c", "v", group=32)) == 1
    assert pairs(first, node("Conv", "c", "g", group=16)) == 0
    assert pairs(first, node("Conv", "c", "v", group=32, dilations=[2, 2])) == 0
    # the second of three is one of each channel itself
    assert pairs(first, node("Conv", "c", "v", group=32, outputs=["d"]), node("Conv", "d", "v", group=32)) == 1


def deep(folder, **policy: Any) -> tuple[bytes, Array]:
    """An archive of a net of many small layers of several kinds, and its input."""
    rng = np.random.default_rng(11)
    nodes, weights, last = [], {}, "x"
    for n in range(5):
        weights[f"w{n}"], weights[f"v{n}"] = drawn(rng, 32, 32, 1, 1), drawn(rng, 32, 1, 3, 3)
        nodes += [
            node("Conv", last, f"w{n}", outputs=[f"a{n}"]),
            node("Sigmoid" if n % 2 else "Relu", f"a{n}", outputs=[f"b{n}"]),
            node("Conv", f"b{n}", f"v{n}", outputs=[f"c{n}"], group=32, pads=[1, 1, 1, 1]),
            node("Concat", f"c{n}", last, outputs=[f"d{n}"], axis=1),
            node("MaxPool", f"d{n}", outputs=[f"e{n}"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Slice", f"e{n}", "zero", "end", "one", outputs=[f"f{n}"]),
            node("Add", f"f{n}", last, outputs=[f"g{n}"]),
        ]
        last = f"g{n}"
    weights |= {"zero": np.array([0]), "end": np.array([32]), "one": np.array([1])}
    nodes += [node("GlobalAveragePool", last, outputs=["p"]), node("Softmax", "p", axis=1)]
    shape = (1, 32, 20, 20)
    model = graph_of(nodes, {"x": shape}, weights)
    return archive_of(model, folder, **policy), rng.standard_normal(shape).astype(np.float32)


@pytest.fixture
def slow(device: Device) -> Device:
    if not device.starts_slowly:
        pytest.skip("kernels start fast there, and chains would take minutes to build")
    return device


def one_by_one(engine: Engine, x: Array, monkeypatch) -> Array:
    with monkeypatch.context() as patch:
        patch.setattr(engine.plan(x.shape), "_chains", [])
        [found] = outputs_of(engine, x)
    return found


@pytest.mark.parametrize("parameters", [None, 128])
def test_a_chain_gives_what_its_kernels_give(slow: Device, tmp_path, monkeypatch, parameters) -> None:
    archive, x = deep(tmp_path)
    of = chain.chains_of
    if parameters is not None:

        def limited(device, calls):
            monkeypatch.setattr(chain, "_OWN_BYTES", device.device.max_parameter_size - parameters)
            return of(device, calls)

        monkeypatch.setattr(plan, "chains_of", limited)
    for precision in precisions(slow)[: None if parameters is None else 1]:
        with Engine.open(archive, slow, precision=precision) as engine:
            wanted = one_by_one(engine, x, monkeypatch)
            chains = engine.plan(x.shape)._chains
            assert len(chains) == 1 if parameters is None else len(chains) > 1
            for _ in range(20):
                assert np.array_equal(outputs_of(engine, x)[0], wanted)
            # several that wait for each other
            for pending in [engine.start(x) for _ in range(5)]:
                assert np.array_equal(pending.result(), wanted)


@pytest.mark.parametrize(("patience", "groups"), [(1, None), (50000, 1), (50000, 7), (1, 16)])
def test_groups_of_a_chain_may_leave_and_come_late(slow: Device, tmp_path, monkeypatch, patience, groups) -> None:
    archive, x = deep(tmp_path)
    text = kernel_text
    monkeypatch.setattr(
        chain, "kernel_text", lambda files: text(files).replace("PATIENCE 50000", f"PATIENCE {patience}")
    )
    with Engine.open(archive, slow) as engine:
        wanted = one_by_one(engine, x, monkeypatch)
        [found] = engine.plan(x.shape)._chains
        if groups is not None:
            monkeypatch.setattr(found, "_groups", groups)
        for _ in range(50):
            assert np.array_equal(outputs_of(engine, x)[0], wanted)


def test_there_are_no_chains_of_few_or_large_or_coded_kernels(slow: Device, tmp_path, monkeypatch) -> None:
    archive, x = deep(tmp_path, bits=8, coder="rans")
    with Engine.open(archive, slow, resident="coded") as engine:
        assert not engine.plan(x.shape)._chains
        [wanted] = outputs_of(engine, x)
    with Engine.open(archive, slow) as engine:
        assert engine.plan(x.shape)._chains
        assert distance(outputs_of(engine, x)[0], wanted) < 1e-3
    for name, value in (("_FEWEST", 1000), ("_LARGE", 10)):
        with monkeypatch.context() as patch:
            patch.setattr(plan, name, value)
            with Engine.open(archive, slow) as engine:
                assert not engine.plan(x.shape)._chains

"""What a user of an engine may want of it, and what they may get wrong."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import wcodec
from tests.support.infer import archive_of, distance, graph_of, node, oracle, outputs_of, precisions
from wcodec import MismatchError, NonFiniteError, UsageError
from wcodec.infer.engine import Engine, Pending
from wcodec.infer.plan import Plan
from wcodec.infer.ports import Port
from wcodec.model import Array
from wcodec.opencl.device import Device

SHAPE = (2, 3, 8, 9)


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def layer(batch: int | str = "batch") -> bytes:
    """A convolution of images."""
    weights = {"w": drawn(5, 3, 3, 3)}
    return graph_of([node("Conv", "x", "w", pads=[1, 1, 1, 1])], {"x": [batch, *SHAPE[1:]]}, weights)


@pytest.fixture
def engine(device: Device, tmp_path: Path) -> Iterator[Engine]:
    """One that takes any number of images."""
    with Engine.open(archive_of(layer(), tmp_path), device, precision="float") as opened:
        yield opened


@pytest.fixture
def engine_of_two(device: Device, tmp_path: Path) -> Iterator[Engine]:
    """One that takes images by twos."""
    with Engine.open(archive_of(layer(2), tmp_path), device, precision="float") as opened:
        yield opened


def result_of(pending: Pending) -> Array:
    found = pending.result()
    assert isinstance(found, np.ndarray)
    return found


# Inputs


def test_other_numbers_of_inputs_are_refused(engine: Engine, device: Device, tmp_path: Path) -> None:
    for inputs in ((), (drawn(*SHAPE),) * 2):
        with pytest.raises(MismatchError, match=rf"takes 1 input, not {len(inputs)}"):
            engine(*inputs)
    model = graph_of([node("Add", "a", "b")], {"a": [2], "b": [2]})
    with (
        Engine.open(archive_of(model, tmp_path), device) as two,
        pytest.raises(MismatchError, match="takes 2 inputs, not 1"),
    ):
        two(drawn(2))


@pytest.mark.parametrize("shape", [(3, 8, 9), (1, 3, 9, 8), (1, 4, 8, 9), (0, 3, 8, 9), (), (1, 1, 3, 8, 9)], ids=str)
def test_other_shapes_are_refused(engine: Engine, shape: tuple[int, ...]) -> None:
    given = "x".join(map(str, shape)) or "a scalar"
    hints = {(3, 8, 9): r"; the first axis is the batch's: give it as x\[None\]", (0, 3, 8, 9): "; it holds no numbers"}
    hint = hints.get(shape, "")
    with pytest.raises(MismatchError, match=f"'x' is batchx3x8x9, not {given}{hint}$"):
        engine(np.zeros(shape, np.float32))


def test_channels_that_come_last_are_pointed_out(engine: Engine) -> None:
    with pytest.raises(MismatchError, match=r"not 1x8x9x3; its channels come last: transpose it to \(N, C, H, W\)"):
        engine(np.zeros((1, 8, 9, 3), np.float32))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (np.zeros(SHAPE, np.uint8), "uint8"),
        (np.zeros(SHAPE, np.int64), "int64"),
        (np.zeros(SHAPE, bool), "bool"),
        (np.zeros(SHAPE, np.complex64), "complex64"),
        (np.zeros(SHAPE, ml_dtypes.bfloat16), "bfloat16"),
        (np.zeros(SHAPE, object), "object"),
        (np.zeros(SHAPE).tolist(), "list"),
        (None, "NoneType"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_is_no_array_of_floats_is_refused(engine: Engine, given: Any, what: str) -> None:
    with pytest.raises(MismatchError, match=f"'x' is an array of floats, not {what}"):
        engine(given)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_are_not_finite_are_named_with_their_place(engine: Engine, number: float) -> None:
    given = np.zeros(SHAPE)
    given[1, 2, 7, 4] = number
    with pytest.raises(NonFiniteError, match=r"input 'x': (nan|-?inf) at \(1, 2, 7, 4\)"):
        engine(given)


def test_floats_of_any_kind_and_order_are_taken(engine: Engine) -> None:
    x = drawn(*SHAPE).astype(np.float16)
    [wanted] = outputs_of(engine, x.astype(np.float32))
    frozen = x.astype(np.float32)
    frozen.flags.writeable = False
    strided = np.repeat(x.astype(np.float32), 2, axis=3)[..., ::2]
    last = np.ascontiguousarray(x.astype(np.float32).transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    backwards = np.ascontiguousarray(x.astype(np.float32)[:, ::-1])[:, ::-1]
    for given in (x, x.astype(np.float64), x.astype(">f4"), frozen, strided, last, backwards):
        assert np.array_equal(outputs_of(engine, given)[0], wanted)


def test_ports_are_told(engine: Engine, engine_of_two: Engine) -> None:
    assert engine.inputs == (Port("x", ("batch", 3, 8, 9)),)
    assert engine.outputs == (Port("y", ("batch", 5, 8, 9)),)
    assert engine_of_two.inputs == (Port("x", (2, 3, 8, 9)),)


def test_lengths_of_one_name_are_one(device: Device, tmp_path: Path) -> None:
    model = graph_of([node("Add", "a", "b")], {"a": ["batch", 4], "b": ["batch", 4]})
    with Engine.open(archive_of(model, tmp_path), device) as engine:
        assert outputs_of(engine, drawn(3, 4), drawn(3, 4))[0].shape == (3, 4)
        with pytest.raises(MismatchError, match="input 'b': its batch is 3, and 2 in input 'a'"):
            engine(drawn(2, 4), drawn(3, 4))


def test_sizes_may_be_free(device: Device, tmp_path: Path) -> None:
    """Nothing can be built before the first inputs come."""
    nodes = [node("MaxPool", "x", outputs=["p"], kernel_shape=[2, 2], strides=[2, 2])]
    nodes += [node("Resize", "p", "", "scales", outputs=["r"], mode="nearest"), node("Add", "x", "r")]
    weights = {"scales": np.array([1, 1, 2, 2], np.float32)}
    model = graph_of(nodes, {"x": [1, 4, "height", "width"]}, weights)
    with Engine.open(archive_of(model, tmp_path), device, precision="float") as engine:
        assert (engine.memory.weights, engine.memory.arena) == (0, 0)
        for size in ((6, 8), (10, 2)):
            x = drawn(1, 4, *size)
            assert distance(outputs_of(engine, x)[0], oracle(model, x)[0]) < 1e-6
        with pytest.raises(MismatchError, match="for input 'x' of 1x4x7x8: Add node 'Add of y'"):
            engine(drawn(1, 4, 7, 8))


# Batches


def test_a_fixed_batch_runs_by_its_multiples(engine: Engine, engine_of_two: Engine) -> None:
    x = drawn(6, *SHAPE[1:])
    [wanted] = outputs_of(engine, x)
    for count in (2, 4, 6):
        assert np.array_equal(outputs_of(engine_of_two, x[:count])[0], wanted[:count])
    for count in (0, 1, 3):
        with pytest.raises(MismatchError, match=f"'x' is 2x3x8x9, not {count}x3x8x9"):
            engine_of_two(x[:count])


def test_multiples_must_agree(device: Device, tmp_path: Path) -> None:
    model = graph_of([node("Add", "a", "b")], {"a": [2, 4], "b": [2, 4]})
    with Engine.open(archive_of(model, tmp_path), device, precision="float") as engine:
        a, b = drawn(4, 4), drawn(4, 4, seed=1)
        assert np.array_equal(outputs_of(engine, a, b)[0], a + b)
        with pytest.raises(MismatchError, match="2x4, not 4x4"):
            engine(a, b[:2])


def test_batches_of_any_number(engine: Engine) -> None:
    """More of them than plans are kept."""
    x = drawn(7, *SHAPE[1:])
    [wanted] = outputs_of(engine, x)
    for count in (1, 2, 3, 4, 5, 6, 7, 1, 5):
        assert np.allclose(outputs_of(engine, x[:count])[0], wanted[:count], atol=1e-5)


# Outputs


def test_several_outputs_are_a_tuple(device: Device, tmp_path: Path) -> None:
    nodes = [node("Neg", "x", outputs=["a"]), node("Relu", "a", outputs=["b"])]
    nodes += [node("ArgMax", "b", outputs=["c"], axis=1, keepdims=0), node("Identity", "b", outputs=["d"])]
    names = ("c", "a", "b", "d")
    model = graph_of(nodes, {"x": [2, 5]}, outputs=names)
    x = drawn(6, 5)
    with Engine.open(archive_of(model, tmp_path), device) as engine:
        assert tuple(port.name for port in engine.outputs) == names
        found = engine(x)
    assert isinstance(found, tuple)
    wanted = [
        np.concatenate(several) for several in zip(*(oracle(model, x[n : n + 2]) for n in (0, 2, 4)), strict=True)
    ]
    for array, want in zip(found, wanted, strict=True):
        assert (array.dtype, array.shape) == (want.dtype, want.shape)
        assert distance(array, want) < 1e-3


def test_an_output_may_be_an_input(device: Device, tmp_path: Path) -> None:
    model = graph_of([node("Identity", "x"), node("Neg", "x", outputs=["z"])], {"x": [2, 5]}, outputs=("y", "z"))
    x = drawn(2, 5)
    for precision in ("storage", "float"):
        with Engine.open(archive_of(model, tmp_path), device, precision=precision) as engine:
            y, z = outputs_of(engine, x)
        assert np.array_equal(y, x)
        assert distance(z, -x) < 1e-3


# Starting and waiting


@pytest.mark.parametrize("outputs", [("y",), ("a", "b", "y")], ids=str)
def test_to_start_is_not_to_wait(device: Device, tmp_path: Path, monkeypatch, outputs: tuple[str, ...]) -> None:
    nodes = [node("Neg", "x", outputs=["a"]), node("Relu", "x", outputs=["b"]), node("Add", "a", "b")]
    model = graph_of(nodes, {"x": [2, 5]}, outputs=outputs)
    engine = Engine.open(archive_of(model, tmp_path), device, precision="float")
    gate = device.cl.UserEvent(device.context)
    run = Plan.run

    def held_up(plan: Plan, steps: Any) -> None:
        device.cl.enqueue_barrier(engine._queue, wait_for=[gate])
        run(plan, steps)

    monkeypatch.setattr(Plan, "run", held_up)
    inputs = [drawn(2, 5, seed=seed) for seed in range(3)]
    try:
        pending = [engine.start(x) for x in inputs]
        assert gate.command_execution_status != device.cl.command_execution_status.COMPLETE
    finally:
        gate.set_status(device.cl.command_execution_status.COMPLETE)
    for x, each in zip(inputs, pending, strict=True):
        found = each.result()
        for array, wanted in zip(found if isinstance(found, tuple) else [found], oracle(model, x), strict=True):
            assert np.allclose(array, wanted)
    engine.close()


def test_results_may_be_had_in_any_order(engine: Engine) -> None:
    """Of runs that share memory, and of others whose plans are given up meanwhile."""
    counts = (1, 1, 2, 3, 1, 4, 5, 6, 2)
    inputs = [drawn(count, *SHAPE[1:], seed=seed) for seed, count in enumerate(counts)]
    wanted = [outputs_of(engine, x)[0] for x in inputs]
    pending = []
    for x in inputs:
        pending.append(engine.start(given := x.copy()))
        given[...] = np.nan
    for number in (8, 0, 3, 1, 2, 7, 6, 5, 4, 4):
        assert np.array_equal(result_of(pending[number]), wanted[number])


def test_results_nobody_waits_for_do_no_harm(engine: Engine) -> None:
    x = drawn(*SHAPE)
    [wanted] = outputs_of(engine, x)
    for _ in range(20):
        engine.start(x)
    assert np.array_equal(outputs_of(engine, x)[0], wanted)


# Opening and closing


def test_other_words_are_refused(device: Device, tmp_path: Path) -> None:
    archive = archive_of(layer(), tmp_path)
    with pytest.raises(UsageError, match="precision 'double': there are storage, half, float"):
        Engine.open(archive, device, precision="double")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cuda"):
        Engine.open(archive, "cuda")
    with pytest.raises(UsageError, match="workers"):
        Engine.open(archive, device, workers=0)


def test_an_engine_that_is_closed_says_so(device: Device, tmp_path: Path) -> None:
    archive, x = archive_of(layer(), tmp_path), drawn(*SHAPE)
    with Engine.open(archive, device) as engine:
        [wanted] = outputs_of(engine, x)
        pending = engine.start(x)
    assert np.array_equal(result_of(pending), wanted)
    for use in (engine, engine.start, engine.check):
        with pytest.raises(UsageError, match="the engine is closed; open it again"):
            use(x)
    assert (engine.memory.weights, engine.memory.arena) == (0, 0)
    assert engine.inputs == (Port("x", ("batch", 3, 8, 9)),)
    engine.close()


def test_archives_are_closed_by_who_opened_them(device: Device, tmp_path: Path, monkeypatch) -> None:
    (path := tmp_path / "model.wcodec").write_bytes(archive_of(layer(), tmp_path))
    closed = []
    close = wcodec.Archive.close

    def closing(archive: wcodec.Archive) -> None:
        closed.append(archive)
        close(archive)

    monkeypatch.setattr(wcodec.Archive, "close", closing)
    with wcodec.open(path) as archive:
        with Engine.open(archive, device) as engine:
            assert engine.metadata == archive.metadata
        assert closed == []
        assert archive["w"].shape == (5, 3, 3, 3)
    with Engine.open(path, device):
        assert closed == [archive]
    assert len(closed) == 2
    with pytest.raises(UsageError, match="precision"):
        Engine.open(path, device, precision="")  # type: ignore[arg-type]
    assert len(closed) == 3


def test_the_archive_may_go_once_an_engine_is_open(device: Device, tmp_path: Path) -> None:
    """New shapes take nothing of it but what is in memory."""
    x = drawn(5, *SHAPE[1:])
    with wcodec.open(archive_of(layer(), tmp_path)) as archive:
        engine = Engine.open(archive, device, precision="float")
        [wanted] = outputs_of(engine, x)
        engine.close()
    with Engine.open(archive_of(layer(), tmp_path), device, precision="float") as engine:
        assert np.array_equal(outputs_of(engine, x)[0], wanted)


# Several threads


def test_threads_take_turns(engine: Engine) -> None:
    given = [drawn(*SHAPE, seed=seed) for seed in range(8)]
    wanted = [outputs_of(engine, x)[0] for x in given]

    def work(number: int) -> bool:
        return all(np.array_equal(result_of(engine.start(given[number])), wanted[number]) for _ in range(100))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


# Inputs and outputs of any rank


def test_inputs_and_outputs_may_be_one_number(device: Device, tmp_path: Path) -> None:
    nodes = [node("ReduceMean", "x", outputs=["m"], keepdims=0), node("Mul", "m", "f")]
    model = graph_of(nodes, {"x": SHAPE, "f": []})
    x = drawn(*SHAPE)
    for precision in precisions(device):
        with Engine.open(archive_of(model, tmp_path), device, precision=precision) as engine:
            found = engine(x, np.array(3.0))
            assert isinstance(found, np.ndarray)
            assert found.shape == ()
            assert abs(found - 3 * x.mean()) < 1e-4


@pytest.mark.parametrize(
    "last",
    [
        node("Transpose", "x", perm=[1, 0]),
        node("ReduceSum", "x", "axes", keepdims=0),
        node("ReduceMean", "x", keepdims=0),
    ],
    ids=["turned", "summed", "one number"],
)
def test_batches_are_not_joined_along_other_axes(device: Device, tmp_path: Path, last: onnx.NodeProto) -> None:
    model = graph_of([last], {"x": [2, 7]}, {"axes": np.array([0])})
    with Engine.open(archive_of(model, tmp_path), device) as engine:
        outputs_of(engine, drawn(2, 7))
        with pytest.raises(MismatchError, match="takes 2 at a time, and its outputs are not one for each of them"):
            engine(drawn(4, 7))

"""What engines take of a device's memory, and what they do where there is not enough."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from tests.infer.conftest import SHAPE
from tests.support.infer import archive_of, graph_of, node, outputs_of
from tests.support.opencl import as_gpu, fresh
from wcodec import AllocationError, CorruptFileError, DeviceError
from wcodec.infer import choice
from wcodec.infer.engine import RESIDENTS, Engine, Memory
from wcodec.model import Array
from wcodec.opencl.device import Device


class Ledger:
    """All memory that is asked of a device, and how much of it is still held."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._taken: list[tuple[int, Any]] = []
        take = Device.buffer

        def buffer(device: Device, size: int, what: str, *, pinned: bool = False) -> Any:
            made = take(device, size, what, pinned=pinned)
            self._taken.append((made.size, device.cl.MemoryObject.from_int_ptr(made.int_ptr, retain=True)))
            return made

        monkeypatch.setattr(Device, "buffer", buffer)

    def held(self) -> int:
        """Bytes of what somebody else has a reference to."""
        gc.collect()
        return sum(size for size, memory in self._taken if memory.reference_count > 1)


@pytest.mark.parametrize("resident", RESIDENTS)
@pytest.mark.parametrize("as_cpu", [True, False])
def test_memory_is_what_was_allocated(device: Device, archive: bytes, x: Array, monkeypatch, resident, as_cpu) -> None:
    own = fresh(device if as_cpu else as_gpu(device))
    own.__dict__["is_cpu"] = as_cpu
    ledger = Ledger(monkeypatch)
    engine = Engine.open(archive, own, precision="float", resident=resident)
    assert ledger.held() == engine.memory.weights + engine.memory.arena
    one = engine.memory
    for _ in range(3):
        engine(x)
    both = engine.memory
    assert both.weights == one.weights
    assert both.arena > one.arena
    assert ledger.held() == both.weights + both.arena
    outputs_of(engine, x[:1])
    assert engine.memory == both
    engine.close()
    assert engine.memory == Memory(0, 0)
    assert ledger.held() == 0


def test_plans_of_shapes_long_unused_are_given_up(device: Device, archive: bytes, monkeypatch) -> None:
    ledger = Ledger(monkeypatch)
    with Engine.open(archive, fresh(device)) as engine:
        arenas = [engine.plan((count, *SHAPE[1:])).arena.size for count in (1, 2, 3, 4, 5, 6)]
        assert engine.memory.arena == sum(arenas[2:])
        assert ledger.held() == engine.memory.weights + engine.memory.arena


def limited(monkeypatch: pytest.MonkeyPatch, device: Device, most: int) -> None:
    monkeypatch.setattr(device.cl.Device, "max_mem_alloc_size", property(lambda _: most))


def test_a_device_that_is_too_small_says_what_would_fit(device: Device, archive: bytes, x: Array, monkeypatch) -> None:
    with Engine.open(archive, device) as engine:
        engine(x)
        arena = engine.plan(x.shape).arena.size
    own = fresh(device)
    limited(monkeypatch, own, 300_000)
    with pytest.raises(AllocationError, match=r"[\d,]+ bytes, where <Device .*> allocates 300,000 at most"):
        Engine.open(archive, own)
    limited(monkeypatch, own, 64 << 20)
    with Engine.open(archive, own) as engine:
        limited(monkeypatch, own, arena - 1)
        wanted = rf"the arena of intermediate values: {arena:,} bytes, where .* allocates {arena - 1:,} at most"
        with pytest.raises(AllocationError, match=wanted):
            engine(x)
        # and goes on with what fits
        assert outputs_of(engine, x[:1])[0].shape == (1, 30)


def test_a_device_that_is_full_says_so(device: Device, archive: bytes, x: Array, monkeypatch) -> None:
    """It may notice only when kernels start."""
    with Engine.open(archive, device) as engine:
        [wanted] = outputs_of(engine, x)

        def full(*_: object, **__: object) -> None:
            raise device.cl.MemoryError("clEnqueueNDRangeKernel failed: MEM_OBJECT_ALLOCATION_FAILURE")

        with monkeypatch.context() as patch:
            patch.setattr(device.cl, "enqueue_nd_range_kernel", full)
            needed = r"weights take [\d,]+ bytes of it, .*; what may fit: a smaller batch, resident='int8'"
            with pytest.raises(AllocationError, match=f"running .*: the device has not enough memory.*; {needed}"):
                engine(x)
        assert np.array_equal(outputs_of(engine, x)[0], wanted)


def test_a_device_that_vanishes_is_told_of(device: Device, archive: bytes, x: Array, monkeypatch) -> None:
    with Engine.open(archive, device) as engine:

        def gone(*_: object, **__: object) -> None:
            raise device.cl.RuntimeError("clEnqueueNDRangeKernel failed: DEVICE_NOT_AVAILABLE")

        monkeypatch.setattr(engine.plan(x.shape), "_chains", [])
        monkeypatch.setattr(device.cl, "enqueue_nd_range_kernel", gone)
        with pytest.raises(DeviceError, match=r"running kernel \w+ of 'x': .*DEVICE_NOT_AVAILABLE"):
            engine(x)


def test_older_shapes_make_room_for_new_ones(device: Device, archive: bytes, monkeypatch) -> None:
    ledger = Ledger(monkeypatch)
    take = Device.buffer

    def small(device: Device, size: int, what: str, *, pinned: bool = False) -> Any:
        if ledger.held() + size > room:
            raise AllocationError(f"{what}: {size:,} bytes are not to be had")
        return take(device, size, what, pinned=pinned)

    with Engine.open(archive, fresh(device)) as engine:
        sizes = [engine.plan((count, *SHAPE[1:])).arena.size for count in (6, 7, 8)]
    assert ledger.held() == 0
    with Engine.open(archive, fresh(device)) as engine:
        engine.plan((6, *SHAPE[1:]))
        room = ledger.held() + sizes[1] // 2
        monkeypatch.setattr(Device, "buffer", small)
        assert engine.plan((7, *SHAPE[1:])).arena.size == sizes[1]
        assert engine.memory.arena == sizes[1]
        with pytest.raises(AllocationError, match=r"the arena of .*; what may fit: a smaller batch"):
            engine.plan((70, *SHAPE[1:]))
        assert engine.plan((1, *SHAPE[1:])).arena.size < sizes[0]


def test_forms_that_do_not_fit_are_not_tried(device: Device, tmp_path, monkeypatch) -> None:
    rng = np.random.default_rng(5)
    weights = {"w": rng.standard_normal((64, 64, 3, 3)).astype(np.float32)}
    model = graph_of([node("Conv", "x", "w", pads=[1, 1, 1, 1])], {"x": [1, 64, 40, 40]}, weights)
    monkeypatch.setenv("WCODEC_CACHE_DIR", str(tmp_path / "cache"))
    take = Device.buffer
    refused = []

    def small(device: Device, size: int, what: str, *, pinned: bool = False) -> Any:
        if "transformed" in what:
            refused.append(what)
            raise AllocationError(f"{what}: {size:,} bytes are not to be had")
        return take(device, size, what, pinned=pinned)

    monkeypatch.setattr(Device, "buffer", small)
    with Engine.open(archive_of(model, tmp_path), fresh(device), resident="int8") as engine:
        assert not any(step.form.name.startswith("winograd") for step in engine.plan((1, 64, 40, 40)).steps)
    assert refused or device.vector_width < 16


def test_transformed_weights_are_kept_while_there_is_room(device: Device, tmp_path, monkeypatch) -> None:
    rng = np.random.default_rng(5)
    names = ["x", *(f"v{n}" for n in range(12)), "y"]
    weights = {f"w{n}": rng.standard_normal((96, 96, 3, 3)).astype(np.float32) / 30 for n in range(13)}
    layers = [node("Conv", names[n], f"w{n}", outputs=[names[n + 1]], pads=[1, 1, 1, 1]) for n in range(13)]
    model = graph_of(layers, {"x": [1, 96, 16, 16]}, weights)
    monkeypatch.setattr(choice, "_WORTH_TRYING", 0)
    monkeypatch.setattr(
        choice,
        "remembered_form",
        lambda key, forms: next((form for form in forms if form.name.startswith("winograd")), forms[0]),
    )
    with Engine.open(archive_of(model, tmp_path), fresh(device)) as engine:
        forms = [step.form for step in engine.plan((1, 96, 16, 16)).steps]
        transforming = [len(form.launches) for form in forms if form.name.startswith("winograd")]
        assert engine.memory.weights <= 2 * 13 * 96 * 96 * 9 + (16 << 20)
    if device.vector_width >= 16:
        assert transforming[0] == 1
        assert transforming[-1] == 2


def test_a_damaged_archive_stays_damaged(device: Device, tmp_path) -> None:
    """What could not be brought there the first time is asked for again."""
    weights = {"w": np.random.default_rng(3).laplace(size=(40, 20, 3, 3)).astype(np.float32)}
    model = graph_of([node("Conv", "x", "w")], {"x": [1, 20, "height", "width"]}, weights)
    archive = bytearray(archive_of(model, tmp_path, coder="raw"))
    archive[4000] ^= 1
    with Engine.open(bytes(archive), device) as engine:
        for _ in range(2):
            with pytest.raises(CorruptFileError, match="'w'"):
                engine(np.zeros((1, 20, 9, 9), np.float32))

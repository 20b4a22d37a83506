"""What engines take of a device, of the disk and of each other, and what they do where there is not enough."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support.infer import archive_of, distance, graph_of, node, outputs_of
from tests.support.opencl import as_gpu
from wcodec import AllocationError, DeviceError, MissingDependencyError
from wcodec.infer import plan
from wcodec.infer.engine import RESIDENTS, Engine, Memory
from wcodec.model import Array
from wcodec.opencl.cache import remember, remembered
from wcodec.opencl.device import Device

SHAPE = (2, 20, 12, 12)


@pytest.fixture(scope="module")
def model() -> bytes:
    """Layers with weights of every kind: large ones, small ones, constants that are read as values."""
    rng = np.random.default_rng(3)
    weights = {
        "a": rng.laplace(size=(40, 20, 3, 3)),
        "b": rng.laplace(size=(40, 1, 3, 3)),
        "bias": rng.laplace(size=40),
        "table": rng.laplace(size=(1, 40, 12, 1)),
        "c": rng.laplace(size=(40 * 12 * 12, 30)),
    }
    nodes = [
        node("Conv", "x", "a", outputs=["p"], pads=[1, 1, 1, 1]),
        node("Conv", "p", "b", "bias", outputs=["q"], pads=[1, 1, 1, 1], group=40),
        node("Mul", "q", "table", outputs=["r"]),
        node("Flatten", "r", outputs=["s"]),
        node("MatMul", "s", "c"),
    ]
    scaled = {name: (0.1 * array).astype(np.float32) for name, array in weights.items()}
    return graph_of(nodes, {"x": ["batch", *SHAPE[1:]]}, scaled)


@pytest.fixture
def x() -> Array:
    return np.random.default_rng(4).standard_normal(SHAPE).astype(np.float32)


@pytest.fixture
def archive(model: bytes, tmp_path: Path) -> bytes:
    return archive_of(model, tmp_path, coder="rans")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, empty."""
    monkeypatch.setenv("WCODEC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fresh(device: Device) -> Device:
    """The same device, which has built nothing yet."""
    return Device(device.device)


# Memory


class Ledger:
    """All memory that is asked of a device, and how much of it is still held."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._taken: list[tuple[int, Any]] = []
        take = Device.buffer

        def buffer(device: Device, size: int, what: str, *, pinned: bool = False) -> Any:
            made = take(device, size, what, pinned=pinned)
            self._taken.append((size, device.cl.MemoryObject.from_int_ptr(made.int_ptr, retain=True)))
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
    assert ledger.held() == both.weights + both.arena + one.arena
    outputs_of(engine, x[:1])
    assert engine.memory == one
    engine.close()
    assert engine.memory == Memory(0, 0)
    assert ledger.held() == 0


def test_plans_of_shapes_long_unused_are_given_up(device: Device, archive: bytes, monkeypatch) -> None:
    ledger = Ledger(monkeypatch)
    with Engine.open(archive, fresh(device)) as engine:
        arenas = []
        for count in (1, 2, 3, 4, 5, 6):
            engine(np.zeros((count, *SHAPE[1:]), np.float32))
            arenas.append(engine.memory.arena)
        assert ledger.held() == engine.memory.weights + sum(arenas[2:])


def limited(monkeypatch: pytest.MonkeyPatch, device: Device, most: int) -> None:
    monkeypatch.setattr(device.cl.Device, "max_mem_alloc_size", property(lambda _: most))


def test_a_device_that_is_too_small_says_what_would_fit(device: Device, archive: bytes, x: Array, monkeypatch) -> None:
    with Engine.open(archive, device) as engine:
        engine(x)
        arena = engine.memory.arena
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
            with pytest.raises(AllocationError, match="running: the device has not enough memory"):
                engine(x)
        assert np.array_equal(outputs_of(engine, x)[0], wanted)


# Kernels


def test_halves_need_a_device_that_computes_with_them(device: Device, archive: bytes) -> None:
    if device.has_half:
        own = fresh(device)
        own.device = SimpleNamespace(extensions="cl_khr_fp64", name="old", platform=device.device.platform)
        device = own
    with pytest.raises(MissingDependencyError, match=r"does not compute with halves \(cl_khr_fp16\); use precision"):
        Engine.open(archive, device, precision="half")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Give a kernel a definition that no compiler takes."""

    def breaking(kernel: str) -> None:
        make = Device.kernel

        def made(device: Device, name: str, sources: tuple[str, ...], defines: tuple[str, ...]) -> Any:
            more = ("Y=no type",) if name == kernel else ()
            return make(device, name, sources, (*defines, *more))

        monkeypatch.setattr(Device, "kernel", made)

    return breaking


def test_a_kernel_that_cannot_be_built_is_named(
    device: Device, folder: Path, archive: bytes, x: Array, broken: Callable[[str], None]
) -> None:
    broken("depthwise")
    with pytest.raises(DeviceError, match=r"building depthwise\.cl with .*Y=no type"):
        Engine.open(archive, fresh(device))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert remembered(path.parent.name, path.name), "half of a file was left"


# What is kept for later


def tuned(folder: Path) -> bytes:
    """One layer that there are several forms of, large enough for them to be tried."""
    rng = np.random.default_rng(5)
    weights = {"w": rng.standard_normal((40, 40, 1, 1)).astype(np.float32)}
    return archive_of(graph_of([node("Conv", "x", "w")], {"x": [1, 40, 30, 30]}, weights), folder)


def run(device: Device, archive: bytes) -> Array:
    """Through a device that has built nothing yet."""
    with Engine.open(archive, fresh(device), precision="float") as engine:
        return outputs_of(engine, np.ones((1, 40, 30, 30), np.float32))[0]


def test_forms_and_programs_are_found_once(
    device: Device, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tuned(tmp_path)
    run(device, archive)
    assert {path.name for path in folder.iterdir()} == {"forms", "programs"}
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    def never(*_: object) -> None:
        raise AssertionError("is remembered")

    monkeypatch.setattr(plan, "fastest_form", never)
    run(device, archive)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("damage", ["cut", "another", "a folder"])
def test_what_was_kept_may_be_damaged(device: Device, folder: Path, tmp_path: Path, damage: str) -> None:
    archive = tuned(tmp_path)
    wanted = run(device, archive)
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        if damage == "cut":
            path.write_bytes(path.read_bytes()[:-1])
        elif damage == "another":
            # with a right checksum: what another version has left
            remember(path.parent.name, path.name, b"no form, and no program")
        else:
            path.unlink()
            path.mkdir()
    assert distance(run(device, archive), wanted) < 1e-6
    if damage != "a folder":
        for path in files:
            assert remembered(path.parent.name, path.name) not in (None, b"no form, and no program")


OPEN = """
import sys
import numpy as np
from wcodec.infer.engine import Engine
from wcodec.opencl.device import Device
archive, name, x, y = sys.argv[1:]
device, x, y = Device.open(name), np.load(x), np.load(y)
print("ready", flush=True)
sys.stdin.readline()
with Engine.open(archive, device, precision="float") as engine:
    assert np.linalg.norm(engine(x) - y) < 1e-5 * np.linalg.norm(y)
"""


def test_processes_may_open_engines_at_the_same_time(
    device: Device, folder: Path, model: bytes, archive: bytes, x: Array, tmp_path: Path, request: Any
) -> None:
    """Each builds what it needs, or finds it."""
    (tmp_path / "model.wcodec").write_bytes(archive)
    with Engine.open(archive, device, precision="float") as engine:
        np.save(tmp_path / "y.npy", outputs_of(engine, x)[0])
    np.save(tmp_path / "x.npy", x)
    name = f"opencl:{request.node.callspec.params['device']}"
    files = [str(tmp_path / file) for file in ("model.wcodec", "x.npy", "y.npy")]
    others = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, files[0], name, *files[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for other in others:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
    shutil.rmtree(folder, ignore_errors=True)
    for other in others:
        assert other.stdin is not None
        other.stdin.write("go\n")
        other.stdin.flush()
    for other in others:
        other.communicate(timeout=120)
        assert other.returncode == 0
    files_left = [path for path in folder.rglob("*") if path.is_file()]
    assert files_left
    for path in files_left:
        assert remembered(path.parent.name, path.name), "half of a file was left"

"""Kernels that cannot be built, and what engines keep on disk for each other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support.infer import archive_of, distance, graph_of, node, outputs_of
from tests.support.opencl import fresh
from wcodec import DeviceError, MissingDependencyError
from wcodec.infer import choice, tuning
from wcodec.infer.engine import Engine
from wcodec.infer.forms.launch import Target
from wcodec.infer.forms.table import forms_of
from wcodec.infer.graph import Convolution
from wcodec.infer.places import Place, Task
from wcodec.infer.precision import target_of
from wcodec.infer.tuning import key_of_form
from wcodec.model import Array
from wcodec.opencl import device as opened
from wcodec.opencl.cache import remember, remembered
from wcodec.opencl.device import Device


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, empty."""
    monkeypatch.setenv("WCODEC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


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

    monkeypatch.setattr(choice, "fastest_form", never)
    run(device, archive)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_what_is_kept_is_for_the_same_device_kernels_and_layers(device: Device, monkeypatch) -> None:
    target = target_of(device, "storage", keeps_more=True)
    x, y = Place("x", (1, 40, 30, 30), "f16", blocks=True), Place("y", (1, 48, 30, 30), "f16", blocks=True)
    task = Task("c", Convolution((1, 1)), (x, "w", "", ""), y)
    forms = forms_of(task, target)

    def key(task: Task = task, stored: str = "f16", target: Target = target) -> str:
        return key_of_form(task, forms, [stored], target, device)

    wide = replace(task, output=replace(y, storage="f32"))
    found = [key(), key(stored="i8"), key(wide), key(target=replace(target, keeps_more=False))]
    assert key(replace(task, name="d", inputs=(replace(x, memory="z"), "v", "", ""))) == found[0]
    for name, other in (("identity", lambda _: b"another"), ("kernel_text", lambda _: "another")):
        with monkeypatch.context() as patch:
            patch.setattr(tuning, name, other)
            found.append(key())
    assert len(set(found)) == len(found)


def test_programs_are_kept_by_device_text_and_definitions(device: Device, folder: Path, monkeypatch) -> None:
    text = "kernel void set(global int *out) { *out = N; }"

    def value(text: str = text, number: int = 1) -> int:
        own = fresh(device)
        kernel = own.cl.Kernel(own.program(text, (f"N={number}",), "a test"), "set")
        status = own.status()
        kernel.set_args(status)
        own.cl.enqueue_nd_range_kernel(own.queue, kernel, (1,), (1,)).wait()
        return own.read_status(status)

    assert [value(), value(), value(number=2), value(text.replace("= N", "= -N"))] == [1, 1, 2, -1]
    assert len(list((folder / "programs").iterdir())) == 3
    monkeypatch.setattr(opened, "identity", lambda _: b"another")
    assert value() == 1
    assert len(list((folder / "programs").iterdir())) == 4


def test_building_says_nothing(folder: Path, model: bytes, archive: bytes, x: Array, tmp_path: Path) -> None:
    """Compilers count their warnings on the process's own stderr."""
    (tmp_path / "model.wcodec").write_bytes(archive)
    np.save(tmp_path / "x.npy", x)
    script = """
import sys
import numpy as np
from wcodec.infer.engine import Engine
with Engine.open(sys.argv[1]) as engine:
    engine(np.load(sys.argv[2]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "model.wcodec"), str(tmp_path / "x.npy")],
        env=os.environ | {"WCODEC_CACHE_DIR": str(folder), "POCL_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")


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

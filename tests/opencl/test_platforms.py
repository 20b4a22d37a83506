"""Finding devices: each tried in a process of its own, and what to do where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import wcodec
from tests.support.opencl import encoded, found_devices
from wcodec import MissingDependencyError, UsageError
from wcodec.opencl import platforms
from wcodec.opencl.device import Device
from wcodec.opencl.platforms import import_pyopencl, list_devices, pick_device


@pytest.fixture
def anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is remembered of devices."""
    monkeypatch.setenv("WCODEC_CACHE_DIR", str(tmp_path / "cache"))
    list_devices.cache_clear()
    yield
    list_devices.cache_clear()


TRIALS = {
    "aborts": ("import os; os.abort()", "ended its trial by signal 6"),
    "is killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended its trial by signal 9"),
    "raises": ("raise RuntimeError('no memory at all')", "RuntimeError: no memory at all"),
    "writes what is no text": (
        "sys.stderr.buffer.write(b'bad \\xff'); sys.exit(1)",
        "bad \N{REPLACEMENT CHARACTER}",
    ),
    "says nothing": ("", "ended its trial with 0"),
    "says something else": ("print('works not')", "ended its trial with 0"),
    "fails after it has worked": ("print('works'); raise SystemExit(3)", "ended its trial with 3"),
    "hangs": ("import time; print('works', flush=True); time.sleep(1000)", "did nothing for 1 seconds"),
}


@pytest.mark.parametrize("trial", TRIALS)
def test_a_device_that_fails_its_trial_is_listed_and_passed_over(
    device: Device, anew: None, trial: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, reason = TRIALS[trial]
    place = [entry[0] for entry in platforms.found_devices()].index(device.device)
    _, platform, number = platforms.found_devices()[place]
    # only this one fails
    condition = (
        f"import sys\nif sys.argv[1:] == ['{platform}', '{number}']:\n    {script or 'sys.exit()'}\n    sys.exit()"
    )
    monkeypatch.setattr(platforms, "_TRIAL", condition + "\nprint('works')")
    if trial == "hangs":
        monkeypatch.setattr(platforms, "TRIAL_SECONDS", 1)
    listed = list_devices()
    assert [(entry.works, entry.reason) for entry in listed if entry.number == place] == [(False, reason)]
    with pytest.raises(MissingDependencyError, match=f"opencl:{place}: .* does not work .*{reason}.*; install"):
        pick_device(f"opencl:{place}")
    if trial == "hangs":
        return  # others may take more than a second
    assert all(entry.works for entry in listed if entry.number != place)
    if len(listed) > 1:
        assert pick_device("opencl") != device.device
    else:
        with pytest.raises(MissingDependencyError, match=f"opencl: .*{reason}.*wcodec\\[cpu\\]"):
            pick_device("opencl")


def test_trials_that_worked_are_remembered_and_others_not(
    device: Device, anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[object] = []
    run = subprocess.run

    def counted(command: list[str], **options: object) -> object:
        runs.append(command)
        return run([sys.executable, "-c", "print('works')" if works else ""], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", counted)
    entry = next(entry for entry in platforms.found_devices() if entry[0] == device.device)
    works = False
    assert platforms._problem(*entry)
    assert platforms._problem(*entry)
    works = True
    assert not platforms._problem(*entry)
    assert len(runs) == 3
    assert not platforms._problem(*entry)
    assert len(runs) == 3
    monkeypatch.setattr(platforms, "identity", lambda device: b"another driver")
    assert not platforms._problem(*entry)
    assert len(runs) == 4


@pytest.mark.parametrize("module", ["pyopencl", "numpy", "av", "wcodec"])
def test_modules_in_the_working_folder_are_not_run(module: str, anew: None, tmp_path: Path) -> None:
    """A model's folder may hold anything; the commands themselves take no modules from it."""
    (tmp_path / f"{module}.py").write_text("open('harm', 'w').close()")
    command = Path(sys.executable).with_name("wcodec")
    done = subprocess.run([command, "devices"], capture_output=True, text=True, check=True, cwd=tmp_path, timeout=300)
    assert " works" in done.stdout
    assert not (tmp_path / "harm").exists()


def test_a_number_beyond_the_last_says_how_many_there_are(device: Device) -> None:
    count = len(platforms.found_devices())
    with pytest.raises(MissingDependencyError, match=f"there are {count} OpenCL devices.*'wcodec devices' lists them"):
        pick_device(f"opencl:{count}")


def test_devices_are_described(device: Device) -> None:
    devices, _ = found_devices()
    [listed] = [entry for entry in devices if platforms.found_devices()[entry.number][0] == device.device]
    assert listed.works
    assert not listed.reason
    assert listed.name == device.device.name.strip()
    assert listed.platform == device.device.platform.name.strip()
    assert listed.memory == device.device.global_mem_size
    assert (listed.kind == "CPU") == device.is_cpu
    assert [entry.number for entry in devices] == list(range(len(devices)))
    assert pick_device(f"opencl:{listed.number}") == device.device
    first = next(entry for entry in devices if entry.works)
    assert pick_device("opencl") == platforms.found_devices()[first.number][0]


def test_cpus_come_last(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    cl = import_pyopencl()
    kinds = [cl.device_type.CPU, cl.device_type.GPU, cl.device_type.ACCELERATOR, cl.device_type.GPU, 0]

    class Some:
        def __init__(self, kind: int) -> None:
            self.type = kind

    class Platform:
        def __init__(self, *kinds: int) -> None:
            self.kinds = kinds

        def get_devices(self) -> list[Some]:
            if not self.kinds:
                raise cl.LogicError("clGetDeviceIDs", cl.status_code.DEVICE_NOT_FOUND)
            return [Some(kind) for kind in self.kinds]

    monkeypatch.setattr(cl, "get_platforms", lambda: [Platform(*kinds[:2]), Platform(), Platform(*kinds[2:])])
    found = [(device.type, platform, number) for device, platform, number in platforms.found_devices()]
    assert found == [
        (kinds[1], 0, 1),
        (kinds[3], 2, 1),
        (kinds[2], 2, 0),
        (kinds[0], 0, 0),
        (kinds[4], 2, 2),
    ]


@pytest.mark.parametrize("name", ["opencl:", "opencl:one", "opencl:-1", "opencl:1.0", "cpu", ""])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UsageError, match="unknown device"):
        pick_device(name)


def test_without_pyopencl_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    # what the test finds out is forgotten with it
    monkeypatch.setattr(platforms, "_pyopencl", cache(platforms._pyopencl.__wrapped__))
    list_devices.cache_clear()
    data = encoded({"w": np.ones((3, 3), np.float32)})
    for use in (import_pyopencl, list_devices, Device.open, lambda: wcodec.load(data, "opencl")):
        with pytest.raises(MissingDependencyError, match=r"pip install 'wcodec\[opencl\]'"):
            use()
    assert wcodec.load(data)["w"].any()


WITHOUT = """
import io, sys
import numpy as np
import wcodec
if sys.argv[1] == "no pyopencl":
    sys.modules["pyopencl"] = None
from wcodec import engine
engine.WORTH_A_DEVICE = 1
weights = np.random.default_rng(0).laplace(size=(64, 64)).astype(np.float32)
stream = io.BytesIO()
wcodec.encode({"w": weights}, stream, wcodec.Policy(coder="rans"))
assert wcodec.open(stream.getvalue()).tensor("w").recipe.coder.id == "rans"
assert abs(wcodec.load(stream.getvalue(), "cpu")["w"] - weights).max() < 0.1
for name in ("opencl", "opencl:0"):
    try:
        wcodec.load(stream.getvalue(), name)
    except wcodec.MissingDependencyError as error:
        print(error)
from wcodec.cli import main
sys.argv = ["wcodec", "devices"]
try:
    main()
except SystemExit as done:
    print("exit code", done.code)
"""


@pytest.mark.parametrize(("how", "install"), [("no platform", "wcodec[cpu]"), ("no pyopencl", "wcodec[opencl]")])
def test_without_devices_everything_else_works(how: str, install: str, tmp_path: Path) -> None:
    empty = tmp_path / "vendors"
    empty.mkdir()
    environment = os.environ | {
        "OCL_ICD_VENDORS": str(empty),
        "OCL_ICD_FILENAMES": "",
        "WCODEC_CACHE_DIR": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, how], capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, second, *others = done.stdout.splitlines()
    for line in (first, second, *[line for line in others if line.startswith("OpenCL:")]):
        assert f"pip install '{install}'" in line
    assert any(line.startswith("OpenCL: ") for line in others)
    assert others[-1] == "exit code 0"

"""The OpenCL devices of this machine: what there is, what works, and opening one.

A runtime may abort the process that uses it, so each device first adds two vectors in a child process. Devices that did
are remembered, by the versions of everything involved.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from threading import Lock
from types import ModuleType
from typing import Any

from wcodec.errors import DeviceError, MissingDependencyError, UsageError
from wcodec.opencl.cache import key_of, remember, remembered
from wcodec.opencl.icd import announced_runtimes

TRIAL_SECONDS = 60
"""How long a device may take over its trial: a first build on a loaded machine included."""

INSTALL = "install one: pip install 'wcodec[cpu]', or a GPU's driver"

_LOADING = Lock()

_TRIAL = """
import sys
import numpy as np
from wcodec.opencl.platforms import import_pyopencl
cl = import_pyopencl()
device = cl.get_platforms()[int(sys.argv[1])].get_devices()[int(sys.argv[2])]
context = cl.Context([device])
queue = cl.CommandQueue(context)
source = '''kernel void add(global const float *a, global float *b, global half *c) {
    size_t i = get_global_id(0);
    vstore_half(a[i], i, c);
    b[i] += vload_half(i, c);
}'''
program = cl.Program(context, source).build(cache_dir=False)
numbers = np.arange(256, dtype=np.float32)
flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
one, two, three = (cl.Buffer(context, flags, hostbuf=numbers) for _ in range(3))
cl.Kernel(program, "add")(queue, (256,), (1,), one, two, three)
result = np.empty_like(numbers)
cl.enqueue_copy(queue, result, two)
queue.finish()
if (result != 2 * numbers).any():
    sys.exit("adds wrongly")
print("works")
"""


@dataclass(frozen=True)
class OpenCLDevice:
    """A device as `wcodec devices` lists it. `number` is that of "opencl:0"; `reason` says why it does not work."""

    number: int
    name: str
    kind: str
    platform: str
    version: str
    driver: str
    memory: int
    half: bool
    works: bool
    reason: str


def import_pyopencl() -> ModuleType:
    """pyopencl, with the loader told of all runtimes; `MissingDependencyError` where it is not installed.

    `DeviceError` in a child that was forked after its parent had asked for it: it has the runtimes' memory but not
    their threads, and would wait for them for ever.
    """
    cl = _pyopencl()
    if os.getpid() != _process():
        raise DeviceError("OpenCL was in use before this process was forked; start it anew, by 'spawn'")
    return cl


@cache
def _pyopencl() -> ModuleType:
    try:
        with _LOADING:
            return _loaded()
    except ImportError as error:
        raise MissingDependencyError(
            "OpenCL needs the package pyopencl; install it: pip install 'wcodec[opencl]', or 'wcodec[cpu]' with a "
            "runtime for CPUs"
        ) from error


def _loaded() -> ModuleType:
    # where there is no room for the folder that announces them, there are still the system's runtimes
    with suppress(OSError), announced_runtimes():
        return _asked_for_platforms()
    return _asked_for_platforms()


def _asked_for_platforms() -> ModuleType:
    import pyopencl

    # the loader looks for runtimes once: now
    with suppress(pyopencl.Error):
        pyopencl.get_platforms()
    return pyopencl


@cache
def _process() -> int:
    """The process that asked for pyopencl first: this one, or one that it was forked from."""
    return os.getpid()


def found_devices() -> list[tuple[Any, int, int]]:
    """Every device with the numbers of its platform and of itself there: GPUs first, CPUs last."""
    cl = import_pyopencl()
    try:
        platforms = cl.get_platforms()
    except cl.Error:
        return []
    found: list[tuple[Any, int, int]] = []
    for place, platform in enumerate(platforms):
        try:
            devices = platform.get_devices()
        except cl.Error:
            continue
        found += [(device, place, number) for number, device in enumerate(devices)]
    order = (cl.device_type.GPU, cl.device_type.ACCELERATOR, cl.device_type.CUSTOM, cl.device_type.CPU)
    return sorted(
        found, key=lambda entry: next((n for n, kind in enumerate(order) if entry[0].type & kind), len(order))
    )


@cache
def list_devices() -> tuple[OpenCLDevice, ...]:
    """All devices, each tried out. Empty where no runtime is installed."""
    found = found_devices()
    with ThreadPoolExecutor() as pool:
        problems = pool.map(lambda entry: _problem(*entry), found)
        return tuple(
            _described(number, entry[0], problem)
            for number, (entry, problem) in enumerate(zip(found, problems, strict=True))
        )


def pick_device(name: str) -> Any:
    """pyopencl's device for "opencl", the first that works, or "opencl:1", the one of that number that must work.

    Raises `UsageError` for another name, `MissingDependencyError` where there is none such or it does not work.
    """
    kind, _, number = name.partition(":")
    if kind != "opencl" or (":" in name and not number.isdecimal()):
        raise UsageError(f"unknown device {name!r}; OpenCL's are 'opencl', 'opencl:0', 'opencl:1' and so on")
    found = found_devices()
    if not found:
        raise MissingDependencyError(f"{name}: there is no OpenCL device; {INSTALL}")
    if number:
        if int(number) >= len(found):
            raise MissingDependencyError(
                f"{name}: there are {len(found)} OpenCL devices, the first being opencl:0; 'wcodec devices' lists them"
            )
        found = [found[int(number)]]
    reasons = []
    for entry in found:
        problem = _problem(*entry)
        if not problem:
            return entry[0]
        reasons.append(f"{entry[0].name.strip()} does not work ({problem})")
    raise MissingDependencyError(f"{name}: {'; '.join(reasons)}; {INSTALL}")


def _described(number: int, device: Any, problem: str) -> OpenCLDevice:
    cl = import_pyopencl()
    kinds = {cl.device_type.GPU: "GPU", cl.device_type.CPU: "CPU", cl.device_type.ACCELERATOR: "accelerator"}
    return OpenCLDevice(
        number=number,
        name=device.name.strip(),
        kind=next((word for kind, word in kinds.items() if device.type & kind), "other"),
        platform=device.platform.name.strip(),
        version=device.version.strip(),
        driver=device.driver_version.strip(),
        memory=device.global_mem_size,
        half="cl_khr_fp16" in device.extensions.split(),
        works=not problem,
        reason=problem,
    )


def identity(device: Any) -> bytes:
    """What a driver's behaviour depends on, as far as it tells."""
    platform = device.platform
    parts = (platform.name, platform.version, device.name, device.version, device.driver_version)
    return "\n".join(parts).encode()


def _problem(device: Any, platform: int, number: int) -> str:
    """Why a device fails its trial, or nothing."""
    key = key_of(b"trial", _TRIAL.encode(), identity(device))
    if remembered("devices", key) is not None:
        return ""
    # -P: whatever lies in the folder that this process works in is no module of the trial's
    command = [sys.executable, "-P", "-c", _TRIAL, str(platform), str(number)]
    try:
        done = subprocess.run(  # noqa: S603, runs this interpreter
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TRIAL_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"did nothing for {TRIAL_SECONDS} seconds"
    if done.returncode == 0 and done.stdout.strip().endswith("works"):
        remember("devices", key, b"works")
        return ""
    if done.returncode < 0:
        return f"ended its trial by signal {-done.returncode}"
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"ended its trial with {done.returncode}"

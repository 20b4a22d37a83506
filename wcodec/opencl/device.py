"""An opened device: its context and queue, buffers, and programs built for it, with errors mapped into wcodec's."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.resources import files
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np

from wcodec.errors import AllocationError, DeviceError
from wcodec.opencl.cache import key_of, remember, remembered
from wcodec.opencl.platforms import identity, import_pyopencl, pick_device

UNBROKEN = np.int32(np.iinfo(np.int32).max)
"""What a status holds that no kernel has found fault with."""

VECTOR = 16
"""Lanes that one work-item of a CPU serves: the widest vector of OpenCL C."""


class Device:
    """A context on one OpenCL device with two queues: `queue` for kernels, `transfers` for the host's memory.

    Kernels run in any order that their events allow, where the device can do so: one that keeps few cores busy leaves
    the others to the next. May serve any number of loads, one after the other.
    """

    def __init__(self, device: Any) -> None:
        """On a device of pyopencl's, such as `pyopencl.get_platforms()[0].get_devices()[0]`."""
        self.device = device
        with translating(f"opening {device.name.strip()}"):
            self.context = self.cl.Context([device])
            free_order = self.cl.command_queue_properties.OUT_OF_ORDER_EXEC_MODE_ENABLE
            self.queue = self.cl.CommandQueue(
                self.context, properties=free_order & device.get_info(self.cl.device_info.QUEUE_PROPERTIES)
            )
            self.transfers = self.cl.CommandQueue(self.context)
        self._programs: dict[str, Any] = {}
        self._lock = Lock()
        self._held: deque[tuple[Any, list[Any]]] = deque()

    @classmethod
    def open(cls, name: str = "opencl") -> Device:
        """The first device that works, or that of a number: "opencl:1". Raises as `pick_device` does."""
        return cls(pick_device(name))

    def __repr__(self) -> str:
        return f"<Device {self.device.name.strip()!r} of {self.device.platform.name.strip()!r}>"

    @property
    def cl(self) -> ModuleType:
        """pyopencl; `DeviceError` in a process that was forked since the device was opened."""
        return import_pyopencl()

    @cached_property
    def is_cpu(self) -> bool:
        """Whether the host's memory is the device's own."""
        return bool(self.device.type & self.cl.device_type.CPU)

    @cached_property
    def has_half(self) -> bool:
        """Whether it computes with halves: cl_khr_fp16."""
        return "cl_khr_fp16" in self.device.extensions.split()

    @cached_property
    def vector_width(self) -> int:
        """Floats of its vectors; drivers are not of one mind about which of the two numbers says so."""
        widths: tuple[int, int] = self.device.native_vector_width_float, self.device.preferred_vector_width_float
        return max(widths)

    @cached_property
    def starts_slowly(self) -> bool:
        """Whether starting a kernel takes as long as a small layer: PoCL wakes threads for each, some 20 us."""
        return self.is_cpu and self.device.platform.name.strip() == "Portable Computing Language"

    @property
    def lanes(self) -> int:
        """Lanes that a work-item decodes in step: a vector of them on a CPU, one where there are threads enough."""
        return VECTOR if self.is_cpu else 1

    def buffer(self, size: int, what: str, *, pinned: bool = False) -> Any:
        """Memory of at least `size` bytes; `AllocationError` naming `what` where there is not enough."""
        flags = self.cl.mem_flags.READ_WRITE | (self.cl.mem_flags.ALLOC_HOST_PTR if pinned else 0)
        largest = self.device.max_mem_alloc_size
        if size > largest:
            raise AllocationError(f"{what}: {size:,} bytes, where {self!r} allocates {largest:,} at most")
        try:
            return self.cl.Buffer(self.context, flags, max(size, 64))
        except self.cl.Error as error:
            raise AllocationError(f"{what}: {size:,} bytes are not to be had on {self!r}: {error}") from error

    def status(self) -> Any:
        """An int32 that kernels lower to the place of what is damaged."""
        flags = self.cl.mem_flags.READ_WRITE | self.cl.mem_flags.COPY_HOST_PTR
        with translating("allocating"):
            return self.cl.Buffer(self.context, flags, hostbuf=np.array([UNBROKEN]))

    def read_status(self, status: Any) -> int:
        found = np.empty(1, np.int32)
        with translating("reading results"):
            self.cl.enqueue_copy(self.queue, found, status)
        return int(found[0])

    def keep_until(self, event: Any, held: list[Any]) -> None:
        """Hold on to a kernel's arguments until it has run: kernels hold no reference to their buffers."""
        self.let_go()
        self._held.append((event, held))

    def let_go(self) -> None:
        """Of the arguments of kernels that have run."""
        done = self.cl.command_execution_status.COMPLETE
        while self._held and self._held[0][0].command_execution_status == done:
            self._held.popleft()

    def kernel(self, name: str, sources: tuple[str, ...], defines: tuple[str, ...]) -> Any:
        """A new kernel of the program made of files in `kernels`, one after the other, under these definitions."""
        program = self.program(kernel_text(sources), defines, f"{sources[-1]} with {' '.join(defines)}")
        with translating(f"kernel {name} of {sources[-1]}"):
            return self.cl.Kernel(program, name)

    def program(self, text: str, defines: tuple[str, ...], what: str) -> Any:
        """A program of kernels under these definitions, built once; errors tell `what` it is."""
        options = [f"-D{define}" for define in defines]
        key = key_of(identity(self.device), text.encode(), *(option.encode() for option in options))
        with self._lock:
            if key not in self._programs:
                with translating(f"building {what}"):
                    self._programs[key] = self._built(key, text, options)
            return self._programs[key]

    def _built(self, key: str, text: str, options: list[str]) -> Any:
        """The program from the binary of an earlier build, if the driver still takes it, or from its source."""
        binary = remembered("programs", key)
        with warnings.catch_warnings():
            # some compilers always have something to say
            warnings.simplefilter("ignore", self.cl.CompilerWarning)
            if binary is not None:
                with suppress(self.cl.Error):
                    return self.cl.Program(self.context, [self.device], [binary]).build(cache_dir=False)
            # PoCL counts warnings on the process's stderr
            program = self.cl.Program(self.context, text).build([*options, "-w"], cache_dir=False)
        remember("programs", key, program.get_info(self.cl.program_info.BINARIES)[0])
        return program


def kernel_text(sources: tuple[str, ...]) -> str:
    """Files in `kernels`, one after the other."""
    folder = files("wcodec.opencl") / "kernels"
    return "\n".join((folder / source).read_text() for source in sources)


@contextmanager
def translating(what: str) -> Iterator[None]:
    """pyopencl's errors told as `DeviceError` or `AllocationError`, with what was being done."""
    cl = import_pyopencl()
    try:
        yield
    except cl.MemoryError as error:
        raise AllocationError(f"{what}: the device has not enough memory: {error}") from error
    except cl.Error as error:
        raise DeviceError(f"{what}: {' '.join(str(error).split())[:500]}") from error

"""Kernels with their arguments in memory, ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from wcodec.infer.forms.launch import Form
from wcodec.infer.places import Task
from wcodec.opencl.device import Device, translating
from wcodec.opencl.platforms import import_pyopencl


@dataclass(frozen=True, eq=False)
class Region:
    """Part of a buffer: where it begins, in bytes, and a buffer of its own that shares its memory."""

    whole: Any
    offset: int
    part: Any


@dataclass(frozen=True)
class Scratch:
    """Local memory of so many bytes."""

    size: int


Given = Region | Scratch | np.generic | None
"""What a kernel is given for a parameter."""


@dataclass(eq=False)
class Call:
    """A kernel of wcodec/opencl/kernels, what it is given, and its work-items, in groups of `group` or as may be."""

    device: Device
    sources: tuple[str, ...]
    name: str
    defines: tuple[str, ...]
    arguments: tuple[Given, ...]
    size: tuple[int, ...]
    group: tuple[int, ...] | None
    what: str

    @cached_property
    def kernel(self) -> Any:
        """Built, with its arguments set."""
        kernel = self.device.kernel(self.name, self.sources, self.defines)
        with translating(f"kernel {self.name} of {self.what!r}"):
            kernel.set_args(*map(self._set, self.arguments))
        return kernel

    def _set(self, given: Given) -> Any:
        if isinstance(given, Region):
            return given.part
        return self.device.cl.LocalMemory(given.size) if isinstance(given, Scratch) else given


@dataclass(eq=False)
class Decoding:
    """A kernel that decodes a weight, and what must be kept for as long as it may run."""

    name: ClassVar[str] = "decode"
    kernel: Any
    size: tuple[int, ...]
    group: tuple[int, ...] | None
    held: list[Any]


@dataclass(frozen=True, eq=False)
class Step:
    """One kernel of a task."""

    task: Task
    form: Form
    call: Call | Decoding

    def enqueue(self, queue: Any) -> Any:
        """Begin to run it; the event of its end."""
        return import_pyopencl().enqueue_nd_range_kernel(queue, self.call.kernel, self.call.size, self.call.group)

"""What codes `rans` chunks for the host: an OpenCL device where there is one and the work is worth it, else NumPy."""

from __future__ import annotations

from typing import Protocol

from wcodec.coders.base import Frames
from wcodec.coders.rans import Rans

WORTH_A_DEVICE = 1 << 21
"""Elements of a model below which finding a device and building kernels takes longer than NumPy does."""


class Engine(Protocol):
    """The same bytes and symbols as the coder's own."""

    def encode(self, coder: Rans, frames: Frames) -> bytes:
        """See `Coder.encode`."""

    def decode(self, coder: Rans, payload: bytes | memoryview, out: Frames) -> None:
        """See `Coder.decode`."""


class HostEngine(Engine):
    """The coder itself."""

    def encode(self, coder: Rans, frames: Frames) -> bytes:
        return coder.encode(frames)

    def decode(self, coder: Rans, payload: bytes | memoryview, out: Frames) -> None:
        coder.decode(payload, out)


HOST = HostEngine()


def engine_for(elements: int) -> Engine:
    """The engine for a model of so many elements. Without OpenCL there is NumPy: nothing fails for want of a device."""
    if elements < WORTH_A_DEVICE:
        return HOST
    from wcodec.opencl.accelerate import accelerator

    return accelerator() or HOST

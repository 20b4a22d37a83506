"""Coding chunks of `rans` for the host on an OpenCL device: the same bytes and symbols as NumPy's, much faster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wcodec.coders.base import Frames
from wcodec.coders.rans import Rans
from wcodec.coders.rans.fit import fit
from wcodec.coders.rans.model import Model
from wcodec.coders.rans.payload import pack
from wcodec.coders.rans.words import Streams
from wcodec.errors import AllocationError, CoderError, CorruptFileError, DeviceError, MissingDependencyError
from wcodec.opencl.batch import BatchBuilder, SideBuilder
from wcodec.opencl.device import UNBROKEN, Device, translating
from wcodec.opencl.launch import Destination, Factors, Launcher

_TYPES = {"|i1": "char", "|u1": "uchar", "<i2": "short", "<u2": "ushort"}


class Accelerator:
    """Codes chunks on one device. Threads may share it: they prepare side by side and launch in turn."""

    def __init__(self, device: Device) -> None:
        self._device, self._launcher, self._lock = device, Launcher(device), Lock()
        self._process = os.getpid()
        self._failed = False
        self._rooms: dict[str, Any] = {}

    @property
    def usable(self) -> bool:
        """Not in a child that was forked, which has the runtime's memory but not its threads, nor after a failure."""
        return not self._failed and self._process == os.getpid()

    def encode(self, coder: Rans, frames: Frames) -> bytes:
        """What `coder.encode(frames)` gives, by it if the device fails."""
        coder.check_frames(frames, CoderError)
        if self.usable:
            with self._falling_back():
                return self._encode(coder, frames)
        return coder.encode(frames)

    def decode(self, coder: Rans, payload: bytes | memoryview, out: Frames) -> None:
        """What `coder.decode(payload, out)` does, by it if the device fails."""
        coder.check_frames(out, partial(CorruptFileError, "rans payload"))
        if self.usable:
            with self._falling_back():
                return self._decode(coder, payload, out)
        return coder.decode(payload, out)

    def encode_lanes(self, model: Model, symbols: NDArray[Any], coder: Rans) -> Streams:
        """The lanes of a chunk, symbols of shape (rows, row size), under a model; raises where the device fails."""
        lanes, device = coder.lanes(symbols), self._device
        room = 3 if model.low else 2
        starts = lanes.starts.astype(np.uint32)
        side, chunk = _encoder_side(model, symbols.shape[1] // coder.period)
        counts, states = np.empty((2, len(lanes)), np.uint32)
        with self._lock:
            inputs = [self._uploaded(part) for part in (symbols, side, chunk, starts)]
            words = self._room("words", 2 * (symbols.size * room + 1))
            outputs = [self._room(name, counts.nbytes) for name in ("counts", "states")]
            arguments = [inputs[0], np.uint32(symbols.shape[1]), *inputs[1:], *map(np.uint32, (len(lanes), room))]
            coded = self._launcher.encode(
                coder.period,
                model.coefficients is not None,
                _TYPES[symbols.dtype.str],
                len(lanes),
                [*arguments, words, *outputs],
                None,
            )
            with translating("reading coded lanes"):
                for part, output in zip((counts, states), outputs, strict=True):
                    device.cl.enqueue_copy(device.queue, part, output, wait_for=[coded])
            with self._mapped(words, symbols.size * room + 1) as written:
                ends = (lanes.starts[1:] * room + 1).tolist()
                taken = [written[end - count : end] for end, count in zip(ends, counts.tolist(), strict=True)]
                return Streams(states, counts.astype(np.int64), np.concatenate(taken))

    @contextmanager
    def _falling_back(self) -> Iterator[None]:
        try:
            yield
        except (DeviceError, AllocationError):
            self._failed = True

    def _encode(self, coder: Rans, frames: Frames) -> bytes:
        symbols = np.ascontiguousarray(frames).reshape(-1, frames.shape[2])
        model = fit(symbols, coder.period)
        return pack(model, self.encode_lanes(model, symbols, coder))

    def _decode(self, coder: Rans, payload: bytes | memoryview, out: Frames) -> None:
        device, ends = self._device, np.iinfo(out.dtype)
        builder = BatchBuilder(coder, out.shape[2], device.lanes)
        builder.add(payload, out.size // out.shape[2], 0)
        batch = builder.finish()
        with self._lock:
            source, symbols = self._uploaded(batch.blob), device.buffer(out.nbytes, "symbols")
            to = Destination(
                symbols, f"i{8 * out.itemsize}", None, 1, 1, out.shape[2], low=int(ends.min), high=int(ends.max)
            )
            status = device.status()
            decoded = self._launcher.decode(coder, batch, (source, None), Factors(source, 0, 0, 0, 1), to, status)
            with translating("reading symbols"):
                device.cl.enqueue_copy(device.queue, out.view(np.uint8), symbols, wait_for=[decoded])
            broken = device.read_status(status)
        if broken != UNBROKEN:
            raise CorruptFileError(
                "rans payload", f"lane {batch.owner(broken)[1]} does not decode to symbols of its tensor"
            )

    def _room(self, name: str, size: int) -> Any:
        """Memory that a kernel writes, the same for every chunk: fresh pages cost more than what is done with them."""
        if name not in self._rooms or self._rooms[name].size < size:
            self._rooms[name] = self._device.buffer(size, f"coded {name}", pinned=True)
        return self._rooms[name]

    @contextmanager
    def _mapped(self, buffer: Any, count: int) -> Iterator[NDArray[np.uint16]]:
        """The first words of a buffer, copied only where the host cannot reach them."""
        cl, queue = self._device.cl, self._device.queue
        with translating("reading coded lanes"):
            words, _ = cl.enqueue_map_buffer(queue, buffer, cl.map_flags.READ, 0, (count,), np.uint16)
        try:
            yield words
        finally:
            words.base.release(queue)

    def _uploaded(self, array: NDArray[Any]) -> Any:
        flags = self._device.cl.mem_flags.READ_ONLY | self._device.cl.mem_flags.COPY_HOST_PTR
        with translating("uploading"):
            return self._device.cl.Buffer(self._device.context, flags, hostbuf=array)


def _encoder_side(model: Model, columns: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """What kernels/rans_encode.cl calls `side` and `chunk`."""
    side, tables = SideBuilder(), model.tables()
    frequencies = np.concatenate([table.frequencies for table in tables])
    fields = [
        side.put(np.stack([frequencies, np.cumsum(frequencies, dtype=np.int64) - frequencies], axis=1)),
        side.put(np.concatenate([table.slots for table in tables])),
        *side.put_model(model, columns),
    ]
    return np.concatenate(side.parts), np.array(fields, np.int32)


@cache
def accelerator() -> Accelerator | None:
    """The accelerator on the first device that works, or None where there is no OpenCL or no such device."""
    with suppress(MissingDependencyError, DeviceError):
        return Accelerator(Device.open())
    return None

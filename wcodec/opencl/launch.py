"""Launching the kernels that decode `rans` and that unpack what other coders decode to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from wcodec.coders.rans import Rans
from wcodec.model import DTYPES
from wcodec.opencl.batch import Batch
from wcodec.opencl.device import Device, translating
from wcodec.opencl.layout import KERNEL_FIELDS
from wcodec.tiling import Grid

_SOURCES = {"|i1": "SRC_S8", "|u1": "SRC_U8", "<i2": "SRC_S16", "<u2": "SRC_U16", "<f2": "SRC_F16", "<f4": "SRC_F32"}
_DESTINATIONS = {"f16": "DST_F16", "f32": "DST_F32"}
_FRAMES = np.dtype([("fields", "<u4", (4,))])

_ENCODED_AT_ONCE = 4
"""Lanes that a work-item of a CPU encodes: as many as its registers hold the states of."""

NO_LAYOUT = np.zeros(1, KERNEL_FIELDS)[0]

Source = tuple[Any, Any]
"""A buffer, and the event from which on it holds what it should."""


@dataclass(frozen=True)
class Factors:
    """Scales, zero points, and which of them a row and a place within it have, in one buffer; places count u32."""

    buffer: Any
    zeros_at: int
    lead_at: int
    trail_at: int
    trails: int

    def arguments(self) -> list[Any]:
        return [self.buffer, *map(np.uint32, (self.zeros_at, self.lead_at, self.trail_at, self.trails))]


@dataclass(frozen=True)
class Destination:
    """Where numbers go. `layout` is the kernels' struct, None for C order; `low` and `high` are the ends of symbols."""

    buffer: Any
    dtype: str
    layout: np.void | None
    columns: int
    positions: int
    row_size: int
    low: int
    high: int

    def __post_init__(self) -> None:
        assert self.positions > 0
        assert self.columns > 0


class Launcher:
    """Kernels of one device, each built when it is first needed. For one thread at a time."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._kernels: dict[tuple[str, ...], Any] = {}

    def decode(self, coder: Rans, batch: Batch, source: Source, factors: Factors, to: Destination, status: Any) -> Any:
        """Decode a batch: to numbers where the destination is of floats, to symbols where it is of integers.

        Returns the event of its end. `status` gets the least number of a damaged lane, counted over all groups.
        """
        kernel, arguments, size = self.decoder(coder, batch, source[0], factors, to, status)
        return self.run(kernel, arguments, source[1], size, self.one_by_one)

    def decoder(
        self, coder: Rans, batch: Batch, blob: Any, factors: Factors, to: Destination, status: Any
    ) -> tuple[Any, list[Any], int]:
        """The kernel that decodes a batch, its arguments and how many work-items it takes."""
        defines = [f"LANES={self.device.lanes}", f"PERIOD={coder.period}"]
        defines += ["PREDICTED"] * batch.predicted + ["PHASES"] * batch.phases + ["LOW"] * batch.low
        if to.dtype in _DESTINATIONS:
            defines += [_DESTINATIONS[to.dtype]] + ["TRAIL"] * (factors.trails > 1)
            defines += ["PACKED"] * (to.layout is not None)
        else:
            defines.append(f"DST_{8 * DTYPES[to.dtype].itemsize}")
        places = (batch.groups_at, batch.chunks_at, batch.words_at, batch.words)
        arguments = [blob, *map(np.uint32, places), *factors.arguments(), to.buffer]
        arguments += [NO_LAYOUT if to.layout is None else to.layout]
        arguments += [np.uint32(to.row_size), np.int32(to.low), np.int32(to.high), status]
        kernel = self._kernel("decode", ("lanes.cl", "store.cl", "rans_decode.cl"), defines)
        return kernel, arguments, batch.groups

    def unpack(
        self,
        kind: np.dtype[Any],
        grid: Grid | None,
        lossy: bool,
        rows: tuple[int, int],
        source: Source,
        factors: Factors | None,
        to: Destination,
        status: Any,
    ) -> Any:
        """Place the numbers of rows [start, stop), whose symbols or floats of dtype `kind` lie in frames.

        `grid` is None where frames are rows, `factors` where elements are kept. Returns the event of its end. `status`
        gets the least place of a symbol out of range, unless that may be, after a lossy coder.
        """
        elements = (rows[1] - rows[0]) * to.row_size
        defines = [_SOURCES.get(kind.str, "SRC_BF16"), _DESTINATIONS[to.dtype]]
        defines += ["GRID"] * (grid is not None) + ["LOSSY"] * lossy + ["PACKED"] * (to.layout is not None)
        defines += ["TRAIL"] * (factors is not None and factors.trails > 1)
        sides = (1, 1, 1, 1) if grid is None else (grid.line, grid.height, grid.width, -(-grid.line // grid.width))
        arguments = [source[0], *map(np.uint32, (elements, rows[0], to.row_size)), np.array([(sides,)], _FRAMES)[0]]
        arguments += (factors or Factors(source[0], 0, 0, 0, 1)).arguments()
        arguments += [to.buffer, NO_LAYOUT if to.layout is None else to.layout]
        arguments += [np.uint32(to.columns), np.uint32(to.positions), np.int32(to.low), np.int32(to.high), status]
        kernel = self._kernel("unpack", ("store.cl", "unpack.cl"), defines)
        return self.run(kernel, arguments, source[1], -(-elements // 16), None)

    def encode(self, period: int, predicted: bool, kind: str, lanes: int, arguments: list[Any], ready: Any) -> Any:
        """Encode lanes of symbols of the C type `kind`; the arguments are those of kernels/rans_encode.cl."""
        at_once = _ENCODED_AT_ONCE if self.device.is_cpu else 1
        defines = [f"PERIOD={period}", f"SOURCE={kind}", f"AT_ONCE={at_once}", *["PREDICTED"] * predicted]
        kernel = self._kernel("encode", ("rans_encode.cl",), defines)
        return self.run(kernel, arguments, ready, -(-lanes // at_once), self.one_by_one)

    @property
    def one_by_one(self) -> tuple[int, ...] | None:
        """The size of work-groups where each work-item is long: on a CPU one, so that cores share them evenly."""
        return (1,) if self.device.is_cpu else None

    def run(self, kernel: Any, arguments: list[Any], ready: Any, size: int, local: tuple[int, ...] | None) -> Any:
        with translating(f"running kernel {kernel.function_name}"):
            kernel.set_args(*arguments)
            event = self.device.cl.enqueue_nd_range_kernel(
                self.device.queue, kernel, (size,), local, wait_for=[ready] if ready is not None else None
            )
            self.device.queue.flush()
        self.device.keep_until(event, arguments)
        return event

    def _kernel(self, name: str, sources: tuple[str, ...], defines: list[str]) -> Any:
        key = (name, *defines)
        if key not in self._kernels:
            self._kernels[key] = self.device.kernel(name, sources, tuple(defines))
        return self._kernels[key]

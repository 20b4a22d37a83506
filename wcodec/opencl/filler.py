"""One tensor of an archive into its place on a device: which kernels its chunks take."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

from wcodec.archived import ArchivedTensor, Piece
from wcodec.coders.rans import Rans
from wcodec.errors import CorruptFileError
from wcodec.model import DTYPES, FLOATS
from wcodec.opencl.batch import Batch
from wcodec.opencl.device import translating
from wcodec.opencl.launch import Destination, Factors, Launcher, Source
from wcodec.opencl.tensors import DeviceTensor, make_factors
from wcodec.tiling import Grid


class Filler:
    """Fills a target from the chunks of an archive's tensor."""

    def __init__(
        self, tensor: ArchivedTensor, target: DeviceTensor, launcher: Launcher, factors: Factors | None = None
    ) -> None:
        """`factors` are the tensor's, if they are on the device already."""
        self._tensor, self._launcher, self._scaling = tensor, launcher, target.scaling
        if factors is not None:
            self.factors = factors
        coder, rows = tensor.recipe.coder, tensor.rows
        if isinstance(coder, Rans) and (isinstance(tensor.recipe.tiling, Grid) or rows.size % coder.period):
            where = tensor.container.place(f"tensor {tensor.entry.name!r}")
            raise CorruptFileError(where, f"recipe: kernels of {coder.period} do not fill its rows")
        low, high = tensor.codec.symbol_range()
        self._to = Destination(
            target.buffer,
            target.dtype,
            None if target.layout is None else target.layout.kernel_argument(tensor.shape),
            columns=max(1, tensor.shape[1] if len(tensor.shape) > 1 else 1),
            positions=max(1, math.prod(tensor.shape[2:])),
            row_size=rows.size,
            low=low,
            high=high,
        )

    @property
    def converts(self) -> bool:
        """Whether the device makes the numbers: of all but kept integers."""
        return self._tensor.dtype in FLOATS

    @property
    def _direct(self) -> bool:
        """Whether lanes are decoded to where they belong: not if their kernels are not those of the layout."""
        if self._to.layout is None:
            return True
        coder = self._tensor.recipe.coder
        assert isinstance(coder, Rans)
        return self._tensor.rows.axes == 1 and coder.period == self._to.positions

    def row_in_batch(self, piece: Piece, start: int) -> int:
        """What a chunk's first row is to kernels, in a batch whose first row is `start`."""
        return piece.start if self._direct else piece.start - start

    @property
    def is_direct(self) -> bool:
        """Whether a tensor's lanes are decoded to where they belong by one kernel."""
        return isinstance(self._tensor.recipe.coder, Rans) and self._direct

    def expansion(self, batch: Batch, blob: Any, status: Any) -> tuple[Any, list[Any], int]:
        """The kernel that decodes a batch of all rows, which lies on the device, with its arguments and its size.

        Only for tensors that are `is_direct`. It can be launched any number of times.
        """
        coder = self._tensor.recipe.coder
        assert isinstance(coder, Rans)
        return self._launcher.decoder(coder, batch, blob, self.factors, self._to, status)

    def decode(self, batch: Batch, source: Source, rows: tuple[int, int], status: Any) -> Any:
        """Decode a batch of rows [start, stop); the event of its end."""
        coder, to = self._tensor.recipe.coder, self._to
        assert isinstance(coder, Rans)
        if self._direct:
            return self._launcher.decode(coder, batch, source, self.factors, to, status)
        kind = self._tensor.codec.symbol_dtype
        size = (rows[1] - rows[0]) * to.row_size * kind.itemsize
        symbols = self._launcher.device.buffer(size, f"symbols of {self._tensor.name!r}")
        plain = Destination(
            symbols, "i8" if kind.itemsize == 1 else "i16", None, 1, 1, to.row_size, low=to.low, high=to.high
        )
        decoded = self._launcher.decode(coder, batch, source, self.factors, plain, status)
        # a lane's number would be taken for a place: what the first kernel finds is not found again
        unheard = self._launcher.device.status()
        return self._launcher.unpack(kind, None, True, rows, (symbols, decoded), self.factors, to, unheard)

    def unpack(self, source: Source, piece: Piece, kind: np.dtype[Any], status: Any) -> Any:
        """Place the numbers of a chunk whose frames, of dtype `kind`, are in `source`; the event of its end."""
        recipe = self._tensor.recipe
        grid = recipe.tiling if isinstance(recipe.tiling, Grid) else None
        factors = None if self._tensor.codec.scales is None else self.factors
        rows = piece.start, piece.stop
        return self._launcher.unpack(kind, grid, not recipe.coder.lossless, rows, source, factors, self._to, status)

    def copy(self, source: Source, piece: Piece) -> Any:
        """Copy the elements of a chunk, as they are in `source`; the event of its end."""
        row_bytes = self._to.row_size * DTYPES[self._to.dtype].itemsize
        device = self._launcher.device
        with translating(f"copying {self._tensor.name!r}"):
            return device.cl.enqueue_copy(
                device.queue,
                self._to.buffer,
                source[0],
                wait_for=[source[1]],
                byte_count=piece.chunk.rows * row_bytes,
                dst_offset=piece.start * row_bytes,
            )

    @cached_property
    def factors(self) -> Factors:
        return make_factors(self._tensor, self._launcher.device, self._scaling)

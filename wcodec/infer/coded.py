"""Weights that stay coded on the device, and are decoded just before they are used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from wcodec.archived import ArchivedTensor
from wcodec.coders.rans import Rans
from wcodec.errors import CorruptFileError
from wcodec.formats.container import chunk_place
from wcodec.infer.places import Place
from wcodec.model import FLOATS
from wcodec.opencl.batch import Batch, BatchBuilder
from wcodec.opencl.device import UNBROKEN, Device, translating
from wcodec.opencl.filler import Filler
from wcodec.opencl.launch import Factors, Launcher
from wcodec.opencl.layout import PackedLayout
from wcodec.opencl.tensors import DeviceTensor, Scaling


@dataclass(frozen=True)
class Coded:
    """A tensor's payloads on the device. `place` is where it is decoded to."""

    place: Place
    nbytes: int
    _tensor: ArchivedTensor
    _like: DeviceTensor
    _batch: Batch
    _blob: Any
    _factors: Factors

    @classmethod
    def of(
        cls, tensor: ArchivedTensor, device: Device, dtype: str, layout: PackedLayout, scaling: Scaling
    ) -> Coded | None:
        """Upload the payloads of a tensor coded by `rans`; None for others, and where its rows are not the layout's."""
        coder = tensor.recipe.coder
        like = DeviceTensor(tensor.name, dtype, tensor.shape, layout, None, device, scaling)
        if not isinstance(coder, Rans) or tensor.dtype not in FLOATS or len(tensor.shape) < 2 or not tensor.size:
            return None
        filler = Filler(tensor, like, Launcher(device))
        if not filler.is_direct:
            return None
        builder = BatchBuilder(coder, tensor.rows.size, device.lanes)
        for piece in tensor.pieces:
            with tensor.reading(piece) as payload:
                builder.add(payload, piece.chunk.rows, piece.start)
        batch = builder.finish()
        blob = device.buffer(batch.blob.nbytes, f"payloads of {tensor.name!r}")
        with translating(f"uploading payloads of {tensor.name!r}"):
            device.cl.enqueue_copy(device.transfers, blob, batch.blob)
        size, batch.blob = batch.blob.nbytes, np.empty(0, np.uint32)
        place = Place(f"decoded:{tensor.name}", (math.prod(like.stored_shape),), "f32" if dtype == "f32" else "f16")
        return cls(place, size + filler.factors.buffer.size, tensor, like, batch, blob, filler.factors)

    def decoder(self, buffer: Any) -> tuple[Any, tuple[int, ...], list[Any]]:
        """A kernel that decodes into a buffer, its size, and what must be kept for as long as it may run.

        It is run once. `CorruptFileError` where payloads do not decode to symbols of their tensor.
        """
        device = self._like.device
        target = DeviceTensor(
            self._like.name, self._like.dtype, self._like.shape, self._like.layout, buffer, device, self._like.scaling
        )
        filler = Filler(self._tensor, target, Launcher(device), self._factors)
        status = device.status()
        kernel, arguments, size = filler.expansion(self._batch, self._blob, status)
        with translating(f"decoding {self._tensor.name!r}"):
            kernel.set_args(*arguments)
            device.cl.enqueue_nd_range_kernel(device.queue, kernel, (size,), (1,) if device.is_cpu else None).wait()
        found = device.read_status(status)
        if found != UNBROKEN:
            chunk, lane = self._batch.owner(found)
            where = self._tensor.container.place(chunk_place(self._tensor.entry.name, chunk))
            raise CorruptFileError(where, f"rans payload: lane {lane} does not decode to symbols of its tensor")
        return kernel, (size,), arguments

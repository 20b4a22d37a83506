"""Tensors in a device's memory, and what their numbers are made with there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from wcodec.archived import ArchivedTensor
from wcodec.errors import MismatchError
from wcodec.model import DTYPES, FLOATS, Array
from wcodec.opencl.device import Device, translating
from wcodec.opencl.launch import Factors
from wcodec.opencl.layout import PackedLayout
from wcodec.scales import block_grid, lead_index, lead_view

Scaling = Literal["whole", "powers", "none"]


@dataclass(frozen=True, eq=False)
class DeviceTensor:
    """A tensor in a buffer of pyopencl's, `buffer`, which `device.context` owns.

    The buffer holds elements of `dtype`, wcodec's name of one, in C order of `shape`, or as `layout` says. Where
    `scaling` is not "whole", what is quantized is symbols times only the powers of two that `split_scales` gives, or
    symbols less zero points.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    layout: PackedLayout | None
    buffer: Any
    device: Device
    scaling: Scaling = "whole"

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of the array that the buffer holds."""
        return self.shape if self.layout is None else self.layout.packed_shape(self.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.stored_shape) * DTYPES[self.dtype].itemsize

    def array(self) -> Array:
        """A copy on the host, in the tensor's own shape and order."""
        stored = np.empty(self.stored_shape, DTYPES[self.dtype])
        if stored.size:
            with translating(f"reading {self.name!r} back"):
                self.device.cl.enqueue_copy(self.device.queue, stored.reshape(-1).view(np.uint8), self.buffer)
        return stored if self.layout is None else self.layout.unpack(stored, self.shape)


def make_tensor(
    like: ArchivedTensor, device: Device, dtype: str, layout: PackedLayout | None, scaling: Scaling = "whole"
) -> DeviceTensor:
    """An unfilled tensor for an archive's: floats as `dtype`, of two or more axes in `layout`; others as they are."""
    own = like.dtype in FLOATS
    packed = layout if own and len(like.shape) > 1 else None
    made = DeviceTensor(like.name, dtype if own else like.dtype, like.shape, packed, None, device)
    buffer = device.buffer(made.nbytes, f"tensor {like.name!r}")
    if packed is not None and math.prod(made.stored_shape) > like.size:
        with translating(f"clearing {like.name!r}"):
            device.cl.enqueue_fill_buffer(device.queue, buffer, np.uint8(0), 0, made.nbytes).wait()
    return DeviceTensor(like.name, made.dtype, like.shape, packed, buffer, device, scaling)


def check_target(like: ArchivedTensor, given: object, device: Device) -> DeviceTensor:
    """A tensor of the caller's that an archive's fits into; `MismatchError` if it does not."""
    if not isinstance(given, DeviceTensor):
        raise MismatchError(f"tensor {like.name!r}: a {type(given).__name__} is no tensor on an OpenCL device")
    dtypes = ("f16", "f32") if like.dtype in FLOATS else (like.dtype,)
    if given.device is not device or given.shape != like.shape or given.dtype not in dtypes:
        raise MismatchError(
            f"tensor {like.name!r} is {like.dtype} of shape {like.shape}, to be decoded on {device!r}, "
            f"not {given.dtype} of shape {given.shape} on {given.device!r}"
        )
    if given.layout is not None and like.dtype not in FLOATS:
        raise MismatchError(f"tensor {like.name!r}: {like.dtype} lies in C order, not in {given.layout}")
    if not isinstance(given.buffer, device.cl.Buffer) or given.buffer.size < given.nbytes:
        raise MismatchError(f"tensor {like.name!r}: its buffer does not hold {given.nbytes:,} bytes")
    return given


def split_scales(scales: Array) -> tuple[Array, Array]:
    """Scales, f32, as powers of two and what is left, nearly always from 1 to 2.

    Symbols of up to 11 bits times a power of two are halves without rounding: from 2**-24 on, as subnormals have it,
    to what the largest symbol still has room for.
    """
    _, exponents = np.frexp(scales)
    powers = np.ldexp(np.float32(1), np.clip(exponents - 1, -24, 4))
    return powers, scales / powers


def make_factors(tensor: ArchivedTensor, device: Device, scaling: Scaling = "whole") -> Factors:
    """The factors of a tensor, of which one that is not quantized has none: all of them, or what `scaling` says."""
    scales, rows = tensor.codec.scales, tensor.rows
    zeros, lead, trail, trails = None, np.zeros(1, np.int32), np.zeros(1, np.int32), 1
    if scales is None:
        numbers = np.ones(1, np.float32)
    else:
        numbers = finite_scales(lead_view(scales.scale, rows).reshape(-1))
        if scaling != "whole":
            numbers = split_scales(numbers)[0] if scaling == "powers" else np.ones_like(numbers)
        if scales.zero_point is not None:
            zeros = scales.zero_point.astype(np.float32, copy=False).reshape(-1)
        lead = lead_index(rows, scales.block, 0, rows.count).astype(np.int32)
        inner = scales.block[rows.axes :]
        grid = block_grid(rows.trail, inner)
        trails = math.prod(grid)
        if trails > 1:
            places = np.indices(rows.trail, sparse=True)
            blocks = tuple(place // block if block else 0 * place for place, block in zip(places, inner, strict=True))
            trail = np.ravel_multi_index(np.broadcast_arrays(*blocks), grid).astype(np.int32).reshape(-1)
    # one after the other, so that the host holds no copy of them all
    lengths = [len(numbers), len(numbers), len(lead), len(trail)]
    starts = np.cumsum([0, *lengths]).tolist()
    buffer = device.buffer(4 * starts[-1], f"scales of {tensor.name!r}")
    with translating(f"uploading scales of {tensor.name!r}"):
        if zeros is None:
            device.cl.enqueue_fill_buffer(device.queue, buffer, np.uint8(0), 4 * starts[1], 4 * len(numbers)).wait()
        for start, part in zip(starts, (numbers, zeros, lead, trail), strict=False):
            if part is not None:
                device.cl.enqueue_copy(device.queue, buffer, part, dst_offset=4 * start)
    return Factors(buffer, starts[1], starts[2], starts[3], trails)


def finite_scales(scales: Array) -> Array:
    """Scales as f32, those beyond its range as its ends: a zero times infinity would be no number."""
    if scales.dtype.itemsize <= 4:
        return scales.astype(np.float32, copy=False)
    largest = np.finfo(np.float32).max
    return np.clip(scales, -largest, largest).astype(np.float32)

"""Constants on a device, packed as kernels want them, each once however many plans share it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from wcodec.archived import ArchivedTensor
from wcodec.infer.forms.launch import Packing, Weight
from wcodec.infer.graph import Constant, Stored
from wcodec.infer.lowering.source import OnnxSource
from wcodec.infer.places import BLOCK, Place, Storage, blocks_of
from wcodec.model import Array
from wcodec.opencl.device import Device, translating
from wcodec.opencl.layout import PackedLayout
from wcodec.opencl.loading import load_onto
from wcodec.opencl.tensors import finite_scales, split_scales
from wcodec.scales import Keep, Uniform

_LAYOUTS: dict[Packing, PackedLayout] = {"rows": PackedLayout(BLOCK), "swapped": PackedLayout(BLOCK, swapped=True)}

_DTYPES: dict[Storage, Any] = {"f16": np.float16, "f32": np.float32}

_EXACT_BITS = 11
"""Bits of symbols that halves hold."""

_SMALL = 1 << 16
"""Numbers of a tensor that is stored as it is, up to which they are not rounded to halves either."""


class Weights:
    """The constants of one model on one device.

    Halves hold a quantized tensor's symbols exactly, but for powers of two, where its scales are those of output
    channels: what these leave is the layer's to multiply sums by.
    """

    def __init__(self, source: OnnxSource, device: Device) -> None:
        self._source, self._device = source, device
        self._buffers: dict[Weight, Any] = {}
        self._wide: set[Weight] = set()
        self._values: dict[tuple[str, bool], Any] = {}
        self.nbytes = 0

    def add(self, wanted: Iterable[Weight], constants: Mapping[str, Constant], storage: Storage) -> None:
        """Bring constants to the device that are not there yet; tensors of the archive are decoded there.

        `storage` is what large weights are stored as.
        """
        missing = [weight for weight in dict.fromkeys(wanted) if weight not in self._buffers]
        together: dict[tuple[Packing, bool, bool], dict[Weight, ArchivedTensor]] = {}
        for weight in missing:
            if weight.packing in _LAYOUTS and (storage == "f32" or self._is_precious(weight, constants)):
                self._wide.add(weight)
            tensor = self._stored(weight, constants)
            if tensor is not None:
                kind = weight.packing, weight in self._wide, self._left(weight, constants) is None
                together.setdefault(kind, {})[weight] = tensor
        for kind, tensors in together.items():
            self._load(*kind, tensors)
        for weight in missing:
            if weight not in self._buffers:
                array = self._packed(weight, constants)
                self._buffers[weight] = self._uploaded(array, weight.constant or weight.packing)

    def is_wide(self, weight: Weight) -> bool:
        """Whether a weight lies there as f32."""
        return weight in self._wide

    def add_value(self, place: Place, constant: Constant) -> None:
        """Bring a constant to the device that kernels read as they do values."""
        if self.holds(place):
            return
        array = self._array(constant).astype(_DTYPES[place.storage]).reshape(place.shape)
        if place.blocks:
            n, channels, *size = place.shape
            whole = np.zeros((n, blocks_of(channels) * BLOCK, *size), array.dtype)
            whole[:, :channels] = array
            array = np.moveaxis(whole.reshape(n, -1, BLOCK, *size), 2, -1)
        # runs of 16 may begin at the last number
        padded = np.zeros(array.size + BLOCK, array.dtype)
        padded[: array.size] = array.reshape(-1)
        self._values[place.memory, place.blocks] = self._uploaded(padded, place.memory)

    def buffer(self, weight: Weight) -> Any:
        return self._buffers[weight]

    def value(self, place: Place) -> Any:
        return self._values[place.memory, place.blocks]

    def holds(self, place: Place) -> bool:
        return (place.memory, place.blocks) in self._values

    def _stored(self, weight: Weight, constants: Mapping[str, Constant]) -> ArchivedTensor | None:
        """The archive's tensor that is decoded into a weight's place, where that is all it takes."""
        constant = constants.get(weight.constant)
        if weight.packing not in _LAYOUTS or weight.length or not isinstance(constant, Stored):
            return None
        return self._source.archive.tensor(constant.tensor)

    def _is_precious(self, weight: Weight, constants: Mapping[str, Constant]) -> bool:
        """Whether a weight is small, and not quantized: then f32 costs nothing."""
        constant = constants[weight.constant]
        if math.prod(constant.shape) > _SMALL:
            return False
        return not isinstance(constant, Stored) or isinstance(
            self._source.archive.tensor(constant.tensor).recipe.quantizer, Keep
        )

    def _left(self, weight: Weight, constants: Mapping[str, Constant]) -> Array | None:
        """What a weight's output channels are short of, f32, one number or one a channel; None if that is nothing."""
        tensor = None if weight in self._wide else self._stored(weight, constants)
        if tensor is None or not isinstance(quantizer := tensor.recipe.quantizer, Uniform):
            return None
        channels = 1 if weight.packing == "swapped" else 0
        others = (length for axis, length in enumerate(quantizer.block) if axis != channels)
        if quantizer.bits > _EXACT_BITS or any(others) or quantizer.block[channels] not in (0, 1):
            return None
        scales = tensor.codec.scales
        return None if scales is None else split_scales(finite_scales(scales.scale.reshape(-1)))[1]

    def _load(self, packing: Packing, wide: bool, rounds: bool, tensors: Mapping[Weight, ArchivedTensor]) -> None:
        wanted = list({tensor.name: tensor for tensor in tensors.values()}.values())
        dtype, layout = "f32" if wide else "f16", _LAYOUTS[packing]
        loaded = load_onto(self._device, dtype, layout, self._source.archive, wanted, None, None, rounds=rounds)
        self.nbytes += sum({id(tensor.buffer): tensor.nbytes for tensor in loaded.values()}.values())
        for weight, tensor in tensors.items():
            self._buffers[weight] = loaded[tensor.name].buffer

    def _array(self, constant: Constant) -> Array:
        return self._source.read(constant.tensor) if isinstance(constant, Stored) else constant

    def _packed(self, weight: Weight, constants: Mapping[str, Constant]) -> Array:
        """A constant as it lies on the device, from the host's memory."""
        if weight.packing in _LAYOUTS:
            array, packing = self._array(constants[weight.constant]), weight.packing
            if weight.length:
                array, packing = _by_outputs(array, weight.length), "rows"
            return _LAYOUTS[packing].pack(array).astype(np.float32 if weight in self._wide else np.float16)
        filled = np.full(blocks_of(weight.length) * BLOCK, weight.packing == "scale", np.float32)
        if weight.constant:
            filled[: weight.length] = self._array(constants[weight.constant]).reshape(-1)
        if weight.matrix is not None:
            left = self._left(weight.matrix, constants)
            if left is not None:
                filled[: weight.length] *= left
        return filled

    def _uploaded(self, array: Array, name: str) -> Any:
        buffer = self._device.buffer(array.nbytes, f"constant {name!r}")
        with translating(f"uploading {name!r}"):
            self._device.cl.enqueue_copy(self._device.transfers, buffer, np.ascontiguousarray(array))
        self.nbytes += array.nbytes
        return buffer


def _by_outputs(array: Array, groups: int) -> Array:
    """A transposed convolution's weight (C, K / groups, ...) as (K, C / groups, ...)."""
    channels, outputs, *kernel = array.shape
    parted = array.reshape(groups, channels // groups, outputs, *kernel).swapaxes(1, 2)
    return np.ascontiguousarray(parted.reshape(groups * outputs, channels // groups, *kernel))

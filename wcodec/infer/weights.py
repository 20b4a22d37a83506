"""Constants on a device, packed as kernels want them, each once however many plans share it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from wcodec.archived import ArchivedTensor
from wcodec.infer.coded import Coded
from wcodec.infer.forms.launch import Packing, Weight
from wcodec.infer.forms.winograd import WINOGRAD_PLACES
from wcodec.infer.graph import Constant, Stored
from wcodec.infer.lowering.source import OnnxSource
from wcodec.infer.places import BLOCK, IN_BLOCKS, Place, Storage, blocks_of
from wcodec.model import Array
from wcodec.opencl.device import Device, translating
from wcodec.opencl.layout import PackedLayout
from wcodec.opencl.loading import load_onto
from wcodec.opencl.tensors import DeviceTensor, Scaling, finite_scales, split_scales
from wcodec.scales import Keep, Uniform

Resident = Literal["packed", "int8", "coded"]

_LAYOUTS: dict[Packing, PackedLayout] = {"rows": PackedLayout(BLOCK), "swapped": PackedLayout(BLOCK, swapped=True)}

_EXACT_BITS = 11
"""Bits of symbols that halves hold."""

_SMALL = 1 << 16
"""Numbers of a tensor that is stored as it is, up to which they are not rounded to halves either."""


class Weights:
    """The constants of one model on one device.

    Halves hold a quantized tensor's symbols exactly, but for powers of two, where its scales are those of output
    channels: what these leave is the layer's to multiply sums by. `resident` says what else tensors of that kind are
    kept as: "int8", symbols of up to 8 bits as bytes; "coded", payloads of `rans`, decoded anew for every run.
    """

    def __init__(self, source: OnnxSource, device: Device, resident: Resident) -> None:
        self._source, self._device, self._resident = source, device, resident
        self._buffers: dict[Weight, Any] = {}
        self._kinds: dict[Weight, str] = {}
        self._coded: dict[Weight, Coded] = {}
        self._values: dict[tuple[str, bool], Any] = {}
        self.nbytes = 0

    def add(self, wanted: Iterable[Weight], constants: Mapping[str, Constant], storage: Storage) -> None:
        """Bring constants to the device that are not there yet; tensors of the archive are decoded there.

        `storage` is what large weights are stored as.
        """
        missing = [weight for weight in dict.fromkeys(wanted) if weight not in self._kinds]
        together: dict[tuple[Packing, str, Scaling], dict[Weight, ArchivedTensor]] = {}
        for weight in missing:
            self._kinds[weight] = self._kind(weight, constants, storage)
            tensor = self._stored(weight, constants)
            if tensor is not None:
                kind = weight.packing, self._kinds[weight], self._scaling(weight, constants)
                together.setdefault(kind, {})[weight] = tensor
        for kind, tensors in together.items():
            self._load(*kind, tensors)
        for weight in sorted(missing, key=lambda weight: weight.packing == "winograd"):
            if weight.packing == "winograd":
                self._buffers[weight] = self._transformed(weight, constants)
            elif weight not in self._buffers and weight not in self._coded:
                array = self._packed(weight, constants)
                self._buffers[weight] = self._uploaded(array, weight.constant or weight.packing)

    def add_value(self, place: Place, constant: Constant) -> None:
        """Bring a constant to the device that kernels read as they do values."""
        if self.holds(place):
            return
        array = self._source.numbers(constant).astype(place.dtype).reshape(place.shape)
        if place.blocks:
            array = IN_BLOCKS.pack(array)
        # runs of 16 may begin at the last number
        padded = np.zeros(array.size + BLOCK, array.dtype)
        padded[: array.size] = array.reshape(-1)
        self._values[place.memory, place.blocks] = self._uploaded(padded, place.memory)

    def kind(self, weight: Weight) -> str:
        """What a weight is stored as: f16, f32 or i8."""
        return self._kinds[weight]

    def buffer(self, weight: Weight) -> Any:
        return self._buffers[weight]

    def coded(self, weight: Weight) -> Coded | None:
        """What decodes a weight before it is used, if it lies there as payloads."""
        return self._coded.get(weight)

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

    def _kind(self, weight: Weight, constants: Mapping[str, Constant], storage: Storage) -> str:
        """What a weight is to be stored as."""
        if weight.packing not in _LAYOUTS:
            return "f32"  # vectors, and what is transformed
        tensor = self._stored(weight, constants)
        if tensor is not None and self._resident == "int8" and self._has_bytes(weight, tensor):
            return "i8"
        if math.prod(constants[weight.constant].shape) > _SMALL:
            return storage
        return "f32" if tensor is None or isinstance(tensor.recipe.quantizer, Keep) else storage

    def _has_bytes(self, weight: Weight, tensor: ArchivedTensor) -> bool:
        quantizer = tensor.recipe.quantizer
        whole = isinstance(quantizer, Uniform) and quantizer.symmetric and quantizer.bits <= 8
        return whole and _is_by_channel(weight, tensor)

    def _scaling(self, weight: Weight, constants: Mapping[str, Constant]) -> Scaling:
        """What of a weight's scales is in its numbers."""
        tensor, kind = self._stored(weight, constants), self._kinds.get(weight)
        if kind == "i8":
            return "none"
        exact = tensor is not None and kind == "f16" and _is_by_channel(weight, tensor)
        return "powers" if exact else "whole"

    def _left(self, weight: Weight, constants: Mapping[str, Constant]) -> Array | None:
        """What a weight's output channels are short of, f32, one number or one a channel; None if that is nothing."""
        scaling, tensor = self._scaling(weight, constants), self._stored(weight, constants)
        scales = None if tensor is None or scaling == "whole" else tensor.codec.scales
        if scales is None:
            return None
        each = finite_scales(scales.scale.reshape(-1))
        return each if scaling == "none" else split_scales(each)[1]

    def _load(self, packing: Packing, kind: str, scaling: Scaling, tensors: Mapping[Weight, ArchivedTensor]) -> None:
        archive, layout = self._source.archive, _LAYOUTS[packing]
        dtype = "f32" if kind == "f32" else "f16"
        plain = dict(tensors)
        if self._resident == "coded":
            for weight, tensor in tensors.items():
                coded = Coded.of(tensor, self._device, dtype, layout, scaling)
                if coded is not None:
                    self._coded[weight] = coded
                    self.nbytes += coded.nbytes
                    del plain[weight]
        wanted = list({tensor.name: tensor for tensor in plain.values()}.values())
        # bytes are made of halves, of one tensor at a time
        groups = [[tensor] for tensor in wanted] if kind == "i8" else [wanted] * bool(wanted)
        buffers: dict[str, Any] = {}
        for group in groups:
            loaded = load_onto(self._device, dtype, layout, archive, group, None, None, scaling=scaling)
            if kind == "i8":
                buffers[group[0].name] = self._narrowed(loaded[group[0].name])
                continue
            self.nbytes += sum({id(tensor.buffer): tensor.nbytes for tensor in loaded.values()}.values())
            buffers.update({name: tensor.buffer for name, tensor in loaded.items()})
        for weight, tensor in plain.items():
            self._buffers[weight] = buffers[tensor.name]

    def _narrowed(self, tensor: DeviceTensor) -> Any:
        """A buffer of the bytes that a tensor's halves hold."""
        count = math.prod(tensor.stored_shape)
        buffer = self._device.buffer(count, f"symbols of {tensor.name!r}")
        kernel = self._device.kernel("narrow", ("narrow.cl",), ())
        with translating(f"narrowing {tensor.name!r}"):
            kernel.set_args(tensor.buffer, buffer)
            self._device.cl.enqueue_nd_range_kernel(self._device.queue, kernel, (count // BLOCK,), None).wait()
        self.nbytes += count
        return buffer

    def _transformed(self, weight: Weight, constants: Mapping[str, Constant]) -> Any:
        """A buffer of what kernels/winograd.cl makes of a weight."""
        matrix = weight.matrix
        assert matrix is not None
        outputs, channels = constants[weight.constant].shape[:2]
        size = 4 * WINOGRAD_PLACES * blocks_of(outputs) * BLOCK * channels
        buffer = self._device.buffer(size, f"constant {weight.constant!r}, transformed")
        defines = ("TILES=8", "AT_ONCE=2", *("W_WIDE",) * (self.kind(matrix) == "f32"))
        kernel = self._device.kernel("transform_weights", ("infer.cl", "winograd.cl"), defines)
        with translating(f"transforming {weight.constant!r}"):
            kernel.set_args(self._buffers[matrix], buffer, np.int32(channels))
            self._device.cl.enqueue_nd_range_kernel(
                self._device.queue, kernel, (channels, blocks_of(outputs)), (1, 1)
            ).wait()
        self.nbytes += size
        return buffer

    def _packed(self, weight: Weight, constants: Mapping[str, Constant]) -> Array:
        """A constant as it lies on the device, from the host's memory."""
        if weight.packing in _LAYOUTS:
            array, packing = self._source.numbers(constants[weight.constant]), weight.packing
            if weight.length:
                array, packing = _by_outputs(array, weight.length), "rows"
            return _LAYOUTS[packing].pack(array).astype(np.float32 if self._kinds[weight] == "f32" else np.float16)
        filled = np.full(blocks_of(weight.length) * BLOCK, weight.packing == "scale", np.float32)
        if weight.constant:
            filled[: weight.length] = self._source.numbers(constants[weight.constant]).reshape(-1)
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


def _is_by_channel(weight: Weight, tensor: ArchivedTensor) -> bool:
    """Whether a tensor is quantized to symbols that halves hold, with a scale for all, or for each output channel."""
    quantizer = tensor.recipe.quantizer
    if not isinstance(quantizer, Uniform) or quantizer.bits > _EXACT_BITS:
        return False
    channels = 1 if weight.packing == "swapped" else 0
    others = (length for axis, length in enumerate(quantizer.block) if axis != channels)
    return not any(others) and quantizer.block[channels] in (0, 1)


def _by_outputs(array: Array, groups: int) -> Array:
    """A transposed convolution's weight (C, K / groups, ...) as (K, C / groups, ...)."""
    channels, outputs, *kernel = array.shape
    parted = array.reshape(groups, channels // groups, outputs, *kernel).swapaxes(1, 2)
    return np.ascontiguousarray(parted.reshape(groups * outputs, channels // groups, *kernel))

"""Constants on a device, packed as kernels want them, each once however many plans share it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from wcodec.archived import ArchivedTensor
from wcodec.infer.coded import Coded
from wcodec.infer.forms.launch import Packing, Weight
from wcodec.infer.forms.winograd import transformed_bytes
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

    def __init__(self, source: OnnxSource, device: Device, resident: Resident, storage: Storage) -> None:
        """`storage` is what large weights are stored as."""
        self._source, self._device, self._resident, self._storage = source, device, resident, storage
        self._buffers: dict[Weight, Any] = {}
        self._kinds: dict[Weight, str] = {}
        self._coded: dict[Weight, Coded] = {}
        self._values: dict[tuple[str, bool], Any] = {}

    @property
    def nbytes(self) -> int:
        """What all of them take on the device."""
        buffers: dict[int, int] = {
            id(buffer): buffer.size for buffer in (*self._buffers.values(), *self._values.values())
        }
        return sum(buffers.values()) + sum(coded.nbytes for coded in self._coded.values())

    def add(self, wanted: Iterable[Weight], constants: Mapping[str, Constant]) -> set[Weight]:
        """Bring constants to the device, and what they are made of; those that were not there yet.

        Tensors of the archive are decoded there.
        """
        made_of = [(weight, weight.matrix) if weight.packing == "winograd" else (weight,) for weight in wanted]
        every = dict.fromkeys(weight for group in made_of for weight in group if weight is not None)
        missing = [weight for weight in every if weight not in self._buffers and weight not in self._coded]
        together: dict[tuple[Packing, str, Scaling], dict[Weight, ArchivedTensor]] = {}
        for weight in missing:
            tensor = self._stored(weight, constants)
            if tensor is not None:
                kind = weight.packing, self.kind(weight, constants), self._scaling(weight, constants)
                together.setdefault(kind, {})[weight] = tensor
        for kind, tensors in together.items():
            self._load(*kind, tensors)
        for weight in sorted(missing, key=lambda weight: weight.packing == "winograd"):
            if weight.packing == "winograd":
                self._buffers[weight] = self._transformed(weight, constants)
            elif weight not in self._buffers and weight not in self._coded:
                array = self._packed(weight, constants)
                self._buffers[weight] = self._uploaded(array, weight.constant or weight.packing)
        return set(missing)

    def drop(self, weights: Iterable[Weight]) -> None:
        """Let go of constants, which no kernel needs any more."""
        for weight in weights:
            self._buffers.pop(weight, None)
            self._coded.pop(weight, None)

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

    def kind(self, weight: Weight, constants: Mapping[str, Constant]) -> str:
        """What a weight is stored as, or is to be: f16, f32 or i8."""
        if weight not in self._kinds:
            self._kinds[weight] = self._kind(weight, constants)
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

    def _kind(self, weight: Weight, constants: Mapping[str, Constant]) -> str:
        if weight.packing not in _LAYOUTS:
            return "f32"  # vectors, and what is transformed
        tensor = self._stored(weight, constants)
        if tensor is not None and self._resident == "int8" and self._has_bytes(weight, tensor):
            return "i8"
        if math.prod(constants[weight.constant].shape) > _SMALL:
            return self._storage
        return "f32" if tensor is None or isinstance(tensor.recipe.quantizer, Keep) else self._storage

    def _has_bytes(self, weight: Weight, tensor: ArchivedTensor) -> bool:
        quantizer = tensor.recipe.quantizer
        whole = isinstance(quantizer, Uniform) and quantizer.symmetric and quantizer.bits <= 8
        return whole and _is_by_channel(weight, tensor)

    def _scaling(self, weight: Weight, constants: Mapping[str, Constant]) -> Scaling:
        """What of a weight's scales is in its numbers."""
        tensor, kind = self._stored(weight, constants), self.kind(weight, constants)
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
                    del plain[weight]
        wanted = list({tensor.name: tensor for tensor in plain.values()}.values())
        # bytes are made of halves, of one tensor at a time
        groups = [[tensor] for tensor in wanted] if kind == "i8" else [wanted] * bool(wanted)
        for group in groups:
            loaded = load_onto(self._device, dtype, layout, archive, group, None, None, scaling=scaling)
            if kind == "i8":
                buffers = {name: self._narrowed(tensor) for name, tensor in loaded.items()}
            else:
                buffers = {name: tensor.buffer for name, tensor in loaded.items()}
            self._buffers.update((weight, buffers[t.name]) for weight, t in plain.items() if t.name in buffers)

    def _narrowed(self, tensor: DeviceTensor) -> Any:
        """A buffer of the bytes that a tensor's halves hold."""
        count = math.prod(tensor.stored_shape)
        buffer = self._device.buffer(count, f"symbols of {tensor.name!r}")
        kernel = self._device.kernel("narrow", ("narrow.cl",), ())
        with translating(f"narrowing {tensor.name!r}"):
            kernel.set_args(tensor.buffer, buffer)
            self._device.cl.enqueue_nd_range_kernel(self._device.queue, kernel, (count // BLOCK,), None).wait()
        return buffer

    def _transformed(self, weight: Weight, constants: Mapping[str, Constant]) -> Any:
        """A buffer of what kernels/winograd.cl makes of a weight."""
        matrix = weight.matrix
        assert matrix is not None
        outputs, channels = constants[weight.constant].shape[:2]
        size = transformed_bytes(weight, (outputs, channels))
        buffer = self._device.buffer(size, f"constant {weight.constant!r}, transformed")
        defines = (
            f"OUT={weight.length}",
            "TILES=8",
            "AT_ONCE=2",
            *("W_WIDE",) * (self.kind(matrix, constants) == "f32"),
        )
        kernel = self._device.kernel("transform_weights", ("infer.cl", "winograd.cl"), defines)
        with translating(f"transforming {weight.constant!r}"):
            kernel.set_args(self._buffers[matrix], buffer, np.int32(channels))
            self._device.cl.enqueue_nd_range_kernel(
                self._device.queue, kernel, (channels, blocks_of(outputs)), (1, 1)
            ).wait()
        return buffer

    def _packed(self, weight: Weight, constants: Mapping[str, Constant]) -> Array:
        """A constant as it lies on the device, from the host's memory."""
        if weight.packing in _LAYOUTS:
            array, packing = self._source.numbers(constants[weight.constant]), weight.packing
            if weight.length:
                array, packing = _by_outputs(array, weight.length), "rows"
            return (
                _LAYOUTS[packing]
                .pack(array)
                .astype(np.float32 if self.kind(weight, constants) == "f32" else np.float16)
            )
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

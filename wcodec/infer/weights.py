"""Constants on a device, packed as kernels want them, each once however many plans share it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from wcodec.infer.forms.launch import Packing, Weight
from wcodec.infer.graph import Constant, Stored
from wcodec.infer.lowering.source import OnnxSource
from wcodec.infer.places import BLOCK, Place, Storage, blocks_of
from wcodec.loader import load
from wcodec.model import Array
from wcodec.opencl.device import Device, translating
from wcodec.opencl.layout import PackedLayout

_LAYOUTS: dict[Packing, PackedLayout] = {"rows": PackedLayout(BLOCK), "swapped": PackedLayout(BLOCK, swapped=True)}

_DTYPES: dict[Storage, Any] = {"f16": np.float16, "f32": np.float32}

Key = tuple[str, Packing, int, Storage]


class Weights:
    """The constants of one model on one device."""

    def __init__(self, source: OnnxSource, device: Device) -> None:
        self._source, self._device = source, device
        self._buffers: dict[Key, Any] = {}
        self._values: dict[tuple[str, bool], Any] = {}
        self.nbytes = 0

    def add(self, wanted: Iterable[tuple[Weight, Storage]], constants: Mapping[str, Constant]) -> None:
        """Bring constants to the device that are not there yet; tensors of the archive are decoded there."""
        missing = {_key(*want): want[0] for want in wanted if _key(*want) not in self._buffers}
        groups: dict[tuple[Packing, Storage], dict[Key, str]] = {}
        for key, weight in missing.items():
            constant = constants.get(weight.constant)
            if isinstance(constant, Stored) and weight.packing in _LAYOUTS and weight.length <= 1:
                groups.setdefault((weight.packing, key[3]), {})[key] = constant.tensor
        for (packing, storage), names in groups.items():
            loaded = load(
                self._source.archive,
                self._device,
                names=set(names.values()),
                dtype="f32" if storage == "f32" else "f16",
                layout=_LAYOUTS[packing],
            )
            for key, name in names.items():
                self._keep(key, loaded[name].buffer, loaded[name].nbytes)
                del missing[key]
        for key, weight in missing.items():
            array = self._packed(weight, constants).astype(_DTYPES[key[3]], copy=False)
            self._keep(key, self._uploaded(np.ascontiguousarray(array), weight.constant or weight.packing), 0)

    def add_value(self, place: Place, constant: Constant) -> None:
        """Bring a constant to the device that kernels read as they do values."""
        if (place.memory, place.blocks) in self._values:
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

    def buffer(self, weight: Weight, storage: Storage) -> Any:
        return self._buffers[_key(weight, storage)]

    def value(self, place: Place) -> Any:
        return self._values[place.memory, place.blocks]

    def holds(self, place: Place) -> bool:
        return (place.memory, place.blocks) in self._values

    def _array(self, constant: Constant) -> Array:
        return self._source.read(constant.tensor) if isinstance(constant, Stored) else constant

    def _packed(self, weight: Weight, constants: Mapping[str, Constant]) -> Array:
        if weight.packing in _LAYOUTS:
            array = self._array(constants[weight.constant])
            if weight.length > 1:
                return _LAYOUTS["rows"].pack(_by_outputs(array, weight.length))
            return _LAYOUTS[weight.packing].pack(array)
        filled = np.full(blocks_of(weight.length) * BLOCK, weight.packing == "scale", np.float32)
        if weight.constant:
            filled[: weight.length] = self._array(constants[weight.constant]).reshape(-1)
        return filled

    def _uploaded(self, array: Array, name: str) -> Any:
        buffer = self._device.buffer(array.nbytes, f"constant {name!r}")
        with translating(f"uploading {name!r}"):
            self._device.cl.enqueue_copy(self._device.transfers, buffer, array)
        self.nbytes += array.nbytes
        return buffer

    def _keep(self, key: Key, buffer: Any, size: int) -> None:
        self._buffers[key] = buffer
        self.nbytes += size


def _key(weight: Weight, storage: Storage) -> Key:
    """What makes two weights the same; vectors are f32 whatever is stored."""
    return weight.constant, weight.packing, weight.length, storage if weight.packing in _LAYOUTS else "f32"


def _by_outputs(array: Array, groups: int) -> Array:
    """A transposed convolution's weight (C, K / groups, ...) as (K, C / groups, ...)."""
    channels, outputs, *kernel = array.shape
    parted = array.reshape(groups, channels // groups, outputs, *kernel).swapaxes(1, 2)
    return np.ascontiguousarray(parted.reshape(groups * outputs, channels // groups, *kernel))

"""The bytes of ONNX tensors: their dtypes, 4-bit packing, and files beside the model that hold some of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wcodec.errors import CorruptFileError, InputError, UnsupportedError, UsageError
from wcodec.formats.claims import count_elements
from wcodec.formats.onnx_wire import Payload, Weight
from wcodec.formats.source import FileSource
from wcodec.model import DTYPES, Array, Tensor

if TYPE_CHECKING:
    import onnx

STRING = 8

DTYPE_CODES: Mapping[int, str] = {
    1: "f32",
    2: "u8",
    3: "i8",
    4: "u16",
    5: "i16",
    6: "i32",
    7: "i64",
    9: "bool",
    10: "f16",
    11: "f64",
    12: "u32",
    13: "u64",
    14: "c64",
    15: "c128",
    16: "bf16",
    17: "f8_e4m3fn",
    18: "f8_e4m3fnuz",
    19: "f8_e5m2",
    20: "f8_e5m2fnuz",
    21: "u4",
    22: "i4",
    24: "f8_e8m0fnu",
}
"""The values of TensorProto.DataType and wcodec's names; `STRING` has none."""

_DATA_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")
_EXTERNAL = 1


def dtype_of(where: str, proto: onnx.TensorProto) -> str:
    """wcodec's dtype of a tensor; `UnsupportedError` if it has none."""
    if proto.data_type not in DTYPE_CODES:
        raise UnsupportedError(f"{where}: ONNX data type {proto.data_type} is not supported; convert the tensor first")
    return DTYPE_CODES[proto.data_type]


def text(where: str, value: object) -> str:
    """A string of a message; protobuf's reader gives bytes for what is not UTF-8."""
    if not isinstance(value, str):
        raise CorruptFileError(where, "has a string that is not UTF-8")
    return value


def clear_data(proto: onnx.TensorProto) -> None:
    """Make a stub of a tensor: its values, and where they were, are gone."""
    for field in (*_DATA_FIELDS, "external_data", "data_location"):
        proto.ClearField(field)


def is_external(proto: onnx.TensorProto) -> bool:
    return proto.data_location == _EXTERNAL


def stored_bytes(dtype: str, count: int) -> int:
    """Bytes that `count` elements take in ONNX, where two of 4 bits share a byte."""
    return (count + 1) // 2 if dtype in ("i4", "u4") else count * DTYPES[dtype].itemsize


def stored_tensor(name: str, where: str, proto: onnx.TensorProto, source: FileSource, payload: Payload) -> Tensor:
    """A tensor whose raw bytes lie in a file."""
    dtype = dtype_of(where, proto)
    shape = tuple(proto.dims)
    if payload.length != stored_bytes(dtype, count_elements(where, shape)):
        raise CorruptFileError(where, f"has {payload.length} bytes, which is not what its dtype and shape need")
    numpy_dtype = DTYPES[dtype]

    def read(start: int, stop: int) -> Array:
        data = source.read(payload.offset + start * numpy_dtype.itemsize, (stop - start) * numpy_dtype.itemsize)
        return np.frombuffer(data, numpy_dtype)

    def read_packed(start: int, stop: int) -> Array:
        first = start // 2
        data = source.read(payload.offset + first, (stop + 1) // 2 - first)
        return _unpack(np.frombuffer(data, np.uint8), dtype)[start - 2 * first : stop - 2 * first]

    return Tensor(name, dtype, shape, read_packed if dtype in ("i4", "u4") else read)


def held_tensor(name: str, where: str, proto: onnx.TensorProto) -> Tensor:
    """A tensor whose values are in its message."""
    from onnx import numpy_helper

    dtype = dtype_of(where, proto)
    shape = tuple(proto.dims)
    count = count_elements(where, shape)
    if not count:
        return Tensor.from_array(name, np.empty(shape, DTYPES[dtype]))
    try:
        array = numpy_helper.to_array(proto)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise CorruptFileError(where, f"its values do not fit its dtype and shape: {error}") from error
    if array.shape != shape or array.dtype != DTYPES[dtype]:
        raise CorruptFileError(where, "its values do not fit its dtype and shape")
    if dtype == "i4":
        array = _signed(array.view(np.uint8))
    return Tensor.from_array(name, array)


def weight_of(tensor: Tensor) -> Weight:
    """The bytes of a tensor as ONNX stores them."""
    return Weight(stored_bytes(tensor.dtype, tensor.size), _stored_blocks(tensor))


def _stored_blocks(tensor: Tensor) -> Iterator[Array]:
    for block in tensor.blocks():
        yield _pack(block) if tensor.dtype in ("i4", "u4") else block.view(np.uint8)


def _unpack(data: Array, dtype: str) -> Array:
    """Two elements of each byte, that in the low bits first."""
    halves = np.stack((data & 15, data >> 4), axis=1).reshape(-1)
    return _signed(halves) if dtype == "i4" else halves.astype(DTYPES[dtype])


def _signed(halves: Array) -> Array:
    """Bytes of which the low four bits are a two's complement number, as such numbers."""
    return (((halves & 15) ^ 8).astype(np.int8) - np.int8(8)).astype(DTYPES["i4"])


def _pack(block: Array) -> Array:
    halves = block.astype(np.int8).view(np.uint8) & 15
    if len(halves) % 2:
        halves = np.append(halves, np.uint8(0))
    return halves[::2] | halves[1::2] << 4


class ExternalFiles:
    """The files in a model's folder that its tensors point to, each opened once."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._sources: dict[str, FileSource] = {}

    def tensor(self, name: str, where: str, proto: onnx.TensorProto) -> Tensor:
        """The tensor that an external reference stands for, checked to lie within its file."""
        entries = {text(where, entry.key): text(where, entry.value) for entry in proto.external_data}
        source = self._open(where, entries.get("location", ""))
        expected = stored_bytes(dtype_of(where, proto), count_elements(where, proto.dims))
        offset = _number(where, entries.get("offset", "0"))
        length = _number(where, entries.get("length", str(expected)))
        if offset + length > source.size:
            raise CorruptFileError(where, f"ends at byte {offset + length} of {source.name}, which has {source.size}")
        return stored_tensor(name, where, proto, source, Payload(offset, length))

    def _open(self, where: str, location: str) -> FileSource:
        if location not in self._sources:
            try:
                source = FileSource(_inside(where, self._folder, location))
            except UsageError as error:
                raise CorruptFileError(where, f"points to a file that cannot be read: {error}") from error
            self._stack.callback(source.close)
            self._sources[location] = source
        return self._sources[location]


def _inside(where: str, folder: Path, location: str) -> str:
    """The path of a file named by the model, if it is in the model's folder, links followed."""
    parts = location.replace("\\", "/").split("/")
    if not all(parts) or ".." in parts or "\0" in location or ":" in parts[0]:
        raise CorruptFileError(where, f"points to {location!r:.200}, which is no path inside the model's folder")
    try:
        path, root = os.path.realpath(folder / location), os.path.realpath(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: {location!r:.200} cannot be found: {error}; check the model's folder") from error
    if os.path.commonpath((path, root)) != root:
        raise CorruptFileError(where, f"points to {location!r:.200}, a link that leads out of the model's folder")
    return path


def _number(where: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise CorruptFileError(where, f"has {text!r:.40} where a number of bytes is due")
    return int(text)
